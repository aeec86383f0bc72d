"""What all commands share: how they reach Redis, what they print, and how they end.

Only results and ids go to stdout. A command returns its exit code, or None for 0; a WerkError that
it raises becomes one line on stderr and the exit code that the error names.
"""

from __future__ import annotations

import io
import json
import os
import sys
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from math import isfinite
from typing import TYPE_CHECKING, Any, BinaryIO, NamedTuple, NoReturn, TextIO

import click

from werk import errors
from werk.cli import tables, times
from werk.cli.packages import how_to_install
from werk.client.links import link_of
from werk.errors import ArgumentError, JobFailed, ResultNotKept, WerkError
from werk.printable import printable, printable_lines, shell_word, shell_words, short
from werk.settings import Settings
from werk.store.connection import COMMAND_BUDGET_S, Link, link

if TYPE_CHECKING:  # importing it takes a third of the time of `werk status`, which does not need it
    from werk.cli.tables import Table
    from werk.client import enqueue
    from werk.client.options import Options


def run_command(command: click.Command, name: str) -> NoReturn:
    """Run a command as this process: parse its words, print how it ended, exit with its code."""
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
        code = errors.EXIT_USAGE
    except click.ClickException as error:
        code = _complain(name, errors.EXIT_USAGE, error.format_message())
    except (KeyboardInterrupt, click.Abort):
        code = _complain(name, errors.EXIT_INTERRUPTED, "interrupted")
    except ModuleNotFoundError as error:
        if not (advice := how_to_install(error.name or "")):
            raise
        code = _complain(name, errors.EXIT_CONFIG, advice)
    except OSError as error:
        sys.stdout = _stream(None)  # a full disk, a reader that has exited: do not flush it again
        what = f"cannot open {error.filename}" if error.filename else "cannot print"
        code = _complain(name, errors.EXIT_FAILED, f"{what}: {error.strerror or error}")
    sys.exit(code)


def _stream(stream: TextIO | None) -> TextIO:
    """Return a stream that takes any text, also with LANG=C; for None, one to /dev/null."""
    if stream is None:
        return open(os.devnull, "w")
    if isinstance(stream, io.TextIOWrapper):
        stream.reconfigure(errors="backslashreplace")
    return stream


def _complain(name: str, code: int, *lines: str) -> int:
    """Print the lines of an error on stderr, and return its exit code."""
    try:
        for at, line in enumerate(lines):
            print_note(line if at else f"{name}: {line}")
    except OSError:
        sys.stderr = _stream(None)
    return code


def connect(budget_s: float = COMMAND_BUDGET_S) -> Link:
    """Return a link to Redis with the time that a command has. Raises ConfigError."""
    return link_of(link(Settings.read(), budget_s))


# --- printing


def print_line(text: str) -> None:
    """Print a result on one line, whatever characters are in it."""
    click.echo(printable(text))


def print_lines(text: str) -> None:
    """Print a result that may have several lines."""
    click.echo(printable_lines(text))


def print_text(text: str) -> None:
    """Print a line for people: in several lines if it is wider than the terminal, or than 80."""
    click.echo("\n".join(tables.wrap(text, tables.width())))


def print_whole(text: str, *, err: bool = False) -> None:
    """Print a line that pipes and logs have whole: one with an id, or an error.

    A terminal has it in several lines if it is wider.
    """
    most = tables.width(sys.stderr if err else sys.stdout, 0)
    fits = not most or len(tables.spread(text)) <= most
    lines = [printable(text)] if fits else tables.wrap(text, most)
    click.echo("\n".join(lines), err=err)


def print_note(text: str) -> None:
    """Print a line on stderr."""
    print_whole(text, err=True)


def print_json(value: object) -> None:
    """Print a value as JSON, on one line. Raises WerkError."""
    try:
        try:
            text = json.dumps(value, default=repr, allow_nan=False)
        except (TypeError, ValueError):  # a key, or a float, that JSON does not have
            text = json.dumps(_in_json(value), default=repr, allow_nan=False)
    except ValueError as error:  # an int of thousands of digits
        raise WerkError(f"cannot be printed as JSON: {error}") from None
    click.echo(text)


def print_rows(as_json: bool, value: object, *lines: str) -> None:
    """Print a value as JSON, or the lines that show it to people."""
    if as_json:
        print_json(value)
    else:
        for line in lines:
            print_whole(line)


