"""What an operator does, with real workers: once, whole, and as RQ would have done it."""

from __future__ import annotations

import json
import os
import pty
import re
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Sequence
from datetime import datetime
from pathlib import Path
from typing import Any

import pytest
import redis
import roles
from faults import losing_replies
from rq import Queue, Retry
from rq.group import Group
from rq.job import Job
from rq.rate_limit import RateLimit
from support import PYTHONPATH, Process, environment, run, wait_until
from support import command as command_of
from workers import ENV, PATIENT, Start, begun, ended, go, horse, places, runs

import werk
from werk.dev.server import free_port
from werk.errors import NoSuchJob, RedisUnavailable, ResultTimeout, WerkError
from werk.ops import actions, bulk, failures, jobs, lost_jobs
from werk.ops.job_places import Pace
from werk.ops.jobs import Query
from werk.settings import Settings
from werk.store.connection import Link, link

PYTHON = Path(sys.executable)
BASIC_DATES = ["20260101", "19991231"]  # as seconds they would be an age of months

ANSWERS = b"rq:werk:act:"  # of actions, for a minute


@pytest.fixture
def light(redis_url: str) -> Link:
    return link(roles.settings("operator"))


@pytest.fixture
def admin(redis_url: str) -> Link:
    return link(roles.settings("admin"))


@pytest.fixture
def fail(work: Start, tmp_path: Path) -> Callable[..., list[werk.Handle]]:
    """Have jobs fail: fail("panic", "why", ...), one for each word."""

    def fail_all(task: str, *words: str, **options: Any) -> list[werk.Handle]:
        jobs = [werk.enqueue(task, word, options=werk.Options(**options)) for word in words]
        if not started:
            started.append(work("default", "low"))
        for job in jobs:
            ended(job, "failed")
        return jobs

    started: list[Process] = []
    return fail_all


def record(connection: redis.Redis, job_id: str) -> dict[str, str]:
    found = connection.hgetall(f"rq:job:{job_id}")
    return {name.decode(): value.decode("latin1") for name, value in found.items()}


def error_of(job: werk.Handle) -> str:
    """Return the last line of the traceback of a failed job."""
    with pytest.raises(werk.JobFailed) as info:
        job.result(60)
    return str(info.value).partition(" failed: ")[2]


def due(connection: redis.Redis) -> Job:
    """Return a job that is due in a minute; over a connection that may do to it what RQ does."""
    handle = werk.enqueue("sleep", 1, options=werk.Options(delay=60))
    return Job.fetch(handle.id, connection=connection)


# --- failed


def test_failed_jobs_are_one_line_an_error(
    fail: Callable[..., list[werk.Handle]], redis_url: str, tmp_path: Path
) -> None:
    fail("panic", "no 17", "no 4", "it's", "no 99")
    fail("fail", str(tmp_path), queue="low")
    done = run("werk", "failed")
    head, *lines = done.stdout.splitlines()
    assert head.split() == "COUNT FIRST LAST TASK ERROR".split()
    notes = "each job: --list; all about one: werk show ID"
    assert done.stderr == f"{notes}; how to retry: --commands\n"
    assert len(lines) == 3
    shown = lines[0].split()
    assert (shown[0], shown[2], shown[4]) == ("3", "ago", "ago")
    assert lines[0].endswith("panic  RuntimeError: no 99")
    done = run("werk", "failed", "--commands")
    again = [re.sub(r"\d+[sm] ago", "?", line).split() for line in done.stdout.splitlines()[:4]]
    assert again == [re.sub(r"\d+[sm] ago", "?", line).split() for line in (head, *lines)]
    assert done.stderr == f"{notes}\n"
    commands = done.stdout.split("\n\n")[1:]
    assert commands[0] == "werk retry --task panic --error 'RuntimeError: no 99'"
    assert commands[2] == """werk retry --task panic --error "RuntimeError: it's\"\n"""
    assert run("werk", "failed", "--commands", "--queue", "low").stdout.endswith(
        "\n\nwerk retry --task fail --error 'ValueError: as asked' --queue low\n"
    )
    assert run("werk", "failed", "--since", "1h", "--task", "fail").stdout.count("\n") == 2
    assert run("werk", "failed", "--since", "2099-01-01").stdout == ""
    assert (
        run("werk", "failed", "--error", "RuntimeError: no 1").stdout.split("\n")[1].split()[0]
        == "3"
    )
    assert run("werk", "failed", "--error", "RuntimeError*").stdout.count("\n") == 3
    assert run("werk", "failed", "--error", "RuntimeError").stdout == ""
    found = json.loads(run("werk", "failed", "--json").stdout)[0]
    assert (found["task"], found["jobs"], found["error"]) == ("panic", 3, "RuntimeError: no 99")


def test_exact_counts_the_digits_of_an_error(
    fail: Callable[..., list[werk.Handle]], connection: redis.Redis
) -> None:
    *others, wanted = fail("panic", "order 1", "order 7", "order 100", "order 99")
    chosen = ("--error", "RuntimeError: order 99")
    assert json.loads(run("werk", "failed", *chosen, "--json").stdout)[0]["jobs"] == 4
    (group,) = json.loads(run("werk", "failed", *chosen, "--exact", "--json").stdout)
    assert (group["jobs"], "--exact" in group["retry"]) == (1, True)
    prefix = run("werk", "failed", "--error", "RuntimeError: order 1*", "--exact", "--json").stdout
    found = {group["error"]: group["jobs"] for group in json.loads(prefix)}
    assert found == {"RuntimeError: order 1": 1, "RuntimeError: order 100": 1}
    connection.sadd("rq:werk:paused", "default")
    assert run("werk", "retry", *chosen, "--exact", "--yes").stdout == "1 retried\n"
    assert (wanted.status(), {job.status() for job in others}) == ("queued", {"failed"})


@pytest.mark.parametrize("more", [[], ["--exact"]])
def test_an_error_that_ends_in_an_asterisk_is_retried_alone(
    fail: Callable[..., list[werk.Handle]], connection: redis.Redis, more: list[str]
) -> None:
    wanted, *others = fail("panic", "no /in/*", "no /in/a", "no /in/", "no /in/\\*")
    chosen = ("--error", "RuntimeError: no /in/*", *more)
    found = json.loads(run("werk", "failed", *chosen, "--json").stdout)
    assert len(found) == 4
    connection.sadd("rq:werk:paused", "default")
    for job in (wanted, *others):
        error = error_of(job)
        [command] = [group["retry"] for group in found if group["error"] == error]
        done = run("/bin/sh", "-c", f"PATH={PYTHON.parent}:$PATH; {command} --yes")
        assert (done.stdout, job.status()) == ("1 retried\n", "queued"), command


@pytest.mark.parametrize("command", ["failed", "retry"])
def test_exact_alone_selects_nothing(redis_url: str, command: str) -> None:
    done = run("werk", command, "--exact")
    assert (done.returncode, done.stderr) == (2, "werk: --exact requires --error\n")


