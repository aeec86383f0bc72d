"""The scripts, one at a time: what each changes in Redis, all of it and nothing else.

The callers' clock stands at `lua.now`, far in the past. A time written as now+90 is on Redis's
clock.
"""

from __future__ import annotations

import json
import time
from contextlib import closing
from typing import Any

import pytest
import redis
from contents import Contents, table

from werk.client import request
from werk.ops.actions import act_script
from werk.ops.snapshot import Snapshot
from werk.store.connection import link_over
from werk.store.limits import FAILURES_KEPT_S, MOST_GAVE_UP
from werk.worker.scripts import script

Words = tuple[Any, ...]
MONTH_S, YEAR_S = 30 * 24 * 3600, 365 * 24 * 3600
GENERATION = {"one": "h", "two": "g"}  # of the horse of each worker
LIMIT = "rl:k:rate_limited"
STATUS = {  # of the others their first word
    "queue:high": "queued", LIMIT: "rate_limited", "ready:high": "ready_to_enqueue",
}  # fmt: skip
NO_EXECUTION = """
    wip:high                gone
    execution:a:h1          gone
    executions:a            gone
    worker:one:executions   gone"""


class Lua:
    """The scripts as the workers 'one' and 'two' call them, who serve the queue high."""

    def __init__(self, connection: redis.Redis) -> None:
        self.redis, self.now = connection, 5000
        version = connection.info("server")["redis_version"].split(".")
        self.version = tuple(map(int, version))
        for worker, generation in GENERATION.items():
            self.given(f"HSET worker:{worker} birth x werk_horse {generation}")
            self.tick(worker)
        self.given()

    def given(self, *commands: str) -> None:
        """Have Redis carry these out: words between spaces, the first a key, without RQ's prefix.
        What they change is not among the changes."""
        for command in commands:
            name, key, *words = command.split(" ")
            self.redis.execute_command(name, f"rq:{key}", *words)
        self.before = Contents(self.redis)

    def changes(self) -> dict[str, str]:
        """Return what has changed since this was last asked: see contents.table."""
        before, self.before = self.before, Contents(self.redis)
        return self.before.since(before)

    def enqueue(self, job_id: str, place: str = "queue:high", **fields: Any) -> None:
        """Make a job that is in a queue, or in this sorted set."""
        status = STATUS.get(place) or place.partition(":")[0]
        facts = {"enqueued_at": "before", "origin": "high", "timeout": 180, "status": status}
        self.redis.hset(f"rq:job:{job_id}", mapping={**facts, **fields})
        put = "RPUSH queue:high" if place == "queue:high" else f"ZADD {place} {self.now}"
        self.given(f"{put} {job_id}")

    def begin(self, **fields: Any) -> None:
        """Have worker one run job a, at 5000; then it is 6000."""
        self.enqueue("a", **fields)
        self.step("h1")
        self.now = 6000
        self.given()

    # the scripts

    def run(self, text: str, *words: Any, keys: Words = ()) -> Any:
        return decoded(self.redis.eval(text, len(keys), *keys, *words))

    def of_worker(self, name: str, *words: Any) -> Any:
        return self.run(script(name, self.version).text, *words, keys=("rq:queue:high",))

    def step(
        self, execution: str, finish: Words = (), claims: int = 1, resent: int = 0, counts: str = ""
    ) -> Any:
        times = (f"at:{self.now}", self.now, self.now + 90, self.now + 150)
        head = ("one", "h", resent, execution, *times, claims, counts)
        return self.of_worker("step", *head, *finish)

    def finish(self, outcome: str = "finished", value: str = "v", counted: str = "") -> Words:
        """Return the words for the end of a:h1, which began at 5000."""
        return ("a", "high", "h1", outcome, 500, self.now + 500, value, 5000, counted)

    def tick(
        self,
        worker: str,
        run: str = "",
        last: str = "",
        due: int = 1,
        served: Words = (),
        pages: Words = (),
        dropped: int = 0,
        generation: str = "",
        orders: Words | None = (),
        beside: Words = (),
    ) -> Any:
        slots = [(worker, generation or GENERATION[worker], run, last, dropped, orders)]
        slots += [(other, GENERATION[other], "", "", 0, ()) for other in beside]
        words = (
            json.dumps(slots),
            f"at:{self.now}",
            self.now,
            15,
            480,
            due,
            "0.5",
            json.dumps(served),
            json.dumps(pages),
            "death",
        )
        redis_time, *events = self.of_worker("tick", *words)
        assert float(redis_time) == pytest.approx(time.time(), abs=5)
        return events

    def back(self) -> Any:
        return self.of_worker("back", "a:h1", "one", "trace", self.now)

    def fence(self) -> Any:
        return self.of_worker("fence", "a:h1", "high", 10, "one")

    def take_failure(self, worker: str = "one") -> Any:
        return self.run(script("take_failure", self.version).text, worker)

    def fence_generation(self) -> Any:
        return self.of_worker("fence_generation", "one", "new", 15, '["rq:queue:high"]')

    def send(self, how: str, *rare: str, created_at: str = "before") -> Any:
        """Enqueue the jobs a and b, with all that there is, and fields that few jobs have."""
        keys = ("rq:queues", "rq:queue:high", "rq:scheduled:high")
        limits = (180, 0, 600, "sleep", 2, "[1]", 50_000, len(rare), "", "")
        jobs = [(own, f"data:{own}", f"{own}()", f"rq:hold:{own}", f"rq:last:{own}", "m")
                for own in ("a", "b")]  # fmt: skip
        words = ("rq", how, 6000, 100, created_at, "high", *limits, *jobs[0], *jobs[1], *rare)
        return self.run(request.script().text, *words, keys=keys)

    def send_plain(self, ttl: int = 0, result_ttl: int = 500, failure_ttl: int = 600) -> Any:
        """Enqueue job a without a hold or a pointer, at the same time as before."""
        keys = ("rq:queues", "rq:queue:high", "rq:scheduled:high")
        limits = (180, result_ttl, failure_ttl, "sleep", 2, "", 0, 0, "", "")
        words = ("rq", "back", 0, ttl, "before", "high", *limits, "a", "data:a", "a()", "", "", "")
        return self.run(request.script().text, *words, keys=keys)

    def act(self, what: str, *names: str, request: str = "") -> Any:
        outcomes = self.run(act_script().text, what, request, f"at:{self.now}", "", *names)
        if not request:
            self.redis.delete("rq:werk:act:")
        return outcomes


def decoded(reply: Any) -> Any:
    if isinstance(reply, list):
        return [decoded(part) for part in reply]
    return reply.decode() if isinstance(reply, bytes) else reply


@pytest.fixture
def lua(connection: redis.Redis) -> Lua:
    return Lua(connection)


# --- step.lua


def test_a_claim_moves_the_first_job_of_a_queue_to_wip(lua: Lua) -> None:
    lua.enqueue("a", origin="", data="d", werk_task="sleep", werk_enqueued="before|9")
    lua.enqueue("b")
    lua.given("EXPIRE job:a 100")
    fields = ["high", "", "1", "d", "180", None, "sleep", "before", "before|9", None]
    assert lua.step("h1", counts="done 0") == ["none", [*fields, "a", "high"], None, None]
    assert lua.changes() == table("""
        queue:high              =b
        wip:high                a:h1=5090
        job:a                   status=started started_at=at:5000 last_heartbeat=at:5000
        job:a+                  worker_name=one origin=high werk_attempt=1 lives=gone
        execution:a:h1          id=h1 job_id=a worker_name=one created_at=5000 last_heartbeat=5000
        executions:a            h1=5150
        worker:one:executions   =a:h1
        worker:one              state=busy werk_step=h1 werk_moved=now+0 successful_job_count=0""")


CALLBACKS = ("success_callback_name", "failure_callback_name", "stopped_callback_name")
UNUSED = dict.fromkeys((*CALLBACKS, "repeats_left", "rate_limit_key", "webhooks"), "")


@pytest.mark.parametrize("field", ["", *UNUSED])
def test_a_claim_tells_the_callbacks_where_a_success_is_rqs_to_record(lua: Lua, field: str) -> None:
    lua.enqueue("a", **({**UNUSED, field: "x"} if field else UNUSED))
    names = ["x" if name == field else "" for name in CALLBACKS]
    assert lua.step("h1")[1][-3:] == [names if field else None, "a", "high"]


@pytest.mark.parametrize("value", ["v", ""])
@pytest.mark.parametrize(
    ("outcome", "kind", "field"), [("finished", 1, "return_value"), ("failed", 2, "exc_string")]
)
def test_a_finish_moves_a_job_to_where_its_outcome_belongs(
    lua: Lua, outcome: str, kind: int, field: str, value: str
) -> None:
    lua.begin()
    lua.given("SADD job::a:dependencies b")
    if outcome == "failed":
        lua.given("SADD job:a:dependents b")
    assert lua.step("h2", lua.finish(outcome, value)) == ["done", "empty", None, None]
    failure = "worker:one              failed_job_count=1" if outcome == "failed" else ""
    left = "werk:committed          a:h1_one=6000" if failure else ""  # the dependents, for a tick
    assert lua.changes() == table(f"""{NO_EXECUTION}
        {outcome}:high          a=6500
        job:a                   status={outcome} ended_at=at:6000 lives=500
        job::a:dependencies     lives=500
        {"job:a:dependents      lives=500" if failure else ""}
        results:a               type={kind} worker_name=one execution_id=h1 lives=500
        results:a+              execution_started_at=5000 execution_ended_at=6000
        results:a+              {f"{field}=v" if value else ""}
        {failure}
        {left}""")


