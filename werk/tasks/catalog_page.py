"""Pages of the catalog: the tasks as workers publish them. Any client may have written a page.

A page that no worker could have written is damaged: it is not a task, and is counted.
"""

from __future__ import annotations

import json
import re
from collections.abc import Mapping, Sequence
from functools import cache
from typing import Any, NamedTuple

from werk.errors import ArgumentError
from werk.printable import listed, printable
from werk.registry import NAME, Task
from werk.store import keys
from werk.store.connection import Command, Link
from werk.store.scripts import Script, joined, named, source
from werk.tasks.arguments import KINDS, Parameter, Signature
from werk.tasks.types import JSON, Type

CATALOG = keys.key("werk", "catalog")
LONGEST_PAGE = 256 * 1024  # bytes
MOST_PAGES = 10_000
SERVED_S = 15  # after a worker's last beat: three of its beats (tick.CATALOG_S)
MOST_SERVED = 10_000  # tasks on one queue
MOST_PARTS = 10_000  # of a list on a page
DEEPEST_TYPE = 20  # list[list[...]]
LONGEST_NAME = 200  # characters, of a parameter
LONGEST_SUMMARY = 1000

_FINGERPRINT = r"[!-~]{1,64}"


class Entry(NamedTuple):
    """A task as callers need it, from the table and the code here or from the catalog."""

    name: str
    task: Task
    shape: Signature
    fingerprint: str
    warning: str = ""  # how the catalog differs from the registry here


class Pages(NamedTuple):
    """The content of the catalog."""

    entries: Mapping[str, Entry]
    damaged: Sequence[str]  # the names of the pages that cannot be read

    def problem(self) -> str:
        """Return a description of the damaged pages."""
        entries = "entry" if len(self.damaged) == 1 else "entries"
        return f"{len(self.damaged)} damaged {entries} in the catalog: {listed(self.damaged)}"


NO_PAGES = Pages({}, ())


@cache
def script() -> Script:
    """Return catalog.lua."""
    return joined(named(("LONGEST_PAGE", "MOST_PAGES", "TASK")), source("catalog"))


def command() -> Command:
    """Return the command that asks for all pages; `pages` reads its reply."""
    return ("EVAL", script().text, 1, CATALOG, LONGEST_PAGE, MOST_PAGES)


def read_pages(link: Link, *name: str) -> Pages:
    """Return all pages, or the one of a task. Raises RedisUnavailable, ConfigError."""
    return pages(link.run(script(), [CATALOG], [LONGEST_PAGE, MOST_PAGES, *name]))


def pages(reply: Sequence[bytes]) -> Pages:
    """Return the pages in a reply of catalog.lua."""
    entries, damaged = {}, []
    for name, page in zip(map(keys.text, reply[::2]), reply[1::2], strict=True):
        if entry := read(name, page):
            entries[name] = entry
        else:
            damaged.append(name)
    return Pages(entries, sorted(damaged))


def live(link: Link, queue: str = "default") -> dict[str, Entry]:
    """Return the tasks that live workers serve on a queue and those of the tasks in the catalog.

    Raises RedisUnavailable, ConfigError.
    """
    reply, (clock, _) = link.calls([command(), ("TIME",)])
    entries = pages(reply).entries
    if not entries:
        return {}
    queues = {"default", queue, *(entry.task.queue for entry in entries.values())}
    since = int(clock) - SERVED_S
    served = [keys.key("werk", "serves", queue) for queue in queues]
    asked = [("ZRANGEBYSCORE", key, since, "+inf", "LIMIT", 0, MOST_SERVED) for key in served]
    replies = link.calls(asked, skips_type=True)
    members = {keys.text(member) for reply in replies for member in reply or ()}
    names = {member.partition(" ")[0] for member in members}
    return {name: page for name, page in entries.items() if name in names}


def read(name: str, page: bytes) -> Entry | None:
    """Return the task on a page; None if the page is damaged."""
    try:
        return _entry(name, json.loads(page))
    except (ArgumentError, ValueError, TypeError, LookupError, RecursionError):
        return None


def _entry(name: str, facts: Any) -> Entry:
    _check(NAME.fullmatch(name) is not None)
    known = {"retry_delays": (), "within": 0, **facts}  # werk 0.2.0 publishes none
    given = {field: known[field] for field in Task._fields if field != "retry_on"}
    task = Task(**given).in_seconds()
    _check(task.problem() is None)
    parameters = tuple(_parameter(**own) for own in _list(facts["parameters"]))
    _check(len({own.name for own in parameters}) == len(parameters))
    fingerprint = _text(facts["fingerprint"])
    _check(re.fullmatch(_FINGERPRINT, fingerprint) is not None)
    summary = printable(_text(facts["summary"])[:LONGEST_SUMMARY])
    returns = _type(facts["returns"]) if "returns" in facts else JSON  # 0.2.0 does not write it
    task = task._replace(secret=tuple(task.secret), retry_delays=tuple(task.retry_delays))
    is_decorated = facts.get("decorated") is True  # werk 0.2.0 publishes none
    shape = Signature(parameters, summary, returns=returns, is_decorated=is_decorated)
    return Entry(name, task, shape, fingerprint)


def _parameter(
    name: str,
    kind: str,
    type: Any,
    required: bool = False,
    default: str | None = None,
    positional_only: bool = False,
    **_: object,  # of a later version
) -> Parameter:
    _check(_text(name).isidentifier() and len(name) <= LONGEST_NAME and kind in KINDS)
    _check(isinstance(required, bool) and isinstance(positional_only, bool))
    default = None if default is None else printable(_text(default))
    return Parameter(name, kind, _type(type), required, default, positional_only)


def _type(parts: Any, deepest: int = DEEPEST_TYPE) -> Type:
    name, of, choices = _list(parts)
    _check(deepest > 0)
    inner = None if of is None else _type(of, deepest - 1)
    values = tuple(_choice(*_list(own)) for own in _list(choices))
    _check(name != "choice" or values != ())
    return Type.checked(_text(name), inner, values if name == "choice" else ())


def _choice(text: Any, value: Any) -> tuple[str, object]:
    if type(value) is dict:
        value = _text(value["bytes"]).encode("latin-1")
    _check(type(value) in (bool, int, float, str, bytes))
    return _text(text), value


def _list(value: Any) -> list[Any]:
    _check(type(value) is list and len(value) <= MOST_PARTS)
    return value  # type: ignore[no-any-return]


def _text(value: Any) -> str:
    _check(type(value) is str)
    return value  # type: ignore[no-any-return]


def _check(is_right: bool) -> None:
    if not is_right:
        raise ValueError
