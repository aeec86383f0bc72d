"""Mask the values of a task's secret parameters in data that is about to be sent."""

from __future__ import annotations

import json
import re
from collections.abc import Collection, Iterator, Mapping, Sequence
from contextlib import suppress
from datetime import datetime, timezone
from typing import Any

from werk import registry
from werk.store.keys import text
from werk.tasks import signature

LONG = 64  # characters; a longer value may have been cut off at its end
SHORT = 4  # a value with fewer is masked as a word only, not as a part of another one
_SENTRYS = "%Y-%m-%dT%H:%M:%S.%fZ"  # how Sentry writes a datetime


class Mask:
    """Replaces the values in `values`, wherever they appear in data such as JSON."""

    def __init__(self, shown: str, own: Collection[str] = (), ids: Collection[str] = ()) -> None:
        """Make a mask that shows `shown` instead.

        `own` are the places whose keys come from the format of the data: paths of dicts, such as
        "spans" and "contexts.trace", and of single keys. A list adds nothing to a path. There keys
        are kept, and so are the values of the keys in `ids`.
        """
        self.shown, self.own, self.ids = shown, frozenset(own), frozenset(ids)
        self.values = []

    @property
    def values(self) -> list[object]:
        return self._values

    @values.setter
    def values(self, values: list[object]) -> None:
        patterns = {_pattern(shown) for shown in _texts(values) if shown}
        longest_first = sorted(patterns, key=lambda pattern: (-len(pattern), pattern))
        self._find = re.compile("|".join(longest_first)) if patterns else None
        self._values = values

    def apply(self, data: Any) -> Any:
        """Return a copy of lists, dicts, texts and numbers, with the values replaced."""
        return _applied(data, self._find, self, "") if self._find else data


def _applied(data: Any, find: re.Pattern[str], mask: Mask, path: str) -> Any:
    if isinstance(data, dict):
        found = {}
        for key, value in data.items():
            below = f"{path}.{key}" if path else str(key)
            is_own = path in mask.own or below in mask.own
            is_id = is_own and key in mask.ids
            shown = key if is_own else _masked(key, find, mask)
            found[shown] = value if is_id else _applied(value, find, mask, below)
        return found
    if isinstance(data, list | tuple):
        return [_applied(each, find, mask, path) for each in data]
    return _masked(data, find, mask)


def _masked(data: Any, find: re.Pattern[str], mask: Mask) -> Any:
    """Mask a text or a number; return anything else as it is."""
    if isinstance(data, str):
        return find.sub(lambda _: mask.shown, data)
    is_number = type(data) in (int, float)
    return mask.shown if is_number and find.fullmatch(str(data)) else data


def values(task: str, args: Sequence[object], kwargs: Mapping[str, object]) -> list[object]:
    """Return the values of the secret parameters in a call of a task."""
    known = registry.tasks().get(task)
    if not known or not known.secret:
        return []
    masked_args, masked_kwargs = signature.read(known.path).masked(args, kwargs, known.secret)
    masked = [*masked_args, *masked_kwargs.values()]
    pairs = zip([*args, *kwargs.values()], masked, strict=True)
    return [value for value, shown in pairs if shown == "***"]


def _texts(value: Any) -> Iterator[str]:
    """Yield the texts that show a value."""
    if isinstance(value, list | tuple | set | frozenset | dict):
        for each in value.values() if isinstance(value, dict) else value:
            yield from _texts(each)
    elif isinstance(value, bytes):
        yield from (text(value), repr(value)[2:-1])
    elif value is not None and type(value) is not bool:
        yield from (str(value), repr(value))
        if isinstance(value, datetime):
            yield value.isoformat()
            with suppress(OverflowError, ValueError):  # near the year 1 or 9999, UTC may not exist
                yield value.astimezone(timezone.utc).strftime(_SENTRYS)


def _pattern(shown: str) -> str:
    found = "".join(map(_spelled, shown[:LONG]))
    if len(shown) > LONG:
        return found + r"[\s\S]*"
    return found if len(shown) >= SHORT else rf"(?<!\w){found}(?!\w)"


def _spelled(character: str) -> str:
    """Return a pattern of a character: as it is, or in a repr() or JSON, or a repr() of these."""
    if character.isascii() and character.isprintable():
        return {"\\": r"\\+", "'": r"\\*'", '"': r'\\*"'}.get(character) or re.escape(character)
    escapes = {ascii(character)[1:-1], json.dumps(character)[1:-1]}
    inner = (re.escape(escape).replace(r"\\", r"\\+") for escape in sorted(escapes))
    return f"(?:{'|'.join([re.escape(character), *inner])})"
