"""Guard: notices that the supervisor's connection has come to another server: a failover."""

from __future__ import annotations

from werk.errors import ConfigError, RedisUnavailable
from werk.store.connection import Link


class Guard:
    """Knows the server of the supervisor's last connection."""

    def __init__(self, link: Link) -> None:
        self.link = link
        self.opened, self.server = 0, b""  # our connections so far; the server of the last one

    def has_moved(self) -> bool:
        """Return whether our new connection is to another server than the one before."""
        if self.opened == self.link.opened:
            return False
        before, self.opened = self.server, self.link.opened
        try:
            info = self.link.call("INFO", "server").split(b"\r\n")
            self.server = next((line for line in info if line.startswith(b"run_id:")), b"")
        except (RedisUnavailable, ConfigError):
            pass  # a silent connection is still noticed, only later
        return before != self.server
