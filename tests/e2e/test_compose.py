"""docker-compose.yml as the real compose reads it, and bin/e2e-compose with a pretended engine."""

from __future__ import annotations

import json
import os
import re
import shutil
import sys
import time
from collections.abc import Callable
from hashlib import sha256
from pathlib import Path
from typing import Any

import pytest
import redis
from support import KIT, ROOT, Process, run, wait_until

from werk import registry
from werk.dev.binary import find_binary
from werk.dev.server import free_port
from werk.errors import EXIT_CONFIG
from werk.settings import Settings

BIN = Path(sys.executable).parent
SECRET = "p@ss/word: $HOME \"'%20\\"  # nothing that a URL or a configuration file would take


def compose(**env: str) -> Any:
    done = run("docker-compose", "--project-directory", ROOT, "config", "--format=json", env=env)
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout.replace("$$", "$"))["services"]  # escaped, to be read again


@pytest.fixture(scope="module")
def services() -> Any:
    return compose(RQ_DASHBOARD_PASSWORD="secret", REDIS_PASSWORD=SECRET, COMPOSE_PROFILES="cron")


def test_no_dashboard_without_a_password() -> None:
    with pytest.raises(AssertionError, match="RQ_DASHBOARD_PASSWORD"):
        compose()


def test_nothing_is_published_but_on_the_loopback(services: Any) -> None:
    published = [port for service in services.values() for port in service.get("ports", ())]
    assert {port["published"] for port in published} == {"6379", "9181"}
    assert {port["host_ip"] for port in published} == {"127.0.0.1"}


def test_no_service_has_more_rights_than_it_needs(services: Any) -> None:
    for service in services.values():
        assert service["security_opt"] == ["no-new-privileges:true"]
        assert (service["cap_drop"], service["read_only"]) == (["ALL"], True)
        assert service["tmpfs"] == ["/tmp"]
        assert int(service["mem_limit"]) > 0
        assert "privileged" not in service and "cap_add" not in service


def test_one_image_is_built_once_and_the_others_are_pinned(services: Any) -> None:
    ours = {name: own for name, own in services.items() if own["image"] == "werk"}
    assert {*ours} == {"worker", "dashboard", "cron"}
    assert [name for name, own in services.items() if "build" in own] == ["worker"]
    assert {own["pull_policy"] for own in ours.values()} == {"never"}  # nobody else's "werk"
    [base] = re.findall(r"^FROM (\S+)", (ROOT / "Dockerfile").read_text(), re.MULTILINE)
    for image in (base, services["redis"]["image"]):
        assert re.search(r":\d+\.\d+\.\d+-\w+", image), image


def test_the_password_of_redis_is_in_no_address_and_no_argument(services: Any) -> None:
    for name in ("worker", "dashboard", "cron"):
        environment = services[name]["environment"]
        assert (environment["REDIS_HOST"], environment["REDIS_PASSWORD"]) == ("redis", SECRET)
        assert "://" not in " ".join([*services[name]["command"], *environment.values()])
    assert "secret" not in str([own["command"] for own in services.values()])


