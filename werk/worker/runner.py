"""Runner: runs user code, the tasks' functions and what is around them, under enforced time limits.

The supervisor reads the deadline in the shared state. Its signal raises an exception in the
function; if the function ignores it, the horse is killed. So no job sets a timer, which would take
as long as a small job, and a function may use SIGALRM itself.
"""

from __future__ import annotations

import asyncio
import importlib
import logging
import os
import signal
import time
from collections.abc import Callable, Sequence
from types import FrameType
from typing import Any

from rq.exceptions import DeserializationError
from rq.job import Job, _current_job
from rq.timeouts import JobTimeoutException

from werk import middleware, registry
from werk.errors import Unreadable, described, text_of
from werk.middleware import Middleware
from werk.printable import printable
from werk.settings import Settings
from werk.store import payload
from werk.store.keys import text
from werk.store.plain import SCALARS
from werk.tasks import catalog, signature
from werk.worker import around
from werk.worker.claim import Call, Claim, Refused, Unknown, permit, unregistered
from werk.worker.forks import end_copies
from werk.worker.imported import import_function, other_signature, user_frames
from werk.worker.log import JobLog
from werk.worker.log_stream import bound_logs
from werk.worker.refusals import Refusals
from werk.worker.rq_classes import set_call
from werk.worker.shared_state import SharedState

IMPORT_AGAIN_S = 10.0  # how old a horse is at least that leaves because an import has failed
FLUSH_S = 2  # that the middleware of one module has, before a horse exits

_enter, _leave = _current_job.set, _current_job.reset

Tasks = dict[Any, tuple[str, str]]  # name as Redis returns it, or path -> name and path