def test_a_job_that_is_put_off_is_due_later(lua: Lua) -> None:
    lua.begin()
    lua.given("HSET job:a werk_attempt 1")
    assert lua.step("h2", lua.finish("scheduled", "9 why not"), claims=0)[0] == "done"
    assert lua.changes() == table(f"""{NO_EXECUTION}
        scheduled:high          a=6500
        job:a                   status=scheduled worker_name= werk_unknown_since=9
        job:a+                  werk_attempt=0 werk_deferred=worker_one:_why_not""")


def test_a_job_that_was_cancelled_while_it_ran_is_not_put_off(lua: Lua) -> None:
    lua.begin()
    lua.given("ZREM wip:high a:h1", "ZADD canceled:high 1 a", "HSET job:a status canceled")
    assert lua.step("h2", lua.finish("scheduled", "9 why not"))[0] == "late"
    assert lua.changes() == table(NO_EXECUTION.replace("wip:high                gone", ""))


def test_a_job_that_was_put_off_is_put_off_once(lua: Lua) -> None:
    lua.begin()
    lua.given("HSET job:a werk_attempt 1")
    request = lua.finish("scheduled", "9 why not")
    assert lua.step("h2", request, claims=0)[0] == "done"
    lua.given()
    assert lua.step("h2", request, claims=0, resent=1)[0] == "again"
    assert lua.changes() == {}
    lua.given("HSET job:a werk_unknown_since 8")  # another's
    assert lua.step("h2", request, claims=0, resent=1)[0] == "late"


def test_a_job_that_is_put_off_waits_for_a_slot_of_its_rate_limit_like_others(lua: Lua) -> None:
    lua.begin(**LIMITED)
    lua.given("ZADD rl:k:allowed 1 a", "HSET rl:k concurrency 1")
    lua.step("h2", lua.finish("scheduled", "9 why not"), claims=0)
    lua.given("ZADD scheduled:high 1 a")
    assert lua.tick("one") == []
    assert lua.changes()["job:a"].startswith("enqueued_at=at:6000 status=queued")
    assert lua.step("h3")[1][-2] == "a"


def test_a_success_with_dependents_is_left_to_rq(lua: Lua) -> None:
    lua.begin()
    lua.enqueue("b")
    lua.given("SADD job:a:dependents c")
    assert lua.step("h2", lua.finish()) == ["dependents", "", None, None]
    assert lua.changes() == {}


def test_a_request_that_is_sent_again_finds_what_it_did(lua: Lua) -> None:
    lua.begin()
    lua.enqueue("b")
    lua.enqueue("c")
    request = {"finish": lua.finish(), "counts": "done 1 worked 1.5 sleep|done 1"}
    outcome, claimed, *_ = lua.step("h2", **request)
    assert (outcome, claimed[-2]) == ("done", "b")
    assert lua.changes()["werk:tallies"] == "sleep|done=1"
    outcome, claimed, *_ = lua.step("h2", **request, resent=1)
    assert (outcome, claimed[-2]) == ("again", "b")
    assert lua.changes() == {}


def test_a_late_finish_changes_nothing_of_the_job(lua: Lua) -> None:
    lua.begin()
    lua.given("ZREM wip:high a:h1")
    assert lua.step("h2", lua.finish(), claims=0)[0] == "late"
    assert lua.changes() == table(NO_EXECUTION.replace("wip:high                gone", ""))


def test_a_job_that_was_cancelled_while_it_ran_is_recorded(lua: Lua) -> None:
    lua.begin()
    lua.given("ZREM wip:high a:h1", "ZADD canceled:high 1 a", "HSET job:a status canceled")
    assert lua.fence() == 1
    assert lua.tick("one", "a:h1", "h1") == []
    assert lua.step("h2", lua.finish())[0] == "done"


@pytest.mark.parametrize("status", ["started", "finished", "canceled", "deferred"])
def test_a_claim_drops_what_is_somewhere_else_or_gone(lua: Lua, status: str) -> None:
    lua.given("RPUSH queue:high gone")
    lua.enqueue("a", status=status)
    lua.enqueue("b", status="weird")
    lua.enqueue("c")
    _, claimed, dropped, _ = lua.step("h1")
    assert dropped == ["a", f"it is {status}"]
    assert (claimed[-2], claimed[1]) == ("b", "weird")
    changes = lua.changes()
    assert changes["queue:high"] == "=c"
    assert "job:a" not in changes


@pytest.mark.parametrize("status", ["gone", "finished"])
def test_a_claim_drops_few_jobs_at_once(lua: Lua, status: str) -> None:
    names = [f"j{number}" for number in range(150)]
    for name in names if status != "gone" else ():
        lua.redis.hset(f"rq:job:{name}", "status", status)
    lua.given(f"RPUSH queue:high {' '.join(names)}")
    assert lua.step("h1")[1] == "more"
    assert lua.redis.llen("rq:queue:high") == 50
    assert lua.step("h2")[1] == "empty"


@pytest.mark.parametrize("key", ["job:a:dependents", "job::a:dependencies"])
def test_what_depends_on_a_running_job_does_not_expire(lua: Lua, key: str) -> None:
    lua.enqueue("a", ttl=100)
    lua.given(f"SADD {key} b", f"EXPIRE {key} 100", "EXPIRE job:a 100")
    lua.step("h1")
    changes = lua.changes()
    assert changes[key] == "lives=gone"
    assert "lives=gone" in changes["job:a"]


def test_a_horse_claims_only_what_it_may(lua: Lua) -> None:
    lua.enqueue("a")
    assert lua.step("h1", claims=0)[1] == "unasked"
    lua.given("SET suspended 1")
    assert lua.step("h1", counts="done 0")[1] == "suspended"
    assert "state=suspended" in lua.changes()["worker:one"]
    lua.given("DEL suspended", "SADD werk:paused high")
    assert lua.step("h1")[1:] == ["empty", None, ["rq:queue:high"]]
    lua.given("DEL werk:paused")
    lua.fence_generation()
    assert lua.step("h1")[1] == "fenced"
    assert "queue:high" not in lua.changes()


def test_counts_are_added_to_the_worker_and_to_the_counters(lua: Lua) -> None:
    for execution in ("h1", "h2"):
        lua.step(execution, counts="done 2 worked 1.5 sleep|done 2 sleep|seconds 0.5")
    assert lua.changes() == table("""
        worker:one              state=idle werk_step=h2 werk_moved=now+0
        worker:one+             successful_job_count=4 total_working_time=3
        werk:tallies            sleep|done=4 sleep|seconds=1""")


def test_only_the_supervisor_writes_the_heartbeat_of_a_worker(lua: Lua) -> None:
    lua.given("HSET worker:one last_heartbeat before")
    lua.step("h1", counts="done 1")
    assert "last_heartbeat" not in lua.changes()["worker:one"]
    lua.tick("one")
    assert "last_heartbeat=at:5000" in lua.changes()["worker:one"]


# --- hands: what the waits of an idle horse have taken

HAND = "werk:hand:one:high"


def test_a_step_of_an_idle_horse_claims_what_its_wait_has_taken(lua: Lua) -> None:
    for job_id in ("a", "b", "c"):
        lua.enqueue(job_id)
    for _ in "ab":  # b by a wait over a connection that was lost later
        lua.given(f"LMOVE queue:high rq:{HAND} LEFT LEFT")
    assert lua.step("h1")[1][-2:] == ["a", "high"]
    changes = lua.changes()
    assert (changes[HAND], changes["queue:high"]) == ("gone", "=b,c")


@pytest.mark.parametrize("why", ["fenced", "suspended", "paused", "unasked", "resent"])
def test_a_step_that_claims_nothing_returns_what_a_wait_has_taken(lua: Lua, why: str) -> None:
    for job_id in ("a", "b"):
        lua.enqueue(job_id)
    lua.given(f"LMOVE queue:high rq:{HAND} LEFT LEFT")
    if why == "fenced":
        lua.given("HSET worker:one werk_horse other")
    elif why == "suspended":
        lua.given("SET suspended 1")
    elif why == "paused":
        lua.given("SADD werk:paused high")
    claims, resent = int(why not in ("unasked", "resent")), int(why == "resent")
    _, got, *_ = lua.step("h1", claims=claims, resent=resent)
    assert got == {"paused": "empty", "resent": "unasked"}.get(why, why)
    assert lua.changes() == {HAND: "gone", "queue:high": "=a,b"}


def test_a_step_returns_the_hands_of_all_its_queues(lua: Lua) -> None:
    for job_id, queue in (("a", "high"), ("b", "low")):
        lua.enqueue(job_id, origin=queue)
    lua.given(f"LMOVE queue:high rq:{HAND} LEFT LEFT",
              "LMOVE queue:high rq:werk:hand:one:low LEFT LEFT")  # fmt: skip
    words = ("one", "h", 0, "h1", "at:5000", 5000, 5090, 5150, 1, "")
    keys = ("rq:queue:low", "rq:queue:high")
    _, claimed, *_ = lua.run(script("step", lua.version).text, *words, keys=keys)
    assert claimed[-2:] == ["b", "low"]
    changes = lua.changes()
    assert changes["queue:high"] == "=a"
    assert changes[HAND] == changes["werk:hand:one:low"] == "gone"


def test_a_step_leaves_a_job_in_hand_whose_queue_has_another_type(lua: Lua) -> None:
    lua.given(f"RPUSH {HAND} b a", "SET queue:high x")
    assert lua.step("h1")[1] == "empty"
    assert lua.changes() == {}
    lua.given("DEL queue:high")
    lua.step("h1")
    assert lua.changes() == {HAND: "gone"}  # there is no such job: each is dropped


