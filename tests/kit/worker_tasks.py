"""Tasks that the tests of the worker run. Files tell what a test must not ask Redis."""

from __future__ import annotations

import asyncio
import logging
import multiprocessing
import os
import resource
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any
from unittest.mock import patch

from rq import get_current_job
from rq.job import Retry

from werk import Task


def note(folder: str, word: str = "ran") -> str:
    """Leave a line in the folder: which job, which process, when."""
    job = get_current_job()
    with open(Path(folder) / "runs", "a") as file:
        file.write(f"{job.id if job else '-'} {os.getpid()} {time.monotonic()} {word}\n")
    return word


def block(folder: str) -> str:
    """Say so, and wait until the test lets go."""
    note(folder, "begins")
    while not (Path(folder) / "go").exists():
        time.sleep(0.005)  # between two looks: the gate is a file
    return note(folder, "ends")


def block_and(folder: str, how: str) -> object:
    """Wait until the test lets go; then return, raise, or ask for another run: the first time."""
    block(folder)
    if how == "raise":
        raise ValueError("as asked")
    is_first = (Path(folder) / "runs").read_text().count(" begins") == 1
    return Retry(max=3) if how == "ask for another run" and is_first else how


def poison(folder: str) -> None:
    """Kill the own process."""
    note(folder)
    os.kill(os.getpid(), signal.SIGKILL)


def swallow(folder: str) -> None:
    """Take no notice of a time limit."""
    note(folder)
    while True:
        try:
            time.sleep(10)
        except Exception:
            continue


def doze(folder: str, seconds: float) -> None:
    """Sleep, and tell if that was cut short."""
    note(folder)
    begin = time.monotonic()
    try:
        time.sleep(seconds)  # the job's own length, or until it is out of time
    except Exception:
        note(folder, f"cut {time.monotonic() - begin:.1f}")
        raise


def use_alarms(folder: str) -> None:
    """Have alarms of its own, and none of anybody else's; then take too long."""
    rang: list[int] = []
    signal.signal(signal.SIGALRM, lambda number, _: rang.append(number))
    signal.setitimer(signal.ITIMER_REAL, 0.1)
    while not rang:
        time.sleep(0.01)  # until its own alarm rings
    signal.signal(signal.SIGALRM, signal.SIG_IGN)
    doze(folder, 30)


def leave_an_alarm(seconds: int) -> None:
    """End before an alarm of its own does."""
    signal.signal(signal.SIGALRM, signal.SIG_DFL)
    signal.alarm(seconds)


def fail(folder: str) -> None:
    """Raise."""
    note(folder)
    raise ValueError("as asked")


def fare(folder: str) -> str:
    """Fail, crash, be killed, fail, and succeed: an execution each."""
    note(folder, "begins")
    number = (Path(folder) / "runs").read_text().count(" begins")
    if number == 2:
        os.kill(os.getpid(), signal.SIGKILL)
    while number == 3:
        time.sleep(0.01)  # until the test kills the worker
    if number < 5:
        raise ValueError("\u00fc" * 10_000 + f" in attempt {number}")
    return "done"


def odd() -> object:
    """Return what is not plain data."""
    return object()


def local() -> object:
    """Return what nobody can pickle."""
    return lambda: None


def heavy(size: int) -> bytes:
    """Return that many bytes."""
    return b"x" * size


def heavy_pieces(count: int, size: int) -> list[bytes]:
    """Return that many pieces of that many bytes."""
    return [b"x" * size for _ in range(count)]


def heavy_later(folder: str, size: int) -> bytes:
    """Return that many bytes when the test lets go."""
    block(folder)
    return heavy(size)


def again(folder: str) -> object:
    """Ask to be tried again, once."""
    note(folder)
    return Retry(max=1)


def later(folder: str) -> object:
    """Ask to be tried again, half a minute later."""
    note(folder)
    return Retry(max=1, interval=30)


def surroundings() -> list[str | None]:
    """Return what a job, and a process that it starts, find in the environment."""
    command = ["sh", "-c", "echo $RQ_JOB_ID $RQ_WORKER_ID"]
    theirs = subprocess.run(command, capture_output=True, text=True, check=True).stdout.split()
    with patch.dict(os.environ, {"OTHER": "1"}):  # at its end it sets all of them anew
        pass
    return [os.environ["RQ_JOB_ID"], os.getenv("RQ_WORKER_ID"), *theirs]


def leave(folder: str) -> None:
    """Leave by sys.exit."""
    note(folder)
    raise SystemExit(3)


def forever(folder: str) -> None:
    """Start a child that would live for long, and wait for it."""
    child = subprocess.Popen(["sleep", "60"])
    note(folder, str(child.pid))
    child.wait()


def keep(folder: str) -> dict[str, Any]:
    """Keep something in the job's meta, and log."""
    job = get_current_job()
    job.meta["own"] = 1
    job.save_meta()
    logging.getLogger("shop").warning("a word of the task's own")
    return dict(job.meta)


def keep_and_fail(folder: str) -> None:
    keep(folder)
    raise ValueError("as asked")


def read_own(folder: str) -> None:
    """Wait until the test lets go, and read the own job."""
    block(folder)
    print(get_current_job().origin)


def mistaken() -> None:
    """Call another function in a wrong way."""
    note()  # type: ignore[call-arg]


def _takes_nothing() -> None: ...


unread = _takes_nothing  # what is not defined by def is not read: its arguments are not checked


