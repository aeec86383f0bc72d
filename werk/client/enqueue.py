"""Enqueue by name, wait for a result. The caller's side: it needs Redis and the table, no code.

check and convert the arguments -> build the job's hash as RQ does -> one script -> a handle
"""

from __future__ import annotations

import json
import os
import re
import threading
import time
import warnings
from collections.abc import Mapping, Sequence
from datetime import datetime
from math import ceil
from typing import TYPE_CHECKING, Any, NamedTuple
from weakref import WeakKeyDictionary

from werk.errors import (
    ArgumentError,
    JobCancelled,
    JobFailed,
    NoSuchJob,
    NoWorker,
    ResultNotKept,
    ResultTimeout,
    WerkWarning,
)
from werk.registry import LONGEST_S, Task
from werk.settings import Settings
from werk.store import keys, payload, plain
from werk.store.connection import Link, link, link_over
from werk.store.redis_py import redis_client
from werk.store.scripts import Script
from werk.tasks import catalog
from werk.tasks.catalog_page import Entry

if TYPE_CHECKING:
    from redis import Redis
    from rq.job import Job

    Connection = Redis | Link  # a client of the caller's own, or a link with another budget

JOB_ID = re.compile(r"[A-Za-z0-9_-]+")  # rq/job.py
PING_URL = re.compile(r"https?://[^\s/?#][!-~]*")
DESCRIPTION_LENGTH = 200
HOLD_SHARE = 0.9  # of a period: cron fires on its edges, a little early or late
SLOT_MEMORY_S = 48 * 3600
SLICE_S = 1.0  # of waiting; between slices we look whether there is still something to wait for
CHUNK = 250  # jobs in one script: Redis is busy with it for a few milliseconds


class Options(NamedTuple):
    """How one job is treated; what is None is the task's. Times in seconds."""

    queue: str | None = None
    front: bool = False  # before all that wait
    delay: float | None = None
    at: datetime | None = None  # without a zone: local time
    job_id: str | None = None  # letters, digits, - and _; an id that exists is not enqueued again
    timeout: int | None = None  # of one execution; -1: none
    ttl: int | None = None  # the job is dropped if it waits for longer
    result_ttl: int | None = None
    failure_ttl: int | None = None
    retry: int | None = None
    once_per: float | None = None  # one enqueue in 0.9 of it, of the same task, arguments, queue
    slot: str | None = None  # instead of once_per: names what one enqueue is for, such as a tick
    unless_active: bool = False  # not while the last one so enqueued waits or runs
    expires: float | None = None  # dropped if it still waits so long after it was to run
    ping: str | None = None  # an http(s) address that the worker GETs when the job has succeeded
    require_worker: bool = False  # only if a live worker would run it


NO_OPTIONS = Options()
UNHEARD = "no worker listens on queue"  # how the least of the warnings begins
MOST_CACHED = 1000  # of task and queue
CACHED_S = 1.0  # in which a caller that enqueues all the time does not ask again who serves a task
_DOUBTS = {  # what enqueue.lua has found out about a task and those who would run it
    b"unheard": UNHEARD + " {queue}: werk worker {queue}",
    b"unknown": "no worker on queue {queue} knows {task}; the job fails if none does in 10 minutes:"
    " werk tasks",
    b"differs": "no worker on queue {queue} has this version of {task}, but another: werk tasks",
}


class Request(NamedTuple):
    """A job that is about to be enqueued: all that is checked, nothing sent."""

    id: str
    name: str
    task: Task  # with the options of this job
    fingerprint: str
    call: str  # as people see it
    data: bytes
    created_at: str
    options: Options
    due: float | None  # Unix time by this host's clock, of a job that is scheduled
    ttl: int
    hold: str  # key that keeps off others of the same; '': none
    pointer: str  # key that names the last of the same; '': none
    warning: str  # of the task (catalog.Entry)


class Handle(NamedTuple):
    """A job that was enqueued; or, of a duplicate, the one that stands in its place."""

    id: str
    task: str
    queue: str
    duplicate: bool = False
    reason: str = ""  # why it is a duplicate
    warnings: tuple[str, ...] = ()
    result_ttl: int = 1
    connection: Connection | None = None

    def status(self) -> str:
        """Return RQ's status of the job: queued, started, finished, ... Raises NoSuchJob."""
        return status(self.id, connection=self.connection)

    def result(self, timeout: float | None = None) -> Any:
        """Wait for the result, at most `timeout` seconds; without one, until it is there.

        Raises JobFailed, JobCancelled, ResultNotKept, ResultTimeout, NoSuchJob.
        """
        keeps_result = self.result_ttl != 0
        is_ours = keeps_result and not self.duplicate
        return _wait(self.id, timeout, self.connection, keeps_result, is_ours)

    @property
    def job(self) -> Job:
        """The job as RQ's own object. (This imports rq.)"""
        from rq.job import Job

        own = self.connection
        client = redis_client(Settings.read()) if own is None or isinstance(own, Link) else own
        return Job.fetch(self.id, connection=client)


