"""What crons publish, and what `werk status`, `werk cron --list` and `werk repair` make of it."""

from __future__ import annotations

import json
import os
import pty
import re
import signal
import socket
import subprocess
import time
from collections.abc import Callable, Iterator
from datetime import datetime, timezone
from pathlib import Path
from typing import Any, NoReturn

import pytest
import redis
import roles
from any_values import VALUES
from support import Process, command, environment, is_asleep, run, samples, wait_until

from werk.dev.server import Server
from werk.errors import RedisUnavailable
from werk.ops import checks, cron, cron_health, crontab
from werk.ops.cron import Cron
from werk.ops.cron_health import SILENT_S
from werk.ops.cron_record import BEAT_S, CronRecord
from werk.ops.crontab import Line
from werk.ops.snapshot import Snapshot
from werk.store.connection import Link, link
from werk.store.notes import MOST_NOTES, ONCE_CALLS, note
from werk.tasks import catalog

Spawn = Callable[..., Process]
HOST = socket.gethostname()
NOON = datetime(2026, 11, 24, 12, tzinfo=timezone.utc).timestamp()
KEYS = ("rq:werk:crons", "rq:werk:cron-jobs", "rq:werk:once-calls")
REPORT = "default report('2026-11-29')"  # a call


class Clock:
    """A clock that a test sets."""

    def __init__(self, now: float) -> None:
        self.now = now

    def __call__(self) -> float:
        return self.now


@pytest.fixture
def light(redis_url: str) -> Iterator[Link]:
    own = link(roles.settings("reader"))
    yield own
    own.close()


@pytest.fixture
def read(tmp_path: Path, connected: Link) -> Callable[[str], list[Line]]:
    def read(text: str) -> list[Line]:
        (tmp_path / "crontab").write_text(f"TZ=UTC\n{text}")
        return crontab.read(str(tmp_path / "crontab"), connected)

    return read


def crons(connection: redis.Redis) -> dict[str, Any]:
    found = connection.hgetall("rq:werk:crons").items()
    return {field.decode(): json.loads(text) for field, text in found}


def age(connection: redis.Redis, seconds: float, key: str = "rq:werk:crons", *times: str) -> None:
    """Make all records of a key older."""
    names = times or (("beat",) if key.endswith("crons") else ("last", "first"))
    for field, text in connection.hgetall(key).items():
        record = json.loads(text)
        older = record | {name: record[name] - seconds for name in names}
        connection.hset(key, field, json.dumps(older, separators=(",", ":")))  # as note.lua does


def reported(light: Link) -> list[tuple[str, str]]:
    return [(own.level, own.what) for own in checks.problems(Snapshot.read(light))]


# --- the record


def test_a_cron_publishes_its_lines_and_its_end(
    tmp_path: Path, spawn: Spawn, connection: redis.Redis, light: Link
) -> None:
    path = tmp_path / "crontab"
    path.write_text("TZ=UTC\n0 0 1 1 * sleep 1\nTZ=Europe/Berlin\n@daily hello Ada\n")
    process = spawn("werk", "cron", "crontab", env={"PWD": str(tmp_path)})
    process.wait()
    assert crons(connection) == {}  # there was no such file
    process = spawn("werk", "cron", path)
    wait_until(lambda: crons(connection))
    wait_until(lambda: is_asleep(process.pid))  # it has read Redis's reply
    [(field, record)] = crons(connection).items()
    assert field == f"{HOST}:{path}"
    assert abs(record["beat"] - time.time()) < 60
    assert (record["state"], record["left_out"]) == ("running", 0)
    shown = [(own["number"], own["when"], own["zone"], own["call"]) for own in record["lines"]]
    assert shown == [
        (2, "0 0 1 1 *", "UTC", "sleep(1.0)"),
        (4, "@daily", "Europe/Berlin", "hello('Ada')"),
    ]
    process.terminate()
    assert process.wait(60) == 0
    assert crons(connection)[field]["state"] == "stopped"
    assert reported(light) == []  # it may return
    age(connection, 200)
    [(level, what)] = reported(light)
    assert level == "warning"
    assert f"2 lines of {path} (host {HOST}) are not enqueued" in what
    done = run("werk", "repair", "--dry-run")
    assert done.stdout == f"cron {field} stopped\n"
    assert len(reported(light)) == 1
    assert run("werk", "repair").stdout == done.stdout
    assert (crons(connection), reported(light)) == ({}, [])


