"""Users' code: the registered functions and the hooks, under a time limit that they cannot swallow.

The supervisor reads the deadline in the page. Its signal raises in the function; one that takes no
notice is killed. So a job sets no timer (which takes as long as the rest of running it), and a
function may use SIGALRM itself.
"""

from __future__ import annotations

import asyncio
import ctypes
import os
import signal
import time
from collections.abc import Callable
from types import FrameType
from typing import Any

from rq.job import Job, _current_job
from rq.timeouts import JobTimeoutException
from rq.utils import import_attribute

from werk.settings import Settings
from werk.store.plain import SCALARS
from werk.worker.log import Diary
from werk.worker.log_stream import bound_logs
from werk.worker.process import end_copies
from werk.worker.shared_state import LONGEST_RUN, Page

HOOK_S = 10  # time limit of a hook
_enter, _leave = _current_job.set, _current_job.reset

# A function, args and kwargs.
Call = tuple[Any, tuple[Any, ...], dict[str, Any]]


class JobId:
    """RQ_JOB_ID in the environment, as in RQ: for a job, and for what it starts.

    Its line in the environment is our own memory, by putenv(3). os.environ calls setenv(), which
    keeps each value for ever and compares the next one with them: 3 us a job, and putenv() as much.
    """

    _LINE = ctypes.create_string_buffer(b"RQ_JOB_ID=", LONGEST_RUN)  # as long as the environment

    def __init__(self) -> None:
        self._putenv = ctypes.CDLL(None).putenv
        self._environ: dict[bytes, bytes] = os.environ._data  # type: ignore[attr-defined]
        self._last = b""

    def set(self, job_id: bytes) -> None:
        self._LINE.value = b"RQ_JOB_ID=" + job_id
        if self._environ.get(b"RQ_JOB_ID") is not self._last:  # a job has written there
            self._putenv(self._LINE)
        self._environ[b"RQ_JOB_ID"] = self._last = job_id


class Runner:
    """Calls users' code."""

    def __init__(self, page: Page, diary: Diary) -> None:
        self.page, self.diary, self.pid = page, diary, os.getpid()
        self.functions: dict[str, Callable[..., Any]] = {}
        self.hooks: dict[str, Callable[..., Any]] = {}
        self.is_running = False  # what may be interrupted
        self.is_due = False  # time was up while nothing could be interrupted
        self.limit_s, self.started = 0, 0.0

    def add_hooks(self, settings: Settings) -> None:
        for when in ("before", "after", "error"):
            if path := getattr(settings, f"hooks_{when}"):
                try:
                    self.hooks[when] = import_attribute(path)
                except Exception:
                    self.diary.log.exception("event=hook-left-out hook=%s path=%s", when, path)

    def arm(self, limit_s: int) -> None:
        """Begin a time limit, in seconds; negative: there is none. From here on it interrupts."""
        self.limit_s, self.is_due, self.started = limit_s, False, time.monotonic()
        if limit_s > 0:
            self.page.deadline = self.started + limit_s
        self.is_running = True

    def resume(self) -> None:
        """Let the time limit interrupt again. Raises JobTimeoutException if time is up."""
        self.is_running = True
        if self.is_due:
            self.is_running = False
            raise self._time_is_up()

    def disarm(self, error: BaseException | None = None) -> None:
        """End the time limit, after users' code that has raised this. A forked copy ends here."""
        self.is_running = False
        end_copies(self.pid, error)  # before this process writes to the page, which they share
        self.page.deadline = 0.0
        signal.alarm(0)  # one of the function's own does not outlive it

    def load(self, path: str, job: Job) -> Callable[..., Any]:
        """Import a function within the time limit, which goes on.

        Returns a function that raises what the import has raised: the job fails as if it had.
        """
        deadline = self.page.deadline
        function, error, _ = self.run((self._look_up, (path,), {}), job)
        self.page.deadline = deadline
        return _raising(error) if error else function

    def run(self, call: Call, job: Job | None) -> tuple[Any, BaseException | None, float]:
        """Call a function. Returns its result, what it raised, and how long it took since arm().

        What get_current_job() returns there is `job`. The time limit ends with the call.
        """
        function, args, kwargs = call
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
        except BaseException as raised:  # SystemExit too: as in RQ, it fails the job alone
            self.is_running = False
            error = raised
        self.disarm(error)
        _leave(token)
        return result, error, time.monotonic() - self.started

    def hook(self, when: str, *arguments: Any) -> None:
        """Call a hook. Whatever it raises is logged and harms no job."""
        if hook := self.hooks.get(when):
            self.arm(HOOK_S)
            _, error, _ = self.run((hook, arguments, {}), None)
            if error:
                self.diary.log.error("event=hook-failed hook=%s", when, exc_info=error)

    def interrupt(self, signum: int, frame: FrameType | None) -> None:
        """The supervisor says that time is up. The job that it means may have ended since."""
        if 0 < self.page.deadline <= time.monotonic():
            if not self.is_running:
                self.is_due = True
                return
            self.is_running = False  # once
            raise self._time_is_up()

    def _time_is_up(self) -> JobTimeoutException:
        return JobTimeoutException(f"Task exceeded maximum timeout value ({self.limit_s} seconds)")

    def _look_up(self, path: str) -> Callable[..., Any]:
        function: Callable[..., Any] = import_attribute(path)
        self.functions[path] = function
        bound_logs(self.page)  # its module may have set up logging
        return function


def _raising(error: BaseException) -> Callable[..., Any]:
    def fail(*_: Any, **__: Any) -> None:
        trace = error.__traceback__
        raise error.with_traceback(trace and trace.tb_next)

    return fail
