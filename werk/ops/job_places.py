"""The places of jobs, page by page: which jobs wait in a queue, run, are scheduled, failed, ...

job_page.lua reads a page, and leaves out the jobs of other tasks. A million waiting jobs take no
more memory than a few, and each call of the script takes Redis a few milliseconds.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Sequence
from functools import cache, partial
from typing import NamedTuple, TypeVar

from werk.ops.numbers import number
from werk.ops.queues import ask
from werk.store import keys
from werk.store.connection import Link
from werk.store.scripts import Script, named, rest, source

AT_ONCE = 1000  # entries that Redis looks at in one call; twice as many for the jobs of a task
TAKEN = 2000  # jobs that workers may take from a list between two calls
BUSY = 0.09  # the part of the time that Redis may spend on a command that works on many jobs
SHORTEST_S = 0.002  # a pause that is shorter is not worth a sleep

NO_TASK = "?"  # the task of a job whose record names none
STATES = ("queued", "running", "scheduled", "deferred", "failed", "finished")
# For each place, named by RQ's word in its key, the states of its jobs. A job that werk has
# deferred because a worker does not know its task is in `scheduled`; a job that waits for others
# is in `deferred`.
PLACES = {
    "queue": ("queued",),
    "wip": ("running",),
    "scheduled": ("scheduled", "deferred"),
    "deferred": ("deferred",),
    "failed": ("failed",),
    "finished": ("finished",),
}
_KINDS = {"queue": "list", "failed": "last", "finished": "last", "canceled": "last"}

# What is read of each job in a place, besides its task.
_FIELDS = {
    "queue": ("enqueued_at", "created_at", "werk_enqueued"),
    "wip": ("started_at",),
    "scheduled": ("ended_at", "created_at", "started_at", "werk_unknown_since"),
}
_OTHERS = ("ended_at", "created_at")


T = TypeVar("T")


class Entry(NamedTuple):
    """A job in a place, as far as one page of the place shows it."""

    id: str
    state: str  # one of STATES; in any other place, the name of the place
    queue: str
    task: str  # for a job that plain RQ enqueued: the path of its function
    at: float  # Unix time since when it has been in this state; 0 if that is unknown
    due: float | None  # Unix time when a scheduled job is due, or a deferred one is tried again
    by_redis: bool = False  # `at` is by Redis's clock
    created: float = 0.0  # Unix time by the caller's clock, of a waiting job; 0 if that is unknown


class Page(NamedTuple):
    """Some jobs of a place."""

    place: str
    queue: str
    entries: Sequence[Entry]
    position: int  # the index in the queue's list at which the page begins
    is_list: bool  # the jobs were in the queue's list, and not in a hand or elsewhere

    @property
    def window(self) -> str:
        """Return the first and the last index in the list between which the jobs still are.

        Workers take jobs from the start of the list, so the indexes become smaller.
        """
        first, last = max(0, self.position - TAKEN), self.position + 3 * AT_ONCE
        return f"{first} {last}" if self.is_list else ""


class Pace:
    """Leaves Redis time for others: pauses in proportion to what the work so far has taken."""

    def __init__(self, link: Link) -> None:
        self._link = link
        self._busy_s = self._trip_s = 0.0  # since the last pause; of a round trip without work

    def spend(self, work: Callable[[], T]) -> T:
        """Do a piece of work, one round trip to Redis, and add the time that it takes there."""
        began = time.monotonic()
        try:
            return work()
        finally:
            self._busy_s += max(0.0, time.monotonic() - began - self._trip_s)

    def rest(self) -> None:
        """Pause until Redis was busy with the work for at most the part BUSY of the time."""
        seconds = self._busy_s * (1 / BUSY - 1)
        if seconds >= SHORTEST_S:
            time.sleep(seconds)
            began, self._busy_s = time.monotonic(), 0.0
            self._link.call("PING")
            self._trip_s = time.monotonic() - began


@cache
def _script() -> Script:
    """Return job_page.lua with names for its arguments."""
    names = ("KIND", "IS_WIP", "TASK", "START", "AT_ONCE", "POSITION", "MARK")
    prelude = f"local P = '{keys.KEY_PREFIX}'\n{named(names)}\n{rest('FIELDS', len(names) + 1)}"
    return Script(f"{prelude}\n{source('job_page')}")


def pages(
    link: Link,
    place: str,
    queue: str,
    pace: Pace,
    *,
    task: str = "",
    start: str = "",
    key: str = "",
    is_short: bool = False,
) -> Iterator[Page]:
    """Yield the jobs of a task in a place, whose ids begin with `start`; '' for all.

    A list is read from its end; with `key`, this list instead of the queue's. Jobs that are added
    meanwhile may be left out. With `is_short`, only the first AT_ONCE entries are read.
    """
    place_key, is_last, position, mark = key or keys.key(place, queue), 0, b"", b""
    task = "" if task == NO_TASK else task
    fields = ("werk_task", *_FIELDS.get(place, _OTHERS))
    at_once = AT_ONCE * 2 if task else AT_ONCE
    words: list[str | int] = [_KINDS.get(place, "first"), int(place == "wip"), task, start, at_once]
    before: set[str] = set()  # a page may repeat jobs of the page before
    while not is_last:
        pace.rest()
        read = partial(link.run, _script(), [place_key], [*words, position, mark, *fields])
        is_last, position, mark, *rows = pace.spend(read)
        found = {keys.text(row[-2]): row for row in rows}
        entries = [_entry(place, queue, own, found[own]) for own in found if own not in before]
        before = {*found} or before
        if entries:
            is_list = place == "queue" and not key
            yield Page(place, queue, entries, int(position) if is_list else 0, is_list)
        is_last = is_last or is_short


def hands(link: Link, queue: str) -> list[str]:
    """Return the lists in which workers have jobs of a queue in hand: see hands.lua."""
    workers = map(keys.text, ask(link, "ZRANGE", keys.key("werk", "hands"), 0, -1) or ())
    found = [keys.hand(worker, keys.key("queue", queue)) for worker in workers]
    sizes = link.calls([("LLEN", hand) for hand in found], skips_type=True)
    return [hand for hand, size in zip(found, sizes, strict=True) if size]


def _entry(place: str, queue: str, job_id: str, row: Sequence[bytes]) -> Entry:
    """Return the job in a row of job_page.lua's reply."""
    task, *values, _, score = map(keys.text, row)
    state, due, task = PLACES.get(place, (place,))[0], None, task or NO_TASK
    created = keys.moment(values[1], 0.0) if place != "wip" else 0.0
    if place == "queue":
        enqueued_at, _, stamp = values
        written, _, since = stamp.rpartition("|")  # as enqueued() in lib.lua
        if since and written == enqueued_at:
            return Entry(job_id, state, queue, task, number(since), None, True, created)
    if place == "scheduled":
        ended_at, _, started_at, unknown_since = values
        due = number(score)
        # As in job_view: a failed execution has an end after its start; a deferred one has none.
        if unknown_since and started_at > ended_at:
            at = number(unknown_since)
            return Entry(job_id, "deferred", queue, task, at, due, True, created)
    at = next((found for text in values[:2] if (found := keys.moment(text, 0.0))), 0.0)
    return Entry(job_id, state, queue, task, at, due, created=created)
