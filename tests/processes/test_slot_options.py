"""Slots: RQ's options for each of them, what a worker refuses, and how horses are replaced."""

from __future__ import annotations

from pathlib import Path

import pytest
import redis
from slot_workers import SLOTS, Slots, horses, names, occupied
from support import PYTHONPATH, run, wait_until
from workers import ENV, begun, finished, go, runs

import werk

RQ = {"RQ_WORKER_CLASS": "werk.worker.Worker"}


def notes(folder: Path, count: int) -> list[werk.Handle]:
    return werk.enqueue_many("note", [(str(folder),)] * count)


# --- RQ's options


def test_burst_ends_when_each_slot_has_found_nothing(slots: Slots, tmp_path: Path) -> None:
    jobs = notes(tmp_path, 20)
    worker = slots("default", "--burst", waits=False)
    assert worker.wait(60) == 0
    assert [job.status() for job in jobs] == ["finished"] * 20
    assert len(runs(tmp_path)) == 20


def test_a_slot_that_found_nothing_in_a_burst_waits_for_no_other(
    slots: Slots, connection: redis.Redis, tmp_path: Path
) -> None:
    (tmp_path / "long").mkdir()
    job = werk.enqueue("block", str(tmp_path / "long"))
    jobs = notes(tmp_path, 5)
    worker = slots("default", "--burst", waits=False)
    for own in jobs:
        finished(own)
    wait_until(lambda: len(horses(worker)) == 1 == len(names(connection)))
    (tmp_path / "long" / "go").touch()
    assert worker.wait(60) == 0
    assert job.status() == "finished"


def test_max_jobs_is_for_each_slot(slots: Slots, connection: redis.Redis, tmp_path: Path) -> None:
    notes(tmp_path, 8)
    assert slots("default", "--max-jobs", "2", waits=False).wait(60) == 0
    assert len(runs(tmp_path)) == 2 * SLOTS
    assert connection.llen("rq:queue:default") == 2
    assert not names(connection)


def test_max_idle_time_is_for_each_slot(
    slots: Slots, connection: redis.Redis, tmp_path: Path
) -> None:
    job = werk.enqueue("block", str(tmp_path))
    worker = slots("default", "--max-idle-time", "1", waits=False)
    begun(tmp_path)
    wait_until(lambda: len(horses(worker)) == 1 == len(names(connection)))
    assert names(connection) == [job.job.worker_name]
    go(tmp_path)
    assert worker.wait(60) == 0
    assert job.status() == "finished"


# --- replacing horses


def test_first_horses_are_replaced_one_after_the_other(slots: Slots, tmp_path: Path) -> None:
    """Of six jobs, the first horses run two, four and six; all others run six."""
    worker = slots("default", "--name", "w", env={"WERK_HORSE_JOBS": "6"})
    seen: dict[str, list[int]] = {f"w.{number}": [] for number in range(1, SLOTS + 1)}
    for number in range(8):
        wait_until(lambda: len(horses(worker)) == SLOTS)
        for own in occupied(tmp_path / str(number)):
            seen[own.slot].append(own.pid)
            own.let_go()
            finished(own.job)
    lengths = {
        slot: [pids.count(pid) for pid in dict.fromkeys(pids)] for slot, pids in seen.items()
    }
    assert lengths == {"w.1": [2, 6], "w.2": [4, 4], "w.3": [6, 2]}
    assert worker.poll() is None


# --- what is refused


@pytest.mark.parametrize("command", [("werk", "worker"), ("rq", "worker")])
@pytest.mark.parametrize("value", ["0", "x", "-1", "1.5", "1001"])
def test_a_number_of_slots_that_cannot_be_is_one_line(
    redis_url: str, command: tuple[str, str], value: str
) -> None:
    done = run(*command, "default", "--burst", env={**RQ, "WERK_CONCURRENCY": value})
    assert (done.returncode, done.stdout) == (78, "")
    [line] = done.stderr.splitlines()
    assert "WERK_CONCURRENCY=" in line
    assert value in line


@pytest.mark.parametrize("value", ["0", "x", "1001"])
def test_an_option_that_cannot_be_is_a_wrong_usage(redis_url: str, value: str) -> None:
    done = run("werk", "worker", "--concurrency", value, "default")
    assert done.returncode == 2
    assert "--concurrency" in done.stderr
    assert "Traceback" not in done.stderr


def test_the_option_comes_before_the_variable(redis_url: str) -> None:
    env = {**ENV, "WERK_CONCURRENCY": "5"}
    done = run("werk", "worker", "--concurrency", "2", "--burst", "default", env=env)
    assert done.returncode == 0
    assert "concurrency=2" in done.stdout + done.stderr


def test_a_class_that_replaces_rqs_loop_has_one_slot(redis_url: str) -> None:
    env = {**ENV, "RQ_WORKER_CLASS": "fast_worker.OldLoop", "WERK_CONCURRENCY": "3"}
    done = run("rq", "worker", "default", "--burst", env=env)
    assert done.returncode == 78
    [line] = (done.stdout + done.stderr).splitlines()
    assert "concurrency 3: OldLoop replaces dequeue_job_and_maintain_ttl" in line
    assert "start more workers" in line
    once = run("rq", "worker", "default", "--burst", env={**env, "WERK_CONCURRENCY": "1"})
    assert once.returncode == 0


def test_slots_that_cannot_import_what_they_need_end_their_worker(
    connection: redis.Redis, tmp_path: Path
) -> None:
    (tmp_path / "broken_setup.py").write_text("oops")
    path = f"{tmp_path}:{PYTHONPATH}"
    env = {**ENV, "PYTHONPATH": path, "WERK_PRELOAD": "broken_setup", "WERK_CONCURRENCY": "3"}
    done = run("werk", "worker", "default", env=env)
    assert done.returncode == 78
    lines = [line for line in done.stderr.splitlines() if "WERK_PRELOAD" in line]
    assert len(lines) == SLOTS
    assert "cannot import broken_setup: NameError" in lines[0]
    assert "Traceback" not in done.stderr
    assert not names(connection)
    assert not connection.exists("rq:werk:leases")


def test_slots_whose_later_horses_cannot_import_it_leave_the_jobs_alone(
    slots: Slots, connection: redis.Redis, tmp_path: Path
) -> None:
    """Those that could are at work meanwhile."""
    (tmp_path / "setup_once.py").write_text(
        "import pathlib\nif pathlib.Path(__file__).with_name('broken').exists(): oops\n"
    )
    env = {"PYTHONPATH": f"{tmp_path}:{PYTHONPATH}", "WERK_PRELOAD": "setup_once"}
    worker = slots(env={**env, "WERK_HORSE_JOBS": "3"})
    first, *others = occupied(tmp_path)  # the first slot's horse is replaced after one job
    (tmp_path / "broken").touch()
    first.let_go()
    wait_until(lambda: worker.output().count("cannot import setup_once: NameError") >= 2)
    for own in others:
        own.let_go()
        finished(own.job)
    job = werk.enqueue("note", str(tmp_path))
    finished(job)
    assert job.job.worker_name != first.slot
    (tmp_path / "broken").unlink()
    for own in occupied(tmp_path / "afterwards"):
        own.let_go()
        finished(own.job)
    worker.terminate()
    assert worker.wait(60) == 0
