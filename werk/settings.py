"""The environment, read in one place. RQ's own names where it has one; no other module reads os.environ."""

from __future__ import annotations

import os
import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path

from werk.errors import ConfigError

DEFAULT_REDIS_URL = "redis://localhost:6379/0"
PREFIX_PATTERN = r"[A-Za-z0-9_.:{}-]+"  # rq/defaults.py


@dataclass(frozen=True)
class Settings:
    """What the environment says. An empty variable counts as not set."""

    redis_url: str | None  # None: not set; RQ_CONFIG may name the server instead
    rq_config: str | None
    key_prefix: str
    registry: tuple[str, ...]
    state_dir: Path
    server: str | None
    dashboard_username: str | None
    dashboard_password: str | None = field(repr=False)
    hooks_before: str | None
    hooks_after: str | None
    hooks_error: str | None
    allow_unregistered: bool

    @classmethod
    def read(cls, environ: Mapping[str, str] | None = None) -> Settings:
        """Return the settings of this process. Raises ConfigError for a value that cannot be meant."""
        env = os.environ if environ is None else environ

        def get(name: str) -> str | None:
            return env.get(name) or None

        prefix = get("RQ_KEY_PREFIX") or "rq"
        if not re.fullmatch(PREFIX_PATTERN, prefix):
            raise ConfigError(f"RQ_KEY_PREFIX {prefix!r}: only letters, digits and _ . : - {{ }} are allowed")
        return cls(
            redis_url=get("RQ_REDIS_URL"),
            rq_config=get("RQ_CONFIG"),
            key_prefix=prefix,
            registry=tuple(part.strip() for part in (get("WERK_REGISTRY") or "").split(",") if part.strip()),
            state_dir=_state_dir(get("WERK_STATE_DIR"), get("XDG_STATE_HOME"), get("HOME")),
            server=get("WERK_SERVER"),
            dashboard_username=get("RQ_DASHBOARD_USERNAME"),
            dashboard_password=get("RQ_DASHBOARD_PASSWORD"),
            hooks_before=get("WERK_HOOKS_BEFORE"),
            hooks_after=get("WERK_HOOKS_AFTER"),
            hooks_error=get("WERK_HOOKS_ERROR"),
            allow_unregistered=_is_true("WERK_ALLOW_UNREGISTERED", get("WERK_ALLOW_UNREGISTERED")),
        )


def _state_dir(own: str | None, xdg: str | None, home: str | None) -> Path:
    if own:
        return Path(own)
    if xdg:
        return Path(xdg) / "werk"
    return Path(home or "/tmp") / ".local" / "state" / "werk"


def _is_true(name: str, value: str | None) -> bool:
    text = (value or "no").lower()
    if text not in ("1", "true", "yes", "0", "false", "no"):
        raise ConfigError(f"{name}={value!r}: say yes or no")
    return text in ("1", "true", "yes")
