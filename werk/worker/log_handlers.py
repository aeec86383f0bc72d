"""The log handlers of a worker: they print what no handler of the application prints.

They belong to a parent of the root logger. On the root logger itself they would make
logging.basicConfig() do nothing, and the lines of an application that adds a handler there later
would be printed twice.
"""

from __future__ import annotations

import logging
import sys
from collections.abc import Callable
from typing import Any

from rq.defaults import DEFAULT_LOGGING_DATE_FORMAT, DEFAULT_LOGGING_FORMAT
from rq.logutils import colorizer, setup_loghandlers

from werk.errors import ArgumentError
from werk.log_format import FORMAT, Event, LineFormatter, SafeFormatter, shown
from werk.worker.log_lines import make_safe, mask

JSON = "json"  # as a log format
RQ_FORMATS = (DEFAULT_LOGGING_FORMAT, DEFAULT_LOGGING_DATE_FORMAT)
NOBODY = dict.fromkeys(("job", "task", "queue", "attempt"), "-")

Running = Callable[[], dict[str, object]]  # the job that runs, as Claim.facts; {} if there is none

_basic_config = logging.basicConfig
above_root = logging.Logger("above root")
YIELDED = "above root, not used"


class Level(int):
    """A level that we have given to the root logger. An application's own is another int."""


class JobFormatter(LineFormatter):
    """Adds the running job to a line.

    It does not add it to the record: a task that logs with extra={"job": ...} would fail.
    """

    def __init__(self, log_format: str, date_format: str | None) -> None:
        super().__init__(log_format, date_format)
        self.log_format, self.running = log_format, dict[str, object]

    def formatMessage(self, record: logging.LogRecord) -> str:
        if self.log_format != FORMAT:
            return self.log_format % {**vars(record), **NOBODY, **self.running()}
        event = record.msg if type(record.msg) is Event else None
        text = record.message
        if not (event and "job" in event.facts) and (facts := self.running()):
            job = f"job={shown(facts['job'])} task={shown(facts['task'])}"
            text = f"{text} {job}" if event else f"{job} {text}"
        return f"{record.asctime} {record.levelname} {record.name} {text}"  # as FORMAT


def open_log(log_format: str, date_format: str) -> None:
    """Print log lines in a format: errors on stderr, the others on stdout, as RQ does.

    RQ's defaults stand for our own format, or for the one that was given before. Raises
    ArgumentError, and ModuleNotFoundError for json without its package.
    """
    is_given = (log_format, date_format) != RQ_FORMATS
    if above_root.handlers and not is_given:
        return
    formatter = _formatter(log_format, date_format)
    if not above_root.handlers:
        colorizer.notty = True  # RQ's colours would be escaped like the names that they colour
        for stream, is_mine in ((sys.stdout, _is_no_error), (sys.stderr, _is_error)):
            own = logging.StreamHandler(stream)
            own.addFilter(is_mine)
            own.addFilter(_is_unprinted)
            above_root.addHandler(own)
        logging.root.parent = above_root
        logging.basicConfig = _configure_if_asked
        if not logging.root.handlers:
            logging.captureWarnings(True)
    for handler in above_root.handlers:
        handler.setFormatter(formatter)


def set_up_logs(level: int | str | None, date_format: str, log_format: str) -> None:
    """Set up the log of a worker. Options as in RQ, of which only the level remains to be set."""
    take_over()
    open_log(log_format, date_format)
    for name in ("rq.worker", "rq"):
        setup_loghandlers(level, date_format, log_format, name)
    logging.getLogger("rq.worker").addFilter(mask)
    make_safe(all_handlers())


def take_over() -> None:
    """Replace the handlers that RQ's command line has set up with our own."""
    for log in [*logging.Logger.manager.loggerDict.values()]:
        if not isinstance(log, logging.Logger) or not log.name.startswith("rq"):
            continue
        for handler in filter(_is_of_rq, [*log.handlers]):
            own = handler.formatter or logging.Formatter()
            open_log(own._fmt or "", own.datefmt or "")
            log.removeHandler(handler)
            log.propagate = True


def show_running(running: Running) -> None:
    """Show the job that runs on each line of our handlers."""
    for handler in above_root.handlers:
        inner: Any = getattr(handler.formatter, "inner", handler.formatter)
        inner.running = running


def show_what_tasks_log(level: int) -> None:
    """Have the root logger pass on what tasks log, unless the application has decided that."""
    if not logging.root.handlers and logging.root.level == logging.WARNING:
        logging.root.setLevel(Level(level))


def yield_to_application() -> None:
    """Notice that the application has added a handler to the root logger.

    Take back our level of that logger. Warn, once, if an option has no effect for that reason.
    """
    if not logging.root.handlers:
        return
    if type(logging.root.level) is Level:
        logging.root.setLevel(logging.WARNING)
    formats = {type(handler.formatter) for handler in above_root.handlers}
    if above_root.name != YIELDED and formats - {SafeFormatter}:
        above_root.name = YIELDED
        why = "the application has a handler on the root logger: --log-format json has no effect"
        logging.getLogger("rq.worker").warning(Event("other-log-format", reason=why))


def all_handlers() -> list[logging.Handler]:
    """Return the handlers of all loggers, and the one for records that have none."""
    loggers = [above_root, logging.root, *logging.Logger.manager.loggerDict.values()]
    found = [handler for log in loggers for handler in getattr(log, "handlers", ())]
    return [*found, *filter(None, [logging.lastResort])]


def _formatter(log_format: str, date_format: str) -> logging.Formatter:
    if log_format == JSON:
        from werk.worker.log_json import JsonLines  # its package is optional

        return JsonLines()
    line = FORMAT if log_format == DEFAULT_LOGGING_FORMAT else log_format
    date = None if date_format == DEFAULT_LOGGING_DATE_FORMAT else date_format
    try:
        return SafeFormatter(JobFormatter(line, date))
    except ValueError:
        what = "use json, or a format of Python's logging such as '%(levelname)s %(message)s'"
        raise ArgumentError(f"--log-format: {what}, got {log_format!r}") from None


def _configure_if_asked(**kwargs: Any) -> None:
    """Stand for logging.basicConfig(), which logging.info() calls by itself as well."""
    if sys._getframe(1).f_globals is not vars(logging):
        _basic_config(**kwargs)


def _is_error(record: logging.LogRecord) -> bool:
    return record.levelno >= logging.ERROR


def _is_no_error(record: logging.LogRecord) -> bool:
    return record.levelno < logging.ERROR


def _is_unprinted(record: logging.LogRecord) -> bool:
    """Return whether no handler of the application prints a record: a logging filter."""
    if logging.root.handlers:
        return False
    log: Any = logging.Logger.manager.loggerDict.get(record.name)
    while isinstance(log, logging.Logger) and log is not logging.root:
        if any(map(_prints, log.handlers)):
            return False
        log = log.parent
    return True


def _prints(handler: logging.Handler) -> bool:
    """Return whether a handler writes to a terminal or a pipe: not to a file of its own."""
    is_stream = isinstance(handler, logging.StreamHandler)
    return is_stream and not isinstance(handler, logging.FileHandler)


def _is_of_rq(handler: logging.Handler) -> bool:
    """Return whether setup_loghandlers has made a handler: those of a DICT_CONFIG stay."""
    return any(getattr(own, "__module__", "") == "rq.logutils" for own in handler.filters)
