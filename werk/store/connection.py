"""A light connection to Redis: hiredis on a socket, a time budget for each call, scripts by SHA.

redis-py opens only the sockets that this does not (Sentinel, RQ_CONFIG, options of a URL, a client
of the caller's own): importing it costs more than all the rest of an enqueue. Whatever
goes through a link is safe to send twice: after a lost reply it is sent again, within the budget.
"""

from __future__ import annotations

import errno
import os
import re
import socket
import time
from collections.abc import Callable, Sequence
from functools import cache, cached_property, partial
from typing import TYPE_CHECKING, Any, NamedTuple
from weakref import ref

import hiredis

from werk.errors import ConfigError, RedisUnavailable, WerkError
from werk.settings import Settings

if TYPE_CHECKING:
    from redis import Redis

LIBRARY_BUDGET_S = 2.0  # a web request waits for this
COMMAND_BUDGET_S = 10.0  # a line in a crontab may wait for a restart of Redis

# scheme, user, password, host, port, path, database. Not by urllib, a twentieth of an enqueue.
PLAIN_URL = re.compile(
    r"(rediss?|unix)://(?:([^:@/?#]*):([^@/?#]*)@)?([A-Za-z0-9_.-]*)(?::([0-9]{1,5}))?"
    r"(/[^?#]*)?(?:\?db=([0-9]+))?"
)

NO_URL = "RQ_REDIS_URL is none of redis://localhost:6379/0, rediss://..., unix:///path"

Word = str | bytes | int | float
Command = tuple[Any, ...]  # of Word; hiredis says of its own: a tuple of one

# What the first word of an error reply means for the caller.
_TRY_AGAIN = {"LOADING", "READONLY", "TRYAGAIN", "MASTERDOWN", "BUSY", "NOREPLICAS"}
_FULL = {"OOM", "MISCONF"}
_TOO_MANY = "max number of clients"
_CLUSTER = {"MOVED", "ASK", "CROSSSLOT", "CLUSTERDOWN"}
_CLUSTER_TEXTS = ("same slot", "cluster node", "cluster is down")  # inside a script


class Address(NamedTuple):
    """Where Redis is; printed without what is secret."""

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


class Script:
    """A Lua script of ours."""

    def __init__(self, text: str) -> None:
        self.text = text

    @classmethod
    @cache
    def named(cls, name: str) -> Script:
        """Return lua/NAME.lua."""
        with open(os.path.join(os.path.dirname(__file__), "lua", f"{name}.lua")) as file:
            return cls(file.read())

    @cached_property
    def sha(self) -> str:
        """The name that Redis gives it."""
        from hashlib import sha1  # loads OpenSSL, and one enqueue does without

        return sha1(self.text.encode()).hexdigest()


