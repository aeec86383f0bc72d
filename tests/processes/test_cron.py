"""werk cron: lines, their times, and that each tick is enqueued once by any number of hosts."""

from __future__ import annotations

import json
import random
import re
import socket
import sys
import time
from collections import Counter
from collections.abc import Callable, Sequence
from datetime import datetime, timedelta, timezone
from itertools import pairwise, takewhile
from pathlib import Path
from typing import NamedTuple
from zoneinfo import ZoneInfo

import pytest
import redis
from hypothesis import given, settings
from hypothesis import strategies as st
from support import Process, command, run, wait_until

import werk
from werk.client import enqueue as client
from werk.dev.server import Server, free_port
from werk.errors import ArgumentError, ConfigError, RedisUnavailable
from werk.ops import crontab
from werk.ops.cron import Cron
from werk.ops.crontab import Line
from werk.registry import Task
from werk.settings import Settings
from werk.store.connection import Link, link
from werk.tasks import catalog

Spawn = Callable[..., Process]
BERLIN = ZoneInfo("Europe/Berlin")
NOON = datetime(2026, 11, 24, 12, tzinfo=timezone.utc).timestamp()


@pytest.fixture
def file(tmp_path: Path) -> Callable[[str], Path]:
    def write(text: str) -> Path:
        path = tmp_path / "crontab"
        path.write_text(text)
        return path

    return write


@pytest.fixture
def lines(file: Callable[[str], Path], connected: Link) -> Callable[[str], list[Line]]:
    """Read a crontab; its times are UTC if it does not say otherwise."""
    return lambda text: crontab.read(str(file(f"TZ=UTC\n{text}")), connected)


def at(text: str) -> float:
    return datetime.fromisoformat(text).timestamp()


# --- lines


def test_lines_say_when_and_what(file: Callable[[str], Path], connected: Link) -> None:
    text = (
        "# every five minutes\n\n  */5 *\t* * *   sleep  1.5\r\n"
        "TZ = 'Europe/Berlin'\n@hourly hello 'Ada L.'\nCRON_TZ=Asia/Tokyo\n0 6 * * mon-fri panic\n"
    )
    found = crontab.read(str(file(text)), connected)
    assert [(line.number, line.when, line.call) for line in found] == [
        (3, "*/5 * * * *", "sleep(1.5)"),
        (5, "@hourly", "hello('Ada L.')"),
        (7, "0 6 * * mon-fri", "panic()"),
    ]
    assert [str(line.zone) for line in found[1:]] == ["Europe/Berlin", "Asia/Tokyo"]


@pytest.mark.parametrize("gap", ["\f", "\v", "\x1c", "\x85", "\u2028", "\r"])
def test_only_a_newline_ends_a_line(gap: str, tmp_path: Path, connected: Link) -> None:
    path = tmp_path / "crontab"
    path.write_bytes(f"# off:{gap}* * * * * sleep 1\r\n* * * * * hello 'a{gap}b'".encode())
    [line] = crontab.read(str(path), connected)
    assert (line.number, line.task) == (2, "hello")


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("* * * * * slep 1", "unknown task 'slep'; did you mean 'sleep'?"),
        ("* * * * * sleep abc", "sleep: seconds: 'abc' is not a number"),
        ("* * * * * sleep", "sleep: missing argument seconds"),
        (
            "* * * * sleep 1",
            "invalid time '* * * * sleep'; use minute hour day month weekday, or @hourly",
        ),
        ("61 * * * * sleep 1", "invalid time '61 * * * *'"),
        ("@reboot sleep 1", "invalid time '@reboot'"),
        ("R * * * * sleep 1", "invalid time 'R * * * *'"),
        ("1,h(1-5) * * * * sleep 1", "invalid time"),
        (f"{'9' * 5000} * * * * sleep 1", "invalid time '999"),
        ("0 0 30 2 * sleep 1", "'0 0 30 2 *' never occurs"),
        ("* * * * *", "invalid line '* * * * *'; write m h dom mon dow TASK [ARGS]"),
        ("* * * * * hello 'Ada", "No closing quotation; quote arguments as in a shell"),
        ("* * * * * --queue low sleep 1", "--queue: a line takes no options"),
        ("TZ=Mars/North", "TZ=Mars/North: unknown time zone; use UTC"),
        ("TZ=", "TZ=: unknown time zone"),
        ("TZ=/etc/localtime", "unknown time zone"),
        ("MAILTO=me", "MAILTO= is not supported in a crontab of tasks; only TZ= and CRON_TZ= are"),
    ],
)
def test_a_bad_line_is_said_with_its_number(
    text: str, said: str, file: Callable[[str], Path], connected: Link
) -> None:
    with pytest.raises(ArgumentError) as caught:
        crontab.read(str(file(f"# one\n* * * * * sleep 1\n{text}\n")), connected)
    path, number, reason = str(caught.value).split(":", 2)
    assert (Path(path).name, number) == ("crontab", "3")
    assert said in reason
    assert "\n" not in reason


