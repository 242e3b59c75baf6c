"""Where every workload of a cluster stands, read page by page; for `seamless status` and as gauges.

Of each workload only a row of words is kept, half a kilobyte, and of the objects themselves one
page at a time: so memory hardly grows with the cluster. The gauges keep counts alone.
"""

from __future__ import annotations

import logging
import sys
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from typing import Final, NamedTuple

from prometheus_client.core import GaugeMetricFamily, Metric
from prometheus_client.registry import Collector

from webhook.cluster.client import FORBIDDEN, NOT_FOUND, Api, ApiError, Backoff, Json
from webhook.cluster.workloads import Namespaces, Workloads
from webhook.decision.admission import Admission
from webhook.decision.configuration import Configuration
from webhook.decision.workload import KINDS, Kind, mapping
from webhook.rollout.state import STATES, standing
from webhook.tls.certificates import Background, jittered

log = logging.getLogger("webhook.cluster.standings")

PAGE: Final = 100
"""Objects asked for at a time: a hundred of 30 kB take some 30 MB once they are decoded."""

Totals = Mapping[str, int]
"""The number of workloads in each state; every state is there."""


class Row(NamedTuple):
    """Where one workload stands, in words.

    Args:
        namespace: its namespace.
        kind: its kind.
        name: its name.
        state: one of `webhook.rollout.state.STATES`.
        reason: why.
        injected: whether it bears injections now.
        applied: the settings whose injections it would bear, decided afresh.
        changes: the settings whose injections that would add, change or take out.
        restarts: whether its pods would restart for it.
    """

    namespace: str
    kind: str
    name: str
    state: str
    reason: str
    injected: bool
    applied: tuple[str, ...]
    changes: tuple[str, ...]
    restarts: bool


@dataclass(slots=True)
class Survey:
    """Where workloads stand: a row of each, sorted, and how many there are of each state.

    `unknown` names the namespaces that could not be read, and so count as selected.
    """

    rows: list[Row] = field(default_factory=list)
    unknown: tuple[str, ...] = ()

    def totals(self) -> Totals:
        """Count all."""
        return _totals(Counter(row.state for row in self.rows))

    def by_namespace(self) -> dict[str, Totals]:
        """Count by namespace, sorted by its name."""
        counts: dict[str, Counter[str]] = {}
        for row in self.rows:
            counts.setdefault(row.namespace, Counter())[row.state] += 1
        return {name: _totals(counts[name]) for name in sorted(counts)}


def survey(
    workloads: Workloads,
    configuration: Configuration,
    *,
    own_namespace: str | None = None,
    namespace: str | None = None,
    selector: str | None = None,
) -> Survey:
    """Find out where workloads stand.

    Args:
        workloads: reads the cluster.
        configuration: the webhook's.
        own_namespace: the namespace that the webhook runs in, which it never touches.
        namespace: the one to look at; all where not given.
        selector: a label selector, as in `kubectl -l`.

    Raises:
        ApiError: something cannot be read.
        InvalidSettingError: the configuration's `defaults` do not parse.
    """
    namespaces = Namespaces(workloads)
    cluster = workloads.cluster()
    admission = Admission(
        configuration,
        namespaces=namespaces.known.get,
        cluster=lambda: cluster,
        own_namespace=own_namespace,
    )
    namespaces.parse = admission.table.namespace
    unknown: tuple[str, ...] = ()
    try:
        namespaces.read(namespace)
    except ApiError as error:
        if namespace is None or error.status not in (FORBIDDEN, NOT_FOUND):
            raise
        unknown = (namespace,) if error.status == FORBIDDEN else ()
    rows = sorted(look(workloads, admission, namespace, selector))
    return Survey(rows, unknown)


def look(
    workloads: Workloads,
    admission: Admission,
    namespace: str | None = None,
    selector: str | None = None,
    pause: Callable[[float], object] = lambda _busy: None,
) -> Iterator[Row]:
    """Read the workloads of every kind, page by page, and tell where each stands.

    Args:
        workloads: reads the cluster.
        admission: the webhook's decision.
        namespace: the one to look at; all where not given.
        selector: a label selector.
        pause: called after each page with the seconds that it took.
    """
    for kind in KINDS.values():
        began = time.monotonic()
        for page in workloads.pages(kind, namespace, selector):
            yield from (_row(admission, kind, workload) for workload in page)
            pause(time.monotonic() - began)
            began = time.monotonic()