def test_status_codes_of_http_are_different_errors(
    fail: Callable[..., list[werk.Handle]], redis_url: str
) -> None:
    fail("panic", "status 400", "status 500", "status 500", "order 99", "order 7")
    found = json.loads(run("werk", "failed", "--json").stdout)
    assert sorted(group["jobs"] for group in found) == [1, 2, 2]
    done = run("werk", "retry", "--error", "RuntimeError: status 400", "--yes")
    assert done.stdout == "1 retried\n"


def test_a_command_for_a_long_error_fits_and_retries_just_those(
    fail: Callable[..., list[werk.Handle]], connection: redis.Redis
) -> None:
    wanted, other = fail("panic", f"it's {'a lot of ' * 15}'", "another")
    _, command, _ = run("werk", "failed", "--commands").stdout.split("\n\n")
    if "another" in command:
        *_, command = run("werk", "failed", "--commands").stdout.split("\n\n")
    assert max(map(len, command.splitlines())) <= 80 < len(command)
    connection.sadd("rq:werk:paused", "default")
    done = run("/bin/sh", "-c", f"PATH={PYTHON.parent}:$PATH; {command.rstrip()} --yes")
    assert done.stdout == "1 retried\n"
    assert (wanted.status(), other.status()) == ("queued", "failed")


def test_stopped_jobs_are_apart(
    fail: Callable[..., list[werk.Handle]], connection: redis.Redis
) -> None:
    _, stopped = fail("panic", "a", "b")
    connection.hset(f"rq:job:{stopped.id}", "status", "stopped")
    first, second = run("werk", "failed").stdout.split("\n\n")
    assert [line.split()[0] for line in first.splitlines()] == ["COUNT", "1"]
    assert [line.split()[0] for line in second.splitlines()] == ["STOPPED", "1"]
    found = json.loads(run("werk", "failed", "--json").stdout)
    assert sorted(group["stopped"] for group in found) == [False, True]


def test_times_of_failed_jobs_are_utc_in_json(
    fail: Callable[..., list[werk.Handle]], redis_url: str
) -> None:
    fail("panic", "a")
    [group] = json.loads(run("werk", "failed", "--json", env={"TZ": "Asia/Kolkata"}).stdout)
    job = json.loads(run("werk", "failed", "--list", "--json", env={"TZ": "Asia/Kolkata"}).stdout)
    for text in (group["first"], group["last"], job["at"]):
        assert text.endswith("Z")
        assert abs(datetime.fromisoformat(text).timestamp() - time.time()) < 1000


@pytest.mark.parametrize("options", [[], ["--list"], ["--json"]])
def test_a_task_that_nobody_knows_is_an_error(
    fail: Callable[..., list[werk.Handle]], redis_url: str, options: list[str]
) -> None:
    fail("panic", "a")
    done = run("werk", "failed", "--task", "panik", *options)
    assert done.returncode == 2
    assert done.stderr == "werk: unknown task 'panik'; did you mean 'panic'?\n"
    done = run("werk", "failed", "--task", "hello", *options)
    assert (done.returncode, done.stderr) == (0, "no failed jobs\n")


def test_the_function_of_a_plain_rq_job_is_a_task(
    connection: redis.Redis, fail: Callable[..., list[werk.Handle]]
) -> None:
    job = Queue(connection=connection).enqueue("worker_tasks.nope")
    fail("panic", "a")
    wait_until(lambda: job.get_status() == "failed")
    done = run("werk", "failed", "--task", "worker_tasks.nope", "--since", "2099-01-01")
    assert (done.returncode, done.stderr) == (0, "no failed jobs\n")


@pytest.mark.parametrize("since", ["soon", "-5m", "inf", "0001-01-01", "10 parsecs", *BASIC_DATES])
def test_since_is_a_time(redis_url: str, since: str) -> None:
    done = run("werk", "failed", f"--since={since}")
    assert (done.returncode, done.stderr.count("\n")) == (2, 1)
    assert f"TIME must be like 10m, 2h, 3d or 2026-12-24T18:00, got '{since}'" in done.stderr


def test_older_is_a_time(redis_url: str) -> None:
    done = run("werk", "jobs", "--older", "20261231")
    assert (done.returncode, done.stderr.count("\n")) == (2, 1)
    assert "TIME must be like 10m, 2h, 3d or 2026-12-24T18:00, got '20261231'" in done.stderr
    for older in ("20261231s", "2026123", "21000101", "2026-12-31"):
        assert run("werk", "jobs", "--older", older).returncode == 0


def test_since_long_ago_is_all(fail: Callable[..., list[werk.Handle]], redis_url: str) -> None:
    fail("panic", "a")
    for since in ("999999d", "1960-01-01", "1h30m"):
        assert "RuntimeError: a" in run("werk", "failed", "--since", since).stdout


def test_the_command_that_it_prints_retries_just_those(
    fail: Callable[..., list[werk.Handle]], connection: redis.Redis
) -> None:
    jobs = fail("panic", "no 17", "it's \x1b[2J\n * so", "no 4")
    commands = run("werk", "failed", "--commands").stdout.split("\n\n")[1:]
    command = next(command.rstrip() for command in commands if "* so" in command)
    before = {job.id: connection.hget(f"rq:job:{job.id}", "enqueued_at") for job in jobs}
    done = run("/bin/sh", "-c", f"PATH={PYTHON.parent}:$PATH; {command} --yes")
    assert done.stdout == "1 retried\n"
    after = {job.id: connection.hget(f"rq:job:{job.id}", "enqueued_at") for job in jobs}
    assert [job.id for job in jobs if before[job.id] != after[job.id]] == [jobs[1].id]


def test_a_list_of_failed_jobs(fail: Callable[..., list[werk.Handle]], redis_url: str) -> None:
    first, second = fail("panic", "a"), fail("panic", "b")
    lines = run("werk", "failed", "--list").stdout.splitlines()
    assert [line.split()[0] for line in lines] == ["ID", second[0].id, first[0].id]
    assert re.search(r" ago  default +panic +Runtim", lines[1])
    found = [
        json.loads(line)
        for line in run("werk", "failed", "--list", "--json").stdout.split("\n")[:-1]
    ]
    assert [job["id"] for job in found] == [second[0].id, first[0].id]


def test_what_says_nothing_can_be_retried_too(connection: redis.Redis) -> None:
    connection.hset(
        "rq:job:dumb", mapping={"status": "failed", "origin": "default", "ended_at": "x"}
    )
    connection.xadd("rq:results:dumb", {"type": 2, "exc_string": ""})
    connection.zadd("rq:failed:default", {"dumb": time.time() + 100})
    connection.sadd("rq:queues", "rq:queue:default")
    _, command = run("werk", "failed", "--commands").stdout.rstrip().split("\n\n")
    done = run("/bin/sh", "-c", f"PATH={PYTHON.parent}:$PATH; {command} --yes")
    assert done.stdout == "1 retried\n"


