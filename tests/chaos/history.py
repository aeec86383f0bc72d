"""Everything that the verdict goes by, from one run."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field

from chaos.places import Contents
from chaos.prober import Sample, Uptime
from chaos.records import Act, Call, CallLog, Calm, Execution, Fault


@dataclass
class History:
    """What was done, what ran, what was told, and what is left."""

    call_log: CallLog
    executions: Sequence[Execution]  # by start
    contents: Contents
    faults: Sequence[Fault] = ()
    acts: Sequence[Act] = ()
    callbacks: Counter[tuple[str, str]] = field(default_factory=Counter)
    pings: Counter[str] = field(default_factory=Counter)
    uptime: Uptime = field(default_factory=lambda: Uptime([]))
    samples: Sequence[Sample] = ()
    calms: Sequence[Calm] = ()
    surprises: Sequence[str] = ()
    gave_up: int = 0

    def __post_init__(self) -> None:
        self.runs: dict[str, list[Execution]] = {}
        for run in self.executions:
            self.runs.setdefault(run.token, []).append(run)
        self.origin = min((fault.begin for fault in self.faults), default=0.0)

        for act in self.acts:  # what an operator did may be lost like everything else
            if any(fault.may_have_lost(act.end) for fault in self.faults):
                act.reply = None

    def is_lost(self, call: Call) -> bool:
        """Return whether a call was acknowledged by a master that was lost within a second."""
        return any(fault.may_have_lost(call.end or call.begin) for fault in self.faults)

    def runs_of(self, token: str) -> list[Execution]:
        """Return the executions of a job, by start."""
        return self.runs.get(token, [])

    def since_origin(self, moment: float) -> str:
        """Return a moment as people read it: in seconds since the first fault."""
        return f"{moment - self.origin:.2f}"
