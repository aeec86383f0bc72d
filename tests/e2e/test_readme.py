"""README and docs/: each command that they show is run, and what they show is what happens."""

from __future__ import annotations

import json
import os
import re
import shutil
import signal
import sys
from collections.abc import Callable
from pathlib import Path
from urllib.error import HTTPError
from urllib.request import urlopen

import doc_pages as docs
import pytest
import redis
import roles
from added import without_added
from installation import Terminal, a_clone
from servers import Node
from support import ROOT, Process, descendants, run, wait_until

from werk import errors
from werk.dev.server import free_port
from werk.ops.snapshot import Snapshot
from werk.store.connection import Link, link

ID = re.compile(r"[0-9a-f]{8}(-[0-9a-f]{4}){3}-[0-9a-f]{12}")
HERE = f"{Path(sys.executable).parent}:/usr/bin:/bin"
GETTING_STARTED, ENQUEUEING, CRON, RUNBOOK, DASHBOARD, DEPLOYMENT, TASKS = (
    ROOT / "docs" / f"{name}.md"
    for name in (
        "getting-started",
        "enqueueing",
        "cron",
        "runbook",
        "dashboard",
        "deployment",
        "tasks",
    )
)

# Which test runs a command: its page, how it begins, the test. Those that none runs have a reason.
RUN = """
    README.md               bin/demo                test_its_first_command_shows_what_it_shows
    README.md               werk                    test_its_first_command_shows_what_it_shows
    README.md               werk-enqueue            test_its_first_command_shows_what_it_shows
    README.md               bin/test                reason: it is what runs this
    README.md               python3 -m venv         test_its_quickstart_works_word_for_word
    README.md               .                       test_its_quickstart_works_word_for_word
    README.md               pip install             test_its_quickstart_works_word_for_word
    README.md               export WERK_REGISTRY    test_its_quickstart_works_word_for_word
    README.md               python caller.py        test_its_quickstart_works_word_for_word
    docs/getting-started.md .                       test_its_quickstart_works_word_for_word
    docs/getting-started.md werk up                 test_what_it_starts_answers
    docs/getting-started.md export                  test_a_socket_and_a_password_keep_others_out
    docs/getting-started.md werk                    test_its_commands_print_what_it_shows
    docs/getting-started.md werk-enqueue            test_its_commands_print_what_it_shows
    docs/getting-started.md eval                    test_its_completion_is_one
    docs/enqueueing.md      printf                  test_its_commands_print_what_it_shows
    docs/cron.md            werk cron --check       test_its_crontab_is_one
    docs/cron.md            werk cron --list        reason: test_cron_health.py
    docs/cron.md            werk cron crontab       reason: test_cron.py
    docs/cron.md            werk worker             test_a_host_runs_the_jobs_of_its_queue
    docs/cron.md            werk-enqueue            test_a_host_runs_the_jobs_of_its_queue
    docs/runbook.md         werk status             test_its_status_looks_so
    docs/runbook.md         werk jobs               reason: test_jobs.py
    docs/runbook.md         werk cancel             reason: test_jobs.py
    docs/runbook.md         werk failed             test_what_it_shows_of_failed_jobs
    docs/runbook.md         werk retry              test_what_it_shows_of_failed_jobs
    docs/dashboard.md       werk dashboard          test_what_it_starts_answers
    docs/deployment.md      werk drain              test_its_redeploy_loses_no_worker
    docs/deployment.md      old=$(werk drain        test_its_redeploy_loses_no_worker
    docs/deployment.md      werk worker             test_its_redeploy_loses_no_worker
    docs/deployment.md      test -z                 test_its_redeploy_loses_no_worker
    docs/deployment.md      redis-cli               test_redis_takes_its_settings
    docs/deployment.md      pip install             reason: test_install.py
    docs/deployment.md      RQ_DASHBOARD_PASSWORD   reason: bin/e2e-compose, where Docker is
    docs/scaling.md         werk worker             reason: test_status.py
    docs/benchmarks.md      bin/bench               reason: test_bench.py, and it takes minutes
    docs/architecture.md    bin/                    reason: .ci/run, and they take minutes
    docs/observability.md   pip install             reason: test_the_example_in_the_documentation
    docs/observability.md   export WERK_REGISTRY    reason: test_the_example_in_the_documentation
    docs/observability.md   werk worker             reason: test_the_example_in_the_documentation
    docs/observability.md   werk dashboard          reason: test_deploy.py
    docs/observability.md   curl                    reason: test_deploy.py
    docs/security.md        openssl                 reason: test_security.py
    docs/security.md        tr                      reason: test_security.py
    docs/security.md        redis-cli               reason: test_security.py
    docs/security.md        export                  reason: test_security.py
    docs/security.md        unset                   reason: test_security.py
    docs/security.md        werk status             reason: test_security.py
    docs/other-languages.md                         reason: has a test of its own
    docs/typed-calls.md                             reason: test_typed_calls.py
"""


