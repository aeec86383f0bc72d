"""Slots: what befalls one of them, or all. Real workers, whose lease is 1 s."""

from __future__ import annotations

import os
import signal
import time
from pathlib import Path

import pytest
import redis
from rq.command import send_kill_horse_command, send_shutdown_command, send_stop_job_command
from rq.results import Result
from slot_workers import SLOTS, Busy, Slots, attempt, horses, names, occupied
from support import Process, is_gone, run, wait_until
from workers import ENV, Start, crash_count, ended, finished, outcomes, places, reason, runs

import werk
from werk.dev.server import Server

GONE_S = 30.0  # for horses whose supervisor is dead; the kernel does it in milliseconds


def finish(busy: list[Busy]) -> None:
    """Let go of the jobs, and wait for their ends."""
    for own in busy:
        own.let_go()
    for own in busy:
        finished(own.job)


def after(seconds: float) -> None:
    since = time.monotonic()
    wait_until(lambda: time.monotonic() > since + seconds)


# --- one slot


def test_a_killed_horse_leaves_the_jobs_of_its_neighbours_alone(
    slots: Slots, connection: redis.Redis, tmp_path: Path
) -> None:
    worker = slots()
    first, *others = busy = occupied(tmp_path)
    assert sorted(own.pid for own in busy) == sorted(horses(worker))
    os.kill(first.pid, signal.SIGKILL)
    assert first.begun(2) in horses(worker)
    finish(busy)
    assert [own.is_undisturbed() for own in others] == [True] * 2
    assert [attempt(connection, own.job) for own in busy] == [2, 1, 1]
    assert [crash_count(connection, own.job) for own in busy] == [1, 0, 0]
    assert len(horses(worker)) == SLOTS
    assert worker.poll() is None


def test_the_trouble_of_one_slot_is_not_that_of_others(
    slots: Slots, server: Server, connection: redis.Redis, tmp_path: Path
) -> None:
    """An ignored limit, no descriptors, too much memory, os._exit; and Redis restarts meanwhile."""
    worker = slots(count=5, env={"WERK_HORSE_MB": "150"})
    [bystander] = occupied(tmp_path, 1)
    folders = {}
    for name in ("swallow", "leak_descriptors", "leak_memory", "exit_at_once"):
        folders[name] = tmp_path / name
        folders[name].mkdir()
    swallowed = werk.enqueue("swallow", str(folders["swallow"]))
    begun_of = {name: lambda name=name: runs(folders[name]) for name in folders}
    wait_until(begun_of["swallow"])
    server.kill()
    after(1.5)  # longer than a lease, and than the job's time limit
    server.start()
    exited = werk.enqueue("exit_at_once", str(folders["exit_at_once"]), 0)
    leaky = werk.enqueue("leak_descriptors", str(folders["leak_descriptors"]))
    large = werk.enqueue("leak_memory", str(folders["leak_memory"]), 150)
    assert "JobTimeoutException" in reason(ended(swallowed, "failed"))
    assert "killed its worker 3 times" in reason(ended(exited, "failed"))
    for job, name in ((leaky, "leak_descriptors"), (large, "leak_memory")):
        finished(job)
        [[_, pid, *_]] = runs(folders[name])
        wait_until(lambda pid=pid: is_gone(int(pid)))  # its horse was replaced
    finish([bystander])
    assert bystander.is_undisturbed()
    assert attempt(connection, bystander.job) == 1
    wait_until(lambda: len(horses(worker)) == 5)
    finish(occupied(tmp_path / "afterwards", 5))
    assert worker.poll() is None


def test_a_frozen_horse_keeps_its_job_and_its_neighbours_work_on(
    slots: Slots, connection: redis.Redis, tmp_path: Path
) -> None:
    slots()
    first, *others = busy = occupied(tmp_path)
    os.kill(first.pid, signal.SIGSTOP)
    finish(others)
    for _ in range(10):
        finished(werk.enqueue("note", str(tmp_path)))
    after(2)  # two leases
    os.kill(first.pid, signal.SIGCONT)
    finish(busy)
    assert first.is_undisturbed()
    assert crash_count(connection, first.job) == 0


def test_stop_job_and_kill_horse_are_for_one_slot(
    slots: Slots, connection: redis.Redis, tmp_path: Path
) -> None:
    worker = slots("default", "--name", "w")
    first, second, third = occupied(tmp_path)
    assert [own.slot for own in (first, second, third)] == ["w.1", "w.2", "w.3"]
    send_stop_job_command(connection, second.job.id)
    assert "stopped by user" in reason(ended(second.job, "stopped"))
    send_kill_horse_command(connection, first.slot)
    assert "Work-horse terminated unexpectedly" in reason(ended(first.job, "failed"))
    finish([third])
    assert third.is_undisturbed()
    wait_until(lambda: len(horses(worker)) == SLOTS)
    assert crash_count(connection, first.job) == crash_count(connection, second.job) == 0


