"""What is in Redis, in a form in which two runs of the same jobs are equal.

Left out or made alike is only what must differ: beats, the worker's own keys, what is werk's own,
the ids of executions and of stream entries, frames of RQ and werk in tracebacks, and times. A time
becomes seconds after its job's end, or its place in the order of the job's times.
"""

from __future__ import annotations

import base64
import pickle
import re
import zlib
from datetime import datetime
from typing import Any

import redis

Form = dict[str, Any]

TIMES = {"created_at", "enqueued_at", "started_at", "ended_at"}
OF_STREAM = {"execution_id", "execution_started_at", "execution_ended_at"}
KILLED = "Work-horse terminated unexpectedly; waitpid returned "


def snapshot(client: redis.Redis, prefix: str, worker: str) -> Form:
    """Return every key of a database in its normal form, but for the worker's own."""
    taken = Snapshot(client, prefix, worker)
    keys = sorted(key.decode() for key in client.keys("*"))
    return {key.removeprefix(prefix): taken.form(key) for key in keys if not taken.is_own(key)}


DAY_S, MINUTE_S = 86_400.0, 60.0


def differences(ours: Any, plain: Any, tolerance_s: float, where: str = "") -> list[str]:
    """Return a line for each thing that is not equal; numbers with a fraction are seconds.

    Times to live of days may differ by a minute: a busy machine takes the two at other moments.
    """
    if isinstance(ours, dict) and isinstance(plain, dict):
        return [
            line
            for key in sorted({*ours, *plain})
            for line in differences(
                ours.get(key, "(not there)"),
                plain.get(key, "(not there)"),
                tolerance_s,
                f"{where} {key}",
            )
        ]
    if isinstance(ours, float) and isinstance(plain, float):
        is_long = min(ours, plain) > DAY_S
        if abs(ours - plain) <= (MINUTE_S if is_long else tolerance_s):
            return []
    return [] if ours == plain else [f"{where.strip()}: ours {ours!r}, plain {plain!r}"]


class Snapshot:
    def __init__(self, client: redis.Redis, prefix: str, worker: str) -> None:
        self.client, self.prefix, self.worker = client, prefix, worker
        seconds, micros = client.time()
        self.now = seconds + micros / 1e6
        created = (client.hget(f"{prefix}:job:{name}", "created_at") for name in ("plain", "last"))
        self.began = min(moment(text) for text in created if text)

    def is_own(self, key: str) -> bool:
        """Return whether it is the worker's own: its hash, its sets, and all that is werk's."""
        return key.startswith(
            tuple(self.prefix + word for word in (":worker:", ":workers", ":werk:"))
        )

    def form(self, key: str) -> Form:
        kind = self.client.type(key).decode()
        ttl_ms = self.client.pttl(key)
        expires = None if ttl_ms == -1 else self.now + ttl_ms / 1000 - self.end_of(key)
        if kind == "stream" and expires and expires > 364 * DAY_S:
            expires = None  # as attempts, which are kept for a year at most; RQ forgets the limit
        if key == f"{self.prefix}:clean_groups":
            expires = None  # it says when a worker has started
        return {"kind": kind, "expires": expires, "value": getattr(self, kind)(key)}

    def end_of(self, name: str) -> float:
        """Return when the job that this names has ended; or else was made; or the first was."""
        for part in name.removeprefix(self.prefix).split(":"):
            ended, created = self.client.hmget(
                f"{self.prefix}:job:{part}", "ended_at", "created_at"
            )
            if ended or created:
                return moment(ended or created)
        return self.began

    def hash(self, key: str) -> Form:
        fields = {name.decode(): value for name, value in self.client.hgetall(key).items()}
        times = {name: moment(fields[name]) for name in TIMES & fields.keys() if fields[name]}
        found = {
            name: self.value_of(name, value)
            for name, value in fields.items()
            if name not in times and name != "last_heartbeat" and not name.startswith("werk_")
        }
        found = {name: value for name, value in found.items() if value is not None}
        return found | {"times": sorted(times, key=lambda name: (times[name], name))}

    def value_of(self, name: str, value: bytes) -> Any:
        if name == "meta":
            meta = pickle.loads(value)
            meta.pop("werk", None)
            return meta or None
        if name == "webhooks":
            return re.sub(rb"127.0.0.1:\d{2,}/", b"site/", value)
        return value.replace(self.worker.encode(), b"the worker")

    def zset(self, key: str) -> Form:
        scores = self.client.zrange(key, 0, -1, withscores=True)
        found = {}
        for member, score in scores:
            name = member.decode()
            found[name] = score - self.end_of(name) if score != float("inf") else score
        return found

    def stream(self, key: str) -> Form:
        """Return the results of a job, without the attempts that only werk keeps."""
        entries = [entry for _, entry in self.client.xrange(key) if not is_attempt(entry)]
        return {
            str(number): {
                name.decode(): self.entry_value(name.decode(), value)
                for name, value in entry.items()
                if not name.startswith(b"werk_")
            }
            for number, entry in enumerate(entries)
        }

    def entry_value(self, name: str, value: bytes) -> Any:
        if name in OF_STREAM:
            return bool(value)
        if name == "exc_string":
            return reason(zlib.decompress(base64.b64decode(value)).decode())
        return self.value_of(name, value)

    def list(self, key: str) -> Any:
        return self.client.lrange(key, 0, -1)

    def set(self, key: str) -> Any:
        return self.client.smembers(key)

    def string(self, key: str) -> Any:
        return self.client.get(key)


def is_attempt(entry: dict[bytes, bytes]) -> bool:
    """Return whether a result is of an execution that failed and was retried, or crashed."""
    return entry[b"type"] == b"4" and b"exc_string" in entry


def moment(text: bytes) -> float:
    return datetime.fromisoformat(text.decode()).timestamp()


def reason(text: str) -> list[str]:
    """Return the lines of a failure's text, without the frames that are RQ's or ours."""
    if text.startswith(KILLED):
        return [text.partition("; ")[0] + "; " + text.partition("; ")[2].partition(";")[0]]
    kept, keeps = [], True
    for line in text.splitlines():
        if line.startswith("  File "):
            keeps = "compat_tasks.py" in line
        elif not line.startswith(" "):
            keeps = True
        if keeps:
            kept.append(line)
    return kept
