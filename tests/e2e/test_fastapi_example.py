"""examples/fastapi/: its tests pass without Redis, and are as short and as fast as promised."""

from __future__ import annotations

import ast
import socket
from collections.abc import Iterator
from pathlib import Path
from xml.etree import ElementTree

import pytest
from support import ROOT, run

EXAMPLE = ROOT / "examples" / "fastapi"
TESTS = EXAMPLE / "tests" / "test_app.py"
COUNT, LINES, SECONDS = 20, 6, 1.0


@pytest.fixture
def nobody(monkeypatch: pytest.MonkeyPatch) -> Iterator[socket.socket]:
    """A port where Redis would be, on which nobody answers."""
    with socket.create_server(("127.0.0.1", 0)) as server:
        monkeypatch.setenv("RQ_REDIS_URL", f"redis://127.0.0.1:{server.getsockname()[1]}/0")
        server.setblocking(False)
        yield server


def durations(folder: Path) -> list[float]:
    """Run the example's tests, and return how long each took, with its fixtures."""
    report = folder / "report.xml"
    where = [f"--rootdir={EXAMPLE}", f"--config-file={EXAMPLE}/pytest.ini", TESTS]
    options = ["-p", "no:cacheprovider", "-W", "error", f"--junitxml={report}"]
    env = {"PYTHONPATH": str(EXAMPLE), "PYTHONDONTWRITEBYTECODE": "1"}
    done = run("python", "-m", "pytest", *options, *where, env=env)
    assert done.returncode == 0, done.stdout
    return [float(case.get("time", "")) for case in ElementTree.parse(report).iter("testcase")]


def test_its_tests_pass_and_open_no_socket(nobody: socket.socket, tmp_path: Path) -> None:
    assert len(durations(tmp_path)) == COUNT
    with pytest.raises(BlockingIOError):
        nobody.accept()


def test_each_test_of_it_is_short() -> None:
    tests = [
        node for node in ast.parse(TESTS.read_text()).body if isinstance(node, ast.FunctionDef)
    ]
    assert len(tests) == COUNT
    for test in tests:
        lines = (test.end_lineno or 0) - test.body[0].lineno + 1
        assert lines <= LINES, test.name


@pytest.mark.performance
def test_its_tests_are_fast(nobody: socket.socket, tmp_path: Path) -> None:
    durations(tmp_path)  # once before, so that nothing has to be compiled or read from the disk
    assert sum(durations(tmp_path)) < SECONDS
