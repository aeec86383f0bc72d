"""Middleware whose module has a function `flush`: it does what FLUSH says."""

from __future__ import annotations

import os
import signal
import time
from collections.abc import Callable
from contextlib import suppress
from typing import Any


def execute(job: Any, call_next: Callable[[], Any]) -> Any:
    return call_next()


also = execute


def flush(timeout_s: float) -> None:
    assert 0 < timeout_s <= 3
    with open(os.environ["AROUND"], "a") as file:
        print("flush", os.getpid(), file=file)
    if os.environ["FLUSH"] == "fails":
        raise LookupError("no tenant")
    if os.environ["FLUSH"] == "takes a second":
        time.sleep(1)  # the time that it takes to send: a horse waits for it
        with open(os.environ["AROUND"], "a") as file:
            print("flushed", file=file)
    if os.environ["FLUSH"] == "crashes":
        os.kill(os.getpid(), signal.SIGKILL)
    while os.environ["FLUSH"] == "hangs":
        time.sleep(0.1)  # until the time limit
    while os.environ["FLUSH"] == "ignores its time limit":
        with suppress(Exception):
            time.sleep(10)  # until the horse is killed
