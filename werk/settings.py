"""The environment, read in one place. RQ's own names where it has one.

No other module reads os.environ.
"""

from __future__ import annotations

import os
import re
from collections.abc import Mapping
from typing import NamedTuple

from werk.errors import ConfigError

KEY_PREFIX = os.environ.get("RQ_KEY_PREFIX") or "rq"  # read at import, as in rq/defaults.py
PREFIX_PATTERN = r"[A-Za-z0-9_.:{}-]+"  # rq/defaults.py


class Settings(NamedTuple):
    """What the environment says. An empty variable counts as not set."""

    redis_url: str | None
    rq_config: str | None  # a module that names the server, where no URL does
    rq_redis: Mapping[str, str]  # REDIS_HOST and the like, where neither does
    key_prefix: str
    registry: tuple[str, ...]
    state_dir: str
    server: str | None
    dashboard_username: str | None
    dashboard_password: str | None
    hooks_before: str | None
    hooks_after: str | None
    hooks_error: str | None
    allow_unregistered: bool
    horse_jobs: int  # a horse is replaced after so many jobs
    horse_mb: int  # or above so much memory; 0: no limit

    def __repr__(self) -> str:
        return "Settings(...)"  # there are passwords among them

    @staticmethod
    def url() -> str | None:
        """Return RQ_REDIS_URL alone, quickly."""
        return os.environ.get("RQ_REDIS_URL")

    @classmethod
    def read(cls, environ: Mapping[str, str] | None = None) -> Settings:
        """Return the settings of this process. Raises ConfigError."""
        env = os.environ if environ is None else environ

        def get(name: str) -> str | None:
            return env.get(name) or None

        prefix = get("RQ_KEY_PREFIX") or "rq"
        if not re.fullmatch(PREFIX_PATTERN, prefix):
            raise ConfigError(f"RQ_KEY_PREFIX {prefix!r}: use letters, digits and _ . : - {{ }}")
        rq_config = get("RQ_CONFIG")
        redis_url = get("RQ_REDIS_URL") or (None if rq_config else get("REDIS_URL"))
        return cls(
            redis_url=redis_url,
            rq_config=rq_config,
            rq_redis={} if redis_url or rq_config else _starting_with("REDIS_", env),
            key_prefix=prefix,
            registry=tuple((get("WERK_REGISTRY") or "").replace(",", " ").split()),
            state_dir=_state_dir(get("WERK_STATE_DIR"), get("XDG_STATE_HOME"), get("HOME")),
            server=get("WERK_SERVER"),
            dashboard_username=get("RQ_DASHBOARD_USERNAME"),
            dashboard_password=get("RQ_DASHBOARD_PASSWORD"),
            hooks_before=get("WERK_HOOKS_BEFORE"),
            hooks_after=get("WERK_HOOKS_AFTER"),
            hooks_error=get("WERK_HOOKS_ERROR"),
            allow_unregistered=_is_true("WERK_ALLOW_UNREGISTERED", get("WERK_ALLOW_UNREGISTERED")),
            horse_jobs=_whole("WERK_HORSE_JOBS", get("WERK_HORSE_JOBS") or "10000"),
            horse_mb=_whole("WERK_HORSE_MB", get("WERK_HORSE_MB") or "0"),
        )


def _starting_with(start: str, env: Mapping[str, str]) -> dict[str, str]:
    """What `rq worker` takes from the environment (rq.cli.helpers.get_redis_from_config)."""
    names = ("HOST", "PORT", "DB", "PASSWORD", "SSL")
    found = {name: value for name, value in env.items() if name.startswith(start) and value}
    return found if any(start + name in found for name in names) else {}


def _state_dir(own: str | None, xdg: str | None, home: str | None) -> str:
    return own or os.path.join(xdg or os.path.join(home or "/tmp", ".local", "state"), "werk")


def _is_true(name: str, value: str | None) -> bool:
    text = (value or "no").lower()
    if text not in ("1", "true", "yes", "0", "false", "no"):
        raise ConfigError(f"{name}={value!r}: say yes or no")
    return text in ("1", "true", "yes")


def _whole(name: str, value: str) -> int:
    if not value.isdecimal():
        raise ConfigError(f"{name}={value!r}: say a whole number")
    return int(value)
