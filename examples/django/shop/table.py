"""The tasks by name. This module imports no task and nothing of Django."""

from werk import Task

TASKS = {"receipt": Task("shop.tasks.receipt", timeout=60, retry=3)}
