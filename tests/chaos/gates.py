"""A small TCP proxy: every process reaches Redis through a gate of its own.

A gate cuts a connection after byte n of a request or a reply, or holds everything back for a while
and then lets it through, late, like a network that recovers from an outage.
"""

from __future__ import annotations

import asyncio
import threading
import time
from dataclasses import dataclass


@dataclass
class Cut:
    """One connection to be cut: when the next bytes pass, after this fraction of them."""

    direction: str  # "request" or "reply"
    fraction: float
    at: float | None = None  # when it was done
    note: str = ""


class Gate:
    """The way of one process to Redis. Its methods are called from outside the proxy's thread."""

    def __init__(self, loop: asyncio.AbstractEventLoop, upstream: int) -> None:
        self.port = 0
        self._loop = loop
        self._upstream = upstream
        self._open = asyncio.Event()
        self._open.set()
        self._cut: Cut | None = None

    @property
    def url(self) -> str:
        """The address of Redis, for the process behind this gate."""
        return f"redis://127.0.0.1:{self.port}/0"

    def cut(self, cut: Cut | None) -> None:
        """Have the next bytes that go that way cut their connection. None: not any more."""
        self._cut = cut

    def hold(self) -> None:
        """Let nothing through; connections stay open."""
        self._loop.call_soon_threadsafe(self._open.clear)

    def release(self) -> None:
        """Let through what was held back, and all that follows."""
        self._loop.call_soon_threadsafe(self._open.set)

    async def listen(self) -> None:
        """Start to take connections, on a free port."""
        self.server = await asyncio.start_server(self._serve, "127.0.0.1", 0)
        self.port = self.server.sockets[0].getsockname()[1]

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        try:
            there = await asyncio.open_connection("127.0.0.1", self._upstream)
            await asyncio.gather(
                self._pump("request", reader, there[1], writer),
                self._pump("reply", there[0], writer, there[1]),
            )
        except (OSError, asyncio.CancelledError):  # no server; or all is over
            writer.transport.abort()

    async def _pump(
        self,
        direction: str,
        source: asyncio.StreamReader,
        sink: asyncio.StreamWriter,
        back: asyncio.StreamWriter,
    ) -> None:
        try:
            while data := await source.read(1 << 16):
                await self._open.wait()
                cut = self._take_cut(direction)
                if cut:
                    count = int(cut.fraction * len(data))
                    cut.at = time.monotonic()
                    cut.note = f"after byte {count} of {len(data)}"
                    data = data[:count]
                sink.write(data)
                await sink.drain()
                if cut:
                    break
        except OSError:
            pass
        finally:
            sink.close()
            back.close()

    def _take_cut(self, direction: str) -> Cut | None:
        cut = self._cut
        if cut is None or cut.direction != direction:
            return None
        self._cut = None
        return cut


class Gates:
    """The proxy: an event loop in a thread."""

    def __init__(self, upstream: int) -> None:
        self.upstream = upstream
        self._loop = asyncio.new_event_loop()
        self._thread = threading.Thread(target=self._loop.run_forever, daemon=True)
        self._thread.start()
        self._gates: list[Gate] = []

    def add(self) -> Gate:
        """Return a new gate, open and listening."""
        gate = Gate(self._loop, self.upstream)
        asyncio.run_coroutine_threadsafe(gate.listen(), self._loop).result()
        self._gates.append(gate)
        return gate

    def close(self) -> None:
        """Stop the proxy; it is part of this process, nothing of it remains."""
        asyncio.run_coroutine_threadsafe(self._end_all(), self._loop).result()
        self._loop.call_soon_threadsafe(self._loop.stop)
        self._thread.join()
        self._loop.close()

    async def _end_all(self) -> None:
        for gate in self._gates:
            gate.server.close()
        others = asyncio.all_tasks() - {asyncio.current_task()}
        for task in others:
            task.cancel()
        await asyncio.gather(*others, return_exceptions=True)
