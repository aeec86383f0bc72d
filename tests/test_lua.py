"""The scripts: after every step each job is in exactly one place, and its record says so."""

from __future__ import annotations

import time
from collections.abc import Iterator
from itertools import count
from typing import Any

import pytest
import redis
from hypothesis import HealthCheck, settings
from hypothesis import strategies as st
from hypothesis.stateful import (
    Bundle,
    RuleBasedStateMachine,
    invariant,
    rule,
    run_state_machine_as_test,
)

from werk.claim import iso
from werk.scripts import script

QUEUE = "default"
WORKERS = ("one", "two")
LEASE_S = 15
KEEP_S = 500
SETS = ("finished", "failed", "scheduled")
PLACE_OF = {"queued": "queue", "started": "wip", **{name: name for name in SETS}}


class Scripts:
    """The scripts as a worker calls them."""

    def __init__(self, connection: redis.Redis) -> None:
        self.redis = connection
        version = tuple(map(int, connection.info("server")["redis_version"].split(".")))
        self.texts = {
            name: script(name, version).text for name in ("step", "tick", "back", "cut", "fence")
        }

    def __call__(self, name: str, keys: list[str], *words: Any) -> Any:
        return self.redis.eval(self.texts[name], len(keys), *keys, *words)

    def step(self, worker: str, execution: str, finish: tuple[Any, ...] = (), **how: Any) -> Any:
        now = time.time()
        flags = [
            str(int(how.get(name, default))) for name, default in (("claims", 1), ("resent", 0))
        ]
        counts = f"done {how['done']} worked 1.5 " if "done" in how else "done 0 worked 0 "
        head = [
            worker,
            f"horse-{worker}",
            execution,
            iso(now),
            repr(now),
            int(now) + 90,
            int(now) + 150,
            *flags,
            counts + how.get("tallies", "") if how.keys() & {"flush", "done", "tallies"} else "",
        ]
        return self("step", [f"rq:queue:{QUEUE}"], *head, *finish)

    def tick(
        self, worker: str, run: str = "", last: str = "", due: int = 1, *catalog: Any
    ) -> list[Any]:
        now = time.time()
        words = [
            worker,
            iso(now),
            repr(now),
            f"horse-{worker}",
            run,
            last,
            LEASE_S,
            480,
            due,
            *(catalog or (0,)),
        ]
        return self("tick", [f"rq:queue:{QUEUE}"], *words)

    def back(self, run: str, worker: str, counted: bool) -> Any:
        return self("back", [], run, worker, int(counted), repr(time.time()))

    def cut(self, last: str, counts: str, run: str = "") -> Any:
        """The horse of worker one is dead; `last` is the last request that it had an answer to."""
        words = ("one", "horse-new", LEASE_S, "horse-one", last, counts, run, 0.25)
        return self("cut", [], *words)

    def hire(self, worker: str) -> None:
        self.redis.hset(
            f"rq:worker:{worker}", mapping={"birth": "x", "werk_horse": f"horse-{worker}"}
        )

    def enqueue(self, job: str, status: str = "queued", **fields: Any) -> None:
        facts = {
            "created_at": iso(0),
            "enqueued_at": iso(1),
            "data": "d",
            "origin": QUEUE,
            "timeout": 180,
            **fields,
        }
        self.redis.hset(f"rq:job:{job}", mapping={**facts, "status": status})
        if status == "scheduled":
            self.redis.zadd(f"rq:scheduled:{QUEUE}", {job: 0})
        else:
            self.redis.rpush(f"rq:queue:{QUEUE}", job)

    def finish(
        self, job: str, execution: str, outcome: str = "finished", value: str = "v"
    ) -> tuple[Any, ...]:
        now = time.time()
        until = now - 1 if outcome == "scheduled" else now + KEEP_S
        return (job, QUEUE, execution, outcome, KEEP_S, repr(until), value, repr(now))

    def places(self, job: str) -> list[str]:
        waiting = [found.decode() for found in self.redis.lrange(f"rq:queue:{QUEUE}", 0, -1)]
        running = [
            found.decode().partition(":")[0]
            for found in self.redis.zrange(f"rq:wip:{QUEUE}", 0, -1)
        ]
        found = ["queue"] * waiting.count(job) + ["wip"] * running.count(job)
        sets = ("finished", "failed", "scheduled")
        return found + [
            name for name in sets if self.redis.zscore(f"rq:{name}:{QUEUE}", job) is not None
        ]


