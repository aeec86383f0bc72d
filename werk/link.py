"""A light connection to Redis: hiredis on a socket, a time budget for each call, scripts by SHA.

redis-py opens only the sockets that this cannot (Sentinel, RQ_CONFIG, rare options in a URL, a
client of the caller's own): importing it costs more than all the rest of an enqueue. Whatever goes
through a link is safe to send twice, so after a lost reply it is sent again, within the budget.
"""

from __future__ import annotations

import os
import re
import socket
import time
from collections.abc import Callable, Mapping, Sequence
from functools import cache, cached_property
from typing import TYPE_CHECKING, Any, NamedTuple
from weakref import ref

import hiredis

from werk.errors import ConfigError, RedisUnavailable, WerkError
from werk.settings import Settings

if TYPE_CHECKING:
    from urllib.parse import SplitResult

    from redis import Redis

LIBRARY_BUDGET_S = 2.0  # a web request waits for this
COMMAND_BUDGET_S = 10.0  # a line in a crontab may wait for a restart of Redis

# A URL that needs no urllib, which a twentieth of an enqueue from the shell would go into.
PLAIN_URL = re.compile(r"redis://([a-z0-9.-]+):([0-9]{1,5})(?:/([0-9]{0,4}))?")

Word = str | bytes | int | float
Command = tuple[Any, ...]  # of Word; hiredis says of its own: a tuple of one

# What the first word of an error reply means for the caller.
_TRY_AGAIN = {"LOADING", "READONLY", "TRYAGAIN", "MASTERDOWN", "BUSY", "CLUSTERDOWN", "NOREPLICAS"}
_FULL = {"OOM", "MISCONF"}
_TLS_OPTIONS = {
    "ssl_ca_certs",
    "ssl_certfile",
    "ssl_keyfile",
    "ssl_cert_reqs",
    "ssl_check_hostname",
}


class Address(NamedTuple):
    """Where Redis is, from a URL; printed without what is secret."""

    host: str = "localhost"
    port: int = 6379
    path: str | None = None  # of a unix socket
    db: int = 0
    username: str | None = None
    password: str | None = None
    tls: Mapping[str, str] | None = None  # options of the URL; None: no TLS

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


_fork = 0  # this process is a child of so many


def _count_fork() -> None:
    global _fork
    _fork += 1


os.register_at_fork(after_in_child=_count_fork)


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
        self._fork = _fork

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

    def calls(self, commands: Sequence[Command]) -> list[Any]:
        """Send commands in one round trip, return their replies.

        Sends all of them again after a fault that may pass, until the budget is used up. Raises
        RedisUnavailable then, and at once when Redis is full; ConfigError for what will not pass.
        """
        deadline = time.monotonic() + self.budget_s
        pause_s = 0.0  # the first time at once: an idle connection may just have been closed
        while True:
            try:
                replies = self._exchange(commands, deadline)
                self._raise_for(replies)
                return replies
            except (OSError, _TryAgain) as error:
                self.close()
                self._raise_for_tls(error)
                pause_s = min(1.0, pause_s * 2 or 0.02) * _jitter()
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
        if self._fork != _fork:  # the socket is the parent's
            self.close()
            self._fork = _fork
        if self._socket is None:
            self._socket, self._owner = self._connect(deadline)
            self._reader = hiredis.Reader()
        try:
            return exchange(self._socket, self._reader, commands, deadline)
        except BaseException as error:
            self.close()  # or the next call would read this one's replies
            if not isinstance(error, hiredis.ProtocolError):
                raise
            raise ConfigError(
                f"what answers at {self.where} is not Redis; see RQ_REDIS_URL"
            ) from None

    def _raise_for(self, replies: Sequence[Any]) -> None:
        for reply in replies:
            if isinstance(reply, hiredis.ReplyError):
                raise _fault(reply, self.where)

    def _raise_for_tls(self, error: Exception) -> None:
        """Certificates do not get better by waiting. (ssl is not imported where it is not used.)"""
        if type(error).__name__ in ("SSLCertVerificationError", "SSLError"):
            reason = (
                getattr(error, "verify_message", None) or getattr(error, "reason", None) or error
            )
            raise ConfigError(f"TLS with Redis at {self.where} failed: {reason}") from None

    def _unreachable(self, error: Exception) -> str:
        reason = str(getattr(error, "strerror", None) or error) or type(error).__name__
        return (
            f"Redis at {self.where} was not reached within {self.budget_s:g} s ({reason}); "
            "is it running, and is RQ_REDIS_URL right?"
        )


