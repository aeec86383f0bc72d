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
from support import Process, run, wait_until

from werk import cli, cli_ops, errors, settings

ROOT = Path(__file__).parent.parent
README = (ROOT / "README.md").read_text()
CONSOLES = re.findall(r"```console\n(.*?)```", README, re.DOTALL)
ID = re.compile(r"[0-9a-f]{8}(-[0-9a-f]{4}){3}-[0-9a-f]{12}")


def shown(start: str) -> list[tuple[str, str]]:
    """Return the commands of the README that start so, each with the output under it."""
    pairs = [part.partition("\n")[::2] for text in CONSOLES for part in text.split("$ ")[1:]]
    return [(command, output) for command, output in pairs if command.startswith(start)]


@pytest.mark.parametrize(
    "name",
    [
        *cli.werk.list_commands(click.Context(cli.werk)),
        *(
            o
            for name in cli.Commands.OF_OPERATORS
            for p in getattr(cli_ops, name).params
            if isinstance(p, click.Option)
            for o in p.opts
        ),
        *(
            o
            for own in (cli.enqueue, cli.cron)
            for p in own.params
            if isinstance(p, click.Option)
            for o in p.opts
        ),
    ],
)
def test_every_command_and_option_is_in_it(name: str) -> None:
    assert name == "--version" or re.search(rf"`[^`\n]*{name}\b", README)


PAGES = sorted(ROOT.glob("docs/*.md"))


@pytest.mark.parametrize("page", [ROOT / "README.md", *PAGES], ids=lambda page: page.name)
def test_every_command_that_a_page_names_is_there(page: Path) -> None:
    text = page.read_text()
    named = re.findall(r"(?:`|^\$ |\| )werk ([a-z]+)([^`\n]*)", text, re.MULTILINE)
    assert named or page.name == "wire.md"
    for name, rest in named:
        command = cli.werk.get_command(click.Context(cli.werk), name)
        assert command, f"werk {name}"
        known = {o for p in command.params for o in p.opts} | {"--help"}
        assert name in ("worker", "enqueue") or {*re.findall(r"--[a-z-]+", rest)} <= known, rest
    for link in re.findall(r"\]\((?!https?:)([^)#]+)\)", text):
        assert (page.parent / link).exists(), link


def test_every_command_has_its_use_at_night() -> None:
    text = (ROOT / "docs" / "operations.md").read_text()
    for name in cli.werk.list_commands(click.Context(cli.werk)):
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
