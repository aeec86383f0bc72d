"""The names of the queues, and commands on keys that may be of another type."""

from __future__ import annotations

from typing import Any

from werk.errors import ArgumentError
from werk.ops.snapshot import Snapshot
from werk.printable import near
from werk.store import keys
from werk.store.connection import Link


def queue_names(link: Link) -> list[str]:
    """Return the names of all queues that RQ knows."""
    start = keys.key("queue", "")
    found = ask(link, "SMEMBERS", keys.key("queues"))
    if found is None:  # of another type: then the queues that workers serve
        return sorted(Snapshot.read(link).queues)
    lists = map(keys.text, found)
    return sorted(key.removeprefix(start) for key in lists if key.startswith(start))


def chosen_queues(link: Link, queue: str | None) -> list[str]:
    """Return a queue that RQ knows, or all of them. Raises ArgumentError."""
    known = queue_names(link)
    if queue is not None and queue not in known:
        raise ArgumentError(f"unknown queue {queue!r}{near(queue, known)}")
    return known if queue is None else [queue]


def ask(link: Link, *command: Any) -> Any:
    """Return the reply of a command; None if the key is of another type."""
    return link.calls([command], skips_type=True)[0]


def clock(link: Link) -> float:
    """Return Redis's time, in Unix seconds."""
    seconds, micros = link.call("TIME")
    return int(seconds) + int(micros) / 1e6
