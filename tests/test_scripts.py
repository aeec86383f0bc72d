"""The scripts in any order: after each step every job is in exactly one place, and says so.

A state machine calls them through the code that calls them in production: client.enqueue, and a
Worker with its Horse, but both in this process, so that the machine can stop them between any two
commands: killed (and settled by their supervisor), or frozen (and rescued by another worker, then
perhaps thawed, with what they hold, or in the middle of a request).

What the machine does not see (counters, times to live) has a small test of its own below it.
"""

from __future__ import annotations

import logging
import os
import resource
import signal
import time
from collections.abc import Iterator
from itertools import count
from typing import Any, NamedTuple, cast

import pytest
import redis
import rq
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
from redis.connection import Connection, ConnectionPool
from rq.job import Job, Retry
from rq.suspension import resume, suspend

import werk.worker
from werk import Options, Task, client, registry
from werk.channel import Channel
from werk.claim import FAILURE_TTL_S, NO_FINISH, Claim, Finish, failure, iso
from werk.horse import RESENT, WANTS_JOB, Horse
from werk.page import Leave, Order, Plan
from werk.worker import LEASES, Killed, Worker

NO_TTL = -1  # as a claim leaves it, for the first tick to set
QUEUES = ("high", "low")
SERVED = (("high", "low"), ("low", "high"), ("high",))  # by the workers, in turn
IDS = [f"j{number}" for number in range(7)]
KEEP_S = 500  # a result; not short, so that no job expires by itself
FAILURE_S = 600
TTL_S = 700
NO_PID = 2**22 + 1  # above every process id: a signal to it goes nowhere
PAST = 1
STATUSES = {
    "queue": {"queued"},
    "wip": {"started"},
    "scheduled": {"scheduled"},
    "deferred": {"deferred"},
    "ready": {"ready_to_enqueue"},
    "finished": {"finished"},
    "failed": {"failed", "stopped"},
    "canceled": {"canceled"},
}

# --- the tasks: what a job does is decided when it "ends"

ENDS: dict[str, Any] = {}
GOOD = ("returns", "none")


def work(*args: object) -> object:
    if ENDS["how"] == "raises":
        raise ValueError("as asked")
    return {"returns": 1, "none": None, "again": Retry(max=9), "later": Retry(max=9, interval=99)}[
        ENDS["how"]
    ]


def saw(*args: object) -> None:
    """A callback."""


TASKS = {
    "fragile": Task("test_scripts.work", result_ttl=KEEP_S, failure_ttl=FAILURE_S, max_crashes=0),
    "tough": Task("test_scripts.work", result_ttl=KEEP_S, failure_ttl=FAILURE_S, max_crashes=1),
    "eager": Task(
        "test_scripts.work", result_ttl=KEEP_S, failure_ttl=FAILURE_S, retry=1, retry_delay=0
    ),
    "patient": Task(
        "test_scripts.work", result_ttl=KEEP_S, failure_ttl=FAILURE_S, retry=2, retry_delay=100
    ),
    "brief": Task("test_scripts.work", result_ttl=0, failure_ttl=FAILURE_S),
    "for_ever": Task("test_scripts.work", result_ttl=-1, failure_ttl=FAILURE_S),
    "saw": Task("test_scripts.saw"),
}
ENQUEUED = sorted(set(TASKS) - {"saw"})


# --- a worker in this process


class Died(Exception):
    """Raised where the horse is killed."""


class Mortal(Connection):
    """The connection of RQ's own code: the horse is killed before a command, when `left` is 0."""

    left: int | None = None
    is_dead = False
    is_closed = False

    def connect(self) -> None:
        left, Mortal.left = Mortal.left, None
        try:
            super().connect()
        finally:
            Mortal.left = left

    def send_packed_command(self, command: Any, check_health: bool = True) -> None:
        if self.is_closed:
            raise redis.ConnectionError
        if Mortal.left is not None:
            Mortal.is_dead = Mortal.is_dead or Mortal.left == 0
            if Mortal.is_dead:
                raise Died
            Mortal.left -= 1
        super().send_packed_command(command, check_health)


def hang_up(pool: ConnectionPool) -> None:
    """What a pipeline of the dead holds stays closed: its end comes later, and would open it."""
    pool.disconnect()
    for held in pool._in_use_connections:
        held.is_closed = True
    pool.reset()


class Line(Channel):
    """The horse's own connection, for the machine to break."""

    fault = ""
    words: tuple[Any, ...] = ()  # of a request that is on its way, but not there yet

    def send(self, *words: Any) -> None:
        fault, self.fault = self.fault, ""
        if fault == "request lost":
            raise ConnectionError(fault)
        if fault == "on its way":
            self.words = words
            raise Died
        super().send(*words)
        if fault in ("reply lost", "frozen"):
            self.receive()
            raise ConnectionError(fault) if fault == "reply lost" else Died

    def arrive(self) -> Any:
        words, self.words = self.words, ()
        self.send(*words)
        return self.receive()


class Rider(Horse):
    """A horse that can be frozen in the middle of a request, and goes on with it later."""

    pending: tuple[list[Any], Finish] | None = None

    def ask(self, head: list[Any], finish: Finish) -> Any:
        self.pending = head, finish
        reply = super().ask(head, finish)
        self.pending = None
        return reply


class Supervisor(Worker):
    """A supervisor whose horse is no process: it starts and ends when the machine says so."""

    def _install_signal_handlers(self) -> None:
        pass

    def begin(self) -> None:
        self.register_birth()  # type: ignore[no-untyped-call]
        self._set_up(Plan(""), False)
        signal.set_wakeup_fd(-1)
        self._tick_at, self._bell = float("inf"), self._wake_w
        self._start_horse()

    def _start_horse(self) -> None:
        """As Worker's, without the fork."""
        self._generation, self._killed = werk.worker.uuid4().hex[:20], None
        self._cut_off()
        self._page.stop, self._page.orders_begun, self._ordered = 0, 0, len(self._orders)
        self._page.show(0.0, 0, False, "", "")
        self._horse_pid, self._started_at = NO_PID, float("-inf")
        plan = self._plan._replace(generation=self._generation, orders=tuple(self._orders))
        self.horse = Rider(self, self._page, plan, self._wake_r)
        self.horse.channel = Line(self.connection)
        self.horse.obey()

    def reap(self, status: int) -> None:
        """The horse has ended: with a signal, or with an exit code."""
        self._status, self._usage = status, resource.getrusage(resource.RUSAGE_SELF)
        self._dead_pid, self._horse_pid = NO_PID, 0
        self._settle()
        self._tick_at = float("inf")
        self._start_horse()

    def close(self) -> None:
        self._link.close()
        self.horse.channel.close()
        hang_up(self.connection.connection_pool)
        os.close(self._wake_r)
        os.close(self._wake_w)


