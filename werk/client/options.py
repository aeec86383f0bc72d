"""The options of an enqueue, each declared once: name, type, default, unit and help.

Python callers pass Options; the options of `werk-enqueue` are made from its fields
(cli/enqueue.py), so the help says for both what an option does.
"""

# Annotations are evaluated here, unlike elsewhere: the command line reads them.
from datetime import datetime
from typing import Annotated, NamedTuple


class Help(NamedTuple):
    """What `werk-enqueue --help` prints of an option."""

    text: str
    value: str = ""  # what stands for its value, such as its unit
    name: str = ""  # of the option, where the field's is taken on the command line


class Options(NamedTuple):
    """How one job is treated. None: as the task's entry in the registry says."""

    queue: Annotated[
        str | None, Help("Enqueue to QUEUE instead of the task's own queue.", "QUEUE")
    ] = None
    front: Annotated[bool, Help("Put the job before all waiting jobs.")] = False
    delay: Annotated[float | None, Help("Run the job after SECONDS.", "SECONDS")] = None
    at: Annotated[
        datetime | None,
        Help("Run the job at TIME: 2026-12-24T18:00 (local time), or with +01:00.", "TIME"),
    ] = None
    job_id: Annotated[
        str | None,
        Help("Give the job this ID; enqueue nothing if a job with it exists.", "ID"),
    ] = None  # letters, digits, - and _
    timeout: Annotated[
        int | None,
        Help("Limit each execution to SECONDS; -1: no limit.", "SECONDS", "job_timeout"),
    ] = None
    ttl: Annotated[
        int | None, Help("Discard the job if it waits for longer than SECONDS.", "SECONDS")
    ] = None
    result_ttl: Annotated[
        int | None, Help("Keep the result for SECONDS; -1: it never expires.", "SECONDS")
    ] = None
    failure_ttl: Annotated[
        int | None, Help("Keep a failed job for SECONDS; -1: it never expires.", "SECONDS")
    ] = None
    retry: Annotated[int | None, Help("Retry a failed job COUNT times.", "COUNT")] = None
    once_per: Annotated[
        float | None,
        Help(
            "Enqueue at most once per PERIOD (90, 5m, 1h, 1d), even if several hosts run this"
            " command.",
            "PERIOD",
        ),
    ] = None
    slot: str | None = None  # for `werk cron` alone: the tick that the job stands for
    unless_active: Annotated[
        bool, Help("Enqueue nothing while the last job of this call waits or runs.")
    ] = False
    expires: Annotated[
        float | None,
        Help("Discard the job if it has not started PERIOD after it was due.", "PERIOD"),
    ] = None
    ping: Annotated[
        str | None, Help("Have the worker GET this http(s) URL when the job has succeeded.", "URL")
    ] = None
    require_worker: Annotated[
        bool, Help("Enqueue nothing, and exit with 75, unless a live worker serves the task.")
    ] = False
