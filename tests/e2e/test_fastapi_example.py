"""examples/fastapi/: its tests pass without Redis, and are as short and as fast as promised."""

from __future__ import annotations

import ast
import re
import socket
import subprocess
from pathlib import Path
from xml.etree import ElementTree

import pytest
from support import ROOT, run

EXAMPLE = ROOT / "examples" / "fastapi"
TESTS = EXAMPLE / "tests" / "test_app.py"
COUNT, LINES, SECONDS = 20, 6, 1.0


def pytest_run(*words: object) -> subprocess.CompletedProcess[str]:
    """Run pytest as in the example's folder."""
    env = {"PYTHONPATH": str(EXAMPLE), "PYTHONDONTWRITEBYTECODE": "1"}
    options = ["-p", "no:cacheprovider", "-W", "error", "-rA"]
    return run("python", "-m", "pytest", *options, *words, env=env)


def durations(folder: Path) -> list[float]:
    """Run the example's tests, and return how long each took, with its fixtures."""
    report = folder / "report.xml"
    where = [f"--rootdir={EXAMPLE}", f"--config-file={EXAMPLE}/pytest.ini", TESTS]
    done = pytest_run(f"--junitxml={report}", *where)
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


def test_the_page_works(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """docs/testing.md: all its code as one module of the application's tests."""
    page = (ROOT / "docs" / "testing.md").read_text()
    code = "\n".join(re.findall(r"^```python\n(.*?)^```", page, re.DOTALL | re.MULTILINE))
    (tmp_path / "test_page.py").write_text(code)
    monkeypatch.setenv("WERK_REGISTRY", "shop.table:TASKS")
    done = pytest_run(f"--rootdir={tmp_path}", f"--basetemp={tmp_path}/tmp", tmp_path)
    assert done.stdout.count("PASSED") == code.count("def test_") == 2, done.stdout


@pytest.mark.performance
def test_its_tests_are_fast(nobody: socket.socket, tmp_path: Path) -> None:
    durations(tmp_path)  # once before, so that nothing has to be compiled or read from the disk
    assert sum(durations(tmp_path)) < SECONDS
