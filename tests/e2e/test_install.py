"""What an installation of werk has: all that the brief names, or only what a caller needs."""

from __future__ import annotations

import re
from collections.abc import Callable
from pathlib import Path
from urllib.request import urlopen

import pytest
import redis
from installation import Terminal, a_clone
from support import Process, wait_until

from werk.dev.server import free_port

VENV = ("python3 -m venv .venv", ". .venv/bin/activate")


@pytest.fixture
def terminal(tmp_path: Path, redis_url: str) -> Terminal:
    a_clone(tmp_path / "werk")
    return Terminal(tmp_path / "host", redis_url)


def test_a_plain_installation_works_and_serves(
    terminal: Terminal, spawn: Callable[..., Process]
) -> None:
    terminal.install(*VENV, "pip install ../werk")
    words = "id=$(werk-enqueue sleep 1)", "rq worker --burst default", "werk show $id"
    done = terminal.type("set -e", VENV[1], *words)
    assert "finished" in done.stdout, done
    port = free_port()
    environ = ["/usr/bin/env", "-i", *(f"{name}={own}" for name, own in terminal.env.items())]
    site = spawn(*environ, f"{terminal.folder}/.venv/bin/werk", "dashboard", "--port", str(port))
    wait_until(lambda: "http://" in site.output() or site.poll() is not None)
    with urlopen(f"http://127.0.0.1:{port}/", timeout=30) as page:
        assert page.status == 200


def test_a_caller_needs_click_and_hiredis(
    terminal: Terminal, spawn: Callable[..., Process], connection: redis.Redis
) -> None:
    """It takes the tasks from the catalog, and has no table and no code of its own."""
    spawn("werk", "worker", "default")
    wait_until(lambda: connection.exists("rq:werk:serves:default"))
    terminal.install(*VENV, "pip install --no-deps ../werk", "pip install click hiredis")
    program = "import werk; print(werk.enqueue('hello', 'Bob').result(60))"
    asked = f'{VENV[1]}; werk-enqueue --wait hello Ada; python -c "{program}"; werk status --json'
    done = terminal.type(asked)
    assert done.stdout.startswith("Hello Ada\nHello Bob\n{"), done.stderr
    checked = terminal.type(VENV[1], "pip check")
    assert checked.returncode == 1
    assert "werk 0" in checked.stdout and "requires rq, which is not installed" in checked.stdout
    for command, lacks in ("worker default", "rq"), ("dashboard", "flask"):
        refused = terminal.type(VENV[1], f"werk {command}")
        assert refused.returncode == 78, refused
        assert re.fullmatch(
            rf"werk: {lacks} is not installed; pip install .*'rq[<>].*\n", refused.stderr
        )
