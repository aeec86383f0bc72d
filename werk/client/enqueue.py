"""Enqueue by name: callers need Redis and the registry or the catalog, not the task's code.

find the task -> check and convert the arguments -> build the request -> one script -> a handle
"""

from __future__ import annotations

import os
import time
import warnings
from collections.abc import Mapping, Sequence
from operator import attrgetter
from typing import TYPE_CHECKING, Any, NamedTuple

from werk.client import request
from werk.client.links import link_of
from werk.client.options import NO_OPTIONS, Options
from werk.client.request import JOB_FIELDS, EnqueueRequest
from werk.client.result import Handle
from werk.errors import ArgumentError, NoWorker, WerkWarning
from werk.registry import Task
from werk.store import keys
from werk.store.limits import DESCRIPTION_LENGTH
from werk.store.payload import write_call
from werk.tasks import catalog
from werk.tasks.catalog_page import Entry

if TYPE_CHECKING:
    from werk.client.links import Connection

CHUNK = 250  # jobs in one script: Redis is busy with it for a few milliseconds
UNHEARD = "no worker listens on queue"  # how the least important warning begins
MOST_CACHED = 1000
CACHED_S = 1.0  # how long a process reuses the answer to who serves a task
_WARNINGS = {  # by what enqueue.lua reports about the workers of a task's queue
    b"unheard": UNHEARD + " {queue}; start one: werk worker {queue}",
    b"unknown": "no worker on queue {queue} knows {task}; the job fails if none does within 10"
    " minutes; see werk tasks",
    b"differs": "the workers on queue {queue} have another version of {task}; see werk tasks",
}

_fields_of = attrgetter(*JOB_FIELDS)


class PreparedJob(NamedTuple):
    """A job that is about to be enqueued: checked, and not sent yet."""

    id: str
    data: bytes
    description: str
    hold: str  # a key that the job takes: until it expires, no other job can take it
    pointer: str  # a key that names the last job that used it: no other may while that is active
    name: str
    task: Task  # with the options of this job
    fingerprint: str
    call: str  # as people see it
    created_at: str
    options: Options
    due: float | None  # Unix time by this host's clock, of a job that is scheduled
    ttl: int
    warning: str  # of the task (catalog_page.Entry)


def enqueue(
    name: str,
    /,
    *args: object,
    options: Options | None = None,
    connection: Connection | None = None,
    **kwargs: object,
) -> Handle:
    """Enqueue a task by its name: once, even if the request is sent again after a lost reply.

    Raises UnknownTask, ArgumentError (nothing was sent), NoWorker, RedisUnavailable, ConfigError.
    """
    handle = submit(name, args, kwargs, options, connection)
    if handle.warnings:
        _warn([handle])
    return handle


def submit(
    name: str,
    args: Sequence[object],
    kwargs: Mapping[str, object],
    options: Options | None = None,
    connection: Connection | None = None,
) -> Handle:
    """Do what enqueue() does, and leave the warnings in the handle."""
    job = prepare(find(name, connection), args, kwargs, options or NO_OPTIONS)
    [handle] = send([job], connection)
    return handle


def enqueue_many(
    name: str,
    calls: Sequence[Sequence[object] | Mapping[str, object]],
    *,
    options: Options | None = None,
    connection: Connection | None = None,
) -> list[Handle]:
    """Enqueue a task once for each call: a sequence of arguments, or a dict of named ones.

    All calls are checked before the first is sent. They are sent 250 at a time. Raises the same
    errors as enqueue().
    """
    handles = submit_many(name, calls, options, connection)
    _warn(handles)
    return handles


def submit_many(
    name: str,
    calls: Sequence[Sequence[object] | Mapping[str, object]],
    options: Options | None = None,
    connection: Connection | None = None,
) -> list[Handle]:
    """Do what enqueue_many() does, and leave the warnings in the handles."""
    options = options or NO_OPTIONS
    if options.job_id is not None:
        raise ArgumentError("job_id cannot be combined with enqueue_many")
    entry, now = find(name, connection), time.time()
    calls_in_two = (((), call) if isinstance(call, Mapping) else (call, {}) for call in calls)
    jobs = [prepare(entry, args, kwargs, options, now) for args, kwargs in calls_in_two]
    handles: list[Handle] = []
    for start in range(0, len(jobs), CHUNK):
        handles += send(jobs[start : start + CHUNK], connection)
    return handles


def find(name: str, connection: Connection | None = None) -> Entry:
    """Return a task of the registry here, or else of the catalog (catalog.find).

    Raises UnknownTask, RedisUnavailable, ConfigError.
    """
    if not isinstance(name, str):
        shown = getattr(name, "__name__", repr(name)[:100])
        raise ArgumentError(f"{shown} is a {type(name).__name__}; use the name of its task")
    return catalog.find(name, lambda: link_of(connection))


