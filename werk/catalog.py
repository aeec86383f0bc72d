"""What workers say they serve, for callers to compare, or to have no table or code of their own.

The tick sends it (tick.py); callers look there for a task that they have not (find).

<prefix>:werk:serves:<queue>  sorted set of "<task> <fingerprint>", scored by the last beat
                              (Redis's clock)
<prefix>:werk:catalog         hash of task -> JSON of its Task, parameters and fingerprint
"""

from __future__ import annotations

import json
import time
import zlib
from collections.abc import Callable, Mapping, Sequence
from functools import cache
from typing import Any, NamedTuple

from werk import registry, signature, wire
from werk.arguments import Parameter, Signature
from werk.catalog_page import LONGEST_PAGE, NO_PAGES, Entry, Pages, read_pages
from werk.errors import RedisUnavailable, UnknownTask
from werk.link import Link
from werk.registry import Task

LIVE_S = 15  # three beats of a worker (tick.CATALOG_S); older ones are of workers that are gone
MOST_SERVED = 10_000  # tasks on one queue


class Row(NamedTuple):
    """A task in a list: as it is here, and who serves it."""

    entry: Entry  # of the catalog, if it is not in the tables here
    is_here: bool
    theirs: Entry | None  # what the catalog says
    served: Mapping[str, Sequence[str]] | None  # queue -> fingerprints; None: not known

    @property
    def differing(self) -> list[str]:
        """The queues where a live worker has another version."""
        served = self.served or {}
        return [queue for queue in sorted(served) if {*served[queue]} != {self.entry.fingerprint}]

    def as_json(self) -> dict[str, Any]:
        """Return it as `werk tasks --json` prints it."""
        task, shape = self.entry.task, self.entry.shape
        return {
            "path": task.path,
            "queue": task.queue,
            "usage": shape.usage(),
            "notes": [note.text for note in shape.notes],
            "fingerprint": self.entry.fingerprint,
            "here": self.is_here,
            "served": self.served,
            "differing": self.differing,
        }

    def lines(self) -> list[str]:
        """Return it as `werk tasks` prints it."""
        said = [_usage(self.entry)]
        said += [self.entry.shape.summary] if self.entry.shape.summary else []
        said += [] if self.is_here else ["not in the table here, but in the catalog"]
        if self.served is not None:
            queues = ", ".join(sorted(self.served))
            said.append(f"served on {queues}" if queues else "served by no worker that lives")
        if self.differing:
            said.append(f"another version on {', '.join(self.differing)}: a deploy half done?")
            if self.theirs and self.theirs.fingerprint != self.entry.fingerprint:
                said.append(f"there: {_usage(self.theirs)}")
        if self.theirs and (warning := path_warning(self.entry, self.theirs)):
            said.append(warning)
        return [said[0], *(f"    {line}" for line in said[1:])]


def find(name: str, link: Callable[[], Link]) -> Entry:
    """Return a task of the table here; from the catalog, over `link()`, what is not here.

    That is the whole task if no table here has it, and its parameters if its code is not here.
    Raises UnknownTask with the nearest name, RedisUnavailable, ConfigError.
    """
    is_own = name in registry.BUILT_IN or name in registry.tasks()
    own = own_entry(name) if is_own else None
    if own and not own.shape.is_missing:
        return own
    pages = read_pages(link(), name)
    page = pages.entries.get(name)
    if found := _completed(own, page) if own else page:
        return found
    if pages.damaged:
        repair = "restart a worker that serves it"
        raise UnknownTask(f"unknown task {name!r}: its entry in the catalog is damaged; {repair}")
    raise UnknownTask(registry.unknown(name, read_pages(link()).entries))


@cache
def own_entry(name: str) -> Entry:
    """Return a task of the tables here."""
    task = registry.BUILT_IN.get(name) or registry.tasks()[name]
    return Entry(name, task, signature.read(task.path), fingerprint(task.path))


def everything(pages: Pages) -> dict[str, Entry]:
    """Return all tasks by name, each as `find` does."""
    own = {name: own_entry(name) for name in registry.tasks()}
    for name, entry in own.items():
        if entry.shape.is_missing:
            own[name] = _completed(entry, pages.entries.get(name))
    return {**pages.entries, **own}


