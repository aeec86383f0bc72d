"""The commands: parse, one call, print. What they do stands in the modules that they call.

A command returns its exit code, or None for 0. What werk raises becomes one line on stderr and the
exit code that the error names; only results and ids go to stdout.
"""

from __future__ import annotations

import gc

gc.disable()  # while all this is imported: a tenth of the CPU of an enqueue, for nothing

import atexit
import io
import os
import sys
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from datetime import timedelta
from functools import partial
from itertools import chain
from types import MappingProxyType
from typing import TYPE_CHECKING, Any, BinaryIO, NamedTuple, NoReturn, TextIO

import click

from werk import __version__
from werk.cli.output import Parsed, connect, remark, say, say_json, say_lines
from werk.errors import (
    EXIT_CONFIG,
    EXIT_FAILED,
    EXIT_INTERRUPTED,
    EXIT_USAGE,
    ArgumentError,
    JobFailed,
    ResultNotKept,
    WerkError,
)
from werk.printable import printable, printable_lines
from werk.settings import Settings
from werk.store.connection import link

gc.enable()

if TYPE_CHECKING:  # a third of the time of `werk status`, which needs neither
    from werk.client.enqueue import PreparedJob
    from werk.client.options import Options
    from werk.client.result import Handle
    from werk.tasks.catalog_page import Entry

HELP_BUDGET_S = 0.5  # for the names in the catalog

ENQUEUE_EPILOG = """\b
Examples:
  werk-enqueue sleep 1                  print the id of the job
  werk-enqueue --wait hello Ada         wait, print the result
  werk-enqueue --delay 60 hello Ada     in a minute
  */5 * * * * /path/to/.venv/bin/werk-enqueue --quiet --once-per 5m sleep 1

\b
Exit codes: 0 queued; 1 the job failed, or its result was not kept (--wait); 2 wrong usage;
65 bad lines (--batch); 75 Redis unreachable, try later; 78 configuration wrong;
124 not done within --timeout, the job goes on; 130 interrupted."""


def main() -> NoReturn:
    """Run `werk`."""
    _run(werk, "werk")


def enqueue_main() -> NoReturn:
    """Run `werk-enqueue`."""
    gc.disable()  # one job and the end
    try:
        _run(enqueue, "werk-enqueue")
    except SystemExit as end:  # all is printed; to take Python apart is a seventh of the CPU
        atexit._run_exitfuncs()
        with suppress(OSError):
            sys.stdout.flush()  # what those have printed
        os._exit(end.code if isinstance(end.code, int) else 0)


def _run(command: click.Command, name: str) -> NoReturn:
    if "" not in sys.path:
        sys.path.append("")  # tables and tasks in the current folder, as `rq worker` finds them
    sys.stdout, sys.stderr = _stream(sys.stdout), _stream(sys.stderr)
    try:
        code = command.main(prog_name=name, standalone_mode=False) or 0
        sys.stdout.flush()
    except WerkError as error:
        code = _complain(name, error.exit_code, *map(str, error.args))
    except click.exceptions.NoArgsIsHelpError as error:
        click.echo(error.ctx.get_help() if error.ctx else "", err=True)
        code = EXIT_USAGE
    except click.ClickException as error:
        code = _complain(name, EXIT_USAGE, error.format_message())
    except (KeyboardInterrupt, click.Abort):
        code = _complain(name, EXIT_INTERRUPTED, "interrupted")
    except OSError as error:
        sys.stdout = _stream(None)  # a full disk, a reader that has left: do not flush it again
        code = _complain(name, EXIT_FAILED, f"cannot print: {error.strerror}")
    sys.exit(code)


def _stream(stream: TextIO | None) -> TextIO:
    """Return a stream that takes any text: with LANG=C, half a character in a result, `>&-`."""
    if stream is None:
        return open(os.devnull, "w")
    if isinstance(stream, io.TextIOWrapper):
        stream.reconfigure(errors="backslashreplace")
    return stream


