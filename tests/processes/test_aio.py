"""Callers in asyncio, whose event loop must not wait for Redis, and tasks that are coroutines."""

from __future__ import annotations

import asyncio
import gc
import os
import selectors
import signal
import sys
import threading
import time
import weakref
from collections import Counter
from collections.abc import Awaitable, Callable, Coroutine, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing
from contextvars import ContextVar
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import redis
from support import Process, run, wait_until

import werk
import werk.aio
from werk import aio, errors, settings
from werk.client import enqueue as client
from werk.client.result import Waiting
from werk.dev.server import Server
from werk.settings import LIBRARY_BUDGET_S

Spawn = Callable[..., Process]
WORKER = ("werk", "worker", "default")
BEAT_S = 0.005


@pytest.fixture(autouse=True)
def _threads() -> Iterator[None]:
    """Leave no threads to other tests, which may fork."""
    yield
    aio._threads.shutdown()
    aio._begin()


@pytest.fixture
def frozen(server: Server, connection: redis.Redis) -> Iterator[Callable[[], None]]:
    """Freeze the server; it continues when the test ends."""
    yield lambda: os.kill(server.pid, signal.SIGSTOP)
    os.kill(server.pid, signal.SIGCONT)


def thaw(server: Server) -> None:
    os.kill(server.pid, signal.SIGCONT)


async def gathered(count: int) -> list[Any]:
    calls = (werk.aio.enqueue("sleep", number) for number in range(count))
    return await asyncio.gather(*calls, return_exceptions=True)


# --- enqueue


