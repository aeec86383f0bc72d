"""Orders: what the next horse does for a dead one, because it may run user code."""

from __future__ import annotations

import logging
from datetime import datetime, timezone
from typing import Any

import redis.exceptions
from redis import Redis
from rq.executions import Execution
from rq.job import Job
from rq.queue import Queue
from rq.timeouts import JobTimeoutException

from werk.errors import described
from werk.log_format import Event
from werk.store import keys
from werk.store.keys import text
from werk.worker import rq_classes
from werk.worker.causes import CRASHED, STOPPED, TIMEOUT
from werk.worker.claim import Claim, Late
from werk.worker.executions import IGNORED_LIMIT, UNENDED
from werk.worker.outcome import Outcome, Recorder, failure
from werk.worker.redis_side import FINISH_S, Unusable
from werk.worker.retries import limit_retries
from werk.worker.rq_side import COMMITTED
from werk.worker.shared_state import Order


def carry_out(order: Order, recorder: Recorder) -> Outcome | None:
    """Fail an execution whose horse is dead, as RQ's worker would: with handlers and retries.

    Return an outcome for step.lua, or None if it is recorded.
    """
    if order.is_recorded:
        _enqueue_dependents(order, recorder)
        return None
    with recorder.shared.watched(FINISH_S):
        worker, claim = recorder.worker, _claim_of(order.run, recorder)

    def record(job: Job, queue: Queue, execution: Execution) -> None:
        if not recorder.ask_fence(order.run, job):
            raise Late(order.run)
        job.worker_name = None  # RQ's supervisor writes the same: its copy is from before the start
        if order.is_stopped:
            worker.record_stop(job, queue, execution)
            return
        job.ended_at = datetime.now(timezone.utc)
        if order.death:
            worker.handle_work_horse_killed(job, *order.death)  # type: ignore[no-untyped-call]
        is_limit = order.reason.startswith(IGNORED_LIMIT)
        limit_retries(job, JobTimeoutException if is_limit else BaseException)  # a crash: no kind
        worker.handle_job_failure(job, queue, exc_string=order.reason, execution=execution)

    event, level = ("stopped", logging.WARNING) if order.is_stopped else ("failed", logging.ERROR)
    recorder.log.event(event, {**claim.facts(), "reason": order.reason}, level)
    recorder.counters.add_failure(text(claim.task))
    cause = TIMEOUT if order.reason.startswith((IGNORED_LIMIT, UNENDED)) else CRASHED
    cause = STOPPED if order.is_stopped else cause
    if order.is_raw:
        status = "stopped" if order.is_stopped else "failed"
        keep_s = recorder.failure_ttl(claim.id)
        ended = failure(claim, order.reason, recorder.shared.now(), status, keep_s)
        return recorder.final(ended, cause)
    return recorder.record(claim, recorder.job(claim.id), record, order.reason, cause)


def _enqueue_dependents(order: Order, recorder: Recorder) -> None:
    """Enqueue the dependents of a job whose horse died after it had recorded a failure."""
    worker, job_id = recorder.worker, order.run.rpartition(":")[0]
    if order.is_raw:  # a horse died of this, so this one goes on; a tick orders it again
        why = "the process that enqueued its dependents died"
        recorder.log.log.error(Event("incomplete", job=job_id, reason=why))
        return
    with recorder.shared.watched(FINISH_S):
        try:
            job = rq_classes.load(recorder.job(job_id))
            worker.queue(job.origin).enqueue_dependents(job)
        except Unusable:
            raise
        except Exception as error:  # the job has expired, or cannot be read
            why = described(error)
            recorder.log.log.error(Event("incomplete", job=job_id, reason=why))
        worker.connection.zrem(COMMITTED, f"{order.run} {worker.name}")


def _claim_of(run: str, recorder: Recorder) -> Claim:
    """Return the claim of a dead horse, with the fields that are needed."""
    job_id, _, execution = run.rpartition(":")
    known: list[Any] = [None, None, None]
    connection = recorder.worker.connection
    try:
        known = connection.hmget(keys.key("job", job_id), "origin", keys.ATTEMPT, "werk_task")
    except redis.exceptions.ResponseError:
        pass  # not a hash: the execution will be found late, as that of a deleted job
    origin, attempt, task = known
    return Claim(
        origin=origin or b"",
        status=b"",
        attempt=attempt,
        data=b"",
        timeout=b"",
        result_ttl=b"",
        task=task,
        enqueued_at=b"",
        since=b"",
        callbacks=None,
        job=job_id.encode(),
        queue=b"",
        execution=execution,
        claimed_at=_claimed_at(connection, run).encode(),
    )


def _claimed_at(connection: Redis, run: str) -> str:
    """Return when an execution began, on the clock of its host; now if its record is broken."""
    _, now, _ = keys.clock()
    try:
        began = float(connection.hget(keys.key("execution", run), "created_at") or "")
    except (redis.exceptions.ResponseError, ValueError):
        return now
    return repr(began) if 0 < began < float(now) else now
