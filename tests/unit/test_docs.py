"""README and docs/: links resolve, words are the field's, and what a page names is there."""

from __future__ import annotations

import inspect
import re
from pathlib import Path

import click
import doc_pages as docs
import pytest
import reference
from support import ROOT

from werk import errors, settings
from werk.cli.run import werk

FENCES = re.compile(r"^```text\n.*?^```$", re.DOTALL | re.MULTILINE)  # of the reference

CONTEXT = click.Context(werk)
COMMANDS = {name: werk.get_command(CONTEXT, name) for name in werk.list_commands(CONTEXT)}
EVERYTHING = "\n".join(page.read_text() for page in docs.PAGES)
every_page = pytest.mark.parametrize("page", docs.ALL, ids=docs.name)


@every_page
def test_every_link_resolves(page: Path) -> None:
    for target, anchor in docs.links(page):
        found = (page.parent / target).resolve() if target else page
        assert found.exists(), target
        assert not anchor or anchor in docs.anchors(found), f"{target}#{anchor}"


@pytest.mark.parametrize("page", [docs.ROOT / "docs" / "README.md"], ids=docs.name)
def test_the_index_has_every_page(page: Path) -> None:
    linked = {target for target, _ in docs.links(page)}
    assert {own.name for own in docs.PAGES[1:]} - linked <= {"README.md"}


@pytest.mark.parametrize("page", reference.pages(), ids=docs.name)
def test_what_is_made_from_the_code_is_up_to_date(page: Path) -> None:
    assert page.read_text() == reference.pages()[page], "run bin/docs"


@pytest.mark.parametrize("page", docs.PAGES, ids=docs.name)
def test_every_command_that_a_page_names_is_there(page: Path) -> None:
    for name, rest in re.findall(r"(?:`|^\$ |\| )werk ([a-z]+)([^`\n]*)", page.read_text(), re.M):
        assert name in COMMANDS, f"werk {name}"
        known = {word for p in COMMANDS[name].params for word in p.opts} | {"--help"}
        assert name in ("worker", "enqueue") or {*re.findall(r"--[a-z-]+", rest)} <= known, rest


def test_every_command_is_in_the_runbook() -> None:
    text = (ROOT / "docs" / "runbook.md").read_text()
    for name in COMMANDS:
        assert re.search(rf"^\| (`werk [^|]*`, )?`werk {name}\b", text, re.MULTILINE), name


def test_every_option_is_explained() -> None:
    options = [p for command in COMMANDS.values() for p in command.params]
    names = {word for p in options if isinstance(p, click.Option) for word in p.opts}
    written = FENCES.sub("", EVERYTHING)
    missing = [name for name in names if not re.search(rf"`[^`\n]*{name}\b", written)]
    assert missing in ([], ["--version"])


def test_every_exit_code_and_variable_is_in_it() -> None:
    page = (ROOT / "docs" / "settings.md").read_text()
    codes = {str(v) for n, v in vars(errors).items() if n.startswith("EXIT_")}
    assert codes <= set(re.findall(r"^\| (\d+) \|", page, re.MULTILINE))
    for name in {*re.findall(r'"((?:RQ|WERK)_\w+)"', inspect.getsource(settings))}:
        assert f"`{name}`" in page, name


def test_every_event_that_a_page_names_is_logged() -> None:
    source = "\n".join(path.read_text() for path in (ROOT / "werk").rglob("*.py"))
    for event in {*re.findall(r"event=([a-z-]+)", EVERYTHING)}:
        assert f"event={event}" in source or f'"{event}"' in source, event


def test_every_file_that_a_page_names_is_there() -> None:
    for path in {*re.findall(r"`((?:tests|deploy|bin|werk)/[\w./@-]+)", EVERYTHING)}:
        assert (ROOT / path).exists(), path


def test_every_script_has_its_invariant() -> None:
    text = (ROOT / "docs" / "architecture.md").read_text()
    scripts = {path.name for path in (ROOT / "werk" / "store" / "lua").glob("*.lua")}
    assert scripts - {*re.findall(r"^\| `(\w+\.lua)` \|", text, re.MULTILINE)} == set()
