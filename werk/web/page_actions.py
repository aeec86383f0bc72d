"""The actions of the buttons. Each takes a POST of JSON and replies with what was done.

guard.py has already checked that the request comes from one of the dashboard's own pages.
"""

from __future__ import annotations

import threading
from collections.abc import Mapping
from typing import Any

from flask import Response, abort, jsonify

from werk.errors import NoSuchJob, WerkError
from werk.ops import actions, bulk
from werk.ops.queues import clock
from werk.printable import counted
from werk.settings import Settings
from werk.store.connection import link
from werk.web import filters
from werk.web.body import ONE_BODY, json_object, received
from werk.web.pages import long_request

STOP_S = 30.0  # how long to wait until a job has stopped
_STOPS = threading.BoundedSemaphore(4)  # requests that may wait so long: retries need their places
DONE = {"retry": "retried", "discard": "discarded", "cancel": "cancelled"}
NAMES = ("pause", "resume", "drain", "stop", *DONE)
COUNTED_AT, LONGEST_ASKED_S = "counted_at", 24 * 3600  # how old the number in a question may be
KNOWN = (*filters.NAMES, "worker", "job", COUNTED_AT)  # fields of the body


class PageActions(threading.local):  # so that each thread has its own link
    """The views, by the names of their endpoints."""

    def __init__(self, settings: Settings) -> None:
        self.link = link(settings)

    def pause(self) -> Response:
        return self._of_queue("pause", "paused")

    def resume(self) -> Response:
        return self._of_queue("resume", "resumed")

    def drain(self) -> Response:
        name = _word("worker")
        ((_, outcome),) = actions.act(self.link, "drain", [name])
        if outcome not in ("asked", "already"):
            raise WerkError(f"worker {name} is {outcome}; see werk status")
        return _told(1, f"worker {name} finishes its jobs and exits")

    def stop(self) -> Response:
        with long_request(_STOPS):
            worker = actions.stop(self.link, _word("job"), STOP_S)
        return _told(1, f"1 job stopped on worker {worker}")

    def retry(self) -> Response:
        return self._of_jobs("retry")

    def discard(self) -> Response:
        return self._of_jobs("discard")

    def cancel(self) -> Response:
        return self._of_jobs("cancel")

    def _of_queue(self, action: str, done: str) -> Response:
        name = _word("queue")
        ((_, outcome),) = actions.act(self.link, action, [name])
        if outcome == "unknown":
            raise NoSuchJob(f"unknown queue {name}")
        return _told(1, f"queue {name} {done}")

    def _of_jobs(self, action: str) -> Response:
        """Apply an action to all jobs that match the filters in the body.

        Jobs that came after `counted_at`, the time of the count that a page has shown, stay.
        """
        body, now = {**_body()}, clock(self.link)
        begun = _moment(body.pop(COUNTED_AT, now), now)
        fields = {
            name: values if isinstance(values, list) else [values] for name, values in body.items()
        }
        if not all(isinstance(own, str) for values in fields.values() for own in values):
            abort(400, "a filter must be a text or a list of texts")
        if not filters.given(fields):
            abort(400, "no filter is given; name a state, a queue or a task")
        with long_request():
            query = filters.possible(self.link, action, fields, begun)
            done = bulk.act_on(self.link, action, query, begun=begun)
        return _told(done, f"{counted(done, 'job')} {DONE[action]}")


def _told(count: int, text: str) -> Response:
    return jsonify(count=count, done=text)


def _body() -> Mapping[str, Any]:
    text = received()
    with ONE_BODY:
        body = json_object(text)
    if unknown := {*body} - {*KNOWN}:
        known = ", ".join(KNOWN)
        abort(400, f"unknown in the body: {min(unknown)[:80]!r}; known: {known}")
    return body


def _word(name: str) -> str:
    """Return a field of the body that must be a text."""
    value = _body().get(name)
    if not isinstance(value, str) or not value:
        abort(400, f"{name} must be a text")
    return value


def _moment(value: Any, now: float) -> float:
    """Return the time of a count, on Redis's clock."""
    if type(value) not in (int, float) or not now - LONGEST_ASKED_S <= value <= now:
        limits = "the time of a count in the last 24 hours; count the jobs again"
        abort(400, f"{COUNTED_AT} must be {limits}")
    return float(value)
