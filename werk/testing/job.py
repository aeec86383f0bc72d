"""A recorded job, and how it runs."""

from __future__ import annotations

import asyncio
import json
import logging
import sys
import traceback
import zlib
from binascii import b2a_base64
from collections.abc import Coroutine, Mapping
from concurrent.futures import ThreadPoolExecutor
from contextvars import copy_context
from datetime import datetime, timezone
from importlib import import_module
from math import ceil
from pkgutil import resolve_name
from typing import Any

from werk import middleware, registry
from werk.client.options import HOLD_SHARE, Options
from werk.client.request import EnqueueRequest
from werk.duration import seconds
from werk.errors import ArgumentError, WerkError
from werk.log_format import Event
from werk.settings import Settings
from werk.store import payload
from werk.tasks.retries import is_retried

log = logging.getLogger("werk.testing")


class RecordedJob:
    """A job as it would be in Redis; its arguments are those that the task receives."""

    attempts = 0  # executions so far

    def __init__(self, shared: EnqueueRequest, own: Mapping[str, Any], now: float) -> None:
        """Make the job of a request: what it shares with others, its JOB_FIELDS and rare fields."""
        self.id: str = own["id"]
        self.task = shared.task
        self.path, self.args, self.kwargs = payload.read_call(own["data"])
        self.queue = shared.queue
        self.options = _options(shared, own, now)  # those in force, the task's included
        is_scheduled = self.options.delay or self.options.at
        due = seconds(shared.due) + now * bool(self.options.delay)
        self.due = due if is_scheduled else None  # Unix time
        self.status = "scheduled" if is_scheduled else "queued"  # then finished or failed
        self.outcome: list[bytes] = []  # as RQ writes it to the job's results
        self.not_kept = ""  # why its result was not kept
        self._retries_left = self.options.retry or 0
        self.digest: str = own.get("werk_call", "")  # of the call, if its job_id was given
        self.description: str = own["description"]  # with secrets masked
        self._data = own["data"]

    def __repr__(self) -> str:
        return f"<{self.status} job: {self.description}>"

    def run(self) -> None:
        """Call the function once and keep the outcome, as a worker does."""
        self.status = "started"
        self.attempts += 1
        try:
            self._finish(copy_context().run(self._call))
        except (Exception, SystemExit, asyncio.CancelledError) as error:
            self._fail(error)  # unlike what ends a test: Ctrl-C, pytest.fail()

    def _call(self) -> Any:
        function = _imported(self.path)
        path, args, kwargs = payload.read_call(self._data)
        chain = middleware.load("WERK_MIDDLEWARE", Settings.read().middleware)
        job: Any = None
        if rq := sys.modules.get("rq.job") or (import_module("rq.job") if chain else None):
            own = self.options
            about: Any = {"id": self.id, "origin": self.queue, "timeout": own.timeout}
            about["meta"] = dict(own.meta or {})
            job = rq.Job.create(path, args, kwargs, connection=_NoRedis(), **about)
            job.task, job.attempt = self.task, self.attempts
            job.is_final = self._is_final
            rq._current_job.set(job)
        return middleware.through(chain, job, lambda: _awaited(function(*args, **kwargs)))

    def _finish(self, value: object) -> None:
        self.status = "finished"
        try:
            data = payload.dumps(value)
        except ArgumentError as why:
            self.not_kept = str(why)[: payload.LONGEST_REASON]
            data = payload.dumps(payload.UNSERIALIZABLE)
        self.outcome = [b"return_value", b2a_base64(data, newline=False)]

    def _is_final(self, error: BaseException) -> bool:
        task = registry.tasks().get(self.task)
        return self._retries_left <= 0 or bool(task and not is_retried(task, type(error)))

    def _fail(self, error: BaseException) -> None:
        has_retry = not self._is_final(error)
        self._retries_left -= has_retry
        self.status = "scheduled" if has_retry else "failed"
        trace = error.__traceback__
        while trace and trace.tb_frame.f_code.co_filename in (__file__, middleware.__file__):
            trace = trace.tb_next
        facts = type(error), error, trace
        log.error(Event("failed", job=self.id, task=self.task), exc_info=facts)
        text = "".join(traceback.format_exception(*facts)).encode("utf-8", "replace")
        self.outcome = [b"exc_string", b2a_base64(zlib.compress(text), newline=False)]


class _NoRedis:
    """The connection of RQ's job that get_current_job() returns."""

    def __getattr__(self, name: str) -> Any:
        raise WerkError(f"a job of werk.testing has no Redis to send {name.upper()} to")


def _imported(path: str) -> Any:
    """Return a function by its path; but raise what its module raised, as a worker does.

    resolve_name() takes an import that fails in the module for a module that is not there.
    """
    try:
        return resolve_name(path)
    except AttributeError as error:
        missing = error
    parts = path.split(".")
    for end in range(1, len(parts)):
        import_module(".".join(parts[:end]))
    raise missing


def _awaited(value: object) -> object:
    """Return the result of an async task, or any other value as it is."""
    if not isinstance(value, Coroutine):
        return value
    try:
        asyncio.get_running_loop()
    except RuntimeError:
        return asyncio.run(value)
    with ThreadPoolExecutor(1) as thread:  # this thread runs the loop of an async test
        return thread.submit(copy_context().run, asyncio.run, value).result()


def _ttl(shared: EnqueueRequest, now: float) -> int | None:
    """Return the seconds after which a job expires, as enqueue.lua reads them; None: never."""
    ttl = seconds(shared.ttl)
    if ttl < 0:
        ttl = max(0, seconds(shared.due) - now) - ttl
    return ceil(ttl) or None


def _options(shared: EnqueueRequest, own: Mapping[str, Any], now: float) -> Options:
    """Return the options of a job, read from the request for it."""
    same = {name: getattr(shared, name) for name in Options._fields if hasattr(shared, name)}
    same["retry"] = len(json.loads(shared.retry_delays or "[]"))
    same |= {"job_id": own["id"], "front": "front" in shared.place, "ttl": _ttl(shared, now)}
    if shared.place.startswith("in"):
        same["delay"] = shared.due
    if shared.place.startswith("at"):
        same["at"] = datetime.fromtimestamp(seconds(shared.due), timezone.utc)
    if own["hold"]:
        same["once_per"] = round(shared.hold_ms / 1000 / HOLD_SHARE, 3)
    if "webhooks" in own:
        same["ping"] = json.loads(own["webhooks"])[0]["url"]
    if own["meta"]:
        same["meta"] = payload.loads(own["meta"])
    flags = {"unless_active": own["pointer"] != "", "require_worker": bool(shared.require_worker)}
    return Options(**{**same, **flags})
