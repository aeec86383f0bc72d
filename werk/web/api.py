"""What machines ask the dashboard for: /healthz, /readyz and /metrics."""

from __future__ import annotations

import threading

from flask import Response

from werk.errors import RedisUnavailable
from werk.ops import metrics
from werk.settings import Settings
from werk.store.connection import link

READY_AT_ONCE = 4  # requests that may wait for Redis without a password


class Api(threading.local):  # so that each thread has its own link
    """The views, by the names of their endpoints."""

    asks_redis = threading.BoundedSemaphore(READY_AT_ONCE)

    def __init__(self, settings: Settings) -> None:
        self.link = link(settings)

    def healthz(self) -> Response:
        """Answer without asking Redis."""
        return _plain("ok\n")

    def readyz(self) -> Response:
        """Answer if Redis does."""
        if not self.asks_redis.acquire(blocking=False):
            raise RedisUnavailable("too many requests are waiting for Redis already")
        try:
            self.link.call("PING")
        finally:
            self.asks_redis.release()
        return _plain("ok\n")

    def metrics(self) -> Response:
        """Answer with the metrics, for Prometheus."""
        return _plain(metrics.exposition(self.link))


def _plain(text: str) -> Response:
    return Response(text, mimetype="text/plain")
