"""Children of `werk up` and of the tests: they end with the process that started them.

Start them from the main thread: the kernel ends a child with the *thread* that started it.
"""

from __future__ import annotations

import ctypes
import os
import signal
import subprocess
import sys
from typing import Any

_PR_SET_PDEATHSIG = 1
_libc = ctypes.CDLL(None) if sys.platform == "linux" else None
_guards: list[subprocess.Popen[bytes]] = []


def spawn(command: list[str], **options: Any) -> subprocess.Popen[bytes]:
    """Start a child that ends with this process. Ctrl-C does not reach it: `werk up` stops it."""
    parent = os.getpid()
    process = subprocess.Popen(
        command, start_new_session=True, preexec_fn=lambda: die_with(parent), **options
    )
    if (
        _libc is None
    ):  # a shell reads a pipe, which closes when we exit, and kills the child's group
        guard = ["sh", "-c", 'cat; kill -s KILL -- "-$1"', "guard", str(process.pid)]
        _guards.append(subprocess.Popen(guard, stdin=subprocess.PIPE, start_new_session=True))
    return process


def die_with(parent: int) -> None:
    """Have the kernel kill this process when `parent` ends. Linux only; see spawn."""
    if _libc is not None:
        _libc.prctl(_PR_SET_PDEATHSIG, signal.SIGKILL)
        if os.getppid() != parent:
            os._exit(1)  # the parent has ended before the call
