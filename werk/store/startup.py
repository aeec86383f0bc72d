"""The first contact of a long-running command with Redis, which may start after the command."""

from __future__ import annotations

import time
from collections.abc import Callable
from logging import Logger
from typing import TypeVar

from werk.errors import RedisUnavailable
from werk.log_format import Event

PAUSE_S = 1.0

T = TypeVar("T")


def wait_for_answer(
    contact: Callable[[], T], log: Logger, *, pause: Callable[[float], None] = time.sleep
) -> T:
    """Call `contact` until Redis answers; return its result. Log once that Redis is unreachable.

    Raises ConfigError for what waiting does not fix: a wrong password, no permission, Redis
    Cluster.
    """
    is_reported = False
    while True:
        try:
            return contact()
        except RedisUnavailable as error:
            if not is_reported:
                log.error(Event("redis-unreachable", reason=error))
            is_reported = True
            pause(PAUSE_S)
