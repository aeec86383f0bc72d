"""Jobs that ran on a worker with WERK_ALLOW_UNREGISTERED and would be refused without it."""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import NamedTuple

from werk.ops.numbers import MOST, ago
from werk.printable import printable
from werk.store.notes import WOULD_REFUSE
from werk.tasks.catalog_page import Pages


class WouldRefuse(NamedTuple):
    """What would be refused, as worker/refusals.py has noted it."""

    task: str  # its name, or the path of the function that is not registered
    jobs: int  # executions
    last: float  # Redis's time
    last_s: float  # since then
    reason: str  # of the last one

    def is_registered(self, pages: Pages) -> bool:
        """Return whether a worker serves it by now, so that it would no longer be refused."""
        served = {word for name, entry in pages.entries.items() for word in (name, entry.task.path)}
        return self.task in served and not self.reason.startswith("Unreadable")


def read(now: float, notes: Mapping[str, str]) -> tuple[list[WouldRefuse], list[str]]:
    """Return what was noted, the most frequent first, and the entries that cannot be read."""
    found, damaged = [], []
    for task, text in notes.items():
        try:
            facts = json.loads(text)
            count, last, reason = facts["count"], facts["last"], facts["reason"]
            is_sound = type(count) is int and type(last) in (int, float) and type(reason) is str
            if not (is_sound and 0 <= count <= MOST and 0 <= last <= MOST):
                raise ValueError(text[:80])
            shown = printable(reason)
            found.append(WouldRefuse(task, count, float(last), ago(last, now), shown))
        except (ValueError, TypeError, KeyError, RecursionError):
            damaged.append(f"{WOULD_REFUSE} {task}")
    return sorted(found, key=lambda own: (-own.jobs, own.task)), damaged
