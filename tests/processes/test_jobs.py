"""Jobs by state, queue, task, argument and age: `werk jobs`, and actions on all that match."""

from __future__ import annotations

import json
import threading
import time
from datetime import date
from itertools import chain
from pathlib import Path
from typing import Any

import pytest
import redis
import roles
from rq import Queue
from support import KIT, run, wait_until
from workers import Start, begun, ended, go, places

import werk
from werk.errors import ArgumentError
from werk.ops import bulk, job_ids, job_places, jobs
from werk.ops.job_places import Pace, pages
from werk.ops.jobs import Query
from werk.ops.queues import clock
from werk.store import keys, payload
from werk.store.connection import Link, link
from werk.store.limits import GONE_ENTRY

ANY = job_places.STATES
QUEUE = "rq:queue:default"
MANY = """
for i = 1, tonumber(ARGV[1]) do
  local id, is_rare = ARGV[2] .. i, i % tonumber(ARGV[3]) == 0
  redis.call('HSET', 'rq:job:' .. id, 'status', 'queued', 'origin', 'default', 'enqueued_at', 't',
    'werk_task', is_rare and 'panic' or 'sleep', 'data', is_rare and ARGV[5] or ARGV[4],
    'description', is_rare and 'panic()' or 'sleep(0.0)', 'werk_enqueued', 't|' .. i)
  redis.call('RPUSH', 'rq:queue:default', id)
end
redis.call('SADD', 'rq:queues', 'rq:queue:default')"""


@pytest.fixture
def light(redis_url: str) -> Link:
    return link(roles.settings("operator"))


