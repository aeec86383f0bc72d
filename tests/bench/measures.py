"""Each measure of `bin/bench`: a function of its own that returns rows of the table.

What is compared is measured in turns, several times: figures are medians, and a ratio is the median
of the turns' ratios. Targets are what we set out to reach.
"""

from __future__ import annotations

import os
import signal
import socket
import statistics
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path

import redis
from support import wait_until

import werk
from bench.stand import (
    COMMANDS,
    Stand,
    cpu_seconds,
    pair_of,
    peers_python,
    pss_mib,
)

Figure = Callable[[], float]
Turns = list[tuple[float, float]]

DEEP, SHALLOW = 0, 1  # databases


@dataclass
class Row:
    """A line of the table. Without a target it is there to compare with."""

    what: str
    figures: str
    value: float | None = None
    at_least: float | None = None
    at_most: float | None = None
    unit: str = ""

    @property
    def target(self) -> str:
        """What is to be reached, in words."""
        if self.at_least is not None:
            return f">= {self.at_least:g} {self.unit}".strip()
        return f"<= {self.at_most:g} {self.unit}".strip() if self.at_most is not None else ""

    @property
    def is_met(self) -> bool | None:
        """Whether it is reached; None: there is no target, or nothing was measured."""
        if self.value is None or not self.target:
            return None
        low, high = self.at_least, self.at_most
        return (low is None or self.value >= low) and (high is None or self.value <= high)


def drain(stand: Stand) -> list[Row]:
    """No-ops that are there before the worker is: ours against stock, on one core and free."""
    rows = []
    for is_pinned, at_least in ((True, 100), (False, 65)):
        stand.pin(is_pinned)
        turns = _in_turns(
            stand,
            lambda: _drain(stand, "werk", stand.jobs(30_000)),
            lambda: _drain(stand, "stock", stand.jobs(300)),
        )
        where = "all on one core" if is_pinned else "free"
        rows.append(_ratio(f"drain, {where}: werk / `rq worker`", turns, at_least))
    stand.pin(True)
    return rows


def floor(stand: Stand) -> list[Row]:
    """The same drain against the least that redis-py can do: LPOP and SET."""
    turns = _in_turns(
        stand,
        lambda: _drain(stand, "werk", stand.jobs(30_000)),
        lambda: stand.load("floor", stand.jobs(20_000)),
    )
    return [_ratio("drain, one core: werk / a bare LPOP + SET EX of redis-py", turns, 0.9)]


def huey(stand: Stand) -> list[Row]:
    """The same drain against the fastest other library that runs one job at a time."""
    what = "drain, one core: werk / huey, 1 thread"
    python = peers_python("huey")
    if python is None:
        return [Row(what, "huey could not be installed", at_least=2, unit="x")]
    turns = _in_turns(
        stand,
        lambda: _drain(stand, "werk", stand.jobs(30_000)),
        lambda: _drain_huey(stand, python, stand.jobs(20_000)),
    )
    return [_ratio(what, turns, 2)]


