"""A node of Redis Cluster is refused: with exit code 78 and in one line."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest
from servers import Node
from support import Process, run, wait_until

import werk

SAYS = "is a node of Redis Cluster, which is not supported; use a single Redis, or Redis with Sent"
SLOTS = ("with slots", "without slots")
OURS = (("werk", "worker", "--burst"), ("werk-enqueue", "sleep", "1"), ("werk", "status"))
# Without slots RQ's own command line fails before it makes our worker.
RQS = ("rq", "worker", "-w", "werk.worker.Worker", "--burst")
CASES = [("with slots", RQS), *((slots, words) for slots in SLOTS for words in OURS)]


@pytest.fixture(params=SLOTS)
def node(
    spawn: Callable[..., Process],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    request: pytest.FixtureRequest,
) -> Node:
    found = Node(spawn, tmp_path / "node", "--cluster-enabled", "yes", "--save", "")
    monkeypatch.setenv("RQ_REDIS_URL", found.url)
    if request.param == "with slots":
        found.client.execute_command("CLUSTER", "ADDSLOTSRANGE", 0, 16383)
        wait_until(lambda: found.client.cluster("info")["cluster_state"] == "ok")
    return found


@pytest.mark.parametrize(("node", "command"), CASES, indirect=["node"], ids=str)
def test_a_node_of_redis_cluster_is_refused_in_one_line(
    node: Node, command: tuple[str, ...]
) -> None:
    ended = run(*command)
    assert ended.returncode == 78, ended.stderr
    assert ended.stdout == ""
    [line] = ended.stderr.splitlines()
    assert SAYS in line


def test_keys_of_a_single_slot_make_no_difference(
    node: Node, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("RQ_KEY_PREFIX", "{rq}")
    for command in (("werk", "worker", "--burst"), ("werk", "status")):
        ended = run(*command)
        assert (ended.returncode, len(ended.stderr.splitlines())) == (78, 1), ended.stderr
        assert SAYS in ended.stderr


def test_a_caller_in_python_gets_a_config_error(node: Node) -> None:
    with pytest.raises(werk.errors.ConfigError, match="node of Redis Cluster"):
        werk.enqueue("sleep", 1)
