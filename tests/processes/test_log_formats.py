"""The formats of a worker's log: text, JSON, and those of an application."""

from __future__ import annotations

import json
import logging
import re
import socket
from pathlib import Path
from typing import Any

import pytest
import redis
from doc_pages import OBSERVABILITY, section
from support import KIT, PYTHONPATH, Process, run, wait_until
from test_logs import LINE, TIME, check_lines
from workers import ENV, Start, finished

import werk
from werk.log_format import Event, shown

TEXT = "Ada\n\x1b[2J\u2028event=forged"


@pytest.fixture
def start(spawn: Start, connection: redis.Redis, monkeypatch: pytest.MonkeyPatch) -> Start:
    monkeypatch.setenv("WERK_REGISTRY", "noisy_tasks:TASKS")
    monkeypatch.syspath_prepend(KIT)

    def begin(*options: str, env: dict[str, str] | None = None) -> Process:
        own = {**ENV, "WERK_REGISTRY": "noisy_tasks:TASKS", **(env or {})}
        return spawn(*(options or ("werk", "worker", "--burst")), env=own)

    return begin


def objects(output: str) -> list[dict[str, Any]]:
    """Return a log in JSON. Each line has to be an object."""
    found = [json.loads(line, parse_constant=pytest.fail) for line in output.splitlines()]
    assert output.isascii()
    for own in found:
        assert re.fullmatch(TIME, own["timestamp"]), own
        assert {"level", "logger", "message"} <= own.keys()
    return found


# --- text


@pytest.mark.parametrize(
    "words",
    [
        ("werk", "worker", "--burst"),
        ("werk", "worker", "--burst", "--verbose"),
        ("rq", "worker", "--burst", "-w", "werk.worker.Worker"),
    ],
)
def test_every_line_has_date_zone_level_and_logger(start: Start, words: tuple[str, ...]) -> None:
    jobs = [werk.enqueue("make_noise", TEXT), werk.enqueue("fail", TEXT)]
    worker = start(*words, env={"NOISY": "nothing"})
    assert worker.wait(60) == 0
    finished(jobs[0])
    output = worker.output()
    check_lines(output)
    about = f"job={jobs[0].id} task=make_noise"
    for text in ("INFO shop {} an info line\n", "WARNING library {} a library's line\n",
                 "INFO rq.worker event=started {} queue=default attempt=1\n",
                 "WARNING root {} by the root logger\n",
                 "INFO shop {} with an extra\n", "WARNING py.warnings {} "):  # fmt: skip
        assert output.count(f" {text.format(about)}") == 1, text
    assert re.search(f"^{TIME} WARNING shop a line at import$", output, re.MULTILINE)
    assert "for nobody" not in output or "--verbose" in words


def test_options_of_rq_choose_another_format(start: Start) -> None:
    job = werk.enqueue("make_noise", "Ada")
    log_format = "%(levelname)s/%(job)s/%(attempt)s/%(message)s"
    worker = start("werk", "worker", "--burst", "--log-format", log_format)
    assert worker.wait(60) == 0
    output = worker.output()
    assert f"INFO/{job.id}/1/an info line\n" in output
    assert "INFO/-/-/event=begins" in output
    worker = start("werk", "worker", "--burst", "--date-format", "%H:%M", "--quiet")
    werk.enqueue("make_noise", "Ada")
    assert worker.wait(60) == 0
    assert not LINE.match(worker.output())


def test_a_format_that_logging_refuses_is_one_line(connection: redis.Redis) -> None:
    done = run("werk", "worker", "--burst", "--log-format", "jsno")
    assert (done.returncode, done.stdout) == (2, "")
    [line] = done.stderr.splitlines()
    assert line.startswith("werk: --log-format: use json, or a format of Python's logging")
    assert line.endswith("got 'jsno'")


# --- JSON


