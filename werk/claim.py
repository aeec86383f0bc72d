"""What step.lua gives and takes: a job in the horse's hand, and an outcome on its way to Redis."""

from __future__ import annotations

import base64
import re
import time
import traceback
import zlib
from typing import Any, NamedTuple

from werk import records, registry, signature, wire
from werk.errors import ArgumentError, UnknownTask
from werk.page import LONGEST_RUN
from werk.records import Refused
from werk.wire import iso as iso
from werk.wire import text

DEFAULT_TIMEOUT_S = 180  # rq.defaults.DEFAULT_TIMEOUT
FAILURE_TTL_S = 30 * 24 * 3600  # of a job whose own cannot be read
JOB_ID = re.compile(r"[A-Za-z0-9_-]+")  # rq/job.py

Call = tuple[str, tuple[Any, ...], dict[str, Any]]


class Unknown(UnknownTask):
    """Raised for a task, or a version of it, that this worker does not know; another may, or this
    one after a deploy."""


class Claim:
    """One execution, from step.lua's reply: its fields, the job, the queue it waited in."""

    __slots__ = (
        "attempt", "callbacks", "claimed_at", "data", "execution", "id", "is_plain", "origin",
        "queue", "raw_id", "result_ttl", "result_ttl_text", "run", "status", "task", "task_name",
        "timeout", "timeout_text",
    )  # fmt: skip

    def __init__(self, claimed: list[Any], execution: str, claimed_at: str) -> None:
        (self.origin, self.status, attempt, self.data, self.timeout_text, self.result_ttl_text,
         self.task_name, *special, job_id, self.queue) = claimed  # fmt: skip
        self.raw_id, self.id = job_id, job_id.decode("utf-8", "replace")
        self.execution, self.run = execution, f"{self.id}:{execution}"
        self.claimed_at = claimed_at  # Unix seconds
        self.callbacks = special[:3]
        self.is_plain = not any(special)  # RQ stores '' for callbacks that are not used
        self.attempt = int(attempt)
        self.task = ""
        self.timeout = DEFAULT_TIMEOUT_S
        self.result_ttl = 0

    def check(self, default_result_ttl: int) -> None:
        """Read the numbers. Raises Refused for a record that no enqueue of RQ's or ours writes."""
        if self.status:
            raise Refused(f"its status was {text(self.status)[:100]!r}, which RQ does not know")
        if len(self.run) > LONGEST_RUN or not JOB_ID.fullmatch(self.id):
            raise Refused("its id is none: letters, digits, - and _, not too many")
        try:
            self.timeout = int(self.timeout_text or 0) or DEFAULT_TIMEOUT_S
            ttl = self.result_ttl_text
            self.result_ttl = int(ttl) if ttl else default_result_ttl
        except ValueError:
            raise Refused("its timeout or result_ttl is no whole number") from None

    def call(self) -> Call:
        """Return path, args and kwargs, if the task is registered. Imports nothing.

        Raises Refused, Unreadable, or Unknown where only the name of the task is unknown.
        """
        path, args, kwargs = wire.read_call(self.data or b"")
        if self.task_name:
            self.task = text(self.task_name)
            task = registry.BUILT_IN.get(self.task) or registry.tasks().get(self.task)
            if task is None:
                raise Unknown(f"no task is called {self.task[:100]!r} here")
            path = task.path
        else:
            records.permit(path)
        if not self.is_plain:
            for name in self.callbacks:
                records.permit(text(name))
        return path, args, kwargs

    def misfit(
        self, error: BaseException, path: object, args: tuple[Any, ...], kwargs: dict[str, Any]
    ) -> Unknown | None:
        """Return why a call did not even begin: it was checked against other parameters than ours.

        Where ours cannot be read, nobody has checked it: then it is an error like others.
        """
        trace = error.__traceback__
        if type(error) is not TypeError or not trace or trace.tb_next or type(path) is not str:
            return None
        task = self.task_name and registry.tasks().get(self.task)
        try:
            if task:
                signature.read(path).bind(args, kwargs, task=self.task, secret=task.secret)
        except ArgumentError as other:
            return Unknown(f"this worker has another version of the task: {other}")
        return None


class Finish(NamedTuple):
    """An outcome: ARGV 14.. of step.lua, and what RQ needs if it must record it after all."""

    words: tuple[Any, ...]
    claim: Claim
    job: Any = None
    result: Any = None


NO_FINISH = Finish((), None)  # type: ignore[arg-type]


def success(claim: Claim, value: bytes, job: Any, result: Any) -> Finish:
    return Finish(_words(claim, "finished", claim.result_ttl, value), claim, job, result)


def failure(claim: Claim, error: BaseException) -> Finish:
    """A failure without RQ's help: for a record that RQ cannot even read."""
    reason = "".join(traceback.format_exception_only(error)).strip()
    value = base64.b64encode(zlib.compress(reason.encode("utf-8", "replace")))
    return Finish(_words(claim, "failed", FAILURE_TTL_S, value), claim)


def put_off(claim: Claim, due: float) -> Finish:
    words = (claim.raw_id, claim.origin, claim.execution, "scheduled", 0, repr(due), b"", "")
    return Finish(words, claim)


def _words(claim: Claim, outcome: str, keep_s: int, value: bytes) -> tuple[Any, ...]:
    until = int(time.time()) + keep_s
    return (claim.raw_id, claim.origin, claim.execution, outcome, keep_s, until, value,
            claim.claimed_at)  # fmt: skip
