"""What a run under load comes to: counts, causes, latencies, and whether it can be trusted.

A load generator that was late, or out of ports, blames the server for its own faults. Where that
may be so there is no verdict, and the reasons are named.
"""

from __future__ import annotations

import enum
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from typing import Final

from webhook.proof.failures import Cause, Explained, Failure, Kind, Scene, explain
from webhook.proof.statistics import (
    SIGNIFICANT,
    Latencies,
    fisher_exact,
    latencies,
    zero_bound,
)

RATE_TOLERANCE: Final = 0.02
LATE_SECONDS: Final = 0.25
"""A request that was sent later than this after it was due counts as late."""
LATE_SHARE: Final = 0.01


@dataclass(slots=True)
class Load:
    """What the load generator did.

    Args:
        rate: how many requests a second it was to send.
        at: when each that was answered was due, in seconds since it began.
        took: how long each of those took.
        failures: those that failed.
        late: how many were sent late.
        most_late: the longest that one was late, in seconds.
        seconds: how long it sent.
        due: how many were due in that time.
        sent: how many were sent.
        answered: when each pod answered first and last, where answers tell their pod.
        gaps: what of its report was lost on the way, in words.
    """

    rate: float
    at: list[float] = field(default_factory=list)
    took: list[float] = field(default_factory=list)
    failures: list[Failure] = field(default_factory=list)
    late: int = 0
    most_late: float = 0.0
    seconds: float = 0.0
    due: int = 0
    sent: int = 0
    answered: dict[str, tuple[float, float]] = field(default_factory=dict)
    gaps: list[str] = field(default_factory=list)

    @property
    def requests(self) -> int:
        """How many requests have ended."""
        return len(self.at) + len(self.failures)

    def faults(self) -> list[str]:
        """List why what it saw cannot be trusted."""
        found = list(self.gaps)
        # What is due at this moment, and not late yet, may be under way.
        tolerance = max(1, self.rate * LATE_SECONDS, RATE_TOLERANCE * self.due)
        if abs(self.sent - self.due) > tolerance:
            found.append(
                f"the load generator sent {self.sent} of {self.due} requests that were due: "
                "expected it to hold its rate within 2 %; use a lower --rate"
            )
        if self.late > LATE_SHARE * max(1, self.sent):
            found.append(
                f"the load generator was more than {LATE_SECONDS} s late with {self.late} of "
                f"{self.sent} requests, with one by {self.most_late:.1f} s; use a lower --rate, or "
                "a machine with less to do"
            )
        own = Counter(each.text for each in self.failures if each.kind is Kind.OWN)
        found += [f"{count} requests failed here: {text}" for text, count in own.most_common(3)]
        return found


@dataclass(frozen=True, slots=True)
class Rollout:
    """The rollout under that load, in seconds since the load began.

    Args:
        began: when it was asked for; none where it never was.
        done: when it was over, as `kubectl rollout status` has it.
        gone: when the last old pod was gone.
        failed: why it did not end well, if it did not.
    """

    began: float | None = None
    done: float | None = None
    gone: float | None = None
    failed: str | None = None


class Answer(enum.StrEnum):
    """What a proof comes to."""

    NONE_LOST = "none-lost"
    LOST = "lost"
    NO_VERDICT = "no-verdict"


@dataclass(frozen=True, slots=True)
class Verdict:
    """What one workload's rollout under load comes to.

    Args:
        workload: its name, to be shown.
        answer: whether requests were lost.
        reasons: why there is no verdict, where there is none.
        requests: how many requests counted: from the first that was sent on.
        explained: each failure with its cause.
        rollout: when what happened.
        scene: the pods.
        before: how long answers took before the rollout.
        during: until the last old pod was gone.
        after: after that.
    """

    workload: str
    answer: Answer
    reasons: Sequence[str]
    requests: int
    explained: Sequence[Explained]
    rollout: Rollout
    scene: Scene
    before: Latencies | None = None
    during: Latencies | None = None
    after: Latencies | None = None

    @property
    def failed(self) -> int:
        """How many requests failed."""
        return len(self.explained)

    @property
    def causes(self) -> dict[Cause, int]:
        """How many requests failed for which cause, the commonest first."""
        return dict(Counter(each.cause for each in self.explained).most_common())

    @property
    def bound(self) -> float | None:
        """The share that may fail all the same, with 95 % confidence, where none did."""
        return None if self.failed or not self.requests else zero_bound(self.requests)


