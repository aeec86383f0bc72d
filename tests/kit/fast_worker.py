"""The worker of the tests: the real one, with all its parts in time a fraction as long."""

from __future__ import annotations

import errno
import os
import signal
from typing import Any

import werk.worker


class Worker(werk.worker.Worker):
    lease_s = 1.0
    tick_s = 0.2
    grace_s = 2.0
    recording_s = 0.7


class Twice(Worker):
    """Gets a second signal while it is still at the first: of a terminal, and of its pool."""

    def handle_warm_shutdown_request(self) -> None:
        super().handle_warm_shutdown_request()
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


class OldLoop(Worker):
    """Replaces a piece of RQ's loop, so that RQ's own runs."""

    def dequeue_job_and_maintain_ttl(self, *args: Any, **kwargs: Any) -> Any:
        return super().dequeue_job_and_maintain_ttl(*args, **kwargs)
