"""Contract §2, "Strategy `surge`"."""

from __future__ import annotations

from typing import Any

import pytest

from tests.builders import (
    STRATEGY_KEY,
    Json,
    after,
    canonical,
    changed,
    codes,
    container,
    decide,
    deployment,
    rolling,
    sidecar,
    with_settings,
    workload,
)

SURGE = {"strategy": "surge"}
BOTH = ("Deployment", "DaemonSet")


def values(kind: str, result: Json) -> tuple[Any, Any]:
    """Give `maxUnavailable` and `maxSurge`, `...` where absent."""
    found = (result["spec"].get(STRATEGY_KEY[kind]) or {}).get("rollingUpdate") or {}
    return found.get("maxUnavailable", ...), found.get("maxSurge", ...)


CASES = [
    # kind, maxUnavailable, maxSurge, and what they become
    ("Deployment", ..., ..., 0, ...),
    ("Deployment", None, None, 0, None),
    ("Deployment", "25%", "25%", 0, "25%"),
    ("Deployment", 1, 1, 0, 1),
    ("Deployment", 1, 0, 0, 1),
    ("Deployment", "10%", "0%", 0, 1),
    ("Deployment", 0, 1, 0, 1),
    ("Deployment", "0%", "1%", "0%", "1%"),
    ("Deployment", 0, "100%", 0, "100%"),
    ("Deployment", 0, ..., 0, ...),
    ("Deployment", "100%", 5, 0, 5),
    ("Deployment", "100%", "150%", 0, "150%"),
    ("DaemonSet", ..., ..., 0, 1),
    ("DaemonSet", 1, 0, 0, 1),
    ("DaemonSet", 1, ..., 0, 1),
    ("DaemonSet", "10%", "0%", 0, 1),
    ("DaemonSet", 0, 1, 0, 1),
    ("DaemonSet", "0%", "10%", "0%", "10%"),
    ("Deployment", 1, "00%", 0, 1),
    ("Deployment", "025%", 1, 0, 1),
    ("DaemonSet", 1, "000%", 0, 1),
]


@pytest.mark.parametrize(
    ("kind", "unavailable", "surge", "after_unavailable", "after_surge"), CASES
)
def test_a_new_pod_comes_before_an_old_one_goes(
    kind: str, unavailable: Any, surge: Any, after_unavailable: Any, after_surge: Any
) -> None:
    """`maxUnavailable: 0` and `maxSurge` at least 1; what is safe stays; all comes back."""
    given = {"maxUnavailable": unavailable, "maxSurge": surge}
    built = workload(
        kind,
        says=SURGE,
        **rolling(kind, **{key: each for key, each in given.items() if each is not ...}),
    )
    decision = decide(built)
    assert values(kind, decision.result) == (after_unavailable, after_surge)
    assert not decision.restarts
    result = decision.result
    left = after(with_settings(result, inject="disabled"), result)
    assert canonical(left["spec"]) == canonical(built["spec"])


@pytest.mark.parametrize("kind", BOTH)
@pytest.mark.parametrize(
    "strategy", [..., None, {}, {"type": "RollingUpdate"}, {"type": None}, {"rollingUpdate": None}]
)
def test_a_strategy_that_is_not_written_counts_as_a_rolling_update(
    kind: str, strategy: Any
) -> None:
    """The defaults hold, and what was not there comes back as not there."""
    built = workload(kind, says=SURGE)
    if strategy is not ...:
        built["spec"][STRATEGY_KEY[kind]] = strategy
    result = after(built)
    assert values(kind, result)[0] == 0
    left = after(with_settings(result, inject="disabled"), result)
    assert canonical(left["spec"]) == canonical(built["spec"])


HOST_PORT = {"containerPort": 80, "hostPort": 80}
UNFIT: list[Any] = [
    ("Deployment", {"strategy": {"type": "Recreate"}}, {}),
    ("DaemonSet", {"updateStrategy": {"type": "OnDelete"}}, {}),
    ("StatefulSet", {}, {}),
    ("StatefulSet", {"updateStrategy": {"rollingUpdate": {"maxUnavailable": 1}}}, {}),
    ("Rollout", {"strategy": {"canary": {"maxUnavailable": 1, "maxSurge": 0}}}, {}),
    ("Deployment", {}, {"hostNetwork": True}),
    ("DaemonSet", {}, {"hostNetwork": True}),
    ("Deployment", {}, {"containers": [container("a"), container("b", ports=[HOST_PORT])]}),
    ("DaemonSet", {}, {"containers": [container(ports=[{"containerPort": 1}, HOST_PORT])]}),
    ("Deployment", {}, {"initContainers": [sidecar(ports=[HOST_PORT])]}),
]


