"""docs/other-languages.md: its commands and its program do what it says; its tables are whole."""

from __future__ import annotations

import json
import re
import shutil
import subprocess
import threading
from collections.abc import Callable, Iterator
from http.server import BaseHTTPRequestHandler, HTTPServer
from pathlib import Path
from typing import Any

import pytest
import redis
from support import ROOT, Process, wait_until

import werk
from werk.client.options import HINTS

PAGE = (ROOT / "docs" / "other-languages.md").read_text()
ID = re.compile(r"[0-9a-f]{8}(-[0-9a-f]{4}){3}-[0-9a-f]{12}")
HERE = "http://localhost:9181"
PATH = "/usr/local/bin:/usr/bin:/bin"
Serving = Callable[..., tuple[Process, str]]


def blocks(language: str) -> list[str]:
    return re.findall(rf"```{language}\n(.*?)```", PAGE, re.DOTALL)


def pairs() -> list[tuple[str, str]]:
    """Return each command of the page, with the output under it."""
    found = []
    for block in blocks("console"):
        for part in re.split(r"^\$ ", block, flags=re.MULTILINE)[1:]:
            command, output = re.fullmatch(r"((?:.*\\\n)*.*\n)([\s\S]*)", part).groups()
            found.append((command.strip(), output))
    return found


def program(command: str) -> str:
    return command.split()[0]


@pytest.fixture
def shell(tmp_path: Path) -> Callable[..., subprocess.CompletedProcess[str]]:
    """Run a command in a folder, as somebody would type it."""

    def shell(command: str, **settings: str) -> subprocess.CompletedProcess[str]:
        name = program(command)
        if not shutil.which(name, path=PATH):
            pytest.skip(f"there is no {name} here")
        return subprocess.run(
            ["/bin/bash", "-c", command],
            cwd=tmp_path,
            env={"PATH": PATH, "HOME": str(tmp_path), **settings},
            capture_output=True,
            text=True,
            timeout=120,
            check=False,
        )

    return shell


@pytest.fixture
def working(spawn: Callable[..., Process], connection: redis.Redis) -> None:
    """A worker that has published its tasks."""
    spawn("werk", "worker", "default")
    wait_until(lambda: connection.exists("rq:werk:serves:default"))


def test_every_command_is_run_here() -> None:
    assert {program(command) for command, _ in pairs()} == {
        "werk",  # by the fixture `serving`
        "curl",
        "echo",
        "node",
        "redis-cli",
    }
    assert len(blocks("js")) == 1


@pytest.mark.parametrize(
    ("command", "output"), [pair for pair in pairs() if "netrc" not in pair[0] and pair[1]]
)
def test_a_request_is_answered_as_the_page_says(
    command: str, output: str, working: None, serving: Serving, shell: Callable[..., Any]
) -> None:
    assert program(command) == "curl"
    done = shell(command.replace(HERE, serving()[1]))
    assert ID.sub("ID", done.stdout) == ID.sub("ID", output), done.stderr


def test_the_password_comes_from_a_file(
    serving: Serving, shell: Callable[..., Any], redis_url: str
) -> None:
    file, ask = [command for command, _ in pairs() if "netrc" in command]
    login = {"RQ_DASHBOARD_USERNAME": "ops", "RQ_DASHBOARD_PASSWORD": "choose-one"}
    _, address = serving(**login)
    ask = ask.replace(HERE, address.replace("127.0.0.1", "localhost"))
    assert shell(file).returncode == 0
    assert json.loads(shell(ask).stdout)["queue"] == "default"
    assert shell(ask.replace("--netrc-file werk.netrc ", "")).stdout == (
        '{"error":"password required"}\n'
    )


def test_the_result_is_read(
    working: None, serving: Serving, shell: Callable[..., Any], redis_url: str
) -> None:
    [ask] = [command for command, _ in pairs() if "--retry" in command]
    status, entry = [command for command, _ in pairs() if program(command) == "redis-cli"]
    shell(ask.replace(HERE, serving()[1]))
    assert werk.result("welcome-4711", timeout=60) == "Hello Ada"
    at = f"redis-cli -u {redis_url}"
    assert shell(status.replace("redis-cli", at)).stdout == "finished\n"
    lines = shell(entry.replace("redis-cli", at)).stdout.splitlines()
    assert lines[lines.index("type") + 1] == "1"
    assert "return_value" in lines


# --- Node.js


@pytest.fixture
def node(tmp_path: Path, shell: Callable[..., Any]) -> Callable[..., Any]:
    """Run the page's command with its program, against the dashboard at an address."""
    [text] = blocks("js")
    (tmp_path / "enqueue.mjs").write_text(text)
    [(command, _)] = [pair for pair in pairs() if program(pair[0]) == "node"]

    def node(address: str, task: str = "hello", **settings: str) -> Any:
        return shell(command.replace(" hello ", f" {task} "), WERK_URL=address, **settings)

    return node


