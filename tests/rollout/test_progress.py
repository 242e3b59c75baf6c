"""How far a rollout is, whether it may begin, and when it has failed."""

from __future__ import annotations

from typing import Any

import pytest

from tests.builders import Json, rolling, workload
from webhook.decision.workload import (
    DAEMON_SET,
    DEPLOYMENT,
    KINDS,
    ROLLOUT,
    STATEFUL_SET,
    Kind,
)
from webhook.rollout.progress import (
    blocker,
    blocking_budget,
    progress,
    progress_timeout,
    rolls,
    selects,
)


def stored(kind: str, status: Json, *, generation: int = 4, **spec: Any) -> Json:
    """Give a workload as the API server stores it."""
    return {**workload(kind, metadata={"generation": generation}, **spec), "status": dict(status)}


SETTLED: dict[str, Json] = {
    "Deployment": {
        "observedGeneration": 4,
        "replicas": 3,
        "updatedReplicas": 3,
        "availableReplicas": 3,
    },
    "StatefulSet": {
        "observedGeneration": 4,
        "replicas": 3,
        "updatedReplicas": 3,
        "availableReplicas": 3,
        "currentRevision": "a",
        "updateRevision": "a",
    },
    "DaemonSet": {
        "observedGeneration": 4,
        "desiredNumberScheduled": 3,
        "updatedNumberScheduled": 3,
        "numberAvailable": 3,
    },
    "Rollout": {
        "observedGeneration": "4",
        "phase": "Healthy",
        "updatedReplicas": 3,
        "availableReplicas": 3,
    },
}
LATE = {"type": "Progressing", "reason": "ProgressDeadlineExceeded", "message": "timed out"}


@pytest.mark.parametrize("kind", KINDS.values(), ids=list(KINDS))
def test_a_rollout_that_is_over_is_done(kind: Kind) -> None:
    """Observed, updated, available."""
    found = progress(kind, stored(kind.name, SETTLED[kind.name]))
    assert (found.done, found.failed, found.held) == (True, False, False)


@pytest.mark.parametrize("kind", KINDS.values(), ids=list(KINDS))
def test_a_change_that_no_controller_has_noticed_is_not_done(kind: Kind) -> None:
    """Whatever its status says of the generation before."""
    found = progress(kind, stored(kind.name, SETTLED[kind.name], generation=5))
    assert not found.done
    assert "has yet to notice" in found.text
    assert not progress(kind, stored(kind.name, {})).done


@pytest.mark.parametrize(
    ("kind", "status", "text"),
    [
        (DEPLOYMENT, {"updatedReplicas": 2}, "2 of 3 pods are new"),
        (DEPLOYMENT, {"replicas": 5}, "2 old pods are yet to go"),
        (DEPLOYMENT, {"replicas": 4}, "1 old pod is yet to go"),
        (DEPLOYMENT, {"availableReplicas": 1}, "1 of 3 pods are available"),
        (STATEFUL_SET, {"updatedReplicas": 1}, "1 of 3 pods are new"),
        (STATEFUL_SET, {"availableReplicas": 2}, "2 of 3 pods are available"),
        (STATEFUL_SET, {"updateRevision": "b"}, "its new revision is not yet the current one"),
        (DAEMON_SET, {"updatedNumberScheduled": 2}, "2 of 3 pods are new"),
        (DAEMON_SET, {"numberAvailable": 0}, "0 of 3 pods are available"),
        (ROLLOUT, {"phase": "Progressing", "message": "more"}, "its phase is Progressing: more"),
        (ROLLOUT, {"phase": None}, "its phase is unknown"),
    ],
)
def test_a_rollout_under_way_says_what_it_waits_for(kind: Kind, status: Json, text: str) -> None:
    """By the rules of `kubectl rollout status`, and of Argo Rollouts."""
    found = progress(kind, stored(kind.name, {**SETTLED[kind.name], **status}))
    assert found.text == text
    assert {found.done, found.failed, found.held} == {False}
    assert found.steps


def test_what_a_controller_has_given_up_has_failed() -> None:
    """The progress deadline has passed; an Argo Rollout is degraded."""
    given = {**SETTLED["Deployment"], "availableReplicas": 1, "conditions": [LATE]}
    found = progress(DEPLOYMENT, stored("Deployment", given))
    assert found.failed
    assert "timed out" in found.text
    degraded = {**SETTLED["Rollout"], "phase": "Degraded"}
    assert progress(ROLLOUT, stored("Rollout", degraded)).failed


def test_a_partition_bounds_what_is_updated() -> None:
    """Only the pods above it are to be new, and the revisions stay two."""
    status = {**SETTLED["StatefulSet"], "updatedReplicas": 1, "updateRevision": "b"}
    given = stored("StatefulSet", status, **rolling("StatefulSet", partition=2))
    assert progress(STATEFUL_SET, given).done
    given["status"]["updatedReplicas"] = 0
    assert progress(STATEFUL_SET, given).text == "0 of 1 pods are new"


