"""What callers learn from workers: tasks they have not, and whether anybody runs what they send."""

from __future__ import annotations

import json
import os
import sys
import time
from collections.abc import Callable
from datetime import date
from itertools import count
from pathlib import Path
from subprocess import CompletedProcess
from typing import Any

import pytest
import redis
import roles
from added import ADDED, SHIPPED, shipped_only
from click.testing import CliRunner
from rq.worker import SimpleWorker
from support import PYTHONPATH, Process, run, wait_until

import werk
from werk.cli.enqueue import enqueue as enqueue_command
from werk.client import enqueue as client
from werk.client import links
from werk.store.connection import Link, link
from werk.tasks import catalog
from werk.tasks.catalog_page import read_pages
from werk.tasks.types import JSON

Spawn = Callable[..., Process]

NOWHERE = "unix:///nowhere/redis.sock"

TABLE = """
from werk import Task

TASKS = {
    "report": Task(
        "shop_code.report", queue="low", timeout=600, retry=5, retry_delay=7, secret=("token",)
    ),
}
"""
CODE = '''
from datetime import date
from enum import Enum
from typing import Literal


class Paper(Enum):
    a4 = b"\\xff4"
    a3 = 3
    half = 0.5


def report(
    day: date,
    copies: int = 1,
    *parts: list[float | None],
    paper: Paper = Paper.a4,
    size: Literal["s", 1, True] = "s",
    token: str = "",
    **more: dict,
) -> str:
    """Write a report."""
    return f"{day:%A}, {copies}"
'''
OLDER = """
from datetime import date


def report(day: date, copies: int = 1) -> str:
    return f"{day:%A}, {copies}"
"""
NEWER = OLDER.replace("copies: int = 1", "copies: int, colour: bool = False")


def install(folder: Path, code: str | None = CODE, table: str = TABLE) -> dict[str, str]:
    """Return the environment of a host that has this table, and this code if any."""
    folder.mkdir()
    (folder / "shop_tables.py").write_text(table)
    if code:
        (folder / "shop_code.py").write_text(code)
    return {"PYTHONPATH": str(folder), "WERK_REGISTRY": "werk.registry,shop_tables"}


@pytest.fixture
def shop(tmp_path: Path) -> dict[str, str]:
    return install(tmp_path / "shop")


@pytest.fixture
def old(tmp_path: Path) -> dict[str, str]:
    return install(tmp_path / "old", OLDER)


@pytest.fixture
def new(tmp_path: Path) -> dict[str, str]:
    more = TABLE.replace("}\n", '    "refund": "shop_code.report",\n}\n')
    return install(tmp_path / "new", NEWER, more)


@pytest.fixture
def light(redis_url: str) -> Link:
    return link(roles.settings("reader"))


@pytest.fixture
def serve(spawn: Spawn, connection: redis.Redis) -> Callable[..., Process]:
    """Start a worker of a host on a queue, and wait until it serves."""

    def start(host: dict[str, str], queue: str = "low") -> Process:
        worker = spawn("werk", "worker", queue, env=host)
        key = f"rq:werk:serves:{queue}"
        before = set(connection.zrange(key, 0, -1))
        wait_until(lambda: set(connection.zrange(key, 0, -1)) != before)
        return worker

    return start


def without_table(*words: str) -> CompletedProcess[str]:
    """Run werk-enqueue in a process whose registry is empty."""
    lines = (
        "from werk import registry; from werk.cli.enqueue import enqueue_main;"
        " registry.TASKS.clear(); enqueue_main()"
    )
    return run(sys.executable, "-c", lines, *words)


def only_job(connection: redis.Redis) -> dict[str, str]:
    [key] = connection.keys("rq:job:*")
    facts = connection.hgetall(key)
    return {name.decode(): value.decode("utf-8", "replace") for name, value in facts.items()}


# --- a host that has only Redis's address


