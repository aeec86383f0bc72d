"""Text from others: what is escaped, and what a shell reads."""

from __future__ import annotations

import shlex

import pytest

from werk.cli.tables import Column, Table
from werk.log_format import shown
from werk.printable import printable, printable_lines, shell_word, shell_words

ORDINARY = [
    "Ada", "é", "e\u0301", "漢字", "10\u202f000\u00a0€", "全角\u3000空白", "👩\u200d💻",
    "क\u200cष", "\ue0b0", "\U0001fae8", "שלום",
]  # fmt: skip
ESCAPED = [
    "\x00", "\x1b", "\r", "\x7f", "\x85", "\x9b", "\ud800", "\u2028", "\u2029", "\u202a", "\u202e",
    "\u2066", "\u2069", "\u200b", "\u200f", "\ufeff", "\u00ad", "\U000e0041",
]  # fmt: skip


@pytest.mark.parametrize("text", ORDINARY)
def test_ordinary_text_is_unchanged(text: str) -> None:
    assert printable(text) == printable(text, "?") == text
    assert printable_lines(f"{text}\n\t{text}") == f"{text}\n\t{text}"


@pytest.mark.parametrize("text", ESCAPED)
def test_what_steers_a_terminal_or_cannot_be_seen_is_escaped(text: str) -> None:
    escape = ascii(text)[1:-1]
    assert printable(f"a{text}\u00a0") == printable_lines(f"a{text}\u00a0") == f"a{escape}\u00a0"
    assert printable(text, "?") == "?"
    assert (printable("\n\t"), printable_lines("\n\t")) == ("\\n\\t", "\n\t")


@pytest.mark.parametrize("space", [" ", "\u00a0", "\u202f", "\u3000", "\u200d"])
def test_a_value_with_any_space_is_quoted_in_a_log_line(space: str) -> None:
    assert shown(f"a{space}b") == f'"a{space}b"'


def test_a_joiner_takes_no_column_of_a_table() -> None:
    head, *lines = Table(Column("NAME"), Column("N")).lines([("a\u200cb", 1), ("abc", 2)])
    assert [head, *lines] == ["NAME  N", "a\u200cb    1", "abc   2"]


@pytest.mark.parametrize(
    ("word", "quoted"),
    [
        ("KeyError: 'a'", "\"KeyError: 'a'\""),
        ("no 'a' for $HOME", "'no '\"'\"'a'\"'\"' for $HOME'"),
        ("plain", "plain"),
        ("two words", "'two words'"),
        ("low; touch x", "'low; touch x'"),
        ("a\u00a0b", r"$'a\u00a0b'"),
        ("", "''"),
    ],
)
def test_words_are_quoted_as_people_do(word: str, quoted: str) -> None:
    assert shell_word(word) == quoted
    assert not word.isprintable() or shlex.split(quoted) == [word]


def test_a_name_like_an_option_comes_after_two_dashes() -> None:
    assert shell_words("low", "high prio") == "low 'high prio'"
    assert shell_words("low", "--url=redis://x") == "-- low --url=redis://x"
