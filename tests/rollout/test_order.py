"""Which rollout comes first, and how long all of them take at the least."""

from __future__ import annotations

from typing import Any

import pytest

from tests.builders import Json, rolling
from tests.rollout.test_progress import SETTLED, stored
from webhook.decision.workload import DAEMON_SET, DEPLOYMENT, KINDS, ROLLOUT, STATEFUL_SET, Kind
from webhook.rollout.order import Change, least_seconds, least_total, max_unavailable_pods, ordered
from webhook.rollout.progress import pods


@pytest.mark.parametrize(
    ("kind", "fields", "out"),
    [
        ("Deployment", {}, 0),
        ("Deployment", {"replicas": 8}, 2),
        ("Deployment", rolling(maxUnavailable="50%", maxSurge=0), 1),
        ("Deployment", rolling(maxUnavailable="1%", maxSurge=0), 1),
        ("Deployment", rolling(maxUnavailable=9, maxSurge=0), 3),
        ("Deployment", {"strategy": {"type": "Recreate"}}, 3),
        ("Deployment", {"replicas": 0}, 0),
        ("StatefulSet", {}, 1),
        ("StatefulSet", rolling("StatefulSet", maxUnavailable=2), 2),
        ("DaemonSet", {}, 1),
        ("DaemonSet", rolling("DaemonSet", maxUnavailable="50%"), 2),
        ("DaemonSet", rolling("DaemonSet", maxUnavailable=0, maxSurge=1), 0),
        ("Rollout", {"strategy": {"canary": {"maxUnavailable": 2}}}, 2),
        ("Rollout", {"strategy": {"canary": {}}, "replicas": 8}, 2),
        ("Rollout", {"strategy": {"blueGreen": {}}}, 0),
        ("Rollout", {"strategy": {"canary": {"trafficRouting": {"nginx": {}}}}, "replicas": 8}, 0),
    ],
)
def test_how_many_pods_a_rollout_may_take_away_is_told(kind: str, fields: Json, out: int) -> None:
    """Percentages of what is unavailable round down for Deployments, up for DaemonSets."""
    assert max_unavailable_pods(KINDS[kind], stored(kind, SETTLED[kind], **fields)) == out


def test_a_daemon_set_takes_as_long_as_its_nodes() -> None:
    """Known by its status; a Rollout takes as long as its pods, and no pods take no time."""
    given = stored("DaemonSet", SETTLED["DaemonSet"], minReadySeconds=20)
    assert pods(DAEMON_SET, given) == 3
    assert least_seconds(DAEMON_SET, given) == 60
    assert least_seconds(ROLLOUT, stored("Rollout", {}, minReadySeconds=20)) == 58
    assert least_seconds(DAEMON_SET, stored("DaemonSet", {}, minReadySeconds=20)) == 0


@pytest.mark.parametrize(
    ("kind", "fields", "seconds"),
    [
        ("StatefulSet", {"minReadySeconds": 30}, 88),
        ("StatefulSet", {"minReadySeconds": 30, **rolling("StatefulSet", partition=2)}, 29),
        (
            "StatefulSet",
            {
                "minReadySeconds": 30,
                "podManagementPolicy": "Parallel",
                **rolling("StatefulSet", maxUnavailable=3),
            },
            29,
        ),
        ("StatefulSet", {"updateStrategy": {"type": "OnDelete"}, "minReadySeconds": 30}, 0),
        ("Deployment", {"minReadySeconds": 30, "paused": True}, 0),
        ("Deployment", {"minReadySeconds": 30, "replicas": 40_000}, 60),
        (
            "Rollout",
            {"strategy": {"canary": {"steps": [{"setWeight": 34}, {"pause": {}}]}}},
            0,
        ),
    ],
)
def test_the_least_time_follows_the_controllers_rules(
    kind: str, fields: Json, seconds: int
) -> None:
    """What waits for somebody counts as far as it goes by itself; too many pods are bounded."""
    assert least_seconds(KINDS[kind], stored(kind, {}, **fields)) == seconds


def change(name: str, kind: Kind = DEPLOYMENT, namespace: str = "shop", **fields: Any) -> Change:
    """Give a change that restarts three pods, none of them out."""
    return Change(kind, namespace, name, **{"restarts": True, "pods": 3, "seconds": 60, **fields})


def test_the_least_risky_comes_first() -> None:
    """No restart, nobody out, a few out, nodes, state, all at once; then the fewest pods."""
    wanted = [
        change("quiet", restarts=False, pods=50, out=50),
        change("asleep", pods=0),
        change("safe", pods=2),
        change("safe-but-larger", pods=9),
        change("a-few", out=1),
        change("nodes", DAEMON_SET, out=1),
        change("state", STATEFUL_SET, out=1),
        change("alone", pods=1, out=1),
        change("all", out=3),
    ]
    wanted[:2] = wanted[1::-1]  # neither restarts a pod: the one with fewer comes first
    for given in (wanted, wanted[::-1]):
        assert [each.name for each in ordered(given)[0]] == [each.name for each in wanted]


def test_namespaces_come_whole_and_the_least_risky_first() -> None:
    """By their riskiest workload, then by pods; what is rolling already comes before all."""
    found = ordered(
        [
            change("state", STATEFUL_SET, "a", out=1),
            change("quiet", namespace="a", restarts=False),
            change("large", namespace="b", pods=30),
            change("small", namespace="c"),
            change("rolling", namespace="z", begun=True),
        ]
    )
    names = [[each.name for each in group] for group in found]
    assert names == [["rolling"], ["small"], ["large"], ["quiet", "state"]]
    assert found[0][0].place == "z/deployment/rolling"


def test_the_least_time_of_the_whole_counts_what_runs_at_once() -> None:
    """Groups one after the other; what restarts nothing takes no time."""
    one = [change(str(index)) for index in range(4)]
    quiet = [change("quiet", restarts=False)]
    assert least_total([one, quiet, one], 1) == 480
    assert least_total([one, quiet, one], 2) == 240
    assert least_total([one], 9) == 60
    assert least_total([one], 1, 10) == 240 + 30
    assert least_total([], 1) == 0
