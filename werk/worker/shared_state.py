"""What supervisor and horse share: a plan at the start, memory, and an exit code.

The shared memory works while Redis is unreachable, and outlives a killed horse.
"""

from __future__ import annotations

import ctypes
import mmap
import signal
import time
from enum import IntEnum
from typing import Any, NamedTuple

# To the horse, when a deadline has passed or it is to reconnect: it looks at the shared state. By
# default this signal does nothing, so a late one is harmless, whatever a job has made of it.
HORSE_SIGNAL = signal.SIGURG

LONGEST_RUN = 900  # bytes of "<job id>:<execution id>"
LONGEST_REASON = 300


class Leave(IntEnum):
    """Why a horse left of its own accord: its exit code. Any other is a crash."""

    EMPTY = 100  # --burst
    SUSPENDED = 101  # --burst
    STOPPED = 102
    MAX_JOBS = 103
    IDLE = 104  # --max-idle-time
    RECYCLED = 105  # a new horse takes over
    ORDERS_DONE = 106  # it was only there for them
    UNUSABLE = 107  # it cannot go on; the shared state has the reason


class Order(NamedTuple):
    """Fail this execution, whose horse is dead: for the next horse, as it may run users' code."""

    run: str
    reason: str
    is_stopped: bool = False  # on request: RQ's 'stopped' instead of 'failed'
    death: tuple[int, int, Any] | None = None  # of that horse: process id, wait status, resources
    is_raw: bool = False  # a horse has died of this order: no users' code this time
    is_recorded: bool = False  # its outcome is recorded, and its dependents are to be enqueued


class Plan(NamedTuple):
    """What a horse is for."""

    generation: str
    orders: tuple[Order, ...] = ()
    is_burst: bool = False
    max_jobs: int | None = None
    max_idle_s: float | None = None
    only_orders: bool = False


class Progress(NamedTuple):
    """The execution that the horse is running, and how far it has come."""

    deadline: float  # on the monotonic clock; 0: none
    jobs: int  # done by this horse
    run: str  # "<job id>:<execution id>", '' between jobs
    last: str  # the last execution id that it asked for

    @property
    def is_busy(self) -> bool:
        return bool(self.run)


class SharedState(ctypes.Structure):
    """The horse writes its progress here in one piece; the supervisor asks it to stop."""

    _fields_ = (
        ("stop", ctypes.c_ubyte),  # written by the supervisor
        ("offset", ctypes.c_double),  # by the supervisor: of Redis's clock from the monotonic one
        ("reconnect", ctypes.c_ubyte),  # set by the supervisor, cleared by the horse; see Watchdog
        # All else is written by the horse.
        ("finishing", ctypes.c_ubyte),  # RQ's own code records an outcome, or cleans up
        ("request", ctypes.c_uint64),  # the number of the request that waits for its reply, or 0
        ("cleaned_at", ctypes.c_double),  # RQ's clean-up last began; monotonic clock, 0: not yet
        ("orders_begun", ctypes.c_uint64),
        ("dropped", ctypes.c_uint64),  # log lines, by both; now and then one is not counted
        ("deadline", ctypes.c_double),  # of what runs, on the monotonic clock; 0: none
        ("_reason", ctypes.c_char * LONGEST_REASON),  # why the horse is UNUSABLE
        ("_state", ctypes.c_char * (LONGEST_RUN + 30)),  # jobs, execution and job as a text
    )
    stop: int
    reconnect: int
    finishing: int
    request: int
    offset: float
    cleaned_at: float
    orders_begun: int
    dropped: int
    deadline: float
    _reason: bytes
    _state: bytes
    _memory: mmap.mmap

    def __new__(cls) -> SharedState:
        memory = mmap.mmap(-1, ctypes.sizeof(cls))  # shared with a child
        shared = cls.from_buffer(memory)
        shared._memory = memory
        return shared

    def __init__(self) -> None:
        super().__init__()
        self.offset = time.time() - time.monotonic()  # until the first tick
        self.finish_s = 0.0  # how long a finish may make no progress; the horse's own

    def begin_horse(self) -> None:
        """Forget the horse before."""
        self.stop = self.reconnect = self.request = self.orders_begun = 0
        self.end_finish()
        self.show(0, "", "")

    def begin_finish(self, seconds: float) -> None:
        """Note that RQ's code records an outcome: `seconds` without progress are its limit."""
        self.finish_s, self.finishing = seconds, 1
        self.extend_finish()

    def extend_finish(self) -> None:
        """Note progress: a command has succeeded, or Redis is unreachable."""
        if self.finishing:
            self.deadline = time.monotonic() + self.finish_s

    def end_finish(self) -> None:
        self.finishing, self.deadline = 0, 0.0

    @property
    def reason(self) -> str:
        return self._reason.decode("utf-8", "replace")

    @reason.setter
    def reason(self, text: str) -> None:
        self._reason = text.encode("utf-8", "replace")[: LONGEST_REASON - 1]

    def now(self) -> float:
        """Return the Unix time on Redis's clock: for all that hosts compare, scores and due times.

        No change of this host's clock moves it.
        """
        return time.monotonic() + self.offset

    def learn(self, redis_time: float, asked_at: float) -> None:
        """Note that Redis's time was this between `asked_at` and now.

        The offset moves no farther than that proves: a slow reply spoils no good one.
        """
        earliest, latest = redis_time - time.monotonic(), redis_time - asked_at
        self.offset = min(max(self.offset, earliest), latest)

    def show(self, jobs: int, job_id: str, execution: str) -> None:
        """Publish what the horse runs: no job id, no job; the last execution it asked for."""
        self._state = f"{jobs} {execution}:{job_id}".encode()[:LONGEST_RUN]

    def progress(self) -> Progress:
        jobs, _, run = self._state.decode("utf-8", "replace").partition(" ")
        last, _, job_id = run.partition(":")
        number = int(jobs) if jobs.isdecimal() else 0
        return Progress(self.deadline, number, job_id and f"{job_id}:{last}", last)
