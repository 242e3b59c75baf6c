"""A new pod must have been ready for a while before the next old one goes.

`minReadySeconds` is raised to the setting, never lowered. One that is negative is invalid, and left
for the API server to refuse.
"""

from __future__ import annotations

from typing import Final

from webhook.decision.draft import Draft, Field, raised_from
from webhook.decision.mutations.model import Mutation, Situation
from webhook.decision.settings import Setting, duration

MIN_READY: Final = Field(
    ("spec", "minReadySeconds"), "min-ready", in_template=False, plausible=raised_from(0)
)


def apply(draft: Draft, situation: Situation) -> None:
    """Raise `minReadySeconds`."""
    seconds = situation["min-ready"].value
    if 0 <= (draft.get("spec", "minReadySeconds") or 0) < seconds:
        draft.inject(MIN_READY, seconds)


MUTATION: Final[Mutation] = Mutation(
    apply=apply,
    fields=(MIN_READY,),
    settings=(
        Setting(
            "min-ready",
            duration,
            off=0,
            default="30s",
            takes="duration, `0` = none",
            help="raises `minReadySeconds` to it",
            examples=("0", "8", "580s", "1h"),
            refused=("1h1s", "x"),
        ),
    ),
)
