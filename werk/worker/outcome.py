"""Outcome: how an execution ended, for step.lua. Recorder: records all but plain successes.

The recorder uses RQ's own methods, callbacks included, behind fences. What RQ cannot record comes
back as an outcome for step.lua, which fails the job, or discards the outcome as late.
"""

from __future__ import annotations

import base64
import logging
import zlib
from collections.abc import Callable
from datetime import datetime, timezone
from functools import partial
from typing import Any, NamedTuple

import redis.exceptions
from rq.executions import Execution
from rq.job import Job
from rq.queue import Queue

from werk.errors import WerkError, described
from werk.log_format import Event
from werk.printable import printable, storable
from werk.registry import FAILURE_TTL_S, LONGEST_S
from werk.store import failures, keys
from werk.store.keys import text
from werk.store.limits import DEFER_S, ERROR_LENGTH, UNKNOWN_S
from werk.store.scripts import Script, script
from werk.worker import rq_classes, webhooks
from werk.worker.causes import STOPPED, cause_of, shown
from werk.worker.claim import Claim, Refused, Unknown
from werk.worker.counters import Counters
from werk.worker.forks import alone
from werk.worker.log import JobLog
from werk.worker.redis_side import FINISH_S, Unusable
from werk.worker.rq_side import RQSide
from werk.worker.shared_state import SharedState

MOST_UNDONE = 3  # how often an outcome that Redis has lost is recorded again

Record = Callable[[Job, Queue, Execution], object]


class Undone(WerkError):
    """Raised when an acknowledged outcome is not in Redis: the master was replaced by one that had
    not received it."""


class Outcome(NamedTuple):
    """What step.lua needs to finish an execution: its arguments, in this order."""

    job: bytes  # its id
    queue: bytes
    execution: str  # its id
    status: str  # finished, failed, stopped, scheduled: deferred; or 'failed <cause>': see final()
    keep_s: int  # how long the job is kept
    until: bytes  # when that ends; if deferred, when the job is due; on Redis's clock
    value: bytes  # base64 of the result or the traceback; if deferred, since when, and why
    claimed_at: bytes  # Unix seconds
    failure: str  # what a failure is counted under (store/failures.py); '' for other outcomes

    @property
    def run(self) -> str:
        return f"{self.job.decode('utf-8', 'replace')}:{self.execution}"


# Outcome(...) would be a call of a Python function: 2 % of a horse's time for a job.
_new: Callable[[tuple[Any, ...]], Outcome] = partial(tuple.__new__, Outcome)


def success(claim: Claim, keep_s: int, value: bytes, now: float) -> Outcome:
    """Return a success that step.lua can record; `now` on Redis's clock."""
    return _new((
        claim.job, claim.origin, claim.execution, "finished", keep_s, b"%d" % (now + keep_s), value,
        claim.claimed_at, "",
    ))  # fmt: skip


def failure(
    claim: Claim | Outcome,
    reason: str,
    now: float,
    status: str = "failed",
    keep_s: int = FAILURE_TTL_S,
    task: str = "",
) -> Outcome:
    """Return a failure, or a stop, that is recorded without RQ's code, which may not even be able
    to read the record. `reason` is the last line of what RQ would store; `task` is its name, if the
    claim is not known."""
    value = base64.b64encode(zlib.compress(storable(reason).encode()))
    if isinstance(claim, Claim):
        queue, task = claim.origin, text(claim.task)
    else:
        queue = claim.queue
    counted = failures.field(task or "?", reason) if status == "failed" else ""
    ended = (claim.job, queue, claim.execution, status)
    return Outcome(*ended, keep_s, b"%d" % (now + keep_s), value, claim.claimed_at, counted)


def deferral(claim: Claim, due: float, since: float, why: Exception) -> Outcome:
    """Return the outcome that defers a job until `due`; it has been deferred since `since`."""
    ended = (claim.job, claim.origin, claim.execution, "scheduled")
    reason = f"{since!r} {printable(str(why))[:ERROR_LENGTH]}".encode()
    return Outcome(*ended, 0, repr(due).encode(), reason, b"", "")


