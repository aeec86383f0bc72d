"""One reading of everything that an operator asks about: `werk status`, --json, --check, /metrics.

look.lua reads, Snapshot judges; the rest of the module only says the same thing in three ways.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from datetime import datetime, timezone
from typing import Any, NamedTuple

from werk import wire
from werk.errors import ArgumentError, ConfigError, RedisUnavailable, WerkError
from werk.link import Link
from werk.scripts import script

SCHEMA = 1
OK, WARNING, CRITICAL = "ok", "warning", "critical"
CHECK_EXITS = {OK: 0, WARNING: 1, CRITICAL: 2}
CHECK_USAGE = 3  # of --check itself, as monitoring plugins have it

MEMORY_PART = 0.8  # of what Redis may use; above it there is little time left
IDLE_S = 60.0  # horse.BLOCK_S: an idle horse asks for work at least so often
TALLIES = wire.key("werk", "tallies")


class Limit(NamedTuple):
    """From where on a number is a warning, or critical; None: never."""

    warning: float | None = None
    critical: float | None = None

    @classmethod
    def parse(cls, text: str) -> Limit:
        """Return the limit in 'WARN:CRIT', ':CRIT', 'WARN:' or 'CRIT'. Raises ArgumentError."""
        warning, colon, critical = text.partition(":")
        try:
            first, second = (float(part) if part else None for part in (warning, critical))
        except ValueError:
            raise ArgumentError(f"{text!r} is no limit; say WARN:CRIT, :CRIT or CRIT") from None
        return cls(first, second) if colon else cls(None, first)

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
    rdb: bool | None  # None: it does not tell


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
    differing: Sequence[str]  # tasks that its workers define differently
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

    @property
    def is_live(self) -> bool:
        return self.state != "stale"


class Snapshot(NamedTuple):
    """One reading."""

    time: float  # Redis's
    server: Server
    suspended: bool
    queues: Mapping[str, Queue]
    workers: Sequence[Worker]

    @classmethod
    def read(cls, link: Link) -> Snapshot:
        """Read it, in at most two round trips. Raises RedisUnavailable, ConfigError."""
        return _snapshot(link)[0]

    def problems(self, limits: Limits = DEFAULT_LIMITS) -> list[Problem]:
        """Return what is wrong, the worst first."""
        found = _of_server(self.server) + _of_workers(self, limits)
        for queue in self.queues.values():
            found += _of_queue(queue, self, limits)
        return sorted(found, key=lambda problem: problem.level != CRITICAL)

    def as_json(self, limits: Limits = DEFAULT_LIMITS) -> dict[str, Any]:
        """Return it as `werk status --json` prints it. Keys may be added, or SCHEMA is another."""
        queue_keys = "waiting oldest_s running scheduled failed paused workers".split()
        worker_keys = "name host pid state job job_s beat_s done failed queues kind".split()
        return {
            "schema": SCHEMA,
            "time": datetime.fromtimestamp(self.time, timezone.utc).isoformat(timespec="seconds"),
            "redis": {**self.server._asdict(), "suspended": self.suspended},
            "queues": {
                name: {key: getattr(queue, key) for key in queue_keys}
                for name, queue in self.queues.items()
            },
            "workers": [{key: getattr(own, key) for key in worker_keys} for own in self.workers],
            "problems": [problem._asdict() for problem in self.problems(limits)],
        }


def check(snapshot: Snapshot, limits: Limits) -> tuple[int, str]:
    """Return exit code and line of `werk status --check`, as monitoring plugins print it."""
    problems = snapshot.problems(limits)
    level = problems[0].level if problems else OK
    said = "; ".join(f"{problem.what} ({problem.fix})" for problem in problems)
    return CHECK_EXITS[level], f"WERK {level.upper()} - {said or _summary(snapshot)} | " + (
        _perfdata(snapshot, limits)
    )


def check_at(link: Link, limits: Limits) -> tuple[int, str]:
    """Read and check; a Redis that is away is critical, and no error."""
    try:
        return check(Snapshot.read(link), limits)
    except WerkError as error:
        return CHECK_EXITS[CRITICAL], f"WERK CRITICAL - {error}"


def check_here(link: Link, host: str) -> tuple[int, str]:
    """Return exit code and line of `werk status --here`: is there a worker of this host, and well?

    A Redis that is away is no fault of theirs: nobody should restart them for it.
    """
    try:
        workers = [own for own in Snapshot.read(link).workers if own.host == host]
    except RedisUnavailable as error:
        return CHECK_EXITS[OK], f"WERK OK - not known: {error}"
    bad = [own for own in workers if own.state in ("stale", "hung")]
    if bad or not workers:
        said = "; ".join(f"worker {own.name} is {own.state}" for own in bad)
        return CHECK_EXITS[CRITICAL], f"WERK CRITICAL - {said or f'no worker on {host}'}"
    return CHECK_EXITS[OK], f"WERK OK - {len(workers)} workers on {host}"


def table(snapshot: Snapshot, limits: Limits = DEFAULT_LIMITS) -> str:
    """Return it as `werk status` prints it."""
    server = snapshot.server
    limit = f" of {_size(server.memory_limit)}" if server.memory_limit else ""
    facts = [f"redis {server.version} at {server.where}", f"{_size(server.memory)}{limit}"]
    facts += [server.policy, _keeping(server), *["all suspended"] * snapshot.suspended]
    queues = [_queue_row(queue) for queue in snapshot.queues.values()]
    workers = [_worker_row(worker) for worker in snapshot.workers]
    lines = [
        ", ".join(facts),
        "",
        *_columns("queue waiting oldest running scheduled failed workers".split(), queues),
        "",
        *_columns("worker state beat done failed kind queues job".split(), workers),
        "",
        *(f"{own.level}: {own.what}: {own.fix}" for own in snapshot.problems(limits)),
    ]
    return "\n".join(lines).rstrip()


def metrics(link: Link) -> str:
    """Return the metrics in Prometheus's text format. Raises RedisUnavailable, ConfigError."""
    snapshot, tallies = _snapshot(link)
    page, workers = _Page(), snapshot.workers
    for name, key, text in _OF_A_QUEUE:
        numbers = [({"queue": q.name}, getattr(q, key) or 0) for q in snapshot.queues.values()]
        page.add(f"werk_queue_{name}", text, numbers)
    pairs = [(own.kind, own.state) for own in workers]
    page.add(
        "werk_workers",
        "Workers by kind and state",
        [({"kind": kind, "state": s}, pairs.count((kind, s))) for kind, s in sorted(set(pairs))],
    )
    beats: dict[str, float] = {}
    for own in workers:
        beats[own.kind] = max(own.beat_s, beats.get(own.kind, 0.0))
    page.add(
        "werk_worker_beat_seconds_max",
        "Since the beat of the worker that has been silent the longest",
        [({"kind": kind}, beat) for kind, beat in beats.items()],
    )
    levels = [problem.level for problem in snapshot.problems()]
    page.add(
        "werk_problems",
        "What `werk status` complains of",
        [({"level": level}, levels.count(level)) for level in (WARNING, CRITICAL)],
    )
    page.add("werk_redis_memory_bytes", "Memory that Redis uses", [({}, snapshot.server.memory)])
    page.add_tallies(tallies)
    return page.text()


