"""Lua scripts, made ready for one server: names and constants in front, lib.lua, its flags."""

from __future__ import annotations

from collections.abc import Iterable
from functools import cache

from werk.registry import LONGEST_S, MOST_RETRIES
from werk.settings import KEY_PREFIX
from werk.store.connection import Script
from werk.store.payload import RECORD_VERSION

# Our records are small and must be written also when memory is full. (6.2 knows no flags, and lets
# a script that begins with a removal, as ours do, write on.)
_FLAGS = "#!lua flags=allow-oom\n"
_SINCE = (7, 0)

OWNED_S = 90  # RQ leaves an execution alone for so long: 30 s between beats and 60 more
LISTED_S = OWNED_S + 60  # its name in the job's set of executions
MONTH_S = 30 * 24 * 3600  # records without an owner are kept for so long
DEFAULT_TIMEOUT_S = 180  # rq.defaults.DEFAULT_TIMEOUT
MOST_CRASHES = MOST_RETRIES

_CONSTANTS = {
    "P": f"'{KEY_PREFIX}'",
    "VERSION": RECORD_VERSION,
    "OWNED_S": OWNED_S,
    "LISTED_S": LISTED_S,
    "MONTH_S": MONTH_S,
    "LONGEST_S": LONGEST_S,
    "DEFAULT_TIMEOUT_S": DEFAULT_TIMEOUT_S,
    "MOST_CRASHES": MOST_CRASHES,
}


def named(names: Iterable[str], first: int = 1) -> str:
    """Return a line of Lua that names arguments: local A, B = ARGV[first], ARGV[first+1]."""
    found = list(names)
    values = (f"ARGV[{at}]" for at in range(first, first + len(found)))
    return f"local {', '.join(found)} = {', '.join(values)}"


def numbered(names: Iterable[str]) -> str:
    """Return a line of Lua that names the places in a list: local A, B = 1, 2."""
    found = list(names)
    return f"local {', '.join(found)} = {', '.join(map(str, range(1, len(found) + 1)))}"


_SMALL = {
    "back": (
        ("RUN", "WORKER", "IS_CRASH"),
        "return {give_back(RUN, WORKER, IS_CRASH == '1', WORKER, redis_time())}",
    ),
    "fence_generation": (
        ("WORKER", "GENERATION", "LEASE_S"),
        "return fence_generation(WORKER, GENERATION, tonumber(LEASE_S))",
    ),
    "fence": (
        ("RUN", "QUEUE", "SECONDS", "WORKER"),
        "return fence(RUN, QUEUE, tonumber(SECONDS), WORKER)",
    ),
    "spare": ((), "for _, queue in ipairs(ARGV) do spare(queue) end"),
}


@cache
def script(name: str, server_version: tuple[int, ...] = (), *, prelude: str = "") -> Script:
    """Return step, tick, act or look (see their headers), back, fence, fence_generation or spare.

    `prelude` is Lua that names the script's arguments.
    """
    if name in _SMALL:
        words, body = _SMALL[name]
        prelude = named(words) if words else ""
    else:
        body = Script.named(name).text
    before = [] if name == "step" else ["lib"]
    before += ["limits"] if name in ("tick", "act") else []
    constants = f"local {', '.join(_CONSTANTS)} = {', '.join(map(str, _CONSTANTS.values()))}"
    parts = [constants, prelude, *(Script.named(part).text for part in before), body]
    text = "\n".join(parts).replace("P .. ':", f"'{KEY_PREFIX}:")  # Lua folds no constants
    if server_version >= _SINCE:
        text = _FLAGS + text
    return Script(text)