def enqueue(
    name: str,
    /,
    *args: object,
    options: Options | None = None,
    connection: Connection | None = None,
    **kwargs: object,
) -> Handle:
    """Enqueue a task by its name. Sent again after a lost reply, it is enqueued once.

    Raises UnknownTask, ArgumentError (nothing was sent), NoWorker, RedisUnavailable, ConfigError.
    """
    request = prepare(find(name, connection), args, kwargs, options or NO_OPTIONS)
    [handle] = send([request], connection)
    if handle.warnings:
        _warn([handle])
    return handle


def enqueue_many(
    name: str,
    calls: Sequence[Sequence[object] | Mapping[str, object]],
    *,
    options: Options | None = None,
    connection: Connection | None = None,
) -> list[Handle]:
    """Enqueue a task once for each element: a sequence of arguments, or a dict of named ones.

    All are checked before the first is sent; they go 250 at a time. Raises as enqueue().
    """
    options = options or NO_OPTIONS
    if options.job_id is not None:
        raise ArgumentError("job_id is of one job; leave it out for many")
    entry, now = find(name, connection), time.time()
    calls_in_two = (((), call) if isinstance(call, Mapping) else (call, {}) for call in calls)
    requests = [prepare(entry, args, kwargs, options, now) for args, kwargs in calls_in_two]
    handles: list[Handle] = []
    for start in range(0, len(requests), CHUNK):
        handles += send(requests[start : start + CHUNK], connection)
    _warn(handles)
    return handles


def find(name: str, connection: Connection | None = None) -> Entry:
    """Return a task of the table here; from the catalog what is not here (catalog.find).

    Raises UnknownTask, RedisUnavailable, ConfigError.
    """
    return catalog.find(name, lambda: _link(connection))


def prepare(
    entry: Entry,
    args: Sequence[object],
    kwargs: Mapping[str, object],
    options: Options = NO_OPTIONS,
    now: float | None = None,
) -> Request:
    """Return the job that a call of a task becomes. Raises ArgumentError."""
    name, task, shape, fingerprint, warning = entry
    if options != NO_OPTIONS:
        task = treated(task, options)
    bound, named = shape.bind(args, kwargs, task=name, secret=task.secret)
    now = now or time.time()
    due, ttl, hold, pointer = None, 0, "", ""
    if options != NO_OPTIONS:
        due = _due(options, now)
        ttl = _ttl(options, due, now)
        hold, pointer = _guards(name, shape.named(bound, named), task.queue, options)
    return Request(  # in order, which is faster
        options.job_id or _new_id(),
        name,
        task,
        fingerprint,
        f"{name}({shape.call(bound, named, task.secret)})",
        payload.write_call(task.path, bound, named),
        keys.iso(now),
        options,
        due,
        ttl,
        hold,
        pointer,
        warning,
    )


def send(requests: Sequence[Request], connection: Connection | None = None) -> list[Handle]:
    """Enqueue what was prepared, in one script: jobs of one task and with the same options.

    Raises NoWorker, RedisUnavailable, ConfigError.
    """
    first, connected = requests[0], _link(connection)
    own, now = f"{first.name} {first.fingerprint}", time.monotonic()
    until, warning = connected.served_cache.get((first.task.queue, own), (0.0, ""))
    is_due = now >= until or first.options.require_worker
    words = _script_call(requests, own if is_due else "")
    replies = connected.run(Script.named("enqueue"), *words)
    if is_due:
        *replies, doubt = replies
        warning = doubt and _DOUBTS[doubt].format(queue=first.task.queue, task=first.name)
        if len(connected.served_cache) > MOST_CACHED:  # queues may be named by the million
            connected.served_cache.clear()
        connected.served_cache[first.task.queue, own] = now + CACHED_S, warning
    if not replies:
        raise NoWorker(f"{warning}; nothing was enqueued")
    warnings = (warning,) if warning else ()
    if first.warning:
        warnings = (first.warning, *warnings)
    return [
        _handle(request, reply, warnings, connection)
        for request, reply in zip(requests, replies, strict=True)
    ]


def result(
    job_id: str, timeout: float | None = None, *, connection: Connection | None = None
) -> Any:
    """Wait for a job's result, at most `timeout` seconds; without one, until it is there.

    Raises JobFailed, JobCancelled, ResultNotKept, ResultTimeout, NoSuchJob, RedisUnavailable,
    ConfigError.
    """
    return _wait(job_id, timeout, connection, keeps_result=True)