@pytest.fixture
def light(redis_url: str) -> Link:
    return link(roles.settings("reader"))


def shown(page: Path, start: str) -> list[tuple[str, str]]:
    """Return the commands of a page that start so, each with the output under it."""
    return [pair for pair in docs.commands(page) if pair[0].startswith(start)]


def in_a_shell(text: str, **env: str) -> str:
    """Run what a page shows, as somebody would type it; return what it prints."""
    return run("/bin/bash", "-c", f"({text}) 2>&1", env={"PATH": HERE, **env}).stdout


def matches(output: str, printed: str) -> bool:
    """Return whether a command printed what a page shows; "..." there stands for any lines."""
    parts = ID.sub("ID", output).split("...\n")
    return bool(re.fullmatch(r"(.*\n)*".join(map(re.escape, parts)), ID.sub("ID", printed)))


def test_every_command_is_run_or_has_a_reason() -> None:
    entries = [
        (page, start.strip(), what)
        for page, start, what in re.findall(r"^ +(\S+) +(.*?) +(test_\w+|reason: .*)$", RUN, re.M)
    ]
    assert len(entries) == RUN.strip().count("\n") + 1
    used = set()
    for page in docs.PAGES:
        for command, _ in docs.commands(page):
            mine = [own for own in entries if own[0] == docs.name(page)]
            found = [own for own in mine if command.startswith(own[1])]
            assert found, f"{docs.name(page)}: no test runs {command!r}"
            used.update(found)
    coming = {own for own in entries if not (ROOT / own[0]).exists()}
    assert set(entries) - used == coming
    assert {what for *_, what in entries if what.startswith("test_")} <= set(globals())


def test_its_commands_print_what_it_shows(
    spawn: Callable[..., Process], connection: redis.Redis
) -> None:
    spawn("werk", "worker", "default")
    wait_until(lambda: connection.exists("rq:werk:serves:default"))
    examples = [
        *shown(GETTING_STARTED, "werk-enqueue"),
        *shown(GETTING_STARTED, "werk tasks"),
        *shown(ENQUEUEING, "printf"),
    ]
    assert len(examples) >= 6
    for command, output in examples:
        printed = without_added(in_a_shell(command))
        assert matches(output, printed), printed


def test_its_completion_is_one() -> None:
    [(command, _)] = shown(GETTING_STARTED, "eval")
    assert "werk" in in_a_shell(f"{command}; complete -p werk-enqueue")


def test_its_first_command_shows_what_it_shows() -> None:
    def lines(text: str) -> list[str]:
        text = re.sub(r"127.0.0.1:\d+", "ADDRESS", ID.sub("ID", text))
        return re.sub(r"/\S*/data|\d+\.\d+\.\d+", "SUCH", text).splitlines()

    wanted = lines(docs.consoles(docs.README)[0].partition("$ bin/test")[0])[2:]
    assert set(wanted) - {"..."} <= set(lines(run(ROOT / "bin" / "demo").stdout))