def misplaced(outcome: Outcome, now: float, task: str) -> Outcome:
    """Return a failure for an outcome that has no place: its set, such as finished:<queue>, has
    another type. `task` is the name of the job's task."""
    key = keys.key(outcome.status, text(outcome.queue))
    why = Refused(f"its outcome cannot be recorded: {key} is not a sorted set")
    return failure(outcome, shown(why), now, task=task)


class Recorder:
    """Records outcomes with RQ's own methods."""

    def __init__(
        self,
        worker: RQSide,
        shared: SharedState,
        log: JobLog,
        counters: Counters,
        fence: Script,
    ) -> None:
        self.worker, self.shared, self.log, self.counters = worker, shared, log, counters
        self.lazy_class = rq_classes.lazy(worker.job_class, worker)
        # Returns the job for get_current_job(), which is read from Redis when it is first used.
        self.job: Callable[[str], Job] = partial(rq_classes.unread, self.lazy_class)
        self.fence = fence
        for version in ((), worker.server_version()):  # read from its file while one can be opened
            script("count_failure", version)
        worker.ask_fence, worker.redis_time = self.ask_fence, shared.now
        webhooks.made_progress = shared.extend_finish
        webhooks.count_failure = counters.add_failed_webhook

    def succeed(
        self, claim: Claim, job: Job, result: Any, not_kept: str | None = None
    ) -> Outcome | None:
        """Record a success; `not_kept`: why the result cannot be stored, if known."""

        def record(job: Job, queue: Queue, execution: Execution) -> None:
            self.worker.record_success(job, queue, execution, result, not_kept or "")

        return self.record(claim, job, record)

    def fail(self, claim: Claim, job: Job, error: BaseException) -> Outcome | None:
        trace = error.__traceback__
        trace = (trace and trace.tb_next) or trace  # without our own line

        def record(job: Job, queue: Queue, execution: Execution) -> None:
            try:  # handle the error as RQ does, so that a failing callback's traceback shows it
                raise error.with_traceback(trace)
            except BaseException:
                self.worker.record_failure(job, queue, execution, (type(error), error, trace))

        return self.record(claim, job, record)

    def refuse(self, claim: Claim, job: Job, why: Exception) -> Outcome | None:
        """Fail a job at once; or defer it, if this worker may just be older than the job."""
        since = self._unknown_since(claim) if isinstance(why, Unknown) else None
        if since is not None:
            self.log.event("deferred", {**claim.facts(), "reason": why})
            return deferral(claim, self.shared.now() + DEFER_S, since, why)
        self.log.event("refused", {**claim.facts(), "reason": why}, logging.ERROR)
        self.counters.add_failure(text(claim.task))
        reason = described(why)

        def record(job: Job, queue: Queue, execution: Execution) -> None:
            job.retries_left = None  # it would be refused again
            job.ended_at = datetime.now(timezone.utc)
            self.worker.handle_job_failure(job, queue, exc_string=reason, execution=execution)

        return self.record(claim, job, record, reason, cause_of(why))

    def record(
        self,
        claim: Claim,
        job: Job,
        record: Record,
        reason: str = "",
        cause: str = "",
    ) -> Outcome | None:
        """Have RQ's code record an outcome. Return None, or a failure if it did not.

        Pass `reason` and `cause` if the outcome is a failure that is known before RQ's code runs.
        """
        trouble = self._try_to_record(claim, job, record, cause)
        for _ in range(MOST_UNDONE):
            if type(trouble) is not Undone:
                break
            trouble = self._try_to_record(claim, self.job(claim.id), record, cause)
        if trouble is None:
            return None
        now, keep_s = self.shared.now(), self.failure_ttl(claim.id)
        ended = failure(claim, reason or shown(trouble), now, keep_s=keep_s)
        return self.final(ended, cause or cause_of(trouble))

    def failure_ttl(self, job_id: str) -> int:
        """Return how many seconds a failed job is kept; the default if its record is unreadable."""
        try:
            with self.shared.watched(FINISH_S):
                found = self.worker.connection.hget(keys.key("job", job_id), "failure_ttl")
            seconds = int(found or "")
        except (redis.exceptions.ResponseError, ValueError):
            return FAILURE_TTL_S
        if seconds < 0:
            return LONGEST_S  # for RQ it never expires
        return min(seconds, LONGEST_S) if seconds > 0 else FAILURE_TTL_S

    def final(self, outcome: Outcome, cause: str) -> Outcome:
        """Have step.lua note a failure for the handler of WERK_ON_GIVE_UP, if there is one."""
        if outcome.status != "failed" or cause == STOPPED or not self.worker.on_final_failure:
            return outcome
        self.worker.on_final_failure()
        return outcome._replace(status=f"failed {cause}")

    def _try_to_record(
        self, claim: Claim, job: Job, record: Record, cause: str
    ) -> BaseException | None:
        """Return why RQ's code did not record an outcome, or None. Raises Unusable."""
        try:
            with self.shared.watched(FINISH_S):
                queue, execution = self.worker.begin_execution(claim, job)
                self.begin_finish(job)
                self.worker.cause = cause or self.worker.cause
                with alone():  # in here, because a copy must not write to the shared state
                    record(job, queue, execution)
                if self.is_recorded(claim):
                    return None
                if self.worker.has_committed:
                    return Undone("Redis has lost the outcome: its master was replaced")
            return RuntimeError("RQ did not record the outcome")
        except Unusable:
            raise
        except BaseException as error:
            self.log.log.debug(Event("unrecorded", job=claim.id), exc_info=True)
            return error
        finally:
            self.worker.end_execution()

    def begin_finish(self, job: Job) -> None:
        """Note that RQ's code begins to record the outcome of a job and to call its callbacks."""
        callbacks_s = float(job.success_callback_timeout) + float(job.failure_callback_timeout)
        self.shared.begin_finish(FINISH_S + callbacks_s)

    def is_recorded(self, claim: Claim) -> bool:
        wip = keys.key("wip", "").encode() + claim.origin
        run = claim.job + f":{claim.execution}".encode()
        return self.worker.connection.zscore(wip, run) is None

    def is_taken(self, claim: Claim) -> bool:
        """Return whether others took a job while the reply to its claim was on the way."""
        try:
            with self.shared.watched(FINISH_S):
                is_taken = self.is_recorded(claim)
        except redis.exceptions.ResponseError:  # no sorted set
            return False
        if is_taken:
            self.log.event("late", claim.facts(), logging.WARNING)
        return is_taken

    def ask_fence(self, run: str, job: Job) -> bool:
        """Return whether the execution still owns its job, and delay a rescue for a while.

        Raises Refused if a key that RQ would write is of another type.
        """
        if not self.shared.finishing:  # in RQ's perform_job: user code ran until now
            self.begin_finish(job)
        worker = self.worker
        words = (run, job.origin, worker.recording_s, worker.name)
        reply = worker.connection.eval(self.fence.text, 0, *words)
        if isinstance(reply, bytes):
            raise Refused(f"RQ cannot record the outcome: {text(reply)}")
        return bool(reply)

    def _unknown_since(self, claim: Claim) -> float | None:
        """Return since when its task has been unknown, by Redis's clock; None if for too long.

        Whatever records the failure deletes the field, so that a retried job has the full time
        again: if it were deleted before, a job whose horse dies in between would have it, too.
        """
        now = self.shared.now()
        with self.shared.watched(FINISH_S):
            found = self.worker.connection.hget(keys.key("job", claim.id), keys.UNKNOWN_SINCE)
        try:
            since = min(float(found or now), now)
        except ValueError:
            since = now
        return since if now < since + UNKNOWN_S else None
