"""A task's parameters, read from its source without running it; text -> typed arguments.

For the caller's side: arguments are checked and converted before anything is sent. `read` finds the
source where an import would, package by package, and looks at nothing but its syntax tree.
"""

from __future__ import annotations

import ast
import json
import os
import re
import sys
import threading
import warnings
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass
from datetime import date, datetime, timedelta
from decimal import Decimal
from functools import cache, cached_property
from importlib.machinery import ModuleSpec, PathFinder
from itertools import chain, repeat
from typing import Any, NamedTuple
from uuid import UUID

from werk.errors import ArgumentError
from werk.wire import plain_problem

MAX_SOURCE = 1024 * 1024  # bytes; its syntax tree takes a hundred times as much
MAX_DIGITS = 4300  # of an int; with more a worker could not print it (sys.int_info)

# Options of werk-enqueue itself, which stand before the task.
OUR_OPTIONS = frozenset(
    "--wait --timeout --queue --front --delay --at --job-id --ttl --result-ttl --failure-ttl"
    " --retry --job-timeout --json --quiet --dry-run --once-per --slot --unless-active"
    " --require-worker".split()
)

_Args = Sequence[object]
_Kwargs = Mapping[str, object]
_Call = tuple[tuple[object, ...], dict[str, object]]


class Unfit(Exception):
    """Raised when a value is not of a type: Unfit("the value as people see it", "is not ...")."""


@dataclass(frozen=True)
class Type:
    """What a parameter takes: a name of _KINDS."""

    name: str
    of: Type | None = None  # in a list or an optional; None: anything
    choices: tuple[tuple[str, object], ...] = ()  # of a Literal or an Enum: text -> value

    def __str__(self) -> str:
        if self.name == "choice":
            return "|".join(_printable(text) for text, _ in self.choices)
        if self.name == "optional":
            return f"{self.of} | None"
        return f"{self.name}[{self.of}]" if self.of else self.name

    def parse(self, text: str) -> object:
        """Return the value that a word of the command line stands for. Raises Unfit."""
        if self.name == "optional":
            return None if text == "" else self._inner.parse(text)
        try:
            if self.choices:
                return dict(self.choices)[text]
            return self.check(_KINDS[self.name].read(text), is_json=True)
        except (LookupError, ValueError, ArithmeticError):
            raise Unfit(_shown(text), self._problem) from None

    def check(self, value: object, is_json: bool = False) -> object:
        """Return a plain value as this type has it: a float for an int. Raises Unfit.

        In JSON a text stands for what JSON itself lacks: a date, a Decimal, a name in an Enum.
        """
        if self.name == "optional":
            return None if value is None else self._inner.check(value, is_json)
        if self.name == "list" and type(value) is list:
            return [self._inner.check(item, is_json) for item in value]
        cls = _KINDS[self.name].cls
        if is_json and type(value) is str and cls not in _IN_JSON:
            return self.parse(value)
        if cls is object or type(value) is cls:
            return value
        if cls is float and type(value) is int and abs(value) <= sys.float_info.max:
            return float(value)
        for _, choice in self.choices:
            if type(choice) is type(value) and choice == value:
                return choice
        raise Unfit(_shown(value), self._problem)

    @property
    def _inner(self) -> Type:
        return self.of or JSON

    @property
    def _problem(self) -> str:
        choices = ", ".join(_printable(text) for text, _ in self.choices)
        return f"is not {_KINDS[self.name].wanted}{choices}"


JSON = Type("json")


@dataclass(frozen=True)
class Parameter:
    """A parameter of a task; kind: "positional", "var_positional", "keyword" or "var_keyword"."""

    name: str
    kind: str
    type: Type = JSON
    required: bool = False
    default: str | None = None  # its source text, for help
    positional_only: bool = False

    @property
    def usage(self) -> str:
        """Return how it is written on the command line: SECONDS, or --name TEXT."""
        own = self.type.of if self.type.name == "optional" and self.type.of else self.type
        value = str(own) if own.choices else _WORDS.get(own.name, own.name.upper())
        return {
            "positional": self.name.upper(),
            "var_positional": f"{self.name.upper()}...",
            "keyword": f"--{self.name.replace('_', '-')} {value}",
            "var_keyword": f"--NAME {value} ...",
        }[self.kind]


_WORDS = {"str": "TEXT", "bytes": "TEXT", "dict": "JSON", "list": "JSON"}
_ARGS, _KWARGS = Parameter("args", "var_positional"), Parameter("kwargs", "var_keyword")


