"""Enqueue by name: callers need Redis and the registry or the catalog, not the task's code.

find the task -> check and convert the arguments -> build the request -> one script -> a handle
"""

from __future__ import annotations

import json
import time
import warnings
from collections.abc import Callable, Iterable, Mapping, Sequence
from functools import partial
from operator import attrgetter
from typing import TYPE_CHECKING, Any

from werk.client import request
from werk.client.links import link_of
from werk.client.options import NO_OPTIONS, Options
from werk.client.prepare import PreparedJob as PreparedJob
from werk.client.prepare import checked_call, in_two
from werk.client.prepare import prepare as prepare
from werk.client.request import JOB_FIELDS, EnqueueRequest
from werk.client.result import Handle
from werk.errors import ArgumentError, JobIdConflict, NoWorker, WerkError, WerkWarning
from werk.printable import printable, shell_words
from werk.registry import plain_text
from werk.settings import Settings
from werk.store import keys
from werk.store.limits import DESCRIPTION_LENGTH
from werk.store.plain import name_of
from werk.tasks import catalog
from werk.tasks.catalog_page import Entry

if TYPE_CHECKING:
    from werk.client.links import Connection
    from werk.store.connection import Link

CHUNK = 250  # jobs in one script: Redis is busy with it for a few milliseconds
UNHEARD = "no worker listens on queue"  # how a warning begins
PAUSED = " is paused; resume it: werk resume "
MOST_CACHED = 1000
CACHED_S = 1.0  # how long a link reuses the answer to who serves a task
FAILS = "; the job fails if none does within 10 minutes"  # if it is enqueued
NOTHING = "; nothing was enqueued"  # how the error of a request ends
_WARNINGS = {  # what enqueue.lua reports about the workers of a task's queue -> warning
    b"unheard": UNHEARD + " {queue}; start one: werk worker {word}",
    b"paused": "queue {queue}" + PAUSED + "{word}",
    b"unknown": "no worker on queue {queue} knows {task}" + FAILS + "; {why}",
    b"differs": "the workers on queue {queue} have another version of {task}; see werk tasks",
}

_fields_of = attrgetter(*JOB_FIELDS)


def enqueue(
    name: str | Callable[..., object],
    /,
    *args: object,
    options: Options | None = None,
    connection: Connection | None = None,
    **kwargs: object,
) -> Handle:
    """Enqueue a task by its name: once, even if the request is sent again after a lost reply.

    A registered function stands for its name. Raises UnknownTask, ArgumentError (nothing was sent),
    JobIdConflict, NoWorker, RedisUnavailable, ConfigError.
    """
    handle = submit(name, args, kwargs, options, connection)
    if handle.warnings:
        warn([handle])
    return handle


def submit(
    name: str | Callable[..., object],
    args: Sequence[object],
    kwargs: Mapping[str, object],
    options: Options | None = None,
    connection: Connection | None = None,
) -> Handle:
    """Do what enqueue() does, and leave the warnings in the handle."""
    job = prepare(find(name, connection), args, kwargs, checked(options))
    return send([job], connection)[0]


def enqueue_call(
    name: str,
    args: Sequence[object] = (),
    kwargs: Mapping[str, object] | None = None,
    *,
    options: Options | None = None,
    connection: Connection | None = None,
) -> Handle:
    """Enqueue a task as enqueue() does, with its arguments in a sequence and a dict.

    For tasks with a parameter called `options` or `connection`. Raises the same errors as
    enqueue().
    """
    handle = submit(name, *checked_call(args, kwargs), options, connection)
    warn([handle])
    return handle


def enqueue_many(
    name: str | Callable[..., object],
    calls: Sequence[Sequence[object] | Mapping[str, object]],
    *,
    options: Options | None = None,
    connection: Connection | None = None,
) -> list[Handle]:
    """Enqueue a task once for each call: a sequence of arguments, or a dict of named ones.

    All calls are checked before the first is sent. They are sent 250 at a time. Raises the same
    errors as enqueue(); `.handles` of the error are those of the calls that were enqueued before.
    """
    handles = submit_many(name, calls, options, connection)
    warn(handles)
    return handles


def submit_many(
    name: str | Callable[..., object],
    calls: Sequence[Sequence[object] | Mapping[str, object]],
    options: Options | None = None,
    connection: Connection | None = None,
) -> list[Handle]:
    """Do what enqueue_many() does, and leave the warnings in the handles."""
    options = checked(options)
    if options.job_id is not None:
        raise ArgumentError("job_id cannot be combined with enqueue_many")
    entry, now = find(name, connection), time.time()
    if isinstance(calls, (str, bytes, Mapping)) or not isinstance(calls, Iterable):
        raise ArgumentError(f"calls: got {name_of(type(calls))}; use a list of calls: [(1,), (2,)]")
    jobs = []
    for index, call in enumerate(calls):
        try:
            jobs.append(prepare(entry, *in_two(call), options, now))
        except ArgumentError as error:
            raise ArgumentError(f"calls[{index}]: {error}") from None
    handles: list[Handle] = []
    for start in range(0, len(jobs), CHUNK):
        try:
            handles += send(jobs[start : start + CHUNK], connection)
        except WerkError as error:
            if start:
                error.handles = tuple(handles)
                is_none = str(error).endswith(NOTHING)
                rest = "the others were not" if is_none else "some of the others may be"
                say_so_far(error, f"the first {start} of {len(jobs)} calls were enqueued, {rest}")
            raise
    return handles


