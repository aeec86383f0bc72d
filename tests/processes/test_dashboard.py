"""The dashboard: who may ask, what is shown, what is done. Nothing that it reads is run."""

from __future__ import annotations

import json
import os
import pickle
import signal
import socket
import time
import urllib.error
import urllib.request
import zlib
from base64 import b64encode
from collections.abc import Callable
from datetime import datetime, timedelta, timezone
from pathlib import Path
from typing import Any

import pytest
import redis
from dashboards import HERE, OURS, Browse, put
from flask.testing import FlaskClient
from rq import Queue
from rq.job import Job, Retry
from rq_dashboard import web
from support import Process, run, samples, wait_until
from workers import Start, horse

import werk
from werk import registry
from werk.dev.server import free_port
from werk.errors import ConfigError
from werk.settings import Settings
from werk.web import app as dashboard
from werk.web import views

HOST = socket.gethostname()
MANY = """
for n = ARGV[3] + 1, ARGV[3] + 1000 do
  local id, failed = 'many-' .. ARGV[1] .. n, ARGV[1] == 'failed'
  redis.call('HSET', 'rq:job:' .. id, 'data', ARGV[4], 'description', 'hello(' .. n .. ')',
    'werk_task', 'hello', 'origin', 'default', 'status', ARGV[1], 'timeout', 180,
    'created_at', ARGV[2], 'enqueued_at', ARGV[2], 'started_at', ARGV[2], 'ended_at', ARGV[2])
  redis.call('ZADD', 'rq:' .. ARGV[1] .. ':default', 4e9 + n, id) -- when it expires
  if failed then redis.call('XADD', 'rq:results:' .. id, '*', 'type', 2, 'exc_string', ARGV[5])
  else redis.call('XADD', 'rq:results:' .. id, '*', 'type', 1, 'return_value', ARGV[5]) end
end
redis.call('SADD', 'rq:queues', 'rq:queue:default')
"""


