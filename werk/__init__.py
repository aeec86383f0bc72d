"""Background jobs by name, on RQ and Redis.

import werk
job = werk.enqueue("sleep", 1)
job.result(timeout=60)
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from werk.client.enqueue import Handle, enqueue, enqueue_many, result
    from werk.client.options import Options
    from werk.errors import (
        ArgumentError,
        ConfigError,
        JobCancelled,
        JobFailed,
        NoSuchJob,
        NoWorker,
        RedisUnavailable,
        ResultNotKept,
        ResultTimeout,
        UnknownTask,
        Unreadable,
        WerkError,
        WerkWarning,
    )
    from werk.registry import Task

__version__ = "0.1.0"

__all__ = [
    "ArgumentError",
    "ConfigError",
    "Handle",
    "JobCancelled",
    "JobFailed",
    "NoSuchJob",
    "NoWorker",
    "Options",
    "RedisUnavailable",
    "ResultNotKept",
    "ResultTimeout",
    "Task",
    "UnknownTask",
    "Unreadable",
    "WerkError",
    "WerkWarning",
    "enqueue",
    "enqueue_many",
    "result",
]

_CLIENT = {"Handle", "Options", "enqueue", "enqueue_many", "result"}


def ping() -> None:
    """Do nothing. `werk ping` has workers run it, stock ones too."""


def __getattr__(name: str) -> Any:
    """Import on first use: a worker needs no client, a task needs neither."""
    if name not in __all__:
        raise AttributeError(f"module 'werk' has no attribute {name!r}")
    import importlib

    module = "client.enqueue" if name in _CLIENT else "registry" if name == "Task" else "errors"
    value = globals()[name] = getattr(importlib.import_module(f"werk.{module}"), name)
    return value
