"""The environment, read in one place, and what configure() puts in its place.

The names are RQ's own where it has one. No other module reads a setting from os.environ.
"""

from __future__ import annotations

import os
import re
import sys
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

from werk.duration import LONGEST_S
from werk.errors import ConfigError
from werk.printable import cut

DASHBOARD_PORT = 9181
MOST_SLOTS = 1000  # of a worker
MOST_DIGITS = 15  # of a number
LIBRARY_BUDGET_S = 2.0  # a web request waits for this
KEY_PREFIX = os.environ.get("RQ_KEY_PREFIX") or "rq"  # read at import, as in rq/defaults.py
_PREFIX = r"[A-Za-z0-9_.:{}-]+"  # rq/defaults.py
_RQ_REDIS = {f"REDIS_{name}" for name in ("HOST", "PORT", "DB", "PASSWORD", "SSL")}
_HOST = r"[a-z0-9_-]+(\.[a-z0-9_-]+)*"
_NO_HOST = (
    "is not a host name or an IP address; "
    "list them without ports, separated by commas, or set the variable to none"
)
_HOOKS = tuple(f"WERK_HOOKS_{when}" for when in ("BEFORE", "AFTER", "ERROR"))
_YES, _NO = ("1", "true", "yes"), ("0", "false", "no")
_SETTINGS = {  # of configure(): what has used them, so that it is too late to change them
    "url": "a connection to Redis was made",
    "registry": "the table of tasks was read",
    "budget_s": "a connection to Redis was made",
}
_VARIABLES = {"url": "RQ_REDIS_URL", "registry": "WERK_REGISTRY"}
_OTHERS = ("werk", "click", "threading", "concurrent")  # modules that are not the application's

_given: dict[str, Any] = {}  # by configure()
_forced: dict[str, str] = {}  # by force_url(): it wins over configure()
_used: dict[str, tuple[Any, str]] = {}  # of each setting that was used: the value, and where


def configure(
    *,
    url: str | None = None,
    registry: str | Sequence[str] | None = None,
    budget_s: float | None = None,
) -> None:
    """Set werk's settings in code, before werk is first used. They win over the environment.

    `url` replaces RQ_REDIS_URL, and `registry` WERK_REGISTRY (`"shop.table:TASKS"`, or a list of
    such names). `budget_s` is how many seconds a call may take to reach Redis (2). Raises
    ConfigError for an invalid value, and for a setting that was already used with another value.
    """
    if url is not None and not (isinstance(url, str) and _is_url(url)):
        use = "use redis://localhost:6379/0, rediss://... or unix:///path"
        raise ConfigError(f"werk.configure(url=...): not the URL of a Redis server; {use}")
    places = _words(registry) if isinstance(registry, str) else registry
    is_list = isinstance(places, list | tuple) and all(isinstance(place, str) for place in places)
    if places is not None and not is_list:
        raise ConfigError('werk.configure(registry=...): use a text such as "shop.table:TASKS"')
    if budget_s is not None and not (type(budget_s) in (int, float) and 0 < budget_s <= LONGEST_S):
        use = f"use a number of seconds above 0, at most {LONGEST_S:,}"
        raise ConfigError(f"werk.configure(budget_s={cut(repr(budget_s), 40)}): {use}")
    given = {"url": url, "registry": places and tuple(places), "budget_s": budget_s}
    given = {name: value for name, value in given.items() if value is not None}
    for name, value in given.items():
        if name in _used and _used[name][0] != value:
            why = f"{_SETTINGS[name]} before, by {_used[name][1]}"
            raise ConfigError(f"werk.configure({name}=...) came too late: {why}; call it earlier")
    _given.update(given)


def origin(name: str) -> str:
    """Return what a setting comes from, for messages: configure() or else its variable."""
    if name in _given and name not in _forced:
        return f"werk.configure({name}=...)"
    if name != "url":
        return _VARIABLES[name]
    places = ("RQ_REDIS_URL", "RQ_CONFIG", "REDIS_URL", *sorted(_RQ_REDIS))  # in read()'s order
    return next((place for place in places if os.environ.get(place)), "RQ_REDIS_URL")


def force_url(url: str | None) -> None:
    """Use this server, whatever configure() names before or later; None: end that.

    For the pytest fixture werk_worker. The same url has to be in RQ_REDIS_URL.
    """
    _forced.clear()
    if url:
        _forced["url"] = url


def _is_url(url: str) -> bool:
    """Return whether redis-py may accept a URL: its scheme, its port and its database are right."""
    from urllib.parse import urlsplit  # an enqueue does not need it

    try:
        parts = urlsplit(url)
        is_port = parts.port is None or parts.port > 0
    except ValueError:  # the port is not a number, or too large; or a broken IPv6 address
        return False
    if parts.scheme == "unix":
        return bool(parts.path)
    database = parts.path.strip("/")
    is_database = not database or database.isdecimal() or bool(parts.query)
    return parts.scheme in ("redis", "rediss") and is_port and is_database


def note_use(name: str, value: object) -> None:
    """Note that a setting is used: from now on configure() cannot change it."""
    if name not in _used and name not in _forced:
        frame: Any = sys._getframe(1)
        while frame and frame.f_globals.get("__name__", "").partition(".")[0] in _OTHERS:
            frame = frame.f_back
        where = f"{frame.f_code.co_filename}:{frame.f_lineno}" if frame else "werk.aio"
        _used[name] = value, where


