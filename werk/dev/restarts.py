"""Restarts: when `werk up` restarts a worker that has ended by itself."""

from __future__ import annotations

import time

SOON_S = 10.0  # a worker that ran for longer did not die because of its start
FIRST_PAUSE_S = 0.25  # before the second restart in a row; doubled before each further one
MOST = 5  # deaths in a row, each soon after a start


class Restarts:
    """Counts deaths soon after a start, and pauses longer after each of them."""

    def __init__(self) -> None:
        self.deaths = 0
        self.due_at: float | None = None  # on the monotonic clock; None: the worker runs
        self._started_at = time.monotonic()

    def note_start(self) -> None:
        """Note that the worker was started."""
        self.due_at, self._started_at = None, time.monotonic()

    def note_death(self) -> bool:
        """Note that the worker has ended. Return whether to start it again, at `due_at`."""
        now = time.monotonic()
        if now > self._started_at + SOON_S:
            self.deaths = 0
        self.deaths += 1
        pause_s = FIRST_PAUSE_S * 2 ** (self.deaths - 2) if self.deaths > 1 else 0.0
        self.due_at = now + pause_s
        return self.deaths < MOST

    def is_due(self) -> bool:
        """Return whether the worker has ended and its pause is over."""
        return self.due_at is not None and time.monotonic() >= self.due_at
