"""What an operator does: look at failed jobs, retry, stop, cancel, pause, drain, repair, ping.

act.lua does it, each thing whole or not at all; this finds what it is to be done to. Jobs are read
in pages, so that a hundred thousand take no more memory than a few; nothing of them is unpickled.
"""

from __future__ import annotations

import re
import time
from collections.abc import Iterable, Iterator, Sequence
from itertools import chain, islice
from typing import Any, NamedTuple

from werk import wire
from werk.errors import ArgumentError, NoSuchJob, ResultTimeout, Unreadable, WerkError
from werk.link import Link
from werk.scripts import script
from werk.status import Snapshot, moment

PAGE = 200  # jobs in one round trip; each may bring a traceback
KEYS_AT_ONCE = 1000  # of a SCAN
MOST_GROUPS = 1000  # errors that are told apart
ERROR_LENGTH = 200
SETTLE_S = 5.0  # a stock worker holds a job in no known place for some milliseconds
POLL_S = 0.02
PING = "werk.ping"

_JOB_ID = re.compile(r"[A-Za-z0-9_-]+")  # rq/job.py
_VARIES = re.compile(r"0x[0-9a-f]+|[0-9a-f]{8}-[0-9a-f]{4}-[0-9a-f-]{22,27}|\d+")


class Filters(NamedTuple):
    """Which of the failed jobs; None: all."""

    task: str | None = None
    error: str | None = None  # its last line; numbers in it do not count; 'Text*' for the beginning
    since: float | None = None  # Unix time
    queue: str | None = None

    def wants(self, job: Failure) -> bool:
        """Tell whether a job is meant."""
        if self.task is not None and job.task != self.task:
            return False
        if self.since is not None and job.at < self.since:
            return False
        return self.error is None or _is_like(job.error, self.error)


class Failure(NamedTuple):
    """A failed job."""

    id: str
    task: str  # of plain RQ's jobs, what is called
    queue: str
    at: float  # Unix time
    error: str  # the last line


class Group(NamedTuple):
    """Failed jobs of one task with one error."""

    task: str
    error: str  # of the last of them
    jobs: int
    first: float
    last: float


def queues(link: Link) -> list[str]:
    """Return the names of all queues that RQ knows."""
    start = wire.key("queue", "")
    keys = map(_text, link.call("SMEMBERS", wire.key("queues")))
    return sorted(key.removeprefix(start) for key in keys if key.startswith(start))


def walk(link: Link, filters: Filters) -> Iterator[list[Failure]]:
    """Yield the failed jobs that are meant, page by page, the last to fail first.

    Whoever takes a page may retry its jobs before the next one is read.
    """
    for queue in _queues(link, filters):
        key, start = wire.key("failed", queue), 0
        while ids := link.call("ZREVRANGE", key, start, start + PAGE - 1):
            jobs = [job for job in _read(link, queue, ids) if filters.wants(job)]
            yield sorted(jobs, key=lambda job: -job.at)  # Redis's order is to the second
            start += sum(score is not None for score in link.call("ZMSCORE", key, *ids))


def groups(link: Link, filters: Filters) -> tuple[list[Group], int]:
    """Return the failed jobs that are meant by task and error, most first, and how many are in no
    group because there are too many groups."""
    found: dict[tuple[str, str], Group] = {}
    others = 0
    for job in chain.from_iterable(walk(link, filters)):
        name = job.task, _VARIES.sub("#", job.error)
        if name not in found and len(found) >= MOST_GROUPS:
            others += 1
            continue
        own = found.get(name) or Group(job.task, job.error, 0, job.at, 0.0)
        latest = job.error if job.at > own.last else own.error
        first, last = min(own.first, job.at), max(own.last, job.at)
        found[name] = own._replace(error=latest, jobs=own.jobs + 1, first=first, last=last)
    return sorted(found.values(), key=lambda group: (-group.jobs, group.task)), others


def count(link: Link, filters: Filters) -> int:
    """Return how many failed jobs are meant."""
    if filters == Filters(queue=filters.queue):  # no need to read them
        names = _queues(link, filters)
        return sum(link.calls([("ZCARD", wire.key("failed", name)) for name in names]))
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
    """Do to each of these what act.lua can; yield each with what became of it, an outcome of there.

    retry, cancel and delete take jobs: 'gone', or its status, is one that it does not fit. pause
    and resume take queues. drain takes workers; doing it again does not hurry them.
    """
    for name, outcome, *rest in _each(link, what, dict.fromkeys(names)):
        yield name, rest[0] if outcome == "is" else outcome


