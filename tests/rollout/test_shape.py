"""How each controller rounds, and what it falls back to, as its source has it."""

from __future__ import annotations

import math
from typing import Any

import pytest

from tests.builders import rolling, workload
from webhook.decision.workload import DAEMON_SET, DEPLOYMENT, KINDS, ROLLOUT, STATEFUL_SET
from webhook.rollout.shape import (
    UNKNOWN_NODES,
    Step,
    Version,
    knows_max_unavailable,
    pause_seconds,
    shape_of,
    weighted,
)

# replicas, maxSurge, maxUnavailable → surge, unavailable
DEPLOYMENTS = [
    (4, "25%", "25%", 1, 1),
    (3, "25%", "25%", 1, 0),
    (1, "25%", "25%", 1, 0),
    (10, "25%", "25%", 3, 2),
    (7, "50%", 0, 4, 0),
    (5, None, None, 2, 1),
    (3, 0, "25%", 0, 1),  # rounds down to none: one may be away, or nothing could move
    (3, 0, 0, 0, 1),
    (3, "100%", "100%", 3, 3),
    (3, 1, 10, 1, 3),
    (3, 20, 0, 20, 0),
    (3, "150%", 0, 5, 0),
    (1000, "1%", "1%", 10, 10),
    (0, "25%", "25%", 0, 0),
    (3, "x", "y", 0, 1),  # the API server refuses it
]


@pytest.mark.parametrize(("replicas", "surge", "unavailable", "more", "fewer"), DEPLOYMENTS)
def test_a_deployment_rounds_surge_up_and_unavailability_down(
    replicas: int, surge: Any, unavailable: Any, more: int, fewer: int
) -> None:
    """And falls back to one that may be away."""
    given = workload(
        "Deployment", replicas=replicas, **rolling(maxSurge=surge, maxUnavailable=unavailable)
    )
    shape = shape_of(DEPLOYMENT, given)
    assert (shape.surge, shape.unavailable) == (more, fewer)


@pytest.mark.parametrize("strategy", [None, {}, {"type": None}, {"rollingUpdate": None}])
def test_a_deployment_without_a_strategy_rolls_by_a_quarter(strategy: Any) -> None:
    """Offline manifests lack what the API server fills in."""
    shape = shape_of(DEPLOYMENT, workload("Deployment", replicas=8, strategy=strategy))
    assert (shape.strategy, shape.surge, shape.unavailable) == ("RollingUpdate", 2, 2)


# nodes, maxSurge, maxUnavailable → surge, unavailable
DAEMON_SETS = [
    (10, None, None, 0, 1),
    (10, 0, "25%", 0, 3),  # up, not down
    (10, "25%", 0, 3, 0),
    (3, 0, 0, 0, 1),
    (3, 1, 1, 1, 0),  # the API server refuses both
    (3, 0, "100%", 0, 3),
]


@pytest.mark.parametrize(("nodes", "surge", "unavailable", "more", "fewer"), DAEMON_SETS)
def test_a_daemon_set_rounds_both_up(
    nodes: int, surge: Any, unavailable: Any, more: int, fewer: int
) -> None:
    """Of the nodes that it runs on."""
    given = workload(
        "DaemonSet", **rolling("DaemonSet", maxSurge=surge, maxUnavailable=unavailable)
    )
    shape = shape_of(DAEMON_SET, given, nodes=nodes)
    assert (shape.surge, shape.unavailable) == (more, fewer)


@pytest.mark.parametrize(
    ("nodes", "status", "pods"),
    [
        (5, 7, 5),
        (None, 7, 7),
        (None, None, UNKNOWN_NODES),
        (None, 0, UNKNOWN_NODES),
        (0, None, 0),
    ],
)
def test_a_daemon_set_runs_on_the_nodes_that_are_told_or_that_its_status_tells(
    nodes: int | None, status: int | None, pods: int
) -> None:
    """Else on a few."""
    given = workload("DaemonSet") | {"status": {"desiredNumberScheduled": status}}
    assert shape_of(DAEMON_SET, given, nodes=nodes).pods == pods


@pytest.mark.parametrize(
    ("version", "known"),
    [
        (None, False),
        (Version(1, 28), False),
        (Version(1, 34), False),
        (Version(1, 35), True),
        (Version(1, 36), False),
        (Version(1, 37), True),
        (Version(1, 38), True),
    ],
)
def test_max_unavailable_of_a_stateful_set_counts_by_the_version_of_its_api_server(
    version: Version | None, *, known: bool
) -> None:
    """Its gate went on, off, and on again."""
    assert knows_max_unavailable(version) is known
    given = workload("StatefulSet", replicas=4, **rolling("StatefulSet", maxUnavailable=2))
    assert shape_of(STATEFUL_SET, given, version).unavailable == (2 if known else 1)


