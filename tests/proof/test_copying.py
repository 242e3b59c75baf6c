"""The copy of a workload: reached by nobody but us, and nothing that harms."""

from __future__ import annotations

from typing import Any

import pytest

from tests.builders import deployment
from tests.chart.pod_security import violations as restricted_violations
from webhook.proof.copying import (
    MANAGED_BY,
    CopyError,
    copied,
    copied_name,
    copied_service,
    job_secret,
    label_selector,
    load_pod,
)
from webhook.rollouts import selects
from webhook.workload import DEPLOYMENT, ROLLOUT, STATEFUL_SET

Json = dict[str, Any]


def shop(**labels: str) -> Json:
    """A Deployment whose pods have these labels, too."""
    found = deployment(metadata={"name": "web", "namespace": "shop"})
    found["spec"]["selector"] = {"matchLabels": {"app": "web"}}
    found["spec"]["template"]["metadata"]["labels"] = {"app": "web", **labels}
    return found


def service(**selector: str) -> Json:
    """A Service."""
    return {
        "metadata": {"name": "web", "namespace": "shop"},
        "spec": {
            "clusterIP": "10.0.0.1",
            "selector": selector,
            "ports": [{"port": 80, "targetPort": "http", "nodePort": 30000}],
        },
    }


def labels_of(thing: Json) -> Json:
    """The pod template's labels."""
    found: Json = thing["spec"]["template"]["metadata"]["labels"]
    return found


@pytest.mark.parametrize(
    "services",
    [
        [service(app="web")],
        [service(tier="front")],
        [service(tier="front", zone="a"), service(zone="a")],
        [],
    ],
)
def test_no_service_of_the_namespace_reaches_a_copy(services: list[Json]) -> None:
    """So no user's request does; and its own does."""
    made = copied(DEPLOYMENT, shop(tier="front", zone="a", team="x"), services, "web-copy")
    for each in services:
        assert not selects({"matchLabels": each["spec"]["selector"]}, labels_of(made))
    own = copied_service(service(app="web"), "web-copy")
    assert selects({"matchLabels": own["spec"]["selector"]}, labels_of(made))
    assert selects(made["spec"]["selector"], labels_of(made))
    assert labels_of(made)["team"] == "x"


def test_a_copys_pods_are_none_of_the_workloads() -> None:
    """Its controller would adopt them."""
    workload = shop()
    made = copied(DEPLOYMENT, workload, [], "web-copy")
    assert not selects(workload["spec"]["selector"], labels_of(made))


def test_a_copy_is_disabled_labelled_and_keeps_its_record() -> None:
    """By the record the webhook takes out what it injected."""
    workload = shop()
    workload["metadata"]["annotations"] = {
        "seamless-rollouts.dev/injected": "{}",
        "kubectl.kubernetes.io/last-applied-configuration": "{}",
        "deployment.kubernetes.io/revision": "7",
    }
    made = copied(DEPLOYMENT, workload, [], "web-copy")
    assert made["metadata"]["labels"]["seamless-rollouts.dev/inject"] == "disabled"
    assert made["metadata"]["labels"][MANAGED_BY] == "seamless-prove"
    assert list(made["metadata"]["annotations"]) == ["seamless-rollouts.dev/injected"]
    assert made["metadata"]["namespace"] == "shop"
    assert workload == workload | {"metadata": workload["metadata"]}
    assert labels_of(workload) == {"app": "web"}


def _with_claim() -> Json:
    found = shop()
    found["spec"]["template"]["spec"]["volumes"] = [
        {"name": "data", "persistentVolumeClaim": {"claimName": "data"}}
    ]
    return found


def _on_the_host() -> Json:
    found = shop()
    found["spec"]["template"]["spec"]["hostNetwork"] = True
    return found


def _claiming() -> Json:
    found = shop()
    found["spec"]["volumeClaimTemplates"] = [{}]
    return found


@pytest.mark.parametrize(
    ("kind", "workload", "text"),
    [
        (DEPLOYMENT, _with_claim(), "share a persistent volume"),
        (DEPLOYMENT, _on_the_host(), "ports of their node"),
        (STATEFUL_SET, _claiming(), "claims volumes"),
        (ROLLOUT, shop(), "a Rollout is not copied"),
    ],
)
def test_what_two_of_would_harm_is_not_copied(kind: Any, workload: Json, text: str) -> None:
    """And it says why."""
    with pytest.raises(CopyError, match=text):
        copied(kind, workload, [], "web-copy")


def test_a_copys_service_has_no_port_on_nodes() -> None:
    """Only what its clients need."""
    made = copied_service(service(app="web"), "web-copy")
    assert made["spec"]["ports"] == [{"port": 80, "targetPort": "http"}]
    assert "clusterIP" not in made["spec"]
    headless = service(app="web")
    headless["spec"]["clusterIP"] = "None"
    assert copied_service(headless, "web-copy")["spec"]["clusterIP"] == "None"


@pytest.mark.parametrize("name", ["web", "x" * 253, "a." * 40])
def test_the_name_of_a_copy_fits_into_a_label(name: str) -> None:
    """With what controllers append to it."""
    found = copied_name(name, "prove-copy")
    assert len(found) <= 52
    assert found.endswith("-prove-copy")
    assert found != name


def test_the_pod_that_sends_is_restricted_and_ends_by_itself() -> None:
    """It passes the strictest Pod Security Standard, and has no token."""
    pod = load_pod("load", "shop", "image", 600)
    assert not restricted_violations(pod["spec"])
    assert pod["spec"]["activeDeadlineSeconds"] == 600
    assert pod["spec"]["automountServiceAccountToken"] is False
    assert pod["metadata"]["labels"][MANAGED_BY] == "seamless-prove"


def test_the_job_is_in_a_secret_that_goes_with_its_pod() -> None:
    """Headers may be secrets: the pod's spec does not show them."""
    pod = load_pod("load", "shop", "image", 600)
    pod["metadata"]["uid"] = "1"
    made = job_secret(pod, '{"headers": {"Authorization": "x"}}')
    assert made["metadata"]["ownerReferences"][0]["uid"] == "1"
    assert "Authorization" in made["stringData"]["job.json"]
    assert "Authorization" not in str(pod)


@pytest.mark.parametrize(
    ("selector", "text"),
    [
        ({"matchLabels": {"a": "b", "c": "d"}}, "a=b,c=d"),
        (
            {"matchExpressions": [{"key": "a", "operator": "In", "values": ["x", "y"]}]},
            "a in (x,y)",
        ),
        (
            {"matchExpressions": [{"key": "a", "operator": "NotIn", "values": ["x"]}]},
            "a notin (x)",
        ),
        ({"matchExpressions": [{"key": "a", "operator": "Exists"}]}, "a"),
        ({"matchExpressions": [{"key": "a", "operator": "DoesNotExist"}]}, "!a"),
        (None, ""),
    ],
)
def test_a_selector_is_written_as_a_query(selector: Any, text: str) -> None:
    """As `kubectl -l` has it."""
    assert label_selector(selector) == text
