"""The horse: one long-lived child of a worker that runs its jobs, one at a time.

1. claim    one script records the outcome of the last job and takes the next one
2. run      the registered function under the job's time limit; nothing else is imported
3. finish   a plain success goes with the next claim; everything else is recorded by RQ's own methods

The supervisor (worker.py) watches. They share a page of memory, and the horse dies with its supervisor.
"""

from __future__ import annotations

import asyncio
import base64
import inspect
import logging
import os
import random
import re
import select
import signal
import socket
import sys
import time
import traceback
import zlib
from binascii import b2a_base64
from bisect import bisect_left
from collections.abc import Callable
from datetime import datetime, timezone
from enum import IntEnum
from types import FrameType, TracebackType
from typing import TYPE_CHECKING, Any, NamedTuple

import hiredis
import redis.exceptions
from redis.backoff import AbstractBackoff, NoBackoff
from redis.retry import Retry as RetryPolicy
from rq.exceptions import DeserializationError
from rq.executions import Execution
from rq.job import Job, Retry, _current_job
from rq.timeouts import JobTimeoutException
from rq.utils import import_attribute

from werk import records, registry, wire
from werk.errors import UnknownTask, Unreadable
from werk.page import LONGEST_RUN, Page
from werk.records import Late, Refused
from werk.scripts import script
from werk.settings import Settings

if TYPE_CHECKING:
    from werk.worker import Worker

FLUSH_S = 0.5  # between two writings of the worker's state and counters while it is busy
BLOCK_S = (
    60  # one idle wait; a connection whose other end has gone is noticed after it, and by keepalive
)
HELD_S = 1.0  # between two looks at a suspension or a pause
FENCED_S = 0.2  # the supervisor is about to write our generation, or to end us
LONGEST_PAUSE_S = 1.0  # between two tries to reach Redis
HOOK_S = 10  # time limit of a hook
FINISH_S = 120  # of RQ's own finish, beyond its callbacks' limits: webhooks take 10 s each
PUT_OFF_S = 10  # a task that this worker does not know: another may, or this one after the deploy
UNKNOWN_S = 600  # but not for ever
DEFAULT_TIMEOUT_S = 180  # rq.defaults.DEFAULT_TIMEOUT
LONGEST_TIMEOUT_S = 10**8  # setitimer takes no more on some systems
FAILURE_TTL_S = 30 * 24 * 3600  # of a job whose own cannot be read
TASK_LOG_FORMAT = "%(asctime)s %(levelname)s %(name)s job=%(job)s task=%(task)s %(message)s"
JOB_ID = re.compile(r"[A-Za-z0-9_-]+")  # rq/job.py

TALLY_FIELDS = ("done", "failed", "seconds", *map(str, wire.TALLY_BOUNDS_S), "+Inf")

# What can be wrong with a connection, or with Redis for a while.
AWAY = (
    OSError,
    EOFError,
    hiredis.ProtocolError,
    redis.exceptions.ConnectionError,
    redis.exceptions.TimeoutError,
    redis.exceptions.ReadOnlyError,
    redis.exceptions.ClusterDownError,
    redis.exceptions.TryAgainError,
)
FULL = redis.exceptions.OutOfMemoryError
NOT_FITTING = (ValueError, TypeError, OverflowError)


ExcInfo = tuple[type[BaseException] | None, BaseException | None, TracebackType | None]


class Leave(IntEnum):
    """Why a horse left of its own accord: its exit code. Any other is a crash."""

    EMPTY = 100  # --burst
    SUSPENDED = 101  # --burst
    STOPPED = 102
    MAX_JOBS = 103
    IDLE = 104  # --max-idle-time
    RECYCLED = 105  # a new horse takes over
    OBEYED = 106  # it was only there for orders


class Order(NamedTuple):
    """What a supervisor leaves to the next horse, because it may run user code: fail this execution."""

    run: str
    reason: str
    is_stopped: bool = False  # on request: RQ's 'stopped' instead of 'failed'
    death: tuple[int, int, Any] | None = (
        None  # process id, wait status and resources of the horse that died
    )
    is_raw: bool = False  # a horse has died of this order: without RQ's way and users' code


class Plan(NamedTuple):
    """What this horse is for."""

    generation: str
    orders: tuple[Order, ...] = ()
    is_burst: bool = False
    max_jobs: int | None = None
    max_idle_s: float | None = None
    only_orders: bool = False


