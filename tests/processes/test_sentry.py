"""werk.contrib.sentry: one transaction per execution, one event per final failure, no secret."""

from __future__ import annotations

import gzip
import json
import re
import threading
import time
from collections import Counter
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import pytest
import redis
from doc_pages import OBSERVABILITY, section
from rq import Callback, Queue
from rq.job import Job
from support import PYTHONPATH, run, wait_until
from test_patched_workers import leave, lines, patches
from workers import Start, ended, finished, reason

import werk

PIN, NUMBER, NAME = 's3cret "it\'s"\\ü', 4111_1111_1111_1111, "Ada Lovelace"
CARD = {"number": NUMBER, "owner": [NAME]}
AROUND = {"WERK_MIDDLEWARE": "werk.contrib.sentry.execute"}
PLACES = [
    ("sentry", "table"), ("sentry", "task"), ("sentry", "settings"),
    ("alone", "table"), ("alone", "task"), ("alone", "settings"),
]  # fmt: skip
OTHERS = ["sentry+wrapt", "sentry+job", "alone+wrapt", "alone+job"]


def settings(place: str) -> tuple[str, ...]:
    return ("-c", "patched_settings") if place == "settings" else ()


def sent(folder: Path, name: str) -> list[dict[str, Any]]:
    return [json.loads(line) for line in lines(folder, name)]


def names_job(event: dict[str, Any], job: werk.Handle, task: str, attempt: int = 1) -> bool:
    """Return whether an event or a transaction has all that leads to its job."""
    facts = {"task": task, "job_id": job.id, "queue": "default", "attempt": attempt}
    tags = {name: str(event["tags"].get(name)) for name in facts}
    own = {name: event["contexts"]["werk"].get(name) for name in facts}
    is_named = event["transaction"] == task
    return is_named and own == facts and tags == {name: str(facts[name]) for name in facts}


@pytest.mark.parametrize(("kind", "place"), PLACES)
def test_a_final_failure_is_one_event_and_an_execution_one_transaction(
    work: Start, tmp_path: Path, kind: str, place: str
) -> None:
    folder = str(tmp_path)
    jobs = [werk.enqueue("note", folder) for _ in range(2)]
    fails, exits = werk.enqueue("fail", folder), werk.enqueue("leave", folder)
    retried, missing = werk.enqueue("retried", folder), werk.enqueue("missing")
    worker = work(*settings(place), "default", env=patches(tmp_path, kind, place) | AROUND)
    for job in jobs:
        finished(job)
    for job in (fails, exits, missing, retried):
        ended(job, "failed")
    leave(worker)
    events = sent(tmp_path, "events")
    by_job = {event["tags"]["job_id"]: event for event in events}
    assert len(events) == 4
    assert names_job(by_job[fails.id], fails, "fail")
    assert names_job(by_job[exits.id], exits, "leave")
    assert names_job(by_job[missing.id], missing, "missing")
    assert names_job(by_job[retried.id], retried, "retried", 3)
    assert by_job[fails.id]["exception"]["values"][0]["type"] == "ValueError"
    assert not by_job[fails.id]["exception"]["values"][0]["mechanism"]["handled"]
    transactions = sent(tmp_path, "transactions")
    counts = Counter(each["tags"]["job_id"] for each in transactions)
    every = (*jobs, fails, exits, missing)
    assert counts == {**dict.fromkeys((job.id for job in every), 1), retried.id: 3}
    assert all(each["contexts"]["trace"]["op"] == "queue.task.rq" for each in transactions)
    assert names_job(transactions[0], jobs[0], "note")


