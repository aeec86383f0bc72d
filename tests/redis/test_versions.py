"""One version back and forth: a fleet that is being deployed runs both at the same time.

tests/data holds the scripts and every record of each version: v0 of 0.1.0, v1 of 0.2.0. Its side
here sends what its Python sent; today's side is a worker of today's. kit/freeze.py wrote v1.
"""

from __future__ import annotations

import json
import signal
import time
from collections.abc import Iterator
from typing import Any, cast

import pytest
import redis
from contents import QUEUES, Contents, text
from pair import Pair
from support import TESTS
from test_scripts import TASKS as TASKS

from werk import Options, result
from werk.client import enqueue as client
from werk.client import request
from werk.errors import JobIdConflict
from werk.ops import actions, jobs
from werk.ops.snapshot import Snapshot
from werk.store import keys, payload
from werk.store.connection import Link, link_over
from werk.tasks.catalog_page import read_pages
from werk.worker.claim import Claim, Unknown
from werk.worker.outcome import Outcome
from werk.worker.scripts import script
from werk.worker.supervisor import LEASES

PAST = 1
LEASE_S = 15
GENERATION = "00000000000000aa"


class Old:
    """A worker of 0.1.0, and a caller: what they sent."""

    folder = TESTS / "data" / "v0"

    def __init__(self, connection: redis.Redis, name: str = "old") -> None:
        self.redis, self.name, self.count = connection, name, 10**9
        self.claim: list[bytes] | None = None
        facts = {"birth": "x", "werk_horse": GENERATION, "werk_lease": LEASE_S}
        connection.hset(f"rq:worker:{name}", mapping=facts)
        connection.sadd("rq:workers", f"rq:worker:{name}")

    def text(self, name: str) -> str:
        """Return a script as it was sent: here it was put together from parts."""
        before = ["counts"] if name == "step" else ["counts", "lib"]
        parts = ((self.folder / f"{part}.lua").read_text() for part in (*before, name))
        return "\n".join(["local P = 'rq'", *parts])

    def run(self, name: str, *words: Any, keys: tuple[str, ...] = ()) -> Any:
        return self.redis.eval(self.text(name), len(keys), *keys, *words)

    def enqueue(
        self, job_id: str, name: str = "tough", queue: str = "high", wanted: Any = (1,)
    ) -> None:
        names = tuple(f"rq:{key}" for key in ("queues", f"queue:{queue}", f"scheduled:{queue}"))
        job = (job_id, payload.write_call("pair.work", (), {}), f"{name}()", "", "")
        head = ("rq", "back", 0, 0, keys.iso(time.time()), queue)
        words = (*head, *self.limits(name), *job)
        text = (self.folder / "enqueue.lua").read_text()
        assert self.redis.eval(text, 3, *names, *words) == [*wanted]

    def limits(self, name: str) -> tuple[Any, ...]:
        return (180, 500, 600, name, 1, 0, 0, 0, "", "", "0")

    def step(self, outcome: str = "", claims: bool = True) -> bytes:
        """Finish what is in hand with that outcome, claim the next. Returns what became of it."""
        now, finish = time.time(), ()
        if outcome:
            own = cast(Any, self.claim)
            keep = (500, int(now) + 500) if outcome != "scheduled" else (0, now + 10)
            finish = (own[8], own[0], self.execution, outcome, *keep, b"gASVAw==", now)
        self.count += 1
        self.execution = f"{GENERATION}{self.count}"
        times = (keys.iso(now), repr(now), int(now) + 90, int(now) + 150)
        head = (self.name, GENERATION, self.execution, *times, int(claims), 0, "done 0 worked 0 ")
        queues = tuple(f"rq:queue:{queue}" for queue in QUEUES)
        became, claimed, _, _ = self.run("step", *head, *finish, keys=queues)
        self.claim = claimed if type(claimed) is list else None
        return cast(bytes, became)

    @property
    def job_id(self) -> str:
        return text(self.claim[8]) if self.claim else ""

    def tick(self) -> list[Any]:
        now = time.time()
        head = (self.name, keys.iso(now), repr(now), GENERATION, "", "", LEASE_S, 480, 1)
        return cast(Any, self.run("tick", *head, *self.rest_of_tick, keys=TICKED))

    rest_of_tick: tuple[Any, ...] = (0,)  # tasks served

    def rescue(self, dead: str) -> list[Any]:
        self.tick()
        forget_lease(self.redis, dead)
        return self.tick()