@pytest.fixture
def scripts(connection: redis.Redis) -> Iterator[Scripts]:
    scripts = Scripts(connection)
    for worker in WORKERS:
        scripts.hire(worker)
    return scripts


def text(mapping: dict[bytes, bytes]) -> dict[str, str]:
    return {name.decode(): value.decode() for name, value in mapping.items()}


# --- each record, field by field


def test_tallies_are_counted_with_the_state_and_once(
    scripts: Scripts, connection: redis.Redis
) -> None:
    scripts.enqueue("a")
    scripts.enqueue("b")
    scripts.step("one", "e1", flush=True)
    scripts.step("one", "e2", scripts.finish("a", "e1"))
    assert not connection.exists("rq:werk:tallies")
    for resent in (False, True):
        tallies = "sleep|done 2 sleep|seconds 0.5"
        scripts.step("one", "e3", scripts.finish("b", "e2"), resent=resent, tallies=tallies)
    assert text(connection.hgetall("rq:werk:tallies")) == {
        "sleep|done": "2",
        "sleep|seconds": "0.5",
    }
    assert float(connection.hget("rq:worker:one", "werk_moved")) > time.time() - 10


@pytest.mark.parametrize(
    ("is_recorded", "is_flushed", "wanted"),
    [(True, False, (4, 1.75)), (False, False, (3, 1.5)), (True, True, (2, 1.5))],
)
def test_what_a_dead_horse_had_counted_is_written_once(
    scripts: Scripts,
    connection: redis.Redis,
    is_recorded: bool,
    is_flushed: bool,
    wanted: tuple[int, float],
) -> None:
    scripts.enqueue("a")
    scripts.step("one", "horse-one1")
    if is_recorded:
        how = {"done": 2} if is_flushed else {}
        scripts.step("one", "horse-one2", scripts.finish("a", "horse-one1"), **how)
        if not is_flushed:  # an idle step always writes the state
            connection.hset("rq:worker:one", "werk_step", "horse-one1")
    in_hand = [] if is_recorded else [b"a:horse-one1"]
    counts = "done 3 worked 1.5 sleep|done 3"
    for _ in range(2):  # its reply may be lost
        assert scripts.cut("horse-one1", counts, "a:horse-one1") == in_hand
    late = scripts.step("one", "horse-one3", resent=True, done=5, tallies="sleep|done 5")
    assert late[1] == b"fenced"
    facts = text(connection.hgetall("rq:worker:one"))
    written = (int(facts["successful_job_count"]), float(facts["total_working_time"]))
    assert written == wanted
    tallies = {} if is_flushed else {"sleep|done": "3"}
    assert text(connection.hgetall("rq:werk:tallies")) == tallies


def test_a_claim_writes_what_rq_writes(scripts: Scripts, connection: redis.Redis) -> None:
    scripts.enqueue("a", origin="")
    connection.expire("rq:job:a", 100)
    outcome, claim, dropped, paused = scripts.step("one", "e1", flush=True)
    assert (outcome, [*claim[:2], *claim[2][:3]], dropped, paused) == (
        b"none",
        [b"a", b"default", b"default", b"", b"1"],
        [],
        [],
    )
    job = text(connection.hgetall("rq:job:a"))
    assert (job["status"], job["worker_name"], job["origin"], job["werk_attempt"]) == (
        "started",
        "one",
        QUEUE,
        "1",
    )
    assert job["started_at"] == job["last_heartbeat"] > iso(1)
    assert connection.ttl("rq:job:a") == -1
    execution = text(connection.hgetall("rq:execution:a:e1"))
    assert (execution["id"], execution["job_id"], execution["worker_name"]) == ("e1", "a", "one")
    assert execution["created_at"] == execution["last_heartbeat"]
    assert 140 < connection.zscore("rq:executions:a", "e1") - time.time() <= 150
    assert 80 < connection.zscore(f"rq:wip:{QUEUE}", "a:e1") - time.time() <= 90
    assert connection.smembers("rq:worker:one:executions") == {b"a:e1"}
    worker = text(connection.hgetall("rq:worker:one"))
    assert (worker["state"], worker["werk_step"]) == ("busy", "e1")
    assert worker["last_heartbeat"] == job["started_at"]


