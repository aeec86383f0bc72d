"""Payloads and records that ask for far more memory or time than their bytes, or are just noise.

Each of their readers (a worker, `werk show`, the dashboard, `werk status`) is bounded in memory and
time, and continues to serve the other jobs.
"""

from __future__ import annotations

import json
import os
import pickle
import random
import time
import tracemalloc
import urllib.request
import zlib
from base64 import b64encode
from collections.abc import Callable, Sequence
from contextlib import suppress
from datetime import date, datetime, timedelta, timezone
from datetime import time as dtime
from decimal import Decimal
from pathlib import Path
from typing import Any, NamedTuple
from uuid import UUID

import pytest
import redis
import roles
from any_values import FIELDS, VALUES
from click.testing import CliRunner
from dashboards import HERE, Browse, put
from flask.testing import FlaskClient
from floods import BOMBS, FLOODS, called, collision, measured, noise
from support import Process, command, run, wait_until
from test_hostile_records import ended_in
from workers import Start, finished, horse, runs

import werk
from werk.cli import run as main
from werk.cli import status
from werk.errors import ArgumentError, Unreadable
from werk.ops import jobs, status_view
from werk.ops.snapshot import Snapshot
from werk.store import payload, plain, reader
from werk.store.connection import link_over

MOST_MIB = 300  # of a process that reads payloads
MIB = 2**20


# --- the reader


@pytest.mark.parametrize("name", FLOODS)
def test_the_reader_stops_at_its_limit(name: str) -> None:
    """With a hundredth of the parts that are allowed, a hundredth of the memory."""
    data, most_parts = FLOODS[name](MIB), 10_000
    tracemalloc.start()
    begun = time.process_time()
    try:
        with suppress(Unreadable):
            payload.loads(data, most_parts)
        _, peak = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert peak < 4 * MIB + 2 * len(data)
    assert time.process_time() - begun < 4


@pytest.mark.parametrize("name", BOMBS)
def test_few_bytes_take_little_time(name: str) -> None:
    seconds, mib, outcome = measured(BOMBS[name])
    assert seconds < 20, outcome
    assert mib < MOST_MIB
    assert outcome.startswith(("Unreadable", "read"))


@pytest.mark.parametrize("name", ["EMPTY_SET", "lists of one", "nested list", "JSON dicts"])
def test_the_largest_payload_takes_little_memory(name: str) -> None:
    _, mib, outcome = measured(zlib.compress(FLOODS[name](plain.MAX_BYTES - 100)))
    assert "has more than 1,000,000 parts" in outcome
    assert mib < MOST_MIB


# --- what an enqueue accepts is never too much to read