def _row(admission: Admission, kind: Kind, workload: Json) -> Row:
    found = standing(admission, kind, workload)
    metadata = mapping(workload.get("metadata"))
    # Of the words that come again with every workload one copy is enough.
    same = sys.intern
    return Row(
        same(str(metadata.get("namespace") or "")),
        kind.name,
        str(metadata.get("name") or ""),
        found.state,
        same(found.reason),
        found.injected,
        tuple(map(same, found.decision.applied)),
        tuple(map(same, found.changes)),
        found.decision.restarts,
    )


def _totals(counts: Mapping[str, int]) -> Totals:
    return {state: counts.get(state, 0) for state in STATES}


# --- gauges --------------------------------------------------------------------------------------


class Counted(NamedTuple):
    """What a survey counted.

    Args:
        totals: the workloads in each state.
        by_namespace: the same by namespace; nothing where that is not wanted.
        finished: when the survey ended, in seconds since 1970.
        seconds: how long it took.
    """

    totals: Totals
    by_namespace: Mapping[str, Totals]
    finished: float
    seconds: float


class Gauges(Collector):
    """Counts for Prometheus: nothing until there are some.

    The labels are bounded: six states, and namespaces only where `by_namespace` is filled in, where
    a state that no workload of a namespace is in is left out.
    """

    def __init__(self, counted: Counted | None = None) -> None:
        self.counted = counted

    def collect(self) -> Iterable[Metric]:
        """Give the gauges."""
        found = self.counted
        if found is None:
            return
        gauge = GaugeMetricFamily(
            "seamless_workloads", "Workloads by where they stand.", labels=["state"]
        )
        for state, number in found.totals.items():
            gauge.add_metric([state], number)
        yield gauge
        if found.by_namespace:
            gauge = GaugeMetricFamily(
                "seamless_namespace_workloads",
                "Workloads by namespace and where they stand.",
                labels=["namespace", "state"],
            )
            for namespace, totals in found.by_namespace.items():
                for state, number in totals.items():
                    if number:
                        gauge.add_metric([namespace, state], number)
            yield gauge
        yield GaugeMetricFamily(
            "seamless_status_timestamp_seconds",
            "When workloads were last looked at, in seconds since 1970.",
            found.finished,
        )
        yield GaugeMetricFamily(
            "seamless_status_duration_seconds", "How long that took.", found.seconds
        )


class StandingsWatch(Gauges):
    """Looks at all workloads every now and then, beside the webhook's own work.

    It reads small pages and rests after each, nine times as long as it took, so that it takes at
    most a tenth of a core and no review waits long for it. What was counted last stays until the
    next survey has ended; one that fails is tried again after a while.

    Args:
        api: the Kubernetes API.
        admission: gives the webhook's decision, with its namespaces, as it is now.
        ready: whether the namespaces are known.
        seconds: from the end of one survey to the begin of the next, give or take a fifth.
    """

    def __init__(
        self,
        api: Api,
        admission: Callable[[], Admission],
        ready: Callable[[], bool],
        seconds: float,
        *,
        backoff: Backoff | None = None,
    ) -> None:
        super().__init__()
        self.errors = 0
        self._workloads = Workloads(api, page=_SMALL_PAGE, wait=self._rest)
        self._admission = admission
        self._ready = ready
        self._seconds = seconds
        self._backoff = backoff or Backoff(most=300.0)
        self._stopping = threading.Event()
        self._background = Background("standings", self.step)

    def start(self) -> None:
        """Begin."""
        self._background.start()

    def stop(self) -> None:
        """End; what was counted stays."""
        self._stopping.set()
        self._background.stop()

    def step(self) -> float:
        """Look at all workloads once, and tell when to do so again."""
        if not self._ready():
            return _NOT_READY_SECONDS
        began = time.monotonic()
        try:
            rows = look(self._workloads, self._admission(), pause=self._pause)
            totals = _totals(Counter(row.state for row in rows))
        except _StoppedError:
            return 0.0
        except ApiError as error:
            self.errors += 1
            log.warning("workloads cannot be counted: %s", error)
            return self._backoff.failed(error)
        self._backoff.succeeded()
        self.counted = Counted(totals, {}, time.time(), time.monotonic() - began)
        return jittered(self._seconds)

    def _pause(self, busy: float) -> None:
        self._rest(min(9 * busy, _LONGEST_REST_SECONDS))

    def _rest(self, seconds: float) -> None:
        if self._stopping.wait(seconds):
            raise _StoppedError


class _StoppedError(Exception):
    """The process is about to end."""


_SMALL_PAGE: Final = 25
_NOT_READY_SECONDS: Final = 1.0
_LONGEST_REST_SECONDS: Final = 1.0
