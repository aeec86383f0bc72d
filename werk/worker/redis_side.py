"""A worker's use of redis-py: connections that wait for Redis as long as it takes."""

from __future__ import annotations

import re
import socket
import time
from collections.abc import Callable
from functools import partial
from itertools import count
from typing import Any, TypeVar

import hiredis
import redis.exceptions
from redis import ConnectionPool, Redis
from redis.backoff import AbstractBackoff, NoBackoff
from redis.retry import Retry
from redis.sentinel import SentinelManagedConnection

from werk.errors import WerkError
from werk.store import replies
from werk.store.connection import Connection, hang_up
from werk.store.redis_py import opened
from werk.store.shortage import shortage
from werk.worker.process import plug_standard
from werk.worker.shared_state import SharedState

CONNECT_S = 5  # one attempt; there is always another
SHORT_PAUSE_S, LONGEST_PAUSE_S = 0.05, 1.0  # between two attempts
FINISH_S = 60  # limit of RQ's finish without progress, besides its callbacks: four webhooks

# A dead peer is noticed after about 40 s, even in the middle of a wait.
_KEEPALIVE = {"TCP_KEEPIDLE": 15, "TCP_KEEPINTVL": 5, "TCP_USER_TIMEOUT": 30_000}

# Errors of a connection, and errors of Redis that pass.
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

# What redis-py's pipelines, and EXEC itself, put in front of Redis's reply to a command.
_BEFORE_A_REPLY = re.compile("caused error: |because of: ")

T = TypeVar("T")


class Unusable(WerkError):
    """Raised when this horse cannot continue, but another can: no descriptors left, or refused."""


def raise_if_short() -> None:
    """Raise Unusable if a connection failed because of this process, not of Redis."""
    if why := shortage():
        raise Unusable(f"its process could open no more files or sockets: {why}")


class Channel(Connection):
    """One of the horse's connections, opened as redis-py does; a reply may take any time."""

    def __init__(self, client: Redis) -> None:
        super().__init__(partial(_open, client.connection_pool), CONNECT_S)


def _open(pool: ConnectionPool, seconds: float) -> tuple[Any, object]:
    plug_standard()
    try:
        connection = opened(pool, seconds)
    except AWAY:
        raise_if_short()
        raise
    sock = connection._sock
    sock.settimeout(None)
    if sock.family != socket.AF_UNIX:
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1)
        for name, value in _KEEPALIVE.items():
            if hasattr(socket, name):
                sock.setsockopt(socket.IPPROTO_TCP, getattr(socket, name), value)
    return sock, connection


def no_retry(shared: SharedState | None = None) -> Retry:
    """Return redis-py's retry policy for commands that can wait for another occasion."""
    return _Progress(shared, NoBackoff(), 0) if shared else Retry(NoBackoff(), 0)


class _Backoff(AbstractBackoff):
    """Waits, and extends the deadline of a finish: it is not late while Redis is unreachable."""

    def __init__(self, shared: SharedState) -> None:
        self._shared = shared

    def compute(self, failures: int) -> float:
        self._shared.extend_finish()
        return min(LONGEST_PAUSE_S, 0.02 * 2.0 ** min(failures, 10))


class _Progress(Retry):
    """Tries a command as often as the policy allows. A success counts as progress of a finish."""

    def __init__(
        self,
        shared: SharedState,
        backoff: AbstractBackoff,
        retries: int,
        client: Redis | None = None,
    ) -> None:
        super().__init__(backoff, retries, AWAY)
        self._shared, self._client = shared, client

    def __deepcopy__(self, memo: object) -> _Progress:
        return self  # redis-py copies its retry policy for each connection

    def call_with_retry(self, do: Callable[[], T], *args: Any, **kwargs: Any) -> T:
        tries = count()

        def attempt() -> T:
            if next(tries) and self._client:
                ask_sentinel(self._client)
            return _tried(do)

        result = super().call_with_retry(attempt, *args, **kwargs)
        self._shared.extend_finish()
        return result


def _tried(do: Callable[[], T]) -> T:
    """Run a command of RQ's, and sort its errors, so that "unreachable" means the same everywhere.

    redis-py has no class for NOREPLICAS, MISCONF and BUSY, which pass as well.
    """
    plug_standard()  # this may open a connection
    try:
        return do()
    except AWAY:
        raise_if_short()
        raise
    except redis.exceptions.ResponseError as error:
        said = _BEFORE_A_REPLY.split(str(error))[-1]
        if not isinstance(error, FULL) and not replies.passes(said):
            raise
        time.sleep(SHORT_PAUSE_S)  # a transaction with WATCH is repeated at once
        raise redis.exceptions.ConnectionError(str(error)) from error


def ask_sentinel(client: Redis) -> None:
    """Open a client's lost connections at the master that Sentinel names. Raises AWAY.

    redis-py would open them to the old address, which may no longer be that of the master.
    """
    for connection in list(client.connection_pool._in_use_connections):
        if isinstance(connection, SentinelManagedConnection) and connection._sock is None:
            connection._connect_retry()  # type: ignore[no-untyped-call]


def hang_up_all(client: Redis) -> None:
    """End the connections that a client is using, so that waits for their replies end."""
    for connection in list(client.connection_pool._in_use_connections):
        hang_up(connection._sock)


class RetryingRedis(Redis):
    """The client of RQ's command line in `werk worker`: it asks Redis before our worker exists."""

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self.set_retry(retry_forever(self))


def retry_forever(client: Redis, shared: SharedState | None = None) -> Retry:
    """Return the policy that repeats a client's commands until Redis answers and has room.

    Only a horse passes its shared state: what another process sends is not progress of the horse.
    A job that enters its queue twice, because a reply was lost, does no harm: the second time it is
    found started, or finished, and is dropped. A transaction that records an outcome is repeated by
    RQSide, which asks first whether it was committed.
    """
    shared = shared or SharedState()
    return _Progress(shared, _Backoff(shared), -1, client)
