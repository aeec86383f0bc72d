"""RQ's own way, made safe: what stands around the methods of RQ that record a job's outcome.

- Only plain data is read, only registered functions are looked up, callbacks included.
- The finish of an execution that is no longer the job's is discarded (the fence).
- meta['werk'] tells what an operator asks of a job that is tried again.
"""

from __future__ import annotations

import os
import pickle
import time
import traceback
from collections.abc import Callable, Sequence
from datetime import datetime, timedelta, timezone
from functools import partial
from typing import Any

import rq.executions
import rq.intermediate_queue
import rq.rate_limit
import rq.registry
from redis.client import Pipeline
from redis.exceptions import WatchError
from rq.executions import Execution
from rq.job import Job, JobStatus, Retry
from rq.queue import Queue
from rq.timeouts import BaseDeathPenalty
from rq.utils import now, utcformat
from rq.worker import Worker as StockWorker

from werk import registry
from werk.errors import ArgumentError, TooLarge, WerkError
from werk.registry import LONGEST_S
from werk.settings import Settings
from werk.store import keys, payload, plain
from werk.store.limits import ERROR_LENGTH, MONTH_S
from werk.worker import webhooks
from werk.worker.process import end_copies
from werk.worker.rq_side import sent_once

COMMITTED = keys.key("werk", "committed")
JSON_FIELDS = (b"dependency_ids", b"retry_intervals", b"repeat_intervals")
MOST_IN_A_LIST = 100_000  # of those fields; 10,000 dependencies are known to work
LONGEST_EXC_INFO = 1024 * 1024  # bytes, decompressed


class Refused(WerkError):
    """Raised when a job is not run: it names what is not registered, or its record is broken."""


class Late(WerkError):
    """Raised when an execution is no longer its job's: what it would record is discarded."""


class PlainSerializer:
    """RQ's pickle, for plain data only. A Retry is stored as RQ does, and not read here."""

    @staticmethod
    def dumps(value: object) -> bytes:
        return pickle.dumps(value, 5) if type(value) is Retry else payload.dumps(value)

    @staticmethod
    def loads(data: bytes) -> Any:
        return payload.loads(data)


def permit(path: str | None) -> None:
    """Raise Refused unless a task of this path is registered. Imports nothing."""
    if path and path not in registered_paths():
        raise Refused(unregistered(path))


def unregistered(path: str) -> str:
    return f"{path[:200]!r} is not registered: no task has this path"


def registered_paths() -> frozenset[str]:
    tables = (registry.BUILT_IN, registry.tasks())
    return frozenset(task.path for table in tables for task in table.values())


class _BoundedJob(Job):
    """A job whose webhooks hold nobody up."""

    word = "Bounded"  # in the name of a class that is made with it
    webhook_hosts: frozenset[str] | None = None  # of the worker's settings when it was made
    _invalid_webhooks: Sequence[tuple[str, str]] = ()
    werk_call: Callable[..., Any] | None = None  # what a frame has it run: see frame.py

    def restore(self, raw_data: dict[bytes, bytes]) -> Any:
        restored = super().restore({**raw_data, b"webhooks": b""})
        found = webhooks.Webhooks.read(raw_data.get(b"webhooks", b""))
        self.webhooks, self._invalid_webhooks = list(found.readable), found.invalid
        return restored

    @property
    def func(self) -> Any:
        return self.werk_call or super().func

    def send_webhooks(self, status: str | JobStatus, *, exc_string: str | None = None) -> None:
        invalid, hosts = self._invalid_webhooks, self.webhook_hosts
        webhooks.send_all(self, status, exc_string, invalid=invalid, hosts=hosts)


