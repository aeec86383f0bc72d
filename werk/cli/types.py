"""The types of parameters that several commands take, and the options that several share.

`Parsed.parse` reads a word or raises ArgumentError, so a type can also be used without click.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from contextlib import suppress
from datetime import timedelta
from functools import partial
from typing import Any

import click

from werk.errors import ArgumentError


class Parsed(click.ParamType):  # type: ignore[type-arg]  # generic since click 8.4
    """A type of parameter, from a function that reads a word or raises ArgumentError."""

    def __init__(self, name: str, parse: Callable[[str], Any]) -> None:
        self.name, self.parse = name, parse

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> Any:
        """Return the value of a word. click also passes values that have been read already."""
        try:
            return self.parse(value) if isinstance(value, str) else value
        except ArgumentError as error:
            self.fail(str(error), param, ctx)


def _read(kind: str, wanted: str, text: str, least: float = 0) -> Any:
    """Return the value of a word, read as the argument of a task; a duration as seconds."""
    from werk.tasks.types import Invalid, Type

    try:
        found: Any = Type(kind).parse(text)
        found = found.total_seconds() if isinstance(found, timedelta) else found
        if isinstance(found, float) and found < least:
            raise Invalid
    except Invalid:
        raise ArgumentError(f"{wanted}, got {text!r}") from None
    return found


def _text_of(source: str) -> str:
    """Return a text as it stands, the contents of @FILE, or stdin for -."""
    if source != "-" and not source.startswith("@"):
        return source
    try:
        with click.open_file(source.removeprefix("@"), "rb") as file:
            return bytes(file.read()).decode()
    except OSError as error:
        raise ArgumentError(f"{source}: {error.strerror}") from None
    except UnicodeDecodeError:
        raise ArgumentError(f"{source} is not valid UTF-8") from None


def _past(text: str) -> float:
    """Return the Unix time of an ISO 8601 time, or of a period ago: 90s, 10m, 2h, 3d."""
    with suppress(ArgumentError):
        if (ago_s := float(PERIOD.parse(text))) >= 0:
            return max(0.0, time.time() - ago_s)  # no job is older
    with suppress(ArgumentError, ValueError, OverflowError):
        return max(0.0, float(MOMENT.parse(text).timestamp()))
    raise ArgumentError(f"TIME must be like 10m, 2h, 3d or 2026-12-24T18:00, got {text!r}")


def _not_empty(text: str) -> str:
    """Return a text, but refuse the empty one of an unset variable: it would select everything."""
    if not text:
        raise ArgumentError("the text must not be empty")
    return text


SECONDS = Parsed("seconds", partial(_read, "float", "SECONDS must be a number, 0 or more"))
PERIOD = Parsed("period", partial(_read, "duration", "PERIOD must be like 90, 5m, 1h or 1d"))
LASTING = Parsed(  # a period that is not 0
    "period",
    partial(_read, "duration", "PERIOD must be 1 s or more: 90, 5m, 1h or 1d", least=1),
)
MOMENT = Parsed("time", partial(_read, "datetime", "TIME must be like 2026-12-24T18:00+01:00"))
PAST = Parsed("time", _past)
TEXT = Parsed("text|@file|-", _text_of)
WORD = Parsed("text", _not_empty)
LINES = click.File("rb")

json_option = click.option("--json", "as_json", is_flag=True, help="Print JSON.")
yes_option = click.option("--yes", is_flag=True, help="Do not ask for confirmation.")
