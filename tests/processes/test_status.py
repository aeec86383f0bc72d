"""Is all well? Everything that `werk status` must see, shown to it by real processes."""

from __future__ import annotations

import json
import os
import re
import signal
import socket
import sys
import time
from base64 import b64encode
from collections.abc import Callable, Iterator
from datetime import datetime, timedelta, timezone
from pathlib import Path
from zlib import compress

import pytest
import redis
import roles
from prometheus_client import parser
from rq import Queue
from rq.suspension import resume, suspend
from support import PYTHONPATH, Process, children, is_gone, run, samples, wait_until
from workers import ENV, PATIENT, Start, begun, go, horse, leads_group

import werk
from werk.cli import status
from werk.ops import checks, metrics, status_view
from werk.ops.limits import CRITICAL, OK, WARNING, AgeLimits, Limit, Limits
from werk.ops.snapshot import Snapshot
from werk.ops.workers import Worker
from werk.store import keys
from werk.store.connection import Link, link

HOST = socket.gethostname()


@pytest.fixture
def light(redis_url: str) -> Link:
    return link(roles.settings("reader"))


@pytest.fixture
def set_config(connection: redis.Redis) -> Iterator[Callable[[str, object], object]]:
    """CONFIG SET, and back again at the end."""
    before: dict[str, str] = {}

    def set_to(name: str, value: object) -> None:
        before.setdefault(name, connection.config_get(name)[name])
        connection.config_set(name, value)

    yield set_to
    for name, value in before.items():
        connection.config_set(name, value)


def problems(light: Link, **limits: object) -> list[tuple[str, str]]:
    found = checks.problems(Snapshot.read(light), Limits(**limits))  # type: ignore[arg-type]
    return [(own.level, own.what) for own in found]


def table(snapshot: Snapshot) -> str:
    return "\n".join(status.table(snapshot))


def says(light: Link, level: str, *parts: str) -> bool:
    return any(
        own == level and all(part in what for part in parts) for own, what in problems(light)
    )


# --- what it reads


def test_an_empty_redis_is_well(light: Link) -> None:
    assert checks.problems(Snapshot.read(light)) == []
    assert checks.check(Snapshot.read(light), Limits()) == (
        0,
        "WERK OK - no queue yet | waiting=0 oldest=0s;;300 workers=0 failed=0",
    )
    assert "no queue" in table(Snapshot.read(light))
    assert status.table(Snapshot.read(light))[-1] == "no problems"


def test_what_is_there_is_counted(
    work: Start,
    light: Link,
    connection: redis.Redis,
    tmp_path: Path,
) -> None:
    work()
    running = werk.enqueue("block", str(tmp_path))
    begun(tmp_path)
    werk.enqueue("block", str(tmp_path))
    werk.enqueue("block", str(tmp_path), options=werk.Options(delay=60))
    Queue("low", connection=connection).enqueue("worker_tasks.note", str(tmp_path))
    snapshot = wait_until(lambda: (s := Snapshot.read(light)).workers[0].state == "busy" and s)
    queue, low = snapshot.queues["default"], snapshot.queues["low"]
    assert (queue.waiting, queue.running, queue.scheduled, queue.failed) == (1, 1, 1, 0)
    assert (queue.workers, low.workers, low.waiting) == (1, 0, 1)
    assert 0 <= (queue.oldest_s or -1) < 60
    [worker] = snapshot.workers[0].slots
    assert (worker.job, worker.kind, worker.queues) == (running.id, "werk", ["default"])
    assert worker.beat_s < 30 and 0 <= (worker.job_s or -1) < 60
    assert running.id in table(snapshot)
    assert checks.problems(snapshot)[0].what == "queue low: 1 waiting and no worker"


def test_json_has_the_keys_it_promises(work: Start, redis_url: str, tmp_path: Path) -> None:
    work()
    werk.enqueue("block", str(tmp_path))
    begun(tmp_path)
    found = json.loads(run("werk", "status", "--json").stdout)
    assert set(found) == set(
        "schema time redis queues workers failed_webhooks gave_up would_refuse problems".split()
    )
    assert found["schema"] == 1
    assert set(found["queues"]["default"]) == set(
        "waiting oldest_s running scheduled ready failed paused workers".split()
    )
    assert set(found["workers"][0]) == set(
        (
            "name worker slots host pid state job call job_s beat_s done failed queues kind clock_s"
        ).split()
    )
    assert found["time"].endswith("Z")


def test_the_oldest_is_found_behind_those_that_came_to_the_front(
    connection: redis.Redis, light: Link
) -> None:
    for number in range(40):
        job = werk.enqueue("sleep", 1, options=werk.Options(front=number > 0))
        if number == 0:
            connection.hset(f"rq:job:{job.id}", "enqueued_at", "2020-01-01T00:00:00.000000Z")
    # the first of them lies 40th: between 32 and 64 nothing is looked at but 32
    connection.rpush(
        "rq:queue:default",
        *connection.lrange("rq:queue:default", 39, 39) * 30,
    )
    assert (Snapshot.read(light).queues["default"].oldest_s or 0) > 10**6


def test_keys_of_another_type_do_no_harm(light: Link, connection: redis.Redis) -> None:
    werk.enqueue("sleep", 1)
    for key in ("rq:wip:default", "rq:failed:default", "rq:werk:leases", "rq:werk:paused"):
        connection.set(key, "x")
    connection.sadd("rq:workers", "rq:worker:a", "rq:worker:b")
    connection.set("rq:worker:a", "x")
    connection.hset("rq:worker:b", mapping={"birth": "when?", "pid": "?", "werk_lease": "x"})
    snapshot = Snapshot.read(light)
    assert snapshot.queues["default"].waiting == 1
    assert [worker.name for worker in snapshot.workers] == ["b"]


# --- what it complains of


def test_a_queue_without_a_worker(light: Link) -> None:
    werk.enqueue("sleep", 1)
    done = run("werk", "status", "--check")
    assert done.returncode == 2
    assert done.stdout.startswith(
        "WERK CRITICAL - queue default: 1 waiting and no worker "
        "(start one: werk worker default) | waiting=1 "
    )


