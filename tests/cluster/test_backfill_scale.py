"""A backfill of a thousand workloads in simulated time."""

from __future__ import annotations

import pytest

from benchmarks.backfill import simulate
from webhook.cluster.backfill import Result


@pytest.mark.parametrize("concurrent", [1, 5])
def test_a_thousand_workloads_come_in_with_no_more_pods_out_than_a_few_rollouts_take(
    concurrent: int,
) -> None:
    """All of them, and never more at once than the riskiest few could take away."""
    found = simulate(1000, concurrent, poll=10)
    assert [each.result for each in found.run.outcomes] == [Result.DONE] * 1000
    assert found.most_rollouts == concurrent
    riskiest = sorted((each.out for each in found.plan.changes), reverse=True)
    assert 0 < found.most_out <= sum(riskiest[:concurrent])
    assert found.took > found.least > 0


def test_more_at_once_take_less_time() -> None:
    """Ten at once less than half of what one takes: namespaces are still done one by one."""
    one, ten = (simulate(300, concurrent, poll=10) for concurrent in (1, 10))
    assert one.took / 10 < ten.took < one.took / 2
