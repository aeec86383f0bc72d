"""The workers' Lua scripts, made ready for one server: prefix and lib.lua in front, its flags."""

from __future__ import annotations

from functools import cache

from werk.settings import KEY_PREFIX
from werk.store.connection import Script
from werk.store.payload import RECORD_VERSION

# Our records are small and must be written also when memory is full. (6.2 knows no flags, and lets
# a script that begins with a removal, as ours do, write on.)
_FLAGS = "#!lua flags=allow-oom\n"
_SINCE = (7, 0)

_SMALL = {
    "back": "return {give_back(ARGV[1], ARGV[2], ARGV[3] == '1', ARGV[2], redis_time())}",
    "fence_generation": "return fence_generation(ARGV[1], ARGV[2], tonumber(ARGV[3]))",
    "fence": "return fence(ARGV[1], ARGV[2], tonumber(ARGV[3]), ARGV[4])",
    "spare": "for _, queue in ipairs(ARGV) do spare(queue) end",
}


@cache
def script(name: str, server_version: tuple[int, ...] = ()) -> Script:
    """Return step, tick, act or look (see their headers), back, fence,
    fence_generation or spare."""
    body = _SMALL.get(name) or Script.named(name).text
    before = [] if name == "step" else ["lib"]
    before += ["limits"] if name in ("tick", "act") else []
    constants = f"local P, VERSION = '{KEY_PREFIX}', {RECORD_VERSION}"
    parts = [constants, *(Script.named(part).text for part in before), body]
    text = "\n".join(parts).replace("P .. ':", f"'{KEY_PREFIX}:")  # Lua folds no constants
    if server_version >= _SINCE:
        text = _FLAGS + text
    return Script(text)
