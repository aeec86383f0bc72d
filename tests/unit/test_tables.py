"""Tables and long lines that fit."""

from __future__ import annotations

import pytest

from werk.cli import tables
from werk.cli.tables import Column, Table, cut, wrap
from werk.printable import short


@pytest.fixture(autouse=True)
def _width(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("COLUMNS", "30")


def test_numbers_are_on_the_right_and_the_head_comes_once() -> None:
    table = Table(Column("QUEUE", 5), Column("WAITING"))
    assert table.lines([]) == []
    assert table.lines([("a", 5), ("low", 1000)]) == [
        "QUEUE  WAITING",
        "a            5",
        "low       1000",
    ]
    assert table.lines([("longer-name", 7)]) == ["longer-name        7"]


def test_the_widest_columns_are_cut() -> None:
    table = Table(Column("ID"), Column("TASK", 6), Column("ERROR", 6))
    head, line = table.lines([("12345678", "t" * 30, "e" * 50)])
    assert line == "12345678  tttttt...  eeeeee..."
    assert len(line) == 30
    assert head == "ID        TASK       ERROR"


def test_an_id_is_whole_though_the_line_is_too_long() -> None:
    [_, line] = Table(Column("ID"), Column("ERROR", 6)).lines([("i" * 36, "e" * 50)])
    assert line == f"{'i' * 36}  eee..."


@pytest.mark.parametrize(("columns", "width"), [("100", 100), ("1", 20), ("", 80), ("x", 80)])
def test_the_width_is_that_of_columns(
    monkeypatch: pytest.MonkeyPatch, columns: str, width: int
) -> None:
    monkeypatch.setenv("COLUMNS", columns)
    with open("/dev/null") as file:
        assert tables.width(file) == width


def test_long_lines_are_wrapped_and_keep_their_indent() -> None:
    assert wrap("a" * 20 + " " + "b" * 8 + " c", 30) == ["a" * 20 + " " + "b" * 8, "    c"]
    assert wrap("  at " + "x" * 30, 20, "", "call  ")[0].startswith("call    at")
    assert wrap("", 20, first="call ") == ["call"]
    assert all(len(line) <= 20 for line in wrap("x" * 500, 20))
    assert wrap("a\x1b[2J\nb", 80) == ["a\\x1b[2J\\nb"]


def test_a_cut_is_shown() -> None:
    assert (cut("abcdef", 6), cut("abcdefg", 6)) == ("abcdef", "abc...")


@pytest.mark.parametrize(
    ("job", "shown"),
    [
        ("9f2c41d8-7b1e-4a55-9c0b-2f6a1d3c8e77", "9f2c41d8"),
        ("invoice-2026-11", "invoice-2026-11"),
        ("i" * 21, "i" * 17 + "..."),
        ("9f2c41d8-7b1e", "9f2c41d8-7b1e"),
    ],
)
def test_an_id_is_short_for_people(job: str, shown: str) -> None:
    assert short(job) == shown


def columns_of(line: str) -> int:
    """Return how many columns a line takes: two for each character of these texts."""
    return sum(1 if own.isascii() else 2 for own in line)


@pytest.mark.parametrize("text", ["漢字" * 60, "ab漢字 " * 20, "🚀x" * 50])
def test_a_character_of_two_columns_counts_as_two(
    monkeypatch: pytest.MonkeyPatch, text: str
) -> None:
    monkeypatch.setenv("COLUMNS", "80")
    lines = Table(Column("ID"), Column("CALL", 12), Column("N")).lines(
        [("a", text, 1), ("b", "c", 2)]
    )
    assert max(map(columns_of, lines)) <= 80
    assert len({columns_of(line) for line in lines}) == 1  # the numbers are below each other
    wrapped = wrap(text, 80)
    assert max(map(columns_of, wrapped)) <= 80
    assert "".join("".join(wrapped).split()) == "".join(text.split())
