"""The tasks: plain functions. Write your tasks here or elsewhere, and name them in registry.py."""

from __future__ import annotations

import time


def sleep(seconds: float) -> bool:
    """Sleep for SECONDS."""
    time.sleep(seconds)
    return True


def hello(name: str) -> str:
    """Greet somebody."""
    return f"Hello {name}"


def panic(message: str = "panic! as asked") -> None:
    """Fail, to see what a failure looks like."""
    raise RuntimeError(message)
