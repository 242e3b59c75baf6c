"""The controllers' rules: which pods come and go, in which order, and how many at once."""

from __future__ import annotations

from collections.abc import Mapping
from itertools import groupby
from typing import Any

import pytest

from tests.builders import container, hooked, rolling, workload
from webhook.decision.workload import KINDS
from webhook.rollout.simulation import MOST_PODS, Rollout, SimulationError, simulate
from webhook.rollout.timings import Application, PodTimes, Seconds, Times, Timings

S = Seconds.of
QUICK = Timings(
    Times(application=Application(S(1), S(0), S(0.1)), pod=PodTimes(S(0.5), S(1), S(0)))
)
FAST_PROBE = {"httpGet": {"path": "/", "port": 8080}, "periodSeconds": 1}


def rollout(
    kind: str,
    version: tuple[int, int] | None = (1, 36),
    nodes: int | None = None,
    hook: Any = None,
    timings: Timings = QUICK,
    **spec: Any,
) -> Rollout:
    """Simulate an application that starts in a second and ends at once."""
    app = container(readinessProbe=FAST_PROBE, lifecycle={"preStop": hook} if hook else None)
    return simulate(KINDS[kind], workload(kind, app, **spec), timings, version, nodes)


def moves(found: Rollout) -> list[tuple[str, int]]:
    """Give what happened, in order: how many pods were created or deleted before the other came."""
    happened = [(pod.created, 0, "+") for pod in found.pods if pod.created is not None]
    happened += [(pod.terminating, 1, "-") for pod in found.pods if pod.terminating is not None]
    return [
        (sign, len(list(each))) for sign, each in groupby(what for *_, what in sorted(happened))
    ]


# replicas, maxSurge, maxUnavailable → what the controller does, after rolling.go
DEPLOYMENTS: list[tuple[int, Any, Any, list[tuple[str, int]]]] = [
    (3, 1, 0, [("+", 1), ("-", 1)] * 3),
    (3, 0, 1, [("-", 1), ("+", 1)] * 3),
    (4, "25%", "25%", [("+", 1), ("-", 1), ("+", 1), ("-", 2), ("+", 2), ("-", 1)]),
    (10, "25%", "25%", [("+", 3), ("-", 2), ("+", 2), ("-", 5), ("+", 5), ("-", 3)]),
    (7, "50%", 0, [("+", 4), ("-", 4), ("+", 3), ("-", 3)]),
    (3, "100%", 0, [("+", 3), ("-", 3)]),
    (3, 0, "100%", [("-", 3), ("+", 3)]),
    (3, "100%", "100%", [("+", 3), ("-", 3)]),
    (3, 5, 0, [("+", 3), ("-", 3)]),
    (1, "25%", "25%", [("+", 1), ("-", 1)]),
    (1, 0, "25%", [("-", 1), ("+", 1)]),
    (5, 2, 1, [("+", 2), ("-", 1), ("+", 1), ("-", 3), ("+", 2), ("-", 1)]),
]


@pytest.mark.parametrize(("replicas", "surge", "unavailable", "expected"), DEPLOYMENTS)
def test_a_deployment_scales_up_by_surge_and_down_by_availability(
    replicas: int, surge: Any, unavailable: Any, expected: list[tuple[str, int]]
) -> None:
    """Up first, then down, as often as something has become available."""
    found = rollout(
        "Deployment", replicas=replicas, **rolling(maxSurge=surge, maxUnavailable=unavailable)
    )
    assert moves(found) == expected
    assert found.rolled_out is not None


def test_recreate_deletes_all_and_creates_all_once_the_containers_have_ended() -> None:
    """Before the pods are gone: their phase says that they have ended."""
    found = rollout("Deployment", hook={"sleep": {"seconds": 4}}, strategy={"type": "Recreate"})
    assert moves(found) == [("-", 3), ("+", 3)]
    created = min(pod.created for pod in found.pods if pod.created is not None)
    stopped = [pod.stopped for pod in found.pods if pod.stopped is not None]
    gone = [pod.gone for pod in found.pods if pod.gone is not None]
    assert max(stopped) < created < max(gone)
    assert (found.least_serving, found.most_pods) == (0, 6)


# version, policy, maxUnavailable, partition → what the controller does
STATEFUL_SETS: list[tuple[tuple[int, int], str, Any, int, list[tuple[str, int]]]] = [
    ((1, 36), "OrderedReady", 2, 0, [("-", 1), ("+", 1)] * 4),
    ((1, 36), "Parallel", 2, 0, [("-", 1), ("+", 1)] * 4),
    ((1, 34), "Parallel", 2, 0, [("-", 1), ("+", 1)] * 4),
    ((1, 37), "OrderedReady", 2, 0, [("-", 2), ("+", 2)] * 2),
    ((1, 35), "Parallel", 2, 0, [("-", 2), ("+", 2)] * 2),
    ((1, 37), "Parallel", "100%", 0, [("-", 4), ("+", 4)]),
    ((1, 36), "OrderedReady", None, 3, [("-", 1), ("+", 1)]),
    ((1, 36), "OrderedReady", None, 4, []),
    ((1, 36), "OrderedReady", None, 9, []),
]


