"""One reading of everything that an operator asks about: `werk status`, --json, --check, /metrics.

look.lua reads, Snapshot judges; the rest of the module only says the same thing in three ways.
"""

from __future__ import annotations

import json
import re
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from datetime import datetime, timezone
from typing import Any, NamedTuple

from werk.errors import ArgumentError, ConfigError, RedisUnavailable
from werk.printable import listed, printable
from werk.store import payload as wire
from werk.store.connection import Link, cluster_error, is_cluster
from werk.store.scripts import script
from werk.tasks import catalog_page

SCHEMA = 1
OK, WARNING, CRITICAL = "ok", "warning", "critical"
CHECK_EXITS = {OK: 0, WARNING: 1, CRITICAL: 2}

MEMORY_PART = 0.8  # of what Redis may use; above it there is little time left
RQ_SPARE_S = 50.0  # RQ has a worker's record outlive its next beat by 60 (Worker.heartbeat)
RQ_TTL_S = 480.0  # of a record that RQ forgot to give one: its default
READY_S = 30.0  # a tick enqueues what RQ has left after 3 s
DROPPED_S = 60.0  # lines dropped longer ago are no problem any more
CLOCK_S = 5.0  # a clock may differ from Redis's; plain RQ, which compares clocks, bears 60
FARTHEST_S = 1e9
MOST = 1e15  # a number in a record: more is no count and no time
LONGEST_CELL = 200  # characters in a column
STATES = ("started", "suspended", "busy", "idle")  # RQ's
IDLE_S = 10.0  # horse.BLOCK_S: an idle horse asks for work at least so often


class Limit(NamedTuple):
    """From where on a number is a warning, or critical; None: never."""

    warning: float | None = None
    critical: float | None = None

    @classmethod
    def parse(cls, text: str) -> Limit:
        """Return the limit in 'WARN:CRIT', ':CRIT', 'WARN:' or 'CRIT'. Raises ArgumentError."""
        found = re.fullmatch(r"(?:(\d*\.?\d+)?:)?(\d*\.?\d+)?", text)
        if not found or not text:
            raise ArgumentError(f"{text!r} is no limit; say WARN:CRIT, :CRIT or CRIT")
        first, last = (None if part is None else float(part) for part in found.groups())
        if first is not None and last is not None and first > last:
            raise ArgumentError(f"{text!r}: the warning comes first, WARN:CRIT")
        return cls(first, last)

    def level(self, number: float) -> str:
        """Return what a number is."""
        if self.critical is not None and number > self.critical:
            return CRITICAL
        return WARNING if self.warning is not None and number > self.warning else OK

    def __str__(self) -> str:
        """In the perfdata of a monitoring plugin: warn;crit."""
        return ";".join("" if part is None else f"{part:g}" for part in self)


class Limits(NamedTuple):
    """What --check is told; the age has a limit in any case."""

    age_s: Limit = Limit(None, 300)
    waiting: Limit = Limit()
    failed: Limit = Limit()
    min_workers: int = 0


DEFAULT_LIMITS = Limits()


class Problem(NamedTuple):
    """What is wrong, and what to do."""

    level: str
    what: str
    fix: str


class Server(NamedTuple):
    """The Redis server."""

    where: str
    version: str
    memory: int  # bytes
    memory_limit: int  # 0: not known
    policy: str
    aof: bool
    fsync: str | None  # of the AOF: everysec, always, no; None: it does not tell
    rdb: bool | None  # None: it does not tell
    suspended: bool  # all workers, by `rq suspend`
    replicas: int = 0  # that are connected
    min_replicas: int | None = None  # without so many it takes no writes; None: it does not tell


