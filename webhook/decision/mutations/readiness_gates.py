"""A pod counts as ready only when those outside the cluster say so, too.

The condition types are appended to the pod template's `readinessGates`; one that is there already
is not added again. A gate that nobody sets keeps its pods unready for ever.
"""

from __future__ import annotations

from typing import Final

from webhook.decision.draft import Draft, Field
from webhook.decision.mutations.model import Mutation, Situation
from webhook.decision.settings import Setting, condition_types, is_qualified_name
from webhook.decision.workload import pod_spec

READINESS_GATES: Final = Field(
    ("spec", "readinessGates", "*"),
    "readiness-gates",
    makes=1,
    names=is_qualified_name,
    item_key="conditionType",
)


def apply(draft: Draft, situation: Situation) -> None:
    """Append the gates."""
    wanted = situation["readiness-gates"].value
    if not wanted:
        return
    present = {
        gate.get("conditionType") for gate in pod_spec(draft.root).get("readinessGates") or ()
    }
    for condition in wanted:
        if condition not in present:
            draft.inject(READINESS_GATES, {"conditionType": condition}, name=condition)


MUTATION: Final[Mutation] = Mutation(
    apply=apply,
    fields=(READINESS_GATES,),
    settings=(
        Setting(
            "readiness-gates",
            condition_types,
            off=(),
            default="none",
            takes="condition types",
            help="appends them to the pod template's `readinessGates`",
            examples=("example.com/ours", "Ours example.com/own"),
            refused=("a//b", "-x"),
        ),
    ),
)
