"""The mask for the values of secret parameters, wherever they appear."""

from __future__ import annotations

import json
from datetime import datetime, timedelta, timezone
from typing import Any

import pytest
from sentry_sdk.utils import format_timestamp

from werk.tasks.secrets import Mask, values

SECRETS: list[Any] = [
    "hunter2", 'it\'s "quoted"', "back\\slash", "two\nlines\t", "zwölf Kämpfer", "\U0001f511 key",
    "\x00\x7f", 4711, 31.5, b"raw\xff\\bytes", datetime(2026, 11, 28, 8, 30), ["in a list"],
    {"name": ["deep", {"in": "a dict"}]}, "x" * 63 + "'\\\n" + "y" * 5000,
]  # fmt: skip


def mask(*hidden: Any) -> Mask:
    found = Mask("***")
    found.values = [*hidden]
    return found


def leaves(value: Any) -> list[Any]:
    if isinstance(value, dict):
        value = [*value.values()]
    return [leaf for each in value for leaf in leaves(each)] if type(value) is list else [value]


@pytest.mark.parametrize("secret", SECRETS, ids=lambda secret: repr(secret)[:20])
def test_a_value_is_masked_in_any_spelling(secret: Any) -> None:
    own = mask(secret)
    for leaf in leaves(secret):
        shown = leaf.decode("utf-8", "replace") if isinstance(leaf, bytes) else str(leaf)
        for text in (shown, repr(leaf), json.dumps(shown), f"a {leaf!r} b", repr(repr(leaf))):
            for spelled in (text, repr(text), json.dumps(text), json.dumps(repr([text]))):
                found = own.apply({"any": [spelled]})["any"][0]
                assert "***" in found, spelled
                assert not {*"0123456789xy"} & {*found.replace("datetime", "")}, found
    assert own.apply("another text") == "another text"


@pytest.mark.parametrize("zone", [None, timezone.utc, timezone(timedelta(hours=5, minutes=30))])
@pytest.mark.parametrize("microsecond", [0, 120])
def test_a_datetime_is_masked_as_sentry_and_json_write_it(
    zone: timezone | None, microsecond: int
) -> None:
    secret = datetime(2026, 11, 29, 8, 0, 0, microsecond, zone)
    for shown in (format_timestamp(secret), secret.isoformat(), str(secret)):
        assert mask([secret]).apply({"at": f"on {shown}."}) == {"at": "on ***."}


@pytest.mark.parametrize("hours", [-5, 5])
def test_a_datetime_that_has_no_utc_is_masked(hours: int) -> None:
    edge = datetime.max if hours < 0 else datetime.min
    secret = edge.replace(tzinfo=timezone(timedelta(hours=hours)))
    assert mask(secret, edge).apply([secret.isoformat(), str(edge)]) == ["***", "***"]


def test_numbers_and_short_values_are_masked_as_a_whole() -> None:
    own = mask(7, "ab")
    assert own.apply([7, 7.0, 17, "7", "17", "n=7,", "ab", "cab", True]) == [
        "***", 7.0, 17, "***", "17", "n=***,", "***", "cab", True
    ]  # fmt: skip


def test_keys_are_masked() -> None:
    data = {"4711": {"hunter2": 1}, "a hunter2 b": 2, 4711: 3, ("other",): 4}
    assert mask(4711, "hunter2").apply([data]) == [
        {"***": 3, "a *** b": 2, ("other",): 4}
    ]  # fmt: skip


def test_ids_and_keys_of_the_own_places_are_not_masked() -> None:
    found = Mask("***", ["", "lines", "tags.id"], ["id"])
    found.values = [4711, "id", "vars"]
    data = {
        "id": "4711", "pin": 4711, "lines": [{"id": 4711, "vars": {"id": 4711, "vars": 1}}],
        "tags": {"id": 4711, "vars": "id"}, "other": {"id": 4711},
    }  # fmt: skip
    assert found.apply(data) == {
        "id": "4711", "pin": "***", "lines": [{"id": 4711, "vars": {"***": 1}}],
        "tags": {"id": 4711, "***": "***"}, "other": {"***": "***"},
    }  # fmt: skip


def test_nothing_is_masked_without_values() -> None:
    for none in ([], [None, True, ""]):
        assert mask(*none).apply({"any": "text"}) == {"any": "text"}


def test_the_values_are_those_of_the_secret_parameters(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("WERK_REGISTRY", "recorded_tasks:TASKS")
    assert values("login", ["ada", "a password"], {}) == ["a password"]
    assert values("login", ["ada"], {"password": "a password"}) == ["a password"]
    assert values("login", ["a", "wrong", "call"], {}) == ["a", "wrong", "call"]
    assert values("unknown", ["any"], {}) == []