@pytest.mark.parametrize("kind", ["sentry", "alone"])
def test_each_cause_of_a_final_failure_is_one_event(
    work: Start, connection: redis.Redis, tmp_path: Path, kind: str
) -> None:
    """The middleware reports what the task raised, WERK_ON_GIVE_UP everything else."""
    folder = str(tmp_path)
    unknown = werk.enqueue("note", folder)
    facts = {"werk_task": "newer", "werk_unknown_since": time.time() - 601}
    connection.hset(f"rq:job:{unknown.id}", mapping=facts)
    wanted = {
        werk.enqueue("fail", folder).id: "fail",
        werk.enqueue("retried", folder).id: "retried",
        werk.enqueue("swallow", folder).id: "swallow",
        werk.enqueue("poison", folder).id: "poison",
        unknown.id: "newer",
        Queue(connection=connection).enqueue("os.getcwd").id: "-",
    }
    env = patches(tmp_path, kind, "table") | AROUND
    worker = work(env=env | {"WERK_ON_GIVE_UP": "werk.contrib.sentry.gave_up"})
    wait_until(lambda: worker.output().count("event=gave-up ") == len(wanted))
    leave(worker)
    events = sent(tmp_path, "events")
    assert sorted(event["tags"]["job_id"] for event in events) == sorted(wanted)
    for event in events:
        assert event["tags"]["task"] == wanted[event["tags"]["job_id"]]


@pytest.mark.parametrize("kind", OTHERS)
def test_other_patches_are_called_once_per_job(work: Start, tmp_path: Path, kind: str) -> None:
    jobs = [werk.enqueue("note", str(tmp_path)), werk.enqueue("fail", str(tmp_path))]
    env = patches(tmp_path, kind, "table") | AROUND
    assert work("default", "--burst", env=env).wait(60) == 0
    [event] = sent(tmp_path, "events")
    assert names_job(event, jobs[1], "fail")
    calls = Counter(lines(tmp_path, "calls"))
    per_kind = 2 if kind.startswith("sentry") else 1  # Sentry's own is a call as well
    assert [calls[job.id] for job in jobs] == [per_kind, per_kind]
    assert len(lines(tmp_path, "transactions")) == 2


@pytest.mark.parametrize("kind", ["pii", "alone"])
def test_no_secret_is_in_any_envelope_and_nothing_of_a_job_in_the_next(
    work: Start, monkeypatch: pytest.MonkeyPatch, tmp_path: Path, kind: str
) -> None:
    env = patches(tmp_path, kind, "table") | AROUND | {"WERK_REGISTRY": "sentry_tasks:TASKS"}
    monkeypatch.setenv("WERK_REGISTRY", "sentry_tasks:TASKS")
    monkeypatch.setenv("PATCH", "none")
    pays = werk.enqueue("pay", "Grace", PIN, card=CARD, limit=7)
    leaks = werk.enqueue("leak")
    assert work("default", "--burst", env=env).wait(60) == 0
    first, second = sent(tmp_path, "events")
    assert names_job(first, pays, "pay")
    assert names_job(second, leaks, "leak")
    everything = (tmp_path / "envelopes").read_text()
    for secret in ("s3cret", str(NUMBER), NAME, "limit=7"):
        assert secret not in everything
    assert "limit=[Filtered]" in everything
    assert "[Filtered]" in first["exception"]["values"][0]["value"]
    assert "Grace: " in first["exception"]["values"][0]["value"]
    breadcrumbs = [each.get("message") for each in first["breadcrumbs"]["values"]]
    assert "paying with [Filtered]" in breadcrumbs
    assert "paying" not in json.dumps(second)
    second["breadcrumbs"].pop("values")  # Sentry's own of Redis commands are filtered as well
    assert "[Filtered]" not in json.dumps(second)
    assert "card" not in second.get("extra", {})
    assert "pin" not in second["tags"]


def test_a_meta_that_has_no_trace_of_sentry_fails_no_job(work: Start, tmp_path: Path) -> None:
    trace = f"{'1' * 32}-{'2' * 16}-1"
    found = ["x", 5, {"sentry-trace": 5}, {"sentry-trace": trace, "baggage": 5, "other": None}]
    options = [werk.Options(meta={"_sentry_trace_headers": value}) for value in found]
    jobs = [werk.enqueue("note", str(tmp_path), options=own) for own in options]
    env = patches(tmp_path, "alone", "table") | AROUND
    assert work("default", "--burst", env=env).wait(60) == 0
    assert [job.status() for job in jobs] == ["finished"] * len(jobs)
    last = sent(tmp_path, "transactions")[-1]
    assert last["contexts"]["trace"]["trace_id"] == "1" * 32


