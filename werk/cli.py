"""The commands: parse, one call, print. What they do stands in the modules that they call.

A command returns its exit code, or None for 0. What werk raises becomes one line on stderr and the
exit code that the error names; only results and ids go to stdout.
"""

from __future__ import annotations

import gc

gc.disable()  # while all this is imported: a tenth of the CPU of an enqueue, for nothing

import io
import math
import os
import sys
from collections.abc import Callable, Sequence
from datetime import datetime
from typing import TYPE_CHECKING, Any, NoReturn, TextIO

import click

from werk import __version__, registry
from werk.errors import (
    EXIT_CONFIG,
    EXIT_FAILED,
    EXIT_INTERRUPTED,
    EXIT_USAGE,
    ArgumentError,
    JobFailed,
    UnknownTask,
    WerkError,
)
from werk.settings import Settings
from werk.terminal import Parsed, connect, printable, remark, say, say_json

gc.enable()

if TYPE_CHECKING:  # a third of the time of `werk status`, which needs neither
    from werk import client
    from werk.arguments import Signature

ENQUEUE_EPILOG = """\b
Examples:
  werk-enqueue sleep 1                  print the id of the job
  werk-enqueue --wait hello Ada         wait, print the result
  werk-enqueue --delay 60 hello Ada     in a minute
  */5 * * * * /path/to/.venv/bin/werk-enqueue --quiet sleep 1

\b
Exit codes: 0 queued; 1 the job failed (--wait); 2 wrong usage; 75 Redis away, try later;
78 configuration wrong; 124 not done within --timeout, the job goes on; 130 interrupted."""


def main() -> NoReturn:
    """Run `werk`."""
    _run(werk, "werk")


def enqueue_main() -> NoReturn:
    """Run `werk-enqueue`."""
    gc.disable()  # one job and the end
    _run(enqueue, "werk-enqueue")


def _run(command: click.Command, name: str) -> NoReturn:
    if "" not in sys.path:
        sys.path.append("")  # tables and tasks in the current folder, as `rq worker` finds them
    sys.stdout, sys.stderr = _stream(sys.stdout), _stream(sys.stderr)
    try:
        code = command.main(prog_name=name, standalone_mode=False) or 0
        sys.stdout.flush()
    except WerkError as error:
        code = _complain(name, str(error), error.exit_code)
    except click.exceptions.NoArgsIsHelpError as error:
        click.echo(error.ctx.get_help() if error.ctx else "", err=True)
        code = EXIT_USAGE
    except click.ClickException as error:
        code = _complain(name, error.format_message(), EXIT_USAGE)
    except (KeyboardInterrupt, click.Abort):
        code = _complain(name, "interrupted", EXIT_INTERRUPTED)
    except OSError as error:
        sys.stdout = _stream(None)  # a full disk, a reader that has left: do not flush it again
        code = _complain(name, f"cannot print: {error.strerror}", EXIT_FAILED)
    sys.exit(code)


def _stream(stream: TextIO | None) -> TextIO:
    """Return a stream that takes any text: with LANG=C, half a character in a result, `>&-`."""
    if stream is None:
        return open(os.devnull, "w")
    if isinstance(stream, io.TextIOWrapper):
        stream.reconfigure(errors="backslashreplace")
    return stream


def _complain(name: str, message: str, code: int) -> int:
    try:
        click.echo(printable(f"{name}: {message}", sys.stderr), err=True)
    except OSError:
        sys.stderr = _stream(None)
    return code


def _seconds(text: str) -> float:
    """Return a number of seconds, 0 or more."""
    try:
        number = float(text)
    except ValueError:
        number = -1.0
    if not math.isfinite(number) or number < 0:
        raise ArgumentError(f"{text!r} is not a number of seconds")
    return number


def _moment(text: str) -> datetime:
    """Return a point in time, ISO 8601; without a zone it is local."""
    try:
        return datetime.fromisoformat(text)
    except ValueError:
        raise ArgumentError(f"{text!r} is not a time like 2026-12-24T18:00+01:00") from None


SECONDS = Parsed("seconds", _seconds)
MOMENT = Parsed("time", _moment)


