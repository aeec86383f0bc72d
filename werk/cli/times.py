"""Times for people: in ISO 8601 with the local offset, or as an age. JSON has them in UTC."""

from __future__ import annotations

from datetime import datetime
from math import nan

from werk.ops.numbers import age
from werk.store import keys

LATEST = 2.5e11  # Unix time that can be written as a date


def local(moment: float) -> str:
    """Return a Unix time in ISO 8601, with the local offset."""
    return datetime.fromtimestamp(moment).astimezone().isoformat(timespec="seconds")


def local_text(text: str) -> str:
    """Return a time from a record with the local offset; unchanged if it is not a time."""
    moment = keys.moment(text, nan)
    return local(moment) if 0 <= moment < LATEST else text


def utc_text(text: str) -> str:
    """Return a time in ISO 8601 in UTC, with Z."""
    return keys.iso(keys.moment(text, 0.0))


def utc(moment: float | None) -> str | None:
    """Return a Unix time in ISO 8601 in UTC, with Z; None for an unknown time."""
    return None if moment is None else keys.iso(max(0.0, min(moment, LATEST)))


def ago(moment: float, now: float) -> str:
    """Return how long ago a Unix time was: 4m ago."""
    return f"{age(max(0.0, now - moment))} ago"
