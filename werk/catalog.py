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
from werk.arguments import Parameter, Signature, Type
from werk.errors import RedisUnavailable, UnknownTask
from werk.link import Link
from werk.registry import Task

CATALOG = wire.key("werk", "catalog")
LIVE_S = 15  # three beats of a worker (tick.CATALOG_S); older ones are of workers that are gone


class Entry(NamedTuple):
    """A task as callers need it, from the table and the code here or from the catalog."""

    name: str
    task: Task
    shape: Signature
    fingerprint: str


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

    def text(self) -> str:
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
        return "\n    ".join(said)


def find(name: str, link: Callable[[], Link]) -> Entry:
    """Return a task; from the catalog, over `link()`, if its table or its code is not here.

    Raises UnknownTask with the nearest name, RedisUnavailable, ConfigError.
    """
    is_own = name in registry.BUILT_IN or name in registry.tasks()
    own = own_entry(name) if is_own else None
    if own and not own.shape.is_missing:
        return own
    page, names = link().calls([("HGET", CATALOG, name), ("HKEYS", CATALOG)])
    found = (page and _entry(name, page)) or own
    if found is None:
        raise UnknownTask(registry.unknown(name, map(wire.text, names)))
    return found


@cache
def own_entry(name: str) -> Entry:
    """Return a task of the tables here."""
    task = registry.BUILT_IN.get(name) or registry.tasks()[name]
    return Entry(name, task, signature.read(task.path), fingerprint(task.path))


def everything(link: Link) -> dict[str, Entry]:
    """Return the catalog. Raises RedisUnavailable, ConfigError."""
    pages = wire.pairs(link.call("HGETALL", CATALOG))
    found = {wire.text(name): _entry(wire.text(name), page) for name, page in pages.items()}
    return {name: entry for name, entry in found.items() if entry}


def survey(link: Link | None, note: Callable[[str], None]) -> list[Row]:
    """Return all tasks by name: those of the tables here, and those that live workers serve.

    Without a link nobody is asked who serves them; `note` is told if Redis is away.
    """
    own = {name: own_entry(name) for name in registry.tasks()}
    pages: dict[str, Entry] = {}
    served: dict[str, dict[str, list[str]]] | None = None
    try:
        if link:
            pages, served = everything(link), _served(link)
    except RedisUnavailable as error:
        note(f"who serves them is not known: {error}")
    shown = {name: pages[name] for name in served or () if name in pages} | own
    by = {name: None if served is None else served.get(name, {}) for name in shown}
    return [Row(shown[name], name in own, pages.get(name), by[name]) for name in sorted(shown)]


def _served(link: Link) -> dict[str, dict[str, list[str]]]:
    """Return what live workers serve: task -> queue -> fingerprints."""
    from werk.status import Snapshot  # no other caller needs it

    snapshot = Snapshot.read(link)
    since = snapshot.time - LIVE_S
    keys = [wire.key("werk", "serves", queue) for queue in snapshot.queues]
    replies = link.calls([("ZRANGEBYSCORE", key, since, "+inf") for key in keys])
    found: dict[str, dict[str, list[str]]] = {}
    for queue, members in zip(snapshot.queues, replies, strict=True):
        for member in map(wire.text, members):
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
    return f"{zlib.crc32(repr((path, signature.read(path).parameters)).encode()):08x}"


def serves() -> list[str]:
    """Return a member of serves:<queue> for each task."""
    return [f"{name} {fingerprint(task.path)}" for name, task in registry.tasks().items()]


def pages() -> list[str]:
    """Return the catalog, flat: task, JSON, task, JSON, ..."""
    return [word for name, task in registry.tasks().items() for word in (name, _page(task))]


def _page(task: Task) -> str:
    shape = signature.read(task.path)
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


# --- reading a page


def _entry(name: str, page: bytes) -> Entry | None:
    """Return what a page says; None if it is none that we write."""
    try:
        if not registry.NAME.fullmatch(name):
            return None
        facts = json.loads(page)
        task = Task(**{field: facts[field] for field in Task._fields})
        if task.problem():
            return None
        task = task._replace(secret=tuple(task.secret))
        parameters = tuple(_parameter(**own) for own in facts["parameters"])
        summary = "".join(c if c.isprintable() else " " for c in facts["summary"])
        shape = Signature(parameters, summary)
        return Entry(name, task, shape, str(facts["fingerprint"]))
    except (ValueError, TypeError, KeyError, AttributeError, RecursionError):
        return None


def _parameter(name: str, type: Any, **facts: Any) -> Parameter:
    if not name.isidentifier():  # it is printed, and nothing steers a terminal
        raise ValueError(name)
    return Parameter(name, type=_type(type), **facts)


def _type(parts: Any) -> Type:
    name, of, choices = parts
    values = (
        (text, value["bytes"].encode("latin-1") if isinstance(value, dict) else value)
        for text, value in choices
    )
    return Type.checked(name, of and _type(of), tuple(values))
