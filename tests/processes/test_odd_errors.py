"""Tasks with errors whose text cannot be stored or shown, and tasks that close descriptors."""

from __future__ import annotations

from contextlib import closing
from pathlib import Path

import pytest
import redis
from faults import listening
from rq import Callback, Queue
from rq.job import Job
from rq.results import Result
from rq.webhook import Webhook
from support import wait_until
from workers import ENV, PATIENT, Start, crash_count, ended, finished, horse, reason, runs

import werk
from werk.ops import failure_counts
from werk.store.connection import link_over
from werk.worker.shared_state import Leave, SharedState

TABLE = {"WERK_REGISTRY": "odd_tasks:TASKS"}
HALF = "ValueError: bad \\udcff"


@pytest.fixture
def start(work: Start, monkeypatch: pytest.MonkeyPatch) -> Start:
    monkeypatch.setenv("WERK_REGISTRY", TABLE["WERK_REGISTRY"])
    return lambda *words, **env: work(*words, env={**TABLE, **env})


# --- half a character


def test_half_a_character_costs_no_traceback_and_no_webhook(
    start: Start, connection: redis.Redis
) -> None:
    asked: list[bytes] = []
    with listening(lambda caller: asked.append(caller.recv(65536))) as port:
        hook = Webhook(f"http://127.0.0.1:{port}/", "failed", method="POST")
        made = Queue(connection=connection).enqueue("odd_tasks.raise_half", webhooks=[hook])
        start()
        wait_until(lambda: asked)
    assert shows_half(made)
    with closing(link_over(connection)) as link:
        assert [group.error for group in failure_counts.read(link, 1)] == [HALF]


def shows_half(job: Job) -> bool:
    """Return whether the reason of a failure has the frames and the error."""
    shown = reason(job)
    return "in raise_half\n" in shown and shown.strip().endswith(HALF)


def test_half_a_character_in_an_attempt_is_kept(start: Start) -> None:
    start()
    job = ended(werk.enqueue("raise_half_twice"), "failed")
    last, first = job.results()
    assert (first.type, last.type) == (Result.Type.RETRIED, Result.Type.FAILED)
    assert all((result.exc_string or "").strip().endswith(HALF) for result in (first, last))


@pytest.mark.parametrize("kind", ["on_success", "on_failure"])
def test_half_a_character_in_a_callback_is_kept(
    start: Start, connection: redis.Redis, tmp_path: Path, kind: str
) -> None:
    path = "worker_tasks.note" if kind == "on_success" else "odd_tasks.raise_mute"
    words = {"args": (str(tmp_path),)} if kind == "on_success" else {}
    callback = {kind: Callback("odd_tasks.break_in_callback")}
    job = Queue(connection=connection).enqueue(path, **words, **callback)  # type: ignore[arg-type]
    start()
    wait_until(lambda: job.get_status() == "failed")
    assert shows_half(job)


def test_half_a_character_in_a_description_costs_no_traceback(start: Start) -> None:
    start()
    job = ended(werk.enqueue("describe_and_fail"), "failed")
    assert reason(job).strip().endswith("ValueError: as asked")


def test_half_a_character_in_the_name_of_a_type_is_no_failure(start: Start) -> None:
    start()
    job = werk.enqueue("return_half")
    with pytest.raises(werk.ResultNotKept, match=r"bad \\udcff"):
        job.result(timeout=60)
    finished(job)


# --- an error without a text

NO_TEXT = "Mute: <its text cannot be shown>"


def test_a_handler_whose_error_has_no_text_costs_no_horse(start: Start, tmp_path: Path) -> None:
    worker = start(WERK_ON_GIVE_UP="odd_tasks.gave_up", FOLDER=str(tmp_path))
    first = horse(worker)
    for _ in range(2):
        ended(werk.enqueue("raise_half"), "failed")
    wait_until(lambda: len(runs(tmp_path, "gave-up")) == 2)
    ended(werk.enqueue("raise_mute"), "failed")
    finished(werk.enqueue("note", str(tmp_path)))
    assert horse(worker) == first
    worker.terminate()
    assert worker.wait(60) == 0
    assert f'reason="{NO_TEXT}"' in worker.output()


def test_a_flush_whose_error_has_no_text_costs_no_horse(start: Start, tmp_path: Path) -> None:
    worker = start("default", "--burst", WERK_MIDDLEWARE="odd_tasks.around")
    assert worker.wait(60) == 0
    assert f'event=flush-failed middleware=odd_tasks.flush reason="{NO_TEXT}"' in worker.output()


@pytest.mark.parametrize(
    ("setting", "value"),
    [
        ("WERK_PRELOAD", "mute_module"),
        ("WERK_MIDDLEWARE", "mute_module.around"),
        ("WERK_ON_GIVE_UP", "mute_module.gave_up"),
        ("WERK_REGISTRY", "mute_module:TASKS"),
    ],
)
def test_a_module_whose_error_has_no_text_is_one_clear_line(
    spawn: Start, connection: redis.Redis, setting: str, value: str
) -> None:
    worker = spawn("werk", "worker", "default", env={**ENV, **TABLE, setting: value})
    assert worker.wait(60) == 78
    assert NO_TEXT in worker.output()
    assert "event=died" not in worker.output()


