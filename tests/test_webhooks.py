"""Webhooks: real servers, which answer late, never, in drops, or with a redirect."""

from __future__ import annotations

import json
import re
import socket
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from pathlib import Path
from threading import Event

import pytest
import redis
from faults import listening
from rq import Queue
from rq.job import Job, JobStatus
from rq.webhook import Webhook
from support import run, wait_until
from test_worker import ENV, Start, finished, runs, work

import werk
from werk import records, webhooks

__all__ = ["work"]  # the fixture

OK = b"HTTP/1.1 200 OK\r\nContent-Length: 0\r\n\r\n"
FAILED = re.compile(r"event=webhook-failed job=(\S+) host=(\S*) reason=(.*)")
Serve = Callable[..., str]


class Servers:
    """HTTP servers; each keeps what it was asked in `asked`."""

    def __init__(self, stack: ExitStack) -> None:
        self.stack, self.asked = stack, list[bytes]()
        self.is_over = Event()

    def start(self, reply: bytes = OK, *, after_s: float = 0, drip_s: float = 0) -> str:
        """Start one, which replies after some seconds, or so long between two bytes. Return where
        it is."""

        def handle(caller: socket.socket) -> None:
            self.asked.append(request_on(caller))
            if not reply or self.is_over.wait(after_s):
                self.is_over.wait(60)
                return
            for byte in [reply[i : i + 1] for i in range(len(reply))] if drip_s else [reply]:
                caller.sendall(byte)
                if drip_s and self.is_over.wait(drip_s):
                    return

        return f"127.0.0.1:{self.stack.enter_context(listening(handle))}"


def request_on(caller: socket.socket) -> bytes:
    """Return a request, head and body."""
    data = b""
    while True:
        data += (got := caller.recv(65536))
        head, end, body = data.partition(b"\r\n\r\n")
        length = re.search(rb"Content-Length: (\d+)", head)
        if not got or (end and len(body) >= int(length[1] if length else 0)):
            return data


@pytest.fixture
def servers() -> Iterator[Servers]:
    with ExitStack() as stack:
        made = Servers(stack)
        stack.callback(made.is_over.set)  # before the servers are closed
        yield made
        made.is_over.set()


@pytest.fixture
def job(connection: redis.Redis) -> Job:
    """A job of the class that workers use."""
    bounded = records.bounded(Job, registered_only=True)
    made = bounded.create("os.getcwd", connection=connection, id="j")
    made.ended_at = None
    return made


def failures(log: str) -> list[tuple[str, str]]:
    """Return host and reason of each webhook that failed."""
    return [(host, reason) for _, host, reason in FAILED.findall(log)]


def send(job: Job, caplog: pytest.LogCaptureFixture, *hooks: Webhook) -> list[tuple[str, str]]:
    job.webhooks = list(hooks)
    caplog.clear()
    job.send_webhooks(JobStatus.FINISHED)
    assert {record.levelname for record in caplog.records} <= {"WARNING"}
    return failures(caplog.text)


def hook(where: str, status: str = "finished", **options: object) -> Webhook:
    return Webhook(f"http://{where}/secret?token=secret", status, **options)  # type: ignore[arg-type]


def test_at_most_four_are_asked_and_each_has_its_time(
    job: Job, servers: Servers, caplog: pytest.LogCaptureFixture
) -> None:
    silent, late = servers.start(b""), servers.start(after_s=0.4)
    dripping = servers.start(OK, drip_s=0.2)
    begun_at = time.monotonic()
    failed = send(
        job, caplog, hook(late), hook(silent, timeout=1), hook(silent, "failed"),
        hook(dripping, timeout=1), hook(late), hook(late), hook(silent),
    )  # fmt: skip
    assert 2.8 <= time.monotonic() - begun_at < 8
    no_reply, left_out = "no reply in 1 s", "left out, a job may have 4"
    assert failed == [
        (silent, no_reply),
        (dripping, no_reply),
        (late, left_out),
        (silent, left_out),
    ]
    assert len(servers.asked) == 4
    assert "secret" not in caplog.text


