"""The pages for people on call, without a browser: who may ask, what is shown, what is done."""

from __future__ import annotations

import html
import time
from base64 import b64encode
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing
from pathlib import Path
from typing import Any
from unittest.mock import ANY
from zlib import compress

import pytest
import redis
import roles
from dashboards import HERE, OURS, Browse, put
from flask.testing import FlaskClient
from support import Process, run, wait_until
from test_dashboard import MANY, now
from werkzeug.routing import Rule
from workers import Start

import werk
from werk import registry
from werk.ops import checks
from werk.ops.snapshot import Snapshot
from werk.store.connection import link, link_over
from werk.web import filters, pages
from werk.web.guard import FOR_PROGRAMS, PUBLIC
from werk.web.page_actions import NAMES

VALUES = {
    "instance_number": 0, "queue_name": "default", "registry_name": "failed", "per_page": 8,
    "order": "asc", "page": 1, "job_id": "x", "task": "hello", "action": "retry",
    "filename": "werk.css",
}  # fmt: skip
LONG = ("/requeue/default", "/queue/default/failed/empty", "/queue/default/compact")
AS_A_PERSON = {"Accept": "text/html,application/xhtml+xml,*/*;q=0.8"}


def routes(client: FlaskClient, method: str) -> Iterator[tuple[Rule, str]]:
    """Yield each route that takes a method, with an address of it."""
    for rule in client.application.url_map.iter_rules():
        if method in (rule.methods or ()):
            adapter = client.application.url_map.bind("localhost")
            values = {name: VALUES[name] for name in rule.arguments}
            yield rule, adapter.build(rule.endpoint, values, method=method)


def ask(client: FlaskClient, action: str, **body: Any) -> Any:
    return client.post(f"/actions/{action}", base_url=HERE, headers=OURS, json=body)


def done(client: FlaskClient, action: str, **body: Any) -> str:
    answer = ask(client, action, **body)
    assert answer.status_code == 200, answer.text
    return str(answer.json["done"])


def burst(queue: str = "default") -> None:
    assert run("werk", "worker", "--burst", queue).returncode == 0


# --- who may ask: on each route there is


def test_the_routes_are_those_that_the_tests_know(browse: Browse) -> None:
    posts = {path for _, path in routes(browse(), "POST")}
    assert {f"/actions/{name}" for name in NAMES} <= posts
    gets = {path for _, path in routes(browse(), "GET")}
    assert {
        "/",
        "/failures",
        "/jobs",
        "/jobs/groups",
        "/jobs/count/retry",
        "/tasks",
        "/cron",
    } <= gets


def test_each_route_needs_a_known_host(browse: Browse) -> None:
    client = browse()
    for method in ("GET", "POST"):
        for _, path in routes(client, method):
            answer = client.open(path, method=method, base_url="http://evil.example", headers=OURS)
            assert (answer.status_code, "unknown Host" in answer.text) == (403, True), path


def test_each_route_needs_the_password(browse: Browse) -> None:
    for method in ("GET", "POST"):
        client = browse("ops", "s3cret")
        for rule, path in routes(client, method):
            code = client.open(path, method=method, base_url=HERE, headers=OURS).status_code
            assert code == (200 if rule.endpoint in PUBLIC else 401), path


@pytest.mark.parametrize("origin", [None, "null", "http://evil.example", "http://localhost:81"])
def test_each_change_is_asked_for_by_our_own_pages(browse: Browse, origin: str | None) -> None:
    client, headers = browse(), {"Origin": origin} if origin else {}
    for rule, path in routes(client, "POST"):
        answer = client.post(path, base_url=HERE, headers=headers, json={})
        if origin or rule.endpoint.rpartition(".")[2] not in FOR_PROGRAMS:
            assert (answer.status_code, "Origin is not" in answer.text) == (403, True), path