def link(settings: Settings, budget_s: float = LIBRARY_BUDGET_S) -> Link:
    """Return a link to the Redis that the environment names, found as RQ does. Opens nothing."""
    address = parse_url(settings.redis_url) if settings.redis_url else None
    if address is None and (settings.redis_url or settings.rq_config or settings.rq_redis):
        client = redis_client(settings)
        found = link_over(client, budget_s)
        found.client = client
        return found
    address = address or Address()
    return Link(lambda deadline: _open(address, deadline), str(address), budget_s)


def redis_client(settings: Settings) -> Redis:
    """Return a redis-py client for the same Redis, as RQ's own commands would make it."""
    from redis import Redis
    from rq.cli.helpers import get_redis_from_config, read_config_file

    if settings.redis_url:
        return Redis.from_url(settings.redis_url)
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
            raise ConnectionError(str(error)) from None
        return connection._sock, connection

    kwargs = pool.connection_kwargs
    host, port = kwargs.get("host", "localhost"), kwargs.get("port", 6379)
    where = str(Address(host, port, kwargs.get("path"), kwargs.get("db") or 0))
    return Link(connect, where, budget_s)


def shown(url: str) -> str:
    """Return a URL of Redis as it may be printed: host, port and database, nothing secret."""
    from urllib.parse import urlsplit

    parts = urlsplit(url)
    where = parts.path if parts.scheme == "unix" else parts.netloc.rpartition("@")[2] + parts.path
    return f"{parts.scheme}://{where}"


def parse_url(url: str) -> Address | None:
    """Return the address in a URL as redis-py understands it; None if it has options only it knows.

    Raises ConfigError if it is none.
    """
    if (plain := PLAIN_URL.fullmatch(url)) and int(plain[2]) < 65536:
        return Address(plain[1], int(plain[2]) or 6379, db=int(plain[3] or 0))
    from urllib.parse import parse_qsl, unquote, urlsplit

    try:
        parts = urlsplit(url)
        options = dict(parse_qsl(parts.query, keep_blank_values=True))
        port = parts.port or 6379
    except ValueError:
        raise ConfigError("RQ_REDIS_URL is no URL; want redis://localhost:6379/0") from None
    if parts.scheme not in ("redis", "rediss", "unix"):
        raise ConfigError("RQ_REDIS_URL starts with redis://, rediss:// or unix://")
    tls = {name: value for name, value in options.items() if name in _TLS_OPTIONS}
    if set(options) - {"db", "username", "password"} - set(tls) or (
        tls and parts.scheme != "rediss"
    ):
        return None
    return Address(
        host=unquote(parts.hostname or "localhost"),
        port=port,
        path=unquote(parts.path) if parts.scheme == "unix" else None,
        db=_database(parts, options),
        username=options.get("username") or (unquote(parts.username) if parts.username else None),
        password=options.get("password") or (unquote(parts.password) if parts.password else None),
        tls=tls if parts.scheme == "rediss" else None,
    )


def exchange(
    sock: socket.socket, reader: hiredis.Reader, commands: Sequence[Command], deadline: float
) -> list[Any]:
    """Send commands and return as many replies, errors among them as values. Raises OSError."""
    _limit(sock, deadline)
    sock.sendall(b"".join([hiredis.pack_command(command) for command in commands]))
    replies: list[Any] = []
    while len(replies) < len(commands):
        _limit(sock, deadline)
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
    sock = _plain_socket(address, deadline)
    try:
        if address.tls is not None:
            sock = _tls_socket(sock, address)
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


