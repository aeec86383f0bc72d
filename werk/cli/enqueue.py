"""`werk-enqueue`: each task is a command, made from its signature; options come before it."""

from __future__ import annotations

import gc

gc.disable()  # during all imports: a tenth of the CPU of an enqueue, without any use

import atexit
import os
import sys
from collections.abc import Mapping, Sequence
from contextlib import suppress
from functools import partial
from types import MappingProxyType
from typing import Any, NoReturn, get_args

import click

from werk import __version__
from werk.cli import crontab, output
from werk.cli.output import Invocation
from werk.cli.types import JSON_OBJECT, LINES, MOMENT, PERIOD, TEXT, duration
from werk.client import enqueue as client
from werk.client.options import DURATIONS, HINTS, Options
from werk.client.result import Handle
from werk.errors import EXIT_INTERRUPTED, ArgumentError, RedisUnavailable, WerkError
from werk.printable import printable, shell_words
from werk.tasks import catalog, catalog_page, signature
from werk.tasks.catalog_page import Entry

gc.enable()

HELP_BUDGET_S = 0.5  # to read the names in the catalog

ENQUEUE_EPILOG = """\b
Examples, with the tasks that werk brings:
  werk-enqueue sleep 1                  print the id of the job
  werk-enqueue --wait hello Ada         wait for the job, print its result
  werk-enqueue --delay 60 hello Ada     run the job in a minute
  */5 * * * * /path/to/.venv/bin/werk-enqueue --quiet --once-per 5m sleep 1

Exit codes: 0 enqueued, or a duplicate; 1 the job failed, was cancelled or stopped, or its result
was not kept (--wait); 2 wrong usage; 65 bad lines (--batch); 66 the job was deleted or has expired
(--wait); 75 try again later: Redis is unreachable, or no worker serves the task; 78 wrong
configuration; 124 the job is enqueued, but was not done within --timeout, or Redis became
unreachable (--wait); 130 interrupted."""


def enqueue_main() -> NoReturn:
    """Run `werk-enqueue`."""
    gc.disable()  # the process ends after one job
    try:
        output.run_command(enqueue, "werk-enqueue")
    except SystemExit as end:  # shutting Python down takes a seventh of the CPU
        atexit._run_exitfuncs()
        with suppress(OSError):
            sys.stdout.flush()  # what the exit functions have printed
        os._exit(end.code if isinstance(end.code, int) else 0)