# --- reading


def _snapshot(link: Link) -> tuple[Snapshot, dict[str, float]]:
    """Return a reading, and the tallies that horses keep."""
    (clock, suspended, queues, workers), info, tallies = link.calls(
        [("EVAL", script("look").text, 0), ("INFO",), ("HGETALL", TALLIES)]
    )
    now = float(clock)
    found = [_queue(reply, now) for reply in queues]
    people = [_worker(reply, now, found) for reply in workers]
    live = [name for worker in people if worker.is_live for name in worker.queues]
    snapshot = Snapshot(
        now,
        _server(link, info.decode("utf-8", "replace")),
        bool(suspended),
        {
            queue.name: queue._replace(workers=live.count(queue.name))
            for queue in sorted(found, key=lambda queue: queue.name)
        },
        sorted(people, key=lambda worker: worker.name),
    )
    return snapshot, {_text(name): _number(value) for name, value in wire.pairs(tallies).items()}


def _server(link: Link, info: str) -> Server:
    facts = dict(line.partition(":")[::2] for line in info.splitlines())
    aof = facts.get("aof_enabled") == "1"
    program = "valkey" if "valkey_version" in facts else facts.get("server_name", "redis")
    return Server(
        where=link.where,
        version=f"{program} {facts.get('valkey_version') or facts.get('redis_version', '?')}",
        memory=int(facts.get("used_memory", 0)),
        memory_limit=int(facts.get("maxmemory", 0)) or int(facts.get("total_system_memory", 0)),
        policy=facts.get("maxmemory_policy", "?"),
        aof=aof,
        rdb=None if aof else _saves(link),
    )


