"""The horse and Redis when they do not reach each other: nothing is lost, nothing runs twice."""

from __future__ import annotations

import os
import select
import signal
import socket
import time
from collections.abc import Iterator
from datetime import datetime, timezone
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import pytest
import redis
from faults import holding, listening, losing_a_reply, silencing
from rq import Callback, Queue, Retry
from rq.job import JobStatus
from rq.suspension import resume, suspend
from rq.utils import utcformat
from support import wait_until
from workers import (
    Start,
    begun,
    crash_count,
    ended,
    finished,
    go,
    horse,
    outcomes,
    own_key,
    places,
    reason,
    runs,
)

import werk
from werk.dev.server import Server
from werk.store.keys import iso
from werk.worker import redis_side
from werk.worker.scripts import script
from werk.worker.tick import DEATH


def test_iso_is_rqs_own_text() -> None:
    for moment in (1700000000.0, 1700000000.999999, 1732434567.123456):
        assert iso(moment) == utcformat(datetime.fromtimestamp(moment, timezone.utc))


def after(seconds: float) -> None:
    since = time.monotonic()
    wait_until(lambda: time.monotonic() > since + seconds)


# --- Redis goes and comes back


@pytest.mark.parametrize("ends_meanwhile", [False, True])
def test_a_restart_of_redis_in_a_job_or_in_its_finish(
    work: Start, server: Server, connection: redis.Redis, tmp_path: Path, ends_meanwhile: bool
) -> None:
    job = werk.enqueue("block", str(tmp_path))
    workers = [work(), work()]
    begun(tmp_path)
    server.kill()
    if ends_meanwhile:
        go(tmp_path)
        wait_until(lambda: runs(tmp_path, "ends"))
    after(1.5)  # longer than a lease
    server.start()
    go(tmp_path)
    finished(job)
    assert len(runs(tmp_path, "begins")) == 1
    assert crash_count(connection, job) == 0
    finished(werk.enqueue("note", str(tmp_path)))
    assert [worker.poll() for worker in workers] == [None, None]


@pytest.mark.parametrize("seconds", [0.5, 2.5])
def test_a_pause_of_redis_shorter_and_longer_than_the_lease(
    work: Start, server: Server, connection: redis.Redis, tmp_path: Path, seconds: float
) -> None:
    job = werk.enqueue("block", str(tmp_path))
    workers = [work(), work()]
    begun(tmp_path)
    os.kill(server.pid, signal.SIGSTOP)
    try:
        go(tmp_path)
        after(seconds)
    finally:
        os.kill(server.pid, signal.SIGCONT)
    finished(job)
    assert len(runs(tmp_path, "begins")) == 1
    assert [worker.poll() for worker in workers] == [None, None]
    for worker in workers:
        worker.terminate()
        assert worker.wait(60) == 0


def test_an_idle_worker_leaves_though_redis_is_away(
    work: Start, server: Server, tmp_path: Path
) -> None:
    worker = work()
    server.kill()
    wait_until(lambda: "event=redis-unreachable" in worker.output())
    worker.terminate()
    assert worker.wait(60) == 0


def test_what_goes_rqs_way_waits_for_redis_too(
    work: Start, server: Server, connection: redis.Redis, tmp_path: Path
) -> None:
    first = werk.enqueue("block", str(tmp_path))
    second = Queue(connection=connection).enqueue(
        "worker_tasks.note", str(tmp_path), depends_on=first.id
    )
    work()
    begun(tmp_path)
    server.kill()
    go(tmp_path)
    wait_until(lambda: runs(tmp_path, "ends"))
    after(0.5)
    server.start()
    finished(first)
    wait_until(lambda: second.get_status() == "finished")
    assert len(runs(tmp_path, "begins")) == 1


