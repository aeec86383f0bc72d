"""What the processes print: read into their logs by a thread, or left unread for a while."""

from __future__ import annotations

import fcntl
import os
import selectors
import threading
from contextlib import suppress
from pathlib import Path


class Output:
    """A pipe for the output of one process after the other, and the log that it goes to."""

    def __init__(self, log: Path) -> None:
        self.log = log
        self.read_end, self.write_end = os.pipe()
        self._file = log.open("ab", buffering=0)

    def copy(self) -> None:
        """Move what is there into the log."""
        self._file.write(os.read(self.read_end, 1 << 16))

    def fill(self) -> None:
        """Print until the pipe takes no more. (The descriptor is a copy of what children have, so
        O_NONBLOCK would be theirs as well: it is put on another opening of the same pipe.)"""
        other = os.open(f"/proc/self/fd/{self.write_end}", os.O_WRONLY | os.O_NONBLOCK)
        for text in (b"nobody reads this\n" * 200, b"\n"):  # one that fits is written whole
            with suppress(BlockingIOError):
                while True:
                    os.write(other, text)
        os.close(other)

    def close(self) -> None:
        os.close(self.read_end)
        os.close(self.write_end)
        self._file.close()


class Outputs:
    """Reads all outputs that are not held."""

    def __init__(self) -> None:
        self._selector = selectors.DefaultSelector()
        self._all: list[Output] = []
        self._lock = threading.Lock()
        self._wake_r, self._wake_w = os.pipe()
        self._selector.register(self._wake_r, selectors.EVENT_READ)
        self._is_over = False
        self._thread = threading.Thread(target=self._run)
        self._thread.start()

    def add(self, log: Path) -> Output:
        output = Output(log)
        fcntl.fcntl(output.read_end, fcntl.F_SETFL, os.O_NONBLOCK)
        self._all.append(output)
        self.release(output)
        return output

    def hold(self, output: Output) -> None:
        """Leave an output unread, and full."""
        with self._lock:
            self._selector.unregister(output.read_end)
        output.fill()

    def release(self, output: Output) -> None:
        """Read an output again."""
        with self._lock:
            self._selector.register(output.read_end, selectors.EVENT_READ, output)
        os.write(self._wake_w, b"!")

    def close(self) -> None:
        self._is_over = True
        os.write(self._wake_w, b"!")
        self._thread.join()
        for output in self._all:
            with suppress(BlockingIOError):
                output.copy()
            output.close()
        os.close(self._wake_r)
        os.close(self._wake_w)
        self._selector.close()

    def _run(self) -> None:
        while not self._is_over:
            for key, _ in self._selector.select():
                if key.data is None:
                    os.read(self._wake_r, 100)
                    continue
                with self._lock, suppress(BlockingIOError):
                    if key.fd in self._selector.get_map():  # it may just have been held
                        key.data.copy()