class Settings(NamedTuple):
    """The settings of this process. An empty variable counts as not set."""

    redis_url: str | None
    rq_config: str | None  # a module that names the server, where no URL does
    rq_redis: Mapping[str, str]  # REDIS_HOST and the like, where neither does
    registry: tuple[str, ...]
    state_dir: str
    server: str | None
    dashboard_username: str | None
    dashboard_password: str | None
    middleware: tuple[str, ...]  # paths of functions around each execution
    hooks: tuple[str, ...]  # variables that workers no longer read, and that are set
    on_give_up: str | None  # a function to call for each final failure
    allow_unregistered: bool
    concurrency: int  # slots of a worker
    horse_jobs: int  # a horse is replaced after this number of jobs
    horse_mb: int  # or when it has more memory than this; 0: no limit
    webhook_hosts: frozenset[str] | None  # that a worker's webhooks may call; None: any
    preload: tuple[str, ...]  # modules that a horse imports before its first job
    budget_s: float  # of a call in Python

    def __repr__(self) -> str:
        return "Settings(...)"  # some are passwords

    @staticmethod
    def url() -> str | None:
        """Return the url of configure() or RQ_REDIS_URL, without reading the whole environment."""
        return _forced.get("url") or _given.get("url") or os.environ.get("RQ_REDIS_URL")

    @staticmethod
    def budget() -> float:
        """Return the time budget of a call in seconds, without reading the environment."""
        return float(_given.get("budget_s", LIBRARY_BUDGET_S))

    @staticmethod
    def around_enqueues() -> tuple[str, ...]:
        """Return the paths of the middleware of callers, without reading the whole environment."""
        return _words(os.environ.get("WERK_ENQUEUE_MIDDLEWARE", ""))

    @staticmethod
    def columns() -> int:
        """Return how many characters fit on a line according to COLUMNS; 0 if it is not set."""
        text = os.environ.get("COLUMNS", "")
        return int(text) if re.fullmatch("[0-9]{1,5}", text) else 0

    @staticmethod
    def wants_color() -> bool:
        """Return whether colours on a terminal are wanted (https://no-color.org)."""
        return not os.environ.get("NO_COLOR") and os.environ.get("TERM") != "dumb"

    @classmethod
    def read(cls, environ: Mapping[str, str] = os.environ) -> Settings:
        """Return the settings of this process. Raises ConfigError.

        configure() counts if `environ` is the environment of this process.
        """
        given = {**_given, **_forced} if environ is os.environ else {}
        env = {name: value for name, value in environ.items() if value}
        prefix = env.get("RQ_KEY_PREFIX", "rq")
        if not re.fullmatch(_PREFIX, prefix):
            raise ConfigError(f"RQ_KEY_PREFIX {prefix!r}: use letters, digits and _ . : - {{ }}")
        rq_config = env.get("RQ_CONFIG")
        redis_url = given.get("url") or env.get("RQ_REDIS_URL")
        redis_url = redis_url or (None if rq_config else env.get("REDIS_URL"))
        # what `rq worker` takes from the environment (rq.cli.helpers.get_redis_from_config)
        is_rq_redis = not redis_url and not rq_config and not _RQ_REDIS.isdisjoint(env)
        home = env.get("HOME") or os.path.expanduser("~")
        local = os.path.join(home, ".local", "state")
        return cls(
            redis_url=redis_url,
            rq_config=rq_config,
            rq_redis={name: env[name] for name in env if is_rq_redis and name.startswith("REDIS_")},
            registry=given.get("registry", _words(env.get("WERK_REGISTRY", ""))),
            state_dir=env.get("WERK_STATE_DIR")
            or os.path.join(env.get("XDG_STATE_HOME", local), "werk"),
            server=env.get("WERK_SERVER"),
            dashboard_username=env.get("RQ_DASHBOARD_USERNAME"),
            dashboard_password=env.get("RQ_DASHBOARD_PASSWORD"),
            middleware=_words(env.get("WERK_MIDDLEWARE", "")),
            hooks=tuple(name for name in _HOOKS if name in env),
            on_give_up=env.get("WERK_ON_GIVE_UP"),
            allow_unregistered=_is_yes("WERK_ALLOW_UNREGISTERED", env),
            concurrency=_concurrency(env),
            horse_jobs=_whole("WERK_HORSE_JOBS", env, "10000"),
            horse_mb=_whole("WERK_HORSE_MB", env, "0"),
            webhook_hosts=_hosts(env.get("WERK_WEBHOOK_HOSTS")),
            preload=_words(env.get("WERK_PRELOAD", "")),
            budget_s=given.get("budget_s", LIBRARY_BUDGET_S),
        )


def _words(value: str) -> tuple[str, ...]:
    return tuple(value.replace(",", " ").split())


def _is_yes(name: str, env: Mapping[str, str]) -> bool:
    value = env.get(name, "no").lower()
    if value not in _YES + _NO:
        raise ConfigError(f"{name}={env[name]!r}: use yes or no")
    return value in _YES


def _whole(name: str, env: Mapping[str, str], default: str) -> int:
    value = env.get(name, default)
    if not (value.isdecimal() and len(value) <= MOST_DIGITS):
        most = f"use a whole number of at most {MOST_DIGITS} digits"
        raise ConfigError(f"{name}={cut(value, 40)!r}: {most}")
    return int(value)


def _concurrency(env: Mapping[str, str]) -> int:
    number = _whole("WERK_CONCURRENCY", env, "1")
    if not 1 <= number <= MOST_SLOTS:
        raise ConfigError(f"WERK_CONCURRENCY={number}: use a number from 1 to {MOST_SLOTS}")
    return number


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
    if not re.fullmatch(_HOST, name):
        raise ValueError("not a host name")
    return name
