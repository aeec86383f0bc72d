"""The scripts in any order: after each step every job is in exactly one place, and says so.

A state machine calls them through the code that calls them in production: client.enqueue,
actions.act, and a Worker with its Horse, but both in this process, so that the machine can stop
them between any two commands: killed (and settled by their supervisor), or frozen (and rescued by
another worker, then perhaps thawed, with what they hold, or in the middle of a request).

What the machine does not see (beats, counters, times to live) is in test_lua.py.
"""

from __future__ import annotations

import signal
import time
from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import replace
from itertools import count
from typing import Any, ClassVar, cast

import pytest
import redis
import rq
from contents import QUEUES, Contents, is_of, text
from hypothesis import HealthCheck, settings
from hypothesis import strategies as st
from hypothesis.stateful import (
    RuleBasedStateMachine,
    initialize,
    invariant,
    precondition,
    rule,
    run_state_machine_as_test,
)
from pair import FAULTS, HOW, Died, Line, Pair
from rq.job import Job, Retry
from rq.suspension import resume, suspend

from werk import Options, Task
from werk.client import enqueue as client
from werk.errors import JobIdConflict
from werk.ops import actions
from werk.store.connection import link_over
from werk.worker.claim import Claim
from werk.worker.outcome import Outcome, failure
from werk.worker.supervisor import LEASES

HANDS = "rq:werk:hands"
DAY_S = 24 * 3600
SERVED = (("high", "low"), ("low", "high"), ("high",))  # by the workers, in turn
MOST_WORKERS = 6
IDS = [f"j{number}" for number in range(7)]
KEEP_S, FAILURE_S, TTL_S = 500, 600, 700  # not short, so that no job expires by itself
PAST = 1
PLACE_OF = {
    "queued": "queue", "started": "wip", "scheduled": "scheduled", "deferred": "deferred",
    "ready_to_enqueue": "ready", "finished": "finished", "failed": "failed", "stopped": "failed",
    "canceled": "canceled",
}  # fmt: skip


def task(path: str = "pair.work", *, result_ttl: int = KEEP_S, **limits: int) -> Task:
    return Task(path, result_ttl=result_ttl, failure_ttl=FAILURE_S, **limits)


TASKS = {
    "fragile": task(max_crashes=0),
    "tough": task(max_crashes=1),
    "eager": task(retry=1, retry_delay=0),
    "patient": task(retry=2, retry_delay=100),
    "brief": task(result_ttl=0),
    "for_ever": task(result_ttl=-1),
    "saw": task("pair.saw"),
}
ENQUEUED = st.sampled_from(sorted(set(TASKS) - {"saw"}))
WELL_OR_NOT = ["", "", "", "", *FAULTS]
KILLED = ["horse killed", "horse killed", "horse killed", "whole worker killed"]


def one_of(found: Callable[[Any], list[Any]], **drawn: Any) -> Callable[[Any], Any]:
    """A rule about one of those that `found` returns: given there are any, and drawn."""

    def decorate(about: Callable[..., None]) -> Any:
        def choose(self: Life, n: int, **more: Any) -> None:
            among = found(self)
            about(self, among[n % len(among)], **more)

        choose.__name__ = about.__name__
        return precondition(found)(rule(n=st.integers(0, 6), **drawn)(choose))

    return decorate


