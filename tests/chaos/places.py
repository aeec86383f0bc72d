"""What Redis holds in the end: every job's hash, places and results, and every other key."""

from __future__ import annotations

import zlib
from base64 import b64decode
from collections import defaultdict
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from typing import Any

import redis

from chaos.kinds import QUEUES
from werk.store import payload

PLACES = {  # RQ's structures, as keys of a queue; a job's id is in exactly one of them
    "queue": "rq:queue:{}",
    "intermediate": "rq:queue:{}:intermediate",
    "wip": "rq:wip:{}",
    "scheduled": "rq:scheduled:{}",
    "deferred": "rq:deferred:{}",
    "ready": "rq:ready:{}",
    "finished": "rq:finished:{}",
    "failed": "rq:failed:{}",
    "canceled": "rq:canceled:{}",
}
HANDS = "rq:werk:hand:*"  # where an idle horse has a job that still waits, for a moment
OF_STATUS = {  # the place that a status names
    "queued": "queue",
    "created": "queue",
    "started": "wip",
    "scheduled": "scheduled",
    "deferred": "deferred",
    "ready_to_enqueue": "ready",
    "rate_limited": "rate_limited",
    "finished": "finished",
    "failed": "failed",
    "stopped": "failed",
    "canceled": "canceled",
}
OPEN = ("queue", "intermediate", "wip", "scheduled", "deferred", "ready")
ENDED = ("finished", "failed", "stopped", "canceled")
SUCCESSFUL, FAILED, RETRIED = "1", "2", "4"  # types of a result (rq/results.py)
AT_ONCE = 1000
EXPIRED = -2  # the TTL of a key that does not exist
FIELDS = ("status", "result_ttl", "failure_ttl")


@dataclass
class Result:
    """An entry of a job's results."""

    type: str
    text: str  # the value returned, or the last line of the traceback
    trace: str = ""


@dataclass
class Job:
    """A job as Redis has it."""

    id: str
    status: str
    places: set[str] = field(default_factory=set)
    results: list[Result] = field(default_factory=list)  # outcomes
    attempts: list[Result] = field(default_factory=list)  # failed, and the job ran again
    ttl: int = -1  # of the hash; -1: it never expires
    results_ttl: int = -2  # of the results; -2: there are none
    keep: tuple[int, int] = (0, 0)  # result_ttl and failure_ttl, as asked


@dataclass
class Contents:
    """Everything in Redis, at one moment."""

    jobs: dict[str, Job] = field(default_factory=dict)
    strays: dict[str, set[str]] = field(default_factory=dict)  # id without a hash -> places
    others: dict[str, int] = field(default_factory=dict)  # key -> TTL
    at: float = 0.0  # monotonic time of the reading


def read_contents(connection: redis.Redis, at: float) -> Contents:
    """Return all that is in Redis. Nothing runs any more."""
    found = Contents(at=at)
    keys = sorted(key.decode() for key in connection.scan_iter("*", count=AT_ONCE))
    ids = [key.removeprefix("rq:job:") for key in keys if _is_job(key)]
    for chunk in _chunks(ids):
        found.jobs |= {job.id: job for job in _read_jobs(connection, chunk)}
    for job_id, places in _places(connection).items():
        if job_id in found.jobs:
            found.jobs[job_id].places = places
        else:
            found.strays[job_id] = places
    known = {pattern.format(queue) for pattern in PLACES.values() for queue in QUEUES}
    rest = [key for key in keys if not _is_job(key) and key not in known]
    rest = [key for key in rest if key.removeprefix("rq:results:") not in found.jobs]
    for chunk in _chunks(rest):
        ttls = zip(chunk, _all(connection, "ttl", chunk), strict=True)
        found.others |= {key: ttl for key, ttl in ttls if ttl != EXPIRED}
    return found


def count_open(connection: redis.Redis) -> int:
    """Return how many jobs wait or run, at one moment: one by one, a job could move past."""
    with connection.pipeline(transaction=True) as reading:
        for name in OPEN:
            for queue in QUEUES:
                _members(reading, PLACES[name].format(queue))
        reading.keys(HANDS)
        return sum(map(len, reading.execute()))


def _is_job(key: str) -> bool:
    return key.startswith("rq:job:") and ":" not in key.removeprefix("rq:job:")


def _read_jobs(connection: redis.Redis, ids: list[str]) -> Iterator[Job]:
    pipeline = connection.pipeline(transaction=False)
    for job_id in ids:
        pipeline.hmget(f"rq:job:{job_id}", *FIELDS)
        pipeline.ttl(f"rq:job:{job_id}")
        pipeline.xrange(f"rq:results:{job_id}")
        pipeline.ttl(f"rq:results:{job_id}")
    replies = pipeline.execute()
    for job_id, (facts, ttl, results, results_ttl) in zip(ids, _fours(replies), strict=True):
        status, result_ttl, failure_ttl = (fact and fact.decode() for fact in facts)
        keep = (int(result_ttl or 0), int(failure_ttl or 0))
        entries = [_result(entry) for _, entry in results]
        outcomes = [own for own in entries if own.type != RETRIED]
        attempts = [own for own in entries if own.type == RETRIED]
        yield Job(job_id, status or "", set(), outcomes, attempts, ttl, results_ttl, keep)


def _result(entry: dict[bytes, bytes]) -> Result:
    kind = entry[b"type"].decode()
    if kind == SUCCESSFUL:
        value = entry.get(b"return_value")
        return Result(kind, str(payload.loads(b64decode(value))) if value else "")
    packed = entry.get(b"exc_string", b"")
    trace = zlib.decompress(b64decode(packed)).decode() if packed else ""
    return Result(kind, trace.strip().rpartition("\n")[2], trace)


def _places(connection: redis.Redis) -> dict[str, set[str]]:
    found: dict[str, set[str]] = defaultdict(set)
    for name, pattern in PLACES.items():
        for queue in QUEUES:
            for member in _members(connection, pattern.format(queue)):
                found[member.decode().partition(":")[0]].add(name)
    for key in connection.scan_iter(HANDS, count=AT_ONCE):
        for member in connection.lrange(key, 0, -1):
            found[member.decode()].add("hand")
    for key in connection.scan_iter("rq:rl:*:rate_limited", count=AT_ONCE):
        for member in _members(connection, key.decode()):
            found[member.decode()].add("rate_limited")
    return found


def _members(connection: redis.Redis, key: str) -> list[bytes]:
    if key.startswith("rq:queue:"):  # a queue or its intermediate: lists
        return connection.lrange(key, 0, -1)
    return connection.zrange(key, 0, -1)


def _all(connection: redis.Redis, command: str, keys: list[str]) -> list[Any]:
    pipeline = connection.pipeline(transaction=False)
    for key in keys:
        getattr(pipeline, command)(key)
    return pipeline.execute()


def _chunks(items: list[str]) -> Iterator[list[str]]:
    yield from (items[start : start + AT_ONCE] for start in range(0, len(items), AT_ONCE))


def _fours(items: list[Any]) -> Iterable[tuple[Any, ...]]:
    return zip(*[iter(items)] * 4, strict=True)