def test_one_that_is_killed_is_critical(
    tmp_path: Path, spawn: Spawn, connection: redis.Redis, light: Link
) -> None:
    (tmp_path / "crontab").write_text("0 0 1 1 * sleep 1\n@daily hello Ada\n")
    process = spawn("werk", "cron", tmp_path / "crontab")
    wait_until(lambda: crons(connection))
    process.kill()
    process.wait()
    age(connection, SILENT_S - 100)
    assert run("werk", "status", "--check").returncode == 0
    age(connection, 101)
    done = run("werk", "status", "--check")
    assert done.returncode == 2
    assert f"no werk cron runs: 2 lines of {tmp_path}/crontab (host {HOST})" in done.stdout
    assert "if it will not return: werk repair" in done.stdout
    assert json.loads(run("werk", "status", "--json").stdout)["problems"][0]["level"] == "critical"
    assert run("werk", "repair").stdout == f"cron {HOST}:{tmp_path}/crontab silent\n"
    assert reported(light) == []


def test_it_beats_by_redis_s_clock_also_while_a_line_fails(
    read: Callable[[str], list[Line]], connected: Link, connection: redis.Redis, light: Link
) -> None:
    connection.hset("rq:werk:catalog", "report", catalog._page(catalog.Task("shop.report")))
    lines, clock = read("* * * * * report 7\n* * * * * sleep 1\n"), Clock(NOON)
    connection.delete("rq:werk:catalog")
    connected.served_cache.clear()
    begun = int(time.time()) // 60 * 60 - 420
    own = Cron(lines, connected, 300, begun, CronRecord("/crontab", lines, connected, clock))
    beats = []
    for clock.now in [*range(begun + 61, begun + 121, 5), begun + 420]:
        with pytest.raises(Exception, match="unknown task 'report'"):
            own.fire(clock.now)
        [record] = crons(connection).values()
        beats.append(record["beat"])
    seconds, micros = connection.time()
    assert len({*beats}) == 60 // BEAT_S + 1
    assert abs(beats[-1] - seconds - micros / 1e6) < 60
    assert [line["error"][:21] for line in record["lines"]] == ["unknown task 'report'", ""]
    [line, other] = cron_health.read(light).lines
    assert (line.state, other.state, other.outcome) == ("late", "ok", "queued")
    assert "unknown task" in line.why


def test_a_clock_that_was_ahead_leaves_no_alarm(
    read: Callable[[str], list[Line]], connected: Link, connection: redis.Redis, light: Link
) -> None:
    """Nothing was missed: the ticks that were skipped are yet to come."""
    lines, now = read("*/5 * * * * sleep 1\n0 0 29 2 * hello Ada\n"), time.time()
    begun, ahead = now - 1, now + 5 * 366 * 86400
    own = Cron(lines, connected, 300, begun, CronRecord("/one", lines, connected, Clock(NOON)))
    for moment in (now, ahead):
        own.fire(moment)
    assert [line.state for line in cron_health.read(light).lines] == ["late", "late"]
    own.fire(now + 1)
    [record] = crons(connection).values()
    assert [line["done"] for line in record["lines"]] == [pytest.approx(now + 1, abs=0.01)] * 2
    assert [line.state for line in cron_health.read(light).lines] == ["ok", "ok"]


def test_a_restart_replaces_the_record(
    read: Callable[[str], list[Line]], connected: Link, connection: redis.Redis
) -> None:
    for text in ("@daily sleep 1\n", "@hourly hello Ada\n@hourly sleep 2\n"):
        lines = read(text)
        record = CronRecord("/crontab", lines, connected, Clock(NOON))
        Cron(lines, connected, 300, NOON, record).fire(NOON)
    [found] = crons(connection).values()
    assert [line["call"] for line in found["lines"]] == ["hello('Ada')", "sleep(2.0)"]


