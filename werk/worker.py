"""Worker(rq.Worker): the supervisor. `werk worker`, `rq worker` with RQ_WORKER_CLASS, rq worker-pool.

1. start a horse (horse.py), which claims, runs and finishes jobs over a connection of its own
2. watch it: once a second a tick (lease, rescue, due jobs); time limits, commands and signals at once
3. when it is gone, cut it off in Redis and settle what it had in hand; then the next horse, or the end

The supervisor runs no code of users' and none of RQ's clean-up: either can take longer than a lease.
"""

from __future__ import annotations

import ctypes
import fcntl
import gc
import os
import select
import signal
import socket
import sys
import threading
import time
from collections import deque
from collections.abc import Callable
from types import FrameType
from typing import Any, NamedTuple, TypeVar
from uuid import uuid4

import redis.exceptions
import rq
import rq.command
import rq.scheduler
import rq.worker_registration
from redis.backoff import NoBackoff
from redis.retry import Retry as RetryPolicy
from rq.defaults import DEFAULT_LOGGING_DATE_FORMAT, DEFAULT_LOGGING_FORMAT
from rq.job import Job
from rq.logutils import setup_loghandlers
from rq.queue import Queue
from rq.utils import now
from rq.worker import DequeueStrategy, WorkerStatus
from rq.worker.base import BaseWorker

from werk import records, registry, signature, wire
from werk.errors import ConfigError, RedisUnavailable
from werk.horse import AWAY, FULL, Leave, Order, Plan, iso, ride
from werk.link import Script, link_over
from werk.page import Page, State
from werk.records import RecordingWorker
from werk.scripts import script
from werk.settings import Settings

F_SETSIG = 10  # fcntl(2), Linux; not in the fcntl module
QUIET_S = 1.0  # two signals within it are one, as in RQ: a pool and a terminal both send theirs
SOCKET_S = 5.0  # the supervisor's own commands wait no longer
TICK_BUDGET_S = 1.0  # nor does a tick: limits and signals are looked at between two
CATALOG_S = 5.0  # between two beats of the catalog; a reader takes three missed ones for gone
CATALOG_WHOLE_S = 3600.0  # between two writings of all that it says
LONGEST_PAUSE_S = 5.0  # between two horses that die at once
RAN_S = 1.0  # a horse that lived for longer did not die at once

# Pieces of RQ's own loop, and of its way of performing a job. Where one is replaced, RQ's own runs.
LOOP = ("perform_job", "execute_job", "dequeue_job_and_maintain_ttl", "fork_work_horse", "monitor_work_horse",
        "wait_for_horse", "main_work_horse", "setup_work_horse_signals", "heartbeat", "maintain_heartbeats",
        "check_for_suspension")  # fmt: skip
PERFORMING = ("prepare_execution", "prepare_job_execution", "handle_job_success", "handle_execution_ended",
              "_finalize_success", "_finalize_failure", "cleanup_execution")  # fmt: skip

T = TypeVar("T")


class Killed(NamedTuple):
    """Why we killed the horse, and which execution was meant; any other that it had in hand is not at fault."""

    why: str  # timeout, command, stop, lost, cold
    run: str = ""


