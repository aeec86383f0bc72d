"""A worker that is started while Redis is unreachable, still loading, or refuses our password."""

from __future__ import annotations

import os
import re
import signal
import socket
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from urllib.parse import urlsplit

import pytest
import redis
from faults import listening
from support import Process, run, wait_until
from workers import ENV, finished, horse

import werk
from werk.dev.server import Server

Start = Callable[..., Process]
KINDS = {
    "werk": ("werk", "worker", "default"),
    "pool": ("rq", "worker-pool", "default", "-w", "werk.worker.Worker"),
}


@pytest.mark.parametrize("kind", KINDS)
def test_a_worker_started_while_redis_is_away_waits_for_it(
    spawn: Start, server: Server, redis_url: str, tmp_path: Path, kind: str
) -> None:
    server.kill()
    since = time.monotonic()
    worker = spawn(*KINDS[kind], env=ENV)
    wait_until(lambda: "event=redis-unreachable" in worker.output())
    server.start()
    os.environ["WERK_REGISTRY"] = ENV["WERK_REGISTRY"]
    finished(werk.enqueue("note", str(tmp_path)))
    assert_each_reason_is_logged_once_a_minute(worker, since)
    worker.terminate()
    assert worker.wait(60) == 0


def test_a_queue_that_nobody_has_used_is_a_warning(
    spawn: Start, connection: redis.Redis, redis_url: str
) -> None:
    connection.sadd("rq:queues", "rq:queue:invoices")
    connection.sadd("rq:workers:served", "rq:worker:other")
    worker = spawn("werk", "worker", "default", "invoices", "invoises", "served", env=ENV)
    wait_until(lambda: horse(worker))
    lines = [line for line in worker.output().splitlines() if "event=unused-queue" in line]
    why = "no job was ever enqueued there, and no other worker serves it"
    hint = "; did you mean 'invoices'?"
    assert [line.partition("WARNING rq.worker ")[2] for line in lines] == [
        f'event=unused-queue queue=invoises reason="{why}{hint}"'
    ]


def test_a_key_of_another_type_for_the_queues_is_no_trouble(
    spawn: Start, connection: redis.Redis
) -> None:
    connection.set("rq:queues", "x")
    worker = spawn("werk", "worker", "low", env=ENV)
    wait_until(lambda: "event=begins" in worker.output())
    wait_until(lambda: horse(worker))
    assert "unused-queue" not in worker.output()


def test_an_idle_worker_exits_after_a_duration(redis_url: str) -> None:
    assert run("werk", "worker", "default", "--max-idle-time", "0m1s").returncode == 0
    done = run("werk", "worker", "default", "--max-idle-time", "soon")
    assert (done.returncode, "a text such as 5m" in done.stderr) == (2, True)


def test_the_help_of_a_worker_is_ours(redis_url: str) -> None:
    done = run("werk", "worker", "--help")
    assert (done.returncode, done.stderr) == (0, "")
    assert "--concurrency N" in done.stdout and "rq worker --help" in done.stdout
    assert "--serializer" not in done.stdout  # it works, as those of the others
    assert "Redis client class" not in done.stdout
    worker = run("werk", "worker", "--burst", "--logging-level", "DEBUG", "-S", "pickle", env=ENV)
    assert (worker.returncode, "event=begins" in worker.stdout) == (0, True)


def test_the_end_of_an_outage_is_logged_with_its_length(
    spawn: Start, server: Server, redis_url: str
) -> None:
    worker = spawn("werk", "worker", "default", env=ENV)
    os.environ["WERK_REGISTRY"] = ENV["WERK_REGISTRY"]
    finished(werk.enqueue("hello", "Ada"))
    since = time.monotonic()
    server.kill()
    wait_until(lambda: worker.output().count("event=redis-unreachable") >= 2)  # and its horse
    server.start()
    wait_until(lambda: worker.output().count("event=redis-back") >= 2)
    back = re.findall(r'event=redis-back worker=\S+ after="(\d+) s"', worker.output())
    assert len(back) == worker.output().count("event=redis-back")
    assert_each_reason_is_logged_once_a_minute(worker, since)


