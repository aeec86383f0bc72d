"""What `werk-enqueue --once-per` notes in Redis when a crontab calls it.

So `werk status` can warn if no host has made the call for three periods.
"""

from __future__ import annotations

import socket

from werk.client.prepare import PreparedJob
from werk.duration import seconds
from werk.store.connection import Command
from werk.store.limits import DESCRIPTION_LENGTH
from werk.store.notes import ONCE_CALLS, note

SHORTEST_S = 60  # cron does not call more often


def noted(job: PreparedJob) -> list[Command]:
    """Return the commands to send with the enqueue of a job; none for short periods."""
    period_s = seconds(job.options.once_per or 0)
    if period_s < SHORTEST_S:
        return []
    field = f"{job.task.queue} {job.call[:DESCRIPTION_LENGTH]}"
    return [note(ONCE_CALLS, field, {"period_s": period_s, "host": socket.gethostname()})]