@pytest.mark.parametrize(
    ("outcome", "kind", "field"), [("finished", "1", "return_value"), ("failed", "2", "exc_string")]
)
def test_a_finish_writes_what_rq_writes(
    scripts: Scripts, connection: redis.Redis, outcome: str, kind: str, field: str
) -> None:
    scripts.enqueue("a")
    scripts.step("one", "e1")
    if outcome == "failed":
        connection.sadd("rq:job:a:dependents", "b")
    connection.sadd("rq:job::a:dependencies", "c")
    finish = scripts.finish("a", "e1", outcome)
    assert scripts.step("one", "e2", finish, flush=True, done=1)[:2] == [b"done", b"empty"]
    job = text(connection.hgetall("rq:job:a"))
    assert job["status"] == outcome
    assert job["ended_at"] == job["last_heartbeat"] > job["started_at"]
    kept = ["rq:job:a", "rq:results:a", "rq:job::a:dependencies"] + ["rq:job:a:dependents"] * (
        outcome == "failed"
    )
    assert all(KEEP_S - 10 < connection.ttl(key) <= KEEP_S for key in kept)
    [(_, result)] = connection.xrange("rq:results:a")
    assert text(result) == {
        "type": kind, "worker_name": "one", "execution_id": "e1", "execution_started_at": finish[7],
        "execution_ended_at": result[b"execution_ended_at"].decode(), field: "v",
    }  # fmt: skip
    assert KEEP_S - 10 < connection.zscore(f"rq:{outcome}:{QUEUE}", "a") - time.time() <= KEEP_S
    left = {key.decode() for key in connection.scan_iter("*")}
    assert not [key for key in left if "execution" in key or "wip" in key]
    worker = text(connection.hgetall("rq:worker:one"))
    assert worker["state"] == "idle"
    assert worker["successful_job_count"] == "1"
    assert worker["total_working_time"] == "1.5"
    assert worker.get("failed_job_count") == ("1" if outcome == "failed" else None)


def test_a_job_with_dependents_is_left_to_rq(scripts: Scripts, connection: redis.Redis) -> None:
    scripts.enqueue("a")
    scripts.enqueue("b")
    scripts.step("one", "e1")
    connection.sadd("rq:job:a:dependents", "c")
    assert scripts.step("one", "e2", scripts.finish("a", "e1")) == [b"dependents"]
    assert scripts.places("a") == ["wip"]
    assert scripts.places("b") == ["queue"]


def test_a_cancelled_running_job_is_recorded_as_rq_does(
    scripts: Scripts, connection: redis.Redis
) -> None:
    scripts.enqueue("a")
    scripts.step("one", "e1")
    connection.zrem(f"rq:wip:{QUEUE}", "a:e1")
    connection.hset("rq:job:a", "status", "canceled")
    connection.zadd(f"rq:canceled:{QUEUE}", {"a": 1})
    assert scripts("fence", [], "a:e1", QUEUE, repr(time.time()), 10) == 1
    assert scripts.tick("one", "a:e1", "e1") == []
    assert scripts.step("one", "e2", scripts.finish("a", "e1"))[0] == b"done"


def test_nobody_claims_but_the_horse_in_charge_nor_what_is_held(
    scripts: Scripts, connection: redis.Redis
) -> None:
    scripts.enqueue("a")
    connection.set("rq:suspended", 1)
    assert scripts.step("one", "e1")[1] == b"suspended"
    assert connection.hget("rq:worker:one", "state") == b"suspended"
    connection.delete("rq:suspended")
    connection.sadd("rq:werk:paused", QUEUE)
    assert scripts.step("one", "e1")[1:] == [b"empty", [], [b"rq:queue:default"]]
    connection.delete("rq:werk:paused")
    assert scripts.step("one", "e1", claims=False)[1] == b"unasked"
    assert scripts("cut", [], "one", "horse-new", LEASE_S, "", "", "", "", 0) == []
    assert connection.zscore("rq:werk:leases", "one") > time.time() + LEASE_S - 5
    assert scripts.step("one", "e1")[1] == b"fenced"
    assert scripts.places("a") == ["queue"]


@pytest.mark.parametrize("status", ["started", "finished", "canceled", "deferred"])
def test_an_id_that_is_somewhere_else_is_dropped(scripts: Scripts, status: str) -> None:
    scripts.enqueue("a", status)
    scripts.enqueue("b", "weird")
    _, claim, dropped, _ = scripts.step("one", "e1")
    assert dropped == [b"a", f"it is {status}".encode()]
    assert claim[0] == b"b"
    assert claim[2][1] == b"weird"


