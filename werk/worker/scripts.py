"""The workers' Lua scripts, with names for their arguments: each order is written only once."""

from __future__ import annotations

from functools import cache

from werk.store import scripts
from werk.store.scripts import Script, named, numbered
from werk.worker.claim import CLAIMED
from werk.worker.outcome import Outcome

# The arguments of step.lua before the fields of the outcome: see Steps.step.
STEP_WORDS = tuple(
    "WORKER GENERATION RESENT EXECUTION NOW_TEXT NOW OWNED_UNTIL LISTED_UNTIL WANTS_JOB"
    " COUNTS".split()
)
TICK_WORDS = tuple(  # see Ticker.tick
    "SLOTS NOW_TEXT NOW LEASE WORKER_TTL MOVES_DUE AHEAD_S SERVED PAGES DEATH".split()
)

# The fields of a job that step.lua reads: first those that it returns, under the names of Claim,
# then those that it bases decisions on.
_FIELDS_OF_JOB = {"attempt": "werk_attempt", "task": "werk_task", "since": "werk_enqueued"}
_REPLIED = [name for name in CLAIMED if name not in ("callbacks", "job", "queue")]
_DECISIVE = (
    "success_callback_name failure_callback_name stopped_callback_name repeats_left rate_limit_key"
    " webhooks werk_v"
).split()


def _step_prelude() -> str:
    read = [_FIELDS_OF_JOB.get(name, name) for name in _REPLIED] + _DECISIVE
    fields = ", ".join(f"'{name}'" for name in read)
    return "\n".join(
        (
            named(STEP_WORDS),
            named((f"ENDED_{name.upper()}" for name in Outcome._fields), len(STEP_WORDS) + 1),
            numbered(name.upper() for name in (*_REPLIED, *_DECISIVE)),
            numbered(f"CLAIM_{name.upper()}" for name in (*CLAIMED, "end")),
            f"local function read_job(key) return redis.pcall('HMGET', key, {fields}) end",
        )
    )


_PRELUDES = {"step": _step_prelude(), "tick": named(TICK_WORDS)}


@cache
def script(name: str, server_version: tuple[int, ...] = ()) -> Script:
    """Return step, tick, back, fence, fence_generation, withdraw, take_failure or spare."""
    return scripts.script(name, server_version, prelude=_PRELUDES.get(name, ""))
