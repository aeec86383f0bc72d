"""The commands for jobs in any state: list, cancel, discard, retry and stop them."""

from __future__ import annotations

import io
import sys
from collections.abc import Sequence
from copy import copy
from typing import Any

import click

from werk.cli import acts, output, times
from werk.cli.tables import Column, Table
from werk.cli.types import PAST, PERIOD, WORD, Parsed, json_option, yes_option
from werk.errors import ArgumentError
from werk.ops import actions, bulk
from werk.ops.job_ids import resolve
from werk.ops.job_places import STATES
from werk.ops.jobs import AT_ONCE, UNFINISHED, Query, Row, check_task, count, groups, walk
from werk.ops.numbers import age
from werk.ops.queues import clock
from werk.printable import counted
from werk.store.connection import Link

SELECT = "select jobs either by id{} or with options such as --task; see werk {} --help"
GROUPS = (Column("STATE"), Column("TASK", 12), Column("JOBS"), Column("OLDEST"))
JOBS = (Column("ID"), Column("STATE"), Column("AGE/DUE"), Column("TRY"), Column("CALL", 12))


def _states(text: str) -> tuple[str, ...]:
    found = tuple(word.strip() for word in text.split(","))
    for word in found:
        if word not in STATES:
            raise ArgumentError(f"unknown state {word!r}; use some of {','.join(STATES)}")
    return found


def _argument(text: str) -> tuple[str, str]:
    name, is_given, value = text.partition("=")
    if not name or not is_given:
        raise ArgumentError(f"an argument must be like NAME=VALUE, got {text!r}")
    return name.replace("-", "_"), value


def _filters(states: Sequence[str], *, has_error: bool = True) -> list[click.Parameter]:
    """Return the options that select jobs in these states."""
    error = "Match the last line of the traceback; a trailing * matches a prefix. Digits are"
    error += " ignored, except for those of a status code such as HTTP 503."
    found = [
        click.Option(
            ["--state", "states"],
            type=Parsed("states", _states),
            metavar="STATE,...",
            help=f"Select jobs in these states: {', '.join(states)}.",
        ),
        click.Option(["--queue"], type=WORD, metavar="QUEUE", help="Select jobs of QUEUE."),
        click.Option(["--task"], type=WORD, metavar="TASK", help="Select jobs of TASK."),
        click.Option(
            ["--arg", "args"],
            type=Parsed("NAME=VALUE", _argument),
            multiple=True,
            help="Select jobs with this argument (repeatable: with all of them).",
        ),
        click.Option(["--error"], type=WORD, help=error),
        click.Option(["--exact"], is_flag=True, help="With --error, compare all digits as well."),
        click.Option(
            ["--since"],
            type=PAST,
            help="Select jobs that entered their state at TIME or later; an age is fine: 2h, 3d.",
        ),
        click.Option(
            ["--older"],
            type=PAST,
            help="Select jobs that entered their state at TIME or earlier; an age is fine: 2h, 3d.",
        ),
    ]
    left_out = {"states"} if len(states) == 1 else set()
    left_out |= set() if has_error else {"error", "exact"}
    return [option for option in found if option.name not in left_out]


dry_run_option = click.option(
    "--dry-run", is_flag=True, help="Print how many jobs of which task; change nothing."
)


@click.command(params=_filters(STATES))
@click.option("--list", "as_list", is_flag=True, help="Print each job.")
@json_option
def jobs(as_list: bool, as_json: bool, **chosen: Any) -> None:
    """Show jobs that wait, run, are scheduled, deferred, failed or finished, by task.

    Without --state, all but finished jobs.
    """
    query, link = _query(UNFINISHED, **chosen), output.connect()
    if as_list:
        table = Table(*JOBS)
        found = sum(_print_page(link, page, table, as_json) for page in walk(link, query))
    else:
        found = _print_groups(link, query, as_json)
    if not found:
        check_task(link, query.task)
        output.print_note("no matching jobs")


@click.command(params=_filters(bulk.STATES["cancel"], has_error=False))
@click.argument("job_id", nargs=-1)
@dry_run_option
@yes_option
@json_option
def cancel(job_id: Sequence[str], **options: Any) -> int | None:
    """Cancel jobs that wait, are scheduled or deferred. Jobs that depend on them keep waiting."""
    return _act("cancel", job_id, **options)


@click.command(params=_filters(bulk.STATES["discard"]))
@click.argument("job_id", nargs=-1)
@dry_run_option
@yes_option
@json_option
def discard(job_id: Sequence[str], **options: Any) -> int | None:
    """Delete failed or finished jobs, with their results."""
    return _act("discard", job_id, **options)


@click.command(params=_filters(bulk.STATES["retry"]))
@click.argument("job_id", nargs=-1)
@click.option("--all", "is_all", is_flag=True, help="Select all failed jobs.")
@dry_run_option
@yes_option
@json_option
def retry(job_id: Sequence[str], **options: Any) -> int | None:
    """Return failed jobs to their queues. Name the jobs, or select them with options."""
    return _act("retry", job_id, **options)


