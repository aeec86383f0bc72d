"""The tasks of worker_tasks.py, in a module that patches RQ when it is imported."""

from __future__ import annotations

import patches
from worker_tasks import *  # noqa: F403

patches.apply("task")


def patch() -> None:
    """Patch when it is called."""
    patches.apply("call")
