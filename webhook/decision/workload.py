"""Where each kind keeps its pod template and its fields, and what a workload's own words say.

Workloads stay the untyped JSON that came in, so that fields which this code has never heard of
survive. `malformed` is asked once; after it, every other function here may rely on the shape.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any, Final

from webhook.decision.partial import decoded_where, raw_of

Json = dict[str, Any]

_NOTHING: Final[Json] = {}
DEFAULT_GRACE_SECONDS: Final = 30
DEFAULT_DEADLINE_SECONDS: Final = 600


@dataclass(frozen=True, slots=True, eq=False)
class Kind:
    """One kind of workload.

    Args:
        group: its API group.
        version: its API version.
        name: the kind, as in `kind:`.
        resource: the plural, as in a URL.
        strategy: the key under `spec` that holds its update strategy.
        has_deadline: whether it has a `progressDeadlineSeconds`.
    """

    group: str
    version: str
    name: str
    resource: str
    strategy: str
    has_deadline: bool = False

    @property
    def api_version(self) -> str:
        """The group and version, as in `apiVersion:`."""
        return f"{self.group}/{self.version}" if self.group else self.version


DEPLOYMENT: Final = Kind("apps", "v1", "Deployment", "deployments", "strategy", has_deadline=True)
STATEFUL_SET: Final = Kind("apps", "v1", "StatefulSet", "statefulsets", "updateStrategy")
DAEMON_SET: Final = Kind("apps", "v1", "DaemonSet", "daemonsets", "updateStrategy")
ROLLOUT: Final = Kind(
    "argoproj.io", "v1alpha1", "Rollout", "rollouts", "strategy", has_deadline=True
)

KINDS: Final[Mapping[str, Kind]] = {
    kind.name: kind for kind in (DEPLOYMENT, STATEFUL_SET, DAEMON_SET, ROLLOUT)
}


def find_kind(group: str, version: str, name: str) -> Kind | None:
    """Find a kind that is patched, by its group, version and name."""
    kind = KINDS.get(name)
    if kind is None or kind.group != group or kind.version != version:
        return None
    return kind


def mapping(value: Any) -> Json:
    """Read a place that may hold anything as a mapping, if it is one.

    Raises:
        UndeclaredReadError: it is undecoded, for nobody declares to read it.
    """
    if isinstance(value, dict):
        return value
    if raw_of(value) is not None:
        bool(value)  # raises
    return {}


def items(value: Any) -> list[Json]:
    """Read a place that may hold anything as a list of mappings: those that are in it.

    Raises:
        UndeclaredReadError: it is undecoded, for nobody declares to read it.
    """
    if isinstance(value, list):
        return [each for each in value if isinstance(each, dict)]
    if raw_of(value) is not None:
        bool(value)  # raises
    return []


# Each walks the way by itself, without a helper, and says what it finds on it: they are asked many
# times a request, and compiled, what is known to be a mapping is looked into three times faster.


def template(workload: Json) -> Json:
    """Give the pod template."""
    spec: Json = workload.get("spec") or _NOTHING
    return spec.get("template") or _NOTHING


def pod_spec(workload: Json) -> Json:
    """Give the pod template's spec."""
    spec: Json = workload.get("spec") or _NOTHING
    pod_template: Json = spec.get("template") or _NOTHING
    return pod_template.get("spec") or _NOTHING


def containers(workload: Json) -> list[Json]:
    """Give the regular containers."""
    spec: Json = workload.get("spec") or _NOTHING
    pod_template: Json = spec.get("template") or _NOTHING
    pod: Json = pod_template.get("spec") or _NOTHING
    return pod.get("containers") or []


def init_containers(workload: Json) -> list[Json]:
    """Give the init containers, native sidecars among them."""
    return pod_spec(workload).get("initContainers") or []


def is_sidecar(init_container: Json) -> bool:
    """Tell whether an init container is a native sidecar (KEP-753)."""
    return init_container.get("restartPolicy") == "Always"


_OS_LABEL: Final = "kubernetes.io/os"
_BETA_OS_LABEL: Final = "beta.kubernetes.io/os"
_NAMES_OS: Final = b"kubernetes.io/os"
_NAMES_WINDOWS: Final = b"windowsOptions"