@pytest.mark.parametrize("kind", ["sentry", "alone"])
def test_an_error_that_is_not_retried_is_an_event_and_one_before_it_is_not(
    work: Start, monkeypatch: pytest.MonkeyPatch, tmp_path: Path, kind: str
) -> None:
    env = patches(tmp_path, kind, "table") | AROUND | {"WERK_REGISTRY": "sentry_tasks:TASKS"}
    monkeypatch.setenv("WERK_REGISTRY", "sentry_tasks:TASKS")
    monkeypatch.setenv("PATCH", "none")
    job = werk.enqueue("stale", str(tmp_path))
    worker = work(env=env)
    ended(job, "failed")
    leave(worker)
    [event] = sent(tmp_path, "events")
    assert event["exception"]["values"][0]["value"] == "for good"
    assert names_job(event, job, "stale", 2)


@pytest.mark.parametrize("kind", ["sentry", "alone"])
def test_what_ends_without_an_error_in_the_task_is_left_to_gave_up(
    work: Start, connection: redis.Redis, tmp_path: Path, kind: str
) -> None:
    """A refused job, a crash limit, an ignored time limit, a callback, a version mismatch."""
    queue = Queue(connection=connection)
    refused = queue.enqueue("os.getcwd")
    killed = [werk.enqueue("poison", str(tmp_path)), werk.enqueue("swallow", str(tmp_path))]
    called = queue.enqueue(
        "patched_tasks.note",
        kwargs={"folder": str(tmp_path)},
        on_success=Callback("patched_tasks.broken"),
    )
    worker = work(env=patches(tmp_path, kind, "table") | AROUND)
    for job in killed:
        ended(job, "failed")
    wait_until(lambda: refused.get_status() == called.get_status() == "failed")
    leave(worker)
    # Sentry's integration for RQ has the exception of the callback.
    assert len(sent(tmp_path, "events")) == (kind == "sentry")
    failed = [refused, *(job.job for job in killed), called]
    (tmp_path / "failed").write_text(json.dumps([[job.id, reason(job)] for job in failed]))
    give_up(tmp_path, kind)
    events = sent(tmp_path, "events")
    assert {event["tags"]["job_id"] for event in events} == {job.id for job in failed}
    assert len(events) == 4


GIVE_UP = """
import json, os, pathlib
import patches
patches.apply("call")
import redis
from rq.job import Job
from werk.contrib import sentry
for job_id, traceback in json.loads(pathlib.Path(os.environ["PATCHED"], "failed").read_text()):
    connection = redis.Redis.from_url(os.environ["RQ_REDIS_URL"])
    sentry.gave_up(Job.fetch(job_id, connection=connection), "crashed", traceback)
"""


def give_up(folder: Path, kind: str) -> None:
    """Call gave_up, as a horse does, for the jobs and tracebacks in the file `failed`."""
    env = patches(folder, kind, "call") | {"PYTHONPATH": PYTHONPATH}
    done = run("python", "-c", GIVE_UP, env=env)
    assert done.returncode == 0, done.stderr


def test_gave_up_names_the_job_and_reports_no_error_twice(
    work: Start, connection: redis.Redis, tmp_path: Path
) -> None:
    fails, killed = werk.enqueue("fail", str(tmp_path)), werk.enqueue("swallow", str(tmp_path))
    worker = work(env=patches(tmp_path, "alone", "table") | AROUND)
    ended(fails, "failed"), ended(killed, "failed")
    leave(worker)
    pairs = [[job.id, reason(job.job)] for job in (fails, killed)]
    (tmp_path / "failed").write_text(json.dumps(pairs))
    give_up(tmp_path, "alone")
    _, event = sent(tmp_path, "events")
    assert event["tags"] == {
        "task": "swallow", "job_id": killed.id, "queue": "default", "attempt": "1"
    }  # fmt: skip
    assert event["message"] == "swallow failed: crashed"
    assert "took no notice" in event["extra"]["traceback"]


