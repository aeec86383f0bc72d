"""Test an application without Redis: record what it enqueues, then run it here.

with werk.testing.recorded() as jobs:
    order(42)  # calls werk.enqueue("receipt", 42)
    assert jobs.of("receipt")[0].args == (42,)
    jobs.run()
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Set
from contextlib import AbstractContextManager, contextmanager
from contextvars import ContextVar

from werk import registry
from werk.client import links
from werk.errors import UnknownTask, WerkError
from werk.store.connection import Link, link_over
from werk.testing.job import RecordedJob
from werk.testing.stand_in import StandIn

__all__ = ["RecordedJob", "RecordedJobs", "recorded"]

MOST_RUN = 10_000  # jobs in one run: with more, a task probably enqueues itself endlessly


def recorded() -> AbstractContextManager[RecordedJobs]:
    """Record every enqueue of this thread or asyncio task in place of sending it to Redis.

    Returns a context manager; its value is the list of jobs. Arguments and options are checked as
    without it. Contexts may be nested: the innermost one records.
    """
    return entered(RecordedJobs())


class RecordedJobs(list[RecordedJob]):
    """The recorded jobs in the order of their enqueues. Duplicates are not among them."""

    def __init__(self) -> None:
        super().__init__()
        self.link = StandIn(self)
        self.is_off: Callable[[], bool] = bool  # if true, an enqueue is sent to Redis

    def of(self, task: str) -> list[RecordedJob]:
        """Return the jobs of a task. Raises UnknownTask for a name that no table has."""
        if task not in registry.tasks() and task not in registry.BUILT_IN:
            raise UnknownTask(registry.unknown(task, has_workers=False))
        return [job for job in self if job.task == task]

    def run(self) -> list[RecordedJob]:
        """Run the jobs that wait, those that they enqueue, and retries. Return them in order.

        Jobs run in the order of the queue, then those with a delay, as if the time had come. A job
        that a running task enqueues with a delay waits for the next run(). A failing job does not
        stop the others; its `Handle.result()` raises JobFailed. Raises WerkError after 10,000 jobs.
        """
        known = frozenset(self)
        ran: list[RecordedJob] = []
        with entered(self):
            while job := self._next(known):
                if len(ran) == MOST_RUN:
                    text = f"jobs.run() has run {MOST_RUN:,} jobs, and more wait"
                    raise WerkError(f"{text}; does the task {job.task} enqueue itself?")
                ran.append(job)
                job.run()
        return ran

    def _next(self, known: Set[RecordedJob]) -> RecordedJob | None:
        waiting = [
            (job.status == "scheduled", job.due or 0.0, -at if job.options.front else at, job)
            for at, job in enumerate(self)
            if job.status in ("queued", "scheduled") and (job.due is None or job in known)
        ]
        return min(waiting)[-1] if waiting else None


_recording: ContextVar[RecordedJobs | None] = ContextVar("werk_recording", default=None)
_elsewhere: RecordedJobs | None = None  # what records where no context does


@contextmanager
def entered(jobs: RecordedJobs) -> Iterator[RecordedJobs]:
    """Add what is enqueued in this context to these jobs."""
    before = _recording.get()
    _recording.set(jobs)
    try:
        yield jobs
    finally:
        _recording.set(before)  # not reset(): an async fixture may end in another context


@contextmanager
def entered_everywhere(jobs: RecordedJobs) -> Iterator[RecordedJobs]:
    """Add what is enqueued in this context to these jobs, and in all that have none of their own.

    IsolatedAsyncioTestCase runs its tests in a context that is older than their fixtures.
    """
    global _elsewhere
    before, _elsewhere = _elsewhere, jobs
    try:
        with entered(jobs):
            yield jobs
    finally:
        _elsewhere = before


def _stand_in(connection: links.Connection | None) -> Link | None:
    jobs = _recording.get()
    if jobs is None:
        jobs = _elsewhere
    if jobs is None or jobs.is_off():
        return None
    if connection is not None and not isinstance(connection, Link):
        link_over(connection)  # raises ConfigError for a client that cannot be used
    return jobs.link


links.stand_in = _stand_in