def test_a_caller_without_a_table(
    serve: Callable[..., Process], connection: redis.Redis, shop: dict[str, str]
) -> None:
    serve(shop)
    for words in (["report", "--help"], ["--help"]):
        wait_until(lambda words=words: "Write a report." in without_table(*words).stdout)
    assert (
        "DAY [COPIES] [PARTS...] [--paper a4|a3|half]" in without_table("report", "--help").stdout
    )
    wrong = without_table("report", "someday")
    assert (wrong.returncode, wrong.stdout) == (2, "")
    assert (
        wrong.stderr == "werk-enqueue: report: day: 'someday' is not a date, such as 2026-01-31\n"
    )
    near = without_table("reprot", "2026-11-24")
    assert near.returncode == 2
    assert "did you mean 'report'?" in near.stderr
    assert not connection.keys("rq:job:*")

    words = ["report", "2026-11-24", "2", "[1, null]", "--token", "hush", "--paper", "a4"]
    done = without_table("--wait", "--delay", "0.01", *words)
    assert (done.returncode, done.stdout, done.stderr) == (0, "Tuesday, 2\n", "")
    job = only_job(connection)
    assert job["description"].startswith("report(datetime.date(2026, 11, 24), 2, [1.0, None], ")
    assert "token=***, paper=b'\\xff4')" in job["description"]
    assert "hush" not in job["description"]
    assert (job["origin"], job["timeout"], job["retries_left"]) == ("low", "600", "5")
    first, second, *others = json.loads(job["retry_intervals"])
    assert 6 <= first <= 8
    assert 12 <= second <= 16
    assert len(others) == 3


def test_a_python_caller_without_a_table(
    serve: Callable[..., Process], connection: redis.Redis, shop: dict[str, str]
) -> None:
    serve(shop)
    with pytest.raises(werk.ArgumentError, match="report: copies: True is not a whole number"):
        werk.enqueue("report", date(2026, 11, 24), True)
    calls = [(date(2026, 11, 24),), {"day": date(2026, 11, 25), "copies": 2}]
    handles = werk.enqueue_many("report", calls)
    assert [handle.queue for handle in handles] == ["low", "low"]
    assert not handles[0].warnings
    assert handles[1].result(timeout=60) == "Wednesday, 2"
    with pytest.raises(werk.UnknownTask, match="did you mean 'report'"):
        werk.enqueue("reports")


def test_the_table_that_werk_brings_gives_way_to_what_live_workers_serve(
    serve: Callable[..., Process], connection: redis.Redis, tmp_path: Path
) -> None:
    """A caller of an application forgets WERK_REGISTRY: no demo task waits for ten minutes."""
    folder = tmp_path / "app"
    table = 'TASKS = {"total": "app_code.total", "sleep": "app_code.sleep"}\n'
    app = install(folder, None, table) | {"WERK_REGISTRY": "shop_tables"}
    code = "def total(prices: list[float]) -> float: ...\n\n\ndef sleep(minutes: int) -> int:\n"
    (folder / "app_code.py").write_text(code + "    return minutes\n")
    connection.hset("rq:werk:catalog", "hello", _page_of("hello"))  # of an earlier worker
    worker = serve(app, "default")
    for command in ("hello", "xyzzy"):
        done = run("werk-enqueue", command, "Ada")
        said = f"werk-enqueue: unknown task '{command}'; known: sleep, total\n"
        assert (done.returncode, done.stderr) == (2, said)
    wait_until(lambda: "  sleep\n  total\n" in run("werk-enqueue", "--help").stdout)
    assert "hello" not in run("werk", "tasks").stdout
    stubs = run("werk", "tasks", "--stubs").stdout
    assert ("def total(" in stubs, "def hello(" in stubs) == (True, False)
    assert werk.enqueue("sleep", 7).result(timeout=60) == 7  # the application's own
    with pytest.raises(werk.UnknownTask, match="known: sleep, total"):
        werk.enqueue("panic")
    worker.terminate()
    assert worker.wait(60) == 0
    dry = run("werk-enqueue", "--dry-run", "hello", "Ada")
    assert dry.stdout == "hello('Ada') would go to queue default\n"


