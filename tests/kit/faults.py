"""What stands between a caller and Redis, and misbehaves."""

from __future__ import annotations

import select
import socket
import ssl
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from urllib.parse import urlsplit

import redis


@contextmanager
def listening(handle: Callable[[socket.socket], None]) -> Iterator[int]:
    """Serve each connection with `handle` in a thread of its own; yield the port."""
    listener = socket.create_server(("127.0.0.1", 0))
    open_sockets: list[socket.socket] = []
    threads: list[threading.Thread] = []

    def accept() -> None:
        while True:
            try:
                connection, _ = listener.accept()
            except OSError:
                return
            open_sockets.append(connection)
            thread = threading.Thread(target=_quietly, args=(handle, connection))
            threads.append(thread)
            thread.start()

    acceptor = threading.Thread(target=accept)
    acceptor.start()
    try:
        yield listener.getsockname()[1]
    finally:
        listener.shutdown(socket.SHUT_RDWR)  # close() alone would not wake accept()
        listener.close()
        acceptor.join(60)
        for connection in open_sockets:
            _hang_up(connection)
        for thread in threads:
            thread.join(60)
            assert not thread.is_alive()


@contextmanager
def losing_replies(url: str, count: int, word: bytes = b"") -> Iterator[str]:
    """A proxy that hangs up instead of the first `count` replies to requests with this word."""
    left = [count]

    def handle(client: socket.socket) -> None:
        with socket.create_connection(_place(url), timeout=60) as server:
            while request := client.recv(65536):
                server.sendall(request)
                reply = server.recv(65536)
                if left[0] > 0 and word in request:
                    left[0] -= 1
                    return
                client.sendall(reply)

    with listening(handle) as port:
        yield f"redis://127.0.0.1:{port}/0"


@contextmanager
def losing_a_reply(url: str, *words: bytes) -> Iterator[str]:
    """A proxy that hangs up instead of the reply to a request that has these words, once."""
    left = [1]

    def handle(client: socket.socket) -> None:
        with socket.create_connection(_place(url), timeout=60) as server:
            while True:
                for near in select.select([client, server], [], [])[0]:
                    data = near.recv(1 << 20)
                    if not data:
                        return
                    (server if near is client else client).sendall(data)
                    is_meant = near is client and all(word in data for word in words)
                    if is_meant and left[0] > 0:
                        left[0] -= 1
                        server.recv(1 << 20)
                        return

    with listening(handle) as port:
        yield f"redis://127.0.0.1:{port}/0"


@contextmanager
def freezing(url: str, word: bytes) -> Iterator[str]:
    """A proxy that stops to pass anything on a connection whose request has this word, once."""
    left = [1]

    def handle(client: socket.socket) -> None:
        with socket.create_connection(_place(url), timeout=60) as server:
            while True:
                for near in select.select([client, server], [], [])[0]:
                    data = near.recv(65536)
                    if near is client and word in data and left[0] > 0:
                        left[0] -= 1
                        say_nothing(client)
                        return
                    if not data:
                        return
                    (server if near is client else client).sendall(data)

    with listening(handle) as port:
        yield f"redis://127.0.0.1:{port}/0"


class Silencer:
    """A proxy whose connections can fall silent, all that there are; new ones work."""

    def __init__(self, url: str) -> None:
        self.place, self.turn, self.url = _place(url), 0, ""

    def silence(self) -> None:
        self.turn += 1

    def handle(self, client: socket.socket) -> None:
        turn = self.turn
        with socket.create_connection(self.place, timeout=60) as server:
            while True:
                for near in select.select([client, server], [], [])[0]:
                    data = near.recv(65536)
                    if not data:
                        return
                    if turn == self.turn:
                        (server if near is client else client).sendall(data)


@contextmanager
def silencing(url: str) -> Iterator[Silencer]:
    """Serve a silencer; its address is in its `url`."""
    silencer = Silencer(url)
    with listening(silencer.handle) as port:
        silencer.url = f"redis://127.0.0.1:{port}/0"
        try:
            yield silencer
        finally:
            with redis.Redis.from_url(url) as client:  # so that its threads end
                client.client_kill_filter(_type="normal", skipme=True)


@contextmanager
def speaking_tls(url: str, certificate: str, key: str, authority: str = "") -> Iterator[int]:
    """A proxy with TLS on its near side; yield its port.

    With an authority, it wants a certificate of that from each client.
    """
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(certificate, key)
    if authority:
        context.load_verify_locations(authority)
        context.verify_mode = ssl.CERT_REQUIRED

    def handle(client: socket.socket) -> None:
        with (
            context.wrap_socket(client, server_side=True) as near,
            socket.create_connection(_place(url), timeout=60) as server,
        ):
            while True:
                # What TLS has read already, of a long request, is not seen by select().
                ready = [near] if near.pending() else select.select([near, server], [], [])[0]
                for sock in ready:
                    data = sock.recv(65536)
                    if not data:
                        return
                    (server if sock is near else near).sendall(data)

    with listening(handle) as port:
        yield port


class Holder:
    """A proxy that holds a request in its middle: when `is_on`, one that has these bytes in it.

    With a `share` of 1, the whole request is sent, and the reply is held.
    """

    share = 0.5

    def __init__(self, url: str, words: bytes) -> None:
        self.place, self.words, self.is_on, self.url = _place(url), words, False, ""
        self.held, self.let_go = threading.Event(), threading.Event()

    def handle(self, client: socket.socket) -> None:
        with socket.create_connection(self.place, timeout=30) as server:
            while True:
                for sock in select.select([client, server], [], [])[0]:
                    data = sock.recv(65536)
                    if not data:
                        return
                    if sock is client and self.is_on and self.words in data:
                        self.is_on, half = False, int(len(data) * self.share)
                        server.sendall(data[:half])
                        self.held.set()
                        self.let_go.wait(60)
                        data = data[half:]
                    (server if sock is client else client).sendall(data)


@contextmanager
def holding(url: str, words: bytes) -> Iterator[Holder]:
    """Serve a holder; its address is in its `url`."""
    holder = Holder(url, words)
    with listening(holder.handle) as port:
        holder.url = f"redis://127.0.0.1:{port}/0"
        try:
            yield holder
        finally:
            holder.let_go.set()
            with redis.Redis.from_url(url) as client:  # so that its threads end
                client.client_kill_filter(_type="normal", skipme=True)


def say_nothing(client: socket.socket) -> None:
    """Accept, and never answer."""
    while client.recv(65536):
        pass


def speak_http(client: socket.socket) -> None:
    client.recv(65536)
    client.sendall(b"HTTP/1.1 400 Bad Request\r\n\r\n")


def _place(url: str) -> tuple[str, int]:
    parts = urlsplit(url)
    return str(parts.hostname), int(parts.port or 6379)


def _quietly(handle: Callable[[socket.socket], None], client: socket.socket) -> None:
    try:
        handle(client)
    except (OSError, ValueError):
        pass  # the other side has left: what these tests are about; or the test has ended
    finally:
        _hang_up(client)


def _hang_up(client: socket.socket) -> None:
    try:
        client.shutdown(socket.SHUT_RDWR)
    except OSError:
        pass
    client.close()