def test_rq_info_shows_each_slot_as_a_worker(
    slots: Slots, connection: redis.Redis, tmp_path: Path
) -> None:
    worker = slots("default", "low", "--name", "w")
    [busy] = occupied(tmp_path, 1)

    def shown() -> list[str]:
        lines = run("rq", "info", "--raw").stdout.splitlines()
        return sorted(line for line in lines if line.startswith("worker "))

    def states() -> list[str]:
        return [line.partition(") ")[2].partition(" ")[0] for line in shown()]

    wait_until(lambda: sorted(states()) == ["busy", "idle", "idle"])
    for number, line in enumerate(shown(), 1):
        assert line.startswith(f"worker w.{number} (")
        assert f" {worker.pid}) " in line
        assert " default, low. jobs: " in line
    assert connection.hget(f"rq:worker:{busy.slot}", "state") == b"busy"
    busy.let_go()
    wait_until(lambda: states() == ["idle"] * 3)


def test_redis_that_has_lost_its_data_learns_of_each_slot_again(
    slots: Slots, connection: redis.Redis
) -> None:
    slots("default", "--name", "w")
    wait_until(lambda: connection.zcard("rq:werk:leases") == SLOTS)
    connection.flushall()
    wait_until(lambda: names(connection) == ["w.1", "w.2", "w.3"])
    wait_until(lambda: connection.zcard("rq:werk:leases") == SLOTS)


# --- the supervisor


@pytest.mark.parametrize("is_replaced", [False, True])
def test_all_horses_die_with_their_supervisor_and_no_job_is_to_blame(
    slots: Slots, work: Start, connection: redis.Redis, tmp_path: Path, is_replaced: bool
) -> None:
    """The jobs have left processes of their own, which have all that the horses had open.

    So no horse may have the pipes of another, whichever of them was forked first.
    """
    worker = slots()
    busy = occupied(tmp_path, task="leave_a_process")
    pids = [own.pid for own in busy]
    if is_replaced:
        os.kill(pids[0], signal.SIGKILL)
        pids[0] = busy[0].begun(2)
    crashes, attempts = [int(is_replaced), 0, 0], [1 + is_replaced, 1, 1]
    assert [crash_count(connection, own.job) for own in busy] == crashes
    worker.kill()
    wait_until(lambda: all(map(is_gone, pids)), GONE_S)
    slots()
    for own, count in zip(busy, attempts, strict=True):
        own.begun(count + 1)
    finish(busy)
    assert [crash_count(connection, own.job) for own in busy] == crashes
    assert [attempt(connection, own.job) for own in busy] == [count + 1 for count in attempts]
    for own in busy:
        _, died, *_ = own.job.job.results()
        assert (died.type, died.exc_string) == (Result.Type.RETRIED, "Its worker or host died")


@pytest.mark.parametrize("victim", ["one slot", "many slots"])
def test_a_worker_without_slots_and_one_with_slots_rescue_each_others_jobs(
    slots: Slots, work: Start, connection: redis.Redis, tmp_path: Path, victim: str
) -> None:
    workers = {"one slot": work(), "many slots": slots()}
    busy = occupied(tmp_path, SLOTS + 1)
    mine = horses(workers[victim])
    lost = [own for own in busy if own.pid in mine]
    assert len(lost) == len(mine)
    kept = [own for own in busy if own.pid not in mine]
    workers.pop(victim).kill()
    wait_until(lambda: all(is_gone(own.pid) for own in lost))
    for own in busy:
        own.let_go()
    for own in lost:
        own.begun(2)
    finish(busy)
    assert all(own.is_undisturbed() for own in kept)
    counted = int(victim == "one slot")  # a job may have killed a worker that has no other
    assert [crash_count(connection, own.job) for own in lost] == [counted] * len(lost)
    assert all(places(connection, own.job.id) == ["finished"] for own in busy)
    [survivor] = workers.values()
    assert survivor.poll() is None


