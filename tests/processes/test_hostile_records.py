"""A real worker and records that nobody should write: each ends, and the next job runs."""

from __future__ import annotations

from pathlib import Path

import pytest
import redis
from support import wait_until
from workers import PATIENT, Start, finished, horse, runs

import werk

DIGITS = b"9" * 30
FIELDS = {
    "result_ttl": [DIGITS, b"-" + DIGITS, b"1e30", b"nan", b"x"],
    "timeout": [DIGITS, b"9" * 400, b"-7", b"1.5", b"\xff\xfe"],
    "failure_ttl": [DIGITS, b"x"],
    "ttl": [DIGITS, b"-1", b"nan"],
    "werk_attempt": [DIGITS, b"inf", b"nan", b"x"],
    "werk_crashes": [b"|" + DIGITS],
    "werk_max_crashes": [b"inf"],
    "werk_v": [DIGITS, b"nan", b"-1"],
    "status": [b"", b"\xff", b"finished", b"started"],
    "origin": [b"", b"\xff\xfe", b"nowhere"],
    "created_at": [b"", b"x"],
    "enqueued_at": [b"x"],
    "meta": [b"x"],
    "data": [b"", b"x", b"\x80\x05."],
    "werk_task": [b"\xff", b"unheard of"],
    "success_callback_name": [b"os.system"],
    "success_callback_timeout": [b"x", b"1e300"],
    "retries_left": [b"x", DIGITS],
    "retry_intervals": [b"{", b"[1e300]"],
    "repeats_left": [b"x"],
    "rate_limit_key": [b"\n"],
    "webhooks": [b"x", b"[1]"],
    "dependency_ids": [b"x"],
}
ENDS = ("finished", "failed", "scheduled")
KEYS = ("rq:job:{}", "rq:results:{}", "rq:executions:{}", "rq:job:{}:dependents")


def poison(connection: redis.Redis, folder: Path) -> list[str]:
    """Enqueue jobs of which each has another field or key that is wrong, and a good one after each.
    Return the ids of the bad ones."""
    bad = []
    pairs = [(field, value) for field, values in FIELDS.items() for value in values]
    for field, value in [*pairs, *((key, b"") for key in KEYS)]:
        job = werk.enqueue("fail" if field == "failure_ttl" else "note", str(folder))
        if field in KEYS:
            connection.delete(field.format(job.id))
            connection.set(field.format(job.id), "x")
        else:
            connection.hset(f"rq:job:{job.id}", field, value)
        bad.append(job.id)
        werk.enqueue("note", str(folder), "good")
    return bad


def test_each_bad_record_ends_and_the_same_horse_runs_the_next_job(
    work: Start, connection: redis.Redis, tmp_path: Path
) -> None:
    bad = poison(connection, tmp_path)
    worker = work(env=PATIENT)
    first = horse(worker)
    wait_until(lambda: len(runs(tmp_path, "good")) == len(bad), 120)
    finished(werk.enqueue("note", str(tmp_path)), 30)
    log = worker.output()
    for job_id in bad:
        where = ended_in(connection, job_id)
        assert len(where) == 1 or f"event=dropped job={job_id}" in log, (job_id, where)
    for queue in ("default", "nowhere"):
        assert not connection.exists(f"rq:wip:{queue}")
    assert worker.poll() is None
    assert horse(worker) == first


def ended_in(connection: redis.Redis, job_id: str) -> list[str]:
    """Return the sets of all queues that a job has ended in, or was deferred to."""
    sets = [key for name in ENDS for key in connection.keys(f"rq:{name}:*")]
    return [repr(key) for key in sets if connection.zscore(key, job_id) is not None]


@pytest.mark.parametrize("place", ["finished", "failed", "wip"])
def test_a_key_of_a_queue_that_is_of_another_type(
    work: Start, connection: redis.Redis, tmp_path: Path, place: str
) -> None:
    """The other queue is served; and this one again, when the key was deleted."""
    connection.set(f"rq:{place}:default", "x")
    job = werk.enqueue("note", str(tmp_path))
    worker = work("default", "low")
    other = werk.enqueue("note", str(tmp_path), options=werk.Options(queue="low"))
    finished(other, 30)
    if place == "wip":
        assert job.status() == "queued"
        assert connection.lrange("rq:queue:default", 0, -1) == [job.id.encode()]
    elif place == "finished":
        wait_until(lambda: places_but(connection, job, place) == ["failed"], 30)
        record = job.job.latest_result()
        assert record and "rq:finished:default is not a sorted set" in (record.exc_string or "")
    connection.delete(f"rq:{place}:default")
    if place == "wip":
        finished(job, 30)
    finished(werk.enqueue("note", str(tmp_path)), 30)
    assert worker.poll() is None


def places_but(connection: redis.Redis, job: werk.Handle, place: str) -> list[str]:
    """Where a job is, but for this place."""
    found = ("failed", "wip", "scheduled", "finished")
    return [name for name in found if name != place and is_in(connection, name, job.id)]


def is_in(connection: redis.Redis, place: str, job_id: str) -> bool:
    members = connection.zrange(f"rq:{place}:default", 0, -1)
    return any(member.decode().partition(":")[0] == job_id for member in members)
