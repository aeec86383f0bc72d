"""RQ's keys and fields, and plain data <-> bytes: the one place that reads or writes a job.

The bytes are a pickle, because a stock `rq worker` unpickles; but of plain data only, and all of
ours read it with a reader that can call nothing but the constructors of that plain data.
"""

from __future__ import annotations

import io
import json
import pickle
import zlib
from binascii import a2b_base64
from collections.abc import Callable, Iterable
from datetime import date, datetime, time, timedelta, timezone
from decimal import Decimal
from time import gmtime, strftime, time_ns
from typing import Any, ClassVar
from uuid import UUID

from werk.errors import ArgumentError, Unreadable
from werk.settings import KEY_PREFIX as KEY_PREFIX

# The version of what werk writes in the records of jobs and workers, their field werk_v; absent: 0,
# as 0.1.0 wrote them. A change that the version before cannot read gets the next number. Versions
# next to each other can run side by side while a fleet is deployed.
RECORD_VERSION = 1

MAX_BYTES = 64 * 1024 * 1024  # of one value, decompressed
MAX_DEPTH = 100  # far below Python's and C's recursion limits
MAX_PARTS = 1_000_000  # a few shared references can stand for more parts than memory holds

# Up to how many seconds executions take, in the histogram that horses keep (horse.Horse.tally).
TALLY_BOUNDS_S = (0.01, 0.1, 0.5, 1, 5, 10, 30, 60, 300, 1800, 3600)
FAILED_WEBHOOKS = "failed_webhooks"  # beside it: how many failed or were left out

# zlib.compress() allocates 268 KB and clears much of it, which for a few bytes can take 50 us.
# With a small window it makes the same of so few, but for the header, which names the window.
FEW = 128
ZLIB_HEADER = b"\x78\x9c"

UNSERIALIZABLE = "Unserializable return value"  # rq/defaults.py
NOT_KEPT = "werk_not_kept"  # field of a job: why its worker wrote that text
LONGEST_REASON = 500  # characters
PLAIN = "plain data (numbers, text, bytes, dates, lists, dicts)"

SCALARS = frozenset((type(None), bool, int, float, str, bytes, date, timedelta, Decimal))
_SEQUENCES = frozenset((list, tuple, set, frozenset))
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


def plain_problem(value: object) -> str | None:
    """Return why a value cannot be sent and what to send instead, or None when it is plain data."""
    if type(value) in SCALARS:
        return None
    parts_left = [MAX_PARTS]
    try:
        return _problem(value, MAX_DEPTH, parts_left)
    except RecursionError:
        return f"is nested deeper than {MAX_DEPTH} levels; flatten it"


def _problem(value: object, depth: int, parts_left: list[int]) -> str | None:
    kind = type(value)
    parts_left[0] -= 1
    if kind in SCALARS:
        return None
    if parts_left[0] < 0:
        return f"has more than {MAX_PARTS:,} parts; store the data elsewhere and pass a reference"
    if kind is dict:
        inner: Iterable[object] = (part for pair in value.items() for part in pair)  # type: ignore[attr-defined]
    elif kind in _SEQUENCES:
        inner = value  # type: ignore[assignment]
    else:
        return _leaf_problem(value)
    if depth == 0:
        return f"is nested deeper than {MAX_DEPTH} levels; flatten it"
    for part in inner:
        if problem := _problem(part, depth - 1, parts_left):
            return problem if problem.startswith(_OF_THE_WHOLE) else f"contains what {problem}"
    return None


def _leaf_problem(value: object) -> str | None:
    """Say what is wrong with a value that is neither a simple one nor a container."""
    kind = type(value)
    if kind is datetime or kind is time:
        zone = value.tzinfo  # type: ignore[attr-defined]
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


def loads(data: bytes) -> Any:
    """Return the plain data in a pickle or in JSON, as RQ's two serializers write it; run nothing.

    Raises Unreadable for anything else: broken, too large, too deep, or naming what is not plain.
    """
    size = len(data)
    if size > MAX_BYTES:
        raise Unreadable(f"larger than {MAX_BYTES:,} bytes")
    try:
        if data[:1] != b"\x80":
            value = json.loads(data)
        elif size <= SHORT and is_simple(data):
            value = pickle.loads(data)
            if size <= MAX_DEPTH:  # bytes: each level takes one
                return value
        else:
            value = _Reader(io.BytesIO(data)).load()
    except Unreadable:
        raise
    except Exception as error:  # a hostile pickle can make a constructor raise anything
        why = f"{type(error).__name__}: {str(error)[:100]}"
        raise Unreadable(f"not plain data: {why}") from None
    if problem := plain_problem(value):
        raise Unreadable(f"not plain data: it {problem}")
    return value


def is_simple(data: bytes) -> bool:
    """Tell whether a pickle has only opcodes that name nothing.

    Then even the reader in C, ten times as fast, can do no more than build plain data.
    """
    at, end, lengths = 0, len(data), _LENGTH
    while at < end:
        size = lengths[data[at]]
        if size > 0:
            at += size
        elif size == _COUNTED and at + 1 < end:
            at += 2 + data[at + 1]
        else:
            return False
    return at == end


