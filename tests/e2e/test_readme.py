"""The README says all there is to say, and what it shows is what happens."""

from __future__ import annotations

import inspect
import json
import re
import sys
from collections.abc import Callable
from pathlib import Path

import click
import pytest
import redis
import roles
from support import ROOT, Process, run, wait_until

from werk import errors, settings
from werk.cli.run import werk
from werk.dev.server import free_port
from werk.ops.snapshot import Snapshot
from werk.store.connection import Link, link

README = (ROOT / "README.md").read_text()
CONSOLES = re.findall(r"```console\n(.*?)```", README, re.DOTALL)
ID = re.compile(r"[0-9a-f]{8}(-[0-9a-f]{4}){3}-[0-9a-f]{12}")


@pytest.fixture
def light(redis_url: str) -> Link:
    return link(roles.settings("reader"))


def shown(start: str) -> list[tuple[str, str]]:
    """Return the commands of the README that start so, each with the output under it."""
    pairs = [part.partition("\n")[::2] for text in CONSOLES for part in text.split("$ ")[1:]]
    return [(command, output) for command, output in pairs if command.startswith(start)]


CONTEXT = click.Context(werk)
COMMANDS = {name: werk.get_command(CONTEXT, name) for name in werk.list_commands(CONTEXT)}
OPTIONS = {
    name
    for command in COMMANDS.values()
    for option in command.params
    if isinstance(option, click.Option)
    for name in option.opts
}


@pytest.mark.parametrize("name", [*COMMANDS, *sorted(OPTIONS)])
def test_every_command_and_option_is_in_it(name: str) -> None:
    assert name == "--version" or re.search(rf"`[^`\n]*{name}\b", README)


PAGES = sorted(ROOT.glob("docs/*.md"))


@pytest.mark.parametrize("page", [ROOT / "README.md", *PAGES], ids=lambda page: page.name)
def test_every_command_that_a_page_names_is_there(page: Path) -> None:
    text = page.read_text()
    named = re.findall(r"(?:`|^\$ |\| )werk ([a-z]+)([^`\n]*)", text, re.MULTILINE)
    assert named
    for name, rest in named:
        assert name in COMMANDS, f"werk {name}"
        command = COMMANDS[name]
        known = {o for p in command.params for o in p.opts} | {"--help"}
        assert name in ("worker", "enqueue") or {*re.findall(r"--[a-z-]+", rest)} <= known, rest
    for target in re.findall(r"\]\((?!https?:)([^)#]+)\)", text):
        assert (page.parent / target).exists(), target


def test_every_command_has_its_use_at_night() -> None:
    text = (ROOT / "docs" / "operations.md").read_text()
    for name in COMMANDS:
        assert re.search(rf"^\| (`werk [^|]*`, )?`werk {name}\b", text, re.MULTILINE), name


def test_every_exit_code_and_variable_is_in_it() -> None:
    codes = {str(v) for n, v in vars(errors).items() if n.startswith("EXIT_")}
    assert codes <= set(re.findall(r"^\| (\d+) \|", README, re.MULTILINE))
    for name in set(re.findall(r'get\("(\w+)"\)', inspect.getsource(settings))):
        assert f"`{name}`" in README or name in {"HOME", "XDG_STATE_HOME"}


def test_its_commands_print_what_it_shows(
    spawn: Callable[..., Process], connection: redis.Redis
) -> None:
    spawn("werk", "worker", "default")
    wait_until(lambda: connection.exists("rq:werk:serves:default"))
    examples = [*shown("werk-enqueue"), *shown("printf"), *shown("werk tasks")]
    assert len(examples) >= 6
    path = f"{Path(sys.executable).parent}:/usr/bin:/bin"
    for command, output in examples:
        printed = run("/bin/bash", "-c", f"({command}) 2>&1", env={"PATH": path}).stdout
        parts = ID.sub("ID", output).split("...\n")
        wanted = r"(.*\n)*".join(re.escape(part) for part in parts)
        assert re.fullmatch(wanted, ID.sub("ID", printed)), printed


def test_every_command_of_it_is_run_here() -> None:
    ours = "werk-enqueue printf bin/demo werk".split()
    known = [*ours, ".", "bin/test", "old=$(werk", "RQ_DASHBOARD_PASSWORD=choose-one"]
    assert {command.split()[0] for command, _ in shown("")} == set(known)
    names = {command.split()[1] for command, _ in shown("werk ")}
    assert names == {
        "tasks",
        "failed",
        "retry",
        "status",
        "drain",
        "up",
        "dashboard",
        "worker",
        "result",
    }


