"""When a worker that was asked to stop ends its horse; the clock is an argument."""

from __future__ import annotations

from werk.worker.commands import StopRequests


def test_a_horse_has_time_to_leave_from_the_end_of_its_job() -> None:
    """It used to be killed, as one that is deaf, if the job had run on for longer than that."""
    stop = StopRequests()
    assert stop.idle_s(False, 50.0) == 0.0  # nobody has asked
    stop.drain(True)
    assert [stop.idle_s(True, clock) for clock in (100.0, 160.0)] == [0.0, 0.0]
    assert [stop.idle_s(False, clock) for clock in (160.1, 165.1)] == [0.0, 5.0]
