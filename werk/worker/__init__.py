"""Worker(rq.Worker): the class that `rq worker`, `rq worker-pool` and `werk worker` create.

While our own loop runs, there is a supervisor (supervisor.py), and signals and RQ's commands go to
it. Without a supervisor RQ's own code runs: in the horse (horse.py), and where a subclass replaces
a method of RQ's loop (frame.py).
"""

from __future__ import annotations

import logging
import os
import signal
import socket
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from inspect import signature
from types import FrameType, SimpleNamespace
from typing import Any
from uuid import uuid4

import redis
import rq
import rq.command
import rq.scheduler
from redis.backoff import NoBackoff
from redis.retry import Retry as RetryPolicy
from rq.worker.base import BaseWorker

from werk import __version__, registry
from werk.errors import EXIT_CONFIG, EXIT_OK, ConfigError
from werk.settings import KEY_PREFIX, Settings
from werk.store import keys
from werk.store.connection import Link, link_over
from werk.store.limits import LEASE_S
from werk.store.replies import cluster_error, is_cluster
from werk.store.scripts import Script
from werk.store.startup import wait_for_answer
from werk.tasks.catalog import own_entry
from werk.worker import rq_classes
from werk.worker.commands import parse_command
from werk.worker.frame import replaced_loop
from werk.worker.log_stream import bound_logs, flush_all, set_up_logs
from werk.worker.redis_side import AWAY, PatientRedis, no_retry, retry_forever
from werk.worker.rq_side import RQSide
from werk.worker.scripts import script
from werk.worker.shared_state import Plan, SharedState
from werk.worker.supervisor import Supervisor
from werk.worker.tick import TICK_BUDGET_S


