"""What a horse counts: successes as RQ does; for the metrics executions of each task, and how long.

Kept in numbers and written with the worker's state, so a job costs no command of its own. The
numbers stand in memory that outlives a killed horse: its supervisor writes what is left there.
"""

from __future__ import annotations

import mmap
from bisect import bisect_left

from werk import registry
from werk.store import keys

_BOUNDS = keys.DURATION_BOUNDS_S
_FIELDS = ("done", "failed", "seconds", *map(str, _BOUNDS), "+Inf")
_LAST, _LAST_TOOK, _OTHERS, _OTHERS_TOOK, _WEBHOOKS, _TASKS = range(6)  # places of numbers


class Tally:
    """Counts that are not written yet."""

    def __init__(self) -> None:
        names = dict.fromkeys((*registry.tasks(), *registry.BUILT_IN, "other"))
        self._places = {name: _TASKS + n * len(_FIELDS) for n, name in enumerate(names)}
        self._other = self._places["other"]
        self._nothing = bytes(8 * (_TASKS + len(names) * len(_FIELDS)))
        self._memory = mmap.mmap(-1, len(self._nothing))
        self._counts = memoryview(self._memory).cast("d")

    def __bool__(self) -> bool:
        return self._memory[:] != self._nothing

    def add(
        self, task: str, is_success: bool, seconds: float | None = None, number: int = 0
    ) -> None:
        """Count an execution; without seconds it ended before it began, or with its process.

        With the number of the horse's job it is a success that step.lua is to record.
        """
        counts, at = self._counts, self._places.get(task, self._other)
        counts[at + (not is_success)] += 1
        if seconds is not None:
            counts[at + 2] += seconds
            counts[at + 3 + bisect_left(_BOUNDS, seconds)] += 1
            if number:
                counts[_LAST], counts[_LAST_TOOK] = number, seconds
            else:
                counts[_OTHERS] += is_success
                counts[_OTHERS_TOOK] += seconds

    def add_failed_webhook(self) -> None:
        self._counts[_WEBHOOKS] += 1

    def take_back(self, number: int) -> float | None:
        """Forget the success of that job. Returns the seconds it took; None if there is none."""
        counts = self._counts
        if counts[_LAST] != number:
            return None
        counts[_LAST] = 0
        counts[_OTHERS] += 1
        counts[_OTHERS_TOOK] += counts[_LAST_TOOK]
        return counts[_LAST_TOOK]

    def text(self) -> str:
        """Return ARGV 10 of step.lua."""
        counts = self._counts
        used = [(name, at) for name, at in self._places.items() if counts[at] or counts[at + 1]]
        done = sum(counts[at] for _, at in used) - counts[_OTHERS]
        worked = sum(counts[at + 2] for _, at in used) - counts[_OTHERS_TOOK]
        webhooks = counts[_WEBHOOKS]
        beside = f"{keys.FAILED_WEBHOOKS} {webhooks:.0f} " if webhooks else ""
        return f"done {done:.0f} worked {worked:.9g} {beside}" + " ".join(
            f"{name}|{field} {counts[at + n]:.9g}"
            for name, at in used
            for n, field in enumerate(_FIELDS)
            if counts[at + n]
        )

    def clear(self) -> None:
        self._memory[:] = self._nothing
