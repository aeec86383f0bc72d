"""Ticker: runs tick.lua once a second, and returns what it found, for the supervisor."""

from __future__ import annotations

import json
import time
from typing import TYPE_CHECKING, Any, NamedTuple

import redis.exceptions

from werk.errors import ConfigError, RedisUnavailable
from werk.log_format import Event
from werk.store.connection import Link
from werk.store.keys import iso, text
from werk.tasks import catalog
from werk.worker.attempts import WORKER_DIED, packed
from werk.worker.log import run_facts
from werk.worker.scripts import script
from werk.worker.shared_state import SharedState

if TYPE_CHECKING:
    from werk.worker import Worker

TICK_BUDGET_S = 1.0  # no tick takes longer: limits and signals are checked between ticks
CATALOG_S = 5.0  # between two beats of the catalog; after three missed ones a worker is dead
CATALOG_WHOLE_S = 3600.0  # between two writes of the whole catalog
DEATH = packed(WORKER_DIED)


class Found(NamedTuple):
    """What a tick found."""

    has_more: bool = False  # tick again
    lost: str = ""  # the horse's execution, if two ticks found that it no longer owns its job
    to_fail: tuple[tuple[str, int], ...] = ()  # executions that are ours now, and their crashes
    unfinished: tuple[str, ...] = ()  # recorded failures, whose dependents are to be enqueued


class Ticker:
    """Ticks when one is due, and knows whether Redis is unreachable."""

    def __init__(self, worker: Worker, link: Link, shared: SharedState, moves_due: bool) -> None:
        self.worker, self.link, self.shared, self.log = worker, link, shared, worker.log
        self.script = script("tick", worker.server_version())
        self.moves_due = moves_due
        self.due_at = time.monotonic() + worker.tick_s
        self.lost_run = ""  # the lost execution that the last tick found
        self.is_unreachable = False
        self.ahead = ""  # seconds that this host's clock is ahead of Redis's
        self.served_at = self.catalog_at = -CATALOG_WHOLE_S
        self.found: dict[str, str] = {}  # by the horse: see SharedState

    def tick(self, generation: str) -> Found:
        """Run tick.lua, for a horse of this generation."""
        self.due_at = time.monotonic() + self.worker.tick_s
        asked_at = time.monotonic()
        try:
            redis_time, *events = self.link.run(
                self.script, self.worker.queue_keys(), self._words(generation)
            )
        except (RedisUnavailable, ConfigError) as error:
            self.log_unreachable(error)
            return Found()
        self.shared.learn(float(redis_time), asked_at)
        self.ahead = f"{time.time() - self.shared.now():.3f}"
        if self.is_unreachable:
            self.log.warning(Event("redis-back", worker=self.worker.name))
        self.is_unreachable = False
        found = self._read(events)
        if found.has_more:
            self.due_at = 0.0
        return found

    def _words(self, generation: str) -> list[Any]:
        """Return the arguments of tick.lua: TICK_WORDS."""
        worker, progress, now = self.worker, self.shared.progress(), time.time()
        words: list[Any] = [worker.name, iso(now), repr(now)]
        words += [generation, progress.run, progress.last]
        words += [worker.lease_s, worker.worker_ttl + 60, int(self.moves_due)]
        words += [self.shared.dropped, self.ahead]
        return [*words, *self._catalog_words(), DEATH]

    def _catalog_words(self) -> tuple[str, str]:
        """Return what tick.lua writes about our tasks: their names often, all of it hourly."""
        clock = time.monotonic()
        if clock < self.served_at + CATALOG_S:
            return "[]", "[]"
        self.served_at = clock
        if (found := self.shared.found) != self.found:
            self.found, self.catalog_at = found, -CATALOG_WHOLE_S
            catalog.adopt(found)
        pages: list[str] = []
        if clock >= self.catalog_at + CATALOG_WHOLE_S:
            self.catalog_at = clock
            pages = catalog.pages()
        return json.dumps(catalog.serves()), json.dumps(pages)

    def _read(self, events: list[list[Any]]) -> Found:
        lost, to_fail, unfinished = "", [], []
        for event, *facts in events:
            what = event.decode()
            if what == "lost":
                lost = facts[0].decode()
            elif what == "unborn":  # our hash has expired, or Redis has lost its data
                self.served_at = self.catalog_at = -CATALOG_WHOLE_S
                self.write_birth()
            elif what == "dropped":
                job_id, place, why = map(text, facts)
                self.log.warning(Event("dropped", job=job_id, place=place, reason=why))
            elif what == "unfinished":
                unfinished.append(text(facts[0]))
            elif what != "more":
                run, crashes = facts[0].decode("utf-8", "replace"), facts[1]
                own = {"worker": self.worker.name, "became": what, "crashes": crashes}
                self.log.warning(Event("rescued", **run_facts(run), **own))
                to_fail += [(run, crashes)] if what == "fail" else []
        is_again = any(what in (b"more", b"unborn") for what, *_ in events)
        has_more = is_again and not self.is_unreachable
        return Found(has_more, self._twice(lost), tuple(to_fail), tuple(unfinished))

    def _twice(self, lost: str) -> str:
        """Return an execution that no longer owns its job, if the last tick found it as well.

        The first time it may have ended after we read the progress. While RQ's own code finishes
        it, the fence decides; after that commit nothing is wrong.
        """
        before, self.lost_run = self.lost_run, lost
        is_running = self.shared.progress().run == lost and not self.shared.finishing
        return lost if lost == before and is_running else ""

    def withdraw(self) -> None:
        """Withdraw our tasks from the queues that no other worker of werk listens on."""
        worker = self.worker
        words = (worker.name, json.dumps(catalog.serves()), *worker.queue_names())
        worker.connection.eval(script("withdraw", worker.server_version()).text, 0, *words)

    def log_unreachable(self, error: Exception) -> None:
        if not self.is_unreachable:
            name = self.worker.name
            self.log.error(Event("redis-unreachable", worker=name, reason=error))
        self.is_unreachable = True

    def write_birth(self) -> None:
        try:
            self.worker.write_birth()
        except redis.exceptions.RedisError as error:
            self.log_unreachable(error)
