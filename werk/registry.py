"""The table of tasks: a name that callers use -> the dotted path of the function that workers run.

To add a task, write the function and add one line to TASKS. Nothing here imports a task.
Tables of your own, without editing this file: WERK_REGISTRY=shop.table:TASKS,shop.more:TASKS
(then the three lines below that werk brings are left out: see is_shipped).
"""

from __future__ import annotations

import builtins
import os
import re
import sys
from collections.abc import Callable, Iterable, Mapping
from functools import cache, wraps
from itertools import repeat
from typing import Any, NamedTuple, TypeVar

from werk.duration import LONGEST_S as LONGEST_S
from werk.duration import Duration, Range, in_seconds, seconds, shown
from werk.errors import ArgumentError, ConfigError, described
from werk.settings import Settings, note_use, origin

DEFAULT_TIMEOUT_S = 180  # RQ's default too (rq.defaults.DEFAULT_TIMEOUT)
FAILURE_TTL_S = 30 * 24 * 3600
MOST_RETRIES = 10_000
RETRY_DELAY_S, LONGEST_RETRY_DELAY_S = 10, 3600

DURATIONS = {  # the fields of Task that take one
    **dict.fromkeys(("timeout", "result_ttl", "failure_ttl"), Range(-1)),
    "retry_delay": Range(0, 10_000),
    "within": Range(0),
}

T = TypeVar("T")

_PATH = re.compile(r"[A-Za-z_]\w*(\.[A-Za-z_]\w*)+")


def nearest(name: str, known: Iterable[str], cutoff: float = 0.7) -> str:
    """Return a hint that names the nearest of the known names, or ''."""
    import difflib  # only on the way to an error

    near = difflib.get_close_matches(name, known, n=1, cutoff=cutoff)
    return f"did you mean {near[0]!r}?" if near else ""


def suggesting(new: Callable[..., T], where: Callable[..., str]) -> Callable[..., T]:
    """Return the constructor of a record; its error for an unknown field names the nearest field.

    `where` takes the arguments of the constructor and returns the beginning of the message.
    """

    @wraps(new)
    def suggest(cls: type[T], *args: Any, **given: Any) -> T:
        try:
            return new(cls, *args, **given)
        except TypeError:
            fields: tuple[str, ...] = cls._fields  # type: ignore[attr-defined]
            unknown = next((name for name in given if name not in fields), None)
            if unknown is None:
                raise
            hint = nearest(unknown, fields) or f"known: {', '.join(fields)}"
            raise TypeError(f"{where(*args)} has no {unknown!r}; {hint}") from None

    return suggest


def plain_text(value: Any) -> Any:
    """Return a text as a plain str, also each text in a tuple or a list; other values as they are.

    In an f-string, a member of a (str, Enum) would become its name.
    """
    if isinstance(value, str):
        return str.__str__(value)
    return type(value)(map(plain_text, value)) if type(value) in (tuple, list) else value


