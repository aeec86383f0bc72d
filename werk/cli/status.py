"""`werk status`: print a snapshot once or every two seconds, and the checks for monitoring."""

from __future__ import annotations

import socket
import sys
import time
from collections.abc import Iterator
from itertools import chain
from typing import Any

import click

from werk.cli import output, tables, times
from werk.cli.tables import Column, Table, wrap
from werk.cli.types import Parsed, json_option
from werk.errors import ArgumentError, WerkError
from werk.ops import checks, status_view
from werk.ops.limits import CRITICAL, DEFAULT_LIMITS, AgeLimits, Limit, Limits
from werk.ops.numbers import age, size
from werk.ops.snapshot import Queue, Snapshot
from werk.ops.workers import STATES, Worker
from werk.printable import counted
from werk.settings import Settings
from werk.store.connection import Link, link

LIMIT = Parsed("WARN:CRIT", Limit.parse)
AGES = Parsed("[QUEUE=]WARN:CRIT,...", AgeLimits.parse)

WATCH_S = 2.0
MOST_RUNNING = 20  # jobs in the table
QUEUES = (Column("QUEUE", 8), Column("WAITING"), Column("OLDEST"), Column("RUNNING"))
WORKERS = (
    Column("WORKER", 12),
    Column("STATE", 12),
    Column("BEAT"),
    Column("DONE"),
    Column("FAILED"),
    Column("KIND"),
    Column("QUEUES", 8),
)
JOBS = (Column("JOB"), Column("FOR"), Column("WORKER", 8), Column("CALL", 16))


class CheckUsage(WerkError):
    """Raised when `status --check` was called wrongly; monitoring takes 2 for critical."""

    exit_code = 3  # of a plugin that cannot check


class CheckCommand(click.Command):
    """A command that exits with another code for wrong usage with --check."""

    def make_context(self, *names: Any, **extra: Any) -> click.Context:
        is_check = any(word.startswith("--check") for word in names[1])
        try:
            return super().make_context(*names, **extra)
        except click.UsageError as error:
            if not is_check:
                raise
            raise CheckUsage(error.format_message()) from None


@click.command(cls=CheckCommand)
@click.option("--check", is_flag=True, help="Print one line for monitoring; exit with 0 to 3.")
@click.option("--here", is_flag=True, help="Check only this host's workers; exit with 0 or 2.")
@click.option("--watch", is_flag=True, help="Print again every 2 seconds, until Ctrl-C.")
@click.option(
    "--max-age", "age_s", type=AGES, help="Limit how long a job may wait, by queue. Default: :5m."
)
@click.option("--max-waiting", "waiting", type=LIMIT, help="Limit the waiting jobs of a queue.")
@click.option("--max-failed", "failed", type=LIMIT, help="Limit the failed jobs of a queue.")
@click.option(
    "--min-workers", type=click.IntRange(0), metavar="COUNT", help="Require COUNT live workers."
)
@json_option
def status(check: bool, here: bool, watch: bool, as_json: bool, **chosen: Any) -> int | None:
    """Show queues, workers and problems."""
    limits = Limits(**{name: limit for name, limit in chosen.items() if limit is not None})
    if as_json and (check or here):
        raise CheckUsage("--json cannot be combined with --check or --here, which print one line")
    if watch and (check or here or as_json):
        wrong = CheckUsage if check or here else ArgumentError
        raise wrong("--watch cannot be combined with --check, --here or --json")
    if watch:
        _watch(output.connect(WATCH_S), limits)
        return None
    if not (check or here):
        snapshot = Snapshot.read(output.connect())
        if as_json:
            output.print_json(status_view.as_json(snapshot, limits))
        else:
            click.echo("\n".join(table(snapshot, limits)))
        return None
    try:
        if here:
            quick = link(Settings.read())
            code, line = checks.check_here(quick, socket.gethostname())
        else:
            code, line = checks.check(Snapshot.read(output.connect()), limits)
    except WerkError as error:  # a check that cannot read Redis is critical
        code, line = checks.verdict(CRITICAL, str(error))
    output.print_line(line)
    return code


def _watch(link: Link, limits: Limits) -> None:
    """Print the snapshot every two seconds until Ctrl-C, also while Redis is unreachable."""
    try:
        while True:
            try:
                snapshot = Snapshot.read(link)
                lines = [times.local(snapshot.time), "", *table(snapshot, limits)]
            except WerkError as error:
                lines = [times.local(time.time()), "", *wrap(str(error), tables.width())]
            click.clear()  # does nothing unless stdout is a terminal
            click.echo("\n".join([*lines, *[""] * (not sys.stdout.isatty())]))
            time.sleep(WATCH_S)
    except KeyboardInterrupt:
        pass


