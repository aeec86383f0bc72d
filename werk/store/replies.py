"""Error replies of Redis, and the error that each one becomes for the caller."""

from __future__ import annotations

import re

import hiredis

from werk.errors import ConfigError, RedisUnavailable, WerkError

# The first word of an error reply.
_TRY_AGAIN = {"LOADING", "READONLY", "TRYAGAIN", "MASTERDOWN", "BUSY", "NOREPLICAS"}
_FULL = {"OOM", "MISCONF"}
_REFUSED = {"WRONGPASS", "NOAUTH", "NOPERM", "DENIED"}
_NO_PASSWORD = ("ERR AUTH ", "ERR Client sent AUTH")  # how the reply begins if none is set
_IN_A_SCRIPT = "The user executing the script can't"  # NOPERM, for a command of the script
_TOO_MANY = "max number of clients"
_CLUSTER = {"MOVED", "ASK", "CROSSSLOT", "CLUSTERDOWN"}
_CLUSTER_TEXTS = ("same slot", "cluster node", "cluster is down")  # inside a script


class TryAgain(WerkError):
    """Raised for an error reply of a state that passes, such as LOADING."""


class NoScript(WerkError):
    """Raised when Redis does not know the script of an EVALSHA."""


def error_of(reply: hiredis.ReplyError, where: str) -> WerkError:
    """Return the error that a caller gets for an error reply of the Redis at `where`."""
    text, code = str(reply), code_of(str(reply))
    if code == "NOSCRIPT":
        return NoScript(text)
    if code in _CLUSTER or any(part in text for part in _CLUSTER_TEXTS):
        return cluster_error(where)
    if code in _TRY_AGAIN or _TOO_MANY in text:
        return TryAgain(text)
    if code in _FULL:
        return RedisUnavailable(f"Redis at {where} takes no more data: {text}")
    if code in _REFUSED or text.startswith(_NO_PASSWORD) or _IN_A_SCRIPT in text:
        return ConfigError(f"Redis at {where} refused the credentials or the command: {text}")
    return ConfigError(f"Redis at {where} answered: {text}")


def passes(text: str) -> bool:
    """Return whether an error reply comes from the state of Redis, and not from the command."""
    return code_of(text) in {*_TRY_AGAIN, *_FULL, "CLUSTERDOWN"} or _TOO_MANY in text


def code_of(text: str) -> str:
    """Return the code of an error reply, such as WRONGTYPE."""
    words: list[str] = re.findall(r"\b[A-Z]{2,}\b", text)
    code, inner, *_ = [*words, "ERR", ""]
    if code == "ERR" and inner in _TRY_AGAIN | _FULL | _CLUSTER:
        return inner  # Redis 6.2 puts the code inside its report of a script's failure
    return code


def cluster_error(where: str) -> ConfigError:
    """Return the error for a node of Redis Cluster: werk's scripts use keys of many slots."""
    what = f"Redis at {where} is a node of Redis Cluster, which is not supported"
    return ConfigError(f"{what}; use a single Redis, or Redis with Sentinel")


def is_cluster(info: bytes) -> bool:
    """Return whether a reply of INFO is that of a node of Redis Cluster."""
    return b"cluster_enabled:1" in info
