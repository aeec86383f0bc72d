"""JobLog: what the horse logs. One line an event, key=value, never an argument."""

from __future__ import annotations

import logging
from collections.abc import MutableMapping
from typing import Any

from werk.printable import printable
from werk.store.keys import text
from werk.worker.log_lines import mask

TASK_FORMAT = "%(asctime)s %(levelname)s %(name)s job=%(job)s task=%(task)s %(message)s"


class JobLog:
    """The log of a horse. Ask `logs_jobs` before making a line: it takes as long as a job."""

    def __init__(self) -> None:
        self.log = logging.getLogger("rq.worker")
        self.logs_jobs = self.log.isEnabledFor(logging.INFO)
        self.job = self.task = ""  # running now

    def event(self, event: str, facts: dict[str, object], level: int = logging.INFO) -> None:
        """Log an event of an execution, with these facts of it."""
        shown = " ".join(f"{name}={printable(str(value))}" for name, value in facts.items())
        self.log.log(level, "event=%s %s", event, shown)

    def dropped(self, dropped: list[bytes]) -> None:
        for job_id, why in zip(dropped[::2], dropped[1::2], strict=True):
            self.log.warning("event=dropped job=%s reason=%s", text(job_id), text(why))

    def open(self) -> Any:
        """Have what a task logs appear, if nobody else does. Returns the log for RQ's own lines."""
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
    """A logger without what is less than a warning.

    A logger of another name would do, but Sentry and others leave out `rq.worker` alone: they
    have a failure from handle_exception already.
    """

    def isEnabledFor(self, level: int) -> bool:
        return level >= logging.WARNING and super().isEnabledFor(level)

    def process(self, msg: Any, kwargs: MutableMapping[str, Any]) -> Any:
        return msg, kwargs  # with its own `extra`


class _TaskFormatter(logging.Formatter):
    """Names the job at hand on each line.

    It does not add them to the record: a task that logs with extra={"job": ...} would fail.
    """

    def __init__(self, log: JobLog) -> None:
        super().__init__(TASK_FORMAT)
        self.log = log

    def formatMessage(self, record: logging.LogRecord) -> str:
        facts = {"job": printable(self.log.job or "-"), "task": printable(self.log.task or "-")}
        return TASK_FORMAT % {**vars(record), **facts}
