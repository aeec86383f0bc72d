"""A task's signature, read from the syntax tree of its source without running any of it.

A parameter whose type cannot be read takes JSON, and a note says why: `werk tasks --check`
prints the notes.
"""

from __future__ import annotations

import ast
from collections.abc import Callable
from functools import cache
from importlib.machinery import ModuleSpec
from itertools import repeat

from werk.printable import printable
from werk.tasks.arguments import Note, Parameter, Signature
from werk.tasks.source import Import, Unread, bindings, imported, locate, parse
from werk.tasks.types import JSON, Type, shown_repr

# What an annotation means, by the full name of what it names.
_TYPES = {
    **{name: Type(name) for name in ("str", "int", "float", "bool", "bytes", "dict", "list")},
    "typing.Dict": Type("dict"),
    "typing.List": Type("list"),
    "typing.Any": JSON,
    "object": JSON,
    "datetime.date": Type("date"),
    "datetime.datetime": Type("datetime"),
    "datetime.timedelta": Type("duration"),
    "decimal.Decimal": Type("decimal"),
    "uuid.UUID": Type("uuid"),
}
_ENUMS: dict[object, tuple[type, ...]] = {  # bases of enums, and the types of their values
    "enum.Enum": (bool, int, float, str, bytes),
    "enum.IntEnum": (int,),
    "enum.StrEnum": (str,),
}
# Decorators that leave a function's parameters, or an Enum's values, as they are written.
_HARMLESS = frozenset(
    "staticmethod classmethod functools.cache functools.lru_cache typing.final typing.override"
    " warnings.deprecated typing.deprecated rq.decorators.job enum.unique".split()
)
_RESERVED = "werk.enqueue takes {}=; rename the parameter, or use werk.enqueue_call"
_Function = ast.FunctionDef | ast.AsyncFunctionDef
Explain = Callable[["Module", ast.arg], str | None]  # returns why no caller can pass a parameter


@cache
def read(path: str, explain: Explain | None = None) -> Signature:
    """Return the parameters of the function at a dotted path, running nothing; never raises.

    The path means what it means to a worker (rq.utils.import_attribute). What cannot be read is
    *args, **kwargs of JSON, and the reason is in `notes`. With `explain`, the notes name parameters
    that no caller can pass: see classes.py.
    """
    try:
        return _read(path.split("."), explain)
    except Unread as error:
        return Signature(notes=(Note(*error.args),))
    except RecursionError:
        return Signature(notes=(Note("unread", f"{path}: its source is nested too deeply"),))


def source(path: str) -> str | None:
    """Return the file that holds the function at a dotted path, None if it cannot be found."""
    try:
        return locate(path.split("."))[0].origin
    except Unread:
        return None


def _read(names: list[str], explain: Explain | None) -> Signature:
    spec, depth = locate(names)
    module = Module(spec, ".".join(names[:depth]))
    function, is_bound, is_decorated = module.function(names[depth:])
    notes: list[Note] = []
    parameters = []
    for arg, kind, default in _rows(function.args)[is_bound:]:
        own = module.type_of(arg.annotation)
        place = f"{module.place(arg)}: parameter {arg.arg}"
        if problem := explain and explain(module, arg):
            notes.append(Note("unreachable", f"{place}: {problem}"))
        elif own is None:
            unknown = f"the type {_source(arg.annotation)} cannot be read; it takes JSON"
            notes.append(Note("parameter", f"{place}: {unknown}"))
        is_one = kind in ("positional", "keyword")
        is_nameless = arg in function.args.posonlyargs
        if is_one and not is_nameless and arg.arg in ("options", "connection"):
            notes.append(Note("reserved", f"{place}: {_RESERVED.format(arg.arg)}"))
        text = _source(default) if default else None
        required = is_one and not default
        parameters.append(Parameter(arg.arg, kind, own or JSON, required, text, is_nameless))
    doc = (ast.get_docstring(function, clean=False) or "").strip().split("\n")[0].strip()
    returns = module.returned(function.returns)
    found = (tuple(parameters), printable(doc, " "), tuple(notes), returns)
    return Signature(*found, is_decorated=is_decorated)


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


