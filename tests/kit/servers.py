"""Servers of a test's own: with options that the server of the run must not have, and Sentinel."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import redis
from redis.backoff import NoBackoff
from redis.retry import Retry
from support import Process, wait_until

from werk.dev.binary import find_binary
from werk.dev.server import free_port
from werk.settings import Settings

Start = Callable[..., Process]


class Node:
    """A server program on a port of its own; it ends with the test."""

    def __init__(self, spawn: Start, folder: Path, *options: object, config: str = "") -> None:
        """Start it with options of its command line, or with the text of a configuration file."""
        self.port = free_port()
        self.url = f"redis://127.0.0.1:{self.port}/0"
        folder.mkdir()
        words: list[object] = []
        if config:
            file = folder / "server.conf"
            file.write_text(config)
            words.append(file)
        place = ("--port", self.port, "--bind", "127.0.0.1", "--dir", folder)
        self.process = spawn(find_binary(Settings.read()).path, *words, *place, *options)
        # A server that changes its role closes its connections: the next command opens another.
        again = Retry(NoBackoff(), 1, supported_errors=(redis.ConnectionError,))
        self.client = redis.Redis(port=self.port, socket_timeout=10, retry=again)
        wait_until(self.answers, 30)

    def answers(self) -> bool:
        try:
            return bool(self.client.ping())
        except (redis.ConnectionError, redis.TimeoutError):
            assert self.process.poll() is None, self.process.output()
            return False