# --- an error that denies its class or its truth

FRAMED = {"RQ_WORKER_CLASS": "patched_classes.Around"}
ODD = ["empty", "untrue", "nameless", "classless", "frozen"]


@pytest.mark.parametrize(
    "env", [PATIENT, FRAMED, PATIENT | {"WERK_MIDDLEWARE": "odd_tasks.around"}]
)
@pytest.mark.parametrize("name", ODD)
def test_an_odd_error_fails_its_job_and_costs_no_horse(
    start: Start, tmp_path: Path, name: str, env: dict[str, str]
) -> None:
    worker = start("default", **env)
    first = horse(worker)
    job = ended(werk.enqueue("raise_odd", name), "failed")
    shown = f"odd_tasks.{name.capitalize()}: as asked"
    assert (shown if name in ("empty", "frozen") else "Error") in reason(job)
    if name != "classless":  # RQ asks each result for its class, too
        with pytest.raises(werk.ResultNotKept, match=f"odd_tasks.{name.capitalize()}"):
            werk.enqueue("return_odd", name).result(timeout=60)
    finished(werk.enqueue("note", str(tmp_path)))
    assert horse(worker) == first
    assert f"event=failed job={job.id}" in worker.output()
    assert f"error={name.capitalize()}" in worker.output()


@pytest.mark.parametrize("name", ODD)
def test_an_odd_error_of_a_handler_ends_its_job(start: Start, tmp_path: Path, name: str) -> None:
    handlers = {"ODD": name, "WERK_ON_GIVE_UP": "odd_tasks.raise_asked"}
    words = ("default", "--exception-handler", "odd_tasks.raise_asked")
    worker = start(*words, **PATIENT, **handlers)
    first = horse(worker)
    job = ended(werk.enqueue("raise_half"), "failed")
    assert reason(job).endswith("as asked")
    assert name.capitalize() in reason(job)
    wait_until(lambda: f"event=give-up-failed job={job.id}" in worker.output())
    finished(werk.enqueue("note", str(tmp_path)))
    assert horse(worker) == first


@pytest.mark.parametrize("name", ODD)
def test_an_odd_error_of_a_module_is_one_clear_line(
    spawn: Start, connection: redis.Redis, name: str
) -> None:
    odd = {"ODD": name, "WERK_PRELOAD": "odd_module"}
    worker = spawn("werk", "worker", "default", env={**ENV, **TABLE, **odd})
    assert worker.wait(60) == 78
    why = f"WERK_PRELOAD: cannot import odd_module: {name.capitalize()}: as asked"
    assert why in worker.output()


# --- closed descriptors


@pytest.mark.parametrize("error", ["", "as asked"])
@pytest.mark.parametrize("numbers", [(0, 1), (1, 2), (2, 3), (3, 256), (0, 256)])
def test_closed_descriptors_cost_no_job_and_no_attempt(
    start: Start, connection: redis.Redis, tmp_path: Path, numbers: tuple[int, int], error: str
) -> None:
    job = werk.enqueue("close_descriptors", str(tmp_path), *numbers, error)
    after = werk.enqueue("standard_descriptors")
    worker = start()
    ended(job, "failed" if error else "finished")
    *found, code = after.result(timeout=60)
    assert code == "0"
    for number, place in enumerate(found):
        assert place == ("/dev/null" if number == 0 else str(worker.log))
    if error:
        assert reason(job.job).strip().endswith("ValueError: as asked")
    assert len(runs(tmp_path)) == 1
    assert crash_count(connection, job) == 0
    worker.terminate()
    assert worker.wait(60) == 0


@pytest.mark.parametrize("error", ["", "as asked"])
def test_a_job_that_closes_its_output_does_not_silence_those_after_it(
    start: Start, tmp_path: Path, error: str
) -> None:
    werk.enqueue("close_descriptors", str(tmp_path), 1, 3, error)
    after = [werk.enqueue("note", str(tmp_path)) for _ in range(2)]
    worker = start()
    for job in after:
        finished(job)
        wait_until(lambda job=job: f"event=done job={job.id} " in worker.output())


# --- exit codes


def test_a_task_that_exits_as_an_unusable_horse_does_is_a_crash(
    start: Start, connection: redis.Redis, tmp_path: Path
) -> None:
    start()
    job = ended(werk.enqueue("exit_at_once", str(tmp_path), int(Leave.UNUSABLE)), "failed")
    assert "killed its worker 3 times" in reason(job)
    assert len(runs(tmp_path)) == 3


def test_a_horse_has_no_reason_of_an_earlier_one() -> None:
    shared = SharedState()
    shared.reason = "no descriptors are left"
    shared.begin_horse()
    assert shared.reason == ""
