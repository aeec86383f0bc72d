"""Which live worker has replaced a dead one: then `werk status` need not warn of the dead one."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from werk.ops.snapshot import Worker


def succeeded(now: float, workers: Sequence[Worker]) -> list[Worker]:
    """Return the workers, each stale one that owes nothing with its successor.

    A successor has started after the other fell silent, and serves its queues. It replaces one.
    """
    free = sorted((own for own in workers if own.is_live), key=lambda own: own.born)
    found = []
    for own in sorted(workers, key=lambda own: -own.beat_s):
        heirs = (
            other
            for other in free
            if other.born > now - own.beat_s
            and other.kind == own.kind
            and {*own.queues} <= {*other.queues}
        )
        heir = None if own.is_live or own.owes else next(heirs, None)
        if heir:
            free.remove(heir)
            own = own._replace(successor=heir.name)
        found.append(own)
    return sorted(found, key=lambda own: own.name)