class Queue(NamedTuple):
    """A queue."""

    name: str
    waiting: int
    oldest_s: float | None  # age of the oldest that waits
    running: int
    scheduled: int
    failed: int
    paused: bool
    left: int  # executions of workers that are gone
    in_hand: int  # taken by a stock worker and not begun
    ready: int  # dependents whose parents have finished, not yet enqueued
    ready_s: float | None  # since there are some; None: no live worker has seen any
    differing: str  # tasks that its workers define differently
    workers: int = 0  # that live


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
    kind: str  # werk or stock
    free: bool  # it runs any path (WERK_ALLOW_UNREGISTERED)
    clock_s: float  # its host's clock is ahead of Redis's
    dropped: int = 0  # log lines, if it has dropped any lately
    replaced: str = ""  # a method of RQ's loop that its class replaces, so that RQ's loop runs

    @property
    def is_live(self) -> bool:
        return self.state != "stale"


class Snapshot(NamedTuple):
    """One reading."""

    time: float  # Redis's
    server: Server
    queues: Mapping[str, Queue]
    workers: Sequence[Worker]
    tallies: Mapping[str, str]  # what horses have counted: "<task>|<what>" -> number
    damaged: Sequence[str]  # keys that cannot be read
    pages: catalog_page.Pages

    @classmethod
    def read(cls, link: Link) -> Snapshot:
        """Read it, in at most two round trips. Raises RedisUnavailable, ConfigError."""
        look = ("EVAL", script("look").text, 0)
        reply, pages, info = link.calls([look, catalog_page.command(), ("INFO",)])
        if is_cluster(info):
            raise cluster_error(link.where)
        seen = json.loads(wire.text(reply))
        now = seen["time"]
        queues = [_queue(now, **facts) for facts in seen["queues"]]
        waiting = [own for own in queues if own.waiting and not own.paused]
        workers = [_worker(now, waiting, **facts) for facts in seen["workers"]]
        live = Counter(name for own in workers if own.is_live for name in own.queues)
        counted = {own.name: own._replace(workers=live[own.name]) for own in queues}
        server = _server(link, wire.text(info), seen["suspended"])
        read = catalog_page.pages(pages)
        return cls(now, server, counted, workers, seen["tallies"], [*seen["damaged"]], read)

    @property
    def failed_webhooks(self) -> int:
        """Return how many webhooks failed or were left out, since the horses began to count."""
        return _whole(self.tallies.get(wire.FAILED_WEBHOOKS))

    def problems(self, limits: Limits = DEFAULT_LIMITS) -> list[Problem]:
        """Return what is wrong, the worst first."""
        found = [*_of_server(self.server), *_of_workers(self.workers, limits), *_of_keys(self)]
        for queue in self.queues.values():
            found += _of_queue(queue, self, limits)
        return sorted(found, key=lambda problem: problem.level != CRITICAL)

    def as_json(self, limits: Limits = DEFAULT_LIMITS) -> dict[str, Any]:
        """Return it as `werk status --json` prints it. Keys may be added, or SCHEMA is another."""
        of_queue = "waiting oldest_s running scheduled ready failed paused workers".split()
        of_worker = "name host pid state job job_s beat_s done failed queues kind clock_s".split()
        return {
            "schema": SCHEMA,
            "time": datetime.fromtimestamp(self.time, timezone.utc).isoformat(timespec="seconds"),
            "redis": self.server._asdict(),
            "queues": {
                name: {key: getattr(own, key) for key in of_queue}
                for name, own in self.queues.items()
            },
            "workers": [{key: getattr(own, key) for key in of_worker} for own in self.workers],
            "failed_webhooks": self.failed_webhooks,
            "problems": [problem._asdict() for problem in self.problems(limits)],
        }


def check(snapshot: Snapshot, limits: Limits) -> tuple[int, str]:
    """Return exit code and line of `werk status --check`, as monitoring plugins print it."""
    problems, queues = snapshot.problems(limits), snapshot.queues.values()
    said = [f"{problem.what} ({problem.fix})" for problem in problems] or [
        f"{q.name}: {q.waiting} waiting, oldest {_age(q.oldest_s or 0)}, {q.workers} workers, "
        f"{q.failed} failed{', paused' * q.paused}"
        for q in queues
    ]
    level = problems[0].level if problems else OK
    code, line = verdict(level, "; ".join(said) or "no queue yet")
    oldest = max((q.oldest_s or 0 for q in queues), default=0)
    perfdata = (
        f"waiting={sum(q.waiting for q in queues)};{limits.waiting}",
        f"oldest={oldest:.0f}s;{limits.age_s}",
        f"workers={sum(own.is_live for own in snapshot.workers)};;{limits.min_workers or ''}",
        f"failed={sum(q.failed for q in queues)};{limits.failed}",
    )
    return code, " ".join([line, "|", *(fact.rstrip(";") for fact in perfdata)])


