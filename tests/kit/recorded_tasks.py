"""The tasks that the tests of werk.testing record and run."""

from __future__ import annotations

import asyncio
import sys
from datetime import date
from enum import Enum
from typing import Any, Literal

from rq import get_current_job

import werk
from werk import Task

calls: list[Any] = []  # what note() was called with


class Colour(Enum):
    RED = "red"


def note(value: Any = None) -> Any:
    calls.append(value)
    return value


def typed(
    count: int, /, when: date | None = None, *more: float, colour: Colour = Colour.RED, size: str
) -> str:
    return f"{count} {when} {more} {colour} {size}"


def loose(*args: Any, mode: Literal["a", "b"] = "a", **named: Any) -> Any:
    return [args, mode, named]


def login(user: str, password: str = "") -> str:
    return f"{user} {password}"


def change(values: list[int]) -> int:
    values.append(0)
    return len(values)


def fail(text: str) -> None:
    raise ValueError(text)


def leave() -> None:
    sys.exit(3)


def unplain() -> object:
    return object()


async def wait(value: int) -> int:
    await asyncio.sleep(0)
    return werk.enqueue("note", value) and value


async def cancels() -> None:
    raise asyncio.CancelledError


def parent(count: int) -> str:
    return werk.enqueue("note" if count == 0 else "parent", count - 1).id


def again() -> None:
    werk.enqueue("again")


def tomorrow() -> None:
    werk.enqueue("tomorrow", options=werk.Options(delay=24 * 3600))


def who_am_i(is_saved: bool = False) -> list[Any]:
    job = get_current_job()
    if is_saved:
        job.save_meta()
    return [job.id, job.origin, job.args, job.meta, job.timeout]


TASKS = {
    own.__name__: f"recorded_tasks.{own.__name__}"
    for own in (note, typed, loose, change, fail, leave, unplain, wait, cancels, parent, again)
} | {
    "login": Task("recorded_tasks.login", secret=("password",)),
    "flaky": Task("recorded_tasks.fail", retry=2, queue="low"),
    "forgotten": Task("recorded_tasks.note", result_ttl=0),
    "tomorrow": "recorded_tasks.tomorrow",
    "who_am_i": Task("recorded_tasks.who_am_i", timeout=7),
    "elsewhere": "somewhere.else.entirely",
}
