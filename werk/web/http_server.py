"""The HTTP server of the dashboard: waitress, with limits for each client, password or not.

A client occupies a thread only while its complete request is being answered. A connection that
waits for its client (for the rest of a request, for the next request, or to read a reply) is closed
after PATIENCE_S, and sooner if other connections need the room. So /healthz answers, however many
such connections there are.
"""

from __future__ import annotations

import socket
import time
from collections.abc import Callable
from contextlib import suppress
from typing import Any

from waitress.adjustments import Adjustments
from waitress.channel import HTTPChannel
from waitress.server import MultiSocketServer, TcpWSGIServer
from waitress.task import ThreadedTaskDispatcher

THREADS = 16  # a page that waits for Redis holds one, and /healthz has to find one that is free
MOST_CONNECTIONS = 100  # above that, the one that has waited the longest is closed
PATIENCE_S = 30.0  # also with a client that sends its request byte by byte
LONGEST_HEAD = 16 * 1024  # bytes, which each connection may hold in memory
LONGEST_BODY = 64 * 1024  # a POST of the pages has none


def listen(app: Callable[..., Any], bind: str, port: int) -> MultiSocketServer:
    """Return a server of a WSGI app on each address of `bind`. Raises OSError or ValueError."""
    options = Adjustments(
        host=bind,
        port=port,
        ident="werk",
        threads=THREADS,
        max_request_header_size=LONGEST_HEAD,
        max_request_body_size=LONGEST_BODY,
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


class _Connection(HTTPChannel):  # type: ignore[misc]  # waitress has no types
    """A connection that knows since when it waits for its client."""

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        self.since = time.monotonic()
        super().__init__(*args, **kwargs)

    def service(self) -> None:
        """Answer a request: in another thread, while the server goes on."""
        self.since = time.monotonic()
        super().service()
        self.since = time.monotonic()

    def is_waiting(self) -> bool:
        return not self.requests and not self.will_close

    def is_late(self) -> bool:
        """Tell whether the client has taken too long, also to read."""
        if self.total_outbufs_len and time.time() > self.last_activity + PATIENCE_S:
            return True  # since the last byte that it took; a thread may wait for it
        return self.is_waiting() and time.monotonic() > self.since + PATIENCE_S

    def drop(self) -> None:
        """Have the server close it: it notices the end of the socket, whatever it waits for."""
        self.will_close = True
        with suppress(OSError):
            self.socket.shutdown(socket.SHUT_RDWR)


class _Listener(TcpWSGIServer):  # type: ignore[misc]
    """Accepts connections. Those of all listeners are in `_map`, with the listeners themselves."""

    channel_class = _Connection

    def handle_accept(self) -> None:
        super().handle_accept()
        if len(self._map) > MOST_CONNECTIONS:
            waiting = [own for own in self._connections() if own.is_waiting()]
            if waiting:
                min(waiting, key=lambda own: own.since).drop()

    def maintenance(self, now: float) -> None:
        """Waitress calls this every second. (Its own looks at the last byte that came, so that one
        byte now and then keeps a connection.)"""
        for connection in self._connections():
            if connection.is_late():
                connection.drop()

    def _connections(self) -> list[_Connection]:
        return [own for own in self._map.values() if isinstance(own, _Connection)]