def check_here(link: Link, host: str) -> tuple[int, str]:
    """Return exit code and line of `werk status --here`: is there a worker of this host, and well?

    A Redis that is away is no fault of theirs: nobody should restart them for it.
    """
    try:
        workers = [own for own in Snapshot.read(link).workers if own.host == host]
    except RedisUnavailable as error:
        return verdict(OK, f"not known: {error}")
    bad = [f"worker {own.name} is {own.state}" for own in workers if own.state in ("stale", "hung")]
    if bad or not workers:
        return verdict(CRITICAL, "; ".join(bad) or f"no worker on {host}")
    return verdict(OK, f"{len(workers)} workers on {host}")


def verdict(level: str, said: str) -> tuple[int, str]:
    """Return exit code and line of a check that found this."""
    line = "".join(c if c.isprintable() and c != "|" else "?" for c in said)  # perfdata follows a |
    return CHECK_EXITS[level], f"WERK {level.upper()} - {line}"


# --- reading


def _server(link: Link, info: str, suspended: bool) -> Server:
    facts = dict(line.partition(":")[::2] for line in info.splitlines())
    aof = facts.get("aof_enabled") == "1"
    names = ("appendfsync" if aof else "save", "min-replicas-to-write")
    try:  # INFO does not tell these; nor may a managed server
        settings = [wire.pairs(own) for own in link.calls([("CONFIG", "GET", n) for n in names])]
    except ConfigError:
        settings = [{}, {}]
    kept, least = (
        wire.text(found[name.encode()]) if name.encode() in found else None
        for name, found in zip(names, settings, strict=True)
    )
    program = "valkey" if "valkey_version" in facts else facts.get("server_name", "redis")
    return Server(
        where=link.where,
        version=f"{program} {facts.get('valkey_version') or facts.get('redis_version', '?')}",
        memory=int(facts.get("used_memory", 0)),
        memory_limit=int(facts.get("maxmemory", 0)) or int(facts.get("total_system_memory", 0)),
        policy=facts.get("maxmemory_policy", "?"),
        aof=aof,
        fsync=kept if aof else None,
        rdb=None if aof or kept is None else bool(kept),
        suspended=suspended,
        replicas=int(facts.get("connected_slaves", 0)),
        min_replicas=None if least is None else int(least),
    )


def _queue(
    now: float,
    *,
    since: float | None,
    since_by_rq: str,
    ready_since: str,
    served: Sequence[str],
    **facts: Any,
) -> Queue:
    versions = Counter(member.partition(" ")[0] for member in served)
    differing = listed([task for task, count in versions.items() if count > 1])
    oldest = min(now if since is None else since, wire.moment(since_by_rq, now))
    oldest_s = _ago(oldest, now) if facts["waiting"] else None
    ready_s = _ago(_number(ready_since), now) if facts["ready"] and ready_since else None
    return Queue(oldest_s=oldest_s, ready_s=ready_s, differing=differing, **facts)


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
    beat = wire.moment(facts.get("last_heartbeat"), now)
    clock_s = min(FARTHEST_S, max(0.0, beat - now))  # plain RQ tells no more
    if lease:  # by Redis's clock, whatever the worker's says
        beat = _number(lease) - _number(facts.get("werk_lease"))
        clock_s = max(-FARTHEST_S, min(FARTHEST_S, _number(facts.get("werk_clock"))))
    return Worker(
        name=name,
        host=facts.get("hostname") or "?",
        pid=_whole(facts.get("pid")),
        state=_state(now, clock_s, oldest_s, facts, bool(job), beat, ttl),
        job=job,
        job_s=_ago(_number(since) - clock_s, now) if job and since else None,
        beat_s=_ago(beat, now),
        done=_whole(facts.get("successful_job_count")),
        failed=_whole(facts.get("failed_job_count")),
        queues=served,
        kind="werk" if "werk_lease" in facts else "stock",
        free=facts.get("werk_free") == "1",
        clock_s=clock_s,
        dropped=_dropped(now, facts),
        replaced=facts.get("werk_rq_loop", "")[:100],
    )


