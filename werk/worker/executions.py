"""Executions: decides about those of a dead horse, and those taken over from another worker.

A job returns to its queue, or the next horse gets an order about it, which may run user code.
"""

from __future__ import annotations

import json
from collections.abc import Callable
from typing import TYPE_CHECKING, Any
from uuid import uuid4

from werk.log_format import Event
from werk.store import keys
from werk.worker.attempts import WORKER_DIED, packed
from werk.worker.log import run_facts
from werk.worker.process import Child
from werk.worker.scripts import script
from werk.worker.shared_state import Leave, Order, Progress, SharedState

if TYPE_CHECKING:
    from werk.worker import Worker

UNENDED = "a callback, or RQ's own code after the task, did not end"
STOPPED = "Job stopped by user, work-horse terminated."  # as RQ's worker says
COLD = "stopped by a second signal; the job was put back"
IGNORED_LIMIT = "rq.timeouts.JobTimeoutException: Task exceeded its time limit"


class Executions:
    """Decides about executions, and keeps the orders for the next horse.

    `ask` runs a script of the supervisor's. What it raises leaves no decision half made: call
    resolve() again.
    """

    def __init__(
        self, worker: Worker, shared: SharedState, child: Child, ask: Callable[..., Any]
    ) -> None:
        self.worker, self.shared, self.child, self.ask = worker, shared, child, ask
        self.log = worker.log
        server = worker.server_version()
        self.back_script = script("back", server)
        self.fence_script = script("fence_generation", server)
        self.orders: list[Order] = []
        self.ordered = 0  # how many of the orders the horse has
        self.generation = new_generation()  # of the horse

    def begin_generation(self) -> list[str]:
        """Begin a new generation: only its horse can claim. Return the executions that are open."""
        self.generation = new_generation()
        return self.fence_generation()

    def fence_generation(self) -> list[str]:
        """Let only our generation claim, and return the executions that are open.

        The jobs that the last horse had in hand return to their queues.
        The last request of an earlier horse may still be on its way: it is refused from here on.
        """
        worker = self.worker
        words = (worker.name, self.generation, worker.lease_s, json.dumps(worker.queue_keys()))
        found = self.ask(self.fence_script, *words)
        return [run.decode("utf-8", "replace") for run in found]

    def resolve(self, leave: Leave | None) -> None:
        """Fence the dead horse in Redis, and decide about each execution that it left open."""
        progress = self.shared.progress()
        if begun := self.shared.orders_begun:
            self.shared.orders_begun = 0  # Redis may not answer now: then all this is repeated
            del self.orders[: begun - 1]
            if self.orders and begun <= self.ordered:  # the horse died of this order
                self.orders[0] = self.orders[0]._replace(is_raw=True)
        ordered = {order.run for order in self.orders}
        for run in self.begin_generation():
            if run not in ordered:
                self.decide(run, progress, leave)

    def decide(self, run: str, progress: Progress, leave: Leave | None) -> None:
        child = self.child
        how = COLD if child.killed == "cold" else child.how_it_died(bool(child.killed))
        why = child.killed if run == child.killed_run else ""
        if why == "stop":
            self.orders.append(Order(run, STOPPED, is_stopped=True))
        elif why == "command":
            self.order(run, how)
        elif why == "timeout":
            ignored = f"and took no notice for {self.worker.grace_s:g} s: killed"
            self.order(run, f"{IGNORED_LIMIT}, {ignored}")
        elif why == "finish":
            self.order(run, f"{UNENDED}: killed")
        elif leave is Leave.UNUSABLE and run == progress.run:
            self.order(run, self.shared.reason)
        else:
            self.give_back(run, progress, leave, how)

    def give_back(self, run: str, progress: Progress, leave: Leave | None, how: str) -> None:
        is_its_own = progress.is_busy and progress.run == run
        is_crash = leave is None and not self.child.killed and is_its_own
        trace = packed(how) if is_crash else ""
        reply = self.ask(self.back_script, run, self.worker.name, trace, keys.clock()[1])
        what, crashes = reply[0].decode(), reply[1]
        facts = {**run_facts(run), "became": what, "crashes": crashes, "reason": how}
        self.log.warning(Event("back", **facts))
        if what == "fail":
            self.order(run, killed_text(crashes, how))

    def has_orders(self) -> bool:
        """Return whether the horse has orders that it has not carried out yet."""
        return self.ordered >= max(1, self.shared.orders_begun)

    def to_fail(self) -> list[str]:
        """Return the executions with an order that no horse has carried out yet."""
        return [order.run for order in self.orders[max(0, self.shared.orders_begun - 1) :]]

    def order(self, run: str, reason: str) -> None:
        """Have the next horse fail an execution of the dead one."""
        self.orders.append(Order(run, reason, death=self.child.death))

    def take_over(self, run: str, crashes: int) -> None:
        """Have the next horse fail an execution of another worker, rescued once too often."""
        if run not in self.to_fail():
            self.orders.append(Order(run, killed_text(crashes, WORKER_DIED)))

    def complete(self, run: str) -> bool:
        """Have the next horse enqueue the dependents of a job whose failure is recorded.

        Return whether this is a new order.
        """
        if run in self.to_fail():
            return False
        self.log.warning(Event("unfinished", **run_facts(run)))
        self.orders.append(Order(run, "", is_recorded=True))
        return True


def killed_text(crashes: int, how: str) -> str:
    return f"{how}. The job killed its worker {crashes} times" if crashes > 1 else how


def new_generation() -> str:
    """Return the beginning of the ids of a horse's executions. The ids have 26 characters.

    With a job id that is a UUID, an entry of wip has at most 64 characters. Up to that length Redis
    keeps a small sorted set in one piece (zset-max-listpack-value): 2 % less work per job.
    """
    return uuid4().hex[:16]
