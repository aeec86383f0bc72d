"""werk.contrib.opentelemetry in real processes: every span arrives, under the right parent."""

from __future__ import annotations

import json
import re
from collections import defaultdict
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import redis
from doc_pages import OBSERVABILITY, section
from support import KIT, Process, run, wait_until
from traced_tasks import HANGS
from workers import ENV, Start

from werk.client.result import status

Span = dict[str, Any]
SECTION = section(OBSERVABILITY, "OpenTelemetry")
EXPORTER = "opentelemetry/exporter/otlp/proto/http/trace_exporter.py"
FILE_EXPORTER = """
import functools, os, pathlib
from opentelemetry.sdk.trace.export import ConsoleSpanExporter
OTLPSpanExporter = functools.partial(
    ConsoleSpanExporter,
    out=(pathlib.Path(os.environ["SPANS"]) / str(os.getpid())).open("a"),
    formatter=lambda span: span.to_json(indent=None) + "\\n",
)
"""


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


def test_the_example_of_the_page_works(
    spawn: Callable[..., Process], redis_url: str, tmp_path: Path
) -> None:
    """Only the exporter is ours: it writes to a file, and not to a collector."""
    (spans := tmp_path / "spans").mkdir()
    for name, text in re.findall(
        r"^```python\n# (\S+)\n(.*?)^```", SECTION, re.DOTALL | re.MULTILINE
    ):
        write(tmp_path / name, text)
    write(tmp_path / EXPORTER, FILE_EXPORTER)
    [variables] = re.findall(r"^```text\n(.*?)^```", SECTION, re.DOTALL | re.MULTILINE)
    env = dict(line.split("=") for line in variables.splitlines())
    env |= {"PYTHONPATH": str(tmp_path), "SPANS": str(spans)}
    done = run("python", "-m", "shop.checkout", env=env)
    assert done.returncode == 0, done.stderr
    job_id = done.stdout.strip()
    worker = spawn("werk", "worker", "default", env=env)
    wait_until(lambda: status(job_id) == "failed")
    worker.terminate()
    assert worker.wait(60) == 0
    by_name: dict[str, list[Span]] = defaultdict(list)
    for span in sorted(read(spans), key=lambda span: str(span["start_time"])):
        by_name[span["name"]].append(span)
        assert span["resource"]["attributes"]["service.name"] == "shop"
    first, second = by_name["process default"]
    [sent], [checkout] = by_name["send default"], by_name["checkout"]
    assert sent["parent_id"] == checkout["context"]["span_id"]
    assert first["parent_id"] == sent["context"]["span_id"]
    assert second["parent_id"] is None
    assert [span["attributes"]["werk.attempt"] for span in (first, second)] == [1, 2]
    prints = [span["parent_id"] for span in by_name["print the receipt"]]
    assert prints == [span["context"]["span_id"] for span in (first, second)]
    assert "no paper for order 42" in first["status"]["description"]

    done = run("werk-enqueue", "receipt", "43", env=env)
    assert done.returncode == 0, done.stderr
    [sent] = [span for span in read(spans) if message(span) == done.stdout.strip()]
    assert (sent["name"], sent["parent_id"]) == ("send default", None)


def write(path: Path, text: str) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(text)


def outcome(number: int) -> tuple[str, str | None]:
    """Return the status and the error of a job's span."""
    if number in HANGS:
        return "ERROR", "rq.timeouts.JobTimeoutException"
    return ("ERROR", "builtins.ValueError") if number % 10 == 1 else ("UNSET", None)


def message(span: Span) -> str:
    return str(span["attributes"].get("messaging.message.id"))


def ended(connection: redis.Redis) -> int:
    return sum(connection.zcard(f"rq:{status}:default") for status in ("finished", "failed"))
