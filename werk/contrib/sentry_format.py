"""The places of Sentry's data whose keys are Sentry's or werk's own, not a task's."""

from __future__ import annotations

_STACKS = ("values", "values.mechanism", "values.stacktrace", "values.stacktrace.frames")
OWN = [
    *("", "breadcrumbs", "breadcrumbs.values", "logentry", "spans", "items"),
    *("exception", *(f"exception.{place}" for place in _STACKS)),
    *("threads", *(f"threads.{place}" for place in _STACKS)),
    *("contexts.trace", "contexts.werk"),
    *("tags.task", "tags.job_id", "tags.queue", "tags.attempt"),
]
# Not masked there, because a number may be a part of these by accident:
IDS = [
    *("event_id", "trace_id", "span_id", "parent_span_id", "job_id", "attempt", "lineno"),
    *("timestamp", "start_timestamp"),
]
