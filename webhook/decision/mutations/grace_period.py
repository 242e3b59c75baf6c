"""The grace period covers the sleep, and then leaves the application the time that it had.

S is the longest native sleep in the result, or the sleep that was injected or chained if that is
longer; A is `shutdown-time`, else the grace period that the user gave (a negative one counts as 1).
The grace period becomes the larger of what the user gave and S + A, but of S + A no more than
`max-grace`, for which the sleep was cut. Where no preStop is injected or chained, and
`shutdown-time` is not set, it stays as the user gave it.
"""

from __future__ import annotations

from typing import Final

from webhook.decision.draft import Draft, Field, raised_from
from webhook.decision.mutations.model import Mutation, Situation, published_sleep
from webhook.decision.outcomes import WarningCode
from webhook.decision.settings import Setting, shutdown_duration
from webhook.decision.workload import (
    DEFAULT_GRACE_SECONDS,
    Kind,
    given_grace_seconds,
    grace_seconds,
    has_native_sleep,
    longest_native_sleep,
)

_LARGEST: Final = 2**63 - 1


GRACE_PERIOD: Final = Field(
    ("spec", "terminationGracePeriodSeconds"),
    "pre-stop-sleep",
    plausible=raised_from(),
    stored=DEFAULT_GRACE_SECONDS,
)


def apply(draft: Draft, situation: Situation) -> None:
    """Raise the grace period."""
    shutdown = situation["shutdown-time"]
    wanted, injected = published_sleep(draft)
    # What is inherited follows the sleep that it modifies; what is written always applies.
    asked = shutdown.value is not None and (shutdown.written or wanted > 0)
    if injected is None and not asked:
        return
    given = grace_seconds(draft.root)
    native = longest_native_sleep(draft.root)
    needed = max(native, injected or 0) + (shutdown.value if asked else given)
    most = situation["max-grace"].value
    if most is not None and needed > most:
        # What the user gave is never cut, and a sleep beyond the grace period is invalid.
        needed = max(most, native)
        if asked and shutdown.value > most:
            text = f"max-grace of {most} s leaves less than the shutdown-time of {shutdown.value} s"
            draft.alert(WarningCode.MAX_GRACE, text)
    needed = max(given, needed)
    if needed > given_grace_seconds(draft.root):
        setting = "shutdown-time" if asked else None
        draft.inject(GRACE_PERIOD, min(needed, _LARGEST), setting=setting)


def settle(draft: Draft, _kind: Kind) -> None:
    """A sleep longer than the grace period is invalid: then ours stays, and is the user's.

    Beside a negative one every sleep is, of zero seconds too.
    """
    longest = longest_native_sleep(draft.root)
    if longest > given_grace_seconds(draft.root) and has_native_sleep(draft.root):
        draft.keep(GRACE_PERIOD)


MUTATION: Final[Mutation] = Mutation(
    apply=apply,
    fields=(GRACE_PERIOD,),
    settings=(
        Setting(
            "shutdown-time",
            shutdown_duration,
            off=None,
            default="none",
            takes="duration, up to `24h`",
            help="how long the application needs after SIGTERM; the grace period it had where "
            "not set",
            modifies="pre-stop-sleep",
            examples=("0", "6s", "2m6s", "24h"),
            refused=("25h", "1d"),
        ),
        Setting(
            "max-grace",
            shutdown_duration,
            off=None,
            default="none",
            takes="duration, up to `24h`",
            help="the longest that the grace period may become: the sleep gives way",
            modifies="pre-stop-sleep",
            examples=("0", "25s", "43s", "24h"),
            refused=("25h", "1d"),
        ),
    ),
    settle=settle,
)