class Module:
    """A module's syntax tree, and what its names mean."""

    def __init__(self, spec: ModuleSpec, name: str) -> None:
        self.name = name
        self.is_package = spec.submodule_search_locations is not None
        self.file = spec.origin or ""  # none: a folder without __init__.py
        self.tree = parse(name, self.file) if self.file else ast.Module([], [])
        self.bound = bindings(self.tree)

    def place(self, node: ast.AST) -> str:
        return f"{self.file}:{getattr(node, 'lineno', 1)}"

    def function(self, names: list[str]) -> tuple[_Function, bool, bool]:
        """Return a function, or a class's method, whether its first argument is the class, and
        whether a decorator may change its parameters."""
        dotted = ".".join(names)
        found, is_method = self._definition(self.tree, names[0]), False
        if len(names) == 2 and isinstance(found, ast.ClassDef):
            found, is_method = self._definition(found, names[1]), True
        elif len(names) > 1 and not isinstance(found, Import):
            if self.is_package and not found:
                raise Unread("module", f"no module {self.name}.{names[0]} on sys.path")
            found = None
        if not found:
            raise Unread("function", f"{self.file or self.name} has no function {dotted}")
        place = f"{self.place(found)}: {dotted}"
        if isinstance(found, Import):
            real = imported(found, names[0])
            raise Unread("unread", f"{place} is imported there ({real}); use its path there")
        if not isinstance(found, _Function):
            raise Unread("unread", f"{place} is not defined there by a def")
        decorators = {*self._decorators(found)}
        if is_method and not {"staticmethod", "classmethod"} & decorators:
            raise Unread("unreachable", f"{place} is an instance method; make it a staticmethod")
        return found, "classmethod" in decorators, not _HARMLESS.issuperset(decorators)

    def _definition(self, scope: ast.Module | ast.ClassDef, name: str) -> ast.AST | None:
        bound = self.bound if scope is self.tree else bindings(scope)
        found = bound.get(name, [])
        if not found and ("*" in bound or "__getattr__" in bound or getattr(scope, "bases", [])):
            raise Unread("unread", f"{self.file}: {name} comes from another module or class")
        if len(found) > 1 and found[-1] not in scope.body:
            raise Unread("unread", f"{self.place(found[-1])}: {name} is defined in several ways")
        return found[-1] if found else None

    def _decorators(self, node: _Function | ast.ClassDef) -> list[str | ast.ClassDef | None]:
        plain = (each.func if isinstance(each, ast.Call) else each for each in node.decorator_list)
        return [self.meaning(each) for each in plain]

    def meaning(self, node: ast.AST) -> str | ast.ClassDef | None:
        """Return the full name of what an expression names, or a class of this module."""
        if isinstance(node, ast.Attribute):
            owner = self.meaning(node.value)
            return f"{owner}.{node.attr}" if isinstance(owner, str) else None
        if not isinstance(node, ast.Name):
            return None
        if node.id not in self.bound:
            return node.id
        binding = self.bound[node.id][-1]
        if isinstance(binding, Import):
            return imported(binding, node.id).replace("typing_extensions", "typing")
        return binding if isinstance(binding, ast.ClassDef) else None

    def type_of(self, node: ast.AST | None) -> Type | None:
        """Return what an annotation means, or None if that is unknown."""
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
                return self._generic(self.meaning(of), parts)
            case ast.Subscript(of, part):
                return self._generic(self.meaning(of), [part])
        named = self.meaning(node)
        return self._enum(named) if isinstance(named, ast.ClassDef) else _TYPES.get(named or "")

    def returned(self, node: ast.expr | None) -> Type:
        """Return what the annotation of a result means; JSON if that is unknown."""
        is_none = isinstance(node, ast.Constant) and node.value in (None, "None")
        return Type("none") if is_none else self.type_of(node) or JSON

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
        """Return an Enum as a type, or None unless all of its values are written out."""
        *mixins, base = [self.meaning(base) for base in node.bases] or [None]
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
    texts = [value if isinstance(value, str) else shown_repr(value).lower() for value in values]
    return Type("choice", choices=tuple(zip(texts, values, strict=True)))


def _constant(node: ast.AST) -> object:
    """Return the value of a literal, or ... for any other expression."""
    try:
        return ast.literal_eval(node)
    except (ValueError, TypeError, SyntaxError, MemoryError):
        return ...


def _source(node: ast.AST | None) -> str:
    try:
        return printable(ast.unparse(node)) if node else ""
    except ValueError:  # an f-string with a backslash in it
        return "..."
