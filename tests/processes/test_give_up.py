"""WERK_ON_GIVE_UP: one handler for every job that has finally failed."""

from __future__ import annotations

import json
import os
import random
import re
import signal
import socket
import time
from collections.abc import Callable
from itertools import count
from pathlib import Path
from typing import NamedTuple

import pytest
import redis
import roles
from faults import listening
from rq import Callback, Queue
from rq.command import send_kill_horse_command, send_stop_job_command
from rq.job import Job
from support import PYTHONPATH, ROOT, Process, children, run, samples, wait_until
from workers import Start, begun, ended, finished, go, horse, places, reason

import werk
from werk.ops import metrics
from werk.ops.snapshot import Snapshot
from werk.store.connection import link

WAITING = "rq:werk:gave-up"
ENV = {"WERK_REGISTRY": "give_up_tasks:TASKS", "RQ_WORKER_CLASS": "give_up_tasks.Hasty"}


class Call(NamedTuple):
    """A call of the handler."""

    job: str
    reason: str
    pid: int
    queue: str
    last: str  # line of the traceback


class Handled:
    """Starts workers with a handler, and knows how it was called."""

    def __init__(self, work: Start, folder: Path) -> None:
        self.work, self.folder, self.file = work, folder, folder / "gave-up"

    def start(self, *words: str, handler: str = "gave_up", **env: str) -> Process:
        own = {"GAVE_UP": str(self.file), "WERK_ON_GIVE_UP": f"give_up_tasks.{handler}"}
        if handler == "gate":  # 1 s may be too short for the test
            own["RQ_WORKER_CLASS"] = "give_up_tasks.Gate"
        return self.work(*words, env={**ENV, **own, **env})

    def calls(self) -> list[Call]:
        whole = self.file.read_text().rpartition("\n")[0] if self.file.exists() else ""
        rows = (line.split("|", 4) for line in whole.splitlines())
        return [Call(job, why, int(pid), queue, last) for job, why, pid, queue, last in rows]

    def wait(self, number: int) -> list[Call]:
        return wait_until(lambda: (found := self.calls())[number - 1 :] and found)