def _saves(link: Link) -> bool | None:
    """Tell whether it saves snapshots; INFO does not say so. A managed server may not tell."""
    try:
        reply = link.call("CONFIG", "GET", "save")
    except ConfigError:
        return None
    return bool(reply[1]) if len(reply) == 2 else None


def _queue(reply: Sequence[Any], now: float) -> Queue:
    name, waiting, since, running, scheduled, failed, paused, left, in_hand, differing = reply
    age = now - moment(since, now) if waiting else None
    return Queue(
        _text(name),
        waiting,
        None if age is None else max(0.0, round(age, 3)),
        running,
        scheduled,
        failed,
        bool(paused),
        left,
        in_hand,
        [_text(task) for task in differing],
    )


def _worker(reply: Sequence[Any], now: float, queues: Sequence[Queue]) -> Worker:
    name, fields, lease, job, since = reply
    host, pid, state, birth, beat, served, done, failed, lease_s, free, horse, moved, *leaving = (
        None if field is None else _text(field) for field in fields
    )
    kind = "stock" if lease_s is None else "werk"
    beat_s = now - moment(beat, now)
    if lease is not None:  # by Redis's clock, whatever the worker's says
        beat_s = _number(lease_s) - (float(lease) - now)
    names = (served or "").split(",")
    state = "draining" if any(leaving) else state or "starting"
    if kind == "werk":
        born = moment(birth, now)
        is_silent = lease is None or float(lease) < now or horse is None
        if is_silent and now - born > _number(lease_s):
            state = "stale"
        elif not job and _is_hung(_number(moved) or born, _number(lease_s), now, names, queues):
            state = "hung"
    return Worker(
        _text(name),
        host or "?",
        int(_number(pid)),
        state,
        _text(job) or None,
        round(max(0.0, now - _number(since)), 3) if job and since else None,
        round(max(0.0, beat_s), 3),
        int(_number(done)),
        int(_number(failed)),
        names,
        kind,
        free == "1",
    )


def _is_hung(
    moved: float, lease_s: float, now: float, names: Sequence[str], queues: Sequence[Queue]
) -> bool:
    """Tell whether a horse without a job has not moved on though work waits, or far too long."""
    still_s = now - moved
    if still_s < lease_s:
        return False
    waits = any(
        (queue.oldest_s or 0) > lease_s and not queue.paused
        for queue in queues
        if queue.name in names
    )
    return waits or still_s > IDLE_S + lease_s


def moment(text: bytes | str | None, default: float) -> float:
    """Return a time that RQ or we have written as text."""
    try:
        return datetime.fromisoformat(_text(text or "")).timestamp()
    except ValueError:
        return default


def _number(text: bytes | str | None) -> float:
    try:
        return float(text or 0)
    except ValueError:
        return 0.0


def _text(data: bytes | str) -> str:
    return data if isinstance(data, str) else data.decode("utf-8", "replace")


# --- judging


def _of_server(server: Server) -> list[Problem]:
    found = []
    if server.policy not in ("noeviction", "?"):
        fix = "CONFIG SET maxmemory-policy noeviction, and in its configuration"
        found.append(Problem(CRITICAL, f"Redis may evict jobs ({server.policy})", fix))
    if not server.aof and server.rdb is False:
        fix = "CONFIG SET appendonly yes, and in its configuration"
        found.append(Problem(WARNING, "Redis keeps nothing on disk", fix))
    if server.memory_limit and server.memory > MEMORY_PART * server.memory_limit:
        part = f"{server.memory / server.memory_limit:.0%} of {_size(server.memory_limit)}"
        fix = "give it more, or keep results for a shorter time"
        found.append(Problem(WARNING, f"Redis's memory is nearly full: {part}", fix))
    return found


