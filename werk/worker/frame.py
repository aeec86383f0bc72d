"""Frames: run a job through the code that others put around RQ's methods for performing it.

sentry-sdk, ddtrace, wrapt and subclasses of applications replace `perform_job`, `execute_job` or
`Job.perform`. While all of these are RQ's own functions, the horse calls the task itself. Otherwise
it calls `execute_job` in a frame: RQ's methods, and whatever is around them, run inside werk's
claim, fences and time limit. An execution has one claim and one finish:

- prepare_execution, prepare_job_execution   do nothing: the claim has done their work
- the death penalty around the task          does nothing: the supervisor keeps the time limit
- Job.func                                   is the registry's function, not the payload's
- _finalize_success                          leaves a plain success to the horse's next step
- _finalize_failure                          records at once, while a tracer's scope is open

A subclass that replaces a method of RQ's loop gets RQ's loop: see rq_patches.py.
"""

from __future__ import annotations

import logging
import time
from operator import attrgetter
from typing import TYPE_CHECKING, Any

import redis.exceptions
from rq.executions import Execution
from rq.job import Job

from werk.errors import described
from werk.worker.around import CALLS, version_mismatch
from werk.worker.causes import cause_of, shown
from werk.worker.claim import Call, Claim, Late, Unknown
from werk.worker.forks import end_copies
from werk.worker.outcome import Outcome, failure, success
from werk.worker.redis_side import FINISH_S, Unusable
from werk.worker.results import stored as as_stored
from werk.worker.rq_classes import set_call

if TYPE_CHECKING:
    from werk.worker.performer import Performer

# The fields that RQ saves with a success: if a task has changed one, RQ's own code records it.
_saved = attrgetter(
    "description", "timeout", "result_ttl", "failure_ttl", "ttl", "origin", "group_id",
    "number_of_retries", "retries_left", "repeats_left", "webhooks", "enqueue_at_front",
)  # fmt: skip


