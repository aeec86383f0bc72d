"""The dashboard's server, and clients that keep it waiting: /healthz answers all the same."""

from __future__ import annotations

import os
import re
import select
import socket
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack

import pytest
from faults import listening
from support import Process, wait_until

from werk.dev.server import free_port

Serving = Callable[..., tuple[Process, str]]
SOON_S = 20  # a server that is held up answers after SLOW_CLIENT_S, which is 30 s
CLOSED = {"RQ_DASHBOARD_USERNAME": "ops", "RQ_DASHBOARD_PASSWORD": "pw"}
SHORT = """
import sys
from werk.cli.run import main
from werk.web import http_server
http_server.SLOW_CLIENT_S = 1.0
sys.argv[1:] = ["dashboard", "--port", sys.argv[1]]
main()
"""

HEAD = b"GET / HTTP/1.1\r\nHost: localhost\r\nX-Slow: "
HALVES = {
    "nothing": b"",
    "head": HEAD,
    "body": b"POST /requeue/q HTTP/1.1\r\nHost: localhost\r\nContent-Length: 1000\r\n\r\nhalf",
    "chunks": b"POST / HTTP/1.1\r\nHost: localhost\r\nTransfer-Encoding: chunked\r\n\r\n5\r\nhalf",
    "continue": b"POST / HTTP/1.1\r\nHost: localhost\r\nContent-Length: 9\r\n"
    b"Expect: 100-continue\r\n\r\n",
}


class Clients:
    """Connections to one server."""

    def __init__(self, stack: ExitStack) -> None:
        self.stack, self.open = stack, list[socket.socket]()

    def add(self, address: str, data: bytes, count: int = 1) -> None:
        port = int(address.rpartition(":")[2])
        for _ in range(count):
            own = self.stack.enter_context(socket.create_connection(("127.0.0.1", port), 60))
            own.sendall(data)
            self.open.append(own)

    def closed(self) -> int:
        """Return how many the server has closed."""
        poll = select.poll()
        for own in self.open:
            poll.register(own, select.POLLRDHUP)
        return len(poll.poll(0))


@pytest.fixture
def clients() -> Iterator[Clients]:
    with ExitStack() as stack:
        yield Clients(stack)


def health_s(address: str) -> float:
    """Return how many seconds /healthz took on a connection of its own. Fails after 25."""
    begun_at = time.monotonic()
    with socket.create_connection(("127.0.0.1", int(address.rpartition(":")[2])), 25) as own:
        own.sendall(b"GET /healthz HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n")
        reply = b""
        while data := own.recv(4096):
            reply += data
    assert reply.startswith(b"HTTP/1.1 200") and reply.endswith(b"ok\n")
    return time.monotonic() - begun_at


@pytest.mark.parametrize("half", HALVES)
def test_health_answers_beside_300_half_requests(
    serving: Serving,
    clients: Clients,
    half: str,
) -> None:
    process, address = serving(**CLOSED)
    clients.add(address, HALVES[half], 300)
    assert max(health_s(address) for _ in range(5)) < SOON_S
    clients.add(address, HALVES[half], 300)
    assert health_s(address) < SOON_S
    assert "Traceback" not in process.output()


def test_a_connection_that_is_answered_again_and_again_stays(
    serving: Serving,
    clients: Clients,
) -> None:
    """The oldest of those that wait gives way, not one in use."""
    _, address = serving()
    clients.add(address, HEAD, 100)
    used = Clients(clients.stack)
    used.add(address, b"")
    for _ in range(30):
        used.open[0].sendall(b"GET /healthz HTTP/1.1\r\nHost: localhost\r\n\r\n")
        reply = b""
        while not reply.endswith(b"ok\n"):
            reply += used.open[0].recv(4096) or pytest.fail("it was closed")
        clients.add(address, HEAD, 10)
    assert used.closed() == 0
    wait_until(lambda: clients.closed() >= 300)


def test_half_a_request_is_given_up_though_a_byte_comes_now_and_then(
    spawn: Callable[..., Process], clients: Clients, redis_url: str
) -> None:
    port = free_port()
    process = spawn("python", "-c", SHORT, port)
    wait_until(lambda: "event=serving" in process.output())
    for half in HALVES.values():
        clients.add(f"http://127.0.0.1:{port}", half)
    answered = Clients(clients.stack)
    answered.add(f":{port}", b"GET /healthz HTTP/1.1\r\nHost: localhost\r\n\r\n")
    dripping = Clients(clients.stack)
    dripping.add(f":{port}", HEAD)

    def drip() -> bool:
        try:
            dripping.open[0].sendall(b"x")
        except OSError:
            return True
        return dripping.closed() == 1

    wait_until(drip)
    wait_until(lambda: clients.closed() == len(HALVES))
    wait_until(lambda: answered.closed() == 1)
    assert health_s(f":{port}") < SOON_S
    assert "Traceback" not in process.output()


def test_a_client_that_does_not_read_is_given_up(
    spawn: Callable[..., Process], clients: Clients, redis_url: str
) -> None:
    port = free_port()
    process = spawn("python", "-c", SHORT, port)
    wait_until(lambda: "event=serving" in process.output())
    many = b"GET /static/js/bootstrap.bundle.js HTTP/1.1\r\nHost: localhost\r\n\r\n" * 100
    with socket.socket() as own:
        own.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
        own.settimeout(1)
        before = descriptors(process)
        own.connect(("127.0.0.1", port))
        own.send(many)
        wait_until(lambda: descriptors(process) > before)
        wait_until(lambda: descriptors(process) == before)
    assert "Traceback" not in process.output()


def test_health_answers_while_a_silent_redis_is_asked_by_many(
    serving: Serving,
    clients: Clients,
) -> None:
    with listening(_read_all) as silent:
        _, address = serving(RQ_REDIS_URL=f"redis://127.0.0.1:{silent}/0")
        clients.add(address, b"GET /readyz HTTP/1.1\r\nHost: localhost\r\n\r\n", 300)
        assert max(health_s(address) for _ in range(5)) < SOON_S


def descriptors(process: Process) -> int:
    return len(os.listdir(f"/proc/{process.pid}/fd"))


def _read_all(client: socket.socket) -> None:
    while client.recv(4096):
        pass


def test_a_head_is_bounded(serving: Serving, clients: Clients) -> None:
    _, address = serving()
    clients.add(address, HEAD + b"x" * 20_000)
    assert clients.open[0].recv(4096).startswith(b"HTTP/1.0 431")


def test_it_listens_on_each_address_of_a_name(
    serving: Serving,
) -> None:
    process, address = serving("--bind", "localhost")
    assert re.search(r"event=serving address=http://localhost:\d+", process.output())
    assert health_s(address) < 10
