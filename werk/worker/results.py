"""The result of a task as it is stored, or the reason why it cannot be stored."""

from __future__ import annotations

from binascii import b2a_base64
from collections.abc import Callable

from rq.job import Retry

from werk.errors import ArgumentError
from werk.printable import storable
from werk.store import payload, plain
from werk.store.limits import ERROR_LENGTH
from werk.worker.causes import shown


def stored(dumps: Callable[[object], bytes], result: object) -> bytes | str | None:
    """Return a result as RQ stores it, or why it cannot be stored; None for a Retry."""
    if result is None:
        return b""
    if type(result) is Retry:
        return None
    try:
        return b2a_base64(dumps(result), newline=False)
    except Exception as error:
        return reason_of(error, result)


def limited(dumps: Callable[[object], bytes]) -> Callable[[object], bytes]:
    """Return a serializer's dumps() that raises ArgumentError for what is too large."""

    def limited_dumps(value: object) -> bytes:
        data = dumps(value)
        payload.check_size(len(data))
        return data

    return limited_dumps


def why_not_kept(dumps: Callable[[object], bytes], result: object) -> str:
    """Return why a result cannot be stored, and what to do; '' if it can be."""
    try:
        limited(dumps)(result)
    except Exception as error:
        return reason_of(error, result)
    return ""


def reason_of(error: BaseException, result: object) -> str:
    """Return the reason for an error that the serializer raised for a result."""
    if isinstance(error, ArgumentError):
        return storable(str(error)[: payload.LONGEST_REASON])
    what = f"the value is of type {plain.name_of(type(result))}, which cannot be stored"
    why = f"{what} ({shown(error)[:ERROR_LENGTH]}); use {plain.PLAIN}"
    return storable(why[: payload.LONGEST_REASON])
