"""One process of the fleet, behind its gate, with its clock and its output."""

from __future__ import annotations

import os
import resource
import subprocess
import time
from collections.abc import Mapping, Sequence
from pathlib import Path

from support import command

from chaos.gates import Gate
from chaos.outputs import Output
from werk.dev.process import die_with

DESCRIPTORS = 1024  # that a process may open: few enough to leak them all in a moment


class Member:
    """A process behind its gate. One whose end is expected is not reported when it ends."""

    def __init__(self, name: str, gate: Gate | None, output: Output) -> None:
        self.name, self.gate, self.output = name, gate, output
        self.process: subprocess.Popen[bytes] | None = None
        self.started = 0  # how often
        self.clock_s = 0  # by how much the clock of the next process is shifted
        self.asked_at = 0.0  # when it was asked to end, or made to; 0: it was not
        self.is_busy = False  # under a fault that lasts: no other is put on top
        self.back_at = 0.0  # when to start it again
        self.has_begun = False  # to work: it has had a horse
        self.drained: set[str] = set()  # the slots that were asked to leave

    @property
    def pid(self) -> int:
        assert self.process is not None
        return self.process.pid

    @property
    def worker_name(self) -> str:
        """The name that the process was given, as a worker of RQ."""
        return f"{self.name}.{self.started}"

    @property
    def end_expected(self) -> bool:
        return self.asked_at > 0

    def expect_end(self) -> None:
        self.asked_at = self.asked_at or time.monotonic()

    def slots(self, concurrency: int) -> list[str]:
        """Return the names under which RQ knows the slots that were not asked to leave."""
        name = self.worker_name
        names = [f"{name}.{number}" for number in range(1, concurrency + 1)]
        return [each for each in (names if concurrency > 1 else [name]) if each not in self.drained]

    def is_up(self) -> bool:
        """Return whether it runs, and nothing is being done to it."""
        return self.is_alive() and not self.end_expected and not self.is_busy

    def is_alive(self) -> bool:
        return self.process is not None and self.process.poll() is None

    def look(self) -> None:
        """Find out whether it has begun."""
        self.has_begun = self.has_begun or bool(self.is_alive() and self.horses())

    def horses(self) -> list[int]:
        """Return the children that lead a group of their own, as RQ's horses and ours do."""
        try:
            found = Path(f"/proc/{self.pid}/task/{self.pid}/children").read_text().split()
        except (FileNotFoundError, ProcessLookupError):
            return []
        return [pid for pid in map(int, found) if _leads_group(pid)]

    def start(self, arguments: Sequence[str], environment: Mapping[str, str]) -> None:
        """Start the process, or the next one."""
        parent = os.getpid()

        def prepare() -> None:
            resource.setrlimit(resource.RLIMIT_NOFILE, (DESCRIPTORS, DESCRIPTORS))
            die_with(parent)

        self.process = subprocess.Popen(
            command(*arguments),
            env={**environment, "CHAOS_CLOCK_S": str(self.clock_s)},
            stdin=subprocess.DEVNULL,
            stdout=self.output.write_end,
            stderr=self.output.write_end,
            start_new_session=True,  # Ctrl-C is for us
            preexec_fn=prepare,
        )
        self.asked_at, self.back_at, self.has_begun = 0.0, 0.0, False
        self.drained = set()


def _leads_group(pid: int) -> bool:
    try:
        return os.getpgid(pid) == pid
    except ProcessLookupError:
        return False
