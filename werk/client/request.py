"""What is sent to enqueue a job: EnqueueRequest and JobFields, in the order of their fields.

enqueue.lua refers to the fields by their names, which are prepended to it in capitals.
"""

from __future__ import annotations

from functools import cache
from typing import NamedTuple

from werk.store.scripts import Script, joined, named, numbered, source


class EnqueueRequest(NamedTuple):
    """What the jobs of one request have in common: one task, enqueued with the same options."""

    prefix: str  # RQ's key prefix
    place: str  # back, front, at, in, at front, in front
    due: float  # at: Unix time; in: seconds from now on Redis's clock; else unused
    ttl: int  # seconds until a job that waits expires; 0: never
    created_at: str  # tells this request from another one with the same job ids
    queue: str
    timeout: int
    result_ttl: int
    failure_ttl: int
    task: str
    max_crashes: int
    retry: int  # how often a failed job is retried
    retry_delay: int  # seconds before the first retry
    hold_ms: int  # milliseconds that a hold lasts
    webhooks: str  # as RQ's JSON, or ''
    served: str  # "<task> <fingerprint>" as the caller has it; '': do not look who serves it
    require_worker: int  # 1: enqueue only if a live worker serves that


class JobFields(NamedTuple):
    """What each job of a request has of its own."""

    id: str
    data: bytes
    description: str
    hold: str  # a key that the job takes: until it expires, it keeps others with the same hold out
    pointer: str  # a key that names the last job with it: while that is active, others are kept out


_FIELDS = "\n".join(  # the names by which enqueue.lua refers to all of them
    (
        named(map(str.upper, EnqueueRequest._fields)),
        numbered(map(str.upper, JobFields._fields)),
        f"local REQUEST_FIELDS = {len(EnqueueRequest._fields)}",
        f"local JOB_FIELDS = {len(JobFields._fields)}",
    )
)


@cache
def script() -> Script:
    """Return the script that takes an EnqueueRequest, followed by the JobFields of each job."""
    return joined(_FIELDS, source("enqueue"))
