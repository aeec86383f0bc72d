"""Commands: RQ's commands and signals to a worker, until the supervisor's loop handles them."""

from __future__ import annotations

import time
from collections import deque
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

import rq.command

from werk.log_format import Event

if TYPE_CHECKING:
    from werk.worker import Worker

QUIET_S = 1.0  # two signals within it count as one, as in RQ: pool and terminal both send
LONGEST_COMMAND = 4096  # bytes; RQ's have one or two ids
MOST_COMMANDS = 1000  # that wait for the supervisor


class Commands:
    """RQ's commands that wait for the supervisor."""

    def __init__(
        self, worker: Worker, wake: Callable[[], None], shut_down: Callable[[], None]
    ) -> None:
        self.worker, self.log, self.wake, self.shut_down = worker, worker.log, wake, shut_down
        self.waiting: deque[dict[str, Any]] = deque()

    def hear(self, message: dict[str, Any]) -> None:
        """Keep a command. Called in RQ's pubsub thread; only the main thread signals the horse."""
        if len(self.waiting) >= MOST_COMMANDS:
            return  # a flood, which was reported when it began
        try:
            self.waiting.append(parse_command(message))
            if len(self.waiting) == MOST_COMMANDS:
                raise ValueError(f"{MOST_COMMANDS} commands wait; others are dropped meanwhile")
        except ValueError as error:
            self.log.warning(Event("bad-command", worker=self.worker.name, reason=error))
        self.wake()

    def handle(self) -> None:
        for _ in range(len(self.waiting)):  # commands that arrive meanwhile wait for the next call
            command = self.waiting.popleft()
            try:
                if command["command"] == "shutdown":  # RQ's handler would stop all slots
                    self.shut_down()
                else:
                    rq.command.handle_command(self.worker, command)
            except (LookupError, TypeError) as error:
                name = self.worker.name
                self.log.warning(Event("bad-command", worker=name, reason=repr(error)))


class StopRequests:
    """Whether the worker was asked to leave: after its job, or at once."""

    def __init__(self) -> None:
        self.is_draining = self.is_cold = False
        self.drained_at = float("inf")  # a second signal may come before the first is noted
        self.is_undated = False  # a request to shut down is not yet in Redis
        self._idle_since: float | None = None

    def drain(self, is_busy: bool) -> None:
        """Leave when the horse has finished its job."""
        self.drained_at = time.monotonic()
        self.is_draining, self.is_undated = True, is_busy

    def stop_cold(self) -> None:
        """Leave without waiting for the job: it returns to the front of its queue."""
        if time.monotonic() >= self.drained_at + QUIET_S:
            self.is_cold = True

    def idle_s(self, is_busy: bool, clock: float) -> float:
        """Return how long the horse has been seen without a job; 0 if it has one, or may go on.

        A horse that has just ended a long job gets the same time to leave as one that was idle.
        """
        if is_busy or not self.is_draining:
            self._idle_since = None
            return 0.0
        self._idle_since = clock if self._idle_since is None else self._idle_since
        return clock - self._idle_since

    @property
    def is_leaving(self) -> bool:
        return self.is_draining or self.is_cold


def parse_command(message: dict[str, Any]) -> Any:
    """Return the command in a message on the worker's channel. Raises ValueError."""
    size = len(message["data"])
    if size > LONGEST_COMMAND:
        raise ValueError(f"a command has at most {LONGEST_COMMAND:,} bytes, got {size:,}")
    try:
        return rq.command.parse_payload(message)
    except RecursionError:
        raise ValueError("it is nested too deeply") from None
