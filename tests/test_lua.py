"""The workers' scripts, one at a time: what each changes in Redis, all of it and nothing else.

The caller's clock stands at `lua.now`, far in the past; what is told as now+90 is of Redis's own.
"""

from __future__ import annotations

import time
from typing import Any

import pytest
import redis
from contents import Contents

from werk.link import Script
from werk.scripts import script

LEASE_S, WORKER_TTL_S, KEEP_S = 15, 480, 500
MONTH_S = 30 * 24 * 3600
GENERATION = {"one": "h", "two": "g"}
NO_EXECUTION = {
    "wip:high": None,
    "execution:a:h1": None,
    "executions:a": None,
    "worker:one:executions": None,
}


class Lua:
    """The scripts as the workers 'one' and 'two' call them, who serve the queue high."""

    def __init__(self, connection: redis.Redis) -> None:
        self.redis, self.now = connection, 5000
        version = connection.info("server")["redis_version"].split(".")
        self.version = tuple(map(int, version))
        for worker, generation in GENERATION.items():
            facts = {"birth": "x", "werk_horse": generation}
            connection.hset(f"rq:worker:{worker}", mapping=facts)
            self.tick(worker)
        connection.delete("rq:werk:grace")
        self.before = Contents(connection)

    def run(self, name: str, keys: list[str], *words: Any) -> Any:
        return decoded(self.redis.eval(script(name, self.version).text, len(keys), *keys, *words))

    def changes(self) -> dict[str, Any]:
        """Return what has changed since this, or `note`, was last asked."""
        before = self.before
        self.note()
        return self.before.since(before)

    def note(self) -> None:
        self.before = Contents(self.redis)

    # the scripts

    def step(
        self,
        execution: str,
        finish: tuple[Any, ...] = (),
        *,
        claims: bool = True,
        is_resent: bool = False,
        counts: str = "",
    ) -> Any:
        times = (f"at {self.now}", self.now, self.now + 90, self.now + 150)
        head = ("one", "h", execution, *times, int(claims), int(is_resent), counts)
        return self.run("step", ["rq:queue:high"], *head, *finish)

    def finish(self, outcome: str = "finished", value: str = "v") -> tuple[Any, ...]:
        """Return the words for the end of a:h1, which began at 5000."""
        until = self.now + KEEP_S
        return ("a", "high", "h1", outcome, KEEP_S, until, value, 5000)

    def tick(
        self,
        worker: str = "one",
        run: str = "",
        last: str = "",
        *,
        moves_due: bool = True,
        tasks: tuple[str, ...] = (),
        pages: tuple[str, ...] = (),
    ) -> Any:
        now = (f"at {self.now}", self.now, GENERATION[worker])
        rest = (LEASE_S, WORKER_TTL_S, int(moves_due), len(tasks), *tasks, *pages)
        return self.run("tick", ["rq:queue:high"], worker, *now, run, last, *rest)

    def back(self, *, is_counted: bool) -> Any:
        return self.run("back", [], "a:h1", "one", int(is_counted), self.now)

    def fence(self) -> Any:
        return self.run("fence", [], "a:h1", "high", self.now, 10)

    def cut(self, dead: str = "", last: str = "", counts: str = "", run: str = "") -> Any:
        return self.run("cut", [], "one", "new", LEASE_S, dead, last, counts, run, 0.25)

    def send(self, how: str) -> Any:
        """Enqueue the jobs a and b, with all that there is."""
        keys = ("rq:queues", "rq:queue:high", "rq:scheduled:high")
        limits = (180, 0, 600, "sleep", 2, 1, 50_000, "hooks", "", "")
        words: list[Any] = ["rq", how, 6000, 100, 60, "before", "high", *limits]
        for own in ("a", "b"):
            words += [
                own,
                f"{own} data",
                f"{own}()",
                f"{own} s",
                f"rq:hold:{own}",
                f"rq:last:{own}",
            ]
        return decoded(self.redis.eval(Script.named("enqueue").text, 3, *keys, *words))

    def act(self, what: str, *names: str) -> Any:
        words = (what, f"at {self.now}", self.now, *names)
        return decoded(self.redis.eval(script("act").text, 0, *words))

    # what the tests begin with

    def enqueue(self, job_id: str, status: str = "queued", place: str = "", **fields: Any) -> None:
        """Make a job that is queued, or scheduled, or in another sorted set."""
        facts = {"enqueued_at": "before", "origin": "high", "timeout": 180, "status": status}
        self.redis.hset(f"rq:job:{job_id}", mapping={**facts, **fields})
        place = place or ("scheduled:high" if status == "scheduled" else "")
        if place:
            self.redis.zadd(f"rq:{place}", {job_id: self.now})
        else:
            self.redis.rpush("rq:queue:high", job_id)
        self.note()

    def begin(self, **fields: Any) -> None:
        """Have worker one at work on job a, at 5000; then it is 6000."""
        self.enqueue("a", **fields)
        self.step("h1")
        self.now = 6000
        self.note()

    def silence(self) -> None:
        """Let the lease of worker one end, while others tick."""
        self.redis.zadd("rq:werk:leases", {"one": 1})
        self.note()