class Recent(Old):
    """The same of 0.2.0, whose scripts were written down as they are sent."""

    folder = TESTS / "data" / "v1"
    rest_of_tick = ("0 0", "0.000", "[]", "[]")  # lines dropped, clock ahead, tasks, pages

    def tick(self) -> list[Any]:
        return super().tick()[1:]  # the first is Redis's time

    def text(self, name: str) -> str:
        return (self.folder / f"{name}.lua").read_text()

    def limits(self, name: str) -> tuple[Any, ...]:
        return (180, 500, 600, name, 1, 0, 0, 0, "", "", 0)


TICKED = ("rq:queue:high", "rq:queue:low")
VERSIONS = {"0.1.0": Old, "0.2.0": Recent}


@pytest.fixture(params=VERSIONS)
def past(request: pytest.FixtureRequest) -> type[Old]:
    """A version whose workers and callers may be beside ours."""
    return VERSIONS[request.param]


def forget_lease(connection: redis.Redis, dead: str) -> None:
    connection.zadd(LEASES, {dead: PAST})
    connection.set("rq:werk:grace", PAST)


def load(connection: redis.Redis, past: type[Old]) -> None:
    """Write the records of a version."""
    for key, own in json.loads((past.folder / "records.json").read_text()).items():
        name, value = key.encode("latin-1"), own["value"]
        as_bytes = {k.encode("latin-1"): v for k, v in value.items()} if type(value) is dict else {}
        match own["type"]:
            case "hash":
                fields = {k: v.encode("latin-1") for k, v in as_bytes.items()}
                connection.hset(name, mapping=cast(Any, fields))
            case "zset":
                connection.zadd(name, as_bytes)
            case "list":
                connection.rpush(name, *value)
            case "set":
                connection.sadd(name, *value)
            case "string":
                connection.set(name, value)
            case "stream":
                for entry, fields in value:
                    connection.xadd(name, fields, id=entry)
        if own["lives"] > 0:
            connection.expire(name, own["lives"])
    connection.zadd("rq:scheduled:high", {"scheduled": time.time() + 1000})


@pytest.fixture(autouse=True)
def _alone(monkeypatch: pytest.MonkeyPatch, no_logs: None) -> Iterator[None]:
    monkeypatch.setenv("WERK_REGISTRY", "test_scripts:TASKS")
    kept = {number: signal.getsignal(number) for number in (signal.SIGALRM, signal.SIGCHLD)}
    yield
    for number, handler in kept.items():
        signal.signal(number, handler)


@pytest.fixture
def link(connection: redis.Redis) -> Iterator[Link]:
    own = link_over(connection)
    yield own
    own.close()


@pytest.fixture
def pair(connection: redis.Redis, redis_url: str) -> Iterator[Pair]:
    """A worker of today's."""
    own = Pair("new", QUEUES, redis_url)
    yield own
    own.supervisor.close()


def enqueue(connection: redis.Redis, job_id: str, name: str = "tough", queue: str = "high") -> None:
    client.enqueue(name, options=Options(queue=queue, job_id=job_id), connection=connection)


def finish_all(pair: Pair) -> list[str]:
    """Have today's worker run all that waits. Returns the jobs."""
    found: list[str] = []
    finish: Outcome | None = None
    while True:
        outcome, _ = pair.step(finish, True)
        assert outcome == (b"done" if finish else b"none")
        if not pair.claim:
            return found
        found.append(pair.claim.id)
        finish = pair.perform("returns")


def test_the_version_is_one_number() -> None:
    for lua in (request.script().text, script("step").text):
        constants = lua.removeprefix("#!lua flags=allow-oom\n").partition("\n")[0]
        names, _, values = constants.removeprefix("local ").partition(" = ")
        found = dict(zip(names.split(", "), values.split(", "), strict=True))
        assert found["VERSION"] == str(keys.RECORD_VERSION)


