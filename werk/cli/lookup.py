"""The commands that look things up: the result of a job, its record, the list of tasks."""

from __future__ import annotations

from contextlib import suppress
from functools import partial
from itertools import chain

import click

from werk import errors
from werk.cli.output import (
    connect,
    print_json,
    print_lines,
    print_note,
    print_outcome,
    print_text,
    print_whole,
)
from werk.cli.tables import width, wrap
from werk.cli.times import local_text
from werk.cli.types import PERIOD, json_option
from werk.errors import ArgumentError, ConfigError
from werk.printable import shell_words
from werk.settings import Settings
from werk.store.connection import link

TIMES = "created_at enqueued_at started_at ended_at due next_try fails_at".split()


@click.command()
@click.argument("job_id")
@click.option("--timeout", type=PERIOD, help="Wait at most PERIOD, then exit with 124.")
@json_option
def result(job_id: str, timeout: float | None, as_json: bool) -> int | None:
    """Wait for a job and print its result."""
    from werk.client import result
    from werk.ops.job_ids import resolve

    connected = connect()
    with suppress(ConfigError):  # a caller's Redis user may not search for jobs
        job_id = resolve(connected, job_id)
    wait = partial(result.result, job_id, timeout, connection=connected)
    return print_outcome(wait, as_json, {"id": job_id})


@click.command()
@click.argument("job_id")
@json_option
def show(job_id: str, as_json: bool) -> None:
    """Print what is known about a job. This includes its status, times and last error."""
    from werk.ops import job_view
    from werk.ops.job_ids import resolve

    connected = connect()
    found = job_view.show(resolve(connected, job_id), connected)
    if as_json:
        print_json(found)
        return
    attempts = [own | {"ended_at": local_text(own["ended_at"])} for own in found["attempts"]]
    lines = "\n".join(map(job_view.attempt_line, attempts))
    found["attempts"] = lines if job_view.was_retried(attempts) else None
    shown = {name: value for name, value in found.items() if value is not None}
    for name, value in shown.items():
        text = local_text(value) if name in TIMES else job_view.as_text(value)
        first, indent = f"{name:<13}", " " * 13
        for line in text.expandtabs().split("\n"):
            print_lines("\n".join(wrap(line, width(), indent, first)))
            first = indent


@click.command()
@click.argument("file", required=False)
@click.option("--check", is_flag=True, help="Print only problems; exit with 78 for a missing task.")
@click.option(
    "--stubs",
    is_flag=True,
    help="Print a Python module with a typed function per task; with --check FILE, exit with 1"
    " if FILE differs from it.",
)
@click.option(
    "--strict",
    is_flag=True,
    help="Like --check; exit with 78 also for a parameter that no caller can pass.",
)
@json_option
def tasks(file: str | None, check: bool, strict: bool, stubs: bool, as_json: bool) -> int | None:
    """List the tasks, their parameters, and where workers serve them."""
    if file is not None and not (stubs and check):
        use = "" if stubs else f"; how to call a task: werk-enqueue {shell_words(file)} --help"
        raise ArgumentError(f"FILE is only for --stubs --check, got {file!r}{use}")
    if stubs:
        _stubs(file, check, as_json)
        return None
    from werk.ops import task_list
    from werk.tasks.classes import unreachable
    from werk.tasks.signature import read

    check = check or strict
    rows = task_list.survey(None if check else link(Settings.read()), print_note)
    if check:
        shapes = (read(row.entry.task.path, unreachable) for row in rows)
        rows = [row._replace(entry=row.entry._replace(shape=next(shapes))) for row in rows]
    notes = [(row.entry.name, note) for row in rows if check for note in row.entry.shape.notes]
    if as_json:
        print_json({row.entry.name: row.as_json() for row in rows})
    elif not check:
        for line in chain.from_iterable(row.lines() for row in rows):
            print_text(line)
    for name, note in notes if not as_json else ():
        print_whole(f"{name}: {note.text}")
    broken = {"module", "function", *(["unreachable"] if strict else [])}
    return errors.EXIT_CONFIG if any(note.kind in broken for _, note in notes) else None


def _stubs(file: str | None, check: bool, as_json: bool) -> None:
    """Print the module of typed functions, or compare a file with it."""
    from werk.ops import task_stubs

    if as_json:
        raise ArgumentError("--json cannot be combined with --stubs, which prints Python")
    if check and file is None:
        raise ArgumentError("--stubs --check requires FILE, the module that --stubs has printed")
    module = task_stubs.module(task_stubs.entries(connect, print_note))
    if file is None:
        click.echo(module.encode(), nl=False)  # in UTF-8 whatever the locale
    else:
        task_stubs.check(file, module)
