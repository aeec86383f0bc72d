"""What an operator does: look at failed jobs, retry, stop, cancel, pause, drain, repair, ping.

act.lua does it, each thing whole or not at all; this finds what it is to be done to. Jobs are read
in pages, so that a hundred thousand take no more memory than a few; nothing of them is unpickled.
"""

from __future__ import annotations

import json
import re
import time
from collections.abc import Iterable, Iterator, Sequence
from itertools import chain, islice
from typing import Any, NamedTuple

from werk.errors import ArgumentError, ConfigError, NoSuchJob, ResultTimeout, WerkError
from werk.ops import job_view as show
from werk.ops.snapshot import Snapshot
from werk.store import keys
from werk.store.connection import Link
from werk.store.scripts import script

PAGE = 200  # jobs in one round trip; each may bring a traceback
KEYS_AT_ONCE = 1000  # of a SCAN
ERROR_LENGTH = 200
SETTLE_S = 5.0  # a stock worker holds a job in no known place for some milliseconds
POLL_S = 0.02
PING = "werk.ping"
FIELDS = ("werk_task", "description", "status", "ended_at")  # what is asked of a failed job
WELL = ("fine", "gone")  # of a job that is not lost

_VARIES = re.compile(r"0x[0-9a-f]+|[0-9a-f]{8}-[0-9a-f]{4}-[0-9a-f-]{22,27}|\d+")


class Filters(NamedTuple):
    """Which of the failed jobs; None: all."""

    task: str | None = None
    error: str | None = None  # its last line; numbers in it do not count; 'Text*' for the beginning
    since: float | None = None  # Unix time
    queue: str | None = None

    def wants(self, job: Failure) -> bool:
        """Tell whether a job is meant."""
        return (
            self.task in (None, job.task)
            and (self.since is None or job.at >= self.since)
            and (self.error is None or _is_like(job.error, self.error))
        )


class Failure(NamedTuple):
    """A failed job."""

    id: str
    task: str  # of plain RQ's jobs, what is called
    queue: str
    at: float  # Unix time
    error: str  # the last line


def queues(link: Link) -> list[str]:
    """Return the names of all queues that RQ knows."""
    start = keys.key("queue", "")
    found = _ask(link, "SMEMBERS", keys.key("queues"))
    if found is None:  # of another type: those that workers serve
        return sorted(Snapshot.read(link).queues)
    lists = map(keys.text, found)
    return sorted(key.removeprefix(start) for key in lists if key.startswith(start))


def walk(link: Link, filters: Filters) -> Iterator[list[Failure]]:
    """Yield the failed jobs that are meant, page by page, the last to fail first.

    Whoever takes a page may retry its jobs before the next one is read.
    """
    for queue in _queues(link, filters):
        key, start = keys.key("failed", queue), 0
        while ids := _ask(link, "ZREVRANGE", key, start, start + PAGE - 1):
            found = _read(link, queue, [keys.text(job_id) for job_id in ids])
            jobs = [job for job in found if filters.wants(job)]
            yield sorted(jobs, key=lambda job: -job.at)  # Redis's order is to the second
            start += sum(score is not None for score in _ask(link, "ZMSCORE", key, *ids) or ids)


def groups(link: Link, filters: Filters) -> list[dict[str, Any]]:
    """Return the failed jobs that are meant by task and error, most first: how many, and when."""
    found: dict[tuple[str, str], dict[str, Any]] = {}
    for job in chain.from_iterable(walk(link, filters)):
        none = {"task": job.task, "error": job.error, "jobs": 0, "first": job.at, "last": job.at}
        own = found.setdefault((job.task, _VARIES.sub("#", job.error)), none)
        own["jobs"] += 1
        own["first"] = min(own["first"], job.at)
        if job.at > own["last"]:
            own["error"], own["last"] = job.error, job.at
    return sorted(found.values(), key=lambda group: (-group["jobs"], group["task"]))


def count(link: Link, filters: Filters) -> int:
    """Return how many failed jobs are meant."""
    if filters == Filters(queue=filters.queue):  # no need to read them
        names = _queues(link, filters)
        asked = [("ZCARD", keys.key("failed", name)) for name in names]
        return sum(size or 0 for size in link.calls(asked, skips_type=True))
    return sum(map(len, walk(link, filters)))


