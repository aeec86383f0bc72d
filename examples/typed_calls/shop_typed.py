# Made by `werk tasks --stubs`: do not edit, make it again when a task changes.
# Formatters leave it alone, because `werk tasks --stubs --check` compares it:
# fmt: off
"""One function per task: it enqueues the task and returns the job's handle."""

from __future__ import annotations

from datetime import date
from typing import TYPE_CHECKING, Any, Literal

import werk as _werk

if TYPE_CHECKING:
    from werk.client.links import Connection

_OMITTED: Any = ...  # an argument that was left out: the task's own default applies


def _given(**arguments: Any) -> dict[str, Any]:
    """Return the arguments that were not left out."""
    return {name: value for name, value in arguments.items() if value is not _OMITTED}


def daily_report(
    day: date,
    form: Literal["pdf", "html"] = _OMITTED,
    *,
    options: _werk.Options | None = None,
    connection: Connection | None = None,
) -> _werk.Handle[str]:
    """Enqueue the task daily-report.

    Write a day's report and return the name of its file.
    """
    return _werk.enqueue(
        "daily-report",
        day,
        options=options,
        connection=connection,
        **_given(form=form),
    )


def total(
    prices: list[float],
    *,
    tax: float = _OMITTED,
    options: _werk.Options | None = None,
    connection: Connection | None = None,
) -> _werk.Handle[float]:
    """Enqueue the task total.

    Return the sum of the prices with tax.
    """
    return _werk.enqueue(
        "total",
        prices,
        options=options,
        connection=connection,
        **_given(tax=tax),
    )
