"""What a horse counts: successes as RQ does; for the metrics executions of each task, and how long.

Kept in numbers and written with the worker's state, so a job costs no command of its own. The
numbers stand in memory that outlives a killed horse: its supervisor writes what is left there.
"""

from __future__ import annotations

import mmap
from bisect import bisect_left

from werk import registry, wire

_BOUNDS = wire.TALLY_BOUNDS_S
_FIELDS = ("done", "failed", "seconds", *map(str, _BOUNDS), "+Inf")
_DONE, _WORKED, _LAST, _LAST_TOOK, _TASKS = range(5)  # places of numbers


class Tally:
    """Counts that are not written yet."""

    def __init__(self) -> None:
        names = dict.fromkeys((*registry.tasks(), *registry.BUILT_IN, "other"))
        self._places = {name: _TASKS + n * len(_FIELDS) for n, name in enumerate(names)}
        self._used: dict[str, int] = {}
        self._nothing = bytes(8 * (_TASKS + len(names) * len(_FIELDS)))
        self._memory = mmap.mmap(-1, len(self._nothing))
        self._counts = memoryview(self._memory).cast("d")

    def __bool__(self) -> bool:
        return bool(self._used)

    def add(
        self, task: str, is_success: bool, seconds: float | None = None, number: int = 0
    ) -> None:
        """Count an execution; without seconds it ended before it began, or with its process.

        With the number of the horse's job it is a success that step.lua is to record.
        """
        name = task if task in self._places else "other"  # few names, whatever is enqueued
        at, counts = self._places[name], self._counts
        self._used[name] = at
        counts[at + (not is_success)] += 1
        if seconds is not None:
            counts[at + 2] += seconds
            counts[at + 3 + bisect_left(_BOUNDS, seconds)] += 1
            if number:
                counts[_LAST], counts[_LAST_TOOK] = number, seconds
                counts[_DONE] += 1
                counts[_WORKED] += seconds

    def take_back(self, number: int) -> float | None:
        """Forget the success of that job. Returns the seconds it took; None if there is none."""
        counts = self._counts
        if counts[_LAST] != number:
            return None
        counts[_LAST] = 0
        counts[_DONE] -= 1
        counts[_WORKED] -= counts[_LAST_TOOK]
        return counts[_LAST_TOOK]

    def inherit(self) -> None:
        """In the supervisor, which does not know what its horse has used: it may be all."""
        self._used = dict(self._places)

    def text(self) -> str:
        """Return ARGV 10 of step.lua."""
        counts = self._counts
        return f"done {counts[_DONE]:.0f} worked {counts[_WORKED]:.9g} " + " ".join(
            f"{name}|{field} {counts[at + n]:.9g}"
            for name, at in self._used.items()
            for n, field in enumerate(_FIELDS)
            if counts[at + n]
        )

    def clear(self) -> None:
        self._memory[:] = self._nothing
        self._used.clear()
