"""What others write in Redis: no reader fails because of it, and each good record is served.

Random values in worker hashes, queues and scheduled entries; random bytes on a worker's channel.
"""

from __future__ import annotations

import json
import math
import random
import time

import pytest
import redis
import roles
from dashboards import HERE, Browse
from flask.testing import FlaskClient
from prometheus_client import parser
from support import is_safe, run

import werk
from werk.cli import status
from werk.ops import checks, jobs, metrics, status_view
from werk.ops.job_ids import resolve
from werk.ops.job_places import STATES
from werk.ops.jobs import Query
from werk.ops.limits import Limits
from werk.ops.snapshot import Snapshot
from werk.store import keys
from werk.store.connection import Link, link

EXAMPLES = 150
VALUES = [
    b"", b"0", b"-1", b"7", b"1.5", b" 7", b"0x10", b"1e30", b"-1e30", b"9" * 30, b"9" * 400,
    b"nan", b"-nan", b"inf", b"-inf", b"Infinity", b"1e400", b"1_0", b"9223372036854775808",
    b"x" * 300,
    b"\xff\xfe\x00", b"\x00", b"a\nb", b"\x1b[2J", b"{", b"[]", b'"', b"a|b", b",",
    b",,,\xff", b"%n", b"2001-01-01T00:00:00.000000Z", b"0001-01-01T00:00:00",
    b"9999-12-31T23:59:59Z", b"\xe2\x80\xae", "\u0663".encode(), b"default", b"busy", b"idle",
    b"suspended",
]  # fmt: skip
OF_WORKER = (
    "birth hostname pid state queues last_heartbeat successful_job_count failed_job_count"
    " total_working_time current_job version python_version ip_address shutdown_requested_date"
    " werk_lease werk_free werk_clock werk_moved werk_draining werk_horse werk_dead werk_step"
    " werk_v werk_lines_dropped werk_slots werk_table"
).split()
OF_JOB = "enqueued_at werk_enqueued created_at status origin description data werk_task".split()
SHARED = (
    "suspended werk:paused werk:leases werk:ready werk:tallies werk:catalog werk:gave-up".split()
)
LISTS = ("queues", "workers")  # one of them at a time: with both gone nobody knows a name
OF_QUEUE = "queue:{} queue:{}:intermediate wip:{} scheduled:{} failed:{} ready:{} werk:serves:{}"
KINDS = ("string", "list", "set", "zset", "hash", "stream")


@pytest.fixture
def light(redis_url: str) -> Link:
    return link(roles.settings("reader"))


def value(dice: random.Random) -> bytes:
    return dice.choice(VALUES) if dice.random() < 0.8 else dice.randbytes(dice.randrange(40))


def set_type(connection: redis.Redis, dice: random.Random, key: str, but: str = "") -> None:
    """Have a key hold something else than it should."""
    word, kind = value(dice), dice.choice([kind for kind in KINDS if kind != but])
    connection.delete(key)
    match kind:
        case "string":
            connection.set(key, word)
        case "list":
            connection.rpush(key, word)
        case "set":
            connection.sadd(key, word)
        case "zset":
            connection.zadd(key, {word: dice.choice([1.0, -1e300, math.inf, -math.inf])})
        case "hash":
            connection.hset(key, word, value(dice))
        case "stream":
            connection.xadd(key, {word: word})


