"""Payloads that ask for far more memory or time than their bytes; run as a program, it reads them.

Each is a pickle, or JSON, of about as many bytes as it is asked for. A fork reads each, so that its
peak of memory is its own.
"""

from __future__ import annotations

import json
import os
import pickle
import resource
import sys
import time
import zlib
from base64 import b64encode
from collections.abc import Callable
from decimal import Decimal
from random import Random

from werk.errors import Unreadable
from werk.store import payload
from werk.worker.horse import resident_mb

START = b"\x80\x05"
PRIME = 2**61 - 1  # the hash of an int is its remainder
Flood = Callable[[int], bytes]


def again(unit: bytes, before: bytes = b"", after: bytes = b".") -> Flood:
    """Return the flood that repeats some opcodes."""
    return lambda size: START + before + unit * (size // len(unit)) + after


def pushed_and_closed(push: bytes, close: bytes) -> Flood:
    return lambda size: START + push * (size // 2) + close * (size // 2) + b"."


def puts(size: int) -> bytes:
    """LONG_BINPUT, each time at another place."""
    number = size // 5
    places = [
        (bytes(range(256)) * (number // 256 + 1))[:number],
        (b"".join(bytes([i]) * 256 for i in range(256)) * (number // 65536 + 1))[:number],
        b"".join(bytes([i]) * 65536 for i in range(number // 65536 + 1))[:number],
    ]
    opcodes = bytearray(5 * number)
    opcodes[0::5], opcodes[4::5] = b"r" * number, b"\x01" * number
    for at, part in enumerate(places, 1):
        opcodes[at::5] = part
    return START + b"N" + opcodes + b"."


def lying(opcode: bytes, length: bytes) -> Flood:
    return lambda size: START + opcode + length + b"N" * size + b"."


def as_json(unit: bytes) -> Flood:
    return lambda size: b"[" + unit * (size // len(unit)) + b"0]"


FLOODS: dict[str, Flood] = {
    "EMPTY_SET": again(b"\x8f"),
    "EMPTY_LIST": again(b"]"),
    "EMPTY_DICT": again(b"}"),
    "EMPTY_TUPLE": again(b")"),
    "NONE": again(b"N"),
    "MARK": again(b"("),
    "MEMOIZE": again(b"\x94", b"N"),
    "BINGET": again(b"h\x00", b"N\x94"),
    "BINPUT": again(b"q\x00", b"N"),
    "LONG_BINPUT": puts,
    "DUP": again(b"2", b"N"),
    "FROZENSET": again(b"(\x91"),
    "nested FROZENSET": pushed_and_closed(b"(", b"\x91"),
    "nested list": pushed_and_closed(b"]", b"a"),
    "nested tuple": again(b"\x85", b")"),
    "tuples of a tuple": again(b")\x85\x85"),
    "sets of one": again(b"\x8f(N\x90"),
    "dicts of one": again(b"}NNs"),
    "lists of one": again(b"]Na"),
    "one list": again(b"N", b"](", b"e."),
    "timedelta": again(b"h\x00)R", b"cdatetime\ntimedelta\n\x94"),
    "UUID": again(b"h\x00)\x81", b"cuuid\nUUID\n\x94"),
    "GLOBAL": again(b"cdatetime\ndate\n"),
    "FRAME": again(b"\x95" + bytes(8)),
    "strings": again(b"\x8c\x02ab"),
    "ints": again(b"\x8a\x07abcdefg"),
    "a long LONG4": lying(b"\x8b", b"\xff\xff\xff\x7f"),
    "a long BINUNICODE8": lying(b"\x8d", b"\xff" * 7 + b"\x7f"),
    "a long BINBYTES8": lying(b"\x8e", b"\xff" * 7 + b"\x7f"),
    "a long FRAME": lying(b"\x95", b"\xff" * 7 + b"\x7f"),
    "JSON lists": as_json(b"[],"),
    "JSON dicts": as_json(b'{"":0},'),
    "JSON strings": as_json(b'"ab",'),
    "nested JSON": lambda size: b"[" * size,
}


def doubled(start: bytes, close: bytes, levels: int, after: bytes = b"") -> bytes:
    """A value that holds the one before twice, and so on; what follows may hash the last."""
    steps = b"".join(b"h" + bytes([i]) + close + b"\x94" for i in range(levels))
    return START + start + b"\x94" + steps + after + b"."


def pair_of_chains(levels: int) -> bytes:
    """Two equal sets that are nested, in a set: comparing them takes 2 ** levels steps."""
    chain = b"()\x91" + b"".join(b"\x94(h" + bytes([i]) + b"h" + bytes([i]) + b"\x85\x91"
                                 for i in range(levels))  # fmt: skip
    other = b"()\x91" + b"".join(
        b"\x94(h" + bytes([i]) + b"h" + bytes([i]) + b"\x85\x91" for i in range(levels, 2 * levels)
    )
    return START + b"\x8f(" + chain + other + b"\x90."


BOMBS: dict[str, bytes] = {
    "a tuple that is a key": START + b"}" + doubled(b")", b"\x86", 60)[2:-1] + b"Ns.",
    "a tuple in a set": START + b"\x8f(" + doubled(b")", b"\x86", 60)[2:-1] + b"\x90.",
    "a tuple, many times a key": START + b"}" + doubled(b")", b"\x86", 15)[2:-1] + b"Ns"
    + b"h\x0fNs" * 500 + b".",
    "equal frozensets": pair_of_chains(60),
    "a list, as arguments": START + b"\x8c\x01aN]\x94"
    + b"".join(b"](h" + bytes([i]) + b"h" + bytes([i]) + b"e\x94" for i in range(60))
    + b"\x85}(t.",
    "tuples, in few bytes": doubled(b")", b"\x86", 22),
    "a long string many times": START + b"](X" + (30_000).to_bytes(4, "little") + b"s" * 30_000
    + b"\x94" + b"h\x00" * 15_000 + b"e.",
    "a Decimal of an int": START + b"cdecimal\nDecimal\n\x8b" + (900_000).to_bytes(4, "little")
    + b"\x01" * 900_000 + b"\x85R.",
}  # fmt: skip


def called(argument: bytes, path: bytes = b"worker_tasks.note") -> bytes:
    """Return the pickle of a call, whose argument is pickled without START and STOP."""
    return START + b"(\x8c" + bytes([len(path)]) + path + b"N" + argument + b"\x85}t."


def collision(number: int) -> bytes:
    """Return the opcodes of a set of ints of the same hash; such a set takes long to make."""
    ints = (b"\x8a\x0a" + (PRIME * i).to_bytes(10, "little") for i in range(1, number + 1))
    return b"\x8f(" + b"".join(ints) + b"\x90"


OPCODES = [
    *(
        bytes([code])
        for code in b"(.NO0123RaesutbdloiQ)]}\x81\x85\x86\x87\x88\x89\x8f\x90\x91\x92\x93\x94"
    ),
    *[b"N", b"(", b"]", b"}", b"\x8f", b"\x94"] * 4,
    *[b"cdatetime\ndate\n", b"cdecimal\nDecimal\n", b"cuuid\nUUID\n", b"cos\nsystem\n"],
    *[b"K\x01", b"M\x00\x01", b"J\xff\xff\xff\x7f", b"G" + bytes(8), b"\x8a\x02ab", b"\x8a\x00"],
    *[b"\x8c\x03int", b"\x8c\x02\xff\xff", b"C\x04\x07\xd0\x01\x01", b"X\x02\x00\x00\x00ab"],
    *[b"h\x00", b"h\x01", b"h\x02", b"h\x03", b"q\x00", b"j\x01\x00\x00\x00", b"r\xff\xff\xff\xff"],
    *[b"\x95" + bytes(8), b"\x95" + b"\x7f" * 8, b"\x8d" + b"\x7f" * 8, b"\x8b\xff\xff\xff\x7f"],
    *[
        b"U\x01x",
        b"\x82\x01",
        b"\x96" + bytes(8),
        b"B\xff\xff\xff\xff",
        b"\x80\x05",
        b"p0\n",
        b"I1\n",
    ],
]


def noise(dice: Random) -> bytes:
    """Return what may be in a field that holds a pickle: bytes, opcodes, or a call with errors."""
    kind = dice.choice(["bytes", "opcodes", "opcodes", "call", "call", "value"])
    if kind == "bytes":
        data = dice.choice([b"", START, b"[", b"{"]) + dice.randbytes(dice.randint(0, 300))
    elif kind == "opcodes":
        length = dice.choice([5, 50, 500])
        data = START + b"".join(dice.choices(OPCODES, k=length)) + b"."
    elif kind == "call":
        changed = bytearray(called(b"(" + b"".join(dice.choices(OPCODES, k=5)) + b"t"))
        for _ in range(dice.randint(0, 3)):
            changed[dice.randrange(len(changed))] = dice.randrange(256)
        data = bytes(changed)
    else:
        data = dice.choice([pickle.dumps(10**5000), pickle.dumps({10**5000}), b"[" * 5000,
                            pickle.dumps({"a": [{(1, b"x"): Decimal(1)}], b"key": {1}}),
                            pickle.dumps({"werk": [1], "a": Decimal("1e999")}), b"1" * 5000,
                            *BOMBS.values()])  # fmt: skip
    return dice.choice([bytes, zlib.compress, b64encode])(data)


def compressed(data: bytes) -> bytes:
    """Return it as RQ stores a call."""
    return zlib.compress(data, 9)


HORSE_MIB = 40  # that has run small jobs


def measured(data: bytes) -> tuple[float, float, str]:
    """Read a payload in a fork: return the seconds, the peak in MiB and what became of it.

    The peak is that of a horse: what the tests' own process holds counts as HORSE_MIB.
    """
    reading, writing = os.pipe()
    held, begun = resident_mb(), time.monotonic()
    if not (child := os.fork()):
        try:
            payload.read_call(data)
            outcome = "read"
        except Unreadable as error:
            outcome = f"Unreadable: {error}"
        except BaseException as error:
            outcome = f"{type(error).__name__}: {error}"
        os.write(writing, outcome[:500].encode())
        os._exit(0)
    os.close(writing)
    _, status, used = os.wait4(child, 0)
    with open(reading, "rb") as file:
        outcome = file.read().decode() or f"ended with {status}"
    return time.monotonic() - begun, used.ru_maxrss / 1024 - held + HORSE_MIB, outcome


def main(*words: str) -> None:
    """Read the floods, of the size and with the names that are given, and all small bombs."""
    resource.setrlimit(resource.RLIMIT_AS, (6 << 30, 6 << 30))
    size, names = int(words[0]), words[1:] or [*FLOODS]
    for name in names:
        print(json.dumps([name, *measured(compressed(FLOODS[name](size)))]), flush=True)
    for name, data in BOMBS.items() if not words[1:] else ():
        print(json.dumps([name, *measured(data)]), flush=True)


if __name__ == "__main__":
    main(*sys.argv[1:])
