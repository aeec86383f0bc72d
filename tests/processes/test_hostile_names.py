"""Names that others choose: each has its pages and actions, and none forges a row or steers."""

from __future__ import annotations

import asyncio
import json
import shlex
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any
from urllib.parse import quote, urlsplit

import pytest
import redis
import roles
from dashboards import HERE, OURS, Browse
from flask.testing import FlaskClient
from jinja2.utils import htmlsafe_json_dumps
from rq import Queue
from support import is_safe, run

import werk
from werk.ops import checks
from werk.ops.limits import DEFAULT_LIMITS, Limit
from werk.ops.snapshot import Snapshot
from werk.store import keys
from werk.store.connection import Link, link
from werk.testing import recorded
from werk.web import addresses

NAMES = [
    "a/b", "a\\b", "a\\", "a\nb", "a\r\nb", '"><script>alert(1)</script>', "'", '"', "..", ".",
    "%2e%2e", "%2F", "a?b#c", "a b", "a%", "/x", "x/", "a//b", "a/../b", "a/failed/8/asc/1",
    "a&b;c", "\u202eabc", "ünï/çødé", "{{7*7}}", "<%= 1 %>", "-", "+", "a:b", "x" * 300, "\x00",
    "\t", "</script>", "",
]  # fmt: skip
FOR_SHELLS = [  # names, and how a shell reads them
    ("low; touch x", "'low; touch x'"),
    ("low prio", "'low prio'"),
    ("$(touch x)", "'$(touch x)'"),
    ("it's", '"it\'s"'),
    ("low\u00a0prio", r"$'low\u00a0prio'"),
    ("low-2:x@host.example", "low-2:x@host.example"),
    ("", "''"),
]
FORGED = "x\nforged  9999  1h\r\x1b[2J\u2028next\u202e"


NOT_UTF8 = "caff\udce9"  # how the bytes caff\xe9 come from a shell


@pytest.fixture
def client(browse: Browse) -> FlaskClient:
    return browse()


def fail(connection: redis.Redis, queue: str, count: int = 1) -> list[str]:
    """Have jobs among the failed of a queue, as a worker leaves them."""
    ids = []
    for _ in range(count):
        job = Queue(queue, connection=connection).enqueue("werk.jobs.hello", "Ada")
        connection.lrem(f"rq:queue:{queue}", 0, job.id)
        connection.hset(f"rq:job:{job.id}", "status", "failed")
        connection.zadd(f"rq:failed:{queue}", {job.id: time.time() + 1000})
        ids.append(job.id)
    return ids


def page(client: FlaskClient, path: str) -> Any:
    answer = client.get(path, base_url=HERE)
    assert answer.status_code == 200, (path, answer.text)
    return answer.json


def rows(client: FlaskClient) -> dict[str, dict[str, Any]]:
    return {own["name"]: own for own in page(client, "/0/data/queues.json")["queues"]}


def data_of(url: str) -> str:
    """Return where the script of a list's page gets its rows."""
    parts = urlsplit(url)
    return f"{parts.path.replace('/view/', '/data/')}.json" + (
        f"?{parts.query}" if parts.query else ""
    )


