"""The callback of forking_module.py, in a table: a table's own module is imported elsewhere."""

from werk import Task

TASKS = {"forking": Task("forking_module.callback")}
