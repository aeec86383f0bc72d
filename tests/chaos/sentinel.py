"""Server, replica and sentinels: `bin/chaos --sentinel`, and the faults of that mode.

Replication is asynchronous: what was acknowledged in the last second before the master was killed
or frozen may be lost, and nothing else. A master without its replica takes no writes
(min-replicas-to-write), so that one that was frozen acknowledges nothing when it is back.
"""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import TYPE_CHECKING

import redis
from support import wait_until

from chaos.fleet import Fleet
from chaos.member import Member
from werk.dev.binary import find_binary
from werk.dev.process import die_with
from werk.dev.server import free_port
from werk.settings import Settings

if TYPE_CHECKING:
    from chaos.monkey import Monkey

NAME = "werk"
SENTINELS, QUORUM = 3, 2
START_S = 30.0
REST_S = 25.0  # from a promotion to the next fault of the master
SERVER = """port {port}
bind 127.0.0.1
dir {folder}
appendonly yes
save ""
repl-diskless-sync-delay 0
min-replicas-to-write 1
min-replicas-max-lag 2
"""
SENTINEL = """port {port}
bind 127.0.0.1
dir {folder}
sentinel monitor werk 127.0.0.1 {master} {quorum}
sentinel down-after-milliseconds werk 2000
sentinel failover-timeout werk 10000
"""
CONFIG = """SENTINEL = {{
    "INSTANCES": {instances},
    "MASTER_NAME": "werk",
    "SOCKET_TIMEOUT": 5,
}}
"""


class Node:
    """One server or sentinel, with its own folder and configuration."""

    def __init__(self, folder: Path, config: str, **facts: object) -> None:
        self.port = free_port()
        folder.mkdir()
        self.is_sentinel = "monitor" in config
        self.file, self.log = folder / "config", folder / "log"
        self.file.write_text(config.format(port=self.port, folder=folder, **facts))
        self.process: subprocess.Popen[bytes] | None = None

    def start(self, replica_of: int = 0) -> None:
        """Start it, and wait until it answers."""
        parent = os.getpid()
        options = ["--sentinel"] if self.is_sentinel else []
        if replica_of:
            options = ["--replicaof", f"127.0.0.1 {replica_of}"]
        with self.log.open("ab") as log:
            self.process = subprocess.Popen(
                [find_binary(Settings.read()).path, str(self.file), *options],
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                start_new_session=True,
                preexec_fn=lambda: die_with(parent),
            )
        wait_until(self.answers, START_S, problem=f"no server answers; see {self.log}")

    def answers(self) -> bool:
        try:
            with self.client() as client:
                return client.ping()
        except redis.RedisError:
            return False

    def client(self) -> redis.Redis:
        return redis.Redis(port=self.port, socket_timeout=10, retry=None)

    def signal(self, number: signal.Signals) -> None:
        assert self.process is not None
        self.process.send_signal(number)
        if number == signal.SIGKILL:
            self.process.wait()


class Cluster:
    """A master, its replica and the sentinels. `port` is the master's, as the sentinels have it."""

    def __init__(self, folder: Path) -> None:
        folder.mkdir()
        self.servers = [Node(folder / f"server{number}", SERVER) for number in range(2)]
        facts = {"master": self.servers[0].port, "quorum": QUORUM}
        self.sentinels = [
            Node(folder / f"sentinel{number}", SENTINEL, **facts) for number in range(SENTINELS)
        ]
        self.config = folder / "chaos_redis.py"
        places = [("127.0.0.1", node.port) for node in self.sentinels]
        self.config.write_text(CONFIG.format(instances=places))
        self.port = self.servers[0].port

    def start(self) -> None:
        """Start all, and wait until each knows the others."""
        master, replica = self.servers
        master.start()
        replica.start(master.port)
        for node in self.sentinels:
            node.start()
        wait_until(self._is_complete, START_S, problem="the sentinels do not find each other")

    def kill(self) -> None:
        for node in (*self.sentinels, *self.servers):
            if node.process:
                node.signal(signal.SIGKILL)

    def look(self) -> int:
        """Ask the sentinels which server is the master; return its port."""
        for node in self.sentinels:
            try:
                with node.client() as client:
                    address = client.execute_command("SENTINEL", "get-master-addr-by-name", NAME)
                self.port = int(address[1])
                return self.port
            except redis.RedisError:
                continue
        return self.port

    def master(self) -> Node:
        return next(node for node in self.servers if node.port == self.port)

    def failover(self) -> None:
        """SENTINEL FAILOVER."""
        with self.sentinels[0].client() as client:
            client.execute_command("SENTINEL", "FAILOVER", NAME)

    def _is_complete(self) -> bool:
        with self.sentinels[0].client() as client:
            seen = client.execute_command("SENTINEL", "MASTER", NAME)
        facts = seen if isinstance(seen, dict) else dict(zip(seen[::2], seen[1::2], strict=True))
        facts = {_text(name): _text(value) for name, value in facts.items()}
        others = facts["num-other-sentinels"], facts["num-slaves"]
        return others == (str(SENTINELS - 1), "1")


