"""A snapshot as `werk status --json` prints it."""

from __future__ import annotations

from typing import Any

from werk.ops.checks import problems
from werk.ops.limits import DEFAULT_LIMITS, Limits
from werk.ops.snapshot import Snapshot
from werk.store import keys

SCHEMA = 1


def as_json(snapshot: Snapshot, limits: Limits = DEFAULT_LIMITS) -> dict[str, Any]:
    """Return the snapshot as `werk status --json` prints it.

    Keys may be added. Any other change needs a new SCHEMA.
    """
    of_queue = "waiting oldest_s running scheduled ready failed paused workers".split()
    of_slot = (
        "name worker slots host pid state job call job_s beat_s done failed queues kind clock_s"
    )
    return {
        "schema": SCHEMA,
        "time": keys.iso(snapshot.time),
        "redis": snapshot.server._asdict(),
        "queues": {
            name: {key: getattr(own, key) for key in of_queue}
            for name, own in snapshot.queues.items()
        },
        "workers": [  # RQ's: one for each slot
            {key: getattr(slot, key) for key in of_slot.split()}
            for own in snapshot.workers
            for slot in own.slots
        ],
        "failed_webhooks": snapshot.failed_webhooks,
        "gave_up": snapshot.gave_up._asdict(),
        "would_refuse": [
            {**own._asdict(), "last": keys.iso(own.last)} for own in snapshot.would_refuse
        ],
        "problems": [problem._asdict() for problem in problems(snapshot, limits)],
    }
