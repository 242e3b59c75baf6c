"""Contract §2, "Precheck": the init container, not the program in it."""

from __future__ import annotations

import copy
from typing import Any

import pytest

from tests.builders import (
    KINDS,
    WINDOWS,
    Json,
    admission,
    after,
    canonical,
    changed,
    codes,
    container,
    decide,
    deployment,
    init_names,
    pod_of,
    sidecar,
    template_changed,
    with_settings,
    worker,
    workload,
)
from tests.decision.test_pre_stop import WINDOWS_PODS
from tests.decision.validation import complaints

NAME = "seamless-precheck"
ASKS = {"precheck": "db:5432, http://api/health"}


def injected(result: Json) -> Json:
    """Give the init container."""
    return next(each for each in pod_of(result)["initContainers"] if each["name"] == NAME)


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize(
    ("given", "expected"),
    [
        (..., [NAME]),
        (None, [NAME]),
        ([], [NAME]),
        ([worker("init")], [NAME, "init"]),
        ([worker("a"), worker("b")], [NAME, "a", "b"]),
        ([sidecar("proxy")], ["proxy", NAME]),
        ([sidecar("proxy"), worker("init")], ["proxy", NAME, "init"]),
        ([sidecar("p"), sidecar("q"), worker("a")], ["p", "q", NAME, "a"]),
        ([worker("a"), sidecar("proxy"), worker("b")], [NAME, "a", "proxy", "b"]),
        ([worker("a", restartPolicy="OnFailure")], [NAME, "a"]),
    ],
)
def test_it_comes_after_the_leading_sidecars_and_before_the_first_ordinary_one(
    kind: str, given: Any, expected: list[str]
) -> None:
    """So that a mesh's proxy is up. Taking it out gives back the list, or its absence."""
    built = workload(kind, says=ASKS)
    if given is not ...:
        pod_of(built)["initContainers"] = copy.deepcopy(given)
    result = after(built)
    assert init_names(result) == expected
    left = after(with_settings(result, inject="disabled"), result)
    assert canonical(pod_of(left)) == canonical(pod_of(built))


def test_it_passes_the_restricted_pod_security_standard() -> None:
    """And is a numeric non-root user, so that `runAsNonRoot` can be judged."""
    security = injected(after(deployment(says=ASKS)))["securityContext"]
    assert security["allowPrivilegeEscalation"] is False
    assert security["capabilities"] == {"drop": ["ALL"]}
    assert security["runAsNonRoot"] is True
    assert security["seccompProfile"] == {"type": "RuntimeDefault"}
    assert type(security["runAsUser"]) is int
    assert security["runAsUser"] > 0
    assert not security.get("privileged")


def test_it_sets_requests_and_limits() -> None:
    """Containers without are refused under a ResourceQuota."""
    resources = injected(after(deployment(says=ASKS)))["resources"]
    assert set(resources["requests"]) == {"cpu", "memory"} == set(resources["limits"])


def test_requests_are_as_large_as_limits() -> None:
    """So that a LimitRange with a ratio or with a least amount of memory lets it pass."""
    resources = injected(after(deployment(says=ASKS)))["resources"]
    assert resources["requests"] == {"cpu": "100m", "memory": "64Mi"} == resources["limits"]


OF_CONFIGURATION = {"precheck": {"resources": {"requests": {"cpu": "1m"}}}}


@pytest.mark.parametrize(
    ("says", "by", "expected"),
    [
        ("250m/1Gi", {}, {"cpu": "250m", "memory": "1Gi"}),
        ("250m/1Gi", OF_CONFIGURATION, {"cpu": "250m", "memory": "1Gi"}),
        ("0.5/100M", {}, {"cpu": "0.5", "memory": "100M"}),
    ],
)
def test_a_setting_says_what_it_asks_for(says: str, by: Json, expected: Json) -> None:
    """Its requests and its limits; above what the configuration says."""
    given = deployment(says={**ASKS, "precheck-resources": says})
    result = after(given, by=admission(by))
    assert injected(result)["resources"] == {"requests": expected, "limits": expected}
    assert not decide(result, result, admission(by)).operations
    off = after(with_settings(result, precheck_resources="none"), result, admission(by))
    plain = after(deployment(says=ASKS), by=admission(by))
    assert injected(off)["resources"] == injected(plain)["resources"]


def asking(requests: Json | None = None, limits: Json | None = None) -> Json:
    """Give resources; without what is not given."""
    named = {"requests": requests, "limits": limits}
    return {key: value for key, value in named.items() if value is not None}


