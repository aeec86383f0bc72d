"""`werk`: the group of all commands, and those that run a process until it is stopped.

Each command parses, makes one call and prints. The work is done by the module that it calls.
"""

from __future__ import annotations

from importlib import import_module
from typing import NoReturn

import click

from werk import __version__, registry
from werk.cli.output import connect, run_command
from werk.cli.types import PERIOD
from werk.cli.worker_options import rq_command
from werk.errors import ArgumentError
from werk.printable import is_storable, near
from werk.settings import DASHBOARD_PORT, Settings
from werk.store.connection import link


def main() -> NoReturn:
    """Run `werk`."""
    run_command(werk, "werk")


_OPERATE = "pause resume drain repair ping".split()
_JOBS = "jobs retry requeue stop cancel discard".split()
_LOOKUP = "result show tasks".split()
_OTHER_WORDS = {"delete": "discard", "purge": "discard"}  # of people, for our commands
_MODULES = dict.fromkeys(_OPERATE, "operate") | dict.fromkeys(_LOOKUP, "lookup")
_MODULES |= dict.fromkeys(_JOBS, "jobs")
_MODULES |= {name: name for name in ("enqueue", "failed", "status")}


class Commands(click.Group):
    """The commands of this module, and those of other modules, each imported when it is used."""

    def list_commands(self, ctx: click.Context) -> list[str]:
        return sorted([*super().list_commands(ctx), *_MODULES])

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:
        if cmd_name in _MODULES:
            module = import_module(f"werk.cli.{_MODULES[cmd_name]}")
            return getattr(module, cmd_name)  # type: ignore[no-any-return]
        return super().get_command(ctx, cmd_name)

    def resolve_command(
        self, ctx: click.Context, args: list[str]
    ) -> tuple[str | None, click.Command | None, list[str]]:
        if args and not args[0].startswith("-") and not self.get_command(ctx, args[0]):
            word = _OTHER_WORDS.get(args[0], args[0])
            hint = near(word, self.list_commands(ctx), "; see werk --help")
            raise click.UsageError(f"unknown command {args[0]!r}{hint}", ctx)
        return super().resolve_command(ctx, args)


@click.group(cls=Commands, help="Run background jobs by name, on RQ and Redis.")
@click.version_option(__version__, package_name="werk", message="werk %(version)s")
def werk() -> None:
    pass


PORT = click.IntRange(1, 65535)
port_option = click.option(
    "--port",
    type=PORT,
    metavar="PORT",
    default=DASHBOARD_PORT,
    help=f"Serve the dashboard on PORT ({DASHBOARD_PORT}).",
)


class _Unparsed(click.Command):
    """A command whose words another command parses, also a -- among them."""

    def parse_args(self, ctx: click.Context, args: list[str]) -> list[str]:
        ctx.params["arguments"] = args
        return []


@werk.command(cls=_Unparsed)
def worker(arguments: list[str]) -> int | None:
    """Run a worker, e.g. werk worker default. It takes the options of `rq worker`."""
    from werk.worker.log_handlers import JSON, open_log
    from werk.worker.log_printed import log_what_is_printed
    from werk.worker.startup import ATTEMPT_S, wait_for_redis

    client = "werk.worker.redis_side.RetryingRedis"
    words = ["--worker-class=werk.worker.Worker", f"--connection-class={client}", *arguments]
    rq_worker = rq_command()
    with rq_worker.make_context("werk worker", words) as context:
        given = context.params
        for word in (*given["queues"], given["name"] or ""):
            if not is_storable(word):
                raise ArgumentError(f"{word!r} is not valid UTF-8")
        open_log(given["log_format"], given["date_format"])
        if given["log_format"] == JSON:
            log_what_is_printed()
        settings = Settings.read()
        if given["url"]:
            settings = settings._replace(redis_url=given["url"])
        elif given["config"]:
            settings = settings._replace(redis_url=None, rq_config=given["config"])
        hello = link(settings, ATTEMPT_S)
        registry.tasks()  # raises ConfigError here, where it is one line
        wait_for_redis(hello)
        code: int | None = rq_worker.invoke(context)
        return code


@werk.command()
@port_option
def up(port: int) -> int | None:
    """Run a server, a worker and the dashboard in this terminal.

    For development. Runs `werk cron ./crontab` as well if there is such a file. Ctrl-C stops all.
    """
    from werk.dev import up as dev

    return dev.up(Settings.read(), port=port)


@werk.command()
@port_option
@click.option(
    "--bind",
    metavar="ADDRESS",
    default="127.0.0.1",
    help="Listen on ADDRESS (127.0.0.1); any other than the loopback requires a password.",
)
@click.option(
    "--host",
    "hosts",
    metavar="NAME",
    multiple=True,
    help="Accept NAME as Host header as well (repeatable).",
)
@click.option("--read-only", is_flag=True, help="Show everything, change nothing.")
def dashboard(port: int, bind: str, hosts: tuple[str, ...], read_only: bool) -> int:
    """Serve the dashboard until Ctrl-C.

    On an address other than the loopback it requires RQ_DASHBOARD_USERNAME and
    RQ_DASHBOARD_PASSWORD.
    """
    from werk.web.app import serve

    return serve(Settings.read(), bind=bind, port=port, hosts=hosts, read_only=read_only)


@werk.command()
@click.argument("file", required=False)
@click.option("--check", is_flag=True, help="Print the next five times of each line and exit.")
@click.option("--list", "as_list", is_flag=True, help="Print the lines of all hosts and exit.")
@click.option(
    "--catch-up",
    type=PERIOD,
    default="5m",
    help="Enqueue ticks missed in the last PERIOD (60s to 47h). Default: 5m.",
)
@click.option("--json", "as_json", is_flag=True, help="With --check or --list, print JSON.")
def cron(file: str | None, check: bool, as_list: bool, catch_up: float, as_json: bool) -> None:
    """Enqueue tasks at the times in FILE, a crontab of task names.

    Several hosts may run the same file: each job is enqueued once. Runs until Ctrl-C.
    """
    from werk.cli import cron as texts
    from werk.ops import cron, crontab

    if as_list:
        if file or check:
            raise ArgumentError("--list takes neither FILE nor --check: it shows what runs")
        texts.print_listed(connect(), as_json)
        return
    if not file:
        raise ArgumentError("Missing argument 'FILE', a crontab; or see werk cron --list")
    if not check:
        cron.end_at_sigterm()  # before tasks are looked up in Redis
    connected = connect()
    if not check:
        cron.run(file, cron.read_lines(file, connected), connected, catch_up)
    texts.print_checked(crontab.read(file, connected), as_json)
