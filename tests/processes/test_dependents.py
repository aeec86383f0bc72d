"""Many dependents of one job: each runs once, even if workers die meanwhile."""

from __future__ import annotations

import os
import signal
import time
from collections import Counter
from collections.abc import Callable
from pathlib import Path

import pytest
import redis
from faults import holding
from rq import Queue
from rq.job import Dependency, Job, JobStatus
from rq.registry import FailedJobRegistry, ReadyJobRegistry
from support import wait_until
from workers import Start, finished, horse, places, runs

import werk

MANY = 2000
SOON_S = 85  # RQ's clean-up would help after 90

# Copies of one dependent, as RQ registers it: to enqueue each of them takes RQ some milliseconds.
COPY = """
local parent, model = ARGV[1], ARGV[2]
for number = 2, tonumber(ARGV[3]) do
  local id = 'd' .. number
  redis.call('COPY', 'rq:job:' .. model, 'rq:job:' .. id)
  redis.call('SADD', 'rq:job::' .. id .. ':dependencies', parent)
  redis.call('SADD', 'rq:job:' .. parent .. ':dependents', id)
  redis.call('ZADD', 'rq:deferred:default', redis.call('ZSCORE', 'rq:deferred:default', model), id)
end"""


@pytest.fixture
def enqueue(connection: redis.Redis, tmp_path: Path) -> Callable[[int], Job]:
    """Enqueue a job with so many dependents."""

    def start(count: int) -> Job:
        queue = Queue(connection=connection)
        parent = queue.enqueue("worker_tasks.note", str(tmp_path), "parent", job_id="parent")
        model = queue.enqueue("worker_tasks.note", str(tmp_path), depends_on=parent, job_id="d1")
        connection.eval(COPY, 0, parent.id, model.id, count)
        return parent

    return start


def have_run(folder: Path, count: int) -> Callable[[], bool]:
    """Return whether so many dependents have begun."""
    return lambda: len(runs(folder, "ran")) >= count


def in_ready(connection: redis.Redis) -> int:
    return connection.zcard("rq:ready:default")


@pytest.mark.parametrize("is_killed", [False, True])
def test_each_of_many_dependents_runs_once(
    work: Start,
    enqueue: Callable[[int], Job],
    connection: redis.Redis,
    tmp_path: Path,
    is_killed: bool,
) -> None:
    parent = enqueue(MANY)
    begun_at = time.monotonic()
    worker = work()
    if is_killed:
        wait_until(lambda: 0 < in_ready(connection) < MANY, SOON_S, pause_s=0.001)
        os.kill(horse(worker), signal.SIGKILL)
        assert in_ready(connection)  # so it was in the middle
    wait_until(have_run(tmp_path, MANY), SOON_S, pause_s=0.1)
    assert time.monotonic() < begun_at + SOON_S
    wait_until(lambda: connection.zcard("rq:finished:default") == MANY + 1)
    counts = Counter(line[0] for line in runs(tmp_path))
    assert counts == dict.fromkeys(["parent", *(f"d{number + 1}" for number in range(MANY))], 1)
    assert parent.get_status() == JobStatus.FINISHED
    assert not connection.exists("rq:ready:default", "rq:deferred:default", "rq:wip:default")
    wait_until(lambda: not connection.exists("rq:werk:ready"))


def test_dependents_of_a_failure_run_though_its_horse_dies_after_the_commit(
    work: Start, connection: redis.Redis, tmp_path: Path
) -> None:
    queue = Queue(connection=connection)
    parent = queue.create_job("worker_tasks.fail", (str(tmp_path),), job_id="parent")
    parent.save()
    whenever = Dependency([parent], allow_failure=True)
    jobs = [
        queue.enqueue("worker_tasks.note", str(tmp_path), depends_on=whenever) for _ in range(2000)
    ]
    worker = work()
    finished(werk.enqueue("note", str(tmp_path), "first"))
    queue.enqueue_job(parent)
    wait_until(lambda: connection.exists("rq:werk:committed"), pause_s=0.0005)
    os.kill(horse(worker), signal.SIGKILL)
    assert connection.scard("rq:job:parent:dependents") or in_ready(connection)  # in the middle
    wait_until(have_run(tmp_path, 1 + len(jobs)), SOON_S)
    wait_until(lambda: all(job.get_status() == JobStatus.FINISHED for job in jobs))
    assert Counter(line[0] for line in runs(tmp_path, "ran")) == dict.fromkeys(
        ["parent", *(job.id for job in jobs)], 1
    )
    wait_until(lambda: not connection.exists("rq:werk:committed"))
    assert not connection.exists("rq:deferred:default", "rq:ready:default", "rq:wip:default")