class Link:
    """One connection, opened when first used and anew after a fork or a fault. Not for threads."""

    def __init__(
        self, connect: Callable[[float], tuple[socket.socket, object]], where: str, budget_s: float
    ) -> None:
        self.where = where
        self.budget_s = budget_s
        self.beliefs: dict[Any, Any] = {}  # what a caller was told a moment ago (client.send)
        self._connect = connect
        self._socket: socket.socket | None = None
        self.client: object = None  # one of our own making, which the link keeps alive
        self._owner: object = None  # whatever must live as long as the socket
        self._reader = hiredis.Reader()
        self._loaded: set[Script] = set()
        self.opened = 0  # connections so far
        self._pid = os.getpid()

    def call(self, *command: Word) -> Any:
        """Send one command, return its reply. Raises as calls()."""
        return self.calls([command])[0]

    def run(self, script: Script, keys: Sequence[str], arguments: Sequence[Word]) -> Any:
        """Run a script, return its reply. Raises as calls()."""
        start: Command = ("EVAL", script.text)  # Redis keeps it
        if script in self._loaded:
            start = ("EVALSHA", script.sha)
        try:
            [reply] = self.calls([(*start, len(keys), *keys, *arguments)])
        except _NoScript:  # Redis was restarted, or emptied
            self._loaded.discard(script)
            return self.run(script, keys, arguments)
        self._loaded.add(script)
        return reply

    def calls(self, commands: Sequence[Command], *, skips_type: bool = False) -> list[Any]:
        """Send commands in one round trip, return their replies.

        With `skips_type` the reply of a key of another type is None, and no error.
        Sends all of them again after a fault that may pass, until the budget is used up. Raises
        RedisUnavailable then, and at once when Redis is full; ConfigError for what will not pass.
        """
        deadline = time.monotonic() + self.budget_s
        pause_s = 0.0  # the first time at once: an idle connection may just have been closed
        while True:
            try:
                replies = self._exchange(commands, deadline)
                for at, reply in enumerate(replies):
                    if isinstance(reply, hiredis.ReplyError):
                        if not skips_type or _code(str(reply)) != "WRONGTYPE":
                            raise _fault(reply, self.where)
                        replies[at] = None
                return replies
            except (OSError, _TryAgain) as error:
                import random  # callers who failed together do not try again together

                self.close()
                pause_s = min(1.0, pause_s * 2 or 0.02) * random.uniform(0.5, 1.0)
                if time.monotonic() + pause_s >= deadline:
                    raise RedisUnavailable(self._unreachable(error)) from None
                time.sleep(pause_s)

    def close(self) -> None:
        """Close the socket; the next call opens another."""
        if self._socket is not None:
            self._socket.close()
        self._socket = self._owner = None

    def __del__(self) -> None:
        self.close()  # of a thread that has ended

    def _exchange(self, commands: Sequence[Command], deadline: float) -> list[Any]:
        if self._pid != os.getpid():  # the socket is the parent's
            self.close()
            self._pid = os.getpid()
        if self._socket is None:
            self._socket, self._owner = self._connect(deadline)
            self.opened += 1
            self._reader = hiredis.Reader()
        try:
            return exchange(self._socket, self._reader, commands, deadline)
        except BaseException as error:
            self.close()  # or the next call would read this one's replies
            if not isinstance(error, hiredis.ProtocolError):
                raise
            why = f"what answers at {self.where} is not Redis; see RQ_REDIS_URL"
            raise ConfigError(why) from None

    def _unreachable(self, error: Exception) -> str:
        if why := shortage():
            return f"Redis at {self.where} was not asked: this process can open nothing ({why})"
        reason = str(getattr(error, "strerror", None) or error) or type(error).__name__
        where = f"Redis at {self.where} was not reached within {self.budget_s:g} s ({reason})"
        return f"{where}; is it running, and is RQ_REDIS_URL right?"


def link(settings: Settings, budget_s: float = LIBRARY_BUDGET_S) -> Link:
    """Return a link to the Redis that the environment names, found as RQ does. Opens nothing.

    Raises ConfigError if it names none.
    """
    is_named = settings.redis_url or settings.rq_config or settings.rq_redis
    address = parse_url(settings.redis_url or "") if is_named else Address()
    if address:
        return Link(partial(_open, address), str(address), budget_s)
    client = redis_client(settings)
    found = link_over(client, budget_s)
    found.client = client
    return found


def redis_client(settings: Settings) -> Redis:
    """Return a redis-py client for the same Redis, as RQ's own commands would make it."""
    from redis import Redis
    from rq.cli.helpers import get_redis_from_config, read_config_file

    if settings.redis_url:
        try:
            return Redis.from_url(settings.redis_url)
        except ValueError:  # which may quote a part of a password
            raise ConfigError(NO_URL) from None
    try:
        module, found = settings.rq_config, settings.rq_redis
        config = read_config_file(module) if module else found  # type: ignore[no-untyped-call]
        client: Redis = get_redis_from_config(config)  # type: ignore[no-untyped-call]
    except Exception as error:  # whatever the module does when it is imported
        why = f"{type(error).__name__}: {error}"
        raise ConfigError(f"RQ_CONFIG={settings.rq_config}: cannot be used: {why}") from error
    return client


