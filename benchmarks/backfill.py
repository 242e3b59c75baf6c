"""A backfill of a thousand workloads in simulated time: how long, and how many pods out at once.

The run is the real one, over a cluster in memory whose clock moves only where the run waits. A pod
takes a while to become ready, and to end as long as its preStop sleep; the rest follows from the
workload: `minReadySeconds`, the strategy, the number of pods. The same seed gives the same figures
on every machine, but for the last column. `python benchmarks/backfill.py [WORKLOADS]`
"""

from __future__ import annotations

import heapq
import random
import sys
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from typing import Any, cast

import jsonpatch

from webhook.cluster.backfill import Care, Clock, Outcome, Plan, Run, Selection, Stop, Teller, plan
from webhook.cluster.workloads import Workloads
from webhook.decision.admission import Admission
from webhook.decision.configuration import Configuration
from webhook.decision.workload import (
    DAEMON_SET,
    DEPLOYMENT,
    KINDS,
    STATEFUL_SET,
    Json,
    Kind,
    longest_native_sleep,
    strategy_type,
    template,
)
from webhook.rollout.planners import Backfill
from webhook.rollout.progress import Change, Progress, least_total, out_at_once, pods

START_SECONDS = 10
NODES = 40
SPACES = 50


class Simulated(Clock):
    """A clock that moves where somebody waits."""

    def __init__(self) -> None:
        super().__init__()
        self.passed = 0.0

    def seconds(self) -> float:
        """Count."""
        return self.passed

    def now(self) -> datetime:
        """Tell the time of day."""
        return datetime(2026, 1, 1, tzinfo=UTC) + timedelta(seconds=self.passed)

    def wait(self, seconds: float) -> None:
        """Let time pass."""
        self.passed += seconds


@dataclass(slots=True)
class _Rolling:
    """A rollout under way: its pods change in steps of so many, each of which takes a while."""

    began: float
    at_once: int
    step_seconds: float
    out: int
    steps: int


