"""The faults of `bin/chaos`: rounds of every kind, in an order that the seed decides."""

from __future__ import annotations

import os
import random
import signal
import time
from collections.abc import Callable
from dataclasses import dataclass, field

from chaos.fleet import Fleet, Member
from chaos.gates import Cut
from chaos.records import doubles

LONG_S = (17.5, 20.0)  # more than a lease of 15 s and a tick
SHORT_S = (0.5, 5.0)  # less than a lease
LONG_AT_ONCE = 2  # or too few workers would be left to rescue anything
CUTS_AT_ONCE = 5

Undo = Callable[[], None]


@dataclass
class Fault:
    """What was done to whom and when, by the monotonic clock."""

    kind: str
    target: str
    begin: float
    end: float | None = None  # None: it lasts
    supervisor: int | None = None
    horse: int | None = None
    note: str = ""

    def hits(self, horse: int, supervisor: int) -> bool:
        """Tell whether it was done to the worker of this execution."""
        return supervisor == self.supervisor or horse == self.horse


@dataclass
class Monkey:
    """Injects faults. `wait` is the only place where time passes: it keeps everything going."""

    fleet: Fleet
    seed: int
    faults: list[Fault] = field(default_factory=list)

    def __post_init__(self) -> None:
        self.order = random.Random(f"{self.seed} order")
        self.chance = random.Random(f"{self.seed} chance")
        self.server_is_well = True
        self.doubles: set[str] = set()  # ids seen twice in the queues
        self._later: list[tuple[float, Undo]] = []

    def torment(self, seconds: float) -> None:
        """Inject every kind once, then go on in rounds until the time is over."""
        deadline = time.monotonic() + seconds
        first = True
        while first or time.monotonic() < deadline:
            brief = [kind for kind in KINDS if not kind.endswith("long")]  # twice: the others last
            kinds = [*KINDS, *brief]
            self.order.shuffle(kinds)
            for kind in kinds:
                if first or time.monotonic() < deadline:
                    self._inject(kind)
                    self.wait(self.chance.uniform(0.1, 0.7))
            first = False
        self.wait(deadline - time.monotonic())

    def relent(self) -> None:
        """End all faults that last."""
        while self._later:
            self.wait(0.05)

    def wait(self, seconds: float) -> None:
        """Let time pass: end what has lasted long enough, start again what has ended."""
        deadline = time.monotonic() + seconds
        while True:
            due = [entry for entry in self._later if entry[0] <= time.monotonic()]
            self._later = [entry for entry in self._later if entry not in due]
            for _, undo in due:
                undo()
            self.fleet.tend()
            left = deadline - time.monotonic()
            if left <= 0:
                return
            time.sleep(min(left, 0.02))  # between two looks at the processes and at what is due

    def _inject(self, kind: str) -> None:
        """Inject a fault of this kind as soon as there is somebody to do it to."""
        if self.server_is_well:
            with self.fleet.connection() as connection:
                self.doubles |= doubles(connection)
        deadline = time.monotonic() + 30
        while not KINDS[kind](self, kind):
            if time.monotonic() > deadline:
                return  # the verdict says that there was none
            self.wait(0.02)

    def _note(self, kind: str, target: Member | str, **more: object) -> Fault:
        """Write a fault down just before it is injected."""
        name = target if isinstance(target, str) else target.name
        fault = Fault(kind, name, time.monotonic(), **more)
        self.faults.append(fault)
        return fault

    def _until(self, seconds: tuple[float, float], fault: Fault, undo: Undo) -> None:
        """Have a fault end, some time from now."""

        def end() -> None:
            undo()
            fault.end = time.monotonic()

        self._later.append((time.monotonic() + self.chance.uniform(*seconds), end))

    def _some_worker(self) -> tuple[Member, int] | None:
        """Return a worker that is well, and its horse."""
        well = [worker for worker in self.fleet.workers if worker.is_up() and worker.has_begun]
        if not well:
            return None
        worker = self.chance.choice(well)
        horse = worker.horse()
        return (worker, horse) if horse else None

    # --- the kinds; each returns whether it was injected

    def kill(self, kind: str) -> bool:
        """SIGKILL to the horse, to the supervisor, or to both."""
        if (found := self._some_worker()) is None:
            return False
        worker, horse = found
        to_supervisor = kind != "kill -9 horse"
        self._note(kind, worker, horse=horse, supervisor=worker.pid if to_supervisor else None)
        if to_supervisor:
            worker.end_expected = True
            os.kill(worker.pid, signal.SIGKILL)
        if kind != "kill -9 supervisor":
            _signal(horse, signal.SIGKILL)
        return True

    def terminate(self, kind: str) -> bool:
        """SIGTERM: it finishes its job and leaves."""
        if (found := self._some_worker()) is None:
            return False
        worker, horse = found
        self._note(kind, worker, horse=horse, supervisor=worker.pid)
        worker.end_expected = True
        os.kill(worker.pid, signal.SIGTERM)
        if kind == "TERM supervisor and horse":  # as systemd does
            _signal(horse, signal.SIGTERM)
        return True

    def terminate_twice(self, kind: str) -> bool:
        """SIGTERM, and again 1.1 s later if it still works then; RQ ignores one before that."""
        if (found := self._some_worker()) is None:
            return False
        worker, horse = found
        worker.end_expected = True
        fault = self._note("TERM supervisor", worker, horse=horse, supervisor=worker.pid)
        os.kill(worker.pid, signal.SIGTERM)
        self.wait(1.1)
        if worker.horse() != horse:
            return False  # it had little left to do: once was enough
        self.faults.remove(fault)
        self._note(kind, worker, horse=horse, supervisor=worker.pid)
        os.kill(worker.pid, signal.SIGTERM)
        return True

    def freeze(self, kind: str) -> bool:
        """SIGSTOP to horse, supervisor or both, SIGCONT later."""
        long = kind.endswith("long")
        if long and self._lasting() >= LONG_AT_ONCE:
            return False
        if (found := self._some_worker()) is None:
            return False
        worker, horse = found
        whole = {"horse": [horse], "supervisor": [worker.pid], "both": [worker.pid, horse]}
        pids = whole[kind.split()[1].strip(",")]
        fault = self._note(
            kind,
            worker,
            horse=horse if horse in pids else None,
            supervisor=worker.pid if worker.pid in pids else None,
        )
        for pid in pids:
            _signal(pid, signal.SIGSTOP)

        def thaw() -> None:
            for pid in pids:
                _signal(pid, signal.SIGCONT)
            worker.is_busy = False

        worker.is_busy = True
        self._until(LONG_S if long else SHORT_S, fault, thaw)
        return True

    def cut_off(self, kind: str) -> bool:
        """Hold back all that a worker says and hears; it arrives late."""
        if self._lasting() >= LONG_AT_ONCE or (found := self._some_worker()) is None:
            return False
        worker, horse = found
        fault = self._note(kind, worker, horse=horse, supervisor=worker.pid)

        def reconnect() -> None:
            worker.gate.release()
            worker.is_busy = False

        worker.is_busy = True
        worker.gate.hold()
        self._until(LONG_S, fault, reconnect)
        return True

    def cut(self, kind: str) -> bool:
        """Cut connections of a worker or a caller, a few in a row, each at some byte."""
        everyone = self.fleet.callers if "caller" in kind else self.fleet.workers
        well = [member for member in everyone if member.is_up()]
        if not well:
            return False
        member = self.chance.choice(well)
        direction = "reply" if "reply" in kind else "request"
        return sum(self._cut_once(kind, member, direction) for _ in range(CUTS_AT_ONCE)) > 0

    def _cut_once(self, kind: str, member: Member, direction: str) -> bool:
        cut = Cut(direction, self.chance.random())
        member.gate.cut(cut)
        deadline = time.monotonic() + 2
        while cut.at is None and time.monotonic() < deadline and member.is_up():
            self.wait(0.01)
        if cut.at is None:
            member.gate.cut(None)
            return False
        fault = self._note(kind, member, supervisor=member.pid, note=cut.note)
        fault.begin = fault.end = cut.at
        return True

    def kill_caller(self, kind: str) -> bool:
        """SIGKILL to a caller, wherever it is."""
        caller = self.chance.choice(self.fleet.callers)
        if not caller.is_up():
            return False
        self._note(kind, caller)
        caller.end_expected = True
        os.kill(caller.pid, signal.SIGKILL)
        return True

    def kill_server(self, kind: str) -> bool:
        """SIGKILL to the server; it is started again and reads its file."""
        if not self.server_is_well:
            return False
        fault = self._note(kind, "server")
        self.server_is_well = False
        self.fleet.server.kill()
        self._until((0.1, 2), fault, self._start_server)
        return True

    def _start_server(self) -> None:
        self.fleet.start_server()
        self.server_is_well = True

    def pause_server(self, kind: str) -> bool:
        """SIGSTOP to the server: connections stay, nothing is answered."""
        if not self.server_is_well:
            return False
        fault = self._note(kind, "server")
        self.server_is_well = False
        os.kill(self.fleet.server.pid, signal.SIGSTOP)

        def resume() -> None:
            os.kill(self.fleet.server.pid, signal.SIGCONT)
            self.server_is_well = True

        self._until(LONG_S if kind.endswith("long") else SHORT_S, fault, resume)
        return True

    def _lasting(self) -> int:
        return sum(worker.is_busy for worker in self.fleet.workers)


