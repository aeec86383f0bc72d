"""The horse's connections. They wait for Redis as long as it takes."""

from __future__ import annotations

import re
import socket
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from itertools import count
from typing import Any, TypeVar

import hiredis
import redis.exceptions
from redis import Redis
from redis.backoff import AbstractBackoff, NoBackoff
from redis.retry import Retry

from werk.errors import WerkError
from werk.store import connection as link
from werk.worker.shared_state import SharedState

CONNECT_S = 5  # one try; there is always another
SHORT_PAUSE_S, LONGEST_PAUSE_S = 0.05, 1.0  # between two tries
FINISH_S = 60  # of RQ's own finish without progress, beyond its callbacks' limits: four webhooks

# A dead peer is noticed after about 40 s, also in the middle of a wait.
_KEEPALIVE = {"TCP_KEEPIDLE": 15, "TCP_KEEPINTVL": 5, "TCP_USER_TIMEOUT": 30_000}

# What can be wrong with a connection, or with Redis for a while.
AWAY = (
    OSError,
    EOFError,
    hiredis.ProtocolError,
    redis.exceptions.ConnectionError,
    redis.exceptions.TimeoutError,
    redis.exceptions.ReadOnlyError,
    redis.exceptions.ClusterDownError,
    redis.exceptions.TryAgainError,
)
FULL = redis.exceptions.OutOfMemoryError

# What redis-py's pipelines, and EXEC itself, put in front of what Redis says of a command.
_BEFORE_A_REPLY = re.compile("caused error: |because of: ")

T = TypeVar("T")


class Unusable(WerkError):
    """Raised when this horse cannot go on, and another can: out of descriptors, or refused."""


def raise_if_short() -> None:
    """Raise Unusable if a connection failed because of this process, not of Redis."""
    if why := link.shortage():
        raise Unusable(f"its process could open nothing more: {why}")


class Channel:
    """One connection, opened as redis-py does and spoken to directly: C packs and parses."""

    def __init__(self, client: Redis) -> None:
        self._pool = client.connection_pool
        self.socket: Any = None

    def open(self) -> None:
        # RESP2, or Redis may push messages between the replies.
        connection = self._pool.connection_class(**{**self._pool.connection_kwargs, "protocol": 2})
        connection.retry = impatience()
        connection.socket_connect_timeout = connection.socket_timeout = CONNECT_S
        try:
            connection.connect()
        except AWAY:
            raise_if_short()
            raise
        self._owner, self.socket, self._reader = connection, connection._sock, hiredis.Reader()
        self.socket.settimeout(None)
        if self.socket.family != socket.AF_UNIX:
            self.socket.setsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1)
            for name, value in _KEEPALIVE.items():
                if hasattr(socket, name):
                    self.socket.setsockopt(socket.IPPROTO_TCP, getattr(socket, name), value)

    def close(self) -> None:
        if self.socket is not None:
            self._owner.disconnect()
        self.socket = None

    def hang_up(self) -> None:
        """End this connection for its reader. For a signal handler."""
        shut(self.socket)

    def send(self, words: tuple[Any, ...]) -> None:
        """Send a command. Raises one of AWAY."""
        if self.socket is None:
            self.open()
        try:
            self.socket.sendall(hiredis.pack_command(words))
        except ConnectionError:
            if not self._is_refused():
                raise  # else receive() returns what Redis said before it hung up

    def _is_refused(self) -> bool:
        self.socket.settimeout(0.1)
        try:
            self._reader.feed(self.socket.recv(65536))
        except OSError:
            return False
        return bool(self._reader.has_data())

    def receive(self) -> Any:
        """Return the next reply; an error as a value. Raises one of AWAY."""
        while True:
            reply = self._reader.gets()
            if reply is not False:
                return reply
            data = self.socket.recv(65536)
            if not data:
                raise EOFError("Redis closed the connection")
            self._reader.feed(data)


def impatience(shared: SharedState | None = None) -> Retry:
    """Return how often what can be done another time is tried again: not at all."""
    return _Progress(shared, NoBackoff(), 0) if shared else Retry(NoBackoff(), 0)


class _Backoff(AbstractBackoff):
    """Waits, and pushes on the deadline of a finish: Redis being unreachable is not its fault."""

    def __init__(self, shared: SharedState) -> None:
        self._shared = shared

    def compute(self, failures: int) -> float:
        self._shared.extend_finish()
        return min(LONGEST_PAUSE_S, 0.02 * 2.0 ** min(failures, 10))


class _Progress(Retry):
    """Tries a command as often as it is told. A success is progress of a finish."""

    has_committed: Callable[[], bool] | None = None  # see sent_once

    def __init__(self, shared: SharedState, backoff: AbstractBackoff, retries: int) -> None:
        super().__init__(backoff, retries, (*AWAY, FULL))
        self._shared = shared

    def __deepcopy__(self, memo: object) -> _Progress:
        return self  # redis-py copies its retry policy for each connection

    def call_with_retry(self, do: Callable[[], T], *args: Any, **kwargs: Any) -> T:
        tries = count()

        def attempt() -> T:
            if next(tries) and self._ask_whether_committed():
                return None  # type: ignore[return-value]  # of a transaction; RQ does not look
            return _tried(do)

        result = super().call_with_retry(attempt, *args, **kwargs)
        self._shared.extend_finish()
        return result

    def _ask_whether_committed(self) -> bool:
        ask, self.has_committed = self.has_committed, None  # the question is a command, too
        try:
            return ask is not None and ask()
        finally:
            self.has_committed = ask


@contextmanager
def sent_once(client: Redis, has_committed: Callable[[], bool]) -> Iterator[None]:
    """After a lost reply, have a transaction sent again only if it has not been committed."""
    retry = client.get_retry()
    if isinstance(retry, _Progress):
        retry.has_committed = has_committed
    try:
        yield
    finally:
        if isinstance(retry, _Progress):
            retry.has_committed = None


def _tried(do: Callable[[], T]) -> T:
    """Run a command of RQ's, and sort its errors: one meaning of "unreachable" for all of us.

    redis-py has no class for NOREPLICAS, MISCONF and BUSY, which pass like others.
    """
    try:
        return do()
    except AWAY:
        raise_if_short()
        raise
    except redis.exceptions.ResponseError as error:
        said = _BEFORE_A_REPLY.split(str(error))[-1]
        if isinstance(error, FULL) or not link.passes(said):
            raise
        time.sleep(SHORT_PAUSE_S)  # a transaction that watches comes again at once
        raise redis.exceptions.ConnectionError(str(error)) from error


def hang_up(client: Redis) -> None:
    """Do the same to the connections that a client is using."""
    for connection in list(client.connection_pool._in_use_connections):
        shut(connection._sock)


def shut(sock: Any) -> None:
    """End a socket for its reader, in any thread. The reader closes it."""
    try:
        if sock is not None:
            sock.shutdown(socket.SHUT_RDWR)
    except OSError:
        pass  # it has ended


class PatientRedis(Redis):
    """What `werk worker` has RQ's command line use, which asks Redis before it makes our worker."""

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self.set_retry(patience(SharedState()))


def patience(shared: SharedState) -> Retry:
    """Return how RQ's own commands in the horse are tried: until Redis is there, and has room.

    A job that is put into its queue twice, because a reply was lost, does no harm: the second time
    it is found started, or done, and dropped. For what records an outcome see sent_once.
    """
    return _Progress(shared, _Backoff(shared), -1)