def link_over(client: Redis, budget_s: float = LIBRARY_BUDGET_S) -> Link:
    """Return a link that connects as a redis-py client does, but within our budget.

    Raises ConfigError for a client of no use: asynchronous, of a cluster, decoding replies.
    """
    import ssl

    from redis import Redis
    from redis.backoff import NoBackoff
    from redis.exceptions import AuthenticationError, RedisError
    from redis.retry import Retry

    if not isinstance(client, Redis):
        raise ConfigError(f"connection= takes a redis.Redis, not a {type(client).__name__}")
    pool = client.connection_pool
    if pool.connection_kwargs.get("decode_responses"):
        raise ConfigError("connection= was made with decode_responses=True; RQ needs one without")

    pool_of_caller = ref(pool)  # or the link, kept by pool, would keep it for ever

    def connect(deadline: float) -> tuple[socket.socket, object]:
        pool = pool_of_caller()
        if pool is None:
            raise ConfigError("the client given as connection= is gone; keep it while it is used")
        # RESP2, or Redis may push messages between the replies; and nothing that handles those,
        # because it holds on to the pool.
        options = {**pool.connection_kwargs, "protocol": 2}
        for name in [name for name in options if name.startswith("maint_notifications_")]:
            options[name] = None
        connection = pool.connection_class(**options)
        connection.retry = Retry(NoBackoff(), 0)
        connection.socket_timeout = connection.socket_connect_timeout = _left(deadline)
        try:
            connection.connect()
        except AuthenticationError as error:
            raise ConfigError(f"Redis at {where} refused the credentials: {error}") from None
        except RedisError as error:
            cause = error.__context__
            is_file_missing = isinstance(cause, FileNotFoundError) and "path" not in options
            is_refused = isinstance(cause, ssl.SSLError) and not isinstance(cause, ssl.SSLEOFError)
            if is_file_missing or is_refused:  # waiting makes it no better
                raise ConfigError(f"TLS with Redis at {where} failed: {cause}") from None
            why = str(error).partition(" : <")[0]  # Sentinel's goes on with all that redis-py knows
            raise cause if isinstance(cause, OSError) else ConnectionError(why) from None
        return connection._sock, connection

    kwargs = pool.connection_kwargs
    host, port = kwargs.get("host", "localhost"), kwargs.get("port", 6379)
    where = str(Address(host, port, kwargs.get("path"), kwargs.get("db") or 0))
    if master := getattr(pool, "service_name", None):
        where = f"{master} (by Sentinel)"
    return Link(connect, where, budget_s)


def shown(url: str) -> str:
    """Return a URL of Redis as it may be printed: host, port and database, nothing secret."""
    from urllib.parse import urlsplit

    parts = urlsplit(url)
    where = parts.path if parts.scheme == "unix" else parts.netloc.rpartition("@")[2] + parts.path
    return f"{parts.scheme}://{where}"


def parse_url(url: str) -> Address | None:
    """Return the address in a URL as redis-py understands it; None if only redis-py does.

    Raises ConfigError if it names no database.
    """
    plain = PLAIN_URL.fullmatch(url)
    if plain is None or int(plain[5] or 0) > 65535:
        return None
    words = plain.groups()
    if "%" in url:
        from urllib.parse import unquote

        words = tuple(word and unquote(word) for word in words)
    scheme, user, password, host, port, path, db = words
    if scheme != "unix":
        path, db = None, db or (path or "").strip("/") or "0"
        if not db.isdecimal():
            raise ConfigError(f"{NO_URL}; after the last / comes the number of a database")
    place = (host or "localhost", int(port or 0) or 6379, path, int(db or 0))
    return Address(*place, user or None, password or None, scheme == "rediss")


def exchange(
    sock: socket.socket, reader: hiredis.Reader, commands: Sequence[Command], deadline: float
) -> list[Any]:
    """Send commands and return as many replies, errors among them as values. Raises OSError."""
    sock.settimeout(_left(deadline))
    sock.sendall(b"".join([hiredis.pack_command(command) for command in commands]))
    replies: list[Any] = []
    while len(replies) < len(commands):
        sock.settimeout(_left(deadline))
        data = sock.recv(65536)
        if not data:
            raise ConnectionError("the connection was closed")
        reader.feed(data)
        while (reply := reader.gets()) is not False:
            replies.append(reply)
    return replies


