"""WERK_ALLOW_UNREGISTERED: what a worker without it would refuse is run, logged and counted."""

from __future__ import annotations

import json
import time
from collections.abc import Callable, Iterator
from fractions import Fraction
from typing import Any

import pytest
import redis
import roles
from any_values import VALUES
from rq import Callback, Queue, Retry
from rq.job import Job
from support import Process, run, samples, wait_until
from workers import PATIENT, horse, reason

import werk
from werk.ops import checks, metrics
from werk.ops.snapshot import Snapshot
from werk.store.connection import Link, link

Start = Callable[..., Process]
FREE = {"WERK_ALLOW_UNREGISTERED": "yes"}


@pytest.fixture
def light(redis_url: str) -> Iterator[Link]:
    own = link(roles.settings("reader"))
    yield own
    own.close()


def notes(connection: redis.Redis) -> dict[str, Any]:
    found = connection.hgetall("rq:werk:would-refuse").items()
    return {name.decode(): json.loads(text) for name, text in found}


def counts(connection: redis.Redis) -> dict[str, int]:
    return {name: facts["count"] for name, facts in notes(connection).items()}


def problem(light: Link) -> str:
    found = checks.problems(Snapshot.read(light))
    return next((own.what for own in found if "would be refused" in own.what), "")


def wait_for(*jobs: Job) -> None:
    for job in jobs:
        wait_until(lambda job=job: job.get_status() in ("finished", "failed"))


def test_what_would_be_refused_runs_and_is_counted(
    work: Start, connection: redis.Redis, light: Link
) -> None:
    queue = Queue(connection=connection)
    worker = work(env=FREE)
    fine = [werk.enqueue("hello", "Ada").job, queue.enqueue("werk.jobs.hello", "Bob")]
    paths = [queue.enqueue("math.sqrt", number) for number in (1, 4, 9)]
    called = queue.enqueue("werk.jobs.hello", "C", on_success=Callback("worker_tasks.no_such"))
    rich = queue.enqueue("werk.jobs.hello", Fraction(1, 3))
    wait_for(*fine, *paths, called, rich)
    assert [job.return_value() for job in paths] == [1.0, 2.0, 3.0]
    assert rich.get_status() == "finished"
    wanted = {"math.sqrt": 3, "worker_tasks.no_such": 1, "werk.jobs.hello": 1}
    wait_until(lambda: counts(connection) == wanted)
    assert notes(connection)["math.sqrt"]["reason"].startswith("Refused: 'math.sqrt' is not")
    assert notes(connection)["werk.jobs.hello"]["reason"].startswith("Unreadable")
    log = worker.output()
    assert log.count("event=would-refuse") == 5
    assert f"event=would-refuse job={paths[0].id} task=math.sqrt " in log
    assert f"event=would-refuse job={rich.id} task=werk.jobs.hello " in log
    assert problem(light) == (
        "5 jobs ran that would be refused without WERK_ALLOW_UNREGISTERED: "
        "math.sqrt (3), werk.jobs.hello (1), worker_tasks.no_such (1)"
    )
    found = json.loads(run("werk", "status", "--json").stdout)["would_refuse"]
    assert [(own["task"], own["jobs"]) for own in found] == [
        ("math.sqrt", 3), ("werk.jobs.hello", 1), ("worker_tasks.no_such", 1),
    ]  # fmt: skip
    assert all(own["last"].endswith("Z") for own in found)
    assert samples(metrics.exposition(light))['werk_would_refuse_total{task="math.sqrt"}'] == 3


def test_the_same_jobs_are_refused_without_it(work: Start, connection: redis.Redis) -> None:
    queue = Queue(connection=connection)
    work()
    jobs = [
        queue.enqueue("math.sqrt", 4),
        queue.enqueue("werk.jobs.hello", "C", on_success=Callback("worker_tasks.no_such")),
        queue.enqueue("werk.jobs.hello", Fraction(1, 3)),
    ]
    wait_for(*jobs)
    assert [job.get_status() for job in jobs] == ["failed"] * 3
    assert counts(connection) == {}


def test_a_call_that_cannot_be_read_fails_with_its_own_error(
    work: Start, connection: redis.Redis, monkeypatch: pytest.MonkeyPatch
) -> None:
    from odd_tasks import Read, Renamed

    def before(self: Renamed) -> None: ...

    monkeypatch.setattr(Renamed, "before", before, raising=False)  # as of the caller's version
    worker = work(env=FREE | PATIENT)
    first = horse(worker)
    queue = Queue(connection=connection)
    renamed = queue.enqueue(Renamed().before)  # type: ignore[attr-defined]
    exits = queue.enqueue("math.sqrt", Read("exits"))
    hangs = queue.enqueue("math.sqrt", Read("hangs"), job_timeout=1, retry=Retry(max=1))
    wait_for(renamed, exits, hangs)
    assert reason(renamed).endswith("'Renamed' object has no attribute 'before'\n")
    assert reason(exits).endswith("SystemExit: 3\n")
    assert "JobTimeoutException" in reason(hangs)
    assert len(hangs.results()) == 2
    assert horse(worker) == first
    assert counts(connection) == {}


def test_each_worker_adds_to_the_count(work: Start, connection: redis.Redis) -> None:
    queue = Queue(connection=connection)
    for number in (1, 2):
        jobs = [queue.enqueue("math.sqrt", 4) for _ in range(5)]
        assert work("default", "--burst", env=FREE).wait(60) == 0
        wait_for(*jobs)
        assert counts(connection) == {"math.sqrt": 5 * number}


def test_what_is_registered_by_now_is_no_problem(
    work: Start, connection: redis.Redis, light: Link
) -> None:
    work(env=FREE)
    now = time.time()
    for name, why, age_s in (
        ("hello", "Refused: ...", 0),
        ("werk.jobs.hello", "Refused: ...", 0),
        ("werk.jobs.sleep", "Unreadable: ...", 0),
        ("shop.old", "Refused: ...", 8 * 86400),
    ):
        text = json.dumps({"last": now - age_s, "count": 2, "reason": why})
        connection.hset("rq:werk:would-refuse", name, text)
    wait_until(lambda: problem(light).endswith("_UNREGISTERED: werk.jobs.sleep (2)"))


def test_anything_may_be_there(work: Start, connection: redis.Redis, light: Link) -> None:
    queue = Queue(connection=connection)
    work(env=FREE)
    connection.set("rq:werk:would-refuse", "of another kind")
    wait_for(job := queue.enqueue("math.sqrt", 4))
    assert job.get_status() == "finished"
    assert "rq:werk:would-refuse" in Snapshot.read(light).damaged
    connection.delete("rq:werk:would-refuse")
    for number, value in enumerate([*VALUES, b"[" * 9999, b'{"last": 1, "count": "x"}']):
        connection.hset("rq:werk:would-refuse", f"name{number}", value)
    connection.hset("rq:werk:would-refuse", "math.sqrt", "what is this")
    wait_for(queue.enqueue("math.sqrt", 9))
    wait_until(lambda: b'"count"' in (connection.hget("rq:werk:would-refuse", "math.sqrt") or b""))
    assert ": math.sqrt (" in problem(light)  # the first one may be counted as well by now
    assert len(Snapshot.read(light).damaged) == len(VALUES) + 2
