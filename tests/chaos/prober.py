"""Redis's uptime, and when jobs were claimable, as seen from beside all gates.

Uptime is the time in which a PING was answered within 100 ms. Re-runs and silences are judged by
that clock: a machine that is too busy to answer does not count.
"""

from __future__ import annotations

import socket
import threading
import time
from bisect import bisect_right
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from itertools import accumulate

import redis

from chaos.kinds import QUEUES

EVERY_S = 0.05  # between two PINGs
QUICK_S = 0.1  # an answer within this is one of a server that is up
SLOW_S = 1.0  # after which nobody waits for an answer
SAMPLE_S = 0.5  # between two looks at the queues
PAUSED = "rq:werk:paused"


@dataclass
class Uptime:
    """A clock that stands still while Redis does not answer."""

    probes: Sequence[tuple[float, float, bool]]  # since, until, whether Redis was up
    _sums: list[float] = field(init=False)

    def __post_init__(self) -> None:
        self._begins = [begin for begin, _, _ in self.probes]
        ups = ((until - since) * is_up for since, until, is_up in self.probes)
        self._sums = [0.0, *accumulate(ups)]

    def between(self, since: float, until: float) -> float:
        """Return the seconds in which Redis was up."""
        return max(0.0, self._at(until) - self._at(since))

    def without(self, spells: Sequence[tuple[float, float]]) -> Uptime:
        """Return this clock, standing still in these spells as well."""
        return Uptime(
            [
                (since, until, is_up and not any(a <= since <= b for a, b in spells))
                for since, until, is_up in self.probes
            ]
        )

    def _at(self, moment: float) -> float:
        number = bisect_right(self._begins, moment) - 1
        if number < 0:
            return 0.0
        since, until, is_up = self.probes[number]
        return self._sums[number] + is_up * (min(moment, until) - since)


@dataclass
class Sample:
    """A look at the queues."""

    at: float
    claimable: int  # jobs in queues that are not paused


class Prober:
    """Two threads: one PINGs, one looks at the queues."""

    def __init__(self, port: Callable[[], int]) -> None:
        """`port` returns that of the server, which may change."""
        self.port = port
        self.probes: list[tuple[float, float, bool]] = []
        self.samples: list[Sample] = []
        self._stopping = threading.Event()
        self._threads = [threading.Thread(target=work) for work in (self._ping, self._look)]
        for thread in self._threads:
            thread.start()

    def stop(self) -> None:
        """Return when both threads have ended."""
        self._stopping.set()
        for thread in self._threads:
            thread.join()

    def uptime(self) -> Uptime:
        """Return the uptime so far."""
        return Uptime(list(self.probes))

    def _ping(self) -> None:
        connection: socket.socket | None = None
        since, was_up, port = time.monotonic(), False, 0
        while not self._stopping.wait(EVERY_S):
            sent = time.monotonic()
            is_prompt = sent - since <= EVERY_S + 2 * QUICK_S  # or we were late ourselves
            self.probes.append((since, sent, was_up and is_prompt))
            since = sent
            if port != self.port():
                connection, port = _closed(connection), self.port()
            try:
                connection = connection or _connected(port)
                connection.sendall(b"PING\r\n")
                was_up = connection.recv(100) == b"+PONG\r\n"
            except OSError:
                connection, was_up = _closed(connection), False
            was_up = was_up and time.monotonic() - sent <= QUICK_S
        _closed(connection)

    def _look(self) -> None:
        client, port = redis.Redis(), 0
        while not self._stopping.wait(SAMPLE_S):
            if port != self.port():
                port = self.port()
                client.close()
                client = redis.Redis(port=port, socket_timeout=SLOW_S)
                client.set_retry(redis.retry.Retry(redis.backoff.NoBackoff(), 0))
            try:
                self.samples.append(_sample(client))
            except (redis.RedisError, OSError):
                pass  # the next look is soon
        client.close()


def _connected(port: int) -> socket.socket:
    """A server that is stopped still takes connections: an answer that is late is no answer."""
    return socket.create_connection(("127.0.0.1", port), timeout=SLOW_S)


def _sample(client: redis.Redis) -> Sample:
    pipeline = client.pipeline()
    for queue in QUEUES:
        pipeline.llen(f"rq:queue:{queue}")
    pipeline.smembers(PAUSED)
    *lengths, paused = pipeline.execute()
    named = zip(QUEUES, lengths, strict=True)
    return Sample(
        time.monotonic(), sum(length for name, length in named if name.encode() not in paused)
    )


def _closed(connection: socket.socket | None) -> None:
    if connection:
        connection.close()
