"""When jobs ran: again after a crash, after their parents, when they were due, or not at all."""

from __future__ import annotations

import statistics
from collections import Counter, defaultdict
from collections.abc import Sequence
from dataclasses import dataclass, field
from math import inf

from chaos.causes import CRASHES, KILLS, LONG_ABSENCES, RETRIED, UNRECORDED, Rerun
from chaos.history import History
from chaos.kinds import RETRY_DELAY_S
from chaos.prober import Sample
from chaos.records import FAILOVERS, Act, Call, Calm, Execution, Fault

AGAIN_S = 30.0  # of Redis's uptime: from a kill to the next run
LATE_S = 45.0  # the same, from when a job is due or its parent done: a rescue may come between
EARLY_S = 0.1  # a due time is rounded, and this clock is not Redis's
JITTER = 0.9  # of a retry's delay, at least (enqueue.lua)
RQ_ROUNDS_S = 1.0  # RQ cuts off fractions of the second in which a retry is due
SILENCE_S = 10.0
QUIET_S = 30.0  # without a fault before a silence counts
FEWEST_IN_CALM = 100  # jobs, before a worker that ran none of them counts as silent
FEWEST_OF_HORSE = 20  # jobs for each horse; they wait in turn, so that none is left out by chance
MOST_DOWN_S = 1.0  # that Redis may not have answered within a silence

PROMOTED_S = 20.0  # from the promotion of a replica until jobs run again

HORSE, WORKER = "a horse", "a worker"


