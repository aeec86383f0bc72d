"""Webhooks: the requests that RQ sends when a job has finished or failed, with limits.

RQ sends them after it has recorded the outcome, in the horse, which runs no other job meanwhile.
So a job may send at most four requests of at most ten seconds each, from beginning to end, and no
redirect is followed. The worker's WERK_WEBHOOK_HOSTS lists the hosts that jobs may call. A webhook
that fails or is left out is logged as one warning, which names only the host: the rest of the
address may be a secret.
"""

from __future__ import annotations

import json
import logging
import re
import socket
from collections.abc import Collection, Sequence
from functools import partial
from http.client import HTTPConnection, HTTPResponse, HTTPSConnection
from threading import Thread
from typing import Any, NamedTuple
from urllib.error import HTTPError, URLError
from urllib.parse import urlsplit
from urllib.request import HTTPHandler, HTTPRedirectHandler, HTTPSHandler, Request, build_opener

from rq.job import Job
from rq.webhook import Webhook

from werk.log_format import Event
from werk.printable import printable
from werk.settings import host_name
from werk.store.connection import hang_up

AT_MOST = 4  # requests of a job
LONGEST = 64 * 1024  # bytes of all webhooks in a job's record
LIMIT_S = 10.0  # of a request, from the look-up of the host to the end of the reply's headers


def made_progress() -> None:
    """Do nothing. A horse replaces this function, to note progress after each request."""


def count_failure() -> None:
    """Do nothing. A horse replaces this function, to count webhooks that fail or are left out."""


class Webhooks(NamedTuple):
    """The webhooks in a job's record."""

    readable: Sequence[Webhook] = ()
    invalid: Sequence[tuple[str, str]] = ()  # of each invalid one: its host, and why

    @classmethod
    def read(cls, field: bytes) -> Webhooks:
        """Read the webhooks in a record. RQ would drop all for an invalid one, and log it."""
        if len(field) > LONGEST:
            why = f"left out, they take {len(field)} bytes, and at most {LONGEST} are read"
            return cls(invalid=[("", why)])
        try:
            found = json.loads(field or b"[]")
        except (ValueError, RecursionError):
            found = None
        records: list[Any] = found if isinstance(found, list) else [None]
        readable, invalid = [], []
        for record in records:
            try:
                readable.append(Webhook.from_dict(record))
            except Exception:
                url = record.get("url") if isinstance(record, dict) else None
                invalid.append((_host(url), "left out, its record is invalid"))
        return cls(readable, invalid)


def send_all(
    job: Job,
    status: str,
    exc_string: str | None,
    *,
    invalid: Sequence[tuple[str, str]] = (),
    hosts: Collection[str] | None = None,
) -> None:
    """Send the webhooks of a job for this status to these hosts, or to any.

    Log and count those that are invalid, left out or fail. Raise nothing.
    """
    for host, why_not in invalid:
        _report(job, host, why_not)
    asked = 0
    for hook in job.webhooks:
        if hook.job_status != status:
            continue
        why_not = _why_left_out(hook, hosts)
        if not why_not and asked == AT_MOST:
            why_not = f"left out, a job may send at most {AT_MOST}"
        if not why_not:
            asked += 1
            why_not = _send(hook, job, exc_string)
            made_progress()
        if why_not:
            _report(job, _host(hook.url), why_not)


def _report(job: Job, host: str, why_not: str) -> None:
    count_failure()
    logging.getLogger("rq.worker").warning(
        Event("webhook-failed", job=job.id, host=host, reason=why_not)
    )


def _why_left_out(hook: Webhook, hosts: Collection[str] | None) -> str:
    """Return why a webhook may not be sent, '' if it may.

    Its address is parsed as the request will parse it: another parser might see another host.
    """
    try:
        request = Request(hook.url, headers=hook.headers or {})
        if request.type not in ("http", "https"):
            return "left out, it is not http or https"
        if hosts is None:
            return ""
        host = host_name(HTTPConnection(request.host or "").host)
    except Exception:
        if hosts is None:
            return ""  # the request will fail, and say why
        host = ""
    if not hosts:
        return "left out, WERK_WEBHOOK_HOSTS is none"
    if host not in hosts:
        return "left out, WERK_WEBHOOK_HOSTS does not list its host"
    # The header would choose among the hosts that share an address.
    if any(name.strip().lower() == "host" for name in request.headers):
        return "left out, it sets the header Host, and WERK_WEBHOOK_HOSTS lists hosts"
    return ""


