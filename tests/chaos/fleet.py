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
from support import PYTHONPATH, descendants, is_gone, wait_until

from chaos.gates import Gates
from chaos.kinds import QUEUES
from chaos.member import Member
from chaos.outputs import Outputs
from chaos.pings import Pings
from chaos.prober import Prober
from werk.dev.server import Server, free_port

PR_SET_CHILD_SUBREAPER = 36
WORKERS = 5
CALLERS = 3
START_S = 30.0  # for the first job to run
LEAVE_S = 10.0  # for a worker that was asked to stop: its jobs take 4 s at most
STAY_S = 60.0  # for one that was asked during the faults
MOST_GAVE_UP = 3
HERE = Path(__file__).parent

COMMANDS = {"werk": ("werk", "worker"), "rq": ("rq", "worker", "--with-scheduler")}


class Fleet:
    """Everything that runs. `tend` is called often: it starts again what has ended."""

    def __init__(self, kind: str, seed: int, folder: Path, package: Path | None = None) -> None:
        """`package`: a folder with another copy of werk, which the processes import."""
        self.kind, self.seed, self.folder, self.package = kind, seed, folder, package
        self.has_sentry = False  # in the workers
        self.concurrency = 1  # slots of each worker
        self.chance = random.Random(f"{seed} fleet")
        self.traces, self.call_log = folder / "traces", folder / "call_log"
        for file in (self.traces, self.call_log):
            file.touch()
        (folder / "attempts").mkdir()
        self.server = Server(folder / "server", free_port())
        self.gates: Gates | None = None
        self.outputs: Outputs | None = None
        self.pings: Pings | None = None
        self.prober: Prober | None = None
        self.workers: list[Member] = []
        self.callers: list[Member] = []
        self.gave_up = 0  # workers that ended with an error before they had begun
        self.surprises: list[str] = []  # processes that ended, or did not, against the rules
        self._numbers = count()

    @property
    def port(self) -> int:
        """The server's port, past all gates."""
        return int(self.server.url.rpartition(":")[2].partition("/")[0])

    @property
    def settings(self) -> dict[str, str]:
        """The environment in which werk finds the server past all gates."""
        return {"RQ_REDIS_URL": self.server.url}

    modules: Sequence[str] = ()  # folders that processes import from besides

    def start(self) -> None:
        """Start the server, then all others; jobs run."""
        adopt_orphans()
        self.start_server()
        self.make_gates()
        self.outputs, self.pings = Outputs(), Pings()
        self.prober = Prober(lambda: self.port)
        for number in range(WORKERS):
            self.workers.append(self._member(f"worker{number}"))
        for number in range(CALLERS):
            self.callers.append(self._member(f"caller{number}"))

        def has_run() -> bool:
            self.tend()
            return self.traces.stat().st_size > 0

        wait_until(has_run, START_S, problem=f"no job runs; see {self.folder}")

    def start_server(self) -> None:
        """Start the server, or start it again.

        With `everysec` a server may keep to itself what it has acknowledged, for as long as an
        fsync is under way (redis.conf, appendfsync): killed in that moment it loses that. Here it
        is the others that are put to the test.
        """
        self.server.start()
        with self.connection() as connection:
            connection.config_set("appendfsync", "always")

    def kill_server(self) -> None:
        """End the server as a crash would."""
        self.server.kill()

    def make_gates(self) -> None:
        self.gates = Gates(self.port)

    def redis_environment(self, member: Member) -> dict[str, str]:
        """Return the environment in which a process finds its gate."""
        return {"RQ_REDIS_URL": member.gate.url}

    def tend(self) -> None:
        """Start what is not running and should be."""
        for number, worker in enumerate(self.workers):
            worker.look()
            if self._has_to_start(worker):
                worker.started += 1
                # An odd one is quiet: then the horse goes another way (call_log.says).
                options = ["--name", worker.worker_name, *["--quiet"] * (number % 2)]
                options += ["--concurrency", str(self.concurrency)] * (self.concurrency > 1)
                words = [*COMMANDS[self.kind], *options, *_rotated(QUEUES, number)]
                worker.start(words, self._environment(worker))
        for caller in self.callers:
            if self._has_to_start(caller):
                caller.name = f"c{next(self._numbers)}"  # what it is going to enqueue is new
                words = [sys.executable, "-P", "-m", "chaos.caller", caller.name, str(self.seed)]
                caller.start(words, self._environment(caller))

    def stop_callers(self) -> None:
        """Let the callers finish what they are about to enqueue."""
        alive = [caller for caller in self.callers if caller.is_alive()]
        for caller in alive:
            caller.process.terminate()
        for caller in alive:
            caller.process.wait(LEAVE_S)
        self.callers = []

    def stop_workers(self) -> None:
        """Ask all workers to stop; they have to, and with exit code 0."""
        for worker in self.workers:
            if worker.is_alive():
                self._note_who_stayed(worker)
                worker.expect_end()
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
        self.kill_server()
        while found := descendants(os.getpid()):  # also what was left by those that were killed
            for pid in found:
                _kill(pid)
            _reap()
        if self.prober:
            self.prober.stop()
            self.pings.stop()
            self.outputs.close()

    def connection(self) -> redis.Redis:
        """Return a connection past all gates."""
        return redis.Redis.from_url(self.server.url)

    def note_survivors(self, worker: Member, horses: Sequence[int]) -> None:
        """Note which horses still run, though their supervisor was killed a while ago."""
        for pid in horses if self.kind == "werk" else ():  # those of plain RQ end their jobs
            if not is_gone(pid):
                self.surprises.append(f"{worker.name}: horse {pid} outlived its supervisor")

    def _member(self, name: str) -> Member:
        gate = self.gates.add() if self.gates else None
        return Member(name, gate, self.outputs.add(self.folder / f"{name}.log"))

    def _has_to_start(self, member: Member) -> bool:
        if member.process is None:
            return True
        if member.is_alive():
            return False
        if not member.back_at:
            self._note_end(member)
            member.back_at = time.monotonic() + self.chance.uniform(0.1, 2)
        return time.monotonic() >= member.back_at

    def _note_who_stayed(self, worker: Member) -> None:
        """Note a worker that was asked to stop long ago. It gets a second SIGTERM now."""
        stayed_s = time.monotonic() - worker.asked_at if worker.asked_at else 0
        if stayed_s > STAY_S:
            self.surprises.append(f"{worker.name} was asked to stop {stayed_s:.0f} s ago")

    def _note_end(self, member: Member) -> None:
        code = member.process.returncode
        has_begun = member.has_begun or member in self.callers
        if code > 0 and not has_begun and not member.end_expected:
            self.gave_up += 1  # started while Redis was unreachable; the fleet starts it again
            if self.kind == "werk" and self.gave_up > MOST_GAVE_UP:  # it waits for Redis
                self.surprises.append(f"{member.name} gave up; see {member.output.log}")
        elif not member.end_expected or code not in self._expected_codes(member):
            how = "when asked to stop" if member.end_expected else "by itself"
            log = member.output.log
            self.surprises.append(f"{member.name} ended {how}, exit code {code}; see {log}")

    def _expected_codes(self, member: Member) -> tuple[int, ...]:
        """A caller handles SIGTERM only when it has imported everything."""
        of_callers = (-signal.SIGTERM,) * (member in self.callers)
        return (0, -signal.SIGKILL, *of_callers)

    def _environment(self, member: Member) -> dict[str, str]:
        ours = ("RQ_", "WERK_", "REDIS_", "CHAOS_")
        outer = {name: value for name, value in os.environ.items() if not name.startswith(ours)}
        first = [str(self.package)] if self.package else []
        first += self.modules
        sentry = {"CHAOS_SENTRY": "1"} if self.has_sentry and member not in self.callers else {}
        return outer | {
            **sentry,
            **self.redis_environment(member),
            "WERK_REGISTRY": "chaos.tasks:TASKS",
            "PYTHONPATH": os.pathsep.join([*first, PYTHONPATH, str(HERE / "skew")]),
            "PYTHONUNBUFFERED": "1",
            "CHAOS_TRACES": str(self.traces),
            "CHAOS_CALL_LOG": str(self.call_log),
            "CHAOS_ATTEMPTS": str(self.folder / "attempts"),
            "CHAOS_PINGS": self.pings.url,
        }


def adopt_orphans() -> None:
    """Become the parent of what is left by our children, so that none is lost sight of. Linux."""
    if sys.platform == "linux":
        ctypes.CDLL(None).prctl(PR_SET_CHILD_SUBREAPER, 1, 0, 0, 0)


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