def test_its_first_command_shows_what_it_shows() -> None:
    def lines(text: str) -> list[str]:
        text = re.sub(r"127.0.0.1:\d+", "ADDRESS", ID.sub("ID", text))
        return re.sub(r"/\S*/data|\d+\.\d+\.\d+", "SUCH", text).splitlines()

    wanted = lines(CONSOLES[0].partition("$ bin/test")[0])[1:]
    assert set(wanted) - {"..."} <= set(lines(run(ROOT / "bin" / "demo").stdout))


@pytest.mark.parametrize("start", ["werk up", "werk dashboard"])
def test_what_it_starts_answers(start: str, spawn: Callable[..., Process], redis_url: str) -> None:
    port = str(free_port())  # 9181 may be somebody's
    (command, _), *_ = shown(start)
    process = spawn(*command.partition("#")[0].split(), "--port", port)
    wait_until(lambda: f":{port}" in process.output())
    process.terminate()
    assert process.wait(60) == 0


def test_its_redeploy_loses_no_worker(spawn: Callable[..., Process], light: Link) -> None:
    def begun() -> Process:
        process = spawn("werk", "worker", "default")
        wait_until(lambda: [w.pid for w in Snapshot.read(light).workers] == [process.pid])
        return process

    first = begun()
    second, *both = [text for text in CONSOLES if "werk drain" in text]
    path = f"{Path(sys.executable).parent}:/usr/bin:/bin"
    run("/bin/bash", "-c", second.replace("$ ", "", 1), env={"PATH": path})
    assert first.wait(60) == 0
    old = begun()
    [recipe] = both
    script = re.sub(r"^\$ ", "", recipe, flags=re.MULTILINE).replace(" &\n", " >&2 & new=$!\n")
    # The new worker works, and is not left running.
    after = "until werk ping default; do sleep 0.1; done; kill $new; wait $new"
    done = run("/bin/bash", "-ec", f"{script}\n{after}", env={"PATH": path})
    assert (done.returncode, old.wait(60)) == (0, 0), done.stderr


def test_its_status_looks_so(
    spawn: Callable[..., Process], light: Link, connection: redis.Redis
) -> None:
    def shape(text: str) -> list[str]:
        """Return the lines, with one word for each name, id and number."""
        text = re.sub(r"\S*:\d+(:\w+|/\d+)?|valkey \S+", "NAME", ID.sub("ID", text))
        return [re.sub(r"[\d.]+", "N", " ".join(line.split())) for line in text.splitlines()]

    spawn("werk", "worker", "default")
    wait_until(lambda: Snapshot.read(light).workers)
    run("werk-enqueue", "--wait", "panic")
    for _ in range(3):
        run("werk-enqueue", "sleep", "60")
    for _ in range(12):
        run("werk-enqueue", "--quiet", "--queue", "low", "sleep", "1")
    wait_until(lambda: Snapshot.read(light).queues["default"].running)
    (_, table), (_, check) = shown("werk status")
    heads = ("queue", "worker", "critical", "")
    kept = [line for line in shape(table) if line.startswith(heads[:3])]
    found = shape(run("werk", "status").stdout)
    assert kept == [line for line in found if line.startswith(heads[:3])]
    for one, other in (("redis", "redis"), ("default", "default"), ("low", "low")):
        [wanted] = [line for line in shape(table) if line.startswith(one)]
        [line] = [line for line in found if line.startswith(other)]
        assert len(line.split()) >= len(wanted.split()) - 1, line
    said = run("werk", "status", "--check")
    assert said.returncode == errors.EXIT_USAGE
    assert shape(said.stdout)[0].partition("|")[0] == shape(check)[0].partition("|")[0]


def test_its_crontab_is_one(tmp_path: Path) -> None:
    [text] = re.findall(r"```\n(# crontab;.*?)```", README, re.DOTALL)
    (tmp_path / "crontab").write_text(text)
    done = run("werk", "cron", "--check", "--json", tmp_path / "crontab")
    calls = [line["call"] for line in json.loads(done.stdout)]
    assert calls == ["sleep(1.0)", "hello('the night shift')", "hello('Ada')"]


def test_what_it_shows_of_failed_jobs(spawn: Callable[..., Process], redis_url: str) -> None:
    spawn("rq", "worker", "default")
    path = f"{Path(sys.executable).parent}:/usr/bin:/bin"
    for _ in range(3):
        run("werk-enqueue", "--wait", "panic")
    examples = [*shown("werk failed"), *shown("werk retry")]
    assert len(examples) == 2
    for command, output in examples:
        printed = run("/bin/bash", "-c", f"({command}) 2>&1", env={"PATH": path}).stdout
        time = re.compile(r"\d\d-\d\d \d\d:\d\d:\d\d")
        assert time.sub("TIME", printed) == time.sub("TIME", output)
