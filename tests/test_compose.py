"""docker-compose.yml, as the real compose reads it; no engine is needed for that."""

from __future__ import annotations

import json
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import redis
from support import Process, run, wait_until

from werk import registry

ROOT = Path(__file__).parent.parent


def compose(**env: str) -> Any:
    done = run("docker-compose", "--project-directory", ROOT, "config", "--format=json", env=env)
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout)["services"]


@pytest.fixture(scope="module")
def services() -> Any:
    return compose(RQ_DASHBOARD_PASSWORD="secret", COMPOSE_PROFILES="cron")


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


def test_cron_is_asked_for_and_reads_what_is_mounted(
    services: Any, tmp_path: Path, spawn: Callable[..., Process], connection: redis.Redis
) -> None:
    assert "cron" not in compose(RQ_DASHBOARD_PASSWORD="secret")
    service = services["cron"]
    [mount] = service["volumes"]
    assert (mount["source"], mount["read_only"]) == (str(ROOT / "crontab"), True)
    *words, path = service["command"]
    assert path == mount["target"]
    crontab = tmp_path / "crontab"
    crontab.write_text("*/5 * * * * sleep 1\n")
    connection.zadd("rq:werk:cron", {"*/5 * * * * sleep(1.0)": time.time() - 600})
    both = [spawn(*words, crontab) for _ in range(2)]
    wait_until(lambda: all("lines=1" in process.output() for process in both))
    wait_until(lambda: connection.llen("rq:queue:default") >= 2)
    for process in both:
        process.terminate()
        assert process.wait(5) == 0
    assert connection.llen("rq:queue:default") == len(connection.keys("rq:werk:slot:*"))