def assert_each_reason_is_logged_once_a_minute(worker: Process, since: float) -> None:
    """By the supervisor, and by its horse."""
    lines = [line for line in worker.output().splitlines() if "event=redis-unreachable" in line]
    reasons = [line.partition("reason=")[2] for line in lines]
    minutes = 1 + (time.monotonic() - since) // 60
    assert len(reasons) <= 2 * len({*reasons}) * minutes


def test_a_table_that_cannot_be_loaded_is_one_line(redis_url: str, tmp_path: Path) -> None:
    done = run("werk", "worker", "default", env={"WERK_REGISTRY": "no_such_table:TASKS"})
    assert done.returncode == 78
    [line] = done.stderr.splitlines()
    assert line.startswith("werk: WERK_REGISTRY: cannot load no_such_table:TASKS")


@pytest.mark.parametrize(("table", "says"), [("", True), ("werk.registry", False)])
def test_a_worker_without_a_table_says_so(redis_url: str, table: str, says: bool) -> None:
    done = run("werk", "worker", "--burst", "default", env={"WERK_REGISTRY": table})
    line = 'event=demo-tasks reason="this worker serves only the demo tasks; set WERK_REGISTRY'
    assert (line in done.stdout + done.stderr) == says


def test_help_and_check_have_the_same_reason(redis_url: str, tmp_path: Path) -> None:
    (tmp_path / "shop.py").write_text(
        "from dataclasses import dataclass\n\nTASKS = {'book': 'shop.book'}\n\n\n"
        "@dataclass\nclass Order: ...\n\n\ndef book(order: Order): ...\n"
    )
    env = {"WERK_REGISTRY": "shop:TASKS", "PYTHONPATH": str(tmp_path)}
    said = "Order is not plain data; pass its fields, or a dict, and build it in the task"
    assert said in run("werk", "tasks", "--check", env=env).stdout
    page = run("werk-enqueue", "book", "--help", env=env).stdout
    assert said in " ".join(page.split())
    done = run("werk", "tasks", "book", env=env)
    assert done.returncode == 2
    assert done.stderr.endswith("got 'book'; how to call a task: werk-enqueue book --help\n")


def test_a_task_that_is_not_there_is_named_at_the_start(
    redis_url: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "typo.py").write_text("TASKS = {'words': 'wrods.count', 'broken': 'typo2.f'}")
    (tmp_path / "typo2.py").write_text("def f(:")
    monkeypatch.setenv("PYTHONPATH", str(tmp_path))
    env = {"WERK_REGISTRY": "typo:TASKS"}
    done = run("werk", "worker", "--burst", "default", env=env)
    assert done.returncode == 0
    log = done.stdout + done.stderr
    assert 'event=missing-task task=words reason="no module wrods' in log
    assert "event=missing-task task=broken reason=" in log
    assert run("werk", "tasks", "--check", env=env).returncode == 78


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_a_signal_ends_the_wait(
    spawn: Start, server: Server, redis_url: str, number: signal.Signals
) -> None:
    server.kill()
    worker = spawn("werk", "worker", "default")
    wait_until(lambda: "event=redis-unreachable" in worker.output())
    worker.send_signal(number)
    assert worker.wait(60) == 0
    assert len(worker.output().splitlines()) == 1


@pytest.mark.parametrize("slots", [1, 3])
@pytest.mark.parametrize(
    "where", ["register_birth", "use_strategy", "install_signal_handlers", "the loop"]
)
def test_a_signal_at_any_moment_of_the_start_leaves_no_record(
    work: Start, connection: redis.Redis, where: str, slots: int
) -> None:
    env = {"RQ_WORKER_CLASS": "fast_worker.Stopped", "STOPPED_IN": where}
    worker = work("default", env={**env, "WERK_CONCURRENCY": str(slots)})
    assert worker.wait(60) == 0
    assert not connection.smembers("rq:workers")
    assert not connection.smembers("rq:workers:default")
    assert not connection.zcard("rq:werk:leases")
    assert "Traceback" not in worker.output()


