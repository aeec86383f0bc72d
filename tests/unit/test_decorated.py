"""Decorated tasks, and parameters that no caller can pass."""

from __future__ import annotations

import importlib
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from rq.utils import import_attribute

from werk.errors import ArgumentError
from werk.tasks import classes
from werk.tasks.classes import unreachable
from werk.tasks.signature import read
from werk.worker.imported import other_signature

DECORATORS = """
import contextlib, functools, inspect
from functools import partial

def wrapped(function):
    @functools.wraps(function)
    def wrapper(*args, **kwargs):
        return function(*args, **kwargs)
    return wrapper

def bare(function):
    return lambda *args, **kwargs: function(*args, **kwargs)

def same(function):
    return function

def adds(function):
    @functools.wraps(function)
    def wrapper(tenant, *args, **kwargs):
        return function(*args, **kwargs)
    return wrapper

def gives_first(function):
    @functools.wraps(function)
    def wrapper(b="x"):
        return function(1, b)
    return wrapper

def signed(function):
    @functools.wraps(function)
    def wrapper(*args, **kwargs):
        return function(*args, **kwargs)
    first, *rest = inspect.signature(function).parameters.values()
    wrapper.__signature__ = inspect.Signature(rest)
    return wrapper

def class_of(function):
    class Wrapper:
        def __call__(self, a: int): ...
    return Wrapper()

class Broken:
    def __init__(self, function): ...
    def __call__(self): ...
    @property
    def __signature__(self):
        raise RuntimeError("broken")

class quietly(contextlib.ContextDecorator):
    def __enter__(self): ...
    def __exit__(self, *error): ...

"""