class Runner:
    """Reads a claim's payload and calls users' code."""

    def __init__(self, shared: SharedState, log: JobLog, refusals: Refusals | None = None) -> None:
        self.shared, self.log, self.pid = shared, log, os.getpid()
        self.refusals = refusals  # where any function may run
        known = {**registry.tasks(), **registry.BUILT_IN}
        self.tasks: Tasks = {task.path: (name, task.path) for name, task in known.items()}
        self.tasks |= {name.encode(): (name, task.path) for name, task in known.items()}
        self.functions: dict[str, Callable[..., Any]] = {}
        self.middleware: tuple[Middleware, ...] = ()
        self.imported: Callable[[], object] = lambda: None  # called after each import
        self.has_failed_import, self.began = False, time.monotonic()
        self.is_running = False  # whether code runs that may be interrupted
        self.is_due = False  # the time was over while nothing could be interrupted
        self.limit_s, self.started, self.ended = 0, 0.0, 0.0

    def prepare(self, settings: Settings) -> bool:
        """Import what the settings name. Return False, and log why, if that cannot be done."""
        return self.preload(settings.preload) and self.add_middleware(settings.middleware)

    def preload(self, modules: Sequence[str]) -> bool:
        """Import modules, in order. Return False, and log why, if one cannot be imported."""
        for name in modules:
            _, error, _ = self.run(importlib.import_module, (name,), {}, None)
            bound_logs(self.shared)  # the module may have set up logging
            if error is not None:
                why = printable(described(error))
                self.log.log.error("WERK_PRELOAD: cannot import %s: %s", name, why)
                return False
            self.imported()
        return True

    def add_middleware(self, paths: Sequence[str]) -> bool:
        """Import the middleware. Return False, and log why, if one cannot be imported."""
        found, error, _ = self.run(middleware.load, ("WERK_MIDDLEWARE", paths), {}, None)
        bound_logs(self.shared)  # its module may have set up logging
        if error is not None:
            self.log.log.error("%s", printable(text_of(error)))
            return False
        self.middleware = found
        self.imported()
        return True

    def flush(self) -> None:
        """Have middleware send what it still holds: this process exits without atexit."""
        if self.refusals:
            self.refusals.write()
        for flush in middleware.flushes(self.middleware):
            self.arm(FLUSH_S + 1)
            _, error, _ = self.run(flush, (FLUSH_S,), {}, None)
            if error is not None:
                why = printable(described(error))
                place = f"{flush.__module__}.flush"
                facts: dict[str, object] = {"middleware": place, "reason": why}
                self.log.event("flush-failed", facts, logging.WARNING)

    def read(self, claim: Claim, limit_s: int) -> tuple[str, Any, tuple[Any, ...], dict[str, Any]]:
        """Begin the time limit and read the payload.

        Return the task's name, the path of its function, args and kwargs. If any function may run,
        a function can stand for its path: a method of the object in the payload. Import nothing.

        Raises Refused, Unreadable, JobTimeoutException, and Unknown if only the name of the task is
        unknown.
        """
        self.arm(limit_s)
        if self.refusals:
            try:
                path, args, kwargs = _any_call(claim.data or b"", self.refusals.serializer)
            except BaseException as error:  # the job fails with it, as in RQ
                self.is_running = False
                return "-", _unread(error), (), {}
            name = self.tasks.get(path, ("-", ""))[0] if type(path) is str else "-"
            self._note_refusal(self.refusals, claim, path)
            self.is_running = False
            return name, path, args, kwargs
        call = self._registered(claim)
        self.is_running = False
        return call

    def _note_refusal(self, refusals: Refusals, claim: Claim, path: Any) -> None:
        try:
            self._registered(claim)
        except (Refused, Unreadable, Unknown) as why:
            if type(why.__context__) is JobTimeoutException:  # the reader has caught it
                raise why.__context__ from None
            refusals.add(claim, path, why)

    def _registered(self, claim: Claim) -> tuple[str, str, tuple[Any, ...], dict[str, Any]]:
        """Return the call of a registered task. Raises Refused, Unreadable, Unknown."""
        try:
            path, args, kwargs = payload.read_call(claim.data or b"")
        except Unreadable as why:
            raise why.with_traceback(None) from None  # its frames would keep the payload
        known = self.tasks.get(claim.task or path)
        if not known:
            if claim.task:
                raise Unknown(f"this worker has no task {text(claim.task)[:100]!r}")
            raise unregistered(path)
        for callback in claim.callbacks or ():
            permit(text(callback))
        name, path = known
        return name, path, args, kwargs

    def arm(self, limit_s: int) -> None:
        """Begin a time limit, in seconds (negative: none). From here on it can interrupt."""
        self.limit_s, self.is_due, self.started = limit_s, False, time.monotonic()
        if limit_s > 0:
            self.shared.deadline = self.started + limit_s
        self.is_running = True

    def resume(self) -> None:
        """Let the time limit interrupt again. Raises JobTimeoutException if the time is over."""
        self.is_running = True
        if self.is_due:
            self.is_running = False
            raise self._time_is_up()

    def disarm(self, error: BaseException | None = None) -> None:
        """End the time limit after user code, which raised `error`. A forked copy ends here."""
        self.is_running = False
        end_copies(self.pid, error)  # before this process writes to the shared state
        self.shared.deadline = 0.0
        signal.alarm(0)  # an alarm of the function's own must not outlive it

    def load(self, path: str, job: Job) -> Callable[..., Any]:
        """Import a function within the time limit, which continues.

        If the import fails, return a function that raises its error, so that the job fails with it.
        """
        deadline = self.shared.deadline
        function, error, _ = self.run(self._look_up, (path,), {}, job)
        self.shared.deadline = deadline
        self.imported()
        self.has_failed_import = self.has_failed_import or error is not None
        return function if error is None else _raising(error)

    def is_spoiled(self) -> bool:
        """Return whether an import has failed: it may have left things half begun elsewhere.

        Not soon after the start, so that horses are not replaced all the time if it always fails.
        """
        return self.has_failed_import and time.monotonic() > self.began + IMPORT_AGAIN_S

    def run(
        self, function: Any, args: tuple[Any, ...], kwargs: dict[str, Any], job: Job | None
    ) -> tuple[Any, BaseException | None, float]:
        """Call a function. Return its result, its error, and the seconds since arm().

        Meanwhile get_current_job() returns `job`. The time limit ends with the call.
        """
        result: Any = None
        error: BaseException | None = None
        token = _enter(job)
        try:
            self.is_running = True
            if self.is_due:
                raise self._time_is_up()
            result = function(*args, **kwargs)
            if type(result) not in SCALARS and asyncio.iscoroutine(result):  # RQ's test
                result = asyncio.run(result)
            self.is_running = False
        except BaseException as raised:  # SystemExit too: as in RQ, it only fails the job
            self.is_running = False
            error = raised
        if os.getpid() != self.pid:
            end_copies(self.pid, error)  # before this process writes to the shared state
        self.shared.deadline = 0.0
        signal.alarm(0)  # an alarm of the function's own must not outlive it
        _leave(token)
        self.ended = ended = time.monotonic()
        return result, error, ended - self.started

    def within(
        self, function: Callable[..., Any], claim: Claim, task: str, path: Any, job: Job
    ) -> Callable[..., Any]:
        """Return a function that calls this one through the middleware."""
        return around.within(self.middleware, function, claim, task, path, job)

    def interrupt(self, signum: int, frame: FrameType | None) -> None:
        """Handle the supervisor's signal that the time is over. The job may have ended by now."""
        if 0 < self.shared.deadline <= time.monotonic():
            if not self.is_running:
                self.is_due = True
                return
            self.is_running = False  # once
            raise self._time_is_up()

    def _time_is_up(self) -> JobTimeoutException:
        return JobTimeoutException(f"Task exceeded maximum timeout value ({self.limit_s} seconds)")

    def _look_up(self, path: str) -> Callable[..., Any]:
        function: Callable[..., Any] = import_function(path)
        self.functions[path] = function
        bound_logs(self.shared)  # its module may have set up logging
        self._compare(path, function)
        return function

    def _compare(self, path: str, function: Callable[..., Any]) -> None:
        """Have the supervisor publish the parameters of a task that are not as written."""
        name, _ = self.tasks.get(path, ("", ""))
        if not name or name in self.shared.found:
            return
        if found := other_signature(path, function):
            usages = (shape.usage() or "nothing" for shape in (signature.read(path), found))
            why = 'its source says "{}", but it takes "{}": a decorator, or a file that has changed'
            why = why.format(*usages)
            self.log.event("other-signature", {"task": name, "reason": why}, logging.WARNING)
            self.shared.add_found(name, catalog.page_of(registry.tasks()[name], found))


def _any_call(data: bytes, reader: Any) -> Call:
    """Return any call, for WERK_ALLOW_UNREGISTERED.

    Raises DeserializationError, as RQ, and what the code of the payload raises.
    """
    try:
        name, instance, args, kwargs = reader.loads(payload.decompress(data))
    except JobTimeoutException:
        raise
    except Exception as error:
        raise DeserializationError() from error
    return (name if instance is None else getattr(instance, name)), args, kwargs


def _unread(error: BaseException) -> Callable[..., Any]:
    """Return a function that raises the error of a payload, and keeps RQ from reading it again."""
    fail = _raising(error)

    def fail_unread() -> None:
        if job := _current_job.get():
            set_call(job, "-", (), {})
        fail()

    return fail_unread


def _raising(error: BaseException) -> Callable[..., Any]:
    trace = user_frames(error)

    def fail(*_: Any, **__: Any) -> None:
        raise error.with_traceback(trace)

    return fail


around.CALLS.add(Runner.run.__code__)