class Life(RuleBasedStateMachine):
    """Three workers, two queues, and everything that can happen to a job."""

    connection: redis.Redis
    url: str
    generations: Iterator[int]
    asked_again: ClassVar[Counter[str]] = Counter()  # in the whole run

    def __init__(self) -> None:
        super().__init__()
        self.connection.flushdb()
        Life.generations = count()
        self.link = link_over(self.connection)
        self.alive: set[str] = set()  # acknowledged, and neither deleted nor expired
        self.calls: dict[str, str] = {}  # the task of each job that a caller of ours has enqueued
        self.loose: dict[str, set[str]] = {}  # where an id may be besides, by no fault of ours
        self.on_the_way: list[Line] = []
        self.pairs: list[Pair] = []
        self.now = self.look()  # after the last step

    @initialize(tasks=st.lists(ENQUEUED, min_size=2, max_size=5))
    def begin(self, tasks: list[str]) -> None:
        self.pairs = [Pair(f"w{number}", queues, self.url) for number, queues in enumerate(SERVED)]
        for number, (job_id, name) in enumerate(zip(IDS, tasks, strict=False)):
            options = Options(queue=QUEUES[number % 2], job_id=job_id)
            client.enqueue(name, options=options, connection=self.connection)
            self.alive.add(job_id)
            self.calls[job_id] = name

    def teardown(self) -> None:
        for pair in self.pairs:
            pair.supervisor.close()
        for line in self.on_the_way:
            line.close()
        self.link.close()

    # who and what a rule is about

    def look(self) -> Contents:
        return Contents(self.connection)

    def awake(self) -> list[Pair]:
        return [pair for pair in self.pairs if not pair.is_frozen]

    def idle(self) -> list[Pair]:
        return [pair for pair in self.awake() if not (pair.claim or pair.is_asking)]

    def busy(self) -> list[Pair]:
        return [pair for pair in self.awake() if pair.claim and not pair.is_asking]

    def asking(self) -> list[Pair]:
        return [pair for pair in self.awake() if pair.is_asking]

    def at_hand(self) -> list[Pair]:
        return self.busy() or self.asking() or self.awake()

    def frozen(self) -> list[Pair]:
        return [pair for pair in self.pairs if pair.is_frozen and not pair.is_dead]

    def rescuers(self) -> list[Pair]:
        return self.awake() if any(pair.is_frozen for pair in self.pairs) else []

    def waiting(self) -> list[Pair]:
        """Return the workers whose horse may have a wait open: also those that are cut off."""
        watched = self.now.get("werk", "hands")
        idle = [pair for pair in self.pairs if not (pair.claim or pair.is_asking)]
        return [pair for pair in idle if pair.name in watched]

    def in_hand(self, pair: Pair) -> list[str]:
        return [job_id for queue in QUEUES for job_id in self.look().hand(pair.name, queue)]

    def is_in_a_hand(self, job_id: str) -> bool:
        return any(job_id in ids for _, ids in self.now.named("werk:hand"))

    def replaceable(self) -> list[Pair]:
        return self.awake() if len(self.pairs) < MOST_WORKERS else []

    def in_place(self, *statuses: str) -> list[str]:
        """Return jobs that RQ can find: not those whose worker died while RQ was deferring them."""
        now = self.now
        found = [job for job in sorted(self.alive) if now.status(job) in statuses or not statuses]
        due = {job for queue in QUEUES for job in now.get("scheduled", queue)}
        return [job for job in found if now.status(job) != "scheduled" or job in due]

    def cancellable(self) -> list[str]:
        return self.in_place("queued", "started", "scheduled", "deferred")

    def failed(self) -> list[str]:
        return self.in_place("failed", "stopped")

    def able_to_expire(self) -> list[str]:
        waiting = self.in_place("queued", "scheduled")
        return [job_id for job_id in waiting if self.now.ttl("job", job_id) > 0]

    def fetch(self, job_id: str) -> Job:
        return Job.fetch(job_id, connection=self.connection)

    def act(self, what: str, job_id: str, outcome: str) -> None:
        assert [*actions.act(self.link, what, [job_id])] == [(job_id, outcome)]

    def loosen(self, job_id: str, place: str) -> None:
        self.loose.setdefault(job_id, set()).add(place)

    # enqueue

    @rule(
        job_id=st.sampled_from(IDS),
        name=ENQUEUED,
        queue=st.sampled_from(QUEUES),
        how=st.sampled_from(["back", "front", "later"]),
        ttl=st.sampled_from([None, TTL_S]),
        is_resent=st.booleans(),
    )
    def enqueue(
        self, job_id: str, name: str, queue: str, how: str, ttl: int | None, is_resent: bool
    ) -> None:
        if self.is_awaited(job_id):
            return
        delay = 1000 if how == "later" else None
        options = Options(queue=queue, job_id=job_id, front=how == "front", delay=delay, ttl=ttl)
        request = client.prepare(client.find(name), (), {}, options)
        is_there = job_id in self.alive
        if is_there and self.calls.get(job_id, name) != name:
            before = self.look()
            with pytest.raises(JobIdConflict):
                client.send([request], self.connection)
            assert self.look().values == before.values
            return
        [handle] = client.send([request], self.connection)
        after = self.look()
        assert handle.duplicate == is_there
        if not is_there:
            self.alive.add(job_id)
            self.calls[job_id] = name
            if how != "later":
                assert after.waiting(queue)[0 if how == "front" else -1] == job_id
        if is_resent:
            [again] = client.send([request], self.connection)
            assert again.duplicate == is_there
            assert self.look().values == after.values

    @rule(
        job_id=st.sampled_from(IDS),
        queue=st.sampled_from(QUEUES),
        parent=st.sampled_from(["", *IDS]),
        is_retried=st.booleans(),
    )
    def enqueue_by_rq(self, job_id: str, queue: str, parent: str, is_retried: bool) -> None:
        if job_id in self.alive or self.is_awaited(job_id):
            return
        rq.Queue(queue, connection=self.connection).enqueue(
            "pair.work",
            job_id=job_id,
            result_ttl=KEEP_S,
            failure_ttl=FAILURE_S,
            retry=Retry(max=1) if is_retried else None,
            on_success=rq.Callback("pair.saw"),
            depends_on=parent if parent in self.alive else None,
        )
        self.alive.add(job_id)
        self.calls.pop(job_id, None)

    def is_awaited(self, job_id: str) -> bool:
        """Was this id that of a dependent, now deleted? Its parent still names it, and RQ would
        WATCH what the new job depends on: no keys at all, which Redis refuses."""
        sets = [ids for key, ids in self.now.named("job") if key.endswith(":dependents")]
        return job_id not in self.alive and any(job_id in ids for ids in sets)

    # claim, run, finish

    @one_of(idle, fault=st.sampled_from(WELL_OR_NOT))
    def claim(self, pair: Pair, fault: str) -> None:
        self.claim_and_check(pair, fault)

    def claim_and_check(self, pair: Pair, fault: str) -> None:
        expected = next_of(pair, self.now)
        reply = self.exchange(pair, None, True, fault)
        if reply:
            assert (pair.claim.id if pair.claim else text(reply[1])) == expected
            assert not self.in_hand(pair)

    @one_of(waiting, queue=st.sampled_from(QUEUES))
    def take(self, pair: Pair, queue: str) -> None:
        """A wait moves a job into the hand of its worker: of a horse that is idle, or cut off."""
        if queue in pair.queues:
            hand = f"rq:werk:hand:{pair.name}:{queue}"
            self.connection.lmove(f"rq:queue:{queue}", hand, "LEFT", "LEFT")

    @one_of(idle, what=st.sampled_from(["suspended", *QUEUES, "scripts"]))
    def claim_while(self, pair: Pair, what: str) -> None:
        """Workers are suspended, or a queue is paused, or Redis has forgotten the scripts."""
        if what == "scripts":
            self.connection.script_flush()
        elif what == "suspended":
            suspend(self.connection)
        else:
            self.act("pause", what, "yes")
        self.now = self.look()
        self.claim_and_check(pair, "")
        resume(self.connection)
        if what in QUEUES:
            self.act("resume", what, "yes")

    @one_of(
        busy,
        how=st.sampled_from(HOW),
        claims=st.booleans(),
        fault=st.sampled_from([*WELL_OR_NOT, *KILLED]),
        dies_after=st.integers(0, 14),
    )
    def end(self, pair: Pair, how: str, claims: bool, fault: str, dies_after: int) -> None:
        """The job ends. The horse, or the whole worker, may be killed while RQ's own code records
        the outcome; or there is a fault in the exchange that does so."""
        before, claim = self.now, cast(Claim, pair.claim)
        is_owned = claim.run in before.runs()
        # RQ records what a job returns that was cancelled while it ran.
        is_good = is_owned or (
            before.status(claim.id) == "canceled" and bool(before.get("execution", claim.run))
        )
        try:
            finish = pair.perform(how, dies_after if fault in KILLED else None)
            reply = self.exchange(pair, finish, claims, fault)
        except Died:
            takes_all = fault == "whole worker killed" and self.replaceable()
            (self.kill_whole if takes_all else self.kill_now)(pair)
            reply = None
        after = self.look()
        if claim.id in self.alive and not after.status(claim.id):
            assert is_good
            assert before.job(claim.id)["result_ttl"] == "0"
            assert how in ("returns", "none")
            self.alive.discard(claim.id)
        if not reply or (pair.claim and pair.claim.id == claim.id):
            return
        if finish:
            # What its rescuer has failed is recorded under the same execution.
            last = before.get("results", claim.id)  # an attempt, type 4, is no outcome
            was_failed = (last.get("execution_id"), last.get("type")) == (claim.execution, "2")
            late = b"again" if was_failed and finish.status == "failed" else b"late"
            lost = b"again" if "lost" in fault else b"late"
            assert reply[0] in ((b"done", lost, b"none") if is_good else (late,))
        if is_owned and claim.id in self.alive:
            has_failed = {"queued", "scheduled"} if has_retries(before, claim.id) else {"failed"}
            wanted = {"again": {"queued"}, "later": {"scheduled"}, "raises": has_failed}
            assert after.status(claim.id) in wanted.get(how, {"finished"})

    def exchange(
        self, pair: Pair, finish: Outcome | None, claims: bool, fault: str
    ) -> tuple[bytes, Any] | None:
        """A step, and what can go wrong with it. Returns None if it did not get to its end."""
        line = pair.line
        line.fault = fault
        try:
            return pair.step(finish, claims)
        except Died:
            if line.late:  # the horse is killed, and the request arrives after that
                pair.steps.channel = Line(pair.worker.connection)
                self.on_the_way.append(line)
                self.kill_now(pair)
            return None

    @one_of(busy, claims=st.booleans(), fault=st.sampled_from(["frozen", "frozen before"]))
    def freeze_in_its_finish(self, pair: Pair, claims: bool, fault: str) -> None:
        claim = cast(Claim, pair.claim)
        assert self.exchange(pair, pair.perform("returns"), claims, fault) is None
        if claim.id in self.alive and not self.look().status(claim.id):
            self.alive.discard(claim.id)  # its result was not to be kept

    @one_of(lambda self: self.on_the_way)
    def arrive(self, line: Line) -> None:
        self.on_the_way.remove(line)
        reply = line.arrive()
        line.close()
        if isinstance(reply, Exception):
            assert str(reply).startswith("NOSCRIPT")
        else:
            assert reply[0] in (b"none", b"late", b"again")
            assert reply[1] in (b"fenced", b"unasked")

    @one_of(asking)
    def ask_again(self, pair: Pair) -> None:
        """The horse was frozen in the middle of a request; its job may have been rescued since."""
        before, finish = self.now, cast(Any, pair.steps.pending)[1]
        is_owned = finish and finish.run in before.runs()
        can_claim = next_of(pair, before) != "fenced"
        outcome, claimed = pair.ask_again()
        self.asked_again[text(outcome)] += 1
        if is_owned:
            assert outcome == b"done"
        elif finish and before.status(text(finish.job)) != "canceled":
            assert outcome in (b"again", b"late")
        assert can_claim or type(claimed) is list or claimed in (b"fenced", b"unasked")

    # the ends of workers

    @one_of(at_hand, why=st.sampled_from(["", "", "stop", "timeout", "command", "cold", "lost"]))
    def crash_or_stop(self, pair: Pair, why: str) -> None:
        """The horse is killed; by its supervisor, if there is a reason."""
        before, claim = self.now, pair.claim
        if why and claim:
            pair.slot.kill(why, claim.run)
        is_owned = bool(claim and claim.run in before.runs()) and not pair.is_asking
        self.kill_now(pair)
        if not claim or not is_owned:
            return
        after, job = self.look(), before.job(claim.id)
        crashes, most = crashes_of(job), int(job.get("werk_max_crashes", 0))
        if why in ("cold", "lost") or (why == "" and crashes < most):
            assert after.waiting(text(claim.origin))[0] == claim.id
            assert crashes_of(after.job(claim.id)) == crashes + (why == "")
        elif why == "stop":
            assert after.status(claim.id) == "stopped"
        else:
            retried = {"queued", "scheduled"} if has_retries(before, claim.id) else {"failed"}
            assert after.status(claim.id) in retried

    def kill_now(self, pair: Pair) -> None:
        pair.die()
        assert not pair.supervisor.ticker.is_unreachable
        assert not pair.orders()

    def kill_whole(self, pair: Pair) -> None:
        """Supervisor and horse; another worker is started instead."""
        pair.is_frozen = pair.is_dead = True
        self.pairs.append(Pair(f"w{len(self.pairs)}", pair.queues, self.url))

    @one_of(replaceable)
    def crash_with_supervisor(self, pair: Pair) -> None:
        self.kill_whole(pair)

    @one_of(awake)
    def freeze(self, pair: Pair) -> None:
        pair.is_frozen = True

    @one_of(frozen)
    def thaw(self, pair: Pair) -> None:
        pair.is_frozen = False

    @one_of(rescuers, is_over=st.booleans())
    def rescue(self, pair: Pair, is_over: bool) -> None:
        """With `is_over` it is so late that no wait of a worker that is cut off is open."""
        dead = [other for other in self.pairs if other.is_frozen]
        leases = self.now.get("werk", "leases")
        self.connection.zadd(LEASES, {other.name: PAST for other in dead}, xx=True)
        if is_over:
            self.connection.zadd(HANDS, {other.name: PAST for other in dead}, xx=True)
        self.connection.set("rq:werk:ticked", time.time())
        for run, _ in self.now.named("execution"):  # RQ's own finish has had its time
            self.connection.hset(f"rq:execution:{run}", "werk_ending", PAST)
        self.tick_now(pair)
        after = self.look()
        for other in dead:
            assert other.name not in after.get("werk", "leases")
            assert not after.get("worker", other.name, "executions")
            assert "werk_horse" not in after.get("worker", other.name)
            # It may have been rescued before, and have got a job in its hand since then.
            assert not self.in_hand(other) or not (is_over or other.name in leases)

    # the tick

    @one_of(awake, is_forgotten=st.booleans())
    def tick(self, pair: Pair, is_forgotten: bool) -> None:
        if is_forgotten:
            self.connection.delete(f"rq:worker:{pair.name}")
            self.tick_now(pair)  # writes the hash; the next one does the rest
        self.tick_now(pair)
        if self.in_hand(pair):  # the horse does not react
            self.tick_now(pair)
            assert not self.in_hand(pair)

    @one_of(awake, is_locked=st.booleans())
    def due(self, pair: Pair, is_locked: bool) -> None:
        """Scheduled jobs are due; the first queue may be that of a plain RQ scheduler."""
        scheduled = {queue: list(self.now.get("scheduled", queue)) for queue in QUEUES}
        for queue, jobs in scheduled.items():
            for job_id in jobs:
                self.connection.zadd(f"rq:scheduled:{queue}", {job_id: PAST})
        lock = f"rq:scheduler-lock:{pair.queues[0]}"
        if is_locked:
            self.connection.set(lock, "rq")
        self.tick_now(pair)
        self.connection.delete(lock)
        after = self.look()
        for queue in pair.queues:
            left = scheduled[queue] if is_locked and queue == pair.queues[0] else []
            assert [*after.get("scheduled", queue)] == sorted(left)  # all are due since PAST
            for job_id in set(scheduled[queue]) - set(left):
                if self.now.status(job_id) == "scheduled":
                    assert job_id in after.waiting(after.job(job_id)["origin"])

    def tick_now(self, pair: Pair) -> None:
        pair.supervisor.tick()
        assert not pair.supervisor.ticker.is_unreachable
        if pair.slot.child.killed:  # its horse was at what is no longer its own, twice
            self.kill_now(pair)
        elif pair.horse.shared.stop and not (pair.claim or pair.is_asking):
            pair.leave()

    # what people do, by our means or by RQ's own

    @one_of(cancellable, by_rq=st.booleans())
    def cancel(self, job_id: str, by_rq: bool) -> None:
        is_running = self.now.status(job_id) == "started"
        if is_running:
            self.loosen(job_id, "canceled")  # RQ leaves it there when the execution ends
        if by_rq or is_running:
            if self.is_in_a_hand(job_id):
                self.loosen(job_id, "queue")  # RQ looks into the queue only; it is dropped later
            self.fetch(job_id).cancel()
        else:
            self.act("cancel", job_id, "cancelled")

    @one_of(in_place, by_rq=st.booleans())
    def delete(self, job_id: str, by_rq: bool) -> None:
        if by_rq or any(is_of(run, job_id) for run in self.hands(self.now)):
            if self.is_in_a_hand(job_id):
                self.loosen(job_id, "queue")
            self.fetch(job_id).delete()
        else:
            self.act("delete", job_id, "deleted")
        self.alive.discard(job_id)

    @one_of(failed, by_rq=st.booleans(), at_front=st.booleans())
    def requeue(self, job_id: str, by_rq: bool, at_front: bool) -> None:
        if by_rq:
            self.fetch(job_id).requeue(at_front)
        else:
            self.act("retry", job_id, "retried")

    @one_of(able_to_expire)
    def expire(self, job_id: str) -> None:
        self.loosen(job_id, PLACE_OF[self.now.status(job_id)])
        self.connection.delete(f"rq:job:{job_id}")
        self.alive.discard(job_id)

    @one_of(lambda self: sorted(self.alive))
    def push_again(self, job_id: str) -> None:
        """A plain RQ scheduler that was stalled for longer than its lock lives does so."""
        self.loosen(job_id, "queue")
        self.connection.rpush(f"rq:queue:{self.now.job(job_id)['origin']}", job_id)

    # after every step

    @invariant()
    def all_is_well(self) -> None:
        self.now = self.look()
        hands = self.hands(self.now)
        for job_id in self.alive:
            self.check_place(self.now, job_id, hands)
        self.check_remains(self.now)
        self.check_executions(self.now, hands)

    def check_place(self, now: Contents, job_id: str, hands: dict[str, str]) -> None:
        """A job is where its status says, and nowhere else."""
        job, places = now.job(job_id), now.places(job_id)
        own = (PLACE_OF[job["status"]], job["origin"])
        if job["status"] == "scheduled" and own not in places:
            # RQ deferred it, which writes the status first, and its worker died then: until it is
            # rescued it is in wip or, cancelled while it ran, where that put it.
            assert any(is_of(run, job_id) for run in hands)
            own = ("wip" if "wip" in dict(places) else "canceled", job["origin"])
        assert own in places, (job_id, job["status"], places)
        places.remove(own)
        others = {place for place, _ in places}
        assert others <= self.loose.get(job_id, set()) - {"wip"}, (job_id, own, places)
        place, queue = own
        if place == "queue":
            assert f"rq:queue:{queue}" in now.get("queues")
        elif place == "wip":
            assert now.ttl("job", job_id) == -1
            assert job["started_at"] and job["werk_attempt"]
        elif place == "finished":
            assert lives(now.ttl("job", job_id), job["result_ttl"])
            assert lives(now.ttl("results", job_id), job["result_ttl"])
            assert now.get("results", job_id)["type"] == "1"
            assert job["ended_at"]
        elif place == "failed":
            assert lives(now.ttl("job", job_id), FAILURE_S)
            assert now.get("results", job_id)["type"] == "2"

    def check_remains(self, now: Contents) -> None:
        """Nothing is kept of a deleted job, except an entry that has expired with its job."""
        for queue in QUEUES:
            kept = [*now.waiting(queue), *now.get("scheduled", queue)]
            assert (self.alive | set(self.loose)).issuperset(kept)
        for pair in self.pairs:
            if self.in_hand(pair):
                assert pair.name in now.get("werk", "hands"), "nobody would return it"
        assert self.alive.issuperset(run.split(":")[0] for run in now.runs())
        assert self.alive.issuperset(key for key, _ in now.named("job") if ":" not in key)

    def check_executions(self, now: Contents, hands: dict[str, str]) -> None:
        """Each execution is one worker's, whose lease would have it rescued, and all of it."""
        assert now.runs() <= set(hands), "nobody's"
        for run, owner in hands.items():
            job_id, execution = run.split(":")
            facts = now.get("execution", run)
            assert owner in now.get("werk", "leases"), "nobody would rescue it"
            assert run in now.runs() or now.status(job_id) != "started"
            if run in now.runs() or facts:
                named = (facts["id"], facts["job_id"], facts["worker_name"])
                assert named == (execution, job_id, owner)
                assert execution in now.get("executions", job_id)
                for key in (("execution", run), ("executions", job_id)):
                    # A claim leaves it to the first tick to set.
                    assert now.ttl(*key) == -1 or now.ttl(*key) > DAY_S, "an outage may be long"
        assert {run for run, _ in now.named("execution")} <= set(hands), "an orphan"
        for job_id, executions in now.named("executions"):
            assert {f"{job_id}:{execution}" for execution in executions} <= set(hands), "an orphan"

    def hands(self, now: Contents) -> dict[str, str]:
        """Return what each worker is recorded to run, which is what it knows of."""
        hands = {}
        for pair in self.pairs:
            for run in now.get("worker", pair.name, "executions"):
                assert run not in hands
                hands[run] = pair.name
                is_asking_for_it = pair.is_asking and run.endswith(":" + pair.steps.execution)
                assert run in pair.runs() or is_asking_for_it, "forgotten"
        return hands


