"""The operators' commands: parse, one call, print. cli.py reads this when one of them is used."""

from __future__ import annotations

import io
import math
import shlex
import socket
import sys
import time
from collections.abc import Iterable, Mapping, Sequence
from contextlib import suppress
from datetime import datetime
from itertools import chain
from typing import Any

import click

from werk.cli.enqueue import MOMENT, PERIOD, SECONDS
from werk.cli.output import Parsed, connect, remark, say, say_json
from werk.errors import EXIT_FAILED, EXIT_NO_JOB, ArgumentError, WerkError
from werk.ops import actions, checks, failures, lost_jobs, status_view
from werk.ops.checks import CRITICAL, Limit, Limits
from werk.ops.failures import Filters
from werk.ops.snapshot import Snapshot
from werk.printable import printable
from werk.settings import Settings
from werk.store.connection import LIBRARY_BUDGET_S, Link, link

NO_JOB = "no job {}: never enqueued here, or expired"
NO_QUEUE = "unknown queue {}; see werk status"
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
    "drain": ({"asked": "{}", "already": "{}"}, "worker {} is {}: werk status"),
}


def _since(text: str) -> float:
    """Return a point in time, ISO 8601 or so long ago: 90s, 10m, 2h, 3d."""
    with suppress(ArgumentError):
        if (ago_s := float(PERIOD.parse(text))) >= 0:
            return max(0.0, time.time() - ago_s)  # no job is older
    with suppress(ArgumentError, ValueError, OverflowError):
        return max(0.0, float(MOMENT.parse(text).timestamp()))
    raise ArgumentError(f"{text!r} is neither like 10m, 2h, 3d nor a time")


def _some(text: str) -> str:
    """Return text, but not the nothing of a variable that is not set: it would choose all."""
    if not text:
        raise ArgumentError("it is empty")
    return text


LIMIT = Parsed("WARN:CRIT", Limit.parse)
SINCE = Parsed("time", _since)
TEXT = Parsed("text", _some)


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
    click.Option(["--task"], type=TEXT, help="Of this task."),
    click.Option(["--error"], type=TEXT, help="Its last line, whatever numbers; 'Text*': begins."),
    click.Option(["--since"], type=SINCE, help="Failed since 10m, 2h, 3d ago, or a time."),
    click.Option(["--queue"], type=TEXT, help="Of this queue."),
)
_json = click.option("--json", "as_json", is_flag=True, help="Print JSON.")
_yes = click.option("--yes", is_flag=True, help="Do not ask.")


# --- is all well?


@click.command(cls=CheckCommand)
@click.option("--check", is_flag=True, help="One line and exit 0, 1, 2 or 3, for monitoring.")
@click.option("--here", is_flag=True, help="Only whether this host's workers beat; exit 0 or 2.")
@click.option("--max-age", "age_s", type=LIMIT, help="Of the oldest, seconds.")
@click.option("--max-waiting", "waiting", type=LIMIT, help="Jobs that wait in a queue.")
@click.option("--max-failed", "failed", type=LIMIT, help="Failed jobs of a queue.")
@click.option("--min-workers", type=click.IntRange(0), help="Fewer are critical.")
@_json
def status(check: bool, here: bool, as_json: bool, **chosen: Any) -> int | None:
    """Show queues, workers and what is wrong."""
    limits = Limits(**{name: limit for name, limit in chosen.items() if limit is not None})
    if not (check or here):
        snapshot = Snapshot.read(connect())
        lines = status_view.table(snapshot, limits).split("\n")
        _tell(as_json, status_view.as_json(snapshot, limits), *lines)
        return None
    if as_json:
        raise CheckUsage("--check and --here print one line; --json goes without them")
    try:
        if here:
            quick = link(Settings.read(), LIBRARY_BUDGET_S)
            code, line = checks.check_here(quick, socket.gethostname())
        else:
            code, line = checks.check(Snapshot.read(connect()), limits)
    except WerkError as error:  # who cannot look has to be seen to
        code, line = checks.verdict(CRITICAL, str(error))
    say(line)
    return code