@pytest.mark.parametrize(
    ("version", "policy", "unavailable", "partition", "expected"), STATEFUL_SETS
)
def test_a_stateful_set_replaces_from_the_highest_ordinal_down_to_its_partition(
    version: tuple[int, int],
    policy: str,
    unavailable: Any,
    partition: int,
    expected: list[tuple[str, int]],
) -> None:
    """As many at a time as its API server lets it."""
    found = rollout(
        "StatefulSet",
        version,
        replicas=4,
        podManagementPolicy=policy,
        **rolling("StatefulSet", maxUnavailable=unavailable, partition=partition),
    )
    assert moves(found) == expected
    assert found.rolled_out is not None
    deleted = [(pod.terminating, pod.name) for pod in found.pods if pod.terminating is not None]
    names = [name for _, name in sorted(deleted)]
    assert names == sorted(names, reverse=True)


def test_a_stateful_set_makes_a_pod_anew_when_the_old_one_is_gone() -> None:
    """They have the same name."""
    found = rollout("StatefulSet", hook={"sleep": {"seconds": 2}})
    for name in {pod.name for pod in found.pods}:
        old, new = (pod for pod in found.pods if pod.name == name)
        assert old.gone is not None
        assert new.created is not None
        assert old.gone < new.created


def test_ordered_pods_come_one_after_the_other_and_parallel_ones_together() -> None:
    """Where two may be away, ordered pods still wait for those below them."""

    def created(policy: str) -> list[float]:
        found = rollout(
            "StatefulSet",
            (1, 37),
            replicas=2,
            podManagementPolicy=policy,
            **rolling("StatefulSet", maxUnavailable=2),
        )
        return sorted(pod.created for pod in found.pods if pod.created is not None)

    ordered, parallel = created("OrderedReady"), created("Parallel")
    assert ordered[1] - ordered[0] > 1.5
    assert parallel[1] - parallel[0] < 0.1


@pytest.mark.parametrize(
    ("version", "policy", "waits"),
    [
        ((1, 34), "Parallel", False),  # kubernetes#119234
        ((1, 35), "Parallel", True),
        ((1, 36), "Parallel", True),
        ((1, 34), "OrderedReady", True),
    ],
)
def test_the_next_pod_of_a_stateful_set_waits_for_min_ready_seconds(
    version: tuple[int, int], policy: str, *, waits: bool
) -> None:
    """Parallel ones did not before 1.35."""
    found = rollout("StatefulSet", version, minReadySeconds=20, podManagementPolicy=policy)
    assert found.rolled_out is not None
    assert (found.rolled_out > 40) is waits


def test_a_stateful_set_is_rolled_out_when_its_last_pod_is_ready_not_available() -> None:
    """So does `kubectl rollout status` have it."""
    found = rollout("StatefulSet", replicas=1, minReadySeconds=60)
    ready = max(pod.ready for pod in found.pods if pod.ready is not None)
    assert found.rolled_out == pytest.approx(ready + 0.1)


# maxSurge, maxUnavailable → what the controller does on four nodes
DAEMON_SETS: list[tuple[Any, Any, list[tuple[str, int]]]] = [
    (0, 1, [("-", 1), ("+", 1)] * 4),
    (0, 2, [("-", 2), ("+", 2)] * 2),
    (0, "30%", [("-", 2), ("+", 2)] * 2),
    (0, "100%", [("-", 4), ("+", 4)]),
    ("100%", 0, [("+", 4), ("-", 4)]),
]


@pytest.mark.parametrize(("surge", "unavailable", "expected"), DAEMON_SETS)
def test_a_daemon_set_replaces_node_by_node(
    surge: Any, unavailable: Any, expected: list[tuple[str, int]]
) -> None:
    """Its percentages round up."""
    rules = rolling("DaemonSet", maxSurge=surge, maxUnavailable=unavailable)
    assert moves(rollout("DaemonSet", nodes=4, **rules)) == expected


def test_a_daemon_set_with_surge_goes_on_when_a_new_pod_is_available() -> None:
    """Old pods that sleep hold up only its status."""
    rules = rolling("DaemonSet", maxSurge=1, maxUnavailable=0)
    found = rollout("DaemonSet", nodes=3, hook={"sleep": {"seconds": 30}}, **rules)
    created = sorted(pod.created for pod in found.pods if pod.created is not None)
    assert created[2] < 10  # not held up by old pods that sleep
    assert found.least_serving == 3
    assert found.rolled_out is not None
    assert found.rolled_out > 30  # but its status counts a new pod when the old one has ended


