"""Jobs as people see them: `werk show`, the dashboard's lists and pages."""

from __future__ import annotations

import json
import re
from collections.abc import Mapping, Sequence
from math import nan
from typing import Any

from werk.errors import NoSuchJob
from werk.ops import job_record
from werk.ops.job_record import FIELDS, LONGEST, LONGEST_IN_ROW, RETRY, Job, Result, last_line
from werk.ops.numbers import number
from werk.ops.queues import clock
from werk.printable import listed
from werk.store import keys, payload
from werk.store.connection import Link
from werk.store.limits import MOST_RESULTS, UNKNOWN_S

PLACES = {  # as rq-dashboard calls them -> RQ's word in the key
    **{name: name for name in ("scheduled", "deferred", "finished", "failed", "canceled")},
    "queued": "queue",
    "started": "wip",
}
LONGEST_TEXT, LONGEST_TEXT_IN_ROW = 100_000, 4_000  # characters of a traceback
LONGEST_CALL = 500  # characters
LATEST = 2.5e11  # Unix time that can be written as a date

OUTCOMES = {"1": "finished", "2": "failed", "3": "stopped", "4": "retried", "5": "failed"}
ASKED = "the task returned a Retry"

KEPT = ("result_ttl", "failure_ttl")
_TIMES = ("created_at", "enqueued_at", "started_at", "ended_at")
_SECONDS = ("duration", "timeout", "result_ttl", "failure_ttl")


def show(job_id: str, link: Link) -> dict[str, Any]:
    """Return a job, its times, limits and attempts, and how its last execution ended.

    Unknown values are None. Raises NoSuchJob.
    """
    return {"id": job_id, **_read(link, job_id)}


def page(link: Link, job_id: str) -> dict[str, Any]:
    """Return a job in the form that the dashboard's template and rq-dashboard's script need.

    Raises NoSuchJob.
    """
    facts = _read(link, job_id)
    attempts = facts.pop("attempts")
    needed, exception = facts.pop("depends_on") or [], facts.pop("exception")
    found = link.calls([("EXISTS", keys.key("job", own)) for own in needed])
    units = dict.fromkeys(_SECONDS, " s")
    return {
        "id": job_id,
        **{name: facts[name] for name in (*_TIMES, "status")},
        "exc_info": _end(exception, LONGEST_TEXT),
        "attempts": [
            {
                **own,
                "summary": attempt_line(own),
                "exception": _end(own["exception"], LONGEST_TEXT),
            }
            for own in (attempts if was_retried(attempts) else ())
        ],
        "depends_on": needed,
        "depends_on_status": ["active" if there else "expired" for there in found],
        "rows": [
            [_label(name), _cut(as_text(value, indent=2), LONGEST_TEXT) + units.get(name, "")]
            for name, value in facts.items()
            if value is not None
        ],
    }


def sizes(link: Link, queues: Sequence[str]) -> dict[str, dict[str, int]]:
    """Return for each queue how many jobs are in each place."""
    size = {place: "LLEN" if place == "queued" else "ZCARD" for place in PLACES}
    commands = [(size[own], keys.key(PLACES[own], name)) for name in queues for own in PLACES]
    found = iter(link.calls(commands, skips_type=True))
    return {name: {own: next(found) or 0 for own in PLACES} for name in queues}


def rows(
    link: Link, queue: str, place: str, start: int, count: int, *, last_first: bool
) -> tuple[int, list[dict[str, Any]]]:
    """Return how many jobs are in a place, and `count` rows for rq-dashboard's lists."""
    key, first, last = keys.key(PLACES[place], queue), start, start + count - 1
    size, read = ("LLEN", "LRANGE") if place == "queued" else ("ZCARD", "ZRANGE")
    if last_first:
        first, last = -last - 1, -first - 1
    total, entries = link.calls([(size, key), (read, key, first, last)], skips_type=True)
    total, entries = total or 0, entries or []
    if last_first:
        entries.reverse()
    ids = [keys.text(entry).partition(":")[0] for entry in entries]  # of id:execution
    return total, [_row(job) for job in job_record.read(link, ids, LONGEST_IN_ROW)]


def calls(link: Link, ids: Sequence[str]) -> dict[str, str]:
    """Return the calls of jobs, with secrets masked, or why they cannot be shown."""
    found = job_record.read(link, ids, LONGEST_IN_ROW)
    return {job.id: _cut(job.call() or "", LONGEST_CALL) for job in found}


def awaited(link: Link, needed: Sequence[Sequence[str]]) -> list[str]:
    """Return for each job which others it waits for, with their states."""
    asked = [("HGET", keys.key("job", own), "status") for ids in needed for own in ids]
    states = iter(link.calls(asked, skips_type=True))
    found = []
    for ids in needed:
        shown = [f"{own} ({keys.text(next(states)) or 'expired or deleted'})" for own in ids]
        left = [text for text in shown if not text.endswith("(finished)")]
        found.append(f"it waits for {listed(left)}" if left else "it waits for other jobs")
    return found


def as_text(value: object, indent: int | None = None) -> str:
    """Return a value as text: a text unchanged, anything else as JSON, or else its repr."""
    if isinstance(value, str):
        return value
    try:
        try:
            return json.dumps(value, ensure_ascii=False, indent=indent)
        except TypeError:
            return repr(value)
    except ValueError as error:  # an int of thousands of digits
        return f"({error})"