class Evil:
    """What runs code when it is unpickled: it makes a folder."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def __reduce__(self) -> tuple[Any, ...]:
        return os.mkdir, (str(self.path),)


@pytest.fixture
def page(browse: Browse) -> Callable[[str], Any]:
    """Return the JSON at a path."""
    client = browse()

    def page(path: str) -> Any:
        answer = client.get(path, base_url=HERE, follow_redirects=True)
        assert answer.status_code == 200, answer.text
        return answer.json

    return page


def burst(queue: str = "default") -> None:
    done = run("rq", "worker", "--burst", "--with-scheduler", queue)
    assert done.returncode == 0, done.stderr


def shown(page: dict[str, Any]) -> dict[str, str]:
    return dict(page["rows"])


# --- who may ask


@pytest.mark.parametrize(
    ("host", "code"),
    [
        ("localhost", 200),
        ("localhost:9181", 200),
        ("127.0.0.1:1", 200),
        ("[::1]:9181", 200),
        ("LOCALHOST", 200),
        ("dash.example:9181", 200),
        ("evil.example", 403),
        ("localhost.evil.example", 403),
        ("evil@localhost", 403),
        ("", 403),
    ],
)
def test_a_host_has_to_be_known(browse: Browse, host: str, code: int) -> None:
    client = browse(hosts=["dash.example"])
    for path in ("/", "/0/data/queues.json", "/healthz", "/nowhere"):
        got = client.get(path, headers={"Host": host}, base_url="http://evil.example").status_code
        assert got == (404 if code == 200 and path == "/nowhere" else code)


@pytest.mark.parametrize(
    ("origin", "code"),
    [
        (HERE, 404),  # it gets as far as looking for the job
        ("https://localhost", 404),
        ("http://evil.example", 403),
        ("http://localhost:81", 403),
        ("http://localhost.evil.example", 403),
        ("null", 403),
        (None, 403),
    ],
)
def test_a_change_is_asked_for_by_our_own_pages(
    browse: Browse, origin: str | None, code: int
) -> None:
    headers = {"Origin": origin} if origin else {}
    for path in ("/job/some/requeue", "/job/some/delete"):
        assert browse().post(path, base_url=HERE, headers=headers).status_code == code


def test_a_get_changes_nothing(browse: Browse, connection: redis.Redis) -> None:
    job = werk.enqueue("panic")
    burst()
    client = browse()
    for path in (
        "/requeue/default",
        f"/job/{job.id}/requeue",
        f"/job/{job.id}/delete",
        "/queue/default/failed/empty",
        "/queue/default/compact",
    ):
        for method in (client.get, client.head):
            assert method(path, base_url=HERE, headers=OURS).status_code == 405
    assert job.status() == "failed"


def test_the_password_is_asked_for(browse: Browse) -> None:
    client = browse("ops", "s3crét")

    def code(path: str, auth: tuple[str, str] | None) -> int:
        return client.get(path, base_url=HERE, auth=auth).status_code

    for path in ("/", "/0/data/queues.json", "/static/css/main.css", "/metrics", "/nowhere"):
        client = browse("ops", "s3crét")  # which has not refused anybody yet
        for wrong in (None, ("ops", "wrong"), ("wrong", "s3crét"), ("ops", ""), ("", "")):
            assert code(path, wrong) == 401
    assert code("/", ("ops", "s3crét")) == 200
    assert code("/healthz", None) == code("/readyz", None) == 200
    post = client.post("/requeue/default", base_url=HERE, headers={"Origin": "http://evil.example"})
    assert post.status_code == 401


@pytest.mark.parametrize("path", ["/1/view/queues", "/0/view/jobs/default/x/8/asc/1", "/nowhere"])
def test_no_address_is_read_before_the_guard(browse: Browse, path: str) -> None:
    client = browse("ops", "pw")
    assert client.get(path, base_url=HERE).status_code == 401
    assert client.get(path, base_url="http://evil.example").status_code == 403
    assert client.get(path, base_url=HERE, auth=("ops", "pw")).status_code == 404


def test_versions_are_shown_to_those_who_may_ask(browse: Browse) -> None:
    client, wanted = browse("ops", "pw"), {"Accept": "text/html"}
    url, auth = f"redis://127.0.0.1:{free_port()}/0", ("ops", "pw")
    down = dashboard.make_app(Settings.read()._replace(redis_url=url)).test_client()
    for own, path, base, code in (
        (client, "/", "http://evil.example", 403),
        (down, "/readyz", HERE, 503),
    ):
        answer = own.get(path, base_url=base, headers=wanted, auth=auth)
        assert (answer.status_code, werk.__version__ in answer.text) == (code, False)
        assert f"<h1>{code}</h1>" in answer.text
    for path in ("/", "/nowhere"):
        answer = client.get(path, base_url=HERE, headers=wanted, auth=auth)
        assert f"werk {werk.__version__}" in answer.text


def test_the_password_does_not_open_a_foreign_page(browse: Browse) -> None:
    answer = browse("ops", "pw").post(
        "/requeue/default",
        base_url=HERE,
        headers={"Origin": "http://evil.example"},
        auth=("ops", "pw"),
    )
    assert answer.status_code == 403


def test_read_only_changes_nothing(browse: Browse) -> None:
    job = werk.enqueue("panic")
    burst()
    client = browse(read_only=True)
    for path in ("/requeue/default", f"/job/{job.id}/delete", "/queue/default/failed/empty"):
        assert client.post(path, base_url=HERE, headers=OURS).status_code == 403
    assert job.status() == "failed"
    assert "Delete</" not in client.get(f"/0/view/job/{job.id}", base_url=HERE).text


def test_every_answer_is_guarded(browse: Browse) -> None:
    for path in ("/", "/0/data/queues.json", "/nowhere", "/healthz"):
        headers = browse().get(path, base_url=HERE).headers
        assert "script-src-attr 'none'" in headers["Content-Security-Policy"]
        assert headers["X-Frame-Options"] == "DENY"
        assert headers["X-Content-Type-Options"] == "nosniff"


# --- what is shown


def test_every_view_of_theirs_is_replaced(browse: Browse) -> None:
    """The contract with rq-dashboard 0.9.0: its views unpickle, so none of them is left."""
    found = browse().application.view_functions
    theirs = {name: view for name, view in found.items() if name.startswith("rq_dashboard.")}
    left = {name for name, view in theirs.items() if view.__module__ != views.__name__}
    assert left == {"rq_dashboard.static", "rq_dashboard.favicon"}
    assert web.blueprint.name == "rq_dashboard"
    assert len(theirs) == 15


@pytest.mark.parametrize("registry", ["queued", "failed", "scheduled"])
def test_a_page_has_exactly_its_rows(
    page: Callable[[str], Any], connection: redis.Redis, registry: str
) -> None:
    ids = [f"job-{n:02}" for n in range(19)]
    for n, job_id in enumerate(ids):
        put(connection, job_id, registry)
        if registry == "queued":
            connection.rpush("rq:queue:default", job_id)
        else:
            connection.zadd(f"rq:{registry}:default", {job_id: n})
    for order, wanted in (("asc", ids), ("dsc", ids[::-1])):
        found = []
        for number, size in ((1, 8), (2, 8), (3, 3), (4, 0)):
            got = page(f"/0/data/jobs/default/{registry}/8/{order}/{number}.json")
            assert len(got["jobs"]) == size
            assert got["pagination"]["num_pages"] == 3
            found += [job["id"] for job in got["jobs"]]
        assert found == wanted
    assert len(page(f"/0/data/jobs/default/{registry}/100000/asc/1.json")["jobs"]) == 19


def test_rows_are_limited(page: Callable[[str], Any], connection: redis.Redis) -> None:
    connection.zadd("rq:failed:default", {f"gone-{n}": n for n in range(300)})
    for number in ("0", "9" * 5000):
        page(f"/0/data/jobs/default/failed/8/asc/{number}.json")
    got = page("/0/data/jobs/default/failed/100000/asc/1.json")
    assert len(got["jobs"]) == views.MOST_ROWS
    assert got["jobs"][0]["description"] == "(no record of it: deleted or expired)"


def test_a_job_page_tells_all(page: Callable[[str], Any], connection: redis.Redis) -> None:
    job = werk.enqueue("sleep", 0.05)
    child = Queue(connection=connection).enqueue("werk.jobs.hello", "Ada", depends_on=job.id)
    deferred = page(f"/0/data/job/{child.id}.json")
    assert deferred["depends_on"] == [job.id]
    assert deferred["depends_on_status"] == ["active"]
    assert shown(deferred)["Deferred"] == f"it waits for {job.id} (queued)"
    burst()
    facts = shown(page(f"/0/data/job/{job.id}.json"))
    assert facts["Call"] == "sleep(0.05)"
    assert facts["Status"] == "finished"
    assert facts["Result"] == "true"
    assert 0.05 <= float(facts["Duration"].removesuffix(" s")) < 60
    assert facts["Worker"]
    assert facts["Timeout"] == "180 s"
    Job.fetch(job.id, connection=connection).delete()
    assert page(f"/0/data/job/{child.id}.json")["depends_on_status"] == ["expired"]


def test_a_job_that_waits_for_a_failed_one(connection: redis.Redis) -> None:
    job = werk.enqueue("panic")
    child = Queue(connection=connection).enqueue("werk.jobs.hello", "Ada", depends_on=job.id)
    burst()
    said = run("werk", "show", child.id).stdout
    assert f"\ndeferred     it waits for {job.id} (failed)\n" in said


def test_a_job_that_is_tried_again(page: Callable[[str], Any], connection: redis.Redis) -> None:
    put(
        connection,
        "again",
        "scheduled",
        meta=pickle.dumps({"step": 3}),
        started_at="2026-11-24T10:00:00.000000Z",
        retries_left=1,
        werk_attempt=2,
    )
    trace = b64encode(zlib.compress(b"Traceback ...\nKeyError: 'x'\n"))
    connection.xadd("rq:results:again", {"type": 4, "exc_string": trace})
    connection.zadd("rq:scheduled:default", {"again": 1_795_000_000.5})
    facts = shown(page("/0/data/job/again.json"))
    assert facts["Attempt"] == "2"
    assert facts["Last error"] == "KeyError: 'x'"
    assert facts["Next try"] == "2026-11-18T11:06:40.500000Z"
    assert facts["Retries left"] == "1"
    assert '"step": 3' in facts["Meta"]
    (attempt,) = page("/0/data/job/again.json")["attempts"]
    assert attempt["summary"].endswith("retried: KeyError: 'x'")
    assert attempt["exception"] == "Traceback ...\nKeyError: 'x'"
    connection.zrem("rq:scheduled:default", "again")  # between two looks
    assert "Next try" not in shown(page("/0/data/job/again.json"))


def test_a_job_that_our_worker_tries_again(
    page: Callable[[str], Any],
    work: Start,
    connection: redis.Redis,
    tmp_path: Path,
) -> None:
    work()
    job = werk.enqueue("fail", str(tmp_path), options=werk.Options(retry=2))
    # RQ writes its status before, and all else with this
    wait_until(lambda: connection.zscore("rq:scheduled:default", job.id))
    later = {job.id: time.time() + 1000}  # it is not due before this test has looked
    connection.zadd("rq:scheduled:default", later, xx=True)
    facts = shown(page(f"/0/data/job/{job.id}.json"))
    wanted = ("1", "ValueError: as asked", "1")
    assert (facts["Attempt"], facts["Last error"], facts["Retries left"]) == wanted
    assert facts["Next try"] > facts["Started"] > facts["Enqueued"]
    said = json.loads(run("werk", "show", job.id, "--json").stdout)
    assert (said["attempt"], said["last_error"], said["retries_left"]) == (1, wanted[1], 1)
    assert said["next_try"] == facts["Next try"]
    assert "next_try     20" in run("werk", "show", job.id).stdout


def test_a_plain_rq_retry_and_a_planned_job(
    page: Callable[[str], Any], connection: redis.Redis
) -> None:
    retried = Queue(connection=connection).enqueue("werk.jobs.panic", retry=Retry(3, interval=60))
    planned = werk.enqueue("hello", "Ada", options=werk.Options(delay=60))
    burst()
    facts = shown(page(f"/0/data/job/{retried.id}.json"))
    assert (facts["Retries left"], "Next try" in facts) == ("2", True)
    assert "Due" in shown(page(f"/0/data/job/{planned.id}.json"))


def test_secrets_are_masked(
    page: Callable[[str], Any], connection: redis.Redis, monkeypatch: pytest.MonkeyPatch
) -> None:
    task = registry.Task("werk.jobs.hello", secret=("name",))
    monkeypatch.setitem(registry.TASKS, "greet", task)
    registry.tasks.cache_clear()
    plain = Queue(connection=connection).enqueue("werk.jobs.hello", "hunter2")
    werk.enqueue("greet", "hunter2")
    connection.hset("rq:worker:w1", mapping={"state": "busy", "birth": now()})
    connection.sadd("rq:worker:w1:executions", f"{plain.id}:e1")
    connection.sadd("rq:workers", "rq:worker:w1")
    for path in (
        "/0/data/jobs/default/queued/8/asc/1.json",
        f"/0/data/job/{plain.id}.json",
        "/0/data/workers.json",
    ):
        text = str(page(path))
        assert "hunter2" not in text
        assert "***" in text


def now(ago_s: float = 0) -> str:
    moment = datetime.now(timezone.utc) - timedelta(seconds=ago_s)
    return moment.strftime("%Y-%m-%dT%H:%M:%S.%fZ")


def test_a_frozen_worker_and_one_that_hangs_are_marked(
    page: Callable[[str], Any],
    work: Start,
    spawn: Callable[..., Process],
    connection: redis.Redis,
) -> None:
    frozen, hung, plain = work("high"), work("low"), spawn("rq", "worker", "-n", "other", "high")
    busy = werk.enqueue("sleep", 60, options=werk.Options(queue="default"))
    spawn("rq", "worker", "default")
    wait_until(lambda: busy.status() == "started")

    def rows() -> dict[int, dict[str, Any]]:
        return {own["pid"]: own for own in page("/0/data/workers.json")["workers"]}

    wait_until(lambda: len(rows()) == 4 and rows()[hung.pid]["status"] == "idle")
    for process in (frozen, plain):
        os.kill(process.pid, signal.SIGSTOP)
    child = horse(hung)
    os.killpg(child, signal.SIGSTOP)
    werk.enqueue("sleep", 0, options=werk.Options(queue="low"))
    connection.expire("rq:worker:other", 45)  # as it is some minutes later
    marks = {frozen.pid: "stale", hung.pid: "hung", plain.pid: "stale"}

    def marked() -> dict[int, dict[str, Any]]:
        found = rows()  # of one moment: a busy machine is an outage, which extends leases
        return found if all(found[pid]["status"] == mark for pid, mark in marks.items()) else {}

    found = wait_until(marked)
    assert all(found[pid]["bad"] for pid in marks)
    (good,) = [own for own in found.values() if not own["bad"]]
    assert good["current_job"] == {"job_id": busy.id, "call_string": "sleep(60.0)"}
    own = found[frozen.pid]
    assert (own["hostname"], own["queues"], own["current_job"]) == (HOST, ["high"], "idle")
    assert int(own["beat"].removesuffix(" s ago")) >= 1
    os.kill(frozen.pid, signal.SIGCONT)
    wait_until(lambda: rows()[frozen.pid]["status"] == "idle")


# --- nothing of it runs


def test_nothing_hostile_runs(
    browse: Browse, page: Callable[[str], Any], connection: redis.Redis, tmp_path: Path
) -> None:
    trap = tmp_path / "it-ran"
    evil = pickle.dumps(Evil(trap))
    put(connection, "meta", meta=evil)
    put(connection, "payload", data=evil, description="a lie")
    put(connection, "known", data=evil, werk_task="hello", description="hello('Ada')")
    put(connection, "result", "finished", data=evil, result=evil, exc_info=evil)
    connection.xadd("rq:results:result", {"type": 1, "return_value": b64encode(evil)})
    connection.xadd("rq:results:meta", {"type": 2, "exc_string": b64encode(evil)})
    connection.hset("rq:worker:w1", mapping={"state": "busy", "birth": now()})
    connection.sadd("rq:worker:w1:executions", "payload:e1")
    connection.sadd("rq:workers", "rq:worker:w1")
    unreadable = "(unreadable: not plain data: it names posix.mkdir)"
    assert shown(page("/0/data/job/meta.json"))["Meta"] == unreadable
    assert shown(page("/0/data/job/payload.json"))["Call"] == unreadable
    assert shown(page("/0/data/job/known.json"))["Payload"] == unreadable
    assert shown(page("/0/data/job/result.json"))["Result"] == unreadable
    for name in ("failed", "finished"):
        assert unreadable in str(page(f"/0/data/jobs/default/{name}/8/asc/1.json"))
    assert unreadable in str(page("/0/data/workers.json"))
    client = browse()
    for job_id in ("meta", "payload", "known", "result"):
        assert client.get(f"/0/view/job/{job_id}", base_url=HERE).status_code == 200
    before = connection.hget("rq:job:meta", "meta")
    for path in (
        "/job/meta/requeue",
        "/requeue/default",
        "/job/result/delete",
        "/job/payload/delete",
    ):
        answer = client.post(path, base_url=HERE, headers=OURS)
        assert answer.status_code == 200, (path, answer.text)
    assert connection.hget("rq:job:meta", "meta") == before == evil
    assert not trap.exists()


def test_no_record_breaks_a_page(browse: Browse, connection: redis.Redis) -> None:
    put(connection, "plain")
    put(
        connection,
        "bytes",
        **dict.fromkeys(["description", "origin", "status", "timeout"], b"\xff\x00"),
    )
    put(connection, "times", created_at="never", started_at="\x00", ended_at="9999-99-99")
    put(connection, "ages", started_at="0001-01-01T00:00:00", ended_at="2026-11-24T09:00:00")
    put(connection, "deps", dependency_ids='{"a": 1}', dependency_id="gone", meta=b"[1]")
    put(connection, "meta", meta=b'{"werk": [1]}', number_of_retries="x", status="scheduled")
    put(connection, "sur", dependency_ids='["\\ud800"]', meta=b'{"werk": {"next_try": "\\ud800"}}')
    put_half_characters(connection)
    put(connection, "digits", timeout="9" * 5000, retries_left="9" * 5000, status="finished")
    connection.xadd(
        "rq:results:digits", {"type": 1, "return_value": b64encode(pickle.dumps(10**5000))}
    )
    put(connection, "due", "scheduled")
    connection.zadd("rq:scheduled:default", {"due": float("inf")})
    connection.hset("rq:worker:w2", mapping={"werk_lease": "x", "birth": "x", "queues": b"\xff"})
    connection.sadd("rq:workers", "rq:worker:w2")
    connection.zadd("rq:werk:leases", {"w2": float("-inf")})
    put(connection, "streams", meta=b'{"werk": {"attempt": [1], "error": null}}')
    connection.xadd("rq:results:streams", {"exc_string": "no base64"})
    connection.set("rq:results:plain", "no stream")
    connection.set("rq:job:string", "no hash")
    connection.zadd("rq:failed:default", {"string": 1, b"\xff": 2, "": 3})
    connection.set("rq:worker:w1", "no hash")
    connection.sadd("rq:workers", "rq:worker:w1", b"\xff")
    connection.sadd("rq:queues", "rq:queue:a/b", "rq:queue:%2F", "nonsense", b"\xff")
    crawl(browse(), connection)
    for job_id in ("bytes", "times", "string", "meta"):
        for what in ("requeue", "delete"):
            path = f"/job/{job_id}/{what}"
            code = browse().post(path, base_url=HERE, headers=OURS).status_code
            assert code in (200, 404, 409, 503), job_id
    for name in ("failed", "scheduled"):
        path = f"/queue/default/{name}/empty"
        assert browse().post(path, base_url=HERE, headers=OURS).status_code == 200
        assert not connection.zcard(f"rq:{name}:default")


def put_half_characters(connection: redis.Redis) -> None:
    """Write records whose texts cannot be encoded: of a plain RQ job, of cron and of notes."""
    data = pickle.dumps(("x\ud800", None, (), {}))
    put(connection, "half", data=data, status="queued")
    put(connection, "half2", data=b"\x80\x04X\x03\x00\x00\x00\xed\xa0\x80\x8c\x01x\x93.")
    connection.hset("rq:worker:w3", mapping={"state": "busy", "birth": now()})
    connection.sadd("rq:worker:w3:executions", "half:e1")
    connection.sadd("rq:workers", "rq:worker:w3")
    texts = dict.fromkeys(("when", "zone", "call", "task", "error"), "\ud800")
    line = {"number": 1, "done": 0, **texts}
    cron = {"state": "running", "beat": time.time(), "since": 1, "lines": [line]}
    old = {"state": "stopped", "beat": 1, "since": 1, "lines": [{**line, "call": "\ud801"}]}
    for field, record in (("host:/crontab", cron), ("host:/old", old)):
        connection.hset("rq:werk:crons", field, json.dumps(record))
    call = {"count": 9, "first": 1, "last": 99, "period_s": 60, "host": "\ud800"}
    connection.hset("rq:werk:once-calls", "default hello()", json.dumps(call))
    note = {"count": 1, "last": 1, "reason": "\ud800"}
    connection.hset("rq:werk:would-refuse", "a.b", json.dumps(note))


def test_an_answer_may_hold_any_text(browse: Browse) -> None:
    client = browse()
    client.application.view_functions["healthz"] = lambda: "a \ud800 b"
    assert client.get("/healthz", base_url=HERE).text == "a \\ud800 b"


def crawl(client: FlaskClient, connection: redis.Redis, times: int = 1) -> dict[str, float]:
    """Ask for every page there is. Returns how long each took at best, in seconds."""
    paths = [
        "/",
        "/failures?hours=168",
        "/jobs",
        "/jobs?state=failed",
        "/tasks",
        "/cron",
        "/0/view",
    ]
    paths += ["/0/view/queues", "/0/view/workers", "/0/view/jobs", "/favicon.ico", "/metrics"]
    paths += ["/jobs/groups", "/jobs/groups?state=failed"]
    paths += ["/0/data/queues.json", "/0/data/workers.json", "/healthz", "/readyz"]
    for name in ("queued", "scheduled", "deferred", "started", "finished", "failed", "canceled"):
        for place in ("8/asc/1", "8/dsc/2", "8/asc/1000", "200/asc/1", "200/dsc/25"):
            paths.append(f"/0/data/jobs/default/{name}/{place}.json")
            paths.append(f"/0/view/jobs/default/{name}/{place}")
    for key in connection.scan_iter("rq:job:*", count=10_000, _type="hash"):
        name = key.decode().removeprefix("rq:job:")
        if not name.startswith("many-") or name.endswith("777"):
            paths += [f"/0/view/job/{name}", f"/0/data/job/{name}.json"]
    took = dict.fromkeys(paths, float("inf"))
    for path in paths:
        for _ in range(times):
            start = time.perf_counter()
            with client.get(path, base_url=HERE, follow_redirects=True) as answer:
                took[path] = min(took[path], time.perf_counter() - start)
                assert answer.status_code == 200, (path, answer.text)
    return took


@pytest.fixture
def crowd(connection: redis.Redis, spawn: Callable[..., Process], browse: Browse) -> None:
    """Very many jobs, and some that are very large."""
    queue = Queue(connection=connection)
    traceback = (
        "Traceback (most recent call last):\n" + '  File "x.py", line 1\n' * 40 + "ValueError: x"
    )
    payload = Job.create("werk.jobs.hello", ("Ada",), connection=connection).to_dict()["data"]
    many = connection.register_script(MANY)
    result, failure = pickle.dumps("Hello Ada"), zlib.compress(traceback.encode())
    for start in range(0, 100_000, 1_000):  # at a time: redis-py waits no longer than 5 s
        many(args=["finished", now(), start, payload, b64encode(result)])
    for start in range(0, 10_000, 1_000):
        many(args=["failed", now(), start, payload, b64encode(failure)])
    noise = os.urandom(3_000_000).hex()  # 6 MB that do not compress well
    put(connection, "huge", data=zlib.compress(pickle.dumps(("a.b", None, (noise,), {}))))
    put(connection, "huge2", "finished", meta=noise, description=noise, result=noise)
    put(
        connection, "bomb", data=zlib.compress(b"\x80\x05" + b"." * 50_000_000), meta=noise[:60_000]
    )
    connection.xadd("rq:results:huge2", {"type": 1, "return_value": b64encode(noise.encode())})
    zeros = b64encode(zlib.compress(b"0" * 40_000_000))
    connection.xadd("rq:results:huge", {"type": 2, "exc_string": zeros})
    for n in range(50):
        put(connection, f"long{n}", "canceled", description="x" * 100_000)
    parent = queue.enqueue("werk.jobs.sleep", 60)
    for _ in range(20):
        queue.enqueue("werk.jobs.hello", "Ada", depends_on=parent)
    queue.enqueue("werk.jobs.hello", {n: [n] * 10 for n in range(2_000)})
    put(connection, "retrying", "scheduled", meta=pickle.dumps({"werk": {"attempt": 1}}))
    put(connection, "unreadable", data=pickle.dumps(Path("/")), meta=b"\x80nothing")
    spawn("rq", "worker", "default")
    wait_until(lambda: parent.get_status(refresh=True) == "started")


def test_every_page_answers_however_much_there_is(
    crowd: None, browse: Browse, connection: redis.Redis
) -> None:
    assert len(crawl(browse(), connection)) > 400
    assert connection.zcard("rq:finished:default") > 100_000
    assert connection.zcard("rq:failed:default") > 10_000


@pytest.mark.performance
def test_no_page_is_slow_however_much_there_is(
    crowd: None, browse: Browse, connection: redis.Redis
) -> None:
    took = crawl(browse(), connection, times=4)  # the first compiles the template
    limits = {path: 0.3 if path.startswith("/jobs") else 0.05 for path in took}  # 200 records
    assert {path: seconds for path, seconds in took.items() if seconds >= limits[path]} == {}


# --- what is done


def test_failed_jobs_are_requeued(browse: Browse, connection: redis.Redis) -> None:
    job = werk.enqueue("panic").job
    job.meta["mine"] = 1
    job.save_meta()
    werk.enqueue("panic")
    fine = werk.enqueue("hello", "Ada")
    burst()
    client = browse()
    raw = connection.hget(job.key, "meta")
    assert client.post(f"/job/{job.id}/requeue", base_url=HERE, headers=OURS).status_code == 200
    assert job.get_status(refresh=True) == "queued"
    assert connection.hget(job.key, "meta") == raw
    again = client.post(f"/job/{fine.id}/requeue", base_url=HERE, headers=OURS)
    assert again.status_code == 409
    assert "not failed" in again.json["error"]
    done = client.post("/requeue/default", base_url=HERE, headers=OURS)
    assert done.json == {"status": "OK", "count": 1}
    assert connection.llen("rq:queue:default") == 2
    burst()
    assert connection.zcard("rq:failed:default") == 2


def test_jobs_are_deleted(
    browse: Browse, connection: redis.Redis, spawn: Callable[..., Process]
) -> None:
    running = werk.enqueue("sleep", 60)
    waiting = werk.enqueue("sleep", 0)
    spawn("rq", "worker", "default")
    wait_until(lambda: running.status() == "started")
    client = browse()
    assert client.post(f"/job/{running.id}/delete", base_url=HERE, headers=OURS).status_code == 409
    assert (
        client.post("/queue/default/started/empty", base_url=HERE, headers=OURS).status_code == 409
    )
    assert client.post(f"/job/{waiting.id}/delete", base_url=HERE, headers=OURS).status_code == 200
    assert client.post(f"/job/{waiting.id}/delete", base_url=HERE, headers=OURS).status_code == 404
    assert connection.llen("rq:queue:default") == 0
    assert running.status() == "started"


def test_registries_are_emptied(browse: Browse, connection: redis.Redis) -> None:
    werk.enqueue_many("hello", [("Ada",)] * 3)
    werk.enqueue_many("panic", [()] * 3)
    burst()
    werk.enqueue_many("sleep", [(1,)] * 3)
    werk.enqueue("sleep", 1, options=werk.Options(delay=60))
    connection.zadd("rq:failed:default", {"gone": 1e10})
    client = browse()
    for name in ("finished", "failed", "queued", "scheduled", "deferred", "canceled"):
        path = f"/queue/default/{name}/empty"
        assert client.post(path, base_url=HERE, headers=OURS).status_code == 200
    left = set(connection.keys("rq:*")) - set(connection.keys("rq:*worker*"))
    left -= set(connection.keys("rq:werk:act:*"))  # what the buttons have done, for a minute
    assert left <= {b"rq:queues", b"rq:clean_registries:default", b"rq:clean_groups"}


def fail_ten_thousand(connection: redis.Redis) -> None:
    connection.flushall()
    failure = b64encode(zlib.compress(b"Traceback\n  ...\nValueError: x"))
    for start in range(0, 10_000, 1_000):
        connection.register_script(MANY)(args=["failed", now(), start, b"x", failure])


@pytest.mark.performance
@pytest.mark.parametrize(
    ("path", "limit_s"), [("/requeue/default", 60), ("/queue/default/failed/empty", 30)]
)
def test_ten_thousand_failed_jobs_take_a_moment(
    browse: Browse, connection: redis.Redis, path: str, limit_s: float
) -> None:
    """What changes many jobs leaves Redis most of the time for others, so it pauses."""
    fail_ten_thousand(connection)
    client, start = browse(), time.monotonic()
    assert client.post(path, base_url=HERE, headers=OURS).json["count"] == 10_000
    assert time.monotonic() - start < limit_s


def test_ten_thousand_failed_jobs_are_no_matter(browse: Browse, connection: redis.Redis) -> None:
    """In chunks: no reply is long, and none of the scripts keeps Redis from its other work."""
    client = browse()
    for path, where, scripts in (
        ("/requeue/default", "queue", 2),  # one reads a chunk
        ("/queue/default/failed/empty", "failed", 1),
    ):
        fail_ten_thousand(connection)
        connection.config_resetstat()
        answer = client.post(path, base_url=HERE, headers=OURS)
        assert answer.json == {"status": "OK", "count": 10_000}
        stats = connection.info("commandstats")
        assert 49 * scripts <= stats["cmdstat_evalsha"]["calls"] < 60 * scripts
        assert connection.zcard("rq:failed:default") == 0
        assert connection.llen("rq:queue:default") == (10_000 if where == "queue" else 0)
    answers = set(connection.keys("rq:werk:act:*"))  # for a minute
    assert set(connection.keys()) - answers == {b"rq:queues"}


def test_compacting_removes_what_is_gone(browse: Browse, connection: redis.Redis) -> None:
    kept = werk.enqueue("hello", "Ada")
    connection.lpush("rq:queue:default", "gone-1")
    connection.rpush("rq:queue:default", *(f"gone-{n}" for n in range(500)))
    last = werk.enqueue("hello", "Bob")
    client = browse()
    for queue in ("default", "none"):
        path = f"/queue/{queue}/compact"
        assert client.post(path, base_url=HERE, headers=OURS).status_code == 200
    assert connection.lrange("rq:queue:default", 0, -1) == [kept.id.encode(), last.id.encode()]


def test_metrics_are_of_status(browse: Browse, connection: redis.Redis) -> None:
    werk.enqueue("sleep", 1)
    page = browse().get("/metrics", base_url=HERE).text
    assert samples(page)['werk_queue_waiting{queue="default"}'] == 1


# --- the process


def get(url: str) -> tuple[int, str]:
    try:
        with urllib.request.urlopen(url, timeout=60) as answer:
            return answer.status, answer.read().decode()
    except urllib.error.HTTPError as error:
        with error:
            return error.code, error.read().decode()


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_it_serves_and_ends_at_once(
    serving: Callable[..., tuple[Process, str]], number: signal.Signals
) -> None:
    process, address = serving()
    assert get(f"{address}/0/view/queues")[0] == 200
    with socket.create_connection(("127.0.0.1", int(address.rpartition(":")[2]))):  # an idle client
        start = time.monotonic()
        process.send_signal(number)
        assert process.wait(60) == 0
    assert time.monotonic() - start < 30  # the client stays for longer
    assert "Traceback" not in process.output()


STOPPED_EARLY = """
import os, signal
from werk.settings import Settings
from werk.web import app
class Server:
    def run(self):
        os.kill(os.getpid(), signal.SIGTERM)