@pytest.mark.parametrize(
    ("strategy", "held"),
    [
        ({"canary": {"steps": [{"setWeight": 20}, {"pause": {}}]}}, True),
        ({"canary": {"steps": [{"setWeight": 20}, {"pause": {"duration": "10m"}}]}}, False),
        ({"canary": {"steps": [{"setWeight": 20}, {"pause": {"duration": 30}}]}}, False),
        ({"blueGreen": {"autoPromotionEnabled": False}}, True),
        ({"blueGreen": {"autoPromotionSeconds": 30}}, False),
    ],
)
def test_an_argo_rollout_that_waits_for_somebody_is_held(strategy: Json, *, held: bool) -> None:
    """A pause that ends by itself is waited for."""
    status = {**SETTLED["Rollout"], "phase": "Paused", "currentStepIndex": 1}
    found = progress(ROLLOUT, stored("Rollout", status, strategy=strategy))
    assert found.held == held
    assert not found.done


def test_a_status_that_holds_anything_is_read() -> None:
    """A custom resource's is checked by nobody."""
    for status in (None, 3, [], {"conditions": 3}, {"replicas": "x", "observedGeneration": []}):
        for kind in KINDS.values():
            assert not progress(kind, {**stored(kind.name, {}), "status": status}).done


# --- may it begin --------------------------------------------------------------------------------


def test_what_is_paused_or_rolling_or_unhealthy_may_not_begin() -> None:
    """And says why; what is settled may."""
    assert blocker(DEPLOYMENT, stored("Deployment", SETTLED["Deployment"]), restarts=True) is None
    paused = stored("Deployment", SETTLED["Deployment"], paused=True)
    assert blocker(DEPLOYMENT, paused, restarts=False) == "it is paused"
    under_way = stored("Deployment", {**SETTLED["Deployment"], "updatedReplicas": 1})
    assert "rolling" in str(blocker(DEPLOYMENT, under_way, restarts=True))
    assert rolls(DEPLOYMENT, under_way)
    crashing = stored("Deployment", {**SETTLED["Deployment"], "availableReplicas": 1})
    assert "available" in str(blocker(DEPLOYMENT, crashing, restarts=True))
    assert not rolls(DEPLOYMENT, crashing)


@pytest.mark.parametrize("kind", [STATEFUL_SET, DAEMON_SET])
def test_on_delete_stands_only_in_the_way_of_restarts(kind: Kind) -> None:
    """A field outside the template waits for no pod to be deleted."""
    given = stored(kind.name, SETTLED[kind.name], updateStrategy={"type": "OnDelete"})
    given["status"] |= {"updatedNumberScheduled": 0, "updatedReplicas": 0, "updateRevision": "b"}
    assert "OnDelete" in str(blocker(kind, given, restarts=True))
    assert blocker(kind, given, restarts=False) is None


@pytest.mark.parametrize(
    ("selector", "selected"),
    [
        (None, False),
        ({}, True),
        ({"matchLabels": {"app": "web"}}, True),
        ({"matchLabels": {"app": "web", "tier": "x"}}, False),
        ({"matchExpressions": [{"key": "app", "operator": "In", "values": ["a", "web"]}]}, True),
        ({"matchExpressions": [{"key": "app", "operator": "NotIn", "values": ["web"]}]}, False),
        ({"matchExpressions": [{"key": "x", "operator": "NotIn", "values": ["web"]}]}, True),
        ({"matchExpressions": [{"key": "app", "operator": "Exists"}]}, True),
        ({"matchExpressions": [{"key": "app", "operator": "DoesNotExist"}]}, False),
        ({"matchExpressions": [{"key": "x", "operator": "DoesNotExist"}]}, True),
        (
            {
                "matchLabels": {"app": "web"},
                "matchExpressions": [{"key": "x", "operator": "Exists"}],
            },
            False,
        ),
    ],
)
def test_selectors_select_as_the_api_server_has_it(selector: Any, *, selected: bool) -> None:
    """Labels and expressions; all must hold."""
    assert selects(selector, {"app": "web"}) == selected


def test_a_budget_of_no_pods_stands_in_nobodys_way() -> None:
    """A workload that is scaled to nothing loses nothing; one without a status allows nothing."""
    budget: Json = {"metadata": {"name": "b"}, "spec": {"selector": {}}}
    given = stored("Deployment", SETTLED["Deployment"])
    assert blocking_budget([budget], DEPLOYMENT, given) == "b"
    given["spec"]["replicas"] = 0
    assert blocking_budget([budget], DEPLOYMENT, given) is None


# --- when it has failed ---------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("kind", "fields", "seconds"),
    [
        ("Deployment", {}, 600 + 30 + 60),
        ("Deployment", {"progressDeadlineSeconds": 100}, 100 + 30 + 60),
        ("Deployment", {"progressDeadlineSeconds": 2**31 - 1, "minReadySeconds": 5}, 605 + 90),
        ("StatefulSet", {"minReadySeconds": 40}, 640 + 30 + 60),
        ("DaemonSet", {"pod": {"terminationGracePeriodSeconds": 300}}, 600 + 300 + 60),
        (
            "Rollout",
            {"strategy": {"canary": {"steps": [{"pause": {"duration": "1h30m"}}, {"x": 1}]}}},
            600 + 30 + 60 + 5400,
        ),
    ],
)
def test_the_progress_timeout_follows_the_settings(kind: str, fields: Json, seconds: int) -> None:
    """The deadline where there is one, the grace period, pauses, and a minute."""
    assert progress_timeout(KINDS[kind], stored(kind, {}, **fields)) == seconds
