"""How long jobs wait in their queues and how long they run: what horses count, and /metrics."""

from __future__ import annotations

import json
import statistics
import sys
import time
from bisect import bisect_left
from pathlib import Path

import pytest
import redis
import roles
import shifted
from prometheus_client import parser
from rq import Queue
from support import KIT, run, wait_until
from workers import ENV, Start, runs
from workers import work as work

import werk
from werk.ops import metrics
from werk.store import keys
from werk.store.connection import Link, link

JOBS = 300
WAIT, TOOK = "werk_wait_seconds", "werk_execution_seconds"
CALLER = """
import json, sys, time, werk
begun_at = []
for _ in range(int(sys.argv[2])):
    begun_at.append(time.monotonic())  # alike in all processes of a host, and never shifted
    werk.enqueue("doze", sys.argv[1], 0.01)
print(json.dumps(begun_at))
"""


@pytest.fixture
def light(redis_url: str) -> Link:
    return link(roles.settings("reader"))


def histogram(light: Link, name: str, queue: str, task: str) -> dict[str, float]:
    """Return a histogram of /metrics: its buckets by upper bound, sum and count."""
    found: dict[str, float] = {}
    for family in parser.text_string_to_metric_families(metrics.exposition(light)):
        for own in family.samples if family.name == name else ():
            if (own.labels["queue"], own.labels["task"]) == (queue, task):
                key = own.labels.get("le", own.name.removeprefix(f"{name}_"))
                assert key not in found
                found[key] = own.value
    return found


def counted(light: Link, name: str, count: int, queue: str, task: str) -> dict[str, float]:
    def are_counted() -> dict[str, float] | None:
        found = histogram(light, name, queue, task)
        return found if found.get("count") == count else None

    return wait_until(are_counted)


@pytest.mark.parametrize("ahead_s", [0, 90])
def test_p95_of_the_wait_is_what_jobs_have_waited(
    work: Start, light: Link, tmp_path: Path, ahead_s: float
) -> None:
    work()
    env = {**ENV, **shifted.env(tmp_path, ahead_s, KIT)}
    done = run(sys.executable, "-c", CALLER, str(tmp_path), str(JOBS), env=env)
    enqueued_at = json.loads(done.stdout)
    found = counted(light, WAIT, JOBS, "default", "doze")
    began_at = [float(words[2]) for words in runs(tmp_path, "ran")]
    waits = [began - enqueued for began, enqueued in zip(began_at, enqueued_at, strict=True)]
    for part in (50, 95):
        measured = statistics.quantiles(waits, n=100)[part - 1]
        bounds = [*map(str, keys.WAIT_BOUNDS_S), "+Inf"]
        by_histogram = next(bound for bound in bounds if found[bound] >= JOBS * part / 100)
        wanted = bisect_left(keys.WAIT_BOUNDS_S, measured)
        assert abs(bounds.index(by_histogram) - wanted) <= 1, (part, measured, found)
    assert found["sum"] / JOBS == pytest.approx(statistics.mean(waits), abs=0.5)


def test_a_delayed_job_waits_from_the_moment_it_is_due(work: Start, light: Link) -> None:
    work()
    began = time.monotonic()
    werk.enqueue("hello", "Ada", options=werk.Options(delay=3)).result(60)
    took = time.monotonic() - began
    assert counted(light, WAIT, 1, "default", "hello")["sum"] < took - 2  # not from its enqueue on


@pytest.mark.parametrize("free", ["no", "yes"])
def test_a_wait_ends_when_the_task_begins(
    work: Start, light: Link, tmp_path: Path, free: str
) -> None:
    """And not when its result is pickled, which has a time limit of its own if any code may run."""
    work(env={"WERK_ALLOW_UNREGISTERED": free})
    began = time.monotonic()
    werk.enqueue("doze", str(tmp_path), 3).result(60)
    took = time.monotonic() - began
    assert counted(light, WAIT, 1, "default", "doze")["sum"] < took - 2


def test_the_wait_of_a_job_of_plain_rq_is_not_known(
    work: Start, light: Link, connection: redis.Redis, tmp_path: Path
) -> None:
    work()
    job = Queue(connection=connection).enqueue("worker_tasks.note", str(tmp_path))
    wait_until(lambda: job.get_status() == "finished")
    counted(light, TOOK, 1, "default", "note")
    assert histogram(light, WAIT, "default", "note") == {}


@pytest.mark.parametrize("queue", ['a"b\\c', "a/b|c %2F", "ü"])
def test_any_name_of_a_queue_is_a_label(work: Start, light: Link, queue: str) -> None:
    work(queue, "default")
    werk.enqueue("hello", "Ada", options=werk.Options(queue=queue)).result(60)
    counted(light, WAIT, 1, queue, "hello")
    counted(light, TOOK, 1, queue, "hello")


def test_counts_of_older_workers_have_no_queue(light: Link, connection: redis.Redis) -> None:
    connection.hset("rq:werk:tallies", "hello|0.1", 2)
    connection.hset("rq:werk:tallies", "hello|seconds", 0.1)
    connection.hset("rq:werk:tallies", "took/default/hello/0.1", 3)
    assert histogram(light, TOOK, "", "hello")["count"] == 2
    assert histogram(light, TOOK, "default", "hello")["count"] == 3


def test_names_that_stand_for_the_same_queue_are_one_series(
    light: Link, connection: redis.Redis
) -> None:
    for queue in ("a b", "a%20b", "%61 b"):
        connection.hset("rq:werk:tallies", f"waited/{queue}/hello/0.1", 1)
    assert histogram(light, WAIT, "a b", "hello")["count"] == 3


@pytest.mark.parametrize("value", [b"", b"nan", b"inf", b"-5", b"1e400", b"x", b"9" * 400, b"\xff"])
def test_no_value_among_the_counts_breaks_the_page(
    light: Link, connection: redis.Redis, value: bytes
) -> None:
    for kind in ("took", "waited"):
        for what in ("0.1", "+Inf", "seconds", "odd", "", "1/1"):
            connection.hset("rq:werk:tallies", f"{kind}/default/hello/{what}", value)
        for field in (b"/", b"//", b"///", b"/%/%/0.1", b"/%ff/\xff/0.1", b"/" + value + b"/a/0.1"):
            connection.hset("rq:werk:tallies", kind.encode() + field, 1)
    connection.hset("rq:werk:tallies", "waited/low/hello/0.1", 4)
    assert histogram(light, WAIT, "low", "hello")["count"] == 4
    assert set(histogram(light, WAIT, "default", "hello").values()) <= {0.0}
