"""The tasks by name, for `WERK_REGISTRY=gallery.table:TASKS`. This module imports no task."""

from werk import Task

TASKS = {"thumbnail": Task("gallery.tasks.thumbnail", timeout=60, retry=2)}
