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

from werk import registry
from werk.duration import Duration, Range, in_seconds, seconds, shown
from werk.errors import ArgumentError
from werk.registry import Task
from werk.store import keys
from werk.store.plain import digest, name_of, plain_problem
from werk.tasks.arguments import Signature

JOB_ID = r"[A-Za-z0-9_-]+"  # rq/job.py
PING_URL = r"https?://[^\s/?#][!-~]*"  # compiled when used, as most enqueues do without
HOLD_SHARE = 0.9  # of a period: cron runs a line a little early or late
SLOT_MEMORY_S = 48 * 3600

DURATIONS = {  # the options that take one
    **{name: registry.DURATIONS[name] for name in ("timeout", "result_ttl", "failure_ttl")},
    "delay": Range(0, is_whole=False),
    "ttl": Range(1),
    "once_per": Range(1, is_whole=False),
    "expires": Range(1, is_whole=False),
}


_CLASSES: Mapping[str, type] = {
    **{"job_id": str, "at": datetime, "ping": str},
    **dict.fromkeys(("front", "unless_active", "require_worker"), bool),
}
_USE = {
    str: "a text (str)",
    bool: "True or False",
    datetime: "a datetime, such as datetime(2026, 12, 24, 18) in local time",
}


class Help(NamedTuple):
    """What `werk-enqueue --help` prints about an option."""

    text: str
    value: str = ""  # what stands for its value, such as its unit
    name: str = ""  # of the option, where the field's is taken on the command line


