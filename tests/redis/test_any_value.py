"""Any value in any field, any type in any key: no script fails, and no job is lost because of it.

Each example puts random values and types into a small fleet's records, then has a script run by the
code that runs it in production. Afterwards each job is in exactly one place or was dropped, which
is logged; the same request once more changes nothing; and the next job is claimed.
"""

from __future__ import annotations

import random
import resource
import signal
import time
from collections.abc import Callable, Iterator, Sequence
from types import SimpleNamespace
from typing import Any, cast

import hiredis
import pytest
import redis
from any_values import FIELDS, VALUES
from contents import PLACES, QUEUES, Contents
from pair import NO_PID, Line, Pair, ends
from rq.job import Job
from test_scripts import TASKS as TASKS

from werk import Options
from werk.client import enqueue as client
from werk.errors import ConfigError, JobIdConflict
from werk.ops import actions
from werk.registry import LONGEST_S
from werk.store.connection import link_over
from werk.worker.claim import Claim, Refused
from werk.worker.executions import STOPPED
from werk.worker.orders import carry_out
from werk.worker.outcome import Outcome, deferral, failure, misplaced, success
from werk.worker.redis_side import Channel, Unusable
from werk.worker.shared_state import Order, Plan

EXAMPLES = 2000
OF_WORKER = (
    "birth werk_horse werk_dead werk_step werk_moved state last_heartbeat successful_job_count"
    " failed_job_count total_working_time werk_lease werk_v werk_hand current_job"
).split()
OF_EXECUTION = "id job_id created_at last_heartbeat worker_name werk_ending".split()
HANDS = ["werk:hand:w0:high", "werk:hand:w0:low", "werk:hand:dead:high"]
SHARED = [
    "suspended", "queues", "workers", "workers:high", "werk:paused", "werk:tallies", "werk:leases",
    "werk:ticked", "werk:gave-up", "werk:catalog", "werk:serves:high", "scheduler-lock:high",
    "werk:fenced", "werk:hands", *HANDS, f"werk:failures:{int(time.time()) // 3600}",
    "rl-keys", "rl:k", "rl:k:allowed", "rl:k:rate_limited", "clean_registries:high",
    *[f"{place}:{queue}" for place in (*PLACES, "wip", "queue") for queue in QUEUES],
]  # fmt: skip
OF_A_JOB = ["job:{}", "job:{}:dependents", "job::{}:dependencies", "results:{}", "executions:{}",
            "werk:sent:{}"]  # fmt: skip
KINDS = ("string", "list", "set", "zset", "hash", "stream", "full stream", "none")
BEATS = ("last_heartbeat", "werk_moved")
DEAD_RUN = "d:dead1"


class Strict(Line):
    """The horse's connection: an error is one of the script's."""

    def receive(self) -> Any:
        reply = super().receive()
        if isinstance(reply, hiredis.ReplyError):
            assert str(reply).startswith("NOSCRIPT"), reply
        return reply