def _completed(own: Entry, page: Entry | None) -> Entry:
    """Return a task of the table here, whose code is not here, with the parameters on its page."""
    if page is None:
        return own
    warning = path_warning(own, page)
    names = {parameter.name for parameter in page.shape.parameters}
    secret = own.task.secret
    if not names.issuperset(secret):  # any of them may be what the table means
        secret = (*secret, *names)
    return own._replace(
        task=own.task._replace(secret=secret),
        shape=page.shape,
        fingerprint=_sum(own.task.path, page.shape.parameters) if warning else page.fingerprint,
        warning=warning,
    )


def path_warning(own: Entry, page: Entry) -> str:
    """Return what to say of a task whose path in the catalog is not the one here, or ''."""
    here, there = own.task.path, page.task.path
    if here == there:
        return ""
    return f"task {own.name}: the catalog has the path {there}; the one here is used: {here}"


def survey(link: Link | None, note: Callable[[str], None]) -> list[Row]:
    """Return all tasks by name: those of the tables here, and those that live workers serve.

    Without a link nobody is asked who serves them; `note` gets what could not be read.
    """
    own = {name: own_entry(name) for name in registry.tasks()}
    pages = NO_PAGES
    served: dict[str, dict[str, list[str]]] | None = None
    try:
        if link:
            pages, served = read_pages(link), _served(link)
    except RedisUnavailable as error:
        note(f"who serves them is not known: {error}")
    if pages.damaged:
        note(pages.problem())
    theirs = pages.entries
    shown = {name: theirs[name] for name in served or () if name in theirs} | own
    by = {name: None if served is None else served.get(name, {}) for name in shown}
    return [Row(shown[name], name in own, theirs.get(name), by[name]) for name in sorted(shown)]


def _served(link: Link) -> dict[str, dict[str, list[str]]]:
    """Return what live workers serve: task -> queue -> fingerprints."""
    from werk.status import Snapshot  # no other caller needs it

    snapshot = Snapshot.read(link)
    since = snapshot.time - LIVE_S
    keys = [wire.key("werk", "serves", queue) for queue in snapshot.queues]
    asked = [("ZRANGEBYSCORE", key, since, "+inf", "LIMIT", 0, MOST_SERVED) for key in keys]
    replies = link.calls(asked, skips_type=True)
    found: dict[str, dict[str, list[str]]] = {}
    for queue, members in zip(snapshot.queues, replies, strict=True):
        for member in map(wire.text, members or ()):
            task, _, version = member.partition(" ")
            found.setdefault(task, {}).setdefault(queue, []).append(version)
    return found


def _usage(entry: Entry) -> str:
    call = f"{entry.name} {entry.shape.usage()}".rstrip()
    return f"{call}  -> {entry.task.path}, queue {entry.task.queue}"


# --- the worker's side


@cache
def fingerprint(path: str) -> str:
    """Return a short sum of what caller and worker must agree on: path and parameters."""
    return _sum(path, signature.read(path).parameters)


def _sum(path: str, parameters: tuple[Parameter, ...]) -> str:
    return f"{zlib.crc32(repr((path, parameters)).encode()):08x}"


def serves() -> list[str]:
    """Return a member of serves:<queue> for each task."""
    return [f"{name} {fingerprint(task.path)}" for name, task in registry.tasks().items()]


def pages() -> list[str]:
    """Return the catalog, flat: task, JSON, task, JSON, ..."""
    return [word for name, task in registry.tasks().items() for word in (name, _page(task))]


def _page(task: Task) -> str:
    shape = signature.read(task.path)
    text = _page_of(task, shape)
    return text if len(text) <= LONGEST_PAGE else _page_of(task, Signature())


def _page_of(task: Task, shape: Signature) -> str:
    facts = {
        **task._asdict(),
        "parameters": [own._asdict() for own in shape.parameters],
        "summary": shape.summary,
        "fingerprint": fingerprint(task.path),
        "seen": round(time.time()),
    }
    return json.dumps(facts, default=_bytes_as_json)


def _bytes_as_json(value: object) -> Any:
    assert isinstance(value, bytes)  # an Enum's value: all else of a page is JSON
    return {"bytes": value.decode("latin-1")}
