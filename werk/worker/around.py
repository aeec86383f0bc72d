"""The middleware of workers (WERK_MIDDLEWARE): functions around each execution."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Sequence
from functools import partial
from typing import Any

from rq.job import Job

from werk import middleware, registry
from werk.errors import ArgumentError
from werk.middleware import Middleware
from werk.store.keys import text
from werk.tasks import signature
from werk.worker.claim import Call, Claim, Unknown
from werk.worker.rq_classes import set_call

CALLS = set()  # the code of what calls a task


def within(
    chain: Sequence[Middleware],
    function: Callable[..., Any],
    claim: Claim,
    task: str,
    path: Any,
    job: Job,
) -> Callable[..., Any]:
    """Return a function that calls the function of a task, at this path, through middleware.

    The job has what the middleware may ask for, so that nothing is read from Redis for it.
    """

    attempt = claim.facts()["attempt"]
    name = path if task == "-" and type(path) is str else task

    def call(*args: Any, **kwargs: Any) -> Any:
        about: Any = job
        about.task, about.attempt, about.origin = name, attempt, text(claim.origin)
        if type(path) is str:
            set_call(job, path, args, kwargs)
        innermost = partial(_call, function, claim, task, (path, args, kwargs))
        return middleware.through(chain, job, innermost)

    return call


def _call(function: Callable[..., Any], claim: Claim, task: str, call: Call) -> Any:
    """Call a function for middleware, which gets what an async task returned.

    Raises Unknown for a call that did not begin, because the job will be deferred and not fail.
    """
    try:
        result = function(*call[1], **call[2])
    except TypeError as error:
        if mismatch := version_mismatch(claim, task, error, call):
            raise mismatch from None
        raise
    return asyncio.run(result) if asyncio.iscoroutine(result) else result


def version_mismatch(claim: Claim, task: str, error: BaseException, call: Call) -> Unknown | None:
    """Return why a call did not begin: it was checked against other parameters than ours.

    If ours cannot be read, nobody has checked the call: then its error is an error like others.
    """
    if type(error) is Unknown:  # as middleware got it
        return error
    path, args, kwargs = call
    if type(error) is not TypeError or type(path) is not str or not _is_of_a_call(error):
        return None
    known = claim.task and registry.tasks().get(task)
    try:
        if known:
            signature.read(path).bind(args, kwargs, task=task, secret=known.secret)
    except ArgumentError as other:
        return Unknown(f"this worker has another version of the task: {other}")
    return None


def _is_of_a_call(error: BaseException) -> bool:
    """Return whether an error comes from the line that calls a task, and not from the task."""
    trace = error.__traceback__
    while trace and trace.tb_next:
        trace = trace.tb_next
    return trace is not None and trace.tb_frame.f_code in CALLS


CALLS.add(_call.__code__)