def test_a_read_only_dashboard_changes_nothing(browse: Browse, connection: redis.Redis) -> None:
    werk.enqueue("panic")
    burst()
    werk.enqueue("hello", "Ada")
    client = browse(read_only=True)
    for _, path in routes(client, "POST"):
        answer = client.post(path, base_url=HERE, headers=OURS, json={"queue": "default"})
        assert (answer.status_code, "read-only" in answer.text) == (403, True), path
    for path in ("/", "/failures", "/jobs?queue=default"):
        assert "data-post" not in client.get(path, base_url=HERE).text
    assert "data-post" in browse().get("/", base_url=HERE).text


def test_no_action_is_a_get(browse: Browse) -> None:
    for name in NAMES:
        assert browse().get(f"/actions/{name}", base_url=HERE).status_code == 405


@pytest.mark.parametrize("read_only", [False, True])
def test_each_answer_has_a_policy(browse: Browse, connection: redis.Redis, read_only: bool) -> None:
    """Also without --read-only: the Redis user of each role may read what all pages show."""
    fail(connection, "x")
    client = browse(read_only=read_only)
    for _, path in routes(client, "GET"):
        with client.get(path, base_url=HERE, headers=AS_A_PERSON) as answer:
            assert answer.status_code in (200, 404, 405), path
            policy = answer.headers["Content-Security-Policy"]
        assert "script-src-attr 'none'" in policy
        assert "form-action 'none'" in policy
        if answer.mimetype == "text/html":
            theirs = path.startswith("/0/") and answer.status_code == 200
            assert ("unsafe" in policy) == theirs, path


@pytest.mark.parametrize("path", ["/nowhere", "/failures?hours=2", "/0/view/job/none"])
def test_people_get_errors_as_pages(browse: Browse, path: str, redis_url: str) -> None:
    client = browse()
    answer = client.get(path, base_url=HERE, headers=AS_A_PERSON)
    assert answer.status_code in (404, 422)
    assert answer.mimetype == "text/html"
    assert '<a href="/failures"' in answer.text
    for accept in ("*/*", "application/json", "application/json, text/javascript, */*; q=0.01"):
        assert client.get(path, base_url=HERE, headers={"Accept": accept}).is_json


@pytest.mark.parametrize("path", ["/api/tasks", "/0/data/job/none.json", "/jobs/count/nothing"])
def test_programs_get_errors_as_data(browse: Browse, path: str) -> None:
    answer = browse().get(path, base_url=HERE, headers=AS_A_PERSON)
    assert answer.status_code in (404, 422)
    assert answer.json["error"]


# --- what is shown


def test_every_problem_of_status_is_on_the_first_page(
    browse: Browse, connection: redis.Redis, work: Start
) -> None:
    in_ = werk.Options
    work("other")
    werk.enqueue("hello", "Ada", options=in_(queue="low"))
    werk.enqueue("hello", "Ada", options=in_(queue="held"))
    connection.sadd("rq:werk:paused", "held")
    connection.set("rq:finished:low", "x")
    connection.set("rq:wip:low", "x")
    connection.hset("rq:werk:catalog", "broken", "{")
    connection.rpush("rq:werk:gave-up", "0 1 raised x a")
    connection.lpush("rq:queue:low:intermediate", "lost")
    old: dict[Any, Any] = {"birth": now(900), "queues": "low", "state": "idle", "hostname": "gone"}
    connection.hset("rq:worker:old", mapping=old)
    connection.sadd("rq:workers", "rq:worker:old")
    connection.expire("rq:worker:old", 30)
    connection.config_set("maxmemory-policy", "allkeys-lru")
    try:
        with closing(link_over(connection)) as link:
            found = checks.problems(Snapshot.read(link))
        text = html.unescape(browse().get("/", base_url=HERE).text)
    finally:
        connection.config_set("maxmemory-policy", "noeviction")
    assert len(found) >= 7, found
    for problem in found:
        for part in (problem.what, problem.fix):
            # The age of a heartbeat is another one at the second look.
            assert part.partition(": silent for")[0] in text, problem


