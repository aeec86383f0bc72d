"""werk.testing: what is recorded, how it runs, and that nothing of it needs Redis."""

from __future__ import annotations

import asyncio
import socket
import threading
from collections.abc import Iterator
from datetime import datetime, timedelta, timezone
from pathlib import Path
from typing import Any
from unittest.mock import Mock

import pytest
import recorded_tasks
import redis
from click.testing import CliRunner
from support import run

import werk
from werk import aio, registry
from werk.cli.enqueue import enqueue as command
from werk.cli.run import werk as commands
from werk.client import links
from werk.testing import RecordedJob, RecordedJobs, recorded, stand_in


@pytest.fixture(autouse=True)
def _no_redis(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """Let the test fail that opens a socket to anything."""
    monkeypatch.setenv("WERK_REGISTRY", "recorded_tasks:TASKS")
    monkeypatch.setattr(socket.socket, "connect", Mock(side_effect=AssertionError("a socket")))
    recorded_tasks.calls.clear()
    yield
    assert links.link_of(None).where != "werk.testing.recorded()"  # all have been left


@pytest.fixture
def jobs() -> Iterator[RecordedJobs]:
    with recorded() as jobs:
        yield jobs


# --- what is recorded


def test_a_job_has_what_its_task_receives(jobs: RecordedJobs) -> None:
    handle = werk.enqueue("loose", (1, 2), {3}, mode="b", at=datetime(2026, 1, 2))
    [job] = jobs
    assert (job.id, job.task, job.queue) == (handle.id, "loose", "default")
    assert job.args == ((1, 2), {3})
    assert job.kwargs == {"mode": "b", "at": datetime(2026, 1, 2)}
    assert (job.status, job.due) == ("queued", None)


def test_a_list_that_changes_later_was_sent_as_it_was(jobs: RecordedJobs) -> None:
    values = [1]
    werk.enqueue("note", values)
    values.append(2)
    assert jobs[0].args == ([1],)


def test_options_are_those_of_the_job(jobs: RecordedJobs) -> None:
    noon = datetime(2030, 1, 1, 12, tzinfo=timezone.utc)
    given: list[dict[str, Any]] = [
        {"queue": "low", "front": True, "timeout": 5, "ttl": 6, "result_ttl": 7, "failure_ttl": 8},
        {"retry": 9, "delay": 10.5, "front": True, "job_id": "own", "require_worker": True},
        {"at": noon, "unless_active": True, "once_per": 90.5, "ping": "https://ping.example/"},
    ]
    for own in given:
        werk.enqueue("note", options=werk.Options(**own))
    for job, own in zip(jobs, given, strict=True):
        assert {name: getattr(job.options, name) for name in own} == own
    assert jobs[2].due == noon.timestamp()


@pytest.mark.parametrize(("due_in_s", "wanted_s"), [(3600, 4200), (-3600, 600), (None, 600)])
def test_what_expires_has_a_time_to_live(
    jobs: RecordedJobs, due_in_s: float | None, wanted_s: float
) -> None:
    at = due_in_s and datetime.now(timezone.utc) + timedelta(seconds=due_in_s)
    werk.enqueue("note", options=werk.Options(expires=599.5, at=at or None))
    assert jobs[0].options.ttl == pytest.approx(wanted_s, abs=20)


def test_the_options_of_the_task_are_among_them(jobs: RecordedJobs) -> None:
    werk.enqueue("flaky", "x")
    assert jobs[0].options == werk.Options(
        queue="low",
        job_id=jobs[0].id,
        timeout=180,
        result_ttl=3600,
        failure_ttl=30 * 24 * 3600,
        retry=2,
    )


def test_many_are_recorded_in_order(jobs: RecordedJobs) -> None:
    handles = werk.enqueue_many("note", [(n,) for n in range(600)])
    assert [job.args[0] for job in jobs] == [*range(600)]
    assert [job.id for job in jobs] == [handle.id for handle in handles]


def test_jobs_of_one_task(jobs: RecordedJobs) -> None:
    werk.enqueue("note", 1)
    werk.enqueue("change", [])
    assert jobs.of("note") == [jobs[0]]
    assert jobs.of("parent") == []
    with pytest.raises(werk.UnknownTask, match="did you mean 'note'"):
        jobs.of("noet")


def test_no_secret_is_shown(jobs: RecordedJobs) -> None:
    werk.enqueue("login", "ada", password="hunter2")
    assert repr(jobs) == "[<queued job: login('ada', password=***)>]"
    assert jobs[0].kwargs == {"password": "hunter2"}


def test_a_bad_call_records_nothing(jobs: RecordedJobs) -> None:
    with pytest.raises(werk.ArgumentError, match="'x' is not a whole number"):
        werk.enqueue_many("parent", [(1,), ("x",)])
    assert jobs == []


# --- duplicates


def test_a_job_id_exists_once(jobs: RecordedJobs) -> None:
    once = werk.Options(job_id="own")
    assert not werk.enqueue("note", options=once).duplicate
    jobs.run()
    second = werk.enqueue("note", options=once)
    assert (second.duplicate, second.reason) == (True, "job own exists already")
    assert len(jobs) == 1


def test_a_job_that_is_not_kept_can_be_enqueued_again(jobs: RecordedJobs) -> None:
    once = werk.Options(job_id="own")
    first = werk.enqueue("forgotten", 1, options=once)
    jobs.run()
    assert first.result() is None
    with pytest.raises(werk.NoSuchJob):
        first.status()
    assert not werk.enqueue("forgotten", 1, options=once).duplicate


def test_a_failure_that_is_not_kept_can_be_enqueued_again(jobs: RecordedJobs) -> None:
    once = werk.Options(job_id="own", failure_ttl=0, retry=1)
    first = werk.enqueue("fail", "why", options=once)
    jobs.run()
    with pytest.raises(werk.NoSuchJob):
        first.result()
    with pytest.raises(werk.NoSuchJob):
        first.status()
    assert jobs[0].attempts == 2
    assert not werk.enqueue("fail", "why", options=once).duplicate


def test_unless_active(jobs: RecordedJobs) -> None:
    alone = werk.Options(unless_active=True)
    first = werk.enqueue("note", 1, options=alone)
    second = werk.enqueue("note", 1, options=alone)
    assert (second.id, second.reason) == (first.id, f"job {first.id} is still queued")
    assert not werk.enqueue("note", 2, options=alone).duplicate
    jobs.run()
    assert not werk.enqueue("note", 1, options=alone).duplicate


def test_once_per(jobs: RecordedJobs, monkeypatch: pytest.MonkeyPatch) -> None:
    hourly = werk.Options(once_per=3600)
    now = 1_800_000_000.0
    monkeypatch.setattr("time.time", lambda: now)
    first = werk.enqueue("note", options=hourly)
    jobs.run()
    second = werk.enqueue("note", options=hourly)
    assert (second.id, second.duplicate) == (first.id, True)
    now += 3600
    assert not werk.enqueue("note", options=hourly).duplicate


# --- running


def test_run_calls_the_tasks_in_the_order_of_the_queue(jobs: RecordedJobs) -> None:
    for value, options in [
        ("late", {"delay": 20}),
        ("soon", {"delay": 10}),
        ("first", {}),
        ("second", {}),
        ("front", {"front": True}),
    ]:
        werk.enqueue("note", value, options=werk.Options(**options))  # type: ignore[arg-type]
    ran = jobs.run()
    assert recorded_tasks.calls == ["front", "first", "second", "soon", "late"]
    assert [job.args[0] for job in ran] == recorded_tasks.calls
    assert {job.status for job in jobs} == {"finished"}
    assert jobs.run() == []


def test_results(jobs: RecordedJobs) -> None:
    handle = werk.enqueue("note", {"a": [1, (2, None)]})
    assert handle.status() == "queued"
    jobs.run()
    assert handle.status() == "finished"
    assert handle.result() == handle.result(timeout=5) == {"a": [1, (2, None)]}
    assert werk.result(handle.id) == {"a": [1, (2, None)]}


@pytest.mark.parametrize("timeout", [None, 0, 60])
def test_a_result_before_the_run_names_the_remedy(
    jobs: RecordedJobs, timeout: float | None
) -> None:
    handle = werk.enqueue("note", 1)
    for wait in (handle.result, lambda timeout: werk.result(handle.id, timeout)):
        with pytest.raises(werk.ResultTimeout, match=r"still queued; run it first: jobs\.run\(\)"):
            wait(timeout)


def test_an_unknown_job(jobs: RecordedJobs) -> None:
    with pytest.raises(werk.NoSuchJob):
        werk.result("unknown")


def test_a_failing_task_does_not_stop_the_others(
    jobs: RecordedJobs, caplog: pytest.LogCaptureFixture
) -> None:
    bad, good = werk.enqueue("fail", "why"), werk.enqueue("note", 1)
    jobs.run()
    assert (bad.status(), good.status()) == ("failed", "finished")
    with pytest.raises(werk.JobFailed, match=f"job {bad.id} failed: ValueError: why") as failed:
        bad.result()
    assert failed.value.traceback.startswith("Traceback")
    assert "recorded_tasks.py" in failed.value.traceback
    assert "werk/testing" not in failed.value.traceback  # no line of ours
    assert f"event=failed job={bad.id} task=fail" in caplog.text


def test_exit_fails_a_job(jobs: RecordedJobs) -> None:
    job = werk.enqueue("leave")
    jobs.run()
    with pytest.raises(werk.JobFailed, match="SystemExit: 3"):
        job.result()


@pytest.mark.parametrize("is_in_loop", [False, True])
def test_a_task_that_ends_as_cancelled_fails(jobs: RecordedJobs, is_in_loop: bool) -> None:
    job, other = werk.enqueue("cancels"), werk.enqueue("note", 1)

    async def test() -> None:
        jobs.run()

    asyncio.run(test()) if is_in_loop else jobs.run()
    with pytest.raises(werk.JobFailed, match="CancelledError"):
        job.result()
    assert other.result() == 1


def test_a_task_whose_code_is_missing_fails(jobs: RecordedJobs) -> None:
    job = werk.enqueue("elsewhere", 1)
    jobs.run()
    with pytest.raises(werk.JobFailed, match="No module named 'somewhere'"):
        job.result()


@pytest.mark.parametrize(
    ("path", "why"),
    [
        ("unfinished.tasks.send", "ModuleNotFoundError: No module named 'missing_dependency'"),
        ("unfinished.send", "AttributeError: module 'unfinished' has no attribute 'send'"),
        ("recorded_tasks.Mail.send", "ModuleNotFoundError: No module named 'recorded_tasks.Mail'"),
    ],
)
def test_a_task_that_cannot_be_imported_fails_with_the_cause(
    jobs: RecordedJobs, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, path: str, why: str
) -> None:
    (tmp_path / "unfinished").mkdir()
    (tmp_path / "unfinished" / "__init__.py").touch()
    (tmp_path / "unfinished" / "tasks.py").write_text("import missing_dependency\n")
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.setitem(recorded_tasks.TASKS, "elsewhere", path)
    registry.tasks.cache_clear()
    job = werk.enqueue("elsewhere")
    jobs.run()
    with pytest.raises(werk.JobFailed, match=why):
        job.result()


def test_ctrl_c_ends_the_test(jobs: RecordedJobs, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(recorded_tasks, "note", Mock(side_effect=KeyboardInterrupt))
    werk.enqueue("note")
    with pytest.raises(KeyboardInterrupt):
        jobs.run()


def test_retries(jobs: RecordedJobs) -> None:
    werk.enqueue("flaky", "x")
    other = werk.enqueue("note", 1)
    ran = [job.task for job in jobs.run()]
    assert ran == ["flaky", "note", "flaky", "flaky"]
    assert (jobs[0].status, other.status()) == ("failed", "finished")


def test_a_retry_that_succeeds(jobs: RecordedJobs, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(recorded_tasks, "fail", Mock(side_effect=[ValueError, "at last"]))
    job = werk.enqueue("flaky", "x")
    jobs.run()
    assert job.result() == "at last"


def test_arguments_stay_as_they_were_sent(jobs: RecordedJobs) -> None:
    job = werk.enqueue("change", [1])
    jobs.run()
    assert job.result() == 2
    assert jobs[0].args == ([1],)


def test_a_result_that_is_not_plain(jobs: RecordedJobs) -> None:
    job = werk.enqueue("unplain")
    jobs.run()
    with pytest.raises(werk.ResultNotKept, match="the value is an object; use plain data"):
        job.result()


def test_what_a_task_enqueues_runs_as_well(jobs: RecordedJobs) -> None:
    werk.enqueue("parent", 2)
    assert [job.task for job in jobs.run()] == ["parent", "parent", "parent", "note"]
    assert recorded_tasks.calls == [-1]


def test_what_a_task_enqueues_for_later_waits_for_the_next_run(jobs: RecordedJobs) -> None:
    werk.enqueue("tomorrow", options=werk.Options(delay=1))
    assert [len(jobs.run()), len(jobs.run())] == [1, 1]
    assert [job.status for job in jobs] == ["finished", "finished", "scheduled"]


def test_a_task_that_enqueues_itself_is_named(
    jobs: RecordedJobs, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("werk.testing.MOST_RUN", 50)
    werk.enqueue("again")
    with pytest.raises(werk.WerkError, match=r"has run 50 jobs.*the task again enqueue itself"):
        jobs.run()


def test_an_async_task(jobs: RecordedJobs) -> None:
    job = werk.enqueue("wait", 5)
    jobs.run()
    assert job.result() == 5
    assert recorded_tasks.calls == [5]


def test_an_async_task_in_an_async_test() -> None:
    async def test() -> None:
        with recorded() as jobs:
            job = werk.enqueue("wait", 5)
            jobs.run()
            assert job.result() == 5
            assert [job.task for job in jobs] == ["wait", "note"]

    asyncio.run(test())


def test_an_async_caller(jobs: RecordedJobs) -> None:
    async def test() -> None:
        once = werk.Options(job_id="once")
        both = await asyncio.gather(*[aio.enqueue("note", 1, options=once) for _ in range(20)])
        assert [job.duplicate for job in both].count(False) == 1
        many = await aio.enqueue_many("wait", [(2,)] * 300)
        assert (len(jobs), await aio.status(many[0].id)) == (301, "queued")
        with pytest.raises(werk.ResultTimeout, match=r"jobs\.run"):
            await aio.result(many[0].id)
        jobs.run()
        assert await aio.result(many[-1].id) == 2

    asyncio.run(test())


def test_the_current_job(jobs: RecordedJobs) -> None:
    job = werk.enqueue("who_am_i", options=werk.Options(queue="low"))
    saved = werk.enqueue("who_am_i", True)
    jobs.run()
    assert job.result() == [job.id, "low", (), {}, 7]
    with pytest.raises(werk.JobFailed, match="has no Redis to send HSET to"):
        saved.result()


# --- contexts


def test_the_inner_context_records() -> None:
    with recorded() as outer:
        werk.enqueue("parent", 0)
        with recorded() as inner:
            werk.enqueue("note", 2)
            outer.run()  # what its jobs enqueue belongs to it
        werk.enqueue("note", 3)
    assert [job.args for job in outer] == [(0,), (-1,), (3,)]
    assert [job.args for job in inner] == [(2,)]


def test_jobs_can_run_after_the_context() -> None:
    with recorded() as jobs:
        werk.enqueue("parent", 0)
    jobs.run()
    assert [job.status for job in jobs] == ["finished", "finished"]


def test_an_error_leaves_the_context() -> None:
    with pytest.raises(ZeroDivisionError), recorded():
        raise ZeroDivisionError
    assert links.link_of(None).where == "localhost:6379/0"


def test_an_enqueue_in_a_signal_handler_during_another(monkeypatch: pytest.MonkeyPatch) -> None:
    def interrupted(*args: Any) -> RecordedJob:
        monkeypatch.setattr(stand_in, "RecordedJob", RecordedJob)
        werk.enqueue("note", "inner")
        return RecordedJob(*args)

    def record() -> None:
        with recorded() as jobs:
            werk.enqueue("note", "outer")
        found.extend(job.args[0] for job in jobs)

    found: list[str] = []
    monkeypatch.setattr(stand_in, "RecordedJob", interrupted)
    thread = threading.Thread(target=record, daemon=True)
    thread.start()
    thread.join(10)
    assert found == ["inner", "outer"]


def test_threads_and_tasks_have_contexts_of_their_own() -> None:
    found: dict[str, list[int]] = {}
    both = threading.Barrier(2)

    def record(name: str) -> None:
        with recorded() as jobs:
            both.wait(60)
            for n in range(20):
                werk.enqueue("note", n)
            both.wait(60)
        found[name] = [job.args[0] for job in jobs]

    threads = [threading.Thread(target=record, args=(name,)) for name in "ab"]
    with recorded() as jobs:
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
    assert found == {"a": [*range(20)], "b": [*range(20)]}
    assert jobs == []

    async def record_many() -> list[list[Any]]:
        async def record(name: str) -> list[Any]:
            with recorded() as jobs:
                for _ in range(3):
                    werk.enqueue("note", name)
                    await asyncio.sleep(0)
            return [job.args[0] for job in jobs]

        return await asyncio.gather(record("a"), record("b"))

    assert asyncio.run(record_many()) == [["a"] * 3, ["b"] * 3]


def test_a_thread_outside_has_no_context() -> None:
    where: list[str] = []
    with recorded():
        thread = threading.Thread(target=lambda: where.append(links.link_of(None).where))
        thread.start()
        thread.join()
    assert where == ["localhost:6379/0"]


# --- other callers


def test_a_connection_is_checked_and_not_used(jobs: RecordedJobs) -> None:
    werk.enqueue("note", 1, connection=redis.Redis())
    with pytest.raises(werk.ConfigError, match="decode_responses"):
        werk.enqueue("note", 2, connection=redis.Redis(decode_responses=True))
    assert [job.args for job in jobs] == [(1,)]


def test_an_unknown_task_names_the_table_alone() -> None:
    code = "import werk, werk.testing\nwith werk.testing.recorded() as jobs: {}"
    for call in ("werk.enqueue('xyzzy')", "jobs.of('xyzzy')"):
        said = run("python", "-c", code.format(call), env={"WERK_REGISTRY": ""}).stderr
        assert said.endswith("known: hello, panic, sleep; set WERK_REGISTRY to your table\n")


def test_the_command_records(jobs: RecordedJobs, tmp_path: Path) -> None:
    file = tmp_path / "calls"
    file.write_text('[1]\n{"value": 2}\n')
    done = CliRunner().invoke(command, ["--delay", "60", "note", '"x"'])
    assert (done.exit_code, done.output) == (0, f"{jobs[0].id}\n")
    assert CliRunner().invoke(command, ["--batch", str(file), "note"]).exit_code == 0
    assert [job.args for job in jobs] == [("x",), (1,), ()]
    assert jobs[2].kwargs == {"value": 2}
    assert jobs[0].options.delay == 60
    assert "recorded_tasks" not in CliRunner().invoke(command, ["--help"]).output


def test_another_command_is_refused(jobs: RecordedJobs) -> None:
    done = CliRunner().invoke(commands, ["status"])
    assert isinstance(done.exception, werk.WerkError)
    assert "has no Redis to send" in str(done.exception)


def test_recording_loads_no_redis_client() -> None:
    code = (
        "import sys, werk, werk.testing\n"
        "with werk.testing.recorded() as jobs:\n"
        "    job = werk.enqueue('hello', 'Ada')\n"
        "    jobs.run()\n"
        "    print(job.result(), sorted({'redis', 'rq', 'flask', 'pytest'} & set(sys.modules)))\n"
    )
    assert run("python", "-c", code, env={"WERK_REGISTRY": ""}).stdout == "Hello Ada []\n"


def test_nothing_is_active_before_it_is_imported() -> None:
    code = "import werk.client.enqueue, werk.client.links as links; print(links.stand_in)"
    assert run("python", "-c", code).stdout == "None\n"
