"""What is logged about an outage: its beginning, once a minute, and its end."""

from __future__ import annotations

import logging
import time

import pytest

from werk.store.outage import Outage


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> list[float]:
    now = [1000.0]
    monkeypatch.setattr(time, "monotonic", lambda: now[0])
    return now


def test_an_outage_is_logged_once_a_minute(
    clock: list[float], caplog: pytest.LogCaptureFixture
) -> None:
    outage = Outage(logging.getLogger("werk.test"))
    outage.end()
    for _ in range(150):
        outage.note(OSError("refused"), worker="w")
        assert outage.is_on
        clock[0] += 1
    outage.end(worker="w")
    outage.end(worker="w")
    assert not outage.is_on
    outage.note(OSError("refused"), worker="w")
    lines = [record.getMessage() for record in caplog.records]
    began = "event=redis-unreachable worker=w reason=refused"
    assert lines == [began] * 3 + ['event=redis-back worker=w after="150 s"', began]


def test_another_reason_is_logged_at_once_and_both_once_a_minute(
    clock: list[float], caplog: pytest.LogCaptureFixture
) -> None:
    outage = Outage(logging.getLogger("werk.test"), "not-enqueued", "goes-on")
    for second in range(70):
        outage.note(OSError("refused" if second % 2 else "timeout"))
        clock[0] += 1
    lines = [record.getMessage().removeprefix("event=not-enqueued ") for record in caplog.records]
    assert lines == ["reason=timeout", "reason=refused"] * 2
