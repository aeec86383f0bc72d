"""Hands: one job wakes one idle horse, and what a horse has in hand runs soon, whatever happens."""

from __future__ import annotations

import os
import resource
import signal
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import suppress
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import redis
import roles
from rq import Queue
from rq.suspension import resume, suspend
from support import is_asleep, wait_until
from workers import Start, finished, horse, own_key, places, runs

import werk
from werk.ops import actions
from werk.store.connection import link_over
from werk.worker.claim import Claim
from werk.worker.counters import Counters
from werk.worker.idle import Idle
from werk.worker.outcome import Outcome, failure, success
from werk.worker.shared_state import SharedState
from werk.worker.startup import DESCRIPTORS
from werk.worker.step import Steps

QUEUE = "rq:queue:default"
REAL = {"RQ_WORKER_CLASS": "werk.worker.Worker"}  # with its own lease, and so its own waits
SOON_S = 8.0  # a tick finds it; without that, the wait ends after 10 s, and the lease after 15 s


def blocked(connection: redis.Redis) -> int:
    """Return how many waits are open."""
    return int(connection.info("clients")["blocked_clients"])


def idle(connection: redis.Redis, waits: int) -> None:
    wait_until(lambda: blocked(connection) == waits)


def in_hand(connection: redis.Redis) -> list[bytes]:
    keys = connection.keys("rq:werk:hand:*")
    return [job_id for key in keys for job_id in connection.lrange(key, 0, -1)]


def have_run(folder: Path, count: int) -> list[list[str]]:
    return wait_until(lambda: (found := runs(folder))[count - 1 :] and found)


# --- one job, one horse


class Horse(threading.Thread):
    """The loop of a horse, without a process and without running anything."""

    def __init__(self, number: int, url: str, version: tuple[int, ...]) -> None:
        super().__init__()
        self.pipe, self.ran, keys = os.pipe(), list[str](), [QUEUE]
        name, generation = f"w{number}", f"{number:016x}"
        client = redis.Redis.from_url(url)
        client.hset(f"rq:worker:{name}", mapping={"birth": "x", "werk_horse": generation})
        worker: Any = SimpleNamespace(name=name, connection=client, lease_s=15.0)
        worker.ordered_queue_keys, worker.server_version = lambda: keys, lambda: version
        self.shared, self.idle = SharedState(), Idle(worker, self.pipe[0])
        self.steps = Steps(worker, self.shared, generation, Counters(keys, self.shared), self.idle)
        self.fails = False

    def run(self) -> None:
        outcome: Outcome | None = None
        while not self.shared.stop:
            _, claimed, *_ = self.steps.step(outcome, wants_job=True)
            outcome = None
            if type(claimed) is list:
                outcome = self.perform(Claim(*claimed, self.steps.execution, self.steps.asked_at))
            elif not self.shared.stop:
                self.idle.wait([QUEUE], None)

    def perform(self, claim: Claim) -> Outcome:
        self.ran.append(claim.id)
        if self.fails:
            return failure(claim, "ValueError: as asked", time.time())
        return success(claim, 500, b"", time.time())

    def end(self) -> None:
        self.shared.stop = 1
        os.write(self.pipe[1], b"!")
        self.join(30)
        for own in (self.steps.channel, *self.idle.waits.values()):
            own.close()
        for end in self.pipe:
            os.close(end)


@pytest.fixture
def horses(connection: redis.Redis, redis_url: str) -> Iterator[list[Horse]]:
    version = tuple(map(int, connection.info("server")["redis_version"].split(".")))
    found = [Horse(number, redis_url, version) for number in range(30)]
    for own in found:
        own.start()
    yield found
    for own in found:
        own.end()


def scripts(connection: redis.Redis) -> int:
    stats = connection.info("commandstats")
    return sum(stats.get(f"cmdstat_{name}", {"calls": 0})["calls"] for name in ("eval", "evalsha"))


@pytest.mark.parametrize("how", ["werk", "rq", "requeue"])
def test_an_enqueue_wakes_one_of_30_idle_horses(
    connection: redis.Redis, horses: list[Horse], how: str
) -> None:
    idle(connection, 30)
    queue = Queue(connection=connection)
    if how == "requeue":
        for own in horses:
            own.fails = True
        job = queue.enqueue("worker_tasks.note")
        wait_until(lambda: job.get_status() == "failed")
        for own in horses:
            own.fails = False
        idle(connection, 30)
        connection.config_resetstat()
        job.requeue()
    else:
        werk.enqueue("hello", "x").result(30)  # a caller's first enqueue has to load the script
        idle(connection, 30)
        connection.config_resetstat()
        job = queue.enqueue("worker_tasks.note") if how == "rq" else werk.enqueue("hello", "x").job
    wait_until(lambda: job.get_status() == "finished")
    idle(connection, 30)
    assert scripts(connection) == 2 + (how == "werk")  # to claim it, and to finish it
    assert in_hand(connection) == []


