"""What `werk tasks --stubs` writes: names, types, and calls that arrive as Python binds them."""

from __future__ import annotations

import inspect
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

import pytest
from hypothesis import given
from hypothesis import strategies as st

import werk
from werk.errors import ArgumentError, WerkError
from werk.ops.task_stubs import check, function_names, module
from werk.ops.typed_function import written
from werk.registry import Task
from werk.tasks import catalog, catalog_page
from werk.tasks.arguments import Parameter, Signature
from werk.tasks.catalog_page import Entry
from werk.tasks.signature import read
from werk.tasks.types import JSON, Type

TASKS = """
from datetime import date, timedelta
from enum import Enum
from typing import Literal, Optional

class Size(Enum):
    S = "small"
    L = 2
    HALF = 0.5

async def report(
    day: date, size: Size, lengths: list[timedelta | None], format: Literal["a'b", True] = True
) -> Optional[list[dict[str, int]]]: ...
def nothing(token: str = "hunter2") -> "None": ...
def other(value: object) -> tuple[int, int]: ...
"""


@pytest.fixture
def shop(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[[str], Entry]:
    """Return the entry of one of TASKS."""
    (tmp_path / "stub_tasks.py").write_text(TASKS)
    monkeypatch.syspath_prepend(str(tmp_path))
    read.cache_clear()
    return lambda name: entry(name, read(f"stub_tasks.{name}"))


def entry(name: str, shape: Signature) -> Entry:
    return Entry(name, Task(f"stub_tasks.{name}"), shape, "0")


def text(*entries: Entry) -> str:
    return module({own.name: own for own in entries})


# --- names


@pytest.mark.parametrize(
    ("tasks", "names"),
    [
        ("total daily-report", "total daily_report"),
        ("2fa class print None", "task_2fa class_ print None_"),
        ("date Any werk _werk _given list", "date_ Any_ werk _werk_ _given_ list_"),
        ("__getattr__ __all__ __x", "__getattr___ __all___ __x"),
        ("daily-report daily.report", "daily_dash_report daily_dot_report"),
        ("daily:report daily_report", "daily_colon_report daily_report"),
        ("class class_", "class__ class_"),
        ("a-b a.b a_dash_b", "a_dash_b_ a_dot_b a_dash_b"),
    ],
)
def test_names(tasks: str, names: str) -> None:
    expected = dict(zip(tasks.split(), names.split(), strict=True))
    assert function_names(expected) == expected
    assert function_names(reversed(expected)) == expected


# --- types


def test_types_and_defaults(shop: Callable[[str], Entry]) -> None:
    assert """
def report(
    day: date,
    size: Literal["small", 2] | float,
    lengths: list[timedelta | None],
    format: Literal["a'b", True] = _OMITTED,
    *,
    options: _werk.Options | None = None,
    connection: Connection | None = None,
) -> _werk.Handle[list[dict[Any, Any]] | None]:
""" in text(shop("report"))


def test_no_default_is_repeated(shop: Callable[[str], Entry]) -> None:
    found = text(shop("nothing"))
    assert "token: str = _OMITTED" in found and "hunter2" not in found
    assert ") -> _werk.Handle[None]:" in found


def test_an_annotation_of_a_result_that_is_not_known_is_any(shop: Callable[[str], Entry]) -> None:
    assert ") -> _werk.Handle[Any]:" in text(shop("other"))


def test_only_names_that_are_used_are_imported(shop: Callable[[str], Entry]) -> None:
    named_as_types = Signature((Parameter("date", "positional", Type("str"), True),))
    found = text(entry("any", named_as_types))
    assert "import date" not in found and "Literal" not in found and "_given" not in found


# --- calls


class Case(NamedTuple):
    """A task, and a call of it in Python."""

    parameters: tuple[Parameter, ...]
    args: tuple[int, ...]
    kwargs: dict[str, int]

    @property
    def task(self) -> Callable[..., Any]:
        """A function with these parameters."""
        by_kind = {kind: [own for own in self.parameters if own.kind == kind] for kind in KINDS}
        words = [_in_python(own) for own in by_kind["positional"]]
        if nameless := sum(own.positional_only for own in self.parameters):
            words.insert(nameless, "/")
        words += [f"*{own.name}" for own in by_kind["var_positional"]]
        words += ["*"] if by_kind["keyword"] and not by_kind["var_positional"] else []
        words += [_in_python(own) for own in by_kind["keyword"]]
        words += [f"**{own.name}" for own in by_kind["var_keyword"]]
        space: dict[str, Any] = {}
        exec(f"def task({', '.join(words)}): ...", space)
        found: Callable[..., Any] = space["task"]
        return found


KINDS = ("positional", "var_positional", "keyword", "var_keyword")
NAMES = "a options connection options_ werk date name args kwargs self function task".split()


def _in_python(own: Parameter) -> str:
    return own.name if own.required else f"{own.name}={own.default}"


@st.composite
def cases(draw: st.DrawFn) -> Case:
    names = iter(draw(st.permutations(NAMES)))
    places = draw(st.integers(0, 4))
    nameless, required = (draw(st.integers(0, places)) for _ in range(2))
    parameters = [
        Parameter(next(names), "positional", JSON, i < required, "-1", i < nameless)
        for i in range(places)
    ]
    own_places = [*parameters]
    rest = draw(st.booleans())
    parameters += [Parameter(next(names), "var_positional")] if rest else []
    keywords = [
        Parameter(next(names), "keyword", JSON, is_required, "-1")
        for is_required in draw(st.lists(st.booleans(), max_size=3))
    ]
    has_more = draw(st.booleans())
    parameters += keywords
    parameters += [Parameter(next(names), "var_keyword")] if has_more else []
    count = draw(st.integers(min(nameless, required), places))  # how many by position
    args = [*range(count)]
    if rest and count == places:
        args += draw(st.lists(st.just(7), max_size=2))
    named = [own for own in own_places[count:] if not own.positional_only] + keywords
    given = {own.name: n for n, own in enumerate(named) if own.required or draw(st.booleans())}
    more = draw(st.sampled_from([{}, {"more": 8}])) if has_more else {}
    return Case(tuple(parameters), tuple(args), {**given, **more})


@given(cases())
def test_a_call_arrives_as_python_binds_it(case: Case) -> None:
    sent: list[Any] = []

    def enqueue(name: str, /, *args: Any, options: Any, connection: Any, **kwargs: Any) -> None:
        sent.append((args, kwargs, options, connection))

    def enqueue_call(name: str, args: Any, kwargs: Any, *, options: Any, connection: Any) -> None:
        sent.append((args, kwargs, options, connection))

    shape = Signature(case.parameters)
    space: dict[str, Any] = {}
    exec(text(entry("any", shape)), space)
    space["_werk"] = type("werk", (), {"enqueue": enqueue, "enqueue_call": enqueue_call})
    space["any"](*case.args, **case.kwargs)
    [(args, kwargs, options, connection)] = sent
    assert (options, connection) == (None, None)
    bind = inspect.signature(case.task).bind
    assert bind(*args, **kwargs) == bind(*case.args, **case.kwargs)
    assert shape.bind(args, kwargs) == (tuple(args), kwargs)


def test_own_options_beside_the_tasks(monkeypatch: pytest.MonkeyPatch) -> None:
    sent: list[Any] = []
    monkeypatch.setattr(werk, "enqueue_call", lambda *args, **kwargs: sent.append((args, kwargs)))
    space: dict[str, Any] = {}
    shape = Signature(tuple(Parameter(name, "keyword") for name in ("options", "connection")))
    exec(text(entry("any", shape)), space)
    own = werk.Options(queue="low")
    space["any"](options=1, options_=own)
    assert sent == [(("any", [], {"options": 1}), {"options": own, "connection": None})]


# --- the catalog


def page(**facts: Any) -> Entry | None:
    task = Task("stub_tasks.any")._asdict()
    whole = {**task, "parameters": [], "summary": "", "fingerprint": "0", **facts}
    return catalog_page.read("any", json.dumps(whole).encode())


def test_a_page_has_the_type_of_the_result(shop: Callable[[str], Entry]) -> None:
    for name in ("report", "nothing", "other"):
        own = shop(name)
        assert own.shape.returns == read(f"stub_tasks.{name}").returns
        found = catalog_page.read(name, catalog.page_of(own.task, own.shape).encode())
        assert found and found.shape.returns == own.shape.returns


def test_a_page_of_an_older_worker_has_no_type_of_the_result() -> None:
    found = page()
    assert found and written(found.shape.returns) == "Any"


def test_a_type_of_a_later_version_is_any() -> None:
    found = page(returns=["tuple", None, []])
    assert found and written(found.shape.returns) == "Any"
    assert page(returns="int") is None


@pytest.mark.parametrize("names", [["class"], ["ﬁ", "fi"], ["_werk"]])
def test_a_page_cannot_make_the_module_invalid(names: list[str]) -> None:
    kind = {"kind": "positional", "type": ["str", None, []]}
    hostile = page(parameters=[{"name": name, **kind} for name in names])
    assert hostile
    found = text(hostile._replace(name="bad"), entry("good", Signature(())))
    compile(found, "", "exec")
    assert "\n# bad is left out: " in found and "def good(" in found


def test_a_summary_stays_text() -> None:
    hostile = page(summary='"""\nimport os\\')
    assert hostile
    space: dict[str, Any] = {}
    exec(text(hostile), space)
    assert "import os\\" in space["any"].__doc__ and "os" not in space


# --- check


def test_check_names_what_differs(tmp_path: Path) -> None:
    entries = [entry(name, Signature(())) for name in ("same", "changed", "removed")]
    file = tmp_path / "typed.py"
    file.write_text(text(*entries))
    check(str(file), text(*entries))
    number = Signature((Parameter("number", "positional", Type("int"), True),))
    new = [entries[0], entry("changed", number), entry("added", number)]
    with pytest.raises(WerkError) as caught:
        check(str(file), text(*new))
    assert str(caught.value) == (
        f"{file} is out of date (added, changed, removed); run: werk tasks --stubs > {file}"
    )
    assert caught.value.exit_code == 1


def test_check_without_a_file(tmp_path: Path) -> None:
    with pytest.raises(ArgumentError, match=f"{tmp_path}: Is a directory; run: werk tasks"):
        check(str(tmp_path), "")
    with pytest.raises(ArgumentError, match=r"directory; run: werk tasks --stubs > 'my file'$"):
        check("my file", "")