class Note(NamedTuple):
    """What `read` could not do, for `werk tasks --check`.

    kind: "module" (there is none), "function" (there is none in the module), "unread" (it is there,
    its parameters cannot be read), "parameter" (cannot be typed) or "reserved" (its name is taken).
    """

    kind: str
    text: str


@dataclass(frozen=True)
class Signature:
    """The parameters of a task. What could not be read is *args, **kwargs of JSON, and a note."""

    parameters: tuple[Parameter, ...] = (_ARGS, _KWARGS)
    summary: str = ""  # the docstring's first line
    notes: tuple[Note, ...] = ()

    def bind(
        self, args: _Args, kwargs: _Kwargs, task: str = "the task", secret: Collection[str] = ()
    ) -> _Call:
        """Return Python values checked and converted, each in the place it came in.

        Raises ArgumentError, without the value of a parameter in `secret`.
        """
        if not all(type(name) is str for name in kwargs):  # a StrEnum's: it would be sent as such
            raise ArgumentError(f"{task}: the names of arguments have to be plain str")
        return self._fit(args, kwargs, _check, task, secret)

    def parse(
        self, words: Sequence[str], task: str = "the task", secret: Collection[str] = ()
    ) -> _Call:
        """Return the typed arguments in words of the command line. Raises as bind()."""
        args: list[str] = []
        kwargs: dict[str, str] = {}
        rest = iter(words)
        for word in rest:
            if word == "--":
                args.extend(rest)
            elif not word.startswith("--"):  # -1 is a number, -x a text
                args.append(word)
            else:
                option, has_value, value = word.partition("=")
                name = self._name_of(option, task, secret)
                if name in kwargs:
                    raise ArgumentError(f"{task}: {_word(option)} is given twice")
                kwargs[name] = value if has_value else _next_value(rest, option, task)
        return self._fit(args, kwargs, Type.parse, task, secret)

    def usage(self) -> str:
        """Return a line for help: 'SECONDS [FACTOR] [ARGS...] [--name TEXT]'."""
        return " ".join(own.usage if own.required else f"[{own.usage}]" for own in self.parameters)

    def call(self, args: _Args, kwargs: _Kwargs, secret: Collection[str] = ()) -> str:
        """Return the arguments of a bound call as people see them: "1.0, name='x', token=***"."""
        return ", ".join(
            ("" if name is None else f"{_word(name)}=")
            + ("***" if self._is_secret(name, own, secret) else _repr(value))
            for name, own, value in self._owned(args, kwargs)
        )

    def _name_of(self, option: str, task: str, secret: Collection[str]) -> str:
        name = option[2:].replace("-", "_")
        if name in self._named or (self._find("var_keyword") and name.isidentifier()):
            return name
        if option in OUR_OPTIONS:
            raise ArgumentError(f"put {option} before {task}")
        shown = "" if secret else _word(option)  # it may be meant as a value
        raise ArgumentError(f"{task}: {self._unknown(name, shown, '--')}")

    def _unknown(self, name: str, shown: str, prefix: str = "") -> str:
        import difflib  # only on the way to an error

        near = difflib.get_close_matches(name[:80], self._named, n=1, cutoff=0.5)
        takes = f"it takes {self.usage() or 'nothing'}"
        hint = f"did you mean {prefix}{near[0]}?" if near else takes
        return f"takes no {shown or 'such option'}; {hint}"

    def _fit(
        self,
        args: _Args,
        kwargs: _Kwargs,
        convert: Callable[[Type, Any], object],
        task: str,
        secret: Collection[str],
    ) -> _Call:
        """Return each argument converted for the parameter that takes it."""
        if problem := self._misplaced(len(args), kwargs):
            raise ArgumentError(f"{task}: {problem}")
        values = []
        for name, own, value in self._owned(args, kwargs):
            try:
                values.append(convert(own.type, value))
            except Unfit as error:
                shown, problem = error.args
                shown = "the value" if self._is_secret(name, own, secret) else shown
                place = _word(own.name if name is None else name)
                raise ArgumentError(f"{task}: {place}: {shown} {problem}") from None
        return tuple(values[: len(args)]), dict(zip(kwargs, values[len(args) :], strict=True))

    def _misplaced(self, count: int, kwargs: _Kwargs) -> str | None:
        """Say which argument has no parameter, or which parameter has no argument or two."""
        places = [own for own in self.parameters if own.kind == "positional"]
        if count > len(places) and not self._find("var_positional"):
            least, most = sum(own.required for own in places), len(places)
            takes = most if least == most else f"{least} to {most}"
            return f"takes {takes} argument{'' if most == 1 else 's'}, {count} given"
        filled = {own.name for own in places[:count]}
        for name in kwargs:
            if name in filled and name in self._named:
                return f"{name} is given twice"
            if name not in self._named and not self._find("var_keyword"):
                return self._unknown(name, _word(name))
        filled |= self._named.keys() & kwargs.keys()
        missing = [own.usage for own in self.parameters if own.required and own.name not in filled]
        return f"missing {' and '.join(missing)}" if missing else None

    def _owned(
        self, args: _Args, kwargs: _Kwargs
    ) -> Iterator[tuple[str | None, Parameter, object]]:
        """Yield of each argument the name, if it came with one, the parameter and the value."""
        places = (own for own in self.parameters if own.kind == "positional")
        more = repeat(self._find("var_positional") or _ARGS)
        for own, value in zip(chain(places, more), args, strict=False):
            yield None, own, value
        for name, value in kwargs.items():
            yield name, self._named.get(name) or self._find("var_keyword") or _KWARGS, value

    def _is_secret(self, name: str | None, own: Parameter, secret: Collection[str]) -> bool:
        if own.kind == "var_positional" and set(secret) - {own.name for own in self.parameters}:
            return True  # it may hold what a name without a parameter means
        return own.name in secret or name in secret

    def _find(self, kind: str) -> Parameter | None:
        return next((own for own in self.parameters if own.kind == kind), None)

    @cached_property
    def _named(self) -> dict[str, Parameter]:
        """Return the parameters that can be given by name."""
        own = (own for own in self.parameters if own.kind in ("positional", "keyword"))
        return {own.name: own for own in own if not own.positional_only}


