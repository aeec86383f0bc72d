"""One reading of everything that an operator asks about.

snapshot.lua reads, checks.py finds the problems, status_view.py and metrics.py print.
"""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

from werk.ops import cron_health, refusals
from werk.ops.cron_health import CronHealth
from werk.ops.numbers import ago, number, whole
from werk.ops.refusals import WouldRefuse
from werk.ops.server import Server, read_server
from werk.ops.slots import read_slot
from werk.ops.workers import Worker, group, succeeded
from werk.printable import listed
from werk.store import keys
from werk.store.connection import Link
from werk.store.limits import DEFER_S
from werk.store.replies import cluster_error, is_cluster
from werk.store.scripts import script
from werk.tasks import catalog_page

_CONSTANTS = (catalog_page.SERVED_S, catalog_page.MOST_SERVED, DEFER_S)
_PRELUDE = "local SERVED_S, MOST_SERVED, DEFER_S = {}, {}, {}".format(*_CONSTANTS)


class Deferred(NamedTuple):
    """Jobs that a worker has deferred, because it does not know their task or its arguments."""

    tasks: Sequence[str]
    why: str  # of the one that was deferred first
    since: float


class Queue(NamedTuple):
    """A queue."""

    name: str
    waiting: int
    oldest_s: float | None  # age of the oldest waiting job
    running: int
    scheduled: int
    failed: int
    paused: bool
    left: int  # executions of dead workers
    in_hand: int  # taken by a plain RQ worker, but not begun
    ready: int  # dependents whose parents have finished, not yet enqueued
    ready_s: float | None  # how long there have been some; None: no live worker has seen any
    differing: str  # tasks that its workers define differently
    deferred: Deferred | None  # if a worker does not know the task of a job
    workers: int = 0  # live ones


class GaveUp(NamedTuple):
    """Final failures that wait for a worker with WERK_ON_GIVE_UP."""

    waiting: int
    oldest_s: float | None
    dropped: int  # because too many waited


class Snapshot(NamedTuple):
    """One reading."""

    time: float  # Redis's
    server: Server
    queues: Mapping[str, Queue]
    workers: Sequence[Worker]
    counters: Mapping[str, str]  # of executions, by all horses: "<task>|<what>" -> number
    damaged: Sequence[str]  # keys that cannot be read
    pages: catalog_page.Pages
    gave_up: GaveUp
    cron: CronHealth
    would_refuse: Sequence[WouldRefuse]

    @classmethod
    def read(cls, link: Link) -> Snapshot:
        """Read a snapshot, in at most two round trips. Raises RedisUnavailable, ConfigError."""
        command = ("EVAL", script("snapshot", prelude=_PRELUDE).text, 0)
        commands = [command, catalog_page.command(), ("INFO",), cron_health.command()]
        reply, pages, info, crons = link.calls(commands)
        if is_cluster(info):
            raise cluster_error(link.where)
        seen = json.loads(keys.text(reply))
        now = seen["time"]
        queues = [_queue(now, **facts) for facts in seen["queues"]]
        oldest = _oldest(queues, seen["workers"])
        slots = [read_slot(now, oldest, row) for row in seen["workers"]]
        workers = succeeded(now, group(slots))
        live = Counter(name for own in workers if own.is_live for name in own.queues)
        counted = {own.name: own._replace(workers=live[own.name]) for own in queues}
        server = read_server(link, keys.text(info), seen["suspended"])
        read = catalog_page.pages(pages)
        counters = seen["counters"]
        gave_up = _gave_up(now, counters, *seen["gave_up"])
        cron = cron_health.judged(crons)
        would_refuse, bad_notes = refusals.read(now, seen["would_refuse"])
        damaged = [*seen["damaged"], *cron.damaged, *bad_notes]
        facts = (counters, damaged, read, gave_up, cron, would_refuse)
        return cls(now, server, counted, workers, *facts)

    @property
    def failed_webhooks(self) -> int:
        """Return how many webhooks failed or were left out, since the horses began to count."""
        return whole(self.counters.get(keys.FAILED_WEBHOOKS))


def _queue(
    now: float,
    *,
    since: float | None,
    since_by_rq: str,
    ready_since: str,
    served: Sequence[str],
    deferred: Sequence[Sequence[str]],
    **facts: Any,
) -> Queue:
    versions = Counter(member.partition(" ")[0] for member in served)
    differing = listed([task for task, count in versions.items() if count > 1])
    oldest = min(now if since is None else since, keys.moment(since_by_rq, now))
    oldest_s = ago(oldest, now) if facts["waiting"] else None
    ready_s = ago(number(ready_since), now) if facts["ready"] and ready_since else None
    found = _deferred(deferred)
    return Queue(oldest_s=oldest_s, ready_s=ready_s, differing=differing, deferred=found, **facts)


def _oldest(queues: Sequence[Queue], workers: Sequence[Mapping[str, Any]]) -> dict[str, float]:
    """Return the age of the oldest job that waits, for each list of queues that workers serve.

    All slots of a worker have the same list.
    """
    ages = {own.name: own.oldest_s or 0.0 for own in queues if own.waiting and not own.paused}
    lists = {own["facts"].get("queues", "") for own in workers}
    return {own: max(ages.get(name, 0.0) for name in own.split(",")) for own in lists}


def _gave_up(now: float, counters: Mapping[str, str], waiting: int, since: str) -> GaveUp:
    oldest_s = ago(number(since), now) if waiting and since else None
    return GaveUp(waiting, oldest_s, whole(counters.get(keys.DROPPED_GIVE_UPS)))


def _deferred(rows: Sequence[Sequence[str]]) -> Deferred | None:
    """Return what the rows of snapshot.lua say about deferred jobs, if there are any."""
    if not rows:
        return None
    since, why = min((number(since), why) for _, why, since in rows)
    return Deferred(sorted({task for task, _, _ in rows}), why, since)
