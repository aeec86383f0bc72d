"""The counts of final failures by task, error and hour: what they are counted under.

failures.lua counts them when a failure is recorded; ops/failure_counts.py reads them.
"""

from __future__ import annotations

from werk.printable import printable
from werk.store import keys
from werk.store.error_group import group_of
from werk.store.limits import ERROR_LENGTH

HOUR_S = 3600


def key(hour: int) -> str:
    """Return the key of an hour since 1970."""
    return keys.key("werk", "failures", str(hour))


def last_line(trace: str) -> str:
    """Return the last line of a traceback, as people see it: the exception."""
    line = trace.rstrip().rpartition("\n")[2].strip()[:ERROR_LENGTH]
    return printable(line) or "no reason was recorded"


def field(task: str, trace: str) -> str:
    """Return the field under which a failure is counted. `task` is its name, or a path."""
    return f"{task.replace('|', '/')[:ERROR_LENGTH]}|{group_of(last_line(trace))}"
