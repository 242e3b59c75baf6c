"""What is counted. Every label has a bounded set of values: strangers choose none of them.

`docs/metrics.md` lists each metric with its labels and their values, and a test holds the two
together. One process counts in plain numbers of its own, which are put into the text format only
when somebody asks; several workers count through files that they share, which takes longer.
"""

from __future__ import annotations

import platform
from bisect import bisect_left
from collections import defaultdict
from collections.abc import Callable, Iterable, Mapping, Sequence
from itertools import accumulate
from operator import attrgetter, itemgetter
from typing import Final, Protocol

from prometheus_client import (
    CollectorRegistry,
    Counter,
    Histogram,
    ProcessCollector,
    multiprocess,
)
from prometheus_client.core import (
    CounterMetricFamily,
    GaugeMetricFamily,
    HistogramMetricFamily,
    Metric,
)
from prometheus_client.exposition import generate_latest
from prometheus_client.registry import Collector
from prometheus_client.utils import floatToGoString

from webhook import VERSION
from webhook.decision import aws
from webhook.decision.admission import Answer
from webhook.decision.draft import NAMED, TEMPLATE
from webhook.decision.mutations import MUTATIONS
from webhook.decision.outcomes import SkipReason
from webhook.decision.settings import Problem
from webhook.decision.workload import KINDS

CONTENT_TYPE: Final = "text/plain; version=0.0.4; charset=utf-8"
OPERATIONS: Final = frozenset({"CREATE", "UPDATE"})
REVIEWED_KINDS: Final = frozenset({*KINDS, aws.NAMESPACE_KIND.name})
OTHER: Final = "other"
"""What a stranger may have chosen is counted as this."""

SETTINGS: Final = frozenset(
    {"inject", *(setting.name for each in MUTATIONS for setting in each.settings)}
)
RECORD: Final = "record"
"""Stands for a setting where an operation writes the record of what was injected."""

# The API server's own errors aside, everything but a review is answered with one of these. They
# are there from the start: what appears with its first count seems not to have grown.
STATUSES: Final = (400, 408, 413, 415, 500, 503)
# A decision takes some tens of microseconds; the API server waits for three seconds at most.
_BUCKETS: Final = (0.0001, 0.00025, 0.0005, 0.001, 0.0025, 0.005, 0.01, 0.025, 0.1, 0.5, 1, 3)
_FIELDS: Final = tuple((place.full_path, place.setting) for m in MUTATIONS for place in m.fields)
_PATHS: Final = 1000
# What of an answer is counted: kind, operation, outcome, reason of skipping, settings applied,
# paths of operations, codes of warnings, and names of refused settings.
_Counted = tuple[
    str, str, str, str, tuple[str, ...], tuple[str, ...], tuple[str, ...], tuple[str, ...]
]
# A stranger's objects may bring ever new ones, and large ones.
_MOST_COUNTED: Final = 200
_MOST_PARTS: Final = 30
_MOST_LETTERS: Final = 3000
_LONGEST_PATH: Final = 300
_TEMPLATE_METADATA: Final = (*TEMPLATE, "metadata")

_path_of = itemgetter("path")
_code_of = attrgetter("code")


class Tally(Protocol):
    """A counter with labels."""

    def add(self, *labels: str, number: int = 1) -> None:
        """Count something."""


class _Durations(Protocol):
    def observe(self, amount: float) -> None:
        """Count how long something took, in seconds."""


