"""signature.py: what is read from a source without running it, and what becomes of arguments."""

from __future__ import annotations

import ast
import decimal
import importlib
import importlib.util
import json
import os
import py_compile
import random
import re
import subprocess
import sys
import tempfile
import threading
import zipfile
from collections.abc import Callable, Iterator
from datetime import date, datetime, timedelta, timezone
from decimal import Decimal
from enum import Enum, StrEnum
from pathlib import Path
from types import SimpleNamespace
from typing import Any
from uuid import UUID
from zoneinfo import ZoneInfo

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from werk.errors import ArgumentError
from werk.store.plain import plain_problem
from werk.tasks import source
from werk.tasks.arguments import Signature
from werk.tasks.signature import read
from werk.tasks.types import Invalid, Type

Define = Callable[[str], Signature]

IMPORTS = """
import datetime
import datetime as dt
import enum
import typing as t
from datetime import date, timedelta
from decimal import Decimal
from enum import Enum, IntEnum, StrEnum
from typing import Annotated, Any, Literal, Optional, Union
from typing import Literal as L
from typing_extensions import Literal as TL
from uuid import UUID

class Color(Enum):
    '''Doc.'''
    RED = "red"
    TWO = 2

    def shout(self): ...

class Named(StrEnum):
    A = "a"

class Level(IntEnum):
    LOW = 1

@enum.unique
class Mixed(str, enum.Enum):
    B = "b"
"""


