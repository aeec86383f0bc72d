"""Whether this process has run out of descriptors or memory, which is not Redis's fault."""

from __future__ import annotations

import errno
import os


def shortage() -> str:
    """Return why this process cannot open a file or a socket; "" if it can.

    A connection that fails for this reason shows nothing about Redis, so call this after each
    failure. (The error of the connection can be another: without descriptors no name is resolved.)
    """
    try:
        os.close(os.open(os.devnull, os.O_RDONLY))
    except OSError as error:
        if error.errno in (errno.EMFILE, errno.ENFILE, errno.ENOMEM):
            return os.strerror(error.errno)
    return ""
