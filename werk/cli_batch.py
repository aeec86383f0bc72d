"""What `werk-enqueue --batch` prints. cli.py reads this when it is used."""

from __future__ import annotations

import gc
import os
import stat
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from itertools import repeat
from typing import TYPE_CHECKING, BinaryIO

import click

from werk import batch
from werk.batch import Line, Prepare
from werk.cli import _handle_as_json, _opened, _print_request
from werk.client import CHUNK
from werk.errors import (
    EXIT_BAD_LINES,
    EXIT_FAILED,
    EXIT_INTERRUPTED,
    EXIT_NO_JOB,
    WerkError,
)
from werk.link import Link
from werk.terminal import connect, remark, say_json

if TYPE_CHECKING:
    from werk.cli import EnqueueOptions

Progress = Callable[[int], object]
FAILED = ("failed", "stopped", "canceled")


class Said:
    """What was printed so far."""

    def __init__(self, how: EnqueueOptions) -> None:
        self.how = how
        self.has_bar = sys.stderr.isatty() and not how.quiet
        self.prints_ids = not how.quiet and not (self.has_bar and sys.stdout.isatty())
        self.good = self.bad = self.duplicates = self.last = 0
        self.ids: list[str] = []  # to wait for
        self._warnings: set[str] = set()

    def say(self, line: Line) -> None:
        """Print what became of a line."""
        self.last = line.number
        if line.request is None:
            self.bad += 1
            self.note(f"line {line.number}: {line.problem}")
            if self.how.as_json:
                say_json({"line": line.number, "error": line.problem})
            return
        self.good += 1
        if line.handle is None:
            _print_request(line.request, self.how)
            return
        self.duplicates += line.handle.duplicate
        if self.how.wait:
            self.ids.append(line.handle.id)
        for text in set(line.handle.warnings) - self._warnings:
            self._warnings.add(text)
            if self.how.says(text):
                self.note(text)
        if self.how.as_json:
            say_json({"line": line.number, **_handle_as_json(line.handle)})
        elif self.prints_ids:
            click.echo(line.handle.id)

    def note(self, text: str) -> None:
        if self.has_bar:
            click.echo("\r\033[K", nl=False, err=True)  # in the place of the bar, which comes again
        remark(text)

    def sum_up(self) -> None:
        if self.how.quiet:
            return
        verb = "good" if self.how.dry_run else "enqueued"
        counts = [f"{self.good - self.duplicates:,} {verb}"]
        counts += [f"{self.duplicates:,} duplicates"] * (self.duplicates > 0)
        counts += [f"{self.bad:,} bad lines"] * (self.bad > 0)
        remark(", ".join(counts))


def run(prepare: Prepare, path: str, how: EnqueueOptions) -> int | None:
    """Enqueue a job for each line of a file, name the bad lines, and wait for all if told to."""
    gc.enable()  # which cli.py goes without for the moment that one job takes
    said, link = Said(how), connect()
    with _opened(path) as file:
        pieces = batch.check(file, prepare) if how.dry_run else batch.enqueue(file, prepare, link)
        size = _size(file)
        try:
            with _progress(size, said.has_bar) as advance:
                for piece in pieces:
                    for line in piece:
                        said.say(line)
                    advance(file.tell() if size else said.last)
        except KeyboardInterrupt:
            remark(f"interrupted: {_so_far(said.last)}")
            return EXIT_INTERRUPTED
        except WerkError as error:
            error.args = (f"{error}; {_so_far(said.last)}",)
            raise
    said.sum_up()
    code = _wait(said, link) if said.ids else None
    return EXIT_BAD_LINES if said.bad else code


def _so_far(last: int) -> str:
    return f"lines up to {last} are done, of the {CHUNK} after it some may be"


def _wait(said: Said, link: Link) -> int | None:
    with _progress(len(set(said.ids)), said.has_bar) as advance:
        ended = batch.wait(said.ids, link, said.how.timeout, advance)
    if not said.how.quiet:
        remark(", ".join(f"{count:,} {state}" for state, count in sorted(ended.items())))
    if any(ended[state] for state in FAILED):
        return EXIT_FAILED
    return EXIT_NO_JOB if ended["gone"] and said.how.options.result_ttl != 0 else None


def _size(file: BinaryIO) -> int:
    """Return the bytes of a file; of a pipe 0, for nobody knows."""
    found = os.fstat(file.fileno())
    return found.st_size if stat.S_ISREG(found.st_mode) else 0


@contextmanager
def _progress(total: int, is_shown: bool) -> Iterator[Progress]:
    """Yield what is told how far it is, and shows that: of a total, or, of 0, the count alone."""
    if not is_shown:
        yield lambda reached: None
        return
    whole = None if total else repeat(None)
    with click.progressbar(whole, total or None, show_pos=not total, file=sys.stderr) as bar:
        yield lambda reached: bar.update(reached - bar.pos)