def test_redis_6_2_lets_a_step_return_a_hand_when_memory_is_full(lua: Lua) -> None:
    lua.given(f"RPUSH {HAND} a")
    lua.version = (6, 2)
    lua.redis.config_set("maxmemory", 1)
    try:
        assert lua.step("h1", claims=0)[1] == "unasked"
    finally:
        lua.redis.config_set("maxmemory", 0)
    assert lua.changes() == {HAND: "gone", "queue:high": "=a"}


def test_a_busy_horse_does_not_look_at_its_hands(lua: Lua) -> None:
    """Its waits have ended before it claimed: nothing more to do for each job."""
    lua.begin()
    lua.given(f"RPUSH {HAND} b")
    assert lua.step("h2", lua.finish())[1] == "empty"
    assert HAND not in lua.changes()


@pytest.mark.parametrize("who", ["own", "next"])
def test_a_fence_returns_what_the_last_horse_had_in_hand(lua: Lua, who: str) -> None:
    """Also of a queue that the worker, started again under its name, no longer serves."""
    queue = "high" if who == "own" else "low"
    lua.given("SADD queues rq:queue:low")
    lua.given(f"RPUSH werk:hand:one:{queue} b a", f"RPUSH queue:{queue} c")
    assert lua.fence_generation() == []
    changes = lua.changes()
    assert changes[f"werk:hand:one:{queue}"] == "gone"
    assert changes[f"queue:{queue}"] == "=a,b,c"


def test_a_rescue_returns_what_a_dead_worker_had_in_hand(lua: Lua) -> None:
    lua.given("SADD queues rq:queue:low")
    lua.given("RPUSH werk:hand:two:high b a", "RPUSH werk:hand:two:low c")
    lua.given(f"ZADD werk:leases {time.time() - 10} two", "ZREM werk:hands two")
    assert lua.tick("one") == []
    changes = lua.changes()
    assert changes["queue:high"] == "=a,b"
    assert changes["queue:low"] == "=c"
    assert changes["werk:hand:two:high"] == changes["werk:hand:two:low"] == "gone"
    assert "two=now+15" in changes["werk:hands"]


def test_a_worker_that_was_cut_off_is_looked_at_once_more(lua: Lua) -> None:
    """Older workers rescue as well, and know no hands: so the lease does not matter."""
    lua.given("ZREM werk:leases two", "RPUSH werk:hand:two:high a")
    assert lua.tick("one") == []
    assert "queue:high" not in lua.changes()
    lua.given(f"ZADD werk:hands {time.time() - 1} two")
    lua.tick("one")
    changes = lua.changes()
    assert changes["queue:high"] == "=a"
    assert changes["werk:hand:two:high"] == "gone"
    assert "two=gone" in changes["werk:hands"]


def test_a_tick_returns_a_job_that_was_in_hand_at_the_last_one(lua: Lua) -> None:
    lua.given(f"RPUSH {HAND} a", "RPUSH queue:high b")
    lua.tick("one")
    assert "queue:high" not in lua.changes()
    lua.tick("one")
    assert lua.changes()["queue:high"] == "=a,b"
    assert not lua.redis.exists(f"rq:{HAND}")
    lua.given(f"RPUSH {HAND} a")
    lua.tick("one")
    lua.given(f"DEL {HAND}", f"RPUSH {HAND} c")
    lua.tick("one")  # another job: the horse reacts
    assert lua.redis.llen(f"rq:{HAND}") == 1
    lua.tick("two")
    lua.tick("two")
    assert lua.redis.llen(f"rq:{HAND}") == 1  # of another worker


@pytest.mark.parametrize("what", ["cancel", "delete", "probe", "restore"])
def test_an_action_finds_a_job_in_a_hand(lua: Lua, what: str) -> None:
    lua.enqueue("a")
    lua.given("LMOVE queue:high rq:werk:hand:two:high LEFT LEFT")
    wanted = {"cancel": "cancelled", "delete": "deleted"}.get(what, "fine")
    assert lua.act(what, "a") == [wanted]
    assert ("werk:hand:two:high" in lua.changes()) == (wanted != "fine")


def test_a_snapshot_counts_the_jobs_in_hands(lua: Lua) -> None:
    lua.enqueue("a")
    lua.enqueue("b")
    lua.given("SADD workers rq:worker:one", "HSET worker:one queues low,high")
    lua.given(f"LMOVE queue:high rq:{HAND} LEFT LEFT")
    with closing(link_over(lua.redis)) as link:
        assert Snapshot.read(link).queues["high"].waiting == 2


def test_a_snapshot_leaves_out_jobs_that_have_expired(lua: Lua) -> None:
    lua.given("RPUSH queue:high gone")
    lua.enqueue("a")
    lua.given("RPUSH queue:low gone", "SADD queues rq:queue:high rq:queue:low")
    with closing(link_over(lua.redis)) as link:
        queues = Snapshot.read(link).queues
    assert [queues[name].waiting for name in ("high", "low")] == [1, 0]


# --- final failures, for WERK_ON_GIVE_UP

GAVE_UP = "rq:werk:gave-up"


def test_a_final_failure_is_noted_with_its_outcome(lua: Lua) -> None:
    lua.begin()
    request = {"finish": lua.finish("failed raised")}
    assert lua.step("h2", **request)[0] == "done"
    changes = lua.changes()
    assert changes["werk:gave-up"] == "=0 6000 raised h1 a"
    assert "status=failed" in changes["job:a"].split()
    assert changes["failed:high"] == "a=6500"
    assert lua.step("h2", **request, resent=1)[0] == "again"
    assert lua.changes() == {}


def test_a_final_failure_whose_list_has_another_type_replaces_it(lua: Lua) -> None:
    lua.begin()
    lua.given("SET werk:gave-up x")
    assert lua.step("h2", lua.finish("failed crashed"))[0] == "done"
    assert lua.changes()["werk:gave-up"] == "=0 6000 crashed h1 a"


@pytest.mark.parametrize("status", ["failed", "stopped", "finished", "scheduled"])
def test_other_outcomes_are_not_noted(lua: Lua, status: str) -> None:
    lua.begin()
    assert lua.step("h2", lua.finish(status))[0] == "done"
    assert "werk:gave-up" not in lua.changes()


@pytest.mark.parametrize(
    "change", ["ZREM wip:high a:h1", "DEL job:a", "SET failed:high x"], ids=["late", "gone", "full"]
)
def test_a_failure_that_is_not_recorded_is_not_noted(lua: Lua, change: str) -> None:
    lua.begin()
    lua.given(change)
    assert lua.step("h2", lua.finish("failed raised"))[0] in ("late", "misplaced")
    assert "werk:gave-up" not in lua.changes()


def test_the_failure_of_a_job_that_was_cancelled_is_not_noted(lua: Lua) -> None:
    lua.begin()
    lua.given("ZREM wip:high a:h1", "ZADD canceled:high 1 a", "HSET job:a status canceled")
    assert lua.step("h2", lua.finish("failed raised"))[0] == "done"
    assert "werk:gave-up" not in lua.changes()


def test_a_horse_has_one_final_failure_in_hand(lua: Lua) -> None:
    assert lua.take_failure() is None
    assert lua.changes() == {}
    lua.given("RPUSH werk:gave-up 0_first 0_second")
    assert lua.take_failure() == "0_first"
    assert lua.changes() == table("""
        werk:gave-up            =0_second
        werk:gave-up:one        =0_first lives=2592000""")
    assert lua.take_failure() == "0_first"  # the same request, sent again
    assert lua.changes() == {}
    assert lua.take_failure("two") == "0_second"


def test_what_a_dead_horse_has_in_hand_is_put_back(lua: Lua) -> None:
    """By its supervisor or, if that is dead as well, by another worker's tick."""
    lua.redis.rpush(f"{GAVE_UP}:one", "0 1 raised x a", "odd")
    lua.redis.rpush(GAVE_UP, "0 1 raised x b")
    lua.given()
    assert lua.fence_generation() == []
    assert lua.redis.lrange(GAVE_UP, 0, -1) == [b"0 1 raised x b", b"1 1 raised x a"]
    assert not lua.redis.exists(f"{GAVE_UP}:one")
    lua.redis.rpush(f"{GAVE_UP}:two", "8 1 raised x c", "9" * 400 + " 1 raised x d")
    lua.given(f"ZADD werk:leases {time.time() - 10} two")
    assert lua.tick("one") == []
    assert lua.redis.lrange(GAVE_UP, 2, -1) == [b"9 1 raised x c", b"9 1 raised x d"]
    assert not lua.redis.exists(f"{GAVE_UP}:two")


def test_a_tick_drops_the_oldest_of_too_many_failures(lua: Lua) -> None:
    lua.redis.rpush(GAVE_UP, *range(MOST_GAVE_UP))
    assert lua.tick("one") == []
    assert lua.redis.hget("rq:werk:tallies", "dropped_give_ups") is None
    lua.redis.rpush(GAVE_UP, "a", "b", "c")
    lua.tick("one")
    assert lua.redis.lrange(GAVE_UP, 0, 0) == [b"3"]
    assert lua.redis.llen(GAVE_UP) == MOST_GAVE_UP
    lua.redis.rpush(GAVE_UP, "d")
    lua.tick("one")
    assert lua.redis.hget("rq:werk:tallies", "dropped_give_ups") == b"4"


