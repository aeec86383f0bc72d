"""The dashboard of tests: its app, without a server, and the process."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

import pytest
import redis
import roles
from flask.testing import FlaskClient
from support import Process, wait_until

from werk.dev.server import free_port
from werk.web import app as dashboard

HERE = "http://localhost"


OURS = {"Origin": HERE}


Browse = Callable[..., FlaskClient]


@pytest.fixture
def browse(redis_url: str) -> Iterator[Browse]:
    """A client of the app: browse(read_only=True, username=..., password=...)."""
    apps = []

    def browse(username: str | None = None, password: str | None = None, **how: Any) -> FlaskClient:
        role = "reader" if how.get("read_only") else "operator"
        settings = roles.settings(role)._replace(
            dashboard_username=username, dashboard_password=password
        )
        apps.append(dashboard.make_app(settings, **how))
        return apps[-1].test_client()

    yield browse
    for owner in {
        getattr(view, "__self__", None) for app in apps for view in app.view_functions.values()
    }:
        if hasattr(owner, "link"):
            owner.link.close()


def put(connection: redis.Redis, job_id: str, registry: str = "failed", **fields: Any) -> None:
    """Write a job's record as it is given, nothing checked."""
    moment = "2026-11-24T09:00:00.000000Z"
    status = {"status": registry, "origin": "default", "created_at": moment, "data": b"x"}
    connection.hset(f"rq:job:{job_id}", mapping={**status, **fields})
    connection.zadd(f"rq:{registry}:default", {job_id: 1e10})
    connection.sadd("rq:queues", "rq:queue:default")


@pytest.fixture
def serving(spawn: Callable[..., Process], redis_url: str) -> Callable[..., tuple[Process, str]]:
    """Start `werk dashboard` and wait until it serves; return it and its address."""

    def serving(*options: object, **env: str) -> tuple[Process, str]:
        port = free_port()
        process = spawn("werk", "dashboard", "--port", port, *options, env=env)
        wait_until(lambda: "event=serving" in process.output())
        return process, f"http://127.0.0.1:{port}"

    return serving
