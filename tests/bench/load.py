"""What `bin/bench` runs in a process of its own: python -m bench.load NAME COUNT, answers in JSON.

NAME is that of a function; RQ_REDIS_URL says where.
"""

from __future__ import annotations

import json
import os
import sys
import time

import redis
from rq import Queue

import werk

BETWEEN_TRIPS_S = 0.02  # so that the worker is idle again


def floor(count: int) -> float:
    """Return jobs/s of the least that a worker with redis-py can do: LPOP and SET EX."""
    client = _client()
    client.rpush("floor", *range(count))
    begin = time.perf_counter()
    for _ in range(count):
        number = client.lpop("floor")
        client.set("floor:" + number.decode(), number, ex=500)
    return count / (time.perf_counter() - begin)


def enqueue_werk(count: int) -> float:
    """Return jobs/s, enqueued one by one."""
    werk.enqueue("noop", 0)
    begin = time.perf_counter()
    for number in range(count):
        werk.enqueue("noop", number)
    return count / (time.perf_counter() - begin)


def enqueue_rq(count: int) -> float:
    """Return jobs/s, enqueued one by one by RQ itself."""
    queue = Queue(connection=_client())
    queue.enqueue("bench.tasks.noop", 0, result_ttl=500)
    begin = time.perf_counter()
    for number in range(count):
        queue.enqueue("bench.tasks.noop", number, result_ttl=500)
    return count / (time.perf_counter() - begin)


def batch_werk(count: int) -> float:
    """Return jobs/s, enqueued all at once."""
    werk.enqueue("noop", 0)
    begin = time.perf_counter()
    werk.enqueue_many("noop", [(number,) for number in range(count)])
    return count / (time.perf_counter() - begin)


def batch_rq(count: int) -> float:
    """Return jobs/s, enqueued all at once by RQ itself."""
    queue = Queue(connection=_client())
    queue.enqueue("bench.tasks.noop", 0, result_ttl=500)
    begin = time.perf_counter()
    queue.enqueue_many(
        [
            Queue.prepare_data("bench.tasks.noop", (number,), result_ttl=500)
            for number in range(count)
        ]
    )
    return count / (time.perf_counter() - begin)


def trips_werk(count: int) -> list[float]:
    """Return the seconds from enqueue to the result in hand, each with an idle worker."""
    werk.enqueue("noop", 0).result(30)  # it connects, and loads what it needs
    return [_timed(lambda n=number: werk.enqueue("noop", n).result(30)) for number in range(count)]


def trips_rq(count: int) -> list[float]:
    """Return the same with RQ's own enqueue, and its results stream read directly."""
    client = _client()
    queue = Queue(connection=client)

    def trip(number: int) -> None:
        job = queue.enqueue("bench.tasks.noop", number, result_ttl=500)
        client.xread({f"rq:results:{job.id}": "0-0"}, block=30_000)

    trip(0)
    return [_timed(lambda n=number: trip(n)) for number in range(count)]


def _timed(trip: object) -> float:
    time.sleep(BETWEEN_TRIPS_S)  # what is measured begins with an idle worker
    begin = time.perf_counter()
    trip()
    return time.perf_counter() - begin


def _client() -> redis.Redis:
    return redis.Redis.from_url(os.environ["RQ_REDIS_URL"], socket_timeout=60)


if __name__ == "__main__":
    name, how_many = sys.argv[1:]
    print(json.dumps(globals()[name](int(how_many))))
