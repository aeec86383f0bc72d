"""Everything that Redis holds, read at one moment: for tests that ask what a script has changed."""

from __future__ import annotations

import math
from collections.abc import Iterator
from typing import Any, cast

import redis

QUEUES = ("high", "low")
PLACES = ("canceled", "deferred", "failed", "finished", "ready", "scheduled")  # sorted sets of RQ's

READ = """
local how = {hash = {'HGETALL'}, list = {'LRANGE', 0, -1}, zset = {'ZRANGE', 0, -1, 'WITHSCORES'},
  set = {'SMEMBERS'}, string = {'GET'}, stream = {'XREVRANGE', '+', '-', 'COUNT', 1}}
local found = {table.concat(redis.call('TIME'), ' ')}
for _, key in ipairs(redis.call('KEYS', '*')) do
  local command = how[redis.call('TYPE', key).ok]
  found[#found + 1] = {key, redis.call('PTTL', key), command[1],
    redis.call(command[1], key, unpack(command, 2))}
end
return found"""


class Contents:
    """Values and times to live by key, without RQ's prefix; of a stream its last entry."""

    def __init__(self, connection: redis.Redis) -> None:
        self.values: dict[str, Any] = {}
        self.ttls: dict[str, float] = {}
        clock, *found = cast(Any, connection.eval(READ, 0))
        seconds, micros = map(int, clock.split())
        self.clock = seconds + micros / 1e6
        for key, ttl_ms, command, value in found:
            name = text(key).removeprefix("rq:")
            self.ttls[name] = ttl_ms / 1000 if ttl_ms > 0 else ttl_ms
            self.values[name] = shaped(text(command), value)

    def get(self, *words: str) -> Any:
        """Return what a key holds; for none, something empty."""
        return self.values.get(":".join(words), {})

    def ttl(self, *words: str) -> float:
        return self.ttls.get(":".join(words), -2)

    def named(self, start: str) -> Iterator[tuple[str, Any]]:
        """Yield the keys with this beginning, without it, and what they hold."""
        for key, value in self.values.items():
            if key.startswith(f"{start}:"):
                yield key[len(start) + 1 :], value

    def waiting(self, queue: str) -> list[str]:
        return list(self.get("queue", queue))

    def hand(self, worker: str, queue: str) -> list[str]:
        """Return the jobs that a worker has in hand, the next one first."""
        return list(self.get("werk", "hand", worker, queue))[::-1]

    def job(self, job_id: str) -> dict[str, str]:
        return cast(Any, self.get("job", job_id))

    def status(self, job_id: str) -> str:
        return self.job(job_id).get("status", "")

    def runs(self) -> set[str]:
        """Return the executions that are in wip: their jobs' own."""
        return {run for queue in QUEUES for run in self.get("wip", queue)}

    def places(self, job_id: str) -> list[tuple[str, str]]:
        """Return where a job is, each place with its queue; twice, if it is there twice.

        A hand counts as its queue.
        """
        found = []
        for queue in QUEUES:
            hands = [ids for key, ids in self.named("werk:hand") if key.endswith(f":{queue}")]
            for ids in (self.waiting(queue), *hands):
                found += [("queue", queue)] * ids.count(job_id)
            found += [("wip", queue) for run in self.get("wip", queue) if is_of(run, job_id)]
            found += [(place, queue) for place in PLACES if job_id in self.get(place, queue)]
        return found

    # what has changed

    def since(self, before: Contents) -> dict[str, str]:
        """Return each key that is other than before, and how, in words: see `table`."""
        old, new = before.in_words(), self.in_words()
        found = dict.fromkeys(old.keys() - new.keys(), "gone")
        for key, words in new.items():
            were = old.get(key, {})
            changed = [
                f"{name}={value}" for name, value in words.items() if were.get(name) != value
            ]
            changed += [f"{name}=gone" for name in were.keys() - words.keys()]
            if changed:
                found[key] = " ".join(sorted(changed))
        return found

    def in_words(self) -> dict[str, dict[str, str]]:
        found = {}
        for key, value in self.values.items():
            parts = value if isinstance(value, dict) else {"": value}
            found[key] = {name.replace(" ", "_"): self.word(part) for name, part in parts.items()}
            if self.ttls[key] > 0:
                found[key]["lives"] = str(to_5_s(self.ttls[key]))
        return found

    def word(self, value: Any) -> str:
        """Return a value as one word; a moment on Redis's clock in seconds from now."""
        if isinstance(value, list):
            return ",".join(value)
        written, bar, moment = value.partition("|")
        if bar and moment.replace(".", "").isdigit() and abs(float(moment) - self.clock) < 5:
            return f"{written}|now"
        try:
            seconds = float(value) - self.clock
        except ValueError:
            seconds = math.inf
        return f"now{to_5_s(seconds):+}" if abs(seconds) < 1e8 else value.replace(" ", "_")


def table(text: str) -> dict[str, str]:
    """Return lines as Contents.since returns changes: a key, and `name=value` of each field or
    member that is other, `=value` if there are no names, `lives=seconds`, and what was deleted.
    A line whose key ends with + has more of it."""
    found: dict[str, list[str]] = {}
    for key, *words in map(str.split, filter(str.strip, text.splitlines())):
        found.setdefault(key.rstrip("+"), []).extend(words)
    return {key: " ".join(sorted(words)) for key, words in found.items()}


def to_5_s(seconds: float) -> int:
    """Return what it was up to 5 s ago, if that is a multiple of 5."""
    return math.ceil((seconds - 0.01) / 5) * 5


def is_of(run: str, job_id: str) -> bool:
    return run.startswith(f"{job_id}:")


def text(data: bytes) -> str:
    return data.decode("latin-1")


def shaped(command: str, value: Any) -> Any:
    if command == "GET":
        return text(value)
    if command == "XREVRANGE":
        return pairs(value[0][1]) if value else {}
    if command in ("HGETALL", "ZRANGE"):
        return pairs(value)
    words = [text(word) for word in value]
    return sorted(words) if command == "SMEMBERS" else words


def pairs(words: list[bytes]) -> dict[str, str]:
    return dict(zip(map(text, words[::2]), map(text, words[1::2]), strict=True))