class Fleet:
    """One worker with a job in hand, one that is dead, and jobs that wait; the same each time."""

    def __init__(self, connection: redis.Redis, url: str) -> None:
        self.redis = connection
        self.pair = pair = Pair("w0", QUEUES, url)
        pair.steps.channel = Strict(pair.worker.connection)
        pair.slot.stop.is_draining = True  # so that it does not wait for Redis
        pair.slot.child.death = (NO_PID, 9, resource.getrusage(resource.RUSAGE_SELF))
        self.link = link_over(connection)
        self.enqueue("a", "eager")
        pair.step(None, True)
        self.claim = cast(Claim, pair.claim)
        for job_id, queue in (("d", "high"), ("v", "high"), ("b", "high"), ("c", "low")):
            self.enqueue(job_id, "tough", queue)
        for job_id in ("s", "f", "z"):
            self.enqueue(job_id, "tough")
        connection.lrem("rq:queue:high", 0, "z")
        self.move("s", "scheduled", 1)
        self.move("f", "failed", 1)
        self.kill("d")
        self.base = {key: connection.dump(key) for key in connection.scan_iter()}
        self.poisoned: set[str] = set()

    def enqueue(self, job_id: str, name: str, queue: str = "high") -> None:
        client.enqueue(name, options=Options(queue=queue, job_id=job_id), connection=self.redis)

    def move(self, job_id: str, place: str, score: float) -> None:
        self.redis.lrem("rq:queue:high", 0, job_id)
        self.redis.zadd(f"rq:{place}:high", {job_id: score})
        self.redis.hset(f"rq:job:{job_id}", "status", place)

    def kill(self, job_id: str) -> None:
        """Have a worker begin that job and die."""
        self.move(job_id, "wip", 1)
        self.redis.zrem("rq:wip:high", job_id)
        self.redis.zadd("rq:wip:high", {DEAD_RUN: time.time() + 90})
        facts = {"status": "started", "worker_name": "dead", "started_at": "x", "werk_attempt": 1}
        self.redis.hset(f"rq:job:{job_id}", mapping=facts)
        facts = {"id": "dead1", "job_id": job_id, "worker_name": "dead"}
        self.redis.hset(f"rq:execution:{DEAD_RUN}", mapping=facts)
        self.redis.zadd(f"rq:executions:{job_id}", {"dead1": time.time() + 90})
        self.redis.sadd("rq:worker:dead:executions", DEAD_RUN)
        self.redis.hset("rq:worker:dead", mapping={"birth": "x", "werk_horse": "dead"})
        self.redis.zadd("rq:werk:leases", {"dead": 1})

    def reset(self) -> None:
        slot, horse = self.pair.slot, self.pair.horse
        slot.child.killed = slot.lost_run = ""
        slot.executions.orders.clear()
        horse.shared.stop, horse.steps.shows_busy, horse.chores.are_due = 0, False, False
        self.pair.claim = self.claim
        horse.shared.show(0, self.claim.id, self.claim.execution)
        with self.redis.pipeline() as pipeline:
            pipeline.flushdb()
            for key, value in self.base.items():
                pipeline.restore(key, 0, value)
            pipeline.set("rq:werk:ticked", time.time())
            pipeline.execute()
        self.poisoned = set()

    # what is put in

    def poison(self, dice: random.Random, jobs: str, spared: Sequence[str] = ()) -> None:
        """Change up to three fields or keys, at random."""
        places = [key for key in SHARED if key not in spared]
        for _ in range(dice.randint(1, 3)):
            job_id = dice.choice(jobs)
            if dice.random() < 0.5:
                self.set_field(dice, job_id)
            elif dice.random() < 0.6:
                self.set_type(dice, dice.choice(places))
            else:
                runs = [f"execution:{self.claim.run}", f"execution:{DEAD_RUN}",
                        f"execution:{job_id}:{self.next_execution()}"]  # fmt: skip
                workers = ["worker:w0", "worker:w0:executions", "worker:dead",
                           "worker:dead:executions"]  # fmt: skip
                own = [key.format(job_id) for key in OF_A_JOB]
                self.set_type(dice, dice.choice([*runs, *workers, *own]))

    def next_execution(self) -> str:
        return f"{self.pair.steps.generation}{self.pair.steps.count + 1}"

    def set_field(self, dice: random.Random, job_id: str) -> None:
        run = DEAD_RUN if job_id == "d" else self.claim.run
        key, fields = dice.choice(
            [(f"job:{job_id}", FIELDS)] * 4
            + [("worker:w0", OF_WORKER), (f"execution:{run}", OF_EXECUTION)]
        )
        field, value = dice.choice(fields), dice.choice(VALUES)
        if self.redis.type(f"rq:{key}") != b"hash":
            return
        if dice.random() < 0.15:
            self.redis.hdel(f"rq:{key}", field)
        else:
            self.redis.hset(f"rq:{key}", field, value)
        self.poisoned.add(f"{key} {field}")

    def set_type(self, dice: random.Random, key: str) -> None:
        name, kind, value = f"rq:{key}", dice.choice(KINDS), dice.choice(VALUES)
        self.redis.delete(name)
        own = cast(Any, self.redis)
        {
            "string": lambda: own.set(name, value),
            "list": lambda: own.rpush(name, value),
            "set": lambda: own.sadd(name, value),
            "zset": lambda: own.zadd(name, {value: dice.choice([0, 1, -5, "inf", "-inf", 1e300])}),
            "hash": lambda: own.hset(name, value, dice.choice(VALUES)),
            "stream": lambda: own.xadd(name, {value: value}),
            "full stream": lambda: own.xadd(name, {b"x": b"y"}, id=f"{2**64 - 1}-{2**64 - 1}"),
            "none": lambda: None,
        }[kind]()
        # What the executions themselves say is enough where their set has become something else.
        is_gone = not key.startswith("wip:") or kind in ("zset", "none")
        self.poisoned.add(key if is_gone else f"{key} {kind}")

    # what is asked afterwards

    def look(self) -> Contents:
        return Contents(self.redis)

    def places(self, job_id: str) -> set[tuple[str, str]]:
        now = self.look()
        now.values = {key: own for key, own in now.values.items() if not isinstance(own, str)}
        found = set()
        for queue in QUEUES:
            hands = [now.get("werk", "hand", worker, queue) for worker in ("w0", "dead")]
            if any(job_id in ids for ids in (now.get("queue", queue), *hands)):
                found.add(("queue", queue))
            in_hand = [*now.get("wip", queue)]
            if queue == "high" and any(key.startswith("wip:high ") for key in self.poisoned):
                in_hand = [
                    run for own in ("w0", "dead") for run in now.get("worker", own, "executions")
                ]
            found |= {("wip", queue) for run in in_hand if run.startswith(f"{job_id}:")}
            found |= {(place, queue) for place in PLACES if job_id in now.get(place, queue)}
        if job_id in now.get("rl:k:rate_limited"):
            found.add(("rate_limited", ""))
        return found

    def may_be_dropped(self, job_id: str, was_in: str) -> bool:
        """Its record was deleted or names another place; or the place where it was is deleted."""
        causes = {f"job:{job_id}", f"job:{job_id} status", f"job:{job_id} origin", was_in}
        if any(cause.startswith(f"{was_in} ") for cause in self.poisoned):
            run = DEAD_RUN if job_id == "d" else self.claim.run
            owner = "dead" if job_id == "d" else "w0"
            causes |= {f"execution:{run}", f"execution:{run} worker_name"}
            causes.add(f"worker:{owner}:executions")
        return bool(causes & self.poisoned)

    def check_place(self, job_id: str, was_in: str) -> None:
        found = self.places(job_id)
        if (
            len(found) == 2 and f"job:{job_id} repeats_left" in self.poisoned
        ):  # RQ repeats it, and keeps its result
            found -= {("finished", "high")}
        assert len(found) <= 1, (job_id, found)
        assert found or self.may_be_dropped(job_id, was_in), (job_id, "in no place")

    def check_places(self, **jobs: str) -> None:
        for job_id, was_in in jobs.items():
            self.check_place(job_id, was_in)

    def state(self) -> dict[str, Any]:
        """Return all that there is, without the beats, and what actions have answered."""
        found = {
            name: value
            for name, value in self.look().values.items()
            if not name.startswith("werk:act:")
        }
        for name, value in found.items():
            if name.startswith(("wip:", "executions:")):
                found[name] = sorted(value)  # until when an execution is to be left alone
            elif isinstance(value, dict):
                found[name] = {key: own for key, own in value.items() if key not in BEATS}
        return found

    def resend(self) -> Any:
        steps = self.pair.steps
        words, outcome = steps.last
        steps.channel.send(last=steps.beginnings[True][outcome is not None] + words)
        return steps.channel.receive()

    def step(
        self, finish: Outcome | None, claims: bool, is_resent: bool = True
    ) -> tuple[Any, Claim | None]:
        """As Horse.loop: twice if the outcome has no place of its own."""
        while True:
            reply = self.pair.steps.step(finish, claims)
            if is_resent:
                before = self.state()
                again = self.resend()
                assert self.state() == before, "sent again"
                if type(reply[1]) is list:
                    assert again[1][-2] == reply[1][-2]
            if not (finish and reply[0] == b"misplaced" and finish.status != "failed"):
                break
            finish = misplaced(finish, time.time(), "eager")
        steps, claimed = self.pair.steps, reply[1]
        is_one = type(claimed) is list
        return reply, Claim(*claimed, steps.execution, steps.asked_at) if is_one else None

    def check_next(self) -> None:
        """A job that is enqueued now is claimed; in the other queue, if this one is of no use."""
        good = {"wip": (b"none", b"zset"), "queue": (b"none", b"list")}
        can_high = all(self.redis.type(f"rq:{key}:high") in kinds for key, kinds in good.items())
        queue = "high" if can_high else "low"
        with self.redis.pipeline() as pipeline:
            pipeline.delete("rq:suspended", "rq:werk:paused")  # these do hold workers off
            if not can_high:
                pipeline.delete("rq:queue:low", "rq:wip:low")
            pipeline.hset("rq:job:z", "origin", queue)
            pipeline.rpush(f"rq:queue:{queue}", "z")
            pipeline.execute()
        self.tick()
        finish: Outcome | None = None
        for _ in range(10):
            _, claim = self.step(finish, True, is_resent=False)
            if claim and claim.id == "z":
                return
            finish = failure(claim, "Refused: not the one", time.time()) if claim else None
        raise AssertionError("the next job is not claimed")

    def tick(self) -> None:
        for _ in range(3):
            if not self.pair.supervisor.tick():
                break
        assert not self.pair.supervisor.ticker.is_unreachable


