"""The tasks by name, for `WERK_REGISTRY=shop.table:TASKS`. This module imports no task."""

from werk import Task

TASKS = {
    "receipt": Task("shop.tasks.receipt", queue="mail", retry=3),
    "newsletter": Task("shop.tasks.newsletter", queue="mail"),
    "report": Task("shop.tasks.report", timeout=600),
    "refund": Task("shop.tasks.refund", secret=("card",)),
    "prices": Task("shop.tasks.prices"),
}
