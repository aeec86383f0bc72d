"""Jobs and workers as the dashboard shows them. Nothing of what is read is run.

All records are read by one script, which no record can make fail or slow: what is long is left out.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping, Sequence
from datetime import datetime, timezone
from typing import Any, NamedTuple

from werk import show, wire
from werk.errors import NoSuchJob, Unreadable
from werk.link import Link, Script

REGISTRIES = {  # as rq-dashboard calls them -> RQ's word in the key
    **{name: name for name in ("scheduled", "deferred", "finished", "failed", "canceled")},
    "queued": "queue",
    "started": "wip",
}
LONGEST = 64 * 1024  # bytes of a value on a job's page; more takes too long to read
LONGEST_IN_ROW = 8 * 1024
LONGEST_TRACEBACK = 1024 * 1024  # decompressed; of it is shown:
LONGEST_TEXT, LONGEST_TEXT_IN_ROW = 100_000, 4_000  # characters
LONGEST_CALL = 500

LEASE_S = 15.0  # of a werk worker; for so long a new one may be without
RQ_GRACE_S = 60  # RQ has a worker's record outlive its next beat by this (Worker.heartbeat)
RQ_TTL_S = 480  # of a record that RQ forgot to give one: its default

_JOB = """
    description data werk_task status origin created_at enqueued_at started_at ended_at worker_name
    timeout retries_left number_of_retries werk_attempt meta dependency_ids dependency_id
""".split()
_WORKER = """
    hostname pid state birth last_heartbeat queues successful_job_count
    failed_job_count total_working_time version python_version werk_lease werk_horse
""".split()
_NOTED = ("attempt", "error", "next_try")
_TIMES = ("created_at", "enqueued_at", "started_at", "ended_at")

Record = Mapping[str, bytes | int]  # a number is the length of what is too long


def key(registry: str, queue: str) -> str:
    """Return the key of what rq-dashboard calls a registry."""
    return wire.key(REGISTRIES[registry], queue)


def queues(link: Link) -> list[str]:
    """Return the names of all queues."""
    start = wire.key("queue", "")
    keys = map(_decode, link.call("SMEMBERS", wire.key("queues")))
    return sorted(key.removeprefix(start) for key in keys if key.startswith(start))


def counts(link: Link, names: Sequence[str]) -> list[dict[str, int]]:
    """Return for each queue how many jobs are in each registry."""
    if not names:
        return []
    size = {name: "LLEN" if name == "queued" else "ZCARD" for name in REGISTRIES}
    found = iter(link.calls([(size[own], key(own, name)) for name in names for own in size]))
    return [{own: next(found) for own in size} for _ in names]


def rows(
    link: Link, queue: str, registry: str, start: int, count: int, *, last_first: bool
) -> tuple[int, list[dict[str, Any]]]:
    """Return how many jobs are in a registry, and `count` rows for rq-dashboard's lists."""
    where, stop = key(registry, queue), start + count - 1
    if registry == "queued":
        first, last = (-stop - 1, -start - 1) if last_first else (start, stop)
        total, entries = link.calls([("LLEN", where), ("LRANGE", where, first, last)])
        entries = entries[::-1] if last_first else entries
    else:
        reverse = ("REV",) * last_first
        total, entries = link.calls([("ZCARD", where), ("ZRANGE", where, start, stop, *reverse)])
    jobs = _jobs(link, list(map(_job_id, entries)), LONGEST_IN_ROW)
    return total, [job.row() for job in jobs]


def check(link: Link, job_id: str) -> None:
    """Raise NoSuchJob if there is no job of this id."""
    if not link.call("EXISTS", wire.key("job", job_id)):
        raise NoSuchJob(f"no job {job_id}: never enqueued here, or expired")


def page(link: Link, job_id: str) -> dict[str, Any]:
    """Return what rq-dashboard's script and our template show of a job. Raises NoSuchJob."""
    (job,) = _jobs(link, [job_id], LONGEST)
    if not job.record:
        check(link, job_id)
    needed = job.depends_on()
    clock, due, *found = link.calls(
        [
            ("TIME",),
            ("ZSCORE", wire.key("scheduled", job.text("origin")), job_id),
            *(("EXISTS", wire.key("job", own)) for own in needed),
        ]
    )
    return {
        **job.page(float(clock[0]), None if due is None else float(due)),
        "depends_on": needed,
        "depends_on_status": ["active" if there else "expired" for there in found],
    }


