"""Worker(rq.Worker): the class that `rq worker`, `rq worker-pool` and `werk worker` create.

While our own loop runs, there is a supervisor (supervisor.py), and signals and RQ's commands go to
it. Without a supervisor RQ's own code runs: in the horse (horse.py), and where a subclass replaces
a method of RQ's loop (rq_patches.py).
"""

from __future__ import annotations

import logging
import os
import socket
import sys
from contextlib import suppress
from copy import copy
from inspect import signature
from types import SimpleNamespace
from typing import Any, NoReturn
from uuid import uuid4

import rq
import rq.scheduler
from redis.backoff import NoBackoff
from redis.exceptions import ResponseError
from redis.retry import Retry as RetryPolicy
from rq.worker.base import BaseWorker

from werk import __version__, registry
from werk.errors import EXIT_CONFIG, ConfigError
from werk.log_format import Event
from werk.settings import KEY_PREFIX, Settings
from werk.store import keys
from werk.tasks.catalog import own_entry, version
from werk.worker import rq_classes
from werk.worker.log_handlers import set_up_logs, take_over
from werk.worker.log_stream import bound_logs, flush_all
from werk.worker.redis_side import AWAY, no_retry, retry_forever
from werk.worker.rq_patches import replaced_loop
from werk.worker.rq_side import RQSide
from werk.worker.scripts import script
from werk.worker.shared_state import Plan, SharedState
from werk.worker.startup import (
    refuse_commas,
    refuse_more_than_descriptors,
    stoppable,
    unused_queues,
)
from werk.worker.supervisor import Supervisor


