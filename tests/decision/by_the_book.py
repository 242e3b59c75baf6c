"""A container that fails leaves the end of its log as the reason, where it left none itself.

`terminationMessagePolicy` becomes `FallbackToLogsOnError` where it is `File`, which the API server
fills in where nothing is written.
"""

from __future__ import annotations

from typing import Any, Final

from webhook.decision.draft import NOTHING, Draft, Field
from webhook.decision.mutations.model import Mutation, Situation
from webhook.decision.settings import Setting, one_of
from webhook.decision.workload import containers

_FILE: Final = "File"
_LOGS: Final = "FallbackToLogsOnError"


def _plausible(value: Any, was: Any) -> bool:
    return value == _LOGS and (was in NOTHING or was == _FILE)


POLICY: Final = Field(
    ("spec", "containers", "*", "terminationMessagePolicy"),
    "termination-message",
    plausible=_plausible,
    stored=_FILE,
)


def apply(draft: Draft, situation: Situation) -> None:
    """Set the policy of each regular container that has not chosen one."""
    if situation["termination-message"].value != "logs":
        return
    for container in containers(draft.root):
        if container.get("terminationMessagePolicy") in (None, _FILE):
            draft.inject(POLICY, _LOGS, name=container["name"])


MUTATION: Final[Mutation] = Mutation(
    apply=apply,
    fields=(POLICY,),
    settings=(
        Setting(
            "termination-message",
            one_of("keep", "logs"),
            off="keep",
            default="keep",
            takes="`keep` `logs`",
            help="`logs`: what a failed container logged last is its termination message",
            examples=("keep", "logs"),
            refused=("log", "keep logs"),
        ),
    ),
)