class Metrics:
    """The metrics of one process, or with `multiprocess_folder` of all workers together."""

    def __init__(self, multiprocess_folder: str | None = None) -> None:
        self._folder = multiprocess_folder
        self._read_when_asked: list[Collector] = []
        self.registry = CollectorRegistry()
        self._reviews = self.tally(
            "seamless_reviews_total",
            "Admission reviews answered, by kind, operation, outcome and reason of skipping.",
            "kind",
            "operation",
            "outcome",
            "reason",
        )
        self._duration = self._histogram(
            "seamless_review_duration_seconds", "Time from a whole body to its answer."
        )
        self._applied = self.tally(
            "seamless_settings_applied_total",
            "Answers whose result bears injections of a setting.",
            "setting",
        )
        self._operations = self.tally(
            "seamless_patch_operations_total",
            "JSON Patch operations answered, by the setting that they are for.",
            "setting",
        )
        self._warnings = self.tally(
            "seamless_warnings_total", "Warnings given to users, by code.", "code"
        )
        self._refused_settings = self.tally(
            "seamless_settings_refused_total",
            "Invalid settings that a request was refused for.",
            "setting",
        )
        self._refused = self.tally(
            "seamless_requests_refused_total",
            "HTTP requests that were not answered as a review, by status code.",
            "status",
        )
        self._errors = self.tally(
            "seamless_errors_total", "Unexpected errors: each let a request pass unpatched."
        )
        self._errors.add(number=0)
        for status in STATUSES:
            self._refused.add(str(status), number=0)
        self._setting_of = _SettingOf()
        self._alike: dict[_Counted, list[int]] = {}
        self.include(_Build())
        self.include(ProcessCollector(registry=None))

    def tally(self, name: str, documentation: str, *labels: str) -> Tally:
        """Make a counter that is exported; its name ends in `_total`."""
        if self._folder is not None:
            return _SharedTally(Counter(name, documentation, labels, registry=self.registry))
        tally = _OwnTally(name, documentation, labels)
        self.registry.register(tally)
        return tally

    def _histogram(self, name: str, documentation: str) -> _Durations:
        if self._folder is not None:
            return Histogram(name, documentation, buckets=_BUCKETS, registry=self.registry)
        histogram = _OwnHistogram(name, documentation, _BUCKETS)
        self.registry.register(histogram)
        return histogram

    def watch_in_flight(self, number: Callable[[], float]) -> None:
        """Export how many reviews are being read or answered, asked when it is wanted."""
        self.watch(
            lambda: {"seamless_requests_in_flight": ("Reviews being read or answered.", number())}
        )

    def watch(self, numbers: Callable[[], Mapping[str, tuple[str, float]]]) -> None:
        """Export numbers that are read when asked for: a name to its help text and value.

        What ends in `_total` is a counter, everything else a gauge.
        """
        self.include(_Numbers(numbers))

    def include(self, collector: Collector) -> None:
        """Export what a collector gives when it is asked; of several workers, the one asked's."""
        self._read_when_asked.append(collector)
        self.registry.register(collector)

    def refuse(self, status: int) -> None:
        """Count a request that was not answered as a review."""
        self._refused.add(str(status))

    def count(self, answer: Answer, seconds: float) -> None:
        """Count one answer and the time that it took."""
        self._duration.observe(seconds)
        request, decision = answer.request, answer.decision
        if request is None or decision is None:
            self.refuse(answer.status)
            return
        kind, operation, operations = request.kind.kind, request.operation, decision.operations
        counted = (
            kind if kind in REVIEWED_KINDS else OTHER,
            operation if operation in OPERATIONS else OTHER,
            answer.outcome,
            decision.skipped or "",
            decision.applied,
            tuple(map(_path_of, operations)) if operations and not answer.audited else (),
            tuple(map(_code_of, decision.alerts)) if decision.alerts else (),
            tuple(map(_name_of, decision.refused)) if decision.refused else (),
        )
        try:
            self._alike[counted][0] += 1
        except KeyError:
            self._note(counted)

    def _note(self, counted: _Counted) -> None:
        """Begin to count answers like this one together, unless it is a large one.

        Most of a day's answers are like one of a few. To find that one takes half as long as to
        count all that is in it. Other processes' numbers are in files, and have to be there.
        """
        paths = counted[5]
        large = sum(map(len, counted[4:])) > _MOST_PARTS or sum(map(len, paths)) > _MOST_LETTERS
        if self._folder is not None or large:
            self._take_apart(counted, 1)
            return
        if len(self._alike) >= _MOST_COUNTED:
            self._take_all_apart()
        self._alike[counted] = [1]

    def _take_all_apart(self) -> None:
        for counted, (number,) in self._alike.items():
            self._take_apart(counted, number)
        self._alike.clear()

    def _take_apart(self, counted: _Counted, number: int) -> None:
        kind, operation, outcome, skipped, applied, paths, codes, refused = counted
        self._reviews.add(kind, operation, outcome, skipped, number=number)
        if skipped == SkipReason.ERROR:
            self._errors.add(number=number)
        for tally, values in (
            (self._applied, applied),
            (self._operations, [self._setting_of[path] for path in paths]),
            (self._warnings, codes),
            (self._refused_settings, refused),
        ):
            for value in values:
                tally.add(value, number=number)

    def text(self) -> bytes:
        """Give everything in the text format of Prometheus."""
        self._take_all_apart()
        registry = self.registry
        if self._folder is not None:
            registry = CollectorRegistry()
            multiprocess.MultiProcessCollector(registry, self._folder)  # type: ignore[no-untyped-call]
            # What is read when asked for is in no folder: the worker that is asked tells its own.
            for collector in self._read_when_asked:
                registry.register(collector)
        return generate_latest(registry)


