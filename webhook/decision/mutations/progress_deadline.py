"""Raising `minReadySeconds` never makes a workload impossible to create or to roll out.

The API server refuses a Deployment whose `progressDeadlineSeconds` is not above its
`minReadySeconds`, and a rollout needs some time beyond it. Let P be the deadline (600 where
absent) and m the `minReadySeconds` that the user wrote, m' the one that it has now: where fewer
than min(60, P - m) seconds would remain, P becomes P + (m' - m). What is invalid already is left
for the API server to refuse.
"""

from __future__ import annotations

from typing import Any, Final

from webhook.decision.draft import Draft, Field, raised_from
from webhook.decision.mutations.model import Mutation, Situation
from webhook.decision.workload import DEFAULT_DEADLINE_SECONDS, Kind

_ROOM_SECONDS: Final = 60


PROGRESS_DEADLINE: Final = Field(
    ("spec", "progressDeadlineSeconds"), "min-ready", in_template=False, plausible=raised_from(0)
)


def _deadline(draft: Draft) -> int:
    seconds = draft.get("spec", "progressDeadlineSeconds")
    return DEFAULT_DEADLINE_SECONDS if seconds is None else int(seconds)


def _min_ready(workload: dict[str, Any]) -> int:
    return (workload.get("spec") or {}).get("minReadySeconds") or 0


def apply(draft: Draft, situation: Situation) -> None:
    """Raise the deadline by as much as `minReadySeconds` was raised."""
    if not situation.kind.has_deadline:
        return
    before, after = _min_ready(draft.baseline), _min_ready(draft.root)
    if _deadline(draft) <= before:
        draft.keep(PROGRESS_DEADLINE)
    deadline = _deadline(draft)
    if before < deadline and deadline - after < min(_ROOM_SECONDS, deadline - before):
        draft.inject(PROGRESS_DEADLINE, deadline + after - before)


def settle(draft: Draft, kind: Kind) -> None:
    """A deadline that is not above `minReadySeconds` is invalid: then ours stays."""
    if kind.has_deadline and _deadline(draft) <= _min_ready(draft.root):
        draft.keep(PROGRESS_DEADLINE)


MUTATION: Final[Mutation] = Mutation(apply=apply, fields=(PROGRESS_DEADLINE,), settle=settle)