def test_the_last_three_jobs_of_a_line_are_kept_whoever_enqueues_them(
    read: Callable[[str], list[Line]], connected: Link, connection: redis.Redis, light: Link
) -> None:
    lines, begun = read("*/5 * * * * hello Ada\n"), time.time() // 300 * 300 - 1200
    both = [
        Cron(lines, connected, 300, begun - 1, CronRecord(path, lines, connected, Clock(NOON)))
        for path in ("/one", "/two")
    ]
    for tick in range(5):
        for own in both:
            own.fire(begun + 300 * tick)
    jobs = connection.lrange("rq:queue:default", 0, -1)
    [text] = connection.hvals("rq:werk:cron-jobs")
    assert json.loads(text) == [
        [datetime.fromtimestamp(begun + after, timezone.utc).strftime("%Y-%m-%dT%H:%MZ"), own]
        for after, own in zip((1200, 900, 600), map(bytes.decode, jobs[::-1]), strict=False)
    ]
    [line] = cron_health.read(light).lines
    assert (line.last, line.job, line.outcome) == (begun + 1200, jobs[-1].decode(), "queued")
    for job_id in jobs:
        connection.hset(f"rq:job:{job_id.decode()}", "status", "failed")
    [line] = cron_health.read(light).lines
    assert (line.state, line.failed) == ("failing", jobs[-1].decode())
    text = "cron line */5 * * * * hello('Ada'): its last jobs failed"
    assert ("warning", text) in reported(light)
    connection.delete(f"rq:job:{jobs[-1].decode()}")
    [line] = cron_health.read(light).lines
    assert (line.state, line.outcome) == ("ok", "expired")


def test_the_same_line_in_another_zone_has_jobs_of_its_own(
    read: Callable[[str], list[Line]], connected: Link, connection: redis.Redis, light: Link
) -> None:
    lines = read("0 12 * * * hello Ada\nTZ=Asia/Kolkata\n0 12 * * * hello Ada\n")
    begun = connection.time()[0] // 86400 * 86400 - 3 * 86400
    record = CronRecord("/crontab", lines, connected, Clock(NOON))
    own = Cron(lines, connected, 300, begun, record)
    for hours in range(0, 48, 6):
        own.fire(begun + hours * 3600 + 1800)
    east = [job.decode() for job in connection.lrange("rq:queue:default", 0, -1)]
    assert len(east) == 2  # at 06:30 UTC; at noon UTC fire() is half an hour late: see --catch-up
    own.fire(begun + 60 * 3600)
    [noon] = {job.decode() for job in connection.lrange("rq:queue:default", 0, -1)} - {*east}
    for job_id in east:
        connection.hset(f"rq:job:{job_id}", "status", "failed")
    found = [(line.zone, line.last, line.job) for line in cron_health.read(light).lines]
    assert found == [
        ("UTC", begun + 60 * 3600, noon),
        ("Asia/Kolkata", begun + 30.5 * 3600, east[-1]),
    ]
    assert [line.failed for line in cron_health.read(light).lines] == ["", east[-1]]


def test_the_records_of_older_versions_are_read(
    read: Callable[[str], list[Line]], connected: Link, connection: redis.Redis, light: Link
) -> None:
    """Their names have no zone."""
    [line], now = read("@hourly hello Ada\n"), connection.time()[0]
    connection.zadd("rq:werk:cron", {"@hourly hello('Ada')": now - 7200})
    connection.hset("rq:werk:cron-jobs", "@hourly hello('Ada')", '[["2026-11-24T12:00Z", "old"]]')
    record = CronRecord("/crontab", [line], connected, Clock(NOON))
    record.beat({line.number: now})
    assert [(own.last, own.job) for own in cron_health.read(light).lines] == [(NOON, "old")]
    Cron([line], connected, 7200, now, record).fire(now)
    assert connection.llen("rq:queue:default") == 2
    [own] = cron_health.read(light).lines
    assert (own.last, own.job) == (
        now // 3600 * 3600,
        connection.lrange("rq:queue:default", -1, -1)[0].decode(),
    )