# --- with a server, and Sentry's own transport


class Sentry(BaseHTTPRequestHandler):
    """Keeps the items of all envelopes, but for Sentry's counts of spans that it left out."""

    items: list[tuple[str, dict[str, Any]]]

    def do_POST(self) -> None:
        body = self.rfile.read(int(self.headers["Content-Length"]))
        if self.headers.get("Content-Encoding") == "gzip":
            body = gzip.decompress(body)
        _, *rest = body.splitlines()
        for header, payload in zip(rest[::2], rest[1::2], strict=False):
            kind, item = json.loads(header)["type"], json.loads(payload)
            if kind != "client_report":
                self.items.append((kind, item))
        threading.Event().wait(0.1)  # it is slow: the next envelope waits in the horse
        self.send_response(200)
        self.end_headers()

    def log_message(self, *args: object) -> None: ...


@pytest.fixture
def sentry_server() -> Iterator[tuple[str, list[tuple[str, dict[str, Any]]]]]:
    """Return the DSN of a server, and what it has received."""
    handler = type("Handler", (Sentry,), {"items": []})
    with ThreadingHTTPServer(("127.0.0.1", 0), handler) as http:
        thread = threading.Thread(target=http.serve_forever)
        thread.start()
        yield f"http://key@127.0.0.1:{http.server_port}/1", handler.items
        http.shutdown()
        thread.join()


def example(folder: Path) -> dict[str, str]:
    """Write the files of docs/observability.md. Return the settings that it shows."""
    shown = section(OBSERVABILITY, "Sentry")
    for text in re.findall(r"^```python\n(.*?)^```", shown, re.DOTALL | re.MULTILINE):
        name = text.splitlines()[0].removeprefix("# ")
        (folder / name).parent.mkdir(exist_ok=True)
        (folder / name).write_text(text)
    [env] = re.findall(r"^```text\n(.*?)^```", shown, re.DOTALL | re.MULTILINE)
    return dict(line.split("=", 1) for line in env.splitlines()) | {"PYTHONPATH": str(folder)}


@pytest.mark.parametrize("end", ["burst", "drain", "recycle"])
def test_the_example_has_one_trace_and_loses_nothing_when_a_horse_exits(
    work: Start, sentry_server: Any, connection: redis.Redis, tmp_path: Path, end: str
) -> None:
    dsn, items = sentry_server
    env = example(tmp_path) | {"SENTRY_DSN": dsn, "RQ_WORKER_CLASS": "werk.worker.Worker"}
    called = run("python", "-m", "shop.checkout", env=env)
    trace_id, job_id = called.stdout.split()
    done = Job.fetch(job_id, connection=connection)
    if end == "burst":
        assert work("default", "--burst", env=env).wait(60) == 0
    else:
        own = {"WERK_HORSE_JOBS": "1"} if end == "recycle" else {}
        worker = work(env=env | own)
        wait_until(lambda: done.get_status() == "failed")
        if end == "recycle":  # the next horse runs, and the worker goes on
            wait_until(lambda: len(items) >= 3)
        leave(worker)
    assert done.get_status() == "failed"
    found = {(kind, item["transaction"]): item for kind, item in items}
    assert sorted(found) == [
        ("event", "charge"),
        ("transaction", "charge"),
        ("transaction", "checkout"),
    ]
    for item in found.values():
        assert item["contexts"]["trace"]["trace_id"] == trace_id
    event = found["event", "charge"]
    assert event["tags"]["job_id"] == job_id
    assert "4711" not in json.dumps(event)
