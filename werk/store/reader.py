"""The reader of pickles of plain data: it counts what it makes, and stops at its limit.

payload.py uses it for every pickle that is not short and simple. The cost of a pickle is the memory
that its values, and what the reader needs for them, take (in bytes, apart from the content of
texts, which cannot be more than the pickle has). It is charged while the pickle is read, before or
as the memory is allocated.
"""

from __future__ import annotations

import io
import pickle
from collections.abc import Callable, Iterable
from datetime import date, datetime, time, timedelta, timezone
from decimal import Decimal
from itertools import islice
from typing import Any
from uuid import UUID

from werk.errors import Unreadable
from werk.store.plain import MAX_DEPTH, MAX_READ_DEPTH

PART_COST = 128  # bytes: enough for each part that an enqueue accepts (plain.plain_problem)
SPARE = 256 * 1024  # so that it does not matter how a small pickle spends it
GROWTH_COST = 96  # of each item, while a dict or a set grows: it has two tables for a moment
NESTED_COST = 160  # of what is remembered of a tuple in a tuple
HASH_COST = 8  # of each part of a tuple, each time that it is hashed; in time, not in memory

# Tuples are hashed again each time. A frozenset is not, but is compared with those of its hash.
_HASHED = (tuple, frozenset)

_CONSTRUCTORS: dict[tuple[str, str], type] = {
    (kind.__module__, kind.__name__): kind
    for kind in (date, time, timedelta, datetime, timezone, Decimal, UUID)
}

# The cost of each opcode: what it makes, and its place on the stack. None is free: each takes time.
_COST = {
    8: "PROTO FRAME STOP BINGET LONG_BINGET NONE NEWTRUE NEWFALSE BININT1 EMPTY_TUPLE "
    "APPEND APPENDS SETITEM SETITEMS ADDITEMS",
    12: "MEMOIZE BINPUT LONG_BINPUT",
    16: "MARK BUILD",
    40: "BININT BININT2 LONG1 LONG4 BINFLOAT",
    64: "BINBYTES SHORT_BINBYTES BINBYTES8 EMPTY_LIST GLOBAL STACK_GLOBAL TUPLE TUPLE1 NEWOBJ",
    72: "BINUNICODE SHORT_BINUNICODE BINUNICODE8 EMPTY_DICT TUPLE2 TUPLE3",
    112: "REDUCE",
    224: "EMPTY_SET FROZENSET",
}
_BASE: dict[int, Callable[[Any], None]] = pickle._Unpickler.dispatch


def read(data: bytes, most_parts: int) -> Any:
    """Return the plain data in a pickle. Raises Unreadable; a broken pickle may raise anything."""
    reader = _Reader(data, most_parts)
    try:
        return reader.load()
    finally:
        vars(reader).clear()  # an error's traceback would keep all that was read


class _Memo(list[Any]):
    """What a pickle refers to, by number. A dict would take ten times the memory."""

    def __setitem__(self, index: Any, value: Any) -> None:
        if index == len(self):
            self.append(value)
        elif index < len(self):
            super().__setitem__(index, value)
        else:
            raise Unreadable("not plain data: its memo has gaps")


