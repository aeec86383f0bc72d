"""Which jobs have an argument: --arg NAME=VALUE, whether it was given in order or by name."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from werk.errors import ArgumentError
from werk.ops.job_record import Job
from werk.printable import near
from werk.store.connection import Link
from werk.tasks import catalog
from werk.tasks.arguments import Signature
from werk.tasks.catalog_page import Entry, read_pages
from werk.tasks.types import JSON, Invalid, Type, shown_repr

MASK = "***"


class Arguments:
    """Selects jobs by their arguments."""

    def __init__(self, link: Link, task: str | None, wanted: Sequence[tuple[str, str]]) -> None:
        """Read the parameters of all tasks. Raises ArgumentError if `task` lacks one, or hides it.

        `wanted` has names and values as the command line takes them.
        """
        self._wanted = wanted
        self._tasks: Mapping[str, Entry] = {}
        if wanted:
            theirs = catalog.of_workers(lambda: link)
            self._tasks = catalog.everything(read_pages(link), theirs)
        self._by_path = {entry.task.path: entry for entry in self._tasks.values()}
        if task in self._tasks:
            for name, _ in wanted:
                _check(self._tasks[task], name)

    def match(self, job: Job, task: str) -> bool:
        """Return whether a job has all these arguments. A secret one is never compared."""
        if not self._wanted:
            return True
        called = job.called()
        if not isinstance(called, tuple):
            return False  # it cannot be read
        path, args, kwargs = called
        entry = self._tasks.get(task) or self._by_path.get(path)
        shape, secret = (entry.shape, entry.task.secret) if entry else (Signature(), ())
        masked = shape.named(*shape.masked(args, kwargs, secret)) if secret else None
        named = shape.named(args, kwargs)
        shown = [pair for at, pair in enumerate(named) if not masked or masked[at][1] != MASK]
        types = {own.name: own.type for own in shape.parameters}
        return all(
            any(
                own == name and _is_like(value, types.get(name, JSON), text) for own, value in shown
            )
            for name, text in self._wanted
        )


def _check(entry: Entry, name: str) -> None:
    """Raise ArgumentError if a task has no such parameter, or if its values are secret."""
    if name in entry.task.secret:
        raise ArgumentError(f"{entry.name}: {name} is secret, so it cannot select jobs")
    own = {parameter.name for parameter in entry.shape.parameters}
    takes_any = any(parameter.kind == "var_keyword" for parameter in entry.shape.parameters)
    if name not in own and not takes_any:
        takes = f"; it takes {entry.shape.usage() or 'nothing'}"
        raise ArgumentError(f"{entry.name}: no parameter {name!r}{near(name, own, takes)}")


def _is_like(value: object, wanted: Type, text: str) -> bool:
    """Return whether a text stands for a value on the command line, or shows it."""
    try:
        parsed = wanted.parse(text)
        if type(parsed) is type(value) and parsed == value:
            return True
    except (Invalid, ArithmeticError):  # a Decimal that cannot be compared
        pass
    return text == (value if isinstance(value, str) else shown_repr(value))
