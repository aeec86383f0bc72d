"""The operators' commands: parse, one call, print."""

from __future__ import annotations

import io
import math
import socket
import sys
from collections.abc import Iterable, Mapping, Sequence
from datetime import datetime
from itertools import chain
from typing import Any

import click

from werk.cli.output import (
    confirm,
    connect,
    print_json,
    print_line,
    print_note,
    print_rows,
    shell_word,
)
from werk.cli.types import PAST, SECONDS, WORD, Parsed, json_option, yes_option
from werk.errors import EXIT_FAILED, EXIT_NO_JOB, ArgumentError, WerkError
from werk.ops import actions
from werk.ops import snapshot as looking
from werk.ops.actions import Filters
from werk.ops.snapshot import CRITICAL, Limit, Limits, Snapshot
from werk.settings import Settings
from werk.store.connection import LIBRARY_BUDGET_S, Link, link

NO_JOB = "no job {}: never enqueued here, or expired"
NO_QUEUE = "no queue is called {}: werk status"
SAID: Mapping[str, tuple[Mapping[str, str], str]] = {  # outcomes that are right, and of any other
    "retry": (
        {"retried": "{} retried", "limited": "{} retried"},
        "job {} is not failed: it is {}",
    ),
    "cancel": (
        {"cancelled": "{} cancelled"},
        "job {0} is not waiting: it is {1}; one that runs is stopped: werk stop {0}",
    ),
    "pause": ({"yes": "queue {} is paused", "already": "queue {} was paused already"}, NO_QUEUE),
    "resume": ({"yes": "queue {} goes on", "already": "queue {} was not paused"}, NO_QUEUE),
    "drain": ({"told": "{}", "already": "{}"}, "worker {} is {}: werk status"),
}
LIMIT = Parsed("WARN:CRIT", Limit.parse)


class CheckUsage(WerkError):
    """Raised when `status --check` was called wrongly; monitoring takes 2 for critical."""

    exit_code = 3  # of a plugin that cannot check


class CheckCommand(click.Command):
    """A command whose wrong usage has another exit code with --check."""

    def make_context(self, *names: Any, **extra: Any) -> click.Context:
        is_check = any(word.startswith("--check") for word in names[1])
        try:
            return super().make_context(*names, **extra)
        except click.UsageError as error:
            if not is_check:
                raise
            raise CheckUsage(error.format_message()) from None


FILTERS = (  # which of the failed jobs
    click.Option(["--task"], type=WORD, help="Of this task."),
    click.Option(["--error"], type=WORD, help="Its last line, whatever numbers; 'Text*': begins."),
    click.Option(["--since"], type=PAST, help="Failed since 10m, 2h, 3d ago, or a time."),
    click.Option(["--queue"], type=WORD, help="Of this queue."),
)


# --- is all well?


@click.command(cls=CheckCommand)
@click.option("--check", is_flag=True, help="One line and exit 0, 1, 2 or 3, for monitoring.")
@click.option("--here", is_flag=True, help="Only whether this host's workers beat; exit 0 or 2.")
@click.option("--max-age", "age_s", type=LIMIT, help="Of the oldest, seconds.")
@click.option("--max-waiting", "waiting", type=LIMIT, help="Jobs that wait in a queue.")
@click.option("--max-failed", "failed", type=LIMIT, help="Failed jobs of a queue.")
@click.option("--min-workers", type=click.IntRange(0), help="Fewer are critical.")
@json_option
def status(check: bool, here: bool, as_json: bool, **chosen: Any) -> int | None:
    """Show queues, workers and what is wrong."""
    limits = Limits(**{name: limit for name, limit in chosen.items() if limit is not None})
    if not (check or here):
        snapshot = Snapshot.read(connect())
        print_rows(as_json, snapshot.as_json(limits), *looking.table(snapshot, limits).split("\n"))
        return None
    if as_json:
        raise CheckUsage("--check and --here print one line; --json goes without them")
    try:
        if here:
            quick = link(Settings.read(), LIBRARY_BUDGET_S)
            code, line = looking.check_here(quick, socket.gethostname())
        else:
            code, line = looking.check(Snapshot.read(connect()), limits)
    except WerkError as error:  # who cannot look has to be seen to
        code, line = looking.verdict(CRITICAL, str(error))
    print_line(line)
    return code


