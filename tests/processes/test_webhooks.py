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
from typing import Any

import pytest
import redis
import roles
from faults import listening, losing_a_reply
from hypothesis import given, strategies
from rq import Queue
from rq.job import Job, JobStatus
from rq.webhook import Webhook
from support import run, samples, wait_until
from workers import ENV, Start, finished, runs

import werk
from werk.ops import metrics
from werk.ops.snapshot import Snapshot
from werk.store.connection import link
from werk.worker import rq_classes, webhooks

OK = b"HTTP/1.1 200 OK\r\nContent-Length: 0\r\n\r\n"
FAILED = re.compile(
    r'event=webhook-failed job=(\S+) host="?(.*?)"? reason="?(.*?)"?$', re.MULTILINE
)
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
    bounded = rq_classes.bounded(Job, registered_only=True)
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
    no_reply, left_out = "no reply in 1 s", "left out, a job may send at most 4"
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
    finished(second, 60)
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


# --- which hosts may be asked

NOT_LISTED = "left out, WERK_WEBHOOK_HOSTS does not list its host"


@pytest.fixture
def job_of(connection: redis.Redis, monkeypatch: pytest.MonkeyPatch) -> Callable[[str | None], Job]:
    """Return a job of a worker that has this value of WERK_WEBHOOK_HOSTS."""

    def job_of(hosts: str | None) -> Job:
        if hosts is not None:
            monkeypatch.setenv("WERK_WEBHOOK_HOSTS", hosts)
        bounded = rq_classes.bounded(Job, registered_only=True)
        return bounded.create("os.getcwd", connection=connection, id="j")

    return job_of


@pytest.mark.parametrize("hosts", ["127.0.0.1", "LocalHost, 127.0.0.1", "a.example 127.0.0.1 ::1"])
def test_a_listed_host_is_asked_and_no_other(
    job_of: Callable[[str | None], Job],
    servers: Servers,
    caplog: pytest.LogCaptureFixture,
    hosts: str,
) -> None:
    where = servers.start()
    other = where.replace("127.0.0.1", "127.0.0.2")
    job = job_of(hosts)
    assert send(job, caplog, hook(other), hook(where)) == [(other, NOT_LISTED)]
    assert len(servers.asked) == 1
    assert "secret" not in caplog.text


@pytest.mark.parametrize("hosts", ["none", "NONE", " none "])
def test_none_leaves_out_all(
    job_of: Callable[[str | None], Job],
    servers: Servers,
    caplog: pytest.LogCaptureFixture,
    hosts: str,
) -> None:
    where = servers.start()
    said = "left out, WERK_WEBHOOK_HOSTS is none"
    assert send(job_of(hosts), caplog, hook(where), hook("none")) == [(where, said), ("none", said)]
    assert servers.asked == []


def test_what_is_left_out_is_not_one_of_the_four(
    job_of: Callable[[str | None], Job], servers: Servers, caplog: pytest.LogCaptureFixture
) -> None:
    where = servers.start()
    failed = send(job_of("127.0.0.1"), caplog, *[hook("127.0.0.2:1")] * 5, *[hook(where)] * 5)
    assert len(failed) == 6
    assert len(servers.asked) == 4