def test_each_of_many_jobs_runs_once(connection: redis.Redis, horses: list[Horse]) -> None:
    idle(connection, 30)
    for size in (1, 29, 31, 200):
        werk.enqueue_many("hello", [("x",)] * size)
    wait_until(lambda: connection.zcard("rq:finished:default") == 261)
    ran = [job_id for own in horses for job_id in own.ran]
    assert len(ran) == len(set(ran)) == 261


def test_two_queues_are_filled_at_once(
    work: Start, connection: redis.Redis, tmp_path: Path
) -> None:
    work("high", "low")
    for number in range(1, 21):
        idle(connection, 2)
        with connection.pipeline() as at_once:
            for name in ("low", "high"):
                queue = Queue(name, connection=connection)
                queue.enqueue("worker_tasks.note", str(tmp_path), job_id=f"{name}-{number}",
                              pipeline=at_once)  # fmt: skip
            at_once.execute()
        have_run(tmp_path, 2 * number)
    names = [f"{name}-{number}" for number in range(1, 21) for name in ("high", "low")]
    assert [line[0] for line in runs(tmp_path)] == names


# --- a job in a hand


@pytest.fixture
def frozen(work: Start, connection: redis.Redis, tmp_path: Path) -> Iterator[Any]:
    """A worker whose horse is frozen while it waits. In the end it goes on."""
    process = work("default", env=REAL)
    idle(connection, 1)
    pid = horse(process)
    os.kill(pid, signal.SIGSTOP)
    yield SimpleNamespace(process=process, go_on=lambda: os.kill(pid, signal.SIGCONT))
    with suppress(ProcessLookupError):
        os.kill(pid, signal.SIGCONT)


def test_another_worker_gets_the_job_that_a_frozen_horse_has_in_hand(
    work: Start, connection: redis.Redis, frozen: Any, tmp_path: Path
) -> None:
    work("default", env=REAL)
    idle(connection, 2)
    job = werk.enqueue("note", str(tmp_path))
    since = time.monotonic()
    assert in_hand(connection) == [job.id.encode()]  # the wait that began first is served first
    record = finished(job, 12)
    assert time.monotonic() < since + SOON_S
    assert record.worker_name.split(":")[1] != str(frozen.process.pid)
    frozen.go_on()
    idle(connection, 2)
    assert len(runs(tmp_path)) == 1
    assert not connection.hexists(f"rq:job:{job.id}", "werk_crashes")


def test_another_worker_gets_what_a_worker_that_is_silent_has_in_hand(
    work: Start, connection: redis.Redis, frozen: Any, tmp_path: Path
) -> None:
    """Sooner than its lease expires: until then a job that was rescued before would wait again."""
    work("default", env=REAL)
    idle(connection, 2)
    os.kill(frozen.process.pid, signal.SIGSTOP)
    try:
        job = werk.enqueue("note", str(tmp_path))
        since = time.monotonic()
        assert in_hand(connection) == [job.id.encode()]
        finished(job, 12)
        assert time.monotonic() < since + SOON_S
    finally:
        os.kill(frozen.process.pid, signal.SIGCONT)
    frozen.go_on()
    idle(connection, 2)
    assert len(runs(tmp_path)) == 1
    assert not connection.hexists(f"rq:job:{job.id}", "werk_crashes")


@pytest.mark.parametrize("what", ["SIGTERM", "suspend", "pause", "kill -9"])
def test_what_a_horse_has_in_hand_when_it_may_not_run_it_is_the_next_job_again(
    connection: redis.Redis, frozen: Any, tmp_path: Path, what: str
) -> None:
    jobs = [werk.enqueue("note", str(tmp_path)) for _ in range(3)]
    assert in_hand(connection) == [jobs[0].id.encode()]
    link = link_over(connection)
    if what == "SIGTERM":
        frozen.process.terminate()
        wait_until(lambda: "warm shut down requested" in frozen.process.output())
        wait_until(lambda: is_asleep(frozen.process.pid))  # it has asked the horse to stop
    elif what == "kill -9":
        suspend(connection)
        os.kill(horse(frozen.process), signal.SIGKILL)
    elif what == "suspend":
        suspend(connection)
    else:
        assert [*actions.act(link, "pause", ["default"])] == [("default", "yes")]
    if what != "kill -9":
        frozen.go_on()
    ids = [job.id.encode() for job in jobs]
    wait_until(lambda: connection.lrange(QUEUE, 0, -1) == ids, SOON_S)
    if what == "SIGTERM":
        assert frozen.process.wait(60) == 0
        assert connection.lrange(QUEUE, 0, -1) == ids
        return
    resume(connection)
    [*actions.act(link, "resume", ["default"])]
    link.close()
    finished(jobs[-1])
    assert [line[0] for line in runs(tmp_path)] == [job.id for job in jobs]


