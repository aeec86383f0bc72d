"""Idle: how a horse without a job waits for one. The wait costs Redis nothing."""

from __future__ import annotations

import os
import select
import time
from typing import Any

import hiredis

from werk.worker.redis_side import AWAY, Channel

BLOCK_S = 10  # one wait in Redis; then another begins
LATE_S = 5  # if no reply comes within this time after BLOCK_S, the connection counts as dead
RETRY_S = 0.2  # until the next request to step.lua, if Redis refuses the wait


class Idle:
    """Waits in Redis over one connection per queue, and for the supervisor on the wake pipe."""

    def __init__(self, client: Any, wake_r: int) -> None:
        self.client, self.wake_r = client, wake_r
        self.channels: dict[str, Channel] = {}  # by queue
        self.asked: dict[str, float] = {}  # by queue: since when its wait is open

    def wait(self, keys: list[str], seconds: float | None) -> None:
        """Wait until one of the queues has a job, without taking it."""
        try:
            self._listen(keys, seconds)
        except AWAY:
            for channel in self.channels.values():
                channel.close()
            self.asked.clear()
            self.sleep(RETRY_S)

    def _listen(self, keys: list[str], seconds: float | None) -> None:
        """Move the first job of each queue to its own place: BLMOVE blocks until there is one."""
        for key in keys:
            if key not in self.asked:
                channel = self.channels.setdefault(key, Channel(self.client))
                channel.send(("BLMOVE", key, key, "LEFT", "LEFT", BLOCK_S))
                self.asked[key] = time.monotonic()
        sockets = {self.channels[key].socket: key for key in keys}
        longest = BLOCK_S + LATE_S if seconds is None else min(seconds, BLOCK_S + LATE_S)
        for ready in select.select([self.wake_r, *sockets], [], [], longest)[0]:
            if ready == self.wake_r:
                self._answer_wake()
                continue
            key = sockets[ready]
            del self.asked[key]
            if isinstance(self.channels[key].receive(), hiredis.ReplyError):
                self.sleep(RETRY_S)  # OOM: BLMOVE is a write. So step.lua is asked again and again
        if self.asked and min(self.asked.values()) < time.monotonic() - BLOCK_S - LATE_S:
            raise TimeoutError("an idle wait has lasted too long")

    def sleep(self, seconds: float) -> None:
        if select.select([self.wake_r], [], [], seconds)[0]:
            self._answer_wake()

    def _answer_wake(self) -> None:
        if not os.read(self.wake_r, 4096):
            os._exit(1)  # the supervisor has ended