def test_nothing_of_a_failed_job_is_unpickled(
    connection: redis.Redis, tmp_path: Path, redis_url: str
) -> None:
    evil = b"cos\nsystem\n(S'touch " + bytes(tmp_path / "ran") + b"'\ntR."
    fields = {"status": "failed", "data": evil, "meta": evil, "result": evil, "origin": "default"}
    connection.hset("rq:job:evil", mapping={**fields, "description": "os.system('x')"})
    connection.xadd("rq:results:evil", {"type": 2, "exc_string": evil, "return_value": evil})
    connection.zadd("rq:failed:default", {"evil": time.time() + 100})
    connection.sadd("rq:queues", "rq:queue:default")
    assert "(unreadable: not base64)" in run("werk", "failed").stdout
    for command in (["failed", "--list"], ["status"], ["show", "evil"], ["repair"]):
        assert run("werk", *command).returncode == 0
    assert run("werk", "retry", "evil").returncode == 0
    assert not (tmp_path / "ran").exists()


def test_what_has_expired_is_no_failed_job(light: Link, connection: redis.Redis) -> None:
    connection.sadd("rq:queues", "rq:queue:default")
    connection.zadd("rq:failed:default", {"gone": time.time() + 100})
    assert failures.groups(light, Query()) == []


# --- retry


def test_a_retried_job_is_as_rq_leaves_it(
    fail: Callable[..., list[werk.Handle]], connection: redis.Redis, light: Link
) -> None:
    ours, plain = fail("panic", "a", "b")
    connection.sadd("rq:werk:paused", "default")
    Job.fetch(plain.id, connection=connection).requeue()
    assert [*actions.act(light, "retry", [ours.id])] == [(ours.id, "retried")]
    here, there = record(connection, ours.id), record(connection, plain.id)
    differ = {"created_at", "data", "description", "enqueued_at", "exc_info", "last_heartbeat"}
    differ.add("werk_enqueued")
    skip = {*differ, "success_callback_timeout", "failure_callback_timeout"}
    skip |= {"stopped_callback_timeout", "allow_dependency_failures"}
    assert {k: v for k, v in here.items() if k not in skip and v} == {
        k: v for k, v in there.items() if k not in skip and v
    }
    assert here["started_at"] == here["ended_at"] == ""
    # An idle horse may have had one in its hand for a moment.
    wait_until(lambda: places(connection, ours.id) == places(connection, plain.id) == ["queue"])
    assert connection.lrange("rq:queue:default", 0, -1)[-1].decode() == ours.id
    assert connection.ttl(f"rq:job:{ours.id}") == -1
    assert [*actions.act(light, "retry", [ours.id])] == [(ours.id, "queued")]
    assert connection.llen("rq:queue:default") == 2
    connection.srem("rq:werk:paused", "default")
    ended(ours, "failed")
    assert len(Job.fetch(ours.id, connection=connection).results()) == 2


def test_a_retried_job_gets_no_more_retries_than_it_had(
    work: Start,
    connection: redis.Redis,
    light: Link,
    tmp_path: Path,
) -> None:
    queue = Queue(connection=connection)
    job = queue.enqueue("worker_tasks.fail", str(tmp_path), retry=Retry(max=1))
    work()
    wait_until(lambda: job.get_status() == "failed")
    assert len(runs(tmp_path)) == 2
    assert [*actions.act(light, "retry", [job.id])] == [(job.id, "retried")]
    wait_until(lambda: len(runs(tmp_path)) == 3 and job.get_status() == "failed")


def test_a_retried_job_waits_for_a_slot_of_its_rate_limit(
    connection: redis.Redis, light: Link
) -> None:
    queue = Queue(connection=connection)
    limit = RateLimit("api", 1)
    holder, other = (queue.enqueue("os.getcwd", rate_limit=limit) for _ in range(2))
    assert (holder.get_status(), other.get_status()) == ("queued", "rate_limited")
    connection.zrem("rq:rl:api:rate_limited", other.id)
    connection.hset(other.key, "status", "failed")
    connection.zadd("rq:failed:default", {other.id: time.time() + 100})
    assert [*actions.act(light, "retry", [other.id])] == [(other.id, "limited")]
    assert other.get_status() == "rate_limited"
    assert [*actions.act(light, "cancel", [holder.id])] == [(holder.id, "cancelled")]
    assert other.get_status() == "queued"
    assert places(connection, other.id) == ["queue"]
    assert places(connection, holder.id) == ["canceled"]


def test_retry_wants_to_be_told_which(redis_url: str) -> None:
    assert run("werk", "retry").returncode == 2
    assert run("werk", "retry", "a", "--all").returncode == 2
    assert run("werk", "retry", "nobody").returncode == 66
    done = run("werk", "retry", "--all")
    assert (done.returncode, done.stdout) == (0, "0 retried\n")


def test_an_unset_variable_is_not_everything(
    fail: Callable[..., list[werk.Handle]], redis_url: str
) -> None:
    (job,) = fail("panic", "a")
    for option in ("--queue", "--task", "--error"):
        done = run("werk", "retry", option, "", "--yes")
        assert (done.returncode, done.stdout) == (2, ""), option
    assert job.status() == "failed"


@pytest.mark.parametrize("command", [["failed"], ["failed", "--list"], ["retry", "--yes"]])
def test_a_queue_that_is_none_is_said(redis_url: str, command: list[str]) -> None:
    done = run("werk", *command, "--queue", "defualt")
    assert (done.returncode, done.stderr) == (
        2,
        "werk: unknown queue 'defualt'; see werk status\n",
    )


def test_a_job_that_is_said_twice_is_retried_once(
    fail: Callable[..., list[werk.Handle]], light: Link
) -> None:
    (job,) = fail("panic", "a")
    done = run("werk", "retry", job.id, job.id)
    assert (done.returncode, done.stdout) == (0, f"{job.id} retried\n")


def test_many_ask_first_and_say_how_many(
    fail: Callable[..., list[werk.Handle]], redis_url: str
) -> None:
    fail("panic", "a", "b")
    done = run("werk", "retry", "--all")
    assert (done.returncode, done.stderr) == (
        2,
        "werk: this would retry 2 failed jobs; confirm with --yes\n",
    )
    code, said = typed("n", "retry", "--all")
    assert (code, "retry 2 failed jobs? [y/N]" in said, "nothing was done" in said) == (
        1,
        True,
        True,
    )
    code, said = typed("y", "retry", "--task", "panic")
    assert (code, "2 retried" in said) == (0, True)


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (("discard", "--state", "failed"), "1 discarded"),
        (("retry", "--all"), "1 retried"),
        (("cancel", "--queue", "later"), "1 cancelled"),
    ],
)
def test_jobs_that_come_after_the_question_are_left_alone(
    words: Sequence[str],
    said: str,
    fail: Callable[..., list[werk.Handle]],
    connection: redis.Redis,
) -> None:
    def add() -> str:
        werk.enqueue("hello", "Ada", options=werk.Options(queue="later"))
        [job] = fail("panic", "why")
        return job.id

    add()
    terminal, other = pty.openpty()
    process = subprocess.Popen(
        command_of("werk", *words), env=environment("werk", *words), stdin=other, stderr=other,
        stdout=subprocess.PIPE, text=True,
    )  # fmt: skip
    os.close(other)
    shown = b""
    while b"[y/N]" not in shown:
        shown += os.read(terminal, 1000)
    new = add()
    os.write(terminal, b"y\n")
    assert process.communicate(timeout=60)[0] == f"{said}\n"
    os.close(terminal)
    assert record(connection, new)["status"] == "failed"
    assert connection.llen("rq:queue:later") == (1 if words[0] == "cancel" else 2)