def _plain_socket(address: Address, deadline: float) -> socket.socket:
    if address.path is not None:
        sock = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        sock.settimeout(_left(deadline))
        sock.connect(address.path)
        return sock
    # as bytes: for text Python loads a codec, a fiftieth of a whole enqueue
    host = address.host.encode() if address.host.isascii() else address.host
    places = socket.getaddrinfo(host, address.port, type=socket.SOCK_STREAM)
    for left, (family, kind, protocol, _, place) in zip(
        range(len(places), 0, -1), places, strict=True
    ):
        sock = socket.socket(family, kind, protocol)
        try:
            sock.settimeout(_left(deadline) / left)  # a silent address leaves time for the next
            sock.connect(place)
            sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
            return sock
        except OSError:
            sock.close()
            if left == 1:
                raise
    raise ConnectionError(f"{address.host} has no address")


def _tls_socket(sock: socket.socket, address: Address) -> socket.socket:
    import ssl

    options = address.tls or {}
    try:
        context = ssl.create_default_context(cafile=options.get("ssl_ca_certs"))
        if "ssl_certfile" in options:
            context.load_cert_chain(options["ssl_certfile"], options.get("ssl_keyfile"))
    except OSError as error:  # ssl.SSLError is one: no such file, or none that holds a certificate
        raise ConfigError(f"RQ_REDIS_URL: cannot load its certificates: {error}") from None
    level = options.get("ssl_cert_reqs", "required")
    if level == "none" or options.get("ssl_check_hostname", "true").lower() in ("false", "no", "0"):
        context.check_hostname = False
    context.verify_mode = {
        "none": ssl.CERT_NONE,
        "optional": ssl.CERT_OPTIONAL,
        "required": ssl.CERT_REQUIRED,
    }.get(level, ssl.CERT_REQUIRED)
    return context.wrap_socket(sock, server_hostname=address.host)


def _database(parts: SplitResult, options: Mapping[str, str]) -> int:
    text = options.get("db") or (parts.path.strip("/") if parts.scheme != "unix" else "") or "0"
    try:
        return int(text)
    except ValueError:
        raise ConfigError(f"RQ_REDIS_URL: {text!r} is not the number of a database") from None


def _code(reply: Any) -> str:
    """Return the word that says what an error reply is about; '' if it is no error."""
    if not isinstance(reply, hiredis.ReplyError):
        return ""
    first, *others = re.findall(r"[A-Z]+", str(reply)) or ["ERR"]
    known = _TRY_AGAIN | _FULL  # 6.2 says them inside its report of a script's failure
    inner = next((word for word in others if word in known), first)
    return str(inner if first == "ERR" else first)


def _fault(reply: hiredis.ReplyError, where: str) -> WerkError:
    code, text = _code(reply), str(reply)
    if code == "NOSCRIPT":
        return _NoScript(text)
    if code in _TRY_AGAIN or "max number of clients" in text:
        return _TryAgain(text)
    if code in _FULL:
        return RedisUnavailable(f"Redis at {where} takes no more data: {text}")
    if code in ("WRONGPASS", "NOAUTH", "NOPERM", "DENIED") or "AUTH" in text:
        return ConfigError(f"Redis at {where} refused the credentials or the command: {text}")
    return ConfigError(f"Redis at {where} answered: {text}")


def _jitter() -> float:
    """Return a factor, so that callers who failed together do not try again together."""
    import random

    return random.uniform(0.5, 1.0)


def _limit(sock: socket.socket, deadline: float) -> None:
    """Have a socket raise TimeoutError about when the deadline is; each change costs a call."""
    left, limit = deadline - time.monotonic(), sock.gettimeout()
    if left <= 0:
        raise TimeoutError("no answer")
    if limit is None or not 0.95 * left < limit < 1.05 * left:
        sock.settimeout(left)


def _left(deadline: float) -> float:
    """Return the seconds to a deadline. Raises TimeoutError if it is past (0 means: no limit)."""
    left = deadline - time.monotonic()
    if left <= 0:
        raise TimeoutError("no answer")
    return left