def test_secrets_are_masked(
    browse: Browse, connection: redis.Redis, monkeypatch: pytest.MonkeyPatch
) -> None:
    task = registry.Task("werk.jobs.hello", secret=("name",))
    monkeypatch.setitem(registry.TASKS, "greet", task)
    registry.tasks.cache_clear()
    job = werk.enqueue("greet", "hunter2")
    facts: dict[Any, Any] = {"state": "busy", "birth": now(), "queues": "default"}
    connection.hset("rq:worker:w1", mapping=facts)
    connection.sadd("rq:worker:w1:executions", f"{job.id}:e1")
    connection.sadd("rq:workers", "rq:worker:w1")
    for path in ("/", "/jobs"):
        text = browse().get(path, base_url=HERE).text
        assert "hunter2" not in text
        assert "***" in text
    found = [
        browse().get(f"/jobs?task=greet&arg=name={guess}", base_url=HERE).text.replace(guess, "")
        for guess in ("hunter2", "hunter3")
    ]
    assert found[0] == found[1]  # a filter is no way to guess a secret


def test_rates_are_of_the_last_minutes(browse: Browse, connection: redis.Redis) -> None:
    client = browse()
    werk.enqueue_many("hello", [("Ada",)] * 50)
    assert client.get("/", base_url=HERE).status_code == 200
    since = time.monotonic()
    burst()
    wait_until(lambda: time.monotonic() > since + 11)
    row = client.get("/", base_url=HERE).text.partition("<tbody>")[2].partition("</tr>")[0]
    cells = [cell.partition("<")[0] for cell in row.split('<td class="number wide">')[1:]]
    per_minute, wait = float(cells[2]), cells[3]
    assert 60 * 50 / (time.monotonic() - since + 5) <= per_minute <= 60 * 50 / 11
    assert wait.endswith("s")


def test_tasks_have_their_figures(browse: Browse, connection: redis.Redis) -> None:
    werk.enqueue_many("hello", [("Ada",)] * 3)
    werk.enqueue("panic")
    werk.enqueue("sleep", 0.2)
    burst()
    text = " ".join(browse().get("/tasks", base_url=HERE).text.split())
    for name, runs, failed in (("hello", 3, 0), ("panic", 1, 1), ("sleep", 1, 0)):
        row = text.partition(f">{name}</a>")[2].partition("</tr>")[0]
        assert f'<td class="number">{runs}</td> <td class="number">{failed}</td>' in row
    mean, unit = row.partition('<td class="number wide">')[2].partition("</td>")[0].split()
    assert float(mean) / {"ms": 1000, "s": 1}[unit] >= 0.199


def test_a_task_that_only_crashes_has_failures(browse: Browse, connection: redis.Redis) -> None:
    werk.enqueue("panic")
    burst()  # which publishes the tasks
    connection.delete("rq:werk:tallies")
    connection.hset("rq:werk:tallies", mapping={"panic|failed": 7, "failed_webhooks": 1})
    text = " ".join(browse().get("/tasks", base_url=HERE).text.split())
    row = text.partition(">panic</a>")[2].partition("</tr>")[0]
    assert '<td class="number">7</td> <td class="number">7</td>' in row


def test_the_lines_of_crontabs_are_shown(
    browse: Browse, connection: redis.Redis, spawn: Callable[..., Process], tmp_path: Path
) -> None:
    table = tmp_path / "crontab"
    table.write_text("@hourly hello Ada\n*/5 * * * * panic\n")
    cron = spawn("werk", "cron", table)
    wait_until(lambda: connection.exists("rq:werk:crons"))
    text = browse().get("/cron", base_url=HERE).text
    for part in ("@hourly", "hello(&#39;Ada&#39;)", "panic()", str(table), ">running</span>"):
        assert part in text, part
    assert text.count(">ok</span>") == 2
    cron.terminate()
    assert cron.wait(60) == 0
    assert browse().get("/cron", base_url=HERE).text.count(">stopped</span>") == 1


# --- what is done


def fail(
    connection: redis.Redis, job_id: str, error: str = "ValueError: order 7", at: int | None = None
) -> None:
    put(connection, job_id, werk_task="panic", description="panic()", timeout=180)
    trace = b64encode(compress(f"Traceback ...\n{error}\n".encode()))
    result: dict[Any, Any] = {"type": 2, "exc_string": trace}
    connection.xadd(f"rq:results:{job_id}", result, id=f"{at}000-0" if at else "*")


