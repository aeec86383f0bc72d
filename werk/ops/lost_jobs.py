"""`werk repair`: return lost jobs to their queues, and remove the records of exited workers.

It is the only command that uses SCAN.
"""

from __future__ import annotations

import time
from collections.abc import Iterator

from werk.ops.actions import act
from werk.ops.queues import ask, queue_names
from werk.store import keys
from werk.store.connection import Link

KEYS_AT_ONCE = 1000  # in one step of a SCAN, or from a queue
SETTLE_S = 5.0  # while a plain RQ worker takes a job, the job is nowhere for some milliseconds
NOT_LOST = ("fine", "gone")  # what act.lua replies for a job that is not lost


def repair(link: Link, *, dry_run: bool) -> list[tuple[str, str]]:
    """Return jobs that are in no place, or stay in `ready`, to their queues; remove exited workers.

    Check each job twice, some seconds apart. Return each job's id with the status that it was left
    in, and each worker's key with 'gone'.
    """
    lost = [own for own, state in act(link, "probe", _suspects(link)) if state not in NOT_LOST]
    if lost:
        time.sleep(SETTLE_S)
    again = act(link, "probe" if dry_run else "restore", lost)
    found = [(own, state) for own, state in again if state not in NOT_LOST]
    return found + [(key, "gone") for key in _reap(link, dry_run)]


def tidy(link: Link, *, dry_run: bool) -> list[tuple[str, int]]:
    """Remove entries of deleted and expired jobs that dead workers have left.

    Return the key of each queue that had some, with their number.
    """
    found = act(link, "untidy" if dry_run else "tidy", queue_names(link))
    return [(keys.key("queue", queue), int(count)) for queue, count in found if count != "0"]


def _suspects(link: Link) -> Iterator[str]:
    """Yield the jobs that may be in no place.

    These are the jobs that should be in a queue and are not. The jobs that run, are due, or are
    ready to be enqueued are all included, because they are few.
    """
    waiting, start = _waiting(link), keys.key("job", "")
    options = ("MATCH", f"{start}*", "COUNT", KEYS_AT_ONCE, "TYPE", "hash")
    cursor: bytes | None = None
    while cursor != b"0":
        cursor, hashes = link.call("SCAN", cursor or 0, *options)
        ids = [keys.text(key).removeprefix(start) for key in hashes]
        replies = link.calls([("HGET", keys.key("job", job_id), "status") for job_id in ids])
        for job_id, status in zip(ids, replies, strict=True):
            is_missing = status == b"queued" and hash(job_id) not in waiting
            if is_missing or status in (b"started", b"scheduled", b"ready_to_enqueue"):
                yield job_id


def _waiting(link: Link) -> set[int]:
    """Return the hashes of the ids in the queues, which take less memory than the ids."""
    found: set[int] = set()
    for queue in queue_names(link):
        start = 0
        key = keys.key("queue", queue)
        while ids := ask(link, "LRANGE", key, start, start + KEYS_AT_ONCE - 1):
            found.update(hash(keys.text(job_id)) for job_id in ids)
            start += len(ids)
    return found


def _reap(link: Link, dry_run: bool) -> list[str]:
    """Return the keys of the workers that have exited, and remove their records."""
    listed = [keys.text(key) for key in ask(link, "SMEMBERS", keys.key("workers")) or ()]
    outcomes = act(link, "is_dead" if dry_run else "reap", listed)
    return [key for key, what in outcomes if what == "gone"]
