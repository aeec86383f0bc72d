"""One job as people see it: what `werk show` prints. Reads, and runs nothing of what it reads."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from werk import registry, signature, wire
from werk.arguments import Signature
from werk.errors import NoSuchJob, Unreadable
from werk.link import Link

_TIMES = ("created_at", "enqueued_at", "started_at", "ended_at")


def show(job_id: str, link: Link) -> dict[str, Any]:
    """Return a job, its times, its limits and how its last execution ended. Raises NoSuchJob."""
    flat, entries = link.calls(
        [
            ("HGETALL", wire.key("job", job_id)),
            ("XREVRANGE", wire.key("results", job_id), "+", "-", "COUNT", 1),
        ]
    )
    if not flat:
        raise NoSuchJob(f"no job {job_id}: never enqueued here, or expired")
    fields = wire.pairs(flat)
    text = {name.decode(): value.decode("utf-8", "replace") for name, value in fields.items()}
    return {
        "id": job_id,
        "task": text.get("werk_task"),
        "call": call(fields),
        "status": text.get("status"),
        "queue": text.get("origin"),
        **{name: text.get(name) or None for name in _TIMES},
        "worker": text.get("worker_name") or None,
        "timeout": _whole(text.get("timeout")),
        "result_ttl": _whole(text.get("result_ttl")),
        "retries_left": _whole(text.get("retries_left")),
        **_ending(text.get("status"), wire.pairs(entries[0][1]) if entries else {}),
    }


def call(fields: Mapping[bytes, bytes]) -> str | None:
    """Return the call in a job's hash, with secrets masked, or why it cannot be read.

    Only werk's own callers mask them when they enqueue.
    """
    if b"werk_task" in fields:
        return fields.get(b"description", b"").decode("utf-8", "replace") or None
    try:
        path, args, kwargs = wire.read_call(fields[b"data"])
    except (KeyError, Unreadable) as error:
        return f"(unreadable: {error})"
    secret = {
        name for task in registry.tasks().values() if task.path == path for name in task.secret
    }
    shape = signature.read(path) if secret else Signature()  # its source is found by its path
    return f"{path}({shape.call(args, kwargs, secret)})"


def _ending(status: str | None, entry: dict[bytes, bytes]) -> dict[str, Any]:
    try:
        if status == "finished":
            return {"result": wire.read_result(entry)}
        return {"exception": wire.read_exception(entry).rstrip() or None}
    except Unreadable as error:
        return {"unreadable": str(error)}


def _whole(text: str | None) -> int | None:
    return int(text) if text and text.lstrip("-").isdecimal() else None