def _check(wanted: Type, value: object) -> object:
    if problem := plain_problem(value):
        raise Unfit("the value", problem)  # not shown: its repr may be anybody's code
    return wanted.check(value)


def _next_value(rest: Iterator[str], option: str, task: str) -> str:
    value = next(rest, "--")
    if not value.startswith("--"):
        return value
    hint = f"; if it is werk's own, put it before {task}" if option in OUR_OPTIONS else ""
    raise ArgumentError(f"{task}: {_word(option)} needs a value: {_word(option)}=VALUE{hint}")


# --- values as people see them


def _shown(value: object) -> str:
    """Return a plain value for a message: short and on one line."""
    if type(value) is str or type(value) is bytes:
        return repr(value[:80]) + "..." * (len(value) > 80)
    if type(value) in (list, tuple, dict, set, frozenset):
        return f"the {type(value).__name__}"
    text = _repr(value)
    return text[:80] + "..." * (len(text) > 80)


def _repr(value: object) -> str:
    try:
        return repr(value)
    except ValueError:  # a whole number of more digits than Python prints
        return f"<{type(value).__name__}>"


def _word(text: str) -> str:
    return text if re.fullmatch(r"[\w-]{1,80}", text) else _shown(text)


def _printable(text: str) -> str:
    return text if text.isprintable() else repr(text)[1:-1]


# --- text to values: each raises ValueError, ArithmeticError, or Unfit with a reason of its own

_INTEGER = r"[+-]?[0-9]+"
_NUMBER = r"[+-]?([0-9]+(\.[0-9]*)?|\.[0-9]+)([eE][+-]?[0-9]+)?"
_COUNT = r"([0-9]+(?:\.[0-9]+)?)"
_DURATION = rf"(-?)(?=[0-9])(?:{_COUNT}d)?(?:{_COUNT}h)?(?:{_COUNT}m)?(?:{_COUNT}s)?"
_UUID = r"[0-9a-fA-F]{8}(-?[0-9a-fA-F]{4}){3}-?[0-9a-fA-F]{12}"
_BOOLS = {"true": True, "yes": True, "1": True, "false": False, "no": False, "0": False}


def _match(pattern: str, text: str) -> re.Match[str]:
    if found := re.fullmatch(pattern, text):
        return found
    raise ValueError(text)


def _text(text: str) -> str:
    try:
        text.encode()
    except UnicodeEncodeError:  # bytes that were not UTF-8 come as lone surrogates (os.fsdecode)
        raise Unfit(_shown(text), "is not valid UTF-8") from None
    return text


