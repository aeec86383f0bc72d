"""Worker(rq.Worker), the supervisor: for `werk worker`, `rq worker` and `rq worker-pool`.

1. start a horse (horse.py), which claims, runs and finishes jobs over its own connection
2. watch it: a tick a second (lease, rescue, due jobs); limits, commands and signals at once
3. when it is gone, cut it off in Redis and settle what it had in hand; then the next, or the end

The supervisor runs no users' code and none of RQ's clean-up: they can take longer than a lease.
"""

from __future__ import annotations

import ctypes
import fcntl
import gc
import logging
import os
import select
import signal
import socket
import sys
import threading
import time
from collections import deque
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from importlib.metadata import version
from inspect import signature
from types import FrameType, SimpleNamespace
from typing import Any, NamedTuple
from uuid import uuid4

import redis.exceptions
import rq
import rq.command
import rq.scheduler
import rq.worker_registration
from redis.backoff import NoBackoff
from redis.retry import Retry as RetryPolicy
from rq.job import Job
from rq.logutils import setup_loghandlers
from rq.queue import Queue
from rq.worker import DequeueStrategy
from rq.worker.base import BaseWorker

from werk import catalog, records, registry, wire
from werk.channel import AWAY, FULL, LONGEST_PAUSE_S, PatientRedis, impatience, patience
from werk.claim import iso
from werk.errors import EXIT_CONFIG, EXIT_OK, ConfigError, RedisUnavailable
from werk.horse import ride
from werk.link import Link, Script, link_over
from werk.page import Leave, Order, Page, Plan, State
from werk.records import RecordingWorker
from werk.scripts import script
from werk.settings import KEY_PREFIX, Settings

SIGNALS_HANG_UP = sys.platform == "linux"  # the kernel tells, by a signal, of the end of a pipe
F_SETSIG = 10  # fcntl(2), Linux; not in the fcntl module
QUIET_S = 1.0  # two signals within it are one, as in RQ: a pool and a terminal both send theirs
SOCKET_S = 5.0  # the supervisor's own commands wait no longer
TICK_BUDGET_S = 1.0  # nor does a tick: limits and signals are looked at between two
CATALOG_S = 5.0  # between two beats of the catalog; a reader takes three missed ones for gone
CATALOG_WHOLE_S = 3600.0  # between two writings of all that it says
HORSE_PAUSE_S = 5.0  # the longest between two horses that die at once
RAN_S = 1.0  # a horse that lived for longer did not die at once

# Pieces of RQ's own loop, and of its way of performing a job. Where one is replaced, RQ's own runs.
LOOP = tuple(
    "perform_job execute_job dequeue_job_and_maintain_ttl fork_work_horse monitor_work_horse"
    " wait_for_horse main_work_horse setup_work_horse_signals heartbeat maintain_heartbeats"
    " check_for_suspension".split()
)
PERFORMING = tuple(
    "prepare_execution prepare_job_execution handle_job_success handle_execution_ended"
    " _finalize_success _finalize_failure cleanup_execution".split()
)

LEASES = wire.key("werk", "leases")
PEAK_PER_MIB = 1024 if sys.platform == "linux" else 1024 * 1024  # ru_maxrss: kB, or bytes


class _GivenUp(Exception):
    """Raised when we are to leave and Redis does not answer: others will rescue what is open."""


class Killed(NamedTuple):
    """Why we killed the horse, and which execution was meant: no other in its hand is at fault."""

    why: str  # timeout, command, stop, lost, cold
    run: str = ""


