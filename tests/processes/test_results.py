"""What becomes of a result: it is stored, however long that takes, or its caller learns why not."""

from __future__ import annotations

import base64
import json
import os
import pickle
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
import redis
import roles
from rq import Callback, Queue
from rq.job import Job
from rq.results import Result
from support import KIT, PYTHONPATH, Process, children, run, wait_until

import werk
from werk.ops import job_view
from werk.settings import Settings
from werk.store import payload
from werk.store.connection import link

ENV = {"PYTHONPATH": PYTHONPATH, "WERK_REGISTRY": "worker_tasks:TASKS"}
RQS_TEXT = "Unserializable return value"
TYPE_NAMED = "the value is an object; use plain data (numbers, text, bytes, dates, lists, dicts)"
MIB = 2**20
TOO_LARGE = 65 * MIB
FULL_S = 5.0
LONG_S = 60.0  # for what takes a moment on a quiet machine
NEXT_JOB_S = 10.0  # promised

Start = Callable[..., Process]


@pytest.fixture
def work(spawn: Start, connection: redis.Redis, monkeypatch: pytest.MonkeyPatch) -> Start:
    """Start a worker and wait until its horse is there: work(), work("rq", "worker")."""
    for name, value in ENV.items():
        monkeypatch.setenv(name, value)
    monkeypatch.syspath_prepend(KIT)

    def start(*program: str, env: dict[str, str] | None = None) -> Process:
        process = spawn(*(program or ("werk", "worker")), "default", env=env)
        wait_until(
            lambda: any(leads_group(pid) for pid in children(process.pid)) or program, LONG_S
        )
        return process

    return start


@pytest.fixture
def memory(connection: redis.Redis) -> Iterator[Callable[[int], None]]:
    """Limit the server's memory: memory(1); it is given back after the test."""
    before = connection.config_get("maxmemory")["maxmemory"]
    yield lambda limit: connection.config_set("maxmemory", limit)
    connection.config_set("maxmemory", before)


def leads_group(pid: int) -> bool:
    try:
        return os.getpgid(pid) == pid
    except ProcessLookupError:
        return False


def not_kept(job: werk.Handle) -> str:
    with pytest.raises(werk.ResultNotKept) as info:
        job.result(timeout=LONG_S)
    return str(info.value)


def shown(job: werk.Handle) -> dict[str, object]:
    return job_view.show(job.id, link(roles.settings("reader")))


# --- a result that is not kept


def test_what_is_not_plain_is_not_kept_and_its_type_is_named(work: Start) -> None:
    work()
    job = werk.enqueue("odd")
    assert not_kept(job) == f"job {job.id} finished, but its result was not kept: {TYPE_NAMED}"
    assert job.job.is_finished
    assert job.job.return_value() == RQS_TEXT  # as RQ's own readers know it


def test_what_is_too_large_is_not_kept_and_its_size_is_named(
    work: Start, connection: redis.Redis
) -> None:
    work()
    for job in (werk.enqueue("heavy", TOO_LARGE), werk.enqueue("heavy_pieces", 65, MIB)):
        text = not_kept(job)
        assert "but its result was not kept: 68,1" in text
        assert text.endswith(
            " bytes are more than the limit of 67,108,864; "
            "store the data elsewhere and pass a reference"
        )
        assert job.job.return_value() == RQS_TEXT
    assert connection.info("memory")["used_memory_peak"] < 400 * MIB  # nothing of it was sent


def test_a_result_of_600_mb_is_not_kept_and_the_next_job_runs_soon(
    work: Start, tmp_path: Path
) -> None:
    worker = work()
    [horse] = [pid for pid in children(worker.pid) if leads_group(pid)]
    job = werk.enqueue("heavy", 600_000_000)
    after = werk.enqueue("note", str(tmp_path))
    assert "600,000,0" in not_kept(job)
    begun = time.monotonic()
    assert after.result(timeout=LONG_S) == "ran"
    assert time.monotonic() - begun < NEXT_JOB_S
    assert horse in children(worker.pid)
    assert peak_mb(horse) < 800  # one copy of it: the task's own


def test_many_large_pieces_are_written_at_most_once(work: Start, tmp_path: Path) -> None:
    worker = work()
    [horse] = [pid for pid in children(worker.pid) if leads_group(pid)]
    job = werk.enqueue("heavy_pieces", 300, MIB)
    assert "314,5" in not_kept(job)
    assert werk.enqueue("note", str(tmp_path)).result(timeout=LONG_S) == "ran"
    assert worker.output().count("event=unstored") == 1
    assert peak_mb(horse) < 3 * 300


