"""The worker of the tests: the real one, with all its parts in time a fraction as long."""

from __future__ import annotations

import werk.worker


class Worker(werk.worker.Worker):
    lease_s = 1.0
    tick_s = 0.2
    grace_s = 0.4
    recording_s = 0.7
