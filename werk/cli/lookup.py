"""The commands that look things up: the result of a job, its record, the list of tasks."""

from __future__ import annotations

from functools import partial
from itertools import chain

import click

from werk import errors
from werk.cli.output import connect, print_json, print_line, print_lines, print_note, print_outcome
from werk.cli.types import PERIOD, json_option
from werk.settings import Settings
from werk.store.connection import link


@click.command()
@click.argument("job_id")
@click.option("--timeout", type=PERIOD, help="Wait at most PERIOD, then exit with 124.")
@json_option
def result(job_id: str, timeout: float | None, as_json: bool) -> int | None:
    """Wait for a job and print its result."""
    from werk.client import result

    wait = partial(result.result, job_id, timeout, connection=connect())
    return print_outcome(wait, as_json, {"id": job_id})


@click.command()
@click.argument("job_id")
@json_option
def show(job_id: str, as_json: bool) -> None:
    """Print what is known about a job. This includes its status, times and last error."""
    from werk.ops import job_view

    found = job_view.show(job_id, connect())
    if as_json:
        print_json(found)
        return
    for name, value in found.items():
        if value is not None:
            text = job_view.as_text(value).replace("\n", "\n" + " " * 13)
            print_lines(f"{name:<13}{text}")


@click.command()
@click.option("--check", is_flag=True, help="Print only problems; exit with 78 for a missing task.")
@json_option
def tasks(check: bool, as_json: bool) -> int | None:
    """List the tasks, their parameters, and where workers serve them."""
    from werk.ops import task_list

    rows = task_list.survey(None if check else link(Settings.read()), print_note)
    notes = [(row.entry, note) for row in rows for note in row.entry.shape.notes]
    if as_json:
        print_json({row.entry.name: row.as_json() for row in rows})
    elif not check:
        for line in chain.from_iterable(row.lines() for row in rows):
            print_line(line)
    for entry, note in notes if check else ():
        print_line(f"{entry.name}: {note.text}")
    is_broken = check and any(entry.shape.is_missing for entry, _ in notes)
    return errors.EXIT_CONFIG if is_broken else None
