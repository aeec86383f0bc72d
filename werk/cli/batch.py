"""`werk-enqueue --batch`: a job for each line of a file. enqueue.py imports this when it is used.

A line is a JSON array of arguments, or an object of named ones. Lines are read, checked, sent and
reported in pieces, so that a file may have any number of them.
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

from werk import errors
from werk.cli import output
from werk.cli.output import Invocation
from werk.client import enqueue as client
from werk.client.enqueue import CHUNK
from werk.client.enqueue import PreparedJob as Request
from werk.client.options import Options
from werk.client.result import Handle
from werk.errors import ArgumentError, ResultTimeout, WerkError
from werk.store import keys
from werk.store.connection import Link
from werk.tasks.catalog_page import Entry

FAILED = frozenset(("failed", "stopped", "canceled"))
ENDED = FAILED | {"finished", "gone"}
POLL_S = 0.1
POLLED = 1000  # jobs asked for in one round trip
ENQUEUED = "the jobs of the batch are enqueued and continue: werk result ID"


def run(entry: Entry, file: BinaryIO, invocation: Invocation) -> int | None:
    """Enqueue a job for each line of a file, report the bad lines, and wait if --wait is set."""
    gc.enable()  # enqueue.py does without it while it sends one job
    task = invocation.options.treated(entry.task)  # reports a mistake in the options once
    report, link = Report(invocation), output.connect()
    size = _size(file)
    try:
        with _progress(size, report.has_bar) as advance:
            for piece in _pieces(file):
                _enqueue(piece, entry, report, link)
                report.last = piece[-1][0]
                advance(file.tell() if size else report.last)
    except KeyboardInterrupt:
        output.print_note(f"interrupted: {report.so_far()}")
        return errors.EXIT_INTERRUPTED
    except OSError:  # a full disk, a reader that has exited
        output.print_note(report.so_far())
        raise
    except WerkError as error:
        client.say_so_far(error, report.so_far(error))
        raise
    report.sum_up()
    try:
        with output.naming(ENQUEUED):
            code = _wait(report, link, task.result_ttl != 0) if report.ids else None
    except KeyboardInterrupt:
        output.print_note(f"interrupted; {ENQUEUED}")
        return errors.EXIT_INTERRUPTED
    return errors.EXIT_BAD_LINES if report.bad else code


def _pieces(file: BinaryIO) -> Iterator[list[tuple[int, bytes]]]:
    """Yield the lines of a file with their numbers, in pieces. Raises WerkError."""
    numbered = enumerate(file, 1)
    try:
        while piece := list(islice(numbered, CHUNK)):
            yield piece
    except OSError as error:
        raise WerkError(f"cannot read {file.name}: {error.strerror or error}") from None


def _enqueue(piece: list[tuple[int, bytes]], entry: Entry, report: Report, link: Link) -> None:
    """Enqueue the jobs that lines ask for, and print the outcome of each line."""
    invocation, options, now = report.invocation, report.invocation.options, time.time()
    found = [(n, _request(text, entry, options, now)) for n, text in piece if text.strip()]
    requests = [request for _, request in found if isinstance(request, Request)]
    handles = iter(client.deliver(requests, link) if requests and not invocation.dry_run else ())
    report.sent = piece[-1][0]
    for number, request in found:
        if isinstance(request, str):
            report.problem(number, request)
        elif invocation.dry_run:
            report.good += 1
            output.print_request(request, invocation)
        else:
            report.handle(number, next(handles))


def _request(line: bytes, entry: Entry, options: Options, now: float) -> Request | str:
    """Return the job that a line asks for, or what is wrong with it."""
    try:
        text = line.strip().decode()
        args, kwargs = entry.shape.from_json(text, task=entry.name, secret=entry.task.secret)
        return client.prepare(entry, args, kwargs, options, now)
    except UnicodeDecodeError:
        return "not valid UTF-8"
    except ArgumentError as error:
        return str(error)


class Report:
    """What was printed so far."""

    def __init__(self, invocation: Invocation) -> None:
        self.invocation = invocation
        self.has_bar = sys.stderr.isatty() and not invocation.quiet
        self.prints_ids = not invocation.quiet and not (self.has_bar and sys.stdout.isatty())
        self.good = self.bad = self.duplicates = 0
        self.sent = self.last = 0  # numbers of lines: sent to Redis; and their outcome was printed
        self.ids: list[str] = []  # to wait for
        self._warnings: set[str] = set()

    def problem(self, number: int, text: str) -> None:
        """Print what is wrong with a line."""
        self.bad += 1
        self._note(f"line {number}: {text}")
        if self.invocation.as_json:
            output.print_json({"line": number, "error": text})

    def handle(self, number: int, handle: Handle) -> None:
        """Print the job of a line."""
        self.good += 1
        self.duplicates += handle.duplicate
        if self.invocation.wait:
            self.ids.append(handle.id)
        for text in set(handle.warnings) - self._warnings:
            self._warnings.add(text)
            if self.invocation.prints(text):
                self._note(text)
        if self.invocation.as_json:
            output.print_json({"line": number, **handle.as_json()})
        elif self.prints_ids:
            output.print_line(handle.id)

    def so_far(self, error: WerkError | None = None) -> str:
        """Return how far the batch has come, for the message after an error or interruption."""
        if self.invocation.dry_run:
            return f"lines up to {self.last} are checked; nothing was enqueued"
        if self.sent > self.last:
            good = f"the good lines up to {self.sent} are enqueued"
            return f"{good}; the outcome of some was not printed"
        rest = f"some of the next {CHUNK} may have been enqueued"
        if str(error).endswith(client.NOTHING):
            rest = "the next are not enqueued"
        return f"lines up to {self.last} are done; {rest}"

    def sum_up(self) -> None:
        """Print the counts, unless --quiet is set."""
        verb = "good" if self.invocation.dry_run else "enqueued"
        counts = [f"{self.good - self.duplicates:,} {verb}"]
        for count, what in ((self.duplicates, "duplicate"), (self.bad, "bad line")):
            counts += [f"{count:,} {what}{'s' * (count > 1)}"] * (count > 0)
        if not self.invocation.quiet:
            output.print_note(", ".join(counts))

    def _note(self, text: str) -> None:
        if self.has_bar:
            click.echo("\r\033[K", nl=False, err=True)  # replaces the bar, which is drawn again
        output.print_note(text)


def _wait(report: Report, link: Link, keeps_results: bool) -> int | None:
    """Wait until all have ended, print how many ended in which state, return the exit code.

    Raises ResultTimeout, RedisUnavailable, ConfigError.
    """
    left, ended, timeout_s = (
        list(dict.fromkeys(report.ids)),
        Counter[str](),
        report.invocation.wait_s,
    )
    begun = time.monotonic()
    with _progress(len(left), report.has_bar) as advance:
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
                left_jobs = "1 job has" if len(left) == 1 else f"{len(left):,} jobs have"
                late = f"{left_jobs} not ended within {timeout_s:g} s and may still run"
                raise ResultTimeout(late)
            time.sleep(max(POLL_S, now - looked))  # Redis has other things to do as well
    if not report.invocation.quiet:
        output.print_note(", ".join(f"{count:,} {state}" for state, count in sorted(ended.items())))
    if FAILED & ended.keys():
        return errors.EXIT_FAILED
    return errors.EXIT_NO_JOB if ended["gone"] and keeps_results else None


def _states(ids: list[str], link: Link) -> Iterator[str]:
    """Yield the status of each job; 'gone' if it was deleted or has expired."""
    for start in range(0, len(ids), POLLED):
        hashes = [keys.key("job", job_id) for job_id in ids[start : start + POLLED]]
        for state in link.calls([("HGET", key, "status") for key in hashes]):
            yield "gone" if state is None else state.decode("utf-8", "replace")


def _size(file: BinaryIO) -> int:
    """Return the size of a file in bytes; 0 for a pipe, whose size is unknown."""
    found = os.fstat(file.fileno())
    return found.st_size if stat.S_ISREG(found.st_mode) else 0


@contextmanager
def _progress(total: int, is_shown: bool) -> Iterator[Callable[[int], object]]:
    """Yield a function that shows progress: of `total` or, if that is 0, the count alone."""
    if not is_shown:
        yield lambda reached: None
        return
    whole = None if total else repeat(None)
    with click.progressbar(whole, total or None, show_pos=not total, file=sys.stderr) as bar:
        yield lambda reached: bar.update(reached - bar.pos)
