"""RQ's classes made safe: jobs, queues, time limits and the serializer, derived from those given.

- Only plain data is read. Only registered functions are looked up, callbacks included.
- Retries and repeats are due by Redis's time.
- A process that user code has forked ends when that code ends.
"""

from __future__ import annotations

import os
import pickle
import time
from collections.abc import Callable, Sequence
from contextlib import suppress
from datetime import datetime, timedelta, timezone
from typing import TYPE_CHECKING, Any

import rq.executions
import rq.intermediate_queue
import rq.rate_limit
import rq.registry
from redis.client import Pipeline
from rq.job import Job, JobStatus, Retry
from rq.queue import Queue
from rq.timeouts import BaseDeathPenalty
from rq.utils import utcformat
from rq.worker import Worker as RQWorker

from werk.errors import TooLarge, Unreadable
from werk.printable import storable
from werk.registry import LONGEST_S
from werk.settings import Settings
from werk.store import failures, keys, payload, scripts
from werk.worker import retries, webhooks
from werk.worker.claim import permit
from werk.worker.forks import alone, end_copies

if TYPE_CHECKING:
    from werk.worker.rq_side import RQSide

JSON_FIELDS = (b"dependency_ids", b"retry_intervals", b"repeat_intervals")
MOST_IN_A_LIST = 100_000  # in one of these fields; 10,000 dependencies are known to work
LONGEST_EXC_INFO = 1024 * 1024  # bytes, decompressed


class PlainSerializer:
    """RQ's pickle, for plain data only. A Retry is stored as in RQ, and is not read here."""

    @staticmethod
    def dumps(value: object) -> bytes:
        return pickle.dumps(value, 5) if type(value) is Retry else payload.dumps(value)

    @staticmethod
    def loads(data: bytes) -> Any:
        return payload.loads(data)


class _BoundedJob(Job):
    """A job whose webhooks take a limited time."""

    word = "Bounded"  # for the name of a derived class
    webhook_hosts: frozenset[str] | None = None  # of the worker's settings when it was made
    _invalid_webhooks: Sequence[tuple[str, str]] = ()
    werk_call: Callable[..., Any] | None = None  # set by a frame: see frame.py
    task = "-"  # its name, set for middleware: see around.py
    counted_task = ""  # its name in the record; '' if plain RQ has enqueued the job

    def restore(self, raw_data: dict[bytes, bytes]) -> Any:
        restored = super().restore({**raw_data, b"webhooks": b""})
        found = webhooks.Webhooks.read(raw_data.get(b"webhooks", b""))
        self.webhooks, self._invalid_webhooks = list(found.readable), found.invalid
        self.counted_task = keys.text(raw_data.get(b"werk_task"))
        return restored

    @property
    def func(self) -> Any:
        return self.werk_call or super().func

    def to_dict(self, *args: Any, **kwargs: Any) -> dict[str, Any]:
        record = super().to_dict(*args, **kwargs)
        if type(description := record.get("description")) is str:  # a task may have written there
            record["description"] = storable(description)
        return record

    def set_status(self, status: JobStatus, pipeline: Pipeline | None = None) -> None:
        """Set the status. RQ also writes "scheduled" before the transaction that does, when the job
        may already be another execution's: only the transaction writes it here."""
        if pipeline is None and status == JobStatus.SCHEDULED:
            self._status = status
        else:
            super().set_status(status, pipeline)

    def _handle_failure(
        self, exc_string: str, pipeline: Pipeline, *args: Any, **kwargs: Any
    ) -> None:
        """Count the failure as well. RQ calls this where a transaction fails or stops a job."""
        if self.get_status(refresh=False) == JobStatus.FAILED:
            task = self.counted_task or (self.description or "").partition("(")[0] or "?"
            script = scripts.script("count_failure", self.redis_server_version or ())
            pipeline.eval(script.text, 0, failures.field(task, exc_string), self.id)
        super()._handle_failure(exc_string, pipeline, *args, **kwargs)

    def is_final(self, error: BaseException) -> bool:
        """Return whether the job fails for good with an error that middleware sees."""
        return retries.is_final(self, self.task, error)

    def send_webhooks(self, status: str | JobStatus, *, exc_string: str | None = None) -> None:
        invalid, hosts = self._invalid_webhooks, self.webhook_hosts
        webhooks.send_all(self, status, exc_string, invalid=invalid, hosts=hosts)


class _RegisteredJob(_BoundedJob):
    """A job that looks up registered functions only, and limits what it unpacks."""

    word = "Registered"

    def restore(self, raw_data: dict[bytes, bytes]) -> Any:
        """Restore the job. Raises Unreadable for fields with which RQ would fill the memory."""
        payload.decompress(raw_data.get(b"data", b""))
        for name in JSON_FIELDS:
            if raw_data.get(name):
                payload.check_json(raw_data[name], MOST_IN_A_LIST)
        try:
            payload.decompress(raw_data.get(b"exc_info", b""), LONGEST_EXC_INFO)
        except TooLarge:  # an older RQ's traceback of an earlier execution
            raw_data = {name: own for name, own in raw_data.items() if name != b"exc_info"}
        return super().restore(raw_data)

    @property
    def func(self) -> Any:
        if not self.werk_call:
            permit(self.func_name)
        return super().func

    @property
    def success_callback(self) -> Any:
        permit(self._success_callback_name)
        with alone():  # it is imported
            return super().success_callback

    @property
    def failure_callback(self) -> Any:
        permit(self._failure_callback_name)
        with alone():  # it is imported
            return super().failure_callback

    @property
    def stopped_callback(self) -> Any:
        permit(self._stopped_callback_name)
        with alone():  # it is imported
            return super().stopped_callback


