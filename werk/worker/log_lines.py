"""Makes the log of a worker safe: no control characters, no forged lines, no values of secrets.

make_safe() lets each handler escape a record before its own formatter sees it.
"""

from __future__ import annotations

import logging
from collections.abc import Iterable
from typing import Any

from werk import registry
from werk.log_format import SafeFormatter
from werk.tasks import signature


def make_safe(handlers: Iterable[logging.Handler]) -> None:
    """Have these handlers print safe lines only, whatever their formatter is."""
    for handler in handlers:
        if not getattr(handler.formatter, "is_safe", False):
            handler.setFormatter(SafeFormatter(handler.formatter or logging.Formatter()))


def mask(record: logging.LogRecord) -> bool:
    """Mask the values of secret parameters in RQ's record of a failure: a logging filter.

    RQ adds the call to the record, as attributes that Sentry and others pass on.
    """
    facts = vars(record)
    if "func" in facts and "arguments" in facts and "kwargs" in facts:
        call = facts["func"], facts["arguments"], facts["kwargs"]
        facts["arguments"], facts["kwargs"] = masked(*call)
    return True


def masked(path: Any, args: Any, kwargs: Any) -> tuple[Any, Any]:
    """Return the arguments of a call of a registered function, secret ones as ***."""
    tasks = registry.tasks().values()
    secret = {name for task in tasks if task.path == path for name in task.secret}
    if not secret:
        return args, kwargs
    try:
        return signature.read(path).masked(args, kwargs, secret)
    except Exception:  # the arguments do not fit the parameters
        return "***", "***"