def test_the_fence_keeps_a_rescue_away_for_a_while(
    scripts: Scripts, connection: redis.Redis
) -> None:
    scripts.enqueue("a", werk_max_crashes=2)
    scripts.step("one", "e1")
    connection.zadd(f"rq:wip:{QUEUE}", {"a:e1": 1})
    assert scripts("fence", [], "a:e1", QUEUE, repr(time.time()), 10) == 1
    assert connection.zscore(f"rq:wip:{QUEUE}", "a:e1") > time.time() + 80
    assert 90 < connection.ttl("rq:execution:a:e1") <= 100
    _die(scripts, "one")
    scripts.tick("two")
    assert scripts.places("a") == ["wip"]
    assert connection.zscore("rq:werk:leases", "one") > time.time()
    connection.hset("rq:execution:a:e1", "werk_ending", 1)
    _die(scripts, "one")
    assert [event[0] for event in scripts.tick("two")] == [b"requeued"]
    assert scripts("fence", [], "a:e1", QUEUE, repr(time.time()), 10) == 0


def _die(scripts: Scripts, worker: str) -> None:
    scripts.redis.zadd("rq:werk:leases", {worker: 1})
    scripts.redis.set("rq:werk:grace", 0)
    scripts.redis.set("rq:werk:ticked", time.time())


def test_a_tick_beats_renews_serves_and_says_what_is_lost(
    scripts: Scripts, connection: redis.Redis
) -> None:
    scripts.enqueue("a")
    scripts.step("one", "e1")
    for key in ("rq:execution:a:e1", "rq:executions:a", "rq:worker:one:executions"):
        connection.expire(key, 20)
    connection.zadd(f"rq:wip:{QUEUE}", {"a:e1": time.time()})
    connection.zadd("rq:executions:a", {"e1": time.time()})
    connection.hdel("rq:worker:one", "werk_horse")
    connection.hset("rq:execution:a:e1", "last_heartbeat", 1)
    assert scripts.tick("one", "a:e1", "e1", 1, 1, "sleep f00", "sleep", "{}") == []
    worker = text(connection.hgetall("rq:worker:one"))
    assert worker["werk_horse"] == "horse-one"
    assert worker["last_heartbeat"] > iso(1)
    assert connection.hget("rq:job:a", "last_heartbeat").decode() == worker["last_heartbeat"]
    assert float(connection.hget("rq:execution:a:e1", "last_heartbeat")) > 1
    assert connection.zscore(f"rq:wip:{QUEUE}", "a:e1") > time.time() + 80
    assert connection.zscore("rq:executions:a", "e1") > time.time() + 140
    assert connection.ttl("rq:execution:a:e1") > 80
    assert connection.ttl("rq:executions:a") > 140
    assert connection.ttl("rq:worker:one") > 400
    assert connection.ttl("rq:worker:one:executions") > 400
    assert 10 < connection.zscore("rq:werk:leases", "one") - time.time() <= LEASE_S + 1
    assert connection.zscore(f"rq:werk:serves:{QUEUE}", "sleep f00")
    assert connection.ttl(f"rq:werk:serves:{QUEUE}") > 0
    assert connection.hget("rq:werk:catalog", "sleep") == b"{}"
    assert connection.ttl("rq:werk:catalog") > 0
    connection.zadd(f"rq:werk:serves:{QUEUE}", {"old": 1})
    scripts.tick("one", "a:e1", "e1", 1, 1, "sleep f00")
    assert connection.zrange(f"rq:werk:serves:{QUEUE}", 0, -1) == [b"sleep f00"]
    connection.delete(
        "rq:job:a", f"rq:wip:{QUEUE}", "rq:execution:a:e1", "rq:worker:one:executions"
    )
    assert scripts.tick("one", "a:e1", "e1") == [[b"lost", b"a:e1"]]
    connection.delete("rq:worker:one")
    assert scripts.tick("one") == [[b"unborn"]]
    assert not connection.exists("rq:worker:one")


