"""What no patch can mend, told to the user as warnings."""

from __future__ import annotations

import math
import re
from collections.abc import Callable, Iterator
from typing import Any, Final

from webhook.draft import Alert
from webhook.mutations.model import Situation
from webhook.precheck import parse_target
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
    sequence,
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

_SLEEP = re.compile(r"\bsleep\s+([0-9]{1,6})(m|h)?\b")


def check(workload: Json, situation: Situation) -> Iterator[Alert]:
    """Find what is wrong with a workload as it shall be."""
    for found in _CHECKS:
        yield from found(workload, situation)


def _recreate(workload: Json, situation: Situation) -> Iterator[Alert]:
    if strategy_type(situation.kind, workload) == "Recreate":
        yield Alert("recreate", "strategy Recreate stops every pod before it starts a new one")


def _no_readiness_probe(workload: Json, situation: Situation) -> Iterator[Alert]:
    """One probe makes the whole pod wait, so one container with a probe is enough."""
    probed = [*containers(workload), *filter(is_sidecar, init_containers(workload))]
    if situation.serving and not any(each.get("readinessProbe") for each in probed):
        text = "no readiness probe: new pods get requests before they can answer"
        yield Alert("no-readiness-probe", text)


def _long_hook(workload: Json, _situation: Situation) -> Iterator[Alert]:
    grace = grace_seconds(workload)
    for container in all_containers(workload):
        hook = pre_stop(container)
        if hook is None:
            continue
        words = sequence(mapping(hook.get("exec")).get("command"))
        slept = native_sleep(container) + sum(
            int(number) * {"": 1, "m": 60, "h": 3600}[unit]
            for number, unit in _SLEEP.findall(" ".join(words))
        )
        if slept > grace or (slept == grace and slept > 0):
            name = container["name"]
            text = f"the preStop of {name} takes {slept} s of a grace period of {grace} s"
            yield Alert("hook-exceeds-grace", text)


def _all_unavailable(workload: Json, situation: Situation) -> Iterator[Alert]:
    rolling = mapping(strategy(situation.kind, workload).get("rollingUpdate"))
    canary = mapping(strategy(situation.kind, workload).get("canary"))
    unavailable = rolling.get("maxUnavailable", canary.get("maxUnavailable"))
    replicas = (workload.get("spec") or {}).get("replicas")
    replicas = 1 if replicas is None else replicas
    if situation.kind is DAEMON_SET:  # a node each: only a percentage can mean all
        gone = unavailable == "100%"
    else:
        gone = 0 < replicas <= _pods(unavailable, replicas)
    if gone:
        text = f"maxUnavailable {unavailable} lets every replica go at once"
        yield Alert("all-unavailable", text)


def _pods(value: Any, replicas: int) -> int:
    """Resolve a number or percentage of pods, rounded down as the controllers do."""
    if type(value) is int:
        return value
    if isinstance(value, str) and value.endswith("%") and value[:-1].isdecimal():
        return math.floor(replicas * int(value[:-1][:9]) / 100)
    return 0


def _parallel(workload: Json, situation: Situation) -> Iterator[Alert]:
    spec = workload.get("spec") or {}
    if situation.kind is STATEFUL_SET and spec.get("podManagementPolicy") == "Parallel":
        yield Alert("parallel", "podManagementPolicy Parallel scales all pods at once")


def _unknown_gate(workload: Json, _situation: Situation) -> Iterator[Alert]:
    for gate in sequence(pod_spec(workload).get("readinessGates")):
        condition = gate.get("conditionType")
        if isinstance(condition, str) and not condition.startswith(KNOWN_GATES):
            text = f"no known controller sets the readiness gate {condition}"
            yield Alert("unknown-gate", text)


def _own_name(workload: Json, situation: Situation) -> Iterator[Alert]:
    metadata = workload.get("metadata") or {}
    name, namespace = metadata.get("name"), metadata.get("namespace")
    for text in situation["precheck"].value:
        first, *rest = parse_target(text).host.rstrip(".").split(".")
        if first == name and (not rest or rest[0] == namespace):
            yield Alert(
                "precheck-of-itself", f"precheck: {text} is this workload: it waits for itself"
            )


def _probe_grace(workload: Json, _situation: Situation) -> Iterator[Alert]:
    for container in containers(workload):
        slept = native_sleep(container)
        for key in ("livenessProbe", "startupProbe"):
            seconds = mapping(container.get(key)).get("terminationGracePeriodSeconds")
            if slept and seconds is not None and seconds <= slept:
                name = container["name"]
                text = f"the {key} of {name} allows {seconds} s, which the preStop sleep uses up"
                yield Alert("probe-grace", text)


_CHECKS: Final[tuple[Callable[[Json, Situation], Iterator[Alert]], ...]] = (
    _recreate,
    _no_readiness_probe,
    _long_hook,
    _all_unavailable,
    _parallel,
    _unknown_gate,
    _own_name,
    _probe_grace,
)
