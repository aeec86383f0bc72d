"""The Link that stands for Redis in a context of recorded(): it answers what the client sends.

So the client's code is the same with and without recorded(), up to the bytes of a job's call and
result: links.link_of() returns this link in place of one with a socket.
"""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from math import inf
from threading import RLock
from typing import Any, NoReturn

from werk.client import request
from werk.client.request import JOB_FIELDS, EnqueueRequest
from werk.errors import ResultTimeout, WerkError
from werk.store import keys
from werk.store.connection import Command, Link, Word
from werk.store.scripts import Script
from werk.tasks import catalog_page
from werk.testing.job import RecordedJob


class StandIn(Link):
    """Answers enqueue.lua and catalog.lua, and the commands that read a job's status and result."""

    has_workers = False

    def __init__(self, jobs: list[RecordedJob]) -> None:
        super().__init__(_refuse, "werk.testing.recorded()", inf)  # it never waits
        self._lock = RLock()  # werk.aio enqueues from several threads, a signal handler in between
        self._jobs = jobs
        self._by_id: dict[str, RecordedJob] = {}
        self._holds: dict[str, tuple[str, float]] = {}  # key -> job and when it expires
        self._pointers: dict[str, str] = {}

    def run(self, script: Script, keys: Sequence[str], arguments: Sequence[Word]) -> Any:
        """Answer a script of the client."""
        if script is catalog_page.script():
            return []  # no worker has published anything
        if script is not request.script():
            _refuse("this script")
        with self._lock:
            return self._enqueue(arguments)

    def calls(self, commands: Sequence[Command], *, skips_type: bool = False) -> list[Any]:
        """Answer commands of the client."""
        return [self._reply(command) for command in commands]

    def _enqueue(self, words: Sequence[Any]) -> list[Any]:
        """Record jobs. Return what enqueue.lua replies if a live worker serves their task."""
        size, width = len(EnqueueRequest._fields), len(JOB_FIELDS)
        shared = EnqueueRequest(*words[:size])
        end = len(words) - shared.rare
        rare = dict(zip(words[end::2], words[end + 1 :: 2], strict=True))
        replies: list[Any] = []
        for at in range(size, end, width):
            own = {**dict(zip(JOB_FIELDS, words[at : at + width], strict=True)), **rare}
            replies.append(self._duplicate(own) or self._record(shared, own))
        return [*replies, b""] if shared.served else replies

    def _duplicate(self, own: Mapping[str, Any]) -> list[str]:
        """Return the reply for a duplicate or a conflict, [] for other jobs."""
        if first := self._find(own["id"]):
            is_other = first.digest and own.get("werk_call", first.digest) != first.digest
            return ["conflict", first.id, first.description] if is_other else ["id", first.id]
        holder, until = self._holds.get(own["hold"], ("", 0.0))
        if time.time() < until:
            return ["hold", holder]
        last = self._find(self._pointers.get(own["pointer"], ""))
        if last and last.status in ("queued", "scheduled", "started"):
            return ["active", last.id, last.status]
        return []

    def _record(self, shared: EnqueueRequest, own: Mapping[str, Any]) -> int:
        now = time.time()
        job = self._by_id[own["id"]] = RecordedJob(shared, own, now)
        self._jobs.append(job)
        if own["hold"]:
            self._holds[own["hold"]] = job.id, now + shared.hold_ms / 1000
        if own["pointer"]:
            self._pointers[own["pointer"]] = job.id
        return 1

    def _find(self, job_id: str) -> RecordedJob | None:
        """Return a job; None if it does not exist, or has ended and was not to be kept."""
        job = self._by_id.get(job_id)
        if not job:
            return None
        ttls = {"finished": job.options.result_ttl, "failed": job.options.failure_ttl}
        return None if ttls.get(job.status) == 0 else job

    def _reply(self, command: Command) -> Any:
        match command:
            case ("HGET", key, field):
                return self._hash(key).get(field)
            case ("HMGET", key, *fields):
                return [*map(self._hash(key).get, fields)]
            case ("PTTL", _):
                return -1
            case ("XREVRANGE", key, *_):
                return self._results(key)
            case ("XREAD", _, _, "STREAMS", key, _):
                return [[key, self._results(key)]]
        _refuse(command[0])

    def _hash(self, key: str) -> dict[str, bytes]:
        """Return the fields of a job that the client reads."""
        job = self._find(key.removeprefix(keys.key("job", "")))
        if not job:
            return {}
        found = {"status": job.status, "result_ttl": str(job.options.result_ttl)}
        return {name: own.encode() for name, own in {**found, keys.NOT_KEPT: job.not_kept}.items()}

    def _results(self, key: str) -> list[Any]:
        """Return the entry in a job's results. Raises ResultTimeout if the job has not ended."""
        job = self._find(key.removeprefix(keys.key("results", "")))
        if job and job.status not in ("finished", "failed"):
            text = f"job {job.id} ({job.task}) is still {job.status}; run it first: jobs.run()"
            raise ResultTimeout(text)
        return [[b"1-0", job.outcome]] if job else []


def _refuse(what: object) -> NoReturn:
    does = "it answers enqueue(), status() and result()"
    raise WerkError(f"werk.testing.recorded() has no Redis to send {what} to; {does}")
