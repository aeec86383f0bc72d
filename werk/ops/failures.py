"""The failed jobs that match an operator's filters, by task and error."""

from __future__ import annotations

from itertools import chain
from typing import NamedTuple

from werk.ops import jobs
from werk.ops.jobs import Query
from werk.store.connection import Link
from werk.store.error_group import group_of

STATES = ("failed",)


class Group(NamedTuple):
    """The failed jobs of one task with the same error. Stopped jobs have groups of their own."""

    task: str
    error: str  # of the last one
    jobs: int
    first: float  # Unix time
    last: float
    stopped: bool


def groups(link: Link, query: Query) -> list[Group]:
    """Return the failed jobs that match, grouped by task and error, the largest group first.

    Raises ArgumentError.
    """
    found: dict[tuple[str, str, bool], Group] = {}
    for job in chain.from_iterable(jobs.walk(link, query._replace(states=STATES))):
        error = job.error or ""
        key = job.task, error if query.exact else group_of(error), job.stopped
        group = found.get(key) or Group(job.task, error, 0, job.at, job.at, job.stopped)
        found[key] = group._replace(
            error=error if job.at > group.last else group.error,
            jobs=group.jobs + 1,
            first=min(group.first, job.at),
            last=max(group.last, job.at),
        )
    return sorted(found.values(), key=lambda group: (-group.jobs, group.task))