@pytest.mark.parametrize("task", ["fail", "poison"])  # a crash: the next horse fails the job
def test_dependents_of_a_failure_run_that_rq_could_not_record(
    work: Start, connection: redis.Redis, tmp_path: Path, task: str
) -> None:
    """A key is of another type, so step.lua records the failure."""
    queue = Queue(connection=connection)
    parent = queue.enqueue(f"worker_tasks.{task}", str(tmp_path), job_id="parent")
    whenever = Dependency([parent], allow_failure=True)
    child = queue.enqueue("worker_tasks.note", str(tmp_path), depends_on=whenever)
    connection.set("rq:results:parent", "something else's")
    work()
    wait_until(lambda: places(connection, "parent") == ["failed"])
    wait_until(lambda: child.get_status() == JobStatus.FINISHED)
    wait_until(lambda: not connection.exists("rq:werk:committed"))


def test_dependents_run_though_the_horse_that_enqueues_them_for_another_dies(
    work: Start, connection: redis.Redis, redis_url: str, tmp_path: Path
) -> None:
    queue = Queue(connection=connection)
    parent = queue.create_job("worker_tasks.fail", (str(tmp_path),), job_id="parent")
    parent.save()
    whenever = Dependency([parent], allow_failure=True)
    child = queue.enqueue("worker_tasks.note", str(tmp_path), depends_on=whenever)
    parent.set_status(JobStatus.FAILED)
    FailedJobRegistry(connection=connection).add(parent, ttl=1000)
    connection.zadd("rq:werk:committed", {"parent:execution gone-worker": 0})
    with holding(redis_url, b"HGETALL\r\n$13\r\nrq:job:parent") as holder:
        holder.is_on = True
        worker = work(env={"RQ_REDIS_URL": holder.url})
        assert holder.held.wait(60)
        os.kill(horse(worker), signal.SIGKILL)
        holder.let_go.set()
        wait_until(lambda: child.get_status() == JobStatus.FINISHED)
        wait_until(lambda: not connection.exists("rq:werk:committed"))
        assert "incomplete" in worker.output()


def test_a_dependent_of_a_queue_that_nobody_serves_waits_there(
    work: Start, connection: redis.Redis, tmp_path: Path
) -> None:
    other = Queue("other", connection=connection)
    job = other.enqueue("worker_tasks.note", str(tmp_path), job_id="left")
    connection.lrem(other.key, 1, job.id)
    job.set_status(JobStatus.READY_TO_ENQUEUE)
    ReadyJobRegistry("other", connection).add(job)
    work()
    finished(werk.enqueue("note", str(tmp_path)))
    assert connection.zscore("rq:ready:other", "left") is not None
    work("other")
    wait_until(lambda: job.get_status() == JobStatus.FINISHED)
    assert places(connection, "left", "other") == ["finished"]


def test_rq_may_enqueue_the_same_dependents_meanwhile(
    connection: redis.Redis, work: Start, tmp_path: Path
) -> None:
    """Its horse is slow, but alive: the jobs that it has read are moved before it comes to them."""
    queue = Queue(connection=connection)
    ready = queue.ready_job_registry
    jobs = [
        queue.enqueue("worker_tasks.note", str(tmp_path), job_id=f"j{number}")
        for number in range(200)
    ]
    for job in jobs:
        connection.lrem(queue.key, 1, job.id)
        job.set_status(JobStatus.READY_TO_ENQUEUE)
        ready.add(job)
    worker = work()
    wait_until(lambda: connection.exists("rq:werk:ready") or not in_ready(connection))
    while in_ready(connection):
        ready.enqueue_jobs([job.id for job in jobs])
    wait_until(have_run(tmp_path, 200))
    assert Counter(line[0] for line in runs(tmp_path)) == {job.id: 1 for job in jobs}
    worker.terminate()
    assert worker.wait(60) == 0
    assert queue.count == 0
