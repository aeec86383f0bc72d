"""Middleware: functions of an application around each execution, or around each enqueue.

def execute(job, call_next):  # WERK_MIDDLEWARE, in workers
    with timer(job.task):
        return call_next()

def enqueue(request, call_next):  # WERK_ENQUEUE_MIDDLEWARE, in callers
    request.meta["user"] = current_user()
    return call_next()

def flush(timeout_s):  # next to execute: called before a horse exits, which runs no atexit
    exporter.flush(timeout_s)
"""

from __future__ import annotations

import inspect
import sys
from collections.abc import Callable, Sequence
from functools import cache
from importlib import import_module
from pkgutil import resolve_name
from traceback import walk_tb
from typing import Any, NamedTuple

from werk.errors import ConfigError, WerkError, described, is_a


class BrokenMiddleware(WerkError):
    """Raised when a middleware did not call `call_next` exactly once; it fails the job."""


class Middleware(NamedTuple):
    """A function that is called around others."""

    path: str
    call: Callable[[Any, Callable[[], Any]], Any]


@cache
def load(setting: str, paths: Sequence[str]) -> tuple[Middleware, ...]:
    """Return the functions that a setting names. Raises ConfigError."""
    return tuple(Middleware(path, _load(setting, path)) for path in paths)


def _load(setting: str, path: str) -> Callable[..., Any]:
    try:
        import_module(path.rpartition(".")[0] or path)
        function = resolve_name(path)
    except Exception as error:  # importing the module can raise anything
        raise ConfigError(f"{setting}: cannot import {path}: {described(error)}") from error
    if inspect.ismodule(function):
        raise ConfigError(f"{setting}: {path} is a module; name a function in it")
    if not callable(function):
        raise ConfigError(f"{setting}: {path} is not a function; write def f(subject, call_next)")
    if inspect.iscoroutinefunction(function):
        why = "is an async function; write def: call_next() also waits for async tasks"
        raise ConfigError(f"{setting}: {path} {why}")
    return function  # type: ignore[no-any-return]


def flushes(chain: Sequence[Middleware]) -> list[Callable[[float], object]]:
    """Return the functions `flush(timeout_s)` of the modules that middleware comes from."""
    modules = dict.fromkeys(path.rpartition(".")[0] for path, _ in chain)
    found = (getattr(sys.modules.get(name), "flush", None) for name in modules)
    return [flush for flush in found if callable(flush)]


def raiser(error: BaseException) -> str:
    """Return the path of the middleware that raised an error; "" if call_next() raised it."""
    calls = [f for f, _ in walk_tb(error.__traceback__) if f.f_code is through.__code__]
    return calls[-1].f_locals.get("path", "") if calls else ""


def through(
    chain: Sequence[Middleware],
    subject: object,
    innermost: Callable[[], Any],
    may_hide: Callable[[], bool] = lambda: True,
) -> Any:
    """Call a function through middleware, outermost first. Return what the outermost returned.

    If a middleware hides an error of call_next(), it is raised all the same if it is
    BrokenMiddleware, or unless `may_hide()`. Raises BrokenMiddleware, and what the functions raise.
    """
    if not chain:
        return innermost()
    (path, function), rest, calls = chain[0], chain[1:], 0
    kept: BaseException | None = None

    def call_next() -> Any:
        nonlocal calls, kept
        calls += 1
        try:
            if calls > 1:
                raise BrokenMiddleware(f"{path} called call_next() a second time; call it once")
            return through(rest, subject, innermost, may_hide)
        except BaseException as error:
            if is_a(error, BrokenMiddleware) or not may_hide():
                kept = error
            raise

    result = function(subject, call_next)
    if not calls:
        raise BrokenMiddleware(f"{path} did not call call_next(); call it once, or raise an error")
    if kept is not None:
        raise kept
    return result