def say_so_far(error: WerkError, so_far: str) -> None:
    """Add to an error of a request what was enqueued before it."""
    error.args = (f"{str(error).removesuffix(NOTHING)}; {so_far}",)


def checked(options: object) -> Options:
    """Return the options of a call, NO_OPTIONS for None. Raises ArgumentError."""
    if options is None:
        return NO_OPTIONS
    if isinstance(options, Options):
        return Options._make(map(plain_text, options))
    names = [name for name in Options._fields if isinstance(options, dict) and name in options]
    use = f"werk.Options({', '.join(f'{name}=...' for name in names) or '...'})"
    raise ArgumentError(f"options: got {name_of(type(options))}; use {use}")


def find(name: str | Callable[..., object], connection: Connection | None = None) -> Entry:
    """Return a task of the registry here, or else of the catalog (catalog.find).

    Raises UnknownTask, ArgumentError, RedisUnavailable, ConfigError.
    """

    def link() -> Link:
        return link_of(connection)

    own = plain_text(name) if isinstance(name, str) else catalog.name_of(name, link)
    return catalog.find(own, link)


def send(jobs: Sequence[PreparedJob], connection: Connection | None = None) -> list[Handle]:
    """Enqueue prepared jobs of one task and with the same options, through the middleware.

    Raises JobIdConflict, NoWorker, RedisUnavailable, ConfigError, and what middleware raises.
    """
    if not (paths := Settings.around_enqueues()):
        return _send(jobs, connection)
    from werk.client import around

    return around.send(jobs, paths, partial(_send, connection=connection))


def deliver(jobs: Sequence[PreparedJob], link: Link) -> list[Handle]:
    """Do what send() does; an error of a middleware becomes a WerkError of one line."""
    try:
        return send(jobs, link)
    except WerkError:
        raise
    except Exception as error:
        from werk.client import around

        raise around.in_one_line(error) from error


def _send(jobs: Sequence[PreparedJob], connection: Connection | None) -> list[Handle]:
    """Enqueue prepared jobs in one script."""
    first, link, now = jobs[0], link_of(connection), time.monotonic()
    served = f"{first.name} {first.fingerprint}"
    place = (first.task.queue, served)
    until, warning = link.served_cache.get(place, (0.0, ""))
    is_due = now >= until or first.options.require_worker
    words: list[Any] = [*_request(first, served if is_due else "")]
    for job in jobs:
        words += _fields_of(job)
    words += first.rare
    replies = link.run(request.script(), _places(first.task.queue), words)
    if is_due:
        *replies, found = replies
        warning = found and _warning(found, first, link)
        if len(link.served_cache) > MOST_CACHED:  # a program may use any number of queues
            link.served_cache.clear()
        link.served_cache[place] = now + CACHED_S, warning
    if not replies:
        raise NoWorker(warning.replace(FAILS, "") + NOTHING)
    texts = tuple(filter(None, (first.warning, warning)))
    return [
        _handle(job, reply, texts, connection) for job, reply in zip(jobs, replies, strict=True)
    ]


def _warning(found: bytes, job: PreparedJob, link: Link) -> str:
    """Return the warning for what enqueue.lua reports about the workers of a job's queue."""
    queue, why = job.task.queue, "see werk tasks"
    if found == b"unknown" and catalog.serve_only_demo(link, queue):
        why = catalog.ONLY_DEMO
    return _WARNINGS[found].format(queue=queue, word=shell_words(queue), task=job.name, why=why)


def _places(queue: str) -> tuple[str, ...]:
    """Return the KEYS of enqueue.lua."""
    prefix = keys.KEY_PREFIX
    return f"{prefix}:queues", f"{prefix}:queue:{queue}", f"{prefix}:scheduled:{queue}"


def _request(job: PreparedJob, served: str) -> EnqueueRequest:
    """Return what a job has in common with the jobs that are sent with it."""
    task, options = job.task, job.options
    return EnqueueRequest(  # by position: keyword arguments would take 3 % of an enqueue
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
        json.dumps(task.delays()) if task.retry else "",
        options.hold_ms(),
        len(job.rare),
        served,
        int(options.require_worker or False),
    )


def _handle(
    job: PreparedJob, reply: Any, warnings: tuple[str, ...], connection: Connection | None
) -> Handle:
    """Return the handle for enqueue.lua's reply about a job. Raises JobIdConflict."""
    queue = job.task.queue
    result_ttl: int = job.task.result_ttl  # type: ignore[assignment]  # in seconds by now
    own = Handle(job.id, job.name, queue, False, "", warnings, result_ttl, connection)
    if reply == 1:
        return own
    why, job_id, status = [keys.text(word) for word in (*reply, b"")][:3]
    if why == "conflict":
        first = printable(status[:DESCRIPTION_LENGTH])
        use = "use another id, or the arguments of that call"
        raise JobIdConflict(f"job_id {job_id!r} belongs to another call, {first}; {use}")
    if why == "overdue":
        text = f"job {job_id} has been {status} for more than a day; enqueued another one"
        return own._replace(warnings=(text, *warnings))
    if why == "hold":
        is_slot = job.hold.split(":")[-2] == "slot"
        what = "was already enqueued " + ("for this slot" if is_slot else "in this period")
    else:
        what = f"is still {status}" if why == "active" else "exists already"
    why = f"job {job_id} {what}"
    return own._replace(id=job_id, duplicate=True, reason=why, warnings=())


def warn(handles: Sequence[Handle]) -> None:
    """Issue the warnings of handles, each text once."""
    for text in dict.fromkeys(text for handle in handles for text in handle.warnings):
        warnings.warn(text, WerkWarning, stacklevel=3)
