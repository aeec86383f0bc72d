"""A module whose import returns, and raises in the process that it forks."""

import os
from typing import Any

if os.fork() == 0:
    raise ValueError("in the child")


def callback(job: Any, connection: Any, result: Any) -> None: ...
