"""What `werk-enqueue --once-per` notes in Redis when a crontab calls it.

So `werk status` can warn if no host has made the call for three periods.
"""

from __future__ import annotations

import json
import socket

from werk.client.prepare import PreparedJob
from werk.duration import seconds
from werk.store import keys
from werk.store.connection import Command
from werk.store.limits import DESCRIPTION_LENGTH
from werk.store.scripts import named, source

CALLS = keys.key("werk", "once-calls")  # hash: "<queue> <call>" -> JSON, see once_call.lua
MOST_CALLS = 500
SHORTEST_S = 60  # cron does not call more often


def note(job: PreparedJob) -> list[Command]:
    """Return the command to send beside the enqueue of a job, if a crontab makes such calls."""
    period_s = 0 if job.options.once_per is None else seconds(job.options.once_per)
    if period_s < SHORTEST_S:
        return []
    record = json.dumps({"period_s": period_s, "host": socket.gethostname()})
    field = f"{job.task.queue} {job.call[:DESCRIPTION_LENGTH]}"
    text = f"{named(['KEY', 'CALL', 'RECORD'])}\nlocal MOST_CALLS = {MOST_CALLS}\n"
    return [("EVAL", text + source("once_call"), 0, CALLS, field, record)]