def test_records_name_their_version(connection: redis.Redis, pair: Pair) -> None:
    enqueue(connection, "a")
    version = str(keys.RECORD_VERSION).encode()
    assert connection.hget("rq:job:a", "werk_v") == version
    assert connection.hget("rq:worker:new", "werk_v") == version


# --- what the version before has written


def test_old_records_are_claimed_and_finished(
    connection: redis.Redis, pair: Pair, past: type[Old]
) -> None:
    load(connection, past)
    assert finish_all(pair) == ["queued", "eager"]
    connection.zadd("rq:scheduled:high", {"scheduled": PAST})
    pair.supervisor.tick()
    assert finish_all(pair) == ["scheduled"]
    now = Contents(connection)
    for job_id in ("queued", "eager", "scheduled", "finished"):
        assert now.places(job_id) == [("finished", "high")]


def test_an_old_workers_job_is_rescued(
    connection: redis.Redis, pair: Pair, past: type[Old]
) -> None:
    load(connection, past)
    pair.supervisor.tick()  # it was long ago: a gap
    forget_lease(connection, "old")
    pair.supervisor.tick()
    now = Contents(connection)
    assert now.waiting("high") == ["started", "queued", "eager"]
    assert now.job("started")["werk_crashes"].endswith("|1")
    assert finish_all(pair)[0] == "started"


def test_old_results_and_failures_are_read_and_retried(
    connection: redis.Redis, link: Link, pair: Pair, past: type[Old]
) -> None:
    load(connection, past)
    assert result("finished", 0, connection=connection) == 1
    [[failed]] = [page for page in jobs.walk(link, jobs.Query(("failed",))) if page]
    assert (failed.id, failed.task, failed.error) == ("failed", "tough", "ValueError: as asked")
    assert [*actions.act(link, "retry", ["failed"])] == [("failed", "retried")]
    assert finish_all(pair)[-1] == "failed"
    assert result("failed", 0, connection=connection) == 1


def test_an_old_worker_and_its_catalog_are_seen(
    connection: redis.Redis, link: Link, past: type[Old]
) -> None:
    load(connection, past)
    snapshot = Snapshot.read(link)
    assert [(own.name, own.kind) for own in snapshot.workers] == [("old", "werk")]
    assert snapshot.queues["high"].waiting == 2
    assert {"tough", "hello"} <= read_pages(link).entries.keys()


def test_an_old_enqueue_is_known_when_it_is_sent_again(
    connection: redis.Redis, past: type[Old]
) -> None:
    load(connection, past)
    options = Options(queue="high", job_id="queued")
    for name in ("tough", "eager"):  # an old record does not have the call: no conflict
        handle = client.enqueue(name, options=options, connection=connection)
        assert (handle.id, handle.duplicate) == ("queued", True)


# --- what the version before does with today's


def test_an_old_caller_finds_todays_id(connection: redis.Redis, past: type[Old]) -> None:
    enqueue(connection, "a")
    before = connection.hgetall("rq:job:a")
    assert b"werk_call" in before
    assert past(connection).enqueue("a", "eager", wanted=[[b"id", b"a"]]) is None
    assert connection.hgetall("rq:job:a") == before
    with pytest.raises(JobIdConflict, match=r"job_id 'a' belongs to another call, tough\(\)"):
        enqueue(connection, "a", "eager")


@pytest.mark.parametrize("outcome", ["finished", "failed", "scheduled"])
def test_an_old_worker_runs_todays_jobs(
    connection: redis.Redis, pair: Pair, outcome: str, past: type[Old]
) -> None:
    enqueue(connection, "a")
    old = past(connection)
    old.step()
    assert old.job_id == "a"
    assert cast(Any, old.claim)[1:3] == [b"", b"1"]
    assert old.step(outcome) == b"done"
    assert Contents(connection).places("a") == [(outcome, "high")]