def print_table(table: Table, rows: Sequence[Sequence[object]]) -> None:
    """Print rows of a table."""
    for line in table.lines(rows):
        click.echo(line)


def print_command(words: Iterable[str]) -> None:
    """Print a command below an empty line, as a shell reads it, in lines that fit."""
    lines, most = [""], tables.width() - len(" \\")
    for word in words:
        for at, part in enumerate(_parts(word, most - len(tables.INDENT))):
            gap = "" if at or not lines[-1] else " "
            if len(lines[-1]) + len(gap) + len(part) > most:
                lines[-1] += f"{gap}\\"
                lines.append(tables.INDENT if gap else "")
                gap = ""
            lines[-1] += gap + part
    click.echo("\n".join(["", *lines]))


def _parts(word: str, most: int) -> Iterator[str]:
    """Yield a word as a shell reads it, in pieces of at most `most` characters."""
    while len(shell_word(word)) > most:
        end = next(end for end in range(most, 0, -1) if len(shell_word(word[:end])) <= most)
        yield shell_word(word[:end])
        word = word[end:]
    yield shell_word(word)


def _in_json(value: object) -> object:
    """Return a value with only keys and floats that JSON has; any other as repr() shows it."""
    if isinstance(value, dict):
        keys = [k if isinstance(k, str | int | None) else repr(k) for k in value]
        return dict(zip(keys, map(_in_json, value.values()), strict=True))
    if isinstance(value, float) and not isfinite(value):
        return repr(value)
    return [*map(_in_json, value)] if isinstance(value, (list, tuple)) else value


def shown_id(job_id: str) -> str:
    """Return an id as a table shows it: short on a terminal, else whole."""
    return short(job_id) if sys.stdout.isatty() else job_id


def confirm(what: str, yes: bool) -> None:
    """Ask on a terminal; elsewhere --yes is required. Raises WerkError."""
    if yes:
        return
    if not (sys.stdin and sys.stdin.isatty()):
        raise ArgumentError(f"this would {what}; confirm with --yes")
    if not click.confirm(printable(what) + "?", err=True):
        raise WerkError("nothing was done")


# --- jobs


class Invocation(NamedTuple):
    """The options before the task's name: those of the job, and what to print about it."""

    options: Options
    args_json: str | None
    batch: BinaryIO | None
    wait: bool
    wait_s: float | None  # at most
    as_json: bool
    quiet: bool
    dry_run: bool

    def prints(self, warning: str) -> bool:
        """Return whether to print a warning: --quiet omits why the queue's jobs have to wait."""
        from werk.client import enqueue as client

        waits = warning.startswith(client.UNHEARD) or client.PAUSED in warning
        return not (self.quiet and waits)


def print_request(request: enqueue.PreparedJob, invocation: Invocation) -> None:
    """Print a job that --dry-run has checked."""
    call, queue = request.call, request.task.queue
    if invocation.as_json:
        due = times.utc(request.due)
        print_json({"call": call, "queue": queue, "task": request.name, "due": due})
    elif not invocation.quiet:
        print_text(f"{call} would go to queue {queue}")


@contextmanager
def naming(enqueued: str) -> Iterator[None]:
    """Add what was enqueued to an error of Redis during a wait. Raises ResultTimeout, ConfigError.

    A script that retries after exit code 75 would enqueue the jobs a second time. Therefore a wait
    ends as with --timeout if Redis becomes unreachable.
    """
    try:
        yield
    except errors.RedisUnavailable as error:
        raise errors.ResultTimeout(f"{error}; {enqueued}") from None
    except errors.ConfigError as error:
        raise errors.ConfigError(f"{error}; {enqueued}") from None


def print_outcome(wait: Callable[[], Any], as_json: bool, facts: dict[str, Any]) -> int | None:
    """Print what a job returned, or print on stderr why it did not. Return the exit code."""
    from werk.ops.job_view import as_text

    try:
        value = wait()
    except KeyboardInterrupt:
        look = f"werk result {shell_words(facts['id'])}"
        print_note(f"interrupted; job {facts['id']} continues: {look}")
        return errors.EXIT_INTERRUPTED
    except (JobFailed, ResultNotKept) as error:
        traceback = getattr(error, "traceback", "")
        if as_json:
            print_json({**facts, "error": str(error), "traceback": traceback})
        else:
            for line in traceback.expandtabs().splitlines():
                print_note(line)
        raise
    if as_json:
        print_json({**facts, "result": value})
    else:
        print_lines(as_text(value))
    return None
