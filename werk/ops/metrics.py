"""A snapshot as the text of /metrics, which Prometheus reads.

Only the dashboard imports this module: prometheus_client loads an HTTP server and more.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Mapping

from prometheus_client import CollectorRegistry, generate_latest
from prometheus_client.core import (
    CounterMetricFamily,
    GaugeMetricFamily,
    HistogramMetricFamily,
    Metric,
)
from prometheus_client.registry import Collector

from werk.ops.checks import CRITICAL, WARNING, problems
from werk.ops.snapshot import Snapshot, number
from werk.store import keys
from werk.store.connection import Link

_OF_A_QUEUE = (  # metric, field of a Queue, help text
    ("waiting", "waiting", "Jobs that wait"),
    ("oldest_seconds", "oldest_s", "Age of the oldest waiting job"),
    ("running", "running", "Jobs that run"),
    ("scheduled", "scheduled", "Jobs that are due later"),
    ("ready", "ready", "Dependents that are ready and not yet enqueued"),
    ("failed", "failed", "Failed jobs that are kept"),
    ("paused", "paused", "1 for a paused queue"),
    ("workers", "workers", "Live workers"),
)
_BOUNDS = (*map(str, keys.DURATION_BOUNDS_S), "+Inf")


def exposition(link: Link) -> str:
    """Return the metrics in Prometheus's text format. Raises RedisUnavailable, ConfigError."""
    registry = CollectorRegistry()
    registry.register(_SnapshotCollector(Snapshot.read(link)))
    return generate_latest(registry).decode()


class _SnapshotCollector(Collector):
    """The metrics of one snapshot."""

    def __init__(self, snapshot: Snapshot) -> None:
        self.snapshot = snapshot

    def describe(self) -> list[Metric]:
        """Return nothing: a registry of one collector need not look for duplicates."""
        return []

    def collect(self) -> Iterator[Metric]:
        yield from self._of_queues()
        yield from self._of_workers()
        yield from self._of_problems()
        memory = self.snapshot.server.memory
        yield GaugeMetricFamily("werk_redis_memory_bytes", "Memory that Redis uses", memory)
        yield from _of_executions(self.snapshot.counters)

    def _of_queues(self) -> Iterator[Metric]:
        for name, field, text in _OF_A_QUEUE:
            family = GaugeMetricFamily(f"werk_queue_{name}", text, labels=["queue"])
            for queue in self.snapshot.queues.values():
                family.add_metric([queue.name], getattr(queue, field) or 0)
            yield family

    def _of_workers(self) -> Iterator[Metric]:
        workers = self.snapshot.workers
        text = "Workers by kind and state"
        states = GaugeMetricFamily("werk_workers", text, labels=["kind", "state"])
        for labels, count in Counter((worker.kind, worker.state) for worker in workers).items():
            states.add_metric(labels, count)
        yield states
        text = "Seconds since the last beat of the worker that has been silent the longest"
        beats = GaugeMetricFamily("werk_worker_beat_seconds_max", text, labels=["kind"])
        longest = {own.kind: own.beat_s for own in sorted(workers, key=lambda own: own.beat_s)}
        for kind, beat_s in longest.items():
            beats.add_metric([kind], beat_s)
        yield beats

    def _of_problems(self) -> Iterator[Metric]:
        levels = Counter(problem.level for problem in problems(self.snapshot))
        text = "Problems that `werk status` reports"
        family = GaugeMetricFamily("werk_problems", text, labels=["level"])
        for level in (WARNING, CRITICAL):
            family.add_metric([level], levels[level])
        yield family
        text, failed = "Webhooks that failed or were left out", self.snapshot.failed_webhooks
        yield CounterMetricFamily("werk_failed_webhooks", text, failed)
        waiting, _, dropped = self.snapshot.gave_up
        text = "Final failures that wait for a worker with WERK_ON_GIVE_UP"
        yield GaugeMetricFamily("werk_give_ups_waiting", text, waiting)
        text = "Final failures that were dropped because too many waited"
        yield CounterMetricFamily("werk_give_ups_dropped", text, dropped)
        text = "Keys and entries of the catalog that cannot be read"
        damaged = GaugeMetricFamily("werk_damaged", text, labels=["kind"])
        damaged.add_metric(["key"], len(self.snapshot.damaged))
        damaged.add_metric(["page"], len(self.snapshot.pages.damaged))
        yield damaged


def _of_executions(counters: Mapping[str, str]) -> Iterator[Metric]:
    """Yield the counts of the horses (worker/counters.py): executions and their durations."""
    text = "Executions by task and outcome"
    outcomes = CounterMetricFamily("werk_executions", text, labels=["task", "outcome"])
    text = "How long executions took"
    durations = HistogramMetricFamily("werk_execution_seconds", text, labels=["task"])
    for task in sorted({field.rpartition("|")[0] for field in counters if "|" in field}):
        counts = {
            field: max(0.0, number(counters.get(f"{task}|{field}")))
            for field in ("done", "failed", "seconds", *_BOUNDS)
        }
        for outcome in ("done", "failed"):
            outcomes.add_metric([task, outcome], counts[outcome])
        buckets, total = [], 0.0
        for bound in _BOUNDS:
            total += counts[bound]
            buckets.append((bound, total))
        durations.add_metric([task], buckets, counts["seconds"])
    yield outcomes
    yield durations
