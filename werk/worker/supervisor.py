"""Supervisor: the main process of a running worker. Horses run its jobs, one after the other.

1. start    a horse (horse.py), which claims, runs and finishes jobs over its own connection
2. watch    the horse: a tick per second (tick.py); limits, commands and signals at once
3. resolve  the executions that an ended horse left open; then start the next horse, or exit

The supervisor runs no user code and no clean-up of RQ's: these can take longer than a lease.
"""

from __future__ import annotations

import os
import signal
import time
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

import redis.exceptions

from werk.errors import EXIT_CONFIG, EXIT_OK, ConfigError, RedisUnavailable
from werk.log_format import Event
from werk.store import keys
from werk.store.connection import link_over
from werk.store.scripts import Script
from werk.worker.commands import Commands, StopRequests
from werk.worker.executions import Executions
from werk.worker.guard import Guard
from werk.worker.horse import run_horse
from werk.worker.log import run_facts
from werk.worker.process import Child, WakePipe
from werk.worker.redis_side import AWAY
from werk.worker.shared_state import HORSE_SIGNAL, Leave, Plan, SharedState
from werk.worker.tick import TICK_BUDGET_S, Ticker
from werk.worker.watchdog import Verdict

if TYPE_CHECKING:
    from werk.worker import Worker

HORSE_PAUSE_S = 5.0  # the longest pause between two horses that die at once
RAN_S = 1.0  # a horse that lived for longer did not die at once
LEASES = keys.key("werk", "leases")


class _GivenUp(Exception):
    """Raised when we have to leave and Redis does not answer: others will rescue our jobs."""


