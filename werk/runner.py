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

from werk.child import end_copies
from werk.diary import Diary
from werk.log_stream import bound_logs
from werk.page import LONGEST_RUN, Page
from werk.settings import Settings
from werk.wire import SCALARS

HOOK_S = 10  # time limit of a hook
_enter, _leave = _current_job.set, _current_job.reset

# A function or its path, args and kwargs.
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
        self.limit_s = 0

    def add_hooks(self, settings: Settings) -> None:
        for when in ("before", "after", "error"):
            if path := getattr(settings, f"hooks_{when}"):
                try:
                    self.hooks[when] = import_attribute(path)
                except Exception:
                    self.diary.log.exception("event=hook-left-out hook=%s path=%s", when, path)

    def run(
        self,
        call: Call,
        limit_s: int,
        job: Job | None,
    ) -> tuple[Any, BaseException | None, float]:
        """Call a function under a limit. Returns its result, what it raised, and how long it took.

        What get_current_job() returns there is `job`.
        """
        function, args, kwargs = call
        result: Any = None
        error: BaseException | None = None
        token, started = _enter(job), time.monotonic()
        try:
            self.limit_s, self.is_running = limit_s, True
            if limit_s > 0:
                self.page.deadline = started + limit_s
            if type(function) is str:
                function = self.functions.get(function) or self._look_up(function)
            result = function(*args, **kwargs)
            if type(result) not in SCALARS and asyncio.iscoroutine(result):  # RQ's test
                result = asyncio.run(result)
            self.is_running = False
        except BaseException as raised:  # SystemExit too: as in RQ, it fails the job alone
            self.is_running = False
            error = raised
        end_copies(self.pid, error)  # before this process writes to the page, which they share
        self.page.deadline = 0.0
        signal.alarm(0)  # one of the function's own does not outlive it
        _leave(token)
        return result, error, time.monotonic() - started

    def hook(self, when: str, *arguments: Any) -> None:
        """Call a hook. Whatever it raises is logged and harms no job."""
        if hook := self.hooks.get(when):
            _, error, _ = self.run((hook, arguments, {}), HOOK_S, None)
            if error:
                self.diary.log.error("event=hook-failed hook=%s", when, exc_info=error)

    def interrupt(self, signum: int, frame: FrameType | None) -> None:
        """The supervisor says that time is up. The job that it means may have ended since."""
        if self.is_running and 0 < self.page.deadline <= time.monotonic():
            self.is_running = False  # once
            raise JobTimeoutException(
                f"Task exceeded maximum timeout value ({self.limit_s} seconds)"
            )

    def _look_up(self, path: str) -> Callable[..., Any]:
        function: Callable[..., Any] = import_attribute(path)
        self.functions[path] = function
        bound_logs(self.page)  # its module may have set up logging
        return function
