"""Enqueue and wait from asyncio: `await werk.aio.enqueue("sleep", 1)`.

The calls of client/ run in a few threads of our own, so that neither the event loop nor the
application's executor waits for Redis. The threads also import client/, at the first call.
"""

from __future__ import annotations

import asyncio
import os
import random
import time
import warnings
from collections.abc import Callable, Iterable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextvars import copy_context
from functools import partial
from math import ceil
from operator import length_hint
from typing import TYPE_CHECKING, Any, TypeVar
from weakref import WeakKeyDictionary

from werk.errors import RedisUnavailable, WerkWarning

if TYPE_CHECKING:
    from redis import Redis

    from werk.client.options import Options
    from werk.client.result import Handle, Status, Waiting
    from werk.duration import Duration
    from werk.store.connection import Link

__all__ = ["enqueue", "enqueue_many", "result", "status"]

THREADS = 8
IN_FLIGHT = 4 * THREADS  # calls of one event loop that run or wait for a thread
SHORTEST_S, LONGEST_S = 0.005, 0.5  # between two polls for a result
LATENESS = 0.1  # the pause between two polls is a tenth of the time waited so far
MOST_LOOKS = 500  # polls for results, per second

T = TypeVar("T")


async def enqueue(
    name: str | Callable[..., object],
    /,
    *args: object,
    options: Options | None = None,
    connection: Redis | None = None,
    **kwargs: object,
) -> Handle:
    """Enqueue a task by its name, as werk.enqueue() does, without blocking the event loop.

    The time budget begins with the call. If the awaiting task is cancelled, a request that has
    begun continues. Raises the errors of werk.enqueue().
    """

    def call() -> Handle:
        from werk.client.enqueue import submit

        return submit(name, args, kwargs, options, connection)

    handle = await _in_thread(call, connection)
    _warn([handle])
    return handle


async def enqueue_many(
    name: str | Callable[..., object],
    calls: Sequence[Sequence[object] | Mapping[str, object]],
    *,
    options: Options | None = None,
    connection: Redis | None = None,
) -> list[Handle]:
    """Enqueue a task once for each call, as werk.enqueue_many() does.

    There is one time budget for each 250 jobs; it begins after a generator of calls has ended.
    Raises the errors of werk.enqueue().
    """
    if isinstance(calls, Iterable) and not isinstance(calls, (list, tuple, str, bytes, Mapping)):
        calls = await _run(partial(list, calls))

    def call() -> list[Handle]:
        from werk.client.enqueue import submit_many

        return submit_many(name, calls, options, connection)

    handles = await _in_thread(call, connection, jobs=length_hint(calls))
    _warn(handles)
    return handles


async def result(
    job_id: str | Handle[Any],
    timeout: Duration | None = None,
    *,
    connection: Redis | None = None,
) -> Any:
    """Wait for a job's result and return it. `timeout`: 90 (in seconds), "5m"; None: no limit.

    No thread is held between two polls, so any number of results can be awaited at once.
    Raises the errors of werk.result().
    """
    global _waits
    begin, connection = time.monotonic(), connection or _own(job_id)

    def begun() -> tuple[Waiting, float]:
        from werk.client.result import Waiting, limit_of, named

        return Waiting(*named(job_id, connection)), limit_of(timeout)

    def unasked(error: RedisUnavailable) -> None:
        if not waiting.seen and time.monotonic() >= begin + limit_s:
            raise error  # nothing is known of the job

    def timed_out() -> Exception:
        return waiting.timed_out(limit_s)

    waiting, limit_s = await _run(begun)
    _waits += 1
    try:
        await _first_pause(begin + limit_s)
        while not (ended := await _in_thread(waiting.look, connection, too_late=unasked)):
            if not await _has_paused(begin, limit_s):
                raise await _in_thread(timed_out, connection, too_late=lambda _: timed_out())
    finally:
        _waits -= 1
    return ended[0]


async def _first_pause(deadline: float) -> None:
    """Sleep until a wait may look for the first time: once before its deadline, at the latest."""
    left_s = max(0.0, deadline - time.monotonic())
    turn_s = _turn() if left_s else 0.0
    await asyncio.sleep(turn_s if turn_s <= left_s else random.uniform(0, left_s))


