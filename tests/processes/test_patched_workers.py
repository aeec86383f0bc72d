"""Workers whose RQ is patched by others, and subclasses of applications: no promise is lost."""

from __future__ import annotations

import json
import os
import signal
import statistics
from collections.abc import Callable
from pathlib import Path
from unittest.mock import patch

import pytest
import redis
import roles
from rq import Callback, Queue
from rq.job import Dependency, Job
from support import Process, wait_until
from workers import (
    ENV,
    Start,
    begun,
    ended,
    finished,
    go,
    horse,
    outcomes,
    own_key,
    places,
    reason,
    runs,
)

import werk
import werk.worker
from werk.ops import checks
from werk.ops.snapshot import Snapshot
from werk.store import payload
from werk.store.connection import link

PATCHES = [
    ("sentry", "table"), ("sentry", "task"), ("sentry", "settings"), ("wrapt", "table"),
    ("wrapt", "task"), ("wrapt", "settings"), ("job", "table"), ("job", "task"),
]  # fmt: skip

Patched = Callable[..., Process]


@pytest.fixture(params=PATCHES, ids="-".join)
def patched(request: pytest.FixtureRequest, work: Start, tmp_path: Path) -> Patched:
    """Start a worker, and have it patch RQ."""
    kind, place = request.param

    def start(*words: str, **env: str) -> Process:
        options = ("-c", "patched_settings") if place == "settings" else ()
        return work(*options, *(words or ("default",)), env=patches(tmp_path, kind, place) | env)

    return start


def patches(folder: Path, kind: str, place: str) -> dict[str, str]:
    own = {"PATCH": kind, "PATCH_IN": place, "PATCHED": str(folder)}
    return own | {"WERK_REGISTRY": "patched_table:TASKS"}


def lines(folder: Path, name: str) -> list[str]:
    file = folder / name
    return file.read_text().splitlines() if file.exists() else []


def leave(worker: Process) -> None:
    worker.terminate()
    assert worker.wait(30) == 0, worker.output()


# --- patches of others


def test_every_job_goes_through_the_patch_once_and_is_recorded_once(
    patched: Patched, connection: redis.Redis, tmp_path: Path
) -> None:
    jobs = [werk.enqueue("note", str(tmp_path), f"{n}") for n in range(5)]
    failing = [werk.enqueue("fail", str(tmp_path)) for _ in range(2)]
    missing = werk.enqueue("missing")
    worker = patched()
    for n, job in enumerate(jobs):
        assert job.result(60) == f"{n}"
    for job in failing:
        assert reason(ended(job, "failed")).endswith("ValueError: as asked\n")
    assert "AttributeError" in reason(ended(missing, "failed"))
    assert connection.hget(own_key(connection), "werk_lease") == b"1.0"
    leave(worker)
    every = [*jobs, *failing, missing]
    assert lines(tmp_path, "calls") == [job.id for job in every]
    for job in every:
        assert places(connection, job.id) == [job.status()]
        assert len(job.job.results()) == 1
    assert len(runs(tmp_path)) == 7
    errors = [json.loads(line) for line in lines(tmp_path, "errors")]
    assert [name for name, _ in errors] == ["rq.worker"] * 3
    assert all(job.id in said for job, (_, said) in zip(every[5:], errors, strict=True))


@pytest.mark.parametrize("kind", ["sentry", "wrapt", "job"])
def test_what_a_task_patches_is_called_from_the_next_job_on(
    work: Start, connection: redis.Redis, tmp_path: Path, kind: str
) -> None:
    first = Queue(connection=connection).enqueue("patched_tasks.patch")
    jobs = [werk.enqueue("note", str(tmp_path)) for _ in range(3)]
    worker = work(env=patches(tmp_path, kind, "call"))
    for job in jobs:
        assert job.result(60) == "ran"
    assert first.get_status() == "finished"
    leave(worker)
    assert lines(tmp_path, "calls") == [job.id for job in jobs]


@pytest.mark.parametrize("place", ["table", "task", "settings"])
def test_sentry_has_one_event_of_a_failure_with_all_about_it(
    work: Start, tmp_path: Path, place: str
) -> None:
    fails, exits = werk.enqueue("fail", str(tmp_path)), werk.enqueue("leave", str(tmp_path))
    options = ("-c", "patched_settings") if place == "settings" else ()
    worker = work(*options, "default", env=patches(tmp_path, "sentry", place))
    ended(fails, "failed"), ended(exits, "failed")
    leave(worker)
    events = [json.loads(line) for line in lines(tmp_path, "events")]
    assert [event["job"] for event in events] == [fails.id, exits.id]
    for event, job, kind in zip(events, (fails, exits), ("ValueError", "SystemExit"), strict=True):
        [raised] = event["exception"]["values"]
        assert raised["type"] == kind
        assert raised["mechanism"]["type"] == "rq"
        assert event["extra"]["rq-job"]["job_id"] == job.id
        assert event["extra"]["rq-job"]["func"].startswith("patched_tasks.")
        assert event["transaction"] == event["extra"]["rq-job"]["func"]


