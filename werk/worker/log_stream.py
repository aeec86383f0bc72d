"""LogStream: where the log handlers of a worker write to, so that no log line can block it.

It may be that nobody reads: a pipe is full, a terminal is stopped. Then a line waits for a moment,
and is dropped and counted; the supervisor publishes the number, and `werk status` reports it. There
is no thread and no queue, because a worker forks. What a task prints can block as in any program,
within the task's own time limit.
"""

from __future__ import annotations

import fcntl
import io
import logging
import mmap
import os
import select
import stat
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager, suppress
from typing import Any, TextIO

from werk.log_format import Event
from werk.worker.log_handlers import all_handlers, yield_to_application
from werk.worker.log_lines import make_safe
from werk.worker.log_printed import PrintedLines
from werk.worker.shared_state import SharedState

WAIT_S = 0.2  # how long a line waits for its reader
FIRST_TRY_S, LAST_TRY_S = 0.00002, 0.002  # between two tries to get the lock
MOST_HELD = 1 << 20  # bytes; a stream buffers 16 KiB


class LogStream:
    """Writes to the descriptor of another stream, past its buffer. `line` formats a record."""

    def __init__(
        self, stream: TextIO, shared: SharedState, line: Callable[[logging.LogRecord], str]
    ) -> None:
        self.shared, self.line = shared, line
        self._out = _Descriptor(stream.fileno())
        self._encoding = getattr(stream, "encoding", None) or "utf-8"  # it may only write()
        self._is_terminal = os.isatty(self._out.number)
        self._dropped = 0  # lines in a row

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
        if self._out.write(line, 0.0 if self._dropped else WAIT_S):
            self._dropped = 0
        else:
            self._dropped += 1
            self.shared.dropped += 1
        return len(text)


class _Descriptor:
    """A descriptor that is written to without blocking, and without O_NONBLOCK.

    That flag would apply to every process that has the same file open: tasks, shells. A pipe, a
    socket or a terminal may take only a part of a record: so it is locked for each record, against
    all processes of workers that write to it. The kernel unlocks it when a process is killed.
    """

    def __init__(self, number: int) -> None:
        self.number = number
        mode = os.fstat(number).st_mode
        can_refuse = stat.S_ISFIFO(mode) or stat.S_ISSOCK(mode)
        self._has_nowait = can_refuse and hasattr(os, "RWF_NOWAIT")
        self._terminal = _terminal(number)
        self._is_locked = can_refuse or bool(self._terminal)
        self._most = select.PIPE_BUF if can_refuse else None  # bytes, for a write that may block
        self._poll = select.poll()
        self._poll.register(number, select.POLLOUT)
        # Whether the last line was cut off. Shared with the processes that are forked later.
        self._cut = mmap.mmap(-1, 1)

    def write(self, record: bytes, wait_s: float) -> bool:
        """Write a record for at most `wait_s` seconds. Return whether all of it was written."""
        until = time.monotonic() + wait_s
        try:
            with self._opened() as number:
                if self._is_locked:
                    _lock(number, until)
                return self._write(number, b"\n" * self._cut[0] + record, until)
        except OSError:
            return False  # others are writing, the reader has closed its end, or the disk is full

    @contextmanager
    def _opened(self) -> Iterator[int]:
        """Yield the descriptor for a record, and unlock it afterwards.

        A terminal gets one of its own that does not block, because poll() reports a terminal that
        has no room for a whole line. It is closed at once: a task may close any descriptor.
        """
        number = self.number
        if self._terminal:
            with suppress(OSError):  # it belongs to another user, or no descriptor is left
                number = os.open(self._terminal, os.O_WRONLY | os.O_NONBLOCK | os.O_NOCTTY)
        try:
            yield number
        finally:
            if self._is_locked:
                _unlock(number)
            if number != self.number:
                os.close(number)

    def _write(self, number: int, data: bytes, until: float) -> bool:
        while data:
            try:
                size = self._put(number, data)
                self._cut[0] = size < len(data)
                data = data[size:]
            except BlockingIOError:
                left_s = until - time.monotonic()
                if left_s <= 0 or not self._poll.poll(left_s * 1000):
                    break
        return not data

    def _put(self, number: int, data: bytes) -> int:
        """Write what there is room for; return its size. Raises BlockingIOError, OSError."""
        if self._has_nowait:  # Linux 5.16
            try:
                return os.pwritev(number, (data,), -1, os.RWF_NOWAIT)
            except (BlockingIOError, BrokenPipeError):
                raise
            except OSError:
                self._has_nowait = False
        if not self._poll.poll(0):
            raise BlockingIOError
        return os.write(number, data[: self._most])  # blocks if a task has just filled it


def _terminal(number: int) -> str:
    """Return the path of a terminal, '' if the descriptor is of something else."""
    try:
        return os.ttyname(number)
    except OSError:
        return ""


def _lock(number: int, until: float) -> None:
    """Wait for the others that write there. Raises BlockingIOError if they take too long."""
    pause_s = FIRST_TRY_S
    while True:
        try:
            fcntl.lockf(number, fcntl.LOCK_EX | fcntl.LOCK_NB)
            return
        except BlockingIOError:
            if time.monotonic() >= until:
                raise
        except OSError:
            return  # this system cannot lock it
        time.sleep(pause_s)
        pause_s = min(LAST_TRY_S, pause_s * 2)


def _unlock(number: int) -> None:
    with suppress(OSError):
        fcntl.lockf(number, fcntl.LOCK_UN)


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
    except (AttributeError, OSError, ValueError):
        pass  # it has no flush(), no descriptor is left, or it has been closed


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