@pytest.mark.parametrize(("kind", "spec", "pod"), UNFIT)
def test_left_alone_with_a_warning(kind: str, spec: Json, pod: Json) -> None:
    """Where surge means nothing, or the extra pod could never start."""
    built = workload(kind, says=SURGE, pod=pod, **spec)
    decision = decide(built)
    assert "no-surge" in codes(decision)
    assert decision.result["spec"].get(STRATEGY_KEY[kind]) == built["spec"].get(STRATEGY_KEY[kind])
    plain = workload(kind, pod=pod, **spec)
    assert "no-surge" not in codes(decide(plain))


@pytest.mark.parametrize("pod", [{"hostNetwork": False}, {"hostNetwork": None}])
def test_pods_that_take_no_port_of_their_node_surge(pod: Json) -> None:
    """A host port of zero is none."""
    port = {"containerPort": 80, "hostPort": 0}
    result = after(deployment(container(ports=[port]), says=SURGE, pod=pod))
    assert values("Deployment", result)[0] == 0


@pytest.mark.parametrize("unavailable", [0, "0%"])
def test_a_pair_that_is_invalid_is_left_for_the_api_server_to_refuse(unavailable: Any) -> None:
    """Both zero: nobody could go or come."""
    built = deployment(says=SURGE, **rolling(maxUnavailable=unavailable, maxSurge=0))
    assert values("Deployment", after(built)) == (unavailable, 0)


def test_surge_with_a_volume_claim_draws_a_warning() -> None:
    """Where a claim has one user, the extra pod waits for ever."""
    pod = {"volumes": [{"name": "data", "persistentVolumeClaim": {"claimName": "data"}}]}
    assert codes(decide(deployment(says=SURGE, pod=pod))) == {"surge-with-volume"}
    assert codes(decide(deployment(pod=pod))) == set()
    pod = {"volumes": [{"name": "tmp", "emptyDir": {}}]}
    assert codes(decide(deployment(says=SURGE, pod=pod))) == set()


REQUIRED = "requiredDuringSchedulingIgnoredDuringExecution"
OWN = {"matchLabels": {"app": "web"}}


@pytest.mark.parametrize(
    ("term", "warned"),
    [
        ({"labelSelector": OWN}, True),
        ({"labelSelector": {"matchExpressions": [{"key": "app", "operator": "Exists"}]}}, True),
        ({"labelSelector": {"matchLabels": {"app": "other"}}}, False),
        ({"labelSelector": OWN, "matchLabelKeys": ["pod-template-hash"]}, False),
    ],
)
@pytest.mark.parametrize("kind", BOTH)
def test_surge_with_a_required_anti_affinity_draws_a_warning(
    kind: str,
    term: Json,
    warned: bool,  # noqa: FBT001 - a table's column
) -> None:
    """Where every node has a pod of this one, the extra pod waits for ever."""
    apart = {REQUIRED: [{"topologyKey": "kubernetes.io/hostname", **term}]}
    pod = {"affinity": {"podAntiAffinity": apart}}
    given = workload(kind, says=SURGE, pod=pod)
    assert ("surge-with-anti-affinity" in codes(decide(given))) is warned
    assert "surge-with-anti-affinity" not in codes(decide(workload(kind, pod=pod)))
    assert "surge-with-anti-affinity" not in codes(
        decide(workload(kind, says=SURGE, pod={"affinity": {"podAffinity": apart}}))
    )


def test_values_that_the_user_has_since_changed_are_the_user_s() -> None:
    """They are raised in their turn, and are what comes back."""
    stored = after(deployment(says=SURGE, **rolling(maxUnavailable=1, maxSurge=0)))
    assert values("Deployment", stored) == (0, 1)
    own = {"maxUnavailable": 2, "maxSurge": 0}
    sent = changed(stored, "spec", "strategy", "rollingUpdate", to=own)
    result = after(sent, stored)
    assert values("Deployment", result) == (0, 1)
    left = after(with_settings(result, inject="disabled"), result)
    assert values("Deployment", left) == (2, 0)


@pytest.mark.parametrize("kind", BOTH)
def test_a_pair_that_the_api_server_would_refuse_is_never_put_back(kind: str) -> None:
    """It stays as it is, and is the user's from then on."""
    stored = after(workload(kind, says=SURGE, **rolling(kind, maxUnavailable=1, maxSurge=0)))
    surges = changed(stored, "spec", STRATEGY_KEY[kind], "rollingUpdate", "maxSurge", to=2)
    surges = with_settings(surges, inject="disabled")
    decision = decide(surges, stored)
    unavailable, surge = values(kind, decision.result)
    assert surge == 2
    assert unavailable == (1 if kind == "Deployment" else 0)
    assert "annotations" not in decision.result["spec"]["template"]["metadata"]


def test_a_withdrawn_surge_restores_without_a_restart() -> None:
    """The strategy lies outside the template."""
    built = deployment(says=SURGE, **rolling(maxUnavailable=1, maxSurge=0))
    stored = after(built)
    decision = decide(with_settings(stored, strategy="keep"), stored)
    assert decision.kept
    assert values("Deployment", decision.result) == (1, 0)
