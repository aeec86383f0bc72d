"""Set up OpenTelemetry: each process writes its spans to a file of its own in the folder SPANS.

The spans are held back until there are 512, or until somebody flushes.
"""

from __future__ import annotations

import os
from pathlib import Path

from opentelemetry import trace
from opentelemetry.sdk.trace import TracerProvider
from opentelemetry.sdk.trace.export import BatchSpanProcessor, ConsoleSpanExporter

_file = (Path(os.environ["SPANS"]) / str(os.getpid())).open("a")
_exporter = ConsoleSpanExporter(out=_file, formatter=lambda span: span.to_json(indent=None) + "\n")
_provider = TracerProvider()
_provider.add_span_processor(BatchSpanProcessor(_exporter, schedule_delay_millis=3_600_000))
trace.set_tracer_provider(_provider)
