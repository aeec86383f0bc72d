"""How cron is judged: a pure function of what crons have published, and of the time."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from datetime import datetime, timezone
from itertools import islice
from zoneinfo import ZoneInfo

import pytest

from werk.ops import cron_problems
from werk.ops.cron_health import SILENT_S, Line, OnceCall, Record, judge
from werk.ops.crontab import Line as CrontabLine
from werk.ops.crontab import times, zone_name

NOON = datetime(2026, 11, 24, 12, tzinfo=timezone.utc).timestamp()
DAY_S, BEAT_S = 86400, 20
CRONTAB = "/etc/werk/crontab"
WHENS = [
    "* * * * *", "*/5 * * * *", "*/7 * * * *", "@hourly", "@daily", "@weekly", "@monthly",
    "0 0 29 2 *", "30 2 * * *", "0,30 1-3 * * *", "59 23 * * *", "0 9 * * mon-fri", "15 6 1 * *",
]  # fmt: skip
ZONES = ["Europe/Berlin", "America/New_York", "UTC", "+05:30"]
FIFTY = [(when, zone) for when in WHENS for zone in ZONES][:50]


def lines(rows: Sequence[tuple[str, str]], done: float, error: str = "") -> list[Line]:
    return [
        Line(number, when, zone, f"task{number}()", f"task{number}", done, error)
        for number, (when, zone) in enumerate(rows, 1)
    ]


def record(
    host: str = "web1",
    beat: float = NOON,
    state: str = "running",
    own: Sequence[Line] | None = None,
    since: float = NOON - DAY_S,
    path: str = CRONTAB,
) -> Record:
    found = lines([("@hourly", "UTC")], beat) if own is None else own
    return Record(host, path, state, beat, since, found)


def states(now: float, *records: Record, jobs: Sequence[Sequence[str]] = ()) -> list[str]:
    stamps = {f"{line.when} {line.call}": jobs for own in records for line in own.lines}
    return [line.state for line in judge(now, records, stamps).lines]


def problems(now: float, *records: Record) -> list[tuple[str, str, str]]:
    return [*cron_problems.of_cron(judge(now, records, {}))]


# --- no false alarm

# What a host does at a second of the day: it runs these lines, is silent, or has been stopped.
Plan = Callable[[int], tuple[str, Sequence[tuple[str, str]]]]


def always(second: int) -> tuple[str, Sequence[tuple[str, str]]]:
    return "running", FIFTY


def restarted(second: int) -> tuple[str, Sequence[tuple[str, str]]]:
    """Stopped by SIGTERM once an hour for two minutes, and killed half an hour later."""
    into = second % 3600
    return "stopped" if into < 120 else "silent" if 1800 <= into < 1900 else "running", FIFTY


def edited(second: int) -> tuple[str, Sequence[tuple[str, str]]]:
    """Has other lines every three hours, and a new one at noon."""
    part = second // 10800
    new = [("*/3 * * * *", "Asia/Tokyo")] if second >= DAY_S // 2 else []
    return "running", [*FIFTY[part : part + 30], *new]


def dead(second: int) -> tuple[str, Sequence[tuple[str, str]]]:
    return "running" if second < 3600 else "silent", FIFTY


def day_of(start: float, plans: Sequence[Plan]) -> Iterator[tuple[float, list[Record]]]:
    """Yield the records at each beat of a day: those of hosts that are silent stay as they are."""
    kept: dict[int, Record] = {}
    for second in range(0, DAY_S, BEAT_S):
        for number, plan in enumerate(plans):
            state, rows = plan(second)
            now, before = start + second, kept.get(number)
            if state == "running":
                is_new = before is None or before.state != state
                since = now if is_new or before is None else before.since
                own = lines(rows, now)
                kept[number] = record(f"web{number}", now, state, own, since)
            elif state == "stopped" and before and before.state != state:
                kept[number] = before._replace(state=state, beat=now)
        yield start + second, [*kept.values()]


TUESDAY = ("2026-11-24", "UTC")
CHANGES = [
    ("2026-03-29", "Europe/Berlin"), ("2026-10-25", "Europe/Berlin"),
    ("2026-03-08", "America/New_York"), ("2026-11-01", "America/New_York"), ("2028-02-29", "UTC"),
]  # fmt: skip
PLANS = [(always,), (restarted,), (edited,), (always, dead), (edited, edited)]


@pytest.mark.parametrize(
    ("plans", "day"),
    [*((plans, TUESDAY) for plans in PLANS), *(((restarted, dead), day) for day in CHANGES)],
)
def test_a_day_without_an_alarm(plans: Sequence[Plan], day: tuple[str, str]) -> None:
    start = datetime.fromisoformat(day[0]).replace(tzinfo=ZoneInfo(day[1])).timestamp()
    for now, records in islice(day_of(start, plans), 1, None, 3):
        health = judge(now + BEAT_S - 1, records, {})
        assert [*cron_problems.of_cron(health)] == [], now - start
        assert {line.state for line in health.lines} <= {"ok"}


@pytest.mark.parametrize(("when", "zone"), FIFTY)
def test_a_line_is_late_when_its_tick_is(when: str, zone: str) -> None:
    """Its process beats, but the line stands still since a tick: until the next there is no harm.

    On the two days of a change of clocks as well.
    """
    for day in ("2026-03-28T22:00", "2026-10-24T22:00", "2026-11-01T00:00"):
        start = datetime.fromisoformat(day).replace(tzinfo=timezone.utc).timestamp()
        done = next(times(when, zone, start))
        due = next(times(when, zone, done))
        for now, state in (
            (due - 1, "ok"),
            (due + SILENT_S - 1, "ok"),
            (due + SILENT_S, "late"),
            (due + DAY_S, "late"),
        ):
            assert states(now, record(beat=now, own=lines([(when, zone)], done))) == [state]


# --- alarms


def test_all_killed_is_critical_within_200_seconds() -> None:
    two = record("web1", own=lines(FIFTY[:2], NOON)), record("web2", NOON - 5, own=lines(FIFTY, 0))
    assert problems(NOON + SILENT_S, two[0]) == []
    [first, second] = problems(NOON + SILENT_S + 1, *two)
    fix = "start it: werk cron /etc/werk/crontab on {0}; if it will not return: werk repair"
    what = "no werk cron runs: {} lines of /etc/werk/crontab (host {}) have been silent for 3m"
    assert first == ("critical", what.format(2, "web1"), fix.format("web1"))
    assert second == ("critical", what.format(48, "web2"), fix.format("web2"))
    assert SILENT_S + BEAT_S <= 200


def test_stopped_is_a_warning_and_one_that_was_killed_is_not_stopped() -> None:
    stopped = record(state="stopped")
    assert states(NOON + SILENT_S, stopped) == ["ok"]
    assert states(NOON + 240, stopped) == ["stopped"]
    [(level, what, _)] = problems(NOON + 240, stopped)
    assert (level, what) == (
        "warning",
        "werk cron was stopped 4m ago: 1 line of /etc/werk/crontab (host web1) is not enqueued",
    )
    assert states(NOON + 240, stopped, record("web2")) == ["silent"]
    assert states(NOON + 240, stopped, record("web2", NOON + 200)) == ["ok"]


def test_a_remedy_is_for_a_shell() -> None:
    [(_, _, fix)] = problems(NOON + 240, record(path="/etc/my cron; touch x"))
    assert fix.startswith("start it: werk cron '/etc/my cron; touch x' on web1; ")
    jobs = [(f"2026-11-24T{hour}:00Z", "my job", "failed") for hour in ("10", "11")]
    health = judge(NOON, [record()], {"@hourly task1()": jobs})
    assert [fix for _, _, fix in cron_problems.of_cron(health)] == ["werk show 'my job'"]


def test_a_deploy_replaces_the_cron_that_it_stops() -> None:
    """In another container, and with other lines: the old ones are nobody's."""
    old = record("c1", NOON, "stopped", lines([("@hourly", "UTC"), ("@daily", "UTC")], NOON))
    new = record("c2", NOON + 600, own=lines([("@hourly", "UTC")], NOON + 600), since=NOON + 5)
    assert states(NOON + 600, old, new) == ["ok"]
    other = new._replace(lines=lines([("@weekly", "UTC")], NOON + 600))
    assert states(NOON + 600, old, other) == ["stopped", "stopped", "ok"]
    before = new._replace(since=NOON - DAY_S)  # another host, which ran all the time
    assert states(NOON + 600, old, before) == ["ok", "stopped"]


