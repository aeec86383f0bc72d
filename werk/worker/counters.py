"""Counters: what a horse counts and has not written yet.

These are the successes as RQ counts them and, for the metrics, the executions of each task, with
histograms by queue of how long they took and how long their jobs had waited. step.lua writes them
with the worker's state, at most twice a second, so that they cost no command per job. A killed
horse loses up to a second of counts.
"""

from __future__ import annotations

from bisect import bisect_left
from collections.abc import Iterable
from urllib.parse import quote

from werk import registry
from werk.store import keys

# Floats: comparing a float with an int takes twice as long.
_TOOK, _WAITED = (
    tuple(map(float, bounds)) for bounds in (keys.DURATION_BOUNDS_S, keys.WAIT_BOUNDS_S)
)
_AT_TOOK, _AT_WAITED = 2, 4 + len(_TOOK)  # where the two histograms begin in the counts of a task
_LENGTH = _AT_WAITED + 2 + len(_WAITED)


class Counters:
    """Counts of executions, by queue and task. `queue_keys` are the keys of the served queues."""

    def __init__(self, queue_keys: Iterable[str]) -> None:
        self._names = {*registry.tasks(), *registry.BUILT_IN}
        prefix = keys.key("queue", "")
        queues = (key.removeprefix(prefix) for key in queue_keys)
        self._queues = {queue.encode(): quote(queue, safe="") for queue in queues}
        self._tasks: dict[tuple[bytes, str], list[float]] = {}
        self._done = self._webhooks = 0  # successes that step.lua records; webhooks that failed
        self._worked_s = self._last_s = 0.0  # seconds: of all these successes, and of the last

    def __bool__(self) -> bool:
        return bool(self._tasks or self._webhooks)

    def add(
        self,
        task: str,
        is_success: bool,
        seconds: float | None = None,
        queue: bytes = b"",
        waited_s: float | None = None,
        by_step: bool = False,
    ) -> None:
        """Count an execution.

        Leave out `seconds` and what follows if the task did not begin, or its process died. The job
        had waited in `queue` for `waited_s`; None: unknown. With `by_step` it is a success that
        step.lua will record.
        """
        counts = self._tasks.get((queue, task)) or self._begin(queue, task)
        counts[not is_success] += 1
        if seconds is None:
            return
        counts[_AT_TOOK] += seconds
        counts[_AT_TOOK + 1 + bisect_left(_TOOK, seconds)] += 1
        if waited_s is not None:
            counts[_AT_WAITED] += waited_s
            counts[_AT_WAITED + 1 + bisect_left(_WAITED, waited_s)] += 1
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
            f"{field} {amount:.9g}"
            for (queue, task), counts in self._tasks.items()
            for field, amount in zip(self._fields(queue, task), counts, strict=True)
            if amount
        )

    def clear(self) -> None:
        self._tasks.clear()
        self._done = self._webhooks = 0
        self._worked_s = 0.0

    def _begin(self, queue: bytes, task: str) -> list[float]:
        """Return the counts of a task. Names that the worker does not serve are counted as one."""
        known = queue if queue in self._queues else b""
        name = task if task in self._names else "other"
        return self._tasks.setdefault((known, name), [0.0] * _LENGTH)

    def _fields(self, queue: bytes, task: str) -> list[str]:
        """Return the fields of werk:tallies in which the counts of a task are kept."""
        fields = [f"{task}|done", f"{task}|failed"]
        kinds = (("took", keys.DURATION_BOUNDS_S), ("waited", keys.WAIT_BOUNDS_S))
        for kind, bounds in kinds:
            place = f"{kind}/{self._queues.get(queue, 'other')}/{task}"
            fields += [f"{place}/{what}" for what in ("seconds", *bounds, "+Inf")]
        return fields