async def _has_paused(begin: float, limit_s: float) -> bool:
    """Sleep until a wait may look again. Return False if its time is over.

    The last look comes at the deadline, or soon after it if many waits end together.
    """
    elapsed = time.monotonic() - begin
    if elapsed >= limit_s:
        return False
    pause_s = max(SHORTEST_S, min(LONGEST_S, elapsed * LATENESS))
    pause_s *= random.uniform(0.8, 1.0)  # processes that began together must not poll together
    await asyncio.sleep(min(pause_s, limit_s - elapsed))
    left_s, turn_s = begin + limit_s - time.monotonic(), _turn()
    is_too_late = turn_s > left_s + min(LONGEST_S, limit_s * LATENESS)
    await asyncio.sleep(left_s if is_too_late else turn_s)
    return not is_too_late


def _turn() -> float:
    """Return in how many seconds a wait may look: at most 500 do in a second."""
    global _next_look
    now = time.monotonic()
    # Waits that were cancelled leave turns that nobody needs.
    look = max(now, min(_next_look, now + _waits / MOST_LOOKS))
    _next_look = look + 1 / MOST_LOOKS
    return look - now


async def status(job_id: str | Handle[Any], *, connection: Redis | None = None) -> Status:
    """Return RQ's status of a job, as werk.status() does. Raises its errors."""
    connection = connection or _own(job_id)

    def call() -> Status:
        from werk.client.result import status

        return status(job_id, connection=connection)

    return await _in_thread(call, connection)


def _own(job: object) -> Redis | None:
    """Return the connection of a handle, without importing its class."""
    return getattr(job, "connection", None)


def _refuse(error: RedisUnavailable) -> Any:
    raise error


async def _in_thread(
    call: Callable[[], T],
    connection: Redis | None,
    jobs: int = 1,
    too_late: Callable[[RedisUnavailable], T] = _refuse,
) -> T:
    """Return what `call` returns in one of our threads, in the context of the awaiting task.

    `call` has one time budget for each request with jobs, from now on. If the first budget is used
    up before a thread is free, `too_late` is called instead; its requests would fail.
    """
    called = time.monotonic()

    def in_time() -> T:
        from werk.client.enqueue import CHUNK
        from werk.client.links import link_of

        link, waited = link_of(connection), time.monotonic() - called
        is_late = waited >= link.budget_s
        link.not_after = called + link.budget_s * (1 if is_late else max(1, ceil(jobs / CHUNK)))
        try:
            return too_late(_no_thread(link, waited)) if is_late else call()
        finally:
            link.not_after = float("inf")

    return await _run(in_time)


async def _run(call: Callable[[], T]) -> T:
    """Return what `call` returns in one of our threads, whenever one is free."""
    loop = asyncio.get_running_loop()
    turns = _turns.setdefault(loop, _Turns(IN_FLIGHT))
    turns.users += 1
    try:
        async with turns:
            return await loop.run_in_executor(_threads, copy_context().run, call)
    finally:
        turns.users -= 1
        if not turns.users:
            _turns.pop(loop, None)


def _no_thread(link: Link, waited: float) -> RedisUnavailable:
    return RedisUnavailable(
        f"Redis at {link.where} was not asked: the call waited {waited:.1f} s for one of"
        f" {THREADS} threads, and its time budget is {link.budget_s:g} s; is Redis slow,"
        " or are there too many calls at the same time?"
    )


class _Turns(asyncio.Semaphore):
    """The turns of one event loop. They refer to the loop, so they last only while in use."""

    users = 0  # calls that have a turn or wait for one


def _warn(handles: Sequence[Handle]) -> None:
    """Issue the warnings here, where the line that awaits is known, and not in a thread."""
    for text in dict.fromkeys(text for handle in handles for text in handle.warnings):
        warnings.warn(text, WerkWarning, stacklevel=3)


def _begin() -> None:
    """Make the executor. Its threads start when they are needed; a fork does not inherit them."""
    global _threads, _turns, _waits, _next_look
    _threads, _turns = ThreadPoolExecutor(THREADS, "werk.aio"), WeakKeyDictionary()
    _waits, _next_look = 0, 0.0


_threads: ThreadPoolExecutor
_turns: WeakKeyDictionary[asyncio.AbstractEventLoop, _Turns]
_waits = 0  # results that are being awaited
_next_look = 0.0  # when the next of them may look, by time.monotonic()
_begin()
os.register_at_fork(after_in_child=_begin)
