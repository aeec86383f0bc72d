"""What the tests share: waiting with a deadline, running commands, looking at processes."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import TypeVar
from unicodedata import bidirectional, category

import redis
import roles
from prometheus_client import parser

KIT = Path(__file__).parent
TESTS = KIT.parent
ROOT = TESTS.parent
PYTHONPATH = f"{TESTS}{os.pathsep}{KIT}"

# Unicode's classes of characters that steer a terminal, end a line, or turn the text around.
STEER = {"Cc", "Cs", "Zl", "Zp"}
TURN = {"LRE", "RLE", "LRO", "RLO", "PDF", "LRI", "RLI", "FSI", "PDI"}

T = TypeVar("T")


def wait_until(
    predicate: Callable[[], T], timeout: float = 60, pause_s: float = 0.01, problem: str = ""
) -> T:
    """Return the predicate's first true value; fail after `timeout` s. Nothing else pauses.

    Pass a timeout only where something slower than what is tested would make it true as well.
    """
    deadline = time.monotonic() + timeout
    while True:
        if value := predicate():
            return value
        assert time.monotonic() < deadline, problem or f"not within {timeout} s"
        time.sleep(pause_s)  # between two looks, until the deadline


def is_safe(text: str) -> bool:
    """Return whether a text stays on one line, and changes nothing but that line."""
    return not any(category(own) in STEER or bidirectional(own) in TURN for own in text)


def run(
    *args: object, env: dict[str, str] | None = None, timeout: float = 300, input: str | None = None
) -> subprocess.CompletedProcess[str]:
    """Run a command of the venv to its end, with `env` on top of the test's environment."""
    process = subprocess.Popen(
        command(*args),
        env=environment(*args, env=env),
        stdin=subprocess.DEVNULL if input is None else subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        start_new_session=True,
    )
    with process:
        try:
            out, err = process.communicate(input, timeout)
        except BaseException:
            os.killpg(process.pid, signal.SIGKILL)
            raise
    return subprocess.CompletedProcess(process.args, process.returncode, out, err)


def environment(*args: object, env: dict[str, str] | None = None) -> dict[str, str]:
    """Return the environment of a command: the test's, Redis's address for its role, and `env`."""
    role = None if "RQ_KEY_PREFIX" in (env or {}) else roles.role_of(args)  # their keys are rq:*
    return {**os.environ, **roles.environment(role), **(env or {})}


def command(*args: object) -> list[str]:
    """Return a command line whose first word is looked up beside this Python: werk, rq, python."""
    name, *rest = map(str, args)
    return [str(Path(sys.executable).with_name(name)) if "/" not in name else name, *rest]


def nowhere(is_full: bool) -> int:
    """Return an output that takes nothing: a full disk, or a pipe without a reader."""
    if is_full:
        return os.open("/dev/full", os.O_WRONLY)
    reader, writer = os.pipe()
    os.close(reader)
    return writer


class Process(subprocess.Popen[bytes]):
    """A long-running process of a test; both of its outputs are in a file."""

    log: Path

    def output(self) -> str:
        return self.log.read_text(errors="replace")


def samples(exposition: str) -> dict[str, float]:
    """Return what Prometheus reads from /metrics: 'name{label="value",...}' -> value."""
    found = {}
    for family in parser.text_string_to_metric_families(exposition):
        for own in family.samples:
            labels = ",".join(f'{name}="{value}"' for name, value in sorted(own.labels.items()))
            found[f"{own.name}{{{labels}}}" if labels else own.name] = own.value
    return found


def children(pid: int) -> Iterator[int]:
    """Yield the living children of a process. Linux."""
    for entry in Path("/proc").iterdir():
        if entry.name.isdecimal() and _parent(int(entry.name)) == pid:
            yield int(entry.name)


def descendants(pid: int) -> list[int]:
    """Return the living children of a process, their children, and so on. Linux."""
    return [found for child in children(pid) for found in (child, *descendants(child))]


def is_gone(pid: int) -> bool:
    """Return whether a process has ended; a zombie has."""
    return _parent(pid) is None


def is_asleep(pid: int) -> bool:
    """Return whether a process waits in a system call, which a signal interrupts."""
    return _state(pid)[0] == "S"


def _parent(pid: int) -> int | None:
    state, parent = _state(pid)
    return None if state in "ZX" else int(parent)


def _state(pid: int) -> tuple[str, str]:
    try:
        state, parent = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[:2]
    except (FileNotFoundError, ProcessLookupError):
        return "X", "0"
    return state, parent


class Newcomers:
    """The clients of Redis that come from now on: those of this process may be there already."""

    def __init__(self, connection: redis.Redis) -> None:
        self._connection = connection
        self._before = {own["id"] for own in connection.client_list()}

    def sent(self) -> set[str]:
        """Return the last command of each."""
        clients = self._connection.client_list()
        return {own["cmd"] for own in clients if own["id"] not in self._before}
