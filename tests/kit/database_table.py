"""The table of database_tasks; it imports nothing of Django."""

from werk import Task

TASKS = {
    "ask": Task("database_tasks.ask", timeout=2),
    "leave_open": Task("database_tasks.leave_open"),
    "leave_atomic": Task("database_tasks.leave_atomic"),
}
