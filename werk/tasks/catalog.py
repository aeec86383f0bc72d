"""The catalog: the tasks that live workers publish, for callers without the registry or the code.

Workers publish it with their tick (tick.py); callers look up the tasks that they lack (find).

<prefix>:werk:serves:<queue>  sorted set of "<task> <fingerprint>", scored by the last beat
                              (Redis's clock)
<prefix>:werk:catalog         hash of task -> JSON of its Task, parameters, result and fingerprint
"""

from __future__ import annotations

import json
import time
import zlib
from collections.abc import Callable, Mapping
from functools import cache
from typing import Any

from werk import registry
from werk.errors import ArgumentError, UnknownTask, WerkError
from werk.registry import Task
from werk.store.connection import Link
from werk.tasks import signature
from werk.tasks.arguments import Parameter, Signature
from werk.tasks.catalog_page import LONGEST_PAGE, NO_PAGES, Entry, Pages, live, read, read_pages

LOOK_S = 0.5  # at most, because the enqueue that follows has a time budget of its own
LOOK_AGAIN_S = 1.0

CHECK = "see werk tasks --check"
ONLY_DEMO = "the workers serve only werk's demo tasks; start them with WERK_REGISTRY"


def find(name: str, link: Callable[[], Link]) -> Entry:
    """Return a task of the registry here, or else of the catalog, read over `link()`.

    A task that the registry has without its code takes only its parameters from the catalog.
    Raises UnknownTask with the nearest name, RedisUnavailable, ConfigError.
    """
    is_own = name in registry.BUILT_IN or name in registry.tasks()
    own = own_entry(name) if is_own else None
    theirs = of_workers(link) if own and name in registry.SHIPPED else {}
    if own and theirs:
        if name in theirs:
            return _preferred(own, theirs[name])
        raise UnknownTask(_unknown(name, theirs))
    if own and not own.shape.is_missing:
        return own
    pages = read_pages(link(), name)
    page = pages.entries.get(name)
    if found := _completed(own, page) if own else page:
        return found
    if pages.damaged:
        repair = "restart a worker that serves it"
        raise UnknownTask(f"unknown task {name!r}: its entry in the catalog is damaged; {repair}")
    theirs = of_workers(link)
    if theirs:
        raise UnknownTask(_unknown(name, theirs))
    known = read_pages(link()).entries
    raise UnknownTask(registry.unknown(name, known, has_workers=link().has_workers))


def _unknown(name: str, theirs: Mapping[str, Entry]) -> str:
    note = ONLY_DEMO if _are_demo(theirs) else ""
    return registry.unknown(name, theirs, without=registry.tasks(), note=note)


def _are_demo(found: Mapping[str, Entry]) -> bool:
    """Return whether there are tasks, and all of them are those that werk brings."""
    return bool(found) and all(
        registry.is_shipped(name, entry.task.path) for name, entry in found.items()
    )


def of_workers(link: Callable[[], Link]) -> Mapping[str, Entry]:
    """Return the tasks that live workers serve, for a caller that has only the table werk brings.

    That table says nothing about the application, so the workers' tasks count. Return
    nothing for any other table, without asking Redis; also if no worker is alive, or if Redis does
    not answer soon.
    """
    asked, now, found = link(), time.monotonic(), dict[str, Entry]()
    until, cached = asked.served_cache.get(of_workers, (0.0, found))
    if now < until:
        return cached  # type: ignore[no-any-return]
    if asked.has_workers and registry.is_as_shipped():
        try:
            found = _live_soon(asked)
        except WerkError:  # the request that follows reports it
            return {}
    asked.served_cache[of_workers] = now + LOOK_AGAIN_S, found
    return found


def serve_only_demo(link: Link, queue: str) -> bool:
    """Return whether live workers serve tasks, and only those that werk brings.

    False if Redis does not answer soon.
    """
    try:
        return _are_demo(_live_soon(link, queue))
    except WerkError:
        return False


def _live_soon(link: Link, queue: str = "default") -> dict[str, Entry]:
    """Return what live() returns, within LOOK_S. Raises RedisUnavailable, ConfigError."""
    before, link.not_after = link.not_after, min(link.not_after, time.monotonic() + LOOK_S)
    try:
        return live(link, queue)
    finally:
        link.not_after = before


def name_of(function: object, link: Callable[[], Link]) -> str:
    """Return the name of the task that runs a function: the one with its path. Imports nothing.

    The registry is looked at first, then the catalog, over `link()`. Raises ArgumentError,
    UnknownTask, RedisUnavailable, ConfigError.
    """
    names = [getattr(function, name, None) for name in ("__module__", "__qualname__")]
    if not callable(function) or not all(isinstance(name, str) for name in names):
        kind = type(function).__name__
        raise ArgumentError(f"got {kind}; use the name of a task, or its function")
    path = ".".join(map(str, names))
    found = [name for name, task in registry.tasks().items() if task.path == path]
    if not found and _is_importable(path):
        pages = read_pages(link()).entries
        found = [name for name, page in pages.items() if page.task.path == path]
    if not found:
        if "_werk" in getattr(function, "__globals__", ()):  # made by `werk tasks --stubs`
            name = path.rpartition(".")[2]
            use = f"call {name}(...), or await asyncio.to_thread({name}, ...)"
            raise ArgumentError(f"{path} is a typed call, which enqueues by itself; {use}")
        raise UnknownTask(_unregistered(path))
    if len(found) > 1:
        raise ArgumentError(
            f"{path} is the function of several tasks; use one name: {', '.join(found)}"
        )
    return found[0]