@click.command()
@click.argument("queue", nargs=-1)
@click.option("--timeout", type=SECONDS, default=10, help="How long to wait for an answer.")
@json_option
def ping(queue: Sequence[str], timeout: float, as_json: bool) -> int | None:
    """Send a job that does nothing through queues, or all there are, and wait for it."""
    answers = []
    for name, trouble, seconds in actions.ping(connect(), queue, timeout):
        answers.append({"queue": name, "trouble": trouble, "seconds": round(seconds, 3)})
        if not as_json:
            said = {"": f"answered in {seconds:.2f} s", "paused": "paused, not asked"}
            print_line(f"{name}: {said.get(trouble, trouble)}")
    if as_json:
        print_json(answers)
    if not answers:
        print_note("there is no queue yet")
    is_well = all(answer["trouble"] in ("", "paused") for answer in answers)
    return None if is_well else EXIT_FAILED


# --- failed jobs


@click.command(params=[*FILTERS])
@click.option("--list", "as_list", is_flag=True, help="Each job, not each error; the last first.")
@json_option
def failed(as_list: bool, as_json: bool, **chosen: Any) -> None:
    """Show failed jobs by error, with the command that retries them."""
    filters = Filters(**chosen)
    if as_list:
        for job in chain.from_iterable(actions.walk(connect(), filters)):
            text = f"{job.id}  {_when(job.at)}  {job.queue}  {job.task}  {job.error}"
            print_rows(as_json, {**job._asdict(), "at": _iso(job.at)}, text)
        return
    rows, lines = [], []
    for group in actions.groups(connect(), filters):
        command = _retry_command(group["task"], group["error"], filters)
        first, last = group["first"], group["last"]
        rows.append({**group, "first": _iso(first), "last": _iso(last), "retry": command})
        lines.append(f"{group['jobs']:>6}  {_when(first)}  {_when(last)}  {command}")
    print_rows(as_json, rows, *lines)


@click.command(params=[*FILTERS])
@click.argument("job_id", nargs=-1)
@click.option("--all", "is_all", is_flag=True, help="All failed jobs.")
@yes_option
@json_option
def retry(
    job_id: Sequence[str], is_all: bool, yes: bool, as_json: bool, **chosen: Any
) -> int | None:
    """Put failed jobs back in their queues: these, or those that an option chooses."""
    filters = Filters(**chosen)
    if (bool(job_id), is_all, filters != Filters()).count(True) != 1:
        raise ArgumentError("say which: ids, or options as of `werk failed`, or --all")
    link = connect()
    if job_id:
        return _act(link, "retry", job_id, as_json)
    jobs, done = actions.count(link, filters), 0
    if jobs:
        confirm(f"retry {jobs} failed jobs", yes)
    has_bar = jobs > actions.PAGE and sys.stderr.isatty()
    with click.progressbar(length=jobs, file=sys.stderr if has_bar else io.StringIO()) as bar:
        for more in actions.retry_all(link, filters):
            bar.update(more)
            done += more
    print_rows(as_json, {"retried": done}, f"{done} retried")
    return None


# --- jobs


@click.command()
@click.argument("job_id")
@click.option("--timeout", type=SECONDS, default=10, help="How long to wait for its end.")
@yes_option
@json_option
def stop(job_id: str, timeout: float, yes: bool, as_json: bool) -> None:
    """Stop a running job; it is not retried."""
    confirm(f"stop 1 job, {job_id}", yes)
    worker = actions.stop(connect(), job_id, timeout)
    print_rows(as_json, {"stopped": job_id, "worker": worker}, f"stopped, at worker {worker}")