class Pair:
    """A worker: supervisor and horse, and what the horse has in hand."""

    def __init__(self, name: str, queues: tuple[str, ...], url: str) -> None:
        pool = ConnectionPool.from_url(url, connection_class=Mortal)
        self.name, self.queues = name, queues
        self.worker = Supervisor(queues, name, connection=redis.Redis(connection_pool=pool))
        self.worker.begin()
        self.claim: Claim | None = None
        self.is_frozen = self.is_dead = False

    @property
    def horse(self) -> Rider:
        return self.worker.horse

    @property
    def is_asking(self) -> bool:
        return self.horse.pending is not None

    def runs(self) -> set[str]:
        """Return the executions that this worker answers for."""
        runs = {order.run for order in self.orders()}
        if self.claim:
            runs.add(self.claim.run)
        if self.horse.pending:
            _, finish = self.horse.pending
            runs |= {finish.claim.run} if finish.claim else set()
        return runs

    def orders(self) -> list[Order]:
        """Return what a horse of it has still to carry out."""
        return self.worker._orders[max(0, self.horse.page.orders_begun - 1) :]

    def step(self, finish: Finish, claims: bool) -> tuple[bytes, Any, Any]:
        """As Horse.loop does. Raises Died."""
        outcome, claimed, dropped, _ = self.horse.step(finish, claims)
        return self.note(outcome, claimed, dropped)

    def record(self, finish: Finish, claims: bool) -> tuple[bytes, Any, Any]:
        """A step, and RQ's part of it. Raises Died."""
        claims = claims and not self.horse.page.stop
        return self.and_rqs_part(self.step(finish, claims), finish, claims)

    def go_on(self) -> tuple[bytes, Any, Any]:
        """Thawed in the middle of a request, which may have been answered."""
        head, finish = cast(Any, self.horse.pending)
        self.horse.channel.close()
        reply = self.horse.ask([*head[:RESENT], 1, *head[RESENT + 1 :]], finish)
        reply = self.note(*(reply if len(reply) == 4 else (reply[0], b"", [], []))[:3])
        return self.and_rqs_part(reply, finish, bool(head[WANTS_JOB]))

    def and_rqs_part(
        self, reply: tuple[bytes, Any, Any], finish: Finish, claims: bool
    ) -> tuple[bytes, Any, Any]:
        if reply[0] != b"dependents":
            return reply
        rest = self.horse.recorder.succeed(finish.claim, finish.job, finish.result)
        return self.step(rest or NO_FINISH, claims)

    def note(self, outcome: bytes, claimed: Any, dropped: Any) -> tuple[bytes, Any, Any]:
        page, self.claim = self.horse.page, None
        if outcome != b"dependents" and page.stop:  # claimed on the way, or nothing
            self.die(Leave.STOPPED << 8)
        elif type(claimed) is list:
            self.horse.jobs += 1
            self.claim = Claim(claimed, self.horse.execution, self.horse.asked_at)
            page.show(0.0, self.horse.jobs, True, self.claim.run, self.claim.execution)
        elif outcome != b"dependents":
            page.show(0.0, self.horse.jobs, False, "", self.horse.execution)
        return outcome, claimed, dropped

    def perform(self, how: str, dies_after: int | None) -> Finish:
        """Run the job to its end. Raises Died, before the n-th command of RQ's own finish."""
        assert self.claim
        ENDS["how"], Mortal.left, Mortal.is_dead = how, dies_after, False
        try:
            finish = self.horse.perform(self.claim)
        finally:
            Mortal.left = None
        if Mortal.is_dead:  # the recorder catches everything, to tell of it
            raise Died
        return finish or NO_FINISH

    def die(self, status: int = signal.SIGKILL) -> None:
        self.horse.channel.close()
        hang_up(self.worker.connection.connection_pool)
        self.claim = None
        self.worker.reap(status)


# --- Redis, looked at

DUMP = """
local read = {hash = {'HGETALL'}, list = {'LRANGE', 0, -1}, zset = {'ZRANGE', 0, -1, 'WITHSCORES'},
  set = {'SMEMBERS'}, string = {'GET'}, stream = {'XREVRANGE', '+', '-', 'COUNT', 1}}
local found = {}
for _, key in ipairs(redis.call('KEYS', '*')) do
  local command = read[redis.call('TYPE', key).ok]
  found[#found + 1] = {key, redis.call('TTL', key), command[1],
    redis.call(command[1], key, unpack(command, 2))}
end
return found"""


class Snapshot:
    """Everything that Redis holds, read at one moment."""

    def __init__(self, connection: redis.Redis) -> None:
        self.values: dict[str, Any] = {}
        self.ttls: dict[str, int] = {}
        for key, ttl, command, value in cast(Any, connection.eval(DUMP, 0)):
            self.ttls[text(key)] = ttl
            self.values[text(key)] = shaped(text(command), value)

    def get(self, *words: str) -> Any:
        """Return what a key holds; for none, something empty."""
        return self.values.get(":".join(("rq", *words)), {})

    def ttl(self, *words: str) -> int:
        return self.ttls.get(":".join(("rq", *words)), -2)

    def named(self, start: str) -> Iterator[tuple[str, Any]]:
        """Yield the keys with this beginning, without it, and what they hold."""
        for key, value in self.values.items():
            if key.startswith(f"rq:{start}:"):
                yield key[len(start) + 4 :], value

    def waiting(self, queue: str) -> list[str]:
        return list(self.get("queue", queue))

    def running(self, queue: str) -> list[tuple[str, str]]:
        return [cast(Any, tuple(run.split(":"))) for run in self.get("wip", queue)]

    def job(self, job_id: str) -> dict[str, str]:
        return cast(Any, self.get("job", job_id))

    def status(self, job_id: str) -> str:
        return self.job(job_id).get("status", "")

    def places(self, job_id: str) -> list[tuple[str, str]]:
        found = []
        for queue in QUEUES:
            found += [("queue", queue)] * self.waiting(queue).count(job_id)
            found += [("wip", queue) for running, _ in self.running(queue) if running == job_id]
            for place in sorted(set(STATUSES) - {"queue", "wip"}):
                if job_id in self.get(place, queue):
                    found.append((place, queue))
        return found

    def owns(self, claim: Claim) -> bool:
        return any(":".join(run) == claim.run for queue in QUEUES for run in self.running(queue))


def text(data: bytes) -> str:
    return data.decode("latin-1")


def shaped(command: str, value: Any) -> Any:
    if command == "GET":
        return text(value)
    if command == "XREVRANGE":
        return pairs(value[0][1]) if value else {}
    if command in ("HGETALL", "ZRANGE"):
        return pairs(value)
    return [text(word) for word in value]


def pairs(words: list[bytes]) -> dict[str, str]:
    return dict(zip(map(text, words[::2]), map(text, words[1::2]), strict=True))


# --- the machine

FAULTS = st.sampled_from(["request lost", "reply lost", "frozen", "on its way"])
HOW = st.sampled_from(["returns", "none", "raises", "again", "later"])
NUMBER = st.integers(0, 6)


