"""The operators' commands. Each one parses, makes one call and prints."""

from __future__ import annotations

import math
import socket
from collections.abc import Sequence
from datetime import datetime
from itertools import chain
from typing import Any

import click

from werk import errors
from werk.cli import acts, output
from werk.cli.types import PAST, PERIOD, WORD, Parsed, json_option, yes_option
from werk.errors import ArgumentError, WerkError
from werk.ops import actions, checks, cron_repair, failures, lost_jobs, pings, status_view
from werk.ops.failures import Filters
from werk.ops.limits import CRITICAL, AgeLimits, Limit, Limits
from werk.ops.snapshot import Snapshot
from werk.printable import counted
from werk.settings import Settings
from werk.store.connection import link

LIMIT = Parsed("WARN:CRIT", Limit.parse)
AGES = Parsed("[QUEUE=]WARN:CRIT,...", AgeLimits.parse)


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


_MATCH = "Match the last line of the traceback; a trailing * matches a prefix. Digits are ignored,"
_MATCH += " except for those of a status code such as HTTP 503."
FILTERS = (  # select failed jobs
    click.Option(["--task"], type=WORD, metavar="TASK", help="Select jobs of TASK."),
    click.Option(["--error"], type=WORD, help=_MATCH),
    click.Option(["--exact"], is_flag=True, help="With --error, compare all digits as well."),
    click.Option(["--since"], type=PAST, help="Select jobs that failed since TIME, or 2h, 3d ago."),
    click.Option(["--queue"], type=WORD, metavar="QUEUE", help="Select jobs of QUEUE."),
)


# --- status


@click.command(cls=CheckCommand)
@click.option("--check", is_flag=True, help="Print one line for monitoring; exit with 0 to 3.")
@click.option("--here", is_flag=True, help="Check only this host's workers; exit with 0 or 2.")
@click.option("--max-age", "age_s", type=AGES, help="Limit how long a job may wait, by queue.")
@click.option("--max-waiting", "waiting", type=LIMIT, help="Limit the waiting jobs of a queue.")
@click.option("--max-failed", "failed", type=LIMIT, help="Limit the failed jobs of a queue.")
@click.option(
    "--min-workers", type=click.IntRange(0), metavar="COUNT", help="Require COUNT live workers."
)
@json_option
def status(check: bool, here: bool, as_json: bool, **chosen: Any) -> int | None:
    """Show queues, workers and problems."""
    limits = Limits(**{name: limit for name, limit in chosen.items() if limit is not None})
    if not (check or here):
        snapshot = Snapshot.read(output.connect())
        lines = status_view.table(snapshot, limits).split("\n")
        output.print_rows(as_json, status_view.as_json(snapshot, limits), *lines)
        return None
    if as_json:
        raise CheckUsage("--json cannot be combined with --check or --here, which print one line")
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


@click.command()
@click.argument("queue", nargs=-1)
@click.option("--timeout", type=PERIOD, default=10, help="Wait at most PERIOD for an answer.")
@json_option
def ping(queue: Sequence[str], timeout: float, as_json: bool) -> int | None:
    """Send an empty job through each QUEUE and wait for it. Default: all queues."""
    answers = []
    for name, trouble, seconds in pings.send(output.connect(), queue, timeout):
        answers.append({"queue": name, "trouble": trouble, "seconds": round(seconds, 3)})
        if not as_json:
            answer = {"": f"answered in {seconds:.2f} s", "paused": "paused, skipped"}
            text = answer.get(trouble, trouble)
            if trouble.startswith(pings.NO_ANSWER):
                text = f"{trouble} within {timeout:g} s; see werk status"
            output.print_line(f"{name}: {text}")
    if as_json:
        output.print_json(answers)
    troubles = [str(answer["trouble"]) for answer in answers]
    if not answers:
        output.print_note("there is no queue yet")
    elif {*troubles} == {"paused"}:
        output.print_note("werk: no queue was tested: all are paused")
        return errors.EXIT_FAILED
    if any(trouble.startswith(pings.UNKNOWN) for trouble in troubles):
        return errors.EXIT_USAGE
    return errors.EXIT_FAILED if any(own not in ("", "paused") for own in troubles) else None


# --- failed jobs


