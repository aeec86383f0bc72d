"""The worker of the tests: the real one, with all its parts in time a fraction as long."""

from __future__ import annotations

import os
import signal

import werk.worker


class Worker(werk.worker.Worker):
    lease_s = 1.0
    tick_s = 0.2
    grace_s = 0.4
    recording_s = 0.7


class Twice(Worker):
    """Gets a second signal while it is still at the first: of a terminal, and of its pool."""

    def handle_warm_shutdown_request(self) -> None:
        super().handle_warm_shutdown_request()
        os.kill(os.getpid(), signal.SIGTERM)