def retry_all(link: Link, filters: Filters) -> Iterator[int]:
    """Put back the failed jobs that are meant, but none that fails from now on; yield how many,
    page by page."""
    seconds, micros = link.call("TIME")
    begun = int(seconds) + int(micros) / 1e6
    for page in walk(link, filters):
        outcomes = act(link, "retry", [job.id for job in page if job.at <= begun])
        yield sum(what in ("retried", "limited") for _, what in outcomes)


def act(link: Link, what: str, names: Iterable[str]) -> Iterator[tuple[str, str]]:
    """Do to each of these what act.lua can, a page at a time; yield each with what became of it."""
    left = iter(names)
    while page := list(islice(left, PAGE)):
        words = [what, keys.timestamp(), *page]
        yield from zip(page, map(keys.text, link.run(script("act"), (), words)), strict=True)


def empty(link: Link, kind: str, queue: str) -> int:
    """Delete all jobs in a place of a queue: 'queue', 'failed', ..., RQ's word in its key.

    Return how many entries it had.
    """
    total = 0
    while found := sum(int(count) for _, count in act(link, "empty", [f"{kind}:{queue}"])):
        total += found
    return total


def compact(link: Link, queue: str) -> int:
    """Take the ids of jobs that are no more out of a queue; return how many."""
    starts = range(0, _ask(link, "LLEN", keys.key("queue", queue)) or 0, PAGE)
    pages = ([f"{start} {start + PAGE - 1} {queue}"] for start in reversed(starts))
    return sum(int(count) for page in pages for _, count in act(link, "compact", page))


def stop(link: Link, job_id: str, timeout_s: float) -> str:
    """Stop a running job; return the worker that ran it.

    Raises NoSuchJob, ResultTimeout, WerkError if it does not run.
    """
    key = keys.key("job", job_id)
    status, worker = map(keys.text, link.call("HMGET", key, "status", "worker_name"))
    if not status:
        raise NoSuchJob(f"no job {job_id}: never enqueued here, or expired")
    if status != "started" or not worker:
        raise WerkError(f"job {job_id} does not run, it is {status}")
    command = json.dumps({"command": "stop-job", "job_id": job_id})  # as rq/command.py
    if not link.call("PUBLISH", keys.key("pubsub", worker), command):
        raise WerkError(f"worker {worker}, which has job {job_id}, does not listen: werk status")
    deadline = time.monotonic() + timeout_s
    while link.call("HGET", key, "status") == b"started":
        if time.monotonic() > deadline:
            raise ResultTimeout(f"worker {worker} has not stopped it in {timeout_s:g} s")
        time.sleep(POLL_S)
    return worker


def wait_gone(link: Link, names: Iterable[str], timeout_s: float | None) -> None:
    """Wait until these workers have left. Raises ResultTimeout."""
    left, deadline = set(names), time.monotonic() + (timeout_s or 0)
    while left := left & {own.name for own in Snapshot.read(link).workers if own.is_live}:
        if timeout_s is not None and time.monotonic() > deadline:
            raise ResultTimeout(f"still at work after {timeout_s:g} s: {', '.join(sorted(left))}")
        time.sleep(0.1)


def repair(link: Link, *, dry_run: bool) -> list[tuple[str, str]]:
    """Put back jobs that are in no place or stay in `ready`, and drop workers that have exited.

    Looks twice, some seconds apart. Returns each job's id with the status that it was left in, and
    each worker's key with 'gone'. The one thing here that SCANs.
    """
    lost = [own for own, state in act(link, "probe", _suspects(link)) if state not in WELL]
    if lost:
        time.sleep(SETTLE_S)
    again = act(link, "probe" if dry_run else "restore", lost)
    found = [(own, state) for own, state in again if state not in WELL]
    return found + [(key, "gone") for key in _buried(link, dry_run)]


def ping(link: Link, names: Sequence[str], timeout_s: float) -> Iterator[tuple[str, str, float]]:
    """Send a job that does nothing through queues, or all there are. Yields each queue with '' when
    a worker has run it, 'paused', or what is wrong, and the seconds that it took."""
    from werk.client import enqueue as client  # nothing else here needs them
    from werk.client.options import Options

    snapshot = Snapshot.read(link)
    options = Options(front=True, timeout=10, ttl=int(timeout_s) + 1, result_ttl=60, failure_ttl=60)
    own, sent = client.find(PING, link), {}
    for name in dict.fromkeys(names or snapshot.queues):
        queue = snapshot.queues.get(name)
        if queue is None:
            yield name, "no queue is called so: werk status", 0.0
        elif queue.paused or snapshot.server.suspended:
            yield name, "paused", 0.0
        else:
            try:
                request = client.prepare(own, (), {}, options._replace(queue=name))
                sent[name] = client.send([request], link)[0].id
            except (ArgumentError, ConfigError) as error:  # of this queue: its name, or its type
                yield name, str(error), 0.0
    begun = time.monotonic()
    while sent:
        passed = time.monotonic() - begun
        jobs = show.jobs(link, [*sent.values()], show.LONGEST, FIELDS)
        for name, job in zip([*sent], jobs, strict=True):
            if passed >= timeout_s or job.text("status") not in ("queued", "started"):
                del sent[name]
                yield name, _verdict(link, name, job), passed
        time.sleep(POLL_S if sent else 0)


