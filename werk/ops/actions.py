"""What an operator does to jobs, queues and workers: retry, stop, cancel, pause, drain, ...

act.lua does each action completely or not at all. Jobs are read in pages, so that a hundred
thousand take no more memory than a few. Nothing in them is unpickled.
"""

from __future__ import annotations

import json
import time
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from functools import cache, partial
from itertools import islice, takewhile
from uuid import uuid4

from werk.errors import NoSuchJob, RedisUnavailable, ResultTimeout, WerkError
from werk.ops.job_places import Pace
from werk.ops.queues import ask
from werk.ops.snapshot import Snapshot
from werk.printable import shell_words
from werk.store import keys
from werk.store.connection import Link
from werk.store.scripts import Script, named, rest, script

PAGE = 200  # jobs in one round trip
POLL_S = 0.02
# PUBLISH counts the listeners of one server; after a failover a worker may listen to a replica.
UNHEARD_S = 2.0
# The statuses of the jobs that an action changes, unless it cannot take them from their place.
APPLIES_TO = {
    "retry": ("failed", "stopped"),
    "cancel": (*"created queued scheduled deferred rate_limited ready_to_enqueue".split(),),
}
OF_JOBS = ("retry", "cancel", "delete", "discard")  # actions whose names are the ids of jobs
WAITING = ("queued", "scheduled", "deferred")  # RQ's words for the status of a job that will run
POLL_WORKERS_S = 0.1  # a snapshot is more work for Redis


@cache
def act_script() -> Script:
    """Return act.lua with names for its arguments."""
    names = ("ACTION", "REQUEST", "NOW_TEXT", "WINDOW")
    prelude = (named(names), rest("NAMES", len(names) + 1))
    return script("act", prelude="\n".join(prelude))


def act(
    link: Link, action: str, names: Iterable[str], window: str = ""
) -> Iterator[tuple[str, str]]:
    """Do what act.lua calls `action` to each name, a page at a time; yield name and outcome."""
    left = iter(names)
    while page := list(islice(left, PAGE)):
        words = (action, uuid4().hex, keys.clock()[2], window, *page)
        with _unsure(link, _where(action, page)):
            outcomes = link.run(act_script(), (), words)
        yield from zip(page, map(keys.text, outcomes), strict=True)


def stuck(action: str, outcome: str) -> str:
    """Return why an action was not done to a job whose status it applies to; '' for any other."""
    if outcome not in APPLIES_TO.get(action, ()):
        return ""
    return f"{outcome}, but a worker is taking it, or a key has another type; see werk status"


def _where(action: str, names: Sequence[str]) -> str:
    """Return the command that shows what an action has done; '' if it changes nothing."""
    if action in ("probe", "is_dead", "untidy"):
        return ""
    if action not in OF_JOBS:
        return "werk status"
    return _show(names[0]) if len(names) == 1 else "werk jobs"


@contextmanager
def _unsure(link: Link, look: str, *, is_asked: bool = False) -> Iterator[None]:
    """Say so in an error if what was asked may be done, or will be. Raises RedisUnavailable."""
    link.has_lost_reply = False
    try:
        yield
    except RedisUnavailable as error:
        if look and (is_asked or link.has_lost_reply):
            error.args = (f"{error}; this may be done all the same: {look}",)
        raise


def empty(link: Link, kind: str, queue: str) -> int:
    """Delete the jobs in a place of a queue: 'queue', 'failed', ..., RQ's word in the key.

    Return how many entries were deleted: at most as many as the place has now, so that this ends
    while jobs keep coming.
    """
    size = ask(link, "LLEN" if kind == "queue" else "ZCARD", keys.key(kind, queue)) or 0
    pieces = (f"{min(PAGE, size - start)} {kind}:{queue}" for start in range(0, size, PAGE))
    return sum(takewhile(bool, _in_pieces(link, "empty", pieces)))  # 0: nothing is left


def compact(link: Link, queue: str) -> int:
    """Take the ids of jobs that were deleted or have expired out of a queue; return how many."""
    starts = range(0, ask(link, "LLEN", keys.key("queue", queue)) or 0, PAGE)
    pieces = (f"{start} {start + PAGE - 1} {queue}" for start in reversed(starts))
    return sum(_in_pieces(link, "compact", pieces))


