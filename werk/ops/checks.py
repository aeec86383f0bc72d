"""What is wrong according to a snapshot: problems, and the checks that monitoring calls."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import NamedTuple

from werk.errors import RedisUnavailable
from werk.ops import cron_problems
from werk.ops.limits import CRITICAL, DEFAULT_LIMITS, OK, WARNING, Limits
from werk.ops.numbers import age, size
from werk.ops.server import Server
from werk.ops.slots import PLAIN_RQ
from werk.ops.snapshot import Deferred, GaveUp, Queue, Snapshot
from werk.ops.workers import Worker, older, serve_only_demo
from werk.printable import counted, listed, printable, shell_word, shell_words
from werk.store import keys
from werk.store.connection import Link
from werk.store.limits import UNKNOWN_S
from werk.tasks.catalog import ONLY_DEMO
from werk.tasks.catalog_page import CATALOG

CHECK_EXITS = {OK: 0, WARNING: 1, CRITICAL: 2}

MEMORY_PART = 0.8  # of what Redis may use; above this it may soon be full
READY_S = 30.0  # after 3 s, a tick enqueues the dependents that RQ has left
GAVE_UP_S = 60.0  # a final failure may wait for a handler this long: a worker may run a long job
NOTED_S = 7 * 86400.0  # a refusal that was last noted longer ago may have been fixed
CLOCK_S = 5.0  # plain RQ, which compares the clocks of hosts, tolerates 60 s


class Problem(NamedTuple):
    """What is wrong, and what to do."""

    level: str
    what: str
    fix: str


def problems(snapshot: Snapshot, limits: Limits = DEFAULT_LIMITS) -> list[Problem]:
    """Return what is wrong, the worst first."""
    limits = limits.with_tasks(entry.task for entry in snapshot.pages.entries.values())
    found = [*_of_server(snapshot.server), *_of_workers(snapshot.workers, limits)]
    found += _of_keys(snapshot)
    found += _of_final_failures(snapshot.gave_up)
    found += _of_refusals(snapshot)
    found += (Problem(*problem) for problem in cron_problems.of_cron(snapshot.cron))
    for queue in snapshot.queues.values():
        found += _of_queue(queue, snapshot, limits)
    return sorted(found, key=lambda problem: problem.level != CRITICAL)


def check(snapshot: Snapshot, limits: Limits) -> tuple[int, str]:
    """Return exit code and line of `werk status --check`, as monitoring plugins print it."""
    found, queues = problems(snapshot, limits), snapshot.queues.values()
    parts = [f"{problem.what} ({problem.fix})" for problem in found] or [
        f"{q.name}: {q.waiting} waiting, oldest {age(q.oldest_s or 0)}, "
        f"{counted(q.workers, 'worker')}, "
        f"{q.failed} failed{', paused' * q.paused}"
        for q in queues
    ]
    level = found[0].level if found else OK
    code, line = verdict(level, "; ".join(parts) or "no queue yet")
    oldest = max((q.oldest_s or 0 for q in queues), default=0)
    least = f";;{limits.min_workers}:" if limits.min_workers else ""  # fewer are critical
    perfdata = (
        f"waiting={sum(q.waiting for q in queues)};{limits.waiting}",
        f"oldest={oldest:.0f}s;{limits.age_s}",
        f"workers={sum(own.is_live for own in snapshot.workers)}{least}",
        f"failed={sum(q.failed for q in queues)};{limits.failed}",
    )
    return code, " ".join([line, "|", *(fact.rstrip(";") for fact in perfdata)])


def check_here(link: Link, host: str) -> tuple[int, str]:
    """Return exit code and line of `werk status --here`: are this host's workers alive?

    An unreachable Redis is OK: restarting the workers would not help. A worker is OK while one of
    its slots can run jobs: a restart would stop that slot's job as well.
    """
    try:
        found = Snapshot.read(link).workers
        workers = [own for own in found if own.host == host and not own.successor]
    except RedisUnavailable as error:
        return verdict(OK, f"not known: {error}")
    bad = [
        f"worker {own.name} is {own.state}"
        for own in workers
        if own.count("stale") + own.count("hung") == len(own.slots)
    ]
    if bad or not workers:
        return verdict(CRITICAL, "; ".join(bad) or f"no worker on {host}")
    return verdict(OK, f"{counted(len(workers), 'worker')} on {host}")


def verdict(level: str, text: str) -> tuple[int, str]:
    """Return exit code and line of a check with this level."""
    line = printable(text, "?").replace("|", "?")  # perfdata follows a |
    return CHECK_EXITS[level], f"WERK {level.upper()} - {line}"


def _of_server(server: Server) -> Iterator[Problem]:
    if server.policy not in ("noeviction", "?"):
        fix = "run redis-cli CONFIG SET maxmemory-policy noeviction, and set it in redis.conf"
        yield Problem(CRITICAL, f"Redis may evict jobs ({server.policy})", fix)
    if not server.aof and server.rdb is False:
        fix = "run redis-cli CONFIG SET appendonly yes, and set it in redis.conf"
        yield Problem(WARNING, "Redis keeps nothing on disk", fix)
    if server.replicas and server.min_replicas == 0:
        what = "Redis has a replica and no min-replicas-to-write: a failover can lose more than 1 s"
        fix = "run redis-cli CONFIG SET min-replicas-to-write 1 && "
        fix += "redis-cli CONFIG SET min-replicas-max-lag 2, and set both in redis.conf"
        yield Problem(WARNING, what, fix)
    if server.memory_limit and server.memory > MEMORY_PART * server.memory_limit:
        part = f"{server.memory / server.memory_limit:.0%} of {size(server.memory_limit)}"
        fix = "give Redis more memory, or keep results for a shorter time"
        yield Problem(WARNING, f"Redis's memory is nearly full: {part}", fix)


def _of_keys(snapshot: Snapshot) -> Iterator[Problem]:
    if snapshot.damaged:
        count = counted(len(snapshot.damaged), "key")
        what = f"{count} that werk cannot read: {listed(snapshot.damaged)}"
        fix = "check them with redis-cli TYPE KEY; rename or delete what is not RQ's or werk's"
        yield Problem(WARNING, what, fix)
    if snapshot.pages.damaged:
        names = " ".join(map(shell_word, snapshot.pages.damaged[:5]))
        fix = f"restart a worker that serves it, or run redis-cli HDEL {CATALOG} {names}"
        yield Problem(WARNING, snapshot.pages.problem(), fix)


def _of_refusals(snapshot: Snapshot) -> Iterator[Problem]:
    """Yield which jobs would be refused, while a worker has WERK_ALLOW_UNREGISTERED."""
    if any(worker.free for worker in snapshot.workers if worker.is_live):
        found = [
            own
            for own in snapshot.would_refuse
            if own.last_s < NOTED_S and not own.is_registered(snapshot.pages)
        ]
        count = sum(own.jobs for own in found)
        if count:
            named = listed([f"{own.task} ({own.jobs})" for own in found])
            what = f"{counted(count, 'job')} ran that would be refused without "
            what += f"WERK_ALLOW_UNREGISTERED: {named}"
            yield Problem(WARNING, what, "register the tasks, or change the callers")


def _of_final_failures(gave_up: GaveUp) -> Iterator[Problem]:
    if (gave_up.oldest_s or 0) > GAVE_UP_S:
        wait = "waits" if gave_up.waiting == 1 else "wait"
        what = f"{counted(gave_up.waiting, 'final failure')} {wait} for WERK_ON_GIVE_UP"
        what += f", the first for {age(gave_up.oldest_s)}"
        drop = f"redis-cli DEL {shell_word(keys.key('werk', 'gave-up'))}"
        fix = f"start a worker with WERK_ON_GIVE_UP, or drop the failures: {drop}"
        yield Problem(WARNING, what, fix)


def _of_workers(workers: Sequence[Worker], limits: Limits) -> Iterator[Problem]:
    live = [worker for worker in workers if worker.is_live]
    if len(live) < limits.min_workers:
        least = f"at least {limits.min_workers} {'is' if limits.min_workers == 1 else 'are'}"
        what = f"{counted(len(live), 'live worker')}, {least} required"
        yield Problem(CRITICAL, what, "start more: werk worker")
    for worker in workers:
        yield from _of_health(worker)
    for worker in live:
        yield from _of_setup(worker)
    for host, ahead_s in {worker.host: worker.clock_s for worker in live}.items():
        if abs(ahead_s) > CLOCK_S:
            way = "ahead of" if ahead_s > 0 else "behind"
            what = f"the clock of {host} is {abs(ahead_s):.0f} s {way} Redis's"
            yield Problem(WARNING, what, "synchronise it (NTP)")
    kinds = {worker.kind: worker.name for worker in live if not worker.replaced}
    if len(kinds) > 1:
        what = f"worker {kinds[PLAIN_RQ]} is a plain RQ worker: it runs whatever is enqueued"
        fix = "restart it as werk worker, or with RQ_WORKER_CLASS=werk.worker.Worker"
        yield Problem(WARNING, what, fix)


def _of_health(worker: Worker) -> Iterator[Problem]:
    name, process = f"worker {worker.name}", f"process {worker.pid} on {worker.host}"
    if worker.state == "stale" and not worker.successor:
        with_slots = f" with {len(worker.slots)} slots" if len(worker.slots) > 1 else ""
        what = f"{name}{with_slots} is stale: silent for {age(worker.beat_s)}"
        fix = f"check {process}: frozen, cut off or dead"
        start = f"start another: werk worker {shell_words(*worker.queues)}"
        if worker.has_exited:
            what += f"; {process} has exited"
            record = "werk repair removes the record" + " after that" * worker.owes
            if worker.kind == PLAIN_RQ:  # is_dead() in act.lua is false for it
                record = "its record expires by itself"
            fix = f"{start}; {record}"
        elif not worker.owes:
            what += "; it has no job, and no worker has replaced it"
            fix += f"; {start}, or werk repair"
        yield Problem(WARNING, what, fix)
    if worker.state == "hung" and worker.has_one_slot:
        what = f"{name} is hung: it sends heartbeats but takes no jobs"
        yield Problem(WARNING, what, f"kill the child of {process}; the worker starts another")
    elif worker.is_live:
        yield from _of_slots(worker, process)
    if worker.dropped and worker.is_live:
        lines = counted(worker.dropped, "log line")
        what = f"{name}: {lines} dropped: nobody reads its output"
        yield Problem(WARNING, what, f"read the stdout and stderr of {process}, or redirect them")


def _of_slots(worker: Worker, process: str) -> Iterator[Problem]:
    """Yield what is wrong with some of the slots of a worker."""
    hung, stale = (
        [slot.name for slot in worker.slots if slot.state == state] for state in ("hung", "stale")
    )
    if hung:
        what = f"{_named(hung)} hung: heartbeats are sent, but no jobs are taken"
        fix = f"werk drain {shell_words(hung[0])} ends it"
        fix += f"; restart {process} when its other jobs have ended"
        yield Problem(WARNING, what, fix)
    if stale:
        what = f"{_named(stale)} stale, but {process} is not"
        fix = "if it was drained, werk repair removes its record; else restart the worker"
        yield Problem(WARNING, what, fix)


def _named(slots: Sequence[str]) -> str:
    return f"slot {slots[0]} is" if len(slots) == 1 else f"slots {listed(slots)} are"


def _of_setup(worker: Worker) -> Iterator[Problem]:
    name = f"worker {worker.name}"
    if worker.replaced:
        what = f"{name} runs RQ's loop, because its class replaces {worker.replaced}: "
        what += "a job is lost if the worker is killed"
        yield Problem(WARNING, what, "restore it; override only perform_job or execute_job")
    if worker.free:
        what = f"{name} has WERK_ALLOW_UNREGISTERED: it runs any code"
        yield Problem(WARNING, what, "register the tasks and unset the variable")


def _of_queue(queue: Queue, snapshot: Snapshot, limits: Limits) -> Iterator[Problem]:
    name = f"queue {queue.name}"
    plain = [
        worker.name
        for worker in snapshot.workers
        if worker.is_live and worker.kind == PLAIN_RQ and queue.name in worker.queues
    ]
    yield from _of_waiting(queue, snapshot.server, limits)
    if queue.paused and plain:
        what = f"{name} is paused, but plain RQ worker {plain[0]} still takes its jobs"
        yield Problem(WARNING, what, "stop this worker, or suspend all workers: rq suspend")
    if (level := limits.failed.level(queue.failed)) != OK:
        fix = f"werk failed --queue {shell_word(queue.name)}"
        yield Problem(level, f"{name}: {queue.failed} failed", fix)
    if queue.ready and (not queue.workers or (queue.ready_s or 0) > READY_S):
        are = "is" if queue.ready == 1 else "are"
        what = f"{name}: {counted(queue.ready, 'dependent')} {are} ready and not enqueued"
        yield Problem(WARNING, what, f"werk worker {shell_words(queue.name)}, or werk repair")
    if queue.left or queue.in_hand > len(plain):
        what = f"{name}: {counted(queue.left + queue.in_hand, 'job')} left by dead workers"
        yield Problem(WARNING, what, "werk repair")
    if queue.deferred:
        what = f"{name}: jobs of {listed(queue.deferred.tasks)} are deferred: {queue.deferred.why}"
        yield Problem(WARNING, what, _fix_of_deferred(queue.name, queue.deferred, snapshot))
    if queue.differing:
        what = f"{name}: its workers have different versions of {queue.differing}"
        fix = f"finish the deploy: restart the older {older(queue.name, snapshot.workers)}"
        yield Problem(WARNING, what, fix)


def _fix_of_deferred(queue: str, deferred: Deferred, snapshot: Snapshot) -> str:
    left_s = max(0.0, deferred.since + UNKNOWN_S - snapshot.time)
    cancel = " && ".join(
        f"werk cancel --state deferred --task {shell_word(task)}" for task in deferred.tasks[:5]
    )
    fix = "restart the workers whose table is older or, if the task was removed, add it again"
    if serve_only_demo(queue, snapshot.workers):
        fix = f"{ONLY_DEMO},"
    return f"{fix} or run {cancel}; the first job fails in {age(left_s)}"


def _of_waiting(queue: Queue, server: Server, limits: Limits) -> Iterator[Problem]:
    what = f"queue {queue.name}: {queue.waiting} waiting"
    if queue.paused:
        if queue.waiting:
            yield Problem(WARNING, f"{what}, paused", f"werk resume {shell_words(queue.name)}")
        return
    if server.suspended:
        if queue.waiting:
            yield Problem(WARNING, f"{what}, all workers suspended", "rq resume")
    elif (queue.waiting or queue.scheduled) and not queue.workers:
        what = what if queue.waiting else f"queue {queue.name}: {queue.scheduled} scheduled"
        fix = f"start one: werk worker {shell_words(queue.name)}"
        yield Problem(CRITICAL, f"{what} and no worker", fix)
    elif (level := (most := limits.age_s.of(queue.name)).level(queue.oldest_s or 0)) != OK:
        limit_s = most.critical if level == CRITICAL else most.warning
        oldest = f"queue {queue.name}: the oldest has waited {age(queue.oldest_s)}"
        fix = f"start more workers: werk worker {shell_words(queue.name)}"
        fix += "; or see what they run: werk status"
        yield Problem(level, f"{oldest} (limit {age(limit_s)})", fix)
    if (level := limits.waiting.level(queue.waiting)) != OK:
        yield Problem(level, what, "start more workers")
