"""A caller whose tasks, arguments and results a type checker sees: mypy --strict caller.py."""

from __future__ import annotations

from datetime import date

import shop_typed
import werk


def order(prices: list[float]) -> float:
    """Have a worker compute the total of an order, and wait for it."""
    return shop_typed.total(prices, tax=0.1).result(timeout=60)


def nightly(day: date) -> str:
    """Enqueue a day's report at most once per hour, and return the id of its job."""
    job = shop_typed.daily_report(day, "html", options=werk.Options(once_per=3600))
    return job.id