@pytest.mark.parametrize("key", ["werk:gave-up", "werk:gave-up:one"])
def test_a_list_of_failures_may_have_another_type(lua: Lua, key: str) -> None:
    lua.given(f"SET {key} x")
    assert lua.take_failure() is None
    lua.given(f"SET {key} x")
    assert lua.fence_generation() == []
    lua.given(f"SET {key} x", "RPUSH werk:gave-up:two 0_x")
    lua.given(f"ZADD werk:leases {time.time() - 10} two")
    lua.redis.hset("rq:worker:one", mapping={"birth": "x", "werk_horse": "h"})
    assert lua.tick("one") == []


# --- counts of failures


def hours_of(lua: Lua) -> list[str]:
    """Return the keys of this hour and the next one, which may begin during a test."""
    hour = int(lua.redis.time()[0]) // 3600
    return [f"rq:werk:failures:{own}" for own in (hour, hour + 1)]


def counted(lua: Lua) -> dict[str, str]:
    """Return what is counted: the number and the last job, by task and error."""
    (key,) = lua.redis.keys("rq:werk:failures:*") or ["none"]
    found = lua.redis.hgetall(key)
    rows = ((own.decode(), value.decode().split()) for own, value in found.items())
    return {own: f"{number} {job_id}" for own, (number, _, job_id) in rows}


def test_a_failure_is_counted_with_its_outcome(lua: Lua) -> None:
    lua.begin()
    request = {"finish": lua.finish("failed", counted="report|ValueError: #")}
    assert lua.step("h2", **request)[0] == "done"
    assert counted(lua) == {"report|ValueError: #": "1 a"}
    (key,) = lua.redis.keys("rq:werk:failures:*")
    assert 7 * 86400 < lua.redis.ttl(key) <= FAILURES_KEPT_S
    assert lua.step("h2", **request, resent=1)[0] == "again"
    assert counted(lua) == {"report|ValueError: #": "1 a"}


@pytest.mark.parametrize(
    "change", ["ZREM wip:high a:h1", "DEL job:a", "SET failed:high x"], ids=["late", "gone", "full"]
)
def test_a_failure_that_is_not_recorded_is_not_counted(lua: Lua, change: str) -> None:
    lua.begin()
    lua.given(change)
    lua.step("h2", lua.finish("failed", counted="report|ValueError"))
    assert counted(lua) == {}


def count(lua: Lua, field: str, job_id: str = "a") -> None:
    lua.run(script("count_failure", lua.version).text, field, job_id)


def test_failures_are_counted_up(lua: Lua) -> None:
    for job_id in ("a", "b"):
        count(lua, "report|ValueError", job_id)
    count(lua, "report|KeyError", "c")
    assert counted(lua) == {"report|ValueError": "2 b", "report|KeyError": "1 c"}


@pytest.mark.parametrize("value", ["", "x", "-5 1 a", "9" * 400 + " 1 a", "1e9 1 a"])
def test_a_count_that_is_none_begins_again(lua: Lua, value: str) -> None:
    for key in hours_of(lua):
        lua.redis.hset(key, "report|ValueError", value)
    count(lua, "report|ValueError")
    for key in hours_of(lua):
        if lua.redis.hget(key, "report|ValueError") == value.encode():
            lua.redis.delete(key)
    assert counted(lua)["report|ValueError"] in ("1 a", "1000000000 a")


def test_the_counts_of_an_hour_may_have_another_type(lua: Lua) -> None:
    for key in hours_of(lua):
        lua.redis.set(key, "x")
    count(lua, "report|ValueError")
    for key in hours_of(lua):
        if lua.redis.type(key) == b"string":
            lua.redis.delete(key)
    assert counted(lua) == {"report|ValueError": "1 a"}


def test_the_kinds_of_failures_of_an_hour_are_limited(lua: Lua) -> None:
    for number in range(3000):
        count(lua, f"task{number}|{'x' * 150}")
    count(lua, f"task0|{'x' * 150}")
    found = counted(lua)
    assert len(found) < 1000
    assert int(found["|other errors"].split()[0]) == 3000 - len(found) + 1
    assert found[f"task0|{'x' * 150}"] == "2 a"


# --- tick.lua


def test_a_tick_says_that_its_worker_lives(lua: Lua) -> None:
    lua.given("DEL werk:ticked", "DEL werk:leases", "DEL worker:one")
    assert lua.tick("one") == [["unborn"]]
    assert lua.changes() == {}
    lua.given("HSET worker:one birth x")
    assert lua.tick("one") == []
    assert lua.changes() == table("""
        worker:one              last_heartbeat=at:5000 werk_horse=h werk_clock=0.5 lives=480
        werk:leases             one=now+15
        werk:ticked             =now+0""")


def test_a_tick_notes_how_many_log_lines_were_dropped_and_when(lua: Lua) -> None:
    lua.tick("one", dropped=0)
    assert lua.redis.hget("rq:worker:one", "werk_lines_dropped") is None
    lua.tick("one", dropped=3)
    text = lua.redis.hget("rq:worker:one", "werk_lines_dropped")
    assert text.startswith(b"3|")
    lua.tick("one", dropped=3)
    assert lua.redis.hget("rq:worker:one", "werk_lines_dropped") == text
    lua.tick("one", dropped=4)
    number, _, since = lua.redis.hget("rq:worker:one", "werk_lines_dropped").partition(b"|")
    assert number == b"4"
    assert float(since) == pytest.approx(float(lua.redis.time()[0]), abs=60)


def test_a_tick_keeps_what_its_horse_is_at(lua: Lua) -> None:
    lua.begin()
    assert lua.tick("one", "a:h1", "h1") == []
    assert lua.changes() == table("""
        worker:one              last_heartbeat=at:6000
        worker:one:executions   lives=2592000
        wip:high                a:h1=now+90
        job:a                   last_heartbeat=at:6000
        execution:a:h1          last_heartbeat=6000 lives=2592000
        executions:a            h1=now+150 lives=2592000""")


def test_a_tick_takes_over_what_is_left_after_a_commit(lua: Lua) -> None:
    lua.begin()
    past, ago = time.time() - 10, time.time() - 1
    lua.redis.zadd("rq:werk:leases", {"dead": past, "live": time.time() + 10})
    marks = {"x:1 dead": past, "x:2 live": past, "a:h1 one": past, "x:3 one": past, "x:4 one": ago}
    lua.redis.zadd("rq:werk:committed", {**marks, "odd": past})
    assert lua.tick("one", "a:h1", "h1") == [["unfinished", "x:1"], ["unfinished", "x:3"]]
    left = lua.redis.zrange("rq:werk:committed", 0, -1)
    assert set(left) == {b"x:1 one", b"x:2 live", b"a:h1 one", b"x:3 one", b"x:4 one"}


def test_a_tick_says_what_its_horse_has_lost(lua: Lua) -> None:
    lua.begin()
    lua.given("DEL wip:high", "DEL worker:one:executions")
    assert lua.tick("one", "a:h1", "h1") == [["lost", "a:h1", "one"]]


def test_a_tick_gives_back_what_its_horse_is_past(lua: Lua) -> None:
    """Redis has lost the finish with a part of its memory."""
    lua.begin()
    assert lua.tick("one", "", "h1") == []
    assert lua.tick("one", "", "h2") == [["requeued", "a:h1", 0, "one"]]
    assert lua.changes()["job:a"] == "status=queued werk_enqueued=before|now worker_name="


def test_a_tick_gives_back_what_neither_horse_nor_supervisor_knows(lua: Lua) -> None:
    """Redis has lost what became of an execution of an earlier horse."""
    lua.begin()
    later = {"generation": "k", "last": "k2"}
    assert lua.tick("one", **later, orders=None) == []  # the supervisor is about to decide
    assert lua.tick("one", **later, orders=("a:h1",)) == []  # the next horse will fail it
    assert lua.tick("one", "a:h1", **later) == []
    lua.changes()
    assert lua.tick("one", **later) == [["requeued", "a:h1", 0, "one"]]
    assert lua.changes()["job:a"] == "status=queued werk_enqueued=before|now worker_name="
    assert lua.tick("one", **later) == []


def test_a_tick_puts_the_jobs_of_a_dead_worker_back_to_the_front(lua: Lua) -> None:
    lua.begin(werk_max_crashes=1, ttl=200)
    lua.enqueue("b")
    lua.given("ZADD werk:leases 1 one", "HSET execution:a:h1 last_heartbeat 5500")
    assert lua.tick("two") == [["requeued", "a:h1", 1, "one"]]
    assert lua.changes() == table(f"""{NO_EXECUTION}
        queue:high              =a,b
        queues                  =rq:queue:high
        job:a                   status=queued worker_name= werk_crashes=before|1 lives=200
        job:a+                  werk_enqueued=before|now
        results:a               type=4 worker_name=one execution_id=h1 exc_string=death
        results:a+              execution_started_at=5000.000000 execution_ended_at=5500.000000
        results:a+              werk_attempt=1 lives=200
        werk:leases             one=gone
        werk:hands              one=now+15
        worker:one              werk_horse=gone
        worker:two              last_heartbeat=at:6000""")


