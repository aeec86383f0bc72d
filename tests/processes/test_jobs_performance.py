"""A million jobs wait, and ten thousand of one task are cancelled: how long others have to wait."""

from __future__ import annotations

import time

import pytest
import redis
import roles
from support import wait_until
from workers import PATIENT, Start

from werk.ops import bulk
from werk.ops.jobs import Query
from werk.store import payload
from werk.store.connection import link
from werk.store.limits import GONE_ENTRY

WAITING, RARE, AT_ONCE = 1_000_000, 10_000, 5_000
LONGEST_S, LONGEST_STRETCH_S, SLOWEST = 60.0, 0.05, 0.8
FILL = """
for i = tonumber(ARGV[1]), tonumber(ARGV[2]) do
  local id = string.format('%08x-aaaa-bbbb-cccc-%012x', i * 2654435761 % 4294967296, i)
  local is_rare = i % tonumber(ARGV[3]) == 0
  redis.call('HSET', 'rq:job:' .. id, 'status', 'queued', 'origin', 'default', 'enqueued_at', 't',
    'werk_task', is_rare and 'panic' or 'sleep', 'data', is_rare and ARGV[5] or ARGV[4],
    'description', 'x()', 'created_at', '2026-11-01T00:00:00.000000Z', 'timeout', 180,
    'werk_enqueued', 't|' .. i)
  redis.call('RPUSH', 'rq:queue:default', id)
end
redis.call('SADD', 'rq:queues', 'rq:queue:default')"""


@pytest.mark.performance
def test_ten_thousand_of_a_million_are_cancelled(work: Start, connection: redis.Redis) -> None:
    calls = [
        payload.write_call(f"werk.jobs.{name}", args, {})
        for name, args in (("sleep", (0.0,)), ("panic", ()))
    ]
    for first in range(1, WAITING + 1, AT_ONCE):
        connection.eval(FILL, 0, first, first + AT_ONCE - 1, WAITING // RARE, *calls)
    work("default", env=PATIENT)
    wait_until(lambda: ran(connection) > 100)
    before = speed(connection, 10)
    connection.config_set("slowlog-log-slower-than", 5000)
    connection.slowlog_reset()
    began, count = time.monotonic(), ran(connection)
    light = link(roles.settings("operator"))
    cancelled = bulk.act_on(light, "cancel", Query(("queued",), task="panic"))
    seconds = time.monotonic() - began
    during = (ran(connection) - count) / seconds
    slow = [(own["duration"] / 1e6, own["command"][:60]) for own in connection.slowlog_get(128)]
    longest_s, command = max(slow, default=(0.0, b""))
    usual = (before + speed(connection, 10)) / 2
    print(
        f"{cancelled} cancelled in {seconds:.1f} s; at most {longest_s * 1000:.0f} ms at a stretch,"
        f" by {command!r}; speed of the worker {during / usual:.0%}"
    )
    waiting = connection.lrange("rq:queue:default", 0, -1)
    pipeline = connection.pipeline(transaction=False)
    for job_id in waiting:
        pipeline.hget(b"rq:job:" + job_id, "werk_task")
    assert b"panic" not in pipeline.execute()
    assert GONE_ENTRY.encode() not in waiting
    assert cancelled == connection.zcard("rq:canceled:default")
    failed = connection.zcard("rq:failed:default") + connection.zcard("rq:wip:default")
    assert RARE - 1 <= cancelled + failed <= RARE + 1  # the worker ran some of them before
    assert seconds <= LONGEST_S
    assert longest_s <= LONGEST_STRETCH_S
    assert during >= SLOWEST * usual


def ran(connection: redis.Redis) -> int:
    return connection.zcard("rq:finished:default") + connection.zcard("rq:failed:default")


def speed(connection: redis.Redis, seconds: float) -> float:
    """Return how many jobs end in a second."""
    began, count = time.monotonic(), ran(connection)
    wait_until(lambda: time.monotonic() - began > seconds)
    return (ran(connection) - count) / (time.monotonic() - began)
