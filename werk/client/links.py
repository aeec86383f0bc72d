"""The connections of a caller: each thread has its own, because a link is one socket."""

from __future__ import annotations

import threading
from collections.abc import Callable
from typing import TYPE_CHECKING
from weakref import WeakKeyDictionary

from werk.settings import Settings
from werk.store.connection import Link, link, link_over

if TYPE_CHECKING:
    from redis import Redis

    Connection = Redis | Link  # the caller's own client, or a link with another budget


class _Links(threading.local):
    def __init__(self) -> None:
        self.by_url: dict[str | None, Link] = {}
        self.by_pool: WeakKeyDictionary[object, Link] = WeakKeyDictionary()


_links = _Links()

# werk.testing sets it: what stands for Redis in this thread or asyncio task, if anything does.
stand_in: Callable[[Connection | None], Link | None] | None = None


def link_of(connection: Connection | None) -> Link:
    """Return this thread's link for `connection`, or for the Redis that the environment names.

    Raises ConfigError.
    """
    if stand_in and (found := stand_in(connection)):
        return found
    if isinstance(connection, Link):
        return connection
    if connection is not None:
        pool = getattr(connection, "connection_pool", connection)
        if pool not in _links.by_pool:
            _links.by_pool[pool] = link_over(connection)
        return _links.by_pool[pool]
    url = Settings.url()  # the rest of the environment is read only once
    if url not in _links.by_url:
        _links.by_url[url] = link(Settings.read())
    return _links.by_url[url]
