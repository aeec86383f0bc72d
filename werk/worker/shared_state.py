"""What supervisor and horse share: a plan at the start, and memory.

The shared memory works while Redis is unreachable, and outlives a killed horse.
"""

from __future__ import annotations

import ctypes
import json
import mmap
import signal
import time
from enum import IntEnum
from typing import Any, NamedTuple

# Sent to the horse when a deadline has passed or it has to reconnect: it reads the shared state.
# By default this signal does nothing, so a late one is harmless even if a job has reset it.
HORSE_SIGNAL = signal.SIGURG

LONGEST_RUN = 900  # bytes of "<job id>:<execution id>"
LONGEST_REASON = 300
LONGEST_FOUND = 64 * 1024


class Leave(IntEnum):
    """Why a horse leaves of its own accord, also if it dies on the way. It is its exit code too."""

    EMPTY = 100  # --burst
    SUSPENDED = 101  # --burst
    STOPPED = 102
    MAX_JOBS = 103
    IDLE = 104  # --max-idle-time
    RECYCLED = 105  # a new horse takes over
    ORDERS_DONE = 106  # it was started only for orders
    UNUSABLE = 107  # it cannot continue; the shared state has the reason
    UNPREPARED = 108  # WERK_PRELOAD, WERK_MIDDLEWARE or WERK_ON_GIVE_UP cannot be imported


class Order(NamedTuple):
    """Fail this execution, whose horse is dead. The next horse does it: it may run user code."""

    run: str
    reason: str
    is_stopped: bool = False  # on request: RQ's 'stopped' instead of 'failed'
    death: tuple[int, int, Any] | None = None  # of that horse: process id, wait status, resources
    is_raw: bool = False  # a horse has died of this order: run no user code this time
    is_recorded: bool = False  # its outcome is recorded, and its dependents are to be enqueued


class Plan(NamedTuple):
    """What a horse has to do."""

    generation: str
    orders: tuple[Order, ...] = ()
    is_burst: bool = False
    max_jobs: int | None = None
    max_idle_s: float | None = None
    only_orders: bool = False
    share: float = 1.0  # of WERK_HORSE_JOBS, after which a horse is replaced


class Progress(NamedTuple):
    """The execution that the horse is running, and how far it has come."""

    deadline: float  # on the monotonic clock; 0: none
    jobs: int  # done by this horse
    run: str  # "<job id>:<execution id>", '' between jobs
    last: str  # the execution id of its last request

    @property
    def is_busy(self) -> bool:
        return bool(self.run)


class Watched:
    """The context in which the supervisor watches the horse's commands. See forks.alone."""

    def __init__(self, shared: SharedState, seconds: float) -> None:
        self.shared, self.seconds = shared, seconds

    def __enter__(self) -> None:
        self.shared.begin_finish(self.seconds)

    def __exit__(self, *error: object) -> None:
        self.shared.end_finish()


class SharedState(ctypes.Structure):
    """The horse writes its progress here in one piece; the supervisor asks it to stop."""

    _fields_ = (
        ("stop", ctypes.c_ubyte),  # written by the supervisor
        ("offset", ctypes.c_double),  # by the supervisor: from the monotonic clock to Redis's
        ("reconnect", ctypes.c_ubyte),  # set by the supervisor, cleared by the horse; see Watchdog
        # The horse writes the rest; the supervisor resets it while no horse runs.
        ("finishing", ctypes.c_ubyte),  # RQ's own code records an outcome, or cleans up
        ("leave", ctypes.c_ubyte),  # why the horse leaves (Leave), or 0
        ("request", ctypes.c_uint64),  # the number of the request that waits for a reply, or 0
        ("cleaned_at", ctypes.c_double),  # RQ's clean-up last began; monotonic clock, 0: not yet
        ("orders_begun", ctypes.c_uint64),
        ("dropped", ctypes.c_uint64),  # log lines, by both; now and then one is not counted
        ("deadline", ctypes.c_double),  # of the running code, on the monotonic clock; 0: none
        ("_reason", ctypes.c_char * LONGEST_REASON),  # why the horse is UNUSABLE
        ("_found", ctypes.c_char * LONGEST_FOUND),  # pages of tasks, in JSON; see imported.py
        ("_state", ctypes.c_char * (LONGEST_RUN + 30)),  # jobs, execution and job as a text
    )
    stop: int
    reconnect: int
    finishing: int
    leave: int
    request: int
    offset: float
    cleaned_at: float
    orders_begun: int
    dropped: int
    deadline: float
    _reason: bytes
    _found: bytes
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
        """Forget the previous horse."""
        self.stop = self.reconnect = self.leave = self.request = self.orders_begun = 0
        self.reason = ""
        self.end_finish()
        self.show(0, "", "")

    def begin_finish(self, seconds: float) -> None:
        """Note that RQ's code records an outcome; it may go `seconds` without progress."""
        self.finish_s, self.finishing = seconds, 1
        self.extend_finish()

    def extend_finish(self) -> None:
        """Note progress: a command has succeeded, or Redis is unreachable."""
        if self.finishing:
            self.deadline = time.monotonic() + self.finish_s

    def end_finish(self) -> None:
        self.finishing, self.deadline = 0, 0.0

    def watched(self, seconds: float) -> Watched:
        """Have the supervisor watch our commands to Redis, as those of RQ's own code."""
        return Watched(self, seconds)

    @property
    def reason(self) -> str:
        return self._reason.decode("utf-8", "replace")

    @reason.setter
    def reason(self, text: str) -> None:
        self._reason = text.encode("utf-8", "replace")[: LONGEST_REASON - 1]

    @property
    def found(self) -> dict[str, str]:
        """The pages of tasks that do not take the parameters in their source, by name."""
        try:
            return dict(json.loads(self._found or b"{}"))
        except ValueError:  # the horse is writing it
            return {}

    def add_found(self, name: str, page: str) -> None:
        text = json.dumps({**self.found, name: page}).encode()
        if len(text) < LONGEST_FOUND:
            self._found = text

    def now(self) -> float:
        """Return the Unix time on Redis's clock, for scores, due times and all that hosts compare.

        A change of this host's clock does not affect it.
        """
        return time.monotonic() + self.offset

    def learn(self, redis_time: float, asked_at: float) -> None:
        """Note that Redis's time was `redis_time` at some moment between `asked_at` and now.

        The offset moves only as far as this proves, so a slow reply does not spoil a good offset.
        """
        earliest, latest = redis_time - time.monotonic(), redis_time - asked_at
        self.offset = min(max(self.offset, earliest), latest)

    def show(self, jobs: int, job_id: str, execution: str) -> None:
        """Publish what the horse runs (no job if `job_id` is empty) and its last execution id."""
        self._state = f"{jobs} {execution}:{job_id}".encode()[:LONGEST_RUN]

    def progress(self) -> Progress:
        jobs, _, run = self._state.decode("utf-8", "replace").partition(" ")
        last, _, job_id = run.partition(":")
        number = int(jobs) if jobs.isdecimal() else 0
        return Progress(self.deadline, number, job_id and f"{job_id}:{last}", last)
