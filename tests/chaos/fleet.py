"""The processes of `bin/chaos`: a server, workers and callers; who ends is replaced."""

from __future__ import annotations

import ctypes
import os
import random
import signal
import subprocess
import sys
import time
from collections.abc import Sequence
from itertools import count
from pathlib import Path

import redis
from support import command, descendants

from chaos.caller import QUEUES
from chaos.gates import Gate, Gates
from werk.stack import Server, die_with, free_port

PR_SET_CHILD_SUBREAPER = 36
WORKERS = 5
CALLERS = 3
START_S = 30.0  # for the first job to run
LEAVE_S = 10.0  # for a worker that was asked to stop: its jobs take 4 s at most

COMMANDS = {kind: [name, "worker", "--quiet"] for kind, name in (("werk", "werk"), ("stock", "rq"))}


class Member:
    """A process behind its gate. One whose end is expected is not reported when it ends."""

    def __init__(self, name: str, gate: Gate, log: Path) -> None:
        self.name = name
        self.gate = gate
        self.log = log
        self.process: subprocess.Popen[bytes] | None = None
        self.end_expected = False
        self.is_busy = False  # under a fault that lasts: no other is put on top
        self.back_at = 0.0  # when to start it again
        self.has_begun = False  # to work: it has had a horse

    @property
    def pid(self) -> int:
        assert self.process is not None
        return self.process.pid

    def is_up(self) -> bool:
        """Tell whether it runs, and nothing is being done to it."""
        return self.is_alive() and not self.end_expected and not self.is_busy

    def is_alive(self) -> bool:
        return self.process is not None and self.process.poll() is None

    def look(self) -> None:
        """Find out whether it has begun."""
        self.has_begun = self.has_begun or bool(self.is_alive() and self.horse())

    def horse(self) -> int | None:
        """Return the child that leads a group of its own, as RQ's horses and ours do, if any."""
        try:
            found = Path(f"/proc/{self.pid}/task/{self.pid}/children").read_text().split()
            return next((pid for pid in map(int, found) if os.getpgid(pid) == pid), None)
        except (FileNotFoundError, ProcessLookupError):
            return None