@pytest.mark.parametrize(("page", "start"), [(GETTING_STARTED, "werk up"), (DASHBOARD, "werk")])
def test_what_it_starts_answers(
    page: Path, start: str, spawn: Callable[..., Process], redis_url: str
) -> None:
    port = str(free_port())  # 9181 may be somebody's
    (command, _), *_ = shown(page, start)
    process = spawn(*command.split(), "--port", port)
    wait_until(lambda: f":{port}" in process.output())
    process.terminate()
    assert process.wait(60) == 0


def test_a_socket_and_a_password_keep_others_out(
    spawn: Callable[..., Process], tmp_path: Path
) -> None:
    exports = "; ".join(command for command, _ in shown(GETTING_STARTED, "export"))
    home = tmp_path / "home"
    (home / ".local" / "state" / "werk").mkdir(mode=0o700, parents=True)
    names = "HOME RQ_REDIS_URL RQ_DASHBOARD_USERNAME RQ_DASHBOARD_PASSWORD".split()
    texts = in_a_shell(f"{exports}; printenv {' '.join(names)}", HOME=str(home)).splitlines()
    env = {**dict(zip(names, texts, strict=True)), "WERK_STATE_DIR": ""}
    port = str(free_port())
    process = spawn("werk", "up", "--port", port, env=env)
    wait_until(lambda: "Ctrl-C stops all" in process.output())
    wait_until(lambda: "event=serving" in process.output())
    with pytest.raises(HTTPError, match="401"):
        urlopen(f"http://127.0.0.1:{port}/", timeout=60)
    assert run("werk-enqueue", "--wait", "hello", "Ada", env=env).stdout == "Hello Ada\n"
    assert (home / ".local" / "state" / "werk" / "redis.sock").is_socket()
    process.terminate()
    assert process.wait(60) == 0


def test_its_redeploy_loses_no_worker(spawn: Callable[..., Process], light: Link) -> None:
    def begun() -> Process:
        process = spawn("werk", "worker", "default")
        wait_until(lambda: [w.pid for w in Snapshot.read(light).workers] == [process.pid])
        return process

    first = begun()
    second, recipe = [text for text in docs.consoles(DEPLOYMENT) if "werk drain" in text]
    in_a_shell(second.replace("$ ", "", 1))
    assert first.wait(60) == 0
    old = begun()
    script = re.sub(r"^\$ ", "", recipe, flags=re.MULTILINE).replace(" &\n", " >&2 & new=$!\n")
    # The new worker works, and is not left running.
    after = "until werk ping default; do sleep 0.1; done; kill $new; wait $new"
    done = run("/bin/bash", "-ec", f"{script}\n{after}", env={"PATH": HERE})
    assert (done.returncode, old.wait(60)) == (0, 0), done.stderr


def test_its_redeploy_keeps_the_new_worker_if_none_ran(redis_url: str) -> None:
    _, recipe = [text for text in docs.consoles(DEPLOYMENT) if "werk drain" in text]
    ready = "until werk ping default; do sleep 0.1; done"
    script = re.sub(r"^\$ ", "", recipe, flags=re.MULTILINE)
    script = script.replace(" &\n", f" >&2 & new=$!\n{ready}\n")
    after = "werk ping default && kill $new && wait $new"
    done = run("/bin/bash", "-ec", f"{script}\n{after}", env={"PATH": HERE})
    assert done.returncode == 0, done.stderr


