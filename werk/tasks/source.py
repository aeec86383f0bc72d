"""Find the source of a function where an import would find it, without running code."""

from __future__ import annotations

import ast
import os
import sys
import threading
import warnings
from importlib.machinery import ModuleSpec, PathFinder

MAX_SOURCE = 1024 * 1024  # bytes; its syntax tree takes a hundred times as much
Import = ast.Import | ast.ImportFrom
_SCOPES = (
    *(ast.FunctionDef, ast.AsyncFunctionDef, ast.ClassDef, ast.Lambda),
    *(ast.ListComp, ast.SetComp, ast.DictComp, ast.GeneratorExp),
)
# catch_warnings in two threads at once can leave warnings off. A signal handler may read as well.
_parsing = threading.RLock()
# A fork waits for a thread that reads: the child would have its lock and its filters permanently.
os.register_at_fork(
    before=_parsing.acquire, after_in_parent=_parsing.release, after_in_child=_parsing.release
)


class Unread(Exception):
    """Raised when a function's parameters cannot be read: Unread(kind of the note, its text)."""


def locate(names: list[str]) -> tuple[ModuleSpec, int]:
    """Return the module in a dotted path as an import finds it, and how many names lead to it."""
    found, search = None, None
    for depth in range(1, len(names)):
        spec = _find_spec(".".join(names[:depth]), search)
        if not spec:
            break
        found = spec, depth
        if spec.submodule_search_locations is None:
            break
        search = [*spec.submodule_search_locations]
    if not found:
        raise Unread("module", f"no module {names[0]} on sys.path")
    return found


def _find_spec(name: str, search: list[str] | None) -> ModuleSpec | None:
    """Ask the finders that an import asks: sys.path's, an editable install's. Import nothing."""
    for finder in sys.meta_path:
        # For a dotted name, sys.path's finder would look for the parent in sys.modules.
        asked = name.rpartition(".")[2] if finder is PathFinder else name
        try:
            spec = finder.find_spec(asked, search)
        except Exception:  # a finder that is not Python's own can raise anything
            continue
        if spec:
            return spec
    return None


def parse(name: str, file: str) -> ast.Module:
    """Return the syntax tree of a module. Raises Unread."""
    if not file.endswith(".py"):
        raise Unread("unread", f"{name} has no source ({file})")
    try:
        with open(file, "rb") as source:
            data = source.read(MAX_SOURCE + 1)
        if len(data) > MAX_SOURCE:
            raise Unread("unread", f"{file}: larger than {MAX_SOURCE:,} bytes")
        with _parsing, warnings.catch_warnings():
            warnings.simplefilter("ignore")  # an invalid escape such as "\d"
            return ast.parse(data)
    except SyntaxError as error:
        raise Unread("module", f"{file}:{error.lineno or 1}: {error.msg}") from None
    except (OSError, ValueError, MemoryError) as error:
        why = getattr(error, "strerror", None) or str(error) or "nested too deeply"
        raise Unread("unread", f"{file}: {why}") from None


def imported(node: Import, name: str) -> str:
    """Return the full name of what an import binds a name to; a relative one begins with dots."""
    for alias in node.names:
        if isinstance(node, ast.ImportFrom) and name == (alias.asname or alias.name):
            return f"{'.' * node.level}{node.module or ''}.{alias.name}"
        if alias.asname == name:
            return alias.name
    return name


def bindings(scope: ast.Module | ast.ClassDef) -> dict[str, list[ast.AST]]:
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
