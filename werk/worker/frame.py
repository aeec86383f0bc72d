"""Frames: how a job runs through code that others put around RQ's way of performing it.

sentry-sdk, ddtrace, wrapt and subclasses of applications replace `perform_job`, `execute_job` or
`Job.perform`. While all of these are RQ's own functions, the horse calls a task by itself. Else it
calls `execute_job` in a frame: RQ's methods, and whatever is around them, run inside werk's claim,
its fences and its time limit. An execution has one claim and one finish:

- prepare_execution, prepare_job_execution   do nothing: the claim has done it
- the death penalty around the task          does nothing: the supervisor keeps the time limit
- Job.func                                   is the registry's function, not the payload's
- _finalize_success                          leaves a plain success to the horse's next step
- _finalize_failure                          records at once, while a tracer's scope is open

A subclass that replaces a method of RQ's loop gets RQ's loop: see replaced_loop.
"""

from __future__ import annotations

import inspect
import time
from operator import attrgetter
from types import FunctionType
from typing import TYPE_CHECKING, Any

from rq.executions import Execution
from rq.job import Job
from rq.queue import Queue

from werk.worker.channel import FINISH_S, Unusable
from werk.worker.records import Late, RecordingWorker

if TYPE_CHECKING:
    from werk.worker.claim import Claim, Unknown
    from werk.worker.horse import Horse
    from werk.worker.runner import Call

# Methods of RQ's loop. What else a subclass may replace is called in werk's loop as well.
LOOP = tuple(
    "dequeue_job_and_maintain_ttl fork_work_horse monitor_work_horse wait_for_horse main_work_horse"
    " setup_work_horse_signals heartbeat maintain_heartbeats check_for_suspension".split()
)
PERFORMING = tuple("execute_job perform_job prepare_execution prepare_job_execution".split())
OF_A_JOB = ("perform", "_execute")
# Where one of these is replaced, RQ's own code records a success as well, and calls it.
OF_A_SUCCESS = tuple(
    "_finalize_success handle_execution_ended handle_job_success cleanup_execution".split()
)

_MODULES = frozenset(
    "rq.job rq.worker.base rq.worker.worker_classes"
    " werk.worker werk.worker.frame werk.worker.records".split()
)
_CLASSES = frozenset("BaseWorker Worker Job RecordingWorker FramingWorker".split())

# What RQ saves of a job with its success: where a task has changed it, RQ's own code records that.
_saved = attrgetter(
    "description", "timeout", "result_ttl", "failure_ttl", "ttl", "origin", "group_id",
    "number_of_retries", "retries_left", "repeats_left", "webhooks", "enqueue_at_front",
)  # fmt: skip


def is_own(function: object) -> bool:
    """Tell whether RQ or werk defines this function: it is no patch and no subclass's.

    functools.wraps copies the names of a function and wrapt shows all of its attributes, but a
    patch has another type or other code. So it does not matter who was imported first.
    """
    if type(function) is not FunctionType:
        return False
    is_ours = function.__globals__.get("__name__") in _MODULES
    return is_ours and function.__code__.co_qualname.partition(".")[0] in _CLASSES


def replaced_loop(worker: FramingWorker) -> str:
    """Return what in RQ's loop a subclass replaces, '' for nothing: then werk's loop runs.

    A method that is only wrapped, by functools.wraps or wrapt, is not replaced. Those that perform
    a job may be other functions, but not mocks: a test wants to find their calls in this process.
    """
    for name in (*LOOP, *PERFORMING):
        found = vars(worker).get(name) or getattr(type(worker), name)
        try:
            found = inspect.unwrap(found)
        except ValueError:  # it is wrapped in a circle
            return name
        found = getattr(found, "__func__", found)
        if not (is_own(found) if name in LOOP else isinstance(found, FunctionType)):
            return name
    if worker.job_class.redis_job_namespace_prefix != Job.redis_job_namespace_prefix:
        return "redis_job_namespace_prefix"
    if worker.queue_class.redis_queue_namespace_prefix != Queue.redis_queue_namespace_prefix:
        return "redis_queue_namespace_prefix"
    return ""


class Patches:
    """Knows whether a job is to be performed in a frame. Any import may patch."""

    __slots__ = (
        "_execute", "is_of_a_success", "is_one", "job_kind", "kind", "perform", "perform_job",
        "worker",
    )  # fmt: skip

    def __init__(self, worker: FramingWorker) -> None:
        self.worker, self.kind, self.job_kind = worker, type(worker), worker.job_class
        self.look()

    def look(self) -> None:
        """Look at everything."""
        own, job = self.kind, self.job_kind
        self.perform_job, self.perform, self._execute = own.perform_job, job.perform, job._execute
        self.is_of_a_success = self._has_other(OF_A_SUCCESS)
        in_a_job = (getattr(job, name) for name in OF_A_JOB)
        self.is_one = (
            self.is_of_a_success or self._has_other(PERFORMING) or not all(map(is_own, in_a_job))
        )

    def found(self) -> bool:
        """Tell whether there is a patch. Looks again if one of what is patched most has changed."""
        job = self.job_kind
        if (
            self.kind.perform_job is not self.perform_job
            or job.perform is not self.perform
            or job._execute is not self._execute
        ):
            self.look()
        return self.is_one

    def _has_other(self, names: tuple[str, ...]) -> bool:
        instance = vars(self.worker)
        return any(name in instance or not is_own(getattr(self.kind, name)) for name in names)