# A port that answers stands for PORT. Each of these is 127.0.0.1 or ::1, and so would be answered,
# or is spelled like a listed host and leads elsewhere.
@pytest.mark.parametrize(
    "place",
    [
        "allowed.example@127.0.0.1:PORT",
        "allowed.example:80@127.0.0.1:PORT",
        "127.0.0.1:PORT@allowed.example",
        "127.0.0.1:PORT\\@allowed.example",
        "allowed.example%40127.0.0.1:PORT",
        "allowed.example%2f@127.0.0.1:PORT",
        "127.0.0.1:PORT%23.allowed.example",
        "127.0.0.1:PORT%00.allowed.example",
        "127.0.0.1%0a.allowed.example:PORT",
        "127.1:PORT",
        "2130706433:PORT",
        "0x7f.0.0.1:PORT",
        "0177.0.0.1:PORT",
        "127.0.0.1.:PORT",
        "127\u30020\u30020\u30021:PORT",
        "\uff11\uff12\uff17.0.0.1:PORT",
        "\u2460\u2461\u2466.0.0.1:PORT",
        "localhost:PORT",
        "lOcalhost.:PORT",
        "\u24dbocalhost:PORT",
        "[::1]:PORT",
        "[::ffff:127.0.0.1]:PORT",
        "[::ffff:7f00:1]:PORT",
        "[0:0:0:0:0:0:0:1]:PORT",
        "allowed.example.evil.example",
        "evil.example:allowed.example",
        "xallowed.example",
        ".allowed.example",
        "allowed..example",
        "allowed.example:80:80",
        "[allowed.example]",
        "allowed.ex\u00e0mple",
        "0.0.0.0:PORT",
    ],
)
def test_no_spelling_of_an_address_gets_past_the_list(
    job_of: Callable[[str | None], Job],
    servers: Servers,
    caplog: pytest.LogCaptureFixture,
    monkeypatch: pytest.MonkeyPatch,
    place: str,
) -> None:
    looked_up: list[str] = []

    def getaddrinfo(host: str, *rest: object, **options: object) -> object:
        looked_up.append(host)
        raise OSError("not looked up in a test")

    monkeypatch.setattr(socket, "getaddrinfo", getaddrinfo)
    port = servers.start().rpartition(":")[2]
    job = job_of("allowed.example")
    for method in ("GET", "POST"):
        hooked = hook("a", method=method)
        hooked.url = f"http://{place.replace('PORT', port)}/secret"  # also what RQ refuses
        assert [said for _, said in send(job, caplog, hooked)] == [NOT_LISTED]
    assert (looked_up, servers.asked) == ([], [])


@pytest.mark.parametrize(
    ("hosts", "place"),
    [
        ("allowed.example", "ALLOWED.example:PORT"),
        ("allowed.example", "allowed.example.:PORT"),
        ("Allowed.Example.", "allowed.example:PORT"),
        ("b\u00fccher.example", "xn--bcher-kva.example:PORT"),
        ("xn--bcher-kva.example", "B\u00dccher.example:PORT"),
        ("my_service", "my_service:PORT"),
        ("[::1]", "[::1]:PORT"),
        ("::1", "[0:0:0:0:0:0:0:1]:PORT"),
        ("127.0.0.1", "%3127.0.0.1:PORT"),
    ],
)
def test_a_listed_host_may_be_spelled_in_another_way(
    job_of: Callable[[str | None], Job],
    servers: Servers,
    caplog: pytest.LogCaptureFixture,
    monkeypatch: pytest.MonkeyPatch,
    hosts: str,
    place: str,
) -> None:
    where = servers.start()
    port = where.rpartition(":")[2]
    here = (socket.AF_INET, socket.SOCK_STREAM, 6, "", ("127.0.0.1", int(port)))
    monkeypatch.setattr(socket, "getaddrinfo", lambda *_, **__: [here])
    assert send(job_of(hosts), caplog, hook(place.replace("PORT", port))) == []
    assert len(servers.asked) == 1


@pytest.mark.parametrize("name", ["Host", "hOST", "Host ", " host\t"])
def test_a_listed_host_is_not_asked_for_another_one(
    job_of: Callable[[str | None], Job],
    servers: Servers,
    caplog: pytest.LogCaptureFixture,
    name: str,
) -> None:
    """Many hosts behind one address are told apart by the header Host."""
    where = servers.start()
    fronted = hook(where, headers={name: "evil.example", "X-Own": "1"})
    said = "left out, it sets the header Host, and WERK_WEBHOOK_HOSTS lists hosts"
    assert send(job_of("127.0.0.1"), caplog, fronted) == [(where, said)]
    assert servers.asked == []