@pytest.mark.parametrize(
    ("ticked_s_ago", "lease_s", "after_s"),
    [
        (60, -55, 5 - 1),  # it had 5 s left when Redis fell silent
        (60, -40, 15),  # no more than a new one, whatever their clocks
        (2, 5, 5),  # a late tick is no outage
        (-1000, 1005, 15),  # the clock was set back, or the new master's is another
        (None, -1e6, 15),  # Redis has lost a part of its memory
    ],
)
def test_an_outage_extends_a_lease_by_its_own_length(
    lua: Lua, ticked_s_ago: float | None, lease_s: float, after_s: float
) -> None:
    lua.begin()
    took = 1.0
    while took > 0.5:  # a pause of the machine is another outage
        now, found = time.time(), list[float]()
        lua.given(f"ZADD werk:leases {now + lease_s} one", "DEL werk:ticked")
        if ticked_s_ago is not None:
            lua.given(f"SET werk:ticked {now - ticked_s_ago}")
        for _ in range(2):  # the first tick does it for all
            assert lua.tick("two") == []
            found.append(lua.redis.zscore("rq:werk:leases", "one"))
        took = time.time() - now
    assert found == [pytest.approx(now + after_s, abs=1)] * 2


def test_a_lease_ends_even_if_each_outage_is_followed_by_another(lua: Lua) -> None:
    lua.begin()
    for _ in range(20):
        lease = lua.redis.zscore("rq:werk:leases", "one")
        if events := lua.tick("two"):
            break
        lua.given(f"SET werk:ticked {time.time() - 8}", f"ZADD werk:leases {lease - 20} one")
    assert events == [["fail", "a:h1", 1, "one"]]
    assert lua.redis.zscore("rq:werk:leases", "two")


@pytest.mark.parametrize("has_expired", [False, True])
@pytest.mark.parametrize("in_s", [-60, 30])  # overdue, or before a clean-up of many queues ends
def test_rqs_clean_up_is_kept_from_what_a_lease_has_rescued(
    lua: Lua, has_expired: bool, in_s: int
) -> None:
    """All workers were down for longer than RQ waits; now one is back."""
    until = time.time() + in_s
    lua.begin()
    lua.enqueue("x", "wip:high", status="started", worker_name="one")
    lua.given("HSET job:a worker_name one", "ZREM wip:high x")
    lua.given(f"ZADD wip:high {until} a:h1 {until} x:h0 {until} odd")
    lua.given("HSET execution:x:h0 worker_name one")
    if has_expired:
        lua.given("DEL execution:a:h1")
    lua.of_worker("spare", "high", "low")
    assert lua.changes() == {"wip:high": "a:h1=now+90"}
    lua.given(f"ZADD wip:high {until} a:h1", "ZREM werk:leases one")
    lua.of_worker("spare", "high")
    assert lua.changes() == {}


def test_a_rescue_leaves_rqs_own_finish_its_time(lua: Lua) -> None:
    lua.begin(werk_max_crashes=1)
    assert lua.fence() == 1
    lua.given("ZADD werk:leases 1 one")
    assert lua.tick("two") == []
    assert lua.changes()["werk:leases"] == "one=now+5"
    lua.given("HSET execution:a:h1 werk_ending 1", "ZADD werk:leases 1 one")
    assert lua.tick("two") == [["requeued", "a:h1", 1, "one"]]
    assert lua.fence() == 0


def test_a_tick_moves_due_jobs_as_rqs_scheduler_does(lua: Lua) -> None:
    at_front_again = {"enqueue_at_front_on_retry": 1, "ended_at": "before"}
    lua.enqueue("x")
    lua.enqueue("a", "scheduled:high", origin="other", ttl=50)
    lua.enqueue("b", "scheduled:high", enqueue_at_front=1)
    lua.enqueue("c", "scheduled:high", **at_front_again)
    lua.given("HDEL job:a timeout", f"ZADD scheduled:high {time.time() + 60} later")
    assert lua.tick("one", due=0) == []
    lua.given("SET scheduler-lock:high 1")
    assert lua.tick("one") == []
    assert lua.changes() == {}
    lua.given("DEL scheduler-lock:high")
    assert lua.tick("one") == []
    assert lua.changes() == table("""
        scheduled:high          a=gone b=gone c=gone
        queue:high              =c,b,x,a
        queues                  =rq:queue:high
        job:a                   status=queued enqueued_at=at:5000 origin=high timeout=180 lives=50
        job:a+                  werk_enqueued=at:5000|now
        job:b                   status=queued enqueued_at=at:5000 werk_enqueued=at:5000|now
        job:c                   status=queued enqueued_at=at:5000 werk_enqueued=at:5000|now""")


def test_a_due_job_that_is_somewhere_else_stays_there(lua: Lua) -> None:
    for number, status in enumerate(("queued", "started", "finished")):
        lua.enqueue(f"j{number}", "scheduled:high", status=status)
    assert lua.tick("one") == []
    assert lua.changes() == {"scheduled:high": "gone"}


@pytest.mark.parametrize("place", ["scheduled", "ready"])
def test_a_due_entry_that_is_no_jobs_is_dropped(lua: Lua, place: str) -> None:
    lua.enqueue("a", f"{place}:high", status="queued started")  # of no status that there is
    lua.given(f"ZADD {place}:high -inf gone", f"ZADD {place}:high 1 list", "RPUSH job:list x")
    lua.given("ZADD werk:ready 1 high")
    dropped = [("gone", place, "there is no such job"), ("list", place, "its key is not a hash")]
    assert lua.tick("one") == [["dropped", *facts] for facts in dropped]
    changes = lua.changes()
    assert changes[f"{place}:high"] == "gone"
    assert changes["queue:high"] == "=a"
    assert "job:list" not in changes


@pytest.mark.parametrize("place", ["scheduled", "ready"])
def test_a_due_job_waits_for_a_slot_of_its_rate_limit(lua: Lua, place: str) -> None:
    for job_id in ("a", "b"):
        more = {"enqueue_at_front_on_retry": 1, "ended_at": "x", "timeout": "", "ttl": 50}
        lua.enqueue(job_id, f"{place}:high", **LIMITED, **(more if job_id == "b" else {}))
    lua.given("ZADD werk:ready 1 high")
    assert lua.tick("one") == []
    changes = lua.changes()
    changes.pop("werk:ready", None)
    assert changes == table(f"""
        {place}:high            gone
        queue:high              =a
        queues                  =rq:queue:high
        job:a                   status=queued enqueued_at=at:5000 werk_enqueued=at:5000|now
        job:b                   status=rate_limited enqueue_at_front=1 timeout=180 lives=50
        rl-keys                 =k
        rl:k                    concurrency=1
        rl:k:allowed            a=now+0
        rl:k:rate_limited       b=now+0""")
    assert lua.tick("one") == []
    assert lua.changes() in ({}, {"werk:ready": "gone"})


def test_a_due_job_of_a_rate_limit_that_is_none_goes_to_its_queue(lua: Lua) -> None:
    for number, limit in enumerate(("", "0", "x", "nan", "-1")):
        lua.enqueue(
            f"j{number}", "scheduled:high", rate_limit_key="k", rate_limit_concurrency=limit
        )
    assert lua.tick("one") == []
    assert lua.changes()["queue:high"] == "=j0,j1,j2,j3,j4"


@pytest.mark.parametrize("key", ["rl:k", "rl:k:allowed", "rl:k:rate_limited"])
def test_a_due_job_waits_while_its_rate_limit_is_of_another_type(lua: Lua, key: str) -> None:
    lua.enqueue("a", "scheduled:high", **LIMITED)
    lua.enqueue("b", "scheduled:high")
    lua.given(f"SET {key} x")
    assert lua.tick("one") == []
    assert lua.changes()["scheduled:high"] == "b=gone"
    lua.given(f"DEL {key}")
    assert lua.tick("one") == []
    assert lua.changes()["queue:high"] == "=b,a"


def test_a_tick_moves_dependents_that_stay_in_ready_as_rq_does(lua: Lua) -> None:
    lua.enqueue("x")
    lua.enqueue("a", "ready:high", ttl=50)
    lua.enqueue("b", "ready:high", enqueue_at_front=1)
    lua.given("HDEL job:a timeout", "SADD job:a:dependents d", "SADD job::a:dependencies p")
    for _ in range(2):  # they may be on their way
        assert lua.tick("one", due=0) == []
        assert lua.changes().get("werk:ready", "high=now+0 lives=600") == "high=now+0 lives=600"
    lua.given("ZADD werk:ready 1 high")
    assert lua.tick("one", due=0) == []
    assert lua.changes() == table("""
        ready:high              gone
        queue:high              =b,x,a
        queues                  =rq:queue:high
        job:a                   status=queued enqueued_at=at:5000 timeout=180 lives=50
        job:a+                  werk_enqueued=at:5000|now
        job:a:dependents        lives=50
        job::a:dependencies     lives=50
        job:b                   status=queued enqueued_at=at:5000 werk_enqueued=at:5000|now""")
    assert lua.tick("one") == []
    assert lua.changes() == {"werk:ready": "gone"}


def test_a_ready_job_that_is_somewhere_else_stays_there(lua: Lua) -> None:
    for status in ("queued", "started", "scheduled"):
        lua.enqueue(status, "ready:high", status=status)
    lua.given("ZADD werk:ready 1 high")
    assert lua.tick("one") == []
    assert lua.changes() == {"ready:high": "gone"}


def test_many_ready_jobs_are_moved_in_pieces(lua: Lua) -> None:
    for number in range(501):
        lua.redis.hset(f"rq:job:j{number}", mapping={"status": "ready_to_enqueue"})
        lua.redis.zadd("rq:ready:high", {f"j{number}": number})
    lua.given("ZADD werk:ready 1 high")
    assert lua.tick("one") == [["more"]]
    assert lua.redis.zrange("rq:ready:high", 0, -1) == [b"j500"]
    assert lua.tick("one") == []
    assert lua.redis.llen("rq:queue:high") == 501


