"""Workers of tests, whose lease is 1 s, their horses, and the jobs that they run."""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path

import pytest
import redis
from rq.job import Job
from rq.results import Result
from support import KIT, PYTHONPATH, Process, children, wait_until

import werk

ENV = {
    "RQ_WORKER_CLASS": "fast_worker.Worker",
    "PYTHONPATH": PYTHONPATH,
    "WERK_REGISTRY": "werk.registry:TASKS,worker_tasks:TASKS",
}
# With production's lease of 15 s: for tests in which a slow machine must not cost a horse.
PATIENT = {"RQ_WORKER_CLASS": "werk.worker.Worker"}

Start = Callable[..., Process]


@pytest.fixture
def work(spawn: Start, connection: redis.Redis, monkeypatch: pytest.MonkeyPatch) -> Start:
    """Start `rq worker` with our class, and wait until it is there: work("default", "--burst")."""
    monkeypatch.setenv("WERK_REGISTRY", ENV["WERK_REGISTRY"])
    monkeypatch.syspath_prepend(KIT)

    def start(*arguments: str, env: dict[str, str] | None = None) -> Process:
        process = spawn("rq", "worker", *(arguments or ("default",)), env={**ENV, **(env or {})})
        wait_until(lambda: horse(process) or process.poll() is not None)
        return process

    return start


def horse(worker: Process) -> int:
    """Return its process id: of the child that leads a group of its own."""
    return next((pid for pid in children(worker.pid) if leads_group(pid)), 0)


def leads_group(pid: int) -> bool:
    try:
        return os.getpgid(pid) == pid
    except ProcessLookupError:
        return False


def runs(folder: Path, word: str = "") -> list[list[str]]:
    file = folder / "runs"
    # A line that crosses a page of the file can be read before its second half is there.
    whole = file.read_text().rpartition("\n")[0] if file.exists() else ""
    lines = map(str.split, whole.splitlines())
    return [line for line in lines if line[3] == word or not word]


def begun(folder: Path, count: int = 1) -> list[list[str]]:
    return wait_until(lambda: (found := runs(folder, "begins"))[count - 1 :] and found)


def go(folder: Path) -> None:
    (folder / "go").touch()


def finished(job: werk.Handle, timeout: float = 60) -> Job:
    return ended(job, "finished", timeout)


def ended(job: werk.Handle, status: str, timeout: float = 60) -> Job:
    wait_until(lambda: job.status() == status, timeout)
    return job.job


def reason(job: Job) -> str:
    result = job.latest_result()
    assert result is not None
    return result.exc_string or ""


def outcomes(job: Job) -> list[str]:
    """Return how its executions ended, without those after which it ran again."""
    results = (result.type for result in job.results())
    return [kind.name for kind in results if kind is not Result.Type.RETRIED]


def places(connection: redis.Redis, job_id: str, queue: str = "default") -> list[str]:
    """Where a job is: exactly one, always."""
    found = ["queue"] * [i.decode() for i in connection.lrange(f"rq:queue:{queue}", 0, -1)].count(
        job_id
    )
    for name in ("finished", "failed", "scheduled", "deferred", "canceled"):
        found += [name] * (connection.zscore(f"rq:{name}:{queue}", job_id) is not None)
    wip = connection.zrange(f"rq:wip:{queue}", 0, -1)
    return found + ["wip"] * [i.decode().partition(":")[0] for i in wip].count(job_id)


def crash_count(connection: redis.Redis, job: werk.Handle) -> int:
    return int((connection.hget(f"rq:job:{job.id}", "werk_crashes") or b"|0").rpartition(b"|")[2])


def own_key(connection: redis.Redis) -> str:
    return str(wait_until(lambda: connection.srandmember("rq:workers")).decode())