class TaskGroup(click.Group):
    """A group whose commands are the tasks, each made from its signature, or from the catalog."""

    listed: Mapping[str, TaskCommand] = MappingProxyType({})
    damaged = ""  # what is wrong with the catalog

    def list_commands(self, ctx: click.Context) -> list[str]:
        """Return the names for --help and completion, which work while Redis is unreachable."""
        pages, theirs = catalog_page.NO_PAGES, catalog_page.NO_PAGES.entries
        with suppress(WerkError):
            quick = output.connect(HELP_BUDGET_S)
            pages = catalog_page.read_pages(quick)
            theirs = catalog.of_workers(lambda: quick)
        self.damaged = pages.problem() if pages.damaged else ""
        found = catalog.everything(pages, theirs)
        self.listed = {name: TaskCommand(entry) for name, entry in found.items()}
        return sorted(self.listed)

    def format_commands(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        super().format_commands(ctx, formatter)
        if self.damaged:
            formatter.write_paragraph()
            formatter.write_text(printable(f"Not listed: {self.damaged}."))

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:
        return self.listed.get(cmd_name) or TaskCommand(client.find(cmd_name, output.connect()))

    def collect_usage_pieces(self, ctx: click.Context) -> list[str]:
        return ["[OPTIONS]", "TASK [ARGS]..."]


class TaskCommand(click.Command):
    """A task as a command: all words after its name are its arguments."""

    def __init__(self, entry: Entry) -> None:
        self.entry = entry
        super().__init__(entry.name, callback=self.run, help=entry.shape.summary or None)

    def format_epilog(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        """Write what `werk tasks --check` prints of the task."""
        shape = self.entry.shape
        if shape.notes:
            from werk.tasks.classes import unreachable  # an enqueue does not need it

            shape = signature.read(self.entry.task.path, unreachable)
        self.epilog = " ".join(note.text for note in shape.notes) or None
        super().format_epilog(ctx, formatter)

    def parse_args(self, ctx: click.Context, args: list[str]) -> list[str]:
        """Keep all words as they are; click handles only --help."""
        ours = args[: args.index("--")] if "--" in args else args
        if "--help" in ours and not ctx.resilient_parsing:
            click.echo(ctx.get_help())
            ctx.exit()
        ctx.params["words"] = tuple(args)
        return []

    def collect_usage_pieces(self, ctx: click.Context) -> list[str]:
        return [self.entry.shape.usage()]

    def run(self, words: Sequence[str]) -> int | None:
        """Enqueue the task with the options before its name."""
        try:
            return self._run(words)
        finally:  # now cron has had the time to write
            if crontab.has_cut():
                output.print_note(crontab.CUT)

    def _run(self, words: Sequence[str]) -> int | None:
        name, task, shape = self.entry[:3]
        invocation = click.get_current_context().find_object(Invocation)
        assert invocation is not None
        for option, value in (("--batch", invocation.batch), ("--args-json", invocation.args_json)):
            if words and value is not None:
                raise ArgumentError(f"{option} provides the arguments; {name} takes no others")
        if invocation.batch is not None:
            from werk.cli import batch

            return batch.run(self.entry, invocation.batch, invocation)
        if invocation.args_json is None:
            reserved = {word for option in enqueue.params for word in option.opts}
            args, kwargs = shape.parse(words, name, task.secret, reserved)
        else:
            args, kwargs = shape.from_json(invocation.args_json, task=name, secret=task.secret)
        return _enqueue(client.prepare(self.entry, args, kwargs, invocation.options), invocation)


def _job_option(field: str, hint: Any) -> click.Option:
    """Return the option that a field of client.Options declares."""
    kinds, shown = get_args(hint)
    words = [f"--{shown.name or field}".replace("_", "-"), field]
    if kinds is bool:
        return click.Option(words, is_flag=True, help=shown.text)
    if field in DURATIONS:
        return click.Option(
            words, type=duration(DURATIONS[field]), metavar=shown.value, help=shown.text
        )
    named = {"COUNT": int, "TIME": MOMENT, "JSON": JSON_OBJECT}
    kind = named.get(shown.value, str)
    return click.Option(words, type=kind, metavar=shown.value, help=shown.text)


@click.command(
    cls=TaskGroup,
    help="Enqueue TASK and print the id of the job. Options come before TASK.",
    epilog=ENQUEUE_EPILOG,
    subcommand_metavar="TASK [ARGS]...",
    params=[*map(_job_option, HINTS, HINTS.values())],
)
@click.option("--args-json", type=TEXT, help="Read all arguments from a JSON array or object.")
@click.option("--batch", type=LINES, metavar="FILE|-", help="Enqueue a job for each line of FILE.")
@click.option("--wait", is_flag=True, help="Wait for the job and print its result.")
@click.option("--timeout", "wait_s", type=PERIOD, help="Wait at most PERIOD, then exit with 124.")
@click.option("--json", "as_json", is_flag=True, help="Print a JSON object.")
@click.option("--quiet", is_flag=True, help="Print nothing when all is well.")
@click.option("--dry-run", is_flag=True, help="Check and print the call; enqueue nothing.")
@click.version_option(__version__, package_name="werk", message="werk %(version)s")
@click.pass_context
def enqueue(ctx: click.Context, /, **given: Any) -> None:
    options = Options(**{field: given.pop(field) for field in HINTS})
    ctx.obj = invocation = Invocation(options, **given)
    if invocation.batch is not None and (invocation.args_json, options.job_id) != (None, None):
        raise ArgumentError("--batch cannot be combined with --args-json or --job-id")
    if invocation.wait_s is not None and not invocation.wait:
        raise ArgumentError("--timeout requires --wait; to limit the job itself: --job-timeout")


def _enqueue(request: client.PreparedJob, invocation: Invocation) -> int | None:
    """Enqueue a job, and print its id or, with --wait, its outcome."""
    if invocation.dry_run:
        output.print_request(request, invocation)
        return None
    connected = output.connect()
    if request.options.once_per and not (sys.stdin and sys.stdin.isatty()):
        from werk.client import once_call  # most enqueues do not need it

        connected.beside = once_call.noted(request)
    unsure = f"job {request.id} may be queued: werk show {shell_words(request.id)}"
    try:
        handle = client.deliver([request], connected)[0]
    except KeyboardInterrupt:  # Redis may have received the job
        output.print_note(f"interrupted; {unsure}")
        return EXIT_INTERRUPTED
    except RedisUnavailable as error:
        if connected.has_lost_reply:
            error.args = (f"{error}; {unsure}",)
        raise
    try:
        return _report(handle, invocation)
    except OSError:  # a full disk, a reader that has exited
        look = f"werk result {shell_words(handle.id)}"
        output.print_note(f"job {handle.id} is enqueued: {look}")
        raise


def _report(handle: Handle, invocation: Invocation) -> int | None:
    """Print the id of a job that was enqueued or, with --wait, its outcome."""
    for warning in handle.warnings:
        if invocation.prints(warning):
            output.print_note(warning)
    if handle.duplicate and not invocation.quiet:
        output.print_note(f"{handle.reason}; nothing was enqueued")
    facts = handle.as_json()
    if invocation.wait:
        wait = partial(handle.result, invocation.wait_s)
        look = f"werk result {shell_words(handle.id)}"
        with output.naming(f"job {handle.id} is enqueued and continues: {look}"):
            return output.print_outcome(wait, invocation.as_json, facts)
    if invocation.as_json:
        output.print_json(facts)
    elif not invocation.quiet:
        output.print_line(handle.id)
    return None
