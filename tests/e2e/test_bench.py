"""`bin/bench` prints what it measured, as a table or as JSON, and whether that is enough."""

from __future__ import annotations

import json
import os
import sys

import pytest
from bench.measures import Row
from support import PYTHONPATH, ROOT, run


def test_a_target_is_met_or_not_or_nothing_was_measured():
    def row(**fields):
        return Row("drain", "jobs/s", **fields)

    assert row(ratios=[99.0, 100, 101], at_least=100).is_met is True
    assert row(ratios=[99.9], at_least=100).is_met is False
    assert row(werk=[38.1], other=[29.0], at_most=38).is_met is False
    assert row(werk=[38.1], at_most=38).target == "<= 38 jobs/s"
    assert row(ratios=[2.0], at_least=2, target_unit="x").target == ">= 2 x"
    assert row(compared_with="huey, which could not be installed", at_least=2).is_met is None


def test_a_quick_run_prints_a_table():
    head, note, _, *table = _quick("enqueue").splitlines()
    assert f"{len(os.sched_getaffinity(0))} cores" in head
    assert "mean nothing" in note
    assert [line.split(" | ")[0] for line in table[2:]] == [
        "| enqueue one by one",
        "| enqueue_many",
    ]


def test_the_json_has_the_shape_that_the_page_is_drawn_from():
    found = json.loads(_quick("enqueue", "--json"))
    measured = json.loads((ROOT / "docs" / "benchmarks.json").read_text())
    assert _shape(found) == _shape(measured)
    assert found["is_quick"] is True
    assert found["command"] == "bin/bench --quick enqueue --json"
    for row in found["rows"]:
        [ours], [theirs], [ratio] = row["werk"], row["other"], row["ratios"]
        assert ratio == pytest.approx(ours / theirs, rel=0.01)
        assert (row["unit"], row["compared_with"], row["target"]) == ("jobs/s", "RQ", ">= 2.5 x")
        assert row["is_met"] is (ratio >= 2.5)


def test_the_cost_of_slots_has_the_same_shape():
    found = json.loads(_quick("scale", "--json"))
    measured = json.loads((ROOT / "docs" / "scaling.json").read_text())
    assert _shape(found) == _shape(measured)
    units = [row["unit"] for row in found["rows"]]
    assert units == [row["unit"] for row in measured["rows"]]
    assert all(row["werk"] for row in found["rows"])
    assert found["rows"][0]["werk"] == [3]  # a supervisor and two horses


def _quick(*arguments):
    words = (sys.executable, "-m", "bench", "--quick", *arguments)
    done = run(*words, env={"PYTHONPATH": PYTHONPATH})
    assert done.returncode in (0, 1), done.stderr  # how fast it is says nothing here
    return done.stdout


def _shape(value):
    """Return the names and types of a document. A list of rows has the shapes of its rows."""
    if isinstance(value, dict):
        return {name: _shape(own) for name, own in value.items()}
    if isinstance(value, list):
        rows = {json.dumps(_shape(own)) for own in value if isinstance(own, dict)}
        assert rows or all(isinstance(own, float) for own in value), value
        return sorted(rows) or "figures"
    return "bool or null" if value is None else type(value).__name__.replace("bool", "bool or null")