class _RegisteredJob(_BoundedJob):
    """A job that looks up registered functions only, and does not unpack without end."""

    word = "Registered"

    def restore(self, raw_data: dict[bytes, bytes]) -> Any:
        """Raises Unreadable where RQ would fill the memory."""
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
        return super().success_callback

    @property
    def failure_callback(self) -> Any:
        permit(self._failure_callback_name)
        return super().failure_callback

    @property
    def stopped_callback(self) -> Any:
        permit(self._stopped_callback_name)
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
    """Return that class of time limits, which RQ puts around user code; forked copies end there.

    It does no more than that where `is_kept` tells that the limit is kept without it.
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


def lazy(job_class: type[Job], worker: StockWorker) -> type[Job]:
    """Return the class of what get_current_job() returns: made by __new__, and given an `_id`.

    It becomes a job of `job_class`, read from Redis, when more of it is touched.
    """
    connection, serializer = worker.connection, worker.serializer

    def __getattr__(self: Job, name: str) -> Any:
        if name.startswith("__"):
            raise AttributeError(name)
        touched = dict(self.__dict__)
        self.__class__ = job_class
        job_class.__init__(self, touched["_id"], connection, serializer)
        self.refresh()  # type: ignore[no-untyped-call]
        self.__dict__.update(touched)
        return getattr(self, name)

    known = {"__getattr__": __getattr__, "connection": connection, "serializer": serializer}
    return type(f"Lazy{job_class.__name__}", (job_class,), known)


def keep_redis_time(redis_time: Callable[[], float]) -> None:
    """Have RQ write and compare Redis's time, in this process and its children.

    All of its scores and cutoffs come from current_timestamp(), which each of these has imported.
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
    """A queue of a worker, whose retries and repeats are due by Redis's time."""

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


def by_redis_time(queue_class: type[Queue], worker: RecordingWorker) -> type[Queue]:
    """Return a class of queues, where a worker's retries and repeats are due by Redis's time."""
    if issubclass(queue_class, _TimedQueue):
        return queue_class
    clock = {"redis_time": staticmethod(lambda: worker.redis_time())}
    return type(queue_class.__name__, (_TimedQueue, queue_class), clock)


def load(job: Job) -> Job:
    """Return the job, read from Redis by now. Raises what RQ raises where it cannot read it.

    Its times are bounded: of RQ's transaction Redis would refuse the part with a longer one.
    """
    job.created_at  # noqa: B018
    for name in ("ttl", "result_ttl", "failure_ttl", "timeout"):
        seconds = getattr(job, name)
        if seconds is not None and seconds > LONGEST_S:
            setattr(job, name, LONGEST_S)
    return job