def test_the_age_of_the_oldest(
    work: Start, connection: redis.Redis, light: Link, tmp_path: Path
) -> None:
    work(env=PATIENT)
    werk.enqueue("block", str(tmp_path))
    begun(tmp_path)
    job = werk.enqueue("block", str(tmp_path))
    connection.hset(f"rq:job:{job.id}", "enqueued_at", "2026-01-01T00:00:00.000000Z")
    assert says(light, CRITICAL, "queue default: the oldest has waited")
    assert (WARNING, "queue default") in [
        (level, what[:13]) for level, what in problems(light, age_s=AgeLimits(Limit(5, None)))
    ]
    assert run("werk", "status", "--check", "--max-age", "5:").returncode == 1
    assert run("werk", "status", "--check", "--max-age", ":").returncode == 0


def test_each_queue_may_have_its_own_limit_of_age(
    light: Link, connection: redis.Redis, work: Start, tmp_path: Path
) -> None:
    work("low", "default", env=PATIENT)
    werk.enqueue("block", str(tmp_path), options=werk.Options(queue="low"))
    begun(tmp_path)
    for queue in ("low", "default"):
        job = werk.enqueue("note", str(tmp_path), options=werk.Options(queue=queue))
        an_hour_ago = keys.iso(time.time() - 3600)
        connection.hset(f"rq:job:{job.id}", "enqueued_at", an_hour_ago)

    def check(limits: str) -> tuple[int, str]:
        done = run("werk", "status", "--check", "--max-age", limits)
        return done.returncode, done.stdout

    code, line = check("low=30m:2h,default=30m:2h")
    assert (code, line.count("the oldest has waited")) == (1, 2)
    assert " oldest=36" in line and ";" not in line.partition("oldest=36")[2].partition(" ")[0]
    code, line = check("low=30m:2h")  # the other one keeps 300 s
    assert code == 2 and "queue default: the oldest has waited" in line
    code, line = check("low=10:60,2h:3h")
    assert code == 2 and "queue default: the oldest" not in line
    assert check("low=7200,default=7200:,other=1")[0] == 0
    shown = run("werk", "status", "--json", "--max-age", "low=:,default=:").stdout
    assert json.loads(shown)["problems"] == []


def test_a_process_of_this_host_that_has_exited_is_said_to_have(
    work: Start, light: Link, connection: redis.Redis
) -> None:
    worker = work()
    child = horse(worker)
    os.kill(worker.pid, signal.SIGKILL)
    os.killpg(child, signal.SIGKILL)
    worker.wait()
    wait_until(lambda: says(light, WARNING, "is stale", f"process {worker.pid} on {HOST} has exit"))
    shown = " ".join(run("werk", "status").stdout.split())
    assert "start another: werk worker default; werk repair removes the record" in shown
    [name] = [own.name for own in Snapshot.read(light).workers]
    connection.hset(f"rq:worker:{name}", "hostname", "elsewhere")
    assert not says(light, WARNING, "has exited")
    assert run("werk", "repair").stdout == f"rq:worker:{name} gone\n"
    assert Snapshot.read(light).workers == []


def test_scheduled_jobs_without_a_worker_are_critical(light: Link, connection: redis.Redis) -> None:
    werk.enqueue("sleep", 1, options=werk.Options(queue="low", delay=9999))
    assert problems(light) == [(CRITICAL, "queue low: 1 scheduled and no worker")]
    connection.zadd("rq:scheduled:low", {"due": 1})
    assert problems(light) == [(CRITICAL, "queue low: 2 scheduled and no worker")]
    connection.sadd("rq:werk:paused", "low")
    assert problems(light) == []


def test_a_task_sets_the_limit_of_its_queue(
    work: Start, light: Link, connection: redis.Redis, tmp_path: Path
) -> None:
    (tmp_path / "soon.py").write_text(
        "from werk.registry import Task\n"
        "TASKS = {name: Task('worker_tasks.note', queue='fast', within=within)\n"
        "         for name, within in {'a': '2h', 'b': '1h', 'c': 0}.items()}\n"
    )
    path = f"{PYTHONPATH}{os.pathsep}{tmp_path}"
    env = {"PYTHONPATH": path, "WERK_REGISTRY": f"{ENV['WERK_REGISTRY']},soon:TASKS"}
    work("other", env=env)
    job = werk.enqueue("a", str(tmp_path), options=werk.Options(queue="fast"))
    connection.sadd("rq:workers:fast", "rq:worker:x")
    facts = {"birth": "2026-01-01T00:00:00.000000Z", "queues": "fast", "state": "busy"}
    connection.hset("rq:worker:x", mapping=facts)
    connection.sadd("rq:workers", "rq:worker:x")
    connection.expire("rq:worker:x", 400)

    def age_of_job(seconds: float) -> list[str]:
        since = keys.iso(time.time() - seconds)
        connection.hset(f"rq:job:{job.id}", "enqueued_at", since)
        return [what for level, what in problems(light) if level == CRITICAL]

    wait_until(lambda: age_of_job(3000) == [])  # once the worker has published its tasks
    assert age_of_job(4000) == ["queue fast: the oldest has waited 66m (limit 60m)"]
    limit = AgeLimits.parse("fast=3h")
    assert [what for level, what in problems(light, age_s=limit) if level == CRITICAL] == []


def test_a_frozen_worker_is_stale_and_its_queue_gives_no_answer(
    work: Start,
    connection: redis.Redis,
    light: Link,
) -> None:
    worker = work()
    assert run("werk", "ping", "default").returncode == 0
    child = horse(worker)
    os.kill(worker.pid, signal.SIGSTOP)
    os.killpg(child, signal.SIGSTOP)
    name = Snapshot.read(light).workers[0].name
    wait_until(lambda: says(light, WARNING, f"worker {name} is stale"))
    done = run("werk", "status", "--check")
    assert done.returncode == 1
    assert f"worker {name} is stale" in done.stdout
    assert f"process {worker.pid} on" in done.stdout
    done = run("werk", "ping", "default", "--timeout", "0.5")
    assert (done.returncode, done.stdout) == (
        1,
        "default: no answer within 0.5 s; see werk status\n",
    )
    assert connection.llen("rq:queue:default") == 0  # the ping is taken back
    os.killpg(child, signal.SIGCONT)
    os.kill(worker.pid, signal.SIGCONT)
    wait_until(lambda: problems(light) == [])
    assert run("werk", "ping").returncode == 0


