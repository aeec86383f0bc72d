"""Makes log lines safe: no control characters, no forged lines, no values of secrets.

make_safe() lets each handler escape a record before its own formatter sees it: a record is one
line, and what follows (a traceback) is indented. The record itself is not changed, because Sentry
and other handlers read it.
"""

from __future__ import annotations

import logging
from collections.abc import Iterable
from typing import Any

from werk import registry
from werk.printable import printable
from werk.tasks import signature

INDENT = " " * 4
OWN = ("rq", "werk")  # loggers whose records are facts on one line
BARE = len(vars(logging.makeLogRecord({})))  # attributes of a record without an `extra`


def indented(text: str) -> str:
    """Return each line of a text escaped, and all but the first one indented."""
    return f"\n{INDENT}".join(map(printable, text.split("\n")))


class SafeFormatter(logging.Formatter):
    """Makes records safe to print, and has another formatter format them."""

    def __init__(self, inner: logging.Formatter) -> None:
        super().__init__()
        self.inner = inner

    def format(self, record: logging.LogRecord) -> str:
        text, facts = record.getMessage(), vars(record)
        has_more = record.exc_info or record.exc_text or record.stack_info
        added = ("message" in facts) + ("asctime" in facts)  # by another handler's formatter
        if has_more or len(facts) > BARE + added or not text.isprintable():
            record = self.safe(record, text)
        return self.inner.format(record)

    def safe(self, record: logging.LogRecord, text: str) -> logging.LogRecord:
        """Return a copy of a record in which everything is escaped."""
        trace = record.exc_text
        if record.exc_info and not trace:
            trace = self.inner.formatException(record.exc_info)
        other = logging.LogRecord.__new__(type(record))  # copy() fails for an `extra` of some names
        for name, value in vars(record).items():
            other.__dict__[name] = printable(value) if type(value) is str else value
        if not text.isprintable():  # else it may be a dict, as structlog's are
            other.msg, other.args = message(record, text), ()
        other.exc_text = trace and INDENT + indented(trace)
        other.stack_info = record.stack_info and INDENT + indented(record.stack_info)
        return other


def message(record: logging.LogRecord, text: str) -> str:
    """Return the text of a record: on one line, or with the lines that follow indented.

    In our own and RQ's records, further lines come from somebody else, except for a traceback.
    """
    if record.name.partition(".")[0] not in OWN:
        return indented(text)
    first, has_trace, _ = str(record.msg).partition("\n%s")
    if not has_trace or type(record.args) is not tuple:
        return printable(text)
    *facts, trace = record.args
    return f"{printable(first % tuple(facts))}\n{INDENT}{indented(str(trace).rstrip())}"


def all_handlers() -> list[logging.Handler]:
    """Return the handlers of all loggers, and the one for records that have none."""
    loggers = [logging.root, *logging.Logger.manager.loggerDict.values()]
    found = [handler for log in loggers for handler in getattr(log, "handlers", ())]
    return [*found, *filter(None, [logging.lastResort])]


def make_safe(handlers: Iterable[logging.Handler]) -> None:
    """Have these handlers print safe lines only, whatever their formatter is."""
    for handler in handlers:
        if not isinstance(handler.formatter, SafeFormatter):
            handler.setFormatter(SafeFormatter(handler.formatter or logging.Formatter()))


def mask(record: logging.LogRecord) -> bool:
    """Mask the values of secret parameters in RQ's record of a failure: a logging filter.

    RQ adds the call to the record, as attributes that Sentry and others pass on.
    """
    facts = vars(record)
    if "func" in facts and "arguments" in facts and "kwargs" in facts:
        call = facts["func"], facts["arguments"], facts["kwargs"]
        facts["arguments"], facts["kwargs"] = masked(*call)
    return True


def masked(path: Any, args: Any, kwargs: Any) -> tuple[Any, Any]:
    """Return the arguments of a call of a registered function, secret ones as ***."""
    tasks = registry.tasks().values()
    secret = {name for task in tasks if task.path == path for name in task.secret}
    if not secret:
        return args, kwargs
    try:
        return signature.read(path).masked(args, kwargs, secret)
    except Exception:  # the arguments do not fit the parameters
        return "***", "***"