@pytest.mark.parametrize(
    ("kind", "spec", "why"),
    [
        ("Deployment", {"paused": True}, "it is paused"),
        ("Rollout", {"paused": True}, "it is paused"),
        ("StatefulSet", {"updateStrategy": {"type": "OnDelete"}}, "OnDelete"),
        ("DaemonSet", {"updateStrategy": {"type": "OnDelete"}}, "OnDelete"),
    ],
)
def test_what_moves_no_pod_by_itself_says_so(kind: str, spec: Mapping[str, Any], why: str) -> None:
    """And loses nothing, and passes no deadline."""
    found = rollout(kind, **spec)
    assert moves(found) == []
    assert found.rolled_out is None
    assert found.old_pods_gone is None
    assert found.unfinished.startswith(why)
    assert found.at_risk == (0, 0)
    assert found.deadline_exceeded is None


@pytest.mark.parametrize("kind", sorted(KINDS))
def test_a_workload_without_pods_is_rolled_out_at_once(kind: str) -> None:
    """There is nothing to wait for, and nothing to lose."""
    found = rollout(kind, nodes=0, **({} if kind == "DaemonSet" else {"replicas": 0}))
    assert found.pods == ()
    assert found.rolled_out is not None
    assert found.rolled_out < 1
    assert found.at_risk == (0, 0)


# --- Argo Rollouts -------------------------------------------------------------------------------


def canary(*steps: Any, **more: Any) -> dict[str, Any]:
    """Give the spec of a canary with these steps."""
    return {"strategy": {"canary": {"steps": list(steps), **more}}}


def test_a_canary_without_steps_rolls_as_a_deployment_does() -> None:
    """By the same bounds."""
    bounds = {"maxSurge": 1, "maxUnavailable": 0}
    found = rollout("Rollout", replicas=4, strategy={"canary": bounds})
    assert moves(found) == moves(rollout("Deployment", replicas=4, **rolling(**bounds)))


def test_a_canary_goes_on_after_each_pause() -> None:
    """Whether its duration is a text or a number."""
    steps = (
        {"setWeight": 20},
        {"pause": {"duration": "1m"}},
        {"setWeight": 60},
        {"pause": {"duration": 30}},
    )
    found = rollout("Rollout", replicas=5, **canary(*steps, maxSurge=1, maxUnavailable=0))
    assert moves(found) == [("+", 1), ("-", 1)] * 5
    assert found.rolled_out is not None
    assert 90 < found.rolled_out < 110
    assert found.path[0].what == "pauses of its steps"
    assert found.path[0].steps == 2


def test_a_canary_that_pauses_without_a_duration_waits_for_somebody() -> None:
    """With as many new pods as the weight so far asks for."""
    found = rollout("Rollout", replicas=5, **canary({"setWeight": 20}, {"pause": {}}))
    assert sum(not pod.old for pod in found.pods) == 1
    assert found.rolled_out is None
    assert found.unfinished.startswith("step 2 of 2 is a pause without a duration")


def test_a_canary_behind_a_router_keeps_its_old_pods_until_after_the_shift() -> None:
    """And for `scaleDownDelaySeconds` longer."""
    found = rollout(
        "Rollout",
        replicas=4,
        **canary({"setWeight": 50}, {"pause": {"duration": 10}}, trafficRouting={"nginx": {}}),
    )
    assert moves(found) == [("+", 4), ("-", 4)]
    assert found.most_pods == 8
    assert found.rolled_out is not None
    deleted = min(pod.terminating for pod in found.pods if pod.terminating is not None)
    assert deleted - found.rolled_out == pytest.approx(30, abs=0.5)


def test_a_canary_that_scales_its_stable_pods_needs_fewer_at_once() -> None:
    """By `dynamicStableScale`, and never fewer than it wants."""
    steps = ({"setWeight": 50}, {"pause": {"duration": 10}})
    dynamic = {"trafficRouting": {"nginx": {}}, "dynamicStableScale": True}
    found = rollout("Rollout", replicas=4, **canary(*steps, **dynamic))
    assert moves(found) == [("+", 2), ("-", 2)] * 2
    assert found.least_serving == 4


def test_a_step_whose_time_nobody_knows_is_told_as_an_assumption() -> None:
    """It takes as long as its own measurements."""
    found = rollout("Rollout", **canary({"setWeight": 50}, {"analysis": {}}))
    assert found.rolled_out is not None
    assert found.assumptions == ("a step of type analysis is taken to need no time",)


def blue_green(**fields: Any) -> Rollout:
    """Simulate a blue-green Rollout."""
    return rollout("Rollout", strategy={"blueGreen": {"activeService": "web", **fields}})


