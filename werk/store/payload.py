"""RQ's keys and fields, and plain data <-> bytes: the one place that reads or writes a job.

The bytes are a pickle, because a stock `rq worker` unpickles; but of plain data only, and all of
ours read it with a reader that can call nothing but the constructors of that plain data.
"""

from __future__ import annotations

import json
import pickle
import zlib
from binascii import a2b_base64
from collections.abc import Iterable
from datetime import date, datetime, time, timedelta, timezone
from decimal import Decimal
from time import gmtime, strftime, time_ns
from typing import Any
from uuid import UUID

from werk.errors import ArgumentError, TooLarge, Unreadable
from werk.settings import KEY_PREFIX as KEY_PREFIX

# The version of what werk writes in the records of jobs and workers, their field werk_v; absent: 0,
# as 0.1.0 wrote them. A change that the version before cannot read gets the next number. Versions
# next to each other can run side by side while a fleet is deployed.
RECORD_VERSION = 1

MAX_BYTES = 64 * 1024 * 1024  # of one value, decompressed
MAX_DEPTH = 100  # far below Python's and C's recursion limits
MAX_READ_DEPTH = MAX_DEPTH + 2  # arguments stand in a tuple, and that in the call
MAX_PARTS = 1_000_000  # a few shared references can stand for more parts than memory holds

# As how many parts a value counts whose pickle takes more memory to read than that of a number; a
# zone counts beside its time.
LARGE, LARGER, ZONE = 3, 4, 2

# Up to how many seconds executions take, in the histogram that horses keep (worker.counters).
TALLY_BOUNDS_S = (0.01, 0.1, 0.5, 1, 5, 10, 30, 60, 300, 1800, 3600)
FAILED_WEBHOOKS = "failed_webhooks"  # beside it: how many failed or were left out

# zlib.compress() allocates 268 KB and clears much of it, which for a few bytes can take 50 us.
# With a small window it makes the same of so few, but for the header, which names the window.
FEW = 128
MANY = MAX_PARTS // 4  # bytes; with fewer, arguments that are plain are not too many together
ZLIB_HEADER = b"\x78\x9c"

UNSERIALIZABLE = "Unserializable return value"  # rq/defaults.py
NOT_KEPT = "werk_not_kept"  # field of a job: why its worker wrote that text
LONGEST_REASON = 500  # characters
PLAIN = "plain data (numbers, text, bytes, dates, lists, dicts)"

SCALARS = frozenset((type(None), bool, int, float, str, bytes, date, timedelta, Decimal))
_LIGHT = frozenset((type(None), bool, int, float, str, bytes))
_SEQUENCES = frozenset((list, tuple, set, frozenset))
_IS_LARGE = frozenset((dict, set, frozenset, date, timedelta, Decimal))
_CALL = (tuple, list)  # pickle's, and JSON's
_TO_CONVERT = (bool, int, float, str, bytes, list, tuple, dict, set, frozenset, datetime, date)
_OF_THE_WHOLE = ("contains", "has more", "is nested")  # said of a part, it holds for all around it


def key(*parts: str) -> str:
    """Return a Redis key under RQ's prefix: key("job", id)."""
    return ":".join((KEY_PREFIX, *parts))


def timestamp(moment: datetime | None = None) -> str:
    """Return a UTC time as RQ writes it in a job's hash (rq.utils.utcformat); without one, now."""
    moment = moment or datetime.now(timezone.utc)
    return moment.isoformat(timespec="microseconds")[:26] + "Z"


_second = ("", 0, "")  # and what is made of it; one value: threads may be here at once


def iso(moment: float) -> str:
    """Return a Unix time as RQ writes it (rq.utils.utcformat)."""
    second = int(moment)
    _, known, text = _second
    if second != known:
        _, _, text = _remember(second)
    return f"{text}.{int((moment - second) * 1e6):06d}Z"


def clock() -> tuple[int, str, str]:
    """Return now: in whole Unix seconds, in Unix seconds as text, and as RQ writes it."""
    nanos = str(time_ns())  # cut as a text: that of a float takes three times as long
    second, fraction = nanos[:-9], nanos[-9:-3]
    known, number, text = _second
    if second != known:
        _, number, text = _remember(int(second))
    return number, f"{second}.{fraction}", f"{text}.{fraction}Z"


