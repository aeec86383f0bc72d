"""What `bin/chaos` has to go by: the traces of executions, the callers' diary, and Redis."""

from __future__ import annotations

import re
from collections import Counter, defaultdict
from dataclasses import dataclass, field
from pathlib import Path

import redis

from chaos.caller import QUEUES

PLACES = {  # RQ's structures, as keys of a queue; an id is in one of them
    "queued": "rq:queue:{}",
    "intermediate": "rq:queue:{}:intermediate",
    "started": "rq:wip:{}",
    "scheduled": "rq:scheduled:{}",
    "deferred": "rq:deferred:{}",
    "finished": "rq:finished:{}",
    "failed": "rq:failed:{}",
    "canceled": "rq:canceled:{}",
}
WAITING = ("queued", "intermediate", "started", "scheduled", "deferred")
ENDED = ("finished", "failed", "stopped", "canceled")


@dataclass
class Execution:
    """One run of a job, from the lines that it wrote."""

    token: str
    id: str
    horse: int
    supervisor: int
    start: float
    last: float  # line
    end: float | None = None  # None: it did not come to its end

    def overlaps(self, other: Execution) -> bool:
        return self.start < other.last and other.start < self.last


@dataclass
class Job:
    """A job's hash in Redis, and where its id is found."""

    id: str
    token: str
    status: str
    places: list[str] = field(default_factory=list)


@dataclass
class Diary:
    """What the callers were told."""

    accepted: dict[str, str] = field(default_factory=dict)  # token -> job id
    results: set[str] = field(default_factory=set)
    failures: dict[str, str] = field(default_factory=dict)  # token -> what was said of it
    impossible: list[str] = field(default_factory=list)  # no answer that a caller should ever get
    unreachable: int = 0


def read_traces(file: Path) -> list[Execution]:
    """Return all executions, by start."""
    found: dict[str, Execution] = {}
    for line in file.read_text().splitlines():
        token, name, what, time, horse, supervisor = line.split()
        at = float(time)
        run = found.setdefault(
            name, Execution(token, name, int(horse), int(supervisor), start=at, last=at)
        )
        run.last = at
        if what == "end":
            run.end = at
    return sorted(found.values(), key=lambda run: run.start)


def read_diary(file: Path) -> Diary:
    """Return what the callers were told."""
    diary = Diary()
    for line in file.read_text().splitlines():
        what, token, more = line.split(" ", 2)
        if what == "accepted":
            diary.accepted[token] = more
        elif what == "result":
            diary.results.add(token)
        elif what == "failed":
            diary.failures[token] = more
        elif what == "unreachable":
            diary.unreachable += 1
        elif what != "try":
            diary.impossible.append(line)
    return diary


def read_jobs(connection: redis.Redis) -> list[Job]:
    """Return every job that Redis knows."""
    places = _places(connection)
    jobs = []
    for key in connection.scan_iter("rq:job:*", count=1000, _type="hash"):
        status, shown = connection.hmget(key, "status", "description")
        token = re.search(r"\bc\d+-\d+\b", (shown or b"").decode())
        job_id = key.decode().removeprefix("rq:job:")
        jobs.append(
            Job(job_id, token[0] if token else "?", (status or b"").decode(), places[job_id])
        )
    return jobs


def count_waiting(connection: redis.Redis) -> int:
    """Return how many jobs wait or run."""
    return sum(
        len(_members(connection, PLACES[name].format(queue)))
        for name in WAITING
        for queue in QUEUES
    )


def doubles(connection: redis.Redis) -> set[str]:
    """Return the ids that stand in the queues more than once, at this moment."""
    pipeline = connection.pipeline(transaction=True)
    for queue in QUEUES:
        pipeline.lrange(PLACES["queued"].format(queue), 0, -1)
    ids = Counter(item.decode() for items in pipeline.execute() for item in items)
    return {job_id for job_id, times in ids.items() if times > 1}


def _places(connection: redis.Redis) -> dict[str, list[str]]:
    found: dict[str, list[str]] = defaultdict(list)
    for name, pattern in PLACES.items():
        for queue in QUEUES:
            for member in _members(connection, pattern.format(queue)):
                found[member.decode().partition(":")[0]].append(name)
    return found


def _members(connection: redis.Redis, key: str) -> list[bytes]:
    if connection.type(key) == b"list":
        return connection.lrange(key, 0, -1)
    return connection.zrange(key, 0, -1)
