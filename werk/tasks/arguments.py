"""A task's parameters, and what fits them: text -> typed arguments, Python values -> checked ones.

For the caller's side: arguments are checked and converted before anything is sent. The parameters
come from a task's source (signature.py) or from the catalog.
"""

from __future__ import annotations

import json
import os
import re
import sys
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from datetime import date, datetime, timedelta
from decimal import Decimal
from functools import partial
from itertools import chain, repeat
from operator import itemgetter
from typing import Any, NamedTuple
from uuid import UUID

from werk.errors import ArgumentError
from werk.printable import printable
from werk.store.plain import SCALARS, plain_problem

MAX_DIGITS = 4300  # of an int; with more a worker could not print it (sys.int_info)

# Options of werk-enqueue itself, which stand before the task.
OUR_OPTIONS = frozenset(
    "--wait --timeout --queue --front --delay --at --job-id --ttl --result-ttl --failure-ttl"
    " --retry --job-timeout --json --quiet --dry-run --once-per --slot --unless-active"
    " --expires --ping --args-json --batch --require-worker".split()
)

_Args = Sequence[object]
_Kwargs = Mapping[str, object]
_Call = tuple[tuple[object, ...], dict[str, object]]


class Unfit(Exception):
    """Raised when a value is not of a type: Unfit("the value as people see it", "is not ...")."""


class Type(NamedTuple):
    """What a parameter takes: a name of _KINDS."""

    name: str
    of: Type | None = None  # in a list or an optional; None: anything
    choices: tuple[tuple[str, object], ...] = ()  # of a Literal or an Enum: text -> value

    @classmethod
    def checked(cls, name: str, of: Type | None, choices: tuple[tuple[str, object], ...]) -> Type:
        """Return a type that another version of werk may have named; one not known takes JSON."""
        return cls(name, of, choices) if name in _KINDS or name == "optional" else JSON

    def __str__(self) -> str:
        if self.name == "choice":
            return "|".join(printable(text) for text, _ in self.choices)
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
        choices = ", ".join(printable(text) for text, _ in self.choices)
        return f"is not {_KINDS[self.name].wanted}{choices}"


JSON = Type("json")


KINDS = ("positional", "var_positional", "keyword", "var_keyword")


class Parameter(NamedTuple):
    """A parameter of a task."""

    name: str
    kind: str  # one of KINDS
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


