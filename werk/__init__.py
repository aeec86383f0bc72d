"""Background jobs by name, on RQ and Redis.

import werk
job = werk.enqueue("sleep", 1)
job.result(timeout=60)
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from werk import aio as aio
    from werk.client.enqueue import enqueue, enqueue_call, enqueue_many
    from werk.client.options import Options
    from werk.client.result import Handle, result, status
    from werk.errors import (
        ArgumentError,
        ConfigError,
        JobCancelled,
        JobFailed,
        JobIdConflict,
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
    from werk.settings import configure

__version__ = "0.3.0.dev0"

__all__ = [
    "ArgumentError",
    "ConfigError",
    "Handle",
    "JobCancelled",
    "JobFailed",
    "JobIdConflict",
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
    "configure",
    "enqueue",
    "enqueue_call",
    "enqueue_many",
    "result",
    "status",
]

_MODULES = {  # where each name of the public API is defined; the others are in werk.errors
    "Handle": "client.result",
    "Options": "client.options",
    "Task": "registry",
    "configure": "settings",
    "enqueue": "client.enqueue",
    "enqueue_call": "client.enqueue",
    "enqueue_many": "client.enqueue",
    "result": "client.result",
    "status": "client.result",
}


def ping() -> None:
    """Do nothing. `werk ping` has workers run this task, including plain RQ workers."""


def __dir__() -> list[str]:
    """Return the public API: without this, dir() and help() show only what was used before."""
    return sorted([*__all__, "aio", "__all__", "__doc__", "__file__", "__version__"])


if not TYPE_CHECKING:  # a type checker that saw __getattr__ would accept any name

    def __getattr__(name: str) -> Any:
        """Import a name on first use: a worker needs no client, and a task needs neither."""
        import importlib

        if name == "aio":
            return importlib.import_module("werk.aio")
        if name not in __all__:
            raise AttributeError(f"module 'werk' has no attribute {name!r}")
        module = importlib.import_module(f"werk.{_MODULES.get(name, 'errors')}")
        value = globals()[name] = getattr(module, name)
        return value