def test_a_group_is_counted_and_retried(browse: Browse, connection: redis.Redis) -> None:
    for number in range(500):
        error = f"ValueError: order {number}" if number < 3 else "KeyError: 'x'"
        fail(connection, f"job-{number}", error)
    client = browse()
    group = {"state": "failed", "task": "panic", "error": "ValueError: order #"}
    answer = client.get("/jobs/count/retry", query_string=group, base_url=HERE)
    assert answer.json == {"count": 3, "is_whole": True, "counted_at": ANY}
    assert done(client, "retry", **group) == "3 jobs retried"
    assert connection.zcard("rq:failed:default") == 497
    assert {*connection.lrange("rq:queue:default", 0, -1)} == {b"job-0", b"job-1", b"job-2"}
    assert done(client, "retry", **group) == "0 jobs retried"
    assert done(client, "discard", state=["failed"], error="KeyError*") == "497 jobs discarded"
    assert not connection.exists("rq:failed:default")


def test_only_jobs_that_were_there_when_they_were_counted_are_changed(
    browse: Browse, connection: redis.Redis
) -> None:
    """A page asks for confirmation with the number, and an answer may take minutes."""
    client, group = browse(), {"state": "failed", "task": "panic"}
    for number in range(3):
        fail(connection, f"job-{number}")
    counted = client.get("/jobs/count/discard", query_string=group, base_url=HERE).json
    fail(connection, "new", at=connection.time()[0] + 1)
    moment = counted["counted_at"]
    assert done(client, "discard", **group, counted_at=moment) == "3 jobs discarded"
    assert connection.zrange("rq:failed:default", 0, -1) == [b"new"]


def test_an_age_is_that_at_the_time_of_the_count(browse: Browse, connection: redis.Redis) -> None:
    client, now = browse(), connection.time()[0]
    fail(connection, "job", at=now - 5000)
    group = {"state": "failed", "older": "1h"}
    assert done(client, "retry", **group, counted_at=now - 4000) == "0 jobs retried"
    assert done(client, "retry", **group, counted_at=now) == "1 job retried"


@pytest.mark.parametrize("at", ["1", None, True, [1.5], -1, 1e300, -90000, 3600])
def test_a_bad_time_of_a_count_is_refused(at: Any, browse: Browse, connection: redis.Redis) -> None:
    fail(connection, "job")
    if at in (-90000, 3600):  # from now
        at += connection.time()[0]
    answer = ask(browse(), "retry", state="failed", counted_at=at)
    said = "counted_at must be the time of a count in the last 24 hours; count the jobs again"
    assert (answer.status_code, answer.json["error"]) == (400, said)
    assert connection.zcard("rq:failed:default") == 1


def test_jobs_are_cancelled_by_filter(browse: Browse, connection: redis.Redis) -> None:
    werk.enqueue_many("sleep", [(seconds,) for seconds in range(20)])
    kept = werk.enqueue("hello", "Ada")
    client = browse()
    assert done(client, "cancel", task="sleep", arg=["seconds=3"]) == "1 job cancelled"
    assert done(client, "cancel", task="sleep", queue="default") == "19 jobs cancelled"
    assert connection.lrange("rq:queue:default", 0, -1) == [kept.id.encode()]


def test_a_queue_is_paused_and_resumed(browse: Browse, connection: redis.Redis) -> None:
    werk.enqueue("hello", "Ada")
    client = browse()
    assert done(client, "pause", queue="default") == "queue default paused"
    assert done(client, "pause", queue="default") == "queue default paused"
    assert ">paused</span>" in client.get("/", base_url=HERE).text
    assert done(client, "resume", queue="default") == "queue default resumed"
    assert not connection.exists("rq:werk:paused")
    assert ask(client, "pause", queue="nothing").status_code == 404


