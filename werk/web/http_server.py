"""The HTTP server of the dashboard: waitress, with limits for each client, password or not.

A client occupies a thread only while its complete request is being answered. A connection that
waits for its client (for the rest of a request, for the next request, or to read a reply) is closed
after SLOW_CLIENT_S, and sooner if other connections need the room. So /healthz answers, however
many slow clients there are. Bodies are held in memory: all incomplete ones together are limited.
"""

from __future__ import annotations

import json
import socket
import time
from collections.abc import Callable
from contextlib import suppress
from typing import Any

from waitress.adjustments import Adjustments
from waitress.channel import HTTPChannel
from waitress.parser import HTTPRequestParser
from waitress.server import MultiSocketServer, TcpWSGIServer
from waitress.task import ErrorTask, ThreadedTaskDispatcher

THREADS = 16  # a page that waits for Redis holds one, and /healthz must find a free one
MOST_CONNECTIONS = 100  # above this, the one that has waited longest is closed
SLOW_CLIENT_S = 30.0  # applies also to a client that sends its request byte by byte
LONGEST_HEAD = 16 * 1024  # bytes in memory for each connection
LONGEST_BODY = 2 * 1024 * 1024  # bytes; in memory while it arrives
MOST_ARRIVING = 16 * LONGEST_BODY  # above this, the connection that has waited longest is closed
TOO_LONG = "the body has more than 2 MiB; store the data elsewhere and send a reference"


def listen(app: Callable[..., Any], bind: str, port: int) -> MultiSocketServer:
    """Return a server of a WSGI app on each address of `bind`. Raises OSError or ValueError."""
    options = Adjustments(
        host=bind,
        port=port,
        ident="werk",
        threads=THREADS,
        max_request_header_size=LONGEST_HEAD,
        max_request_body_size=LONGEST_BODY + 1,  # the first length that waitress refuses
        inbuf_overflow=LONGEST_BODY,  # waitress writes longer bodies to a file
        connection_limit=2 * MOST_CONNECTIONS,  # even if all of them are being answered
        cleanup_interval=1,  # seconds between two calls of maintenance()
        asyncore_use_poll=True,  # select() fails at descriptor 1024
        log_socket_errors=False,  # with a traceback, for each client that hangs up
    )
    dispatcher = ThreadedTaskDispatcher()
    dispatcher.set_thread_count(THREADS)
    sockets: dict[int, Any] = {}
    for address in options.listen:
        _Listener(app, sockets, dispatcher=dispatcher, adj=options, sockinfo=address)
    return MultiSocketServer(sockets, options, dispatcher=dispatcher)


class _Request(HTTPRequestParser):  # type: ignore[misc]  # waitress has no types
    """A request whose body is not asked for once it has been refused."""

    def received(self, data: bytes) -> int:
        count: int = super().received(data)
        if self.error:
            self.expect_continue = False
        return count


class _Refusal(ErrorTask):  # type: ignore[misc]
    """The answer to a request that the app does not get: JSON, like the app's errors."""

    def execute(self) -> None:
        error = self.request.error
        text = TOO_LONG if error.code == 413 else error.body
        body = json.dumps({"error": text}).encode()
        self.status = f"{error.code} {error.reason}"
        self.response_headers.append(("Content-Type", "application/json"))
        self.set_close_on_finish()
        self.content_length = len(body)
        self.write(body)


class _Connection(HTTPChannel):  # type: ignore[misc]
    """A connection that records since when it has waited for its client."""

    parser_class = _Request
    error_task_class = _Refusal

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        self.since = time.monotonic()
        super().__init__(*args, **kwargs)

    def received(self, data: bytes) -> bool:
        """Read data of a request, or of several."""
        is_taken: bool = super().received(data)
        if self.arrived():
            self.server.make_room()
        return is_taken

    def arrived(self) -> int:
        """Return how many bytes have arrived of a body that is not complete."""
        return self.request.body_bytes_received if self.request and self.is_waiting() else 0

    def service(self) -> None:
        """Answer a request, in a thread other than the server's."""
        self.since = time.monotonic()
        super().service()
        self.since = time.monotonic()

    def is_waiting(self) -> bool:
        return not self.requests and not self.will_close

    def is_late(self) -> bool:
        """Return whether the client has taken too long to send or to read."""
        if self.total_outbufs_len and time.time() > self.last_activity + SLOW_CLIENT_S:
            return True  # counted from the last byte that it read; a thread may be waiting for it
        return self.is_waiting() and time.monotonic() > self.since + SLOW_CLIENT_S

    def drop(self) -> None:
        """Make the server close the connection: the end of the socket ends any wait."""
        self.will_close = True
        with suppress(OSError):
            self.socket.shutdown(socket.SHUT_RDWR)


class _Listener(TcpWSGIServer):  # type: ignore[misc]
    """Accepts connections. `_map` has those of all listeners, and the listeners themselves."""

    channel_class = _Connection

    def handle_accept(self) -> None:
        super().handle_accept()
        if len(self._map) > MOST_CONNECTIONS:
            waiting = [own for own in self._connections() if own.is_waiting()]
            if waiting:
                min(waiting, key=lambda own: own.since).drop()

    def make_room(self) -> None:
        """Close the oldest connection with an incomplete body if these take too much memory."""
        arriving = [own for own in self._connections() if own.arrived()]
        if sum(own.arrived() for own in arriving) > MOST_ARRIVING:
            min(arriving, key=lambda own: own.since).drop()

    def maintenance(self, now: float) -> None:
        """Close late connections; waitress calls this every second.

        Waitress's method measures from the last byte that came, so one byte now and then would keep
        a connection open.
        """
        for connection in self._connections():
            if connection.is_late():
                connection.drop()

    def _connections(self) -> list[_Connection]:
        return [own for own in self._map.values() if isinstance(own, _Connection)]