@pytest.mark.parametrize("name", NAMES)
def test_a_queue_has_its_pages_and_actions(
    client: FlaskClient, connection: redis.Redis, name: str
) -> None:
    """By the links that the pages have; other queues, of names like it, stay as they are."""
    others = {own: fail(connection, own) for own in NAMES if own != name}
    ids = fail(connection, name, 3)
    row = rows(client)[name]
    assert row["failed_job_registry_count"] == 3
    shown = client.get(row["failed_url"], base_url=HERE)
    assert shown.status_code == 200
    assert "<script>alert" not in shown.text
    assert f".val({htmlsafe_json_dumps(name)})" in shown.text
    listed = page(client, data_of(row["failed_url"]))
    assert [own["id"] for own in listed["jobs"]] == ids
    again = listed["pagination"]["first_page"]["url"]
    assert [own["id"] for own in page(client, data_of(again))["jobs"]] == ids

    def post(*words: str) -> None:
        with client.application.test_request_context(base_url=HERE):
            url = addresses.url_for(*words[:1], **dict(zip(words[1::2], words[2::2], strict=True)))
        done = client.post(url, base_url=HERE, headers=OURS)
        assert done.status_code == 200, (url, done.text)

    post("rq_dashboard.requeue_job_view", "job_id", ids[0])
    assert connection.lrange(f"rq:queue:{name}", 0, -1) == [ids[0].encode()]
    post("rq_dashboard.delete_job_view", "job_id", ids[1])
    assert not connection.exists(f"rq:job:{ids[1]}")
    post("rq_dashboard.requeue_all", "queue_name", name)
    assert connection.llen(f"rq:queue:{name}") == 2
    connection.rpush(f"rq:queue:{name}", "gone")
    post("rq_dashboard.compact_queue", "queue_name", name)
    assert connection.llen(f"rq:queue:{name}") == 2
    post("rq_dashboard.empty_queue", "queue_name", name, "registry_name", "queued")
    assert connection.llen(f"rq:queue:{name}") == 0
    for other, kept in others.items():
        assert connection.zcard(f"rq:failed:{other}") == len(kept), other
        assert not connection.exists(f"rq:queue:{other}"), other


@pytest.mark.parametrize("name", [own for own in NAMES if own])
def test_an_address_that_somebody_types(
    client: FlaskClient, connection: redis.Redis, name: str
) -> None:
    ids = fail(connection, name)
    place = quote(name, safe="")
    assert client.get(f"/0/view/jobs/{place}/failed/8/asc/1", base_url=HERE).status_code == 200
    found = page(client, f"/0/data/jobs/{place}/failed/8/asc/1.json")
    assert [own["id"] for own in found["jobs"]] == ids
    done = client.post(f"/queue/{place}/failed/empty", base_url=HERE, headers=OURS)
    assert (done.status_code, connection.zcard(f"rq:failed:{name}")) == (200, 0)


def test_a_job_whose_id_has_slashes(client: FlaskClient, connection: redis.Redis) -> None:
    connection.hset("rq:job:a/b", mapping={"status": "failed", "origin": "default"})
    connection.zadd("rq:failed:default", {"a/b": 1e10})
    assert client.get("/0/view/job/a%2Fb", base_url=HERE).status_code == 200
    assert page(client, "/0/data/job/a%2Fb.json")["id"] == "a/b"
    assert client.post("/job/a%2Fb/delete", base_url=HERE, headers=OURS).status_code == 200


def test_the_script_that_is_changed_is_there(client: FlaskClient) -> None:
    """The contract with rq-dashboard 0.9.0."""
    loader = addresses.Templates(client.application)
    theirs = super(addresses.Templates, loader).get_source(None, "rq_dashboard/scripts/jobs.js")[0]
    assert theirs.count(addresses.IN_QUOTES) == 1
    assert theirs.count("{{ queue.name }}") == 1


# --- what commands print


@pytest.fixture
def forged(connection: redis.Redis) -> None:
    """A queue, worker, task, error and job of names with newlines and escapes."""
    [job_id] = fail(connection, FORGED)
    fields = {"werk_task": FORGED, "description": FORGED, "worker_name": FORGED, "ended_at": "x"}
    connection.hset(f"rq:job:{job_id}", mapping=fields)
    facts = {"birth": "x", "hostname": FORGED, "state": FORGED, "queues": FORGED, "pid": "1"}
    connection.hset(f"rq:worker:{FORGED}", mapping=facts)
    connection.sadd("rq:workers", f"rq:worker:{FORGED}")
    connection.rpush(f"rq:queue:{FORGED}", "x")
    connection.set(f"rq:wip:{FORGED}", "x")
    connection.zadd(f"rq:werk:serves:{FORGED}", {f"sleep {FORGED}": 1e10, "sleep x": 1e10})
    connection.hset("rq:werk:catalog", FORGED, "x")