def _complain(name: str, code: int, *lines: str) -> int:
    try:
        for at, line in enumerate(lines):
            remark(line if at else f"{name}: {line}")
    except OSError:
        sys.stderr = _stream(None)
    return code


def _read(kind: str, wanted: str, text: str) -> Any:
    """Return what a word of an option means; a length of time as seconds."""
    from werk.tasks.types import Invalid, Type

    try:
        found: Any = Type(kind).parse(text)
        if kind == "float" and found < 0:
            raise Invalid
    except Invalid:
        raise ArgumentError(f"{text!r} is not {wanted}") from None
    return found.total_seconds() if isinstance(found, timedelta) else found


def _text_of(source: str) -> str:
    """Return a text, or that of @FILE, or what is on stdin for -."""
    if source != "-" and not source.startswith("@"):
        return source
    try:
        with click.open_file(source.removeprefix("@"), "rb") as file:
            return bytes(file.read()).decode()
    except OSError as error:
        raise ArgumentError(f"{source}: {error.strerror}") from None
    except UnicodeDecodeError:
        raise ArgumentError(f"{source} is not valid UTF-8") from None


SECONDS = Parsed("seconds", partial(_read, "float", "a number of seconds"))
PERIOD_WANTED = "a length of time; say 90 (seconds), 5m, 1h or 1d"
PERIOD = Parsed("period", partial(_read, "duration", PERIOD_WANTED))
TEXT = Parsed("text|@file|-", _text_of)
LINES = click.File("rb")
MOMENT = Parsed("time", partial(_read, "datetime", "a time like 2026-12-24T18:00+01:00"))


