"""Slot: one of the places in which a worker runs jobs: one horse after the other.

1. start    a horse (horse.py), which claims, runs and finishes jobs over its own connection
2. watch    the horse: limits, commands and signals at once
3. resolve  the executions that an ended horse left open; then start the next horse, or go

To RQ each slot is a worker of its own, with a name, a record in Redis and a channel for commands.
The supervisor's loop calls advance(), which does not wait: other slots need the loop as well.
"""

from __future__ import annotations

import math
import os
import signal
import time
from collections.abc import Callable
from enum import Enum
from typing import TYPE_CHECKING, Any

from werk.errors import EXIT_CONFIG, EXIT_OK, ConfigError, RedisUnavailable
from werk.log_format import Event
from werk.store.scripts import Script
from werk.worker.commands import Commands, StopRequests
from werk.worker.executions import Executions
from werk.worker.horse import run_horse
from werk.worker.log import run_facts
from werk.worker.process import Child
from werk.worker.shared_state import HORSE_SIGNAL, Leave, Plan, SharedState
from werk.worker.watchdog import Verdict, Watchdog

if TYPE_CHECKING:
    from werk.worker import Worker
    from werk.worker.supervisor import Supervisor

HORSE_PAUSE_S = 5.0  # the longest pause between two horses that die at once
RAN_S = 1.0  # a horse that lived for longer did not die at once


class Phase(Enum):
    """What a slot does next."""

    START = "start"
    WATCH = "watch"
    RESOLVE = "resolve"
    GONE = "gone"


class Unanswered(Exception):
    """Raised when Redis does not answer: the slot tries again after a tick that reaches it."""