def test_its_status_looks_so(
    spawn: Callable[..., Process], light: Link, connection: redis.Redis
) -> None:
    def shape(text: str) -> list[str]:
        """Return the lines, with one word for each name, id and number."""
        text = re.sub(r"\S*:\d+(:\w+|/\d+)?|Valkey \S+", "NAME", ID.sub("ID", text))
        return [re.sub(r"[\d.]+", "N", " ".join(line.split())) for line in text.splitlines()]

    spawn("werk", "worker", "default")
    wait_until(lambda: Snapshot.read(light).workers)
    run("werk-enqueue", "--wait", "panic")
    for _ in range(3):
        run("werk-enqueue", "sleep", "60")
    for _ in range(12):
        run("werk-enqueue", "--quiet", "--queue", "low", "sleep", "1")
    wait_until(lambda: Snapshot.read(light).queues["default"].running)
    (_, table), (_, check) = shown(RUNBOOK, "werk status")
    heads = ("queue", "worker", "critical", "")  # the line of the server varies
    kept = [line for line in shape(table) if line.startswith(heads[:3])]
    found = shape(run("werk", "status").stdout)
    assert kept == [line for line in found if line.startswith(heads[:3])]
    for one, other in (("server", "server"), ("default", "default"), ("low", "low")):
        [wanted] = [line for line in shape(table) if line.startswith(one)]
        [line] = [line for line in found if line.startswith(other)]
        assert len(line.split()) >= len(wanted.split()) - 1, line
    said = run("werk", "status", "--check")
    assert said.returncode == errors.EXIT_USAGE
    assert shape(said.stdout)[0].partition("|")[0] == shape(check)[0].partition("|")[0]


def test_its_crontab_is_one(tmp_path: Path, redis_url: str) -> None:
    [text] = re.findall(r"```\n(# crontab;.*?)```", CRON.read_text(), re.DOTALL)
    (tmp_path / "crontab").write_text(text)
    [(command, _)] = shown(CRON, "werk cron --check")
    calls = [line["call"] for line in json.loads(in_a_shell(f"cd {tmp_path}; {command} --json"))]
    assert calls == ["sleep(1.0)", "hello('the night shift')", "hello('Ada')"]


def test_a_host_runs_the_jobs_of_its_queue(
    spawn: Callable[..., Process], connection: redis.Redis
) -> None:
    host = in_a_shell("hostname").strip()
    [(worker, _)], [(caller, _)] = shown(CRON, "werk worker"), shown(CRON, "werk-enqueue")
    spawn("/bin/bash", "-c", f"PATH={HERE}; {worker}")
    wait_until(lambda: connection.exists(f"rq:werk:serves:{host}"))
    assert in_a_shell(caller) == f"Hello {host}\n"


def test_a_task_runs_a_script(
    spawn: Callable[..., Process], connection: redis.Redis, tmp_path: Path
) -> None:
    [code] = re.findall(r"```python\n(import subprocess\n.*?)```", TASKS.read_text(), re.DOTALL)
    script = tmp_path / "backup.sh"
    script.write_text(
        '#!/bin/sh\necho "backing up $1"\n[ "$1" = slow ] && exec sleep 600\nexit 3\n'
    )
    script.chmod(0o755)
    table = "from werk import Task\nTASKS = {'backup': Task('ops_tasks.backup', timeout=10)}\n"
    (tmp_path / "ops_tasks.py").write_text(table + code.replace("/opt/shop/backup.sh", str(script)))
    env = {"WERK_REGISTRY": "ops_tasks:TASKS", "PYTHONPATH": str(tmp_path)}
    worker = spawn("werk", "worker", "default", env=env)
    wait_until(lambda: connection.exists("rq:werk:serves:default"))
    failed = run("werk-enqueue", "--wait", "backup", "shop", env=env)
    assert "CalledProcessError" in failed.stderr and "exit status 3" in failed.stderr
    assert "backing up shop" in worker.output()
    slow = run("werk-enqueue", "--wait", "backup", "slow", env=env)
    assert "JobTimeoutException" in slow.stderr
    assert not any(b"sleep" in cmdline(pid) for pid in descendants(worker.pid))


