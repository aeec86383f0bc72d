"""The worker of the tests: the real one, with all its parts in time a fraction as long."""

from __future__ import annotations

import errno
import os
import signal
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any, ClassVar
from unittest.mock import patch

import redis
import roles

import werk.worker
from werk.worker.process import Child, WakePipe
from werk.worker.slot import Slot
from werk.worker.tick import Found, Ticker


class Worker(werk.worker.Worker):
    lease_s = 1.0
    tick_s = 0.2
    grace_s = 2.0
    recording_s = 0.7


class Calm(Worker):
    """One that others do not take for dead because the machine is busy."""

    lease_s = 10.0


class Rare(werk.worker.Worker):
    """Ticks when it begins, and then once an hour."""

    tick_s = 3600.0


class Twice(Worker):
    """Gets a second signal while it is still at the first: of a terminal, and of its pool."""

    def handle_warm_shutdown_request(self) -> None:
        super().handle_warm_shutdown_request()
        os.kill(os.getpid(), signal.SIGTERM)


class Stopped(Worker):
    """Gets SIGTERM while it starts, in the method that STOPPED_IN names."""

    def register_birth(self) -> None:
        super().register_birth()
        self._stop_in("register_birth")

    def use_strategy(self, *args: Any) -> None:
        self._stop_in("use_strategy")
        super().use_strategy(*args)

    def install_signal_handlers(self) -> None:
        self._stop_in("install_signal_handlers")
        super().install_signal_handlers()
        self._stop_in("the loop")

    def _stop_in(self, where: str) -> None:
        if os.environ["STOPPED_IN"] == where:
            os.kill(os.getpid(), signal.SIGTERM)


class Forkless(Worker):
    """Gets no process, the first two times that it wants one."""

    def work(self, *args: object, **kwargs: object) -> bool:
        fork, refusals = os.fork, [errno.EAGAIN, errno.ENOMEM]

        def refuse() -> int:
            if refusals:
                raise OSError(refusals[0], os.strerror(refusals.pop(0)))
            return fork()

        os.fork = refuse
        return super().work(*args, **kwargs)


class Lingering(Worker):
    """Its killed horse ends ten ticks later, as one that waits for a disk."""

    def work(self, *args: object, **kwargs: object) -> bool:
        kill, doze, tick = Child.signal_group, WakePipe.doze, Ticker.tick
        held: list[Child] = []
        turns: Counter[str] = Counter()  # of the supervisor's loop, until the horse ends

        def kill_later(child: Child, number: signal.Signals) -> None:
            if child.killed and not held:
                held.append(child)
            else:
                kill(child, number)

        def count_turn(pipe: WakePipe, seconds: float) -> None:
            turns["all"] += len(held)
            doze(pipe, seconds)

        def count_tick(ticker: Ticker, slots: list[Slot]) -> Found:
            turns["ticks"] += len(held)
            if turns["ticks"] == 10:
                self.log.warning("%d turns", turns["all"])
                kill(held[0], signal.SIGKILL)
            return tick(ticker, slots)

        with (
            patch.object(Child, "signal_group", kill_later),
            patch.object(WakePipe, "doze", count_turn),
            patch.object(Ticker, "tick", count_tick),
        ):
            return super().work(*args, **kwargs)


class OldLoop(Worker):
    """Replaces a piece of RQ's loop, so that RQ's own runs."""

    def dequeue_job_and_maintain_ttl(self, *args: Any, **kwargs: Any) -> Any:
        return super().dequeue_job_and_maintain_ttl(*args, **kwargs)


class Dying(Worker):
    """Its horse is killed the first time that it would have RQ record the failure of a job."""

    def handle_job_failure(self, job: Any, *args: Any, **kwargs: Any) -> None:
        if self.connection.set(f"rq:died:{job.id}", 1, nx=True):
            os.kill(os.getpid(), signal.SIGKILL)
        super().handle_job_failure(job, *args, **kwargs)


class Undoing(Worker):
    """Redis loses the first outcome of each job that RQ's code has recorded, as in a failover."""

    undone: ClassVar[set[str]] = set()

    def record_success(self, job: Any, *args: Any) -> None:
        with self._lost_at_first(job.id):
            super().record_success(job, *args)

    def record_failure(self, job: Any, *args: Any) -> None:
        with self._lost_at_first(job.id):
            super().record_failure(job, *args)

    @contextmanager
    def _lost_at_first(self, job_id: str) -> Iterator[None]:
        client = redis.Redis.from_url(roles.url(os.environ["RQ_REDIS_URL"], None))
        is_first = job_id not in self.undone
        self.undone.add(job_id)
        before = {key: (client.pttl(key), client.dump(key)) for key in client.keys("*")}
        yield
        if is_first:
            with client.pipeline() as at_once:
                at_once.delete(*client.keys("*"))
                for key, (ttl_ms, value) in before.items():
                    at_once.restore(key, max(ttl_ms, 0), value)
                at_once.execute()
        client.close()