def _page_of(name: str) -> str:
    entry = catalog.own_entry(name)
    return catalog.page_of(entry.task, entry.shape)


def test_the_table_that_werk_brings_counts_where_redis_does_not_answer() -> None:
    begin = time.monotonic()
    dry = run("werk-enqueue", "--dry-run", "hello", "Ada", env={"RQ_REDIS_URL": NOWHERE})
    assert (dry.stdout, dry.stderr) == ("hello('Ada') would go to queue default\n", "")
    assert time.monotonic() - begin < 10


@shipped_only
def test_workers_without_a_table_are_named_as_the_cause(
    serve: Callable[..., Process], connection: redis.Redis, tmp_path: Path
) -> None:
    """The first mistake of a newcomer: the worker was started without WERK_REGISTRY."""
    worker = serve({}, "default")
    why = "; the workers serve only werk's demo tasks; start them with WERK_REGISTRY\n"
    for name in ("total", "invoice"):
        done = run("werk-enqueue", name, "[1]")
        known = f"werk-enqueue: unknown task '{name}'; known: hello, panic, sleep"
        assert (done.returncode, done.stderr) == (2, known + why)
    table = 'TASKS = {"invoice": "shop_code.report", "refund": "shop_code.report"}'
    app = install(tmp_path / "app", table=table) | {"WERK_REGISTRY": "shop_tables"}
    unserved = "no worker on queue default knows invoice"
    refused = run("werk-enqueue", "--require-worker", "invoice", "2026-01-01", env=app)
    assert unserved + why.replace("\n", "; nothing was enqueued\n") in refused.stderr
    done = run("werk-enqueue", "invoice", "2026-01-01", env=app)
    fails = "; the job fails if none does within 10 minutes"
    assert (done.returncode, done.stderr) == (0, unserved + fails + why)
    run("werk-enqueue", "--quiet", "refund", "2026-01-01", env=app)

    def status() -> str:
        return run("werk", "status", env={"COLUMNS": "500"}).stdout

    text = wait_until(lambda: "jobs of invoice, refund are deferred" in (s := status()) and s)
    assert ": the workers serve only werk's demo tasks; start them with WERK_REGISTRY, or " in text
    cancel = "or run werk cancel --state deferred --task invoice"
    assert f"{cancel} && werk cancel --state deferred --task refund; the first job" in text
    worker.terminate()
    assert worker.wait(60) == 0


@shipped_only
def test_typed_functions_are_the_same_from_code_and_from_the_catalog(
    serve: Callable[..., Process], shop: dict[str, str]
) -> None:
    serve(shop)
    from_code = run("werk", "tasks", "--stubs", env={**shop, "RQ_REDIS_URL": NOWHERE})
    assert (from_code.returncode, from_code.stderr) == (0, "")
    table = Path(shop["PYTHONPATH"]).parent / "table"
    for host in ({}, install(table, code=None)):
        found = run("werk", "tasks", "--stubs", env=host)
        assert (found.returncode, found.stdout, found.stderr) == (0, from_code.stdout, "")
    assert ') -> _werk.Handle[str]:\n    """Enqueue the task report.' in from_code.stdout


@shipped_only
def test_without_a_table_and_redis_no_functions_are_made() -> None:
    done = run("werk", "tasks", "--stubs", env={"RQ_REDIS_URL": NOWHERE})
    assert (done.returncode, done.stdout) == (75, "")