@pytest.fixture(autouse=True)
def _fresh(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    monkeypatch.syspath_prepend(str(tmp_path))
    read.cache_clear()
    classes._place.cache_clear()
    yield
    read.cache_clear()
    classes._place.cache_clear()


@pytest.fixture
def define(tmp_path: Path) -> Callable[..., str]:
    """Return a function that writes a module and returns its name, which no other test has."""

    def define(source: str, name: str = "") -> str:
        name = name or f"shop_{tmp_path.name}"
        (tmp_path / f"{name}.py").write_text(source)
        importlib.invalidate_caches()
        return name

    return define


@pytest.mark.parametrize("decorator", ["wrapped", "bare", "adds", "unknown.module(1)", "[same][0]"])
def test_the_written_signature_of_a_decorated_function_counts(
    define: Callable[..., str], decorator: str
) -> None:
    line = f'@{decorator}\ndef task(a: int, b: str = "x"):\n  """Do it."""\n'
    shape = read(f"{define(DECORATORS + line)}.task")
    assert (shape.usage(), shape.summary, shape.notes) == ("A [B]", "Do it.", ())
    with pytest.raises(ArgumentError, match="'one' is not a whole number"):
        shape.bind(["one"], {})


@pytest.mark.parametrize(
    ("lines", "path", "usage"),  # what differs, or None
    [
        ("def task(a: int, b: str = 'x'): ...", "task", None),
        ("@wrapped\ndef task(a: int, b: str = 'x'): ...", "task", None),
        ("@bare\ndef task(a: int): ...", "task", None),  # nothing contradicts it
        ("@same\ndef task(a: int): ...", "task", None),
        ("@quietly()\ndef task(a: int): ...", "task", None),
        ("@contextlib.contextmanager\ndef task(a: int): ...", "task", None),
        ("@functools.lru_cache(maxsize=1)\ndef task(a: int): ...", "task", None),
        ("@wrapped\n@bare\n@wrapped\ndef task(a: int): ...", "task", None),
        ("@wrapped\nasync def task(a: int, /, *rest, b=1, **more): ...", "task", None),
        ("@adds\ndef task(a: int): ...", "task", "TENANT [ARGS...] [--NAME JSON ...]"),
        ("@wrapped\n@gives_first\ndef task(a: int, b: str = 'x'): ...", "task", "[B]"),
        ("@signed\ndef task(a: int, *, b: int): ...", "task", "--b INT"),
        ("@partial(partial, b=2)\ndef task(a: int, b: int): ...", "task", "A [--b INT]"),
        ("@class_of\ndef task(a: int, b: int): ...", "task", "A"),
        ("@Broken\ndef task(a: int): ...", "task", None),
        ("@staticmethod\ndef task(a: int): ...", "task", None),
        ("class C:\n @staticmethod\n @wrapped\n def task(a: int): ...", "C.task", None),
        ("class C:\n @classmethod\n @wrapped\n def task(cls, a: int): ...", "C.task", None),
        ("class C:\n @classmethod\n @adds\n def task(cls, a: int): ...", "C.task", None),
        ("task = partial(print, 1)", "task", None),  # its source cannot be read
        ("def task(a: 'Unknown'): ...", "task", None),
    ],
)
def test_a_worker_finds_what_a_decorator_changes(
    define: Callable[..., str], lines: str, path: str, usage: str | None
) -> None:
    name = define(DECORATORS + lines)
    found = other_signature(f"{name}.{path}", import_attribute(f"{name}.{path}"))
    assert (found and found.usage()) == usage


def test_a_parameter_that_stays_keeps_its_type(define: Callable[..., str]) -> None:
    name = define(DECORATORS + "@gives_first\ndef task(a: int, b: int = 5): 'Do it.'")
    found = other_signature(f"{name}.task", importlib.import_module(name).task)
    assert found
    assert found.parse(["7"]) == ((7,), {})
    assert (found.parameters[0].default, found.summary) == ("5", "Do it.")


def test_no_secret_shows_where_a_decorator_may_shift_it(define: Callable[..., str]) -> None:
    """It gives the first argument, so the token is not in the place where it is written."""
    name = define(DECORATORS + "@unknown\ndef task(a, token=None): ...")
    shape = read(f"{name}.task")
    assert shape.call(("hush",), {}, ["token"]) == "***"
    assert shape.call((), {"a": 1, "token": "hush"}, ["token"]) == "a=1, token=***"
    assert shape.call((1,), {}) == "1"


# --- what no caller can pass

MODELS = """
import enum
from dataclasses import dataclass
from typing import NamedTuple, TypedDict
from pydantic_fake import BaseModel

@dataclass
class Order: ...
class Line(BaseModel): ...
class Point(NamedTuple):
  x: int
class Kind(enum.IntEnum):
  A = 1
class Data(TypedDict): ...
class More(Data): ...
"""
SHOP = """
import collections
import datetime as dt
import decimal
import models
import pathlib
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from enum import Enum, auto
from models import Data, Kind, Line, More, Order, Point
from pathlib import Path
from typing import Annotated, Any, Literal, NewType, Optional, Protocol, TypedDict, Union
from package import Deep
from nowhere import Unknown

UserId = NewType("UserId", int)

@dataclass
class Own: ...
class Local(TypedDict):
  a: int
class Local2(Local): ...
class Sized(Protocol): ...
class Auto(Enum):
  A = auto()
class Order2(Order): ...
class Loop(Loop): ...

"""
FIELDS = "is not plain data; pass its fields, or a dict, and build it in the task"
MEMBER = "is not plain data; pass the value of a member"


@pytest.fixture
def shop(define: Callable[..., str]) -> Callable[[str], list[tuple[str, str]]]:
    """Return a function that returns the notes of a task with this parameter x."""

    def notes(lines: str) -> list[tuple[str, str]]:
        define(MODELS, "models")
        define("class BaseModel: ...", "pydantic_fake")
        define("from _package import *", "package")
        define("from deeper import Deep", "_package")
        define("class Deep: ...", "deeper")
        shape = read(f"{define(SHOP + lines)}.task", unreachable)
        return [(note.kind, note.text.partition(": ")[2]) for note in shape.notes]

    return notes


@pytest.mark.parametrize(
    ("annotation", "problem"),
    [
        ("Own", f"Own {FIELDS}"),
        ("Order", f"Order {FIELDS}"),
        ("models.Order", f"models.Order {FIELDS}"),
        ("'Order'", f"Order {FIELDS}"),
        ("Order2", f"Order2 {FIELDS}"),
        ("Line", f"Line {FIELDS}"),
        ("Point", f"Point {FIELDS}"),
        ("Deep", f"Deep {FIELDS}"),
        ("Loop", f"Loop {FIELDS}"),
        ("Sized", f"Sized {FIELDS}"),
        ("collections.OrderedDict", f"collections.OrderedDict {FIELDS}"),
        ("list[Order]", f"Order {FIELDS}"),
        ("dict[str, list[Order]]", f"Order {FIELDS}"),
        ("Order | None", f"Order {FIELDS}"),
        ("Optional[Order]", f"Order {FIELDS}"),
        ("Union[Order, Own]", f"Order {FIELDS}"),
        ("Annotated[Order, 1]", f"Order {FIELDS}"),
        ("Kind", f"Kind {MEMBER}"),
        ("Auto", f"Auto {MEMBER}"),
        ("Path", "Path is not plain data; annotate it as str"),
        ("pathlib.Path", "pathlib.Path is not plain data; annotate it as str"),
        (
            "Callable[[int], str]",
            "Callable is not plain data; pass a name, and look the function up in the task",
        ),
    ],
)
def test_a_class_that_is_not_plain_data(
    shop: Callable[[str], list[tuple[str, str]]], annotation: str, problem: str
) -> None:
    wanted = [("unreachable", f"parameter x: {problem}")]
    assert shop(f"def task(x: {annotation}): ...") == wanted


@pytest.mark.parametrize(
    "annotation",
    [
        *("int", "Local", "Local2", "Data", "More", "UserId", "Unknown", "Unknown.part", "Any"),
        *("Mapping[str, int]", "Sequence[int]", "dt.time", "dt.datetime", "decimal.Decimal"),
        *("Order | dict", "Union[Order, int]", "Annotated[int, Order]", "Literal['Order']"),
        *("tuple[int, ...]", "set[str]", "'not a type'", "1 + 1", "''"),
    ],
)
def test_what_can_be_passed_or_is_unknown(
    shop: Callable[[str], list[tuple[str, str]]], annotation: str
) -> None:
    assert "unreachable" not in dict(shop(f"def task(x: {annotation}): ..."))


def test_an_object_whose_method_is_a_task(shop: Callable[[str], list[tuple[str, str]]]) -> None:
    wanted = "parameter self: no caller has this object; make the task a function without it"
    assert shop("@app.task(bind=True)\ndef task(self, x): ...") == [("unreachable", wanted)]