def typed(answer: str, *arguments: str) -> tuple[int, str]:
    """Run werk on a terminal, where somebody types; return its exit code and what was shown."""
    words = [str(PYTHON.with_name("werk")), *arguments]
    script = f"import pty, sys; sys.exit(pty.spawn({words!r}) >> 8)"
    done = run("python", "-c", script, input=f"{answer}\n")
    return done.returncode, done.stdout


def test_ten_thousand_are_retried_once_each(light: Link, connection: redis.Redis) -> None:
    make = """for i = 1, 10000 do
      redis.call('HSET', 'rq:job:j' .. i, 'status', 'failed', 'origin', 'default',
        'werk_task', i % 2 == 0 and 'a' or 'b')
      redis.call('ZADD', 'rq:failed:default', 4000000000 - i % 3, 'j' .. i)
    end"""
    connection.eval(make, 0)
    connection.sadd("rq:queues", "rq:queue:default")
    assert jobs.count(light, Query(("failed",), task="a")) == 5000
    assert bulk.act_on(light, "retry", Query(("failed",), task="a")) == 5000
    ids = connection.lrange("rq:queue:default", 0, -1)
    assert len(ids) == len(set(ids)) == 5000
    assert jobs.count(light, Query(("failed",))) == 5000
    code, said = typed("", "retry", "--all", "--yes")
    assert (code, "100%" in said, said.rstrip().endswith("5000 retried")) == (0, True, True)
    assert connection.zcard("rq:failed:default") == 0


def test_jobs_that_fail_again_at_once_are_not_retried_for_ever(
    fail: Callable[..., list[werk.Handle]], connection: redis.Redis, light: Link
) -> None:
    jobs = fail("panic", *map(str, range(300)))
    assert bulk.act_on(light, "retry", Query(("failed",))) == 300
    for job in jobs:
        wait_until(lambda job=job: connection.xlen(f"rq:results:{job.id}") == 2)


# --- stop and cancel


def test_a_running_job_is_stopped(
    work: Start,
    connection: redis.Redis,
    tmp_path: Path,
    light: Link,
) -> None:
    work()
    job = werk.enqueue("block", str(tmp_path))
    with pytest.raises(NoSuchJob):
        actions.stop(light, "nobody", 1)
    begun(tmp_path)
    assert run("werk", "stop", job.id).returncode == 2  # --yes
    done = run("werk", "stop", job.id, "--yes")
    assert done.stdout.startswith("stopped on worker ")
    assert ended(job, "stopped").is_stopped
    assert places(connection, job.id) == ["failed"]
    done = run("werk", "stop", job.id, "--yes")
    assert (done.returncode, "is stopped, and runs on no worker" in done.stderr) == (1, True)


def test_a_stopped_job_has_an_end_and_is_kept_as_failed_ones_are(
    work: Start, connection: redis.Redis, tmp_path: Path
) -> None:
    work()
    jobs = [
        werk.enqueue("block", str(tmp_path)),
        Queue(connection=connection).enqueue(
            "worker_tasks.block", str(tmp_path), result_ttl=7, failure_ttl=77
        ),
    ]
    for count, job in enumerate(jobs, 1):
        begun(tmp_path, count)
        assert run("werk", "stop", job.id, "--yes").returncode == 0
        wait_until(lambda job=job: record(connection, job.id)["status"] == "stopped")
        shown = json.loads(run("werk", "show", job.id, "--json", env=ENV).stdout)
        assert shown["started_at"] <= shown["ended_at"]
        assert shown["duration"] is not None
        assert (shown["result_ttl"], shown["failure_ttl"]) == (
            None,
            77 if count == 2 else 30 * 86400,
        )