def test_a_container_asks_for_its_own_beat(work: Start, redis_url: str) -> None:
    done = run("werk", "status", "--here")
    assert (done.returncode, done.stdout) == (2, f"WERK CRITICAL - no worker on {HOST}\n")
    worker = work()
    well = f"WERK OK - 1 worker on {HOST}\n"
    wait_until(lambda: run("werk", "status", "--here").stdout == well)
    os.kill(worker.pid, signal.SIGSTOP)
    wait_until(lambda: run("werk", "status", "--here").returncode == 2)
    os.kill(worker.pid, signal.SIGCONT)
    wait_until(lambda: run("werk", "status", "--here").returncode == 0)
    away = {"RQ_REDIS_URL": "redis://127.0.0.1:1/0"}
    assert run("werk", "status", "--here", env=away).returncode == 0
    assert run("werk", "status", "--here", "--typo").returncode == 2


def two_at_once(work: Start, light: Link) -> list[Process]:
    """Start two workers, neither of which counts as the successor of the other."""
    both = [work(), work()]

    def have_both_ticked() -> bool:
        found = Snapshot.read(light)
        second = max(own.born for own in found.workers)
        return all(found.time - own.beat_s > second for own in found.workers)

    wait_until(have_both_ticked)
    return both


def test_a_killed_worker_is_stale_at_once_after_its_lease(
    work: Start, connection: redis.Redis, light: Link
) -> None:
    worker, _ = two_at_once(work, light)
    worker.kill()
    wait_until(lambda: says(light, WARNING, "is stale"))
    # and still so when another has rescued what it had
    wait_until(lambda: connection.zcard("rq:werk:leases") == 1)
    assert says(light, WARNING, "is stale")
    wait_until(lambda: Snapshot.read(light).queues["default"].workers == 1)


def test_a_dead_worker_that_was_replaced_is_no_problem(
    work: Start, connection: redis.Redis, light: Link
) -> None:
    killed = work()
    killed.kill()
    work()
    found = wait_until(lambda: [w for w in Snapshot.read(light).workers if w.successor])
    assert [(own.pid, own.state) for own in found] == [(killed.pid, "stale")]
    wait_until(lambda: problems(light) == [])
    assert "is stale and has no job;" in run("werk", "status").stdout
    wait_until(lambda: run("werk", "status", "--check").returncode == 0)
    well = f"WERK OK - 1 worker on {HOST}\n"
    wait_until(lambda: run("werk", "status", "--here").stdout == well)


def test_a_worker_replaces_one_dead_worker(work: Start, light: Link) -> None:
    for worker in two_at_once(work, light):
        worker.kill()
    work()
    wait_until(lambda: [w for w in Snapshot.read(light).workers if w.successor])
    wait_until(lambda: says(light, WARNING, "no worker has replaced it"))
    work("low")
    assert says(light, WARNING, "no worker has replaced it")
    work()
    wait_until(lambda: problems(light) == [])


def test_repair_removes_the_record_of_a_dead_worker(
    work: Start, connection: redis.Redis, light: Link, tmp_path: Path
) -> None:
    job = werk.enqueue("block", str(tmp_path))
    killed = work()
    key = f"rq:worker:{Snapshot.read(light).workers[0].name}"
    begun(tmp_path)
    killed.kill()
    wait_until(lambda: says(light, WARNING, "is stale"))
    assert run("werk", "repair").stdout == ""  # nobody has taken its job
    alive = work()
    begun(tmp_path, 2)
    wait_until(lambda: run("werk", "repair", "--dry-run").stdout == f"{key} gone\n")
    assert connection.exists(key)
    done = run("werk", "repair")
    assert (done.stdout, done.stderr) == (f"{key} gone\n", "repaired 0 jobs and 1 worker\n")
    assert [own.pid for own in Snapshot.read(light).workers] == [alive.pid]
    go(tmp_path)
    assert job.result(60) == "ends"


def test_a_frozen_worker_whose_record_was_removed_registers_again(
    work: Start, connection: redis.Redis, light: Link
) -> None:
    frozen = work()
    child = horse(frozen)
    os.kill(frozen.pid, signal.SIGSTOP)
    os.killpg(child, signal.SIGSTOP)
    wait_until(lambda: run("werk", "repair").stdout)
    assert not connection.exists("rq:workers")
    os.killpg(child, signal.SIGCONT)
    os.kill(frozen.pid, signal.SIGCONT)
    assert werk.enqueue("hello", "Ada").result(60) == "Hello Ada"
    wait_until(lambda: [own.pid for own in Snapshot.read(light).workers] == [frozen.pid])


def test_a_job_of_unknown_age_is_shown_without_it(work: Start, light: Link, tmp_path: Path) -> None:
    """Redis keeps the record of an execution for 90 s, if nobody renews it."""
    work()
    job = werk.enqueue("block", str(tmp_path))
    begun(tmp_path)
    snapshot = Snapshot.read(light)
    [[slot]] = [own.slots for own in snapshot.workers]
    workers = [Worker.of([slot._replace(job=job.id, job_s=None)])]
    lines = table(snapshot._replace(workers=workers)).splitlines()
    [line] = [line for line in lines if job.id in line]
    assert line.split()[1] == slot.worker[: len(line.split()[1])]  # no time before it


def test_a_horse_that_hangs(work: Start, light: Link) -> None:
    worker = work()
    child = horse(worker)
    os.killpg(child, signal.SIGSTOP)
    werk.enqueue("hello", "Ada")
    wait_until(lambda: says(light, WARNING, "is hung"))
    done = run("werk", "status", "--check", "--max-age", ":")
    assert done.returncode == 1
    assert f"kill the child of process {worker.pid}" in done.stdout
    assert run("werk", "ping", "--timeout", "0.5").returncode == 1
    os.kill(child, signal.SIGKILL)  # as it says
    wait_until(lambda: problems(light) == [])
    assert run("werk", "ping").returncode == 0