def test_a_job_is_stopped_and_a_worker_drained(
    browse: Browse, connection: redis.Redis, work: Start
) -> None:
    worker = work("default", "--name", "w1")
    job = werk.enqueue("sleep", 600)
    wait_until(lambda: f"event=started job={job.id}" in worker.output())
    client = browse()
    assert done(client, "stop", job=job.id) == "1 job stopped on worker w1"
    assert job.status() == "stopped"
    assert ask(client, "stop", job=job.id).status_code == 409
    assert ask(client, "stop", job="none").status_code == 404
    assert done(client, "drain", worker="w1") == "worker w1 finishes its jobs and exits"
    assert worker.wait(60) == 0
    assert ask(client, "drain", worker="none").status_code == 409


@pytest.mark.parametrize(
    ("action", "body", "code"),
    [
        ("retry", {}, 400),
        ("retry", {"state": []}, 400),
        ("retry", {"state": "queued"}, 422),
        ("retry", {"state": "nonsense"}, 422),
        ("cancel", {"queue": "default", "since": "soon"}, 422),
        ("cancel", {"queue": "default", "older": "20261231"}, 422),
        ("cancel", {"queue": "default", "older": "-1h"}, 422),
        ("cancel", {"queue": "nothing"}, 422),
        ("cancel", {"queue": 7}, 400),
        ("cancel", {"queue": ["a", None]}, 400),
        ("cancel", {"odd": "x"}, 400),
        ("discard", ["queue"], 400),
        ("pause", {"queue": ""}, 400),
        ("stop", {"job": ["x"]}, 400),
        ("drain", {}, 400),
    ],
)
def test_a_request_that_is_no_request(
    browse: Browse, connection: redis.Redis, action: str, body: Any, code: int
) -> None:
    werk.enqueue("hello", "Ada")
    answer = browse().post(f"/actions/{action}", base_url=HERE, headers=OURS, json=body)
    assert (answer.status_code, bool(answer.json["error"])) == (code, True), answer.text
    assert connection.llen("rq:queue:default") == 1


@pytest.mark.parametrize(
    "body", [b"[" * 200_000, b'{"queue": "\xff"}', b'{"queue":', b"", b'{"counted_at": NaN}']
)
def test_a_body_that_cannot_be_read_is_refused(browse: Browse, redis_url: str, body: bytes) -> None:
    how: dict[str, Any] = {"base_url": HERE, "headers": OURS, "content_type": "application/json"}
    answer = browse().post("/actions/pause", data=body, **how)
    assert (answer.status_code, bool(answer.json["error"])) == (400, True), answer.text


def test_a_body_of_another_type_is_refused(browse: Browse, redis_url: str) -> None:
    for name in NAMES:
        for kind in ("text/plain", "application/x-www-form-urlencoded"):
            answer = browse().post(
                f"/actions/{name}", base_url=HERE, headers=OURS, content_type=kind, data="{}"
            )
            assert answer.status_code == 415


def test_long_requests_leave_room_for_others(browse: Browse, connection: redis.Redis) -> None:
    client = browse()
    with pages.long_request(), pages.long_request(), pages.long_request(), pages.long_request():
        assert ask(client, "retry", state="failed").status_code == 503
        assert client.get("/jobs/groups", base_url=HERE).status_code == 503
        for path in LONG:
            assert client.post(path, base_url=HERE, headers=OURS).status_code == 503, path
        for path in ("/", "/healthz", "/jobs"):
            assert client.get(path, base_url=HERE).status_code == 200
    assert ask(client, "retry", state="failed").status_code == 200
    connection.sadd("rq:queues", "rq:queue:default")
    for path in LONG:
        assert client.post(path, base_url=HERE, headers=OURS).status_code == 200, path


