"""werk.contrib.opentelemetry in real processes: every span arrives, under the right parent."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import redis
from support import KIT, run, wait_until
from traced_tasks import HANGS
from workers import ENV, Start

Span = dict[str, Any]


@pytest.fixture
def traced(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Path:
    """Have callers and workers trace. Return the folder with their spans."""
    spans = tmp_path / "spans"
    spans.mkdir()
    monkeypatch.setenv("SPANS", str(spans))
    monkeypatch.setenv("PYTHONPATH", ENV["PYTHONPATH"])
    monkeypatch.setenv("WERK_ENQUEUE_MIDDLEWARE", "werk.contrib.opentelemetry.enqueue")
    return spans


WORKER = {
    "WERK_REGISTRY": "traced_tasks:TASKS",
    "WERK_MIDDLEWARE": "werk.contrib.opentelemetry.execute",
    "WERK_PRELOAD": "tracing",
    "WERK_HORSE_JOBS": "150",
}


def read(folder: Path) -> list[Span]:
    return [json.loads(line) for file in folder.iterdir() for line in file.read_text().splitlines()]


def test_a_thousand_jobs_have_a_thousand_spans_under_the_right_parents(
    work: Start, traced: Path, connection: redis.Redis
) -> None:
    """A tenth fails, some time out, some leave their context behind; two workers are drained."""
    done = run("python", KIT / "traced_tasks.py", env=WORKER)
    assert done.returncode == 0, done.stderr
    for hang, drain in [(HANGS[0], "command"), (HANGS[1], "signal")]:
        worker = work("default", "--name", f"w{hang}", env=WORKER)
        wait_until(lambda before=hang: ended(connection) >= before)
        if drain == "command":
            assert run("werk", "drain", "--yes", f"w{hang}").returncode == 0
        else:
            worker.terminate()
        assert worker.wait(60) == 0
        assert connection.llen("rq:queue:default") > 0
    worker = work("default", "--burst", env=WORKER)
    assert worker.wait(120) == 0
    assert ended(connection) == 1000
    assert "event=flush-failed" not in worker.output()

    spans = read(traced)
    sent = {message(span): span for span in spans if span["kind"] == "SpanKind.PRODUCER"}
    processed = {message(span): span for span in spans if span["kind"] == "SpanKind.CONSUMER"}
    works = {span["attributes"]["job"]: span for span in spans if span["name"] == "work"}
    turns = [span for span in spans if span["name"] == "turn"]
    assert [len(found) for found in (sent, processed, works)] == [1000, 1000, 1000]
    assert len(turns) == 100
    assert sum(span["name"] in ("order", "orders") for span in spans) == 501
    assert len(spans) == 3601  # those that tasks leave behind never end

    own = {span["context"]["span_id"]: span for span in spans}
    for job_id, span in processed.items():
        sender, inner = sent[job_id], works[job_id]
        assert span["parent_id"] == sender["context"]["span_id"]
        assert [link["context"] for link in span["links"]] == [sender["context"]]
        assert inner["parent_id"] == span["context"]["span_id"]
        trace = {each["context"]["trace_id"] for each in (sender, span, inner)}
        assert trace == {own[sender["parent_id"]]["context"]["trace_id"]}
        number = inner["attributes"]["number"]
        assert sender["name"] == ("send default" if number < 500 else "create default")
        assert span["status"]["status_code"] == outcome(number)[0]
        assert span["attributes"].get("error.type") == outcome(number)[1]
    for turn in turns:
        assert turn["parent_id"] == works[turn["attributes"]["job"]]["context"]["span_id"]


def outcome(number: int) -> tuple[str, str | None]:
    """Return the status and the error of a job's span."""
    if number in HANGS:
        return "ERROR", "rq.timeouts.JobTimeoutException"
    return ("ERROR", "builtins.ValueError") if number % 10 == 1 else ("UNSET", None)


def message(span: Span) -> str:
    return str(span["attributes"]["messaging.message.id"])


def ended(connection: redis.Redis) -> int:
    return sum(connection.zcard(f"rq:{status}:default") for status in ("finished", "failed"))
