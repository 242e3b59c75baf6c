"""When there is a verdict, and when the load generator was at fault."""

from __future__ import annotations

import pytest

from tests.proof.scenes import fresh, load, new, old, scene
from webhook.proof.failures import Cause, Failure, Kind
from webhook.proof.verdict import Answer, Comparison, Load, Rollout, Verdict, judge

ROLLED = Rollout(5.0, 20.0, 21.0)
LOST = fresh(12.2, Kind.REFUSED)
OWN = fresh(12.2, Kind.OWN, text="Too many open files")


def judged(given: Load, rollout: Rollout = ROLLED) -> Verdict:
    """What comes of a load, with two pods."""
    return judge("deployment/web", given, scene(), rollout)


def test_none_lost_is_told_with_its_bound() -> None:
    """Three by n."""
    found = judged(load())
    assert (found.answer, found.requests, found.failed) == (Answer.NONE_LOST, 300, 0)
    assert found.bound == 0.01


def test_what_was_lost_is_counted_by_cause() -> None:
    """And has no bound."""
    found = judged(load(30, 10, LOST, LOST))
    assert (found.answer, found.failed, found.bound) == (Answer.LOST, 2, None)
    assert found.causes == {Cause.STALE_ENDPOINT: 2}


@pytest.mark.parametrize(
    ("given", "rollout", "reason"),
    [
        (load(sent=200), ROLLED, "sent 200 of 300 requests"),
        (load(late=20, most_late=0.7), ROLLED, "late with 20 of 300"),
        (load(30, 10, OWN), ROLLED, "1 requests failed here: Too many open files"),
        (load(gaps=["2 lines were lost"]), ROLLED, "2 lines were lost"),
        (load(30, 10, fresh(1.0, Kind.REFUSED)), ROLLED, "failed before the rollout began"),
        (
            load(30, 10, fresh(1.0, Kind.STATUS, status=405)),
            ROLLED,
            "failed before the rollout began (405)",
        ),
        (load(), Rollout(), "never begun"),
        (load(), Rollout(5.0), "not watched to its end"),
        (load(), Rollout(5.0, failed="deadline exceeded"), "did not end well: deadline exceeded"),
        (load(0), ROLLED, "nothing was measured"),
    ],
)
def test_there_is_no_verdict_where_something_else_was_at_fault(
    given: Load, rollout: Rollout, reason: str
) -> None:
    """Neither that none was lost, nor that some were."""
    found = judged(given, rollout)
    assert found.answer is Answer.NO_VERDICT
    assert reason in " · ".join(found.reasons)


@pytest.mark.parametrize("late", [0, 3])
def test_a_few_late_requests_are_within_bounds(late: int) -> None:
    """One in a hundred."""
    assert judged(load(late=late, most_late=0.3)).answer is Answer.NONE_LOST


def test_what_failed_here_is_never_counted_as_the_servers() -> None:
    """It is a reason for no verdict, and no failure."""
    found = judged(load(30, 10, OWN, LOST))
    assert found.failed == 1
    assert found.answer is Answer.NO_VERDICT


def test_latencies_are_told_before_during_and_after() -> None:
    """Until the last old pod was gone."""
    found = judged(load(30, 10))
    parts = (found.before, found.during, found.after)
    assert [each.count for each in parts if each] == [50, 161, 89]


def _pair(lost: int, treated: int) -> Comparison:
    def failures(count: int) -> list[Failure]:
        return [LOST] * count

    without = judged(load(100, 10, *failures(lost)), Rollout(5.0, 20.0, 21.0))
    return Comparison(without, judged(load(100, 10, *failures(treated))))


@pytest.mark.parametrize(
    ("lost", "treated", "text"),
    [
        (40, 0, "the injected changes help: chance alone does as much with probability below"),
        (2, 0, "no difference is proven"),
        (0, 0, "no difference is proven"),
        (0, 40, "more was lost with the injected changes"),
    ],
)
def test_a_comparison_says_what_fishers_test_says(lost: int, treated: int, text: str) -> None:
    """No more than is proven."""
    assert text in _pair(lost, treated).text


def test_nothing_is_compared_with_what_has_no_verdict() -> None:
    """It might be the load generator's fault."""
    treated = judged(load())
    without = judge("web", load(sent=1), scene(old(), new()), ROLLED)
    assert Comparison(without, treated).text.startswith("no comparison")
