"""The worker's Lua scripts, made ready for one server: prefix and lib.lua in front, its flags."""

from __future__ import annotations

from pathlib import Path

from werk.link import Script
from werk.settings import KEY_PREFIX

# Our records are small and must be written also when memory is full. (6.2 knows no flags, and lets
# a script that begins with a removal, as ours do, write on.)
_FLAGS = "#!lua flags=allow-oom\n"
_SINCE = (7, 0)

_SMALL = {
    "back": "return {give_back(ARGV[1], ARGV[2], ARGV[3] == '1', ARGV[2], tonumber(ARGV[4]))}",
    "cut": "return cut(ARGV[1], ARGV[2], tonumber(ARGV[3]))",
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
