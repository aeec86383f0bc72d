"""The lines that somebody has added to TASKS, as docs/getting-started.md says: tests allow them."""

from __future__ import annotations

import pytest

from werk import registry

SHIPPED = ("hello", "panic", "sleep")
ADDED = registry.TASKS.keys() - set(SHIPPED)
shipped_only = pytest.mark.skipif(bool(ADDED), reason="werk/registry.py has more tasks")


def without_added(text: str) -> str:
    """Return what a command prints, without the added tasks and what is indented below them."""
    kept, depth = [], -1  # of the added task that is left out
    for line in text.splitlines(keepends=True):
        indent = len(line) - len(line.lstrip())
        first = [*line.split(), ""][0]
        if first in ADDED and indent in (0, 2):
            depth = indent
        elif depth < 0 or not first or indent <= depth:
            depth = -1
            kept.append(line)
    return "".join(kept)