class Life(RuleBasedStateMachine):
    """Three workers, two queues, and everything that can happen to a job."""

    connection: redis.Redis
    url: str
    generations: Iterator[int]

    def __init__(self) -> None:
        super().__init__()
        self.connection.flushdb()
        Life.generations = count()
        self.alive: set[str] = set()  # acknowledged, and neither deleted nor expired
        self.loose: dict[str, set[str]] = {}  # where an id may be besides, by no fault of ours
        self.on_the_way: list[Line] = []
        self.pairs: list[Pair] = []
        self.now = self.look()  # after the last step

    @initialize(tasks=st.lists(st.sampled_from(ENQUEUED), min_size=2, max_size=5))
    def begin(self, tasks: list[str]) -> None:
        self.pairs = [Pair(f"w{number}", queues, self.url) for number, queues in enumerate(SERVED)]
        for number, (job_id, task) in enumerate(zip(IDS, tasks, strict=False)):
            options = Options(queue=QUEUES[number % 2], job_id=job_id)
            client.enqueue(task, options=options, connection=self.connection)
            self.alive.add(job_id)

    def teardown(self) -> None:
        for pair in self.pairs:
            pair.worker.close()
        for line in self.on_the_way:
            line.close()

    # who and what a rule is about

    def look(self) -> Snapshot:
        return Snapshot(self.connection)

    def idle(self) -> list[Pair]:
        return [p for p in self.pairs if not (p.is_frozen or p.claim or p.is_asking)]

    def busy(self) -> list[Pair]:
        return [p for p in self.pairs if p.claim and not (p.is_frozen or p.is_asking)]

    def awake(self) -> list[Pair]:
        return [p for p in self.pairs if not p.is_frozen]

    def frozen(self) -> list[Pair]:
        return [p for p in self.pairs if p.is_frozen and not p.is_dead]

    def asking(self) -> list[Pair]:
        return [p for p in self.awake() if p.is_asking]

    def with_status(self, *statuses: str) -> list[str]:
        return [job for job in self.in_place() if self.now.status(job) in statuses]

    def in_place(self) -> list[str]:
        """Return the jobs that RQ can find: not those whose worker died within RQ's putting off."""
        now = self.now
        found = {job for queue in QUEUES for job in now.get("scheduled", queue)}
        return [job for job in sorted(self.alive) if now.status(job) != "scheduled" or job in found]

    def fetch(self, job_id: str) -> Job:
        return Job.fetch(job_id, connection=self.connection)

    def loosen(self, job_id: str, *places: str) -> None:
        self.loose.setdefault(job_id, set()).update(places)

    # enqueue

    @rule(
        job_id=st.sampled_from(IDS),
        task=st.sampled_from(ENQUEUED),
        queue=st.sampled_from(QUEUES),
        how=st.sampled_from(["back", "front", "later"]),
        ttl=st.sampled_from([None, TTL_S]),
        is_resent=st.booleans(),
    )
    def enqueue(
        self, job_id: str, task: str, queue: str, how: str, ttl: int | None, is_resent: bool
    ) -> None:
        delay = 1000 if how == "later" else None
        options = Options(queue=queue, job_id=job_id, front=how == "front", delay=delay, ttl=ttl)
        request = client.prepare(client.find(task), (), {}, options)
        is_there = job_id in self.alive
        [handle] = client.send([request], self.connection)
        after = self.look()
        assert handle.duplicate == is_there
        if not is_there:
            self.alive.add(job_id)
            if how != "later":
                assert after.waiting(queue)[0 if how == "front" else -1] == job_id
            assert lives(after.ttl("job", job_id), ttl or -1)
        if is_resent:
            [again] = client.send([request], self.connection)
            assert again.duplicate == is_there
            assert self.look().values == after.values

    @rule(
        job_id=st.sampled_from(IDS),
        queue=st.sampled_from(QUEUES),
        n=NUMBER,
        depends=st.booleans(),
        is_retried=st.booleans(),
    )
    def enqueue_by_rq(
        self, job_id: str, queue: str, n: int, depends: bool, is_retried: bool
    ) -> None:
        if job_id in self.alive:
            return
        parents = sorted(self.alive)
        rq.Queue(queue, connection=self.connection).enqueue(
            "test_scripts.work",
            job_id=job_id,
            result_ttl=KEEP_S,
            failure_ttl=FAILURE_S,
            retry=Retry(max=1) if is_retried else None,
            on_success=rq.Callback("test_scripts.saw"),
            depends_on=parents[n % len(parents)] if depends and parents else None,
        )
        self.alive.add(job_id)

    # claim, run, finish

    @precondition(lambda self: self.idle())
    @rule(n=NUMBER)
    def claim(self, n: int) -> None:
        self.claim_and_check(choose(self.idle(), n), "")

    @precondition(lambda self: self.idle())
    @rule(n=NUMBER, fault=FAULTS)
    def claim_badly(self, n: int, fault: str) -> None:
        self.claim_and_check(choose(self.idle(), n), fault)

    @precondition(lambda self: self.idle())
    @rule(n=NUMBER, what=st.sampled_from(["suspended", "high", "low", "scripts"]))
    def claim_while(self, n: int, what: str) -> None:
        """Workers are suspended, or a queue is paused, or Redis has forgotten the scripts."""
        if what == "scripts":
            self.connection.script_flush()
        elif what == "suspended":
            suspend(self.connection)
        else:
            self.connection.sadd("rq:werk:paused", what)
        self.now = self.look()
        self.claim_and_check(choose(self.idle(), n), "")
        resume(self.connection)
        self.connection.delete("rq:werk:paused")

    def claim_and_check(self, pair: Pair, fault: str) -> None:
        expected = next_of(pair, self.now)
        reply = self.exchange(pair, NO_FINISH, True, fault)
        if reply:
            assert (pair.claim.id if pair.claim else text(reply[1])) == expected

    @precondition(lambda self: self.busy())
    @rule(n=NUMBER, how=HOW, claims=st.booleans())
    def end(self, n: int, how: str, claims: bool) -> None:
        self.end_and_check(choose(self.busy(), n), how, claims=claims)

    @precondition(lambda self: self.busy())
    @rule(n=NUMBER, how=HOW, claims=st.booleans(), fault=FAULTS)
    def end_badly(self, n: int, how: str, claims: bool, fault: str) -> None:
        self.end_and_check(choose(self.busy(), n), how, claims=claims, fault=fault)

    @precondition(lambda self: self.busy())
    @rule(n=NUMBER, how=HOW, dies_after=st.integers(0, 14), takes_all=st.booleans())
    def end_in_between(self, n: int, how: str, dies_after: int, takes_all: bool) -> None:
        """The horse is killed, or the whole worker, while RQ's own code records the outcome."""
        pair = choose(self.busy(), n)
        self.end_and_check(pair, how, dies_after=dies_after, takes_all=takes_all)

    def end_and_check(
        self,
        pair: Pair,
        how: str,
        *,
        claims: bool = True,
        fault: str = "",
        dies_after: int | None = None,
        takes_all: bool = False,
    ) -> None:
        before = self.now
        claim = cast(Claim, pair.claim)
        is_owned = before.owns(claim)
        # RQ records what a job returns that was cancelled while it ran.
        is_good = is_owned or (
            before.status(claim.id) == "canceled" and bool(before.get("execution", claim.run))
        )
        try:
            finish = pair.perform(how, dies_after)
            reply = self.exchange(pair, finish, claims, fault)
        except Died:
            (self.kill_whole if takes_all and len(self.pairs) < 6 else self.kill_now)(pair)
            reply = None
        after = self.look()
        if claim.id in self.alive and not after.status(claim.id):
            assert is_good
            assert before.job(claim.id)["result_ttl"] == "0"
            assert how in GOOD
            self.alive.discard(claim.id)
        if not reply or (pair.claim and pair.claim.id == claim.id):
            return
        if finish is not NO_FINISH:
            late = b"again" if "lost" in fault else b"late"
            assert reply[0] in ((b"done", late, b"none") if is_good else (b"late",))
        if is_owned and claim.id in self.alive:
            retries = before.job(claim.id).get("retries_left", "0") != "0"
            wanted = {"again": ["queued"], "later": ["scheduled"]}.get(how, ["finished"])
            wanted = ["queued", "scheduled"] if how == "raises" and retries else wanted
            wanted = ["failed"] if how == "raises" and not retries else wanted
            assert after.status(claim.id) in wanted

    def exchange(
        self, pair: Pair, finish: Finish, claims: bool, fault: str
    ) -> tuple[bytes, Any, Any] | None:
        """A step, and what can go wrong with it. Returns None if it did not get to its end."""
        line = cast(Line, pair.horse.channel)
        line.fault = fault
        try:
            return pair.record(finish, claims)
        except Died:
            if line.words:  # the horse is killed, and the request arrives after that
                pair.horse.channel = Line(pair.worker.connection)
                self.on_the_way.append(line)
                self.kill_now(pair)
            return None

    @precondition(lambda self: self.on_the_way)
    @rule()
    def arrive(self) -> None:
        line = self.on_the_way.pop(0)
        reply = line.arrive()
        line.close()
        if isinstance(reply, Exception):
            assert str(reply).startswith("NOSCRIPT")
            return
        assert reply[0] in (b"none", b"late", b"again")
        assert reply[1] in (b"fenced", b"unasked")

    @precondition(lambda self: self.asking())
    @rule(n=NUMBER)
    def ask_again(self, n: int) -> None:
        outcome, _, _ = choose(self.asking(), n).go_on()
        assert outcome in (b"none", b"again", b"late")

    # the ends of workers

    @precondition(lambda self: self.awake())
    @rule(n=NUMBER, why=st.sampled_from(["", "", "stop", "timeout", "command", "cold", "lost"]))
    def kill(self, n: int, why: str) -> None:
        pair = choose(self.busy() or self.asking() or self.awake(), n)
        before, claim = self.now, pair.claim
        if why and claim:
            pair.worker._kill(Killed(why, claim.run))
        is_owned = bool(claim and before.owns(claim)) and not pair.is_asking
        self.kill_now(pair)
        if not claim or not is_owned:
            return
        after, job = self.look(), before.job(claim.id)
        crashes, most = crashes_of(job), int(job.get("werk_max_crashes", 0))
        retries = job.get("retries_left", "0") != "0"
        if why in ("cold", "lost") or (why == "" and crashes < most):
            assert after.waiting(claim.origin.decode())[0] == claim.id
            assert crashes_of(after.job(claim.id)) == crashes + (why == "")
            assert after.job(claim.id)["worker_name"] == ""
            assert lives(after.ttl("job", claim.id), job.get("ttl", -1))
        elif why == "stop":
            assert after.status(claim.id) == "stopped"
        else:
            assert after.status(claim.id) in (["queued", "scheduled"] if retries else ["failed"])

    def kill_now(self, pair: Pair) -> None:
        pair.die()
        assert not pair.worker._is_away
        assert not pair.orders()

    def kill_whole(self, pair: Pair) -> None:
        """Supervisor and horse; another worker is started instead."""
        pair.is_frozen = pair.is_dead = True
        self.pairs.append(Pair(f"w{len(self.pairs)}", pair.queues, self.url))

    @precondition(lambda self: self.awake() and len(self.pairs) < 6)
    @rule(n=NUMBER)
    def kill_both(self, n: int) -> None:
        self.kill_whole(choose(self.awake(), n))

    @precondition(lambda self: self.awake())
    @rule(n=NUMBER)
    def freeze(self, n: int) -> None:
        choose(self.awake(), n).is_frozen = True

    @precondition(lambda self: self.frozen())
    @rule(n=NUMBER)
    def thaw(self, n: int) -> None:
        pair = choose(self.frozen(), n)
        pair.is_frozen, pair.worker._tick_at = False, PAST

    @precondition(lambda self: any(p.is_frozen for p in self.pairs) and self.awake())
    @rule(n=NUMBER)
    def rescue(self, n: int) -> None:
        pair, dead = choose(self.awake(), n), [p for p in self.pairs if p.is_frozen]
        self.connection.zadd(LEASES, {other.name: PAST for other in dead}, xx=True)
        self.connection.set("rq:werk:grace", PAST)
        self.connection.set("rq:werk:ticked", time.time())
        for run, _ in self.now.named("execution"):  # RQ's own finish has had its time
            self.connection.hset(f"rq:execution:{run}", "werk_ending", PAST)
        self.tick_now(pair)
        after = self.look()
        for other in dead:
            assert other.name not in after.get("werk", "leases")
            assert not after.get("worker", other.name, "executions")
            assert "werk_horse" not in after.get("worker", other.name)

    # the tick

    @precondition(lambda self: self.awake())
    @rule(n=NUMBER, is_due=st.booleans(), is_locked=st.booleans(), is_forgotten=st.booleans())
    def tick(self, n: int, is_due: bool, is_locked: bool, is_forgotten: bool) -> None:
        pair = choose(self.awake(), n)
        if is_forgotten:
            self.connection.delete(f"rq:worker:{pair.name}")
            self.tick_now(pair)  # writes the hash; the next one does the rest
        if is_due:
            for queue in QUEUES:
                for job_id in self.now.get("scheduled", queue):
                    self.connection.zadd(f"rq:scheduled:{queue}", {job_id: PAST})
        locked = pair.queues[0] if is_locked else ""
        before = self.look()
        if locked:
            self.connection.set(f"rq:scheduler-lock:{locked}", "stock")
        self.tick_now(pair)
        self.connection.delete(f"rq:scheduler-lock:{locked}")
        after = self.look()
        for queue in pair.queues if is_due else ():
            if queue == locked:
                assert after.get("scheduled", queue) == before.get("scheduled", queue)
                continue
            assert not after.get("scheduled", queue)
            for job_id in before.get("scheduled", queue):
                if before.status(job_id) == "scheduled":
                    assert job_id in after.waiting(after.job(job_id)["origin"])
                    assert lives(after.ttl("job", job_id), after.job(job_id).get("ttl", -1))

    def tick_now(self, pair: Pair) -> None:
        pair.worker._tick()
        assert not pair.worker._is_away
        if pair.worker._killed:  # its horse was at what is no longer its own, twice
            self.kill_now(pair)
        elif pair.horse.page.stop and not (pair.claim or pair.is_asking):
            pair.die(Leave.STOPPED << 8)

    # what others do, by RQ's own means

    @precondition(lambda self: self.with_status("queued", "started", "scheduled", "deferred"))
    @rule(n=NUMBER)
    def cancel(self, n: int) -> None:
        job_id = choose(self.with_status("queued", "started", "scheduled", "deferred"), n)
        if self.now.status(job_id) == "started":
            self.loosen(job_id, "canceled")  # RQ leaves it there when the execution ends
        self.fetch(job_id).cancel()

    @precondition(lambda self: self.in_place())
    @rule(n=NUMBER)
    def delete(self, n: int) -> None:
        job_id = choose(self.in_place(), n)
        self.fetch(job_id).delete()
        self.alive.discard(job_id)

    @precondition(lambda self: self.waiting_with_ttl())
    @rule(n=NUMBER)
    def expire(self, n: int) -> None:
        job_id = choose(self.waiting_with_ttl(), n)
        self.loosen(job_id, "queue" if self.now.status(job_id) == "queued" else "scheduled")
        self.connection.delete(f"rq:job:{job_id}")
        self.alive.discard(job_id)

    def waiting_with_ttl(self) -> list[str]:
        waiting = self.with_status("queued", "scheduled")
        return [job for job in waiting if self.now.ttl("job", job) > 0]

    @precondition(lambda self: self.with_status("failed", "stopped"))
    @rule(n=NUMBER, at_front=st.booleans())
    def requeue(self, n: int, at_front: bool) -> None:
        self.fetch(choose(self.with_status("failed", "stopped"), n)).requeue(at_front)

    @precondition(lambda self: self.alive)
    @rule(n=NUMBER)
    def push_again(self, n: int) -> None:
        """A stock scheduler that was stalled for longer than its lock lives does so."""
        job_id = choose(sorted(self.alive), n)
        self.loosen(job_id, "queue")
        self.connection.rpush(f"rq:queue:{self.now.job(job_id)['origin']}", job_id)

    # after every step

    @invariant()
    def all_is_well(self) -> None:
        self.now = self.look()
        self.check_places(self.now)
        self.check_remains(self.now)
        self.check_executions(self.now)

    def check_places(self, snapshot: Snapshot) -> None:
        for job_id in self.alive:
            status, places = snapshot.status(job_id), snapshot.places(job_id)
            [wanted] = [place for place, known in STATUSES.items() if status in known] or [status]
            origin = snapshot.job(job_id)["origin"]
            if status == "scheduled" and (wanted, origin) not in places:
                # RQ's own putting off, which writes the status first, and whose worker died then:
                # until it is rescued in wip, or, cancelled while it ran, where that put it.
                assert any(run.startswith(f"{job_id}:") for run in self.hands(snapshot))
                wanted = "wip" if ("wip", origin) in places else "canceled"
            own = (wanted, origin)
            assert own in places, (job_id, status, places)
            places.remove(own)
            others = {place for place, _ in places}
            assert others <= self.loose.get(job_id, set()), (job_id, status, own, places)
            assert "wip" not in others
            if wanted == "queue":
                assert f"rq:queue:{own[1]}" in snapshot.get("queues")
            self.check_life(snapshot, job_id, wanted)

    def check_life(self, snapshot: Snapshot, job_id: str, place: str) -> None:
        job, ttl = snapshot.job(job_id), snapshot.ttl("job", job_id)
        if place == "wip":
            assert ttl == -1
            assert job["started_at"]
            assert job["werk_attempt"]
        elif place == "finished":
            keep = int(job["result_ttl"])
            assert lives(ttl, keep)
            assert lives(snapshot.ttl("results", job_id), keep)
            assert snapshot.get("results", job_id)["type"] == "1"
            assert job["ended_at"]
        elif place == "failed":
            assert lives(ttl, FAILURE_S)
            assert snapshot.get("results", job_id)["type"] == "2"

    def check_remains(self, snapshot: Snapshot) -> None:
        for queue in QUEUES:
            kept = [*snapshot.waiting(queue), *snapshot.get("scheduled", queue)]
            known = self.alive | set(self.loose)
            assert known.issuperset(kept)
            assert self.alive.issuperset(job_id for job_id, _ in snapshot.running(queue))
        for job_id, job in snapshot.named("job"):
            if ":" not in job_id:
                assert job_id in self.alive, (job_id, job)

    def check_executions(self, snapshot: Snapshot) -> None:
        leases, hands = snapshot.get("werk", "leases"), self.hands(snapshot)
        running = {":".join(run) for queue in QUEUES for run in snapshot.running(queue)}
        assert running <= set(hands), "nobody's"
        for run, owner in hands.items():
            job_id, execution = run.split(":")
            assert run in running or snapshot.status(job_id) != "started"
            assert owner in leases, "nobody would rescue it"
            if run in running or snapshot.get("execution", run):
                facts = snapshot.get("execution", run)
                assert (facts["id"], facts["job_id"]) == (execution, job_id)
                assert facts["worker_name"] == owner
                assert execution in snapshot.get("executions", job_id)
                for key in (("execution", run), ("executions", job_id)):
                    assert snapshot.ttl(*key) == NO_TTL or 60 < snapshot.ttl(*key) < 200
        for run, _ in snapshot.named("execution"):
            assert run in hands, "an orphan"
        for job_id, executions in snapshot.named("executions"):
            assert {f"{job_id}:{execution}" for execution in executions} <= set(hands), "an orphan"

    def hands(self, snapshot: Snapshot) -> dict[str, str]:
        """Return what each worker is said to have in hand; it is what it knows of."""
        hands = {}
        for pair in self.pairs:
            for run in snapshot.get("worker", pair.name, "executions"):
                assert run not in hands
                hands[run] = pair.name
                is_asking_for_it = pair.is_asking and run.endswith(":" + pair.horse.execution)
                assert run in pair.runs() or is_asking_for_it, "forgotten"
        return hands