@click.command()
@click.argument("queue", nargs=-1)
@click.option("--timeout", type=SECONDS, default=10, help="How long to wait for an answer.")
@_json
def ping(queue: Sequence[str], timeout: float, as_json: bool) -> int | None:
    """Send a job that does nothing through queues, or all there are, and wait for it."""
    from werk.ops import pings  # it imports the client

    answers = []
    for name, trouble, seconds in pings.send(connect(), queue, timeout):
        answers.append({"queue": name, "trouble": trouble, "seconds": round(seconds, 3)})
        if not as_json:
            said = {"": f"answered in {seconds:.2f} s", "paused": "paused, not asked"}
            say(f"{name}: {said.get(trouble, trouble)}")
    if as_json:
        say_json(answers)
    if not answers:
        remark("there is no queue yet")
    is_well = all(answer["trouble"] in ("", "paused") for answer in answers)
    return None if is_well else EXIT_FAILED


# --- failed jobs


@click.command(params=[*FILTERS])
@click.option("--list", "as_list", is_flag=True, help="Each job, not each error; the last first.")
@_json
def failed(as_list: bool, as_json: bool, **chosen: Any) -> None:
    """Show failed jobs by error, with the command that retries them."""
    filters = Filters(**chosen)
    if as_list:
        for job in chain.from_iterable(failures.walk(connect(), filters)):
            text = f"{job.id}  {_when(job.at)}  {job.queue}  {job.task}  {job.error}"
            _tell(as_json, {**job._asdict(), "at": _iso(job.at)}, text)
        return
    rows, lines = [], []
    for group in failures.groups(connect(), filters):
        command = _retry_command(group.task, group.error, filters)
        first, last = group.first, group.last
        times = {"first": _iso(first), "last": _iso(last)}
        rows.append({**group._asdict(), **times, "retry": command})
        lines.append(f"{group.jobs:>6}  {_when(first)}  {_when(last)}  {command}")
    _tell(as_json, rows, *lines)


@click.command(params=[*FILTERS])
@click.argument("job_id", nargs=-1)
@click.option("--all", "is_all", is_flag=True, help="All failed jobs.")
@_yes
@_json
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
    jobs, done = failures.count(link, filters), 0
    if jobs:
        _ask(f"retry {jobs} failed jobs", yes)
    has_bar = jobs > failures.PAGE and sys.stderr.isatty()
    with click.progressbar(length=jobs, file=sys.stderr if has_bar else io.StringIO()) as bar:
        for more in actions.retry_all(link, filters):
            bar.update(more)
            done += more
    _tell(as_json, {"retried": done}, f"{done} retried")
    return None


# --- jobs


@click.command()
@click.argument("job_id")
@click.option("--timeout", type=SECONDS, default=10, help="How long to wait for its end.")
@_yes
@_json
def stop(job_id: str, timeout: float, yes: bool, as_json: bool) -> None:
    """Stop a running job; it is not retried."""
    _ask(f"stop 1 job, {job_id}", yes)
    worker = actions.stop(connect(), job_id, timeout)
    _tell(as_json, {"stopped": job_id, "worker": worker}, f"stopped, at worker {worker}")


@click.command()
@click.argument("job_id", nargs=-1, required=True)
@_yes
@_json
def cancel(job_id: Sequence[str], yes: bool, as_json: bool) -> int | None:
    """Cancel jobs that wait. What depends on them goes on waiting."""
    _ask(f"cancel {len(job_id)} jobs", yes)
    return _act(connect(), "cancel", job_id, as_json)


# --- queues and workers


@click.command()
@click.argument("queue", nargs=-1, required=True)
@_json
def pause(queue: Sequence[str], as_json: bool) -> int | None:
    """Have workers take nothing from queues, until `werk resume`. Stock workers take no notice."""
    return _act(connect(), "pause", queue, as_json)


