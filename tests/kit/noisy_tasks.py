"""An application that writes to its log in every way: NOISY names how it sets up logging."""

from __future__ import annotations

import logging
import logging.config
import os
import subprocess
import sys
import traceback
import warnings

from werk import Task

FORMAT = "shop|%(levelname)s|%(name)s|%(message)s"
CONFIG = {
    "version": 1,
    "disable_existing_loggers": False,
    "formatters": {"shop": {"format": FORMAT}},
    "handlers": {
        "out": {"class": "logging.StreamHandler", "stream": "ext://sys.stdout", "formatter": "shop"}
    },
}
ROOT = {"root": {"handlers": ["out"], "level": "INFO"}}
OWN = {"loggers": {"shop": {"handlers": ["out"], "level": "INFO"}}}
BOTH = {"loggers": {"rq.worker": {"handlers": ["out"], "level": "INFO"}}, **ROOT}
how = os.environ.get("NOISY", "")
if how == "basicConfig":
    logging.basicConfig(format=FORMAT)
elif how == "dictConfig":
    logging.config.dictConfig({**CONFIG, **ROOT})
elif how == "own logger":
    logging.config.dictConfig({**CONFIG, **OWN})

log = logging.getLogger("shop")
library = logging.getLogger("library")
library.addHandler(logging.NullHandler())  # as libraries do
log.warning("a line at import")


class Odd:
    def __repr__(self) -> str:
        raise ValueError("no repr")


def make_noise(text: str) -> None:
    """Log, print and warn."""
    if how == "late":
        logging.basicConfig(format=FORMAT)
    log.debug("for nobody")
    log.info("an info line")
    logging.warning("by the root logger")
    log.warning("a warning of %s", text)
    library.warning("a library's line")
    log.info("with an extra", extra={"job": 1, "task": 2, "queue": 3, "attempt": 4, "pages": 5})
    log.info("an odd one", extra={"odd": Odd(), "not": float("nan"), "set": {1}, "event": "mine"})
    try:
        raise ValueError(f"caught {text}")
    except ValueError:
        log.exception("an exception")
        if how == "":
            traceback.print_exc()
    warnings.warn(f"a warning by warnings of {text}", stacklevel=1)
    log.warning({"a": "dict", "of": text})
    if "BAD_CALL" in os.environ:
        log.warning("not enough: %s %s", text)


def print_much(text: str) -> None:
    print("printed", text)
    print("and", "a", "part of a line", end="")
    sys.stderr.write("on stderr\n")
    subprocess.run(["true"], stdout=sys.stdout, check=True)


def fail(text: str) -> None:
    raise RuntimeError(text)


def fail_hard(text: str) -> None:
    sys.exit(text)


TASKS = {
    name: Task(f"noisy_tasks.{name}") for name in ("make_noise", "print_much", "fail", "fail_hard")
}
