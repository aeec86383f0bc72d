"""The words of the project: the list of retired phrases is used, and finds what it should."""

from __future__ import annotations

import pytest
import words
from support import ROOT


@pytest.mark.parametrize(
    ("text", "found"),
    [
        ("no worker that lives", ["that lives"]),
        ("tasks that live workers serve", []),
        ("jobs are put\n    # off, and Redis is\n-- away", ["put # off", "Redis is -- away"]),
        ("Likewise, a stock_worker", ["Likewise", "stock_worker"]),
        ("the set werk:tallies; was `event=put-off`", []),
    ],
)
def test_a_retired_phrase_is_found(text: str, found: list[str]) -> None:
    assert sorted(phrase for _, phrase, _ in words.find(text)) == sorted(found)


def test_the_line_is_that_of_its_first_word() -> None:
    [(line, _, instead)] = words.find("fine\nand it is\naway")
    assert (line, instead) == (2, "unreachable")


def test_each_kind_of_file_is_read() -> None:
    names = {path.relative_to(ROOT).as_posix() for path in words.files()}
    assert {
        "CHANGELOG.md",
        "bin/chaos",
        "deploy/werk-worker@.service",
        "setup.cfg",
        "tests/conftest.py",
        "werk/store/lua/step.lua",
        "werk/web/templates/rq_dashboard/job.html",
    } <= names
    assert not [name for name in names if name.startswith("tests/data")]


def test_there_is_none(capsys: pytest.CaptureFixture[str]) -> None:
    assert words.main() == 0, capsys.readouterr().out