def workers(link: Link) -> list[dict[str, Any]]:
    """Return the workers as rq-dashboard's script and our template take them."""
    members, leases, (clock, _) = link.calls(
        [
            ("SMEMBERS", wire.key("workers")),
            ("ZRANGE", wire.key("werk", "leases"), 0, -1, "WITHSCORES"),
            ("TIME",),
        ]
    )
    if not members:
        return []
    keys = sorted(map(_decode, members))
    records = _records(link, keys, LONGEST_IN_ROW, _WORKER)
    ttls = link.calls([("TTL", key) for key in keys])
    runs = link.calls([("SRANDMEMBER", f"{key}:executions") for key in keys])
    ends = {_decode(name): float(end) for name, end in wire.pairs(leases).items()}
    found = []
    for key, record, ttl, run in zip(keys, records, ttls, runs, strict=True):
        name = key.removeprefix(wire.key("worker", ""))
        worker = _worker(name, record, ends.get(name), ttl, int(clock))
        if run:
            (job,) = _jobs(link, [_job_id(run)], LONGEST_IN_ROW)
            worker["current_job"] = {"job_id": job.id, "call_string": job.call()}
        found.append(worker)
    return found


class _Job(NamedTuple):
    """A job's record; an empty one: there is none."""

    id: str
    record: Record

    def text(self, name: str) -> str:
        return _shown(self.record.get(name), _decode)

    def call(self, longest: int = LONGEST_IN_ROW) -> str:
        """Return the call, with secrets masked, or why it cannot be shown."""
        if not self.record:
            return "(no record of it: deleted or expired)"
        if "werk_task" in self.record:
            return _cut(self.text("description"), LONGEST_CALL)  # as show.call()
        payload = self.record.get("data")
        call = _shown(
            payload, lambda own: show.call({b"data": wire.decompress(own, longest)}) or ""
        )
        return _cut(call, LONGEST_CALL)

    def exception(self, longest: int) -> str | None:
        """Return the end of the latest execution's traceback, if that failed."""
        value = self.record.get("exc_string") if self.text("status") != "finished" else None
        text = _shown(
            value, lambda own: wire.read_exception({b"exc_string": own}, LONGEST_TRACEBACK)
        )
        return (text if len(text) <= longest else f"...{text[-longest:]}") or None

    def depends_on(self) -> list[str]:
        try:
            found = json.loads(self.text("dependency_ids"))
        except ValueError:
            found = [self.text("dependency_id")]
        ids = found if isinstance(found, list) else []
        return [_decode(str(own).encode("utf-8", "replace")) for own in ids if own]

    def row(self) -> dict[str, Any]:
        times = {name: self.text(name) or None for name in _TIMES}
        has_failed = self.text("status") in ("failed", "stopped")  # else it was an earlier run
        exception = self.exception(LONGEST_TEXT_IN_ROW) if has_failed else None
        return {"id": self.id, "description": self.call(), "exc_info": exception, **times}

    def page(self, now: float, due: float | None) -> dict[str, Any]:
        text = {name: self.text(name) for name in _JOB}
        meta, noted = self._meta()
        value = self.record.get("return_value")
        result = _shown(value, lambda own: _pretty(wire.read_result({b"return_value": own})))
        facts = {
            "Call": self.call(LONGEST),
            "Payload": self._payload_problem(),
            "Status": text["status"],
            "Queue": text["origin"],
            **{name.removesuffix("_at").title(): text[name] for name in _TIMES},
            "Duration": _duration(text, now),
            "Worker": text["worker_name"],
            **_attempts(text, noted, due),
            "Time limit": f"{text['timeout']} s" if text["timeout"] else "",
            "Result": result,
            "Meta": meta,
        }
        return {
            "id": self.id,
            **{name: text[name] or None for name in (*_TIMES, "origin", "status")},
            "description": facts["Call"],
            "exc_info": self.exception(LONGEST_TEXT),
            "result": result,
            "metadata": meta,
            "rows": [[name, shown] for name, shown in facts.items() if shown],
        }

    def _payload_problem(self) -> str:
        def read(own: bytes) -> str:
            wire.read_call(wire.decompress(own, LONGEST))
            return ""

        return _shown(self.record.get("data"), read)

    def _meta(self) -> tuple[str, Mapping[str, Any]]:
        """Return meta as text, and what our worker has noted there of a job that is tried again."""
        noted: dict[str, Any] = {}

        def read(own: bytes) -> str:
            meta = wire.loads(own)
            if type(meta) is dict and type(meta.get("werk")) is dict:
                noted.update(meta["werk"])
            return _pretty(meta)

        return _shown(self.record.get("meta"), read), noted


