"""Text from others, made safe to print: it cannot control a terminal or forge a line.

Everything that werk prints, logs or shows of a name, a record or a traceback passes through here.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence

_UUID = r"[0-9a-f]{8}-[0-9a-f]{4}-[0-9a-f]{4}-[0-9a-f]{4}-[0-9a-f]{12}"
SHORT, LONGEST_ID = 8, 20  # characters of a UUID, and of any other id, that people see
# Unicode categories: control, format (also of direction), half a character, ends of lines.
_ESCAPED = ("Cc", "Cf", "Cs", "Zl", "Zp")
JOINERS = "\u200c\u200d"  # format characters of ordinary words and emoji; they take no column


def printable(text: str, mark: str = "") -> str:
    """Return text on one line: an escape, or `mark`, for each character that is not shown."""
    if text.isprintable():
        return text
    return "".join(c if _is_shown(c) else mark or _escaped(c) for c in text)


def printable_lines(text: str) -> str:
    """Return a text of several lines, such as a traceback: its newlines and tabs stay."""
    if text.isprintable():
        return text
    return "".join(c if c in "\n\t" or _is_shown(c) else _escaped(c) for c in text)


def storable(text: str) -> str:
    """Return a text that Redis can store: an escape for each half of a character in it."""
    return text.encode("utf-8", "backslashreplace").decode()


def is_storable(text: str) -> bool:
    """Return whether Redis can store a text as it is: whether it is valid as UTF-8."""
    return text == storable(text)


def shell_word(word: str) -> str:
    """Return a word as a shell reads it; one that is not printable as bash and zsh do."""
    if word.isprintable():
        import shlex  # takes 0.3 ms, and most enqueues name no command

        is_easy = "'" in word and not set('"$`\\!') & set(word)
        return f'"{word}"' if is_easy else shlex.quote(word)
    escape = {"\\": "\\\\", "'": "\\'"}
    shown = (escape.get(c, c if c.isprintable() else _shell_escape(c)) for c in word)
    return f"$'{''.join(shown)}'"


def shell_words(*names: str) -> str:
    """Return names as the arguments of a command: after --, if one is like an option."""
    shown = " ".join(map(shell_word, names))
    return f"-- {shown}" if any(name.startswith("-") for name in names) else shown


def listed(names: Sequence[str], most: int = 5) -> str:
    """Return the first of some names, and how many more there are."""
    more = f" and {len(names) - most} more" if len(names) > most else ""
    return ", ".join(names[:most]) + more


def near(name: str, known: Iterable[str], otherwise: str = "; see werk status") -> str:
    """Return what to add to an error about an unknown name: the nearest of the known ones."""
    import difflib  # only on the way to an error

    found = difflib.get_close_matches(name[:80], [*known], n=1, cutoff=0.5)
    return f"; did you mean {found[0]!r}?" if found else otherwise


def counted(count: int, noun: str) -> str:
    """Return a count with its noun in the singular or in the plural: 1 worker, 2 workers."""
    return f"{count} {noun}{'' if count == 1 else 's'}"


def cut(text: str, most: int) -> str:
    """Return a text of at most `most` characters, with ... for the part that is left out."""
    return text if len(text) <= most else f"{text[: most - 3]}..."


def short(job_id: str) -> str:
    """Return the beginning of a job's id, for people. Pipes, logs and JSON have the whole id."""
    if re.fullmatch(_UUID, job_id):
        return job_id[:SHORT]
    return cut(job_id, LONGEST_ID)


def _is_shown(character: str) -> bool:
    """Return whether a character is printed as it is: any but those that steer or are not seen."""
    if character.isprintable() or character in JOINERS:
        return True
    from unicodedata import category  # most texts do not need it

    return category(character) not in _ESCAPED


def _escaped(character: str) -> str:
    return ascii(character)[1:-1]


def _shell_escape(character: str) -> str:
    number = ord(character)
    return f"\\u{number:04x}" if number < 0x10000 else f"\\U{number:08x}"