def test_a_ready_set_of_another_type_stops_nothing_else(lua: Lua) -> None:
    lua.given("SET ready:high x")
    lua.enqueue("a", "scheduled:high")
    assert lua.tick("one") == []
    assert lua.changes()["queue:high"] == "=a"


def test_ticks_leave_the_record_of_a_running_job_alone(lua: Lua) -> None:
    """RQ watches it while it finishes a job with dependents, and those of their other parents."""
    lua.begin()
    lua.tick("one", "a:h1", "h1")
    assert lua.changes()["job:a"] == "last_heartbeat=at:6000"
    lua.now = 7000
    lua.tick("one", "a:h1", "h1")
    assert "job:a" not in lua.changes()
    lua.given("EXPIRE execution:a:h1 59")
    lua.tick("one", "a:h1", "h1")
    assert lua.changes()["job:a"] == "last_heartbeat=at:7000"
    lua.fence()
    lua.given("EXPIRE execution:a:h1 59")
    lua.tick("one", "a:h1", "h1")
    assert "job:a" not in lua.changes()


def test_a_tick_says_what_its_worker_serves(lua: Lua) -> None:
    lua.given(f"ZADD werk:serves:high {time.time() - MONTH_S - 10} old")
    assert lua.tick("one", served=("sleep f00", "hello f01"), pages=("sleep", "{}")) == []
    assert lua.changes() == table(f"""
        werk:serves:high        old=gone sleep_f00=now+0 hello_f01=now+0 lives={MONTH_S}
        werk:catalog            sleep={{}} lives={MONTH_S}""")


def test_a_page_that_no_worker_has_written_for_a_month_is_forgotten(lua: Lua) -> None:
    month_ago = time.time() - MONTH_S
    pages = f'old {{"seen":{month_ago - 60}}} kept {{"seen":{month_ago + 60}}}'
    lua.given(f"HSET werk:catalog {pages} broken {{ odd [1]")
    lua.tick("one", served=("sleep f00",))  # most ticks write no page
    assert "werk:catalog" not in lua.changes()
    lua.tick("one", served=("sleep f00",), pages=("sleep", "{}"))
    assert lua.redis.hkeys("rq:werk:catalog") == [b"kept", b"sleep"]


def test_a_catalog_of_another_type_is_written_anew(lua: Lua) -> None:
    lua.given("SET werk:catalog x")
    lua.enqueue("a", "scheduled:high")
    assert lua.tick("one", served=("sleep f00",), pages=("sleep", "{}")) == []
    changes = lua.changes()
    assert changes["queue:high"] == "=a"
    assert "sleep={}" in changes["werk:catalog"]


# --- lib.lua


def test_after_too_many_crashes_an_execution_is_its_heirs(lua: Lua) -> None:
    lua.begin()
    lua.given("ZADD werk:leases 1 one")
    assert lua.tick("two") == [["fail", "a:h1", 1, "one"]]
    assert lua.changes() == table("""
        wip:high                a:h1=now+90
        execution:a:h1          worker_name=two werk_crashes=1 lives=2592000
        worker:one:executions   gone
        worker:two:executions   =a:h1
        job:a                   werk_crashes=before|1
        werk:leases             one=gone
        werk:hands              one=now+15
        worker:one              werk_horse=gone
        worker:two              last_heartbeat=at:6000""")


def test_an_execution_that_no_order_can_name_returns_to_its_queue(lua: Lua) -> None:
    """Its job is refused when it is claimed: RQ allows no such id."""
    lua.enqueue("a$b")
    lua.step("h1")
    lua.given("ZADD werk:leases 1 one")
    assert lua.tick("two") == [["requeued", "a$b:h1", 1, "one"]]


@pytest.mark.parametrize("left", ["HSET worker:one werk_slots 2", "DEL worker:one"])
def test_no_job_is_to_blame_for_the_death_of_several_slots(lua: Lua, left: str) -> None:
    """The record of a worker expires after 8 minutes, in which there may have been no other."""
    lua.begin()
    assert lua.tick("one", "a:h1", "h1", beside=("two",)) == []
    lua.given(left, "ZADD werk:leases 1 one")
    assert lua.tick("two") == [["requeued", "a:h1", 0, "one"]]
    assert "werk_crashes=before|0" in lua.changes()["job:a"]


def test_an_heir_is_told_until_it_has_the_order(lua: Lua) -> None:
    """The reply to a tick may be lost."""
    lua.begin()
    lua.given("ZADD werk:leases 1 one")
    assert lua.tick("two") == [["fail", "a:h1", 1, "one"]]
    lua.changes()
    assert lua.tick("two") == [["fail", "a:h1", 1, "two"]]
    assert lua.changes().keys() <= {"werk:leases", "werk:hands", "worker:two"}
    assert lua.tick("two", orders=("a:h1",)) == []


def test_a_crash_is_kept_once_as_an_attempt(lua: Lua) -> None:
    lua.begin(werk_max_crashes=2, werk_attempt=4)
    lua.given("XADD results:a * type 2", "EXPIRE results:a 50")
    assert lua.back() == ["requeued", 1]
    attempt = table(f"""
        results:a               type=4 worker_name=one execution_id=h1 exc_string=trace
        results:a+              execution_started_at=5000.000000 execution_ended_at=6000.000000
        results:a+              werk_attempt=5 lives={YEAR_S}""")
    assert attempt.items() <= lua.changes().items()
    assert lua.back() == ["gone", 0]  # sent again
    assert lua.changes() == {}
    assert lua.redis.xlen("rq:results:a") == 2


@pytest.mark.parametrize(
    ("key", "fields"),
    [
        ("HSET execution:a:h1 created_at nan last_heartbeat inf", ""),
        ("HSET execution:a:h1 created_at 1e400 last_heartbeat x", ""),
        ("DEL execution:a:h1", ""),
        ("SET results:a x", "execution_started_at execution_ended_at"),
    ],
)
def test_an_attempt_holds_what_rq_can_read(lua: Lua, key: str, fields: str) -> None:
    lua.begin(werk_max_crashes=1)
    lua.given(key, "ZADD werk:leases 1 one")
    assert lua.tick("two") == [["requeued", "a:h1", 1, "one"]]
    ((_, entry),) = lua.redis.xrange("rq:results:a")
    known = {"type", "worker_name", "execution_id", "exc_string", "werk_attempt", *fields.split()}
    assert {name.decode() for name in entry} == known


def test_ten_results_are_kept_until_their_job_has_ended(lua: Lua) -> None:
    for number in range(15):
        lua.redis.xadd("rq:results:a", {"type": number})
    lua.enqueue("a", werk_attempt=15, werk_max_crashes=1)
    lua.given("EXPIRE results:a 5")
    lua.step("h1")
    assert lua.changes()["results:a"] == f"lives={YEAR_S}"
    lua.back()
    lua.step("h1")
    assert lua.redis.xlen("rq:results:a") == 10
    assert lua.step("h2", lua.finish())[0] == "done"
    kinds = [entry[b"type"] for _, entry in lua.redis.xrange("rq:results:a")]
    assert kinds == [*(b"%d" % number for number in range(7, 15)), b"4", b"1"]
    assert " lives=500 " in lua.changes()["results:a"]


def test_a_first_claim_leaves_the_results_alone(lua: Lua) -> None:
    lua.enqueue("a")
    lua.given("XADD results:a * type 2")
    lua.step("h1")
    assert "results:a" not in lua.changes()


def test_crashes_are_counted_from_zero_after_a_requeue(lua: Lua) -> None:
    lua.begin(werk_max_crashes=1, werk_crashes="before|1")
    lua.given("HSET job:a enqueued_at later")
    assert lua.back() == ["requeued", 1]
    assert "werk_crashes=later|1" in lua.changes()["job:a"]


def test_an_execution_of_a_job_that_is_somewhere_else_is_only_forgotten(lua: Lua) -> None:
    lua.begin()
    lua.given("HSET job:a status finished")
    assert lua.back() == ["gone", 0]
    assert lua.changes() == table(NO_EXECUTION)


def test_an_execution_of_what_is_no_job_is_forgotten(lua: Lua) -> None:
    lua.begin()
    lua.given("SET job:a x")
    assert lua.back() == ["gone", 0]
    assert lua.changes() == table(NO_EXECUTION.replace("wip:high                gone", ""))


def test_a_cancelled_job_that_rq_has_half_put_off_is_cancelled(lua: Lua) -> None:
    """RQ writes 'scheduled', and its horse dies before the transaction that puts the job there."""
    lua.begin()
    lua.given("ZREM wip:high a:h1", "ZADD canceled:high 1 a", "HSET job:a status scheduled")
    assert lua.back() == ["gone", 0]
    assert lua.changes()["job:a"] == "status=canceled"


def test_the_fence_keeps_an_execution_for_rqs_own_finish(lua: Lua) -> None:
    lua.begin()
    assert lua.fence() == 1
    assert lua.changes() == table("""
        wip:high                a:h1=now+90
        execution:a:h1          werk_ending=now+10 lives=2592000""")
    lua.tick("one", "a:h1", "h1")
    assert "lives" not in lua.changes()["execution:a:h1"]


def test_a_new_generation_alone_may_claim(lua: Lua) -> None:
    lua.begin()
    lua.given("DEL werk:leases")
    assert lua.fence_generation() == ["a:h1"]
    assert lua.changes() == table("""
        worker:one              werk_horse=new
        werk:fenced             =1 lives=60
        werk:leases             one=now+15""")


