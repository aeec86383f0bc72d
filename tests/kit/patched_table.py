"""The table of patched_tasks.py, in a module that patches RQ when it is imported."""

from __future__ import annotations

import patches
import worker_tasks

from werk import Task

TASKS = {
    name: task._replace(path=task.path.replace("worker_tasks.", "patched_tasks."))
    for name, task in worker_tasks.TASKS.items()
} | {"patch": Task("patched_tasks.patch")}
patches.apply("table")
