"""The grace period covers the sleep, and then leaves the application the time that it had.

S is the longest native sleep in the result, or the sleep that was injected or chained if that is
longer; A is `shutdown-time`, else the grace period that the user gave. The grace period becomes
the larger of what the user gave and S + A. Where no preStop was injected or chained, none of our
grace periods was recorded, and `shutdown-time` is not set, it stays.
"""

from __future__ import annotations

from typing import Any, Final

from webhook.draft import NOTHING, Draft, Field
from webhook.mutations.model import Mutation, Situation
from webhook.mutations.pre_stop import PRE_STOP, wanted_sleep
from webhook.settings import Setting, duration
from webhook.workload import DEFAULT_GRACE_SECONDS, Kind, grace_seconds, longest_native_sleep

_LARGEST: Final = 2**63 - 1


def _plausible(value: Any, was: Any) -> bool:
    return type(value) is int and (was in NOTHING or (type(was) is int and 0 <= was < value))


GRACE_PERIOD: Final = Field(
    ("spec", "terminationGracePeriodSeconds"),
    "pre-stop-sleep",
    plausible=_plausible,
    stored=DEFAULT_GRACE_SECONDS,
)


def apply(draft: Draft, situation: Situation) -> None:
    """Raise the grace period."""
    shutdown = situation["shutdown-time"]
    sleep = wanted_sleep(draft, situation)
    hooked = any(place is PRE_STOP for place, _ in draft.injected)
    # What is inherited follows the sleep that it modifies; what is written always applies.
    asked = shutdown.value is not None and (shutdown.written or sleep > 0)
    if not (hooked or asked or (GRACE_PERIOD, None) in draft.taken):
        return
    given = grace_seconds(draft.root)
    if given < 0:
        return
    longest = max(longest_native_sleep(draft.root), sleep if hooked else 0)
    needed = longest + (shutdown.value if asked else given)
    if needed > given:
        setting = "shutdown-time" if asked else None
        draft.inject(GRACE_PERIOD, min(needed, _LARGEST), setting=setting)


def settle(draft: Draft, _kind: Kind) -> None:
    """A sleep longer than the grace period is invalid: then ours stays, and is the user's."""
    if longest_native_sleep(draft.root) > grace_seconds(draft.root):
        draft.keep(GRACE_PERIOD)


MUTATION: Final[Mutation] = Mutation(
    apply=apply,
    fields=(GRACE_PERIOD,),
    settings=(
        Setting(
            "shutdown-time",
            duration,
            off=None,
            default="none",
            takes="duration",
            help="how long the application needs after SIGTERM; the grace period it had where "
            "not set",
            modifies="pre-stop-sleep",
        ),
    ),
    settle=settle,
)
