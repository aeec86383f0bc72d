"""Plain data <-> bytes: the one place that writes and reads a job's call and its result.

The bytes are a pickle, because a plain RQ worker unpickles them; but of plain data only, and werk
reads them with a reader that can call nothing but the constructors of that plain data.
"""

from __future__ import annotations

import json
import pickle
import zlib
from binascii import a2b_base64
from typing import Any

from werk.errors import ArgumentError, TooLarge, Unreadable, text_of
from werk.store.keys import text
from werk.store.plain import (
    MAX_BYTES,
    MAX_DEPTH,
    MAX_PARTS,
    MAX_READ_DEPTH,
    PLAIN,
    SCALARS,
    plain_problem,
)

# zlib.compress() allocates 268 KB and clears much of it, which for a few bytes can take 50 us. So
# few bytes are stored in one block that is not compressed (RFC 1950, RFC 1951 section 3.2.4).
FEW = 128
MANY = MAX_PARTS // 4  # bytes; a shorter call cannot have more than MAX_PARTS parts
STORED = b"\x78\x01\x01"  # zlib's header, and that of a last block which is stored

UNSERIALIZABLE = "Unserializable return value"  # rq/defaults.py
LONGEST_REASON = 500  # characters
_CALL = (tuple, list)  # pickle's, and JSON's

# --- plain data -> bytes


def dumps(value: object) -> bytes:
    """Return the pickle of plain data. Raises ArgumentError if it is not plain, or is too large."""
    if type(value) not in SCALARS and (problem := plain_problem(value)):
        raise ArgumentError(f"the value {problem}")
    if type(value) is bytes:
        check_size(len(value))  # a pickle would be a second copy
    data = pickle.dumps(value, 5)
    if len(data) > MAX_BYTES:
        check_size(len(data))
    return data


def check_size(size: int) -> None:
    """Raise ArgumentError if `size` bytes are too many for the arguments or the result of a job."""
    if size > MAX_BYTES:
        raise ArgumentError(
            f"{size:,} bytes are more than the limit of {MAX_BYTES:,}; "
            "store the data elsewhere and pass a reference"
        )


def write_call(path: str, args: tuple[object, ...], kwargs: dict[str, object]) -> bytes:
    """Return the `data` field of a job (rq.job.Job.data) with arguments known to be plain.

    Raises ArgumentError if they are too large.
    """
    data = pickle.dumps((path, None, args, kwargs), 5)
    if len(data) >= FEW:
        check_size(len(data))
        if len(data) > MANY and (problem := plain_problem((args, kwargs), depth=MAX_READ_DEPTH)):
            raise ArgumentError(f"the list of arguments {problem}")
        return zlib.compress(data)
    lengths = len(data).to_bytes(2, "little") + (len(data) ^ 0xFFFF).to_bytes(2, "little")
    return STORED + lengths + data + zlib.adler32(data).to_bytes(4, "big")


# --- bytes -> plain data


def loads(data: bytes, most_parts: int = MAX_PARTS) -> Any:
    """Return the plain data in a pickle or in JSON, as RQ's two serializers write it; run nothing.

    Raises Unreadable for anything else: broken, too large, too deep, or with names of objects.
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
        why = f"{type(error).__name__}: {text_of(error)[:100]}"
        raise Unreadable(f"not plain data: {why}") from None
    if problem := plain_problem(value, most_parts, MAX_READ_DEPTH):
        raise Unreadable(f"not plain data: it {problem}")
    return value


def _read_json(data: bytes, most_parts: int) -> Any:
    check_json(data, most_parts)
    return json.loads(data.decode())


def check_json(data: bytes, most_parts: int) -> None:
    """Raise Unreadable for more than `most_parts` parts: each but one follows one of , : [ {."""
    if _parts_in_json(data) > most_parts:
        bare = data.replace(rb"\\", b"").replace(rb"\"", b"")  # then each " begins or ends a text
        is_too_much = bare.count(b'"') > 2 * most_parts
        if is_too_much or _parts_in_json(b"".join(bare.split(b'"')[::2])) > most_parts:
            raise Unreadable(f"it has more than {most_parts:,} parts")


def _parts_in_json(text: bytes) -> int:
    return sum(map(text.count, (b",", b":", b"[", b"{")))


def is_simple(data: bytes) -> bool:
    """Return whether a short pickle has only opcodes that name nothing, and refers to no tuple.

    Then even the reader in C, ten times as fast, can do no more than build plain data, in a time
    that is proportional to the length of the pickle.
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
    """Return whether a pickle of those opcodes refers to a tuple; bits of `fetched` say to what.

    A tuple that holds another twice, and so on, takes exponential time to hash, and may be a key.
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


_ZLIB_MOST = 1032  # how many times smaller than its content a zlib stream can be
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
