"""What workers say they serve, for callers to compare, or to have no table of their own.

This is the writing side; the tick sends it.

<prefix>:werk:serves:<queue>  sorted set of "<task> <fingerprint>", scored by the last beat
                              (Redis's clock)
<prefix>:werk:catalog         hash of task -> JSON of its Task, parameters and fingerprint
"""

from __future__ import annotations

import json
from hashlib import sha1

from werk import registry, signature
from werk.registry import Task


def fingerprint(task: Task) -> str:
    """Return a short hash of what caller and worker must agree on: path and parameters."""
    return sha1(repr((task.path, signature.read(task.path).parameters)).encode()).hexdigest()[:10]


def serves() -> list[str]:
    """Return a member of serves:<queue> for each task."""
    return [f"{name} {fingerprint(task)}" for name, task in registry.tasks().items()]


def pages() -> list[str]:
    """Return the catalog, flat: task, JSON, task, JSON, ..."""
    return [word for name, task in registry.tasks().items() for word in (name, _page(task))]


def _page(task: Task) -> str:
    parameters = [own._asdict() for own in signature.read(task.path).parameters]
    facts = {**task._asdict(), "parameters": parameters, "fingerprint": fingerprint(task)}
    return json.dumps(facts, default=str)  # a choice may be any constant