class RecordingWorker(StockWorker):
    """RQ's worker, whose ways of finishing a job are fenced and tell more."""

    recording_s = 10.0  # a rescue leaves RQ's own finish alone for so long: shorter than a lease
    ask_fence: Callable[[str, Job], bool] | None = None  # set by the horse: see Recorder
    not_kept = ""  # why the result of the execution being recorded cannot be stored, if known
    _mark = ""  # of a transaction that was committed, until all that follows it is done
    recorded_run = ""  # the execution whose outcome is being recorded; also after RQ's commit
    redis_time: Callable[[], float] = staticmethod(time.time)  # likewise

    def handle_execution_ended(self, job: Job, queue: Queue, heartbeat_ttl: int) -> None:
        """RQ calls this first, whatever the outcome. Raises Late."""
        self._check_fence(job)
        super().handle_execution_ended(job, queue, heartbeat_ttl)

    def cleanup_execution(
        self, job: Job, pipeline: Pipeline, execution: Execution | None = None
    ) -> None:
        """RQ calls this last, before it commits the outcome: a callback may have taken long."""
        self._check_fence(job)
        super().cleanup_execution(job, pipeline, execution)
        if self.ask_fence:
            self._commit_once(pipeline)

    def _commit_once(self, pipeline: Pipeline) -> None:
        """Have a transaction leave a mark, so that after a lost reply it is not sent again.

        It stays until RQ has enqueued the dependents as well: see find_unfinished in tick.lua.
        """
        client, execute = self.connection, partial(type(pipeline).execute, pipeline)
        mark = self._mark = f"{self.recorded_run} {self.name}"
        pipeline.zadd(COMMITTED, {mark: self.redis_time()})
        pipeline.expire(COMMITTED, MONTH_S)

        def is_committed() -> bool:
            return client.zscore(COMMITTED, mark) is not None

        def execute_once(*args: Any, **kwargs: Any) -> Any:
            try:
                with sent_once(client, is_committed):
                    return execute(*args, **kwargs)
            except WatchError:  # redis-py raises it, too, when a connection that watches is lost
                if not is_committed():
                    raise
                return None

        pipeline.execute = execute_once  # type: ignore[method-assign]

    def _forget_commit(self) -> None:
        if self._mark:
            self.connection.zrem(COMMITTED, self._mark)
            self._mark = ""

    def _check_fence(self, job: Job) -> None:
        run = self.recorded_run
        if self.ask_fence and run and not self.ask_fence(run, job):
            raise Late(run)

    def handle_exception(self, job: Job, *exc_info: Any) -> None:
        pid = os.getpid()
        super().handle_exception(job, *exc_info)  # calls --exception-handler
        end_copies(pid)

    def handle_job_success(self, job: Job, queue: Queue, *args: Any, **kwargs: Any) -> None:
        """Store RQ's text for a result that cannot be stored. Its callback has seen the result."""
        if self.ask_fence and job.get_result_ttl(self.default_result_ttl) != 0:
            self.not_kept = self.not_kept or why_not_kept(self.serializer.dumps, job._result)
            if self.not_kept:
                self.log.warning("event=unstored job=%s reason=%s", job.id, self.not_kept)
                job._result = payload.UNSERIALIZABLE
        super().handle_job_success(job, queue, *args, **kwargs)
        self._forget_commit()

    def increment_successful_job_count(self, pipeline: Pipeline | None = None) -> None:
        """RQ calls this first in the transaction of a success: the reason is stored with it."""
        if self.not_kept and pipeline is not None:
            execution = next(iter(self.executions.values()))
            pipeline.hset(keys.key("job", execution.job_id), keys.NOT_KEPT, self.not_kept)
        super().increment_successful_job_count(pipeline)

    def handle_job_failure(self, job: Job, queue: Queue, *args: Any, **kwargs: Any) -> None:
        if self.ask_fence and job.should_retry and self._stopped_job_id != job.id:
            _note_attempt(job, kwargs.get("exc_string", ""), job.get_retry_interval())
        super().handle_job_failure(job, queue, *args, **kwargs)
        self._forget_commit()

    def handle_job_retry(
        self, job: Job, queue: Queue, retry: Retry, *args: Any, **kwargs: Any
    ) -> None:
        if self.ask_fence:
            delay = Retry.get_interval(job.number_of_retries or 0, retry.intervals)
            _note_attempt(job, "asked to be tried again", delay)
        super().handle_job_retry(job, queue, retry, *args, **kwargs)
        self._forget_commit()


def limited(dumps: Callable[[object], bytes]) -> Callable[[object], bytes]:
    """Return a serializer's dumps() that raises ArgumentError for what is too large."""

    def limited_dumps(value: object) -> bytes:
        data = dumps(value)
        payload.check_size(len(data))
        return data

    return limited_dumps


def why_not_kept(dumps: Callable[[object], bytes], result: object) -> str:
    """Return why a result cannot be stored, and what to do; '' if it can be."""
    try:
        limited(dumps)(result)
    except Exception as error:
        return reason_of(error, result)
    return ""


def reason_of(error: Exception, result: object) -> str:
    """Return what the error that the serializer raised says of a result."""
    if isinstance(error, ArgumentError):
        return str(error)[: payload.LONGEST_REASON]
    shown = traceback.format_exception_only(error)[-1].strip()  # str(error) may raise
    what = f"the value is a {plain.name_of(type(result))}, which cannot be stored"
    return f"{what} ({shown[:ERROR_LENGTH]}); use {plain.PLAIN}"[: payload.LONGEST_REASON]


def _note_attempt(job: Job, error: str, delay_s: int) -> None:
    """RQ saves the job with its meta when it puts it back: this goes with it."""
    attempt = int(job.connection.hget(job.key, "werk_attempt") or 1)
    lines = error.strip().splitlines() or [""]
    next_try = keys.timestamp(now() + timedelta(seconds=delay_s))
    note(job, attempt=attempt, error=lines[-1][:ERROR_LENGTH], next_try=next_try)


def note(job: Job, **facts: object) -> None:
    """Write into meta['werk'], beside what the task keeps. A meta that is unreadable stays."""
    if type(job.meta) is dict and job._unreadable_meta is None:
        before = job.meta.get("werk")
        job.meta["werk"] = {**(before if type(before) is dict else {}), **facts}
