"""Whom the supervisor's signal interrupts: the function whose time is up, once, and no other."""

from __future__ import annotations

import sys
import time
from collections.abc import Callable
from pathlib import Path

import pytest
import redis
from rq.job import Job
from rq.timeouts import JobTimeoutException

from werk.worker.log import JobLog
from werk.worker.runner import Runner
from werk.worker.shared_state import SharedState

HOUR_S = 3600


@pytest.fixture
def runner() -> Runner:
    return Runner(SharedState(), JobLog())


def outcome(runner: Runner, function: Callable[[], object], limit_s: int) -> object:
    runner.arm(limit_s)
    result, error, _ = runner.run(function, (), {}, None)
    assert runner.shared.deadline == 0.0
    return error or result


def test_a_function_whose_time_is_up_is_interrupted_once(runner: Runner) -> None:
    def swallow() -> str:
        runner.shared.deadline = time.monotonic()
        with pytest.raises(JobTimeoutException, match="3600 seconds"):
            runner.interrupt(0, None)
        runner.interrupt(0, None)
        return "went on"

    assert outcome(runner, swallow, HOUR_S) == "went on"


@pytest.mark.parametrize(
    ("source", "path", "error"),
    [
        ("import nosuch", "faulty.task", ModuleNotFoundError("No module named 'nosuch'")),
        ("1 / 0", "faulty.task", ZeroDivisionError("division by zero")),
        ("", "faulty.task", ValueError("Invalid attribute name: task")),
        ("", "fautly.task", ModuleNotFoundError("No module named 'fautly'")),
    ],
)
def test_an_import_that_fails_raises_its_own_error(
    runner: Runner, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, source: str, path: str,
    error: Exception,
) -> None:  # fmt: skip
    """RQ alone says of each "Invalid attribute name"."""
    (tmp_path / "faulty.py").write_text(source)
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.delitem(sys.modules, "faulty", raising=False)
    with pytest.raises(type(error), match=str(error)) as raised:
        runner.load(path, Job(id="a", connection=redis.Redis()))()
    files = [Path(entry.path).name for entry in raised.traceback[1:]]
    assert files == (["runner.py", "faulty.py"] if source else ["runner.py"])
    assert not source or raised.value.__context__ is None  # RQ's own error


@pytest.mark.parametrize("limit_s", [HOUR_S, -1])
def test_a_signal_meant_for_the_job_before_is_ignored(runner: Runner, limit_s: int) -> None:
    runner.interrupt(0, None)  # between two
    assert outcome(runner, lambda: runner.interrupt(0, None), limit_s) is None


def test_the_page_tells_what_the_horse_is_at() -> None:
    shared = SharedState()
    assert shared.progress() == (0.0, 0, "", "")
    shared.deadline = 5.0
    shared.show(7, "a", "e1")
    assert shared.progress() == (5.0, 7, "a:e1", "e1")
    assert shared.progress().is_busy
    shared.show(8, "", "e2")
    assert shared.progress() == (5.0, 8, "", "e2")
    assert not shared.progress().is_busy
    shared.show(8, "long" * 1000, "e3")  # no id that any job is run under
    assert shared.progress().last == "e3"
    assert shared.progress().run.startswith("longlong")
