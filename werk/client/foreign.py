"""The script by which programs without werk enqueue (docs/wire.md): python -m werk.client.foreign

It takes four words, finds the task in the catalog, makes an EnqueueRequest of both, and goes on as
enqueue.lua.
"""

from __future__ import annotations

import sys
from collections.abc import Iterable

from werk.client.request import FIELDS, EnqueueRequest, JobFields
from werk.store.scripts import Script, joined, named, source

ARGUMENTS = ("PREFIX", "JOB_ID", "NAME", "ARGUMENTS")  # explained in json.lua and docs/wire.md


def script() -> Script:
    """Return the script."""
    names = (
        f"local REQUEST_NAMES = {_listed(EnqueueRequest._fields)}",
        f"local JOB_NAMES = {_listed(JobFields._fields)}",
    )
    return joined(named(ARGUMENTS), *names, source("json"), FIELDS, source("enqueue"))


def _listed(names: Iterable[str]) -> str:
    """Return names as a Lua list."""
    return "{" + ", ".join(f"'{name}'" for name in names) + "}"


if __name__ == "__main__":
    sys.stdout.write(script().text)
