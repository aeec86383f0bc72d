"""Actions on all jobs that match a query: cancel, discard, retry. In pieces, however many they are.

A job is taken out of a long list by its place, and not searched for: see act.lua. What is left of
the entry is removed every few hundred jobs.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import suppress
from functools import partial
from itertools import chain

from werk.errors import ArgumentError, WerkError
from werk.ops import actions
from werk.ops.job_places import Entry, Pace, Page
from werk.ops.jobs import Batch, Query, Row, batches
from werk.ops.queues import ask, clock
from werk.printable import listed
from werk.store import keys
from werk.store.connection import Link
from werk.store.limits import GONE_ENTRY

# For each action, the states of the jobs that it can be done to.
STATES = {
    "cancel": ("queued", "scheduled", "deferred"),
    "discard": ("failed", "finished"),
    "retry": ("failed",),
}
# What act.lua replies if it was done.
DONE = ("cancelled", "deleted", "retried", "limited")
SKEW_S = 60.0  # by how much the clocks of callers may differ from Redis's
MOST_LEFT = 400  # a removal takes a search, and a worker drops them one by one


def act_on(
    link: Link, action: str, query: Query, progress: Callable[[int], object] = lambda _: None
) -> int:
    """Do what act.lua calls `action` to all jobs that match; return to how many it was done.

    `progress` is called with the number of jobs of each piece. A job that was enqueued, or has
    ended, after the call is left alone. Raises ArgumentError.
    """
    if wrong := set(query.states) - {*STATES[action]}:
        possible = listed(STATES[action])
        raise ArgumentError(f"cannot {action} {listed(sorted(wrong))} jobs, only {possible} ones")
    begun, pace, done = clock(link), Pace(link), 0
    left = _Left(link, pace)
    try:
        parts = map(partial(batches, link, pace=pace), _parts(query))
        for batch in chain.from_iterable(parts):
            own = _act(link, action, batch, begun, pace)
            left.add(batch.page, own)
            progress(own)
            done += own
    finally:
        with suppress(WerkError):  # workers and a compaction remove them as well
            left.sweep()
    return done


class _Left:
    """Removes what act.lua leaves of the entries in the lists of queues."""

    def __init__(self, link: Link, pace: Pace) -> None:
        self._link, self._pace = link, pace
        self._queue, self._entries = "", 0

    def add(self, page: Page, entries: int) -> None:
        """Count entries of a page, and remove some if there are too many."""
        if not page.is_list:
            return
        if page.queue != self._queue:
            self.sweep()
        self._queue, self._entries = page.queue, self._entries + entries
        if self._entries > MOST_LEFT:
            self._remove(page.position)

    def sweep(self) -> None:
        """Remove all that are left."""
        if self._queue:
            self._remove(None)

    def _remove(self, position: int | None) -> None:
        """Remove them from the nearer end of the list, so that a part of it is searched."""
        key, count = keys.key("queue", self._queue), 0
        if position is not None:
            is_near_end = 2 * position > (ask(self._link, "LLEN", key) or 0)
            count = -self._entries if is_near_end else self._entries
        self._entries = 0
        self._pace.spend(lambda: ask(self._link, "LREM", key, count, GONE_ENTRY))


def _act(link: Link, action: str, batch: Batch, begun: float, pace: Pace) -> int:
    """Do it to the jobs of a batch; return to how many it was done."""
    old = [job.id for job in batch.jobs if not _is_new(job, begun)]
    do = partial(actions.act, link, action)
    outcomes = pace.spend(lambda: dict(do(old, batch.page.window)))
    for job_id in _missed(outcomes):
        pace.rest()  # each takes a search of the list
        outcomes |= pace.spend(partial(lambda own: dict(do([own])), job_id))
    return sum(outcome in DONE for outcome in outcomes.values())


def _parts(query: Query) -> Iterator[Query]:
    """Yield a query in parts: first the jobs that may be in their queue a moment later."""
    for own in (("scheduled", "deferred"), ("queued", "failed", "finished")):
        if states := [state for state in query.states if state in own]:
            yield query._replace(states=states)


def _is_new(job: Row | Entry, begun: float) -> bool:
    """Return whether a job was enqueued, or has ended, after a moment.

    A job that was due meanwhile, or has returned to its queue, was created before.
    """
    is_newer = job.by_redis and job.at > begun
    is_created = job.created > begun - SKEW_S
    return is_newer and (is_created if job.state == "queued" else job.state != "deferred")


def _missed(outcomes: dict[str, str]) -> Sequence[str]:
    return [job_id for job_id, outcome in outcomes.items() if outcome == "missed"]
