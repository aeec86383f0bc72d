"""The pages of docs/ that are made from the code. `bin/docs` writes, test_docs.py compares them.

reference.md is the help of every command, python-api.md what `import werk` offers; the tables and
charts of benchmarks.md and scaling.md come from benchmarks.json and scaling.json.
"""

from __future__ import annotations

import inspect
import json
import os
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any, get_args

import benchmarks
import click
from added import ADDED

import werk
from werk import registry, testing
from werk.cli.enqueue import enqueue
from werk.cli.run import werk as commands
from werk.cli.worker_options import rq_command
from werk.client.options import Options
from werk.duration import Duration
from werk.errors import WerkError

DOCS = Path(__file__).parents[2] / "docs"
WIDTH = 78  # of help that is not printed to a terminal (click)
NOWHERE = "unix:///nowhere/redis.sock"  # so that the help lists the tasks of the table alone

COMMANDS_HEAD = """\
# Commands

<!-- Made by bin/docs from the commands themselves: change their help, then run bin/docs. -->

What `--help` prints. `werk-enqueue TASK --help` prints how to call a task. `werk worker` also
takes the options of `rq worker` that are not listed here. See also
[settings and exit codes](settings.md) and the [runbook](runbook.md#what-each-command-is-for).
"""
API_HEAD = """\
# Python API

<!-- Made by bin/docs from the docstrings: change them, then run bin/docs. -->

Everything is imported from `werk`, except for the
[functions for asyncio](#functions-for-asyncio) and [testing](#testing).
[Enqueueing](enqueueing.md) and [tasks](tasks.md) have examples.
"""


def pages() -> Mapping[Path, str]:
    """Return the text of each page, and of the chart, that is made from the code."""
    names = "benchmarks", "scaling"
    measured = {name: json.loads((DOCS / f"{name}.json").read_text()) for name in names}
    figures = {DOCS / f"{name}.md": found for name, found in measured.items()}
    charts = {DOCS / "images" / f"{name}.svg": found for name, found in measured.items()}
    return {
        DOCS / "reference.md": _commands(),
        DOCS / "python-api.md": _api(),
        **{
            path: benchmarks.page(path.read_text(), found, path.stem)
            for path, found in figures.items()
        },
        **{path: benchmarks.chart(found) for path, found in charts.items()},
    }


def _commands() -> str:
    return "\n".join([COMMANDS_HEAD, *(part for one in _helps() for part in one)])


def _helps() -> Iterator[tuple[str, str]]:
    before, tasks = os.environ.get("RQ_REDIS_URL"), dict(registry.TASKS)
    os.environ["RQ_REDIS_URL"] = NOWHERE
    for name in ADDED:
        registry.TASKS.pop(name, None)
    registry.tasks.cache_clear()
    try:
        yield _help("werk-enqueue", enqueue)
        yield _help("werk", commands)
        context = click.Context(commands)
        for name in commands.list_commands(context):
            command = commands.get_command(context, name)
            if name != "enqueue" and command:  # werk enqueue is werk-enqueue
                yield _help(f"werk {name}", rq_command() if name == "worker" else command)
    finally:
        registry.TASKS.update(tasks)
        registry.tasks.cache_clear()
        os.environ.pop("RQ_REDIS_URL")
        if before is not None:
            os.environ["RQ_REDIS_URL"] = before


def _help(name: str, command: click.Command) -> tuple[str, str]:
    context = click.Context(command, info_name=name, terminal_width=WIDTH, max_content_width=WIDTH)
    return f"## {name}\n", f"```text\n{command.get_help(context).rstrip()}\n```\n"