def _send(hook: Webhook, job: Job, exc_string: str | None) -> str:
    """Send a webhook as rq.webhook does. Return '' or why it failed."""
    try:
        headers, body = hook.headers or {}, None
        if hook.method == "POST":
            body = json.dumps(hook.get_payload(job, exc_string=exc_string)).encode()
            headers = {"Content-Type": "application/json", **headers}
        request = Request(hook.url, data=body, headers=headers, method=hook.method)
        return _Attempt(request, min(hook.timeout, LIMIT_S)).why_not()
    except Exception as error:
        return _reason(error)


class _Attempt:
    """A request with a limit for its whole time. A socket's timeout begins again with each byte.

    So another thread sends the request. When the time is over its socket is shut down, which ends
    the thread; while it is still connecting, the timeout of the socket or the resolver ends it.
    """

    def __init__(self, request: Request, seconds: float) -> None:
        self.request, self.seconds = request, seconds
        self.socket: socket.socket | None = None
        self.found: str | None = None
        self.is_over = False

    def why_not(self) -> str:
        """Send the request. Return '' for a reply of 2xx, or why there is none."""
        thread = Thread(target=self.fetch, name="webhook", daemon=True)
        thread.start()
        thread.join(self.seconds)
        found, self.is_over = self.found, True
        self.shut_down()
        return f"no reply in {self.seconds:g} s" if found is None else found

    def fetch(self) -> None:
        try:
            opener = build_opener(_NoRedirects, _Watched(self))
            with opener.open(self.request, timeout=self.seconds):
                self.found = ""
        except Exception as error:
            if not isinstance(getattr(error, "reason", error), TimeoutError):
                self.found = _reason(error)

    def connected(self, connection: HTTPConnection) -> None:
        self.socket = connection.sock
        if self.is_over:
            self.shut_down()

    def shut_down(self) -> None:
        hang_up(self.socket)


def _reason(error: Any) -> str:
    """Return what went wrong. The text of most errors shows the address or what a server wrote."""
    if isinstance(error, HTTPError):
        is_redirect = 300 <= error.code < 400
        return f"answered {error.code}" + ", a redirect, which is not followed" * is_redirect
    if isinstance(error, URLError):
        error = error.reason
    if isinstance(error, OSError) and error.strerror:
        return printable(error.strerror[:200], "?")
    return type(error).__name__


def _host(url: object) -> str:
    """Return the host and port of an address, without a name and password before them."""
    try:
        netloc = urlsplit(url).netloc if isinstance(url, str) else ""
    except ValueError:
        return ""
    found = re.match(r"[\w.:\[\]-]*", netloc.rpartition("@")[2])
    return printable(found[0][:200] if found else "", "?")


class _NoRedirects(HTTPRedirectHandler):
    """Leaves a redirect to be raised as an error."""

    def redirect_request(self, *_: Any) -> None:
        return None


class _Watched(HTTPHandler, HTTPSHandler):
    """Passes the socket of a connection to its attempt."""

    def __init__(self, attempt: _Attempt) -> None:
        super().__init__()
        self.attempt = attempt

    def http_open(self, request: Request) -> HTTPResponse:
        return self.do_open(partial(self.connection, HTTPConnection), request)

    def https_open(self, request: Request) -> HTTPResponse:
        return self.do_open(partial(self.connection, HTTPSConnection), request)

    def connection(self, kind: type[HTTPConnection], host: str, **options: Any) -> HTTPConnection:
        made = kind(host, **options)
        connect = made.connect

        def connect_watched() -> None:
            connect()
            self.attempt.connected(made)

        made.connect = connect_watched  # type: ignore[method-assign]
        return made
