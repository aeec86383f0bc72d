"""Jobs by state, queue, task, argument and age: `werk jobs`, and actions on all that match."""

from __future__ import annotations

from itertools import chain

import pytest
import redis
import roles

from werk.ops import bulk, jobs
from werk.ops.jobs import Query
from werk.store.connection import Link, link

MANY = """
for i = 1, tonumber(ARGV[1]) do
  local id = ARGV[2] .. i
  redis.call('HSET', 'rq:job:' .. id, 'status', 'queued', 'origin', 'default', 'werk_task',
    i % tonumber(ARGV[3]) == 0 and 'rare' or 'sleep', 'description', 'x()', 'enqueued_at', 't',
    'werk_enqueued', 't|' .. i)
  redis.call('RPUSH', 'rq:queue:default', id)
end
redis.call('SADD', 'rq:queues', 'rq:queue:default')"""


@pytest.fixture
def light(redis_url: str) -> Link:
    return link(roles.settings("operator"))


def ids(light: Link, query: Query) -> list[str]:
    return [row.id for row in chain.from_iterable(jobs.walk(light, query))]


def test_waiting_jobs_of_a_task(light: Link, connection: redis.Redis) -> None:
    connection.eval(MANY, 0, 5000, "j", 50)
    assert jobs.groups(light, Query()) == [
        ("queued", "sleep", 4900, 1.0),
        ("queued", "rare", 100, 50.0),
    ]
    assert ids(light, Query(task="rare")) == [f"j{i}" for i in range(5000, 0, -50)]
    assert len(ids(light, Query())) == 5000
    assert bulk.act_on(light, "cancel", Query(("queued",), task="rare")) == 100
    assert connection.llen("rq:queue:default") == 4900
    assert connection.zcard("rq:canceled:default") == 100
