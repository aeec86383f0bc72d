"""RQSide: RQ's worker as the horse uses it.

1. methods to record an outcome, for werk's own code
2. RQ's methods for performing a job: replaced by the horse's while there is a frame (frame.py)
3. RQ's methods for finishing a job: fenced, and with more facts, such as the failed attempts
"""

from __future__ import annotations

import sys
import time
from collections.abc import Callable
from datetime import datetime, timezone
from functools import partial
from typing import TYPE_CHECKING, Any

from redis.client import Pipeline
from redis.exceptions import ResponseError, WatchError
from rq.executions import Execution
from rq.job import Job, Retry
from rq.queue import Queue

from werk.log_format import Event
from werk.printable import storable
from werk.store import keys, payload
from werk.store.limits import MONTH_S
from werk.worker.attempts import Retried, number_results
from werk.worker.causes import RAISED, WAITING, cause_of, entry
from werk.worker.claim import Claim, Late
from werk.worker.forks import alone
from werk.worker.redis_side import Unusable
from werk.worker.results import why_not_kept
from werk.worker.retries import limit_retries
from werk.worker.rq_classes import load
from werk.worker.rq_loop import RQLoop

if TYPE_CHECKING:
    from werk.worker.frame import Frame

COMMITTED = keys.key("werk", "committed")


