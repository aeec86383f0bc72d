"""Tasks that misuse their process: they fork, hold all descriptors, return what cannot be kept."""

from __future__ import annotations

import os
import resource
import signal
from base64 import b64encode
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from threading import Event, Thread

import pytest
import redis
from faults import freezing, losing_a_reply
from rq import Callback, Queue
from rq.webhook import Webhook
from support import wait_until
from workers import ENV, PATIENT, Start, ended, finished, own_key, places, reason, runs
from workers import horse as horse_of

import werk
from werk.store import payload

MANY = 400


def next_job(folder: Path, within_s: float = 30) -> None:
    """Fail unless the worker runs one more job."""
    finished(werk.enqueue("note", str(folder), "next"), within_s)


# --- tasks that fork


@pytest.mark.parametrize("how", ["returns", "raises", "exits"])
def test_a_task_that_forks_stays_one_execution(
    work: Start, connection: redis.Redis, tmp_path: Path, how: str
) -> None:
    worker = work(env=PATIENT)
    horse = horse_of(worker)
    jobs = [werk.enqueue("fork", str(tmp_path), how) for _ in range(MANY)]
    for job in jobs:
        assert job.result(60) == how
    next_job(tmp_path)
    assert sorted(run[0] for run in runs(tmp_path, "ran")) == sorted(job.id for job in jobs)
    assert horse_of(worker) == horse
    assert "event=late" not in worker.output()
    assert not connection.exists("rq:wip:default")


def test_a_fork_that_raises_leaves_its_traceback(work: Start, tmp_path: Path) -> None:
    worker = work()
    finished(werk.enqueue("fork", str(tmp_path), "raises"))
    worker.terminate()
    assert worker.wait(60) == 0
    assert "ValueError: in the child" in worker.output()


def test_an_exception_handler_that_forks_and_raises_leaves_one_horse(
    work: Start, tmp_path: Path
) -> None:
    worker = work("default", "--exception-handler", "worker_tasks.fork_in_handler", env=PATIENT)
    horse = horse_of(worker)
    for job in [werk.enqueue("fail", str(tmp_path)) for _ in range(20)]:
        assert reason(ended(job, "failed")).endswith("ValueError: as asked\n")
    next_job(tmp_path)
    assert {int(run[1]) for run in runs(tmp_path)} == {horse_of(worker)} == {horse}
    assert len(runs(tmp_path)) == 21
    assert "ValueError: in the child" in worker.output()


def test_a_callback_whose_import_forks_and_raises_ends_its_job_once(
    work: Start, connection: redis.Redis, tmp_path: Path
) -> None:
    table = {"WERK_REGISTRY": "worker_tasks:TASKS,forking_tasks:TASKS"}
    worker = work(env=PATIENT | table)
    horse = horse_of(worker)
    job = Queue(connection=connection).enqueue(
        "worker_tasks.note", str(tmp_path), on_success=Callback("forking_module.callback")
    )
    wait_until(lambda: job.get_status() == "finished")
    next_job(tmp_path)
    assert len(job.results()) == 1
    assert {int(run[1]) for run in runs(tmp_path)} == {horse_of(worker)} == {horse}


def test_a_callback_that_forks_ends_its_job_once(
    work: Start, connection: redis.Redis, tmp_path: Path
) -> None:
    queue = Queue(connection=connection)
    called = [
        queue.enqueue(
            "worker_tasks.note",
            kwargs={"folder": str(tmp_path)},
            on_success=Callback("worker_tasks.fork_in_callback"),
        )
        for _ in range(20)
    ]
    worker = work(env=PATIENT)
    horse = horse_of(worker)
    wait_until(lambda: all(job.get_status() == "finished" for job in called), 30)
    for job in called:
        assert len(job.results()) == 1
        assert places(connection, job.id) == ["finished"]
    next_job(tmp_path)
    assert horse_of(worker) == horse
    assert len(runs(tmp_path, "ran")) == 2 * len(called)  # the task, and the callback


@pytest.mark.parametrize(("handler", "code"), [("", -signal.SIGTERM), ("own", 7)])
def test_a_task_can_end_its_processes_from_their_first_moment_on(
    work: Start, handler: str, code: int
) -> None:
    """As multiprocessing.Pool does. A handler of the task's own is inherited, as everywhere."""
    work()
    assert set(werk.enqueue("end_children", 100, handler).result(60)) == {code}


