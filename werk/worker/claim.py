"""What step.lua gives and takes: a job in the horse's hand, and an outcome on its way to Redis."""

from __future__ import annotations

import base64
import traceback
import zlib
from operator import itemgetter
from string import ascii_letters, digits
from typing import Any

from rq.exceptions import DeserializationError
from rq.job import Job

from werk import registry
from werk.errors import ArgumentError, UnknownTask, Unreadable
from werk.registry import DEFAULT_TIMEOUT_S, FAILURE_TTL_S, LONGEST_S
from werk.store import keys, payload
from werk.store.keys import iso as iso
from werk.store.keys import text
from werk.tasks import signature
from werk.worker import records
from werk.worker.records import Refused
from werk.worker.runner import Call

NEWER = b"werk_v "  # begins what step.lua says of a record that is newer than we are
LETTERS = f"{ascii_letters}{digits}_-".encode()  # of a job's id: rq/job.py
LENGTHS = range(1, 861)  # see page.LONGEST_RUN


Tasks = dict[Any, tuple[str, str]]  # by name, as Redis gives it, and by path: name and path


class Unknown(UnknownTask):
    """Raised for a task, or a version of it, that this worker does not know; another may, or this
    one after a deploy."""


class Claim(list[Any]):
    """One execution: what step.lua tells of a job, by name, and the words that tell it the outcome.

    It is that reply's list itself, and reads no more of it than it must: one is made for each job.
    """

    __slots__ = (
        "claimed_at", "execution", "id", "is_plain", "job", "raw_id", "result", "result_ttl",
        "task", "timeout", "words",
    )  # fmt: skip
    raw_id: bytes
    id: str
    execution: str
    claimed_at: str  # Unix seconds
    timeout: int
    result_ttl: int
    is_plain: bool  # step.lua can record its success
    job: Job  # of a success
    result: Any
    words: tuple[Any, ...]  # of the finish, for step.lua

    origin = property(itemgetter(0))
    queue = property(itemgetter(-1))  # it waited in

    @staticmethod
    def of(claimed: list[Any], execution: str, claimed_at: str) -> Claim:
        """Return the claim that an execution makes; its limits are known after check()."""
        claim = Claim(claimed)
        claim.raw_id = raw_id = claimed[8]
        claim.id, claim.task = raw_id.decode("utf-8", "replace"), "-"
        claim.execution, claim.claimed_at = execution, claimed_at
        return claim

    @property
    def run(self) -> str:
        return f"{self.id}:{self.execution}"

    @property
    def attempt(self) -> int:
        try:
            return int(self[2])
        except (TypeError, ValueError):  # of an order, whose record anybody may have written
            return 0

    def check(self, default_result_ttl: int) -> None:
        """Learn the limits. Reads no payload: its time limit is to begin first.

        Raises Refused for a record that no enqueue of RQ's or ours writes; Unknown for a newer one.
        """
        _, status, _, _, timeout, result_ttl, _, callbacks, raw_id, _ = self
        if status:
            if status.startswith(NEWER):
                theirs = text(status)[len(NEWER) : 100]
                raise Unknown(
                    f"its record is of version {theirs}, this worker reads {keys.RECORD_VERSION}"
                )
            raise Refused(f"its status was {text(status)[:100]!r}, which RQ does not know")
        if len(raw_id) not in LENGTHS or raw_id.translate(None, LETTERS):
            raise Refused("its id is none: letters, digits, - and _, not too many")
        try:
            limit = self.timeout = int(timeout or 0) or DEFAULT_TIMEOUT_S
            keep = self.result_ttl = int(result_ttl) if result_ttl else default_result_ttl
            if limit > LONGEST_S or keep > LONGEST_S:
                self.timeout, self.result_ttl = min(limit, LONGEST_S), min(keep, LONGEST_S)
        except ValueError:
            raise Refused("its timeout or result_ttl is no whole number") from None
        self.is_plain = not callbacks and self.result_ttl > 0

    def call(self, tasks: Tasks, reader: Any = None) -> Call:
        """Return the function or its path, args and kwargs, if it is registered. Imports nothing.

        Raises Refused; Unreadable; or Unknown where only the name of the task is unknown. With a
        `reader`, RQ's serializer, it is whatever RQ would run.
        """
        data, name, callbacks = self[3], self[6], self[7]
        if reader:
            call = _any_call(data or b"", reader)
            if type(call[0]) is str:
                self.task, _ = tasks.get(call[0], ("-", ""))
            return call
        try:
            path, args, kwargs = payload.read_call(data or b"")
        except Unreadable as why:
            raise why.with_traceback(None) from None  # its frames would keep what was read
        known = tasks.get(name or path)
        if not known:
            if name:
                self.task = text(name)
                raise Unknown(f"no task is called {self.task[:100]!r} here")
            raise Refused(records.unregistered(path))
        self.task, path = known
        for callback in callbacks or ():
            records.permit(text(callback))
        return path, args, kwargs

    def ended(self, outcome: str, keep_s: int, value: bytes, now: float) -> Claim:
        """Note the outcome, which the next step is to record; `now` on Redis's clock."""
        until = int(now) + keep_s
        self.words = (self.raw_id, self[0], self.execution, outcome, keep_s, until, value,
                      self.claimed_at)  # fmt: skip
        return self

    def succeeded(self, job: Job, result: Any, value: bytes, now: float) -> Claim:
        """Note a success that step.lua can record; if it cannot, RQ's code needs job and result."""
        self.job, self.result, keep_s = job, result, self.result_ttl
        self.words = (self.raw_id, self[0], self.execution, "finished", keep_s, int(now) + keep_s,
                      value, self.claimed_at)  # fmt: skip
        return self

    def put_off(self, due: float, since: float) -> Claim:
        """Note that the job is deferred until `due`, as it has been `since`; on Redis's clock."""
        times = (repr(due), repr(since))
        self.words = (self.raw_id, self[0], self.execution, "scheduled", 0, *times, "")
        return self

    def misfit(
        self, error: BaseException, path: object, args: tuple[Any, ...], kwargs: dict[str, Any]
    ) -> Unknown | None:
        """Return why a call did not even begin: it was checked against other parameters than ours.

        Where ours cannot be read, nobody has checked it: then it is an error like others.
        """
        trace = error.__traceback__
        if type(error) is not TypeError or not trace or trace.tb_next or type(path) is not str:
            return None
        task = self[6] and registry.tasks().get(self.task)
        try:
            if task:
                signature.read(path).bind(args, kwargs, task=self.task, secret=task.secret)
        except ArgumentError as other:
            return Unknown(f"this worker has another version of the task: {other}")
        return None


def _any_call(data: bytes, reader: Any) -> Call:
    """WERK_ALLOW_UNREGISTERED. What cannot be read fails as in RQ."""
    try:
        name, instance, args, kwargs = reader.loads(payload.decompress(data))
    except Exception:
        return _unreadable, (), {}
    return (getattr(instance, name) if instance else name), args, kwargs


def _unreadable() -> None:
    raise DeserializationError()


def failure(
    claim: Claim,
    error: BaseException,
    now: float,
    outcome: str = "failed",
    keep_s: int = FAILURE_TTL_S,
) -> Claim:
    """Return a failure, or a stop, that is recorded without RQ's code: it may not even be able to
    read the record."""
    reason = "".join(traceback.format_exception_only(error)).strip()
    value = base64.b64encode(zlib.compress(reason.encode("utf-8", "replace")))
    return claim.ended(outcome, keep_s, value, now)


def misplaced(claim: Claim, now: float) -> Claim:
    """A failure instead of an outcome whose set, finished:<queue> for one, is of another type."""
    key = keys.key(claim.words[3], text(claim.origin))
    return failure(claim, Refused(f"its outcome cannot be recorded: {key} is no sorted set"), now)
