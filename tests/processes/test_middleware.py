"""WERK_MIDDLEWARE around executions, and WERK_ENQUEUE_MIDDLEWARE around enqueues."""

from __future__ import annotations

import json
import re
import time
from collections.abc import Callable
from contextlib import closing
from pathlib import Path
from urllib.request import Request, urlopen

import pytest
import redis
from fast_worker import Worker
from odd_tasks import ERRORS
from rq.job import Job
from support import KIT, PYTHONPATH, Process, run, wait_until
from workers import PATIENT, Start, begun, ended, finished, go, places, reason

import werk
from werk.errors import EXIT_CONFIG, ArgumentError, ConfigError, RedisUnavailable, WerkError
from werk.middleware import BrokenMiddleware
from werk.ops.cron import Cron
from werk.ops.crontab import read
from werk.settings import Settings
from werk.store.connection import link
from werk.store.keys import text
from werk.store.payload import write_call
from werk.testing import recorded

Serving = Callable[..., tuple[Process, str]]


@pytest.fixture
def around(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Return the file to which the middleware writes."""
    monkeypatch.syspath_prepend(KIT)
    monkeypatch.setenv("PYTHONPATH", PYTHONPATH)
    monkeypatch.setenv("AROUND", str(tmp_path / "around"))
    return tmp_path / "around"


def named(*names: str) -> dict[str, str]:
    return {"WERK_MIDDLEWARE": ",".join(f"around.{name}" for name in names)}


# --- executions


@pytest.mark.parametrize("is_patched", [False, True], ids=["plain", "patched"])
def test_middleware_is_around_the_task_outermost_first(
    work: Start, around: Path, tmp_path: Path, is_patched: bool
) -> None:
    good = werk.enqueue("note", str(tmp_path), options=werk.Options(meta={"own": 1}))
    bad = werk.enqueue("fail", str(tmp_path))
    env = named("outer", "inner")
    if is_patched:  # so that RQ's methods perform the jobs
        env |= {"PATCH": "job", "PATCH_IN": "table", "PATCHED": str(tmp_path)}
        env["WERK_REGISTRY"] = "patched_table:TASKS"
    assert work("default", "--burst", env=env).wait(60) == 0
    assert around.read_text().splitlines() == [
        f"outer {good.id} note 1", "inner 1", "inner ends", "outer 'ran'",
        f"outer {bad.id} fail 1", "inner None", "inner ends", "outer ValueError",
    ]  # fmt: skip
    assert good.result(0) == "ran"
    assert "ValueError: as asked" in reason(ended(bad, "failed"))


def test_middleware_gets_and_replaces_the_result_also_of_an_async_task(
    work: Start, around: Path, tmp_path: Path
) -> None:
    job = werk.enqueue("waits")
    assert work("default", "--burst", env=named("shouts", "outer")).wait(60) == 0
    assert "outer 'ran'" in around.read_text()
    assert finished(job).return_value() == "RAN"


@pytest.mark.parametrize(
    ("names", "problem"),
    [
        (["forgets"], "BrokenMiddleware: around.forgets did not call call_next(); call it once"),
        (["repeats"], "BrokenMiddleware: around.repeats called call_next() a second time"),
        (["repeats_quietly"], "BrokenMiddleware: around.repeats_quietly called call_next() a"),
        (["hides", "forgets"], "BrokenMiddleware: around.forgets did not call call_next();"),
        (["breaks"], "LookupError: no tenant"),
    ],
)
def test_middleware_that_breaks_the_chain_fails_the_job_and_names_itself(
    work: Start, tmp_path: Path, around: Path, names: list[str], problem: str
) -> None:
    job = werk.enqueue("note", str(tmp_path))
    assert work("default", "--burst", env=named(*names)).wait(60) == 0
    assert problem in reason(ended(job, "failed"))


def test_the_time_limit_counts_for_middleware(work: Start, around: Path, tmp_path: Path) -> None:
    job = werk.enqueue("note", str(tmp_path), options=werk.Options(timeout=3))
    env = {**named("outer", "sleeps"), **PATIENT}
    assert work("default", "--burst", env=env).wait(60) == 0
    assert "JobTimeoutException" in reason(ended(job, "failed"))
    assert around.read_text().splitlines()[1:] == ["interrupted", "outer JobTimeoutException"]


def test_a_call_that_another_version_checked_is_deferred_as_without_middleware(
    work: Start, connection: redis.Redis, around: Path, tmp_path: Path
) -> None:
    job = werk.enqueue("note", str(tmp_path))
    data = write_call("worker_tasks.note", (str(tmp_path), "word", "and another"), {})
    connection.hset(f"rq:job:{job.id}", "data", data)
    assert work("default", "--burst", env=named("outer")).wait(60) == 0
    assert places(connection, job.id) == ["scheduled"]
    assert b"another version of the task" in connection.hget(f"rq:job:{job.id}", "werk_deferred")


def test_middleware_knows_which_errors_are_final_and_is_flushed_before_a_horse_exits(
    work: Start, connection: redis.Redis, around: Path, tmp_path: Path
) -> None:
    retried = werk.enqueue("retried", str(tmp_path))
    worker = work(env={"WERK_MIDDLEWARE": "judges.execute"})
    ended(retried, "failed")
    other = werk.enqueue("note", str(tmp_path), options=werk.Options(delay=3600))
    data = write_call("worker_tasks.note", (str(tmp_path), "word", "and another"), {})
    connection.hset(f"rq:job:{other.id}", "data", data)
    connection.zadd("rq:scheduled:default", {other.id: 1})  # due
    wait_until(lambda: connection.hget(f"rq:job:{other.id}", "werk_deferred"))
    worker.terminate()
    assert worker.wait(30) == 0
    assert around.read_text().splitlines() == [
        "ValueError 1 False default 1", "ValueError 2 False default 1",
        "ValueError 3 True default 1", "Unknown 1 False default 3", "flushed 2",
    ]  # fmt: skip
    line = 'event=flush-failed middleware=judges.flush reason="OSError: unreachable"'
    assert line in worker.output()


@pytest.mark.parametrize(
    ("path", "problem"),
    [
        ("no_such_module.f", "cannot import no_such_module.f: ModuleNotFoundError"),
        ("around.no_such_function", "cannot import around.no_such_function: AttributeError"),
        ("around.NOT_A_FUNCTION", "around.NOT_A_FUNCTION is not a function; write def f("),
        ("xml.dom", "xml.dom is a module; name a function in it"),
        ("around.is_async", "around.is_async is an async function; write def"),
    ],
)
def test_a_worker_that_cannot_import_its_middleware_exits(
    work: Start, around: Path, path: str, problem: str
) -> None:
    worker = work("default", env={"WERK_MIDDLEWARE": path})
    assert worker.wait(60) == EXIT_CONFIG
    assert f"WERK_MIDDLEWARE: {problem}" in worker.output()
    assert "Traceback" not in worker.output()


@pytest.mark.parametrize("name", ["WERK_HOOKS_BEFORE", "WERK_HOOKS_AFTER", "WERK_HOOKS_ERROR"])
def test_a_worker_that_finds_the_former_hooks_names_what_to_write(
    redis_url: str, name: str
) -> None:
    done = run("werk", "worker", "--burst", "default", env={name: "shop.hooks.f"})
    assert done.returncode == EXIT_CONFIG
    [line] = done.stderr.splitlines()
    assert f"{name}: workers have no hooks any more; write a middleware" in line
    assert "WERK_MIDDLEWARE" in line


# --- enqueues


@pytest.fixture
def sending(redis_url: str, around: Path, monkeypatch: pytest.MonkeyPatch) -> pytest.MonkeyPatch:
    monkeypatch.setenv("WERK_REGISTRY", "worker_tasks:TASKS")
    return monkeypatch


def through(monkeypatch: pytest.MonkeyPatch, *names: str) -> None:
    monkeypatch.setenv("WERK_ENQUEUE_MIDDLEWARE", ",".join(f"around.{name}" for name in names))


def meta(connection: redis.Redis, handle: werk.Handle) -> object:
    return Job.fetch(handle.id, connection=connection).meta


def test_middleware_writes_the_meta_of_an_enqueue(
    connection: redis.Redis, sending: pytest.MonkeyPatch, around: Path
) -> None:
    through(sending, "records", "signs")
    options = werk.Options(meta={"tenant": 7})
    job = werk.enqueue("note", "a folder", options=options)
    assert meta(connection, job) == {"tenant": 7, "own": "note default"}
    assert around.read_text() == "sent note('a folder') True\n"
    assert options.meta == {"tenant": 7}


def test_each_call_of_a_batch_goes_through_middleware(
    connection: redis.Redis, sending: pytest.MonkeyPatch, around: Path
) -> None:
    through(sending, "records", "signs_some")
    jobs = werk.enqueue_many("note", [(str(number),) for number in range(4)])
    assert [meta(connection, job) for job in jobs] == [{}, {"odd": True}, {}, {}]
    assert around.read_text().count(" later\n") == 4
    jobs = werk.enqueue_many("note", [("1",), ("2",), ("11",)])
    assert [meta(connection, job) for job in jobs] == [{"odd": True}, {}, {"odd": True}]


def test_middleware_sees_a_duplicate_and_cannot_hide_an_error(
    connection: redis.Redis, sending: pytest.MonkeyPatch, nobody: object
) -> None:
    through(sending, "hides")
    with pytest.raises(RedisUnavailable):
        werk.enqueue("note", "a")


@pytest.mark.parametrize("count", [1, 2])
@pytest.mark.parametrize(
    ("name", "error", "text"),
    [
        ("forgets", BrokenMiddleware, "around.forgets did not call call_next()"),
        ("repeats", BrokenMiddleware, "around.repeats called call_next() a second time"),
        ("repeats_quietly", BrokenMiddleware, "around.repeats_quietly called call_next() a"),
        ("breaks", LookupError, "no tenant"),
        ("spoils", ArgumentError, "meta: the value"),
        ("is_async", ConfigError, "around.is_async is an async function"),
        ("missing", ConfigError, "cannot import around.missing"),
    ],
)
def test_what_middleware_of_enqueues_does_wrong_is_said(
    connection: redis.Redis,
    sending: pytest.MonkeyPatch,
    name: str,
    error: type[Exception],
    text: str,
    count: int,
) -> None:
    through(sending, name)
    with pytest.raises(error, match=re.escape(text)):
        werk.enqueue_many("note", [("a",)] * count)
    if not name.startswith("repeats"):  # there the first call had been sent
        assert connection.llen("rq:queue:default") == 0


@pytest.mark.parametrize("words", [["1"], ["a", "1", "b"]], ids=["one", "many"])
@pytest.mark.parametrize(
    ("name", "error"),
    [
        ("refuses", ConnectionRefusedError),
        ("spoils", ArgumentError),
        ("forgets", BrokenMiddleware),
        ("exits", SystemExit),
    ],
)
def test_middleware_cannot_hide_what_kept_a_job_from_being_sent(
    connection: redis.Redis,
    sending: pytest.MonkeyPatch,
    name: str,
    error: type[Exception],
    words: list[str],
) -> None:
    through(sending, "records", "hides", name)
    with pytest.raises(error):
        werk.enqueue_many("note", [(word,) for word in words])
    assert connection.llen("rq:queue:default") == 0


def test_a_batch_ends_with_the_error_that_middleware_hides(
    connection: redis.Redis, sending: pytest.MonkeyPatch
) -> None:
    through(sending, "hides", "refuses")
    done = run("werk-enqueue", "--batch", "-", "note", input='["a"]\n["1"]\n["b"]\n')
    assert (done.returncode, done.stdout, connection.llen("rq:queue:default")) == (1, "", 0)
    [line] = done.stderr.splitlines()
    assert line.startswith(f"werk-enqueue: {REFUSED}; raised by the middleware around.refuses; ")


def test_the_command_line_batches_cron_and_http_use_it_too(
    connection: redis.Redis, sending: pytest.MonkeyPatch, tmp_path: Path, serving: Serving
) -> None:
    through(sending, "signs")
    ids = [run("werk-enqueue", "note", "a").stdout.strip()]
    batch = run("werk-enqueue", "--batch", "-", "--json", "note", input='["b"]\n["c"]\n')
    ids += [json.loads(line)["id"] for line in batch.stdout.splitlines()]
    crontab = tmp_path / "crontab"
    crontab.write_text("TZ=UTC\n0 * * * * note d\n")
    light = link(Settings.read())
    Cron(read(str(crontab), light), light, 300, 1).fire(3601)
    light.close()
    ids += set(connection.lrange("rq:queue:default", 0, -1)) - {own.encode() for own in ids}
    _, address = serving()
    ask = Request(
        f"{address}/api/tasks/note", b'{"args": ["e"]}', {"Content-Type": "application/json"}
    )
    with urlopen(ask) as answer:
        ids.append(json.load(answer)["id"])
    assert len(ids) == 5
    for each in ids:
        assert Job.fetch(text(each), connection=connection).meta == {"own": "note default"}


REFUSED = "ConnectionRefusedError: [Errno 111] Connection refused"


@pytest.mark.parametrize(
    ("names", "text", "count"),
    [
        (["breaks"], "LookupError: no tenant; raised by the middleware around.breaks", 0),
        (["signs", "refuses"], f"{REFUSED}; raised by the middleware around.refuses", 0),
        (["loses", "signs"], f"{REFUSED}; raised by the middleware around.loses", 1),
        (["repeats"], "around.repeats called call_next() a second time; call it once", 1),
    ],
)
def test_a_command_names_the_middleware_that_raised_and_the_job_that_it_has_enqueued(
    connection: redis.Redis, sending: pytest.MonkeyPatch, names: list[str], text: str, count: int
) -> None:
    through(sending, *names)
    for batch in ([], ["--batch", "-"]):
        words = [*batch, "note", *([] if batch else ["1"])]
        done = run("werk-enqueue", *words, input='["1"]\n')
        ids = [job_id.decode() for job_id in connection.lrange("rq:queue:default", 0, -1)]
        none = (
            "lines up to 0 are done; the next are not enqueued" if batch else "nothing was enqueued"
        )
        state = f"job {ids[0]} is enqueued" if count else none
        if names == ["repeats"]:
            assert len(ids) == 1
        else:
            assert len(ids) == count
        assert done.returncode == 1
        assert len(done.stderr.splitlines()) == 1, done.stderr
        assert done.stderr.startswith(f"werk-enqueue: {text}; {state}")
        connection.flushdb()


def test_a_batch_that_middleware_ends_reports_how_far_it_came(
    connection: redis.Redis, sending: pytest.MonkeyPatch
) -> None:
    through(sending, "refuses")
    done = run("werk-enqueue", "--batch", "-", "note", input='["a"]\n' * 250 + '["1"]\n["2"]\n')
    assert (done.returncode, connection.llen("rq:queue:default")) == (1, 250)
    assert done.stderr.splitlines()[-1] == (
        f"werk-enqueue: {REFUSED}; raised by the middleware around.refuses; none of the 2 jobs "
        "that are sent together was enqueued; lines up to 250 are done; some of the next 250 may "
        "have been enqueued"
    )


def test_cron_enqueues_the_other_lines_if_middleware_raises(
    connection: redis.Redis, sending: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    """Its error is the trouble of one line, however it is raised."""
    through(sending, "refuses")
    crontab = tmp_path / "crontab"
    crontab.write_text("TZ=UTC\n* * * * * note 1\n* * * * * note b\n")
    light = link(Settings.read())
    cron = Cron(read(str(crontab), light), light, 300, 1)
    with pytest.raises(WerkError, match=r"middleware around\.refuses; nothing was"):
        cron.fire(61)
    sending.setattr("werk.client.enqueue.send", lambda *_: 1 / 0)
    with pytest.raises(WerkError, match=r"^ZeroDivisionError: division by zero$"):
        cron.fire(121)
    light.close()
    assert connection.llen("rq:queue:default") == 1


def test_a_traceback_names_the_middleware(
    connection: redis.Redis, sending: pytest.MonkeyPatch
) -> None:
    through(sending, "loses")
    with pytest.raises(ConnectionRefusedError) as caught:
        werk.enqueue("note", "1")
    [job_id] = connection.lrange("rq:queue:default", 0, -1)
    said = f"raised by the middleware around.loses; job {job_id.decode()} is enqueued"
    assert caught.value.__notes__ == [said]


@pytest.mark.parametrize("name", ERRORS)
def test_an_odd_error_of_middleware_reaches_its_caller(
    connection: redis.Redis, sending: pytest.MonkeyPatch, tmp_path: Path, name: str
) -> None:
    sending.setenv("WERK_ENQUEUE_MIDDLEWARE", "odd_tasks.raise_asked")
    sending.setenv("ODD", name)
    with pytest.raises(ERRORS[name]) as caught:
        werk.enqueue("note", "1")
    said = "raised by the middleware odd_tasks.raise_asked; nothing was enqueued"
    assert getattr(caught.value, "__notes__", [said]) == [said]
    assert hasattr(caught.value, "__notes__") == (name != "frozen")
    crontab = tmp_path / "crontab"
    crontab.write_text("TZ=UTC\n* * * * * note 1\n")
    with closing(link(Settings.read())) as light:
        cron = Cron(read(str(crontab), light), light, 300, 1)
        with pytest.raises(WerkError, match=f"{name.capitalize()}: as asked"):
            cron.fire(61)
    assert not connection.exists("rq:queue:default")


# --- werk.testing


def test_recorded_jobs_go_through_both(
    monkeypatch: pytest.MonkeyPatch, around: Path, tmp_path: Path
) -> None:
    monkeypatch.setenv("WERK_REGISTRY", "worker_tasks:TASKS")
    through(monkeypatch, "signs")
    monkeypatch.setenv("WERK_MIDDLEWARE", "around.outer,around.inner")
    with recorded() as jobs:
        handle = werk.enqueue("note", str(tmp_path))
        jobs.run()
        assert handle.result(0) == "ran"
    assert around.read_text().splitlines() == [
        f"outer {handle.id} note 1", "inner note default", "inner ends", "outer 'ran'"
    ]  # fmt: skip


# --- what they hold back


def event_count(around: Path, event: str) -> int:
    return around.read_text().count(event) if around.exists() else 0


@pytest.mark.parametrize("how", ["returns", "fails", "hangs"])
def test_middleware_is_flushed_once_before_each_horse_ends(
    work: Start, around: Path, tmp_path: Path, how: str
) -> None:
    for _ in range(3):
        werk.enqueue("note", str(tmp_path))
    env = {"WERK_MIDDLEWARE": "flushing.execute,flushing.also", "FLUSH": how}
    worker = work("default", "--burst", env={**env, "WERK_HORSE_JOBS": "2"})
    assert worker.wait(60) == 0
    horses = [line.removeprefix("flush ") for line in around.read_text().splitlines()]
    assert len(horses) == len(set(horses)) == 2
    assert "event=kill" not in worker.output()
    lost = {"returns": 0, "fails": 2, "hangs": 2}[how]
    assert worker.output().count("event=flush-failed middleware=flushing.flush reason=") == lost


@pytest.mark.parametrize("option", [("--burst",), ("--max-idle-time", "1")], ids=["burst", "idle"])
@pytest.mark.parametrize("how", ["crashes", "ignores its time limit"])
def test_a_worker_ends_when_it_should_although_the_flush_kills_its_horse(
    work: Start, around: Path, tmp_path: Path, how: str, option: tuple[str, ...]
) -> None:
    job = werk.enqueue("note", str(tmp_path))
    env = {"WERK_MIDDLEWARE": "flushing.execute", "FLUSH": how}
    worker = work("default", *option, env=env)
    wait_until(lambda: worker.poll() is not None or event_count(around, "flush") > 1)
    assert worker.poll() == 0
    assert finished(job)


def test_a_worker_that_drains_waits_for_the_flush_of_a_long_job(
    work: Start, around: Path, tmp_path: Path
) -> None:
    """The supervisor ends an idle horse that does not leave: it counts from the end of the job."""
    job = werk.enqueue("block", str(tmp_path))
    env = {"WERK_MIDDLEWARE": "flushing.execute", "FLUSH": "takes a second"}
    worker = work("default", env=env)
    begun(tmp_path)
    worker.terminate()
    asked = time.monotonic()
    wait_until(lambda: time.monotonic() > asked + 2 * Worker.grace_s)
    go(tmp_path)
    assert worker.wait(60) == 0
    assert finished(job)
    assert [line.split()[0] for line in around.read_text().splitlines()] == ["flush", "flushed"]
