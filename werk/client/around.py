"""The middleware of callers (WERK_ENQUEUE_MIDDLEWARE): functions around each enqueue."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from contextlib import suppress
from functools import partial

from werk import middleware
from werk.client.options import meta_problem
from werk.client.prepare import PreparedJob
from werk.client.result import Handle
from werk.errors import ArgumentError, WerkError, described, is_a
from werk.store.payload import dumps

Send = Callable[[Sequence[PreparedJob]], list[Handle]]


class Enqueue:
    """One enqueue, as middleware sees it. What is in `meta` afterwards becomes the job's meta."""

    def __init__(self, job: PreparedJob) -> None:
        self.task, self.job_id, self.queue = job.name, job.id, job.task.queue
        self.call = job.call  # as text, with secrets masked
        self.options = job.options
        self.meta = dict(job.options.meta or {})

    def __repr__(self) -> str:
        return f"<enqueue of {self.call} as {self.job_id}>"


def send(jobs: Sequence[PreparedJob], paths: Sequence[str], send: Send) -> list[Handle]:
    """Enqueue prepared jobs through the middleware, called once for each job.

    A single job is sent by the innermost `call_next()`, which returns its handle. Several are sent
    together, after the middleware of all, and `call_next()` returns None. Raises ArgumentError for
    a meta that is not plain data, ConfigError, and what middleware and `send` raise.
    """
    chain = middleware.load("WERK_ENQUEUE_MIDDLEWARE", tuple(paths))
    ready: list[PreparedJob] = []
    sent: list[Handle] = []
    failure: list[WerkError] = []

    def call_next() -> Handle | None:
        ready.append(_with_meta(job, request.meta))
        if len(jobs) > 1:
            return None
        try:
            sent.extend(send(ready))
        except WerkError as error:
            failure.append(error)
            raise
        return sent[0]

    def has_passed(index: int) -> bool:
        # If not, there will be no handle: middleware cannot hide the error.
        return bool(sent) if len(jobs) == 1 else len(ready) > index

    for index, job in enumerate(jobs):
        request = Enqueue(job)
        try:
            middleware.through(chain, request, call_next, partial(has_passed, index))
        except Exception as error:
            _annotate(error, jobs, sent, failure)
            raise
    return sent or send(ready)


def _annotate(
    error: Exception, jobs: Sequence[PreparedJob], sent: list[Handle], failure: list[WerkError]
) -> None:
    """Add to an error which middleware raised it, and what became of the jobs."""
    if sent:
        state = f"job {sent[0].id} is enqueued"
    elif failure:
        state = str(failure[0])
    elif len(jobs) > 1:
        state = f"none of the {len(jobs)} jobs that are sent together was enqueued"
    else:
        state = "nothing was enqueued"
    if not is_a(error, WerkError):
        if path := middleware.raiser(error):
            with suppress(Exception):  # it may take no attributes, such as a frozen dataclass
                error.add_note(f"raised by the middleware {path}; {state}")
    elif sent:
        error.args = (f"{error}; {state}",)


def in_one_line(error: Exception) -> WerkError:
    """Return what a command prints for an error of a middleware."""
    return WerkError("; ".join([described(error), *getattr(error, "__notes__", ())]))


def _with_meta(job: PreparedJob, meta: object) -> PreparedJob:
    if problem := meta_problem(meta):
        raise ArgumentError(problem)
    return job._replace(meta=dumps(meta) if meta else "")