@pytest.mark.parametrize("kind", ["rq", "werk"])
def test_node_enqueues_and_either_kind_of_worker_runs_it(
    kind: str,
    node: Callable[..., Any],
    serving: Serving,
    spawn: Callable[..., Process],
    redis_url: str,
) -> None:
    spawn(kind, "worker", "default")
    done = node(serving()[1])
    assert (done.returncode, bool(ID.fullmatch(done.stdout.strip()))) == (0, True), done.stderr
    assert werk.result(done.stdout.strip(), timeout=60) == "Hello Ada"


def test_node_sends_the_password_and_shows_errors(
    node: Callable[..., Any], serving: Serving, connection: redis.Redis
) -> None:
    _, address = serving(RQ_DASHBOARD_USERNAME="ops", RQ_DASHBOARD_PASSWORD="s3crét")
    done = node(address)
    assert (done.returncode, "password required" in done.stderr) == (1, True)
    assert node(address, WERK_LOGIN="ops:s3crét").returncode == 0
    done = node(address, "a/b", WERK_LOGIN="ops:s3crét")
    assert (done.returncode, "unknown task 'a/b'" in done.stderr) == (1, True)
    assert connection.llen("rq:queue:default") == 1


class Failing(HTTPServer):
    """A server that answers 503, closes the connection unless `closes` is False, then answers."""

    def __init__(self) -> None:
        super().__init__(("127.0.0.1", 0), _Handler)
        self.bodies: list[dict[str, Any]] = []
        self.closes = True


class _Handler(BaseHTTPRequestHandler):
    server: Failing

    def do_POST(self) -> None:
        length = int(self.headers["Content-Length"])
        self.server.bodies.append(json.loads(self.rfile.read(length)))
        count = len(self.server.bodies)
        if count == 2 and self.server.closes:
            return  # without an answer
        self.send_response(503 if count == 1 else 201)
        self.end_headers()
        reply = {"error": "x"} if count == 1 else {"id": "mine", "warnings": ["w"]}
        self.wfile.write(json.dumps(reply).encode())

    def log_message(self, *_: object) -> None:
        """Print nothing."""


@pytest.fixture
def failing() -> Iterator[Failing]:
    with Failing() as server:
        thread = threading.Thread(target=server.serve_forever, args=(0.01,))
        thread.start()
        yield server
        server.shutdown()
        thread.join()


def test_node_tries_again_with_the_same_id(node: Callable[..., Any], failing: Failing) -> None:
    done = node(f"http://127.0.0.1:{failing.server_port}")
    assert (done.returncode, done.stdout, done.stderr) == (0, "mine\n", "w\n")
    first, second, third = failing.bodies
    assert first == second == third
    assert ID.fullmatch(first["options"]["job_id"])


def test_curl_tries_again_with_the_same_id(shell: Callable[..., Any], failing: Failing) -> None:
    [ask] = [command for command, _ in pairs() if "--retry" in command]
    failing.closes = False  # curl tries again after that with --retry-all-errors alone
    done = shell(ask.replace(HERE, f"http://127.0.0.1:{failing.server_port}"))
    assert '"id": "mine"' in done.stdout, done.stderr
    assert [own["options"]["job_id"] for own in failing.bodies] == ["welcome-4711"] * 2


# --- the tables


def first_cells(after: str) -> list[str]:
    """Return the first column of the first table after a text."""
    table = PAGE.partition(after)[2].partition("\n|---|")[2].partition("\n\n")[0]
    return [line.split(" | ")[0].strip("| ") for line in table.splitlines() if line[:2] == "| "]


def test_every_option_is_listed() -> None:
    names = re.findall(r"`(\w+)`", " ".join(first_cells("## Options")))
    assert sorted(names) == sorted(HINTS)


def test_every_answer_is_listed() -> None:
    wanted = "201 200 400 401 403 404 405 409 413 415 422 429 503".split()
    assert sorted(first_cells("## Answers")) == sorted(wanted)


def test_every_field_and_key_is_one_that_is_written(
    working: None, serving: Serving, connection: redis.Redis
) -> None:
    """Those of a job that waits; the others are written when something happens to it."""
    options = werk.Options(queue="low", ttl=60, retry=1, job_id="mine", meta={"a": 1})
    job = werk.enqueue("sleep", 0, options=options)
    listed = set(re.findall(r"`(\w+)`", " ".join(first_cells("## What is in Redis"))))
    fields = {name.decode() for name in connection.hkeys(f"rq:job:{job.id}")}
    later = {"attempt", "crashes", "deferred", "not_kept", "unknown_since"}
    assert listed - {f"werk_{name}" for name in later} <= fields
    assert {name for name in fields if name.startswith("werk_")} <= listed
