"""What the monkey does through Redis, past all gates: jobs that misbehave, and a drain."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

import redis

from chaos.caller import CallLogWriter, enqueue_by_rq
from chaos.kinds import KINDS
from werk.ops import actions
from werk.store.connection import link_over

if TYPE_CHECKING:
    from chaos.fleet import Fleet

MISBEHAVING = {  # fault -> kind of the job and the rest of its arguments
    "a task forks, the child returns": ("forking", ("returns",)),
    "a task forks, the child raises": ("forking", ("raises",)),
    "a task forks, the child exits": ("forking", ("exits",)),
    "a task leaks descriptors": ("leaking", ()),
    "a task floods its output": ("flooding", ()),
    "a task leaves a process behind": ("leaving", ()),
}


def enqueue(fleet: Fleet, token: str, arguments: tuple[str, ...]) -> None:
    """Enqueue a job that misbehaves. Like a caller, it writes down what it was told."""
    call_log = CallLogWriter(fleet.call_log)
    with call_log.trying(token, "high"), fleet.connection() as client:
        client.set_retry(redis.retry.Retry(redis.backoff.NoBackoff(), 0))
        function = f"chaos.tasks.{KINDS[token.rpartition('-')[2]].task}"
        enqueue_by_rq(client, "high", function, (token, *arguments), token)
        call_log.write("accepted", token)


def drain(fleet: Fleet, slots: Sequence[str]) -> list[str]:
    """Drain slots of workers as an operator does. Returns those that were asked to leave."""
    with fleet.connection() as client:
        replies = actions.act(link_over(client), "drain", slots)
        return [name for name, reply in replies if reply == "asked"]