def is_windows(workload: Json) -> bool:
    """Tell whether the pods run on Windows.

    `spec.os` says it, and nothing else counts then; else a node selector or a required node
    affinity for the label of the operating system, or `windowsOptions` of the pod or a container.
    """
    pod = pod_spec(workload)
    system: Json = pod.get("os") or _NOTHING
    name = system.get("name")
    if name is not None:
        return bool(name == "windows")
    selector: Json = pod.get("nodeSelector") or _NOTHING
    if "windows" in (selector.get(_OS_LABEL), selector.get(_BETA_OS_LABEL)):
        return True
    if _has_windows_options(pod):
        return True
    for container in all_containers(workload):
        if _has_windows_options(container):
            return True
    return "affinity" in pod and _needs_windows(decoded_where(pod["affinity"], _NAMES_OS))


def _has_windows_options(node: Json) -> bool:
    if "securityContext" not in node:
        return False
    security = decoded_where(node["securityContext"], _NAMES_WINDOWS)
    return bool(mapping(security).get("windowsOptions"))


def _needs_windows(affinity: Any) -> bool:
    """Tell whether each term of a required node affinity, of which one must hold, asks for it."""
    of_nodes = mapping(mapping(affinity).get("nodeAffinity"))
    required = mapping(of_nodes.get("requiredDuringSchedulingIgnoredDuringExecution"))
    terms = [
        term
        for term in items(required.get("nodeSelectorTerms"))
        if items(term.get("matchExpressions")) or items(term.get("matchFields"))
    ]
    return bool(terms) and all(
        any(map(_asks_for_windows, items(term.get("matchExpressions")))) for term in terms
    )


def _asks_for_windows(expression: Json) -> bool:
    if expression.get("key") not in (_OS_LABEL, _BETA_OS_LABEL):
        return False
    values = expression.get("values")
    operator = expression.get("operator")
    return (operator == "In" and values == ["windows"]) or (
        operator == "NotIn" and values == ["linux"]  # there is no third
    )


_NAMES_ANTI_AFFINITY: Final = b"podAntiAffinity"


def keeps_apart(workload: Json) -> bool:
    """Tell whether a required anti-affinity keeps two of its pods off one node, as far as it says.

    A term whose labels are of other pods does not, nor does one that tells revisions apart.
    """
    pod = pod_spec(workload)
    if "affinity" not in pod:
        return False
    affinity = mapping(decoded_where(pod["affinity"], _NAMES_ANTI_AFFINITY))
    rules = mapping(affinity.get("podAntiAffinity"))
    labels = mapping(mapping(template(workload).get("metadata")).get("labels"))
    for term in items(rules.get("requiredDuringSchedulingIgnoredDuringExecution")):
        same_label = term.get("matchLabelKeys")
        if isinstance(same_label, list) and "pod-template-hash" in same_label:
            continue
        wanted = mapping(mapping(term.get("labelSelector")).get("matchLabels"))
        if all(labels.get(key) == value for key, value in wanted.items()):
            return True
    return False


def takes_host_ports(workload: Json) -> bool:
    """Tell whether two of its pods cannot share a node, for they want the same port."""
    if pod_spec(workload).get("hostNetwork"):
        return True
    return any(port.get("hostPort") for each in all_containers(workload) for port in ports(each))


def ports(container: Json) -> list[Json]:
    """Give the ports that a container declares."""
    return container.get("ports") or []


# Kept exactly as the contract has it: who scrapes, probes or profiles is no traffic.
_NO_TRAFFIC: Final = (
    *("metrics", "http-metrics", "prometheus", "health", "healthz", "probes", "liveness"),
    *("readiness", "pprof", "profiling", "debug"),
)
_FOR_OBSERVERS: Final = frozenset(_NO_TRAFFIC)
_ENDS_FOR_OBSERVERS: Final = tuple("-" + name for name in _NO_TRAFFIC)


def serves(workload: Json) -> bool:
    """Tell by ports, or where there are none by readiness probes, whether it serves traffic.

    A port that is named for metrics, health or profiling serves none.
    """
    declares = probed = False
    for container in containers(workload):
        declared: list[Json] = container.get("ports") or []
        for port in declared:
            declares = True
            name = port.get("name")
            if name is None or not (
                name in _FOR_OBSERVERS or str(name).endswith(_ENDS_FOR_OBSERVERS)
            ):
                return True
        probe: Json = container.get("readinessProbe") or _NOTHING
        if probe.get("httpGet") or probe.get("tcpSocket") or probe.get("grpc"):
            probed = True
    return probed and not declares


def given_grace_seconds(workload: Json) -> int:
    """Give the grace period as it is written, 30 where it is not."""
    seconds = pod_spec(workload).get("terminationGracePeriodSeconds")
    return DEFAULT_GRACE_SECONDS if seconds is None else int(seconds)


