"""A rollout before it happens: which pod comes and goes when, and what that may lose.

`simulate` is a pure function of its arguments: a discrete-event model of the controller, of the
kubelet and of what sends requests. What it takes for granted is in `docs/simulation.md`.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any, Final, Literal, NamedTuple

from webhook.decision.workload import (
    DAEMON_SET,
    STATEFUL_SET,
    Json,
    Kind,
    mapping,
    pod_spec,
    rolling_update,
)
from webhook.rollout.controllers import Canary, Cluster, Controller, TrackedPod, controller_of
from webhook.rollout.path import Wait, critical_path
from webhook.rollout.pod import PodLifecycle
from webhook.rollout.risk import REASONS, Loss, Risk, requests_at_risk
from webhook.rollout.shape import MOST_PODS, Shape, Version, shape_of
from webhook.rollout.timings import Times, Timings

PhaseName = Literal["starting", "ready", "available", "sleeping", "stopping", "killed"]

_DEFAULTS: Final = Timings()


class SimulationError(ValueError):
    """A rollout that is not simulated; the text says why."""


class Phase(NamedTuple):
    """What a pod does for a while; `end` is none where nothing ends it."""

    name: PhaseName
    start: float
    end: float | None


class Pod(NamedTuple):
    """One pod of a rollout; times in seconds after the change, none for what never happens.

    Args:
        name: its name, as far as it can be known; an old and a new pod may have the same.
        old: whether it was there before the change; it was available then.
        created: when it is created.
        ready: when it becomes ready.
        available: when it has been ready for `minReadySeconds`.
        terminating: when it is deleted.
        signalled: when it is sent SIGTERM.
        stopped: when its last process has ended.
        gone: when it is gone.
        killed: whether a process of it has to be killed.
    """

    name: str
    old: bool
    created: float | None = None
    ready: float | None = None
    available: float | None = None
    terminating: float | None = None
    signalled: float | None = None
    stopped: float | None = None
    gone: float | None = None
    killed: bool = False

    @property
    def phases(self) -> tuple[Phase, ...]:
        """What it does, one after the other, from the change on: a bar to draw."""
        found: list[Phase] = []
        if self.old:
            found.append(Phase("available", 0.0, self.terminating))
        else:
            found.append(Phase("starting", self.created or 0.0, self.ready))
            if self.ready is not None:
                found.append(Phase("ready", self.ready, self.available))
            if self.available is not None:
                found.append(Phase("available", self.available, self.terminating))
        if self.terminating is not None and self.signalled is not None:
            found.append(Phase("sleeping", self.terminating, self.signalled))
            ended = self.stopped if self.killed else self.gone
            found.append(Phase("stopping", self.signalled, ended))
            if self.killed and self.stopped is not None:
                found.append(Phase("killed", self.stopped, self.gone))
        return tuple(each for each in found if each.end is None or each.end > each.start)

    def to_json(self) -> dict[str, Any]:
        """Write it as `plan -o json` does."""
        return {
            "name": self.name,
            "old": self.old,
            "created": _rounded(self.created),
            "ready": _rounded(self.ready),
            "available": _rounded(self.available),
            "terminating": _rounded(self.terminating),
            "stopped": _rounded(self.stopped),
            "gone": _rounded(self.gone),
        }


@dataclass(frozen=True, slots=True)
class Rollout:
    """What a rollout will be; times in seconds after the change.

    Args:
        shape: how its controller sees it.
        rolled_out: when `kubectl rollout status` returns; none where it never does, or fails.
        old_pods_gone: when it is rolled out and the last old pod that goes is gone; none where an
            old pod that is to go never does.
        least_serving: how many pods Services send requests to, at the least.
        most_pods: how many pods there are, at the most, those that are going among them.
        at_risk: requests that may be lost, at the least and at the most.
        losses: when they are, by the first of their seconds.
        path: what the time is spent on, the longest first.
        pods: all pods, in the order of their creation, the old ones first.
        deadline_exceeded: when its progress deadline passes; none where it holds.
        unfinished: why it never ends; empty where it does.
        assumptions: what had to be assumed, of this workload alone.
    """

    shape: Shape
    rolled_out: float | None
    old_pods_gone: float | None
    least_serving: int
    most_pods: int
    at_risk: tuple[int, int]
    losses: tuple[Loss, ...]
    path: tuple[Wait, ...]
    pods: tuple[Pod, ...]
    deadline_exceeded: float | None = None
    unfinished: str = ""
    assumptions: tuple[str, ...] = ()

    @property
    def end(self) -> float:
        """When nothing more happens: how wide a picture has to be."""
        times = [self.rolled_out or 0.0, self.old_pods_gone or 0.0, self.deadline_exceeded or 0.0]
        for pod in self.pods:
            times += [each for each in (pod.created, pod.ready, pod.available, pod.gone) if each]
        return max(times)

    @property
    def longest_wait(self) -> str:
        """Say what most of its time is spent on; empty where it never ends."""
        if not self.path or self.rolled_out is None:
            return ""
        return self.path[0].of(self.rolled_out)

    def to_json(self) -> dict[str, Any]:
        """Write it as `plan -o json` does, under `rollout`."""
        return {
            "rolledOutSeconds": _rounded(self.rolled_out),
            "oldPodsGoneSeconds": _rounded(self.old_pods_gone),
            "leastServing": self.least_serving,
            "mostPods": self.most_pods,
            "requestsAtRisk": list(self.at_risk),
            "criticalPath": [
                {"what": each.what, "seconds": _rounded(each.seconds), "steps": each.steps}
                for each in self.path
            ],
            "deadlineExceededSeconds": _rounded(self.deadline_exceeded),
            "unfinished": self.unfinished or None,
            "assumptions": list(self.assumptions),
            "losses": [
                {
                    "pod": each.pod,
                    "start": _rounded(each.start),
                    "end": _rounded(each.end),
                    "reason": each.reason,
                    "text": REASONS[each.reason],
                    "certain": each.certain,
                }
                for each in self.losses
            ],
            "pods": [each.to_json() for each in self.pods],
        }


def simulate(
    kind: Kind,
    workload: Json,
    timings: Timings = _DEFAULTS,
    server_version: Version | tuple[int, int] | None = None,
    nodes: int | None = None,
) -> Rollout:
    """Simulate what happens when the pod template of a workload changes.

    Before the change all its pods are old, and available for long.

    Args:
        kind: its kind.
        workload: as it is admitted; it is not malformed (`webhook.decision.workload.malformed`).
        timings: what things take.
        server_version: the API server's major and minor version, where it is known.
        nodes: on how many nodes a DaemonSet runs, where it is known.

    Raises:
        SimulationError: it has more pods than are simulated.
    """
    version = None if server_version is None else Version(server_version[0], server_version[1])
    shape = shape_of(kind, workload, version, nodes)
    if shape.pods > MOST_PODS:
        message = f"{shape.pods} pods: at most {MOST_PODS} are simulated"
        raise SimulationError(message)
    metadata = mapping(workload.get("metadata"))
    namespace = metadata.get("namespace")
    times = timings.of(kind, shape.name, namespace if isinstance(namespace, str) else "")
    life = PodLifecycle(workload, times)
    rule = controller_of(shape)
    cluster = Cluster(shape, life, rule.heeds)
    controller = rule(cluster)
    cluster.run(controller)
    return _result(controller, life, times, _assumptions(controller, workload, times, nodes))


def _result(
    controller: Controller, life: PodLifecycle, times: Times, assumptions: tuple[str, ...]
) -> Rollout:
    shape, pods = controller.shape, controller.cluster.pods
    rolled_out = controller.rolled_out
    moments = sorted(_moments(pods))
    exceeded = None if controller.waits else _deadline(shape, moments, rolled_out)
    unfinished = controller.waits if rolled_out is None else ""
    if rolled_out is None and not unfinished:
        unfinished = f"no new pod becomes ready: {life.never}"
    path = () if rolled_out is None else critical_path(controller.last, rolled_out, times)
    if exceeded is not None:
        rolled_out = None
        unfinished = unfinished or "its progress deadline passes before it is rolled out"
    described = tuple(map(_describe, pods))
    gone = [each.gone for each in described if each.gone is not None]
    end = max([rolled_out or 0.0, exceeded or 0.0, *gone, *moments[-1:]])
    asked = life.serving and times.rate > 0
    risk = requests_at_risk(pods, times, end) if asked else Risk(0.0, 0.0, ())
    return Rollout(
        shape=shape,
        rolled_out=rolled_out,
        old_pods_gone=None if exceeded is not None else _old_pods_gone(controller, gone),
        least_serving=min(_levels(_serving(pods), len(controller.old))),
        most_pods=max(_levels(_existing(pods), len(controller.old))),
        at_risk=(math.floor(round(risk.low, 6)), math.ceil(round(risk.high, 6))),
        losses=risk.losses,
        path=path,
        pods=described,
        deadline_exceeded=exceeded,
        unfinished=unfinished,
        assumptions=assumptions,
    )


def _assumptions(
    controller: Controller, workload: Json, times: Times, nodes: int | None
) -> tuple[str, ...]:
    """Name what had to be assumed of this workload."""
    shape = controller.shape
    found = []
    known = nodes is not None or mapping(workload.get("status")).get("desiredNumberScheduled")
    if shape.kind is DAEMON_SET and not known:
        found.append("it is not known on how many nodes it runs: it is simulated on one")
    if shape.kind is STATEFUL_SET and not shape.gated:
        asked = rolling_update(STATEFUL_SET, workload).get("maxUnavailable")
        if asked not in (None, 1):
            found.append(
                "maxUnavailable counts as 1: the API server does not use it, or is unknown"
            )
    if pod_spec(workload).get("readinessGates") and times.balancer is None:
        found.append(
            "its readiness gates are taken to be met at once: the timings have no balancer"
        )
    if isinstance(controller, Canary):
        found += [f"a step of type {each} is taken to need no time" for each in controller.unknown]
    return tuple(found)


def _old_pods_gone(controller: Controller, gone: Sequence[float]) -> float | None:
    staying = sum(1 for each in controller.old if each.terminating is None)
    kept = controller.shape.partition if controller.shape.kind is STATEFUL_SET else 0
    if staying > kept:
        return None
    return max([controller.rolled_out or 0.0, *gone])


def _deadline(shape: Shape, moments: Sequence[float], rolled_out: float | None) -> float | None:
    """Give when a rollout has made no progress for too long: no pod came, went or got further.

    What waits by its own steps is not held to it, as Argo Rollouts do not.
    """
    if shape.deadline is None or any(each.pause for each in shape.steps) or shape.promotion:
        return None
    before = 0.0
    for at in moments:
        if rolled_out is not None and at > rolled_out:
            break
        if at - before > shape.deadline:
            return before + shape.deadline
        before = at
    return before + shape.deadline if rolled_out is None else None


def _moments(pods: Iterable[TrackedPod]) -> Iterator[float]:
    """Walk the moments at which a rollout moved on."""
    for pod in pods:
        for at in (pod.created, pod.ready, pod.available):
            if -math.inf < at < math.inf:
                yield at
        if pod.terminating is not None:
            yield pod.terminating


def _describe(pod: TrackedPod) -> Pod:
    stopped = pod.stopped
    created = None if pod.old else pod.created
    ready, available = _finite(pod.ready), _finite(pod.available)
    if stopped is None:
        return Pod(pod.name, pod.old, created, ready, available)
    return Pod(
        pod.name,
        pod.old,
        created,
        ready,
        available,
        pod.terminating,
        stopped.signalled,
        stopped.stopped,
        stopped.gone,
        stopped.killed,
    )


# --- how many ------------------------------------------------------------------------------------


def _serving(pods: Iterable[TrackedPod]) -> Iterator[tuple[float, int]]:
    """Walk the changes of how many pods Services send requests to."""
    for pod in pods:
        if not pod.old and pod.enters < math.inf:
            yield pod.enters, 1
        if pod.leaves < math.inf:
            yield pod.leaves, -1


def _existing(pods: Iterable[TrackedPod]) -> Iterator[tuple[float, int]]:
    for pod in pods:
        if not pod.old:
            yield pod.created, 1
        if pod.stopped is not None:
            yield pod.stopped.gone, -1


def _levels(changes: Iterable[tuple[float, int]], at_first: int) -> Iterator[int]:
    """Walk the numbers that hold for a while; what changes at one moment changes at once."""
    yield at_first
    level, before = at_first, None
    for at, change in sorted(changes):
        if before is not None and at > before:
            yield level
        level += change
        before = at
    yield level


def _finite(value: float) -> float | None:
    return value if -math.inf < value < math.inf else None


def _rounded(value: float | None) -> float | None:
    return None if value is None else round(value, 2)