def _unregistered(path: str) -> str:
    name = path.rpartition(".")[2]
    if not _is_importable(path):
        use = "define it at the top of a module, or use the name of a task"
        return f"function {path} cannot be imported by workers; {use}"
    line = f'"{name}": "{path}"'
    return f"function {path} is not a task; add it to the table of tasks: {line}"


def _is_importable(path: str) -> bool:
    """Return whether a worker could import a function: not from a script, or within a function."""
    return not path.startswith("__main__.") and "<" not in path  # <lambda>, <locals>


@cache
def own_entry(name: str) -> Entry:
    """Return a task of the registry here."""
    task = registry.BUILT_IN.get(name) or registry.tasks()[name]
    return Entry(name, task, signature.read(task.path), fingerprint(task.path))


def everything(pages: Pages, theirs: Mapping[str, Entry] = NO_PAGES.entries) -> dict[str, Entry]:
    """Return all tasks by name, each as `find` does. `theirs` is what of_workers() returns."""
    own = {name: own_entry(name) for name in registry.tasks()}
    if theirs:
        return {name: _preferred(own.get(name, page), page) for name, page in theirs.items()}
    for name, entry in own.items():
        if entry.shape.is_missing:
            own[name] = _completed(entry, pages.entries.get(name))
    return {**pages.entries, **own}


def _preferred(own: Entry, page: Entry) -> Entry:
    """Return a task that werk brings, or the application's own task of the same name."""
    return own if own.task.path == page.task.path else page


def _completed(own: Entry, page: Entry | None) -> Entry:
    """Return a task whose code is not here, with the parameters on its page."""
    if page is None:
        why = f"task {own.name}: its code was not found ({own.shape.missing})"
        return own._replace(warning=f"{why}, so its arguments are not checked; {CHECK}")
    if page.shape.parameters == own.shape.parameters:  # the worker has not found the code either
        page = page._replace(shape=own.shape)
    warning = path_warning(own, page)
    names = {parameter.name for parameter in page.shape.parameters}
    secret = own.task.secret
    if not names.issuperset(secret):  # the registry may mean any of the parameters
        secret = (*secret, *names)
    return own._replace(
        task=own.task._replace(secret=secret),
        shape=page.shape,
        fingerprint=_sum(own.task.path, page.shape.parameters) if warning else page.fingerprint,
        warning=warning,
    )


def path_warning(own: Entry, page: Entry) -> str:
    """Return a warning if the path in the catalog is not the one here, or ''."""
    here, there = own.task.path, page.task.path
    if here == there:
        return ""
    return f"task {own.name}: the catalog has the path {there}; the path here is used: {here}"


# --- the worker's side

_imported: dict[str, Signature] = {}  # of tasks that do not take the parameters in their source


def adopt(found: dict[str, str]) -> None:
    """Publish these pages, by the names of their tasks, in place of what the sources say."""
    for name, page in found.items():
        if entry := read(name, page.encode()):
            _imported[entry.task.path] = entry.shape
    fingerprint.cache_clear()


def _shape(path: str) -> Signature:
    return _imported.get(path) or signature.read(path)


@cache
def fingerprint(path: str) -> str:
    """Return a short checksum of what caller and worker must agree on: path and parameters."""
    return _sum(path, _shape(path).parameters)


def _sum(path: str, parameters: tuple[Parameter, ...]) -> str:
    return f"{zlib.crc32(repr((path, parameters)).encode()):08x}"


def serves() -> list[str]:
    """Return a member of serves:<queue> for each task."""
    return [f"{name} {fingerprint(task.path)}" for name, task in registry.tasks().items()]


def version() -> str:
    """Return a short checksum of the whole table: workers that serve the same have the same."""
    return _version(serves())


def demo_version() -> str:
    """Return the version of a table that has only the tasks that werk brings."""
    return _version([f"{name} {fingerprint(f'werk.jobs.{name}')}" for name in registry.SHIPPED])


def _version(members: list[str]) -> str:
    return f"{zlib.crc32(' '.join(sorted(members)).encode()):08x}"


def pages() -> list[str]:
    """Return the catalog, flat: task, JSON, task, JSON, ..."""
    return [word for name, task in registry.tasks().items() for word in (name, _page(task))]


def _page(task: Task) -> str:
    text = page_of(task, _shape(task.path))
    return text if len(text) <= LONGEST_PAGE else page_of(task, Signature())


def page_of(task: Task, shape: Signature) -> str:
    """Return the page of a task that takes these parameters, for catalog_page.read."""
    facts = {
        **task._asdict(),
        "parameters": [own._asdict() for own in shape.parameters],
        "summary": shape.summary,
        "returns": shape.returns,
        "decorated": shape.is_decorated,
        "fingerprint": fingerprint(task.path),
        "seen": round(time.time()),
    }
    return json.dumps(facts, default=_bytes_as_json)


def _bytes_as_json(value: object) -> Any:
    assert isinstance(value, bytes)  # an Enum's value: everything else on a page is JSON
    return {"bytes": value.decode("latin-1")}
