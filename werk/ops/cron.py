"""Crontab lines -> enqueues: each tick once, however many processes run the same crontab.

Read the lines, wait for the next tick, and enqueue it under a name that all processes share: its
UTC time.
"""

from __future__ import annotations

import logging
import re
import shlex
import signal
import sys
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import suppress
from datetime import datetime, timezone, tzinfo
from itertools import islice
from math import inf
from types import MappingProxyType
from typing import Any, NamedTuple, NoReturn
from zoneinfo import ZoneInfo

from croniter import CroniterBadDateError, CroniterError, croniter
from dateutil.tz import gettz

from werk.client import enqueue as client
from werk.client.options import Options
from werk.errors import ArgumentError, RedisUnavailable, UnknownTask, WerkError
from werk.log_format import Event, log_to_stderr
from werk.store import keys
from werk.store.connection import Link
from werk.store.limits import MONTH_S
from werk.store.outage import Outage
from werk.store.startup import wait_for_answer

SHORTEST_CATCH_UP_S = 60  # so that a busy machine or a short outage of Redis loses no tick
LONGEST_CATCH_UP_S = 47 * 3600  # a slot is kept for 48 h, and clocks differ
LONGEST_PAUSE_S = 60.0  # the clock may be set, the machine may sleep
RETRY_S = 1.0

TICKS_SHOWN = 5

log = logging.getLogger("werk.cron")


class Line(NamedTuple):
    """A line of a crontab: when to enqueue which call."""

    number: int
    when: str  # five fields, or @hourly and the like
    zone: tzinfo
    task: str = ""
    args: Sequence[object] = ()
    kwargs: Mapping[str, object] = MappingProxyType({})
    call: str = ""  # with secrets masked

    @property
    def stamp(self) -> str:
        """The name of its stamp in Redis: the same on every host, and after a restart."""
        return f"{self.when} {self.call}"

    def ticks(self, after: float, until: float = inf) -> Iterator[datetime]:
        """Yield its times after a Unix time, up to another, in its zone.

        A time that the clock skips is yielded when the skip ends. A time that the clock shows twice
        is yielded once, the first time, unless minute or hour begins with *: then real time counts.
        This is what cron(8) does.
        """
        fields = self.when.lower().split()[:2]
        is_real_time = fields == ["@hourly"] or any(part.startswith("*") for part in fields)
        times = croniter(self.when, datetime.fromtimestamp(after, self.zone))
        with suppress(CroniterBadDateError):  # none in fifty years
            while (moment := times.get_next(datetime)).timestamp() <= until:
                if is_real_time or not moment.fold:
                    yield moment

    def facts(self, tick: datetime) -> dict[str, object]:
        """Return what a log line contains about one of its times."""
        return {"line": self.number, "task": self.task, "tick": _utc(tick)}

    def as_json(self) -> dict[str, Any]:
        """Return the line as --check prints it, with its next five times."""
        soon = islice(self.ticks(time.time()), TICKS_SHOWN)
        times = [tick.isoformat(timespec="minutes") for tick in soon]
        return {"line": self.number, "when": self.when, "call": self.call, "next": times}


def end_at_sigterm() -> None:
    """End this process with 0 at SIGTERM, at any moment: a slot is taken or not."""
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(0))


def read(path: str, link: Link) -> list[Line]:
    """Return the lines of a crontab. Tasks that are unknown here are looked up in the catalog.

    Raises ArgumentError with each bad line, ConfigError, RedisUnavailable.
    """
    try:
        with open(path, encoding="utf-8", errors="surrogateescape") as file:
            texts = file.read().splitlines()
    except OSError as error:
        raise ArgumentError(f"{path}: {error.strerror}") from None
    zone: tzinfo = gettz() or timezone.utc
    lines, problems = [], []
    for number, text in enumerate(map(str.strip, texts), 1):
        try:
            if setting := re.fullmatch(r"(\w+)\s*=\s*(.*)", text):
                zone = _zone(*setting.groups())
            elif text and not text.startswith("#"):
                lines.append(_line(number, text, zone, link))
        except (ArgumentError, UnknownTask) as error:
            problems.append(f"{path}:{number}: {error}")
    if problems:
        raise ArgumentError(*problems)
    return lines


def run(
    lines: Sequence[Line],
    link: Link,
    catch_up_s: float,
    *,
    clock: Callable[[], float] = time.time,
    pause: Callable[[float], None] = time.sleep,
) -> NoReturn:
    """Enqueue the lines at their times, without end. Continue after an outage of Redis.

    Raises ArgumentError, and ConfigError if Redis refuses the first command.
    """
    cron = Cron(lines, link, catch_up_s, clock())
    log_to_stderr()
    log.info(Event("begins", redis=link.where, lines=len(lines)))
    wait_for_answer(cron.read_stamps, log, pause=pause)
    outage = Outage(log, "not-enqueued", "goes-on")
    while True:
        now = clock()
        try:
            cron.fire(now)
        except WerkError as error:
            outage.note(error, retry=f"in {RETRY_S:g} s")
            pause(RETRY_S)
            continue
        outage.end()
        pause(max(0.0, min(LONGEST_PAUSE_S, cron.next_tick(now) - clock())))


