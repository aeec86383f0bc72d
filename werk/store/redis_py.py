"""Sockets that redis-py opens: Sentinel, RQ_CONFIG, options of a URL, a client of the caller's.

Importing redis-py costs more than the rest of an enqueue, so it is imported only where it is used.
"""

from __future__ import annotations

from collections.abc import Callable
from copy import copy
from typing import TYPE_CHECKING, Any
from weakref import ref

from werk.errors import ConfigError, described
from werk.settings import Settings
from werk.store.address import Address, no_url

if TYPE_CHECKING:
    from redis import Redis
    from redis.sentinel import Sentinel


def redis_client(settings: Settings) -> Redis:
    """Return a redis-py client for the same Redis, as RQ's commands make it. Raises ConfigError."""
    from rq.cli.helpers import get_redis_from_config, read_config_file

    if settings.redis_url:
        return client_of(settings.redis_url)
    module, found = settings.rq_config, settings.rq_redis
    try:
        config = read_config_file(module) if module else found  # type: ignore[no-untyped-call]
        client: Redis = get_redis_from_config(config)  # type: ignore[no-untyped-call]
        int(client.connection_pool.connection_kwargs.get("port", 0))  # redis-py needs it later
    except Exception as error:  # importing the module can raise anything
        named = f"RQ_CONFIG={module}" if module else ", ".join(sorted(found))
        raise ConfigError(f"{named}: cannot be used: {described(error)}") from error
    return client


def client_of(url: str, **options: Any) -> Redis:
    """Return a redis-py client for the Redis at a URL. Raises ConfigError for an invalid URL."""
    from redis import Redis

    try:
        client: Redis = Redis.from_url(url, **options)
        pool = client.connection_pool
        pool.connection_class(**_options(pool))  # opens nothing
    except ValueError:  # its text may quote a part of a password
        raise ConfigError(no_url()) from None
    except TypeError as error:
        _, _, option = str(error).partition("unexpected keyword argument ")
        if not option:
            raise
        raise ConfigError(f"{no_url()}; redis-py has no option {option}") from None
    if url.startswith("unix:") and not client.connection_pool.connection_kwargs.get("path"):
        raise ConfigError(no_url())
    return client


def opened(pool: Any, seconds: float) -> Any:
    """Return a connection as a redis-py client's pool would open it, within these seconds.

    Raises what redis-py raises.
    """
    options = _options(pool)
    manager = getattr(pool, "sentinel_manager", None)
    if manager is None:
        return _connected(pool.connection_class(**options), seconds)
    asked = _impatient(manager, seconds / 2)  # the other half is for the master
    proxy = options["connection_pool"] = copy(options["connection_pool"])
    proxy.sentinel_manager = asked
    known = dict(zip(asked.sentinels, manager.sentinels, strict=True))
    try:
        connection = _connected(pool.connection_class(**options), seconds / 2)
        if asked.sentinels[0] is not next(iter(known)):  # ask first the one that has answered
            manager.sentinels = [known[client] for client in asked.sentinels]
        return connection
    finally:
        for client in known:
            client.close()


def _connected(connection: Any, seconds: float) -> Any:
    connection.retry = _no_retry()
    connection.socket_timeout = connection.socket_connect_timeout = seconds
    connection.connect()
    return connection


def _options(pool: Any) -> dict[str, Any]:
    """Return a pool's options for a connection that we use.

    It speaks RESP2, or Redis may push messages between the replies; and it has nothing that handles
    those messages, because that would keep the pool alive.
    """
    options = {**pool.connection_kwargs, "protocol": 2}
    return {
        name: None if name.startswith("maint_notifications_") else value
        for name, value in options.items()
    }


def _impatient(manager: Sentinel, seconds: float) -> Sentinel:
    """Return a copy of redis-py's Sentinel client that asks all Sentinels within these seconds."""
    from redis import ConnectionPool, Redis

    share = seconds / (len(manager.sentinels) or 1)
    limits = {"socket_timeout": share, "socket_connect_timeout": share, "retry": _no_retry()}
    pools = [client.connection_pool for client in manager.sentinels]
    asked = copy(manager)
    asked.sentinels = [
        Redis.from_pool(ConnectionPool(pool.connection_class, **{**_options(pool), **limits}))
        for pool in pools
    ]
    return asked


def _no_retry() -> Any:
    from redis.backoff import NoBackoff
    from redis.retry import Retry

    return Retry(NoBackoff(), 0)


def connector(client: Redis) -> tuple[Callable[[float], tuple[Any, object]], str]:
    """Return a function that opens a socket as a redis-py client does, and what it connects to.

    Raises ConfigError for a client that is asynchronous, of a cluster, or decodes replies.
    """
    from redis import Redis

    if not isinstance(client, Redis):
        raise ConfigError(f"connection= takes a redis.Redis, not a {type(client).__name__}")
    pool = client.connection_pool
    if pool.connection_kwargs.get("decode_responses"):
        raise ConfigError("connection= was made with decode_responses=True; RQ needs one without")
    options = pool.connection_kwargs
    place = (options.get("host", "localhost"), options.get("port", 6379))
    where = str(Address(*place, options.get("path"), options.get("db") or 0))
    if master := getattr(pool, "service_name", None):
        where = f"{master} (by Sentinel)"
    pool_of_caller = ref(pool)  # a link is stored by its pool, and would keep the pool alive

    def connect(seconds: float) -> tuple[Any, object]:
        pool = pool_of_caller()
        if pool is None:
            raise ConfigError(
                "the client given as connection= was garbage-collected; keep a reference to it"
            )
        try:
            connection = opened(pool, seconds)
        except Exception as error:
            raise _reason(error, where, "path" in pool.connection_kwargs) from None
        return connection._sock, connection

    return connect, where


def _reason(error: Exception, where: str, is_unix: bool) -> Exception:
    """Return the error for a failed connection of redis-py: ConfigError if it will not pass."""
    import ssl

    from redis.exceptions import AuthenticationError, RedisError

    if isinstance(error, AuthenticationError):
        return ConfigError(f"Redis at {where} refused the credentials: {error}")
    if not isinstance(error, RedisError):
        return error
    cause = error.__context__
    is_file_missing = isinstance(cause, FileNotFoundError) and not is_unix
    is_refused = isinstance(cause, ssl.SSLError) and not isinstance(cause, ssl.SSLEOFError)
    if is_file_missing or is_refused:
        return ConfigError(f"TLS with Redis at {where} failed: {cause}")
    if isinstance(cause, OSError):
        return cause
    return ConnectionError(str(error).partition(" : <")[0])  # Sentinel's goes on with all it knows
