"""Workers with several slots, and the jobs that occupy them."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple

import pytest
import redis
from support import Process, children, wait_until
from workers import ENV, Start, begun, go, leads_group, runs

import werk

REGISTRY = f"{ENV['WERK_REGISTRY']},slot_tasks:TASKS"
SLOTS = 3

Slots = Callable[..., Process]


@pytest.fixture
def slots(work: Start, monkeypatch: pytest.MonkeyPatch) -> Slots:
    """Start a worker with slots, and wait until each has a horse: slots("default", count=3).

    Without `waits`, for slots that may end before the last one begins.
    """
    monkeypatch.setenv("WERK_REGISTRY", REGISTRY)

    def start(
        *arguments: str, count: int = SLOTS, waits: bool = True, env: dict[str, str] | None = None
    ) -> Process:
        given = {"WERK_CONCURRENCY": str(count), "WERK_REGISTRY": REGISTRY, **(env or {})}
        worker = work(*arguments, env=given)
        if waits:
            wait_until(lambda: len(horses(worker)) == count or worker.poll() is not None)
        return worker

    return start


def horses(worker: Process) -> list[int]:
    """Return the process ids of its horses: of the children that lead a group of their own."""
    return [pid for pid in children(worker.pid) if leads_group(pid)]


class Busy(NamedTuple):
    """A slot with a job, which runs until the test lets go of it."""

    job: werk.Handle
    folder: Path
    pid: int

    @property
    def slot(self) -> str:
        """The name of the slot, as of a worker of RQ."""
        return str(self.job.job.worker_name)

    def let_go(self) -> None:
        go(self.folder)

    def begun(self, count: int) -> int:
        """Wait until the job has begun so often. Return the process id of its horse."""
        return int(begun(self.folder, count)[count - 1][1])

    def is_undisturbed(self) -> bool:
        """Return whether the job runs since the test began it, or ended so."""
        return [line[1] for line in runs(self.folder, "begins")] == [str(self.pid)]


def occupied(folder: Path, count: int = SLOTS, task: str = "block") -> list[Busy]:
    """Give a job to each slot. Return them in the order of the names of the slots."""
    folders = [folder / f"{task}-{number}" for number in range(count)]
    for own in folders:
        own.mkdir(parents=True)
    jobs = [werk.enqueue(task, str(own)) for own in folders]
    found = [Busy(job, own, int(begun(own)[0][1])) for job, own in zip(jobs, folders, strict=True)]
    return sorted(found, key=lambda busy: busy.slot)


def names(connection: redis.Redis) -> list[str]:
    """Return the workers that RQ knows, in order."""
    known = connection.smembers("rq:workers")
    return sorted(key.decode().removeprefix("rq:worker:") for key in known)


def attempt(connection: redis.Redis, job: werk.Handle) -> int:
    """Return the number of a job's latest execution."""
    return int(connection.hget(f"rq:job:{job.id}", "werk_attempt") or 0)
