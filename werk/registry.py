"""The table of tasks: a name that callers use -> the dotted path of the function that workers run.

To add a task, write the function and add one line to TASKS. Nothing here imports a task.
More tables, without editing this file: WERK_REGISTRY=shop.tasks:TASKS,shop.reports:TASKS
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from functools import cache
from typing import NamedTuple

from werk.errors import ConfigError
from werk.settings import Settings

DEFAULT_TIMEOUT_S = 180  # RQ's default too (rq.defaults.DEFAULT_TIMEOUT)
FAILURE_TTL_S = 30 * 24 * 3600
LONGEST_S = 10**9  # thirty years; timers and Redis accept little more
MOST_RETRIES = 10_000

_PATH = re.compile(r"[A-Za-z_]\w*(\.[A-Za-z_]\w*)+")
_NUMBERS = (  # the least and the most of each number of a task; of a time, -1 means none
    *(("timeout", 1, LONGEST_S), ("result_ttl", 0, LONGEST_S), ("failure_ttl", 0, LONGEST_S)),
    *((name, 0, MOST_RETRIES) for name in ("retry", "retry_delay", "max_crashes")),
)


class Task(NamedTuple):
    """A task and the defaults of its jobs; an enqueue can override most. Times are in seconds."""

    path: str
    queue: str = "default"
    timeout: int = DEFAULT_TIMEOUT_S  # of one execution; -1: none
    result_ttl: int = 3600  # how long a result is kept; -1: it never expires, 0: not at all
    failure_ttl: int = FAILURE_TTL_S  # how long a failed job is kept
    retry: int = 0  # how often a failed job is retried
    retry_delay: int = 10  # before the first retry; doubled each time, at most an hour
    max_crashes: int = 2  # how often a job that killed its worker is run again
    secret: tuple[str, ...] = ()  # parameters shown as ***

    def problem(self) -> str | None:
        """Return what is wrong with the task, or None."""
        if not isinstance(self.path, str) or not _PATH.fullmatch(self.path):
            return f"path {self.path!r} is not of the form package.module.function"
        if not isinstance(self.queue, str) or not self.queue or not self.queue.isprintable():
            return f"queue {self.queue!r} is not a queue name; use printable text"
        for name, least, most in _NUMBERS:
            number, has_none = getattr(self, name), most == LONGEST_S
            if type(number) is not int:
                return f"{name} {number!r}: use a whole number (int)"
            if not least <= number <= most and not (has_none and number == -1):
                none = " seconds, or -1 for no limit" * has_none
                return f"{name} {number}: use {least} to {most}{none}"
        if isinstance(self.secret, str) or not all(isinstance(name, str) for name in self.secret):
            return 'secret must be a tuple of parameter names, such as ("token",)'
        return None


TASKS: dict[str, str | Task] = {
    "sleep": "werk.jobs.sleep",
    "hello": "werk.jobs.hello",
    "panic": "werk.jobs.panic",
}

BUILT_IN = {"werk.ping": Task("werk.ping")}  # workers run it too, for `werk ping`

NAME = re.compile(r"[A-Za-z0-9_][A-Za-z0-9_.:-]*")


@cache
def tasks() -> Mapping[str, Task]:
    """Return every task by name: TASKS and the tables of WERK_REGISTRY. Raises ConfigError."""
    table = {name: _checked(name, entry, "werk.registry:TASKS") for name, entry in TASKS.items()}
    for place in Settings.read().registry:
        for name, entry in _load(place).items():
            task = _checked(name, entry, place)
            if table.setdefault(name, task) != task:
                raise ConfigError(
                    f"WERK_REGISTRY: {place} defines {name!r} a second time; rename one"
                )
    return table


def unknown(name: str, others: Iterable[str] = ()) -> str:
    """Return the message for an unknown task. `others` are the names in the catalog."""
    import difflib  # only on the way to an error

    others = {*others}
    known = sorted({*tasks(), *others})
    if near := difflib.get_close_matches(name, known, n=1, cutoff=0.5):
        return f"unknown task {name!r}; did you mean {near[0]!r}?"
    text = f"unknown task {name!r}; known: {', '.join(known)}"
    if others or Settings.read().registry:
        return text
    return f"{text}; no worker has published tasks: start one, or set WERK_REGISTRY to your table"


def _load(place: str) -> Mapping[str, str | Task]:
    import importlib

    module_name, _, attribute = place.partition(":")
    try:
        table = getattr(importlib.import_module(module_name), attribute or "TASKS")
    except Exception as error:  # importing the module can raise anything
        why = f"{type(error).__name__}: {error}"
        raise ConfigError(f"WERK_REGISTRY: cannot load {place}: {why}") from error
    if not isinstance(table, Mapping):
        raise ConfigError(f"WERK_REGISTRY: {place} is not a dict of name -> path or Task(...)")
    return table


def _checked(name: object, entry: object, place: str) -> Task:
    if not isinstance(name, str) or not NAME.fullmatch(name):
        raise ConfigError(f"{place}: {name!r} is not a task name; use letters, digits and _ . : -")
    task = Task(entry) if isinstance(entry, str) else entry
    if not isinstance(task, Task):
        kind = type(entry).__name__
        raise ConfigError(f"{place}: {name}: use a dotted path or Task(...), not {kind}")
    if problem := task.problem():
        raise ConfigError(f"{place}: {name}: {problem}")
    return task
