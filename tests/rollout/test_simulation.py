"""What a simulation answers: the form of its JSON, its words, its bars, and what it costs."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

import pytest

from tests.builders import container, deployment, rolling, workload
from webhook.decision.workload import DAEMON_SET, DEPLOYMENT, KINDS, STATEFUL_SET
from webhook.rollout.controllers import Cluster, controller_of
from webhook.rollout.pod import PodLifecycle
from webhook.rollout.shape import shape_of
from webhook.rollout.simulation import Rollout, simulate
from webhook.rollout.timings import Application, Seconds, Times, Timings

DOCS = Path(__file__).parents[2] / "docs" / "simulation.md"
S = Seconds.of

# The keys that the contract names, and those that came later.
CONTRACT = {
    "rolledOutSeconds",
    "oldPodsGoneSeconds",
    "leastServing",
    "mostPods",
    "requestsAtRisk",
    "criticalPath",
    "pods",
}
MORE = {"deadlineExceededSeconds", "unfinished", "assumptions", "losses"}
POD = ["name", "old", "created", "ready", "available", "terminating", "stopped", "gone"]


def treated(**more: Any) -> Any:
    """Give a Deployment with a sleep of 10 s, surge and `minReadySeconds`."""
    app = container(lifecycle={"preStop": {"sleep": {"seconds": 10}}})
    spec = {"minReadySeconds": 20, **rolling(maxSurge=1, maxUnavailable=0), **more}
    return deployment(app, pod={"terminationGracePeriodSeconds": 40}, **spec)


def test_the_json_has_the_keys_of_the_contract_and_is_json() -> None:
    """And nothing that JSON cannot hold: no infinity, no NaN."""
    found = simulate(DEPLOYMENT, treated()).to_json()
    assert set(found) == CONTRACT | MORE
    assert all(list(pod) == POD for pod in found["pods"])
    assert all(set(wait) == {"what", "seconds", "steps"} for wait in found["criticalPath"])
    assert json.loads(json.dumps(found, allow_nan=False)) == found
    low, high = found["requestsAtRisk"]
    assert (type(low), type(high)) == (int, int)


def test_the_docs_name_each_key_of_the_json() -> None:
    """A table that is held by what it tells of."""
    named = set(re.findall(r"^\| `(\w+)` \|", DOCS.read_text(), re.MULTILINE))
    assert named == CONTRACT | MORE


def test_a_rollout_that_never_ends_is_null_and_says_why() -> None:
    """Not zero, not a very long time."""
    found = simulate(DEPLOYMENT, treated(paused=True)).to_json()
    assert (found["rolledOutSeconds"], found["oldPodsGoneSeconds"]) == (None, None)
    assert found["unfinished"] == "it is paused: nothing happens until it is resumed"
    assert found["criticalPath"] == []


def test_old_pods_come_first_and_have_no_creation() -> None:
    """They were there before; new ones are there to stay."""
    pods = simulate(DEPLOYMENT, treated()).to_json()["pods"]
    assert [pod["old"] for pod in pods] == [True] * 3 + [False] * 3
    for pod in pods:
        before, after = pod["created"], pod["gone"]
        assert (before is None, after is None) == (pod["old"], not pod["old"])


def test_the_longest_wait_is_said_in_words() -> None:
    """What, how much of how much, and how often."""
    found = simulate(DEPLOYMENT, treated())
    assert found.rolled_out is not None
    total = f"{found.rolled_out:.0f}"
    assert re.fullmatch(rf"5\d of {total} s is minReadySeconds: three steps", found.longest_wait)
    only_one = simulate(DEPLOYMENT, treated(replicas=1)).longest_wait
    assert only_one.endswith("is minReadySeconds: one step")
    many = simulate(DEPLOYMENT, treated(replicas=15)).longest_wait
    assert many.endswith("is minReadySeconds: 15 steps")
    assert simulate(DEPLOYMENT, treated(paused=True)).longest_wait == ""


def test_the_path_of_a_stateful_set_goes_through_the_pods_that_go() -> None:
    """Each waits for the one before it to sleep, to stop and to be gone."""
    app = container(lifecycle={"preStop": {"sleep": {"seconds": 15}}})
    found = simulate(STATEFUL_SET, workload("StatefulSet", app))
    waits = {wait.what: wait for wait in found.path}
    assert (waits["preStop hook"].seconds, waits["preStop hook"].steps) == (pytest.approx(45), 3)
    assert waits["shutdown"].seconds == pytest.approx(3)
    assert waits["start of the application"].seconds == pytest.approx(15)
    assert "removal of the pod" in waits


def bars(found: Rollout, name: str) -> list[str]:
    """Name the phases of a pod."""
    return [phase.name for pod in found.pods if pod.name == name for phase in pod.phases]


def test_the_phases_of_a_pod_are_those_to_draw() -> None:
    """From start to end, without a gap; what is killed says so."""
    found = simulate(DEPLOYMENT, treated())
    assert bars(found, "web-old-1") == ["available", "sleeping", "stopping"]
    assert bars(found, "web-new-1") == ["starting", "ready", "available"]
    slow = Timings(Times(application=Application(S(1), S(300), S(0.1))))
    killed = simulate(DEPLOYMENT, treated(), slow)
    assert bars(killed, "web-old-1") == ["available", "sleeping", "stopping", "killed"]
    assert all(pod.killed for pod in killed.pods if pod.old)
    assert killed.end == max(pod.gone for pod in killed.pods if pod.gone is not None)


def test_timings_of_one_workload_hold_for_it_alone() -> None:
    """By its kind, its name and its namespace."""
    slow = Times(application=Application(S(50), S(1), S(0.1)))
    timings = Timings(workloads={"shop/deployment/web": slow})
    ours = simulate(DEPLOYMENT, treated(), timings)
    theirs = simulate(DEPLOYMENT, treated(metadata={"namespace": "bank"}), timings)
    assert ours.rolled_out is not None
    assert theirs.rolled_out is not None
    assert ours.rolled_out > theirs.rolled_out + 3 * 40


def test_what_had_to_be_assumed_is_told() -> None:
    """Only where it sways the answer."""
    daemon_set = workload("DaemonSet")
    assert "simulated on one" in simulate(DAEMON_SET, daemon_set).assumptions[0]
    assert simulate(DAEMON_SET, daemon_set, nodes=1).assumptions == ()
    running = daemon_set | {"status": {"desiredNumberScheduled": 1}}
    assert simulate(DAEMON_SET, running).assumptions == ()
    stateful_set = workload("StatefulSet", **rolling("StatefulSet", maxUnavailable=2))
    assert "maxUnavailable counts as 1" in simulate(STATEFUL_SET, stateful_set).assumptions[0]
    assert simulate(STATEFUL_SET, stateful_set, server_version=(1, 37)).assumptions == ()
    gated = deployment(pod={"readinessGates": [{"conditionType": "example.com/x"}]})
    assert "readiness gates" in simulate(DEPLOYMENT, gated).assumptions[0]
    assert simulate(DEPLOYMENT, deployment()).assumptions == ()


@pytest.mark.parametrize("kind", sorted(KINDS))
def test_a_rollout_costs_as_many_events_as_it_has_pods(kind: str) -> None:
    """A few for each pod, however many there are: none walks over all the others."""

    def events(pods: int) -> float:
        spec = {} if kind == "DaemonSet" else {"replicas": pods}
        given = workload(kind, **spec)
        shape = shape_of(KINDS[kind], given, nodes=pods)
        rule = controller_of(shape)
        cluster = Cluster(shape, PodLifecycle(given, Times()), rule.heeds)
        cluster.run(rule(cluster))
        assert len(cluster.pods) == 2 * pods
        return cluster.events / pods

    assert events(1000) <= events(10) + 1 <= 12
