"""The shape of a rollout: what a controller reads of a workload before it moves a pod.

Made once from a workload; percentages are resolved here, each as its own controller rounds it:

    Deployment    maxSurge up, maxUnavailable down; both nothing: one may be away
    StatefulSet   maxUnavailable down, at least one; only where the API server has its gate on
    DaemonSet     both up, of the nodes; both nothing: one may be away
    Argo Rollout  as a Deployment; `setWeight` as close as whole pods come

Sources: kubernetes `pkg/controller/deployment/util/deployment_util.go` (ResolveFenceposts),
`pkg/controller/statefulset/stateful_set_utils.go` (getStatefulSetMaxUnavailable),
`pkg/controller/daemon/util/daemonset_util.go` (SurgeCount, UnavailableCount); KEP-961 for the gate.
"""

from __future__ import annotations

import math
import re
from dataclasses import dataclass
from typing import Any, Final, Literal, NamedTuple

from webhook.decision.workload import (
    DAEMON_SET,
    DEFAULT_DEADLINE_SECONDS,
    DEPLOYMENT,
    ROLLOUT,
    STATEFUL_SET,
    Json,
    Kind,
    mapping,
    resolved,
    rolling_update,
    strategy,
    strategy_type,
)

UNKNOWN_NODES: Final = 1
"""On how many nodes a DaemonSet is taken to run where nobody says."""

MOST_PODS: Final = 10_000
"""More are not simulated one by one."""

_GREATEST: Final = 2**63 - 1  # a field of the API holds no more; a file may say anything
_NO_DEADLINE: Final = 2**31 - 1  # so do users write that there is none
_ARGO_DELAY_SECONDS: Final = 30  # scaleDownDelaySeconds where it is not set

StrategyName = Literal["RollingUpdate", "Recreate", "OnDelete", "Canary", "BlueGreen"]


class Version(NamedTuple):
    """The API server's version; what has a `major` and a `minor` will do."""

    major: int
    minor: int


@dataclass(frozen=True, slots=True)
class Step:
    """One step of a canary.

    Args:
        weight: the weight from then on, in percent; none where the step sets none.
        pods: how many canary pods from then on; none where the weight decides.
        pause: how long it waits, in seconds; infinite where somebody must go on with it.
        unknown: what it does that takes a time which its manifest does not tell.
    """

    weight: int | None = None
    pods: int | None = None
    pause: float = 0.0
    unknown: str = ""


@dataclass(frozen=True, slots=True)
class Shape:
    """What a rollout looks like to its controller.

    Args:
        kind: the workload's kind.
        name: its name.
        pods: how many pods there are when nothing rolls: replicas, or nodes.
        strategy: how they are replaced.
        surge: how many more pods there may be.
        unavailable: how many fewer may be available.
        partition: of a StatefulSet, the ordinals below it stay old.
        ordered: of a StatefulSet, whether its pods come one after the other.
        gated: of a StatefulSet, whether its API server knows `maxUnavailable`.
        paused: whether its controller does nothing for now.
        min_ready: `minReadySeconds`.
        rounds: whether availability is counted from the whole second in which a pod became ready.
        waits_available: whether the next pod waits until the one before is available, not ready.
        deadline: its progress deadline, in seconds; none where it has none.
        steps: of a canary.
        routed: of a canary, whether a traffic router keeps its weights.
        dynamic: of such a one, whether its old pods become fewer as their weight does.
        delay: of Argo Rollouts, how long old pods stay once they get no more requests.
        promotion: of blue-green, how long the new pods wait to be used; infinite: until somebody
            promotes them.
        preview: of blue-green, how many new pods come before they are used; none: all of them.
    """

    kind: Kind
    name: str
    pods: int
    strategy: StrategyName
    surge: int = 0
    unavailable: int = 0
    partition: int = 0
    ordered: bool = True
    gated: bool = False
    paused: bool = False
    min_ready: int = 0
    rounds: bool = True
    waits_available: bool = True
    deadline: int | None = None
    steps: tuple[Step, ...] = ()
    routed: bool = False
    dynamic: bool = False
    delay: float = 0.0
    promotion: float = 0.0
    preview: int | None = None

    @property
    def least_available(self) -> int:
        """How many pods its controller keeps available."""
        if self.strategy == "Recreate":
            return 0
        return max(0, self.pods - self.unavailable)


