"""The format of Sentry's data: places whose keys are not a task's, and the trace of a caller."""

from __future__ import annotations

from collections.abc import Mapping

TRACE = "_sentry_trace_headers"  # in a job's meta: the key of Sentry's integration for RQ
# Places whose keys are Sentry's or werk's own.
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


def headers(meta: Mapping[str, object]) -> dict[str, str]:
    """Return the headers of the caller's trace. A caller may have put anything in their place."""
    found = meta.get(TRACE)
    pairs = found.items() if isinstance(found, dict) else ()
    return {name: own for name, own in pairs if type(name) is type(own) is str}