def _in_pieces(link: Link, action: str, pieces: Iterable[str]) -> Iterator[int]:
    """Do an action piece by piece, with pauses; yield the number that act.lua replies to each."""
    pace = Pace(link)
    for piece in pieces:
        outcomes: dict[str, str] = pace.spend(partial(dict, act(link, action, [piece])))
        yield int(outcomes[piece])
        pace.rest()


def stop(link: Link, job_id: str, timeout_s: float) -> str:
    """Stop a running job; return the worker that ran it.

    If another worker takes the job meanwhile, this worker is asked as well. Raises NoSuchJob,
    ResultTimeout, WerkError if it is not running, has ended otherwise, or no worker is listening.
    """
    status, worker = _state(link, job_id)
    if not status:
        raise NoSuchJob(f"no job {job_id}: never enqueued here, or expired")
    if status != "started" or not worker:
        raise WerkError(f"job {job_id} is {status}, and runs on no worker; {_look(job_id)}")
    end, asked, is_heard, limit = time.monotonic() + timeout_s, "", False, 0.0
    while status == "started":
        if worker not in ("", asked):
            asked, is_heard = worker, _ask_to_stop(link, worker, job_id)
            limit = end if is_heard else min(end, time.monotonic() + UNHEARD_S)
        if time.monotonic() > limit and is_heard:
            late = f"worker {asked} has not stopped job {job_id} within {timeout_s:g} s"
            raise ResultTimeout(f"{late}; {_look(job_id)}")
        if time.monotonic() > limit:
            raise WerkError(
                f"worker {asked}, which runs job {job_id}, is not listening; see werk status"
            )
        time.sleep(POLL_S)
        with _unsure(link, _show(job_id), is_asked=is_heard):
            status, worker = _state(link, job_id)
    if status != "stopped":
        raise _not_stopped(job_id, asked, status)
    return asked


def _look(job_id: str) -> str:
    return f"see {_show(job_id)}"


def _show(job_id: str) -> str:
    return f"werk show {shell_words(job_id)}"


def _state(link: Link, job_id: str) -> tuple[str, str]:
    """Return the status of a job, '' if it has no record, and the worker that runs it."""
    found = link.call("HMGET", keys.key("job", job_id), "status", "worker_name")
    status, worker = map(keys.text, found)
    return status, worker


def _ask_to_stop(link: Link, worker: str, job_id: str) -> bool:
    """Ask a worker to stop a job; return whether any process has heard it."""
    command = json.dumps({"command": "stop-job", "job_id": job_id})  # as rq/command.py
    with _unsure(link, _show(job_id)):
        return bool(link.call("PUBLISH", keys.key("pubsub", worker), command))


def _not_stopped(job_id: str, worker: str, status: str) -> WerkError:
    """Return the error for a job that no longer runs, although nobody has stopped it."""
    what = f"worker {worker} has not stopped job {job_id}"
    if not status:
        return NoSuchJob(f"{what}: it has ended, and its record was deleted or has expired")
    if status in WAITING:
        return WerkError(
            f"{what}: it is {status} again; cancel it with: werk cancel {shell_words(job_id)}"
        )
    return WerkError(f"{what}: it is {status}; {_look(job_id)}")


def live_names(link: Link) -> Iterator[str]:
    """Yield the names of all live workers, and of their slots."""
    return (name for name, is_live in _records(link) if is_live)


def _records(link: Link) -> Iterator[tuple[str, bool]]:
    """Yield the name of each worker and slot with a record, and whether it is live.

    A dead worker keeps its record; it is left out if this host shows that its process has exited.
    """
    for worker in Snapshot.read(link).workers:
        if worker.is_live or not worker.has_exited:
            yield worker.name, worker.is_live
            yield from ((slot.name, slot.is_live) for slot in worker.slots)


def wait_for_exit(link: Link, names: Iterable[str], timeout_s: float | None) -> None:
    """Wait until these workers and slots have exited.

    Raises ResultTimeout, WerkError if those that are left are stale: nobody knows if they run.
    """
    left, deadline = set(names), time.monotonic() + (timeout_s or 0)
    while found := {name: is_live for name, is_live in _records(link) if name in left}:
        left, listing = {*found}, ", ".join(sorted(found))
        if not any(found.values()):
            are = "is" if len(found) == 1 else "are"
            raise WerkError(f"{listing} {are} stale and may still run; see werk status")
        if timeout_s is not None and time.monotonic() > deadline:
            raise ResultTimeout(f"still running after {timeout_s:g} s: {listing}")
        time.sleep(POLL_WORKERS_S)
