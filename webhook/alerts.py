"""What no patch can mend, told to the user as warnings."""

from __future__ import annotations

import math
import re
from collections.abc import Callable
from typing import Any, Final

from webhook.draft import Alert
from webhook.mutations.model import Situation
from webhook.targets import parse_target
from webhook.workload import (
    DAEMON_SET,
    STATEFUL_SET,
    all_containers,
    containers,
    grace_seconds,
    init_containers,
    is_sidecar,
    mapping,
    native_sleep,
    pod_spec,
    pre_stop,
    resolved,
    rolling_update,
    strategy,
    strategy_type,
)

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

_UNITS: Final = {"": 1, "s": 1, "m": 60, "h": 3600}
_SLEEP = re.compile(r"\bsleep\s+([0-9]{1,6})([smh]?)\b")


def check(workload: Json, situation: Situation) -> list[Alert]:
    """Find what is wrong with a workload as it shall be."""
    found: list[Alert] = []
    for each in _CHECKS:
        each(workload, situation, found)
    return found


def _recreate(workload: Json, situation: Situation, found: list[Alert]) -> None:
    if strategy_type(situation.kind, workload) == "Recreate":
        found.append(
            Alert("recreate", "strategy Recreate stops every pod before it starts a new one")
        )


def _no_readiness_probe(workload: Json, situation: Situation, found: list[Alert]) -> None:
    """One probe makes the whole pod wait, so one container with a probe is enough."""
    if not situation.serving or any(each.get("readinessProbe") for each in containers(workload)):
        return
    sidecars = filter(is_sidecar, init_containers(workload))
    if not any(each.get("readinessProbe") for each in sidecars):
        text = "no readiness probe: new pods get requests before they can answer"
        found.append(Alert("no-readiness-probe", text))


def _hooks(workload: Json, _situation: Situation, found: list[Alert]) -> None:
    grace = grace_seconds(workload)
    for container in all_containers(workload):
        hook = pre_stop(container)
        if hook is None:
            continue
        name, slept = container["name"], _slept(container, hook)
        if slept > grace or slept == grace > 0:
            text = f"the preStop of {name} takes {slept} s of a grace period of {grace} s"
            found.append(Alert("hook-exceeds-grace", text))
        for key in ("livenessProbe", "startupProbe") if slept else ():
            probe: Json = container.get(key) or {}
            seconds = probe.get("terminationGracePeriodSeconds")
            if seconds is not None and seconds <= slept:
                text = f"the {key} of {name} allows {seconds} s, which the preStop sleep uses up"
                found.append(Alert("probe-grace", text))


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
        found.append(Alert("all-unavailable", text))


def _parallel(workload: Json, situation: Situation, found: list[Alert]) -> None:
    spec: Json = workload.get("spec") or {}
    if situation.kind is STATEFUL_SET and spec.get("podManagementPolicy") == "Parallel":
        found.append(Alert("parallel", "podManagementPolicy Parallel scales all pods at once"))


def _unknown_gate(workload: Json, _situation: Situation, found: list[Alert]) -> None:
    for gate in pod_spec(workload).get("readinessGates") or ():
        condition = gate.get("conditionType")
        if isinstance(condition, str) and not condition.startswith(KNOWN_GATES):
            text = f"no known controller sets the readiness gate {condition}"
            found.append(Alert("unknown-gate", text))


def _own_name(workload: Json, situation: Situation, found: list[Alert]) -> None:
    wanted = situation["precheck"].value
    metadata: Json = workload.get("metadata") or {}
    name = metadata.get("name")
    for target in map(parse_target, wanted):
        first, *rest = target.host.rstrip(".").split(".")
        if first == name and (not rest or rest[0] == situation.namespace):
            text = f"precheck: {target} is this workload: it waits for itself"
            found.append(Alert("precheck-of-itself", text))


_CHECKS: Final[tuple[Callable[[Json, Situation, list[Alert]], None], ...]] = (
    _recreate,
    _no_readiness_probe,
    _hooks,
    _all_unavailable,
    _parallel,
    _unknown_gate,
    _own_name,
)
