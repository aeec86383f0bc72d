"""The environment, read in one place. RQ's own names where it has one.

No other module reads os.environ.
"""

from __future__ import annotations

import os
import re
from collections.abc import Mapping
from typing import NamedTuple

from werk.errors import ConfigError

DASHBOARD_PORT = 9181
KEY_PREFIX = os.environ.get("RQ_KEY_PREFIX") or "rq"  # read at import, as in rq/defaults.py
_PREFIX = r"[A-Za-z0-9_.:{}-]+"  # rq/defaults.py
_RQ_REDIS = {f"REDIS_{name}" for name in ("HOST", "PORT", "DB", "PASSWORD", "SSL")}
_HOST = re.compile(r"[a-z0-9_-]+(\.[a-z0-9_-]+)*")
_NO_HOST = (
    "is not a host name or an IP address; "
    "list them without ports, separated by commas, or set the variable to none"
)
_YES, _NO = ("1", "true", "yes"), ("0", "false", "no")


class Settings(NamedTuple):
    """The settings in the environment. An empty variable counts as not set."""

    redis_url: str | None
    rq_config: str | None  # a module that names the server, where no URL does
    rq_redis: Mapping[str, str]  # REDIS_HOST and the like, where neither does
    registry: tuple[str, ...]
    state_dir: str
    server: str | None
    dashboard_username: str | None
    dashboard_password: str | None
    hooks_before: str | None
    hooks_after: str | None
    hooks_error: str | None
    allow_unregistered: bool
    horse_jobs: int  # a horse is replaced after this number of jobs
    horse_mb: int  # or when it has more memory than this; 0: no limit
    webhook_hosts: frozenset[str] | None  # that a worker's webhooks may call; None: any

    def __repr__(self) -> str:
        return "Settings(...)"  # some are passwords

    @staticmethod
    def url() -> str | None:
        """Return RQ_REDIS_URL alone, quickly."""
        return os.environ.get("RQ_REDIS_URL")

    @classmethod
    def read(cls, environ: Mapping[str, str] = os.environ) -> Settings:
        """Return the settings of this process. Raises ConfigError."""
        env = {name: value for name, value in environ.items() if value}
        prefix = env.get("RQ_KEY_PREFIX", "rq")
        if not re.fullmatch(_PREFIX, prefix):
            raise ConfigError(f"RQ_KEY_PREFIX {prefix!r}: use letters, digits and _ . : - {{ }}")
        rq_config = env.get("RQ_CONFIG")
        redis_url = env.get("RQ_REDIS_URL") or (None if rq_config else env.get("REDIS_URL"))
        # what `rq worker` takes from the environment (rq.cli.helpers.get_redis_from_config)
        is_rq_redis = not redis_url and not rq_config and not _RQ_REDIS.isdisjoint(env)
        home = env.get("HOME") or os.path.expanduser("~")
        local = os.path.join(home, ".local", "state")
        return cls(
            redis_url=redis_url,
            rq_config=rq_config,
            rq_redis={name: env[name] for name in env if is_rq_redis and name.startswith("REDIS_")},
            registry=tuple(env.get("WERK_REGISTRY", "").replace(",", " ").split()),
            state_dir=env.get("WERK_STATE_DIR")
            or os.path.join(env.get("XDG_STATE_HOME", local), "werk"),
            server=env.get("WERK_SERVER"),
            dashboard_username=env.get("RQ_DASHBOARD_USERNAME"),
            dashboard_password=env.get("RQ_DASHBOARD_PASSWORD"),
            hooks_before=env.get("WERK_HOOKS_BEFORE"),
            hooks_after=env.get("WERK_HOOKS_AFTER"),
            hooks_error=env.get("WERK_HOOKS_ERROR"),
            allow_unregistered=_is_yes("WERK_ALLOW_UNREGISTERED", env),
            horse_jobs=_whole("WERK_HORSE_JOBS", env, "10000"),
            horse_mb=_whole("WERK_HORSE_MB", env, "0"),
            webhook_hosts=_hosts(env.get("WERK_WEBHOOK_HOSTS")),
        )


def _is_yes(name: str, env: Mapping[str, str]) -> bool:
    value = env.get(name, "no").lower()
    if value not in _YES + _NO:
        raise ConfigError(f"{name}={env[name]!r}: use yes or no")
    return value in _YES


def _whole(name: str, env: Mapping[str, str], default: str) -> int:
    value = env.get(name, default)
    if not value.isdecimal():
        raise ConfigError(f"{name}={value!r}: use a whole number")
    return int(value)


def _hosts(value: str | None) -> frozenset[str] | None:
    """Return the hosts in a list; None if it is not set. Errors show no entry: it may be secret."""
    if value is None:
        return None
    words, found = value.replace(",", " ").split(), set()
    if [word.lower() for word in words] == ["none"]:
        return frozenset()
    for number, word in enumerate(words, 1):
        try:
            found.add(host_name(word))
        except ValueError:
            raise ConfigError(f"WERK_WEBHOOK_HOSTS: entry {number} {_NO_HOST}") from None
    if not found or "none" in found:
        raise ConfigError(f"WERK_WEBHOOK_HOSTS: the list {_NO_HOST}")
    return frozenset(found)


def host_name(text: str) -> str:
    """Return a host as it is looked up: in lower case, punycode, without a final dot.

    An IPv6 address may stand in brackets. Raises ValueError for other texts.
    """
    from ipaddress import IPv6Address  # an enqueue does not need it

    inner = text[1:-1] if text.startswith("[") and text.endswith("]") else text
    if ":" in inner:
        return str(IPv6Address(inner))
    name = text if text.isascii() else text.encode("idna").decode()  # as socket.getaddrinfo does
    name = name.lower().removesuffix(".")
    if not _HOST.fullmatch(name):
        raise ValueError("not a host name")
    return name
