"""A task's parameters, and the arguments for them: checked and converted by types.py.

Callers check and convert arguments before they send anything. The parameters come from a task's
source (signature.py) or from the catalog.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from functools import partial
from itertools import chain, repeat
from typing import Any, NamedTuple

from werk.errors import ArgumentError
from werk.store.plain import SCALARS, plain_problem
from werk.tasks.types import CLASSES, JSON, Invalid, Type, read_json, shown_repr, shown_word

_Args = Sequence[object]
_Kwargs = Mapping[str, object]
_Call = tuple[tuple[object, ...], dict[str, object]]

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
        """Return the parameter as the command line takes it: SECONDS, or --name TEXT."""
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
    """A finding of signature.read, for `werk tasks --check`.

    kind: "module" (does not exist, or is not Python), "function" (not in the module), "unread" (its
    parameters cannot be read), "parameter" (its type cannot be read), "reserved" (its name is
    taken) or "unreachable" (no caller can pass what it takes).
    """

    kind: str
    text: str


class Signature:
    """The parameters of a task. If they cannot be read: *args, **kwargs of JSON, and a note."""

    def __init__(
        self,
        parameters: tuple[Parameter, ...] = (_ARGS, _KWARGS),
        summary: str = "",  # the docstring's first line
        notes: tuple[Note, ...] = (),
        returns: Type = JSON,  # what its result is; JSON: not known
        *,
        is_decorated: bool = False,  # a decorator may change the parameters
    ) -> None:
        self.is_decorated = is_decorated
        self.parameters, self.summary, self.notes = parameters, summary, notes
        self.returns = returns
        missing = [note.text for note in notes if note.kind in ("module", "function")]
        self.is_missing, self.missing = bool(missing), "; ".join(missing)  # no code, and why
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
        """Return Python values checked and converted, each in the place where it was passed.

        Raises ArgumentError, without the value of a parameter in `secret`.
        """
        if not kwargs and tuple(map(type, args)) == self._classes:
            return tuple(args), {}  # the usual case: nothing to convert
        if not all(type(name) is str for name in kwargs):  # a StrEnum would be sent as an object
            raise ArgumentError(f"{task}: the names of arguments must be plain str")
        return self._converted(args, kwargs, _check, task, secret)

    def parse(
        self,
        words: Sequence[str],
        task: str = "the task",
        secret: Collection[str] = (),
        reserved: Collection[str] = (),
    ) -> _Call:
        """Return the typed arguments in words of the command line. Raises as bind().

        Options in `reserved` are those of the command itself, which come before the task.
        """
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
                name = self._name_of(option, task, secret, reserved)
                if name in kwargs:
                    raise ArgumentError(f"{task}: {shown_word(option)} is given twice")
                kwargs[name] = value if has_value else _next_value(rest, option, task, reserved)
        return self._converted(args, kwargs, Type.parse, task, secret)

    def from_json(self, text: str, task: str = "the task", secret: Collection[str] = ()) -> _Call:
        """Return the typed arguments in a JSON array, or in an object of named ones.

        Raises as bind().
        """
        try:
            value = read_json(text)
        except Invalid as error:
            shown, problem = error.args
            raise ArgumentError(f"{task}: {'the text' if secret else shown} {problem}") from None
        if type(value) is list:
            return self.bind_json(value, {}, task, secret)
        if type(value) is dict:
            return self.bind_json((), value, task, secret)
        raise ArgumentError(f"{task}: use a JSON array of arguments, or an object of named ones")

    def bind_json(self, args: _Args, kwargs: _Kwargs, task: str, secret: Collection[str]) -> _Call:
        """Return values from JSON checked and converted. Raises as bind().

        A text stands for a value that JSON lacks, such as a date.
        """
        return self._converted(args, kwargs, _check_json, task, secret)

    def usage(self) -> str:
        """Return a line for help: 'SECONDS [FACTOR] [ARGS...] [--name TEXT]'."""
        return " ".join(own.usage if own.required else f"[{own.usage}]" for own in self.parameters)

    def call(self, args: _Args, kwargs: _Kwargs, secret: Collection[str] = ()) -> str:
        """Return the arguments of a bound call as people see them: "1.0, name='x', token=***"."""
        if not secret and not kwargs:
            return ", ".join([shown_repr(value) for value in args])
        return ", ".join(
            ("" if name is None else f"{shown_word(name)}=")
            + ("***" if self._is_secret(name, own, secret) else shown_repr(value))
            for name, own, value in self._owned(args, kwargs)
        )

    def masked(self, args: _Args, kwargs: _Kwargs, secret: Collection[str]) -> _Call:
        """Return a call with *** for each secret value, or for all if the call is wrong."""
        is_wrong = bool(self._misplaced(len(args), kwargs))
        values = [
            "***" if is_wrong or self._is_secret(name, own, secret) else value
            for name, own, value in self._owned(args, kwargs)
        ]
        return tuple(values[: len(args)]), dict(zip(kwargs, values[len(args) :], strict=True))

    def named(self, args: _Args, kwargs: _Kwargs) -> list[tuple[str, object]]:
        """Return a bound call as names and values, whether arguments came in order or by name."""
        found = self._owned(args, kwargs)
        named = ((own.name if name is None else name, value) for name, own, value in found)
        return sorted(named, key=lambda pair: pair[0])

    def _plain_classes(self) -> tuple[type | None, ...] | None:
        """Return the classes of all positionals, if a call with just these needs no conversion."""
        if not self._required <= {own.name for own in self._places}:
            return None
        classes = tuple(CLASSES.get(own.type.name) for own in self._places)
        return classes if SCALARS.issuperset(classes) else None

    def _name_of(
        self, option: str, task: str, secret: Collection[str], reserved: Collection[str]
    ) -> str:
        name = option[2:].replace("-", "_")
        if name in self._named or (self._rest_named and name.isidentifier()):
            return name
        if option in reserved:
            own = f"{option} is an option of the command"
            raise ArgumentError(f"{task}: takes no {option}; {own}: put {option} before {task}")
        shown = "" if secret else shown_word(option)  # it may be meant as a value
        raise ArgumentError(f"{task}: {self._unknown(name, shown, '--')}")

    def _unknown(self, name: str, shown: str, prefix: str = "") -> str:
        import difflib  # only on the way to an error

        near = difflib.get_close_matches(name[:80], self._named, n=1, cutoff=0.5)
        hint = f"did you mean {prefix}{near[0]}?" if near else self._takes()
        return f"takes no {shown or 'such option'}; {hint}"

    def _takes(self) -> str:
        return f"it takes {self.usage() or 'nothing'}"

    def _converted(
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
            except Invalid as error:
                shown, problem = error.args
                shown = "the value" if shown and self._is_secret(name, own, secret) else shown
                place = shown_word(own.name if name is None else name)
                if self.is_missing:  # then the path may be wrong rather than the value
                    place = f"its code was not found ({self.missing}), so it takes JSON"
                problem = f"{shown} {problem}".lstrip() + self._unread(own)
                raise ArgumentError(f"{task}: {place}: {problem}") from None
        return tuple(values[: len(args)]), dict(zip(kwargs, values[len(args) :], strict=True))

    def _unread(self, own: Parameter) -> str:
        """Return what to add to an error about a parameter whose type cannot be read."""
        texts = (note.text.partition(f": parameter {own.name}: ") for note in self.notes)
        why = next((text for _, found, text in texts if found), "")
        return f"; {why}: see werk tasks --check" if why else ""

    def _misplaced(self, count: int, kwargs: _Kwargs) -> str | None:
        """Return what is wrong: a superfluous argument, a missing or a double one; or None."""
        if count > len(self._places) and not self._rest:
            least, most = sum(own.required for own in self._places), len(self._places)
            takes = most if least == most else f"{least} to {most}"
            names = ", ".join(own.name for own in self._places)
            what = f"argument{'' if takes == 1 else 's'}{f' ({names})' if names else ''}"
            return f"takes {takes} {what}, {count} given; {self._takes()}"
        filled = {own.name for own in self._places[:count]}
        for name in kwargs:
            if name in filled and name in self._named:
                return f"{name} is given twice"
            if name not in self._named and not self._rest_named:
                return self._unknown(name, shown_word(name))
        if missing := self._required - filled - (self._named.keys() & kwargs.keys()):
            names = ", ".join(own.name for own in self.parameters if own.name in missing)
            return f"missing argument{'s' * (len(missing) > 1)} {names}; {self._takes()}"
        return None

    def _owned(
        self, args: _Args, kwargs: _Kwargs
    ) -> Iterator[tuple[str | None, Parameter, object]]:
        """Yield the name of each argument, if it was given one, its parameter and its value."""
        for own, value in zip(chain(self._places, repeat(self._rest or _ARGS)), args, strict=False):
            yield None, own, value
        for name, value in kwargs.items():
            yield name, self._named.get(name) or self._rest_named or _KWARGS, value

    def _is_secret(self, name: str | None, own: Parameter, secret: Collection[str]) -> bool:
        if own.kind == "var_positional" and set(secret) - {own.name for own in self.parameters}:
            return True  # a secret name without a parameter may mean one of these
        if self.is_decorated and name is None and secret:
            return True  # the decorator may pass it to another parameter
        return own.name in secret or name in secret


def _check(wanted: Type, value: object) -> object:
    if type(value) not in SCALARS and (problem := plain_problem(value)):
        raise Invalid("the value", problem)  # not shown: its repr() may run any code
    return wanted.check(value)


_check_json = partial(Type.check, is_json=True)


def _next_value(rest: Iterator[str], option: str, task: str, reserved: Collection[str]) -> str:
    value = next(rest, "--")
    if not value.startswith("--"):
        return value
    hint = f"; if it is the command's own, put it before {task}" if option in reserved else ""
    shown = shown_word(option)
    raise ArgumentError(f"{task}: {shown} needs a value: {shown}=VALUE{hint}")
