"""The table of tasks: a name that callers use -> the dotted path of the function that workers run.

To add a task, write the function and add one line to TASKS. Nothing here imports a task.
Tables of your own, without editing this file: WERK_REGISTRY=shop.tasks:TASKS,shop.reports:TASKS
(then the three lines below that werk brings are left out: see _is_shipped).
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from functools import cache
from typing import NamedTuple

from werk.errors import ConfigError
from werk.settings import Settings, note_use

DEFAULT_TIMEOUT_S = 180  # RQ's default too (rq.defaults.DEFAULT_TIMEOUT)
FAILURE_TTL_S = 30 * 24 * 3600
LONGEST_S = 10**9  # thirty years; timers and Redis accept little more
MOST_RETRIES = 10_000

_PATH = re.compile(r"[A-Za-z_]\w*(\.[A-Za-z_]\w*)+")


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
        times = (self.timeout, self.result_ttl, self.failure_ttl)
        counts = (self.retry, self.retry_delay, self.max_crashes)
        if not isinstance(self.path, str) or not _PATH.fullmatch(self.path):
            return f"path {self.path!r} is not of the form package.module.function"
        if not isinstance(self.queue, str) or not self.queue or not self.queue.isprintable():
            return f"queue {self.queue!r} is not a queue name; use printable text"
        if not all(type(number) is int for number in times + counts):
            return "timeout, result_ttl, failure_ttl, retry, retry_delay, max_crashes: use int"
        if self.timeout == 0 or not all(-1 <= seconds <= LONGEST_S for seconds in times):
            return f"timeout, result_ttl, failure_ttl: use -1 to {LONGEST_S} s; a timeout is not 0"
        if not all(0 <= count <= MOST_RETRIES for count in counts):
            return f"retry, retry_delay and max_crashes: use 0 to {MOST_RETRIES}"
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
    """Return every task by name: TASKS and the tables of WERK_REGISTRY. Raises ConfigError.

    If WERK_REGISTRY names tables, the tasks that werk brings are left out: nobody asked for `panic`
    in production. A table may name them again.
    """
    places = Settings.read().registry
    note_use("registry", places)
    own = {name: own for name, own in TASKS.items() if not places or not _is_shipped(name, own)}
    table = {name: _checked(name, entry, "werk.registry:TASKS") for name, entry in own.items()}
    for place in places:
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

    known = sorted({*tasks(), *others})
    near = difflib.get_close_matches(name, known, n=1, cutoff=0.5)
    hint = f"did you mean {near[0]!r}?" if near else f"known: {', '.join(known)}"
    return f"unknown task {name!r}; {hint}"


def _is_shipped(name: object, entry: object) -> bool:
    """Return whether a line of TASKS is one that werk brings. An edited line is the user's own."""
    return name in ("sleep", "hello", "panic") and entry == f"werk.jobs.{name}"


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