class TaskGroup(click.Group):
    """A group whose commands are the tasks, each made from its signature, or from the catalog."""

    listed: Mapping[str, TaskCommand] = MappingProxyType({})
    damaged = ""  # what to say of the catalog

    def list_commands(self, ctx: click.Context) -> list[str]:
        """For --help and completion. A Redis that is away is no reason to do without them."""
        from werk.tasks import catalog, catalog_page

        pages = catalog_page.NO_PAGES
        with suppress(WerkError):
            pages = catalog_page.read_pages(link(Settings.read(), HELP_BUDGET_S))
        self.damaged = pages.problem() if pages.damaged else ""
        found = catalog.everything(pages)
        self.listed = {name: TaskCommand(entry) for name, entry in found.items()}
        return sorted(self.listed)

    def format_commands(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        super().format_commands(ctx, formatter)
        if self.damaged:
            formatter.write_paragraph()
            formatter.write_text(printable(f"Not listed: {self.damaged}."))

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:
        from werk.client import enqueue as client

        return self.listed.get(cmd_name) or TaskCommand(client.find(cmd_name, connect()))

    def collect_usage_pieces(self, ctx: click.Context) -> list[str]:
        return ["[OPTIONS]", "TASK [ARGS]..."]


class TaskCommand(click.Command):
    """A task as a command: all words after its name are its arguments."""

    def __init__(self, entry: Entry) -> None:
        self.entry = entry
        super().__init__(
            entry.name,
            callback=self.run,
            help=entry.shape.summary or None,
            epilog=" ".join(note.text for note in entry.shape.notes) or None,
        )

    def parse_args(self, ctx: click.Context, args: list[str]) -> list[str]:
        """Take all words as they are; only --help is click's."""
        ours = args[: args.index("--")] if "--" in args else args
        if "--help" in ours and not ctx.resilient_parsing:
            click.echo(ctx.get_help())
            ctx.exit()
        ctx.params["words"] = tuple(args)
        return []

    def collect_usage_pieces(self, ctx: click.Context) -> list[str]:
        return [self.entry.shape.usage()]

    def run(self, words: Sequence[str]) -> int | None:
        """Enqueue the task with the options that stood before it."""
        from werk.client import enqueue as client

        name, task, shape = self.entry[:3]
        how = click.get_current_context().find_object(How)
        assert how is not None
        for option, value in (("--batch", how.batch), ("--args-json", how.args_json)):
            if words and value is not None:
                raise ArgumentError(f"{option} has the arguments; {name} is the last word")
        if how.batch is not None:
            from werk.cli import batch

            return batch.run(self.entry, how.batch, how)
        if how.args_json is None:
            args, kwargs = shape.parse(words, task=name, secret=task.secret)
        else:
            args, kwargs = shape.from_json(how.args_json, task=name, secret=task.secret)
        return _enqueue(client.prepare(self.entry, args, kwargs, how.options), how)


class How(NamedTuple):
    """What stood before the task's name: how the job is treated, and what is printed of it."""

    options: Options
    wait: bool
    timeout: float | None
    as_json: bool
    quiet: bool
    dry_run: bool
    args_json: str | None
    batch: BinaryIO | None

    def says(self, warning: str) -> bool:
        """Tell whether a warning is printed: with --quiet not that there is no worker just now."""
        from werk.client import enqueue as client

        return not (self.quiet and warning.startswith(client.UNHEARD))


@click.command(
    cls=TaskGroup,
    help="Enqueue TASK and print the id of the job. Options stand before TASK.",
    epilog=ENQUEUE_EPILOG,
    subcommand_metavar="TASK [ARGS]...",
)
@click.option("--wait", is_flag=True, help="Wait for the job and print its result.")
@click.option("--timeout", type=SECONDS, help="How long --wait waits; then exit 124.")
@click.option("--queue", help="Instead of the task's own queue.")
@click.option("--front", is_flag=True, help="Before all jobs that wait.")
@click.option("--delay", type=SECONDS, help="Run it so much later.")
@click.option("--at", type=MOMENT, help="Run it then: 2026-12-24T18:00, local, or with +01:00.")
@click.option("--job-id", help="An id of your own: enqueued once, however often you say it.")
@click.option("--job-timeout", type=int, help="Seconds that one execution may take; -1: no limit.")
@click.option("--ttl", type=int, help="Seconds that the job may wait; then it is dropped.")
@click.option("--result-ttl", type=int, help="Seconds that the result is kept; -1: for ever.")
@click.option("--failure-ttl", type=int, help="Seconds that a failed job is kept; -1: for ever.")
@click.option("--retry", type=int, help="How often a failed job is tried again.")
@click.option("--once-per", type=PERIOD, help="Once in 5m, 1h, 1d, however many hosts say so.")
@click.option("--slot", help="Once for what this names, such as a tick; instead of --once-per.")
@click.option("--unless-active", is_flag=True, help="Not while the last one waits or runs.")
@click.option("--expires", type=PERIOD, help="Drop it if it waits so much longer: 10m, 1h.")
@click.option("--ping", metavar="URL", help="GET this when the job has succeeded.")
@click.option("--args-json", type=TEXT, help="All arguments: a JSON array or object.")
@click.option(
    "--batch", type=LINES, metavar="FILE|-", help="A job for each line, which is as --args-json."
)
@click.option("--require-worker", is_flag=True, help="Only if a worker would run it; or exit 75.")
@click.option("--json", "as_json", is_flag=True, help="Print an object.")
@click.option("--quiet", is_flag=True, help="Print nothing when all is well.")
@click.option("--dry-run", is_flag=True, help="Check and print the call; enqueue nothing.")
@click.version_option(__version__, package_name="werk", message="werk %(version)s")
@click.pass_context
def enqueue(ctx: click.Context, /, job_timeout: int | None, **given: Any) -> None:
    from werk.client.options import Options

    printed = {name: given.pop(name) for name in How._fields[1:]}
    ctx.obj = how = How(Options(timeout=job_timeout, **given), **printed)
    if how.batch is not None and (how.args_json is not None or how.options.job_id is not None):
        raise ArgumentError("--batch excludes --args-json and --job-id")
    if how.timeout is not None and not how.wait:
        raise ArgumentError(
            "--timeout is how long --wait waits; the limit of the job itself is --job-timeout"
        )


def _enqueue(request: PreparedJob, how: How) -> int | None:
    from werk.client import enqueue as client

    if how.dry_run:
        print_request(request, how)
        return None
    connected = connect()
    try:
        handle = client.send([request], connected)[0]
    except KeyboardInterrupt:  # it may have arrived, or not
        remark(f"interrupted; job {request.id} may be queued: werk show {request.id}")
        return EXIT_INTERRUPTED
    for warning in handle.warnings:
        if how.says(warning):
            remark(warning)
    said = handle_as_json(handle)
    if how.wait:
        return _print_outcome(lambda: handle.result(how.timeout), how.as_json, said)
    if handle.duplicate and not how.quiet:
        remark(f"{handle.reason}; not enqueued again")
    if how.as_json:
        say_json(said)
    elif not how.quiet:
        say(handle.id)
    return None


def handle_as_json(handle: Handle) -> dict[str, Any]:
    """Return what --json prints of it."""
    names = ("id", "queue", "task", "duplicate", "warnings")
    return {name: getattr(handle, name) for name in names}


def print_request(request: PreparedJob, how: How) -> None:
    """Print what --dry-run found good."""
    call, queue = request.call, request.task.queue
    if how.as_json:
        say_json({"call": call, "queue": queue, "task": request.name, "due": request.due})
    elif not how.quiet:
        say(f"{call} would go to queue {queue}")


class Commands(click.Group):
    """The commands here, and those of cli_ops.py, which is read when one of them is used."""

    OF_OPERATORS = "status failed retry stop cancel pause resume drain repair ping".split()

    def list_commands(self, ctx: click.Context) -> list[str]:
        return sorted([*super().list_commands(ctx), *self.OF_OPERATORS])

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:
        if cmd_name in self.OF_OPERATORS:
            from werk.cli import operate as cli_ops

            return getattr(cli_ops, cmd_name)  # type: ignore[no-any-return]
        return super().get_command(ctx, cmd_name)


@click.group(cls=Commands, help="Background jobs by name, on RQ and Redis.")
@click.version_option(__version__, package_name="werk", message="werk %(version)s")
def werk() -> None:
    pass


werk.add_command(enqueue, "enqueue")


@werk.command()
@click.argument("job_id")
@click.option("--timeout", type=SECONDS, help="How long to wait; then exit 124.")
@click.option("--json", "as_json", is_flag=True, help="Print an object.")
def result(job_id: str, timeout: float | None, as_json: bool) -> int | None:
    """Wait for a job and print its result."""
    from werk.client import result as client

    wait = partial(client.result, job_id, timeout, connection=connect())
    return _print_outcome(wait, as_json, {"id": job_id})


@werk.command()
@click.argument("job_id")
@click.option("--json", "as_json", is_flag=True, help="Print an object.")
def show(job_id: str, as_json: bool) -> None:
    """Print what is known of a job."""
    from werk.ops.job_view import as_text
    from werk.ops.job_view import show as look

    found = look(job_id, connect())
    if as_json:
        say_json(found)
        return
    for name, value in found.items():
        if value is not None:
            text = as_text(value).replace("\n", "\n" + " " * 13)
            say_lines(f"{name:<13}{text}")


@werk.command()
@click.option("--check", is_flag=True, help="Only what is wrong; exit 78 if a task is broken.")
@click.option("--json", "as_json", is_flag=True, help="Print an object.")
def tasks(check: bool, as_json: bool) -> int | None:
    """List the tasks, with their parameters and the queues whose workers serve them."""
    from werk.ops import task_list

    rows = task_list.survey(None if check else link(Settings.read()), remark)
    notes = [(row.entry, note) for row in rows for note in row.entry.shape.notes]
    if as_json:
        say_json({row.entry.name: row.as_json() for row in rows})
    elif not check:
        for line in chain.from_iterable(row.lines() for row in rows):
            say(line)
    for entry, note in notes if check else ():
        say(f"{entry.name}: {note.text}")
    is_broken = check and any(entry.shape.is_missing for entry, _ in notes)
    return EXIT_CONFIG if is_broken else None


@werk.command(context_settings={"ignore_unknown_options": True, "help_option_names": []})
@click.argument("arguments", nargs=-1, type=click.UNPROCESSED)
def worker(arguments: tuple[str, ...]) -> int | None:
    """Run a worker: `rq worker` with its options and our class, e.g. werk worker default."""
    from rq.cli.workers import worker as rq_worker

    from werk.worker import wait_for_redis
    from werk.worker.tick import TICK_BUDGET_S

    classes = {"worker": "werk.worker.Worker", "connection": "werk.worker.rq_side.PatientRedis"}
    words = [*(f"--{kind}-class={path}" for kind, path in classes.items()), *arguments]
    with rq_worker.make_context("werk worker", words) as context:
        settings, given = Settings.read(), context.params
        if given["url"]:
            settings = settings._replace(redis_url=given["url"])
        elif given["config"]:
            settings = settings._replace(redis_url=None, rq_config=given["config"])
        wait_for_redis(link(settings, TICK_BUDGET_S))
        code: int | None = rq_worker.invoke(context)
        return code


@werk.command()
@click.option("--port", type=click.IntRange(1, 65535), default=9181, help="Of the dashboard.")
def up(port: int) -> int | None:
    """Run server, worker, dashboard and ./crontab in this terminal, until Ctrl-C."""
    from werk.dev import up as stack

    return stack.up(Settings.read(), port=port)


@werk.command()
@click.option("--port", type=click.IntRange(1, 65535), default=9181, show_default=True)
@click.option("--bind", default="127.0.0.1", help="Address to listen on; another needs a password.")
@click.option("--host", "hosts", multiple=True, help="A name that browsers may know it by.")
@click.option("--read-only", is_flag=True, help="Show all, change nothing.")
def dashboard(port: int, bind: str, hosts: tuple[str, ...], read_only: bool) -> int:
    """Serve the dashboard, until Ctrl-C."""
    from werk.web.app import serve

    return serve(Settings.read(), bind=bind, port=port, hosts=hosts, read_only=read_only)


@werk.command()
@click.argument("file")
@click.option("--check", is_flag=True, help="Print the next five times of each line; do no more.")
@click.option(
    "--catch-up", type=PERIOD, default="5m", help="Enqueue what was missed for so long, no older."
)
@click.option("--json", "as_json", is_flag=True, help="With --check, print objects.")
def cron(file: str, check: bool, catch_up: float, as_json: bool) -> None:
    """Enqueue as FILE says, a crontab of task names: */5 * * * * sleep 1. Run any number of it."""
    from werk.ops import cron as own

    connected = connect()
    lines = own.read(file, connected)
    if not check:
        own.run(lines, connected, catch_up)
    shown = [line.as_json() for line in lines]
    if as_json:
        say_json(shown)
        return
    for line in shown:
        say(f"{line['line']}: {line['when']}  {line['call']}")
        for moment in line["next"]:
            say(f"    {moment}")


def _print_outcome(wait: Callable[[], Any], as_json: bool, said: dict[str, Any]) -> int | None:
    """Print what a job returned; or on stderr why it did not, and return the exit code."""
    from werk.ops.job_view import as_text

    try:
        value = wait()
    except KeyboardInterrupt:
        remark(f"interrupted; job {said['id']} goes on: werk result {said['id']}")
        return EXIT_INTERRUPTED
    except (JobFailed, ResultNotKept) as error:
        traceback = getattr(error, "traceback", "")
        if as_json:
            say_json({**said, "error": str(error), "traceback": traceback})
        elif traceback:
            click.echo(printable_lines(traceback), err=True)
        raise
    if as_json:
        say_json({**said, "result": value})
    else:
        say_lines(as_text(value))
    return None
