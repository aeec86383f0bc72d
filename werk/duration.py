"""Durations, alike wherever one is taken: 90, "5m", "1h30m" or a timedelta."""

from __future__ import annotations

import re
from collections.abc import Mapping
from datetime import timedelta
from typing import Any, NamedTuple

from werk.errors import ArgumentError

Duration = int | float | str | timedelta  # a number is in seconds

LONGEST_S = 10**9  # thirty years; timers and Redis accept little more

NUMBER = r"[+-]?([0-9]+(\.[0-9]*)?|\.[0-9]+)([eE][+-]?[0-9]+)?"
_COUNT = r"([0-9]+(?:\.[0-9]+)?)"
_TEXT = rf"(-?)(?=[0-9])(?:{_COUNT}d)?(?:{_COUNT}h)?(?:{_COUNT}m)?(?:{_COUNT}s)?"


class Range(NamedTuple):
    """The seconds that an option or a field takes."""

    least: int
    most: int = LONGEST_S
    is_whole: bool = True

    def seconds(self, value: object) -> int | float:
        """Return a duration in seconds. Raises ArgumentError with the value and what to use."""
        try:
            number = seconds(value)
            if self.least <= number <= self.most and (type(number) is int or not self.is_whole):
                return number
        except ValueError:
            pass
        use = f"{self.least} to {self.most} {'whole ' * self.is_whole}seconds"
        raise ArgumentError(f"got {shown(value)}; use {use}, or a text such as 5m or 1h30m")


def in_seconds(given: Mapping[str, object], ranges: Mapping[str, Range]) -> dict[str, Any]:
    """Return durations by name, each in seconds. Raises ArgumentError."""
    found = {}
    for name, value in given.items():
        try:
            found[name] = ranges[name].seconds(value)
        except ArgumentError as error:
            raise ArgumentError(f"{name}: {error}") from None
    return found


def seconds(value: object) -> int | float:
    """Return a duration in seconds, as an int if they are whole. Raises ValueError."""
    if type(value) is int:
        return value
    if type(value) is str:
        value = read(value)
    number = value.total_seconds() if isinstance(value, timedelta) else value
    if not isinstance(number, float):
        raise ValueError(value)
    return int(number) if number.is_integer() else float(number)


def read(text: str) -> timedelta:
    """Return the duration that a text stands for: 90, 90s, 1h30m, 2d. Raises ValueError."""
    try:
        if re.fullmatch(NUMBER, text):
            return timedelta(seconds=float(text))
        if not (found := re.fullmatch(_TEXT, text)):
            raise ValueError(text)
        sign, *counts = found.groups("0")
        days, hours, minutes, seconds = map(float, counts)
        total = timedelta(days, seconds, minutes=minutes, hours=hours)
    except ArithmeticError:  # longer than a timedelta can be
        raise ValueError(text) from None
    return -total if sign else total


def is_date(text: str) -> bool:
    """Return whether a text such as 20261231 is rather a date than a number of seconds."""
    return bool(re.fullmatch(r"(19|20)[0-9]{6}", text))


def shown(value: object) -> str:
    """Return a value for a message. Only the repr() of Python's own types is safe and short."""
    if type(value) is str:
        return repr(value[:80]) + "..." * (len(value) > 80)
    is_number = type(value) is int and value.bit_length() < 100
    if is_number or type(value) in (float, bool, timedelta, type(None)):
        return repr(value)
    return f"a value of type {type(value).__name__}"
