"""Injects faults: rounds of the kinds in faults.py, in an order that the seed decides."""

from __future__ import annotations

import random
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

from chaos.faults import ALL
from chaos.fleet import Fleet
from chaos.member import Member
from chaos.records import Calm, Fault

CALM_S = 45.0  # without faults, in the middle of a long run: a silent fleet has no excuse then
CALM_AFTER_S = 150.0
PATIENCE_S = 60.0  # until there is somebody to inject a fault into

Undo = Callable[[], None]


@dataclass
class Monkey:
    """Injects faults. `wait` is the only place where time passes: it keeps everything going."""

    fleet: Fleet
    seed: int
    kinds: Sequence[str]
    faults: list[Fault] = field(default_factory=list)

    def __post_init__(self) -> None:
        self.order = random.Random(f"{self.seed} order")
        self.chance = random.Random(f"{self.seed} chance")
        self.server_is_well = True
        self.calms: list[Calm] = []
        self.jobs = 0  # that were enqueued as faults
        self._later: list[tuple[float, Undo]] = []

    def torment(self, seconds: float) -> None:
        """Inject every kind once, then go on in rounds until the time is over."""
        begin = calm_since = time.monotonic()
        deadline = begin + seconds
        first = True
        while first or time.monotonic() < deadline:
            brief = [kind for kind in self.kinds if not lasts(kind)]  # twice: the others last
            kinds = [*self.kinds, *brief]
            self.order.shuffle(kinds)
            for kind in kinds:
                if first or time.monotonic() < deadline:
                    self._inject(kind)
                    self.wait(self.chance.uniform(0.1, 0.7))
            first = False
            if time.monotonic() > calm_since + CALM_AFTER_S and time.monotonic() < deadline:
                self.relent()
                self._rest()
                calm_since = time.monotonic()
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

    def _rest(self) -> None:
        """Inject nothing for a while, and note which processes are there all the time."""
        begin = time.monotonic()
        workers, horses = self._well()
        self.wait(CALM_S)
        later_workers, later_horses = self._well()
        calm = Calm(begin, time.monotonic(), workers & later_workers, horses & later_horses)
        self.calms.append(calm)

    def _well(self) -> tuple[set[int], set[int]]:
        """Return the supervisors that are well, and their horses."""
        well = [worker for worker in self.fleet.workers if worker.is_up()]
        horses = (horse for worker in well for horse in worker.horses())
        return {worker.pid for worker in well}, set(horses)

    # --- what faults.py needs

    def note(self, kind: str, target: Member | str, **more: object) -> Fault:
        """Write a fault down just before it is injected; it is over at once unless it lasts."""
        name = target if isinstance(target, str) else target.name
        begin = time.monotonic()
        fault = Fault(kind, name, begin, begin, **more)
        self.faults.append(fault)
        return fault

    def until(self, seconds: tuple[float, float], fault: Fault, undo: Undo) -> None:
        """Have a fault end, some time from now."""
        fault.end = None

        def end() -> None:
            undo()
            fault.end = time.monotonic()

        self.later(self.chance.uniform(*seconds), end)

    def later(self, seconds: float, do: Undo) -> None:
        """Do something, so many seconds from now."""
        self._later.append((time.monotonic() + seconds, do))

    def some_worker(self) -> tuple[Member, int] | None:
        """Return a worker that is well, and one of its horses."""
        well = [worker for worker in self.fleet.workers if worker.is_up() and worker.has_begun]
        if not well:
            return None
        worker = self.chance.choice(well)
        horses = worker.horses()
        return (worker, self.chance.choice(horses)) if horses else None

    def lasting(self) -> int:
        """Return how many workers are under a fault that lasts."""
        return sum(worker.is_busy for worker in self.fleet.workers)

    def _inject(self, kind: str) -> None:
        """Inject a fault of this kind as soon as there is somebody to do it to."""
        deadline = time.monotonic() + PATIENCE_S
        while not ALL[kind](self, kind):
            if time.monotonic() > deadline:
                return  # the verdict says that there was none
            self.wait(0.02)


def lasts(kind: str) -> bool:
    """Return whether a fault of this kind takes long."""
    return kind.endswith(("long", "ahead", "behind", "row", "unread"))
