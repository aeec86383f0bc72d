"""What became of every job of `bin/chaos`: compared, counted, printed."""

from __future__ import annotations

import statistics
from collections import Counter, defaultdict
from collections.abc import Sequence
from dataclasses import dataclass, field
from math import inf

from chaos.causes import LEASE_S, Causes
from chaos.monkey import KINDS, Fault
from chaos.records import ENDED, Diary, Execution, Job

FEWEST_JOBS = 1000
DETAILS = 20

HORSE, WORKER, WORKER_AND_REDIS = "a horse", "a worker", "a worker, Redis away as well"


@dataclass
class Verdict:
    """The comparison. `wrong` says in words what must not be; nothing in it: all is well."""

    diary: Diary
    executions: Sequence[Execution]
    jobs: Sequence[Job]
    faults: Sequence[Fault]
    surprises: Sequence[str]
    gave_up: int
    doubles: set[str]  # ids seen twice in the queues
    lost: list[str] = field(default_factory=list)
    stuck: list[str] = field(default_factory=list)
    failed: list[str] = field(default_factory=list)
    untrue: list[str] = field(default_factory=list)  # answers to callers
    twice: list[str] = field(default_factory=list)
    unexplained: list[str] = field(default_factory=list)
    overlaps: list[str] = field(default_factory=list)
    absent_overlaps: int = 0
    reruns: Counter[str] = field(default_factory=Counter)
    recoveries: dict[str, list[float]] = field(default_factory=lambda: defaultdict(list))

    def __post_init__(self) -> None:
        self.causes = Causes(self.faults, self.executions)
        self.by_token: dict[str, list[Execution]] = defaultdict(list)
        for run in self.executions:
            self.by_token[run.token].append(run)
        self.origin = min((fault.begin for fault in self.faults), default=0.0)
        self._judge_jobs()
        self._judge_callers()
        for runs in self.by_token.values():
            self._judge_executions(runs)

    @property
    def wrong(self) -> list[str]:
        """Everything that must not be, a line each."""
        never = [f"never injected: {kind}" for kind in KINDS if not self.injected[kind]]
        few = [f"only {len(self.by_token)} jobs ran"] * (len(self.by_token) < FEWEST_JOBS)
        parts = [
            ("lost", self.lost),
            ("stuck", self.stuck),
            ("failed", self.failed),
            ("ran again", self.unexplained),
            ("overlapping", self.overlaps),
            ("enqueued twice", self.twice),
            ("told a caller", self.untrue),
            ("process", self.surprises),
        ]
        return never + few + [f"{name}: {line}" for name, lines in parts for line in lines]

    @property
    def injected(self) -> Counter[str]:
        """How often each kind of fault was injected."""
        return Counter(fault.kind for fault in self.faults)

    def table(self) -> str:
        """Return the figures as Markdown."""
        again = "".join(f"; {kind}: {times}" for kind, times in sorted(self.reruns.items()))
        rows = [
            ("jobs acknowledged", len(self.diary.accepted)),
            ("calls that were told: Redis not reached", self.diary.unreachable),
            ("jobs that ran", len(self.by_token)),
            ("executions", len(self.executions)),
            ("**lost**", len(self.lost)),
            ("**stuck**, after 60 s without faults", len(self.stuck)),
            ("failed, with a reason", len(self.failed)),
            ("run again, and why", f"{self.reruns.total()}{again}"),
            ("**run again, unexplained**", len(self.unexplained)),
            ("overlapping, the worker was frozen or cut off for > lease", self.absent_overlaps),
            ("**overlapping otherwise**", len(self.overlaps)),
            ("**enqueued twice**", len(self.twice)),
            ("untrue answers to callers", len(self.untrue)),
            ("processes that ended against the rules", len(self.surprises)),
            ("workers that gave up before they had begun", self.gave_up),
            *self._recovery_rows(),
        ]
        counts = [(kind, self.injected[kind]) for kind in KINDS]
        return "\n".join([*_table("outcome", rows), "", *_table("faults injected", counts)])

    def details(self) -> str:
        """Return what is wrong, at some length."""
        more = len(self.wrong) - DETAILS
        tail = [f"... and {more} more"] if more > 0 else []
        return "\n".join([*self.wrong[:DETAILS], *tail])

    def _judge_jobs(self) -> None:
        by_id = Counter(job.token for job in self.jobs)
        self.twice += [f"{token}: {times} jobs" for token, times in by_id.items() if times > 1]
        self.twice += [f"job {job_id} was in the queues twice" for job_id in sorted(self.doubles)]
        for job in self.jobs:
            ran = any(run.end for run in self.by_token.get(job.token, ()))
            what = f"{job.token} (job {job.id}), {job.status}, in {job.places or 'no structure'}"
            if len(job.places) > 1:
                self.twice.append(f"{what}: in two places")
            if job.status == "finished" and not ran:
                self.lost.append(f"{what}; but it never ran to its end")
            elif job.status == "failed":
                self.failed.append(what)
            elif job.status not in ENDED:
                (self.stuck if job.places else self.lost).append(what)

    def _judge_callers(self) -> None:
        known = {job.id: job for job in self.jobs}
        self.untrue += self.diary.impossible
        for token, reason in self.diary.failures.items():
            job = known.get(self.diary.accepted[token])
            if job is None or job.status != "failed":
                self.untrue.append(f"{token}: {reason}")
        for token, job_id in self.diary.accepted.items():
            if job_id not in known:
                self.lost.append(f"{token} (job {job_id}) was acknowledged; Redis has no such job")
            elif token in self.diary.results and known[job_id].status != "finished":
                self.lost.append(f"{token}: its caller has the result, Redis does not")

    def _judge_executions(self, runs: Sequence[Execution]) -> None:
        for again, cause in self.causes.of_reruns(runs):
            if cause is None:
                self.unexplained.append(self._story(runs, again))
                continue
            self.reruns[cause.kind] += 1
            if cause.kind.startswith("kill"):
                self.recoveries[self._whose(cause, again)].append(again.start - cause.begin)
        for first, second, absence in self.causes.of_overlaps(runs):
            if absence:
                self.absent_overlaps += 1
            else:
                self.overlaps.append(self._story((first, second), second))

    def _whose(self, kill: Fault, again: Execution) -> str:
        if kill.kind == "kill -9 horse":
            return HORSE
        away = any(self._delays(fault, kill.begin, again.start) for fault in self.faults)
        return WORKER_AND_REDIS if away else WORKER

    def _delays(self, fault: Fault, since: float, until: float) -> bool:
        """Tell whether Redis was away then, or so long before that nobody was taken for dead."""
        if fault.target != "server":
            return False
        end = fault.end or inf
        grace = LEASE_S if end - fault.begin > LEASE_S / 2 else 0
        return fault.begin < until and end + grace > since

    def _story(self, runs: Sequence[Execution], again: Execution) -> str:
        """Return an execution's history, to find out why; times are from the first fault on."""
        earlier = [
            f"{self._at(run.start)} to {self._at(run.end) if run.end else 'never'}"
            f" (last line {self._at(run.last)}, horse {run.horse} of {run.supervisor})"
            for run in runs
            if run is not again
        ]
        near = [
            f"{fault.kind} {fault.target} at {self._at(fault.begin)} {fault.note}".strip()
            for fault in self.faults
            if runs[0].start - 20 <= fault.begin <= again.start
            and any(
                fault.target == "server" or fault.hits(run.horse, run.supervisor) for run in runs
            )
        ]
        head = f"{again.token} at {self._at(again.start)} (horse {again.horse})"
        return f"{head} after {'; '.join(earlier)}; faults near: {', '.join(near[-8:]) or 'none'}"

    def _at(self, moment: float) -> str:
        return f"{moment - self.origin:.2f}"

    def _recovery_rows(self) -> list[tuple[str, str]]:
        return [
            (
                f"from kill -9 of {whose} to the next run, s: p50 / max",
                f"{statistics.median(times):.2f} / {max(times):.2f}" if times else "-",
            )
            for whose in (HORSE, WORKER, WORKER_AND_REDIS)
            for times in [self.recoveries[whose]]
        ]


def _table(head: str, rows: Sequence[tuple[str, object]]) -> list[str]:
    return [f"| {head} | |", "|---|--:|", *(f"| {name} | {value} |" for name, value in rows)]
