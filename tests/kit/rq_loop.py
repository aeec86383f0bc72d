"""A worker that replaces a piece of RQ's loop, so that RQ's own runs."""

from __future__ import annotations

from typing import Any

import fast_worker


class Worker(fast_worker.Worker):
    def fork_work_horse(self, *args: Any) -> None:
        super().fork_work_horse(*args)
