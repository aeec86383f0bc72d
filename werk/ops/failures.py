"""The failed jobs: those that match the operator's filters, page by page or by error."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from itertools import chain
from typing import NamedTuple

from werk.errors import ArgumentError
from werk.ops import job_record
from werk.ops.job_record import Job
from werk.ops.queues import ask, queue_names
from werk.printable import near, printable
from werk.store import keys
from werk.store.connection import Link
from werk.store.error_group import group_of

PAGE = 200  # jobs in one round trip; each may bring a traceback
FIELDS = ("werk_task", "description", "status", "ended_at")  # read of each failed job


class Failure(NamedTuple):
    """A failed job."""

    id: str
    task: str  # for a job that plain RQ enqueued: the path of its function
    queue: str
    at: float  # Unix time
    error: str  # the last line of its traceback
    stopped: bool  # by `werk stop`: RQ keeps it among the failed jobs


class Filters(NamedTuple):
    """Selects failed jobs; None: all."""

    task: str | None = None
    error: str | None = None  # the last line as group_of() has it; 'Text*' matches its beginning
    since: float | None = None  # Unix time
    queue: str | None = None
    exact: bool = False  # all digits of `error` count

    def matches(self, job: Failure) -> bool:
        """Return whether a job matches."""
        return (
            self.task in (None, job.task)
            and (self.since is None or job.at >= self.since)
            and (self.error is None or is_like(job.error, self.error, self.exact))
        )


class Group(NamedTuple):
    """The failed jobs of one task with the same error. Stopped jobs have groups of their own."""

    task: str
    error: str  # of the last one
    jobs: int
    first: float  # Unix time
    last: float
    stopped: bool


def walk(link: Link, filters: Filters) -> Iterator[list[Failure]]:
    """Yield the failed jobs that match, page by page, the last to fail first.

    The caller may retry the jobs of a page before it asks for the next one.
    """
    for queue in _queues(link, filters):
        key, start = keys.key("failed", queue), 0
        while ids := ask(link, "ZREVRANGE", key, start, start + PAGE - 1):
            found = _read(link, queue, [keys.text(job_id) for job_id in ids])
            jobs = [job for job in found if filters.matches(job)]
            yield sorted(jobs, key=lambda job: -job.at)  # Redis's order is to the second
            scores = ask(link, "ZMSCORE", key, *ids) or ids
            start += sum(score is not None for score in scores)


def groups(link: Link, filters: Filters) -> list[Group]:
    """Return the failed jobs that match, grouped by task and error, the largest group first."""
    found: dict[tuple[str, str, bool], Group] = {}
    for job in chain.from_iterable(walk(link, filters)):
        key = job.task, group_of(job.error), job.stopped
        group = found.get(key) or Group(job.task, job.error, 0, job.at, job.at, job.stopped)
        found[key] = group._replace(
            error=job.error if job.at > group.last else group.error,
            jobs=group.jobs + 1,
            first=min(group.first, job.at),
            last=max(group.last, job.at),
        )
    return sorted(found.values(), key=lambda group: (-group.jobs, group.task))


def count(link: Link, filters: Filters) -> int:
    """Return how many failed jobs match."""
    if filters == Filters(queue=filters.queue):  # no need to read them
        names = _queues(link, filters)
        commands = [("ZCARD", keys.key("failed", name)) for name in names]
        return sum(size or 0 for size in link.calls(commands, skips_type=True))
    return sum(map(len, walk(link, filters)))


def last_line(job: Job) -> str:
    """Return the last line of a job's traceback."""
    return printable(job_record.last_line(job.exception())) or "no reason was recorded"


def _queues(link: Link, filters: Filters) -> list[str]:
    if filters.exact and filters.error is None:
        raise ArgumentError("--exact requires --error")
    known = queue_names(link)
    if filters.queue is None:
        return known
    if filters.queue in known:
        return [filters.queue]
    raise ArgumentError(f"unknown queue {filters.queue!r}{near(filters.queue, known)}")


def _read(link: Link, queue: str, ids: Sequence[str]) -> Iterator[Failure]:
    """Read failed jobs; those that have expired are left out."""
    for job in job_record.read(link, ids, job_record.LONGEST, FIELDS):
        task = job.text("werk_task") or (job.text("description") or "").partition("(")[0] or "?"
        if job.record:
            has_stopped = job.text("status") == "stopped"
            yield Failure(job.id, task, queue, job.ended(), last_line(job), has_stopped)


def is_like(error: str, wanted: str, exact: bool) -> bool:
    """Return whether an error equals the wanted one, or begins with it if that ends with *."""
    start = wanted.removesuffix("*")
    if not exact:
        error, start = group_of(error), group_of(start)
    return error.startswith(start) if wanted.endswith("*") else error == start
