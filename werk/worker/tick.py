"""Ticker: tick.lua, once a second: what it is told, and what follows from each of its events."""

from __future__ import annotations

import json
import time
from typing import TYPE_CHECKING, Any

import redis.exceptions

from werk.errors import ConfigError, RedisUnavailable
from werk.store.keys import iso, text
from werk.tasks import catalog
from werk.worker.scripts import script

if TYPE_CHECKING:
    from werk.worker.supervisor import Supervisor

TICK_BUDGET_S = 1.0  # no tick takes longer: limits and signals are looked at between two
CATALOG_S = 5.0  # between two beats of the catalog; a reader takes three missed ones for gone
CATALOG_WHOLE_S = 3600.0  # between two writings of all that it says


class Ticker:
    """Ticks when one is due, and knows whether Redis is unreachable."""

    def __init__(self, supervisor: Supervisor, moves_due: bool) -> None:
        self.supervisor, self.worker, self.log = supervisor, supervisor.worker, supervisor.log
        self.script = script("tick", self.worker.server_version())
        self.moves_due = moves_due
        self.due_at = time.monotonic() + self.worker.tick_s
        self.lost_run = ""  # that the last tick told of
        self.is_unreachable = False
        self.ahead = ""  # seconds that this host's clock is ahead of Redis's
        self.served_at = self.catalog_at = -CATALOG_WHOLE_S

    def tick_if_due(self) -> bool:
        """Tick, if it is time to. Return whether that was done and reached Redis."""
        if time.monotonic() < self.due_at:
            return False
        self.due_at = time.monotonic() + self.worker.tick_s
        if self.tick():
            self.due_at = 0.0
        return not self.is_unreachable

    def tick(self) -> bool:
        """Run tick.lua. Returns whether there is more to do for it."""
        supervisor, worker = self.supervisor, self.worker
        state = supervisor.shared.progress()
        now, asked_at = time.time(), time.monotonic()
        head: list[Any] = [worker.name, iso(now), repr(now)]
        head += [supervisor.generation, state.run, state.last]
        head += [worker.lease_s, worker.worker_ttl + 60, int(self.moves_due)]
        head += [supervisor.shared.dropped, self.ahead]
        try:
            words: list[Any] = [*head, *self.catalog_words()]
            redis_time, *events = supervisor.link.run(self.script, worker.queue_keys(), words)
        except (RedisUnavailable, ConfigError) as error:
            self.log_unreachable(error)
            return False
        supervisor.shared.learn(float(redis_time), asked_at)
        self.ahead = f"{time.time() - supervisor.shared.now():.3f}"
        if self.is_unreachable:
            self.log.warning("event=redis-back worker=%s", worker.name)
        self.is_unreachable = False
        lost = ""
        for what, *facts in events:
            if what == b"lost":
                lost = facts[0].decode()
            else:
                self.handle(what.decode(), facts)
        # Twice: the first time it may have ended between our look and the script. While RQ's own
        # code finishes it, it is the fence that decides; after its commit all is as it should be.
        is_still_at_it = (
            supervisor.shared.progress().run == lost and not supervisor.shared.finishing
        )
        if lost and lost == self.lost_run and is_still_at_it:
            supervisor.kill("lost", lost)
        self.lost_run = lost
        return not self.is_unreachable and any(what in (b"more", b"unborn") for what, *_ in events)

    def handle(self, what: str, facts: list[Any]) -> None:
        if what == "unborn":  # it expired, or Redis is back without its memory
            self.served_at = self.catalog_at = -CATALOG_WHOLE_S
            self.write_birth()
        elif what == "dropped":
            job_id, place, why = map(text, facts)
            self.log.warning("event=dropped job=%s place=%s reason=%s", job_id, place, why)
        elif what == "unfinished":
            self.supervisor.complete(text(facts[0]))
        elif what != "more":
            run, crashes = facts[0].decode("utf-8", "replace"), facts[1]
            self.log.warning("event=rescued run=%s became=%s crashes=%s", run, what, crashes)
            if what == "fail":
                self.supervisor.take_over(run, crashes)

    def log_unreachable(self, error: Exception) -> None:
        if not self.is_unreachable:
            self.log.error("event=redis-unreachable worker=%s reason=%s", self.worker.name, error)
        self.is_unreachable = True

    def write_birth(self) -> None:
        try:
            self.worker.write_birth()
        except redis.exceptions.RedisError as error:
            self.log_unreachable(error)

    def catalog_words(self) -> tuple[str, str]:
        """Return what tick.lua writes of our tasks: what we serve often, all of it once an hour."""
        clock = time.monotonic()
        if clock < self.served_at + CATALOG_S:
            return "[]", "[]"
        self.served_at = clock
        served, pages = catalog.serves(), []
        if clock >= self.catalog_at + CATALOG_WHOLE_S:
            self.catalog_at = clock
            pages = catalog.pages()
        return json.dumps([*served]), json.dumps([*pages])
