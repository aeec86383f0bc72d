"""Other languages: the one EVAL of docs/wire.md, from redis-cli, node and a raw socket."""

from __future__ import annotations

import datetime
import json
import re
import shutil
import socket
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any, Literal
from uuid import uuid4

import hiredis
import pytest
import redis
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from rq.job import Job
from support import ROOT, Process, wait_until

import werk
from werk import registry
from werk.client import foreign
from werk.store import payload
from werk.tasks import catalog

PAGE = (ROOT / "docs" / "wire.md").read_text()
SCRIPT = foreign.script().text
Spawn = Callable[..., Process]

TASKS = {
    "sleep": "werk.jobs.sleep",
    "hello": "werk.jobs.hello",
    "typed": werk.Task(f"{__name__}.typed", queue="low", timeout=60, retry=3, retry_delay=1000,
                       result_ttl=0, secret=("token",)),
    "anything": werk.Task(f"{__name__}.anything", secret=("hidden",)),
    "dated": f"{__name__}.dated",
}  # fmt: skip


def typed(
    count: int,
    share: float = 0.5,
    /,
    names: list[str] = [],  # noqa: B006
    *,
    size: Literal["s", 1, True] = "s",
    note: str | None = None,
    facts: dict = {},  # type: ignore[type-arg]  # noqa: B006
    loud: bool = False,
    token: str = "",
) -> None:
    """Only ever read."""


def anything(*args: object, **kwargs: object) -> None:
    """Only ever read."""


def dated(day: datetime.date) -> None:
    """Only ever read."""


@pytest.fixture
def told(connection: redis.Redis, monkeypatch: pytest.MonkeyPatch) -> redis.Redis:
    """A server that a worker with these tasks has told of them."""
    monkeypatch.setattr(registry, "TASKS", TASKS)
    registry.tasks.cache_clear()
    pages = catalog.pages()
    connection.hset("rq:werk:catalog", mapping=dict(zip(pages[::2], pages[1::2], strict=True)))
    return connection


def send(told: redis.Redis, task: str, arguments: object, job_id: str = "") -> tuple[str, Any]:
    """Return the id and what the EVAL answers."""
    text = arguments if isinstance(arguments, str | bytes) else json.dumps(arguments)
    job_id = job_id or str(uuid4())
    return job_id, told.eval(SCRIPT, 0, "rq", job_id, task, text)


def call(told: redis.Redis, task: str, arguments: object) -> tuple[Any, Any]:
    """Return args and kwargs as a worker reads them."""
    job_id, _ = send(told, task, arguments)
    data = told.hget(f"rq:job:{job_id}", "data")
    assert data[:2] == b"\x80\x02"
    path, args, kwargs = payload.read_call(data)
    assert path == registry.tasks()[task].path
    return args, kwargs


def plain_json() -> st.SearchStrategy[Any]:
    whole = st.integers(-(10**15) + 1, 10**15 - 1)
    text = st.text(st.characters(exclude_categories=["Cs"]), max_size=20)
    leaf = (
        st.none() | st.booleans() | whole | st.floats(allow_nan=False, allow_infinity=False) | text
    )
    return st.recursive(
        leaf, lambda inner: st.lists(inner, max_size=4) | st.dictionaries(text, inner, max_size=4)
    )


def exact(value: object) -> str:
    """Tell 1, 1.0 and True apart."""
    return repr(value)


@settings(suppress_health_check=list(HealthCheck), deadline=None)
@given(st.lists(plain_json(), max_size=4), st.booleans(), st.sampled_from([None, 1]))
def test_what_json_says_arrives(
    told: redis.Redis, values: list[object], ascii: bool, indent: int | None
) -> None:
    text = json.dumps(values, ensure_ascii=ascii, indent=indent)
    args, kwargs = call(told, "anything", text)
    assert exact(args) == exact(tuple(values))
    named = {f"n{at}": value for at, value in enumerate(values)}
    args, kwargs = call(told, "anything", json.dumps(named, ensure_ascii=ascii, indent=indent))
    assert (args, exact(kwargs)) == ((), exact(named))


