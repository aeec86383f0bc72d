"""Why a job of `bin/chaos` ran again: the fault, the failure or the operator, or nothing.

These are the excuses of the verdict. They may shrink and must not grow; tests/e2e/test_chaos.py
has a history for each that it must not excuse, and mutants.py a mutant.
"""

from __future__ import annotations

from bisect import bisect_right
from collections import defaultdict
from collections.abc import Sequence
from itertools import combinations
from math import inf
from typing import NamedTuple

from chaos.records import FAILOVERS, LOSING, LOST_S, Act, Execution, Fault, kind_of

LEASE_S = 15.0  # of werk's workers: nobody is taken for dead before
SLACK_S = 2.0  # a lease is renewed each second; and our clock is not Redis's
RETRIED, BY_OPERATOR = "failed, and has retries", "retried by an operator"
UNRECORDED = "the failure may not be recorded"
UNSTOPPED = "stopped by an operator, and its worker left while Redis was silent"
LIFELINE_S = 0.1  # within which a horse is dead after its supervisor; it may begin one more job
FINISH_S = 1.0  # within which a job that has ended is recorded, if Redis can be reached

KILLS = ("kill -9 horse", "kill -9 supervisor", "kill -9 both")
CRASHES = (*KILLS, "TERM twice")
POLITE = ("TERM supervisor", "TERM supervisor and horse", "drain")
LONG_ABSENCES = ("freeze supervisor, long", "freeze both, long", "cut off from Redis, long")
DISTURBANCES = (  # these keep a horse from recording an outcome; they explain nothing by themselves
    "kill -9 server",
    "pause Redis, short",
    "pause Redis, long",
    "stalls in a row",
    "maxmemory",
    *FAILOVERS,
)


def is_crash(fault: Fault) -> bool:
    """Return whether what this fault interrupts counts as a crash of its job, beyond doubt.

    One whose horse was told to leave has not crashed; nor have jobs that lost their worker together
    with others.
    """
    is_of_worker = fault.kind in KILLS or fault.kind in LONG_ABSENCES
    return fault.kind == "kill -9 horse" or (is_of_worker and len(fault.horses) == 1)


class Rerun(NamedTuple):
    """An execution after the first of its job, and what explains it, if anything does."""

    again: Execution
    cause: Fault | None
    first: Execution | None = None  # which that befell; None: the execution explains itself