def test_a_ping_of_busy_workers_is_no_failure(
    work: Start, light: Link, redis_url: str, tmp_path: Path
) -> None:
    workers = [work(env={"RQ_WORKER_CLASS": "fast_worker.Calm"}) for _ in range(2)]
    for number in (1, 2):
        werk.enqueue("block", str(tmp_path))
        begun(tmp_path, number)
    wait_until(lambda: [own.state for own in Snapshot.read(light).workers] == ["busy", "busy"])
    done = run("werk", "ping", "--timeout", "0.5")
    assert (done.returncode, done.stderr) == (0, "")
    assert re.fullmatch(r"default: busy: 2 workers, the longest job has run for \w+\n", done.stdout)
    [answer] = json.loads(run("werk", "ping", "--timeout", "0.5", "--json").stdout)
    assert answer["trouble"].startswith("busy: 2 workers")
    os.killpg(workers[0].pid, signal.SIGSTOP)
    wait_until(lambda: says(light, WARNING, "is stale"))
    assert "default: busy: 1 worker," in run("werk", "ping", "--timeout", "0.5").stdout
    os.killpg(workers[0].pid, signal.SIGCONT)


def test_a_long_job_and_an_idle_hour_are_no_hang(
    work: Start,
    connection: redis.Redis,
    light: Link,
    tmp_path: Path,
) -> None:
    work()
    werk.enqueue("block", str(tmp_path))
    begun(tmp_path)
    werk.enqueue("block", str(tmp_path))
    wait_until(lambda: (Snapshot.read(light).queues["default"].oldest_s or 0) > 1.5)
    wait_until(lambda: problems(light) == [])
    go(tmp_path)
    wait_until(
        lambda: (
            not (found := Snapshot.read(light)).queues["default"].waiting
            and found.workers[0].state == "idle"
        )
    )
    key = "rq:worker:" + Snapshot.read(light).workers[0].name

    def is_hung() -> bool:
        connection.hset(key, "werk_moved", 1)  # its horse may write the field again
        return says(light, WARNING, "is hung")

    wait_until(is_hung)  # an idle one moves once a minute


def test_redis_that_may_evict(light: Link, set_config: Callable[[str, object], None]) -> None:
    set_config("maxmemory-policy", "allkeys-lru")
    assert says(light, CRITICAL, "allkeys-lru")
    command = "run redis-cli CONFIG SET maxmemory-policy noeviction, and"
    assert command in run("werk", "status", "--check").stdout


def test_redis_that_keeps_nothing(light: Link, set_config: Callable[[str, object], None]) -> None:
    set_config("appendonly", "no")
    set_config("save", "")
    assert says(light, WARNING, "nothing on disk")
    done = run("werk", "status", "--check")
    assert done.returncode == 1
    assert "(run redis-cli CONFIG SET appendonly yes, and set it in redis.conf)" in done.stdout
    set_config("save", "3600 1")
    assert problems(light) == []
    set_config("appendonly", "yes")
    for often in ("always", "everysec"):
        set_config("appendfsync", often)
        assert f"AOF {often}" in " ".join(table(Snapshot.read(light)).split())


def test_redis_that_is_nearly_full(
    light: Link, connection: redis.Redis, set_config: Callable[[str, object], None]
) -> None:
    connection.setrange("ballast", 20_000_000, "x")  # no buffer of a client as large, for a while
    set_config("maxmemory", int(connection.info("memory")["used_memory"] / 0.9))
    what = next(what for _, what in problems(light) if "nearly full: " in what)
    assert 85 < int(re.findall(r"(\d+)%", what)[0]) < 95


def test_a_plain_rq_worker_beside_ours(
    work: Start,
    spawn: Start,
    light: Link,
) -> None:
    spawn("rq", "worker", "default", "-n", "other")
    wait_until(lambda: Snapshot.read(light).workers)
    assert problems(light) == []
    work()
    assert wait_until(lambda: says(light, WARNING, "other is a plain RQ worker"))
    assert {own.name: own.kind for own in Snapshot.read(light).workers}["other"] == "rq"


def test_a_paused_queue(work: Start, spawn: Start, light: Link) -> None:
    work(env=PATIENT)
    assert run("werk", "pause", "default").returncode == 0
    assert problems(light) == []
    with pytest.warns(werk.WerkWarning, match="is paused"):
        job = werk.enqueue("hello", "Ada")
    assert says(light, WARNING, "queue default: 1 waiting, paused")
    assert "paused" in run("werk", "status").stdout
    done = run("werk", "ping")
    assert (done.returncode, done.stdout) == (1, "default: paused, skipped\n")
    assert done.stderr == "werk: no queue was tested: all are paused\n"
    assert run("werk", "resume", "default").returncode == 0
    assert job.result(60) == "Hello Ada"
    run("werk", "pause", "default")
    spawn("rq", "worker", "default", "-n", "other")
    assert wait_until(
        lambda: says(light, WARNING, "is paused, but plain RQ worker other still takes its jobs")
    )


def test_a_paused_queue_is_no_more_than_a_warning(connection: redis.Redis, light: Link) -> None:
    werk.enqueue("sleep", 1)
    connection.sadd("rq:werk:paused", "default")
    assert problems(light, waiting=Limit(None, 0), age_s=AgeLimits(Limit(None, 0))) == [
        (WARNING, "queue default: 1 waiting, paused")
    ]


def test_all_suspended(light: Link, connection: redis.Redis) -> None:
    werk.enqueue("sleep", 1)
    suspend(connection)
    assert problems(light) == [(WARNING, "queue default: 1 waiting, all workers suspended")]
    assert "default: paused, skipped" in run("werk", "ping").stdout
    resume(connection)


def test_redis_away() -> None:
    done = run("werk", "status", "--check", env={"RQ_REDIS_URL": "redis://127.0.0.1:1/0"})
    assert done.returncode == 2
    assert done.stdout.startswith("WERK CRITICAL - Redis at 127.0.0.1:1/0 was not reached within")


def test_a_check_is_one_line_whatever_a_queue_is_called(
    connection: redis.Redis, light: Link
) -> None:
    connection.rpush("rq:queue:a|b\nc", "x")
    connection.hset("rq:job:x", "status", "queued")
    connection.sadd("rq:queues", "rq:queue:a|b\nc")
    code, line = checks.check(Snapshot.read(light), Limits())
    assert (code, line.count("|")) == (2, 1)
    assert line.startswith("WERK CRITICAL - queue a?b?c: 1 waiting and no worker (")