class TaskGroup(click.Group):
    """A group whose commands are the tasks, each made from its signature."""

    def list_commands(self, ctx: click.Context) -> list[str]:
        return sorted(registry.tasks())

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:
        task = registry.tasks().get(cmd_name)
        return TaskCommand(cmd_name, task) if task else None

    def resolve_command(
        self, ctx: click.Context, args: list[str]
    ) -> tuple[str | None, click.Command | None, list[str]]:
        if self.get_command(ctx, args[0]) is None:
            raise UnknownTask(registry.unknown(args[0]))
        return super().resolve_command(ctx, args)

    def collect_usage_pieces(self, ctx: click.Context) -> list[str]:
        return ["[OPTIONS]", "TASK [ARGS]..."]


class TaskCommand(click.Command):
    """A task as a command: all words after its name are its arguments."""

    def __init__(self, name: str, task: registry.Task) -> None:
        from werk import signature

        self.task = task
        self.shape = signature.read(task.path)
        super().__init__(
            name,
            callback=self.run,
            help=self.shape.summary or None,
            epilog=" ".join(note.text for note in self.shape.notes) or None,
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
        return [self.shape.usage()]

    def run(self, words: Sequence[str]) -> int | None:
        """Enqueue the task with the options that stood before it."""
        from werk import client

        assert self.name is not None
        args, kwargs = self.shape.parse(words, task=self.name, secret=self.task.secret)
        options = click.get_current_context().find_object(EnqueueOptions)
        assert options is not None
        request = client.prepare(self.name, args, kwargs, options.options)
        return _enqueue(request, options)


class EnqueueOptions:
    """What stood before the task's name."""

    def __init__(
        self,
        *,
        wait: bool,
        timeout: float | None,
        as_json: bool,
        quiet: bool,
        dry_run: bool,
        **job: Any,
    ) -> None:
        from werk import client

        self.wait, self.timeout, self.as_json = wait, timeout, as_json
        self.quiet, self.dry_run = quiet, dry_run
        self.options = client.Options(timeout=job.pop("job_timeout"), **job)
        if timeout is not None and not wait:
            raise ArgumentError(
                "--timeout is how long --wait waits; the limit of the job itself is --job-timeout"
            )


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
@click.option("--json", "as_json", is_flag=True, help="Print an object.")
@click.option("--quiet", is_flag=True, help="Print nothing when all is well.")
@click.option("--dry-run", is_flag=True, help="Check and print the call; enqueue nothing.")
@click.version_option(__version__, package_name="werk", message="werk %(version)s")
@click.pass_context
def enqueue(ctx: click.Context, /, **options: Any) -> None:
    ctx.obj = EnqueueOptions(**options)


def _enqueue(request: client.Request, how: EnqueueOptions) -> int | None:
    from werk import client

    if how.dry_run:
        _print_request(request, how)
        return None
    connected = connect()
    try:
        handle = client.send([request], connected)[0]
    except KeyboardInterrupt:  # it may have arrived, or not
        remark(f"interrupted; job {request.id} may be queued: werk show {request.id}")
        return EXIT_INTERRUPTED
    for warning in handle.warnings:
        remark(warning)
    said = {
        "id": handle.id,
        "queue": handle.queue,
        "task": handle.task,
        "duplicate": handle.duplicate,
        "warnings": list(handle.warnings),
    }
    if how.wait:
        return _print_outcome(lambda: handle.result(how.timeout), handle.id, how.as_json, said)
    if handle.duplicate and not how.quiet:
        remark(f"job {handle.id} was there before; not enqueued again")
    if how.as_json:
        say_json(said)
    elif not how.quiet:
        click.echo(handle.id)
    return None


def _print_request(request: client.Request, how: EnqueueOptions) -> None:
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
            from werk import cli_ops

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
    from werk import client

    connected = connect()
    return _print_outcome(
        lambda: client.result(job_id, timeout, connection=connected),
        job_id,
        as_json,
        {"id": job_id},
    )


@werk.command()
@click.argument("job_id")
@click.option("--json", "as_json", is_flag=True, help="Print an object.")
def show(job_id: str, as_json: bool) -> None:
    """Print what is known of a job."""
    from werk.show import as_text
    from werk.show import show as look

    found = look(job_id, connect())
    if as_json:
        say_json(found)
        return
    for name, value in found.items():
        if value is not None:
            text = printable(as_text(value), sys.stdout)
            click.echo(f"{name:<13}{text.replace(chr(10), chr(10) + ' ' * 13)}")


@werk.command()
@click.option("--check", is_flag=True, help="Only what is wrong; exit 78 if a task is broken.")
@click.option("--json", "as_json", is_flag=True, help="Print an object.")
def tasks(check: bool, as_json: bool) -> int | None:
    """List the tasks, with their parameters."""
    from werk import signature

    found = {name: (task, signature.read(task.path)) for name, task in registry.tasks().items()}
    if as_json:
        say_json({name: _task_as_json(task, shape) for name, (task, shape) in found.items()})
    elif not check:
        for name, (task, shape) in sorted(found.items()):
            click.echo(f"{name} {shape.usage()}".rstrip() + f"  -> {task.path}, queue {task.queue}")
            if shape.summary:
                click.echo(f"    {printable(shape.summary, sys.stdout)}")
    for name, (_, shape) in sorted(found.items()):
        for note in shape.notes if check else ():
            click.echo(f"{name}: {printable(note.text, sys.stdout)}")
    kinds = {note.kind for _, shape in found.values() for note in shape.notes}
    broken = kinds & {"module", "function"}
    return EXIT_CONFIG if check and broken else None


@werk.command(
    context_settings={"ignore_unknown_options": True, "help_option_names": []},
)
@click.argument("arguments", nargs=-1, type=click.UNPROCESSED)
def worker(arguments: tuple[str, ...]) -> int | None:
    """Run a worker: `rq worker` with its options and our class, e.g. werk worker default."""
    from rq.cli.cli import main as rq

    words = ["worker", "--worker-class", "werk.worker.Worker", *arguments]
    code: int | None = rq.main(words, prog_name="werk", standalone_mode=False)
    return code


@werk.command()
@click.option("--port", type=click.IntRange(1, 65535), default=9181, help="Of the dashboard.")
def up(port: int) -> int | None:
    """Run server, worker and dashboard in this terminal, until Ctrl-C."""
    from werk import stack

    return stack.up(Settings.read(), port=port)


@werk.command()
@click.option("--port", type=click.IntRange(1, 65535), default=9181, show_default=True)
@click.option("--bind", default="127.0.0.1", help="Address to listen on; another needs a password.")
@click.option("--host", "hosts", multiple=True, help="A name that browsers may know it by.")
@click.option("--read-only", is_flag=True, help="Show all, change nothing.")
def dashboard(port: int, bind: str, hosts: tuple[str, ...], read_only: bool) -> int:
    """Serve the dashboard, until Ctrl-C."""
    from werk.dashboard import serve

    return serve(Settings.read(), bind=bind, port=port, hosts=hosts, read_only=read_only)


# --- printing


def _print_outcome(
    wait: Callable[[], Any], job_id: str, as_json: bool, said: dict[str, Any]
) -> int | None:
    """Print what a job returned; or on stderr why it did not, and return the exit code."""
    from werk.show import as_text

    try:
        value = wait()
    except KeyboardInterrupt:
        remark(f"interrupted; job {job_id} goes on: werk result {job_id}")
        return EXIT_INTERRUPTED
    except JobFailed as error:
        if as_json:
            say_json({**said, "error": str(error), "traceback": error.traceback})
        elif error.traceback:
            click.echo(printable(error.traceback, sys.stderr), err=True)
        raise
    if as_json:
        say_json({**said, "result": value})
    else:
        say(as_text(value))
    return None


def _task_as_json(task: registry.Task, shape: Signature) -> dict[str, Any]:
    notes = [note.text for note in shape.notes]
    return {"path": task.path, "queue": task.queue, "usage": shape.usage(), "notes": notes}


if __name__ == "__main__":
    main()