def test_memory_full(work: Start, connection: redis.Redis, tmp_path: Path) -> None:
    work()
    suspend(connection)
    jobs = [werk.enqueue("note", str(tmp_path)) for _ in range(20)]
    failing = werk.enqueue("fail", str(tmp_path))
    later = werk.enqueue("note", str(tmp_path))
    connection.config_set("maxmemory", 1)
    try:
        resume(connection)
        for job in jobs:
            finished(job)
        wait_until(lambda: len(runs(tmp_path)) == 21)
    finally:
        connection.config_set("maxmemory", 0)
    ended(failing, "failed")
    finished(later)
    assert len(runs(tmp_path)) == 22


def test_memory_that_is_full_when_a_horse_begins(
    work: Start, connection: redis.Redis, tmp_path: Path
) -> None:
    worker = work()
    suspend(connection)
    job = werk.enqueue("note", str(tmp_path))
    connection.config_set("maxmemory", 1)
    try:
        os.kill(horse(worker), signal.SIGKILL)
        resume(connection)
        finished(job)
    finally:
        connection.config_set("maxmemory", 0)


# --- a connection is cut


def test_an_outcome_that_redis_loses_after_its_reply_is_recorded_again(
    work: Start, connection: redis.Redis, tmp_path: Path
) -> None:
    """A master that is replaced loses what it acknowledged and had not replicated."""
    queue = Queue(connection=connection)
    failing = queue.enqueue("worker_tasks.fail", str(tmp_path), retry=Retry(max=1))
    parent = queue.enqueue("worker_tasks.note", str(tmp_path))
    child = queue.enqueue("worker_tasks.note", str(tmp_path), depends_on=parent)
    worker = work(env={"RQ_WORKER_CLASS": "fast_worker.Undoing"})
    wait_until(lambda: child.get_status() == JobStatus.FINISHED and failing.is_failed)
    assert len(runs(tmp_path)) == 4  # with the retry
    assert [own.type.name for own in failing.results()] == ["FAILED", "RETRIED"]
    assert "ValueError: as asked" in failing.latest_result().exc_string
    assert "event=lost" not in worker.output()
    assert places(connection, failing.id) == ["failed"]


class Cutter:
    """A proxy that hangs up after byte n of every second exchange of step.lua.

    First of its request, then, when that was cut at each byte, of its reply.
    """

    def __init__(self, url: str, sha: str) -> None:
        parts = urlsplit(url)
        self.place = (str(parts.hostname), int(parts.port or 6379))
        self.sha = sha.encode()
        self.side, self.byte, self.cuts, self.is_armed = "request", 0, 0, False
        self.is_on = True
        self.url = ""

    def handle(self, client: socket.socket) -> None:
        with socket.create_connection(self.place) as server:
            while True:
                for sock in select.select([client, server], [], [])[0]:
                    data = sock.recv(65536)
                    if not data:
                        return
                    if sock is server:
                        client.sendall(data)
                        continue
                    is_whole = self.sha in data and b"finished" in data  # finish and claim
                    side = self.next_cut() if is_whole and self.is_on else ""
                    if side == "request":
                        server.sendall(data[: self.take(data)])
                        return
                    server.sendall(data)
                    if side == "reply":
                        reply = server.recv(65536)
                        if b"note" not in reply:  # no claim
                            client.sendall(reply)
                            continue
                        client.sendall(reply[: self.take(reply)])
                        return

    def next_cut(self) -> str:
        self.is_armed = not self.is_armed
        return self.side if self.is_armed else ""

    def take(self, data: bytes) -> int:
        """Return how many bytes pass, and go on to the next number, or to the other side."""
        cut = min(self.byte, len(data) - 1)
        self.byte, self.cuts = self.byte + 1, self.cuts + 1
        if self.byte >= len(data):
            self.byte = 0
            self.side = "reply" if self.side == "request" else ""
        return cut