def test_http_and_https_alone(
    job_of: Callable[[str | None], Job], caplog: pytest.LogCaptureFixture, tmp_path: Path
) -> None:
    file = tmp_path / "secret"
    file.write_text("secret")
    for hosts in (None, "127.0.0.1"):
        for url in (f"file://{file}", f"FILE://127.0.0.1{file}", "data:,secret", "ftp://127.0.0.1"):
            odd = hook("127.0.0.1")
            odd.url = url
            ((_, said),) = send(job_of(hosts), caplog, odd)
            assert said == "left out, it is not http or https"
    assert "secret" not in caplog.text


@pytest.mark.parametrize(
    "value",
    [
        ",", "*", "*.example", "a.example:80", "http://a.example", "a.example/secret",
        "user:secret@a.example", "none,a.example", "a.example;b.example", "[::1]:80", "[1.2.3.4]",
        "::1::2", "a..example", "a.example\x1b[31m", "x" * 64 + "\u00fc.example",
    ],
)  # fmt: skip
@pytest.mark.parametrize("command", ["werk", "rq"])
def test_a_wrong_list_is_refused_at_the_start(redis_url: str, value: str, command: str) -> None:
    env = {**ENV, "WERK_WEBHOOK_HOSTS": value}
    done = run(command, "worker", "--burst", "default", env=env)
    assert done.returncode == 78, done.stderr
    (line,) = done.stderr.splitlines()
    assert "WERK_WEBHOOK_HOSTS: " in line
    assert "separated by commas" in line
    assert "secret" not in line and "\x1b" not in line


# --- records


def test_one_bad_webhook_of_a_record_is_a_line_and_the_others_are_sent(
    work: Start, servers: Servers, connection: redis.Redis, tmp_path: Path
) -> None:
    where = servers.start()
    good = hook(where).to_dict()
    bad = [
        {**good, "url": "ftp://ftp.example/secret"},
        {**good, "url": f"http://{where}/secret", "method": "PUT"},
        {**good, "url": ["secret"]},
        {**good, "url": "http://[secret/"},
        {**good, "timeout": "secret"},
        "secret", None, 1,
    ]  # fmt: skip
    jobs = []
    for field in (json.dumps([*bad, good]), "secret", '{"secret": 1}', "[" * 60_000):
        jobs.append(werk.enqueue("note", str(tmp_path)))
        connection.hset(f"rq:job:{jobs[-1].id}", "webhooks", field)
    worker = work("default", "--burst")
    assert worker.wait(60) == 0
    assert [job.status() for job in jobs] == ["finished"] * 4
    hosts = [host for host, _ in failures(worker.output())]
    assert hosts == ["ftp.example", where, "", "", where, "", "", "", "", "", ""]
    assert {said for _, said in failures(worker.output())} == {"left out, its record is invalid"}
    assert len(servers.asked) == 1
    assert "secret" not in worker.output()
    assert "Traceback" not in worker.output()


JSON = strategies.recursive(
    strategies.none() | strategies.booleans() | strategies.integers() | strategies.floats()
    | strategies.text(max_size=8),
    lambda inner: strategies.lists(inner, max_size=3)
    | strategies.dictionaries(strategies.sampled_from([*hook("a").to_dict(), "x"]), inner),
    max_leaves=8,
)  # fmt: skip


@given(before=strategies.lists(JSON, max_size=4), after=strategies.lists(JSON, max_size=4))
def test_whatever_stands_beside_a_webhook_it_is_read(before: list[Any], after: list[Any]) -> None:
    good = hook("a.example")
    found = webhooks.Webhooks.read(json.dumps([*before, good.to_dict(), *after]).encode())
    assert good in found.readable
    assert len(found.readable) + len(found.invalid) == len(before) + 1 + len(after)


@given(strategies.binary(max_size=50) | JSON.map(lambda value: json.dumps(value).encode()))
def test_any_field_of_a_record_is_read_or_named_invalid(field: bytes) -> None:
    found = webhooks.Webhooks.read(field)
    assert found.readable or found.invalid or field.strip() in (b"", b"[]")


