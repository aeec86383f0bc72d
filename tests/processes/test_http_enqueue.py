"""POST /api/tasks/<task>: each answer, who may ask, and that nothing sent to it does harm."""

from __future__ import annotations

import datetime
import http.client
import json
import re
import socket
import time
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from random import Random
from typing import Any, Literal
from uuid import UUID, uuid4

import pytest
import redis
from dashboards import HERE, OURS, Browse
from faults import listening
from flask.testing import FlaskClient
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from rq.job import Job
from support import Process, run, wait_until

import werk
from werk import registry
from werk.client.options import HINTS
from werk.dev.server import free_port
from werk.store import payload
from werk.tasks import catalog
from werk.web.http_server import LONGEST_BODY, MOST_ARRIVING

Serving = Callable[..., tuple[Process, str]]
XSS = "<img src=x onerror=alert(1)><script>alert(2)</script>"
CLOSED = {"RQ_DASHBOARD_USERNAME": "ops", "RQ_DASHBOARD_PASSWORD": "pw"}

TASKS: dict[str, str | werk.Task] = {
    "sleep": "werk.jobs.sleep",
    "hello": "werk.jobs.hello",
    "typed": werk.Task(f"{__name__}.typed", queue="low", timeout=60, retry=3, retry_delay=1000,
                       result_ttl=0),
    "anything": f"{__name__}.anything",
    "hidden": werk.Task(f"{__name__}.hidden", secret=("token",)),
}  # fmt: skip


def typed(
    count: int,
    /,
    share: float = 0.5,
    names: list[str] = [],  # noqa: B006
    *,
    size: Literal["s", 1] = "s",
    day: datetime.date | None = None,
    key: UUID | None = None,
) -> None:
    """Only ever read."""


def anything(*args: object, **kwargs: object) -> None:
    """Only ever read."""


def hidden(token: int) -> None:
    """Only ever read."""


@pytest.fixture
def tasks(monkeypatch: pytest.MonkeyPatch) -> None:
    """The dashboard's host has these tasks."""
    monkeypatch.setattr(registry, "TASKS", TASKS)
    registry.tasks.cache_clear()
    catalog.own_entry.cache_clear()


@pytest.fixture
def client(browse: Browse) -> FlaskClient:
    return browse()


def post(client: FlaskClient, task: str, body: object = None, **how: Any) -> tuple[int, Any]:
    """Return the status and the JSON of the answer; a body of bytes is sent as it stands."""
    data = body if isinstance(body, bytes) else json.dumps({} if body is None else body)
    how = {"base_url": HERE, "content_type": "application/json", **how}
    answer = client.post(f"/api/tasks/{task}", data=data, **how)
    assert answer.mimetype == "application/json"
    assert answer.headers["X-Content-Type-Options"] == "nosniff"
    if answer.status_code >= 400:
        assert [*answer.json] == ["error"]
        assert "\n" not in answer.json["error"]
    return answer.status_code, answer.json


def call(connection: redis.Redis, job_id: str) -> tuple[Any, Any]:
    """Return args and kwargs as a worker reads them."""
    return payload.read_call(connection.hget(f"rq:job:{job_id}", "data"))[1:]


# --- what is enqueued


def test_a_job_is_enqueued(client: FlaskClient, connection: redis.Redis) -> None:
    code, reply = post(client, "sleep", {"args": [1]})
    assert code == 201
    assert reply == {
        "id": reply["id"],
        "queue": "default",
        "task": "sleep",
        "duplicate": False,
        "warnings": ["no worker listens on queue default; start one: werk worker default"],
    }
    assert connection.lrange("rq:queue:default", 0, -1) == [reply["id"].encode()]
    assert call(connection, reply["id"]) == ((1.0,), {})


def test_the_record_is_the_one_that_python_writes(
    tasks: None, client: FlaskClient, connection: redis.Redis
) -> None:
    _, reply = post(client, "typed", {"args": [1], "kwargs": {"share": 2}})
    own = werk.enqueue("typed", 1, share=2.0)
    theirs, ours = (connection.hgetall(f"rq:job:{one}") for one in (reply["id"], own.id))
    assert set(theirs) == set(ours)
    differing = {name for name in ours if ours[name] != theirs[name]}
    assert differing <= {b"created_at", b"enqueued_at", b"werk_enqueued", b"retry_intervals"}
    assert connection.lrange("rq:queue:low", 0, -1) == [reply["id"].encode(), own.id.encode()]
    assert connection.smembers("rq:queues") == {b"rq:queue:low"}
    assert Job.fetch(reply["id"], connection=connection).args == (1,)  # as RQ reads it