@pytest.fixture
def cutter(connection: redis.Redis, redis_url: str) -> Iterator[Cutter]:
    version = tuple(map(int, connection.info("server")["redis_version"].split(".")))
    cutter = Cutter(redis_url, script("step", version).sha)
    with listening(cutter.handle) as port:
        cutter.url = f"redis://127.0.0.1:{port}/0"
        yield cutter
        connection.client_kill_filter(_type="normal", skipme=True)


def test_a_connection_cut_at_every_byte_of_an_exchange(
    work: Start, connection: redis.Redis, cutter: Cutter, tmp_path: Path
) -> None:
    worker = work("default", "low", "--quiet", env={"RQ_REDIS_URL": cutter.url})
    jobs: list[werk.Handle] = []
    while cutter.side:
        jobs += werk.enqueue_many("note", [(str(tmp_path),)] * 100)
        wait_until(lambda: not connection.llen("rq:queue:default"))
    cutter.is_on = False
    wait_until(lambda: connection.zcard("rq:finished:default") == len(jobs))
    assert cutter.cuts > 500
    ran = [line[0] for line in runs(tmp_path)]
    assert sorted(ran) == sorted(job.id for job in jobs)  # each once
    for job in jobs:
        attempt, crashes = connection.hmget(f"rq:job:{job.id}", "werk_attempt", "werk_crashes")
        assert (attempt, crashes) == (b"1", None)
    assert worker.poll() is None
    key = connection.srandmember("rq:workers")
    wait_until(lambda: connection.hget(key, "state") == b"idle")
    wait_until(lambda: int(connection.hget(key, "successful_job_count")) == len(jobs))


def test_a_horse_that_waits_for_the_reply_to_its_finish_is_left_alone(
    work: Start, connection: redis.Redis, redis_url: str, tmp_path: Path
) -> None:
    """The execution that it shows owns no job any more: Redis has recorded the outcome."""
    with holding(redis_url, b"finished") as holder:
        holder.share = 1.0
        worker = work("default", env={"RQ_REDIS_URL": holder.url})
        job = werk.enqueue("block", str(tmp_path))
        begun(tmp_path)
        holder.is_on = True
        go(tmp_path)
        finished(job)
        key = connection.srandmember("rq:workers")
        for _ in range(3):  # ticks
            beat = connection.hget(key, "last_heartbeat")
            wait_until(lambda beat=beat: connection.hget(key, "last_heartbeat") != beat)
        holder.let_go.set()
        finished(werk.enqueue("note", str(tmp_path)))
        assert "event=kill" not in worker.output()


# --- frozen in the middle of a request


def test_a_horse_that_was_frozen_in_the_middle_of_its_finish_is_late(
    work: Start, connection: redis.Redis, redis_url: str, tmp_path: Path
) -> None:
    """Half of its request is at Redis when its job is rescued, and run to its end elsewhere."""
    with holding(redis_url, b"finished") as holder:
        frozen = work("default", env={"RQ_REDIS_URL": holder.url})
        job = werk.enqueue("block", str(tmp_path))
        pid = int(begun(tmp_path)[0][1])
        os.kill(frozen.pid, signal.SIGSTOP)
        holder.is_on = True
        go(tmp_path)
        assert holder.held.wait(20)
        os.kill(pid, signal.SIGSTOP)
        other = work()
        record = finished(job, 20)
        os.kill(pid, signal.SIGCONT)
        holder.let_go.set()
        wait_until(lambda: "event=late" in frozen.output(), 20)
        os.kill(frozen.pid, signal.SIGCONT)
        assert record.worker_name.split(":")[1] == str(other.pid)
        assert outcomes(job.job) == ["SUCCESSFUL"]
        assert places(connection, job.id) == ["finished"]
        assert len(runs(tmp_path, "begins")) == 2
        other.terminate()
        assert other.wait(60) == 0
        finished(werk.enqueue("note", str(tmp_path)), 20)  # the frozen one works on
        frozen.kill()


