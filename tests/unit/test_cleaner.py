"""RQ's clean-up runs in a child, whatever a task has done to signals."""

from __future__ import annotations

import logging
import signal
from unittest.mock import Mock

import pytest

from werk.worker.cleaner import Cleaner
from werk.worker.shared_state import SharedState


def test_a_clean_up_has_not_failed_because_sigchld_is_ignored(
    caplog: pytest.LogCaptureFixture,
) -> None:
    before = signal.signal(signal.SIGCHLD, signal.SIG_IGN)
    try:
        with caplog.at_level(logging.ERROR):
            Cleaner(Mock(), SharedState()).clean()
    finally:
        signal.signal(signal.SIGCHLD, before)
    assert caplog.text == ""