def grace_seconds(workload: Json) -> int:
    """Give the grace period that holds for a workload's pods; the API server takes -1 as 1."""
    seconds = given_grace_seconds(workload)
    return seconds if seconds >= 0 else 1


def pre_stop(container: Json) -> Json | None:
    """Give a container's preStop handler; `None` where there is none."""
    lifecycle: Json = container.get("lifecycle") or _NOTHING
    hook: Json | None = lifecycle.get("preStop")
    return hook


def native_sleep(container: Json) -> int:
    """Give the seconds of a container's native preStop sleep; 0 where it has none."""
    lifecycle: Json = container.get("lifecycle") or _NOTHING
    hook: Json = lifecycle.get("preStop") or _NOTHING
    sleep: Json = hook.get("sleep") or _NOTHING
    return sleep.get("seconds") or 0


def has_native_sleep(workload: Json) -> bool:
    """Tell whether any container has a native preStop sleep, of zero seconds too."""
    return any(
        (pre_stop(each) or _NOTHING).get("sleep") is not None for each in all_containers(workload)
    )


def longest_native_sleep(workload: Json) -> int:
    """Give the longest native preStop sleep, in seconds, native sidecars' among them."""
    longest = 0
    for container in containers(workload):
        longest = max(longest, native_sleep(container))
    for container in init_containers(workload):
        longest = max(longest, native_sleep(container))
    return longest


def strategy(kind: Kind, workload: Json) -> Json:
    """Give the update strategy."""
    spec: Json = workload.get("spec") or _NOTHING
    return spec.get(kind.strategy) or _NOTHING


def rolling_update(kind: Kind, workload: Json) -> Json:
    """Give the bounds of a rolling update."""
    return strategy(kind, workload).get("rollingUpdate") or _NOTHING


def resolved(value: Any, replicas: int, rounded: Callable[[float], int]) -> int:
    """Tell how many pods a bound of a rolling update stands for; 0 where it is none at all."""
    if type(value) is int:
        return value
    if isinstance(value, str) and value.endswith("%") and value[:-1].isdecimal():
        return int(rounded(replicas * int(value[:-1][:9]) / 100))
    return 0


def strategy_type(kind: Kind, workload: Json) -> str:
    """Name the update strategy; Argo Rollouts have none of the names of `apps/v1`."""
    if kind is ROLLOUT:
        return ""
    return str(strategy(kind, workload).get("type") or "RollingUpdate")


def never_overlaps(kind: Kind, workload: Json) -> bool:
    """Tell whether no rollout has an old and a new pod serving at the same time.

    Not asked of the pods of a DaemonSet, which stand in for each other on other nodes.
    """
    spec: Json = workload.get("spec") or _NOTHING
    replicas = spec.get("replicas")
    alone = replicas is None or replicas == 1
    if kind is DEPLOYMENT:
        own: Json = spec.get("strategy") or _NOTHING
        if own.get("type") == "Recreate":
            return True
        rolling: Json = own.get("rollingUpdate") or _NOTHING
        return alone and _is_none(rolling.get("maxSurge"))
    if kind is ROLLOUT:
        return alone and _is_none(mapping(strategy(kind, workload).get("canary")).get("maxSurge"))
    return alone and kind is STATEFUL_SET


def _is_none(surge: Any) -> bool:
    """Tell whether a `maxSurge` that is written lets no pod come first."""
    return surge is not None and resolved(surge, 1, math.ceil) == 0


def why_no_surge(kind: Kind, workload: Json) -> str | None:
    """Say for what no extra pod can come first; None where one can."""
    if kind is not DEPLOYMENT and kind is not DAEMON_SET:
        return f"a {kind.name}"
    used = strategy_type(kind, workload)
    if used != "RollingUpdate":
        return f"the strategy {used}"
    if takes_host_ports(workload):
        return "pods that take ports of their node"
    return None


def all_containers(workload: Json) -> Iterator[Json]:
    """Walk the regular containers, then the init containers."""
    yield from containers(workload)
    yield from init_containers(workload)


# --- shape ---------------------------------------------------------------------------------------

_INT64: Final = 2**63


# Only what is read is named; null is allowed wherever a value is.
def _shape(keys: Mapping[str, Any]) -> tuple[tuple[str, type, Any], ...]:
    """Make rows of a key, the type of its value, and the shape of what is below, if that is read.

    In `keys` a type stands for itself, a shape for a mapping of that shape, and a list for a list
    of what it holds.
    """
    return tuple(
        (key, dict if type(below) is tuple else list, below)
        if isinstance(below, tuple | list)
        else (key, below, None)
        for key, below in keys.items()
    )


