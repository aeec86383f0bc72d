"""A record in JSON, whatever a task has logged with it."""

from __future__ import annotations

import json
import logging

import pytest

from werk.worker.log_json import JsonLines


@pytest.mark.parametrize(
    ("value", "shown"),
    [
        (10**5000, "<int: ValueError>"),
        ([10**5000], "<list: ValueError>"),
        (float("nan"), "nan"),
    ],
    ids=["int", "list", "nan"],
)
def test_a_value_that_cannot_be_written_costs_no_record(value: object, shown: str) -> None:
    record = logging.makeLogRecord({"name": "shop", "msg": "hi", "number": 1, "own": value})
    line = json.loads(JsonLines().format(record))
    assert (line["message"], line["number"], line["own"]) == ("hi", 1, shown)


def test_an_error_that_cannot_be_shown_costs_no_record() -> None:
    class Untrue(Exception):
        def __bool__(self) -> bool:
            raise RuntimeError("no truth")

    error = Untrue("as asked")
    record = logging.makeLogRecord({"name": "shop", "msg": "hi", "exc_info": (Untrue, error, None)})
    assert "Untrue: as asked" in json.loads(JsonLines().format(record))["exc_info"]
