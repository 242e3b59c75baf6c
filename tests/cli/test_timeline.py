"""The picture of a rollout: its rows, its cells, and its totals in words."""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.builders import workload
from webhook.cli.timeline import (
    GLYPHS,
    MOST_ROWS,
    draw,
    reasons,
    rows,
    summarised,
    ticks,
    totals,
    waits,
)
from webhook.decision.workload import KINDS
from webhook.rollout.simulation import Rollout, simulate
from webhook.rollout.timings import parse


def rollout(kind: str = "Deployment", timings: str = "", **spec: Any) -> Rollout:
    """Simulate a workload of three pods that has a readiness probe."""
    return simulate(KINDS[kind], workload(kind, **spec), parse(timings, "timings"))


def drawn(given: Rollout, width: int = 80, **more: Any) -> list[str]:
    """Draw it without colour."""
    return ["".join(text for text, _ in each).rstrip() for each in draw(given, width, **more)]


def test_each_pod_is_a_bar_of_what_it_does() -> None:
    """The old ones first; what may be lost covers the end of a pod without a sleep."""
    axis, *bars = drawn(rollout(minReadySeconds=10))
    assert axis.split()[0] == "0s"
    assert [each[:5] for each in bars] == ["old 1", "old 2", "old 3", "new 1", "new 2", "new 3"]
    assert set(bars[0][6:]) == {GLYPHS["available"], GLYPHS["may be lost"]}
    assert "".join(dict.fromkeys(bars[3][6:])) == (
        GLYPHS["starting"] + GLYPHS["ready"] + GLYPHS["available"]
    )


def test_a_pod_that_is_killed_is_never_missed() -> None:
    """It is shown for a moment that would otherwise be narrower than a cell."""
    slow = rollout(timings="application: {stop: 500}", pod={"terminationGracePeriodSeconds": 400})
    assert all(GLYPHS["killed"] in each for each in drawn(slow, 40) if each.startswith("old"))


def test_losses_are_marked_wherever_they_are_and_however_short() -> None:
    """Certain ones by another mark than possible ones; an outage has a row of its own."""
    given = rollout(strategy={"type": "Recreate"})
    marked = drawn(given, 60, end=100_000.0)
    assert marked[-1].startswith("no pod")
    assert GLYPHS["lost"] in marked[-1]
    assert "lost while no pod answers" in reasons(given)


@given(
    kind=st.sampled_from(["Deployment", "StatefulSet", "DaemonSet"]),
    replicas=st.integers(0, 60),
    ready=st.integers(0, 90),
    width=st.integers(-5, 300),
    most=st.integers(3, 40),
)
@settings(deadline=None, max_examples=60)
def test_no_line_is_wider_than_the_terminal_and_no_picture_has_too_many_rows(
    kind: str, replicas: int, ready: int, width: int, most: int
) -> None:
    """Whatever the workload; each pod is in exactly one row."""
    spec = {} if kind == "DaemonSet" else {"replicas": replicas}
    given = rollout(kind, minReadySeconds=ready, **spec)
    found = rows(given, most)
    pods = [each for each in found if each.pods]
    assert len(pods) <= most
    assert sum(each.pods for each in pods) == len(given.pods)
    assert bool(summarised(given, most)) == any(each.pods > 1 for each in pods)
    for text in drawn(given, width, most=most):
        assert len(text) <= max(width, 40)


def test_a_thousand_pods_are_summed_up() -> None:
    """A row stands for many, and says for which."""
    given = rollout(replicas=1000)
    found = rows(given)
    assert len(found) <= MOST_ROWS
    assert found[0].label == "old 1-143"
    assert summarised(given) == "a row stands for 143 pods: the middle one is shown"


@pytest.mark.parametrize(
    ("end", "most", "expected"),
    [
        (41, 8, [0, 10, 20, 30, 40]),
        (0.4, 8, [0]),
        (600, 4, [0, 300]),
        (100, 1, [0]),
        (10**9, 5, [0, 86400, 172800, 259200, 345600, 432000]),
    ],
)
def test_an_axis_has_round_seconds(end: float, most: int, expected: list[int]) -> None:
    """As few as there is room for."""
    assert ticks(end, most) == expected


@pytest.mark.parametrize(
    ("given", "expected"),
    [
        (rollout(minReadySeconds=30), "rolled out after 2m3s, old pods gone after 2m5s; at least"),
        (rollout(paused=True), "not rolled out: "),
        (rollout("StatefulSet"), "at least 2 of 3 serving; no extra pod; "),
        (rollout(replicas=1), "at least 1 of 1 serving; 1 extra pod; "),
        (rollout(timings="rate: 0"), "no request at risk"),
        (rollout(timings="service: {remove: 2}"), " requests at risk"),
    ],
)
def test_one_line_tells_the_totals(given: Rollout, expected: str) -> None:
    """Time, least serving, extra pods, requests at risk."""
    assert expected in totals(given)
    assert "\n" not in totals(given)


def test_the_critical_path_is_told_in_words() -> None:
    """What most of the time is spent on, then what else counts."""
    assert waits(rollout(minReadySeconds=30)).startswith(
        "88 of 123 s is minReadySeconds: three steps; "
    )
    assert not waits(rollout(paused=True))
