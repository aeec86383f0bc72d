"""A crontab of tasks: reading its lines, and when each one is due."""

from __future__ import annotations

import os
import re
import shlex
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import suppress
from datetime import datetime, timezone, tzinfo
from itertools import islice
from math import inf
from types import MappingProxyType
from typing import Any, NamedTuple
from zoneinfo import ZoneInfo

from croniter import CroniterBadDateError, CroniterError, croniter
from dateutil.tz import gettz

from werk.client import enqueue as client
from werk.errors import ArgumentError, UnknownTask
from werk.store import keys
from werk.store.connection import Link

TICKS_SHOWN = 5
FIELDS = 5  # of a line: minute hour day month weekday


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
    def stamps(self) -> tuple[str, str]:
        """Return the names of its records in Redis: see cron_names."""
        return keys.cron_names(self.when, zone_name(self.zone), self.call)

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
        return {"line": self.number, "task": self.task, "tick": utc(tick)}

    def as_json(self) -> dict[str, Any]:
        """Return the line as --check prints it, with its next five times."""
        soon = islice(self.ticks(time.time()), TICKS_SHOWN)
        times = [tick.isoformat(timespec="minutes") for tick in soon]
        return {"line": self.number, "when": self.when, "call": self.call, "next": times}


def read(path: str, link: Link) -> list[Line]:
    """Return the lines of a crontab. Tasks that are unknown here are looked up in the catalog.

    Raises ArgumentError with each bad line, ConfigError, RedisUnavailable.
    """
    try:
        with open(path, encoding="utf-8", errors="surrogateescape", newline="\n") as file:
            texts = file.readlines()  # as cron(8); splitlines() would end lines within a comment
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
    """Raise ArgumentError for a time that is invalid or never occurs."""
    try:
        if re.search(r"(^|[ ,])[hr]", line.when.lower()):
            raise CroniterError  # croniter's extension: a random time, which differs between hosts
        comes = next(line.ticks(time.time()), None)
    except ValueError:  # a CroniterError, or a number of thousands of digits
        named = "@hourly @daily @weekly @monthly @yearly"
        wanted = f"minute hour day month weekday, or {named}"
        raise ArgumentError(f"invalid time {line.when[:80]!r}; use {wanted}") from None
    if comes is None:
        raise ArgumentError(f"time {line.when!r} never occurs; change the day or the month")


def _zone(name: str, value: str) -> ZoneInfo:
    """Return the zone that a setting names. Raises ArgumentError."""
    if name not in ("TZ", "CRON_TZ"):
        raise ArgumentError(
            f"{name}= is not supported in a crontab of tasks; only TZ= and CRON_TZ= are"
        )
    try:
        return ZoneInfo(value.strip("\"'"))
    except (ValueError, OSError, KeyError):  # for bad names, folders, and unknown zones
        problem = f"{name}={value}: unknown time zone; use UTC or a name like Europe/Berlin"
        raise ArgumentError(problem) from None


def utc(tick: datetime) -> str:
    return tick.astimezone(timezone.utc).strftime("%Y-%m-%dT%H:%MZ")


# --- as text, for other hosts


def zone_name(zone: tzinfo) -> str:
    """Return a zone's name, or its present offset, +01:00, if the machine does not name it."""
    if isinstance(zone, ZoneInfo):
        return zone.key
    file = os.path.realpath(str(getattr(zone, "_filename", "")))
    name = file.partition("/zoneinfo/")[2]
    now = datetime.now(timezone.utc)
    with suppress(ValueError, OSError, KeyError):
        if name and now.astimezone(ZoneInfo(name)).utcoffset() == zone.utcoffset(now):
            return name
    offset = now.astimezone(zone).isoformat()[-6:]
    return "UTC" if offset == "+00:00" else offset


def times(when: str, zone: str, after: float, until: float = inf) -> Iterator[float]:
    """Yield the Unix times of a line that another host has published.

    Raises ArgumentError if this host does not know its time or its zone.
    """
    if re.fullmatch(r"[+-]\d\d:\d\d", zone):
        found = datetime.fromisoformat(f"2000-01-01T00:00{zone}").tzinfo or timezone.utc
    else:
        found = _zone("TZ", zone)
    line = Line(0, when, found)
    if not when.startswith("@") and len(when.split()) != FIELDS:
        raise ArgumentError(f"invalid time {when!r}")
    _check_time(line)
    return (tick.timestamp() for tick in line.ticks(after, until))
