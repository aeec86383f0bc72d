"""`bin/bench scale`: what slots cost in memory, in time and in Redis. docs/scaling.md shows it.

RQ's figures are those of `rq worker-pool -n N`, which has as many idle processes.
"""

from __future__ import annotations

import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager

from support import wait_until

import werk
from bench.measures import RQ, Row, commands_per_s, percentile, trips_ms
from bench.stand import DRAIN_S, ONE_CORE, Stand, pair_of, pss_mib

PRELOAD = "bench.preload"  # keeps 60 MiB
ONE = "1 idle slot"


def scale(stand: Stand) -> list[Row]:
    """What slots cost in memory, in time and in Redis; five minutes more. Runs only if named."""
    stand.pin(False)
    few, many = (2, 3) if stand.is_quick else (8, 50)
    rows = [*_memory(stand, few, 90), *_memory(stand, many, 360)]
    rows += [_preloaded(stand, few), _dozing(stand, many)]
    rows += _wake_ups(stand, 3 if stand.is_quick else 30)
    rows += _fleet(stand, 4, 2 if stand.is_quick else 50)
    rows += [_capacity(stand, "no"), _capacity(stand, "yes")]
    stand.pin(True)
    return rows


def _memory(stand: Stand, count: int, most: float) -> list[Row]:
    """Memory of idle slots, at first and after 6,000 jobs, and what they send."""
    seconds = 2 if stand.is_quick else 20
    with _slots(stand, "werk", count) as (pid,):
        sent = commands_per_s(stand, seconds)  # by then what reads the tasks' sources has ended
        processes, at_first = len(pair_of(pid)), pss_mib(pair_of(pid))
        _run(stand, stand.jobs(6_000))
        later = pss_mib(pair_of(pid))
    with _slots(stand, "pool", count) as (pid,):
        plain = pss_mib(pair_of(pid))
    name = f"{count} idle slots"
    return [
        Row(name, "processes", [processes], at_most=count + 1),
        Row(f"{name}: memory (PSS)", "MiB", [at_first], RQ, [plain], at_most=most),
        Row(f"{name} after 6,000 jobs: memory", "MiB", [later], at_most=most),
        Row(f"{name}: each sends", "commands/s", [sent / count], at_most=2),
    ]


def _preloaded(stand: Stand, count: int) -> Row:
    """Memory that a module of 60 MiB adds to each slot."""
    found = []
    for preload in ("", PRELOAD):
        with _slots(stand, "werk", count, WERK_PRELOAD=preload) as (pid,):
            found.append(pss_mib(pair_of(pid)))
    each = (found[1] - found[0]) / count
    return Row("memory of each slot for a preload of 60 MiB", "MiB", [each], at_most=66)


def _dozing(stand: Stand, count: int) -> Row:
    """Seconds for ten jobs of a second for each slot."""
    jobs = (2 if stand.is_quick else 10) * count

    def spent(kind: str) -> float:
        with _slots(stand, kind, count):
            begin = time.perf_counter()
            _run(stand, jobs, "doze")
            return time.perf_counter() - begin

    name = f"{count} slots, {jobs} jobs that wait for a second"
    return Row(name, "s", [spent("werk")], RQ, [spent("pool")], at_most=14)


def _wake_ups(stand: Stand, count: int) -> list[Row]:
    """Round trips with one idle slot and with many, in turns.

    Redis has a core of its own, if there are several. On a shared one its CPU time includes what
    it loses because the slots use the caches; they have each slot's memory to read.
    """
    stand.pin(True)
    stand.pinned = stand.cores - ONE_CORE or ONE_CORE
    one, many, costs, trips = [], [], [], stand.jobs(1_200)
    for _ in range(stand.runs(5)):
        spent = []
        for slots, times in ((1, one), (count, many)):
            with _slots(stand, "werk", slots):
                before = stand.redis_cpu()
                times += trips_ms(stand, trips)
                spent.append((stand.redis_cpu() - before) / trips * 1e6)
        costs.append((spent[1], spent[0]))
    stand.pin(False)
    name = f"one enqueue, {count} idle slots"
    ours, theirs = [mine for mine, _ in costs], [its for _, its in costs]
    ratios = [mine / its for mine, its in costs]
    p99, least = percentile(many, 99), percentile(one, 99)
    return [
        Row(f"{name}: Redis CPU", "us", ours, ONE, theirs, ratios, at_most=1.3, target_unit="x"),
        Row(f"{name}: p99", "ms", [p99], ONE, [least], [p99 / least], at_most=1.5, target_unit="x"),
    ]


def _fleet(stand: Stand, workers: int, slots: int) -> list[Row]:
    """What idle slots in several workers cost Redis, and `werk status`."""
    seconds = 2 if stand.is_quick else 20
    name = f"{workers * slots} idle slots in {workers} workers"
    with _slots(stand, "werk", slots, workers):
        before = stand.redis_cpu()
        time.sleep(seconds)  # what is measured is the time in which nothing happens
        share = 100 * (stand.redis_cpu() - before) / seconds
        looks = [1000 * stand.cpu_of("werk", "status") for _ in range(stand.runs(5))]
    return [
        Row(f"{name}: Redis", "% of a core", [share], at_most=3),
        Row(f"{name}: CPU of werk status", "ms", looks, at_most=150),
    ]


def _capacity(stand: Stand, is_kept: str) -> Row:
    """Jobs per second at which a core of Redis is full: enqueued one by one, claimed, finished.

    Then no slot is idle, so the jobs are there before the worker.
    """
    stand.client.config_set("appendonly", is_kept)
    rates = []
    for _ in range(stand.runs(5)):
        stand.client.flushall()
        before, count = stand.redis_cpu(), stand.jobs(10_000)
        for number in range(count):
            werk.enqueue("noop", number)
        with stand.workers("werk", WERK_CONCURRENCY="2"):
            _all_done(stand, count)
            rates.append(count / (stand.redis_cpu() - before))
    stand.client.config_set("appendonly", "no")
    how = "append-only file" if is_kept == "yes" else "no persistence"
    return Row(f"jobs that fill one core of Redis, {how}", "jobs/s", rates, at_least=3_000)


@contextmanager
def _slots(
    stand: Stand, kind: str, count: int, workers: int = 1, **environ: str
) -> Iterator[Sequence[int]]:
    """Run workers with so many slots each, or a pool of RQ's, and wait until all are idle."""
    stand.client.flushall()
    words = ["-n", str(count)] if kind == "pool" else []
    environ["WERK_CONCURRENCY"] = str(count)
    with stand.workers(kind, workers, *words, **environ) as pids:
        wait_until(lambda: stand.idle() == workers * count, DRAIN_S)
        yield pids


def _run(stand: Stand, count: int, task: str = "noop") -> None:
    """Enqueue jobs, and wait until the last one has ended."""
    werk.enqueue_many(task, [(number,) for number in range(count)])
    _all_done(stand, count)


def _all_done(stand: Stand, count: int) -> None:
    wait_until(lambda: stand.client.zcard("rq:finished:default") == count, DRAIN_S)
