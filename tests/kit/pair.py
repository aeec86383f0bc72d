"""A worker, supervisor and horse, in the process of the test, which says where either of them dies.

It is killed before any command of RQ's own code (Mortal), and in any part of an exchange (Line).
"""

from __future__ import annotations

import resource
import signal
from collections.abc import Callable, Sequence
from typing import Any, cast

import redis
from redis.connection import Connection, ConnectionPool
from rq.job import Retry

from werk.store.connection import Command
from werk.worker import Worker, supervisor
from werk.worker.claim import Claim
from werk.worker.horse import Horse
from werk.worker.outcome import Outcome
from werk.worker.process import Child
from werk.worker.redis_side import Channel
from werk.worker.shared_state import Leave, Order, Plan, SharedState
from werk.worker.slot import Slot
from werk.worker.step import Steps

NO_PID = 2**22 + 1  # above every process id: a signal to it goes nowhere
HOW = ("returns", "none", "raises", "again", "later")  # a job of `work` ends
FAULTS = (  # of an exchange
    "request lost", "reply lost", "frozen", "frozen before", "on its way"
)  # fmt: skip

ends: dict[str, str] = {}


def work(*args: object) -> object:
    if ends["how"] == "raises":
        raise ValueError("as asked")
    again, later = Retry(max=9), Retry(max=9, interval=99)
    return {"returns": 1, "none": None, "again": again, "later": later}[ends["how"]]


def saw(*args: object) -> None:
    """A callback."""


class Died(Exception):
    """Raised where the horse is killed, or frozen."""


class Mortal(Connection):
    """The connection of RQ's own code: the horse is killed before a command, when `left` is 0."""

    left: int | None = None
    is_dead = False
    is_closed = False

    def connect(self) -> None:
        left, Mortal.left = Mortal.left, None
        try:
            super().connect()
        finally:
            Mortal.left = left

    def send_packed_command(self, command: Any, check_health: bool = True) -> None:
        if self.is_closed:
            raise redis.ConnectionError
        if Mortal.left is not None:
            Mortal.is_dead = Mortal.is_dead or Mortal.left == 0
            if Mortal.is_dead:
                raise Died
            Mortal.left -= 1
        super().send_packed_command(command, check_health)


def hang_up(pool: ConnectionPool) -> None:
    """What a pipeline of the dead holds stays closed: its end comes later, and would open it."""
    pool.disconnect()
    for held in pool._in_use_connections:
        held.is_closed = True
    pool.reset()


class Line(Channel):
    """The horse's own connection, for the test to break."""

    fault = ""
    late: tuple[Sequence[Command], bytes] | None = (
        None  # a request that is on its way, but not there yet
    )

    def send(self, *commands: Command, last: bytes = b"") -> None:
        fault, self.fault = self.fault, ""
        if fault == "request lost":
            raise ConnectionError(fault)
        if fault == "frozen before":
            raise Died
        if fault == "on its way":
            self.late = commands, last
            raise Died
        super().send(*commands, last=last)
        if fault in ("reply lost", "frozen"):
            self.receive()
            raise ConnectionError(fault) if fault == "reply lost" else Died

    def arrive(self) -> Any:
        assert self.late
        (commands, last), self.late = self.late, None
        self.send(*commands, last=last)
        return self.receive()


class Frozen(Steps):
    """A horse's requests: it can be frozen in the middle of one, and goes on with it later."""

    pending: tuple[bytes, Outcome | None] | None = None  # its words, and the outcome among them
    last: tuple[bytes, Outcome | None]
    wants_job = False

    def step(self, outcome: Outcome | None, wants_job: bool) -> Any:
        self.wants_job = wants_job
        return super().step(outcome, wants_job)

    def ask(self, words: bytes, outcome: Outcome | None, is_resent: bool = False) -> Any:
        self.pending = self.last = words, outcome
        reply = super().ask(words, outcome, is_resent)
        self.pending = None
        return reply


class Owner(Worker):
    """The worker of both."""

    def _install_signal_handlers(self) -> None:
        pass


class Shadow(Child):
    """A child that is no process: the parent is it, and goes on."""

    def start(self, be: Callable[[], int]) -> None:
        self.pid, self.started_at = NO_PID, float("-inf")
        be()


class OwnSlot(Slot):
    """A slot whose horse is no process: it starts and ends when the test says so."""

    horse: Horse

    def begin(self) -> None:
        self.child = self.executions.child = Shadow()
        self.child._wake_w = self.supervisor.wake.w
        self.start()

    def be_horse(self, plan: Plan) -> int:
        worker = self.supervisor.worker
        self.horse = Horse(worker, self.shared, plan, self.supervisor.wake.r)
        counters, idle = self.horse.performer.counters, self.horse.idle
        self.horse.steps = Frozen(worker, self.shared, plan.generation, counters, idle)
        self.horse.steps.channel = Line(worker.connection)
        self.horse.carry_out_orders()
        return 0

    def reap(self, status: int) -> None:
        """The horse has ended: with a signal, or with an exit code."""
        self.child.pid = 0
        self.child.death = (NO_PID, status, resource.getrusage(resource.RUSAGE_SELF))
        self.resolve()
        self.not_before = 0.0
        self.start()