def decoded(reply: Any) -> Any:
    if isinstance(reply, list):
        return [decoded(part) for part in reply]
    return reply.decode() if isinstance(reply, bytes) else reply


@pytest.fixture
def lua(connection: redis.Redis) -> Lua:
    return Lua(connection)


# --- step.lua


def test_a_claim_moves_the_first_job_of_a_queue_to_wip(lua: Lua) -> None:
    lua.enqueue("a", origin="", data="d", werk_task="sleep")
    lua.redis.expire("rq:job:a", 100)
    lua.enqueue("b")
    fields = ["high", "", "1", "d", "180", None, "sleep", *[None] * 6]
    assert lua.step("h1", counts="done 0") == ["none", ["a", "high", fields], [], []]
    assert lua.changes() == {
        "queue:high": ["b"],
        "wip:high": {"a:h1": "5090"},
        "job:a": {
            "status": "started",
            "started_at": "at 5000",
            "last_heartbeat": "at 5000",
            "worker_name": "one",
            "origin": "high",
            "werk_attempt": "1",
        },
        "job:a ttl": None,
        "execution:a:h1": {
            "id": "h1",
            "job_id": "a",
            "created_at": "5000",
            "last_heartbeat": "5000",
            "worker_name": "one",
        },
        "executions:a": {"h1": "5150"},
        "worker:one:executions": ["a:h1"],
        "worker:one": {
            "state": "busy",
            "successful_job_count": "0",
            "werk_step": "h1",
            "werk_moved": "now+0",
        },
    }


@pytest.mark.parametrize("value", ["v", ""])
@pytest.mark.parametrize(
    ("outcome", "kind", "field"), [("finished", "1", "return_value"), ("failed", "2", "exc_string")]
)
def test_a_finish_moves_a_job_from_wip_to_where_its_outcome_belongs(
    lua: Lua, outcome: str, kind: str, field: str, value: str
) -> None:
    lua.begin()
    sets = ["job::a:dependencies", *["job:a:dependents"] * (outcome == "failed")]
    for key in sets:
        lua.redis.sadd(f"rq:{key}", "b")
    lua.note()
    assert lua.step("h2", lua.finish(outcome, value)) == ["done", "empty", [], []]
    count = {"failed_job_count": "1"} if outcome == "failed" else {}
    assert lua.changes() == NO_EXECUTION | {
        f"{outcome}:high": {"a": "6500"},
        "job:a": {"status": outcome, "ended_at": "at 6000", "last_heartbeat": "at 6000"},
        "results:a": {
            "type": kind,
            "worker_name": "one",
            "execution_id": "h1",
            "execution_started_at": "5000",
            "execution_ended_at": "6000",
            **({field: value} if value else {}),
        },
        **{f"{key} ttl": KEEP_S for key in ("job:a", "results:a", *sets)},
        "worker:one": {
            "state": "idle",
            "last_heartbeat": "at 6000",
            "werk_step": "h2",
            "werk_moved": "now+0",
            **count,
        },
    }


def test_a_job_that_is_put_off_is_due_later(lua: Lua) -> None:
    lua.begin()
    assert lua.step("h2", lua.finish("scheduled"), claims=False)[0] == "done"
    changes = lua.changes()
    assert changes.pop("worker:one")
    assert changes == NO_EXECUTION | {
        "scheduled:high": {"a": "6500"},
        "job:a": {"status": "scheduled", "worker_name": ""},
    }


def test_a_success_with_dependents_is_left_to_rq(lua: Lua) -> None:
    lua.begin()
    lua.enqueue("b")
    lua.redis.sadd("rq:job:a:dependents", "c")
    lua.note()
    assert lua.step("h2", lua.finish()) == ["dependents"]
    assert lua.changes() == {}


