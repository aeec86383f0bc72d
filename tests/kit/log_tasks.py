"""Tasks for the tests of the log, and a record of every log record that is made here.

What LOGGED names is a file; each record of this process and its children is a line of it, as any
integration sees it: Sentry, for one, replaces Logger.callHandlers as well.
"""

from __future__ import annotations

import builtins
import json
import keyword
import logging
import os
import signal
import time
from typing import Any

from worker_tasks import note

from werk import Task

log = logging.getLogger("shop")

# What logging itself refuses: see logging.Logger.makeRecord.
RESERVED = {*vars(logging.makeLogRecord({})), "message", "asctime"}
WORDS = (
    "job task queue attempt worker job_id jobid job_name task_id task_name execution run event"
    " reason error func arguments kwargs elapsed result status key user request request_id trace"
    " trace_id span extra data host hostname pid ppid time timestamp date level logger id type"
    " kind werk rq redis werk_job werk_task werk_queue werk_attempt rq_job current claim origin"
    " registry horse supervisor worker_name"
).split()
NAMES = sorted({*WORDS, *dir(builtins), *keyword.kwlist, *dir(str)} - RESERVED)


def all_names(folder: str) -> int:
    """Log with each name that a user may choose."""
    for name in NAMES:
        log.warning("a line with %s", name, extra={name: 1})
    note(folder)
    return len(NAMES)


def name_in_finally(folder: str) -> None:
    """Raise, and log on the way out."""
    try:
        raise ValueError("the real error")
    finally:
        log.warning("on the way out", extra=dict.fromkeys(NAMES, 1))


def pay_and_fail(pin: str, folder: str) -> None:
    note(folder)
    raise ValueError("the card was refused")


def pay_for_ever(pin: str, folder: str) -> None:
    note(folder)
    while True:
        try:
            time.sleep(10)  # until the horse is killed
        except Exception:
            continue


def pay_and_crash(pin: str, folder: str) -> None:
    note(folder)
    os.kill(os.getpid(), signal.SIGKILL)


def pay_with(folder: str, *rest: str, **named: str) -> None:
    note(folder)
    raise ValueError("the card was refused")


def say(folder: str, text: str) -> None:
    """Log a text in each way that there is."""
    try:
        raise ValueError(text)
    except ValueError:
        log.exception("a line of %s", text, extra={"customer": text}, stack_info=True)
    log.warning(text.replace("%", "%%"))
    note(folder)


def raise_with(folder: str, text: str) -> None:
    note(folder)
    raise ValueError(text)


_PATH = "log_tasks."
_SECRET = {"secret": ("pin",)}
TASKS = {
    "note": Task("worker_tasks.note"),
    **{name: Task(_PATH + name) for name in ("all_names", "name_in_finally", "say", "raise_with")},
    "say_late": Task("late_logging.say"),
    "pay_and_fail": Task(_PATH + "pay_and_fail", **_SECRET),
    "pay_again": Task(_PATH + "pay_and_fail", retry=1, retry_delay=0, **_SECRET),
    "pay_for_ever": Task(_PATH + "pay_for_ever", timeout=1, **_SECRET),
    "pay_and_crash": Task(_PATH + "pay_and_crash", max_crashes=0, **_SECRET),
    "pay_with": Task(_PATH + "pay_with", **_SECRET),
}


def _write_down_all_records(path: str) -> None:
    call = logging.Logger.callHandlers

    def write_down(self: logging.Logger, record: logging.LogRecord) -> None:
        facts = {name: repr(value) for name, value in vars(record).items()}
        line = json.dumps({**facts, "text": record.getMessage()})
        with open(path, "a") as file:
            file.write(f"{line}\n")
        call(self, record)

    logging.Logger.callHandlers = write_down  # type: ignore[method-assign]


def records(path: str) -> list[dict[str, Any]]:
    with open(path) as file:
        return [json.loads(line) for line in file]


if "LOGGED" in os.environ:
    _write_down_all_records(os.environ["LOGGED"])