KINDS: dict[str, Callable[[Monkey, str], bool]] = {
    "kill -9 horse": Monkey.kill,
    "kill -9 supervisor": Monkey.kill,
    "kill -9 both": Monkey.kill,
    "TERM supervisor": Monkey.terminate,
    "TERM supervisor and horse": Monkey.terminate,
    "TERM twice": Monkey.terminate_twice,
    "freeze horse, short": Monkey.freeze,
    "freeze horse, long": Monkey.freeze,
    "freeze supervisor, short": Monkey.freeze,
    "freeze supervisor, long": Monkey.freeze,
    "freeze both, short": Monkey.freeze,
    "freeze both, long": Monkey.freeze,
    "cut off from Redis, long": Monkey.cut_off,
    "cut a worker's request": Monkey.cut,
    "cut a worker's reply": Monkey.cut,
    "cut a caller's request": Monkey.cut,
    "cut a caller's reply": Monkey.cut,
    "kill -9 caller": Monkey.kill_caller,
    "kill -9 server": Monkey.kill_server,
    "pause Redis, short": Monkey.pause_server,
    "pause Redis, long": Monkey.pause_server,
}


def _signal(pid: int, number: signal.Signals) -> None:
    try:
        os.kill(pid, number)
    except ProcessLookupError:
        pass