class Cron:
    """Lines, and up to when the ticks of each have been enqueued. Times are Unix seconds.

    Redis keeps the same as one stamp per line. From it a process that starts knows which ticks were
    missed while no process was running, and that a new line has missed nothing.
    """

    def __init__(
        self, lines: Sequence[Line], link: Link, catch_up_s: float, started: float
    ) -> None:
        """Raises ArgumentError."""
        if not SHORTEST_CATCH_UP_S <= catch_up_s <= LONGEST_CATCH_UP_S:
            raise ArgumentError(f"catch-up of {catch_up_s:g} s; use 60 s to 47 h")
        self.lines, self.catch_up_s = lines, catch_up_s
        self._link = link
        self._done = {line.number: started for line in lines}
        self._has_stamps = not lines
        self._stamps = keys.key("werk", "cron")

    def next_tick(self, now: float) -> float:
        """Return when the next tick of any line is, or `now` plus the longest pause."""
        ticks = (tick.timestamp() for line in self.lines for tick in islice(line.ticks(now), 1))
        return min(ticks, default=now + LONGEST_PAUSE_S)

    def fire(self, now: float) -> None:
        """Enqueue each tick up to `now` that is not enqueued yet and not too old.

        Raises WerkError; the next call tries again what could not be enqueued.
        """
        if not self._has_stamps:
            self.read_stamps()
        trouble: WerkError | None = None
        for line in self.lines:
            try:
                self._fire(line, now)
            except RedisUnavailable:
                raise
            except WerkError as error:  # concerns this line alone: a key of the wrong type
                trouble = error
        self._write_stamps(now)
        if trouble:
            raise trouble

    def _fire(self, line: Line, now: float) -> None:
        done, oldest = self._done[line.number], now - self.catch_up_s
        if done < oldest:
            if missed := next(line.ticks(done, oldest), None):
                why = "too long ago, and maybe later ones as well"
                log.warning(Event("missed", **line.facts(missed), reason=why))
            done = self._done[line.number] = oldest
        for tick in line.ticks(done, now):
            entry = client.find(line.task, self._link)  # each time: workers may have changed
            options = Options(slot=_utc(tick))
            request = client.prepare(entry, line.args, line.kwargs, options)
            [handle] = client.send([request], self._link)
            self._done[line.number] = tick.timestamp()
            if not handle.duplicate:
                log.info(Event("enqueued", **line.facts(tick), job=handle.id))
                for warning in handle.warnings:
                    log.warning(Event("warned", **line.facts(tick), reason=warning))
        self._done[line.number] = max(now, self._done[line.number])

    def read_stamps(self) -> None:
        """Read how far the cron processes before this one came. Raises WerkError."""
        if not self.lines:
            return
        names = [line.stamp for line in self.lines]
        stamps = self._link.call("ZMSCORE", self._stamps, *names)
        for line, stamp in zip(self.lines, stamps, strict=True):
            if stamp is not None:
                self._done[line.number] = min(float(stamp), self._done[line.number])
        self._has_stamps = True

    def _write_stamps(self, now: float) -> None:
        if not self.lines:
            return
        words = [word for line in self.lines for word in (self._done[line.number], line.stamp)]
        forget = ("ZREMRANGEBYSCORE", self._stamps, "-inf", now - MONTH_S)
        self._link.calls([("ZADD", self._stamps, *words), forget])


# --- a line


def _line(number: int, text: str, zone: tzinfo, link: Link) -> Line:
    """Return a parsed line. Raises ArgumentError, UnknownTask, and what client.find raises."""
    found = re.fullmatch(r"(@\S+|(?:\S+\s+){4}\S+)\s+(.+)", text)
    if found is None:
        raise ArgumentError(f"invalid line {text[:80]!r}; write m h dom mon dow TASK [ARGS]")
    when, call = " ".join(found[1].split()), found[2]
    line = Line(number, when, zone)
    _check_time(line)
    try:
        name, *words = shlex.split(call)
    except ValueError as error:
        raise ArgumentError(f"{error}; quote arguments as in a shell") from None
    if name.startswith("-"):
        raise ArgumentError(f"{name}: a line takes no options; set them in the table of tasks")
    entry = client.find(name, link)
    args, kwargs = entry.shape.parse(words, task=name, secret=entry.task.secret)
    request = client.prepare(entry, args, kwargs)
    return line._replace(task=name, args=args, kwargs=kwargs, call=request.call)


def _check_time(line: Line) -> None:
    """Raises ArgumentError."""
    try:
        if re.search(r"(^|[ ,])[hr]", line.when.lower()):
            raise CroniterError  # croniter's extension: a random time, which differs between hosts
        comes = next(line.ticks(time.time()), None)
    except CroniterError:
        named = "@hourly @daily @weekly @monthly @yearly"
        wanted = f"minute hour day month weekday, or {named}"
        raise ArgumentError(f"invalid time {line.when!r}; use {wanted}") from None
    if comes is None:
        raise ArgumentError(f"time {line.when!r} never occurs; change the day or the month")


def _zone(name: str, value: str) -> ZoneInfo:
    """Return the zone that a setting names. Raises ArgumentError."""
    if name not in ("TZ", "CRON_TZ"):
        raise ArgumentError(f"{name}= is not supported in a crontab of tasks; only TZ= is")
    try:
        return ZoneInfo(value.strip("\"'"))
    except (ValueError, OSError, KeyError):  # for bad names, folders, and unknown zones
        problem = f"{name}={value}: unknown time zone; use UTC or a name like Europe/Berlin"
        raise ArgumentError(problem) from None


def _utc(tick: datetime) -> str:
    return tick.astimezone(timezone.utc).strftime("%Y-%m-%dT%H:%MZ")
