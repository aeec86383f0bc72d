"""The log of a worker: what its lines look like, whatever is logged, and what is in no record."""

from __future__ import annotations

import io
import json
import logging
import re
import time
from pathlib import Path

import log_tasks
import pytest
import redis
from any_values import FIELDS
from hypothesis import HealthCheck, Phase, given, settings
from hypothesis import strategies as st
from rq.command import PUBSUB_CHANNEL_TEMPLATE
from support import KIT, Process, is_safe, wait_until
from workers import ENV, Start, ended, finished, horse, reason, runs

import werk
from werk.store import payload
from werk.worker.log_lines import make_safe

PIN = "pin-8472-of-ada"

# What begins a line: date, time, zone, level and logger; or a line that goes on.
TIME = r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d\.\d{3}[+-]\d\d:\d\d"
LINE = re.compile(rf"{TIME} (DEBUG|INFO|WARNING|ERROR) [\w.]+ \S| {{4}}")
OTHER = re.compile(r"12:00:00 | {4}")  # a format of an application
HOSTILE = [
    "x\nevent=forged job=x", "x\r\n12:00:00 event=forged job=x", "x\x1b[2J\x1b]0;t\x07",
    "x\x9b2J", "x\u202e\u2066", "x\u2028event=forged", "x\u2029event=forged", "x\x85event=forged",
    "\x00\x0b\x0c",
    "\udc80\ud800", "\t\t", "\n%s", "%s %d %(name)s", "\ufeff\u200b", "{0}", "a\\nb",
]  # fmt: skip
TEXTS = st.one_of(
    st.sampled_from(HOSTILE), st.text(st.characters(codec=None), max_size=20),
    st.binary(max_size=20).map(lambda data: data.decode("utf-8", "surrogateescape")),
    st.tuples(st.text(max_size=5), st.sampled_from(HOSTILE)).map("".join),
)  # fmt: skip

# With real processes: few examples, and no search for a smaller one.
REAL = settings(
    max_examples=3, suppress_health_check=list(HealthCheck), phases=[Phase.explicit, Phase.generate]
)


def raw(text: str) -> bytes:
    return text.encode("utf-8", "surrogatepass")


@pytest.fixture
def start(spawn: Start, connection: redis.Redis, monkeypatch: pytest.MonkeyPatch) -> Start:
    """Start a worker that serves the tasks of log_tasks: start("--verbose")."""
    monkeypatch.setenv("WERK_REGISTRY", "log_tasks:TASKS")
    monkeypatch.syspath_prepend(KIT)

    def run(*options: str, env: dict[str, str] | None = None) -> Process:
        env = {**ENV, "WERK_REGISTRY": "log_tasks:TASKS", **(env or {})}
        return spawn("rq", "worker", "default", *options, env=env)

    return run


def check_lines(output: str, begin: re.Pattern[str] = LINE) -> None:
    """Each line begins as one of a log does, or is indented; and nothing steers a terminal."""
    for line in output.split("\n")[:-1]:
        assert begin.match(line), line
        assert is_safe(line), line
    assert output.endswith("\n")


# --- names that a task gives to what it logs


def test_a_task_may_log_with_any_name(start: Start, tmp_path: Path) -> None:
    assert len(log_tasks.NAMES) > 300
    job, failing = werk.enqueue("all_names", str(tmp_path)), werk.enqueue("name_in_finally", "x")
    worker = start("--burst")
    assert worker.wait(60) == 0
    assert finished(job).return_value() == len(log_tasks.NAMES)
    assert reason(ended(failing, "failed")).strip().endswith("ValueError: the real error")
    output = worker.output()
    check_lines(output)
    for name in log_tasks.NAMES:
        assert f" WARNING shop job={job.id} task=all_names a line with {name}\n" in output
    assert f"job={failing.id} task=name_in_finally on the way out\n" in output


# --- secrets


