"""The worker of the tests on a system whose kernel does not signal the end of a pipe."""

from __future__ import annotations

from fast_worker import Worker

import werk.worker.process

werk.worker.process.SIGNALS_HANG_UP = False

__all__ = ["Worker"]
