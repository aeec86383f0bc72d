"""The list of tasks: those of the tables here, those in the catalog, and their workers."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any, NamedTuple

from werk import registry
from werk.errors import RedisUnavailable
from werk.ops.snapshot import Snapshot
from werk.store import keys
from werk.store.connection import Link
from werk.tasks.catalog import own_entry, path_warning
from werk.tasks.catalog_page import MOST_SERVED, NO_PAGES, SERVED_S, Entry, read_pages


class Row(NamedTuple):
    """A task in the list: its definition here, and the workers that serve it."""

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
        """Return the row as `werk tasks --json` prints it."""
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
        """Return the row as `werk tasks` prints it."""
        found = [_usage(self.entry)]
        found += [self.entry.shape.summary] if self.entry.shape.summary else []
        found += [] if self.is_here else ["not in the table here; read from the catalog"]
        if self.served is not None:
            queues = ", ".join(sorted(self.served))
            found.append(f"served on {queues}" if queues else "no live worker serves it")
        if self.differing:
            found.append(f"another version on {', '.join(self.differing)}: an unfinished deploy?")
            if self.theirs and self.theirs.fingerprint != self.entry.fingerprint:
                found.append(f"there: {_usage(self.theirs)}")
        if self.theirs and (warning := path_warning(self.entry, self.theirs)):
            found.append(warning)
        return [found[0], *(f"    {line}" for line in found[1:])]


def survey(link: Link | None, note: Callable[[str], None]) -> list[Row]:
    """Return all tasks by name: those of the tables here, and those that live workers serve.

    Without a link the list does not show who serves them. `note` is called with problems.
    """
    own = {name: own_entry(name) for name in registry.tasks()}
    pages = NO_PAGES
    served: dict[str, dict[str, list[str]]] | None = None
    try:
        if link:
            pages, served = read_pages(link), _served(link)
    except RedisUnavailable as error:
        note(f"cannot read which workers serve the tasks: {error}")
    if pages.damaged:
        note(pages.problem())
    theirs = pages.entries
    if served and registry.is_as_shipped():  # see catalog.of_workers
        paths = {name: theirs[name].task.path for name in served if name in theirs}
        own = {name: entry for name, entry in own.items() if paths.get(name) == entry.task.path}
    shown = {name: theirs[name] for name in served or () if name in theirs} | own
    by = {name: None if served is None else served.get(name, {}) for name in shown}
    return [Row(shown[name], name in own, theirs.get(name), by[name]) for name in sorted(shown)]


def _served(link: Link) -> dict[str, dict[str, list[str]]]:
    """Return what live workers serve: task -> queue -> fingerprints."""
    snapshot = Snapshot.read(link)
    since = snapshot.time - SERVED_S
    sets = [keys.key("werk", "serves", queue) for queue in snapshot.queues]
    asked = [("ZRANGEBYSCORE", key, since, "+inf", "LIMIT", 0, MOST_SERVED) for key in sets]
    replies = link.calls(asked, skips_type=True)
    found: dict[str, dict[str, list[str]]] = {}
    for queue, members in zip(snapshot.queues, replies, strict=True):
        for member in map(keys.text, members or ()):
            task, _, version = member.partition(" ")
            found.setdefault(task, {}).setdefault(queue, []).append(version)
    return found


def _usage(entry: Entry) -> str:
    call = f"{entry.name} {entry.shape.usage()}".rstrip()
    return f"{call}  -> {entry.task.path}, queue {entry.task.queue}"
