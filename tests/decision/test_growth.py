"""From bytes to answer, time and memory are linear in the size of the body."""

from __future__ import annotations

import functools
import time

import orjson
import pytest

from tests.builders import DEFAULT, Json, admission, deployment, namespaces, request_of, review
from tests.decision import growth
from tests.decision.growth import GROWING, body_of, check_growth, check_memory, seconds
from webhook.decision.admission import Admission
from webhook.decision.workload import DEPLOYMENT
from webhook.rollout.state import workload_state

LENIENT = admission({"invalidSettings": "warn", "applyDefaultsTo": "all"}, namespace=namespaces())
SIZES = {
    "a tree": 500,
    "a list of nothing": 20_000,
    "a long word": 20_000,
    "values that are none": 20_000,
}


@pytest.mark.parametrize("by", [DEFAULT, LENIENT], ids=["deny", "warn"])
@pytest.mark.parametrize("name", GROWING)
def test_four_times_the_input_takes_about_four_times_the_time(name: str, by: Admission) -> None:
    """Whatever there is more of."""
    check_growth(by, GROWING[name], SIZES.get(name, 800))


@pytest.mark.parametrize("name", GROWING)
def test_the_memory_of_an_answer_is_a_small_multiple_of_the_body(name: str) -> None:
    """An annotation of 6.6 MiB took 590 MB."""
    check_memory(LENIENT, body_of(GROWING[name], 10 * SIZES.get(name, 800)))


def decoding(body: bytes) -> float:
    """Tell the CPU time of reading a body as JSON, and nothing else."""
    found = []
    for _ in range(3):
        start = time.process_time()
        orjson.loads(body)
        found.append(time.process_time() - start)
    return min(found)


@pytest.mark.parametrize("text", ["a,", "\U0001f642", "a\U0001f642,", "none,", "\x00"])
@pytest.mark.parametrize("name", [*DEFAULT.table, "inject", "injected", "no-such"])
def test_the_longest_value_takes_little_more_than_to_read_it(name: str, text: str) -> None:
    """Of each setting: it is beyond the limit, and told without being looked at."""
    value = text * (2**20 // len(text.encode()))
    body = orjson.dumps(review(deployment(says={name: value}, template_says={name: value})))
    check_memory(LENIENT, body)
    found = LENIENT.answer(body)
    assert len(found.body) < 10_000
    assert seconds(LENIENT, body) < 100 * decoding(body)


def test_how_deep_a_difference_lies_costs_nothing() -> None:
    """A template that is put back was compared anew at each level above it."""
    shallow, deep = (body_of(functools.partial(growth.deep, levels=each), 3000) for each in (4, 80))
    assert any(seconds(DEFAULT, deep) <= 3 * seconds(DEFAULT, shallow) for _ in range(3))


def test_a_workload_of_the_cluster_with_thousands_of_gates_is_surveyed_in_linear_time() -> None:
    """Status and backfill look each of them up in what is there and in what would be."""

    def cost(count: int) -> float:
        new, _ = GROWING["gates of a record"](count)
        best = []
        for _ in range(3):
            start = time.process_time()
            found = workload_state(DEFAULT, DEPLOYMENT, new)
            best.append(time.process_time() - start)
            assert found.changes
        return min(best)

    assert any(cost(5000) / cost(1250) <= 8 for _ in range(3))  # what is quadratic takes 16


def test_many_steps_of_a_patch_in_one_list_are_one() -> None:
    """The API server moves all that follows, for each of them."""
    new, old = GROWING["gates of a record"](3000)
    decision = DEFAULT.decide(request_of(review(new, old)))
    paths: list[Json] = [each for each in decision.operations if "readinessGates" in each["path"]]
    assert len(paths) == 1
