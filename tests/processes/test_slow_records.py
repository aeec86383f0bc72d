"""Records that take long to read: a time limit begins before, and the supervisor reads none."""

from __future__ import annotations

import pickle
import zlib
from datetime import timedelta
from pathlib import Path

import pytest
import redis
from pair import Pair
from rq import Queue
from rq.rate_limit import RateLimit
from workers import Start, finished, places, reason, runs

import werk


def collision(is_dict: bool = False) -> bytes:
    """Return the opcodes of a set of 60,000 integers of one hash, or of a dict with such keys."""
    numbers = (pickle.dumps(n * (2**61 - 1), 2)[2:-1] for n in range(1, 60_001))
    if is_dict:
        return b"}(" + b"".join(number + b"N" for number in numbers) + b"u"
    return b"\x8f(" + b"".join(numbers) + b"\x90"


def payload(path: str, argument: bytes) -> bytes:
    name = b"\x8c" + bytes([len(path)]) + path.encode()
    return zlib.compress(b"\x80\x05(" + name + b"N" + argument + b"\x85}t.")


@pytest.mark.parametrize("is_dict", [False, True], ids=["set", "dict"])
def test_a_payload_that_takes_too_long_to_read_fails_on_time(
    work: Start, connection: redis.Redis, tmp_path: Path, is_dict: bool
) -> None:
    job = Queue(connection=connection).enqueue("worker_tasks.note", str(tmp_path), job_timeout=1)
    connection.hset(job.key, "data", payload("worker_tasks.note", collision(is_dict)))
    after = werk.enqueue("note", str(tmp_path), "after")
    work(env={"RQ_WORKER_CLASS": "werk.worker.Worker"})
    finished(after)
    assert job.get_status() == "failed"
    assert "JobTimeoutException" in reason(job)
    job.refresh()
    assert (job.ended_at - job.started_at).total_seconds() < 8
    assert places(connection, job.id) == ["failed"]
    assert [line[3] for line in runs(tmp_path)] == ["after"]


def test_the_supervisor_moves_a_job_of_a_rate_limit_and_reads_no_meta(
    connection: redis.Redis, redis_url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("WERK_REGISTRY", "worker_tasks:TASKS")
    queue, in_an_hour = Queue(connection=connection), timedelta(hours=1)
    job = queue.enqueue_in(in_an_hour, "worker_tasks.odd", rate_limit=RateLimit("one", 1))
    connection.zadd("rq:scheduled:default", {job.id: 1})
    meta = b"\x80\x05" + collision() + b"."
    connection.hset(job.key, "meta", meta)
    pair, read = Pair("w", ("default",), redis_url), list[bytes]()
    monkeypatch.setattr("werk.store.payload.loads", read.append)
    try:
        pair.supervisor.tick()
    finally:
        pair.supervisor.close()
    assert not read
    assert connection.lrange("rq:queue:default", 0, -1) == [job.id.encode()]
    assert connection.hget(job.key, "meta") == meta
