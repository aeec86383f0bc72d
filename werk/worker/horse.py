"""Horse: the long-lived child of a worker that runs its jobs, one at a time.

1. claim    one script records the outcome of the last job and takes the next one (step.py)
2. run      the registered function, under the job's time limit (runner.py)
3. finish   a plain success goes with the next claim; RQ's code records the rest (outcome.py)

The supervisor (supervisor.py) watches. The horse dies with its supervisor.
"""

from __future__ import annotations

import logging
import math
import os
import random
import signal
import time
from collections.abc import Sequence
from types import FrameType

from werk.settings import Settings
from werk.store.connection import hang_up
from werk.store.keys import text
from werk.worker import rq_classes
from werk.worker.causes import REFUSED
from werk.worker.chores import Chores
from werk.worker.claim import Claim
from werk.worker.counters import Counters
from werk.worker.forks import outlive_sigterm
from werk.worker.idle import Idle
from werk.worker.imported import fix_search_path
from werk.worker.log_stream import bound_logs, print_by_line
from werk.worker.orders import carry_out
from werk.worker.outcome import Outcome, misplaced
from werk.worker.performer import Performer
from werk.worker.process import plug_standard, plugged, resident_mb, take_descriptors
from werk.worker.redis_side import Unusable, hang_up_all, retry_forever
from werk.worker.rq_side import RQSide
from werk.worker.shared_state import HORSE_SIGNAL, Leave, Plan, SharedState
from werk.worker.step import Steps

SPARE = 16  # descriptors that a job may need to begin
HELD_S = 1.0  # between two checks of a suspension or a pause
FENCED_S = 0.2  # the supervisor is about to write our generation, or to end this horse


def run_horse(worker: RQSide, shared: SharedState, plan: Plan, wake_r: int) -> int:
    """Be the horse, in the child process. `wake_r` is the wake pipe. Return the exit code."""
    rq_classes.keep_redis_time(shared.now)
    horse = Horse(worker, shared, plan, wake_r)
    horse.become_child()
    try:
        horse.carry_out_orders()
        # Before what may kill the horse: user code, for example.
        shared.leave = Leave.ORDERS_DONE if plan.only_orders else horse.loop()
        horse.steps.write_counts()
        horse.performer.runner.flush()
    except Unusable as why:
        shared.reason, shared.leave = str(why), Leave.UNUSABLE
        horse.log.event("unusable", {"worker": worker.name, "reason": why}, logging.ERROR)
    return shared.leave