@pytest.fixture
def redis_service(
    services: Any, spawn: Callable[..., Process], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> Callable[[str], tuple[Process, int]]:
    """Start what the service `redis` starts, with the server and the client that are here."""
    binary = find_binary(Settings.read())
    (tmp_path / "bin").mkdir()
    client = shutil.which("valkey-cli") or shutil.which("redis-cli") or "/bin/false"
    server, port = tmp_path / "bin" / "valkey-server", free_port()
    server.write_text(f'#!/bin/sh\nexec {binary.path} "$@" --port {port} --dir {tmp_path}\n')
    server.chmod(0o755)
    asked = tmp_path / "bin" / "valkey-cli"
    asked.write_text(f'#!/bin/sh\nexec {client} -p {port} "$@"\n')
    asked.chmod(0o755)
    monkeypatch.setenv("PATH", f"{tmp_path / 'bin'}:{os.environ['PATH']}")

    def start(password: str) -> tuple[Process, int]:
        shell, *words = services["redis"]["command"]
        process = spawn(shutil.which(shell), *words, env={"REDIS_PASSWORD": password})
        return process, port

    return start


@pytest.mark.parametrize("password", [SECRET, ""])
def test_redis_keeps_jobs_and_wants_the_password(
    services: Any, redis_service: Callable[[str], tuple[Process, int]], password: str
) -> None:
    process, port = redis_service(password)
    settings = {"REDIS_HOST": "127.0.0.1", "REDIS_PORT": str(port), "REDIS_PASSWORD": password}

    def ask(password: str) -> int:
        done = run("werk", "status", env={**settings, "REDIS_PASSWORD": password})
        return done.returncode

    wait_until(lambda: ask(password) == 0)
    assert ask("another") == EXIT_CONFIG
    assert ask("") == (EXIT_CONFIG if password else 0)
    done = run("werk-enqueue", "--quiet", "hello", "Ada", env=settings)
    assert (done.returncode, done.stderr) == (0, "")
    with redis.Redis(port=port, password=password or None) as client:
        kept = client.config_get("*max*", "appendonly", "stream-node-max-bytes", "requirepass")
        assert client.acl_getuser("default")["passwords"] == (
            [sha256(password.encode()).hexdigest()] if password else []
        )
    assert kept["appendonly"] == "yes"
    assert kept["maxmemory-policy"] == "noeviction"
    assert (kept["stream-node-max-bytes"], kept["hash-max-listpack-value"]) == ("512", "1024")
    assert kept["requirepass"] == ""
    assert 0 < int(kept["maxmemory"]) < 0.75 * int(services["redis"]["mem_limit"])
    words = Path(f"/proc/{process.pid}/cmdline").read_bytes()
    assert not password or password.encode() not in words


@pytest.mark.skipif(
    not (shutil.which("valkey-cli") or shutil.which("redis-cli")), reason="no redis-cli here"
)
@pytest.mark.parametrize("password", [SECRET, ""])
def test_redis_is_healthy_when_it_answers(
    services: Any, redis_service: Callable[[str], tuple[Process, int]], password: str
) -> None:
    kind, script = services["redis"]["healthcheck"]["test"]
    assert kind == "CMD-SHELL"
    command = ("/bin/sh", "-c", script)
    assert run(*command, env={"REDIS_PASSWORD": password}).returncode == 1
    redis_service(password)
    wait_until(lambda: run(*command, env={"REDIS_PASSWORD": password}).returncode == 0)
    assert run(*command, env={"REDIS_PASSWORD": "another"}).returncode == (1 if password else 0)


def test_workers_can_be_scaled_and_may_finish_their_jobs(services: Any) -> None:
    worker = services["worker"]
    assert worker["command"] == ["werk", "worker", "--concurrency", "4", "default"]
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
        assert process.wait(60) == 0
    assert connection.llen("rq:queue:default") == len(connection.keys("rq:werk:slot:*"))


# --- bin/e2e-compose

# `docker compose` with processes for containers: up and down start and end them, ps names them.
DOCKER = """#!{python}
import json, os, signal, subprocess, sys
from pathlib import Path

sys.path.append({tests!r})
from support import is_gone, wait_until

here, port = Path({here!r}), {port!r}
compose, _, project, command, *rest = sys.argv[1:]
assert (compose, project) == ("compose", "werk-e2e")

def pids(service):
    file = here / service
    return [int(word) for word in file.read_text().split()] if file.exists() else []

def start(service, count, *words):
    log = (here / "log").open("a")
    how = dict(stdin=subprocess.DEVNULL, stdout=log, stderr=log, start_new_session=True)
    found = [subprocess.Popen(words, **how).pid for _ in range(count)]
    (here / service).write_text(" ".join(map(str, found)))

def stop(service):
    for pid in pids(service):
        os.kill(pid, signal.SIGTERM)
    wait_until(lambda: all(is_gone(pid) for pid in pids(service)))

def is_healthy():
    done = subprocess.run(["werk", "status", "--json"], capture_output=True, text=True)
    slots = [own for own in json.loads(done.stdout)["workers"] if own["kind"] == "werk"]
    whole = {{own["pid"] for own in slots if len(slots) == own["slots"] * len(pids("worker"))}}
    return whole == {{*pids("worker")}}

if command == "exec":
    assert rest.pop(0) == "-T"
    while rest[0] == "--env":
        name, _, value = rest[1].partition("=")
        os.environ[name] = value.replace("/var/lib/werk", str(here))
        del rest[:2]
    words = [word.replace(":9181", f":{{port}}") for word in rest[1:]]
    os.environ["STATE_DIRECTORY"] = str(here)
    os.execvp(words[0], words)
elif command == "ps":
    print(*pids("worker"), sep="\\n")
    sys.exit()
with (here / "asked").open("a") as file:
    print(command, *rest, file=file)
if command == "up":
    stop("worker")
    count = rest[rest.index("--scale") + 1].removeprefix("worker=")
    start("worker", int(count), *{worker!r})
    if "--no-deps" not in rest:
        start("dashboard", 1, "werk", "dashboard", "--port", port)
    wait_until(is_healthy)
elif command == "down":
    stop("worker")
    stop("dashboard")
elif command == "build" and (here / "broken").exists() and pids("worker"):
    sys.exit(17)
"""


@pytest.fixture
def e2e(
    services: Any, spawn: Callable[..., Process], redis_url: str, tmp_path: Path
) -> Callable[[], Process]:
    """Start bin/e2e-compose with the pretended docker."""
    docker = tmp_path / "bin" / "docker"
    docker.parent.mkdir()
    facts = {"tests": str(KIT), "here": str(tmp_path), "port": str(free_port())}
    worker = services["worker"]["command"]
    docker.write_text(DOCKER.format(python=sys.executable, worker=worker, **facts))
    docker.chmod(0o755)
    path = f"{docker.parent}:{BIN}:{os.environ['PATH']}"
    return lambda: spawn(ROOT / "bin" / "e2e-compose", env={"PATH": path})


def asked(tmp_path: Path) -> list[str]:
    return (tmp_path / "asked").read_text().splitlines()


def test_from_build_to_teardown(
    e2e: Callable[[], Process], tmp_path: Path, connection: redis.Redis
) -> None:
    script = e2e()
    assert script.wait(300) == 0, script.output()
    assert asked(tmp_path) == [
        "build",
        "up --detach --wait --scale worker=3",
        "build worker",
        "up --detach --wait --no-deps --force-recreate --scale worker=3 worker",
        "down --volumes --remove-orphans --timeout 30",
    ]
    said = script.output()
    assert "RuntimeError: panic! as asked" in said
    assert re.findall("Hello number ([1-5])", said) == list("12345")
    assert "kept by a job" in said
    assert connection.zcard("rq:failed:default") == 1


def test_what_fails_is_said_and_torn_down(e2e: Callable[[], Process], tmp_path: Path) -> None:
    (tmp_path / "broken").touch()
    script = e2e()
    assert script.wait(300) == 17, script.output()
    assert "all of it worked" not in script.output()
    *_, broken, logs, down = asked(tmp_path)
    assert (broken, logs.split()[0], down.split()[0]) == ("build worker", "logs", "down")
