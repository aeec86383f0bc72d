"""A module with one typed function per task, for callers whose type checker is to see the tasks.

The text depends on the tasks alone, so that `werk tasks --stubs --check` can compare it.
"""

from __future__ import annotations

import ast
import keyword
import re
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping

from werk import registry
from werk.errors import ArgumentError, WerkError
from werk.ops.typed_function import IN_BODIES, typed_function
from werk.printable import shell_word
from werk.store.connection import Link
from werk.tasks import catalog
from werk.tasks.catalog_page import Entry, read_pages

COMMAND = "werk tasks --stubs"

_HEAD = f"""\
# Made by `{COMMAND}`: do not edit, make it again when a task changes.
# Formatters leave it alone, because `{COMMAND} --check` compares it:
# fmt: off
\"\"\"One function per task: it enqueues the task and returns the job's handle.\"\"\"

from __future__ import annotations
"""
_IMPORTS = {  # in the order of isort
    "datetime": ("date", "datetime", "timedelta"),
    "decimal": ("Decimal",),
    "typing": ("TYPE_CHECKING", "Any", "Literal"),
    "uuid": ("UUID",),
}
_CONNECTION = """\
if TYPE_CHECKING:
    from werk.client.links import Connection"""
_OMITTED = """\
_OMITTED: Any = ...  # an argument that was left out: the task's own default applies"""
_GIVEN = '''\
def _given(**arguments: Any) -> dict[str, Any]:
    """Return the arguments that were not left out."""
    return {name: value for name, value in arguments.items() if value is not _OMITTED}'''
_PLACED = '''\
def _placed(*arguments: Any) -> list[Any]:
    """Return the arguments that were not left out."""
    return [value for value in arguments if value is not _OMITTED]'''

_RESERVED = IN_BODIES.union(  # no function may have the name of something that the module uses
    keyword.kwlist,
    ("Connection", "annotations", "str", "int", "float", "bool", "bytes", "dict", "list", "object"),
    *_IMPORTS.values(),
)


def entries(link: Callable[[], Link], note: Callable[[str], None]) -> Mapping[str, Entry]:
    """Return the tasks of the tables here; on a host that has none, those of the catalog.

    Redis is asked only on such a host and for tasks whose code is not here. `note` is called with
    problems. Raises RedisUnavailable, ConfigError.
    """
    own = registry.tasks()
    if not registry.is_as_shipped():
        return {name: catalog.find(name, link) for name in own}
    pages = read_pages(link())
    if pages.damaged:
        note(pages.problem())
    return catalog.everything(pages, catalog.of_workers(link))


def module(found: Mapping[str, Entry]) -> str:
    """Return the text of the module."""
    names = function_names(found)
    functions = [typed_function(names[task], found[task]) for task in sorted(found)]
    body = "\n\n\n".join(functions)
    used = {*_names_used(ast.parse(body))}
    helpers = [own for name, own in (("_given", _GIVEN), ("_placed", _PLACED)) if name in used]
    if "Connection" in used:
        used |= {"TYPE_CHECKING", "_werk"}
    used |= {"_OMITTED"} if helpers else set()
    used |= {"Any"} if "_OMITTED" in used else set()
    imports = [_HEAD]
    for source, available in _IMPORTS.items():
        if chosen := [name for name in available if name in used]:
            imports.append(f"from {source} import {', '.join(chosen)}")
    parts = ["\n".join(imports)]
    parts += ["import werk as _werk"] if "_werk" in used else []
    parts += [_CONNECTION] if "Connection" in used else []
    parts += [_OMITTED] if "_OMITTED" in used else []
    return "\n\n\n".join(["\n\n".join(parts), *helpers, *functions]) + "\n"


def _names_used(tree: ast.AST) -> Iterator[str]:
    """Yield the names of annotations, and those of helpers: parameters may have any other."""
    for node in ast.walk(tree):
        if isinstance(node, ast.arg | ast.FunctionDef):
            kind = node.annotation if isinstance(node, ast.arg) else node.returns
            yield from (own.id for own in ast.walk(kind or node) if isinstance(own, ast.Name))
        elif isinstance(node, ast.Name) and node.id in IN_BODIES:
            yield node.id


def check(path: str, wanted: str) -> None:
    """Raise WerkError, with what to do, if a file is not the module that is wanted.

    Raises ArgumentError if it cannot be read.
    """
    remedy = f"run: {COMMAND} > {shell_word(path)}"
    try:
        with open(path, encoding="utf-8", errors="surrogateescape") as file:
            text = file.read()
    except OSError as error:
        raise ArgumentError(f"{path}: {error.strerror}; {remedy}") from None
    if text == wanted:
        return
    old, new = (dict.fromkeys(whole.rstrip("\n").split("\n\n\n")) for whole in (text, wanted))
    same = old.keys() & new.keys()
    changed = [*dict.fromkeys(_defined(part for part in [*new, *old] if part not in same))]
    what = f" ({', '.join(changed[:5])}{', ...' * (len(changed) > 5)})" if changed else ""
    raise WerkError(f"{path} is out of date{what}; {remedy}")


def _defined(parts: Iterable[str]) -> Iterator[str]:
    for part in parts:
        if start := re.match(r"def (\w+)", part):
            yield start[1]


# --- names


def function_names(tasks: Iterable[str]) -> dict[str, str]:
    """Return the name of each task's function: the task's own, with _ for what Python refuses.

    Tasks that would share a name get names with their punctuation spelled out. So a new task takes
    over a name that another task's callers use only if that is exactly the new task's own name.
    """
    plain = {task: _identifier(task) for task in tasks}
    shared = Counter(plain.values())
    found: dict[str, str] = {}
    taken = set(_RESERVED)
    for task in sorted(plain, key=lambda task: (task != plain[task] or task in _RESERVED, task)):
        is_own = shared[plain[task]] == 1 or task == plain[task]
        name = plain[task] if is_own else _identifier(_spelled(task))
        while name in taken:
            name += "_"
        taken.add(name)
        found[task] = name
    return found


def _identifier(task: str) -> str:
    name = re.sub(r"\W", "_", task)
    if name[0].isdigit():
        name = f"task_{name}"
    is_special = name.startswith("__") and name.endswith("__")  # __getattr__ has a meaning
    return f"{name}_" if is_special else name


def _spelled(task: str) -> str:
    words = {"-": "_dash_", ".": "_dot_", ":": "_colon_"}
    return "".join(words.get(character, character) for character in task)