@click.command()
@click.argument("job_id", nargs=-1, required=True)
@yes_option
@json_option
def cancel(job_id: Sequence[str], yes: bool, as_json: bool) -> int | None:
    """Cancel jobs that wait. What depends on them goes on waiting."""
    confirm(f"cancel {len(job_id)} jobs", yes)
    return _act(connect(), "cancel", job_id, as_json)


# --- queues and workers


@click.command()
@click.argument("queue", nargs=-1, required=True)
@json_option
def pause(queue: Sequence[str], as_json: bool) -> int | None:
    """Have workers take nothing from queues, until `werk resume`. Stock workers take no notice."""
    return _act(connect(), "pause", queue, as_json)


@click.command()
@click.argument("queue", nargs=-1, required=True)
@json_option
def resume(queue: Sequence[str], as_json: bool) -> int | None:
    """End the pause of queues."""
    return _act(connect(), "resume", queue, as_json)


@click.command()
@click.argument("worker", nargs=-1)
@click.option("--wait", is_flag=True, help="Wait until they have left.")
@click.option("--timeout", type=SECONDS, help="How long --wait waits; then exit 124.")
@yes_option
@json_option
def drain(
    worker: Sequence[str], wait: bool, timeout: float | None, yes: bool, as_json: bool
) -> int | None:
    """Have workers, or all there are, finish their job and leave. Prints their names."""
    if timeout is not None and not wait:
        raise ArgumentError("--timeout is how long --wait waits: say --wait")
    link = connect()
    names = worker or [own.name for own in Snapshot.read(link).workers if own.is_live]
    if names:
        confirm(f"end {len(names)} workers after their job", yes)
    code = _act(link, "drain", names, as_json)
    if not wait:
        return code
    actions.wait_gone(link, names, timeout)  # whatever was said of them
    return None


@click.command()
@click.option("--dry-run", is_flag=True, help="Only show what would be put back.")
@json_option
def repair(dry_run: bool, as_json: bool) -> None:
    """Put back jobs that are in no place, as stock workers leave them when they are killed."""
    found = actions.repair(connect(), dry_run=dry_run)
    lines = [f"{name} {state}" for name, state in found]
    print_rows(as_json, [{"id": name, "was": state} for name, state in found], *lines)
    jobs = sum(state != "gone" for _, state in found)
    would = "would put" if dry_run else "put"
    if not as_json:
        print_note(f"{would} back {jobs} jobs; {len(found) - jobs} workers are gone")


# --- asking and printing


def _act(link: Link, what: str, names: Iterable[str], as_json: bool) -> int | None:
    """Do it, say what became of each; return the exit code."""
    good, otherwise = SAID[what]
    found = dict(actions.act(link, what, dict.fromkeys(names)))
    said = [good[outcome].format(name) for name, outcome in found.items() if outcome in good]
    print_rows(as_json, found, *said)
    for name, outcome in found.items():
        if outcome not in good:
            print_note((NO_JOB if outcome == "gone" else otherwise).format(name, outcome))
    if "gone" in found.values():
        return EXIT_NO_JOB
    return EXIT_FAILED if len(said) < len(found) else None


def _retry_command(task: str, error: str, filters: Filters) -> str:
    """Return the command that retries these, within what was asked for."""
    words = ["werk", "retry", "--task", task, "--error", error]
    words += ["--queue", filters.queue] if filters.queue else []
    words += ["--since", _iso(math.floor(filters.since))] if filters.since else []
    return " ".join(map(shell_word, words))


def _when(moment: float) -> str:
    return f"{datetime.fromtimestamp(moment):%m-%d %H:%M:%S}"


def _iso(moment: float) -> str:
    return datetime.fromtimestamp(moment).astimezone().isoformat(timespec="seconds")
