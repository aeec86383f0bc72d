"""What became of every job of `bin/chaos`: judged and counted."""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Sequence
from dataclasses import dataclass, field

from chaos.causes import Causes, Rerun, is_crash
from chaos.ends import Ends
from chaos.faults import KINDS
from chaos.history import History
from chaos.kinds import KINDS as JOBS
from chaos.leaks import leaks
from chaos.records import Execution, kind_of
from chaos.times import Times

FEWEST_JOBS = 1000

# Every category, in the order of the report, and what the table calls it.
CATEGORIES = {
    "lost": "**lost**",
    "stuck": "**stuck**, after 60 s without faults",
    "wrong end": "**ended as they must not**",
    "misplaced": "**misplaced**: in no place, in two, or in one that is not their status's",
    "leaked": "**leaked**: keys left, or kept longer than asked",
    "unexpected": "**unexpected**: nobody enqueued them",
    "enqueued twice": "**enqueued twice**",
    "ran again": "**run again, unexplained**",
    "overlapping": "**overlapping**, unexplained",
    "slow": "**run again later than 30 s of Redis's uptime after a kill or an absence**",
    "untimely": "**early, late or before their parents**",
    "results": "**wrong results**",
    "callbacks": "**callbacks left out or called wrongly**",
    "pings": "**pings left out or sent wrongly**",
    "untrue": "**untrue answers to callers**",
    "silent": "**silences**",
    "process": "**processes that ended against the rules**",
}


@dataclass
class Verdict:
    """The comparison. `wrong` says in words what must not be; nothing in it: all is well."""

    history: History
    kinds: Sequence[str] = tuple(KINDS)  # of faults: each must have been injected
    fewest_jobs: int = FEWEST_JOBS
    found: dict[str, list[str]] = field(default_factory=lambda: defaultdict(list))
    reruns: Counter[str] = field(default_factory=Counter)
    absent_overlaps: int = 0

    def __post_init__(self) -> None:
        history = self.history
        self.causes = Causes(history.faults, history.executions, history.acts)
        uncounted = [fault for fault in history.faults if not is_crash(fault)]
        self._of_fragile = Causes(uncounted, history.executions, history.acts)
        self._explained: list[Rerun] = []
        for runs in history.runs.values():
            self._judge_executions(runs)
        self.ends = Ends(history, self.causes)
        self.times = Times(history, self._explained)
        for found in (self.ends.found, self.times.found):
            for category, lines in found.items():
                self.found[category] += lines
        self.found["leaked"] += leaks(history.contents)
        self.found["process"] += history.surprises

    @property
    def wrong(self) -> list[str]:
        """Everything that must not be, a line each."""
        never = [f"never injected: {kind}" for kind in self.kinds if not self.injected[kind]]
        few = [f"only {self._jobs} jobs ran"] * (self._jobs < self.fewest_jobs)
        lines = [f"{name}: {line}" for name in CATEGORIES for line in self.found[name]]
        return never + few + self._missing_kinds() + lines

    @property
    def injected(self) -> Counter[str]:
        """How often each kind of fault was injected."""
        return Counter(fault.kind for fault in self.history.faults)

    def rows(self) -> list[tuple[str, object]]:
        """Return the figures, each with its name."""
        calls = self.history.call_log.calls.values()
        answers = Counter(call.answer for call in calls)
        again = "".join(f"; {kind}: {times}" for kind, times in sorted(self.reruns.items()))
        return [
            ("jobs acknowledged", answers["accepted"]),
            ("calls without an answer", answers["unknown"]),
            ("of these, recovered: enqueued all the same", self.ends.recovered),
            ("lost with a master, acknowledged in its last second", self._not_replicated()),
            ("jobs that ran", self._jobs),
            ("executions", len(self.history.executions)),
            ("acts of operators", len(self.history.acts)),
            *((name, len(self.found[category])) for category, name in CATEGORIES.items()),
            ("run again, and why", f"{self.reruns.total()}{again}"),
            ("overlapping, the worker was frozen or cut off for > lease", self.absent_overlaps),
            ("workers that gave up before they had begun", self.history.gave_up),
            *self.times.rows(),
        ]

    @property
    def _jobs(self) -> int:
        return len(self.history.runs)

    def _not_replicated(self) -> str:
        tokens = self.ends.not_replicated
        return f"{len(tokens)}{': ' * bool(tokens)}{', '.join(tokens)}"

    def _missing_kinds(self) -> list[str]:
        """A kind of jobs that nobody enqueued shows nothing."""
        seen = {call.kind for call in self.history.call_log.calls.values()}
        wanted = [name for name, kind in JOBS.items() if kind.share]
        return [f"never enqueued: {name}" for name in wanted if name not in seen]

    def _judge_executions(self, runs: Sequence[Execution]) -> None:
        causes = self._of_fragile if kind_of(runs[0].token) == "fragile" else self.causes
        for rerun in causes.of_reruns(runs):
            if rerun.cause is None:
                self.found["ran again"].append(self._story(runs, rerun.again))
                continue
            self.reruns[rerun.cause.kind] += 1
            self._explained.append(rerun)
        for first, second, absence in self.causes.of_overlaps(runs):
            if absence:
                self.absent_overlaps += 1
            else:
                self.found["overlapping"].append(self._story((first, second), second))

    def _story(self, runs: Sequence[Execution], again: Execution) -> str:
        """Return an execution's history, to find out why; times are from the first fault on."""
        at = self.history.since_origin
        earlier = [
            f"{at(run.start)} to {at(run.end) if run.end else 'never'}"
            f" (last line {at(run.last)}, horse {run.horse} of {run.supervisor})"
            for run in runs
            if run is not again
        ]
        near = [
            f"{fault.kind} {fault.target} at {at(fault.begin)} {fault.note}".strip()
            for fault in self.history.faults
            if runs[0].start - 20 <= fault.begin <= again.start
            and any(
                fault.target == "server" or fault.hits(run.horse, run.supervisor) for run in runs
            )
        ]
        head = f"{again.token} at {at(again.start)} (horse {again.horse} of {again.supervisor})"
        return f"{head} after {'; '.join(earlier)}; faults near: {', '.join(near[-8:]) or 'none'}"
