"""The limits of `werk status --check`: what is a warning, and what is critical."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Mapping
from typing import NamedTuple

from werk import duration
from werk.errors import ArgumentError
from werk.registry import Task

OK, WARNING, CRITICAL = "ok", "warning", "critical"


def _count(text: str) -> float:
    if not re.fullmatch(r"[0-9]*\.?[0-9]+", text):
        raise ValueError(text)
    return float(text)


class Limit(NamedTuple):
    """The numbers above which there is a warning or a critical problem; None: never."""

    warning: float | None = None
    critical: float | None = None

    @classmethod
    def parse(
        cls, text: str, number: Callable[[str], float] = _count, such_as: str = "5:10"
    ) -> Limit:
        """Return the limit in 'WARN:CRIT', ':CRIT', 'WARN:' or 'CRIT'. Raises ArgumentError.

        `number` reads a part, or raises ValueError.
        """
        wrong = f"invalid limit {text[:80]!r}"
        first, _, last = text.rpartition(":")
        try:
            limit = cls(*(number(part) if part else None for part in (first, last)))
        except ValueError:
            limit = cls(-1)
        numbers = [part for part in limit if part is not None]
        if not text or any(part < 0 for part in numbers):
            raise ArgumentError(f"{wrong}; use WARN:CRIT, WARN:, :CRIT or CRIT, such as {such_as}")
        if numbers != sorted(numbers):
            raise ArgumentError(f"{wrong}; the warning comes first, WARN:CRIT")
        return limit

    def level(self, number: float) -> str:
        """Return the level of a number: OK, WARNING or CRITICAL."""
        if self.critical is not None and number > self.critical:
            return CRITICAL
        return WARNING if self.warning is not None and number > self.warning else OK

    def __str__(self) -> str:
        """Return the limit as perfdata of a monitoring plugin: warn;crit."""
        return ";".join("" if part is None else f"{part:g}" for part in self)


class AgeLimits(NamedTuple):
    """How long the oldest job of a queue may wait, in seconds."""

    default: Limit = Limit(None, 300)
    by_queue: Mapping[str, Limit] = {}

    @classmethod
    def parse(cls, text: str) -> AgeLimits:
        """Return the limits in a text: 'WARN:CRIT' for all queues, or 'QUEUE=WARN:CRIT,...'.

        An entry without a queue is for the queues that are not named. Raises ArgumentError.
        """
        limits: dict[str, Limit] = {}
        for entry in text.split(","):
            queue, sign, limit = entry.rpartition("=")
            if sign and not queue:
                raise ArgumentError(f"no queue before = in {entry[:80]!r}; use QUEUE=WARN:CRIT")
            if queue in limits:
                whose = f"queue {queue!r}" if queue else "the queues that are not named"
                raise ArgumentError(f"two limits for {whose}; use one")
            limits[queue] = Limit.parse(limit, duration.seconds, "60:300 or 5m:1h")
        return cls(limits.pop("", cls().default), limits)

    def of(self, queue: str) -> Limit:
        return self.by_queue.get(queue, self.default)

    def __str__(self) -> str:
        """Return the limit as perfdata, if all queues have the same."""
        return "" if self.by_queue else str(self.default)


class Limits(NamedTuple):
    """The options of --check. The age of the oldest job has a limit by default."""

    age_s: AgeLimits = AgeLimits()
    waiting: Limit = Limit()
    failed: Limit = Limit()
    min_workers: int = 0

    def with_tasks(self, tasks: Iterable[Task]) -> Limits:
        """Return the limits, with those that tasks set for their queues (`Task(within=60)`).

        The shortest counts. A queue that the option names has the option's.
        """
        found = dict[str, float]()
        for task in tasks:
            if within := float(duration.seconds(task.within)):
                found[task.queue] = min(within, found.get(task.queue, within))
        limits = {queue: Limit(None, within) for queue, within in found.items()}
        by_queue = {**limits, **self.age_s.by_queue}
        return self._replace(age_s=self.age_s._replace(by_queue=by_queue))


DEFAULT_LIMITS = Limits()