def test_without_a_patch_a_failure_is_one_error_too(
    work: Start, connection: redis.Redis, tmp_path: Path
) -> None:
    job = werk.enqueue("fail", str(tmp_path))
    worker = work("-c", "patched_settings", "default", env=patches(tmp_path, "none", "settings"))
    ended(job, "failed")
    refused = Queue(connection=connection).enqueue("os.getcwd")
    wait_until(lambda: refused.get_status() == "failed")
    killed = werk.enqueue("swallow", str(tmp_path))
    ended(killed, "failed")
    leave(worker)
    errors = [json.loads(line) for line in lines(tmp_path, "errors")]
    assert [name for name, _ in errors] == ["rq.worker"] * 3
    failed = (job.id, refused.id, killed.id)
    assert all(job_id in said for job_id, (_, said) in zip(failed, errors, strict=True))


def test_the_job_of_a_killed_worker_runs_again_beside_a_second_one(
    patched: Patched, connection: redis.Redis, tmp_path: Path
) -> None:
    job = werk.enqueue("block", str(tmp_path))
    first = patched()
    begun(tmp_path)
    second = patched()
    first.kill()
    begun(tmp_path, 2)
    go(tmp_path)
    record = finished(job)
    assert str(second.pid) in record.worker_name
    assert len(runs(tmp_path, "ends")) == 1
    assert places(connection, job.id) == ["finished"]
    assert outcomes(record) == ["SUCCESSFUL"]


def test_a_killed_horse_runs_its_job_again_at_once(patched: Patched, tmp_path: Path) -> None:
    job = werk.enqueue("block", str(tmp_path))
    worker = patched()
    begun(tmp_path)
    os.kill(horse(worker), signal.SIGKILL)
    begun(tmp_path, 2)
    go(tmp_path)
    finished(job)
    assert worker.poll() is None


def test_a_time_limit_is_kept_and_alarms_are_the_tasks_own(
    patched: Patched, tmp_path: Path
) -> None:
    werk.enqueue("note", str(tmp_path))  # it imports what patches, which may take a second
    alarms = werk.enqueue("use_alarms", str(tmp_path))
    swallows = werk.enqueue("swallow", str(tmp_path))
    after = werk.enqueue("note", str(tmp_path), "after")
    worker = patched(RQ_WORKER_CLASS="werk.worker.Worker")
    assert "JobTimeoutException: Task exceeded maximum" in reason(ended(alarms, "failed"))
    assert len(runs(tmp_path, "cut")) == 1  # it was told, and not killed
    record = ended(swallows, "failed")
    assert "took no notice for 4.5 s: killed" in reason(record)
    finished(after)
    leave(worker)


# --- what else RQ's methods record, in a frame


def test_a_call_that_fits_another_version_is_put_off_and_is_no_error(
    work: Start, connection: redis.Redis, tmp_path: Path
) -> None:
    job = werk.enqueue("note", str(tmp_path))
    newer = payload.write_call("worker_tasks.note", (str(tmp_path), "ran", "newer"), {})
    connection.hset(f"rq:job:{job.id}", "data", newer)
    unread = werk.enqueue("unread", 1, 2, 3)
    env = patches(tmp_path, "sentry", "settings") | {"WERK_REGISTRY": "worker_tasks:TASKS"}
    assert work("-c", "patched_settings", "--burst", "default", env=env).wait(60) == 0
    assert places(connection, job.id) == ["scheduled"]
    assert not runs(tmp_path)
    assert "TypeError" in reason(ended(unread, "failed"))
    assert [json.loads(line)["job"] for line in lines(tmp_path, "events")] == [unread.id]


