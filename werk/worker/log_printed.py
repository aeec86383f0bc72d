"""PrintedLines: what is printed becomes log records, so that a log in JSON has no other lines."""

from __future__ import annotations

import logging
import sys
from collections.abc import Iterable
from typing import Any, TextIO

from werk.worker.log_handlers import above_root

LONGEST = 1 << 16  # characters that wait for the end of their line


class PrintedLines:
    """Stands for sys.stdout or sys.stderr, and gives each line to a handler of ours.

    An application with handlers of its own prints as it likes: then this only passes on.
    """

    def __init__(self, stream: TextIO, name: str, handler: logging.Handler) -> None:
        self.stream, self.name, self.handler = stream, name, handler
        self._held = ""  # a line that has no end yet
        self._is_busy = False

    def __getattr__(self, name: str) -> Any:
        return getattr(self.stream, name)

    def write(self, text: str) -> int:
        if logging.root.handlers:
            return self.stream.write(text)
        *lines, self._held = (self._held + text).split("\n")
        if len(self._held) > LONGEST:
            lines, self._held = [*lines, self._held], ""
        for line in lines:
            self._log(line)
        return len(text)

    def writelines(self, lines: Iterable[str]) -> None:
        for line in lines:
            self.write(line)

    def finish(self) -> None:
        """Log a line that has no end."""
        if self._held:
            held, self._held = self._held, ""
            self._log(held)

    def _log(self, line: str) -> None:
        level = logging.INFO if self.name == "stdout" else logging.WARNING
        record = logging.LogRecord(self.name, level, "", 0, line, (), None)
        self.handler.acquire()
        try:
            if not self._is_busy:  # an error while it is logged is printed as well
                self._is_busy = True
                self.handler.emit(record)
        finally:
            self._is_busy = False
            self.handler.release()


def log_what_is_printed() -> None:
    """Put PrintedLines in the place of stdout and stderr."""
    out, err = above_root.handlers
    sys.stdout = PrintedLines(sys.stdout, "stdout", out)
    sys.stderr = PrintedLines(sys.stderr, "stderr", err)
