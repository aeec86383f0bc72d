"""Child: the process that a supervisor forks, with the means to wake, freeze, kill and reap it.

The child leads a process group, so that the processes of a job are killed with it. Two pipes lead
to the child. The wake pipe wakes it. Nothing is written to the lifeline: it closes when the
supervisor ends, for whatever reason, and then the kernel kills the group.
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
from typing import Any, ClassVar

from werk.log_format import Event
from werk.worker.log_stream import flush_all

SIGNALS_HANG_UP = sys.platform == "linux"  # the kernel sends a signal when a pipe is closed
F_SETSIG = 10  # fcntl(2), Linux; not in the fcntl module
FREEZE_S, FREEZE_POLL_S = 0.5, 0.001  # how long a child may take to stop: the ticks have to go on
plugged: set[int] = set()  # the standard descriptors that plug_standard() has opened
PEAK_PER_MIB = 1024 if sys.platform == "linux" else 1024 * 1024  # ru_maxrss: kB, or bytes


class Child:
    """One process at a time: the next can be forked when the last one has ended."""

    pid = 0  # 0: there is none. A signal to the group 0 would go to ourselves
    death: tuple[int, int, Any]  # of the last one: process id, wait status, resources
    told = 0.0  # the last deadline that the child was signalled about
    # Why the child was killed (timeout, finish, command, stop, lost, stuck, cold), and which
    # execution was meant: other executions that it had open are not at fault.
    killed = killed_run = ""
    _ours: ClassVar[set[int]] = set()  # this process's ends of the pipes to all its children

    def start(self, be: Callable[[], int]) -> None:
        """Fork. The child calls `be`, which has to call lead_group, and exits with its code.

        Raises OSError if no process or descriptor is available, and leaves nothing open.
        """
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
        self._ours.update((self._wake_w, self._life_w))
        try:
            os.setpgid(self.pid, self.pid)  # parent and child both do it: either may run first
        except OSError:
            pass

    def lead_group(self) -> int:
        """Have the kernel kill our process group when the other end of the lifeline closes.

        Only the supervisor holds that end. (With prctl the jobs' own children would survive.)
        Return the wake pipe, to read from it.
        """
        for end in (self._wake_w, self._life_w, *self._ours):
            os.close(end)  # those of other children as well: they have to close with the supervisor
        os.setpgid(0, 0)
        life = self._life_r
        if SIGNALS_HANG_UP:
            fcntl.fcntl(life, fcntl.F_SETOWN, -os.getpgrp())
            fcntl.fcntl(life, F_SETSIG, signal.SIGKILL)
            fcntl.fcntl(life, fcntl.F_SETFL, fcntl.fcntl(life, fcntl.F_GETFL) | os.O_ASYNC)
        else:
            threading.Thread(target=_die_at_the_end_of, args=(life,), daemon=True).start()
        if os.getppid() != self._parent:  # the supervisor ended before this was set up
            os._exit(1)
        return self._wake_r

    def wake(self) -> None:
        if self.pid:
            try:
                os.write(self._wake_w, b"!")
            except OSError:
                pass

    def send_signal(self, number: signal.Signals) -> None:
        """Signal the child, but not the processes that it has started."""
        if self.pid:
            os.kill(self.pid, number)  # the process exists: only has_ended reaps it

    def signal_group(self, number: signal.Signals) -> None:
        try:
            os.killpg(self.pid, number)
        except ProcessLookupError:
            pass

    def freeze(self) -> None:
        """Have the child run no more of its code.

        A signal cannot end some waits in the kernel, such as one for a disk, or for a child that
        has not yet begun its program: then the child stops when it returns from there. We do not
        wait for that, and do not stop its own children, for which it may be waiting.
        """
        self.send_signal(signal.SIGSTOP)
        deadline = time.monotonic() + FREEZE_S
        how = os.WSTOPPED | os.WEXITED | os.WNOWAIT | os.WNOHANG
        while not os.waitid(os.P_PID, self.pid, how) and time.monotonic() < deadline:
            time.sleep(FREEZE_POLL_S)

    def has_ended(self, options: int = 0) -> bool:
        """Wait until the child has ended, unless `options` is os.WNOHANG; return whether it has."""
        death = os.wait4(self.pid, options)
        if death[0] == 0:
            return False
        self.signal_group(signal.SIGKILL)  # the processes that it left
        self.death, self.pid = death, 0
        for end in (self._wake_w, self._life_w):
            self._ours.remove(end)
            os.close(end)
        return True

    @property
    def exit_code(self) -> int:
        """The exit code of the last child; negative: the number of the signal that killed it."""
        return os.waitstatus_to_exitcode(self.death[1])

    def how_it_died(self, is_by_us: bool) -> str:
        """Return a description of its end, which begins like RQ's own."""
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
        """Have signals write to this pipe."""
        self._before = signal.set_wakeup_fd(self.w, warn_on_full_buffer=False)
        signal.signal(signal.SIGCHLD, lambda *_: None)

    def remove(self) -> None:
        self.close(self._before)
        signal.signal(signal.SIGCHLD, signal.SIG_DFL)

    def close(self, wakeup_fd: int = -1) -> None:
        """Close the pipe. Signals write to another one, or to none."""
        signal.set_wakeup_fd(wakeup_fd)
        os.close(self.r)
        os.close(self.w)

    def wake(self) -> None:
        with suppress(BlockingIOError):  # the pipe is full: the loop wakes anyway
            os.write(self.w, b"c")

    def doze(self, seconds: float) -> None:
        """Sleep until something is written, for at most `seconds`."""
        if select.select([self.r], [], [], max(0.0, seconds))[0]:
            os.read(self.r, 4096)


def pipes(count: int) -> list[int]:
    """Return both ends of `count` pipes, or raise OSError and leave none open."""
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
    """Fork a process that calls `be` and exits with its code. Return the process id."""
    flush_all()  # otherwise both processes would write it
    if pid := os.fork():
        return pid
    code = 1
    try:
        code = be()
    except BaseException:
        logging.getLogger("rq.worker").exception(Event("died", pid=os.getpid()))
    finally:
        try:
            flush_all()
        finally:
            os._exit(code)


def _die_at_the_end_of(life: int) -> None:
    os.read(life, 1)
    os.killpg(0, signal.SIGKILL)


def trim_memory() -> None:
    """Free memory before the first fork: pages that are freed now need not be copied later."""
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


def plug_standard() -> None:
    """Open /dev/null in the place of a stdin, stdout or stderr that user code has closed.

    Otherwise the next socket would get its number, and log lines would be sent to Redis.
    """
    with suppress(OSError):  # no descriptor is left, so none of the three is closed
        while (number := os.open(os.devnull, os.O_RDWR)) <= 2:
            os.set_inheritable(number, True)
            plugged.add(number)
        os.close(number)


def resident_mb() -> float:
    """Return the memory of this process in MiB; 0 if the system does not report it."""
    try:
        with open("/proc/self/statm") as file:
            return int(file.read().split()[1]) * os.sysconf("SC_PAGESIZE") / 2**20
    except OSError:
        return 0.0