class Claim:
    """A job in hand, from step.lua's reply."""

    def __init__(self, fields: list[Any], execution: str, claimed_at: float) -> None:
        job_id, self.queue, self.origin, self.status, attempt, self.data, *rest = fields
        self.timeout_text, self.result_ttl_text, self.task_name, *special = rest
        self.raw_id = job_id
        self.id = job_id.decode("utf-8", "replace")
        self.execution = execution
        self.run = f"{self.id}:{execution}"
        self.claimed_at = claimed_at
        self.callbacks = special[:3]
        self.is_plain = not any(
            special
        )  # '' counts as none: RQ stores it for callbacks that are not used
        self.attempt = int(attempt)
        self.task = ""
        self.timeout = DEFAULT_TIMEOUT_S
        self.result_ttl = 0


class Finish(NamedTuple):
    """An outcome on its way to Redis: ARGV 12.. of step.lua, and what RQ needs if it must do it after all."""

    words: tuple[Any, ...]
    claim: Claim
    job: Any = None
    result: Any = None


NO_FINISH = Finish((), None)  # type: ignore[arg-type]


class Unknown(UnknownTask):
    """Raised for a task that this worker does not know. Another may, or this one after the deploy."""


class Channel:
    """A connection of redis-py's making, spoken to directly: packing and parsing in C."""

    def __init__(self, worker: Worker) -> None:
        self._pool = worker.connection.connection_pool
        self.socket: Any = None

    def open(self) -> None:
        connection = self._pool.connection_class(**{**self._pool.connection_kwargs, "protocol": 2})
        connection.retry = RetryPolicy(NoBackoff(), 0)
        connection.socket_connect_timeout = connection.socket_timeout = 5
        connection.connect()
        self._owner, self.socket, self._reader = connection, connection._sock, hiredis.Reader()
        self.socket.settimeout(None)
        if self.socket.family != socket.AF_UNIX:
            self.socket.setsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1)
            for option, value in (
                ("TCP_KEEPIDLE", 15),
                ("TCP_KEEPINTVL", 5),
                ("TCP_USER_TIMEOUT", 30_000),
            ):
                if hasattr(socket, option):
                    self.socket.setsockopt(socket.IPPROTO_TCP, getattr(socket, option), value)

    def close(self) -> None:
        if self.socket is not None:
            self._owner.disconnect()
        self.socket = None

    def send(self, *words: Any) -> None:
        if self.socket is None:
            self.open()
        self.socket.sendall(hiredis.pack_command(words))

    def receive(self) -> Any:
        reader, receive = self._reader, self.socket.recv
        while (reply := reader.gets()) is False:
            data = receive(65536)
            if not data:
                raise EOFError("Redis closed the connection")
            reader.feed(data)
        return reply


class Patience(AbstractBackoff):
    """For RQ's own commands: while Redis is away or full they wait, and the time for the job's finish does not run."""

    def __init__(self, horse: Horse) -> None:
        self.horse = horse

    def __deepcopy__(self, memo: object) -> Patience:
        return self  # redis-py copies its retry policy for each connection

    def compute(self, failures: int) -> float:
        horse = self.horse
        if horse.page.deadline and not horse.is_running:
            horse.page.deadline = time.monotonic() + FINISH_S
        return min(LONGEST_PAUSE_S, 0.02 * 2.0 ** min(failures, 10))


def ride(worker: Worker, page: Page, plan: Plan, bell: int) -> int:
    """Be the horse, in the child process. Returns its exit code; `bell` is rung when there is something to look at."""
    horse = Horse(worker, page, plan, bell)
    horse.settle()
    for number, order in enumerate(plan.orders):
        page.orders_begun = number + 1
        horse.obey(order)
    page.orders_begun = len(plan.orders) + 1
    return Leave.OBEYED if plan.only_orders else horse.loop()


