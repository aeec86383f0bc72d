"""Retries: which errors use one (Task.retry_on)."""

from __future__ import annotations

import sys

from werk.registry import Task


def is_retried(task: Task, error: type[BaseException]) -> bool:
    """Return whether a job of a task is retried, while it has retries, after this kind of error."""
    return not task.retry_on or any(_names(error, own) for own in task.retry_on)


def _names(error: type[BaseException], name: str) -> bool:
    """Return whether a dotted name means the class of an error or one of its bases.

    The name may be one under which a package offers a class that it defines elsewhere, such as
    requests.ConnectionError. Nothing is imported: the module that raised the error already is.
    """
    module, _, attribute = name.rpartition(".")
    module = module or "builtins"
    shown = vars(sys.modules.get(module, sys)).get(attribute)
    names = (f"{cls.__module__}.{cls.__qualname__}" for cls in error.__mro__)
    return shown in error.__mro__ or f"{module}.{attribute}" in names
