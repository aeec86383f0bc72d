"""A job's record in Redis, and how its fields are read.

One script reads the records. No record can make it fail or make it slow: values that are too long
are left out. Nothing that is read is run.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from decimal import Decimal
from functools import cache
from typing import Any

from werk.errors import ConfigError, TooLarge, Unreadable
from werk.printable import printable
from werk.store import keys, payload
from werk.store.connection import Link
from werk.store.limits import ERROR_LENGTH
from werk.store.scripts import Script, named, rest

# Bytes of a value that is shown. A longer value may take long to read, even if it is plain data:
# the time for a set of numbers with the same hash grows with the square of their number.
LONGEST = 64 * 1024
LONGEST_IN_ROW = 8 * 1024
PARTS = 2  # per byte: a pickle without shared values cannot have more
CHARACTERS = 16  # per byte: a value that refers to the same text again can have this many
LONGEST_TRACEBACK = 1024 * 1024  # bytes, decompressed

FIELDS = tuple(
    """
    description data werk_task status origin created_at enqueued_at started_at ended_at worker_name
    timeout result_ttl failure_ttl retries_left werk_attempt meta dependency_ids werk_not_kept
    werk_deferred werk_unknown_since
""".split()
)
RESULT_FIELDS = tuple(  # of a result; its id is `entry`
    """
    entry type exc_string return_value worker_name execution_started_at execution_ended_at
    werk_attempt
""".split()
)
Value = bytes | int | None
RETRY = ("4", "5")  # types of a result that has a Retry instead of a value (rq/results.py)


def read(
    link: Link, ids: Sequence[str], longest: int, fields: Sequence[str] = FIELDS, results: int = 1
) -> list[Job]:
    """Return these fields of jobs and their latest results; only the length of longer values."""
    places = [keys.key(kind, own) for kind in ("job", "results") for own in ids]
    replies = link.run(_script(), places, [longest, results, *fields])
    return [
        Job(own, _values(fields, values), longest, [_values(RESULT_FIELDS, one) for one in entries])
        for own, (*values, entries) in zip(ids, replies, strict=True)
    ]


def _values(names: Sequence[str], values: Sequence[Value]) -> dict[str, Value]:
    return {name: value for name, value in zip(names, values, strict=True) if value}


@cache
def _script() -> Script:
    """Return job_record.lua with names for its arguments."""
    results = ", ".join(f"'{name}'" for name in RESULT_FIELDS)
    names = (named(["LONGEST", "MOST"]), rest("FIELDS", 3), f"local RESULT_FIELDS = {{{results}}}")
    return Script("\n".join((*names, Script.named("job_record").text)))


class Record:
    """The values of fields. An int is the length of a value that is too long."""

    def __init__(self, record: Mapping[str, Value], longest: int) -> None:
        self.record, self.longest = record, longest

    def text(self, name: str) -> str | None:
        return self.read(name, keys.text) or None

    def read(self, name: str, read: Callable[[bytes], Any]) -> Any:
        """Return a field, or why it cannot be shown."""
        value = self.record.get(name)
        if isinstance(value, int):
            return f"({value:,} bytes, too long to show)"
        try:
            return None if value is None else read(value)
        except TooLarge as error:
            return f"({error}, too long to show)"
        except Unreadable as error:
            return f"(unreadable: {printable(str(error))})"

    def plain(self, name: str, read: Callable[[bytes, int], Any]) -> Any:
        """Return the plain data in a field, which `read` reads, or why it cannot be shown."""
        value = self.read(name, lambda own: read(own, PARTS * self.longest))
        most = CHARACTERS * self.longest
        return (
            f"(more than {most:,} characters, too long to show)" if _is_long(value, most) else value
        )


class Result(Record):
    """An entry of a job's results: how an execution ended. Empty if there is none."""

    @property
    def type(self) -> str:
        return self.text("type") or ""

    def exception(self) -> str | None:
        """Return the traceback, or why it cannot be shown."""
        most = max(self.longest, LONGEST_TRACEBACK)
        text: str | None = self.read(
            "exc_string", lambda own: payload.read_exception({b"exc_string": own}, most).rstrip()
        )
        return text or None

    def value(self) -> Any:
        """Return what the task returned, or why it cannot be shown. A Retry is not a value."""
        if self.type in RETRY:
            return None
        return self.plain(
            "return_value", lambda own, parts: payload.read_result({b"return_value": own}, parts)
        )

    def ended(self) -> float:
        """Return when it was written, by Redis's clock; 0 if that is unknown."""
        return int((self.text("entry") or "0").partition("-")[0]) / 1000