class Slot:
    """A horse, and what has to be known about it. Signals and commands only leave notes."""

    exit_code = EXIT_OK
    phase = Phase.START
    not_before = 0.0  # of the next start; on the monotonic clock
    pause_s = 0.0  # between two horses that die at once
    jobs = 0  # of its horses so far
    lost_run = ""  # the lost execution that the last tick found

    def __init__(
        self, supervisor: Supervisor, worker: Worker, plan: Plan, shared: SharedState
    ) -> None:
        self.supervisor, self.worker, self.plan = supervisor, worker, plan
        self.shared, self.child, self.stop = shared, Child(), StopRequests()
        self.log = worker.log
        self.executions = Executions(worker, shared, self.child, self.ask)
        self.watchdog = Watchdog(shared, worker.lease_s)
        self.commands = Commands(worker, supervisor.wake.wake, self.shut_down)

    def next_at(self) -> float:
        """Return when advance() has something to do, if nothing happens before."""
        if self.phase is not Phase.WATCH:
            return math.inf if self.supervisor.ticker.is_unreachable else self.not_before
        if self.child.killed:  # its end wakes the loop, and may take long: a disk, a core dump
            return math.inf
        deadline = self.shared.deadline
        grace_s = self.worker.grace_s if deadline == self.child.told else 0.0
        return deadline + grace_s if deadline else math.inf

    def advance(self) -> None:
        """Do what can be done without waiting."""
        self.commands.handle()
        if self.phase is Phase.WATCH:
            if not self.child.has_ended(os.WNOHANG):
                self.keep_limits()
                self.date_shutdown()
                return
            self.phase = Phase.RESOLVE
        try:
            if self.phase is Phase.RESOLVE:
                self.resolve()
            if self.phase is Phase.START:
                self.start()
        except Unanswered:
            if self.supervisor.is_leaving():  # others will rescue what is open
                why = "Redis is unreachable"
                self.log.warning(Event("given-up", worker=self.worker.name, reason=why))
                self.phase = Phase.GONE

    # --- start

    def start(self) -> None:
        """Fork the next horse, unless it is too early or the slot has to leave."""
        if self.is_unwanted():
            self.phase = Phase.GONE
        elif time.monotonic() >= self.not_before:
            self.child.killed = self.child.killed_run = ""
            self.executions.begin_generation()
            if self.is_unwanted():  # a signal came meanwhile
                self.phase = Phase.GONE
            elif self.try_to_start():
                self.phase = Phase.WATCH
            else:
                self.rest()

    def is_unwanted(self) -> bool:
        """Return whether the slot has to leave and needs no other horse."""
        return self.stop.is_cold or (self.stop.is_draining and not self.executions.orders)

    def try_to_start(self) -> bool:
        left = None if self.plan.max_jobs is None else self.plan.max_jobs - self.jobs
        plan = self.plan._replace(
            generation=self.executions.generation,
            orders=tuple(self.executions.orders),
            max_jobs=left,
            only_orders=self.stop.is_draining or (left is not None and left <= 0),
        )
        self.shared.begin_horse()
        self.executions.ordered = len(plan.orders)
        try:
            self.child.start(lambda: self.be_horse(plan))
        except OSError as error:  # no processes, descriptors or memory are left
            self.log.error(Event("no-horse", worker=self.worker.name, reason=error))
            return False
        if self.stop.is_draining and not plan.only_orders:  # the request came after the plan
            self.ask_to_stop()
        self.plan = self.plan._replace(share=1.0)
        return True

    def be_horse(self, plan: Plan) -> int:
        """Be the horse, in the child."""
        worker = self.supervisor.leave_to(self.worker)
        return run_horse(worker, self.shared, plan, self.child.lead_group())

    def rest(self) -> None:
        """Let time pass before the next horse, more of it each time."""
        self.pause_s = min(HORSE_PAUSE_S, self.pause_s * 2 or 0.1)
        self.not_before = time.monotonic() + self.pause_s

    # --- watch

    def keep_limits(self) -> None:
        child, stop = self.child, self.stop
        if stop.is_cold:
            self.kill("cold")
        progress, clock, grace_s = self.shared.progress(), time.monotonic(), self.worker.grace_s
        # With a job, an order, or other code that has a time limit: WERK_ON_GIVE_UP, a middleware's
        # flush. A clean-up may be cut short.
        has_limit = bool(progress.deadline and not self.shared.finishing)
        is_busy = progress.is_busy or self.executions.has_orders() or has_limit
        if progress.deadline and clock > progress.deadline + grace_s:
            self.kill("finish" if self.shared.finishing else "timeout", progress.run)
        elif progress.deadline and clock >= progress.deadline != child.told:
            child.told = progress.deadline
            child.send_signal(HORSE_SIGNAL)
        elif stop.idle_s(is_busy, clock) > grace_s:
            self.kill("cold")  # the horse is idle and does not react: Redis is frozen

    def guard_horse(self, has_moved: bool) -> None:
        """After a successful tick, check that the horse reaches Redis too, at the same server."""
        if self.phase is not Phase.WATCH:
            return
        verdict = self.watchdog.look(time.monotonic())
        if has_moved and not self.shared.finishing:
            verdict = Verdict.RECONNECT
        if verdict is Verdict.RECONNECT:
            self.log.warning(Event("reconnect", worker=self.worker.name))
            self.shared.reconnect = 1
            self.child.send_signal(HORSE_SIGNAL)
            self.supervisor.worker.reconnect_pubsub()
        elif verdict is Verdict.REPLACE:
            self.kill("stuck")

    def date_shutdown(self) -> None:
        """Write for RQ when the slot was asked to leave. Not while Redis is unreachable.

        It takes no longer than a tick: other slots have time limits meanwhile.
        """
        worker, supervisor = self.worker, self.supervisor
        if self.stop.is_undated and not supervisor.ticker.is_unreachable:
            self.stop.is_undated = False
            try:
                supervisor.link.call("HSET", worker.key, *worker.shutdown_date())
            except (RedisUnavailable, ConfigError) as error:
                supervisor.ticker.log_unreachable(error)

    # --- resolve

    def resolve(self) -> None:
        """Decide about the executions that the dead horse left open, and whether to leave."""
        progress, leave = self.shared.progress(), self.reason_it_left()
        self.executions.resolve(leave)
        self.jobs += progress.jobs + progress.is_busy  # as RQ, count one that killed its horse
        is_done = not self.executions.orders and self.is_done(leave)
        is_leaving = self.stop.is_cold or is_done
        is_unprepared, is_first = leave is Leave.UNPREPARED, not self.supervisor.has_prepared()
        if is_unprepared and is_first:
            is_leaving, self.exit_code = True, EXIT_CONFIG
        is_broken = leave in (None, Leave.UNUSABLE) and not progress.is_busy
        is_brief = is_broken and time.monotonic() < self.child.started_at + RAN_S
        if is_unprepared or is_brief:
            self.rest()
        else:
            self.pause_s = 0.0
        self.phase = Phase.GONE if is_leaving else Phase.START

    def is_done(self, leave: Leave | None) -> bool:
        limit = self.plan.max_jobs
        is_over = leave in (Leave.EMPTY, Leave.SUSPENDED, Leave.IDLE)
        return is_over or self.stop.is_draining or (limit is not None and self.jobs >= limit)

    def to_fail(self) -> list[str] | None:
        """Return the executions that the next horse will fail; None while this is not decided."""
        return None if self.phase is Phase.RESOLVE else self.executions.to_fail()

    def reason_it_left(self) -> Leave | None:
        """Return why the horse left of its own accord; None if it died before."""
        return Leave(self.shared.leave) if self.shared.leave else None

    def ask(self, script: Script, *words: Any) -> Any:
        """Run a script. Raises Unanswered."""
        ticker = self.supervisor.ticker
        if ticker.is_unreachable:  # one try a second is enough, and that is the tick
            raise Unanswered
        try:
            return self.supervisor.link.run(script, [], words)
        except (RedisUnavailable, ConfigError) as error:
            ticker.log_unreachable(error)
            raise Unanswered from None

    # --- what signals and RQ's commands call

    def shut_down(self) -> None:
        """Handle RQ's command to shut down: the first time as SIGTERM, then as a second one."""
        if self.stop.is_draining:
            self.stop.stop_cold()
        else:
            self.worker.handle_warm_shutdown_request()  # type: ignore[no-untyped-call]
            self.drain()

    def drain(self) -> None:
        """Leave when the horse has finished its job."""
        is_busy = self.shared.progress().is_busy
        self.stop.drain(is_busy)
        self.worker.note_shutdown(is_busy)
        self.ask_to_stop()

    def ask_to_stop(self) -> None:
        """Have the horse leave after its job."""
        self.shared.stop = 1
        self.child.wake()

    def kill_if(self, why: str, is_meant: Callable[[str], bool]) -> None:
        """Kill the horse if it runs the execution that is meant. Freeze it for the check."""
        if not self.child.pid:
            return
        self.child.freeze()
        progress = self.shared.progress()
        if progress.is_busy and is_meant(progress.run):
            self.kill(why, progress.run)
        else:
            facts = {
                "worker": self.worker.name,
                "command": why,
                "reason": "the worker is not running that job",
            }
            self.log.warning(Event("ignored", **facts))
            self.child.send_signal(signal.SIGCONT)

    def kill(self, why: str, run: str = "") -> None:
        child = self.child
        if not child.killed and child.pid:
            child.killed, child.killed_run = why, run
            running = run or self.shared.progress().run
            facts = run_facts(running) if running else {}
            self.log.warning(Event("kill", worker=self.worker.name, reason=why, **facts))
            child.signal_group(signal.SIGKILL)