class SentinelFleet(Fleet):
    """Workers and callers that find their master through sentinels. There are no gates."""

    def __init__(self, kind: str, seed: int, folder: Path) -> None:
        super().__init__(kind, seed, folder)
        self.cluster = Cluster(folder / "cluster")

    @property
    def port(self) -> int:
        return self.cluster.port

    def start_server(self) -> None:
        self.cluster.start()
        sys.path.insert(0, str(self.cluster.config.parent))  # for operators

    def make_gates(self) -> None:
        """There are none."""

    def kill_server(self) -> None:
        self.cluster.kill()

    def connection(self) -> redis.Redis:
        return redis.Redis(port=self.port)

    @property
    def settings(self) -> dict[str, str]:
        return {"RQ_CONFIG": "chaos_redis"}

    def redis_environment(self, member: Member) -> dict[str, str]:
        return self.settings

    @property
    def modules(self) -> list[str]:
        return [str(self.cluster.config.parent)]


# --- faults


def kill_master(monkey: Monkey, kind: str) -> bool:
    """SIGKILL to the master; it comes back as a replica when another was promoted."""

    def come_back(old: Node, port: int) -> None:
        old.start(port)

    return _promote(monkey, kind, lambda old: old.signal(signal.SIGKILL), come_back)


def freeze_master(monkey: Monkey, kind: str) -> bool:
    """SIGSTOP to the master until another was promoted."""

    def come_back(old: Node, port: int) -> None:
        old.signal(signal.SIGCONT)
        with old.client() as client:
            client.replicaof("127.0.0.1", port)

    return _promote(monkey, kind, lambda old: old.signal(signal.SIGSTOP), come_back)


def fail_over(monkey: Monkey, kind: str) -> bool:
    """SENTINEL FAILOVER, as an operator does before he restarts the master's host."""
    cluster = monkey.fleet.cluster
    return _promote(monkey, kind, lambda old: cluster.failover(), lambda old, port: None)


def _promote(monkey: Monkey, kind: str, begin, come_back) -> bool:  # type: ignore[no-untyped-def]
    """Have the sentinels promote the replica; then the old master comes back."""
    if not monkey.server_is_well:
        return False
    cluster = monkey.fleet.cluster
    old = cluster.master()
    fault = monkey.note(kind, "server")
    fault.end, monkey.server_is_well = None, False
    begin(old)

    def rest() -> None:
        monkey.server_is_well = True

    def look() -> None:
        port = cluster.look()
        if port == old.port:
            monkey.later(0.1, look)
            return
        fault.note = f"promoted {port}"
        come_back(old, port)
        fault.end = time.monotonic()
        monkey.later(REST_S, rest)

    monkey.later(0.1, look)
    return True


KINDS = {
    "kill -9 master": kill_master,
    "freeze master": freeze_master,
    "SENTINEL FAILOVER": fail_over,
}


def _text(data: object) -> str:
    return data.decode() if isinstance(data, bytes) else str(data)