class _Reader(pickle._Unpickler):
    """Only the opcodes of protocol 2+ that plain data needs.

    On the reader in Python, not the one in C: ten bytes make that one allocate 64 GB (LONG_BINPUT).
    """

    stack: list[Any]

    def __init__(self, data: bytes, most_parts: int) -> None:
        file = io.BytesIO(data)
        super().__init__(file)
        self.read, self.readline = file.read, file.readline
        self.memo = _Memo()
        self.most_parts, self.left = most_parts, most_parts * PART_COST + SPARE
        self.nested: dict[int, tuple[int, int]] = {}  # by id: how deep and large what is in it is

    def load(self) -> Any:
        self.metastack: list[list[Any]] = []
        self.stack = []
        self.append = self.stack.append
        read, costs, loads = self.read, _COSTS, _LOADS
        try:
            while code := read(1):
                self.left -= costs[code[0]]
                if self.left < 0:
                    self.refuse()
                loads[code[0]](self)
        except pickle._Stop as stop:  # type: ignore[attr-defined]
            return stop.value
        raise Unreadable("not plain data: it ends in the middle")

    def find_class(self, module: str, name: str) -> type:
        try:
            return _CONSTRUCTORS[module, name]
        except KeyError:
            raise Unreadable(f"not plain data: it names {module}.{name}"[:200]) from None

    def refuse(self) -> None:
        raise Unreadable(f"not plain data: it has more than {self.most_parts:,} parts")

    def charge(self, cost: int) -> None:
        self.left -= cost
        if self.left < 0:
            self.refuse()

    def charge_hashes(self, keys: Iterable[Any]) -> None:
        """Charge what it takes to hash tuples: one that holds another twice doubles it."""
        for key in keys:
            if type(key) in _HASHED:
                _, size = self.nested.get(id(key)) or (1, len(key))
                self.charge(HASH_COST * size)

    def note_nesting(self) -> None:
        """Refuse a deep tuple before it is hashed: hashing it recurses in C without a limit."""
        top = self.stack[-1]
        inner = [part for part in top if type(part) in _HASHED]
        if not inner:
            self.nested.pop(id(top), None)  # of another tuple, which was there before
            return
        found = [self.nested.get(id(part)) or (1, len(part)) for part in inner]
        depth, size = 1 + max(depth for depth, _ in found), sum(size for _, size in found)
        if depth > MAX_READ_DEPTH:
            raise Unreadable(f"nested deeper than {MAX_DEPTH} levels")
        self.charge(NESTED_COST)
        self.nested[id(top)] = depth, len(top) + size

    # --- opcodes

    def load_frame(self) -> None:
        self.read(8)  # where it ends does not matter: all of the pickle is here

    def load_memoize(self) -> None:
        self.memo.append(self.stack[-1])

    def load_mark(self) -> None:
        if len(self.metastack) > MAX_READ_DEPTH:
            raise Unreadable(f"nested deeper than {MAX_DEPTH} levels")
        _BASE[pickle.MARK[0]](self)

    def load_append(self) -> None:
        self.grow(pickle.APPEND, self.stack[-2], 1)

    def load_appends(self) -> None:
        self.grow(pickle.APPENDS, self.metastack[-1][-1], len(self.stack))

    def load_setitem(self) -> None:
        self.charge_hashes(self.stack[-2:-1])
        self.grow(pickle.SETITEM, self.stack[-3], 1)

    def load_setitems(self) -> None:
        self.charge_hashes(islice(self.stack, 0, None, 2))
        self.grow(pickle.SETITEMS, self.metastack[-1][-1], len(self.stack) // 2)

    def load_additems(self) -> None:
        self.charge_hashes(self.stack)
        self.grow(pickle.ADDITEMS, self.metastack[-1][-1], len(self.stack))

    def grow(self, opcode: bytes, container: Any, number: int) -> None:
        """Put items into a container; charge what they may take before, what they did after."""
        size = container.__sizeof__()
        most = GROWTH_COST * number
        self.charge(most)
        _BASE[opcode[0]](self)
        self.charge(container.__sizeof__() - size - most)

    def load_tuple(self) -> None:
        self.charge(8 * len(self.stack))
        _BASE[pickle.TUPLE[0]](self)
        self.note_nesting()

    def load_frozenset(self) -> None:
        self.charge_hashes(self.stack)
        most = GROWTH_COST * len(self.stack)
        self.charge(most)
        _BASE[pickle.FROZENSET[0]](self)
        self.charge(self.stack[-1].__sizeof__() - frozenset().__sizeof__() - most)
        self.note_nesting()

    def load_reduce(self) -> None:
        kind, args = self.stack[-2:]
        if kind is Decimal and not all(type(part) is str for part in args):
            raise Unreadable(
                "not plain data: a Decimal that is not made from text"
            )  # of an int: n^2
        _BASE[pickle.REDUCE[0]](self)

    def load_newobj(self) -> None:
        if self.stack[-2] is not UUID:
            raise Unreadable("not plain data: it makes an object")
        _BASE[pickle.NEWOBJ[0]](self)

    def load_build(self) -> None:
        target, state = self.stack[-2:]
        if type(target) is not UUID or type(state) is not dict:  # else it could change class UUID
            raise Unreadable("not plain data: it sets an object's state")
        _BASE[pickle.BUILD[0]](self)


def _noting(load: Callable[[Any], None]) -> Callable[[_Reader], None]:
    def load_and_note(reader: _Reader) -> None:
        load(reader)
        reader.note_nesting()

    return load_and_note


def _no_such_opcode(reader: _Reader) -> None:
    raise Unreadable("not plain data: it has an opcode that plain data does not need")


_COSTS = [0] * 256
_LOADS: list[Callable[[Any], None]] = [_no_such_opcode] * 256
for _cost, _names in _COST.items():
    for _name in _names.split():
        _code = getattr(pickle, _name)[0]
        _COSTS[_code] = _cost
        _LOADS[_code] = getattr(_Reader, f"load_{_name.lower()}", _BASE[_code])
for _opcode in (pickle.TUPLE1, pickle.TUPLE2, pickle.TUPLE3):
    _LOADS[_opcode[0]] = _noting(_BASE[_opcode[0]])
