"""The command behind `werk worker`: that of `rq worker`, with our help and options."""

from __future__ import annotations

import click

from werk.cli.types import duration
from werk.duration import Range
from werk.settings import MOST_SLOTS

HELP = """Run a worker that takes jobs from the QUEUES; the first has priority.

Without QUEUES it listens on "default"."""
EPILOG = "The other options of `rq worker` work as well; see rq worker --help."
OPTIONS = {  # of `rq worker` that people need: metavar and help
    "burst": (None, "Exit when no job is left."),
    "logging_level": ("LEVEL", "Log lines of LEVEL and above: DEBUG, INFO, WARNING or ERROR."),
    "log_format": ("FORMAT", "Log in FORMAT: json, or a format of Python's logging."),
    "name": ("NAME", "Name the worker, which must be unique. Default: HOST:PROCESS:RANDOM."),
    "verbose": (None, "Log at level DEBUG."),
    "quiet": (None, "Log at level WARNING."),
    "pid": ("FILE", "Write the process id to FILE."),
    "max_jobs": ("COUNT", "Exit after COUNT jobs. With --concurrency, COUNT is for each slot."),
    "max_idle_time": ("PERIOD", "Exit after PERIOD without a job: 90, 5m or 1h."),
    "path": ("FOLDER", "Look for the modules of tasks in FOLDER as well."),
    "url": ("URL", "Use the Redis at URL. Default: RQ_REDIS_URL."),
}


def rq_command() -> click.Command:
    """Return the command `rq worker` with our help. The options that few people need are hidden."""
    from rq.cli.workers import worker as command

    command.help, command.epilog = HELP, EPILOG
    if not any(option.name == "concurrency" for option in command.params):
        command.params.insert(0, _concurrency)
    for option in command.params:
        if isinstance(option, click.Option) and option is not _concurrency:
            option.hidden = option.name not in OPTIONS
            option.metavar, option.help = OPTIONS.get(option.name or "", (None, option.help))
        if option.name == "max_idle_time":
            option.type = duration(Range(0))
        if option.name == "logging_level" and len(option.opts) == 1:
            option.opts.insert(0, "--logging-level")  # RQ has only --logging_level
    return command


def _use_concurrency(context: click.Context, option: click.Parameter, slots: int | None) -> None:
    from werk.worker import Worker

    Worker.concurrency = slots or 0


_concurrency = click.Option(
    ["--concurrency"],
    type=click.IntRange(1, MOST_SLOTS),
    metavar="N",
    expose_value=False,
    callback=_use_concurrency,
    help="Run up to N jobs at the same time, each in its own process. Default: WERK_CONCURRENCY,"
    " or 1.",
)
