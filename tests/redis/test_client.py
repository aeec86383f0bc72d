"""Enqueue by name: RQ's own records, once or not at all; and waiting for what comes of it."""

from __future__ import annotations

import asyncio
import gc
import multiprocessing
import os
import pickle
import random
import signal
import socket
import sys
import threading
import time
import warnings
import zlib
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from datetime import date, datetime, timedelta, timezone
from enum import Enum
from functools import partial
from math import nan
from pathlib import Path
from typing import Any
from unittest.mock import ANY
from zoneinfo import ZoneInfo

import pytest
import redis
from faults import listening, losing_replies
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from rq import Queue, Retry, SimpleWorker
from rq.job import Job
from rq.results import Result
from rq.webhook import Webhook
from support import KIT, Process, run, wait_until

import werk
from werk import jobs, registry
from werk.client import enqueue as client
from werk.client import result as results
from werk.client.prepare import prepare
from werk.errors import (
    ArgumentError,
    ConfigError,
    JobCancelled,
    JobFailed,
    JobIdConflict,
    NoSuchJob,
    RedisUnavailable,
    ResultTimeout,
    UnknownTask,
)
from werk.settings import Settings
from werk.store import keys, payload
from werk.store.connection import Command, link
from werk.tasks import catalog
from werk.tasks.arguments import Parameter, Signature

Spawn = Callable[..., Process]

TABLE = {
    "plain": registry.Task("werk.jobs.hello", result_ttl=500, failure_ttl=600, timeout=20),
    "panics_again": registry.Task("werk.jobs.panic", retry=3, retry_delay=100, queue="low"),
    "panics_slowly": registry.Task("werk.jobs.panic", retry_delays=(60, 300, 7200)),
    "eager": registry.Task("werk.jobs.panic", retry_delay=0),
    "secretive": registry.Task("werk.jobs.hello", secret=("name",)),
    "anything": registry.Task("somewhere.else.entirely"),
}


@pytest.fixture(autouse=True)
def _table(monkeypatch: pytest.MonkeyPatch) -> None:
    for name, task in TABLE.items():
        monkeypatch.setitem(registry.TASKS, name, task)


