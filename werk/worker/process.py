"""Child: the process that a supervisor forks, as it holds it: to wake, freeze, kill and reap.

It leads a process group: what a job starts is killed with it. Two pipes go there. The wake pipe
wakes it. Nothing is written to the lifeline: it closes when the supervisor ends, however that is,
and the kernel kills the group.
"""

from __future__ import annotations

import ctypes
import fcntl
import gc
import logging
import os
import select
import signal
import sys
import threading
import time
from collections.abc import Callable
from contextlib import suppress
from typing import Any

from werk.worker.log_stream import flush_all

SIGNALS_HANG_UP = sys.platform == "linux"  # the kernel tells, by a signal, of the end of a pipe
F_SETSIG = 10  # fcntl(2), Linux; not in the fcntl module
PEAK_PER_MIB = 1024 if sys.platform == "linux" else 1024 * 1024  # ru_maxrss: kB, or bytes


class Child:
    """One at a time: each fork makes the next, when the last one has ended."""

    pid = 0  # there is none; and a signal to the group 0 would be one to ourselves
    death: tuple[int, int, Any]  # of the last one: process id, wait status, resources
    told = 0.0  # the last deadline that it was told of
    # Why it was killed (timeout, command, stop, lost, cold), and which execution was meant: no
    # other in its hand is at fault.
    killed = killed_run = ""

    def start(self, be: Callable[[], int]) -> None:
        """Fork. The child is `be`, which calls lead_group first, and ends with its code.

        Raises OSError if there is no process or no descriptor to be had; then nothing is left.
        """
        trim_memory()
        self._parent, self.started_at = os.getpid(), time.monotonic()
        self._wake_r, self._wake_w, self._life_r, self._life_w = ends = pipes(2)
        try:
            self.pid = forked(be)
        except OSError:
            for end in ends:
                os.close(end)
            raise
        os.close(self._wake_r)
        os.close(self._life_r)
        try:
            os.setpgid(self.pid, self.pid)  # parent and child both do it: either may run first
        except OSError:
            pass

    def lead_group(self) -> int:
        """Have the kernel kill our process group when the other end of the lifeline closes.

        The supervisor alone holds that. (With prctl the jobs' own children would live on.) Returns
        the wake pipe, to be read.
        """
        os.close(self._wake_w)
        os.close(self._life_w)
        os.setpgid(0, 0)
        life = self._life_r
        if SIGNALS_HANG_UP:
            fcntl.fcntl(life, fcntl.F_SETOWN, -os.getpgrp())
            fcntl.fcntl(life, F_SETSIG, signal.SIGKILL)
            fcntl.fcntl(life, fcntl.F_SETFL, fcntl.fcntl(life, fcntl.F_GETFL) | os.O_ASYNC)
        else:
            threading.Thread(target=_die_at_the_end_of, args=(life,), daemon=True).start()
        if os.getppid() != self._parent:  # it ended before this was armed
            os._exit(1)
        return self._wake_r

    def wake(self) -> None:
        if self.pid:
            try:
                os.write(self._wake_w, b"!")
            except OSError:
                pass

    def send_signal(self, number: signal.Signals) -> None:
        """Signal the child, and nothing that it has started."""
        if self.pid:
            os.kill(self.pid, number)  # it is there: has_ended alone reaps it

    def signal_group(self, number: signal.Signals) -> None:
        try:
            os.killpg(self.pid, number)
        except ProcessLookupError:
            pass

    def freeze(self) -> None:
        """Return when it stands still, or has ended."""
        self.signal_group(signal.SIGSTOP)
        os.waitid(os.P_PID, self.pid, os.WSTOPPED | os.WEXITED | os.WNOWAIT)

    def has_ended(self, options: int = 0) -> bool:
        """Wait for its end, unless os.WNOHANG. (Its own children may hold a pipe of its open.)"""
        death = os.wait4(self.pid, options)
        if death[0] == 0:
            return False
        self.signal_group(signal.SIGKILL)  # what it left behind
        self.death, self.pid = death, 0
        os.close(self._wake_w)
        os.close(self._life_w)
        return True

    @property
    def exit_code(self) -> int:
        """Of the last one; negative: the number of the signal that killed it."""
        return os.waitstatus_to_exitcode(self.death[1])

    def how_it_died(self, is_by_us: bool) -> str:
        """Begins with RQ's own words."""
        _, status, usage = self.death
        code = self.exit_code
        words = f"Work-horse terminated unexpectedly; waitpid returned {status}"
        words += f" (signal {-code}); " if code < 0 else "; "
        words += "out of memory? " if code == -signal.SIGKILL and not is_by_us else ""
        return words + f"its peak memory was {usage.ru_maxrss // PEAK_PER_MIB} MiB"


