"""The Lua scripts, made ready for one server: names and constants in front, its flags."""

from __future__ import annotations

import os
from functools import cache, cached_property

from werk.store.keys import KEY_PREFIX, RECORD_VERSION

# Our records are small and must be written also when memory is full. (6.2 knows no flags, and lets
# a script that begins with a removal, as ours do, write on.)
_FLAGS = "#!lua flags=allow-oom\n"
_SINCE = (7, 0)

_SMALL = {
    "back": "return {give_back(ARGV[1], ARGV[2], ARGV[3] == '1', ARGV[2], redis_time())}",
    "cut": "return cut(ARGV[1], ARGV[2], tonumber(ARGV[3]), unpack(ARGV, 4, 8))",
    "fence": "return fence(ARGV[1], ARGV[2], tonumber(ARGV[3]), ARGV[4])",
    "spare": "for _, queue in ipairs(ARGV) do spare(queue) end",
}


class Script:
    """A Lua script."""

    def __init__(self, text: str) -> None:
        self.text = text

    @classmethod
    @cache
    def named(cls, name: str) -> Script:
        """Return lua/NAME.lua."""
        with open(os.path.join(os.path.dirname(__file__), "lua", f"{name}.lua")) as file:
            return cls(file.read())

    @cached_property
    def sha(self) -> str:
        """The name that Redis gives it."""
        from hashlib import sha1  # loads OpenSSL, and one enqueue does without

        return sha1(self.text.encode()).hexdigest()


@cache
def script(name: str, server_version: tuple[int, ...] = ()) -> Script:
    """Return step, tick, act or look (see their headers), back, cut, fence or spare."""
    body = _SMALL.get(name) or Script.named(name).text
    before = ["counts"] if name == "step" else ["counts", "lib"]
    before += ["limits"] if name in ("tick", "act") else []
    constants = f"local P, VERSION = '{KEY_PREFIX}', {RECORD_VERSION}"
    parts = [constants, *(Script.named(part).text for part in before), body]
    text = "\n".join(parts).replace("P .. ':", f"'{KEY_PREFIX}:")  # Lua folds no constants
    if server_version >= _SINCE:
        text = _FLAGS + text
    return Script(text)
