"""The status of a job, and its result when it has ended."""

from __future__ import annotations

import time
from math import inf, isnan
from typing import TYPE_CHECKING, Any, Generic, Literal, NamedTuple, TypeVar

from werk.client.links import link_of
from werk.duration import Duration, seconds, shown
from werk.errors import (
    ArgumentError,
    JobCancelled,
    JobFailed,
    NoSuchJob,
    ResultNotKept,
    ResultTimeout,
    WerkError,
)
from werk.printable import shell_words
from werk.registry import plain_text
from werk.settings import Settings
from werk.store import keys
from werk.store.connection import Link
from werk.store.payload import UNSERIALIZABLE, read_exception, read_not_kept, read_result
from werk.store.plain import name_of

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

SLICE_S = 1.0  # of waiting; between slices we check whether the job still exists
LAST_LOOK_S = 0.02  # before a waiting job expires; one that then starts may seem to have expired
HAS_RESULT = {"finished": b"1", "failed": b"2"}  # states, and the type of the result's entry


class Handle(NamedTuple, Generic[Result]):
    """A job that was enqueued, or if it is a duplicate, the existing job.

    Of an existing job only the id is known: `queue` is where a new job would have been enqueued.
    """

    id: str
    task: str
    queue: str
    duplicate: bool = False
    reason: str = ""  # why it is a duplicate
    warnings: tuple[str, ...] = ()
    result_ttl: int = 1
    connection: Connection | None = None

    def __repr__(self) -> str:
        duplicate = ", duplicate=True" * self.duplicate
        return f"Handle(id={self.id!r}, task={self.task!r}, queue={self.queue!r}{duplicate})"

    def status(self) -> Status:
        """Return RQ's status of the job: queued, started, finished, ...

        Raises NoSuchJob, RedisUnavailable, ConfigError.
        """
        return status(self.id, connection=self.connection)

    def result(self, timeout: Duration | None = None) -> Result:
        """Wait for the result and return it. `timeout`: 90 (in seconds), "5m"; None: no limit.

        Raises JobFailed, JobCancelled, ResultNotKept, ResultTimeout, NoSuchJob, Unreadable,
        ArgumentError, RedisUnavailable, ConfigError.
        """
        value: Result = result(self, timeout)
        return value

    def as_json(self) -> dict[str, Any]:
        """Return the handle as plain data, as `werk-enqueue --json` prints it."""
        names = ("id", "queue", "task", "duplicate", "warnings")
        return {name: getattr(self, name) for name in names}

    @property
    def job(self) -> Job:
        """Return the job as RQ's own object; imports rq. Raises rq.exceptions.NoSuchJobError."""
        from rq.job import Job

        from werk.store.redis_py import redis_client

        own = self.connection
        client = redis_client(Settings.read()) if own is None or isinstance(own, Link) else own
        return Job.fetch(self.id, connection=client)


def result(
    job_id: str | Handle[Any],
    timeout: Duration | None = None,
    *,
    connection: Connection | None = None,
) -> Any:
    """Wait for a job's result and return it. `timeout`: 90 (in seconds), "5m"; None: no limit.

    The job is named by its id or its handle. Raises JobFailed, JobCancelled, ResultNotKept,
    ResultTimeout, NoSuchJob, Unreadable, ArgumentError, RedisUnavailable, ConfigError.
    """
    waiting, limit_s = Waiting(*named(job_id, connection)), limit_of(timeout)
    deadline = time.monotonic() + limit_s
    while True:
        left = min(SLICE_S, deadline - time.monotonic())
        if ended := waiting.look(left):
            return ended[0]
        if time.monotonic() >= deadline:
            raise waiting.timed_out(limit_s)


def status(job_id: str | Handle[Any], *, connection: Connection | None = None) -> Status:
    """Return RQ's status of a job, named by its id or its handle: queued, started, finished, ...

    Raises NoSuchJob, ArgumentError, RedisUnavailable, ConfigError.
    """
    job_id, connection, *_ = named(job_id, connection)
    found = link_of(connection).call("HGET", keys.key("job", job_id), "status")
    if found is None:
        raise NoSuchJob(_no_such(job_id))
    return keys.text(found)  # type: ignore[return-value]


def named(job: object, connection: Connection | None) -> tuple[str, Connection | None, bool, bool]:
    """Return what Waiting takes of a job that is named by its id or its handle.

    Raises ArgumentError.
    """
    if isinstance(job, Handle):
        keeps_result = job.result_ttl != 0
        is_ours = keeps_result and not job.duplicate
        return job.id, connection or job.connection, keeps_result, is_ours
    if isinstance(job, str):
        return plain_text(job), connection, True, False
    raise ArgumentError(f"job_id: got {name_of(type(job))}; use the id of a job, or its handle")