def test_outcomes_other_than_a_plain_success(
    work: Start, connection: redis.Redis, tmp_path: Path
) -> None:
    folder = str(tmp_path)
    queue = Queue(connection=connection)
    again, retried = werk.enqueue("again", folder), werk.enqueue("retried", folder)
    odd, kept = werk.enqueue("odd"), werk.enqueue("keep", folder)
    parent = werk.enqueue("note", folder, "parent")
    child = queue.enqueue(
        "worker_tasks.note", folder, "child", depends_on=Dependency(jobs=[parent.id])
    )
    called = queue.enqueue(
        "worker_tasks.note",
        kwargs={"folder": folder},
        on_success=Callback("worker_tasks.saw", timeout=5),
    )
    broken = queue.enqueue(
        "worker_tasks.note",
        kwargs={"folder": folder},
        on_success=Callback("worker_tasks.broken"),
    )
    env = patches(tmp_path, "wrapt", "settings") | {"WERK_REGISTRY": "worker_tasks:TASKS"}
    worker = work("-c", "patched_settings", "default", env=env)
    assert ended(again, "failed").number_of_retries == 1
    ended(retried, "failed")
    with pytest.raises(werk.ResultNotKept):
        odd.result(60)
    assert kept.result(60) == {"own": 1}
    wait_until(lambda: child.get_status() == "finished")
    wait_until(lambda: called.get_status() == "finished")
    wait_until(lambda: broken.get_status() == "failed")
    assert lines(tmp_path, "callbacks") == [called.id]
    leave(worker)
    counts = {word: len(runs(tmp_path, word)) for word in ("parent", "child")}
    assert counts == {"parent": 1, "child": 1}
    calls = lines(tmp_path, "calls")
    assert calls.count(again.id) == 2
    assert calls.count(retried.id) == 3


def test_what_fails_before_or_after_the_job_is_told_and_counts_once(
    work: Start, connection: redis.Redis, tmp_path: Path
) -> None:
    before, after = (
        werk.enqueue("note", str(tmp_path), "before"),
        werk.enqueue("note", str(tmp_path)),
    )
    never = werk.enqueue("note", str(tmp_path), "never")
    worker = subclass(work, tmp_path, "Faulty")
    assert "RuntimeError: before" in reason(ended(before, "failed"))
    assert "did not run" in reason(ended(never, "failed"))
    assert after.result(60) == "ran"
    leave(worker)
    assert worker.output().count("event=patch-failed") == 1
    assert [line[3] for line in runs(tmp_path)] == ["ran"]
    for job in (before, after, never):
        assert places(connection, job.id) == [job.status()]
        assert len(job.job.results()) == 1


# --- subclasses of applications


def subclass(work: Start, folder: Path, name: str, *words: str) -> Process:
    env = {"RQ_WORKER_CLASS": f"patched_classes.{name}", "PATCHED": str(folder)}
    return work(*words, "default", env=env)


def test_methods_around_a_job_are_called_once_in_the_horse(
    work: Start, connection: redis.Redis, tmp_path: Path
) -> None:
    jobs = [werk.enqueue("note", str(tmp_path)), werk.enqueue("fail", str(tmp_path))]
    called = Queue(connection=connection).enqueue(
        "worker_tasks.note",
        kwargs={"folder": str(tmp_path)},
        on_success=Callback("worker_tasks.saw"),
    )
    worker = subclass(work, tmp_path, "Django")
    wait_until(lambda: called.get_status() == "finished")
    assert connection.hget(own_key(connection), "werk_lease") == b"1.0"
    pid = str(horse(worker))
    leave(worker)
    steps = ["execute_job", "perform_job", "callback", "end perform_job", "end execute_job"]
    for job in (*jobs, called):
        seen = [line.partition(" ")[2] for line in lines(tmp_path, "calls") if job.id in line]
        assert seen == [f"{pid} {step}" for step in steps if step != "callback"]
    assert [job.status() for job in jobs] == ["finished", "failed"]


@pytest.mark.parametrize("name", ["Copied", "Simple"])
def test_a_subclass_that_repeats_rqs_lines_runs_in_our_loop(
    work: Start, connection: redis.Redis, tmp_path: Path, name: str
) -> None:
    jobs = [werk.enqueue("note", str(tmp_path)) for _ in range(3)]
    failing = werk.enqueue("fail", str(tmp_path))
    worker = subclass(work, tmp_path, name)
    for job in jobs:
        assert job.result(60) == "ran"
    ended(failing, "failed")
    assert connection.hget(own_key(connection), "werk_lease") == b"1.0"
    pids = {pid for _, pid, *_ in runs(tmp_path)}
    assert pids == {str(horse(worker))}


def test_a_method_of_a_success_is_called_for_every_job(work: Start, tmp_path: Path) -> None:
    jobs = [werk.enqueue("note", str(tmp_path)) for _ in range(3)]
    worker = subclass(work, tmp_path, "Counting")
    for job in jobs:
        assert job.result(60) == "ran"
    leave(worker)
    assert lines(tmp_path, "calls") == [job.id for job in jobs]


