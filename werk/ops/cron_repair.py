"""The part of `werk repair` that forgets crons and calls of crontabs that will not return."""

from __future__ import annotations

from werk.ops import cron_health
from werk.ops.cron_health import SILENT_S
from werk.ops.cron_record import CRONS, RUNNING
from werk.store.connection import Link
from werk.store.notes import ONCE_CALLS


def forget(link: Link, *, dry_run: bool) -> list[tuple[str, str]]:
    """Forget crons that have not beaten for SILENT_S, and calls that are three periods old.

    Return what each one was. A cron that runs after all writes its record again. Raises
    RedisUnavailable, ConfigError.
    """
    health = cron_health.judged(link.calls([cron_health.command()])[0])
    crons = {
        f"{own.host}:{own.path}": own.state
        for own in health.processes
        if own.state != RUNNING and own.beat_s > SILENT_S
    }
    calls = {
        f"{own.queue} {own.call}": "overdue" if own.is_overdue else "old"
        for own in health.calls
        if own.is_old
    }
    drops = [("HDEL", key, *own) for key, own in ((CRONS, crons), (ONCE_CALLS, calls)) if own]
    if drops and not dry_run:
        link.calls(drops)
    return [(f"cron {own}", state) for own, state in crons.items()] + [
        (f"call {own}", state) for own, state in calls.items()
    ]
