"""The first contact of a long-running command with Redis, which may start after the command."""

from __future__ import annotations

import time
from collections.abc import Callable
from logging import Logger
from typing import TypeVar

from werk.errors import RedisUnavailable
from werk.store.outage import Outage

PAUSE_S = 1.0

T = TypeVar("T")


def wait_for_answer(
    contact: Callable[[], T], log: Logger, *, pause: Callable[[float], None] = time.sleep
) -> T:
    """Call `contact` until Redis answers; return its result. Log that Redis is unreachable.

    Raises ConfigError for what waiting does not fix: a wrong password, no permission, Redis
    Cluster.
    """
    outage = Outage(log)
    while True:
        try:
            found = contact()
            outage.end()
            return found
        except RedisUnavailable as error:
            outage.note(error)
            pause(PAUSE_S)