@pytest.mark.parametrize("name", ["Replaced", "ReplacedWork"])
def test_a_subclass_that_replaces_a_method_of_the_loop_has_rqs_loop_and_says_so(
    work: Start, spawn: Start, connection: redis.Redis, tmp_path: Path, name: str
) -> None:
    job = werk.enqueue("note", str(tmp_path))
    env = {**ENV, "RQ_WORKER_CLASS": f"patched_classes.{name}", "PATCHED": str(tmp_path)}
    worker = spawn("rq", "worker", "default", env=env)  # its horses are short-lived: see work()
    assert job.result(60) == "ran"
    method = {"Replaced": "fork_work_horse", "ReplacedWork": "work"}[name]
    assert f"replaced={method}" in worker.output()
    facts = connection.hgetall(own_key(connection))
    assert facts[b"werk_rq_loop"] == method.encode()
    assert b"werk_lease" not in facts
    [problem] = checks.problems(Snapshot.read(link(roles.settings("reader"))))
    assert problem.level == checks.WARNING
    assert method in problem.what
    beside = work()
    wait_until(lambda: len(connection.keys("rq:worker:*")) >= 2)
    problems = checks.problems(Snapshot.read(link(roles.settings("reader"))))
    assert [problem] == problems
    leave(worker), leave(beside)


@pytest.mark.parametrize("name", ["Replaced", "ReplacedWork"])
def test_only_registered_functions_run_in_rqs_loop(
    spawn: Start, connection: redis.Redis, tmp_path: Path, name: str
) -> None:
    job = Queue(connection=connection).enqueue("os.mkdir", str(tmp_path / "made"))
    env = {**ENV, "RQ_WORKER_CLASS": f"patched_classes.{name}", "PATCHED": str(tmp_path)}
    assert spawn("rq", "worker", "--burst", "default", env=env).wait(60) == 0
    assert job.get_status() == "failed"
    assert not (tmp_path / "made").exists()


@pytest.mark.parametrize(("name", "calls"), [("execute_job", 1), ("perform_job", 0)])
def test_rqs_loop_calls_a_mock(connection: redis.Redis, name: str, calls: int) -> None:
    """RQ forks before it calls perform_job."""
    Queue(connection=connection).enqueue("os.getpid")
    worker = werk.worker.Worker(["default"], connection=connection)
    with patch.object(werk.worker.Worker, name) as mocked:
        assert worker.work(burst=True)
    assert worker.rq_loop == name
    assert mocked.call_count == calls


def test_a_worker_has_the_classes_that_it_was_given(connection: redis.Redis) -> None:
    class OwnJob(Job):
        pass

    class OwnQueue(Queue):
        pass

    worker = werk.worker.Worker(
        ["default"], connection=connection, job_class=OwnJob, queue_class=OwnQueue
    )
    assert (worker.job_class, worker.queue_class) == (OwnJob, OwnQueue)


@pytest.mark.parametrize("name", ["Wrapped", "WrappedByWrapt", "Extended"])
def test_a_method_of_the_loop_that_is_only_wrapped_keeps_our_loop(
    work: Start, connection: redis.Redis, tmp_path: Path, name: str
) -> None:
    job = werk.enqueue("note", str(tmp_path))
    worker = subclass(work, tmp_path, name)
    assert job.result(60) == "ran"
    assert connection.hget(own_key(connection), "werk_lease") == b"1.0"
    leave(worker)
    assert "event=rq-loop" not in worker.output()


@pytest.mark.performance
def test_no_ops_with_sentry_take_a_quarter_of_the_time_of_plain_rq(
    work: Start, connection: redis.Redis, tmp_path: Path
) -> None:
    ratios = []
    for turn in range(3):
        plain, ours = (
            jobs_per_s(work, connection, tmp_path / f"{turn}-{name}", name)
            for name in ("rq.worker.Worker", "werk.worker.Worker")
        )
        ratios.append(ours / plain)
    assert statistics.median(ratios) >= 4, ratios


def jobs_per_s(work: Start, connection: redis.Redis, folder: Path, worker: str) -> float:
    """Return how fast a worker with Sentry runs no-ops, by its own times; the first ones aside."""
    folder.mkdir()
    connection.flushall()
    queue = Queue(connection=connection)
    jobs = [queue.enqueue("worker_tasks.heavy", 0) for _ in range(300)]
    own = {"RQ_WORKER_CLASS": worker, "WERK_REGISTRY": "worker_tasks:TASKS"}
    env = patches(folder, "sentry", "settings") | own
    assert work("-c", "patched_settings", "--burst", "--quiet", "default", env=env).wait(120) == 0
    for job in jobs:
        job.refresh()
    assert len(lines(folder, "calls")) == len(jobs)
    first, last = jobs[50], jobs[-1]
    assert first.started_at and last.ended_at
    return 250 / (last.ended_at - first.started_at).total_seconds()