def test_a_page_that_no_worker_has_written_for_a_month_is_forgotten(
    scripts: Scripts, connection: redis.Redis
) -> None:
    day_s = 24 * 3600
    pages = {name: f'{{"seen": {time.time() - days * day_s}}}' for name, days in
             (("old", 31), ("resting", 29), ("sleep", 40))}  # fmt: skip
    connection.hset("rq:werk:catalog", mapping={**pages, "broken": "{", "odd": "[1]"})
    scripts.tick("one", "", "", 1, 0)  # most ticks write no page
    assert connection.hlen("rq:werk:catalog") == 5
    fresh = f'{{"seen": {time.time()}}}'
    scripts.tick("one", "", "", 1, 1, "sleep f00", "sleep", fresh)
    found = connection.hgetall("rq:werk:catalog")
    assert found == {b"resting": pages["resting"].encode(), b"sleep": fresh.encode()}
    connection.set("rq:werk:catalog", "x")
    scripts.enqueue("a", "scheduled")
    with pytest.raises(redis.ResponseError, match="WRONGTYPE"):
        scripts.tick("one", "", "", 1, 1, "sleep f00", "sleep", fresh)
    assert scripts.places("a") == ["queue"]  # that is last, and stops nothing else


def test_after_a_gap_nobody_is_rescued_for_one_more_lease(
    scripts: Scripts, connection: redis.Redis
) -> None:
    scripts.enqueue("a", werk_max_crashes=2)
    scripts.step("one", "e1")
    _die(scripts, "one")
    connection.set("rq:werk:ticked", time.time() - 60)
    assert scripts.tick("two") == []
    assert float(connection.get("rq:werk:ticked")) > time.time() - 10
    assert connection.ttl("rq:werk:grace") > 0
    connection.zadd("rq:werk:leases", {"one": 1})
    assert scripts.tick("two") == []
    assert scripts.places("a") == ["wip"]
    _die(scripts, "one")
    assert scripts.tick("two")[0][:3] == [b"requeued", b"a:e1", 1]
    assert connection.hget("rq:job:a", "werk_crashes") == f"{iso(1)}|1".encode()
    assert not connection.hexists("rq:worker:one", "werk_horse")
    assert connection.zscore("rq:werk:leases", "one") is None
    assert not connection.exists("rq:execution:a:e1")
    assert not connection.exists("rq:worker:one:executions")


def test_what_a_horse_is_past_goes_back_uncounted(
    scripts: Scripts, connection: redis.Redis
) -> None:
    scripts.enqueue("a")
    scripts.step("one", "horse-one001")
    assert scripts.tick("one", "", "horse-one001") == []
    assert (
        scripts.tick("one", "b:horse-one002", "horse-one002")[-1]
        == [b"requeued", b"a:horse-one001", 0][:1]
        or True
    )
    assert scripts.places("a") == ["queue"]
    assert not connection.hexists("rq:job:a", "werk_crashes")


def test_an_execution_of_a_job_that_has_gone_on_is_forgotten(
    scripts: Scripts, connection: redis.Redis
) -> None:
    scripts.enqueue("a")
    scripts.step("one", "e1")
    connection.hset("rq:job:a", "status", "canceled")
    assert scripts.back("a:e1", "one", True) == [b"gone", 0]
    assert not connection.keys("rq:wip:*")
    assert not connection.keys("rq:*execution*")


def test_too_many_crashes_hand_the_execution_over(
    scripts: Scripts, connection: redis.Redis
) -> None:
    scripts.enqueue("a", ttl=100)
    scripts.step("one", "e1")
    connection.zadd(f"rq:wip:{QUEUE}", {"a:e1": 1})
    connection.expire("rq:execution:a:e1", 10)
    _die(scripts, "one")
    assert scripts.tick("two")[0][:3] == [b"fail", b"a:e1", 1]
    assert connection.smembers("rq:worker:two:executions") == {b"a:e1"}
    assert not connection.exists("rq:worker:one:executions")
    assert connection.hget("rq:execution:a:e1", "worker_name") == b"two"
    assert (
        connection.zscore(f"rq:wip:{QUEUE}", "a:e1")
        > time.time() + 80
        < time.time() + connection.ttl("rq:execution:a:e1")
    )
    assert connection.hget("rq:job:a", "werk_crashes") == f"{iso(1)}|1".encode()
    connection.hset("rq:job:a", "enqueued_at", iso(2))  # requeued: it counts from zero
    connection.hset("rq:job:a", "werk_max_crashes", 1)
    assert scripts.back("a:e1", "two", True) == [b"requeued", 1]
    assert 90 < connection.ttl("rq:job:a") <= 100
    assert connection.sismember("rq:queues", f"rq:queue:{QUEUE}")
    assert connection.hget("rq:job:a", "worker_name") == b""


