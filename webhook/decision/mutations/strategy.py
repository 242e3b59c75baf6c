"""No old pod goes before a new one has taken its place.

With `surge`, `maxUnavailable` becomes 0 and `maxSurge` at least 1. A `maxUnavailable` of 0 or 0 %
and any `maxSurge` above zero are safe at every replica count, and stay. Left alone, with a
warning: Recreate, OnDelete, StatefulSets, Argo Rollouts, and whatever wants a port of the node,
for there the extra pod could never start.
"""

from __future__ import annotations

import re
from typing import Any, Final

from webhook.decision.draft import NOTHING, TEMPLATE, Draft, Field
from webhook.decision.mutations.model import Mutation, Situation
from webhook.decision.outcomes import WarningCode
from webhook.decision.settings import Setting, one_of
from webhook.decision.workload import (
    DAEMON_SET,
    DEPLOYMENT,
    Kind,
    keeps_apart,
    pod_spec,
    rolling_update,
    why_no_surge,
)

_PERCENT = re.compile(r"0*(100|[0-9]{1,2})%")
_ZERO = re.compile(r"0+%")  # `"0"` is no percentage, and refused
_LARGEST: Final = 2**31 - 1


def _plausible(value: Any, was: Any) -> bool:
    if type(value) is not int:
        return False
    if isinstance(was, str):
        return _PERCENT.fullmatch(was) is not None
    return was in NOTHING or (type(was) is int and 0 <= was <= _LARGEST)


def _field(key: str, name: str) -> Field:
    return Field(
        ("spec", key, "rollingUpdate", name),
        "strategy",
        in_template=False,
        makes=2,
        plausible=_plausible,
    )


FIELDS: Final = {
    kind: (_field(kind.strategy, "maxUnavailable"), _field(kind.strategy, "maxSurge"))
    for kind in (DEPLOYMENT, DAEMON_SET)
}


def is_zero(value: Any) -> bool:
    """Tell whether a number or percentage of pods is none at all."""
    return _ZERO.fullmatch(value) is not None if isinstance(value, str) else value == 0


def apply(draft: Draft, situation: Situation) -> None:
    """Let new pods come before old ones go."""
    if situation["strategy"].value != "surge":
        return
    kind = situation.kind
    reason = why_no_surge(kind, draft.root)
    if reason:
        draft.alert(WarningCode.NO_SURGE, f"strategy: surge does nothing for {reason}")
        return
    unavailable, surge = _rolling(kind, draft.root)
    default_surge = 0 if kind is DAEMON_SET else "25%"
    good = _plausible(0, unavailable) and (not is_zero(surge) or _plausible(1, surge))
    if (is_zero(unavailable) and is_zero(surge)) or not good:
        return  # invalid as it is: the API server's to refuse
    max_unavailable, max_surge = FIELDS[kind]
    if not is_zero(unavailable):
        draft.inject(max_unavailable, 0)
    if is_zero(default_surge if surge is None else surge):
        draft.inject(max_surge, 1)
    pod = pod_spec(draft.root)
    if any("persistentVolumeClaim" in each for each in pod.get("volumes") or ()):
        draft.alert(
            WarningCode.SURGE_WITH_VOLUME,
            "strategy: surge waits for ever where a claim has one user",
        )
    if keeps_apart(draft.root):
        text = "strategy: surge waits for ever where a required anti-affinity leaves no free node"
        draft.alert(WarningCode.SURGE_WITH_ANTI_AFFINITY, text)


def settle(draft: Draft, kind: Kind) -> None:
    """Never leave a pair of values that the API server refuses."""
    if kind not in FIELDS:
        return
    unavailable, surge = _rolling(kind, draft.root)
    if kind is DEPLOYMENT:
        good = not (is_zero(unavailable) and is_zero(surge))
    else:
        unavailable = 1 if unavailable is None else unavailable
        good = is_zero(unavailable) != is_zero(0 if surge is None else surge)
    if not good:
        for place in FIELDS[kind]:
            draft.keep(place)


def _rolling(kind: Kind, workload: dict[str, Any]) -> tuple[Any, Any]:
    rolling = rolling_update(kind, workload)
    return rolling.get("maxUnavailable"), rolling.get("maxSurge")


MUTATION: Final[Mutation] = Mutation(
    apply=apply,
    fields=tuple(field for pair in FIELDS.values() for field in pair),
    reads=((*TEMPLATE, "spec", "volumes"),),
    settings=(
        Setting(
            "strategy",
            one_of("keep", "surge"),
            off="keep",
            default="keep",
            takes="`keep` `surge`",
            help="`surge`: `maxUnavailable: 0`, and `maxSurge` at least 1",
            examples=("keep", "surge"),
            refused=("rolling",),
        ),
    ),
    settle=settle,
)
