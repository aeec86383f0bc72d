"""Tasks and handlers of test_give_up.py. A handler leaves a line in the file GAVE_UP."""

from __future__ import annotations

import os
import time
from pathlib import Path

import fast_worker
import worker_tasks
from rq.job import Job

from werk import Task
from werk.worker import final_failures


class Hasty(fast_worker.Worker):
    """A worker whose handler has 1 s in place of 10 s, and which kills soon."""

    grace_s = 0.2
    handler_s = 1

    def work(self, *args: object, **kwargs: object) -> bool:
        final_failures.HANDLER_S = self.handler_s
        return super().work(*args, **kwargs)


class Calm(Hasty):
    """One whose horses may react late to a limit: the machine may be busy."""

    grace_s = 10.0


class Steady(Hasty):
    """One that a busy machine does not make look dead: then a handler would be called twice."""

    lease_s = 5.0
    handler_s = 60


class Gate(Hasty):
    """One whose handler has time for another worker's start."""

    grace_s = 2.0
    handler_s = 60


def gave_up(job: Job, reason: str, traceback: str) -> None:
    """Note the call: job, reason, process, queue, last line of the traceback."""
    last = (traceback.strip().splitlines() or [""])[-1]
    with open(os.environ["GAVE_UP"], "a") as file:
        file.write(f"{job.id}|{reason}|{os.getpid()}|{job.origin}|{last}\n")


async def gave_up_later(job: Job, reason: str, traceback: str) -> None:
    gave_up(job, reason, traceback)


def gate(job: Job, reason: str, traceback: str) -> None:
    """Note the call, and wait until the test lets go."""
    gave_up(job, reason, traceback)
    while not Path(os.environ["GAVE_UP"]).with_name("go").exists():
        time.sleep(0.005)  # between two looks: the gate is a file


def hangs(job: Job, reason: str, traceback: str) -> None:
    gave_up(job, reason, traceback)
    time.sleep(60)  # until the time limit


def is_deaf(job: Job, reason: str, traceback: str) -> None:
    """Hang, and take no notice of the time limit."""
    gave_up(job, reason, traceback)
    worker_tasks.swallow(str(Path(os.environ["GAVE_UP"]).parent))


def breaks(job: Job, reason: str, traceback: str) -> None:
    gave_up(job, reason, traceback)
    raise SystemExit("the mail server is down")


def fail_once(folder: str, name: str) -> str:
    """Raise at the first attempt."""
    mark = Path(folder) / f"tried-{name}"
    if not mark.exists():
        mark.touch()
        raise ValueError("as asked")
    return worker_tasks.note(folder)


not_callable = "text"

TASKS = {
    "fail": Task("worker_tasks.fail"),
    "fail_twice": Task("worker_tasks.fail", retry=1, retry_delay=0),
    "fail_other": Task("worker_tasks.fail", retry=3, retry_on=("KeyError",)),
    "fail_once": Task("give_up_tasks.fail_once", retry=1, retry_delay=0, max_crashes=100),
    "note": Task("worker_tasks.note", max_crashes=100),
    "broken": Task("worker_tasks.broken"),
    "block": Task("worker_tasks.block"),
    "doze": Task("worker_tasks.doze", timeout=1),
    "swallow": Task("worker_tasks.swallow", timeout=1, max_crashes=100),
    "poison": Task("worker_tasks.poison", max_crashes=0),
}
