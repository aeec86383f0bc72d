"""A snapshot as `werk status` prints it: a table, or JSON."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import datetime, timezone
from typing import Any

from werk.ops.checks import age, problems, size
from werk.ops.limits import DEFAULT_LIMITS, Limits
from werk.ops.snapshot import Queue, Snapshot
from werk.ops.workers import STATES, Worker
from werk.printable import counted, printable

SCHEMA = 1
LONGEST_CELL = 200  # characters in a column


def as_json(snapshot: Snapshot, limits: Limits = DEFAULT_LIMITS) -> dict[str, Any]:
    """Return the snapshot as `werk status --json` prints it.

    Keys may be added. Any other change needs a new SCHEMA.
    """
    of_queue = "waiting oldest_s running scheduled ready failed paused workers".split()
    of_slot = "name worker slots host pid state job job_s beat_s done failed queues kind clock_s"
    return {
        "schema": SCHEMA,
        "time": datetime.fromtimestamp(snapshot.time, timezone.utc).isoformat(timespec="seconds"),
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
        "would_refuse": [own._asdict() for own in snapshot.would_refuse],
        "problems": [problem._asdict() for problem in problems(snapshot, limits)],
    }


def table(snapshot: Snapshot, limits: Limits = DEFAULT_LIMITS) -> str:
    """Return the snapshot as `werk status` prints it."""
    server = snapshot.server
    limit = f" of {size(server.memory_limit)}" if server.memory_limit else ""
    program, _, number = server.version.partition(" ")
    place = f"server: {program.capitalize()} {number} at {server.where}"
    facts = [place, f"{size(server.memory)}{limit}"]
    kept = {True: "RDB only", False: "keeps nothing", None: "no AOF"}[server.rdb]
    if server.aof:
        kept = f"AOF {server.fsync or ''}".rstrip()
    facts += [server.policy, kept, *["all suspended"] * server.suspended]
    has_ready = any(queue.ready for queue in snapshot.queues.values())
    queues = [_queue_row(queue, has_ready) for queue in snapshot.queues.values()]
    workers = [_worker_row(worker) for worker in snapshot.workers]
    count = snapshot.failed_webhooks
    failed = f"{counted(count, 'webhook')} failed or {'was' if count == 1 else 'were'} left out"
    webhooks = f"{failed}: event=webhook-failed in workers' logs"
    waiting, _, dropped = snapshot.gave_up
    gave_up = f"{waiting} final failures wait for WERK_ON_GIVE_UP, {dropped} were dropped"
    replaced = [_replaced(own) for own in snapshot.workers if own.successor]
    lines = [
        ", ".join(facts),
        "",
        *_columns(_queue_head(has_ready), queues),
        "",
        *_columns("worker state beat done failed kind queues job".split(), workers),
        "",
        *[webhooks, ""] * bool(count),
        *[gave_up, ""] * any(snapshot.gave_up),
        *replaced,
        *[""] * bool(replaced),
        *(f"{own.level}: {own.what}: {own.fix}" for own in problems(snapshot, limits)),
    ]
    return "\n".join(map(printable, lines)).rstrip()


def _queue_head(has_ready: bool) -> Sequence[str]:
    ready = ["ready"] * has_ready  # mostly 0 everywhere, so the column is left out
    return [*"queue waiting oldest running scheduled".split(), *ready, "failed", "workers"]


def _queue_row(own: Queue, has_ready: bool) -> Sequence[object]:
    ready = [own.ready] * has_ready
    workers = "paused" if own.paused else own.workers
    counts = (own.running, own.scheduled, *ready, own.failed)
    return own.name, own.waiting, age(own.oldest_s), *counts, workers


def _worker_row(own: Worker) -> Sequence[object]:
    facts = (own.done, own.failed, own.kind, ",".join(own.queues))
    return own.name, _states(own), age(own.beat_s), *facts, _jobs(own)


def _states(own: Worker) -> str:
    """Return the state of a worker with one slot, or how many slots are in which state."""
    if own.has_one_slot:
        return own.state
    counts = [(own.count(state), state) for state in STATES] + [(own.missing, "missing")]
    return ", ".join(f"{count} {state}" for count, state in counts if count)


def _jobs(own: Worker) -> str:
    """Return the job that has run for the longest time, and how many others run."""
    busy = sorted((slot for slot in own.slots if slot.job), key=lambda slot: -(slot.job_s or 0))
    if not busy:
        return ""
    first, more = busy[0], f", {len(busy) - 1} more" * (len(busy) > 1)
    # The time is unknown if the worker died more than a minute ago.
    since = f" for {age(first.job_s)}" if first.job_s is not None else ""
    return f"{first.job}{since}{more}"


def _replaced(own: Worker) -> str:
    """Return what there is to know about a stale worker that another has replaced."""
    what = f"worker {own.name} is stale and has no job; worker {own.successor} has replaced it"
    return f"{what}. Redis forgets it in {age(own.expires_s)}; at once: werk repair"


def _columns(head: Sequence[str], rows: Sequence[Sequence[object]]) -> list[str]:
    """Return lines in columns, numbers on the right; none without rows."""
    if not rows:
        return [f"no {head[0]}"]
    columns = []
    for title, *values in zip(head, *rows, strict=True):
        cells = [title, *(_cell(str(value)) for value in values)]
        justify = str.rjust if any(isinstance(value, int) for value in values) else str.ljust
        width = max(map(len, cells))
        columns.append([justify(cell, width) for cell in cells])
    return ["  ".join(cells).rstrip() for cells in zip(*columns, strict=True)]


def _cell(text: str) -> str:
    """Return a name on one line, cut to LONGEST_CELL characters."""
    cut = text if len(text) <= LONGEST_CELL else f"{text[:LONGEST_CELL]}..."
    return printable(cut)
