"""Retries: which errors use one (Task.retry_on). Plain RQ workers retry on every error."""

from __future__ import annotations

import sys

from rq.job import Job

from werk import registry
from werk.store.keys import text


def limit_retries(job: Job, error: type[BaseException]) -> None:
    """Leave a job that has failed no retry, unless its task is retried on this kind of error.

    RQ does not save `retries_left=None`, so `werk retry` finds the retries that were left.
    """
    if not job.retries_left:
        return
    name = text(job.connection.hget(job.key, "werk_task") or b"")
    by_path = (task for task in registry.tasks().values() if task.path == job.func_name)
    task = registry.tasks().get(name) or next(by_path, None)  # plain RQ enqueues by path
    if task and task.retry_on and not any(_names(error, own) for own in task.retry_on):
        job.retries_left = None


def _names(error: type[BaseException], name: str) -> bool:
    """Return whether a dotted name means the class of an error or one of its bases.

    It may be the name under which a package shows a class that it defines elsewhere, such as
    requests.ConnectionError. Nothing is imported: what has raised the error is.
    """
    module, _, attribute = name.rpartition(".")
    module = module or "builtins"
    shown = vars(sys.modules.get(module, sys)).get(attribute)
    names = (f"{cls.__module__}.{cls.__qualname__}" for cls in error.__mro__)
    return shown in error.__mro__ or f"{module}.{attribute}" in names