def _dropped(now: float, facts: Mapping[str, str]) -> int:
    """Return how many log lines a worker has dropped, 0 if none of them within DROPPED_S."""
    number, _, since = facts.get("werk_lines_dropped", "").partition("|")
    return _whole(number) if now - _number(since) < DROPPED_S else 0


def _state(
    now: float,
    clock_s: float,
    oldest_s: float,
    facts: Mapping[str, str],
    has_job: bool,
    beat: float,
    ttl: int,
) -> str:
    """Return RQ's state of a worker, or what is wrong with it."""
    if "werk_lease" in facts:
        lease_s = _number(facts["werk_lease"])
        born = wire.moment(facts["birth"], now + clock_s) - clock_s
        is_silent = now - beat > lease_s or "werk_horse" not in facts
        if is_silent and now - born > lease_s:
            return "stale"
        patience_s = lease_s if oldest_s > lease_s else IDLE_S + lease_s
        if not has_job and now - (_number(facts.get("werk_moved")) or born) > patience_s:
            return "hung"
    elif ttl < RQ_SPARE_S if ttl >= 0 else now - beat > RQ_TTL_S:
        return "stale"
    if facts.get("werk_draining") or facts.get("shutdown_requested_date"):
        return "draining"
    state = facts.get("state") or "starting"
    return state if state in (*STATES, "starting") else "unknown"


def _number(text: str | None) -> float:
    """Return the number that a text in a record stands for; 0 for one that is none or too large."""
    try:
        number = float(text or 0)
    except ValueError:
        return 0.0
    return number if -MOST <= number <= MOST else 0.0


def _whole(text: str | None) -> int:
    return int(text) if text and re.fullmatch(r"[0-9]{1,15}", text) else 0


def _ago(then: float, now: float) -> float:
    return round(min(max(0.0, now - then), now), 3)  # a time may be anything, also infinite


# --- judging


def _of_server(server: Server) -> Iterator[Problem]:
    if server.policy not in ("noeviction", "?"):
        fix = "CONFIG SET maxmemory-policy noeviction, and in its configuration"
        yield Problem(CRITICAL, f"Redis may evict jobs ({server.policy})", fix)
    if not server.aof and server.rdb is False:
        fix = "CONFIG SET appendonly yes, and in its configuration"
        yield Problem(WARNING, "Redis keeps nothing on disk", fix)
    if server.replicas and server.min_replicas == 0:
        what = "Redis has a replica and no min-replicas-to-write: a failover can lose more than 1 s"
        fix = "CONFIG SET min-replicas-to-write 1 and min-replicas-max-lag 2, also in the files"
        yield Problem(WARNING, what, fix)
    if server.memory_limit and server.memory > MEMORY_PART * server.memory_limit:
        part = f"{server.memory / server.memory_limit:.0%} of {_size(server.memory_limit)}"
        fix = "give it more, or keep results for a shorter time"
        yield Problem(WARNING, f"Redis's memory is nearly full: {part}", fix)


def _of_keys(snapshot: Snapshot) -> Iterator[Problem]:
    if snapshot.damaged:
        what = f"{len(snapshot.damaged)} keys that werk cannot read: {listed(snapshot.damaged)}"
        yield Problem(WARNING, what, "look with TYPE; rename or delete what is not RQ's or werk's")
    if snapshot.pages.damaged:
        fix = "restart a worker that serves the task, or HDEL the field"
        yield Problem(WARNING, snapshot.pages.problem(), fix)