class Horse:
    """The loop: claim, perform, finish. Lives in the child process only."""

    def __init__(self, worker: RQSide, shared: SharedState, plan: Plan, wake_r: int) -> None:
        self.worker, self.shared, self.plan = worker, shared, plan
        self.settings = Settings.read()
        counters = Counters(worker.ordered_queue_keys(), shared)
        self.performer = Performer(worker, shared, self.settings, counters)
        self.log = self.performer.log
        self.idle = Idle(worker, wake_r)
        self.steps = Steps(worker, shared, plan.generation, counters, self.idle)
        self.chores = Chores(self.performer, self.settings.on_give_up)
        self.follows_strategy = worker.has_strategy()
        self.jobs = 0  # begun by this horse
        max_jobs, horse_jobs = plan.max_jobs, math.ceil(self.settings.horse_jobs * plan.share)
        self.last_job = horse_jobs if max_jobs is None else min(max_jobs, horse_jobs)
        self.is_busy = False  # with a job, until rest() has noticed that it ended
        self.idle_since = time.monotonic()
        # After a lease, which may have begun a tick before we asked, others may take what we claim.
        self.late_s = worker.lease_s / 2

    def become_child(self) -> None:
        """Make the child its own process: signals, connections, random numbers, log, imports."""
        random.seed()
        signal.signal(signal.SIGINT, signal.SIG_IGN)
        outlive_sigterm()
        signal.signal(signal.SIGCHLD, signal.SIG_DFL)
        signal.signal(HORSE_SIGNAL, self.on_signal)
        plugged.clear()
        retry = retry_forever(self.worker.connection, self.shared)
        self.worker.become_horse(self.log.open(), retry)
        os.environ["RQ_WORKER_ID"] = self.worker.name
        bound_logs(self.shared)
        print_by_line()
        fix_search_path()
        is_prepared = self.performer.runner.prepare(self.settings)
        self.is_prepared = is_prepared and self.chores.failures.prepare()

    def on_signal(self, signum: int, frame: FrameType | None) -> None:
        """Handle the supervisor's signal: it asks for new connections, or a time limit is over."""
        if self.shared.reconnect:
            self.shared.reconnect = 0
            for channel in (self.steps.channel, *self.idle.waits.values()):
                hang_up(channel.socket)
            if not self.chores.cleaner.break_off() and self.shared.finishing:
                hang_up_all(self.worker.connection)
        self.performer.runner.interrupt(signum, frame)

    def carry_out_orders(self) -> None:
        """Carry out the supervisor's orders. It reads our progress in the shared state."""
        for number, order in enumerate(self.plan.orders, 1):
            self.shared.orders_begun = number
            if outcome := carry_out(order, self.performer.recorder):
                self.steps.step(outcome, wants_job=False)
        self.shared.orders_begun = len(self.plan.orders) + 1

    def loop(self) -> Leave:
        """Claim, run, finish, until there is a reason to leave."""
        if not self.is_prepared:
            return Leave.UNPREPARED
        shared, steps, performer, chores = self.shared, self.steps, self.performer, self.chores
        claim: Claim | None = None
        outcome: Outcome | None = None
        flushed_at = 0.0
        while True:
            leave = self.reason_to_leave()
            became, claimed, dropped, paused = steps.step(outcome, not (leave or chores.are_due))
            if steps.flushed_at != flushed_at:
                flushed_at = steps.flushed_at
                self.look_around()
            if outcome and became != b"done":
                if claimed == b"":  # nothing has changed in Redis
                    outcome = self.record_otherwise(outcome, became)
                    continue
                self.log_late(claim, became)
            if dropped:
                self.log.dropped(dropped)
            outcome = None
            if type(claimed) is list:
                if shared.stop:
                    return Leave.STOPPED  # a job was claimed meanwhile: the supervisor returns it
                claim = Claim(*claimed, steps.execution, steps.asked_at)  # type: ignore[call-arg]
                is_late = time.monotonic() > steps.asked + self.late_s
                if is_late and performer.recorder.is_taken(claim):
                    continue
                self.jobs += 1
                self.is_busy = True
                outcome = performer.perform(claim, self.jobs)
                self.log.claim = None
                if self.follows_strategy:
                    self.worker.reorder_after(text(claim.queue))
                    steps.serve(self.worker.ordered_queue_keys())
                self.look_for_descriptors(SPARE if outcome is None else 1)
                continue
            if leave := self.rest(leave, claimed, paused or ()):
                return leave

    def rest(self, leave: Leave | None, why: bytes, paused: Sequence[bytes]) -> Leave | None:
        """Without a job: do chores or wait, or return why to leave."""
        self.shared.show(self.jobs, "", self.steps.execution)
        if self.is_busy:
            self.is_busy, self.idle_since = False, time.monotonic()
        if self.chores.do():
            return leave
        leave = leave or self.reason_to_leave() or self.reason_not_to_wait(why)
        if not leave:
            self.wait(why, paused)
        return leave

    def reason_to_leave(self) -> Leave | None:
        if self.shared.stop:
            return Leave.STOPPED
        if self.jobs >= self.last_job:
            return Leave.MAX_JOBS if self.jobs == self.plan.max_jobs else Leave.RECYCLED
        return None

    def reason_not_to_wait(self, why: bytes) -> Leave | None:
        if self.plan.is_burst and why in (b"empty", b"suspended"):
            return Leave.EMPTY if why == b"empty" else Leave.SUSPENDED
        limit = self.plan.max_idle_s
        if limit is not None and why == b"empty" and time.monotonic() >= self.idle_since + limit:
            return Leave.IDLE
        return None

    def look_around(self) -> None:
        """Check twice a second whether chores are due, and whether another horse does better."""
        self.chores.look()
        is_large = 0 < self.settings.horse_mb < resident_mb()
        if self.jobs and (is_large or self.performer.runner.is_spoiled()):
            self.last_job = self.jobs

    def look_for_descriptors(self, count: int) -> None:
        """Leave if the job has left fewer than `count`: it, or the next job, could open nothing."""
        try:
            os.close(lowest := os.dup(self.idle.wake_r))  # enough after most jobs: a call less
            if lowest <= 2:
                plug_standard()
            if plugged:  # also by a connection: this horse has no output
                self.last_job = self.jobs
            if count > 1:
                take_descriptors(count, self.idle.wake_r)
        except OSError:
            self.last_job = self.jobs

    def record_otherwise(self, outcome: Outcome, became: bytes) -> Outcome | None:
        """Return another outcome for one that step.lua could not record; None if it is recorded."""
        performer, now = self.performer, self.shared.now()
        if outcome.status == "finished":
            performer.counters.leave_last_to_rq()
        if became == b"dependents" and performer.last_success:
            return performer.recorder.succeed(*performer.last_success)
        return performer.recorder.final(misplaced(outcome, now, self.log.task), REFUSED)

    def log_late(self, claim: Claim | None, became: bytes) -> None:
        if claim and became in (b"late", b"misplaced"):
            self.log.event(became.decode(), claim.facts(self.log.task), logging.WARNING)

    def wait(self, why: bytes, paused: Sequence[bytes]) -> None:
        """Wait until there may be a job."""
        if why == b"more":
            return
        if why != b"empty":
            self.idle.sleep(HELD_S if why == b"suspended" else FENCED_S)
            return
        limit, steps = self.plan.max_idle_s, self.steps
        left = None if limit is None else max(0.0, self.idle_since + limit - time.monotonic())
        waits = (left, HELD_S if paused else None, steps.flush_in_s())
        seconds = min((own for own in waits if own is not None), default=None)
        queues = [key for key in steps.keys if key.encode() not in paused]
        self.idle.wait(queues + self.chores.failures.places, seconds)
