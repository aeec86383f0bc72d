"""Where Redis is: the address in a URL, read as redis-py reads it."""

from __future__ import annotations

import re
from typing import NamedTuple

from werk.errors import ConfigError
from werk.printable import is_storable
from werk.settings import origin

# scheme, user, password, host, port, path, database. urllib takes a twentieth of an enqueue.
PLAIN_URL = re.compile(
    r"(rediss?|unix)://(?:([^:@/?#]*):([^@/?#]*)@)?([A-Za-z0-9_.-]*)(?::([0-9]{1,5}))?"
    r"(/[^?#]*)?(?:\?db=([0-9]+))?"
)

_DATABASE = "[0-9]{1,9}"
_USE = "use redis://localhost:6379/0, rediss://... or unix:///path"


class Address(NamedTuple):
    """Where Redis is; printed without the credentials."""

    host: str = "localhost"
    port: int = 6379
    path: str | None = None  # of a unix socket
    db: int = 0
    username: str | None = None
    password: str | None = None
    has_tls: bool = False

    def __str__(self) -> str:
        host = f"[{self.host}]" if ":" in self.host else self.host
        return f"{self.path or f'{host}:{self.port}'}/{self.db}"

    def __repr__(self) -> str:
        return str(self)

    def greeting(self) -> list[tuple[str | int, ...]]:
        """Return the commands that begin a connection."""
        commands: list[tuple[str | int, ...]] = []
        if self.username or self.password:  # a user may have no password (nopass), as in redis-py
            user = (self.username,) if self.username else ()
            commands.append(("AUTH", *user, self.password or ""))
        if self.db:
            commands.append(("SELECT", self.db))
        return commands


def parse_url(url: str) -> Address | None:
    """Return the address in a URL as redis-py understands it; None if only redis-py does.

    Raises ConfigError if its database is not a number, if it names a unix socket without a path, or
    another server in text that is not UTF-8.
    """
    if not (is_storable(url) or url.startswith("unix:")):
        raise ConfigError(f"{no_url()}; it is not valid UTF-8")
    plain = PLAIN_URL.fullmatch(url)
    if plain is None or int(plain[5] or 0) > 65535:
        return None
    words = plain.groups()
    if "%" in url:
        from urllib.parse import unquote

        words = tuple(word and unquote(word) for word in words)
    scheme, user, password, host, port, path, db = words
    if scheme == "unix" and not path:
        raise ConfigError(no_url())
    if scheme != "unix":
        path, db = None, db or (path or "").strip("/")
    if not re.fullmatch(_DATABASE, db or "0"):
        where = "?db=" if scheme == "unix" else "the last /"
        raise ConfigError(f"{no_url()}; what follows {where} is the number of a database")
    place = (host or "localhost", int(port or 0) or 6379, path, int(db or 0))
    return Address(*place, user or None, password or None, scheme == "rediss")


def no_url() -> str:
    """Return the message for a URL that names no Redis. The URL may contain a password."""
    return f"invalid {origin('url')}; {_USE}"


def shown(url: str) -> str:
    """Return a Redis URL as it may be printed: host, port and database, without credentials."""
    from urllib.parse import urlsplit

    parts = urlsplit(url)
    where = parts.path if parts.scheme == "unix" else parts.netloc.rpartition("@")[2] + parts.path
    return f"{parts.scheme}://{where}"