@pytest.mark.parametrize(("fields", "delay"), [({}, 30), ({"scaleDownDelaySeconds": 5}, 5)])
def test_blue_green_switches_at_once_and_deletes_the_old_pods_after_the_delay(
    fields: dict[str, Any], delay: int
) -> None:
    """30 s where nobody says."""
    found = blue_green(**fields)
    assert moves(found) == [("+", 3), ("-", 3)]
    assert (found.least_serving, found.most_pods) == (3, 6)
    assert found.rolled_out is not None
    deleted = min(pod.terminating for pod in found.pods if pod.terminating is not None)
    assert deleted - found.rolled_out == pytest.approx(delay, abs=0.2)


def test_blue_green_waits_for_its_promotion() -> None:
    """For seconds, or for somebody."""
    quick, slow = blue_green(), blue_green(autoPromotionSeconds=40)
    assert quick.rolled_out is not None
    assert slow.rolled_out is not None
    assert slow.rolled_out - quick.rolled_out == pytest.approx(40, abs=0.2)
    never = blue_green(autoPromotionEnabled=False)
    assert never.rolled_out is None
    assert "until somebody promotes" in never.unfinished
    assert all(pod.terminating is None for pod in never.pods)


def test_blue_green_previews_with_fewer_pods_and_has_them_all_before_the_switch() -> None:
    """The rest come after the promotion."""
    found = blue_green(previewReplicaCount=1, autoPromotionSeconds=10)
    created = sorted(pod.created for pod in found.pods if pod.created is not None)
    assert len(created) == 3
    assert created[1] - created[0] > 10
    assert found.least_serving == 3


def test_a_short_scale_down_delay_loses_what_a_slow_service_still_sends() -> None:
    """The delay is what a sleep is elsewhere."""
    assert blue_green(scaleDownDelaySeconds=0).at_risk[1] > 0
    assert blue_green(scaleDownDelaySeconds=10).at_risk == (0, 0)


# --- how fast, how many, how long ----------------------------------------------------------------


def test_a_controller_writes_no_faster_than_kube_controller_manager_may() -> None:
    """What is beyond waits, in order."""
    found = rollout("Deployment", replicas=230, **rolling(maxSurge="100%", maxUnavailable=0))
    created = sorted(pod.created for pod in found.pods if pod.created is not None)
    assert created[29] == pytest.approx(created[0])  # its burst
    assert created[229] - created[0] == pytest.approx(10, abs=0.1)  # then 20 a second


def test_more_pods_than_can_be_followed_are_refused_in_words() -> None:
    """Whatever a manifest says, it takes no memory."""
    with pytest.raises(
        SimulationError, match=f"^2000000000 pods: at most {MOST_PODS} are simulated"
    ):
        rollout("Deployment", replicas=2_000_000_000)


@pytest.mark.parametrize(
    ("deadline", "exceeded"), [(600, None), (12, None), (5, pytest.approx(5.5, abs=0.6))]
)
def test_a_rollout_that_makes_no_step_for_too_long_has_failed(deadline: int, exceeded: Any) -> None:
    """The deadline counts from the last step ahead."""
    timings = Timings(Times(application=Application(S(10), S(0), S(0.1))))
    found = rollout("Deployment", timings=timings, progressDeadlineSeconds=deadline)
    assert found.deadline_exceeded == exceeded
    assert (found.rolled_out is None) is (exceeded is not None)


def test_a_rollout_whose_pods_never_become_ready_says_why_and_when_it_is_given_up() -> None:
    """Its old pods stay."""
    app = container(startupProbe={"httpGet": {"port": 8080}, "failureThreshold": 1})
    timings = Timings(Times(application=Application(S(60), S(0), S(0.1))))
    found = simulate(KINDS["Deployment"], workload("Deployment", app), timings)
    assert found.rolled_out is None
    assert found.old_pods_gone is None
    assert found.unfinished.startswith("no new pod becomes ready: container app: its startup probe")
    assert found.deadline_exceeded == pytest.approx(600, abs=1)
    assert found.least_serving == 3


@pytest.mark.parametrize("kind", sorted(KINDS))
def test_min_ready_seconds_is_counted_from_the_whole_second_where_the_version_does(
    kind: str,
) -> None:
    """Half a second less on average; never in a DaemonSet."""

    def step(version: tuple[int, int] | None) -> float:
        app = hooked(None, readinessProbe=FAST_PROBE)
        spec = {"minReadySeconds": 10}
        found = simulate(KINDS[kind], workload(kind, app, **spec), QUICK, version, 2)
        pod = next(pod for pod in found.pods if not pod.old)
        assert pod.ready is not None
        assert pod.available is not None
        return pod.available - pod.ready

    assert step((1, 34)) == pytest.approx(10)
    assert step((1, 36)) == pytest.approx(10 if kind == "DaemonSet" else 9.5)
    assert step(None) == step((1, 36))