def test_every_line_in_json_parses(start: Start) -> None:
    names = ["make_noise", "print_much", "fail", "fail_hard"]
    jobs = {name: werk.enqueue(name, TEXT) for name in names}
    env = {"BAD_CALL": "yes"}
    worker = start("werk", "worker", "--burst", "--verbose", "--log-format", "json", env=env)
    assert worker.wait(60) == 0
    finished(jobs["make_noise"])
    assert [jobs[name].status() for name in ("fail", "fail_hard")] == ["failed", "failed"]
    found = objects(worker.output())

    def one(**facts: Any) -> dict[str, Any]:
        [own] = [own for own in found if facts.items() <= own.items()]
        return own

    about = {"job": jobs["make_noise"].id, "task": "make_noise", "queue": "default", "attempt": 1}
    assert about.items() <= one(logger="shop", message="an info line").items()
    assert about.items() <= one(logger="library").items()
    assert about.items() <= one(logger="root").items()
    assert about.items() <= one(event="started", job=about["job"]).items()
    extra = one(message="with an extra")
    assert about.items() <= extra.items()
    assert [extra[f"extra_{name}"] for name in ("job", "task", "queue", "attempt")] == [1, 2, 3, 4]
    assert extra["pages"] == 5
    assert one(message="an odd one")["odd"] == "<Odd: ValueError>"
    assert one(message="an odd one")["event"] == "mine"
    caught = one(message="an exception")
    assert caught["level"] == "ERROR"
    assert caught["exc_info"].endswith(f"ValueError: caught {TEXT}")
    assert TEXT in one(logger="py.warnings")["message"]
    assert one(a="dict")["of"] == TEXT
    assert any("logger" in own and "Logging error" in own["message"] for own in found)
    assert one(logger="stdout", message="printed Ada")["task"] == "print_much"
    one(logger="stdout", message="and a part of a line")
    one(logger="stderr", message="on stderr")
    assert type(one(event="failed", task="fail")["elapsed"]) is float
    assert "make_noise" in one(event="begins")["tasks"]
    failure = [own for own in found if "exception raised" in own["message"]]
    assert {own["job"] for own in failure} == {jobs["fail"].id, jobs["fail_hard"].id}
    assert all("arguments" not in own and "kwargs" not in own for own in found)  # RQ's extra
    assert any(own["message"] == "a line at import" for own in found)


def test_the_example_in_the_documentation(
    spawn: Start, connection: redis.Redis, tmp_path: Path
) -> None:
    text = section(OBSERVABILITY, "JSON logs")
    [code] = re.findall(r"^```python\n(.*?)^```", text, re.DOTALL | re.MULTILINE)
    [shown] = re.findall(r"^```json\n(.*?)^```", text, re.DOTALL | re.MULTILINE)
    (tmp_path / "shop").mkdir()
    (tmp_path / "shop" / "tasks.py").write_text(code)
    assert "$ export WERK_REGISTRY=shop.tasks:TASKS\n" in text
    env = {"WERK_REGISTRY": "shop.tasks:TASKS", "PYTHONPATH": str(tmp_path)}
    job_id = run("werk-enqueue", "report", "Ada", env=env).stdout.strip()
    [words] = re.findall(r"^\$ werk (worker .*)$", text, re.MULTILINE)
    worker = spawn("werk", *words.split(), "--burst", env=env)
    assert worker.wait(60) == 0
    found = [own for own in objects(worker.output()) if own.get("job") == job_id]
    expected = [json.loads(line) for line in shown.splitlines()]
    assert [[*own] for own in found] == [[*own] for own in expected]
    for own, other in zip(found, expected, strict=True):
        for name in {*own} - {"timestamp", "job", "elapsed", "message"}:
            assert own[name] == other[name]


def test_json_without_its_package_is_one_line(connection: redis.Redis, tmp_path: Path) -> None:
    (tmp_path / "pythonjsonlogger.py").write_text(
        'raise ModuleNotFoundError("no", name="pythonjsonlogger.json")'
    )
    env = {"PYTHONPATH": f"{tmp_path}"}
    done = run("werk", "worker", "--burst", "--log-format", "json", env=env)
    assert (done.returncode, done.stdout) == (78, "")
    [line] = done.stderr.splitlines()
    assert line.startswith("werk: pythonjsonlogger is not installed; pip install ")
    assert "python-json-logger" in line


