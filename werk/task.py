"""What a line of the registry says of a task."""

from __future__ import annotations

import re
from typing import NamedTuple

LONGEST_S = 10**9  # thirty years; timers and Redis take little more
MOST_RETRIES = 10_000

_PATH = re.compile(r"[A-Za-z_]\w*(\.[A-Za-z_]\w*)+")


class Task(NamedTuple):
    """A task and how its jobs are treated; times in seconds. An enqueue's options go first."""

    path: str
    queue: str = "default"
    timeout: int = 180  # of one execution; -1: none
    result_ttl: int = 3600  # how long a result is kept; -1: for ever, 0: not at all
    failure_ttl: int = 30 * 24 * 3600  # how long a failed job is kept
    retry: int = 0  # how often a failed job is tried again
    retry_delay: int = 10  # before the first retry; doubled each time, at most an hour
    max_crashes: int = 2  # how often a job that killed its worker is run again
    secret: tuple[str, ...] = ()  # parameters shown as ***

    def problem(self) -> str | None:
        """Return what is wrong with it, or None."""
        times = (self.timeout, self.result_ttl, self.failure_ttl)
        counts = (self.retry, self.retry_delay, self.max_crashes)
        if not isinstance(self.path, str) or not _PATH.fullmatch(self.path):
            return f"path {self.path!r} is not of the form package.module.function"
        if not isinstance(self.queue, str) or not self.queue or not self.queue.isprintable():
            return f"queue {self.queue!r} is no name of a queue"
        if not all(type(number) is int for number in times + counts):
            return "timeout, result_ttl, failure_ttl, retry, retry_delay, max_crashes: int"
        if self.timeout == 0 or not all(-1 <= seconds <= LONGEST_S for seconds in times):
            return f"timeout, result_ttl, failure_ttl: -1 to {LONGEST_S} s; a timeout is not 0"
        if not all(0 <= count <= MOST_RETRIES for count in counts):
            return f"retry, retry_delay and max_crashes: 0 to {MOST_RETRIES}"
        if isinstance(self.secret, str) or not all(isinstance(name, str) for name in self.secret):
            return 'secret is a tuple of parameter names: ("token",)'
        return None