def test_a_rescued_job_fails_although_the_reply_that_says_so_is_lost(
    work: Start, connection: redis.Redis, redis_url: str, tmp_path: Path
) -> None:
    dead = work()
    job = werk.enqueue("block", str(tmp_path))
    connection.hset(f"rq:job:{job.id}", "werk_max_crashes", 0)
    begun(tmp_path)
    dead.kill()
    dead.wait(60)
    connection.zadd("rq:werk:leases", {own_key(connection).removeprefix("rq:worker:"): 1})
    with losing_a_reply(redis_url, DEATH.encode()) as url:  # to its first tick
        other = work(env={"RQ_REDIS_URL": url})
        record = ended(job, "failed", 20)
        finished(werk.enqueue("note", str(tmp_path)), 20)
        assert "Its worker or host died" in reason(record)
        assert len(runs(tmp_path, "begins")) == 1
        other.terminate()
        assert other.wait(60) == 0


def test_a_job_runs_again_if_redis_forgets_how_an_earlier_horse_ended_it(
    work: Start, connection: redis.Redis, tmp_path: Path
) -> None:
    """As in a crash or a failover, after which the next horse is idle."""
    worker = work(env={"WERK_HORSE_JOBS": "1"})
    job = werk.enqueue("block", str(tmp_path))
    begun(tmp_path)
    first = horse(worker)
    run = connection.zrange("rq:wip:default", 0, 0)[0].decode()
    keys = [f"rq:job:{job.id}", "rq:wip:default", f"rq:executions:{job.id}", f"rq:execution:{run}",
            f"{own_key(connection)}:executions"]  # fmt: skip
    before = {key: connection.dump(key) for key in keys}
    go(tmp_path)
    finished(job)
    wait_until(lambda: horse(worker) not in (0, first))
    with connection.pipeline() as pipeline:
        pipeline.zrem("rq:finished:default", job.id).delete(f"rq:results:{job.id}")
        for key, value in before.items():
            pipeline.restore(key, 0, value, replace=True)
        pipeline.execute()
    finished(job, 20)
    assert len(runs(tmp_path, "begins")) == 2
    assert f"event=rescued job={job.id} " in worker.output()


def test_a_horse_that_was_frozen_after_its_claim_leaves_the_job_to_who_has_taken_it(
    work: Start, connection: redis.Redis, redis_url: str, tmp_path: Path
) -> None:
    """The reply to its claim is on the way until the job has been run to its end elsewhere."""
    with holding(redis_url, b"finished") as holder:
        holder.share = 1.0
        frozen = work("default", env={"RQ_REDIS_URL": holder.url})
        first = werk.enqueue("block", str(tmp_path))
        begun(tmp_path)
        second = werk.enqueue("note", str(tmp_path))
        os.kill(frozen.pid, signal.SIGSTOP)
        holder.is_on = True
        go(tmp_path)
        finished(first, 20)
        other = work()
        record = finished(second, 20)
        holder.let_go.set()
        wait_until(lambda: f"event=late job={second.id} " in frozen.output(), 20)
        os.kill(frozen.pid, signal.SIGCONT)
        assert record.worker_name.split(":")[1] == str(other.pid)
        assert [run[0] for run in runs(tmp_path, "ran")] == [second.id]
        other.terminate()
        assert other.wait(60) == 0
        finished(werk.enqueue("note", str(tmp_path)), 20)  # the frozen one works on


@pytest.mark.parametrize("task", ["note", "unknown"])
def test_no_command_of_a_horse_waits_on_a_silent_connection(
    work: Start, connection: redis.Redis, redis_url: str, tmp_path: Path, task: str
) -> None:
    """All connections that it has opened fall silent while it is idle; new ones work."""
    with silencing(redis_url) as silencer:
        worker = work(env={"RQ_REDIS_URL": silencer.url})
        ended(werk.enqueue("fail", str(tmp_path)), "failed")  # by RQ's code, on its own connection
        wait_until(lambda: connection.hget(own_key(connection), "state") == b"idle")
        silencer.silence()
        job = werk.enqueue("note", str(tmp_path))
        if task == "unknown":
            connection.hset(f"rq:job:{job.id}", "werk_task", "unknown")
        ended(job, "finished" if task == "note" else "scheduled", 40)
        worker.terminate()
        assert worker.wait(60) == 0