class Worker(RecordingWorker):
    """A worker that loses nothing. Its parts in time are class attributes, in seconds, so that tests can be short."""

    lease_s = 15.0  # a worker that is silent for longer is taken for dead
    tick_s = 1.0
    grace_s = 4.5  # from a job's time limit to the end of a horse that ignores it

    _is_live = False  # our own loop is running, in this process

    def __init__(self, queues: Any, name: str | None = None, *args: Any, **kwargs: Any) -> None:
        is_own = kwargs.get("prepare_for_work", True)
        if is_own and not name:  # a restarted container has the same host and process id
            name = f"{socket.gethostname()}:{os.getpid()}:{uuid4().hex[:4]}"
        super().__init__(queues, name, *args, **kwargs)
        if not Settings.read().allow_unregistered:
            self.serializer = records.PlainSerializer
            self.job_class = records.registered_only(self.job_class)
            self.queues = [self._queue(queue.name) for queue in self.queues]
            self._ordered_queues = self.queues[:]

    # --- what the horse asks of its worker

    def queue_of(self, job: Job) -> Queue:
        return self._queue(job.origin)

    def ordered_queue_keys(self) -> list[str]:
        return [queue.key for queue in self._ordered_queues]

    def has_strategy(self) -> bool:
        """Tell whether the order of the queues changes from job to job."""
        is_default = self._dequeue_strategy in (None, DequeueStrategy.DEFAULT)
        return not is_default or type(self).reorder_queues is not BaseWorker.reorder_queues

    def has_own_way_of_performing(self) -> bool:
        perform = (self.job_class.perform, self.job_class._execute)
        return self._replaces(PERFORMING) or perform != (Job.perform, Job._execute)

    def restore_connection(self, retry: RetryPolicy) -> None:
        """Make the connection what RQ had made it, for the horse: jobs may use it for commands that block."""
        self.connection.connection_pool.reset()
        self.connection.connection_pool.connection_kwargs["socket_timeout"] = self.connection_timeout
        self.connection.set_retry(retry)

    # --- the supervisor

    def work(
        self,
        burst: bool = False,
        logging_level: str | None = None,
        date_format: str = DEFAULT_LOGGING_DATE_FORMAT,
        log_format: str = DEFAULT_LOGGING_FORMAT,
        max_jobs: int | None = None,
        max_idle_time: int | None = None,
        with_scheduler: bool = False,
        dequeue_strategy: DequeueStrategy = DequeueStrategy.DEFAULT,
    ) -> bool:
        """Work until there is a reason to leave. Options and result are RQ's (rq.worker.BaseWorker.work)."""
        if self._is_not_ours():
            return super().work(
                burst, logging_level, date_format, log_format, max_jobs, max_idle_time, with_scheduler, dequeue_strategy
            )
        self._say_who_we_are(logging_level, date_format, log_format)
        self.bootstrap(logging_level, date_format, log_format)
        self._dequeue_strategy = dequeue_strategy
        self._set_up(Plan("", (), burst, max_jobs, max_idle_time), with_scheduler)
        try:
            while not self._is_leaving:
                self._start_horse()
                self._watch()
                self._settle()
        finally:
            self._tear_down()
        if self._is_cold:
            raise SystemExit
        return self._jobs > 0

    def _set_up(self, plan: Plan, with_scheduler: bool) -> None:
        self._plan, self._page, self._jobs = plan, Page(), 0
        self._orders: list[Order] = []
        self._commands: deque[dict[str, Any]] = deque()
        self._is_leaving = self._is_draining = self._is_cold = self._is_away = False
        self._killed: Killed | None = None
        self._lost_run, self._pause_s = "", 0.0
        self._served_at = self._catalog_at = -CATALOG_WHOLE_S
        self._moves_due = with_scheduler or not plan.is_burst
        if with_scheduler:  # the tick does its work; RQ and its users look at whether there is one
            self.scheduler = rq.scheduler.RQScheduler(self.queues, connection=self.connection, serializer=self.serializer)
        self._wake_r, self._wake_w = os.pipe()
        os.set_blocking(self._wake_r, False)
        os.set_blocking(self._wake_w, False)
        self._old_wake = signal.set_wakeup_fd(self._wake_w, warn_on_full_buffer=False)
        signal.signal(signal.SIGCHLD, lambda *_: None)
        self._is_live = True
        self._install_signal_handlers()
        self._tame_connection()
        version = self.get_redis_server_version()
        self._tick_script, self._back_script = script("tick", version), script("back", version)
        self._link = link_over(self.connection, TICK_BUDGET_S)
        self._generation = uuid4().hex[:20]
        self._tick()
        if plan.is_burst:
            self._moves_due = False  # one pass, as RQ's scheduler does

    def _start_horse(self) -> None:
        self._generation, self._killed = uuid4().hex[:20], None
        self._insist(lambda: self.connection.hset(self.key, "werk_horse", self._generation))
        left = None if self._plan.max_jobs is None else self._plan.max_jobs - self._jobs
        plan = self._plan._replace(
            generation=self._generation,
            orders=tuple(self._orders),
            max_jobs=left,
            only_orders=self._is_draining or (left is not None and left <= 0),
        )
        self._page.stop = 0
        self._page.orders_begun = 0
        self._page.show(0.0, 0, False, "", "")
        bell, self._bell = os.pipe()
        life, self._life = os.pipe()
        trim_memory()
        sys.stdout.flush()
        sys.stderr.flush()
        parent, self._started_at = os.getpid(), time.monotonic()
        self._horse_pid = os.fork()
        if self._horse_pid == 0:
            self._be_horse(plan, bell, life, parent)
        os.close(bell)
        os.close(life)
        try:
            os.setpgid(self._horse_pid, self._horse_pid)  # both do it, so that it is done whoever comes first
        except OSError:
            pass
        if self._is_draining and not plan.only_orders:
            self._ask_to_stop()

    def _be_horse(self, plan: Plan, bell: int, life: int, parent: int) -> None:
        code = 1
        try:
            self._is_live = False
            signal.set_wakeup_fd(-1)
            for descriptor in (self._bell, self._life, self._wake_r, self._wake_w):
                os.close(descriptor)
            os.setpgid(0, 0)
            die_with_supervisor(life, parent)
            code = ride(self, self._page, plan, bell)
        except BaseException:
            self.log.exception("event=horse-failed worker=%s", self.name)
        finally:
            try:
                sys.stdout.flush()
                sys.stderr.flush()
            finally:
                os._exit(code)

    def _watch(self) -> None:
        """Tick, keep limits and obey, until the horse is gone."""
        tick_at = time.monotonic() + self.tick_s
        while not self._reap(os.WNOHANG):
            deadline = self._page.deadline
            until = min(tick_at, deadline + self.grace_s) if deadline else tick_at
            self._doze(until - time.monotonic())
            while self._commands:
                rq.command.handle_command(self, self._commands.popleft())
            self._keep_limits()
            if time.monotonic() >= tick_at:
                tick_at = time.monotonic() + self.tick_s
                self._tick()

    def _doze(self, seconds: float) -> None:
        """Sleep until a signal, a command or the horse's end."""
        if select.select([self._wake_r], [], [], max(0.0, seconds))[0]:
            try:
                os.read(self._wake_r, 4096)
            except BlockingIOError:
                pass

    def _keep_limits(self) -> None:
        if self._is_cold:
            self._kill(Killed("cold"))
        state, clock = self._page.state(), time.monotonic()
        if state.deadline and clock > state.deadline + self.grace_s:
            self._kill(Killed("timeout", state.run))
        elif self._is_draining and not state.is_busy and clock > self._drained_at + self.grace_s:
            self._kill(Killed("cold"))  # idle, but it does not answer: Redis is frozen

    # --- the tick

    def _tick(self) -> None:
        """One script: see tick.lua. While Redis is away nothing is lost: the horse keeps its outcome, and asks again."""
        state = self._page.state()
        run = state.run if state.is_busy else ""
        head = [self.name, iso(time.time()), repr(time.time()), self._generation, run, state.last, self.lease_s,
                self.worker_ttl + 60, int(self._moves_due)]  # fmt: skip
        try:
            events = self._link.run(self._tick_script, self.queue_keys(), [*head, *self._catalog()])
        except (RedisUnavailable, ConfigError) as error:
            if not self._is_away:
                self.log.error("event=redis-away worker=%s reason=%s", self.name, error)
            self._is_away = True
            return
        if self._is_away:
            self.log.warning("event=redis-back worker=%s", self.name)
        self._is_away = False
        lost = ""
        for what, *facts in events:
            if what == b"lost":
                lost = facts[0].decode()
            else:
                self._handle(what.decode(), facts)
        if lost and lost == self._lost_run and self._page.state().run == lost:
            self._kill(Killed("lost", lost))  # twice: the first time it may have ended between our look and the script
        self._lost_run = lost

    def _handle(self, what: str, facts: list[Any]) -> None:
        if what == "unborn":  # it expired, or Redis is back without its memory
            self._insist(self._write_birth)
            self._served_at = self._catalog_at = -CATALOG_WHOLE_S
            self._tick()
        elif what == "more":
            self._tick()
        elif what == "limited":
            self._enqueue_limited(facts[0].decode(), facts[1].decode())
        else:
            run, crashes, worker = facts[0].decode("utf-8", "replace"), facts[1], (facts[2:] or [b"itself"])[0].decode()
            self.log.warning("event=rescued run=%s became=%s crashes=%s worker=%s", run, what, crashes, worker)
            if what == "fail":
                self._orders.append(Order(run, killed_text(crashes, "its worker or host died")))
                self._ask_to_stop()  # the next horse fails it

    def _write_birth(self) -> None:
        with self.connection.pipeline() as pipeline:
            pipeline.hset(self.key, mapping={**self.serialize(), "werk_horse": self._generation, "state": self._state})
            pipeline.expire(self.key, self.worker_ttl + 60)
            rq.worker_registration.register(self, pipeline)
            pipeline.execute()

    def _enqueue_limited(self, job_id: str, queue_name: str) -> None:
        """A due job of a rate limit, moved as RQ's scheduler moves it."""
        try:
            job = self.job_class.fetch(job_id, self.connection, self.serializer)
            queue = self._queue(queue_name)
            with self.connection.pipeline() as pipeline:
                queue.scheduled_job_registry.remove(job_id, pipeline=pipeline)
                queue._enqueue_rate_limited_job(job, pipeline=pipeline, at_front=job.should_enqueue_at_front())
                pipeline.execute()
        except Exception as error:
            self.log.error("event=not-enqueued job=%s reason=%s: %s", job_id, type(error).__name__, error)

    def _catalog(self) -> list[Any]:
        """What tick.lua writes of the tasks that we serve: names and fingerprints often, the rest once an hour."""
        clock = time.monotonic()
        if clock < self._served_at + CATALOG_S:
            return [0]
        self._served_at = clock
        serves, pages = catalog()
        is_whole = clock >= self._catalog_at + CATALOG_WHOLE_S
        if is_whole:
            self._catalog_at = clock
        return [len(serves), *serves, *(pages if is_whole else ())]

    # --- the end of a horse

    def _reap(self, options: int = 0) -> bool:
        """Tell whether the horse has ended. By its signal, not by a pipe: its own children may hold that open."""
        pid, self._status, self._usage = os.wait4(self._horse_pid, options)
        if pid == 0:
            return False
        self._kill_group()  # what it left behind
        self._dead_pid, self._horse_pid = pid, 0
        os.close(self._bell)
        os.close(self._life)
        return True

    def _settle(self) -> None:
        """Cut the dead horse off in Redis, and decide about each execution that it had in hand."""
        state, leave = self._page.state(), self._left()
        del self._orders[: max(0, self._page.orders_begun - 1)]
        if self._orders and self._page.orders_begun:
            self._orders.pop(0)  # it died of it: TODO
        ordered = {order.run for order in self._orders}
        for run in self._insist(self._cut_off) or ():
            if run not in ordered:
                self._insist(lambda run=run: self._decide(run, state, leave))
        self._jobs += state.jobs
        self._pause(state, leave)
        self._is_leaving = self._is_done(leave)

    def _left(self) -> Leave | None:
        """Return why the horse left of its own accord; None if it died."""
        code = os.waitstatus_to_exitcode(self._status)
        return Leave(code) if code in list(Leave) and not self._page.state().is_busy else None

    def _cut_off(self) -> list[str]:
        """Its last request may still be in a socket of Redis's: a new generation, and what it has by then, at once."""
        self._generation = uuid4().hex[:20]
        with self.connection.pipeline() as pipeline:
            pipeline.hset(self.key, mapping={"werk_horse": self._generation, "state": WorkerStatus.IDLE})
            pipeline.smembers(self.executions_key)
            return [run.decode("utf-8", "replace") for run in pipeline.execute()[1]]

    def _decide(self, run: str, state: State, leave: Leave | None) -> None:
        killed = self._killed
        if killed and killed.run == run and killed.why in ("timeout", "command", "stop"):
            self._orders.append(self._order(run, killed.why))
            return
        is_crash = leave is None and killed is None and state.is_busy and state.run == run
        words = [run, self.name, int(is_crash), repr(time.time())]
        what, crashes = self._link.run(self._back_script, [], words)
        self.log.warning("event=given-back run=%s became=%s crashes=%s: %s", run, what.decode(), crashes, self._death())
        if what == b"fail":
            text = killed_text(crashes, self._death())
            self._orders.append(Order(run, text, death=(self._dead_pid, self._status, self._usage)))

    def _order(self, run: str, why: str) -> Order:
        death = (self._dead_pid, self._status, self._usage)
        if why == "timeout":
            text = f"rq.timeouts.JobTimeoutException: Task exceeded its time limit and ignored that for {self.grace_s:g} s; killed"
            return Order(run, text, death=death)
        return Order(run, self._death(), is_stopped=why == "stop", death=None if why == "stop" else death)