def test_a_start_drops_what_is_old(
    read: Callable[[str], list[Line]], connected: Link, connection: redis.Redis
) -> None:
    month, lines = 31 * 86400, read("@daily sleep 1\n")
    now = connection.time()[0]
    for number in range(1003):
        text = f'{{"beat":{now - number - month * (number % 2)}.000, "state": "running"}}'
        connection.hset("rq:werk:crons", f"old{number}:/crontab", text)
    connection.hset("rq:werk:crons", "damaged", "what is this")
    connection.hset("rq:werk:cron-jobs", "@hourly gone()", "[]")
    connection.hset("rq:werk:cron-jobs", "@weekly kept()", "[]")
    connection.zadd("rq:werk:cron", {"@weekly kept()": time.time()})
    record = CronRecord("/crontab", lines, connected, Clock(time.time()))
    Cron(lines, connected, 300, time.time(), record).fire(time.time())
    assert connection.hlen("rq:werk:crons") == 502 + 2
    assert connection.hexists("rq:werk:crons", "damaged")
    assert connection.hkeys("rq:werk:cron-jobs") == [b"@weekly kept()"]


def test_a_crontab_that_is_too_long_is_published_in_part(
    connected: Link, connection: redis.Redis, light: Link
) -> None:
    clock = Clock(NOON)
    for count, size in ((1200, 1), (600, 1000)):
        lines = [
            Line(number, "@daily", timezone.utc, "sleep", (1,), {}, f"sleep({number:0{size}})")
            for number in range(1, count + 1)
        ]
        record = CronRecord("/crontab", lines, connected, clock)
        record.beat({})
        [text] = connection.hvals("rq:werk:crons")
        found = json.loads(text)
        assert len(text) <= 256 * 1024 + 100
        assert len(found["lines"]) + found["left_out"] == count
        assert 200 < len(found["lines"]) <= 1000
        assert not cron_health.read(light).damaged
        assert len(cron_health.read(light).lines) == len(found["lines"])


# --- a day in the life of the loop

ALL_KINDS = """
* * * * * hello minute{0}
*/5 * * * * hello five{0}
*/{1} * * * * hello odd{0}
@hourly hello hour{0}
@daily hello day{0}
@weekly hello week{0}
30 2 * * * hello night{0}
59 23 29 2 * hello leap{0}
0,30 1-3 * * * hello change{0}
15 6 1 * * hello month{0}
"""
ZONES = ("UTC", "Europe/Berlin", "America/New_York", "Asia/Kolkata", "Australia/Lord_Howe")


class Over(Exception):
    """Raised when the day is over."""


@pytest.mark.parametrize("day", ["2026-10-25", "2026-03-08"])
def test_a_day_of_fifty_lines_without_an_alarm(
    day: str, tmp_path: Path, connected: Link, light: Link, connection: redis.Redis
) -> None:
    """The real loop, on a clock of ours. A beat happens when the loop makes it, on that clock."""
    text = "".join(f"TZ={zone}{ALL_KINDS.format(n, 7 + n)}" for n, zone in enumerate(ZONES))
    (tmp_path / "crontab").write_text(text)
    lines = crontab.read(str(tmp_path / "crontab"), connected)
    begun = datetime.fromisoformat(day).replace(tzinfo=timezone.utc).timestamp()
    clock, alarms, seen, checked = Clock(begun), [], (0.0, 0.0), 0

    def look() -> None:
        nonlocal seen, checked
        [record] = crons(connection).values()
        if record["beat"] != seen[0]:
            seen = record["beat"], clock.now
        own = cron_health._record(f"{HOST}:/crontab", json.dumps({**record, "beat": seen[1]}))
        health = cron_health.judge(clock.now, [own], {})
        alarms.extend(line for line in health.lines if line.state != "ok")
        checked += len(health.lines)

    def pause(seconds: float) -> None:
        before, clock.now = clock.now, clock.now + max(seconds, 0.01)
        if clock.now > begun + 86400:
            raise Over
        if int(before / 10800) != int(clock.now / 10800):
            raise SystemExit  # as at SIGTERM
        if int(before / 60) != int(clock.now / 60):
            look()

    def live() -> NoReturn:
        while True:
            with pytest.raises(SystemExit):
                cron.run("/crontab", lines, connected, 300, clock=clock, pause=pause)
            for _ in range(3):  # a restart takes three minutes
                look()
                clock.now += 59

    with pytest.raises(Over):
        live()
    assert alarms == []
    assert checked >= 50 * 1400
    assert connection.hlen("rq:werk:cron-jobs") >= 35  # some are weekly, monthly, or for 29 Feb


