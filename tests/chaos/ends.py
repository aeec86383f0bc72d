"""The end of every job, compared with what its callers, its tasks and its operators know."""

from __future__ import annotations

from collections import defaultdict
from dataclasses import dataclass, field
from math import inf

from chaos.causes import CRASHES, FINISH_S, KILLS, LONG_ABSENCES, Causes
from chaos.history import History
from chaos.kinds import KINDS
from chaos.places import ENDED, FAILED, OF_STATUS, SUCCESSFUL, Job
from chaos.records import FAILOVERS, LATE, LOSING, REFUSED, Act, Call, Execution
from werk.store.limits import MOST_RESULTS

TYPE_OF_END = {"finished": SUCCESSFUL, "failed": FAILED, "stopped": FAILED}  # as in RQ
STOPPED = "Job stopped by user"
DEATHS = ("Work-horse terminated unexpectedly", "Its worker or host died")
RECORD_S = 60.0  # from the end of a run until it is recorded, at the latest: for TTLs


@dataclass
class Ends:
    """Lines of what must not be, by category; the rest is only counted, or named."""

    history: History
    causes: Causes
    found: dict[str, list[str]] = field(default_factory=lambda: defaultdict(list))
    recovered: int = 0
    not_replicated: list[str] = field(default_factory=list)  # acknowledged, and lost with a master

    def __post_init__(self) -> None:
        self.acts: dict[str, list[Act]] = defaultdict(list)
        for act in self.history.acts:
            self.acts[act.target].append(act)
        for call in self.history.call_log.calls.values():
            self._judge_call(call)
        self._judge_what_nobody_enqueued()
        self.found["untrue"] += self.history.call_log.impossible

    # --- one call

    def _judge_call(self, call: Call) -> None:
        job = self.history.contents.jobs.get(call.token)
        runs = self.history.runs_of(call.token)
        if call.sightings > 1:
            self._add("enqueued twice", call, f"accepted {call.sightings} times")
        if call.answer == "duplicate" and call.twin:
            if job or runs:
                self._add("enqueued twice", call, "called a duplicate, and enqueued")
            elif call.twin not in self.history.contents.jobs and not self.history.is_lost(call):
                self._add("untrue", call, f"called a duplicate of {call.twin}, which Redis lacks")
            return
        if job is None:
            if self.history.is_lost(call):
                self.not_replicated.append(call.token)
            elif call.is_known or call.answer == "duplicate":  # of itself, tried before
                self._add("lost", call, "acknowledged; Redis has no such job")
            elif runs:
                self._add("unexpected", call, "ran, though Redis has no such job")
            return
        self.recovered += call.answer == "unknown"
        self._judge_twin(call)
        self._judge_end(call, job, runs)

    def _judge_twin(self, call: Call) -> None:
        """A call with --unless-active is accepted only if the first job had ended."""
        if call.twin and call.answer == "accepted" and call.end:
            ends = [run.end for run in self.history.runs_of(call.twin) if run.end]
            first = self.history.call_log.calls.get(call.twin)
            is_there = first and first.is_known
            if is_there and not self._was_cancelled(call.twin) and min(ends or [1e99]) > call.end:
                self._add("enqueued twice", call, f"{call.twin} was still active")

    def _was_cancelled(self, token: str) -> bool:
        return any(act.what in ("cancel", "stop") for act in self.acts[token])

    def _judge_end(self, call: Call, job: Job, runs: list[Execution]) -> None:
        if job.status not in ENDED:
            kind = "stuck" if job.places else "lost"
            self._add(kind, call, _where(job))
        elif job.status not in self._allowed_ends(call):
            self._add("wrong end", call, f"{job.status}: {_reason(job)}")
        if job.places != {OF_STATUS.get(job.status)}:
            self._add("misplaced", call, _where(job))
        if job.status in ENDED:
            self._judge_truth(call, job, runs)
            self._judge_results(call, job)
            self._judge_ttls(call, job, runs)
            self._judge_callbacks(call, job, runs)
            self._judge_pings(call, job, runs)
        self._judge_answers(call, job)

    def _allowed_ends(self, call: Call) -> set[str]:
        """Return the ends of this kind, and those that operators allow."""
        allowed = {KINDS[call.kind].ends}
        if call.kind == "fragile" and self._may_have_crashed(call):
            allowed.add("failed")
        for act in self.acts[call.token]:
            if act.what == "cancel":
                if act.reply in ("cancelled", "canceled"):
                    return {"canceled"}
                if act.reply is None:
                    allowed.add("canceled")
            if act.what == "stop" and not (act.reply or "").startswith(REFUSED):
                if act.reply and not act.reply.startswith(LATE):
                    return {"stopped"}  # that is what the operator has seen
                allowed.add("stopped")
        return allowed

    def _may_have_crashed(self, call: Call) -> bool:
        """Return whether a worker died, or was absent, with a run of this job.

        Other workers take over what it had claimed, though it may not have begun to run it.
        """
        runs = self.history.runs_of(call.token)
        begin = min((run.start for run in runs), default=call.begin)
        last = max((run.last for run in runs), default=inf)
        return any(
            fault.kind in (*KILLS, *LONG_ABSENCES)
            and fault.begin <= last + 60 * FINISH_S
            and (fault.end or inf) >= begin - FINISH_S
            and (not runs or any(fault.hits(run.horse, run.supervisor) for run in runs))
            for fault in self.history.faults
        )

    def _judge_truth(self, call: Call, job: Job, runs: list[Execution]) -> None:
        """An end needs a run that came to it."""
        if job.status == "finished" and not any(run.end and not run.raised for run in runs):
            self._add("lost", call, "finished; but it never ran to its end")
        if job.status == "canceled":
            acked = [act.end for act in self.acts[call.token] if act.reply == "cancelled"]
            if any(run.start > at for run in runs for at in acked):
                self._add("wrong end", call, "ran after it was cancelled")
        is_crash = call.kind == "fragile"  # or its end is not allowed
        if job.status == "failed" and not any(run.raised for run in runs) and not is_crash:
            self._add("wrong end", call, f"failed, and no run raised: {_reason(job)}")

    def _judge_results(self, call: Call, job: Job) -> None:
        if job.status == "canceled":
            wanted, most = 0, 0
        else:
            retries = [act for act in self.acts[call.token] if act.what == "retry"]
            wanted = 1 + sum(act.reply == "retried" for act in retries)
            most = 1 + len(retries)
        if not min(wanted, MOST_RESULTS) <= len(job.results) <= most:
            kinds = [result.type for result in job.results]
            self._add("results", call, f"{len(kinds)} results instead of {wanted}: {kinds}")
        if len(job.results) + len(job.attempts) > MOST_RESULTS:
            self._add(
                "results", call, f"{len(job.attempts)} attempts and {len(job.results)} results"
            )
        if any(not attempt.trace for attempt in job.attempts):
            self._add("results", call, "an attempt without a reason")
        for result in job.results:
            if result.type != TYPE_OF_END.get(job.status):
                self._add("results", call, f"{job.status} with a result of type {result.type}")
            if result.type == SUCCESSFUL and result.text != call.value:
                self._add("results", call, f"returned {result.text!r}")
            if result.type == FAILED and not self._is_its_failure(call, job, result.trace):
                self._add("results", call, f"failed with {result.text!r}")

    def _is_its_failure(self, call: Call, job: Job, trace: str) -> bool:
        if job.status == "stopped":
            return STOPPED in trace
        if call.kind == "leaking":  # its horse may have had no descriptor left to read the source
            return bool(trace)
        if call.kind == "fragile":
            return "Traceback" not in trace and any(words in trace for words in DEATHS)
        return "Traceback" in trace and f"{call.token} has to fail" in trace

    def _judge_ttls(self, call: Call, job: Job, runs: list[Execution]) -> None:
        """Results are kept as long as was asked. RQ keeps cancelled jobs until they are deleted."""
        if job.attempts and job.results_ttl == -1:
            self._add("leaked", call, "its attempts never expire")
        if job.status == "canceled":
            return
        asked = job.keep[0 if job.status == "finished" else 1]
        ended = max((run.end or run.last for run in runs), default=call.begin)
        least = asked - (self.history.contents.at - ended) - RECORD_S
        for what, ttl in (("hash", job.ttl), ("results", job.results_ttl)):
            if what == "results" and not job.results:
                continue
            if ttl == -1:
                self._add("leaked", call, f"its {what} never expires")
            elif not least <= ttl <= asked:
                self._add("leaked", call, f"its {what} expires in {ttl} s, asked were {asked}")

    def _judge_callbacks(self, call: Call, job: Job, runs: list[Execution]) -> None:
        wanted = {"called": "on_success", "blamed": "on_failure"}.get(call.kind, "")
        # An outcome that a lost master has forgotten is recorded again, with its callback.
        most = len(runs) + sum(fault.kind in FAILOVERS for fault in self.history.faults)
        for name in ("on_success", "on_failure"):
            times = self.history.callbacks[call.token, name]
            if name == wanted and not 1 <= times <= most:
                self._add("callbacks", call, f"{name} ran {times} times in {len(runs)} runs")
            if name != wanted and times:
                self._add("callbacks", call, f"{name} ran {times} times")

    def _judge_pings(self, call: Call, job: Job, runs: list[Execution]) -> None:
        times = self.history.pings[call.token]
        if call.kind != "pinging":
            if times:
                self._add("pings", call, f"{times}, and nobody asked for any")
            return
        if times > max(1, sum(fault.kind in LOSING for fault in self.history.faults)):
            self._add("pings", call, f"{times} for one success")
        if not times and job.status == "finished" and not self._was_killed_after(runs):
            self._add("pings", call, "none")

    def _was_killed_after(self, runs: list[Execution]) -> bool:
        """RQ sends a ping once, after the commit: a crash in between is the end of it."""
        return any(
            fault.hits(run.horse, run.supervisor) and self.causes.in_hand(run, fault.begin)
            for fault in self.history.faults
            if fault.kind in CRASHES
            for run in runs
            if run.end
        )

    def _judge_answers(self, call: Call, job: Job) -> None:
        call_log = self.history.call_log
        if call.token in call_log.results:
            if call_log.results[call.token] != call.value:
                self._add("untrue", call, f"its caller was given {call_log.results[call.token]!r}")
            if job.status != "finished":
                self._add("lost", call, "its caller has the result, Redis does not")
        if told := call_log.failures.get(call.token):
            is_true = job.status in ("failed", "stopped") and told.startswith("JobFailed")
            if not is_true and not self.history.is_lost(call):
                self._add("untrue", call, f"its caller was told: {told}")

    # --- what nobody enqueued

    def _judge_what_nobody_enqueued(self) -> None:
        calls, contents = self.history.call_log.calls, self.history.contents
        tokens = {run.token for run in self.history.executions}
        for token in sorted((tokens | contents.jobs.keys()) - calls.keys()):
            self.found["unexpected"].append(f"{token}: nobody enqueued it")
        for token in sorted(self.history.pings.keys() - calls.keys()):
            self.found["pings"].append(f"{token}: nobody asked for any")
        for token, places in sorted(contents.strays.items()):
            self.found["misplaced"].append(f"{token}: no such job, in {', '.join(sorted(places))}")

    def _add(self, kind: str, call: Call, what: str) -> None:
        self.found[kind].append(f"{call.token} ({call.answer}): {what}")


def _where(job: Job) -> str:
    return f"{job.status}, in {', '.join(sorted(job.places)) or 'no place'}"


def _reason(job: Job) -> str:
    return job.results[-1].text if job.results else "no result"
