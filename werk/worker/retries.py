"""Retries: a failure uses one only if the task's retry_on allows it."""

from __future__ import annotations

from rq.job import Job

from werk import registry
from werk.store.keys import text
from werk.tasks.retries import is_retried
from werk.worker.claim import Unknown


def limit_retries(job: Job, error: type[BaseException]) -> None:
    """Remove the retries of a job that has failed, unless its task retries this kind of error.

    RQ does not save `retries_left=None`, so `werk retry` finds the retries that were left.
    """
    if not job.retries_left:
        return
    name = text(job.connection.hget(job.key, "werk_task") or b"")
    by_path = (task for task in registry.tasks().values() if task.path == job.func_name)
    task = registry.tasks().get(name) or next(by_path, None)  # plain RQ enqueues by path
    if task and not is_retried(task, error):
        job.retries_left = None


def is_final(job: Job, task_name: str, error: BaseException) -> bool:
    """Return whether a job fails for good with an error that its middleware sees."""
    task = registry.tasks().get(task_name)
    has_retry = job.should_retry and (not task or is_retried(task, type(error)))
    return not has_retry and type(error) is not Unknown  # Unknown: it is deferred
