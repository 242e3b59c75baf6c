"""A pod starts when what it depends on is there, and does not crash until then.

An init container named `seamless-precheck` waits for the targets. It comes before the first
ordinary init container and after the native sidecars that precede that one, so that a mesh's
proxy is up. It passes the `restricted` Pod Security Standard, and sets requests and limits, so
that a ResourceQuota accepts it, and for no more than the resources of the pod itself allow. A
container of that name that no record names is the user's.
"""

from __future__ import annotations

from collections.abc import Mapping
from decimal import Decimal
from typing import Any, Final

from webhook.decision.draft import TEMPLATE, Draft, Field, covers
from webhook.decision.mutations.model import Mutation, PrecheckContainer, Situation
from webhook.decision.outcomes import WarningCode
from webhook.decision.quantities import amount, at_most, checked
from webhook.decision.settings import Setting, duration, targets
from webhook.decision.workload import (
    all_containers,
    init_containers,
    is_sidecar,
    is_windows,
    mapping,
    pod_spec,
)
from webhook.precheck.targets import parse_require

NAME: Final = "seamless-precheck"
# Written as the API server stores them, so that it has nothing to rewrite. An init container's do
# not add up with those of the others, and a LimitRange may bound the ratio of limits to requests.
_BUILT_IN: Final = "100m/64Mi"


def _amounts(container: dict[str, Any]) -> dict[str, Any]:
    found = mapping(container.get("resources"))
    return {
        f"{side} {name}": quantity if (number := amount(quantity)) is None else number
        for side in ("requests", "limits")
        for name, quantity in mapping(found.get(side)).items()
    }


def _stays(stored: Any, wanted: dict[str, Any]) -> bool:
    """Tell whether a stored container is the wanted one; quantities may be written otherwise."""
    rest = {key: value for key, value in wanted.items() if key != "resources"}
    return covers(stored, rest) and _amounts(stored) == _amounts(wanted)


PRECHECK: Final = Field(
    ("spec", "initContainers", "*"),
    "precheck",
    makes=1,
    names=lambda name: name == NAME,
    stays=_stays,
)


def apply(draft: Draft, situation: Situation) -> None:
    """Insert the init container."""
    wanted = situation["precheck"].value
    if not wanted:
        return
    if is_windows(draft.root):
        draft.alert(
            WarningCode.PRECHECK_ON_WINDOWS, "precheck: not on Windows, nothing is injected"
        )
        return
    if any(container["name"] == NAME for container in all_containers(draft.root)):
        draft.alert(
            WarningCode.PRECHECK_NAME_TAKEN,
            f"precheck: a container {NAME} exists: nothing injected",
        )
        return
    require = situation["precheck-require"].value
    if isinstance(require, int) and require > len(wanted):
        draft.alert(
            WarningCode.QUORUM_TOO_LARGE,
            f"precheck-require: {require} of {len(wanted)} targets cannot be: all are required",
        )
        require = "all"
    before: list[dict[str, Any]] = []
    for init_container in init_containers(draft.root):
        if not is_sidecar(init_container):
            break
        before.append(init_container)
    timeout = situation["precheck-timeout"].value
    resources = _resources(situation)
    of_pod = mapping(pod_spec(draft.root).get("resources"))
    if of_pod:
        resources = _within(of_pod, resources, before)
    container = _container(situation.precheck, wanted, require, timeout, resources)
    draft.inject(PRECHECK, container, name=NAME, at=len(before))


def _resources(situation: Situation) -> Mapping[str, Any]:
    """Give what the container asks for: of the setting, the configuration, or built in."""
    chosen = situation["precheck-resources"].value
    if chosen is None and situation.precheck.resources:
        return dict(situation.precheck.resources)
    cpu, _, memory = (chosen or _BUILT_IN).partition("/")
    return {"requests": {"cpu": cpu, "memory": memory}, "limits": {"cpu": cpu, "memory": memory}}


