"""Sentinel: the master is killed, frozen, or replaced by hand, while callers and a worker go on."""

from __future__ import annotations

import os
import signal
import sys
import threading
import time
from collections.abc import Callable, Iterator
from itertools import cycle
from pathlib import Path

import pytest
import redis
from redis.sentinel import SentinelConnectionPool
from servers import Node
from support import KIT, Process, run, wait_until

import werk
from werk.errors import RedisUnavailable
from werk.ops import checks
from werk.ops.snapshot import Snapshot
from werk.settings import Settings
from werk.store.connection import link
from werk.worker.redis_side import retry_forever

DOWN_AFTER_MS = 2000
RUNS_AGAIN_S = 20.0  # after the promotion
LOST_S = 1.0  # before the fault: what may be lost of the enqueues acknowledged then
BUDGET_S = 2.0  # of a caller in Python (settings.LIBRARY_BUDGET_S)
COMMAND_BUDGET_S = 10.0
DELAY_S = 12.0
START_S = 60.0  # for what takes a moment on a quiet machine
SLACK_S = 8.0  # of a busy machine; without a budget, a call waits until Redis is back
CONFIG = f"""\
sentinel monitor mymaster 127.0.0.1 {{port}} 1
sentinel down-after-milliseconds mymaster {DOWN_AFTER_MS}
sentinel failover-timeout mymaster 20000
"""

Start = Callable[..., Process]


class Group:
    """A master, its replica and a sentinel that watches both."""

    def __init__(self, spawn: Start, folder: Path, *options: object) -> None:
        common = ("--appendonly", "yes", "--repl-diskless-sync-delay", "0", *options)
        self.master = Node(spawn, folder / "master", *common)
        self.replica = Node(
            spawn, folder / "replica", *common, "--replicaof", f"127.0.0.1 {self.master.port}"
        )
        text = CONFIG.format(port=self.master.port)
        self.sentinel = Node(spawn, folder / "sentinel", "--sentinel", config=text)
        wait_until(
            lambda: self.replica.client.info("replication")["master_link_status"] == "up", START_S
        )
        # Sentinel asks the master for its replicas every ten seconds.
        wait_until(lambda: self.sentinel.client.sentinel_slaves("mymaster"), START_S)
        wait_until(lambda: self.master.client.info("replication")["connected_slaves"] == 1, START_S)

    def master_port(self) -> int:
        return int(self.sentinel.client.sentinel_get_master_addr_by_name("mymaster")[1])

    def wait_for_promotion(self) -> float:
        """Return when the replica was first seen to be the master: for itself and for sentinel."""
        wait_until(lambda: self.replica.client.info("replication")["role"] == "master", START_S)
        promoted = time.monotonic()
        wait_until(lambda: self.master_port() == self.replica.port, START_S)
        return promoted


class Caller(threading.Thread):
    """Enqueues without end, and keeps which ids were acknowledged and when.

    Every other job is delayed: what still waits in a master that is replaced can be lost.
    """

    def __init__(self, folder: Path) -> None:
        super().__init__()
        self.folder = folder
        self.acknowledged: dict[str, float] = {}
        self.refused = 0
        self.slowest_s = 0.0
        self.stopped = threading.Event()
        self.error: BaseException | None = None

    def run(self) -> None:
        try:
            for options in cycle((werk.Options(), werk.Options(delay=DELAY_S))):
                if self.stopped.wait(0.02):  # a pace, not a wait
                    return
                began = time.monotonic()
                try:
                    job = werk.enqueue("note", str(self.folder), options=options)
                    self.acknowledged[job.id] = time.monotonic()
                except RedisUnavailable:
                    self.refused += 1
                self.slowest_s = max(self.slowest_s, time.monotonic() - began)
        except BaseException as error:
            self.error = error


class Scene:
    """A group, a worker and a caller."""

    def __init__(self, group: Group, worker: Process, caller: Caller, folder: Path) -> None:
        self.group, self.worker, self.caller, self.folder = group, worker, caller, folder

    def runs(self) -> dict[str, float]:
        """Return when each job was run first."""
        file, found = self.folder / "runs", dict[str, float]()
        for line in file.read_text().splitlines() if file.exists() else ():
            job_id, _, moment, _ = line.split()
            found.setdefault(job_id, float(moment))
        return found

    def seconds_until_jobs_run(self, promoted: float) -> float:
        """Return how long after the promotion the first job enqueued since then was run."""

        def found() -> list[float]:
            acknowledged = dict(self.caller.acknowledged)
            runs = self.runs().items()
            return [at for own, at in runs if acknowledged.get(own, 0) > promoted]

        return min(wait_until(found, 3 * RUNS_AGAIN_S, pause_s=0.2)) - promoted

    def end(self) -> set[str]:
        """Stop the caller, wait until no job is left, and return the ids of those never run."""
        self.caller.stopped.set()
        self.caller.join(COMMAND_BUDGET_S)
        assert self.caller.error is None
        light = link(Settings.read(), COMMAND_BUDGET_S)

        def is_done() -> bool:
            queue = Snapshot.read(light).queues["default"]
            return queue.waiting == queue.running == queue.scheduled == 0

        wait_until(is_done, DELAY_S + 60, pause_s=0.2)
        light.close()
        assert self.worker.poll() is None
        return self.caller.acknowledged.keys() - self.runs().keys()


