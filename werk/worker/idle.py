"""Idle: how a horse without a job waits for one. The wait costs Redis nothing.

A wait for a queue moves the queue's next job into our hand (see hands.lua), so a job wakes one
horse. A horse that claims a job must have no such wait open, or another job could get stuck in its
hand while it is busy. So the open waits are ended in the same write as the next request to
step.lua, which first returns the hands to the queues.
"""

from __future__ import annotations

import os
import select
import time
from typing import Any

import hiredis

from werk.store import keys, replies
from werk.store.connection import Command
from werk.worker.redis_side import AWAY, Channel
from werk.worker.rq_side import RQSide

LATE_S = 5  # if a reply is overdue for longer, the connection counts as dead
RETRY_S = 0.2  # until the next request to step.lua, if Redis refuses the wait


class Wait(Channel):
    """A connection that waits for an entry of one list."""

    client_id = 0  # in Redis
    since = 0.0  # on the monotonic clock; 0: its reply is read, or there is none

    def begin(self, source: str, hand: str, seconds: float) -> None:
        self.send(("BLMOVE", source, hand, "LEFT", "LEFT", seconds))
        self.since = time.monotonic()

    def end(self) -> Any:
        """Read the reply. Raises OSError, hiredis.ProtocolError."""
        reply = self.receive()
        self.since = 0.0
        return reply

    def close(self) -> None:
        super().close()
        self.since = 0.0


class Idle:
    """Waits in Redis over one connection per queue, and for the supervisor on the wake pipe."""

    def __init__(self, worker: RQSide, wake_r: int) -> None:
        self.client, self.wake_r = worker.connection, wake_r
        self.hands = {key: keys.hand(worker.name, key) for key in worker.ordered_queue_keys()}
        self.block_s = worker.lease_s * 2 / 3  # one wait; less than a lease: see hands.lua
        self.waits: dict[str, Wait] = {}  # by list
        self.open: list[Wait] = []  # those that may fill our hand, and have to be ended
        self.ended: list[Wait] = []  # by the last request; their replies are not read yet
        self.can_end = True  # the Redis user may use CLIENT ID and CLIENT UNBLOCK

    def wait(self, lists: list[str], seconds: float | None) -> None:
        """Wait until there is an entry in one of our queues, or in another list.

        To be called only after step.lua has found our generation and no job.
        """
        try:
            for wait in self.ended:
                if wait.since:
                    wait.end()
            self.ended.clear()
            for key in lists:
                self._begin(key)
            self._listen(seconds)
        except AWAY:
            for wait in self.waits.values():
                wait.close()
            self.open, self.ended = [], []
            self.sleep(RETRY_S)

    def ends(self) -> list[Command]:
        """Return the commands that end the open waits, to be sent before a request to step.lua."""
        return [("CLIENT", "UNBLOCK", wait.client_id) for wait in self.open]

    def have_ended(self, found: list[Any]) -> None:
        """Note Redis's replies to these commands. The waits' own replies are on their way."""
        for wait, reply in zip(self.open, found, strict=True):
            if isinstance(reply, hiredis.ReplyError):
                wait.close()
        self.ended, self.open = self.open, []

    def sleep(self, seconds: float) -> None:
        """Sleep until the supervisor wakes us, for at most `seconds`."""
        poll = select.poll()
        poll.register(self.wake_r, select.POLLIN)
        if poll.poll(seconds * 1000):
            self._answer_wake()

    def _begin(self, key: str) -> None:
        """Begin a wait for a list, if none is open.

        BLMOVE needs a destination: an entry that is not for our hand is moved to the place that it
        has. So is a queue's job, if we cannot end the wait and serve other queues as well.
        """
        wait = self.waits.get(key) or self.waits.setdefault(key, Wait(self.client))
        if wait.since:
            return
        if wait.socket is None:
            self._connect(wait)
        hand = self.hands.get(key) if self.can_end or len(self.hands) == 1 else None
        wait.begin(key, hand or key, self.block_s)
        if hand and self.can_end:
            self.open.append(wait)

    def _connect(self, wait: Wait) -> None:
        """Open the connection of a wait, and learn its id in Redis."""
        wait.open()
        wait.socket.settimeout(LATE_S)  # we read only replies that have come or are on their way
        if not self.can_end:
            return
        wait.send(("CLIENT", "ID"), ("CLIENT", "UNBLOCK", 0))  # there is no client 0
        found = [wait.receive(), wait.receive()]
        for reply in found:
            if isinstance(reply, hiredis.ReplyError):
                if replies.passes(str(reply)):  # LOADING, ...
                    raise ConnectionError(str(reply))
                self.can_end = False
        wait.client_id = found[0]

    def _listen(self, seconds: float | None) -> None:
        """Read the replies that come first. Raises TimeoutError if one is long overdue."""
        poll = select.poll()  # select() knows no descriptors above 1,023
        poll.register(self.wake_r, select.POLLIN)
        due = {wait.socket.fileno(): wait for wait in self.waits.values() if wait.since}
        for descriptor in due:
            poll.register(descriptor, select.POLLIN)
        longest = self.block_s + LATE_S
        found = poll.poll(1000 * (longest if seconds is None else min(seconds, longest)))
        read = [due[ready].end() for ready, _ in found if ready != self.wake_r]
        if len(read) < len(found):
            self._answer_wake()
        if any(isinstance(reply, hiredis.ReplyError) for reply in read):
            self.sleep(RETRY_S)  # OOM: BLMOVE is a write. So step.lua is asked again and again
        self.open = [wait for wait in self.open if wait.since]
        oldest = min((wait.since for wait in due.values() if wait.since), default=time.monotonic())
        if oldest < time.monotonic() - longest:
            raise TimeoutError("an idle wait has lasted too long")

    def _answer_wake(self) -> None:
        if not os.read(self.wake_r, 4096):
            os._exit(1)  # the supervisor has ended