class Supervisor:
    """Created by Worker.work(). Signals and commands only leave notes: the loop acts on them."""

    exit_code = EXIT_OK
    had_horse = False  # that could import WERK_PRELOAD and WERK_ON_GIVE_UP

    def __init__(self, worker: Worker, plan: Plan, moves_due: bool, shared: SharedState) -> None:
        self.worker, self.plan, self.shared, self.log = worker, plan, shared, worker.log
        self.link = link_over(worker.connection, TICK_BUDGET_S)
        self.child, self.wake, self.stop = Child(), WakePipe(), StopRequests()
        self.executions = Executions(worker, shared, self.child, self.insist)
        self.ticker = Ticker(worker, self.link, shared, moves_due)
        self.guard = Guard(shared, self.link, worker.lease_s)
        self.commands = Commands(worker, self.wake.wake)
        self.jobs, self.pause_s = 0, 0.0
        self.is_leaving = False

    def run(self) -> None:
        """Run horse after horse, until there is a reason to leave."""
        self.begin()
        try:
            while not self.is_leaving:
                if self.start():
                    self.watch()
                    self.resolve_executions()
        except _GivenUp:
            why = "Redis is unreachable"
            self.log.warning(Event("given-up", worker=self.worker.name, reason=why))
        finally:
            self.tear_down()

    def begin(self) -> None:
        self.wake.install()
        self.worker.install_signal_handlers()
        while self.tick():
            pass
        self.guard.has_moved()
        if self.plan.is_burst:
            self.ticker.moves_due = False  # one pass, as RQ's scheduler does

    def tear_down(self) -> None:
        """Clean up. If executions are open in Redis, keep the lease, so that others rescue them."""
        worker = self.worker
        if self.child.pid:
            self.child.signal_group(signal.SIGKILL)
            self.child.has_ended()
        worker.supervisor = None
        self.wake.remove()
        try:
            in_hand = keys.key("werk", "gave-up", worker.name)
            if not worker.connection.exists(worker.executions_key, in_hand):
                self.ticker.withdraw()
                worker.connection.zrem(LEASES, worker.name)
                worker.teardown()  # type: ignore[no-untyped-call]
            else:
                worker.unsubscribe()  # type: ignore[no-untyped-call]
        except (*AWAY, redis.exceptions.ResponseError) as error:  # NOREPLICAS, OOM, MISCONF, ...
            self.log.warning(Event("not-deregistered", worker=worker.name, reason=error))
        finally:
            self.link.close()

    # --- start

    def start(self) -> bool:
        """Fork the next horse. Return False if the worker has to leave before there is one."""
        self.child.killed = self.child.killed_run = ""
        self.executions.begin_generation()
        while not self.try_to_start():
            self.rest()
            if self.is_unwanted():
                self.is_leaving = True
                return False
        return True

    def is_unwanted(self) -> bool:
        """Return whether the worker has to leave and needs no other horse."""
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
        return True

    def be_horse(self, plan: Plan) -> int:
        """Be the horse, in the child."""
        self.worker.supervisor = None
        self.wake.close()
        return run_horse(self.worker, self.shared, plan, self.child.lead_group())

    # --- watch

    def watch(self) -> None:
        """Tick, keep limits and handle commands, until the horse has ended."""
        while not self.child.has_ended(os.WNOHANG):
            deadline, due_at = self.shared.deadline, self.ticker.due_at
            until = deadline + (self.worker.grace_s if deadline == self.child.told else 0.0)
            self.wake.doze((min(due_at, until) if deadline else due_at) - time.monotonic())
            self.commands.handle()
            self.keep_limits()
            self.date_shutdown()
            if self.tick_if_due():
                self.guard_horse()

    def keep_limits(self) -> None:
        child, stop = self.child, self.stop
        if stop.is_cold:
            self.kill("cold")
        progress, clock, grace_s = self.shared.progress(), time.monotonic(), self.worker.grace_s
        # With a job, or with what has a time limit after it: WERK_ON_GIVE_UP, middleware's flush.
        is_busy = progress.is_busy or bool(progress.deadline and not self.shared.finishing)
        if progress.deadline and clock > progress.deadline + grace_s:
            self.kill("finish" if self.shared.finishing else "timeout", progress.run)
        elif progress.deadline and clock >= progress.deadline != child.told:
            child.told = progress.deadline
            child.send_signal(HORSE_SIGNAL)
        elif stop.idle_s(is_busy, clock) > grace_s:
            self.kill("cold")  # the horse is idle and does not react: Redis is frozen

    def tick_if_due(self) -> bool:
        """Tick, if a tick is due. Return whether it was, and reached Redis."""
        if time.monotonic() < self.ticker.due_at:
            return False
        self.tick()
        return not self.ticker.is_unreachable

    def tick(self) -> bool:
        """Tick, and act on what it found. Return whether another tick has more to do."""
        found = self.ticker.tick(self.executions.generation)
        for run, crashes in found.to_fail:
            self.executions.take_over(run, crashes)
        are_new = [self.executions.complete(run) for run in found.unfinished]
        if found.to_fail or any(are_new):
            self.ask_to_stop()  # the next horse gets these orders
        if found.lost:
            self.kill("lost", found.lost)
        return found.has_more

    def guard_horse(self) -> None:
        verdict = self.guard.look()
        if verdict is Verdict.RECONNECT:
            self.log.warning(Event("reconnect", worker=self.worker.name))
            self.shared.reconnect = 1
            self.child.send_signal(HORSE_SIGNAL)
            self.worker.reconnect_pubsub()
        elif verdict is Verdict.REPLACE:
            self.kill("stuck")

    def date_shutdown(self) -> None:
        if self.stop.is_undated:
            self.stop.is_undated = False
            try:
                self.worker.set_shutdown_requested_date()  # type: ignore[no-untyped-call]
            except redis.exceptions.RedisError as error:
                self.ticker.log_unreachable(error)

    # --- resolve

    def resolve_executions(self) -> None:
        """Decide about the executions that the dead horse left open, and whether to leave."""
        progress, leave = self.shared.progress(), self.reason_it_left()
        self.executions.resolve(leave)
        self.jobs += progress.jobs + progress.is_busy  # as RQ, count one that killed its horse
        is_done = not self.executions.orders and self.is_done(leave)
        self.is_leaving = self.stop.is_cold or is_done
        is_unprepared = leave is Leave.UNPREPARED
        if is_unprepared and not self.had_horse:
            self.is_leaving, self.exit_code = True, EXIT_CONFIG
        self.had_horse = self.had_horse or not is_unprepared
        is_broken = leave in (None, Leave.UNUSABLE) and not progress.is_busy
        is_brief = is_broken and time.monotonic() < self.child.started_at + RAN_S
        if is_unprepared or is_brief:
            if not self.is_leaving:
                self.rest()
        else:
            self.pause_s = 0.0

    def rest(self) -> None:
        """Wait before the next horse, longer each time. The lease is kept meanwhile."""
        self.pause_s = min(HORSE_PAUSE_S, self.pause_s * 2 or 0.1)
        until = time.monotonic() + self.pause_s
        while (left := until - time.monotonic()) > 0 and not self.is_unwanted():
            self.wake.doze(min(left, self.worker.tick_s))
            self.tick_if_due()

    def is_done(self, leave: Leave | None) -> bool:
        limit = self.plan.max_jobs
        is_over = leave in (Leave.EMPTY, Leave.SUSPENDED, Leave.IDLE)
        return is_over or self.stop.is_draining or (limit is not None and self.jobs >= limit)

    def reason_it_left(self) -> Leave | None:
        """Return why the horse left of its own accord; None if it died."""
        code = self.child.exit_code
        is_told = code == Leave.UNUSABLE or not self.shared.progress().is_busy
        return Leave(code) if code in list(Leave) and is_told else None

    def insist(self, script: Script, *words: Any) -> Any:
        """Run a script until Redis answers. Raises _GivenUp if we have to leave before that."""
        while True:
            try:
                return self.link.run(script, [], words)
            except (RedisUnavailable, ConfigError) as error:
                if self.stop.is_leaving:
                    raise _GivenUp from None
                self.ticker.log_unreachable(error)
                self.wake.doze(self.worker.tick_s)

    # --- what signals and RQ's commands call

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
            facts = {"worker": self.worker.name, "command": why, "reason": "no such job runs"}
            self.log.warning(Event("ignored", **facts))
            self.child.signal_group(signal.SIGCONT)

    def kill(self, why: str, run: str = "") -> None:
        child = self.child
        if not child.killed and child.pid:
            child.killed, child.killed_run = why, run
            self.log.warning(Event("kill", worker=self.worker.name, reason=why, **run_facts(run)))
            child.signal_group(signal.SIGKILL)
