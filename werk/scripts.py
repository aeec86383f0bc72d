"""The worker's Lua scripts, made ready for one server: lib.lua and the prefix in front, flags where it knows them."""

from __future__ import annotations

from pathlib import Path

from werk.link import Script
from werk.settings import KEY_PREFIX

# 7.0 and newer: our records are small and must be written also when memory is full. 6.2 lets a script finish that
# begins with a removal, and ours do.
_FLAGS = "#!lua flags=allow-oom\n"
_SINCE = (7, 0)

_SMALL = {
    "back": "return {give_back(ARGV[1], ARGV[2], ARGV[3] == '1', ARGV[2], tonumber(ARGV[4]))}",
    "cut": "call('HSET', P .. ':worker:' .. ARGV[1], 'werk_horse', ARGV[2]); return call('SMEMBERS', runs_of(ARGV[1]))",
    "fence": "return fence(ARGV[1], ARGV[2], tonumber(ARGV[3]), tonumber(ARGV[4]))",
}


def script(name: str, server_version: tuple[int, ...]) -> Script:
    """Return step or tick (see their headers), back, cut or fence."""
    folder = Path(__file__).parent / "lua"
    body = _SMALL.get(name) or (folder / f"{name}.lua").read_text("utf-8")
    lib = (folder / "lib.lua").read_text("utf-8")
    text = f"local P = '{KEY_PREFIX}'\n{lib}\n{body}"
    if server_version >= _SINCE:
        text = _FLAGS + text
    return Script(text)