# --- what may be there, and what may not


def test_cron_goes_on_if_its_record_cannot_be_written(
    read: Callable[[str], list[Line]],
    connected: Link,
    connection: redis.Redis,
    caplog: pytest.LogCaptureFixture,
    light: Link,
) -> None:
    connection.lpush("rq:werk:crons", "of another kind")
    lines, clock = read("* * * * * sleep 1\n"), Clock(NOON)
    own = Cron(lines, connected, 300, NOON, CronRecord("/crontab", lines, connected, clock))
    for minute in (1, 2, 3):
        clock.now = NOON + 60 * minute
        own.fire(clock.now)
    assert connection.llen("rq:queue:default") == 3
    assert caplog.text.count("event=not-published") == 1
    assert ("warning", "1 key that werk cannot read: rq:werk:crons") in reported(light)
    connection.delete("rq:werk:crons")
    clock.now += 60
    own.fire(clock.now)
    assert len(crons(connection)) == 1


def test_cron_beats_while_redis_is_full(
    read: Callable[[str], list[Line]], connected: Link, connection: redis.Redis
) -> None:
    lines, clock = read("* * * * * sleep 1\n"), Clock(NOON)
    own = Cron(lines, connected, 300, NOON, CronRecord("/crontab", lines, connected, clock))
    own.fire(NOON)
    [before] = crons(connection).values()
    connection.config_set("maxmemory", 1)
    try:
        clock.now += 61
        with pytest.raises(RedisUnavailable, match="takes no more data"):
            own.fire(clock.now)
        own.beat_anyway()
    finally:
        connection.config_set("maxmemory", 0)
    [after] = crons(connection).values()
    assert after["beat"] > before["beat"]
    own.fire(clock.now)
    assert connection.llen("rq:queue:default") == 1


@pytest.mark.parametrize("key", KEYS)
def test_keys_of_another_type_are_named(key: str, connection: redis.Redis, light: Link) -> None:
    connection.lpush(key, "of another kind")
    assert reported(light) == [("warning", f"1 key that werk cannot read: {key}")]
    assert run("werk", "cron", "--list").returncode == 0


RECORD = {"beat": 1.0, "state": "running", "since": 1.0, "left_out": 0, "lines": []}
LINE = {
    "number": 1, "when": "@daily", "zone": "UTC", "call": "f()", "task": "f", "done": 1.0,
    "error": "",
}  # fmt: skip


def damaged_records() -> Iterator[str]:
    yield from (value.decode("latin-1") for value in VALUES)
    yield from ("[" * 100_000, "x" * 300_000, "null", "7", '{"beat": NaN}')
    for value in (None, 7, -1, "x", [], {}, [[]], 1e300, float("inf"), "x" * 200):
        yield from (json.dumps({**RECORD, name: value}) for name in RECORD)
        yield from (json.dumps({**RECORD, "lines": [{**LINE, name: value}]}) for name in LINE)
    yield json.dumps({**RECORD, "lines": [LINE] * 2000})


def test_damaged_records_are_named_and_the_others_are_read(
    read: Callable[[str], list[Line]], connected: Link, connection: redis.Redis, light: Link
) -> None:
    lines, now = read("* * * * * sleep 1\n"), time.time()
    record = CronRecord("/crontab", lines, connected, Clock(NOON))
    Cron(lines, connected, 300, now - 61, record).fire(now)
    values = [*damaged_records()]
    for number, value in enumerate(values):
        connection.hset("rq:werk:crons", f"web{number}:/x", value.encode("utf-8", "replace"))
        connection.hset("rq:werk:cron-jobs", f"@daily f({number})", value.encode())
        connection.hset("rq:werk:once-calls", f"default f({number})", value.encode())
    connection.hset("rq:werk:cron-jobs", "@daily f()", json.dumps([["x", "y"], [7, {}], "z"]))
    health = cron_health.read(light)
    assert any(line.call == "sleep(1.0)" and line.state == "ok" for line in health.lines)
    assert len([own for own in health.damaged if own.startswith("rq:werk:crons web")]) > 40
    assert {name.split()[0] for name in health.damaged} == set(KEYS)
    for words in (("status",), ("status", "--json"), ("cron", "--list"), ("repair", "--dry-run")):
        done = run("werk", *words)
        assert (done.returncode, "Traceback" in done.stderr) == (0, False), words
    assert len(Snapshot.read(light).damaged) == len(health.damaged)


