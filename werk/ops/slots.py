"""A slot of a worker, as its record in Redis describes it.

To RQ each slot is a worker of its own; a plain RQ worker has one. See workers.py for what the slots
of one process add up to.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

from werk.ops.numbers import ago, number, whole
from werk.settings import MOST_SLOTS
from werk.store import keys

RQ_SPARE_S = 50.0  # RQ keeps a worker's record for 60 s after its next beat (Worker.heartbeat)
RQ_TTL_S = 480.0  # RQ's default, for a record without a time to live
DROPPED_S = 60.0  # log lines that were dropped longer ago are no longer reported
FARTHEST_S = 1e9
IDLE_S = 10.0  # an idle horse asks for work at least this often (Idle.block_s)
STATES = ("started", "suspended", "busy", "idle")  # RQ's
WERK, PLAIN_RQ = "werk", "rq"  # kinds of workers


class Slot(NamedTuple):
    """A slot. Its state is RQ's (idle, busy, suspended), or draining, stale, hung."""

    name: str  # RQ's name for it as a worker
    worker: str  # the name of its worker, which is the same if there is one slot
    slots: int  # that its worker was started with
    number: int  # among them, from 1
    host: str
    pid: int  # of the supervisor
    state: str
    job: str | None
    call: str  # of the job, with secrets masked; '' if it is unknown
    job_s: float | None
    beat_s: float
    done: int
    failed: int
    queues: Sequence[str]
    kind: str  # WERK or PLAIN_RQ
    free: bool  # it runs any path (WERK_ALLOW_UNREGISTERED)
    clock_s: float  # how far its host's clock is ahead of Redis's
    dropped: int  # log lines, if it has dropped any within DROPPED_S
    replaced: str  # a method of RQ's loop that its class replaces, so that RQ's loop runs
    table: str  # a checksum of the tasks that it serves; '' for plain RQ and older werk
    born: float  # Redis's time
    expires_s: int  # until Redis removes its record if it stays silent; less than 0: never
    owes: bool  # if it is stale: others may still have to rescue its job

    @property
    def is_live(self) -> bool:
        return self.state != "stale"


def read_slot(now: float, oldest: Mapping[str, float], row: Mapping[str, Any]) -> Slot:
    """Return a slot from a row of snapshot.lua.

    `oldest` has the age of the oldest job that waits, for each list of queues in the records.
    """
    facts: Mapping[str, str] = row["facts"]
    served, job = facts.get("queues", ""), row["run"].rpartition(":")[0] or None
    clock_s, beat = _clock_and_beat(now, row["lease"], facts)
    born = keys.moment(facts["birth"], now + clock_s) - clock_s
    worker, at, slots = _place(row["name"], whole(facts.get("werk_slots")))
    return Slot(
        name=row["name"],
        worker=worker,
        slots=slots,
        number=at,
        host=facts.get("hostname") or "?",
        pid=whole(facts.get("pid")),
        state=_state(now, born, oldest[served], facts, bool(job), beat, row["ttl"]),
        job=job,
        call=_call(row["task"], row["call"]) if job else "",
        job_s=ago(number(row["since"]) - clock_s, now) if job and row["since"] else None,
        beat_s=ago(beat, now),
        done=whole(facts.get("successful_job_count")),
        failed=whole(facts.get("failed_job_count")),
        queues=[*dict.fromkeys(served.split(","))],
        kind=WERK if "werk_lease" in facts else PLAIN_RQ,
        free=facts.get("werk_free") == "1",
        clock_s=clock_s,
        dropped=_dropped(now, facts),
        replaced=facts.get("werk_rq_loop", "")[:100],
        table=facts.get("werk_table", ""),
        born=born,
        expires_s=row["ttl"],
        owes=job is not None or "werk_lease" not in facts,
    )


def _call(task: str, call: str) -> str:
    """Return the call of a job; for a job that plain RQ enqueued, only the path of its function.

    A caller with werk has masked the call; plain RQ has not.
    """
    return call or task if task else call.partition("(")[0]


def _clock_and_beat(now: float, lease: str, facts: Mapping[str, str]) -> tuple[float, float]:
    """Return how far a worker's clock is ahead of Redis's, and when it last renewed its lease."""
    beat = keys.moment(facts.get("last_heartbeat"), now)
    if not lease and not facts.get("werk_clock"):  # plain RQ publishes only the beat
        return min(FARTHEST_S, max(0.0, beat - now)), beat
    clock_s = max(-FARTHEST_S, min(FARTHEST_S, number(facts.get("werk_clock"))))
    is_leased = lease and "werk_horse" in facts  # else its lease says when to try a rescue again
    return clock_s, number(lease) - number(facts.get("werk_lease")) if is_leased else beat - clock_s


def _place(name: str, slots: int) -> tuple[str, int, int]:
    """Return the name of a slot's worker, the slot's number and how many the worker has.

    The slots of a worker with several are called <worker>.1, <worker>.2 and so on.
    """
    worker, _, number = name.rpartition(".")
    if worker and 1 < slots <= MOST_SLOTS and 1 <= whole(number) <= slots:
        return worker, int(number), slots
    return name, 1, 1


def _dropped(now: float, facts: Mapping[str, str]) -> int:
    """Return how many log lines a worker has dropped, 0 if it dropped none within DROPPED_S."""
    count, _, since = facts.get("werk_lines_dropped", "").partition("|")
    return whole(count) if now - number(since) < DROPPED_S else 0


def _state(
    now: float,
    born: float,
    oldest_s: float,
    facts: Mapping[str, str],
    has_job: bool,
    beat: float,
    ttl: int,
) -> str:
    """Return RQ's state of a worker, or what is wrong with it."""
    if "werk_lease" in facts:
        lease_s = number(facts["werk_lease"])
        is_silent = now - beat > lease_s or "werk_horse" not in facts
        if is_silent and now - born > lease_s:
            return "stale"
        limit_s = lease_s if oldest_s > lease_s else IDLE_S + lease_s
        if not has_job and now - (number(facts.get("werk_moved")) or born) > limit_s:
            return "hung"
    elif ttl < RQ_SPARE_S if ttl >= 0 else now - beat > RQ_TTL_S:
        return "stale"
    if facts.get("werk_draining") or facts.get("shutdown_requested_date"):
        return "draining"
    state = facts.get("state") or "starting"
    if "werk_lease" in facts and state in ("busy", "idle"):
        # A horse writes its state now and then, and its execution with each job.
        return "busy" if has_job else "idle"
    return state if state in (*STATES, "starting") else "unknown"
