"""Tasks that get the slot that they run in into trouble. See worker_tasks.py for the others."""

from __future__ import annotations

import os
import resource
import time
from pathlib import Path

from worker_tasks import HELD, block, note

from werk import Task

DESCRIPTORS = 256
LEFT_S = 60  # how long a process that a job leaves behind lives, if the test does not end it


def exit_at_once(folder: str, code: int) -> None:
    """End the process of the horse, without a word."""
    note(folder)
    os._exit(code)


def leak_descriptors(folder: str) -> None:
    """Leave no descriptor free."""
    note(folder)
    resource.setrlimit(resource.RLIMIT_NOFILE, (DESCRIPTORS, DESCRIPTORS))
    try:
        while True:
            HELD.append(os.dup(0))
    except OSError:
        pass


def leak_memory(folder: str, mib: int) -> None:
    """Keep that much memory."""
    note(folder)
    HELD.append(b"x" * (mib << 20))  # type: ignore[arg-type]


def leave_a_process(folder: str) -> str:
    """Leave a process that is in no group of the horse's, and block."""
    if os.fork() == 0:
        os.setsid()
        end = time.monotonic() + LEFT_S
        while time.monotonic() < end and not (Path(folder) / "go").exists():
            time.sleep(0.02)  # until the test ends
        os._exit(0)
    return block(folder)


_PATH = "slot_tasks."
TASKS = {name: Task(_PATH + name) for name in ("leak_descriptors", "leak_memory")} | {
    "exit_at_once": Task(_PATH + "exit_at_once", max_crashes=2),
    "leave_a_process": Task(_PATH + "leave_a_process"),
}