def test_a_caller_with_the_table_and_without_the_code(
    serve: Callable[..., Process], connection: redis.Redis, shop: dict[str, str], tmp_path: Path
) -> None:
    host = install(tmp_path / "caller", code=None)
    alone = run("werk-enqueue", "--quiet", "report", "1", env=host)  # as JSON: nobody knows better
    assert alone.returncode == 0
    assert alone.stderr == (
        "task report: its code was not found (no module shop_code on sys.path),"
        " so its arguments are not checked; see werk tasks --check\n"
    )
    serve(shop)
    refused = run("werk-enqueue", "report", "1", env=host)
    assert refused.returncode == 2
    assert "is not a date" in refused.stderr


@pytest.mark.parametrize(
    ("path", "why"),
    [
        ("shop_cod.report", "no module shop_cod on sys.path"),
        ("shop_code.reprot", "{folder}/shop_code.py has no function reprot"),
    ],
)
@pytest.mark.parametrize("has_worker", [False, True])
def test_a_caller_with_a_wrong_path_in_its_table(
    serve: Callable[..., Process],
    connection: redis.Redis,
    tmp_path: Path,
    path: str,
    why: str,
    has_worker: bool,
) -> None:
    host = install(tmp_path / "shop", table=TABLE.replace("shop_code.report", path))
    if has_worker:
        serve(host)  # it reads the same table, and publishes a task whose code it lacks
    done = run("werk-enqueue", "report", "someday", env=host)
    why = why.format(folder=host["PYTHONPATH"])
    assert (done.returncode, done.stdout) == (2, "")
    assert done.stderr == (
        f"werk-enqueue: report: its code was not found ({why}), so it takes JSON: the value is not"
        " JSON (text needs double quotes): Expecting value at character 1\n"
    )
    assert why in run("werk", "tasks", "--check", env=host).stdout
    assert not connection.keys("rq:job:*")


def test_a_caller_with_neither_table_nor_workers(redis_url: str) -> None:
    done = run("werk-enqueue", "total", "1")
    assert (done.returncode, done.stdout) == (2, "")
    assert done.stderr == (
        f"werk-enqueue: unknown task 'total'; known: {', '.join(sorted({*SHIPPED, *ADDED}))};"
        " no worker has published tasks: start one, or set WERK_REGISTRY to your table\n"
    )