def test_a_horse_that_was_idle_is_replaced_without_a_mark(lua: Lua) -> None:
    assert lua.fence_generation() == []
    assert "werk:fenced" not in lua.changes()


def test_a_request_of_a_dead_horse_claims_nothing(lua: Lua) -> None:
    """It ends an execution about which the supervisor has not decided yet."""
    lua.begin()
    lua.enqueue("b")
    assert lua.fence_generation() == ["a:h1"]
    assert lua.step("h2", lua.finish())[:2] == ["done", "fenced"]
    assert "queue:high" not in lua.changes()


@pytest.mark.parametrize("what", ["other", "gone", "rescued"])
def test_only_an_execution_of_its_worker_proves_that_a_horse_may_claim(lua: Lua, what: str) -> None:
    """Its job may have ended, or wait for another worker to fail it."""
    lua.begin(**({"werk_max_crashes": 0} if what == "rescued" else {}))
    lua.enqueue("b")
    if what == "rescued":
        lua.given("ZADD werk:leases 1 one")
        assert lua.tick("two")[0][:2] == ["fail", "a:h1"]
        assert "werk:fenced" not in lua.changes()
    else:
        lua.given("HSET worker:one werk_horse other")
    if what == "gone":
        lua.given("ZREM wip:high a:h1")
    claimed = lua.step("h2", lua.finish())[1]
    assert (claimed == "fenced") == (what != "other")


def test_a_horse_whose_worker_has_expired_claims_nothing(lua: Lua) -> None:
    """Its supervisor hangs: nobody would watch the job. A horse asks when it writes its state."""
    lua.begin()
    lua.enqueue("b")
    lua.given("DEL worker:one")
    assert lua.step("h2", lua.finish(), counts="done 0")[:2] == ["done", "fenced"]
    assert "queue:high" not in lua.changes()


def test_what_cannot_be_given_back_yet_leaves_a_mark(lua: Lua) -> None:
    lua.begin()
    lua.given("DEL queue:high", "SET queue:high x")
    assert lua.tick("one", generation="new") == [["later", "a:h1", 0, "one"]]
    assert lua.changes()["werk:fenced"] == "=1 lives=60"


def test_a_rescue_that_is_not_over_leaves_a_mark(lua: Lua) -> None:
    lua.begin()
    lua.given("ZADD werk:leases 1 one", "DEL queue:high", "SET queue:high x")
    assert lua.tick("two") == []
    assert lua.changes()["werk:fenced"] == "=1 lives=60"


@pytest.mark.parametrize("name", ["step", "tick", "back", "fence", "fence_generation"])
def test_redis_6_2_lets_them_write_when_memory_is_full(lua: Lua, name: str) -> None:
    """It knows no flags; but a script whose first write is a removal may go on."""
    words = {"step": ("h2", (), 0, 0, "done 1"), "tick": ("one", "a:h1", "h1")}.get(name, ())
    lua.begin(werk_max_crashes=1)
    lua.version = (6, 2)
    lua.redis.config_set("maxmemory", 1)
    try:
        getattr(lua, name)(*words)
    finally:
        lua.redis.config_set("maxmemory", 0)


# --- enqueue.lua


@pytest.mark.parametrize(("how", "queue"), [("back", "=x,a,b"), ("front", "=b,a,x")])
def test_an_enqueue_queues_jobs(lua: Lua, how: str, queue: str) -> None:
    lua.enqueue("x")
    assert lua.send(how) == [1, 1]
    changes = lua.changes()
    assert changes["queue:high"] == queue
    assert "status=queued" in changes["job:a"] and "status=queued" in changes["job:b"]


def test_an_enqueue_writes_each_job_and_what_keeps_it_single(lua: Lua) -> None:
    def wanted(own: str) -> str:
        return f"""
        job:{own}               status=scheduled created_at=before origin=high ttl=100 lives=100
        job:{own}+              werk_enqueued=before|now
        job:{own}+              data=data:{own} description={own}() werk_task=sleep timeout=180
        job:{own}+              result_ttl=0 failure_ttl=600 werk_max_crashes=2 webhooks=hooks
        job:{own}+              meta=m retries_left=1 retry_intervals=[1] enqueue_at_front=1
        job:{own}+              success_callback_name= failure_callback_name= group_id=
        job:{own}+              stopped_callback_name= started_at= ended_at= last_heartbeat=
        job:{own}+              worker_name= werk_v=1
        werk:sent:{own}         =before lives=60
        hold:{own}              ={own}_before lives=50
        last:{own}              ={own} lives={MONTH_S}"""

    assert lua.send("at front", "webhooks", "hooks") == [1, 1]
    assert lua.changes() == table(f"""{wanted("a")}{wanted("b")}
        scheduled:high          a=6000 b=6000
        queues                  =rq:queue:high""")


@pytest.mark.parametrize(
    ("of_a", "ours", "reply"),
    [
        ({}, ("werk_call", "one"), ["id", "a"]),  # by plain RQ
        ({"werk_call": "one"}, (), ["id", "a"]),  # by a caller whose request has no call
        ({"werk_call": "one"}, ("webhooks", "one", "werk_call", "one"), ["id", "a"]),
        ({"werk_call": "one"}, ("webhooks", "two", "werk_call", "two"), ["conflict", "a", "x()"]),
        ({"werk_call": ""}, ("werk_call", "two"), ["conflict", "a", "x()"]),
        ({"werk_call": "one", "created_at": "before"}, ("werk_call", "two"), 1),  # sent again
    ],
)
def test_an_id_is_its_calls(
    lua: Lua, of_a: dict[str, str], ours: tuple[str, ...], reply: object
) -> None:
    lua.enqueue("a", **{"created_at": "long ago", "description": "x()", **of_a})
    assert lua.send("back", *ours) == [reply, 1]
    assert "job:a" not in lua.changes()


@pytest.mark.parametrize("option", ["ttl", "result_ttl", "failure_ttl"])
@pytest.mark.parametrize("seconds", [1, 59])
def test_a_request_whose_job_has_ended_and_expired_is_sent_again(
    lua: Lua, option: str, seconds: int
) -> None:
    expires = {option: seconds if option == "ttl" else seconds - 1}
    assert lua.send_plain(**expires) == [1]
    lua.given("LPOP queue:high", "DEL job:a")
    assert lua.send_plain(**expires) == [1]
    assert lua.changes() == {}


@pytest.mark.parametrize("seconds", [60, -1])
def test_a_job_that_is_kept_for_longer_than_a_request_is_sent_again_leaves_no_key(
    lua: Lua, seconds: int
) -> None:
    lua.send_plain(max(0, seconds), seconds, seconds)
    assert {*lua.changes()} == {"queues", "queue:high", "job:a"}


# --- act.lua

LIMITED = {"rate_limit_key": "k", "rate_limit_concurrency": 1}


@pytest.mark.parametrize("ttl", ["", "100"])
def test_a_retry_puts_a_failed_job_back_to_its_queue(lua: Lua, ttl: str) -> None:
    old = {"exc_info": "x", "started_at": "x", "ended_at": "x", "timeout": ""}
    lua.enqueue("a", "failed:high", ttl=ttl, **old)
    lua.given("SADD job:a:dependents b", "SADD job::a:dependencies c", "EXPIRE job:a 500")
    lua.given("EXPIRE job:a:dependents 500", "EXPIRE job::a:dependencies 500")
    assert lua.act("retry", "a", "a", "b") == ["retried", "queued", "gone"]
    assert lua.changes() == table(f"""
        failed:high             gone
        queue:high              =a
        queues                  =rq:queue:high
        job:a                   status=queued enqueued_at=at:5000 timeout=180 exc_info=gone
        job:a+                  started_at= ended_at= lives={ttl or "gone"}
        job:a+                  werk_enqueued=at:5000|now
        job:a:dependents        lives={ttl or "gone"}
        job::a:dependencies     lives={ttl or "gone"}""")


@pytest.mark.parametrize(
    ("what", "outcome"),
    [("retry", "retried"), ("discard", "deleted"), ("cancel", "failed"), ("pause", "yes")],
)
def test_an_action_whose_reply_was_lost_has_the_same_outcome(
    lua: Lua, what: str, outcome: str
) -> None:
    lua.given("SADD queues rq:queue:high")
    lua.enqueue("a", "failed:high")
    name = "high" if what == "pause" else "a"
    assert lua.act(what, name, request="r") == [outcome]
    lua.enqueue("a", "failed:high")  # it has failed again meanwhile
    assert lua.act(what, name, request="r") == [outcome]
    assert lua.changes() == {}
    assert 0 < lua.redis.ttl("rq:werk:act:r") <= 60


def test_a_retry_waits_for_a_slot_of_its_rate_limit(lua: Lua) -> None:
    for job_id in ("a", "b"):
        lua.enqueue(job_id, "failed:high", **LIMITED)
    assert lua.act("retry", "a", "b") == ["limited", "limited"]
    assert lua.changes() == table("""
        failed:high             gone
        queue:high              =a
        queues                  =rq:queue:high
        job:a                   status=queued enqueued_at=at:5000 started_at= ended_at=
        job:a+                  werk_enqueued=at:5000|now
        job:b                   status=rate_limited started_at= ended_at=
        rl-keys                 =k
        rl:k                    concurrency=1
        rl:k:allowed            a=now+0
        rl:k:rate_limited       b=now+0""")


