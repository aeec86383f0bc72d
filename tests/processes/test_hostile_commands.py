"""Any bytes on a worker's channel, any entry among the scheduled: the worker lives on and works."""

from __future__ import annotations

import json
import math
import random
import time
from pathlib import Path

import pytest
import redis
from dashboards import HERE, Browse
from rq.command import send_stop_job_command
from support import run, wait_until
from test_hostile_readers import VALUES
from workers import ENV, Start, begun, ended, finished, runs

import werk

RANDOM = 300
OF_LOGGING = "--- Logging error ---\nTraceback"  # RQ's loop logs half a character
COMMANDS = [
    b"", b"{", b"\xff\xfe", b"null", b"[]", b"1", b'"stop-job"', b"[" * 100_000, b"9" * 5000,
    b'{"command": null}', b'{"command": ["stop-job"]}', b'{"command": "stop-job"}', b"\x00",
    b'{"command": "stop-job", "job_id": null}', b'{"command": "stop-job", "job_id": {}}',
    b'{"command": "stop-job", "job_id": "\\ud800\\n\\u001b[2J"}', b'{"command": "unheard of"}',
    b'{"command": "stop-execution"}', b'{"command": "stop-execution", "execution_id": [1]}',
    b'{"command": "stop-execution", "job_id": 1, "execution_id": 1e999}', b"NaN", b"{}",
    b'{"command": "stop-job", "job_id": "' + b"x" * 1_000_000 + b'"}', b'{"a": ' * 50_000,
]  # fmt: skip


def channel_of(connection: redis.Redis) -> bytes:
    """Return the channel of the only worker, when it listens."""
    [channel] = wait_until(lambda: connection.pubsub_channels("rq:pubsub:*"))
    return channel


@pytest.mark.parametrize("loop", ["werk's", "RQ's"])
@pytest.mark.usefixtures("work")
def test_any_bytes_on_the_channel_of_a_worker(
    spawn: Start, connection: redis.Redis, tmp_path: Path, loop: str
) -> None:
    classes = {"werk's": "fast_worker.Worker", "RQ's": "fast_worker.OldLoop"}
    worker = spawn("rq", "worker", "default", env={**ENV, "RQ_WORKER_CLASS": classes[loop]})
    channel, dice = channel_of(connection), random.Random(loop)
    job = werk.enqueue("block", str(tmp_path))
    begun(tmp_path)
    for payload in COMMANDS:
        assert connection.publish(channel, payload) == 1
    for _ in range(RANDOM):
        word = dice.choice([*VALUES, *COMMANDS[:20]])
        at = dice.randrange(len(word) + 1)
        connection.publish(channel, word[:at] + dice.randbytes(dice.randrange(4)) + word[at:])
    other = werk.enqueue("note", str(tmp_path), "after")
    send_stop_job_command(connection, job.id)  # it hears this after all the others
    ended(job, "stopped", 30)
    finished(other, 30)
    assert worker.poll() is None
    assert "Traceback" not in worker.output().replace(OF_LOGGING, "")
    assert not [line for line in worker.output().splitlines() if len(line) > 10_000]


def test_a_flood_of_commands_keeps_no_worker_from_its_work(
    work: Start, connection: redis.Redis, tmp_path: Path
) -> None:
    worker = work()
    channel = channel_of(connection)
    job = werk.enqueue("block", str(tmp_path))
    begun(tmp_path)
    with connection.pipeline(transaction=False) as pipeline:
        for _ in range(70_000):  # more than the pipe that wakes the supervisor holds
            pipeline.publish(channel, b'{"command": "stop-job", "job_id": "x"}')
        pipeline.execute()
    wait_until(lambda: heard(connection, channel, job), 60)
    finished(werk.enqueue("note", str(tmp_path)), 30)
    assert worker.poll() is None


def heard(connection: redis.Redis, channel: bytes, job: werk.Handle) -> bool:
    """Ask the worker to stop a job; return whether it has. A flood may drop the request."""
    connection.publish(channel, json.dumps({"command": "stop-job", "job_id": job.id}))
    return job.status() == "stopped"


def test_any_entry_among_the_scheduled(
    work: Start, connection: redis.Redis, tmp_path: Path, browse: Browse
) -> None:
    """Entries without a job, with a job of another status, at any time: the good ones run."""
    dice = random.Random(7)
    good = [
        werk.enqueue("note", str(tmp_path), "good", options=werk.Options(delay=0.01))
        for _ in range(20)
    ]
    late = werk.enqueue("note", str(tmp_path), "late", options=werk.Options(delay=10_000))
    for word in VALUES:
        for score in (1.0, -1e300, -math.inf, math.inf, time.time(), time.time() + 1000):
            name = word + dice.randbytes(dice.randrange(3))
            connection.zadd("rq:scheduled:default", {name: score})
            if dice.random() < 0.5:
                fields = {
                    field: dice.choice(VALUES)
                    for field in ("status", "origin", "data", "timeout", "ttl", "enqueue_at_front")
                }
                connection.delete(b"rq:job:" + name)
                connection.hset(b"rq:job:" + name, mapping=fields)
            elif dice.random() < 0.3:
                connection.set(b"rq:job:" + name, "x")
    look(browse, late.id)
    worker = work()
    wait_until(lambda: len(runs(tmp_path, "good")) == len(good), 60)
    look(browse, late.id)
    wait_until(lambda: connection.zcount("rq:scheduled:default", "-inf", time.time()) == 0, 60)
    finished(werk.enqueue("note", str(tmp_path)), 30)
    assert worker.poll() is None
    assert connection.zscore("rq:scheduled:default", late.id)
    assert not runs(tmp_path, "late")
    for key in ("rq:scheduled:default", "rq:scheduled:low"):  # of another type: the others run
        connection.delete(key)
        connection.set(key, "x")
    finished(werk.enqueue("note", str(tmp_path)), 30)
    assert run("werk", "status").returncode == 0
    assert run("werk", "show", late.id).returncode == 0


def look(browse: Browse, job_id: str) -> None:
    """See the job in every page of the list, and on its own."""
    client, found, number = browse(), [], 1
    while True:
        path = f"/0/data/jobs/default/scheduled/200/asc/{number}.json"
        shown = client.get(path, base_url=HERE)
        assert shown.status_code == 200, shown.text
        if not shown.json["jobs"]:
            break
        found += [own["id"] for own in shown.json["jobs"]]
        number += 1
    assert job_id in found
    assert client.get(f"/0/data/job/{job_id}.json", base_url=HERE).status_code == 200
    looked = run("werk", "status")
    assert (looked.returncode, looked.stderr) == (0, "")