def _int(text: str) -> int:
    if len(_match(_INTEGER, text)[0]) > MAX_DIGITS:
        raise Unfit(_shown(text), f"has more than {MAX_DIGITS} digits")
    return int(text)


def _float(text: str) -> float:
    number = float(_match(_NUMBER, text)[0])
    if abs(number) > sys.float_info.max:
        raise Unfit(_shown(text), "is too large for a float")
    return number


def _bool(text: str) -> bool:
    _match("|".join(_BOOLS), text.lower())
    return _BOOLS[text.lower()]


def _decimal(text: str) -> Decimal:
    number = Decimal(_match(_NUMBER, text)[0])
    if not number.is_finite():  # out of range, where the caller's decimal context lets that pass
        raise ValueError(text)
    return number


def _timedelta(text: str) -> timedelta:
    if re.fullmatch(_NUMBER, text):
        return timedelta(seconds=float(text))
    sign, *counts = _match(_DURATION, text).groups("0")
    days, hours, minutes, seconds = map(float, counts)
    total = timedelta(days, seconds, minutes=minutes, hours=hours)
    return -total if sign else total


def _json(text: str) -> object:
    try:
        value: object = json.loads(
            _text(text),
            parse_int=_int,
            parse_float=_float,
            parse_constant=_float,  # NaN and Infinity, which it refuses
            object_pairs_hook=_object,
        )
    except json.JSONDecodeError as error:
        reason = f'is not JSON, where text is "quoted": {error.msg} at character {error.pos + 1}'
        raise Unfit(_shown(text), reason) from None
    except (ValueError, RecursionError):
        raise Unfit(_shown(text), "is not JSON, or nested too deeply") from None
    if problem := plain_problem(value):
        raise Unfit(_shown(text), problem)
    return value


def _object(pairs: list[tuple[str, object]]) -> dict[str, object]:
    if len(dict(pairs)) < len(pairs):
        raise Unfit("the object", "has a key twice")
    return dict(pairs)


class _Kind(NamedTuple):
    cls: type | None  # what Python values have to be, exactly; object: anything plain
    read: Callable[[str], object]
    wanted: str


_KINDS = {
    "str": _Kind(str, _text, "text (str)"),
    "int": _Kind(int, _int, "a whole number (int)"),
    "float": _Kind(float, _float, "a number (float)"),
    "bool": _Kind(bool, _bool, "true or false (bool)"),
    "bytes": _Kind(bytes, os.fsencode, "bytes, or text in UTF-8"),
    "decimal": _Kind(Decimal, _decimal, "a decimal number (Decimal)"),
    "date": _Kind(date, date.fromisoformat, "a date: 2026-01-31"),
    "datetime": _Kind(datetime, datetime.fromisoformat, "a datetime: 2026-01-31T18:00Z"),
    "duration": _Kind(timedelta, _timedelta, "a duration (timedelta): 90, 90s, 1h30m"),
    "uuid": _Kind(UUID, lambda text: UUID(_match(_UUID, text)[0]), "a UUID"),
    "dict": _Kind(dict, _json, "a dict, in JSON"),
    "list": _Kind(list, _json, "a list, in JSON"),
    "choice": _Kind(None, _text, "one of "),
    "json": _Kind(object, _json, "JSON"),
}  # and "optional", which is None or its inner type
_IN_JSON = (str, int, float, bool, list, dict, object)  # what JSON has itself


# --- source to signature

# What an annotation means, by the full name of what it names.
_TYPES = {
    **{name: Type(name) for name in ("str", "int", "float", "bool", "bytes", "dict", "list")},
    **{"typing.Dict": Type("dict"), "typing.List": Type("list")},
    **{"typing.Any": JSON, "object": JSON},
    **{"datetime.date": Type("date"), "datetime.datetime": Type("datetime")},
    **{"datetime.timedelta": Type("duration"), "decimal.Decimal": Type("decimal")},
    "uuid.UUID": Type("uuid"),
}
_ENUMS: dict[object, tuple[type, ...]] = {  # and what values they may have
    "enum.Enum": (bool, int, float, str, bytes),
    "enum.IntEnum": (int,),
    "enum.StrEnum": (str,),
}
# Decorators that leave a function's parameters, or an Enum's values, as they are written.
_HARMLESS = frozenset(
    "staticmethod classmethod functools.cache functools.lru_cache typing.final typing.override"
    " warnings.deprecated typing.deprecated rq.decorators.job enum.unique".split()
)
_Function = ast.FunctionDef | ast.AsyncFunctionDef
_SCOPES = (
    *(ast.FunctionDef, ast.AsyncFunctionDef, ast.ClassDef, ast.Lambda),
    *(ast.ListComp, ast.SetComp, ast.DictComp, ast.GeneratorExp),
)
_parsing = threading.Lock()  # catch_warnings in two threads at once can leave warnings off