def _read(link: Link, job_id: str) -> dict[str, Any]:
    (job,) = job_record.read(link, [job_id], LONGEST, results=MOST_RESULTS)
    if not job.record:
        raise NoSuchJob(f"no job {job_id}: never enqueued here, or expired")
    scheduled, worker = (
        keys.key(kind, job.text(field) or "")
        for kind, field in (("scheduled", "origin"), ("worker", "worker_name"))
    )
    asked = [("ZSCORE", scheduled, job_id), ("HGET", worker, "werk_clock")]
    due, clock_s = link.calls(asked, skips_type=True)
    now = clock(link) + number(keys.text(clock_s))  # by the clock of its worker, if that is known
    facts = _facts(job, None if due is None else float(due), now)
    if facts["status"] == "deferred":  # by RQ: it depends on other jobs
        facts["deferred"] = awaited(link, [facts["depends_on"] or []])[0]
    return facts


def _row(job: Job) -> dict[str, Any]:
    has_failed = job.text("status") in ("failed", "stopped")  # else an earlier execution failed
    exception = job.exception() if has_failed else None
    return {
        "id": job.id,
        "description": _cut(job.call() or "", LONGEST_CALL),
        "exc_info": _end(exception, LONGEST_TEXT_IN_ROW),
        **{name: job.text(name) for name in _TIMES},
    }


def _facts(job: Job, due: float | None, now: float) -> dict[str, Any]:
    text = {name: job.text(name) for name in FIELDS if name not in ("data", "meta")}
    meta = job.plain("meta", payload.loads)
    called = job.called()
    attempts = _attempts(job)
    when = None if due is None else keys.iso(max(0.0, min(due, LATEST)))
    if text["status"] == "stopped" and job.latest.ended():  # RQ writes the end only of the result
        text["ended_at"] = _end_of(job.latest)
    waits, is_retry = text["status"] == "scheduled", bool(text["started_at"])
    has_ended = text["status"] in ("finished", "failed", "stopped")
    # How long it is kept, which depends on how it ends.
    kept = "failure_ttl" if text["status"] in ("failed", "stopped") else "result_ttl"
    # An execution that failed has ended since; one that was deferred has not.
    is_deferred = waits and (text["started_at"] or "") > (text["ended_at"] or "")
    since = number(text["werk_unknown_since"]) if is_deferred else 0.0
    return {
        "task": text["werk_task"],
        "call": job.call(),
        "payload": called if isinstance(called, str) else None,
        "status": text["status"],
        "queue": text["origin"],
        **{name: text[name] for name in _TIMES},
        "due": when if waits and not is_retry else None,
        "duration": _duration(text, now),
        "worker": text["worker_name"],
        "attempt": _whole(text[keys.ATTEMPT]) or None,  # a deferral is not an attempt
        # Once the job has ended, `exception` has the error of the last attempt.
        "last_error": attempts[-1]["error"] if attempts and not has_ended else None,
        "next_try": when if waits and is_retry else None,
        "deferred": text["werk_deferred"] if since else None,
        "fails_at": keys.iso(max(0.0, min(since + UNKNOWN_S, LATEST))) if since else None,
        **{name: _whole(text[name]) for name in ("retries_left", "timeout")},
        **{name: _whole(text[name]) if name == kept else None for name in KEPT},
        "attempts": attempts,
        "exception": job.exception(),
        "result": job.result(),
        "meta": meta or None,
        "depends_on": job.depends_on() or None,
    }


def _attempts(job: Job) -> list[dict[str, Any]]:
    """Return the executions that RQ's results of a job know, the first one first."""
    attempts = [_attempt(own) for own in reversed(job.results) if own.ended()]
    if attempts and job.text("status") in ("finished", "failed", "stopped"):
        attempts[-1]["attempt"] = attempts[-1]["attempt"] or _whole(job.text(keys.ATTEMPT))
    return attempts


def _end_of(result: Result) -> str:
    return keys.iso(min(result.ended() + 5e-7, LATEST))  # iso() cuts, and does not round


def _attempt(result: Result) -> dict[str, Any]:
    began, ended = (number(result.text(f"execution_{name}_at")) for name in ("started", "ended"))
    exception = result.exception()
    error = last_line(exception) or (ASKED if result.type in RETRY else None)
    return {
        "attempt": _whole(result.text(keys.ATTEMPT)),
        "outcome": OUTCOMES.get(result.type),
        "ended_at": _end_of(result),
        "duration": round(ended - began, 3) if 0 < began <= ended else None,
        "worker": result.text("worker_name"),
        "error": error,
        "exception": exception,
    }


def was_retried(attempts: Sequence[Mapping[str, Any]]) -> bool:
    """Return whether the attempts show more than how the job ended."""
    return len(attempts) > 1 or any(own["outcome"] == "retried" for own in attempts)


def attempt_line(attempt: Mapping[str, Any]) -> str:
    """Return an attempt on one line."""
    took, worker, error = attempt["duration"], attempt["worker"], attempt["error"]
    return "".join(
        (
            f"{attempt['attempt'] or '-'}  {attempt['ended_at']}  {attempt['outcome'] or '-'}",
            "" if took is None else f" after {took:g} s",
            f" on {worker}" if worker else "",
            f": {error}" if error else "",
        )
    )


def _duration(text: Mapping[str, str | None], now: float) -> float | None:
    """Return how many seconds a job ran, until now if it is running; None if a time is unknown."""
    started = keys.moment(text["started_at"], nan)
    ended = max(started, now) if text["status"] == "started" else keys.moment(text["ended_at"], nan)
    return round(ended - started, 3) if ended >= started else None


def _label(name: str) -> str:
    return "Kept" if name in KEPT else name.removesuffix("_at").replace("_", " ").capitalize()


def _whole(text: str | None) -> int | None:
    return int(text) if text and re.fullmatch(r"-?\d{1,18}", text) else None


def _cut(text: str, longest: int) -> str:
    return text if len(text) <= longest else f"{text[:longest]}..."


def _end(text: str | None, longest: int) -> str | None:
    return text if text is None or len(text) <= longest else f"...{text[-longest:]}"