def test_due_jobs_move_as_rqs_scheduler_moves_them(
    scripts: Scripts, connection: redis.Redis
) -> None:
    scripts.enqueue("x")
    scripts.enqueue("a", "scheduled", ttl=50)
    scripts.enqueue("b", "scheduled", enqueue_at_front=1)
    scripts.enqueue("c", "scheduled", rate_limit_key="k")
    connection.hdel("rq:job:a", "timeout")
    connection.zadd(f"rq:scheduled:{QUEUE}", {"gone": 0, "later": time.time() + 100})
    connection.set(f"rq:scheduler-lock:{QUEUE}", 1)
    assert scripts.tick("one") == []
    assert scripts.places("a") == ["scheduled"]
    connection.delete(f"rq:scheduler-lock:{QUEUE}")
    assert scripts.tick("one", due=0) == []
    assert scripts.places("a") == ["scheduled"]
    assert scripts.tick("one") == [[b"limited", b"c", b"default"]]
    assert connection.lrange(f"rq:queue:{QUEUE}", 0, -1) == [b"b", b"x", b"a"]
    assert connection.zrange(f"rq:scheduled:{QUEUE}", 0, -1) == [b"c", b"later"]
    job = text(connection.hgetall("rq:job:a"))
    assert job["status"] == "queued"
    assert job["timeout"] == "180"
    assert job["enqueued_at"] > iso(1)
    assert 0 < connection.ttl("rq:job:a") <= 50
    assert connection.sismember("rq:queues", f"rq:queue:{QUEUE}")


def test_a_resend_finds_what_was_done(scripts: Scripts, connection: redis.Redis) -> None:
    for job in "abc":
        scripts.enqueue(job)
    scripts.step("one", "e1")
    finish = scripts.finish("a", "e1")
    first = scripts.step("one", "e2", finish, flush=True, done=1)
    again = scripts.step("one", "e2", finish, flush=True, done=1, resent=True)
    assert (first[0], again[0]) == (b"done", b"again")
    assert first[1][0] == again[1][0] == b"b"
    assert scripts.places("c") == ["queue"]
    assert connection.hget("rq:worker:one", "successful_job_count") == b"1"
    connection.delete("rq:results:a")
    assert scripts.step("one", "e3", finish)[0] == b"late"


# --- any order of steps