@pytest.mark.usefixtures("forged")
@pytest.mark.parametrize(
    "words",
    [
        ["werk", "status"],
        ["werk", "status", "--check"],
        ["werk", "status", "--here"],
        ["werk", "failed"],
        ["werk", "failed", "--list"],
        ["werk", "tasks"],
        ["werk", "ping", "--timeout", "0"],
        ["werk", "pause", FORGED],
        ["werk", "drain", FORGED, "--yes"],
        ["werk", "repair", "--dry-run"],
        ["werk", "retry", FORGED],
        ["werk", "cancel", FORGED, "--yes"],
        ["werk", "stop", FORGED, "--yes"],
        ["werk", "show", FORGED],
        ["werk", "result", FORGED, "--timeout", "0"],
        ["werk", "retry", "--queue", FORGED, "--yes"],
        ["werk-enqueue", FORGED],
        ["werk-enqueue", "--queue", FORGED, "hello", "Ada"],
        ["werk-enqueue", "--help"],
    ],
    ids=lambda words: " ".join(words).replace(FORGED, "X"),
)
def test_no_name_begins_a_line(words: list[str]) -> None:
    """Also when it is piped, as it is here."""
    done = run(*words)
    assert "Traceback" not in done.stderr
    for line in (done.stdout + done.stderr).split("\n"):
        assert is_safe(line)
        assert not line.strip().startswith(("forged", "next"))


@pytest.mark.usefixtures("forged")
def test_json_is_exact() -> None:
    found = json.loads(run("werk", "status", "--json").stdout)
    assert FORGED in found["queues"]
    assert [own["name"] for own in found["workers"]] == [FORGED]
    [job] = map(json.loads, run("werk", "failed", "--list", "--json").stdout.splitlines())
    assert (job["queue"], job["task"]) == (FORGED, FORGED)


@pytest.mark.usefixtures("forged")
def test_the_command_that_retries_is_whole(connection: redis.Redis) -> None:
    command = run("werk", "failed", "--commands").stdout.rstrip().split("\n\n")[-1]
    words = ["bash", "-c", f'printf "%s\\0" {command.removeprefix("werk ")}']
    said = run("/usr/bin/env", *words).stdout.split("\0")[2]
    assert said == FORGED.replace("\r", "\n")  # as Python reads a pipe
    assert shlex.split(run("werk", "failed", "--task", "none").stdout) == []


def test_a_show_of_several_lines_is_indented(connection: redis.Redis) -> None:
    facts = {"status": "queued\nresult       forged", "description": "a\nstatus       finished"}
    connection.hset("rq:job:x", mapping=facts)
    lines = run("werk", "show", "x").stdout.splitlines()
    assert all(line.startswith(("id ", "call ", "status ", "payload ", " " * 13)) for line in lines)
    job = werk.enqueue("hello", "a\nb")
    assert "\n" not in job.job.description


# --- commands to type


@pytest.fixture
def light(redis_url: str) -> Iterator[Link]:
    own = link(roles.settings("reader"))
    yield own
    own.close()


def fixes(light: Link) -> str:
    found = checks.problems(Snapshot.read(light), DEFAULT_LIMITS._replace(failed=Limit(0)))
    return "".join(f"{problem.fix}\n" for problem in found)