def test_a_horse_outlives_sigterm_while_a_process_of_its_task_does_not(
    work: Start, tmp_path: Path
) -> None:
    worker = work(env=PATIENT)
    horse = horse_of(worker)
    werk.enqueue("end_children", 1).result(60)
    os.kill(horse, signal.SIGTERM)
    next_job(tmp_path)
    assert horse_of(worker) == horse


# --- a task that changes the current folder

MOVING = """
import importlib, os
from werk import Task

def move(folder):
    os.chdir(folder)
    importlib.invalidate_caches()

TASKS = {"move": Task("moving.move"), "other": Task("only_here.other")}
"""


@pytest.mark.parametrize(
    ("words", "folder"),
    [
        (("werk", "worker", "default"), "."),
        (("rq", "worker", "default"), "."),
        (("rq", "worker", "default", "--path", "own"), "own"),
    ],
    ids=["werk", "rq", "path"],
)
def test_a_task_that_changes_the_folder_leaves_others_their_modules(
    spawn: Start,
    redis_url: str,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    words: tuple[str, ...],
    folder: str,
) -> None:
    place = tmp_path / folder
    place.mkdir(exist_ok=True)
    (place / "moving.py").write_text(MOVING)
    (place / "only_here.py").write_text("import os\ndef other(): return os.getcwd()")
    monkeypatch.chdir(tmp_path)
    monkeypatch.syspath_prepend(place)
    monkeypatch.setenv("WERK_REGISTRY", "moving:TASKS")
    spawn(*words, env={**ENV, "WERK_REGISTRY": "moving:TASKS"})
    werk.enqueue("move", "/")
    assert werk.enqueue("other").result(60) == "/"


# --- tasks and machines without descriptors, memory or processes


@pytest.mark.parametrize("how", ["raises", "leaves one", "returns"])
def test_a_task_that_holds_all_descriptors_costs_its_horse(
    work: Start, tmp_path: Path, how: str
) -> None:
    before = werk.enqueue("fail", str(tmp_path))  # RQ's connection takes a descriptor
    job = werk.enqueue("hold_descriptors", how)
    waiting = werk.enqueue("needs_two", str(tmp_path))  # when the other ends
    worker = work()
    ended(before, "failed")
    finished(waiting)
    wait_until(lambda: job.status() in ("finished", "failed"))
    assert job.status() == ("finished" if how == "returns" else "failed")
    if how != "returns":
        assert "Too many open files" in reason(job.job)
    next_job(tmp_path)
    assert worker.poll() is None
    worker.terminate()
    assert worker.wait(60) == 0


def test_the_first_failure_of_a_horse_is_recorded_whole_without_descriptors(
    work: Start, connection: redis.Redis, tmp_path: Path
) -> None:
    """Nothing has to be opened to record it, and it is kept as long as was asked."""
    again = werk.Options(retry=1)  # not its last attempt, so no failure is counted
    before = werk.enqueue("fail", str(tmp_path), options=again)
    job = werk.enqueue("hold_descriptors", "raises", options=werk.Options(failure_ttl=77))
    work()
    ended(before, "scheduled")
    ended(job, "failed")
    assert "in hold_descriptors" in job.job.latest_result().exc_string
    assert 0 < connection.ttl(f"rq:job:{job.id}") <= 77


def test_a_worker_that_gets_no_process_tries_again(work: Start, tmp_path: Path) -> None:
    worker = work(env={"RQ_WORKER_CLASS": "fast_worker.Forkless"})
    next_job(tmp_path)
    assert worker.output().count("event=no-horse") == 2


def test_a_worker_without_descriptors_keeps_its_lease(
    work: Start, connection: redis.Redis, tmp_path: Path
) -> None:
    worker = work()
    next_job(tmp_path)
    wait_until(lambda: not connection.exists("rq:wip:default"))
    limits = resource.prlimit(worker.pid, resource.RLIMIT_NOFILE)
    resource.prlimit(worker.pid, resource.RLIMIT_NOFILE, (3, limits[1]))
    os.kill(horse_of(worker), signal.SIGKILL)
    wait_until(lambda: worker.output().count("event=no-horse") >= 2)
    name = connection.zrange("rq:werk:leases", 0, -1)[0]
    lease = connection.zscore("rq:werk:leases", name)
    wait_until(lambda: connection.zscore("rq:werk:leases", name) > lease)
    resource.prlimit(worker.pid, resource.RLIMIT_NOFILE, limits)
    next_job(tmp_path)
    assert worker.poll() is None


