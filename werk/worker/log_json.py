"""JsonLines: log records as JSON, one object per line, with the job that runs."""

from __future__ import annotations

import json
import logging
from typing import Any

from pythonjsonlogger.json import JsonFormatter

from werk.errors import class_of
from werk.log_format import OWN, Event, moment, traceback_of

PLAIN = (str, int, type(None))  # is JSON as it is
RESERVED = {*vars(logging.makeLogRecord({})), "message", "asctime"}


class JsonLines(JsonFormatter):
    """Formats records. What a task adds with `extra` becomes a field; our fields win.

    A field of a task that has the name of one of ours is called extra_job, extra_task, ...
    """

    is_safe = True  # it escapes everything that is not ASCII

    def __init__(self) -> None:
        super().__init__(json_serializer=_dumps)
        self.running = dict[str, object]

    def formatException(self, ei: Any) -> Any:
        return traceback_of(ei, super().formatException)

    def add_fields(
        self, log_data: dict[str, Any], record: logging.LogRecord, message_dict: dict[str, Any]
    ) -> None:
        log_data |= {"timestamp": moment(record.created), "level": record.levelname}
        text = record.message.rstrip("\n") if record.name == "py.warnings" else record.message
        log_data |= {"logger": record.name, "message": text}
        log_data |= self.running()
        if type(record.msg) is Event:
            facts = record.msg.facts.items()
            log_data["event"] = record.msg.name
            log_data |= {name: v if isinstance(v, (*PLAIN, float)) else str(v) for name, v in facts}
        log_data |= {
            name: message_dict.pop(name)
            for name in ("exc_info", "stack_info")
            if name in message_dict
        }
        extra = message_dict
        if record.name.partition(".")[0] not in OWN:  # RQ's extra has the arguments of the job
            extra |= {key: own for key, own in vars(record).items() if key not in RESERVED}
        for key, value in extra.items():
            name = str(key)
            while name in log_data:
                name = f"extra_{name}"
            log_data[name] = value


def _dumps(data: dict[str, Any], **options: Any) -> str:
    """Return JSON, whatever a task has logged: a value that JSON does not have as its repr()."""
    try:
        return json.dumps(data, allow_nan=False, **options)
    except Exception:
        return json.dumps({name: _plain(value) for name, value in data.items()}, ensure_ascii=True)


def _plain(value: object) -> object:
    try:
        json.dumps(value, allow_nan=False)  # fails for an int of thousands of digits, too
    except Exception:
        return _repr(value)
    return value if isinstance(value, PLAIN) else _repr(value)


def _repr(value: object) -> str:
    try:
        return repr(value)
    except Exception as error:
        return f"<{class_of(value)}: {class_of(error)}>"
