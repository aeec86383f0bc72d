"""Lines for people: tables and long texts that fit the terminal, and colours.

Where the width of stdout is unknown, such as in a pipe, it is 80. COLUMNS sets it.
"""

from __future__ import annotations

import os
import sys
from collections.abc import Callable, Sequence
from typing import NamedTuple, TextIO

import click

from werk.printable import JOINERS, cut, printable
from werk.settings import Settings

INDENT, GAP = " " * 4, " " * 2
USUAL, NARROWEST = 80, 20
LONGEST_CELL = 200  # characters; ids are not cut to fit
WIDE = "\0"  # stands before a character that takes two columns, until the line is printed
COLORS = {"critical": "red", "warning": "yellow"}


class Column(NamedTuple):
    """A column of a table."""

    title: str
    least: int = 0  # cells may be cut to this many columns; 0: they are never cut


class Table:
    """A table that may be printed in pieces; the header comes with the first rows.

    Numbers are right-aligned. The widest columns are cut if a line would be too long.
    """

    def __init__(self, *columns: Column) -> None:
        self.columns, self.widths = columns, [0] * len(columns)

    def lines(self, rows: Sequence[Sequence[object]]) -> list[str]:
        """Return the rows as lines."""
        if not rows:
            return []
        cells = [[_cell(value) for value in row] for row in rows]
        if not any(self.widths):
            cells.insert(0, [column.title for column in self.columns])
        for at, column in enumerate(zip(*cells, strict=True)):
            self.widths[at] = max(self.widths[at], *map(len, column))
        self._fit(width())
        numbers = [
            any(isinstance(own, int) for own in column) for column in zip(*rows, strict=True)
        ]
        justify = [str.rjust if is_number else str.ljust for is_number in numbers]
        return [self._line(line, justify) for line in cells]

    def _fit(self, most: int) -> None:
        """Make the widest columns narrower until a line fits."""
        least = [column.least or LONGEST_CELL for column in self.columns]
        while sum(self.widths) + len(GAP) * (len(least) - 1) > most:
            wide = [at for at, narrow in enumerate(least) if self.widths[at] > narrow]
            if not wide:
                break
            self.widths[max(wide, key=self.widths.__getitem__)] -= 1

    def _line(self, line: Sequence[str], justify: Sequence[Callable[[str, int], str]]) -> str:
        sized = zip(justify, line, self.widths, strict=True)
        text = GAP.join(place(*_fitted(cell, most)) for place, cell, most in sized).rstrip()
        text = cut(text, width()) if sys.stdout.isatty() else text
        # Where cut() has put "..." in the place of a character, it has left the mark before it.
        return text.replace(f"{WIDE}.", " .").replace(WIDE, "")


def width(stream: TextIO | None = None, unknown: int = USUAL) -> int:
    """Return how many columns a line of a stream has, by default of stdout."""
    if found := Settings.columns():
        return max(NARROWEST, found)
    try:
        found = os.get_terminal_size((stream or sys.stdout).fileno()).columns
    except (OSError, ValueError):  # a file, a pipe, a stream of a test
        found = 0
    return max(NARROWEST, found) if found else unknown


def wrap(text: str, most: int, indent: str = INDENT, first: str = "") -> list[str]:
    """Return a text in lines of at most `most` columns; all but the first are indented.

    The first begins with `first`. A text that is already indented keeps its indentation.
    """
    from textwrap import wrap as wrapped  # an enqueue rarely needs it

    shown = spread(text)
    most -= WIDE in shown  # a line may end between a mark and its character
    lead = shown[: len(shown) - len(shown.lstrip())][: most // 2]
    found = wrapped(
        shown.strip(),
        most,
        initial_indent=first + lead,
        subsequent_indent=indent + lead,
        break_on_hyphens=False,
    )
    return [line.replace(WIDE, "") for line in found] or [first.rstrip()]


def spread(text: str) -> str:
    """Return a text as it is printed, with as many characters as it takes columns: see WIDE."""
    shown = printable(text)
    if shown.isascii():
        return shown
    from unicodedata import east_asian_width

    return "".join(WIDE + own if east_asian_width(own) in "WF" else own for own in shown)


def level(name: str) -> str:
    """Return the name of a level, in its colour on a terminal."""
    if not (sys.stdout.isatty() and Settings.wants_color()):
        return name
    return click.style(name, fg=COLORS.get(name), bold=True)


def _fitted(cell: str, most: int) -> tuple[str, int]:
    """Return a cell of at most `most` columns, and how many characters fill these columns."""
    shown = cut(cell, most)
    return shown, most + sum(map(shown.count, JOINERS))


def _cell(value: object) -> str:
    text = "" if value is None else str(value)
    return spread(cut(text, LONGEST_CELL))