class _Unread(Exception):
    """Raised when a function's parameters cannot be read: _Unread(kind of the note, its text)."""


@cache
def read(path: str) -> Signature:
    """Return the parameters of the function at a dotted path, running nothing; never raises.

    The path means what it means to a worker (rq.utils.import_attribute). What cannot be read is
    *args, **kwargs of JSON, and the reason is in `notes`.
    """
    try:
        return _read(path.split("."))
    except _Unread as error:
        return Signature(notes=(Note(*error.args),))
    except RecursionError:
        return Signature(notes=(Note("unread", f"{path}: its source is nested too deeply"),))


def _read(names: list[str]) -> Signature:
    spec, depth = _locate(names)
    module = _Module(spec, ".".join(names[:depth]))
    function, is_bound = module.function(names[depth:])
    notes: list[Note] = []
    parameters = []
    for arg, kind, default in _rows(function.args)[is_bound:]:
        own = module.type_of(arg.annotation)
        place = f"{module.place(arg)}: parameter {arg.arg}"
        if own is None:
            unknown = f"the type {_source(arg.annotation)} cannot be read; it takes JSON"
            notes.append(Note("parameter", f"{place}: {unknown}"))
        is_one = kind in ("positional", "keyword")
        is_nameless = arg in function.args.posonlyargs
        if is_one and not is_nameless and arg.arg in ("options", "connection"):
            notes.append(Note("reserved", f"{place}: werk.enqueue has its own {arg.arg}="))
        text = _source(default) if default else None
        required = is_one and not default
        parameters.append(Parameter(arg.arg, kind, own or JSON, required, text, is_nameless))
    doc = (ast.get_docstring(function, clean=False) or "").strip().split("\n")[0].strip()
    summary = "".join(letter if letter.isprintable() else " " for letter in doc)
    return Signature(tuple(parameters), summary, tuple(notes))


def _locate(names: list[str]) -> tuple[ModuleSpec, int]:
    """Return the module in a dotted path as an import finds it, and how many names are its own."""
    spec, depth = _find_spec(names[0], None), 1
    while spec and depth < len(names) - 1 and spec.submodule_search_locations is not None:
        inner = _find_spec(".".join(names[: depth + 1]), [*spec.submodule_search_locations])
        if not inner:
            break
        spec, depth = inner, depth + 1
    if not spec or len(names) < 2:
        raise _Unread("module", f"no module {names[0]} on sys.path")
    return spec, depth


def _find_spec(name: str, search: list[str] | None) -> ModuleSpec | None:
    """Ask what an import asks: sys.path's finder, an editable install's. Imports nothing."""
    for finder in sys.meta_path:
        # the last part: of a whole name, sys.path's finder looks in sys.modules for the parent
        asked = name.rpartition(".")[2] if finder is PathFinder else name
        try:
            spec = finder.find_spec(asked, search)
        except Exception:  # a finder that is not Python's own can raise anything
            continue
        if spec:
            return spec
    return None


def _rows(args: ast.arguments) -> list[tuple[ast.arg, str, ast.expr | None]]:
    """Return each parameter with its kind and its default."""
    places = [*args.posonlyargs, *args.args]
    defaults = [*repeat(None, len(places) - len(args.defaults)), *args.defaults]
    return [
        *zip(places, repeat("positional"), defaults, strict=False),
        *([(args.vararg, "var_positional", None)] if args.vararg else []),
        *zip(args.kwonlyargs, repeat("keyword"), args.kw_defaults, strict=False),
        *([(args.kwarg, "var_keyword", None)] if args.kwarg else []),
    ]