@pytest.fixture
def fleet(
    connection: redis.Redis, redis_url: str, monkeypatch: pytest.MonkeyPatch, no_logs: None
) -> Iterator[Fleet]:
    monkeypatch.setenv("WERK_REGISTRY", "test_scripts:TASKS")
    kept = {number: signal.getsignal(number) for number in (signal.SIGALRM, signal.SIGCHLD)}
    own = Fleet(connection, redis_url)
    yield own
    own.link.close()
    own.pair.supervisor.close()
    for number, handler in kept.items():
        signal.signal(number, handler)


def repeat(fleet: Fleet, example: Callable[[random.Random], None], times: int = EXAMPLES) -> None:
    """Run an example so often, each with a seed of its own, which an error names."""
    for seed in range(times):
        fleet.reset()
        try:
            example(random.Random(seed))
        except Exception as error:
            error.add_note(f"seed {seed}: {sorted(fleet.poisoned)}")
            raise


def test_a_claim(fleet: Fleet) -> None:
    def example(dice: random.Random) -> None:
        fleet.pair.horse.shared.show(0, "", "")
        fleet.poison(dice, "vb")
        fleet.step(None, True)
        for job_id in "vb":
            fleet.check_place(job_id, "queue:high")
        fleet.check_next()

    repeat(fleet, example)


