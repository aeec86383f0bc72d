"""A light connection to Redis: hiredis on a socket, a time budget for each call, scripts by SHA.

redis-py opens only the sockets that this module cannot open (redis_py.py). What a Link sends is
safe to send twice: after a lost reply it is sent again, within the budget.
"""

from __future__ import annotations

import os
import socket
import time
from collections.abc import Callable, Sequence
from contextlib import suppress
from functools import partial
from typing import TYPE_CHECKING, Any

import hiredis

from werk.errors import ConfigError, RedisUnavailable
from werk.settings import Settings, note_use, origin
from werk.store.address import Address, parse_url
from werk.store.packing import packed
from werk.store.replies import NoScript, TryAgain, code_of, error_of
from werk.store.scripts import Script
from werk.store.shortage import shortage

if TYPE_CHECKING:
    from redis import Redis

COMMAND_BUDGET_S = 10.0  # a line in a crontab may wait for a restart of Redis

Word = str | bytes | int | float
Command = tuple[Any, ...]  # of Word; hiredis wants a tuple of one type

# Opens a socket within this many seconds. Returns it, and an object that must live as long as it.
Connect = Callable[[float], tuple[Any, object]]


class Connection:
    """One socket to Redis, opened when first used: C packs the commands and parses the replies.

    The horse sends each of its requests through one (worker/redis_side.py), so there is one Python
    call to send and one to receive.
    """

    def __init__(self, connect: Connect, seconds: float) -> None:
        self.socket: Any = None
        self.deadline: float | None = None  # for all that follows, by time.monotonic(); None: none
        self.opened = 0  # sockets so far
        self.pid = 0  # of the process that opened the socket
        self._connect, self._seconds = connect, seconds
        self._owner: object = None
        self._reader = hiredis.Reader()

    def open(self) -> None:
        """Open the socket. Raises what `connect` raises."""
        seconds = self._seconds if self.deadline is None else left(self.deadline)
        self.socket, self._owner = self._connect(seconds)
        self.opened += 1
        self.pid = os.getpid()
        self._reader = hiredis.Reader()

    def send(self, *commands: Command, last: bytes = b"") -> None:
        """Send commands, and a last one that is packed. Raises OSError."""
        if self.socket is None:
            self.open()
        if self.deadline is not None:
            self.socket.settimeout(left(self.deadline))
        try:
            self.socket.sendall(b"".join(map(packed, commands)) + last if commands else last)
        except ConnectionError:
            if not self._is_refused():
                raise  # otherwise receive() returns what Redis replied before it hung up

    def receive(self) -> Any:
        """Return the next reply; an error as a value. Raises OSError, hiredis.ProtocolError."""
        while True:
            reply = self._reader.gets()
            if reply is not False:
                return reply
            if self.deadline is not None:
                self.socket.settimeout(left(self.deadline))
            data = self.socket.recv(65536)
            if not data:
                raise ConnectionError("Redis closed the connection")
            self._reader.feed(data)

    def close(self) -> None:
        """Close the socket; the next command opens another. After a fork the parent keeps one."""
        if self.socket is not None:
            if self.pid == os.getpid():
                hang_up(self.socket)
            with suppress(OSError):  # a task has closed its descriptor
                self.socket.close()
        self.socket = self._owner = None

    def _is_refused(self) -> bool:
        self.socket.settimeout(0.1)
        try:
            self._reader.feed(self.socket.recv(65536))
        except OSError:
            return False
        return bool(self._reader.has_data())


def hang_up(sock: Any) -> None:
    """Shut a socket down, so that its reader closes it. Safe in any thread or signal handler."""
    try:
        if sock is not None:
            sock.shutdown(socket.SHUT_RDWR)
    except OSError:
        pass  # it has ended