@pytest.mark.parametrize(("name", "word"), FOR_SHELLS)
def test_a_remedy_is_for_a_shell(
    connection: redis.Redis, light: Link, name: str, word: str
) -> None:
    job_id, *_ = fail(connection, name)
    connection.zadd(f"rq:ready:{name}", {"a": 1})
    connection.rpush(f"rq:queue:{name}", job_id)
    found = fixes(light)
    assert f"start one: werk worker {word}\n" in found
    assert f"werk failed --queue {word}\n" in found
    assert f"werk worker {word}, or werk repair\n" in found
    connection.sadd("rq:werk:paused", name)
    assert f"werk resume {word}\n" in fixes(light)
    connection.delete("rq:werk:paused")
    facts = {"birth": keys.iso(time.time()), "queues": name, "state": "busy", "pid": "1"}
    connection.hset("rq:worker:w", mapping={**facts, "last_heartbeat": keys.iso(time.time())})
    connection.expire("rq:worker:w", 400)
    connection.sadd("rq:workers", "rq:worker:w")
    old = {"enqueued_at": "2026-01-01T00:00:00.000000Z", "status": "queued"}
    connection.hset(f"rq:job:{job_id}", mapping=old)
    if name:  # a record without queues has the queue of no name
        assert f"start more workers: werk worker {word}; or see" in fixes(light)
    stale = {"werk_lease": "15", "birth": "2026-01-01T00:00:00.000000Z"}
    connection.hset("rq:worker:w", mapping={**stale, "queues": f"{name},other"})
    assert f"start another: werk worker {word} other, or werk repair\n" in fixes(light)


@pytest.mark.parametrize(("name", "word"), FOR_SHELLS)
def test_a_caller_has_commands_for_a_shell(connection: redis.Redis, name: str, word: str) -> None:
    if not name or not name.isprintable():
        return  # no queue of a caller
    low = werk.Options(queue=name)
    [warning] = werk.enqueue("hello", "Ada", options=low).warnings
    assert warning == f"no worker listens on queue {name}; start one: werk worker {word}"
    with pytest.raises(werk.ResultTimeout) as info:
        werk.enqueue("hello", "Eve", options=low).result(0.01)
    assert str(info.value).endswith(f"; start one: werk worker {word}")
    connection.sadd(f"rq:workers:{name}", "rq:worker:any")
    connection.sadd("rq:werk:paused", name)
    with pytest.raises(werk.ResultTimeout) as info:
        werk.enqueue("hello", "Eve", options=low).result(0.01)
    assert str(info.value).endswith(f"; resume it: werk resume {word}")


def test_a_job_has_commands_for_a_shell(connection: redis.Redis) -> None:
    job = {"status": "queued", "origin": "default"}
    connection.hset("rq:job:my job", mapping=job)
    connection.sadd("rq:workers:default", "rq:worker:any")
    with pytest.raises(werk.ResultTimeout, match=r"it stays queued: werk result 'my job'$"):
        werk.result("my job", 0.01)
    done = run("werk", "stop", "my job", "--yes")
    assert done.stderr.endswith("runs on no worker; see werk show 'my job'\n")
    connection.hset("rq:job:my job", "status", "started")
    done = run("werk", "cancel", "my job", "--yes")
    assert done.stderr.endswith("is running; to stop it: werk stop 'my job'\n")
    with pytest.raises(werk.ResultTimeout, match=r"it continues: werk result 'my job'$"):
        werk.result("my job", 0.01)


def test_a_name_like_an_option_is_a_name(connection: redis.Redis, light: Link) -> None:
    connection.rpush("rq:queue:--help", *fail(connection, "--help"))
    assert "start one: werk worker -- --help\n" in fixes(light)
    assert "werk failed --queue --help" in fixes(light)
    assert run("werk", "failed", "--queue", "--help").stdout.startswith("COUNT")
    connection.sadd("rq:werk:paused", "--help")
    assert "werk resume -- --help\n" in fixes(light)
    assert run("werk", "resume", "--", "--help").stdout == "queue --help resumed\n"
    assert run("werk", "worker", "--burst", "--", "--help").returncode == 0
    assert connection.llen("rq:queue:--help") == 0


# --- text that is not UTF-8: nothing in Redis has such a name


