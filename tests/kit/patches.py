"""What others do to RQ, for test_patched_workers.py: Sentry, wrapt, a patch of Job.perform.

PATCH says which (several: sentry+wrapt), PATCH_IN where it is made: in the task table's module, in
the task's, or in a module of settings (-c). Each leaves lines in the folder PATCHED: `calls`, one
for a call of the patch; `errors`, one for a log record of level ERROR; `events`, `transactions` and
`envelopes`, what Sentry would have sent.
"""

from __future__ import annotations

import functools
import json
import logging
import os
from pathlib import Path
from typing import Any

import sentry_sdk
import wrapt
from rq.job import Job
from sentry_sdk.integrations.rq import RqIntegration
from sentry_sdk.transport import Transport


def apply(place: str) -> None:
    """Patch, if this is the place for it."""
    if os.environ.get("PATCH_IN") == place:
        kinds = {
            "none": list, "sentry": sentry, "alone": sentry_alone, "pii": sentry_with_arguments,
            "wrapt": perform_job, "job": perform,
        }  # fmt: skip
        for kind in os.environ["PATCH"].split("+"):
            kinds[kind]()
        watch_logs()


def write(name: str, line: str) -> None:
    with (Path(os.environ["PATCHED"]) / name).open("a") as file:
        file.write(line + "\n")


def sentry(**options: Any) -> None:
    options = {"transport": Envelopes, "traces_sample_rate": 1.0, **options}
    sentry_sdk.init("http://key@127.0.0.1:9/1", **options)


def sentry_alone() -> None:
    """Without its integration for RQ, which patches RQ."""
    sentry(disabled_integrations=[RqIntegration()], enable_logs=True)


def sentry_with_arguments() -> None:
    """With an integration for RQ that sends arguments."""
    sentry(send_default_pii=True, enable_logs=True)


def perform_job() -> None:
    def wrapper(wrapped: Any, worker: Any, args: Any, kwargs: Any) -> Any:
        write("calls", args[0].id)
        return wrapped(*args, **kwargs)

    wrapt.wrap_function_wrapper("rq.worker.base", "BaseWorker.perform_job", wrapper)


def perform() -> None:
    original = Job.perform

    @functools.wraps(original)
    def patched(job: Job) -> Any:
        write("calls", job.id)
        return original(job)

    Job.perform = patched


def watch_logs() -> None:
    """Keep each record of level ERROR, where Sentry does: RQ's loggers do not propagate."""
    call_handlers = logging.Logger.callHandlers

    def patched(logger: logging.Logger, record: logging.LogRecord) -> None:
        if record.levelno >= logging.ERROR:
            write("errors", json.dumps([record.name, record.getMessage()]))
        call_handlers(logger, record)

    logging.Logger.callHandlers = patched


class Envelopes(Transport):
    """Keeps what is sent: of a transaction, as a call of the patch, the job's id."""

    def capture_envelope(self, envelope: Any) -> None:
        for item in envelope.items:
            event = item.payload.json or {}
            job = event.get("extra", {}).get("rq-job", {}).get("job_id")
            write("envelopes", item.get_bytes().decode())
            if item.type == "transaction":
                write("calls", str(job))
                write("transactions", json.dumps(event))
            elif item.type == "event":
                write("events", json.dumps({"job": job, **event}, default=str))
