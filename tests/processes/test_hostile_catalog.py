"""The catalog is written by others: a bad page is no task, and the caller's own table wins."""

from __future__ import annotations

import json
import random
from pathlib import Path
from typing import Any

import pytest
import redis
from support import is_safe, run, samples
from test_catalog import CODE, TABLE, install, only_job
from test_catalog import light as light

import werk
from werk import registry
from werk.client import enqueue as client
from werk.ops import checks, metrics, task_list
from werk.ops.snapshot import Snapshot
from werk.store.connection import Link
from werk.store.payload import read_call
from werk.tasks import catalog, catalog_page, signature

EXAMPLES = 2000
GOOD = "werk.jobs.sleep"
VALUES: list[Any] = [
    None, True, False, 0, 1, -1, 10**30, 1e400, -1e400, 0.5, float("nan"), "", "x", "\x1b[2J",
    "a\nb", "\ud800", "positional", "var_positional", "choice", "optional", "json", "list",
    "x" * 5000, [], [[]], [None], ["str", None, []], ["choice", None, []], ["optional", None, []],
    {}, {"a": 1},
    ["choice", None, [["a", {"bytes": "\u1234"}]]], ["list", ["optional", None, []], []],
    {"bytes": "x"}, [["a", "b"]], ["x", "y"], {"__class__": "x"},
]  # fmt: skip
DAMAGED = {
    "text": b'"text"',
    "half": b'{"path": "werk.jobs.sleep"',
    "bytes": b"\xff\xfe\x00",
    "deep": b"[" * 100_000,
    "kind": {"parameters": [{"name": "x", "kind": "bogus", "type": ["str", None, []]}]},
    "choices": {
        "parameters": [{"name": "x", "kind": "keyword", "type": ["choice", None, [[1, 2]]]}]
    },
    "huge": {"summary": "x" * 2_000_000},
}


def page(**facts: Any) -> bytes:
    return json.dumps({**json.loads(catalog._page(werk.Task(GOOD))), **facts}).encode()


def damage(connection: redis.Redis) -> list[str]:
    """Write damaged pages of every kind, and a good one. Returns the names of the damaged."""
    for name, what in DAMAGED.items():
        connection.hset("rq:werk:catalog", name, what if isinstance(what, bytes) else page(**what))
    connection.hset("rq:werk:catalog", "good", page())
    connection.zadd("rq:werk:serves:default", {"good 1234": 1e11})
    connection.sadd("rq:queues", "rq:queue:default")
    return sorted(DAMAGED)


# --- damaged pages


