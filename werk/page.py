"""What supervisor and horse say to each other: a plan at the start, a page of memory, an exit code.

Page and tally work while Redis is away, and outlive a killed horse.
"""

from __future__ import annotations

import mmap
from enum import IntEnum
from struct import Struct
from typing import Any, NamedTuple

from werk.tally import Tally

LONGEST_RUN = 900  # bytes of "<job id>:<execution id>"

_STOP = 0  # one byte, written by the supervisor
_CLEANED = Struct("<d")  # written by the horse, as all that follows
_CLEANED_AT = 8
_ORDERS = Struct("<Q")
_ORDERS_AT = 16
_DEADLINE = Struct("<d")
_STATE = Struct(f"<dQBH{LONGEST_RUN + 40}s")  # begins with the deadline
_STATE_AT = 24


class Leave(IntEnum):
    """Why a horse left of its own accord: its exit code. Any other is a crash."""

    EMPTY = 100  # --burst
    SUSPENDED = 101  # --burst
    STOPPED = 102
    MAX_JOBS = 103
    IDLE = 104  # --max-idle-time
    RECYCLED = 105  # a new horse takes over
    OBEYED = 106  # it was only there for orders


class Order(NamedTuple):
    """Fail this execution, whose horse is dead: for the next horse, as it may run users' code."""

    run: str
    reason: str
    is_stopped: bool = False  # on request: RQ's 'stopped' instead of 'failed'
    death: tuple[int, int, Any] | None = None  # of that horse: process id, wait status, resources
    is_raw: bool = False  # a horse has died of this order: no users' code this time


class Plan(NamedTuple):
    """What a horse is for."""

    generation: str
    orders: tuple[Order, ...] = ()
    is_burst: bool = False
    max_jobs: int | None = None
    max_idle_s: float | None = None
    only_orders: bool = False


class State(NamedTuple):
    """What the horse is at."""

    deadline: float  # on the monotonic clock; 0: none
    jobs: int  # done by this horse
    is_busy: bool
    run: str  # "<job id>:<execution id>", '' between jobs
    last: str  # the last execution id that it asked for


class Page:
    """The page. The horse writes its state in one piece; the supervisor asks it to stop."""

    def __init__(self) -> None:
        self._memory = mmap.mmap(-1, 4096)
        self.tally = Tally()
        self.is_finishing = False  # RQ's own finish is at work; the horse's own

    @property
    def stop(self) -> int:
        return self._memory[_STOP]

    @stop.setter
    def stop(self, value: int) -> None:
        self._memory[_STOP] = value

    def show(self, deadline: float, jobs: int, is_busy: bool, run: str, last: str) -> None:
        text = f"{run} {last}".encode()
        _STATE.pack_into(self._memory, _STATE_AT, deadline, jobs, is_busy, len(text), text)

    def state(self) -> State:
        deadline, jobs, is_busy, length, text = _STATE.unpack_from(self._memory, _STATE_AT)
        run, _, last = text[:length].decode("utf-8", "replace").rpartition(" ")
        return State(deadline, jobs, bool(is_busy), run, last)

    @property
    def deadline(self) -> float:
        return float(_DEADLINE.unpack_from(self._memory, _STATE_AT)[0])

    @deadline.setter
    def deadline(self, moment: float) -> None:
        _DEADLINE.pack_into(self._memory, _STATE_AT, moment)

    @property
    def orders_begun(self) -> int:
        return int(_ORDERS.unpack_from(self._memory, _ORDERS_AT)[0])

    @orders_begun.setter
    def orders_begun(self, count: int) -> None:
        _ORDERS.pack_into(self._memory, _ORDERS_AT, count)

    @property
    def cleaned_at(self) -> float:
        """When RQ's clean-up last began, on the monotonic clock; 0: not yet."""
        return float(_CLEANED.unpack_from(self._memory, _CLEANED_AT)[0])

    @cleaned_at.setter
    def cleaned_at(self, moment: float) -> None:
        _CLEANED.pack_into(self._memory, _CLEANED_AT, moment)
