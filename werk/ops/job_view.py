"""Jobs as people see them: `werk show`, the dashboard's lists and pages.

One script reads their records, which no record can make fail or slow: what is too long is left
out. Nothing of what is read is run.
"""

from __future__ import annotations

import json
import re
import time
from collections.abc import Callable, Mapping, Sequence
from decimal import Decimal
from math import nan
from typing import Any, NamedTuple

from werk.errors import NoSuchJob, TooLarge, Unreadable
from werk.store import keys, payload
from werk.store.connection import Link
from werk.store.scripts import Script

PLACES = {  # as rq-dashboard calls them -> RQ's word in the key
    **{name: name for name in ("scheduled", "deferred", "finished", "failed", "canceled")},
    "queued": "queue",
    "started": "wip",
}
# Bytes of a value that is shown. To read more may take long, even if it is plain data: a set of
# numbers that have the same hash takes the square of their number.
LONGEST = 64 * 1024
LONGEST_IN_ROW = 8 * 1024
PARTS = 2  # a byte: without shared values, so many parts can be in a pickle
CHARACTERS = 16  # a byte: so many of text can be in a value that refers to the same text again
LONGEST_TRACEBACK = 1024 * 1024  # decompressed; of it is shown:
LONGEST_TEXT, LONGEST_TEXT_IN_ROW = 100_000, 4_000  # characters
LONGEST_CALL = 500
LATEST = 2.5e11  # Unix time that can be written as a date

_FIELDS = """
    description data werk_task status origin created_at enqueued_at started_at ended_at worker_name
    timeout result_ttl retries_left werk_attempt meta dependency_ids werk_not_kept
""".split()
_TIMES = ("created_at", "enqueued_at", "started_at", "ended_at")
_SECONDS = ("duration", "timeout", "result_ttl")


def show(job_id: str, link: Link) -> dict[str, Any]:
    """Return a job, its times, its limits, its tries and how its last execution ended.

    What is not known is None. Raises NoSuchJob.
    """
    return {"id": job_id, **_read(link, job_id)}