def test_what_a_dead_worker_had_in_hand_is_rescued(
    work: Start, connection: redis.Redis, tmp_path: Path
) -> None:
    """Its host is cut off, and Redis does not know that yet: here the test is its last wait."""
    dead = work()
    idle(connection, 1)
    name = own_key(connection).removeprefix("rq:worker:")
    dead.kill()
    dead.wait(60)
    jobs = [werk.enqueue("note", str(tmp_path)) for _ in range(2)]
    idle(connection, 0)
    connection.lmove(QUEUE, f"rq:werk:hand:{name}:default", "LEFT", "LEFT")
    work()
    for job in jobs:
        finished(job, 30)
        assert places(connection, job.id) == ["finished"]
    assert in_hand(connection) == []


# --- many queues


@pytest.fixture
def limit() -> Iterator[Callable[[int], None]]:
    """Let this process, and those that it starts, have so many descriptors."""
    before = resource.getrlimit(resource.RLIMIT_NOFILE)
    yield lambda count: resource.setrlimit(resource.RLIMIT_NOFILE, (count, before[1]))
    resource.setrlimit(resource.RLIMIT_NOFILE, before)


def rounds(connection: redis.Redis, worker: Any, folder: Path) -> list[float]:
    """Have a worker of 1,200 queues run a few jobs; return the seconds that each took."""
    idle(connection, 1200)
    pid, took = horse(worker), []
    for number in (0, 1199, 600, 0, 1023):
        idle(connection, 1200)
        since = time.monotonic()
        finished(werk.enqueue("note", str(folder), options=werk.Options(queue=f"q{number}")))
        took.append(time.monotonic() - since)
    assert horse(worker) == pid
    return took


@pytest.fixture
def broad(work: Start, limit: Callable[[int], None]) -> Any:
    limit(1200 + DESCRIPTORS)
    return work(*[f"q{number}" for number in range(1200)], "--quiet", env=REAL)


def test_a_worker_of_1200_queues(connection: redis.Redis, broad: Any, tmp_path: Path) -> None:
    rounds(connection, broad, tmp_path)
    broad.terminate()
    assert broad.wait(30) == 0


@pytest.mark.performance
def test_a_worker_of_1200_queues_is_fast(
    connection: redis.Redis, broad: Any, tmp_path: Path
) -> None:
    assert max(rounds(connection, broad, tmp_path)) <= 0.5


def test_more_queues_than_descriptors_are_refused(
    work: Start, connection: redis.Redis, limit: Callable[[int], None]
) -> None:
    limit(256)
    worker = work(*[f"q{number}" for number in range(200)])
    assert worker.wait(30) == 78
    needed = 200 + DESCRIPTORS
    [line] = worker.output().splitlines()
    assert f"200 queues need {needed} file descriptors" in line
    assert "a process may have 256 here" in line
    assert f"ulimit -n {needed}" in line
    assert connection.smembers("rq:workers") == set()


# --- a Redis user without CLIENT UNBLOCK


@pytest.fixture
def restricted(connection: redis.Redis) -> Iterator[None]:
    """Workers may not end a wait: the users are those of an older version."""
    if not connection.acl_getuser("werk-worker"):
        pytest.skip("this server has no users")
    connection.execute_command("ACL", "SETUSER", "werk-worker", "-client|unblock", "-client|id")
    yield
    connection.execute_command("ACL", "SETUSER", "werk-worker", *roles.line("worker").split()[2:])
    connection.acl_log_reset()


@pytest.mark.parametrize("queues", [("high",), ("high", "low")])
@pytest.mark.usefixtures("restricted")
def test_a_worker_that_may_not_end_its_waits(
    work: Start, connection: redis.Redis, tmp_path: Path, queues: tuple[str, ...]
) -> None:
    worker = work(*queues)
    for number in range(1, 11):
        idle(connection, len(queues))
        for name in queues:
            werk.enqueue("note", str(tmp_path), options=werk.Options(queue=name))
        have_run(tmp_path, number * len(queues))
    assert in_hand(connection) == []
    worker.terminate()
    assert worker.wait(60) == 0