def _remember(second: int) -> tuple[str, int, str]:
    global _second
    _second = made = str(second), second, strftime("%Y-%m-%dT%H:%M:%S", gmtime(second))
    return made


def moment(text: str | None, default: float) -> float:
    """Return a time that RQ or we have written as text as Unix time."""
    try:
        return datetime.fromisoformat(text or "").timestamp()
    except (ValueError, OverflowError):
        return default


def pairs(reply: Any) -> dict[Any, Any]:
    """Return the dict in a flat reply of names and values."""
    return dict(zip(reply[::2], reply[1::2], strict=True))


def text(data: bytes | str | None) -> str:
    """Return a reply as text, whatever it holds; of what is not there ''."""
    return data if isinstance(data, str) else (data or b"").decode("utf-8", "replace")


# --- what is plain


def plain_problem(value: object, most_parts: int = MAX_PARTS, depth: int = MAX_DEPTH) -> str | None:
    """Return why a value cannot be sent and what to send instead, or None when it is plain data."""
    if type(value) in SCALARS:
        return None
    parts_left = [most_parts]
    try:
        problem = _problem(value, depth, parts_left)
    except RecursionError:
        return f"is nested deeper than {MAX_DEPTH} levels; flatten it"
    if parts_left[0] < 0:
        return f"has more than {most_parts:,} parts; store the data elsewhere and pass a reference"
    return problem


def _problem(value: object, depth: int, parts_left: list[int]) -> str | None:
    kind = type(value)
    parts_left[0] -= 1
    if kind in _LIGHT:
        return None
    if parts_left[0] < 0:
        return "has more parts"
    if kind in _IS_LARGE:
        parts_left[0] -= LARGE - 1
    if kind is dict:
        inner: Iterable[object] = (part for pair in value.items() for part in pair)  # type: ignore[attr-defined]
    elif kind in _SEQUENCES:
        inner = value  # type: ignore[assignment]
    elif kind in SCALARS:
        return None
    else:
        parts_left[0] -= LARGER - 1
        return _leaf_problem(value, parts_left)
    if depth == 0:
        return f"is nested deeper than {MAX_DEPTH} levels; flatten it"
    for part in inner:
        if problem := _problem(part, depth - 1, parts_left):
            return problem if problem.startswith(_OF_THE_WHOLE) else f"contains what {problem}"
    return None


def _leaf_problem(value: object, parts_left: list[int]) -> str | None:
    """Say what is wrong with a value that is neither a simple one nor a container."""
    kind = type(value)
    if kind is datetime or kind is time:
        zone = value.tzinfo  # type: ignore[attr-defined]
        if zone is not None and zone is not timezone.utc:
            parts_left[0] -= ZONE
        if zone is None or type(zone) is timezone:
            return None
        convert = ".astimezone(timezone.utc)" if kind is datetime else ".replace(tzinfo=None)"
        return f"is a {kind.__name__} of a {type(zone).__name__} time zone; use {convert}"
    if kind is UUID:
        number = getattr(value, "int", None)  # a pickle can leave it out
        whole = type(number) is int and 0 <= number < 1 << 128
        return None if whole else "is a broken UUID; use another"
    for plain in (*_TO_CONVERT, Decimal):
        if isinstance(value, plain):
            base = plain.__name__
            return f"is a {name_of(kind)}, a kind of {base}; use {base}(...) or its .value"
    if kind is bytearray or kind is memoryview:
        return f"is a {kind.__name__}; use bytes(...)"
    return f"is a {name_of(kind)}; use {PLAIN}"


def name_of(kind: type) -> str:
    """Return how a type is called in messages."""
    module = kind.__module__
    return kind.__qualname__ if module == "builtins" else f"{module}.{kind.__qualname__}"


# --- plain data -> bytes


def dumps(value: object) -> bytes:
    """Return the pickle of plain data. Raises ArgumentError if it is not plain, or is too large."""
    if type(value) not in SCALARS and (problem := plain_problem(value)):
        raise ArgumentError(f"the value {problem}")
    if type(value) is bytes:
        check_size(len(value))  # a pickle would be a second copy
    return _pickled(value)


def _pickled(value: object) -> bytes:
    data = pickle.dumps(value, 5)
    check_size(len(data))
    return data