@pytest.mark.parametrize("loop", ["fast_worker", "rq_loop"])
def test_no_record_of_a_log_has_the_value_of_a_secret_parameter(
    start: Start, connection: redis.Redis, tmp_path: Path, loop: str
) -> None:
    file, folder = tmp_path / "records", str(tmp_path)
    outcomes = ["pay_and_fail", "pay_again", "pay_and_crash"]
    outcomes += ["pay_for_ever"] * (loop == "fast_worker")  # RQ waits for a minute
    jobs = [werk.enqueue(name, PIN, folder) for name in outcomes]
    jobs.append(werk.enqueue("pay_and_fail", folder=folder, pin=PIN))
    jobs.append(werk.enqueue("pay_with", folder, PIN, "more", pin=PIN))
    by_rq = werk.enqueue("pay_and_fail", PIN, folder)
    connection.hdel(f"rq:job:{by_rq.id}", "werk_task", "werk_v", "description")
    connection.hset(f"rq:job:{by_rq.id}", "description", f"log_tasks.pay_and_fail({PIN!r})")
    refused = werk.enqueue("pay_and_fail", PIN, folder)
    connection.hset(f"rq:job:{refused.id}", "success_callback_name", "os.system")
    other = werk.enqueue("pay_and_fail", PIN, folder)  # of another version of the task
    data = payload.write_call("log_tasks.pay_and_fail", (PIN, folder, PIN), {})
    connection.hset(f"rq:job:{other.id}", "data", data)
    good = werk.enqueue("note", folder)
    worker = start("--verbose", env={"LOGGED": str(file), "RQ_WORKER_CLASS": f"{loop}.Worker"})
    for job in [*jobs, by_rq, refused]:
        ended(job, "failed")
    finished(good)
    worker.terminate()
    assert worker.wait(60) == 0
    check_lines(worker.output())
    records = log_tasks.records(str(file))
    for job in [*jobs[:2], *jobs[-2:], by_rq]:
        record = next(own for own in records if own.get("job_id") == repr(job.id))
        shown = record["arguments"] + record["kwargs"]
        assert "'***'" in shown
        assert repr(folder) in shown
    assert PIN not in file.read_text()
    assert PIN not in worker.output()


# --- what is logged


def texts(count: int) -> st.SearchStrategy[list[str]]:
    return st.lists(TEXTS, min_size=count, max_size=count)


@pytest.mark.parametrize("options", [(), ("--verbose",)])
@REAL
@given(values=texts(2 * len(FIELDS)), ids=texts(20))
def test_any_text_in_a_record_makes_no_line_of_its_own(
    start: Start, connection: redis.Redis, tmp_path: Path, options: tuple[str, ...],
    values: list[str], ids: list[str],
) -> None:  # fmt: skip
    connection.flushall()
    (tmp_path / "runs").unlink(missing_ok=True)
    folder = str(tmp_path)
    good = []
    for number, value in enumerate(values):
        job = werk.enqueue(*[("note", folder), ("raise_with", folder, "x")][number % 2])
        connection.hset(f"rq:job:{job.id}", FIELDS[number % len(FIELDS)], raw(value))
        good.append(werk.enqueue("note", folder, "good"))
    for text in ids:
        connection.rpush("rq:queue:default", raw(text))
        connection.zadd("rq:wip:default", {raw(text) + b":x": time.time() + 1000})
    connection.rpush("rq:queue:default", good[0].id)
    good.append(werk.enqueue("note", folder, "good"))
    worker = start("--burst", *options)
    assert worker.wait(120) == 0
    assert len(runs(tmp_path, "good")) == len(good)
    output = worker.output()
    check_lines(output)
    assert output.count("event=done") >= len(good)


@REAL
@given(values=texts(20))
def test_any_text_in_a_command_makes_no_line_of_its_own(
    start: Start, connection: redis.Redis, tmp_path: Path, values: list[str]
) -> None:
    connection.flushall()
    worker = start("--name", "told", "--verbose")
    channel = PUBSUB_CHANNEL_TEMPLATE % "told"
    wait_until(lambda: horse(worker))
    for text in values:
        for message in (
            raw(text), json.dumps(text), json.dumps({text: text}), json.dumps({"command": text}),
            json.dumps({"command": "stop-job", "job_id": text}),
            json.dumps({"command": "stop-execution", "job_id": text, "execution_id": text}),
        ):  # fmt: skip
            connection.publish(channel, message)
    finished(werk.enqueue("note", str(tmp_path)))
    connection.publish(channel, json.dumps({"command": "stop-job", "job_id": "the last"}))
    wait_until(lambda: "job the last, command ignored" in worker.output())
    worker.terminate()
    assert worker.wait(60) == 0
    check_lines(worker.output())
    assert worker.output().count("event=bad-command") >= len(values)


