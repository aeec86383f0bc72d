"""Claim: a job as step.lua returns it to the horse that claims it. It is never modified."""

from __future__ import annotations

from dataclasses import dataclass, fields
from functools import lru_cache
from string import ascii_letters, digits
from typing import Any

from werk import registry
from werk.errors import UnknownTask, WerkError
from werk.registry import DEFAULT_TIMEOUT_S, LONGEST_S
from werk.store import keys
from werk.store.keys import text

NEWER = b"werk_v "  # begins the status that step.lua returns for a record newer than we can read
LETTERS = f"{ascii_letters}{digits}_-".encode()  # of a job's id: rq/job.py
LENGTHS = range(1, 861)  # see shared_state.LONGEST_RUN

Call = tuple[Any, tuple[Any, ...], dict[str, Any]]  # a function or its path, args, kwargs


class Refused(WerkError):
    """Raised when a job is not run: a path in it is not registered, or its record is broken."""

    path = ""  # the one that is not registered


class Late(BaseException):
    """Raised when an execution is no longer its job's: its outcome is discarded.

    It is not an Exception, because RQ would log one and go on as if the outcome had been recorded.
    """


class Unknown(UnknownTask):
    """Raised for a task, or a version of a task, that this worker does not know. Another worker may
    know it, or this one after a deploy."""


@dataclass(slots=True)  # a frozen one takes three times as long to make
class Claim:
    """One execution. step.lua replies the fields up to `queue`, in this order, as bytes or None."""

    origin: bytes  # its queue according to its record
    status: bytes  # empty if RQ knows the status
    attempt: bytes
    data: bytes
    timeout: bytes
    result_ttl: bytes
    task: bytes  # empty if plain RQ has enqueued the job
    enqueued_at: bytes  # as RQ writes it, by the clock of the caller
    since: bytes  # since when it had been in its queue, by Redis's clock: "<enqueued_at>|<TIME>"
    callbacks: list[bytes] | None  # three paths, if step.lua cannot record a success
    job: bytes  # its id
    queue: bytes  # that it waited in
    execution: str  # its id
    claimed_at: bytes  # Unix seconds

    @property
    def id(self) -> str:
        return self.job.decode("utf-8", "replace")

    @property
    def run(self) -> str:
        return f"{self.id}:{self.execution}"

    @property
    def number(self) -> int:
        """The number of the attempt; 0 if it is unknown."""
        try:
            return int(self.attempt)
        except (TypeError, ValueError):  # the record of an order may have been written by anybody
            return 0

    def facts(self, task: str = "") -> dict[str, object]:
        """Return the facts about this execution for a log line; `task` is its name, if known."""
        name, queue = task or text(self.task) or "-", text(self.origin)
        return {"job": self.id, "task": name, "queue": queue, "attempt": self.number}

    def limits(self, default_result_ttl: int) -> tuple[int, int]:
        """Return the time limit and how long the result is kept, in seconds.

        Reads no payload: the time limit has to begin first. Raises Refused for a record that
        neither RQ nor werk writes; Unknown for a record of a newer version.
        """
        if self.status:
            raise self._why_not()
        job_id = self.job
        if len(job_id) not in LENGTHS or job_id.translate(None, LETTERS):
            raise Refused("invalid job id: use at most 860 letters, digits, - and _")
        try:
            return _limits(self.timeout, self.result_ttl, default_result_ttl)
        except ValueError:
            raise Refused("the job's timeout or result_ttl is not a whole number") from None

    def _why_not(self) -> Exception:
        if self.status.startswith(NEWER):
            theirs = text(self.status)[len(NEWER) : 100]
            return Unknown(
                f"the job's record has version {theirs}, but this worker reads up to"
                f" {keys.RECORD_VERSION}; upgrade the worker"
            )
        return Refused(f"the job's status was {text(self.status)[:100]!r}, which RQ does not know")


@lru_cache(maxsize=64)
def _limits(timeout: bytes, result_ttl: bytes, default_result_ttl: int) -> tuple[int, int]:
    """Return the seconds in these fields of a job, at most LONGEST_S. Raises ValueError."""
    limit = int(timeout) if timeout else 0
    keep = int(result_ttl) if result_ttl else default_result_ttl
    return min(limit, LONGEST_S) or DEFAULT_TIMEOUT_S, min(keep, LONGEST_S)


_FIELDS = tuple(field.name for field in fields(Claim))
CLAIMED = _FIELDS[: _FIELDS.index("execution")]  # what step.lua replies


def permit(path: str | None) -> None:
    """Raise Refused unless a task of this path is registered. Imports nothing."""
    if path and path not in registered_paths():
        raise unregistered(path)


def unregistered(path: str) -> Refused:
    refused = Refused(f"{path[:200]!r} is not registered: no task has this path")
    refused.path = path
    return refused


def registered_paths() -> frozenset[str]:
    tables = (registry.BUILT_IN, registry.tasks())
    return frozenset(task.path for table in tables for task in table.values())