class Horse:
    """The loop and all that it calls. Lives in the child process only."""

    def __init__(self, worker: Worker, page: Page, plan: Plan, bell: int) -> None:
        self.worker, self.page, self.plan, self.bell = worker, page, plan, bell
        self.log = logging.getLogger("rq.worker")
        self.says = self.log.isEnabledFor(logging.INFO)
        self.settings = Settings.read()
        self.is_free = self.settings.allow_unregistered
        self.tasks = {**registry.BUILT_IN, **registry.tasks()}
        self.names = {task.path: name for name, task in self.tasks.items()}
        self.functions: dict[str, Callable[..., Any]] = {}
        self.hooks: dict[str, Callable[..., Any]] = {}
        self.lazy_class = records.lazy(worker.job_class)
        self.goes_through_perform_job = worker.has_own_way_of_performing()
        self.script = script("step", worker.server_version())
        self.fence = script("fence", worker.server_version())
        self.channel = Channel(worker)
        self.channels: dict[str, Channel] = {}  # for the idle wait, one a queue
        self.listening: dict[str, Channel] = {}  # those that were asked and have not answered
        self.keys = worker.ordered_queue_keys()
        self.jobs = 0  # begun by this horse
        self.count = 0  # of requests; makes the execution ids
        self.execution, self.asked_at = "", 0.0  # of the last request
        self.done, self.worked, self.flushed_at = 0, 0.0, 0.0  # not yet written
        self.tallies: dict[str, list[float]] = {}  # nor these, by task: see tally()
        self.is_busy = self.is_too_large = False  # what Redis believes; above WERK_HORSE_MB
        self.idle_since = time.monotonic()
        self.is_running = False  # user code that the alarm may interrupt
        self.limit_s = 0
        self.current: Claim | None = None
        self.follows_strategy = worker.has_strategy()

    def settle(self) -> None:
        """Make the child its own process: signals, connections, random numbers, hooks."""
        random.seed()
        worker = self.worker
        worker._is_horse, worker.scheduler, worker.pubsub_thread = True, None, None
        worker.ask_fence = self.ask_fence
        signal.signal(signal.SIGINT, signal.SIG_IGN)
        # Neither the default, by which systemd would end the job, nor "ignore", which the job's children inherit.
        signal.signal(signal.SIGTERM, lambda *_: None)
        signal.signal(signal.SIGCHLD, signal.SIG_DFL)
        signal.signal(signal.SIGALRM, self.alarm)
        worker.restore_connection(RetryPolicy(Patience(self), -1, (*AWAY, FULL)))
        os.environ["RQ_WORKER_ID"] = worker.name
        self.settle_logs()
        for when in ("before", "after", "error"):
            if path := getattr(self.settings, f"hooks_{when}"):
                self.add_hook(when, path)

    def settle_logs(self) -> None:
        """Let every record of a task's own carry its job, and RQ's lines about each job be silent beside ours."""
        make = logging.getLogRecordFactory()

        def record(*args: Any, **kwargs: Any) -> logging.LogRecord:
            made = make(*args, **kwargs)
            made.job = self.current.id if self.current else "-"
            made.task = self.current.task if self.current else "-"
            return made

        logging.setLogRecordFactory(record)
        root = logging.getLogger()
        if not root.handlers:
            handler = logging.StreamHandler()
            handler.setFormatter(logging.Formatter(TASK_LOG_FORMAT))
            handler.addFilter(
                lambda made: not made.name.startswith("rq.")
            )  # RQ's have a handler of their own
            root.addHandler(handler)
            root.setLevel(self.log.getEffectiveLevel())
        if not self.log.isEnabledFor(logging.DEBUG):
            self.worker.log = self.log.getChild("rq")
            self.worker.log.setLevel(logging.WARNING)
            logging.getLogger("rq.job").setLevel(logging.WARNING)

    # --- the loop

    def loop(self) -> Leave:
        """Claim, run, finish, until there is a reason to leave."""
        page, finish = self.page, NO_FINISH
        while True:
            leave, cleans = self.reason_to_leave(), self.is_cleaning_due()
            outcome, claimed, dropped, paused = self.step(finish, leave is None and not cleans)
            if outcome == b"dependents":
                finish = self.succeed_by_rq(finish.claim, finish.job, finish.result) or NO_FINISH
                continue
            if outcome == b"late":
                self.say("late", finish.claim, logging.WARNING)
            if dropped:
                self.say_dropped(dropped)
            finish = NO_FINISH
            if type(claimed) is list:
                if page.stop:
                    return Leave.STOPPED  # claimed on the way: the supervisor gives it back
                self.jobs += 1
                finish = self.perform(Claim(claimed, self.execution, self.asked_at)) or NO_FINISH
                continue
            page.show(0.0, self.jobs, False, "", self.execution)
            if self.tallies:
                continue  # write them before the wait; no job waits for this round trip
            if cleans:
                self.clean()
                continue
            leave = leave or self.reason_to_leave() or self.reason_not_to_wait(claimed)
            if leave:
                return leave
            self.wait(claimed, paused)

    def reason_to_leave(self) -> Leave | None:
        if self.page.stop:
            return Leave.STOPPED
        if self.plan.max_jobs is not None and self.jobs >= self.plan.max_jobs:
            return Leave.MAX_JOBS
        if self.jobs >= self.settings.horse_jobs or self.is_too_large:
            return Leave.RECYCLED
        return None

    def reason_not_to_wait(self, why: bytes) -> Leave | None:
        if why == b"more":
            return None
        if self.plan.is_burst and why != b"fenced":
            return Leave.SUSPENDED if why == b"suspended" else Leave.EMPTY
        limit = self.plan.max_idle_s
        if limit is not None and why == b"empty" and time.monotonic() - self.idle_since >= limit:
            return Leave.IDLE
        return None

    # --- claim

    def step(self, finish: Finish, wants_job: bool) -> tuple[Any, Any, Any, Any]:
        """One round trip: record that outcome, claim the next job. See step.lua."""
        self.asked_at = now = time.time()
        self.count += 1
        self.execution = f"{self.plan.generation}{self.count:012x}"
        flush = not self.is_busy or now - self.flushed_at > FLUSH_S
        head = [self.worker.name, self.plan.generation, self.execution, iso(now), repr(now), "1" if wants_job else "0",
                "0", "1" if flush else "0", self.done, self.worked, self.tally_text() if flush else ""]  # fmt: skip
        reply = self.ask(head, finish)
        self.is_busy = len(reply) > 1 and type(reply[1]) is list
        if flush or not self.is_busy:
            self.done, self.worked, self.flushed_at = 0, 0.0, now
            if flush and len(reply) == 4:  # a reply of 'dependents' has written nothing
                self.tallies.clear()
            self.is_too_large = 0 < self.settings.horse_mb < resident_mb()
        return (*reply, b"", (), ())[:4] if len(reply) < 4 else reply

    def ask(self, head: list[Any], finish: Finish) -> Any:
        """Send it until it is answered. A request that may have arrived says so, and is recognised by its execution id."""
        pause_s = 0.0
        while True:
            try:
                self.channel.send(
                    "EVALSHA", self.script.sha, len(self.keys), *self.keys, *head, *finish.words
                )
                reply = self.channel.receive()
                if not isinstance(reply, hiredis.ReplyError):
                    return reply
                if str(reply).startswith("NOSCRIPT"):
                    self.channel.send("SCRIPT", "LOAD", self.script.text)
                    self.channel.receive()
                    continue
                raise ConnectionError(
                    str(reply)
                )  # LOADING, READONLY, ...: a new connection may find a better one
            except AWAY as error:
                self.channel.close()
                head[6] = "1"
                if self.page.stop and finish is NO_FINISH:
                    return [b"none", b"unasked", (), ()]
                if pause_s:
                    self.log.error("event=redis-away worker=%s reason=%s", self.worker.name, error)
                time.sleep(pause_s)
                pause_s = min(LONGEST_PAUSE_S, pause_s * 2 or 0.05)

    def wait(self, why: bytes, paused: list[bytes]) -> None:
        """Wait until a queue has something, without taking it. Costs Redis nothing while it lasts."""
        if why == b"more":
            return
        if why != b"empty":
            self.sleep(HELD_S if why == b"suspended" else FENCED_S)
            return
        limit = self.plan.max_idle_s
        left = None if limit is None else max(0.0, self.idle_since + limit - time.monotonic())
        if paused:
            left = min(HELD_S, HELD_S if left is None else left)
        try:
            self.listen([key for key in self.keys if key.encode() not in paused], left)
        except AWAY:
            for channel in self.listening.values():
                channel.close()
            self.listening.clear()
            self.sleep(FENCED_S)

    def listen(self, keys: list[str], left: float | None) -> None:
        for key in keys:
            if key not in self.listening:
                channel = self.channels.setdefault(key, Channel(self.worker))
                channel.send(
                    "BLMOVE", key, key, "LEFT", "LEFT", BLOCK_S
                )  # moves the first job to where it is
                self.listening[key] = channel
        sockets = {channel.socket: key for key, channel in self.listening.items() if key in keys}
        for found in select.select([self.bell, *sockets], [], [], left)[0]:
            if found == self.bell:
                self.answer_bell()
                continue
            reply = self.listening.pop(sockets[found]).receive()
            if isinstance(
                reply, hiredis.ReplyError
            ):  # OOM: it counts as a write. Ask again and again instead
                self.channels.pop(sockets[found]).close()
                self.sleep(FENCED_S)

    def sleep(self, seconds: float) -> None:
        if select.select([self.bell], [], [], seconds)[0]:
            self.answer_bell()

    def answer_bell(self) -> None:
        if not os.read(self.bell, 4096):
            os._exit(1)  # the supervisor is gone

    # --- run

    def perform(self, claim: Claim) -> Finish | None:
        """Run a job. Returns its outcome if the next step is to record it, None if that was done."""
        page = self.page
        page.show(0.0, self.jobs - 1, True, claim.run, claim.execution)
        job = records.begin(self.lazy_class, claim.id, self.worker)
        try:
            call = self.read(claim)
        except (Refused, Unreadable, Unknown) as reason:
            return self.refuse(claim, job, reason)
        if self.goes_through_perform_job:
            return self.perform_by_rq(claim, job)
        self.begin(claim, job)
        started = time.time()
        result, error = self.run(claim, job, *call)
        ended = time.time()
        self.idle_since = time.monotonic()
        self.tally(claim, error is None, ended - started)
        self.end(claim, job, result, error, ended - started)
        if error:
            return self.fail_by_rq(claim, job, error)
        plain = (
            claim.is_plain
            and claim.result_ttl > 0
            and type(job) is self.lazy_class
            and type(result) is not Retry
        )
        value = self.dump(result) if plain else None
        if value is None:
            return self.succeed_by_rq(claim, job, result)
        self.done += 1
        self.worked += ended - started
        words = (claim.raw_id, claim.origin, claim.execution, "finished", iso(ended), claim.result_ttl, value,
                 repr(claim.claimed_at), repr(ended))  # fmt: skip
        return Finish(words, claim, job, result)

    def read(self, claim: Claim) -> tuple[Any, tuple[Any, ...], dict[str, Any]]:
        """Return function, args and kwargs of a job that may run. Raises Refused or Unreadable; imports nothing."""
        if claim.status:
            raise Refused(f"its status was {text(claim.status)!r}, which RQ does not know")
        if len(claim.run) > LONGEST_RUN or not JOB_ID.fullmatch(claim.id):
            raise Refused("its id is none: letters, digits, - and _, not too many")
        try:
            claim.timeout = int(claim.timeout_text or 0) or DEFAULT_TIMEOUT_S
            ttl = claim.result_ttl_text
            claim.result_ttl = int(ttl) if ttl else self.worker.default_result_ttl
        except ValueError:
            raise Refused("its timeout or result_ttl is no whole number") from None
        if self.is_free:
            return self.read_anything(claim)
        path, args, kwargs = wire.read_call(claim.data or b"")
        if claim.task_name:
            claim.task = text(claim.task_name)
            if claim.task not in self.tasks:
                raise Unknown(claim.task)
            path = self.tasks[claim.task].path
        else:
            records.permit(path)
            claim.task = self.names[path]
        for name in claim.callbacks:
            records.permit(text(name or b""))
        return path, args, kwargs

    def read_anything(self, claim: Claim) -> tuple[Any, tuple[Any, ...], dict[str, Any]]:
        """WERK_ALLOW_UNREGISTERED: whatever RQ would run. An error of reading is the job's own, as in RQ."""
        try:
            name, instance, args, kwargs = self.worker.serializer.loads(
                wire.decompress(claim.data or b"")
            )
        except Exception:
            return _unreadable, (), {}
        claim.task = self.names.get(name, str(name))
        return (getattr(instance, name) if instance else name), args, kwargs

    def run(
        self, claim: Claim, job: Job, function: Any, args: tuple[Any, ...], kwargs: dict[str, Any]
    ) -> tuple[Any, ExcInfo | None]:
        """Call the function under the job's time limit. Returns its result, or what it raised."""
        result, error = None, None
        token = _current_job.set(job)
        try:
            self.is_running = True
            self.limit_s = claim.timeout
            if claim.timeout > 0:
                self.page.deadline = time.monotonic() + claim.timeout
                signal.setitimer(signal.ITIMER_REAL, min(claim.timeout, LONGEST_TIMEOUT_S))
            if type(function) is str:
                function = self.functions.get(function) or self.look_up(function)
            result = function(*args, **kwargs)
            if inspect.iscoroutine(result):
                result = asyncio.run(result)
            self.is_running = False
        except BaseException:  # SystemExit too: as in RQ, it fails the job and not the worker
            self.is_running = False
            error = sys.exc_info()
        signal.setitimer(signal.ITIMER_REAL, 0)
        self.page.deadline = 0.0
        _current_job.reset(token)
        return result, error

    def look_up(self, path: str) -> Callable[..., Any]:
        function: Callable[..., Any] = import_attribute(path)
        self.functions[path] = function
        return function

    def alarm(self, signum: int, frame: FrameType | None) -> None:
        if self.is_running:
            self.is_running = False
            raise JobTimeoutException(
                f"Task exceeded maximum timeout value ({self.limit_s} seconds)"
            )

    def dump(self, result: Any) -> bytes | None:
        """Return a result as RQ stores it, None for what needs RQ's own way."""
        if result is None:
            return b""
        try:
            return b2a_base64(self.worker.serializer.dumps(result), newline=False)
        except Exception:
            return None

    # --- finish: RQ's own way

    def succeed_by_rq(self, claim: Claim, job: Job, result: Any) -> Finish | None:
        def record(job: Job, queue: Any, execution: Execution) -> None:
            try:
                self.worker._finalize_success(job, queue, execution, result)
            except Late:
                raise
            except BaseException:  # a success callback that fails: the job fails, as in RQ
                self.worker._finalize_failure(job, queue, execution, sys.exc_info())

        return self.record_by_rq(claim, job, record)

    def fail_by_rq(self, claim: Claim, job: Job, error: ExcInfo) -> Finish | None:
        kind, value, trace = error
        shown = (kind, value, (trace and trace.tb_next) or trace)  # without our own line
        return self.record_by_rq(
            claim,
            job,
            lambda *its: self.worker._finalize_failure(*its, shown),  # type: ignore[call-arg]
        )

    def perform_by_rq(self, claim: Claim, job: Job) -> Finish | None:
        """A subclass has replaced a piece of RQ's perform_job, or of the job's: all of it runs."""
        self.page.deadline = (
            time.monotonic() + claim.timeout + FINISH_S if claim.timeout > 0 else 0.0
        )
        return self.record_by_rq(claim, job, self.worker.perform_job)

    def refuse(self, claim: Claim, job: Job, error: Exception) -> Finish | None:
        """Fail a job at once, or put it off: this worker may only be older than the job."""
        if isinstance(error, Unknown) and (due := self.put_off_until(claim)):
            self.say("put-off", claim)
            words = (
                claim.raw_id,
                claim.origin,
                claim.execution,
                "scheduled",
                "",
                repr(due),
                "",
                "",
                "",
            )
            return Finish(words, claim)
        self.say("refused", claim, logging.WARNING, reason=error)
        self.tally(claim, False)

        def record(job: Job, queue: Any, execution: Execution) -> None:
            job.retries_left = None  # it would be refused again
            job.ended_at = datetime.now(timezone.utc)
            reason = f"{type(error).__module__}.{type(error).__qualname__}: {error}"
            self.worker.handle_job_failure(job, queue, exc_string=reason, execution=execution)

        return self.record_by_rq(claim, job, record, error)

    def put_off_until(self, claim: Claim) -> float | None:
        try:
            created_at = self.worker.connection.hget(wire.key("job", claim.id), "created_at")
            created = datetime.fromisoformat(text(created_at)).timestamp()
        except NOT_FITTING:
            return None
        return time.time() + PUT_OFF_S if time.time() < created + UNKNOWN_S else None

    def record_by_rq(
        self,
        claim: Claim,
        job: Job,
        record: Callable[[Job, Any, Execution], object],
        why: BaseException | None = None,
    ) -> Finish | None:
        """Let RQ's own methods record an outcome. What they cannot record, step.lua will fail, or discard as late."""
        worker = self.worker
        trouble: BaseException | None = why
        execution = Execution(claim.execution, claim.id, worker.connection, worker.name)
        execution.created_at = datetime.fromtimestamp(claim.claimed_at, timezone.utc)
        try:
            job = execution._job = records.load(job)
            job.redis_server_version = worker.server_version()
            if not self.goes_through_perform_job:
                self.page.deadline = time.monotonic() + self.finish_limit(job)
            worker.executions = {execution.id: execution}
            record(job, worker.queue_of(job), execution)
            is_open = (
                worker.connection.zscore(wire.key("wip", text(claim.origin)), claim.run) is not None
            )
            trouble = (
                (trouble or RuntimeError("RQ did not record its outcome")) if is_open else None
            )
        except BaseException as error:
            self.log.debug("event=unrecorded job=%s", claim.id, exc_info=True)
            trouble = trouble or error
        finally:
            worker.executions = {}
            worker._stopped_job_id = None
            self.is_running = False
            signal.signal(
                signal.SIGALRM, self.alarm
            )  # RQ's death penalty leaves the default, which kills
            self.page.deadline = 0.0
        return self.failed(claim, trouble) if trouble else None

    def failed(self, claim: Claim, error: BaseException) -> Finish:
        """A failure recorded without RQ: the last resort for a record that RQ cannot even read."""
        reason = "".join(traceback.format_exception_only(error)).strip()
        value = base64.b64encode(zlib.compress(reason.encode("utf-8", "replace")))
        now = time.time()
        words = (claim.raw_id, claim.origin, claim.execution, "failed", iso(now), FAILURE_TTL_S, value,
                 repr(claim.claimed_at), repr(now))  # fmt: skip
        return Finish(words, claim)

    def finish_limit(self, job: Job) -> float:
        return FINISH_S + float(job.success_callback_timeout) + float(job.failure_callback_timeout)

    # --- orders, and RQ's clean-up: they may run user code, so the supervisor leaves them to us

    def obey(self, order: Order) -> None:
        """Fail an execution whose horse is dead, as RQ's worker would: its callbacks, retries and dependents."""
        worker = self.worker
        job_id, _, execution_id = order.run.rpartition(":")
        claim = self.claim_of(job_id, execution_id)

        def record(job: Job, queue: Any, execution: Execution) -> None:
            if not self.ask_fence(order.run, queue.name, records.RECORDING_S):
                raise Late(order.run)
            job.ended_at = datetime.now(timezone.utc)
            if order.is_stopped:
                worker._stopped_job_id = job.id
                worker._handle_stopped_job(job, queue, execution)
                return
            if order.death:
                worker.handle_work_horse_killed(job, *order.death)  # type: ignore[no-untyped-call]
            worker.handle_job_failure(
                job, queue=queue, exc_string=order.reason, execution=execution
            )

        job = records.begin(self.lazy_class, job_id, worker)
        why = RuntimeError(order.reason)
        finish = (
            self.failed(claim, why) if order.is_raw else self.record_by_rq(claim, job, record, why)
        )
        self.tally(claim, False)
        self.say("failed", claim, logging.WARNING, reason=order.reason)
        if finish:
            self.step(finish, False)

    def claim_of(self, job_id: str, execution_id: str) -> Claim:
        facts: list[bytes | str | None] = [None, None, None]
        try:
            key = wire.key("job", job_id)
            facts = self.worker.connection.hmget(key, "origin", "werk_attempt", "werk_task")
        except redis.exceptions.ResponseError:
            pass  # no hash: it will be found late
        origin, attempt, task = facts
        fields = [job_id.encode(), b"", origin, b"", attempt or 0, *(None,) * 9]
        claim = Claim(fields, execution_id, time.time())
        claim.task = text(task)
        return claim

    def is_cleaning_due(self) -> bool:
        return (
            time.monotonic() - self.page.cleaned_at > self.worker.maintenance_interval
            or not self.page.cleaned_at
        )

    def clean(self) -> None:
        """RQ's clean-up of what stock workers left. Noted first: a record that kills us must not do so again at once."""
        self.page.cleaned_at = time.monotonic()
        try:
            self.worker.run_maintenance_tasks()  # type: ignore[no-untyped-call]
        except Exception:
            self.log.exception("event=clean-up-failed worker=%s", self.worker.name)
        signal.signal(signal.SIGALRM, self.alarm)

    def ask_fence(self, run: str, queue: str, seconds: int) -> bool:
        words = (run, queue, repr(time.time()), seconds)
        return bool(self.worker.connection.eval(self.fence.text, 0, *words))

    # --- counts for the metrics

    def tally(self, claim: Claim, is_success: bool, seconds: float | None = None) -> None:
        """Count an execution of its task: done or failed, and if it began here, how long it took."""
        # few names, whatever is enqueued
        name = claim.task if claim.task in self.tasks else "other"
        counts = self.tallies.get(name)
        if counts is None:
            counts = self.tallies[name] = [0] * (4 + len(wire.TALLY_BOUNDS_S))
        counts[0 if is_success else 1] += 1
        if seconds is not None:
            counts[2] += seconds
            counts[3 + bisect_left(wire.TALLY_BOUNDS_S, seconds)] += 1

    def tally_text(self) -> str:
        """Return ARGV 11 of step.lua."""
        return " ".join(
            f"{name}|{field} {amount:.9g}"
            for name, counts in self.tallies.items()
            for field, amount in zip(TALLY_FIELDS, counts, strict=True)
            if amount
        )

    # --- hooks and logs

    def add_hook(self, when: str, path: str) -> None:
        try:
            self.hooks[when] = import_attribute(path)
        except Exception:
            self.log.exception("event=hook-failed hook=%s path=%s: it is left out", when, path)

    def hook(self, when: str, *arguments: Any) -> None:
        """Call a hook under a time limit of its own. Whatever it raises is logged and harms no job."""
        hook = self.hooks.get(when)
        if hook is None:
            return
        self.page.deadline, self.limit_s = time.monotonic() + HOOK_S, HOOK_S
        try:
            self.is_running = True
            signal.setitimer(signal.ITIMER_REAL, HOOK_S)
            hook(*arguments)
            self.is_running = False
        except BaseException:
            self.is_running = False
            self.log.exception("event=hook-failed hook=%s", when)
        signal.setitimer(signal.ITIMER_REAL, 0)
        self.page.deadline = 0.0

    def begin(self, claim: Claim, job: Job) -> None:
        self.current = claim
        os.environ["RQ_JOB_ID"] = claim.id
        if self.says:
            self.say("started", claim)
        if self.hooks:
            self.hook("before", job)

    def end(
        self, claim: Claim, job: Job, result: Any, error: ExcInfo | None, elapsed_s: float
    ) -> None:
        if self.hooks:
            self.hook("error", job, error[1]) if error else self.hook("after", job, result)
        self.current = None
        if self.says:
            outcome = f"failed error={error[0].__name__}" if error and error[0] else "done"
            self.say(outcome, claim, elapsed=f"{elapsed_s:.3f}")
        if self.follows_strategy:
            self.reorder(claim)

    def say(self, event: str, claim: Claim, level: int = logging.INFO, **more: object) -> None:
        """One line an event. Never arguments."""
        facts = {
            "job": claim.id,
            "task": claim.task or "-",
            "queue": text(claim.origin),
            "attempt": claim.attempt,
            **more,
        }
        self.log.log(
            level,
            "event=%s %s",
            event,
            " ".join(f"{name}={value}" for name, value in facts.items()),
        )

    def say_dropped(self, dropped: list[bytes]) -> None:
        for job_id, why in zip(dropped[::2], dropped[1::2], strict=True):
            self.log.warning("event=dropped job=%s reason=%r", text(job_id), text(why))

    def reorder(self, claim: Claim) -> None:
        worker, name = self.worker, text(claim.queue)
        worker.reorder_queues(
            next((q for q in worker._ordered_queues if q.name == name), worker._ordered_queues[0])
        )
        self.keys = worker.ordered_queue_keys()


_second, _second_text = 0, ""


def iso(moment: float) -> str:
    """Return a Unix time as RQ writes it (rq.utils.utcformat). The text of a second is made once."""
    global _second, _second_text
    second = int(moment)
    if second != _second:
        _second, _second_text = second, time.strftime("%Y-%m-%dT%H:%M:%S", time.gmtime(second))
    return f"{_second_text}.{int((moment - second) * 1e6):06d}Z"


def text(data: bytes | str | None) -> str:
    return data if isinstance(data, str) else (data or b"").decode("utf-8", "replace")


def resident_mb() -> float:
    """Return the memory that this process holds, 0 where the system does not say."""
    try:
        with open("/proc/self/statm") as file:
            return int(file.read().split()[1]) * os.sysconf("SC_PAGESIZE") / 2**20
    except OSError:
        return 0.0


def _unreadable() -> None:
    raise DeserializationError()
