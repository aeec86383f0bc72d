"""The task of `bin/chaos`, which leaves its traces in a file outside Redis."""

from __future__ import annotations

import os
import time

from werk.registry import Task

BEAT_S = 0.02

# A job may be hit by several faults of a run; it is not the job that kills its workers.
TASKS = {"work": Task("chaos.tasks.work", max_crashes=1000)}


def work(token: str, seconds: float) -> str:
    """Run for so long and write a line every 20 ms."""
    trace = _Trace(token)
    end = time.monotonic() + seconds
    trace.write("start")
    while (left := end - time.monotonic()) > 0:
        time.sleep(min(BEAT_S, left))  # the job's own length, beat by beat: faults hit it meanwhile
        trace.write("beat")
    trace.write("end")
    return token


class _Trace:
    """One execution's lines: token, execution id, what, monotonic time, horse, supervisor."""

    def __init__(self, token: str) -> None:
        self.file = os.open(os.environ["CHAOS_TRACES"], os.O_WRONLY | os.O_APPEND)
        self.horse, self.supervisor = os.getpid(), os.getppid()
        self.head = f"{token} {self.horse}.{time.monotonic_ns()}"

    def write(self, what: str) -> None:
        line = f"{self.head} {what} {time.monotonic():.6f} {self.horse} {self.supervisor}\n"
        os.write(self.file, line.encode())  # one write, appended: a kill leaves no half of it

    def __del__(self) -> None:
        os.close(self.file)