@pytest.mark.parametrize("owner", ["w0", "dead"])
def test_what_a_wait_has_taken(fleet: Fleet, owner: str) -> None:
    """A step, a fence or a tick returns it to its queue."""
    hand = f"werk:hand:{owner}:high"

    def example(dice: random.Random) -> None:
        fleet.redis.lmove("rq:queue:high", f"rq:{hand}", "LEFT", "LEFT")
        fleet.pair.horse.shared.show(0, "", "")
        fleet.poison(dice, "vb")
        if dice.random() < 0.3:
            fleet.step(None, dice.random() < 0.5)
        elif dice.random() < 0.5:
            fleet.pair.slot.executions.fence_generation()
        else:
            fleet.tick(), fleet.tick()
        fleet.check_place("v", hand)
        fleet.check_next()
        may_stay = bool({"queue:high", "werk:leases", "werk:ticked"} & fleet.poisoned)
        assert may_stay or not fleet.redis.exists(f"rq:{hand}")

    repeat(fleet, example, EXAMPLES // 4)


def test_a_finish(fleet: Fleet) -> None:
    def example(dice: random.Random) -> None:
        fleet.poison(dice, "a")
        value = dice.choice([b"", b"dmFsdWU="])
        finish = dice.choice(
            [
                lambda: success(fleet.claim, dice.choice([1, 500, 10**9]), value, time.time()),
                lambda: failure(fleet.claim, "ValueError: as asked", time.time()),
                lambda: deferral(fleet.claim, time.time() + 10, time.time(), ValueError("x")),
            ]
        )()
        fleet.step(finish, dice.random() < 0.5)
        fleet.check_place("a", "wip:high")
        fleet.check_next()

    repeat(fleet, example)


def test_a_tick(fleet: Fleet) -> None:
    def example(dice: random.Random) -> None:
        fleet.poison(dice, "ads", spared=HANDS)  # a tick remembers what is in a hand
        fleet.tick()
        fleet.check_places(a="wip:high", d="wip:high", s="scheduled:high")
        before = fleet.state()
        fleet.tick()
        after = fleet.state()
        beats = ("worker:w0", "werk:leases", "werk:hands", "werk:ticked", "werk:catalog")
        for key in (*beats, *(f"werk:serves:{queue}" for queue in QUEUES)):
            before.pop(key, None), after.pop(key, None)
        assert before == after
        fleet.check_next()

    repeat(fleet, example)


@pytest.mark.parametrize("name", ["back", "fence_generation", "fence"])
def test_a_piece_of_the_supervisors(fleet: Fleet, name: str) -> None:
    slot, horse = fleet.pair.slot, fleet.pair.horse
    executions = slot.executions
    limits = {"success_callback_timeout": 1, "failure_callback_timeout": 1}
    job = SimpleNamespace(origin="high", **limits)  # what RQ has read of it

    def back() -> None:
        executions.give_back(fleet.claim.run, slot.shared.progress(), None, "killed")

    def fence() -> None:
        try:
            horse.performer.recorder.ask_fence(fleet.claim.run, cast(Job, job))
        except Refused:
            pass

    run = {"back": back, "fence_generation": executions.fence_generation, "fence": fence}[name]

    def example(dice: random.Random) -> None:
        fleet.poison(dice, "a")
        run()
        fleet.check_places(a="wip:high")
        before = fleet.state()
        run()
        after = fleet.state()
        for key in ("werk:leases", f"execution:{fleet.claim.run}"):  # times
            before.pop(key, None), after.pop(key, None)
        assert before == after
        fleet.check_next()

    repeat(fleet, example)


def test_a_claim_whose_reply_came_after_a_lease(fleet: Fleet, connection: redis.Redis) -> None:
    """It is taken if wip has it no more; a wip of another type cannot say that anybody has it."""
    recorder = fleet.pair.horse.performer.recorder
    assert not recorder.is_taken(fleet.claim)
    connection.zrem("rq:wip:high", fleet.claim.run)
    assert recorder.is_taken(fleet.claim)
    connection.delete("rq:wip:high")
    connection.set("rq:wip:high", "x")
    assert not recorder.is_taken(fleet.claim)


@pytest.mark.parametrize("kind", ["none", "string"])
@pytest.mark.parametrize("is_raw", [False, True])
def test_an_order_about_a_job_that_is_gone(
    fleet: Fleet, connection: redis.Redis, kind: str, is_raw: bool
) -> None:
    """It is deleted after it was stopped, for example: no horse may die of that, or all would."""
    connection.delete("rq:job:a")
    if kind == "string":
        connection.set("rq:job:a", "x")
    horse, order = fleet.pair.horse, Order(fleet.claim.run, "stopped", True, is_raw=is_raw)
    horse.plan = Plan(horse.plan.generation, (order,))
    horse.carry_out_orders()
    assert not connection.exists("rq:execution:" + fleet.claim.run)
    assert not connection.sismember("rq:worker:w0:executions", fleet.claim.run)
    fleet.check_next()


@pytest.mark.parametrize("is_raw", [False, True])
@pytest.mark.parametrize(
    ("reason", "is_stopped", "status"),
    [("Work-horse terminated unexpectedly", False, "failed"), (STOPPED, True, "stopped")],
)
def test_an_order_has_one_reason(
    fleet: Fleet,
    connection: redis.Redis,
    reason: str,
    is_stopped: bool,
    status: str,
    is_raw: bool,
) -> None:
    """Whether RQ's code could record it or not: else `werk failed` has two groups of one fault."""
    connection.hdel("rq:job:a", "retries_left")
    horse, order = fleet.pair.horse, Order(fleet.claim.run, reason, is_stopped, is_raw=is_raw)
    horse.plan = Plan(horse.plan.generation, (order,))
    horse.carry_out_orders()
    result = Job.fetch("a", connection).latest_result()
    assert result and result.exc_string == reason
    assert connection.hget("rq:job:a", "status") == status.encode()


def test_a_failure_that_is_kept_for_ever(fleet: Fleet, connection: redis.Redis) -> None:
    connection.hset("rq:job:a", "failure_ttl", -1)
    order = Order(fleet.claim.run, "it killed its worker", is_raw=True)
    fleet.pair.steps.step(carry_out(order, fleet.pair.horse.performer.recorder), False)
    assert connection.hget("rq:job:a", "status") == b"failed"
    assert connection.ttl("rq:job:a") > LONGEST_S - 100
    assert connection.zscore("rq:failed:high", "a") > time.time() + LONGEST_S - 100


def test_a_script_that_redis_refuses_to_load(
    fleet: Fleet, connection: redis.Redis, redis_url: str, request: pytest.FixtureRequest
) -> None:
    request.addfinalizer(lambda: connection.acl_deluser("less"))
    connection.acl_setuser(
        "less", enabled=True, nopass=True, keys="*", commands=["+@all", "-script"]
    )
    connection.script_flush()
    steps = fleet.pair.steps
    own, steps.channel = (
        steps.channel,
        Channel(redis.Redis.from_url(redis_url, username="less", password="")),
    )
    request.addfinalizer(lambda: setattr(steps, "channel", own))
    with pytest.raises(Unusable, match="NOPERM"):
        steps.step(None, wants_job=True)
    steps.channel.close()


def test_counts_that_could_not_be_written_are_kept(fleet: Fleet, redis_url: str) -> None:
    """The horse is told to stop while Redis is unreachable."""
    steps, counters = fleet.pair.steps, fleet.pair.horse.performer.counters
    counters.add_failure("tough")
    steps.flushed_at, fleet.pair.horse.shared.stop = 0.0, 1
    fleet.pair.line.fault = "request lost"
    steps.step(None, wants_job=False)
    assert "tough|failed 1" in counters.text()
    steps.write_counts()
    assert fleet.redis.hget("rq:werk:tallies", "tough|failed") == b"1"


JOBS = {"v": "queue:high", "s": "scheduled:high", "f": "failed:high", "d": "wip:high"}
OF_JOBS = ("retry", "cancel", "delete", "probe", "restore")


def test_an_act(fleet: Fleet) -> None:
    """What an operator does."""

    def example(dice: random.Random) -> None:
        fleet.poison(dice, "vsfd")
        what, job_id = dice.choice(OF_JOBS), dice.choice([*JOBS])
        others = [
            ("empty", f"200 {dice.choice(PLACES)}:high"), ("compact", "0 199 high"),
            ("pause", "high"), ("resume", "high"), ("drain", "w0"), ("reap", "rq:worker:gone"),
            ("is_dead", "rq:worker:w0"),
        ]  # fmt: skip
        act = (what, job_id) if dice.random() < 0.7 else dice.choice(others)
        [(_, became)] = actions.act(fleet.link, act[0], [act[1]])
        if act[0] == "delete" or act[0] == "empty":
            fleet.poisoned |= {f"job:{job_id}" for job_id in JOBS}  # they may be in no place
        fleet.check_places(**JOBS)
        before = fleet.state()
        [*actions.act(fleet.link, act[0], [act[1]])]
        if became not in ("limited",):
            assert fleet.state() == before
        fleet.check_next()

    repeat(fleet, example)


def test_an_enqueue(fleet: Fleet) -> None:
    def example(dice: random.Random) -> None:
        fleet.poison(dice, "vn")
        options = Options(
            queue="high",
            job_id="n",
            front=dice.random() < 0.5,
            delay=dice.choice([None, 1000]),
            ttl=dice.choice([None, 30]),
            result_ttl=dice.choice([0, 500]),
            once_per=dice.choice([None, 500]),
            unless_active=dice.random() < 0.5,
        )
        request = client.prepare(client.find("eager"), (), {}, options)
        for key in (request.hold, request.pointer):
            if key and dice.random() < 0.5:
                fleet.set_type(dice, key.removeprefix("rq:"))
        before = fleet.state()
        try:
            [handle] = client.send([request], fleet.redis)
        except ConfigError as error:
            if "is something else using it?" not in str(error) or fleet.state() != before:
                raise
            return
        except JobIdConflict:
            assert fleet.state() == before
            return
        after = fleet.state()
        assert after == before if handle.duplicate else len(fleet.places("n")) == 1
        client.send([request], fleet.redis)
        assert fleet.state() == after
        fleet.check_next()

    repeat(fleet, example)


@pytest.mark.parametrize("how", ["returns", "raises", "again", "later"])
def test_a_run(fleet: Fleet, how: str) -> None:
    """The horse runs the job, and RQ's own code or ours records what came of it."""

    def example(dice: random.Random) -> None:
        horse = fleet.pair.horse
        horse.shared.show(0, "", "")
        fleet.poison(dice, "v")
        _, claim = fleet.step(None, True)
        ends["how"] = how
        finish = horse.performer.perform(claim, 1) if claim else None
        fleet.step(finish, False)
        fleet.check_place("v", "queue:high")
        if claim and claim.id == "v":
            assert not [
                run for run in fleet.look().get("worker", "w0", "executions") if "v:" in run
            ]
        fleet.check_next()

    repeat(fleet, example, EXAMPLES // 8)