@pytest.fixture(autouse=True)
def _fresh() -> Iterator[None]:
    read.cache_clear()
    yield
    read.cache_clear()


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder of its own on sys.path."""
    monkeypatch.syspath_prepend(str(tmp_path / "code"))
    return tmp_path / "code"


@pytest.fixture
def define(folder: Path) -> Define:
    """Return a function that reads `task` from a module of this source."""

    def define(source: str) -> Signature:
        return read(f"{write(folder, 'shop.py', source)}.task")

    return define


def write(folder: Path, path: str, source: str | bytes) -> str:
    """Write a module and return its dotted name."""
    file = folder / path
    file.parent.mkdir(parents=True, exist_ok=True)
    file.write_bytes(source.encode() if isinstance(source, str) else source)
    importlib.invalidate_caches()
    read.cache_clear()
    return path.removesuffix(".py").removesuffix("/__init__").replace("/", ".")


def parameter(define: Define, annotation: str) -> Signature:
    """Return the signature of a task with one parameter, x, of this type."""
    shape = define(f"{IMPORTS}\ndef task(x: {annotation}): ...")
    assert shape.notes == ()
    return shape


def refused(call: Callable[[], object]) -> str:
    with pytest.raises(ArgumentError) as caught:
        call()
    return str(caught.value)


def kinds(shape: Signature) -> list[str]:
    return [note.kind for note in shape.notes]


# --- reading


def test_a_task_is_read_without_importing_anything(folder: Path, tmp_path: Path) -> None:
    mark = f"open({str(tmp_path / 'ran')!r}, 'w')\nraise RuntimeError('imported')\n"
    write(folder, "outer/__init__.py", mark)
    write(folder, "outer/inner/__init__.py", mark)
    source = "import a_package_that_is_not_installed\ndef task(seconds: float, *, name: str): ...\n"
    write(folder, "outer/inner/tasks.py", source + mark)
    before = set(sys.modules)
    shape = read("outer.inner.tasks.task")
    assert shape.notes == ()
    assert shape.parse(["1", "--name", "Ada"]) == ((1.0,), {"name": "Ada"})
    assert refused(lambda: shape.bind(("1",), {"name": "x"}, task="task")) == (
        "task: seconds: '1' is not a number (float)"
    )
    assert not {name for name in set(sys.modules) - before if name.startswith("outer")}
    assert not (tmp_path / "ran").exists()


def test_the_tasks_of_this_package_are_read() -> None:
    shape = read("werk.jobs.sleep")
    assert (shape.usage(), shape.summary) == ("SECONDS", "Sleep for SECONDS.")
    assert read("werk.jobs.panic").parameters[0].default == "'panic! as asked'"
    assert read("werk.jobs.hello").notes == ()


def test_every_kind_of_parameter(define: Define) -> None:
    shape = define(
        "def task(a: int, /, b: float = 1.5, *rest: int, c_d: str, e: bool = False, **more: int):\n"
        '    """  Do it\tnow.\x1b[31m\n\n    More.\n    """\n'
    )
    assert shape.notes == ()
    assert shape.summary == "Do it now. [31m"
    assert [(p.name, p.kind, p.required, p.default) for p in shape.parameters] == [
        ("a", "positional", True, None),
        ("b", "positional", False, "1.5"),
        ("rest", "var_positional", False, None),
        ("c_d", "keyword", True, None),
        ("e", "keyword", False, "False"),
        ("more", "var_keyword", False, None),
    ]
    assert shape.parameters[0].positional_only
    assert shape.usage() == "A [B] [REST...] --c-d TEXT [--e BOOL] [--NAME INT ...]"


@pytest.mark.parametrize(
    ("annotation", "shown"),
    [
        ("str", "str"),
        ('"float"', "float"),
        ('" float"', "float"),
        ("Optional['int']", "int | None"),
        ("None | int", "int | None"),
        ("Union[int, None]", "int | None"),
        ("Optional[int] | None", "int | None"),
        ("datetime.datetime", "datetime"),
        ("dt.date", "date"),
        ("date", "date"),
        ("timedelta", "duration"),
        ("Decimal", "decimal"),
        ("UUID", "uuid"),
        ("L['a', 1, True]", "a|1|true"),
        ("TL['a']", "a"),
        ("t.Literal['a', 'b']", "a|b"),
        ("t.List[dt.date]", "list[date]"),
        ("list", "list"),
        ("list[list[int | None]]", "list[list[int | None]]"),
        ("dict[str, int]", "dict"),
        ("t.Dict[str, int]", "dict"),
        ("Any", "json"),
        ("object", "json"),
        ("Annotated[int, 'hours']", "int"),
        ("Color", "RED|TWO"),
        ("'Color | None'", "RED|TWO | None"),
        ("Named", "A"),
        ("Level", "LOW"),
        ("Mixed", "B"),
    ],
)
def test_annotations(define: Define, annotation: str, shown: str) -> None:
    assert str(parameter(define, annotation).parameters[0].type) == shown


UNREADABLE = (
    "Path; int | str; Union[int, str]; list[Path]; Optional[Path]; tuple[int, int]; None; float(); "
    "1; 'not an expression !'; '\\0'; list[()]; Literal[()]; Literal[Color.RED]; Literal[1.5]; "
    "Auto; Lying; Meta; Decorated; New; Base; Flag; Computed; Twice; shadow.int; int.real; Local"
)


@pytest.mark.parametrize("annotation", UNREADABLE.split("; "))
def test_an_annotation_that_cannot_be_read_is_json_and_said(
    define: Define, annotation: str
) -> None:
    shape = define(
        f"{IMPORTS}\n"
        "from somewhere import Path, decorate\n"
        "from .here import Local\n"
        "class Auto(Enum):\n  A = enum.auto()\n"
        "class Lying(int, Enum):\n  A = '1'\n"
        "class Meta(Enum, boundary=1):\n  A = 1\n"
        "@decorate\nclass Decorated(Enum):\n  A = 1\n"
        "class New(Enum):\n  A = 1\n  def __new__(cls, value): ...\n"
        "class Base(Enum):\n  pass\n"
        "class Flag(enum.Flag):\n  A = 1\n"
        "class Computed(Enum):\n  A = 1 + f()\n"
        "class Twice(Enum):\n  A = B = 1\n"
        f"def task(x: {annotation}): ..."
    )
    assert kinds(shape) == ["parameter"]
    assert "shop.py:" in shape.notes[0].text
    assert "parameter x" in shape.notes[0].text
    assert shape.parse(["[1]"]) == (([1],), {})
    assert shape.bind((date(2026, 1, 1),), {}) == ((date(2026, 1, 1),), {})


def test_a_name_is_what_the_module_says_it_is(define: Define) -> None:
    source = "from numpy import float64 as float\ndef task(x: float, y: 'int'): ..."
    shape = define(source)
    assert [str(p.type) for p in shape.parameters] == ["json", "int"]
    assert kinds(shape) == ["parameter"]


def test_names_that_enqueue_has_itself_are_said(define: Define) -> None:
    assert kinds(define("def task(options, *, connection=1): ...")) == ["reserved", "reserved"]
    assert define("def task(options, /, *connection): ...").notes == ()


@pytest.mark.parametrize(
    ("source", "kind", "text"),
    [
        ("", "function", "has no function task"),
        ("def other(): ...", "function", "has no function task"),
        ("from .other import task", "unread", "shop.py:1: task is imported there (.other.task)"),
        ("import x.task as task", "unread", "(x.task)"),
        ("from other import *", "unread", "task comes from another module or class"),
        ("def __getattr__(name): ...", "unread", "comes from another module"),
        ("task = print", "unread", "shop.py:1: task is not defined there by a def"),
        (
            "def task(a): ...\ntask = wrap(task)",
            "unread",
            "shop.py:2: task is defined in several ways",
        ),
        ("class task: ...", "unread", "not defined there by a def"),
        ("def task(:", "module", "shop.py:1: "),
        ("def task(): ...\nx = '\0'", "module", "null bytes"),
        ("# coding: klingon\ndef task(): ...", "module", "klingon"),
        ("x = " + "(" * 5000 + ")" * 5000, "module", "shop.py"),
        ("x = " + "-" * 100_000 + "1\ndef task(): ...", "unread", "shop.py"),
        ("#" * (1024 * 1024) + "\ndef task(): ...", "unread", "larger than 1,048,576 bytes"),
        ("def task(a=0" + " + 1" * 2000 + "): ...", "unread", "nested too deeply"),
        ("try:\n  from fast import task\nexcept E:\n  def task(): ...", "unread", "several ways"),
    ],
)
def test_a_function_that_cannot_be_read(define: Define, source: str, kind: str, text: str) -> None:
    shape = define(source)
    assert kinds(shape) == [kind]
    assert text in shape.notes[0].text
    assert shape.parse(["1", "--a", "null"]) == ((1,), {"a": None})
    assert shape.usage() == "[ARGS...] [--NAME JSON ...]"


@pytest.mark.parametrize(
    "source",
    [
        "import functools\n@functools.lru_cache(maxsize=1)\ndef task(a: int): ...",
        "from functools import cache as c\n@c\ndef task(a: int): ...",
        "from rq.decorators import job\n@job('low', connection=x)\ndef task(a: int): ...",
        "import app\n@app.task\ndef task(a: int): ...",
        "@wrap(1)\ndef task(a: int): ...",
        "@[wrap][0]\ndef task(a: int): ...",
        "def staticmethod(f): ...\n@staticmethod\ndef task(a: int): ...",
        "from typing import overload\n@overload\ndef task(a: str): ...\ndef task(a: int): ...",
        "async def task(a: int): ...",
        "if True:\n  def task(a: int): ...",
        "x = '\\d'\ndef task(a: int): ...",
        "x = 1" + " + 1" * 2000 + "\ndef task(a: int): ...",
        "# coding: latin-1\nx = 'é'\ndef task(a: int): ...",
        "\ufeffdef task(a: int): ...",
        "def task(b: str): ...\ndef task(a: int): ...",
        "[task for task in ()]\ndef task(a: int): ...",
    ],
)
def test_what_does_not_change_the_parameters(define: Define, source: str) -> None:
    assert define(source).parse(["1"]) == ((1,), {})
    assert define(source).notes == ()


def test_methods(folder: Path) -> None:
    write(
        folder,
        "shop.py",
        "class Shop(Base):\n"
        "  @staticmethod\n  def static(a: int): ...\n"
        "  @classmethod\n  def own(cls, a: int): ...\n"
        "  def plain(self, a: int): ...\n"
        "class Bare:\n  class Inner:\n    @staticmethod\n    def f(): ...\n",
    )
    assert read("shop.Shop.static").usage() == "A"
    assert read("shop.Shop.own").usage() == "A"
    assert "make it a staticmethod" in read("shop.Shop.plain").notes[0].text
    assert "comes from another" in read("shop.Shop.inherited").notes[0].text
    assert kinds(read("shop.Bare.nothing")) == ["function"]
    assert kinds(read("shop.Bare.Inner.f")) == ["function"]  # RQ cannot either


def test_where_a_module_is(folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    task = "def task(a: int): ..."
    write(folder, "spread/deep/er/tasks.py", task)  # folders without __init__.py
    assert read("spread.deep.er.tasks.task").usage() == "A"
    write(tmp_path, "later/spread/more.py", task)
    monkeypatch.syspath_prepend(str(tmp_path / "later"))
    assert read("spread.more.task").usage() == "A"
    write(tmp_path, "later/shop/__init__.py", "def task(whole: int): ...")
    write(folder, "shop/tasks.py", task)  # earlier, but a package goes before such a folder
    sys.path.reverse()
    assert read("shop.task").usage() == "WHOLE"
    monkeypatch.chdir(folder / "spread" / "deep" / "er")
    monkeypatch.setattr(sys, "path", [""])
    assert read("tasks.task").usage() == "A"


def test_a_missing_module_is_told_from_a_missing_function(folder: Path) -> None:
    write(folder, "shop/__init__.py", "from .b import B")
    write(folder, "shop/tasks.py", "def task(): ...")
    write(folder, "loose/tasks.py", "")
    expected = {
        "shop.tasks.nope": "function",
        "shop.nope": "function",
        "shop.tasks.nope.task": "function",
        "shop.B.task": "unread",
        "loose.task": "function",
        "shop.nope.task": "module",
        "shop.nope.nope.task": "module",
        "loose.nope.task": "module",
        "nope_at_all.task": "module",
        "nope": "module",
        "": "module",
        ".": "module",
        "a\0b.c": "module",
        "\ud800.c": "module",
        "time.sleep": "unread",
        "os.getcwd": "unread",
    }
    assert {path: kinds(read(path)) for path in expected} == {
        path: [kind] for path, kind in expected.items()
    }
    assert read("shop.nope.task").notes[0].text == "no module shop.nope on sys.path"


def test_a_module_without_source(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    folder.mkdir()
    (folder / "native.so").touch()
    (folder / "task.py").write_text("def task(): ...")
    py_compile.compile(str(folder / "task.py"), str(folder / "compiled.pyc"))
    with zipfile.ZipFile(folder / "egg.zip", "w") as egg:
        egg.writestr("zipped/__init__.py", "")
        egg.writestr("zipped/tasks.py", "def task(): ...")
    monkeypatch.syspath_prepend(str(folder / "egg.zip"))
    for path in ("native.task", "compiled.task", "zipped.tasks.task"):
        assert kinds(read(path)) == ["unread"]
    os.chmod(folder / "task.py", 0)
    assert kinds(read("task.task")) == (["unread"] if os.geteuid() else [])


def test_an_editable_install_with_a_finder(
    folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    write(tmp_path, "elsewhere/shop/__init__.py", "raise RuntimeError")
    write(tmp_path, "elsewhere/shop/tasks.py", "def task(a: int): ...")

    class Broken:
        @staticmethod
        def find_spec(name: str, path: object = None, target: object = None) -> None:
            raise OSError("broken")

    class Editable:
        @staticmethod
        def find_spec(name: str, path: object = None, target: object = None) -> Any:
            file = tmp_path / "elsewhere/shop/__init__.py"
            return importlib.util.spec_from_file_location(name, file) if name == "shop" else None

    monkeypatch.setattr(sys, "meta_path", [Broken, *sys.meta_path, Editable])
    assert read("shop.tasks.task").usage() == "A"


def test_reading_from_many_threads_leaves_warnings_on(folder: Path) -> None:
    import warnings

    names = [
        write(folder, f"many{number}.py", "x = '\\d'\ndef task(): ...") for number in range(20)
    ]
    before = list(warnings.filters)
    threads = [threading.Thread(target=read, args=(f"{name}.task",)) for name in names]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert list(warnings.filters) == before


def test_a_fork_while_another_thread_reads_can_read_and_warn(tmp_path: Path) -> None:
    """The child has neither the lock of that thread nor the filters that it has set."""
    (tmp_path / "forked.py").write_text("def task(): ...\n")
    code = """
import ast, os, signal, sys, threading, warnings
from werk.tasks import source

parse, parsing, forks = ast.parse, threading.Event(), threading.Event()

def slow(data):
    parsing.set()
    forks.wait()
    return parse(data)

filters = [*warnings.filters]
ast.parse = slow
thread = threading.Thread(target=source.parse, args=("forked", sys.argv[1]))
thread.start()
parsing.wait()
os.register_at_fork(before=forks.set)  # runs before those that were registered earlier
if not (child := os.fork()):
    signal.alarm(20)
    source.parse("forked", sys.argv[1])
    os._exit(warnings.filters != filters)
thread.join()
source.parse("forked", sys.argv[1])
sys.exit(os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]))
"""
    file = str(tmp_path / "forked.py")
    assert subprocess.run([sys.executable, "-c", code, file], timeout=120).returncode == 0


def test_a_signal_handler_can_read_during_a_read(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "handled.py").write_text("def task(): ...\n")
    file = str(tmp_path / "handled.py")
    parse, inner = ast.parse, []

    def interrupted(data: bytes) -> ast.Module:
        assert source._parsing.acquire(blocking=False), "the handler would wait without end"
        source._parsing.release()
        if not inner:
            inner.append(data)
            source.parse("handled", file)
        return parse(data)

    monkeypatch.setattr(source, "ast", SimpleNamespace(parse=interrupted))
    source.parse("handled", file)
    assert inner


@pytest.fixture(scope="module")
def scratch() -> Iterator[Path]:
    """A folder on sys.path for a whole property test."""
    with tempfile.TemporaryDirectory() as name:
        sys.path.insert(0, name)
        yield Path(name)
        sys.path.remove(name)


def mutated(data: bytes, seed: int) -> bytes:
    """Return a source with a few of its words, or of its bytes, put in other places."""
    chance = random.Random(seed)
    pattern = rb"\w+|\s+|." if seed % 4 else rb"(?s)."
    pieces = re.findall(pattern, data)
    words = [*pieces, b"", b"\x00", b"\xff", b"(", b"lambda", b"*", b"@", b"''", b"\n"]
    for _ in range(chance.randrange(1, 4)):
        start = chance.randrange(len(pieces))
        pieces[start : start + chance.choice((0, 1, 1, 2))] = [chance.choice(words)]
    return b"".join(pieces)


ODD_SOURCE = (
    IMPORTS
    + """