@pytest.fixture
def table(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("WERK_REGISTRY", "recorded_tasks:TASKS,werk.registry:TASKS")
    monkeypatch.setenv("PYTHONPATH", str(KIT))
    monkeypatch.syspath_prepend(KIT)


def fill(connection: redis.Redis, count: int, every: int, prefix: str = "j") -> None:
    """Enqueue `sleep 0` this many times, but `panic` for each job of this number."""
    calls = [payload.write_call(f"werk.jobs.{own}", args, {}) for own, args in CALLS]
    connection.eval(MANY, 0, count, prefix, every, *calls)


CALLS = (("sleep", (0.0,)), ("panic", ()))


def ids(light: Link, query: Query) -> list[str]:
    return [row.id for row in chain.from_iterable(jobs.walk(light, query))]


def only(light: Link, query: Query) -> jobs.Row:
    (row,) = chain.from_iterable(jobs.walk(light, query))
    return row


# --- which jobs match


def test_waiting_jobs_of_a_task(light: Link, connection: redis.Redis) -> None:
    fill(connection, 5000, 50)
    assert jobs.groups(light, Query()) == [
        ("queued", "sleep", 4900, 1.0),
        ("queued", "panic", 100, 50.0),
    ]
    assert ids(light, Query(task="panic")) == [f"j{i}" for i in range(5000, 0, -50)]
    assert ids(light, Query()) == [f"j{i}" for i in range(5000, 0, -1)]
    assert ids(light, Query(since=4990.0)) == [f"j{i}" for i in range(5000, 4989, -1)]
    assert jobs.count(light, Query(older=10.0)) == 10
    assert jobs.count(light, Query(("running",))) == 0


def test_each_state(work: Start, light: Link, connection: redis.Redis, tmp_path: Path) -> None:
    worker = work("default")
    failed = ended(werk.enqueue("fail", str(tmp_path)), "failed").id
    finished = ended(werk.enqueue("sleep", 0), "finished").id
    running = werk.enqueue("block", str(tmp_path)).id
    begun(tmp_path)
    queued = werk.enqueue("sleep", 2, options=werk.Options(queue="low")).id
    due = werk.enqueue("sleep", 3, options=werk.Options(delay=3600)).id
    waits = Queue("low", connection=connection).enqueue("os.getcwd", depends_on=queued).id
    found = {state: ids(light, Query((state,))) for state in ANY}
    assert found == {
        "queued": [queued], "running": [running], "scheduled": [due], "deferred": [waits],
        "failed": [failed], "finished": [finished],
    }  # fmt: skip
    assert sorted(ids(light, Query(queue="low"))) == sorted([queued, waits])
    assert only(light, Query(("deferred",))).why == f"it waits for {queued} (queued)"
    assert 3500 < (only(light, Query(("scheduled",))).due or 0) - time.time() < 3700
    assert only(light, Query(("failed",))).error == "ValueError: as asked"
    row = only(light, Query(("running",)))
    assert (row.task, row.attempt, row.call) == ("block", 1, f"block('{tmp_path}')")
    assert ids(light, Query(ANY, task="os.getcwd")) == [waits]  # enqueued by plain RQ
    assert ids(light, Query(error="ValueError*")) == [failed]
    assert ids(light, Query(error="ValueError")) == []
    worker.terminate()
    go(tmp_path)
    worker.wait()


def test_a_job_whose_task_no_worker_knows_is_deferred(light: Link, connection: redis.Redis) -> None:
    now = time.time()
    record = {"status": "scheduled", "origin": "default", "werk_task": "new", "werk_attempt": 1}
    record |= {"started_at": "2026-01-02T00:00:00Z", "ended_at": "2026-01-01T00:00:00Z"}
    record |= {"werk_unknown_since": now, "werk_deferred": "worker w: unknown task 'new'"}
    for job_id in ("deferred", "retried"):
        connection.hset(f"rq:job:{job_id}", mapping=record)
        connection.zadd("rq:scheduled:default", {job_id: now + 5})
    connection.hset("rq:job:retried", "ended_at", "2026-01-03T00:00:00Z")  # it waits for a retry
    connection.sadd("rq:queues", QUEUE)
    row = only(light, Query(("deferred",)))
    assert (row.id, row.why) == ("deferred", "worker w: unknown task 'new'")
    assert (row.due, row.fails_at) == (pytest.approx(now + 5), pytest.approx(now + 600))
    assert ids(light, Query(("scheduled",))) == ["retried"]


def test_jobs_with_an_argument(table: None, light: Link, connection: redis.Redis) -> None:
    def enqueue(task: str, *args: object, **kwargs: object) -> str:
        return werk.enqueue_call(task, args, kwargs).id

    first = enqueue("typed", 7, size="big")
    second = enqueue("typed", 7, date(2026, 1, 31), size="small", colour="red")
    third = enqueue("loose", 5, "7", count=7)
    alien = Queue(connection=connection).enqueue("os.getenv", "HOME").id
    assert ids(light, Query(task="typed", args=[("count", "7")])) == [second, first]
    assert ids(light, Query(task="typed", args=[("count", "7"), ("size", "big")])) == [first]
    assert ids(light, Query(task="typed", args=[("count", "07")])) == [second, first]
    assert ids(light, Query(task="typed", args=[("count", "8")])) == []
    assert ids(light, Query(task="typed", args=[("when", "2026-01-31")])) == [second]
    assert ids(light, Query(task="typed", args=[("colour", "red")])) == [second]
    assert ids(light, Query(args=[("count", "7")])) == [third, second, first]
    assert ids(light, Query(args=[("args", "HOME")])) == [alien]
    with pytest.raises(ArgumentError, match="typed: no parameter 'weight'"):
        ids(light, Query(task="typed", args=[("weight", "1")]))


def test_a_secret_argument_selects_nothing(table: None, light: Link, redis_url: str) -> None:
    werk.enqueue("login", "ann", "hush")
    with pytest.raises(ArgumentError, match="login: password is secret"):
        ids(light, Query(task="login", args=[("password", "hush")]))
    assert ids(light, Query(args=[("password", "hush")])) == []
    assert ids(light, Query(args=[("password", "***")])) == []
    assert only(light, Query(args=[("user", "ann")])).call == "login('ann', ***)"


# --- a page of a place


def read(light: Link, place: str = "queue", **chosen: str) -> chain[str]:
    found = pages(light, place, "default", Pace(), **chosen)
    return chain.from_iterable([entry.id for entry in page.entries] for page in found)


@pytest.mark.parametrize("change", ["taken", "put back", "enqueued", "cancelled", "compacted"])
def test_a_list_that_changes_while_it_is_read(
    light: Link, connection: redis.Redis, monkeypatch: pytest.MonkeyPatch, change: str
) -> None:
    monkeypatch.setattr(job_places, "AT_ONCE", 10)
    fill(connection, 200, 1000)
    if change == "compacted":
        connection.rpush(QUEUE, *[GONE_ENTRY] * 50)
    found: list[str] = []
    for number, page in enumerate(pages(light, "queue", "default", Pace(light))):
        own = [entry.id for entry in page.entries]
        found += own
        if change == "taken":
            connection.lpop(QUEUE, 3)
        elif change == "put back":
            connection.lpush(QUEUE, *(f"front{number}-{i}" for i in range(30)))
        elif change == "enqueued":
            fill(connection, 30, 1000, f"new{number}-")
        elif change == "cancelled":
            for job_id in own[::2]:
                connection.lset(QUEUE, connection.lpos(QUEUE, job_id), GONE_ENTRY)
        else:
            connection.lrem(QUEUE, 0, GONE_ENTRY)
    expected = [f"j{i}" for i in range(200, 0, -1)]
    taken = {f"j{i}" for i in range(1, 61)} if change == "taken" else set()
    assert {*expected} - {*found} <= taken
    assert len(found) == len({*found})
    assert [own for own in found if own in expected] == [own for own in expected if own in found]


def test_jobs_with_the_same_score_are_read_once(
    light: Link, connection: redis.Redis, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(job_places, "AT_ONCE", 10)
    for i in range(100):
        connection.hset(f"rq:job:j{i}", "status", "failed")
        connection.zadd("rq:failed:default", {f"j{i}": 4e9 + i // 60})
        connection.zadd("rq:scheduled:default", {f"j{i}": 4e9 + i // 60})
    for place in ("failed", "scheduled"):
        found = []
        for page in pages(light, place, "default", Pace(light)):
            found += [entry.id for entry in page.entries]
            connection.zrem(f"rq:{place}:default", *found[-10::3], found[-1])
        assert len(found) == len({*found}) == 100


# --- actions on all that match


def test_exactly_the_jobs_of_a_task_are_cancelled(
    work: Start, light: Link, connection: redis.Redis
) -> None:
    """20,000 wait, 500 are of the task. A worker takes others, and a caller enqueues more."""
    fill(connection, 20_000, 40)
    rare = {f"j{i}" for i in range(40, 20_001, 40)}
    stopping, added = threading.Event(), []

    def enqueue() -> None:
        while not stopping.is_set():
            added.append(werk.enqueue("sleep", 0).id)
            fill(connection, 5, 1, f"late{len(added)}-")  # of the same task

    work("default")
    caller = threading.Thread(target=enqueue)
    caller.start()
    try:
        wait_until(lambda: len(added) > 10)
        done = bulk.act_on(light, "cancel", Query(("queued",), task="panic"))
        count = len(added)
        wait_until(lambda: len(added) > count + 10)
    finally:
        stopping.set()
        caller.join()
    cancelled = {one.decode() for one in connection.zrange("rq:canceled:default", 0, -1)}
    waiting = [one.decode() for one in connection.lrange(QUEUE, 0, -1)]
    assert done == len(cancelled)
    early = {one for one in cancelled if one.startswith("late")}  # enqueued before the call
    assert all(one.startswith("late") for one in cancelled - rare)
    assert not rare & {*waiting}
    for job_id in rare - cancelled:  # the worker was faster
        assert connection.hget(f"rq:job:{job_id}", "status") in (b"started", b"failed")
    assert GONE_ENTRY not in waiting
    assert len(waiting) == len({*waiting})
    assert {*waiting}.isdisjoint(early)
    for job_id in added:
        assert connection.hget(f"rq:job:{job_id}", "status") != b"canceled"


def test_what_is_enqueued_after_the_call_is_not_cancelled(
    light: Link, connection: redis.Redis, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(job_places, "AT_ONCE", 5)
    fill(connection, 100, 1)
    late: list[str] = []

    def enqueue(_: int) -> None:
        late.append(werk.enqueue("panic", options=werk.Options(front=True)).id)

    assert bulk.act_on(light, "cancel", Query(("queued",), task="panic"), enqueue) == 100
    assert len(late) > 5
    assert connection.lrange(QUEUE, 0, -1) == [own.encode() for own in reversed(late)]


def test_a_job_that_is_due_meanwhile_is_cancelled(
    light: Link, connection: redis.Redis, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It moves from the scheduled jobs, where it was not read yet, to the end of its queue."""
    now, at = time.time(), keys.clock()[2]
    record = {"origin": "default", "werk_task": "sleep", "created_at": keys.iso(now - 3600)}
    for name in ("early", "late"):
        due = {"status": "scheduled", **record}
        connection.hset(f"rq:job:{name}", mapping=due)
        connection.zadd("rq:scheduled:default", {name: now})
    fill(connection, 10, 100)
    act = bulk._act

    def move(light: Link, action: str, batch: jobs.Batch, *given: Any) -> int:
        done = act(light, action, batch, *given)
        if connection.zrem("rq:scheduled:default", "early", "late"):
            for name in {"early", "late"} - {job.id for job in batch.jobs}:
                queued = {"status": "queued", "enqueued_at": at, "werk_enqueued": f"{at}|{now + 9}"}
                connection.hset(f"rq:job:{name}", mapping=queued)
                connection.rpush(QUEUE, name)
        return done

    connection.zadd("rq:scheduled:default", {"late": now + 3600})
    monkeypatch.setattr(job_places, "AT_ONCE", 1)
    monkeypatch.setattr(bulk, "_act", move)
    assert bulk.act_on(light, "cancel", Query(bulk.STATES["cancel"])) == 12
    assert connection.zcard("rq:canceled:default") == 12


def test_an_interrupted_action_leaves_no_entry_behind(
    light: Link, connection: redis.Redis, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(job_places, "AT_ONCE", 5)
    fill(connection, 100, 1)

    def interrupt(_: int) -> None:
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        bulk.act_on(light, "cancel", Query(("queued",), task="panic"), interrupt)
    assert connection.llen(QUEUE) == 90
    assert connection.lpos(QUEUE, GONE_ENTRY) is None


@pytest.mark.parametrize("program", ["werk", "rq"])
def test_a_worker_drops_what_is_left_of_a_cancelled_job(
    work: Start, connection: redis.Redis, program: str
) -> None:
    connection.rpush(QUEUE, GONE_ENTRY, GONE_ENTRY)
    job = werk.enqueue("sleep", 0)
    env = {"RQ_WORKER_CLASS": "rq.worker.SimpleWorker"} if program == "rq" else {}
    if program == "rq":
        run("rq", "worker", "default", "--burst", env=env)
    else:
        work("default")
    ended(job, "finished")
    assert connection.llen(QUEUE) == 0


def test_a_list_that_has_moved_far_is_searched(
    light: Link, connection: redis.Redis, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Between the reading of a page and the action, more jobs come to its start than expected."""
    monkeypatch.setattr(job_places, "AT_ONCE", 10)
    fill(connection, 30, 10)
    act = bulk._act

    def slow(*given: Any) -> int:
        connection.lpush(QUEUE, *(f"front{i}" for i in range(100)))
        return act(*given)

    monkeypatch.setattr(bulk, "_act", slow)
    assert bulk.act_on(light, "cancel", Query(("queued",), task="panic")) == 3
    assert not {b"j10", b"j20", b"j30"} & {*connection.lrange(QUEUE, 0, -1)}


def test_jobs_of_a_rate_limit_are_cancelled(light: Link, connection: redis.Redis) -> None:
    """Each slot that a cancelled job leaves is filled, which moves the entries of the list."""
    fill(connection, 20, 1)
    for i in range(1, 21):
        limited = {"rate_limit_key": "k", "rate_limit_concurrency": 20}
        connection.hset(f"rq:job:j{i}", mapping=limited)
        connection.zadd("rq:rl:k:allowed", {f"j{i}": i})
    connection.hset("rq:rl:k", "concurrency", 20)
    for i in range(10):
        limited = {"status": "rate_limited", "origin": "default", "werk_task": "other"}
        limited |= {"enqueue_at_front": i % 2, "rate_limit_key": "k"}
        connection.hset(f"rq:job:w{i}", mapping={**limited, "rate_limit_concurrency": 20})
        connection.zadd("rq:rl:k:rate_limited", {f"w{i}": i})
    assert bulk.act_on(light, "cancel", Query(("queued",), task="panic")) == 20
    found = connection.lrange(QUEUE, 0, -1)
    assert sorted(found) == [f"w{i}".encode() for i in range(10)]


def test_failed_and_finished_jobs_are_discarded(
    work: Start, light: Link, connection: redis.Redis, tmp_path: Path
) -> None:
    work("default")
    jobs_ = [werk.enqueue("fail", str(tmp_path)), werk.enqueue("sleep", 0)]
    ended(jobs_[0], "failed")
    ended(jobs_[1], "finished")
    kept = werk.enqueue("sleep", 0, options=werk.Options(delay=1000)).id
    with pytest.raises(ArgumentError, match="cannot discard scheduled jobs"):
        bulk.act_on(light, "discard", Query(("scheduled",)))
    assert bulk.act_on(light, "discard", Query(("failed", "finished"))) == 2
    for job in jobs_:
        assert not [*connection.scan_iter(f"*{job.id}*")]
    refused = run("werk", "discard", kept, "--yes")
    message = f"werk: job {kept} is scheduled, neither failed nor finished\n"
    assert (refused.returncode, refused.stderr) == (1, message)
    assert places(connection, kept) == ["scheduled"]


def test_jobs_that_are_enqueued_after_the_count_stay(light: Link, connection: redis.Redis) -> None:
    plain = Queue(connection=connection)

    def enqueue() -> list[str]:
        parent = plain.enqueue("os.getcwd")
        delayed = werk.enqueue("sleep", 0, options=werk.Options(delay=1000)).id
        child = plain.enqueue("os.getcwd", depends_on=parent).id
        return [parent.id, delayed, child, werk.enqueue("sleep", 0).id]

    old, begun, new = enqueue(), clock(light), enqueue()
    query = Query(("queued", "scheduled", "deferred"))
    assert bulk.act_on(light, "cancel", query, begun=begun) == 4
    where = ["queue", "scheduled", "deferred", "queue"]
    assert [places(connection, job) for job in old] == [["canceled"]] * 4
    assert [places(connection, job) for job in new] == [[place] for place in where]


# --- short ids


def test_an_id_may_be_shortened(light: Link, connection: redis.Redis) -> None:
    job = werk.enqueue("sleep", 0, options=werk.Options(delay=1000)).id
    other = werk.enqueue("sleep", 0).id
    assert job_ids.resolve(light, job[:8]) == job
    assert job_ids.resolve(light, other[:12]) == other
    assert job_ids.resolve(light, job) == job
    assert job_ids.resolve(light, job[:7]) == job[:7]
    assert job_ids.resolve(light, "deadbeef") == "deadbeef"
    assert run("werk", "show", job[:8]).stdout.split()[:2] == ["id", job]
    assert run("werk", "cancel", job[:8], "--yes").stdout == f"{job} cancelled\n"
    done = run("werk", "show", "deadbeef")
    assert (done.returncode, "no job deadbeef" in done.stderr) == (66, True)


def test_an_ambiguous_id_names_the_jobs(light: Link, redis_url: str) -> None:
    ids = [f"20262026-{n}000-4000-8000-000000000000" for n in range(2)]
    for name in (*ids, "20262026-report"):
        werk.enqueue("sleep", 0, options=werk.Options(job_id=name))
    assert job_ids.resolve(light, ids[0]) == ids[0]  # a whole id
    done = run("werk", "show", "20262026-")
    message = f"several jobs have an id that begins with 20262026-: {ids[0]}, {ids[1]}"
    assert (done.returncode, done.stderr) == (2, f"werk: {message}\n")


@pytest.mark.parametrize("chosen", ["order-12345", "20260101-report"])
@pytest.mark.parametrize("command", ["show", "cancel", "stop", "retry", "result"])
def test_an_id_that_a_caller_chose_must_be_whole(
    redis_url: str, connection: redis.Redis, chosen: str, command: str
) -> None:
    werk.enqueue("sleep", 0, options=werk.Options(job_id=chosen))
    yes = ["--yes"] if command in ("cancel", "stop", "retry") else []
    done = run("werk", command, chosen[:10], *yes)
    assert (done.returncode, f"no job {chosen[:10]}: " in done.stderr) == (66, True)
    assert places(connection, chosen) == ["queue"]


def test_only_the_newest_of_many_waiting_jobs_have_short_ids(
    light: Link, connection: redis.Redis, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(job_places, "AT_ONCE", 10)
    fill(connection, 30, 1000, "somewhere-")
    first, last = (f"50eaa4a7-{n}000-4000-8000-000000000000" for n in range(2))
    for name, push in ((first, connection.lpush), (last, connection.rpush)):
        push(QUEUE, name)
        connection.hset(f"rq:job:{name}", "status", "queued")
    assert job_ids.resolve(light, "50eaa4a7") == last


# --- the commands


def test_the_list_fits_the_terminal(light: Link, connection: redis.Redis) -> None:
    due = werk.enqueue("sleep", 0, options=werk.Options(delay=3600)).id
    Queue("q" * 60, connection=connection).enqueue("os.getenv", "x" * 200)
    for words in (["jobs"], ["jobs", "--list"]):
        done = run("werk", *words, env={"COLUMNS": "80"})
        assert (done.returncode, done.stderr) == (0, "")
        assert max(map(len, done.stdout.splitlines())) <= 80
    line = next(line for line in done.stdout.splitlines() if due in line)
    assert line.split(maxsplit=5)[:3] == [due, "scheduled", "in"]
    head, *lines = run("werk", "jobs").stdout.splitlines()
    assert head.split() == ["STATE", "TASK", "JOBS", "OLDEST"]
    assert [line.split()[:3] for line in lines] == [
        ["queued", "os.getenv", "1"],
        ["scheduled", "sleep", "1"],
    ]


def test_json_has_whole_ids_and_times_in_utc(redis_url: str) -> None:
    due = werk.enqueue("sleep", 0, options=werk.Options(delay=3600)).id
    found = json.loads(run("werk", "jobs", "--list", "--json").stdout)
    assert (found["id"], found["state"], found["call"]) == (due, "scheduled", "sleep(0.0)")
    assert found["due"].endswith("Z")
    assert keys.moment(found["due"], 0) == pytest.approx(time.time() + 3600, abs=60)
    (group,) = json.loads(run("werk", "jobs", "--json").stdout)
    assert (group["state"], group["task"], group["jobs"]) == ("scheduled", "sleep", 1)


def test_nothing_matches(redis_url: str) -> None:
    werk.enqueue("sleep", 0)
    done = run("werk", "jobs", "--task", "panic")
    assert (done.returncode, done.stdout, done.stderr) == (0, "", "no matching jobs\n")
    for words in (["jobs"], ["cancel", "--yes"], ["discard", "--yes"], ["retry", "--dry-run"]):
        done = run("werk", *words, "--task", "slep")
        assert (done.returncode, done.stderr.splitlines()[-1]) == (
            2,
            "werk: unknown task 'slep'; did you mean 'sleep'?",
        )
        done = run("werk", *words, "--queue", "defualt")
        assert (done.returncode, done.stderr.splitlines()[-1]) == (
            2,
            "werk: unknown queue 'defualt'; did you mean 'default'?",
        )


def test_an_action_asks_with_the_number(connection: redis.Redis) -> None:
    fill(connection, 3000, 2)
    before = connection.lrange(QUEUE, 0, -1)
    done = run("werk", "cancel", "--task", "panic")
    assert (done.returncode, done.stderr) == (
        2,
        "werk: this would cancel 1,500 jobs; confirm with --yes\n",
    )
    done = run("werk", "cancel", "--queue", "default", "--dry-run")
    assert [line.split()[:3] for line in done.stdout.splitlines()[1:]] == [
        ["queued", "panic", "1500"],
        ["queued", "sleep", "1500"],
    ]
    assert (done.returncode, done.stderr) == (0, "would cancel 3,000 jobs\n")
    assert connection.lrange(QUEUE, 0, -1) == before
    done = run("werk", "cancel", "--task", "panic", "--yes")
    assert (done.returncode, done.stdout) == (0, "1500 cancelled\n")
    assert run("werk", "cancel", "--state", "queued", "--yes", "--json").stdout == (
        '{"cancelled": 1500}\n'
    )
    assert connection.llen(QUEUE) == 0


@pytest.mark.parametrize("command", ["cancel", "discard", "retry", "requeue"])
def test_an_action_wants_jobs_or_filters(redis_url: str, command: str) -> None:
    none = run("werk", command, "--yes")
    both = run("werk", command, "an-id-or-another", "--task", "sleep", "--yes")
    for done in (none, both):
        assert (done.returncode, done.stderr.count("\n")) == (2, 1)
        assert "or with options such as --task; see" in done.stderr


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["jobs", "--state", "queued,lost"], "unknown state 'lost'; use some of queued,running,"),
        (["cancel", "--state", "failed", "--yes"], "cannot cancel failed jobs, only queued,"),
        (["jobs", "--arg", "seconds"], "an argument must be like NAME=VALUE, got 'seconds'"),
        (["retry", "--exact", "--yes"], "--exact requires --error"),
        (["cancel", "one-job-id", "--dry-run"], "--dry-run is for jobs that are selected"),
    ],
)
def test_wrong_filters_are_refused(redis_url: str, words: list[str], message: str) -> None:
    done = run("werk", *words)
    assert (done.returncode, done.stderr.count("\n")) == (2, 1)
    assert message in done.stderr


def test_requeue_is_retry(work: Start, redis_url: str, tmp_path: Path) -> None:
    work("default")
    job = werk.enqueue("fail", str(tmp_path))
    ended(job, "failed")
    assert run("werk", "requeue", job.id).stdout == f"{job.id} retried\n"


def test_a_table_that_cannot_be_loaded_hides_arguments_of_plain_rq_jobs(
    connection: redis.Redis,
) -> None:
    """Only a table says which arguments of a function are secret."""
    job = Queue(connection=connection).enqueue("shop.pay", 1, token="hunter2")
    without = {"WERK_REGISTRY": "no_such_table:TASKS"}
    for words in (("jobs", "--list"), ("show", job.id)):
        done = run("werk", *words, env=without)
        assert done.returncode == 0, done.stderr
        assert "shop.pay(...)" in done.stdout
        assert "hunter2" not in done.stdout + done.stderr
