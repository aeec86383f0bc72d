"""RQ's keys and fields as text: names of keys, the version of records, times, and replies."""

from __future__ import annotations

from datetime import datetime
from time import gmtime, strftime, time_ns
from typing import Any

from werk.settings import KEY_PREFIX as KEY_PREFIX

# The version of what werk writes in the records of jobs and workers, their field werk_v; without
# the field it is 0, as 0.1.0 wrote them. A change that the version before cannot read gets the next
# number. Neighbouring versions can run side by side while a fleet is deployed.
RECORD_VERSION = 1

# Upper bounds, in seconds, of the histograms that horses keep (worker/counters.py): how long
# executions took, and how long jobs had waited in their queue. Their counts are fields of
# werk:tallies, named <kind>/<queue, percent-encoded>/<task>/<bound, or seconds for the sum>.
DURATION_BOUNDS_S = (0.01, 0.1, 0.5, 1, 5, 10, 30, 60, 300, 1800, 3600)
WAIT_BOUNDS_S = (0.01, 0.05, 0.1, 0.5, 1, 5, 10, 30, 60, 300, 1800, 3600)
FAILED_WEBHOOKS = "failed_webhooks"  # field of werk:tallies: webhooks that failed or were left out
DROPPED_GIVE_UPS = "dropped_give_ups"  # field of werk:tallies: failures that tick.lua dropped

NOT_KEPT = "werk_not_kept"  # field of a job: why its worker did not store the result
UNKNOWN_SINCE = "werk_unknown_since"  # field of a job: when a worker first did not know its task
RETRIED = b"4"  # type of a result: the job runs again after it (rq/results.py)
ATTEMPT = "werk_attempt"  # field of a job, and of its results: which of its executions it is


def key(*parts: str) -> str:
    """Return a Redis key under RQ's prefix: key("job", id)."""
    return ":".join((KEY_PREFIX, *parts))


def hand(worker: str, queue_key: str) -> str:
    """Return the key of the list into which a worker's wait moves a queue's job: see hands.lua."""
    return key("werk", "hand", worker, queue_key.removeprefix(key("queue", "")))


# The last second as text, as a number, and as RQ writes it: one value, because threads share it.
_second = ("", 0, "")


def cron_names(when: str, zone: str, call: str) -> tuple[str, str]:
    """Return the name of the records of a line of cron, and the one that they had in version 0.2.0.

    The name is the same on every host, and after a restart. The old one is only read: lines that
    differ in their zone alone shared it.
    """
    return f"TZ={zone} {when} {call}", f"{when} {call}"


def iso(moment: float) -> str:
    """Return a Unix time as RQ writes it (rq.utils.utcformat)."""
    second = int(moment)
    _, known, text = _second
    if second != known:
        _, _, text = _remember(second)
    return f"{text}.{int((moment - second) * 1e6):06d}Z"


def clock() -> tuple[int, str, str]:
    """Return now: in whole Unix seconds, in Unix seconds as text, and as RQ writes it."""
    nanos = str(time_ns())  # sliced as text: formatting a float takes three times as long
    second, fraction = nanos[:-9], nanos[-9:-3]
    known, number, text = _second
    if second != known:
        _, number, text = _remember(int(second))
    return number, f"{second}.{fraction}", f"{text}.{fraction}Z"


def _remember(second: int) -> tuple[str, int, str]:
    global _second
    _second = made = str(second), second, strftime("%Y-%m-%dT%H:%M:%S", gmtime(second))
    return made


def moment(text: str | None, default: float) -> float:
    """Return the Unix time that a text of RQ's or of werk's stands for."""
    try:
        return datetime.fromisoformat(text or "").timestamp()
    except (ValueError, OverflowError):
        return default


def pairs(reply: Any) -> dict[Any, Any]:
    """Return the dict in a flat reply of names and values."""
    return dict(zip(reply[::2], reply[1::2], strict=True))


def text(data: bytes | str | None) -> str:
    """Return a reply as text, whatever bytes it holds; '' for None."""
    return data if isinstance(data, str) else (data or b"").decode("utf-8", "replace")
