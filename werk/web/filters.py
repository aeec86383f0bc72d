"""The filters in the address of a page and in the body of an action, as `werk jobs` has them.

--exact is missing, and `since` and `older` take durations only.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from contextlib import suppress

from werk import duration
from werk.errors import ArgumentError
from werk.ops import bulk
from werk.ops.job_places import STATES
from werk.ops.jobs import UNFINISHED, Query
from werk.ops.queues import clock
from werk.store.connection import Link

NAMES = ("state", "queue", "task", "arg", "error", "since", "older")
Fields = Mapping[str, Sequence[str]]


def given(fields: Fields) -> dict[str, list[str]]:
    """Return the filters that are given, without empty ones."""
    found = {name: [own for own in fields.get(name, ()) if own] for name in NAMES}
    return {name: values for name, values in found.items() if values}


def query(link: Link, fields: Fields, now: float | None = None) -> Query:
    """Return the query for these filters. Ages end at `now`, Redis's time. Raises ArgumentError."""
    filters = given(fields)
    first = {name: values[0] for name, values in filters.items()}
    states = filters.get("state", UNFINISHED)
    if unknown := {*states} - {*STATES}:
        raise ArgumentError(f"unknown state {min(unknown)[:80]!r}; use {', '.join(STATES)}")
    ages = {name: _seconds(name, first[name]) for name in ("since", "older") if name in first}
    if now is None:
        now = clock(link) if ages else 0.0
    return Query(
        states=states,
        queue=first.get("queue"),
        task=first.get("task"),
        args=[_argument(text) for text in filters.get("arg", ())],
        error=first.get("error"),
        since=now - ages["since"] if "since" in ages else None,
        older=now - ages["older"] if "older" in ages else None,
    )


def possible(link: Link, action: str, fields: Fields, now: float) -> Query:
    """Return the query for the jobs that an action can change. Raises ArgumentError."""
    if action not in bulk.STATES:
        raise ArgumentError(f"unknown action {action[:80]!r}; use {', '.join(bulk.STATES)}")
    found = query(link, fields, now)
    if states := states_for(action, found):
        return found._replace(states=states)
    needed = " or ".join(bulk.STATES[action])
    raise ArgumentError(f"{action}: no chosen state fits; choose {needed}")


def states_for(action: str, query: Query) -> list[str]:
    """Return the states of a query whose jobs an action can change."""
    return [own for own in query.states if own in bulk.STATES[action]]


def _seconds(name: str, text: str) -> float:
    with suppress(ValueError):
        if not duration.is_date(text) and (seconds := duration.seconds(text)) >= 0:
            return seconds
    raise ArgumentError(f"{name}: got {text[:80]!r}; use a duration such as 5m or 1h")


def _argument(text: str) -> tuple[str, str]:
    name, sign, value = text.partition("=")
    if not name or not sign:
        raise ArgumentError(f"argument: got {text[:80]!r}; use NAME=VALUE")
    return name.replace("-", "_"), value
