"""The counts that horses keep of executions and waits (worker/counters.py), by queue and task."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Collection, Iterable, Mapping, Sequence
from itertools import accumulate
from urllib.parse import unquote

from werk.ops.numbers import number
from werk.store import keys

Counts = dict[tuple[str, str], dict[str, float]]  # queue and task -> field -> how much

TOOK, WAITED = "took", "waited"  # kinds: see keys.py
BOUNDS = {TOOK: keys.DURATION_BOUNDS_S, WAITED: keys.WAIT_BOUNDS_S}
MORE = "+Inf"


def steps(kind: str) -> Sequence[str]:
    """Return the fields of a histogram, by which its counts are known."""
    return (*map(str, BOUNDS[kind]), MORE)


def counts_of(kind: str, counters: Mapping[str, str]) -> Counts:
    """Return the counts of the histograms of a kind; the field `seconds` is the sum.

    Two names can stand for the same queue, because anybody may write there. Their counts are one
    series: Prometheus refuses a page with two. Horses of version 0.2.0 write no queue.
    """
    known: Collection[str] = (*steps(kind), "seconds")
    found: Counts = {}
    for field in counters:
        place, _, what = field.rpartition("/")
        labels = place.split("/")
        if kind == TOOK and "|" in field:
            task, _, what = field.rpartition("|")
            labels = [kind, "", task]
        if what in known and len(labels) == 3 and labels[0] == kind:
            counts = found.setdefault((unquote(labels[1]), labels[2]), defaultdict(float))
            counts[what] += amount(counters, field)
    return found


def added(counts: Iterable[Mapping[str, float]]) -> dict[str, float]:
    """Return the counts of several histograms as those of one."""
    total: dict[str, float] = defaultdict(float)
    for own in counts:
        for field, value in own.items():
            total[field] += value
    return total


def runs(kind: str, counts: Mapping[str, float]) -> float:
    """Return how many executions, or waits, a histogram has counted."""
    return sum(counts.get(step, 0.0) for step in steps(kind))


def quantile(kind: str, counts: Mapping[str, float], part: float) -> float | None:
    """Return the time, in seconds, within which a part of the counted times lies; None without any.

    It lies between two bounds, at the place that the number of counts suggests. Above the last
    bound it is infinite.
    """
    totals = [*accumulate(counts.get(step, 0.0) for step in steps(kind))]
    wanted, before, lower = part * totals[-1], 0.0, 0.0
    if totals[-1] <= 0:
        return None
    for upper, total in zip(BOUNDS[kind], totals, strict=False):
        if total >= wanted:
            return lower + (upper - lower) * (wanted - before) / (total - before)
        before, lower = total, float(upper)
    return float("inf")


def amount(counters: Mapping[str, str], field: str) -> float:
    """Return the number in a counter, 0 if there is none."""
    return max(0.0, number(counters.get(field)))
