"""What is sent to enqueue jobs: an EnqueueRequest, the JOB_FIELDS of each job, then rare fields.

enqueue.lua refers to the fields by their names, which are prepended to it in capitals.
"""

from __future__ import annotations

from functools import cache
from typing import NamedTuple

from werk.duration import Duration
from werk.store.scripts import Script, joined, named, numbered, source


class EnqueueRequest(NamedTuple):
    """What the jobs of one request have in common: one task, enqueued with the same options."""

    prefix: str  # RQ's key prefix
    place: str  # back, front, at, in, at front, in front
    due: Duration  # at: Unix time; in: seconds from now on Redis's clock; else unused
    ttl: Duration  # seconds until a job that waits expires; 0: never; -n: n seconds after `due`
    created_at: str  # distinguishes this request from another with the same job ids
    queue: str
    timeout: Duration  # in seconds, like the two below
    result_ttl: Duration
    failure_ttl: Duration
    task: str
    max_crashes: int
    retry_delays: str  # the seconds before each retry, as JSON; '' if there is none
    hold_ms: int  # milliseconds that a hold lasts
    rare: int  # how many words at the end are fields that few jobs have, each with its value
    served: str  # "<task> <fingerprint>" as the caller knows it; '': do not check who serves it
    require_worker: int  # 1: enqueue only if a live worker serves it


# What each job of a request has of its own: attributes of PreparedJob.
JOB_FIELDS = ("id", "data", "description", "hold", "pointer", "meta")


_FIELDS = "\n".join(  # the names by which enqueue.lua refers to all of them
    (
        named(map(str.upper, EnqueueRequest._fields)),
        numbered(map(str.upper, JOB_FIELDS)),
        f"local REQUEST_FIELDS = {len(EnqueueRequest._fields)}",
        f"local JOB_FIELDS = {len(JOB_FIELDS)}",
    )
)


@cache
def script() -> Script:
    """Return the script that takes an EnqueueRequest, followed by the JOB_FIELDS of each job."""
    return joined(_FIELDS, source("enqueue"))