@pytest.mark.parametrize(
    "arguments",
    [
        ["--typo"],
        ["x"],
        *(["--max-age", limit] for limit in ("old", "nan", "inf", "-1", "5:1", "", "1:2:3")),
        *(["--max-age", limit] for limit in ("low=", "=5", "a=5,a=6", "5,6", "low=5,", "a=2h:1m")),
        *(["--max-waiting", limit] for limit in ("5m", "low=5", "1e3", "-1")),
    ],
)
def test_wrong_usage_of_a_check_is_3(redis_url: str, arguments: list[str]) -> None:
    for words, code in ((("--check",), 3), ((), 2)):
        done = run("werk", "status", *words, *arguments)
        assert (done.returncode, done.stdout, done.stderr.count("\n")) == (code, "", 1)


def test_a_check_has_no_json(redis_url: str) -> None:
    for option in ("--check", "--here"):
        done = run("werk", "status", option, "--json")
        assert (done.returncode, done.stdout) == (3, "")
    assert run("werk", "status", "--check=1").returncode == 3


@pytest.mark.parametrize("url", ["nonsense", "redis://:secret@127.0.0.1:{}/0"])
def test_a_check_that_cannot_look_is_critical(redis_url: str, url: str) -> None:
    env = {"RQ_REDIS_URL": url.format(redis_url.rpartition(":")[2].split("/")[0])}
    for option in ("--check", "--here"):
        done = run("werk", "status", option, env=env)
        assert (done.returncode, done.stdout[:16]) == (2, "WERK CRITICAL - ")
        assert "secret" not in done.stdout + done.stderr


@pytest.mark.parametrize(
    ("text", "number", "level"),
    [
        ("10", 10, OK),
        ("10", 11, CRITICAL),
        (":10", 11, CRITICAL),
        ("5:10", 6, WARNING),
        ("5:10", 11, CRITICAL),
        ("5:", 11, WARNING),
        (":", 10**9, OK),
    ],
)
def test_limits(text: str, number: float, level: str) -> None:
    assert Limit.parse(text).level(number) == level


def test_limits_of_a_check(light: Link, connection: redis.Redis) -> None:
    connection.zadd("rq:failed:default", {"a": time.time() + 100, "b": 1, "c": -1})
    connection.sadd("rq:queues", "rq:queue:default")
    done = run("werk", "status", "--check", "--max-failed", "1:5", "--min-workers", "2")
    assert done.returncode == 2
    assert done.stdout == (
        "WERK CRITICAL - 0 live workers, at least 2 are required (start more: werk worker); "
        "queue default: 2 failed (werk failed --queue default)"
        " | waiting=0 oldest=0s;;300 workers=0;;2: failed=2;1;5\n"
    )
    assert run("werk", "status", "--check", "--max-failed", "1").returncode == 2
    assert run("werk", "status", "--check", "--max-failed", "2").returncode == 0


def test_workers_that_differ(connection: redis.Redis, light: Link) -> None:
    now = time.time()
    connection.sadd("rq:queues", "rq:queue:default")
    serves = ["rq:werk:serves:default", now, "sleep aaa", now - 3, "hello bbb"]
    connection.execute_command("ZADD", *serves, now - 60, "sleep old")
    assert problems(light) == []
    connection.execute_command("ZADD", "rq:werk:serves:default", now, "sleep ccc")
    assert problems(light) == [
        (WARNING, "queue default: its workers have different versions of sleep")
    ]


def test_what_plain_rq_workers_left(light: Link, connection: redis.Redis) -> None:
    connection.sadd("rq:queues", "rq:queue:default")
    connection.zadd("rq:wip:default", {"a:e": 1})
    connection.rpush("rq:queue:default:intermediate", "b")
    assert problems(light) == [(WARNING, "queue default: 2 jobs left by dead workers")]


def test_dependents_that_are_ready_are_counted_and_may_not_stay(
    work: Start, light: Link, connection: redis.Redis
) -> None:
    said = "queue other: 2 dependents are ready and not enqueued"
    connection.sadd("rq:queues", "rq:queue:other")
    assert "READY" not in table(Snapshot.read(light))
    connection.zadd("rq:ready:other", {"a": 1, "b": time.time() + 9999})
    assert problems(light) == [(WARNING, said)]
    assert status_view.as_json(Snapshot.read(light))["queues"]["other"]["ready"] == 2
    assert "READY" in table(Snapshot.read(light)).split()
    assert samples(metrics.exposition(light))['werk_queue_ready{queue="other"}'] == 2
    work(env=PATIENT)  # of another queue
    assert (WARNING, said) in problems(light)
    connection.zadd("rq:werk:ready", {"other": time.time()})
    facts = {"birth": "2026-01-01T00:00:00.000000Z", "queues": "other"}
    connection.sadd("rq:workers", "rq:worker:plain")
    connection.hset("rq:worker:plain", mapping=facts)
    connection.expire("rq:worker:plain", 400)
    assert (WARNING, said) not in problems(light)
    connection.zadd("rq:werk:ready", {"other": time.time() - checks.READY_S - 1})
    assert (WARNING, said) in problems(light)


def test_what_a_plain_rq_worker_has_just_taken_is_not_left(
    spawn: Start, light: Link, connection: redis.Redis
) -> None:
    plain = spawn("rq", "worker", "default")
    wait_until(lambda: Snapshot.read(light).workers)
    plain.send_signal(signal.SIGSTOP)  # or its own clean-up takes them away
    connection.sadd("rq:queues", "rq:queue:default")
    connection.rpush("rq:queue:default:intermediate", "b")
    assert problems(light) == []
    connection.rpush("rq:queue:default:intermediate", "c")
    assert says(light, WARNING, "jobs left by dead workers")


def test_a_worker_whose_rescue_is_not_over_is_stale(light: Link, connection: redis.Redis) -> None:
    facts = {"birth": "2026-01-01T00:00:00.000000Z", "werk_lease": 15, "werk_moved": time.time()}
    connection.sadd("rq:workers", "rq:worker:a")
    connection.hset("rq:worker:a", mapping={**facts, "werk_horse": "x"})
    connection.zadd("rq:werk:leases", {"a": time.time() + 5})
    assert problems(light) == []
    connection.hdel("rq:worker:a", "werk_horse")  # by the rescue
    assert says(light, WARNING, "worker a is stale")