class WakePipe:
    """Wakes the supervisor's loop: for a signal, a command or the end of its horse."""

    def __init__(self) -> None:
        self.r, self.w = os.pipe()
        os.set_blocking(self.w, False)
        self._before = -1

    def install(self) -> None:
        """Have signals wake."""
        self._before = signal.set_wakeup_fd(self.w, warn_on_full_buffer=False)
        signal.signal(signal.SIGCHLD, lambda *_: None)

    def remove(self) -> None:
        self.close(self._before)
        signal.signal(signal.SIGCHLD, signal.SIG_DFL)

    def close(self, wakeup_fd: int = -1) -> None:
        """Close the pipe; signals wake another, or nobody."""
        signal.set_wakeup_fd(wakeup_fd)
        os.close(self.r)
        os.close(self.w)

    def wake(self) -> None:
        with suppress(BlockingIOError):  # the pipe is full, so that it wakes anyway
            os.write(self.w, b"c")

    def doze(self, seconds: float) -> None:
        """Sleep until something wakes."""
        if select.select([self.r], [], [], max(0.0, seconds))[0]:
            os.read(self.r, 4096)


def pipes(count: int) -> list[int]:
    """Return both ends of so many pipes, or raise OSError and leave none open."""
    ends: list[int] = []
    try:
        for _ in range(count):
            ends += os.pipe()
    except OSError:
        for end in ends:
            os.close(end)
        raise
    return ends


def forked(be: Callable[[], int]) -> int:
    """Have a new process be that, and end with the code that it returns; return its process id."""
    flush_all()  # or it would be written by both
    if pid := os.fork():
        return pid
    code = 1
    try:
        code = be()
    except BaseException:
        logging.getLogger("rq.worker").exception("event=died pid=%s", os.getpid())
    finally:
        try:
            flush_all()
        finally:
            os._exit(code)


def end_copies(pid: int, error: BaseException | None = None) -> None:
    """End this process if its id is not `pid`: user code has forked it.

    Called after every piece of user code. A copy of a horse that went on would use its connection
    to Redis and run jobs of its own. It ends as a script would: with the code of its SystemExit, or
    with a traceback of what it raised.
    """
    if os.getpid() == pid:
        return
    code = 0
    try:
        if isinstance(error, SystemExit):
            code = error.code if isinstance(error.code, int) else int(error.code is not None)
        elif error:
            code = 1
            sys.excepthook(type(error), error, error.__traceback__)
        flush_all()
    finally:
        os._exit(code & 0xFF)


def _die_at_the_end_of(life: int) -> None:
    os.read(life, 1)
    os.killpg(0, signal.SIGKILL)


def trim_memory() -> None:
    """Before a fork: what is collected and given back now is not copied later, shared by shared."""
    gc.collect()
    try:
        ctypes.CDLL(None).malloc_trim(0)
    except AttributeError:
        pass  # not glibc
    gc.freeze()


def take_descriptors(count: int, model: int) -> None:
    """Take that many copies of a descriptor, and close them. Raises OSError if fewer are left."""
    first = os.dup(model)
    try:
        if count > 1:
            take_descriptors(count - 1, model)
    finally:
        os.close(first)


def resident_mb() -> float:
    """Return the memory that this process holds, 0 where the system does not say."""
    try:
        with open("/proc/self/statm") as file:
            return int(file.read().split()[1]) * os.sysconf("SC_PAGESIZE") / 2**20
    except OSError:
        return 0.0