def test_a_frozen_supervisor_loses_all_its_jobs_and_the_late_finishes_are_dropped(
    slots: Slots, connection: redis.Redis, tmp_path: Path
) -> None:
    frozen = slots()
    busy = occupied(tmp_path)
    os.kill(frozen.pid, signal.SIGSTOP)
    other = slots()
    for own in busy:
        assert own.begun(2) in horses(other)
    finish(busy)
    wait_until(lambda: frozen.output().count("event=late") == SLOTS)
    os.kill(frozen.pid, signal.SIGCONT)
    other.terminate()
    assert other.wait(60) == 0
    for own in busy:
        assert outcomes(own.job.job) == ["SUCCESSFUL"]
        assert places(connection, own.job.id) == ["finished"]
    finish(occupied(tmp_path / "afterwards"))  # the frozen one works on, in each slot
    assert frozen.poll() is None


# --- Redis is unreachable


def test_horses_that_die_while_redis_is_unreachable_are_resolved_when_it_is_back(
    slots: Slots, server: Server, connection: redis.Redis, tmp_path: Path
) -> None:
    worker = slots()
    *dying, third = busy = occupied(tmp_path)
    server.kill()
    for own in dying:
        os.kill(own.pid, signal.SIGKILL)
    wait_until(lambda: "event=redis-unreachable" in worker.output())
    wait_until(lambda: len(horses(worker)) == 1)
    server.start()
    for own in dying:
        assert own.begun(2) in horses(worker)
    finish(busy)
    assert third.is_undisturbed()
    assert [crash_count(connection, own.job) for own in busy] == [1, 1, 0]
    assert worker.poll() is None


@pytest.mark.parametrize("way", ["killed", "frozen"])
def test_a_worker_leaves_in_time_though_redis_is_unreachable(
    slots: Slots, server: Server, connection: redis.Redis, tmp_path: Path, way: str
) -> None:
    """Its horses have died, and it was told to leave. Others rescue the jobs."""
    worker = slots()
    busy = occupied(tmp_path)
    try:
        server.kill() if way == "killed" else os.kill(server.pid, signal.SIGSTOP)
        wait_until(lambda: "event=redis-unreachable" in worker.output())
        worker.terminate()
        wait_until(lambda: "warm shut down" in worker.output())
        for own in busy:
            os.kill(own.pid, signal.SIGKILL)
        assert worker.wait(30) == 0  # 90 s, if each slot waited for Redis by itself
        assert worker.output().count("event=given-up") == SLOTS
    finally:
        if way == "frozen":
            os.kill(server.pid, signal.SIGCONT)
    if way == "killed":
        server.start()
    slots()
    for own in busy:
        own.begun(2)
    finish(busy)
    assert [crash_count(connection, own.job) for own in busy] == [0] * SLOTS


def test_time_limits_hold_though_redis_is_frozen_when_busy_slots_have_to_leave(
    slots: Slots, server: Server, tmp_path: Path
) -> None:
    """What the supervisor has to write for each slot must not keep it from its other duties."""
    worker = slots()
    busy = occupied(tmp_path, 2)
    job = werk.enqueue("swallow", str(tmp_path))
    [[_, pid, *_]] = wait_until(lambda: runs(tmp_path))
    os.kill(server.pid, signal.SIGSTOP)
    try:
        worker.terminate()
        wait_until(lambda: is_gone(int(pid)), 12)
    finally:
        os.kill(server.pid, signal.SIGCONT)
    ended(job, "failed")
    finish(busy)
    assert worker.wait(60) == 0
    assert all(own.is_undisturbed() for own in busy)


def test_a_slot_that_drains_alone_waits_for_redis(
    slots: Slots, server: Server, connection: redis.Redis, tmp_path: Path
) -> None:
    """Its worker stays, so that nobody else has to take its job for that of a dead worker."""
    worker = slots("default", "--name", "w")
    first, *others = busy = occupied(tmp_path)
    drain(connection, worker, first.slot)
    server.kill()
    os.kill(first.pid, signal.SIGKILL)
    wait_until(lambda: "event=redis-unreachable" in worker.output())
    wait_until(lambda: is_gone(first.pid))
    server.start()
    wait_until(lambda: names(connection) == ["w.2", "w.3"])
    assert places(connection, first.job.id) == ["queue"]
    assert crash_count(connection, first.job) == 1
    finish([*others, first])
    assert len(horses(worker)) == 2
    assert all(own.is_undisturbed() for own in others)
    assert "event=given-up" not in worker.output()
    assert len(busy) == SLOTS


# --- leaving


def drain(connection: redis.Redis, worker: Process, name: str) -> None:
    """Send RQ's shutdown command to a slot, and wait until it has arrived."""
    count = worker.output().count("warm shut down")
    send_shutdown_command(connection, name)
    wait_until(lambda: worker.output().count("warm shut down") > count)


