"""What is wrong with cron: the problems that `werk status` and the dashboard show."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from werk.ops.cron_health import FAILING_STATE, LATE, SILENT, CronHealth, LineHealth, OnceCall
from werk.ops.cron_record import STOPPED
from werk.ops.limits import CRITICAL, WARNING
from werk.ops.numbers import age, period
from werk.printable import counted, cut, shell_words

MOST_NAMED = 5  # lines or calls that are named for each kind of problem
LONGEST_CALL = 80

Text = tuple[str, str, str]  # level, what, fix: a checks.Problem


def of_cron(health: CronHealth) -> Iterator[Text]:
    """Yield each problem of cron: its level, what is wrong, and what to do."""
    for state in (SILENT, STOPPED):
        places: dict[tuple[str, str], list[LineHealth]] = {}
        for line in health.lines:
            if line.state == state:
                places.setdefault((line.host, line.path), []).append(line)
        for lines in places.values():
            yield _of_place(lines)
    for state, text in ((LATE, _of_late), (FAILING_STATE, _of_failing)):
        lines = [line for line in health.lines if line.state == state]
        yield from map(text, lines[:MOST_NAMED])
        if more := lines[MOST_NAMED:]:
            what = f"{counted(len(more), 'more cron line')}: {state}"
            yield WARNING, what, "werk cron --list"
    overdue = [call for call in health.calls if call.is_overdue]
    yield from map(_of_call, overdue[:MOST_NAMED])
    if others := overdue[MOST_NAMED:]:
        what = f"{counted(len(others), 'more call')} with --once-per: three periods old"
        yield WARNING, what, "werk cron --list"


def _of_place(lines: Sequence[LineHealth]) -> Text:
    """Return the problem of lines whose last heartbeat came from the same crontab and host."""
    first = lines[0]
    which = f"{counted(len(lines), 'line')} of {first.path} (host {first.host})"
    fix = f"start it: werk cron {shell_words(first.path)} on {first.host}"
    fix += "; if it will not return: werk repair"
    since = age(first.silent_s)
    if first.state == STOPPED:
        are = "is" if len(lines) == 1 else "are"
        return WARNING, f"werk cron was stopped {since} ago: {which} {are} not enqueued", fix
    have = "has" if len(lines) == 1 else "have"
    return CRITICAL, f"no werk cron runs: {which} {have} been silent for {since}", fix


def _of_late(line: LineHealth) -> Text:
    fix = f"see event=not-enqueued and event=missed in the log of werk cron on {line.host}"
    return WARNING, f"cron line {_named(line)} is late: {line.why}", fix


def _of_failing(line: LineHealth) -> Text:
    fix = f"werk show {shell_words(line.failed)}"
    return WARNING, f"cron line {_named(line)}: its last jobs failed", fix


def _of_call(call: OnceCall) -> Text:
    shown = f"{cut(call.call, LONGEST_CALL)} --once-per {period(call.period_s)}"
    fix = f"check the crontab of {call.host}; if the line was removed: werk repair"
    return WARNING, f"no host has called {shown} for {age(call.last_s)}", fix


def _named(line: LineHealth) -> str:
    return f"{line.when} {cut(line.call, LONGEST_CALL)}"