class Frame:
    """One execution, from its claim to its outcome, as RQ's methods perform it."""

    def __init__(self, horse: Horse, claim: Claim, path: Any, call: Call) -> None:
        self.horse, self.claim, self.path = horse, claim, path
        self.function, self.args, self.kwargs = call
        self.took = 0.0  # seconds
        self.has_begun = False  # the job was read
        self.is_over = False  # the task has ended, and its time with it
        self.misfit: Unknown | None = None  # why the call did not even begin
        self.result: Any = None
        self.stored: bytes | None = None  # a plain success, for the horse's next step

    def enter(self, job: Job, execution: Execution) -> None:
        """Have a job that was read from Redis run the registry's function."""
        self.job, self.execution, self.before = job, execution, _saved(job)
        self.has_begun, self.started = True, time.monotonic()
        if type(self.path) is str:
            job._func_name, job._instance = self.path, None
            job._args, job._kwargs = self.args, self.kwargs
        job.werk_call = self.call  # type: ignore[attr-defined]
        self.horse.worker.frame = self

    def call(self, *args: Any, **kwargs: Any) -> Any:
        """Call the task's function: RQ finds this as Job.func."""
        try:
            return self.function(*args, **kwargs)
        except TypeError as error:
            self.misfit = self.claim.misfit(error, self.path, args, kwargs)
            raise

    def end(self, result: Any, error: BaseException | None) -> None:
        """Note that the task has ended. From here on RQ's finish has a limit of its own."""
        horse = self.horse
        horse.runner.is_running = False  # first: what is raised before this ends the task
        if self.is_over:
            return
        self.is_over = True
        horse.runner.disarm(error)
        self.took = time.monotonic() - self.started
        if horse.is_watched and not self.misfit:
            horse.end(self.claim, self.job, result, error, self.took)
        horse.page.begin_finish(FINISH_S)

    def succeed(self, value: Any) -> bool:
        """Note a success. Return whether the horse's next step records it."""
        horse, claim = self.horse, self.claim
        self.end(value, None)
        if self.misfit:
            return True
        is_plain = claim.is_plain and not horse.patches.is_of_a_success
        stored = horse.stored(value) if is_plain and _saved(self.job) == self.before else None
        if isinstance(stored, bytes):
            self.result, self.stored = value, stored
            return True
        horse.counters.add(claim.task, True, self.took)
        horse.worker.not_kept = stored or ""
        horse.recorder.begin_finish(self.job)
        return False

    def fail(self, error: BaseException | None) -> bool:
        """Note a failure. Return whether it is to be recorded: not of a call that never began."""
        is_first = not self.is_over
        self.end(None, error)
        if self.misfit:
            return False
        self.stored = None  # what it left to the next step was not all
        if is_first:
            self.horse.counters.add(self.claim.task, False, self.took)
        self.horse.recorder.begin_finish(self.job)
        return True

    def leave(self) -> Claim | None:
        """Return a plain success for the horse's next step, None for any other outcome."""
        if self.stored is None:
            return None
        horse = self.horse
        horse.counters.add(self.claim.task, True, self.took, by_step=True)
        return self.claim.succeeded(self.job, self.result, self.stored, horse.page.now())


class FramingWorker(RecordingWorker):
    """RQ's worker, whose way of performing a job is that of the horse while it has a frame."""

    frame: Frame | None = None

    def execute_job(self, job: Job, queue: Queue) -> None:
        """Perform a job. Where RQ's loop runs, this is in its parent process and forks."""
        if self.frame:
            self.perform_job(job, queue, self.prepare_execution(job))
        else:
            super().execute_job(job, queue)

    def prepare_execution(self, job: Job) -> Execution:
        return self.frame.execution if self.frame else super().prepare_execution(job)

    def fork_work_horse(self, job: Job, queue: Queue) -> None:
        """RQ's execute_job calls this and the next one; so do subclasses that repeat its lines."""
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
        if self.frame and isinstance(error, (Late, Unusable)):
            raise error  # what RQ's own code has met; it takes it for the task's
        if not self.frame or self.frame.fail(error):
            super()._finalize_failure(job, queue, execution, exc_info)

    def _check_fence(self, job: Job) -> None:
        if self.frame:  # code that records by itself comes here first
            self.frame.end(None, None)
        super()._check_fence(job)