def test_every_command_works_and_those_that_show_the_catalog_count(
    connection: redis.Redis, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("WERK_REGISTRY", "werk.registry")  # named, so that its tasks count
    damaged = damage(connection)
    said = f"{len(damaged)} damaged entries in the catalog"
    listed = run("werk", "tasks")
    assert (listed.returncode, "good SECONDS" in listed.stdout) == (0, True)
    assert said in listed.stderr and "bytes" in listed.stderr
    assert set(json.loads(run("werk", "tasks", "--json").stdout)) == {*registry.TASKS, "good"}
    for words in (["werk-enqueue", "--help"], ["werk", "enqueue", "--help"]):
        shown = run(*words)
        assert (shown.returncode, shown.stderr) == (0, "")
        assert "  good " in shown.stdout and said in " ".join(shown.stdout.split())
    looked = run("werk", "status")
    assert (looked.returncode, said in looked.stdout) == (0, True)
    assert "or run redis-cli HDEL rq:werk:catalog bytes " in " ".join(looked.stdout.split())
    assert any(
        said in own["what"]
        for own in json.loads(run("werk", "status", "--json").stdout)["problems"]
    )
    assert run("werk", "status", "--check").returncode == 1
    assert run("werk", "tasks", "--check").returncode == 0
    assert run("werk-enqueue", "--quiet", "good", "1").returncode == 0
    assert run("werk-enqueue", "--quiet", "sleep", "1").returncode == 0
    (tmp_path / "crontab").write_text("* * * * * sleep 1\n* * * * * good 1\n")
    assert run("werk", "cron", tmp_path / "crontab", "--check").returncode == 0
    for words in (["werk-enqueue", "kind", "1"], ["werk-enqueue", "kind", "--help"]):
        refused = run(*words)
        assert (refused.returncode, refused.stdout, refused.stderr.count("\n")) == (2, "", 1)
        assert "'kind'" in refused.stderr and "damaged" in refused.stderr


def test_a_catalog_of_another_type(connection: redis.Redis) -> None:
    connection.set("rq:werk:catalog", "x")
    connection.set("rq:werk:serves:default", "x")
    connection.sadd("rq:queues", "rq:queue:default")
    for words in (["werk", "tasks"], ["werk-enqueue", "--help"], ["werk", "status"]):
        done = run(*words)
        assert done.returncode == 0, words
        assert "rq:werk:catalog" in done.stdout + done.stderr, words
    assert run("werk-enqueue", "nowhere").returncode == 2


def test_very_many_pages_are_bounded(connection: redis.Redis, light: Link) -> None:
    large = page(summary="x" * 250_000)
    connection.hset("rq:werk:catalog", mapping={f"large{n}": large for n in range(200)})
    connection.hset("rq:werk:catalog", mapping={f"n{n}": b"" for n in range(20_000)})
    found = Snapshot.read(light)
    assert any("damaged entries" in own.what for own in checks.problems(found))
    assert run("werk", "tasks").returncode == 0


def broken(dice: random.Random, node: Any) -> Any:
    """Return JSON with one of its parts replaced, removed or doubled."""
    if not isinstance(node, (dict, list)) or not node or dice.random() < 0.2:
        return dice.choice(VALUES)
    at = dice.choice([*node]) if isinstance(node, dict) else dice.randrange(len(node))
    copy: Any = node.copy()
    match dice.randrange(4):
        case 0:
            del copy[at]
        case 1 if isinstance(copy, list):
            copy.append(copy[at])
        case _:
            copy[at] = broken(dice, copy[at])
    return copy


def test_any_value_in_any_part_of_a_page(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """Each is either no task, or one that all callers can print and call."""
    host = install(tmp_path / "shop")
    monkeypatch.syspath_prepend(host["PYTHONPATH"])
    whole = json.loads(catalog._page(werk.Task("shop_code.report", secret=("token",))))
    read = 0
    for seed in range(EXAMPLES):
        dice = random.Random(seed)
        facts = broken(dice, broken(dice, whole) if dice.random() < 0.3 else whole)
        text = json.dumps(facts).encode()
        if dice.random() < 0.1:
            at = dice.randrange(len(text))
            text = text[:at] + dice.randbytes(3) + text[at + 3 :]
        entry = catalog_page.read("report", text)
        if entry:
            read += 1
            check_use(entry)
    assert 50 < read < EXAMPLES - 50


def check_use(entry: catalog_page.Entry) -> None:
    """Do with a task all that is done with one."""
    row = task_list.Row(entry, False, None, {"default": ["x"]})
    assert json.loads(json.dumps(row.as_json(), allow_nan=False))
    assert all(map(is_safe, row.lines()))
    for words in ([], ["2026-11-24", "2"], ["x", "1", "[1]", "--token", "x", "--paper", "a4"]):
        try:
            args, kwargs = entry.shape.parse(words, task=entry.name, secret=entry.task.secret)
            said = client.prepare(entry, args, kwargs).call
        except werk.ArgumentError as error:
            said = str(error)
        assert is_safe(said)


# --- the table of the caller


@pytest.fixture
def caller(tmp_path: Path) -> dict[str, str]:
    """A host that has the table and not the code."""
    return install(tmp_path / "caller", code=None)


def forge(connection: redis.Redis, **facts: Any) -> None:
    own = {"path": "os.system", "queue": "evil", "secret": [], "timeout": -1, "result_ttl": -1}
    parameters = [
        {"name": name, "kind": "positional", "type": ["str", None, []], "required": True}
        for name in ("day", "token")
    ]
    own |= {"failure_ttl": -1, "retry": 10, "retry_delay": 0, "parameters": parameters, **facts}
    connection.hset("rq:werk:catalog", "report", page(**own))


def test_the_table_here_wins_over_the_catalog(
    connection: redis.Redis, caller: dict[str, str]
) -> None:
    forge(connection)
    done = run("werk-enqueue", "report", "today", "hush", env=caller)
    assert done.returncode == 0
    warnings = [line for line in done.stderr.splitlines() if "os.system" in line]
    assert len(warnings) == 1 and "shop_code.report" in warnings[0]
    job = only_job(connection)
    assert job["origin"] == "low"
    assert (job["timeout"], job["retries_left"], job["result_ttl"]) == ("600", "5", "3600")
    assert job["description"] == "report('today', token=***)".replace("token=", "")
    data = read_call(connection.hget(connection.keys("rq:job:*")[0], "data"))
    assert data == ("shop_code.report", ("today", "hush"), {})
    refused = run("werk-enqueue", "report", "today", env=caller)  # by the catalog's parameters
    assert refused.returncode == 2 and "missing argument token" in refused.stderr
    assert "report DAY TOKEN" in run("werk-enqueue", "report", "--help", env=caller).stdout
    assert "the catalog has the path os.system" in run("werk", "tasks", env=caller).stdout


def test_a_secret_that_the_catalog_does_not_name_stays_one(
    connection: redis.Redis, caller: dict[str, str]
) -> None:
    parameter = {"name": "day", "kind": "positional", "type": ["json", None, []]}
    forge(connection, path="shop_code.report", parameters=[parameter])
    done = run("werk-enqueue", "report", '"hush"', env=caller)
    assert "os.system" not in done.stderr and "another path" not in done.stderr
    assert only_job(connection)["description"] == "report(***)"


def test_where_the_code_is_there_nobody_asks(connection: redis.Redis, tmp_path: Path) -> None:
    forge(connection)
    host = install(tmp_path / "host", CODE, TABLE)
    done = run("werk-enqueue", "--quiet", "report", "2026-11-24", "--token", "hush", env=host)
    assert (done.returncode, done.stderr) == (0, "")
    job = only_job(connection)
    assert (job["origin"], "token=***" in job["description"]) == ("low", True)


def test_a_python_caller_is_warned_once_each(
    connection: redis.Redis, caller: dict[str, str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("WERK_REGISTRY", "shop_tables:TASKS")
    monkeypatch.syspath_prepend(caller["PYTHONPATH"])
    catalog.own_entry.cache_clear()
    signature.read.cache_clear()
    forge(connection)
    with pytest.warns(werk.WerkWarning, match=r"os\.system") as said:
        werk.enqueue_many("report", [("today", "hush"), ("today", "hush")])
    assert sum("os.system" in str(own.message) for own in said) == 1


def test_metrics_count_damaged_pages(connection: redis.Redis, light: Link) -> None:
    damaged = damage(connection)
    found = samples(metrics.exposition(light))
    assert found['werk_damaged{kind="page"}'] == len(damaged)