class Frame:
    """One execution, from its claim to its outcome, as RQ's methods perform it."""

    def __init__(self, performer: Performer, claim: Claim, task: str, keep_s: int) -> None:
        self.performer, self.claim, self.task, self.keep_s = performer, claim, task, keep_s
        self.took = 0.0  # seconds
        self.has_begun = False  # the job was read
        self.is_over = False  # the task has ended, and its time with it
        self.mismatch: Unknown | None = None  # why the call did not begin
        self.result: Any = None
        self.stored: bytes | None = None  # a plain success, for the horse's next step

    def perform(self, path: Any, call: Call, job: Job) -> Outcome | None:
        """Have RQ's methods perform a job, with the patches around them.

        `call` has the function, `path` is its path. Return the outcome that step.lua has to record.
        """
        performer, trouble = self.performer, None
        shared, runner, worker = performer.shared, performer.runner, performer.recorder.worker
        self.path, (self.function, self.args, self.kwargs) = path, call
        left = shared.deadline - time.monotonic() if shared.deadline else None
        shared.begin_finish(FINISH_S)  # the time that it takes to read the job is not the task's
        try:
            queue, execution = worker.begin_execution(self.claim, job)
            self.enter(job, execution)
            shared.end_finish()
            shared.deadline = 0.0 if left is None else time.monotonic() + left
            runner.resume()
            worker.execute_job(job, queue)
        except Unusable:
            raise
        except BaseException as error:
            trouble = error
        finally:
            runner.is_running, worker.frame = False, None
            worker.end_execution()
        end_copies(runner.pid, trouble)
        try:
            return self.outcome(job, trouble)
        finally:
            shared.end_finish()

    def enter(self, job: Job, execution: Execution) -> None:
        """Have a job that was read from Redis run the registry's function."""
        self.job, self.execution, self.before = job, execution, _saved(job)
        self.has_begun, self.started = True, time.monotonic()
        if type(self.path) is str:
            set_call(job, self.path, self.args, self.kwargs)
        job.werk_call = self.call  # type: ignore[attr-defined]
        self.performer.recorder.worker.frame = self

    def call(self, *args: Any, **kwargs: Any) -> Any:
        """Call the task's function: RQ finds this as Job.func."""
        try:
            return self.function(*args, **kwargs)
        except (TypeError, Unknown) as error:
            call = (self.path, args, kwargs)
            self.mismatch = version_mismatch(self.claim, self.task, error, call)
            raise

    def end(self, error: BaseException | None) -> None:
        """Note that the task has ended. From here on RQ's finish has a limit of its own."""
        performer = self.performer
        performer.runner.is_running = False  # first: what is raised before this ends the task
        if self.is_over:
            return
        self.is_over = True
        performer.runner.disarm(error)
        performer.runner.ended = ended = time.monotonic()
        self.took = ended - self.started
        if performer.log.logs_jobs and not self.mismatch:
            performer.log.ended(self.claim.facts(self.task), error, self.took)
        performer.shared.begin_finish(FINISH_S)

    def succeed(self, value: Any) -> bool:
        """Note a success. Return whether the horse's next step records it."""
        performer = self.performer
        self.end(None)
        if self.mismatch:
            return True
        is_plain = self.is_plain() and _saved(self.job) == self.before
        stored = as_stored(performer.dumps, value) if is_plain else None
        if isinstance(stored, bytes):
            self.result, self.stored = value, stored
            return True
        self.count(True)
        performer.recorder.worker.not_kept = stored or ""
        performer.recorder.begin_finish(self.job)
        return False

    def is_plain(self) -> bool:
        """Return whether step.lua may record a success of this job."""
        is_patched = self.performer.patches.is_of_a_success
        return not self.claim.callbacks and self.keep_s > 0 and not is_patched

    def fail(self, error: BaseException | None) -> bool:
        """Note a failure. Return whether to record it: not that of a call that never began."""
        is_first = not self.is_over
        self.end(error)
        if self.mismatch:
            return False
        self.stored = None  # it was noted as a success before
        if is_first:
            self.count(False)
        self.performer.recorder.begin_finish(self.job)
        return True

    def count(self, is_success: bool, by_step: bool = False) -> None:
        counters, began = self.performer.counters, self.performer.runner.started
        counters.add(self.task, is_success, self.took, self.claim, began, by_step)

    def outcome(self, job: Job, trouble: BaseException | None) -> Outcome | None:
        """Return the outcome of the job; None if it is recorded.

        `trouble` is the exception that left the frame, from a patch or from RQ's own code.
        """
        performer, claim = self.performer, self.claim
        recorder = performer.recorder
        if self.mismatch:
            return recorder.refuse(claim, job, self.mismatch)
        if self.has_begun and not self.is_over:  # nothing has been recorded
            if trouble is None:
                trouble = RuntimeError("perform_job returned, but the job did not run")
            self.fail(trouble)
            return recorder.fail(claim, job, trouble)
        outcome = self.plain_success()
        if not outcome and (why_not := self.why_open(trouble)) is not None:
            ended = failure(claim, shown(why_not), performer.shared.now())
            return recorder.final(ended, cause_of(why_not))
        if trouble is not None:
            facts = {**claim.facts(self.task), "reason": described(trouble)}
            performer.log.event("patch-failed", facts, logging.WARNING)
        return outcome

    def plain_success(self) -> Outcome | None:
        """Return a plain success for the horse's next step, None for any other outcome."""
        if self.stored is None:
            return None
        performer = self.performer
        self.count(True, by_step=True)
        performer.last_success = self.claim, self.job, self.result
        return success(self.claim, self.keep_s, self.stored, performer.shared.now())

    def why_open(self, trouble: BaseException | None) -> BaseException | None:
        """Return why an execution is not recorded, None if it is."""
        if type(trouble) is Late:
            return trouble
        try:
            is_recorded = self.performer.recorder.is_recorded(self.claim)
        except redis.exceptions.ResponseError as error:
            return error if trouble is None else trouble
        if is_recorded:
            return None
        return RuntimeError("RQ did not record the outcome") if trouble is None else trouble


CALLS.add(Frame.call.__code__)