class Options(NamedTuple):
    """The options of one job. None: use the value of the task's line in the table, if any.

    Durations are 90 (in seconds), "5m", "1h30m" or a timedelta.
    """

    queue: Annotated[
        str | None, Help("Enqueue to QUEUE instead of the task's own queue.", "QUEUE")
    ] = None
    front: Annotated[bool, Help("Put the job before all waiting jobs.")] = False
    delay: Annotated[
        Duration | None, Help("Run the job after PERIOD (90, 5m, 1h30m, 1d).", "PERIOD")
    ] = None
    at: Annotated[
        datetime | None,
        Help("Run the job at TIME, in local time or with a zone: 2026-12-24T18:00+01:00.", "TIME"),
    ] = None
    job_id: Annotated[
        str | None,
        Help(
            "Give the job this ID. If the job exists, enqueue nothing; if its call differs, fail"
            " (exit code 2, JobIdConflict).",
            "ID",
        ),
    ] = None  # letters, digits, - and _
    timeout: Annotated[
        Duration | None,
        Help("Limit each execution to PERIOD; -1: no limit.", "PERIOD", "job_timeout"),
    ] = None
    ttl: Annotated[
        Duration | None, Help("Discard the job if it waits for longer than PERIOD.", "PERIOD")
    ] = None
    result_ttl: Annotated[
        Duration | None, Help("Keep the result for PERIOD; -1: it never expires.", "PERIOD")
    ] = None
    failure_ttl: Annotated[
        Duration | None, Help("Keep a failed job for PERIOD; -1: it never expires.", "PERIOD")
    ] = None
    retry: Annotated[int | None, Help("Retry a failed job COUNT times.", "COUNT")] = None
    once_per: Annotated[
        Duration | None,
        Help(
            "Enqueue at most once per PERIOD (90, 5m, 1h, 1d), even if several hosts enqueue it.",
            "PERIOD",
        ),
    ] = None
    slot: str | None = None  # for `werk cron` alone: the tick that the job stands for
    unless_active: Annotated[
        bool,
        Help(
            "Enqueue nothing while the last job with this option and these arguments waits or runs."
        ),
    ] = False
    expires: Annotated[
        Duration | None,
        Help("Discard the job if it has not started PERIOD after it was due.", "PERIOD"),
    ] = None
    ping: Annotated[
        str | None, Help("Have the worker GET this http(s) URL when the job has succeeded.", "URL")
    ] = None
    require_worker: Annotated[
        bool,
        Help(
            "Enqueue only if a live worker serves the task; otherwise fail (exit code 75,"
            " NoWorker)."
        ),
    ] = False
    meta: Annotated[
        dict[str, Any] | None,
        Help("Keep this JSON object in the job's meta (RQ's job.meta).", "JSON"),
    ] = None  # plain data

    def in_seconds(self) -> "Options":
        """Return the options with their durations in seconds. Raises ArgumentError."""
        values = ((name, getattr(self, name)) for name in DURATIONS)
        given = {name: value for name, value in values if value is not None}
        return self._replace(**in_seconds(given, DURATIONS)) if given else self

    def treated(self, task: Task) -> Task:
        """Return the task with these options, in seconds, in place of its own.

        Raises ArgumentError.
        """
        names = ("queue", "timeout", "result_ttl", "failure_ttl", "retry")
        given = {name: getattr(self, name) for name in names}
        own = task._replace(**{name: value for name, value in given.items() if value is not None})
        if problem := own.problem() or self._problem():
            raise ArgumentError(problem)
        return own

    def _problem(self) -> str | None:
        """Return what is wrong with the options that no task has, or None."""
        if problem := self._wrong_type():
            return problem
        if self.job_id is not None and not re.fullmatch(JOB_ID, self.job_id):
            return f"job_id {self.job_id!r}: use letters, digits, - and _"
        for one, other in (("delay", "at"), ("ttl", "expires")):
            if getattr(self, one) is not None and getattr(self, other) is not None:
                return f"{one} and {other} cannot be combined"
        if self.at is not None and not 1 < self.at.year < 9999:
            return f"at {self.at}: out of range; use a year from 2 to 9998"
        if self.ping is not None and not re.fullmatch(PING_URL, self.ping):
            return f"ping {self.ping!r}: use an address that starts with http:// or https://"
        if self.slot is not None and (type(self.slot) is not str or not self.slot):
            return f"slot {self.slot!r}: use a text that names the tick"
        return None if self.meta is None else meta_problem(self.meta)

    def _wrong_type(self) -> str | None:
        """Return which option is not of its type, or None. Durations have been read by now."""
        for name, wanted in _CLASSES.items():
            value = getattr(self, name)
            if value is not None and not isinstance(value, wanted):
                return f"{name}: got {shown(value)}; use {_USE[wanted]}"
        return None

    def place(self) -> str:
        """Return where enqueue.lua puts the job."""
        if self.delay or self.at:
            return f"{'in' if self.delay else 'at'}{' front' if self.front else ''}"
        return "front" if self.front else "back"

    def due(self, now: float) -> float | None:
        """Return the Unix time, by this host's clock, at which the job is due; None for now."""
        if self.delay:
            return round(now + seconds(self.delay), 3)
        return self.at.timestamp() if self.at else None

    def ttl_s(self) -> Duration:
        """Return when a job that waits is discarded (EnqueueRequest.ttl)."""
        if self.expires is None:
            return int(seconds(self.ttl or 0))
        if self.at:  # only Redis knows how long that is from now
            return -seconds(self.expires)
        return ceil(seconds(self.delay or 0) + seconds(self.expires))

    def hold_ms(self) -> int:
        """Return for how many milliseconds a hold lasts."""
        if self.slot is not None:
            return SLOT_MEMORY_S * 1000
        return 0 if self.once_per is None else int(seconds(self.once_per) * HOLD_SHARE * 1000)

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

    def fields(self, name: str, call: Sequence[tuple[str, object]]) -> tuple[str | bytes, ...]:
        """Return the fields that few records have, each followed by its value.

        RQ's are written as RQ does (rq.job.Job.to_dict).
        """
        found: tuple[str | bytes, ...] = ()
        if self.job_id is not None:
            found += ("werk_call", digest((name, call)))
        if self.ping:
            hook = {"job_status": "finished", "method": "GET", "headers": None, "timeout": 10}
            found += ("webhooks", json.dumps([{"url": self.ping, **hook}]))
        return found


# A NamedTuple cannot define it.
Options.__new__ = registry.suggesting(Options.__new__, lambda *_: "Options")  # type: ignore

NO_OPTIONS = Options()


def meta_problem(meta: object) -> str | None:
    """Return what is wrong with the meta of a job, or None."""
    if type(meta) is not dict or not all(type(name) is str for name in meta):
        return (
            f"meta: got a value of type {name_of(type(meta))}; use a dict whose keys are text (str)"
        )
    if problem := plain_problem(meta):
        return f"meta: the value {problem}"
    return None


def misplaced(kwargs: Mapping[str, object], shape: Signature) -> list[str]:
    """Return the arguments of a call that are not parameters of the task, but options."""
    takes = {own.name for own in shape.parameters}
    return [name for name in kwargs if name in HINTS and name not in takes]


# The options that callers choose, and what each declares.
HINTS: Mapping[str, Any] = {
    name: hint for name, hint in Options.__annotations__.items() if hasattr(hint, "__metadata__")
}
