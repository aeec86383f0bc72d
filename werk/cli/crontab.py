"""Lines of a crontab that cron(8) has cut: cron ends a command at %, and the rest becomes stdin."""

from __future__ import annotations

import os
import stat
from contextlib import suppress

CRONS = ("cron", "crond")  # names of the process
DEPTH = 3  # our parent may be cron, the shell that it starts, or a command such as flock
STDIN = 0
CUT = (
    "warning: cron cuts a line at %, so this call lacks what follows it;"
    " write \\% in the crontab, and check the job"
)


def has_cut() -> bool:
    """Return whether cron runs this command, and stdin has the rest of its line. Linux only."""
    with suppress(OSError, ValueError, IndexError):  # no stdin, no /proc
        if stat.S_ISFIFO(os.fstat(STDIN).st_mode) and _has_data():
            pid = os.getppid()
            for _ in range(DEPTH):
                if _name(pid) in CRONS:
                    return True
                pid = _parent(pid)
    return False


def _has_data() -> bool:
    """Return whether stdin has data to read, without reading it."""
    import select  # only for a pipe

    events = select.poll()
    events.register(STDIN, select.POLLIN)
    return any(event & select.POLLIN for _, event in events.poll(0))


def _name(pid: int) -> str:
    with open(f"/proc/{pid}/comm") as file:
        return file.read().strip()


def _parent(pid: int) -> int:
    with open(f"/proc/{pid}/stat") as file:
        return int(file.read().rpartition(")")[2].split()[1])