class Worker(RecordingWorker):
    """A worker that loses nothing. Its times are attributes, in seconds, for short tests."""

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

    def serialize(self) -> dict[Any, Any]:
        """Our hash in Redis; what `werk status` judges us by is in it, where our own loop runs."""
        own = {"werk_lease": self.lease_s, "werk_free": int(Settings.read().allow_unregistered)}
        return {**super().serialize(), **({} if self._is_not_ours() else own)}

    # --- what the horse asks of its worker

    def ordered_queue_keys(self) -> list[str]:
        return [queue.key for queue in self._ordered_queues]

    def server_version(self) -> tuple[int, int, int]:
        version: tuple[int, int, int] = self.get_redis_server_version()  # type: ignore[no-untyped-call]
        return version

    def has_strategy(self) -> bool:
        """Tell whether the order of the queues changes from job to job."""
        is_default = self._dequeue_strategy in (None, DequeueStrategy.DEFAULT)
        return not is_default or type(self).reorder_queues is not BaseWorker.reorder_queues

    def reorder_after(self, queue_name: str) -> None:
        queues = self._ordered_queues
        self.reorder_queues(next((q for q in queues if q.name == queue_name), queues[0]))

    def has_own_way_of_performing(self) -> bool:
        perform = (self.job_class.perform, self.job_class._execute)
        return self._replaces(PERFORMING) or perform != (Job.perform, Job._execute)

    def restore_connection(self, retry: RetryPolicy) -> None:
        """In the horse: make it RQ's again, because a job may use it for a command that blocks."""
        pool = self.connection.connection_pool
        pool.reset()
        pool.connection_kwargs["socket_timeout"] = self.connection_timeout
        self.connection.set_retry(retry)

    # --- the supervisor

    def work(self, *args: Any, **kwargs: Any) -> bool:
        """Work until there is a reason to leave. Options and result: rq.worker.BaseWorker.work."""
        if self._is_not_ours():
            return super().work(*args, **kwargs)
        given = signature(BaseWorker.work).bind(self, *args, **kwargs)
        given.apply_defaults()
        options = SimpleNamespace(**given.arguments)
        log_options = (options.logging_level, options.date_format, options.log_format)
        self._tame_connection()
        with stoppable():
            self._say_who_we_are(*log_options)
            self.bootstrap(*log_options)
            self.server_version()  # it is kept
        self.connection.set_retry(RetryPolicy(NoBackoff(), 1))  # from here on a tick comes again
        self._dequeue_strategy = options.dequeue_strategy
        plan = Plan("", (), options.burst, options.max_jobs, options.max_idle_time)
        self._set_up(plan, options.with_scheduler)
        try:
            while not self._is_leaving:
                self._start_horse()
                self._watch()
                self._settle()
        except _GivenUp:
            self.log.warning("event=given-up worker=%s: Redis is away", self.name)
        finally:
            self._tear_down()
        if self._is_cold:
            raise SystemExit
        return self._jobs > 0

    def _set_ip_address(self, connection: redis.Redis) -> None:
        """RQ's first word to Redis, in the constructor of a worker that is to work."""
        try:
            wait_for_redis(link_over(connection, TICK_BUDGET_S))
        except ConfigError as error:
            self.log.error("%s", error)
            raise SystemExit(EXIT_CONFIG) from None  # RQ makes 1 and a traceback of all else
        before = None if isinstance(connection, PatientRedis) else connection.get_retry()
        connection.set_retry(patience(Page()))
        super()._set_ip_address(connection)
        connection.set_retry(before or impatience())

    def _set_up(self, plan: Plan, with_scheduler: bool) -> None:
        self._plan, self._page, self._jobs = plan, Page(), 0
        self._orders: list[Order] = []
        self._commands: deque[dict[str, Any]] = deque()
        self._is_leaving = self._is_draining = self._is_cold = self._is_away = False
        self._is_undated = False  # a request to shut down is not yet in Redis
        self._killed: Killed | None = None
        self._lost_run, self._pause_s = "", 0.0
        self._served_at = self._catalog_at = -CATALOG_WHOLE_S
        self._moves_due = with_scheduler or not plan.is_burst
        if with_scheduler:  # the tick does its work; RQ and its users look at whether there is one
            self.scheduler = rq.scheduler.RQScheduler(
                self.queues, connection=self.connection, serializer=self.serializer
            )
        self._wake_r, self._wake_w = os.pipe()
        os.set_blocking(self._wake_r, False)
        os.set_blocking(self._wake_w, False)
        self._old_wake = signal.set_wakeup_fd(self._wake_w, warn_on_full_buffer=False)
        signal.signal(signal.SIGCHLD, lambda *_: None)
        self._is_live = True
        self._install_signal_handlers()  # type: ignore[no-untyped-call]
        server = self.server_version()
        self._tick_script, self._back_script, self._cut_script = (
            script(name, server) for name in ("tick", "back", "cut")
        )
        self._link = link_over(self.connection, TICK_BUDGET_S)
        self._generation, self._dead = uuid4().hex[:20], ""
        self._tick_at = time.monotonic() + self.tick_s
        while self._tick():
            pass
        if plan.is_burst:
            self._moves_due = False  # one pass, as RQ's scheduler does

    def _start_horse(self) -> None:
        self._generation, self._killed = uuid4().hex[:20], None
        self._cut_off()
        left = None if self._plan.max_jobs is None else self._plan.max_jobs - self._jobs
        plan = self._plan._replace(
            generation=self._generation,
            orders=tuple(self._orders),
            max_jobs=left,
            only_orders=self._is_draining or (left is not None and left <= 0),
        )
        self._page.stop, self._page.orders_begun, self._ordered = 0, 0, len(self._orders)
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
            os.setpgid(self._horse_pid, self._horse_pid)  # both do it: whoever comes first
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
        while not self._reap(os.WNOHANG):
            deadline = self._page.deadline
            until = min(self._tick_at, deadline + self.grace_s) if deadline else self._tick_at
            self._doze(until - time.monotonic())
            self._obey_commands()
            self._keep_limits()
            self._date_shutdown()
            self._tick_if_due()

    def _date_shutdown(self) -> None:
        if self._is_undated:
            self._is_undated = False
            try:
                self.set_shutdown_requested_date()  # type: ignore[no-untyped-call]
            except redis.exceptions.RedisError as error:
                self._say_away(error)

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

    def _tick_if_due(self) -> None:
        if time.monotonic() >= self._tick_at:
            self._tick_at = time.monotonic() + self.tick_s
            if self._tick():
                self._tick_at = 0.0

    def _tick(self) -> bool:
        """Run tick.lua. Returns whether there is more to do for it."""
        state = self._page.state()
        run = state.run if state.is_busy else ""
        now = time.time()
        head = [self.name, iso(now), repr(now), self._generation, run, state.last,
                self.lease_s, self.worker_ttl + 60, int(self._moves_due)]  # fmt: skip
        try:
            words: list[Any] = [*head, *self._catalog()]
            events = self._link.run(self._tick_script, self.queue_keys(), words)
        except (RedisUnavailable, ConfigError) as error:
            self._say_away(error)
            return False
        if self._is_away:
            self.log.warning("event=redis-back worker=%s", self.name)
        self._is_away = False
        lost = ""
        for what, *facts in events:
            if what == b"lost":
                lost = facts[0].decode()
            else:
                self._handle(what.decode(), facts)
        # Twice: the first time it may have ended between our look and the script.
        if lost and lost == self._lost_run and self._page.state().run == lost:
            self._kill(Killed("lost", lost))
        self._lost_run = lost
        return not self._is_away and any(what in (b"more", b"unborn") for what, *_ in events)

    def _handle(self, what: str, facts: list[Any]) -> None:
        if what == "unborn":  # it expired, or Redis is back without its memory
            self._served_at = self._catalog_at = -CATALOG_WHOLE_S
            self._write_birth()
        elif what == "limited":
            self._enqueue_limited(facts[0].decode(), facts[1].decode())
        elif what != "more":
            run, crashes = facts[0].decode("utf-8", "replace"), facts[1]
            self.log.warning("event=rescued run=%s became=%s crashes=%s", run, what, crashes)
            if what == "fail":
                self._orders.append(Order(run, killed_text(crashes, "Its worker or host died")))
                self._ask_to_stop()  # the next horse fails it

    def _say_away(self, error: Exception) -> None:
        if not self._is_away:
            self.log.error("event=redis-away worker=%s reason=%s", self.name, error)
        self._is_away = True

    def _write_birth(self) -> None:
        """Write our hash anew; a tick does the rest. (RQ forgets the set of workers.)"""
        with self.connection.pipeline() as pipeline:
            pipeline.hset(self.key, mapping={**self.serialize(), "state": self._state})
            pipeline.expire(self.key, self.worker_ttl + 60)
            rq.worker_registration.register(self, pipeline)
            try:
                pipeline.execute()
            except redis.exceptions.RedisError as error:
                self._say_away(error)

    def _enqueue_limited(self, job_id: str, queue_name: str) -> None:
        """A due job of a rate limit, moved as RQ's scheduler moves it."""
        try:
            job = self.job_class.fetch(job_id, self.connection, self.serializer)
            queue = self._queue(queue_name)
            with self.connection.pipeline() as pipeline:
                queue.scheduled_job_registry.remove(job_id, pipeline=pipeline)
                queue._enqueue_rate_limited_job(
                    job, pipeline=pipeline, at_front=job.should_enqueue_at_front()
                )
                pipeline.execute()
        except Exception as error:
            name = type(error).__name__
            self.log.error("event=not-enqueued job=%s reason=%s: %s", job_id, name, error)

    def _catalog(self) -> list[Any]:
        """What tick.lua writes of our tasks: what we serve often, all of it once an hour."""
        clock = time.monotonic()
        if clock < self._served_at + CATALOG_S:
            return [0]
        self._served_at = clock
        served, pages = catalog.serves(), []
        if clock >= self._catalog_at + CATALOG_WHOLE_S:
            self._catalog_at = clock
            pages = catalog.pages()
        return [len(served), *served, *pages]

    # --- the end of a horse

    def _reap(self, options: int = 0) -> bool:
        """Tell whether the horse has ended. (Its own children may hold a pipe of its open.)"""
        pid, self._status, self._usage = os.wait4(self._horse_pid, options)
        if pid == 0:
            return False
        self._signal_group(signal.SIGKILL)  # what it left behind
        self._dead_pid, self._horse_pid = pid, 0
        os.close(self._bell)
        os.close(self._life)
        return True

    def _settle(self) -> None:
        """Cut the dead horse off in Redis, and decide about each execution that it had in hand."""
        state, leave = self._page.state(), self._left()
        if begun := self._page.orders_begun:
            del self._orders[: begun - 1]
            if self._orders and begun <= self._ordered:  # it died of this one
                self._orders[0] = self._orders[0]._replace(is_raw=True)
        self._dead, self._generation = self._generation, uuid4().hex[:20]
        ordered = {order.run for order in self._orders}
        for run in self._cut_off():
            if run not in ordered:
                self._decide(run, state, leave)
        self._jobs += state.jobs + state.is_busy  # RQ counts one that killed its horse, too
        self._is_leaving = self._is_cold or (not self._orders and self._is_done(leave))
        if leave is None and not state.is_busy and time.monotonic() < self._started_at + RAN_S:
            self._pause_s = min(HORSE_PAUSE_S, self._pause_s * 2 or 0.1)
            self._doze(self._pause_s)
            self._tick_if_due()
        else:
            self._pause_s = 0.0

    def _is_done(self, leave: Leave | None) -> bool:
        limit = self._plan.max_jobs
        is_over = leave in (Leave.EMPTY, Leave.SUSPENDED, Leave.IDLE)
        return is_over or self._is_draining or (limit is not None and self._jobs >= limit)

    def _left(self) -> Leave | None:
        """Return why the horse left of its own accord; None if it died."""
        code = os.waitstatus_to_exitcode(self._status)
        return Leave(code) if code in list(Leave) and not self._page.state().is_busy else None

    def _cut_off(self) -> list[str]:
        """Let our generation alone claim, and return what was in hand until now.

        An earlier horse's last request may still be on its way: it is refused from here on, and
        what that horse had counted is written now.
        """
        state, tally = self._page.state(), self._page.tally
        tally.inherit()
        took = tally.take_back(state.jobs + 1) if state.is_busy else None
        claims = (self.name, self._generation, self.lease_s)
        counts = (tally.text(), state.run if took is not None else "", took or 0.0)
        found = self._insist(self._cut_script, *claims, self._dead, state.last, *counts)
        tally.clear()
        return [run.decode("utf-8", "replace") for run in found]

    def _insist(self, script: Script, *words: Any) -> Any:
        """Run a script, when Redis is back. Raises _GivenUp if we are to leave before that."""
        while True:
            try:
                return self._link.run(script, [], words)
            except (RedisUnavailable, ConfigError) as error:
                if self._is_draining or self._is_cold:
                    raise _GivenUp from None
                self._say_away(error)
                self._doze(self.tick_s)

    def _decide(self, run: str, state: State, leave: Leave | None) -> None:
        killed = self._killed
        why, how = killed.why if killed and killed.run == run else "", self._death()
        if why == "stop":
            self._orders.append(Order(run, "stopped on request", is_stopped=True))
        elif why == "command":
            self._order(run, how)
        elif why == "timeout":
            limit = "rq.timeouts.JobTimeoutException: Task exceeded its time limit"
            self._order(run, f"{limit}, and took no notice for {self.grace_s:g} s: killed")
        else:
            self._give_back(run, state, leave, how)

    def _give_back(self, run: str, state: State, leave: Leave | None, how: str) -> None:
        is_crash = leave is None and not self._killed and state.is_busy and state.run == run
        words = (run, self.name, int(is_crash), repr(time.time()))
        reply = self._insist(self._back_script, *words)
        what, crashes = reply[0].decode(), reply[1]
        self.log.warning("event=back run=%s became=%s crashes=%s: %s", run, what, crashes, how)
        if what == "fail":
            self._order(run, killed_text(crashes, how))

    def _order(self, run: str, reason: str) -> None:
        """Have the next horse fail an execution of the dead one."""
        death = (self._dead_pid, self._status, self._usage)
        self._orders.append(Order(run, reason, death=death))

    def _death(self) -> str:
        """Say how the horse died; begins with RQ's own words."""
        words = f"Work-horse terminated unexpectedly; waitpid returned {self._status}"
        if os.WIFSIGNALED(self._status):
            number = os.WTERMSIG(self._status)
            words += f" (signal {number}); "
            is_unexplained = number == signal.SIGKILL and not self._killed
            words += "out of memory? " if is_unexplained else ""
        else:
            words += "; "
        return words + f"its peak memory was {self._usage.ru_maxrss // PEAK_PER_MIB} MiB"

    def _tear_down(self) -> None:
        """Leave all as we found it. What is open in Redis keeps our lease, for others to rescue."""
        if self._horse_pid:
            self._signal_group(signal.SIGKILL)
            self._reap()
        self._is_live = False
        signal.set_wakeup_fd(self._old_wake)
        signal.signal(signal.SIGCHLD, signal.SIG_DFL)
        os.close(self._wake_r)
        os.close(self._wake_w)
        try:
            if not self.connection.exists(self.executions_key):
                self.connection.zrem(LEASES, self.name)
                self.teardown()  # type: ignore[no-untyped-call]
            else:
                self.unsubscribe()  # type: ignore[no-untyped-call]
        except (*AWAY, FULL) as error:
            self.log.warning("event=not-deregistered worker=%s reason=%s", self.name, error)
        finally:
            self._link.close()
            self.connection.connection_pool.connection_kwargs.update(self._untamed)

    # --- signals and commands: those who bring them only leave a note, the main loop acts

    def _shutdown(self) -> None:
        if not self._is_live:
            super()._shutdown()  # type: ignore[no-untyped-call]
            return
        self._is_draining, self._drained_at = True, time.monotonic()
        self._stop_requested = self._is_undated = self._page.state().is_busy
        self._ask_to_stop()

    def request_force_stop(self, signum: int, frame: FrameType | None) -> None:
        if not self._is_live:
            super().request_force_stop(signum, frame)
        elif time.monotonic() >= self._drained_at + QUIET_S:
            self._is_cold = True

    def _ask_to_stop(self) -> None:
        """The horse leaves after the job that it is at."""
        self._page.stop = 1
        if self._horse_pid:
            try:
                os.write(self._bell, b"!")
            except OSError:
                pass

    def handle_payload(self, message: dict[str, Any]) -> None:
        """Called in RQ's pubsub thread. The main thread alone may signal the horse."""
        if not self._is_live:
            super().handle_payload(message)  # type: ignore[no-untyped-call]
            return
        try:
            self._commands.append(rq.command.parse_payload(message))
        except ValueError as error:
            self.log.warning("event=bad-command worker=%s reason=%s", self.name, error)
        os.write(self._wake_w, b"c")

    def _obey_commands(self) -> None:
        while self._commands:
            command = self._commands.popleft()
            try:
                rq.command.handle_command(self, command)
            except (LookupError, TypeError) as error:
                self.log.warning("event=bad-command worker=%s reason=%r", self.name, error)

    def get_current_job_id(self) -> str | None:
        if not self._is_live:
            return super().get_current_job_id()
        return self._page.state().run.rpartition(":")[0] or None

    def request_stop_execution(self, execution_id: str) -> None:
        if not self._is_live:
            super().request_stop_execution(execution_id)
            return
        run = self._page.state().run
        if run.rpartition(":")[2] != execution_id:
            self.log.warning("Not running execution %s, command ignored.", execution_id)
            return
        self._kill_if("stop", lambda current: current == run)

    def kill_horse(self, sig: signal.Signals = signal.SIGKILL) -> None:
        """RQ's stop-job and kill-horse come here; stop-job has set _stopped_job_id."""
        if not self._is_live:
            super().kill_horse(sig)
            return
        job_id, self._stopped_job_id = self._stopped_job_id, None
        if job_id is None:
            self._kill_if("command", lambda current: True)
        else:
            self._kill_if("stop", lambda current: current.rpartition(":")[0] == job_id)

    def _kill_if(self, why: str, is_meant: Callable[[str], bool]) -> None:
        """Kill the horse if it is at what is meant. It is frozen while we look."""
        if not self._horse_pid:
            return
        self._signal_group(signal.SIGSTOP)
        os.waitid(os.P_PID, self._horse_pid, os.WSTOPPED | os.WEXITED | os.WNOWAIT)
        state = self._page.state()
        if state.is_busy and is_meant(state.run):
            self._kill(Killed(why, state.run))
        else:
            self.log.warning("event=ignored worker=%s command=%s: not at it", self.name, why)
            self._signal_group(signal.SIGCONT)

    def _kill(self, killed: Killed) -> None:
        if self._killed is None and self._horse_pid:
            self._killed = killed
            self.log.warning("event=kill worker=%s reason=%s run=%s", self.name, *killed)
            self._signal_group(signal.SIGKILL)

    def _signal_group(self, number: signal.Signals) -> None:
        try:
            os.killpg(self._horse_pid, number)
        except ProcessLookupError:
            pass

    # --- around the loop

    def _pubsub_exception_handler(self, exc: Exception, *args: Any) -> None:
        """RQ's thread for commands would end at a time-out, and we be deaf from then on."""
        if self._is_live and isinstance(exc, AWAY):
            time.sleep(self.tick_s)
            return
        super()._pubsub_exception_handler(exc, *args)

    def _tame_connection(self) -> None:
        """The supervisor does not wait for Redis as RQ's worker does: minutes, and ten times."""
        pool = self.connection.connection_pool
        kwargs = pool.connection_kwargs
        self._untamed = {name: kwargs.get(name) for name in ("socket_timeout", "retry")}
        # Each connection would look it up anew, in its package's files: 2 ms, and a MiB of memory
        # that the horse shares with us until then.
        driver = getattr(pool.connection_class(**kwargs), "driver_info", None)
        kwargs |= {"socket_timeout": SOCKET_S} | ({"driver_info": driver} if driver else {})
        pool.disconnect()
        self.connection.set_retry(patience(Page()))  # until Redis knows us

    def _is_not_ours(self) -> bool:
        """Tell whether RQ's own loop must run, because somebody has replaced a piece of it."""
        has_own_keys = (
            self.job_class.redis_job_namespace_prefix != Job.redis_job_namespace_prefix
            or self.queue_class.redis_queue_namespace_prefix != Queue.redis_queue_namespace_prefix
        )
        return has_own_keys or self._replaces(LOOP)

    def _replaces(self, names: tuple[str, ...]) -> bool:
        is_own = (getattr(type(self), name) is _OWN[name] for name in names)
        return not all(is_own) or any(name in self.__dict__ for name in names)

    def _queue(self, name: str) -> Queue:
        return self.queue_class(
            name,
            connection=self.connection,
            job_class=self.job_class,
            serializer=self.serializer,
            death_penalty_class=self.death_penalty_class,
        )

    def _say_who_we_are(self, logging_level: str | None, date_format: str, log_format: str) -> None:
        setup_loghandlers(logging_level, date_format, log_format, name="rq.worker")
        if not self.log.isEnabledFor(logging.INFO):
            return
        info = self.connection.info("server")
        kwargs = self.connection.connection_pool.connection_kwargs
        number = info.get("valkey_version", info["redis_version"])
        facts = {
            "worker": self.name,
            "server": f"{info.get('server_name', 'redis')}-{number}",
            "at": kwargs.get("path") or f"{kwargs.get('host')}:{kwargs.get('port')}",
            "db": kwargs.get("db") or 0,
            "prefix": KEY_PREFIX,
            "queues": ",".join(self.queue_names()),
            "tasks": ",".join(registry.tasks()),
            "werk": version("werk"),
            "rq": rq.__version__,
            "python": sys.version.split()[0],
        }
        if Settings.read().allow_unregistered:
            facts["warning"] = "WERK_ALLOW_UNREGISTERED: runs any path, reads any pickle"
        shown = " ".join(f"{name}={value}" for name, value in facts.items())
        self.log.info("event=begins %s", shown)