def _verdict(link: Link, queue: str, job: show.Job) -> str:
    """Return '' or what is wrong with a ping's job. One that nobody took is taken back."""
    state = job.text("status") or "gone"
    if state == "finished":
        return ""
    if state == "queued" and _ask(link, "LREM", keys.key("queue", queue), 1, job.id):
        link.call("UNLINK", keys.key("job", job.id))
        return "no answer"
    return (
        f"its worker cannot: {_error(job)}"
        if state == "failed"
        else f"no answer (the ping is {state})"
    )


def _ask(link: Link, *command: Any) -> Any:
    """Return the reply of a command; None if the key is of another type."""
    return link.calls([command], skips_type=True)[0]


# --- failed jobs


def _queues(link: Link, filters: Filters) -> list[str]:
    known = queues(link)
    if filters.queue is None:
        return known
    if filters.queue in known:
        return [filters.queue]
    raise WerkError(f"no queue is called {filters.queue}: werk status")


def _read(link: Link, queue: str, ids: Sequence[str]) -> Iterator[Failure]:
    """Read failed jobs; those that have expired are left out."""
    for job in show.jobs(link, ids, show.LONGEST, FIELDS):
        task = job.text("werk_task") or (job.text("description") or "").partition("(")[0] or "?"
        if job.record:
            yield Failure(job.id, task, queue, job.ended(), _error(job))


def _error(job: show.Job) -> str:
    line = (job.exception() or "").rpartition("\n")[2].strip()[:ERROR_LENGTH]
    return "".join(c if c.isprintable() else "?" for c in line) or "no reason was recorded"


def _is_like(error: str, wanted: str) -> bool:
    """Tell whether an error is the wanted one, or begins so, but for its numbers."""
    error, start = _VARIES.sub("#", error), _VARIES.sub("#", wanted.removesuffix("*"))
    return error.startswith(start) if wanted.endswith("*") else error == start


# --- jobs in no place


def _suspects(link: Link) -> Iterator[str]:
    """Yield the jobs that may be in no place: those that should wait and do not, and all that run,
    are due, or are ready to be enqueued, which are fewer."""
    waiting, start = _waiting(link), keys.key("job", "")
    how = ("MATCH", f"{start}*", "COUNT", KEYS_AT_ONCE, "TYPE", "hash")
    cursor: bytes | None = None
    while cursor != b"0":
        cursor, hashes = link.call("SCAN", cursor or 0, *how)
        ids = [keys.text(key).removeprefix(start) for key in hashes]
        replies = link.calls([("HGET", keys.key("job", job_id), "status") for job_id in ids])
        for job_id, status in zip(ids, replies, strict=True):
            is_missing = status == b"queued" and hash(job_id) not in waiting
            if is_missing or status in (b"started", b"scheduled", b"ready_to_enqueue"):
                yield job_id


def _waiting(link: Link) -> set[int]:
    """Return what is in the queues: numbers, because they take less memory than ids."""
    found: set[int] = set()
    for queue in queues(link):
        start = 0
        key = keys.key("queue", queue)
        while ids := _ask(link, "LRANGE", key, start, start + KEYS_AT_ONCE - 1):
            found.update(hash(keys.text(job_id)) for job_id in ids)
            start += len(ids)
    return found


def _buried(link: Link, dry_run: bool) -> list[str]:
    """Return the workers that are no more, and take them out of the sets of workers."""
    listed = [keys.text(key) for key in _ask(link, "SMEMBERS", keys.key("workers")) or ()]
    there = link.calls([("EXISTS", key) for key in listed])
    gone = [key for key, found in zip(listed, there, strict=True) if not found]
    return gone if dry_run else [key for key, what in act(link, "bury", gone) if what == "gone"]
