"""The watchdog's decisions, on a shared that the test writes; the clock is an argument."""

from __future__ import annotations

import pytest

from werk.worker.shared_state import SharedState
from werk.worker.watchdog import REACT_S, Verdict, Watchdog

LEASE_S = 15.0


@pytest.fixture
def shared() -> SharedState:
    return SharedState()


@pytest.fixture
def watchdog(shared: SharedState) -> Watchdog:
    return Watchdog(shared, LEASE_S)


def test_an_idle_horse_and_a_running_task_are_left_alone(
    shared: SharedState, watchdog: Watchdog
) -> None:
    shared.deadline = 180.0  # of a task
    assert {watchdog.look(float(clock)) for clock in range(1000)} == {Verdict.WELL}


def test_a_request_without_a_reply_for_a_lease_is_to_be_sent_again(
    shared: SharedState, watchdog: Watchdog
) -> None:
    shared.request = 7
    assert watchdog.look(0.0) is Verdict.WELL
    assert watchdog.look(LEASE_S) is Verdict.WELL
    assert watchdog.look(LEASE_S + 0.1) is Verdict.RECONNECT


def test_one_request_after_the_other_is_progress(shared: SharedState, watchdog: Watchdog) -> None:
    for number in range(1, 100):
        shared.request = number
        assert watchdog.look(number * (LEASE_S - 1)) is Verdict.WELL


def told(shared: SharedState, watchdog: Watchdog) -> float:
    """Have the horse told to reconnect. Returns when that was."""
    watchdog.look(0.0)
    assert watchdog.look(LEASE_S + 1) is Verdict.RECONNECT
    shared.reconnect = 1
    return LEASE_S + 1


def test_a_horse_that_does_not_react_is_replaced(shared: SharedState, watchdog: Watchdog) -> None:
    shared.request = 7
    at = told(shared, watchdog)
    assert watchdog.look(at + REACT_S) is Verdict.WELL
    assert watchdog.look(at + REACT_S + 0.1) is Verdict.REPLACE


def test_a_horse_that_reacts_is_told_again_after_another_lease(
    shared: SharedState, watchdog: Watchdog
) -> None:
    shared.request = 7
    at = told(shared, watchdog)
    shared.reconnect = 0
    assert watchdog.look(at + LEASE_S) is Verdict.WELL
    assert watchdog.look(at + LEASE_S + 0.1) is Verdict.RECONNECT


def test_a_finish_reconnects_and_is_ended_by_its_deadline_alone(
    shared: SharedState, watchdog: Watchdog
) -> None:
    shared.begin_finish(60)
    at = told(shared, watchdog)
    assert watchdog.look(at + REACT_S + 0.1) is Verdict.WELL  # a callback may be deaf for a while


def test_each_command_that_succeeds_is_progress_of_a_finish(
    shared: SharedState, watchdog: Watchdog
) -> None:
    shared.begin_finish(60)
    for step in range(100):
        shared.deadline = 60.0 + step  # extend_finish
        assert watchdog.look(step * (LEASE_S - 1)) is Verdict.WELL