class Worker(RQSide):
    """werk's worker. Its times, in seconds, are attributes, so that tests can shorten them."""

    lease_s = float(LEASE_S)
    tick_s = 1.0
    grace_s = 4.5  # from a job's time limit to the end of a horse that ignores it

    supervisor: Supervisor | None = None  # while our own loop runs, in this process
    has_loop = False  # our own loop has begun
    rq_loop = ""  # the method that a subclass replaces, if RQ's loop runs for that reason

    def __init__(self, queues: Any, name: str | None = None, *args: Any, **kwargs: Any) -> None:
        settings = _settings_or_exit()
        is_own = kwargs.get("prepare_for_work", True)
        if is_own and not name:  # a restarted container has the same host and process id
            name = f"{socket.gethostname()}:{os.getpid()}:{uuid4().hex[:4]}"
        self.death_penalty_class = rq_classes.single(
            self.death_penalty_class, lambda: bool(self.frame and not self.frame.is_over)
        )
        super().__init__(queues, name, *args, **kwargs)
        self._registered_only = not settings.allow_unregistered
        if self._registered_only:
            self.serializer = rq_classes.PlainSerializer

    def serialize(self) -> dict[Any, Any]:
        """Return our hash in Redis. While our own loop runs, it has what `werk status` needs."""
        is_free = int(Settings.read().allow_unregistered)
        own = {"werk_v": keys.RECORD_VERSION, "werk_lease": self.lease_s, "werk_free": is_free}
        return {**super().serialize(), **({"werk_rq_loop": self.rq_loop} if self.rq_loop else own)}

    def bootstrap(self, *args: Any, **kwargs: Any) -> None:
        """Register the worker. RQ's loop begins with this as well, and then a warning is logged."""
        self.rq_loop = "" if self.has_loop else replaced_loop(self) or "work"
        self._guard_records()
        super().bootstrap(*args, **kwargs)
        if self.rq_loop:
            what = "RQ's loop runs, because its class replaces this; a killed worker loses its job"
            self.log.warning(
                "event=rq-loop worker=%s replaced=%s: %s", self.name, self.rq_loop, what
            )

    def _guard_records(self) -> None:
        """Read and write jobs with safe classes, derived from those that we were given.

        Not in the constructor: code that created this worker may ask for the classes that it gave.
        """
        self.queue_class = rq_classes.by_redis_time(self.queue_class, self)
        self.job_class = rq_classes.bounded(self.job_class, registered_only=self._registered_only)
        self.queues = [self.queue(queue.name) for queue in self.queues]
        self._ordered_queues = self.queues[:]

    def clean_registries(self) -> None:
        spare = script("spare", self.server_version())
        self.connection.eval(spare.text, 0, *self.queue_names())
        super().clean_registries()  # type: ignore[no-untyped-call]

    # --- the loop

    def work(self, *args: Any, **kwargs: Any) -> bool:
        """Work until there is a reason to leave. Options and result as in BaseWorker.work of RQ."""
        is_replaced = bool(replaced_loop(self))
        self.has_loop = not is_replaced
        given = signature(BaseWorker.work).bind(self, *args, **kwargs)
        given.apply_defaults()
        options = SimpleNamespace(**given.arguments)
        log_options = (options.logging_level, options.date_format, options.log_format)
        set_up_logs(*log_options)
        if is_replaced:
            has_secrets = any(task.secret for task in registry.tasks().values())
            self.log_job_description = self.log_job_description and not has_secrets
            return super().work(*args, **kwargs)
        shared = SharedState()
        before = self.harden_connection(
            retry_forever(shared, self.connection)
        )  # until Redis knows us
        with stoppable():
            bound_logs(shared)
            self._log_begin()
            self.bootstrap(*log_options)
            self.server_version()  # the worker keeps it
        self.connection.set_retry(RetryPolicy(NoBackoff(), 1))  # after a tick another follows
        self._dequeue_strategy = options.dequeue_strategy
        if options.with_scheduler:  # the tick does its work; RQ checks whether there is one
            self.scheduler = rq.scheduler.RQScheduler(
                self.queues, connection=self.connection, serializer=self.serializer
            )
        plan = Plan("", (), options.burst, options.max_jobs, options.max_idle_time)
        moves_due = options.with_scheduler or not options.burst
        supervisor = self.supervisor = Supervisor(self, plan, moves_due, shared)
        try:
            supervisor.run()
        finally:
            self.connection.connection_pool.connection_kwargs.update(before)
            flush_all()  # otherwise the interpreter does it at exit, and may block
        if supervisor.stop.is_cold or supervisor.exit_code:
            raise SystemExit(supervisor.exit_code)
        return supervisor.jobs > 0

    def _set_ip_address(self, connection: redis.Redis) -> None:
        """Wait for Redis first: here RQ's constructor sends the first command of a worker."""
        try:
            wait_for_redis(link_over(connection, TICK_BUDGET_S))
        except ConfigError as error:
            self.log.error("%s", error)
            raise SystemExit(EXIT_CONFIG) from None  # RQ exits with 1 and a traceback otherwise
        before = None if isinstance(connection, PatientRedis) else connection.get_retry()
        connection.set_retry(retry_forever(SharedState(), connection))
        super()._set_ip_address(connection)
        connection.set_retry(before or no_retry())

    # --- signals, and RQ's commands

    def _shutdown(self) -> None:
        if self.supervisor:
            self.supervisor.drain()
        else:
            super()._shutdown()  # type: ignore[no-untyped-call]

    def request_force_stop(self, signum: int, frame: FrameType | None) -> None:
        if self.supervisor:
            self.supervisor.stop.stop_cold()
        else:
            super().request_force_stop(signum, frame)

    def handle_payload(self, message: dict[str, Any]) -> None:
        if supervisor := self.supervisor:  # read once: this is RQ's pubsub thread
            supervisor.commands.hear(message)
            return
        try:
            rq.command.handle_command(self, parse_command(message))
        except (LookupError, TypeError, ValueError) as error:  # it would end RQ's thread
            self.log.warning("event=bad-command worker=%s reason=%r", self.name, error)

    def _pubsub_exception_handler(self, exc: Exception, *args: Any) -> None:
        """Keep RQ's thread for commands running: a time-out would end it, and all commands."""
        if self.supervisor and isinstance(exc, AWAY):
            time.sleep(self.tick_s)
        else:
            super()._pubsub_exception_handler(exc, *args)

    @property
    def horse_pid(self) -> int:
        return self.supervisor.child.pid if self.supervisor else self._horse_pid

    def get_current_job_id(self) -> str | None:
        if not self.supervisor:
            return super().get_current_job_id()
        return self.supervisor.shared.progress().run.rpartition(":")[0] or None

    def request_stop_execution(self, execution_id: str) -> None:
        if not self.supervisor:
            super().request_stop_execution(execution_id)
        elif self.supervisor.shared.progress().run.rpartition(":")[2] == execution_id:
            self.supervisor.kill_if("stop", lambda run: run.rpartition(":")[2] == execution_id)
        else:
            self.log.warning("Not running execution %s, command ignored.", execution_id)

    def kill_horse(self, sig: signal.Signals = signal.SIGKILL) -> None:
        """Handle RQ's stop-job, which has set _stopped_job_id, and its kill-horse."""
        if not self.supervisor:
            super().kill_horse(sig)
            return
        job_id = self.take_stopped_job()
        why = "stop" if job_id else "command"
        self.supervisor.kill_if(why, lambda run: not job_id or run.rpartition(":")[0] == job_id)

    # --- around the loop

    def _log_begin(self) -> None:
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
            "werk": __version__,
            "rq": rq.__version__,
            "python": sys.version.split()[0],
            **{name: script(name, self.server_version()).sha[:8] for name in ("step", "tick")},
        }
        if Settings.read().allow_unregistered:
            facts["warning"] = "WERK_ALLOW_UNREGISTERED: runs any path, reads any pickle"
        self.log.info("event=begins %s", " ".join(f"{name}={own}" for name, own in facts.items()))
        for entry in map(own_entry, registry.tasks()):
            for note in entry.shape.notes[:1] if entry.shape.is_missing else ():
                self.log.warning("event=missing-task task=%s reason=%s", entry.name, note.text)


def _settings_or_exit() -> Settings:
    """Return the settings, or exit with 78: RQ would exit with 1 and print a traceback."""
    try:
        return Settings.read()
    except ConfigError as error:
        logging.getLogger("rq.worker").error("%s", error)
        raise SystemExit(EXIT_CONFIG) from None


def wait_for_redis(link: Link) -> None:
    """Return when Redis answers. Until then a signal to stop ends the process, with 0.

    Raises ConfigError if waiting does not help: a wrong password, no permission, Redis Cluster.
    """

    def contact() -> None:
        link.run(_HELLO, [keys.key("suspended")], [])
        refuse_cluster(link)

    with stoppable():
        wait_for_answer(contact, logging.getLogger("rq.worker"))
    link.close()


def refuse_cluster(link: Link) -> None:
    """Raise ConfigError for a node of Redis Cluster, which does answer commands for one key."""
    try:
        info = link.call("INFO", "cluster")
    except ConfigError:  # INFO is not permitted: the first script with keys of two slots fails
        return
    if is_cluster(info):
        raise cluster_error(link.where)


_HELLO = Script("return redis.call('EXISTS', KEYS[1])")  # we need scripts, and keys in them


@contextmanager
def stoppable() -> Iterator[None]:
    """Have SIGTERM and SIGINT end the process with 0: nothing has begun that needs a clean end."""

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
