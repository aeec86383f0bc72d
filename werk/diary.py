"""What the horse tells: one line an event, key=value, never an argument."""

from __future__ import annotations

import logging
from collections.abc import MutableMapping
from typing import TYPE_CHECKING, Any

from werk.wire import text

if TYPE_CHECKING:
    from werk.claim import Claim

TASK_FORMAT = "%(asctime)s %(levelname)s %(name)s job=%(job)s task=%(task)s %(message)s"


class Diary:
    """The log of a horse. Ask `says` before making a line: it takes as long as a job."""

    def __init__(self) -> None:
        self.log = logging.getLogger("rq.worker")
        self.says = self.log.isEnabledFor(logging.INFO)
        self.current: Claim | None = None

    def tell(self, event: str, claim: Claim, level: int = logging.INFO, /, **more: object) -> None:
        facts = {
            "job": claim.id,
            "task": claim.task or "-",
            "queue": text(claim.origin),
            "attempt": claim.attempt,
            **more,
        }
        shown = " ".join(f"{name}={printable(value)}" for name, value in facts.items())
        self.log.log(level, "event=%s %s", event, shown)

    def tell_dropped(self, dropped: list[bytes]) -> None:
        for job_id, why in zip(dropped[::2], dropped[1::2], strict=True):
            self.log.warning("event=dropped job=%s reason=%s", printable(text(job_id)), text(why))

    def open(self) -> Any:
        """Mark each record with the job at hand. Returns the log that RQ's own lines go to."""
        make = logging.getLogRecordFactory()

        def mark(*args: Any, **kwargs: Any) -> logging.LogRecord:
            record = make(*args, **kwargs)
            record.job = self.current.id if self.current else "-"
            record.task = self.current.task if self.current else "-"
            return record

        logging.setLogRecordFactory(mark)
        root = logging.getLogger()
        if not root.handlers:
            handler = logging.StreamHandler()
            handler.setFormatter(logging.Formatter(TASK_FORMAT))
            handler.addFilter(lambda record: not record.name.startswith("rq."))  # have their own
            root.addHandler(handler)
            root.setLevel(self.log.getEffectiveLevel())
        if self.log.isEnabledFor(logging.DEBUG):
            return self.log
        logging.getLogger("rq.job").setLevel(logging.WARNING)
        return _Warnings(self.log)  # RQ says in three lines what we say in one


class _Warnings(logging.LoggerAdapter[logging.Logger]):
    """A logger without what is less than a warning.

    A logger of another name would do, but Sentry and others leave out `rq.worker` alone: they
    have a failure from handle_exception already.
    """

    def isEnabledFor(self, level: int) -> bool:
        return level >= logging.WARNING and super().isEnabledFor(level)

    def process(self, msg: Any, kwargs: MutableMapping[str, Any]) -> Any:
        return msg, kwargs  # with its own `extra`


def printable(value: object) -> str:
    """Return a value without control characters: they never reach a terminal."""
    shown = str(value)
    return shown if shown.isprintable() else ascii(shown)