def next_of(pair: Pair, now: Contents) -> str:
    """Return the job that this worker must get, or why it gets none."""
    if pair.horse.shared.stop:
        return "unasked"
    if now.get("worker", pair.name).get("werk_horse") != pair.slot.executions.generation:
        return "fenced"
    if now.get("suspended"):
        return "suspended"
    for queue in pair.queues:
        for job_id in now.hand(pair.name, queue) + now.waiting(queue):
            if queue not in now.get("werk", "paused") and now.status(job_id) == "queued":
                return job_id
    return "empty"


def lives(ttl: float, wanted: object) -> bool:
    """Is this the rest of a life of `wanted` seconds, that began just now? -1: permanently."""
    seconds = int(cast(Any, wanted))
    return ttl == seconds or (ttl > 0 and 0 <= seconds - ttl < 20)


def has_retries(now: Contents, job_id: str) -> bool:
    return now.job(job_id).get("retries_left", "0") != "0"


def crashes_of(job: dict[str, str]) -> int:
    since, _, count = job.get("werk_crashes", "").rpartition("|")
    return int(count) if count and since == job["enqueued_at"] else 0


@pytest.fixture
def _alone(monkeypatch: pytest.MonkeyPatch, no_logs: None) -> Iterator[None]:
    """These tasks, no logs, nothing by chance, and the signals' handlers back when it has ended."""
    monkeypatch.setenv("WERK_REGISTRY", "test_scripts:TASKS")
    # hypothesis must be able to do the same once more
    generation = lambda: f"{next(Life.generations):016x}"  # noqa: E731
    monkeypatch.setattr("werk.worker.executions.new_generation", generation)
    kept = {number: signal.getsignal(number) for number in (signal.SIGALRM, signal.SIGCHLD)}
    yield
    for number, handler in kept.items():
        signal.signal(number, handler)


