"""Every values file of the chart, rendered by real Helm for several versions of Kubernetes."""

from __future__ import annotations

from pathlib import Path

import helm_python
import kubernetes_validate  # type: ignore[import-untyped]
import pytest

from tests.chart.pod_security import violations
from tests.chart.rendering import (
    CHART,
    KUBERNETES_VERSIONS,
    NAMESPACE,
    VALUES_FILES,
    Manifest,
    of_kind,
    only,
    pod_specs,
    read_values,
    render,
    render_files,
)
from webhook import VERSION
from webhook.decision import configuration

CUSTOM = {"Certificate", "Issuer", "ServiceMonitor", "PrometheusRule"}
CLUSTER_SCOPED = {
    "ClusterRole",
    "ClusterRoleBinding",
    "MutatingWebhookConfiguration",
    "PriorityClass",
    "ValidatingAdmissionPolicy",
    "ValidatingAdmissionPolicyBinding",
}


@pytest.fixture(scope="module", params=KUBERNETES_VERSIONS)
def kubernetes(request: pytest.FixtureRequest) -> str:
    """Give each version of Kubernetes in turn."""
    return str(request.param)


@pytest.fixture(scope="module", params=VALUES_FILES, ids=lambda path: path.name)
def values_file(request: pytest.FixtureRequest) -> Path:
    """Give each values file in turn."""
    return Path(request.param)


@pytest.fixture(scope="module")
def manifests(values_file: Path, kubernetes: str) -> list[Manifest]:
    """Render a values file for a version."""
    return render(read_values(values_file), kubernetes=kubernetes, namespace=NAMESPACE)


def test_there_are_values_files() -> None:
    """The tests below walk over them."""
    assert len(VALUES_FILES) > 5


def test_each_object_is_one_that_the_version_knows(
    manifests: list[Manifest], kubernetes: str
) -> None:
    """Unknown fields and wrong types are refused, custom resources aside."""
    checked = 0
    for manifest in manifests:
        if manifest["kind"] not in CUSTOM:
            kubernetes_validate.validate(manifest, kubernetes, strict=True)
            checked += 1
    assert checked


def test_pods_are_restricted(manifests: list[Manifest], values_file: Path) -> None:
    """By the Pod Security Standard; on the node's network, that alone is what breaks it."""
    host = read_values(values_file).get("hostNetwork")
    for name, spec in pod_specs(manifests):
        wanted = ["hostNetwork"] if host and name.startswith("Deployment/") else []
        assert violations(spec) == wanted, name


def test_rendering_twice_gives_the_same_text(values_file: Path) -> None:
    """Argo CD and Flux render again and again: no randomness, no look-ups, no clock."""
    values = read_values(values_file)
    assert render_files(values) == render_files(values)


def test_templates_ask_nothing_that_only_a_live_cluster_knows() -> None:
    """`lookup` is empty under Argo CD; what makes keys makes others the next time."""
    forbidden = ("lookup", "genCA", "genSignedCert", "genPrivateKey", "rand", "uuidv4", "now")
    for path in (CHART / "templates").rglob("*"):
        if path.is_file():
            text = path.read_text(encoding="utf-8")
            found = [word for word in forbidden if f"{{{{ {word}" in text or f"({word} " in text]
            assert not found, path.name


def test_lint_finds_nothing(values_file: Path, kubernetes: str) -> None:
    """`helm lint --strict`, but for the icon that nobody needs."""
    report = helm_python.lint(
        CHART,
        read_values(values_file),
        strict=True,
        namespace=NAMESPACE,
        kube_version=f"v{kubernetes}.0",
    )
    findings = [each for each in report["messages"] if "icon is recommended" not in each["error"]]
    assert findings == []
    assert report["errors"] == []


def test_each_object_says_where_it_belongs(manifests: list[Manifest]) -> None:
    """A namespace on all that have one, and the labels that name chart and release."""
    for manifest in manifests:
        found = manifest["metadata"]
        assert ("namespace" in found) == (manifest["kind"] not in CLUSTER_SCOPED), found["name"]
        assert found["labels"]["app.kubernetes.io/instance"] == "seamless-rollouts"
        assert "app.kubernetes.io/name" in found["labels"]


def test_no_two_objects_have_the_same_name(manifests: list[Manifest]) -> None:
    """The second would overwrite the first."""
    names = [(each["kind"], each["metadata"]["name"]) for each in manifests]
    assert len(set(names)) == len(names)


def test_selectors_find_the_webhooks_pods_and_not_the_tests(manifests: list[Manifest]) -> None:
    """Service, budget, policy and spread constraints all mean the same pods."""
    deployment = only(manifests, "Deployment")
    labels = deployment["spec"]["template"]["metadata"]["labels"]
    selector = deployment["spec"]["selector"]["matchLabels"]
    assert selector.items() <= labels.items()
    assert only(manifests, "Service")["spec"]["selector"] == selector
    for budget in of_kind(manifests, "PodDisruptionBudget"):
        assert budget["spec"]["selector"]["matchLabels"] == selector
    for policy in of_kind(manifests, "NetworkPolicy", deployment["metadata"]["name"]):
        assert policy["spec"]["podSelector"]["matchLabels"] == selector
    for pod in of_kind(manifests, "Pod"):
        assert not selector.items() <= pod["metadata"]["labels"].items()


def test_the_webhook_reads_the_configuration_that_the_chart_writes(
    manifests: list[Manifest], values_file: Path
) -> None:
    """The ConfigMap's file parses, and says what the values say."""
    values = read_values(values_file)
    files = [each["data"] for each in of_kind(manifests, "ConfigMap")]
    (text,) = [each["config.yaml"] for each in files if "config.yaml" in each]
    found = configuration.parse(text, "config.yaml")
    assert found.scope == values.get("scope", "opt-in")
    assert found.mode == values.get("mode", "patch")
    assert list(found.excluded_namespaces) == values.get("excludedNamespaces", [])
    assert found.defaults == {k: str(v) for k, v in values.get("defaults", {}).items()}
    deployment = only(manifests, "Deployment")
    image = deployment["spec"]["template"]["spec"]["containers"][0]["image"]
    assert found.precheck.image == values.get("precheck", {}).get("image", image)


def test_the_chart_is_for_the_kubernetes_that_the_contract_names() -> None:
    """Helm refuses an older cluster before anything is created; `-0` lets vendors' suffixes in."""
    with helm_python.Chart.load(CHART) as chart:
        assert chart.metadata["kubeVersion"] == ">=1.28.0-0"
        assert chart.metadata["appVersion"] == VERSION


@pytest.mark.parametrize("name", ["1234", "true", "1e3"])
def test_names_that_look_like_something_else_stay_text(name: str) -> None:
    """YAML would read them as a number or a truth value."""
    for manifest in render({"tests": {"namespace": name}}, name=name, namespace=f"{name}0"):
        kubernetes_validate.validate(manifest, KUBERNETES_VERSIONS[-1], strict=True)


def test_long_names_stay_within_their_bounds() -> None:
    """A release's name may have 53 characters, the name of a Service 63."""
    values = {
        "certificates": {"mode": "cert-manager"},
        "status": {"cronJob": {"enabled": True}},
        "backfill": {"job": {"enabled": True}},
    }
    for manifest in render(values, name=f"r.{'r' * 51}", namespace="n" * 63):
        assert len(manifest["metadata"]["name"]) <= 63
        assert "." not in manifest["metadata"]["name"]
        if manifest["kind"] == "CronJob":
            assert len(manifest["metadata"]["name"]) <= 52
        if manifest["kind"] == "Certificate":
            assert len(manifest["spec"].get("commonName", "")) <= 64