class RQSide(RQLoop):
    """RQ's worker with fenced methods for performing and finishing a job."""

    frame: Frame | None = None  # what is being performed with RQ's methods
    recording_s = 10.0  # how long a rescue leaves RQ's own finish alone: less than a lease
    ask_fence: Callable[[str, Job], bool] | None = None  # set by the horse: see Recorder
    not_kept = ""  # why the result of the execution being recorded cannot be stored, if known
    _mark = ""  # of a committed transaction, until everything that follows it is done
    has_committed = False  # Redis has acknowledged that outcome
    recorded_run = ""  # the execution whose outcome is being recorded; also after RQ's commit
    _attempt = 0  # its number
    _retried: Retried | None = None  # what to keep of it if the job is retried
    redis_time: Callable[[], float] = staticmethod(time.time)  # the horse sets its own
    on_final_failure: Callable[[], None] | None = None  # set by a horse with WERK_ON_GIVE_UP
    cause = RAISED  # of the failure that is being recorded
    _is_final = False  # and it is for the handler

    # --- recording an outcome

    def begin_execution(self, claim: Claim, job: Job) -> tuple[Queue, Execution]:
        """Read the job, and let RQ's code know its execution until end_execution()."""
        execution = Execution(claim.execution, claim.id, self.connection, self.name)
        execution.created_at = datetime.fromtimestamp(float(claim.claimed_at), timezone.utc)
        execution._job = load(job)
        job.redis_server_version = self.server_version()
        self.executions, self.recorded_run = {execution.id: execution}, claim.run
        self.has_committed, self._attempt = False, claim.number
        self._is_final, self.cause = False, RAISED
        return self.queue(job.origin), execution

    def end_execution(self) -> None:
        self.executions, self.recorded_run = {}, ""
        self._stopped_job_id, self.not_kept, self._retried = None, "", None

    def record_success(
        self, job: Job, queue: Queue, execution: Execution, result: Any, not_kept: str
    ) -> None:
        self.not_kept = not_kept
        try:
            with alone():
                self._finalize_success(job, queue, execution, result)
        except Late:
            raise
        except BaseException:  # a success callback that fails: the job fails, as in RQ
            self._finalize_failure(job, queue, execution, sys.exc_info())

    def record_failure(self, job: Job, queue: Queue, execution: Execution, exc_info: Any) -> None:
        self._finalize_failure(job, queue, execution, exc_info)

    def record_stop(self, job: Job, queue: Queue, execution: Execution) -> None:
        self._stopped_job_id = job.id
        self._handle_stopped_job(job, queue, execution)

    # --- performing, while there is a frame

    def execute_job(self, job: Job, queue: Queue) -> None:
        """Perform a job. In RQ's loop this runs in the parent process, and forks."""
        if self.frame:
            self.perform_job(job, queue, self.prepare_execution(job))
        else:
            super().execute_job(job, queue)

    def prepare_execution(self, job: Job) -> Execution:
        return self.frame.execution if self.frame else super().prepare_execution(job)

    def fork_work_horse(self, job: Job, queue: Queue) -> None:
        """Perform a job. RQ's execute_job, and copies of it in subclasses, call this method."""
        if self.frame:
            self.perform_job(job, queue, self.frame.execution)
        else:
            super().fork_work_horse(job, queue)

    def monitor_work_horse(self, job: Job, queue: Queue, execution: Execution) -> None:
        if not self.frame:
            super().monitor_work_horse(job, queue, execution)

    def prepare_job_execution(self, job: Job, remove_from_intermediate_queue: bool = False) -> None:
        if not self.frame:
            super().prepare_job_execution(job, remove_from_intermediate_queue)

    def _finalize_success(
        self, job: Job, queue: Queue, execution: Execution, return_value: Any
    ) -> None:
        if not (self.frame and self.frame.succeed(return_value)):
            super()._finalize_success(job, queue, execution, return_value)

    def _finalize_failure(
        self, job: Job, queue: Queue, execution: Execution, exc_info: Any
    ) -> None:
        error = exc_info[1]
        if self.frame and issubclass(type(error), (Late, Unusable)):
            raise error  # it comes from RQ's own code, which takes it for the task's
        if not self.frame or self.frame.fail(error):
            self.cause = cause_of(error)
            limit_retries(job, type(error))
            super()._finalize_failure(job, queue, execution, exc_info)

    # --- finishing

    def handle_execution_ended(self, job: Job, queue: Queue, heartbeat_ttl: int) -> None:
        """Check the fence. RQ calls this first, for any outcome. Raises Late."""
        if not self._is_ours(job):
            raise Late(self.recorded_run)
        super().handle_execution_ended(job, queue, heartbeat_ttl)

    def cleanup_execution(
        self, job: Job, pipeline: Pipeline, execution: Execution | None = None
    ) -> None:
        """Have RQ's transaction committed once, and only while the job is ours."""
        super().cleanup_execution(job, pipeline, execution)
        if self.ask_fence:
            number_results(pipeline, self._attempt)
            pipeline.hdel(job.key, keys.UNKNOWN_SINCE)
            if self._retried and execution:
                self._retried.keep(pipeline, job, execution, self.name)
            self._mark_commit(pipeline)
            pipeline.execute = partial(self._commit, job, pipeline)  # type: ignore[method-assign]

    def _mark_commit(self, pipeline: Pipeline) -> None:
        """Have a transaction leave a mark, so that after a lost reply it is not sent again.

        The mark stays until RQ has enqueued the dependents: see find_unfinished in tick.lua.
        """
        self._mark = f"{self.recorded_run} {self.name}"
        pipeline.zadd(COMMITTED, {self._mark: self.redis_time()})
        pipeline.expire(COMMITTED, MONTH_S)
        if self._is_final and self.on_final_failure:
            pipeline.rpush(WAITING, entry(self.cause, self.recorded_run, self.redis_time()))
            self.on_final_failure()

    def _commit(self, job: Job, pipeline: Pipeline, *args: Any, **kwargs: Any) -> Any:
        """Execute a transaction while the job is ours, once. Raises Late.

        The job is watched before the fence is asked, and a worker that takes the job over writes
        its hash: so a transaction that reaches Redis too late, or twice, changes nothing.
        """
        del pipeline.execute  # a reference cycle would keep the job's data
        starts_over = pipeline.watching  # in RQ's code, after a WatchError
        commands, replies, is_done = pipeline.command_stack, None, False
        while not is_done:
            pipeline.immediate_execute_command("WATCH", job.key)  # type: ignore[no-untyped-call]
            pipeline.explicit_transaction = True  # else RQ's next command would not be queued
            try:
                if self._is_ours(job):
                    replies = pipeline.execute(*args, **kwargs)
                elif not self._is_committed():
                    raise Late(self.recorded_run)
                is_done = True
            except WatchError:  # redis-py also raises it when the connection is lost
                is_done = self._is_committed()
                if starts_over and not is_done:
                    raise
                pipeline.command_stack = commands
        self.has_committed = True
        return replies

    def _is_committed(self) -> bool:
        return self.connection.zscore(COMMITTED, self._mark) is not None

    def _forget_commit(self) -> None:
        if self._mark:
            self.connection.zrem(COMMITTED, self._mark)
            self._mark = ""

    def _is_ours(self, job: Job) -> bool:
        """Ask the fence whether the execution that is being recorded still owns its job."""
        if self.frame:  # code that records an outcome itself comes here first
            self.frame.end(None)
        run = self.recorded_run
        return not (self.ask_fence and run) or self.ask_fence(run, job)

    def handle_exception(self, job: Job, *exc_info: Any) -> None:
        with alone():
            super().handle_exception(job, *exc_info)  # calls --exception-handler

    def handle_job_success(self, job: Job, queue: Queue, *args: Any, **kwargs: Any) -> None:
        """Store RQ's text for a result that cannot be stored. The callback has had the result."""
        if self.ask_fence and job.get_result_ttl(self.default_result_ttl) != 0:
            self.not_kept = self.not_kept or why_not_kept(self.serializer.dumps, job._result)
            if self.not_kept:
                self.log.warning(Event("unstored", job=job.id, reason=self.not_kept))
                job._result = payload.UNSERIALIZABLE
        super().handle_job_success(job, queue, *args, **kwargs)
        self._forget_commit()

    def increment_successful_job_count(self, pipeline: Pipeline | None = None) -> None:
        """Also store why the result was not kept. RQ calls this first where a job succeeds."""
        if self.not_kept and pipeline is not None:
            execution = next(iter(self.executions.values()))
            pipeline.hset(keys.key("job", execution.job_id), keys.NOT_KEPT, self.not_kept)
        super().increment_successful_job_count(pipeline)

    def increment_failed_job_count(self, pipeline: Pipeline | None = None) -> None:
        """Number the result as well. RQ calls this first in the transaction of a stored Retry."""
        if self.ask_fence and pipeline is not None:
            number_results(pipeline, self._attempt)
        super().increment_failed_job_count(pipeline)

    def handle_job_failure(self, job: Job, queue: Queue, *args: Any, **kwargs: Any) -> None:
        if "exc_string" in kwargs:
            kwargs["exc_string"] = storable(kwargs["exc_string"])
        self._retried, is_stopped = None, self._stopped_job_id == job.id
        if self.ask_fence and job.should_retry and not is_stopped:
            self._retried = Retried(job.get_retry_interval(), kwargs.get("exc_string", ""))
        elif self.on_final_failure:
            self._is_final = not is_stopped and not self._is_cancelled(job)
        super().handle_job_failure(job, queue, *args, **kwargs)
        self._forget_commit()

    def _is_cancelled(self, job: Job) -> bool:
        """Return whether a job was cancelled while it ran."""
        try:
            return self.connection.zscore(keys.key("canceled", job.origin), job.id) is not None
        except ResponseError:  # no sorted set
            return False

    def handle_job_retry(
        self, job: Job, queue: Queue, retry: Retry, *args: Any, **kwargs: Any
    ) -> None:
        if self.ask_fence:
            delay = Retry.get_interval(job.number_of_retries or 0, retry.intervals)
            self._retried = Retried(delay, None)
        super().handle_job_retry(job, queue, retry, *args, **kwargs)
        self._forget_commit()
