"""Middleware that asks whether errors are final, and has something to send before a horse exits."""

from __future__ import annotations

from typing import Any

from around import Next, _line


def execute(job: Any, call_next: Next) -> Any:
    try:
        return call_next()
    except Exception as error:
        _line(type(error).__name__, job.attempt, job.is_final(error), job.origin, len(job.args))
        raise


def flush(timeout_s: float) -> None:
    _line("flushed", timeout_s)
    raise OSError("unreachable")