_METADATA: Final = _shape({"labels": dict, "annotations": dict})
_HOOK: Final = _shape({"exec": _shape({"command": [str]}), "sleep": _shape({"seconds": int})})
_PROBE: Final = _shape({"httpGet": dict, "terminationGracePeriodSeconds": int})
_CONTAINER: Final = _shape(
    {
        "name": str,
        "lifecycle": _shape({"preStop": _HOOK}),
        "readinessProbe": _PROBE,
        "livenessProbe": _PROBE,
        "startupProbe": _PROBE,
        "ports": [_shape({"containerPort": int, "hostPort": int, "name": str})],
    }
)
_POD: Final = _shape(
    {
        "terminationGracePeriodSeconds": int,
        "os": dict,
        "nodeSelector": dict,
        "readinessGates": [_shape({"conditionType": str})],
        "volumes": [dict],
        "containers": [_CONTAINER],
        "initContainers": [_CONTAINER],
    }
)
_STRATEGY: Final = _shape({"rollingUpdate": dict})
_WORKLOAD: Final = _shape(
    {
        "metadata": _METADATA,
        "spec": _shape(
            {
                "minReadySeconds": int,
                "progressDeadlineSeconds": int,
                "replicas": int,
                "strategy": _STRATEGY,
                "updateStrategy": _STRATEGY,
                "template": _shape({"metadata": _METADATA, "spec": _POD}),
            }
        ),
    }
)


def _checked(
    shape: tuple[tuple[str, type, Any], ...], path: tuple[str, ...] = ()
) -> Iterator[tuple[str, ...]]:
    """Walk the paths of what a shape names."""
    for key, kind, below in shape:
        rows = below[0] if kind is list and below else below
        if type(rows) is tuple:
            yield from _checked(rows, (*path, key, "*") if kind is list else (*path, key))
        else:
            yield (*path, key)


_POD_PATH: Final = ("spec", "template", "spec")
READS: Final[tuple[tuple[str, ...], ...]] = (
    *_checked(_WORKLOAD),
    # What may be of any type.
    ("apiVersion",),
    ("kind",),
    *(("metadata", key) for key in ("name", "generateName", "namespace", "deletionTimestamp")),
    ("spec", "template", "metadata"),
    ("spec", "workloadRef"),
    *((*_POD_PATH, key) for key in ("dnsPolicy", "hostNetwork")),
    *((*_POD_PATH, key, "*", "image") for key in ("containers", "initContainers")),
    (*_POD_PATH, "initContainers", "*", "restartPolicy"),
)
"""The paths of what this module, and every request, reads of a workload; `*` is any list item.

Whatever else is read is declared by who reads it; the rest may be undecoded
(`webhook.decision.partial`).
"""

_CALLED: Final = {dict: "mapping", list: "list", str: "string", int: "whole number"}


def malformed(workload: Any) -> str | None:
    """Say where an object does not have the shape of a workload; only what is read is checked.

    The API server has checked the built-in kinds before it asks us; custom resources, files and
    strangers' requests may hold anything.
    """
    if not isinstance(workload, dict):
        return "the object is not a mapping"
    return _complaint(workload, _WORKLOAD)


def _complaint(value: Json, shape: tuple[tuple[str, type, Any], ...]) -> str | None:
    """Name the first place in a mapping that is not of its shape; None where all are."""
    for key, kind, below in shape:
        found = value.get(key)
        if found is None:
            continue
        is_of = type(found)
        if is_of is not kind or (kind is int and not -_INT64 <= found < _INT64):
            return f"{key} is not a {_CALLED[kind]}"
        if below is not None:
            complaint = _complaint(found, below) if kind is dict else _in_list(found, below[0])
            if complaint:
                return key + (complaint if complaint[0] == "[" else f".{complaint}")
    return None


def _in_list(items: list[Any], shape: Any) -> str | None:
    kind = dict if type(shape) is tuple else shape
    for index, item in enumerate(items):
        if type(item) is not kind:
            return f"[{index}] is not a {_CALLED[kind]}"
        if kind is not shape:
            complaint = _complaint(item, shape)
            if complaint is None and shape is _CONTAINER and item.get("name") is None:
                complaint = "name is missing"
            if complaint:
                return f"[{index}].{complaint}"
    return None