def _api() -> str:
    functions = [
        _entry(name, getattr(werk, name))
        for name in ("enqueue", "enqueue_call", "enqueue_many", "result", "status", "configure")
    ]
    functions.append("## Functions for asyncio\n\nAwait them. They are imported from `werk.aio`.\n")
    functions += [_entry(f"aio.{name}", getattr(werk.aio, name)) for name in werk.aio.__all__]
    handle = [_entry("Handle", werk.Handle)]
    for name, member in vars(werk.Handle).items():
        if not name.startswith("_") and inspect.isfunction(member):
            handle.append(_entry(f"Handle.{name}", member, "####"))
        elif isinstance(member, property):
            handle.append(f"#### `Handle.{name}`\n\n{inspect.getdoc(member)}\n")
    errors = [name for name in werk.__all__ if _is_error(getattr(werk, name))]
    rows = [f"| `{name}` | {_one_line(getattr(werk, name))} |" for name in errors]
    parts = ["## Functions\n", *functions, "## Records\n", *handle, _entry("Task", werk.Task)]
    parts += [_options(), *_testing(), "## Errors\n", "| | |\n|---|---|\n" + "\n".join(rows) + "\n"]
    return "\n".join([API_HEAD, *parts])


def _testing() -> Iterator[str]:
    yield "## Testing\n\nImported from `werk.testing`; [testing](testing.md) has examples.\n"
    yield _entry("recorded", testing.recorded)
    yield f"### `RecordedJobs`\n\n{inspect.getdoc(testing.RecordedJobs)}\n"
    for name in ("of", "run"):
        found = getattr(testing.RecordedJobs, name)
        yield _entry(f"RecordedJobs.{name}", found, "####")


def _is_error(found: object) -> bool:
    return isinstance(found, type) and issubclass(found, (WerkError, Warning))


def _entry(name: str, found: Callable[..., Any], level: str = "###") -> str:
    shape = str(_readable(inspect.signature(found)))
    parameters = shape if len(name + shape) <= WIDTH else _in_lines(shape)
    return f"{level} `{name}`\n\n```python\n{name}{parameters}\n```\n\n{inspect.getdoc(found)}\n"


class _Annotation:
    """An annotation as it stands in the source: the versions of Python print it differently."""

    def __init__(self, found: Any) -> None:
        self.text = getattr(found, "__forward_arg__", found)

    def __repr__(self) -> str:
        return str(self.text)


def _readable(signature: inspect.Signature) -> inspect.Signature:
    """Return a signature without `self`."""
    own = [
        parameter.replace(annotation=_Annotation(parameter.annotation))
        for name, parameter in signature.parameters.items()
        if name != "self"
    ]
    returned = signature.return_annotation
    if isinstance(returned, str):  # not of a class
        returned = _Annotation(returned)
    return signature.replace(parameters=own, return_annotation=returned)


def _in_lines(shape: str) -> str:
    """Return a signature with one parameter in each line."""
    inside, _, returned = shape[1:].rpartition(")")
    depth, words, lines = 0, "", []
    for character in inside + ",":
        depth += (character in "([") - (character in ")]")
        if character == "," and not depth:
            lines.append(f"    {words.strip()},")
            words = ""
        else:
            words += character
    return "\n".join(["(", *lines, f"){returned}"])


def _options() -> str:
    """Return the fields of Options, with the help that the command line prints too."""
    doc = inspect.getdoc(Options)
    rows = ["| field | type | |", "|---|---|---|"]
    for name, hint in Options.__annotations__.items():
        if hasattr(hint, "__metadata__"):  # the others are for werk itself
            kind, shown = get_args(hint)
            text = getattr(kind, "__name__", str(kind)) if isinstance(kind, type) else str(kind)
            text = text.replace(str(Duration), "Duration").replace("typing.", "")
            text = text.replace("datetime.datetime", "datetime").replace(" | ", " \\| ")
            rows.append(f"| `{name}` | `{text}` | {shown.text} |")
    return f"### `Options`\n\n{doc}\n\n" + "\n".join(rows) + "\n"


def _one_line(found: type) -> str:
    return " ".join((inspect.getdoc(found) or "").split())


if __name__ == "__main__":
    for path, text in pages().items():
        path.write_text(text)