@pytest.mark.parametrize(
    ("words", "code", "said"),
    [
        (("werk-enqueue", NOT_UTF8), 2, r"unknown task 'caff\udce9'"),
        (("werk", "result", NOT_UTF8), 66, r"no job caff\udce9"),
        (("werk", "show", NOT_UTF8), 66, r"no job caff\udce9"),
        (("werk", "pause", NOT_UTF8), 2, r"unknown queue 'caff\udce9'"),
        (("werk", "cancel", "--yes", NOT_UTF8), 66, r"no job caff\udce9"),
        (("werk", "retry", NOT_UTF8), 66, r"no job caff\udce9"),
        (("werk", "stop", "--yes", NOT_UTF8), 66, r"no job caff\udce9"),
        (("werk", "drain", "--yes", NOT_UTF8), 1, r"worker caff\udce9 is unknown"),
        (("werk", "jobs", "--task", NOT_UTF8), 2, r"unknown task 'caff\udce9'"),
        (("werk", "jobs", "--error", NOT_UTF8), 0, "no matching jobs"),
        (("werk", "worker", "--burst", NOT_UTF8), 2, r"'caff\udce9' is not valid UTF-8"),
    ],
)
def test_a_command_knows_no_name_that_is_not_utf8(
    connection: redis.Redis, words: tuple[str, ...], code: int, said: str
) -> None:
    werk.enqueue("hello", "Ada")
    fail(connection, "default")
    done = run(*words)
    assert (done.returncode, said in done.stdout + done.stderr) == (code, True), done
    assert len((done.stdout + done.stderr).splitlines()) == 1


def test_a_line_of_a_crontab_that_is_not_utf8_is_reported(
    connection: redis.Redis, tmp_path: Path
) -> None:
    crontab = tmp_path / "crontab"
    crontab.write_bytes(b"* * * * * caff\xe9\n* * * * * hello caff\xe9\n* * * * * hello Ada\n")
    done = run("werk", "cron", "--check", crontab)
    lines = done.stderr.splitlines()
    assert (done.returncode, len(lines)) == (2, 2), done
    assert "crontab:1: unknown task" in lines[0] and "crontab:2: hello: name: " in lines[1]


@pytest.mark.parametrize("text", ["caff\udce9", "\ud800"])
def test_a_caller_knows_no_name_that_is_not_utf8(connection: redis.Redis, text: str) -> None:
    def refusals() -> list[str]:
        found = []
        for call, error in (
            (lambda: werk.enqueue(text), werk.UnknownTask),
            (lambda: werk.status(text), werk.NoSuchJob),
            (lambda: werk.result(text, 0), werk.NoSuchJob),
            (lambda: asyncio.run(werk.aio.result(text, 0)), werk.NoSuchJob),
        ):
            with pytest.raises(error) as refusal:
                call()
            found.append(str(refusal.value).partition(";")[0])
        return found

    by_redis = refusals()
    with recorded():
        assert refusals() == by_redis
    assert connection.keys() == []


@pytest.mark.parametrize(
    ("action", "body", "code"),
    [
        ("pause", {"queue": "\ud800"}, 404),
        ("drain", {"worker": "\ud800"}, 409),
        ("stop", {"job": "\ud800"}, 404),
        ("cancel", {"task": "\ud800"}, 200),
        ("cancel", {"queue": "\ud800"}, 422),
        ("cancel", {"state": "\ud800"}, 422),
        ("retry", {"error": "\ud800", "state": "failed"}, 200),
        ("cancel", {"arg": ["name=\ud800"], "task": "hello"}, 200),
    ],
)
def test_an_action_knows_no_name_with_half_a_character(
    client: FlaskClient, connection: redis.Redis, action: str, body: dict[str, Any], code: int
) -> None:
    werk.enqueue("hello", "Ada")
    fail(connection, "default")
    answer = client.post(f"/actions/{action}", base_url=HERE, headers=OURS, json=body)
    assert answer.status_code == code, answer.text
    assert connection.llen("rq:queue:default") == 1
