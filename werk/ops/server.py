"""The Redis server, as an operator asks about it."""

from __future__ import annotations

from typing import NamedTuple

from werk.errors import ConfigError
from werk.store import keys
from werk.store.connection import Link


class Server(NamedTuple):
    """The Redis server."""

    where: str
    version: str
    memory: int  # bytes
    memory_limit: int  # 0: unknown
    policy: str
    aof: bool
    fsync: str | None  # of the AOF: everysec, always, no; None: unknown
    rdb: bool | None  # None: unknown
    suspended: bool  # all workers, by `rq suspend`
    replicas: int = 0  # connected ones
    min_replicas: int | None = None  # with fewer it refuses writes; None: unknown


def read_server(link: Link, info: str, suspended: bool) -> Server:
    """Return what INFO says about a server, and what CONFIG adds. Raises RedisUnavailable."""
    facts = dict(line.partition(":")[::2] for line in info.splitlines())
    aof = facts.get("aof_enabled") == "1"
    names = ("appendfsync" if aof else "save", "min-replicas-to-write")
    try:  # INFO does not report these, and a managed server may refuse CONFIG
        settings = [keys.pairs(own) for own in link.calls([("CONFIG", "GET", n) for n in names])]
    except ConfigError:
        settings = [{}, {}]
    kept, least = (
        keys.text(found[name.encode()]) if name.encode() in found else None
        for name, found in zip(names, settings, strict=True)
    )
    program = "valkey" if "valkey_version" in facts else facts.get("server_name", "redis")
    return Server(
        where=link.where,
        version=f"{program} {facts.get('valkey_version') or facts.get('redis_version', '?')}",
        memory=int(facts.get("used_memory", 0)),
        memory_limit=int(facts.get("maxmemory", 0)) or int(facts.get("total_system_memory", 0)),
        policy=facts.get("maxmemory_policy", "?"),
        aof=aof,
        fsync=kept if aof else None,
        rdb=None if aof or kept is None else bool(kept),
        suspended=suspended,
        replicas=int(facts.get("connected_slaves", 0)),
        min_replicas=None if least is None else int(least),
    )
