"""The fleet of `bin/chaos` notices a worker that stays, and one that cannot begin."""

from __future__ import annotations

import os
import sys
from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any, cast

import pytest
from chaos import fleet as fleets
from chaos.fleet import Fleet
from chaos.member import Member
from chaos.outputs import Outputs
from support import wait_until

STAYS = """
import signal
signal.pthread_sigmask(signal.SIG_BLOCK, [signal.SIGTERM])
print("ready", flush=True)
signal.sigwait([signal.SIGTERM])
print("asked", flush=True)
signal.sigwait([signal.SIGTERM])
"""


@pytest.fixture
def fleet(tmp_path: Path) -> Iterator[Fleet]:
    """Return a fleet of one worker, without callers or a server."""
    made = Fleet("werk", 1, tmp_path)
    made.outputs = outputs = Outputs()
    made.pings = cast(Any, SimpleNamespace(url=""))
    gate = cast(Any, SimpleNamespace(url="redis://127.0.0.1:1/0"))
    worker = Member("worker0", gate, outputs.add(tmp_path / "worker0.log"))
    made.workers = [worker]
    yield made
    worker.process.kill()
    worker.process.wait()
    outputs.close()


@pytest.mark.parametrize("is_long_ago", [True, False])
def test_a_worker_that_was_asked_to_stop_has_to_leave(
    fleet: Fleet, monkeypatch: pytest.MonkeyPatch, is_long_ago: bool
) -> None:
    [worker] = fleet.workers
    worker.start([sys.executable, "-c", STAYS], os.environ)
    wait_until(lambda: b"ready" in worker.output.log.read_bytes())
    worker.expect_end()
    worker.process.terminate()
    wait_until(lambda: b"asked" in worker.output.log.read_bytes())
    monkeypatch.setattr(fleets, "STAY_S", 0 if is_long_ago else 3600)
    fleet.stop_workers()
    assert (len(fleet.surprises), worker.process.returncode) == (int(is_long_ago), 0)


def test_a_worker_that_ends_at_each_start_is_noticed(
    fleet: Fleet, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Workers wait for Redis; few may end because it answered with an error."""
    monkeypatch.setattr(fleets, "COMMANDS", {"werk": (sys.executable, "-c", "raise SystemExit(1)")})

    def gives_up() -> bool:
        fleet.tend()
        fleet.workers[0].back_at = min(fleet.workers[0].back_at, 1)
        return fleet.gave_up == fleets.MOST_GAVE_UP + 1

    wait_until(gives_up)
    assert len(fleet.surprises) == 1
