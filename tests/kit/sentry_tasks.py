"""Tasks that fail with secrets in their hands, and their table, in a module that patches RQ."""

from __future__ import annotations

import logging
from pathlib import Path
from typing import Any

import patches
import sentry_sdk

from werk import Task

log = logging.getLogger("shop")


class Card:
    def __init__(self, number: int) -> None:
        self.number = number

    def __repr__(self) -> str:
        return f"<card {self.number}>"


def pay(user: str, pin: str, card: dict[str, Any], limit: int = 7) -> None:
    """Let the secrets into everything that Sentry sends."""
    log.warning("paying with %s", pin)  # a breadcrumb, and a log
    sentry_sdk.set_extra("card", card)
    sentry_sdk.set_tag("pin", pin)
    held = [Card(card["number"])]
    timestamp = {pin: {"job_id": pin}}  # keys, and names that Sentry and werk have for ids
    sentry_sdk.set_context("carts", {pin: timestamp})
    sentry_sdk.set_tag(str(card["number"]), "a card")
    with sentry_sdk.start_span(op="pay", name=f"limit={limit} {pin}"):
        raise ValueError(f"{user}: {pin!r} of {held} is wrong")


def leak() -> None:
    """Fail as the job after another one, of which nothing may be left."""
    raise KeyError("nothing of its own")


def stale(folder: str) -> None:
    """Fail with an error that is not retried, after one that is."""
    first = Path(folder) / "first"
    if not first.exists():
        first.touch()
        raise ConnectionError("once")
    raise ValueError("for good")


TASKS = {
    "pay": Task("sentry_tasks.pay", secret=("pin", "card", "limit")),
    "leak": Task("sentry_tasks.leak"),
    "stale": Task("sentry_tasks.stale", retry=5, retry_delay=1, retry_on=("ConnectionError",)),
}
patches.apply("table")