@pytest.fixture
def group(spawn: Start, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Group:
    """Start the three servers; RQ_CONFIG names them."""
    group = Group(spawn, tmp_path)
    place = f'"INSTANCES": [("127.0.0.1", {group.sentinel.port})], "MASTER_NAME": "mymaster"'
    (tmp_path / "at_sentinel.py").write_text(f"SENTINEL = {{{place}}}\n")
    monkeypatch.delitem(sys.modules, "at_sentinel", raising=False)  # of another test
    monkeypatch.syspath_prepend(KIT)
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.setenv("PYTHONPATH", f"{KIT}{os.pathsep}{tmp_path}")
    monkeypatch.setenv("WERK_REGISTRY", "worker_tasks:TASKS")
    monkeypatch.setenv("RQ_CONFIG", "at_sentinel")
    return group


@pytest.fixture
def scene(group: Group, spawn: Start, tmp_path: Path) -> Iterator[Scene]:
    """Wait until jobs of a caller run."""
    caller = Caller(tmp_path)
    found = Scene(group, spawn("werk", "worker", "default"), caller, tmp_path)
    caller.start()
    try:
        wait_until(lambda: len(found.runs()) > 20, START_S)
        yield found
    finally:
        caller.stopped.set()
        caller.join(COMMAND_BUDGET_S)


def too_old(lost: set[str], scene: Scene, fault: float) -> dict[str, float]:
    """Return what may not be lost: how many seconds before the fault it was acknowledged."""
    ages = {own: fault - scene.caller.acknowledged[own] for own in lost}
    return {own: age for own, age in ages.items() if age > LOST_S or age < 0}


def test_the_master_is_killed(scene: Scene) -> None:
    fault = time.monotonic()
    scene.group.master.process.kill()
    promoted = scene.group.wait_for_promotion()
    assert scene.seconds_until_jobs_run(promoted) <= RUNS_AGAIN_S
    assert too_old(scene.end(), scene, fault) == {}
    assert scene.caller.slowest_s < BUDGET_S + SLACK_S


def test_the_master_is_frozen(scene: Scene) -> None:
    fault = time.monotonic()
    scene.group.master.process.send_signal(signal.SIGSTOP)
    command = run("werk-enqueue", "note", scene.folder)  # it waits for a promotion, or gives up
    assert command.returncode in (0, 75), command.stderr
    assert time.monotonic() - fault < COMMAND_BUDGET_S + SLACK_S
    promoted = scene.group.wait_for_promotion()
    assert scene.seconds_until_jobs_run(promoted) <= RUNS_AGAIN_S
    assert too_old(scene.end(), scene, fault) == {}
    assert scene.caller.slowest_s < BUDGET_S + SLACK_S


def test_a_failover_by_hand_with_the_two_settings(scene: Scene) -> None:
    """Without them, what the old master acknowledges after the promotion is lost."""
    for node in (scene.group.master, scene.group.replica):
        node.client.config_set("min-replicas-to-write", 1)
        node.client.config_set("min-replicas-max-lag", 2)
    scene.group.sentinel.client.execute_command("SENTINEL", "FAILOVER", "mymaster")
    promoted = scene.group.wait_for_promotion()
    assert scene.seconds_until_jobs_run(promoted) <= RUNS_AGAIN_S
    # On a busy machine, the replica may not have received the last ones.
    assert too_old(scene.end(), scene, promoted) == {}
    assert scene.caller.slowest_s < BUDGET_S + SLACK_S


def test_status_warns_of_a_replica_that_nobody_waits_for(group: Group) -> None:
    warning = "Redis has a replica and no min-replicas-to-write"
    light = link(Settings.read(), COMMAND_BUDGET_S)
    [problem] = [
        own for own in checks.problems(Snapshot.read(light)) if own.what.startswith(warning)
    ]
    assert "run redis-cli CONFIG SET min-replicas-to-write 1 && redis-cli CONFIG" in problem.fix
    assert "redis-cli CONFIG SET min-replicas-max-lag 2, and" in problem.fix
    assert run("werk", "status", "--check").returncode == 1
    group.master.client.config_set("min-replicas-to-write", 1)
    assert checks.problems(Snapshot.read(light)) == []
    # A managed server may refuse CONFIG.
    group.master.client.config_set("min-replicas-to-write", 0)
    group.master.client.execute_command("ACL", "SETUSER", "default", "-config")
    assert checks.problems(Snapshot.read(light)) == []
    light.close()


class Directory:
    """Stands for the sentinels: it names the master."""

    def __init__(self, master: Node) -> None:
        self.master = master

    def discover_master(self, name: str) -> tuple[str, int]:
        return "127.0.0.1", self.master.port


def test_a_command_that_is_sent_again_asks_sentinel_first(spawn: Start, tmp_path: Path) -> None:
    """redis-py alone would connect to the former master again, which takes no writes any more."""
    former, other = Node(spawn, tmp_path / "former"), Node(spawn, tmp_path / "other")
    directory = Directory(former)
    client = redis.Redis(connection_pool=SentinelConnectionPool("mymaster", directory))
    client.set_retry(retry_forever(client))
    with client.pipeline() as watching:
        watching.watch("key")
        client.set("before", 1)
        former.client.replicaof("127.0.0.1", other.port)
        directory.master = other
        writer = threading.Thread(target=client.set, args=("after", 1), daemon=True)
        writer.start()
        writer.join(START_S)
        assert other.client.get("after") == b"1"
        assert watching.get("key") is None
    for each in (client, former.client, other.client):
        each.connection_pool.disconnect()
