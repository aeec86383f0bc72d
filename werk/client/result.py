"""The status of a job, and its result when it has ended."""

from __future__ import annotations

import time
from math import inf
from typing import TYPE_CHECKING, Any, Generic, Literal, NamedTuple, TypeVar

from werk.client.links import link_of
from werk.duration import Duration, seconds
from werk.errors import (
    ArgumentError,
    JobCancelled,
    JobFailed,
    NoSuchJob,
    ResultNotKept,
    ResultTimeout,
    WerkError,
)
from werk.settings import Settings
from werk.store import keys
from werk.store.connection import Link
from werk.store.payload import UNSERIALIZABLE, read_exception, read_not_kept, read_result

if TYPE_CHECKING:
    from rq.job import Job
    from typing_extensions import TypeVar as TypeVarWithDefault

    from werk.client.links import Connection

    # A default, so that `werk.Handle` alone still passes mypy --strict. (In typing from 3.13.)
    Result = TypeVarWithDefault("Result", covariant=True, default=Any)
else:
    Result = TypeVar("Result", covariant=True)

Status = Literal[
    "created",
    "queued",
    "started",
    "finished",
    "failed",
    "deferred",
    "scheduled",
    "stopped",
    "canceled",
    "rate_limited",
    "ready_to_enqueue",
]  # rq.job.JobStatus

SLICE_S = 1.0  # of waiting; between slices we look whether there is still something to wait for


class Handle(NamedTuple, Generic[Result]):
    """A job that was enqueued; for a duplicate, the existing job."""

    id: str
    task: str
    queue: str
    duplicate: bool = False
    reason: str = ""  # why it is a duplicate
    warnings: tuple[str, ...] = ()
    result_ttl: int = 1
    connection: Connection | None = None

    def status(self) -> Status:
        """Return RQ's status of the job: queued, started, finished, ... Raises NoSuchJob."""
        return status(self.id, connection=self.connection)

    def result(self, timeout: Duration | None = None) -> Result:
        """Wait for the result and return it. `timeout`: 90 (in seconds), "5m"; None: no limit.

        Raises JobFailed, JobCancelled, ResultNotKept, ResultTimeout, NoSuchJob.
        """
        keeps_result = self.result_ttl != 0
        is_ours = keeps_result and not self.duplicate
        value: Result = _wait(self.id, timeout, self.connection, keeps_result, is_ours)
        return value

    def as_json(self) -> dict[str, Any]:
        """Return the handle as plain data, as `werk-enqueue --json` prints it."""
        names = ("id", "queue", "task", "duplicate", "warnings")
        return {name: getattr(self, name) for name in names}

    @property
    def job(self) -> Job:
        """The job as RQ's own object. (This imports rq.)"""
        from rq.job import Job

        from werk.store.redis_py import redis_client

        own = self.connection
        client = redis_client(Settings.read()) if own is None or isinstance(own, Link) else own
        return Job.fetch(self.id, connection=client)


def result(
    job_id: str, timeout: Duration | None = None, *, connection: Connection | None = None
) -> Any:
    """Wait for a job's result and return it. `timeout`: 90 (in seconds), "5m"; None: no limit.

    Raises JobFailed, JobCancelled, ResultNotKept, ResultTimeout, NoSuchJob, RedisUnavailable,
    ConfigError.
    """
    return _wait(job_id, timeout, connection, keeps_result=True)


def status(job_id: str, *, connection: Connection | None = None) -> Status:
    """Return RQ's status of a job: queued, started, finished, ... Raises NoSuchJob."""
    found = link_of(connection).call("HGET", keys.key("job", job_id), "status")
    if found is None:
        raise NoSuchJob(_no_such(job_id))
    return keys.text(found)  # type: ignore[return-value]


def _wait(
    job_id: str,
    timeout: Duration | None,
    connection: Connection | None,
    keeps_result: bool,
    is_ours: bool = False,
) -> Any:
    limit_s = inf if timeout is None else _seconds(timeout)
    deadline = time.monotonic() + limit_s
    waiting = Waiting(job_id, connection, keeps_result, is_ours)
    while True:
        left = min(SLICE_S, deadline - time.monotonic())
        if ended := waiting.look(left):
            return ended[0]
        if time.monotonic() >= deadline:
            raise waiting.timed_out(limit_s, waiting.paused_queue())


