"""One trial: start everything, inject faults, let the jobs come to their ends, judge."""

from __future__ import annotations

import time
from dataclasses import dataclass
from math import inf
from pathlib import Path
from typing import NamedTuple

from chaos.faults import KINDS
from chaos.fleet import Fleet
from chaos.history import History
from chaos.monkey import Monkey
from chaos.operators import Operators
from chaos.places import count_open, read_contents
from chaos.records import FAILOVERS, read_call_log, read_traces
from chaos.times import PROMOTED_S
from chaos.verdict import FEWEST_JOBS, Verdict

DRAIN_S = 60.0  # for all jobs to end after the last fault


class Plan(NamedTuple):
    """What a trial is about."""

    seconds: float
    seed: int
    worker: str = "werk"
    kinds: tuple[str, ...] = tuple(KINDS)
    fewest_jobs: int = FEWEST_JOBS
    package: Path | None = None  # a folder with another copy of werk


@dataclass
class Outcome:
    """A verdict, and how long it took."""

    verdict: Verdict
    tormented_s: float
    drained_s: float


def run(fleet: Fleet, plan: Plan) -> Outcome:
    """Run a trial. The caller stops the fleet, whatever happens."""
    begin = time.monotonic()
    fleet.start()
    monkey = Monkey(fleet, plan.seed, plan.kinds)
    operators = Operators(fleet.settings, plan.seed)
    try:
        monkey.torment(plan.seconds)
        tormented_s = time.monotonic() - begin
        monkey.relent()
    finally:
        operators.begin_stop()
    while operators.is_at_work():
        monkey.wait(0.05)
    fleet.stop_callers()
    drained_s = _drain(monkey)
    fleet.stop_workers()
    return Outcome(_judge(fleet, monkey, operators, plan), tormented_s, drained_s)


def _judge(fleet: Fleet, monkey: Monkey, operators: Operators, plan: Plan) -> Verdict:
    traces = read_traces(fleet.traces)
    # A master that was promoted answers, and takes writes when it has a replica: see sentinel.py.
    promotions = [
        (fault.begin, (fault.end or inf) + PROMOTED_S)
        for fault in monkey.faults
        if fault.kind in FAILOVERS
    ]
    with fleet.connection() as connection:
        contents = read_contents(connection, time.monotonic())
    history = History(
        read_call_log(fleet.call_log),
        traces.executions,
        contents,
        monkey.faults,
        operators.acts,
        traces.callbacks,
        fleet.pings.heard,
        fleet.prober.uptime().without(promotions),
        fleet.prober.samples,
        monkey.calms,
        [*fleet.surprises, *operators.surprises],
        fleet.gave_up,
    )
    return Verdict(history, plan.kinds, plan.fewest_jobs)


def _drain(monkey: Monkey) -> float:
    """Wait until no job waits or runs, and no dependents of a failed one. Return the seconds.

    A worker that died between a failure and their enqueue leaves a mark for a lease.
    """
    begin = time.monotonic()
    with monkey.fleet.connection() as connection:
        while count_open(connection) or connection.exists("rq:werk:committed"):
            if time.monotonic() > begin + DRAIN_S:
                break
            monkey.wait(0.2)
    return time.monotonic() - begin
