"""Supervisor: a worker at work. It has horses run its jobs, one horse after the other.

1. start   a horse (horse.py), which claims, runs and finishes jobs over its own connection
2. watch   it: a tick a second (tick.py); limits, commands and signals at once
3. resolve what it had in hand, when it has ended and is fenced in Redis; then the next, or exit

It runs no users' code and none of RQ's clean-up: they can take longer than a lease.
"""

from __future__ import annotations

import os
import select
import signal
import time
from collections import deque
from collections.abc import Callable
from contextlib import suppress
from typing import TYPE_CHECKING, Any
from uuid import uuid4

import redis.exceptions
import rq.command

from werk.errors import ConfigError, RedisUnavailable
from werk.store import keys
from werk.store.connection import link_over
from werk.store.scripts import Script
from werk.worker.horse import run_horse
from werk.worker.process import Child
from werk.worker.redis_side import AWAY
from werk.worker.scripts import script
from werk.worker.shared_state import HORSE_SIGNAL, Leave, Order, Plan, Progress, SharedState
from werk.worker.tick import TICK_BUDGET_S, Ticker
from werk.worker.watchdog import Verdict, Watchdog

if TYPE_CHECKING:
    from werk.worker import Worker

QUIET_S = 1.0  # two signals within it are one, as in RQ: a pool and a terminal both send theirs
HORSE_PAUSE_S = 5.0  # the longest between two horses that die at once
RAN_S = 1.0  # a horse that lived for longer did not die at once
LONGEST_COMMAND = 4096  # bytes; RQ's have one or two ids
MOST_COMMANDS = 1000  # that wait for us
LEASES = keys.key("werk", "leases")


class _GivenUp(Exception):
    """Raised when we are to leave and Redis does not answer: others will rescue what is open."""


