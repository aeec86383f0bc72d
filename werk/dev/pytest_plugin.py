"""The fixtures that pytest finds where werk is installed: werk_jobs and werk_worker.

pytest loads this module in every session, so it imports the rest of werk in the fixtures.
"""

from __future__ import annotations

import os
import subprocess
import sys
import time
from collections.abc import Awaitable, Callable, Generator, Iterator
from contextlib import contextmanager
from functools import wraps
from inspect import iscoroutinefunction
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

if TYPE_CHECKING:
    from werk.testing import RecordedJobs

START_S = 60.0
STOP_S = 10.0  # a job that runs longer is killed when the session ends
_WERK = """\
import os
from werk.cli.run import main
from werk.settings import force_url

force_url(os.environ["RQ_REDIS_URL"])  # the tasks may import an application that names another
main()
"""


@pytest.fixture
def werk_jobs(request: pytest.FixtureRequest) -> Iterator[RecordedJobs]:
    """Record the jobs that the test enqueues, without Redis: the value of werk.testing.recorded().

    Unlike recorded(), it records in all threads, and in the contexts of unittest's test cases.
    A test that uses werk_worker as well enqueues real jobs, from the moment when it asks for it. So
    an autouse fixture may use this one.
    """
    from werk.testing import RecordedJobs, entered_everywhere

    jobs = RecordedJobs()
    # A test may ask for werk_worker with request.getfixturevalue(), after this fixture.
    jobs.is_off = lambda: "werk_worker" in request.fixturenames
    with entered_everywhere(jobs):
        yield jobs


@pytest.hookimpl(wrapper=True)
def pytest_runtest_call(item: pytest.Item) -> Generator[None, object, object]:
    """Let an async test record as well: anyio may run it in a task older than its fixtures."""
    if not isinstance(item, pytest.Function) or not _records(item):
        return (yield)
    jobs: Any = item.funcargs["werk_jobs"]
    test = item.obj
    item.obj = _recording(jobs, test)
    try:
        return (yield)
    finally:
        item.obj = test  # the item may run again, with another list


def _records(item: pytest.Function) -> bool:
    return "werk_jobs" in item.fixturenames and iscoroutinefunction(item.obj)


def _recording(jobs: RecordedJobs, test: Callable[..., Awaitable[Any]]) -> Callable[..., Any]:
    from werk.testing import entered

    @wraps(test)
    async def recording(*args: Any, **kwargs: Any) -> Any:
        with entered(jobs):
            return await test(*args, **kwargs)

    return recording


@pytest.fixture(scope="session")
def werk_worker(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """Run a server and a worker until the session ends; return the URL of the server.

    Both are new, and werk uses the server in the meantime, also if the application names another
    with werk.configure(url=...). RQ_REDIS_URL names the server. The worker takes jobs from the
    queues of all tasks and from `default`. Its log is worker.log in the temporary folder `werk0`.
    """
    from werk.dev.server import Server, free_port
    from werk.errors import WerkError
    from werk.settings import force_url

    folder = tmp_path_factory.mktemp("werk")
    try:
        server = Server(folder, free_port())
        server.start()
    except WerkError as error:
        pytest.fail(f"werk_worker: {error}", pytrace=False)
    try:
        with pytest.MonkeyPatch.context() as patch, _worker(server.url, folder / "worker.log"):
            patch.setenv("RQ_REDIS_URL", server.url)
            force_url(server.url)
            yield server.url
    finally:
        force_url(None)
        server.stop()


@contextmanager
def _worker(url: str, log: Path) -> Iterator[None]:
    """Run a worker that imports what this process can import."""
    from werk import registry
    from werk.dev.process import spawn

    queues = {"default", *(task.queue for task in registry.tasks().values())}
    path = os.pathsep.join(folder or os.getcwd() for folder in sys.path)
    with log.open("wb") as output:
        process = spawn(
            [sys.executable, "-P", "-c", _WERK, "worker", *sorted(queues)],
            stdin=subprocess.DEVNULL,
            stdout=output,
            stderr=output,
            env=os.environ | {"RQ_REDIS_URL": url, "PYTHONPATH": path},
        )
    try:
        _await_worker(process, url, log)
        yield
    finally:
        process.terminate()
        try:
            process.wait(STOP_S)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()


def _await_worker(process: subprocess.Popen[bytes], url: str, log: Path) -> None:
    """Wait until a worker has published its tasks: before that, an enqueue warns."""
    from werk import registry
    from werk.dev.server import client_of
    from werk.store import keys

    serves = keys.key("werk", "serves", "default")
    deadline = time.monotonic() + START_S
    with client_of(url) as client:
        while not client.exists(serves if registry.tasks() else keys.key("workers")):
            if process.poll() is not None or time.monotonic() > deadline:
                text = log.read_text(errors="replace")
                pytest.fail(f"werk_worker: the worker did not start:\n{text}", pytrace=False)
            time.sleep(0.02)
