"""JobLog: what the horse logs: one line per event, key=value, and never an argument."""

from __future__ import annotations

import logging
from collections.abc import MutableMapping
from typing import Any

from werk.printable import printable
from werk.store.keys import text
from werk.worker.log_lines import mask

TASK_FORMAT = "%(asctime)s %(levelname)s %(name)s job=%(job)s task=%(task)s %(message)s"


class JobLog:
    """The log of a horse. Check `logs_jobs` before you make a line: that takes as long as a job."""

    def __init__(self) -> None:
        self.log = logging.getLogger("rq.worker")
        self.logs_jobs = self.log.isEnabledFor(logging.INFO)
        self.job = self.task = ""  # running now

    def event(self, event: str, facts: dict[str, object], level: int = logging.INFO) -> None:
        """Log an event of an execution, with these facts."""
        shown = " ".join(f"{name}={printable(str(value))}" for name, value in facts.items())
        self.log.log(level, "event=%s %s", event, shown)

    def ended(self, facts: dict[str, object], error: BaseException | None, took: float) -> None:
        """Log that a task has ended, after so many seconds."""
        how = {"error": type(error).__name__} if error else {}
        self.event("failed" if error else "done", {**facts, **how, "elapsed": f"{took:.3f}"})

    def dropped(self, dropped: list[bytes]) -> None:
        for job_id, why in zip(dropped[::2], dropped[1::2], strict=True):
            self.log.warning("event=dropped job=%s reason=%s", text(job_id), text(why))

    def open(self) -> Any:
        """Print what tasks log, unless the application does. Return the logger for RQ's lines."""
        root = logging.getLogger()
        if not root.handlers:
            handler = logging.StreamHandler()
            handler.setFormatter(_TaskFormatter(self))
            root.addHandler(handler)
            root.setLevel(self.log.getEffectiveLevel())
        self.log.addFilter(mask)
        if self.log.isEnabledFor(logging.DEBUG):
            return self.log
        logging.getLogger("rq.job").setLevel(logging.WARNING)
        return _Warnings(self.log)  # RQ logs three lines where we log one


class _Warnings(logging.LoggerAdapter[logging.Logger]):
    """A logger that drops what is less than a warning.

    A logger of another name would do, but Sentry and others ignore only `rq.worker`, because they
    get failures from handle_exception.
    """

    def isEnabledFor(self, level: int) -> bool:
        return level >= logging.WARNING and super().isEnabledFor(level)

    def process(self, msg: Any, kwargs: MutableMapping[str, Any]) -> Any:
        return msg, kwargs  # with its own `extra`


class _TaskFormatter(logging.Formatter):
    """Adds the running job and its task to each line.

    It does not add them to the record: a task that logs with extra={"job": ...} would fail.
    """

    def __init__(self, log: JobLog) -> None:
        super().__init__(TASK_FORMAT)
        self.log = log

    def formatMessage(self, record: logging.LogRecord) -> str:
        facts = {"job": printable(self.log.job or "-"), "task": printable(self.log.task or "-")}
        return TASK_FORMAT % {**vars(record), **facts}