def test_a_request_that_is_sent_again_finds_what_it_did(lua: Lua) -> None:
    lua.begin()
    lua.enqueue("b")
    lua.enqueue("c")
    request = {"finish": lua.finish(), "counts": "done 1 worked 1.5 sleep|done 1"}
    outcome, claimed, *_ = lua.step("h2", **request)
    assert (outcome, claimed[0]) == ("done", "b")
    assert lua.changes()["werk:tallies"] == {"sleep|done": "1"}
    outcome, claimed, *_ = lua.step("h2", **request, is_resent=True)
    assert (outcome, claimed[0]) == ("again", "b")
    assert lua.changes() == {}


def test_a_late_finish_changes_nothing_of_the_job(lua: Lua) -> None:
    lua.begin()
    lua.redis.zrem("rq:wip:high", "a:h1")
    lua.note()
    assert lua.step("h2", lua.finish(), claims=False)[0] == "late"
    changes = lua.changes()
    assert changes.pop("worker:one")
    assert changes == {key: None for key in NO_EXECUTION if key != "wip:high"}


def test_a_job_that_was_cancelled_while_it_ran_is_recorded(lua: Lua) -> None:
    lua.begin()
    lua.redis.zrem("rq:wip:high", "a:h1")
    lua.redis.zadd("rq:canceled:high", {"a": 1})
    lua.redis.hset("rq:job:a", "status", "canceled")
    assert lua.fence() == 1
    assert lua.tick("one", "a:h1", "h1") == []
    assert lua.step("h2", lua.finish())[0] == "done"


def test_counts_are_added_to_the_worker_and_to_the_tallies(lua: Lua) -> None:
    for execution in ("h1", "h2"):
        lua.step(execution, counts="done 2 worked 1.5 sleep|done 2 sleep|seconds 0.5")
    changes = lua.changes()
    assert changes["werk:tallies"] == {"sleep|done": "4", "sleep|seconds": "1"}
    assert changes["worker:one"]["successful_job_count"] == "4"
    assert changes["worker:one"]["total_working_time"] == "3"


@pytest.mark.parametrize("status", ["started", "finished", "canceled", "deferred"])
def test_a_claim_drops_what_is_somewhere_else_and_what_is_gone(lua: Lua, status: str) -> None:
    lua.redis.rpush("rq:queue:high", "gone")
    lua.enqueue("a", status)
    lua.enqueue("b", "weird")
    lua.enqueue("c")
    _, claimed, dropped, _ = lua.step("h1")
    assert dropped == ["a", f"it is {status}"]
    assert (claimed[0], claimed[2][1]) == ("b", "weird")
    changes = lua.changes()
    assert changes["queue:high"] == ["c"]
    assert "job:a" not in changes


def test_a_horse_claims_only_what_it_may(lua: Lua) -> None:
    lua.enqueue("a")
    assert lua.step("h1", claims=False)[1] == "unasked"
    lua.redis.set("rq:suspended", 1)
    assert lua.step("h1")[1] == "suspended"
    assert lua.redis.hget("rq:worker:one", "state") == b"suspended"
    lua.redis.delete("rq:suspended")
    lua.redis.sadd("rq:werk:paused", "high")
    assert lua.step("h1")[1:] == ["empty", [], ["rq:queue:high"]]
    lua.redis.delete("rq:werk:paused")
    lua.cut()
    assert lua.step("h1")[1] == "fenced"
    assert lua.redis.lrange("rq:queue:high", 0, -1) == [b"a"]


# --- tick.lua


def test_a_tick_says_that_its_worker_lives(lua: Lua) -> None:
    lua.redis.delete("rq:werk:ticked", "rq:werk:leases", "rq:worker:one")
    lua.note()
    assert lua.tick() == [["unborn"]]
    assert lua.changes() == {}
    lua.redis.hset("rq:worker:one", "birth", "x")
    lua.note()
    assert lua.tick() == []
    assert lua.changes() == {
        "worker:one": {"last_heartbeat": "at 5000", "werk_horse": "h"},
        "worker:one ttl": WORKER_TTL_S,
        "werk:leases": {"one": "now+15"},
        "werk:ticked": "now+0",
        "werk:grace": "now+15",
        "werk:grace ttl": LEASE_S + 60,
    }


def test_a_tick_keeps_what_its_horse_is_at(lua: Lua) -> None:
    lua.begin()
    assert lua.tick("one", "a:h1", "h1") == []
    assert lua.changes() == {
        "worker:one": {"last_heartbeat": "at 6000"},
        "worker:one:executions ttl": WORKER_TTL_S,
        "wip:high": {"a:h1": "6090"},
        "job:a": {"last_heartbeat": "at 6000"},
        "execution:a:h1": {"last_heartbeat": "6000"},
        "execution:a:h1 ttl": 90,
        "executions:a": {"h1": "6150"},
        "executions:a ttl": 150,
    }