def judge(workload: str, load: Load, scene: Scene, rollout: Rollout) -> Verdict:
    """Tell what a run comes to.

    Failures before the rollout began are none of the rollout's: with them there is no verdict, as
    they would go on during it.
    """
    began = rollout.began
    theirs = [each for each in load.failures if each.kind is not Kind.OWN]
    reasons = load.faults()
    if not load.requests:
        reasons.append("no request was answered, and none failed: nothing was measured")
    if began is None:
        reasons.append("the rollout was never begun")
    else:
        early = [each for each in theirs if each.ended < began]
        if early:
            what = Counter(_seen(each) for each in early).most_common(1)[0][0]
            reasons.append(
                f"{len(early)} requests failed before the rollout began ({what}): expected a load "
                "that the workload answers while nothing happens to it"
            )
        if rollout.done is None and rollout.failed is None:
            reasons.append("the rollout was not watched to its end")
        if rollout.failed is not None:
            reasons.append(f"the rollout did not end well: {rollout.failed}")
    before, during, after = _phases(load, rollout)
    usual = before.p50 if before else scene.usual
    scene = replace(scene, usual=usual, answered=load.answered, answers=sorted(load.at))
    explained = [explain(each, scene) for each in sorted(theirs, key=lambda each: each.at)]
    answer = Answer.NO_VERDICT if reasons else Answer.LOST if explained else Answer.NONE_LOST
    return Verdict(
        workload,
        answer,
        reasons,
        load.requests,
        explained,
        rollout,
        scene,
        before,
        during,
        after,
    )


def _seen(failure: Failure) -> str:
    return f"{failure.status}" if failure.status else failure.text or failure.kind.value


def _phases(
    load: Load, rollout: Rollout
) -> tuple[Latencies | None, Latencies | None, Latencies | None]:
    parts: tuple[list[float], list[float], list[float]] = ([], [], [])
    begins = rollout.began if rollout.began is not None else load.seconds
    ends = max(
        (each for each in (rollout.done, rollout.gone) if each is not None), default=load.seconds
    )
    for at, took in zip(load.at, load.took, strict=True):
        parts[0 if at < begins else 1 if at <= ends else 2].append(took)
    return latencies(parts[0]), latencies(parts[1]), latencies(parts[2])


@dataclass(frozen=True, slots=True)
class Comparison:
    """Two verdicts beside each other: without the webhook's changes, and with them."""

    without: Verdict
    treated: Verdict

    @property
    def p(self) -> float:
        """How likely chance alone makes such a difference, by Fisher's exact test."""
        return fisher_exact(
            self.without.failed,
            self.without.requests,
            self.treated.failed,
            self.treated.requests,
        )

    @property
    def text(self) -> str:
        """What it comes to, in a sentence."""
        if Answer.NO_VERDICT in (self.without.answer, self.treated.answer):
            return "no comparison: one of the two has no verdict"
        chance = f"chance alone does as much with probability {_probability(self.p)}"
        fewer = _share(self.treated) < _share(self.without)
        if self.p < SIGNIFICANT and fewer:
            return f"the injected changes help: {chance} (Fisher's exact test)"
        if self.p < SIGNIFICANT:
            return f"more was lost with the injected changes: {chance} (Fisher's exact test)"
        return f"no difference is proven: {chance} (Fisher's exact test)"


def _share(verdict: Verdict) -> float:
    return verdict.failed / max(1, verdict.requests)


def _probability(value: float) -> str:
    return "below 0.0001" if value < 0.0001 else f"{value:.2g}"  # noqa: PLR2004 - as it is shown
