"""What machines ask the dashboard for: /healthz, /readyz, /metrics, and to enqueue a job."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from contextlib import contextmanager, nullcontext

from flask import Response, abort

from werk.errors import RedisUnavailable
from werk.ops import metrics
from werk.settings import Settings
from werk.store.connection import link
from werk.web import enqueue

HOW = (
    'name a task: POST /api/tasks/TASK with {"args": [...], "kwargs": {...}, "options": {...}};'
    " werk tasks lists them"
)
WAIT_AT_ONCE = 4  # requests that may wait for Redis without a password, or while it is unreachable


class Api(threading.local):  # so that each thread has its own link
    """The views, by the names of their endpoints."""

    places = threading.BoundedSemaphore(WAIT_AT_ONCE)
    is_reachable = True  # Redis, for the last request that needed it to enqueue

    def __init__(self, settings: Settings) -> None:
        self.link = link(settings)

    def healthz(self) -> Response:
        """Answer without asking Redis."""
        return _plain("ok\n")

    def readyz(self) -> Response:
        """Answer if Redis does."""
        with self._place():
            self.link.call("PING")
        return _plain("ok\n")

    def metrics(self) -> Response:
        """Answer with the metrics, for Prometheus."""
        return _plain(metrics.exposition(self.link))

    def enqueue(self, task: str) -> tuple[Response, int]:
        """Enqueue a job of a task.

        While Redis is unreachable, few requests wait for it: each occupies one of the threads.
        """
        with nullcontext() if Api.is_reachable else self._place():
            try:
                reply = enqueue.answer(self.link, task)
            except RedisUnavailable:
                Api.is_reachable = False
                raise
        Api.is_reachable = True
        return reply

    def no_task(self) -> Response:
        """Answer a request that names no task."""
        abort(404, HOW)

    @contextmanager
    def _place(self) -> Iterator[None]:
        if not self.places.acquire(blocking=False):
            raise RedisUnavailable("too many requests are waiting for Redis already; try again")
        try:
            yield
        finally:
            self.places.release()


def _plain(text: str) -> Response:
    return Response(text, mimetype="text/plain")