def choose(among: list[Any], n: int) -> Any:
    return among[n % len(among)]


def next_of(pair: Pair, snapshot: Snapshot) -> str:
    """Return the job that this worker must get, or why it gets none."""
    if pair.horse.page.stop:
        return "unasked"
    if snapshot.get("worker", pair.name).get("werk_horse") != pair.worker._generation:
        return "fenced"
    if snapshot.get("suspended"):
        return "suspended"
    for queue in pair.queues:
        for job_id in snapshot.waiting(queue):
            if queue not in snapshot.get("werk", "paused") and snapshot.status(job_id) == "queued":
                return job_id
    return "empty"


def lives(ttl: int, wanted: object) -> bool:
    """Is this the rest of a life of `wanted` seconds, that began just now? -1: for ever."""
    seconds = int(cast(Any, wanted))
    return ttl == seconds or (ttl > 0 and 0 <= seconds - ttl < 20)


def crashes_of(job: dict[str, str]) -> int:
    since, _, count = job.get("werk_crashes", "").rpartition("|")
    return int(count) if count and since == job["enqueued_at"] else 0


@pytest.fixture(autouse=True)
def _own_tasks(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    monkeypatch.setenv("WERK_REGISTRY", "test_scripts:TASKS")
    kept = {number: signal.getsignal(number) for number in (signal.SIGALRM, signal.SIGCHLD)}
    monkeypatch.setattr(logging.getLogger("rq"), "disabled", True)
    for name in ("rq.worker", "rq.job", "rq.queue"):
        monkeypatch.setattr(logging.getLogger(name), "disabled", True)
    yield
    signal.setitimer(signal.ITIMER_REAL, 0)  # a horse that is killed in here leaves its job's
    for number, handler in kept.items():
        signal.signal(number, handler)


class Generation(NamedTuple):
    hex: str


def test_any_order_of_steps(
    connection: redis.Redis, redis_url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    Life.connection, Life.url = connection, redis_url
    # Not by chance: hypothesis must be able to do the same once more.
    monkeypatch.setattr("werk.worker.uuid4", lambda: Generation(f"{next(Life.generations):020x}"))
    run_state_machine_as_test(
        Life,
        settings=settings(
            max_examples=100,
            stateful_step_count=40,
            derandomize=True,  # the same search in each run: more examples make another
            database=None,
            deadline=None,
            suppress_health_check=list(HealthCheck),
        ),
    )


# --- what does not show in where a job is: beats, times to live, counters


@pytest.fixture
def worker(connection: redis.Redis, redis_url: str) -> Iterator[Pair]:
    pair = Pair("w0", QUEUES, redis_url)
    yield pair
    pair.worker.close()


@pytest.fixture
def other(connection: redis.Redis, redis_url: str) -> Iterator[Pair]:
    pair = Pair("w1", QUEUES, redis_url)
    yield pair
    pair.worker.close()


def begin(pair: Pair, connection: redis.Redis, task: str = "tough", **options: Any) -> Claim:
    client.enqueue(
        task, options=Options(job_id="a", queue="high", **options), connection=connection
    )
    pair.record(NO_FINISH, True)
    return cast(Claim, pair.claim)


def silence(pair: Pair, connection: redis.Redis) -> None:
    """Let its lease end, in a time in which others ticked."""
    connection.zadd(LEASES, {pair.name: PAST})
    connection.set("rq:werk:grace", PAST)
    connection.set("rq:werk:ticked", time.time())


def is_near(value: object, wanted: float) -> bool:
    return abs(float(cast(Any, value)) - wanted) < 10


def test_a_claim_writes_the_execution_and_the_state(worker: Pair, connection: redis.Redis) -> None:
    claim, now = begin(worker, connection), time.time()
    redis_ = Snapshot(connection)
    job, execution = redis_.job("a"), redis_.get("execution", claim.run)
    assert job["worker_name"] == "w0"
    assert job["origin"] == "high"
    assert job["werk_attempt"] == "1"
    assert job["started_at"] == job["last_heartbeat"] == iso(claim.claimed_at)
    assert is_near(execution["created_at"], now)
    assert is_near(execution["last_heartbeat"], now)
    assert is_near(redis_.get("wip", "high")[claim.run], now + 90)
    assert is_near(redis_.get("executions", "a")[claim.execution], now + 150)
    assert redis_.get("worker", "w0")["state"] == "busy"
    assert redis_.get("worker", "w0")["last_heartbeat"] == iso(claim.claimed_at)


def test_counters_and_state_are_written_once(worker: Pair, connection: redis.Redis) -> None:
    begin(worker, connection)
    finish = worker.perform("returns", None)
    worker.horse.tally._counts[1] = 1.5
    assert worker.record(finish, True)[0] == b"done"
    cast(Line, worker.horse.channel).fault = "reply lost"
    worker.record(NO_FINISH, True)  # as the loop does before long
    hash_ = Snapshot(connection).get("worker", "w0")
    assert (hash_["successful_job_count"], hash_["total_working_time"]) == ("1", "1.5")
    assert hash_["state"] == "idle"
    assert hash_["werk_step"] == worker.horse.execution
    suspend(connection)
    worker.record(NO_FINISH, True)
    assert Snapshot(connection).get("worker", "w0")["state"] == "suspended"


def test_a_failure_without_rq_is_recorded_whole(worker: Pair, connection: redis.Redis) -> None:
    claim = begin(worker, connection)
    connection.sadd("rq:job:a:dependents", "b")
    connection.sadd("rq:job::a:dependencies", "c")  # RQ's own second colon
    finish = failure(claim, ValueError("unreadable"))
    assert worker.record(finish, False)[0] == b"done"
    redis_, keep = Snapshot(connection), FAILURE_TTL_S
    assert redis_.status("a") == "failed"
    assert redis_.places("a") == [("failed", "high")]
    assert is_near(redis_.get("failed", "high")["a"], time.time() + keep)
    for key in ("job:a", "results:a", "job:a:dependents", "job::a:dependencies"):
        assert is_near(redis_.ttl(key), keep), key
    assert redis_.get("worker", "w0")["failed_job_count"] == "1"
    entry = redis_.get("results", "a")
    assert (entry["type"], entry["worker_name"], entry["execution_id"]) == (
        "2",
        "w0",
        claim.execution,
    )
    assert entry["exc_string"]
    assert redis_.job("a")["ended_at"] == iso(worker.horse.asked_at)


def test_a_task_that_is_not_known_is_put_off(worker: Pair, connection: redis.Redis) -> None:
    client.enqueue("tough", options=Options(job_id="a", queue="high"), connection=connection)
    connection.hset("rq:job:a", "werk_task", "unheard_of")
    worker.record(NO_FINISH, True)
    finish = worker.perform("returns", None)
    assert worker.record(finish, False)[0] == b"done"
    redis_ = Snapshot(connection)
    assert redis_.places("a") == [("scheduled", "high")]
    assert redis_.status("a") == "scheduled"
    assert redis_.job("a")["worker_name"] == ""
    assert is_near(redis_.get("scheduled", "high")["a"], time.time() + 10)
    assert not list(redis_.named("execution"))


@pytest.mark.parametrize("is_first", [True, False])
def test_a_tick_renews_what_would_expire(
    worker: Pair, connection: redis.Redis, is_first: bool
) -> None:
    claim, now = begin(worker, connection), time.time()
    run = claim.run
    keys = (f"execution:{run}", "executions:a", "worker:w0", "worker:w0:executions")
    for key in () if is_first else keys:
        connection.expire(f"rq:{key}", 20)
    connection.zadd("rq:wip:high", {run: PAST})
    connection.zadd("rq:executions:a", {claim.execution: PAST})
    connection.hset(f"rq:execution:{run}", "last_heartbeat", PAST)
    connection.hset("rq:job:a", "last_heartbeat", "")
    connection.hset("rq:worker:w0", "last_heartbeat", "")
    connection.hdel("rq:worker:w0", "werk_horse")
    connection.zadd(LEASES, {"w0": PAST})
    worker.worker._tick()
    redis_ = Snapshot(connection)
    own, lives = redis_.get("worker", "w0"), worker.worker.worker_ttl + 60
    for key, ttl in zip(keys, (90, 150, lives, lives), strict=True):
        assert is_near(redis_.ttl(key), ttl), key
    assert is_near(redis_.get("wip", "high")[run], now + 90)
    assert is_near(redis_.get("executions", "a")[claim.execution], now + 150)
    assert is_near(redis_.get("execution", run)["last_heartbeat"], now)
    assert redis_.job("a")["last_heartbeat"] == own["last_heartbeat"] > iso(now - 10)
    assert own["werk_horse"] == worker.worker._generation
    assert is_near(redis_.get("werk", "leases")["w0"], now + worker.worker.lease_s)


def test_nobody_is_rescued_after_a_gap(worker: Pair, other: Pair, connection: redis.Redis) -> None:
    claim, now, lease_s = begin(worker, connection), time.time(), Worker.lease_s
    silence(worker, connection)
    connection.set("rq:werk:ticked", now - 60)
    for _ in range(2):  # the second finds no gap any more, but the grace
        other.worker._tick()
        redis_ = Snapshot(connection)
        assert redis_.owns(claim)
        assert is_near(redis_.get("werk", "ticked"), now)
        assert is_near(redis_.get("werk", "grace"), now + lease_s)
        assert is_near(redis_.ttl("werk", "grace"), lease_s + 60)
    silence(worker, connection)
    other.worker._tick()
    assert Snapshot(connection).places("a") == [("queue", "high")]


def test_a_rescue_leaves_rqs_own_finish_its_time(
    worker: Pair, other: Pair, connection: redis.Redis
) -> None:
    claim, now = begin(worker, connection), time.time()
    connection.zadd("rq:wip:high", {claim.run: PAST})
    assert worker.horse.recorder.ask_fence(claim.run, "high")
    redis_ = Snapshot(connection)
    assert is_near(redis_.get("wip", "high")[claim.run], now + 90)
    assert is_near(redis_.get("execution", claim.run)["werk_ending"], now + 10)
    assert 91 < redis_.ttl("execution", claim.run) <= 100
    worker.worker._tick()
    assert Snapshot(connection).ttl("execution", claim.run) > 91
    silence(worker, connection)
    other.worker._tick()
    redis_ = Snapshot(connection)
    assert redis_.owns(claim)
    assert is_near(redis_.get("werk", "leases")["w0"], now + 5)
    connection.hset(f"rq:execution:{claim.run}", "werk_ending", PAST)
    silence(worker, connection)
    other.worker._tick()
    redis_ = Snapshot(connection)
    assert redis_.places("a") == [("queue", "high")]
    assert "w0" not in redis_.get("werk", "leases")
    assert not worker.horse.recorder.ask_fence(claim.run, "high")


def test_after_too_many_crashes_the_execution_is_the_rescuers(
    worker: Pair, other: Pair, connection: redis.Redis
) -> None:
    claim, now = begin(worker, connection, "fragile"), time.time()
    connection.zadd("rq:wip:high", {claim.run: PAST})
    connection.expire(f"rq:execution:{claim.run}", 20)
    silence(worker, connection)
    other.worker._tick()
    redis_ = Snapshot(connection)
    assert redis_.get("worker", "w1", "executions") == [claim.run]
    assert not redis_.get("worker", "w0", "executions")
    assert is_near(redis_.get("wip", "high")[claim.run], now + 90)
    assert redis_.get("execution", claim.run)["worker_name"] == "w1"
    assert is_near(redis_.ttl("execution", claim.run), 90)
    assert redis_.job("a")["werk_crashes"] == redis_.job("a")["enqueued_at"] + "|1"
    assert [order.run for order in other.orders()] == [claim.run]
    assert other.horse.page.stop
    other.die(Leave.STOPPED << 8)
    assert Snapshot(connection).places("a") == [("failed", "high")]


def test_a_crash_puts_the_job_back_as_it_was(worker: Pair, connection: redis.Redis) -> None:
    options = Options(job_id="a", queue="high", ttl=TTL_S)
    client.enqueue("tough", options=options, connection=connection)
    client.enqueue("tough", options=Options(job_id="b", queue="high"), connection=connection)
    worker.record(NO_FINISH, True)
    assert Snapshot(connection).ttl("job", "a") == -1
    connection.delete("rq:queues", LEASES)
    worker.die()
    redis_ = Snapshot(connection)
    job = redis_.job("a")
    assert redis_.waiting("high") == ["a", "b"]
    assert redis_.get("queues") == ["rq:queue:high"]
    assert (job["status"], job["worker_name"]) == ("queued", "")
    assert job["werk_crashes"] == job["enqueued_at"] + "|1"
    assert lives(redis_.ttl("job", "a"), TTL_S)
    assert is_near(redis_.get("werk", "leases")["w0"], time.time() + Worker.lease_s)
    for start in ("execution", "executions", "wip"):
        assert not list(redis_.named(start))
    assert not redis_.get("worker", "w0", "executions")


def test_an_execution_of_a_job_that_is_elsewhere_is_only_forgotten(
    worker: Pair, connection: redis.Redis
) -> None:
    begin(worker, connection)
    connection.hset("rq:job:a", "status", "finished")
    connection.zadd("rq:finished:high", {"a": 1})
    worker.die()
    redis_ = Snapshot(connection)
    assert redis_.places("a") == [("finished", "high")]
    for start in ("execution", "executions", "wip"):
        assert not list(redis_.named(start))


def test_a_cancelled_job_that_was_half_put_off_is_cancelled(
    worker: Pair, connection: redis.Redis
) -> None:
    """RQ writes 'scheduled', and its horse dies before the transaction that puts the job there."""
    claim = begin(worker, connection, "patient")
    Job.fetch(claim.id, connection).cancel()
    for dies_after in range(20):
        try:
            worker.perform("raises", dies_after)
        except Died:
            pass
        if Snapshot(connection).status(claim.id) == "scheduled":
            break
        connection.expire(f"rq:execution:{claim.run}", 90)
    assert not Snapshot(connection).get("scheduled", "high")
    worker.die()
    redis_ = Snapshot(connection)
    assert redis_.status(claim.id) == "canceled"
    assert redis_.places(claim.id) == [("canceled", "high")]
    assert not redis_.get("executions", claim.id)


def test_a_finish_leaves_nothing_of_the_execution(worker: Pair, connection: redis.Redis) -> None:
    begin(worker, connection)
    assert worker.record(worker.perform("returns", None), False)[0] == b"done"
    redis_ = Snapshot(connection)
    assert redis_.places("a") == [("finished", "high")]
    for start in ("execution", "executions", "wip"):
        assert not list(redis_.named(start))
    assert not redis_.get("worker", "w0", "executions")


def test_a_claim_passes_what_must_not_run(worker: Pair, connection: redis.Redis) -> None:
    for job_id in ("a", "b", "c", "d"):
        options = Options(job_id=job_id, queue="high")
        client.enqueue("tough", options=options, connection=connection)
    connection.delete("rq:job:a")
    connection.hset("rq:job:b", "status", "finished")
    _, claimed, dropped = worker.record(NO_FINISH, True)
    assert claimed[0] == b"c"
    assert dropped == [b"b", b"it is finished"]
    assert Snapshot(connection).waiting("high") == ["d"]


def test_a_horse_that_was_taken_for_dead_claims_nothing(
    worker: Pair, other: Pair, connection: redis.Redis
) -> None:
    silence(worker, connection)
    other.worker._tick()
    client.enqueue("tough", options=Options(job_id="a", queue="high"), connection=connection)
    assert worker.record(NO_FINISH, True)[1] == b"fenced"
    worker.worker._tick()
    assert worker.record(NO_FINISH, True)[1][0] == b"a"


@pytest.mark.parametrize(
    ("how", "places", "queue"),
    [
        ({}, "queue", ["x", "a"]),
        ({"front": True}, "queue", ["a", "x"]),
        ({"delay": 1000.0}, "scheduled", ["x"]),
    ],
)
def test_an_enqueue_writes_all_of_a_job(
    connection: redis.Redis, how: dict[str, Any], places: str, queue: list[str]
) -> None:
    connection.rpush("rq:queue:high", "x")
    options = Options(job_id="a", queue="high", ttl=TTL_S, **how)
    client.enqueue("tough", options=options, connection=connection)
    redis_ = Snapshot(connection)
    assert redis_.places("a") == [(places, "high")]
    assert redis_.waiting("high") == queue
    assert redis_.get("queues") == ["rq:queue:high"]
    assert lives(redis_.ttl("job", "a"), TTL_S)


def test_the_delays_of_retries_are_fixed_at_enqueue(connection: redis.Redis) -> None:
    options = Options(job_id="a", queue="high")
    client.enqueue("patient", options=options, connection=connection)
    job = Job.fetch("a", connection=connection)
    assert job.retries_left == 2
    first, second = job.retry_intervals
    assert 90 <= first <= 110
    assert 180 <= second <= 220


def test_tallies_are_counted_once(worker: Pair, connection: redis.Redis) -> None:
    begin(worker, connection)
    finish = worker.perform("returns", None)
    words = worker.horse.tally.text().split()[4:]  # after those of RQ's
    worker.record(finish, True)
    cast(Line, worker.horse.channel).fault = "reply lost"
    worker.record(NO_FINISH, True)  # as the loop does before it waits
    counted = Snapshot(connection).get("werk", "tallies")
    assert words
    assert sorted(counted) == sorted(words[::2])
    assert [float(counted[field]) for field in words[::2]] == [float(n) for n in words[1::2]]


def test_what_a_horse_is_past_goes_back(worker: Pair, connection: redis.Redis) -> None:
    """Redis has lost the finish with a part of its memory."""
    claim = begin(worker, connection)
    worker.note(b"none", b"empty", [])
    worker.record(NO_FINISH, False)
    assert Snapshot(connection).owns(claim)
    worker.worker._tick()
    redis_ = Snapshot(connection)
    assert redis_.places("a") == [("queue", "high")]
    assert "werk_crashes" not in redis_.job("a")


def test_a_due_job_is_made_as_rqs_scheduler_makes_it(worker: Pair, connection: redis.Redis) -> None:
    for job_id in ("a", "b", "c"):
        options = Options(job_id=job_id, queue="high", delay=1000, ttl=TTL_S)
        client.enqueue("tough", options=options, connection=connection)
        connection.persist(f"rq:job:{job_id}")
    connection.hdel("rq:job:a", "timeout")
    connection.hset("rq:job:b", "enqueue_at_front", 1)
    connection.hset("rq:job:c", "status", "finished")
    connection.zadd("rq:scheduled:high", {"a": 1, "b": 2, "c": 3, "gone": 4})
    connection.delete("rq:queues")
    worker.worker._tick()
    redis_ = Snapshot(connection)
    assert redis_.waiting("high") == ["b", "a"]
    assert not redis_.get("scheduled", "high")
    job = redis_.job("a")
    assert (job["status"], job["origin"], job["timeout"]) == ("queued", "high", "180")
    assert job["enqueued_at"] > iso(time.time() - 10)
    assert lives(redis_.ttl("job", "a"), TTL_S)
    assert "rq:queue:high" in redis_.get("queues")


def test_a_tick_says_what_is_served(worker: Pair, connection: redis.Redis) -> None:
    connection.delete("rq:werk:catalog", "rq:werk:serves:low")
    connection.zadd("rq:werk:serves:high", {"old": PAST})
    worker.worker._served_at = worker.worker._catalog_at = float("-inf")
    worker.worker._tick()
    redis_, month_s = Snapshot(connection), 30 * 24 * 3600
    for queue in QUEUES:
        served = redis_.get("werk", "serves", queue)
        assert {member.split()[0] for member in served} == set(registry.tasks())
        assert all(is_near(beat, time.time()) for beat in served.values())
        assert is_near(redis_.ttl("werk", "serves", queue), month_s)
    assert set(redis_.get("werk", "catalog")) == set(registry.tasks())
    assert is_near(redis_.ttl("werk", "catalog"), month_s)


def test_a_short_lived_job_is_remembered_for_its_resend(connection: redis.Redis) -> None:
    request = client.prepare(client.find("brief"), (), {}, Options(job_id="a", queue="high"))
    client.send([request], connection)
    assert 50 < connection.ttl("rq:werk:sent:a") <= 60
    job = Job.fetch("a", connection=connection)
    job.delete()
    assert not client.send([request], connection)[0].duplicate
    assert not connection.exists("rq:job:a")  # it is known to have been there
    again = client.prepare(client.find("brief"), (), {}, Options(job_id="a", queue="high"))
    assert not client.send([again], connection)[0].duplicate
    assert connection.exists("rq:job:a")  # the id is free for others