def test_all_bad_lines_are_said_at_once(file: Callable[[str], Path], redis_url: str) -> None:
    path = file("* * * * * slep 1\n* * * * * sleep 1\n* * * * * sleep x\n")
    done = run("werk", "cron", path)
    assert (done.returncode, done.stdout) == (2, "")
    first, second = done.stderr.splitlines()
    assert first.startswith(f"werk: {path}:1: unknown task 'slep'")
    assert second.startswith(f"{path}:3: sleep: seconds:")


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["/no/such"], "/no/such: No such file or directory"),
        (["/"], "/: Is a directory"),
        ([], "Missing argument 'FILE'"),
        (
            ["--catch-up", "soon", "/dev/null"],
            "'--catch-up': got 'soon'; use 0 to",
        ),
        (["--catch-up", "10", "/dev/null"], "--catch-up: got 10 s; use 60s to 47h"),
        (["--catch-up", "3d", "/dev/null"], "--catch-up: got 259200 s; use 60s to 47h"),
    ],
)
def test_wrong_usage(words: list[str], said: str) -> None:
    done = run("werk", "cron", *words)
    assert (done.returncode, done.stdout) == (2, "")
    assert said in done.stderr
    assert len(done.stderr.splitlines()) == 1


def test_a_secret_is_not_shown(tmp_path: Path, file: Callable[[str], Path]) -> None:
    (tmp_path / "shop.py").write_text(
        "from werk.registry import Task\n"
        "TASKS = {'pay': Task('shop.pay', secret=('token',))}\n"
        "def pay(n: int, *, token: str): ...\n"
    )
    env = {"WERK_REGISTRY": "shop:TASKS", "PYTHONPATH": str(tmp_path)}
    path = file("* * * * * pay 1 --token hunter2\n")
    done = run("werk", "cron", "--check", path, env=env)
    assert done.stdout.startswith("1: * * * * *  pay(1, token=***)\n")
    path = file("* * * * * pay x --token hunter2\n")
    assert "hunter2" not in run("werk", "cron", "--check", path, env=env).stderr


# --- times


def test_check_prints_the_next_five_times(file: Callable[[str], Path]) -> None:
    path = file("0 3 * * * sleep 1\nTZ=UTC\n*/15 * * * * hello Ada\n")
    env = {"TZ": "Asia/Kolkata", "RQ_REDIS_URL": f"redis://localhost:{free_port()}"}
    done = run("werk", "cron", "--check", path, env=env)
    assert (done.returncode, done.stderr) == (0, "")
    text = done.stdout.splitlines()
    assert (text[0], text[6]) == ("1: 0 3 * * *  sleep(1.0)", "3: */15 * * * *  hello('Ada')")
    assert len(text) == 12
    assert all(moment.endswith("T03:00+05:30") for moment in text[1:6])  # the machine's own zone
    before = datetime.now(timezone.utc)
    _, line = json.loads(run("werk", "cron", "--check", "--json", path, env=env).stdout)
    soon = [datetime.fromisoformat(moment) for moment in line.pop("next")]
    assert line == {"line": 3, "when": "*/15 * * * *", "call": "hello('Ada')"}
    assert [later - one for one, later in pairwise(soon)] == [timedelta(minutes=15)] * 4
    assert timedelta(0) < soon[0] - before <= timedelta(minutes=16)


def times(when: str, zone: ZoneInfo, after: float, until: float) -> list[float]:
    found = Line(1, when, zone, "sleep", (1,), {}, "sleep(1)").ticks(after)
    return list(takewhile(lambda time: time <= until, (tick.timestamp() for tick in found)))


