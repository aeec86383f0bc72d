"""What a long-running process logs about an outage: its beginning, once a minute, and its end."""

from __future__ import annotations

import time
from logging import Logger

from werk.log_format import Event

LOG_S = 60.0  # between two lines with the same reason


class Outage:
    """Logs that Redis is unreachable, or another problem, under other event names."""

    def __init__(
        self, log: Logger, begins: str = "redis-unreachable", ends: str = "redis-back"
    ) -> None:
        self.log, self.begins, self.ends = log, begins, ends
        self._since: float | None = None
        self._logged: dict[str, float] = {}  # reason -> when

    @property
    def is_on(self) -> bool:
        return self._since is not None

    def note(self, error: Exception, **facts: object) -> None:
        """Log the trouble, unless the same was logged within the last minute."""
        now, reason = time.monotonic(), str(error)
        if self._since is None:
            self._since = now
        self._logged = {own: at for own, at in self._logged.items() if now < at + LOG_S}
        if reason not in self._logged:
            self._logged[reason] = now
            self.log.error(Event(self.begins, **facts, reason=reason))

    def end(self, **facts: object) -> None:
        """Log that the trouble is over, if there was any."""
        if self._since is not None:
            lasted = f"{time.monotonic() - self._since:.0f} s"
            self.log.warning(Event(self.ends, **facts, after=lasted))
            self._since, self._logged = None, {}