def trip(stand: Stand) -> list[Row]:
    """From enqueue to the result in hand, the worker idle before; also with horses replaced."""
    count, ours, stock, replaced = stand.jobs(100), [], [], []
    for _ in range(stand.runs(5)):
        with stand.idle_worker("werk"):
            ours += _ms(stand.load("trips_werk", count))
        with stand.idle_worker("stock"):
            stock += _ms(stand.load("trips_rq", count))
        with stand.idle_worker("werk", WERK_HORSE_JOBS=str(count // 2)):
            replaced += _ms(stand.load("trips_werk", count))
    rows = []
    named = (("", ours), (", a horse replaced every 50 jobs", replaced))
    for name, times in named:
        for percent, most in ((50, 0.9), (99, 2)):
            value = _p(times, percent)
            what = f"idle round trip p{percent}{name}"
            rows.append(Row(what, f"{value:.2f} ms", value, at_most=most, unit="ms"))
    both = f"{_p(stock, 50):.2f} / {_p(stock, 99):.2f} ms"
    return [*rows, Row("idle round trip p50 / p99, `rq worker`", both)]


def enqueue(stand: Stand) -> list[Row]:
    """Jobs enqueued per second, one by one and many at once, against RQ's own calls."""
    rows = []
    for name, call, count in (
        ("enqueue one by one: werk / rq", "enqueue", stand.jobs(4_000)),
        ("enqueue_many: werk / rq", "batch", stand.jobs(20_000)),
    ):
        turns = _in_turns(
            stand,
            lambda: _loaded(stand, f"{call}_werk", count),  # noqa: B023  called before the next
            lambda: _loaded(stand, f"{call}_rq", count),  # noqa: B023
        )
        rows.append(_ratio(name, turns, 2.5))
    return rows


def process(stand: Stand) -> list[Row]:
    """CPU time of one enqueue from the shell, the whole process."""
    turns = _in_turns(
        stand,
        lambda: stand.cpu_of("werk-enqueue", "noop", "1"),
        lambda: stand.cpu_of("rq", "enqueue", "bench.tasks.noop", ":1"),
        times=15,
    )
    ours, theirs, ratio = _medians(turns)
    figures = f"{ours * 1000:.0f} / {theirs * 1000:.0f} ms, {ratio:.2f} x"
    what = "CPU of one enqueue from the shell: `werk-enqueue` / `rq enqueue`"
    return [Row(what, figures, ratio, at_most=0.33, unit="x")]


def idle(stand: Stand) -> list[Row]:
    """A worker that has nothing to do for a minute, and how it wakes up."""
    seconds = 5 if stand.is_quick else 60
    with stand.idle_worker("werk") as pid:
        before = cpu_seconds(pair_of(pid))
        commands = _commands_per_s(stand, seconds)
        used, memory = cpu_seconds(pair_of(pid)) - before, pss_mib(pair_of(pid))
        begin = time.perf_counter()
        werk.enqueue("noop", 0).result(30)
        trip_ms = (time.perf_counter() - begin) * 1000
    with stand.idle_worker("stock") as pid:
        stock = pss_mib(pair_of(pid))
    figures = f"{memory:.1f} MiB (`rq worker`: {stock:.1f})"
    return [
        Row("idle worker and its horse: PSS", figures, memory, at_most=38, unit="MiB"),
        Row("idle worker: commands/s", f"{commands:.1f}", commands, at_most=2),
        _seconds(f"idle worker: CPU in {seconds} s", used, 0.3 * seconds / 60),
        Row(f"round trip after {seconds} s", f"{trip_ms:.2f} ms", trip_ms, at_most=2, unit="ms"),
    ]


def backlog(stand: Stand) -> list[Row]:
    """The same thousand jobs with a million behind them, and with none."""
    deep = stand.jobs(1_000_000)
    stand.fill(deep)
    turns = _in_turns(
        stand,
        lambda: _thousand(stand, DEEP),
        lambda: _thousand(stand, SHALLOW),
    )
    stand.client.flushall()
    return [_ratio(f"drain with {deep:,} waiting / with 1,000", turns, 0.85)]


def pair(stand: Stand) -> list[Row]:
    """Two workers against one, on all cores."""
    stand.pin(False)
    count = stand.jobs(30_000)
    turns = _in_turns(
        stand,
        lambda: _drain(stand, "werk", count, workers=2),
        lambda: _drain(stand, "werk", count),
    )
    stand.pin(True)
    return [_ratio(f"drain, free on {len(stand.cores)} cores: two workers / one", turns, 1.6)]


def kill(stand: Stand) -> list[Row]:
    """From kill -9 of a horse, or of a whole worker, to the next run of its job."""
    times = stand.runs(5)
    horse = [_killed(stand, "horse", 1)[0] for _ in range(times)]
    worker = _killed(stand, "worker", times)  # all at once: each takes as long as a lease
    middle, most = statistics.median(worker), max(worker)
    what = f"kill -9 of the {{}} to the next run, {{}} of {times}"
    return [
        _seconds(what.format("horse", "max"), max(horse), 0.1),
        _seconds(what.format("worker", "p50"), middle, 16),
        _seconds(what.format("worker", "max"), most, 30),
    ]


MEASURES: dict[str, Callable[[Stand], list[Row]]] = {
    measure.__name__: measure
    for measure in (drain, floor, huey, trip, enqueue, process, idle, backlog, pair, kill)
}


# --- how it is measured


def _in_turns(stand: Stand, ours: Figure, theirs: Figure, times: int = 5) -> Turns:
    """Return pairs of two figures, measured in turns: what disturbs one disturbs both."""
    return [(ours(), theirs()) for _ in range(stand.runs(times))]


def _medians(turns: Turns) -> tuple[float, float, float]:
    """Return ours, theirs, and the ratio."""
    ours, theirs = zip(*turns, strict=True)
    ratio = statistics.median(mine / other for mine, other in turns)
    return statistics.median(ours), statistics.median(theirs), ratio


def _drain(stand: Stand, kind: str, count: int, workers: int = 1) -> float:
    stand.fill(count)
    with stand.workers(kind, workers):
        return stand.drained(lambda: stand.client.llen("rq:queue:default"), count)


def _drain_huey(stand: Stand, python: str, count: int) -> float:
    stand.client.flushall()
    app = Path(__file__).with_name("huey_app.py")
    stand.spawn([python, app, count]).communicate()
    consumer = stand.spawn(
        [Path(python).with_name("huey_consumer"), "huey_app.huey", "-q", "-w1", "-kthread"],
        PYTHONPATH=str(app.parent),
    )
    try:
        return stand.drained(lambda: stand.client.llen("huey.redis.bench"), count)
    finally:
        consumer.kill()
        consumer.communicate()


def _loaded(stand: Stand, name: str, count: int) -> float:
    stand.client.flushall()
    return float(stand.load(name, count))


def _thousand(stand: Stand, database: int) -> float:
    """Return jobs/s of a worker's jobs 100 to 1,000, by what it wrote down itself."""
    rates = []
    with stand.database(database) as client:
        for _ in range(stand.runs(3)):
            if database == SHALLOW:
                stand.fill(1000)
            ids = client.lrange("rq:queue:default", 0, 999)
            with stand.spawn([*COMMANDS["werk"], "--max-jobs", len(ids), "default"]) as process:
                process.communicate()
            rates.append(_rate([_times(client, job_id) for job_id in ids][100:]))
    return statistics.median(rates)


def _times(client: redis.Redis, job_id: bytes) -> tuple[datetime, datetime]:
    started, ended = client.hmget(b"rq:job:" + job_id, "started_at", "ended_at")
    return datetime.fromisoformat(started.decode()), datetime.fromisoformat(ended.decode())


def _rate(times: Sequence[tuple[datetime, datetime]]) -> float:
    spent = max(ended for _, ended in times) - min(started for started, _ in times)
    return len(times) / spent.total_seconds()


def _killed(stand: Stand, whom: str, count: int) -> list[float]:
    """Kill `count` workers, or their horses, in a job; return the seconds to the job's next run."""
    stand.client.flushall()
    folder = stand.folder / f"kill-{time.monotonic_ns()}"
    folder.mkdir()
    with stand.workers("werk", count):
        for number in range(count):
            werk.enqueue("hold", str(folder), str(number))
        files = [folder / str(number) for number in range(count)]
        wait_until(lambda: all(file.exists() and file.read_text() for file in files), 30)
        with stand.workers("werk"):
            wait_until(lambda: stand.client.scard("rq:workers") == count + 1)
            killed = [_kill(file, whom) for file in files]
            wait_until(lambda: all(len(_starts(file)) == 2 for file in files), 60)
    again = [float(_starts(file)[1].split()[0]) for file in files]
    return [then - when for then, when in zip(again, killed, strict=True)]


def _kill(file: Path, whom: str) -> float:
    horse, supervisor = map(int, _starts(file)[0].split()[1:])
    when = time.monotonic()
    os.kill(horse if whom == "horse" else supervisor, signal.SIGKILL)
    return when


def _starts(file: Path) -> list[str]:
    return file.read_text().splitlines()


def _commands_per_s(stand: Stand, seconds: float) -> float:
    """Return how many commands clients send per second; what scripts call inside is not counted."""
    address = ("127.0.0.1", int(stand.server.url.rpartition(":")[2].partition("/")[0]))
    said = b""
    with socket.create_connection(address) as monitor:
        monitor.sendall(b"MONITOR\r\n")
        deadline = time.monotonic() + seconds
        while (left := deadline - time.monotonic()) > 0:
            monitor.settimeout(left)
            try:
                said += monitor.recv(65536)
            except TimeoutError:
                break
    lines = said.splitlines()[1:]
    return sum(b" lua]" not in line for line in lines) / seconds


def _ratio(what: str, turns: Turns, at_least: float) -> Row:
    ours, theirs, ratio = _medians(turns)
    figures = f"{ours:,.0f} / {theirs:,.0f} jobs/s, {ratio:.3g} x"
    return Row(what, figures, ratio, at_least=at_least, unit="x")


def _seconds(what: str, value: float, at_most: float) -> Row:
    return Row(what, f"{value:.2f} s", value, at_most=at_most, unit="s")


def _ms(seconds: Sequence[float]) -> list[float]:
    return [1000 * each for each in seconds]


def _p(times: Sequence[float], percent: int) -> float:
    return statistics.quantiles(times, n=100)[percent - 1]