class Supervisor(supervisor.Supervisor):
    """A supervisor with one slot, whose horse is no process."""

    def __init__(self, worker: Worker) -> None:
        shared = SharedState()
        super().__init__([worker], Plan(""), moves_due=True, shared=shared)
        self.slots = [OwnSlot(self, worker, Plan(""), shared)]
        worker.slot = self.slot

    def begin(self) -> None:
        self.worker.register_birth()  # type: ignore[no-untyped-call]
        super().begin()
        signal.set_wakeup_fd(-1)
        self.slot.begin()

    @property
    def slot(self) -> OwnSlot:
        return cast(OwnSlot, self.slots[0])

    def close(self) -> None:
        self.link.close()
        self.slot.horse.steps.channel.close()
        hang_up(self.worker.connection.connection_pool)
        self.wake.close()


class Pair:
    """A worker, and what its horse has in hand."""

    def __init__(self, name: str, queues: tuple[str, ...], url: str) -> None:
        pool = ConnectionPool.from_url(url, connection_class=Mortal)
        self.name, self.queues = name, queues
        self.worker = Owner(queues, name, connection=redis.Redis(connection_pool=pool))
        self.supervisor = Supervisor(self.worker)
        self.supervisor.begin()
        self.claim: Claim | None = None
        self.is_frozen = self.is_dead = False

    @property
    def horse(self) -> Horse:
        return self.slot.horse

    @property
    def slot(self) -> OwnSlot:
        return self.supervisor.slot

    @property
    def steps(self) -> Frozen:
        return cast(Frozen, self.horse.steps)

    @property
    def line(self) -> Line:
        return cast(Line, self.steps.channel)

    @property
    def is_asking(self) -> bool:
        return self.steps.pending is not None

    def runs(self) -> set[str]:
        """Return the executions that this worker answers for."""
        pending = self.steps.pending[1] if self.steps.pending else None
        held = {own.run for own in (self.claim, pending) if own}
        return held | {order.run for order in self.orders()}

    def orders(self) -> list[Order]:
        """Return what a horse of it has still to carry out."""
        return self.slot.executions.orders[max(0, self.horse.shared.orders_begun - 1) :]

    def step(self, finish: Outcome | None, claims: bool) -> tuple[bytes, Any]:
        """A request, and RQ's part of it: as Horse.loop does. Raises Died."""
        claims = claims and not self.horse.shared.stop
        return self.go_on(self.steps.step(finish, claims), finish, claims)

    def ask_again(self) -> tuple[bytes, Any]:
        """Thawed in the middle of a request, which may have been answered."""
        words, finish = cast(Any, self.steps.pending)
        self.line.close()
        reply = self.steps.ask(words, finish, is_resent=True)
        return self.go_on(reply, finish, self.steps.wants_job)

    def go_on(self, reply: Any, finish: Outcome | None, claims: bool) -> tuple[bytes, Any]:
        shared, self.claim = self.horse.shared, None
        if reply[0] == b"dependents":
            assert finish
            rest = self.horse.record_otherwise(finish, reply[0])
            reply = self.steps.step(rest, claims)
        outcome, claimed = reply[:2]
        if shared.stop:  # claimed on the way, or nothing
            self.leave()
        elif type(claimed) is list:
            self.horse.jobs += 1
            self.claim = Claim(*claimed, self.steps.execution, self.steps.asked_at)
            shared.show(self.horse.jobs, self.claim.id, self.claim.execution)
        else:
            shared.show(self.horse.jobs, "", self.steps.execution)
        return outcome, claimed

    def perform(self, how: str, dies_after: int | None = None) -> Outcome | None:
        """Run the job to its end. Raises Died, before the n-th command of RQ's own finish."""
        assert self.claim
        ends["how"], Mortal.left, Mortal.is_dead = how, dies_after, False
        try:
            finish = self.horse.performer.perform(self.claim, self.horse.jobs)
        finally:
            Mortal.left = None
        if Mortal.is_dead:  # the recorder catches everything, to tell of it
            raise Died
        return finish

    def leave(self) -> None:
        self.horse.shared.leave = Leave.STOPPED
        self.die(Leave.STOPPED << 8)

    def die(self, status: int = signal.SIGKILL) -> None:
        self.line.close()
        hang_up(self.worker.connection.connection_pool)
        self.claim = None
        self.slot.reap(status)
