"""docker-compose.yml, as the real compose reads it; no engine is needed for that."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from support import run

from werk import registry

ROOT = Path(__file__).parent.parent


def compose(**env: str) -> Any:
    done = run("docker-compose", "--project-directory", ROOT, "config", "--format=json", env=env)
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout)["services"]


@pytest.fixture(scope="module")
def services() -> Any:
    return compose(RQ_DASHBOARD_PASSWORD="secret")


def test_no_dashboard_without_a_password() -> None:
    with pytest.raises(AssertionError, match="RQ_DASHBOARD_PASSWORD"):
        compose()


def test_nothing_is_published_but_on_the_loopback(services: Any) -> None:
    published = [port for service in services.values() for port in service.get("ports", ())]
    assert {port["published"] for port in published} == {"6379", "9181"}
    assert {port["host_ip"] for port in published} == {"127.0.0.1"}


def test_redis_keeps_jobs(services: Any) -> None:
    command = " ".join(services["redis"]["command"])
    assert "--appendonly yes" in command
    assert "--maxmemory-policy noeviction" in command


def test_workers_can_be_scaled_and_may_finish_their_jobs(services: Any) -> None:
    worker = services["worker"]
    assert "container_name" not in worker
    minutes, _, seconds = worker["stop_grace_period"].rstrip("s").partition("m")
    assert int(minutes) * 60 + int(seconds) > max(
        task.timeout for task in registry.tasks().values()
    )


def test_a_worker_is_asked_for_its_own_beat(services: Any) -> None:
    assert services["worker"]["healthcheck"]["test"] == ["CMD", "werk", "status", "--here"]
