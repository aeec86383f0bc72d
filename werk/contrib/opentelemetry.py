"""OpenTelemetry: a span for each enqueue, and one for each execution.

WERK_MIDDLEWARE=werk.contrib.opentelemetry.execute
WERK_ENQUEUE_MIDDLEWARE=werk.contrib.opentelemetry.enqueue

Names and attributes follow the semantic conventions for messaging (1.41, status: development).
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from contextvars import copy_context
from typing import TYPE_CHECKING, Any

from opentelemetry import trace
from opentelemetry.context import Context, attach
from opentelemetry.propagate import extract, inject
from opentelemetry.trace import INVALID_SPAN, Link, Span, SpanKind, StatusCode

from werk import __version__, errors

if TYPE_CHECKING:
    from rq.job import Job

    from werk.client.around import Enqueue

_OPERATION = "messaging.operation.name", "messaging.operation.type"
_tracer = trace.get_tracer("werk", __version__)  # of the provider that is set up later


def enqueue(request: Enqueue, call_next: Callable[[], Any]) -> Any:
    """Enqueue in a span "send QUEUE", whose context the job keeps in its meta (`traceparent`)."""
    with _span("send", SpanKind.PRODUCER, request.queue, request.job_id, request.task) as span:
        inject(request.meta)
        handle = call_next()
        if handle is None:  # one of several jobs: they are sent together, later
            span.update_name(f"create {request.queue}")
            span.set_attributes(dict.fromkeys(_OPERATION, "create"))
        elif getattr(handle, "duplicate", False):
            span.set_attribute("werk.duplicate", True)
        return handle


def execute(job: Job, call_next: Callable[[], Any]) -> Any:
    """Run a job in a span "process QUEUE", linked to the span of its enqueue.

    The first attempt is a child of that span; each later attempt begins a trace of its own.
    """
    # In a copy: a task, or a time limit at the wrong moment, may leave something in the context.
    return copy_context().run(_execute, job, call_next)


def _execute(job: Any, call_next: Callable[[], Any]) -> Any:
    context = extract({name: own for name, own in job.meta.items() if type(own) is str}, Context())
    creation = trace.get_current_span(context).get_span_context()
    if job.attempt > 1:
        context = trace.set_span_in_context(INVALID_SPAN, context)
    attach(context)
    links = [Link(creation)] if creation.is_valid else []
    with _span("process", SpanKind.CONSUMER, job.origin, job.id, job.task, links) as span:
        span.set_attribute("werk.attempt", job.attempt)
        return call_next()


def flush(timeout_s: float) -> None:
    """Send the spans that the process still has. A horse calls this before it ends."""
    if force_flush := getattr(trace.get_tracer_provider(), "force_flush", None):
        force_flush(round(timeout_s * 1000))


@contextmanager
def _span(
    operation: str, kind: SpanKind, queue: str, job_id: str, task: str, links: Sequence[Link] = ()
) -> Iterator[Span]:
    """Enter a span about a job: its queue, id and task. Record what is raised in it."""
    attributes = dict.fromkeys(_OPERATION, operation) | {
        "messaging.system": "werk",
        "messaging.destination.name": queue,
        "messaging.message.id": job_id,
        "werk.task": task,
    }
    span = _tracer.start_span(f"{operation} {queue}", None, kind, attributes, links)
    with trace.use_span(span, True, record_exception=False, set_status_on_exception=False):
        try:
            yield span
        except BaseException as error:  # OpenTelemetry leaves out SystemExit, which fails a job
            span.set_status(StatusCode.ERROR, errors.described(error))
            span.set_attribute("error.type", f"{type(error).__module__}.{type(error).__qualname__}")
            with suppress(BaseException):  # what its text raises must not replace the error
                span.record_exception(error)
            raise
