"""Middleware that the tests name: around executions and around enqueues."""

from __future__ import annotations

import asyncio
import os
from collections.abc import Callable
from typing import Any

Next = Callable[[], Any]


def _line(*words: object) -> None:
    with open(os.environ["AROUND"], "a") as file:
        print(*words, file=file)


def outer(job: Any, call_next: Next) -> Any:
    _line("outer", job.id, job.task, job.attempt)
    try:
        result = call_next()
    except BaseException as error:
        _line("outer", type(error).__name__)
        raise
    _line("outer", repr(result))
    return result


def inner(job: Any, call_next: Next) -> Any:
    _line("inner", job.meta.get("own"))
    try:
        return call_next()
    finally:
        _line("inner ends")


def shouts(job: Any, call_next: Next) -> str:
    return str(call_next()).upper()


def forgets(subject: Any, call_next: Next) -> str:
    return "nothing was called"


def repeats(subject: Any, call_next: Next) -> Any:
    call_next()
    return call_next()


def repeats_quietly(subject: Any, call_next: Next) -> Any:
    call_next()
    return hides(subject, call_next)


def breaks(subject: Any, call_next: Next) -> Any:
    raise LookupError("no tenant")


def sleeps(job: Any, call_next: Next) -> Any:
    try:
        while True:
            asyncio.run(asyncio.sleep(60))
    except Exception:
        _line("interrupted")
        raise


async def is_async(subject: Any, call_next: Next) -> Any:
    return call_next()


NOT_A_FUNCTION = 1


# --- enqueues


def signs(request: Any, call_next: Next) -> Any:
    request.meta["own"] = f"{request.task} {request.queue}"
    return call_next()


def records(request: Any, call_next: Next) -> Any:
    handle = call_next()
    _line("sent", request.call, handle.id == request.job_id if handle else "later")
    return handle


def signs_some(request: Any, call_next: Next) -> Any:
    if "1" in request.call:
        request.meta["odd"] = True
    return call_next()


def hides(request: Any, call_next: Next) -> Any:
    try:
        return call_next()
    except BaseException:
        return None


def exits(request: Any, call_next: Next) -> Any:
    raise SystemExit(3)


def spoils(request: Any, call_next: Next) -> Any:
    request.meta["file"] = object()
    return call_next()


def refuses(request: Any, call_next: Next) -> Any:
    if "1" in request.call:
        raise ConnectionRefusedError(111, "Connection refused")  # as a socket does
    return call_next()


def loses(request: Any, call_next: Next) -> Any:
    call_next()
    raise ConnectionRefusedError(111, "Connection refused")