@pytest.mark.parametrize(
    ("when", "spring", "autumn"),
    [  # Berlin: 01:59 +01 is followed by 03:00 +02; 02:59 +02 by 02:00 +01
        ("30 2 * * *", ["03:00+02:00"], ["02:30+02:00"]),
        ("0,30 2 * * *", ["03:00+02:00"], ["02:00+02:00", "02:30+02:00"]),
        ("30 1-3 * * *", ["01:30+01:00", "03:00+02:00", "03:30+02:00"],
         ["01:30+02:00", "02:30+02:00", "03:30+01:00"]),
        ("0 3 * * *", ["03:00+02:00"], ["03:00+01:00"]),
        ("15 * * * *", ["01:15+01:00", "03:15+02:00"],
         ["01:15+02:00", "02:15+02:00", "02:15+01:00", "03:15+01:00"]),
        ("@hourly", ["01:00+01:00", "03:00+02:00"],
         ["01:00+02:00", "02:00+02:00", "02:00+01:00", "03:00+01:00"]),
        ("59 23 * * *", [], []),
    ],
)  # fmt: skip
def test_when_the_clock_is_changed(when: str, spring: list[str], autumn: list[str]) -> None:
    for day, wanted in (("2026-03-29", spring), ("2026-10-25", autumn)):
        start = datetime.fromisoformat(f"{day}T01:00").replace(tzinfo=BERLIN).timestamp()
        end = datetime.fromisoformat(f"{day}T03:59").replace(tzinfo=BERLIN).timestamp()
        assert times(when, BERLIN, start - 1, end) == [at(f"{day}T{moment}") for moment in wanted]


FIELD = {0: 59, 1: 23}


@st.composite
def fields(draw: st.DrawFn) -> str:
    """Minute and hour: *, */n, a number, a range, a list."""
    texts = []
    for most in FIELD.values():
        one = st.integers(0, most)
        texts.append(
            draw(
                st.one_of(
                    st.just("*"),
                    st.integers(2, most).map("*/{}".format),
                    one.map(str),
                    st.lists(one, min_size=2, max_size=3, unique=True).map(
                        lambda numbers: ",".join(map(str, sorted(numbers)))
                    ),
                    st.lists(one, min_size=2, max_size=2, unique=True).map(
                        lambda numbers: "{}-{}".format(*sorted(numbers))
                    ),
                )
            )
        )
    return f"{' '.join(texts)} * * *"


CHANGES = [  # a zone and the day on which its clock is changed
    ("Europe/Berlin", "2026-03-29"),
    ("Europe/Berlin", "2026-10-25"),
    ("America/New_York", "2026-03-08"),
    ("America/New_York", "2026-11-01"),
    ("Australia/Lord_Howe", "2026-10-04"),  # by half an hour
    ("Australia/Lord_Howe", "2026-04-05"),
    ("America/Santiago", "2026-09-06"),  # at midnight
    ("America/Santiago", "2026-04-05"),
    ("Asia/Kathmandu", "2026-05-01"),  # never, and a quarter of an hour beside the others
]


def matches(field: str, number: int) -> bool:
    base, _, step = field.partition("/")
    if base == "*":
        return number % int(step or 1) == 0
    if "-" in base:
        low, high = map(int, base.split("-"))
        return low <= number <= high
    return number in map(int, base.split(","))