def test_sigterm_ends_it_soon_without_redis(
    tmp_path: Path, spawn: Spawn, connection: redis.Redis, server: Server
) -> None:
    (tmp_path / "crontab").write_text("0 0 1 1 * sleep 1\n")
    process = spawn("werk", "cron", tmp_path / "crontab")
    wait_until(lambda: crons(connection))
    server.stop()
    process.terminate()
    assert process.wait(8) == 0  # a command of its own may wait for 10 s
    server.start()


# --- werk cron --list


def test_the_list_fits_80_columns(
    tmp_path: Path, spawn: Spawn, connection: redis.Redis, redis_url: str
) -> None:
    text = f"TZ=UTC\n*/5 * * * * hello '{'Ada ' * 40}'\nTZ=America/New_York\n30 2 * * * sleep 1\n"
    (tmp_path / "crontab").write_text(text)
    process = spawn("werk", "cron", tmp_path / "crontab")
    wait_until(lambda: crons(connection))
    done = run("werk", "cron", "--list", env={"COLUMNS": "80"})
    assert max(map(len, done.stdout.splitlines())) <= 80
    head, columns, row = done.stdout.splitlines()[:3]
    assert head == f"UTC, on {HOST}"
    assert columns.split() == ["WHEN", "CALL", "LAST", "NEXT", "STATE"]
    last = r"(never|\d+s ago, \w+)"  # a tick may just have passed
    assert re.fullmatch(rf"\*/5 \* \* \* \*  hello\('Ada .*\.\.\.  {last}  in \d+[ms]  ok", row)
    assert f"America/New_York, on {HOST}" in done.stdout
    assert f"{HOST}: running, last beat" in done.stdout
    found = json.loads(run("werk", "cron", "--list", "--json").stdout)
    assert re.fullmatch(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d\.\d{6}Z", found["time"])
    assert re.fullmatch(r"\d{4}-\d\d-\d\dT\d\d:\d[05]:00\.000000Z", found["lines"][0]["next"])
    assert [own["state"] for own in found["processes"]] == ["running"]
    process.send_signal(signal.SIGINT)
    process.wait()
    assert next(iter(crons(connection).values()))["state"] == "stopped"


def test_the_list_takes_no_file(redis_url: str) -> None:
    assert run("werk", "cron", "--list").stdout == "no werk cron has published a line\n"
    for words in (["crontab"], ["--check"]):
        done = run("werk", "cron", "--list", *words)
        assert (done.returncode, done.stdout) == (2, "")
        assert "--list takes neither FILE nor --check" in done.stderr


# --- calls with --once-per


def calls(connection: redis.Redis) -> dict[str, Any]:
    found = connection.hgetall("rq:werk:once-calls").items()
    return {field.decode(): json.loads(text) for field, text in found}


def test_a_call_of_a_crontab_is_missed(connection: redis.Redis, light: Link) -> None:
    words = ("werk-enqueue", "--quiet", "--once-per", "1h", "hello", "Ada")
    for _ in range(3):  # a duplicate is a call as well
        assert run(*words).returncode == 0
        age(connection, 3600, "rq:werk:once-calls", "first")
    run("werk-enqueue", "--once-per", "1h", "--require-worker", "--queue", "low", "sleep", "1")
    found = calls(connection)
    assert sorted(found) == ["default hello('Ada')", "low sleep(1.0)"]
    record = found["default hello('Ada')"]
    assert (record["period_s"], record["host"]) == (3600, HOST)
    assert abs(record["last"] - time.time()) < 60
    connection.hdel("rq:werk:once-calls", "low sleep(1.0)")
    listed = run("werk", "cron", "--list").stdout
    assert re.search(r"^hello\('Ada'\) --once-per 1h: called \d+s ago by ", listed, re.MULTILINE)
    age(connection, 3 * 3600, "rq:werk:once-calls")
    assert "no host has called" not in str(reported(light))
    age(connection, 3600, "rq:werk:once-calls")
    assert ("warning", "no host has called hello('Ada') --once-per 1h for 4h") in reported(light)
    assert run("werk", "repair").stdout == "call default hello('Ada') overdue\n"
    assert "no host has called" not in str(reported(light))


@pytest.mark.parametrize(("calls_made", "over_s"), [(2, 4000), (9, 60)])
def test_a_call_that_no_crontab_repeats_is_not_missed(
    connection: redis.Redis, light: Link, calls_made: int, over_s: float
) -> None:
    """As $(date) makes them: each day another, by one host or by many."""
    for _ in range(calls_made):
        made = note(ONCE_CALLS, REPORT, {"period_s": 3600, "host": "web1"})
        connection.execute_command(*made)
    age(connection, over_s, "rq:werk:once-calls", "first")
    age(connection, 4 * 3600, "rq:werk:once-calls")
    assert reported(light) == []
    (record,) = calls(connection).values()
    assert record["count"] == calls_made
    assert run("werk", "repair").stdout == f"call {REPORT} old\n"
    assert calls(connection) == {}


def test_other_calls_are_not_noted(connection: redis.Redis) -> None:
    run("werk-enqueue", "sleep", "1")
    run("werk-enqueue", "--once-per", "10", "sleep", "1")  # not by cron
    run("werk-enqueue", "--dry-run", "--once-per", "5m", "sleep", "1")
    words = ("werk-enqueue", "--once-per", "5m", "sleep", "2")
    terminal, other = pty.openpty()
    assert subprocess.run(command(*words), env=environment(*words), stdin=other).returncode == 0
    os.close(terminal)
    os.close(other)
    assert connection.llen("rq:queue:default") == 3
    assert calls(connection) == {}


def test_a_secret_of_a_call_is_not_noted(tmp_path: Path, connection: redis.Redis) -> None:
    (tmp_path / "shop.py").write_text(
        "from werk.registry import Task\n"
        "TASKS = {'pay': Task('shop.pay', secret=('token',))}\n"
        "def pay(n: int, *, token: str): ...\n"
    )
    env = {"WERK_REGISTRY": "shop:TASKS", "PYTHONPATH": str(tmp_path)}
    run("werk-enqueue", "--once-per", "5m", "pay", "1", "--token", "hunter2", env=env)
    assert [*calls(connection)] == ["default pay(1, token=***)"]


def test_there_are_500_calls_at_most_and_a_call_never_fails_for_them(
    connection: redis.Redis,
) -> None:
    for number in range(MOST_NOTES):
        connection.hset(
            "rq:werk:once-calls", f"c{number}", f'{{"last":{900 - number}.0,"count":1}}'
        )
    assert run("werk-enqueue", "--once-per", "5m", "sleep", "1").returncode == 0
    assert connection.hlen("rq:werk:once-calls") == MOST_NOTES
    assert not connection.hexists("rq:werk:once-calls", f"c{MOST_NOTES - 1}")
    assert connection.hexists("rq:werk:once-calls", "default sleep(1.0)")
    connection.delete("rq:werk:once-calls")
    connection.set("rq:werk:once-calls", "of another kind")
    assert run("werk-enqueue", "--once-per", "5m", "sleep", "2").returncode == 0
    assert connection.llen("rq:queue:default") == 2


def test_metrics_show_cron(
    read: Callable[[str], list[Line]], connected: Link, connection: redis.Redis, light: Link
) -> None:
    from werk.ops import metrics

    lines = read("* * * * * sleep 1\n@daily hello Ada\n")
    for path in ("/one", "/two"):
        record = CronRecord(path, lines, connected, Clock(NOON))
        Cron(lines, connected, 300, time.time(), record).fire(time.time())
    record.stop()
    age(connection, 100)
    found = samples(metrics.exposition(light))
    beats = {name: value for name, value in found.items() if "werk_cron_beat_age" in name}
    assert [*beats] == [f'werk_cron_beat_age_seconds{{host="{HOST}",path="/one"}}']
    assert 100 <= min(beats.values()) < 160
    assert found['werk_cron_lines{state="ok"}'] == 2
    assert found['werk_cron_lines{state="silent"}'] == 0