class Supervisor:
    """Made by Worker.work(). Signals and commands only leave a note here: the loop acts."""

    def __init__(self, worker: Worker, plan: Plan, moves_due: bool, shared: SharedState) -> None:
        self.worker, self.plan, self.shared, self.log = worker, plan, shared, worker.log
        self.link = link_over(worker.connection, TICK_BUDGET_S)
        server = worker.server_version()
        self.back_script = script("back", server)
        self.fence_script = script("fence_generation", server)
        self.child = Child()
        # Why we killed the horse (timeout, command, stop, lost, cold), and which execution was
        # meant: no other in its hand is at fault.
        self.killed = self.killed_run = ""
        self.generation = new_generation()  # of the horse
        self.ticker = Ticker(self, moves_due)
        self.watchdog = Watchdog(self.shared, worker.lease_s)
        self.opened, self.server = 0, b""  # our connections so far; the server of the last one
        self.told = 0.0  # the last deadline that the horse has been told of
        self.jobs, self.pause_s = 0, 0.0
        self.orders: list[Order] = []
        self.ordered = 0  # so many of them has the horse
        self.commands: deque[dict[str, Any]] = deque()
        self.is_leaving = self.is_draining = self.is_cold = False
        self.drained_at = float("inf")  # a second signal may come before the first is noted
        self.is_undated = False  # a request to shut down is not yet in Redis
        self.wake_r, self.wake_w = os.pipe()
        os.set_blocking(self.wake_w, False)

    def run(self) -> None:
        """Horse after horse, until there is a reason to leave."""
        self.begin()
        try:
            while not self.is_leaving:
                if self.start():
                    self.watch()
                    self.resolve_executions()
        except _GivenUp:
            self.log.warning("event=given-up worker=%s: Redis is unreachable", self.worker.name)
        finally:
            self.tear_down()

    def begin(self) -> None:
        self.old_wake = signal.set_wakeup_fd(self.wake_w, warn_on_full_buffer=False)
        signal.signal(signal.SIGCHLD, lambda *_: None)
        self.worker.install_signal_handlers()
        while self.ticker.tick():
            pass
        self.has_moved()
        if self.plan.is_burst:
            self.ticker.moves_due = False  # one pass, as RQ's scheduler does

    def tear_down(self) -> None:
        """Leave all as we found it. What is open in Redis keeps our lease, for others to rescue."""
        worker = self.worker
        if self.child.pid:
            self.child.signal_group(signal.SIGKILL)
            self.child.has_ended()
        worker.supervisor = None
        signal.set_wakeup_fd(self.old_wake)
        signal.signal(signal.SIGCHLD, signal.SIG_DFL)
        os.close(self.wake_r)
        os.close(self.wake_w)
        try:
            if not worker.connection.exists(worker.executions_key):
                worker.connection.zrem(LEASES, worker.name)
                worker.teardown()  # type: ignore[no-untyped-call]
            else:
                worker.unsubscribe()  # type: ignore[no-untyped-call]
        except (*AWAY, redis.exceptions.ResponseError) as error:  # NOREPLICAS, OOM, MISCONF, ...
            self.log.warning("event=not-deregistered worker=%s reason=%s", worker.name, error)
        finally:
            self.link.close()

    # --- start

    def start(self) -> bool:
        """Fork the next horse. Return whether there is one: none, if we are to leave first."""
        self.generation, self.killed, self.killed_run = new_generation(), "", ""
        self.fence_generation()
        while not self.try_to_start():
            self.rest()
            if self.is_unwanted():
                self.is_leaving = True
                return False
        return True

    def is_unwanted(self) -> bool:
        """Tell whether the worker is to leave and has no use for another horse."""
        return self.is_cold or (self.is_draining and not self.orders)

    def try_to_start(self) -> bool:
        left = None if self.plan.max_jobs is None else self.plan.max_jobs - self.jobs
        plan = self.plan._replace(
            generation=self.generation,
            orders=tuple(self.orders),
            max_jobs=left,
            only_orders=self.is_draining or (left is not None and left <= 0),
        )
        self.shared.stop = self.shared.reconnect = self.shared.request = 0
        self.shared.end_finish()
        self.shared.orders_begun, self.ordered = 0, len(self.orders)
        self.shared.show(0, "", "")
        try:
            self.child.start(lambda: self.be_horse(plan))
        except OSError as error:  # of processes, descriptors or memory there are none left
            self.log.error("event=no-horse worker=%s reason=%s", self.worker.name, error)
            return False
        if self.is_draining and not plan.only_orders:  # since a moment ago
            self.ask_to_stop()
        return True

    def be_horse(self, plan: Plan) -> int:
        """In the child."""
        self.worker.supervisor = None
        signal.set_wakeup_fd(-1)
        os.close(self.wake_r)
        os.close(self.wake_w)
        return run_horse(self.worker, self.shared, plan, self.child.lead_group())

    # --- watch

    def watch(self) -> None:
        """Tick, keep limits and handle commands, until the horse has ended."""
        while not self.child.has_ended(os.WNOHANG):
            deadline, due_at = self.shared.deadline, self.ticker.due_at
            until = deadline + (self.worker.grace_s if deadline == self.told else 0.0)
            self.doze((min(due_at, until) if deadline else due_at) - time.monotonic())
            self.handle_commands()
            self.keep_limits()
            self.date_shutdown()
            if self.ticker.tick_if_due():
                self.guard()

    def doze(self, seconds: float) -> None:
        """Sleep until a signal, a command or the horse's end."""
        if select.select([self.wake_r], [], [], max(0.0, seconds))[0]:
            os.read(self.wake_r, 4096)

    def handle_commands(self) -> None:
        for _ in range(len(self.commands)):  # those that come meanwhile wait for the next look
            command = self.commands.popleft()
            try:
                rq.command.handle_command(self.worker, command)
            except (LookupError, TypeError) as error:
                self.log.warning("event=bad-command worker=%s reason=%r", self.worker.name, error)

    def keep_limits(self) -> None:
        if self.is_cold:
            self.kill("cold")
        state, clock, grace_s = self.shared.progress(), time.monotonic(), self.worker.grace_s
        if state.deadline and clock > state.deadline + grace_s:
            self.kill("finish" if self.shared.finishing else "timeout", state.run)
        elif state.deadline and clock >= state.deadline != self.told:
            self.told = state.deadline
            self.child.tell(HORSE_SIGNAL)
        elif self.is_draining and not state.is_busy and clock > self.drained_at + grace_s:
            self.kill("cold")  # idle, but it does not answer: Redis is frozen

    def guard(self) -> None:
        """After a tick that reached Redis: see to it that the horse reaches Redis, too."""
        verdict = self.watchdog.look(time.monotonic())
        is_moved = self.opened != self.link.opened and self.has_moved()
        if verdict is Verdict.RECONNECT or (is_moved and not self.shared.finishing):
            self.tell_to_reconnect()
        elif verdict is Verdict.REPLACE:
            self.kill("stuck")

    def has_moved(self) -> bool:
        """After a new connection of ours: tell whether it is to another server than before."""
        before, self.opened = self.server, self.link.opened
        try:
            info = self.link.call("INFO", "server").split(b"\r\n")
            self.server = next((line for line in info if line.startswith(b"run_id:")), b"")
        except (RedisUnavailable, ConfigError):
            pass  # a silent connection is noticed all the same, only later
        return before != self.server

    def tell_to_reconnect(self) -> None:
        self.log.warning("event=reconnect worker=%s", self.worker.name)
        self.shared.reconnect = 1
        self.child.tell(HORSE_SIGNAL)
        self.worker.reconnect_pubsub()

    def date_shutdown(self) -> None:
        if self.is_undated:
            self.is_undated = False
            try:
                self.worker.set_shutdown_requested_date()  # type: ignore[no-untyped-call]
            except redis.exceptions.RedisError as error:
                self.ticker.log_unreachable(error)

    # --- resolve

    def resolve_executions(self) -> None:
        """Fence the dead horse in Redis, and decide about each execution that it had in hand."""
        state, leave = self.shared.progress(), self.reason_it_left()
        if begun := self.shared.orders_begun:
            del self.orders[: begun - 1]
            if self.orders and begun <= self.ordered:  # it died of this one
                self.orders[0] = self.orders[0]._replace(is_raw=True)
        self.generation = new_generation()
        ordered = {order.run for order in self.orders}
        for run in self.fence_generation():
            if run not in ordered:
                self.decide(run, state, leave)
        self.jobs += state.jobs + state.is_busy  # RQ counts one that killed its horse, too
        self.is_leaving = self.is_cold or (not self.orders and self.is_done(leave))
        is_broken = leave in (None, Leave.UNUSABLE) and not state.is_busy
        if is_broken and time.monotonic() < self.child.started_at + RAN_S:
            if not self.is_leaving:
                self.rest()
        else:
            self.pause_s = 0.0

    def rest(self) -> None:
        """Wait before the next horse, longer each time. The lease is kept meanwhile."""
        self.pause_s = min(HORSE_PAUSE_S, self.pause_s * 2 or 0.1)
        until = time.monotonic() + self.pause_s
        while (left := until - time.monotonic()) > 0 and not self.is_unwanted():
            self.doze(min(left, self.worker.tick_s))
            self.ticker.tick_if_due()

    def is_done(self, leave: Leave | None) -> bool:
        limit = self.plan.max_jobs
        is_over = leave in (Leave.EMPTY, Leave.SUSPENDED, Leave.IDLE)
        return is_over or self.is_draining or (limit is not None and self.jobs >= limit)

    def reason_it_left(self) -> Leave | None:
        """Return why the horse left of its own accord; None if it died."""
        code = self.child.exit_code
        is_told = code == Leave.UNUSABLE or not self.shared.progress().is_busy
        return Leave(code) if code in list(Leave) and is_told else None

    def fence_generation(self) -> list[str]:
        """Let our generation alone claim, and return what was in hand until now.

        An earlier horse's last request may still be on its way: it is refused from here on.
        """
        words = (self.worker.name, self.generation, self.worker.lease_s)
        found = self.insist(self.fence_script, *words)
        return [run.decode("utf-8", "replace") for run in found]

    def insist(self, script: Script, *words: Any) -> Any:
        """Run a script, when Redis is back. Raises _GivenUp if we are to leave before that."""
        while True:
            try:
                return self.link.run(script, [], words)
            except (RedisUnavailable, ConfigError) as error:
                if self.is_draining or self.is_cold:
                    raise _GivenUp from None
                self.ticker.log_unreachable(error)
                self.doze(self.worker.tick_s)

    def decide(self, run: str, state: Progress, leave: Leave | None) -> None:
        how = self.child.how_it_died(bool(self.killed))
        why = self.killed if run == self.killed_run else ""
        if why == "stop":
            self.orders.append(Order(run, "stopped on request", is_stopped=True))
        elif why == "command":
            self.order(run, how)
        elif why == "timeout":
            limit = "rq.timeouts.JobTimeoutException: Task exceeded its time limit"
            ignored = f"and took no notice for {self.worker.grace_s:g} s: killed"
            self.order(run, f"{limit}, {ignored}")
        elif why == "finish":
            self.order(run, "a callback, or RQ's own code after the task, did not end: killed")
        elif leave is Leave.UNUSABLE and run == state.run:
            self.order(run, self.shared.reason)
        else:
            self.give_back(run, state, leave, how)

    def give_back(self, run: str, state: Progress, leave: Leave | None, how: str) -> None:
        is_crash = leave is None and not self.killed and state.is_busy and state.run == run
        reply = self.insist(self.back_script, run, self.worker.name, int(is_crash))
        what, crashes = reply[0].decode(), reply[1]
        self.log.warning("event=back run=%s became=%s crashes=%s: %s", run, what, crashes, how)
        if what == "fail":
            self.order(run, killed_text(crashes, how))

    def order(self, run: str, reason: str) -> None:
        """Have the next horse fail an execution of the dead one."""
        self.orders.append(Order(run, reason, death=self.child.death))

    def take_over(self, run: str, crashes: int) -> None:
        """Have the next horse fail an execution of another worker, rescued once too often."""
        self.orders.append(Order(run, killed_text(crashes, "Its worker or host died")))
        self.ask_to_stop()

    def complete(self, run: str) -> None:
        """Have the next horse enqueue the dependents of a job whose failure is recorded."""
        if not any(order.run == run for order in self.orders):
            self.log.warning("event=unfinished run=%s", run)
            self.orders.append(Order(run, "", is_recorded=True))
            self.ask_to_stop()

    # --- what signals and RQ's commands come to

    def drain(self) -> None:
        """Leave when the horse has done the job that it is at."""
        self.is_draining, self.drained_at = True, time.monotonic()
        self.is_undated = self.shared.progress().is_busy
        self.worker.note_shutdown(self.is_undated)
        self.ask_to_stop()

    def stop_cold(self) -> None:
        """Do not wait for that job: it goes back to the front."""
        if time.monotonic() >= self.drained_at + QUIET_S:
            self.is_cold = True

    def ask_to_stop(self) -> None:
        """The horse leaves after the job that it is at."""
        self.shared.stop = 1
        self.child.wake()

    def hear(self, message: dict[str, Any]) -> None:
        """Called in RQ's pubsub thread. The main thread alone may signal the horse."""
        if len(self.commands) >= MOST_COMMANDS:
            return  # a flood; that was reported when it began
        try:
            self.commands.append(parse_command(message))
            if len(self.commands) == MOST_COMMANDS:
                raise ValueError(f"{MOST_COMMANDS} are waiting; others are dropped until they end")
        except ValueError as error:
            self.log.warning("event=bad-command worker=%s reason=%s", self.worker.name, error)
        with suppress(BlockingIOError):  # the pipe is full, so that it wakes anyway
            os.write(self.wake_w, b"c")

    def kill_if(self, why: str, is_meant: Callable[[str], bool]) -> None:
        """Kill the horse if it is at what is meant. It is frozen while we look."""
        if not self.child.pid:
            return
        self.child.freeze()
        state = self.shared.progress()
        if state.is_busy and is_meant(state.run):
            self.kill(why, state.run)
        else:
            self.log.warning("event=ignored worker=%s command=%s: not at it", self.worker.name, why)
            self.child.signal_group(signal.SIGCONT)

    def kill(self, why: str, run: str = "") -> None:
        if not self.killed and self.child.pid:
            self.killed, self.killed_run = why, run
            self.log.warning("event=kill worker=%s reason=%s run=%s", self.worker.name, why, run)
            self.child.signal_group(signal.SIGKILL)


def parse_command(message: dict[str, Any]) -> Any:
    """Return what a message on our channel says. Raises ValueError."""
    size = len(message["data"])
    if size > LONGEST_COMMAND:
        raise ValueError(f"{size:,} bytes are no command")
    try:
        return rq.command.parse_payload(message)
    except RecursionError:
        raise ValueError("it is nested too deeply") from None


def killed_text(crashes: int, how: str) -> str:
    return f"{how}. It killed its worker {crashes} times" if crashes > 1 else how


def new_generation() -> str:
    """Return what the ids of a horse's executions begin with; they are 26 characters long.

    So one of a job whose id is a UUID is no longer than 64 in wip: up to that Redis keeps a sorted
    set of few in one piece (zset-max-listpack-value), 2 % less work a job.
    """
    return uuid4().hex[:16]
