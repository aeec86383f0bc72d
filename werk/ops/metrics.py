"""A snapshot as the text of /metrics, which Prometheus reads.

Only the dashboard imports this module: prometheus_client loads an HTTP server and more.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Iterator, Mapping
from itertools import accumulate

from prometheus_client import CollectorRegistry, generate_latest
from prometheus_client.core import (
    CounterMetricFamily,
    GaugeMetricFamily,
    HistogramMetricFamily,
    Metric,
)
from prometheus_client.registry import Collector

from werk.ops import histograms
from werk.ops.checks import problems
from werk.ops.cron_health import STATES
from werk.ops.cron_record import STOPPED
from werk.ops.histograms import amount
from werk.ops.limits import CRITICAL, WARNING
from werk.ops.slots import Slot
from werk.ops.snapshot import Snapshot
from werk.ops.workers import Worker
from werk.store.connection import Link

_OF_A_QUEUE = (  # metric, field of a Queue, help text
    ("waiting", "waiting", "Jobs that wait"),
    ("oldest_seconds", "oldest_s", "Age of the oldest waiting job"),
    ("running", "running", "Jobs that run"),
    ("scheduled", "scheduled", "Jobs that are due later"),
    ("ready", "ready", "Dependents that are ready and not yet enqueued"),
    ("failed", "failed", "Failed jobs that are kept"),
    ("paused", "paused", "1 for a paused queue"),
    ("workers", "workers", "Live workers; one with several slots counts once"),
)
_HISTOGRAMS = (  # kind, metric, help text
    (histograms.TOOK, "werk_execution_seconds", "How long executions took"),
    (histograms.WAITED, "werk_wait_seconds", "How long jobs waited in their queue"),
)


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
        yield from self._of_cron()
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
        text = "Workers by kind and state; one with several slots counts once"
        yield _by_state("werk_workers", text, workers)
        text = "Slots of workers by kind and state: each runs one job at a time"
        slots = [slot for worker in workers for slot in worker.slots]
        yield _by_state("werk_slots", text, slots)
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
        text = "Executions that would be refused without WERK_ALLOW_UNREGISTERED"
        refusals = CounterMetricFamily("werk_would_refuse", text, labels=["task"])
        for own in self.snapshot.would_refuse:
            refusals.add_metric([own.task], own.jobs)
        yield refusals
        text = "Keys and entries of the catalog that cannot be read"
        damaged = GaugeMetricFamily("werk_damaged", text, labels=["kind"])
        damaged.add_metric(["key"], len(self.snapshot.damaged))
        damaged.add_metric(["page"], len(self.snapshot.pages.damaged))
        yield damaged

    def _of_cron(self) -> Iterator[Metric]:
        text = "Seconds since the last beat of a `werk cron` that was not stopped"
        beats = GaugeMetricFamily("werk_cron_beat_age_seconds", text, labels=["host", "path"])
        for own in self.snapshot.cron.processes:
            if own.state != STOPPED:
                beats.add_metric([own.host, own.path], own.beat_s)
        yield beats
        text = "Lines of crontabs by state: ok, late, failing, stopped, silent"
        lines = GaugeMetricFamily("werk_cron_lines", text, labels=["state"])
        counts = Counter(line.state for line in self.snapshot.cron.lines)
        for state in STATES:
            lines.add_metric([state], counts[state])
        yield lines


def _by_state(name: str, text: str, own: Iterable[Worker | Slot]) -> Metric:
    family = GaugeMetricFamily(name, text, labels=["kind", "state"])
    for labels, count in Counter((one.kind, one.state) for one in own).items():
        family.add_metric(labels, count)
    return family


def _of_executions(counters: Mapping[str, str]) -> Iterator[Metric]:
    """Yield the counts of the horses (worker/counters.py): executions and how long they took."""
    text = "Executions by task and outcome"
    outcomes = CounterMetricFamily("werk_executions", text, labels=["task", "outcome"])
    for task in sorted({field.rpartition("|")[0] for field in counters if "|" in field}):
        for outcome in ("done", "failed"):
            outcomes.add_metric([task, outcome], amount(counters, f"{task}|{outcome}"))
    yield outcomes
    for kind, name, text in _HISTOGRAMS:
        family = HistogramMetricFamily(name, text, labels=["queue", "task"])
        steps = histograms.steps(kind)
        for labels, counts in sorted(histograms.counts_of(kind, counters).items()):
            totals = accumulate(counts[step] for step in steps)
            buckets = [*zip(steps, totals, strict=True)]
            family.add_metric(labels, buckets, counts["seconds"])
        yield family
