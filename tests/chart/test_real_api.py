"""The chart on a real API server, installed by real Helm 4; skipped where there is none.

No controllers run, so no pods either: what is proved is that the API server takes every object
(expressions compiled), who owns which field, and what the rights come to.
"""

from __future__ import annotations

import base64
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import helm_python
import pytest
from kubernetes import client, config

from tests.chart.rendering import (
    CHART,
    NAME,
    NAMESPACE,
    VALUES_FILES,
    Manifest,
    read_values,
    render,
)
from tests.realapi import RealApi, real_api  # noqa: F401 - the fixture

CUSTOM = {"Certificate", "Issuer", "PrometheusRule", "ServiceMonitor"}
CA = base64.b64encode(b"a bundle").decode()
MANAGER = "seamless-certificates"


@pytest.fixture(scope="module")
def api(real_api: RealApi) -> Iterator[client.ApiClient]:  # noqa: F811 - the fixture
    """A client of the API server, with the namespace of the release there."""
    connect: Any = config.new_client_from_config
    with connect(str(real_api.kubeconfig)) as found:
        core: Any = client.CoreV1Api(found)
        core.create_namespace({"metadata": {"name": NAMESPACE}})
        yield found


@pytest.fixture
def helm(real_api: RealApi, api: client.ApiClient) -> Iterator[helm_python.Config]:  # noqa: ARG001, F811
    """Helm, in that namespace; takes away what a test installed."""
    with helm_python.Config(kubeconfig_path=real_api.kubeconfig, namespace=NAMESPACE) as found:
        yield found
        found.uninstall(NAME, ignore_not_found=True)


def webhooks(api: client.ApiClient) -> dict[str, str | None] | None:
    """Give the `caBundle` of each entry; nothing where there is no configuration."""
    admission = client.AdmissionregistrationV1Api(api)
    try:
        found: Any = admission.read_mutating_webhook_configuration(NAME)
    except client.exceptions.NotFoundException:
        return None
    return {each.name: each.client_config.ca_bundle for each in found.webhooks}


def conditions(api: client.ApiClient) -> dict[str, list[str]]:
    """Name the conditions of each entry."""
    admission = client.AdmissionregistrationV1Api(api)
    found: Any = admission.read_mutating_webhook_configuration(NAME)
    return {
        each.name: [condition.name for condition in each.match_conditions or ()]
        for each in found.webhooks
    }


def secret(api: client.ApiClient) -> Any:
    """Give the CA's Secret."""
    return client.CoreV1Api(api).read_namespaced_secret(f"{NAME}-ca", NAMESPACE)


def do_the_pods_part(api: client.ApiClient) -> None:
    """Fill in the CA and the bundles, as the pods do."""
    body: Any = secret(api)
    body.data = {"tls.crt": CA}
    core = client.CoreV1Api(api)
    core.replace_namespaced_secret(f"{NAME}-ca", NAMESPACE, body, field_manager=MANAGER)
    operations = [
        {"op": "add", "path": f"/webhooks/{number}/clientConfig/caBundle", "value": CA}
        for number in range(len(webhooks(api) or {}))
    ]
    client.AdmissionregistrationV1Api(api).patch_mutating_webhook_configuration(
        NAME, operations, field_manager=MANAGER
    )


def delete_configuration(api: client.ApiClient) -> None:
    """Stop it at once, by the documented command."""
    client.AdmissionregistrationV1Api(api).delete_mutating_webhook_configuration(NAME)


@pytest.mark.parametrize("values_file", VALUES_FILES, ids=lambda path: path.name)
def test_the_api_server_takes_every_object(helm: helm_python.Config, values_file: Path) -> None:
    """Validation, and expressions that compile; custom resources need their own servers."""
    values = read_values(values_file)
    if any(each["kind"] in CUSTOM for each in render(values)):
        off: dict[str, Any] = {"serviceMonitor": {}, "prometheusRule": {}}
        values = values | {"certificates": {"mode": "self-managed"}} | off
    assert helm.install(str(CHART), NAME, values)["status"] == "deployed"


def test_an_upgrade_keeps_what_the_pods_wrote(
    helm: helm_python.Config, api: client.ApiClient
) -> None:
    """Server-side apply owns neither field, so there is no conflict and no loss."""
    helm.install(str(CHART), NAME, {"commonLabels": {"team": "a"}})
    assert set((webhooks(api) or {}).values()) == {None}
    do_the_pods_part(api)
    values: Manifest = {"commonLabels": {"team": "b"}, "awsReadinessGates": True}
    assert helm.upgrade(str(CHART), NAME, values)["status"] == "deployed"
    bundles = webhooks(api) or {}
    assert bundles.pop("namespaces.seamless-rollouts.dev") is None
    assert set(bundles.values()) == {CA}
    assert secret(api).data == {"tls.crt": CA}
    assert secret(api).metadata.labels["team"] == "b"


def test_conditions_come_and_go_with_the_failure_policy(
    helm: helm_python.Config, api: client.ApiClient
) -> None:
    """Those on what is in scope; the pods' field beside them stays, and so does the other entry."""
    helm.install(str(CHART), NAME, {})
    do_the_pods_part(api)
    there = ["not-being-deleted", "own-template", "unless-disabled"]
    for policy, expected in (("Ignore", []), ("Fail", there), ("Ignore", [])):
        helm.upgrade(str(CHART), NAME, {"webhook": {"failurePolicy": policy}})
        assert conditions(api) == {
            "in-scope.seamless-rollouts.dev": expected,
            "elsewhere.seamless-rollouts.dev": [*there[:2], "if-enabled"],
        }
        assert set((webhooks(api) or {}).values()) == {CA}


