"""The tasks of `bin/chaos`, which leave their traces in a file outside Redis."""

from __future__ import annotations

import os
import sys
import time
from collections.abc import Callable
from pathlib import Path

from chaos.kinds import FAILURE_TTL_S, RESULT_TTL_S, RETRY_DELAY_S
from werk.registry import Task

BEAT_S = 0.02
FLOOD = 1 << 20  # bytes
LEFT_S = 30.0  # how long a process that a task leaves behind lives
CRASHES = 1000  # a job may be hit by several faults of a run; the job does not kill its workers
NO_CRASHES = ("once",)


def _task(name: str, timeout: int = 180) -> Task:
    ttls = {"result_ttl": RESULT_TTL_S, "failure_ttl": FAILURE_TTL_S}
    path, delay = f"chaos.tasks.{name}", RETRY_DELAY_S
    crashes = 0 if name in NO_CRASHES else CRASHES
    return Task(path, timeout=timeout, retry_delay=delay, max_crashes=crashes, **ttls)


def work(token: str, seconds: float) -> str:
    """Run for `seconds` and write a line every 20 ms."""
    trace = _Trace()
    trace.write("start")
    trace.beat(seconds)
    trace.write("end")
    return token


def once(token: str, seconds: float) -> str:
    """Run as work() does. A crash of its worker fails this job."""
    return work(token, seconds)


def fail(token: str, seconds: float) -> None:
    """Run for `seconds`, then raise."""
    trace = _Trace()
    trace.write("start")
    trace.beat(seconds)
    trace.write("raise")
    raise ValueError(f"{token} has to fail")


def falter(token: str, seconds: float, failures: int) -> str:
    """Raise in the first executions that get so far, return in the next one."""
    trace = _Trace()
    trace.write("start")
    trace.beat(seconds)
    for number in range(failures):
        try:
            (Path(os.environ["CHAOS_ATTEMPTS"]) / f"{token}.{number}").touch(exist_ok=False)
        except FileExistsError:
            continue
        trace.write("raise")
        raise ValueError(f"{token} fails at first")
    trace.write("end")
    return token


def fork(token: str, how: str) -> str:
    """Fork; the child leaves this function too: it returns, raises or exits."""
    trace = _Trace()
    trace.write("start")
    if os.fork() == 0:
        if how == "raises":
            raise ValueError("in the child")
        if how == "exits":
            sys.exit(0)
        return "the child's"
    trace.beat(0.2)  # the child goes on meanwhile
    trace.write("end")
    return token


def leak(token: str) -> None:
    """Leave no descriptor free, then fail."""
    trace = _Trace()
    trace.write("start")
    try:
        while True:
            os.dup(trace.file)
    except OSError:
        trace.write("raise")
        raise


def flood(token: str) -> str:
    """Print more than a pipe holds."""
    trace = _Trace()
    trace.write("start")
    os.write(1, b"flood\n" * (FLOOD // 6))
    trace.write("end")
    return token


def leave(token: str) -> str:
    """Leave a process in a group of its own. It keeps what the horse has open."""
    trace = _Trace()
    trace.write("start")
    if os.fork() == 0:
        os.setsid()
        time.sleep(LEFT_S)  # its life: meanwhile its worker, or another horse, is killed
        os._exit(0)
    trace.write("end")
    return token


def on_success(job: object, connection: object, result: object) -> None:
    """Write down that the job's success was reported."""
    _Trace().write("on_success")


def on_failure(job: object, connection: object, *error: object) -> None:
    """Write down that the job's failure was reported."""
    _Trace().write("on_failure")


class _Trace:
    """One execution's lines: job id, execution, what, monotonic time, horse, supervisor."""

    def __init__(self) -> None:
        self.file = os.open(os.environ["CHAOS_TRACES"], os.O_WRONLY | os.O_APPEND)
        self.horse, self.supervisor = os.getpid(), os.getppid()
        token = os.environ["RQ_JOB_ID"]
        self.head = f"{token} {self.horse}.{time.monotonic_ns()}"

    def write(self, what: str) -> None:
        line = f"{self.head} {what} {time.monotonic():.6f} {self.horse} {self.supervisor}\n"
        os.write(self.file, line.encode())  # one write, appended: a kill leaves no half of it

    def beat(self, seconds: float) -> None:
        end = time.monotonic() + seconds
        while (left := end - time.monotonic()) > 0:
            time.sleep(min(BEAT_S, left))  # the job's own length: faults hit it meanwhile
            self.write("beat")

    def __del__(self) -> None:
        os.close(self.file)


_ALL: tuple[Callable[..., object], ...] = (work, once, fail, falter, fork, leak, flood, leave)
TASKS = {each.__name__: _task(each.__name__) for each in (*_ALL, on_success, on_failure)}

if os.environ.get("CHAOS_SENTRY"):  # as Sentry's page has it: where the worker imports its table
    import sentry_sdk

    sentry_sdk.init("http://key@127.0.0.1:9/1", traces_sample_rate=1.0)  # nobody listens there
