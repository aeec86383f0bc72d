"""LogStream: where the log handlers of a worker write to, so that no log line can block it.

It may be that nobody reads: a pipe is full, a terminal is stopped. Then a line waits for a moment,
and is dropped and counted; the supervisor publishes the number, and `werk status` reports it. There
is no thread and no queue, because a worker forks. What a task prints can block as in any program,
within the task's own time limit.
"""

from __future__ import annotations

import io
import logging
import os
import select
import stat
import sys
import time
from collections.abc import Callable
from contextlib import ExitStack
from typing import Any, TextIO

from werk.log_format import Event
from werk.worker.log_handlers import all_handlers, yield_to_application
from werk.worker.log_lines import make_safe
from werk.worker.log_printed import PrintedLines
from werk.worker.shared_state import SharedState

WAIT_S = 0.2  # how long a line waits for its reader
MOST_HELD = 1 << 20  # bytes; a stream buffers 16 KiB


class LogStream:
    """Writes to the descriptor of another stream, past its buffer. `line` formats a record."""

    def __init__(
        self, stream: TextIO, shared: SharedState, line: Callable[[logging.LogRecord], str]
    ) -> None:
        self.shared, self.line = shared, line
        self._out = _Descriptor(stream.fileno())
        self._encoding = stream.encoding or "utf-8"
        self._is_terminal = stream.isatty()
        self._dropped = 0  # lines in a row
        self._is_cut = False  # a part of the first dropped line was written

    def fileno(self) -> int:
        return self._out.number

    def isatty(self) -> bool:
        return self._is_terminal

    def flush(self) -> None:
        """Do nothing: nothing is buffered."""

    def write(self, text: str) -> int:
        """Write a line, or drop it. After a dropped line, the following ones do not wait."""
        line = text.encode(self._encoding, "backslashreplace")
        if self._dropped:
            gap = Event("log-lines-dropped", count=self._dropped)
            record = logging.LogRecord("rq.worker", logging.WARNING, "", 0, gap, (), None)
            line = f"{self.line(record)}\n".encode(self._encoding, "backslashreplace") + line
            line = b"\n" * self._is_cut + line
        left = self._out.write(line, 0.0 if self._dropped else WAIT_S)
        if left:
            self._is_cut = left < len(line) or self._is_cut
            self._dropped += 1
            self.shared.dropped += 1
        elif self._dropped:
            self._dropped, self._is_cut = 0, False
        return len(text)


class _Descriptor:
    """A descriptor that is written to without blocking, and without O_NONBLOCK.

    That flag would apply to every process that has the same file open: tasks, shells.
    """

    def __init__(self, number: int) -> None:
        self.number = number
        mode = os.fstat(number).st_mode
        can_refuse = stat.S_ISFIFO(mode) or stat.S_ISSOCK(mode)
        self._has_nowait = can_refuse and hasattr(os, "RWF_NOWAIT")
        self._terminal = _terminal(number)
        self._poll = select.poll()
        self._poll.register(number, select.POLLOUT)

    def write(self, data: bytes, wait_s: float) -> int:
        """Write for at most `wait_s` seconds. Return how many bytes are left."""
        until = 0.0
        while data:
            try:
                data = data[self._put(data[: select.PIPE_BUF]) :]
                continue
            except BlockingIOError:
                clock = time.monotonic()
            except OSError:
                break  # the reader has closed its end, or the disk is full
            until = until or clock + wait_s
            if clock >= until or not self._poll.poll((until - clock) * 1000):
                break
        return len(data)

    def _put(self, piece: bytes) -> int:
        """Write a part of a piece; return its size. Raises BlockingIOError, OSError."""
        if self._has_nowait:  # Linux 5.16
            try:
                return os.pwritev(self.number, (piece,), -1, os.RWF_NOWAIT)
            except (BlockingIOError, BrokenPipeError):
                raise
            except OSError:
                self._has_nowait = False
        if not self._poll.poll(0):
            raise BlockingIOError
        if not self._terminal:
            return os.write(self.number, piece)  # blocks if another process has just filled it
        return _write_to_terminal(self._terminal, self.number, piece)


def _terminal(number: int) -> str:
    """Return the path of a terminal, '' if the descriptor is of something else."""
    try:
        return os.ttyname(number)
    except OSError:
        return ""


def _write_to_terminal(path: str, number: int, piece: bytes) -> int:
    """Write what a terminal has room for: poll() reports one that has no room for a whole line.

    The descriptor that does not block is closed at once, because a task may close any descriptor.
    """
    try:
        own = os.open(path, os.O_WRONLY | os.O_NONBLOCK | os.O_NOCTTY)
    except OSError:  # it belongs to another user, or no descriptor is left
        return os.write(number, piece)
    try:
        return os.write(own, piece)
    finally:
        os.close(own)


def bound_logs(shared: SharedState) -> None:
    """Make all log handlers safe; those on stdout or stderr write to a LogStream for `shared`."""
    yield_to_application()
    handlers = all_handlers()
    make_safe(handlers)
    consoles = (sys.stdout, sys.stderr, sys.__stdout__, sys.__stderr__)
    for handler in handlers:
        if not isinstance(handler, logging.StreamHandler) or handler is logging.lastResort:
            continue
        if isinstance(handler.stream, LogStream):
            handler.stream.shared = shared
        elif handler.stream in consoles and _number(handler.stream) is not None:
            _flush(handler.stream)  # otherwise setStream does it, and may block
            handler.setStream(LogStream(handler.stream, shared, handler.format))


def print_by_line() -> None:
    """Flush what a task prints line by line: log lines no longer flush it."""
    stream = getattr(sys.stdout, "stream", sys.stdout)  # below PrintedLines
    if isinstance(stream, io.TextIOWrapper):
        stream.reconfigure(line_buffering=True)


def flush_all() -> None:
    """Empty the buffers of stdout and stderr without blocking."""
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, PrintedLines):
            stream.finish()
        _flush(stream)


def _flush(stream: Any) -> None:
    """Empty a buffer. What nobody reads within WAIT_S is lost."""
    number = _number(stream)
    if number is None:
        return
    try:
        if stat.S_ISREG(os.fstat(number).st_mode):
            stream.flush()
        elif held := _take(stream, number):
            _Descriptor(number).write(held, WAIT_S)
    except (OSError, ValueError):
        pass  # no descriptor is left, or the stream has been closed


def _take(stream: TextIO, number: int) -> bytes:
    """Return what a stream holds in its buffer.

    Only the stream can empty it, and might block: so its descriptor is a pipe for that time.
    """
    with ExitStack() as stack:
        before = os.dup(number)
        stack.callback(os.close, before)
        reader, writer = os.pipe()
        stack.callback(os.close, reader)
        os.set_blocking(reader, False)
        os.set_blocking(writer, False)
        os.dup2(writer, number)
        os.close(writer)
        try:
            stream.flush()
        finally:
            os.dup2(before, number)
        return os.read(reader, MOST_HELD)


def _number(stream: Any) -> int | None:
    """Return the descriptor of a stream, None if it has none."""
    try:
        number: int = stream.fileno()
    except (AttributeError, OSError, ValueError):  # None; captured; closed
        return None
    return number
