"""Every outcome but a plain success: recorded by RQ's own methods, callbacks and all, and fenced.

What RQ cannot record comes back with words for step.lua: to fail it, or to discard it as late.
"""

from __future__ import annotations

import logging
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from datetime import datetime, timezone
from typing import TYPE_CHECKING, Any

import redis.exceptions
from rq.executions import Execution
from rq.job import Job
from rq.queue import Queue

from werk.registry import LONGEST_S
from werk.store import payload as wire
from werk.store.payload import text
from werk.store.scripts import script
from werk.worker import records, webhooks
from werk.worker.channel import FINISH_S, Unusable
from werk.worker.claim import FAILURE_TTL_S, Claim, Unknown, failure
from werk.worker.counters import Counters
from werk.worker.frame import Frame
from werk.worker.log import Diary
from werk.worker.process import end_copies
from werk.worker.records import Late, Refused
from werk.worker.runner import Runner
from werk.worker.shared_state import Order, Page

if TYPE_CHECKING:
    from werk.worker import Worker

PUT_OFF_S = 10  # of a task that this worker does not know
UNKNOWN_S = 600  # after it was first put off, it fails

Record = Callable[[Job, Queue, Execution], object]


class Recorder:
    """RQ's own way."""

    def __init__(
        self, worker: Worker, page: Page, diary: Diary, runner: Runner, counters: Counters
    ) -> None:
        self.worker, self.page, self.diary, self.runner = worker, page, diary, runner
        self.counters = counters
        self.lazy_class = records.lazy(worker.job_class, worker)
        self.fence = script("fence", worker.server_version())
        worker.ask_fence, worker.redis_time = self.ask_fence, page.now
        webhooks.made_progress = page.extend_finish
        webhooks.count_failure = counters.add_failed_webhook

    def job(self, job_id: str) -> Job:
        """Return what get_current_job() gives: read from Redis only if it is touched."""
        job = self.lazy_class.__new__(self.lazy_class)
        job._id = job_id
        return job

    def succeed(
        self, claim: Claim, job: Job, result: Any, not_kept: str | None = None
    ) -> Claim | None:
        """Record a success; `not_kept` is why the result cannot be stored, if that is known."""

        def record(job: Job, queue: Queue, execution: Execution) -> None:
            self.worker.not_kept = not_kept or ""
            try:
                self.worker._finalize_success(job, queue, execution, result)
            except Late:
                raise
            except BaseException:  # a success callback that fails: the job fails, as in RQ
                self.worker._finalize_failure(job, queue, execution, sys.exc_info())

        return self._record(claim, job, record)

    def fail(self, claim: Claim, job: Job, error: BaseException) -> Claim | None:
        trace = error.__traceback__
        trace = (trace and trace.tb_next) or trace  # without our own line

        def record(job: Job, queue: Queue, execution: Execution) -> None:
            try:  # as in RQ, it is being handled: so what a failing callback raises shows it too
                raise error.with_traceback(trace)
            except BaseException:
                shown = (type(error), error, trace)
                self.worker._finalize_failure(job, queue, execution, shown)

        return self._record(claim, job, record)

    def perform(self, frame: Frame, job: Job) -> Claim | None:
        """Have RQ's methods perform a job, and what is patched around them."""
        page, runner, trouble = self.page, self.runner, None
        left = page.deadline - time.monotonic() if page.deadline else None
        page.begin_finish(FINISH_S)  # the time that it takes to read the job is not the task's
        try:
            with self._execution(frame.claim, job) as (queue, execution):
                frame.enter(job, execution)
                page.end_finish()
                page.deadline = 0.0 if left is None else time.monotonic() + left
                runner.resume()
                self.worker.execute_job(job, queue)
        except Unusable:
            raise
        except BaseException as error:
            trouble = error
        finally:
            runner.is_running, self.worker.frame = False, None
        end_copies(runner.pid, trouble)
        try:
            return self._outcome(frame, job, trouble)
        finally:
            self.diary.current = None
            page.end_finish()

    def _outcome(self, frame: Frame, job: Job, trouble: BaseException | None) -> Claim | None:
        """Return the finish of what was performed in a frame; None if that is recorded.

        `trouble` is what came out of the frame: of what is patched, or of RQ's own code.
        """
        claim = frame.claim
        if frame.misfit:
            return self.refuse(claim, job, frame.misfit)
        if frame.has_begun and not frame.is_over:  # nobody has recorded anything
            trouble = trouble or RuntimeError("perform_job returned and the job did not run")
            frame.fail(trouble)
            return self.fail(claim, job, trouble)
        finish = frame.leave()
        if not finish and (why_not := self._why_open(claim, trouble)):
            return failure(claim, why_not, self.page.now())
        if trouble:
            shown = f"{type(trouble).__name__}: {trouble}"
            self.diary.tell("patch-failed", claim, logging.WARNING, reason=shown)
        return finish

    def _why_open(self, claim: Claim, trouble: BaseException | None) -> BaseException | None:
        """Return why an execution is not recorded, None if it is."""
        if isinstance(trouble, Late):
            return trouble
        try:
            is_closed = self._is_closed(claim)
        except redis.exceptions.ResponseError as error:
            return trouble or error
        return None if is_closed else trouble or RuntimeError("RQ did not record the outcome")

    def refuse(self, claim: Claim, job: Job, why: Exception) -> Claim | None:
        """Fail a job at once; or put it off, where this worker may only be older than the job."""
        since = self._unknown_since(claim) if isinstance(why, Unknown) else None
        if since is not None:
            self.diary.tell("put-off", claim, reason=why)
            return claim.put_off(self.page.now() + PUT_OFF_S, since)
        self.diary.tell("refused", claim, logging.ERROR, reason=why)
        self.counters.add(claim.task, False)

        def record(job: Job, queue: Queue, execution: Execution) -> None:
            job.retries_left = None  # it would be refused again
            job.ended_at = datetime.now(timezone.utc)
            name = type(why).__name__
            self.worker.handle_job_failure(
                job, queue, exc_string=f"{name}: {why}", execution=execution
            )

        return self._record(claim, job, record, why)

    def obey(self, order: Order) -> Claim | None:
        """Fail an execution whose horse is dead, as RQ's worker does: handlers, retries and all."""
        if order.is_recorded:
            self._complete(order)
            return None
        worker, claim = self.worker, self._claim_of(order.run)

        def record(job: Job, queue: Queue, execution: Execution) -> None:
            if not self.ask_fence(order.run, job):
                raise Late(order.run)
            job.worker_name = None  # as RQ's supervisor writes it, from a copy of before the start
            if order.is_stopped:
                worker._stopped_job_id = job.id
                worker._handle_stopped_job(job, queue, execution)
                return
            job.ended_at = datetime.now(timezone.utc)
            if order.death:
                worker.handle_work_horse_killed(job, *order.death)  # type: ignore[no-untyped-call]
            worker.handle_job_failure(job, queue, exc_string=order.reason, execution=execution)

        event, level = (
            ("stopped", logging.WARNING) if order.is_stopped else ("failed", logging.ERROR)
        )
        self.diary.tell(event, claim, level, reason=order.reason)
        self.counters.add(claim.task, False)
        why = RuntimeError(order.reason)
        if order.is_raw:
            outcome = "stopped" if order.is_stopped else "failed"
            return failure(claim, why, self.page.now(), outcome, self._failure_ttl(claim.id))
        return self._record(claim, self.job(claim.id), record, why)

    def _failure_ttl(self, job_id: str) -> int:
        """Return how many seconds a job that failed is kept, as far as its record can be read."""
        try:
            seconds = int(self.worker.connection.hget(wire.key("job", job_id), "failure_ttl") or "")
        except (redis.exceptions.ResponseError, ValueError):
            return FAILURE_TTL_S
        return min(seconds, LONGEST_S) if seconds > 0 else FAILURE_TTL_S

    def _complete(self, order: Order) -> None:
        """Enqueue the dependents of a job whose horse died after it had recorded a failure."""
        worker, job_id = self.worker, order.run.rpartition(":")[0]
        self.page.begin_finish(FINISH_S)
        try:
            job = records.load(self.job(job_id))
            if not order.is_raw:
                worker._queue(job.origin).enqueue_dependents(job)
        except Unusable:
            raise
        except Exception as error:  # the job has expired, or cannot be read
            name = type(error).__name__
            self.diary.log.error("event=incomplete job=%s reason=%s: %s", job_id, name, error)
        worker.connection.zrem(records.COMMITTED, f"{order.run} {worker.name}")
        self.page.end_finish()

    def ask_fence(self, run: str, job: Job) -> bool:
        """Tell whether the execution is still its job's, and keep a rescue away for a while.

        Raises Refused if a key that RQ would write is of another type.
        """
        if not self.page.finishing:  # RQ's own perform_job: user code ran until now
            self.begin_finish(job)
        own = self.worker
        words = (run, job.origin, own.recording_s, own.name)
        reply = self.worker.connection.eval(self.fence.text, 0, *words)
        if isinstance(reply, bytes):
            raise Refused(f"RQ cannot record the outcome: {text(reply)}")
        return bool(reply)

    def _record(
        self, claim: Claim, job: Job, record: Record, why: BaseException | None = None
    ) -> Claim | None:
        trouble = why
        self.page.begin_finish(FINISH_S)
        try:
            with self._execution(claim, job) as (queue, execution):
                self.begin_finish(job)
                record(job, queue, execution)
                if self._is_closed(claim):
                    return None
            trouble = trouble or RuntimeError("RQ did not record the outcome")
        except Unusable:
            raise
        except BaseException as error:
            self.diary.log.debug("event=unrecorded job=%s", claim.id, exc_info=True)
            trouble = trouble or error
        finally:
            self.page.end_finish()
        return failure(claim, trouble, self.page.now())

    @contextmanager
    def _execution(self, claim: Claim, job: Job) -> Iterator[tuple[Queue, Execution]]:
        """Read the job, and have RQ's worker know its execution meanwhile."""
        worker = self.worker
        execution = Execution(claim.execution, claim.id, worker.connection, worker.name)
        execution.created_at = datetime.fromtimestamp(float(claim.claimed_at), timezone.utc)
        try:
            execution._job = records.load(job)
            job.redis_server_version = worker.server_version()
            worker.executions, worker.recorded_run = {execution.id: execution}, claim.run
            yield worker._queue(job.origin), execution
        finally:
            worker.executions, worker.recorded_run = {}, ""
            worker._stopped_job_id, worker.not_kept = None, ""

    def begin_finish(self, job: Job) -> None:
        """Note that RQ's code records the outcome of a job, callbacks and all."""
        callbacks_s = float(job.success_callback_timeout) + float(job.failure_callback_timeout)
        self.page.begin_finish(FINISH_S + callbacks_s)

    def _is_closed(self, claim: Claim) -> bool:
        wip = wire.key("wip", "").encode() + claim.origin
        run = claim.raw_id + f":{claim.execution}".encode()
        return self.worker.connection.zscore(wip, run) is None

    def _unknown_since(self, claim: Claim) -> float | None:
        """Return since when its task is unknown, on Redis's clock; None if that has been too long.

        It is forgotten then: whoever retries the job gives it as much time again.
        """
        key, field, now = wire.key("job", claim.id), "werk_unknown_since", self.page.now()
        try:
            since = min(float(self.worker.connection.hget(key, field) or now), now)
        except ValueError:
            since = now
        if now < since + UNKNOWN_S:
            return since
        self.worker.connection.hdel(key, field)
        return None

    def _claim_of(self, run: str) -> Claim:
        """Return the claim that a dead horse had, as far as it is needed."""
        job_id, _, execution = run.rpartition(":")
        facts: list[Any] = [None, None, None]
        try:
            key = wire.key("job", job_id)
            facts = self.worker.connection.hmget(key, "origin", "werk_attempt", "werk_task")
        except redis.exceptions.ResponseError:
            pass  # no hash: it will be found late
        origin, attempt, task = facts
        nothing: list[Any] = [None] * 5
        claimed = [origin, b"", attempt or 0, *nothing, job_id.encode(), b""]
        claim = Claim.of(claimed, execution, wire.clock()[1])
        claim.task = text(task)
        return claim