def test_a_tick_says_what_its_horse_has_lost(lua: Lua) -> None:
    lua.begin()
    lua.redis.delete("rq:wip:high", "rq:worker:one:executions")
    assert lua.tick("one", "a:h1", "h1") == [["lost", "a:h1"]]


def test_a_tick_gives_back_what_its_horse_is_past(lua: Lua) -> None:
    """Redis has lost the finish with a part of its memory."""
    lua.begin()
    assert lua.tick("one", "", "h1") == []
    assert lua.tick("one", "", "h2") == [["requeued", "a:h1", 0, "one"]]
    assert lua.changes()["job:a"] == {"status": "queued", "worker_name": ""}


def test_a_tick_puts_the_jobs_of_a_dead_worker_back_to_the_front(lua: Lua) -> None:
    lua.begin(werk_max_crashes=1, ttl=200)
    lua.enqueue("b")
    lua.redis.delete("rq:queues")
    lua.silence()
    assert lua.tick("two") == [["requeued", "a:h1", 1, "one"]]
    assert lua.changes() == NO_EXECUTION | {
        "queue:high": ["a", "b"],
        "queues": ["rq:queue:high"],
        "job:a": {"status": "queued", "worker_name": "", "werk_crashes": "before|1"},
        "job:a ttl": 200,
        "werk:leases": {"one": None},
        "worker:one": {"werk_horse": None},
        "worker:two": {"last_heartbeat": "at 6000"},
    }


def test_nobody_is_rescued_for_one_lease_after_a_gap(lua: Lua) -> None:
    lua.begin()
    lua.redis.set("rq:werk:ticked", time.time() - 60)
    for _ in range(2):  # the second finds no gap any more, but the grace
        lua.silence()
        assert lua.tick("two") == []
    lua.redis.set("rq:werk:grace", time.time() - 1)
    assert lua.tick("two") == [["fail", "a:h1", 1, "one"]]


def test_a_rescue_leaves_rqs_own_finish_its_time(lua: Lua) -> None:
    lua.begin(werk_max_crashes=1)
    assert lua.fence() == 1
    lua.silence()
    assert lua.tick("two") == []
    assert lua.changes()["werk:leases"] == {"one": "now+5"}
    lua.redis.hset("rq:execution:a:h1", "werk_ending", 1)
    lua.silence()
    assert lua.tick("two") == [["requeued", "a:h1", 1, "one"]]
    assert lua.fence() == 0


def test_a_tick_moves_due_jobs_as_rqs_scheduler_does(lua: Lua) -> None:
    lua.enqueue("x")
    lua.enqueue("a", "scheduled", origin="other", ttl=50)
    lua.enqueue("b", "scheduled", enqueue_at_front=1)
    lua.enqueue("c", "scheduled", enqueue_at_front_on_retry=1, ended_at="before")
    lua.redis.hdel("rq:job:a", "timeout")
    lua.redis.zadd("rq:scheduled:high", {"later": lua.now + 1})
    lua.note()
    assert lua.tick(moves_due=False) == []
    lua.redis.set("rq:scheduler-lock:high", 1)
    assert lua.tick() == []
    lua.redis.delete("rq:scheduler-lock:high")
    assert lua.changes() == {}
    assert lua.tick() == []
    queued = {"status": "queued", "enqueued_at": "at 5000"}
    assert lua.changes() == {
        "scheduled:high": dict.fromkeys("abc"),
        "queue:high": ["c", "b", "x", "a"],
        "queues": ["rq:queue:high"],
        "job:a": {**queued, "origin": "high", "timeout": "180"},
        "job:a ttl": 50,
        "job:b": queued,
        "job:c": queued,
    }


def test_a_due_job_that_is_somewhere_else_or_gone_stays_there(lua: Lua) -> None:
    for number, status in enumerate(("queued", "started", "finished")):
        lua.enqueue(f"j{number}", "scheduled")
        lua.redis.hset(f"rq:job:j{number}", "status", status)
    lua.redis.zadd("rq:scheduled:high", {"gone": 1})
    lua.note()
    assert lua.tick() == []
    assert lua.changes() == {"scheduled:high": None}


def test_a_due_job_of_a_rate_limit_is_left_to_rq(lua: Lua) -> None:
    lua.enqueue("a", "scheduled", rate_limit_key="k")
    assert lua.tick() == [["limited", "a", "high"]]
    assert lua.changes() == {}


