"""Attempts: executions that failed and whose job runs again. They are RQ's results, type RETRIED.

RQ itself adds this entry only for a task that returns a Retry. Retried.keep adds one for any other
failure that is retried, and the scripts for crashes: see give_back in lib.lua.
"""

from __future__ import annotations

import zlib
from base64 import b64encode
from typing import Any, NamedTuple

from redis.client import Pipeline
from rq.executions import Execution
from rq.job import Job
from rq.results import Result

from werk.printable import storable
from werk.store import keys
from werk.store.limits import MOST_RESULTS, YEAR_S

LONGEST_TRACE = 4096  # bytes
WORKER_DIED = "Its worker or host died"


class Retried(NamedTuple):
    """An attempt that is being recorded."""

    delay_s: int  # until the next one
    trace: str | None  # None: RQ writes the result

    def keep(self, pipeline: Pipeline, job: Job, execution: Execution, worker: str) -> None:
        """Add the attempt to a job's results, in the transaction that returns it to its queue.

        The results expire with the job's hash. The hash of a job that is not yet due never expires;
        its results then last YEAR_S.
        """
        key = keys.key("results", job.id)
        if self.trace is not None:
            result = Result(
                job.id,
                Result.Type.RETRIED,
                job.connection,
                exc_string=end_of(self.trace),
                worker_name=worker,
                serializer=job.serializer,
                execution_id=execution.id,
                execution_started_at=execution.created_at,
                execution_ended_at=job.ended_at,
            )
            fields: Any = result.serialize()
            pipeline.xadd(key, fields)
        pipeline.expire(key, YEAR_S if self.delay_s or not job.ttl else job.ttl)


def number_results(pipeline: Pipeline, attempt: int) -> None:
    """Have the results that are added in a transaction name their attempt, which RQ's readers
    ignore. No more than ten are kept: RQ itself keeps more, to save work."""
    add = pipeline.xadd

    def xadd(name: str, fields: Any, **_: object) -> object:
        numbered = {**fields, keys.ATTEMPT: attempt}
        return add(name, numbered, maxlen=MOST_RESULTS, approximate=False)

    pipeline.xadd = xadd  # type: ignore[method-assign, assignment]


def end_of(trace: str) -> str:
    """Return the end of a traceback, which names the exception."""
    text = storable(trace.strip()).encode()
    if len(text) <= LONGEST_TRACE:
        return text.decode()
    return "..." + text[3 - LONGEST_TRACE :].decode("utf-8", "ignore")


def packed(trace: str) -> str:
    """Return the end of a traceback as RQ stores it in a result."""
    return b64encode(zlib.compress(end_of(trace).encode())).decode()