def _of_workers(workers: Sequence[Worker], limits: Limits) -> Iterator[Problem]:
    live = [worker for worker in workers if worker.is_live]
    if len(live) < limits.min_workers:
        what = f"{len(live)} workers, not {limits.min_workers}"
        yield Problem(CRITICAL, what, "start more: werk worker")
    for worker in workers:
        at, process = f"worker {worker.name}", f"process {worker.pid} on {worker.host}"
        if worker.state == "stale":
            what = f"{at} is stale: silent for {_age(worker.beat_s)}"
            yield Problem(WARNING, what, f"look at {process}: frozen, cut off or killed")
        if worker.state == "hung":
            what = f"{at} is hung: it beats, and takes no jobs"
            yield Problem(WARNING, what, f"kill the child of {process}; it gets another")
        if worker.dropped and worker.is_live:
            what = f"{at}: {worker.dropped} log lines dropped: nobody reads its output"
            yield Problem(
                WARNING, what, f"read the stdout and stderr of {process}, or redirect them"
            )
        if worker.replaced and worker.is_live:
            what = f"{at} runs RQ's loop, because its class replaces {worker.replaced}: "
            what += "a job is lost when the worker is killed"
            yield Problem(WARNING, what, "override perform_job or execute_job in its place")
        if worker.free and worker.is_live:
            what = f"{at} has WERK_ALLOW_UNREGISTERED: runs any code"
            yield Problem(WARNING, what, "register the tasks and unset it")
    clocks = {worker.host: worker.clock_s for worker in live}
    for host, ahead_s in clocks.items():
        if abs(ahead_s) > CLOCK_S:
            way = "ahead of" if ahead_s > 0 else "behind"
            what = f"the clock of {host} is {abs(ahead_s):.0f} s {way} Redis's"
            yield Problem(WARNING, what, "synchronise it (NTP)")
    kinds = {worker.kind: worker.name for worker in live if not worker.replaced}
    if len(kinds) > 1:
        what = f"worker {kinds['stock']} is a stock one: it runs whatever is enqueued"
        yield Problem(WARNING, what, "RQ_WORKER_CLASS=werk.worker.Worker, or werk worker")


def _of_queue(queue: Queue, snapshot: Snapshot, limits: Limits) -> Iterator[Problem]:
    at = f"queue {queue.name}"
    waits = f"{at}: {queue.waiting} waiting"
    stock = [
        worker.name
        for worker in snapshot.workers
        if worker.is_live and worker.kind == "stock" and queue.name in worker.queues
    ]
    if queue.paused:
        if queue.waiting:
            yield Problem(WARNING, f"{waits}, paused", f"werk resume {queue.name}")
        if stock:
            what = f"{at} is paused, but stock worker {stock[0]} goes on"
            yield Problem(WARNING, what, "stop it, or rq suspend")
    elif snapshot.server.suspended:
        if queue.waiting:
            yield Problem(WARNING, f"{waits}, all workers suspended", "rq resume")
    elif queue.waiting and not queue.workers:
        yield Problem(CRITICAL, f"{waits} and no worker", f"werk worker {queue.name}")
    elif (level := limits.age_s.level(queue.oldest_s or 0)) != OK:
        what = f"{at}: the oldest has waited {_age(queue.oldest_s)}"
        yield Problem(level, what, "start more workers, or see what they are at")
    if not queue.paused and (level := limits.waiting.level(queue.waiting)) != OK:
        yield Problem(level, waits, "start more workers")
    if (level := limits.failed.level(queue.failed)) != OK:
        yield Problem(level, f"{at}: {queue.failed} failed", f"werk failed --queue {queue.name}")
    if queue.ready and (not queue.workers or (queue.ready_s or 0) > READY_S):
        what = f"{at}: {queue.ready} dependents are ready and not enqueued"
        yield Problem(WARNING, what, f"werk worker {queue.name}, or werk repair")
    if queue.left or queue.in_hand > len(stock):
        what = f"{at}: {queue.left + queue.in_hand} jobs left by workers that are gone"
        yield Problem(WARNING, what, "werk repair")
    if queue.differing:
        what = f"{at}: its workers differ about {queue.differing}"
        yield Problem(WARNING, what, "finish the deploy: restart the older workers")


