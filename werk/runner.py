"""Users' code: the registered functions and the hooks, under a time limit that they cannot swallow.

The alarm raises in the function. One that takes no notice is ended by the supervisor, which reads
the deadline in the page.
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

from werk.claim import Claim
from werk.diary import Diary
from werk.page import LONGEST_RUN, Page
from werk.settings import Settings
from werk.wire import SCALARS

HOOK_S = 10  # time limit of a hook
LONGEST_TIMEOUT_S = 10**8  # setitimer takes no more on some systems


class JobId:
    """RQ_JOB_ID in the environment, as in RQ: for a job, and for what it starts.

    Its line in the environment is our own memory, by putenv(3). os.environ calls setenv(), which
    keeps each value for ever and compares the next one with them: 3 us a job.
    """

    _LINE = ctypes.create_string_buffer(b"RQ_JOB_ID=", LONGEST_RUN)  # as long as the environment

    def __init__(self) -> None:
        self._putenv = ctypes.CDLL(None).putenv
        self._environ: dict[bytes, bytes] = os.environ._data  # type: ignore[attr-defined]

    def set(self, job_id: bytes) -> None:
        self._LINE.value = b"RQ_JOB_ID=" + job_id
        self._putenv(self._LINE)  # each time: a job may have set its environment anew
        self._environ[b"RQ_JOB_ID"] = job_id


class Runner:
    """Calls users' code."""

    def __init__(self, page: Page, diary: Diary) -> None:
        self.page, self.diary, self.job_id = page, diary, JobId()
        self.functions: dict[str, Callable[..., Any]] = {}
        self.hooks: dict[str, Callable[..., Any]] = {}
        self.is_running = False  # what the alarm may interrupt
        self.limit_s = 0

    def arm(self) -> None:
        """Take the alarm, also back from RQ's death penalty, which leaves the default: to kill."""
        self.is_running = False
        signal.signal(signal.SIGALRM, self._alarm)

    def add_hooks(self, settings: Settings) -> None:
        for when in ("before", "after", "error"):
            if path := getattr(settings, f"hooks_{when}"):
                try:
                    self.hooks[when] = import_attribute(path)
                except Exception:
                    self.diary.log.exception("event=hook-left-out hook=%s path=%s", when, path)

    def run(
        self,
        claim: Claim,
        job: Job,
        function: str | Callable[..., Any],
        args: tuple[Any, ...],
        kwargs: dict[str, Any],
    ) -> tuple[Any, BaseException | None]:
        """Call a function under its job's limit. Returns its result, and what it raised."""
        result: Any = None
        error: BaseException | None = None
        token = _current_job.set(job)
        try:
            self._start(claim.timeout)
            if isinstance(function, str):
                function = self.functions.get(function) or self._look_up(function)
            result = function(*args, **kwargs)
            if type(result) not in SCALARS and asyncio.iscoroutine(result):  # RQ's test
                result = asyncio.run(result)
            self.is_running = False
        except BaseException as raised:  # SystemExit too: as in RQ, it fails the job alone
            self.is_running = False
            error = raised
        self._end()
        _current_job.reset(token)
        return result, error

    def hook(self, when: str, *arguments: Any) -> None:
        """Call a hook. Whatever it raises is logged and harms no job."""
        if hook := self.hooks.get(when):
            try:
                self._start(HOOK_S)
                hook(*arguments)
                self.is_running = False
            except BaseException:
                self.is_running = False
                self.diary.log.exception("event=hook-failed hook=%s", when)
            self._end()

    def _start(self, limit_s: int) -> None:
        self.limit_s, self.is_running = limit_s, True
        if limit_s > 0:
            self.page.deadline = time.monotonic() + limit_s
            signal.setitimer(signal.ITIMER_REAL, min(limit_s, LONGEST_TIMEOUT_S))

    def _end(self) -> None:
        self.page.deadline = 0.0  # the alarm stays set: it will find nothing, or be set anew

    def _alarm(self, signum: int, frame: FrameType | None) -> None:
        if self.is_running and self.limit_s > 0:
            self.is_running = False  # once
            raise JobTimeoutException(
                f"Task exceeded maximum timeout value ({self.limit_s} seconds)"
            )

    def _look_up(self, path: str) -> Callable[..., Any]:
        function: Callable[..., Any] = import_attribute(path)
        self.functions[path] = function
        return function
