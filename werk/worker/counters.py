"""Counters: what a horse counts and has not written yet.

These are the successes as RQ counts them and, for the metrics, the executions of each task, with
histograms by queue of how long they took and how long their jobs had waited. step.lua writes them
with the worker's state, at most twice a second, so that they cost no command per job. A killed
horse loses up to a second of counts.
"""

from __future__ import annotations

from bisect import bisect_left
from collections.abc import Iterable
from typing import Any
from urllib.parse import quote

from werk import registry
from werk.registry import LONGEST_S
from werk.store import keys
from werk.worker.claim import Claim
from werk.worker.shared_state import SharedState

CLOCK_S = 1.0  # a wait that is negative by less than this counts as 0: see waited_s
LONGEST_FACT = 1000  # bytes; queues have shorter names

# Floats: comparing a float with an int takes twice as long.
_TOOK, _WAITED = (
    tuple(map(float, bounds)) for bounds in (keys.DURATION_BOUNDS_S, keys.WAIT_BOUNDS_S)
)
_AT_TOOK, _AT_WAITED = 2, 4 + len(_TOOK)  # where the two histograms begin in the counts of a task
_LENGTH = _AT_WAITED + 2 + len(_WAITED)
_FACTS = 8  # that are noted of an execution
MANY = 200 * _FACTS  # that are noted before they are counted


def waited_s(since: bytes | None, enqueued_at: bytes | None, now: float) -> float | None:
    """Return how long a job had waited in its queue at `now`, on Redis's clock.

    `since` and `enqueued_at` are those of its Claim. None if the wait is unknown: plain RQ has
    enqueued the job, or the record is broken.
    """
    if not since or not enqueued_at or not since.startswith(enqueued_at):
        return None
    try:
        seconds = now - float(since[len(enqueued_at) + 1 :])  # after the |
    except ValueError:
        return None
    if 0 <= seconds < LONGEST_S:
        return seconds
    # The offset to Redis's clock is known only to within a part of a round trip.
    return 0.0 if -CLOCK_S < seconds < 0 else None


class Counters:
    """Counts of executions, by queue and task. `queue_keys` are the keys of the served queues.

    After a job only its facts are noted; many are counted together. Between two jobs that takes
    several times as long as in a loop: nothing of it is in the processor's caches.
    """

    def __init__(self, queue_keys: Iterable[str], shared: SharedState) -> None:
        self._names = {*registry.tasks(), *registry.BUILT_IN}
        prefix = keys.key("queue", "")
        queues = (key.removeprefix(prefix) for key in queue_keys)
        self._queues = {queue.encode(): quote(queue, safe="") for queue in queues}
        self._shared = shared
        # One flat list, because the garbage collector would visit each tuple that is kept.
        self._ended: list[Any] = []
        self._tasks: dict[tuple[bytes, str], list[float]] = {}
        self._done = self._webhooks = 0  # successes that step.lua records; webhooks that failed
        self._worked_s = self._last_s = 0.0  # seconds: of all these successes, and of the last

    def __bool__(self) -> bool:
        return bool(self._ended or self._tasks or self._webhooks)

    def add(
        self,
        task: str,
        is_success: bool,
        seconds: float,
        claim: Claim,
        began: float,
        by_step: bool = False,
    ) -> None:
        """Count an execution that took `seconds` and began at `began`, on the monotonic clock.

        With `by_step` it is a success that step.lua will record.
        """
        if len(self._ended) > MANY:
            self._count()
        since, enqueued_at, most = claim.since, claim.enqueued_at, LONGEST_FACT
        self._ended += (
            task, is_success, seconds, claim.origin[:most], since and since[:most],
            enqueued_at and enqueued_at[:most], began, by_step,
        )  # fmt: skip

    def add_failure(self, task: str) -> None:
        """Count a failure of an execution that did not begin, or whose process died."""
        self._ended += (task, False, None, b"", None, None, 0.0, False)

    def leave_last_to_rq(self) -> None:
        """Have RQ's own code count the last success: step.lua did not record it."""
        self._count()
        self._done -= 1
        self._worked_s -= self._last_s

    def add_failed_webhook(self) -> None:
        self._webhooks += 1

    def text(self) -> str:
        """Return the counts as step.lua reads them: 'done <jobs> worked <seconds> field amount'."""
        self._count()
        webhooks = f"{keys.FAILED_WEBHOOKS} {self._webhooks} " if self._webhooks else ""
        return f"done {self._done} worked {self._worked_s:.9g} {webhooks}" + " ".join(
            f"{field} {amount:.9g}"
            for (queue, task), counts in self._tasks.items()
            for field, amount in zip(self._fields(queue, task), counts, strict=True)
            if amount
        )

    def clear(self) -> None:
        """Forget what is counted: it is written."""
        self._tasks.clear()
        self._done = self._webhooks = 0
        self._worked_s = 0.0

    def _count(self) -> None:
        """Count the executions that are noted."""
        facts, offset = iter(self._ended), self._shared.offset
        for task, is_success, seconds, queue, since, enqueued_at, began, by_step in zip(
            *[facts] * _FACTS, strict=True
        ):
            counts = self._tasks.get((queue, task)) or self._begin(queue, task)
            counts[not is_success] += 1
            if by_step:
                self._done += 1
                self._worked_s += seconds
                self._last_s = seconds
            if seconds is None:
                continue
            counts[_AT_TOOK] += seconds
            counts[_AT_TOOK + 1 + bisect_left(_TOOK, seconds)] += 1
            if (waited := waited_s(since, enqueued_at, began + offset)) is not None:
                counts[_AT_WAITED] += waited
                counts[_AT_WAITED + 1 + bisect_left(_WAITED, waited)] += 1
        self._ended.clear()

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
