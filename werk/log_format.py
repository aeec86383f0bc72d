"""The one format of log lines: time with zone, level, logger, and what happened.

Event is the message of werk's own records: its facts are fields in JSON, and key=value in text. A
record is one line of text, and what follows (a traceback) is indented.
"""

from __future__ import annotations

import logging
from collections.abc import Callable
from datetime import datetime
from typing import Any

from werk.errors import described
from werk.printable import printable

FORMAT = "%(asctime)s %(levelname)s %(name)s %(message)s"
INDENT = " " * 4
OWN = ("rq", "werk")  # loggers whose records are facts on one line
BARE = len(vars(logging.makeLogRecord({})))  # attributes of a record without an `extra`

_last_second = [(-1, "", "")]


class Event:
    """A message with a name and facts: log.warning(Event("kill", job=..., reason=...))."""

    __slots__ = ("_text", "facts", "name")

    def __init__(self, name: str, /, **facts: object) -> None:
        self.name, self.facts, self._text = name, facts, ""

    def __str__(self) -> str:
        if not self._text:  # each formatter asks twice
            words = [f"{name}={shown(value)}" for name, value in self.facts.items()]
            self._text = " ".join([f"event={self.name}", *words])
        return self._text


def shown(value: object) -> str:
    """Return a value for key=value: on one line, and in quotes if it has a space, = or quotes."""
    text = printable(str(value))
    is_word = " " not in text and text.isprintable()  # which is false for any other space
    if text and is_word and '"' not in text and "=" not in text:
        return text
    return '"' + text.replace('"', '\\"') + '"'


def moment(created: float) -> str:
    """Return a time (Unix seconds) as log lines have it: 2026-11-27T13:04:05.120+01:00."""
    second = int(created)
    last, date, zone = _last_second[0]
    if second != last:  # a line in the same second as the last one takes a quarter of the time
        text = datetime.fromtimestamp(second).astimezone().isoformat()
        date, zone = text[:19], text[19:]
        _last_second[0] = second, date, zone
    return f"{date}.{int((created - second) * 1000):03}{zone}"


def log_to_stderr() -> None:
    """Log to stderr, unless the application (a table's module) has a handler on the root logger."""
    handler = logging.StreamHandler()
    handler.setFormatter(SafeFormatter(LineFormatter(FORMAT)))
    logging.basicConfig(level=logging.INFO, handlers=[handler])


class LineFormatter(logging.Formatter):
    """Writes the time with date and zone, unless a date format was given."""

    def formatTime(self, record: logging.LogRecord, datefmt: str | None = None) -> str:
        return super().formatTime(record, datefmt) if datefmt else moment(record.created)


class SafeFormatter(logging.Formatter):
    """Makes records safe to print, and has another formatter format them.

    No control characters, no forged lines. The record itself is not changed, because Sentry and
    other handlers read it.
    """

    is_safe = True

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
            trace = traceback_of(record.exc_info, self.inner.formatException)
        other = logging.LogRecord.__new__(type(record))  # copy() fails for an `extra` of some names
        for name, value in vars(record).items():
            other.__dict__[name] = printable(value) if type(value) is str else value
        if not text.isprintable():  # else it may be a dict, as structlog's are
            other.msg, other.args = message(record, text), ()
        other.exc_text = trace and INDENT + indented(trace)
        other.stack_info = record.stack_info and INDENT + indented(record.stack_info)
        return other


def traceback_of(facts: Any, format_exception: Callable[[Any], Any]) -> Any:
    """Return the traceback of an error of users' code, or what can be shown of it."""
    try:
        return format_exception(facts)
    except Exception:
        return described(facts[1])


def message(record: logging.LogRecord, text: str) -> str:
    """Return the text of a record: on one line, or with the lines that follow indented.

    In our own and RQ's records, further lines come from somebody else, except for a traceback.
    """
    if record.name.partition(".")[0] not in OWN:
        return indented(text.rstrip("\n") if record.name == "py.warnings" else text)
    args = record.args
    if type(args) is not tuple or not args or not str(record.msg).endswith("\n%s"):
        return printable(text)
    first = text.removesuffix(f"\n{args[-1]}")
    return f"{printable(first)}\n{INDENT}{indented(str(args[-1]).rstrip())}"


def indented(text: str) -> str:
    """Return each line of a text escaped, and all but the first one indented."""
    return f"\n{INDENT}".join(map(printable, text.split("\n")))