BESIDE = sidecar("proxy", resources=asking({"cpu": "30m"}, {"cpu": "1", "memory": "16Mi"}))
OF_PODS: list[tuple[Json, list[Json], Json, Json]] = [
    # the pod's, init containers, and what becomes of requests and limits
    (asking({"cpu": "1", "memory": "1Gi"}), [], {"cpu": "100m", "memory": "64Mi"}, {}),
    (asking({"cpu": "50m"}), [], {"cpu": "50m", "memory": "64Mi"}, {}),
    (asking({"cpu": "0.05"}), [], {"cpu": "50m", "memory": "64Mi"}, {}),
    (asking({"memory": "32Mi"}), [], {"cpu": "100m", "memory": "33554432"}, {}),
    (asking(None, {"cpu": "50m"}), [], {"cpu": "50m"}, {"cpu": "50m"}),
    (asking({"cpu": "20m"}, {"cpu": "50m"}), [], {"cpu": "20m"}, {"cpu": "50m"}),
    (asking({"cpu": "0"}, {"memory": "1"}), [], {"cpu": "0m", "memory": "1"}, {"memory": "1"}),
    (asking({"cpu": "120m"}), [BESIDE], {"cpu": "90m"}, {}),
    (asking({"cpu": "20m"}), [BESIDE], {"cpu": "0m"}, {}),
    (asking(None, {"memory": "70Mi"}), [BESIDE], {"memory": "56623104"}, {}),
    (asking({"cpu": "120m"}), [worker("a", resources=asking({"cpu": "99m"}))], {}, {}),
    (asking({"hugepages-2Mi": "2Mi"}), [], {}, {}),
    (asking({"cpu": "many"}, {"cpu": None}), [], {}, {}),
    ({"limits": None, "requests": []}, [], {}, {}),
]


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize(("of_pod", "initial", "requests", "limits"), OF_PODS)
def test_it_asks_for_no_more_than_the_pod_s_own_resources_allow(
    kind: str, of_pod: Json, initial: list[Json], requests: Json, limits: Json
) -> None:
    """The API server refuses a container that does (KEP-2837)."""
    given = workload(kind, says=ASKS, pod={"resources": of_pod, "initContainers": initial})
    result = after(given)
    built_in = {"cpu": "100m", "memory": "64Mi"}
    assert injected(result)["resources"] == {
        "requests": {**built_in, **requests},
        "limits": {**built_in, **limits},
    }
    assert not decide(result, result).operations
    left = after(with_settings(result, inject="disabled"), result)
    assert pod_of(left) == pod_of(given)


@pytest.mark.parametrize("by", [{"limits": {"cpu": "1"}}, {"requests": {"memory": "1Gi"}}])
def test_what_the_configuration_asks_for_is_cut_as_well(by: Json) -> None:
    """A limit alone becomes a request of as much when the pod is made."""
    pod = {"resources": asking({"cpu": "200m", "memory": "128Mi"})}
    by = admission({"precheck": {"resources": by}})
    result = after(deployment(says=ASKS, pod=pod), by=by)
    assert not complaints(result)
    assert not decide(result, result, by).operations


HOST = {"hostNetwork": True}


@pytest.mark.parametrize(
    ("pod", "warned"),
    [
        (HOST, True),
        ({**HOST, "dnsPolicy": None}, True),
        ({**HOST, "dnsPolicy": "ClusterFirst"}, True),
        ({**HOST, "dnsPolicy": "Default"}, True),
        ({**HOST, "dnsPolicy": "ClusterFirstWithHostNet"}, False),
        ({"hostNetwork": False}, False),
        ({}, False),
    ],
)
def test_on_the_node_s_network_it_needs_the_cluster_s_names(
    pod: Json,
    warned: bool,  # noqa: FBT001 - a table's column
) -> None:
    """Without `ClusterFirstWithHostNet` no Service is found: a warning."""
    decision = decide(deployment(pod=pod, says=ASKS))
    assert init_names(decision.result) == [NAME]
    assert ("precheck-host-network" in codes(decision)) is warned
    assert "precheck-host-network" not in codes(decide(deployment(pod=pod)))


def test_it_runs_what_the_configuration_says() -> None:
    """Image, pull policy, user and resources."""
    given = {
        "image": "registry.example/seamless@sha256:abc",
        "imagePullPolicy": "Always",
        "runAsUser": None,
        "resources": {"requests": {"cpu": "1m"}, "limits": {"memory": "1Gi"}},
    }
    found = injected(after(deployment(says=ASKS), by=admission({"precheck": given})))
    assert found["image"] == given["image"]
    assert found["imagePullPolicy"] == "Always"
    assert "runAsUser" not in found["securityContext"]
    assert found["securityContext"]["runAsNonRoot"] is True
    assert found["resources"] == given["resources"]


def test_it_waits_for_the_targets_with_the_quorum_and_the_time() -> None:
    """As arguments that no target can turn into an option."""
    says = {**ASKS, "precheck-require": "majority", "precheck-timeout": "1m30s"}
    found = injected(after(deployment(says=says)))
    assert found["args"][-2:] == ["db:5432", "http://api/health"]
    assert "--require=majority" in found["args"]
    assert "--timeout=90s" in found["args"]
    found = injected(after(deployment(says=ASKS)))
    assert "--require=all" in found["args"]
    assert "--timeout=600s" in found["args"]


