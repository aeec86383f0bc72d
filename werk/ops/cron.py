"""Crontab lines -> enqueues: each tick once, however many processes run the same crontab.

Wait for the next tick of any line, and enqueue it under a name that all processes share: its UTC
time. The time is Redis's, so a host whose clock is wrong enqueues nothing early or late. crontab.py
reads the lines, cron_record.py publishes that they are run.
"""

from __future__ import annotations

import logging
import signal
import time
from collections.abc import Callable, Sequence
from functools import partial
from math import inf
from typing import NoReturn

from werk import registry
from werk.client import enqueue as client
from werk.client.options import Options
from werk.errors import ArgumentError, RedisUnavailable, WerkError, described, is_a
from werk.insistence import insisting
from werk.log_format import Event, log_to_stderr
from werk.ops import crontab
from werk.ops.cron_record import STAMPS, CronRecord
from werk.ops.crontab import Line, utc
from werk.ops.queues import clock as redis_clock
from werk.store.connection import Link
from werk.store.limits import MONTH_S
from werk.store.outage import Outage
from werk.store.startup import wait_for_answer

SHORTEST_CATCH_UP_S = 60  # so that a busy machine or a short outage of Redis loses no tick
LONGEST_CATCH_UP_S = 47 * 3600  # a slot is kept for 48 h, and clocks differ
LONGEST_PAUSE_S = 20.0  # to send heartbeats, and to notice that the clock was set
SET_BACK_S = 5.0  # a smaller step back changes nothing
RETRY_S = 1.0
AGAIN_S = 4  # longer than a cron needs to write that it was stopped

log = logging.getLogger("werk.cron")


def end_at_sigterm() -> None:
    """End this process with 0 at SIGTERM. Any moment will do: a tick is enqueued, or is not."""
    signal.signal(signal.SIGTERM, insisting(SystemExit(0), AGAIN_S))


def read_lines(path: str, link: Link) -> list[Line]:
    """Return the lines of a crontab. Wait for Redis if a task has to be looked up there.

    Raises ArgumentError and ConfigError as crontab.read().
    """
    registry.tasks()  # the module of a table may set up logging, and then log_to_stderr does not
    log_to_stderr()
    return wait_for_answer(partial(crontab.read, path, link), log)


def run(
    path: str,
    lines: Sequence[Line],
    link: Link,
    catch_up_s: float,
    *,
    clock: Callable[[], float] | None = None,
    pause: Callable[[float], None] = time.sleep,
) -> NoReturn:
    """Enqueue the lines at their times, without end. Continue after an outage of Redis.

    `path` is the crontab's; `clock` is Redis's by default. Raises ArgumentError, and ConfigError if
    Redis refuses the first command.
    """
    if not SHORTEST_CATCH_UP_S <= catch_up_s <= LONGEST_CATCH_UP_S:
        raise ArgumentError(f"--catch-up: got {catch_up_s:g} s; use 60s to 47h")
    record = CronRecord(path, lines, link, clock or time.time)
    clock, begun = clock or partial(redis_clock, link), time.monotonic()
    log_to_stderr()
    log.info(Event("begins", redis=link.where, lines=len(lines)))
    try:
        now = wait_for_answer(clock, log, pause=pause)
        cron = Cron(lines, link, catch_up_s, now - (time.monotonic() - begun), record)
        wait_for_answer(cron.read_stamps, log, pause=pause)
        _loop(cron, clock, pause)
    except (SystemExit, KeyboardInterrupt):
        record.stop()
        raise


def _loop(cron: Cron, clock: Callable[[], float], pause: Callable[[float], None]) -> NoReturn:
    outage = Outage(log, "not-enqueued", "goes-on")
    while True:
        try:
            now = clock()
            cron.fire(now)
            left = cron.next_tick(now) - clock()
        except WerkError as error:
            outage.note(error, retry=f"in {RETRY_S:g} s")
            cron.beat_anyway()
            pause(RETRY_S)
            continue
        outage.end()
        pause(max(0.0, min(LONGEST_PAUSE_S, left)))


