"""Watchdog: finds a horse that waits for Redis while its supervisor reaches Redis.

A connection can fall silent: its server is frozen, or is no longer the master. The horse's waits
have no limit, because Redis may be unreachable for long; so the supervisor, whose ticks succeed,
decides. First it asks the horse to reconnect and to send its request again, which is always safe.
It replaces only a horse that does not react.
"""

from __future__ import annotations

from enum import Enum

from werk.worker.shared_state import SharedState

REACT_S = 5.0  # for the horse to act on a signal


class Verdict(Enum):
    WELL = "well"
    RECONNECT = "reconnect"
    REPLACE = "replace"


class Watchdog:
    """Checks the shared state after each successful tick. Times are on the monotonic clock."""

    def __init__(self, shared: SharedState, limit_s: float) -> None:
        self.shared, self.limit_s = shared, limit_s
        self.seen: tuple[int, float] = (0, 0.0)
        self.since = 0.0  # since when the horse has made no progress
        self.told_at: float | None = None

    def look(self, clock: float) -> Verdict:
        """Return what to do about the horse."""
        shared = self.shared
        waits_for = shared.request, shared.deadline if shared.finishing else 0.0
        if waits_for != self.seen or not any(waits_for):
            self.seen, self.since, self.told_at = waits_for, clock, None
        elif self.told_at is not None and shared.reconnect and clock > self.told_at + REACT_S:
            # A callback may block signals.
            return Verdict.WELL if shared.finishing else Verdict.REPLACE
        elif clock > max(self.since, self.told_at or 0.0) + self.limit_s:
            self.told_at = clock
            return Verdict.RECONNECT
        return Verdict.WELL