def test_a_worker_that_runs_anything(work: Start, light: Link) -> None:
    work(env={"WERK_ALLOW_UNREGISTERED": "yes"})
    assert says(light, WARNING, "WERK_ALLOW_UNREGISTERED")


def test_a_worker_is_busy_while_it_has_a_job(light: Link, connection: redis.Redis) -> None:
    """Whatever state its horse wrote last: it does not write it with each job."""
    born, key = keys.clock()[2], "rq:worker:w"
    facts = {"birth": born, "last_heartbeat": born, "werk_lease": 15, "werk_horse": "g"}
    connection.hset(key, mapping={**facts, "queues": "default", "werk_moved": time.time()})
    connection.zadd("rq:werk:leases", {"w": time.time() + 15})
    for written in ("busy", "idle"):
        connection.hset(key, "state", written)
        assert Snapshot.read(light).workers[0].state == "idle"
        connection.sadd(f"{key}:executions", "a:e1")
        assert Snapshot.read(light).workers[0].state == "busy"
        connection.delete(f"{key}:executions")


def test_a_queue_that_a_worker_names_twice_is_counted_once(
    light: Link, connection: redis.Redis
) -> None:
    born, key = keys.clock()[2], "rq:worker:w"
    facts = {"birth": born, "last_heartbeat": born, "werk_lease": 15, "werk_horse": "g"}
    connection.hset(key, mapping={**facts, "queues": "default,low,default"})
    connection.zadd("rq:werk:leases", {"w": time.time() + 15})
    connection.rpush("rq:werk:hand:w:default", "a")
    snapshot = Snapshot.read(light)
    assert snapshot.workers[0].queues == ["default", "low"]
    found = {name: (own.workers, own.waiting) for name, own in snapshot.queues.items()}
    assert found == {"default": (1, 1), "low": (1, 0)}


@pytest.mark.parametrize(
    ("ttl", "beat_s_ago", "state"),
    [
        (300, 100, "idle"),  # it beats every 405 s
        (55, 420, "idle"),  # the next is due
        (45, 430, "stale"),
        (None, 400, "idle"),
        (None, 500, "stale"),
    ],
)
def test_a_plain_rq_worker_that_is_silent_is_stale(
    light: Link, connection: redis.Redis, ttl: int | None, beat_s_ago: int, state: str
) -> None:
    beat = datetime.now(timezone.utc) - timedelta(seconds=beat_s_ago)
    facts = {"birth": "2026-01-01T00:00:00.000000Z", "state": "idle", "queues": "default"}
    connection.hset("rq:worker:w", mapping={**facts, "last_heartbeat": keys.iso(beat.timestamp())})
    connection.sadd("rq:workers", "rq:worker:w")
    if ttl:
        connection.expire("rq:worker:w", ttl)
    assert Snapshot.read(light).workers[0].state == state
    assert says(light, WARNING, "worker w is stale") is (state == "stale")


# --- slots


class Fleet:
    """Records of workers that are not there: add("web", 4), each with a slot per number."""

    def __init__(self, connection: redis.Redis) -> None:
        self.redis = connection

    def add(self, worker: str, slots: int, pid: int = 7) -> None:
        for number in range(1, slots + 1):
            name, now = f"{worker}.{number}", time.time()
            facts = {"birth": keys.iso(now - 60), "last_heartbeat": keys.iso(now), "state": "idle"}
            facts |= {"hostname": HOST, "pid": str(pid), "queues": "default,low"}
            facts |= {"werk_lease": "15", "werk_horse": "g", "werk_slots": str(slots)}
            self.redis.hset(f"rq:worker:{name}", mapping={**facts, "werk_moved": str(now)})
            self.redis.sadd("rq:workers", f"rq:worker:{name}")
            self.redis.zadd("rq:werk:leases", {name: now + 15})

    def run(self, slot: str, job: str, since_s: float) -> None:
        execution = f"rq:execution:{job}:e"
        self.redis.hset(execution, "created_at", str(time.time() - since_s))
        self.redis.sadd(f"rq:worker:{slot}:executions", f"{job}:e")

    def hang(self, *slots: str) -> None:
        for slot in slots:
            self.redis.hset(f"rq:worker:{slot}", "werk_moved", 1)

    def die(self, worker: str) -> None:
        for lease in self.redis.zrange("rq:werk:leases", 0, -1):
            if lease.decode().rpartition(".")[0] == worker:
                self.redis.zadd("rq:werk:leases", {lease: time.time() - 1})


@pytest.fixture
def fleet(connection: redis.Redis) -> Fleet:
    return Fleet(connection)


def test_a_worker_is_one_line_however_many_slots_it_has(
    fleet: Fleet, light: Link, connection: redis.Redis
) -> None:
    fleet.add("web", 12)
    fleet.run("web.2", "short", 3)
    fleet.run("web.10", "long", 200)
    fleet.hang("web.11")
    for slot in ("web.1", "web.12"):
        connection.hset(f"rq:worker:{slot}", mapping={"successful_job_count": 5})
    lines = run("werk", "status").stdout.splitlines()
    [line] = [line for line in lines if line.startswith("web")]
    found = re.split("  +", line)
    assert re.fullmatch(r"\d+s", found.pop(2))
    assert found == ["web", "1 hung, 2 busy, 9 idle", "10", "0", "werk", "default,low"]
    jobs = [line.split()[:3:2] for line in lines if "  web." in line]
    assert jobs == [["long", "web.10"], ["short", "web.2"]]
    snapshot = Snapshot.read(light)
    assert [own.workers for own in snapshot.queues.values()] == [1, 1]
    found = json.loads(run("werk", "status", "--json").stdout)["workers"]
    assert [own["name"] for own in found] == [f"web.{number}" for number in range(1, 13)]
    assert {(own["worker"], own["slots"]) for own in found} == {("web", 12)}
    assert [own["job"] for own in found if own["job"]] == ["short", "long"]