def saw(job: Any, connection: Any, *rest: Any) -> None:
    """Called back with what became of a job."""
    with open(Path(job.kwargs["folder"]) / "callbacks", "a") as file:
        file.write(f"{job.id}\n")


def saw_result(job: Any, connection: Any, result: object) -> None:
    """A callback that notes the type of what the job returned."""
    with open(os.environ["SAW"], "a") as file:
        file.write(f"{type(result).__name__} {len(result) if isinstance(result, bytes) else ''}\n")


def saw_and_waits(job: Any, connection: Any, *rest: Any) -> None:
    """A callback that ends when the test lets go."""
    block(job.kwargs["folder"])


def prints(folder: str) -> None:
    """Print a line, wait until the test lets go, and print a part of another line."""
    print("a line of a task")
    block(folder)
    mutters()


def mutters() -> None:
    """Print a part of a line, which stays in a buffer."""
    print("a part of a line", end="")


def broken(job: Any, connection: Any, *rest: Any) -> None:
    """A callback that fails."""
    raise RuntimeError("a broken callback")


def perish(job: Any, connection: Any, *rest: Any) -> None:
    """A callback that kills its own process."""
    note(job.kwargs["folder"], f"in:{os.getppid()}")
    os.kill(os.getpid(), signal.SIGKILL)


def fork(folder: str, how: str) -> str:
    """Fork, and let both processes go on: the child in the given way."""
    note(folder)
    if os.fork() == 0:
        if how == "raises":
            raise ValueError("in the child")
        if how == "exits":
            sys.exit(0)
    return how


def fork_in_callback(job: Any, connection: Any, *rest: Any) -> None:
    """A callback of which two processes return."""
    fork(job.kwargs["folder"], "returns")


def wait_in_turns() -> None:
    """Wait until a signal ends the process, whenever it comes."""
    while True:
        signal.sigtimedwait([], 0.05)


def end_children(count: int, handler: str = "") -> list[int | None]:
    """Start processes and end each at once, as a pool does. Return how they ended."""
    if handler:
        signal.signal(signal.SIGTERM, lambda *_: os._exit(7))
    found: list[int | None] = []
    while len(found) < count and None not in found:
        child = multiprocessing.get_context("fork").Process(target=wait_in_turns)
        child.start()
        child.terminate()
        child.join(5)
        found.append(child.exitcode)
        child.kill()
    return found


def fork_in_handler(job: Any, *rest: Any) -> bool:
    """An exception handler that returns, and raises in the process that it forks."""
    if os.fork() == 0:
        raise ValueError("in the child")
    return True


def hold_descriptors(how: str) -> None:
    """Open files until there is no descriptor left, keep them, and end in the given way."""
    resource.setrlimit(resource.RLIMIT_NOFILE, (256, 256))
    try:
        while True:
            HELD.append(os.dup(0))
    except OSError:
        if how == "leaves one":
            os.close(HELD.pop())
        if how != "returns":
            raise


def needs_two(folder: str) -> None:
    """Have two descriptors open at once."""
    reading, writing = os.pipe()
    os.close(reading), os.close(writing)
    note(folder)


def large(mib: int) -> bytes:
    """Return so much."""
    return bytes(mib << 20)


class Endless:
    """Pickled, it never ends, or ends the process."""

    def __init__(self, how: str) -> None:
        self.how = how

    def __reduce__(self) -> Any:
        if self.how == "exits":
            sys.exit(3)
        time.sleep(3600)  # its own length


def endless(how: str) -> Endless:
    """Return what cannot be pickled."""
    return Endless(how)


def hang_in_the_kernel(folder: str) -> None:
    """Wait for a child that waits before it runs its program. Only SIGKILL ends that."""
    note(folder, "begins")
    os.mkfifo(Path(folder) / "pipe")
    opens = (os.POSIX_SPAWN_OPEN, 0, f"{folder}/pipe", os.O_RDONLY, 0)
    os.posix_spawn("/bin/true", ["true"], {}, file_actions=[opens])


HELD: list[int] = []


async def waits() -> str:
    """Return something after a turn of the event loop."""
    await asyncio.sleep(0)
    return "ran"


_PATH = "worker_tasks."
TASKS = {
    name: Task(_PATH + name)
    for name in (
        "note block fail odd again later leave forever keep keep_and_fail saw saw_and_waits "
        "mistaken perish broken unread surroundings doze leave_an_alarm fork fork_in_callback "
        "end_children hold_descriptors needs_two large heavy heavy_pieces heavy_later saw_result "
        "local prints mutters waits block_and hang_in_the_kernel".split()
    )
} | {
    "fare": Task(_PATH + "fare", retry=2, retry_delay=0, max_crashes=2),
    "fail_often": Task(_PATH + "fail", retry=12, retry_delay=0),
    "poison": Task(_PATH + "poison", max_crashes=2),
    "swallow": Task(_PATH + "swallow", timeout=1),
    "use_alarms": Task(_PATH + "use_alarms", timeout=1),
    "retried": Task(_PATH + "fail", retry=2, retry_delay=1),
    "retried_meta": Task(_PATH + "keep_and_fail", retry=1, retry_delay=1),
    "read_own": Task(_PATH + "read_own", timeout=2, retry=1, retry_delay=3600),
    "missing": Task("worker_tasks.not_there"),
    "fragile": Task("fragile_tasks.fragile"),
}
