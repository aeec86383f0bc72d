"""One reading of everything that an operator asks about.

snapshot.lua reads, checks.py finds the problems, status_view.py and metrics.py print.
"""

from __future__ import annotations

import json
import re
from collections import Counter
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

from werk.ops.server import Server, read_server
from werk.ops.successors import succeeded
from werk.printable import listed
from werk.store import keys
from werk.store.connection import Link
from werk.store.limits import DEFER_S
from werk.store.replies import cluster_error, is_cluster
from werk.store.scripts import script
from werk.tasks import catalog_page

RQ_SPARE_S = 50.0  # RQ keeps a worker's record for 60 s after its next beat (Worker.heartbeat)
RQ_TTL_S = 480.0  # RQ's default, for a record without a time to live
DROPPED_S = 60.0  # log lines that were dropped longer ago are no longer reported
FARTHEST_S = 1e9
MOST = 1e15  # larger numbers in a record are neither a count nor a time
STATES = ("started", "suspended", "busy", "idle")  # RQ's
WERK, PLAIN_RQ = "werk", "rq"  # kinds of workers

_CONSTANTS = (catalog_page.SERVED_S, catalog_page.MOST_SERVED, DEFER_S)
_PRELUDE = "local SERVED_S, MOST_SERVED, DEFER_S = {}, {}, {}".format(*_CONSTANTS)
IDLE_S = 10.0  # an idle horse asks for work at least this often (Idle.block_s)


class Deferred(NamedTuple):
    """Jobs that a worker has deferred, because it does not know their task or its arguments."""

    tasks: str
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


class Worker(NamedTuple):
    """A worker. Its state is RQ's (idle, busy, suspended), or draining, stale, hung."""

    name: str
    host: str
    pid: int
    state: str
    job: str | None
    job_s: float | None
    beat_s: float
    done: int
    failed: int
    queues: Sequence[str]
    kind: str  # WERK or PLAIN_RQ
    free: bool  # it runs any path (WERK_ALLOW_UNREGISTERED)
    clock_s: float  # how far its host's clock is ahead of Redis's
    dropped: int = 0  # log lines, if it has dropped any within DROPPED_S
    replaced: str = ""  # a method of RQ's loop that its class replaces, so that RQ's loop runs
    born: float = 0.0  # Redis's time
    expires_s: int = -1  # until Redis removes its record if it stays silent; less than 0: never
    owes: bool = True  # if it is stale: others may still have to rescue its job
    successor: str = ""  # if it is stale and owes nothing: the live worker that has replaced it

    @property
    def is_live(self) -> bool:
        return self.state != "stale"


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

    @classmethod
    def read(cls, link: Link) -> Snapshot:
        """Read a snapshot, in at most two round trips. Raises RedisUnavailable, ConfigError."""
        command = ("EVAL", script("snapshot", prelude=_PRELUDE).text, 0)
        reply, pages, info = link.calls([command, catalog_page.command(), ("INFO",)])
        if is_cluster(info):
            raise cluster_error(link.where)
        seen = json.loads(keys.text(reply))
        now = seen["time"]
        queues = [_queue(now, **facts) for facts in seen["queues"]]
        waiting = [own for own in queues if own.waiting and not own.paused]
        workers = succeeded(now, [_worker(now, waiting, **own) for own in seen["workers"]])
        live = Counter(name for own in workers if own.is_live for name in own.queues)
        counted = {own.name: own._replace(workers=live[own.name]) for own in queues}
        server = read_server(link, keys.text(info), seen["suspended"])
        read = catalog_page.pages(pages)
        counters = seen["counters"]
        gave_up = _gave_up(now, counters, *seen["gave_up"])
        return cls(now, server, counted, workers, counters, [*seen["damaged"]], read, gave_up)

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
    oldest_s = _ago(oldest, now) if facts["waiting"] else None
    ready_s = _ago(number(ready_since), now) if facts["ready"] and ready_since else None
    found = _deferred(deferred)
    return Queue(oldest_s=oldest_s, ready_s=ready_s, differing=differing, deferred=found, **facts)


def _gave_up(now: float, counters: Mapping[str, str], waiting: int, since: str) -> GaveUp:
    oldest_s = _ago(number(since), now) if waiting and since else None
    return GaveUp(waiting, oldest_s, whole(counters.get(keys.DROPPED_GIVE_UPS)))