def check_size(size: int) -> None:
    """Raise ArgumentError if that many bytes are too many for a job's arguments, or its result."""
    if size > MAX_BYTES:
        raise ArgumentError(
            f"{size:,} bytes are more than the limit of {MAX_BYTES:,}; "
            "store the data elsewhere and pass a reference"
        )


def write_call(path: str, args: tuple[object, ...], kwargs: dict[str, object]) -> bytes:
    """Return the `data` field of a job (rq.job.Job.data) with arguments known to be plain.

    Raises ArgumentError if they are too large.
    """
    data = _pickled((path, None, args, kwargs))
    if len(data) >= FEW:
        if len(data) > MANY and (problem := plain_problem((args, kwargs), depth=MAX_READ_DEPTH)):
            raise ArgumentError(f"the arguments together: a value that {problem}")
        return zlib.compress(data)
    small = zlib.compressobj(wbits=9, memLevel=1)
    return ZLIB_HEADER + (small.compress(data) + small.flush())[2:]


def digest(value: object) -> str:
    """Return a short name of plain data, the same in every process."""
    from hashlib import blake2b  # loads OpenSSL, and most enqueues do without

    return blake2b(_one_form(value).encode(), digest_size=16).hexdigest()


def _one_form(value: object) -> str:
    """Return plain data as text, however a set or a dict happens to be ordered."""
    if type(value) is int:
        return hex(value)  # of any length
    if type(value) is dict:
        return f"dict{sorted(map(_one_form, value.items()))}"
    if type(value) in _SEQUENCES:
        parts = [_one_form(part) for part in value]  # type: ignore[attr-defined]
        is_set = type(value) in (set, frozenset)
        return f"{type(value).__name__}{sorted(parts) if is_set else parts}"
    return repr(value)


# --- bytes -> plain data


def loads(data: bytes, most_parts: int = MAX_PARTS) -> Any:
    """Return the plain data in a pickle or in JSON, as RQ's two serializers write it; run nothing.

    Raises Unreadable for anything else: broken, too large, too deep, or naming what is not plain.
    """
    size = len(data)
    if size > MAX_BYTES:
        raise TooLarge(f"larger than {MAX_BYTES:,} bytes")
    try:
        if data[:1] != b"\x80":
            value = _read_json(data, most_parts)
        elif size <= SHORT and is_simple(data):
            value = pickle.loads(data)
            if size <= MAX_DEPTH:  # bytes: each level takes one
                return value
        else:
            from werk.store.reader import read  # most calls do without

            value = read(data, most_parts)
    except Unreadable:
        raise
    except Exception as error:  # a hostile pickle can make a constructor raise anything
        why = f"{type(error).__name__}: {str(error)[:100]}"
        raise Unreadable(f"not plain data: {why}") from None
    if problem := plain_problem(value, most_parts, MAX_READ_DEPTH):
        raise Unreadable(f"not plain data: it {problem}")
    return value


def _read_json(data: bytes, most_parts: int) -> Any:
    check_json(data, most_parts)
    return json.loads(data.decode())


def check_json(data: bytes, most_parts: int) -> None:
    """Raise Unreadable if JSON has more parts: each but one follows one of four characters."""
    if _parts_in_json(data) > most_parts:
        bare = data.replace(rb"\\", b"").replace(rb"\"", b"")  # then each " begins or ends a text
        is_too_much = bare.count(b'"') > 2 * most_parts
        if is_too_much or _parts_in_json(b"".join(bare.split(b'"')[::2])) > most_parts:
            raise Unreadable(f"it has more than {most_parts:,} parts")


def _parts_in_json(text: bytes) -> int:
    return sum(map(text.count, (b",", b":", b"[", b"{")))


def is_simple(data: bytes) -> bool:
    """Tell whether a short pickle has only opcodes that name nothing, and refers to no tuple.

    Then even the reader in C, ten times as fast, can do no more than build plain data, and takes
    no longer for it than the pickle is long.
    """
    at, end, lengths, fetched = 0, len(data), _LENGTH, 0
    while at < end:
        size = lengths[data[at]]
        if size > 0:
            at += size
        elif size == _COUNTED and at + 1 < end:
            at += 2 + data[at + 1]
        elif size == _FETCHING:
            fetched |= 1 << data[at + 1]
            at += 2
        else:
            return False
    if fetched and _may_be_tuples(data, fetched):
        return False
    return at == end


