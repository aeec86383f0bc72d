"""The function that stands for a task in the module of `werk tasks --stubs`."""

from __future__ import annotations

import re
import textwrap
from collections.abc import Iterable, Iterator, Sequence

from werk.tasks.arguments import KINDS, Parameter
from werk.tasks.catalog_page import Entry
from werk.tasks.types import JSON, Type

WIDTH = 88  # of a docstring's line
IN_BODIES = frozenset(("_werk", "_given", "_placed", "_OMITTED"))  # of the module, see task_stubs

_WRITTEN = {  # types.py's names in Python; the others keep theirs
    "dict": "dict[Any, Any]",
    "duration": "timedelta",
    "decimal": "Decimal",
    "uuid": "UUID",
    "json": "Any",
    "none": "None",
}


def typed_function(name: str, entry: Entry) -> str:
    """Return the function of a task, or a comment: a page can have parameters of any name."""
    if taken := sorted(IN_BODIES.intersection(own.name for own in entry.shape.parameters)):
        return f"# {entry.name} is left out: rename its parameter {taken[0]}"
    text = "\n".join([*_head(name, entry), *_docstring(entry), *_call(entry)])
    try:
        compile(text, "", "exec", dont_inherit=True)
    except (SyntaxError, ValueError):
        return f"# {entry.name} is left out: Python does not accept its parameters"
    return text


def _head(name: str, entry: Entry) -> Iterator[str]:
    parameters = entry.shape.parameters
    by_kind = {kind: [own for own in parameters if own.kind == kind] for kind in KINDS}
    taken = {own.name for own in parameters}
    yield f"def {name}("
    nameless = sum(own.positional_only for own in by_kind["positional"])
    for number, own in enumerate(by_kind["positional"], 1):
        yield f"    {_parameter(own)},"
        if number == nameless:
            yield "    /,"
    rest = by_kind["var_positional"]
    yield f"    *{rest[0].name}: {written(rest[0].type)}," if rest else "    *,"
    for own in by_kind["keyword"]:
        yield f"    {_parameter(own)},"
    yield f"    {_free('options', taken)}: _werk.Options | None = None,"
    yield f"    {_free('connection', taken)}: Connection | None = None,"
    for own in by_kind["var_keyword"]:
        yield f"    **{own.name}: {written(own.type)},"
    yield f") -> _werk.Handle[{written(entry.shape.returns)}]:"


def _parameter(own: Parameter) -> str:
    return f"{own.name}: {written(own.type)}{'' if own.required else ' = _OMITTED'}"


def _docstring(entry: Entry) -> Iterator[str]:
    summary = entry.shape.summary.replace("\\", "\\\\").replace('"""', '\\"\\"\\"')
    title = f'    """Enqueue the task {entry.name}.'
    yield title if summary else f'{title}"""'
    if summary:
        yield ""
        yield from textwrap.wrap(
            summary,
            WIDTH,
            initial_indent="    ",
            subsequent_indent="    ",
            break_long_words=False,
            break_on_hyphens=False,
        )
        yield '    """'


def _call(entry: Entry) -> Iterator[str]:
    """Yield the statement that enqueues: the arguments that were given, and no others."""
    parameters = entry.shape.parameters
    taken = {own.name for own in parameters}
    options, connection = _free("options", taken), _free("connection", taken)
    shared = [f"options={options}", f"connection={connection}"]
    args, required, optional = _by_position(parameters), *_by_name(parameters)
    if {"options", "connection"}.isdisjoint(taken):
        function = "enqueue"
        given = [f"**_given({', '.join(optional)})"] if optional else []
        words = [*args, *shared, *required, *given]
        words += [f"**{own.name}" for own in parameters if own.kind == "var_keyword"]
    else:  # enqueue() would take the task's options= or connection= for its own
        function = "enqueue_call"
        rest = [f"**{own.name}" for own in parameters if own.kind == "var_keyword"]
        given = [f"_given({', '.join([*required, *optional, *rest])})"]
        words = [f"[{', '.join(args)}]", *given, *shared]
    yield f"    return _werk.{function}("
    for word in [f'"{entry.name}"', *words]:
        yield f"        {word},"
    yield "    )"


def _by_position(parameters: Sequence[Parameter]) -> list[str]:
    """Return what stands for the arguments that go by position."""
    places = [own for own in parameters if own.kind == "positional"]
    required = [own.name for own in places if own.required]
    optional = [own.name for own in places if not own.required]
    nameless = [own.name for own in places if not own.required and own.positional_only]
    placed = f"_placed({', '.join(nameless)})" if nameless else "()"
    for rest in (f"*{own.name}" for own in parameters if own.kind == "var_positional"):
        if optional:  # with a rest, all before it are given
            return [*required, f"*(({', '.join(optional)}, {rest}) if {rest[1:]} else {placed})"]
        return [*required, rest]
    return [*required, f"*{placed}"] if nameless else required


def _by_name(parameters: Sequence[Parameter]) -> tuple[list[str], list[str]]:
    """Return name=value for each argument that goes by name: the required ones, and the others."""
    rest = [own.name for own in parameters if own.kind == "var_positional"]
    required: list[str] = []
    optional: list[str] = []
    for own in parameters:
        if own.kind == "keyword":
            (required if own.required else optional).append(f"{own.name}={own.name}")
        elif own.kind == "positional" and not own.required and not own.positional_only:
            value = f"_OMITTED if {rest[0]} else {own.name}" if rest else own.name
            optional.append(f"{own.name}={value}")
    return required, optional


def written(own: Type) -> str:
    """Return a type as an annotation in Python."""
    if own.name == "optional":
        inner = written(own.of or JSON)
        return inner if inner == "Any" else f"{inner} | None"
    if own.name == "list":
        return f"list[{written(own.of or JSON)}]"
    if own.name != "choice":
        return _WRITTEN.get(own.name, own.name)
    values = [value for _, value in own.choices]
    texts = dict.fromkeys(_quoted(repr(v)) for v in values if type(v) is not float)
    parts = [f"Literal[{', '.join(texts)}]"] if texts else []
    parts += ["float"] if float in map(type, values) else []
    return " | ".join(parts)


def _quoted(text: str) -> str:
    """Return the source of a value with double quotes, where that is as simple."""
    return re.sub(r"^(b?)'([^'\"]*)'$", r'\1"\2"', text)


def _free(name: str, taken: Iterable[str]) -> str:
    """Return a name for a parameter of the function's own, beside those of the task."""
    while name in taken:
        name += "_"
    return name
