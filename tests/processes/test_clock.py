"""Hosts whose clocks are wrong, beside others: what werk writes and compares is Redis's time.

A clock is wrong in a whole process: see shifted.py. That of Redis, and of the tests, is right.
"""

from __future__ import annotations

import json
import os
import re
import signal
import time
from collections.abc import Callable
from pathlib import Path

import pytest
import redis
import shifted
from rq import Queue, Repeat, Retry
from support import KIT, Process, run, wait_until
from workers import ENV, PATIENT, begun, ended, finished, go, horse, places, runs

import werk
from werk.dev.server import Server

Start = Callable[..., Process]
AHEAD = (-3600, -100, 100, 3600)


@pytest.fixture
def start(
    spawn: Start, connection: redis.Redis, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> Start:
    """Start a worker on a host whose clock is so many seconds ahead."""
    monkeypatch.setenv("WERK_REGISTRY", ENV["WERK_REGISTRY"])
    monkeypatch.syspath_prepend(KIT)

    def start_one(ahead_s: float, *arguments: str, env: dict[str, str] | None = None) -> Process:
        clock = shifted.env(tmp_path, ahead_s, KIT)
        process = spawn("rq", "worker", "default", *arguments, env={**ENV, **clock, **(env or {})})
        wait_until(lambda: horse(process) or process.poll() is not None)
        return process

    return start_one


def call(tmp_path: Path, ahead_s: float, *words: str) -> str:
    """Run a command on such a host, and return what it prints."""
    env = {**ENV, **shifted.env(tmp_path, ahead_s, KIT)}
    done = run(*words, env=env)
    assert done.returncode == 0, done.stderr
    return done.stdout.strip()


def start_and_clean(start: Start, connection: redis.Redis, ahead_s: float, **env: str) -> Process:
    """Start a worker, and wait for the clean-up that it begins with."""
    connection.zadd("rq:wip:default", {"decoy:x": 1})  # of no job
    worker = start(ahead_s, env=env)
    wait_until(lambda: connection.zscore("rq:wip:default", "decoy:x") is None)
    return worker


def due_in(connection: redis.Redis, job_id: str) -> float:
    """Return how many seconds from now a scheduled job is due; wait until it is scheduled."""
    score = wait_until(lambda: connection.zscore("rq:scheduled:default", job_id))
    return score - time.time()


# --- what runs


@pytest.mark.parametrize("env", [{"RQ_WORKER_CLASS": "fast_worker.Calm"}, PATIENT])
@pytest.mark.parametrize("ahead_s", AHEAD)
def test_a_clean_up_harms_no_job_that_runs(
    start: Start, connection: redis.Redis, tmp_path: Path, ahead_s: float, env: dict[str, str]
) -> None:
    job = werk.enqueue("block", str(tmp_path))
    start(0, env=env)
    begun(tmp_path)
    start_and_clean(start, connection, ahead_s, **env)
    theirs = werk.enqueue("block", str(tmp_path))
    begun(tmp_path, 2)
    start_and_clean(start, connection, 0, **env)
    start_and_clean(start, connection, ahead_s, **env)
    assert places(connection, job.id) == places(connection, theirs.id) == ["wip"]
    assert call(tmp_path, ahead_s, "werk", "repair") == ""
    go(tmp_path)
    finished(job), finished(theirs)
    assert len(runs(tmp_path, "begins")) == 2
    more = [werk.enqueue("note", str(tmp_path)) for _ in range(20)]
    for own in more:
        finished(own)
    start_and_clean(start, connection, ahead_s, **env)
    for own in (job, theirs, *more):
        assert places(connection, own.id) == ["finished"]


def test_jobs_run_again_after_an_outage_of_all_workers(
    start: Start, connection: redis.Redis, tmp_path: Path
) -> None:
    """It lasts for longer than RQ gives an execution: to its clean-up the job is abandoned."""
    job = werk.enqueue("block", str(tmp_path))
    worker = start(0)
    begun(tmp_path)
    os.killpg(worker.pid, signal.SIGKILL)  # its horse dies with it
    [run_id] = connection.zrange("rq:wip:default", 0, -1)
    connection.zadd("rq:wip:default", {run_id: time.time() - 1})
    connection.delete(b"rq:execution:" + run_id)
    start(0)
    begun(tmp_path, 2)
    go(tmp_path)
    finished(job)


@pytest.mark.parametrize("ahead_s", AHEAD)
@pytest.mark.parametrize("outcome", ["finished", "failed"])
def test_what_has_ended_is_kept_for_as_long_as_it_should_be(
    start: Start, connection: redis.Redis, tmp_path: Path, ahead_s: float, outcome: str
) -> None:
    start(ahead_s)
    options = werk.Options(result_ttl=500, failure_ttl=500)
    task = "note" if outcome == "finished" else "fail"
    job = werk.enqueue(task, str(tmp_path), options=options)
    ended(job, outcome)
    score = connection.zscore(f"rq:{outcome}:default", job.id)
    assert score == pytest.approx(time.time() + 500, abs=30)
    start_and_clean(start, connection, 0)
    assert places(connection, job.id) == [outcome]


# --- what is due


@pytest.mark.parametrize("ahead_s", [-90, 90])
def test_a_delay_begins_on_redis_clock(
    start: Start, connection: redis.Redis, tmp_path: Path, ahead_s: float
) -> None:
    words = ("werk-enqueue", "--delay", "1", "note", str(tmp_path))
    job_id = call(tmp_path, ahead_s, *words)
    assert -10 < due_in(connection, job_id) <= 2
    start(-ahead_s)
    wait_until(lambda: runs(tmp_path))
    words = ("werk-enqueue", "--delay", "30", "--front", "note", str(tmp_path))
    assert 20 < due_in(connection, call(tmp_path, ahead_s, *words)) <= 31
    at = werk.enqueue("note", str(tmp_path), options=werk.Options(delay=30))
    assert 20 < due_in(connection, at.id) <= 31


@pytest.mark.parametrize("ahead_s", [-100, 100])
def test_a_worker_moves_what_is_due_on_redis_clock(
    start: Start, connection: redis.Redis, tmp_path: Path, ahead_s: float
) -> None:
    later = werk.enqueue("note", str(tmp_path), options=werk.Options(delay=60))
    soon = werk.enqueue("note", str(tmp_path), options=werk.Options(delay=1))
    start(ahead_s)
    finished(soon)
    finished(werk.enqueue("note", str(tmp_path), options=werk.Options(delay=0.5)))
    assert later.status() == "scheduled"


@pytest.mark.parametrize("ahead_s", [-100, 100])
def test_retries_and_repeats_are_due_on_redis_clock(
    start: Start, connection: redis.Redis, tmp_path: Path, ahead_s: float
) -> None:
    queue = Queue(connection=connection)
    failing = queue.enqueue("worker_tasks.fail", str(tmp_path), retry=Retry(max=1, interval=30))
    asking = queue.enqueue("worker_tasks.later", str(tmp_path))
    again = queue.enqueue("worker_tasks.note", str(tmp_path), repeat=Repeat(times=1, interval=30))
    start(ahead_s)
    for job in (failing, asking, again):
        assert 15 < due_in(connection, job.id) <= 31


@pytest.mark.parametrize("ahead_s", [-90, 90])
def test_a_task_that_nobody_knows_is_deferred_for_ten_minutes(
    start: Start, connection: redis.Redis, tmp_path: Path, ahead_s: float
) -> None:
    job_id = call(tmp_path, ahead_s, "werk-enqueue", "note", str(tmp_path))
    key = f"rq:job:{job_id}"
    connection.hset(key, "werk_task", "newer")
    start(ahead_s * 100, "--burst")
    assert 0 < due_in(connection, job_id) <= 11
    since = float(connection.hget(key, "werk_unknown_since"))
    assert since == pytest.approx(time.time(), abs=10)
    start(-ahead_s)
    for age_s, status in ((595, "scheduled"), (605, "failed")):
        connection.hset(key, "werk_unknown_since", time.time() - age_s)
        connection.zadd("rq:scheduled:default", {job_id: 1})
        wait_until(lambda status=status: is_back(connection, job_id, status))
    assert not connection.hexists(key, "werk_unknown_since")  # a retry gets its ten minutes


def is_back(connection: redis.Redis, job_id: str, status: str) -> bool:
    score = connection.zscore("rq:scheduled:default", job_id)
    is_status = connection.hget(f"rq:job:{job_id}", "status") == status.encode()
    return is_status and (score or 2) > 1


# --- what is reported about it


@pytest.mark.parametrize(
    ("ahead_s", "said"), [(100, "100 s ahead of"), (-3600, "3600 s behind"), (2, "")]
)
def test_status_names_a_wrong_clock(
    start: Start, connection: redis.Redis, tmp_path: Path, ahead_s: float, said: str
) -> None:
    start(ahead_s, env=PATIENT)
    job = werk.enqueue("block", str(tmp_path))
    begun(tmp_path)
    name, near = wait_until(lambda: clocks(connection)), pytest.approx(ahead_s, abs=1)
    wait_until(lambda: float(connection.hget(name, "werk_clock") or 0) == near)
    status = json.loads(run("werk", "status", "--json").stdout)
    problems = [problem["what"] for problem in status["problems"]]
    assert problems == ([f"the clock of shifted is {said} Redis's"] if said else [])
    [worker] = status["workers"]
    assert worker["job"] == job.id and 0 <= worker["job_s"] < 20
    assert worker["clock_s"] == pytest.approx(ahead_s, abs=1)


def clocks(connection: redis.Redis) -> bytes:
    """Return the key of a worker whose clock is known."""
    keys = connection.smembers("rq:workers")
    return next((key for key in keys if connection.hget(key, "werk_clock")), b"")


def test_status_names_the_clock_of_a_plain_worker(connection: redis.Redis) -> None:
    facts = {"birth": "2026-01-01T00:00:00.000000Z", "hostname": "web1", "queues": "default"}
    beat = time.strftime("%Y-%m-%dT%H:%M:%S.000000Z", time.gmtime(time.time() + 100))
    connection.hset("rq:worker:w", mapping={**facts, "last_heartbeat": beat})
    connection.sadd("rq:workers", "rq:worker:w")
    said = run("werk", "status").stdout
    assert re.search(r"the clock of web1 is (100|9\d) s ahead of Redis's: synchronise it", said)


@pytest.mark.parametrize("ahead_s", [-3600, 3600])
def test_the_age_of_a_job_is_its_age(
    start: Start, connection: redis.Redis, tmp_path: Path, ahead_s: float
) -> None:
    by_caller = call(tmp_path, ahead_s, "werk-enqueue", "note", str(tmp_path))
    assert 0 < oldest_s() < 60
    asking = werk.enqueue("again", str(tmp_path))
    start(ahead_s)
    wait_until(lambda: len(runs(tmp_path)) == 3)  # the second time at once
    assert waits_since(connection, asking.id) == pytest.approx(time.time(), abs=30)
    call(tmp_path, ahead_s, "werk", "pause", "default")
    werk.enqueue("note", str(tmp_path), options=werk.Options(delay=0.1))
    wait_until(lambda: connection.llen("rq:queue:default"))  # a tick has moved it
    assert 0 <= oldest_s() < 60
    connection.delete("rq:queue:default")
    connection.zadd("rq:failed:default", {by_caller: "inf"})
    call(tmp_path, ahead_s, "werk", "retry", "--yes", by_caller)
    assert 0 <= oldest_s() < 60


@pytest.mark.parametrize("ahead_s", [-3600, 3600])
def test_a_job_that_runs_has_run_for_its_time(
    start: Start, connection: redis.Redis, tmp_path: Path, ahead_s: float
) -> None:
    start(ahead_s, env=PATIENT)
    job = werk.enqueue("block", str(tmp_path))
    begun(tmp_path)
    wait_until(lambda: clocks(connection))
    for reader_s in (0, ahead_s, -ahead_s):
        shown = call(tmp_path, reader_s, "werk", "show", job.id, "--json")
        assert 0 <= json.loads(shown)["duration"] < 60
    go(tmp_path)


def waits_since(connection: redis.Redis, job_id: str) -> float:
    enqueued_at, since = connection.hmget(f"rq:job:{job_id}", "enqueued_at", "werk_enqueued")
    written, _, moment = since.partition(b"|")
    assert written == enqueued_at
    return float(moment)


def oldest_s() -> float:
    status = json.loads(run("werk", "status", "--json").stdout)
    return float(status["queues"]["default"]["oldest_s"])


# --- outages in a row


def test_a_dead_workers_job_runs_again_though_redis_stalls_again_and_again(
    start: Start, server: Server, connection: redis.Redis, tmp_path: Path
) -> None:
    job = werk.enqueue("block", str(tmp_path))
    dead = start(0)
    begun(tmp_path)
    start(0)
    os.killpg(dead.pid, signal.SIGKILL)  # its horse dies with it
    for _ in range(12):
        if len(runs(tmp_path, "begins")) == 2:
            break
        stall(server, 0.8)
        after(0.9)
    begun(tmp_path, 2)
    go(tmp_path)
    finished(job)


def stall(server: Server, seconds: float) -> None:
    os.kill(server.pid, signal.SIGSTOP)
    try:
        after(seconds)
    finally:
        os.kill(server.pid, signal.SIGCONT)


def after(seconds: float) -> None:
    since = time.monotonic()
    wait_until(lambda: time.monotonic() > since + seconds)