# --- an application's own configuration


@pytest.mark.parametrize("how", ["basicConfig", "dictConfig"])
@pytest.mark.parametrize("place", ["table", "preload", "-c"])
@pytest.mark.parametrize("words", [(), ("--log-format", "json")])
def test_an_applications_configuration_wins(
    start: Start, tmp_path: Path, how: str, place: str, words: tuple[str, ...]
) -> None:
    env = {"NOISY": how}
    if place != "table":  # then the module of the table imports nothing
        (tmp_path / "shop_table.py").write_text("TASKS = {'make_noise': 'noisy_tasks.make_noise'}")
        env |= {"WERK_REGISTRY": "shop_table:TASKS", "PYTHONPATH": f"{PYTHONPATH}:{tmp_path}"}
    if place == "preload":
        env["WERK_PRELOAD"] = "noisy_tasks"
    words += ("-c", "noisy_tasks") * (place == "-c")
    job = werk.enqueue("make_noise", "Ada")
    worker = start("werk", "worker", "--burst", *words, env=env)
    assert worker.wait(60) == 0
    finished(job)
    output = worker.output()
    for text in (
        "a warning of Ada",
        "a library's line",
        "by the root logger",
        "a line at import",
        "event=started",
    ):
        assert output.count(text) == 1, text
    assert "shop|WARNING|shop|a warning of Ada\n" in output
    assert f"shop|INFO|rq.worker|event=started job={job.id}" in output
    assert output.count("an info line") == (how == "dictConfig")  # its level, too
    assert output.count("event=other-log-format") == bool(words and "json" in words)
    is_first_of_shop = output.startswith("shop|")
    assert is_first_of_shop == (place != "preload")  # a horse imports that


def test_a_task_may_configure_logging(start: Start) -> None:
    job = werk.enqueue("make_noise", "Ada")
    worker = start("werk", "worker", "--burst", env={"NOISY": "late"})
    assert worker.wait(60) == 0
    finished(job)
    output = worker.output()
    assert output.count("shop|WARNING|shop|a warning of Ada\n") == 1
    assert output.count("a warning of Ada") == 1


def test_a_handler_of_one_logger_prints_its_lines_once(start: Start) -> None:
    finished_one = werk.enqueue("make_noise", "Ada")
    worker = start("werk", "worker", "--burst", env={"NOISY": "own logger"})
    assert worker.wait(60) == 0
    finished(finished_one)
    output = worker.output()
    assert (
        output.count("a warning of Ada") == output.count("shop|WARNING|shop|a warning of Ada") == 1
    )
    assert re.search(f"^{TIME} WARNING library ", output, re.MULTILINE)


# --- other commands


@pytest.mark.parametrize("command", ["cron", "dashboard"])
def test_other_commands_log_in_the_same_format(
    spawn: Start, connection: redis.Redis, tmp_path: Path, command: str
) -> None:
    (tmp_path / "crontab").write_text("0 0 1 1 * hello Ada\n")
    with socket.create_server(("127.0.0.1", 0)) as server:
        port = str(server.getsockname()[1])
    words = {"cron": (str(tmp_path / "crontab"),), "dashboard": ("--port", port)}[command]
    process = spawn("werk", command, *words)
    wait_until(lambda: "event=" in process.output())
    process.terminate()
    process.wait(60)
    check_lines(process.output())


# --- one record


@pytest.mark.parametrize(
    ("value", "text"),
    [("a", "a"), ("", '""'), ("a b", '"a b"'), ('a"b', r'"a\"b"'), ("a=b", '"a=b"'), (3, "3"),
     ("a\nb", r"a\nb"), (None, "None")],
)  # fmt: skip
def test_a_value_is_one_word_or_in_quotes(value: object, text: str) -> None:
    assert shown(value) == text
    assert str(Event("x", k=value)) == f"event=x k={text}"


def test_an_event_is_a_message_like_others(caplog: pytest.LogCaptureFixture) -> None:
    logging.getLogger("shop").warning(Event("kill", worker="w", reason="stuck"))
    assert caplog.messages == ["event=kill worker=w reason=stuck"]