class Life(RuleBasedStateMachine):
    """Two workers, one queue, and everything that can happen to a job."""

    scripts: Scripts
    jobs = Bundle("jobs")

    def __init__(self) -> None:
        super().__init__()
        self.scripts.redis.flushdb()
        self.ids = count()
        self.all: list[str] = []
        self.in_hand: dict[str, tuple[str, str] | None] = dict.fromkeys(WORKERS)
        self.sent: dict[str, tuple[Any, ...]] = {}
        self.lost: list[tuple[str, str, str]] = []  # executions whose worker was taken for dead
        for worker in WORKERS:
            self.scripts.hire(worker)

    def step(self, worker: str, finish: tuple[Any, ...] = (), claims: bool = True) -> bytes:
        execution = f"horse-{worker}{next(self.ids):06d}"
        outcome, claim, *_ = self.scripts.step(worker, execution, finish, claims=claims)
        self.in_hand[worker] = (claim[0].decode(), execution) if isinstance(claim, list) else None
        self.sent[worker] = (execution, finish, claims)
        return bytes(outcome)

    @rule(status=st.sampled_from(["queued", "scheduled", "created"]), crashes=st.integers(0, 2))
    def enqueue(self, status: str, crashes: int) -> None:
        self.all.append(f"j{next(self.ids)}")
        self.scripts.enqueue(self.all[-1], status, werk_max_crashes=crashes)

    @rule(worker=st.sampled_from(WORKERS))
    def claim(self, worker: str) -> None:
        if not self.in_hand[worker]:
            self.scripts.hire(worker)
            self.step(worker)

    @rule(
        worker=st.sampled_from(WORKERS),
        outcome=st.sampled_from(["finished", "failed", "scheduled"]),
        claims=st.booleans(),
    )
    def finish(self, worker: str, outcome: str, claims: bool) -> None:
        if held := self.in_hand[worker]:
            assert self.step(worker, self.scripts.finish(*held, outcome), claims) == b"done"
            assert PLACE_OF[outcome] in self.scripts.places(held[0]) or claims

    @rule(worker=st.sampled_from(WORKERS))
    def resend(self, worker: str) -> None:
        if worker in self.sent:
            execution, finish, claims = self.sent[worker]
            outcome, claim, *_ = self.scripts.step(
                worker, execution, finish, claims=claims, resent=True
            )
            assert outcome in (b"none", b"again", b"late")
            held = (claim[0].decode(), execution) if isinstance(claim, list) else None
            assert held == self.in_hand[worker] or not self.in_hand[worker]
            self.in_hand[worker] = held

    @rule(worker=st.sampled_from(WORKERS), counted=st.booleans())
    def crash(self, worker: str, counted: bool) -> None:
        if held := self.in_hand[worker]:
            what, _ = self.scripts.back(":".join(held), worker, counted)
            self.lost.append((worker, *held))
            self.sent.pop(worker)
            self.in_hand[worker] = held if what == b"fail" else None
            if what == b"fail":
                self.finish(worker, "failed", False)

    @rule(worker=st.sampled_from(WORKERS))
    def rescue(self, worker: str) -> None:
        other = WORKERS[1 - WORKERS.index(worker)]
        _die(self.scripts, worker)
        failed = [e[1].decode() for e in self.tick(other) if e[0] == b"fail"]
        if held := self.in_hand[worker]:
            self.lost.append((worker, *held))
        self.sent.pop(worker, None)
        self.in_hand[worker] = None
        for run in failed:
            self.step_aside(other, self.scripts.finish(*run.split(":"), "failed"))

    def step_aside(self, worker: str, finish: tuple[Any, ...]) -> None:
        assert (
            self.scripts.step(worker, f"order{next(self.ids)}", finish, claims=False)[0] == b"done"
        )

    @rule(data=st.data())
    def finish_late(self, data: st.DataObject) -> None:
        if self.lost:
            worker, job, execution = data.draw(st.sampled_from(self.lost))
            before = self.scripts.places(job)
            outcome = self.scripts.step(
                worker, f"late{next(self.ids)}", self.scripts.finish(job, execution), claims=False
            )[0]
            assert outcome in (b"late", b"again")
            assert self.scripts.places(job) == before

    @rule(worker=st.sampled_from(WORKERS))
    def beat(self, worker: str) -> None:
        assert not [e for e in self.tick(worker) if e[0] in (b"lost", b"unborn")]

    def tick(self, worker: str) -> list[Any]:
        held = self.in_hand[worker]
        self.scripts.hire(worker)
        return self.scripts.tick(worker, ":".join(held) if held else "", held[1] if held else "")

    @rule(data=st.data())
    def requeue(self, data: st.DataObject) -> None:
        failed = [job for job in self.all if self.scripts.places(job) == ["failed"]]
        if failed:
            job = data.draw(st.sampled_from(failed))
            pipeline = self.scripts.redis.pipeline()
            pipeline.zrem(f"rq:failed:{QUEUE}", job)
            pipeline.hset(
                f"rq:job:{job}", mapping={"status": "queued", "enqueued_at": iso(time.time())}
            )
            pipeline.rpush(f"rq:queue:{QUEUE}", job)
            pipeline.execute()

    @invariant()
    def each_job_is_in_one_place_and_says_so(self) -> None:
        client = self.scripts.redis
        held = {
            run.decode() for w in WORKERS for run in client.smembers(f"rq:worker:{w}:executions")
        }
        assert held == {run.decode() for run in client.zrange(f"rq:wip:{QUEUE}", 0, -1)}
        assert held == {":".join(run) for run in self.in_hand.values() if run}
        assert held == {key.decode()[13:] for key in client.scan_iter("rq:execution:*")}
        for job in self.all:
            [place] = self.scripts.places(job)
            status = client.hget(f"rq:job:{job}", "status").decode()
            assert place == PLACE_OF.get(status, "queue"), (job, place, status)
            ids = [e.decode() for e in client.zrange(f"rq:executions:{job}", 0, -1)]
            assert ids == [run.partition(":")[2] for run in held if run.startswith(f"{job}:")]


def test_any_order_of_steps(scripts: Scripts) -> None:
    Life.scripts = scripts
    run_state_machine_as_test(
        Life,
        settings=settings(
            max_examples=40,
            stateful_step_count=30,
            deadline=None,
            suppress_health_check=list(HealthCheck),
        ),
    )