class Causes:
    """Knows all faults and all executions.

    Only these explain a second run: a failure of a job that has retries, an operator's retry of a
    job that had failed, a crash of the process that had the first run in hand, the absence of that
    worker for longer than its lease, a stop by an operator that the worker could not record,
    because it was told to leave while Redis was silent, and a master whose last second was not
    replicated (--sentinel). A horse that is frozen, however long, a worker that is
    absent for less, a server that is restarted, silent or full, a connection that is cut at any
    byte, a wrong clock, output that nobody reads, and a polite stop explain none.
    """

    def __init__(
        self, faults: Sequence[Fault], executions: Sequence[Execution], acts: Sequence[Act] = ()
    ) -> None:
        self.crashes = [fault for fault in faults if fault.kind in CRASHES]
        self.losses = [fault for fault in faults if fault.kind in FAILOVERS]
        self.absences = [fault for fault in faults if fault.kind in LONG_ABSENCES]
        self.disturbances = [
            fault
            for fault in faults
            if fault.kind in DISTURBANCES or fault.kind.startswith(("cut", "freeze"))
        ]
        self.leaves = [fault for fault in faults if fault.kind in POLITE]
        self._retries: dict[str, list[Act]] = defaultdict(list)
        self._stops: dict[str, list[Act]] = defaultdict(list)
        for act in acts:
            if act.what in ("retry", "stop"):
                kept = self._retries if act.what == "retry" else self._stops
                kept[act.target].append(act)
        self._starts: dict[int, list[float]] = defaultdict(list)  # of a horse's executions
        for run in sorted(executions, key=lambda run: run.start):
            self._starts[run.horse].append(run.start)

    def of_reruns(self, runs: Sequence[Execution]) -> list[Rerun]:
        """Return each execution of a job but the first, by start, with what explains it.

        What befell one execution explains one more, not two.
        """
        unused, retries = list(runs), list(self._retries[runs[0].token])
        found = []
        for again in runs[1:]:
            earlier = [run for run in unused if run.start < again.start]
            if late := self._late_start(earlier, again):
                found.append(Rerun(again, late))  # it explains itself, not what befell another
                continue
            run, cause = self._first(earlier, again, retries)
            if run:
                unused.remove(run)
            found.append(Rerun(again, cause, run))
        return found

    def of_overlaps(
        self, runs: Sequence[Execution]
    ) -> list[tuple[Execution, Execution, Fault | None]]:
        """Return the executions of a job that overlap, with the absence that explains it."""
        return [
            (first, second, self._overlap(first, second))
            for first, second in combinations(runs, 2)
            if first.overlaps(second)
        ]

    def _overlap(self, first: Execution, second: Execution) -> Fault | None:
        own = self._absence(first, second) or self._late_start([first], second)
        return own or self._loss(first, second)

    def cause(self, first: Execution, again: Execution) -> Fault | None:
        """Return the fault because of which an execution was followed by another."""
        own = self._crash(first, again) or self._absence(first, again)
        return own or self._unrecorded_stop(first, again) or self._loss(first, again)

    def _first(
        self, earlier: Sequence[Execution], again: Execution, retries: list[Act]
    ) -> tuple[Execution | None, Fault | None]:
        for run in earlier:
            if cause := self._failure(run, again, retries):
                return run, cause
        for run in earlier:
            if cause := self.cause(run, again):
                return run, cause
        return None, None

    def _failure(self, first: Execution, again: Execution, retries: list[Act]) -> Fault | None:
        """Return what had a job that failed run again; an operator's act is used up by that."""
        if not first.raised or first.end is None or again.start < first.end:
            return None
        if kind_of(first.token) == "retried":
            is_recorded = self.cause(first, again) is None  # or a crash came first
            note = "" if is_recorded else UNRECORDED
            return Fault(RETRIED, first.token, first.end, first.end, note=note)
        for act in retries:
            if first.end - SLACK_S < act.end and act.begin < again.start:
                retries.remove(act)
                return Fault(BY_OPERATOR, first.token, act.begin, act.end)
        return None

    def _crash(self, first: Execution, again: Execution) -> Fault | None:
        for fault in self.crashes:
            hit = fault.hits(first.horse, first.supervisor)
            if hit and fault.begin <= again.start and self.in_hand(first, fault.begin):
                return fault
        return None

    def _absence(self, first: Execution, again: Execution) -> Fault | None:
        for fault in self.absences:
            rescue = self._silent_since(fault) + LEASE_S - SLACK_S  # not before
            back = (fault.end or inf) + SLACK_S
            may_be = fault.hits(first.horse, first.supervisor) and again.start >= rescue
            if may_be and self._was_rescued(first, fault, rescue, back):
                return fault
        return None

    def _late_start(self, earlier: Sequence[Execution], again: Execution) -> Fault | None:
        """Return the absence of a worker that had claimed a job before.

        It began the job only when it was back, and another had begun it meanwhile. Each horse has
        claimed one job at most. The horses of a supervisor that is frozen alone are not absent.
        """
        starts = self._starts[again.horse]
        for fault in self.absences:
            rescue = self._silent_since(fault) + LEASE_S - SLACK_S
            is_late = abs(again.start - (fault.end or inf)) <= SLACK_S
            is_own = fault.hits(again.horse, again.supervisor)
            if fault.kind.startswith("freeze supervisor") or not (is_late and is_own):
                continue
            first = starts[bisect_right(starts, fault.begin + SLACK_S)]  # since it is absent
            if first == again.start and any(run.start >= rescue for run in earlier):
                return fault
        return None

    def _unrecorded_stop(self, first: Execution, again: Execution) -> Fault | None:
        """Return the stop that killed the horse of an execution, if its worker left then."""
        for act in self._stops[first.token] if first.end is None else ():
            for fault in self.leaves:
                is_own = fault.supervisor == first.supervisor and first.start <= act.end
                is_then = act.begin - SLACK_S <= fault.begin <= act.end + SLACK_S
                if is_own and is_then and self._was_silent(fault.begin) and again.start > act.begin:
                    return Fault(UNSTOPPED, first.token, act.begin, act.end)
        return None

    def _was_silent(self, at: float) -> bool:
        return any(
            fault.target == "server"
            and at - SLACK_S <= (fault.end or inf)
            and fault.begin <= at + SLACK_S
            for fault in self.disturbances
        )

    def _loss(self, first: Execution, again: Execution) -> Fault | None:
        """With its master, Redis may have lost the claim or the outcome of its last second.

        A master that was frozen still answers what it had received before, then follows the other.
        One that is replaced politely acknowledges what it no longer replicates, until it has seen
        that its replica has left.
        """
        for fault in self.losses:
            since = fault.begin - (LOST_S + FINISH_S if fault.kind in LOSING else 0)
            is_late = first.end is None or first.end >= since or first.start >= since
            back = (fault.end or inf) + LIFELINE_S
            if is_late and first.start <= back and again.start >= fault.begin:
                return fault
        return None

    def _silent_since(self, absence: Fault) -> float:
        """Return when that worker last had a chance to renew its lease: short absences, or the
        server's, may have led up to this one."""
        since = absence.begin
        for fault in sorted(self.disturbances, key=lambda fault: -fault.begin):
            is_own = fault.supervisor == absence.supervisor and not fault.kind.startswith("cut a")
            leads_up = fault.begin < since <= (fault.end or inf) + SLACK_S
            if leads_up and (is_own or fault.target == "server"):
                since = fault.begin
        return since

    def _was_rescued(self, run: Execution, fault: Fault, rescue: float, back: float) -> bool:
        """Return whether this is what others found with the worker that was absent."""
        if fault.kind.startswith("freeze supervisor"):  # its horse goes on
            return run.start <= back and (run.end is None or run.end >= rescue - SLACK_S)
        is_claimed_before = fault.begin <= run.start <= fault.begin + SLACK_S
        return is_claimed_before or self.in_hand(run, fault.begin)

    def in_hand(self, run: Execution, at: float) -> bool:
        """Return whether a horse had this execution to do, or its outcome to record."""
        starts, latest = self._starts[run.horse], at + LIFELINE_S
        if run.start > latest or starts[bisect_right(starts, latest) - 1] != run.start:
            return False  # it had gone on to the next: so this one was recorded
        return run.end is None or run.end >= at - FINISH_S or self._was_disturbed(run.end, at, run)

    def _was_disturbed(self, since: float, until: float, run: Execution) -> bool:
        """Return whether something kept a horse from recording an outcome."""
        return any(
            fault.begin <= until
            and (fault.end or inf) >= since - FINISH_S
            and (fault.target == "server" or fault.hits(run.horse, run.supervisor))
            for fault in self.disturbances
        )