def test_what_was_given_up_is_late_until_a_tick_is_enqueued() -> None:
    """After the catch-up a line goes on, and its hourly tick was missed."""
    own = lines([("@hourly", "UTC")], NOON + 590, "unknown task 'task1'")
    assert states(NOON + 600, record(beat=NOON + 600, own=own)) == ["late"]
    [(level, what, _)] = problems(NOON + 600, record(beat=NOON + 600, own=own))
    assert (level, what) == (
        "warning",
        "cron line @hourly task1() is late: unknown task 'task1'",
    )
    fine = record("web2", NOON + 600, own=lines([("@hourly", "UTC")], NOON + 599))
    assert states(NOON + 600, record(beat=NOON + 600, own=own), fine) == ["ok"]


def test_a_line_whose_ticks_seem_done_in_advance_is_late() -> None:
    """Its `werk cron` is of an older version, which went by the clock of its host."""
    own = record(own=lines([("*/5 * * * *", "UTC")], NOON + 7200))
    [(level, what, _)] = problems(NOON, own)
    assert (level, what) == (
        "warning",
        "cron line */5 * * * * task1() is late: its clock was ahead: no job for 2h unless it is "
        "restarted",
    )
    fine = record("web2", own=lines([("*/5 * * * *", "UTC")], NOON))
    assert states(NOON, own, fine) == ["ok"]
    late = record("web2", own=lines([("*/5 * * * *", "UTC")], NOON - 3600))
    assert states(NOON, own, late) == ["late"]
    assert states(NOON, record(own=lines([("*/5 * * * *", "UTC")], NOON + SILENT_S))) == ["ok"]


