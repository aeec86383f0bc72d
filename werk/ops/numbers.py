"""Numbers in the fields of records, which may hold anything, and durations as texts."""

from __future__ import annotations

import re

MOST = 1e15  # larger numbers in a record are neither a count nor a time
UNITS = ((86400, "d"), (3600, "h"), (60, "m"))  # of a duration, in seconds


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


def age(seconds: float | None) -> str:
    """Return a duration in one unit: 7s, 12m, 3h, 2d."""
    if seconds is None:
        return ""
    for unit_s, unit in UNITS:
        if seconds >= 2 * unit_s:
            return f"{seconds // unit_s:.0f}{unit}"
    return f"{seconds:.0f}s"


def period(seconds: float) -> str:
    """Return a period as people write it: 90s, 5m, 1h, 1d."""
    for unit_s, unit in UNITS:
        if seconds % unit_s == 0:
            return f"{seconds // unit_s:.0f}{unit}"
    return f"{seconds:g}s"


def size(count: int) -> str:
    """Return a number of bytes in one unit."""
    return f"{count / 2**30:.0f} GiB" if count >= 10 * 2**30 else f"{count / 2**20:.0f} MiB"
