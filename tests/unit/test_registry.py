"""The table of tasks: what it takes, and what it says of what it does not take."""

from __future__ import annotations

from pathlib import Path

import pytest

from werk import registry
from werk.errors import ConfigError
from werk.registry import Task


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


@pytest.mark.parametrize(
    ("table", "words"),
    [
        ("{shop}:SAME,{shop}:MORE", "a second time"),
        ("{shop}:NUMBER", "not a dict"),
        ("{shop}:NOTHING", "cannot load"),
        ("no_such_module:TASKS", "cannot load no_such_module:TASKS: ModuleNotFoundError"),
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
        ("a", Task("x.y", result_ttl=1.5), "max_crashes: use int"),  # type: ignore[arg-type]
        ("a", Task("x.y", retry=-1), "0 to"),
        ("a", Task("x.y", secret="token"), "tuple"),  # type: ignore[arg-type]
    ],
)
def test_a_broken_entry_is_said(
    name: str, entry: str | Task, words: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(registry.TASKS, name, entry)
    with pytest.raises(ConfigError, match=words) as error:
        registry.tasks()
    assert "werk.registry:TASKS" in str(error.value)
