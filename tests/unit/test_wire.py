"""Plain data survives the round trip; anything else is refused, and reading runs nothing."""

from __future__ import annotations

import base64
import os
import pickle
import resource
import zlib
from collections.abc import Iterator
from datetime import date, datetime, time, timedelta, timezone, tzinfo
from decimal import Decimal
from enum import Enum, IntEnum
from pathlib import PurePosixPath
from typing import Any
from uuid import UUID, uuid1, uuid4
from zoneinfo import ZoneInfo

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from redis import Redis
from rq.job import Job

from werk.errors import ArgumentError, Unreadable
from werk.store import payload
from werk.store.plain import MAX_BYTES, plain_problem

zones: st.SearchStrategy[tzinfo | None] = st.none() | st.builds(
    timezone, st.timedeltas(timedelta(hours=-23), timedelta(hours=23))
)
scalars: st.SearchStrategy[Any] = st.one_of(
    st.sampled_from([None, True, False]),
    st.integers(),
    st.floats(allow_nan=False),
    st.text(),
    st.binary(),
    st.sampled_from([date, time, timedelta]).flatmap(st.from_type),
    st.datetimes(timezones=zones),
    st.decimals(allow_nan=False),
    st.uuids(),
)
keys = scalars | st.tuples(scalars, st.frozensets(scalars, max_size=2))
plain = st.recursive(
    scalars,
    lambda inner: st.one_of(
        st.lists(inner, max_size=4),
        st.tuples(inner, inner),
        st.dictionaries(keys, inner, max_size=3),
        st.sets(keys, max_size=3),
    ),
    max_leaves=8,
)


@given(plain)
def test_plain_data_survives_the_round_trip(value: object) -> None:
    again = payload.loads(payload.dumps(value))
    assert again == value
    assert type(again) is type(value)


@given(st.lists(plain).map(tuple), st.dictionaries(st.text(), plain))
def test_a_call_survives_and_rq_reads_it(args: tuple[object, ...], kwargs: dict[str, Any]) -> None:
    data = payload.write_call("a.b", args, kwargs)
    assert payload.read_call(data) == ("a.b", args, kwargs)
    job = Job("id", connection=Redis())
    job.restore({b"data": data})
    assert (job.func_name, job.args, job.kwargs) == ("a.b", args, kwargs)


@given(plain)
def test_what_other_python_versions_and_json_write_is_read(value: object) -> None:
    assert payload.loads(pickle.dumps(value, protocol=4)) == value
    assert payload.loads(b'{"a": [1, 2.5, null, "x"]}') == {"a": [1, 2.5, None, "x"]}


class Size(IntEnum):
    S = 1


class Money(Decimal):
    pass


class Colour(Enum):
    RED = "red"


def cyclic() -> list[object]:
    value: list[object] = []
    value.append(value)
    return value


def doubled() -> list[object]:
    value: list[object] = []
    for _ in range(60):
        value = [value, value]
    return value


@pytest.mark.parametrize(
    ("value", "words"),
    [
        (object(), ["object", "plain data"]),
        (Size.S, ["Size", "its .value"]),
        (Money(1), ["Money", "Decimal(...)"]),
        (Colour.RED, ["Colour"]),
        (PurePosixPath("/"), ["PurePosixPath"]),
        (bytearray(b"x"), ["bytes(...)"]),
        (datetime(2026, 1, 1, tzinfo=ZoneInfo("Europe/Rome")), ["ZoneInfo", ".astimezone"]),
        (time(1, tzinfo=ZoneInfo("Europe/Rome")), ["ZoneInfo"]),
        ([{"a": (1, object())}], ["contains", "object"]),
        ({object(): 1}, ["contains", "object"]),
        (cyclic(), ["nested deeper than 100"]),
        (doubled(), ["more than"]),
        (date, ["type"]),
    ],
)
def test_what_is_not_plain_is_refused_with_what_to_send(value: object, words: list[str]) -> None:
    problem = plain_problem(value)
    assert problem is not None
    assert all(word in problem for word in words), problem
    with pytest.raises(ArgumentError):
        payload.dumps(value)


