"""Ticker: tick.lua, once a second: what it is told, and what follows from each of its events."""

from __future__ import annotations

import time
from typing import TYPE_CHECKING, Any

import redis.exceptions
import rq.worker_registration

from werk.errors import ConfigError, RedisUnavailable
from werk.store.keys import text
from werk.store.scripts import script
from werk.tasks import catalog
from werk.worker.claim import iso

if TYPE_CHECKING:
    from werk.worker.supervisor import Supervisor

TICK_BUDGET_S = 1.0  # no tick takes longer: limits and signals are looked at between two
CATALOG_S = 5.0  # between two beats of the catalog; a reader takes three missed ones for gone
CATALOG_WHOLE_S = 3600.0  # between two writings of all that it says


class Ticker:
    """Ticks when one is due, and knows whether Redis is away."""

    def __init__(self, supervisor: Supervisor, moves_due: bool) -> None:
        self.supervisor, self.worker, self.log = supervisor, supervisor.worker, supervisor.log
        self.script = script("tick", self.worker.server_version())
        self.moves_due = moves_due
        self.due_at = time.monotonic() + self.worker.tick_s
        self.lost_run = ""  # that the last tick told of
        self.is_away = False
        self.ahead = ""  # seconds that this host's clock is ahead of Redis's
        self.served_at = self.catalog_at = -CATALOG_WHOLE_S

    def tick_if_due(self) -> bool:
        """Tick, if it is time to. Return whether that was done and reached Redis."""
        if time.monotonic() < self.due_at:
            return False
        self.due_at = time.monotonic() + self.worker.tick_s
        if self.tick():
            self.due_at = 0.0
        return not self.is_away

    def tick(self) -> bool:
        """Run tick.lua. Returns whether there is more to do for it."""
        supervisor, worker = self.supervisor, self.worker
        state = supervisor.page.state()
        now, asked_at = time.time(), time.monotonic()
        head: list[Any] = [worker.name, iso(now), repr(now)]
        head += [supervisor.generation, state.run, state.last]
        head += [worker.lease_s, worker.worker_ttl + 60, int(self.moves_due)]
        head += [supervisor.page.dropped, self.ahead]
        try:
            words: list[Any] = [*head, *self.catalog_words()]
            redis_time, *events = supervisor.link.run(self.script, worker.queue_keys(), words)
        except (RedisUnavailable, ConfigError) as error:
            self.say_away(error)
            return False
        supervisor.page.learn(float(redis_time), asked_at)
        self.ahead = f"{time.time() - supervisor.page.now():.3f}"
        if self.is_away:
            self.log.warning("event=redis-back worker=%s", worker.name)
        self.is_away = False
        lost = ""
        for what, *facts in events:
            if what == b"lost":
                lost = facts[0].decode()
            else:
                self.handle(what.decode(), facts)
        # Twice: the first time it may have ended between our look and the script. While RQ's own
        # code finishes it, it is the fence that decides; after its commit all is as it should be.
        is_still_at_it = supervisor.page.state().run == lost and not supervisor.page.finishing
        if lost and lost == self.lost_run and is_still_at_it:
            supervisor.kill("lost", lost)
        self.lost_run = lost
        return not self.is_away and any(what in (b"more", b"unborn") for what, *_ in events)

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

    def say_away(self, error: Exception) -> None:
        if not self.is_away:
            self.log.error("event=redis-away worker=%s reason=%s", self.worker.name, error)
        self.is_away = True

    def write_birth(self) -> None:
        """Write our hash anew; a tick does the rest. (RQ forgets the set of workers.)"""
        worker = self.worker
        with worker.connection.pipeline() as pipeline:
            pipeline.hset(worker.key, mapping={**worker.serialize(), "state": worker._state})
            pipeline.expire(worker.key, worker.worker_ttl + 60)
            rq.worker_registration.register(worker, pipeline)
            try:
                pipeline.execute()
            except redis.exceptions.RedisError as error:
                self.say_away(error)

    def catalog_words(self) -> list[Any]:
        """What tick.lua writes of our tasks: what we serve often, all of it once an hour."""
        clock = time.monotonic()
        if clock < self.served_at + CATALOG_S:
            return [0]
        self.served_at = clock
        served, pages = catalog.serves(), []
        if clock >= self.catalog_at + CATALOG_WHOLE_S:
            self.catalog_at = clock
            pages = catalog.pages()
        return [len(served), *served, *pages]