class Waiting:
    """A wait for the result of a job: looks at the job until it has ended.

    Between two looks it can wait for an entry in the job's results. A job that this process has
    enqueued exists, and will have an entry. So the wait comes first, and usually one look is
    enough.
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
        self.expires = inf  # when the job expires if it does not start, by time.monotonic()

    def look(self, seconds: float = 0.0) -> tuple[Any] | None:
        """Wait for the job's end for at most `seconds`. Return the result if it has ended.

        Raises the error that says why there is no result.
        """
        job_id, link = self.job_id, link_of(self.connection)
        results = keys.key("results", job_id)
        latest = ("XREVRANGE", results, "+", "-", "COUNT", 1)
        look = ("HMGET", keys.key("job", job_id), "status", "result_ttl")
        seconds = min(seconds, link.budget_s / 2)  # Redis does not count as unreachable so soon
        now = time.monotonic()
        # Asked first, so that the job expires no earlier than calculated; and only where a job that
        # has run leaves no record either: most waits do without.
        ttl = [] if self.keeps_result else [("PTTL", look[1])]
        if self.waits and seconds > 0:
            seconds = min(seconds, max(LAST_LOOK_S, self.expires - now - LAST_LOOK_S))
            block = ("XREAD", "BLOCK", max(1, int(seconds * 1000)), "STREAMS", results)
            asked = [*ttl, (*block, self.entry[0]), look]
            *left_ms, streams, (state, result_ttl) = link.calls(asked)
            entries = streams[0][1] if streams else []
        else:
            *left_ms, entries, (state, result_ttl) = link.calls([*ttl, latest, look])
        self.entry = entries[-1] if entries else self.entry
        if state is None:
            return self._vanished()
        self.waits = self.seen = True
        self.keeps_result = self.keeps_result and result_ttl != b"0"
        self.state = keys.text(state)
        is_to_start = self.state in ("queued", "scheduled", "deferred") and not entries
        is_short = is_to_start and left_ms and left_ms[0] > 0
        self.expires = now + left_ms[0] / 1000 if is_short else inf
        if self.state in (*HAS_RESULT, "stopped", "canceled"):
            if self.state in HAS_RESULT and not (entries and self._is_of_end()):
                # The job has ended since its entries were read.
                self.entry = (link.call(*latest) or [self.entry])[-1]
            return (_outcome(job_id, self.state, keys.pairs(self.entry[1]), link),)
        return None

    def _vanished(self) -> tuple[Any]:
        """Return the result of a job that no longer exists and kept none. Raises NoSuchJob."""
        if time.monotonic() >= self.expires:
            raise NoSuchJob(f"no job {self.job_id}: it expired before it started")
        if self.keeps_result:
            raise NoSuchJob(_no_such(self.job_id, self.seen))
        return (None,)

    def _is_of_end(self) -> bool:
        """Return whether the entry may be that of the job's end, and not of an earlier attempt."""
        return keys.pairs(self.entry[1]).get(b"type") == HAS_RESULT.get(self.state)

    def timed_out(self, timeout: float) -> ResultTimeout:
        """Return the error for a job that has not ended after `timeout` seconds.

        Redis is asked why a job has not started: no worker listens, or its queue is paused.
        """
        if timeout <= 0:
            return ResultTimeout(f"job {self.job_id} is {self.state}")
        again = f"werk result {shell_words(self.job_id)}"
        if self.state != "queued":
            text = f"job {self.job_id} is still {self.state} after {timeout:g} s; it continues"
            return ResultTimeout(f"{text}: {again}")
        text = f"job {self.job_id} has not started after {timeout:g} s"
        return ResultTimeout(f"{text}; {self._why_it_waits() or f'it stays queued: {again}'}")

    def _why_it_waits(self) -> str:
        """Return why no worker takes the job, and what to do; '' if the reason is unknown."""
        link = link_of(self.connection)
        try:
            queue = keys.text(link.call("HGET", keys.key("job", self.job_id), "origin") or b"")
            word = shell_words(queue)
            if not link.call("EXISTS", keys.key("workers", queue)):
                return f"no worker listens on queue {queue}; start one: werk worker {word}"
            if link.call("SISMEMBER", keys.key("werk", "paused"), queue):
                return f"queue {queue} is paused; resume it: werk resume {word}"
        except WerkError:  # the time is over anyway, or this Redis user may not ask
            pass
        return ""


def limit_of(timeout: Duration | None) -> float:
    """Return the seconds to wait; a negative number is allowed. Raises ArgumentError."""
    try:
        limit_s = inf if timeout is None else float(seconds(timeout))
        if not isnan(limit_s):
            return limit_s
    except (ValueError, OverflowError):  # a whole number can be larger than any float
        pass
    use = "use seconds, or a text such as 5m or 1h30m"
    raise ArgumentError(f"timeout: got {shown(timeout)}; {use}")


def _outcome(job_id: str, state: str, entry: dict[bytes, bytes], link: Link) -> Any:
    """Return the result of a job that has ended. Raises the error that says why there is none."""
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
