"""What `werk cron --check` and `werk cron --list` print."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from werk.cli import output
from werk.cli.tables import Column, Table
from werk.cli.times import utc, utc_text
from werk.ops import cron_health
from werk.ops.cron_health import LineHealth
from werk.ops.numbers import age, period
from werk.store.connection import Link

if TYPE_CHECKING:
    from werk.ops.crontab import Line

LINES = (Column("WHEN"), Column("CALL", 12), Column("LAST"), Column("NEXT"), Column("STATE"))


def print_checked(lines: Sequence[Line], as_json: bool) -> None:
    """Print the next times of lines."""
    rows = [line.as_json() for line in lines]
    if as_json:
        output.print_json([{**row, "next": [*map(utc_text, row["next"])]} for row in rows])
        return
    for row in rows:
        output.print_text(f"{row['line']}: {row['when']}  {row['call']}")
        for moment in row["next"]:
            output.print_text(f"    {moment}")


def print_listed(link: Link, as_json: bool) -> None:
    """Print what every `werk cron` has published."""
    health = cron_health.read(link)
    if as_json:
        output.print_json(_as_json(health))
        return
    groups: dict[tuple[str, str], list[LineHealth]] = {}
    for line in health.lines:
        groups.setdefault((line.zone, ", ".join(line.hosts)), []).append(line)
    if not groups:
        output.print_text("no werk cron has published a line")
    for (zone, hosts), lines in groups.items():
        output.print_text(f"{zone}, on {hosts}")
        output.print_table(Table(*LINES), [_row(line, health.time) for line in lines])
        output.print_line("")
    for own in health.processes:
        output.print_text(f"{own.host}: {own.state}, last beat {age(own.beat_s)} ago: {own.path}")
    for call in health.calls:
        made = f"{call.call} --once-per {period(call.period_s)}"
        output.print_text(f"{made}: called {age(call.last_s)} ago by {call.host}")


def _row(line: LineHealth, now: float) -> Sequence[str]:
    last = "never"
    if line.last is not None:
        last = f"{age(max(0.0, now - line.last))} ago, {line.outcome}"
    soon = "-" if line.next is None else f"in {age(max(0.0, line.next - now))}"
    return line.when, line.call, last, soon, line.state


def _as_json(health: cron_health.CronHealth) -> dict[str, Any]:
    return {
        "time": utc(health.time),
        "lines": [
            {**line._asdict(), "last": utc(line.last), "next": utc(line.next)}
            for line in health.lines
        ],
        "processes": [own._asdict() for own in health.processes],
        "once_per": [{**call._asdict(), "last": utc(call.last)} for call in health.calls],
    }