def _deferred(rows: Sequence[Sequence[str]]) -> Deferred | None:
    """Return what the rows of snapshot.lua say about deferred jobs, if there are any."""
    if not rows:
        return None
    since, why = min((number(since), why) for _, why, since in rows)
    return Deferred(listed(sorted({task for task, _, _ in rows})), why, since)


def _worker(
    now: float,
    waiting: Sequence[Queue],
    *,
    name: str,
    run: str,
    since: str,
    lease: str,
    ttl: int,
    facts: Mapping[str, str],
) -> Worker:
    served, job = facts.get("queues", "").split(","), run.rpartition(":")[0] or None
    oldest_s = max((queue.oldest_s or 0 for queue in waiting if queue.name in served), default=0)
    beat = keys.moment(facts.get("last_heartbeat"), now)
    clock_s = min(FARTHEST_S, max(0.0, beat - now))  # plain RQ publishes only the beat
    if lease or facts.get("werk_clock"):  # by Redis's clock; the worker's may be wrong
        clock_s = _ahead(facts)
        beat = number(lease) - number(facts.get("werk_lease")) if lease else beat - clock_s
    born = keys.moment(facts["birth"], now + clock_s) - clock_s
    return Worker(
        name=name,
        host=facts.get("hostname") or "?",
        pid=whole(facts.get("pid")),
        state=_state(now, born, oldest_s, facts, bool(job), beat, ttl),
        job=job,
        job_s=_ago(number(since) - clock_s, now) if job and since else None,
        beat_s=_ago(beat, now),
        done=whole(facts.get("successful_job_count")),
        failed=whole(facts.get("failed_job_count")),
        queues=served,
        kind=WERK if "werk_lease" in facts else PLAIN_RQ,
        free=facts.get("werk_free") == "1",
        clock_s=clock_s,
        dropped=_dropped(now, facts),
        replaced=facts.get("werk_rq_loop", "")[:100],
        born=born,
        expires_s=ttl,
        owes=job is not None or "werk_lease" not in facts,
    )


def _ahead(facts: Mapping[str, str]) -> float:
    """Return how far a worker's clock is ahead of Redis's, in seconds."""
    return max(-FARTHEST_S, min(FARTHEST_S, number(facts.get("werk_clock"))))


def _dropped(now: float, facts: Mapping[str, str]) -> int:
    """Return how many log lines a worker has dropped, 0 if it dropped none within DROPPED_S."""
    count, _, since = facts.get("werk_lines_dropped", "").partition("|")
    return whole(count) if now - number(since) < DROPPED_S else 0


def _state(
    now: float,
    born: float,
    oldest_s: float,
    facts: Mapping[str, str],
    has_job: bool,
    beat: float,
    ttl: int,
) -> str:
    """Return RQ's state of a worker, or what is wrong with it."""
    if "werk_lease" in facts:
        lease_s = number(facts["werk_lease"])
        is_silent = now - beat > lease_s or "werk_horse" not in facts
        if is_silent and now - born > lease_s:
            return "stale"
        limit_s = lease_s if oldest_s > lease_s else IDLE_S + lease_s
        if not has_job and now - (number(facts.get("werk_moved")) or born) > limit_s:
            return "hung"
    elif ttl < RQ_SPARE_S if ttl >= 0 else now - beat > RQ_TTL_S:
        return "stale"
    if facts.get("werk_draining") or facts.get("shutdown_requested_date"):
        return "draining"
    state = facts.get("state") or "starting"
    if "werk_lease" in facts and state in ("busy", "idle"):
        # A horse writes its state now and then, and its execution with each job.
        return "busy" if has_job else "idle"
    return state if state in (*STATES, "starting") else "unknown"


def number(text: str | None) -> float:
    """Return the number in a field of a record; 0 if it is not a number, or too large."""
    try:
        found = float(text or 0)
    except ValueError:
        return 0.0
    return found if -MOST <= found <= MOST else 0.0


def whole(text: str | None) -> int:
    """Return the count in a field of a record; 0 if it is not one."""
    return int(text) if text and re.fullmatch(r"[0-9]{1,15}", text) else 0


def _ago(then: float, now: float) -> float:
    return round(min(max(0.0, now - then), now), 3)  # a record may have any time, even infinity