def test_a_tick_says_what_its_worker_serves(lua: Lua) -> None:
    lua.redis.zadd("rq:werk:serves:high", {"old": time.time() - MONTH_S - 10})
    lua.note()
    assert lua.tick(tasks=("sleep f00", "hello f01"), pages=("sleep", "{}")) == []
    assert lua.changes() == {
        "werk:serves:high": {"old": None, "sleep f00": "now+0", "hello f01": "now+0"},
        "werk:serves:high ttl": MONTH_S,
        "werk:catalog": {"sleep": "{}"},
        "werk:catalog ttl": MONTH_S,
    }


def test_a_page_that_no_worker_has_written_for_a_month_is_forgotten(lua: Lua) -> None:
    lua.now = MONTH_S + 100
    pages = {"old": '{"seen": 99}', "kept": '{"seen": 101}', "broken": "{", "odd": "[1]"}
    lua.redis.hset("rq:werk:catalog", mapping=pages)
    lua.note()
    lua.tick(tasks=("sleep f00",))  # most ticks write no page
    assert "werk:catalog" not in lua.changes()
    lua.tick(tasks=("sleep f00",), pages=("sleep", "{}"))
    gone = {"old": None, "broken": None, "odd": None}
    assert lua.changes()["werk:catalog"] == {"sleep": "{}", **gone}


def test_a_catalog_of_another_type_stops_nothing_else(lua: Lua) -> None:
    lua.redis.set("rq:werk:catalog", "x")
    lua.enqueue("a", "scheduled")
    with pytest.raises(redis.ResponseError, match="WRONGTYPE"):
        lua.tick(tasks=("sleep f00",), pages=("sleep", "{}"))
    assert lua.changes()["queue:high"] == ["a"]


# --- lib.lua


@pytest.mark.parametrize("is_counted", [True, False])
def test_what_is_given_back_goes_to_the_front(lua: Lua, is_counted: bool) -> None:
    lua.begin(werk_max_crashes=1)
    assert lua.back(is_counted=is_counted) == ["requeued", int(is_counted)]
    crashes = {"werk_crashes": "before|1"} if is_counted else {}
    assert lua.changes() == NO_EXECUTION | {
        "queue:high": ["a"],
        "queues": ["rq:queue:high"],
        "job:a": {"status": "queued", "worker_name": "", **crashes},
    }


def test_after_too_many_crashes_an_execution_is_its_heirs(lua: Lua) -> None:
    lua.begin()
    lua.silence()
    assert lua.tick("two") == [["fail", "a:h1", 1, "one"]]
    changes = lua.changes()
    del changes["worker:one"], changes["worker:two"], changes["werk:leases"]
    assert changes == {
        "wip:high": {"a:h1": "6090"},
        "worker:one:executions": None,
        "worker:two:executions": ["a:h1"],
        "execution:a:h1": {"worker_name": "two"},
        "execution:a:h1 ttl": 90,
        "job:a": {"werk_crashes": "before|1"},
    }


def test_crashes_are_counted_from_zero_after_a_requeue(lua: Lua) -> None:
    lua.begin(werk_max_crashes=1, werk_crashes="before|1")
    lua.redis.hset("rq:job:a", "enqueued_at", "later")
    assert lua.back(is_counted=True) == ["requeued", 1]
    assert lua.changes()["job:a"]["werk_crashes"] == "later|1"


def test_an_execution_of_a_job_that_is_somewhere_else_is_only_forgotten(lua: Lua) -> None:
    lua.begin()
    lua.redis.hset("rq:job:a", "status", "finished")
    lua.note()
    assert lua.back(is_counted=True) == ["gone", 0]
    assert lua.changes() == NO_EXECUTION


def test_an_execution_of_a_job_that_is_gone_is_forgotten(lua: Lua) -> None:
    lua.begin()
    lua.redis.set("rq:job:a", "no hash")
    assert lua.back(is_counted=True) == ["gone", 0]
    assert not lua.redis.exists("rq:execution:a:h1", "rq:executions:a", "rq:worker:one:executions")


def test_a_cancelled_job_that_rq_has_half_put_off_is_cancelled(lua: Lua) -> None:
    """RQ writes 'scheduled', and its horse dies before the transaction that puts the job there."""
    lua.begin()
    lua.redis.zrem("rq:wip:high", "a:h1")
    lua.redis.zadd("rq:canceled:high", {"a": 1})
    lua.redis.hset("rq:job:a", "status", "scheduled")
    lua.note()
    assert lua.back(is_counted=True) == ["gone", 0]
    assert lua.changes()["job:a"] == {"status": "canceled"}


