"""werk.contrib.opentelemetry: what is in its spans, without processes."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
from opentelemetry import baggage, context, trace
from opentelemetry.sdk.trace import ReadableSpan, TracerProvider
from opentelemetry.sdk.trace.export import SimpleSpanProcessor
from opentelemetry.sdk.trace.export.in_memory_span_exporter import InMemorySpanExporter
from opentelemetry.trace import SpanKind, StatusCode
from rq import get_current_job

import werk
from werk import registry
from werk.contrib import opentelemetry
from werk.testing import RecordedJobs, recorded

HERE = __name__
PRODUCER = "00-" + "1" * 32 + "-" + "2" * 16 + "-01"


def good() -> dict[str, object]:
    return {"meta": dict(get_current_job().meta), "baggage": dict(baggage.get_all())}


def stops() -> None:
    raise StopIteration("early")


def leaves() -> None:
    raise SystemExit(3)


def flaky() -> None:
    raise LookupError("not there")


class Unspeakable(Exception):
    def __str__(self) -> str:
        raise KeyError("no text")


def mute() -> None:
    raise Unspeakable


def second() -> dict[str, object]:
    if get_current_job().attempt == 1:
        raise LookupError("not yet")
    return dict(baggage.get_all())


def follows() -> str:
    return werk.enqueue("good").id


def forgets() -> None:
    context.attach(trace.set_span_in_context(trace.NonRecordingSpan(_FORGOTTEN)))
    context.attach(baggage.set_baggage("left", "behind"))


_FORGOTTEN = trace.SpanContext(5, 5, is_remote=False, trace_flags=trace.TraceFlags(1))

TASKS = {
    name: werk.Task(f"{HERE}.{name}", retry=2 if name in ("flaky", "second") else 0)
    for name in ("good", "stops", "leaves", "flaky", "second", "follows", "forgets")
}
TASKS["mute"] = werk.Task(f"{HERE}.mute", retry=1, retry_on=(f"{HERE}.Unspeakable",))


@pytest.fixture
def jobs(monkeypatch: pytest.MonkeyPatch) -> Iterator[RecordedJobs]:
    monkeypatch.setenv("WERK_REGISTRY", f"{HERE}:TASKS")
    monkeypatch.setenv("WERK_MIDDLEWARE", "werk.contrib.opentelemetry.execute")
    monkeypatch.setenv("WERK_ENQUEUE_MIDDLEWARE", "werk.contrib.opentelemetry.enqueue")
    registry.tasks.cache_clear()
    with recorded() as found:
        yield found


@pytest.fixture
def spans(jobs: RecordedJobs, monkeypatch: pytest.MonkeyPatch) -> InMemorySpanExporter:
    """Return what keeps the spans of this test. The provider of the process stays as it is."""
    exporter, provider = InMemorySpanExporter(), TracerProvider()
    provider.add_span_processor(SimpleSpanProcessor(exporter))
    monkeypatch.setattr(opentelemetry, "_tracer", provider.get_tracer("test"))
    return exporter


def of(spans: InMemorySpanExporter, kind: SpanKind) -> list[ReadableSpan]:
    return [span for span in spans.get_finished_spans() if span.kind is kind]


def test_the_names_and_attributes(jobs: RecordedJobs, spans: InMemorySpanExporter) -> None:
    handle = werk.enqueue("good", options=werk.Options(queue="mail", meta={"own": 1}))
    jobs.run()
    [sent], [processed] = of(spans, SpanKind.PRODUCER), of(spans, SpanKind.CONSUMER)
    same = {
        "messaging.system": "werk",
        "messaging.destination.name": "mail",
        "messaging.message.id": handle.id,
        "werk.task": "good",
    }
    operation = {"messaging.operation.name": "send", "messaging.operation.type": "send"}
    assert (sent.name, dict(sent.attributes)) == ("send mail", {**same, **operation})
    operation = {"messaging.operation.name": "process", "messaging.operation.type": "process"}
    assert processed.name == "process mail"
    assert dict(processed.attributes) == {**same, **operation, "werk.attempt": 1}
    assert {span.status.status_code for span in (sent, processed)} == {StatusCode.UNSET}
    meta = handle.result(0)["meta"]
    assert meta == {"own": 1, "traceparent": traceparent(sent)}


def traceparent(span: ReadableSpan) -> str:
    own = span.context
    return f"00-{own.trace_id:032x}-{own.span_id:016x}-{own.trace_flags:02x}"


def test_the_first_attempt_is_a_child_and_the_others_have_traces_of_their_own(
    jobs: RecordedJobs, spans: InMemorySpanExporter
) -> None:
    werk.enqueue("flaky")
    for _ in range(3):
        jobs.run()
    [sent], attempts = of(spans, SpanKind.PRODUCER), of(spans, SpanKind.CONSUMER)
    assert [span.attributes["werk.attempt"] for span in attempts] == [1, 2, 3]
    assert attempts[0].parent.span_id == sent.context.span_id
    assert [span.parent for span in attempts[1:]] == [None, None]
    assert len({span.context.trace_id for span in attempts}) == 3
    for span in attempts:
        assert [link.context.span_id for link in span.links] == [sent.context.span_id]


@pytest.mark.parametrize(
    ("task", "error"),
    [
        ("stops", "builtins.StopIteration"),
        ("leaves", "builtins.SystemExit"),
        ("flaky", "builtins.LookupError"),
    ],
)
def test_a_failure_is_recorded(
    jobs: RecordedJobs, spans: InMemorySpanExporter, task: str, error: str
) -> None:
    werk.enqueue(task)
    jobs.run()
    span = of(spans, SpanKind.CONSUMER)[0]
    assert span.status.status_code is StatusCode.ERROR
    assert span.attributes["error.type"] == error
    [event] = span.events
    assert event.name == "exception"
    assert f"in {task}" in event.attributes["exception.stacktrace"]


def test_an_error_without_a_text_is_recorded_and_retried(
    jobs: RecordedJobs, spans: InMemorySpanExporter
) -> None:
    werk.enqueue("mute")
    assert [job.attempts for job in jobs.run()] == [2, 2]
    attempts = of(spans, SpanKind.CONSUMER)
    assert len(attempts) == 2
    for span in attempts:
        assert span.attributes["error.type"] == f"{HERE}.Unspeakable"
        assert span.status.description == "Unspeakable: <its text cannot be shown>"


def test_an_enqueue_that_fails_is_recorded(jobs: RecordedJobs, spans: InMemorySpanExporter) -> None:
    werk.enqueue("good", options=werk.Options(job_id="one"))
    with pytest.raises(werk.JobIdConflict):
        werk.enqueue("flaky", options=werk.Options(job_id="one"))
    span = of(spans, SpanKind.PRODUCER)[-1]
    assert span.attributes["error.type"] == "werk.errors.JobIdConflict"


def test_a_duplicate_and_the_jobs_of_a_batch_are_marked(
    jobs: RecordedJobs, spans: InMemorySpanExporter
) -> None:
    for _ in range(2):
        werk.enqueue("good", options=werk.Options(job_id="one"))
    assert [s.attributes.get("werk.duplicate") for s in of(spans, SpanKind.PRODUCER)] == [
        None,
        True,
    ]
    spans.clear()
    werk.enqueue_many("good", [(), ()])
    for span in of(spans, SpanKind.PRODUCER):
        assert span.name == "create default"
        assert span.attributes["messaging.operation.name"] == "create"
        assert span.attributes["messaging.operation.type"] == "create"


def test_a_job_that_a_task_enqueues_belongs_to_the_trace(
    jobs: RecordedJobs, spans: InMemorySpanExporter
) -> None:
    werk.enqueue("follows")
    jobs.run()
    first, second = of(spans, SpanKind.CONSUMER)
    sent = of(spans, SpanKind.PRODUCER)[1]
    assert sent.parent.span_id == first.context.span_id
    assert second.parent.span_id == sent.context.span_id
    assert len({span.context.trace_id for span in spans.get_finished_spans()}) == 1


@pytest.mark.parametrize("value", [None, 5, "word", ["a", 1], {"a": 1}, b"00-1"])
def test_a_job_without_a_context_has_a_trace_of_its_own(
    jobs: RecordedJobs, spans: InMemorySpanExporter, monkeypatch: pytest.MonkeyPatch, value: object
) -> None:
    monkeypatch.delenv("WERK_ENQUEUE_MIDDLEWARE")
    werk.enqueue("forgets")
    meta = {} if value is None else {"traceparent": value, "tracestate": value, "baggage": value}
    handle = werk.enqueue("good", options=werk.Options(meta=meta))
    jobs.run()
    [_, span] = of(spans, SpanKind.CONSUMER)
    assert (span.parent, list(span.links)) == (None, [])
    assert handle.result(0)["baggage"] == {}


def test_baggage_reaches_every_attempt(jobs: RecordedJobs, spans: InMemorySpanExporter) -> None:
    token = context.attach(baggage.set_baggage("tenant", "7"))
    first, second = werk.enqueue("good"), werk.enqueue("second")
    context.detach(token)
    for _ in range(2):
        jobs.run()
    assert first.result(0)["baggage"] == second.result(0) == {"tenant": "7"}


def test_without_a_provider_nothing_is_traced(jobs: RecordedJobs) -> None:
    handle = werk.enqueue("good")
    jobs.run()
    assert handle.result(0)["meta"] == {}
    opentelemetry.flush(1.0)


def test_a_context_from_outside_is_passed_on_without_a_provider(jobs: RecordedJobs) -> None:
    far = trace.NonRecordingSpan(trace.SpanContext(int("1" * 32, 16), int("2" * 16, 16), True, 1))
    with trace.use_span(far):
        handle = werk.enqueue("good")
    jobs.run()
    assert handle.result(0)["meta"] == {"traceparent": PRODUCER}
