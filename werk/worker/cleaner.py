"""Cleaner: RQ's clean-up after plain RQ workers. It may run user code."""

from __future__ import annotations

import logging
import os
import signal
import time
from contextlib import suppress

from werk.errors import described
from werk.log_format import Event
from werk.worker.process import forked
from werk.worker.redis_side import no_retry
from werk.worker.rq_side import RQSide
from werk.worker.shared_state import SharedState

CLEAN_S = 120  # limit of a clean-up without progress: a callback in it has 60 s


class Cleaner:
    """Runs RQ's clean-up in a child of the horse."""

    def __init__(self, worker: RQSide, shared: SharedState) -> None:
        self.worker, self.shared, self.log = worker, shared, logging.getLogger("rq.worker")
        self.pid = 0  # of the child

    def is_due(self) -> bool:
        cleaned_at = self.shared.cleaned_at
        return not cleaned_at or time.monotonic() > cleaned_at + self.worker.maintenance_interval

    def clean(self) -> None:
        """Run it in a child: user code cannot affect this process, and its memory is freed."""
        self.shared.cleaned_at = time.monotonic()  # first: do not repeat a failure at once
        with self.shared.watched(CLEAN_S):
            try:
                self.pid = forked(self._clean_up)
                with suppress(ChildProcessError):  # a task has had SIGCHLD ignored: it has ended
                    os.waitpid(self.pid, 0)
            except OSError as error:  # no process is available: try again next time
                self.log.error(Event("clean-up-failed", reason=error))
            self.pid = 0

    def break_off(self) -> bool:
        """End a clean-up that is running. Return whether there was one. For a signal handler."""
        if self.pid:
            os.kill(self.pid, signal.SIGKILL)
        return bool(self.pid)

    def _clean_up(self) -> int:
        # Without retries: while memory is full it would wait without end, and no job would run.
        self.worker.connection.set_retry(no_retry(self.shared))
        try:
            self.worker.run_maintenance_tasks()  # type: ignore[no-untyped-call]
        except Exception as error:
            why = described(error)
            self.log.error(Event("clean-up-failed", reason=why))
        return 0