@pytest.mark.parametrize(
    ("how", "options", "ends"),
    [
        ("raise", {}, ["FAILED"]),
        ("raise", {"retry": Retry(max=1)}, ["FAILED"]),
        ("return", {"on_success": Callback("worker_tasks.saw")}, ["SUCCESSFUL"]),
        ("ask for another run", {}, ["SUCCESSFUL"]),
    ],
    ids=["failure", "retry", "callback", "returned retry"],
)
def test_a_commit_of_rqs_own_finish_is_late_once_the_job_is_rescued(
    work: Start,
    connection: redis.Redis,
    redis_url: str,
    tmp_path: Path,
    how: str,
    options: dict[str, Any],
    ends: list[str],
) -> None:
    """Half of the transaction is at Redis when its job is rescued, and run to its end elsewhere."""
    queue = Queue(connection=connection)
    with holding(redis_url, b"rq:werk:committed") as holder:
        call = {"folder": str(tmp_path), "how": how}
        job = queue.enqueue("worker_tasks.block_and", kwargs=call, **options)
        connection.hset(job.key, "werk_max_crashes", 1)
        frozen = work("default", env={"RQ_REDIS_URL": holder.url})
        begun(tmp_path)
        os.kill(frozen.pid, signal.SIGSTOP)
        holder.is_on = True
        go(tmp_path)
        assert holder.held.wait(20)
        other = work()
        is_success = ends == ["SUCCESSFUL"]
        wait_until(lambda: job.get_status() == ("finished" if is_success else "failed"), 20)
        before = job.results(), connection.hgetall(job.key)
        holder.let_go.set()
        wait_until(lambda: "event=late" in frozen.output(), 20)
        assert (job.results(), connection.hgetall(job.key)) == before
        assert outcomes(job) == ends
        assert places(connection, job.id) == ["finished" if is_success else "failed"]
        os.kill(frozen.pid, signal.SIGCONT)
        other.terminate()
        assert other.wait(60) == 0
        finished(werk.enqueue("note", str(tmp_path)), 20)  # the frozen one works on
        assert "Traceback" not in frozen.output().partition("as asked")[2]
        frozen.kill()


@pytest.mark.parametrize(
    ("said", "passes"),
    [
        ("NOREPLICAS Not enough good replicas to write.", True),
        ("MISCONF Redis is configured to save RDB snapshots", True),
        ("Command # 1 (HSET k v MISCONF) of pipeline caused error: NOREPLICAS Not enough", True),
        ("Transaction discarded because of: OOM command not allowed when used memory", True),
        ("Transaction discarded because of previous errors.", False),
        ("WRONGTYPE Operation against a key holding the wrong kind of value", False),
        ("Command # 1 (HSET k OOM) of pipeline caused error: WRONGTYPE Operation", False),
    ],
)
def test_what_passes_of_the_errors_in_rqs_own_commands(said: str, passes: bool) -> None:
    def command() -> None:
        raise redis.ResponseError(said)

    with pytest.raises(redis.ConnectionError if passes else redis.ResponseError):
        redis_side._tried(command)


def test_a_transaction_that_redis_has_no_memory_for_is_not_repeated_at_once(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    def command() -> None:
        raise redis.exceptions.OutOfMemoryError("command not allowed when used memory is high")

    pauses: list[float] = []
    monkeypatch.setattr(redis_side.time, "sleep", pauses.append)
    with pytest.raises(redis.ConnectionError):
        redis_side._tried(command)
    assert pauses == [redis_side.SHORT_PAUSE_S]
