"""What a horse counts: successes as RQ does; for the metrics executions of each task, and how long.

Kept in numbers and written with the worker's state, so a job costs no command of its own.
"""

from __future__ import annotations

from bisect import bisect_left

from werk import registry, wire

_BOUNDS = wire.TALLY_BOUNDS_S
_FIELDS = ("done", "failed", "seconds", *map(str, _BOUNDS), "+Inf")


class Tally:
    """Counts that are not written yet."""

    def __init__(self) -> None:
        self._known = frozenset((*registry.tasks(), *registry.BUILT_IN))
        self.clear()

    def __bool__(self) -> bool:
        return bool(self._counts)

    def add(self, task: str, is_success: bool, seconds: float | None = None) -> None:
        """Count an execution; without seconds it ended before it began, or with its process."""
        name = task if task in self._known else "other"  # few names, whatever is enqueued
        counts = self._counts.get(name)
        if counts is None:
            counts = self._counts[name] = [0] * len(_FIELDS)
        counts[0 if is_success else 1] += 1
        if seconds is not None:
            counts[2] += seconds
            counts[3 + bisect_left(_BOUNDS, seconds)] += 1

    def text(self) -> str:
        """Return ARGV 10 of step.lua."""
        return f"done {self.done} worked {self.worked:.9g} " + " ".join(
            f"{name}|{field} {amount:.9g}"
            for name, counts in self._counts.items()
            for field, amount in zip(_FIELDS, counts, strict=True)
            if amount
        )

    def clear(self) -> None:
        self.done, self.worked = 0, 0.0  # successes that RQ's own finish has not counted
        self._counts: dict[str, list[float]] = {}
