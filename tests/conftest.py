"""One server for the whole run, an empty database for each test, and nothing left behind."""

from __future__ import annotations

import ctypes
import logging
import os
import signal
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from itertools import count
from pathlib import Path

import pytest
import redis
import roles
from added import SHIPPED
from dashboards import browse as browse
from dashboards import serving as serving
from hypothesis import HealthCheck, settings
from slot_workers import slots as slots
from support import Process, children, command, environment, wait_until
from workers import work as work

from werk import registry
from werk.client import links
from werk.dev.binary import find_binary
from werk.dev.server import Server, free_port
from werk.settings import Settings
from werk.store.connection import Link, link
from werk.tasks import catalog

PR_SET_CHILD_SUBREAPER = 36
WRITTEN_S = 3.0
PATIENT_S = 30.0  # for calls of a test itself: a busy machine may stop Redis for seconds
OWN = ("RQ_", "WERK_", "REDIS_", "COLUMNS", "NO_COLOR")  # settings that change what is tested

# How long an example takes depends on the machine.
settings.register_profile("any", deadline=None, suppress_health_check=[HealthCheck.too_slow])
settings.load_profile("any")

# Run in the background by a shell we are to ignore it, and so would all that the tests start.
signal.signal(signal.SIGINT, signal.default_int_handler)


@pytest.hookimpl(wrapper=True, optionalhook=True)
def pytest_xdist_auto_num_workers() -> Iterator[int]:
    """Run two tests at a time on each core: many wait for most of their time."""
    return 2 * (yield)


class _Server(Server):
    """A server that has the users of docs/security.md."""

    def _launch(self, config: str, lock: int) -> subprocess.Popen[bytes]:
        users = [roles.line(role) for role in roles.ROLES if self.has_users()]
        return super()._launch("\n".join([config, *users, ""]), lock)

    def has_users(self) -> bool:
        return self.binary.version >= roles.OLDEST


@pytest.fixture(scope="session")
def server() -> Iterator[_Server]:
    """The server of this run. A test that ends it may leave it so: `redis_url` starts it again."""
    binary = find_binary(Settings.read())
    with tempfile.TemporaryDirectory(prefix="werk-") as folder:
        own = _Server(Path(folder), free_port(), binary=binary)
        own.start()
        yield own
        own.stop()


@pytest.fixture(autouse=True)
def _environment(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Iterator[None]:
    """Nothing of the developer's own settings but the server program, and a state folder each.

    A worker of RQ that runs in this process takes Ctrl-C for itself: it is given back.
    """
    for name in [name for name in os.environ if name.startswith(OWN)]:
        if name != "WERK_SERVER":
            monkeypatch.delenv(name)
    monkeypatch.setenv("WERK_STATE_DIR", str(tmp_path / "state"))
    # Commands that a test starts still have the tasks that somebody has added (added.py).
    monkeypatch.setattr(registry, "TASKS", {name: registry.TASKS[name] for name in SHIPPED})
    forget_tables()
    handlers = {number: signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM)}
    yield
    for number, handler in handlers.items():
        signal.signal(number, handler)
    forget_tables()


def forget_tables() -> None:
    """Another test has other tables: forget what this process has read of the last ones."""
    registry.tasks.cache_clear()
    catalog.own_entry.cache_clear()


@pytest.fixture
def redis_url(server: _Server, monkeypatch: pytest.MonkeyPatch) -> Iterator[str]:
    """The address of an empty database, for the default user.

    RQ_REDIS_URL has it for a caller, and in processes that a test starts for their roles. The test
    fails if Redis refuses a command to one of them.
    """
    if not server.is_running():
        server.start()
    role = "caller" if server.has_users() else None
    with redis.Redis.from_url(server.url) as client:
        client.flushall()
        if role:
            client.acl_log_reset()
    monkeypatch.setenv("RQ_REDIS_URL", roles.url(server.url, role))
    links.link_of(None).budget_s = PATIENT_S
    yield server.url
    monkeypatch.undo()  # a test may have replaced what a connection needs
    if role and server.is_running():
        with redis.Redis.from_url(server.url) as client:
            assert roles.refused(client) == []


@pytest.fixture
def connected(redis_url: str) -> Iterator[Link]:
    """A link to Redis for the user that a caller is."""
    own = link(Settings.read())
    yield own
    own.close()


@pytest.fixture
def nobody(monkeypatch: pytest.MonkeyPatch) -> Iterator[socket.socket]:
    """A port where Redis would be, on which nobody answers."""
    with socket.create_server(("127.0.0.1", 0)) as server:
        monkeypatch.setenv("RQ_REDIS_URL", f"redis://127.0.0.1:{server.getsockname()[1]}/0")
        server.setblocking(False)
        yield server


@pytest.fixture
def connection(redis_url: str) -> Iterator[redis.Redis]:
    """A connection to an empty database."""
    with redis.Redis.from_url(redis_url) as client:
        yield client


@pytest.fixture
def no_logs() -> Iterator[None]:
    """Make no log line. Loggers remember what they may log, so this is logging.disable()."""
    logging.disable(logging.CRITICAL)
    yield
    logging.disable(logging.NOTSET)


@pytest.fixture
def spawn(tmp_path: Path) -> Iterator[Callable[..., Process]]:
    """Start a long-running command of the venv, which ends with the test: spawn("rq", "worker")."""
    _adopt_orphans()
    before = set(children(os.getpid()))
    number = count()

    def start(*args: object, env: dict[str, str] | None = None) -> Process:
        log = tmp_path / f"spawned-{next(number)}.log"
        with log.open("wb") as output:
            process = Process(
                command(*args),
                env=environment(*args, env={"PYTHONUNBUFFERED": "1", **(env or {})}),
                stdin=subprocess.DEVNULL,
                stdout=output,
                stderr=output,
                start_new_session=True,
            )
        process.log = log
        started.append(process)
        return process

    started: list[Process] = []
    yield start
    if "COVERAGE_PROCESS_CONFIG" in os.environ:
        _leave_time_to_write(started)
    for process in started:
        _kill_group(process.pid)
        process.wait()
    # An orphan becomes our child, and its children too when it ends: so this finds all of them.
    wait_until(
        lambda: not [pid for pid in set(children(os.getpid())) - before if _kill_and_reap(pid)]
    )


def _adopt_orphans() -> None:
    if sys.platform == "linux":
        ctypes.CDLL(None).prctl(PR_SET_CHILD_SUBREAPER, 1, 0, 0, 0)


def _leave_time_to_write(processes: list[Process]) -> None:
    """Ask processes to end, for `bin/test --coverage`: a killed one does not write what it ran."""
    for process in processes:
        process.terminate()
    deadline = time.monotonic() + WRITTEN_S
    for process in processes:
        try:
            process.wait(max(0.0, deadline - time.monotonic()))
        except subprocess.TimeoutExpired:
            pass  # it runs a job, or is frozen


def _kill_group(pid: int) -> None:
    try:
        os.killpg(pid, signal.SIGKILL)
    except ProcessLookupError:
        pass


def _kill_and_reap(pid: int) -> bool:
    try:
        os.kill(pid, signal.SIGKILL)
        os.waitpid(pid, 0)
    except (ProcessLookupError, ChildProcessError):
        pass
    return True
