"""What a horse counts, and the wait of a claim."""

from __future__ import annotations

from typing import Any

import pytest

from werk.worker.claim import Claim
from werk.worker.counters import MANY, Counters, waited_s
from werk.worker.shared_state import SharedState

NOW, BEGAN = 1_800_000_000.0, 1000.0
AT = b"2027-01-15T08:00:00.000000Z"


def made(*queues: str) -> Counters:
    """Return counters of a horse that knows by how much Redis's clock is ahead."""
    shared = SharedState()
    shared.offset = NOW - BEGAN
    return Counters((f"rq:queue:{queue}" for queue in queues), shared)


def claim(queue: bytes, since: bytes | None) -> Claim:
    facts: dict[str, Any] = dict.fromkeys(Claim.__slots__, b"")
    return Claim(**facts | {"origin": queue, "since": since, "enqueued_at": AT})


@pytest.mark.parametrize(
    ("since", "seconds"),
    [
        (AT + b"|1799999990.5", 9.5),
        (AT + b"|1800000000.2", 0.0),  # clocks are known to a part of a round trip
        (AT + b"|1800000090", None),
        (AT + b"|1", None),
        (AT + b"|nan", None),
        (AT + b"|-inf", None),
        (AT + b"|" + b"9" * 400, None),
        (AT + b"|\xff", None),
        (AT + b"|", None),
        (AT, None),
        (b"|1799999990.5", None),
        (b"2026-01-15T08:00:00.000000Z|1799999990.5", None),
        (b"", None),
        (None, None),
    ],
)
def test_the_wait_of_a_claim(since: bytes | None, seconds: float | None) -> None:
    assert waited_s(since, AT, NOW) == seconds


def test_the_wait_is_not_known_if_plain_rq_has_enqueued_the_job_again() -> None:
    since = AT + b"|1799999990.5"
    for enqueued_at in (None, b"", b"2027-01-15T08:00:01.000000Z"):
        assert waited_s(since, enqueued_at, NOW) is None


def test_counts_are_written_by_queue_and_task() -> None:
    counters = made("default", "a b/c")
    soon, late = AT + b"|1799999999.75", AT + b"|1799999993"
    counters.add("sleep", True, 0.5, claim(b"default", soon), BEGAN, by_step=True)
    counters.add("sleep", True, 0.5, claim(b"default", late), BEGAN)
    counters.add("sleep", False, 5000, claim(b"a b/c", None), BEGAN)
    counters.add_failure("sleep")
    wanted = (
        "done 1 worked 0.5 sleep|done 2 took/default/sleep/seconds 1 took/default/sleep/0.5 2"
        " waited/default/sleep/seconds 7.25 waited/default/sleep/0.5 1"
        " waited/default/sleep/10 1 sleep|failed 1 took/a%20b%2Fc/sleep/seconds 5000"
        " took/a%20b%2Fc/sleep/+Inf 1 sleep|failed 1"
    )
    assert counters.text() == wanted
    assert counters.text() == wanted  # they may have to be sent again
    counters.clear()
    assert not counters


def test_the_number_of_fields_is_bounded() -> None:
    counters = made("default")
    for number in range(1000):
        job = claim(f"queue{number}".encode(), AT + b"|1799999999.75")
        counters.add(f"none{number}", True, 0.5, job, BEGAN)
    assert counters.text().count(" ") < 20
    assert "took/other/other/0.5 1000" in counters.text()


def test_a_success_that_rq_records_is_counted_by_rq() -> None:
    counters = made("default")
    counters.add("sleep", True, 0.5, claim(b"default", None), BEGAN, by_step=True)
    counters.add("sleep", True, 2.0, claim(b"default", None), BEGAN, by_step=True)
    assert counters.text().startswith("done 2 worked 2.5 sleep|done 2 ")
    counters.leave_last_to_rq()
    assert counters.text().startswith("done 1 worked 0.5 sleep|done 2 ")


def test_a_time_in_a_record_that_is_far_too_long_is_not_kept() -> None:
    counters = made("default")
    counters.add("sleep", True, 0.5, claim(b"default", AT + b"|" + b"0" * 10_000_000 + b"1"), BEGAN)
    assert sum(len(fact) for fact in counters._ended if isinstance(fact, bytes)) < 2000


def test_few_executions_are_noted_before_they_are_counted() -> None:
    """What is noted of a job takes 300 bytes."""
    counters, number = made("default"), MANY
    for _ in range(number):
        counters.add("sleep", True, 0.5, claim(b"default", None), BEGAN, by_step=True)
        assert len(counters._ended) < 2 * MANY
    counters.leave_last_to_rq()
    worked = 0.5 * (number - 1)
    assert counters.text().startswith(f"done {number - 1} worked {worked:g} sleep|done {number} ")
