"""How many jobs have failed, by task and error, in the last hours.

Horses count final failures by the hour (failures.lua). Failed jobs that were retried or discarded
later, or that have expired, are still counted. Plain RQ workers count nothing.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import NamedTuple

from werk.ops.numbers import number as moment
from werk.ops.numbers import whole
from werk.printable import printable
from werk.store import failures, keys
from werk.store.connection import Link

LARGEST = 1024 * 1024  # bytes of an hour: the counts of werk's workers have at most 128 KiB
HOURS_AT_ONCE = 24


class Group(NamedTuple):
    """The failures of one task with the same error."""

    task: str  # '' for the errors that an hour had no room for
    error: str  # with # for each number
    jobs: int  # that failed
    last: float  # Unix time
    job: str  # the id of the last one


def read(link: Link, hours: int) -> list[Group]:
    """Return the failures of this hour and the `hours` before it, the largest group first."""
    (now, _) = link.call("TIME")
    this = int(now) // failures.HOUR_S
    found: dict[bytes, Group] = {}
    for first in range(this - hours, this + 1, HOURS_AT_ONCE):
        wanted = range(first, min(first + HOURS_AT_ONCE, this + 1))
        for field, group in _groups(link, [failures.key(hour) for hour in wanted]):
            known = found.get(field, group._replace(jobs=0))
            last = max(known, group, key=lambda own: own.last)
            found[field] = last._replace(jobs=known.jobs + group.jobs)
    return sorted(found.values(), key=lambda group: (-group.jobs, group.task, group.error))


def _groups(link: Link, hours: Sequence[str]) -> Iterator[tuple[bytes, Group]]:
    sizes = link.calls([("MEMORY", "USAGE", key) for key in hours], skips_type=True)
    small = [key for key, size in zip(hours, sizes, strict=True) if size and size <= LARGEST]
    for found in link.calls([("HGETALL", key) for key in small], skips_type=True):
        for field, value in keys.pairs(found or ()).items():
            count, last, job_id = (*keys.text(value).split(" ", 2), "", "")[:3]
            task, _, error = keys.text(field).partition("|")
            if number := whole(count):
                words = printable(task), printable(error), number
                yield field, Group(*words, moment(last), printable(job_id))