class Evil:
    def __init__(self, function: Any, *args: object) -> None:
        self.call = function, args

    def __reduce__(self) -> Any:
        return self.call


def nested_tuple_as_key(depth: int) -> bytes:
    return b"\x80\x02}" + b")" + b"\x85" * depth + b"K\x01s."


@pytest.mark.usefixtures("little_memory")
def test_a_high_place_in_the_memo_takes_no_memory() -> None:
    with pytest.raises(Unreadable, match="gaps"):
        payload.loads(b"\x80\x02K\x01r\xff\xff\xff\xff.")  # 64 GB, with the reader in C


@pytest.mark.parametrize(
    "data",
    [
        b"",
        b"\x80",
        b"\x80\x05.",
        b"garbage",
        b"\xff\xfe",
        b"[1",
        b"[" * 100_000,
        b"\x80\x05\x8e\xff\xff\xff\xff\xff\xff\xff\x7f.",  # bytes of 2^63
        b"\x80\x02\x8b\xff\xff\xff\x7f1.",  # an int of 2^31 bytes
        b"\x80\x05\x96\x00\x00\x00\x00\x40\x00\x00\x00.",  # a bytearray
        b"\x80\x02" + b"]" + b"\x85" * 200 + b".",
        nested_tuple_as_key(1_000_000),  # its hash recurses in C
        pickle.dumps(UUID),
        pickle.dumps(ZoneInfo("Europe/Rome")),
        pickle.dumps(bytearray(b"x")),
        pickle.dumps(Size.S),
        b"\x80\x02cuuid\nUUID\nN}X\x03\x00\x00\x00hexK\x01s\x86b.",  # sets UUID.hex, of the class
        b"\x80\x02cuuid\nUUID\n)\x81.",  # a UUID without a number
        b"\x80\x02cuuid\nUUID\n)\x81}X\x03\x00\x00\x00intX\x01\x00\x00\x00xsb.",
        b"\x80\x02cdecimal\nDecimal\n)\x81.",
        b"cposix\nsystem\n(S'true'\ntR.",
        b"\x80\x04\x8c\x05posix\x8c\x06system\x93\x8c\x04true\x85R.",
        b"\x80\x02cbuiltins\nbytes\nJ\xff\xff\xff\x7f\x85R.",
        b"\x80\x02c__builtin__\neval\nX\x01\x00\x00\x001\x85R.",
        b"\x80\x02U\x01x\x51.",  # a persistent id
        b"\x80\x02\x82\x01.",  # an extension
    ],
)
def test_broken_and_hostile_bytes_are_unreadable(data: bytes) -> None:
    with pytest.raises(Unreadable):
        payload.loads(data)


def test_nothing_runs_when_it_is_read(tmp_path: Any) -> None:
    target = tmp_path / "ran"
    for protocol in range(6):
        data = pickle.dumps(Evil(os.system, f"touch {target}"), protocol)
        for read in (
            payload.loads,
            payload.read_call,
            lambda d: payload.read_call(zlib.compress(d)),
        ):
            with pytest.raises(Unreadable):
                read(data)
        with pytest.raises(Unreadable):
            payload.read_result({b"return_value": base64.b64encode(data)})
    assert not target.exists()
    assert uuid4().hex  # and class UUID is whole


@pytest.fixture(scope="module")
def little_memory() -> Iterator[None]:
    """2 GB: a reader that believes a length in hostile bytes fails, and not the machine."""
    soft, hard = resource.getrlimit(resource.RLIMIT_AS)
    resource.setrlimit(resource.RLIMIT_AS, (2 << 30, hard))
    yield
    resource.setrlimit(resource.RLIMIT_AS, (soft, hard))


def read_or_refuse(data: bytes) -> None:
    try:
        value = payload.loads(data)
    except Unreadable:
        return
    assert plain_problem(value) is None


