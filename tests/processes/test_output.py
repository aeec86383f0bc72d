"""What people read of all commands: it fits 80 columns, and its times have an offset."""

from __future__ import annotations

import json
import os
import re
import shlex
import signal
from collections.abc import Callable, Iterator
from datetime import datetime
from pathlib import Path
from typing import NamedTuple

import click
import pytest
import redis
import roles
from rq import Queue
from support import PYTHONPATH, Process, command, run, wait_until
from workers import ENV, PATIENT, Start, begun

import werk
from werk.cli import output
from werk.cli.run import werk as group
from werk.dev.server import Server
from werk.ops.snapshot import Snapshot
from werk.store.connection import link

WIDTH = 80
QUEUE, TASK, WORKER = (f"a-{kind}-with-{'a-long-' * 8}name" for kind in ("queue", "task", "worker"))
TABLE = """
from werk.registry import Task
from worker_tasks import TASKS as OTHERS
TASKS = {NAME: Task("worker_tasks.block"), "panic": Task("worker_tasks.fail"), **OTHERS}
"""


class Fleet(NamedTuple):
    """Three busy workers with long names, and a job in each state."""

    env: dict[str, str]
    running: werk.Handle
    failed: werk.Handle
    crontab: Path


@pytest.fixture
def fleet(
    work: Start,
    spawn: Start,
    connection: redis.Redis,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> Fleet:
    (tmp_path / "long_table.py").write_text(TABLE.replace("NAME", repr(TASK)))
    path = f"{PYTHONPATH}{os.pathsep}{tmp_path}"
    env = {"WERK_REGISTRY": "long_table:TASKS", "PYTHONPATH": path}
    monkeypatch.setenv("WERK_REGISTRY", env["WERK_REGISTRY"])
    monkeypatch.syspath_prepend(tmp_path)
    for number in range(3):
        work(QUEUE, "--name", f"{WORKER}-{number}", env={**ENV, **PATIENT, **env})
    options = werk.Options(queue=QUEUE)
    failed = werk.enqueue("fail", str(tmp_path), options=options)
    for job in (failed, stopped := werk.enqueue(TASK, str(tmp_path), options=options)):
        wait_until(lambda job=job: job.status() in ("failed", "started"))
    begun(tmp_path)
    assert run("werk", "stop", stopped.id, "--yes", env=env).returncode == 0
    jobs = [werk.enqueue(TASK, str(tmp_path), options=options) for _ in range(3)]
    begun(tmp_path, 4)
    werk.enqueue(TASK, str(tmp_path), options=werk.Options(queue=QUEUE, delay=9999))
    werk.enqueue(TASK, str(tmp_path), options=werk.Options(queue=f"other-{QUEUE}"))
    crontab = tmp_path / "crontab"
    crontab.write_text(f"TZ=Asia/Kolkata\n*/5 * * * * {TASK} {'long/' * 20}\n")
    spawn("werk", "cron", crontab, env=env)
    wait_until(lambda: TASK[:12] in run("werk", "cron", "--list", env=env).stdout)
    reader = link(roles.settings("reader"))
    wait_until(lambda: [own.state for own in Snapshot.read(reader).workers] == ["busy"] * 3)
    return Fleet(env, jobs[0], failed, crontab)


def words(fleet: Fleet) -> Iterator[str]:
    """Yield command lines that print something."""
    running, failed, other = fleet.running.id, fleet.failed.id, f"other-{QUEUE}"
    yield from ("werk status", "werk failed", "werk failed --list", "werk failed --commands")
    yield from (f"werk show {running}", f"werk show {failed}", f"werk result {failed}")
    yield from (
        "werk jobs",
        "werk jobs --list",
        "werk jobs --state failed --list",
        "werk cron --list",
    )
    yield f"werk cancel --task {TASK} --dry-run"
    yield from ("werk tasks", "werk tasks --check", "werk tasks --strict", "werk repair")
    yield f"werk ping --timeout 0.2 {QUEUE}"
    yield from (f"werk cron --check {fleet.crontab}", f"werk pause {other}", "werk status")
    yield from (f"werk resume {other}", f"werk resume {other}", f"werk stop {running}")
    yield f"werk-enqueue --dry-run {TASK} {'x' * 60}"
    yield f"werk-enqueue --queue nobody-{QUEUE} {TASK} /{'x' * 60}"
    yield f"werk-enqueue {TASK} --help"
    # mistakes
    yield from (f"werk show {'x' * 60}", f"werk failed --task {TASK}-not", f"werk retry {'x' * 60}")
    yield from (f"werk ping {QUEUE}-not", f"werk pause {QUEUE}-not", f"werk drain --yes {WORKER}-9")
    yield from (
        "werk failed --since yesterday",
        f"werk-enqueue {TASK}",
        f"werk-enqueue {TASK}-not 1",
    )
    yield from ("werk retry --all", f"werk cancel --yes {running}", f"werk retry {running}")
    yield from (f"werk cron --check {fleet.crontab}-not", f"werk jobs --task {TASK}-not")
    yield from (f"werk discard {'x' * 60}", "werk discard", f"werk jobs --queue {QUEUE}-not")


def helps(command: click.Command, name: str) -> Iterator[str]:
    yield f"{name} --help"
    if isinstance(command, click.Group):
        for own in command.list_commands(click.Context(command)):
            found = command.get_command(click.Context(command), own)
            assert found is not None
            yield from helps(found, f"{name} {own}")


def test_no_line_is_wider_than_80_and_no_time_is_without_an_offset(fleet: Fleet) -> None:
    env = {**fleet.env, "COLUMNS": str(WIDTH)}
    outputs = {}
    for line in [*words(fleet), *helps(group, "werk"), "werk-enqueue --help"]:
        done = run(*shlex.split(line), env=env)
        assert "Traceback (most recent call last)" not in done.stderr or " result " in line
        outputs[line] = done.stdout + done.stderr
        assert outputs[line].strip() or line == "werk tasks --check", line
    wide = {
        (line[:30], text)
        for line, shown in outputs.items()
        for text in shown.splitlines()
        if len(text) > WIDTH and not text.startswith("Usage: werk")  # a name of 72 characters
    }
    assert wide == set()
    clock = re.compile(r"\d\d:\d\d:\d\d(?:\.\d+)?(Z|[+-]\d\d:\d\d)?")
    times = [(line, found) for line, shown in outputs.items() for found in clock.finditer(shown)]
    assert [(line, found[0]) for line, found in times if not found[1]] == []
    assert any(found[1] for _, found in times)


def test_times_in_json_are_utc(fleet: Fleet) -> None:
    env = {**fleet.env, "TZ": "Asia/Kolkata"}
    commands = [
        "status",
        "failed",
        "failed --list",
        "jobs",
        "jobs --list",
        "tasks",
        "cron --list",
        f"cron --check {fleet.crontab}",
    ]
    commands += [f"show {job.id}" for job in (fleet.running, fleet.failed)]
    times = []
    for line in commands:
        done = run("werk", *line.split(), "--json", env=env)
        for shown in done.stdout.splitlines():
            times += [(line, text) for text in strings(json.loads(shown)) if is_time(text)]
    assert [own for own in times if not own[1].endswith("Z")] == []
    assert {line.split()[0] for line, _ in times} == {"status", "failed", "jobs", "cron", "show"}


def strings(value: object) -> Iterator[str]:
    if isinstance(value, str):
        yield value
    elif isinstance(value, (dict, list)):
        for part in value.values() if isinstance(value, dict) else value:
            yield from strings(part)


def is_time(text: str) -> bool:
    try:
        return "T" in text and bool(datetime.fromisoformat(text))
    except ValueError:
        return False


def test_status_shows_the_calls_of_running_jobs(fleet: Fleet) -> None:
    shown = run("werk", "status", env={"COLUMNS": "300"}).stdout
    assert shown.count(f"{TASK}('/") == 3
    assert fleet.running.id in shown  # whole, in a pipe
    workers = json.loads(run("werk", "status", "--json").stdout)["workers"]
    assert {own["call"][: len(TASK)] for own in workers} == {TASK}


def test_status_shows_no_argument_of_a_plain_rq_job_and_no_secret(
    work: Start, connection: redis.Redis, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    table = "from werk.registry import Task\n"
    table += "TASKS = {'guard': Task('guards.guard', secret=('key',))}"
    code = (
        "from worker_tasks import block\ndef guard(folder: str, key: str): return block(folder)\n"
    )
    (tmp_path / "guard_table.py").write_text(table)
    (tmp_path / "guards.py").write_text(code)
    env = {"WERK_REGISTRY": f"{ENV['WERK_REGISTRY']},guard_table:TASKS"}
    env["PYTHONPATH"] = f"{PYTHONPATH}{os.pathsep}{tmp_path}"
    monkeypatch.setenv("WERK_REGISTRY", env["WERK_REGISTRY"])
    monkeypatch.syspath_prepend(tmp_path)
    for _ in range(2):
        work(env={**ENV, **PATIENT, **env})
    werk.enqueue("guard", str(tmp_path), "hunter2")
    Queue(connection=connection).enqueue("worker_tasks.block", str(tmp_path))
    begun(tmp_path, 2)
    for options in ([], ["--json"]):
        shown = run("werk", "status", *options, env={**env, "COLUMNS": "300"}).stdout
        assert "guard('" in shown and "***" in shown
        assert "worker_tasks.block" in shown
        assert "hunter2" not in shown and "worker_tasks.block(" not in shown


# --- on a terminal


@pytest.fixture
def terminal(spawn: Start) -> Callable[..., tuple[Process, Callable[[], str]]]:
    """Start a command on a terminal; return it, and a function that returns its output."""

    def start(*words: str, **env: str) -> tuple[Process, Callable[[], str]]:
        main = f"import pty, sys; sys.exit(pty.spawn({command(*words)!r}) >> 8)"
        process = spawn("python", "-c", main, env={"COLUMNS": "80", "TERM": "xterm", **env})
        return process, process.output

    return start


def test_a_terminal_has_colours_and_short_ids(
    terminal: Callable[..., tuple[Process, Callable[[], str]]],
    work: Start,
    connection: redis.Redis,
    tmp_path: Path,
) -> None:
    work()
    job = werk.enqueue("block", str(tmp_path))
    begun(tmp_path)
    werk.enqueue("block", str(tmp_path), options=werk.Options(queue="low"))
    for env, is_red in (({}, True), ({"NO_COLOR": "1"}, False), ({"TERM": "dumb"}, False)):
        process, output = terminal("werk", "status", **env)
        assert process.wait(60) == 0
        shown = output()
        assert f"{job.id[:8]} " in shown and job.id not in shown
        assert ("\x1b[31m" in shown) is is_red
        assert "critical" in shown
    assert "\x1b" not in run("werk", "status").stdout


# --- watch


def test_watch_prints_again_until_ctrl_c_also_while_redis_is_unreachable(
    server: Server, redis_url: str, spawn: Start
) -> None:
    watch = spawn("werk", "status", "--watch")
    wait_until(lambda: watch.output().count("no queue") >= 2)
    server.stop()
    wait_until(lambda: "was not reached" in watch.output())
    server.start()
    before = watch.output().count("no queue")
    wait_until(lambda: watch.output().count("no queue") > before)
    watch.send_signal(signal.SIGINT)
    assert watch.wait(60) == 0
    assert "\x1b" not in watch.output()
    assert re.search(r"(?m)^\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d[+-]\d\d:\d\d$", watch.output())


@pytest.mark.parametrize("option", ["--check", "--here", "--json"])
def test_watch_is_for_people(redis_url: str, option: str) -> None:
    done = run("werk", "status", "--watch", option)
    assert (done.returncode, "cannot be combined" in done.stderr) == (
        2 + (option != "--json"),
        True,
    )


@pytest.mark.parametrize(
    "value", [float("nan"), [1.5, {"a": float("inf"), 2.5: 1}], {(1, 2): b"x"}]
)
def test_json_is_valid_with_any_value(value: object, capsys: pytest.CaptureFixture[str]) -> None:
    def refuse(constant: str) -> None:
        raise AssertionError(constant)

    output.print_json({"result": value})
    found = json.loads(capsys.readouterr().out, parse_constant=refuse)["result"]
    assert found in ("nan", [1.5, {"a": "inf", "2.5": 1}], {"(1, 2)": "b'x'"})
