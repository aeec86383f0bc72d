"""Enqueue a task once for each line of a file, for `werk-enqueue --batch`.

A line is a JSON array of arguments, or an object of named ones. Lines are read, checked, sent and
told of in pieces, so that there may be any number of them.
"""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Callable, Iterable, Iterator
from itertools import islice
from typing import NamedTuple

from werk import wire
from werk.client import CHUNK, Handle, Request, send
from werk.errors import ArgumentError, ResultTimeout
from werk.link import Link

ENDED = frozenset(("finished", "failed", "stopped", "canceled", "gone"))
POLL_S = 0.1
POLLED = 1000  # jobs asked for in one round trip


class Line(NamedTuple):
    """A line that is not empty, and what became of it."""

    number: int  # from 1
    request: Request | None = None
    problem: str = ""  # why there is no request
    handle: Handle | None = None


Prepare = Callable[[str, float], Request]  # of a line and the time


def check(lines: Iterable[bytes], prepare: Prepare) -> Iterator[list[Line]]:
    """Yield what lines ask for, in pieces, each of requests that were made at one time."""
    numbered = enumerate(lines, 1)
    while piece := list(islice(numbered, CHUNK)):
        now = time.time()
        yield [_checked(number, line, prepare, now) for number, line in piece if line.strip()]


def enqueue(lines: Iterable[bytes], prepare: Prepare, link: Link) -> Iterator[list[Line]]:
    """Enqueue what lines ask for; yield them with their handles, piece after piece.

    Bad lines are left out, with the problem. Raises RedisUnavailable, ConfigError.
    """
    for piece in check(lines, prepare):
        requests = [line.request for line in piece if line.request]
        handles = iter(send(requests, link) if requests else ())
        yield [line._replace(handle=next(handles)) if line.request else line for line in piece]


def wait(
    ids: Iterable[str], link: Link, timeout_s: float | None, progress: Callable[[int], object]
) -> Counter[str]:
    """Wait until jobs have ended; return how many ended how. 'gone': nothing is left of them.

    `progress` is told how many have ended.
    Raises ResultTimeout.
    """
    left, ended = list(dict.fromkeys(ids)), Counter[str]()
    begun = time.monotonic()
    while True:
        looked = time.monotonic()
        states = dict(zip(left, _states(left, link), strict=True))
        ended.update(state for state in states.values() if state in ENDED)
        left = [job_id for job_id, state in states.items() if state not in ENDED]
        progress(ended.total())
        if not left:
            return ended
        now = time.monotonic()
        if timeout_s is not None and now - begun >= timeout_s:
            raise ResultTimeout(f"{len(left):,} jobs have not ended in {timeout_s:g} s; they go on")
        time.sleep(max(POLL_S, now - looked))  # many jobs: Redis has other things to do as well


def _checked(number: int, line: bytes, prepare: Prepare, now: float) -> Line:
    try:
        return Line(number, prepare(line.strip().decode(), now))
    except UnicodeDecodeError:
        return Line(number, problem="not valid UTF-8")
    except ArgumentError as error:
        return Line(number, problem=str(error))


def _states(ids: list[str], link: Link) -> Iterator[str]:
    for start in range(0, len(ids), POLLED):
        keys = [wire.key("job", job_id) for job_id in ids[start : start + POLLED]]
        for state in link.calls([("HGET", key, "status") for key in keys]):
            yield "gone" if state is None else state.decode("utf-8", "replace")
