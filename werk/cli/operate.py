"""The operators' commands. Each one parses, makes one call and prints."""

from __future__ import annotations

import io
import sys
from collections.abc import Sequence
from typing import Any

import click

from werk import errors
from werk.cli import acts, output
from werk.cli.types import PAST, PERIOD, WORD, json_option, yes_option
from werk.errors import ArgumentError
from werk.ops import actions, failures, lost_jobs, pings
from werk.ops.failures import Filters
from werk.ops.snapshot import Snapshot
from werk.printable import counted

_MATCH = "Match the last line of the traceback; a trailing * matches a prefix. Digits are ignored,"
_MATCH += " except for those of a status code such as HTTP 503."
FILTERS = (  # select failed jobs
    click.Option(["--task"], type=WORD, metavar="TASK", help="Select jobs of TASK."),
    click.Option(["--error"], type=WORD, help=_MATCH),
    click.Option(["--exact"], is_flag=True, help="With --error, compare all digits as well."),
    click.Option(["--since"], type=PAST, help="Select jobs that failed since TIME, or 2h, 3d ago."),
    click.Option(["--queue"], type=WORD, metavar="QUEUE", help="Select jobs of QUEUE."),
)


# --- ping


@click.command()
@click.argument("queue", nargs=-1)
@click.option("--timeout", type=PERIOD, default=10, help="Wait at most PERIOD for an answer.")
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
                text = f"{trouble} within {timeout:g} s; see werk status"
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


# --- jobs


@click.command(params=[*FILTERS])
@click.argument("job_id", nargs=-1)
@click.option("--all", "is_all", is_flag=True, help="Select all failed jobs.")
@yes_option
@json_option
def retry(
    job_id: Sequence[str], is_all: bool, yes: bool, as_json: bool, **chosen: Any
) -> int | None:
    """Return failed jobs to their queues. Name the jobs, or select them with options."""
    filters = Filters(**chosen)
    if (bool(job_id), is_all, filters != Filters()).count(True) != 1:
        raise ArgumentError("select jobs by id, by an option of `werk failed`, or with --all")
    link = output.connect()
    if job_id:
        return acts.act(link, "retry", job_id, as_json)
    jobs, done = failures.count(link, filters), 0
    if jobs:
        output.confirm(f"retry {counted(jobs, 'failed job')}", yes)
    has_bar = jobs > failures.PAGE and sys.stderr.isatty()
    with click.progressbar(length=jobs, file=sys.stderr if has_bar else io.StringIO()) as bar:
        for more in actions.retry_all(link, filters):
            bar.update(more)
            done += more
    output.print_rows(as_json, {"retried": done}, f"{done} retried")
    return None


@click.command()
@click.argument("job_id")
@click.option("--timeout", type=PERIOD, default=10, help="Wait at most PERIOD for the end.")
@yes_option
@json_option
def stop(job_id: str, timeout: float, yes: bool, as_json: bool) -> None:
    """Stop a running job. It is not retried."""
    output.confirm(f"stop job {job_id}", yes)
    worker = actions.stop(output.connect(), job_id, timeout)
    output.print_rows(as_json, {"stopped": job_id, "worker": worker}, f"stopped on worker {worker}")


@click.command()
@click.argument("job_id", nargs=-1, required=True)
@yes_option
@json_option
def cancel(job_id: Sequence[str], yes: bool, as_json: bool) -> int | None:
    """Cancel waiting jobs. Jobs that depend on them keep waiting."""
    output.confirm(f"cancel {counted(len(job_id), 'job')}", yes)
    return acts.act(output.connect(), "cancel", job_id, as_json)


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
    exited are removed.
    """
    found = lost_jobs.repair(output.connect(), dry_run=dry_run)
    lines = [f"{name} {state}" for name, state in found]
    output.print_rows(as_json, [{"id": name, "was": state} for name, state in found], *lines)
    jobs = sum(state != "gone" for _, state in found)
    verb = "would repair" if dry_run else "repaired"
    if not as_json:
        counts = f"{counted(jobs, 'job')} and {counted(len(found) - jobs, 'worker')}"
        output.print_note(f"{verb} {counts}")