@click.command()
@click.argument("queue", nargs=-1, required=True)
@_json
def resume(queue: Sequence[str], as_json: bool) -> int | None:
    """End the pause of queues."""
    return _act(connect(), "resume", queue, as_json)


@click.command()
@click.argument("worker", nargs=-1)
@click.option("--wait", is_flag=True, help="Wait until they have left.")
@click.option("--timeout", type=SECONDS, help="How long --wait waits; then exit 124.")
@_yes
@_json
def drain(
    worker: Sequence[str], wait: bool, timeout: float | None, yes: bool, as_json: bool
) -> int | None:
    """Have workers, or all there are, finish their job and leave. Prints their names."""
    if timeout is not None and not wait:
        raise ArgumentError("--timeout is how long --wait waits: say --wait")
    link = connect()
    names = worker or [own.name for own in Snapshot.read(link).workers if own.is_live]
    if names:
        _ask(f"end {len(names)} workers after their job", yes)
    code = _act(link, "drain", names, as_json)
    if not wait:
        return code
    actions.wait_for_exit(link, names, timeout)  # whatever was said of them
    return None


@click.command()
@click.option("--dry-run", is_flag=True, help="Only show what would be put back.")
@_json
def repair(dry_run: bool, as_json: bool) -> None:
    """Put back jobs that are in no place, as stock workers leave them when they are killed."""
    found = lost_jobs.repair(connect(), dry_run=dry_run)
    lines = [f"{name} {state}" for name, state in found]
    _tell(as_json, [{"id": name, "was": state} for name, state in found], *lines)
    jobs = sum(state != "gone" for _, state in found)
    would = "would put" if dry_run else "put"
    if not as_json:
        remark(f"{would} back {jobs} jobs; {len(found) - jobs} workers are gone")


# --- asking and printing


def _ask(what: str, yes: bool) -> None:
    """Ask on a terminal; elsewhere --yes must have said so. Raises WerkError."""
    if yes:
        return
    if not (sys.stdin and sys.stdin.isatty()):
        raise ArgumentError(f"this would {what}; say --yes")
    if not click.confirm(printable(what) + "?", err=True):
        raise WerkError("nothing was done")


def _tell(as_json: bool, value: object, *lines: str) -> None:
    if as_json:
        say_json(value)
    else:
        for line in lines:
            say(line)


def _act(link: Link, what: str, names: Iterable[str], as_json: bool) -> int | None:
    """Do it, say what became of each; return the exit code."""
    good, otherwise = SAID[what]
    found = dict(actions.act(link, what, dict.fromkeys(names)))
    said = [good[outcome].format(name) for name, outcome in found.items() if outcome in good]
    _tell(as_json, found, *said)
    for name, outcome in found.items():
        if outcome not in good:
            remark((NO_JOB if outcome == "gone" else otherwise).format(name, outcome))
    if "gone" in found.values():
        return EXIT_NO_JOB
    return EXIT_FAILED if len(said) < len(found) else None


def _retry_command(task: str, error: str, filters: Filters) -> str:
    """Return the command that retries these, within what was asked for."""
    words = ["werk", "retry", "--task", task, "--error", error]
    words += ["--queue", filters.queue] if filters.queue else []
    words += ["--since", _iso(math.floor(filters.since))] if filters.since else []
    return " ".join(map(_quoted, words))


def _quoted(word: str) -> str:
    """Return a word as a shell reads it; one that is not printable as bash and zsh do."""
    if word.isprintable():
        return shlex.quote(word)
    escape = {"\\": "\\\\", "'": "\\'"}
    shown = (escape.get(c, c if c.isprintable() else _escaped(c)) for c in word)
    return f"$'{''.join(shown)}'"


def _escaped(character: str) -> str:
    number = ord(character)
    return f"\\u{number:04x}" if number < 0x10000 else f"\\U{number:08x}"


def _when(moment: float) -> str:
    return f"{datetime.fromtimestamp(moment):%m-%d %H:%M:%S}"


def _iso(moment: float) -> str:
    return datetime.fromtimestamp(moment).astimezone().isoformat(timespec="seconds")