def test_lines_of_a_traceback_are_kept_and_a_forged_one_is_indented(
    start: Start, tmp_path: Path
) -> None:
    text = "a\n12:00:00 event=forged\x1b[2J\r\u2028\u202e\ttab"
    said = werk.enqueue("say", str(tmp_path), text)
    raised = werk.enqueue("raise_with", str(tmp_path), text)
    worker = start("--burst")
    assert worker.wait(60) == 0
    finished(said)
    ended(raised, "failed")
    output = worker.output()
    check_lines(output)
    shown = r"    12:00:00 event=forged\x1b[2J\r\u2028\u202e\ttab"
    assert output.count("    Traceback (most recent call last):\n") == 2
    assert output.count(f"    ValueError: a\n{shown}\n") == 2
    assert f" shop job={said.id} task=say a line of a\n{shown}\n" in output
    assert f" shop job={said.id} task=say a\n{shown}\n" in output
    assert "\n    Stack (most recent call last):\n" in output


def test_an_applications_own_handlers_show_its_colours_and_no_others(
    start: Start, tmp_path: Path
) -> None:
    (tmp_path / "shop_settings.py").write_text(
        "import logging\n"
        'FORMAT = "\\x1b[31m%(levelname)s\\x1b[0m %(name)s %(message)s"\n'
        'logging.basicConfig(format=FORMAT, level="INFO")\n'
        f'logging.root.addHandler(logging.FileHandler("{tmp_path}/own.log"))\n'
    )
    werk.enqueue("say", str(tmp_path), HOSTILE[0] + HOSTILE[2])
    env = {"PYTHONPATH": f"{KIT}:{tmp_path}"}
    worker = start("--burst", "-c", "shop_settings", env=env)
    assert worker.wait(60) == 0
    output, own = worker.output(), (tmp_path / "own.log").read_text()
    for line in output.splitlines():
        assert re.match("(\x1b\\[31m[A-Z]+\x1b\\[0m [a-z.]+ |    )", line), line
        assert "\x1b" not in line[20:]
    for text in (output, own):
        assert "\nevent=forged" not in text
        assert "event=done" in text
    assert "\x1b" not in own


def test_handlers_that_a_tasks_module_sets_up_are_made_safe(start: Start, tmp_path: Path) -> None:
    finished_in = [werk.enqueue("say_late", str(tmp_path), HOSTILE[0]) for _ in range(2)]
    worker = start("--burst")
    assert worker.wait(60) == 0
    assert [job.status() for job in finished_in] == ["finished"] * 2
    output = worker.output()
    check_lines(output, re.compile(f"{LINE.pattern}|{OTHER.pattern}"))
    assert output.count("12:00:00 late shop a line of x\n    event=forged job=x\n") == 2


@given(text=TEXTS, name=st.sampled_from(["shop", "rq.queue", "rq.worker", "werk.cron"]))
def test_any_text_in_any_part_of_a_record(text: str, name: str) -> None:
    stream, log = io.StringIO(), logging.Logger(name)
    handler = logging.StreamHandler(stream)
    handler.setFormatter(logging.Formatter("12:00:00 %(name)s %(customer)s %(message)s"))
    log.addHandler(handler)
    make_safe([handler])
    extra = {"extra": {"customer": text}}
    log.warning("a=%s b=%r c=%d", text, text, 3, **extra)
    log.warning("%(a)s", {"a": text}, **extra)
    log.warning(text.replace("%", "%%"), **extra)
    log.warning("in two lines\n%s", text, **extra)
    log.warning(text, **extra)
    try:
        raise ValueError(text)
    except ValueError:
        log.exception("caught", stack_info=True, **extra)
    output = stream.getvalue()
    check_lines(output, OTHER)
    if name.startswith(("rq", "werk")):  # a line is a record of theirs, but for a traceback
        assert len(re.findall("^12:00:00 ", output, re.MULTILINE)) == 6
    for word in ("a=", "in two lines\n    ", "caught\n    Traceback", "\n    Stack (most"):
        assert word in output