def _name_of(problem: Problem) -> str:
    return problem.name if problem.name in SETTINGS else OTHER


class _SettingOf(dict[str, str]):
    """Remembers `setting_of`, within bounds: a path holds a stranger's indices and keys."""

    def __missing__(self, path: str) -> str:
        setting = setting_of(path)
        if len(self) >= _PATHS:
            self.clear()
        if len(path) <= _LONGEST_PATH:
            self[path] = setting
        return setting


def setting_of(path: str) -> str:
    """Tell which setting an operation of a JSON Patch is for, by its path.

    An operation may write less than a setting's field, or more: what is above it, where it was not
    there. What is above the fields of several settings is nobody's.
    """
    steps = tuple(path.split("/")[1:])
    if steps[:2] == ("metadata", "annotations") or steps[:3] == _TEMPLATE_METADATA:
        return RECORD
    if steps[:2] == ("metadata", "labels"):
        return aws.SETTING
    found = {setting for place, setting in _FIELDS if _touches(steps, place)}
    return found.pop() if len(found) == 1 else OTHER


def _touches(steps: tuple[str, ...], place: tuple[str, ...]) -> bool:
    return all(wanted in (NAMED, step) for step, wanted in zip(steps, place, strict=False))


class _OwnTally(Collector):
    """A counter of one process: a number for each combination of labels."""

    def __init__(self, name: str, documentation: str, labels: Sequence[str]) -> None:
        self._described = (name, documentation)
        self._labels = labels
        self._counts: defaultdict[tuple[str, ...], int] = defaultdict(int)

    def add(self, *labels: str, number: int = 1) -> None:
        self._counts[labels] += number

    def collect(self) -> Iterable[Metric]:
        family = CounterMetricFamily(*self._described, labels=self._labels)
        for labels, number in sorted(self._counts.items()):
            family.add_metric(labels, number)
        yield family


class _SharedTally:
    """A counter of several processes, which the library adds up."""

    def __init__(self, counter: Counter) -> None:
        self._counter = counter
        self._children: dict[tuple[str, ...], Counter] = {}

    def add(self, *labels: str, number: int = 1) -> None:
        child = self._children.get(labels)
        if child is None:
            # The library takes its time to find it, so it is asked once.
            child = self._counter.labels(*labels) if labels else self._counter
            self._children[labels] = child
        child.inc(number)


class _OwnHistogram(Collector):
    """A histogram of one process."""

    def __init__(self, name: str, documentation: str, bounds: Sequence[float]) -> None:
        self._described = (name, documentation)
        self._bounds = bounds
        self._counts = [0] * (len(bounds) + 1)
        self._sum = 0.0

    def observe(self, amount: float) -> None:
        self._counts[bisect_left(self._bounds, amount)] += 1
        self._sum += amount

    def collect(self) -> Iterable[Metric]:
        names = [*map(floatToGoString, self._bounds), "+Inf"]
        buckets = list(zip(names, accumulate(self._counts), strict=True))
        yield HistogramMetricFamily(*self._described, buckets=buckets, sum_value=self._sum)


class _Build(Collector):
    """Always 1: what runs is in the labels."""

    def collect(self) -> Iterable[Metric]:
        text = "Always 1; the versions of the webhook and of Python are the labels."
        family = GaugeMetricFamily("seamless_build_info", text, labels=("version", "python"))
        family.add_metric((VERSION, platform.python_version()), 1)
        yield family


class _Numbers(Collector):
    def __init__(self, numbers: Callable[[], Mapping[str, tuple[str, float]]]) -> None:
        self._numbers = numbers

    def collect(self) -> Iterable[Metric]:
        for name, (documentation, value) in self._numbers().items():
            family = CounterMetricFamily if name.endswith("_total") else GaugeMetricFamily
            yield family(name, documentation, value)
