"""Tasks and handlers whose errors and descriptors make trouble: see test_odd_errors.py."""

from __future__ import annotations

import os
import subprocess
import sys
import time
from dataclasses import dataclass
from typing import Any

from rq import get_current_job
from worker_tasks import note

from werk import Task

HALF = "bad \udcff"  # as os.listdir returns a name that is not UTF-8


class Mute(Exception):
    """An error that cannot be shown."""

    def __str__(self) -> str:
        raise RuntimeError("no text")


class Empty(Exception):
    """An error that is false."""

    def __len__(self) -> int:
        return 0


class Untrue(Exception):
    """An error that is neither true nor false."""

    def __bool__(self) -> bool:
        raise RuntimeError("no truth")


class _Nameless(type):
    def __getattribute__(cls, name: str) -> Any:
        if name in ("__name__", "__qualname__", "__module__"):
            raise RuntimeError("no name")
        return super().__getattribute__(name)


class Nameless(Exception, metaclass=_Nameless):
    """An error of a class that does not tell its name."""


class Classless(Exception):
    """An error that does not tell its class."""

    @property  # type: ignore[misc]
    def __class__(self) -> type:
        raise RuntimeError("no class")


@dataclass(frozen=True)
class Frozen(Exception):
    """An error that takes no attributes, not even a traceback."""

    why: str

    def __str__(self) -> str:
        return self.why


ERRORS = {
    "empty": Empty,
    "untrue": Untrue,
    "nameless": Nameless,
    "classless": Classless,
    "frozen": Frozen,
}


def raise_odd(name: str) -> None:
    """Raise an error of one of these classes."""
    raise ERRORS[name]("as asked")


def raise_asked(*_: object) -> None:
    """Raise the error that the environment names: as any handler."""
    raise_odd(os.environ["ODD"])


def return_odd(name: str) -> object:
    """Return such an error, which cannot be stored."""
    return ERRORS[name]("as asked")


def raise_half() -> None:
    raise ValueError(HALF)


def describe_and_fail() -> None:
    get_current_job().description = HALF
    raise ValueError("as asked")


def break_in_callback(job: Any, connection: Any, *rest: Any) -> None:
    raise_half()


def return_half() -> object:
    """Return an object that cannot be stored, and whose type has half a character in its name."""
    made = type("Made", (), {})
    made.__module__ = made.__qualname__ = HALF
    return made()


def close_descriptors(folder: str, first: int, end: int, error: str) -> str:
    """Close descriptors that belong to the horse, and return, or raise with this text."""
    note(folder)
    os.closerange(first, end)
    if error:
        raise ValueError(error)
    return "ran"


def standard_descriptors() -> list[str]:
    """Return what stdin, stdout and stderr lead to, and what a process finds that it starts."""
    folder = "/proc/self/fd"
    ours = [os.readlink(f"{folder}/{number}") for number in range(3)]
    words = [sys.executable, "-c", "import os; [os.fstat(number) for number in range(3)]"]
    return [*ours, str(subprocess.run(words, check=False).returncode)]


def raise_mute() -> None:
    raise Mute


def gave_up(job: Any, reason: str, traceback: str) -> None:
    note(os.environ["FOLDER"], "gave-up")
    raise Mute


def around(subject: Any, call_next: Any) -> Any:
    return call_next()


def flush(seconds: float) -> None:
    raise Mute


class Renamed:
    """A class whose method `before` has another name by now."""

    def now(self) -> None: ...


class Read:
    """An object whose payload runs code when it is read."""

    def __init__(self, how: str) -> None:
        self.how = how

    def __reduce__(self) -> Any:
        return be_read, (self.how,)


def be_read(how: str) -> None:
    if how == "exits":
        sys.exit(3)
    time.sleep(3600)  # until the time limit


_PATH = "odd_tasks."
TASKS = {
    name: Task(_PATH + name)
    for name in (
        "raise_odd return_odd raise_half describe_and_fail return_half raise_mute "
        "close_descriptors standard_descriptors".split()
    )
} | {
    "exit_at_once": Task("slot_tasks.exit_at_once", max_crashes=2),
    "note": Task("worker_tasks.note"),
    "break_in_callback": Task(_PATH + "break_in_callback"),
    "raise_half_twice": Task(_PATH + "raise_half", retry=1, retry_delay=0),
}