def test_a_thousand_at_once(connection: redis.Redis, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(settings._given, "budget_s", 60.0)  # the machine may be busy
    handles = asyncio.run(gathered(1000))
    assert len({handle.id for handle in handles}) == 1000
    assert connection.llen("rq:queue:default") == 1000


def test_a_thousand_at_once_while_redis_is_frozen(frozen: Callable[[], None]) -> None:
    frozen()
    found = asyncio.run(gathered(1000))
    assert {type(error) for error in found} == {werk.RedisUnavailable}
    # A call that began while a thread became free has the rest of its budget.
    assert sum("was not asked: the call waited" in str(error) for error in found) > 900


@pytest.mark.performance
def test_a_thousand_calls_end_within_a_second_of_their_budget(
    frozen: Callable[[], None],
) -> None:
    handles = asyncio.run(gathered(1000))
    assert {type(handle) for handle in handles} == {werk.Handle}
    frozen()
    begin = time.monotonic()
    asyncio.run(gathered(1000))
    assert time.monotonic() - begin < LIBRARY_BUDGET_S + 1


def test_a_wait_for_a_thread_is_part_of_the_budget(
    server: Server,
    connection: redis.Redis,
    frozen: Callable[[], None],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Eight calls leave the threads after a while; the ninth has only the rest of its time."""
    budget_s = 10.0  # the machine may pause for some seconds
    monkeypatch.setitem(settings._given, "budget_s", budget_s)

    async def calls() -> tuple[float, list[Any]]:
        await werk.aio.enqueue("sleep", 0)
        frozen()
        first = [asyncio.create_task(werk.aio.enqueue("sleep", 1)) for _ in range(aio.THREADS)]
        await asyncio.sleep(budget_s / 2)  # their budgets begin earlier than the next's
        begin = time.monotonic()
        last = asyncio.create_task(werk.aio.enqueue("sleep", 2))
        found = await asyncio.gather(*first, last, return_exceptions=True)
        return time.monotonic() - begin, found

    took, found = asyncio.run(calls())
    assert took < budget_s * 1.45
    assert {type(error) for error in found} == {werk.RedisUnavailable}
    assert "was not reached" in str(found[-1])


def test_nothing_is_imported_on_the_thread_of_the_loop(connection: redis.Redis) -> None:
    done = run(
        sys.executable,
        "-c",
        """
import asyncio, sys, threading
import werk.aio

class Watch:
    def find_spec(self, name, path=None, target=None):
        if threading.current_thread() is threading.main_thread():
            print("imported on the loop:", name)

async def main():
    sys.meta_path.insert(0, Watch())
    job = await werk.aio.enqueue("sleep", 0)
    await werk.aio.enqueue_many("sleep", [(1,)])
    print(await werk.aio.status(job.id))
    try:
        await werk.aio.result(job.id, timeout=0)
    except werk.ResultTimeout as error:
        print(error)
    sys.meta_path.pop(0)

assert not [name for name in sys.modules if name.startswith(("werk.client", "hiredis"))]
asyncio.run(main())
""",
    )
    first, second = done.stdout.splitlines() or [done.stderr, ""]
    assert (first, second.endswith("is queued")) == ("queued", True), done


def test_what_is_wrong_is_raised_as_without_aio(connection: redis.Redis) -> None:
    async def refused(call: Awaitable[Any], error: type[Exception], words: str) -> None:
        with pytest.raises(error, match=words):
            await call

    async def main() -> None:
        await refused(werk.aio.enqueue("slep", 1), werk.UnknownTask, "did you mean 'sleep'")
        await refused(werk.aio.enqueue("sleep", "x"), werk.ArgumentError, "seconds: 'x'")
        await refused(werk.aio.enqueue_many("sleep", [("x",)]), werk.ArgumentError, "seconds")
        await refused(werk.aio.status("nope"), werk.NoSuchJob, "no job nope")
        await refused(werk.aio.result("nope"), werk.NoSuchJob, "never enqueued here")

    asyncio.run(main())
    assert not connection.exists("rq:queue:default")


def test_many_and_a_client_of_ones_own(connection: redis.Redis) -> None:
    async def main() -> list[werk.Handle]:
        calls = [(number,) for number in range(600)]
        options = werk.Options(queue="low")
        return await werk.aio.enqueue_many("sleep", calls, options=options, connection=connection)

    handles = asyncio.run(main())
    assert [handle.id.encode() for handle in handles] == connection.lrange("rq:queue:low", 0, -1)


def test_the_time_of_a_generator_is_not_that_of_redis(connection: redis.Redis) -> None:
    asked = time.monotonic()

    def slow() -> Iterator[tuple[int]]:
        yield (1,)
        wait_until(lambda: time.monotonic() > asked + LIBRARY_BUDGET_S * 1.2)
        yield (2,)

    assert len(asyncio.run(werk.aio.enqueue_many("sleep", slow()))) == 2


def test_calls_that_are_not_a_list_are_refused_as_without_aio(connection: redis.Redis) -> None:
    for calls in ("text", b"text", {"a": 1}, 5):
        with pytest.raises(werk.ArgumentError) as plain:
            werk.enqueue_many("sleep", calls)
        with pytest.raises(werk.ArgumentError) as ours:
            asyncio.run(werk.aio.enqueue_many("sleep", calls))
        assert str(ours.value) == str(plain.value)


def test_a_cancelled_call_that_waits_is_not_sent(
    server: Server, connection: redis.Redis, frozen: Callable[[], None]
) -> None:
    async def main() -> None:
        await werk.aio.enqueue("sleep", 0)
        frozen()
        busy = [asyncio.create_task(werk.aio.enqueue("sleep", 1)) for _ in range(aio.THREADS)]
        await asyncio.sleep(0)
        waits = asyncio.create_task(werk.aio.enqueue("sleep", 2))
        await asyncio.sleep(0)
        waits.cancel()
        with pytest.raises(asyncio.CancelledError):
            await waits
        thaw(server)
        await asyncio.gather(*busy)

    asyncio.run(main())
    assert connection.llen("rq:queue:default") == 1 + aio.THREADS


@pytest.mark.parametrize("count", [1, 2 * aio.IN_FLIGHT])
def test_an_event_loop_that_has_ended_is_not_kept(connection: redis.Redis, count: int) -> None:
    async def main() -> weakref.ref[asyncio.AbstractEventLoop]:
        await gathered(count)
        return weakref.ref(asyncio.get_running_loop())

    ended = asyncio.run(main())
    gc.collect()
    assert ended() is None
    assert not aio._turns


def test_warnings_name_the_line_that_awaits(connection: redis.Redis) -> None:
    async def main() -> None:
        await werk.aio.enqueue("sleep", 1)
        await werk.aio.enqueue_many("sleep", [(1,), (2,)])

    with pytest.warns(werk.WerkWarning, match="no worker listens") as found:
        asyncio.run(main())
    assert [Path(own.filename).name for own in found] == ["test_aio.py"] * 2


def test_the_thread_has_the_context_of_the_task(
    connection: redis.Redis, monkeypatch: pytest.MonkeyPatch
) -> None:
    request: ContextVar[str] = ContextVar("request", default="none")
    seen, find = [], client.find

    def find_and_note(*args: Any) -> Any:
        seen.append((request.get(), threading.current_thread() is threading.main_thread()))
        return find(*args)

    async def main() -> None:
        request.set("one")
        await werk.aio.enqueue("sleep", 1)

    monkeypatch.setattr(client, "find", find_and_note)
    asyncio.run(main())
    assert seen == [("one", False)]


# --- results


@pytest.mark.usefixtures("redis_url")
def test_results(spawn: Spawn) -> None:
    async def main() -> None:
        spawn(*WORKER)
        job = await werk.aio.enqueue("hello", "Ada")
        assert await werk.aio.result(job.id, timeout=60) == "Hello Ada"
        assert await werk.aio.status(job.id) == "finished"
        job = await werk.aio.enqueue("panic")
        with pytest.raises(werk.JobFailed, match="panic! as asked"):
            await werk.aio.result(job.id)
        job = await werk.aio.enqueue("sleep", 60)
        with pytest.raises(werk.ResultTimeout, match=r"after 0\.2 s; it (continues|stays)"):
            await werk.aio.result(job.id, timeout=0.2)
        with pytest.raises(werk.ResultTimeout, match=r"after 0\.2 s; it (continues|stays)"):
            await werk.aio.result(job, timeout="0.2s")
        assert await werk.aio.status(job) in ("queued", "started")
        with pytest.raises(werk.ArgumentError, match="timeout: got 'abc'; use seconds"):
            await werk.aio.result(job.id, timeout="abc")  # type: ignore[arg-type]
        with pytest.raises(
            werk.ArgumentError, match="job_id: got int; use the id of a job, or its"
        ):
            await werk.aio.result(5)  # type: ignore[arg-type]

    asyncio.run(main())
    assert aio._waits == 0


@pytest.mark.usefixtures("redis_url")
def test_a_hundred_waits_block_nothing() -> None:
    async def main() -> None:
        job = await werk.aio.enqueue("sleep", 1)
        waits = [asyncio.create_task(werk.aio.result(job.id, timeout=60)) for _ in range(100)]
        for _ in range(20):
            await asyncio.wait_for(werk.aio.enqueue("sleep", 1), 30)
            await asyncio.sleep(0.01)  # the waits look again meanwhile
        assert not any(wait.done() for wait in waits)
        for wait in waits:
            wait.cancel()
        await asyncio.wait(waits)

    asyncio.run(main())
    threads = [own for own in threading.enumerate() if own.name.startswith("werk.aio")]
    assert len(threads) <= aio.THREADS


class Hours(selectors.DefaultSelector):
    """For an event loop whose time passes as fast as nothing happens."""

    now = 0.0

    def select(self, timeout: float | None = None) -> Any:
        self.now += timeout or 0.0
        return super().select(0)


async def at_once(call: Callable[[], Any], *_: object, **__: object) -> Any:
    return call()


@pytest.fixture
def hours(monkeypatch: pytest.MonkeyPatch) -> Iterator[asyncio.AbstractEventLoop]:
    clock = Hours()
    with closing(asyncio.SelectorEventLoop(clock)) as loop:
        monkeypatch.setattr(loop, "time", lambda: clock.now)
        monkeypatch.setattr(aio, "time", SimpleNamespace(monotonic=lambda: clock.now))
        yield loop


@pytest.mark.parametrize(("count", "timeout_s"), [(1, 30), (100, 30), (5000, 30), (5000, 5)])
def test_waits_that_begin_together_do_not_look_together(
    hours: asyncio.AbstractEventLoop, monkeypatch: pytest.MonkeyPatch, count: int, timeout_s: int
) -> None:
    looks: list[tuple[float, str]] = []
    monkeypatch.setattr(Waiting, "look", lambda self: looks.append((hours.time(), self.job_id)))

    async def main() -> list[Any]:
        waits = (werk.aio.result(str(number), timeout_s) for number in range(count))
        return await asyncio.gather(*waits, return_exceptions=True)

    monkeypatch.setattr(aio, "_in_thread", at_once)
    monkeypatch.setattr(aio, "_run", at_once)
    found = hours.run_until_complete(main())
    assert {type(error) for error in found} == {werk.ResultTimeout}
    assert len({job_id for _, job_id in looks}) == count
    most = max(aio.MOST_LOOKS + 1, count / timeout_s * 1.25)  # each looks once at least
    assert max(Counter(int(at) for at, _ in looks).values()) <= most
    last = {job_id: at for at, job_id in looks}.values()
    assert min(last) >= timeout_s - max(0.01, count / aio.MOST_LOOKS + aio.LONGEST_S)
    assert timeout_s - 0.01 <= hours.time() <= timeout_s + aio.LONGEST_S


@pytest.mark.parametrize("timeout_s", [0, 5])
def test_a_wait_that_never_got_a_thread_fails_when_its_time_is_over(
    hours: asyncio.AbstractEventLoop, monkeypatch: pytest.MonkeyPatch, timeout_s: int
) -> None:
    async def never(*_: object, too_late: Callable[[Exception], Any]) -> Any:
        return too_late(werk.RedisUnavailable("not asked"))

    monkeypatch.setattr(aio, "_in_thread", never)
    monkeypatch.setattr(aio, "_run", at_once)
    with pytest.raises(werk.RedisUnavailable, match="not asked"):
        hours.run_until_complete(werk.aio.result("1", timeout_s))
    assert hours.time() == pytest.approx(timeout_s)


@pytest.mark.parametrize("is_later", [False, True], ids=["first", "later"])
def test_a_look_that_waited_for_a_thread_does_not_fail(
    connection: redis.Redis, monkeypatch: pytest.MonkeyPatch, is_later: bool
) -> None:
    look, looks, free = Waiting.look, list[str](), threading.Event()

    def noted(waiting: Waiting) -> Any:
        looks.append(waiting.job_id)
        return look(waiting)

    async def main() -> None:
        job = await werk.aio.enqueue("sleep", 1)
        wait = asyncio.create_task(werk.aio.result(job, timeout=60))
        short = asyncio.create_task(werk.aio.result(job, timeout=LIBRARY_BUDGET_S / 2))
        if is_later:
            await asyncio.to_thread(wait_until, lambda: len(looks) > 3)
        for _ in range(aio.THREADS):
            aio._threads.submit(free.wait)
        await asyncio.sleep(LIBRARY_BUDGET_S * 1.2)
        free.set()
        with pytest.raises(werk.ResultTimeout):
            await short
        connection.hset(f"rq:job:{job.id}", "status", "canceled")
        with pytest.raises(werk.JobCancelled):
            await wait

    monkeypatch.setattr(Waiting, "look", noted)
    asyncio.run(main())


# --- the process


def test_a_fork_has_threads_of_its_own(connection: redis.Redis) -> None:
    done = run(
        sys.executable,
        "-W",
        "ignore",
        "-c",
        """
import asyncio, os
import werk.aio

asyncio.run(werk.aio.enqueue("sleep", 1))
pid = os.fork()
asyncio.run(werk.aio.enqueue("sleep", 2))
if pid:
    print(os.waitpid(pid, 0)[1])
""",
        timeout=60,
    )
    assert (done.stdout, connection.llen("rq:queue:default")) == ("0\n", 3), done


def test_a_process_ends_within_the_budget_of_its_calls(frozen: Callable[[], None]) -> None:
    frozen()
    begin = time.monotonic()
    done = run(
        sys.executable,
        "-c",
        """
import asyncio
import werk.aio

async def main():
    calls = [asyncio.create_task(werk.aio.enqueue("sleep", 1)) for _ in range(100)]
    await asyncio.wait(calls, timeout=0.1)

asyncio.run(main())
print("ends")
""",
        timeout=60,
    )
    assert (done.returncode, done.stdout, done.stderr) == (0, "ends\n", "")
    assert time.monotonic() - begin < 20


# --- tasks that are coroutines

TASKS = """
import asyncio
import rq

async def double(number: int, *, pause: float = 0.0) -> int:
    "Double a number."
    await asyncio.sleep(pause)
    job = rq.get_current_job()
    return {"id": job.id, "double": number * 2}

async def fail(word: str) -> None:
    await asyncio.sleep(0)
    raise ValueError(word)

async def outlast(seconds: float) -> None:
    try:
        await asyncio.sleep(seconds)
    finally:
        print("cleaned up", flush=True)

async def follow() -> str:
    import werk
    return (await werk.aio.enqueue("double", 4)).id

TASKS = {name: f"shop_async.{name}" for name in ("double", "fail", "outlast", "follow")}
"""


def test_a_task_may_be_a_coroutine(
    connection: redis.Redis, spawn: Spawn, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "shop_async.py").write_text(TASKS)
    monkeypatch.setenv("PYTHONPATH", str(tmp_path))
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.setenv("WERK_REGISTRY", "shop_async:TASKS")
    worker = spawn(*WORKER)
    assert "NUMBER" in run("werk-enqueue", "double", "--help").stdout
    with pytest.raises(werk.ArgumentError, match="number: 'x'"):
        werk.enqueue("double", "x")
    job = werk.enqueue("double", 4, pause=0.01)
    assert job.result(60) == {"id": job.id, "double": 8}
    with pytest.raises(werk.JobFailed, match="ValueError: oh") as failure:
        werk.enqueue("fail", "oh").result(60)
    assert "shop_async.py" in failure.value.traceback
    late = werk.enqueue("outlast", 600, options=werk.Options(timeout=1))
    with pytest.raises(werk.JobFailed, match="exceeded maximum timeout value"):
        late.result(60)
    assert "cleaned up" in worker.output()
    assert werk.result(werk.enqueue("follow").result(60), 60)["double"] == 8
    assert "event=kill" not in worker.output()


# --- the loop's lag


async def beat(load: Coroutine[Any, Any, Any]) -> list[float]:
    """Return by how many seconds a short sleep is late, each time, while a load runs."""
    task, late = asyncio.create_task(load), []
    while not task.done():
        begin = time.monotonic()
        await asyncio.sleep(BEAT_S)
        late.append(time.monotonic() - begin - BEAT_S)
    await task
    return sorted(late)


async def by_threads(count: int) -> None:
    """Put the same load on this process, by threads that have nothing to do with the loop."""
    pool = ThreadPoolExecutor(aio.THREADS)
    work = [pool.submit(_quietly, number) for number in range(count)]
    while not all(own.done() for own in work):
        await asyncio.sleep(BEAT_S)
    pool.shutdown()


def _quietly(number: int) -> None:
    try:
        client.submit("sleep", (number,), {})
    except errors.RedisUnavailable:
        pass


@pytest.mark.performance
@pytest.mark.parametrize("is_frozen", [False, True], ids=["answers", "frozen"])
def test_the_loop_is_no_later_than_an_idle_one(
    connection: redis.Redis, frozen: Callable[[], None], is_frozen: bool
) -> None:
    asyncio.run(gathered(10))
    if is_frozen:
        frozen()
    count = aio.THREADS if is_frozen else 1000
    loads = {"idle": by_threads, "ours": gathered}
    late: dict[str, list[float]] = {name: [] for name in loads}
    for _ in range(1 if is_frozen else 5):
        for name, load in loads.items():
            late[name] += asyncio.run(beat(load(count)))
    for name, found in late.items():
        steps = [quantile(found, share) * 1000 for share in (0.5, 0.95, 1)]
        print(f"{name}: {len(found)} beats; median, 95 % and last in ms: {steps}")
    for share in (0.5, 0.95):
        assert quantile(late["ours"], share) <= quantile(late["idle"], share) + BEAT_S


def quantile(found: list[float], share: float) -> float:
    return sorted(found)[int((len(found) - 1) * share)]