def test_the_fence_keeps_an_execution_for_rqs_own_finish(lua: Lua) -> None:
    lua.begin()
    assert lua.fence() == 1
    assert lua.changes() == {
        "wip:high": {"a:h1": "6090"},
        "execution:a:h1": {"werk_ending": "now+10"},
        "execution:a:h1 ttl": 100,
    }
    lua.tick("one", "a:h1", "h1")
    assert "execution:a:h1 ttl" not in lua.changes()


def test_a_cut_lets_the_next_horse_alone_claim(lua: Lua) -> None:
    lua.begin()
    lua.redis.delete("rq:werk:leases")
    lua.note()
    assert lua.cut(dead="h") == ["a:h1"]
    assert lua.changes() == {
        "worker:one": {"werk_horse": "new", "werk_dead": "h"},
        "werk:leases": {"one": "now+15"},
    }


@pytest.mark.parametrize(
    ("is_recorded", "is_flushed", "wanted"),
    [(False, False, ("3", "1.5")), (True, False, ("4", "1.75")), (True, True, ("2", "1"))],
)
def test_what_a_dead_horse_had_counted_is_written_once(
    lua: Lua, is_recorded: bool, is_flushed: bool, wanted: tuple[str, str]
) -> None:
    """The last answer that it got was that of h1."""
    lua.begin()
    if is_recorded:
        lua.step("h2", lua.finish(), counts="done 2 worked 1" if is_flushed else "")
        if not is_flushed:  # an idle step always writes the state
            lua.redis.hset("rq:worker:one", "werk_step", "h1")
    for _ in range(2):  # its reply may be lost
        found = lua.cut("h", "h1", "done 3 worked 1.5 sleep|done 3", "a:h1")
        assert found == ([] if is_recorded else ["a:h1"])
    late = lua.step("h3", is_resent=True, counts="done 5 worked 5 sleep|done 5")
    assert late[1] == "fenced"
    changes = lua.changes()
    own = changes["worker:one"]
    assert (own["successful_job_count"], own["total_working_time"]) == wanted
    assert changes.get("werk:tallies") == (None if is_flushed else {"sleep|done": "3"})


@pytest.mark.parametrize("name", ["step", "tick", "back", "fence", "cut"])
def test_redis_6_2_lets_them_write_when_memory_is_full(lua: Lua, name: str) -> None:
    """It knows no flags; but a script whose first write is a removal may go on."""
    lua.begin(werk_max_crashes=1)
    lua.version = (6, 2)
    calls = {
        "step": lambda: lua.step("h2", claims=False, counts="done 1"),
        "tick": lambda: lua.tick("one", "a:h1", "h1"),
        "back": lambda: lua.back(is_counted=True),
        "fence": lua.fence,
        "cut": lua.cut,
    }
    lua.redis.config_set("maxmemory", 1)
    try:
        calls[name]()
    finally:
        lua.redis.config_set("maxmemory", 0)


# --- enqueue.lua


@pytest.mark.parametrize(("how", "queue"), [("back", ["x", "a", "b"]), ("front", ["b", "a", "x"])])
def test_an_enqueue_queues_jobs(lua: Lua, how: str, queue: list[str]) -> None:
    lua.enqueue("x")
    assert lua.send(how) == [1, 1]
    changes = lua.changes()
    assert changes["queue:high"] == queue
    assert changes["job:a"]["status"] == changes["job:b"]["status"] == "queued"


def test_an_enqueue_writes_each_job_and_what_keeps_it_single(lua: Lua) -> None:
    assert lua.send("at front") == [1, 1]
    changes = lua.changes()
    assert changes.pop("queues") == ["rq:queue:high"]
    assert changes.pop("scheduled:high") == {"a": "6000", "b": "6000"}
    unset = ("success_callback_name", "failure_callback_name", "stopped_callback_name",
             "started_at", "ended_at", "last_heartbeat", "worker_name", "group_id")  # fmt: skip
    job = dict.fromkeys(unset, "") | {
        "created_at": "before", "origin": "high", "timeout": "180", "result_ttl": "0", "ttl": "100",
        "failure_ttl": "600", "werk_task": "sleep", "werk_max_crashes": "2", "status": "scheduled",
        "enqueue_at_front": "1", "retries_left": "1", "webhooks": "hooks",
    }  # fmt: skip
    for own in ("a", "b"):
        special = {"data": f"{own} data", "description": f"{own}()", "retry_intervals": f"{own} s"}
        assert changes.pop(f"job:{own}") == {**job, **special}
        for key, value, ttl in (
            (f"job:{own}", None, 100),
            (f"werk:sent:{own}", "before", 60),
            (f"hold:{own}", f"{own} before", 50),
            (f"last:{own}", own, MONTH_S),
        ):
            assert (changes.pop(key, None), changes.pop(f"{key} ttl")) == (value, ttl)
    assert changes == {}


