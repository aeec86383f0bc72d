"""The jobs that match an operator's filters, page by page or counted by state and task."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import suppress
from functools import partial
from itertools import chain
from typing import NamedTuple

from werk import registry
from werk.errors import ArgumentError, ConfigError, UnknownTask
from werk.ops import job_places, job_record, job_view
from werk.ops.job_arguments import Arguments
from werk.ops.job_places import PLACES, Entry, Pace, Page
from werk.ops.job_record import LONGEST, Job
from werk.ops.numbers import number, whole
from werk.ops.queues import chosen_queues
from werk.printable import near
from werk.store import keys
from werk.store.connection import Link
from werk.store.error_group import is_like
from werk.store.failures import last_line
from werk.store.limits import UNKNOWN_S
from werk.tasks.catalog_page import read_pages

UNFINISHED = ("queued", "running", "scheduled", "deferred", "failed")
AT_ONCE = 200  # records in one round trip; each may bring a traceback
MOST_AWAITED = 20  # jobs for which a deferred job waits, in a row
_ENDED = ("failed", "finished")
_FIELDS = tuple(
    """
    werk_task description data status ended_at werk_attempt dependency_ids werk_deferred
    werk_unknown_since
""".split()
)


class Query(NamedTuple):
    """Selects jobs; None or (): all."""

    states: Sequence[str] = UNFINISHED  # of job_places.STATES
    queue: str | None = None
    task: str | None = None
    args: Sequence[tuple[str, str]] = ()  # names and values as the command line takes them
    error: str | None = None  # of a failed job: see error_group.is_like
    exact: bool = False  # all digits of `error` count
    since: float | None = None  # Unix time: in their state since then, or for a shorter time
    older: float | None = None  # Unix time: in their state since then, or for a longer time

    def is_in_time(self, at: float) -> bool:
        """Return whether a job that has been in its state since `at` matches; `at` 0: unknown."""
        is_new = self.since is None or at >= self.since
        return is_new and (self.older is None or 0 < at <= self.older)

    @property
    def needs_records(self) -> bool:
        """Whether the filters need more of each job than a page of a place shows."""
        is_timed = (self.since, self.older) != (None, None)  # see Row.at
        return bool(self.args or self.error or (is_timed and set(self.states) & {*_ENDED}))


class Row(NamedTuple):
    """A job."""

    id: str
    state: str  # one of job_places.STATES
    queue: str
    task: str  # for a job that plain RQ enqueued: the path of its function
    call: str  # with secrets masked
    at: float  # Unix time since when it has been in this state; 0 if that is unknown
    due: float | None  # Unix time when a scheduled job is due, or a deferred one is tried again
    attempt: int  # the number of its current or last execution; 0: it has had none
    why: str | None  # why it is deferred
    fails_at: float | None  # Unix time when it fails, if werk has deferred it
    error: str | None  # the last line of its traceback, if it failed
    by_redis: bool  # `at` is by Redis's clock
    created: float  # as in job_places.Entry
    stopped: bool  # by `werk stop`: RQ keeps it among the failed jobs


class Batch(NamedTuple):
    """The matching jobs of one page of a place."""

    page: Page
    jobs: Sequence[Row] | Sequence[Entry]


class Group(NamedTuple):
    """The jobs of one task in the same state."""

    state: str
    task: str
    jobs: int
    oldest: float | None  # Unix time since when the first of them has been in this state


def walk(link: Link, query: Query, pace: Pace | None = None) -> Iterator[list[Row]]:
    """Yield the jobs that match, at most AT_ONCE at a time, place by place.

    In a queue, and among failed or finished jobs, the newest comes first; of scheduled jobs, the
    one that is due first. Raises ArgumentError.
    """
    pace, arguments = pace or Pace(link), Arguments(link, query.task, query.args)
    for page in _pages(link, query, pace):
        for entries in _pieces(query, page):
            if rows := _rows(link, query, arguments, entries, pace):
                yield rows
            pace.rest()


def groups(link: Link, query: Query) -> list[Group]:
    """Return the jobs that match by state and task, the largest group of a state first.

    Raises ArgumentError.
    """
    found: dict[tuple[str, str], Group] = {}
    for job in each(link, query, Pace(link)):
        group = found.get((job.state, job.task)) or Group(job.state, job.task, 0, None)
        oldest = min(job.at or group.oldest or 0, group.oldest or job.at) or None
        found[job.state, job.task] = group._replace(jobs=group.jobs + 1, oldest=oldest)
    order = job_places.STATES.index
    return sorted(found.values(), key=lambda own: (order(own.state), -own.jobs, own.task))


def count(link: Link, query: Query) -> int:
    """Return how many jobs match. Raises ArgumentError."""
    return sum(1 for _ in each(link, query, Pace(link)))


def check_task(link: Link, task: str | None) -> None:
    """Raise UnknownTask if neither a table, nor the catalog, nor any job has this task."""
    if task is None:
        return
    known = {*read_pages(link).entries}
    with suppress(ConfigError):  # the table need not be on this host
        known |= {*registry.tasks()}
    if task not in known and not count(link, Query(job_places.STATES, task=task)):
        raise UnknownTask(f"unknown task {task!r}{near(task, known, '; see werk tasks')}")


def batches(link: Link, query: Query, pace: Pace) -> Iterator[Batch]:
    """Yield the jobs that match, with the place where they were found. Raises ArgumentError.

    The records of waiting jobs are read only if the query needs them.
    """
    arguments = Arguments(link, query.task, query.args)
    reads = query.needs_records or bool({*query.states} & {*_ENDED})
    for page in _pages(link, query, pace):
        for entries in _pieces(query, page):
            found = _rows(link, query, arguments, entries, pace) if reads else entries
            if found:
                yield Batch(page, found)
            pace.rest()


def each(link: Link, query: Query, pace: Pace) -> Iterator[Entry | Row]:
    """Return the jobs that match, each with its state and task. Raises ArgumentError."""
    if query.needs_records:
        return chain.from_iterable(walk(link, query, pace))
    pages = _pages(link, query, pace)
    entries = chain.from_iterable(page.entries for page in pages)
    return (entry for entry in entries if _is_found(query, entry))


def _pages(link: Link, query: Query, pace: Pace) -> Iterator[Page]:
    """Yield the pages of all places where the jobs of a query may be.

    The order is that in which jobs move: from a queue to `wip`, and from there to other places.
    """
    if query.exact and query.error is None:
        raise ArgumentError("--exact requires --error")
    queues = chosen_queues(link, query.queue)
    for place, states in PLACES.items():
        for queue in queues if set(states) & {*query.states} else ():
            read = partial(job_places.pages, link, place, queue, pace, task=query.task or "")
            yield from read()
            for hand in job_places.hands(link, queue) if place == "queue" else ():
                yield from read(key=hand)


def _pieces(query: Query, page: Page) -> Iterator[list[Entry]]:
    """Yield the entries of a page that may match, AT_ONCE at a time: see _is_found."""
    found = [entry for entry in page.entries if _is_found(query, entry)]
    for first in range(0, len(found), AT_ONCE):
        yield found[first : first + AT_ONCE]


def _is_found(query: Query, entry: Entry) -> bool:
    """Return whether an entry matches the filters that need no record."""
    is_it = entry.state in query.states and query.task in (None, entry.task)
    return is_it and (entry.state in _ENDED or query.is_in_time(entry.at))


def _rows(
    link: Link, query: Query, arguments: Arguments, entries: Sequence[Entry], pace: Pace
) -> list[Row]:
    results = int(any(entry.state in _ENDED for entry in entries))
    ids = [entry.id for entry in entries]
    read = partial(job_record.read, link, ids, LONGEST, _FIELDS, results)
    found, needed = [], {}
    for entry, job in zip(entries, pace.spend(read), strict=True):
        row = _row(entry, job)
        if job.record and _matches(query, row) and arguments.match(job, row.task):
            found.append(row)
            if row.state == "deferred" and row.fails_at is None:  # it waits for other jobs
                needed[row.id] = job.depends_on()[:MOST_AWAITED]
    whys = dict(zip(needed, job_view.awaited(link, [*needed.values()]), strict=True))
    return [row._replace(why=whys.get(row.id, row.why)) for row in found]


def _row(entry: Entry, job: Job) -> Row:
    ended, is_deferred = job.latest.ended(), entry.state == "deferred" and entry.due is not None
    has_ended = entry.state in _ENDED
    return Row(
        entry.id,
        entry.state,
        entry.queue,
        entry.task,
        job.call() or "",
        job.ended() if has_ended else entry.at,
        entry.due,
        whole(job.text(keys.ATTEMPT)),
        job.text("werk_deferred") if is_deferred else None,
        number(job.text("werk_unknown_since")) + UNKNOWN_S if is_deferred else None,
        last_line(job.exception() or "") if entry.state == "failed" else None,
        bool(ended) if has_ended else entry.by_redis,
        entry.created,
        job.text("status") == "stopped",
    )


def _matches(query: Query, row: Row) -> bool:
    if row.state in _ENDED and not query.is_in_time(row.at):
        return False
    error = query.error
    return error is None or (row.error is not None and is_like(row.error, error, query.exact))