def _of_workers(snapshot: Snapshot, limits: Limits) -> list[Problem]:
    found = []
    live = [worker for worker in snapshot.workers if worker.is_live]
    if len(live) < limits.min_workers:
        what = f"{len(live)} workers, not {limits.min_workers}"
        found.append(Problem(CRITICAL, what, "start more: werk worker"))
    for worker in snapshot.workers:
        at = f"worker {worker.name}"
        if worker.state == "stale":
            what = f"{at} is stale: silent for {_age(worker.beat_s)}"
            fix = f"look at process {worker.pid} on {worker.host}: frozen, cut off or killed"
            found.append(Problem(WARNING, what, fix))
        if worker.state == "hung":
            fix = f"kill the child of process {worker.pid} on {worker.host}; it gets another"
            found.append(Problem(WARNING, f"{at} is hung: it beats, and takes no jobs", fix))
        if worker.free and worker.is_live:
            fix = "register the tasks and unset it"
            found.append(Problem(WARNING, f"{at} has WERK_ALLOW_UNREGISTERED: runs any code", fix))
    kinds = {worker.kind: worker.name for worker in live}
    if len(kinds) > 1:
        what = f"worker {kinds['stock']} is a stock one: it runs whatever is enqueued"
        found.append(Problem(WARNING, what, "RQ_WORKER_CLASS=werk.worker.Worker, or werk worker"))
    return found


def _of_queue(queue: Queue, snapshot: Snapshot, limits: Limits) -> list[Problem]:
    found, at = [], f"queue {queue.name}"
    waits = f"{at}: {queue.waiting} waiting"
    listening = [own for own in snapshot.workers if own.is_live and queue.name in own.queues]
    stock = [worker for worker in listening if worker.kind == "stock"]
    if queue.paused:
        if queue.waiting:
            found.append(Problem(WARNING, f"{waits}, paused", f"werk resume {queue.name}"))
        if stock:
            what = f"{at} is paused, but stock worker {stock[0].name} goes on"
            found.append(Problem(WARNING, what, "stop it, or rq suspend"))
    elif snapshot.suspended:
        if queue.waiting:
            found.append(Problem(WARNING, f"{waits}, all workers suspended", "rq resume"))
    elif queue.waiting and not listening:
        found.append(Problem(CRITICAL, f"{waits} and no worker", f"werk worker {queue.name}"))
    elif (level := limits.age_s.level(queue.oldest_s or 0)) != OK:
        what = f"{at}: the oldest has waited {_age(queue.oldest_s)}"
        found.append(Problem(level, what, "start more workers, or see what they are at"))
    if (level := limits.waiting.level(queue.waiting)) != OK:
        found.append(Problem(level, waits, "start more workers"))
    if (level := limits.failed.level(queue.failed)) != OK:
        what = f"{at}: {queue.failed} failed"
        found.append(Problem(level, what, f"werk failed --queue {queue.name}"))
    if queue.left or queue.in_hand > len(stock):
        what = f"{at}: {queue.left + queue.in_hand} jobs left by workers that are gone"
        found.append(Problem(WARNING, what, "werk repair"))
    if queue.differing:
        what = f"{at}: its workers differ about {', '.join(queue.differing)}"
        found.append(Problem(WARNING, what, "finish the deploy: restart the older workers"))
    return found


# --- printing


def _summary(snapshot: Snapshot) -> str:
    return "; ".join(_words(queue) for queue in snapshot.queues.values()) or "no queue yet"


def _words(queue: Queue) -> str:
    oldest = f"oldest {_age(queue.oldest_s or 0)}"
    words = [f"{queue.name}: {queue.waiting} waiting", oldest, f"{queue.workers} workers"]
    return ", ".join([*words, f"{queue.failed} failed", *["paused"] * queue.paused])


def _perfdata(snapshot: Snapshot, limits: Limits) -> str:
    queues = snapshot.queues.values()
    waiting, failed = (sum(getattr(q, name) for q in queues) for name in ("waiting", "failed"))
    oldest = max((q.oldest_s or 0 for q in queues), default=0)
    live = sum(worker.is_live for worker in snapshot.workers)
    facts = [f"waiting={waiting};{limits.waiting}", f"oldest={oldest:.0f}s;{limits.age_s}"]
    facts += [f"workers={live};;{limits.min_workers or ''}", f"failed={failed};{limits.failed}"]
    return " ".join(fact.rstrip(";") for fact in facts)


def _queue_row(own: Queue) -> list[object]:
    workers = "paused" if own.paused else own.workers
    counts = (own.running, own.scheduled, own.failed)
    return [own.name, own.waiting, _age(own.oldest_s), *counts, workers]