def test_redis_is_away(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("RQ_REDIS_URL", "redis://127.0.0.1:1")
    assert "sleep" in run("werk-enqueue", "--help").stdout
    assert run("werk-enqueue", "--help").returncode == 0
    with pytest.raises(werk.RedisUnavailable):
        werk.enqueue("report")
    listed = run("werk", "tasks")
    assert listed.returncode == 0
    assert "sleep SECONDS  -> werk.jobs.sleep" in listed.stdout
    assert "served" not in listed.stdout
    assert "cannot read which workers serve the tasks: Redis at" in listed.stderr
    assert run("werk", "tasks", "--check").stderr == ""


def test_a_page_says_all_that_the_table_says(
    connection: redis.Redis, shop: dict[str, str], light: Link, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("WERK_REGISTRY", "shop_tables:TASKS")
    monkeypatch.syspath_prepend(shop["PYTHONPATH"])
    pages = catalog.pages()
    connection.hset("rq:werk:catalog", mapping=dict(zip(pages[::2], pages[1::2], strict=True)))
    found = read_pages(light).entries
    assert set(found) == {"report"}
    for name, entry in found.items():
        own = catalog.own_entry(name)
        assert entry._replace(shape=own.shape) == own
        assert entry.shape.parameters == own.shape.parameters
        assert entry.shape.summary == own.shape.summary


@pytest.mark.parametrize(
    "damage",
    [
        '"text"',
        "{}",
        "[" * 100_000,
        {"path": "no path"},
        {"timeout": "long"},
        {"secret": "token"},
        {"parameters": [{"name": "x"}]},
        {"parameters": 1},
        {"parameters": [{"name": "a\x1bb", "kind": "keyword", "type": ["str", None, []]}]},
    ],
)
def test_what_is_no_page_is_no_task(connection: redis.Redis, damage: object) -> None:
    page = json.loads(catalog._page(werk.Task("shop.report")))
    text = damage if isinstance(damage, str) else json.dumps({**page, **damage})  # type: ignore[dict-item]
    connection.hset("rq:werk:catalog", "report", text)
    with pytest.raises(werk.UnknownTask, match="report"):
        client.find("report")


def test_nothing_of_a_page_steers_a_terminal(connection: redis.Redis) -> None:
    page = json.loads(catalog._page(werk.Task("shop.report")))
    hostile = json.dumps({**page, "summary": "a\x1b[2Jb"})
    connection.hset("rq:werk:catalog", mapping={"report": hostile, "re\x1bport": hostile})
    shown = "a\\x1b[2Jb"
    text = wait_until(lambda: shown in (said := run("werk-enqueue", "--help").stdout) and said)
    assert "\x1b" not in text


def test_a_type_of_a_newer_werk_takes_json(connection: redis.Redis) -> None:
    page = json.loads(catalog._page(werk.Task("shop.report")))
    own = {"name": "x", "kind": "positional", "type": ["matrix", None, []]}
    connection.hset("rq:werk:catalog", "report", json.dumps({**page, "parameters": [own]}))
    [parameter] = client.find("report").shape.parameters
    assert parameter.type == JSON


# --- does anybody run it?


def test_nobody_listens(connection: redis.Redis) -> None:
    text = "no worker listens on queue low; start one: werk worker low"
    low = werk.Options(queue="low")
    with pytest.warns(werk.WerkWarning, match=text):
        assert werk.enqueue("sleep", 1, options=low).warnings == (text,)
    with pytest.warns(werk.WerkWarning, match=text) as said:
        handles = werk.enqueue_many("sleep", [(1,)] * 3, options=low)
    assert len(said) == 1
    assert [handle.warnings for handle in handles] == [(text,)] * 3
    again = werk.enqueue("sleep", 1, options=low._replace(job_id=handles[0].id))
    assert again.duplicate
    assert not again.warnings
    done = run("werk-enqueue", "--queue", "low", "sleep", "1")
    assert (done.returncode, done.stderr) == (0, f"{text}\n")
    assert run("werk-enqueue", "--queue", "low", "--quiet", "sleep", "1").stderr == ""


@pytest.mark.usefixtures("asks")
def test_a_plain_rq_worker_listens(connection: redis.Redis) -> None:
    worker = SimpleWorker(["low", "high"], connection=connection)
    worker.register_birth()
    low = werk.Options(queue="low")
    assert not werk.enqueue("sleep", 1, options=low).warnings
    assert werk.enqueue("sleep", 1).warnings
    connection.delete(worker.key)  # it was killed, and its record has expired
    assert werk.enqueue("sleep", 1, options=low).warnings


@pytest.fixture(autouse=True)
def _believes_nothing() -> None:
    for own in links._links.by_url.values():
        own.served_cache.clear()


@pytest.fixture
def asks(monkeypatch: pytest.MonkeyPatch) -> None:
    """A caller that looks each time."""
    monkeypatch.setattr(client, "CACHED_S", 0.0)


def serving(connection: redis.Redis, *members: str, ago_s: float = 0) -> None:
    connection.delete("rq:werk:serves:default")
    for member in members:
        connection.zadd("rq:werk:serves:default", {member: time.time() - ago_s})


@pytest.mark.usefixtures("asks")
def test_who_serves_what(connection: redis.Redis) -> None:
    own = f"sleep {catalog.own_entry('sleep').fingerprint}"
    serving(connection, own, "hello 123")
    assert not werk.enqueue("sleep", 1).warnings
    serving(connection, own, "sleep other")  # a deploy half done, but this version is served
    assert not werk.enqueue("sleep", 1).warnings
    serving(connection, "sleep other", "sleepy 123")
    with pytest.warns(werk.WerkWarning, match="default have another version of sleep"):
        werk.enqueue("sleep", 1)
    serving(connection, "sleepy 123")
    with pytest.warns(werk.WerkWarning, match="no worker on queue default knows sleep; .* 10 min"):
        werk.enqueue("sleep", 1)
    serving(connection, own, ago_s=8)
    assert not werk.enqueue("sleep", 1).warnings
    serving(connection, own, "hello 123", ago_s=16)
    assert werk.enqueue("sleep", 1).warnings[0].startswith(client.UNHEARD)


def test_a_caller_believes_for_a_moment_what_it_was_told(
    connection: redis.Redis, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(client, "CACHED_S", 60.0)
    own = f"sleep {catalog.own_entry('sleep').fingerprint}"
    assert werk.enqueue("sleep", 1).warnings
    serving(connection, own)
    assert werk.enqueue("sleep", 1).warnings  # a moment later
    assert not werk.enqueue("sleep", 1, options=werk.Options(require_worker=True)).warnings
    connection.delete("rq:werk:serves:default")
    assert not werk.enqueue("sleep", 1).warnings
    now = time.monotonic
    monkeypatch.setattr(time, "monotonic", lambda: now() + 60.0)
    assert werk.enqueue("sleep", 1).warnings


def test_quiet_says_what_cron_should_mail(connection: redis.Redis) -> None:
    serving(connection, "hello 123")
    done = run("werk-enqueue", "--quiet", "sleep", "1")
    assert (done.returncode, done.stdout) == (0, "")
    assert "no worker on queue default knows sleep" in done.stderr


@pytest.mark.usefixtures("asks")
@pytest.mark.parametrize("kind", ["string", "list"])
def test_keys_of_another_type_do_no_harm(connection: redis.Redis, kind: str) -> None:
    for key in ("rq:werk:serves:default", "rq:workers:default"):
        connection.set(key, "x") if kind == "string" else connection.rpush(key, "x")
    assert werk.enqueue("sleep", 1).warnings
    connection.delete("rq:workers:default")
    connection.sadd("rq:workers:default", "rq:werk:serves:default")
    assert werk.enqueue("sleep", 1).warnings


@pytest.mark.usefixtures("asks")
def test_only_with_a_worker(connection: redis.Redis) -> None:
    needs = werk.Options(require_worker=True, job_id="a", once_per=3600, unless_active=True)
    for members in ([], ["hello 123"], ["sleep other"]):
        serving(connection, *members)
        before = connection.dbsize()
        with pytest.raises(werk.NoWorker, match="nothing was enqueued"):
            werk.enqueue("sleep", 1, options=needs)
        assert connection.dbsize() == before
    done = run("werk-enqueue", "--require-worker", "sleep", "1")
    assert (done.returncode, done.stdout) == (75, "")
    assert len(done.stderr.splitlines()) == 1

    serving(connection, f"sleep {catalog.own_entry('sleep').fingerprint}")
    request = client.prepare(client.find("sleep"), (1,), {}, needs)
    assert not client.send([request])[0].duplicate
    serving(connection)
    assert not client.send([request])[0].duplicate  # sent again after a lost reply: it is there


@pytest.mark.usefixtures("asks")
@pytest.mark.parametrize("ends", ["the worker exits", "unreachable"])
def test_an_error_in_a_later_piece_says_what_was_enqueued(
    connection: redis.Redis, monkeypatch: pytest.MonkeyPatch, tmp_path: Path, ends: str
) -> None:
    """Calls are sent 250 at a time; what happens between two pieces is made to happen here."""
    send, pieces = client.send, count(1)

    def failing_at_second(*given: Any) -> list[werk.Handle]:
        if next(pieces) % 2 == 0:
            serving(connection)
            if ends == "unreachable":
                raise werk.RedisUnavailable("no answer")
        return send(*given)

    monkeypatch.setattr(client, "send", failing_at_second)
    serving(connection, f"sleep {catalog.own_entry('sleep').fingerprint}")
    calls, options = [(n,) for n in range(300)], werk.Options(require_worker=True)
    with pytest.raises((werk.NoWorker, werk.RedisUnavailable)) as error:
        werk.enqueue_many("sleep", calls, options=options)
    may = {"the worker exits": "the others were not", "unreachable": "some of the others may be"}
    assert str(error.value).endswith(f"; the first 250 of 300 calls were enqueued, {may[ends]}")
    assert "nothing was" not in str(error.value)
    ids = [own.decode() for own in connection.lrange("rq:queue:default", 0, -1)]
    assert [own.id for own in error.value.handles] == ids and len(ids) == 250

    file = tmp_path / "calls"
    file.write_text("".join(f"[{n}]\n" for n in range(300)))
    serving(connection, f"sleep {catalog.own_entry('sleep').fingerprint}")
    done = CliRunner().invoke(enqueue_command, ["--batch", str(file), "--require-worker", "sleep"])
    may = {"the worker exits": "the next are not enq", "unreachable": "some of the next 250 may"}
    assert f"lines up to 250 are done; {may[ends]}" in str(done.exception)
    assert "nothing was" not in str(done.exception)


def test_a_worker_that_exits_withdraws_its_tasks(
    serve: Callable[..., Process], connection: redis.Redis, shop: dict[str, str]
) -> None:
    """At once, so that callers are warned; but not what another worker may serve."""
    worker = serve(shop)
    worker.terminate()
    assert worker.wait(60) == 0
    assert connection.zrange("rq:werk:serves:low", 0, -1) == []
    done = run("werk-enqueue", "report", "2026-11-24", env=shop)
    assert done.stderr.startswith("no worker listens on queue low")


@pytest.mark.parametrize("lease_s", [-1, None, 15])
def test_a_worker_that_exits_leaves_what_others_may_serve(
    serve: Callable[..., Process],
    connection: redis.Redis,
    shop: dict[str, str],
    lease_s: float | None,
) -> None:
    host = {**shop, "PYTHONPATH": os.pathsep.join((shop["PYTHONPATH"], PYTHONPATH))}
    host["RQ_WORKER_CLASS"] = "fast_worker.Rare"  # no tick rescues the other before we exit
    worker, other = serve(host), "rq:worker:other"
    connection.hset(other, mapping={"birth": "x", "werk_lease": 15})
    connection.sadd("rq:workers:low", other)
    if lease_s:
        connection.zadd("rq:werk:leases", {"other": time.time() + lease_s})
    worker.terminate()
    assert worker.wait(60) == 0
    is_left = bool(connection.zrange("rq:werk:serves:low", 0, -1))
    assert is_left is (lease_s != -1)


# --- a deploy half done


def test_callers_ahead_of_workers(
    serve: Callable[..., Process],
    connection: redis.Redis,
    old: dict[str, str],
    new: dict[str, str],
) -> None:
    older = serve(old)
    done = run("werk-enqueue", "--queue", "low", "--job-id", "new", "refund", "2026-11-24", "1",
               env=new)  # fmt: skip
    assert "no worker on queue low knows refund" in done.stderr
    done = run("werk-enqueue", "--job-id", "changed", "report", "2026-11-24", "1", "yes", env=new)
    assert "low have another version of report; see werk tasks" in done.stderr
    for job in ("new", "changed"):  # neither runs nor fails: it waits
        wait_until(lambda job=job: connection.zscore("rq:scheduled:low", job))

    listed = run("werk", "tasks", env=new)
    assert listed.returncode == 0
    refund, report = (
        listed.stdout[listed.stdout.index(start) :] for start in ("refund DAY", "report DAY")
    )
    assert "no live worker serves it" in refund[: refund.index("report DAY")]
    assert "report DAY COPIES [COLOUR]" in report
    assert "another version on low: an unfinished deploy?" in report
    assert "there: report DAY [COPIES]" in report
    found = json.loads(run("werk", "tasks", "--json", env=new).stdout)
    assert found["refund"]["served"] == {}
    assert found["report"]["differing"] == ["low"]
    assert found["report"]["served"]["low"] != [found["report"]["fingerprint"]]

    serve(new)
    for job in ("new", "changed"):
        connection.zadd("rq:scheduled:low", {job: 0}, xx=True)
        # The old worker is as quick as the new one, and defers it again.
        wait_until(lambda job=job: is_done(connection, job))

    seen = json.loads(run("werk", "status", "--json", env=new).stdout)
    (name,) = [own["name"] for own in seen["workers"] if own["pid"] == older.pid]
    fixes = {own["what"]: own["fix"] for own in seen["problems"]}
    differ = "queue low: its workers have different versions of report"
    assert fixes[differ] == f"finish the deploy: restart the older worker {name}"


def is_done(connection: redis.Redis, job: str) -> bool:
    connection.zadd("rq:scheduled:low", {job: 0}, xx=True)
    return connection.hget(f"rq:job:{job}", "status") == b"finished"


def test_workers_ahead_of_callers(
    serve: Callable[..., Process],
    connection: redis.Redis,
    old: dict[str, str],
    new: dict[str, str],
) -> None:
    serve(new)
    done = run("werk-enqueue", "--job-id", "changed", "report", "2026-11-24", env=old)
    assert "low have another version of report" in done.stderr
    wait_until(lambda: connection.zscore("rq:scheduled:low", "changed"))
    connection.hset("rq:job:changed", "werk_unknown_since", time.time() - 601)
    connection.zadd("rq:scheduled:low", {"changed": 0})
    with pytest.raises(werk.JobFailed, match="of the task: report: missing argument copies"):
        werk.result("changed", timeout=60)
    assert run("werk", "retry", "--error", "Unknown*", "--yes").stdout == "1 retried\n"

    listed = run("werk", "tasks", env=old).stdout
    assert "refund DAY COPIES" in listed
    assert "not in the table here; read from the catalog" in listed
    done = run("werk-enqueue", "--wait", "--queue", "low", "refund", "2026-11-24", "3", env=old)
    assert (done.returncode, done.stdout, done.stderr) == (0, "Tuesday, 3\n", "")


DECORATED = '''
import functools


def for_tenant(function):
    @functools.wraps(function)
    def wrapper(copies: int = 1, *, colour: bool = False) -> str:
        return function("ours", copies)
    return wrapper


@for_tenant
def report(tenant: str, copies: int = 1) -> str:
    """Write a report."""
    return f"{tenant}, {copies}"
'''


def test_a_worker_publishes_what_a_decorator_makes_of_a_task(
    serve: Callable[..., Process], light: Link, tmp_path: Path
) -> None:
    def usage() -> str:
        return read_pages(light, "report").entries["report"].shape.usage()

    host = install(tmp_path / "host", DECORATED, TABLE.replace(', secret=("token",)', ""))
    worker, written, found = serve(host), "TENANT [COPIES]", "[COPIES] [--colour JSON]"
    assert usage() == written
    assert werk.enqueue("report", "any").result(60) == "ours, any"  # the worker imports it
    wait_until(lambda: usage() == found)
    with pytest.raises(werk.ArgumentError, match="copies: 'any' is not a whole number"):
        werk.enqueue("report", "any")
    assert werk.enqueue("report", 3, colour=True).result(60) == "ours, 3"
    listed = run("werk", "tasks", env=host).stdout  # by somebody who reads the source
    assert f"report {written}" in listed
    assert "another version on low" in listed
    assert f"there: report {found}" in listed
    reason = (
        rf"its source says \"{written}\", but it takes \"{found}\": a decorator, or a file that"
    )
    assert worker.output().count(f'event=other-signature task=report reason="{reason}') == 1
