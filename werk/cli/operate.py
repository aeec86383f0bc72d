"""The operators' commands. Each one parses, makes one call and prints."""

from __future__ import annotations

from collections.abc import Sequence

import click

from werk import errors
from werk.cli import acts, output
from werk.cli.types import PERIOD, json_option, yes_option
from werk.errors import ArgumentError
from werk.ops import actions, cron_repair, lost_jobs, pings
from werk.ops.snapshot import Snapshot
from werk.printable import counted

# --- ping


@click.command()
@click.argument("queue", nargs=-1)
@click.option("--timeout", type=PERIOD, default=10, help="Wait at most PERIOD (10s) for an answer.")
@json_option
def ping(queue: Sequence[str], timeout: float, as_json: bool) -> int | None:
    """Send an empty job through each QUEUE and wait for it. Default: all queues.

    Exits with 1 if a queue does not answer, unless all its workers are busy.
    """
    answers = []
    for name, trouble, seconds in pings.send(output.connect(), queue, timeout):
        answers.append({"queue": name, "trouble": trouble, "seconds": round(seconds, 3)})
        if not as_json:
            answer = {"": f"answered in {seconds:.2f} s", "paused": "paused, skipped"}
            text = answer.get(trouble, trouble)
            if trouble.startswith(pings.NO_ANSWER):
                late = f"{pings.NO_ANSWER} within {timeout:g} s"
                text = f"{trouble.replace(pings.NO_ANSWER, late)}; see werk status"
            output.print_text(f"{name}: {text}")
    if as_json:
        output.print_json(answers)
    troubles = [str(own["trouble"]) for own in answers]
    if not answers:
        output.print_note("there is no queue yet")
    elif {*troubles} == {"paused"}:
        output.print_note("werk: no queue was tested: all are paused")
        return errors.EXIT_FAILED
    if any(trouble.startswith(pings.UNKNOWN) for trouble in troubles):
        return errors.EXIT_USAGE
    bad = [own for own in troubles if own not in ("", "paused") and not own.startswith(pings.BUSY)]
    return errors.EXIT_FAILED if bad else None


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


WAIT = (
    "Wait until the workers have exited. One that had exited before is fine; for one that is stale"
)
WAIT += " and may still run, exit with 1."


@click.command()
@click.argument("worker", nargs=-1)
@click.option("--wait", is_flag=True, help=WAIT)
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
        output.confirm(f"drain {counted(len(names), 'worker')}", yes)
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
    calls that are three periods old, are forgotten. Deleted jobs that dead workers had taken are
    removed.
    """
    link = output.connect()
    found = lost_jobs.repair(link, dry_run=dry_run)
    crons = cron_repair.forget(link, dry_run=dry_run)
    entries = lost_jobs.tidy(link, dry_run=dry_run)
    left = [(queue, f"left with {counted(count, 'deleted job')}") for queue, count in entries]
    rows = [{"id": name, "was": state} for name, state in [*found, *crons, *left]]
    output.print_rows(as_json, rows, *(f"{row['id']} {row['was']}" for row in rows))
    jobs = sum(state != "gone" for _, state in found)
    verb = "would repair" if dry_run else "repaired"
    if not as_json:
        counts = f"{counted(jobs, 'job')} and {counted(len(found) - jobs, 'worker')}"
        output.print_note(f"{verb} {counts}")
        if crons:
            forgot = "would forget" if dry_run else "forgot"
            output.print_note(f"{forgot} {counted(len(crons), 'record')} of cron")
        if entries:
            removed, jobs = "would remove" if dry_run else "removed", sum(dict(entries).values())
            output.print_note(f"{removed} what {counted(jobs, 'deleted job')} left in queues")
