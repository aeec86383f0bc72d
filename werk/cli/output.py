"""What the commands share: what they print, how they read a word, where Redis is."""

from __future__ import annotations

import json
from collections.abc import Callable
from typing import Any

import click

from werk.errors import ArgumentError, WerkError
from werk.printable import printable, printable_lines
from werk.settings import Settings
from werk.store.connection import COMMAND_BUDGET_S, Link, link


class Parsed(click.ParamType):  # type: ignore[type-arg]  # generic since click 8.4
    """A kind of option, from a function that reads a word or raises ArgumentError."""

    def __init__(self, name: str, parse: Callable[[str], Any]) -> None:
        self.name, self.parse = name, parse

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> Any:
        """Return what the word means; click also gives what has been read already."""
        try:
            return self.parse(value) if isinstance(value, str) else value
        except ArgumentError as error:
            self.fail(str(error), param, ctx)


def connect() -> Link:
    """Return a link to Redis with the time that a command has. Raises ConfigError."""
    return link(Settings.read(), COMMAND_BUDGET_S)


def say(text: str) -> None:
    """Print what was asked for as one line, whatever names are in it."""
    click.echo(printable(text))


def say_lines(text: str) -> None:
    """Print a text that may have several lines: a result."""
    click.echo(printable_lines(text))


def remark(text: str) -> None:
    """Print a line beside it, on stderr."""
    click.echo(printable(text), err=True)


def say_json(value: object) -> None:
    """Print a value as JSON, on one line. Raises WerkError."""
    try:
        try:
            text = json.dumps(value, default=repr)
        except TypeError:  # a key that JSON does not have: a tuple, bytes, a date
            text = json.dumps(_with_json_keys(value), default=repr)
    except ValueError as error:  # an int of thousands of digits
        raise WerkError(f"cannot be printed as JSON: {error}") from None
    click.echo(text)


def _with_json_keys(value: object) -> object:
    if isinstance(value, dict):
        return {
            key if isinstance(key, (str, int, float, type(None))) else repr(key): _with_json_keys(
                own
            )
            for key, own in value.items()
        }
    return [*map(_with_json_keys, value)] if isinstance(value, (list, tuple)) else value
