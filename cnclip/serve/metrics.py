"""Numbers for Prometheus: the requests of the server, and what the batchers count."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from prometheus_client import CollectorRegistry, Counter, Histogram
from prometheus_client.core import (
    CounterMetricFamily,
    GaugeMetricFamily,
    HistogramMetricFamily,
    Metric,
)
from prometheus_client.exposition import CONTENT_TYPE_LATEST, generate_latest
from prometheus_client.platform_collector import PlatformCollector
from prometheus_client.process_collector import ProcessCollector

from .batching.counters import Counters, Tally
from .served import Served

_SECONDS = (0.003, 0.01, 0.03, 0.1, 0.3, 1.0, 3.0, 10.0, 30.0)


class Metrics:
    """Counts requests, and writes all numbers in Prometheus's text format."""

    def __init__(self, served: Served) -> None:
        self._registry = CollectorRegistry()
        labels = ("route", "status")
        self._requests = Counter(
            "cnclip_http_requests", "Requests by route and status", labels, registry=self._registry
        )
        self._seconds = Histogram(
            "cnclip_http_seconds",
            "Seconds from a request's first byte to the end of its answer",
            ("route",),
            buckets=_SECONDS,
            registry=self._registry,
        )
        self._registry.register(_OfBatchers(served))
        ProcessCollector(registry=self._registry)
        PlatformCollector(registry=self._registry)

    def count(self, route: str, status: int, seconds: float) -> None:
        """Count a request; `route` is its template, so that paths do not become labels."""
        self._requests.labels(route, str(status)).inc()
        self._seconds.labels(route).observe(seconds)

    def written(self) -> tuple[bytes, str]:
        """The numbers, and their media type."""
        return generate_latest(self._registry), CONTENT_TYPE_LATEST


class _OfBatchers:
    """What the batchers count, read when Prometheus asks."""

    def __init__(self, served: Served) -> None:
        self._served = served

    def describe(self) -> list[Metric]:
        """Nothing: the registry need not read the batchers when this is registered."""
        return []

    def collect(self) -> Iterator[Metric]:
        """The metrics of all models, by the label `model`."""
        counted = [(one.name, one.batcher.counters()) for one in self._served.models.values()]
        yield from _totals(counted)
        yield from _gauges(counted)
        yield from _tallies(counted)


def _totals(counted: list[tuple[str, Counters]]) -> Iterator[Metric]:
    by_label = (
        ("cnclip_requests", "Requests of the batcher by outcome", "outcome", "requests"),
        ("cnclip_rejected", "Requests that were not accepted, by reason", "reason", "refused"),
        ("cnclip_items", "Items by kind: text, img, failed", "kind", "items"),
    )
    for name, help, label, field in by_label:
        family = CounterMetricFamily(name, help, labels=["model", label])
        for model, counters in counted:
            for value, number in sorted(getattr(counters, field).items()):
                family.add_metric([model, value], number)
        yield family
    for name, help, field in (
        ("cnclip_batches_failed", "Batches that failed", "failed_batches"),
        ("cnclip_batches_hung", "Batches that took longer than the limit", "hung_batches"),
    ):
        family = CounterMetricFamily(name, help, labels=["model"])
        for model, counters in counted:
            family.add_metric([model], getattr(counters, field))
        yield family


def _gauges(counted: list[tuple[str, Counters]]) -> Iterator[Metric]:
    for name, help, field in (
        ("cnclip_bytes_in_flight", "Memory of the requests in progress", "bytes_in_flight"),
        ("cnclip_requests_in_flight", "Requests in progress", "requests_in_flight"),
        ("cnclip_threads", "Threads of the batcher", "threads"),
    ):
        family = GaugeMetricFamily(name, help, labels=["model"])
        for model, counters in counted:
            family.add_metric([model], getattr(counters, field))
        yield family
    queue = GaugeMetricFamily(
        "cnclip_queue_length", "Items that wait for the model", labels=["model", "kind"]
    )
    for model, counters in counted:
        for kind, number in counters.waiting.items():
            queue.add_metric([model, kind], number)
    yield queue


def _tallies(counted: list[tuple[str, Counters]]) -> Iterator[Metric]:
    for name, help, label, field in (
        ("cnclip_queue_seconds", "Time in the queue", "priority", "queue_seconds"),
        ("cnclip_model_seconds", "Time of the model for a batch", "kind", "model_seconds"),
        ("cnclip_batch_size", "Items of a batch", "kind", "batch_sizes"),
        ("cnclip_decode_seconds", "Time to decode and resize an image", None, "prepare_seconds"),
        ("cnclip_tokenize_seconds", "Time to tokenize texts", None, "tokenize_seconds"),
    ):
        labels = ["model"] if label is None else ["model", label]
        family = HistogramMetricFamily(name, help, labels=labels)
        for model, counters in counted:
            tallies: Any = getattr(counters, field)
            if label is None:
                family.add_metric([model], *_buckets(tallies))
            else:
                for value, tally in tallies.items():
                    family.add_metric([model, value], *_buckets(tally))
        yield family


def _buckets(tally: Tally) -> tuple[list[tuple[str, float]], float]:
    """A tally as Prometheus has it: counts up to each bound, and the sum."""
    buckets, total = [], 0
    for bound, number in zip((*tally.bounds, None), tally.counts, strict=True):
        total += number
        buckets.append(("+Inf" if bound is None else str(float(bound)), float(total)))
    return buckets, tally.total
