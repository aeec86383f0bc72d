"""Forks: what becomes of the processes that user code forks in a horse."""

from __future__ import annotations

import os
import signal
import sys
import threading

from werk.errors import is_a
from werk.worker.log_stream import flush_all


def end_copies(pid: int, error: BaseException | None = None) -> None:
    """End this process if its id is not `pid`: user code has forked it.

    Called after every piece of user code. A copy of a horse that continued would use the horse's
    connection to Redis and run jobs itself. It ends as a script does: with the code of its
    SystemExit, or with a traceback of its error.
    """
    if os.getpid() == pid:
        return
    code = 0
    try:
        if is_a(error, SystemExit):
            code = error.code if isinstance(error.code, int) else int(error.code is not None)
        elif error is not None:
            code = 1
            sys.excepthook(type(error), error, error.__traceback__)
        flush_all()
    finally:
        os._exit(code & 0xFF)


class alone:
    """End the copies of this process that user code forks in the context.

    A class, as all contexts that users' errors leave: contextlib's generators assign to
    `__traceback__`, and an error that is a frozen dataclass is replaced by that.
    """

    def __enter__(self) -> None:
        self._pid = os.getpid()

    def __exit__(self, kind: object, error: BaseException | None, trace: object) -> None:
        end_copies(self._pid, error)


def outlive_sigterm() -> None:
    """Have this process survive SIGTERM, which systemd sends to all, but none that it forks.

    Those would inherit SIG_IGN or our handler, and multiprocessing could not end the processes of
    a pool. Python forgets signals that arrive before a hook runs in the child: block it until then.
    """
    forking = threading.local()

    def survive(*_: object) -> None:
        pass

    def block() -> None:
        forking.mask = signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGTERM})

    def unblock() -> None:
        signal.pthread_sigmask(signal.SIG_SETMASK, forking.mask)

    def become_child() -> None:
        if signal.getsignal(signal.SIGTERM) is survive:  # not a handler of the task's own
            signal.signal(signal.SIGTERM, signal.SIG_DFL)
        unblock()

    signal.signal(signal.SIGTERM, survive)
    os.register_at_fork(before=block, after_in_parent=unblock, after_in_child=become_child)
