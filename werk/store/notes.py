"""Notes in Redis: what has happened, when last and how often, for `werk status`."""

from __future__ import annotations

import json
from collections.abc import Mapping

from werk.store import keys
from werk.store.scripts import named, source

MOST_NOTES = 500  # in a hash
# Hashes whose values are JSON objects: last (Redis's time), count, and more facts.
ONCE_CALLS = keys.key("werk", "once-calls")  # "<queue> <call>": calls with --once-per by crontabs
WOULD_REFUSE = keys.key("werk", "would-refuse")  # task or path: jobs with WERK_ALLOW_UNREGISTERED


def note(
    key: str, field: str, facts: Mapping[str, object], count: int = 1
) -> tuple[str, str, int, str, str, int, str]:
    """Return the command that notes `field` in the hash `key`. It never gets an error reply."""
    names = named(("KEY", "FIELD", "COUNT", "RECORD"))
    text = f"{names}\nlocal MOST_NOTES = {MOST_NOTES}\n{source('note')}"
    return "EVAL", text, 0, key, field, count, json.dumps(facts)
