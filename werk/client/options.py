"""The options of an enqueue, each declared once: name, type, default, unit and help.

Python callers pass Options; the options of `werk-enqueue` are made from its fields
(cli/enqueue.py), so both have the same help.
"""

# Annotations are evaluated here, unlike elsewhere: the command line reads them.
import json
import re
from collections.abc import Mapping, Sequence
from datetime import datetime
from math import ceil
from typing import Annotated, Any, NamedTuple

from werk.errors import ArgumentError
from werk.registry import LONGEST_S, Task
from werk.store import keys
from werk.store.plain import digest
from werk.tasks.arguments import Signature

JOB_ID = re.compile(r"[A-Za-z0-9_-]+")  # rq/job.py
PING_URL = re.compile(r"https?://[^\s/?#][!-~]*")
HOLD_SHARE = 0.9  # of a period: cron fires on its edges, a little early or late
SLOT_MEMORY_S = 48 * 3600


class Help(NamedTuple):
    """What `werk-enqueue --help` prints of an option."""

    text: str
    value: str = ""  # what stands for its value, such as its unit
    name: str = ""  # of the option, where the field's is taken on the command line


class Options(NamedTuple):
    """The options of one job. None: use the value of the task's entry in the registry, if any."""

    queue: Annotated[
        str | None, Help("Enqueue to QUEUE instead of the task's own queue.", "QUEUE")
    ] = None
    front: Annotated[bool, Help("Put the job before all waiting jobs.")] = False
    delay: Annotated[float | None, Help("Run the job after SECONDS.", "SECONDS")] = None
    at: Annotated[
        datetime | None,
        Help("Run the job at TIME: 2026-12-24T18:00, in local time or with +01:00.", "TIME"),
    ] = None
    job_id: Annotated[
        str | None,
        Help("Give the job this ID; enqueue nothing if a job with this ID exists.", "ID"),
    ] = None  # letters, digits, - and _
    timeout: Annotated[
        int | None,
        Help("Limit each execution to SECONDS; -1: no limit.", "SECONDS", "job_timeout"),
    ] = None
    ttl: Annotated[
        int | None, Help("Discard the job if it waits for longer than SECONDS.", "SECONDS")
    ] = None
    result_ttl: Annotated[
        int | None, Help("Keep the result for SECONDS; -1: it never expires.", "SECONDS")
    ] = None
    failure_ttl: Annotated[
        int | None, Help("Keep a failed job for SECONDS; -1: it never expires.", "SECONDS")
    ] = None
    retry: Annotated[int | None, Help("Retry a failed job COUNT times.", "COUNT")] = None
    once_per: Annotated[
        float | None,
        Help(
            "Enqueue at most once per PERIOD (90, 5m, 1h, 1d), even if several hosts run this"
            " command.",
            "PERIOD",
        ),
    ] = None
    slot: str | None = None  # for `werk cron` alone: the tick that the job stands for
    unless_active: Annotated[
        bool, Help("Enqueue nothing while the last job with the same arguments waits or runs.")
    ] = False
    expires: Annotated[
        float | None,
        Help("Discard the job if it has not started PERIOD after it was due.", "PERIOD"),
    ] = None
    ping: Annotated[
        str | None, Help("Have the worker GET this http(s) URL when the job has succeeded.", "URL")
    ] = None
    require_worker: Annotated[
        bool, Help("Enqueue nothing, and exit with 75, unless a live worker serves the task.")
    ] = False

    def treated(self, task: Task) -> Task:
        """Return the task with these options in place of its own. Raises ArgumentError."""
        names = ("queue", "timeout", "result_ttl", "failure_ttl", "retry")
        given = {name: getattr(self, name) for name in names}
        own = task._replace(**{name: value for name, value in given.items() if value is not None})
        if problem := own.problem() or self._problem():
            raise ArgumentError(problem)
        return own

    def _problem(self) -> str | None:
        """Return what is wrong with the options that no task has, or None."""
        if self.job_id is not None and not JOB_ID.fullmatch(self.job_id):
            return f"job_id {self.job_id!r}: use letters, digits, - and _"
        for one, other in (("delay", "at"), ("ttl", "expires")):
            if getattr(self, one) is not None and getattr(self, other) is not None:
                return f"{one} and {other} cannot be combined"
        for name, least in (("delay", 0), ("ttl", 1), ("once_per", 1), ("expires", 1)):
            seconds, kinds = getattr(self, name), (int,) if name == "ttl" else (int, float)
            is_right = type(seconds) in kinds and least <= seconds <= LONGEST_S
            if seconds is not None and not is_right:
                whole = "whole " * (name == "ttl")
                return f"{name} {seconds!r}: use {whole}seconds, {least} to {LONGEST_S}"
        if self.at is not None and not 1 < self.at.year < 9999:
            return f"at {self.at}: out of range; use a year from 2 to 9998"
        if self.ping is not None and not PING_URL.fullmatch(self.ping):
            return f"ping {self.ping!r}: use an address that starts with http:// or https://"
        if self.slot is not None and (type(self.slot) is not str or not self.slot):
            return f"slot {self.slot!r}: use a text that names the tick"
        return None

    def place(self) -> str:
        """Return where enqueue.lua puts the job."""
        if self.delay or self.at:
            return f"{'in' if self.delay else 'at'}{' front' if self.front else ''}"
        return "front" if self.front else "back"

    def due(self, now: float) -> float | None:
        """Return the Unix time, by this host's clock, at which the job is due; None for now."""
        if self.delay:
            return round(now + self.delay, 3)
        return self.at.timestamp() if self.at else None

    def seconds_to_live(self, due: float | None, now: float) -> int:
        """Return the seconds from now after which a job that waits is discarded; 0: never."""
        if self.expires is None:
            return self.ttl or 0
        return max(1, ceil(max(0.0, (due or now) - now) + self.expires))

    def hold_ms(self) -> int:
        """Return for how many milliseconds a hold lasts."""
        if self.slot is not None:
            return SLOT_MEMORY_S * 1000
        return int((self.once_per or 0) * HOLD_SHARE * 1000)

    def guards(self, name: str, call: Sequence[tuple[str, object]], queue: str) -> tuple[str, str]:
        """Return the hold and the pointer of a job of the task `name` (PreparedJob)."""
        hold = pointer = ""
        if self.slot is not None:
            hold = keys.key("werk", "slot", digest((name, call, queue, self.slot)))
        elif self.once_per is not None:
            hold = keys.key("werk", "period", digest((name, call, queue)))
        if self.unless_active:
            pointer = keys.key("werk", "last", digest((name, call)))
        return hold, pointer

    def webhooks(self) -> str:
        """Return what RQ keeps of a Webhook(ping, "finished") (rq.job.Job.to_dict), or ''."""
        hook = {"job_status": "finished", "method": "GET", "headers": None, "timeout": 10}
        return json.dumps([{"url": self.ping, **hook}]) if self.ping else ""


NO_OPTIONS = Options()


def misplaced(kwargs: Mapping[str, object], shape: Signature) -> list[str]:
    """Return the arguments of a call that are no parameters of the task, but options."""
    takes = {own.name for own in shape.parameters}
    return [name for name in kwargs if name in HINTS and name not in takes]


# The options that callers choose, and what each declares.
HINTS: Mapping[str, Any] = {
    name: hint for name, hint in Options.__annotations__.items() if hasattr(hint, "__metadata__")
}