def _within(
    of_pod: dict[str, Any], asked: Mapping[str, Any], before: list[dict[str, Any]]
) -> dict[str, Any]:
    """Cut what the container asks for to what the pod's own resources leave.

    Each limit must be within the pod's; the requests of the container, and of the native sidecars
    that run beside it, must together be within the pod's (KEP-2837). What is no quantity is left
    for the API server to refuse.
    """
    most_limit, most_request = mapping(of_pod.get("limits")), mapping(of_pod.get("requests"))
    limits: dict[str, str] = dict(asked.get("limits") or {})
    requests: dict[str, str] = dict(asked.get("requests") or {})
    for name in {**limits, **requests}:
        limit = amount(most_limit.get(name))
        request = amount(most_request.get(name))
        if limit is not None and name in limits:
            limits[name] = at_most(limits[name], limit, name)
        bounds = [bound for bound in (limit, request) if bound is not None]
        if bounds:
            # A limit without a request is a request of as much.
            wanted = requests.get(name, limits.get(name, ""))
            least = at_most(wanted, min(bounds) - _taken(before, name), name)
            if name in requests or least != wanted:
                requests[name] = least
    result = dict(asked)
    if limits:
        result["limits"] = limits
    if requests:
        result["requests"] = requests
    return result


def _taken(sidecars: list[dict[str, Any]], name: str) -> Decimal:
    """Add up what native sidecars request of a resource; a limit alone is a request, too."""
    total = Decimal(0)
    for sidecar in sidecars:
        own = mapping(sidecar.get("resources"))
        found = mapping(own.get("requests")).get(name, mapping(own.get("limits")).get(name))
        total += amount(found) or Decimal(0)
    return total


def _container(
    settings: PrecheckContainer,
    wanted: tuple[str, ...],
    require: str | int,
    timeout: int,
    resources: Mapping[str, Any],
) -> dict[str, Any]:
    security: dict[str, Any] = {
        "allowPrivilegeEscalation": False,
        "capabilities": {"drop": ["ALL"]},
        "readOnlyRootFilesystem": True,
        "runAsNonRoot": True,
        "seccompProfile": {"type": "RuntimeDefault"},
    }
    if settings.run_as_user is not None:
        security["runAsUser"] = settings.run_as_user
    return {
        "name": NAME,
        "image": settings.image,
        "imagePullPolicy": settings.image_pull_policy,
        "command": ["seamless", "precheck"],
        # After `--` no target can become an option.
        "args": [f"--require={require}", f"--timeout={timeout}s", "--", *wanted],
        "resources": resources,
        "securityContext": security,
    }


def _require(text: str) -> str | int:
    return parse_require(text)


MUTATION: Final[Mutation] = Mutation(
    apply=apply,
    fields=(PRECHECK,),
    reads=((*TEMPLATE, "spec", "resources"),),
    settings=(
        Setting(
            "precheck",
            targets,
            off=(),
            default="none",
            takes="targets",
            help="adds the init container that waits for them",
            examples=("db:5432", "http://api/a?b=%20 dns://db"),
            refused=("db:0", "ftp://db"),
        ),
        Setting(
            "precheck-require",
            _require,
            off="all",
            default="all",
            takes="`all` `any` `majority` or a number",
            help="how many must be up",
            modifies="precheck",
            examples=("all", "any", "9"),
            refused=("most", "-1"),
        ),
        Setting(
            "precheck-timeout",
            duration,
            off=0,
            default="10m",
            takes="duration, `0` = for ever",
            help="when it gives up",
            modifies="precheck",
            examples=("0", "2m"),
            refused=("1h1s",),
        ),
        Setting(
            "precheck-resources",
            checked,
            off=None,
            default="none",
            takes="CPU/memory, such as `100m/64Mi`",
            help="what its container requests, and its limits; the configuration's where not set",
            modifies="precheck",
            examples=("50m/32Mi", "2/1Gi"),
            refused=("1/2/3", "x"),
        ),
    ),
)