def status(job_id: str, *, connection: Connection | None = None) -> str:
    """Return RQ's status of a job: queued, started, finished, ... Raises NoSuchJob."""
    found = _link(connection).call("HGET", keys.key("job", job_id), "status")
    if found is None:
        raise NoSuchJob(_no_such(job_id))
    return str(found.decode("utf-8", "replace"))


# --- building the job


def _script_call(requests: Sequence[Request], own: str) -> tuple[tuple[str, ...], list[Any]]:
    """Return KEYS and ARGV of enqueue.lua; `own` is its member of serves:<queue>, or ''."""
    first = requests[0]
    task, options = first.task, first.options
    prefix, queue = keys.KEY_PREFIX, task.queue
    places = (f"{prefix}:queues", f"{prefix}:queue:{queue}", f"{prefix}:scheduled:{queue}")
    place, due = "front" if options.front else "back", options.delay or first.due or 0
    if first.due is not None:
        place = f"{'in' if options.delay else 'at'}{' front' if options.front else ''}"
    hold_s = (options.once_per or 0) * HOLD_SHARE if options.slot is None else SLOT_MEMORY_S
    words: list[Any] = [prefix, place, due, first.ttl, first.created_at, queue]
    words += [task.timeout, task.result_ttl, task.failure_ttl, first.name, task.max_crashes]
    words += [task.retry, task.retry_delay, int(hold_s * 1000), _webhooks(options.ping)]
    words += [own, int(options.require_worker)]
    for one in requests:
        words += (one.id, one.data, one.call[:DESCRIPTION_LENGTH], one.hold, one.pointer)
    return places, words


def _handle(
    request: Request, reply: Any, warnings: tuple[str, ...], connection: Connection | None
) -> Handle:
    """Return what enqueue.lua replied for a job (see its header)."""
    name, task = request.name, request.task
    own = Handle(request.id, name, task.queue, False, "", warnings, task.result_ttl, connection)
    if reply == 1:
        return own
    why, job_id, status = [keys.text(word) for word in (*reply, b"")][:3]
    if why == "overdue":
        text = f"job {job_id} has been {status} for more than a day; enqueued another beside it"
        return own._replace(warnings=(text, *warnings))
    if why == "hold":
        said = f"was enqueued for this {request.hold.split(':')[-2]}"
    else:
        said = f"is still {status}" if why == "active" else "was there before"
    why = f"job {job_id} {said}"
    return own._replace(id=job_id, duplicate=True, reason=why, warnings=())


def _new_id() -> str:
    """Return an id as RQ's own, str(uuid4()), in a third of the time."""
    digits = os.urandom(16).hex()
    variant = "89ab"[int(digits[16], 16) & 3]
    return f"{digits[:8]}-{digits[8:12]}-4{digits[13:16]}-{variant}{digits[17:20]}-{digits[20:]}"


def _guards(
    name: str, call: Sequence[tuple[str, object]], queue: str, options: Options
) -> tuple[str, str]:
    """Return the hold of a job and its pointer (see enqueue.lua)."""
    hold = pointer = ""
    if options.slot is not None:
        hold = keys.key("werk", "slot", plain.digest((name, call, queue, options.slot)))
    elif options.once_per is not None:
        hold = keys.key("werk", "period", plain.digest((name, call, queue)))
    if options.unless_active:
        pointer = keys.key("werk", "last", plain.digest((name, call)))
    return hold, pointer


def _due(options: Options, now: float) -> float | None:
    if options.delay:
        return round(now + options.delay, 3)
    return options.at.timestamp() if options.at else None


def _ttl(options: Options, due: float | None, now: float) -> int:
    """Return the seconds from now after which a job that waits is dropped; 0: never."""
    if options.expires is None:
        return options.ttl or 0
    return max(1, ceil(max(0.0, (due or now) - now) + options.expires))


def _webhooks(url: str | None) -> str:
    """Return what RQ keeps of a Webhook(url, "finished") (rq.job.Job.to_dict), or ''."""
    hook = {"url": url, "job_status": "finished", "method": "GET", "headers": None, "timeout": 10}
    return json.dumps([hook]) if url else ""


def treated(task: Task, options: Options) -> Task:
    """Return the task as these options have it. Raises ArgumentError."""
    names = ("queue", "timeout", "result_ttl", "failure_ttl", "retry")
    given = {name: getattr(options, name) for name in names}
    own = task._replace(**{name: value for name, value in given.items() if value is not None})
    if problem := own.problem() or _problem(options):
        raise ArgumentError(problem)
    return own


