"""The digest of a call: the same in every process and version, and cheap for any plain data."""

from __future__ import annotations

import re
import sys
from datetime import date, datetime, timezone
from typing import Any
from unittest.mock import patch

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from support import run

from werk.store import plain
from werk.store.plain import MAX_DEPTH, digest

WRITTEN_BEFORE = {  # by earlier versions; compared with the digests of today
    "416e2bde51e4cd10c98805b9e24977e7": ("sleep", [("seconds", 1)]),
    "a7c6b441927f2d6b9ada69f54a10c352": (
        "report",
        [
            ("args", {"y": {3, "x"}, "x": [1.5, None, True, b"\x00'"]}),
            ("day", date(2026, 11, 27)),
        ],
    ),
    "ddc8220b2a84fd1b596ccfb5391c5f41": (
        "report",
        [
            ("text", 'it\'s "a" \\ n\n'),
            ("at", datetime(2026, 11, 27, tzinfo=timezone.utc)),
            ("n", 10**30),
        ],
        "low",
        "12:00",
    ),
    "79e1fea0926123908ff220bc42cb8171": (
        "big",
        [("rows", [[n, str(n)] for n in range(10_000)])],
    ),
    "a5b0307ebc1c3e8c2de2e5060a5ca8d1": ("t", [("a", {"a": {"a": {"a": {"a": 1}}}})]),
}

IN_LITTLE_MEMORY = """
import resource
resource.setrlimit(resource.RLIMIT_AS, (1 << 29, 1 << 29))
from werk.store.plain import digest
{}
print(digest(("report", [("value", value)])))
"""
DEEP = "value = 1\nfor _ in range({}): value = {}"


def deep(levels: int, value: Any) -> Any:
    for _ in range(levels):
        value = [value]
    return value


@pytest.mark.parametrize("known", WRITTEN_BEFORE)
def test_a_digest_stays_what_it_was(known: str) -> None:
    assert digest(WRITTEN_BEFORE[known]) == known


@pytest.mark.parametrize(
    "value",
    [
        DEEP.format(100, '{"a": value}'),
        DEEP.format(100, "[value]"),
        DEEP.format(100, "{value: 1} if value == 1 else (value,)"),
        "value = [[[[[[[[[[[[1]]]]]]]]]]]]\nvalue = [value] * 1000",
        "value = chr(92) * (8 << 20)",
    ],
    ids=["dicts", "lists", "tuples", "many", "backslashes"],
)
def test_a_digest_takes_little_memory(value: str) -> None:
    """Each level used to double the backslashes of the levels below."""
    done = run(sys.executable, "-c", IN_LITTLE_MEMORY.format(value))
    assert re.fullmatch(r"parts-[0-9a-f]{32}\n", done.stdout), done.stderr[-500:]


_ATOMS = st.none() | st.booleans() | st.integers() | st.text(max_size=3) | st.binary(max_size=2)
_VALUES = st.recursive(
    _ATOMS,
    lambda inner: (
        st.lists(inner, max_size=3)
        | st.lists(inner, max_size=3).map(tuple)
        | st.dictionaries(st.text(max_size=2), inner, max_size=3)
        | st.frozensets(_ATOMS, max_size=3)
    ),
    max_leaves=8,
)


def form(value: Any) -> Any:
    """Return a value with the types of its parts, which == does not compare."""
    if type(value) is dict:
        return dict, frozenset((form(key), form(part)) for key, part in value.items())
    if type(value) in (list, tuple, frozenset):
        parts = map(form, value)
        return type(value), frozenset(parts) if type(value) is frozenset else tuple(parts)
    return type(value), value


@given(_VALUES, _VALUES)
@settings(max_examples=200, deadline=None)
def test_deep_values_differ_if_their_parts_do(one: Any, other: Any) -> None:
    with patch.object(plain, "LONGEST_FORM", 10_000):  # their form is far longer than either limit
        digests = [digest(deep(40, value)) for value in (one, other)]
    assert all(each.startswith("parts-") for each in digests)
    assert (digests[0] == digests[1]) == (form(one) == form(other))


def test_the_order_of_a_deep_dict_and_set_does_not_matter() -> None:
    there, back = dict.fromkeys("abcdefgh"), dict.fromkeys("hgfedcba")
    assert digest(deep(40, [there, {*there}])) == digest(deep(40, [back, {*back}]))
    assert digest(deep(40, [1, 2])) != digest(deep(40, [2, 1]))
    assert digest(deep(MAX_DEPTH, 1)) != digest(deep(MAX_DEPTH - 1, 1))
