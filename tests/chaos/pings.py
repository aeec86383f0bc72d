"""The HTTP server that jobs ping when they have succeeded; it answers some of them late."""

from __future__ import annotations

import threading
from collections import Counter
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

LATE_S = 4.0  # within the 10 s that RQ waits
LATE_EVERY = 20  # one of so many pings is answered late


class Pings:
    """The server, in a thread. `heard` counts the pings for each job."""

    def __init__(self) -> None:
        self.heard: Counter[str] = Counter()
        pings = self

        class Handler(BaseHTTPRequestHandler):
            def do_GET(self) -> None:
                pings.heard[self.path.strip("/")] += 1
                if sum(pings.heard.values()) % LATE_EVERY == 0:
                    pings.stopping.wait(LATE_S)
                self.send_response(204)
                self.end_headers()

            def log_message(self, *_: object) -> None:
                pass

        self.stopping = threading.Event()
        self._server = _Server(("127.0.0.1", 0), Handler)
        self.url = f"http://127.0.0.1:{self._server.server_address[1]}"
        self._thread = threading.Thread(target=self._server.serve_forever, args=[0.05])
        self._thread.start()

    def stop(self) -> None:
        """Answer what is open and stop."""
        self.stopping.set()
        self._server.shutdown()
        self._thread.join()
        self._server.server_close()


class _Server(ThreadingHTTPServer):
    daemon_threads = True
    request_queue_size = 100

    def handle_error(self, *_: object) -> None:
        """A worker that was killed has hung up: nothing is wrong here."""