def knows_max_unavailable(version: Version | None) -> bool:
    """Tell whether a StatefulSet's `maxUnavailable` is used; not where the version is unknown.

    Beta and on in 1.35, off in 1.36 after a regression (kubernetes#137904), on in 1.37.
    """
    if version is None:
        return False
    at = (version[0], version[1])
    return at == (1, 35) or at >= (1, 37)


def shape_of(
    kind: Kind, workload: Json, server_version: Version | None = None, nodes: int | None = None
) -> Shape:
    """Read the shape of a workload's rollout; the workload is not malformed.

    Args:
        kind: its kind.
        workload: as it is admitted or stored.
        server_version: the API server's; none counts as a new one whose gates are off.
        nodes: on how many nodes a DaemonSet runs; none: by its status, else `UNKNOWN_NODES`.
    """
    spec = mapping(workload.get("spec"))
    name = mapping(workload.get("metadata")).get("name")
    common: dict[str, Any] = {
        "kind": kind,
        "name": name if isinstance(name, str) and name else kind.name.lower(),
        "pods": _pods(kind, workload, nodes),
        "min_ready": whole(spec.get("minReadySeconds"), 0),
    }
    modern = server_version is None or (server_version[0], server_version[1]) >= (1, 35)
    if kind is DAEMON_SET:
        return _daemon_set(workload, common)
    if kind is STATEFUL_SET:
        gated = knows_max_unavailable(server_version)
        return _stateful_set(workload, common, modern=modern, gated=gated)
    deadline = whole(spec.get("progressDeadlineSeconds"), DEFAULT_DEADLINE_SECONDS)
    common |= {
        "paused": spec.get("paused") is True,
        "rounds": modern,
        "deadline": deadline if deadline < _NO_DEADLINE else None,
    }
    if kind is ROLLOUT:
        return _rollout(workload, common)
    if strategy_type(DEPLOYMENT, workload) == "Recreate":
        return Shape(strategy="Recreate", unavailable=common["pods"], **common)
    surge, unavailable = _fenceposts(rolling_update(DEPLOYMENT, workload), common["pods"])
    return Shape(strategy="RollingUpdate", surge=surge, unavailable=unavailable, **common)


def whole(value: Any, default: int) -> int:
    """Read a whole number, nothing at the least; the default where there is none."""
    return min(max(0, value), _GREATEST) if type(value) is int else default


def _pods(kind: Kind, workload: Json, nodes: int | None) -> int:
    if kind is DAEMON_SET:
        status = whole(mapping(workload.get("status")).get("desiredNumberScheduled"), 0)
        return max(0, nodes) if nodes is not None else status or UNKNOWN_NODES
    return whole(mapping(workload.get("spec")).get("replicas"), 1)


def _fenceposts(rolling: Json, pods: int) -> tuple[int, int]:
    """Resolve `maxSurge` and `maxUnavailable` as the Deployment controller does."""
    surge = max(0, resolved(_or(rolling.get("maxSurge"), "25%"), pods, math.ceil))
    unavailable = max(0, resolved(_or(rolling.get("maxUnavailable"), "25%"), pods, math.floor))
    if not surge and not unavailable:
        unavailable = 1
    return surge, min(unavailable, pods)


def _or(value: Any, default: Any) -> Any:
    return default if value is None else value


def _stateful_set(workload: Json, common: dict[str, Any], *, modern: bool, gated: bool) -> Shape:
    spec = mapping(workload.get("spec"))
    pods = common["pods"]
    rolling = rolling_update(STATEFUL_SET, workload)
    unavailable = 1
    if gated:
        asked = _or(rolling.get("maxUnavailable"), 1)
        unavailable = max(1, resolved(asked, pods, math.floor))
    ordered = spec.get("podManagementPolicy") != "Parallel"
    return Shape(
        strategy="OnDelete"
        if strategy_type(STATEFUL_SET, workload) == "OnDelete"
        else "RollingUpdate",
        unavailable=min(unavailable, pods),
        partition=min(pods, whole(rolling.get("partition"), 0)),
        ordered=ordered,
        gated=gated,
        rounds=modern,
        waits_available=ordered or modern,  # kubernetes#119234
        **common,
    )


def _daemon_set(workload: Json, common: dict[str, Any]) -> Shape:
    pods = common["pods"]
    if strategy_type(DAEMON_SET, workload) == "OnDelete":
        return Shape(strategy="OnDelete", **common)
    rolling = rolling_update(DAEMON_SET, workload)
    surge = max(0, resolved(_or(rolling.get("maxSurge"), 0), pods, math.ceil))
    unavailable = max(0, resolved(_or(rolling.get("maxUnavailable"), 1), pods, math.ceil))
    if surge:  # the API server refuses both; the controller then heeds the surge alone
        unavailable = 0
    elif not unavailable:
        unavailable = 1
    # Its controller looks again `minReadySeconds` after it has seen the pod ready, not earlier.
    return Shape(
        strategy="RollingUpdate",
        surge=surge,
        unavailable=min(unavailable, pods),
        rounds=False,
        **common,
    )