class Link:
    """A connection with a budget, opened again after a fork or a fault. Not for threads."""

    has_workers = True  # workers may publish their tasks there
    not_after = float("inf")  # a deadline of the caller's, by time.monotonic()
    setting = ""  # that names the server, if a setting does
    beside: Sequence[Command] = ()  # sent with the next script; their replies are not used
    has_lost_reply = False  # Redis may have executed a call that failed

    def __init__(self, connect: Connect, where: str, budget_s: float) -> None:
        self.where, self.budget_s = where, budget_s
        self.served_cache: dict[Any, Any] = {}  # who serves a task: see client/enqueue.py
        self.client: object = None  # a client that we made, which has to live as long as the link
        self._connect, self._connection = connect, Connection(connect, budget_s)
        self._is_busy = False  # with a call
        self._loaded: set[Script] = set()

    @property
    def opened(self) -> int:
        """The number of connections so far."""
        return self._connection.opened

    def call(self, *command: Word) -> Any:
        """Send one command, return its reply. Raises as calls()."""
        return self.calls([command])[0]

    def run(self, script: Script, keys: Sequence[str], arguments: Sequence[Word]) -> Any:
        """Run a script, return its reply. Raises as calls()."""
        start = ("EVALSHA", script.sha) if script in self._loaded else ("EVAL", script.text)
        try:
            reply = self.calls([(*start, len(keys), *keys, *arguments), *self.beside])[0]
        except NoScript:  # Redis was restarted, or emptied
            self._loaded.discard(script)
            return self.run(script, keys, arguments)
        self._loaded.add(script)
        self.beside = ()
        return reply

    def calls(self, commands: Sequence[Command], *, skips_type: bool = False) -> list[Any]:
        """Send commands in one round trip, return their replies.

        With `skips_type` the reply for a key of another type is None, and not an error.
        Sends all of them again after a fault that may pass, until the budget is used up. Raises
        RedisUnavailable then, and at once when Redis is full; ConfigError for what will not pass.
        """
        deadline = min(time.monotonic() + self.budget_s, self.not_after)
        pause_s = 0.0  # first only 10 to 20 ms: an idle connection may just have been closed
        while True:
            try:
                replies = self._exchange(commands, deadline)
                for at, reply in enumerate(replies):
                    if isinstance(reply, hiredis.ReplyError):
                        if not skips_type or code_of(str(reply)) != "WRONGTYPE":
                            raise error_of(reply, self.where)
                        replies[at] = None
                return replies
            except (OSError, TryAgain) as error:
                import random  # callers that failed together must not try again together

                self.close()
                pause_s = min(1.0, pause_s * 2 or 0.02) * random.uniform(0.5, 1.0)
                if time.monotonic() + pause_s >= deadline:
                    raise RedisUnavailable(self._unreachable(error)) from None
                time.sleep(pause_s)

    def close(self) -> None:
        """Close the socket; the next call opens another. Inside another call, do nothing."""
        if not self._is_busy:
            self._connection.close()

    def __del__(self) -> None:
        self.close()  # a thread's links end with it

    def _exchange(self, commands: Sequence[Command], deadline: float) -> list[Any]:
        connection, is_inner = self._connection, self._is_busy
        if is_inner:  # a signal handler or a finalizer has interrupted a call of this thread
            connection = Connection(self._connect, self.budget_s)
        elif connection.pid != os.getpid():
            connection.close()  # the socket is the parent's
        self._is_busy = True
        connection.deadline = deadline
        try:
            connection.send(*commands)
            return [connection.receive() for _ in commands]
        except BaseException as error:
            self.has_lost_reply |= connection.socket is not None
            connection.close()  # otherwise the next call would read this call's replies
            if not isinstance(error, hiredis.ProtocolError):
                raise
            see = f"; see {self.setting}" if self.setting else ""
            raise ConfigError(f"what answers at {self.where} is not Redis{see}") from None
        finally:
            self._is_busy = is_inner
            if is_inner:
                connection.close()

    def _unreachable(self, error: Exception) -> str:
        if why := shortage():
            return f"Redis at {self.where} was not asked: this process cannot open a socket ({why})"
        reason = str(getattr(error, "strerror", None) or error) or type(error).__name__
        where = f"Redis at {self.where} was not reached within {self.budget_s:g} s ({reason})"
        return f"{where}; is it running{f', and is {self.setting} right' if self.setting else ''}?"


def link(settings: Settings, budget_s: float | None = None) -> Link:
    """Return a link to the Redis that the settings name, found as RQ does. Opens nothing.

    Its budget is the library's, if none is given. Raises ConfigError if the settings name no Redis.
    """
    note_use("url", settings.redis_url)
    if budget_s is None:
        budget_s = settings.budget_s
        note_use("budget_s", budget_s)
    is_named = settings.redis_url or settings.rq_config or settings.rq_redis
    address = parse_url(settings.redis_url or "") if is_named else Address()
    if address:
        found = Link(partial(_open, address), str(address), budget_s)
    else:
        from werk.store.redis_py import redis_client

        client = redis_client(settings)
        found = link_over(client, budget_s)
        found.client = client
    found.setting = origin("url")
    return found


def link_over(client: Redis, budget_s: float | None = None) -> Link:
    """Return a link that connects as a redis-py client does, but within our budget.

    Raises ConfigError for a client that is asynchronous, of a cluster, or decodes replies.
    """
    from werk.store.redis_py import connector

    if budget_s is None:
        budget_s = Settings.budget()
        note_use("budget_s", budget_s)
    connect, where = connector(client)
    return Link(connect, where, budget_s)


def left(deadline: float) -> float:
    """Return the seconds to a deadline. Raises TimeoutError if it is past (0 would not block)."""
    seconds = deadline - time.monotonic()
    if seconds <= 0:
        raise TimeoutError("no answer")
    return seconds


def _open(address: Address, seconds: float) -> tuple[socket.socket, None]:
    deadline = time.monotonic() + seconds
    if address.path is None:
        # as bytes: for text Python loads a codec, a fiftieth of a whole enqueue
        place: Any = (address.host.encode(), address.port)
        sock = socket.create_connection(place, seconds / 2)  # a host may have another address
        sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
    else:
        sock = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
    try:
        if address.path is not None:
            sock.settimeout(left(deadline))
            sock.connect(address.path)
        elif address.has_tls:
            sock = _secured(sock, address)
        if commands := address.greeting():
            connection = Connection(lambda _: (sock, None), seconds)
            connection.deadline = deadline
            connection.send(*commands)
            for reply in [connection.receive() for _ in commands]:
                if isinstance(reply, hiredis.ReplyError):
                    raise error_of(reply, str(address))
    except BaseException:
        sock.close()
        raise
    return sock, None


def _secured(sock: socket.socket, address: Address) -> socket.socket:
    import ssl

    try:
        return ssl.create_default_context().wrap_socket(sock, server_hostname=address.host)
    except ssl.SSLEOFError:  # the other end closed it in the middle
        raise
    except ssl.SSLError as error:  # waiting makes it no better
        raise ConfigError(f"TLS with Redis at {address} failed: {error}") from None
