"""What no patch can mend, told to the user as warnings."""

from __future__ import annotations

import math
import re
from collections.abc import Callable, Collection
from typing import Any, Final

from webhook.decision.draft import Alert, Field
from webhook.decision.estimate import HELM_WAIT_SECONDS, duration, known_seconds
from webhook.decision.mutations.model import Situation
from webhook.decision.mutations.pre_stop import PRE_STOP
from webhook.decision.mutations.precheck import NAME as PRECHECK_NAME
from webhook.decision.outcomes import WarningCode
from webhook.decision.workload import (
    DAEMON_SET,
    STATEFUL_SET,
    all_containers,
    containers,
    grace_seconds,
    init_containers,
    is_sidecar,
    mapping,
    native_sleep,
    never_overlaps,
    pod_spec,
    pre_stop,
    resolved,
    rolling_update,
    strategy,
    strategy_type,
    takes_host_ports,
)
from webhook.precheck.targets import parse_target

Json = dict[str, Any]

# Whoever sets conditions of these prefixes is known; ends with "/" or is the whole type.
KNOWN_GATES: Final = (
    "target-health.elbv2.k8s.aws/",  # AWS Load Balancer Controller 2
    "target-health.alb.ingress.k8s.aws/",  # AWS ALB Ingress Controller 1
    "cloud.google.com/",  # GKE container-native load balancing
    "cloud.tencent.com/",  # Tencent Kubernetes Engine
    "service.readiness.alibabacloud.com/",  # Alibaba Cloud Container Service
    "apps.kruise.io/",  # OpenKruise
    "InPlaceUpdateReady",  # OpenKruise in-place update
    "KruisePodReady",  # OpenKruise
)

READS: Final = (("spec", "podManagementPolicy"),)
"""What is read here and nowhere else (`webhook.decision.partial`)."""

_UNITS: Final = {"": 1, "s": 1, "m": 60, "h": 3600, "d": 86400}
_SLEEP = re.compile(r"\bsleep\s+([0-9]{1,6})([smhd]?)\b")


def check(
    workload: Json, situation: Situation, ours: Collection[tuple[Field, str | None]] = ()
) -> list[Alert]:
    """Find what is wrong with a workload as it shall be; `ours` is what was injected into it."""
    found: list[Alert] = []
    _hooks(workload, ours, found)
    for each in _CHECKS:
        each(workload, situation, found)
    return found


def _no_overlap(workload: Json, situation: Situation, found: list[Alert]) -> None:
    """Tell of rollouts in which no pod serves, or none on a node, until the new one does.

    Where the sleep is inherited it is not applied then, but to a DaemonSet: its pods on other nodes
    take over.
    """
    kind = situation.kind
    used = strategy_type(kind, workload)
    if used == "Recreate":
        text = "strategy Recreate stops every pod before it starts a new one"
        found.append(Alert(WarningCode.RECREATE, text + _no_sleep(situation)))
    elif not situation.inherits:
        return
    elif kind is DAEMON_SET:
        if not _surges(workload):
            text = "on each node nothing serves between the old pod and the new"
            if used == "RollingUpdate" and not takes_host_ports(workload):
                text += "; strategy: surge helps"
            found.append(Alert(WarningCode.NO_OVERLAP, text))
    elif never_overlaps(kind, workload):
        replica = "one replica" if kind is STATEFUL_SET else "one replica without maxSurge"
        text = f"{replica}: no pod serves until the new one is ready{_no_sleep(situation)}"
        found.append(Alert(WarningCode.NO_OVERLAP, text))


def _no_sleep(situation: Situation) -> str:
    sleep = situation["pre-stop-sleep"]
    return "; no inherited sleep" if sleep.value and not sleep.written else ""


def _surges(daemon_set: Json) -> bool:
    surge = rolling_update(DAEMON_SET, daemon_set).get("maxSurge")
    return surge is not None and resolved(surge, 1, math.ceil) > 0


def _no_readiness_probe(workload: Json, situation: Situation, found: list[Alert]) -> None:
    """One probe makes the whole pod wait, so one container with a probe is enough."""
    if not situation.serving or any(each.get("readinessProbe") for each in containers(workload)):
        return
    sidecars = filter(is_sidecar, init_containers(workload))
    if not any(each.get("readinessProbe") for each in sidecars):
        text = "no readiness probe: new pods get requests before they can answer"
        found.append(Alert(WarningCode.NO_READINESS_PROBE, text))


