"""What the objects of the chart are for: certificates, rights, the pods' own medicine."""

from __future__ import annotations

import base64
from typing import Any

import pytest

from tests.chart.rendering import (
    NAMESPACE,
    VALUES_FILES,
    Manifest,
    of_kind,
    only,
    read_values,
    render,
)
from webhook.cli import serve

NAME = "seamless-rollouts"
PEM = "-----BEGIN CERTIFICATE-----\neA==\n-----END CERTIFICATE-----\n"
PROVIDED = {"mode": "provided", "provided": {"secretName": "mine", "caBundle": PEM}}


def pod(manifests: list[Manifest]) -> Manifest:
    """Give the Deployment's pod template."""
    template: Manifest = only(manifests, "Deployment")["spec"]["template"]
    return template


def container(manifests: list[Manifest]) -> Manifest:
    """Give the webhook's container."""
    (found,) = pod(manifests)["spec"]["containers"]
    return dict(found)


def flags(manifests: list[Manifest]) -> dict[str, str]:
    """Give the arguments of `seamless serve`."""
    command, *arguments = container(manifests)["args"]
    assert command == "serve"
    return dict(each.removeprefix("--").split("=", 1) for each in arguments)


def rules(manifests: list[Manifest]) -> list[Manifest]:
    """Give what the webhook may do, tests aside."""
    return [
        {**rule, "in": role["kind"]}
        for role in [*of_kind(manifests, "ClusterRole"), *of_kind(manifests, "Role", NAME)]
        for rule in role["rules"]
    ]


def clients(manifests: list[Manifest]) -> list[Manifest]:
    """Give the `clientConfig` of each entry."""
    webhooks = only(manifests, "MutatingWebhookConfiguration")["webhooks"]
    return [each["clientConfig"] for each in webhooks]


# --- certificates --------------------------------------------------------------------------------


def test_self_managed_renders_no_ca_bundle_and_an_empty_secret() -> None:
    """Both belong to the pods: whoever else rendered them would take them away again."""
    manifests = render({"awsReadinessGates": True})
    assert all("caBundle" not in each for each in clients(manifests))
    secret = only(manifests, "Secret")
    assert secret.keys() == {"apiVersion", "kind", "metadata"}
    assert flags(manifests)["ca-secret"] == secret["metadata"]["name"]
    assert not flags(manifests).keys() & {"tls-cert", "tls-key"}


@pytest.mark.parametrize("issuer", [{}, {"kind": "ClusterIssuer", "name": "ours"}], ids=str)
def test_cert_manager_makes_the_pair_and_injects_its_ca(issuer: dict[str, str]) -> None:
    """The certificate is good for the Service, and the pods serve the Secret that it goes to."""
    manifests = render(
        {"certificates": {"mode": "cert-manager", "certManager": {"issuerRef": issuer}}}
    )
    leaf = only(manifests, "Certificate", NAME)
    assert leaf["spec"]["dnsNames"] == [f"{NAME}.{NAMESPACE}.svc"]
    found = only(manifests, "MutatingWebhookConfiguration")["metadata"]["annotations"]
    assert found["cert-manager.io/inject-ca-from"] == f"{NAMESPACE}/{NAME}"
    assert all("caBundle" not in each for each in clients(manifests))
    volumes = {each["name"]: each for each in pod(manifests)["spec"]["volumes"]}
    assert volumes["tls"]["secret"]["secretName"] == leaf["spec"]["secretName"]
    assert flags(manifests)["tls-cert"] == "/tls/tls.crt"
    assert flags(manifests)["tls-key"] == "/tls/tls.key"
    assert "ca-secret" not in flags(manifests)
    assert of_kind(manifests, "Secret") == []
    if issuer:
        assert leaf["spec"]["issuerRef"] == issuer
        assert of_kind(manifests, "Issuer") == []
    else:
        chain = [each["spec"] for each in of_kind(manifests, "Issuer")]
        authority = only(manifests, "Certificate", f"{NAME}-issuer-ca")["spec"]
        assert {"selfSigned": {}} in chain
        assert {"ca": {"secretName": authority["secretName"]}} in chain
        assert authority["isCA"]