def test_with_dependents_and_a_callback_it_is_the_same(
    work: Start, connection: redis.Redis, tmp_path: Path
) -> None:
    seen = tmp_path / "saw"
    queue = Queue(connection=connection)
    called = queue.enqueue("worker_tasks.odd", on_success=Callback("worker_tasks.saw_result"))
    large = queue.enqueue(
        "worker_tasks.heavy", TOO_LARGE, on_success=Callback("worker_tasks.saw_result")
    )
    before = queue.enqueue("worker_tasks.odd")
    after = queue.enqueue("worker_tasks.note", str(tmp_path), depends_on=before)
    work(env={"SAW": str(seen)})
    wait_until(lambda: after.get_status() == "finished", LONG_S)
    for job, reason in ((called, TYPE_NAMED), (before, TYPE_NAMED), (large, "bytes are more than")):
        with pytest.raises(werk.ResultNotKept) as info:
            werk.result(job.id, timeout=LONG_S)
        assert reason in str(info.value)
        assert job.return_value() == RQS_TEXT
    assert seen.read_text().split() == ["object", "bytes", str(TOO_LARGE)]


def test_a_job_that_keeps_nothing_at_all_leaves_nothing(
    work: Start, connection: redis.Redis
) -> None:
    work()
    job = werk.enqueue("odd", options=werk.Options(result_ttl=0))
    assert job.result(timeout=LONG_S) is None
    wait_until(lambda: not connection.exists(f"rq:job:{job.id}"))
    assert connection.keys(f"rq:*{job.id}*") == [f"rq:werk:sent:{job.id}".encode()]


def test_a_callback_that_fails_fails_the_job_and_not_its_result(
    work: Start, connection: redis.Redis
) -> None:
    queue = Queue(connection=connection)
    job = queue.enqueue("worker_tasks.odd", on_success=Callback("worker_tasks.saw_result"))
    work()  # without SAW: KeyError
    with pytest.raises(werk.JobFailed, match="KeyError"):
        werk.result(job.id, timeout=LONG_S)
    assert not connection.hexists(job.key, "werk_not_kept")
    plain = werk.enqueue("heavy", 3)
    assert plain.result(timeout=LONG_S) == b"xxx"


def test_the_next_run_of_the_job_is_not_taken_for_the_last(
    work: Start, connection: redis.Redis
) -> None:
    work()
    job = werk.enqueue("odd")
    not_kept(job)
    connection.hset(f"rq:job:{job.id}", "data", payload.write_call("worker_tasks.heavy", (3,), {}))
    connection.hset(f"rq:job:{job.id}", "werk_task", "heavy")
    connection.hset(f"rq:job:{job.id}", "status", "queued")
    connection.rpush("rq:queue:default", job.id)
    wait_until(lambda: connection.xlen(f"rq:results:{job.id}") == 2, LONG_S)
    assert werk.result(job.id, timeout=LONG_S) == b"xxx"
    assert shown(job)["result"] == b"xxx"


def test_workers_that_run_any_path_say_so_too(work: Start, connection: redis.Redis) -> None:
    work(env={"WERK_ALLOW_UNREGISTERED": "yes"})
    queue = Queue(connection=connection)
    local = queue.enqueue("worker_tasks.local")
    with pytest.raises(werk.ResultNotKept, match="of type function, which cannot be stored"):
        werk.result(local.id, timeout=LONG_S)
    large = queue.enqueue("worker_tasks.heavy", TOO_LARGE)
    with pytest.raises(werk.ResultNotKept, match="bytes are more than the limit"):
        werk.result(large.id, timeout=LONG_S)


def test_the_commands_say_it_in_one_line_and_exit_with_1(work: Start) -> None:
    work()
    waited = run("werk-enqueue", "--wait", "odd")
    assert (waited.returncode, waited.stdout) == (1, "")
    [line] = waited.stderr.splitlines()
    assert line.startswith("werk-enqueue: job ")
    assert line.endswith(f" finished, but its result was not kept: {TYPE_NAMED}")
    in_json = run("werk-enqueue", "--wait", "--json", "odd")
    assert in_json.returncode == 1
    said = json.loads(in_json.stdout)
    assert said["error"].endswith(f"its result was not kept: {TYPE_NAMED}")
    assert "result" not in said
    again = run("werk", "result", said["id"])
    assert (again.returncode, again.stdout) == (1, "")
    assert TYPE_NAMED in again.stderr


