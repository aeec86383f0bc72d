"""Tasks that misuse their process: they fork, hold all descriptors, return what cannot be kept."""

from __future__ import annotations

from pathlib import Path

import pytest
import redis
from rq import Callback, Queue
from support import wait_until
from test_worker import Start, finished, places, runs, work
from test_worker import horse as horse_of

import werk

__all__ = ["work"]

MANY = 400


def next_job(folder: Path, within_s: float = 10) -> None:
    """Fail unless the worker runs one more job."""
    finished(werk.enqueue("note", str(folder), "next"), within_s)


# --- tasks that fork


@pytest.mark.parametrize("how", ["returns", "raises", "exits"])
def test_a_task_that_forks_stays_one_execution(
    work: Start, connection: redis.Redis, tmp_path: Path, how: str
) -> None:
    worker = work()
    horse = horse_of(worker)
    jobs = [werk.enqueue("fork", str(tmp_path), how) for _ in range(MANY)]
    for job in jobs:
        assert job.result(60) == how
    next_job(tmp_path)
    assert sorted(run[0] for run in runs(tmp_path, "ran")) == sorted(job.id for job in jobs)
    assert horse_of(worker) == horse
    assert "event=late" not in worker.output()
    assert not connection.exists("rq:wip:default")


def test_a_fork_that_raises_leaves_its_traceback(work: Start, tmp_path: Path) -> None:
    worker = work()
    finished(werk.enqueue("fork", str(tmp_path), "raises"))
    worker.terminate()
    assert worker.wait(10) == 0
    assert "ValueError: in the child" in worker.output()


def test_a_callback_that_forks_ends_its_job_once(
    work: Start, connection: redis.Redis, tmp_path: Path
) -> None:
    queue = Queue(connection=connection)
    called = [
        queue.enqueue(
            "worker_tasks.note",
            kwargs={"folder": str(tmp_path)},
            on_success=Callback("worker_tasks.fork_in_callback"),
        )
        for _ in range(20)
    ]
    worker = work()
    horse = horse_of(worker)
    wait_until(lambda: all(job.get_status() == "finished" for job in called), 30)
    for job in called:
        assert len(job.results()) == 1
        assert places(connection, job.id) == ["finished"]
    next_job(tmp_path)
    assert horse_of(worker) == horse
    assert len(runs(tmp_path, "ran")) == 2 * len(called)  # the task, and the callback