@pytest.mark.parametrize(
    "place", ["queue:high", "scheduled:high", "deferred:high", "ready:high", LIMIT]
)
def test_a_cancel_takes_a_job_from_where_it_waits(lua: Lua, place: str) -> None:
    lua.enqueue("a", place, rate_limit_key="k")
    lua.given("SADD job:a:dependents b")
    assert lua.act("cancel", "a", "a") == ["cancelled", "canceled"]
    assert lua.changes() == table(f"""
        {place}                 gone
        canceled:high           a=now+0
        job:a                   status=canceled""")


@pytest.mark.parametrize("what", ["cancel", "delete"])
def test_a_slot_of_a_rate_limit_goes_to_the_next(lua: Lua, what: str) -> None:
    lua.enqueue("a", **LIMITED)
    lua.enqueue("b", LIMIT, enqueue_at_front=1, **LIMITED)
    lua.enqueue("c")
    lua.given("ZADD rl:k:allowed 1 a", "HSET rl:k concurrency 1")
    lua.act(what, "a")
    changes = lua.changes()
    assert changes["rl:k:allowed"] == "a=gone b=now+0"
    assert changes["rl:k:rate_limited"] == "gone"
    assert changes["job:b"] == "enqueued_at=at:5000 status=queued werk_enqueued=at:5000|now"
    assert changes["queue:high"] == "=b,c"


@pytest.mark.parametrize("place", ["queue:high", "finished:high", LIMIT])
def test_a_delete_leaves_nothing_of_a_job(lua: Lua, place: str) -> None:
    keys = set(lua.redis.keys())
    lua.enqueue("a", place, rate_limit_key="k", group_id="g")
    lua.given("SADD group:g a", "SADD job:a:dependents b", "SADD job::a:dependencies b",
              "XADD results:a * type 1", "ZADD wip:high 1 a:h1", "ZADD executions:a 1 h1",
              "HSET execution:a:h1 worker_name dead", "SADD worker:dead:executions a:h1",
    )  # fmt: skip
    assert lua.act("delete", "a", "a") == ["deleted", "gone"]
    assert set(lua.redis.keys()) == keys


@pytest.mark.parametrize("place", ["queue:high", "finished:high"])
def test_an_emptied_place_keeps_the_jobs_that_have_moved_on(lua: Lua, place: str) -> None:
    put = f"RPUSH {place}" if place == "queue:high" else f"ZADD {place} 1"
    lua.enqueue("a", place)
    lua.enqueue("b", "scheduled:high")
    lua.given(f"{put} b", f"{put} gone")
    assert lua.act("empty", f"200 {place}") == ["3"]
    assert lua.changes() == {place: "gone", "job:a": "gone"}


def test_a_compacted_queue_keeps_the_jobs_that_there_are(lua: Lua) -> None:
    for job_id in ("a", "b"):
        lua.given("RPUSH queue:high gone")
        lua.enqueue(job_id)
    assert lua.act("compact", "0 199 high") == ["2"]
    assert lua.changes() == {"queue:high": "=a,b"}


def test_a_ready_job_is_restored_as_rq_enqueues_it(lua: Lua) -> None:
    lua.enqueue("x")
    lua.enqueue("a", "ready:high", ttl=50)
    lua.enqueue("b", "ready:high", enqueue_at_front=1)
    lua.enqueue("c", "ready:high", **LIMITED)
    lua.given("ZREM ready:high b", "HDEL job:a timeout")
    assert lua.act("probe", "a", "b", "c") == ["ready_to_enqueue"] * 3
    assert lua.changes() == {}
    assert lua.act("restore", "a", "b", "c", "a") == ["ready_to_enqueue"] * 3 + ["fine"]
    assert lua.changes() == table("""
        ready:high              gone
        queue:high              =b,x,a,c
        queues                  =rq:queue:high
        job:a                   status=queued enqueued_at=at:5000 worker_name= timeout=180 lives=50
        job:a+                  werk_enqueued=at:5000|now
        job:b                   status=queued enqueued_at=at:5000 worker_name=
        job:b+                  werk_enqueued=at:5000|now
        job:c                   status=queued enqueued_at=at:5000 worker_name=
        job:c+                  werk_enqueued=at:5000|now
        rl-keys                 =k
        rl:k                    concurrency=1
        rl:k:allowed            c=now+0""")


def test_a_worker_is_told_to_drain(lua: Lua) -> None:
    lua.begin()
    assert lua.act("drain", "one", "nobody") == ["not listening", "unknown"]
    with lua.redis.pubsub() as ear:
        ear.subscribe("rq:pubsub:one")
        assert ear.get_message(timeout=60)["type"] == "subscribe"
        assert lua.act("drain", "one", "one") == ["asked", "already"]
        assert ear.get_message(timeout=60)["data"] == b'{"command": "shutdown"}'
    assert lua.changes() == {"worker:one": "werk_draining=at:6000"}


def test_a_worker_with_several_slots_is_told_to_drain_them_all(lua: Lua) -> None:
    for name in ("web.1", "web.3", "web.10"):
        lua.given(f"HSET worker:{name} birth x werk_slots 10", f"SADD workers rq:worker:{name}")
    others = ("web.2.1", "web.", "web.x", "web1.1")  # not one of them, nor is a worker "web.7"
    for name in others:
        lua.given(f"HSET worker:{name} birth x werk_slots 10", f"SADD workers rq:worker:{name}")
    lua.given("HSET worker:web.7 birth x", "SADD workers rq:worker:web.7 other")
    assert lua.act("drain", "web", "web.3", "we") == ["not listening", "not listening", "unknown"]
    with lua.redis.pubsub() as ear:
        for name in ("web.1", "web.3", "web.10", "web.7", *others):
            ear.subscribe(f"rq:pubsub:{name}")
            assert ear.get_message(timeout=60)["type"] == "subscribe"
        assert lua.act("drain", "web.3", "web", "web") == ["asked", "asked", "already"]
        heard = [ear.get_message(timeout=60)["channel"] for _ in range(3)]
        assert sorted(heard) == [b"rq:pubsub:web.1", b"rq:pubsub:web.10", b"rq:pubsub:web.3"]
    told = {f"worker:web.{number}": "werk_draining=at:5000" for number in (1, 3, 10)}
    assert lua.changes() == told
    lua.given("DEL workers", "SET workers x")  # of another type
    assert lua.act("drain", "web", "web.3") == ["unknown", "already"]


def test_a_queue_is_paused_and_resumed(lua: Lua) -> None:
    lua.given("SADD queues rq:queue:high")
    assert lua.act("pause", "high", "high", "other") == ["yes", "already", "unknown"]
    assert lua.changes() == {"werk:paused": "=high"}
    assert lua.act("resume", "high", "high", "other") == ["yes", "already", "unknown"]
    assert lua.changes() == {"werk:paused": "gone"}


@pytest.mark.parametrize("status", ["queued", "scheduled", "started"])
def test_a_lost_job_is_restored_to_the_front(lua: Lua, status: str) -> None:
    lua.begin(ttl=100)
    lua.enqueue("b")
    lua.given("RPUSH queue:high:intermediate a", f"HSET job:a status {status}")
    lua.given(f"ZADD wip:high {time.time() + 60} a:h1")
    assert lua.act("restore", "a") == ["fine"]
    lua.given("ZADD wip:high 1 a:h1")
    lua.now = 7000
    assert lua.act("probe", "a") == [status]
    assert lua.changes() == {}
    assert lua.act("restore", "a") == [status]
    assert lua.changes() == table(f"""{NO_EXECUTION}
        queue:high:intermediate gone
        queue:high              =a,b
        queues                  =rq:queue:high
        job:a                   enqueued_at=at:7000 werk_enqueued=at:7000|now worker_name= lives=100
        job:a+                  {"status=queued" if status != "queued" else ""}""")


def test_a_tick_writes_the_record_of_a_running_execution_again(lua: Lua) -> None:
    lua.begin()
    lua.tick("one", "a:h1", "h1")
    lua.given("SET execution:a:h1 x")
    lua.tick("one", "a:h1", "h1")
    assert lua.redis.hgetall("rq:execution:a:h1") == {
        b"id": b"h1", b"job_id": b"a", b"worker_name": b"one", b"created_at": b"6000",
        b"last_heartbeat": b"6000",
    }  # fmt: skip


@pytest.mark.parametrize("change", ["DEL executions:a", "SET executions:a x"])
def test_a_running_job_whose_list_of_executions_is_lost_is_not_restored(
    lua: Lua, change: str
) -> None:
    lua.begin()
    lua.given(f"ZADD wip:high {time.time() + 60} a:h1", change)
    lua.tick("one", "a:h1", "h1")
    assert lua.act("restore", "a") == ["fine"]
    assert "queue:high" not in lua.changes()


def test_a_worker_that_is_no_more_is_buried(lua: Lua) -> None:
    workers = "rq:worker:one rq:worker:dead"
    lua.given(
        "SADD queues rq:queue:high", f"SADD workers {workers}", f"SADD workers:high {workers}"
    )
    assert lua.act("reap", "rq:worker:one", "rq:worker:dead") == ["there", "gone"]
    assert lua.changes() == {"workers": "=rq:worker:one", "workers:high": "=rq:worker:one"}


def test_a_worker_that_has_expired_with_a_job_is_not_buried(lua: Lua) -> None:
    """Others rescue the job when its lease is over."""
    lua.begin(werk_max_crashes=1)
    lua.given("DEL worker:one", "SADD workers rq:worker:one", "ZADD werk:leases 1 one")
    for action in ("is_dead", "reap"):
        assert lua.act(action, "rq:worker:one") == ["there"]
    assert lua.changes() == {}
    assert lua.tick("two")[0][:2] == ["requeued", "a:h1"]
    assert lua.act("reap", "rq:worker:one") == ["gone"]
