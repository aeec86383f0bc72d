"""Keys that must not be left when all jobs have ended and all workers have left."""

from __future__ import annotations

import re
from collections.abc import Iterator

from chaos.kinds import FAILURE_TTL_S
from chaos.places import ENDED, Contents
from werk.store.limits import FAILURES_KEPT_S

NEVER_EXPIRES = -1
DAY_S = 24 * 3600

DEPENDENCIES = r"rq:job::?([\w-]+):(?:dependencies|dependents)"

# Key -> the longest TTL that it may have; None: it may have none.
DOCUMENTED: dict[str, int | None] = {
    r"rq:queues|rq:workers|rq:workers:\w+": None,
    r"rq:worker:worker\d(\.\d+){1,2}": 10 * 60,  # of one that was killed (RQ: 480 s and 60)
    r"rq:clean_registries:\w+|rq:clean_groups": 15 * 60,
    DEPENDENCIES: FAILURE_TTL_S,  # with their job
    r"rq:scheduler-lock:\w+": 2 * 60,
    r"werk:leases|werk:hands|werk:ticked|werk:tallies": None,
    r"werk:ready": 10 * 60,
    r"werk:fenced": 60,
    r"werk:sent:[\w-]+": 60,
    r"werk:act:\w+": 60,
    r"werk:catalog|werk:serves:\w+": 30 * DAY_S,
    r"werk:last:\w+": 30 * DAY_S,  # of --unless-active
    r"werk:failures:\d+": FAILURES_KEPT_S,
}


def leaks(contents: Contents) -> Iterator[str]:
    """Yield a line for each key that should not be there, or should expire."""
    for key, ttl in sorted(contents.others.items()):
        if _is_in_use(key, contents):
            continue
        name = key.removeprefix("rq:") if key.startswith("rq:werk:") else key
        limits = [limit for own, limit in DOCUMENTED.items() if re.fullmatch(own, name)]
        if not limits:
            yield f"{key} is left (TTL {ttl})"
        elif limits[0] is not None and not 0 <= ttl <= limits[0]:
            how = "never expires" if ttl == NEVER_EXPIRES else f"expires in {ttl} s only"
            yield f"{key} {how}"


def _is_in_use(key: str, contents: Contents) -> bool:
    """Return whether a key belongs to a job that has not ended: that job is stuck, no more."""
    found = re.fullmatch(DEPENDENCIES, key)
    job = found and contents.jobs.get(found[1])
    return bool(job) and job.status not in ENDED
