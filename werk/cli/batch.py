"""`werk-enqueue --batch`: a job for each line of a file. cli.py reads this when it is used.

A line is a JSON array of arguments, or an object of named ones. Lines are read, checked, sent and
told of in pieces, so that there may be any number of them.
"""

from __future__ import annotations

import gc
import os
import stat
import sys
import time
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from itertools import islice, repeat
from typing import BinaryIO

import click

from werk.cli.enqueue import How, handle_as_json, print_request
from werk.cli.output import connect, remark, say, say_json
from werk.client import enqueue as client
from werk.client.enqueue import CHUNK, PreparedJob
from werk.client.result import Handle
from werk.errors import (
    EXIT_BAD_LINES,
    EXIT_FAILED,
    EXIT_INTERRUPTED,
    EXIT_NO_JOB,
    ArgumentError,
    ResultTimeout,
    WerkError,
)
from werk.store import keys
from werk.store.connection import Link
from werk.tasks.catalog_page import Entry

FAILED = frozenset(("failed", "stopped", "canceled"))
ENDED = FAILED | {"finished", "gone"}
POLL_S = 0.1
POLLED = 1000  # jobs asked for in one round trip


def run(entry: Entry, file: BinaryIO, how: How) -> int | None:
    """Enqueue a job for each line of a file, name the bad lines, and wait for all if told to."""
    gc.enable()  # which cli.py goes without for the moment that one job takes
    how.options.treated(entry.task)  # what is wrong with all of them is said once
    said, link = Said(how), connect()
    size = _size(file)
    try:
        with _progress(size, said.has_bar) as advance:
            numbered = enumerate(file, 1)
            while piece := list(islice(numbered, CHUNK)):
                _enqueue(piece, entry, said, link)
                advance(file.tell() if size else said.last)
    except KeyboardInterrupt:
        remark(f"interrupted: {said.so_far()}")
        return EXIT_INTERRUPTED
    except WerkError as error:
        error.args = (f"{error}; {said.so_far()}",)
        raise
    said.sum_up()
    code = _wait(said, link) if said.ids else None
    return EXIT_BAD_LINES if said.bad else code


def _enqueue(piece: list[tuple[int, bytes]], entry: Entry, said: Said, link: Link) -> None:
    """Enqueue what lines ask for, and print what became of each."""
    how, now = said.how, time.time()
    found = [(number, _request(text, entry, how, now)) for number, text in piece if text.strip()]
    requests = [request for _, request in found if isinstance(request, PreparedJob)]
    handles = iter(client.send(requests, link) if requests and not how.dry_run else ())
    for number, request in found:
        said.last = number
        if isinstance(request, str):
            said.problem(number, request)
        elif how.dry_run:
            said.good += 1
            print_request(request, how)
        else:
            said.handle(number, next(handles))


def _request(line: bytes, entry: Entry, how: How, now: float) -> PreparedJob | str:
    """Return the job that a line asks for, or what is wrong with it."""
    try:
        text = line.strip().decode()
        args, kwargs = entry.shape.from_json(text, task=entry.name, secret=entry.task.secret)
        return client.prepare(entry, args, kwargs, how.options, now)
    except UnicodeDecodeError:
        return "not valid UTF-8"
    except ArgumentError as error:
        return str(error)


class Said:
    """What was printed so far."""

    def __init__(self, how: How) -> None:
        self.how = how
        self.has_bar = sys.stderr.isatty() and not how.quiet
        self.prints_ids = not how.quiet and not (self.has_bar and sys.stdout.isatty())
        self.good = self.bad = self.duplicates = self.last = 0
        self.ids: list[str] = []  # to wait for
        self._warnings: set[str] = set()

    def problem(self, number: int, text: str) -> None:
        """Say what is wrong with a line."""
        self.bad += 1
        self._note(f"line {number}: {text}")
        if self.how.as_json:
            say_json({"line": number, "error": text})

    def handle(self, number: int, handle: Handle) -> None:
        """Print the job of a line."""
        self.good += 1
        self.duplicates += handle.duplicate
        if self.how.wait:
            self.ids.append(handle.id)
        for text in set(handle.warnings) - self._warnings:
            self._warnings.add(text)
            if self.how.says(text):
                self._note(text)
        if self.how.as_json:
            say_json({"line": number, **handle_as_json(handle)})
        elif self.prints_ids:
            say(handle.id)

    def so_far(self) -> str:
        """Return how far it came, for who was interrupted."""
        return f"lines up to {self.last} are done, of the {CHUNK} after it some may be"

    def sum_up(self) -> None:
        """Print the counts, but with --quiet."""
        verb = "good" if self.how.dry_run else "enqueued"
        counts = [f"{self.good - self.duplicates:,} {verb}"]
        counts += [f"{self.duplicates:,} duplicates"] * (self.duplicates > 0)
        counts += [f"{self.bad:,} bad lines"] * (self.bad > 0)
        if not self.how.quiet:
            remark(", ".join(counts))

    def _note(self, text: str) -> None:
        if self.has_bar:
            click.echo("\r\033[K", nl=False, err=True)  # in the place of the bar, which comes again
        remark(text)


def _wait(said: Said, link: Link) -> int | None:
    """Wait until all have ended, and print how. Raises ResultTimeout."""
    left, ended, timeout_s = list(dict.fromkeys(said.ids)), Counter[str](), said.how.timeout
    begun = time.monotonic()
    with _progress(len(left), said.has_bar) as advance:
        while True:
            looked = time.monotonic()
            states = dict(zip(left, _states(left, link), strict=True))
            ended.update(state for state in states.values() if state in ENDED)
            left = [job_id for job_id, state in states.items() if state not in ENDED]
            advance(ended.total())
            if not left:
                break
            now = time.monotonic()
            if timeout_s is not None and now - begun >= timeout_s:
                late = f"{len(left):,} jobs have not ended in {timeout_s:g} s; they go on"
                raise ResultTimeout(late)
            time.sleep(max(POLL_S, now - looked))  # Redis has other things to do as well
    if not said.how.quiet:
        remark(", ".join(f"{count:,} {state}" for state, count in sorted(ended.items())))
    if FAILED & ended.keys():
        return EXIT_FAILED
    return EXIT_NO_JOB if ended["gone"] and said.how.options.result_ttl != 0 else None


def _states(ids: list[str], link: Link) -> Iterator[str]:
    """Yield the status of each job; 'gone': nothing is left of it."""
    for start in range(0, len(ids), POLLED):
        hashes = [keys.key("job", job_id) for job_id in ids[start : start + POLLED]]
        for state in link.calls([("HGET", key, "status") for key in hashes]):
            yield "gone" if state is None else state.decode("utf-8", "replace")


def _size(file: BinaryIO) -> int:
    """Return the bytes of a file; of a pipe 0, for nobody knows."""
    found = os.fstat(file.fileno())
    return found.st_size if stat.S_ISREG(found.st_mode) else 0


@contextmanager
def _progress(total: int, is_shown: bool) -> Iterator[Callable[[int], object]]:
    """Yield what is told how far it is, and shows that: of a total, or, of 0, the count alone."""
    if not is_shown:
        yield lambda reached: None
        return
    whole = None if total else repeat(None)
    with click.progressbar(whole, total or None, show_pos=not total, file=sys.stderr) as bar:
        yield lambda reached: bar.update(reached - bar.pos)
