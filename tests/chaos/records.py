"""What the run left outside Redis: the traces of executions and the log of the callers' calls."""

from __future__ import annotations

import json
from collections import Counter
from dataclasses import dataclass, field
from pathlib import Path

CALLBACKS = ("on_success", "on_failure")

LOSING = ("kill -9 master", "freeze master")
FAILOVERS = (*LOSING, "SENTINEL FAILOVER")
REFUSED = "refused"  # how the reply to a stop begins that was not sent to a worker
LATE = "late"  # of one whose worker has not done it yet
LOST_S = 1.0  # before the master was lost: what it acknowledged then may not be replicated
ANSWER_S = 0.1  # from an acknowledgement until it is written down


@dataclass
class Fault:
    """What was done to whom and when, by the monotonic clock."""

    kind: str
    target: str
    begin: float
    end: float | None = None  # None: it lasts
    supervisor: int | None = None
    horses: frozenset[int] = frozenset()
    note: str = ""

    def hits(self, horse: int, supervisor: int) -> bool:
        """Return whether it was done to the horse of this execution, or to its supervisor.

        What is done to a horse leaves its neighbours alone: those of the same supervisor. A job
        that a horse begins when its supervisor has just died has another supervisor.
        """
        return supervisor == self.supervisor or horse in self.horses

    def may_have_lost(self, answered: float) -> bool:
        """Return whether what was acknowledged then may be lost, because replication is late."""
        is_near = self.begin - LOST_S <= answered <= self.begin + ANSWER_S
        return self.kind in LOSING and is_near


@dataclass
class Execution:
    """One run of a job, from the lines that it wrote."""

    token: str
    id: str
    horse: int
    supervisor: int
    start: float
    last: float  # line
    end: float | None = None  # None: the task neither returned nor raised
    raised: bool = False  # how it ended

    def overlaps(self, other: Execution) -> bool:
        return self.start < other.last and other.start < self.last


@dataclass
class Call:
    """A job that a caller tried to enqueue, and what it was told."""

    token: str  # also the job's id
    queue: str
    begin: float
    end: float | None = None  # of the call; None: the caller died in the middle
    delay: float = 0.0
    parent: str = ""  # the job must not run before this one is done
    twin: str = ""  # must not be enqueued while this job is active
    value: str = ""  # that the task returns
    answer: str = "unknown"  # or accepted, duplicate
    sightings: int = 0  # how often the answer was "accepted"

    @property
    def kind(self) -> str:
        return kind_of(self.token)

    @property
    def is_known(self) -> bool:
        """Return whether the job has to exist."""
        return self.answer == "accepted"


@dataclass
class CallLog:
    """What the callers tried and what they were told."""

    calls: dict[str, Call] = field(default_factory=dict)
    results: dict[str, str] = field(default_factory=dict)  # token -> value
    failures: dict[str, str] = field(default_factory=dict)  # token -> message
    impossible: list[str] = field(default_factory=list)  # answers that no caller should ever get


@dataclass
class Act:
    """What an operator did to a job or a queue, and the reply; None: the reply was lost."""

    what: str  # retry, cancel, stop, pause
    target: str
    begin: float
    end: float
    reply: str | None = None


@dataclass
class Calm:
    """A spell without faults, and the processes that were there all the time."""

    begin: float
    end: float
    supervisors: set[int]
    horses: set[int] = field(default_factory=set)


@dataclass
class Traces:
    """What the tasks wrote down."""

    executions: list[Execution] = field(default_factory=list)  # by start
    callbacks: Counter[tuple[str, str]] = field(default_factory=Counter)  # (token, which)


def kind_of(token: str) -> str:
    """Return the kind of a job by its token: c3-17-plain."""
    return token.rpartition("-")[2]


def read_traces(file: Path) -> Traces:
    """Return all executions and callbacks."""
    found: dict[str, Execution] = {}
    callbacks: Counter[tuple[str, str]] = Counter()
    for line in file.read_text().splitlines():
        token, name, what, time, horse, supervisor = line.split()
        if what in CALLBACKS:
            callbacks[token, what] += 1
            continue
        at = float(time)
        run = found.setdefault(
            name, Execution(token, name, int(horse), int(supervisor), start=at, last=at)
        )
        run.last = at
        if what in ("end", "raise"):
            run.end, run.raised = at, what == "raise"
    return Traces(sorted(found.values(), key=lambda run: run.start), callbacks)


def read_call_log(file: Path) -> CallLog:
    """Return what the callers tried and what they were told."""
    call_log = CallLog()
    for line in file.read_text().splitlines():
        entry = json.loads(line)
        _note(call_log, entry.pop("what"), entry.pop("token"), entry.pop("at"), entry)
    return call_log


def _note(call_log: CallLog, what: str, token: str, at: float, entry: dict[str, str]) -> None:
    if what == "try":
        call_log.calls.setdefault(token, Call(token, begin=at, **entry))
    elif what in ("accepted", "duplicate"):
        call = call_log.calls[token]
        call.end = at
        call.sightings += what == "accepted"
        call.answer = what if call.answer != "accepted" else call.answer
    elif what == "unknown":
        call = call_log.calls[token]
        call.end = call.end if call.answer == "accepted" else at  # as acknowledged before
    elif what == "result":
        call_log.results[token] = entry["value"]
    elif what == "failed":
        call_log.failures[token] = entry["value"]
    else:
        call_log.impossible.append(f"{what} {token} {entry}")
