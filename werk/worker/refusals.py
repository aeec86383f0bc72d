"""Refusals: what WERK_ALLOW_UNREGISTERED lets run and a worker without it would refuse."""

from __future__ import annotations

import logging
from typing import Any

from werk.errors import described
from werk.printable import printable
from werk.store.keys import text
from werk.store.limits import ERROR_LENGTH
from werk.store.notes import WOULD_REFUSE, note
from werk.store.scripts import source
from werk.worker.claim import Claim
from werk.worker.log import JobLog
from werk.worker.redis_side import FINISH_S
from werk.worker.rq_side import RQSide
from werk.worker.shared_state import SharedState

LONGEST_NAME = 200  # characters


class Refusals:
    """Logs jobs that would be refused, and counts them in Redis. Lives in the horse."""

    def __init__(self, worker: RQSide, shared: SharedState, log: JobLog) -> None:
        self.serializer: Any = worker.serializer  # RQ's, with which any function may run
        self.client: Any = worker.connection
        self.shared, self.log = shared, log
        source("note")  # read from its file while one can be opened
        self._found: dict[str, tuple[int, str]] = {}  # by name: how many jobs, and why the last

    def add(self, claim: Claim, path: object, why: Exception) -> None:
        """Note that a job would be refused. `path` may be the function itself.

        It is counted under the path that is not registered, which may be that of a callback.
        """
        called = path if type(path) is str else getattr(path, "__qualname__", "")
        task = printable((text(claim.task) or str(called) or "-")[:LONGEST_NAME])
        reason = described(why)
        self.log.event("would-refuse", {**claim.facts(task), "reason": reason}, logging.WARNING)
        name = printable(getattr(why, "path", "")[:LONGEST_NAME]) or task
        count, _ = self._found.get(name, (0, ""))
        self._found[name] = count + 1, printable(reason[:ERROR_LENGTH])

    def write(self) -> None:
        """Count in Redis what was noted since the last time."""
        if not self._found or self.shared.stop:
            return
        with self.shared.watched(FINISH_S):
            for name, (count, reason) in self._found.items():
                self.client.execute_command(*note(WOULD_REFUSE, name, {"reason": reason}, count))
        self._found.clear()