# --- printing


def table(snapshot: Snapshot, limits: Limits = DEFAULT_LIMITS) -> str:
    """Return it as `werk status` prints it."""
    server = snapshot.server
    limit = f" of {_size(server.memory_limit)}" if server.memory_limit else ""
    facts = [f"redis {server.version} at {server.where}", f"{_size(server.memory)}{limit}"]
    kept = {True: "RDB only", False: "keeps nothing", None: "no AOF"}[server.rdb]
    if server.aof:
        kept = f"AOF {server.fsync or ''}".rstrip()
    facts += [server.policy, kept, *["all suspended"] * server.suspended]
    has_ready = any(queue.ready for queue in snapshot.queues.values())
    queues = [_queue_row(queue, has_ready) for queue in snapshot.queues.values()]
    workers = [_worker_row(worker) for worker in snapshot.workers]
    count = snapshot.failed_webhooks
    webhooks = f"{count} webhooks failed or were left out: event=webhook-failed in workers' logs"
    lines = [
        ", ".join(facts),
        "",
        *_columns(_queue_head(has_ready), queues),
        "",
        *_columns("worker state beat done failed kind queues job".split(), workers),
        "",
        *[webhooks, ""] * bool(count),
        *(f"{own.level}: {own.what}: {own.fix}" for own in snapshot.problems(limits)),
    ]
    return "\n".join(map(printable, lines)).rstrip()


def _queue_head(has_ready: bool) -> Sequence[str]:
    ready = ["ready"] * has_ready  # a column that is rarely of any use
    return [*"queue waiting oldest running scheduled".split(), *ready, "failed", "workers"]


def _queue_row(own: Queue, has_ready: bool) -> Sequence[object]:
    ready = [own.ready] * has_ready
    workers = "paused" if own.paused else own.workers
    counts = (own.running, own.scheduled, *ready, own.failed)
    return own.name, own.waiting, _age(own.oldest_s), *counts, workers


def _worker_row(own: Worker) -> Sequence[object]:
    job = f"{own.job} for {_age(own.job_s)}" if own.job else ""
    facts = (own.done, own.failed, own.kind, ",".join(own.queues))
    return own.name, own.state, _age(own.beat_s), *facts, job


def _columns(head: Sequence[str], rows: Sequence[Sequence[object]]) -> list[str]:
    """Return lines in columns, numbers on the right; none without rows."""
    if not rows:
        return [f"no {head[0]}"]
    columns = []
    for title, *values in zip(head, *rows, strict=True):
        cells = [title, *(_cell(str(value)) for value in values)]
        justify = str.rjust if any(isinstance(value, int) for value in values) else str.ljust
        width = max(map(len, cells))
        columns.append([justify(cell, width) for cell in cells])
    return ["  ".join(cells).rstrip() for cells in zip(*columns, strict=True)]


def _cell(text: str) -> str:
    """Return a name as it fits a table: on one line, and not for ever."""
    cut = text if len(text) <= LONGEST_CELL else f"{text[:LONGEST_CELL]}..."
    return printable(cut)


def _age(seconds: float | None) -> str:
    """Return a duration in one unit: 7s, 12m, 3h, 2d."""
    if seconds is None:
        return ""
    for size, unit in ((86400, "d"), (3600, "h"), (60, "m")):
        if seconds >= 2 * size:
            return f"{seconds // size:.0f}{unit}"
    return f"{seconds:.0f}s"


def _size(count: int) -> str:
    return f"{count / 2**30:.0f} GiB" if count >= 10 * 2**30 else f"{count / 2**20:.0f} MiB"


# --- metrics