@pytest.mark.parametrize("bundle", [PEM, base64.b64encode(PEM.encode()).decode()])
def test_a_provided_pair_is_mounted_and_its_ca_trusted(bundle: str) -> None:
    """The CA may be given as PEM or as the base64 of it."""
    provided = {"secretName": "mine", "caBundle": bundle}
    manifests = render({"certificates": {"mode": "provided", "provided": provided}})
    assert {base64.b64decode(each["caBundle"]).decode() for each in clients(manifests)} == {PEM}
    volumes = {each["name"]: each for each in pod(manifests)["spec"]["volumes"]}
    assert volumes["tls"]["secret"]["secretName"] == "mine"
    assert of_kind(manifests, "Secret") == of_kind(manifests, "Certificate") == []


@pytest.mark.parametrize(
    ("values", "volume"),
    [
        ({"configMapName": "a"}, {"configMap": {"name": "a"}}),
        (
            {"secretName": "b", "key": "c"},
            {
                "secret": {
                    "secretName": "b",
                    "defaultMode": 0o440,
                    "items": [{"key": "c", "path": "c"}],
                }
            },
        ),
    ],
)
def test_a_client_ca_is_mounted_where_the_webhook_reads_it(
    values: dict[str, str], volume: Manifest
) -> None:
    """From a ConfigMap, or the one key of a Secret."""
    manifests = render({"clientCA": values})
    assert flags(manifests)["client-ca"] == f"/client-ca/{values.get('key', 'ca.crt')}"
    assert {"name": "client-ca", **volume} in pod(manifests)["spec"]["volumes"]
    mounts = {each["name"]: each["mountPath"] for each in container(manifests)["volumeMounts"]}
    assert mounts["client-ca"] == "/client-ca"


# --- rights --------------------------------------------------------------------------------------


@pytest.mark.parametrize("mode", ["self-managed", "cert-manager", "provided"])
def test_rights_are_few_and_by_name(mode: str) -> None:
    """Namespaces and nodes are all that is listed; the rest is one object each."""
    certificates: Any = PROVIDED if mode == "provided" else {"mode": mode}
    found = rules(render({"certificates": certificates}))
    for rule in found:
        assert "*" not in rule["verbs"] + rule["resources"] + rule["apiGroups"]
        if rule["resources"] == ["namespaces"]:
            assert rule["verbs"] == ["get", "list", "watch"]
        elif rule["resources"] == ["mutatingwebhookconfigurations"]:
            assert rule["resourceNames"] == [NAME]
            assert rule["verbs"] == (["get", "patch"] if mode == "self-managed" else ["get"])
        elif rule["resources"] == ["nodes"]:
            assert rule["verbs"] == ["list"]
        elif rule["resources"] == ["customresourcedefinitions"]:
            assert rule["resourceNames"] == ["rollouts.argoproj.io"]
            assert rule["verbs"] == ["get"]
        elif rule["resources"] == ["configmaps"]:
            assert rule["resourceNames"] == [NAME]
            assert rule["verbs"] == ["get", "list", "watch"]
            assert rule["in"] == "Role"
        elif rule["verbs"] == ["create"]:
            assert rule["resources"] == ["secrets"]
            assert rule["in"] == "Role"
        else:
            assert rule["resources"] == ["secrets"]
            assert rule["resourceNames"] == [f"{NAME}-ca"]
            assert rule["verbs"] == ["get", "update"]
            assert rule["in"] == "Role"
    assert any(rule["resources"] == ["secrets"] for rule in found) == (mode == "self-managed")


