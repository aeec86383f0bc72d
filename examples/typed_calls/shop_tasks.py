"""The tasks of a shop, and their table: WERK_REGISTRY=shop_tasks:TASKS."""

from __future__ import annotations

from datetime import date
from enum import Enum

from werk import Task


class Format(Enum):
    """How a report is written; callers pass the value."""

    PDF = "pdf"
    HTML = "html"


def total(prices: list[float], *, tax: float = 0.2) -> float:
    """Return the sum of the prices with tax."""
    return round(sum(prices) * (1 + tax), 2)


def report(day: date, form: Format = Format.PDF) -> str:
    """Write a day's report and return the name of its file."""
    return f"{day}.{form if isinstance(form, str) else form.value}"


TASKS = {
    "total": "shop_tasks.total",
    "daily-report": Task("shop_tasks.report", timeout=600),
}