@pytest.mark.parametrize("waits", [False, True])
def test_a_worker_leaves_though_a_signal_arrives_in_a_destructor(waits: bool) -> None:
    code = f"""if True:
        import os, signal, time
        from werk.worker.startup import stoppable

        class Last:
            def __del__(self):
                os.kill(os.getpid(), signal.SIGTERM)
                time.sleep(0)  # the handler runs here

        with stoppable():
            Last()
            time.sleep(60 * {waits})  # until it is raised again
        print("it goes on")
    """
    done = run("python", "-c", code)
    assert (done.returncode, done.stdout) == (0, "")


def test_an_alarm_of_the_process_goes_on_while_a_worker_starts() -> None:
    code = """if True:
        import signal
        from werk.worker.startup import stoppable

        signal.signal(signal.SIGALRM, lambda *_: print("rings"))
        signal.alarm(3600)
        with stoppable():
            signal.raise_signal(signal.SIGALRM)
        print("it goes on", signal.alarm(0) > 3000)
    """
    done = run("python", "-c", code)
    assert (done.returncode, done.stdout) == (0, "rings\nit goes on True\n")


class Moody:
    """Passes requests on to Redis; after `count` of them it hangs up, or says that it loads."""

    def __init__(self, url: str, count: int, answer: bytes) -> None:
        parts = urlsplit(url)
        self.place = (str(parts.hostname), int(parts.port or 6379))
        self.left, self.answer, self.refused = count, answer, 0

    def handle(self, client: socket.socket) -> None:
        with socket.create_connection(self.place) as server:
            while request := client.recv(65536):
                self.left -= 1
                if self.left < 0 and self.refused < 3:
                    self.refused += 1
                    client.sendall(self.answer)
                    return
                server.sendall(request)
                client.sendall(server.recv(65536))


@pytest.mark.parametrize("count", range(18))
@pytest.mark.parametrize("answer", [b"", b"-LOADING Redis is loading the dataset in memory\r\n"])
def test_redis_may_go_or_load_at_any_moment_of_a_start(
    spawn: Start, redis_url: str, connection: redis.Redis, count: int, answer: bytes
) -> None:
    moody = Moody(redis_url, count, answer)
    with listening(moody.handle) as port:
        url = f"redis://127.0.0.1:{port}/0"
        worker = spawn("werk", "worker", "default", env={"RQ_REDIS_URL": url})
        wait_until(lambda: horse(worker) or worker.poll() is not None)
        assert worker.poll() is None, worker.output()
        assert moody.refused == 3
        worker.terminate()
        assert worker.wait(60) == 0, worker.output()
        connection.client_kill_filter(_type="normal", skipme=True)


@pytest.fixture
def guest(connection: redis.Redis) -> Iterator[None]:
    connection.acl_setuser("guest", enabled=True, passwords=["+s3cret"], commands=["+ping"])
    yield
    connection.acl_deluser("guest")


@pytest.mark.parametrize("user", ["guest:s3cret", "guest:wr0ng", "nobody:s3cret"])
def test_what_no_waiting_mends_ends_it_at_once(guest: None, redis_url: str, user: str) -> None:
    url = redis_url.replace("redis://", f"redis://{user}@")
    ended = run("werk", "worker", "default", env={"RQ_REDIS_URL": url})
    assert ended.returncode == 78, ended.stderr
    assert len(ended.stderr.splitlines()) == 1
    assert "refused" in ended.stderr
    assert user.partition(":")[2] not in ended.stderr


@pytest.mark.parametrize("option", [("-u", "no url"), ("-c", "no_such_module")])
def test_an_address_that_is_none_is_one_line(redis_url: str, option: tuple[str, str]) -> None:
    ended = run("werk", "worker", *option, env={"RQ_REDIS_URL": ""})
    assert ended.returncode == 78
    assert len(ended.stderr.splitlines()) == 1


@pytest.mark.parametrize("command", [["werk", "worker"], ["rq", "worker"]])
def test_a_queue_with_a_comma_is_refused(redis_url: str, command: list[str]) -> None:
    done = run(*command, "--burst", "low,high", env={"RQ_WORKER_CLASS": "werk.worker.Worker"})
    use = "to serve several queues: werk worker low high"
    assert done.returncode == 78
    assert f"queue 'low,high' is not a queue name, it has a comma; {use}\n" in done.stderr