@pytest.mark.parametrize("more", [{}, {"status": {"cronJob": {"enabled": True}}}], ids=str)
def test_nodes_and_the_crd_are_read_only_where_that_is_wanted(more: Manifest) -> None:
    """`webhook.checkNodes: false`, or no Rollouts among the kinds; whoever decides has the same."""
    deciders = 1 + bool(more)
    for values, nodes, crds in (
        ({}, deciders, deciders),
        ({"webhook": {"checkNodes": False}}, 0, deciders),
        ({"kinds": ["Deployment"]}, deciders, 0),
    ):
        rights = [rule["resources"] for rule in rules(render({**values, **more}))]
        assert rights.count(["nodes"]) == nodes
        assert rights.count(["customresourcedefinitions"]) == crds


def test_rights_go_to_the_webhooks_service_account_alone() -> None:
    """Each binding names it, in its namespace."""
    values = {"serviceAccount": {"name": "other"}}
    manifests = render(values)
    assert pod(manifests)["spec"]["serviceAccountName"] == "other"
    for kind in ("ClusterRoleBinding", "RoleBinding"):
        binding = only(manifests, kind, NAME)
        wanted = {"kind": "ServiceAccount", "name": "other", "namespace": NAMESPACE}
        assert binding["subjects"] == [wanted]
        assert binding["roleRef"]["name"] == NAME


def test_no_token_is_mounted_but_the_one_that_lasts_an_hour() -> None:
    """Neither the ServiceAccount nor the pod mounts the usual one."""
    manifests = render()
    assert only(manifests, "ServiceAccount", NAME)["automountServiceAccountToken"] is False
    spec = pod(manifests)["spec"]
    assert spec["automountServiceAccountToken"] is False
    tokens = [
        source["serviceAccountToken"]
        for volume in spec["volumes"]
        for source in volume.get("projected", {}).get("sources", [])
        if "serviceAccountToken" in source
    ]
    assert tokens == [{"path": "token", "expirationSeconds": 3600}]


# --- the pods ------------------------------------------------------------------------------------


@pytest.mark.parametrize("values_file", VALUES_FILES, ids=lambda path: path.name)
def test_serve_knows_each_flag_that_the_chart_passes(values_file: Any) -> None:
    """The chart and `seamless serve` agree on names and on what they take."""
    values = read_values(values_file)
    arguments = container(render({**values, "extraArgs": []}))["args"]
    serve._parser().parse_args(arguments[1:])


def test_a_changed_configuration_leaves_the_pod_template_as_it_is() -> None:
    """The pods watch the ConfigMap by name: no change of it rolls them."""
    before, after = (
        render(values)
        for values in (
            {},
            {
                "mode": "audit",
                "scope": "cluster",
                "defaults": {"min-ready": "5s"},
                "kinds": ["Rollout"],
            },
        )
    )
    assert only(before, "ConfigMap") != only(after, "ConfigMap")
    assert pod(before) == pod(after)
    assert flags(after)["config-map"] == only(after, "ConfigMap")["metadata"]["name"]


def test_the_chart_takes_its_own_medicine() -> None:
    """No pod leaves before another is ready, and each drains within its grace period."""
    manifests = render({"drainSeconds": 40, "lingerSeconds": 60})
    spec = only(manifests, "Deployment")["spec"]
    assert spec["replicas"] == 2
    assert spec["minReadySeconds"] == 10
    assert spec["strategy"]["rollingUpdate"] == {"maxSurge": 1, "maxUnavailable": 0}
    assert flags(manifests)["drain-seconds"] == "40"
    assert flags(manifests)["linger-seconds"] == "60"
    assert spec["template"]["spec"]["terminationGracePeriodSeconds"] == 115
    assert "lifecycle" not in container(manifests)
    assert container(manifests)["readinessProbe"]["httpGet"] == {
        "path": "/readyz",
        "port": "health",
    }
    assert container(manifests)["livenessProbe"]["httpGet"]["path"] == "/livez"
    budget = only(manifests, "PodDisruptionBudget")["spec"]
    assert budget["maxUnavailable"] == 1
    assert budget["unhealthyPodEvictionPolicy"] == "AlwaysAllow"