app.listen = lambda *_: Server()
raise SystemExit(app.serve(Settings.read(), bind="::1", port=1, hosts=(), read_only=False))
"""


def test_it_ends_well_if_it_is_stopped_before_it_waits_for_clients() -> None:
    done = run("python", "-c", STOPPED_EARLY)
    assert (done.returncode, done.stderr.count("\n")) == (0, 1), done.stderr


def test_health_without_redis(serving: Callable[..., tuple[Process, str]]) -> None:
    process, address = serving(RQ_REDIS_URL=f"redis://:s3cret@127.0.0.1:{free_port()}/0")
    assert get(f"{address}/healthz") == (200, "ok\n")
    code, text = get(f"{address}/readyz")
    assert (code, "was not reached" in text) == (503, True)
    assert get(f"{address}/0/data/queues.json")[0] == 503
    assert "s3cret" not in get(f"{address}/0/view/queues")[1] + text + process.output()


def test_ready_with_redis(serving: Callable[..., tuple[Process, str]]) -> None:
    assert get(f"{serving()[1]}/readyz") == (200, "ok\n")


def refused(*options: object, **env: str) -> str:
    done = run("werk", "dashboard", *options, env=env)
    assert done.returncode == 78
    assert done.stderr.count("\n") == 1
    return done.stderr


def test_a_port_that_is_taken() -> None:
    with socket.create_server(("127.0.0.1", 0)) as listener:
        port = listener.getsockname()[1]
        assert f"port {port} of 127.0.0.1: Address already in use" in refused("--port", port)


@pytest.mark.parametrize(
    "env", [{}, {"RQ_DASHBOARD_USERNAME": "ops"}, {"RQ_DASHBOARD_PASSWORD": "pw"}]
)
def test_an_open_door_needs_user_and_password(env: dict[str, str]) -> None:
    said = refused("--bind", "0.0.0.0", "--port", free_port(), **env)
    assert "RQ_DASHBOARD_USERNAME and RQ_DASHBOARD_PASSWORD" in said


@pytest.mark.parametrize("options", [["--bind", "no.such.host.invalid"], ["--bind", "192.0.2.1"]])
def test_an_address_that_is_none(options: list[str]) -> None:
    both = {"RQ_DASHBOARD_USERNAME": "ops", "RQ_DASHBOARD_PASSWORD": "pw"}
    assert "choose others with --port and --bind" in refused(
        *options, "--port", free_port(), **both
    )


def test_half_a_password_is_refused_on_the_loopback_too(browse: Browse) -> None:
    for pair in (("ops", None), (None, "pw")):
        with pytest.raises(ConfigError, match="both"):
            browse(*pair)
    with pytest.raises(ConfigError, match="invalid host name"):
        browse(hosts=["http://dash.example/"])


def test_another_bind_with_a_password(serving: Callable[..., tuple[Process, str]]) -> None:
    _, address = serving(
        "--bind", "0.0.0.0", RQ_DASHBOARD_USERNAME="ops", RQ_DASHBOARD_PASSWORD="pw"
    )
    assert get(f"{address}/")[0] == 401
    assert get(f"{address}/healthz")[0] == 200
