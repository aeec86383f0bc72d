"""JobLog: what the horse logs: one line per event, with its facts, and never an argument."""

from __future__ import annotations

import logging
from collections.abc import MutableMapping
from typing import Any

from werk.errors import class_of
from werk.log_format import Event
from werk.store.keys import text
from werk.worker.claim import Claim
from werk.worker.log_handlers import show_running, show_what_tasks_log
from werk.worker.log_lines import mask


class JobLog:
    """The log of a horse. Check `logs_jobs` before you make a line: that takes as long as a job."""

    claim: Claim | None = None  # running now
    task = ""  # its name; "" if it is not known

    def __init__(self) -> None:
        self.log = logging.getLogger("rq.worker")
        self.logs_jobs = self.log.isEnabledFor(logging.INFO)

    def event(self, event: str, facts: dict[str, object], level: int = logging.INFO) -> None:
        """Log an event of an execution, with these facts."""
        self.log.log(level, Event(event, **facts))

    def ended(self, facts: dict[str, object], error: BaseException | None, took: float) -> None:
        """Log that a task has ended, after `took` seconds."""
        how: dict[str, object] = {} if error is None else {"error": class_of(error)}
        event = "done" if error is None else "failed"
        self.event(event, {**facts, **how, "elapsed": round(took, 3)})

    def dropped(self, dropped: list[bytes]) -> None:
        for job_id, why in zip(dropped[::2], dropped[1::2], strict=True):
            self.log.warning(Event("dropped", job=text(job_id), reason=text(why)))

    def running(self) -> dict[str, object]:
        """Return the facts about the job that runs: what a task logs is shown with them."""
        return self.claim.facts(self.task) if self.claim else {}

    def open(self) -> Any:
        """Print what tasks log, unless the application does. Return the logger for RQ's lines."""
        show_running(self.running)
        show_what_tasks_log(self.log.getEffectiveLevel())
        self.log.addFilter(mask)
        if self.log.isEnabledFor(logging.DEBUG):
            return self.log
        logging.getLogger("rq.job").setLevel(logging.WARNING)
        return _Warnings(self.log)  # RQ logs three lines where we log one


def run_facts(run: str) -> dict[str, object]:
    """Return the facts about an execution of which only the entry in wip is known."""
    job, _, execution = run.rpartition(":")
    return {"job": job, "execution": execution}


class _Warnings(logging.LoggerAdapter[logging.Logger]):
    """A logger that drops what is less than a warning.

    A logger of another name would do, but Sentry and others ignore only `rq.worker`, because they
    get failures from handle_exception.
    """

    def isEnabledFor(self, level: int) -> bool:
        return level >= logging.WARNING and super().isEnabledFor(level)

    def process(self, msg: Any, kwargs: MutableMapping[str, Any]) -> Any:
        return msg, kwargs  # with its own `extra`
