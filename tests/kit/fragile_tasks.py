"""A module whose import fails while the file `up` is not there, and then for another reason."""

import os
from pathlib import Path

import half_begun

if half_begun.begun:
    raise RuntimeError("it cannot be begun a second time")
half_begun.begun = True
if not (Path(os.environ["FRAGILE"]) / "up").exists():
    raise TimeoutError("it is down")


def fragile() -> str:
    return "ran"