def _worker_row(own: Worker) -> list[object]:
    job = f"{own.job} for {_age(own.job_s)}" if own.job else ""
    facts = (own.done, own.failed, own.kind, ",".join(own.queues), job)
    return [own.name, own.state, _age(own.beat_s), *facts]


def _keeping(server: Server) -> str:
    kept = {True: "RDB only", False: "keeps nothing", None: "no AOF"}[server.rdb]
    return "AOF" if server.aof else kept


def _columns(head: Sequence[str], rows: Sequence[Sequence[object]]) -> list[str]:
    """Return lines in columns, numbers on the right; none without rows."""
    if not rows:
        return [f"no {head[0]}"]
    cells = [list(head), *([str(cell) for cell in row] for row in rows)]
    widths = [max(len(row[at]) for row in cells) for at in range(len(head))]
    is_number = [any(isinstance(row[at], int) for row in rows) for at in range(len(head))]
    return [
        "  ".join(
            cell.rjust(width) if right else cell.ljust(width)
            for cell, width, right in zip(row, widths, is_number, strict=True)
        ).rstrip()
        for row in cells
    ]


def _age(seconds: float | None) -> str:
    """Return a duration in one unit: 7s, 12m, 3h, 2d."""
    if seconds is None:
        return ""
    for size, unit in ((86400, "d"), (3600, "h"), (60, "m")):
        if seconds >= 2 * size:
            return f"{seconds // size:.0f}{unit}"
    return f"{seconds:.0f}s"


def _size(count: int) -> str:
    unit = "GiB" if count >= 10 * 2**30 else "MiB"
    return f"{count / 2 ** (30 if unit == 'GiB' else 20):.0f} {unit}"


class _Page:
    """Lines of Prometheus's text format."""

    def __init__(self) -> None:
        self.lines: list[str] = []

    def add(
        self,
        name: str,
        text: str,
        samples: Sequence[tuple[Mapping[str, str], float]],
        kind: str = "gauge",
    ) -> None:
        self.lines += [f"# HELP {name} {text}", f"# TYPE {name} {kind}"]
        for labels, value in samples:
            self.sample(name, labels, value)

    def sample(self, name: str, labels: Mapping[str, str], value: float) -> None:
        inner = ",".join(f'{key}="{_escaped(text)}"' for key, text in labels.items())
        self.lines.append(f"{name}{{{inner}}} {value:.10g}" if inner else f"{name} {value:.10g}")

    def add_tallies(self, tallies: Mapping[str, float]) -> None:
        """Add what horses have counted (horse.Horse.tally): executions and how long they took."""
        by_task: dict[str, dict[str, float]] = {}
        for field, value in tallies.items():
            task, _, what = field.rpartition("|")
            by_task.setdefault(task, {})[what] = value
        outcomes = [
            ({"task": task, "outcome": outcome}, counts.get(outcome, 0))
            for task, counts in sorted(by_task.items())
            for outcome in ("done", "failed")
        ]
        self.add("werk_executions_total", "Executions by task and outcome", outcomes, "counter")
        self.add("werk_execution_seconds", "How long executions took", [], "histogram")
        for task, counts in sorted(by_task.items()):
            total = 0.0
            for bound in (*map(str, wire.TALLY_BOUNDS_S), "+Inf"):
                total += counts.get(bound, 0)
                self.sample("werk_execution_seconds_bucket", {"task": task, "le": bound}, total)
            self.sample("werk_execution_seconds_sum", {"task": task}, counts.get("seconds", 0))
            self.sample("werk_execution_seconds_count", {"task": task}, total)

    def text(self) -> str:
        return "\n".join(self.lines) + "\n"


_OF_A_QUEUE = (
    ("waiting", "waiting", "Jobs that wait"),
    ("oldest_seconds", "oldest_s", "Age of the oldest job that waits"),
    ("running", "running", "Jobs that run"),
    ("scheduled", "scheduled", "Jobs that are due later"),
    ("failed", "failed", "Failed jobs that are kept"),
    ("paused", "paused", "1 for a paused queue"),
    ("workers", "workers", "Workers that live"),
)


def _escaped(text: str) -> str:
    return text.replace("\\", "\\\\").replace("\n", "\\n").replace('"', '\\"')
