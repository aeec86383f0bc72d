"""`werk ping`: send a job that does nothing through queues, and wait until a worker runs it."""

from __future__ import annotations

import time
from collections.abc import Iterator, Sequence

from werk.client import enqueue
from werk.client.options import Options
from werk.errors import ArgumentError, ConfigError
from werk.ops import job_record
from werk.ops.job_record import Job
from werk.ops.numbers import age
from werk.ops.queues import ask
from werk.ops.snapshot import Snapshot
from werk.printable import counted, near
from werk.store import keys
from werk.store.connection import Link
from werk.store.failures import last_line

TASK = "werk.ping"
UNKNOWN, NO_ANSWER = "unknown queue", "no answer"  # how a description of a problem begins
BUSY = "busy: "  # how the outcome begins if all workers of a queue run other jobs
POLL_S = 0.02


def send(link: Link, names: Sequence[str], timeout_s: float) -> Iterator[tuple[str, str, float]]:
    """Send a ping through these queues, or through all if there are no names.

    Yield (queue, outcome, seconds). The outcome is '' if a worker has run the ping, 'paused', a
    text that begins with BUSY, or what is wrong. Raises ConfigError if it may not be sent.
    """
    snapshot = Snapshot.read(link)
    sent: dict[str, str] = {}  # queue -> job id
    for name in dict.fromkeys(names or snapshot.queues):
        queue = snapshot.queues.get(name)
        if queue is None:
            yield name, f"{UNKNOWN}{near(name, snapshot.queues)}", 0.0
        elif queue.paused or snapshot.server.suspended:
            yield name, "paused", 0.0
        else:
            try:
                sent[name] = _enqueue(link, name, timeout_s)
            except (ArgumentError, ConfigError) as error:  # for this queue: its name, or its type
                if isinstance(error, ConfigError) and not snapshot.damaged:
                    raise  # no permission
                yield name, str(error), 0.0
    begun = time.monotonic()
    while sent:
        passed = time.monotonic() - begun
        jobs = job_record.read(link, [*sent.values()], job_record.LONGEST, ("status",))
        for name, job in zip([*sent], jobs, strict=True):
            if passed >= timeout_s or job.text("status") not in ("queued", "started"):
                del sent[name]
                verdict = _verdict(link, name, job)
                if verdict == NO_ANSWER:
                    verdict = _busy(Snapshot.read(link), name) or NO_ANSWER
                yield name, verdict, passed
        time.sleep(POLL_S if sent else 0)


def _enqueue(link: Link, queue: str, timeout_s: float) -> str:
    """Enqueue a ping; return its job id. Raises ArgumentError, ConfigError."""
    options = Options(
        queue=queue, front=True, timeout=10, ttl=int(timeout_s) + 1, result_ttl=60, failure_ttl=60
    )
    request = enqueue.prepare(enqueue.find(TASK, link), (), {}, options)
    return enqueue.deliver([request], link)[0].id


def _verdict(link: Link, queue: str, job: Job) -> str:
    """Return '' or what is wrong with a ping. Remove a ping that no worker has taken."""
    state = job.text("status") or "gone"
    if state == "finished":
        return ""
    if state in ("queued", "gone") and ask(link, "LREM", keys.key("queue", queue), 1, job.id):
        link.call("UNLINK", keys.key("job", job.id))
        return NO_ANSWER
    if state == "failed":
        return "failed: " + last_line(job.exception() or "")
    return f"{NO_ANSWER}: the ping {'has expired' if state == 'gone' else f'is {state}'}"


def _busy(snapshot: Snapshot, queue: str) -> str:
    """Return a text if all live workers of a queue run jobs; '' if one is free or none lives."""
    workers = [own for own in snapshot.workers if own.is_live and queue in own.queues]
    slots = [slot for own in workers for slot in own.slots if slot.is_live]
    if not slots or {slot.state for slot in slots} != {"busy"}:
        return ""
    longest = max(slot.job_s or 0.0 for slot in slots)
    return f"{BUSY}{counted(len(workers), 'worker')}, the longest job has run for {age(longest)}"
