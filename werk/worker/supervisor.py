"""Supervisor: the main process of a running worker. It ticks for its slots (slot.py), and waits.

It runs no user code and no clean-up of RQ's: these can take longer than a lease.
"""

from __future__ import annotations

import signal
import time
from contextlib import suppress
from typing import TYPE_CHECKING

import redis.exceptions

from werk.log_format import Event
from werk.store import keys
from werk.store.connection import link_over
from werk.worker.guard import Guard
from werk.worker.process import WakePipe, trim_memory
from werk.worker.redis_side import AWAY
from werk.worker.shared_state import Plan, SharedState
from werk.worker.slot import Phase, Slot
from werk.worker.tick import TICK_BUDGET_S, Ticker

if TYPE_CHECKING:
    from werk.worker import Worker

LEASES = keys.key("werk", "leases")


class Supervisor:
    """Created by Worker.work(). `workers` are the slots as RQ sees them, the caller first."""

    def __init__(
        self, workers: list[Worker], plan: Plan, moves_due: bool, shared: SharedState
    ) -> None:
        self.worker, self.log = workers[0], workers[0].log
        self.link = link_over(self.worker.connection, TICK_BUDGET_S)
        self.wake = WakePipe()
        self.ticker = Ticker(self.worker, self.link, moves_due)
        self.guard = Guard(self.link)
        self.slots = [
            Slot(
                self,
                worker,
                # The first horses run fewer jobs, so that not all are replaced at the same time.
                plan._replace(share=number / len(workers)),
                shared if worker is self.worker else SharedState(),
            )
            for number, worker in enumerate(workers, 1)
        ]
        self.had_horse = False  # a horse has imported all that the settings name
        self.is_cold = self.is_cut_off = False
        self.exit_code = self.jobs = 0
        for slot in self.slots:
            slot.worker.slot, slot.worker.supervisor = slot, self
        for slot in self.slots[1:]:  # one slot is enough for RQ's clean-up at the start
            slot.shared.cleaned_at = time.monotonic()

    def run(self) -> None:
        """Run all slots, until each has a reason to leave."""
        self.begin()
        try:
            while self.slots:
                self.wake.doze(self.next_at() - time.monotonic())
                self.tick_if_due()
                self.look_after_slots()
        finally:
            self.tear_down()

    def listen(self) -> None:
        """Take signals: from now on run() has to follow, and handles them."""
        self.wake.install()
        self.worker.install_signal_handlers()

    def begin(self) -> None:
        trim_memory()
        while self.tick():
            pass
        self.guard.has_moved()
        if self.slots[0].plan.is_burst:
            self.ticker.moves_due = False  # one pass, as RQ's scheduler does

    def next_at(self) -> float:
        return min([self.ticker.due_at, *(slot.next_at() for slot in self.slots)])

    def look_after_slots(self) -> None:
        for slot in [*self.slots]:
            slot.advance()
            if slot.phase is Phase.GONE:
                self.jobs += slot.jobs
                self.exit_code = self.exit_code or slot.exit_code
                self.deregister(slot)

    def has_prepared(self) -> bool:
        """Return whether a horse of ours could import what it needs: then others can as well."""
        seen = any(slot.shared.progress().last for slot in self.slots)
        self.had_horse = self.had_horse or seen
        return self.had_horse

    def is_leaving(self) -> bool:
        """Return whether all slots have to leave. One that leaves alone can wait for Redis."""
        return all(slot.stop.is_leaving for slot in self.slots)

    def leave_to(self, worker: Worker) -> Worker:
        """In the child, hand the process over to a slot's horse. Return the worker that it uses."""
        self.wake.close()
        self.worker.name = worker.name
        self.worker.slot = self.worker.supervisor = None
        return self.worker

    # --- tick

    def tick_if_due(self) -> None:
        if time.monotonic() >= self.ticker.due_at:
            self.tick()
            if not self.ticker.is_unreachable:
                self.is_cut_off = False
                has_moved = self.guard.has_moved()
                for slot in self.slots:
                    slot.guard_horse(has_moved)

    def tick(self) -> bool:
        """Tick, and act on what it found. Return whether another tick has more to do."""
        # The first in the order gets what is to be done for others: one without a job, if any.
        slots = sorted(self.slots, key=lambda slot: slot.shared.progress().is_busy)
        found, heir = self.ticker.tick(slots), slots[0]
        by_name = {slot.worker.name: slot for slot in slots}
        for run, crashes, name in found.to_fail:
            slot = by_name.get(name, heir)
            slot.executions.take_over(run, crashes)
            slot.ask_to_stop()  # the next horse gets these orders
        for run in found.unfinished:
            if heir.executions.complete(run):
                heir.ask_to_stop()
        for slot, run in found.lost:
            slot.kill("lost", run)
        return found.has_more

    # --- leave

    def tear_down(self) -> None:
        for slot in self.slots:  # after an error
            if slot.child.pid:
                slot.child.signal_group(signal.SIGKILL)
                slot.child.has_ended()
        for slot in [*self.slots]:
            self.deregister(slot)
        self.worker.supervisor = None
        self.wake.remove()
        with suppress(*AWAY):
            self.worker.unsubscribe()  # type: ignore[no-untyped-call]
        self.link.close()

    def deregister(self, slot: Slot) -> None:
        """Remove a slot. If it has open executions in Redis, its lease stays: for a rescue."""
        self.slots.remove(slot)
        self.is_cold = self.is_cold or slot.stop.is_cold
        worker = slot.worker
        worker.slot = None
        if self.is_cut_off:
            return
        try:
            in_hand = keys.key("werk", "gave-up", worker.name)
            if not worker.connection.exists(worker.executions_key, in_hand):
                self.ticker.withdraw(worker)
                worker.connection.zrem(LEASES, worker.name)
                worker.register_death()  # type: ignore[no-untyped-call]
        except (*AWAY, redis.exceptions.ResponseError) as error:  # NOREPLICAS, OOM, MISCONF, ...
            self.log.warning(Event("not-deregistered", worker=worker.name, reason=error))
            self.is_cut_off = isinstance(error, AWAY)

    # --- what signals call

    def drain(self) -> None:
        """Leave when each horse has finished its job."""
        for slot in self.slots:
            slot.drain()

    def stop_cold(self) -> None:
        """Leave at once: the jobs return to the front of their queues."""
        for slot in self.slots:
            slot.stop.stop_cold()
