"""The health of cron, judged by what each `werk cron` has published (cron_record.py).

cron_health.lua reads; judge() is a pure function of what was read and the time.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

from werk.errors import ArgumentError
from werk.ops.cron_record import CRONS, LONGEST, MOST_JOBS, MOST_LINES, RUNNING, STOPPED
from werk.ops.numbers import age, ago
from werk.printable import printable
from werk.store import keys
from werk.store.connection import Link
from werk.store.notes import ONCE_CALLS
from werk.store.scripts import script

SILENT_S = 180.0  # how long a restart may take, and how late a tick may be
FAILING = 2  # this many jobs in a row
OVERDUE = 3.1  # periods without a call; a little more than 3, because calls may be early or late
REGULAR = 3  # this many calls over more than a period; fewer may have an argument that changes
MOST_IN_ALL = 6000  # jobs whose status is read
LONGEST_TEXT = 100  # characters of a time and of a zone
OK, SILENT, LATE, FAILING_STATE = "ok", "silent", "late", "failing"
STATES = (OK, LATE, FAILING_STATE, STOPPED, SILENT)  # of a line
ENDED = ("finished", "failed", "stopped", "canceled", "expired")
_OUTCOMES = {"": "expired", "started": "running"}  # by RQ's status; others are unchanged
_PRELUDE = f"local MOST_JOBS, MOST_IN_ALL = {MOST_JOBS}, {MOST_IN_ALL}"


class Line(NamedTuple):
    """A line as one `werk cron` has published it."""

    number: int
    when: str
    zone: str
    call: str  # with secrets masked
    task: str
    done: float  # up to when its ticks are enqueued, by Redis's clock
    error: str  # why its last tick was not enqueued


class Record(NamedTuple):
    """What one `werk cron` has published. Times are Redis's."""

    host: str
    path: str  # of its crontab
    state: str  # RUNNING or STOPPED
    beat: float
    since: float  # its first beat
    lines: Sequence[Line]


class CronProcess(NamedTuple):
    """A `werk cron`, as an operator sees it."""

    host: str
    path: str
    state: str  # running, stopped or silent
    beat_s: float  # since its last beat
    lines: int


class LineHealth(NamedTuple):
    """A line, however many hosts run it."""

    when: str
    zone: str
    call: str
    task: str
    hosts: Sequence[str]
    path: str  # of the crontab whose `werk cron` sent the last heartbeat
    host: str  # of the same `werk cron`
    state: str  # ok, silent, stopped, late or failing
    silent_s: float  # since the last beat of any cron that runs it
    why: str  # why it is late
    last: float | None  # the last tick that was enqueued
    job: str  # the id of its job
    outcome: str  # of this job: queued, running, finished, failed, expired, ...
    failed: str  # the id of its last job that failed, if it is failing
    next: float | None = None  # the next tick; only read() looks for it


class OnceCall(NamedTuple):
    """A call with --once-per that a crontab has made."""

    queue: str
    call: str
    period_s: float
    last: float
    last_s: float  # since the last call
    host: str
    is_overdue: bool  # old, although a crontab used to make it

    @property
    def is_old(self) -> bool:
        return self.last_s > OVERDUE * self.period_s


class CronHealth(NamedTuple):
    """What one reading found."""

    time: float  # Redis's
    processes: Sequence[CronProcess]
    lines: Sequence[LineHealth]
    calls: Sequence[OnceCall]
    damaged: Sequence[str]  # keys and fields that cannot be read


Jobs = Mapping[str, Sequence[Sequence[str]]]  # by stamp of a line: tick, id, status; in any order


def read(link: Link) -> CronHealth:
    """Return the health of cron, with the next tick of each line, in one round trip.

    Raises RedisUnavailable, ConfigError.
    """
    health = judged(link.calls([command()])[0])
    lines = [line._replace(next=_first(line, health.time)) for line in health.lines]
    return health._replace(lines=lines)


def command() -> tuple[str, str, int]:
    """Return the command whose reply judged() takes."""
    return "EVAL", script("cron_health", prelude=_PRELUDE).text, 0


def judged(reply: bytes | str) -> CronHealth:
    """Return the health of cron, from what cron_health.lua has read."""
    seen = json.loads(keys.text(reply))
    now, damaged, records, calls = seen["time"], [*seen["damaged"]], [], []
    for field, text in seen["crons"]:
        try:
            records.append(_record(field, text))
        except (ValueError, TypeError, KeyError, RecursionError):
            damaged.append(f"{CRONS} {field}")
    for field, text in seen["calls"]:
        try:
            calls.append(_call(field, text, now))
        except (ValueError, TypeError, KeyError, RecursionError):
            damaged.append(f"{ONCE_CALLS} {field}")
    health = judge(now, records, dict(seen["jobs"]))
    return health._replace(calls=sorted(calls), damaged=damaged)


def judge(now: float, records: Sequence[Record], jobs: Jobs) -> CronHealth:
    """Return the state of each process and of each line at `now`, on Redis's clock."""
    records = sorted(records)
    processes = [_process(now, record) for record in records]
    lines: dict[tuple[str, str, str], list[tuple[Record, Line]]] = {}
    for record in records:
        if not _is_replaced(now, record, records):
            for line in record.lines:
                lines.setdefault((line.when, line.zone, line.call), []).append((record, line))
    found = [_line_health(now, seen, jobs) for seen in lines.values()]
    return CronHealth(now, processes, found, (), ())