def test_each_request_is_progress_of_the_finish(
    job: Job, servers: Servers, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked: list[int] = []
    monkeypatch.setattr(webhooks, "made_progress", lambda: asked.append(len(servers.asked)))
    where = servers.start()
    send(job, caplog, *[hook(where)] * 5)
    assert asked == [1, 2, 3, 4]


def test_a_request_lasts_ten_seconds_whatever_its_record_says(
    job: Job, servers: Servers, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert webhooks.LIMIT_S == 10
    monkeypatch.setattr(webhooks, "LIMIT_S", 0.3)
    silent = servers.start(b"")
    assert send(job, caplog, hook(silent, timeout=600)) == [(silent, "no reply in 0.3 s")]


def test_no_redirect_is_followed(
    job: Job, servers: Servers, caplog: pytest.LogCaptureFixture
) -> None:
    target = servers.start()
    for code in (301, 302, 303, 307, 308):
        moved = f"HTTP/1.1 {code} Moved\r\nLocation: http://{target}/\r\n\r\n".encode()
        near = servers.start(moved)
        for method in ("GET", "POST"):
            said = f"answered {code}, a redirect, which is not followed"
            assert send(job, caplog, hook(near, method=method)) == [(near, said)]
    assert len(servers.asked) == 10  # none of them is the target


def test_a_failure_names_the_host_and_nothing_else_of_the_address(
    job: Job, servers: Servers, caplog: pytest.LogCaptureFixture
) -> None:
    evil = servers.start(b"HTTP/1.1 500 \x1b[31mred\r\nContent-Length: 0\r\n\r\n")
    with socket.create_server(("127.0.0.1", 0)) as closed:
        nobody = f"127.0.0.1:{closed.getsockname()[1]}"
    no_http = servers.start(b"secret\x1b[31m\r\n\r\n")
    assert send(job, caplog, hook(evil), hook(nobody), hook(no_http)) == [
        (evil, "answered 500"),
        (nobody, "Connection refused"),
        (no_http, "BadStatusLine"),
    ]
    assert "secret" not in caplog.text
    named = hook(f"secret:secret@{evil}")  # urllib looks up all of it
    assert [host for host, _ in send(job, caplog, named)] == [evil]
    assert "secret" not in caplog.text
    odd = Webhook("http://x.invalid/secret\n", "finished", headers={"secret\n": "secret"})
    assert [host for host, _ in send(job, caplog, odd)] == ["x.invalid"]
    assert "secret" not in caplog.text
    assert "\x1b" not in caplog.text


def test_a_request_is_as_rqs(job: Job, servers: Servers, caplog: pytest.LogCaptureFixture) -> None:
    where = servers.start()
    job.webhooks = [hook(where, "failed", method="POST", headers={"X-Own": "1"}), hook(where)]
    job.send_webhooks(JobStatus.FAILED, exc_string="Traceback")
    assert failures(caplog.text) == []
    head, _, body = servers.asked[0].partition(b"\r\n\r\n")
    assert head.startswith(b"POST /secret?token=secret HTTP/1.1")
    assert b"X-Own: 1" in head
    wanted = {"job_id": "j", "func_name": "os.getcwd", "status": "failed", "exc_info": "Traceback"}
    assert json.loads(body) == {**wanted, "enqueued_at": None, "ended_at": None}
    job.send_webhooks(JobStatus.FINISHED)
    assert servers.asked[1].startswith(b"GET /secret?token=secret HTTP/1.1")


def test_a_reply_that_drips_does_not_keep_its_thread(
    job: Job, servers: Servers, caplog: pytest.LogCaptureFixture
) -> None:
    endless = b"HTTP/1.1 200 OK\r\nX: " + 10_000 * b"x"
    send(job, caplog, hook(servers.start(endless, drip_s=0.1), timeout=1))
    wait_until(lambda: "webhook" not in [thread.name for thread in threading.enumerate()])


@pytest.mark.parametrize("is_free", [False, True])
def test_a_worker_sends_them_and_is_free_again(
    work: Start, servers: Servers, connection: redis.Redis, tmp_path: Path, is_free: bool
) -> None:
    silent, late = servers.start(b""), servers.start(after_s=0.4)
    hooks = [hook(late), hook(silent, timeout=1), hook(late), hook(silent, timeout=1)]
    first = Queue(connection=connection).enqueue(
        "worker_tasks.note", str(tmp_path), webhooks=[*hooks, hook(late), hook(silent)]
    )
    second = werk.enqueue("note", str(tmp_path))
    worker = work(env={"WERK_ALLOW_UNREGISTERED": "yes" if is_free else "no"})
    finished(second, 15)
    assert first.get_status() == JobStatus.FINISHED
    hosts = [host for host, _ in failures(worker.output())]
    assert hosts == [silent, silent, late, silent]
    assert len(servers.asked) == 4
    assert "event=kill" not in worker.output()
    assert "secret" not in worker.output()


def test_a_ping_tells_of_success_alone_and_its_failure_is_logged(
    work: Start, servers: Servers, tmp_path: Path
) -> None:
    where, broken = servers.start(), servers.start(b"HTTP/1.1 404 No\r\nContent-Length: 0\r\n\r\n")
    for place, task in ((where, "note"), (where, "fail"), (broken, "note")):
        words = ("--ping", f"http://{place}/done", task, tmp_path)
        assert run("werk-enqueue", *words, env=ENV).returncode == 0
    worker = work()
    wait_until(lambda: failures(worker.output()) == [(broken, "answered 404")])
    assert [line.split()[1] for line in servers.asked] == [b"/done", b"/done"]
    assert [line[3] for line in runs(tmp_path)] == ["ran"] * 3
    assert "/done" not in worker.output()