class _Module:
    """A module's syntax tree, and what its names mean."""

    def __init__(self, spec: ModuleSpec, name: str) -> None:
        self.name = name
        self.is_package = spec.submodule_search_locations is not None
        self.file = spec.origin or ""  # none: a folder without __init__.py
        self.tree = self._parse() if self.file else ast.Module([], [])
        self.bound = _bindings(self.tree)

    def place(self, node: ast.AST) -> str:
        return f"{self.file}:{getattr(node, 'lineno', 1)}"

    def _parse(self) -> ast.Module:
        if not self.file.endswith(".py"):
            raise _Unread("unread", f"{self.name} has no source ({self.file})")
        try:
            with open(self.file, "rb") as file:
                data = file.read(MAX_SOURCE + 1)
            if len(data) > MAX_SOURCE:
                raise _Unread("unread", f"{self.file}: larger than {MAX_SOURCE:,} bytes")
            with _parsing, warnings.catch_warnings():
                warnings.simplefilter("ignore")  # a "\d" is the business of the task's author
                return ast.parse(data)
        except SyntaxError as error:
            raise _Unread("unread", f"{self.file}:{error.lineno or 1}: {error.msg}") from None
        except (OSError, ValueError, MemoryError) as error:
            why = getattr(error, "strerror", None) or str(error) or "nested too deeply"
            raise _Unread("unread", f"{self.file}: {why}") from None

    def function(self, names: list[str]) -> tuple[_Function, bool]:
        """Return a function, or a class's method, and whether its first argument is the class."""
        owner, found = None, self._definition(self.tree, names[0])
        if len(names) == 2 and isinstance(found, ast.ClassDef):
            owner, found = found, self._definition(found, names[1])
        elif len(names) > 1 and self.is_package and not found:
            raise _Unread("module", f"no module {self.name}.{names[0]} on sys.path")
        elif len(names) > 1 and not isinstance(found, ast.Import | ast.ImportFrom):
            found = None
        dotted = ".".join(names)
        if not found:
            raise _Unread("function", f"{self.file or self.name} has no function {dotted}")
        return self._undecorated(found, dotted, is_method=owner is not None)

    def _undecorated(self, node: ast.AST, dotted: str, is_method: bool) -> tuple[_Function, bool]:
        place = f"{self.place(node)}: {dotted}"
        if isinstance(node, ast.Import | ast.ImportFrom):
            real = _imported(node, dotted.partition(".")[0])
            raise _Unread("unread", f"{place} is imported there ({real}); name its own module")
        if not isinstance(node, _Function):
            raise _Unread("unread", f"{place} is not made there by def")
        decorators = self._decorators(node)
        for name, written in zip(decorators, node.decorator_list, strict=True):
            if name not in _HARMLESS:
                raise _Unread("unread", f"{place}: @{_source(written)} may change its parameters")
        if is_method and not {"staticmethod", "classmethod"} & {*decorators}:
            raise _Unread("unread", f"{place} is called on an object; make it a staticmethod")
        return node, "classmethod" in decorators

    def _definition(self, scope: ast.Module | ast.ClassDef, name: str) -> ast.AST | None:
        bound = self.bound if scope is self.tree else _bindings(scope)
        found = bound.get(name, [])
        if not found and ("*" in bound or "__getattr__" in bound or getattr(scope, "bases", [])):
            raise _Unread("unread", f"{self.file}: {name} comes from another module or class")
        if len(found) > 1 and found[-1] not in scope.body:
            raise _Unread("unread", f"{self.place(found[-1])}: {name} is made in several ways")
        return found[-1] if found else None

    def _decorators(self, node: _Function | ast.ClassDef) -> list[str | ast.ClassDef | None]:
        plain = (each.func if isinstance(each, ast.Call) else each for each in node.decorator_list)
        return [self._meaning(each) for each in plain]

    def _meaning(self, node: ast.AST) -> str | ast.ClassDef | None:
        """Return the full name of what an expression names, or a class of this module."""
        if isinstance(node, ast.Attribute):
            owner = self._meaning(node.value)
            return f"{owner}.{node.attr}" if isinstance(owner, str) else None
        if not isinstance(node, ast.Name):
            return None
        if node.id not in self.bound:
            return node.id
        binding = self.bound[node.id][-1]
        if isinstance(binding, ast.Import | ast.ImportFrom):
            return _imported(binding, node.id).replace("typing_extensions", "typing")
        return binding if isinstance(binding, ast.ClassDef) else None

    def type_of(self, node: ast.AST | None) -> Type | None:
        """Return what an annotation means, or None if it cannot be told."""
        match node:
            case None:
                return JSON
            case ast.Constant(str(text)):
                try:
                    return self.type_of(ast.parse(text.strip(), mode="eval").body)
                except (SyntaxError, ValueError, MemoryError):
                    return None
            case ast.BinOp(left, ast.BitOr(), right):
                return self._union([left, right])
            case ast.Subscript(of, ast.Tuple([_, *_] as parts)):
                return self._generic(self._meaning(of), parts)
            case ast.Subscript(of, part):
                return self._generic(self._meaning(of), [part])
        named = self._meaning(node)
        return self._enum(named) if isinstance(named, ast.ClassDef) else _TYPES.get(named or "")

    def _generic(self, name: object, parts: list[ast.expr]) -> Type | None:
        match name:
            case "list" | "typing.List":
                of = self.type_of(parts[0])
                return of and Type("list", of)
            case "dict" | "typing.Dict":
                return Type("dict")
            case "typing.Optional":
                return self._union([*parts, ast.Constant(None)])
            case "typing.Union":
                return self._union(parts)
            case "typing.Annotated":
                return self.type_of(parts[0])
            case "typing.Literal":
                return _literal(parts)
        return None

    def _union(self, parts: list[ast.expr]) -> Type | None:
        some = [p for p in parts if not (isinstance(p, ast.Constant) and p.value is None)]
        of = self.type_of(some[0]) if len(some) == 1 else None
        if of is None or of.name == "optional" or len(some) == len(parts):
            return of
        return Type("optional", of)

    def _enum(self, node: ast.ClassDef) -> Type | None:
        """Return the members of an Enum that says their values outright."""
        *mixins, base = [self._meaning(base) for base in node.bases] or [None]
        kinds = [cls for cls in _ENUMS.get(base, ()) if not mixins or mixins == [cls.__name__]]
        if node.keywords or not _HARMLESS.issuperset(self._decorators(node)):
            return None
        members: list[tuple[str, object]] = []
        for line in node.body:
            match line:
                case ast.Assign([ast.Name(name)], value) if not name.startswith("_"):
                    members.append((name, _constant(value)))
                case ast.FunctionDef(name) if name != "__new__":
                    pass
                case ast.Expr(ast.Constant()) | ast.Pass():
                    pass
                case _:
                    return None
        is_plain = members and all(type(value) in kinds for _, value in members)
        return Type("choice", choices=tuple(members)) if is_plain else None


