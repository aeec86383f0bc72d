"""Tasks of test_retries.py. Each execution leaves a line in a folder."""

from __future__ import annotations

import json

import worker_tasks
from worker_tasks import note

from werk import Task


def fail(folder: str, error: str) -> None:
    """Raise the error of that name."""
    note(folder)
    if error == "JSONDecodeError":
        json.loads("x")
    raise {"Reset": ConnectionResetError, "Value": ValueError, "Own": Own, "Inner": Outer.Inner}[
        error
    ]("as asked")


class Own(Exception):
    """An exception of the tasks' own module."""


class Outer:
    class Inner(Own):
        """A nested one."""


swallow, poison, doze = worker_tasks.swallow, worker_tasks.poison, worker_tasks.doze

LIMIT = "rq.timeouts.JobTimeoutException"
TASKS = {
    name: Task("retry_tasks.fail", retry=1, retry_delay=0, retry_on=errors)
    for name, errors in {
        "any": (),
        "shown": ("json.JSONDecodeError",),  # defined in json.decoder
        "defined": ("json.decoder.JSONDecodeError",),
        "built_in": ("ConnectionError",),
        "base": ("never_imported.Thing", "retry_tasks.Own"),
        "nested": ("retry_tasks.Outer.Inner",),
    }.items()
} | {
    f"{what}_{word}": Task(
        f"retry_tasks.{what}", timeout=1, retry=1, retry_delay=0, max_crashes=0, retry_on=errors
    )
    for what in ("doze", "swallow", "poison")
    for word, errors in (("limit", (LIMIT,)), ("other", ("ValueError",)), ("any", ()))
}
