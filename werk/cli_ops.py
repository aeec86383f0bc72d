"""The operators' commands: parse, one call, print. cli.py reads this when one of them is used."""

from __future__ import annotations

import math
import re
import shlex
import socket
import sys
import time
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from datetime import datetime
from itertools import chain
from typing import Any

import click

from werk import actions
from werk import status as looking
from werk.actions import Failure, Filters, Group
from werk.cli import Seconds, _link, _note, _print_json, _printable
from werk.errors import EXIT_FAILED, EXIT_NO_JOB, ArgumentError, WerkError
from werk.link import LIBRARY_BUDGET_S, link
from werk.settings import Settings
from werk.status import CRITICAL, Limit, Limits, Snapshot

NO_JOB = "no job {}: never enqueued here, or expired"
NO_QUEUE = "no queue is called {}: werk status"
_UNITS_S = {"": 1, "s": 1, "m": 60, "h": 3600, "d": 86400}


class LimitType(click.ParamType):  # type: ignore[type-arg]  # generic since click 8.4
    """WARN:CRIT; one number alone is the critical one."""

    name = "WARN:CRIT"

    def convert(
        self, value: Any, param: click.Parameter | None, ctx: click.Context | None
    ) -> Limit:
        try:
            return value if isinstance(value, Limit) else Limit.parse(value)
        except ArgumentError as error:
            self.fail(str(error), param, ctx)


class Since(click.ParamType):  # type: ignore[type-arg]
    """A point in time, ISO 8601 or so long ago: 90s, 10m, 2h, 3d."""

    name = "time"

    def convert(
        self, value: Any, param: click.Parameter | None, ctx: click.Context | None
    ) -> float:
        if isinstance(value, float):
            return value
        if ago := re.fullmatch(r"(\d{1,9})([smhd]?)", value):
            return time.time() - int(ago[1]) * _UNITS_S[ago[2]]
        try:
            return datetime.fromisoformat(value).timestamp()
        except (ValueError, OverflowError):
            self.fail(f"{value!r} is neither like 10m, 2h, 3d nor a time", param, ctx)


class Text(click.ParamType):  # type: ignore[type-arg]
    """Text, but not the nothing of a variable that is not set: it would not choose anything."""

    name = "text"

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> str:
        if not value:
            self.fail("it is empty", param, ctx)
        return str(value)


class CheckUsage(WerkError):
    """Raised when `status --check` was called wrongly; monitoring takes 2 for critical."""

    exit_code = looking.CHECK_USAGE


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


def _filters(command: Any) -> Any:
    """The options that say which of the failed jobs."""
    for option in (
        click.option("--queue", type=Text(), help="Of this queue."),
        click.option("--since", type=Since(), help="Failed since 10m, 2h, 3d ago, or a time."),
        click.option(
            "--error",
            type=Text(),
            help="Last line of the error, whatever numbers; 'Text*': begins.",
        ),
        click.option("--task", type=Text(), help="Of this task."),
    ):
        command = option(command)
    return command


_json = click.option("--json", "as_json", is_flag=True, help="Print JSON.")
_yes = click.option("--yes", is_flag=True, help="Do not ask.")


# --- is all well?


@click.command(cls=CheckCommand)
@click.option("--check", is_flag=True, help="One line and exit 0, 1, 2 or 3, for monitoring.")
@click.option("--here", is_flag=True, help="Only whether this host's workers beat; exit 0 or 2.")
@click.option(
    "--max-age", type=LimitType(), default=":300", help="Of the oldest that waits, in seconds."
)
@click.option("--max-waiting", type=LimitType(), default=":", help="Jobs that wait in a queue.")
@click.option("--max-failed", type=LimitType(), default=":", help="Failed jobs of a queue.")
@click.option("--min-workers", type=click.IntRange(0), default=0, help="Fewer are critical.")
@_json
def status(
    check: bool,
    here: bool,
    max_age: Limit,
    max_waiting: Limit,
    max_failed: Limit,
    min_workers: int,
    as_json: bool,
) -> int | None:
    """Show queues, workers and what is wrong."""
    limits = Limits(max_age, max_waiting, max_failed, min_workers)
    if check or here:
        if as_json:
            raise CheckUsage("--check and --here print one line; --json goes without them")
        try:
            code, line = (
                looking.check_here(link(Settings.read(), LIBRARY_BUDGET_S), socket.gethostname())
                if here
                else looking.check(Snapshot.read(_link()), limits)
            )
        except WerkError as error:  # who cannot look has to be seen to
            code, line = looking.CHECK_EXITS[CRITICAL], f"WERK CRITICAL - {error}"
        click.echo(_printable(line, sys.stdout))
        return code
    snapshot = Snapshot.read(_link())
    if as_json:
        _print_json(snapshot.as_json(limits))
    else:
        click.echo(_printable(looking.table(snapshot, limits), sys.stdout))
    return None


