"""Ticker: runs tick.lua once a second for all slots, and returns what it found."""

from __future__ import annotations

import json
import time
from typing import TYPE_CHECKING, Any, NamedTuple

import redis.exceptions

from werk.errors import ConfigError, RedisUnavailable
from werk.log_format import Event
from werk.store.connection import Link
from werk.store.keys import iso, text
from werk.store.outage import Outage
from werk.tasks import catalog
from werk.worker.attempts import WORKER_DIED, packed
from werk.worker.log import run_facts
from werk.worker.scripts import script

if TYPE_CHECKING:
    from werk.worker import Worker
    from werk.worker.slot import Slot

TICK_BUDGET_S = 1.0  # no tick takes longer: limits and signals are checked between ticks
CATALOG_S = 5.0  # between two beats of the catalog; after three missed ones a worker is dead
CATALOG_WHOLE_S = 3600.0  # between two writes of the whole catalog
DEATH = packed(WORKER_DIED)


class Found(NamedTuple):
    """What a tick found."""

    has_more: bool = False  # tick again
    lost: tuple[tuple[Slot, str], ...] = ()  # executions that two ticks found to own no job
    # Executions that are ours now, their crashes, and the worker that had them: perhaps our slot.
    to_fail: tuple[tuple[str, int, str], ...] = ()
    unfinished: tuple[str, ...] = ()  # recorded failures, whose dependents are to be enqueued


class Ticker:
    """Ticks when one is due, and knows whether Redis is unreachable."""

    def __init__(self, worker: Worker, link: Link, moves_due: bool) -> None:
        self.worker, self.link, self.log = worker, link, worker.log
        self.script = script("tick", worker.server_version())
        self.moves_due = moves_due
        self.due_at = time.monotonic() + worker.tick_s
        self.outage = Outage(self.log)
        self.ahead = ""  # seconds that this host's clock is ahead of Redis's
        self.served_at = self.catalog_at = -CATALOG_WHOLE_S
        self.found: dict[str, str] = {}  # by the horses: see SharedState

    def tick(self, slots: list[Slot]) -> Found:
        """Run tick.lua. The first slot becomes the heir of what others have left."""
        self.due_at = time.monotonic() + self.worker.tick_s
        asked_at = time.monotonic()
        try:
            redis_time, *events = self.link.run(
                self.script, self.worker.queue_keys(), self._words(slots)
            )
        except (RedisUnavailable, ConfigError) as error:
            self.log_unreachable(error)
            return Found()
        for slot in slots:
            slot.shared.learn(float(redis_time), asked_at)
        self.ahead = f"{time.time() - slots[0].shared.now():.3f}"
        self.outage.end(worker=self.worker.name)
        found = self._read(events, slots)
        if found.has_more:
            self.due_at = 0.0
        return found

    def _words(self, slots: list[Slot]) -> list[Any]:
        """Return the arguments of tick.lua: TICK_WORDS."""
        worker, now = self.worker, time.time()
        words: list[Any] = [_facts(slots), iso(now), repr(now)]
        words += [worker.lease_s, worker.worker_ttl + 60, int(self.moves_due), self.ahead]
        return [*words, *self._catalog_words(slots), DEATH]

    def _catalog_words(self, slots: list[Slot]) -> tuple[str, str]:
        """Return what tick.lua writes about our tasks: their names often, all of it hourly."""
        clock = time.monotonic()
        if clock < self.served_at + CATALOG_S:
            return "[]", "[]"
        self.served_at = clock
        found = self.found | {
            name: page for own in slots for name, page in own.shared.found.items()
        }
        if found != self.found:
            self.found, self.catalog_at = found, -CATALOG_WHOLE_S
            catalog.adopt(found)
        pages: list[str] = []
        if clock >= self.catalog_at + CATALOG_WHOLE_S:
            self.catalog_at = clock
            pages = catalog.pages()
        return json.dumps(catalog.serves()), json.dumps(pages)

    def _read(self, events: list[list[Any]], slots: list[Slot]) -> Found:
        lost: dict[str, str] = {}
        to_fail, unfinished = [], []
        for event, *facts in events:
            what = event.decode()
            if what == "lost":
                run, name = map(text, facts)
                lost[name] = run
            elif what == "unborn":  # our hash has expired, or Redis has lost its data
                self.served_at = self.catalog_at = -CATALOG_WHOLE_S
                for slot in slots:
                    self.write_birth(slot.worker)
            elif what == "dropped":
                job_id, place, why = map(text, facts)
                self.log.warning(Event("dropped", job=job_id, place=place, reason=why))
            elif what == "unfinished":
                unfinished.append(text(facts[0]))
            elif what != "more":
                run, crashes, name = text(facts[0]), facts[1], text(facts[2])
                own = {"worker": slots[0].worker.name, "became": what, "crashes": crashes}
                self.log.warning(Event("rescued", **run_facts(run), **own))
                to_fail += [(run, crashes, name)] if what == "fail" else []
        is_again = any(what in (b"more", b"unborn") for what, *_ in events)
        has_more = is_again and not self.is_unreachable
        runs = tuple(filter(None, (_twice(slot, lost.get(slot.worker.name, "")) for slot in slots)))
        return Found(has_more, runs, tuple(to_fail), tuple(unfinished))

    def withdraw(self, worker: Worker) -> None:
        """Withdraw our tasks from the queues that no other worker of werk listens on."""
        words = (worker.name, json.dumps(catalog.serves()), *worker.queue_names())
        worker.connection.eval(script("withdraw", worker.server_version()).text, 0, *words)

    @property
    def is_unreachable(self) -> bool:
        return self.outage.is_on

    def log_unreachable(self, error: Exception) -> None:
        self.outage.note(error, worker=self.worker.name)

    def write_birth(self, worker: Worker) -> None:
        try:
            worker.write_birth()
        except redis.exceptions.RedisError as error:
            self.log_unreachable(error)


def _facts(slots: list[Slot]) -> str:
    """Return SLOTS: the facts about each, in the order that tick.lua names."""
    facts = []
    for slot in slots:
        progress = slot.shared.progress()
        own = slot.worker.name, slot.executions.generation, progress.run, progress.last
        facts.append((*own, slot.shared.dropped, slot.to_fail()))
    return json.dumps(facts)


def _twice(slot: Slot, lost: str) -> tuple[Slot, str] | None:
    """Return an execution that no longer owns its job, if the last tick found it as well.

    The first time it may have ended after we read the progress. While RQ's own code finishes it,
    the fence decides, and while the horse waits for a reply, step.lua: after it has recorded the
    outcome nothing is wrong.
    """
    shared, before = slot.shared, slot.lost_run
    is_running = not (shared.finishing or shared.request) and shared.progress().run == lost
    slot.lost_run = lost if is_running else ""
    return (slot, lost) if lost and lost == slot.lost_run == before else None
