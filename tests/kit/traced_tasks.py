"""Tasks that make spans, and a caller that enqueues a thousand of them."""

from __future__ import annotations

import asyncio
import os

from opentelemetry import baggage, context, trace
from rq import get_current_job

import werk

HANGS = (200, 600)  # five seconds each, in which a test can act

_tracer = trace.get_tracer("traced_tasks")


def work(number: int) -> None:
    """Do some work in a span, and end as the number says."""
    job = get_current_job()
    with _tracer.start_as_current_span("work", attributes={"job": job.id, "number": number}):
        if number in HANGS:
            while True:
                asyncio.run(asyncio.sleep(60))
        if number % 10 == 1:
            raise ValueError(f"number {number}")
        if number % 10 == 2:
            asyncio.run(_in_a_loop(job.id, number))
    if number % 10 == 3:  # a task that leaves its context behind
        context.attach(trace.set_span_in_context(_tracer.start_span("left")))
        context.attach(baggage.set_baggage("left", "behind"))


async def _in_a_loop(job_id: str, number: int) -> None:
    with _tracer.start_as_current_span("turn", attributes={"job": job_id, "number": number}):
        await asyncio.sleep(0)


TASKS = {"work": werk.Task("traced_tasks.work", timeout=5)}


def main() -> None:
    """Enqueue a thousand jobs, each in a span of the application, or all of a batch in one."""
    assert os.environ["SPANS"]
    import tracing

    assert tracing
    for number in range(500):
        with _tracer.start_as_current_span("order"):
            werk.enqueue("work", number)
    with _tracer.start_as_current_span("orders"):
        werk.enqueue_many("work", [(number,) for number in range(500, 1000)])


if __name__ == "__main__":
    main()