@pytest.mark.usefixtures("little_memory")
@given(st.binary(max_size=200).map(lambda tail: b"\x80\x05" + tail))
@settings(max_examples=500)
def test_random_bytes_are_read_or_refused(data: bytes) -> None:
    read_or_refuse(data)


seed = [uuid1(), date(2026, 1, 1), datetime(2026, 1, 1, tzinfo=timezone.utc), Decimal("1.5")]
pickles = [
    pickle.dumps(value, protocol)
    for value in (seed, ("a.b", None, (1.0, {"k": {1}}), {}), Evil(os._exit, 1), Evil(eval, "1/0"))
    for protocol in (2, 4, 5)
]


@pytest.mark.usefixtures("little_memory")
@given(st.data())
@settings(max_examples=500)
def test_mutated_pickles_are_read_or_refused(data: st.DataObject) -> None:
    mutated = bytearray(data.draw(st.sampled_from(pickles)))
    for _ in range(data.draw(st.integers(1, 4))):
        at = data.draw(st.integers(0, len(mutated) - 1))
        mutated[at : at + data.draw(st.integers(0, 2))] = data.draw(st.binary(max_size=3))
    read_or_refuse(bytes(mutated))


@pytest.mark.parametrize(
    "data",
    [
        zlib.compress(b"x" * (MAX_BYTES + 1)),
        payload.dumps(("a.b", None, (), {}, 1)),
        payload.dumps(("a.b", "an object", (), {})),
        payload.dumps((1, None, (), {})),
        payload.dumps(("a.b", None, 1, {})),
        payload.dumps(("a.b", None, (), {1: 2})),
        payload.dumps("a call"),
    ],
)
def test_what_is_no_call_is_unreadable(data: bytes) -> None:
    with pytest.raises(Unreadable):
        payload.read_call(data)


def test_a_call_in_json_is_read() -> None:
    assert payload.read_call(zlib.compress(b'["a.b", null, [1], {"k": 2}]')) == (
        "a.b",
        (1,),
        {"k": 2},
    )


def test_results_are_read_as_rq_writes_them() -> None:
    assert payload.read_result({}) is None
    assert payload.read_result({b"return_value": base64.b64encode(pickle.dumps([1]))}) == [1]
    text = base64.b64encode(zlib.compress(b"Traceback\nValueError: x"))
    assert payload.read_exception({b"exc_string": text}).endswith("ValueError: x")
    for broken in ({b"return_value": b"!"}, {b"return_value": b"eA=="}):
        with pytest.raises(Unreadable):
            payload.read_result(broken)


def test_too_large_is_refused() -> None:
    with pytest.raises(ArgumentError, match="store the data elsewhere and pass a reference"):
        payload.dumps(b"x" * MAX_BYTES)
    with pytest.raises(Unreadable, match="larger than"):
        payload.loads(b"x" * (MAX_BYTES + 1))


@given(st.lists(st.one_of(st.integers(), st.text(max_size=60), st.floats(), st.none())))
def test_a_short_call_is_what_rq_reads_and_hardly_longer(args: list[object]) -> None:
    whole = pickle.dumps(("shop.reports.build", None, tuple(args), {}), protocol=5)
    written = payload.write_call("shop.reports.build", tuple(args), {})
    assert zlib.decompress(written) == whole
    assert len(written) <= max(len(whole) + 11, len(zlib.compress(whole)))


def test_a_short_call_that_is_damaged_or_cut_off_is_returned_as_it_is() -> None:
    call = payload.write_call("shop.reports.build", (1,), {})
    assert payload.decompress(call) == zlib.decompress(call)
    for at in (3, 4, 5, 6, 40, len(call) - 1):  # a length, its complement, the call, a checksum
        damaged = bytearray(call)
        damaged[at] ^= 1
        assert payload.decompress(bytes(damaged)) == damaged
    for broken in (b"", b"\x78", call[:3], call[:4], call[:-1]):
        assert payload.decompress(broken) == broken
    with pytest.raises(Unreadable):
        payload.decompress(call, most=10)