class Cron:
    """Lines, and up to when the ticks of each have been enqueued. Times are Unix seconds.

    Redis keeps the same as one stamp per line. From it a process that starts knows which ticks were
    missed while no process was running, and that a new line has missed nothing.
    """

    def __init__(
        self,
        lines: Sequence[Line],
        link: Link,
        catch_up_s: float,
        started: float,
        record: CronRecord | None = None,
    ) -> None:
        """Begin with the ticks after `started`."""
        self.lines, self.catch_up_s, self.record = lines, catch_up_s, record
        self._link = link
        self._latest = started  # the time of the last call of fire()
        self._done = {line.number: started for line in lines}
        self._skipped: dict[int, tuple[float, float]] = {}  # _done before and after it was too old
        self._due: dict[int, float] = {}  # the first tick after _done; looking for it takes 0.3 ms
        self._has_stamps = not lines

    def next_tick(self, now: float) -> float:
        """Return when the next tick of any line is, or `now` plus the longest pause."""
        return min(map(self._next, self.lines), default=now + LONGEST_PAUSE_S)

    def fire(self, now: float) -> None:
        """Enqueue each tick up to `now` that is not enqueued yet and not too old.

        Raises WerkError; the next call tries again what could not be enqueued.
        """
        if not self._has_stamps:
            self.read_stamps()
        if now < self._latest - SET_BACK_S:
            self._go_back(now)
        self._latest = now
        trouble: WerkError | None = None
        for line in self.lines:
            try:
                self._fire(line, now)
            except RedisUnavailable:
                raise
            except Exception as error:  # concerns this line alone, such as a key of the wrong type
                trouble = error if is_a(error, WerkError) else WerkError(described(error))
                if self.record:
                    self.record.fail(line, str(trouble))
        self._write_stamps(now)
        if self.record:
            self.record.beat(self._done)
        if trouble:
            raise trouble

    def beat_anyway(self) -> None:
        """Have the record say that this process runs, though Redis takes no jobs."""
        if self.record:
            self.record.beat_anyway(self._done)

    def _next(self, line: Line) -> float:
        if line.number not in self._due:
            tick = next(line.ticks(self._done[line.number]), None)
            self._due[line.number] = tick.timestamp() if tick else inf
        return self._due[line.number]

    def _fire(self, line: Line, now: float) -> None:
        done, oldest = self._done[line.number], now - self.catch_up_s
        if done < oldest:
            if missed := next(line.ticks(done, oldest), None):
                why = f"due more than {self.catch_up_s:g} s ago (--catch-up)"
                why += "; later ticks may be missed too"
                log.warning(Event("missed", **line.facts(missed), reason=why))
                if self.record:
                    self.record.fail(line, f"{utc(missed)} was missed")
            self._skipped[line.number] = done, oldest
            self._move(line, oldest)
        if self._next(line) <= now:
            self._enqueue(line, now)
        if now > self._done[line.number]:
            self._done[line.number] = now

    def _enqueue(self, line: Line, now: float) -> None:
        for tick in line.ticks(self._done[line.number], now):
            entry = client.find(line.task, self._link)  # each time: workers may have changed
            options = Options(slot=utc(tick))
            request = client.prepare(entry, line.args, line.kwargs, options)
            [handle] = client.deliver([request], self._link)
            self._move(line, tick.timestamp())
            if self.record:
                self.record.add(line, utc(tick), handle.id)
                self.record.beat(self._done, only_if_due=True)  # there may be many to catch up on
            if not handle.duplicate:
                log.info(Event("enqueued", **line.facts(tick), job=handle.id))
                for warning in handle.warnings:
                    log.warning(Event("warned", **line.facts(tick), reason=warning))

    def _go_back(self, now: float) -> None:
        """Follow a clock that was set back: no tick would be enqueued until it is that late again.

        Ticks that were skipped although they are yet to come, or have just passed, are not too old.
        A tick that was enqueued before is a duplicate: its slot is kept for 48 h.
        """
        why = f"Redis's clock was set back by {self._latest - now:.0f} s"
        log.warning(Event("clock-set-back", reason=why))
        for line in self.lines:
            if self._done[line.number] > now:
                before, after = self._skipped.pop(line.number, (now, now))
                self._move(line, before if before <= now < after else now)
                if self.record:
                    self.record.clear(line)

    def _move(self, line: Line, done: float) -> None:
        self._done[line.number] = done
        self._due.pop(line.number, None)

    def read_stamps(self) -> None:
        """Read how far the cron processes before this one came. Raises WerkError."""
        if not self.lines:
            return
        names = [name for line in self.lines for name in line.stamps]
        stamps = iter(self._link.call("ZMSCORE", STAMPS, *names))
        for line, stamp, old in zip(self.lines, stamps, stamps, strict=True):
            if (found := old if stamp is None else stamp) is not None:
                self._move(line, min(float(found), self._done[line.number]))
        self._has_stamps = True

    def _write_stamps(self, now: float) -> None:
        if not self.lines:
            return
        words = [word for line in self.lines for word in (self._done[line.number], line.stamps[0])]
        forget = ("ZREMRANGEBYSCORE", STAMPS, "-inf", now - MONTH_S)
        self._link.calls([("ZADD", STAMPS, *words), forget])