def empty(link: Link, kind: str, queue: str) -> int:
    """Delete all jobs in a place of a queue: 'queue', 'failed', ..., RQ's word in its key.

    Return how many entries it had.
    """
    total = 0
    while found := int(_act(link, "empty", [f"{kind}:{queue}"])[0][1]):
        total += found
    return total


def compact(link: Link, queue: str) -> None:
    """Take the ids of jobs that are no more out of a queue."""
    start, found = 0, 1
    while found:
        left, found = map(int, _act(link, "compact", [f"{start} {queue}"])[0][1:])
        start += left


def stop(link: Link, job_id: str, timeout_s: float) -> str:
    """Stop a running job; return the worker that ran it.

    Raises NoSuchJob, ResultTimeout, WerkError if it does not run.
    """
    if not _JOB_ID.fullmatch(job_id):
        raise ArgumentError(f"{job_id!r} is no id of a job")
    outcome, *rest = _act(link, "stop", [job_id])[0]
    if outcome == "gone":
        raise NoSuchJob(f"no job {job_id}: never enqueued here, or expired")
    if outcome == "is":
        raise WerkError(f"job {job_id} does not run, it is {rest[0]}")
    worker = rest[0]
    if outcome == "deaf":
        raise WerkError(f"worker {worker}, which has job {job_id}, does not listen: werk status")
    key, deadline = wire.key("job", job_id), time.monotonic() + timeout_s
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
    """Put back jobs that are in no place, and workers out of the sets that are no more.

    Looks twice, some seconds apart. Returns each job's id with the status that it was left in, and
    each worker's key with 'gone'. The one thing here that SCANs.
    """
    lost = [own for own, outcome, _ in _each(link, "probe", _suspects(link)) if outcome == "lost"]
    if lost:
        time.sleep(SETTLE_S)
    again = _each(link, "probe" if dry_run else "restore", lost)
    found = [(own, status) for own, outcome, status in again if outcome in ("lost", "restored")]
    return found + [(key, "gone") for key in _buried(link, dry_run)]


def ping(link: Link, names: Sequence[str], timeout_s: float) -> Iterator[tuple[str, str, float]]:
    """Send a job that does nothing through queues, or all there are. Yields each queue with '' when
    a worker has run it, 'paused', or what is wrong, and the seconds that it took."""
    from werk import client  # nothing else here needs it

    snapshot = Snapshot.read(link)
    options = client.Options(
        front=True, timeout=10, ttl=int(timeout_s) + 1, result_ttl=60, failure_ttl=60
    )
    jobs, own = {}, client.find(PING, link)
    for name in dict.fromkeys(names or snapshot.queues):
        queue = snapshot.queues.get(name)
        if queue is None:
            yield name, "no queue is called so: werk status", 0.0
        elif queue.paused or snapshot.suspended:
            yield name, "paused", 0.0
        else:
            request = client.prepare(own, (), {}, options._replace(queue=name))
            jobs[name] = client.send([request], link)[0].id
    yield from _answers(link, jobs, timeout_s)


# --- failed jobs


def _queues(link: Link, filters: Filters) -> list[str]:
    if filters.queue is None:
        return queues(link)
    if not link.call("SISMEMBER", wire.key("queues"), wire.key("queue", filters.queue)):
        raise WerkError(f"no queue is called {filters.queue}: werk status")
    return [filters.queue]


def _read(link: Link, queue: str, ids: Sequence[bytes]) -> Iterator[Failure]:
    """Read failed jobs; those that have expired are left out."""
    commands: list[tuple[Any, ...]] = []
    for job_id in map(_text, ids):
        commands.append(("HMGET", wire.key("job", job_id), "werk_task", "description", "ended_at"))
        commands.append(("XREVRANGE", wire.key("results", job_id), "+", "-", "COUNT", 1))
    replies = link.calls(commands)
    for raw_id, facts, entries in zip(ids, replies[::2], replies[1::2], strict=True):
        if any(facts):
            yield _failure(_text(raw_id), queue, facts, entries)


def _failure(job_id: str, queue: str, facts: Sequence[Any], entries: Sequence[Any]) -> Failure:
    task, description, ended_at = (_text(fact or b"") for fact in facts)
    task = task or description.partition("(")[0] or "?"
    unknown = "no reason was recorded"
    if not entries:
        return Failure(job_id, task, queue, moment(ended_at, 0.0), unknown)
    entry_id, fields = entries[0]
    try:
        text = wire.read_exception(wire.pairs(fields)).rstrip()
    except Unreadable as error:
        text = f"(unreadable: {error})"
    at = int(entry_id.partition(b"-")[0]) / 1000  # Redis's clock
    line = text.rpartition("\n")[2].strip()[:ERROR_LENGTH] or unknown
    return Failure(job_id, task, queue, at, "".join(c if c.isprintable() else "?" for c in line))


