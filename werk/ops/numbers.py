"""Numbers in the fields of records, which may hold anything."""

from __future__ import annotations

import re

MOST = 1e15  # larger numbers in a record are neither a count nor a time


def number(text: str | None) -> float:
    """Return the number in a field of a record; 0 if it is not a number, or too large."""
    try:
        found = float(text or 0)
    except ValueError:
        return 0.0
    return found if -MOST <= found <= MOST else 0.0


def whole(text: str | None) -> int:
    """Return the count in a field of a record; 0 if it is not one."""
    return int(text) if text and re.fullmatch(r"[0-9]{1,15}", text) else 0


def ago(then: float, now: float) -> float:
    """Return how long ago a moment was, in seconds; 0 if it is still to come."""
    return round(min(max(0.0, now - then), now), 3)  # a record may have any time, even infinity
