"""Shift this process's clock by CHAOS_CLOCK_S seconds: Python imports this module at its start.

Only the clock that werk and RQ read is shifted: time.time, time.time_ns, rq.utils.now and
rq.utils.current_timestamp. All are replaced before any other module can import them by name.
"""

from __future__ import annotations

import importlib.abc
import importlib.machinery
import os
import sys
import time
from datetime import timedelta
from types import ModuleType

SHIFT_S = int(os.environ.get("CHAOS_CLOCK_S") or 0)
_time, _time_ns = time.time, time.time_ns


class _Finder(importlib.abc.MetaPathFinder):
    """Finds rq.utils as Python does, and shifts its clock when it has been executed."""

    def find_spec(self, name, path, target=None):  # type: ignore[no-untyped-def]
        if name != "rq.utils":
            return None
        spec = importlib.machinery.PathFinder.find_spec(name, path, target)
        if spec and spec.loader:
            execute = spec.loader.exec_module

            def exec_module(module: ModuleType) -> None:
                execute(module)
                _shift(module)

            spec.loader.exec_module = exec_module  # type: ignore[method-assign]
        return spec


def _shift(utils: ModuleType) -> None:
    """RQ's current_timestamp calls now, so that one function is enough."""
    now = utils.now
    utils.now = lambda: now() + timedelta(seconds=SHIFT_S)  # type: ignore[attr-defined]


if SHIFT_S:
    time.time = lambda: _time() + SHIFT_S
    time.time_ns = lambda: _time_ns() + SHIFT_S * 10**9
    sys.meta_path.insert(0, _Finder())