def page(link: Link, job_id: str) -> dict[str, Any]:
    """Return a job as the dashboard's template and rq-dashboard's script take it.

    Raises NoSuchJob.
    """
    facts = _read(link, job_id)
    needed, exception = facts.pop("depends_on") or [], facts.pop("exception")
    found = link.calls([("EXISTS", keys.key("job", own)) for own in needed])
    units = dict.fromkeys(_SECONDS, " s")
    return {
        "id": job_id,
        **{name: facts[name] for name in (*_TIMES, "status")},
        "exc_info": _end(exception, LONGEST_TEXT),
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
    asked = [(size[own], keys.key(PLACES[own], name)) for name in queues for own in PLACES]
    found = iter(link.calls(asked, skips_type=True))
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
    ids = [keys.text(entry).partition(":")[0] for entry in entries]  # an execution's comes after it
    return total, [job.row() for job in jobs(link, ids, LONGEST_IN_ROW)]


def calls(link: Link, ids: Sequence[str]) -> dict[str, str]:
    """Return the calls of jobs, with secrets masked, or why they cannot be shown."""
    found = jobs(link, ids, LONGEST_IN_ROW)
    return {job.id: _cut(job.call() or "", LONGEST_CALL) for job in found}


def jobs(
    link: Link, ids: Sequence[str], longest: int, fields: Sequence[str] = _FIELDS
) -> list[Job]:
    """Return these fields of jobs, and the latest result; what is longer is left out."""
    hashes = [keys.key(kind, own) for kind in ("job", "results") for own in ids]
    replies = link.run(Script.named("show"), hashes, [longest, *fields])
    names = (*fields, "exc_string", "return_value", "entry")
    return [
        Job(own, {name: value for name, value in zip(names, reply, strict=True) if value}, longest)
        for own, reply in zip(ids, replies, strict=True)
    ]


def as_text(value: object, indent: int | None = None) -> str:
    """Return a value as people want it: text as it is, else JSON, else repr."""
    if isinstance(value, str):
        return value
    try:
        try:
            return json.dumps(value, ensure_ascii=False, indent=indent)
        except TypeError:
            return repr(value)
    except ValueError as error:  # an int of thousands of digits
        return f"({error})"


def _is_long(value: object, most: int) -> bool:
    """Tell whether plain data has more than `most` characters, or parts."""
    left = [value]
    while left:
        part = left.pop()
        kind = type(part)
        most -= 1
        if kind is dict:
            left += part.keys()  # type: ignore[attr-defined]
            left += part.values()  # type: ignore[attr-defined]
        elif kind in (list, tuple, set, frozenset):
            left += part  # type: ignore[arg-type]
        elif kind is str or kind is bytes:
            most -= len(part)  # type: ignore[arg-type]
        elif kind is int:
            most -= part.bit_length() // 4  # type: ignore[attr-defined]
        elif kind is Decimal:
            most -= len(str(part))
        if most < 0:
            return True
    return False


def _read(link: Link, job_id: str) -> dict[str, Any]:
    (job,) = jobs(link, [job_id], LONGEST)
    if not job.record:
        raise NoSuchJob(f"no job {job_id}: never enqueued here, or expired")
    asked = ("ZSCORE", keys.key("scheduled", job.text("origin") or ""), job_id)
    [due] = link.calls([asked], skips_type=True)
    return job.facts(None if due is None else float(due))


class Job(NamedTuple):
    """A job's record; an empty one: there is none. A number is the length of what is too long."""

    id: str
    record: Mapping[str, bytes | int]
    longest: int

    def text(self, name: str) -> str | None:
        return self.read(name, keys.text) or None

    def read(self, name: str, read: Callable[[bytes], Any]) -> Any:
        """Return a field, or why it cannot be shown."""
        value = self.record.get(name)
        if isinstance(value, int):
            return f"({value:,} bytes, too long to show)"
        try:
            return None if value is None else read(value)
        except TooLarge as error:
            return f"({error}, too long to show)"
        except Unreadable as error:
            return f"(unreadable: {error})"

    def plain(self, name: str, read: Callable[[bytes, int], Any]) -> Any:
        """Return the plain data in a field, which `read` reads, or why it cannot be shown."""
        value = self.read(name, lambda own: read(own, PARTS * self.longest))
        most = CHARACTERS * self.longest
        return (
            f"(more than {most:,} characters, too long to show)" if _is_long(value, most) else value
        )

    def call(self) -> str | None:
        """Return the call; its secrets were masked when werk enqueued it, else they are here."""
        if not self.record:
            return "(no record of it: deleted or expired)"
        if "werk_task" in self.record:
            return self.text("description")
        called = self.payload()
        return _masked(called) if isinstance(called, tuple) else called

    def payload(self) -> Any:
        """Return path, args and kwargs, or why they cannot be shown."""
        return self.plain("data", lambda own, parts: payload.read_call(own, self.longest, parts))

    def exception(self) -> str | None:
        """Return the traceback of the latest execution, if that failed."""
        if self.text("status") == "finished":
            return None
        most = max(self.longest, LONGEST_TRACEBACK)
        text: str | None = self.read(
            "exc_string", lambda own: payload.read_exception({b"exc_string": own}, most).rstrip()
        )
        return text or None

    def result(self) -> Any:
        """Return what the latest execution returned, or why that was not kept."""
        value = self.plain(
            "return_value", lambda own, parts: payload.read_result({b"return_value": own}, parts)
        )
        if value != payload.UNSERIALIZABLE:
            return value
        return f"(not kept: {payload.read_not_kept(self.text('werk_not_kept'))})"

    def ended(self) -> float:
        """Return when its latest execution ended, by Redis's clock if that is known."""
        entry = (self.text("entry") or "0").partition("-")[0]
        return int(entry) / 1000 or keys.moment(self.text("ended_at"), 0.0)

    def row(self) -> dict[str, Any]:
        has_failed = self.text("status") in ("failed", "stopped")  # else it was an earlier run
        exception = self.exception() if has_failed else None
        return {
            "id": self.id,
            "description": _cut(self.call() or "", LONGEST_CALL),
            "exc_info": _end(exception, LONGEST_TEXT_IN_ROW),
            **{name: self.text(name) for name in _TIMES},
        }

    def facts(self, due: float | None) -> dict[str, Any]:
        text = {name: self.text(name) for name in _FIELDS if name not in ("data", "meta")}
        meta = self.plain("meta", payload.loads)
        unread = self.payload()
        noted = meta.get("werk") if type(meta) is dict else None
        noted = noted if type(noted) is dict else {}  # by our worker, of what is tried again
        when = noted.get("next_try") if due is None else keys.iso(max(0.0, min(due, LATEST)))
        waits, is_retry = text["status"] == "scheduled", bool(text["started_at"] or noted)
        return {
            "task": text["werk_task"],
            "call": self.call(),
            "payload": unread if isinstance(unread, str) else None,
            "status": text["status"],
            "queue": text["origin"],
            **{name: text[name] for name in _TIMES},
            "due": when if waits and not is_retry else None,
            "duration": _duration(text),
            "worker": text["worker_name"],
            "attempt": _whole(text["werk_attempt"]) or noted.get("attempt"),
            "last_error": noted.get("error"),
            "next_try": when if waits and is_retry else None,
            **{name: _whole(text[name]) for name in ("retries_left", "timeout", "result_ttl")},
            "exception": self.exception(),
            "result": self.result(),
            "meta": meta or None,
            "depends_on": self.depends_on() or None,
        }

    def depends_on(self) -> list[str]:
        found = self.plain("dependency_ids", payload.loads)
        ids = found if isinstance(found, list) else []
        return [keys.text(own.encode("utf-8", "replace")) for own in ids if type(own) is str]


def _masked(called: tuple[str, tuple[Any, ...], dict[str, Any]]) -> str:
    from werk import registry
    from werk.tasks import signature  # no other list of jobs needs them
    from werk.tasks.arguments import Signature

    path, args, kwargs = called
    secret = {
        name for task in registry.tasks().values() if task.path == path for name in task.secret
    }
    shape = signature.read(path) if secret else Signature()  # its source is found by its path
    return f"{path}({shape.call(args, kwargs, secret)})"


def _duration(text: Mapping[str, str | None]) -> float | None:
    """Return how many seconds it ran, until now if it still does; None if a time is not known."""
    started = keys.moment(text["started_at"], nan)
    ended = time.time() if text["status"] == "started" else keys.moment(text["ended_at"], nan)
    return round(ended - started, 3) if ended >= started else None


def _label(name: str) -> str:
    return (
        "Kept" if name == "result_ttl" else name.removesuffix("_at").replace("_", " ").capitalize()
    )


def _whole(text: str | None) -> int | None:
    return int(text) if text and re.fullmatch(r"-?\d{1,18}", text) else None


def _cut(text: str, longest: int) -> str:
    return text if len(text) <= longest else f"{text[:longest]}..."


def _end(text: str | None, longest: int) -> str | None:
    return text if text is None or len(text) <= longest else f"...{text[-longest:]}"