def _is_like(error: str, wanted: str) -> bool:
    """Tell whether an error is the wanted one, but for its numbers."""
    start, star, rest = wanted.rpartition("*")
    if star and not rest:
        return _VARIES.sub("#", error).startswith(_VARIES.sub("#", start))
    return _VARIES.sub("#", error) == _VARIES.sub("#", wanted)


# --- jobs in no place


def _suspects(link: Link) -> Iterator[str]:
    """Yield the jobs that may be in no place: those that should wait and do not, and all that run
    or are due, which are fewer."""
    waiting, start = _waiting(link), wire.key("job", "")
    how = ("MATCH", f"{start}*", "COUNT", KEYS_AT_ONCE, "TYPE", "hash")
    cursor: bytes | None = None
    while cursor != b"0":
        cursor, keys = link.call("SCAN", cursor or 0, *how)
        names = [_text(key).removeprefix(start) for key in keys]
        ids = [name for name in names if _JOB_ID.fullmatch(name)]
        replies = link.calls([("HGET", wire.key("job", job_id), "status") for job_id in ids])
        for job_id, status in zip(ids, replies, strict=True):
            is_missing = status == b"queued" and hash(job_id) not in waiting
            if is_missing or status in (b"started", b"scheduled"):
                yield job_id


def _waiting(link: Link) -> set[int]:
    """Return what is in the queues: numbers, because they take less memory than ids."""
    found: set[int] = set()
    for queue in queues(link):
        start = 0
        while ids := link.call("LRANGE", wire.key("queue", queue), start, start + KEYS_AT_ONCE - 1):
            found.update(hash(_text(job_id)) for job_id in ids)
            start += len(ids)
    return found


def _buried(link: Link, dry_run: bool) -> list[str]:
    """Return the workers that are no more, and take them out of the sets of workers."""
    keys = [_text(key) for key in link.call("SMEMBERS", wire.key("workers"))]
    there = link.calls([("EXISTS", key) for key in keys])
    gone = [key for key, found in zip(keys, there, strict=True) if not found]
    if not dry_run:
        _act(link, "bury", gone)
    return gone


# --- ping


def _answers(
    link: Link, jobs: dict[str, str], timeout_s: float
) -> Iterator[tuple[str, str, float]]:
    begun = time.monotonic()
    while jobs:
        passed = time.monotonic() - begun
        states = link.calls([("HGET", wire.key("job", own), "status") for own in jobs.values()])
        for (queue, job_id), state in zip(list(jobs.items()), states, strict=True):
            if passed >= timeout_s or state not in (b"queued", b"started"):
                del jobs[queue]
                yield queue, _verdict(link, queue, job_id, state), passed
        time.sleep(POLL_S if jobs else 0)


def _verdict(link: Link, queue: str, job_id: str, state: bytes | None) -> str:
    """Return '' or what is wrong. A ping that nobody took is taken back."""
    if state == b"finished":
        return ""
    if state == b"queued" and link.call("LREM", wire.key("queue", queue), 1, job_id):
        link.call("UNLINK", wire.key("job", job_id))
        return "no answer"
    if state == b"failed":
        entries = link.call("XREVRANGE", wire.key("results", job_id), "+", "-", "COUNT", 1)
        return f"its worker cannot: {_failure(job_id, queue, (b'', b'', b''), entries).error}"
    return f"no answer (the ping is {_text(state or b'gone')})"


# --- act.lua


def _act(link: Link, what: str, names: Sequence[str]) -> list[list[str]]:
    """Run act.lua for these; return the words of its reply for each."""
    words = [what, wire.timestamp(), repr(time.time()), *names]
    return [[_text(word) for word in reply] for reply in link.run(script("act"), (), words)]


def _each(link: Link, what: str, names: Iterable[str]) -> Iterator[list[str]]:
    """Do it to each, a page at a time; yield the name and the words of the reply."""
    left = iter(names)
    while page := list(islice(left, PAGE)):
        for name, words in zip(page, _act(link, what, page), strict=True):
            yield [name, *words]


def _text(word: bytes | str | int) -> str:
    return word.decode("utf-8", "replace") if isinstance(word, bytes) else str(word)