# --- act.lua

QUEUED_NOW = {"status": "queued", "enqueued_at": "at 5000"}
LIMITED = {"rate_limit_key": "k", "rate_limit_concurrency": 1}


@pytest.mark.parametrize("ttl", ["", "100"])
def test_a_retry_puts_a_failed_job_back_to_its_queue(lua: Lua, ttl: str) -> None:
    old = {"exc_info": "x", "started_at": "x", "ended_at": "x", "timeout": ""}
    lua.enqueue("a", "failed", "failed:high", ttl=ttl, **old)
    lua.redis.sadd("rq:job:a:dependents", "b")
    lua.redis.sadd("rq:job::a:dependencies", "c")
    lua.redis.expire("rq:job:a", 500)
    lua.note()
    assert lua.act("retry", "a", "a", "b") == [["retried"], ["is", "queued"], ["gone"]]
    begun = {"exc_info": None, "started_at": "", "ended_at": "", "timeout": "180"}
    keys = ("job:a", "job:a:dependents", "job::a:dependencies")
    assert lua.changes() == {
        "failed:high": None,
        "job:a": {**QUEUED_NOW, **begun},
        "queue:high": ["a"],
        "queues": ["rq:queue:high"],
        **({f"{key} ttl": 100 for key in keys} if ttl else {"job:a ttl": None}),
    }


def test_a_retry_waits_for_a_slot_of_its_rate_limit(lua: Lua) -> None:
    for job_id in ("a", "b"):
        lua.enqueue(job_id, "failed", "failed:high", **LIMITED)
    assert lua.act("retry", "a", "b") == [["limited"], ["limited"]]
    changes = lua.changes()
    assert changes["job:a"] == {**QUEUED_NOW, "started_at": "", "ended_at": ""}
    assert changes["job:b"]["status"] == "rate_limited"
    assert changes["queue:high"] == ["a"]
    assert changes["rl-keys"] == ["k"]
    assert changes["rl:k"] == {"concurrency": "1"}
    assert changes["rl:k:allowed"] == {"a": "5000"}
    assert changes["rl:k:rate_limited"] == {"b": "5000"}


@pytest.mark.parametrize(
    ("status", "place"),
    [
        ("queued", ""),
        ("scheduled", "scheduled:high"),
        ("deferred", "deferred:high"),
        ("rate_limited", "rl:k:rate_limited"),
    ],
)
def test_a_cancel_takes_a_job_from_where_it_waits(lua: Lua, status: str, place: str) -> None:
    lua.enqueue("a", status, place, rate_limit_key="k")
    lua.redis.sadd("rq:job:a:dependents", "b")
    lua.note()
    assert lua.act("cancel", "a", "a") == [["cancelled", 1], ["is", "canceled"]]
    assert lua.changes() == {
        place or "queue:high": None,
        "canceled:high": {"a": "5000"},
        "job:a": {"status": "canceled"},
    }


@pytest.mark.parametrize("what", ["cancel", "delete"])
def test_a_slot_of_a_rate_limit_goes_to_the_next(lua: Lua, what: str) -> None:
    lua.enqueue("a", **LIMITED)
    lua.enqueue("b", "rate_limited", "rl:k:rate_limited", enqueue_at_front=1, **LIMITED)
    lua.enqueue("c")
    lua.redis.zadd("rq:rl:k:allowed", {"a": 1})
    lua.redis.hset("rq:rl:k", "concurrency", 1)
    lua.note()
    lua.act(what, "a")
    changes = lua.changes()
    assert changes["rl:k:allowed"] == {"a": None, "b": "5000"}
    assert changes["rl:k:rate_limited"] is None
    assert changes["job:b"] == QUEUED_NOW
    assert changes["queue:high"] == ["b", "c"]


@pytest.mark.parametrize(
    ("status", "place"),
    [("queued", ""), ("finished", "finished:high"), ("rate_limited", "rl:k:rate_limited")],
)
def test_a_delete_leaves_nothing_of_a_job(lua: Lua, status: str, place: str) -> None:
    lua.enqueue("b")
    lua.redis.lpop("rq:queue:high")
    keys = set(lua.redis.keys())
    lua.enqueue("a", status, place, rate_limit_key="k", group_id="g")
    lua.redis.zadd("rq:wip:high", {"a:h1": 1})  # its time is over
    lua.redis.zadd("rq:executions:a", {"h1": 1})
    lua.redis.hset("rq:execution:a:h1", "worker_name", "dead")
    lua.redis.sadd("rq:worker:dead:executions", "a:h1")
    lua.redis.sadd("rq:group:g", "a")
    lua.redis.sadd("rq:job:a:dependents", "b")
    lua.redis.sadd("rq:job::a:dependencies", "b")
    lua.redis.xadd("rq:results:a", {"type": 1})
    assert lua.act("delete", "a", "a") == [["deleted"], ["gone"]]
    assert set(lua.redis.keys()) == keys


