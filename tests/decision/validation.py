"""What an API server refuses: its schemas, and the rules that no schema says.

Only what the decision could break is here; a rule is a sentence, so that two lists of complaints
can be compared.
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Iterator
from decimal import Decimal
from functools import lru_cache
from typing import Any, Final

import jsonschema
import kubernetes_validate.utils as schemas
import referencing

from tests.builders import STRATEGY_KEY, Json, plain, pod_of
from webhook.decision.quantities import amount

VERSIONS: Final = tuple(
    dict.fromkeys(
        version
        for version in map(schemas.major_minor, schemas.all_versions())
        if tuple(map(int, version.split("."))) >= (1, 29)
    )
)
"""The versions that kubernetes-validate offers, 1.29 to its newest."""


@lru_cache(maxsize=64)
def _validator(version: str, kind: str) -> Any:
    """Load a schema once; the package reads it from disk for each object."""
    folder = f"kubernetes-json-schema/v{version}.0-local"
    schema = schemas.schema_contents(f"{folder}/{kind.lower()}-apps-v1.json", version)
    definitions = schemas.schema_contents(f"{folder}/_definitions.json", version)
    registry = referencing.Registry()
    for content in (schema, definitions):
        registry = referencing.Resource.from_contents(content) @ registry
    return jsonschema.validators.Draft202012Validator(schema, registry=registry)


def fits_schema(given: Json, version: str) -> bool:
    """Tell whether an object of a built-in kind fits its schema; others always do."""
    kind = given["kind"]
    return kind == "Rollout" or bool(_validator(version, kind).is_valid(plain(given)))


_LABEL = re.compile(r"[a-z0-9]([-a-z0-9]{0,61}[a-z0-9])?")
_QUALIFIED = re.compile(
    r"([a-z0-9]([-a-z0-9.]{0,251}[a-z0-9])?/)?[A-Za-z0-9]([-A-Za-z0-9_.]{0,61}[A-Za-z0-9])?"
)
_ANNOTATIONS: Final = 262_144
_LINUX_ONLY: Final = (
    "capabilities",
    "seccompProfile",
    "runAsUser",
    "readOnlyRootFilesystem",
    "allowPrivilegeEscalation",
)


def complaints(given: Json) -> set[str]:
    """Say what an API server would refuse, beyond the schema."""
    given = plain(given)
    return {
        *_of_pod(given),
        *_of_spec(given),
        *_of_annotations("workload", given.get("metadata")),
        *_of_annotations("template", given["spec"]["template"].get("metadata")),
    }


def _of_annotations(where: str, metadata: Any) -> Iterator[str]:
    annotations = (metadata or {}).get("annotations") or {}
    size = 0
    for key, value in annotations.items():
        if value is not None and not isinstance(value, str):
            yield f"{where} annotation {key} is no string"
        size += len(key.encode()) + len((value or "").encode() if isinstance(value, str) else b"")
    if size > _ANNOTATIONS:
        yield f"the annotations of the {where} are too long"


def _of_pod(given: Json) -> Iterator[str]:
    pod = pod_of(given)
    regular = pod.get("containers") or []
    initial = pod.get("initContainers") or []
    grace = pod.get("terminationGracePeriodSeconds")
    grace = 30 if grace is None else grace
    yield from _of_names([*regular, *initial])
    sidecars = [each for each in initial if each.get("restartPolicy") == "Always"]
    for each in [*regular, *sidecars]:
        yield from _of_hook(each, grace)
        yield from _of_probe(each)
    for each in initial:
        if each not in sidecars and (each.get("lifecycle") or each.get("readinessProbe")):
            yield f"the init container {each['name']} has a hook or a probe"
    for gate in pod.get("readinessGates") or []:
        if not _QUALIFIED.fullmatch(gate.get("conditionType") or ""):
            yield f"the gate {gate.get('conditionType')} is no qualified name"
    if (pod.get("os") or {}).get("name") == "windows":
        yield from _of_windows([*regular, *initial])
    yield from _of_resources(pod, regular, initial)


def _of_resources(pod: Json, regular: list[Json], initial: list[Json]) -> Iterator[str]:
    """Hold what containers ask for against the resources of the pod itself (KEP-2837)."""

    def asked(owner: Json, side: str, name: str) -> Decimal | None:
        return amount(((owner.get("resources") or {}).get(side) or {}).get(name))

    def requested(container: Json) -> Decimal:
        found = asked(container, "requests", name)
        found = asked(container, "limits", name) if found is None else found
        return found or Decimal(0)

    for name in ("cpu", "memory"):
        limit, request = asked(pod, "limits", name), asked(pod, "requests", name)
        for each in [*regular, *initial]:
            if limit is not None and (asked(each, "limits", name) or 0) > limit:
                yield f"{each['name']} may use more {name} than its pod"
        together = sidecars = Decimal(0)
        for each in initial:
            together = max(together, sidecars + requested(each))
            sidecars += requested(each) if each.get("restartPolicy") == "Always" else 0
        together = max(together, sidecars + sum(map(requested, regular)))
        if any(bound is not None and together > bound for bound in (limit, request)):
            yield f"the containers ask for more {name} than their pod"


def _of_names(containers: list[Json]) -> Iterator[str]:
    for name, count in Counter(each["name"] for each in containers).items():
        if count > 1:
            yield f"the name {name} comes {count} times"
        if not _LABEL.fullmatch(name):
            yield f"the name {name} is no label"


def _of_windows(containers: list[Json]) -> Iterator[str]:
    for each in containers:
        for key in _LINUX_ONLY:
            if (each.get("securityContext") or {}).get(key) is not None:
                yield f"{each['name']} has {key} on Windows"


def _of_hook(container: Json, grace: int) -> Iterator[str]:
    hook = (container.get("lifecycle") or {}).get("preStop")
    if hook is None:
        return
    name = container["name"]
    handlers = [key for key in ("exec", "httpGet", "tcpSocket", "sleep") if hook.get(key)]
    if len(handlers) != 1:
        yield f"the preStop of {name} has {len(handlers)} handlers"
    if (hook.get("exec") is not None) and not (hook["exec"] or {}).get("command"):
        yield f"the preStop of {name} runs nothing"
    if hook.get("sleep") and not 0 <= (hook["sleep"].get("seconds") or 0) <= grace:
        yield f"the preStop of {name} sleeps longer than the grace period"


def _of_probe(container: Json) -> Iterator[str]:
    probe = container.get("readinessProbe")
    if probe is None:
        return
    handlers = [key for key in ("exec", "httpGet", "tcpSocket", "grpc") if probe.get(key)]
    if len(handlers) != 1:
        yield f"the readiness probe of {container['name']} has {len(handlers)} handlers"
    if probe.get("terminationGracePeriodSeconds") is not None:
        yield f"the readiness probe of {container['name']} has a grace period"


def _of_spec(given: Json) -> Iterator[str]:
    kind, spec = given["kind"], given["spec"]
    ready = spec.get("minReadySeconds") or 0
    if ready < 0:
        yield "minReadySeconds is negative"
    if kind in {"Deployment", "Rollout"}:  # Argo checks its own
        deadline = spec.get("progressDeadlineSeconds")
        if (600 if deadline is None else deadline) <= ready:
            yield "the deadline is not above minReadySeconds"
    elif kind in {"StatefulSet", "DaemonSet"} and "progressDeadlineSeconds" in spec:
        yield "there is a deadline"
    if kind not in {"Deployment", "DaemonSet"}:
        return
    strategy = spec.get(STRATEGY_KEY[kind]) or {}
    rolling = strategy.get("rollingUpdate")
    if (strategy.get("type") or "RollingUpdate") != "RollingUpdate":
        if rolling and kind == "Deployment":
            yield "rollingUpdate is set beside another type"
        return
    default = ("25%", "25%") if kind == "Deployment" else (1, 0)
    pair = [(rolling or {}).get(key) for key in ("maxUnavailable", "maxSurge")]
    zero = [
        _is_zero(fallback if value is None else value)
        for value, fallback in zip(pair, default, strict=True)
    ]
    if all(zero):
        yield "maxUnavailable and maxSurge are both zero"
    if kind == "DaemonSet" and not any(zero):
        yield "maxUnavailable and maxSurge are both set"


def _is_zero(value: Any) -> bool:
    if isinstance(value, str):
        return bool(re.fullmatch(r"0+%", value))
    return bool(value == 0)