def _hooks(workload: Json, ours: Collection[tuple[Field, str | None]], found: list[Alert]) -> None:
    grace = grace_seconds(workload)
    for container in all_containers(workload):
        hook = pre_stop(container)
        if hook is None:
            continue
        name, slept = container["name"], _slept(container, hook)
        # Whether what we injected fits is not the user's to mend.
        if (slept > grace or slept == grace > 0) and (PRE_STOP, name) not in ours:
            text = f"the preStop of {name} takes {slept} s of a grace period of {grace} s"
            found.append(Alert(WarningCode.HOOK_EXCEEDS_GRACE, text))
        for key in ("livenessProbe", "startupProbe") if slept else ():
            probe: Json = container.get(key) or {}
            seconds = probe.get("terminationGracePeriodSeconds")
            if seconds is not None and seconds <= slept:
                text = f"the {key} of {name} allows {seconds} s, which the preStop sleep uses up"
                found.append(Alert(WarningCode.PROBE_GRACE, text))


def _slept(container: Json, hook: Json) -> int:
    """Tell how many seconds a hook sleeps, as far as its command shows."""
    handler: Json = hook.get("exec") or {}
    command = handler.get("command") or ()
    found = _SLEEP.findall(" ".join(command)) if command else ()
    return native_sleep(container) + sum(int(number) * _UNITS[unit] for number, unit in found)


def _all_unavailable(workload: Json, situation: Situation, found: list[Alert]) -> None:
    rolling = rolling_update(situation.kind, workload)
    canary = mapping(strategy(situation.kind, workload).get("canary"))  # an Argo Rollout's
    unavailable = rolling.get("maxUnavailable", canary.get("maxUnavailable"))
    if unavailable is None:
        return
    spec: Json = workload.get("spec") or {}
    replicas = spec.get("replicas")
    replicas = 1 if replicas is None else replicas
    if situation.kind is DAEMON_SET:  # a node each: only a percentage can mean all
        gone = unavailable == "100%"
    else:
        gone = 0 < replicas <= resolved(unavailable, replicas, math.floor)
    if gone:
        text = f"maxUnavailable {unavailable} lets every replica go at once"
        found.append(Alert(WarningCode.ALL_UNAVAILABLE, text))


def _parallel(workload: Json, situation: Situation, found: list[Alert]) -> None:
    spec: Json = workload.get("spec") or {}
    if situation.kind is STATEFUL_SET and spec.get("podManagementPolicy") == "Parallel":
        text = "podManagementPolicy Parallel: a rolling update ignores minReadySeconds"
        found.append(Alert(WarningCode.PARALLEL, text))


def _unknown_gate(workload: Json, _situation: Situation, found: list[Alert]) -> None:
    for gate in pod_spec(workload).get("readinessGates") or ():
        condition = gate.get("conditionType")
        if isinstance(condition, str) and not condition.startswith(KNOWN_GATES):
            text = f"no known controller sets the readiness gate {condition}"
            found.append(Alert(WarningCode.UNKNOWN_GATE, text))


def _precheck(workload: Json, situation: Situation, found: list[Alert]) -> None:
    wanted = situation["precheck"].value
    if not wanted:
        return
    metadata: Json = workload.get("metadata") or {}
    name = metadata.get("name")
    for target in map(parse_target, wanted):
        first, *rest = target.host.rstrip(".").split(".")
        if first == name and (not rest or rest[0] == situation.namespace):
            text = f"precheck: {target} is this workload: it waits for itself"
            found.append(Alert(WarningCode.PRECHECK_OF_ITSELF, text))
    pod = pod_spec(workload)
    if not pod.get("hostNetwork") or pod.get("dnsPolicy") == "ClusterFirstWithHostNet":
        return
    if any(each["name"] == PRECHECK_NAME for each in init_containers(workload)):
        text = "precheck with hostNetwork: Services are found by dnsPolicy ClusterFirstWithHostNet"
        found.append(Alert(WarningCode.PRECHECK_HOST_NETWORK, text))


def _long_rollout(workload: Json, situation: Situation, found: list[Alert]) -> None:
    spec: Json = workload.get("spec") or {}
    # No step takes longer than this, and none is of less than a pod: mostly that tells enough.
    step = (spec.get("minReadySeconds") or 0) + grace_seconds(workload)
    replicas = spec.get("replicas")
    if step * (1 if replicas is None else replicas) < HELM_WAIT_SECONDS:
        return
    # The time that pods take to become ready comes on top.
    seconds = known_seconds(situation.kind, workload)
    if seconds is not None and seconds >= HELM_WAIT_SECONDS:
        text = f"a rollout takes at least {duration(seconds)}; helm --wait gives up after 5m"
        found.append(Alert(WarningCode.LONG_ROLLOUT, text))


_CHECKS: Final[tuple[Callable[[Json, Situation, list[Alert]], None], ...]] = (
    _no_overlap,
    _no_readiness_probe,
    _all_unavailable,
    _parallel,
    _unknown_gate,
    _precheck,
    _long_rollout,
)
