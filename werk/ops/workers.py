"""The workers of a snapshot: the slots of one process, and which live worker has replaced a dead
one. `werk status` does not warn about a dead worker that was replaced.
"""

from __future__ import annotations

import os
import socket
from collections.abc import Sequence
from contextlib import suppress
from itertools import groupby
from typing import NamedTuple

from werk.ops.slots import WERK, Slot
from werk.printable import listed
from werk.tasks import catalog

# The state of a worker is the first of these that one of its slots has. The last ones come last
# because a worker that can still run jobs is neither draining nor stale.
STATES = "hung busy idle suspended started starting unknown draining stale".split()


class Worker(NamedTuple):
    """A worker: one process, and what its slots have in common or add up to."""

    name: str
    slots: Sequence[Slot]  # those that have a record: at least one
    host: str
    pid: int
    state: str
    beat_s: float
    done: int
    failed: int
    queues: Sequence[str]
    kind: str
    free: bool
    clock_s: float
    dropped: int
    replaced: str
    table: str
    born: float
    expires_s: int
    owes: bool
    successor: str = ""  # if it is stale and owes nothing: the live worker that has replaced it

    @classmethod
    def of(cls, slots: Sequence[Slot]) -> Worker:
        """Return the worker that has these slots."""
        first = slots[0]
        return cls(
            name=first.worker,
            slots=slots,
            host=first.host,
            pid=first.pid,
            state=min((slot.state for slot in slots), key=STATES.index),
            beat_s=max(slot.beat_s for slot in slots),
            done=sum(slot.done for slot in slots),
            failed=sum(slot.failed for slot in slots),
            queues=first.queues,
            kind=first.kind,
            free=first.free,
            clock_s=first.clock_s,
            dropped=sum(slot.dropped for slot in slots),
            replaced=first.replaced,
            table=first.table,
            born=first.born,
            expires_s=max(slot.expires_s for slot in slots),
            owes=any(slot.owes for slot in slots),
        )

    @property
    def is_live(self) -> bool:
        return self.state != "stale"

    @property
    def has_one_slot(self) -> bool:
        return len(self.slots) + self.missing == 1

    @property
    def missing(self) -> int:
        """Return how many slots have left, or have not registered yet."""
        return max(0, self.slots[0].slots - len(self.slots))

    @property
    def has_exited(self) -> bool:
        """Return whether it ran on this host, and no process has its number any longer."""
        if self.host != socket.gethostname() or self.pid <= 0:
            return False
        with suppress(PermissionError, OverflowError):
            try:
                os.kill(self.pid, 0)
            except ProcessLookupError:
                return True
        return False

    def count(self, state: str) -> int:
        return sum(slot.state == state for slot in self.slots)


def group(slots: Sequence[Slot]) -> list[Worker]:
    """Return the workers that have these slots, by name."""

    def process(slot: Slot) -> tuple[str, str, int]:
        return slot.worker, slot.host, slot.pid

    ordered = sorted(slots, key=lambda slot: (*process(slot), slot.number))
    return [Worker.of([*found]) for _, found in groupby(ordered, process)]


def succeeded(now: float, workers: Sequence[Worker]) -> list[Worker]:
    """Return the workers, each stale one that owes nothing with its successor.

    A successor has started after the other fell silent, and serves its queues. It replaces one:
    either directly, or as the last in a chain of workers that have replaced each other.
    """
    heirs = [own for own in workers if own.is_live]  # workers that have not replaced one yet
    lost = [own for own in workers if not own.is_live and not own.owes]
    found = [own for own in workers if own.is_live or own.owes]
    for own in sorted(lost, key=lambda own: own.beat_s):  # an heir comes before the one it replaced
        fit = [
            other
            for other in heirs
            if other.born > now - own.beat_s and other.kind == own.kind
            if {*own.queues} <= {*other.queues}
        ]
        if fit:
            heir = min(fit, key=lambda other: (len(other.queues), other.born))
            own = own._replace(successor=heir.successor or heir.name)
            heirs[heirs.index(heir)] = own
        found.append(own)
    return sorted(found, key=lambda own: own.name)


def older(queue: str, workers: Sequence[Worker]) -> str:
    """Return the workers of a queue whose table is not that of the one that started last."""
    own = sorted(
        (own for own in workers if own.is_live and own.kind == WERK and queue in own.queues),
        key=lambda own: own.born,
    )
    names = [other.name for other in own if other.table != own[-1].table]
    return f"worker{'s' * (len(names) != 1)} {listed(names)}".rstrip()


def serve_only_demo(queue: str, workers: Sequence[Worker]) -> bool:
    """Return whether werk workers serve a queue, all with the table that werk brings."""
    tables = {own.table for own in workers if own.is_live and queue in own.queues}
    return tables == {catalog.demo_version()}
