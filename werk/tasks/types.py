"""The types of parameters: how each converts a text, a value in JSON or a Python value."""

from __future__ import annotations

import json
import os
import re
import sys
from collections.abc import Callable
from datetime import date, datetime, timedelta
from decimal import Decimal
from typing import NamedTuple
from uuid import UUID

from werk import duration
from werk.duration import NUMBER
from werk.printable import printable
from werk.store.plain import plain_problem

MAX_DIGITS = 4300  # of an int: Python does not print a longer one (sys.int_info)


class Invalid(Exception):
    """Raised when a value is not of a type: Invalid("the value, for people", "is not ...").

    The first is "" where the message shows no value.
    """


class Type(NamedTuple):
    """What a parameter takes: a name of _KINDS."""

    name: str
    of: Type | None = None  # in a list or an optional; None: anything
    choices: tuple[tuple[str, object], ...] = ()  # of a Literal or an Enum: text -> value

    @classmethod
    def checked(cls, name: str, of: Type | None, choices: tuple[tuple[str, object], ...]) -> Type:
        """Return a type that another version of werk may have named; an unknown one takes JSON."""
        return cls(name, of, choices) if name in _KINDS or name == "optional" else JSON

    def __str__(self) -> str:
        if self.name == "choice":
            return "|".join(printable(text) for text, _ in self.choices)
        if self.name == "optional":
            return f"{self.of} | None"
        return f"{self.name}[{self.of}]" if self.of else self.name

    def parse(self, text: str) -> object:
        """Return the value that a word of the command line stands for. Raises Invalid."""
        if self.name == "optional":
            return None if text == "" else self._inner.parse(text)
        try:
            if self.choices:
                return dict(self.choices)[text]
            return self.check(_KINDS[self.name].read(text), is_json=True)
        except (LookupError, ValueError, ArithmeticError):
            raise Invalid(shown(text), self._problem) from None

    def check(self, value: object, is_json: bool = False) -> object:
        """Return a plain value converted to this type: a float for an int. Raises Invalid.

        In JSON a text stands for a value that JSON lacks: a date, a Decimal, a name in an Enum.
        """
        if self.name == "optional":
            return None if value is None else self._inner.check(value, is_json)
        if self.name == "list" and type(value) is list:
            return [self._inner.check(item, is_json) for item in value]
        for _, choice in self.choices:
            if type(choice) is type(value) and choice == value:
                return choice
        cls = _KINDS[self.name].cls
        if is_json and type(value) is str and cls not in _IN_JSON:
            return self.parse(value)
        if cls is object or type(value) is cls:
            return value
        if cls is float and type(value) is int and abs(value) <= sys.float_info.max:
            return float(value)
        if is_json:
            raise Invalid(shown(value), self._problem)
        if type(value) in _CONTAINERS and not self.choices:
            raise Invalid("", f"got {type(value).__name__}; use {_KINDS[self.name].wanted}")
        raise Invalid(shown(value), self._problem_in_python(value))

    @property
    def _inner(self) -> Type:
        return self.of or JSON

    @property
    def _problem(self) -> str:
        kind, choices = _KINDS[self.name], ", ".join(printable(text) for text, _ in self.choices)
        return f"is not {kind.wanted}{choices}{kind.in_text}"

    def _problem_in_python(self, value: object) -> str:
        """Return what is wrong with a value that is passed as it is, and what to pass."""
        kind, choices = _KINDS[self.name], ", ".join(shown(own) for _, own in self.choices)
        if type(value) is str and value in dict(self.choices):
            return f"is a name; pass a value: {choices}"
        if type(value) is str and kind.in_python:
            return f"is text; pass {kind.in_python}"
        use = "; pass its .date()" if kind.cls is date and type(value) is datetime else ""
        return f"is not {kind.wanted}{choices}{use}"


JSON = Type("json")
_CONTAINERS = (list, tuple, dict, set, frozenset)


# --- values as people see them


def shown(value: object) -> str:
    """Return a plain value for a message: short and on one line."""
    if type(value) is str or type(value) is bytes:
        return repr(value[:80]) + "..." * (len(value) > 80)
    if type(value) in _CONTAINERS:
        return f"the {type(value).__name__}"
    text = shown_repr(value)
    return text[:80] + "..." * (len(text) > 80)


def shown_repr(value: object) -> str:
    """Return repr(value), also for an int that Python does not print."""
    try:
        return repr(value)
    except ValueError:  # a whole number of more digits than Python prints
        return f"<{type(value).__name__}>"