@click.command(params=[*FILTERS])
@click.option("--list", "as_list", is_flag=True, help="Print each job, the newest first.")
@json_option
def failed(as_list: bool, as_json: bool, **chosen: Any) -> None:
    """Show failed jobs by error, with the command that retries them."""
    filters = Filters(**chosen)
    if as_list:
        for job in chain.from_iterable(failures.walk(output.connect(), filters)):
            text = f"{job.id}  {_when(job.at)}  {job.queue}  {job.task}  {job.error}"
            output.print_rows(as_json, {**job._asdict(), "at": _iso(job.at)}, text)
        return
    rows, lines = [], ["  jobs  first           last            command that retries them"]
    for group in failures.groups(output.connect(), filters):
        command = _retry_command(group.task, group.error, filters)
        first, last = group.first, group.last
        rows.append({**group._asdict(), "first": _iso(first), "last": _iso(last), "retry": command})
        lines.append(f"{group.jobs:>6}  {_when(first)}  {_when(last)}  {command}")
    if not rows:
        output.print_note("no failed jobs")
    output.print_rows(as_json, rows, *lines[: len(lines) * bool(rows)])
    if rows and not as_json:
        output.print_note("each job: werk failed --list; all about one: werk show ID")


# --- queues and workers


@click.command()
@click.argument("queue", nargs=-1, required=True)
@json_option
def pause(queue: Sequence[str], as_json: bool) -> int | None:
    """Pause queues until `werk resume`. Plain RQ workers ignore this."""
    return acts.act(output.connect(), "pause", queue, as_json)


@click.command()
@click.argument("queue", nargs=-1, required=True)
@json_option
def resume(queue: Sequence[str], as_json: bool) -> int | None:
    """Resume paused queues."""
    return acts.act(output.connect(), "resume", queue, as_json)


@click.command()
@click.argument("worker", nargs=-1)
@click.option("--wait", is_flag=True, help="Wait until the workers have exited.")
@click.option("--timeout", type=PERIOD, help="Wait at most PERIOD, then exit with 124.")
@yes_option
@json_option
def drain(
    worker: Sequence[str], wait: bool, timeout: float | None, yes: bool, as_json: bool
) -> int | None:
    """Have each WORKER (default: all) finish its jobs and exit. Prints their names.

    WORKER may also be the name of one slot of a worker: it finishes its job and ends.
    """
    if timeout is not None and not wait:
        raise ArgumentError("--timeout requires --wait")
    link = output.connect()
    names = worker or [own.name for own in Snapshot.read(link).workers if own.is_live]
    if names:
        output.confirm(f"end {counted(len(names), 'worker')} after their jobs", yes)
    code = acts.act(link, "drain", names, as_json)
    if not wait:
        return code
    actions.wait_for_exit(link, names, timeout)  # even if some were not asked
    return None


@click.command()
@click.option("--dry-run", is_flag=True, help="Print what would be repaired; change nothing.")
@json_option
def repair(dry_run: bool, as_json: bool) -> None:
    """Return lost jobs to their queues.

    For example, a plain RQ worker that is killed loses its job. The records of workers that have
    exited are removed. Crons that have been silent or stopped for three minutes, and crontabs'
    calls that are three periods old, are forgotten.
    """
    link = output.connect()
    found = lost_jobs.repair(link, dry_run=dry_run)
    crons = cron_repair.forget(link, dry_run=dry_run)
    rows = [{"id": name, "was": state} for name, state in [*found, *crons]]
    output.print_rows(as_json, rows, *(f"{row['id']} {row['was']}" for row in rows))
    jobs = sum(state != "gone" for _, state in found)
    verb = "would repair" if dry_run else "repaired"
    if not as_json:
        counts = f"{counted(jobs, 'job')} and {counted(len(found) - jobs, 'worker')}"
        output.print_note(f"{verb} {counts}")
        if crons:
            forgot = "would forget" if dry_run else "forgot"
            output.print_note(f"{forgot} {counted(len(crons), 'record')} of cron")


# --- printing


def _retry_command(task: str, error: str, filters: Filters) -> str:
    """Return the command that retries the jobs of a group, with the given filters."""
    words = ["werk", "retry", "--task", task, "--error", error]
    words += ["--exact"] * filters.exact
    words += ["--queue", filters.queue] if filters.queue else []
    words += ["--since", _iso(math.floor(filters.since))] if filters.since else []
    return " ".join(map(output.shell_word, words))


def _when(moment: float) -> str:
    return f"{datetime.fromtimestamp(moment):%m-%d %H:%M:%S}"


def _iso(moment: float) -> str:
    return datetime.fromtimestamp(moment).astimezone().isoformat(timespec="seconds")