def test_each_rescues_the_others_jobs(connection: redis.Redis, pair: Pair, past: type[Old]) -> None:
    old = past(connection)
    old.tick()
    enqueue(connection, "a", "eager")
    pair.step(None, True)
    assert pair.claim and pair.claim.id == "a"
    assert [event[:2] for event in old.rescue("new")] == [[b"requeued", pair.claim.run.encode()]]
    assert pair.step(pair.perform("returns"), False)[0] == b"late"
    old.step()
    assert old.job_id == "a"
    forget_lease(connection, "old")
    pair.supervisor.tick()
    assert Contents(connection).places("a") == [("queue", "high")]
    assert old.step("finished", claims=False) == b"late"
    assert finish_all(pair) == ["a"]
    assert Contents(connection).job("a")["werk_attempt"] == "3"


def test_what_a_worker_has_in_hand_outlives_its_rescue_by_an_older_one(
    connection: redis.Redis, redis_url: str, pair: Pair, past: type[Old]
) -> None:
    """Workers of older versions know no hands, and remove the lease."""
    old = past(connection)
    old.tick()
    pair.supervisor.tick()
    enqueue(connection, "a")
    connection.lmove("rq:queue:high", "rq:werk:hand:new:high", "LEFT", "LEFT")
    assert old.rescue("new") == []
    assert connection.zscore(LEASES, "new") is None
    assert connection.zscore("rq:werk:hands", "new") > time.time() + LEASE_S
    connection.zadd("rq:werk:hands", {"new": PAST})
    other = Pair("other", QUEUES, redis_url)
    other.supervisor.tick()
    other.supervisor.close()
    assert Contents(connection).waiting("high") == ["a"]
    old.step()
    assert old.job_id == "a"


def test_a_mixed_fleet_loses_nothing(connection: redis.Redis, pair: Pair, past: type[Old]) -> None:
    """Callers and workers of both, in turn."""
    old = past(connection)
    ids = [f"j{number}" for number in range(60)]
    ran: list[str] = []
    finish: Outcome | None = None
    for number, job_id in enumerate(ids):
        queue = QUEUES[number // 2 % 2]
        (old.enqueue if number % 2 else enqueue.__get__(connection))(job_id, "tough", queue)
    while True:
        old.step("finished" if old.claim else "")
        pair.step(finish, True)
        finish = pair.perform("returns") if pair.claim else None
        ran += [own for own in (old.job_id, pair.claim.id if pair.claim else "") if own]
        old.tick()
        pair.supervisor.tick()
        if not old.claim and not pair.claim:
            break
    assert sorted(ran) == sorted(ids)
    now = Contents(connection)
    assert all(now.places(own) in ([("finished", "high")], [("finished", "low")]) for own in ids)


# --- what the next version will write


def newer(connection: redis.Redis) -> None:
    enqueue(connection, "a")
    connection.hset("rq:job:a", "werk_v", keys.RECORD_VERSION + 1)


def test_a_newer_record_is_deferred_and_names_both_versions(
    connection: redis.Redis, pair: Pair
) -> None:
    newer(connection)
    pair.step(None, True)
    own = cast(Claim, pair.claim)
    version = keys.RECORD_VERSION
    words = f"has version {version + 1}, but this worker reads up to {version}"
    with pytest.raises(Unknown, match=words):
        own.limits(500)
    assert pair.step(pair.perform("returns"), True)[0] == b"done"
    [(job_id, due)] = connection.zrange("rq:scheduled:high", 0, -1, withscores=True)
    assert (job_id, due) == (b"a", pytest.approx(time.time() + 10, abs=5))


def test_a_newer_record_fails_after_ten_minutes(connection: redis.Redis, pair: Pair) -> None:
    newer(connection)
    connection.hset("rq:job:a", "werk_unknown_since", time.time() - 700)
    pair.step(None, True)
    finish = pair.perform("returns")
    if finish:
        pair.step(finish, False)
    now = Contents(connection)
    assert now.places("a") == [("failed", "high")]
    entry = {key.encode(): own.encode("latin-1") for key, own in now.get("results", "a").items()}
    assert f"this worker reads up to {keys.RECORD_VERSION};" in payload.read_exception(entry)


def test_a_newer_record_is_one_also_when_the_claim_is_sent_again(
    connection: redis.Redis, pair: Pair
) -> None:
    newer(connection)
    pair.line.fault = "reply lost"
    pair.step(None, True)
    own = cast(Claim, pair.claim)
    assert own.status == f"werk_v {keys.RECORD_VERSION + 1}".encode()