def test_a_problem_of_a_slot_names_it(fleet: Fleet, light: Link) -> None:
    fleet.add("web", 3)
    fleet.hang("web.2")
    found = checks.problems(Snapshot.read(light))
    assert [(own.level, own.what) for own in found] == [
        (WARNING, "slot web.2 is hung: heartbeats are sent, but no jobs are taken")
    ]
    assert found[0].fix.startswith("werk drain web.2 ends it; restart process 7 on ")
    fleet.hang("web.1")
    [(_, what)] = problems(light)
    assert what.startswith("slots web.1, web.2 are hung: ")


def test_what_concerns_a_worker_is_one_problem(
    fleet: Fleet, light: Link, connection: redis.Redis
) -> None:
    fleet.add("web", 3)
    for number in (1, 2, 3):
        facts = {"werk_free": 1, "werk_lines_dropped": f"2|{time.time()}", "werk_clock": 90}
        connection.hset(f"rq:worker:web.{number}", mapping=facts)
    assert sorted(what for _, what in problems(light)) == [
        f"the clock of {HOST} is 90 s ahead of Redis's",
        "worker web has WERK_ALLOW_UNREGISTERED: it runs any code",
        "worker web: 6 log lines dropped: nobody reads its output",
    ]


def test_a_dead_worker_with_slots_is_one_problem_until_it_is_replaced(
    fleet: Fleet, light: Link
) -> None:
    fleet.add("old", 3)
    fleet.die("old")
    [(level, what)] = problems(light)
    assert level == WARNING
    assert what.startswith("worker old with 3 slots is stale: silent for 1")
    assert Snapshot.read(light).queues["default"].workers == 0
    fleet.add("new", 2, pid=8)
    for number in (1, 2):
        fleet.redis.hset(f"rq:worker:new.{number}", "birth", keys.iso(time.time()))
    assert problems(light) == []
    said = "worker old is stale and has no job; new has replaced it"
    assert run("werk", "status").stdout.count(said) == 1


def test_a_slot_that_left_its_record_behind_is_reported(
    fleet: Fleet, light: Link, connection: redis.Redis
) -> None:
    fleet.add("web", 2)
    connection.zrem("rq:werk:leases", "web.2")
    connection.hdel("rq:worker:web.2", "werk_horse")
    assert says(light, WARNING, "slot web.2 is stale", "but process 7 on")
    assert Snapshot.read(light).queues["default"].workers == 1


def test_a_host_is_well_while_one_slot_can_run_jobs(fleet: Fleet) -> None:
    fleet.add("web", 2)
    fleet.hang("web.1")
    assert run("werk", "status", "--here").stdout == f"WERK OK - 1 worker on {HOST}\n"
    fleet.hang("web.2")
    done = run("werk", "status", "--here")
    assert (done.returncode, done.stdout) == (2, "WERK CRITICAL - worker web is hung\n")


def test_checks_and_metrics_count_workers_and_slots(fleet: Fleet, light: Link) -> None:
    fleet.add("web", 4)
    fleet.add("db", 2, pid=8)
    fleet.run("web.1", "a", 1)
    fleet.hang("db.1", "db.2")
    found = samples(metrics.exposition(light))
    wanted = {
        'werk_workers{kind="werk",state="busy"}': 1,
        'werk_workers{kind="werk",state="hung"}': 1,
        'werk_slots{kind="werk",state="busy"}': 1,
        'werk_slots{kind="werk",state="idle"}': 3,
        'werk_slots{kind="werk",state="hung"}': 2,
        'werk_queue_workers{queue="default"}': 2,
    }
    assert wanted.items() <= found.items()
    assert sum(own.startswith("werk_workers{") for own in found) == 2
    done = run("werk", "status", "--check", "--min-workers", "3")
    assert done.returncode == 2
    assert "2 live workers, at least 3 are required" in done.stdout
    assert " workers=2;;3: " in done.stdout


def test_a_worker_with_slots_is_seen_as_one(work: Start, light: Link, tmp_path: Path) -> None:
    worker = work(env={**PATIENT, "WERK_CONCURRENCY": "3"})
    jobs = [werk.enqueue("block", str(tmp_path)) for _ in range(2)]
    begun(tmp_path, 2)
    [own] = wait_until(lambda: (w := Snapshot.read(light).workers) and len(w[0].slots) == 3 and w)
    assert (own.pid, own.state, own.count("busy")) == (worker.pid, "busy", 2)
    assert {slot.job for slot in own.slots} == {*(job.id for job in jobs), None}
    assert problems(light) == []
    go(tmp_path)
    for job in jobs:
        assert job.result(60) == "ends"
    wait_until(lambda: Snapshot.read(light).workers[0].done == 2)


def test_a_slot_that_hangs_is_ended_as_its_problem_says(
    work: Start, light: Link, tmp_path: Path
) -> None:
    worker = work(env={"WERK_CONCURRENCY": "2"})
    first = werk.enqueue("block", str(tmp_path))
    [[_, busy, *_]] = begun(tmp_path)
    horses = wait_until(lambda: (h := [*filter(leads_group, children(worker.pid))])[1:] and h)
    [idle] = [pid for pid in horses if pid != int(busy)]
    os.killpg(idle, signal.SIGSTOP)
    second = werk.enqueue("hello", "Ada")
    [problem] = wait_until(
        lambda: [p for p in checks.problems(Snapshot.read(light)) if "hung" in p.what]
    )
    command = re.match(r"werk drain (\S+) ends it; restart process (\d+) on ", problem.fix)
    assert command and int(command[2]) == worker.pid
    assert run("werk", "drain", command[1], "--yes", "--wait").returncode == 0
    assert is_gone(idle)
    wait_until(lambda: problems(light) == [])
    go(tmp_path)
    assert (first.result(60), second.result(60)) == ("ends", "Hello Ada")
    assert len(begun(tmp_path)) == 1  # the other slot went on


# --- what it costs


@pytest.fixture
def many(connection: redis.Redis) -> None:
    """100,000 finished and 10,000 failed jobs."""
    make = """for i = ARGV[1], ARGV[2] do
      local id, kind = 'j' .. i, i <= 10000 and 'failed' or 'finished'
      redis.call('HSET', 'rq:job:' .. id, 'status', kind, 'origin', 'default', 'data', 'x',
        'werk_task', 'sleep', 'enqueued_at', '2026-01-01T00:00:00.000000Z')
      redis.call('ZADD', 'rq:' .. kind .. ':default', 4000000000 + i, id)
      if kind == 'failed' then
        redis.call('XADD', 'rq:results:' .. id, '*', 'type', 2, 'exc_string', ARGV[3])
      end
    end"""
    error = b64encode(compress(b"Traceback\n  ...\nValueError: no 17\n"))
    for start in range(1, 110_001, 10_000):
        connection.eval(make, 0, start, start + 9_999, error)
    connection.sadd("rq:queues", "rq:queue:default")


