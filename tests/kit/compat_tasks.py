"""Tasks of test_compat.py, and the callbacks of their jobs. They know the test's folder from the
environment, so that the records of two runs are the same to the byte.
"""

from __future__ import annotations

import asyncio
import os
import signal
import time
from pathlib import Path
from typing import Any

from rq import Queue, get_current_job
from rq.job import Retry


def echo(value: Any = None) -> Any:
    ran()
    return value


async def echo_later(value: str) -> str:
    ran()
    await asyncio.sleep(0)
    return value


def fail(word: str = "as asked") -> None:
    ran()
    raise ValueError(word)


def flaky(failures: int) -> str:
    """Fail so many times, then succeed."""
    if ran() <= failures:
        raise ValueError("not yet")
    return "at last"


def nap() -> None:
    """Run until it is stopped, killed or out of time; if that fails, end after 30 s."""
    ran()
    time.sleep(30)  # it is stopped, killed or out of time long before; and if not, it ends


def leave() -> None:
    ran()
    raise SystemExit(3)


def die(number: int) -> None:
    """End the own process: by a signal, or with the exit code -number."""
    ran()
    os._exit(-number) if number < 0 else os.kill(os.getpid(), signal.Signals(number))


def odd() -> object:
    """Return what no serializer takes."""
    ran()
    return lambda: None


def again(times: int, seconds: int = 0, at_front: bool = False) -> Retry:
    """Ask to be tried again, always."""
    ran()
    return Retry(max=times, interval=seconds, enqueue_at_front=at_front)


def again_until(runs: int, intervals: list[int]) -> Retry | str:
    """Ask to be tried again until it has run so many times."""
    return Retry(max=3, interval=intervals) if ran() < runs else "at last"


def keep(fails: bool = False) -> str:
    """Keep something in the job's meta."""
    job = current()
    job.meta["runs"] = ran()
    job.meta["list"] = [*job.meta.get("list", ()), job.get_status().value]
    job.save_meta()
    if fails:
        raise ValueError("kept")
    return str(job.meta["mark"])


def enqueue(job_id: str) -> None:
    """Enqueue another job, from within one."""
    job = current()
    ran()
    queue = Queue(job.origin, connection=job.connection)
    queue.enqueue("compat_tasks.echo", job.id, job_id=job_id, meta={"parent": job.id})


def block() -> str:
    """Say that it has begun, and wait until the test lets go."""
    count = ran()
    gate = folder() / f"go-{current().id}-{count}"
    while not gate.exists():
        time.sleep(0.005)  # between two looks: the gate is a file
    return "let go"


def succeeded(job: Any, connection: Any, result: Any) -> None:
    called("succeeded", job, result, job.get_status(refresh=False))
    job.meta["succeeded"] = True
    job.save_meta()
    connection.incr("shop:succeeded")


def failed(job: Any, connection: Any, kind: type, value: BaseException, trace: Any) -> None:
    called("failed", job, kind.__name__, value, job.get_status(refresh=False))
    connection.incr("shop:failed")


def stopped(job: Any, connection: Any) -> None:
    called("stopped", job)
    connection.incr("shop:stopped")


def broken(job: Any, connection: Any, *rest: Any) -> None:
    called("broken", job)
    raise RuntimeError("a broken callback")


def handle(job: Any, *exc_info: Any) -> None:
    """An exception handler, of `rq worker --exception-handler`."""
    called("handle", job, exc_info[0].__name__)


def handle_at_last(job: Any, *exc_info: Any) -> bool:
    """One that lets no other have it."""
    called("handle-at-last", job)
    return False


def current() -> Any:
    job = get_current_job()
    assert job is not None
    return job


def folder() -> Path:
    return Path(os.environ["COMPAT_FOLDER"])


def ran() -> int:
    """Note a run of the current job. Returns how many that makes."""
    job_id = current().id
    with (folder() / "runs").open("a+") as file:
        file.write(f"{job_id}\n")
        file.flush()
        file.seek(0)
        return file.read().split().count(job_id)


def called(*facts: Any) -> None:
    what, job, *rest = facts
    with (folder() / "callbacks").open("a") as file:
        file.write(" ".join(map(str, (what, job.id, *rest))) + "\n")


TASKS = {
    f"compat.{name}": f"compat_tasks.{name}"
    for name in (
        "echo echo_later fail flaky nap leave die odd again again_until keep enqueue block"
        " succeeded failed stopped broken"
    ).split()
}
