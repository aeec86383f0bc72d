"""Annotations that name a class which no caller can pass, because it is not plain data.

Only `werk tasks --check` asks: the classes of other modules are looked up in their sources, without
importing them, and that takes time.
"""

from __future__ import annotations

import ast
from functools import cache
from importlib.util import resolve_name
from itertools import chain

from werk.tasks.signature import Module
from werk.tasks.source import Import, Unread, imported, locate

MOST_STEPS = 8  # from a name through the imports of other modules, or from class to base

_TYPED_DICT = "typing.TypedDict"
_CLASS = "pass its fields, or a dict, and build it in the task"
_FUNCTION = "pass a name, and look the function up in the task"
_INSTEAD = {
    "enum.Enum": "pass the value of a member",
    "pathlib.Path": "annotate it as str",
    "typing.Callable": _FUNCTION,
    "collections.abc.Callable": _FUNCTION,
}
_OPEN = ("typing.", "numbers.", "collections.abc.", "datetime.")  # they include plain data


def unreachable(module: Module, arg: ast.arg) -> str | None:
    """Return why no caller can pass a parameter, and what to do, or None. `explain` of read()."""
    if arg.arg == "self" and not arg.annotation:
        return "no caller has this object; make the task a function without it"
    return _of_annotation(module, arg.annotation)


def _of_annotation(module: Module, node: ast.AST | None) -> str | None:
    match node:
        case ast.Constant(str(text)):
            try:
                return _of_annotation(module, ast.parse(text.strip(), mode="eval").body)
            except (SyntaxError, ValueError, MemoryError):
                return None
        case ast.BinOp(left, ast.BitOr(), right):
            return _of_union(module, [left, right])
        case ast.Subscript(of, inside):
            parts = inside.elts if isinstance(inside, ast.Tuple) else [inside]
            match module.meaning(of):
                case "typing.Union" | "typing.Optional":
                    return _of_union(module, parts)
                case "typing.Annotated":
                    return _of_annotation(module, parts[0])
                case "typing.Literal":
                    return None
            return next(filter(None, (_of_annotation(module, part) for part in [of, *parts])), None)
        case ast.Name() | ast.Attribute() if module.type_of(node) is None:
            return _of_class(module, node)
    return None


def _of_union(module: Module, parts: list[ast.expr]) -> str | None:
    """Return the problem of a union: there is none if one of its types can be passed."""
    some = [part for part in parts if not (isinstance(part, ast.Constant) and part.value is None)]
    problems = [_of_annotation(module, part) for part in some]
    return problems[0] if all(problems) else None


def _of_class(module: Module, node: ast.Name | ast.Attribute) -> str | None:
    names = _lineage(module, module.meaning(node))
    if not names or _TYPED_DICT in names:
        return None
    instead = next((_INSTEAD[name] for name in names if name in _INSTEAD), _CLASS)
    return f"{ast.unparse(node)} is not plain data; {instead}"


def _lineage(
    module: Module, meaning: str | ast.ClassDef | None, steps: int = MOST_STEPS
) -> list[str]:
    """Return the full names of a class and its bases; [] if it is unknown, or not a class."""
    if not meaning or not steps:
        return []
    if isinstance(meaning, ast.ClassDef):
        plain = (base.value if isinstance(base, ast.Subscript) else base for base in meaning.bases)
        bases = (_lineage(module, module.meaning(base), steps - 1) for base in plain)
        return [f"{module.name}.{meaning.name}", *chain.from_iterable(bases)]
    if meaning in _INSTEAD or meaning == _TYPED_DICT:
        return [meaning]
    if meaning.startswith(_OPEN):
        return []
    package = module.name if module.is_package else module.name.rpartition(".")[0]
    other, name = _place(meaning, package)
    if not other:
        return []
    for node in (*reversed(other.bound.get(name, ())), *other.bound.get("*", ())):
        if isinstance(node, ast.ClassDef):
            return _lineage(other, node, steps)
        if isinstance(node, Import):
            full = imported(node, name)
            full = full if full != name else imported(node, "*")[:-1] + name
            if found := _lineage(other, full, steps - 1):
                return found
    return []


@cache
def _place(meaning: str, package: str) -> tuple[Module | None, str]:
    """Return the module in a full name, and the name of what is in it."""
    try:
        names = resolve_name(meaning, package).split(".")
        spec, depth = locate(names)
        return Module(spec, ".".join(names[:depth])), ".".join(names[depth:])
    except (Unread, ValueError, ImportError):
        return None, ""
