"""Text from others: what is escaped, and what a shell reads."""

from __future__ import annotations

import shlex

import pytest

from werk.printable import shell_word, shell_words


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
