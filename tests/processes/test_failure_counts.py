"""The counts of failures by task, error and hour: each final failure is counted once."""

from __future__ import annotations

import time
from contextlib import closing
from pathlib import Path
from typing import Any

import pytest
import redis
from rq import Callback, Queue
from rq.command import send_stop_job_command
from support import is_safe, wait_until
from workers import Start, begun, ended, finished

import werk
from werk.ops import failure_counts
from werk.ops.failure_counts import Group
from werk.store.connection import link_over

ENV = {"WERK_REGISTRY": "give_up_tasks:TASKS", "RQ_WORKER_CLASS": "give_up_tasks.Hasty"}
AS_ASKED = "ValueError: as asked"


def counts(connection: redis.Redis, hours: int = 1) -> list[Group]:
    with closing(link_over(connection)) as link:
        return failure_counts.read(link, hours)


@pytest.fixture
def start(work: Start, monkeypatch: pytest.MonkeyPatch) -> Start:
    monkeypatch.setenv("WERK_REGISTRY", ENV["WERK_REGISTRY"])
    return lambda *words, **env: work(*words, env={**ENV, **env})


def test_each_final_failure_is_counted_once(
    start: Start, connection: redis.Redis, tmp_path: Path
) -> None:
    folder, queue = str(tmp_path), Queue(connection=connection)
    unknown = werk.enqueue("note", folder)
    facts: dict[Any, Any] = {"werk_task": "newer", "werk_unknown_since": time.time() - 601}
    connection.hset(f"rq:job:{unknown.id}", mapping=facts)
    wanted: dict[tuple[str, str], list[str]] = {}
    for _ in range(2):
        for key, job_id in {
            ("os.getcwd", "Refused: '"): queue.enqueue("os.getcwd").id,
            ("worker_tasks.note", "RuntimeError: a broken callback"): queue.enqueue(
                "worker_tasks.note", folder, on_success=Callback("worker_tasks.broken")
            ).id,
            ("fail", AS_ASKED): werk.enqueue("fail", folder).id,
            ("fail_twice", AS_ASKED): werk.enqueue("fail_twice", folder).id,
            ("doze", "rq.timeouts.JobTimeoutException"): werk.enqueue("doze", folder, 60.0).id,
            ("swallow", "rq.timeouts.JobTimeoutException"): werk.enqueue("swallow", folder).id,
            ("poison", "Work-horse terminated"): werk.enqueue("poison", folder).id,
        }.items():
            wanted.setdefault(key, []).append(job_id)
    start()
    wait_until(lambda: connection.zcard("rq:failed:default") == 15)
    found = counts(connection)
    assert sum(group.jobs for group in found) == 15
    for (task, error), ids in wanted.items():
        groups = [own for own in found if own.task == task and own.error.startswith(error)]
        # Jobs that ran out of time are two groups if the horse of one was killed.
        assert sum(own.jobs for own in groups) == 2
        assert {own.job for own in groups} <= {*ids}
        assert all(abs(own.last - time.time()) < 300 for own in groups)
    (group,) = [own for own in found if own.task == "newer"]
    assert (group.jobs, group.job) == (1, unknown.id)


def test_numbers_make_no_difference(start: Start, connection: redis.Redis) -> None:
    for number in (1, 20, 300):
        Queue(connection=connection).enqueue(f"shop.jobs.order_{number}")
    start()
    wait_until(lambda: connection.zcard("rq:failed:default") == 3)
    assert {(own.error.count("order_#"), own.jobs) for own in counts(connection)} == {(1, 1)}


def test_other_ends_are_not_counted(start: Start, connection: redis.Redis, tmp_path: Path) -> None:
    start()
    finished(werk.enqueue("note", str(tmp_path)))
    finished(werk.enqueue("fail_once", str(tmp_path), "1"))
    stopped = werk.enqueue("block", str(tmp_path))
    begun(tmp_path)
    send_stop_job_command(connection, stopped.id)
    ended(stopped, "stopped")
    assert counts(connection) == []


def test_a_failure_that_rqs_code_cannot_record_is_counted(
    start: Start, connection: redis.Redis, tmp_path: Path
) -> None:
    job = werk.enqueue("fail", str(tmp_path))
    connection.hset(f"rq:job:{job.id}", "created_at", "never")
    start()
    wait_until(lambda: connection.zscore("rq:failed:default", job.id))
    (group,) = counts(connection)
    assert (group.task, group.jobs, group.job) == ("fail", 1, job.id)


def test_what_rqs_clean_up_fails_is_counted(
    start: Start, connection: redis.Redis, tmp_path: Path
) -> None:
    job = werk.enqueue("note", str(tmp_path))
    connection.lrem("rq:queue:default", 0, job.id)
    connection.hset(f"rq:job:{job.id}", "status", "started")
    connection.zadd("rq:wip:default", {f"{job.id}:lost": 1})
    start()
    wait_until(lambda: connection.zscore("rq:failed:default", job.id))
    (group,) = counts(connection)
    assert (group.task, group.jobs, group.job) == ("note", 1, job.id)
    assert "AbandonedJobError" in group.error


def test_patched_workers_count_too(start: Start, connection: redis.Redis, tmp_path: Path) -> None:
    start(RQ_WORKER_CLASS="patched_classes.Around")
    job = werk.enqueue("fail", str(tmp_path))
    ended(job, "failed")
    assert [own[:3] for own in counts(connection)] == [("fail", AS_ASKED, 1)]


def test_the_counts_of_hours_are_added(connection: redis.Redis) -> None:
    now = int(connection.time()[0])
    for hours, value in ((0, "2 400 c"), (1, "3 300 b"), (30, "100 200 a"), (200, "7 100 z")):
        connection.hset(f"rq:werk:failures:{now // 3600 - hours}", "pay|KeyError: #", value)
    assert counts(connection) in ([Group("pay", "KeyError: #", 5, 400.0, "c")], [])
    assert counts(connection, 2) == [Group("pay", "KeyError: #", 5, 400.0, "c")]
    assert counts(connection, 7 * 24) == [Group("pay", "KeyError: #", 105, 400.0, "c")]


def test_the_counts_may_hold_anything(connection: redis.Redis) -> None:
    now = int(connection.time()[0])
    names = [f"rq:werk:failures:{now // 3600 - hours}" for hours in range(6)]
    connection.hset(names[0], "pay|KeyError", "2 400 c")
    for field, value in {
        b"x": b"y", b"\xff|\xff\n": b"1 \xff \xff\n", b"|": b"1", b"a|b": b"9" * 400,
        b"c|d": b"1 inf x", b"": b"",
    }.items():  # fmt: skip
        connection.hset(names[0], field, value)
    connection.set(names[1], "x")
    connection.rpush(names[2], "x")
    connection.hset(names[3], "huge", "1 " + "x" * 2_000_000)
    found = counts(connection, 6)
    assert found[0] == Group("pay", "KeyError", 2, 400.0, "c")
    assert all(is_safe(own.error + own.job) for own in found)
    assert len(found) == 4