def test_types_are_the_tasks(told: redis.Redis) -> None:
    assert exact(call(told, "typed", [1, 2])) == "((1, 2.0), {})"
    assert exact(call(told, "typed", [-(2**31) - 1, 1e300, ["a", "ä"]])) == (
        "((-2147483649, 1e+300, ['a', 'ä']), {})"
    )
    assert call(told, "anything", {"size": 1.5, "x": []}) == ((), {"size": 1.5, "x": []})
    assert exact(call(told, "sleep", {"seconds": 1})) == "((), {'seconds': 1.0})"


@pytest.mark.parametrize(
    ("task", "arguments", "said"),
    [
        ("slep", "[1]", "unknown task slep: no worker has published it"),
        ("typed", "[]", "typed is missing count"),
        ("typed", "[1.0]", "typed: count is not a whole number"),
        ("typed", '["1"]', "typed: count is not a whole number"),
        ("typed", "[true]", "typed: count is not a whole number"),
        ("typed", "[null]", "typed: count is not a whole number"),
        ("typed", "[1, false]", "typed: share is not a number"),
        ("typed", "[1, 1, [1]]", "typed: names is not text"),
        ("typed", "[1, 1, {}]", "typed: names is not an array"),
        ("typed", "[1, 1, [], 1]", "typed takes 3 arguments, not more"),
        ("typed", '{"count": 1}', "typed takes no count"),  # it is positional only
        ("typed", "[12345678901234567]", "typed: count has too many digits for JSON; send text"),
        ("anything", "[1e999]", "anything: args is too large for a float"),
        ("hello", '{"name": "a", "name": "b"}', "hello has a key twice"),
        ("hello", '{"nome": "a"}', "hello takes no nome"),
        ("hello", "1", "hello takes a JSON array of arguments, or an object of named ones"),
        ("hello", "[1", "hello takes a JSON array of arguments, or an object of named ones"),
        ("hello", "", "hello takes a JSON array of arguments, or an object of named ones"),
        ("anything", "[nan]", "anything: args is not JSON"),
        ("anything", "[nan, 1]", "anything: args is not JSON"),
        ("anything", "[0x10]", "is not JSON"),
        ("anything", "[-Infinity]", "is not JSON"),
        ("anything", "[" * 100 + "]" * 100, "anything: args is nested too deeply; flatten it"),
        ("anything", "[" * 5000 + "]" * 5000, "takes a JSON array"),
        ("anything", b'["\xff"]', "anything: args is not valid UTF-8"),
        ("anything", b'["\xed\xa0\x80"]', "anything: args is not valid UTF-8"),
        ("anything", b'["\xc0\x80"]', "anything: args is not valid UTF-8"),
        ("anything", b'["\xc3", "\xa9"]', "anything: args is not valid UTF-8"),
        ("anything", b'{"\xff": 1}', "anything is not valid UTF-8"),
        ("anything", '["' + "x" * 1048576 + '"]', "takes no more than 1048576 bytes"),
        ("dated", '["2026-11-24"]', "dated: day is a date, which JSON cannot say"),
    ],
)
def test_what_does_not_fit_is_refused(
    told: redis.Redis, task: str, arguments: str | bytes, said: str
) -> None:
    before = told.dbsize()
    with pytest.raises(redis.ResponseError) as refusal:
        send(told, task, arguments)
    assert str(refusal.value).startswith("WERK ")
    assert said in str(refusal.value)
    assert told.dbsize() == before


def test_choices_and_options_of_a_task(told: redis.Redis) -> None:
    told.hset("rq:werk:catalog", "typed", told.hget("rq:werk:catalog", "typed").replace(
        b'"kind": "positional"', b'"kind": "keyword"').replace(
        b'"positional_only": true', b'"positional_only": false'))  # fmt: skip
    for given_, wanted in [("s", "s"), ("1", 1), (1, 1), (True, True), ("true", True)]:
        kwargs = call(told, "typed", {"count": 1, "size": given_})[1]
        assert exact(kwargs["size"]) == exact(wanted)
    for given_, wanted in [(None, None), ("x", "x")]:
        assert call(told, "typed", {"count": 1, "note": given_})[1]["note"] == wanted
    with pytest.raises(redis.ResponseError, match="size is not one of its values"):
        send(told, "typed", {"count": 1, "size": "xl"})
    with pytest.raises(redis.ResponseError, match="note is not text"):
        send(told, "typed", {"count": 1, "note": 1})