def test_a_worker_that_hears_of_a_stop_from_a_replica_has_stopped_its_job(
    light: Link, connection: redis.Redis, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A master counts its own listeners only."""
    monkeypatch.setattr(actions, "UNHEARD_S", 60.0)
    connection.config_resetstat()
    connection.hset("rq:job:a", mapping={"status": "started", "worker_name": "far"})
    done: list[str] = []
    stopping = threading.Thread(target=lambda: done.append(actions.stop(light, "a", 60)))
    stopping.start()
    wait_until(lambda: connection.info("commandstats").get("cmdstat_publish"))
    connection.hset("rq:job:a", "status", "stopped")
    stopping.join(60)
    assert done == ["far"]


def test_a_job_of_a_frozen_worker_is_not_said_to_be_stopped(
    work: Start,
    tmp_path: Path,
    connection: redis.Redis,
    light: Link,
) -> None:
    worker = work()
    job = werk.enqueue("block", str(tmp_path))
    begun(tmp_path)
    worker.send_signal(signal.SIGSTOP)
    with pytest.raises(ResultTimeout):
        actions.stop(light, job.id, 0.3)
    worker.kill()
    wait_until(lambda: connection.pubsub_numsub(f"rq:pubsub:{job.job.worker_name}")[0][1] == 0)
    with pytest.raises(WerkError, match="is not listening"):
        actions.stop(light, job.id, 0.3)


class Polls:
    """Stands for `time`. Worker `near` runs job `a`; each pause of a poll makes the next change."""

    def __init__(self, connection: redis.Redis, *changes: dict[str, str]) -> None:
        self.now, self.changes, self.connection = 0.0, [*changes], connection
        connection.hset("rq:job:a", mapping={"status": "started", "worker_name": "near"})

    def monotonic(self) -> float:
        return self.now

    def sleep(self, seconds: float) -> None:
        self.now += seconds
        if self.changes and (change := self.changes.pop(0)):
            self.connection.hset("rq:job:a", mapping=change)


@pytest.mark.parametrize(
    ("status", "said"),
    [
        ("finished", "it is finished; see werk show a"),
        ("failed", "it is failed; see werk show a"),
        ("canceled", "it is canceled; see werk show a"),
        ("queued", "it is queued again; cancel it with: werk cancel a"),
        ("scheduled", "it is scheduled again; cancel it with: werk cancel a"),
    ],
)
def test_a_job_that_ended_otherwise_was_not_stopped(
    status: str,
    said: str,
    light: Link,
    connection: redis.Redis,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(actions, "time", Polls(connection, {"status": status}))
    with pytest.raises(WerkError) as caught:
        actions.stop(light, "a", 60)
    assert str(caught.value) == f"worker near has not stopped job a: {said}"
    assert type(caught.value) is WerkError


def test_a_job_whose_record_is_deleted_was_not_stopped(
    light: Link, connection: redis.Redis, monkeypatch: pytest.MonkeyPatch
) -> None:
    polls = Polls(connection)
    polls.sleep = lambda _: connection.delete("rq:job:a")  # type: ignore[assignment]
    monkeypatch.setattr(actions, "time", polls)
    with pytest.raises(NoSuchJob) as caught:
        actions.stop(light, "a", 60)
    said = "it has ended, and its record was deleted or has expired"
    assert str(caught.value) == f"worker near has not stopped job a: {said}"


@pytest.mark.parametrize("is_heard", [True, False])
def test_a_job_that_another_worker_has_taken_is_stopped_there(
    is_heard: bool, light: Link, connection: redis.Redis, monkeypatch: pytest.MonkeyPatch
) -> None:
    """In the time that is left; and the messages name this worker."""
    taken = {"worker_name": "far"}
    with connection.pubsub(ignore_subscribe_messages=True) as far:
        far.subscribe(f"rq:pubsub:{'far' if is_heard else 'nobody'}")
        wait_until(lambda: connection.pubsub_channels("rq:pubsub:*"))
        polls = Polls(connection, taken, {}, {"status": "stopped"})
        monkeypatch.setattr(actions, "time", polls)
        assert actions.stop(light, "a", 60) == "far"
        polls = Polls(connection, *[{}] * 50, taken)
        monkeypatch.setattr(actions, "time", polls)
        with pytest.raises(WerkError, match="worker far"):
            actions.stop(light, "a", 10)
        assert polls.now < 11
        if is_heard:
            message = wait_until(far.get_message)
            assert json.loads(message["data"]) == {"command": "stop-job", "job_id": "a"}


def test_a_job_that_returns_to_its_queue_was_not_stopped(
    work: Start, tmp_path: Path, connection: redis.Redis
) -> None:
    """Its worker is frozen, so the request counts as heard; another worker rescues the job."""
    frozen = work()
    job = werk.enqueue("block", str(tmp_path))
    begun(tmp_path)
    frozen.send_signal(signal.SIGSTOP)
    connection.config_resetstat()
    done: list[Any] = []
    words = ("werk", "stop", job.id, "--yes", "--timeout", "60")
    stopping = threading.Thread(target=lambda: done.append(run(*words)))
    stopping.start()
    wait_until(lambda: connection.info("commandstats").get("cmdstat_publish"))
    work("low")
    stopping.join(60)
    assert (done[0].returncode, done[0].stdout) == (1, "")
    assert f"it is queued again; cancel it with: werk cancel {job.id}\n" in done[0].stderr


@pytest.mark.parametrize("kind", ["queued", "scheduled", "deferred"])
def test_a_waiting_job_is_cancelled_as_rq_does(
    connection: redis.Redis, light: Link, kind: str
) -> None:
    queue = Queue(connection=connection)

    def make() -> Job:
        if kind == "scheduled":
            return due(connection)
        return queue.enqueue("os.getcwd", depends_on=first if kind == "deferred" else None)

    first = queue.enqueue("os.getcwd")
    ours, plain = make(), make()
    child = queue.enqueue("os.getcwd", depends_on=ours)
    plain.cancel()
    assert run("werk", "cancel", ours.id, "--yes").stdout == f"{ours.id} cancelled\n"
    here, there = record(connection, ours.id), record(connection, plain.id)
    assert here["status"] == there["status"] == "canceled"
    assert {k for k, v in here.items() if v} == {k for k, v in there.items() if v}
    assert places(connection, ours.id) == places(connection, plain.id) == ["canceled"]
    assert child.get_status(refresh=True) == "deferred"
    done = run("werk", "cancel", ours.id, "--yes")
    assert (done.returncode, "is canceled, not waiting" in done.stderr) == (1, True)


def test_a_job_that_stands_twice_in_its_queue_is_cancelled(
    connection: redis.Redis, light: Link
) -> None:
    job = Queue(connection=connection).enqueue("os.getcwd")
    connection.rpush("rq:queue:default", job.id)  # by a plain RQ scheduler and ours
    assert [*actions.act(light, "cancel", [job.id])] == [(job.id, "cancelled")]
    assert job.get_status() == "canceled"
    assert places(connection, job.id) == ["queue", "canceled"]  # workers drop what is cancelled


def test_a_running_job_is_not_cancelled(
    work: Start,
    tmp_path: Path,
    connection: redis.Redis,
) -> None:
    work()
    job = werk.enqueue("block", str(tmp_path))
    begun(tmp_path)
    done = run("werk", "cancel", job.id, "--yes")
    running = f"werk: job {job.id} is running; to stop it: werk stop {job.id}\n"
    assert (done.returncode, done.stderr) == (1, running)
    assert "is started, not failed" in run("werk", "retry", job.id).stderr
    assert places(connection, job.id) == ["wip"]
    go(tmp_path)
    ended(job, "finished")


# --- delete


@pytest.mark.parametrize("kind", ["queued", "scheduled", "deferred", "finished", "failed", "odd"])
def test_a_deleted_job_leaves_what_it_leaves_with_rq(
    connection: redis.Redis, light: Link, kind: str
) -> None:
    queue = Queue(connection=connection)
    first = queue.enqueue("os.getcwd")
    group = Group.create(connection, "g")

    def make() -> Job:
        if kind == "scheduled":
            return due(connection)
        data = Queue.prepare_data("os.getcwd", depends_on=first if kind == "deferred" else None)
        (job,) = group.enqueue_many(queue, [data])
        if kind in ("finished", "failed"):
            queue.remove(job)
            job.set_status(kind)
            connection.zadd(f"rq:{kind}:default", {job.id: time.time() + 60})
            connection.xadd(f"rq:results:{job.id}", {"type": 1})
        return job

    def left() -> dict[bytes, object]:
        keys = connection.scan_iter(count=1000)
        kinds = {key.replace(job.id.encode(), b"ID"): connection.type(key) for key in keys}
        return {key: kind for key, kind in kinds.items() if not key.startswith(ANSWERS)}

    job = make()
    before = left()
    job.delete()
    wanted = left()
    assert wanted != before
    job = make()
    if kind == "odd":
        connection.hset(job.key, "status", "?")
    assert [*actions.act(light, "delete", [job.id, "nobody"])] == [
        (job.id, "deleted"),
        ("nobody", "gone"),
    ]
    assert left() == wanted
    assert places(connection, job.id) == []
    assert not connection.sismember("rq:group:g", job.id)


def test_a_running_job_is_not_deleted_whatever_its_status(
    work: Start, connection: redis.Redis, tmp_path: Path, light: Link
) -> None:
    work()
    job = werk.enqueue("block", str(tmp_path))
    begun(tmp_path)
    assert [*actions.act(light, "delete", [job.id])] == [(job.id, "started")]
    connection.hset(f"rq:job:{job.id}", "status", "finished")
    assert [*actions.act(light, "delete", [job.id])] == [(job.id, "started")]
    go(tmp_path)
    ended(job, "finished")


def test_room_is_made_when_memory_is_full(connection: redis.Redis, light: Link) -> None:
    jobs = [Queue(connection=connection).enqueue("os.getcwd") for _ in range(300)]
    connection.config_set("maxmemory", 1)
    try:
        assert [*actions.act(light, "delete", [jobs[0].id])] == [(jobs[0].id, "deleted")]
        assert actions.empty(light, "queue", "default") == 299
        with pytest.raises(RedisUnavailable, match="takes no more data"):
            [*actions.act(light, "pause", ["default"])]
    finally:
        connection.config_set("maxmemory", 0)
    kept = [key for key in connection.scan_iter() if not key.startswith(ANSWERS)]
    assert kept == [b"rq:queues"]


@pytest.mark.parametrize("place", ["queue", "failed"])
def test_a_place_is_emptied_of_what_is_there_while_more_comes(
    connection: redis.Redis, admin: Link, monkeypatch: pytest.MonkeyPatch, place: str
) -> None:
    """One job comes before each piece; Redis has time for others after each."""

    def put(job_id: str) -> None:
        if place == "queue":
            connection.rpush("rq:queue:default", job_id)
        else:
            connection.zadd("rq:failed:default", {job_id: time.time()})

    for number in range(450):
        put(f"old-{number}")
    came, act, rest = list[str](), actions.act, list[int]()

    def slow_act(*words: Any) -> Any:
        assert len(came) < 10
        came.append(f"new-{len(came)}")
        put(came[-1])
        return act(*words)

    monkeypatch.setattr(actions, "act", slow_act)
    monkeypatch.setattr(Pace, "rest", lambda _: rest.append(len(came)))
    assert actions.empty(admin, place, "default") == 450
    key = f"rq:{place}:default"
    left = connection.lrange(key, 0, -1) if place == "queue" else connection.zrange(key, 0, -1)
    assert [own.decode() for own in left] == came == ["new-0", "new-1", "new-2"]
    assert rest == [1, 2, 3]


def test_a_compaction_pauses(
    connection: redis.Redis, admin: Link, monkeypatch: pytest.MonkeyPatch
) -> None:
    connection.rpush("rq:queue:default", *map(str, range(450)))
    rest = list[int]()
    monkeypatch.setattr(Pace, "rest", lambda _: rest.append(connection.llen("rq:queue:default")))
    assert actions.compact(admin, "default") == 450
    assert rest == [400, 200, 0]


@pytest.mark.parametrize(
    ("command", "status", "key"),
    [
        ("cancel", "queued", "rq:canceled:default"),
        ("cancel", "queued", "rq:queue:default"),
        ("retry", "failed", "rq:failed:default"),
    ],
)
def test_a_job_in_a_key_of_another_type_is_not_refused_for_its_status(
    connection: redis.Redis, command: str, status: str, key: str
) -> None:
    job = werk.enqueue("hello", "Ada")
    connection.hset(f"rq:job:{job.id}", "status", status)
    connection.delete(key)
    connection.set(key, "x")
    done = run("werk", command, job.id, "--yes")
    why = "but a worker is taking it, or a key has another type; see werk status"
    assert (done.returncode, done.stderr) == (1, f"werk: job {job.id} is {status}, {why}\n")


def test_a_time_of_zero_selects_jobs(connection: redis.Redis) -> None:
    job = werk.enqueue("hello", "Ada")
    done = run("werk", "cancel", "--since", "1970-01-01", "--yes")
    assert (done.returncode, done.stdout, job.status()) == (0, "1 cancelled\n", "canceled")


# --- pause and drain


def test_a_queue_that_nobody_knows_is_not_paused(light: Link, connection: redis.Redis) -> None:
    done = run("werk", "pause", "defualt")
    assert (done.returncode, "unknown queue 'defualt'" in done.stderr) == (2, True)
    assert not connection.exists("rq:werk:paused")
    done = run("werk", "resume", "defualt")
    assert (done.returncode, "unknown queue 'defualt'" in done.stderr) == (2, True)
    connection.sadd("rq:queues", "rq:queue:default")
    for command in ("pause", "resume", "ping", "failed --queue"):
        done = run("werk", *command.split(), "defualt")
        hint = "unknown queue 'defualt'; did you mean 'default'?"
        hint = hint.replace("'defualt'", "") if command == "ping" else hint
        assert (done.returncode, hint.split()[-1] in done.stderr + done.stdout) == (2, True)


def test_callers_are_told_of_a_pause(work: Start, connection: redis.Redis, light: Link) -> None:
    worker = work()
    wait_until(lambda: connection.exists("rq:werk:serves:default"))
    assert run("werk", "pause", "default").stdout == "queue default paused\n"
    warning = "queue default is paused; resume it: werk resume default"
    done = run("werk-enqueue", "--require-worker", "hello", "Ada", env=ENV)
    assert (done.returncode, done.stderr) == (0, f"{warning}\n")
    assert run("werk-enqueue", "--quiet", "hello", "Ada", env=ENV).stderr == ""
    done = run("werk-enqueue", "--wait", "--timeout", "0.2", "hello", "Ada", env=ENV)
    assert done.returncode == 124
    assert "after 0.2 s; queue default is paused; resume it: werk resume default" in done.stderr
    with pytest.warns(werk.WerkWarning, match=warning):
        job = werk.enqueue("hello", "Ada")
    assert run("werk", "resume", "default").stdout == "queue default resumed\n"
    assert job.result(60) == "Hello Ada"
    assert horse(worker)


def test_workers_drain_and_a_second_word_does_not_hurry_them(
    work: Start,
    spawn: Start,
    connection: redis.Redis,
    tmp_path: Path,
    light: Link,
) -> None:
    worker, plain = work(env=PATIENT), spawn("rq", "worker", "low", "-n", "other")
    wait_until(lambda: connection.hget("rq:worker:other", "state") == b"idle")
    job = werk.enqueue("block", str(tmp_path))
    begun(tmp_path)
    assert run("werk", "drain").returncode == 2
    done = run("werk", "drain", "--yes")
    assert len(done.stdout.split()) == 2
    assert plain.wait(60) == 0
    wait_until(lambda: "draining" in run("werk", "status").stdout)
    deadline = time.monotonic() + 1.2  # longer than two signals are one
    wait_until(lambda: time.monotonic() > deadline)
    done = run("werk", "drain", "--yes", "--wait", "--timeout", "0.5")
    assert done.returncode == 124
    assert job.status() == "started"
    go(tmp_path)
    assert run("werk", "drain", "--yes", "--wait", "--timeout", "60").returncode == 0
    assert worker.wait(60) == 0
    assert ended(job, "finished").return_value() == "ends"


def test_a_worker_that_is_none_is_not_drained(redis_url: str) -> None:
    done = run("werk", "drain", "wroker", "--yes")
    assert (done.returncode, done.stdout) == (1, "")
    assert done.stderr == "werk: worker wroker is unknown; see werk status\n"
    assert run("werk", "drain", "wroker", "--yes", "--wait").returncode == 0  # it has left
    done = run("werk", "drain", "wroker", "--yes", "--timeout", "3")
    assert (done.returncode, "--wait" in done.stderr) == (2, True)


@pytest.mark.parametrize("is_busy", [True, False])
def test_a_frozen_worker_has_not_drained(
    work: Start, light: Link, connection: redis.Redis, tmp_path: Path, is_busy: bool
) -> None:
    worker, (name,) = work(), names_of(connection, 1)
    if is_busy:
        werk.enqueue("block", str(tmp_path))
        begun(tmp_path)
    os.kill(worker.pid, signal.SIGSTOP)
    assert run("werk", "drain", name, "--yes").returncode == 0
    done = run("werk", "drain", name, "--yes", "--wait")
    message = f"werk: {name} is stale and may still run; see werk status\n"
    assert (done.returncode, done.stderr) == (1, message)
    os.kill(worker.pid, signal.SIGCONT)
    go(tmp_path)
    assert run("werk", "drain", name, "--yes", "--wait").returncode == 0
    assert worker.wait(60) == 0


def names_of(connection: redis.Redis, count: int) -> list[str]:
    """Return RQ's names of the slots that are there, once there are so many."""
    wait_until(lambda: connection.scard("rq:workers") == count)
    return sorted(key.decode()[10:] for key in connection.smembers("rq:workers"))


def test_a_worker_drains_with_all_its_slots(
    work: Start, connection: redis.Redis, tmp_path: Path
) -> None:
    worker = work(env={**PATIENT, "WERK_CONCURRENCY": "3"})
    name = names_of(connection, 3)[0].rpartition(".")[0]
    jobs = [werk.enqueue("block", str(tmp_path)) for _ in range(2)]
    begun(tmp_path, 2)
    done = run("werk", "drain", "--yes")  # all workers
    assert (done.returncode, done.stdout) == (0, f"{name}\n")
    wait_until(lambda: "2 draining, 1 missing" in run("werk", "status").stdout)
    assert run("werk", "drain", name, "--yes", "--wait", "--timeout", "0.2").returncode == 124
    assert [job.status() for job in jobs] == ["started", "started"]
    go(tmp_path)
    assert run("werk", "drain", name, "--yes", "--wait").returncode == 0
    assert worker.wait(60) == 0
    for job in jobs:
        assert ended(job, "finished").return_value() == "ends"


def test_one_slot_drains_and_the_others_go_on(
    work: Start, connection: redis.Redis, tmp_path: Path
) -> None:
    worker = work(env={"WERK_CONCURRENCY": "3"})
    names = names_of(connection, 3)
    done = run("werk", "drain", names[1], "--yes", "--wait")
    assert (done.returncode, done.stdout) == (0, f"{names[1]}\n")
    assert names_of(connection, 2) == [names[0], names[2]]
    jobs = [werk.enqueue("block", str(tmp_path)) for _ in range(3)]
    begun(tmp_path, 2)
    wait_until(lambda: "2 busy, 1 missing" in run("werk", "status").stdout)
    go(tmp_path)
    for job in jobs:
        ended(job, "finished")
    assert worker.poll() is None


def test_the_nearest_worker_is_named(work: Start, connection: redis.Redis) -> None:
    work(env={"WERK_CONCURRENCY": "2"})
    name = names_of(connection, 2)[0]
    for typed, meant in ((name[1:], name), (f"{name}3", name), (name[1:-2], name[:-2])):
        done = run("werk", "drain", typed, "--yes")
        assert (done.returncode, done.stdout) == (1, "")
        assert done.stderr == f"werk: worker {typed} is unknown; did you mean {meant!r}?\n"


def test_a_redeploy_under_load(
    work: Start,
    connection: redis.Redis,
    tmp_path: Path,
) -> None:
    """docs/deployment.md: new workers start, old ones drain; no job is lost or run twice."""
    old = [work(env=PATIENT), work(env=PATIENT)]
    names = [key.decode()[10:] for key in connection.smembers("rq:workers")]
    jobs = [werk.enqueue("note", str(tmp_path)) for _ in range(200)]
    drained = run("werk", "drain", *names, "--yes")
    assert sorted(drained.stdout.split()) == sorted(names)
    new = work(env=PATIENT)
    jobs += [werk.enqueue("note", str(tmp_path)) for _ in range(200)]
    assert run("werk", "drain", *names, "--yes", "--wait").returncode == 0
    assert [worker.wait(60) for worker in old] == [0, 0]
    for job in jobs:
        ended(job, "finished")
    assert sorted(line[0] for line in runs(tmp_path)) == sorted(job.id for job in jobs)
    assert new.poll() is None


# --- an unreachable Redis


@pytest.mark.parametrize(
    ("action", "names", "look"),
    [
        ("pause", ["default"], "werk status"),
        ("drain", ["w1"], "werk status"),
        ("cancel", ["j1"], "werk show j1"),
        ("retry", ["j1", "j2"], "werk jobs"),
    ],
)
def test_an_action_whose_reply_is_lost_may_be_done(
    redis_url: str, connection: redis.Redis, action: str, names: list[str], look: str
) -> None:
    connection.sadd("rq:queues", "rq:queue:default")
    with losing_replies(redis_url, 10**9) as url:
        lost = link(Settings.read()._replace(redis_url=url), 0.5)
        with pytest.raises(RedisUnavailable, match=f"; this may be done all the same: {look}$"):
            dict(actions.act(lost, action, names))
    assert connection.smembers("rq:werk:paused") == ({b"default"} if action == "pause" else set())
    nowhere = link(Settings.read()._replace(redis_url=f"redis://127.0.0.1:{free_port()}"), 0.5)
    nowhere.has_lost_reply = True  # in a call before
    with pytest.raises(RedisUnavailable, match=r"not reached [^;]*; is it running[^;]*$"):
        dict(actions.act(nowhere, action, names))


@pytest.mark.parametrize("word", [b"PUBLISH", b"HMGET"])
def test_a_job_may_stop_although_the_reply_is_lost(
    work: Start,
    redis_url: str,
    connection: redis.Redis,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    word: bytes,
) -> None:
    work()
    job = werk.enqueue("block", str(tmp_path))
    begun(tmp_path)
    with losing_replies(redis_url, 10**9, word) as url:
        lost = link(Settings.read()._replace(redis_url=url), 0.5)
        first = [actions._state(link(Settings.read()._replace(redis_url=redis_url)), job.id)]
        state = actions._state
        monkeypatch.setattr(actions, "_state", lambda *own: first.pop() if first else state(*own))
        with pytest.raises(RedisUnavailable, match=f"may be done all the same: werk show {job.id}"):
            actions.stop(lost, job.id, 60)
    ended(job, "stopped")


# --- repair


@pytest.fixture
def lost(connection: redis.Redis) -> dict[str, Job]:
    """Jobs as plain RQ workers, or half a script, leave them; and jobs that are in order."""
    queue = Queue(connection=connection)
    names = ("in no list", "in hand", "abandoned", "started", "due", "waits", "runs", "later",
             "ready", "nowhere")  # fmt: skip
    jobs = {name: queue.enqueue("os.getcwd", job_id=name.replace(" ", "_")) for name in names}
    for name in names:
        if name != "waits":
            connection.lrem(queue.key, 1, jobs[name].id)
    connection.rpush("rq:queue:default:intermediate", "in_hand")
    for name, score in (("abandoned", 1), ("runs", time.time() + 60)):
        connection.zadd("rq:wip:default", {f"{jobs[name].id}:e": score})
        connection.zadd(f"rq:executions:{jobs[name].id}", {"e": time.time() + 60})
    for name in ("abandoned", "started", "runs"):
        connection.hset(jobs[name].key, "status", "started")
    for name in ("due", "later"):
        connection.hset(jobs[name].key, "status", "scheduled")
    connection.zadd("rq:scheduled:default", {"later": time.time() + 60})
    for name in ("ready", "nowhere"):
        connection.hset(jobs[name].key, "status", "ready_to_enqueue")
    connection.zadd("rq:ready:default", {"ready": time.time()})
    connection.sadd("rq:workers", "rq:worker:dead")
    connection.sadd("rq:workers:default", "rq:worker:dead")
    return jobs


def test_what_is_in_no_place_is_put_back(
    lost: dict[str, Job], connection: redis.Redis, admin: Link, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(lost_jobs, "SETTLE_S", 0.1)
    before = connection.lrange("rq:queue:default", 0, -1)
    found = lost_jobs.repair(admin, dry_run=True)
    assert connection.lrange("rq:queue:default", 0, -1) == before
    wanted = {
        "in_no_list": "queued",
        "in_hand": "queued",
        "abandoned": "started",
        "started": "started",
        "ready": "ready_to_enqueue",
        "nowhere": "ready_to_enqueue",
    }
    assert dict(found) == {**wanted, "due": "scheduled", "rq:worker:dead": "gone"}
    assert sorted(lost_jobs.repair(admin, dry_run=False)) == sorted(found)
    assert not connection.exists("rq:ready:default")
    for name in ("in no list", "in hand", "abandoned", "started", "due", "waits", "ready",
                 "nowhere"):  # fmt: skip
        assert places(connection, lost[name].id) == ["queue"]
        assert lost[name].get_status(refresh=True) == "queued"
    assert places(connection, "runs") == ["wip"]
    assert places(connection, "later") == ["scheduled"]
    assert connection.llen("rq:queue:default:intermediate") == 0
    assert connection.smembers("rq:workers") == connection.smembers("rq:workers:default") == set()
    assert lost_jobs.repair(admin, dry_run=False) == []


def test_what_dead_workers_left_of_deleted_jobs_is_removed(
    connection: redis.Redis, admin: Link
) -> None:
    queue, taken = Queue(connection=connection), "rq:queue:default:intermediate"
    kept, gone = (queue.enqueue("os.getcwd", job_id=name) for name in ("kept", "gone"))
    for _ in (kept, gone):
        connection.lmove(queue.key, taken)
    connection.rpush(taken, "expired")
    assert dict(actions.act(admin, "delete", ["gone"])) == {"gone": "deleted"}
    assert connection.lrange(taken, 0, -1) == [b"kept", b"expired"]
    later = time.time() + 60
    connection.zadd("rq:wip:default", {"expired:e": 1, "running:e": later, "odd": 1})
    connection.hset("rq:execution:expired:e", "worker_name", "dead")
    assert "4 jobs left by dead workers" in run("werk", "status").stdout
    for words, verb in ((["--dry-run"], "would remove"), ([], "removed")):
        done = run("werk", "repair", *words)
        assert "rq:queue:default left with 3 deleted jobs\n" in done.stdout
        assert f"\n{verb} what 3 deleted jobs left in queues\n" in done.stderr
    assert "left by dead workers" not in run("werk", "status").stdout
    assert places(connection, "kept") == ["queue"]
    assert connection.zrange("rq:wip:default", 0, -1) == [b"running:e"]
    assert not connection.exists(taken, "rq:execution:expired:e")
    assert "deleted" not in run("werk", "repair").stdout


def test_what_rqs_clean_up_is_at_is_left_to_it(
    lost: dict[str, Job], connection: redis.Redis, admin: Link, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(lost_jobs, "SETTLE_S", 0.1)
    connection.set("rq:clean_registries:default", 1)
    assert "abandoned" not in dict(lost_jobs.repair(admin, dry_run=False))
    assert lost["abandoned"].get_status() == "started"
    connection.delete("rq:clean_registries:default")
    assert dict(lost_jobs.repair(admin, dry_run=False)) == {"abandoned": "started"}


def test_what_a_killed_plain_rq_worker_left_runs(
    spawn: Start,
    work: Start,
    connection: redis.Redis,
    tmp_path: Path,
) -> None:
    spawn("rq", "worker", "default", "-n", "other", env={"PYTHONPATH": PYTHONPATH})
    wait_until(lambda: connection.hget("rq:worker:other", "state") == b"idle")
    job = Queue(connection=connection).enqueue("worker_tasks.note", str(tmp_path), job_id="kept")
    wait_until(lambda: job.get_status() == "finished")
    connection.hset(job.key, "status", "queued")  # as one that was popped by a worker of two queues
    connection.zrem("rq:finished:default", "kept")
    done = run("werk", "repair")
    assert done.stdout == "kept queued\n"
    wait_until(lambda: len(runs(tmp_path)) == 2)


# --- ping


def test_ping_asks_every_queue_and_names_the_silent(
    work: Start,
    spawn: Start,
    connection: redis.Redis,
) -> None:
    assert run("werk", "ping").stderr == "there is no queue yet\n"
    work()
    spawn("rq", "worker", "other")
    connection.sadd("rq:queues", "rq:queue:nobody")

    def is_idle() -> bool:
        names = connection.smembers("rq:workers:other")
        return any(connection.hget(name, "state") == b"idle" for name in names)

    wait_until(is_idle)
    done = run("werk", "ping", "--timeout", "20")
    assert done.returncode == 1
    lines = dict(line.split(": ") for line in done.stdout.splitlines())
    assert lines["nobody"] == "no answer within 20 s; see werk status"
    assert lines["default"].startswith("answered in ")
    assert lines["other"].startswith("answered in ")
    found = json.loads(run("werk", "ping", "default", "--json").stdout)
    assert [(own["queue"], own["trouble"]) for own in found] == [("default", "")]
    assert not connection.llen("rq:queue:nobody")


def test_ping_by_a_user_without_permission(connection: redis.Redis) -> None:
    connection.sadd("rq:queues", "rq:queue:default")
    done = run("werk", "ping", env=roles.environment("reader"))
    assert (done.returncode, done.stdout, done.stderr.count("\n")) == (78, "", 1)
    connection.acl_log_reset()


def test_ping_makes_no_queue(connection: redis.Redis) -> None:
    done = run("werk", "ping", "defualt")
    assert (done.returncode, done.stdout) == (2, "defualt: unknown queue; see werk status\n")
    assert not connection.keys()


def test_ping_goes_before_what_waits(
    work: Start,
    tmp_path: Path,
    connection: redis.Redis,
) -> None:
    job = werk.enqueue("block", str(tmp_path))
    worker = work()
    begun(tmp_path)
    werk.enqueue("block", str(tmp_path))
    go(tmp_path)
    assert run("werk", "ping", "--timeout", "60").returncode == 0
    ended(job, "finished")
    assert horse(worker)
