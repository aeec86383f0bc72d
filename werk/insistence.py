"""Signals that end a process for certain."""

from __future__ import annotations

import signal
from collections.abc import Callable
from types import FrameType

Handler = Callable[[int, FrameType | None], None]


def insisting(error: BaseException, again_s: int) -> Handler:
    """Return a handler that raises an error, and again after some seconds, until SIGALRM is off.

    Python drops an exception that is raised while a destructor runs.
    """

    def handle(*_: object) -> None:
        signal.signal(signal.SIGALRM, handle)
        signal.alarm(again_s)
        raise error

    return handle
