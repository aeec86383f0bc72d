"""The Lua scripts as they are sent: constants and the names of arguments in front of their text.

A script refers to an argument by the name that its record or list has in Python, in capitals, and
to shared constants (limits.py) by theirs. No name or number is written in both languages.
"""

from __future__ import annotations

import os
from collections.abc import Iterable
from functools import cache, cached_property

from werk.registry import DEFAULT_TIMEOUT_S, LONGEST_S, MOST_RETRIES
from werk.store import limits
from werk.store.keys import KEY_PREFIX, RECORD_VERSION

# Our records are small and must be written even when memory is full. (Redis 6.2 has no flags, but
# there a script that begins with a removal, as ours do, may continue to write.)
_FLAGS = "#!lua flags=allow-oom\n"
_SINCE = (7, 0)

_CONSTANTS = {
    "VERSION": RECORD_VERSION,
    "LEASE_S": limits.LEASE_S,
    "OWNED_S": limits.OWNED_S,
    "LISTED_S": limits.LISTED_S,
    "FENCED_S": limits.FENCED_S,
    "MONTH_S": limits.MONTH_S,
    "FAILURES_KEPT_S": limits.FAILURES_KEPT_S,
    "MOST_GAVE_UP": limits.MOST_GAVE_UP,
    "YEAR_S": limits.YEAR_S,
    "MOST_RESULTS": limits.MOST_RESULTS,
    "GONE_ENTRY": f"'{limits.GONE_ENTRY}'",
    "DEFAULT_TIMEOUT_S": DEFAULT_TIMEOUT_S,
    "LONGEST_S": LONGEST_S,
    "MOST_CRASHES": MOST_RETRIES,
}

_SMALL = {
    "back": "local crash = TRACE ~= '' and {trace = TRACE, at = AT} or nil\n"
    "return {give_back(RUN, WORKER, crash, WORKER, redis_time())}",
    "fence_generation": "return fence_generation("
    "WORKER, GENERATION, tonumber(LEASE), cjson.decode(QUEUE_KEYS))",
    "fence": "return fence(RUN, QUEUE, tonumber(SECONDS), WORKER)",
    "withdraw": "for _, queue in ipairs(QUEUES) do"
    " withdraw(WORKER, queue, cjson.decode(SERVED)) end",
    "take_failure": "return take_failure(WORKER)",
    "count_failure": "count_failure(FIELD, JOB)",
    "spare": "for _, queue in ipairs(ARGV) do spare(queue) end",
}


class Script:
    """A Lua script."""

    def __init__(self, text: str) -> None:
        self.text = text

    @classmethod
    @cache
    def named(cls, name: str) -> Script:
        """Return lua/NAME.lua, with the constants that it uses."""
        return joined(source(name))

    @cached_property
    def sha(self) -> str:
        """The name that Redis gives it."""
        from hashlib import sha1  # loads OpenSSL, and one enqueue does without

        return sha1(self.text.encode()).hexdigest()


@cache
def source(name: str) -> str:
    """Return the text of lua/NAME.lua."""
    with open(os.path.join(os.path.dirname(__file__), "lua", f"{name}.lua")) as file:
        return file.read()


def joined(*parts: str) -> Script:
    """Return parts as one script, with the shared constants that they use in front."""
    text = "\n".join(part for part in parts if part)
    used = [name for name in _CONSTANTS if name in text]
    values = ", ".join(str(_CONSTANTS[name]) for name in used)
    return Script(f"local {', '.join(used)} = {values}\n{text}" if used else text)


def named(names: Iterable[str], first: int = 1) -> str:
    """Return a line of Lua that names arguments: local A, B = ARGV[first], ARGV[first+1]."""
    found = list(names)
    values = (f"ARGV[{at}]" for at in range(first, first + len(found)))
    return f"local {', '.join(found)} = {', '.join(values)}"


def rest(name: str, first: int) -> str:
    """Return a line of Lua that names the list of all arguments from `first` on."""
    return f"local {name} = {{unpack(ARGV, {first})}}"


def numbered(names: Iterable[str]) -> str:
    """Return a line of Lua that names the places in a list: local A, B = 1, 2."""
    found = list(names)
    return f"local {', '.join(found)} = {', '.join(map(str, range(1, len(found) + 1)))}"


_PRELUDES = {
    "back": named(("RUN", "WORKER", "TRACE", "AT")),
    "fence_generation": named(("WORKER", "GENERATION", "LEASE", "QUEUE_KEYS")),
    "fence": named(("RUN", "QUEUE", "SECONDS", "WORKER")),
    "take_failure": named(("WORKER",)),
    "count_failure": named(("FIELD", "JOB")),
    "withdraw": "\n".join((named(("WORKER", "SERVED")), rest("QUEUES", 3))),
}

# What stands in front of a script, besides lib.lua.
_PARTS = {
    "tick": ("hands", "limits", "slots"),
    "act": ("hands", "limits"),
    "snapshot": ("hands", "ask"),
    "cron_health": ("ask",),
    "fence_generation": ("hands",),
    "take_failure": ("hands",),
}


@cache
def script(name: str, server_version: tuple[int, ...] = (), *, prelude: str = "") -> Script:
    """Return step, tick, act, snapshot or cron_health (see their headers), back, fence,
    fence_generation, withdraw, take_failure, count_failure or spare.

    `prelude` is Lua that names the script's arguments.
    """
    parts = [f"local P = '{KEY_PREFIX}'", prelude or _PRELUDES.get(name, "")]
    if name == "count_failure":
        parts.append(source("failures"))
    elif name != "step":
        parts += map(source, ("lib", *_PARTS.get(name, ())))
    body = _SMALL.get(name) or source(name)
    if name == "step":
        body = body.replace("-- failures.lua\n", source("failures"))
    text = joined(*parts, body).text
    text = text.replace("P .. ':", f"'{KEY_PREFIX}:")  # Lua folds no constants
    return Script(_FLAGS + text if server_version >= _SINCE else text)
