"""How far a rollout is, whether it may begin, which comes first, and when."""

from __future__ import annotations

from datetime import UTC, datetime, time
from typing import Any
from zoneinfo import ZoneInfo

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
    Change,
    Window,
    blocking_budget,
    hindrance,
    least_seconds,
    least_total,
    ordered,
    out_at_once,
    patience,
    pods,
    progress,
    rolls,
    selects,
    window,
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
    assert hindrance(DEPLOYMENT, stored("Deployment", SETTLED["Deployment"]), restarts=True) is None
    paused = stored("Deployment", SETTLED["Deployment"], paused=True)
    assert hindrance(DEPLOYMENT, paused, restarts=False) == "it is paused"
    under_way = stored("Deployment", {**SETTLED["Deployment"], "updatedReplicas": 1})
    assert "rolling" in str(hindrance(DEPLOYMENT, under_way, restarts=True))
    assert rolls(DEPLOYMENT, under_way)
    crashing = stored("Deployment", {**SETTLED["Deployment"], "availableReplicas": 1})
    assert "available" in str(hindrance(DEPLOYMENT, crashing, restarts=True))
    assert not rolls(DEPLOYMENT, crashing)


@pytest.mark.parametrize("kind", [STATEFUL_SET, DAEMON_SET])
def test_on_delete_stands_only_in_the_way_of_restarts(kind: Kind) -> None:
    """A field outside the template waits for no pod to be deleted."""
    given = stored(kind.name, SETTLED[kind.name], updateStrategy={"type": "OnDelete"})
    given["status"] |= {"updatedNumberScheduled": 0, "updatedReplicas": 0, "updateRevision": "b"}
    assert "OnDelete" in str(hindrance(kind, given, restarts=True))
    assert hindrance(kind, given, restarts=False) is None


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


# --- how long, how many --------------------------------------------------------------------------


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
    ],
)
def test_how_many_pods_a_rollout_may_take_away_is_told(kind: str, fields: Json, out: int) -> None:
    """Percentages of what is unavailable round down for Deployments, up for DaemonSets."""
    assert out_at_once(KINDS[kind], stored(kind, SETTLED[kind], **fields)) == out


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
def test_patience_follows_from_the_settings(kind: str, fields: Json, seconds: int) -> None:
    """The deadline where there is one, the grace period, pauses, and a minute."""
    assert patience(KINDS[kind], stored(kind, {}, **fields)) == seconds


# --- which first ---------------------------------------------------------------------------------


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


# --- when ----------------------------------------------------------------------------------------

BERLIN = ZoneInfo("Europe/Berlin")


@pytest.mark.parametrize(
    ("text", "at", "is_open"),
    [
        ("22:00-06:00", "2026-03-02T21:59:59+00:00", False),
        ("22:00-06:00", "2026-03-02T22:00:00+00:00", True),
        ("22:00-06:00", "2026-03-03T05:59:59+00:00", True),
        ("22:00-06:00", "2026-03-03T06:00:00+00:00", False),
        ("09:00-17:00", "2026-03-03T12:00:00+00:00", True),
        ("09:00-17:00", "2026-03-03T08:59:00+00:00", False),
        ("00:00-23:59", "2026-03-03T00:00:00+00:00", True),
    ],
)
def test_a_window_is_open_from_its_start_to_its_end(text: str, at: str, *, is_open: bool) -> None:
    """Over midnight, too."""
    assert window(text, UTC).is_open(datetime.fromisoformat(at)) == is_open


def test_a_window_follows_the_clock_on_the_wall_of_its_zone() -> None:
    """02:30 comes not at all in the night that loses an hour, and twice in the one that wins it."""
    night = Window(time(2, 30), time(4, 0), BERLIN)
    lost = [
        datetime(2026, 3, 29, hour, minute, tzinfo=UTC) for hour in (0, 1) for minute in (30, 59)
    ]
    assert [night.is_open(each) for each in lost] == [False, False, True, True]
    twice = [datetime(2026, 10, 25, hour, 45, tzinfo=UTC) for hour in range(4)]
    assert [night.is_open(each) for each in twice] == [True, True, True, False]
    assert window("22:00-06:00", BERLIN).is_open(datetime(2026, 7, 1, 20, 30, tzinfo=UTC))


@pytest.mark.parametrize("text", ["", "22-6", "22:00", "24:00-06:00", "22:60-06:00", "6:00-6:00"])
def test_what_is_no_window_is_told(text: str) -> None:
    """And what is."""
    with pytest.raises(ValueError, match="expected two times of day such as 22:00-06:00"):
        window(text)