def test_a_drained_slot_leaves_the_others_at_work(
    slots: Slots, connection: redis.Redis, tmp_path: Path
) -> None:
    worker = slots("default", "--name", "w")
    first, second, third = occupied(tmp_path)
    drain(connection, worker, "w.2")
    finish([second])
    wait_until(lambda: names(connection) == ["w.1", "w.3"])
    assert connection.zcard("rq:werk:leases") == 2
    job = werk.enqueue("note", str(tmp_path))
    assert places(connection, job.id) == ["queue"]
    assert connection.exists("rq:werk:serves:default")  # the others serve the same tasks
    finish([first])
    finished(job)
    assert job.job.worker_name == "w.1"
    drain(connection, worker, "w.1")
    drain(connection, worker, "w.3")
    finish([third])
    assert worker.wait(60) == 0
    assert not names(connection)
    assert not connection.exists("rq:werk:leases")
    assert all(own.is_undisturbed() for own in (first, second, third))


def test_a_slot_that_is_drained_twice_returns_its_job_alone(
    slots: Slots, connection: redis.Redis, tmp_path: Path
) -> None:
    worker = slots("default", "--name", "w")
    first, *others = occupied(tmp_path)
    drain(connection, worker, first.slot)
    after(2)  # a second request within 1 s counts as the first
    send_shutdown_command(connection, first.slot)
    wait_until(lambda: names(connection) == ["w.2", "w.3"])
    assert places(connection, first.job.id) == ["queue"]
    assert crash_count(connection, first.job) == 0
    assert f"event=kill worker=w.1 reason=cold job={first.job.id} " in worker.output()
    finish(others)
    finish([first])
    assert all(own.is_undisturbed() for own in others)


def test_werk_drain_of_all_slots_ends_their_worker(
    slots: Slots, connection: redis.Redis, tmp_path: Path
) -> None:
    worker = slots()
    busy = occupied(tmp_path)
    assert run("werk", "drain", "--yes").returncode == 0
    wait_until(lambda: worker.output().count("warm shut down") == SLOTS)
    finish(busy)
    assert worker.wait(60) == 0
    assert not names(connection)


def test_sigterm_finishes_the_jobs_of_all_slots_and_takes_no_other(
    slots: Slots, connection: redis.Redis, tmp_path: Path
) -> None:
    worker = slots()
    busy = occupied(tmp_path)
    other = werk.enqueue("note", str(tmp_path))
    worker.terminate()
    wait_until(lambda: "warm shut down" in worker.output())
    finish(busy)
    assert worker.wait(60) == 0
    assert places(connection, other.id) == ["queue"]
    assert all(own.is_undisturbed() for own in busy)
    assert not names(connection)
    assert not connection.exists("rq:werk:leases")


def test_sigterm_ends_idle_slots(slots: Slots, connection: redis.Redis) -> None:
    worker = slots()
    worker.terminate()
    assert worker.wait(60) == 0
    assert not names(connection)


def test_a_second_sigterm_puts_all_jobs_back_uncounted(
    slots: Slots, connection: redis.Redis, tmp_path: Path
) -> None:
    worker = slots()
    first, *others = occupied(tmp_path)
    worker.terminate()
    wait_until(lambda: "warm shut down" in worker.output())
    finish([first])
    after(2)  # a second signal within 1 s counts as the first
    worker.terminate()
    assert worker.wait(60) == 0
    for own in others:
        assert places(connection, own.job.id) == ["queue"]
        assert own.job.status() == "queued"
        assert crash_count(connection, own.job) == 0
    slots()
    finish(others)
    assert not connection.zcard("rq:wip:default")


def test_a_pool_of_plain_rq_has_whole_workers_with_slots(
    spawn: Start, connection: redis.Redis, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("WERK_REGISTRY", ENV["WERK_REGISTRY"])
    env = {**ENV, "WERK_CONCURRENCY": "2"}
    pool = spawn("rq", "worker-pool", "default", "-n", "2", "-w", "werk.worker.Worker", env=env)
    wait_until(lambda: len(names(connection)) == 4)
    busy = occupied(tmp_path, 4)
    assert len({own.slot.rpartition(".")[0] for own in busy}) == 2
    finish(busy)
    pool.terminate()
    pool.wait(60)
    wait_until(lambda: not names(connection))


def test_a_worker_of_rqs_command_has_slots(
    spawn: Start, connection: redis.Redis, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("WERK_REGISTRY", ENV["WERK_REGISTRY"])
    env = {**ENV, "WERK_CONCURRENCY": "3"}
    worker = spawn("rq", "worker", "-w", "werk.worker.Worker", "default", env=env)
    finish(occupied(tmp_path))
    assert len(horses(worker)) == SLOTS
    worker.terminate()
    assert worker.wait(60) == 0
    assert not names(connection)
