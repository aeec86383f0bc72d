"""The errors of werk, and the exit code of each on the command line.

There is one base, so that a caller can write `except werk.WerkError`. A message says what happened
and what to do.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, TypeGuard, TypeVar

EXIT_OK = 0
EXIT_FAILED = 1  # the job failed, was cancelled or stopped
EXIT_USAGE = 2  # wrong usage; nothing was enqueued
EXIT_BAD_LINES = 65  # EX_DATAERR of sysexits.h: bad lines in a batch; the others were enqueued
EXIT_NO_JOB = 66  # EX_NOINPUT
EXIT_TRY_LATER = 75  # EX_TEMPFAIL
EXIT_CONFIG = 78  # EX_CONFIG
EXIT_TIMEOUT = 124  # as timeout(1)
EXIT_INTERRUPTED = 130  # 128 + SIGINT, as shells


Kind = TypeVar("Kind", bound=BaseException)

_name: Callable[[type], str] = vars(type)["__name__"].__get__  # a metaclass may have its own


def text_of(error: BaseException) -> str:
    """Return the text of an error of users' code, whose own str() may raise."""
    try:
        return str(error)
    except BaseException:
        return "<its text cannot be shown>"


def class_of(value: object) -> str:
    """Return the name of the class of a value of users' code."""
    return _name(type(value))


def is_a(error: object, *kinds: type[Kind]) -> TypeGuard[Kind]:
    """Return whether an error is of one of these classes, by its type alone.

    isinstance() also asks the error for its `__class__`, which is user code.
    """
    return issubclass(type(error), kinds)


def described(error: BaseException) -> str:
    """Return the class and the text of an error."""
    return f"{class_of(error)}: {text_of(error)}"


class WerkError(Exception):
    """Base of all errors raised by werk. Each argument is one line of its message."""

    exit_code = EXIT_FAILED
    handles: Sequence[Any] = ()  # what enqueue_many had enqueued before

    def __str__(self) -> str:
        return "\n".join(map(str, self.args))


class ArgumentError(WerkError):
    """Raised when arguments, or an option of an enqueue, are invalid; nothing was enqueued."""

    exit_code = EXIT_USAGE


class JobIdConflict(WerkError):
    """Raised when a `job_id` belongs to a job with another call; nothing was enqueued.

    A call is the task and its arguments. The message names the first call, with secrets masked.
    """

    exit_code = EXIT_USAGE


class UnknownTask(WerkError):
    """Raised when neither the table of tasks nor the catalog has the task."""

    exit_code = EXIT_USAGE


class ConfigError(WerkError):
    """Raised when the table of tasks, a setting or the credentials are wrong; do not try again."""

    exit_code = EXIT_CONFIG


class RedisUnavailable(WerkError):
    """Raised when Redis is unreachable for the whole time budget, loading or full; try again."""

    exit_code = EXIT_TRY_LATER


class NoWorker(WerkError):
    """Raised with require_worker when no live worker serves the task; the job was not enqueued."""

    exit_code = EXIT_TRY_LATER


class NoSuchJob(WerkError):
    """Raised when Redis has no job of this id: never enqueued, or expired."""

    exit_code = EXIT_NO_JOB


class JobFailed(WerkError):
    """Raised when a result is asked for and the job failed; `.traceback` is the worker's."""

    def __init__(self, message: str, traceback: str = "") -> None:
        super().__init__(message)
        self.traceback = traceback


class JobCancelled(JobFailed):
    """Raised when a result is asked for and the job was cancelled or stopped."""


class ResultNotKept(WerkError):
    """Raised when a result is asked for and the job finished, but the result was not kept."""


class ResultTimeout(WerkError):
    """Raised when the job has not ended within the time to wait; the job continues."""

    exit_code = EXIT_TIMEOUT


class Unreadable(WerkError):
    """Raised when bytes in Redis are not plain data: broken, too large, too deep, or with code."""


class TooLarge(Unreadable):
    """Raised when there are more bytes than the reader accepts; they may be plain data."""


class WerkWarning(UserWarning):
    """Issued for an enqueue that was accepted but needs attention."""
