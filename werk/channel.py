"""The horse's connections. They wait for Redis as long as it takes."""

from __future__ import annotations

import socket
import time
from typing import Any

import hiredis
import redis.exceptions
from redis import Redis
from redis.backoff import AbstractBackoff, NoBackoff
from redis.retry import Retry

from werk.page import Page

CONNECT_S = 5  # one try; there is always another
LONGEST_PAUSE_S = 1.0  # between two tries
FINISH_S = 120  # of RQ's own finish, beyond its callbacks' limits: webhooks take 10 s each

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
        connection.connect()
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

    def send(self, words: tuple[Any, ...]) -> None:
        """Send a command. Raises one of AWAY."""
        if self.socket is None:
            self.open()
        self.socket.sendall(hiredis.pack_command(words))

    def receive(self) -> Any:
        """Return the next reply; an error as a value. Raises one of AWAY."""
        while True:
            data = self.socket.recv(65536)
            if not data:
                raise EOFError("Redis closed the connection")
            self._reader.feed(data)
            reply = self._reader.gets()
            if reply is not False:
                return reply


def impatience() -> Retry:
    """Return how often what can be done another time is tried again: not at all."""
    return Retry(NoBackoff(), 0)


class _Backoff(AbstractBackoff):
    """Waits, and pushes on the deadline of a finish: Redis being away is not its fault."""

    def __init__(self, page: Page) -> None:
        self._page = page

    def __deepcopy__(self, memo: object) -> _Backoff:
        return self  # redis-py copies its retry policy for each connection

    def compute(self, failures: int) -> float:
        if self._page.is_finishing:
            self._page.deadline = time.monotonic() + FINISH_S
        return min(LONGEST_PAUSE_S, 0.02 * 2.0 ** min(failures, 10))


class PatientRedis(Redis):
    """What `werk worker` has RQ's command line use, which asks Redis before it makes our worker."""

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self.set_retry(patience(Page()))


def patience(page: Page) -> Retry:
    """Return how RQ's own commands in the horse are tried: until Redis is there, and has room.

    A transaction sent twice after a lost reply can put a job into its queue twice. That does no
    harm: the second time it is found started, or done, and dropped.
    """
    return Retry(_Backoff(page), -1, (*AWAY, FULL))