def test_the_record_is_the_one_that_werk_writes(told: redis.Redis) -> None:
    job_id, reply = send(told, "typed", [1, 2])
    assert reply == [1, b"unheard"]
    own = werk.enqueue("typed", 1, 2.0)
    theirs, ours = (told.hgetall(f"rq:job:{one}") for one in (job_id, own.id))
    assert set(theirs) == set(ours)
    differing = {name for name in ours if ours[name] != theirs[name]}
    assert differing <= {
        b"created_at",
        b"enqueued_at",
        b"werk_enqueued",
        b"data",
        b"retry_intervals",
        b"description",
    }
    assert re.fullmatch(rb"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d\.\d{6}Z", theirs[b"created_at"])
    now = datetime.datetime.now(datetime.timezone.utc)
    written = datetime.datetime.fromisoformat(theirs[b"created_at"].decode())
    assert abs((now - written).total_seconds()) < 60
    first, second, third = json.loads(theirs[b"retry_intervals"])
    assert (900 <= first <= 1100, 1800 <= second <= 2200, 3240 <= third <= 3960) == (True,) * 3
    assert told.lrange("rq:queue:low", 0, -1) == [job_id.encode(), own.id.encode()]
    assert told.smembers("rq:queues") == {b"rq:queue:low"}
    assert Job.fetch(job_id, connection=told).args == (1, 2.0)  # as RQ reads it


def test_secrets_are_masked_and_long_calls_are_cut(told: redis.Redis) -> None:
    def description(task: str, arguments: object) -> str:
        job_id, _ = send(told, task, arguments)
        return told.hget(f"rq:job:{job_id}", "description").decode()

    assert description("anything", '[1, "a b"]') == "anything(***, ***)"  # one may be `hidden`
    assert description("anything", {"hidden": 1, "x": 2}) == "anything(hidden=***, x=2)"
    assert description("hello", b'["\xc3\xa4"]') == 'hello("ä")'
    for shift in range(4):
        long = description("hello", json.dumps(["x" * shift + "€" * 200], ensure_ascii=False))
        assert 195 <= len(long.encode()) <= 200


def test_sent_again_it_is_enqueued_once(told: redis.Redis) -> None:
    for task in ("sleep", "typed"):
        job_id, _ = send(told, task, [1])
        assert send(told, task, [1], job_id)[1][0] == 1
    Job.fetch(job_id, connection=told).delete()
    send(told, "typed", [1], job_id)  # its result was not to be kept: it has come and gone
    assert not told.exists(f"rq:job:{job_id}")
    assert told.llen("rq:queue:default") == 1
    for wrong in ("a b", "", "a:b", "../x"):
        with pytest.raises(redis.ResponseError, match="WERK job id"):
            told.eval(SCRIPT, 0, "rq", wrong, "sleep", "[1]")
    with pytest.raises(redis.ResponseError, match="WERK takes 4 words"):
        told.eval(SCRIPT, 0, "rq", "a", "sleep")


@pytest.mark.parametrize("year", [1970, 1999, 2000, 2024, 2026, 2100])
def test_dates(told: redis.Redis, year: int) -> None:
    """Of the script's own calendar, each day of a year."""
    body = SCRIPT[SCRIPT.index("local function timestamp") : SCRIPT.index("local function cut")]
    start = datetime.datetime(year, 1, 1, 23, 59, 58, tzinfo=datetime.timezone.utc)
    days = [start + datetime.timedelta(days=n) for n in range(366)]
    body += "local out = {} for i, s in ipairs(ARGV) do out[i] = timestamp({s, '7'}) end return out"
    found = told.eval(body, 0, *(int(day.timestamp()) for day in days))
    assert [text.decode() for text in found] == [f"{day:%Y-%m-%dT%H:%M:%S}.000007Z" for day in days]