@dataclass
class Times:
    """Lines of what must not be, by category, and how long re-runs took."""

    history: History
    reruns: Sequence[Rerun]  # explained ones
    found: dict[str, list[str]] = field(default_factory=lambda: defaultdict(list))
    recoveries: dict[str, list[float]] = field(default_factory=lambda: defaultdict(list))

    def __post_init__(self) -> None:
        self.pauses: dict[str, list[Act]] = defaultdict(list)
        for act in self.history.acts:
            if act.what == "pause":
                self.pauses[act.target].append(act)
        self._retries: Counter[str] = Counter()  # so far, of a job
        for rerun in self.reruns:
            self._judge_rerun(*rerun)
        for call in self.history.call_log.calls.values():
            if call.delay:
                self._judge_delay(call)
            if call.parent:
                self._judge_dependent(call)
        self._judge_silence()
        for calm in self.history.calms:
            self._judge_calm(calm)
        for fault in self.history.faults:
            if fault.kind in FAILOVERS:
                self._judge_failover(fault)

    def claimable_between(self, queue: str, since: float, until: float) -> float:
        """Return the seconds in which Redis was up and the queue was not paused."""
        paused = sum(
            self.history.uptime.between(max(since, act.begin), min(until, act.end))
            for act in self.pauses[queue]
            if act.begin < until and act.end > since
        )
        return self.history.uptime.between(since, until) - paused

    def rows(self) -> list[tuple[str, str]]:
        """Return the figures of re-runs."""
        return [
            (
                f"from kill -9 of {whose} to the next run, s of Redis's uptime: p50 / max",
                f"{statistics.median(times):.2f} / {max(times):.2f}" if times else "-",
            )
            for whose in (HORSE, WORKER)
            for times in [self.recoveries[whose]]
        ]

    def _judge_rerun(self, again: Execution, cause: Fault, first: Execution | None) -> None:
        """A job runs again within 30 s, whether its worker died or is only absent."""
        if cause.kind == RETRIED:
            self._judge_retry(again, cause)
        if first is None or cause.kind not in (*CRASHES, *LONG_ABSENCES):
            return
        since = max(cause.begin, first.start)  # a horse may begin jobs while it is absent
        took = self.claimable_between(self._queue(again.token), since, again.start)
        if cause.kind in KILLS:
            self.recoveries[HORSE if cause.kind == "kill -9 horse" else WORKER].append(took)
        if took > AGAIN_S:
            at = self.history.since_origin(cause.begin)
            self.found["slow"].append(
                f"{again.token} ran again {took:.1f} s after {cause.kind} {cause.target} at {at}"
            )

    def _judge_retry(self, again: Execution, failure: Fault) -> None:
        """The second delay is twice the first; both of them vary."""
        if failure.note == UNRECORDED:
            return
        delay = RETRY_DELAY_S * 2 ** self._retries[again.token]
        self._retries[again.token] += 1
        soonest = failure.begin + delay * JITTER - RQ_ROUNDS_S
        self._judge_start(again.token, again.start, soonest, delay + 1, failure.begin)

    def _judge_delay(self, call: Call) -> None:
        first = self._first(call.token)
        if first is not None:
            due = (call.begin + call.delay, (call.end or call.begin) + call.delay)
            self._judge_start(call.token, first, due[0], 0.0, due[1])

    def _judge_dependent(self, call: Call) -> None:
        first, done = self._first(call.token), self._done(call.parent)
        if first is None:
            return  # stuck or lost: see ends.py
        if done is None or first < done:
            self.found["untimely"].append(f"{call.token} ran before its parent {call.parent}")
            return
        since = max(self._last_end(call.parent), call.end or call.begin)
        self._judge_start(call.token, first, done, 0.0, since)

    def _judge_start(
        self, token: str, start: float, soonest: float, more: float, since: float
    ) -> None:
        if start < soonest - EARLY_S:
            self.found["untimely"].append(f"{token} ran {soonest - start:.2f} s early")
        late = self.claimable_between(self._queue(token), since, start)
        if late > LATE_S + more:
            self.found["untimely"].append(f"{token} ran {late - more:.1f} s late")

    def _judge_silence(self) -> None:
        samples = self.history.samples
        ends = sorted(run.end for run in self.history.executions if run.end)
        for since, until in zip([-inf, *ends], [*ends, inf], strict=True):
            inside = [sample for sample in samples if since <= sample.at < until]
            silent = next((s.at for s in inside if self._is_silent(s.at, since, inside)), None)
            if silent is not None:
                at = self.history.since_origin(silent)
                self.found["silent"].append(f"no job ended in the {SILENCE_S:g} s before {at}")

    def _judge_calm(self, calm: Calm) -> None:
        """Each worker, and each of its horses, takes its share after 30 s without faults."""
        since = calm.begin + QUIET_S
        runs = [
            run for run in self.history.executions if since <= run.last and run.start < calm.end
        ]
        spell = f"{self.history.since_origin(since)} and {self.history.since_origin(calm.end)}"
        kinds = (
            ("worker", calm.supervisors, {run.supervisor for run in runs}, FEWEST_IN_CALM),
            ("horse", calm.horses, {run.horse for run in runs}, FEWEST_OF_HORSE * len(calm.horses)),
        )
        for kind, present, active, fewest in kinds:
            for pid in sorted(present - active) if len(runs) >= fewest else ():
                self.found["silent"].append(
                    f"{kind} {pid} ran none of {len(runs)} jobs between {spell}"
                )

    def _is_silent(self, at: float, since: float, samples: Sequence[Sample]) -> bool:
        begin = at - SILENCE_S
        if begin < max(since, samples[0].at):
            return False
        is_claimable = all(s.claimable for s in samples if begin <= s.at <= at)
        is_up = self.history.uptime.between(begin, at) >= SILENCE_S - MOST_DOWN_S
        return is_claimable and is_up and not self._is_faulty(at - QUIET_S, at)

    def _judge_failover(self, fault: Fault) -> None:
        """Jobs run again soon after another server was promoted."""
        promoted = fault.end or inf
        starts = (run.start for run in self.history.executions if run.start >= promoted)
        took = min(starts, default=inf) - promoted
        if took > PROMOTED_S:
            at = self.history.since_origin(promoted)
            self.found["slow"].append(f"jobs ran again {took:.1f} s after {fault.kind} at {at}")

    def _is_faulty(self, since: float, until: float) -> bool:
        return any(
            fault.begin <= until and (fault.end or inf) >= since for fault in self.history.faults
        )

    def _queue(self, token: str) -> str:
        call = self.history.call_log.calls.get(token)
        return call.queue if call else ""

    def _first(self, token: str) -> float | None:
        runs = self.history.runs_of(token)
        return runs[0].start if runs else None

    def _done(self, token: str) -> float | None:
        ends = [run.end for run in self.history.runs_of(token) if run.end]
        return min(ends) if ends else None

    def _last_end(self, token: str) -> float:
        return max(run.last for run in self.history.runs_of(token))
