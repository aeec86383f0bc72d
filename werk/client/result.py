"""The status of a job, and its result when it has ended."""

from __future__ import annotations

import time
from typing import TYPE_CHECKING, Any, NamedTuple

from werk.client.links import link_of
from werk.errors import JobCancelled, JobFailed, NoSuchJob, ResultNotKept, ResultTimeout
from werk.settings import Settings
from werk.store import keys
from werk.store.connection import Link
from werk.store.payload import UNSERIALIZABLE, read_exception, read_not_kept, read_result

if TYPE_CHECKING:
    from rq.job import Job

    from werk.client.links import Connection

SLICE_S = 1.0  # of waiting; between slices we look whether there is still something to wait for


class Handle(NamedTuple):
    """A job that was enqueued; for a duplicate, the existing job."""

    id: str
    task: str
    queue: str
    duplicate: bool = False
    reason: str = ""  # why it is a duplicate
    warnings: tuple[str, ...] = ()
    result_ttl: int = 1
    connection: Connection | None = None

    def status(self) -> str:
        """Return RQ's status of the job: queued, started, finished, ... Raises NoSuchJob."""
        return status(self.id, connection=self.connection)

    def result(self, timeout: float | None = None) -> Any:
        """Wait for the result and return it. `timeout` is in seconds; None: wait without a limit.

        Raises JobFailed, JobCancelled, ResultNotKept, ResultTimeout, NoSuchJob.
        """
        keeps_result = self.result_ttl != 0
        is_ours = keeps_result and not self.duplicate
        return _wait(self.id, timeout, self.connection, keeps_result, is_ours)

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
    job_id: str, timeout: float | None = None, *, connection: Connection | None = None
) -> Any:
    """Wait for a job's result and return it. `timeout` is in seconds; None: wait without a limit.

    Raises JobFailed, JobCancelled, ResultNotKept, ResultTimeout, NoSuchJob, RedisUnavailable,
    ConfigError.
    """
    return _wait(job_id, timeout, connection, keeps_result=True)


def status(job_id: str, *, connection: Connection | None = None) -> str:
    """Return RQ's status of a job: queued, started, finished, ... Raises NoSuchJob."""
    found = link_of(connection).call("HGET", keys.key("job", job_id), "status")
    if found is None:
        raise NoSuchJob(_no_such(job_id))
    return keys.text(found)


def _wait(
    job_id: str,
    timeout: float | None,
    connection: Connection | None,
    keeps_result: bool,
    is_ours: bool = False,
) -> Any:
    deadline = None if timeout is None else time.monotonic() + timeout
    waiting = Waiting(job_id, connection, keeps_result, is_ours)
    while True:
        left = SLICE_S if deadline is None else min(SLICE_S, deadline - time.monotonic())
        if ended := waiting.look(left):
            return ended[0]
        if deadline is not None and time.monotonic() >= deadline:
            raise waiting.timed_out(timeout)


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

    def timed_out(self, timeout: float | None) -> ResultTimeout:
        """Return the error for a job that has not ended after `timeout` seconds."""
        return ResultTimeout(
            f"job {self.job_id} is still {self.state} after {timeout:g} s; "
            f"it continues: werk result {self.job_id}"
        )


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