MEASURE = """
import resource, sys
from werk.cli.run import main
sys.argv = "werk {}".split()
try:
    main()
except SystemExit:
    pass
usage = resource.getrusage(resource.RUSAGE_SELF)
heavy = set(("redis", "rq", "prometheus_client")) & set(sys.modules)
print(usage.ru_utime + usage.ru_stime, usage.ru_maxrss, len(heavy), file=sys.stderr)
"""


@pytest.fixture
def measure(many: None, tmp_path: Path) -> Callable[[str], tuple[float, int]]:
    """Run a command of `werk`. Returns its CPU seconds and the most memory it had, in kB."""
    compiled = {"PYTHONDONTWRITEBYTECODE": "", "PYTHONPYCACHEPREFIX": str(tmp_path)}

    def measure(words: str) -> tuple[float, int]:
        done = run("python", "-c", MEASURE.format(words), env=compiled)
        cpu, memory, is_heavy = done.stderr.split()[-3:]
        assert (is_heavy, done.returncode) == ("0", 0)
        return float(cpu), int(memory)

    return measure


COMMANDS = ["failed", "failed --list", "retry --all --yes"]


def test_it_imports_neither_rq_nor_redis(measure: Callable[[str], tuple[float, int]]) -> None:
    for words in ("status", *COMMANDS):
        measure(words)


@pytest.mark.performance
def test_it_is_cheap(measure: Callable[[str], tuple[float, int]]) -> None:
    assert min(measure("status")[0] for _ in range(5)) <= 0.1
    base = measure("status")[1]
    for words in COMMANDS:
        assert measure(words)[1] < base + 8_000, words


@pytest.mark.performance
def test_many_slots_are_cheap(fleet: Fleet, measure: Callable[[str], tuple[float, int]]) -> None:
    for number in range(4):
        fleet.add(f"web{number}", 50, pid=number)
    assert min(measure("status")[0] for _ in range(5)) <= 0.15


@pytest.mark.performance
def test_metrics_take_little_time(many: None, light: Link) -> None:
    begun_at = time.process_time()
    metrics.exposition(light)
    assert time.process_time() - begun_at < 0.05


def test_metrics_take_few_round_trips(
    many: None, light: Link, monkeypatch: pytest.MonkeyPatch
) -> None:
    trips = []
    exchange = Link._exchange
    monkeypatch.setattr(
        Link, "_exchange", lambda self, *words: trips.append(1) or exchange(self, *words)
    )
    page = metrics.exposition(light)
    assert len(trips) <= 3
    assert samples(page)['werk_queue_failed{queue="default"}'] == 10000


def test_nothing_of_it_scans(
    work: Start,
    light: Link,
    connection: redis.Redis,
) -> None:
    work()
    connection.config_resetstat()
    Snapshot.read(light)
    metrics.exposition(light)
    run("werk", "failed")
    run("werk", "ping")
    used = set(connection.info("commandstats"))
    assert not used & {"cmdstat_scan", "cmdstat_keys"}


# --- metrics


def test_executions_are_counted_by_task(work: Start, light: Link, tmp_path: Path) -> None:
    work()
    jobs = [werk.enqueue("note", str(tmp_path)) for _ in range(20)]
    jobs += [werk.enqueue("fail", str(tmp_path)), werk.enqueue("sleep", 0.2)]
    wanted = {
        'werk_executions_total{outcome="done",task="note"}': 20,
        'werk_executions_total{outcome="failed",task="note"}': 0,
        'werk_executions_total{outcome="failed",task="fail"}': 1,
        'werk_execution_seconds_bucket{le="0.1",queue="default",task="sleep"}': 0,
        'werk_execution_seconds_bucket{le="+Inf",queue="default",task="sleep"}': 1,
        'werk_execution_seconds_count{queue="default",task="note"}': 20,
        'werk_wait_seconds_count{queue="default",task="note"}': 20,
        'werk_workers{kind="werk",state="idle"}': 1,
    }
    wait_until(lambda: wanted.items() <= samples(metrics.exposition(light)).items())


def test_a_killed_execution_and_a_plain_rq_job_are_counted_too(
    work: Start,
    light: Link,
    connection: redis.Redis,
    tmp_path: Path,
) -> None:
    work()
    werk.enqueue("poison", str(tmp_path))
    Queue(connection=connection).enqueue("worker_tasks.note", str(tmp_path))
    Queue(connection=connection).enqueue("os.getcwd")
    wanted = {
        'werk_executions_total{outcome="failed",task="poison"}': 1,
        'werk_executions_total{outcome="done",task="note"}': 1,
        'werk_executions_total{outcome="failed",task="other"}': 1,
    }
    wait_until(lambda: wanted.items() <= samples(metrics.exposition(light)).items())


def test_metrics_are_what_prometheus_reads(work: Start, light: Link) -> None:
    work("default", 'a"b\\c')
    werk.enqueue("hello", "Ada").result(60)
    wait_until(lambda: "hello" in metrics.exposition(light))
    families = {
        own.name: own for own in parser.text_string_to_metric_families(metrics.exposition(light))
    }
    assert {own.labels["queue"] for own in families["werk_queue_waiting"].samples} == {
        "default",
        'a"b\\c',
    }
    assert families["werk_execution_seconds"].type == "histogram"


def test_a_hostile_name_steers_no_terminal(connection: redis.Redis) -> None:
    connection.sadd("rq:queues", b"rq:queue:\x1b[2J")
    words = [str(Path(sys.executable).with_name("werk")), "status"]
    script = f"import pty, sys; sys.exit(pty.spawn({words!r}) >> 8)"
    shown = run("python", "-c", script)
    assert shown.returncode == 0
    assert "\\x1b[2J" in shown.stdout
    assert "\x1b[2J" not in shown.stdout