def test_stops_of_frozen_workers_leave_room_for_others(
    browse: Browse, connection: redis.Redis
) -> None:
    connection.hset("rq:job:j1", mapping={"status": "started", "worker_name": "w1"})
    client, heard = browse(), connection.pubsub()
    heard.subscribe("rq:pubsub:w1")
    with ThreadPoolExecutor() as pool:
        asked = [
            pool.submit(ask, client.application.test_client(), "stop", job="j1") for _ in "1234"
        ]
        wait_until(lambda: connection.pubsub_numsub("rq:pubsub:w1")[0][1])
        for _ in asked:
            wait_until(lambda: (heard.get_message(timeout=1) or {}).get("type") == "message")
        assert ask(client, "stop", job="j1").status_code == 503
        assert ask(client, "retry", state="failed").status_code == 200
        connection.hset("rq:job:j1", "status", "stopped")
        assert [own.result().status_code for own in asked] == [200] * 4
    assert ask(client, "stop", job="j1").status_code == 409
    heard.close()


def test_an_argument_may_be_written_as_on_the_command_line(redis_url: str) -> None:
    assert filters.query(link(roles.settings("reader")), {"arg": ["dry-run=1"]}).args == [
        ("dry_run", "1")
    ]


def test_the_links_of_an_error_that_ends_in_an_asterisk_are_for_it_alone(
    browse: Browse, connection: redis.Redis
) -> None:
    hour = int(connection.time()[0]) // 3600
    connection.hset(f"rq:werk:failures:{hour}", "panic|E: no /in/*", f"1 {hour * 3600} x")
    for path in ("/", "/failures"):
        text = html.unescape(browse().get(path, base_url=HERE).text)
        assert r"""data-body='{"error": "E: no /in/\\*", "state": "failed",""" in text
        assert 'error=E:+no+/in/%5C*"' in text
        assert '<span class="werk-error">E: no /in/*</span>' in text


@pytest.mark.parametrize(
    ("seconds", "shown"),
    [
        (None, "-"),
        (0.0009, "< 1 ms"),
        (0.001, "1 ms"),
        (0.12345, "123 ms"),
        (0.9994, "999 ms"),
        (0.9995, "1 s"),
        (0.9996, "1 s"),
        (1.0, "1 s"),
        (9.996, "10 s"),
        (99.96, "100 s"),
        (100.4, "100s"),
    ],
)
def test_a_duration_has_at_most_three_digits(seconds: float | None, shown: str) -> None:
    assert pages.shown_seconds(seconds) == shown


# --- many


def test_a_count_does_not_take_for_ever(
    browse: Browse, connection: redis.Redis, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(pages, "COUNT_S", 0.0)
    fail_many(connection, 3_000)
    query = {"state": "failed", "error": "ValueError: x"}
    answer = browse().get("/jobs/count/retry", query_string=query, base_url=HERE)
    assert answer.json["count"] < 3_000
    assert answer.json["is_whole"] is False


@pytest.mark.performance
def test_a_hundred_thousand_failures_take_no_second(
    browse: Browse, connection: redis.Redis
) -> None:
    fail_many(connection, 100_000)
    client = browse()
    client.get("/", base_url=HERE)  # the first compiles the templates
    for path in ("/", "/failures", "/failures?hours=168", "/jobs?state=failed"):
        start = time.monotonic()
        assert client.get(path, base_url=HERE).status_code == 200
        assert time.monotonic() - start < 1, path


def test_however_many_have_failed_a_page_reads_few(browse: Browse, connection: redis.Redis) -> None:
    fail_many(connection, 20_000)
    connection.config_resetstat()
    client = browse()
    for path in ("/", "/failures?hours=168"):
        assert client.get(path, base_url=HERE).status_code == 200
    calls = connection.info("commandstats")
    assert sum(own["calls"] for own in calls.values()) < 1000


def fail_many(connection: redis.Redis, count: int) -> None:
    trace = b64encode(compress(b"Traceback\n  ...\nValueError: x"))
    many = connection.register_script(MANY)
    for start in range(0, count, 1_000):
        many(args=["failed", now(), start, b"x", trace])
    hour = int(connection.time()[0]) // 3600
    for own in range(hour - 170, hour + 1):
        fields: dict[Any, Any] = {f"task{n}|ValueError: {n}": f"9 {own}.5 x" for n in range(100)}
        connection.hset(f"rq:werk:failures:{own}", mapping=fields)
