"""Each measure of `bin/bench`: a function of its own that returns rows of the table.

What is compared is measured in turns, several times, and a ratio is that of one turn. Targets are
what we set out to reach.
"""

from __future__ import annotations

import os
import signal
import socket
import statistics
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
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
RQ = "RQ"


@dataclass
class Row:
    """One measure: figures of werk, one for each turn, and what they are compared with.

    The target is for the median of the turns' ratios; without ratios for the median of werk's
    figures. A row without figures could not be measured.
    """

    name: str
    unit: str
    werk: list[float] = field(default_factory=list)
    compared_with: str = ""
    other: list[float] = field(default_factory=list)
    ratios: list[float] = field(default_factory=list)  # werk / other
    at_least: float | None = None
    at_most: float | None = None
    target_unit: str = ""  # if it is not that of the figures

    @property
    def target(self) -> str:
        """What is to be reached, in words."""
        sign, limit = ("<=", self.at_most) if self.at_least is None else (">=", self.at_least)
        return f"{sign} {limit:g} {self.target_unit or self.unit}"

    @property
    def is_met(self) -> bool | None:
        """Whether the target is met; None if nothing was measured."""
        if not (figures := self.ratios or self.werk):
            return None
        value = statistics.median(figures)
        return value >= self.at_least if self.at_least is not None else value <= self.at_most

    def as_json(self) -> dict[str, object]:
        """Return the row as plain data, its figures with four digits."""
        return {
            "name": self.name,
            "unit": self.unit,
            "werk": _rounded(self.werk),
            "compared_with": self.compared_with,
            "other": _rounded(self.other),
            "ratios": _rounded(self.ratios),
            "target": self.target,
            "is_met": self.is_met,
        }


def _rounded(figures: Sequence[float]) -> list[float]:
    return [float(f"{figure:.4g}") for figure in figures]


def drain(stand: Stand) -> list[Row]:
    """Jobs per second of one worker that drains a queue of no-ops, on one core and on all."""
    rows = []
    for is_pinned, at_least in ((True, 100), (False, 65)):
        stand.pin(is_pinned)
        turns = _in_turns(
            stand,
            lambda: _drain(stand, "werk", stand.jobs(30_000)),
            lambda: _drain(stand, "rq", stand.jobs(300)),
        )
        where = "on one core" if is_pinned else "free to use all cores"
        rows.append(_drained(f"one worker, {where}", RQ, turns, at_least))
    stand.pin(True)
    return rows


def floor(stand: Stand) -> list[Row]:
    """The same, against the least that a worker on redis-py could do: LPOP and SET."""
    turns = _in_turns(
        stand,
        lambda: _drain(stand, "werk", stand.jobs(30_000)),
        lambda: stand.load("floor", stand.jobs(20_000)),
    )
    return [_drained("one worker against a bare loop", "LPOP + SET of redis-py", turns, 0.9)]


def huey(stand: Stand) -> list[Row]:
    """The same, against huey, the fastest other library that runs one job at a time."""
    name, other = "one worker against huey", "huey, 1 thread"
    python = peers_python("huey")
    if python is None:  # it could not be installed
        return [_drained(name, other, [], 2)]
    turns = _in_turns(
        stand,
        lambda: _drain(stand, "werk", stand.jobs(30_000)),
        lambda: _drain_huey(stand, python, stand.jobs(20_000)),
    )
    return [_drained(name, other, turns, 2)]


