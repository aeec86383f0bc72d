"""`bin/bench` prints what it measured, and says whether that is enough."""

from __future__ import annotations

import os
import sys

from bench.measures import Row
from support import PYTHONPATH, run


def test_a_target_is_met_or_not_or_there_is_none():
    assert Row("drain", "", 100.0, at_least=100, unit="x").is_met is True
    assert Row("drain", "", 99.9, at_least=100, unit="x").is_met is False
    assert Row("memory", "", 38.1, at_most=38, unit="MiB").is_met is False
    assert Row("memory", "", 38.1, at_most=38, unit="MiB").target == "<= 38 MiB"
    assert Row("huey could not be installed", "", at_least=2).is_met is None
    assert Row("to compare with", "", 1.0).is_met is None


def test_a_quick_run_prints_a_table():
    done = run(
        sys.executable,
        "-m",
        "bench",
        "--quick",
        "enqueue",
        env={"PYTHONPATH": PYTHONPATH},
    )
    assert done.returncode in (0, 1), done.stderr  # how fast it is says nothing here
    head, _, note, _, *table = done.stdout.splitlines()
    assert f"{len(os.sched_getaffinity(0))} cores" in head
    assert "mean nothing" in note
    assert [line.split(" | ")[0] for line in table[2:]] == [
        "| enqueue one by one: werk / rq",
        "| enqueue_many: werk / rq",
    ]