class Waiting:
    """A wait for the result of a job: looks at the job until it has ended.

    Between two looks it can wait for an entry in the job's results. A job that this process has
    enqueued exists, and will have an entry. So the wait comes first, and usually nothing has to
    follow.
    """

    def __init__(
        self,
        job_id: str,
        connection: Connection | None = None,
        keeps_result: bool = True,
        is_ours: bool = False,
    ) -> None:
        self.job_id, self.connection, self.keeps_result = job_id, connection, keeps_result
        self.waits, self.seen, self.state = is_ours, False, ""
        self.entry: Any = (b"0-0", [])  # the newest; an entry of an earlier run is not news

    def look(self, seconds: float = 0.0) -> tuple[Any] | None:
        """Wait for the job's end for at most `seconds`. Return the result if it has ended.

        Raises why there is no result.
        """
        job_id, link = self.job_id, link_of(self.connection)
        results = keys.key("results", job_id)
        look = ("HMGET", keys.key("job", job_id), "status", "result_ttl")
        if self.waits and seconds > 0:
            block = ("XREAD", "BLOCK", max(1, int(seconds * 1000)), "STREAMS", results)
            streams, (state, result_ttl) = link.calls([(*block, self.entry[0]), look])
            entries = streams[0][1] if streams else []
        else:
            latest = ("XREVRANGE", results, "+", "-", "COUNT", 1)
            entries, (state, result_ttl) = link.calls([latest, look])
        self.entry = entries[-1] if entries else self.entry
        if state is None:
            if self.keeps_result:
                raise NoSuchJob(_no_such(job_id, self.seen))
            return (None,)  # it has ended, and its result was not to be kept
        self.waits = self.seen = True
        self.keeps_result = self.keeps_result and result_ttl != b"0"
        self.state = keys.text(state)
        if self.state in ("finished", "failed", "stopped", "canceled"):
            return (_outcome(job_id, self.state, keys.pairs(self.entry[1]), link),)
        return None

    def paused_queue(self) -> str:
        """Return the queue of a waiting job, if it is known to be paused, else ''."""
        if self.state != "queued":
            return ""
        link = link_of(self.connection)
        try:
            queue = link.call("HGET", keys.key("job", self.job_id), "origin") or b""
            is_paused = link.call("SISMEMBER", keys.key("werk", "paused"), queue)
        except WerkError:  # this Redis user may not ask
            return ""
        return keys.text(queue) if is_paused else ""

    def timed_out(self, timeout: float, paused: str = "") -> ResultTimeout:
        """Return the error for a job that has not ended after `timeout` seconds."""
        why = f"; queue {paused} is paused: werk resume {paused}" if paused else ""
        return ResultTimeout(
            f"job {self.job_id} is still {self.state} after {timeout:g} s{why}; "
            f"it continues: werk result {self.job_id}"
        )


def _seconds(timeout: Duration) -> float:
    """Return the seconds to wait; less than 0 is no mistake. Raises ArgumentError."""
    try:
        return seconds(timeout)
    except ValueError:
        raise ArgumentError(
            f"timeout: got {timeout!r}; use seconds, or a text such as 5m or 1h30m"
        ) from None


def _outcome(job_id: str, state: str, entry: dict[bytes, bytes], link: Link) -> Any:
    """Return what a job that has ended returned, or raise why it did not."""
    if state == "finished":
        value = read_result(entry)
        if value == UNSERIALIZABLE:
            why = read_not_kept(link.call("HGET", keys.key("job", job_id), keys.NOT_KEPT))
            raise ResultNotKept(f"job {job_id} finished, but its result was not kept: {why}")
        return value
    if state in ("canceled", "stopped"):
        word = "cancelled" if state == "canceled" else state
        raise JobCancelled(f"job {job_id} was {word}")
    text = read_exception(entry).strip()
    reason = text.rpartition("\n")[2] or "no reason was recorded"
    raise JobFailed(f"job {job_id} failed: {reason}", text)


def _no_such(job_id: str, seen: bool = False) -> str:
    why = "it was deleted or has expired" if seen else "never enqueued here, or expired"
    return f"no job {job_id}: {why}"