def work(connection: redis.Redis, *queues: str) -> None:
    """Run what waits, in this process."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        SimpleWorker([*queues] or ["default"], connection=connection).work(burst=True)


def snapshot(connection: redis.Redis) -> dict[str, Any]:
    """Everything in Redis."""
    read: dict[bytes, Callable[[bytes], Any]] = {
        b"hash": connection.hgetall,
        b"list": lambda key: connection.lrange(key, 0, -1),
        b"set": connection.smembers,
        b"zset": lambda key: connection.zrange(key, 0, -1),
        b"string": connection.get,
    }
    return {key.decode(): read[connection.type(key)](key) for key in connection.scan_iter()}


# --- the records


def in_an_hour() -> datetime:
    return datetime.now(timezone.utc) + timedelta(hours=1)


@pytest.mark.parametrize(
    ("options", "rq_options"),
    [
        ({}, {}),
        ({"front": True}, {"at_front": True}),
        ({"ttl": 90}, {"ttl": 90}),
        (
            {"timeout": -1, "result_ttl": 77, "failure_ttl": 88},
            {"job_timeout": -1, "result_ttl": 77, "failure_ttl": 88},
        ),
        ({"retry": 2}, {"retry": Retry(2, [10, 20])}),
        ({"expires": 89.5}, {"ttl": 90}),
        ({"ping": "https://x.org/a"}, {"webhooks": [Webhook("https://x.org/a", "finished")]}),
        ({"meta": {"tenant": 7, "day": date(2026, 1, 2)}},) * 2,
        ({"meta": {}}, {"meta": {}}),
        (
            {"meta": {"a": 1}, "ping": "http://x", "result_ttl": "5m"},
            {"meta": {"a": 1}, "webhooks": [Webhook("http://x", "finished")], "result_ttl": 300},
        ),
        ({"at": in_an_hour()}, {"at": True}),
        (
            {"at": in_an_hour(), "front": True, "ttl": 7200},
            {"at": True, "at_front": True, "ttl": 7200},
        ),
    ],
)
def test_every_field_is_the_one_that_rq_writes(
    connection: redis.Redis, options: dict[str, Any], rq_options: dict[str, Any]
) -> None:
    own = werk.enqueue("plain", "Ada", options=werk.Options(**options))
    by_werk, werk_ttl = snapshot(connection), connection.ttl(keys.key("job", own.id))
    connection.flushall()

    defaults = {"job_timeout": 20, "result_ttl": 500, "failure_ttl": 600, "job_id": own.id}
    queue = Queue("default", connection=connection)
    rq_options = {**defaults, **rq_options}
    if rq_options.pop("at", None):
        queue.enqueue_at(options["at"], "werk.jobs.hello", "Ada", **rq_options)
    else:
        queue.enqueue("werk.jobs.hello", "Ada", **rq_options)
    by_rq, rq_ttl = snapshot(connection), connection.ttl(keys.key("job", own.id))

    assert by_werk.keys() == by_rq.keys()
    assert abs(werk_ttl - rq_ttl) <= 10
    job = keys.key("job", own.id)
    ours, theirs = by_werk.pop(job), by_rq.pop(job)
    assert by_werk == by_rq
    assert {name: ours.pop(name) for name in list(ours) if name.startswith(b"werk_")} == {
        b"werk_task": b"plain",
        b"werk_max_crashes": b"2",
        b"werk_v": b"1",
        b"werk_enqueued": ANY,
    }
    assert ours.keys() == theirs.keys()
    assert zlib.decompress(ours.pop(b"data")) == zlib.decompress(theirs.pop(b"data"))
    assert ours.pop(b"description") == b"plain('Ada')"
    del theirs[b"description"]
    for name in (b"created_at", b"enqueued_at", b"retry_intervals"):
        assert (name in ours) == (name in theirs)
        ours.pop(name, None), theirs.pop(name, None)
    assert ours == theirs


def test_the_scheduled_time(connection: redis.Redis) -> None:
    at = in_an_hour()
    handle = werk.enqueue("plain", "Ada", options=werk.Options(at=at))
    assert connection.zscore("rq:scheduled:default", handle.id) == pytest.approx(
        at.timestamp(), abs=0.001
    )
    handle = werk.enqueue("plain", "Ada", options=werk.Options(delay=60.5))
    score = connection.zscore("rq:scheduled:default", handle.id)
    assert score == pytest.approx(time.time() + 60.5, abs=20)
    assert handle.status() == "scheduled"


def test_what_expires_is_counted_from_when_it_was_to_run(connection: redis.Redis) -> None:
    at_hand = werk.enqueue("plain", "Ada", options=werk.Options(expires=600))
    later = werk.enqueue("plain", "Ada", options=werk.Options(expires=600, at=in_an_hour()))
    overdue = werk.Options(expires=600, at=in_an_hour() - timedelta(hours=2))
    for handle, wanted_s in (
        (at_hand, 600),
        (later, 4200),
        (werk.enqueue("plain", "Ada", options=overdue), 600),
    ):
        assert handle.job.ttl == pytest.approx(wanted_s, abs=20)
        assert connection.ttl(keys.key("job", handle.id)) == pytest.approx(wanted_s, abs=20)


@pytest.mark.parametrize("ahead_s", [-3600, 3600])
def test_what_expires_after_a_time_is_counted_on_redis_clock(
    connection: redis.Redis, monkeypatch: pytest.MonkeyPatch, ahead_s: float
) -> None:
    options, true_time = werk.Options(expires=600, at=in_an_hour()), time.time
    with monkeypatch.context() as clock:
        clock.setattr(time, "time", lambda: true_time() + ahead_s)
        handles = werk.enqueue_many("plain", [("Ada",), ("Bob",)], options=options)
    for handle in handles:
        assert handle.job.ttl == pytest.approx(4200, abs=20)
        assert connection.ttl(keys.key("job", handle.id)) == pytest.approx(4200, abs=20)


@pytest.mark.parametrize("worker", ["rq.worker.Worker", "werk.worker.Worker"])
def test_success_alone_is_pinged(redis_url: str, spawn: Spawn, worker: str) -> None:
    spawn("rq", "worker", "--worker-class", worker, "default")
    asked: list[bytes] = []

    def answer(client: socket.socket) -> None:
        asked.append(client.recv(65536).partition(b"\r\n")[0])
        client.sendall(b"HTTP/1.0 200 OK\r\n\r\n")

    with listening(answer) as port:
        url = f"http://127.0.0.1:{port}"
        with pytest.raises(JobFailed):
            werk.enqueue("panic", options=werk.Options(ping=f"{url}/panic")).result(60)
        assert werk.enqueue("hello", "Ada", options=werk.Options(ping=f"{url}/hello")).result(60)
        wait_until(lambda: asked)
    assert [line.split()[:2] for line in asked] == [[b"GET", b"/hello"]]


def test_retries_are_doubled_and_spread(connection: redis.Redis) -> None:
    job = werk.enqueue("panics_again").job
    assert (job.retries_left, job.origin) == (3, "low")
    for seconds, exact in zip(job.retry_intervals, [100, 200, 400], strict=True):
        assert 0.9 * exact <= seconds <= 1.1 * exact
    long = werk.enqueue("panics_again", options=werk.Options(retry=10)).job
    assert max(long.retry_intervals) <= 3600 * 1.1


@pytest.mark.parametrize(
    ("retry", "delays"),
    [(None, [60, 300, 7200]), (2, [60, 300]), (5, [60, 300, 7200, 7200, 7200]), (0, [])],
)
def test_retry_delays_are_written_out_for_all_retries(
    connection: redis.Redis, retry: int | None, delays: list[int]
) -> None:
    job = werk.enqueue("panics_slowly", options=werk.Options(retry=retry)).job
    assert (job.retries_left or 0) == len(delays)
    for seconds, exact in zip(job.retry_intervals or [], delays, strict=True):
        assert 0.9 * exact <= seconds <= 1.1 * exact


def test_secrets_are_masked_and_long_calls_are_cut(connection: redis.Redis) -> None:
    assert werk.enqueue("secretive", "hunter2").job.description == "secretive(***)"
    assert werk.enqueue("secretive", name="hunter2").job.description == "secretive(name=***)"
    assert len(werk.enqueue("plain", "x" * 1000).job.description) == 200
    assert werk.enqueue("plain", "\x1b[2J").job.description == r"plain('\x1b[2J')"


@given(st.lists(st.one_of(st.integers(), st.text(), st.binary(), st.dates(), st.none())))
@settings(max_examples=50, suppress_health_check=list(HealthCheck))
def test_any_plain_arguments_arrive(connection: redis.Redis, args: list[object]) -> None:
    handle = werk.enqueue("anything", *args)
    data = connection.hget(keys.key("job", handle.id), "data")
    assert data is not None
    assert pickle.loads(payload.decompress(data)) == (
        "somewhere.else.entirely",
        None,
        tuple(args),
        {},
    )


# --- once, or not at all


def test_a_lost_reply_enqueues_once(
    redis_url: str, connection: redis.Redis, monkeypatch: pytest.MonkeyPatch
) -> None:
    werk.enqueue("sleep", 0)  # loads the script: from here on each exchange is one enqueue
    connection.delete("rq:queue:default")
    with losing_replies(redis_url, 3) as url:
        monkeypatch.setenv("RQ_REDIS_URL", url)
        handle = werk.enqueue("sleep", 0)
    assert connection.lrange("rq:queue:default", 0, -1) == [handle.id.encode()]
    assert not handle.duplicate


def test_sent_again_after_the_job_has_come_and_gone(connection: redis.Redis) -> None:
    """result_ttl=0: RQ deletes the job when it is done, and the sender may not know yet."""
    request = client.prepare(client.find("sleep"), (0,), {}, werk.Options(result_ttl=0))
    assert not client.send([request])[0].duplicate
    work(connection)
    assert not connection.exists(keys.key("job", request.id))
    assert not client.send([request])[0].duplicate
    assert connection.llen("rq:queue:default") == 0
    assert 0 < connection.ttl(keys.key("werk", "sent", request.id)) <= 60


def test_an_id_that_exists_is_a_duplicate(connection: redis.Redis) -> None:
    options = werk.Options(job_id="nightly-7")
    assert not werk.enqueue("sleep", 1, options=options).duplicate
    before = snapshot(connection)
    other = options._replace(queue="low", delay=60, meta={"a": 1}, retry=2)  # options do not count
    for again in (options, other):
        handle = werk.enqueue("sleep", seconds=1.0, options=again)
        assert (handle.id, handle.duplicate) == ("nightly-7", True)
        assert handle.reason == "job nightly-7 exists already"
    assert snapshot(connection) == before


def test_an_id_of_another_call_is_a_conflict(connection: redis.Redis) -> None:
    options = werk.Options(job_id="nightly-7")
    werk.enqueue("secretive", "hunter2", options=options)
    before = snapshot(connection)
    for name, args in (("secretive", ("hunter3",)), ("plain", ("hunter2",)), ("sleep", (1,))):
        with pytest.raises(JobIdConflict) as refusal:
            werk.enqueue(name, *args, options=options._replace(once_per=60, unless_active=True))
        said = str(refusal.value)
        assert said.startswith("job_id 'nightly-7' belongs to another call, secretive(***); use")
        assert refusal.value.exit_code == 2
    assert snapshot(connection) == before


@pytest.mark.parametrize("by", ["plain RQ", "an id of werk's own"])
def test_an_id_without_a_call_is_a_duplicate(connection: redis.Redis, by: str) -> None:
    if by == "plain RQ":
        job_id = Queue("default", connection=connection).enqueue("werk.jobs.hello", "Ada").id
    else:
        job_id = werk.enqueue("sleep", 1).id
    assert connection.hget(keys.key("job", job_id), "werk_call") is None
    assert werk.enqueue("sleep", 2, options=werk.Options(job_id=job_id)).duplicate


def test_an_expired_id_is_no_conflict(connection: redis.Redis) -> None:
    options = werk.Options(job_id="nightly-7", result_ttl=0)
    werk.enqueue("sleep", 0, options=options)
    work(connection)
    assert not werk.enqueue("plain", "Ada", options=options).duplicate


def test_a_lost_reply_to_a_job_with_an_id_is_no_duplicate(
    redis_url: str, connection: redis.Redis, monkeypatch: pytest.MonkeyPatch
) -> None:
    werk.enqueue("sleep", 0)
    with losing_replies(redis_url, 3) as url:
        monkeypatch.setenv("RQ_REDIS_URL", url)
        assert not werk.enqueue("sleep", 0, options=werk.Options(job_id="mine")).duplicate


ENQUEUE = """
import werk, sys
options = werk.Options(job_id="mine", once_per=float(sys.argv[2]))
handle = werk.enqueue("anything", set(sys.argv[1]), b=2, a={"y": {3, "x"}, "x": 1}, options=options)
print(handle.duplicate, handle.reason)
"""


def test_a_set_is_the_same_argument_whatever_its_order(redis_url: str, tmp_path: Path) -> None:
    """The order of a set differs between processes with different hash seeds."""
    (tmp_path / "here.py").write_text('TASKS = {"anything": "somewhere.else.entirely"}')

    def enqueue(letters: str, seed: int) -> str:
        env = {"PYTHONHASHSEED": str(seed), "WERK_REGISTRY": "here", "PYTHONPATH": str(tmp_path)}
        done = run(sys.executable, "-W", "ignore", "-c", ENQUEUE, letters, "60", env=env)
        return done.stdout.strip() or done.stderr.splitlines()[-1]

    assert enqueue("abcdefgh", 1) == "False"
    for seed in range(2, 6):
        assert enqueue("hgfedcba", seed) == "True job mine exists already"
    assert "JobIdConflict: job_id 'mine' belongs to another call" in enqueue("abcdefgi", 1)


@given(
    st.lists(st.integers() | st.text(), min_size=2, max_size=5, unique=True),
    st.permutations("abcde"),
    st.integers(0, 5),
)
@settings(max_examples=50, deadline=None)
def test_a_call_has_one_form(values: list[object], names: list[str], count: int) -> None:
    """Whether arguments come in order or by name, and in whatever order the names come."""
    shape = Signature(tuple(Parameter(name, "positional") for name in "abcde"))
    call = dict(zip("abcde", [{*values}, *values, None, None], strict=False))
    by_name = {name: call[name] for name in names if name in [*call][count:]}
    bound = shape.bind([*call.values()][:count], by_name)
    assert shape.named(*bound) == shape.named(*shape.bind((), call))


REST = Signature()  # *args, **kwargs
NAMELESS = Signature(  # def f(a=0, /, **kwargs)
    (Parameter("a", "positional", positional_only=True), Parameter("kwargs", "var_keyword"))
)


@pytest.mark.parametrize(
    ("shape", "calls"),
    [
        (REST, [((1, 2), {}), ((1,), {"args": 2}), ((), {"args": 1, "args=": 2})]),
        (REST, [((2,), {}), ((), {"args": 2}), ((), {"args=": 2}), ((), {"kwargs": 2})]),
        (NAMELESS, [((2,), {}), ((), {"a": 2}), ((), {"kwargs": 2})]),
    ],
)
def test_a_name_of_other_arguments_is_not_that_of_a_parameter(
    shape: Signature, calls: list[tuple[Any, Any]]
) -> None:
    def digest(args: tuple[int, ...], kwargs: dict[str, int]) -> str:
        entry = catalog.own_entry("anything")._replace(shape=shape)
        job = prepare(entry, args, kwargs, werk.Options(job_id="own"))
        return dict(zip(job.rare[::2], job.rare[1::2], strict=True))["werk_call"]

    assert len({digest(*call) for call in calls}) == len(calls)
    if shape is REST:  # as before: Redis holds the digests of other versions
        assert digest((1, 2), {"b": 3, "kwargs": 4}) == "741eb26c199b80f26d7d3a39cda53910"


class Word(str, Enum):  # noqa: UP042  # f"{Word.LOW}" is "Word.LOW" from Python 3.11 on
    TASK, PATH, SECRET, ERROR = "worded", "werk.jobs.hello", "name", "requests.ConnectionError"
    LOW, HIGH, ID, PING, DELAY = "low", "high", "mine", "http://localhost/", "5m"


def test_a_text_enum_stands_for_its_text(
    connection: redis.Redis, monkeypatch: pytest.MonkeyPatch
) -> None:
    own = registry.Task(
        Word.PATH, queue=Word.LOW, secret=(Word.SECRET,), retry_on=(Word.ERROR,), timeout=Word.DELAY
    )
    monkeypatch.setitem(registry.TASKS, Word.TASK, own)
    task = registry.tasks()["worded"]
    texts = [*registry.tasks(), task.path, task.queue, *task.secret, *task.retry_on]
    assert {type(text) for text in texts} == {str} and task.timeout == 300

    there, options = werk.enqueue(Word.TASK, "hunter2"), werk.Options(queue=Word.HIGH)
    options = options._replace(job_id=Word.ID, ping=Word.PING, failure_ttl=Word.DELAY)
    moved = werk.enqueue(Word.TASK, "hunter2", options=options)
    assert connection.lrange("rq:queue:low", 0, -1) == [there.id.encode()]
    assert connection.lrange("rq:queue:high", 0, -1) == [b"mine"]
    assert {type(text) for text in (moved.id, moved.task, moved.queue)} == {str}
    assert moved.job.description == "worded(***)" and moved.job.failure_ttl == 300
    assert werk.status(Word.ID) == "queued"
    with pytest.raises(NoSuchJob, match="no job low"):
        werk.status(Word.LOW)


def test_meta_outlasts_a_retry(connection: redis.Redis, spawn: Spawn, tmp_path: Path) -> None:
    table = 'from werk import Task\nTASKS = {"eager": Task("werk.jobs.panic", retry_delay=0)}'
    (tmp_path / "there.py").write_text(table)
    env = {"WERK_REGISTRY": "there", "PYTHONPATH": str(tmp_path)}
    handle = werk.enqueue("eager", options=werk.Options(retry=1, meta={"tenant": 7}))
    spawn("werk", "worker", env=env)
    with pytest.raises(JobFailed):
        handle.result(60)
    assert handle.job.meta == {"tenant": 7}


@pytest.mark.parametrize(
    ("key", "options"),
    [
        ("rq:job:x", {}),
        ("rq:queues", {}),
        ("rq:queue:default", {}),
        ("rq:queue:default", {"front": True}),
        ("rq:scheduled:default", {"delay": 9.0}),
        ("rq:werk:sent:x", {"result_ttl": 0}),
    ],
)
def test_a_key_of_the_wrong_type_leaves_everything_as_it_was(
    connection: redis.Redis, key: str, options: dict[str, Any]
) -> None:
    connection.geoadd(key, (1, 1, "x")) if "scheduled" not in key else connection.set(key, "x")
    before = snapshot(connection)
    with pytest.raises(ConfigError, match=key):
        werk.enqueue("sleep", 1, options=werk.Options(job_id="x", **options))
    assert snapshot(connection) == before


def test_memory_full_leaves_everything_as_it_was(connection: redis.Redis) -> None:
    werk.enqueue("sleep", 1)
    before = snapshot(connection)
    connection.config_set("maxmemory", 1)
    with pytest.raises(RedisUnavailable):
        werk.enqueue("sleep", 1)
    connection.config_set("maxmemory", 0)
    assert snapshot(connection) == before


@pytest.mark.parametrize(
    ("call", "words"),
    [
        (lambda: werk.enqueue("slep", 1), ["did you mean 'sleep'?"]),
        (lambda: werk.enqueue("sleep", "abc"), ["seconds", "'abc'"]),
        (lambda: werk.enqueue("sleep"), ["SECONDS"]),
        (lambda: werk.enqueue("sleep", True), ["seconds"]),
        (lambda: werk.enqueue("anything", object()), ["object", "plain data"]),
        (
            lambda: werk.enqueue("anything", datetime(2026, 1, 1, tzinfo=ZoneInfo("UTC"))),
            ["ZoneInfo", "astimezone"],
        ),
        (
            lambda: werk.enqueue("sleep", 1, options=werk.Options(job_id="a b")),
            ["job_id", "letters"],
        ),
        (
            lambda: werk.enqueue("sleep", 1, timeout=5),
            ["takes no timeout", "timeout is an option: options=werk.Options(timeout=...)"],
        ),
        (
            lambda: werk.enqueue("sleep", retry=1, queue="low"),
            ["retry and queue are options: options=werk.Options(retry=..., queue=...)"],
        ),
        (lambda: werk.enqueue("sleep", 1, options=werk.Options(delay=-1)), ["delay"]),
        (
            lambda: werk.enqueue("sleep", 1, options=werk.Options(delay=1, at=in_an_hour())),
            ["cannot be combined"],
        ),
        (lambda: werk.enqueue("sleep", 1, options=werk.Options(timeout=0)), ["timeout"]),
        (lambda: werk.enqueue("sleep", 1, options=werk.Options(ttl=0)), ["ttl"]),
        (lambda: werk.enqueue("sleep", 1, options=werk.Options(retry=-1)), ["retry"]),
        (lambda: werk.enqueue("sleep", 1, options=werk.Options(queue="")), ["queue"]),
        (lambda: werk.enqueue("sleep", 1, options=werk.Options(ttl=1.5)), ["ttl", "whole"]),
        (lambda: werk.enqueue("sleep", 1, options=werk.Options(retry=10**20)), ["retry"]),
        (lambda: werk.enqueue("sleep", 1, options=werk.Options(result_ttl=2**63)), ["result_ttl"]),
        (lambda: werk.enqueue("sleep", 1, options=werk.Options(at=datetime.max)), ["at"]),
        (lambda: werk.enqueue("sleep", 1, options=werk.Options(timeout="x")), ["timeout: got 'x'"]),
        (lambda: werk.enqueue("sleep", 1, options=werk.Options(once_per=0)), ["once_per"]),
        (lambda: werk.enqueue("sleep", 1, options=werk.Options(once_per="5x")), ["once_per"]),
        (lambda: werk.enqueue("sleep", 1, options=werk.Options(meta=[1])), ["meta: got", "list"]),
        (lambda: werk.enqueue("sleep", 1, options=werk.Options(meta={1: 2})), ["meta", "str"]),
        (lambda: werk.enqueue("sleep", 1, options=werk.Options(meta={"a": sum})), ["meta: the"]),
        (
            lambda: werk.enqueue("sleep", 1, options={"queue": "low", "delay": 5, "x": 1}),
            ["options: got dict; use werk.Options(queue=..., delay=...)"],
        ),
        (lambda: werk.enqueue("sleep", 1, options={}), ["options: got dict; use werk.Options("]),
        (
            lambda: werk.enqueue_many("sleep", [(1,)], options="low"),
            ["options: got str; use werk.Options(...)"],
        ),
        (lambda: werk.enqueue(5, 1), ["got int; use the name of a task, or its function"]),
        (lambda: werk.enqueue(os.path.join), ['"join": "posixpath.join"', "table of tasks"]),
        (lambda: werk.enqueue(jobs.hello, "Ada"), ["several tasks", "hello", "plain", "secretive"]),
        (lambda: werk.enqueue_many("sleep", "12"), ["calls: got str; use a list of calls"]),
        (lambda: werk.enqueue_many("sleep", {"seconds": 1}), ["calls: got dict"]),
        (lambda: werk.enqueue_many("sleep", 5), ["calls: got int"]),
        (lambda: werk.enqueue_many("sleep", [(1,), "2"]), ["calls[1]: got str", "(value,)"]),
        (lambda: werk.enqueue_many("sleep", [(1,), (2,), 3]), ["calls[2]: got int", "dict"]),
        (lambda: werk.enqueue_many("sleep", [{1, 2}]), ["calls[0]: got set"]),
        (lambda: werk.enqueue_many("sleep", [(0,)] * 300 + [{"x": 1}]), ["calls[300]: sleep: "]),
        (lambda: werk.enqueue_many("sleep", [bytearray(b"1")]), ["calls[0]: got bytearray"]),
        (lambda: werk.enqueue_many("sleep", [{5: 1}]), ["calls[0]: sleep: "]),
        *(
            (partial(werk.enqueue_call, "hello", args), [f"args: got {kind}; use a tuple", "dict"])
            for args, kind in (
                ({"name": "Ada"}, "dict"),
                ({"Ada"}, "set"),
                ("Ada", "str"),
                (b"A", "bytes"),
                ((name for name in ["Ada"]), "generator"),
                (None, "NoneType"),
            )
        ),
        (lambda: werk.enqueue_call("hello", (), [("name", "Ada")]), ["kwargs: got list; use a di"]),
        (lambda: werk.enqueue_call("hello", ["Ada"], []), ["kwargs: got list"]),
        (lambda: werk.enqueue_call("hello", ["Ada"], {5: 1}), ["hello: "]),
        (lambda: werk.enqueue("sleep", 1, options=werk.Options(slot="")), ["slot"]),
        (lambda: werk.enqueue("sleep", 1, options=werk.Options(expires=0)), ["expires"]),
        (lambda: werk.enqueue("sleep", 1, options=werk.Options(expires=9, ttl=9)), ["combined"]),
        (lambda: werk.enqueue("sleep", 1, options=werk.Options(ping="ftp://x")), ["ping", "http"]),
        (lambda: werk.enqueue("sleep", 1, options=werk.Options(ping="http://")), ["ping", "http"]),
        (lambda: werk.enqueue_many("sleep", [(1,), ("x",)]), ["seconds", "'x'"]),
        (lambda: werk.enqueue_many("sleep", [(1,)], options=werk.Options(job_id="x")), ["job_id"]),
    ],
)
def test_bad_input_is_refused_and_nothing_is_sent(
    connection: redis.Redis, call: Callable[[], object], words: list[str]
) -> None:
    with pytest.raises((ArgumentError, UnknownTask)) as refusal:
        call()
    assert all(word in str(refusal.value) for word in words), refusal.value
    assert connection.keys() == []


def test_a_registered_function_stands_for_its_name(connection: redis.Redis) -> None:
    assert werk.enqueue(jobs.sleep, 1).task == "sleep"
    assert [handle.task for handle in werk.enqueue_many(jobs.sleep, [(1,)])] == ["sleep"]


def test_a_function_that_only_workers_have_registered(
    connection: redis.Redis, monkeypatch: pytest.MonkeyPatch
) -> None:
    pages = catalog.pages()
    monkeypatch.setattr(registry, "TASKS", {})
    registry.tasks.cache_clear()
    with pytest.raises(UnknownTask, match='add it to the table of tasks: "sleep"'):
        werk.enqueue(jobs.sleep, 1)
    connection.hset("rq:werk:catalog", mapping=dict(zip(pages[::2], pages[1::2], strict=True)))
    assert werk.enqueue(jobs.sleep, 1).task == "sleep"


def test_a_function_of_the_main_script(redis_url: str) -> None:
    script = "import werk\ndef resize(): pass\nwerk.enqueue(resize)"
    said = "UnknownTask: function __main__.resize cannot be imported by workers; define it at the"
    assert said in run(sys.executable, "-c", script).stderr.splitlines()[-1]
    with pytest.raises(UnknownTask, match=r"<lambda> cannot be imported"):
        werk.enqueue(lambda: None)


def test_a_typed_function_is_not_a_task(connection: redis.Redis) -> None:
    scope: dict[str, Any] = {"__name__": "typed"}
    exec("import werk as _werk\ndef total(): return _werk.enqueue('total')", scope)
    said = r"typed.total is a typed call, which enqueues by itself; call total\(\.\.\.\), or await"
    with pytest.raises(ArgumentError, match=said):
        werk.enqueue(scope["total"])


def test_the_handle_of_a_duplicate_has_the_id_of_the_job_and_the_queue_of_the_call(
    connection: redis.Redis,
) -> None:
    options = werk.Options(job_id="own", queue="low", require_worker=None)  # type: ignore[arg-type]
    werk.enqueue("sleep", 0, options=options)
    again = werk.enqueue("sleep", 0, options=options._replace(queue="high"))
    assert (again.id, again.duplicate, again.queue, again.job.origin) == (
        "own",
        True,
        "high",
        "low",
    )


def test_a_job_is_named_by_its_id_or_its_handle(connection: redis.Redis) -> None:
    handle = werk.enqueue("sleep", 0, options=werk.Options(job_id="own"))
    assert repr(handle) == "Handle(id='own', task='sleep', queue='default')"
    assert werk.status(handle) == werk.status("own") == "queued"
    for wrong in (werk.status, werk.result):
        with pytest.raises(ArgumentError, match="job_id: got int; use the id of a job, or its han"):
            wrong(5)  # type: ignore[operator]


@pytest.mark.parametrize(
    ("wrong", "said"),
    [
        ({"job_id": 5}, r"job_id: got 5; use a text \(str\)"),
        ({"at": "tomorrow"}, r"at: got 'tomorrow'; use a datetime, such as datetime\(2026"),
        ({"ping": 5}, r"ping: got 5; use a text"),
        ({"require_worker": "yes"}, "require_worker: got 'yes'; use True or False"),
        ({"front": "no"}, "front: got 'no'; use True or False"),
        ({"unless_active": 5}, "unless_active: got 5; use True or False"),
        ({"queue": werk.Options()}, "queue a value of type Options is not a queue name"),
        ({"queue": "a,b"}, "queue 'a,b' is not a queue name; use one without a comma"),
    ],
)
def test_an_option_of_a_wrong_type(wrong: dict[str, Any], said: str) -> None:
    with pytest.raises(ArgumentError, match=said):
        werk.enqueue("sleep", 0, options=werk.Options(**wrong))


def test_an_unknown_option_brings_the_nearest() -> None:
    with pytest.raises(TypeError, match="Options has no 'dealy'; did you mean 'delay'"):
        werk.Options(dealy=5)  # type: ignore[call-arg]
    with pytest.raises(TypeError, match=r"Task\('a\.b'\) has no 'timout'; did you mean 'timeout'"):
        werk.Task("a.b", timout=5)  # type: ignore[call-arg]


def test_the_module_shows_what_it_offers() -> None:
    done = run(sys.executable, "-c", "import werk; print(dir(werk)); help(werk)").stdout
    names, _, page = done.partition("\n")
    assert all(repr(name) in names for name in [*werk.__all__, "aio"])
    assert "enqueue_many(" in page and "class Options(" in page


def test_an_object_with_fields_brings_its_way_to_plain_data(connection: redis.Redis) -> None:
    @dataclass
    class Order:
        number: int

    class Model:
        def model_dump(self) -> dict[str, object]: ...

    with pytest.raises(ArgumentError, match=r"Order; use dataclasses\.asdict\("):
        werk.enqueue("hello", Order(1))
    with pytest.raises(ArgumentError, match=r"Model; use its \.model_dump\(mode="):
        werk.enqueue("hello", Model())


def test_a_result_is_waited_for_as_long_as_any_duration_says(connection: redis.Redis) -> None:
    handle = werk.enqueue("sleep", 0)
    for timeout in (0, -1):
        with pytest.raises(ResultTimeout, match=rf"^job {handle.id} is queued$"):
            handle.result(timeout)
    for later in ("0.01s", timedelta(milliseconds=10)):
        said = r"not started after 0\.01 s; no worker listens on queue default; start one: werk wor"
        with pytest.raises(ResultTimeout, match=said):
            handle.result(later)
    connection.sadd("rq:workers:default", "rq:worker:any")
    with pytest.raises(
        ResultTimeout, match=r"not started after 0\.01 s; it stays queued: werk res"
    ):
        werk.result(handle, "0.01s")
    for wait in (handle.result, partial(werk.result, handle.id)):
        with pytest.raises(ArgumentError, match="timeout: got 'abc'; use seconds, or a text"):
            wait("abc")
        for endless in (10**400, nan):
            with pytest.raises(ArgumentError, match=r"timeout: got .+; use seconds"):
                wait(endless)


def test_many(connection: redis.Redis) -> None:
    handles = werk.enqueue_many("sleep", [(0,), {"seconds": 0}] * 1500)
    assert len({handle.id for handle in handles}) == 3000
    assert connection.llen("rq:queue:default") == 3000
    assert [handle.id.encode() for handle in handles] == connection.lrange(
        "rq:queue:default", 0, -1
    )


@pytest.mark.parametrize(
    "options",
    [
        werk.Options(),
        werk.Options(ttl=50, result_ttl=5, retry=2, ping="http://x.org/"),
        werk.Options(delay=9000, front=True),
        werk.Options(once_per=60, unless_active=True),
    ],
)
def test_each_of_many_is_as_one_alone(connection: redis.Redis, options: werk.Options) -> None:
    def left(id_or_key: str) -> float:
        return pytest.approx(connection.ttl(id_or_key), abs=10)

    alone = werk.enqueue("panics_again", "c", options=options)
    wanted, kept_s = connection.hgetall(f"rq:job:{alone.id}"), left(f"rq:job:{alone.id}")
    sent_s = left(f"rq:werk:sent:{alone.id}")
    connection.flushall()
    handles = werk.enqueue_many("panics_again", [("a",), ("b",), ("c",)], options=options)
    found = [connection.hgetall(f"rq:job:{handle.id}") for handle in handles]
    assert len({job[b"data"] for job in found}) == len({job[b"description"] for job in found}) == 3
    if options.retry:
        assert len({job[b"retry_intervals"] for job in found}) > 1
    times = {b"created_at", b"enqueued_at", b"werk_enqueued", b"retry_intervals"}
    assert found[2].keys() == wanted.keys()
    assert all(found[2][name] == wanted[name] for name in wanted.keys() - times)
    for handle in handles:
        assert connection.ttl(f"rq:job:{handle.id}") == kept_s
        assert connection.ttl(f"rq:werk:sent:{handle.id}") == sent_s
    guards = 3 if options.unless_active else 0
    assert len(connection.keys("rq:werk:period:*")) == guards
    assert len(connection.keys("rq:werk:last:*")) == guards


def test_a_client_of_the_callers_own(connection: redis.Redis) -> None:
    handle = werk.enqueue("hello", "Ada", connection=connection)
    work(connection)
    assert handle.result(60) == "Hello Ada"
    assert isinstance(handle.job, Job)
    with pytest.raises(ConfigError, match="decode_responses"):
        werk.enqueue("hello", "x", connection=redis.Redis(decode_responses=True))


def test_a_client_that_is_gone_leaves_no_connection_behind(redis_url: str) -> None:
    before = len(os.listdir("/proc/self/fd"))
    for _ in range(20):
        with redis.Redis.from_url(redis_url) as own:
            werk.enqueue("hello", "Ada", connection=own)
        del own
    gc.collect()
    assert len(os.listdir("/proc/self/fd")) <= before + 2


def test_threads_and_forks_have_their_own_links(connection: redis.Redis) -> None:
    werk.enqueue("hello", "Ada")
    threads = [
        threading.Thread(target=lambda: [werk.enqueue("hello", "Ada") for _ in range(50)])
        for _ in range(4)
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    child = os.fork()
    if child == 0:
        werk.enqueue("hello", "Ada")
        os._exit(0)
    assert wait_until(lambda: os.waitpid(child, os.WNOHANG))[1] == 0
    werk.enqueue("hello", "Ada")
    wait_until(lambda: connection.llen("rq:queue:default") == 203)


# --- once per period, once per slot, not while the last one is active


HOURLY = werk.Options(once_per=3600)
ALONE = werk.Options(unless_active=True)


def only_key(connection: redis.Redis, kind: str) -> str:
    [key] = connection.keys(f"rq:werk:{kind}:*")
    return key.decode()


def test_once_per_period(connection: redis.Redis) -> None:
    first = werk.enqueue("sleep", 1, options=HOURLY)
    assert not first.duplicate
    left_s = connection.pttl(only_key(connection, "period")) / 1000
    assert left_s == pytest.approx(0.9 * 3600, abs=10)
    before = snapshot(connection)
    again = werk.enqueue("sleep", seconds=1.0, options=werk.Options(once_per=60))
    assert (again.duplicate, again.id) == (True, first.id)
    assert again.reason == f"job {first.id} was already enqueued in this period"
    assert again.status() == "queued"
    assert snapshot(connection) == before
    connection.delete(only_key(connection, "period"))
    assert not werk.enqueue("sleep", 1, options=HOURLY).duplicate


def test_what_ends_a_period_is_time_and_nothing_else(connection: redis.Redis) -> None:
    second = werk.Options(once_per=1)
    begun = time.monotonic()
    connection.delete(keys.key("job", werk.enqueue("sleep", 0, options=second).id))
    wait_until(lambda: not werk.enqueue("sleep", 0, options=second).duplicate)
    assert time.monotonic() - begun > 0.89


@pytest.mark.parametrize("options", [HOURLY, werk.Options(slot="12:05"), ALONE])
def test_other_arguments_tasks_and_queues_are_other_jobs(
    connection: redis.Redis, options: werk.Options
) -> None:
    calls = [("plain", "Ada"), ("plain", "Bob"), ("secretive", "Ada")]
    assert not any(werk.enqueue(*call, options=options).duplicate for call in calls)
    assert all(werk.enqueue(*call, options=options).duplicate for call in calls)
    elsewhere = werk.enqueue("plain", "Ada", options=options._replace(queue="low"))
    assert elsewhere.duplicate == options.unless_active  # which looks at the job, wherever it is


def test_arguments_in_another_order_are_the_same(connection: redis.Redis) -> None:
    werk.enqueue("anything", {"a": 1, "b": {3, "x"}}, options=HOURLY, y=1, z=2)
    again = werk.enqueue("anything", {"b": {"x", 3}, "a": 1}, options=HOURLY, z=2, y=1)
    assert again.duplicate
    assert not werk.enqueue("anything", {"b": {"x"}, "a": 1}, options=HOURLY, z=2, y=1).duplicate


def test_once_per_slot(connection: redis.Redis) -> None:
    def enqueue(slot: str) -> werk.Handle:
        return werk.enqueue("sleep", 1, options=werk.Options(slot=slot, once_per=3600))

    first = enqueue("12:05")
    assert connection.ttl(only_key(connection, "slot")) == pytest.approx(48 * 3600, abs=10)
    again = enqueue("12:05")
    assert (again.id, again.reason) == (
        first.id,
        f"job {first.id} was already enqueued for this slot",
    )
    assert not enqueue("12:10").duplicate  # the slot alone decides


def test_eight_processes_at_the_same_instant(redis_url: str, connection: redis.Redis) -> None:
    context = multiprocessing.get_context("fork")
    options = werk.Options(once_per=300, slot=None)
    start, replies = context.Barrier(8), context.SimpleQueue()

    def enqueue() -> None:
        results.status(werk.enqueue("plain", "warm-up").id)  # connected, all is loaded
        start.wait(60)
        handle = werk.enqueue("sleep", 1, options=options)
        replies.put((handle.duplicate, handle.id))

    processes = [context.Process(target=enqueue) for _ in range(8)]
    for process in processes:
        process.start()
    found = sorted(replies.get() for _ in processes)
    for process in processes:
        process.join(60)
        assert process.exitcode == 0
    assert [duplicate for duplicate, _ in found] == [False] + [True] * 7
    assert len({job_id for _, job_id in found}) == 1
    assert connection.llen("rq:queue:default") == 8 + 1


@pytest.mark.parametrize("options", [HOURLY, werk.Options(slot="x"), ALONE])
def test_a_lost_reply_is_no_duplicate(
    redis_url: str, connection: redis.Redis, monkeypatch: pytest.MonkeyPatch, options: werk.Options
) -> None:
    werk.enqueue("plain", "Ada")  # loads the script
    with losing_replies(redis_url, 3) as url:
        monkeypatch.setenv("RQ_REDIS_URL", url)
        handle = werk.enqueue("sleep", 0, options=options)
    assert not handle.duplicate
    assert connection.llen("rq:queue:default") == 2


def test_the_holders_own_resend_after_its_job_is_gone(connection: redis.Redis) -> None:
    request = client.prepare(client.find("sleep"), (0,), {}, HOURLY)
    assert not client.send([request])[0].duplicate
    connection.delete(keys.key("job", request.id), "rq:queue:default")
    assert not client.send([request])[0].duplicate
    assert not connection.exists("rq:queue:default")
    later = request._replace(
        created_at=keys.iso(time.time())
    )  # the same id of one's own, another tick
    assert client.send([later])[0].duplicate


def test_unless_active(connection: redis.Redis) -> None:
    first = werk.enqueue("sleep", 0, options=ALONE)
    assert 0 < connection.ttl(only_key(connection, "last")) <= 30 * 24 * 3600
    for status in ("queued", "scheduled", "deferred", "started"):
        connection.hset(keys.key("job", first.id), "status", status)
        before = snapshot(connection)
        again = werk.enqueue("sleep", 0, options=ALONE)
        assert (again.duplicate, again.id) == (True, first.id)
        assert again.reason == f"job {first.id} is still {status}"
        assert snapshot(connection) == before
    for status in ("finished", "failed", "stopped", "canceled"):
        connection.hset(keys.key("job", first.id), "status", status)
        first = werk.enqueue("sleep", 0, options=ALONE)
        assert not first.duplicate
    connection.delete(keys.key("job", first.id))
    assert not werk.enqueue("sleep", 0, options=ALONE).duplicate


def test_one_enqueued_without_the_flag_is_in_nobodys_way(connection: redis.Redis) -> None:
    werk.enqueue("sleep", 0)
    assert not werk.enqueue("sleep", 0, options=ALONE).duplicate
    assert not werk.enqueue("sleep", 0).duplicate


def test_one_that_is_active_for_a_day_is_reported_and_no_longer_holds(
    connection: redis.Redis,
) -> None:
    first = werk.enqueue("sleep", 0, options=ALONE)
    pointer = only_key(connection, "last")
    connection.expire(pointer, 29 * 24 * 3600 + 60)
    assert werk.enqueue("sleep", 0, options=ALONE).duplicate
    connection.expire(pointer, 29 * 24 * 3600 - 1)
    with pytest.warns(werk.WerkWarning, match=f"{first.id} has been queued for more than a day"):
        second = werk.enqueue("sleep", 0, options=ALONE)
    assert not second.duplicate
    assert len(second.warnings) == 2  # and that there is no worker
    assert connection.get(pointer) == second.id.encode()


def test_both_must_pass_and_what_fails_one_takes_neither(connection: redis.Redis) -> None:
    both = werk.Options(once_per=3600, unless_active=True)
    first = werk.enqueue("sleep", 0, options=ALONE)
    assert "still queued" in werk.enqueue("sleep", 0, options=both).reason
    assert not connection.keys("rq:werk:period:*")
    connection.hset(keys.key("job", first.id), "status", "finished")
    second = werk.enqueue("sleep", 0, options=both)
    assert not second.duplicate
    connection.hset(keys.key("job", second.id), "status", "finished")
    assert "this period" in werk.enqueue("sleep", 0, options=both).reason
    assert connection.get(only_key(connection, "last")) == second.id.encode()


@pytest.mark.parametrize("options", [HOURLY, werk.Options(slot="x"), ALONE])
def test_in_one_batch(connection: redis.Redis, options: werk.Options) -> None:
    handles = werk.enqueue_many("plain", [("Ada",), ("Bob",), ("Ada",)], options=options)
    assert [handle.duplicate for handle in handles] == [False, False, True]
    assert handles[2].id == handles[0].id
    assert connection.llen("rq:queue:default") == 2


@pytest.mark.parametrize(
    ("kind", "options"),
    [("period", HOURLY), ("slot", werk.Options(slot="x")), ("last", ALONE)],
)
def test_a_hold_of_the_wrong_type_or_a_full_memory_changes_nothing(
    connection: redis.Redis, kind: str, options: werk.Options
) -> None:
    werk.enqueue("sleep", 1, options=options)
    key = only_key(connection, kind)
    connection.flushall()
    connection.config_set("maxmemory", 1)
    with pytest.raises(RedisUnavailable):
        werk.enqueue("sleep", 1, options=options)
    connection.config_set("maxmemory", 0)
    assert connection.keys() == []
    connection.rpush(key, "x")
    with pytest.raises(ConfigError, match=key):
        werk.enqueue("sleep", 1, options=options)
    assert connection.keys() == [key.encode()]


@pytest.mark.parametrize("off_s", [0.0, 90.0, -90.0])
def test_simulated_cron(connection: redis.Redis, off_s: float) -> None:
    """2,000 ticks on three hosts; where one is off, another misses one tick in ten.

    Time is injected: between two enqueues the hold is made shorter by what would have passed.
    """
    chance = random.Random(off_s)
    ticks, period_s = 2000, 300.0
    hosts = [(0.0, 0.0), (off_s, 0.0), (0.0, 0.1 if off_s else 0.0)]  # off by, misses
    events = sorted(
        (tick * period_s + off + chance.uniform(-0.5, 0.5), tick)
        for tick in range(ticks)
        for off, misses in hosts
        if chance.random() >= misses
    )
    accepted, now, key = [], events[0][0], ""
    for at, tick in events:
        left_ms = connection.pttl(key) - int((at - now) * 1000) if key else 0
        if key and left_ms > 0:
            connection.pexpire(key, left_ms)
        elif key:
            connection.delete(key)
        if not werk.enqueue("sleep", 1, options=werk.Options(once_per=period_s)).duplicate:
            accepted.append(tick)
            key = only_key(connection, "period")
        now = at
    assert len(set(accepted)) == len(accepted)
    assert ticks - len(accepted) <= (ticks // 100 if off_s else 0)


def test_unless_active_and_a_worker_that_was_killed(
    connection: redis.Redis, spawn: Spawn, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    tests = str(KIT)
    monkeypatch.setenv("WERK_REGISTRY", "worker_tasks:TASKS")
    monkeypatch.setenv("PYTHONPATH", tests)
    monkeypatch.syspath_prepend(tests)
    registry.tasks.cache_clear()

    def begun(count: int) -> bool:
        runs = tmp_path / "runs"
        return runs.exists() and runs.read_text().count("begins") == count

    def enqueue() -> werk.Handle:
        return werk.enqueue("block", str(tmp_path), options=ALONE)

    worker = ("rq", "worker", "--worker-class", "fast_worker.Worker", "default")
    first = enqueue()
    killed = spawn(*worker)
    wait_until(lambda: begun(1))
    os.kill(killed.pid, signal.SIGKILL)
    killed.wait()
    assert enqueue().id == first.id
    spawn(*worker)
    wait_until(lambda: begun(2))
    assert enqueue().id == first.id
    (tmp_path / "go").touch()
    assert first.result(60) == "ends"
    assert not enqueue().duplicate


# --- results


def test_results_of_plain_rq_workers(connection: redis.Redis, spawn: Spawn, redis_url: str) -> None:
    spawn("rq", "worker", "default", env={"RQ_REDIS_URL": redis_url})
    assert werk.enqueue("hello", "Ada").result(60) == "Hello Ada"
    assert werk.enqueue("sleep", 0.1).result(60) is True
    with pytest.raises(JobFailed, match="RuntimeError: panic! as asked") as failure:
        werk.enqueue("panic").result(60)
    assert failure.value.traceback.startswith("Traceback")
    slow = werk.enqueue("sleep", 60)
    begun = time.monotonic()
    with pytest.raises(ResultTimeout, match=slow.id):
        slow.result(0.3)
    assert time.monotonic() - begun < 30  # the job takes 60 s
    assert wait_until(lambda: slow.status() == "started")


def test_a_timeout_of_nothing_looks_once(connection: redis.Redis) -> None:
    handle = werk.enqueue("hello", "Ada")
    with pytest.raises(ResultTimeout):
        handle.result(0)
    work(connection)
    assert handle.result(0) == "Hello Ada"


@pytest.mark.parametrize(
    ("end", "error"),
    [
        (lambda job: job.cancel(), JobCancelled),
        (lambda job: job.delete(), NoSuchJob),
        (lambda job: job.set_status("stopped"), JobCancelled),
    ],
)
def test_the_end_of_a_job_ends_the_wait(
    connection: redis.Redis, end: Callable[[Job], object], error: type[Exception]
) -> None:
    handle = werk.enqueue("hello", "Ada")
    job = Job.fetch(handle.id, connection=connection)
    timer = threading.Timer(0.2, lambda: end(job))
    timer.start()
    begun = time.monotonic()
    with pytest.raises(error):
        handle.result(60)
    assert time.monotonic() - begun < 30
    timer.join()


def test_a_job_that_keeps_no_result(connection: redis.Redis) -> None:
    handle = werk.enqueue("hello", "Ada", options=werk.Options(result_ttl=0))
    timer = threading.Timer(0.2, lambda: connection.delete(keys.key("job", handle.id)))
    timer.start()
    assert handle.result(60) is None
    timer.join()
    assert handle.result(60) is None
    assert werk.result(handle, 60) is None
    assert asyncio.run(werk.aio.result(handle, 60)) is None
    with pytest.raises(NoSuchJob):
        werk.result(handle.id)


@pytest.mark.parametrize("delay", [None, 30])
def test_a_job_that_expires_before_it_runs_has_no_result(
    connection: redis.Redis, delay: int | None
) -> None:
    """Although it would have kept none: it did not run."""
    handle = werk.enqueue("hello", "Ada", options=werk.Options(result_ttl=0, ttl=60, delay=delay))
    connection.pexpire(keys.key("job", handle.id), 700)
    with pytest.raises(NoSuchJob, match=f"^no job {handle.id}: it expired before it started$"):
        handle.result(60)


def test_a_job_that_runs_before_it_expires_keeps_no_result(connection: redis.Redis) -> None:
    handle = werk.enqueue("hello", "Ada", options=werk.Options(result_ttl=0, ttl=60))
    timer = threading.Timer(0.2, lambda: connection.delete(keys.key("job", handle.id)))
    timer.start()  # it stands for a worker
    assert handle.result(60) is None
    timer.join()
    handle = werk.enqueue("hello", "Ada", options=werk.Options(result_ttl=0, ttl=60))
    connection.hset(keys.key("job", handle.id), "status", "started")
    connection.pexpire(keys.key("job", handle.id), 200)
    assert handle.result(60) is None


@pytest.mark.parametrize("has_looked", [True, False])
@pytest.mark.parametrize("earlier", [False, True])
def test_a_job_that_ends_between_two_commands_of_a_look(
    connection: redis.Redis, has_looked: bool, earlier: bool
) -> None:
    """The first command finds no result of this run, the second one that it has finished."""
    handle = werk.enqueue("hello", "Ada")
    if earlier:
        own = Job.fetch(handle.id, connection=connection)
        Result.create_failure(own, 60, "earlier")
    near = link(Settings.read())
    waiting = results.Waiting(handle.id, near)
    if has_looked:
        assert waiting.look() is None
    each = near.calls

    def slowly(commands: Sequence[Command]) -> list[Any]:
        found = []
        for command in commands:
            if command[0] == "HMGET":
                work(connection)
            found += each([command])
        return found

    near.calls = slowly  # type: ignore[method-assign]
    assert waiting.look(0.05) == ("Hello Ada",)
    near.close()


def test_what_an_earlier_run_left_is_not_the_result(connection: redis.Redis) -> None:
    handle = werk.enqueue("panic")
    work(connection)
    with pytest.raises(JobFailed):
        handle.result(1)
    Job.fetch(handle.id, connection=connection).requeue()
    with pytest.raises(ResultTimeout):
        handle.result(0.2)


def test_no_such_job(connection: redis.Redis) -> None:
    with pytest.raises(NoSuchJob):
        werk.result("nope")
    with pytest.raises(NoSuchJob):
        results.status("nope")


def test_a_result_that_would_run_code_is_unreadable(connection: redis.Redis) -> None:
    handle = werk.enqueue("hello", "Ada")
    work(connection)
    [(entry, _)] = connection.xrange(keys.key("results", handle.id))
    connection.xdel(keys.key("results", handle.id), entry)
    evil = b"Y3Bvc2l4CnN5c3RlbQooUyd0cnVlJwp0Ui4="  # base64 of a pickle that calls os.system
    connection.xadd(keys.key("results", handle.id), {"type": 1, "return_value": evil})
    with pytest.raises(werk.Unreadable):
        handle.result(1)