class Task(NamedTuple):
    """A task and the defaults of its jobs; an enqueue can override most.

    Durations are 90 (in seconds), "5m", "1h30m" or a timedelta.
    """

    path: str
    queue: str = "default"
    timeout: Duration = DEFAULT_TIMEOUT_S  # of one execution; -1: no limit
    result_ttl: Duration = 3600  # how long a result is kept; -1: it never expires, 0: not at all
    failure_ttl: Duration = FAILURE_TTL_S  # how long a failed job is kept
    retry: int = 0  # how often a failed job is retried
    retry_delay: Duration = RETRY_DELAY_S  # before the first retry; doubled, at most an hour
    max_crashes: int = 2  # how often a job that killed its worker is run again
    secret: tuple[str, ...] = ()  # parameters shown as ***
    retry_delays: tuple[Duration, ...] = ()  # before each retry; the last one is repeated
    retry_on: tuple[str, ...] = ()  # exceptions that are retried, by dotted name; (): all
    within: Duration = (
        0  # `werk status`: how long a job of its queue may wait; 0: no limit of its own
    )

    def in_seconds(self) -> Task:
        """Return the task with its durations in seconds. Raises ArgumentError."""
        given = {name: getattr(self, name) for name in DURATIONS}
        if not isinstance(self.retry_delays, tuple | list):
            raise ArgumentError('retry_delays must be a tuple, such as (60, "5m", "1h")')
        try:
            delays = tuple(map(Range(0).seconds, self.retry_delays))
        except ArgumentError as error:
            raise ArgumentError(f"retry_delays: {error}") from None
        return self._replace(retry_delays=delays, **in_seconds(given, DURATIONS))

    def problem(self) -> str | None:
        """Return what is wrong with the task, apart from its durations, or None."""
        if not isinstance(self.path, str) or not _PATH.fullmatch(self.path):
            return f"path {_quoted(self.path)} is not of the form package.module.function"
        if not isinstance(self.queue, str) or not self.queue or not self.queue.isprintable():
            return f"queue {_quoted(self.queue)} is not a queue name; use printable text"
        if "," in self.queue:
            return f"queue {_quoted(self.queue)} is not a queue name; use one without a comma"
        if self.timeout == 0:
            return "timeout: got 0; use -1 for no limit"
        for name in ("retry", "max_crashes"):
            count = getattr(self, name)
            if type(count) is not int or not 0 <= count <= MOST_RETRIES:
                return f"{name}: got {shown(count)}; use 0 to {MOST_RETRIES}"
        names = self.secret
        if not isinstance(names, tuple | list) or not all(isinstance(name, str) for name in names):
            return 'secret must be a tuple of parameter names, such as ("token",)'
        return self._retry_problem()

    def _retry_problem(self) -> str | None:
        names = self.retry_on
        if len(self.retry_delays) > MOST_RETRIES:
            return f"retry_delays: use at most {MOST_RETRIES}"
        if not isinstance(names, tuple | list):
            return 'retry_on must be a tuple of dotted names, such as ("requests.ConnectionError",)'
        return next(filter(None, map(_error_problem, names)), None)

    def contradiction(self) -> str | None:
        """Return which two arguments of an entry contradict each other, or None."""
        if self.retry_delays and self.retry_delay != RETRY_DELAY_S:
            return "retry_delay and retry_delays cannot be combined; leave one of them out"
        if 0 < self.retry < (count := len(self.retry_delays)):
            return f"retry={self.retry} is less than the {count} retry_delays; leave retry out"
        return None

    def delays(self) -> list[float]:
        """Return the seconds before each retry. RQ would repeat the first of a short list."""
        if given := [*map(seconds, self.retry_delays[: self.retry])]:
            return [*given, *repeat(given[-1], self.retry - len(given))]
        doubled = (seconds(self.retry_delay) * 2 ** min(n, 12) for n in range(self.retry))
        return [min(delay, LONGEST_RETRY_DELAY_S) for delay in doubled]


# A NamedTuple cannot define it.
Task.__new__ = suggesting(Task.__new__, lambda path="", *_: f"Task({_quoted(path)})")  # type: ignore


def _quoted(value: object) -> str:
    return repr(value) if isinstance(value, str) else shown(value)


def _error_problem(name: object) -> str | None:
    """Return why an entry of retry_on names no exception, or None."""
    if isinstance(name, type):
        module = "" if name.__module__ == "builtins" else f"{name.__module__}."
        return f'retry_on: got a class; use its dotted name, "{module}{name.__qualname__}"'
    if not isinstance(name, str) or not (_PATH.fullmatch(name) or name.isidentifier()):
        use = "a dotted name, such as requests.ConnectionError"
        return f"retry_on: {_quoted(name)} is not {use}"
    known = [own for own, value in vars(builtins).items() if _is_error(value)]
    if "." in name or name in known:
        return None
    use = "use its dotted name, such as requests.ConnectionError"
    return f"retry_on: {name!r} is not a built-in exception; {nearest(name, known, 0.8) or use}"


def _is_error(value: object) -> bool:
    return isinstance(value, type) and issubclass(value, BaseException)


TASKS: dict[str, str | Task] = {
    "sleep": "werk.jobs.sleep",
    "hello": "werk.jobs.hello",
    "panic": "werk.jobs.panic",
}

