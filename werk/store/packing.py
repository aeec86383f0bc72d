"""A command as Redis reads it."""

from __future__ import annotations

from typing import Any

import hiredis

from werk.printable import storable

WORD = b"$%d\r\n%b\r\n"  # its length in bytes, and itself


def packed(command: tuple[Any, ...]) -> Any:
    """Return a command as bytes, with an escape for each half of a character.

    Such text comes from a shell or from JSON. Nothing in Redis has such a name.
    """
    try:
        return hiredis.pack_command(command)
    except UnicodeEncodeError:
        words = tuple(storable(word) if isinstance(word, str) else word for word in command)
        return hiredis.pack_command(words)  # type: ignore[arg-type]


def first_words(words: tuple[Any, ...], count: int) -> bytes:
    """Return the first words of a command that has `count` words."""
    return b"*%d\r\n%b" % (count, packed(words).partition(b"\r\n")[2])


def as_bytes(text: str) -> bytes:
    """Return a text as bytes, with an escape for each half of a character."""
    return text.encode("utf-8", "backslashreplace")
