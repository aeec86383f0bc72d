"""Workers as applications make them, for test_patched_workers.py."""

from __future__ import annotations

import functools
import os
from typing import Any

import wrapt
from fast_worker import Worker
from patches import write
from rq.job import Job
from rq.queue import Queue
from rq.timeouts import JobTimeoutException
from rq.worker import WorkerStatus
from rq.worker.worker_classes import Worker as PlainWorker

import werk.worker


class Around(werk.worker.Worker):
    """Has a frame around each job that does nothing."""

    def perform_job(self, job: Job, queue: Queue, *rest: Any) -> bool:
        return super().perform_job(job, queue, *rest)


class Django(Worker):
    """Closes connections around each job, or pushes the context of an app."""

    def execute_job(self, job: Job, queue: Queue) -> None:
        self.see(job, "execute_job")
        super().execute_job(job, queue)
        self.see(job, "end execute_job")

    def perform_job(self, job: Job, queue: Queue, *rest: Any) -> bool:
        self.see(job, "perform_job")
        try:
            return super().perform_job(job, queue, *rest)
        finally:
            self.see(job, "end perform_job")

    def see(self, job: Job, what: str) -> None:
        write("calls", f"{job.id} {os.getpid()} {what}")


class Faulty(Worker):
    """Fails before or after a job, or leaves one out."""

    def perform_job(self, job: Job, queue: Queue, *rest: Any) -> bool:
        if "before" in job.args:
            raise RuntimeError("before")
        if "never" not in job.args:
            super().perform_job(job, queue, *rest)
            raise RuntimeError("after")
        return True


class Copied(Worker):
    """Repeats what RQ's worker does."""

    def execute_job(self, job: Job, queue: Queue) -> None:
        execution = self.prepare_execution(job)
        self.fork_work_horse(job, queue)
        self.monitor_work_horse(job, queue, execution)
        self.set_state(WorkerStatus.IDLE)

    def perform_job(self, job: Job, queue: Queue, execution: Any) -> bool:
        self.prepare_job_execution(job, True)
        try:
            with self.death_penalty_class(job.timeout, JobTimeoutException, job_id=job.id):
                value = job.perform()
            self._finalize_success(job, queue, execution, value)
        except Exception as error:
            self._finalize_failure(job, queue, execution, (type(error), error, None))
            return False
        return True


class Simple(Worker):
    """Repeats what RQ's SimpleWorker does."""

    def execute_job(self, job: Job, queue: Queue) -> None:
        self.perform_job(job, queue, self.prepare_execution(job))
        self.set_state(WorkerStatus.IDLE)


class Counting(Worker):
    """Does something when a job has succeeded."""

    def handle_job_success(self, job: Job, queue: Queue, *rest: Any, **more: Any) -> None:
        super().handle_job_success(job, queue, *rest, **more)
        write("calls", job.id)


class Replaced(Worker):
    """Has its own way to start a process for a job."""

    def fork_work_horse(self, job: Job, queue: Queue) -> None:
        super().fork_work_horse(job, queue)


class ReplacedWork(Worker):
    """Has RQ's loop whatever we do."""

    def work(self, *args: Any, **kwargs: Any) -> bool:
        return PlainWorker.work(self, *args, **kwargs)


class Extended(Worker):
    """Does something before and after our loop."""

    def work(self, *args: Any, **kwargs: Any) -> bool:
        return super().work(*args, **kwargs)


class Wrapped(Worker):
    @functools.wraps(PlainWorker.fork_work_horse)
    def fork_work_horse(self, job: Job, queue: Queue) -> None:
        PlainWorker.fork_work_horse(self, job, queue)


class WrappedByWrapt(Worker):
    @wrapt.decorator
    def _through(wrapped: Any, _: Any, args: Any, kwargs: Any) -> Any:
        return wrapped(*args, **kwargs)

    heartbeat = _through(PlainWorker.heartbeat)