@pytest.fixture
def handled(work: Start, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Handled:
    monkeypatch.setenv("WERK_REGISTRY", ENV["WERK_REGISTRY"])
    return Handled(work, tmp_path)


def unknown(connection: redis.Redis, folder: Path) -> str:
    """Enqueue a job whose task has been unknown for ten minutes."""
    job = werk.enqueue("note", str(folder))
    facts = {"werk_task": "newer", "werk_unknown_since": time.time() - 601}
    connection.hset(f"rq:job:{job.id}", mapping=facts)
    return str(job.id)


def refused(connection: redis.Redis) -> str:
    return str(Queue(connection=connection).enqueue("os.getcwd").id)


def test_each_cause_of_a_final_failure_is_handled_once(
    handled: Handled, connection: redis.Redis, tmp_path: Path
) -> None:
    folder, wanted = str(tmp_path), {}
    for _ in range(3):
        wanted |= {
            refused(connection): ("refused", "Refused: 'os.getcwd' is not registered"),
            unknown(connection, tmp_path): ("unknown-task", "this worker has no task 'newer'"),
            werk.enqueue("fail", folder).id: ("raised", "ValueError: as asked"),
            werk.enqueue("fail_twice", folder).id: ("raised", "ValueError: as asked"),
            werk.enqueue("fail_other", folder).id: ("raised", "ValueError: as asked"),
            werk.enqueue("doze", folder, 60.0).id: ("timeout", "JobTimeoutException"),
            werk.enqueue("swallow", folder).id: ("timeout", "took no notice for 0.2 s: killed"),
            werk.enqueue("poison", folder).id: ("crashed", "Work-horse terminated unexpectedly"),
        }
    worker = handled.start()
    calls = handled.wait(len(wanted))
    assert sorted(call.job for call in calls) == sorted(wanted)
    for call in calls:
        cause, said = wanted[call.job]
        assert (call.reason, call.queue) == (cause, "default")
        assert said in call.last
    wait_until(lambda: worker.output().count("event=gave-up ") == len(wanted))
    wait_until(lambda: not connection.keys(f"{WAITING}*"))


def test_other_ends_of_a_job_are_not_handled(
    handled: Handled, connection: redis.Redis, tmp_path: Path
) -> None:
    worker = handled.start()
    for number in range(5):
        finished(werk.enqueue("note", str(tmp_path)))
        finished(werk.enqueue("fail_once", str(tmp_path), str(number)))
    stopped = werk.enqueue("block", str(tmp_path))
    begun(tmp_path)
    send_stop_job_command(connection, stopped.id)
    ended(stopped, "stopped")
    limit = werk.Options(timeout=10)  # by then this test has cancelled it
    cancelled = werk.enqueue("doze", str(tmp_path), 60.0, options=limit)
    wait_until(lambda: cancelled.status() == "started")
    Job.fetch(cancelled.id, connection=connection).cancel()
    wait_until(lambda: not connection.keys(f"rq:execution:{cancelled.id}:*"))
    last = werk.enqueue("fail", str(tmp_path))
    assert [call.job for call in handled.wait(1)] == [last.id]
    assert worker.poll() is None
    assert not connection.exists(WAITING)


def test_a_horse_that_is_killed_in_the_handler_has_it_called_again(
    handled: Handled, connection: redis.Redis, tmp_path: Path
) -> None:
    worker = handled.start(handler="gate")
    job = werk.enqueue("fail", str(tmp_path))
    (first,) = handled.wait(1)
    assert first.pid == horse(worker)
    os.kill(first.pid, signal.SIGKILL)
    *_, second = handled.wait(2)
    go(tmp_path)
    wait_until(lambda: "event=gave-up " in worker.output())
    assert [call.job for call in handled.calls()] == [job.id] * 2
    assert second.pid != first.pid
    wait_until(lambda: not connection.keys(f"{WAITING}*"))


def test_another_worker_calls_the_handler_of_one_that_was_killed(
    handled: Handled, connection: redis.Redis, tmp_path: Path
) -> None:
    worker = handled.start(handler="gate")
    job = werk.enqueue("fail", str(tmp_path))
    handled.wait(1)
    other = handled.start()
    worker.kill()
    calls = handled.wait(2)
    assert [call.job for call in calls] == [job.id] * 2
    assert calls[1].pid == horse(other)


def test_a_worker_finishes_the_handler_before_it_exits(handled: Handled, tmp_path: Path) -> None:
    worker = handled.start(handler="gate")
    werk.enqueue("fail", str(tmp_path))
    handled.wait(1)
    worker.terminate()
    since = time.monotonic()
    wait_until(lambda: time.monotonic() > since + 3)  # longer than its grace
    assert worker.poll() is None
    go(tmp_path)
    assert worker.wait(60) == 0
    assert len(handled.calls()) == 1
    assert "event=kill" not in worker.output()


@pytest.mark.parametrize("words", [("--burst",), ("--max-jobs", "2")])
def test_a_worker_that_leaves_calls_the_handler_first(
    handled: Handled, connection: redis.Redis, tmp_path: Path, words: tuple[str, ...]
) -> None:
    for _ in range(2):
        werk.enqueue("fail", str(tmp_path))
    assert handled.start("default", *words).wait(60) == 0
    assert len(handled.calls()) == 2
    assert not connection.keys(f"{WAITING}*")


def test_a_handler_that_hangs_is_ended_and_logged(
    handled: Handled, connection: redis.Redis, tmp_path: Path
) -> None:
    worker = handled.start(handler="hangs", RQ_WORKER_CLASS="give_up_tasks.Calm")
    job = werk.enqueue("fail", str(tmp_path))
    failed = f'event=give-up-failed job={job.id} reason="JobTimeoutException: '
    wait_until(lambda: failed in worker.output())
    assert reason(ended(job, "failed")).endswith("ValueError: as asked\n")
    finished(werk.enqueue("note", str(tmp_path)))
    assert len(handled.calls()) == 1
    assert not connection.keys(f"{WAITING}*")
    assert "event=kill" not in worker.output()


def test_a_handler_that_ignores_its_limit_is_killed_and_called_three_times_at_most(
    handled: Handled, connection: redis.Redis, tmp_path: Path
) -> None:
    worker = handled.start(handler="is_deaf")
    job = werk.enqueue("fail", str(tmp_path))
    why = "3 horses were killed while they called the handler"
    wait_until(lambda: f'event=give-up-failed job={job.id} reason="{why}"' in worker.output())
    assert len({call.pid for call in handled.calls()}) == len(handled.calls()) == 3
    assert job.status() == "failed"
    finished(werk.enqueue("note", str(tmp_path)))
    assert not connection.keys(f"{WAITING}*")


def test_a_handler_that_raises_is_logged(
    handled: Handled, connection: redis.Redis, tmp_path: Path
) -> None:
    worker = handled.start(handler="breaks")
    jobs = [werk.enqueue("fail", str(tmp_path)) for _ in range(2)]
    for job in jobs:
        said = f'event=give-up-failed job={job.id} reason="SystemExit: the mail server is down"\n'
        wait_until(lambda said=said: said in worker.output())
    assert len(handled.calls()) == 2
    assert worker.output().count("    SystemExit: the mail server is down\n") == 2  # tracebacks
    assert worker.poll() is None


def test_a_handler_may_be_asynchronous(handled: Handled, tmp_path: Path) -> None:
    handled.start(handler="gave_up_later")
    job = werk.enqueue("fail", str(tmp_path))
    assert [call.job for call in handled.wait(1)] == [job.id]


@pytest.mark.parametrize(
    ("handler", "why"),
    [
        ("no_such_name", "ValueError: Invalid attribute name: no_such_name"),
        ("not_callable", "TypeError: not a function; write def gave_up(job, cause, traceback)"),
    ],
)
def test_a_worker_that_cannot_import_the_handler_does_not_start(
    handled: Handled, connection: redis.Redis, tmp_path: Path, handler: str, why: str
) -> None:
    job = werk.enqueue("fail", str(tmp_path))
    worker = handled.start(handler=handler)
    assert worker.wait(60) == 78
    (line,) = [line for line in worker.output().splitlines() if "WERK_ON_GIVE_UP" in line]
    assert f"WERK_ON_GIVE_UP: cannot import give_up_tasks.{handler}: {why}" in line
    assert "Traceback" not in worker.output()
    assert places(connection, job.id) == ["queue"]


@pytest.mark.parametrize("path", ["xml.dom", "json"])
def test_a_module_is_no_handler(handled: Handled, path: str) -> None:
    worker = handled.start(WERK_ON_GIVE_UP=path)
    assert worker.wait(60) == 78
    assert f"WERK_ON_GIVE_UP: {path} is a module; name a function in it" in worker.output()


def test_a_job_that_was_deleted_meanwhile_has_only_its_id(
    handled: Handled, connection: redis.Redis, tmp_path: Path
) -> None:
    connection.rpush(WAITING, "odd", f"0 {time.time()} raised x gone", b"\xff \xff \xff \xff \xff")
    connection.rpush(WAITING, f"{'9' * 5000} {time.time()} raised x gone")
    worker = handled.start()
    assert handled.wait(1)[0][:2] == ("gone", "raised")
    wait_until(lambda: not connection.exists(WAITING))
    job = werk.enqueue("fail", str(tmp_path))
    wait_until(lambda: job.id in {call.job for call in handled.calls()})
    assert 'event=give-up-failed reason="unreadable entry: odd' in worker.output()
    assert "event=died" not in worker.output()


def test_a_busy_worker_calls_the_handler_between_its_jobs(
    handled: Handled, connection: redis.Redis, tmp_path: Path
) -> None:
    """What another worker has left, while there are always jobs."""
    handled.start()
    connection.rpush(WAITING, *(f"0 {time.time()} crashed x left-{n}" for n in range(20)))
    deadline = time.monotonic() + 60
    while len(handled.calls()) < 20:
        werk.enqueue_many("note", [(str(tmp_path),)] * 50)
        wait_until(lambda: connection.llen("rq:queue:default") < 200)
        assert time.monotonic() < deadline
    assert len(handled.calls()) == 20


def test_without_the_setting_nothing_is_noted(
    work: Start, handled: Handled, connection: redis.Redis, tmp_path: Path
) -> None:
    jobs = [werk.enqueue(name, str(tmp_path)) for name in ("fail", "poison", "swallow")]
    jobs += [Queue(connection=connection).enqueue("os.getcwd")]
    work("default", env=ENV)
    wait_until(lambda: connection.zcard("rq:failed:default") == len(jobs))
    assert not connection.keys(f"{WAITING}*")


def test_patched_workers_have_it_too(handled: Handled, tmp_path: Path) -> None:
    handled.start(RQ_WORKER_CLASS="patched_classes.Around")
    wanted = {
        werk.enqueue("fail", str(tmp_path)).id: "raised",
        werk.enqueue("doze", str(tmp_path), 60.0).id: "timeout",
    }
    assert {call.job: call.reason for call in handled.wait(2)} == wanted


def test_a_broken_callback_and_a_killed_horse_are_final(
    handled: Handled, connection: redis.Redis, tmp_path: Path
) -> None:
    worker = handled.start()
    path, callback = "worker_tasks.note", Callback("worker_tasks.broken")
    job = Queue(connection=connection).enqueue(path, str(tmp_path), on_success=callback)
    (call,) = handled.wait(1)
    assert call[:2] == (job.id, "raised")
    assert call.last == "RuntimeError: a broken callback"
    job = werk.enqueue("block", str(tmp_path))
    begun(tmp_path)
    send_kill_horse_command(connection, job.job.worker_name)
    assert handled.wait(2)[1][:2] == (job.id, "crashed")
    assert worker.poll() is None


def test_the_example_sends_a_webhook_and_a_mail(handled: Handled, tmp_path: Path) -> None:
    text = (ROOT / "docs" / "observability.md").read_text()
    (example,) = re.findall(r"```python\n(# shop/alerts.py\n.*?)```", text, re.DOTALL)
    (tmp_path / "shop").mkdir()
    (tmp_path / "shop" / "alerts.py").write_text(example)
    posted, mailed = list[bytes](), list[bytes]()

    def web_server(caller: socket.socket) -> None:
        with caller.makefile("rb") as lines:
            length = next(int(line[15:]) for line in lines if line.startswith(b"Content-Length:"))
            while lines.readline().strip():
                pass
            posted.append(lines.read(length))
        caller.sendall(b"HTTP/1.1 204 No Content\r\n\r\n")

    def mail_server(caller: socket.socket) -> None:
        caller.sendall(b"220 mail\r\n")
        with caller.makefile("rb") as lines:
            for line in lines:
                caller.sendall(b"354 go\r\n" if line == b"data\r\n" else b"250 ok\r\n")
                if line == b"data\r\n":
                    mailed.append(b"".join(iter(lines.readline, b".\r\n")))
                    caller.sendall(b"250 ok\r\n")

    with listening(web_server) as web, listening(mail_server) as mail:
        worker = handled.start(
            PYTHONPATH=f"{tmp_path}{os.pathsep}{PYTHONPATH}",
            WERK_ON_GIVE_UP="shop.alerts.gave_up",
            RQ_WORKER_CLASS="fast_worker.Worker",
            ALERTS_WEBHOOK=f"http://127.0.0.1:{web}/alerts",
            ALERTS_SMTP=f"127.0.0.1:{mail}",
            ALERTS_TO="ops@shop.example",
            no_proxy="127.0.0.1",
        )
        job = werk.enqueue("fail", str(tmp_path))
        wait_until(lambda: "event=gave-up " in worker.output() or "give-up-f" in worker.output())
    title = f"job {job.id} has failed (raised): ValueError: as asked"
    assert [json.loads(body) for body in posted] == [{"text": title}], worker.output()
    assert len(mailed) == 1, worker.output()
    assert b"To: ops@shop.example" in mailed[0]
    assert b"Traceback (most recent call last):" in mailed[0]


def test_the_failures_that_wait_are_counted_and_reported(connection: redis.Redis) -> None:
    connection.rpush(WAITING, f"0 {time.time() - 90} raised x a", "0 1 raised x b")
    connection.hset("rq:werk:tallies", "dropped_give_ups", 7)
    found = json.loads(run("werk", "status", "--json").stdout)
    assert (found["gave_up"]["waiting"], found["gave_up"]["dropped"]) == (2, 7)
    assert found["gave_up"]["oldest_s"] == pytest.approx(90, abs=30)
    status = run("werk", "status", env={"COLUMNS": "300"}).stdout
    assert "drop the failures: redis-cli DEL rq:werk:gave-up\n" in status
    assert "\nfinal failures for WERK_ON_GIVE_UP: 2 waiting, 7 dropped\n" in status
    assert "\nwarning: 2 final failures wait for WERK_ON_GIVE_UP, the first for " in status
    text = samples(metrics.exposition(link(roles.settings("reader"))))
    assert (text["werk_give_ups_waiting"], text["werk_give_ups_dropped_total"]) == (2, 7)


@pytest.mark.parametrize("value", ["", "x", "0 x", "0 1e999 raised", b"\xff\x00", "0 . x"])
def test_the_list_may_hold_anything(connection: redis.Redis, value: str | bytes) -> None:
    connection.rpush(WAITING, value)
    assert Snapshot.read(link(roles.settings("reader"))).gave_up.waiting == 1
    assert run("werk", "status", "--json").returncode == 0


def test_nothing_is_missed_while_processes_are_killed(
    handled: Handled,
    connection: redis.Redis,
    tmp_path: Path,
    record_property: Callable[[str, object], None],
) -> None:
    """Five causes x 50 jobs. A handler is called again only if its horse was killed."""
    seed = random.randrange(10**6)
    record_property("seed", seed)
    dice, folder, number = random.Random(seed), str(tmp_path), count()
    ids = []
    for _ in range(50):
        ids += [refused(connection), unknown(connection, tmp_path)]
        ids += [werk.enqueue(own, folder).id for own in ("fail", "poison", "swallow", "note")]
        ids.append(werk.enqueue("fail_once", folder, str(next(number))).id)
    steady = {"RQ_WORKER_CLASS": "give_up_tasks.Steady"}
    workers = [handled.start(**steady) for _ in range(4)]
    killed: set[int] = set()

    def ended() -> int:
        return sum(connection.zcard(f"rq:{end}:default") for end in ("finished", "failed"))

    def unended() -> list[str]:
        found = (Job.fetch(own, connection=connection) for own in ids)
        return [f"{job.id} {job.get_status()}" for job in found if not job.ended_at]

    deadline = time.monotonic() + 300
    while (done := ended()) < 7 * 50 or connection.exists(WAITING):
        assert time.monotonic() < deadline, f"seed {seed}: {unended()}"
        at = dice.randrange(len(workers))
        if dice.random() < 0.1:  # with its horse
            os.kill(workers[at].pid, signal.SIGSTOP)  # it starts no other horse meanwhile
            killed |= set(children(workers[at].pid))
            workers[at].kill()
            workers[at] = handled.start(**steady)
        elif pid := horse(workers[at]):
            killed.add(pid)
            os.kill(pid, signal.SIGKILL)
        time.sleep(dice.random() * 0.3)  # the faults come at random times
        # On a slow machine they would come too often for any job to end.
        pause = time.monotonic() + 1
        while ended() == done and time.monotonic() < pause:
            time.sleep(0.02)  # between two looks at what has ended
    failed = {own.decode() for own in connection.zrange("rq:failed:default", 0, -1)}
    assert len(failed) >= 5 * 50
    wait_until(lambda: failed <= {call.job for call in handled.calls()}, problem=f"seed {seed}")
    calls = handled.calls()
    assert {call.job for call in calls} == failed
    first: dict[str, int] = {}
    for call in calls:
        assert first.get(call.job, 0) in {0, *killed}, f"seed {seed}: {call}"
        first[call.job] = call.pid
    assert {call.reason for call in calls} == {
        *("raised", "refused", "unknown-task", "crashed", "timeout")
    }
