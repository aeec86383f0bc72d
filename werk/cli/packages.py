"""The packages that an installation without dependencies has left out.

A host that only enqueues needs click and hiredis. Another command there ends with one line that
says what to install.
"""

from __future__ import annotations

import re

_NAME = re.compile(r"[\w.-]+")
_MODULES = {"dateutil": "python-dateutil", "flask": "rq-dashboard"}  # others have their package's


def how_to_install(module: str) -> str:
    """Return a sentence about a module that was not found, or "" if no package of ours has it."""
    from importlib import metadata

    try:
        needed = [own for own in metadata.requires("werk") or () if ";" not in own]
    except metadata.PackageNotFoundError:  # it runs from a folder, and was never installed
        return ""
    root = module.partition(".")[0]
    package = _MODULES.get(root, root.replace("_", "-"))
    if not any(_name(own) == package for own in needed):
        return ""
    missing = []
    for own in needed:
        try:
            metadata.version(_name(own))
        except metadata.PackageNotFoundError:
            missing.append(f"'{own.replace(' ', '')}'")
    return f"{root} is not installed; pip install {' '.join(missing) or package}"


def _name(requirement: str) -> str:
    found = _NAME.match(requirement)
    return found[0] if found else ""
