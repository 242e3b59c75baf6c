"""Fisher's test against exact fractions, and the bound for "none of n"."""

from __future__ import annotations

import math
from fractions import Fraction

import pytest
from hypothesis import given
from hypothesis import strategies as st

from webhook.proof.statistics import fisher_exact, latencies, quantile, zero_bound


def exact(failed: int, requests: int, other_failed: int, other_requests: int) -> Fraction:
    """The same by whole numbers."""
    lost, all_of_them = failed + other_failed, requests + other_requests

    def probability(count: int) -> Fraction:
        ways = math.comb(requests, count) * math.comb(other_requests, lost - count)
        return Fraction(ways, math.comb(all_of_them, lost))

    seen = probability(failed)
    counts = range(max(0, lost - other_requests), min(requests, lost) + 1)
    return sum((each for each in map(probability, counts) if each <= seen), Fraction(0))


counts = st.integers(0, 60).flatmap(lambda n: st.tuples(st.integers(0, n), st.just(n)))


@given(counts, counts)
def test_fisher_is_the_sum_of_all_tables_that_are_no_likelier(
    one: tuple[int, int], other: tuple[int, int]
) -> None:
    """Whichever way round."""
    wanted = float(exact(*one, *other))
    assert fisher_exact(*one, *other) == pytest.approx(wanted, rel=1e-6)
    assert fisher_exact(*other, *one) == pytest.approx(wanted, rel=1e-6)


@pytest.mark.parametrize(
    ("table", "p"),
    [
        ((3, 4, 1, 4), 0.4857142857142857),  # the lady tasting tea
        ((8, 10, 1, 6), 0.034965034965034975),
        ((0, 5000, 0, 5000), 1.0),
    ],
)
def test_fisher_gives_what_the_books_give(table: tuple[int, int, int, int], p: float) -> None:
    """Published values."""
    assert fisher_exact(*table) == pytest.approx(p)


def test_fisher_is_quick_and_finite_for_millions() -> None:
    """And never above one, nor a negative number."""
    assert 0 <= fisher_exact(40_000, 1_000_000, 0, 1_000_000) < 1e-300
    assert fisher_exact(130, 3000, 0, 6000) < 1e-50


@pytest.mark.parametrize("table", [(2, 1, 0, 0), (-1, 1, 0, 0), (0, 1, 3, 2)])
def test_shares_that_are_none_are_refused(table: tuple[int, int, int, int]) -> None:
    """More failed than there were."""
    with pytest.raises(ValueError, match="no shares"):
        fisher_exact(*table)


@pytest.mark.parametrize("requests", [100, 3000, 100_000])
def test_the_bound_of_none_is_three_by_n(requests: int) -> None:
    """With that share, none of n would fail in one case of twenty."""
    assert zero_bound(requests) == 3 / requests
    assert (1 - zero_bound(requests)) ** requests == pytest.approx(0.05, rel=0.06)


def test_nothing_measured_proves_nothing() -> None:
    """The share may be anything."""
    assert zero_bound(0) == 1.0
    assert zero_bound(2) == 1.0
    assert latencies([]) is None


def test_quantiles_are_values_that_were_seen() -> None:
    """By nearest rank."""
    ordered = [float(each) for each in range(1, 101)]
    assert [quantile(ordered, each) for each in (0.0, 0.5, 0.99, 1.0)] == [1.0, 50.0, 99.0, 100.0]
    found = latencies([3.0, 1.0, 2.0])
    assert found is not None
    assert (found.count, found.p50, found.most) == (3, 2.0, 3.0)
