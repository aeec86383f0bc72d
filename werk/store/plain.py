"""Plain data: the values that a job's arguments and its result may consist of, and their limits."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from datetime import date, datetime, time, timedelta, timezone
from decimal import Decimal
from enum import Enum
from typing import Any
from uuid import UUID

MAX_BYTES = 64 * 1024 * 1024  # of one value, decompressed
MAX_DEPTH = 100  # far below Python's and C's recursion limits
MAX_READ_DEPTH = MAX_DEPTH + 2  # arguments stand in a tuple, and that in the call
LONGEST_FORM = 8 * 1024 * 1024  # characters, of a digest's text
MAX_PARTS = 1_000_000  # a few shared references can stand for more parts than memory holds

# How many parts a value counts for if reading its pickle takes more memory than a number's. A time
# zone counts in addition to its time.
LARGE, LARGER, ZONE = 3, 4, 2

PLAIN = "plain data (numbers, text, bytes, dates, lists, dicts)"

SCALARS = frozenset((type(None), bool, int, float, str, bytes, date, timedelta, Decimal))
_LIGHT = frozenset((type(None), bool, int, float, str, bytes))
_SETS = frozenset((set, frozenset))
_SEQUENCES = frozenset((list, tuple)) | _SETS
_IS_LARGE = frozenset((dict, set, frozenset, date, timedelta, Decimal))
_TO_CONVERT = (bool, int, float, str, bytes, list, tuple, dict, set, frozenset, datetime, date)
_OF_THE_WHOLE = ("contains", "has more", "is nested")  # true of a part, true of the whole

# The names of a type. Its metaclass may have properties of these names.
_qualname: Callable[[type], str] = vars(type)["__qualname__"].__get__
_module: Callable[[type], str] = vars(type)["__module__"].__get__


def plain_problem(value: object, most_parts: int = MAX_PARTS, depth: int = MAX_DEPTH) -> str | None:
    """Return why a value cannot be sent and what to send instead, or None when it is plain data."""
    if type(value) in SCALARS:
        return None
    parts_left = [most_parts]
    try:
        problem = _problem(value, depth, parts_left)
    except RecursionError:
        return f"is nested deeper than {MAX_DEPTH} levels; flatten it"
    if parts_left[0] < 0:
        return f"has more than {most_parts:,} parts; store the data elsewhere and pass a reference"
    return problem


def _problem(value: object, depth: int, parts_left: list[int]) -> str | None:
    kind = type(value)
    parts_left[0] -= 1
    if kind in _LIGHT:
        return None
    if parts_left[0] < 0:
        return "has more parts"
    if kind in _IS_LARGE:
        parts_left[0] -= LARGE - 1
    if kind is dict:
        inner: Iterable[object] = (part for pair in value.items() for part in pair)  # type: ignore[attr-defined]
    elif kind in _SEQUENCES:
        inner = value  # type: ignore[assignment]
    elif kind in SCALARS:
        return None
    else:
        parts_left[0] -= LARGER - 1
        return _leaf_problem(value, parts_left)
    if depth == 0:
        return f"is nested deeper than {MAX_DEPTH} levels; flatten it"
    for part in inner:
        if problem := _problem(part, depth - 1, parts_left):
            return problem if problem.startswith(_OF_THE_WHOLE) else f"contains data that {problem}"
    return None


def _leaf_problem(value: object, parts_left: list[int]) -> str | None:
    """Return what is wrong with a value that is neither a simple one nor a container."""
    kind = type(value)
    if kind is datetime or kind is time:
        zone = value.tzinfo  # type: ignore[attr-defined]
        if zone is not None and zone is not timezone.utc:
            parts_left[0] -= ZONE
        if zone is None or type(zone) is timezone:
            return None
        convert = ".astimezone(timezone.utc)" if kind is datetime else ".replace(tzinfo=None)"
        return f"is a {kind.__name__} of a {type(zone).__name__} time zone; use {convert}"
    if kind is UUID:
        number = getattr(value, "int", None)  # a pickle can leave it out
        whole = type(number) is int and 0 <= number < 1 << 128
        return None if whole else "is a broken UUID; use another"
    is_member = isinstance(value, Enum)
    for plain in (*_TO_CONVERT, Decimal):
        if isinstance(value, plain):
            base = plain.__name__
            use = "its .value" if is_member else f"{base}(...)"
            return f"is {_a(kind)}, a kind of {base}; use {use}"
    if is_member:
        return f"is {_a(kind)}; use its .value"
    if kind is bytearray or kind is memoryview:
        return f"is a {kind.__name__}; use bytes(...)"
    return f"is {_a(kind)}; use {_as_plain(kind) or PLAIN}"


def _as_plain(kind: type) -> str | None:
    """Return how an object of a class becomes plain data, if that is known."""
    if hasattr(kind, "model_dump"):  # of pydantic
        return 'its .model_dump(mode="json")'
    if hasattr(kind, "__fspath__"):
        return "str(path)"
    return "dataclasses.asdict(...)" if hasattr(kind, "__dataclass_fields__") else None


def _a(kind: type) -> str:
    name = name_of(kind)
    return f"{'an' if name[0] in 'aeiouAEIOU' else 'a'} {name}"


def name_of(kind: type) -> str:
    """Return the name of a type for messages."""
    name, module = _qualname(kind), _module(kind)
    return name if module == "builtins" else f"{module}.{name}"


def digest(value: object) -> str:
    """Return a short name of plain data, the same in every process."""
    from hashlib import blake2b  # loads OpenSSL, and most enqueues do without

    # Digests are compared with those that other versions have written to Redis. So a value whose
    # form is short keeps the digest that it has always had. The form of a deeper value would double
    # with each level, so its digest is made of those of its parts, and begins with `parts-`.
    try:
        form = _one_form(value, [LONGEST_FORM])
    except _TooLong:
        return f"parts-{_digest_of_parts(value, blake2b).hex()}"
    return blake2b(form.encode(), digest_size=16).hexdigest()


class _TooLong(Exception):
    """Raised for data whose form has too many characters."""


def _one_form(value: object, left: list[int]) -> str:
    """Return plain data as text, however a set or a dict happens to be ordered.

    Raises _TooLong if it takes more characters than are left, counted at each level.
    """
    if type(value) is dict:
        form = f"dict{sorted(_one_form(pair, left) for pair in value.items())}"
    elif type(value) in _SEQUENCES:
        parts = [_one_form(part, left) for part in value]  # type: ignore[attr-defined]
        form = f"{type(value).__name__}{sorted(parts) if type(value) in _SETS else parts}"
    else:
        form = _scalar_form(value)
    left[0] -= len(form)
    if left[0] < 0:
        raise _TooLong
    return form


def _digest_of_parts(value: object, blake2b: Callable[..., Any]) -> bytes:
    """Return a digest of plain data that takes time in proportion to its size."""
    if type(value) is dict:
        parts = sorted(_digest_of_parts(pair, blake2b) for pair in value.items())
    elif type(value) in _SEQUENCES:
        parts = [_digest_of_parts(part, blake2b) for part in value]  # type: ignore[attr-defined]
        parts = sorted(parts) if type(value) in _SETS else parts
    else:
        parts = [_scalar_form(value).encode()]
    content = b"".join((type(value).__name__.encode(), b":", *parts))
    found: bytes = blake2b(content, digest_size=16).digest()
    return found


def _scalar_form(value: object) -> str:
    return hex(value) if type(value) is int else repr(value)  # hex: an int of any length