def test_a_running_job_is_not_deleted(lua: Lua) -> None:
    lua.begin()
    assert lua.act("delete", "a") == [["is", "started"]]
    lua.redis.hset("rq:job:a", "status", "finished")
    lua.note()
    lua.now = 5050
    assert lua.act("delete", "a") == [["is", "started"]]
    assert lua.changes() == {}


@pytest.mark.parametrize("kind", ["queue", "finished"])
def test_an_emptied_place_keeps_the_jobs_that_have_moved_on(lua: Lua, kind: str) -> None:
    place = "" if kind == "queue" else f"{kind}:high"
    lua.enqueue("a", "queued" if kind == "queue" else kind, place)
    lua.enqueue("b", "scheduled")
    if kind == "queue":
        lua.redis.rpush("rq:queue:high", "b", "gone")
    else:
        lua.redis.zadd(f"rq:{place}", {"b": 1, "gone": 1})
    lua.note()
    assert lua.act("empty", f"{kind}:high") == [["emptied", 3]]
    assert lua.changes() == {f"{kind}:high": None, "job:a": None}


def test_a_compacted_queue_keeps_the_jobs_that_there_are(lua: Lua) -> None:
    for job_id in ("a", "b"):
        lua.redis.rpush("rq:queue:high", "gone")
        lua.enqueue(job_id)
    assert lua.act("compact", "0 high") == [["compacted", 2, 4]]
    assert lua.changes() == {"queue:high": ["a", "b"]}


def test_a_worker_is_told_to_stop_and_to_drain(lua: Lua) -> None:
    lua.begin()
    assert lua.act("stop", "a") == [["deaf", "one"]]
    assert lua.act("drain", "one", "nobody") == [["deaf"], ["unknown"]]
    with lua.redis.pubsub(ignore_subscribe_messages=True) as ear:
        ear.subscribe("rq:pubsub:one")
        ear.get_message(timeout=5)
        assert lua.act("stop", "a") == [["told", "one"]]
        assert lua.act("drain", "one", "one") == [["told"], ["already"]]
        heard = [ear.get_message(timeout=5)["data"] for _ in range(2)]
    assert heard == [b'{"command": "stop-job", "job_id": "a"}', b'{"command": "shutdown"}']
    assert lua.changes() == {"worker:one": {"werk_draining": "at 6000"}}


def test_a_queue_is_paused_and_resumed(lua: Lua) -> None:
    lua.redis.sadd("rq:queues", "rq:queue:high")
    lua.note()
    assert lua.act("pause", "high", "high", "other") == [["yes"], ["already"], ["unknown"]]
    assert lua.changes() == {"werk:paused": ["high"]}
    assert lua.act("resume", "high", "high", "other") == [["yes"], ["already"], ["unknown"]]
    assert lua.changes() == {"werk:paused": None}


@pytest.mark.parametrize("status", ["queued", "scheduled", "started"])
def test_a_lost_job_is_restored_to_the_front(lua: Lua, status: str) -> None:
    lua.begin(ttl=100)
    lua.enqueue("b")
    lua.redis.hset("rq:job:a", "status", status)
    lua.redis.rpush("rq:queue:high:intermediate", "a")
    lua.note()
    lua.now = 5050
    assert lua.act("restore", "a") == [["fine", status]]
    lua.now = 7000
    assert lua.act("restore", "a") == [["restored", status]]
    changed = {"status": "queued"} if status != "queued" else {}
    assert lua.changes() == NO_EXECUTION | {
        "queue:high:intermediate": None,
        "queue:high": ["a", "b"],
        "queues": ["rq:queue:high"],
        "job:a": {**changed, "enqueued_at": "at 7000", "worker_name": ""},
        "job:a ttl": 100,
    }


def test_a_worker_that_is_no_more_is_buried(lua: Lua) -> None:
    lua.redis.sadd("rq:queues", "rq:queue:high")
    for key in ("rq:workers", "rq:workers:high"):
        lua.redis.sadd(key, "rq:worker:one", "rq:worker:dead")
    lua.note()
    assert lua.act("bury", "rq:worker:one", "rq:worker:dead") == [["fine"], ["buried"]]
    assert lua.changes() == {key: ["rq:worker:one"] for key in ("workers", "workers:high")}