def bounded(job_class: type[Job], *, registered_only: bool) -> type[Job]:
    """Return a class of jobs with bounded webhooks and, if asked, only registered functions."""
    base = _RegisteredJob if registered_only else _BoundedJob
    if issubclass(job_class, base):
        return job_class
    limits = {"webhook_hosts": Settings.read().webhook_hosts}
    return type(f"{base.word}{job_class.__name__}", (base, job_class), limits)


def single(
    death_penalty_class: type[BaseDeathPenalty], is_kept: Callable[[], bool]
) -> type[BaseDeathPenalty]:
    """Return a class of the time limits that RQ puts around user code. It ends forked copies.

    It sets no limit itself while `is_kept` returns that the limit is enforced elsewhere.
    """

    class Single(death_penalty_class):  # type: ignore[misc, valid-type]
        def __enter__(self) -> None:
            self._pid, self._is_kept = os.getpid(), is_kept()
            if not self._is_kept:
                super().__enter__()

        def __exit__(self, kind: Any, error: Any, trace: Any) -> Any:
            end_copies(self._pid, error)
            return False if self._is_kept else super().__exit__(kind, error, trace)

    return Single


def lazy(job_class: type[Job], worker: RQWorker) -> type[Job]:
    """Return the class of the job that get_current_job() returns: made by __new__, with an `_id`.

    The first use of another attribute reads the job from Redis, and makes it one of `job_class`.
    Tracers read `meta` of every job: by itself it does not keep step.lua from recording a success.
    """
    connection, serializer = worker.connection, worker.serializer

    def __getattr__(self: Job, name: str) -> Any:
        if name.startswith("__"):
            raise AttributeError(name)
        if name == "meta" and serializer is PlainSerializer:
            with suppress(Unreadable):  # RQ has a placeholder for it
                return self.get_meta()
        read = job_class(self.__dict__["_id"], connection, serializer)
        read.refresh()  # type: ignore[no-untyped-call]
        # Not before: a time limit may interrupt that, and the job then has to be read again.
        self.__dict__ = {**read.__dict__, **self.__dict__}
        self.__class__ = job_class
        return getattr(self, name)

    known = {"__getattr__": __getattr__, "connection": connection, "serializer": serializer}
    return type(f"Lazy{job_class.__name__}", (job_class,), known)


def keep_redis_time(redis_time: Callable[[], float]) -> None:
    """Have RQ write and compare Redis's time, in this process and its children.

    All of RQ's scores and cutoffs come from current_timestamp(), which these modules have imported.
    Its text fields come from now(), and keep this host's clock.
    """

    def current_timestamp() -> int:
        return int(redis_time())

    def redis_now() -> datetime:
        return datetime.fromtimestamp(redis_time(), timezone.utc)

    for module in (rq.executions, rq.rate_limit, rq.registry):
        module.current_timestamp = current_timestamp  # type: ignore[attr-defined]
    rq.intermediate_queue.now = redis_now  # type: ignore[attr-defined]


class _TimedQueue(Queue):
    """A worker's queue: retries and repeats in it are due by Redis's time."""

    redis_time: Callable[[], float] = staticmethod(time.time)

    def schedule_job(self, job: Job, datetime: datetime, *args: Any, **kwargs: Any) -> Job:
        ahead = timedelta(seconds=time.time() - self.redis_time())
        scheduled: Job = super().schedule_job(job, datetime - ahead, *args, **kwargs)
        return scheduled

    def _persist_job(
        self, job: Job, pipeline: Pipeline, status: JobStatus = JobStatus.QUEUED
    ) -> None:
        super()._persist_job(job, pipeline, status)
        if status == JobStatus.QUEUED and job.enqueued_at:
            since = f"{utcformat(job.enqueued_at)}|{self.redis_time():.6f}"
            pipeline.hset(job.key, "werk_enqueued", since)


def by_redis_time(queue_class: type[Queue], worker: RQSide) -> type[Queue]:
    """Return a class of queues in which a worker's retries and repeats are due by Redis's time."""
    if issubclass(queue_class, _TimedQueue):
        return queue_class
    clock = {"redis_time": staticmethod(lambda: worker.redis_time())}
    return type(queue_class.__name__, (_TimedQueue, queue_class), clock)


def set_call(job: Job, path: str, args: Any, kwargs: Any) -> None:
    """Have a job that was read from Redis call what the registry says, with these arguments."""
    job._func_name, job._instance = path, None
    job._args, job._kwargs = args, kwargs


def unread(job_class: type[Job], job_id: str) -> Job:
    """Return a job of a class made by lazy()."""
    job = job_class.__new__(job_class)
    job._id = job_id
    return job


def blank(worker: RQWorker, job_id: str) -> Job:
    """Return a job that has only its id, which need not be one that RQ accepts."""
    job = worker.job_class(connection=worker.connection, serializer=worker.serializer)
    job._id = job_id
    return job


def load(job: Job) -> Job:
    """Return the job after it was read from Redis. Raises what RQ raises for an unreadable job.

    Its times are limited: Redis would refuse the command with a longer one in RQ's transaction.
    """
    job.created_at  # noqa: B018
    for name in ("ttl", "result_ttl", "failure_ttl", "timeout"):
        seconds = getattr(job, name)
        if seconds is not None and seconds > LONGEST_S:
            setattr(job, name, LONGEST_S)
    return job