@pytest.mark.parametrize(
    ("replicas", "asked", "fewer"),
    [(10, "25%", 2), (3, "25%", 1), (3, 0, 1), (3, "100%", 3), (3, 9, 3), (3, None, 1)],
)
def test_a_stateful_set_rounds_unavailability_down_to_one_at_the_least(
    replicas: int, asked: Any, fewer: int
) -> None:
    """And never takes more than there are."""
    given = workload(
        "StatefulSet", replicas=replicas, **rolling("StatefulSet", maxUnavailable=asked)
    )
    assert shape_of(STATEFUL_SET, given, Version(1, 37)).unavailable == fewer


# pods, weight, surge → new, old; after argo-rollouts' TestCalculateReplicaCountsForBasicCanary
WEIGHTS = [
    (10, 10, 1, 1, 9),
    (10, 30, 1, 3, 7),
    (10, 5, 1, 1, 10),
    (10, 100, 1, 10, 0),
    (10, 0, 1, 0, 10),
    (1, 5, 1, 1, 1),
    (1, 95, 1, 1, 1),
    (1, 5, 0, 0, 1),
    (1, 95, 0, 1, 0),
    (3, 50, 0, 2, 1),
    (3, 50, 1, 2, 2),
    (2, 1, 0, 1, 1),
    (2, 99, 0, 1, 1),
    (4, 20, 1, 1, 4),
    (0, 50, 1, 0, 0),
]


@pytest.mark.parametrize(("pods", "weight", "surge", "new", "old"), WEIGHTS)
def test_a_canary_has_the_pods_that_come_closest_to_its_weight(
    pods: int, weight: int, surge: int, new: int, old: int
) -> None:
    """With one pod more where there may be one more."""
    assert weighted(pods, weight, surge) == (new, old)


@pytest.mark.parametrize(
    ("given", "seconds"),
    [
        (30, 30),
        ("30", 30),
        ("30s", 30),
        ("5m", 300),
        ("1h", 3600),
        ("1h30m", 5400),
        (None, math.inf),
        (0, math.inf),
        ("", math.inf),
        ("soon", math.inf),
        (True, math.inf),
        ([], math.inf),
    ],
)
def test_a_pause_without_a_duration_lasts_until_somebody_promotes(
    given: Any, seconds: float
) -> None:
    """So does one that nobody can read."""
    assert pause_seconds(given) == seconds


@pytest.mark.parametrize(
    ("routing", "given", "step"),
    [
        (None, {"setWeight": 30}, Step(weight=30)),
        (None, {"setWeight": 130}, Step(weight=100)),
        (None, {"pause": {}}, Step(pause=math.inf)),
        (None, {"pause": None}, Step(pause=math.inf)),
        (None, {"analysis": {}}, Step(unknown="analysis")),
        (None, {"setCanaryScale": {"replicas": 3}}, Step()),
        ({"nginx": {}}, {"setCanaryScale": {"replicas": 3}}, Step(pods=3)),
        ({"nginx": {}}, {"setCanaryScale": {"weight": 25}}, Step(pods=3)),
        ({"nginx": {}}, {"setCanaryScale": {"matchTrafficWeight": True}}, Step(pods=-1)),
        (None, {"setHeaderRoute": {}}, Step()),
        (None, None, Step()),
        (None, "setWeight", Step()),
    ],
)
def test_a_step_of_a_canary_is_read_as_far_as_it_says_itself(
    routing: Any, given: Any, step: Step
) -> None:
    """What is no step does nothing."""
    canary = {"steps": [given], "trafficRouting": routing}
    shape = shape_of(ROLLOUT, workload("Rollout", replicas=10, strategy={"canary": canary}))
    assert shape.steps == (step,)


@pytest.mark.parametrize(("given", "deadline"), [(None, 600), (30, 30), (2**31 - 1, None), (0, 0)])
def test_a_deployment_has_its_deadline_or_ten_minutes(given: Any, deadline: int | None) -> None:
    """The greatest number means that there is none."""
    shape = shape_of(DEPLOYMENT, workload("Deployment", progressDeadlineSeconds=given))
    assert shape.deadline == deadline


@pytest.mark.parametrize("kind", sorted(KINDS))
def test_replicas_are_one_where_nobody_says(kind: str) -> None:
    """On one node, for a DaemonSet."""
    given = workload(kind)
    given["spec"].pop("replicas", None)
    assert shape_of(KINDS[kind], given, nodes=1).pods == 1
