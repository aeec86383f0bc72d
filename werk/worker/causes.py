"""Causes: why a job has finally failed, as reported to the handler of WERK_ON_GIVE_UP."""

from __future__ import annotations

import traceback

from rq.timeouts import JobTimeoutException

from werk.errors import Unreadable, described, is_a
from werk.store import keys
from werk.worker.claim import Refused, Unknown

RAISED, REFUSED, UNKNOWN_TASK = "raised", "refused", "unknown-task"
CRASHED, TIMEOUT = "crashed", "timeout"
STOPPED = "stopped"  # on request: never for the handler

WAITING = keys.key("werk", "gave-up")  # the list of failures that wait for the handler


def cause_of(error: BaseException) -> str:
    """Return the cause of a failure with this error."""
    if is_a(error, Unknown):
        return UNKNOWN_TASK
    if is_a(error, Refused, Unreadable):
        return REFUSED
    return TIMEOUT if is_a(error, JobTimeoutException) else RAISED


def shown(error: BaseException) -> str:
    """Return an error as at the end of a traceback, if Python can show it."""
    try:
        return "".join(traceback.format_exception_only(error)).strip()
    except Exception:
        return described(error)


def entry(cause: str, run: str, now: float) -> str:
    """Return a final failure as it stands in the list; `now` on Redis's clock. See lib.lua."""
    job_id, _, execution = run.rpartition(":")
    return f"0 {now:.6f} {cause} {execution} {job_id}"
