"""Rates: how many jobs each queue finishes per minute, and how long they wait.

Redis has only total counts. The rates of the last minutes come from the difference between two
readings, so this process keeps the readings of the last KEPT_S.
"""

from __future__ import annotations

import threading
from collections import deque
from collections.abc import Mapping
from typing import NamedTuple

from werk.ops.histograms import TOOK, WAITED, added, counts_of, quantile, runs

KEPT_S = 300.0
APART_S = 5.0  # between two readings that are kept
LEAST_S = 10.0  # over a shorter time, a rate per minute means little

_Counts = dict[str, dict[str, dict[str, float]]]  # queue -> kind -> field -> how much


class Rate(NamedTuple):
    """What a queue has done in the last minutes; None: unknown."""

    per_minute: float | None = None  # executions that ended
    wait_p95_s: float | None = None


class Rates:
    """The readings of the last minutes. Any thread may add one."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._readings: deque[tuple[float, _Counts]] = deque()

    def note(self, now: float, counters: Mapping[str, str]) -> dict[str, Rate]:
        """Add a reading, by Redis's clock; return the rates since the oldest one, by queue."""
        counts = _by_queue(counters)
        with self._lock:
            readings = self._readings
            # A reading may be a little older than the last one: requests overtake each other.
            if readings and not -APART_S < now - readings[-1][0] <= KEPT_S:
                readings.clear()  # another server, or no page was open for a while
            while readings and readings[0][0] < now - KEPT_S:
                readings.popleft()
            if not readings or now - readings[-1][0] >= APART_S:
                readings.append((now, counts))
            since, before = readings[0]
        if now - since < LEAST_S:
            return {}
        return {
            queue: _rate(own, before.get(queue, {}), now - since) for queue, own in counts.items()
        }


def _rate(
    now: Mapping[str, Mapping[str, float]],
    before: Mapping[str, Mapping[str, float]],
    seconds: float,
) -> Rate:
    def since(kind: str) -> dict[str, float]:
        known = before.get(kind, {})
        found = now.get(kind, {})
        return {field: max(0.0, own - known.get(field, 0.0)) for field, own in found.items()}

    done = runs(TOOK, since(TOOK))
    return Rate(60 * done / seconds, quantile(WAITED, since(WAITED), 0.95))


def _by_queue(counters: Mapping[str, str]) -> _Counts:
    found: _Counts = {}
    for kind in (TOOK, WAITED):
        for (queue, _), counts in counts_of(kind, counters).items():
            kinds = found.setdefault(queue, {})
            kinds[kind] = added([kinds.get(kind, {}), counts])
    return found