def test_what_a_handler_is_given_stays_as_it_was() -> None:
    """Sentry and others see the same record after it."""
    record = logging.makeLogRecord({"msg": "a %s", "args": ("x\n\x1b",), "name": "rq.worker"})
    before = dict(vars(record))
    handler = logging.StreamHandler(io.StringIO())
    make_safe([handler])
    make_safe([handler])  # as in the horse
    assert handler.format(record) == r"a x\n\x1b"
    assert vars(record) == before


def test_a_formatter_of_its_own_kind_of_records_gets_them_as_they_are() -> None:
    """structlog, for one, has a dict for a message."""

    class Formatter(logging.Formatter):
        def format(self, record: logging.LogRecord) -> str:
            return json.dumps(record.msg)

    record = logging.makeLogRecord({"msg": {"event": "x\n"}, "customer": "y"})
    handler = logging.StreamHandler(io.StringIO())
    handler.setFormatter(Formatter())
    make_safe([handler])
    assert handler.format(record) == '{"event": "x\\n"}'


# --- scheduled entries


def entries(connection: redis.Redis, folder: str, texts: list[str]) -> list[bytes]:
    """Put entries that are no job's among the due ones. Return their ids."""
    bad = [b"gone", b"no-hash", b"no-list", *map(raw, texts)]
    connection.set("rq:job:no-hash", "x")
    connection.rpush("rq:job:no-list", "x")
    for number, own in enumerate(bad):
        connection.zadd("rq:scheduled:default", {own: (1, -1e300, "-inf", 0.5)[number % 4]})
        job = werk.enqueue("note", folder, "good", options=werk.Options(delay=1000))
        connection.zadd("rq:scheduled:default", {job.id: number % 3})
    return bad


@REAL
@given(ids=st.lists(TEXTS.filter(len), min_size=20, max_size=20, unique=True))
def test_a_bad_scheduled_entry_is_dropped_with_one_line(
    start: Start, connection: redis.Redis, tmp_path: Path, ids: list[str]
) -> None:
    connection.flushall()
    (tmp_path / "runs").unlink(missing_ok=True)
    bad = entries(connection, str(tmp_path), ids)
    worker = start("--with-scheduler", "--burst")
    assert worker.wait(60) == 0
    output = worker.output()
    check_lines(output)
    assert output.count("event=dropped") == len(bad)
    assert output.count('event=dropped job=gone place=scheduled reason="there') == 1
    assert not connection.exists("rq:scheduled:default")
    assert len(runs(tmp_path, "good")) == len(bad)


@pytest.mark.parametrize("place", ["scheduled", "ready"])
def test_a_due_job_whose_rate_limit_rq_cannot_read_is_logged_once(
    start: Start, connection: redis.Redis, tmp_path: Path, place: str
) -> None:
    """It waits for its slot as others do, and fails with the reason when it runs."""
    options = werk.Options(delay=1000)
    bad = [werk.enqueue("note", str(tmp_path), options=options) for _ in range(4)]
    limit = {"rate_limit_key": "a\nb", "rate_limit_concurrency": 9}
    fields = [{"created_at": "x"}, {"retries_left": "x"}, {"rate_limit_concurrency": "9.5"}, {}]
    for job, field in zip(bad, fields, strict=True):
        connection.hset(f"rq:job:{job.id}", mapping={**limit, **field})
        connection.zrem("rq:scheduled:default", job.id)
        connection.zadd(f"rq:{place}:default", {job.id: 1})
        if place == "ready":
            connection.hset(f"rq:job:{job.id}", "status", "ready_to_enqueue")
    worker = start("--with-scheduler")
    finished(bad[-1])
    wait_until(lambda: not connection.exists(f"rq:{place}:default"))
    good = werk.enqueue("note", str(tmp_path), "good")
    finished(good)
    worker.terminate()
    assert worker.wait(60) == 0
    output = worker.output()
    check_lines(output)
    assert "not-enqueued" not in output
    assert "Failed to enqueue" not in output