# --- Argo Rollouts -------------------------------------------------------------------------------


def _rollout(workload: Json, common: dict[str, Any]) -> Shape:
    used = strategy(ROLLOUT, workload)
    pods = common["pods"]
    blue_green = used.get("blueGreen")
    if isinstance(blue_green, dict):
        automatic = blue_green.get("autoPromotionEnabled") is not False
        after = whole(blue_green.get("autoPromotionSeconds"), 0)
        preview = blue_green.get("previewReplicaCount")
        return Shape(
            strategy="BlueGreen",
            surge=pods,
            delay=whole(blue_green.get("scaleDownDelaySeconds"), _ARGO_DELAY_SECONDS),
            promotion=after if after or automatic else math.inf,
            preview=min(pods, preview) if type(preview) is int and preview > 0 else None,
            **common,
        )
    canary = mapping(used.get("canary"))
    surge, unavailable = _fenceposts(canary, pods)
    steps = canary.get("steps")
    routed = bool(canary.get("trafficRouting"))
    return Shape(
        strategy="Canary",
        surge=pods if routed else surge,
        unavailable=0 if routed else unavailable,
        steps=tuple(_step(mapping(each), pods, routed=routed) for each in steps)
        if isinstance(steps, list)
        else (),
        routed=routed,
        dynamic=routed and canary.get("dynamicStableScale") is True,
        delay=whole(canary.get("scaleDownDelaySeconds"), _ARGO_DELAY_SECONDS) if routed else 0,
        **common,
    )


def _step(step: Json, pods: int, *, routed: bool) -> Step:
    if "setWeight" in step:
        return Step(weight=min(100, whole(step["setWeight"], 0)))
    if "pause" in step:
        return Step(pause=pause_seconds(mapping(step["pause"]).get("duration")))
    if "setCanaryScale" in step and routed:  # without a router it is not heeded
        scale = mapping(step["setCanaryScale"])
        weight = scale.get("weight")
        if type(weight) is int:
            return Step(pods=share(pods, weight))
        replicas = scale.get("replicas")
        return Step(pods=max(0, replicas) if type(replicas) is int else -1)
    for name in ("analysis", "experiment", "plugin"):
        if name in step:
            return Step(unknown=name)
    return Step()


def share(pods: int, weight: int) -> int:
    """Tell how many pods a weight stands for where a router keeps it; rounded up."""
    return math.ceil(pods * min(100, max(0, weight)) / 100)


def weighted(pods: int, weight: int, surge: int) -> tuple[int, int]:
    """Tell how many new and how many old pods come closest to a weight that no router keeps.

    One pod more may help, where there may be one more. With a weight from 1 to 99 both sorts have
    a pod at least, if two are allowed. Of two that are as close, the one with more new pods, and
    without the pod more. Source: argo-rollouts `utils/replicaset/canary.go`
    (approximateWeightedCanaryStableReplicaCounts).
    """
    up, down = share(pods, weight), pods * weight // 100
    none_allowed = weight in (0, 100) or (pods == 1 and not surge)
    options = []
    for total in (pods, pods + 1) if surge else (pods,):
        if total > pods or up < pods or none_allowed:
            options.append((up, total))
        tied = total * weight % 100 == 50  # noqa: PLR2004 - half a pod, in hundredths
        if not tied and (down or none_allowed):
            options.append((down, total))
    if not options or not pods:
        return 0, pods
    new, total = min(options, key=lambda each: abs(each[0] * 100 / each[1] - weight))
    return new, total - new


_DURATION: Final = re.compile(r"(?:(\d{1,9})h)?(?:(\d{1,9})m)?(?:(\d{1,9})s?)?")


def pause_seconds(value: Any) -> float:
    """Read how long a canary pauses: seconds, or such as `1h30m`; infinite where none is given."""
    found = _DURATION.fullmatch(str(value)) if type(value) in (int, str) and value else None
    if found is None:
        return math.inf
    hours, minutes, seconds = (int(each or 0) for each in found.groups())
    return hours * 3600 + minutes * 60 + seconds or math.inf