def _literal(parts: list[ast.expr]) -> Type | None:
    values = [_constant(part) for part in parts]
    if not all(type(value) in (str, bool, int) for value in values):
        return None
    texts = [value if isinstance(value, str) else _repr(value).lower() for value in values]
    return Type("choice", choices=tuple(zip(texts, values, strict=True)))


def _constant(node: ast.AST) -> object:
    """Return a value that is written out, or ... for any other."""
    try:
        return ast.literal_eval(node)
    except (ValueError, TypeError, SyntaxError, MemoryError):
        return ...


def _source(node: ast.AST | None) -> str:
    try:
        return _printable(ast.unparse(node)) if node else ""
    except ValueError:  # an f-string with a backslash in it
        return "..."


def _imported(node: ast.Import | ast.ImportFrom, name: str) -> str:
    """Return the full name of what an import binds a name to; a relative one begins with dots."""
    for alias in node.names:
        if isinstance(node, ast.ImportFrom) and name == (alias.asname or alias.name):
            return f"{'.' * node.level}{node.module or ''}.{alias.name}"
        if alias.asname == name:
            return alias.name
    return name


def _bindings(scope: ast.Module | ast.ClassDef) -> dict[str, list[ast.AST]]:
    """Return what binds each name in a scope, in order, without its inner scopes."""
    bound: dict[str, list[ast.AST]] = {}
    todo: list[ast.AST] = [*reversed(scope.body)]
    while todo:
        node = todo.pop()
        names = []
        match node:
            case ast.FunctionDef(name) | ast.AsyncFunctionDef(name) | ast.ClassDef(name):
                names = [name]
            case ast.Import(aliases):
                names = [alias.asname or alias.name.partition(".")[0] for alias in aliases]
            case ast.ImportFrom(_, aliases):
                names = [alias.asname or alias.name for alias in aliases]
            case ast.Name(name, ast.Store() | ast.Del()):
                names = [name]
        for name in names:
            bound.setdefault(name, []).append(node)
        if not isinstance(node, _SCOPES):
            todo.extend(reversed([*ast.iter_child_nodes(node)]))
    return bound
