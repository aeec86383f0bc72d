"""The middleware of callers (WERK_ENQUEUE_MIDDLEWARE): functions around each enqueue."""

from __future__ import annotations

from collections.abc import Callable, Sequence

from werk import middleware
from werk.client.options import meta_problem
from werk.client.prepare import PreparedJob
from werk.client.result import Handle
from werk.errors import ArgumentError, WerkError
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
    failure: list[WerkError] = []  # raised even if a middleware hides it: there is no handle

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

    for job in jobs:
        request = Enqueue(job)
        middleware.through(chain, request, call_next)
    for error in failure:
        raise error
    return sent or send(ready)


def _with_meta(job: PreparedJob, meta: object) -> PreparedJob:
    if problem := meta_problem(meta):
        raise ArgumentError(problem)
    return job._replace(meta=dumps(meta) if meta else "")