@click.command()
@click.argument("queue", nargs=-1)
@click.option("--timeout", type=Seconds(), default=10, help="How long to wait for an answer.")
@_json
def ping(queue: Sequence[str], timeout: float, as_json: bool) -> int | None:
    """Send a job that does nothing through queues, or all there are, and wait for it."""
    answers = []
    for name, trouble, seconds in actions.ping(_link(), queue, timeout):
        answers.append({"queue": name, "trouble": trouble, "seconds": round(seconds, 3)})
        if not as_json:
            said = {"": f"answered in {seconds:.2f} s", "paused": "paused, not asked"}
            click.echo(_printable(f"{name}: {said.get(trouble, trouble)}", sys.stdout))
    if as_json:
        _print_json(answers)
    if not answers:
        _note("there is no queue yet")
    is_well = all(answer["trouble"] in ("", "paused") for answer in answers)
    return None if is_well else EXIT_FAILED


# --- failed jobs


@click.command()
@_filters
@click.option("--list", "as_list", is_flag=True, help="Each job, not each error; the last first.")
@_json
def failed(as_list: bool, as_json: bool, **chosen: Any) -> None:
    """Show failed jobs by error, with the command that retries them."""
    filters = Filters(**chosen)
    if as_list:
        for job in chain.from_iterable(actions.walk(_link(), filters)):
            _print_failure(job, as_json)
        return
    groups, others = actions.groups(_link(), filters)
    if as_json:
        _print_json([_group_as_json(group, filters) for group in groups])
        return
    for group in groups:
        line = f"{group.jobs:>6}  {_when(group.first)}  {_when(group.last)}  "
        click.echo(_printable(line + _retry_command(group, filters), sys.stdout))
    if others:
        _note(f"and {others} with yet other errors: choose with --task, --error, --queue")


@click.command()
@click.argument("job_id", nargs=-1)
@_filters
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
    if job_id:
        good = {"retried": "{} retried", "limited": "{} retried"}
        otherwise = "job {} is not failed: it is {}"
        return _report(
            actions.act(_link(), "retry", dict.fromkeys(job_id)), good, otherwise, as_json
        )
    link = _link()
    jobs = actions.count(link, filters)
    if jobs:
        _ask(f"retry {jobs} failed jobs", yes)
    done = 0
    with _progress(jobs) as advance:
        for more in actions.retry_all(link, filters):
            advance(more)
            done += more
    if as_json:
        _print_json({"retried": done})
    else:
        click.echo(f"{done} retried")
    return None


# --- jobs


@click.command()
@click.argument("job_id")
@click.option("--timeout", type=Seconds(), default=10, help="How long to wait for its end.")
@_yes
@_json
def stop(job_id: str, timeout: float, yes: bool, as_json: bool) -> None:
    """Stop a running job; it is not retried."""
    _ask(f"stop 1 job, {job_id}", yes)
    worker = actions.stop(_link(), job_id, timeout)
    if as_json:
        _print_json({"stopped": job_id, "worker": worker})
    else:
        click.echo(_printable(f"stopped, at worker {worker}", sys.stdout))


@click.command()
@click.argument("job_id", nargs=-1, required=True)
@_yes
@_json
def cancel(job_id: Sequence[str], yes: bool, as_json: bool) -> int | None:
    """Cancel jobs that wait. What depends on them goes on waiting."""
    _ask(f"cancel {len(job_id)} jobs", yes)
    good = {"cancelled": "{} cancelled"}
    otherwise = "job {0} is not waiting: it is {1}; one that runs is stopped: werk stop {0}"
    return _report(actions.act(_link(), "cancel", dict.fromkeys(job_id)), good, otherwise, as_json)


# --- queues and workers


@click.command()
@click.argument("queue", nargs=-1, required=True)
@_json
def pause(queue: Sequence[str], as_json: bool) -> int | None:
    """Have workers take nothing from queues, until `werk resume`. Stock workers take no notice."""
    good = {"yes": "queue {} is paused", "already": "queue {} was paused already"}
    return _report(actions.act(_link(), "pause", queue), good, NO_QUEUE, as_json)