def test_a_secret_that_the_pods_had_to_make_again_is_no_obstacle(
    helm: helm_python.Config, api: client.ApiClient
) -> None:
    """They make it of another type, which cannot be changed; the chart names none."""
    values: Manifest = {"commonLabels": {"team": "a"}}
    helm.install(str(CHART), NAME, values)
    core: Any = client.CoreV1Api(api)
    core.delete_namespaced_secret(f"{NAME}-ca", NAMESPACE)
    data = {"tls.crt": CA, "tls.key": CA}
    body = {"metadata": {"name": f"{NAME}-ca"}, "type": "kubernetes.io/tls", "data": data}
    core.create_namespaced_secret(NAMESPACE, body)
    assert helm.upgrade(str(CHART), NAME, values)["status"] == "deployed"
    assert secret(api).data == data


def test_what_the_emergency_switch_took_comes_back(
    helm: helm_python.Config, api: client.ApiClient
) -> None:
    """By an upgrade that changes nothing, by a rollback, and by the value."""
    values: Manifest = {"commonLabels": {"team": "a"}}
    helm.install(str(CHART), NAME, values)
    delete_configuration(api)
    helm.upgrade(str(CHART), NAME, values)
    assert webhooks(api)
    delete_configuration(api)
    helm.rollback(NAME)
    assert webhooks(api)
    helm.upgrade(str(CHART), NAME, {"webhook": {"enabled": False}})
    assert webhooks(api) is None
    helm.upgrade(str(CHART), NAME, {"webhook": {"enabled": True}})
    assert webhooks(api)


def test_another_certificate_mode_takes_over_once_the_configuration_is_gone(
    helm: helm_python.Config, api: client.ApiClient
) -> None:
    """As the docs say: the field is the pods' until then."""
    helm.install(str(CHART), NAME, {"commonLabels": {"team": "a"}})
    do_the_pods_part(api)
    delete_configuration(api)
    provided = {"secretName": "mine", "caBundle": base64.b64encode(b"mine").decode()}
    values: Manifest = {"certificates": {"mode": "provided", "provided": provided}}
    assert helm.upgrade(str(CHART), NAME, values)["status"] == "deployed"
    assert set((webhooks(api) or {}).values()) == {provided["caBundle"]}


def test_uninstalling_leaves_nothing(helm: helm_python.Config, api: client.ApiClient) -> None:
    """Not even what the pods filled in."""
    helm.install(str(CHART), NAME, {})
    do_the_pods_part(api)
    helm.uninstall(NAME)
    assert webhooks(api) is None
    core, rights = client.CoreV1Api(api), client.RbacAuthorizationV1Api(api)
    left: list[Any] = [
        *core.list_namespaced_secret(NAMESPACE).items,
        *core.list_namespaced_config_map(NAMESPACE).items,
        *core.list_namespaced_service(NAMESPACE).items,
        *client.AppsV1Api(api).list_namespaced_deployment(NAMESPACE).items,
        *rights.list_namespaced_role(NAMESPACE).items,
        *rights.list_cluster_role().items,
        *client.SchedulingV1Api(api).list_priority_class().items,
    ]
    assert [each.metadata.name for each in left if NAME in each.metadata.name] == []


@pytest.mark.parametrize(
    ("verb", "group", "resource", "namespace", "name", "allowed"),
    [
        ("list", "", "namespaces", "", "", True),
        ("watch", "", "namespaces", "", "", True),
        ("patch", "", "namespaces", "", "shop", False),
        ("get", "admissionregistration.k8s.io", "mutatingwebhookconfigurations", "", NAME, True),
        ("patch", "admissionregistration.k8s.io", "mutatingwebhookconfigurations", "", NAME, True),
        ("patch", "admissionregistration.k8s.io", "mutatingwebhookconfigurations", "", "x", False),
        (
            "delete",
            "admissionregistration.k8s.io",
            "mutatingwebhookconfigurations",
            "",
            NAME,
            False,
        ),
        ("get", "", "secrets", NAMESPACE, f"{NAME}-ca", True),
        ("update", "", "secrets", NAMESPACE, f"{NAME}-ca", True),
        ("create", "", "secrets", NAMESPACE, "", True),
        ("get", "", "secrets", NAMESPACE, "other", False),
        ("list", "", "secrets", NAMESPACE, "", False),
        ("delete", "", "secrets", NAMESPACE, f"{NAME}-ca", False),
        ("get", "", "secrets", "default", f"{NAME}-ca", False),
        ("create", "", "secrets", "default", "", False),
        ("get", "apps", "deployments", "default", "web", False),
        ("list", "", "pods", NAMESPACE, "", False),
    ],
)
def test_the_rights_come_to_what_the_docs_say(
    helm: helm_python.Config,
    api: client.ApiClient,
    verb: str,
    group: str,
    resource: str,
    namespace: str,
    name: str,
    *,
    allowed: bool,
) -> None:
    """As the API server itself reviews them for the service account."""
    helm.install(str(CHART), NAME, {})
    attributes = {"verb": verb, "group": group, "resource": resource}
    attributes |= {"namespace": namespace, "name": name}
    spec = {
        "user": f"system:serviceaccount:{NAMESPACE}:{NAME}",
        "groups": ["system:serviceaccounts", "system:authenticated"],
        "resourceAttributes": attributes,
    }
    reviews: Any = client.AuthorizationV1Api(api)
    answer = reviews.create_subject_access_review({"spec": spec})
    assert answer.status.allowed is allowed