ZONES = [timezone(timedelta(minutes=minute)) for minute in range(1, 1400)]
MANY: dict[str, Callable[[int], Any]] = {
    "None": lambda n: None,
    "small int": lambda n: n % 256,
    "int": lambda n: n * 10**6,
    "float": float,
    "str": lambda n: f"text {n}",
    "bytes": lambda n: b"%d" % n,
    "list": lambda n: [],
    "list of one": lambda n: [n],
    "tuple": lambda n: (n,),
    "tuple of tuples": lambda n: (n, (n, (n,))),
    "dict": lambda n: {},
    "dict of one": lambda n: {f"key {n}": f"value {n}"},
    "dict of six": lambda n: {f"key {n} {i}": n for i in range(6)},
    "set": lambda n: set(),
    "set of five": lambda n: {n * 5 + i for i in range(5)},
    "frozenset": lambda n: frozenset([n]),
    "date": lambda n: date(1, 1, 1) + timedelta(days=n),
    "time": lambda n: dtime(n // 60 % 24, n % 60),
    "datetime": lambda n: datetime(2026, 1, 1) + timedelta(seconds=n),
    "datetime with a zone": lambda n: datetime(2026, 1, 1, tzinfo=ZONES[n % 1399]),
    "timedelta": lambda n: timedelta(n, n, n),
    "Decimal": lambda n: Decimal(n) / 7,
    "UUID": lambda n: UUID(int=n),
}
AS_KEYS = [name for name in MANY if not name.startswith(("list", "dict", "set"))]


@pytest.mark.parametrize("name", MANY)
def test_what_is_accepted_is_read(name: str) -> None:
    values = [MANY[name](n) for n in range(1, 3001)]
    for value in (values, tuple(values), *([dict.fromkeys(values, 1)] if name in AS_KEYS else [])):
        data = pickle.dumps(value, 5)
        assert payload.loads(data) == value
        assert cost(data) <= parts(value) * reader.PART_COST


@pytest.mark.parametrize("levels", [100, 101])
@pytest.mark.parametrize("kind", [lambda own: [own], lambda own: (own,), lambda own: {1: own}])
def test_arguments_of_a_hundred_levels_are_read(kind: Callable[[Any], Any], levels: int) -> None:
    value: Any = 1
    for _ in range(levels):
        value = kind(value)
    if levels > 100:
        assert "nested deeper than 100 levels" in (plain.plain_problem(value) or "")
        return
    assert plain.plain_problem(value) is None
    assert payload.read_call(payload.write_call("a.b", (value,), {})) == ("a.b", (value,), {})


def test_arguments_that_are_too_many_together_are_refused() -> None:
    many = [1] * 600_000
    assert plain.plain_problem(many) is None
    with pytest.raises(ArgumentError, match=r"the list of arguments has more than 1,000,000 parts"):
        payload.write_call("a.b", (many, [2] * 600_000), {})


def parts(value: Any) -> int:
    """Return how many parts of a value an enqueue counts."""
    left = [plain.MAX_PARTS]
    assert plain._problem(value, plain.MAX_DEPTH, left) is None
    return plain.MAX_PARTS - left[0]


def cost(data: bytes) -> int:
    own = reader._Reader(data, plain.MAX_PARTS)
    before = own.left
    own.load()
    return before - own.left


# --- who reads payloads


class Watch:
    """Waits while it looks at the memory of processes."""

    def __init__(self) -> None:
        self.peaks: dict[int, float] = {}

    def look(self, *pids: int) -> None:
        for pid in pids:
            self.peaks[pid] = max(self.peaks.get(pid, 0), peak_mib(pid))

    @property
    def peak(self) -> float:
        return max(self.peaks.values())


def peak_mib(pid: int) -> float:
    """Return the most memory that a process has held; 0 if it has ended. Linux."""
    try:
        lines = Path(f"/proc/{pid}/status").read_text().splitlines()
    except (FileNotFoundError, ProcessLookupError):
        return 0
    found = [line.split()[1] for line in lines if line.startswith("VmHWM")]
    return int(found[0]) / 1024 if found else 0


def cpu_s(pid: int) -> float:
    """Return the processor time that a process has used. Linux."""
    user, system = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[11:13]
    return (int(user) + int(system)) / os.sysconf("SC_CLK_TCK")


LARGEST = plain.MAX_BYTES - 100
FOR_A_WORKER: dict[str, Callable[[], bytes]] = {
    "4 kB": lambda: zlib.compress(FLOODS["EMPTY_SET"](4 * MIB)),
    "64 kB": lambda: zlib.compress(FLOODS["EMPTY_SET"](LARGEST)),
    "memo": lambda: zlib.compress(FLOODS["LONG_BINPUT"](4 * MIB)),
    "nested": lambda: zlib.compress(FLOODS["nested tuple"](4 * MIB)),
    "zlib": lambda: zlib.compress(bytes(2 * plain.MAX_BYTES)),
    "key": lambda: BOMBS["a tuple that is a key"],
    "JSON": lambda: zlib.compress(FLOODS["JSON lists"](LARGEST)),
}


def test_a_worker_fails_them_and_runs_the_next_job(
    work: Start, connection: redis.Redis, tmp_path: Path
) -> None:
    bad = []
    for name, make in FOR_A_WORKER.items():
        job = werk.enqueue(
            "note", str(tmp_path), options=werk.Options(job_id=name.replace(" ", "-"), timeout=2)
        )
        connection.hset(f"rq:job:{job.id}", "data", make())
        bad.append(job)
        werk.enqueue("note", str(tmp_path), "good")
    all_fail(bad, work(), tmp_path)
    assert not connection.exists("rq:wip:default")


def test_a_worker_reads_no_bomb_in_another_field(
    work: Start, connection: redis.Redis, tmp_path: Path
) -> None:
    """RQ's own way of recording a failure reads the whole record."""
    fields = {
        "exc_info": zlib.compress(bytes(2 * plain.MAX_BYTES), 9),
        "meta": FLOODS["EMPTY_SET"](4 * MIB),
        "webhooks": FLOODS["JSON lists"](16 * MIB),
        "retry_intervals": FLOODS["nested JSON"](MIB),
        "dependency_ids": FLOODS["JSON dicts"](16 * MIB),
        "result": FLOODS["sets of one"](4 * MIB),
    }
    bad = []
    for name, value in fields.items():
        job = werk.enqueue("fail", str(tmp_path), options=werk.Options(job_id=name, retry=0))
        connection.hset(f"rq:job:{job.id}", name, value)
        bad.append(job)
        werk.enqueue("note", str(tmp_path), "good")
    all_fail(bad, work(), tmp_path)


def all_fail(bad: Sequence[werk.Handle], worker: Process, folder: Path) -> None:
    """Wait until the good job behind each bad one has run: the bad ones fail, in little memory."""
    watch = Watch()

    def have_run() -> bool:
        watch.look(worker.pid, horse(worker))
        return len(runs(folder, "good")) == len(bad)

    wait_until(have_run, 120)
    assert {job.id: job.status() for job in bad} == {job.id: "failed" for job in bad}
    assert watch.peak < MOST_MIB, watch.peaks
    assert worker.poll() is None


class Ended(NamedTuple):
    code: int
    output: str
    mib: float
    cpu_s: float


# A process of its own, because the peak that the system reports includes that of the parent.
MEASURE = """
import json, resource, subprocess, sys
done = subprocess.run(sys.argv[1:], stdin=-3, stdout=-1, stderr=-2)
used = resource.getrusage(resource.RUSAGE_CHILDREN)
seconds = used.ru_utime + used.ru_stime
print(json.dumps([done.returncode, done.stdout.decode(), used.ru_maxrss / 1024, seconds]))
"""


def run_measured(*words: object) -> Ended:
    """Run a command to its end, and measure it."""
    return Ended(*json.loads(run("python", "-c", MEASURE, *command(*words)).stdout))


FOR_A_PAGE: dict[str, Callable[[], bytes]] = {
    **FOR_A_WORKER,
    "64 MiB": lambda: FLOODS["EMPTY_SET"](LARGEST),
    "8 KiB of sets": lambda: FLOODS["EMPTY_SET"](8000),
    "64 KiB of sets": lambda: FLOODS["EMPTY_SET"](64_000),
    "8 KiB of colliding ints": lambda: called(collision(650)),
    "64 KiB of colliding ints": lambda: called(collision(5_000)),
    "colliding ints": lambda: zlib.compress(called(collision(60_000))),
    **{name: lambda own=data: own for name, data in BOMBS.items()},  # type: ignore[misc]
}


IN_A_LIST = ["4 kB", "nested", "8 KiB of sets", "8 KiB of colliding ints", "a tuple that is a key",
             "a list, as arguments", "tuples, in few bytes",
             "a tuple, many times a key"]  # fmt: skip


@pytest.mark.parametrize("name", FOR_A_PAGE)
def test_show_reads_them_in_little_time(connection: redis.Redis, name: str) -> None:
    data = FOR_A_PAGE[name]()
    put(connection, "x", data=data, meta=data)
    connection.xadd("rq:results:x", {"type": 1, "return_value": b64encode(data)})
    for words in (("werk", "show", "x"), ("werk", "show", "--json", "x")):
        ended = run_measured(*words)
        assert (ended.code, "Traceback" in ended.output) == (0, False), ended.output[-1000:]
        assert "failed" in ended.output
        assert ended.mib < MOST_MIB
        assert ended.cpu_s < 8


def test_a_list_of_200_takes_little_time(
    serving: Callable[..., tuple[Process, str]], connection: redis.Redis
) -> None:
    process, address = serving()
    put(connection, "good", data=called(b"\x8c\x05hello", b"shop.greet"))
    for name in IN_A_LIST:
        data = FOR_A_PAGE[name]()
        for n in range(199):
            put(connection, f"x{n}", data=data, meta=b"" if n > 1 else data)
        before = cpu_s(process.pid)
        with urllib.request.urlopen(f"{address}/0/data/jobs/default/failed/200/asc/1.json") as got:
            rows = {row["id"]: row for row in json.load(got)["jobs"]}
        assert len(rows) == connection.zcard("rq:failed:default") == 200
        assert rows["good"]["description"] == "shop.greet('hello')"
        with urllib.request.urlopen(f"{address}/0/data/job/x1.json") as got:
            assert json.load(got)["id"] == "x1"
        assert cpu_s(process.pid) - before < 8, name
    assert peak_mib(process.pid) < MOST_MIB


# --- any value in any field


EXAMPLES = 300
SHOWN = (*FIELDS, "werk_enqueued", "werk_not_kept", "result", "dependency_id", "werk_unknown_since")
OF_A_PICKLE = ("data", "meta", "result", "exc_info", "dependency_ids", "webhooks")


def value_of(dice: random.Random, field: str) -> bytes:
    if field in OF_A_PICKLE and dice.random() < 0.8:
        return noise(dice)
    value = dice.choice([*VALUES, b"[" * 5000, b"9" * 5000, b"9" * 70_000])
    return b"2026-11-24T09:00:00.000000Z|" + value if field == "werk_enqueued" else value


def change(dice: random.Random, connection: redis.Redis, job_id: str) -> dict[str, bytes]:
    """Write random values into one to four fields of a job's record, and perhaps a result."""
    fields = dice.sample(SHOWN, dice.randint(1, 4))
    changes = {field: value_of(dice, field) for field in fields}
    connection.hset(f"rq:job:{job_id}", mapping=changes)
    if dice.random() < 0.5:
        entry = {dice.choice(["return_value", "exc_string"]): noise(dice)}
        connection.xadd(f"rq:results:{job_id}", {"type": dice.choice([1, 2, "x"]), **entry})
    return changes


def test_any_value_is_shown(
    browse: Browse, connection: redis.Redis, monkeypatch: pytest.MonkeyPatch
) -> None:
    """By `werk show`, the dashboard's pages and lists, `werk status`; and the neighbours too."""
    for name, value in roles.environment("reader").items():
        monkeypatch.setenv(name, value)
    client, runner, link = browse(), CliRunner(), link_over(connection)
    for name in ("failed", "scheduled"):
        put(connection, f"good-{name}", name, data=called(b"\x8c\x05hello", b"shop.greet"))
        put(connection, "bad", name)
    for number in range(EXAMPLES):
        dice = random.Random(number)
        connection.delete("rq:job:bad", "rq:results:bad", "rq:queue:default")
        connection.hset(
            "rq:job:bad", mapping={"data": b"x", "created_at": "x", "origin": "default"}
        )
        connection.rpush("rq:queue:default", "bad", "good-failed")
        changes = change(dice, connection, "bad")
        for words in (["show", "bad"], ["show", "--json", "bad"]):
            done = runner.invoke(main.werk, words)
            said = (number, changes, done.output[-500:], done.exception)
            assert done.exit_code == 0 or "4300 digits" in str(done.exception), said
        for name in ("failed", "scheduled", "queued"):
            path = f"/0/data/jobs/default/{name}/200/asc/1.json"
            rows = {row["id"]: row for row in get_json(client, path)["jobs"]}
            good = rows["good-scheduled" if name == "scheduled" else "good-failed"]
            assert "bad" in rows
            assert good["description"] == "shop.greet('hello')"
        assert get_json(client, "/0/data/job/bad.json")["id"] == "bad"
        snapshot = Snapshot.read(link)
        assert snapshot.queues["default"].waiting == 2
        assert status.table(snapshot)
        assert json.dumps(status_view.as_json(snapshot))
        failed = {job.id for page in jobs.walk(link, jobs.Query(("failed",))) for job in page}
        assert failed - {"bad"} == {"good-failed"}


def test_a_key_that_json_does_not_have_is_printed(connection: redis.Redis) -> None:
    value = {"a": [{(1, b"x"): Decimal(1)}], b"key": {1}, 1: None}
    put(connection, "x", "finished", data=b"x")
    connection.xadd("rq:results:x", {"type": 1, "return_value": b64encode(pickle.dumps(value))})
    for verb in ("show", "result"):
        found = json.loads(run("werk", verb, "--json", "x").stdout)
        wanted = {"a": [{"(1, b'x')": "Decimal('1')"}], "b'key'": "{1}", "1": None}
        assert found["result"] == wanted


def get_json(client: FlaskClient, path: str) -> Any:
    with client.get(path, base_url=HERE, follow_redirects=True) as answer:
        assert answer.status_code == 200, answer.text[:1000]
        return answer.json


@pytest.mark.parametrize("seed", range(3))
def test_a_worker_ends_any_job_and_runs_the_others(
    work: Start, connection: redis.Redis, tmp_path: Path, seed: int
) -> None:
    dice, bad = random.Random(seed), []
    for _ in range(60):
        job = werk.enqueue(
            dice.choice(["note", "fail"]), str(tmp_path), options=werk.Options(timeout=20)
        )
        if dice.random() < 0.6:
            connection.hset(f"rq:job:{job.id}", "data", noise(dice))
        else:
            change(dice, connection, job.id)
        bad.append(job.id)
        werk.enqueue("note", str(tmp_path), "good")
    worker = work()
    wait_until(lambda: len(runs(tmp_path, "good")) == len(bad), 120)
    finished(werk.enqueue("note", str(tmp_path)), 60)
    assert worker.poll() is None
    output = worker.output()
    for job_id in bad:
        where = ended_in(connection, job_id)
        assert len(where) == 1 or f"event=dropped job={job_id}" in output, (job_id, where)
    assert not connection.keys("rq:wip:*")