def _process(now: float, own: Record) -> CronProcess:
    state = SILENT if own.state == RUNNING and not _is_alive(now, own) else own.state
    return CronProcess(own.host, own.path, state, ago(own.beat, now), len(own.lines))


def _is_alive(now: float, record: Record) -> bool:
    return record.state == RUNNING and ago(record.beat, now) <= SILENT_S


def _is_replaced(now: float, own: Record, records: Sequence[Record]) -> bool:
    """Return whether a `werk cron` was stopped and another has taken over, maybe with other lines.

    The other process started at about that time, from another folder or in another container, and
    shares a line with the stopped one.
    """
    if own.state != STOPPED:
        return False
    stamps = {(line.when, line.call) for line in own.lines}
    return any(
        _is_alive(now, other)
        and other.since > own.beat - SILENT_S
        and any((line.when, line.call) in stamps for line in other.lines)
        for other in records
    )


def _line_health(now: float, seen: Sequence[tuple[Record, Line]], jobs: Jobs) -> LineHealth:
    heard, line = max(seen, key=lambda pair: pair[0].beat)
    name, old = keys.cron_names(line.when, line.zone, line.call)
    last = sorted(map(tuple, jobs.get(name) or jobs.get(old, ())), reverse=True)
    ended = [job for job in last if _outcome(job) in ENDED][:FAILING]
    is_failing = [*map(_outcome, ended)] == ["failed"] * FAILING
    silent_s = ago(heard.beat, now)
    alive = [own for record, own in seen if _is_alive(now, record)]
    state, why = OK, ""
    if alive:
        why = _why_late(now, alive)
        state = LATE if why else FAILING_STATE if is_failing else OK
    elif silent_s > SILENT_S:
        state = STOPPED if all(record.state == STOPPED for record, _ in seen) else SILENT
    return LineHealth(
        *(line.when, line.zone, line.call, line.task),
        hosts=sorted({record.host for record, _ in seen}),
        path=heard.path,
        host=heard.host,
        state=state,
        silent_s=silent_s,
        why=why,
        last=keys.moment(last[0][0], 0.0) if last else None,
        job=last[0][1] if last else "",
        outcome=_outcome(last[0]) if last else "",
        failed=ended[0][1] if is_failing else "",
    )


def _outcome(job: Sequence[str]) -> str:
    return _OUTCOMES.get(job[2], job[2])


def _why_late(now: float, alive: Sequence[Line]) -> str:
    """Return why a line that these processes run is late; '' if it is on time.

    A line is late if a tick has been due for SILENT_S, or if its last tick was given up. It counts
    as late as well if its ticks seem to be enqueued up to a time far ahead: a `werk cron` of an
    older version went by its host's clock, and enqueues nothing until then.
    """
    line = max(alive, key=lambda own: (own.done <= now + SILENT_S, own.done))
    if line.done > now + SILENT_S:
        return f"its clock was ahead: no job for {age(line.done - now)} unless it is restarted"
    has_failed = all(own.error for own in alive)
    if line.done >= now - SILENT_S and not has_failed:
        return ""
    due = _first(line, line.done)
    if due is None or now - SILENT_S < due <= now or (due > now and not has_failed):
        return ""
    return line.error or "its tick is due, and was not enqueued"


def _first(line: Line | LineHealth, after: float) -> float | None:
    """Return the first tick of a line after a Unix time; None if it is unknown on this host."""
    try:
        from werk.ops.crontab import times  # loads croniter, which may not be installed

        return next(times(line.when, line.zone, after), None)
    except (ArgumentError, ImportError):
        return None


# --- records, which may hold anything


def _record(field: str, text: str) -> Record:
    """Return a record. Raises ValueError, TypeError, KeyError, RecursionError."""
    if len(text) > LONGEST:
        raise ValueError(text[:80])
    facts = json.loads(text)
    host, _, path = field.partition(":")
    if facts["state"] not in (RUNNING, STOPPED) or len(facts["lines"]) > MOST_LINES:
        raise ValueError(field)
    lines = [*map(_line, facts["lines"])]
    return Record(host, path, facts["state"], _time(facts["beat"]), _time(facts["since"]), lines)


def _line(facts: Mapping[str, Any]) -> Line:
    values = {name: facts[name] for name in Line._fields}
    for name in ("when", "zone", "call", "task", "error"):
        if type(values[name]) is not str:
            raise TypeError(name)
        values[name] = printable(values[name])  # as `werk cron` writes it; JSON may hold anything
    if type(values["number"]) is not int:
        raise TypeError("number")
    if max(len(values["when"]), len(values["zone"])) > LONGEST_TEXT:
        raise ValueError(values["when"])
    return Line(**{**values, "done": _time(values["done"])})


def _call(field: str, text: str, now: float) -> OnceCall:
    """Return a call. Raises ValueError, TypeError, KeyError, RecursionError."""
    facts = json.loads(text)
    queue, _, call = field.partition(" ")
    last, period_s, host = _time(facts["last"]), _time(facts["period_s"]), facts["host"]
    count, first = facts["count"], _time(facts.get("first", last))
    if type(host) is not str or type(count) is not int or period_s <= 0:
        raise ValueError(field)
    found = OnceCall(queue, call, period_s, last, ago(last, now), printable(host), False)
    is_regular = count >= REGULAR and last - first > period_s
    return found._replace(is_overdue=is_regular and found.is_old)


def _time(value: object) -> float:
    if type(value) not in (int, float) or not 0 <= value <= 1e11:  # type: ignore[operator]
        raise ValueError(value)
    return float(value)  # type: ignore[arg-type]
