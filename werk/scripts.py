"""The Lua scripts on top of lib.lua, made ready for one server."""

from __future__ import annotations

from functools import cache

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


@cache
def script(name: str, server_version: tuple[int, ...] = ()) -> Script:
    """Return step, tick, act or look (see their headers), back, cut or fence."""
    body = _SMALL.get(name) or Script.named(name).text
    text = f"local P = '{KEY_PREFIX}'\n{Script.named('lib').text}\n{body}"
    if server_version >= _SINCE:
        text = _FLAGS + text
    return Script(text)