class Signature:
    """The parameters of a task. What could not be read is *args, **kwargs of JSON, and a note."""

    def __init__(
        self,
        parameters: tuple[Parameter, ...] = (_ARGS, _KWARGS),
        summary: str = "",  # the docstring's first line
        notes: tuple[Note, ...] = (),
    ) -> None:
        self.parameters, self.summary, self.notes = parameters, summary, notes
        self.is_missing = any(note.kind in ("module", "function") for note in notes)  # no code
        self._places = [own for own in parameters if own.kind == "positional"]
        self._required = {own.name for own in parameters if own.required}
        self._named = {  # those that can be given by name
            own.name: own
            for own in parameters
            if own.kind in ("positional", "keyword") and not own.positional_only
        }
        self._classes = self._plain_classes()
        by_kind = {own.kind: own for own in parameters}
        self._rest, self._rest_named = by_kind.get("var_positional"), by_kind.get("var_keyword")

    def bind(
        self, args: _Args, kwargs: _Kwargs, task: str = "the task", secret: Collection[str] = ()
    ) -> _Call:
        """Return Python values checked and converted, each in the place it came in.

        Raises ArgumentError, without the value of a parameter in `secret`.
        """
        if not kwargs and tuple(map(type, args)) == self._classes:
            return tuple(args), {}  # as most calls are: nothing to convert
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

    def from_json(self, text: str, task: str = "the task", secret: Collection[str] = ()) -> _Call:
        """Return the typed arguments in a JSON array, or in an object of named ones.

        Raises as bind(). A text stands for what JSON lacks, such as a date.
        """
        try:
            value = _json(text)
        except Unfit as error:
            shown, problem = error.args
            shown = "the text" if secret else shown
            raise ArgumentError(f"{task}: {shown} {problem}") from None
        if type(value) is list:
            return self._fit(value, {}, _check_json, task, secret)
        if type(value) is dict:
            return self._fit((), value, _check_json, task, secret)
        raise ArgumentError(f"{task}: want a JSON array of arguments, or an object of named ones")

    def usage(self) -> str:
        """Return a line for help: 'SECONDS [FACTOR] [ARGS...] [--name TEXT]'."""
        return " ".join(own.usage if own.required else f"[{own.usage}]" for own in self.parameters)

    def call(self, args: _Args, kwargs: _Kwargs, secret: Collection[str] = ()) -> str:
        """Return the arguments of a bound call as people see them: "1.0, name='x', token=***"."""
        if not secret and not kwargs:
            return ", ".join([shown_repr(value) for value in args])
        return ", ".join(
            ("" if name is None else f"{_word(name)}=")
            + ("***" if self._is_secret(name, own, secret) else shown_repr(value))
            for name, own, value in self._owned(args, kwargs)
        )

    def masked(self, args: _Args, kwargs: _Kwargs, secret: Collection[str]) -> _Call:
        """Return a call with *** for each value of a secret parameter; for all if it is wrong."""
        is_wrong = bool(self._misplaced(len(args), kwargs))
        values = [
            "***" if is_wrong or self._is_secret(name, own, secret) else value
            for name, own, value in self._owned(args, kwargs)
        ]
        return tuple(values[: len(args)]), dict(zip(kwargs, values[len(args) :], strict=True))

    def named(self, args: _Args, kwargs: _Kwargs) -> list[tuple[str, object]]:
        """Return a bound call by names, the same whether arguments came in order or by name."""
        found = self._owned(args, kwargs)
        named = ((own.name if name is None else name, value) for name, own, value in found)
        return sorted(named, key=itemgetter(0))

    def _plain_classes(self) -> tuple[type | None, ...] | None:
        """Return the classes of all positionals, if a call of just those fits as it stands."""
        if not self._required <= {own.name for own in self._places}:
            return None
        kinds = [_KINDS.get(own.type.name) for own in self._places]
        classes = tuple(kind.cls if kind else None for kind in kinds)
        return classes if SCALARS.issuperset(classes) else None

    def _name_of(self, option: str, task: str, secret: Collection[str]) -> str:
        name = option[2:].replace("-", "_")
        if name in self._named or (self._rest_named and name.isidentifier()):
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
        if count > len(self._places) and not self._rest:
            least, most = sum(own.required for own in self._places), len(self._places)
            takes = most if least == most else f"{least} to {most}"
            return f"takes {takes} argument{'' if most == 1 else 's'}, {count} given"
        filled = {own.name for own in self._places[:count]}
        for name in kwargs:
            if name in filled and name in self._named:
                return f"{name} is given twice"
            if name not in self._named and not self._rest_named:
                return self._unknown(name, _word(name))
        if missing := self._required - filled - (self._named.keys() & kwargs.keys()):
            usages = [own.usage for own in self.parameters if own.name in missing]
            return f"missing {' and '.join(usages)}"
        return None

    def _owned(
        self, args: _Args, kwargs: _Kwargs
    ) -> Iterator[tuple[str | None, Parameter, object]]:
        """Yield of each argument the name, if it came with one, the parameter and the value."""
        for own, value in zip(chain(self._places, repeat(self._rest or _ARGS)), args, strict=False):
            yield None, own, value
        for name, value in kwargs.items():
            yield name, self._named.get(name) or self._rest_named or _KWARGS, value

    def _is_secret(self, name: str | None, own: Parameter, secret: Collection[str]) -> bool:
        if own.kind == "var_positional" and set(secret) - {own.name for own in self.parameters}:
            return True  # it may hold what a name without a parameter means
        return own.name in secret or name in secret


def _check(wanted: Type, value: object) -> object:
    if type(value) not in SCALARS and (problem := plain_problem(value)):
        raise Unfit("the value", problem)  # not shown: its repr may be anybody's code
    return wanted.check(value)


_check_json = partial(Type.check, is_json=True)


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
    text = shown_repr(value)
    return text[:80] + "..." * (len(text) > 80)


def shown_repr(value: object) -> str:
    try:
        return repr(value)
    except ValueError:  # a whole number of more digits than Python prints
        return f"<{type(value).__name__}>"


def _word(text: str) -> str:
    return text if re.fullmatch(r"[\w-]{1,80}", text) else _shown(text)


# --- text to values: Unfit with a reason of its own, or LookupError, ValueError, ArithmeticError

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
    "bool": _Kind(bool, lambda text: _BOOLS[text.lower()], "true or false (bool)"),
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