def read_call(data: bytes) -> tuple[str, tuple[Any, ...], dict[str, Any]]:
    """Return path, args and kwargs of a job's `data` field. Raises Unreadable."""
    try:
        path, instance, args, kwargs = loads(decompress(data))
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
    """Return the bytes of a field that RQ may have compressed. Raises Unreadable if too many."""
    try:
        if len(data) * _ZLIB_MOST <= most:
            return zlib.decompress(data)
        plain = zlib.decompressobj().decompress(data, most + 1)
    except zlib.error:
        return data  # older RQ did not compress (rq.job.Job.restore)
    if len(plain) > most:
        raise Unreadable(f"larger than {most:,} bytes")
    return plain


def read_result(fields: dict[bytes, bytes]) -> Any:
    """Return the value in an entry of a job's results (rq.results.Result). Raises Unreadable.

    UNSERIALIZABLE stands for a value that its worker could not store.
    """
    value = fields.get(b"return_value")
    return None if value is None else loads(_unbase64(value))


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


_CONSTRUCTORS: dict[tuple[str, str], type] = {
    (kind.__module__, kind.__name__): kind
    for kind in (date, time, timedelta, datetime, timezone, Decimal, UUID)
}

_OPCODES = """
    PROTO FRAME STOP MARK MEMOIZE BINPUT LONG_BINPUT BINGET LONG_BINGET NONE NEWTRUE NEWFALSE
    BININT BININT1 BININT2 LONG1 LONG4 BINFLOAT BINUNICODE SHORT_BINUNICODE BINUNICODE8
    BINBYTES SHORT_BINBYTES BINBYTES8 EMPTY_TUPLE TUPLE TUPLE1 TUPLE2 TUPLE3
    EMPTY_LIST APPEND APPENDS EMPTY_DICT SETITEM SETITEMS EMPTY_SET ADDITEMS FROZENSET
    GLOBAL STACK_GLOBAL REDUCE NEWOBJ BUILD
""".split()

_ZLIB_MOST = 1032  # times smaller a stream of zlib can be than its content
SHORT = 4096  # bytes: no nesting in so few can exhaust the stack
_COUNTED, _REFUSED = -1, 0

# How long each opcode is, with its argument, that can be in the pickle of a call of simple values.
_LENGTH = [_REFUSED] * 256
for _size, _names in {
    1: "STOP MARK MEMOIZE NONE NEWTRUE NEWFALSE EMPTY_TUPLE TUPLE TUPLE1 TUPLE2 TUPLE3 "
    "EMPTY_LIST APPEND APPENDS EMPTY_DICT SETITEM SETITEMS",
    2: "PROTO BININT1 BINGET",
    3: "BININT2",
    5: "BININT",
    9: "BINFLOAT FRAME",
    _COUNTED: "SHORT_BINUNICODE SHORT_BINBYTES LONG1",
}.items():
    for _opcode in _names.split():
        _LENGTH[getattr(pickle, _opcode)[0]] = _size

_BASE: dict[int, Callable[[Any], None]] = pickle._Unpickler.dispatch


class _Reader(pickle._Unpickler):
    """A reader of pickles of plain data: the opcodes of protocol 2+ that it needs, no more.

    On the one in Python, not the one in C: ten bytes make that one allocate 64 GB (LONG_BINPUT).
    """

    dispatch: ClassVar[dict[int, Callable[[Any], None]]] = {
        code: _BASE[code] for code in (getattr(pickle, name)[0] for name in _OPCODES)
    }

    def __init__(self, file: io.BytesIO) -> None:
        super().__init__(file)
        self.heights: dict[int, int] = {}  # of tuples and frozensets, by id

    def find_class(self, module: str, name: str) -> type:
        try:
            return _CONSTRUCTORS[module, name]
        except KeyError:
            raise Unreadable(f"not plain data: it names {module}.{name}"[:200]) from None

    def check_height(self) -> None:
        """Refuse a deep tuple before it is hashed: hashing it recurses in C without a limit."""
        top = self.stack[-1]  # type: ignore[attr-defined]
        inner = (part for part in top if type(part) is tuple or type(part) is frozenset)
        height = 1 + max((self.heights.get(id(part), 0) for part in inner), default=0)
        if height > MAX_DEPTH:
            raise Unreadable(f"nested deeper than {MAX_DEPTH} levels")
        self.heights[id(top)] = height

    def load_newobj(self) -> None:
        if self.stack[-2] is not UUID:  # type: ignore[attr-defined]
            raise Unreadable("not plain data: it makes an object")
        _BASE[pickle.NEWOBJ[0]](self)

    def load_build(self) -> None:
        target, state = self.stack[-2:]  # type: ignore[attr-defined]
        if type(target) is not UUID or type(state) is not dict:  # else it could change class UUID
            raise Unreadable("not plain data: it sets an object's state")
        _BASE[pickle.BUILD[0]](self)


def _with_height(load: Callable[[Any], None]) -> Callable[[Any], None]:
    def load_and_check(reader: _Reader) -> None:
        load(reader)
        reader.check_height()

    return load_and_check


_Reader.dispatch[pickle.NEWOBJ[0]] = _Reader.load_newobj
_Reader.dispatch[pickle.BUILD[0]] = _Reader.load_build
for _code in (pickle.TUPLE, pickle.TUPLE1, pickle.TUPLE2, pickle.TUPLE3, pickle.FROZENSET):
    _Reader.dispatch[_code[0]] = _with_height(_BASE[_code[0]])
