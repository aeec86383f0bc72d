"""The packages that an installation without dependencies has left out.

A host that only enqueues needs click and hiredis. Another command there ends with one line that
says what to install.
"""

from __future__ import annotations

import re

_NAME = r"[\w.-]+"
_MODULES = {  # others have the name of their package
    "dateutil": "python-dateutil",
    "flask": "rq-dashboard",
    "pythonjsonlogger": "python-json-logger",
}
_EXTRAS = ('extra == "json"',)  # those that a command reports as missing


def how_to_install(module: str) -> str:
    """Return a sentence about a module that was not found, or "" if no package of ours has it."""
    from importlib import metadata

    try:
        listed = [own.partition("; ") for own in metadata.requires("werk") or ()]
    except metadata.PackageNotFoundError:  # it runs from a folder, and was never installed
        return ""
    root = module.partition(".")[0]
    package = _MODULES.get(root, root.replace("_", "-"))
    needed = [own for own, _, extra in listed if not extra]
    needed += [own for own, _, extra in listed if _name(own) == package and extra in _EXTRAS]
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
    found = re.match(_NAME, requirement)
    return found[0] if found else ""
