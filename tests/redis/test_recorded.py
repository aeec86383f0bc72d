"""werk.testing.recorded() beside Redis: the same calls are refused, in the same words."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Callable
from datetime import date, datetime, timezone
from typing import Any
from zoneinfo import ZoneInfo

import pytest
import recorded_tasks
import redis
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

import werk
from werk.store.payload import read_call
from werk.testing import recorded

CALLS = 500

# As options: long times alone, so that nothing expires while a slow machine compares.
numbers = st.sampled_from([600, 600, -1, 0, 10**6, -2, 0.5, 1e10, float("nan"), -1.0, True, 2**70])
plain = st.one_of(
    st.sampled_from([None, 1, 0.5, True, 2**70, float("nan")]),
    st.sampled_from(["", "x", "red", "a", "5", "2026-01-02", "\ud800", "\x00"]),
    st.sampled_from([b"x", date(2026, 1, 2), recorded_tasks.Colour.RED, [1, [2]], {"k": (1,)}]),
    st.sampled_from([object(), lambda: None, bytearray(b"x"), ["y", object()], {1: object}]),
    st.just(datetime(2026, 1, 2, tzinfo=ZoneInfo("Europe/Berlin"))),
)
names = st.sampled_from([*recorded_tasks.TASKS, "typed", "loose", "hello", "werk.ping"])
bad_names = st.sampled_from(["typedd", "", "no such task", 5, None, recorded_tasks.note])
arguments = st.lists(plain, max_size=3)
named = st.dictionaries(
    st.sampled_from(["size", "colour", "when", "count", "mode", "value", "password", "x y"]),
    plain,
    max_size=3,
)
options = {
    "queue": st.sampled_from(["low", "", "a b", "\n", 5]),
    "front": st.booleans(),
    "delay": numbers,
    "at": st.sampled_from(
        [datetime(1, 1, 1), datetime(2030, 1, 1), datetime(2030, 1, 1, tzinfo=timezone.utc)]
    ),
    "job_id": st.sampled_from(["one", "two", "", "a b", "é"]),
    "timeout": numbers,
    "ttl": numbers,
    "result_ttl": numbers,
    "failure_ttl": numbers,
    "retry": numbers,
    "once_per": numbers,
    "unless_active": st.booleans(),
    "expires": numbers,
    "ping": st.sampled_from(["https://ping.example/", "ftp://x", "", "http://a b"]),
}
one_option = st.sampled_from([*options]).flatmap(
    lambda name: st.fixed_dictionaries({name: options[name]})
)
deduplicating = st.sampled_from([{"job_id": "one"}, {"unless_active": True}, {"once_per": 600}])
chosen = st.one_of(
    st.none(),
    st.one_of(deduplicating, one_option, st.fixed_dictionaries({}, optional=options)).map(
        lambda given: werk.Options(**given)
    ),
)
good = st.sampled_from(
    [
        ("note", [1], {}),
        ("typed", [1, date(2026, 1, 2), 0.5], {"size": "x"}),
        ("loose", [None, {3}], {"mode": "b", "any": [b"x"]}),
        ("login", ["ada"], {"password": "hunter2"}),
        ("elsewhere", [1], {}),
        ("flaky", ["x"], {}),
    ]
)
one = st.builds(
    lambda call, options: lambda: [werk.enqueue(call[0], *call[1], options=options, **call[2])],
    st.one_of(good, good, st.tuples(st.one_of(names, names, bad_names), arguments, named)),
    chosen,
)
many = st.builds(
    lambda name, calls, options: lambda: werk.enqueue_many(name, calls, options=options),
    st.one_of(names, bad_names),
    st.lists(st.one_of(arguments, named), max_size=3),
    chosen,
)
Call = Callable[[], list[werk.Handle]]


@pytest.fixture(autouse=True)
def _table(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("WERK_REGISTRY", "recorded_tasks:TASKS")


def outcome(call: Call) -> Any:
    """Return what a caller sees of a call, without what is random or depends on workers."""
    try:
        handles = call()
    except Exception as error:
        return type(error), re.sub(r"0x[0-9a-f]+", "0x", str(error))
    return [
        own._replace(id="", reason=re.sub(r"[0-9a-f-]{36}", "ID", own.reason), warnings=())
        for own in handles
    ]


def test_what_redis_refuses_is_refused_and_nothing_else(connection: redis.Redis) -> None:
    """Each example is one call twice, so that duplicates are compared as well."""
    seen: Counter[str] = Counter()

    @given(st.one_of(one, one, one, many))
    @settings(max_examples=CALLS, database=None, suppress_health_check=list(HealthCheck))
    def compare(call: Call) -> None:
        connection.flushdb()
        real = [outcome(call), outcome(call)]
        with recorded() as jobs:
            assert [outcome(call), outcome(call)] == real
        assert len(jobs) == len(ids(connection))
        calls = sorted(repr((job.path, job.args, job.kwargs)) for job in jobs)
        assert calls == sorted(repr(read_call(data)) for data in payloads(connection))
        seen[real[0][0].__name__ if type(real[0]) is tuple else "accepted"] += 1
        seen["duplicates"] += type(real[1]) is list and any(own.duplicate for own in real[1])

    compare()
    assert min(seen["ArgumentError"], seen["accepted"]) > CALLS / 10
    assert min(seen["UnknownTask"], seen["duplicates"]) > CALLS / 100


def ids(connection: redis.Redis) -> list[str]:
    return [key.decode()[len("rq:job:") :] for key in connection.keys("rq:job:*")]


def payloads(connection: redis.Redis) -> list[bytes]:
    return [connection.hget(f"rq:job:{own}", "data") or b"" for own in ids(connection)]
