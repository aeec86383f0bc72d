"""The types of parameters that several commands take, and the options that several share.

`Parsed.parse` reads a word or raises ArgumentError, so a type can also be used without click.
"""

from __future__ import annotations

import sys
import time
from collections.abc import Callable
from contextlib import suppress
from functools import partial
from typing import Any

import click

from werk.duration import Range, is_date, seconds
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


def _read(kind: str, wanted: str, text: str) -> Any:
    """Return the value of a word, read as the argument of a task."""
    from werk.tasks.types import Invalid, Type

    try:
        return Type(kind).parse(text)
    except Invalid:
        raise ArgumentError(f"{wanted}, got {text!r}") from None


def _text_of(source: str) -> str:
    """Return a text as it stands, the contents of @FILE, or stdin for -."""
    if source != "-" and not source.startswith("@"):
        return source
    path = source.removeprefix("@")
    if problem := _closed(path):
        raise ArgumentError(f"{source}: {problem}")
    try:
        with click.open_file(path, "rb") as file:
            return bytes(file.read()).decode()
    except OSError as error:
        raise ArgumentError(f"{source}: {error.strerror}") from None
    except UnicodeDecodeError:
        raise ArgumentError(f"{source} is not valid UTF-8") from None


def _closed(path: str) -> str:
    """Return what is wrong with - as a path: stdin may be closed, which click does not expect."""
    return "stdin is closed; name a file" if path == "-" and sys.stdin is None else ""


class _Lines(click.File):
    """A file of lines, or stdin for -."""

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> Any:
        if problem := _closed(value):
            self.fail(f"{value}: {problem}", param, ctx)
        return super().convert(value, param, ctx)


def _past(text: str) -> float:
    """Return the Unix time of an ISO 8601 time, or of a period ago: 90s, 10m, 2h, 3d."""
    if not is_date(text):
        with suppress(ValueError):
            if (ago_s := seconds(text)) >= 0:
                return max(0.0, time.time() - ago_s)  # no job is older
        with suppress(ArgumentError, ValueError, OverflowError):
            return max(0.0, float(MOMENT.parse(text).timestamp()))
    raise ArgumentError(f"TIME must be like 10m, 2h, 3d or 2026-12-24T18:00, got {text!r}")


def _not_empty(text: str) -> str:
    """Return a text, but refuse the empty one of an unset variable: it would select everything."""
    if not text:
        raise ArgumentError("the text must not be empty")
    return text


def duration(range_s: Range) -> Parsed:
    """Return the type of a duration in a range. Its values are in seconds."""
    return Parsed("period", range_s.seconds)


PERIOD = duration(Range(0, is_whole=False))
JSON_OBJECT = Parsed("json", partial(_read, "dict", "JSON must be an object"))
MOMENT = Parsed("time", partial(_read, "datetime", "TIME must be like 2026-12-24T18:00+01:00"))
PAST = Parsed("time", _past)
TEXT = Parsed("text|@file|-", _text_of)
WORD = Parsed("text", _not_empty)
LINES = _Lines("rb")

json_option = click.option("--json", "as_json", is_flag=True, help="Print JSON.")
yes_option = click.option("--yes", is_flag=True, help="Do not ask for confirmation.")