def task(a: int, b: Color | None = Color.RED, /, c: "list[dt.date]" = (), *d: L["x", 1],
         e: Optional[UUID], f: Annotated[Named, f"{1}"] = f"{a!r:>{b}}", **g: Any) -> None:
    "Do."

class Task:
    @staticmethod
    def task(a: Level = lambda: 0, *, b=...): ...
"""
).encode()


@given(seed=st.integers(0, 2**32))
@settings(max_examples=300, deadline=None)
def test_a_mutated_source_is_read_or_noted(scratch: Path, seed: int) -> None:
    write(scratch, "odd.py", mutated(ODD_SOURCE, seed))
    for path in ("odd.task", "odd.Task.task"):
        shape = read(path)
        assert isinstance(shape, Signature)
        shape.usage()


@given(
    source=st.binary(max_size=200)
    | st.text(max_size=200).map(lambda text: text.encode("utf-8", "replace"))
)
@settings(max_examples=150, deadline=None)
def test_a_random_source_is_read_or_noted(scratch: Path, source: bytes) -> None:
    write(scratch, "odd.py", source)
    assert isinstance(read("odd.task"), Signature)


# --- text to values

UUID_TEXT = "12345678-1234-5678-1234-567812345678"


@pytest.mark.parametrize(
    ("annotation", "text", "value"),
    [
        ("str", "", ""),
        ("str", "Zoë\n", "Zoë\n"),
        ("int", "-7", -7),
        ("int", "+007", 7),
        ("float", "1", 1.0),
        ("float", "-.5e-3", -0.0005),
        ("bool", "TRUE", True),
        ("bool", "yes", True),
        ("bool", "1", True),
        ("bool", "False", False),
        ("bool", "no", False),
        ("bool", "0", False),
        ("bytes", "Zoë", "Zoë".encode()),
        ("bytes", "\udcff", b"\xff"),
        ("Decimal", "1.10", Decimal("1.10")),
        ("date", "2026-01-31", date(2026, 1, 31)),
        ("dt.datetime", "2026-01-31T18:00", datetime(2026, 1, 31, 18)),
        ("dt.datetime", "2026-01-31T18:00Z", datetime(2026, 1, 31, 18, tzinfo=timezone.utc)),
        (
            "dt.datetime",
            "2026-01-31 18:00:00.5+02:00",
            datetime(2026, 1, 31, 18, 0, 0, 500000, timezone(timedelta(hours=2))),
        ),
        ("timedelta", "90", timedelta(seconds=90)),
        ("timedelta", "-0.5", timedelta(seconds=-0.5)),
        ("timedelta", "90s", timedelta(seconds=90)),
        ("timedelta", "5m", timedelta(minutes=5)),
        ("timedelta", "1.5h", timedelta(minutes=90)),
        ("timedelta", "1d2h3m4.5s", timedelta(1, 4.5, hours=2, minutes=3)),
        ("timedelta", "-1h30m", -timedelta(minutes=90)),
        ("UUID", UUID_TEXT.upper(), UUID(UUID_TEXT)),
        ("UUID", UUID_TEXT.replace("-", ""), UUID(UUID_TEXT)),
        ("L['a', 2, True]", "a", "a"),
        ("L['a', 2, True]", "2", 2),
        ("L['a', 2, True]", "true", True),
        ("Color", "RED", "red"),
        ("Color", "TWO", 2),
        ("Level", "LOW", 1),
        ("Mixed", "B", "b"),
        ("int | None", "", None),
        ("int | None", "5", 5),
        ("Color | None", "", None),
        ("Any", '{"a": [1, 2.5, null, true]}', {"a": [1, 2.5, None, True]}),
        ("dict", "{}", {}),
        ("dict[str, int] | None", "", None),
        ("list", '[1, "a"]', [1, "a"]),
        ("list[float]", "[1, 2.5]", [1.0, 2.5]),
        ("list[str]", '["1", ""]', ["1", ""]),
        ("list[str | None]", '["", null]', ["", None]),
        ("list[date]", '["2026-01-31"]', [date(2026, 1, 31)]),
        ("list[Decimal]", '["1.10"]', [Decimal("1.10")]),
        ("list[timedelta]", '["1h"]', [timedelta(hours=1)]),
        ("list[Color]", '["RED", 2]', ["red", 2]),
        ("list[list[UUID]]", f'[["{UUID_TEXT}"], []]', [[UUID(UUID_TEXT)], []]),
    ],
)
def test_a_text_becomes_a_value(define: Define, annotation: str, text: str, value: object) -> None:
    shape = parameter(define, annotation)
    for call in (shape.parse([text]), shape.parse(["--x", text]), shape.parse([f"--x={text}"])):
        given = [*call[0], *call[1].values()]
        assert given == [value]
        assert repr(given) == repr([value])  # True is not 1, and 1.0 is not 1
        assert shape.bind(*call) == call


@pytest.mark.parametrize(
    ("annotation", "text", "message"),
    [
        ("str", "a\udcff", "x: 'a\\udcff' is not valid UTF-8"),
        ("int", "1.0", "x: '1.0' is not a whole number (int)"),
        ("int", " 1", "x: ' 1' is not a whole number (int)"),
        ("int", "1\n", "x: '1\\n' is not a whole number (int)"),
        ("int", "1_000", "x: '1_000' is not a whole number (int)"),
        ("int", "\u0661", "x: '\u0661' is not a whole number (int)"),
        ("int", "9" * 4301, f"x: '{'9' * 80}'... has more than 4300 digits"),
        ("float", "abc", "x: 'abc' is not a number (float)"),
        ("float", "", "x: '' is not a number (float)"),
        ("float", "nan", "x: 'nan' is not a number (float)"),
        ("float", "-inf", "x: '-inf' is not a number (float)"),
        ("float", "1e999", "x: '1e999' is too large for a float"),
        ("bool", "maybe", "x: 'maybe' is not true or false (bool)"),
        ("bytes", "\ud800", "x: '\\ud800' is not bytes, or text in UTF-8"),
        ("Decimal", "NaN", "x: 'NaN' is not a decimal number (Decimal)"),
        ("Decimal", "1e9999999999999999999", "is not a decimal number (Decimal)"),
        ("date", "31.1.2026", "x: '31.1.2026' is not a date, such as 2026-01-31"),
        ("date", "2026-02-30", "x: '2026-02-30' is not a date, such as 2026-01-31"),
        ("dt.datetime", "noon", "x: 'noon' is not a datetime, such as 2026-01-31T18:00Z"),
        ("timedelta", "1x", "x: '1x' is not a duration (timedelta), such as 90, 90s, 1h30m"),
        ("timedelta", "5m1h", "x: '5m1h' is not a duration"),
        ("timedelta", "", "x: '' is not a duration"),
        ("timedelta", "-", "x: '-' is not a duration"),
        ("timedelta", "1e99", "x: '1e99' is not a duration"),
        ("timedelta", "99999999999d", "is not a duration"),
        ("UUID", "123", "x: '123' is not a UUID"),
        ("UUID", "{" + UUID_TEXT + "}", "is not a UUID"),
        ("L['a', 'b']", "c", "x: 'c' is not one of a, b"),
        ("Color", "red", "x: 'red' is not one of RED, TWO"),
        ("int | None", "None", "x: 'None' is not a whole number (int)"),
        (
            "Any",
            "Ada",
            "x: 'Ada' is not JSON (text needs double quotes): Expecting value at character 1",
        ),
        ("Any", "NaN", "x: 'NaN' is not JSON"),
        ("Any", "[-Infinity]", "x: '[-Infinity]' is not JSON"),
        ("Any", "1e999", "x: '1e999' is too large for a float"),
        ("Any", "9" * 4301, "has more than 4300 digits"),
        ("Any", '{"a": 1, "a": 2}', "x: the object has a key twice"),
        ("Any", "[" * 100_000, "is not JSON"),
        ("Any", "[" * 150 + "]" * 150, "is nested deeper than 100 levels"),
        ("Any", '"\udcff"', "is not valid UTF-8"),
        ("dict", "[]", "x: the list is not a dict, in JSON"),
        ("list[int]", "{}", "x: the dict is not a list, in JSON"),
        ("list[int]", "1", "x: 1 is not a list, in JSON, such as '[10, 20.5]'"),
        ("list[int]", '["1"]', "x: '1' is not a whole number (int)"),
        ("list[int]", "[true]", "x: True is not a whole number (int)"),
        ("list[bool]", '["true"]', "x: 'true' is not true or false (bool)"),
        ("list[date]", '["x"]', "x: 'x' is not a date, such as 2026-01-31"),
        ("list[date]", "[1]", "x: 1 is not a date, such as 2026-01-31"),
        ("list[Decimal]", "[1.5]", "x: 1.5 is not a decimal number (Decimal)"),
    ],
)
def test_a_text_is_refused(define: Define, annotation: str, text: str, message: str) -> None:
    shape = parameter(define, annotation)
    assert message in refused(lambda: shape.parse([text], task="task"))
    said = refused(lambda: shape.parse([text], task="task", secret=("x",)))
    assert said.startswith("task: x: the value ")
    assert len(text) < 6 or text not in said


def test_an_unread_type_is_named_where_its_text_is_refused(define: Define) -> None:
    """Otherwise the error about JSON leads to a text that the function cannot use."""
    shape = define("from pathlib import Path\ndef task(x: Path): ...")
    why = "; the type Path cannot be read; it takes JSON: see werk tasks --check"
    assert refused(lambda: shape.parse(["a.txt"])).endswith(why)


def test_a_decimal_is_finite_whatever_the_context_lets_pass(define: Define) -> None:
    shape = parameter(define, "Decimal")
    with decimal.localcontext(decimal.Context(traps=[])):
        assert "is not a decimal" in refused(lambda: shape.parse(["1e9999999999999999999"]))


# --- words to arguments


def test_words(define: Define) -> None:
    shape = define("def task(a: float, b: str = '', *c: int, d_e: bool = 0, **f: int): ...")
    assert shape.parse(["-1", "-x", "-3"]) == ((-1.0, "-x", -3), {})
    assert shape.parse(["1", "--d-e", "yes", "b", "2"]) == ((1.0, "b", 2), {"d_e": True})
    assert shape.parse(["--d_e=no", "--new-one", "-5", "1"]) == (
        (1.0,),
        {"d_e": False, "new_one": -5},
    )
    assert shape.parse(["1", "--", "--d-e", "3"]) == ((1.0, "--d-e", 3), {})
    assert shape.parse(["--b=--x", "--a", "2"]) == ((), {"b": "--x", "a": 2.0})
    assert shape.parse(["1", "--wait", "3"]) == ((1.0,), {"wait": 3})


@pytest.mark.parametrize(
    ("parameters", "words", "message"),
    [
        ("seconds: float", [], "sleep: missing argument seconds; it takes SECONDS"),
        ("a, *, b: str, c: int", [], "sleep: missing arguments a, b, c; it takes A --b TEXT "),
        ("seconds: float", ["1", "2"], "sleep: takes 1 argument (seconds), 2 given"),
        ("a, b=1", ["1", "2", "3"], "sleep: takes 1 to 2 arguments (a, b), 3 given"),
        ("", ["1"], "sleep: takes 0 arguments, 1 given"),
        ("a", ["1", "--a", "2"], "sleep: a is given twice"),
        ("*, a", ["--a", "1", "--a=2"], "sleep: --a is given twice"),
        ("a", ["1", "--wait"], "sleep: takes no --wait; --wait is an option of the "),
        ("a", ["--timeout=5", "1"], "sleep: takes no --timeout; --timeout is an option"),
        (
            "wait: int",
            ["--wait"],
            "sleep: --wait needs a value: --wait=VALUE; if it is the command's own, ",
        ),
        ("*, name: str", ["--name"], "sleep: --name needs a value: --name=VALUE"),
        ("*, name: str", ["--name", "--other"], "sleep: --name needs a value: --name=VALUE"),
        ("seconds: float", ["--secnds", "1"], "sleep: takes no --secnds; did you mean --seconds?"),
        ("seconds: float", ["--zzz"], "sleep: takes no --zzz; it takes SECONDS"),
        ("", ["--zzz"], "sleep: takes no --zzz; it takes nothing"),
        ("", ["--\x1b[31m" + "x" * 99], "sleep: takes no '--\\x1b[31mxxx"),
        ("**more", ["--a.b", "1"], "sleep: takes no '--a.b'; it takes [--NAME JSON ...]"),
        ("**more", ["--", "--a"], "sleep: takes 0 arguments, 1 given"),
        ("a, /", ["--a", "1"], "sleep: takes no --a; it takes A"),
    ],
)
def test_words_are_refused(define: Define, parameters: str, words: list[str], message: str) -> None:
    shape, reserved = define(f"def task({parameters}): ..."), {"--wait", "--timeout"}
    assert refused(lambda: shape.parse(words, "sleep", reserved=reserved)).startswith(message)


def test_a_secret_is_not_in_a_message(define: Define) -> None:
    shape = define("def task(token: int, *rest: int): ...")
    for words in (["s3cret"], ["--s3cret"], ["--token=s3cret"], ["--token", "--s3cret"]):
        assert "s3cret" not in refused(lambda w=words: shape.parse(w, secret=("token",)))
    assert "s3cret" not in refused(lambda: shape.bind(("s3cret",), {}, secret=("token",)))


# --- values from Python


class Shade(StrEnum):
    RED = "red"


class Tint(Enum):
    RED = "red"


class MyFloat(float):
    pass


@pytest.mark.parametrize(
    ("annotation", "value", "message"),
    [
        ("int", "1", "sleep: x: '1' is not a whole number (int)"),
        ("int", True, "sleep: x: True is not a whole number (int)"),
        ("int", 1.0, "sleep: x: 1.0 is not a whole number (int)"),
        ("int", None, "sleep: x: None is not a whole number (int)"),
        ("int", [1], "sleep: x: got list; use a whole number (int)"),
        ("float", True, "sleep: x: True is not a number (float)"),
        ("float", "1", "sleep: x: '1' is not a number (float)"),
        ("float", 10**400, f"sleep: x: {str(10**400)[:80]}... is not a number (float)"),
        pytest.param("str", 10**5000, "sleep: x: <int> is not text (str)", id="huge"),
        ("str", b"x", "sleep: x: b'x' is not text (str)"),
        ("str", 1, "sleep: x: 1 is not text (str)"),
        ("int", "y" * 99, f"sleep: x: '{'y' * 80}'... is not a whole number (int)"),
        ("float", MyFloat(1), "sleep: x: the value is a test_signature.MyFloat, a kind of float; "),
        (
            "Color",
            Shade.RED,
            "sleep: x: the value is a test_signature.Shade, a kind of str; use its .value",
        ),
        ("Color", Tint.RED, "sleep: x: the value is a test_signature.Tint; use its .value"),
        ("Color", "RED", "sleep: x: 'RED' is a name; pass a value: 'red', 2"),
        ("Color", "blue", "sleep: x: 'blue' is not one of 'red', 2"),
        ("date", "2026-01-01", "sleep: x: '2026-01-01' is text; pass a datetime.date"),
        ("date", 5, "sleep: x: 5 is not a date"),
        ("date", [5], "sleep: x: got list; use a date"),
        (
            "date",
            datetime(2026, 1, 1),
            "sleep: x: datetime.datetime(2026, 1, 1, 0, 0) is not a date; pass its .date()",
        ),
        ("dt.datetime", "noon", "sleep: x: 'noon' is text; pass a datetime.datetime"),
        ("timedelta", "5m", "sleep: x: '5m' is text; pass a datetime.timedelta"),
        ("Decimal", "1.5", "sleep: x: '1.5' is text; pass a decimal.Decimal"),
        ("UUID", UUID_TEXT, f"sleep: x: '{UUID_TEXT}' is text; pass a uuid.UUID"),
        ("bytes", "x", "sleep: x: 'x' is text; pass bytes"),
        ("bytes", 5, "sleep: x: 5 is not bytes"),
        ("L[1]", True, "sleep: x: True is not one of 1"),
        ("timedelta", 90, "sleep: x: 90 is not a duration (timedelta)"),
        ("Any", object(), "sleep: x: the value is an object; use plain data"),
        ("Any", Path(), "sleep: x: the value is a pathlib.PosixPath; use str(path)"),
        ("Any", {"a": {1: Path()}}, "sleep: x: the value contains "),
        (
            "dt.datetime",
            datetime(2026, 1, 1, tzinfo=ZoneInfo("Europe/Berlin")),
            "sleep: x: the value is a datetime of a ZoneInfo time zone; use .astimezone(",
        ),
        ("list[int]", (1,), "sleep: x: got tuple; use a list"),
        ("list[int]", [1, "2"], "sleep: x: '2' is not a whole number (int)"),
        ("list[date]", ["2026-01-01"], "sleep: x: '2026-01-01' is text; pass a datetime.date"),
        ("int | None", "", "sleep: x: '' is not a whole number (int)"),
    ],
)
def test_a_value_is_refused(define: Define, annotation: str, value: object, message: str) -> None:
    shape = parameter(define, annotation)
    for args, kwargs in (((value,), {}), ((), {"x": value})):
        said = refused(lambda a=args, k=kwargs: shape.bind(a, k, task="sleep"))
        assert said.startswith(message)
        assert ", such as" not in said and "UTF-8" not in said  # a text would be refused


def test_an_int_for_a_float_becomes_one(define: Define) -> None:
    (value, many), _ = define("def task(a: float, b: list[float | None]): ...").bind(
        (1, [2, None]), {}
    )
    assert repr(value) == "1.0"
    assert repr(many) == "[2.0, None]"


@pytest.mark.parametrize(
    ("parameters", "args", "kwargs", "message"),
    [
        ("a: int", (), {}, "sleep: missing argument a; it takes A"),
        ("a: int", (1, 2), {}, "sleep: takes 1 argument (a), 2 given; it takes A"),
        ("a: int", (1,), {"a": 2}, "sleep: a is given twice"),
        ("seconds: int", (), {"secnds": 2}, "sleep: takes no secnds; did you mean seconds?"),
        ("a: int", (1,), {"zzz": 2}, "sleep: takes no zzz; it takes A"),
        ("a: int, /", (), {"a": 2}, "sleep: takes no a; it takes A"),
        ("a: int, /, **more", (), {"a": 2}, "sleep: missing argument a; it takes A [--NAME"),
        ("**more", (), {Shade.RED: 2}, "sleep: the names of arguments must be plain str"),
        ("**more: int", (), {"\x1b[31m": "x"}, "sleep: '\\x1b[31m': 'x' is not a whole number"),
    ],
)
def test_places_are_refused(
    define: Define, parameters: str, args: tuple[Any, ...], kwargs: dict[str, Any], message: str
) -> None:
    shape = define(f"def task({parameters}): ...")
    assert refused(lambda: shape.bind(args, kwargs, task="sleep")).startswith(message)


def test_arguments_stay_where_they_were_given(define: Define) -> None:
    shape = define("def task(a: float, /, b: int = 0, *rest: float, c=1, **more: float): ...")
    call = shape.bind((1, 2, 3), {"a": 5, "c": "x"})
    assert call == ((1.0, 2, 3.0), {"a": 5.0, "c": "x"})
    assert repr(call) == "((1.0, 2, 3.0), {'a': 5.0, 'c': 'x'})"
    assert shape.bind((1,), {"b": 2}) == ((1.0,), {"b": 2})


def test_a_call_as_people_see_it(define: Define) -> None:
    shape = define("def task(seconds: float, token: str = '', *rest, name=1, **more): ...")
    shown = shape.call((1.0,), {"name": "x", "token": "t"}, ("token",))
    assert shown == "1.0, name='x', token=***"
    assert shape.call((1.0, "t", 2), {"key": 3}, ("token", "key")) == "1.0, ***, ***, key=***"
    assert shape.call((1.0, "t", 2), {"key": 3}, ("rest", "more")) == "1.0, 't', ***, key=***"
    assert shape.call(("\x1b[31m\n",), {"\x1b": 10**5000}) == "'\\x1b[31m\\n', '\\x1b'=<int>"
    assert Signature().call(("t",), {"token": "t", "a": 1}, ("token",)) == "***, token=***, a=1"
    assert Signature().call(("t",), {"a": 1}) == "'t', a=1"
    assert define("def task(): ...").call((1, 2), {"a": 1}, ("a",)) == "***, ***, a=***"


# --- properties


def taken(call: Callable[[], tuple[tuple[Any, ...], dict[str, Any]]]) -> list[Any]:
    """Return the arguments of a call, or none when it was refused in one printable line."""
    try:
        args, kwargs = call()
    except ArgumentError as error:
        message = str(error)
    else:
        return [*args, *kwargs.values()]
    assert message.isprintable()
    assert len(message) < 1000
    return []


def is_of(name: str, value: object) -> bool:
    return type(value) is CLASSES[name] or CLASSES[name] is object


CLASSES: dict[str, type] = {
    "str": str,
    "int": int,
    "float": float,
    "bool": bool,
    "bytes": bytes,
    "Decimal": Decimal,
    "date": date,
    "dt.datetime": datetime,
    "timedelta": timedelta,
    "UUID": UUID,
    "L['a', 'b', '1']": str,
    "Color": object,
    "Level": int,
    "dict": dict,
    "list": list,
    "list[float]": list,
    "list[date | None]": list,
    "list[Color]": list,
    "Any": object,
}
PLAIN_ZONES = st.none() | st.timedeltas(timedelta(hours=-23), timedelta(hours=23)).map(timezone)
LEAVES: dict[str, st.SearchStrategy[Any]] = {
    "str": st.text(),
    "int": st.integers(),
    "float": st.floats(),
    "bool": st.booleans(),
    "bytes": st.binary(),
    "Decimal": st.decimals(allow_nan=False),
    "date": st.dates(),
    "dt.datetime": st.datetimes(timezones=PLAIN_ZONES),
    "timedelta": st.timedeltas(),
    "UUID": st.uuids(),
}
PLAIN = st.recursive(
    st.none() | st.one_of(*LEAVES.values()) | st.times(),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(), inner, max_size=3),
    max_leaves=8,
)
TEXTS = st.one_of(
    st.text(),
    st.binary(max_size=20).map(os.fsdecode),
    st.text("0123456789+-._eEdhms:TZW ", max_size=25),
    st.sampled_from(
        ("true", "NaN", "RED", "a", "null", '["RED", 2, null]', "{}", "[1e999]", "\ud800")
    ),
    PLAIN.map(str),
    PLAIN.map(lambda value: json.dumps(value, default=str, skipkeys=True)),
    st.one_of(st.datetimes(timezones=PLAIN_ZONES), st.dates(), st.times()).map(
        lambda t: t.isoformat()
    ),
)


@pytest.fixture(scope="module")
def shapes(scratch: Path) -> dict[str, Signature]:
    """The signature of a task with one parameter, of each type."""
    lines = [f"def f{number}(x: {name}): ..." for number, name in enumerate(CLASSES)]
    write(scratch, "types_of_all.py", IMPORTS + "\n".join(lines))
    found = {name: read(f"types_of_all.f{number}") for number, name in enumerate(CLASSES)}
    assert all(shape.notes == () for shape in found.values())
    return found


@given(name=st.sampled_from([*CLASSES]), text=TEXTS)
@example(name="float", text="1" * 100_000 + "x")
@example(name="timedelta", text="1" * 100_000 + "x")
@example(name="Decimal", text="9" * 100_000)
@settings(max_examples=1500, deadline=None)
def test_a_text_becomes_its_type_or_is_refused(
    shapes: dict[str, Signature], name: str, text: str
) -> None:
    for value in taken(lambda: shapes[name].parse(["--", text])):
        assert is_of(name, value)
        assert plain_problem(value) is None
        assert repr(shapes[name].bind((value,), {})) == repr(((value,), {}))


@given(
    words=st.lists(
        st.text(max_size=5) | st.sampled_from(("--", "--a", "--b=1", "1", "--c-d")), max_size=5
    )
)
@settings(max_examples=500, deadline=None)
def test_any_words_give_arguments_or_are_refused(scratch: Path, words: list[str]) -> None:
    source = "def task(a: int, b='', /, *e: str, c_d: float = 0, **f: str): ..."
    if not (scratch / "wordy.py").exists():
        write(scratch, "wordy.py", source)
    taken(lambda: read("wordy.task").parse(words))


@given(st.data())
@settings(max_examples=400, deadline=None)
def test_a_plain_value_of_the_type_is_returned_equal(
    shapes: dict[str, Signature], data: st.DataObject
) -> None:
    name = data.draw(st.sampled_from([*LEAVES, "Any"]))
    value = data.draw(LEAVES.get(name, PLAIN))
    for args, kwargs in (((value,), {}), ((), {"x": value})):
        assert repr(shapes[name].bind(args, kwargs)) == repr((args, kwargs))


@given(value=PLAIN, name=st.sampled_from([*CLASSES]))
@settings(max_examples=400, deadline=None)
def test_any_plain_value_is_taken_or_refused(
    shapes: dict[str, Signature], name: str, value: object
) -> None:
    assert all(is_of(name, found) for found in taken(lambda: shapes[name].bind((value,), {})))


@pytest.mark.parametrize(
    ("text", "value"),
    [("pdf", "pdf"), ("PDF", "pdf"), ("ODT", "doc"), ("DOC", "DOC"), ("RAW", b"raw"), ("ONE", 1)],
)
def test_in_json_a_choice_is_a_value_or_a_name(text: str, value: object) -> None:
    """A text that is both a value and the name of another member is the value."""
    members = {"PDF": "pdf", "DOC": "x", "ODT": "doc", "OLD": "DOC", "RAW": b"raw", "ONE": 1}
    choice = Type("choice", choices=tuple(members.items()))
    assert choice.check(text, is_json=True) == value
    assert Type("list", Type("optional", choice)).check([text], is_json=True) == [value]


def test_in_json_the_values_of_a_choice_keep_their_types() -> None:
    choice = Type("choice", choices=(("true", True), ("1", 1), ("raw", b"raw")))
    assert [choice.check(value, is_json=True) for value in (True, 1, "1")] == [True, 1, 1]
    for wrong in ("rare", 2, 1.0, None):
        with pytest.raises(Invalid, match="is not one of true, 1, raw"):
            choice.check(wrong, is_json=True)
