"""Guard: checks, after each tick that has reached Redis, that the horse reaches Redis as well."""

from __future__ import annotations

import time

from werk.errors import ConfigError, RedisUnavailable
from werk.store.connection import Link
from werk.worker.shared_state import SharedState
from werk.worker.watchdog import Verdict, Watchdog


class Guard:
    """Knows the server of the supervisor's connection, and how long the horse has waited."""

    def __init__(self, shared: SharedState, link: Link, lease_s: float) -> None:
        self.shared, self.link = shared, link
        self.watchdog = Watchdog(shared, lease_s)
        self.opened, self.server = 0, b""  # our connections so far; the server of the last one

    def look(self) -> Verdict:
        """Return what to do about the horse."""
        verdict = self.watchdog.look(time.monotonic())
        is_moved = self.opened != self.link.opened and self.has_moved()
        if is_moved and not self.shared.finishing:
            return Verdict.RECONNECT
        return verdict

    def has_moved(self) -> bool:
        """Return whether our new connection is to another server than the one before."""
        before, self.opened = self.server, self.link.opened
        try:
            info = self.link.call("INFO", "server").split(b"\r\n")
            self.server = next((line for line in info if line.startswith(b"run_id:")), b"")
        except (RedisUnavailable, ConfigError):
            pass  # a silent connection is still noticed, only later
        return before != self.server
