"""The little statistics that a proof needs."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final

CONFIDENCE: Final = 0.95
SIGNIFICANT: Final = 1 - CONFIDENCE
# Tables that are as likely as the one seen count too; sums of logarithms are off by a little.
_ALIKE: Final = 1e-7


def zero_bound(requests: int) -> float:
    """Tell the share that may still fail, with 95 % confidence, where none of so many did.

    The rule of three: 3/n, which is the exact bound `1 - 0.05 ** (1/n)` for all but small n. It
    takes failures for independent; those of a rollout come in bursts, so it is the best case.
    """
    return min(1.0, 3 / requests) if requests > 0 else 1.0


def fisher_exact(failed: int, requests: int, other_failed: int, other_requests: int) -> float:
    """Tell how likely two shares are to differ as much by chance: Fisher's exact test, two-sided.

    Args:
        failed: failures of the one.
        requests: how many requests it had.
        other_failed: failures of the other.
        other_requests: how many requests that had.

    Returns:
        The sum of the probabilities of all tables with these margins that are no more likely than
        this one (R's and SciPy's convention).

    Raises:
        ValueError: more failed than there were, or a number is negative.
    """
    if not (0 <= failed <= requests and 0 <= other_failed <= other_requests):
        message = f"no shares: {failed} of {requests}, and {other_failed} of {other_requests}"
        raise ValueError(message)
    lost = failed + other_failed
    whole = _log_choose(requests + other_requests, lost)

    def log_probability(count: int) -> float:
        return _log_choose(requests, count) + _log_choose(other_requests, lost - count) - whole

    bound = log_probability(failed) + _ALIKE
    counts = range(max(0, lost - other_requests), min(requests, lost) + 1)
    found = math.fsum(math.exp(each) for each in map(log_probability, counts) if each <= bound)
    return min(1.0, found)


def _log_choose(of: int, count: int) -> float:
    return math.lgamma(of + 1) - math.lgamma(count + 1) - math.lgamma(of - count + 1)


@dataclass(frozen=True, slots=True)
class Latencies:
    """How long answers took, in seconds."""

    count: int
    p50: float
    p90: float
    p99: float
    most: float


def latencies(seconds: Sequence[float]) -> Latencies | None:
    """Summarise how long answers took; none where there are none."""
    if not seconds:
        return None
    ordered = sorted(seconds)
    p50, p90, p99 = (quantile(ordered, each) for each in (0.5, 0.9, 0.99))
    return Latencies(len(ordered), p50, p90, p99, ordered[-1])


def quantile(ordered: Sequence[float], share: float) -> float:
    """Give the value that `share` of an ordered sequence does not exceed (nearest rank)."""
    return ordered[max(0, math.ceil(share * len(ordered)) - 1)]