# The lines that werk brings. A line that you add to TASKS does not belong here.
SHIPPED = frozenset({"sleep", "hello", "panic"})
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
    table = {
        plain_text(name): _checked(name, entry, "werk.registry:TASKS")
        for name, entry in TASKS.items()
        if not places or not is_shipped(name, entry)
    }
    for place in places:
        for name, entry in _load(place).items():
            task = _checked(name, entry, place)
            if table.setdefault(plain_text(name), task) != task:
                raise ConfigError(
                    f"{origin('registry')}: {place} defines {name!r} a second time; rename one"
                )
    return table


def unknown(
    name: str,
    others: Iterable[str] = (),
    without: Iterable[str] = (),
    has_workers: bool = True,
    note: str = "",
) -> str:
    """Return the message for an unknown task.

    `others` are the names in the catalog, `without` the names in the table here that do not count.
    `has_workers` is false where no worker can publish tasks. `note` says why the name is unknown.
    """
    others = {*others}
    known = sorted({*tasks()} - {*without} | others)
    if near := nearest(name, known):
        return f"unknown task {name!r}; {near}"
    text = f"unknown task {name!r}; known: {', '.join(known)}"
    if note or others or Settings.read().registry:
        return "; ".join(filter(None, (text, note)))
    start = "no worker has published tasks: start one, or " * has_workers
    return f"{text}; {start}set WERK_REGISTRY to your table"


def is_as_shipped() -> bool:
    """Return whether the table has only the tasks that werk brings, and nobody asked for them."""
    paths = {name: task.path for name, task in tasks().items()}
    return all(map(is_shipped, paths, paths.values())) and not Settings.read().registry


def is_shipped(name: object, entry: object) -> bool:
    """Return whether a line of TASKS is one that werk brings. An edited line is the user's own."""
    return name in SHIPPED and entry == f"werk.jobs.{name}"


def _load(place: str) -> Mapping[str, str | Task]:
    import importlib

    module_name, _, attribute = place.partition(":")
    try:
        table = getattr(importlib.import_module(module_name), attribute or "TASKS")
    except Exception as error:  # importing the module can raise anything
        why = _missing(place, error) or described(error)
        raise ConfigError(f"{origin('registry')}: cannot load {place}: {why}") from error
    if not isinstance(table, Mapping):
        what = "is not a dict of name -> path or Task(...)"
        raise ConfigError(f"{origin('registry')}: {place} {what}")
    return table


def _missing(place: str, error: Exception) -> str | None:
    """Return a hint about a table named by a file, or whose module was not found; or None."""
    module, _, attribute = place.partition(":")
    if "/" in module or module.endswith(".py"):
        name = module.removeprefix("./").removesuffix(".py").replace("/", ".")
        return f"use the name of a module; did you mean {name}:{attribute or 'TASKS'}?"
    if not isinstance(error, ModuleNotFoundError) or not f"{module}.".startswith(f"{error.name}."):
        return None
    here = f"in the current folder ({os.getcwd()}) or " * ("" in sys.path)
    use = "set PYTHONPATH to its folder; a caller needs no table, because workers publish theirs"
    return f"no module {error.name} {here}on sys.path; {use}"


def _checked(name: object, entry: object, place: str) -> Task:
    if not isinstance(name, str) or not NAME.fullmatch(name):
        use = "use letters, digits and _ . : -, with a letter, a digit or _ first"
        raise ConfigError(f"{place}: {name!r} is not a task name; {use}")
    task = Task(entry) if isinstance(entry, str) else entry
    if not isinstance(task, Task):
        kind = type(entry).__name__
        raise ConfigError(f"{place}: {name}: use a dotted path or Task(...), not {kind}")
    try:
        task = Task._make(map(plain_text, task)).in_seconds()
    except ArgumentError as error:
        raise ConfigError(f"{place}: {name}: {error}") from None
    if problem := task.problem() or task.contradiction():
        raise ConfigError(f"{place}: {name}: {problem}")
    return task._replace(retry=task.retry or len(task.retry_delays))
