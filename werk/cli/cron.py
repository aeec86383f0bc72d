"""What `werk cron --check` and `werk cron --list` print."""

from __future__ import annotations

import shutil
from collections.abc import Iterator, Sequence
from datetime import datetime, timezone
from typing import TYPE_CHECKING, Any

from werk.ops import cron_health
from werk.ops.cron_health import LineHealth
from werk.ops.cron_problems import cut, period
from werk.ops.numbers import age
from werk.printable import printable
from werk.store.connection import Link

if TYPE_CHECKING:
    from werk.ops.crontab import Line

WIDTH = 80  # where it is unknown
SHORTEST_CALL = 12


def checked(lines: Sequence[Line]) -> tuple[object, Sequence[str]]:
    """Return the next times of lines: as JSON, and as lines of text."""
    rows, texts = [line.as_json() for line in lines], []
    for row in rows:
        texts.append(f"{row['line']}: {row['when']}  {row['call']}")
        texts += [f"    {moment}" for moment in row["next"]]
    return rows, texts


def listed(link: Link) -> tuple[object, Sequence[str]]:
    """Return what every `werk cron` has published: as JSON, and as lines of text."""
    health = cron_health.read(link)
    width = shutil.get_terminal_size((WIDTH, 0)).columns
    groups: dict[tuple[str, str], list[LineHealth]] = {}
    for line in health.lines:
        groups.setdefault((line.zone, ", ".join(line.hosts)), []).append(line)
    texts = [] if groups else ["no werk cron has published a line"]
    for (zone, hosts), lines in groups.items():
        rows = [_row(line, health.time) for line in lines]
        texts += [f"{zone}, on {hosts}", *_columns(rows, width), ""]
    for own in health.processes:
        texts.append(f"{own.host}: {own.state}, last beat {age(own.beat_s)} ago: {own.path}")
    for call in health.calls:
        made = f"{call.call} --once-per {period(call.period_s)}"
        texts.append(f"{made}: called {age(call.last_s)} ago by {call.host}")
    return _as_json(health), [cut(printable(text), width) for text in texts]


def _row(line: LineHealth, now: float) -> Sequence[str]:
    last = "never"
    if line.last is not None:
        last = f"{age(max(0.0, now - line.last))} ago, {line.outcome}"
    soon = "-" if line.next is None else f"in {age(max(0.0, line.next - now))}"
    return tuple(map(printable, (line.when, line.call, last, soon, line.state)))


def _columns(rows: Sequence[Sequence[str]], width: int) -> Iterator[str]:
    """Yield a table as wide as the terminal at most: calls are cut."""
    table = [("when", "call", "last", "next", "state"), *rows]
    widths = [max(map(len, column)) for column in zip(*table, strict=True)]
    too_wide = sum(widths) + 2 * len(widths) - width
    widths[1] = max(SHORTEST_CALL, widths[1] - max(0, too_wide))
    for row in table:
        cells = [cut(cell, most).ljust(most) for cell, most in zip(row, widths, strict=True)]
        yield f"  {'  '.join(cells)}".rstrip()


def _as_json(health: cron_health.CronHealth) -> dict[str, Any]:
    return {
        "time": _utc(health.time),
        "lines": [
            {**line._asdict(), "last": _utc(line.last), "next": _utc(line.next)}
            for line in health.lines
        ],
        "processes": [own._asdict() for own in health.processes],
        "once_per": [{**call._asdict(), "last": _utc(call.last)} for call in health.calls],
    }


def _utc(moment: float | None) -> str | None:
    if moment is None:
        return None
    return datetime.fromtimestamp(moment, timezone.utc).strftime("%Y-%m-%dT%H:%M:%SZ")