_OF_A_QUEUE = (
    ("waiting", "waiting", "Jobs that wait"),
    ("oldest_seconds", "oldest_s", "Age of the oldest job that waits"),
    ("running", "running", "Jobs that run"),
    ("scheduled", "scheduled", "Jobs that are due later"),
    ("ready", "ready", "Dependents that are ready and not yet enqueued"),
    ("failed", "failed", "Failed jobs that are kept"),
    ("paused", "paused", "1 for a paused queue"),
    ("workers", "workers", "Workers that live"),
)


def metrics(link: Link) -> str:
    """Return the metrics in Prometheus's text format. Raises RedisUnavailable, ConfigError."""
    snapshot = Snapshot.read(link)
    queues, workers = snapshot.queues.values(), snapshot.workers
    lines = []
    for name, key, text in _OF_A_QUEUE:
        numbers = {_labels(queue=own.name): getattr(own, key) or 0 for own in queues}
        lines += _family(f"werk_queue_{name}", text, numbers)
    states = Counter(_labels(kind=own.kind, state=own.state) for own in workers)
    lines += _family("werk_workers", "Workers by kind and state", states)
    slowest_last = sorted(workers, key=lambda own: own.beat_s)
    lines += _family(
        "werk_worker_beat_seconds_max",
        "Since the beat of the worker that has been silent the longest",
        {_labels(kind=own.kind): own.beat_s for own in slowest_last},
    )
    levels = Counter(problem.level for problem in snapshot.problems())
    problems = {_labels(level=level): levels[level] for level in (WARNING, CRITICAL)}
    lines += _family("werk_problems", "What `werk status` complains of", problems)
    failed_webhooks = {"": snapshot.failed_webhooks}
    text = "Webhooks that failed or were left out"
    lines += _family("werk_failed_webhooks_total", text, failed_webhooks, "counter")
    damaged = {"key": len(snapshot.damaged), "page": len(snapshot.pages.damaged)}
    counts = {_labels(kind=kind): count for kind, count in damaged.items()}
    lines += _family("werk_damaged", "Keys and entries of the catalog that cannot be read", counts)
    memory = {"": snapshot.server.memory}
    lines += _family("werk_redis_memory_bytes", "Memory that Redis uses", memory)
    return "\n".join([*lines, *_executions(snapshot.tallies)]) + "\n"


def _executions(tallies: Mapping[str, str]) -> list[str]:
    """What horses have counted (worker.counters): executions and how long they took."""
    outcomes, durations = {}, {}
    for task in sorted({field.rpartition("|")[0] for field in tallies if "|" in field}):
        counts = {
            what: max(0.0, _number(tallies.get(f"{task}|{what}")))
            for what in ("done", "failed", "seconds", *map(str, wire.TALLY_BOUNDS_S), "+Inf")
        }
        for outcome in ("done", "failed"):
            outcomes[_labels(task=task, outcome=outcome)] = counts[outcome]
        total = 0.0
        for bound in (*map(str, wire.TALLY_BOUNDS_S), "+Inf"):
            total += counts[bound]
            durations[f"_bucket{_labels(task=task, le=bound)}"] = total
        durations[f"_sum{_labels(task=task)}"] = counts["seconds"]
        durations[f"_count{_labels(task=task)}"] = total
    return [
        *_family("werk_executions_total", "Executions by task and outcome", outcomes, "counter"),
        *_family("werk_execution_seconds", "How long executions took", durations, "histogram"),
    ]


def _family(name: str, text: str, samples: Mapping[str, float], kind: str = "gauge") -> list[str]:
    """Return the lines of a metric; a sample is called what follows the name, mostly labels."""
    numbers = (f"{name}{labels} {value:.10g}" for labels, value in samples.items())
    return [f"# HELP {name} {text}", f"# TYPE {name} {kind}", *numbers]


def _labels(**labels: str) -> str:
    escape = str.maketrans({"\\": r"\\", "\n": r"\n", '"': r"\""})
    inner = ",".join(f'{name}="{text.translate(escape)}"' for name, text in labels.items())
    return f"{{{inner}}}"