def test_show_and_the_dashboard_say_it_instead_of_rqs_text(work: Start) -> None:
    work()
    job = werk.enqueue("odd")
    not_kept(job)
    assert shown(job)["result"] == f"(not kept: {TYPE_NAMED})"
    page = job_view.page(link(roles.settings("reader")), job.id)
    assert ["Result", f"(not kept: {TYPE_NAMED})"] in page["rows"]
    printed = run("werk", "show", job.id, env={"COLUMNS": "300"}).stdout
    assert TYPE_NAMED in printed
    assert RQS_TEXT not in printed


# --- of a plain RQ worker


def test_rqs_text_from_a_plain_rq_worker_is_not_kept_either(
    work: Start, connection: redis.Redis
) -> None:
    work("rq", "worker")
    job = Queue(connection=connection).enqueue("worker_tasks.local")
    with pytest.raises(werk.ResultNotKept) as info:
        werk.result(job.id, timeout=LONG_S)
    assert str(info.value) == (
        f"job {job.id} finished, but its result was not kept: the worker could not store it; "
        "use plain data (numbers, text, bytes, dates, lists, dicts)"
    )


def test_a_pickled_class_from_a_plain_rq_worker_is_unreadable(connection: redis.Redis) -> None:
    job = Job.create("worker_tasks.odd", connection=connection, origin="default")
    job.save()
    connection.hset(job.key, "status", "finished")
    entry = {"type": Result.Type.SUCCESSFUL.value}
    value = base64.b64encode(pickle.dumps(Path("/")))
    connection.xadd(f"rq:results:{job.id}", {**entry, "return_value": value})
    with pytest.raises(werk.Unreadable):
        werk.result(job.id, timeout=LONG_S)


# --- a result in hand while Redis is full


@pytest.mark.parametrize("kind", ["plain", "with dependents"])
def test_a_result_in_hand_is_stored_when_memory_is_no_longer_full(
    kind: str,
    work: Start,
    connection: redis.Redis,
    memory: Callable[[int], None],
    tmp_path: Path,
) -> None:
    work()
    queue = Queue(connection=connection)
    job = queue.enqueue("worker_tasks.heavy_later", str(tmp_path), MIB)
    if kind == "with dependents":
        queue.enqueue("worker_tasks.note", str(tmp_path), depends_on=job)
    wait_until((tmp_path / "runs").exists, LONG_S)
    memory(1)
    full_until = time.monotonic() + FULL_S
    (tmp_path / "go").touch()
    with pytest.raises(redis.exceptions.OutOfMemoryError):
        connection.set("more", 1)
    wait_until(lambda: time.monotonic() > full_until, FULL_S + 1)
    memory(0)
    assert werk.result(job.id, timeout=LONG_S) == b"x" * MIB
    assert connection.xlen(f"rq:results:{job.id}") == 1


def peak_mb(pid: int) -> float:
    """Return the most memory that a process has held. Linux."""
    status = Path(f"/proc/{pid}/status").read_text()
    [line] = [line for line in status.splitlines() if line.startswith("VmHWM")]
    return int(line.split()[1]) / 1024


def test_a_wait_that_is_longer_than_the_time_budget_does_not_use_it_up(redis_url: str) -> None:
    job = werk.enqueue("sleep", 0)  # and there is no worker
    with pytest.raises(werk.ResultTimeout):
        werk.result(job.id, timeout=1.5, connection=link(Settings.read(), budget_s=1.0))


@pytest.mark.parametrize("how", ["waits", "exits"])
def test_the_code_of_a_result_has_a_time_limit(
    work: Start, connection: redis.Redis, how: str
) -> None:
    """With WERK_ALLOW_UNREGISTERED the result is pickled as in RQ, by its own methods."""
    work(env={"WERK_ALLOW_UNREGISTERED": "yes"})
    job = Queue(connection=connection).enqueue("worker_tasks.endless", how, job_timeout=1)
    wait_until(lambda: job.get_status() in ("finished", "failed"))
    with pytest.raises(werk.ResultNotKept, match="JobTimeout" if how == "waits" else "SystemExit"):
        werk.result(job.id, timeout=60)
    assert len(job.results()) == 1