def by_the_minute(
    when: str, zone: ZoneInfo, after: float, until: float
) -> tuple[set[float], float]:
    """Return the times that a clock on the wall would say, and when it skips, or 0."""
    minute, hour = when.split()[:2]
    is_fixed = "*" not in minute + hour
    found, gap_ends, wall = set(), 0.0, None
    for moment in range(int(after // 60 + 1) * 60, int(until) + 1, 60):
        now = datetime.fromtimestamp(moment, zone)
        shown = [now]
        if wall is not None and now.replace(tzinfo=None) - wall > timedelta(minutes=1):
            gap_ends = moment
            minutes = (now.replace(tzinfo=None) - wall) // timedelta(minutes=1)
            shown += [now - timedelta(minutes=left) for left in range(1, minutes)]
        wall = now.replace(tzinfo=None)
        is_second = is_fixed and now.fold
        if not is_second and any(
            matches(minute, s.minute) and matches(hour, s.hour) for s in shown
        ):
            found.add(float(moment))
    return found, gap_ends


@settings(max_examples=150, deadline=None, derandomize=True)
@given(fields(), st.sampled_from(CHANGES))
def test_times_are_those_on_the_wall(when: str, change: tuple[str, str]) -> None:
    zone = ZoneInfo(change[0])
    midnight = datetime.fromisoformat(change[1]).replace(tzinfo=zone).timestamp()
    after, until = midnight - 3 * 3600, midnight + 6 * 3600
    wanted, gap_ends = by_the_minute(when, zone, after, until)
    found = times(when, zone, after, until)
    assert found == sorted(set(found))
    if "*" in "".join(when.split()[:2]):  # of real time a skipped minute may be made up for, or not
        assert set(found) - {gap_ends} == wanted - {gap_ends}
    else:
        assert set(found) == wanted


@settings(max_examples=150, deadline=None, derandomize=True)
@given(fields(), st.sampled_from(CHANGES), st.floats(0, 9 * 3600))
def test_times_are_the_same_wherever_one_begins(
    when: str, change: tuple[str, str], begun: float
) -> None:
    """Or hosts that were started at different times would not agree."""
    zone = ZoneInfo(change[0])
    after = datetime.fromisoformat(change[1]).replace(tzinfo=zone).timestamp() - 3 * 3600
    until = after + 9 * 3600
    middle = after + begun
    assert times(when, zone, after, until) == [
        *times(when, zone, after, middle),
        *times(when, zone, middle, until),
    ]


# --- enqueues: each tick once


def ids(connection: redis.Redis) -> list[str]:
    return [job_id.decode() for job_id in connection.lrange("rq:queue:default", 0, -1)]


def slot_of(line: Line, tick: float) -> str:
    """Return the key that names the job of a tick."""
    text = datetime.fromtimestamp(tick, timezone.utc).strftime("%Y-%m-%dT%H:%MZ")
    options = werk.Options(slot=text)
    return client.prepare(client.find(line.task), line.args, line.kwargs, options).hold


def job_of(connection: redis.Redis, line: Line, tick: float) -> str:
    return (connection.get(slot_of(line, tick)) or b"").decode().partition(" ")[0]


def test_a_tick_is_one_job_from_any_number_of_hosts(
    lines: Callable[[str], list[Line]], connected: Link, connection: redis.Redis
) -> None:
    own = lines("*/5 * * * * sleep 1\n*/5 * * * * hello Ada\n")
    crons = [Cron(own, connected, 300, NOON + 1) for _ in range(3)]
    for cron_ in crons:
        cron_.fire(NOON + 299)
    assert ids(connection) == []
    for late in (300, 301, 599):
        for number, cron_ in enumerate(crons):
            cron_.fire(NOON + late + number / 4)
    assert len(ids(connection)) == 2
    assert [job_of(connection, line, NOON + 300) for line in own] == ids(connection)
    assert crons[0].next_tick(NOON + 599) == NOON + 600


def test_what_all_missed_is_made_up_for_once(
    lines: Callable[[str], list[Line]], connected: Link, connection: redis.Redis
) -> None:
    own = lines("*/10 * * * * sleep 1\n")
    Cron(own, connected, 300, NOON).fire(NOON + 600)
    for _ in range(2):  # one dies before it has told Redis how far it is: so a third begins as well
        Cron(own, connected, 3600, NOON + 3000).fire(NOON + 3000)
    assert len(ids(connection)) == 5
    assert all(connection.exists(slot_of(own[0], NOON + after)) for after in range(600, 3001, 600))


def test_what_is_older_is_not_made_up_for_and_said(
    lines: Callable[[str], list[Line]],
    connected: Link,
    connection: redis.Redis,
    caplog: pytest.LogCaptureFixture,
) -> None:
    own = lines("*/10 * * * * sleep 1\n")
    Cron(own, connected, 300, NOON).fire(NOON + 601)
    Cron(own, connected, 1000, NOON + 3000).fire(NOON + 3000)
    assert len(ids(connection)) == 3  # the first, and two in the last thousand seconds
    assert "event=missed line=2 task=sleep tick=2026-11-24T12:20Z" in caplog.text


@pytest.mark.parametrize(
    "new", ["15 * * * * sleep 2\n", "TZ=Asia/Kathmandu\n*/30 * * * * sleep 1\n"]
)
def test_a_new_line_has_missed_nothing(
    new: str, lines: Callable[[str], list[Line]], connected: Link, connection: redis.Redis
) -> None:
    old = "*/30 * * * * sleep 1\n"
    Cron(lines(old), connected, 7200, NOON).fire(NOON)
    Cron(lines(old + new), connected, 7200, NOON + 1900).fire(NOON + 1900)
    [job_id] = ids(connection)
    assert connection.hget(f"rq:job:{job_id}", "description") == b"sleep(1.0)"


@pytest.mark.parametrize("is_begun_before", [True, False])
def test_redis_away_at_a_tick(
    is_begun_before: bool, lines: Callable[[str], list[Line]], server: Server, redis_url: str
) -> None:
    own = lines("*/5 * * * * sleep 1\n")
    connected = link(Settings.read(), 60)
    cron_ = Cron(own, connected, 900, NOON + 299)
    if is_begun_before:
        cron_.fire(NOON + 299)
    server.kill()
    connected.budget_s = 0.1  # nobody answers
    for moment in (NOON + 300, NOON + 600):
        with pytest.raises(RedisUnavailable):
            cron_.fire(moment)
    server.start()
    connected.budget_s = 60
    cron_.fire(NOON + 700)
    with redis.Redis.from_url(redis_url) as connection:
        assert all(job_of(connection, own[0], NOON + tick) for tick in (300, 600))
        assert len(ids(connection)) == 2


def test_a_line_that_cannot_be_enqueued_keeps_no_other(
    lines: Callable[[str], list[Line]], connected: Link, connection: redis.Redis
) -> None:
    own = lines("* * * * * sleep 1\n* * * * * hello Ada\n")
    connection.lpush(slot_of(own[0], NOON + 60), "of another kind")
    cron_ = Cron(own, connected, 300, NOON)
    with pytest.raises(ConfigError, match="WRONGTYPE"):
        cron_.fire(NOON + 61)
    assert len(ids(connection)) == 1
    connection.delete(slot_of(own[0], NOON + 60))
    cron_.fire(NOON + 62)
    assert len(ids(connection)) == 2


def test_a_task_that_only_workers_know(
    lines: Callable[[str], list[Line]], connected: Link, connection: redis.Redis
) -> None:
    page = json.loads(catalog._page(Task("shop.report", queue="low")))
    connection.hset("rq:werk:catalog", "report", json.dumps(page))
    cron_ = Cron(lines("* * * * * report 7\n"), connected, 300, NOON)
    cron_.fire(NOON + 61)
    assert connection.llen("rq:queue:low") == 1
    page["queue"] = "high"
    connection.hset("rq:werk:catalog", "report", json.dumps(page))
    cron_.fire(NOON + 121)  # after a deploy
    assert connection.llen("rq:queue:high") == 1


def test_a_clock_that_is_set(
    lines: Callable[[str], list[Line]],
    connected: Link,
    connection: redis.Redis,
    caplog: pytest.LogCaptureFixture,
) -> None:
    own = lines("*/5 * * * * sleep 1\n")
    cron_ = Cron(own, connected, 300, NOON - 3601)
    for tick in range(-3600, 301, 300):
        cron_.fire(NOON + tick)
    assert len(ids(connection)) == 14
    cron_.fire(NOON - 3600)  # back: what is long past is not enqueued again
    cron_.fire(NOON - 3400)
    cron_.fire(NOON + 301)
    assert len(ids(connection)) == 14
    cron_.fire(NOON + 10**9)  # far ahead: nothing but what is recent, and soon done
    assert len(ids(connection)) == 15
    cron_.fire(NOON + 601)  # right again: also the tick that was due in the meantime
    cron_.fire(NOON + 900)
    assert [job_of(connection, own[0], NOON + tick) for tick in (600, 900)] == ids(connection)[15:]
    assert caplog.text.count("event=clock-set-back") == 2


def test_a_clock_that_was_ahead_when_it_began(
    lines: Callable[[str], list[Line]], connected: Link, connection: redis.Redis
) -> None:
    own = lines("*/5 * * * * sleep 1\n")
    cron_ = Cron(own, connected, 300, NOON + 7200)
    cron_.fire(NOON + 7201)
    cron_.fire(NOON + 1)  # a new line: the tick at noon was before its time
    assert ids(connection) == []
    cron_.fire(NOON + 300)
    assert ids(connection) == [job_of(connection, own[0], NOON + 300)]
    assert connection.zrange("rq:werk:cron", 0, -1, withscores=True)[0][1] == NOON + 300


AHEAD = """
import sys, time
real = time.time
time.time = lambda: real() + 7200
from werk.cli.run import main
sys.argv = ["werk", "cron", *sys.argv[1:]]
main()
"""


def test_the_clock_of_the_host_does_not_matter(
    lines: Callable[[str], list[Line]], tmp_path: Path, spawn: Spawn, connection: redis.Redis
) -> None:
    """Two hours ahead: ticks are those of Redis's clock, which hosts compare."""
    [line] = lines("* * * * * sleep 1\n")
    begun = time.time()
    connection.zadd("rq:werk:cron", {line.stamps[0]: begun - 180})
    process = spawn("python", "-c", AHEAD, tmp_path / "crontab")
    wait_until(lambda: len(ids(connection)) >= 3)
    process.terminate()
    assert process.wait(60) == 0
    assert "event=missed" not in process.output()
    assert all(job_of(connection, line, begun // 60 * 60 - 60 * number) for number in range(3))
    assert (connection.zscore("rq:werk:cron", line.stamps[0]) or 0) <= time.time() + 60


# --- three hosts for a week: time is injected, the rules are those of a real server

TICKS, PERIOD_S = 2000, 300
AGE = """
for _, key in ipairs(KEYS) do
  local left = redis.call('PTTL', key) - ARGV[1]
  if left > 0 then redis.call('PEXPIRE', key, left) else redis.call('DEL', key) end
end
"""  # -2, no such key, is no life at all either


class Host(NamedTuple):
    ahead_s: float = 0.0  # of its clock
    misses: float = 0.0  # of its ticks


UP = (Host(), Host(), Host())
SICK = (Host(), Host(ahead_s=90), Host(misses=0.1))
SET_APART = (Host(), Host(ahead_s=90), Host(ahead_s=-90))


def firings(hosts: Sequence[Host]) -> list[tuple[float, int, int]]:
    """Return when which host fires which tick: each when its own clock says so, +-0.5 s."""
    chance = random.Random(1)
    return sorted(
        (tick * PERIOD_S - host.ahead_s + chance.uniform(-0.5, 0.5), number, tick)
        for tick in range(1, TICKS + 1)
        for number, host in enumerate(hosts)
        if chance.random() >= host.misses
    )


def simulated(
    hosts: Sequence[Host],
    connection: redis.Redis,
    keys: Callable[[int], Sequence[str]],
    fire: Callable[[int, int], int],
) -> Counter[int]:
    """Return how many jobs came of each tick. `fire(host, tick)` says how many jobs it made;
    `keys(tick)` are those that expire as time goes by."""
    jobs = Counter(dict.fromkeys(range(1, TICKS + 1), 0))
    age, aged, before = connection.register_script(AGE), 0.0, 0.0
    for moment, number, tick in firings(hosts):
        aged += moment - before
        before = moment
        names = keys(tick)
        if aged > 1 and names:
            age(keys=names, args=[round(aged * 1000)])
            aged = 0.0
        jobs[tick] += fire(number, tick)
    return jobs


def outcome(jobs: Counter[int]) -> tuple[int, float]:
    """Return how many ticks ran twice, and the share that never did."""
    return sum(n > 1 for n in jobs.values()), sum(n == 0 for n in jobs.values()) / TICKS


@pytest.mark.parametrize(("hosts", "never"), [(UP, 0.0), (SET_APART, 0.0), (SICK, 0.01)])
def test_hosts_that_say_once_per(
    hosts: Sequence[Host], never: float, connected: Link, connection: redis.Redis
) -> None:
    options = werk.Options(once_per=PERIOD_S)
    hold = client.prepare(client.find("sleep"), (1,), {}, options).hold

    def fire(number: int, tick: int) -> int:
        return not client.enqueue("sleep", 1, options=options, connection=connected).duplicate

    jobs = simulated(hosts, connection, lambda tick: [hold], fire)
    twice, missed = outcome(jobs)
    assert twice == 0
    assert missed <= never
    assert len(ids(connection)) == jobs.total() > 0


@pytest.mark.parametrize(("hosts", "never"), [(UP, 0.0), (SICK, 0.01)])
def test_hosts_that_run_werk_cron(
    hosts: Sequence[Host],
    never: float,
    lines: Callable[[str], list[Line]],
    connected: Link,
    connection: redis.Redis,
) -> None:
    own = lines("*/5 * * * * sleep 1\n")
    crons = [Cron(own, connected, 60, NOON) for _ in hosts]
    remembered = [slot_of(own[0], NOON + tick * PERIOD_S) for tick in range(TICKS + 1)]

    made = 0

    def fire(number: int, tick: int) -> int:
        nonlocal made
        before = made
        crons[number].fire(NOON + tick * PERIOD_S + number / 4)  # its own clock
        made = int(connection.llen("rq:queue:default"))
        return made - before

    def keys(tick: int) -> Sequence[str]:  # some forty times in all: they last for 48 h
        return remembered[max(0, tick - 600) : tick + 1] if tick % 144 == 0 else ()

    twice, missed = outcome(simulated(hosts, connection, keys, fire))
    assert twice == 0
    assert missed <= never


# --- processes

FAST = """
import sys, time
from werk.ops import cron, crontab
from werk.store.connection import link
from werk.settings import Settings
path, noon, begun, speed = sys.argv[1], *map(float, sys.argv[2:])
connected = link(Settings.read(), budget_s=0.5)
cron.end_at_sigterm()
cron.run(
    path,
    crontab.read(path, connected),
    connected,
    catch_up_s=47 * 3600,  # twelve minutes of ours: a busy machine is no fault
    clock=lambda: noon + (time.time() - begun) * speed,
    pause=lambda seconds: time.sleep(seconds / speed),  # its own pause, on the fast clock
)
"""
MINUTE_S = 0.25


def test_two_processes_for_sixty_ticks(
    lines: Callable[[str], list[Line]], tmp_path: Path, spawn: Spawn, server: Server, redis_url: str
) -> None:
    """They begin while Redis is unreachable; one is killed and comes back; Redis is restarted."""
    [line] = lines("* * * * * sleep 1\n")
    begun, speed = time.time(), 60 / MINUTE_S
    ticks = [NOON + 60 * number for number in range(2000)]

    def start() -> Process:
        return spawn("python", "-c", FAST, tmp_path / "crontab", NOON, begun, speed)

    def wait_for(number: int) -> None:
        """Wait for so many ticks, from the first there was."""
        with redis.Redis.from_url(redis_url) as connection:
            wait_until(lambda: len(ids(connection)) >= number)

    server.stop()
    one, other = start(), start()
    wait_until(lambda: "event=redis-unreachable" in one.output())
    server.start()
    wait_for(15)
    one.kill()
    one.wait()
    wait_for(25)
    again = start()
    wait_until(lambda: "event=begins" in again.output())
    wait_for(35)
    server.stop()
    wait_until(lambda: "event=not-enqueued" in again.output())
    server.start()
    wait_for(61)
    for process in (other, again):
        process.terminate()
        assert process.wait(60) == 0
    with redis.Redis.from_url(redis_url) as connection:
        fired = [number for number, tick in enumerate(ticks) if job_of(connection, line, tick)]
        found = ids(connection)
        assert sorted(job_of(connection, line, ticks[n]) for n in fired) == sorted(found)
    assert fired == list(range(fired[0], fired[-1] + 1))
    assert len(fired) >= 60
    assert "event=missed" not in one.output() + other.output() + again.output()


def test_the_command_makes_up_for_what_was_missed_once(
    file: Callable[[str], Path], spawn: Spawn, connection: redis.Redis
) -> None:
    """A second one that knows nothing of the first enqueues none of its ticks: slots decide."""
    path, stamp = file("TZ=UTC\n*/5 * * * * sleep 1\n"), "TZ=UTC */5 * * * * sleep(1.0)"
    found: list[str] = []
    for _ in range(2):
        connection.zadd("rq:werk:cron", {stamp: time.time() - 3000})
        process = spawn("werk", "cron", "--catch-up", "1h", path)
        half = time.time() - 1500
        wait_until(lambda half=half: (connection.zscore("rq:werk:cron", stamp) or 0) > half)
        process.terminate()
        assert process.wait(60) == 0
        found += re.findall(r"event=enqueued line=2 task=sleep tick=(\S+)", process.output())
    assert len(found) >= 10
    assert len(found) == len(set(found)) == len(ids(connection))


@pytest.mark.parametrize("table", ["werk.registry", ""], ids=["begun", "looking tasks up"])
def test_it_ends_at_once_even_while_it_waits_for_redis(
    file: Callable[[str], Path], spawn: Spawn, table: str
) -> None:
    with socket.create_server(("127.0.0.1", 0)) as mute:
        env = {"RQ_REDIS_URL": f"redis://127.0.0.1:{mute.getsockname()[1]}"}
        env["WERK_REGISTRY"] = table  # if it is named, reading the file asks no Redis
        process = spawn("werk", "cron", file("* * * * * sleep 1\n"), env=env)
        mute.settimeout(60)
        heard, _ = mute.accept()
        with heard:
            process.terminate()
            assert process.wait(8) == 0  # its own wait for Redis takes 10 s


def test_it_waits_for_redis_to_look_tasks_up(
    file: Callable[[str], Path], spawn: Spawn, server: Server, connection: redis.Redis
) -> None:
    page = json.dumps(json.loads(catalog._page(Task("shop.report"))))
    connection.hset("rq:werk:catalog", "report", page)
    server.kill()
    process = spawn("werk", "cron", file("* * * * * report 7\n"))
    wait_until(lambda: "event=redis-unreachable" in process.output())  # after 10 s
    server.start()
    wait_until(lambda: "event=begins" in process.output())
    assert "event=redis-back" in process.output()
    process.terminate()
    assert process.wait(60) == 0


def test_it_ends_though_a_signal_arrives_in_a_destructor() -> None:
    code = """if True:
        import os, signal, time
        from werk.ops import cron

        class Last:
            def __del__(self):
                os.kill(os.getpid(), signal.SIGTERM)
                time.sleep(0)  # the handler runs here

        cron.end_at_sigterm()
        Last()
        time.sleep(60)  # until the second signal
        print("it goes on")
    """
    done = run("python", "-c", code)
    assert (done.returncode, done.stdout) == (0, "")


def test_a_wrong_password_is_no_reason_to_try_again(
    file: Callable[[str], Path], redis_url: str
) -> None:
    env = {"RQ_REDIS_URL": redis_url.replace("//", "//nobody:secret@")}
    done = run("werk", "cron", file("* * * * * sleep 1\n"), env=env)
    assert done.returncode == 78
    assert "refused the credentials" in done.stderr.splitlines()[-1]
    assert "secret" not in done.stderr


def test_nothing_else_loads_croniter() -> None:
    modules = (
        "werk.cli.run, werk.cli.enqueue, werk.cli.operate, werk.cli.lookup, werk.client.enqueue"
    )
    code = f"import sys, {modules}; print('croniter' in sys.modules)"
    assert run("python", "-c", code).stdout == "False\n"


# --- lines that cron(8) cuts


@pytest.mark.parametrize("quiet", [[], ["--quiet"]])
@pytest.mark.parametrize("has_shell", [True, False])
def test_a_line_that_cron_has_cut_is_a_warning(
    redis_url: str, tmp_path: Path, quiet: list[str], has_shell: bool
) -> None:
    """As cron(8) runs `hello 100%.jpg`: its process has this name, and the rest is on stdin."""
    words = " ".join([*command("werk-enqueue", "--require-worker", *quiet, "hello", "100")])
    shell = ["sh", "-c", f"{words}; exit $?"] if has_shell else ["sh", "-c", f"exec {words}"]
    program = (
        "import os, subprocess, sys\n"
        "rest, line = os.pipe()\n"
        "os.write(line, sys.argv[1].encode())\n"
        "os.close(line)\n"
        f"done = subprocess.run({shell!r}, stdin=rest)\n"
        "sys.exit(done.returncode)"
    )
    (tmp_path / "cron").symlink_to(sys.executable)
    (tmp_path / "other").symlink_to(sys.executable)

    def said(name: str, rest: str) -> tuple[int, bool]:
        done = run(tmp_path / name, "-c", program, rest)
        return done.returncode, "cron cuts a line at %" in done.stderr

    assert said("cron", ".jpg") == (75, True)  # no worker
    assert said("cron", "") == (75, False)
    assert said("other", ".jpg") == (75, False)
