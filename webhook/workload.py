"""Where each kind keeps its pod template and its fields, and what a workload's own words say.

Workloads stay the untyped JSON that came in, so that fields which this code has never heard of
survive. `malformed` is asked once; after it, every other function here may rely on the shape.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any, Final

Json = dict[str, Any]

DEFAULT_GRACE_SECONDS: Final = 30
DEFAULT_DEADLINE_SECONDS: Final = 600


@dataclass(frozen=True, slots=True)
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
        return f"{self.group}/{self.version}"


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
    """Read a place that may be absent or null as a mapping."""
    return value if isinstance(value, dict) else {}


def sequence(value: Any) -> list[Any]:
    """Read a place that may be absent or null as a list."""
    return value if isinstance(value, list) else []


def template(workload: Json) -> Json:
    """Give the pod template."""
    return mapping(mapping(workload.get("spec")).get("template"))


def pod_spec(workload: Json) -> Json:
    """Give the pod template's spec."""
    return mapping(template(workload).get("spec"))


def containers(workload: Json) -> list[Json]:
    """Give the regular containers."""
    return sequence(pod_spec(workload).get("containers"))


def init_containers(workload: Json) -> list[Json]:
    """Give the init containers, native sidecars among them."""
    return sequence(pod_spec(workload).get("initContainers"))


def is_sidecar(init_container: Json) -> bool:
    """Tell whether an init container is a native sidecar (KEP-753)."""
    return init_container.get("restartPolicy") == "Always"


def is_windows(workload: Json) -> bool:
    """Tell whether the pods run on Windows."""
    spec = pod_spec(workload)
    system = mapping(spec.get("os")).get("name")
    if system is None:
        system = mapping(spec.get("nodeSelector")).get("kubernetes.io/os")
    return bool(system == "windows")


def takes_host_ports(workload: Json) -> bool:
    """Tell whether two of its pods cannot share a node, for they want the same port."""
    if pod_spec(workload).get("hostNetwork"):
        return True
    return any(port.get("hostPort") for each in containers(workload) for port in ports(each))


def ports(container: Json) -> list[Json]:
    """Give the ports that a container declares."""
    return sequence(container.get("ports"))


def serves(workload: Json) -> bool:
    """Tell by ports and readiness probes whether a workload serves traffic."""
    for container in containers(workload):
        if container.get("ports"):
            return True
        probe = mapping(container.get("readinessProbe"))
        if probe.get("httpGet") or probe.get("tcpSocket") or probe.get("grpc"):
            return True
    return False


def grace_seconds(workload: Json) -> int:
    """Give the grace period that holds for a workload's pods."""
    seconds = pod_spec(workload).get("terminationGracePeriodSeconds")
    return DEFAULT_GRACE_SECONDS if seconds is None else int(seconds)


def pre_stop(container: Json) -> Json | None:
    """Give a container's preStop handler; `None` where there is none."""
    hook = mapping(container.get("lifecycle")).get("preStop")
    return None if hook is None else mapping(hook)


def native_sleep(container: Json) -> int:
    """Give the seconds of a container's native preStop sleep; 0 where it has none."""
    return mapping(mapping(pre_stop(container)).get("sleep")).get("seconds") or 0


def longest_native_sleep(workload: Json) -> int:
    """Give the longest native preStop sleep, in seconds, native sidecars' among them."""
    return max(map(native_sleep, all_containers(workload)), default=0)


def strategy(kind: Kind, workload: Json) -> Json:
    """Give the update strategy."""
    return mapping(mapping(workload.get("spec")).get(kind.strategy))


def strategy_type(kind: Kind, workload: Json) -> str:
    """Name the update strategy; Argo Rollouts have none of the names of `apps/v1`."""
    if kind is ROLLOUT:
        return ""
    return str(strategy(kind, workload).get("type") or "RollingUpdate")


def all_containers(workload: Json) -> Iterator[Json]:
    """Walk the regular containers, then the init containers."""
    yield from containers(workload)
    yield from init_containers(workload)


# --- shape ---------------------------------------------------------------------------------------

_INT64: Final = 2**63

# Only what is read is named. A mapping of keys is a mapping with these, a list of one shape a list
# of such items; null is allowed wherever a value is.
_METADATA: Final = {"labels": dict, "annotations": dict}
_HOOK: Final = {"exec": {"command": [str]}, "sleep": {"seconds": int}}
_PROBE: Final = {"httpGet": dict, "terminationGracePeriodSeconds": int}
_CONTAINER: Final = {
    "name": str,
    "lifecycle": {"preStop": _HOOK},
    "readinessProbe": _PROBE,
    "livenessProbe": _PROBE,
    "startupProbe": _PROBE,
    "ports": [dict],
}
_TEMPLATE: Final = {
    "metadata": _METADATA,
    "spec": {
        "terminationGracePeriodSeconds": int,
        "os": dict,
        "nodeSelector": dict,
        "readinessGates": [dict],
        "volumes": [dict],
        "containers": [_CONTAINER],
        "initContainers": [_CONTAINER],
    },
}
_STRATEGY: Final = {"rollingUpdate": dict}
_WORKLOAD: Final = {
    "metadata": _METADATA,
    "spec": {
        "minReadySeconds": int,
        "progressDeadlineSeconds": int,
        "replicas": int,
        "strategy": _STRATEGY,
        "updateStrategy": _STRATEGY,
        "template": _TEMPLATE,
    },
}
_CALLED: Final = {dict: "a mapping", list: "a list", str: "a string", int: "a whole number"}


def malformed(workload: Any) -> str | None:
    """Say where an object does not have the shape of a workload; only what is read is checked.

    The API server has checked the built-in kinds before it asks us; custom resources, files and
    strangers' requests may hold anything.
    """
    if not isinstance(workload, dict):
        return "the object is not a mapping"
    return _complaint(workload, _WORKLOAD)


def _complaint(value: Any, shape: Any) -> str | None:
    """Name the first place below a value that is not of its shape; None where all are."""
    if type(shape) is dict:
        if type(value) is not dict:
            return " is not a mapping"
        for key, below in shape.items():
            found = value.get(key)
            if found is not None:
                complaint = _complaint(found, below)
                if complaint:
                    return _joined(key, complaint)
        if shape is _CONTAINER and value.get("name") is None:
            return "name is not a string"
    elif type(shape) is list:
        if type(value) is not list:
            return " is not a list"
        for index, item in enumerate(value):
            complaint = _complaint(item, shape[0])
            if complaint:
                return _joined(f"[{index}]", complaint)
    elif type(value) is not shape or (shape is int and not -_INT64 <= value < _INT64):
        return f" is not {_CALLED[shape]}"
    return None


def _joined(step: str, rest: str) -> str:
    return step + rest if rest[0] in " [" else f"{step}.{rest}"
