"""Enqueue by name: RQ's own records, once or not at all; and waiting for what comes of it."""

from __future__ import annotations

import gc
import os
import pickle
import threading
import time
import warnings
from collections.abc import Callable
from datetime import datetime, timedelta, timezone
from typing import Any
from zoneinfo import ZoneInfo

import pytest
import redis
from faults import losing_replies
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from rq import Queue, Retry, SimpleWorker
from rq.job import Job
from support import Process, wait_until

import werk
from werk import client, registry, wire
from werk.errors import (
    ArgumentError,
    ConfigError,
    JobCancelled,
    JobFailed,
    NoSuchJob,
    RedisUnavailable,
    ResultTimeout,
    UnknownTask,
)

Spawn = Callable[..., Process]

TABLE = {
    "plain": registry.Task("werk.jobs.hello", result_ttl=500, failure_ttl=600, timeout=20),
    "retried": registry.Task("werk.jobs.panic", retry=3, retry_delay=100, queue="low"),
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
    by_werk, werk_ttl = snapshot(connection), connection.ttl(wire.key("job", own.id))
    connection.flushall()

    defaults = {"job_timeout": 20, "result_ttl": 500, "failure_ttl": 600, "job_id": own.id}
    queue = Queue("default", connection=connection)
    rq_options = {**defaults, **rq_options}
    if rq_options.pop("at", None):
        queue.enqueue_at(options["at"], "werk.jobs.hello", "Ada", **rq_options)
    else:
        queue.enqueue("werk.jobs.hello", "Ada", **rq_options)
    by_rq, rq_ttl = snapshot(connection), connection.ttl(wire.key("job", own.id))

    assert by_werk.keys() == by_rq.keys()
    assert abs(werk_ttl - rq_ttl) <= 1
    job = wire.key("job", own.id)
    ours, theirs = by_werk.pop(job), by_rq.pop(job)
    assert by_werk == by_rq
    assert {name: ours.pop(name) for name in list(ours) if name.startswith(b"werk_")} == {
        b"werk_task": b"plain",
        b"werk_max_crashes": b"2",
    }
    assert ours.keys() == theirs.keys()
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
    assert score == pytest.approx(time.time() + 60.5, abs=5)
    assert handle.status() == "scheduled"


def test_retries_are_doubled_and_spread(connection: redis.Redis) -> None:
    job = werk.enqueue("retried").job
    assert (job.retries_left, job.origin) == (3, "low")
    for seconds, exact in zip(job.retry_intervals, [100, 200, 400], strict=True):
        assert 0.9 * exact <= seconds <= 1.1 * exact
    long = werk.enqueue("retried", options=werk.Options(retry=10)).job
    assert max(long.retry_intervals) <= 3600 * 1.1


def test_secrets_are_masked_and_long_calls_are_cut(connection: redis.Redis) -> None:
    assert werk.enqueue("secretive", "hunter2").job.description == "secretive(***)"
    assert werk.enqueue("secretive", name="hunter2").job.description == "secretive(name=***)"
    assert len(werk.enqueue("plain", "x" * 1000).job.description) == 200
    assert werk.enqueue("plain", "\x1b[2J").job.description == r"plain('\x1b[2J')"


@given(st.lists(st.one_of(st.integers(), st.text(), st.binary(), st.dates(), st.none())))
@settings(max_examples=50, suppress_health_check=[HealthCheck.function_scoped_fixture])
def test_any_plain_arguments_arrive(connection: redis.Redis, args: list[object]) -> None:
    handle = werk.enqueue("anything", *args)
    data = connection.hget(wire.key("job", handle.id), "data")
    assert data is not None
    assert pickle.loads(wire.decompress(data)) == ("somewhere.else.entirely", None, tuple(args), {})


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
    request = client.prepare("sleep", (0,), {}, werk.Options(result_ttl=0))
    assert not client.send([request])[0].duplicate
    work(connection)
    assert not connection.exists(wire.key("job", request.id))
    assert not client.send([request])[0].duplicate
    assert connection.llen("rq:queue:default") == 0
    assert 0 < connection.ttl(wire.key("werk", "sent", request.id)) <= client.SENT_MEMORY_S


def test_an_id_that_exists_is_a_duplicate(connection: redis.Redis) -> None:
    options = werk.Options(job_id="nightly-7")
    assert not werk.enqueue("sleep", 1, options=options).duplicate
    before = snapshot(connection)
    assert werk.enqueue("sleep", 2, options=options).duplicate
    assert snapshot(connection) == before


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
        (lambda: werk.enqueue("slep", 1), ["did you mean sleep?"]),
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
        (lambda: werk.enqueue("sleep", 1, options=werk.Options(delay=-1)), ["delay"]),
        (
            lambda: werk.enqueue("sleep", 1, options=werk.Options(delay=1, at=in_an_hour())),
            ["exclude"],
        ),
        (lambda: werk.enqueue("sleep", 1, options=werk.Options(timeout=0)), ["timeout"]),
        (lambda: werk.enqueue("sleep", 1, options=werk.Options(ttl=0)), ["ttl"]),
        (lambda: werk.enqueue("sleep", 1, options=werk.Options(retry=-1)), ["retry"]),
        (lambda: werk.enqueue("sleep", 1, options=werk.Options(queue="")), ["queue"]),
        (lambda: werk.enqueue("sleep", 1, options=werk.Options(ttl=1.5)), ["ttl", "whole"]),
        (lambda: werk.enqueue("sleep", 1, options=werk.Options(retry=10**20)), ["retry"]),
        (lambda: werk.enqueue("sleep", 1, options=werk.Options(result_ttl=2**63)), ["result_ttl"]),
        (lambda: werk.enqueue("sleep", 1, options=werk.Options(at=datetime.max)), ["at"]),
        (lambda: werk.enqueue("sleep", 1, options=werk.Options(timeout="5")), ["timeout", "int"]),
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


def test_many(connection: redis.Redis) -> None:
    handles = werk.enqueue_many("sleep", [(0,), {"seconds": 0}] * 1500)
    assert len({handle.id for handle in handles}) == 3000
    assert connection.llen("rq:queue:default") == 3000
    assert [handle.id.encode() for handle in handles] == connection.lrange(
        "rq:queue:default", 0, -1
    )


def test_a_client_of_the_callers_own(connection: redis.Redis) -> None:
    handle = werk.enqueue("hello", "Ada", connection=connection)
    work(connection)
    assert handle.result(5) == "Hello Ada"
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


# --- results


def test_results_of_stock_workers(connection: redis.Redis, spawn: Spawn, redis_url: str) -> None:
    spawn("rq", "worker", "default", env={"RQ_REDIS_URL": redis_url})
    assert werk.enqueue("hello", "Ada").result(10) == "Hello Ada"
    assert werk.enqueue("sleep", 0.1).result(10) is True
    with pytest.raises(JobFailed, match="RuntimeError: panic! as asked") as failure:
        werk.enqueue("panic").result(10)
    assert failure.value.traceback.startswith("Traceback")
    slow = werk.enqueue("sleep", 60)
    begun = time.monotonic()
    with pytest.raises(ResultTimeout, match=slow.id):
        slow.result(0.3)
    assert time.monotonic() - begun < 1
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
    timer = threading.Timer(0.2, lambda: end(handle.job))
    timer.start()
    begun = time.monotonic()
    with pytest.raises(error):
        handle.result(10)
    assert time.monotonic() - begun < 2
    timer.join()


def test_a_job_that_keeps_no_result(connection: redis.Redis) -> None:
    handle = werk.enqueue("hello", "Ada", options=werk.Options(result_ttl=0))
    timer = threading.Timer(0.2, lambda: connection.delete(wire.key("job", handle.id)))
    timer.start()
    assert handle.result(10) is None
    timer.join()
    assert handle.result(10) is None
    with pytest.raises(NoSuchJob):
        werk.result(handle.id)


def test_what_an_earlier_run_left_is_not_the_result(connection: redis.Redis) -> None:
    handle = werk.enqueue("panic")
    work(connection)
    with pytest.raises(JobFailed):
        handle.result(1)
    handle.job.requeue()
    with pytest.raises(ResultTimeout):
        handle.result(0.2)


def test_no_such_job(connection: redis.Redis) -> None:
    with pytest.raises(NoSuchJob):
        werk.result("nope")
    with pytest.raises(NoSuchJob):
        client.status("nope")


def test_a_result_that_would_run_code_is_unreadable(connection: redis.Redis) -> None:
    handle = werk.enqueue("hello", "Ada")
    work(connection)
    [(entry, _)] = connection.xrange(wire.key("results", handle.id))
    connection.xdel(wire.key("results", handle.id), entry)
    evil = b"Y3Bvc2l4CnN5c3RlbQooUyd0cnVlJwp0Ui4="  # base64 of a pickle that calls os.system
    connection.xadd(wire.key("results", handle.id), {"type": 1, "return_value": evil})
    with pytest.raises(werk.Unreadable):
        handle.result(1)
