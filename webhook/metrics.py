"""What is counted. Every label has a bounded set of values: strangers choose none of them."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from functools import lru_cache
from typing import Final

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram, multiprocess
from prometheus_client.core import GaugeMetricFamily, Metric
from prometheus_client.exposition import generate_latest
from prometheus_client.registry import Collector

from webhook import VERSION
from webhook.admission import Answer
from webhook.workload import KINDS

CONTENT_TYPE: Final = "text/plain; version=0.0.4; charset=utf-8"
_OPERATIONS: Final = frozenset({"CREATE", "UPDATE"})
_KINDS: Final = frozenset({*KINDS, "Namespace"})
# A decision takes some tens of microseconds; the API server waits for three seconds at most.
_BUCKETS: Final = (0.0001, 0.00025, 0.0005, 0.001, 0.0025, 0.005, 0.01, 0.025, 0.1, 0.5, 1, 3)


class Metrics:
    """The metrics of one process, or with `multiprocess_folder` of all workers together."""

    def __init__(self, multiprocess_folder: str | None = None) -> None:
        self._folder = multiprocess_folder
        self._collectors: list[Collector] = []
        self.registry = CollectorRegistry()
        self.reviews = Counter(
            "seamless_reviews_total",
            "Admission reviews answered, by kind, operation, outcome and reason of skipping.",
            ("kind", "operation", "outcome", "reason"),
            registry=self.registry,
        )
        self.duration = Histogram(
            "seamless_review_duration_seconds",
            "Time from a whole body to its answer.",
            buckets=_BUCKETS,
            registry=self.registry,
        )
        self.injections = Counter(
            "seamless_settings_applied_total",
            "Answers whose result bears injections of a setting.",
            ("setting",),
            registry=self.registry,
        )
        self.warnings = Counter(
            "seamless_warnings_total",
            "Warnings given to users, by code.",
            ("code",),
            registry=self.registry,
        )
        self.refused = Counter(
            "seamless_requests_refused_total",
            "HTTP requests that were no review, by status code.",
            ("status",),
            registry=self.registry,
        )
        self.errors = Counter(
            "seamless_errors_total",
            "Unexpected errors: each let a request pass unpatched.",
            registry=self.registry,
        )
        self._child = lru_cache(maxsize=4096)(self._find_child)
        build = Gauge(
            "seamless_build_info",
            "Always 1; the version is the label.",
            ("version",),
            registry=self.registry,
            multiprocess_mode="max",
        )
        build.labels(VERSION).set(1)

    def watch_in_flight(self, number: Callable[[], float]) -> None:
        """Export how many reviews are being read or answered, asked when it is wanted."""
        self.watch(
            lambda: {"seamless_requests_in_flight": ("Reviews being read or answered.", number())}
        )

    def watch(self, numbers: Callable[[], Mapping[str, tuple[str, float]]]) -> None:
        """Export numbers that are read when asked for: a name to its help text and value."""
        collector = _Numbers(numbers)
        self._collectors.append(collector)
        self.registry.register(collector)

    def count(self, answer: Answer, seconds: float) -> None:
        """Count one answer and the time that it took."""
        self.duration.observe(seconds)
        request, decision = answer.request, answer.decision
        if request is None or decision is None:
            self.refused.labels(str(answer.status)).inc()
            return
        kind, operation = request.kind.kind, request.operation
        kind = kind if kind in _KINDS else "other"
        operation = operation if operation in _OPERATIONS else "other"
        reason = decision.skipped or ""
        self._child(self.reviews, kind, operation, answer.outcome, reason).inc()
        if decision.skipped == "error":
            self.errors.inc()
        for setting in decision.applied:
            self._child(self.injections, setting).inc()
        for alert in decision.alerts:
            self._child(self.warnings, alert.code).inc()

    @staticmethod
    def _find_child(counter: Counter, *labels: str) -> Counter:
        """Find the counter of some labels: the library takes its time, so it is asked once."""
        return counter.labels(*labels)

    def text(self) -> bytes:
        """Give everything in the text format of Prometheus."""
        registry = self.registry
        if self._folder is not None:
            registry = CollectorRegistry()
            multiprocess.MultiProcessCollector(registry, self._folder)  # type: ignore[no-untyped-call]
            # What is read when asked for is in no folder: the worker that is asked tells its own.
            for collector in self._collectors:
                registry.register(collector)
        return generate_latest(registry)


class _Numbers(Collector):
    def __init__(self, numbers: Callable[[], Mapping[str, tuple[str, float]]]) -> None:
        self._numbers = numbers

    def collect(self) -> Iterable[Metric]:
        for name, (documentation, value) in self._numbers().items():
            yield GaugeMetricFamily(name, documentation, value)