@dataclass(slots=True)
class World:
    """A cluster in memory, with the methods of `Workloads` that a run calls."""

    clock: Simulated
    objects: dict[tuple[str, str, str], Json] = field(default_factory=dict)
    spans: list[tuple[float, float, int]] = field(default_factory=list)
    _rolling: dict[tuple[str, str, str], _Rolling] = field(default_factory=dict)

    def pages(
        self, kind: Kind, _namespace: str | None = None, _selector: str | None = None
    ) -> Iterator[list[Json]]:
        """List."""
        keys = [key for key in self.objects if key[0] == kind.name]
        for start in range(0, len(keys), 250):
            yield [self.get(kind, *key[1:]) for key in keys[start : start + 250]]

    def get(self, kind: Kind, namespace: str, name: str) -> Json:
        """Read one, with the status that it has now."""
        key = (kind.name, namespace, name)
        stored = self.objects[key]
        return {**stored, "status": self._status(kind, key, stored)}

    def patch(
        self,
        kind: Kind,
        namespace: str,
        name: str,
        operations: Sequence[Any],
        _version: str,
        _manager: str,
        **_more: Any,
    ) -> Json:
        """Change one; where its template changes, it rolls."""
        key = (kind.name, namespace, name)
        stored = self.objects[key]
        changed = cast("Json", jsonpatch.apply_patch(stored, operations))
        generation = stored["metadata"]["generation"] + 1
        changed["metadata"] |= {"generation": generation, "resourceVersion": str(generation)}
        self.objects[key] = changed
        if template(changed) != template(stored):
            self._roll(kind, key, changed)
        return self.get(kind, namespace, name)

    def pod_disruption_budgets(self, _namespace: str) -> list[Json]:
        """There are none."""
        return []

    def event(self, *_: object, **__: object) -> None:
        """Nobody reads them."""

    def _roll(self, kind: Kind, key: tuple[str, str, str], stored: Json) -> None:
        count = NODES if kind is DAEMON_SET else pods(kind, stored)
        out = out_at_once(kind, {**stored, "status": {"desiredNumberScheduled": NODES}})
        ends = longest_native_sleep(stored) + 1
        ready = START_SECONDS + stored["spec"].get("minReadySeconds", 0)
        surge = 1 if kind not in (STATEFUL_SET, DAEMON_SET) else 0
        at_once = max(1, out + (surge if strategy_type(kind, stored) != "Recreate" else 0))
        # Where a pod goes before the next one comes, its end is waited for.
        seconds = ready + (ends if out else 0)
        rolling = _Rolling(self.clock.passed, at_once, seconds, out, -(-count // at_once))
        self._rolling[key] = rolling
        end = rolling.began + rolling.steps * seconds
        self.spans.append((rolling.began, end, out))

    def _status(self, kind: Kind, key: tuple[str, str, str], stored: Json) -> Json:
        count = NODES if kind is DAEMON_SET else pods(kind, stored)
        rolling = self._rolling.get(key)
        updated, out = count, 0
        if rolling is not None:
            steps = int((self.clock.passed - rolling.began) // rolling.step_seconds)
            if steps < rolling.steps:
                updated, out = steps * rolling.at_once, rolling.out
            else:
                del self._rolling[key]
        generation = stored["metadata"]["generation"]
        if kind is DAEMON_SET:
            return {
                "observedGeneration": generation,
                "desiredNumberScheduled": count,
                "updatedNumberScheduled": updated,
                "numberAvailable": count - out,
            }
        return {
            "observedGeneration": generation,
            "replicas": count,
            "updatedReplicas": updated,
            "availableReplicas": count - out,
        }

    def most_out(self) -> int:
        """Tell the greatest number of pods that were out at once."""
        most = now = 0
        ends: list[tuple[float, int]] = []
        for began, end, out in sorted(self.spans):
            while ends and ends[0][0] <= began:
                now -= heapq.heappop(ends)[1]
            heapq.heappush(ends, (end, out))
            now += out
            most = max(most, now)
        return most


def workload(kind: Kind, name: str, namespace: str, replicas: int, **spec: Any) -> Json:
    """Build a workload that serves."""
    container = {
        "name": "app",
        "image": "registry.example.com/app:1",
        "ports": [{"containerPort": 8080}],
        "readinessProbe": {"tcpSocket": {"port": 8080}},
    }
    labels = {"app": name}
    return {
        "metadata": {
            "name": name,
            "namespace": namespace,
            "generation": 1,
            "resourceVersion": "1",
        },
        "spec": {
            **({} if kind is DAEMON_SET else {"replicas": replicas}),
            "selector": {"matchLabels": labels},
            **spec,
            "template": {
                "metadata": {"labels": labels},
                "spec": {"terminationGracePeriodSeconds": 30, "containers": [container]},
            },
        },
    }


def world(count: int, clock: Simulated) -> World:
    """Build a cluster: mostly Deployments of a few pods, some large ones, some of each kind."""
    chance = random.Random(7)  # noqa: S311 - the same cluster each time
    made = World(clock)
    for index in range(count):
        part = chance.random()
        spec: Json = {}
        kind, replicas = DEPLOYMENT, chance.randint(1, 10)
        if part < 0.08:
            replicas = chance.randint(20, 60)
        elif part < 0.1:
            replicas, spec = 1, {"strategy": {"type": "Recreate"}}
        elif part < 0.2:
            kind, replicas = STATEFUL_SET, chance.choice((1, 3, 5))
        elif part < 0.23:
            kind = DAEMON_SET
        name, namespace = f"app-{index}", f"team-{chance.randrange(SPACES)}"
        made.objects[kind.name, namespace, name] = workload(kind, name, namespace, replicas, **spec)
    return made


class Silent(Teller):
    """Listens to nobody."""

    def begun(self, change: Change, number: int, total: int) -> None:
        """Nothing."""

    def moved(self, change: Change, found: Progress) -> None:
        """Nothing."""

    def ended(self, outcome: Outcome) -> None:
        """Nothing."""

    def noted(self, text: str, change: Change | None = None) -> None:
        """Nothing."""


@dataclass(frozen=True, slots=True)
class Figures:
    """What a simulation found."""

    plan: Plan
    run: Run
    least: int
    took: float
    most_out: int
    most_rollouts: int


def simulate(count: int, concurrent: int, poll: float = 5.0) -> Figures:
    """Carry a backfill out."""
    clock = Simulated()
    there = world(count, clock)
    workloads = cast("Workloads", there)
    judge = Backfill(Admission(Configuration(scope="cluster")))
    found = plan(workloads, judge, Selection())
    doing = Run(
        workloads,
        judge,
        Care(concurrent=concurrent, poll=poll),
        Silent(),
        clock=clock,
        stop=Stop(clock),
        refresh=lambda _name: None,
    )
    doing.carry_out(found.groups)
    out = there.most_out()
    there.spans = [(began, end, 1) for began, end, _ in there.spans]
    least = least_total(found.groups, concurrent)
    return Figures(found, doing, least, clock.passed, out, there.most_out())


def main() -> None:
    """Print the table."""
    count = int(sys.argv[1]) if len(sys.argv) > 1 else 1000
    pods_in_all = sum(each.pods for each in simulate(count, 100, 60).plan.changes)
    kinds = ", ".join(kind.name for kind in list(KINDS.values())[:3])
    print(f"{count} workloads ({kinds}) of {pods_in_all} pods in {SPACES} namespaces,")
    print(f"a pod ready after {START_SECONDS} s; simulated time\n")
    print("| at once | takes | told before, at least | most pods out at once | computing |")
    print("| --- | --- | --- | --- | --- |")
    for concurrent in (1, 2, 5, 10, 20):
        began = time.perf_counter()
        found = simulate(count, concurrent)
        spent = time.perf_counter() - began
        print(
            f"| {concurrent} | {found.took / 3600:.1f} h | {found.least / 3600:.1f} h "
            f"| {found.most_out} | {spent:.1f} s |"
        )


if __name__ == "__main__":
    main()
