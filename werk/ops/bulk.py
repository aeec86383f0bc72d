"""Actions on all jobs that match a query: cancel, discard, retry. They run in short pieces.

act.lua takes a job out of a long list by its index, without a search, and leaves GONE_ENTRY there.
These entries are removed every few hundred jobs.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import suppress
from functools import partial
from itertools import chain

from werk.errors import ArgumentError, WerkError
from werk.ops import actions
from werk.ops.job_places import AT_ONCE, Entry, Pace, Page
from werk.ops.jobs import Batch, Query, Row, batches
from werk.ops.queues import ask, clock
from werk.printable import listed
from werk.store import keys
from werk.store.connection import Link
from werk.store.limits import GONE_ENTRY

# For each action, the states of the jobs that it can change.
STATES = {
    "cancel": ("queued", "scheduled", "deferred"),
    "discard": ("failed", "finished"),
    "retry": ("failed",),
}
# What act.lua replies for a job that it has changed.
DONE = ("cancelled", "deleted", "retried", "limited")
SKEW_S = 60.0  # by how much the clocks of callers may differ from Redis's
MOST_LEFT = 400  # a removal searches the list, and a worker drops the entries one by one


def act_on(
    link: Link,
    action: str,
    query: Query,
    progress: Callable[[int], object] = lambda _: None,
    *,
    begun: float | None = None,
) -> int:
    """Apply an action of act.lua to all jobs that match; return how many jobs were changed.

    `progress` is called with the number of changed jobs of each piece. A job that was enqueued, or
    has ended, after `begun` is left alone: Redis's time before the jobs were counted, by default
    that of the call. Raises ArgumentError.
    """
    if wrong := set(query.states) - {*STATES[action]}:
        possible = listed(STATES[action])
        raise ArgumentError(f"cannot {action} {listed(sorted(wrong))} jobs, only {possible} ones")
    begun, pace, done = clock(link) if begun is None else begun, Pace(link), 0
    left = _Left(link, pace)
    try:
        parts = map(partial(batches, link, pace=pace), _parts(query))
        for batch in chain.from_iterable(parts):
            own = _act(link, action, batch, begun, pace)
            left.add(batch.page, own)
            progress(own)
            done += own
    finally:
        with suppress(WerkError):  # workers and `compact` remove the entries as well
            left.sweep()
    return done


class _Left:
    """Removes the GONE_ENTRYs that act.lua leaves in the lists of queues."""

    def __init__(self, link: Link, pace: Pace) -> None:
        self._link, self._pace = link, pace
        self._queue, self._entries = "", 0
        self._first = self._end = 0  # indexes between which the entries are, or were

    def add(self, page: Page, entries: int) -> None:
        """Count the entries left in a page, and remove all if there are too many."""
        if not page.is_list or not entries:
            return
        if page.queue != self._queue:
            self.sweep()
        if not self._entries:
            self._end = page.position + 3 * AT_ONCE
        self._queue, self._first = page.queue, page.position
        self._entries += entries
        if self._entries > MOST_LEFT:
            self.sweep()

    def sweep(self) -> None:
        """Remove all entries, searching from the nearer end of the list."""
        if self._entries:
            self._pace.spend(self._remove)
            self._entries = 0

    def _remove(self) -> None:
        key, count = keys.key("queue", self._queue), -self._entries
        if 2 * self._first < (ask(self._link, "LLEN", key) or 0):
            # A worker may have dropped some: LREM with too high a count searches the whole list.
            found = ("LPOS", key, GONE_ENTRY, "COUNT", 0, "MAXLEN", self._end)
            count = len(ask(self._link, *found) or ())
        if count:
            ask(self._link, "LREM", key, count, GONE_ENTRY)


def _act(link: Link, action: str, batch: Batch, begun: float, pace: Pace) -> int:
    """Apply an action to the jobs of a batch; return how many jobs were changed."""
    old = [job.id for job in batch.jobs if not _is_new(job, begun)]
    do = partial(actions.act, link, action)
    outcomes = pace.spend(lambda: dict(do(old, batch.page.window)))
    for job_id in _missed(outcomes):
        pace.rest()  # each of these jobs takes a search of the list
        outcomes |= pace.spend(partial(lambda own: dict(do([own])), job_id))
    return sum(outcome in DONE for outcome in outcomes.values())


def _parts(query: Query) -> Iterator[Query]:
    """Yield a query in parts: first the jobs that may be in their queue a moment later."""
    for own in (("scheduled", "deferred"), ("queued", "failed", "finished")):
        if states := [state for state in query.states if state in own]:
            yield query._replace(states=states)


def _is_new(job: Row | Entry, begun: float) -> bool:
    """Return whether a job was enqueued, or has ended, after a moment, as far as can be told.

    A job that became due meanwhile, or has returned to its queue, was created earlier, so it is not
    new. Of a job that is not queued by werk, only the time of its creation by its caller's clock is
    known.
    """
    if job.state not in STATES["cancel"]:
        return job.by_redis and job.at > begun
    if job.state == "queued" and job.by_redis:
        return job.at > begun and job.created > begun - SKEW_S
    return job.created > begun


def _missed(outcomes: dict[str, str]) -> Sequence[str]:
    return [job_id for job_id, outcome in outcomes.items() if outcome == "missed"]
