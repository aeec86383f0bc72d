"""FinalFailures: calls the handler of WERK_ON_GIVE_UP for each job that has finally failed.

The command that fails a job also appends the failure to the list werk:gave-up in Redis. A horse
takes it from there, calls the handler, and removes it. If a horse is killed meanwhile, its
supervisor puts the failure back, or another worker's tick does (put_back_failures in hands.lua). So
the handler is called at least once, and again only if a horse was killed. While more failures wait
than MOST_GAVE_UP, a tick drops the oldest.
"""

from __future__ import annotations

import importlib
import inspect
import logging
import time
from collections.abc import Callable
from importlib.util import find_spec
from typing import TYPE_CHECKING, Any

import redis.exceptions
from rq.job import Job

from werk.errors import Unreadable, described
from werk.log_format import Event
from werk.printable import printable
from werk.store import keys, payload
from werk.store.keys import text
from werk.store.limits import MOST_RESULTS
from werk.worker import rq_classes
from werk.worker.causes import WAITING
from werk.worker.imported import import_function
from werk.worker.log_stream import bound_logs
from werk.worker.redis_side import FINISH_S, Unusable
from werk.worker.scripts import script

if TYPE_CHECKING:
    from werk.worker.outcome import Recorder
    from werk.worker.runner import Runner

HANDLER_S = 10  # time limit of a call of the handler
TURN_S = 1.0  # how long a horse calls the handler before it looks for a job
MOST_KILLED = 3  # horses that may die of one failure's handler
MOST_DIGITS = 8  # of that number: something else may have written there


class _IsModule(Exception):
    """Raised if the setting names a module."""


def _import_handler(path: str) -> Any:
    try:
        found: Any = import_function(path)
    except ValueError:  # RQ looks for an attribute, and imports no module below a package
        if not _is_module(path):
            raise
        found = importlib.import_module(path)
    if inspect.ismodule(found):
        raise _IsModule(f"{path} is a module; name a function in it")
    return found


def _is_module(path: str) -> bool:
    try:
        return find_spec(path) is not None
    except (ImportError, ValueError):
        return False


class FinalFailures:
    """Takes final failures one by one. Lives in the horse; without a handler it does nothing."""

    handler: Callable[..., Any] | None = None

    def __init__(self, path: str | None, recorder: Recorder, runner: Runner) -> None:
        self.path, self.recorder, self.runner = path, recorder, runner
        self.client: Any = recorder.worker.connection
        self.shared = recorder.shared
        self.log = recorder.log
        name = recorder.worker.name
        self.in_hand = keys.key("werk", "gave-up", name)
        self.take_words = script("take_failure", recorder.worker.server_version()).text, 0, name
        self.not_before = 0.0  # a busy horse calls the handler for half of its time at most

    def prepare(self) -> bool:
        """Import the handler. Return False, and log why, if it cannot be imported."""
        if not self.path:
            return True
        handler, error, _ = self.runner.run(_import_handler, (self.path,), {}, None)
        bound_logs(self.shared)  # its module may have set up logging
        if error is None and not callable(handler):
            error = TypeError("not a function; write def gave_up(job, cause, traceback)")
        if error is not None:
            why = f"cannot import {self.path}: {described(error)}"
            why = str(error) if type(error) is _IsModule else why
            self.log.log.error("WERK_ON_GIVE_UP: %s", printable(why))
            return False
        self.runner.imported()
        self.handler = handler
        return True

    @property
    def places(self) -> list[str]:
        """The list that an idle horse watches besides its queues."""
        return [] if self.handler is None else [WAITING]

    def may_be_due(self) -> bool:
        """Return whether a busy horse may call the handler again."""
        return self.handler is not None and time.monotonic() >= self.not_before

    def are_due(self) -> bool:
        """Return whether a busy horse has to call the handler."""
        if not self.may_be_due():
            return False
        with self.shared.watched(FINISH_S):
            return bool(self.client.exists(WAITING))

    def handle(self) -> bool:
        """Call the handler for what waits, for about TURN_S. Return whether anything waited."""
        if self.handler is None:
            return False
        began, found = time.monotonic(), False
        while not self.shared.stop and time.monotonic() < began + TURN_S:
            with self.shared.watched(FINISH_S):
                failure = self.client.eval(*self.take_words)
            if not failure:
                break
            found = True
            self._handle(failure)
            with self.shared.watched(FINISH_S):
                self.client.lrem(self.in_hand, 1, failure)
        now = time.monotonic()
        self.not_before = now + (now - began)
        return found

    def _handle(self, failure: bytes) -> None:
        killed, _, cause, execution, job_id = (*map(text, failure.split(b" ", 4)), *[""] * 4)[:5]
        killed = killed[:MOST_DIGITS]
        if not job_id:  # something else has written there
            why = f"unreadable entry: {text(failure[:100])}"
            self.log.event("give-up-failed", {"reason": why}, logging.ERROR)
        elif killed.isdecimal() and int(killed) >= MOST_KILLED:
            why = f"{killed} horses were killed while they called the handler"
            self.log.event("give-up-failed", {"job": job_id, "reason": why}, logging.ERROR)
        else:
            with self.shared.watched(FINISH_S):
                job, trace = self._job(job_id), self._traceback(job_id, execution)
            self._call(job, cause, trace)

    def _call(self, job: Job, cause: str, trace: str) -> None:
        runner = self.runner
        runner.arm(HANDLER_S)
        _, error, _ = runner.run(self.handler, (job, cause, trace), {}, None)
        if error is not None:
            facts = Event("give-up-failed", job=job.id, reason=described(error))
            self.log.log.error(facts, exc_info=(type(error), error, error.__traceback__))
        else:
            self.log.event("gave-up", {"job": job.id, "reason": cause})

    def _job(self, job_id: str) -> Job:
        """Return the job as it is now. It has only its id if its record cannot be read."""
        try:
            return rq_classes.load(self.recorder.job(job_id))
        except Unusable:
            raise
        except Exception:
            return rq_classes.blank(self.recorder.worker, job_id)

    def _traceback(self, job_id: str, execution: str) -> str:
        """Return the text that is kept with this execution of a job, '' if there is none."""
        try:
            found = self.client.xrevrange(keys.key("results", job_id), count=MOST_RESULTS)
            for _, fields in found:
                if text(fields.get(b"execution_id")) == execution:
                    return payload.read_exception(fields)
        except (redis.exceptions.ResponseError, Unreadable):
            pass
        return ""
