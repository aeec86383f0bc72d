"""`werk failed`: failed jobs by task and error, and the commands that retry them."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import click

from werk.cli import output, times
from werk.cli.tables import Column, Table
from werk.cli.types import PAST, WORD, json_option
from werk.errors import ArgumentError
from werk.ops import failures
from werk.ops.failures import Group
from werk.ops.jobs import Query, check_task, walk
from werk.ops.queues import clock
from werk.printable import shell_word
from werk.store import keys
from werk.store.connection import Link
from werk.store.error_group import filter_of

_TIMES = (Column("FIRST"), Column("LAST"))
GROUPS = (Column("COUNT"), *_TIMES, Column("TASK", 12), Column("ERROR", 20))
STOPPED = (Column("STOPPED"), *_TIMES, Column("TASK", 12))
FACTS = ("id", "task", "queue", "at", "error", "stopped")
JOBS = (Column("ID"), Column("FAILED"), Column("QUEUE", 6), Column("TASK", 8), Column("ERROR", 10))

_MATCH = "Match the last line of the traceback; a trailing * matches a prefix. Digits are ignored,"
_MATCH += " except for those of a status code such as HTTP 503."
FILTERS = (  # select failed jobs
    click.Option(["--task"], type=WORD, metavar="TASK", help="Select jobs of TASK."),
    click.Option(["--error"], type=WORD, help=_MATCH),
    click.Option(["--exact"], is_flag=True, help="With --error, compare all digits as well."),
    click.Option(
        ["--since"],
        type=PAST,
        help="Select jobs that failed at TIME or later; an age is fine: 2h, 3d.",
    ),
    click.Option(["--queue"], type=WORD, metavar="QUEUE", help="Select jobs of QUEUE."),
)


@click.command(params=[*FILTERS])
@click.option(
    "--list", "as_list", is_flag=True, help="Print each job: queue by queue, the newest first."
)
@click.option("--commands", is_flag=True, help="Print the command that retries each group as well.")
@json_option
def failed(as_list: bool, commands: bool, as_json: bool, **chosen: Any) -> None:
    """Show failed jobs by task and error, and stopped jobs."""
    query, link = Query(failures.STATES, **chosen), output.connect()
    if as_list and commands:
        raise ArgumentError("--commands cannot be combined with --list, which shows no groups")
    found: Sequence[Group] = [] if as_list else failures.groups(link, query)
    count = _print_jobs(link, query, as_json) if as_list else len(found)
    if not count:
        check_task(link, query.task)
        output.print_note("no failed jobs")
    if as_json and not as_list:
        output.print_json([_as_json(group, query) for group in found])
    elif found:
        _print_groups(found, clock(link))
        for group in found if commands else ():
            output.print_command(_retry(group, query))
        more = "" if commands else "; how to retry: --commands"
        output.print_note(f"each job: --list; all about one: werk show ID{more}")


def _print_jobs(link: Link, query: Query, as_json: bool) -> int:
    """Print each failed job; return how many there are."""
    count, table = 0, Table(*JOBS)
    for page in walk(link, query):
        count, now = count + len(page), clock(link)
        rows = []
        for job in sorted(page, key=lambda job: -job.at):  # Redis's order is to the second
            if as_json:
                facts = job._asdict()
                facts = {name: facts[name] for name in FACTS}
                output.print_json({**facts, "at": keys.iso(job.at)})
            else:
                shown = output.shown_id(job.id), times.ago(job.at, now)
                rows.append((*shown, job.queue, job.task, job.error))
        output.print_table(table, rows)
    return count


def _print_groups(groups: Sequence[Group], now: float) -> None:
    """Print the failed jobs, and below them the stopped ones."""
    failed, stopped = [], []
    for own in groups:
        row = own.jobs, times.ago(own.first, now), times.ago(own.last, now), own.task
        if own.stopped:
            stopped.append(row)
        else:
            failed.append((*row, own.error))
    output.print_table(Table(*GROUPS), failed)
    if failed and stopped:
        output.print_line("")
    output.print_table(Table(*STOPPED), stopped)


def _as_json(group: Group, query: Query) -> dict[str, Any]:
    command = " ".join(map(shell_word, _retry(group, query)))
    first, last = keys.iso(group.first), keys.iso(group.last)
    return {**group._asdict(), "first": first, "last": last, "retry": command}


def _retry(group: Group, query: Query) -> list[str]:
    """Return the words of the command that retries the jobs of a group, with the given query."""
    words = ["werk", "retry", "--task", group.task, "--error", filter_of(group.error)]
    words += ["--exact"] * query.exact
    words += ["--queue", query.queue] if query.queue else []
    return words + (["--since", times.local(math.floor(query.since))] if query.since else [])