@click.command()
@click.argument("queue", nargs=-1, required=True)
@_json
def resume(queue: Sequence[str], as_json: bool) -> int | None:
    """End the pause of queues."""
    good = {"yes": "queue {} goes on", "already": "queue {} was not paused"}
    return _report(actions.act(_link(), "resume", queue), good, NO_QUEUE, as_json)


@click.command()
@click.argument("worker", nargs=-1)
@click.option("--wait", is_flag=True, help="Wait until they have left.")
@click.option("--timeout", type=Seconds(), help="How long --wait waits; then exit 124.")
@_yes
@_json
def drain(
    worker: Sequence[str], wait: bool, timeout: float | None, yes: bool, as_json: bool
) -> int | None:
    """Have workers, or all there are, finish their job and leave. Prints their names."""
    if timeout is not None and not wait:
        raise ArgumentError("--timeout is how long --wait waits: say --wait")
    link = _link()
    names = worker or [own.name for own in Snapshot.read(link).workers if own.is_live]
    if names:
        _ask(f"end {len(names)} workers after their job", yes)
    found = [  # who has left is what --wait waits for
        (name, what)
        for name, what in actions.act(link, "drain", names)
        if what != "unknown" or not wait
    ]
    good, otherwise = {"told": "{}", "already": "{}"}, "worker {} is {}: werk status"
    code = _report(found, good, otherwise, as_json)
    if not wait:
        return code
    actions.wait_gone(link, names, timeout)
    return None


@click.command()
@click.option("--dry-run", is_flag=True, help="Only show what would be put back.")
@_json
def repair(dry_run: bool, as_json: bool) -> None:
    """Put back jobs that are in no place, as stock workers leave them when they are killed."""
    found = actions.repair(_link(), dry_run=dry_run)
    if as_json:
        _print_json([{"id": name, "was": state} for name, state in found])
        return
    for name, state in found:
        click.echo(_printable(f"{name} {state}", sys.stdout))
    jobs = sum(state != "gone" for _, state in found)
    would = "would put" if dry_run else "put"
    _note(f"{would} back {jobs} jobs; {len(found) - jobs} workers are gone")


# --- asking and printing


def _ask(what: str, yes: bool) -> None:
    """Ask on a terminal; elsewhere --yes must have said so. Raises WerkError."""
    if yes:
        return
    if not (sys.stdin and sys.stdin.isatty()):
        raise ArgumentError(f"this would {what}; say --yes")
    if not click.confirm(_printable(what, sys.stderr) + "?", err=True):
        raise WerkError("nothing was done")


@contextmanager
def _progress(total: int) -> Iterator[Any]:
    """Yield a function that is told how many more are done; a bar on a terminal, for many."""
    if total <= actions.PAGE or not sys.stderr.isatty():
        yield lambda count: None
        return
    with click.progressbar(length=total, file=sys.stderr) as bar:
        yield bar.update


def _report(
    outcomes: Iterable[tuple[str, str]], good: Mapping[str, str], otherwise: str, as_json: bool
) -> int | None:
    """Say what became of each, in the words for it; return the exit code."""
    found = dict(outcomes)
    if as_json:
        _print_json(found)
    for name, outcome in found.items():
        if outcome not in good:
            _note((NO_JOB if outcome == "gone" else otherwise).format(name, outcome))
        elif not as_json:
            click.echo(_printable(good[outcome].format(name), sys.stdout))
    if "gone" in found.values():
        return EXIT_NO_JOB
    return None if good.keys() >= set(found.values()) else EXIT_FAILED


def _print_failure(job: Failure, as_json: bool) -> None:
    if as_json:
        _print_json({**job._asdict(), "at": _iso(job.at)})
    else:
        line = f"{job.id}  {_when(job.at)}  {job.queue}  {job.task}  {job.error}"
        click.echo(_printable(line, sys.stdout))


def _group_as_json(group: Group, filters: Filters) -> dict[str, Any]:
    times = {"first": _iso(group.first), "last": _iso(group.last)}
    return {**group._asdict(), **times, "retry": _retry_command(group, filters)}


def _retry_command(group: Group, filters: Filters) -> str:
    """Return the command that retries a group, within what was asked for."""
    words = ["werk", "retry", "--task", group.task, "--error", group.error]
    words += ["--queue", filters.queue] if filters.queue else []
    words += ["--since", _iso(math.floor(filters.since))] if filters.since else []
    return shlex.join(words)


def _when(moment: float) -> str:
    return f"{datetime.fromtimestamp(moment):%m-%d %H:%M:%S}"


def _iso(moment: float) -> str:
    return datetime.fromtimestamp(moment).astimezone().isoformat(timespec="seconds")