def _problem(options: Options) -> str | None:
    """Return what is wrong with the options that no task has, or None."""
    if options.job_id is not None and not JOB_ID.fullmatch(options.job_id):
        return f"job_id {options.job_id!r}: use letters, digits, - and _"
    for one, other in (("delay", "at"), ("ttl", "expires")):
        if getattr(options, one) is not None and getattr(options, other) is not None:
            return f"{one} and {other} exclude each other"
    for name, least in (("delay", 0), ("ttl", 1), ("once_per", 1), ("expires", 1)):
        seconds, kinds = getattr(options, name), (int,) if name == "ttl" else (int, float)
        if seconds is not None and not (type(seconds) in kinds and least <= seconds <= LONGEST_S):
            whole = "whole " * (name == "ttl")
            return f"{name} {seconds!r}: want {whole}seconds, {least} to {LONGEST_S}"
    if options.at is not None and not 1 < options.at.year < 9999:
        return f"at {options.at}: that is out of reach"
    if options.ping is not None and not PING_URL.fullmatch(options.ping):
        return f"ping {options.ping!r}: want an address that starts with http:// or https://"
    if options.slot is not None and (type(options.slot) is not str or not options.slot):
        return f"slot {options.slot!r}: want a text that names the tick"
    return None


def _warn(handles: Sequence[Handle]) -> None:
    for text in dict.fromkeys(text for handle in handles for text in handle.warnings):
        warnings.warn(text, WerkWarning, stacklevel=3)


# --- waiting for its result


def _wait(
    job_id: str,
    timeout: float | None,
    connection: Connection | None,
    keeps_result: bool,
    is_ours: bool = False,
) -> Any:
    """Look at a job until it has ended, and in between wait for an entry in its results.

    A job of our own enqueue is there, and will have one: so that wait comes first, and mostly
    nothing after it.
    """
    deadline = None if timeout is None else time.monotonic() + timeout
    look = ("HMGET", keys.key("job", job_id), "status", "result_ttl")
    results = keys.key("results", job_id)
    connected = _link(connection)
    entry: Any = (b"0-0", [])  # the newest; what an earlier run of the job left is no news
    waits, seen = is_ours, False
    while True:
        left = SLICE_S if deadline is None else min(SLICE_S, deadline - time.monotonic())
        if waits and left > 0:
            block = ("XREAD", "BLOCK", max(1, int(left * 1000)), "STREAMS", results, entry[0])
            streams, (state, result_ttl) = connected.calls([block, look])
            entries = streams[0][1] if streams else []
        else:
            latest = ("XREVRANGE", results, "+", "-", "COUNT", 1)
            entries, (state, result_ttl) = connected.calls([latest, look])
        entry = entries[-1] if entries else entry
        if state is None:
            if keeps_result:
                raise NoSuchJob(_no_such(job_id, seen))
            return None  # done, and its result was not to be kept
        waits, seen, keeps_result = True, True, keeps_result and result_ttl != b"0"
        if state in (b"finished", b"failed", b"stopped", b"canceled"):
            return _outcome(job_id, state.decode(), keys.pairs(entry[1]), connected)
        if deadline is not None and time.monotonic() >= deadline:
            raise ResultTimeout(
                f"job {job_id} is still {state.decode('utf-8', 'replace')} after {timeout:g} s; "
                f"it goes on: werk result {job_id}"
            )


def _outcome(job_id: str, state: str, entry: dict[bytes, bytes], connected: Link) -> Any:
    """Return what a job that has ended returned, or raise why it did not."""
    if state == "finished":
        value = payload.read_result(entry)
        if value == payload.UNSERIALIZABLE:
            why = payload.read_not_kept(
                connected.call("HGET", keys.key("job", job_id), keys.NOT_KEPT)
            )
            raise ResultNotKept(f"job {job_id} finished, but its result was not kept: {why}")
        return value
    if state in ("canceled", "stopped"):
        word = "cancelled" if state == "canceled" else state
        raise JobCancelled(f"job {job_id} was {word}")
    text = payload.read_exception(entry).strip()
    reason = text.rpartition("\n")[2] or "no reason was recorded"
    raise JobFailed(f"job {job_id} failed: {reason}", text)


def _no_such(job_id: str, seen: bool = False) -> str:
    why = "it was deleted or has expired" if seen else "never enqueued here, or expired"
    return f"no job {job_id}: {why}"


# --- the link of this thread


class _Links(threading.local):
    """Each thread's own: a link is one socket. (A fork is the link's business.)"""

    def __init__(self) -> None:
        self.by_url: dict[str | None, Link] = {}
        self.by_pool: WeakKeyDictionary[object, Link] = WeakKeyDictionary()


_links = _Links()


def _link(connection: Connection | None) -> Link:
    if isinstance(connection, Link):
        return connection
    if connection is not None:
        pool = getattr(connection, "connection_pool", connection)
        if pool not in _links.by_pool:
            _links.by_pool[pool] = link_over(connection)
        return _links.by_pool[pool]
    url = Settings.url()  # the rest of the environment is read once
    if url not in _links.by_url:
        _links.by_url[url] = link(Settings.read())
    return _links.by_url[url]
