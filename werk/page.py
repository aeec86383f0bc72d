"""One page of memory that supervisor and horse share. It works while Redis is away, and outlives a killed horse."""

from __future__ import annotations

import mmap
from struct import Struct
from typing import NamedTuple

LONGEST_RUN = 900  # bytes of "<job id>:<execution id>"

_STOP = 0  # one byte, written by the supervisor
_CLEANED = Struct("<d")  # written by the horse, as all that follows
_CLEANED_AT = 8
_ORDERS = Struct("<Q")
_ORDERS_AT = 16
_DEADLINE = Struct("<d")
_STATE = Struct(f"<dQBH{LONGEST_RUN + 40}s")
_STATE_AT = 24


class State(NamedTuple):
    """What the horse is at."""

    deadline: float  # on the monotonic clock; 0: none
    jobs: int  # done by this horse
    is_busy: bool
    run: str  # "<job id>:<execution id>", '' between jobs
    last: str  # the last execution id that it asked for


class Page:
    """The page. The horse writes its state in one piece; the supervisor reads it, and asks it to stop."""

    def __init__(self) -> None:
        self._memory = mmap.mmap(-1, 4096)

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
