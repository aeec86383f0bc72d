"""`werk`: the group of all commands, and those that run a process until it is stopped.

Parse, one call, print. What a command does stands in the module that it calls.
"""

from __future__ import annotations

from types import ModuleType
from typing import NoReturn

import click

from werk import __version__
from werk.cli.output import connect, print_json, print_line, run_command
from werk.cli.types import PERIOD
from werk.settings import Settings
from werk.store.connection import link


def main() -> NoReturn:
    """Run `werk`."""
    run_command(werk, "werk")


class Commands(click.Group):
    """The commands here, and those of the modules beside, each imported when it is used."""

    ENQUEUE = ("enqueue",)
    LOOKUP = tuple("result show tasks".split())
    OPERATE = tuple("status failed retry stop cancel pause resume drain repair ping".split())

    def list_commands(self, ctx: click.Context) -> list[str]:
        own = super().list_commands(ctx)
        return sorted([*own, *self.ENQUEUE, *self.LOOKUP, *self.OPERATE])

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:
        module = self._module(cmd_name)
        return getattr(module, cmd_name) if module else super().get_command(ctx, cmd_name)

    def _module(self, name: str) -> ModuleType | None:
        if name in self.ENQUEUE:
            from werk.cli import enqueue

            return enqueue
        if name in self.LOOKUP:
            from werk.cli import lookup

            return lookup
        if name in self.OPERATE:
            from werk.cli import operate

            return operate
        return None


@click.group(cls=Commands, help="Background jobs by name, on RQ and Redis.")
@click.version_option(__version__, package_name="werk", message="werk %(version)s")
def werk() -> None:
    pass


@werk.command(context_settings={"ignore_unknown_options": True, "help_option_names": []})
@click.argument("arguments", nargs=-1, type=click.UNPROCESSED)
def worker(arguments: tuple[str, ...]) -> int | None:
    """Run a worker: `rq worker` with its options and our class, e.g. werk worker default."""
    from rq.cli.workers import worker as rq_worker

    from werk.worker import wait_for_redis
    from werk.worker.tick import TICK_BUDGET_S

    classes = {"worker": "werk.worker.Worker", "connection": "werk.worker.channel.PatientRedis"}
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
    from werk.dev import up as dev

    return dev.up(Settings.read(), port=port)


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
    from werk.ops import cron as crontab

    connected = connect()
    lines = crontab.read(file, connected)
    if not check:
        crontab.run(lines, connected, catch_up)
    shown = [line.as_json() for line in lines]
    if as_json:
        print_json(shown)
        return
    for line in shown:
        print_line(f"{line['line']}: {line['when']}  {line['call']}")
        for moment in line["next"]:
            print_line(f"    {moment}")