requeue = copy(retry)
requeue.help = "Return failed jobs to their queues: another name of `werk retry`."


@click.command()
@click.argument("job_id")
@click.option("--timeout", type=PERIOD, default=10, help="Wait at most PERIOD (10s) for the end.")
@yes_option
@json_option
def stop(job_id: str, timeout: float, yes: bool, as_json: bool) -> None:
    """Stop a running job. It is not retried."""
    link = output.connect()
    job_id = resolve(link, job_id)
    output.confirm(f"stop job {job_id}", yes)
    worker = actions.stop(link, job_id, timeout)
    output.print_rows(as_json, {"stopped": job_id, "worker": worker}, f"stopped on worker {worker}")


# --- what the commands share


def _query(usual: Sequence[str], states: Sequence[str] | None = None, **chosen: Any) -> Query:
    return Query(states or usual, **chosen)


def _act(
    action: str,
    job_ids: Sequence[str],
    *,
    dry_run: bool,
    yes: bool,
    as_json: bool,
    is_all: bool = False,
    **chosen: Any,
) -> int | None:
    """Apply an action to the named jobs, or to all jobs that match."""
    is_timed = (chosen["since"], chosen["older"]) != (None, None)  # a time may be 0
    if (bool(job_ids), is_all, is_timed or any(chosen.values())).count(True) != 1:
        raise ArgumentError(SELECT.format(", with --all" * (action == "retry"), action))
    if job_ids and dry_run:
        raise ArgumentError("--dry-run is for jobs that are selected with options")
    query, link = _query(bulk.STATES[action], **chosen), output.connect()
    if job_ids:
        ids = [resolve(link, own) for own in dict.fromkeys(job_ids)]
        if action != "retry":
            output.confirm(f"{action} {counted(len(ids), 'job')}", yes)
        return acts.act(link, action, ids, as_json)
    if dry_run:
        found = _print_groups(link, query, as_json)
        output.print_note(f"would {action} {_number(found, action)}")
    else:
        found = _act_on(link, action, query, yes, as_json)
    if not found:
        check_task(link, query.task)
    return None


def _act_on(link: Link, action: str, query: Query, yes: bool, as_json: bool) -> int:
    """Ask for confirmation, apply an action, print and return the number of changed jobs."""
    has_bar, begun = sys.stderr.isatty(), clock(link)
    found = count(link, query) if has_bar or not yes else 0
    if found:
        output.confirm(f"{action} {_number(found, action)}", yes)
    done = 0
    if found or yes:
        has_bar = has_bar and found > AT_ONCE
        with click.progressbar(length=found, file=sys.stderr if has_bar else io.StringIO()) as bar:
            done = bulk.act_on(link, action, query, bar.update, begun=begun)
    word = {"cancel": "cancelled", "discard": "discarded", "retry": "retried"}[action]
    output.print_rows(as_json, {word: done}, f"{done} {word}")
    return done


def _number(jobs: int, action: str) -> str:
    noun = "failed job" if action == "retry" else "job"
    return f"{jobs:,} {noun}{'' if jobs == 1 else 's'}"


# --- printing


def _print_groups(link: Link, query: Query, as_json: bool) -> int:
    """Print the jobs that match by state and task; return how many there are."""
    found, now = groups(link, query), clock(link)
    if as_json:
        output.print_json([{**own._asdict(), "oldest": times.utc(own.oldest)} for own in found])
    else:
        rows = [(own.state, own.task, own.jobs, _age(own.oldest, now)) for own in found]
        output.print_table(Table(*GROUPS), rows)
    return sum(own.jobs for own in found)


def _print_page(link: Link, page: Sequence[Row], table: Table, as_json: bool) -> int:
    """Print a page of jobs; return how many there are."""
    now, rows = clock(link), list[tuple[object, ...]]()
    for own in page:
        if as_json:
            output.print_json(_as_json(own))
        else:
            attempt, what = own.attempt or "", _what(own)
            state = own.state.ljust(max(map(len, STATES)))  # pages of other states may follow
            rows.append((output.shown_id(own.id), state, _when(own, now), attempt, what))
    output.print_table(table, rows)
    return len(page)


def _as_json(own: Row) -> dict[str, Any]:
    facts = own._asdict()
    del facts["by_redis"], facts["created"]
    moments = {name: times.utc(facts[name]) for name in ("due", "fails_at")}
    return {**facts, "at": times.utc(own.at or None), **moments}


def _age(since: float | None, now: float) -> str:
    return age(max(0.0, now - since)) if since else ""


def _when(own: Row, now: float) -> str:
    """Return when a job is due, or for how long it has been in its state."""
    if own.due is None:
        return _age(own.at, now)
    return f"in {age(own.due - now)}" if own.due > now else "now"


def _what(own: Row) -> str:
    """Return the call of a job, and why it is deferred or has failed."""
    why = own.why or own.error
    return f"{own.call}  {why}" if why else own.call