def test_on_the_nodes_network_no_extra_pod_is_waited_for() -> None:
    """Its port is taken on every node that has one: the rollout would hang."""
    manifests = render({"hostNetwork": True})
    rolling = only(manifests, "Deployment")["spec"]["strategy"]["rollingUpdate"]
    assert rolling == {"maxSurge": 0, "maxUnavailable": 1}
    assert pod(manifests)["spec"]["dnsPolicy"] == "ClusterFirstWithHostNet"
    assert of_kind(manifests, "NetworkPolicy") == []


def test_an_autoscaler_replaces_the_number_of_replicas() -> None:
    """Both would pull the Deployment to and fro at every upgrade."""
    manifests = render({"autoscaling": {"enabled": True}})
    assert "replicas" not in only(manifests, "Deployment")["spec"]
    assert only(manifests, "HorizontalPodAutoscaler")["spec"]["minReplicas"] == 2


def test_a_digest_wins_over_a_tag_for_both_images() -> None:
    """The precheck runs the same image unless another is named."""
    digest = "sha256:" + "a" * 64
    manifests = render({"image": {"repository": "r.example/x", "tag": "1", "digest": digest}})
    assert container(manifests)["image"] == f"r.example/x@{digest}"
    assert f"image: r.example/x@{digest}" in only(manifests, "ConfigMap")["data"]["config.yaml"]


def test_the_emergency_switch_leaves_everything_but_the_configuration() -> None:
    """The pods stay, and wait for nobody's trust."""
    off = render({"webhook": {"enabled": False}})
    on = render()
    gone = {(each["kind"], each["metadata"]["name"]) for each in on} - {
        (each["kind"], each["metadata"]["name"]) for each in off
    }
    assert {kind for kind, name in gone if not name.endswith("-test")} == {
        "MutatingWebhookConfiguration"
    }
    assert "webhook-configuration" not in flags(off)
    assert flags(on)["webhook-configuration"] == NAME


def test_the_service_leads_where_the_configuration_points() -> None:
    """Service name, path and port; and the name that the certificate must be good for."""
    manifests = render({"fullnameOverride": "short", "ports": {"https": 10250}})
    service = only(manifests, "Service")
    assert clients(manifests)[0]["service"] == {
        "name": "short",
        "namespace": NAMESPACE,
        "path": "/mutate",
        "port": 443,
    }
    assert service["metadata"]["name"] == flags(manifests)["service"] == "short"
    ports = {each["name"]: each["containerPort"] for each in container(manifests)["ports"]}
    assert {each["targetPort"] for each in service["spec"]["ports"]} == set(ports)
    assert ports["https"] == int(flags(manifests)["port"]) == 10250


def test_a_service_monitor_reads_a_port_that_the_service_has() -> None:
    """By the port's name."""
    manifests = render({"serviceMonitor": {"enabled": True}})
    (endpoint,) = only(manifests, "ServiceMonitor")["spec"]["endpoints"]
    assert endpoint["port"] in {
        each["name"] for each in only(manifests, "Service")["spec"]["ports"]
    }


def test_the_priority_class_is_the_charts_own_unless_another_is_named() -> None:
    """Or none at all."""
    own = render()
    assert pod(own)["spec"]["priorityClassName"] == only(own, "PriorityClass")["metadata"]["name"]
    other = render({"priorityClassName": "system-cluster-critical"})
    assert pod(other)["spec"]["priorityClassName"] == "system-cluster-critical"
    none = render({"priorityClass": {"create": False}})
    assert "priorityClassName" not in pod(none)["spec"]
    assert of_kind(other, "PriorityClass") == of_kind(none, "PriorityClass") == []