@pytest.mark.usefixtures("_alone")
def test_any_order_of_steps(connection: redis.Redis, redis_url: str) -> None:
    Life.connection, Life.url = connection, redis_url
    run_state_machine_as_test(
        Life,
        settings=settings(
            max_examples=200,
            stateful_step_count=40,
            derandomize=True,  # the same search in each run: more examples make another
            database=None,
            deadline=None,
            suppress_health_check=list(HealthCheck),
        ),
    )
    assert sum(Life.asked_again[how] for how in ("done", "again", "late")), Life.asked_again


@pytest.fixture
def pair(connection: redis.Redis, redis_url: str, _alone: None) -> Iterator[Pair]:
    """A worker that has job a in hand."""
    Life.generations = count()
    client.enqueue("tough", options=Options(job_id="a", queue="high"), connection=connection)
    pair = Pair("w0", QUEUES, redis_url)
    pair.step(None, True)
    yield pair
    pair.supervisor.close()


def rescue_from(pair: Pair, connection: redis.Redis, url: str) -> None:
    """Another worker finds that this one's lease is over."""
    other = Pair("w1", QUEUES, url)
    connection.zadd(LEASES, {pair.name: PAST})
    other.supervisor.tick()
    other.supervisor.close()


@pytest.mark.parametrize("fault", ["frozen", "frozen before", "on its way"])
def test_a_horse_goes_on_in_the_middle_of_a_request_after_a_rescue(
    pair: Pair, connection: redis.Redis, redis_url: str, fault: str
) -> None:
    """Frozen, it had sent the request or not, or the request was on its way all the time."""
    client.enqueue("tough", options=Options(job_id="b", queue="high"), connection=connection)
    finish, line = pair.perform("returns"), pair.line
    line.fault = fault
    with pytest.raises(Died):
        pair.step(finish, True)
    is_recorded = fault == "frozen"
    assert Contents(connection).places("b") == [("wip" if is_recorded else "queue", "high")]
    rescue_from(pair, connection, redis_url)
    is_first = [("finished" if is_recorded else "queue", "high")]
    assert Contents(connection).places("a") == is_first
    reply = line.arrive()[:2] if fault == "on its way" else pair.ask_again()
    assert tuple(reply) == (b"again" if is_recorded else b"late", b"fenced")
    after = Contents(connection)
    assert after.places("a") == is_first
    assert after.places("b") == [("queue", "high")]
    assert not after.runs()


def test_a_failure_that_rq_cannot_record_is_kept_for_a_month(
    pair: Pair, connection: redis.Redis
) -> None:
    finish = failure(cast(Claim, pair.claim), "ValueError: unreadable", time.time())
    assert pair.step(finish, False)[0] == b"done"
    now = Contents(connection)
    assert now.places("a") == [("failed", "high")]
    assert lives(now.ttl("job", "a"), 30 * 24 * 3600)


def test_what_is_not_known_yet_is_due_again_in_10_s(pair: Pair, connection: redis.Redis) -> None:
    pair.claim = replace(cast(Claim, pair.claim), task=b"unheard_of")
    assert pair.step(pair.perform("returns"), False)[0] == b"done"
    [(job_id, due)] = connection.zrange("rq:scheduled:high", 0, -1, withscores=True)
    assert (job_id, due) == (b"a", pytest.approx(time.time() + 10, abs=9))
