"""The tasks of `bin/bench`."""

from __future__ import annotations

import os
import time
from pathlib import Path

from werk.registry import Task

TASKS = {
    "noop": Task("bench.tasks.noop", result_ttl=500),
    "hold": Task("bench.tasks.hold"),
    "doze": Task("bench.tasks.doze", result_ttl=500),
}


def noop(number: int) -> int:
    """Return what it was given."""
    return number


def doze(number: int) -> int:
    """Wait for a second, as for the answer of another service."""
    time.sleep(1)  # the job itself
    return number


def hold(folder: str, token: str) -> None:
    """Write down when it began; the first time wait to be killed."""
    starts = Path(folder) / token
    is_first = not starts.exists()
    with starts.open("a") as file:
        file.write(f"{time.monotonic()} {os.getpid()} {os.getppid()}\n")
    if is_first:
        time.sleep(120)  # it is killed long before; and if not, it ends
