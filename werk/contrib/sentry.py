"""Sentry: a transaction per execution, an event per final failure, and no secret in either.

WERK_MIDDLEWARE=werk.contrib.sentry.execute          the transaction, and the event of an exception
WERK_ENQUEUE_MIDDLEWARE=werk.contrib.sentry.enqueue  in callers: the worker continues their trace
WERK_ON_GIVE_UP=werk.contrib.sentry.gave_up          the event of any other final failure

The application calls `sentry_sdk.init` itself.
"""

from __future__ import annotations

from collections.abc import Callable
from contextlib import nullcontext, suppress
from functools import partial
from typing import Any

import sentry_sdk.integrations.logging

from werk.contrib.sentry_format import IDS, OWN, TRACE, headers
from werk.tasks import secrets

flush = sentry_sdk.flush  # with a time limit in seconds; a horse calls it before it exits

_read = partial(sentry_sdk.utils.event_from_exception, mechanism={"type": "werk", "handled": False})
_mask = secrets.Mask("[Filtered]", OWN, IDS)  # for the secrets of the last job

sentry_sdk.integrations.logging.ignore_logger("rq.worker")  # it logs each failure as an ERROR


def enqueue(request: Any, call_next: Callable[[], Any]) -> Any:
    """Keep the trace of the caller with the job."""
    if sentry_sdk.get_client().is_active():
        request.meta[TRACE] = dict(sentry_sdk.get_current_scope().iter_trace_propagation_headers())
    return call_next()


def execute(job: Any, call_next: Callable[[], Any]) -> Any:
    """Report an execution.

    Sentry's integration for RQ, if it is active, makes the transaction itself. It also captures
    each final exception a second time, and Sentry's DedupeIntegration drops that.
    """
    client = sentry_sdk.get_client()
    _hide_secrets(client, job)
    if rq := client.get_integration("rq"):
        _describe(sentry_sdk.get_current_scope(), job)  # the scope of its transaction
    with sentry_sdk.isolation_scope() as scope:
        scope.clear_breadcrumbs()
        _describe(scope, job)
        span = sentry_sdk.continue_trace(headers(job.meta), "queue.task.rq", job.task, "task")
        with nullcontext() if rq else sentry_sdk.start_transaction(span):
            try:
                return call_next()
            except BaseException as error:
                if job.is_final(error):
                    sentry_sdk.capture_event(*_read(error, client.options))
                raise


def gave_up(job: Any, reason: str, traceback: str) -> None:
    """Report a final failure, unless it is an exception that was already reported."""
    client = sentry_sdk.get_client()
    is_rqs = client.get_integration("rq") and "Traceback (most recent" in traceback
    if is_rqs or "werk/contrib/sentry.py" in traceback:  # execute() has reported it
        return
    facts = job.connection.hmget(job.key, "werk_task", "werk_attempt", "origin")
    job.task, job.attempt, job.origin = ((fact or b"-").decode() for fact in facts)
    with sentry_sdk.isolation_scope() as scope:
        with suppress(Exception):  # arguments that cannot be read are not in the traceback either
            _hide_secrets(client, job)
        _describe(scope, job)
        scope.set_extra("traceback", traceback)
        sentry_sdk.capture_message(f"{job.task} failed: {reason}", "error")


def _describe(scope: sentry_sdk.Scope, job: Any) -> None:
    facts = {"task": job.task, "job_id": job.id, "queue": job.origin, "attempt": job.attempt}
    scope.set_transaction_name(job.task, "task")
    scope.update_from_kwargs(tags=facts, contexts={"werk": facts})


def _hide_secrets(client: Any, job: Any) -> None:
    """Mask a job's secret values in whatever is sent from here on."""
    if _mask.values:  # of another job, whose logs may still wait in a buffer
        client.flush(timeout=0)
    _mask.values = secrets.values(job.task, job.args, job.kwargs)
    if client.transport and "capture_envelope" not in vars(client.transport):
        client.transport.capture_envelope = partial(_send, client.transport.capture_envelope)


def _send(send: Callable[[Any], None], envelope: Any) -> None:
    for item in envelope.items:
        item.payload.json = _mask.apply(item.payload.json)
    send(envelope)