class Fleet:
    """Three good workers and a good queue, among what is spoilt."""

    GOOD = ("good1", "good2", "other")

    def __init__(self, connection: redis.Redis) -> None:
        self.redis = connection
        connection.flushall()
        now = time.time()
        beat = keys.iso(now)
        for name in self.GOOD:
            facts = {"birth": beat, "last_heartbeat": beat, "state": "idle", "queues": "default"}
            facts |= {"hostname": "there", "pid": "17", "successful_job_count": "5"}
            if name != "other":
                facts |= {"werk_lease": "15", "werk_horse": "x", "werk_moved": str(now)}
                connection.zadd("rq:werk:leases", {name: now + 15})
            connection.hset(f"rq:worker:{name}", mapping=facts)
            connection.expire(f"rq:worker:{name}", 400)
            connection.sadd("rq:workers", f"rq:worker:{name}")
            connection.sadd("rq:workers:default", f"rq:worker:{name}")
        connection.sadd("rq:queues", "rq:queue:default", "rq:queue:bad")
        self.job = werk.enqueue("sleep", 1).id

    def spoil(self, dice: random.Random) -> None:
        self.spoil_records(dice)
        for key in OF_QUEUE.format(*["bad"] * 7).split():
            if dice.random() < 0.3:
                set_type(self.redis, dice, f"rq:{key}")
        for key in SHARED:
            if dice.random() < 0.15:
                set_type(self.redis, dice, f"rq:{key}")
        if dice.random() < 0.3:
            set_type(self.redis, dice, f"rq:{dice.choice(LISTS)}", "set")

    def spoil_records(self, dice: random.Random) -> None:
        for name in ("bad1", b"bad\xff\n\x00", "bad 3", "bad.1", "bad.2", ".1", "bad."):
            key = keys.key("worker", "").encode() + (name if type(name) is bytes else name.encode())
            facts = {field: value(dice) for field in OF_WORKER if dice.random() < 0.8}
            self.redis.hset(key, mapping={"birth": value(dice), **facts})
            self.redis.sadd("rq:workers", key)
            score = dice.choice([1.0, -math.inf, math.inf, 1e300, time.time()])
            self.redis.zadd("rq:werk:leases", {name: score})
            self.redis.sadd(key + b":executions", value(dice), value(dice) + b":" + value(dice))
        self.redis.sadd("rq:queues", value(dice), b"rq:queue:" + value(dice))
        self.redis.sadd("rq:workers", value(dice), b"rq:worker:" + value(dice))
        for _ in range(3):
            job = {field: value(dice) for field in OF_JOB}
            self.redis.hset("rq:job:odd", mapping=job)
            self.redis.rpush("rq:queue:bad", value(dice), "odd")
            self.redis.zadd("rq:werk:serves:bad", {value(dice): dice.choice([math.inf, 1e300])})
            self.redis.hset("rq:werk:tallies", value(dice) + b"|done", value(dice))
            self.redis.hset("rq:werk:tallies", b"hello|+Inf", value(dice))
            for kind in (b"took", b"waited"):
                place = kind + b"/" + value(dice) + b"/" + dice.choice([b"hello", value(dice)])
                self.redis.hset("rq:werk:tallies", place + b"/0.1", value(dice))

    def check(self, light: Link, client: FlaskClient) -> None:
        """All that shows it works, and shows what is good."""
        snapshot = Snapshot.read(light)
        found = json.loads(
            json.dumps(status_view.as_json(snapshot), allow_nan=False), parse_constant=pytest.fail
        )
        workers = {own["name"]: own for own in found["workers"]}
        for name in self.GOOD:
            own = workers[name]
            assert (own["pid"], own["host"], own["done"], own["state"]) == (17, "there", 5, "idle")
        for own in found["workers"]:
            assert all(
                abs(own[key]) < 1e16 for key in ("pid", "done", "failed", "clock_s", "beat_s")
            )
        assert found["queues"]["default"]["waiting"] == 1
        assert all(is_safe(line) and len(line) <= 80 for line in status.table(snapshot))
        assert checks.check(snapshot, Limits())[0] in (0, 1, 2)
        ids = [job.id for page in jobs.walk(light, Query(STATES)) for job in page]
        assert self.job in ids
        assert ("queued", "sleep", 1) in [own[:3] for own in jobs.groups(light, Query(STATES))]
        assert resolve(light, self.job[:12]) == self.job
        families = [*parser.text_string_to_metric_families(metrics.exposition(light))]
        series = [(own.name, *own.labels.items()) for family in families for own in family.samples]
        assert len(set(series)) == len(series)
        [waiting] = [own for own in families if own.name == "werk_queue_waiting"]
        assert {own.labels["queue"]: own.value for own in waiting.samples}["default"] == 1
        for path in ("queues", "workers"):
            assert (
                client.get(f"/0/view/{path}", base_url=HERE, follow_redirects=True).status_code
                == 200
            )
        shown = client.get("/0/data/workers.json", base_url=HERE)
        assert set(self.GOOD) <= {own["name"] for own in shown.json["workers"]}
        shown = client.get("/0/data/queues.json", base_url=HERE)
        assert {"name": "default", "count": 1}.items() <= {
            own["name"]: own for own in shown.json["queues"]
        }["default"].items()
        for place in ("queued", "scheduled", "failed", "started"):
            for queue in ("default", "bad"):
                path = f"/0/data/jobs/{queue}/{place}/8/asc/1.json"
                shown = client.get(path, base_url=HERE)
                assert shown.status_code == 200, (path, shown.text)
                if (queue, place) == ("default", "queued"):
                    assert [own["id"] for own in shown.json["jobs"]] == [self.job]
        assert client.get("/metrics", base_url=HERE).status_code == 200


@pytest.mark.usefixtures("redis_url")
def test_any_value_in_records_of_workers_and_queues(
    connection: redis.Redis, light: Link, browse: Browse
) -> None:
    client = browse()
    for seed in range(EXAMPLES):
        fleet = Fleet(connection)
        fleet.spoil(random.Random(seed))
        try:
            fleet.check(light, client)
        except BaseException as error:
            error.add_note(f"seed {seed}")
            raise


def test_the_commands_among_all_that_is_wrong(connection: redis.Redis) -> None:
    fleet = Fleet(connection)
    fleet.spoil_records(random.Random(1))
    for number in (b"9" * 400, b"nan", b"inf", b"1e400", b"-1"):
        facts = dict.fromkeys(OF_WORKER, number)
        connection.hset(b"rq:worker:n" + number[:4], mapping=facts)
        connection.sadd("rq:workers", b"rq:worker:n" + number[:4])
    connection.delete("rq:workers")
    connection.set("rq:workers", "x")
    connection.hset("rq:worker:large", mapping={"birth": "x", "queues": "x" * 1_000_000})
    connection.zadd("rq:werk:leases", {"large": 1})
    looked = run("werk", "status")
    assert (looked.returncode, looked.stderr) == (0, "")
    for word in (*Fleet.GOOD, "rq:workers", "rq:worker:large", "keys that werk cannot read"):
        assert word in looked.stdout
    found = json.loads(run("werk", "status", "--json").stdout, parse_constant=pytest.fail)
    assert set(Fleet.GOOD) <= {own["name"] for own in found["workers"]}
    assert run("werk", "status", "--check").returncode in (1, 2)
    for words in (["jobs"], ["jobs", "--list"], ["jobs", "--arg", "seconds=1"]):
        done = run("werk", *words)
        assert (done.returncode, done.stderr) == (0, ""), (words, done)
    for words in (["tasks"], ["failed"], ["failed", "--list"], ["ping", "--timeout", "0"]):
        done = run("werk", *words)
        assert done.returncode in (0, 1) and "Traceback" not in done.stderr, (words, done)


def test_the_queues_of_one_record_are_bounded(connection: redis.Redis, light: Link) -> None:
    Fleet(connection)
    names = ",".join(f"q{n}" for n in range(30_000))
    connection.hset("rq:worker:many", mapping={"birth": "x", "queues": names})
    connection.sadd("rq:workers", "rq:worker:many")
    assert len(Snapshot.read(light).queues) < 3000