def _duration(text: Mapping[str, str], now: float) -> str:
    started, ended = _moment(text["started_at"]), _moment(text["ended_at"])
    if text["status"] == "started":
        ended = now
    return f"{ended - started:.3f} s" if started and ended and ended >= started else ""


def _attempts(
    text: Mapping[str, str], noted: Mapping[str, Any], due: float | None
) -> dict[str, str]:
    """Return what is known of earlier and later tries; a stock worker notes hardly anything."""
    facts = {name: _cut(str(noted.get(name) or ""), LONGEST_CALL) for name in _NOTED}
    next_try = facts["next_try"] if due is None else _iso(due)
    return {
        "Attempt": text["werk_attempt"] or facts["attempt"],
        "Last error": facts["error"],
        "Next try" if text["started_at"] or noted else "Due": next_try
        if text["status"] == "scheduled"
        else "",
        "Retries left": text["retries_left"],
    }


def _worker(name: str, record: Record, lease: float | None, ttl: int, now: int) -> dict[str, Any]:
    text = {own: _shown(record.get(own), _decode) for own in _WORKER}
    birth, beat = _moment(text["birth"]) or 0.0, _moment(text["last_heartbeat"])
    if lease is not None:  # by Redis's clock, whatever the worker's says
        beat = lease - (_number(text["werk_lease"]) or LEASE_S)
        is_stale = lease < now
    elif text["werk_lease"] or text["werk_horse"]:
        is_stale = now - birth > LEASE_S
    else:
        is_stale = ttl < RQ_GRACE_S if ttl != -1 else now - (beat or 0) > RQ_TTL_S
    return {
        "name": name,
        **{own: text[own] for own in _WORKER},
        "queues": text["queues"].split(","),
        "successful_job_count": text["successful_job_count"] or "0",
        "failed_job_count": text["failed_job_count"] or "0",
        "status": "stale" if is_stale else text["state"] or "starting",
        "stale": is_stale,
        "beat": f"{max(0, now - beat):.0f} s ago" if beat else "never",
        "current_job": "idle",
    }


def _jobs(link: Link, ids: Sequence[str], longest: int) -> list[_Job]:
    keys = [*(wire.key("job", own) for own in ids), *(wire.key("results", own) for own in ids)]
    records = _records(link, keys, longest, _JOB, len(ids))
    return [_Job(own, record) for own, record in zip(ids, records, strict=True)]


def _records(
    link: Link, keys: Sequence[str], longest: int, names: Sequence[str], count: int | None = None
) -> list[Record]:
    """Return the records at the keys: hashes, then as many streams of results, or none."""
    count = len(keys) if count is None else count
    replies = link.run(Script.named("shown"), keys, [count, longest, *names]) if count else []
    names = [*names, "exc_string", "return_value"]
    return [
        {name: value for name, value in zip(names, reply, strict=True) if value is not None}
        for reply in replies
    ]


def _shown(value: bytes | int | None, read: Callable[[bytes], str]) -> str:
    """Return a value as text, or why it cannot be shown."""
    if isinstance(value, int):
        return f"({value:,} bytes, too long to show)"
    try:
        return "" if value is None else _cut(read(value), LONGEST_TEXT)
    except Unreadable as error:
        return f"(unreadable: {error})"


def _pretty(value: object) -> str:
    """Return a value as people want it: text as it is, else JSON, else repr."""
    if isinstance(value, str):
        return value
    try:
        return json.dumps(value, ensure_ascii=False, indent=2)
    except (TypeError, ValueError):
        return repr(value)


def _cut(text: str, longest: int) -> str:
    return text if len(text) <= longest else f"{text[:longest]}..."


def _job_id(entry: bytes) -> str:
    """Return the id in an entry of a registry; an execution's comes after it where one runs."""
    return _decode(entry).partition(":")[0]


def _decode(data: bytes) -> str:
    return data.decode("utf-8", "replace")


def _moment(text: str) -> float | None:
    try:
        return datetime.fromisoformat(text).timestamp()
    except (ValueError, OverflowError):
        return None


def _iso(moment: float) -> str:
    try:
        return wire.timestamp(datetime.fromtimestamp(moment, timezone.utc))
    except (ValueError, OverflowError, OSError):
        return str(moment)


def _number(text: str) -> float:
    try:
        return float(text)
    except ValueError:
        return 0.0
