"""RQLoop: RQ's worker as werk's loop uses it. See rq_side.py for performing and finishing a job.

1. its queues, its connection, its record in Redis
2. signals and RQ's commands, which go to the supervisor while there is one
"""

from __future__ import annotations

import signal
import time
from collections.abc import Sequence
from types import FrameType
from typing import TYPE_CHECKING, Any

import redis
import rq.command
import rq.worker_registration
from redis.retry import Retry as RetryPolicy
from rq.queue import Queue
from rq.utils import now, utcformat
from rq.worker import DequeueStrategy
from rq.worker import Worker as PlainWorker
from rq.worker.base import BaseWorker

from werk.errors import EXIT_CONFIG, ConfigError
from werk.log_format import Event
from werk.store.connection import hang_up, link_over
from werk.store.limits import LEASE_S
from werk.worker.commands import parse_command
from werk.worker.redis_side import AWAY, RetryingRedis, no_retry, retry_forever
from werk.worker.startup import ATTEMPT_S, wait_for_redis

if TYPE_CHECKING:
    from werk.worker.slot import Slot
    from werk.worker.supervisor import Supervisor

SOCKET_S = 5.0  # the supervisor's own commands wait no longer


class RQLoop(PlainWorker):
    """RQ's worker, with a slot and a supervisor while werk's loop runs in this process."""

    slot: Slot | None = None
    supervisor: Supervisor | None = None
    others: Sequence[Any] = ()  # what RQ takes our further slots for
    lease_s = float(LEASE_S)
    tick_s = 1.0  # from one tick of the supervisor to the next

    def server_version(self) -> tuple[int, int, int]:
        version: tuple[int, int, int] = self.get_redis_server_version()  # type: ignore[no-untyped-call]
        return version

    def ordered_queue_keys(self) -> list[str]:
        return [queue.key for queue in self._ordered_queues]

    def take_queues(self) -> None:
        """Create our queues again, with the present queue class."""
        self.queues = [self.queue(queue.name) for queue in self.queues]
        self._ordered_queues = self.queues[:]

    def use_strategy(self, strategy: Any) -> None:
        self._dequeue_strategy = strategy

    def has_strategy(self) -> bool:
        """Return whether the order of the queues changes from job to job."""
        is_default = self._dequeue_strategy in (None, DequeueStrategy.DEFAULT)
        return not is_default or type(self).reorder_queues is not BaseWorker.reorder_queues

    def reorder_after(self, queue_name: str) -> None:
        queues = self._ordered_queues
        self.reorder_queues(next((q for q in queues if q.name == queue_name), queues[0]))

    def queue(self, name: str) -> Queue:
        return self.queue_class(
            name,
            connection=self.connection,
            job_class=self.job_class,
            serializer=self.serializer,
            death_penalty_class=self.death_penalty_class,
        )

    def become_horse(self, log: Any, retry: RetryPolicy) -> None:
        """Become the side of RQ's worker that runs jobs, in the child.

        A reply may take as long as in RQ, some minutes: a job may send a command that blocks.
        """
        self._is_horse, self.scheduler, self.pubsub_thread = True, None, None
        pool = self.connection.connection_pool
        pool.reset()
        pool.connection_kwargs["socket_timeout"] = self.connection_timeout
        self.connection.set_retry(retry)
        self.log = log

    def harden_connection(self, retry: RetryPolicy) -> dict[str, Any]:
        """Limit the waits for Redis: RQ waits for minutes, ten times. Return the old settings."""
        pool = self.connection.connection_pool
        kwargs = pool.connection_kwargs
        before = {name: kwargs.get(name) for name in ("socket_timeout", "retry")}
        # Each connection would look it up again, in the files of its package: 2 ms, and a MiB of
        # memory that the horse would no longer share with us.
        driver = getattr(pool.connection_class(**kwargs), "driver_info", None)
        kwargs |= {"socket_timeout": SOCKET_S} | ({"driver_info": driver} if driver else {})
        pool.disconnect()
        self.connection.set_retry(retry)
        return before

    def subscribe(self) -> None:
        """Subscribe to the channels of all slots: one connection and one thread serve them."""
        super().subscribe()  # type: ignore[no-untyped-call]
        channels = {other.pubsub_channel_name: other.handle_payload for other in self.others}
        if channels and self.pubsub:
            self.pubsub.subscribe(**channels)

    def reconnect_pubsub(self) -> None:
        """End the connection of RQ's thread for commands, so that it opens another."""
        connection = self.pubsub and self.pubsub.connection
        if connection:
            hang_up(connection._sock)

    def install_signal_handlers(self) -> None:
        self._install_signal_handlers()  # type: ignore[no-untyped-call]

    def note_shutdown(self, is_busy: bool) -> None:
        """Note for RQ that the worker will exit, and whether it will finish a job before."""
        self._stop_requested = is_busy
        self._shutdown_requested_date = self._shutdown_requested_date or now()

    def shutdown_date(self) -> tuple[str, str]:
        """Return the field of our hash, and its value, that say when we were asked to exit."""
        return "shutdown_requested_date", utcformat(self._shutdown_requested_date or now())

    def take_stopped_job(self) -> str | None:
        """Return the job that RQ's stop-job has named, and forget it."""
        job_id, self._stopped_job_id = self._stopped_job_id, None
        return job_id

    def write_birth(self) -> None:
        """Write our hash again; a tick does the rest. (RQ's method omits the set of workers.)"""
        with self.connection.pipeline() as pipeline:
            pipeline.hset(self.key, mapping={**self.serialize(), "state": self._state})
            pipeline.expire(self.key, self.worker_ttl + 60)
            rq.worker_registration.register(self, pipeline)
            pipeline.execute()

    def _set_ip_address(self, connection: redis.Redis) -> None:
        """Wait for Redis first: here RQ's constructor sends the first command of a worker."""
        try:
            wait_for_redis(link_over(connection, ATTEMPT_S))
        except ConfigError as error:
            self.log.error("%s", error)
            raise SystemExit(EXIT_CONFIG) from None  # RQ exits with 1 and a traceback otherwise
        before = None if isinstance(connection, RetryingRedis) else connection.get_retry()
        connection.set_retry(retry_forever(connection))
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
            self.supervisor.stop_cold()
        else:
            super().request_force_stop(signum, frame)

    def handle_payload(self, message: dict[str, Any]) -> None:
        if self.supervisor:
            if slot := self.slot:  # read once: this is RQ's pubsub thread
                slot.commands.hear(message)
            return
        try:
            rq.command.handle_command(self, parse_command(message))
        except (LookupError, TypeError, ValueError) as error:  # it would end RQ's thread
            self.log.warning(Event("bad-command", worker=self.name, reason=repr(error)))

    def _pubsub_exception_handler(self, exc: Exception, *args: Any) -> None:
        """Keep RQ's thread for commands running: a time-out would end it, and all commands."""
        if self.supervisor and isinstance(exc, AWAY):
            time.sleep(self.tick_s)
        else:
            super()._pubsub_exception_handler(exc, *args)

    @property
    def horse_pid(self) -> int:
        return self.slot.child.pid if self.slot else self._horse_pid

    def get_current_job_id(self) -> str | None:
        if not self.slot:
            return super().get_current_job_id()
        return self.slot.shared.progress().run.rpartition(":")[0] or None

    def request_stop_execution(self, execution_id: str) -> None:
        if not self.slot:
            super().request_stop_execution(execution_id)
        elif self.slot.shared.progress().run.rpartition(":")[2] == execution_id:
            self.slot.kill_if("stop", lambda run: run.rpartition(":")[2] == execution_id)
        else:
            self.log.warning("Not running execution %s, command ignored.", execution_id)

    def kill_horse(self, sig: signal.Signals = signal.SIGKILL) -> None:
        """Handle RQ's stop-job, which has set _stopped_job_id, and its kill-horse."""
        if not self.slot:
            super().kill_horse(sig)
            return
        job_id = self.take_stopped_job()
        why = "stop" if job_id else "command"
        self.slot.kill_if(why, lambda run: not job_id or run.rpartition(":")[0] == job_id)