def prepare(
    entry: Entry,
    args: Sequence[object],
    kwargs: Mapping[str, object],
    options: Options = NO_OPTIONS,
    now: float | None = None,
) -> PreparedJob:
    """Return the job that a call of a task becomes. Raises ArgumentError."""
    name, task, shape, fingerprint, warning = entry
    if options != NO_OPTIONS:
        task = options.treated(task)
    bound, named = shape.bind(args, kwargs, task=name, secret=task.secret)
    now = now or time.time()
    due, ttl, hold, pointer = None, 0, "", ""
    if options != NO_OPTIONS:
        due = options.due(now)
        ttl = options.seconds_to_live(due, now)
        hold, pointer = options.guards(name, shape.named(bound, named), task.queue)
    call = f"{name}({shape.call(bound, named, task.secret)})"
    data = write_call(task.path, bound, named)
    job_id = options.job_id or _new_id()
    shown, created_at = call[:DESCRIPTION_LENGTH], keys.iso(now)
    sent = (job_id, data, shown, hold, pointer)
    return PreparedJob(*sent, name, task, fingerprint, call, created_at, options, due, ttl, warning)


def _new_id() -> str:
    """Return an id as RQ's own, str(uuid4()), which takes 5 % of an enqueue."""
    digits = os.urandom(16).hex()
    variant = "89ab"[int(digits[16], 16) & 3]
    return f"{digits[:8]}-{digits[8:12]}-4{digits[13:16]}-{variant}{digits[17:20]}-{digits[20:]}"


def send(jobs: Sequence[PreparedJob], connection: Connection | None = None) -> list[Handle]:
    """Enqueue prepared jobs of one task and with the same options, in one script.

    Raises NoWorker, RedisUnavailable, ConfigError.
    """
    first, link, now = jobs[0], link_of(connection), time.monotonic()
    served = f"{first.name} {first.fingerprint}"
    place = (first.task.queue, served)
    until, warning = link.served_cache.get(place, (0.0, ""))
    is_due = now >= until or first.options.require_worker
    words: list[Any] = [*_request(first, served if is_due else "")]
    for job in jobs:
        words += _fields_of(job)
    replies = link.run(request.script(), _places(first.task.queue), words)
    if is_due:
        *replies, found = replies
        warning = found and _WARNINGS[found].format(queue=first.task.queue, task=first.name)
        if len(link.served_cache) > MOST_CACHED:  # a program may use any number of queues
            link.served_cache.clear()
        link.served_cache[place] = now + CACHED_S, warning
    if not replies:
        raise NoWorker(f"{warning}; nothing was enqueued")
    texts = tuple(filter(None, (first.warning, warning)))
    return [
        _handle(job, reply, texts, connection) for job, reply in zip(jobs, replies, strict=True)
    ]


def _places(queue: str) -> tuple[str, ...]:
    """Return the KEYS of enqueue.lua."""
    prefix = keys.KEY_PREFIX
    return f"{prefix}:queues", f"{prefix}:queue:{queue}", f"{prefix}:scheduled:{queue}"


def _request(job: PreparedJob, served: str) -> EnqueueRequest:
    """Return what a job has in common with those that are sent with it."""
    task, options = job.task, job.options
    return EnqueueRequest(  # in order: names take 3 % of an enqueue
        keys.KEY_PREFIX,
        options.place(),
        options.delay or job.due or 0,
        job.ttl,
        job.created_at,
        task.queue,
        task.timeout,
        task.result_ttl,
        task.failure_ttl,
        job.name,
        task.max_crashes,
        task.retry,
        task.retry_delay,
        options.hold_ms(),
        options.webhooks(),
        served,
        int(options.require_worker),
    )


def _handle(
    job: PreparedJob, reply: Any, warnings: tuple[str, ...], connection: Connection | None
) -> Handle:
    """Return what enqueue.lua replied for a job (see its header)."""
    queue, result_ttl = job.task.queue, job.task.result_ttl
    own = Handle(job.id, job.name, queue, False, "", warnings, result_ttl, connection)
    if reply == 1:
        return own
    why, job_id, status = [keys.text(word) for word in (*reply, b"")][:3]
    if why == "overdue":
        text = f"job {job_id} has been {status} for more than a day; enqueued another beside it"
        return own._replace(warnings=(text, *warnings))
    if why == "hold":
        what = f"was enqueued for this {job.hold.split(':')[-2]}"
    else:
        what = f"is still {status}" if why == "active" else "exists already"
    why = f"job {job_id} {what}"
    return own._replace(id=job_id, duplicate=True, reason=why, warnings=())


def _warn(handles: Sequence[Handle]) -> None:
    for text in dict.fromkeys(text for handle in handles for text in handle.warnings):
        warnings.warn(text, WerkWarning, stacklevel=3)