# --- replies that are no answer, and connections without any


def test_what_redis_refuses_fails_and_the_next_job_runs(
    work: Start, connection: redis.Redis, tmp_path: Path
) -> None:
    before = connection.config_get("proto-max-bulk-len")["proto-max-bulk-len"]
    worker = work()
    try:
        connection.config_set("proto-max-bulk-len", 1 << 20)
        job = werk.enqueue("large", 8)
        ended(job, "failed")
        next_job(tmp_path)
    finally:
        connection.config_set("proto-max-bulk-len", before)
    assert "invalid bulk length" in reason(job.job)
    assert connection.hget(f"rq:job:{job.id}", "werk_crashes") is None
    worker.terminate()
    assert worker.wait(60) == 0


def test_a_finish_on_a_silent_connection_is_sent_on_another(
    work: Start, connection: redis.Redis, redis_url: str, tmp_path: Path
) -> None:
    job = werk.enqueue("note", str(tmp_path))
    with freezing(redis_url, b64encode(payload.dumps("ran"))) as url:
        worker = work(env={"RQ_REDIS_URL": url})
        finished(job)
        next_job(tmp_path)
        assert worker.output().count("event=reconnect") >= 1
        worker.terminate()
        assert worker.wait(60) == 0
    assert len(runs(tmp_path)) == 2


def test_a_failure_whose_reply_is_lost_is_recorded_once(
    work: Start, connection: redis.Redis, redis_url: str, tmp_path: Path
) -> None:
    job = werk.enqueue("fail", str(tmp_path))
    with losing_a_reply(redis_url, b"EXEC", b"exc_string") as url:
        worker = work(env={"RQ_REDIS_URL": url})
        ended(job, "failed")
        next_job(tmp_path)
        worker.terminate()
        assert worker.wait(60) == 0
    assert len(job.job.results()) == 1
    assert not connection.exists("rq:werk:committed")


def test_a_worker_leaves_while_redis_takes_no_writes(
    work: Start, connection: redis.Redis, tmp_path: Path
) -> None:
    worker = work()
    next_job(tmp_path)
    try:
        connection.config_set("min-replicas-to-write", 1)
        worker.terminate()
        assert worker.wait(60) == 0
    finally:
        connection.config_set("min-replicas-to-write", 0)
    assert "Traceback" not in worker.output()


def test_an_idle_wait_on_a_silent_connection_ends(
    work: Start, connection: redis.Redis, redis_url: str, tmp_path: Path
) -> None:
    with freezing(redis_url, b"BLMOVE") as url:
        worker = work(env={"RQ_REDIS_URL": url})
        wait_until(lambda: connection.hget(own_key(connection), "state") == b"idle")
        job = werk.enqueue("note", str(tmp_path))
        finished(job)
        worker.terminate()
        assert worker.wait(60) == 0


# --- RQ's own finish takes its time


@pytest.fixture
def hook() -> Iterator[tuple[str, Event, list[str]]]:
    """A web server that answers when it is told to: its address, the word, who has asked."""
    go, asked = Event(), []

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            asked.append(self.path)
            go.wait(30)
            self.send_response(200)
            self.end_headers()

        def log_message(self, *args: object) -> None:
            pass

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    thread = Thread(target=server.serve_forever)
    thread.start()
    yield f"http://127.0.0.1:{server.server_port}", go, asked
    go.set()
    server.shutdown()
    thread.join()
    server.server_close()


def test_a_finish_that_waits_after_its_commit_is_left_alone(
    work: Start,
    connection: redis.Redis,
    tmp_path: Path,
    hook: tuple[str, Event, list[str]],
) -> None:
    url, go, asked = hook
    worker = work()
    horse = horse_of(worker)
    hooks = [Webhook(f"{url}/{n}", "finished") for n in range(2)]
    job = Queue(connection=connection).enqueue("worker_tasks.note", str(tmp_path), webhooks=hooks)
    wait_until(lambda: asked)
    beats = connection.hget(own_key(connection), "last_heartbeat")
    for _ in range(8):  # ticks: the horse was killed after two
        wait_until(
            lambda: connection.hget(own_key(connection), "last_heartbeat") != beats  # noqa: B023
        )
        beats = connection.hget(own_key(connection), "last_heartbeat")
    go.set()
    next_job(tmp_path)
    assert asked == ["/0", "/1"]
    assert horse_of(worker) == horse
    assert job.get_status() == "finished"
    assert len(runs(tmp_path, "ran")) == 1