# --- the snapshot as people read it


def table(snapshot: Snapshot, limits: Limits = DEFAULT_LIMITS) -> list[str]:
    """Return the lines that `werk status` prints."""
    width = tables.width()
    blocks = [
        wrap(_server(snapshot), width),
        _queues(snapshot) or ["no queue"],
        _workers(snapshot) or ["no worker"],
        _running(snapshot),
        list(chain.from_iterable(wrap(note, width) for note in _notes(snapshot))),
        list(_problems(snapshot, limits, width)),
    ]
    return [line for block in blocks if block for line in ("", *block)][1:]


def _server(snapshot: Snapshot) -> str:
    server = snapshot.server
    limit = f" of {size(server.memory_limit)}" if server.memory_limit else ""
    program, _, number = server.version.partition(" ")
    place = f"server: {program.capitalize()} {number} at {server.where}"
    kept = {True: "RDB only", False: "keeps nothing", None: "no AOF"}[server.rdb]
    if server.aof:
        kept = f"AOF {server.fsync or ''}".rstrip()
    facts = [place, f"{size(server.memory)}{limit}", server.policy, kept]
    return ", ".join([*facts, *["all suspended"] * server.suspended])


def _queues(snapshot: Snapshot) -> list[str]:
    has_ready = any(queue.ready for queue in snapshot.queues.values())
    ready = [Column("READY")] * has_ready  # mostly 0 everywhere, so the column is left out
    columns = (*QUEUES, Column("SCHEDULED"), *ready, Column("FAILED"), Column("WORKERS"))
    return Table(*columns).lines([_queue_row(own, has_ready) for own in snapshot.queues.values()])


def _queue_row(own: Queue, has_ready: bool) -> list[object]:
    ready = [own.ready] * has_ready
    workers = "paused" if own.paused else own.workers
    counts = [own.running, own.scheduled, *ready, own.failed]
    return [own.name, own.waiting, age(own.oldest_s), *counts, workers]


def _workers(snapshot: Snapshot) -> list[str]:
    return Table(*WORKERS).lines(
        [
            (
                own.name,
                _states(own),
                age(own.beat_s),
                own.done,
                own.failed,
                own.kind,
                ",".join(own.queues),
            )
            for own in snapshot.workers
        ]
    )


def _states(own: Worker) -> str:
    """Return the state of a worker with one slot, or how many slots are in which state."""
    if own.has_one_slot:
        return own.state
    counts = [(own.count(state), state) for state in STATES] + [(own.missing, "missing")]
    return ", ".join(f"{count} {state}" for count, state in counts if count)


def _running(snapshot: Snapshot) -> list[str]:
    """Return the lines of the running jobs, the longest first."""
    busy = [slot for own in snapshot.workers for slot in own.slots if slot.job]
    busy.sort(key=lambda slot: -(slot.job_s or 0))
    # The time is unknown if the worker died more than a minute ago.
    rows = [(output.shown_id(own.job or ""), age(own.job_s), own.name, own.call) for own in busy]
    lines = Table(*JOBS).lines(rows[:MOST_RUNNING])
    more = len(rows) - MOST_RUNNING
    return [*lines, *[f"and {more} more"] * (more > 0)]


def _notes(snapshot: Snapshot) -> Iterator[str]:
    if count := snapshot.failed_webhooks:
        failed = f"{counted(count, 'webhook')} failed or {'was' if count == 1 else 'were'} left out"
        yield f"{failed}: event=webhook-failed in workers' logs"
    waiting, _, dropped = snapshot.gave_up
    if any(snapshot.gave_up):
        yield f"final failures for WERK_ON_GIVE_UP: {waiting} waiting, {dropped} dropped"
    for own in snapshot.workers:
        if own.successor:
            what = f"worker {own.name} is stale and has no job; {own.successor} has replaced it"
            when = "" if own.expires_s < 0 else f"; its record expires in {age(own.expires_s)}"
            yield f"{what}{when}; to remove the record now: werk repair"


def _problems(snapshot: Snapshot, limits: Limits, width: int) -> Iterator[str]:
    problems = checks.problems(snapshot, limits)
    if not problems:
        has_failed = any(queue.failed for queue in snapshot.queues.values())
        yield "no problems" + "; the failed jobs: werk failed" * has_failed
    for own in problems:
        first, *others = wrap(f"{own.level}: {own.what}: {own.fix}", width)
        yield tables.level(own.level) + first.removeprefix(own.level)
        yield from others