class Job(Record):
    """A job's record, empty if there is none, and its latest results, the last one first."""

    def __init__(
        self,
        job_id: str,
        record: Mapping[str, Value],
        longest: int,
        results: Sequence[Mapping[str, Value]],
    ) -> None:
        super().__init__(record, longest)
        self.id, self.results = job_id, [Result(own, longest) for own in results]

    @property
    def latest(self) -> Result:
        return self.results[0] if self.results else Result({}, self.longest)

    def call(self) -> str | None:
        """Return the call with secrets masked: by the caller if that was werk, or else here."""
        if not self.record:
            return "(no record of it: deleted or expired)"
        if "werk_task" in self.record:
            return self.text("description")
        called = self.called()
        return _masked(called) if isinstance(called, tuple) else called

    def called(self) -> Any:
        """Return path, args and kwargs, or why they cannot be shown."""
        return self.plain("data", lambda own, parts: payload.read_call(own, self.longest, parts))

    def exception(self) -> str | None:
        """Return the traceback of the latest execution if it failed."""
        return None if self.text("status") == "finished" else self.latest.exception()

    def result(self) -> Any:
        """Return the result of the latest execution, or why it was not kept."""
        value = self.latest.value()
        if value != payload.UNSERIALIZABLE:
            return value
        return f"(not kept: {payload.read_not_kept(self.text('werk_not_kept'))})"

    def ended(self) -> float:
        """Return when the latest execution ended, by Redis's clock if that time is known."""
        return self.latest.ended() or keys.moment(self.text("ended_at"), 0.0)

    def depends_on(self) -> list[str]:
        found = self.plain("dependency_ids", payload.loads)
        ids = found if isinstance(found, list) else []
        return [keys.text(own.encode("utf-8", "replace")) for own in ids if type(own) is str]


def last_line(exception: str | None) -> str:
    """Return the last line of a traceback: the exception."""
    return (exception or "").rpartition("\n")[2].strip()[:ERROR_LENGTH]


def _is_long(value: object, most: int) -> bool:
    """Return whether plain data has more than `most` characters, or parts."""
    left = [value]
    while left:
        part = left.pop()
        kind = type(part)
        most -= 1
        if kind is dict:
            left += part.keys()  # type: ignore[attr-defined]
            left += part.values()  # type: ignore[attr-defined]
        elif kind in (list, tuple, set, frozenset):
            left += part  # type: ignore[arg-type]
        elif kind is str or kind is bytes:
            most -= len(part)  # type: ignore[arg-type]
        elif kind is int:
            most -= part.bit_length() // 4  # type: ignore[attr-defined]
        elif kind is Decimal:
            most -= len(str(part))
        if most < 0:
            return True
    return False


def _masked(called: tuple[str, tuple[Any, ...], dict[str, Any]]) -> str:
    from werk import registry
    from werk.tasks import signature  # only jobs that plain RQ enqueued need these
    from werk.tasks.arguments import Signature

    path, args, kwargs = called
    try:
        tasks = registry.tasks().values()
    except ConfigError:  # nobody knows which arguments are secret
        return printable(f"{path}(...)")
    secret = {name for task in tasks if task.path == path for name in task.secret}
    shape = signature.read(path) if secret else Signature()  # its source is found by its path
    return printable(f"{path}({shape.call(args, kwargs, secret)})")