def test_a_record_of_very_many_webhooks_is_one_line(
    work: Start, servers: Servers, connection: redis.Redis, tmp_path: Path
) -> None:
    many = json.dumps([hook("127.0.0.1:1").to_dict()] * 200_000)
    job = werk.enqueue("note", str(tmp_path))
    connection.hset(f"rq:job:{job.id}", "webhooks", many)
    worker = work("default", "--burst")
    assert worker.wait(60) == 0
    assert job.status() == "finished"
    why = f"left out, they take {len(many)} bytes, and at most 65536 are read"
    assert failures(worker.output()) == [("", why)]


# --- in the worker


def test_a_success_whose_reply_is_lost_sends_its_webhook_once(
    work: Start, servers: Servers, connection: redis.Redis, redis_url: str, tmp_path: Path
) -> None:
    queue = Queue(connection=connection)
    parent = queue.enqueue(
        "worker_tasks.note", str(tmp_path), webhooks=[hook(servers.start())], job_id="parent"
    )
    child = queue.enqueue("worker_tasks.note", str(tmp_path), depends_on=parent)
    with losing_a_reply(redis_url, b"EXEC", b"return_value") as url:
        worker = work(env={"RQ_REDIS_URL": url})
        wait_until(lambda: child.get_status() == JobStatus.FINISHED)
        worker.terminate()
        assert worker.wait(60) == 0
    assert len(servers.asked) == 1
    assert len(parent.results()) == 1
    assert "event=late" not in worker.output()
    assert not connection.exists("rq:werk:committed")


def test_pings_and_rqs_webhooks_obey_the_list_and_are_counted(
    work: Start, servers: Servers, connection: redis.Redis, tmp_path: Path
) -> None:
    listed, broken = servers.start(), servers.start(b"HTTP/1.1 500 No\r\nContent-Length: 0\r\n\r\n")
    other = listed.replace("127.0.0.1", "localhost")
    assert Snapshot.read(link(roles.settings("reader"))).failed_webhooks == 0
    assert "webhook" not in run("werk", "status").stdout
    for place in (listed, other):
        werk.enqueue("note", str(tmp_path), options=werk.Options(ping=f"http://{place}/secret"))
    hooks = [hook(other, "failed", method="POST"), hook(broken, "failed"), hook(listed, "failed")]
    Queue(connection=connection).enqueue("worker_tasks.fail", str(tmp_path), webhooks=hooks)
    worker = work(env={"WERK_WEBHOOK_HOSTS": "127.0.0.1"})
    wait_until(lambda: len(servers.asked) == 3)
    wait_until(lambda: Snapshot.read(link(roles.settings("reader"))).failed_webhooks == 3)
    assert sorted(failures(worker.output())) == sorted(
        [(other, NOT_LISTED), (other, NOT_LISTED), (broken, "answered 500")]
    )
    assert "\n3 webhooks failed or were left out" in run("werk", "status").stdout
    assert json.loads(run("werk", "status", "--json").stdout)["failed_webhooks"] == 3
    text = metrics.exposition(link(roles.settings("reader")))
    assert samples(text)["werk_failed_webhooks_total"] == 3
    assert 'task=""' not in text
    assert "secret" not in worker.output()


@pytest.mark.parametrize("value", ["", "x", "-1", "1e999", "nan", "9" * 400, "1.5", b"\xff"])
def test_a_counter_may_hold_anything(connection: redis.Redis, value: str | bytes) -> None:
    connection.hset("rq:werk:tallies", "failed_webhooks", value)
    assert Snapshot.read(link(roles.settings("reader"))).failed_webhooks == 0
    assert run("werk", "status", "--json").returncode == 0
    found = samples(metrics.exposition(link(roles.settings("reader"))))
    assert found["werk_failed_webhooks_total"] == 0