_OWN = {name: getattr(Worker, name) for name in LOOP + PERFORMING}  # before anybody replaces one


def wait_for_redis(link: Link) -> None:
    """Return when Redis answers. A signal to stop ends the process meanwhile, with 0.

    Raises ConfigError for what does not pass: a wrong password, no permission.
    """
    is_said = False
    with stoppable():
        while True:
            try:
                link.run(_HELLO, [wire.key("suspended")], [])
                break
            except RedisUnavailable as error:
                if not is_said:
                    logging.getLogger("rq.worker").error("event=redis-away reason=%s", error)
                is_said = True
                time.sleep(LONGEST_PAUSE_S)
    link.close()


_HELLO = Script("return redis.call('EXISTS', KEYS[1])")  # we need scripts, and keys in them


@contextmanager
def stoppable() -> Iterator[None]:
    """Have SIGTERM and SIGINT end the process with 0: nothing has begun that must be ended."""

    def leave(*_: object) -> None:
        raise SystemExit(EXIT_OK)

    is_main = threading.current_thread() is threading.main_thread()
    numbers = (signal.SIGTERM, signal.SIGINT) if is_main else ()
    before = {number: signal.signal(number, leave) for number in numbers}
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


def killed_text(crashes: int, how: str) -> str:
    return f"{how}. It killed its worker {crashes} times" if crashes > 1 else how


def die_with_supervisor(life: int, parent: int) -> None:
    """Have the kernel kill our process group when the other end of the pipe `life` closes.

    The supervisor alone holds that. (With prctl the jobs' own children would live on.)
    """
    if SIGNALS_HANG_UP:
        fcntl.fcntl(life, fcntl.F_SETOWN, -os.getpgrp())
        fcntl.fcntl(life, F_SETSIG, signal.SIGKILL)
        fcntl.fcntl(life, fcntl.F_SETFL, fcntl.fcntl(life, fcntl.F_GETFL) | os.O_ASYNC)
    else:
        threading.Thread(target=_die_at_the_end_of, args=(life,), daemon=True).start()
    if os.getppid() != parent:  # it ended before this was armed
        os._exit(1)


def _die_at_the_end_of(life: int) -> None:
    os.read(life, 1)
    os.killpg(0, signal.SIGKILL)


def trim_memory() -> None:
    """Before a fork: what is collected and given back now is not copied later, page by page."""
    gc.collect()
    try:
        ctypes.CDLL(None).malloc_trim(0)
    except AttributeError:
        pass  # not glibc
    gc.freeze()