def shown_word(text: str) -> str:
    """Return a name for a message: as it is, or quoted if it is not a plain word."""
    return text if re.fullmatch(r"[\w-]{1,80}", text) else shown(text)


# --- text to values: Invalid with a reason of its own, or LookupError, ValueError, ArithmeticError

_INTEGER = r"[+-]?[0-9]+"
_UUID = r"[0-9a-fA-F]{8}(-?[0-9a-fA-F]{4}){3}-?[0-9a-fA-F]{12}"
_NONES = {"": None, "null": None}
_BOOLS = {"true": True, "yes": True, "1": True, "false": False, "no": False, "0": False}


def _match(pattern: str, text: str) -> re.Match[str]:
    if found := re.fullmatch(pattern, text):
        return found
    raise ValueError(text)


def _text(text: str) -> str:
    try:
        text.encode()
    except UnicodeEncodeError:  # bytes that were not UTF-8 come as lone surrogates (os.fsdecode)
        raise Invalid(shown(text), "is not valid UTF-8") from None
    return text


def _int(text: str) -> int:
    if len(_match(_INTEGER, text)[0]) > MAX_DIGITS:
        raise Invalid(shown(text), f"has more than {MAX_DIGITS} digits")
    return int(text)


def _float(text: str) -> float:
    number = float(_match(NUMBER, text)[0])
    if abs(number) > sys.float_info.max:
        raise Invalid(shown(text), "is too large for a float")
    return number


def _decimal(text: str) -> Decimal:
    number = Decimal(_match(NUMBER, text)[0])
    if not number.is_finite():  # out of range, where the caller's decimal context lets that pass
        raise ValueError(text)
    return number


def read_json(text: str) -> object:
    """Return the plain data in JSON. Raises Invalid."""
    try:
        value: object = json.loads(
            _text(text),
            parse_int=_int,
            parse_float=_float,
            parse_constant=_float,  # NaN and Infinity, which it refuses
            object_pairs_hook=_object,
        )
    except json.JSONDecodeError as error:
        reason = f"is not JSON (text needs double quotes): {error.msg} at character {error.pos + 1}"
        raise Invalid(shown(text), reason) from None
    except (ValueError, RecursionError):
        raise Invalid(shown(text), "is not JSON, or nested too deeply") from None
    if problem := plain_problem(value):
        raise Invalid(shown(text), problem)
    return value


def _object(pairs: list[tuple[str, object]]) -> dict[str, object]:
    if len(dict(pairs)) < len(pairs):
        raise Invalid("the object", "has a key twice")
    return dict(pairs)


class _Kind(NamedTuple):
    cls: type | None  # what Python values have to be, exactly; object: anything plain
    read: Callable[[str], object]
    wanted: str
    in_text: str = ""  # follows it where the value is written as text
    in_python: str = ""  # what to pass from Python in place of a text


_KINDS = {
    "str": _Kind(str, _text, "text (str)"),
    "int": _Kind(int, _int, "a whole number (int)"),
    "float": _Kind(float, _float, "a number (float)"),
    "bool": _Kind(bool, lambda text: _BOOLS[text.lower()], "true or false (bool)"),
    "bytes": _Kind(bytes, os.fsencode, "bytes", ", or text in UTF-8", "bytes"),
    "decimal": _Kind(Decimal, _decimal, "a decimal number (Decimal)", "", "a decimal.Decimal"),
    "date": _Kind(date, date.fromisoformat, "a date", ", such as 2026-01-31", "a datetime.date"),
    "datetime": _Kind(
        datetime,
        datetime.fromisoformat,
        "a datetime",
        ", such as 2026-01-31T18:00Z",
        "a datetime.datetime",
    ),
    "duration": _Kind(
        timedelta,
        duration.read,
        "a duration (timedelta)",
        ", such as 90, 90s, 1h30m",
        "a datetime.timedelta",
    ),
    "uuid": _Kind(UUID, lambda text: UUID(_match(_UUID, text)[0]), "a UUID", "", "a uuid.UUID"),
    "dict": _Kind(dict, read_json, "a dict", ", in JSON"),
    "list": _Kind(list, read_json, "a list", ", in JSON, such as '[10, 20.5]'"),
    "choice": _Kind(None, _text, "one of "),
    "none": _Kind(type(None), lambda text: _NONES[text], "null (None)"),  # only of results
    "json": _Kind(object, read_json, "JSON"),
}  # and "optional", which is None or its inner type
_IN_JSON = (str, int, float, bool, list, dict, object)  # what JSON has itself
CLASSES = {name: kind.cls for name, kind in _KINDS.items()}