class _TryAgain(WerkError):
    """A reply that says: not now."""


class _NoScript(WerkError):
    """A reply that says: which script?"""


def _open(address: Address, deadline: float) -> tuple[socket.socket, None]:
    if address.path is None:
        # as bytes: for text Python loads a codec, a fiftieth of a whole enqueue
        place: Any = (address.host.encode(), address.port)
        half = _left(deadline) / 2  # a silent address leaves time for the next
        sock = socket.create_connection(place, half)
        sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
    else:
        sock = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
    try:
        if address.path is not None:
            sock.settimeout(_left(deadline))
            sock.connect(address.path)
        elif address.has_tls:
            sock = _secured(sock, address)
        commands: list[Command] = []
        if address.password is not None:
            user = (address.username,) if address.username else ()
            commands.append(("AUTH", *user, address.password))
        if address.db:
            commands.append(("SELECT", address.db))
        for reply in exchange(sock, hiredis.Reader(), commands, deadline):
            if isinstance(reply, hiredis.ReplyError):
                raise _fault(reply, str(address))
    except BaseException:
        sock.close()
        raise
    return sock, None


def _secured(sock: socket.socket, address: Address) -> socket.socket:
    import ssl

    try:
        return ssl.create_default_context().wrap_socket(sock, server_hostname=address.host)
    except ssl.SSLEOFError:  # it left in the middle
        raise
    except ssl.SSLError as error:  # waiting makes it no better
        raise ConfigError(f"TLS with Redis at {address} failed: {error}") from None


def _fault(reply: hiredis.ReplyError, where: str) -> WerkError:
    """Return what an error reply means for the caller."""
    text, code = str(reply), _code(str(reply))
    if code == "NOSCRIPT":
        return _NoScript(text)
    if code in _CLUSTER or any(part in text for part in _CLUSTER_TEXTS):
        return cluster_error(where)
    if code in _TRY_AGAIN or _TOO_MANY in text:
        return _TryAgain(text)
    if code in _FULL:
        return RedisUnavailable(f"Redis at {where} takes no more data: {text}")
    if code in ("WRONGPASS", "NOAUTH", "NOPERM", "DENIED") or "AUTH" in text:
        return ConfigError(f"Redis at {where} refused the credentials or the command: {text}")
    return ConfigError(f"Redis at {where} answered: {text}")


def passes(text: str) -> bool:
    """Tell whether an error reply will not be given again once Redis is well: it is not ours."""
    return _code(text) in {*_TRY_AGAIN, *_FULL, "CLUSTERDOWN"} or _TOO_MANY in text


def _code(text: str) -> str:
    words: list[str] = re.findall(r"[A-Z]+", text)
    code, *others = words or ["ERR"]
    if code == "ERR":  # 6.2 says what it is inside its report of a script's failure
        return next((word for word in others if word in _TRY_AGAIN | _FULL | _CLUSTER), code)
    return code


def shortage() -> str:
    """Return why this process can open nothing, not even a file; "" if it can.

    A connection that fails for this reason says nothing of Redis: ask after each that failed. (The
    error of the connection itself does not always tell: without descriptors a host's name is not
    found.)
    """
    try:
        os.close(os.open(os.devnull, os.O_RDONLY))
    except OSError as error:
        if error.errno in (errno.EMFILE, errno.ENFILE, errno.ENOMEM):
            return os.strerror(error.errno)
    return ""


def cluster_error(where: str) -> ConfigError:
    """Return what to say of a node of Redis Cluster: our scripts use keys of many slots."""
    what = f"Redis at {where} is a node of Redis Cluster, which is not supported"
    return ConfigError(f"{what}; use a single Redis, or Redis with Sentinel")


def is_cluster(info: bytes) -> bool:
    """Tell whether a reply of INFO is that of a node of Redis Cluster."""
    return b"cluster_enabled:1" in info


def _left(deadline: float) -> float:
    """Return the seconds to a deadline. Raises TimeoutError if it is past (0 means: no limit)."""
    left = deadline - time.monotonic()
    if left <= 0:
        raise TimeoutError("no answer")
    return left