class Worker(RQSide):
    """werk's worker. Its times, in seconds, are attributes, so that tests can shorten them."""

    grace_s = 4.5  # from a job's time limit to the end of a horse that ignores it

    concurrency = 0  # the number of slots; 0: what WERK_CONCURRENCY says
    has_loop = False  # our own loop has begun
    rq_loop = ""  # the method that a subclass replaces, if RQ's loop runs for that reason

    def __init__(self, queues: Any, name: str | None = None, *args: Any, **kwargs: Any) -> None:
        prepares = kwargs.get("prepare_for_work", True)
        if prepares:
            take_over()
        settings = _settings_or_exit()
        if prepares and not name:  # a restarted container has the same host and process id
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
        own: dict[str, object] = {"werk_v": keys.RECORD_VERSION, "werk_lease": self.lease_s}
        own |= {"werk_free": is_free, "werk_table": version()}
        own |= {"werk_slots": self.concurrency} if self.concurrency > 1 else {}
        return {**super().serialize(), **({"werk_rq_loop": self.rq_loop} if self.rq_loop else own)}

    def bootstrap(self, *args: Any, **kwargs: Any) -> None:
        """Register the worker. RQ's loop begins with this as well, and then a warning is logged."""
        self.rq_loop = "" if self.has_loop else replaced_loop(self) or "work"
        self._guard_records()
        super().bootstrap(*args, **kwargs)
        if self.rq_loop:
            what = "this is not as in RQ, so RQ's loop runs and a killed worker loses its job;"
            what += " restore it; a worker's class may override perform_job or execute_job"
            facts = {"worker": self.name, "replaced": self.rq_loop, "reason": what}
            self.log.warning(Event("rq-loop", **facts))

    def _guard_records(self) -> None:
        """Read and write jobs with safe classes, derived from those that we were given.

        Not in the constructor: code that created this worker may ask for the classes that it gave.
        """
        self.queue_class = rq_classes.by_redis_time(self.queue_class, self)
        self.job_class = rq_classes.bounded(self.job_class, registered_only=self._registered_only)
        self.take_queues()

    def clean_registries(self) -> None:
        spare = script("spare", self.server_version())
        self.connection.eval(spare.text, 0, *self.queue_names())
        super().clean_registries()  # type: ignore[no-untyped-call]

    # --- the loop

    def work(self, *args: Any, **kwargs: Any) -> bool:
        """Work until there is a reason to leave. Options and result as in BaseWorker.work of RQ."""
        is_replaced = bool(replaced_loop(self))
        self._count_slots(replaced_loop(self))
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
        before = self.harden_connection(retry_forever(self.connection))  # until Redis knows us
        supervisor = self._begin(options, log_options)
        try:
            supervisor.run()
        finally:
            self.connection.connection_pool.connection_kwargs.update(before)
            flush_all()  # otherwise the interpreter does it at exit, and may block
        if supervisor.is_cold or supervisor.exit_code:
            raise SystemExit(supervisor.exit_code)
        return supervisor.jobs > 0

    # --- around the loop

    def _begin(self, options: SimpleNamespace, log_options: tuple[Any, ...]) -> Supervisor:
        """Write the records of all slots, and return their supervisor, which takes signals.

        A signal to stop that comes earlier ends the process with 0, and leaves no record.
        """
        shared = SharedState()
        try:
            with stoppable():
                bound_logs(shared)
                self._log_begin()
                for queue, hint in unused_queues(self.connection, self.queue_names()):
                    why = f"no job was ever enqueued there, and no other worker serves it{hint}"
                    self.log.warning(Event("unused-queue", queue=queue, reason=why))
                self._enlist(log_options)
                # A command can wait for a tick.
                self.connection.set_retry(RetryPolicy(NoBackoff(), 1))
                self.use_strategy(options.dequeue_strategy)
                if options.with_scheduler:  # RQ checks that there is one; the tick does its work
                    self.scheduler = rq.scheduler.RQScheduler(
                        self.queues, connection=self.connection, serializer=self.serializer
                    )
                plan = Plan("", (), options.burst, options.max_jobs, options.max_idle_time)
                moves_due = options.with_scheduler or not options.burst
                supervisor = Supervisor([self, *self.others], plan, moves_due, shared)
                supervisor.listen()
        except SystemExit:
            self._delist()
            raise
        return supervisor

    def _count_slots(self, replaced: str) -> None:
        """Exit if we cannot serve these queues, or as many of them or slots as we were asked to."""
        try:
            refuse_commas(self.queue_names())
        except ConfigError as error:
            _exit(str(error))
        slots = self.concurrency = self.concurrency or Settings.read().concurrency
        if replaced:
            what = f"{type(self).__name__} replaces {replaced}, so RQ's loop runs"
            if slots > 1:
                _exit(
                    f"concurrency {slots}: {what} one job at a time; use 1 and start more workers"
                )
            return
        try:
            refuse_more_than_descriptors(queues=len(self.queues), slots=slots)
        except ConfigError as error:
            _exit(str(error))

    def _enlist(self, log_options: tuple[Any, ...]) -> None:
        """Write the records of all slots. RQ takes each for a worker.

        All but the first are copies of this one, with names of their own. Only the supervisor uses
        them: the horse of each slot uses the worker that was copied.
        """
        if self.concurrency > 1:
            name, others = self.name, [copy(self) for _ in range(self.concurrency - 1)]
            for number, worker in enumerate([self, *others], 1):
                worker.name = f"{name}.{number}"
            self.others = others
        self.bootstrap(*log_options)
        self.server_version()  # the worker keeps it
        for other in self.others:
            other.queues = self.queues
            other.redis_server_version = self.redis_server_version
            other.register_birth()
            other.set_state("started")

    def _delist(self) -> None:
        """Remove the records of all slots, unless Redis is unreachable: then they expire."""
        self.connection.set_retry(no_retry())
        self.connection.connection_pool.disconnect(inuse_connections=False)  # a reply may be due
        with suppress(*AWAY, ResponseError):
            for worker in (self, *self.others):
                worker.register_death()

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
            "concurrency": self.concurrency,
            "tasks": ",".join(registry.tasks()),
            "werk": __version__,
            "rq": rq.__version__,
            "python": sys.version.split()[0],
            **{name: script(name, self.server_version()).sha[:8] for name in ("step", "tick")},
        }
        is_free = Settings.read().allow_unregistered
        if is_free:
            facts["warning"] = "WERK_ALLOW_UNREGISTERED: runs any path, reads any pickle"
        self.log.info(Event("begins", **facts))
        if registry.is_as_shipped() and not is_free:
            why = "this worker serves only the demo tasks; set WERK_REGISTRY to serve your own"
            self.log.info(Event("demo-tasks", reason=why))
        for entry in map(own_entry, registry.tasks()):
            for note in entry.shape.notes[:1] if entry.shape.is_missing else ():
                self.log.warning(Event("missing-task", task=entry.name, reason=note.text))


def _settings_or_exit() -> Settings:
    """Return the settings, or exit with 78: RQ would exit with 1 and print a traceback."""
    try:
        settings = Settings.read()
        if settings.hooks:
            raise ConfigError(
                f"{settings.hooks[0]}: workers have no hooks any more; write a middleware,"
                " def execute(job, call_next), name it in WERK_MIDDLEWARE, and unset"
                f" {settings.hooks[0]}"
            )
        return settings
    except ConfigError as error:
        _exit(str(error))


def _exit(why: str) -> NoReturn:
    logging.getLogger("rq.worker").error("%s", why)
    raise SystemExit(EXIT_CONFIG)