def cmdline(pid: int) -> bytes:
    try:
        return Path(f"/proc/{pid}/cmdline").read_bytes()
    except OSError:  # it has ended since it was found
        return b""


def test_what_it_shows_of_failed_jobs(spawn: Callable[..., Process], redis_url: str) -> None:
    spawn("rq", "worker", "default")
    for _ in range(3):
        run("werk-enqueue", "--wait", "panic")
    examples = [*shown(RUNBOOK, "werk failed"), *shown(RUNBOOK, "werk retry")]
    assert len(examples) == 2
    for command, output in examples:
        printed = in_a_shell(command)
        age = re.compile(r"\d+[smhd] ago *|(?<=FIRST) +|(?<=LAST) +")
        assert age.sub(" AGE ", printed) == age.sub(" AGE ", output)


@pytest.mark.skipif(not shutil.which("redis-cli"), reason="there is no redis-cli here")
def test_redis_takes_its_settings(spawn: Callable[..., Process], tmp_path: Path) -> None:
    node = Node(spawn, tmp_path / "node")
    for command, _ in shown(DEPLOYMENT, "redis-cli"):
        words = command.replace(" -h HOST", "").replace("redis-cli", f"redis-cli -p {node.port}")
        assert in_a_shell(words) == "OK\n"
    found = node.client.config_get("min-replicas-*", "hash-max-ziplist-value")
    assert found["min-replicas-max-lag"] == "2"
    assert found["hash-max-ziplist-value"] == "1024"


@pytest.mark.parametrize("command", ["werk", "werk-enqueue", "werk status", "werk worker"])
def test_the_reference_is_what_help_prints(command: str, tmp_path: Path) -> None:
    page = (ROOT / "docs" / "reference.md").read_text()
    [text] = re.findall(rf"^## {command}\n\n```text\n(.*?)```", page, re.DOTALL | re.MULTILINE)
    nowhere = {"RQ_REDIS_URL": f"unix://{tmp_path}/none.sock"}
    found = without_added(run(*command.split(), "--help", env=nowhere).stdout)
    assert [line.split() for line in found.splitlines()] == [
        own.split() for own in text.splitlines()
    ]


# --- the quickstart


def test_its_quickstart_works_word_for_word(
    tmp_path: Path, redis_url: str, spawn: Callable[..., Process]
) -> None:
    text = docs.README.read_text()
    begin = text.index("## Quickstart")
    quickstart = text[begin : text.index("\n## ", begin)]
    a_clone(tmp_path / "werk")
    terminal = Terminal(tmp_path / "shop", redis_url)
    for name, code in re.findall(r"`([\w/]+\.py)`:\n\n```python\n(.*?)```", quickstart, re.DOTALL):
        (terminal.folder / name).parent.mkdir(exist_ok=True)
        (terminal.folder / name).write_text(code)
    make, start, use, program = [
        re.split(r"^\$ ", block, flags=re.MULTILINE)[1:]
        for block in re.findall(r"```console\n(.*?)```", quickstart, re.DOTALL)
    ]
    terminal.install(*make)
    *before, up = start
    activate, *examples = use
    assert up == "werk up\n"
    port = free_port()  # 9181 may be somebody's
    script = "\n".join(["set -e", activate, *before, f"exec werk up --port {port}"])
    words = ["/usr/bin/env", "-i", *(f"{name}={own}" for name, own in terminal.env.items())]
    process = spawn(*words, "/bin/bash", "-c", f"cd {terminal.folder}\n{script}")
    wait_until(lambda: "Listening on" in process.output(), problem=process.output())
    wait_until(lambda: "total" in terminal.type(activate, "werk tasks").stdout)
    for example in [*examples, *program]:
        command, _, output = example.partition("\n")
        done = terminal.type(activate, f"{command} 2>&1")
        assert matches(output, done.stdout), done.stdout
    os.kill(process.pid, signal.SIGINT)
    assert process.wait(60) == 0
