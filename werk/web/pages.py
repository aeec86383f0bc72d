"""The pages for people on call. page_actions.py has the actions of their buttons.

A page reads a bounded number of jobs. A script on the page requests the parts that need all jobs.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Any, NamedTuple

from flask import Response, jsonify, render_template, request

from werk.errors import ArgumentError, RedisUnavailable
from werk.ops import bulk, cron_health, failure_counts, histograms, job_record, jobs, task_list
from werk.ops.checks import problems
from werk.ops.histograms import TOOK, WAITED
from werk.ops.job_places import STATES, Pace
from werk.ops.job_record import LONGEST_IN_ROW
from werk.ops.numbers import age
from werk.ops.queues import clock, queue_names
from werk.ops.snapshot import Snapshot
from werk.settings import Settings
from werk.store.connection import Link, link
from werk.store.keys import ATTEMPT
from werk.web import filters
from werk.web.rates import Rate, Rates

MOST_ROWS = 100
LOOK_S = 0.7  # how long a page looks for the jobs that match
COUNT_S = 5.0  # how long matching jobs are counted before an action
HOURS = {1: "1 hour", 24: "24 hours", 168: "7 days"}
_LONG = threading.BoundedSemaphore(4)  # requests that may read or change any number of jobs


class Running(NamedTuple):
    """A job that a worker runs."""

    id: str
    call: str
    queue: str
    seconds: float | None
    worker: str
    attempt: str


class Pages(threading.local):  # so that each thread has its own link
    """The views, by the names of their endpoints."""

    def __init__(self, settings: Settings, read_only: bool, rates: Rates) -> None:
        self.link, self.read_only, self.rates = link(settings), read_only, rates

    def overview(self) -> str:
        """Show what is wrong, queues, running jobs, and the failures of the last day."""
        snapshot = Snapshot.read(self.link)
        rates = self.rates.note(snapshot.time, snapshot.counters)
        return self._page(
            "overview",
            where=f"{snapshot.server.version} at {self.link.where}",
            now=snapshot.time,
            snapshot=snapshot,
            problems=problems(snapshot),
            queues=[(own, rates.get(own.name, Rate())) for own in snapshot.queues.values()],
            running=_running(self.link, snapshot),
            groups=failure_counts.read(self.link, 24)[:MOST_ROWS],
        )

    def failures(self) -> str:
        """Show what has failed in the last hours, by task and error."""
        hours = request.args.get("hours", "24")
        if hours not in map(str, HOURS):
            raise ArgumentError(f"hours: got {hours[:80]!r}; use 1, 24 or 168")
        groups = failure_counts.read(self.link, int(hours))
        return self._page(
            "failures",
            groups=groups[:MOST_ROWS],
            more=len(groups) - MOST_ROWS,
            jobs=sum(group.jobs for group in groups),
            hours=int(hours),
            choices=HOURS,
        )

    def jobs(self) -> str:
        """Show the jobs that match the filters in the address."""
        fields = request.args.to_dict(flat=False)
        rows, is_whole, wrong, query = list[jobs.Row](), True, "", jobs.Query()
        try:
            query = filters.query(self.link, fields)
            rows, is_whole = _found(self.link, query)
        except ArgumentError as error:
            wrong = str(error)
        return self._page(
            "jobs",
            rows=rows[:MOST_ROWS],
            is_whole=is_whole and len(rows) <= MOST_ROWS,
            wrong=wrong,
            chosen=query.states,
            given=filters.given(fields),
            states=STATES,
            possible=[own for own in bulk.STATES if filters.states_for(own, query)],
            queues=queue_names(self.link),
        )

    def job_groups(self) -> str:
        """Show how many jobs match, by state and task: a part of the page of jobs."""
        with long_request():
            fields = request.args.to_dict(flat=False)
            groups = jobs.groups(self.link, filters.query(self.link, fields))
        return self._page("job_groups", groups=groups[:MOST_ROWS], given=filters.given(fields))

    def count(self, action: str) -> Response:
        """Return how many jobs an action would change, or a lower bound if there are many.

        And when: the page sends this time with the action, which leaves newer jobs alone.
        """
        with long_request():
            now = clock(self.link)
            query = filters.possible(self.link, action, request.args.to_dict(flat=False), now)
            count, is_whole = _count(self.link, query)
            return jsonify(count=count, is_whole=is_whole, counted_at=now)

    def tasks(self) -> str:
        """Show how often tasks ran and failed, how long they took, and which queues serve them."""
        notes: list[str] = []
        rows = task_list.survey(self.link, notes.append)
        figures = _figures(Snapshot.read(self.link).counters)
        return self._page("tasks", rows=rows, notes=notes, figures=figures)

    def cron(self) -> str:
        """Show the lines of every `werk cron`: their last and next ticks, and how jobs ended."""
        health = cron_health.read(self.link)
        return self._page("cron", health=health, now=health.time)

    def _page(self, name: str, **facts: Any) -> str:
        facts.setdefault("now", float(self.link.call("TIME")[0]))
        facts = {"where": self.link.where, "active_tab": name, "read_only": self.read_only} | facts
        return render_template(f"werk/{name}.html", **facts)


class Figures(NamedTuple):
    """What horses have counted for a task since the counters began; times in seconds."""

    runs: int = 0
    failed: int = 0
    mean_s: float | None = None
    p95_s: float | None = None
    wait_p95_s: float | None = None


class _TimeIsUp(Exception):
    """Raised when a page has looked for jobs for long enough."""


class _Brief(Pace):
    """Limits a search in time. Needs no pauses: mostly this process is busy, not Redis."""

    def __init__(self, link: Link, seconds: float) -> None:
        super().__init__(link)
        self.deadline = time.monotonic() + seconds

    def rest(self) -> None:
        if time.monotonic() > self.deadline:
            raise _TimeIsUp


def shown_seconds(seconds: float | None) -> str:
    """Return how long something took, with at most three digits; - if unknown."""
    if seconds is None:
        return "-"
    if seconds == float("inf"):
        return "> 1 h"
    if seconds >= 100:
        return age(seconds)
    if 1000 * seconds >= 999.5:  # which is 1 s when it is rounded
        return f"{max(1.0, seconds):.3g} s"
    return f"{1000 * seconds:.3g} ms" if seconds >= 0.001 else "< 1 ms"


@contextmanager
def long_request(places: threading.BoundedSemaphore = _LONG) -> Iterator[None]:
    """Limit how many threads read or change many jobs, or wait for one, at the same time."""
    if not places.acquire(blocking=False):
        raise RedisUnavailable("too many requests are already reading or changing jobs; try again")
    try:
        yield
    finally:
        places.release()


def _found(link: Link, query: jobs.Query) -> tuple[list[jobs.Row], bool]:
    """Return the first jobs that match, and whether these are all."""
    found: list[jobs.Row] = []
    try:
        for rows in jobs.walk(link, query, _Brief(link, LOOK_S)):
            found += rows
            if len(found) > MOST_ROWS:
                return found, False
    except _TimeIsUp:
        return found, False
    return found, True


def _count(link: Link, query: jobs.Query) -> tuple[int, bool]:
    """Return how many jobs were counted, and whether these are all that match."""
    count = 0
    try:
        for _ in jobs.each(link, query, _Brief(link, COUNT_S)):
            count += 1
    except _TimeIsUp:
        return count, False
    return count, True


def _running(link: Link, snapshot: Snapshot) -> list[Running]:
    """Return the jobs that have run for the longest time."""
    slots = [slot for own in snapshot.workers for slot in own.slots if slot.job]
    slots = sorted(slots, key=lambda slot: -(slot.job_s or 0))[:MOST_ROWS]
    found = job_record.read(link, [slot.job or "" for slot in slots], LONGEST_IN_ROW)
    return [
        Running(
            job.id,
            job.call() or "",
            job.text("origin") or "",
            slot.job_s,
            slot.name,
            job.text(ATTEMPT) or "",
        )
        for slot, job in zip(slots, found, strict=True)
    ]


def _figures(counters: Mapping[str, str]) -> dict[str, Figures]:
    """Return the figures by task."""
    took, waited = (histograms.counts_of(kind, counters) for kind in (TOOK, WAITED))
    found = {}
    ended = {task for task, mark, _ in (own.rpartition("|") for own in counters) if mark}
    for task in ended.union(task for _, task in took):  # a crash takes no time
        runs, waits = (
            histograms.added(counts for (_, own), counts in of.items() if own == task)
            for of in (took, waited)
        )
        failed = histograms.amount(counters, f"{task}|failed")
        total = failed + histograms.amount(counters, f"{task}|done")
        timed = histograms.runs(TOOK, runs)
        found[task] = Figures(
            int(total),
            int(failed),
            runs.get("seconds", 0.0) / timed if timed else None,
            histograms.quantile(TOOK, runs, 0.95),
            histograms.quantile(WAITED, waits, 0.95),
        )
    return found