class Fleet:
    """Everything that runs. `tend` is called often: it starts again what has ended."""

    def __init__(self, kind: str, seed: int, folder: Path) -> None:
        self.kind, self.seed, self.folder = kind, seed, folder
        self.chance = random.Random(f"{seed} fleet")
        self.traces, self.diary = folder / "traces", folder / "diary"
        for file in (self.traces, self.diary):
            file.touch()
        self.server = Server(folder / "server", free_port())
        self.gates: Gates | None = None
        self.workers: list[Member] = []
        self.callers: list[Member] = []
        self.gave_up = 0  # workers that ended with an error before they had begun
        self.surprises: list[str] = []  # processes that ended, or did not, against the rules
        self._numbers = count()

    def start(self) -> None:
        """Start the server, then all others; jobs run."""
        adopt_orphans()
        self.start_server()
        self.gates = Gates(int(self.server.url.rpartition(":")[2].partition("/")[0]))
        for number in range(WORKERS):
            self.workers.append(self._member(f"worker{number}"))
        for _ in range(CALLERS):
            self.callers.append(self._member("caller"))
        deadline = time.monotonic() + START_S
        while not self.traces.stat().st_size:
            self.tend()
            assert time.monotonic() < deadline, f"no job runs; see {self.workers[0].log}"
            time.sleep(0.02)  # between two looks at the processes, until the deadline

    def start_server(self) -> None:
        """Start the server, or start it again.

        With `everysec` a server may keep to itself what it has acknowledged, for as long as an
        fsync is under way (redis.conf, appendfsync): killed in that moment it loses that. Here it
        is the others that are put to the test.
        """
        self.server.start()
        with self.connection() as connection:
            connection.config_set("appendfsync", "always")

    def tend(self) -> None:
        """Start what is not running and should be."""
        for number, worker in enumerate(self.workers):
            worker.look()
            if self._has_to_start(worker):
                self._spawn(worker, [*COMMANDS[self.kind], *_rotated(QUEUES, number)])
        for caller in self.callers:
            if self._has_to_start(caller):
                caller.name = f"c{next(self._numbers)}"  # what it is going to say is new
                arguments = ["-m", "chaos.caller", caller.name, str(self.seed)]
                self._spawn(caller, [sys.executable, *arguments])

    def stop_callers(self) -> None:
        """Let the callers finish what they are about to say."""
        for caller in self.callers:
            caller.process.terminate()
        for caller in self.callers:
            caller.process.wait(LEAVE_S)
        self.callers = []

    def stop_workers(self) -> None:
        """Ask all workers to stop; they have to, and with exit code 0."""
        for worker in self.workers:
            if worker.is_alive():
                worker.end_expected = True
                worker.process.terminate()
        deadline = time.monotonic() + LEAVE_S
        for worker in self.workers:
            try:
                worker.process.wait(max(0, deadline - time.monotonic()))
            except subprocess.TimeoutExpired:
                self.surprises.append(f"{worker.name} did not stop in {LEAVE_S:g} s")
            else:
                self._note_end(worker)
        self.workers = []

    def stop(self) -> None:
        """End everything at once."""
        self.workers = self.callers = []
        if self.gates:
            self.gates.close()
        self.server.kill()
        while found := descendants(os.getpid()):  # also what was left by those that were killed
            for pid in found:
                _kill(pid)
            _reap()

    def connection(self) -> redis.Redis:
        """Return a connection past all gates."""
        return redis.Redis.from_url(self.server.url)

    def _member(self, name: str) -> Member:
        assert self.gates is not None
        gate = self.gates.add()
        return Member(name, gate, self.folder / f"{name}-{gate.port}.log")

    def _has_to_start(self, member: Member) -> bool:
        if member.process is None:
            return True
        if member.is_alive():
            return False
        if not member.back_at:
            self._note_end(member)
            member.back_at = time.monotonic() + self.chance.uniform(0.1, 2)
        return time.monotonic() >= member.back_at

    def _note_end(self, member: Member) -> None:
        code = member.process.returncode
        has_begun = member.has_begun or member in self.callers
        if code > 0 and not has_begun and not member.end_expected:
            self.gave_up += 1  # it was started while Redis was away; whoever runs it tries again
        elif not member.end_expected or code not in (0, -signal.SIGKILL):
            how = "when asked to stop" if member.end_expected else "by itself"
            self.surprises.append(f"{member.name} ended {how}, exit code {code}; see {member.log}")

    def _spawn(self, member: Member, arguments: Sequence[str]) -> None:
        parent = os.getpid()
        with member.log.open("ab") as log:
            member.process = subprocess.Popen(
                command(*arguments),
                env={**_clean_environment(), **self._environment(member)},
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                start_new_session=True,  # Ctrl-C is for us
                preexec_fn=lambda: die_with(parent),
            )
        member.end_expected, member.back_at, member.has_begun = False, 0.0, False

    def _environment(self, member: Member) -> dict[str, str]:
        return {
            "RQ_REDIS_URL": member.gate.url,
            "WERK_REGISTRY": "chaos.tasks:TASKS",
            "PYTHONPATH": str(Path(__file__).parents[1]),
            "CHAOS_TRACES": str(self.traces),
            "CHAOS_DIARY": str(self.diary),
        }


def adopt_orphans() -> None:
    """Become the parent of what is left by our children, so that none is lost sight of. Linux."""
    if sys.platform == "linux":
        ctypes.CDLL(None).prctl(PR_SET_CHILD_SUBREAPER, 1, 0, 0, 0)


def _clean_environment() -> dict[str, str]:
    ours = ("RQ_", "WERK_", "REDIS_", "CHAOS_")
    return {name: value for name, value in os.environ.items() if not name.startswith(ours)}


def _rotated(names: Sequence[str], by: int) -> list[str]:
    by %= len(names)
    return [*names[by:], *names[:by]]


def _kill(pid: int) -> None:
    try:
        os.kill(pid, signal.SIGKILL)
    except ProcessLookupError:
        pass


def _reap() -> None:
    try:
        while os.waitpid(-1, os.WNOHANG)[0]:
            pass
    except ChildProcessError:
        pass