@pytest.mark.parametrize("kind", ["rq", "werk"])
def test_either_kind_of_worker_runs_it(
    kind: str, client: FlaskClient, spawn: Callable[..., Process]
) -> None:
    spawn(kind, "worker", "default")
    _, reply = post(client, "hello", {"kwargs": {"name": "Ada"}})
    assert werk.result(reply["id"], timeout=60) == "Hello Ada"


def test_a_task_that_only_workers_know(
    client: FlaskClient, connection: redis.Redis, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(registry.TASKS, "there", "werk.jobs.hello")
    registry.tasks.cache_clear()
    pages = catalog.pages()
    monkeypatch.delitem(registry.TASKS, "there")
    registry.tasks.cache_clear()
    assert post(client, "there", {"args": ["Ada"]})[0] == 404
    connection.hset("rq:werk:catalog", mapping=dict(zip(pages[::2], pages[1::2], strict=True)))
    code, reply = post(client, "there", {"args": ["Ada"]})
    assert (code, call(connection, reply["id"])) == (201, (("Ada",), {}))


def plain_json() -> st.SearchStrategy[Any]:
    text = st.text(st.characters(exclude_categories=["Cs"]), max_size=20)
    numbers = st.integers() | st.floats(allow_nan=False, allow_infinity=False)
    return st.recursive(
        st.none() | st.booleans() | numbers | text,
        lambda inner: st.lists(inner, max_size=4) | st.dictionaries(text, inner, max_size=4),
    )


@settings(suppress_health_check=list(HealthCheck), deadline=None)
@given(st.lists(plain_json(), max_size=4), st.booleans(), st.sampled_from([None, 1]))
def test_what_json_says_arrives(
    tasks: None,
    client: FlaskClient,
    connection: redis.Redis,
    values: list[object],
    ascii: bool,
    indent: int | None,
) -> None:
    named = {f"n{at}": value for at, value in enumerate(values)}
    body = json.dumps({"args": values, "kwargs": named}, ensure_ascii=ascii, indent=indent)
    code, reply = post(client, "anything", body.encode())
    assert code == 201
    assert repr(call(connection, reply["id"])) == repr((tuple(values), named))  # 1, 1.0, True


def test_types_are_the_tasks(tasks: None, client: FlaskClient, connection: redis.Redis) -> None:
    key = uuid4()
    kwargs = {"size": 1, "day": "2026-11-28", "key": str(key)}
    _, reply = post(client, "typed", {"args": [-(2**70), 1, ["ä"]], "kwargs": kwargs})
    day = datetime.date(2026, 11, 28)
    wanted = ((-(2**70), 1.0, ["ä"]), {"size": 1, "day": day, "key": key})
    assert call(connection, reply["id"]) == wanted
    for size, exact in (("s", "s"), ("1", 1), (1, 1)):
        _, reply = post(client, "typed", {"args": [1], "kwargs": {"size": size, "day": None}})
        assert call(connection, reply["id"]) == ((1,), {"size": exact, "day": None})
    for kwargs, said in (
        ({"size": "xl"}, "typed: size: 'xl' is not one of s, 1"),
        ({"size": True}, "typed: size: True is not one of s, 1"),
        ({"day": 5}, "typed: day: 5 is not a date, such as 2026-01-31"),
        ({"count": 1}, "typed: takes no count; "),
        ({"timeout": 1, "retry": 1}, '; put timeout, retry into "options"'),
        ({"share": False}, "typed: share: False is not a number (float)"),
        ({"names": [1]}, "typed: names: 1 is not text (str)"),
    ):
        code, reply = post(client, "typed", {"args": [1], "kwargs": kwargs})
        assert (code, said in reply["error"]) == (422, True), reply


def test_many_bytes_arrive(client: FlaskClient, connection: redis.Redis) -> None:
    text = "x" * (LONGEST_BODY - 100)
    code, reply = post(client, "hello", {"args": [text]})
    assert (code, call(connection, reply["id"])) == (201, ((text,), {}))


# --- wrong calls


@pytest.mark.parametrize(
    ("task", "given_"),
    [
        ("slep", [1]),
        ("sleep", []),
        ("sleep", ["abc"]),
        ("sleep", [1, 2]),
        ("sleep", [None]),
        ("sleep", {"second": 1}),
        ("hello", [1]),
        ("hello", {"name": ["Ada"]}),
        ("../hello", []),
        (XSS, []),
    ],
)
def test_wrong_arguments_are_reported_as_on_the_command_line(
    client: FlaskClient, connection: redis.Redis, task: str, given_: Any
) -> None:
    said = run("werk-enqueue", "--args-json", json.dumps(given_), "--", task)
    assert said.returncode == 2
    body = {"kwargs" if isinstance(given_, dict) else "args": given_}
    code, reply = post(client, task, body)
    assert code == (404 if task not in registry.tasks() else 422)
    assert said.stderr == f"werk-enqueue: {reply['error']}\n"
    assert connection.keys() == []


BAD = [
    (b"", "'' is not JSON (text needs double quotes): Expecting value at character 1"),
    (b"[1", "is not JSON (text needs"),
    (b'{"args": [nan]}', "is not JSON (text needs"),
    (b'{"args": [NaN]}', "is not JSON, or nested too deeply"),
    (b'{"args": [1e999]}', "'1e999' is too large for a float"),
    (b'{"args": [%s]}' % (b"1" * 5000), "has more than 4300 digits"),
    (b'{"args": [%s1%s]}' % (b"[" * 200, b"]" * 200), "is nested deeper than 100 levels"),
    (b'{"args": %s' % (b"[" * 100_000), "is not JSON, or nested too deeply"),
    (b'{"args": [%s1]}' % (b"1," * 1_000_000), "has more than 1,000,000 parts"),
    (b'{"args": ["\xff"]}', "the body is not valid UTF-8"),
    (b'{"args": [], "args": []}', "the object has a key twice"),
    (b'{"kwargs": {"name": "a", "name": "b"}}', "the object has a key twice"),
    (b"[1]", "the body must be a JSON object with args, kwargs and options, each optional"),
    (b"null", "the body must be a JSON object"),
    (b'"args"', "the body must be a JSON object"),
    (b'{"arg": [1]}', "unknown in the body: arg; did you mean 'args'?"),
    (b'{"id": 1, "x y": 1}', "unknown in the body: id, 'x y'; known: args, kwargs, options"),
    (b'{"args": {"a": 1}}', "args must be an array, got dict"),
    (b'{"args": "abc"}', "args must be an array, got str"),
    (b'{"kwargs": [1]}', "kwargs must be an object, got list"),
    (b'{"options": null}', "options must be an object, got NoneType"),
    (b'{"options": {"dely": 1}}', "unknown in options: dely; did you mean 'delay'?"),
    (b'{"options": {"slot": "x"}}', "unknown in options: slot; "),
]


@pytest.mark.parametrize(("body", "said"), BAD)
def test_a_bad_body_is_refused(
    client: FlaskClient, connection: redis.Redis, body: bytes, said: str
) -> None:
    code, reply = post(client, "hello", body)
    assert (code, said in reply["error"]) == (400, True), reply
    assert len(reply["error"]) < 300
    assert connection.keys() == []


def test_secrets_are_masked(tasks: None, client: FlaskClient, connection: redis.Redis) -> None:
    digits = "7" * 5000
    for body in (
        b'{"args": ["hunter2"]}',
        b'{"args": [hunter2]}',
        b'{"kwargs": {"token": "hunter2"}}',
        b'{"args": [%s]}' % digits.encode(),
    ):
        code, reply = post(client, "hidden", body)
        assert code in (400, 422)
        assert "hunter2" not in reply["error"] and "777" not in reply["error"]
    _, reply = post(client, "hidden", {"args": [12345]})
    assert connection.hget(f"rq:job:{reply['id']}", "description") == b"hidden(***)"


@pytest.mark.parametrize(
    "kind", ["", "text/plain", "multipart/form-data", "application/x-www-form-urlencoded", "json"]
)
def test_another_content_type_is_refused(
    client: FlaskClient, connection: redis.Redis, kind: str
) -> None:
    """A page of another site can send these without asking first."""
    code, reply = post(client, "hello", {"args": ["Ada"]}, content_type=kind)
    assert (code, reply["error"]) == (415, f"Content-Type must be application/json, got {kind!r}")
    assert connection.keys() == []


def test_a_charset_is_fine(client: FlaskClient) -> None:
    for kind in ("application/json; charset=utf-8", "Application/JSON"):
        assert post(client, "hello", {"args": ["Ada"]}, content_type=kind)[0] == 201


def test_other_methods_are_refused(client: FlaskClient, connection: redis.Redis) -> None:
    for method in ("GET", "HEAD", "PUT", "DELETE", "PATCH"):
        answer = client.open("/api/tasks/hello", method=method, base_url=HERE, headers=OURS)
        assert answer.status_code == 405
        assert answer.headers["Allow"] == "OPTIONS, POST"
        if method != "HEAD":
            assert answer.json == {"error": f"{method} is not allowed here; use OPTIONS, POST"}
    assert connection.keys() == []


def test_a_request_without_a_task_is_told_how(client: FlaskClient) -> None:
    for path in ("/api/tasks", "/api/tasks/"):
        for answer in (client.get(path, base_url=HERE), client.post(path, base_url=HERE)):
            assert answer.status_code == 404
            assert "POST /api/tasks/TASK with" in answer.json["error"]


# --- options


def test_options_are_those_of_python(
    tasks: None, client: FlaskClient, connection: redis.Redis
) -> None:
    def job(**options: object) -> dict[bytes, bytes]:
        code, reply = post(client, "hello", {"args": ["Ada"], "options": options})
        assert code == 201, reply
        return connection.hgetall(f"rq:job:{reply['id']}")

    assert job(queue="low")[b"origin"] == b"low"
    numbers = {"timeout": 5, "result_ttl": 6, "failure_ttl": -1, "ttl": 60}
    found = job(**numbers)
    assert {name: int(found[name.encode()]) for name in numbers} == numbers
    assert job(retry=2)[b"retries_left"] == b"2"
    assert b"hc.example.com" in job(ping="https://hc.example.com/x")[b"webhooks"]
    assert b"ttl" in job(expires="1h30m")
    assert job(expires="1h30m")[b"ttl"] == b"5400"
    assert job(expires=90)[b"ttl"] == b"90"
    meta = {"tenant": 7, "tags": ["a", None]}
    assert payload.loads(job(meta=meta)[b"meta"]) == meta
    job(job_id="mine", front=True)
    assert connection.lindex("rq:queue:default", 0) == b"mine"
    nothing = dict.fromkeys(set(HINTS) - {"front", "unless_active", "require_worker"})
    assert job(**nothing, front=False)[b"status"] == b"queued"


def test_a_job_is_scheduled(client: FlaskClient, connection: redis.Redis) -> None:
    now = time.time()
    at = datetime.datetime.fromtimestamp(now + 7200, datetime.timezone.utc)
    for options, due in (
        ({"delay": 3600}, now + 3600),
        ({"delay": 0.5}, now + 0.5),
        ({"at": at.isoformat()}, now + 7200),
    ):
        code, reply = post(client, "hello", {"args": ["Ada"], "options": options})
        found = connection.zscore("rq:scheduled:default", reply["id"])
        assert code == 201
        assert abs(found - due) < 60


@pytest.mark.parametrize(
    ("options", "said"),
    [
        ({"timeout": 0}, "timeout: got 0; use -1 for no limit"),
        ({"timeout": True}, "timeout: got True; use -1 to 1000000000 whole seconds, or a text"),
        ({"front": 1}, "front: 1 is not true or false (bool)"),
        ({"front": None}, "front: None is not true or false (bool)"),
        ({"require_worker": "yes"}, "require_worker: 'yes' is not true or false (bool)"),
        ({"delay": -1}, "delay: got -1; use 0 to 1000000000 seconds, or a text"),
        ({"once_per": True}, "once_per: got True; use 1 to"),
        ({"once_per": 0}, "once_per: got 0; use 1 to"),
        ({"expires": [1]}, "expires: got a value of type list; use 1 to"),
        ({"expires": {}}, "expires: got a value of type dict; use 1 to"),
        ({"expires": "9" * 10**6}, "99'...; use 1 to"),
        ({"expires": 1e300}, "expires: got 1e+300; use 1 to"),
        ({"expires": 10**300}, "expires: got a value of type int; use 1 to"),
        ({"meta": "{}"}, "meta: '{}' is not a dict"),
        ({"meta": [1]}, "meta: the list is not a dict"),
        ({"at": 5}, "at: 5 is not a datetime"),
        ({"at": "tomorrow"}, "at: 'tomorrow' is not a datetime"),
        ({"at": "0001-01-01"}, "out of range"),
        ({"at": "9999-01-01"}, "out of range"),
        ({"at": "2026-12-24T18:00Z", "delay": 1}, "delay and at cannot be combined"),
        ({"job_id": "a b"}, "job_id 'a b': use letters, digits, - and _"),
        ({"job_id": 5}, "job_id: 5 is not text (str)"),
        ({"queue": ""}, "queue '' is not a queue name"),
        ({"queue": {}}, "queue: the dict is not text (str)"),
        ({"ping": "ftp://x"}, "ping 'ftp://x': use an address"),
        ({"retry": 10**9}, "retry: got 1000000000; use 0 to 10000"),
        ({"ttl": 1.5}, "ttl: got 1.5; use 1 to 1000000000 whole seconds"),
    ],
)
def test_a_wrong_option_is_refused(
    client: FlaskClient, connection: redis.Redis, options: dict[str, object], said: str
) -> None:
    code, reply = post(client, "hello", {"args": ["Ada"], "options": options})
    assert (code, said in reply["error"]) == (422, True), reply
    assert connection.keys() == []


def test_a_duplicate_is_answered_with_its_job(client: FlaskClient, connection: redis.Redis) -> None:
    for options in ({"job_id": "mine"}, {"once_per": "5m"}, {"unless_active": True}):
        body = {"args": ["Ada"], "options": options}
        code, first = post(client, "hello", body)
        assert (code, first["duplicate"]) == (201, False)
        code, again = post(client, "hello", body)
        assert (code, again["id"], again["duplicate"]) == (200, first["id"], True)
        assert again["queue"] == "default"
        connection.flushall()


def test_an_id_of_another_call_is_a_conflict(
    tasks: None, client: FlaskClient, connection: redis.Redis
) -> None:
    options = {"job_id": "mine"}
    assert post(client, "hidden", {"args": [7], "options": options})[0] == 201
    before = connection.hgetall("rq:job:mine")
    for body in ({"args": [8]}, {"kwargs": {"token": 9}}):
        code, reply = post(client, "hidden", {**body, "options": options})
        assert code == 409
        assert reply["error"].startswith("job_id 'mine' belongs to another call, hidden(***); use ")
    again = {"kwargs": {"token": 7}, "options": {**options, "queue": "low"}}
    assert post(client, "hidden", again)[0] == 200
    assert connection.hgetall("rq:job:mine") == before


# --- Redis and workers


def test_redis_is_unreachable(browse: Browse, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("RQ_REDIS_URL", f"redis://:s3cret@127.0.0.1:{free_port()}/0")
    code, reply = post(browse(), "hello", {"args": ["Ada"], "options": {"job_id": "mine"}})
    assert (code, "was not reached within" in reply["error"]) == (503, True)
    assert "s3cret" not in reply["error"]


def test_a_worker_is_required(
    client: FlaskClient, connection: redis.Redis, spawn: Callable[..., Process]
) -> None:
    body = {"args": ["Ada"], "options": {"require_worker": True}}
    code, reply = post(client, "hello", body)
    said = "no worker listens on queue default; start one: werk worker default"
    assert (code, reply["error"]) == (503, f"{said}; nothing was enqueued")
    assert connection.keys() == []
    spawn("werk", "worker", "default")
    wait_until(lambda: connection.exists("rq:werk:serves:default"))
    code, reply = post(client, "hello", body)
    assert (code, reply["warnings"]) == (201, [])


def test_a_retry_after_a_lost_answer_enqueues_once(
    client: FlaskClient, connection: redis.Redis
) -> None:
    """docs/other-languages.md advises this after a 503."""
    body = {"args": ["Ada"], "options": {"job_id": "mine"}}
    codes = [post(client, "hello", body)[0] for _ in range(3)]
    assert codes == [201, 200, 200]
    assert connection.llen("rq:queue:default") == 1


# --- who may ask


@pytest.mark.parametrize(
    ("origin", "code"),
    [
        (None, 201),
        (HERE, 201),
        ("https://localhost", 201),
        ("http://evil.example", 403),
        ("http://localhost:81", 403),
        ("http://localhost.evil.example", 403),
        ("null", 403),
        ("", 403),
    ],
)
def test_pages_of_other_sites_are_refused(
    client: FlaskClient, connection: redis.Redis, origin: str | None, code: int
) -> None:
    headers = {} if origin is None else {"Origin": origin}
    assert post(client, "hello", {"args": ["Ada"]}, headers=headers)[0] == code
    assert connection.llen("rq:queue:default") == (code == 201)


def test_a_preflight_allows_nothing(client: FlaskClient) -> None:
    headers = {
        "Origin": "http://evil.example",
        "Access-Control-Request-Method": "POST",
        "Access-Control-Request-Headers": "content-type",
    }
    answer = client.options("/api/tasks/hello", base_url=HERE, headers=headers)
    assert not [name for name, _ in answer.headers.items() if name[:14] == "Access-Control"]


def test_only_this_address_needs_no_origin(client: FlaskClient) -> None:
    """Besides /api/tasks without a task, which only ever answers how to call it."""
    for path in ("/requeue/default", "/job/some/delete", "/api/task", "/api/"):
        assert client.post(path, base_url=HERE).status_code == 403


@pytest.mark.parametrize(
    ("host", "code"),
    [("dash.example", 201), ("[::1]:9181", 201), ("evil.example", 403), ("evil@localhost", 403)],
)
def test_a_host_has_to_be_known(
    browse: Browse, connection: redis.Redis, host: str, code: int
) -> None:
    """Under a name of its own, a page of another site would be no other site (DNS rebinding)."""
    client = browse(hosts=["dash.example"])
    headers = {"Host": host, "Origin": f"http://{host}"}
    assert post(client, "hello", {"args": ["Ada"]}, headers=headers)[0] == code
    assert connection.llen("rq:queue:default") == (code == 201)


def test_the_password_is_asked_for(browse: Browse, connection: redis.Redis) -> None:
    body = {"args": ["Ada"]}
    for wrong in (None, ("ops", "wrong"), ("", "")):
        code, reply = post(browse("ops", "pw"), "hello", body, auth=wrong)
        assert (code, reply) == (401, {"error": "password required"})
    assert connection.keys() == []
    client = browse("ops", "pw")
    assert post(client, "hello", body, auth=("ops", "pw"))[0] == 201
    evil = {"Origin": "http://evil.example"}
    assert post(client, "hello", body, auth=("ops", "pw"), headers=evil)[0] == 403
    for _ in range(5):
        post(client, "hello", body, auth=("ops", "wrong"))
    code, reply = post(client, "hello", body, auth=("ops", "pw"))
    assert (code, "try again in" in reply["error"]) == (429, True)
    assert connection.llen("rq:queue:default") == 1


def test_read_only_enqueues_nothing(browse: Browse, connection: redis.Redis) -> None:
    for headers in ({}, OURS):
        code, reply = post(browse(read_only=True), "hello", {"args": ["Ada"]}, headers=headers)
        assert (code, reply) == (403, {"error": "this dashboard is read-only"})
    assert connection.keys() == []


def test_no_answer_is_a_page(client: FlaskClient) -> None:
    """`post` checks that each answer is JSON that a browser does not take for a page."""
    for task in (XSS, "hello"):
        for body in ({XSS: 1}, {"args": [XSS, XSS]}, {"options": {"queue": f"\x00{XSS}"}}):
            assert post(client, task, body)[0] in (400, 404, 422)
    assert post(client, "hello", XSS.encode())[0] == 400


# --- the server


class Raw:
    """Connections to one server, over which a test sends bytes."""

    def __init__(self, address: str, stack: ExitStack) -> None:
        self.place, self.stack = ("127.0.0.1", int(address.rpartition(":")[2])), stack

    def send(self, data: bytes) -> socket.socket:
        own = self.stack.enter_context(socket.create_connection(self.place, 20))
        own.sendall(data)
        return own

    def ask(self, data: bytes) -> tuple[int, dict[str, Any]]:
        with http.client.HTTPResponse(self.send(data)) as answer:
            answer.begin()
            return answer.status, json.loads(answer.read())


@pytest.fixture
def stack() -> Iterator[ExitStack]:
    with ExitStack() as stack:
        yield stack


def head(*lines: str, task: str = "hello") -> bytes:
    first = (f"POST /api/tasks/{task} HTTP/1.1", "Host: localhost")
    return "\r\n".join([*first, "Content-Type: application/json", *lines, "", ""]).encode()


def request(body: object) -> bytes:
    text = json.dumps(body).encode()
    return head(f"Content-Length: {len(text)}") + text


TOO_LONG = {"error": "the body has more than 2 MiB; store the data elsewhere and send a reference"}


def test_a_long_body_is_refused_before_it_is_sent(serving: Serving, stack: ExitStack) -> None:
    process, address = serving()
    raw = Raw(address, stack)
    for length in (LONGEST_BODY + 1, 3 << 30):
        for more in ((), ("Expect: 100-continue",)):
            assert raw.ask(head(f"Content-Length: {length}", *more)) == (413, TOO_LONG)
    assert "Traceback" not in process.output()


def test_a_body_in_chunks_is_refused_once_it_is_too_long(
    serving: Serving, stack: ExitStack
) -> None:
    process, address = serving()
    own = Raw(address, stack).send(head("Transfer-Encoding: chunked"))
    chunk = b"10000\r\n" + b" " * 65536 + b"\r\n"
    *whole, last = [chunk] * (LONGEST_BODY // 65536)  # with their sizes, more than a body may have
    sent = sum(map(len, whole))
    # Not a byte more than what is refused: what the server has not read would end the connection.
    own.sendall(b"".join(whole) + last[: LONGEST_BODY + 1 - sent])
    answer = http.client.HTTPResponse(own)
    answer.begin()
    assert (answer.status, json.loads(answer.read())) == (413, TOO_LONG)
    assert "Traceback" not in process.output()


def test_the_longest_body_arrives(
    serving: Serving, stack: ExitStack, connection: redis.Redis
) -> None:
    body = b'{"args": ["%s"]}' % (b"x" * (LONGEST_BODY - 14))
    code, reply = Raw(serving()[1], stack).ask(head(f"Content-Length: {LONGEST_BODY}") + body)
    assert code == 201, reply
    assert connection.hlen(f"rq:job:{reply['id']}")


def test_slow_clients_hold_nobody_up(
    serving: Serving, stack: ExitStack, connection: redis.Redis
) -> None:
    process, address = serving()
    raw = Raw(address, stack)
    half = head("Content-Length: 100") + b'{"args": '
    for _ in range(300):
        raw.send(half)
    begun_at = time.monotonic()
    for _ in range(5):
        assert raw.ask(request({"args": ["Ada"]}))[0] == 201
    assert time.monotonic() - begun_at < 10
    assert "Traceback" not in process.output()


def test_half_bodies_take_a_limited_memory(serving: Serving, stack: ExitStack) -> None:
    process, address = serving()
    raw, before = Raw(address, stack), resident_mib(process)
    half = head(f"Content-Length: {LONGEST_BODY}") + b" " * (LONGEST_BODY - 1)
    for _ in range(60):
        raw.send(half)
    assert raw.ask(request({"args": ["Ada"]}))[0] == 201
    assert resident_mib(process) - before < 2 * MOST_ARRIVING / 2**20
    assert "Traceback" not in process.output()


def resident_mib(process: Process) -> float:
    with open(f"/proc/{process.pid}/status") as file:
        [kib] = re.findall(r"VmRSS:\s+(\d+) kB", file.read())
    return int(kib) / 1024


def test_a_silent_redis_holds_nobody_up(serving: Serving, stack: ExitStack) -> None:
    with listening(_read_all) as silent:
        _, address = serving(RQ_REDIS_URL=f"redis://127.0.0.1:{silent}/0")
        raw, ask = Raw(address, stack), request({"args": ["Ada"]})
        waiting = [raw.send(ask) for _ in range(80)]
        begun_at = time.monotonic()
        healthz = raw.send(b"GET /healthz HTTP/1.1\r\nHost: localhost\r\n\r\n")
        assert healthz.recv(4096).startswith(b"HTTP/1.1 200")
        assert time.monotonic() - begun_at < 10
        answer = http.client.HTTPResponse(waiting[-1])
        answer.begin()
        assert (answer.status, [*json.loads(answer.read())]) == (503, ["error"])


def _read_all(client: socket.socket) -> None:
    while client.recv(4096):
        pass


# --- anything at all


def scalar(dice: Random) -> object:
    texts = ["", "x", "5m", XSS, "\x00", "ä", "\ud800", "2026-12-24T18:00Z", "a b", "x" * 1000]
    return dice.choice([None, True, 0, -1, 1.5, 10**30, [], {}, *texts])


def value(dice: Random, depth: int = 3) -> object:
    kind = dice.choice(["scalar", "scalar", "list", "dict"]) if depth else "scalar"
    if kind == "list":
        return [value(dice, depth - 1) for _ in range(dice.randrange(4))]
    if kind == "dict":
        return {str(scalar(dice)): value(dice, depth - 1) for _ in range(dice.randrange(4))}
    return scalar(dice)


def body(dice: Random) -> bytes:
    """Return what may be sent: a call with errors, other JSON, or bytes."""
    kind = dice.choice(["good", "call", "call", "call", "json", "bytes", "changed"])
    if kind == "good":
        return json.dumps({"args": ["Ada"], "options": dice.choice([{}, {"delay": 60}])}).encode()
    if kind == "bytes":
        return dice.randbytes(dice.randrange(200))
    names = [*HINTS, "slot", "other"]
    options = {dice.choice(names): value(dice, 1) for _ in range(dice.randrange(4))}
    call = {"args": [value(dice) for _ in range(dice.randrange(3))], "options": options}
    if dice.random() < 0.5:
        call["kwargs"] = {dice.choice(["name", "seconds", "x"]): value(dice)}
    text = bytearray(json.dumps(value(dice) if kind == "json" else call).encode())
    for _ in range(dice.randrange(1, 4) if kind == "changed" else 0):
        text[dice.randrange(len(text))] = dice.randrange(256)
    return bytes(text)


def anybody(dice: Random) -> bytes:
    """Return a request."""
    tasks = ["hello"] * 9 + ["sleep", "panic", "werk.ping", "", "%00", "..%2F", "a/b", "%ff"]
    method = dice.choice(["POST"] * 20 + ["GET", "PUT", "OPTIONS", "post", "X"])
    kinds = ["application/json"] * 20 + ["application/json; charset=x", "text/plain", "", "\xff"]
    lines = [
        f"{method} /api/tasks/{dice.choice(tasks)} HTTP/1.1",
        f"Host: {dice.choice(['localhost'] * 20 + ['evil.example', '', '[::1'])}",
        f"Content-Type: {dice.choice(kinds)}",
        *dice.choice([[]] * 20 + [["Origin: null"], [f"Origin: {HERE}"], ["Content-Encoding: br"]]),
        *dice.choice([[]] * 20 + [["Authorization: Basic !"], ["Authorization: x"]]),
    ]
    data, length = body(dice), "Content-Length"
    if dice.random() < 0.1:
        parts = b"%x\r\n%s\r\n0\r\n\r\n" % (len(data), data) if data else b"0\r\n\r\n"
        data, lines = parts, [*lines, "Transfer-Encoding: chunked"]
    else:
        number = dice.choice([str(len(data))] * 20 + ["-1", "x", "9" * 30, "1, 2"])
        lines.append(f"{length}: {number}")
    return "\r\n".join([*lines, "Connection: close", "", ""]).encode("latin-1") + data


def test_a_thousand_random_requests(
    serving: Serving, stack: ExitStack, connection: redis.Redis
) -> None:
    dice = Random(16)
    process, address = serving()
    raw, codes = Raw(address, stack), Counter[int]()
    for number in range(1000):
        data = anybody(dice)
        with raw.send(data) as own, http.client.HTTPResponse(own) as answer:
            answer.begin()
            text = answer.read()
        codes[answer.status] += 1
        assert answer.status < 500, (number, data, text)
        if data.startswith(b"POST") and answer.status >= 400:
            assert [*json.loads(text)] == ["error"], (number, data, text)
    assert {201, 400, 403, 404, 415, 422} <= codes.keys(), codes
    assert codes[201] == sum(connection.llen(key) for key in connection.keys("rq:queue:*")) + sum(
        connection.zcard(key) for key in connection.keys("rq:scheduled:*")
    )
    assert "Traceback" not in process.output()
    assert "event=error" not in process.output()
