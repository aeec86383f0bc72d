"""What a `werk cron` publishes in Redis: a heartbeat, its lines, and the last jobs of each line.

cron_health.py reads and judges the record. No error here may keep a line from being enqueued.
"""

from __future__ import annotations

import json
import logging
import os
import socket
import time
from collections.abc import Callable, Mapping, Sequence
from functools import cache
from math import inf
from typing import TYPE_CHECKING, Any

from werk.errors import RedisUnavailable, WerkError
from werk.log_format import Event
from werk.printable import printable
from werk.store import keys
from werk.store.connection import Link
from werk.store.scripts import Script, named

if TYPE_CHECKING:  # crontab.py loads croniter, which `werk status` does not need
    from werk.ops.crontab import Line

CRONS = keys.key("werk", "crons")  # hash: "<host>:<path of the crontab>" -> JSON, see as_json
JOBS = keys.key("werk", "cron-jobs")  # hash: stamp of a line -> JSON, [[tick, job id], ...]
STAMPS = keys.key("werk", "cron")  # sorted set: stamp of a line -> up to when ticks are enqueued
RUNNING, STOPPED = "running", "stopped"
BEAT_S = 15.0
STOP_S = 1.0  # how long the end of the process, or its next try, may be delayed
MOST_LINES, LONGEST = 1000, 256 * 1024  # lines and bytes of a record
MOST_JOBS = 3  # of a line

log = logging.getLogger("werk.cron")


class CronRecord:
    """The record of this process, and the jobs that it has not written yet."""

    def __init__(
        self, path: str, lines: Sequence[Line], link: Link, clock: Callable[[], float]
    ) -> None:
        self.lines, self._link, self._clock = lines, link, clock
        place = os.path.abspath(os.path.expanduser(path))
        self.field = printable(f"{socket.gethostname()}:{place}")
        self._beat_at = self._since = 0.0
        self._done: Mapping[int, float] = {}
        self._errors: dict[int, str] = {}  # by line: why its last tick was not enqueued
        self._jobs: dict[str, list[tuple[str, str]]] = {}  # by stamp: tick and id of the last ones
        self._is_changed = False
        self._trouble = ""

    def fail(self, line: Line, why: str) -> None:
        """Note why a tick of a line was not enqueued."""
        if self._errors.get(line.number) != why:
            self._errors[line.number] = why
            self._is_changed = True

    def clear(self, line: Line) -> None:
        """Drop what fail() has noted: a later tick was enqueued, or the clock was set back."""
        self._errors.pop(line.number, None)
        self._is_changed = True

    def add(self, line: Line, tick: str, job_id: str) -> None:
        """Note the job of a tick."""
        self.clear(line)
        last = self._jobs.setdefault(line.stamps[0], [])
        last[:] = [*last[1 - MOST_JOBS :], (tick, job_id)]

    def beat(self, done: Mapping[int, float], *, only_if_due: bool = False) -> None:
        """Write the record if it has changed, or if the last beat is BEAT_S old.

        `done` is up to when each line is enqueued. Raises RedisUnavailable.
        """
        self._done = done
        is_due = not 0 <= self._clock() - self._beat_at < BEAT_S
        if is_due or (self._is_changed and not only_if_due):
            self._write(RUNNING)

    def stop(self) -> None:
        """Write that this process was stopped. Takes STOP_S at most."""
        if self._since:
            self._try(lambda: self._write(STOPPED))

    def beat_anyway(self, done: Mapping[int, float]) -> None:
        """Beat although no job can be enqueued: Redis may be full. Takes STOP_S at most."""
        self._try(lambda: self.beat(done, only_if_due=True))

    def _try(self, write: Callable[[], None]) -> None:
        self._link.not_after = time.monotonic() + STOP_S
        try:
            write()
        except RedisUnavailable:
            pass  # the next beat tries again; without one, this process counts as silent
        finally:
            self._link.not_after = inf

    def _write(self, state: str) -> None:
        self._beat_at = self._clock()
        is_new = not self._since
        jobs = [(stamp, *job) for stamp, last in self._jobs.items() for job in last]
        words: list[Any] = [self.field, self.as_json(state), int(is_new), json.dumps(jobs)]
        try:
            beat = float(self._link.run(_script(), (CRONS, JOBS, STAMPS), words))
            self._since = self._since or beat
            self._trouble = ""
        except RedisUnavailable:
            self._beat_at = 0.0  # again as soon as it can be reached
            raise
        except WerkError as error:  # wrong type, no permission: lines are enqueued anyway
            if str(error) != self._trouble:
                log.error(Event("not-published", reason=error))
            self._trouble = str(error)
        self._jobs.clear()
        self._is_changed = False

    def as_json(self, state: str) -> str:
        """Return the record; the script puts its `beat` in front, by Redis's clock.

        Leave out lines if there are too many, or if they are too long together.
        """
        from werk.ops.crontab import zone_name

        zones = {id(line.zone): zone_name(line.zone) for line in self.lines}
        rows, left = [], LONGEST - 1000  # for the facts beside the lines
        for line in self.lines[:MOST_LINES]:
            row = json.dumps(self._line(line, zones[id(line.zone)]))
            left -= len(row) + 1
            if left > 0:
                rows.append(row)
        facts = {"state": state, "since": self._since, "left_out": len(self.lines) - len(rows)}
        return f'{json.dumps(facts)[:-1]}, "lines": [{",".join(rows)}]}}'

    def _line(self, line: Line, zone: str) -> dict[str, object]:
        return {
            "number": line.number,
            "when": line.when,
            "zone": zone,
            "call": line.call,
            "task": line.task,
            "done": round(self._done.get(line.number, 0.0), 3),
            "error": printable(self._errors.get(line.number, ""))[:500],
        }


@cache
def _script() -> Script:
    """Return cron_beat.lua with names for its arguments."""
    names = named(["FIELD", "RECORD", "IS_NEW", "TICKS"])
    text = Script.named("cron_beat").text
    return Script("\n".join((names, f"local MOST_JOBS = {MOST_JOBS}", text)))
