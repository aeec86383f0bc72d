"""Counters: what a horse counts and has not written yet.

These are the successes as RQ counts them and, for the metrics, the executions of each task with
their durations. step.lua writes them with the worker's state, at most twice a second, so that they
cost no command per job. A killed horse loses up to half a second of counts.
"""

from __future__ import annotations

from bisect import bisect_left

from werk import registry
from werk.store import keys

_BOUNDS = keys.DURATION_BOUNDS_S
_FIELDS = ("done", "failed", "seconds", *map(str, _BOUNDS), "+Inf")
_NONE = (0.0,) * len(_FIELDS)


class Counters:
    """Counts of executions, by task."""

    def __init__(self) -> None:
        self._names = {*registry.tasks(), *registry.BUILT_IN}
        self._tasks: dict[str, list[float]] = {}
        self._done = self._webhooks = 0  # successes that step.lua records; webhooks that failed
        self._worked_s = self._last_s = 0.0  # seconds: of all these successes, and of the last

    def __bool__(self) -> bool:
        return bool(self._tasks or self._webhooks)

    def add(
        self, task: str, is_success: bool, seconds: float | None = None, by_step: bool = False
    ) -> None:
        """Count an execution.

        Leave out `seconds` if the task did not begin, or its process died. With `by_step` it is a
        success that step.lua will record.
        """
        counts = self._tasks.get(task) or self._begin(task)
        counts[not is_success] += 1
        if seconds is not None:
            counts[2] += seconds
            counts[3 + bisect_left(_BOUNDS, seconds)] += 1
            if by_step:
                self._done += 1
                self._worked_s += seconds
                self._last_s = seconds

    def leave_last_to_rq(self) -> None:
        """Have RQ's own code count the last success: step.lua did not record it."""
        self._done -= 1
        self._worked_s -= self._last_s

    def add_failed_webhook(self) -> None:
        self._webhooks += 1

    def text(self) -> str:
        """Return the counts as step.lua reads them: 'done <jobs> worked <seconds> field amount'."""
        webhooks = f"{keys.FAILED_WEBHOOKS} {self._webhooks} " if self._webhooks else ""
        return f"done {self._done} worked {self._worked_s:.9g} {webhooks}" + " ".join(
            f"{name}|{field} {amount:.9g}"
            for name, counts in self._tasks.items()
            for field, amount in zip(_FIELDS, counts, strict=True)
            if amount
        )

    def clear(self) -> None:
        self._tasks.clear()
        self._done = self._webhooks = 0
        self._worked_s = 0.0

    def _begin(self, task: str) -> list[float]:
        name = task if task in self._names else "other"
        return self._tasks.setdefault(name, [*_NONE])