# --- from elsewhere, run by either kind of worker


def examples(language: str) -> list[str]:
    return re.findall(rf"```{language}\n(.*?)```", PAGE, re.DOTALL)


def by_raw_socket(script: str, words: list[str], address: tuple[str, int]) -> Any:
    """Do what a program without a client library would."""
    reader = hiredis.Reader()
    with socket.create_connection(address, 5) as sock:
        parts = [word.encode() for word in ("EVAL", script, "0", *words)]
        sock.sendall(
            b"*%d\r\n" % len(parts) + b"".join(b"$%d\r\n%s\r\n" % (len(p), p) for p in parts)
        )
        while (reply := reader.gets()) is False:
            reader.feed(sock.recv(65536))
    return reply


@pytest.mark.parametrize("kind", ["rq", "werk"])
@pytest.mark.parametrize("language", ["console", "js", "raw"])
def test_from_other_languages(
    language: str, kind: str, spawn: Spawn, connection: redis.Redis, redis_url: str, tmp_path: Path
) -> None:
    announcer = spawn("werk", "worker", "default")  # the catalog needs one worker of ours
    wait_until(lambda: connection.hget("rq:werk:catalog", "hello"))
    if kind == "rq":
        announcer.terminate()
        announcer.wait()
        spawn("rq", "worker", "default")
    kwargs = connection.connection_pool.connection_kwargs
    host, port = str(kwargs["host"]), int(kwargs["port"])
    if language == "raw":
        job_id = str(uuid4())
        reply = by_raw_socket(SCRIPT, ["rq", job_id, "hello", '["Ada"]'], (host, port))
        assert reply[0] == 1
    elif language == "js":
        if not shutil.which("node"):
            pytest.skip("there is no node here")
        [program] = examples("js")
        (tmp_path / "enqueue.mjs").write_text(program)
        (tmp_path / "enqueue-json.lua").write_text(SCRIPT)
        done = subprocess.run(
            ["node", "enqueue.mjs", "hello", '["Ada"]'], cwd=tmp_path, capture_output=True,
            text=True, env={"REDIS_HOST": host, "REDIS_PORT": str(port), "PATH": "/usr/bin:/bin"},
            timeout=60, check=False,
        )  # fmt: skip
        assert (done.returncode, done.stderr) == (0, "")
        job_id = done.stdout.split()[0]
    else:
        if not shutil.which("redis-cli"):
            pytest.skip("there is no redis-cli here; the raw socket says the same")
        line = next(text for text in examples("console") if "redis-cli" in text)
        typed_ = "\n".join(line.removeprefix("$ ").splitlines()[:3])
        path = f"{Path(sys.executable).parent}:/usr/bin:/bin"
        (tmp_path / "enqueue-json.lua").write_text(SCRIPT)
        job_id = str(uuid4())
        told = typed_.replace('"$(uuidgen)"', job_id).replace(
            "redis-cli", f"redis-cli -u {redis_url}"
        )
        done = subprocess.run(
            ["/bin/bash", "-c", told], cwd=tmp_path, capture_output=True, text=True,
            env={"PATH": path}, timeout=60, check=False,
        )  # fmt: skip
        assert done.stdout.startswith("1\n"), done
    assert werk.result(job_id, timeout=60) == "Hello Ada"


def test_the_page_says_where_the_script_is(tmp_path: Path) -> None:
    line = next(text for text in examples("console") if "werk.client.foreign" in text).removeprefix(
        "$ "
    )
    root = ROOT
    path = f"{Path(sys.executable).parent}:/usr/bin:/bin"
    target = tmp_path / "enqueue-json.lua"
    told = line.replace("enqueue-json.lua", str(target))
    subprocess.run(["/bin/bash", "-c", told], cwd=root, env={"PATH": path}, check=True)
    assert target.read_text() == SCRIPT