def _may_be_tuples(data: bytes, fetched: int) -> bool:
    """Tell whether a pickle of those opcodes refers to a tuple; bits of `fetched` say to what.

    A tuple that holds another twice, and so on, takes for ever to hash, and may be a key.
    """
    at, last, lengths = 0, 0, _LENGTH
    while fetched and at < len(data):
        code = data[at]
        if code == _MEMOIZE:
            if fetched & 1 and last not in _SURELY_NO_TUPLE:
                return True
            fetched >>= 1
            at += 1
            continue
        last, size = code, lengths[code]
        at += size if size > 0 else 2 + data[at + 1] if size == _COUNTED else 2
    return fetched > 0


def read_call(
    data: bytes, most: int = MAX_BYTES, most_parts: int = MAX_PARTS
) -> tuple[str, tuple[Any, ...], dict[str, Any]]:
    """Return path, args and kwargs of a job's `data` field. Raises Unreadable."""
    try:
        path, instance, args, kwargs = loads(decompress(data, most), most_parts)
    except (TypeError, ValueError):
        raise Unreadable("not a call") from None
    if instance is not None:
        raise Unreadable("a call of an object's method; only functions are run")
    if type(path) is not str or type(args) not in _CALL or type(kwargs) is not dict:
        raise Unreadable("not a call")
    if kwargs and not all(type(name) is str for name in kwargs):
        raise Unreadable("not a call")
    return path, tuple(args), kwargs


def decompress(data: bytes, most: int = MAX_BYTES) -> bytes:
    """Return the bytes of a field that RQ may have compressed. Raises TooLarge."""
    try:
        if len(data) * _ZLIB_MOST <= most:
            return zlib.decompress(data)
        plain = zlib.decompressobj().decompress(data, most + 1)
    except zlib.error:
        return data  # older RQ did not compress (rq.job.Job.restore)
    if len(plain) > most:
        raise TooLarge(f"larger than {most:,} bytes")
    return plain


def read_result(fields: dict[bytes, bytes], most_parts: int = MAX_PARTS) -> Any:
    """Return the value in an entry of a job's results (rq.results.Result). Raises Unreadable.

    UNSERIALIZABLE stands for a value that its worker could not store.
    """
    value = fields.get(b"return_value")
    return None if value is None else loads(_unbase64(value), most_parts)


def read_not_kept(reason: bytes | str | None) -> str:
    """Return why a result was not kept, from the field NOT_KEPT; a plain RQ worker writes none."""
    return text(reason)[:LONGEST_REASON] or f"the worker could not store it; use {PLAIN}"


def read_exception(fields: dict[bytes, bytes], most: int = MAX_BYTES) -> str:
    """Return the traceback in an entry of a job's results, or ''. Raises Unreadable."""
    text = fields.get(b"exc_string")
    return decompress(_unbase64(text), most).decode("utf-8", "replace") if text else ""


def _unbase64(text: bytes) -> bytes:
    try:
        return a2b_base64(text, strict_mode=True)
    except ValueError:
        raise Unreadable("not base64") from None


_ZLIB_MOST = 1032  # times smaller a stream of zlib can be than its content
SHORT = 4096  # bytes: no nesting in so few can exhaust the stack
_COUNTED, _REFUSED, _FETCHING = -1, 0, -2

# How long each opcode is, with its argument, that can be in the pickle of a call of simple values.
_LENGTH = [_REFUSED] * 256
for _size, _names in {
    1: "STOP MARK MEMOIZE NONE NEWTRUE NEWFALSE EMPTY_TUPLE TUPLE TUPLE1 TUPLE2 TUPLE3 "
    "EMPTY_LIST APPEND APPENDS EMPTY_DICT SETITEM SETITEMS",
    2: "PROTO BININT1",
    3: "BININT2",
    5: "BININT",
    9: "BINFLOAT FRAME",
    _COUNTED: "SHORT_BINUNICODE SHORT_BINBYTES LONG1",
    _FETCHING: "BINGET",
}.items():
    for _opcode in _names.split():
        _LENGTH[getattr(pickle, _opcode)[0]] = _size

_MEMOIZE = pickle.MEMOIZE[0]
_SURELY_NO_TUPLE = frozenset(
    opcode[0]
    for opcode in (
        pickle.SHORT_BINUNICODE,
        pickle.SHORT_BINBYTES,
        pickle.EMPTY_LIST,
        pickle.EMPTY_DICT,
    )
)