def trip(stand: Stand) -> list[Row]:
    """Time from enqueue to result with an idle worker, also while horses are replaced."""
    count, ours, plain, replaced = stand.jobs(100), [], [], []
    for _ in range(stand.runs(5)):
        with stand.idle_worker("werk"):
            ours += trips_ms(stand, count)
        with stand.idle_worker("rq"):
            plain += _ms(stand.load("trips_rq", count))
        with stand.idle_worker("werk", WERK_HORSE_JOBS=str(count // 2)):
            replaced += trips_ms(stand, count)
    rows = []
    for percent, most in ((50, 0.9), (99, 2)):
        name = f"round trip of an idle worker, p{percent}"
        value, other = [percentile(ours, percent)], [percentile(plain, percent)]
        rows.append(Row(name, "ms", value, RQ, other, at_most=most))
    for percent, most in ((50, 0.9), (99, 2)):
        name = f"round trip, a horse replaced every 50 jobs, p{percent}"
        rows.append(Row(name, "ms", [percentile(replaced, percent)], at_most=most))
    return rows


def enqueue(stand: Stand) -> list[Row]:
    """Jobs enqueued per second, one by one and in batches."""
    rows = []
    for name, call, count in (
        ("enqueue one by one", "enqueue", stand.jobs(4_000)),
        ("enqueue_many", "batch", stand.jobs(20_000)),
    ):
        turns = _in_turns(
            stand,
            lambda: _loaded(stand, f"{call}_werk", count),  # noqa: B023  called before the next
            lambda: _loaded(stand, f"{call}_rq", count),  # noqa: B023
        )
        rows.append(_compared(name, "jobs/s", RQ, turns, at_least=2.5))
    return rows


def process(stand: Stand) -> list[Row]:
    """CPU time of one enqueue from the shell."""
    turns = _in_turns(
        stand,
        lambda: stand.cpu_of("werk-enqueue", "noop", "1"),
        lambda: stand.cpu_of("rq", "enqueue", "bench.tasks.noop", ":1"),
        times=15,
    )
    in_ms = [(1000 * ours, 1000 * theirs) for ours, theirs in turns]
    return [_compared("CPU of one enqueue from the shell", "ms", RQ, in_ms, at_most=0.33)]


def idle(stand: Stand) -> list[Row]:
    """Memory, commands and CPU of a worker that is idle for a minute; its next round trip."""
    seconds = 5 if stand.is_quick else 60
    with stand.idle_worker("werk") as pid:
        before = cpu_seconds(pair_of(pid))
        commands = commands_per_s(stand, seconds)
        used, memory = cpu_seconds(pair_of(pid)) - before, pss_mib(pair_of(pid))
        begin = time.perf_counter()
        werk.enqueue("noop", 0).result(30)
        trip_ms = (time.perf_counter() - begin) * 1000
    with stand.idle_worker("rq") as pid:
        plain = pss_mib(pair_of(pid))
    return [
        Row("memory of an idle worker (PSS)", "MiB", [memory], RQ, [plain], at_most=38),
        Row("an idle worker sends", "commands/s", [commands], at_most=2),
        _seconds(f"CPU of an idle worker in {seconds} s", used, 0.3 * seconds / 60),
        Row(f"round trip after {seconds} idle s", "ms", [trip_ms], at_most=2),
    ]


def backlog(stand: Stand) -> list[Row]:
    """Jobs per second of the same thousand jobs, with a million behind them and with none."""
    deep = stand.jobs(1_000_000)
    stand.fill(deep)
    turns = _in_turns(
        stand,
        lambda: _thousand(stand, DEEP),
        lambda: _thousand(stand, SHALLOW),
    )
    stand.client.flushall()
    return [_drained(f"one worker, {deep:,} jobs waiting", "1,000 waiting", turns, 0.85)]


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
    return [_drained("two workers, free to use all cores", "one worker", turns, 1.6)]


def kill(stand: Stand) -> list[Row]:
    """Seconds from kill -9 of a horse, or of a worker, to the next run of its job."""
    times = stand.runs(5)
    horse = [_killed(stand, "horse", 1)[0] for _ in range(times)]
    worker = _killed(stand, "worker", times)  # all at once: each takes as long as a lease
    middle, most = statistics.median(worker), max(worker)
    name = f"kill -9 of a {{}} to the next run, {{}} of {times}"
    return [
        _seconds(name.format("horse", "longest"), max(horse), 0.1),
        _seconds(name.format("worker", "median"), middle, 16),
        _seconds(name.format("worker", "longest"), most, 30),
    ]


MEASURES: dict[str, Callable[[Stand], list[Row]]] = {
    measure.__name__: measure
    for measure in (drain, floor, huey, trip, enqueue, process, idle, backlog, pair, kill)
}


# --- how it is measured


def _in_turns(stand: Stand, ours: Figure, theirs: Figure, times: int = 5) -> Turns:
    """Return pairs of two figures, measured in turns: what disturbs one disturbs both."""
    return [(ours(), theirs()) for _ in range(stand.runs(times))]


def _compared(name: str, unit: str, other: str, turns: Turns, **target: float) -> Row:
    ours, theirs = [mine for mine, _ in turns], [its for _, its in turns]
    ratios = [mine / its for mine, its in turns]
    return Row(name, unit, ours, other, theirs, ratios, target_unit="x", **target)


def _drained(name: str, other: str, turns: Turns, at_least: float) -> Row:
    return _compared(name, "jobs/s", other, turns, at_least=at_least)


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


def commands_per_s(stand: Stand, seconds: float) -> float:
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


def _seconds(name: str, value: float, at_most: float) -> Row:
    return Row(name, "s", [value], at_most=at_most)


def trips_ms(stand: Stand, count: int) -> list[float]:
    """Return how long round trips to idle workers take."""
    return _ms(stand.load("trips_werk", count))


def _ms(seconds: Sequence[float]) -> list[float]:
    return [1000 * each for each in seconds]


def percentile(times: Sequence[float], percent: int) -> float:
    return statistics.quantiles(times, n=100)[percent - 1]
