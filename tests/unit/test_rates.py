"""Rates and quantiles from the counters of horses."""

from __future__ import annotations

import pytest

from werk.ops.histograms import TOOK, WAITED, quantile
from werk.web.rates import KEPT_S, Rate, Rates


def counters(done: int, waits: dict[str, int]) -> dict[str, str]:
    took = {"took/default/hello/0.01": done, "took/default/hello/seconds": 1}
    waited = {f"waited/default/hello/{bound}": count for bound, count in waits.items()}
    return {field: str(count) for field, count in {**took, **waited, "hello|done": done}.items()}


@pytest.mark.parametrize(
    ("kind", "counts", "wanted"),
    [
        (TOOK, {}, None),
        (TOOK, {"0.01": 100}, 0.0095),
        (TOOK, {"0.01": 90, "0.1": 10}, 0.055),
        (TOOK, {"0.01": 50, "+Inf": 50}, float("inf")),
        (WAITED, {"5": 10, "seconds": 1e9}, 4.8),
        (WAITED, {"1": 95, "3600": 5}, 1.0),
    ],
)
def test_a_quantile_lies_between_two_bounds(
    kind: str, counts: dict[str, float], wanted: float | None
) -> None:
    found = quantile(kind, counts, 0.95)
    assert found == (wanted if wanted is None else pytest.approx(wanted))


def test_rates_are_the_difference_of_two_readings() -> None:
    rates = Rates()
    assert rates.note(1000, counters(50, {"1": 50})) == {}
    assert rates.note(1004, counters(60, {"1": 50})) == {}  # too early
    assert rates.note(1030, counters(110, {"1": 50, "10": 60})) == {
        "default": Rate(120.0, pytest.approx(9.75))
    }
    assert rates.note(1030, {}) == {}  # the counters were deleted


def test_only_the_last_minutes_count() -> None:
    rates = Rates()
    rates.note(1000, counters(0, {}))
    for second in range(1010, 2010, 10):
        found = rates.note(second, counters(600 if second > 1500 else 0, {}))
    assert found["default"].per_minute == 0.0
    assert rates.note(2000 + 2 * KEPT_S, counters(900, {})) == {}  # nobody has looked
    assert rates.note(100, counters(900, {})) == {}  # another server
    assert rates.note(160, counters(0, {}))["default"] == Rate(0.0, None)  # it was flushed


def test_a_reading_that_comes_late_changes_nothing() -> None:
    rates = Rates()
    for moment, done in ((1000, 0), (1012, 0), (1030, 30)):
        rates.note(moment, counters(done, {}))
    assert rates.note(1029, counters(29, {}))["default"].per_minute == 60.0
    assert rates.note(1040, counters(40, {}))["default"].per_minute == 60.0


def test_a_queue_that_is_new_has_a_rate() -> None:
    rates = Rates()
    rates.note(1000, {})
    assert rates.note(1060, counters(30, {}))["default"].per_minute == 30.0
