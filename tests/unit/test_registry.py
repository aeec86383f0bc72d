"""The table of tasks: what it takes, and what it says of what it does not take."""

from __future__ import annotations

import json
import sys
import types
from pathlib import Path

import pytest

from werk import registry
from werk.errors import ConfigError
from werk.registry import Task
from werk.tasks import catalog, catalog_page


def test_a_path_is_a_task_with_the_defaults() -> None:
    assert registry.tasks()["sleep"] == Task("werk.jobs.sleep")


@pytest.mark.parametrize(
    ("name", "hint"),
    [("slep", "did you mean 'sleep'?"), ("xyzzy", "known: hello, panic, sleep"), ("", "known:")],
)
def test_an_unknown_name_brings_the_nearest(name: str, hint: str) -> None:
    said = registry.unknown(name)
    assert said.startswith("unknown task")
    assert hint in said


def test_an_unknown_name_brings_a_remedy_where_there_are_no_other_tasks(
    shop: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    remedy = "start one, or set WERK_REGISTRY to your table"
    assert registry.unknown("xyzzy").endswith(remedy)
    assert remedy not in registry.unknown("slep")
    assert remedy not in registry.unknown("xyzzy", ["total"])
    registry.tasks.cache_clear()
    monkeypatch.setenv("WERK_REGISTRY", f"{shop}:TASKS")
    assert remedy not in registry.unknown("xyzzy")


@pytest.fixture
def shop(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> str:
    """A module with tables of its own; the tasks that they name do not exist."""
    name = f"shop_{tmp_path.name.replace('-', '_')}"
    (tmp_path / f"{name}.py").write_text(
        "from werk.registry import Task\n"
        'TASKS = {"report": Task("shop.reports.build", queue="low", secret=("token",))}\n'
        'MORE = {"sleep": "shop.sleep"}\n'
        'SAME = {"sleep": "werk.jobs.sleep"}\n'
        "NUMBER = 1\n"
    )
    monkeypatch.syspath_prepend(tmp_path)
    return name


def test_tables_of_the_environment(shop: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("WERK_REGISTRY", f"{shop}:TASKS, {shop}:SAME,{shop}")
    assert registry.tasks()["report"].queue == "low"
    assert registry.tasks()["sleep"].path == "werk.jobs.sleep"
    assert registry.tasks().keys() == {"report", "sleep"}


def test_a_task_of_ones_own_may_be_called_as_one_that_werk_brings(
    shop: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("WERK_REGISTRY", f"{shop}:MORE")
    assert registry.tasks() == {"sleep": Task("shop.sleep")}
    assert registry.unknown("panic").endswith("known: sleep")


def test_each_edited_line_of_a_clone_is_served_beside_other_tables(
    shop: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    edited = {
        "sleep": Task("werk.jobs.sleep", timeout=7200),
        "panic": "werk.jobs.alarm",
        "nap": "werk.jobs.sleep",
        "resize": "werk.jobs.resize",
    }
    for name, entry in edited.items():
        monkeypatch.setitem(registry.TASKS, name, entry)
    monkeypatch.setenv("WERK_REGISTRY", shop)
    assert registry.tasks().keys() == {*edited, "report"}
    monkeypatch.setenv("WERK_REGISTRY", f"werk.registry:TASKS,{shop}")
    registry.tasks.cache_clear()
    assert registry.tasks().keys() == {*edited, "hello", "report"}


def test_a_line_that_a_user_adds_to_the_table_is_served(
    shop: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """docs/tasks.md: edit werk/registry.py, and have a table of your own too."""
    source = Path(registry.__file__).read_text()
    line = '    "panic": "werk.jobs.panic",\n'
    added = types.ModuleType("werk.registry")
    monkeypatch.setitem(sys.modules, "werk.registry", added)  # a record looks for its module
    exec(source.replace(line, f'{line}    "x": "werk.jobs.x",\n'), vars(added))
    assert not added.is_as_shipped()
    monkeypatch.setenv("WERK_REGISTRY", f"{shop}:MORE")
    added.tasks.cache_clear()
    assert added.tasks().keys() == {"x", "sleep"}


@pytest.mark.parametrize(
    ("table", "words"),
    [
        ("{shop}:SAME,{shop}:MORE", "a second time"),
        ("{shop}:NUMBER", "not a dict"),
        ("{shop}:NOTHING", "cannot load"),
        (
            "no_such_module:TASKS",
            "cannot load no_such_module:TASKS: no module no_such_module on sys",
        ),
        ("shop/table.py:TASKS", "use the name of a module; did you mean shop.table:TASKS?"),
        ("./shop/table.py", "did you mean shop.table:TASKS?"),
    ],
)
def test_a_broken_table_is_said(
    shop: str, monkeypatch: pytest.MonkeyPatch, table: str, words: str
) -> None:
    monkeypatch.setenv("WERK_REGISTRY", table.format(shop=shop))
    with pytest.raises(ConfigError, match=words):
        registry.tasks()


@pytest.mark.parametrize(
    ("name", "entry", "words"),
    [
        ("a b", "x.y", "not a task name"),
        ("--wait", "x.y", "not a task name"),
        (1, "x.y", "not a task name"),
        ("a", 1, "use a dotted path or Task"),
        ("a", "x", "package.module.function"),
        ("a", "os.system; x", "package.module.function"),
        ("a", Task("x.y", queue=""), "queue"),
        ("a", Task("x.y", timeout=0), "timeout"),
        ("a", Task("x.y", timeout=-2), "timeout"),
        ("a", Task("x.y", result_ttl=1.5), "a: result_ttl: got 1.5; use -1 to"),
        ("a", Task("x.y", timeout=None), "timeout: got None"),  # type: ignore[arg-type]
        ("a", Task("x.y", retry_delay="3h"), "retry_delay: got '3h'; use 0 to 10000 whole"),
        ("a", Task("x.y", max_crashes=1.5), "max_crashes: got 1.5; use 0 to"),  # type: ignore[arg-type]
        ("a", Task("x.y", retry=-1), "0 to"),
        ("a", Task("x.y", secret="token"), "tuple"),  # type: ignore[arg-type]
        *(
            ("a", Task("x.y", secret=secret), "secret must be a tuple of")  # type: ignore[arg-type]
            for secret in (None, 5, {"token"}, {"token": 1}, (n for n in ["token"]), ("token", 5))
        ),
        ("a", Task("x.y", retry_delays=60), "must be a tuple, such as"),  # type: ignore[arg-type]
        ("a", Task("x.y", retry_delays=(60, -1)), "retry_delays: got -1; use 0 to"),
        ("a", Task("x.y", retry_delays=(60, "x")), "retry_delays: got 'x'; use"),
        ("a", Task("x.y", retry_delays=(1,) * 10_001), "retry_delays: use at most 10000"),
        ("a", Task("x.y", retry_delays=(60,), retry_delay=5), "cannot be combined"),
        ("a", Task("x.y", retry_delays=(60, 300), retry=1), "less than the 2 retry_delays"),
        ("a", Task("x.y", retry_on="ValueError"), "retry_on must be a tuple"),  # type: ignore[arg-type]
        (
            "a",
            Task("x.y", retry_on=("HTTPError",)),
            "is not a built-in exception; use its dotted name",
        ),
        ("a", Task("x.y", retry_on=("ConectionError",)), "did you mean 'ConnectionError'?"),
        ("a", Task("x.y", retry_on=("print",)), "'print' is not a built-in exception"),
        ("a", Task("x.y", retry_on=("a b",)), "'a b' is not a dotted name, such as"),
        (
            "a",
            Task("x.y", retry_on=(ValueError,)),
            'got a class; use its dotted name, "ValueError"',
        ),  # type: ignore[arg-type]
    ],
)
def test_a_broken_entry_is_said(
    name: str, entry: str | Task, words: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(registry.TASKS, name, entry)
    with pytest.raises(ConfigError) as error:
        registry.tasks()
    assert words in str(error.value)
    assert "werk.registry:TASKS" in str(error.value)


@pytest.mark.parametrize(
    ("task", "delays"),
    [
        (Task("x.y"), []),
        (Task("x.y", retry=3, retry_delay=100), [100, 200, 400]),
        (Task("x.y", retry=3, retry_delay=2000), [2000, 3600, 3600]),
        (Task("x.y", retry_delays=(60, 300, 3600)), [60, 300, 3600]),
        (Task("x.y", retry_delays=(60, 300), retry=4), [60, 300, 300, 300]),
        (Task("x.y", retry_delays=[7200], retry_on=["ValueError"]), [7200]),  # type: ignore[arg-type]
    ],
)
def test_the_delays_of_all_retries_are_written_out(
    task: Task, delays: list[int], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(registry.TASKS, "a", task)
    own = registry.tasks()["a"]
    assert (own.retry, own.delays()) == (len(delays), delays)


def test_delays_are_published_and_the_exceptions_are_not(monkeypatch: pytest.MonkeyPatch) -> None:
    task = Task("x.y", retry_delays=(60, 300), retry_on=("ValueError",))
    monkeypatch.setitem(registry.TASKS, "a", task)
    words = iter(catalog.pages())
    page = dict(zip(words, words, strict=True))["a"]
    entry = catalog_page.read("a", page.encode())
    assert entry
    assert (entry.task.delays(), entry.task.retry_on) == ([60, 300], ())
    older = {name: own for name, own in json.loads(page).items() if name != "retry_delays"}
    entry = catalog_page.read("a", json.dumps(older).encode())
    assert entry
    assert entry.task.delays() == [10, 20]
    for wrong in ("60", [60, "x"], {"60": 1}):
        damaged = json.dumps({**older, "retry_delays": wrong}).encode()
        assert catalog_page.read("a", damaged) is None