@pytest.mark.parametrize(
    ("statuses", "state"),
    [
        (["failed", "failed"], "failing"),
        (["queued", "failed", "failed"], "failing"),
        (["started", "failed", "failed"], "failing"),
        (["failed"], "ok"),
        (["failed", "finished", "failed"], "ok"),
        (["finished", "failed", "failed"], "ok"),
        (["", "failed", "failed"], "ok"),  # its result has expired: it succeeded
        (["failed", "queued", "finished"], "ok"),
        ([], "ok"),
    ],
)
def test_two_failures_in_a_row(statuses: list[str], state: str) -> None:
    jobs = [(f"2026-11-24T{11 - n:02}:00Z", f"job{n}", own) for n, own in enumerate(statuses)]
    assert states(NOON, record(), jobs=jobs[::-1]) == [state]
    [line] = judge(NOON, [record()], {"@hourly task1()": jobs}).lines
    assert line.failed == (f"job{statuses.index('failed')}" if state == "failing" else "")
    if statuses:
        assert (line.last, line.job) == (NOON - 3600, "job0")


def test_many_lines_are_a_few_problems() -> None:
    found = problems(NOON, record(own=lines(FIFTY, NOON - 400 * DAY_S)))
    assert [what.split(":")[0] for _, what, _ in found[5:]] == ["41 more cron lines"]


@pytest.mark.parametrize(("when", "zone"), [("61 * * * *", "UTC"), ("@daily", "Mars/North")])
def test_a_time_that_this_host_does_not_know_is_no_alarm(when: str, zone: str) -> None:
    assert states(NOON, record(own=lines([(when, zone)], NOON - DAY_S))) == ["ok"]


def test_a_call_that_is_three_periods_old() -> None:
    call = OnceCall("default", "hello('Ada')", 3600, NOON, 4 * 3600, "web1", True)
    [problem] = cron_problems.of_cron(judge(NOON, [], {})._replace(calls=[call]))
    assert problem == (
        "warning",
        "no host has called hello('Ada') --once-per 1h for 4h",
        "check the crontab of web1; if the line was removed: werk repair",
    )


@pytest.mark.parametrize("zone", ["Asia/Kolkata", "UTC", "Europe/Berlin"])
def test_the_zone_of_the_machine_has_a_name(zone: str) -> None:
    from dateutil.tz import gettz

    found = zone_name(gettz(zone) or ZoneInfo("UTC"))
    assert found.removeprefix("Etc/") == zone
    line = CrontabLine(1, "30 2 * * *", ZoneInfo(zone))
    assert next(times("30 2 * * *", found, NOON)) == next(line.ticks(NOON)).timestamp()
