"""A pod starts when what it depends on is there, and does not crash until then.

An init container named `seamless-precheck` waits for the targets. It comes before the first
ordinary init container and after the native sidecars that precede that one, so that a mesh's
proxy is up. It passes the `restricted` Pod Security Standard, and sets requests and limits, so
that a ResourceQuota accepts it. A container of that name that no record names is the user's.
"""

from __future__ import annotations

import re
from decimal import Decimal
from typing import Any, Final

from webhook.draft import Draft, Field, covers
from webhook.mutations.model import Mutation, PrecheckContainer, Situation
from webhook.settings import Setting, duration, targets
from webhook.targets import parse_require
from webhook.workload import all_containers, init_containers, is_sidecar, is_windows, mapping

NAME: Final = "seamless-precheck"
# Written as the API server stores them, so that it has nothing to rewrite.
_RESOURCES: Final = {
    "requests": {"cpu": "10m", "memory": "32Mi"},
    # A start takes 20 ms of CPU: under a tenth of a CPU that would be a fifth of a second.
    "limits": {"cpu": "500m", "memory": "64Mi"},
}

_QUANTITY = re.compile(r"([+-]?[0-9]*\.?[0-9]+)([eE][+-]?[0-9]{1,3}|[numkMGTPE]|[KMGTPE]i)?")
_DECIMAL: Final = {"n": -9, "u": -6, "m": -3, "k": 3, "M": 6, "G": 9, "T": 12, "P": 15, "E": 18}


def _amount(quantity: Any) -> Any:
    """Give the amount of a resource quantity; what is none, as it is."""
    found = _QUANTITY.fullmatch(quantity) if isinstance(quantity, str) else None
    if found is None:
        return quantity
    amount, suffix = Decimal(found[1]), found[2] or ""
    if suffix.endswith("i"):
        return amount * 1024 ** ("KMGTPE".index(suffix[0]) + 1)
    return amount.scaleb(_DECIMAL[suffix] if suffix in _DECIMAL else int(suffix[1:] or 0))


def _amounts(container: dict[str, Any]) -> dict[str, Any]:
    found = mapping(container.get("resources"))
    return {
        f"{side} {name}": _amount(quantity)
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
        draft.alert("precheck-on-windows", "precheck: not on Windows, nothing is injected")
        return
    if any(container["name"] == NAME for container in all_containers(draft.root)):
        draft.alert("precheck-name-taken", f"precheck: a container {NAME} exists: nothing injected")
        return
    require = situation["precheck-require"].value
    if isinstance(require, int) and require > len(wanted):
        draft.alert(
            "quorum-too-large",
            f"precheck-require: {require} of {len(wanted)} targets cannot be: all are required",
        )
        require = "all"
    at = 0
    for init_container in init_containers(draft.root):
        if not is_sidecar(init_container):
            break
        at += 1
    timeout = situation["precheck-timeout"].value
    container = _container(situation.precheck, wanted, require, timeout)
    draft.inject(PRECHECK, container, name=NAME, at=at)


def _container(
    settings: PrecheckContainer, wanted: tuple[str, ...], require: str | int, timeout: int
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
        "resources": dict(settings.resources or _RESOURCES),
        "securityContext": security,
    }


def _require(text: str) -> str | int:
    return parse_require(text)


MUTATION: Final[Mutation] = Mutation(
    apply=apply,
    fields=(PRECHECK,),
    settings=(
        Setting(
            "precheck",
            targets,
            off=(),
            default="none",
            takes="targets",
            help="adds the init container that waits for them",
        ),
        Setting(
            "precheck-require",
            _require,
            off="all",
            default="all",
            takes="`all` `any` `majority` or a number",
            help="how many must be up",
            modifies="precheck",
        ),
        Setting(
            "precheck-timeout",
            duration,
            off=0,
            default="10m",
            takes="duration, `0` = for ever",
            help="when it gives up",
            modifies="precheck",
        ),
    ),
)
