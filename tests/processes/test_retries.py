"""Retries: which errors use one, and what plain RQ workers make of it."""

from __future__ import annotations

from pathlib import Path

import pytest
import redis
from rq import Queue, Retry
from workers import Start, ended, runs

import werk

TABLE = {"WERK_REGISTRY": "retry_tasks:TASKS"}

# task, error, how often it runs
CALLS = [
    ("any", "Value", 2),
    ("shown", "JSONDecodeError", 2),
    ("shown", "Value", 1),
    ("defined", "JSONDecodeError", 2),
    ("built_in", "Reset", 2),
    ("built_in", "Value", 1),
    ("base", "Own", 2),
    ("base", "Inner", 2),
    ("nested", "Inner", 2),
    ("nested", "Own", 1),
]


@pytest.fixture(autouse=True)
def _table(work: Start, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("WERK_REGISTRY", TABLE["WERK_REGISTRY"])


def count(job: werk.Handle, folder: Path) -> int:
    return sum(line[0] == job.id for line in runs(folder, "ran"))


@pytest.mark.parametrize(
    "kind", ["fast_worker.Worker", "patched_classes.Around", "rq_loop.Worker", "rq.worker.Worker"]
)
def test_only_the_listed_errors_are_retried(
    work: Start, connection: redis.Redis, tmp_path: Path, kind: str
) -> None:
    """In werk's loop, in a frame and in RQ's loop. Plain RQ workers retry on everything."""
    jobs = [werk.enqueue(task, str(tmp_path), error) for task, error, _ in CALLS]
    worker = work("default", "--burst", env={**TABLE, "RQ_WORKER_CLASS": kind})
    assert worker.wait(60) == 0
    assert [job.status() for job in jobs] == ["failed"] * len(jobs)
    wanted = [2 if kind == "rq.worker.Worker" else times for *_, times in CALLS]
    assert [count(job, tmp_path) for job in jobs] == wanted


def test_a_job_of_plain_rq_is_known_by_its_path(
    work: Start, connection: redis.Redis, tmp_path: Path
) -> None:
    path, args = "retry_tasks.doze", (str(tmp_path), 0, "wrong")
    job = Queue(connection=connection).enqueue(path, args=args, retry=Retry(max=1))
    assert work("default", "--burst", env=TABLE).wait(60) == 0
    assert job.get_status() == "failed"  # at once: a TypeError is not listed
    assert connection.hget(job.key, "retries_left") == b"1"


def test_a_time_limit_is_an_error_and_a_crash_is_none(
    work: Start, connection: redis.Redis, tmp_path: Path
) -> None:
    """Also the limit that a task ignores until it is killed."""
    calls = {
        **{("doze_limit", 30.0): 2, ("doze_other", 30.0): 1},
        **{("swallow_limit",): 2, ("swallow_other",): 1},
        **{("poison_limit",): 1, ("poison_any",): 2},  # its max_crashes is 0
    }
    jobs = [werk.enqueue(name, str(tmp_path), *words) for name, *words in calls]
    work(env=TABLE)
    for job in jobs:
        ended(job, "failed")
    assert [count(job, tmp_path) for job in jobs] == [*calls.values()]
    assert connection.hget(f"rq:job:{jobs[1].id}", "retries_left") == b"1"  # for `werk retry`