@pytest.mark.parametrize(("require", "warned"), [("2", False), ("1", False), ("3", True)])
def test_a_quorum_above_the_number_of_targets_becomes_all(
    require: str,
    warned: bool,  # noqa: FBT001 - a table's column
) -> None:
    """With a warning."""
    decision = decide(deployment(says={**ASKS, "precheck-require": require}))
    assert ("quorum-too-large" in codes(decision)) is warned
    args = injected(decision.result)["args"]
    assert ("--require=all" if warned else f"--require={require}") in args


@pytest.mark.parametrize("pod", WINDOWS_PODS)
def test_on_windows_it_is_not_injected(pod: Json) -> None:
    """With a warning; whatever tells Windows."""
    before = init_names(deployment(pod=pod))
    decision = decide(deployment(pod=pod, says=ASKS))
    assert init_names(decision.result) == before
    assert "precheck-on-windows" in codes(decision)


def test_on_windows_no_init_containers_are_made() -> None:
    """Not even an empty list."""
    decision = decide(deployment(pod=WINDOWS, says=ASKS))
    assert "initContainers" not in pod_of(decision.result)
    assert "precheck-on-windows" in codes(decision)


@pytest.mark.parametrize("place", ["containers", "initContainers"])
def test_a_container_of_that_name_that_no_record_names_is_the_user_s(place: str) -> None:
    """Kept, nothing added, a warning."""
    given = deployment(container("app"), says=ASKS)
    pod_of(given).setdefault(place, []).append(worker(NAME))
    decision = decide(given)
    assert pod_of(decision.result)[place][-1]["image"] == worker(NAME)["image"]
    assert [each["name"] for each in pod_of(decision.result)[place]].count(NAME) == 1
    assert "precheck-name-taken" in codes(decision)
    left = after(with_settings(decision.result, inject="disabled"), decision.result)
    assert pod_of(left) == pod_of(given)


@pytest.mark.parametrize(
    "change",
    [
        {"image": "mirror.example/seamless:1"},
        {"imagePullPolicy": "Always"},
        {"resources": {"requests": {"cpu": "0.01"}}},
        {"env": [{"name": "HTTP_PROXY", "value": "http://proxy"}]},
        {"args": ["anything"]},
        {"terminationMessagePath": "/dev/termination-log"},
        {"restartPolicy": "Always"},
    ],
)
def test_an_init_container_that_the_record_names_is_ours_whole(change: Json) -> None:
    """What the API server or another webhook writes into it is no change by the user."""
    given = deployment(says=ASKS)
    stored = after(given)
    rewritten = changed(
        stored,
        "spec",
        "template",
        "spec",
        "initContainers",
        0,
        to={**pod_of(stored)["initContainers"][0], **change},
    )
    scaled = changed(rewritten, "spec", "replicas", to=5)
    decision = decide(scaled, rewritten)
    assert decision.kept
    assert not decision.operations
    left = after(with_settings(rewritten, inject="disabled"), rewritten)
    assert pod_of(left) == pod_of(given)


def test_a_changed_target_replaces_the_container() -> None:
    """Pods restart: the workload's own setting acts on its template."""
    stored = after(deployment(says=ASKS))
    decision = decide(with_settings(stored, precheck="mq:5672"), stored)
    assert decision.restarts
    assert injected(decision.result)["args"][-1] == "mq:5672"
    assert init_names(decision.result) == [NAME]


def test_an_init_container_that_the_user_adds_comes_after_it() -> None:
    """Where it belongs when all is decided afresh."""
    stored = after(deployment(says=ASKS))
    more = [*pod_of(stored)["initContainers"], worker("own")]
    result = after(template_changed(stored, "initContainers", to=more), stored)
    assert init_names(result) == [NAME, "own"]


@pytest.mark.parametrize(
    ("target", "own"),
    [
        ("web", True),
        ("web:80", True),
        ("dns://web.shop", True),
        ("http://web.shop.svc:80/health", True),
        ("tcp://web.shop.svc.cluster.local:80", True),
        ("WEB:80", True),
        ("web.other:80", False),
        ("webs:80", False),
        ("db.web:80", False),
        ("web-0.web:80", False),
    ],
)
@pytest.mark.parametrize("named", [True, False])
def test_a_precheck_for_the_workload_s_own_name_draws_a_warning(
    target: str,
    own: bool,  # noqa: FBT001 - a table's column
    named: bool,  # noqa: FBT001 - a table's column
) -> None:
    """It would wait for itself."""
    given = deployment(says={"precheck": target})
    if not named:
        del given["metadata"]["namespace"]
    decision = decide(given, namespace="shop")
    assert ("precheck-of-itself" in codes(decision)) is own
