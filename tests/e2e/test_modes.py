"""Upgrades of the release: each value reaches the API server's filters and the pods."""

from __future__ import annotations

import contextlib
import json

import pytest

from tests.builders import NATIVE_30, PREFIX, deployment, hooks, with_settings, workload
from tests.e2e.cluster import ENABLED, INJECT, KubectlError, until
from tests.e2e.release import (
    CA_SECRET,
    CONFIGURATION,
    EXCLUDED,
    HASTY,
    NAME,
    NAMESPACE,
    VALUES,
    Release,
)
from webhook.decision.aws import LABEL as AWS_LABEL

WEB = deployment()
SAID = deployment(says={"inject": "enabled"})
ACCOUNT = f"--as=system:serviceaccount:{NAMESPACE}:{NAME}"


def test_cluster_scope_treats_what_does_not_say_disabled(installed: Release) -> None:
    """Neither the namespace nor the workload needs a word; the exclusions hold as ever."""
    installed.ensure({"scope": "cluster"})
    cluster = installed.cluster
    shop = cluster.shop({})
    before = installed.count()
    shop.create(WEB)
    assert installed.count() - before == 1
    assert hooks(shop.get()) == [NATIVE_30]
    assert shop.get()["metadata"]["generation"] == 1
    with shop.watch() as change:
        shop.annotate("deployment/web", inject="disabled")
    assert change.generations == 1
    assert hooks(change.now) == [None]
    shop.touch()
    assert hooks(shop.get()) == [None]
    before = installed.count()
    away = cluster.shop({INJECT: "disabled"})
    away.create(WEB)
    assert hooks(away.get()) == [None]
    assert hooks(cluster.shop(ENABLED, name=EXCLUDED).try_out(SAID)) == [None]
    assert installed.count() == before
    away.create(SAID | {"metadata": SAID["metadata"] | {"name": "other"}})
    assert hooks(away.get("deployment/other")) == [NATIVE_30]
    assert installed.count() - before == 1


def test_audit_mode_decides_warns_and_counts_and_patches_nothing(installed: Release) -> None:
    """What was injected before stays; a bad setting is no reason to refuse."""
    installed.ensure()
    shop = installed.cluster.shop()
    shop.create(WEB)
    assert hooks(shop.get()) == [NATIVE_30]
    installed.ensure({"mode": "audit"})
    with shop.watch() as change:
        shop.touch()
    assert not change.generations
    before = installed.count(outcome="audited")
    said = shop.create(
        deployment(
            metadata={"name": "new"},
            strategy={"type": "Recreate"},
            says={"pre-stop-sleep": "soon"},
        )
    )
    assert any("Recreate" in each for each in said.warnings)
    assert any("soon" in each for each in said.warnings)
    assert installed.count(outcome="audited") - before == 1
    found = shop.get("deployment/new")
    assert hooks(found) == [None]
    assert "minReadySeconds" not in found["spec"]


def test_invalid_settings_only_warn_where_that_is_configured(installed: Release) -> None:
    """The next layer holds."""
    installed.ensure({"invalidSettings": "warn", "defaults": {"pre-stop-sleep": "4s"}})
    shop = installed.cluster.shop()
    said = shop.create(with_settings(WEB, pre_stop_sleep="soon"))
    assert any("soon" in each for each in said.warnings)
    assert hooks(shop.get()) == [{"sleep": {"seconds": 4}}]


def test_changed_defaults_arrive_with_the_next_rollout(installed: Release) -> None:
    """An upgrade rolls no workload; what lies outside the template follows at its next update."""
    installed.ensure()
    shop = installed.cluster.shop()
    shop.create(WEB)
    installed.ensure({"defaults": {"pre-stop-sleep": "6s", "min-ready": "16s"}})
    with shop.watch() as change:
        shop.replace(WEB)
    assert change.generations == 1
    assert not change.restarts
    assert hooks(change.now) == [NATIVE_30]
    assert change.now["spec"]["minReadySeconds"] == 16
    with shop.watch() as change:
        shop.kubectl("rollout", "restart", "deployment/web")
    assert change.generations == 1
    assert hooks(change.now) == [{"sleep": {"seconds": 6}}]


def test_a_kind_that_is_switched_off_is_not_sent(installed: Release) -> None:
    """The others are."""
    installed.ensure({"kinds": ["Deployment", "DaemonSet"]})
    shop = installed.cluster.shop()
    before = installed.count()
    shop.create(workload("StatefulSet"))
    assert hooks(shop.get("statefulset/web")) == [None]
    assert installed.count() == before
    shop.create(workload("DaemonSet"))
    assert hooks(shop.get("daemonset/web")) == [NATIVE_30]


def test_a_namespace_in_scope_gets_the_label_of_the_aws_controller(installed: Release) -> None:
    """On its way in, and with its next update, unless it has one; nobody else does."""
    installed.ensure({"awsReadinessGates": True})
    cluster = installed.cluster

    def label_of(name: str) -> str | None:
        found = cluster.get(f"/api/v1/namespaces/{name}")
        assert found is not None
        value: str | None = found["metadata"]["labels"].get(AWS_LABEL)
        return value

    assert label_of(cluster.shop(ENABLED).name) == "enabled"
    assert label_of(cluster.shop(ENABLED | {AWS_LABEL: "no"}).name) == "no"
    later = cluster.shop({})
    assert label_of(later.name) is None
    before = installed.count()
    later.kubectl("label", f"namespace/{later.name}", "team=a")
    cluster.shop({INJECT: "disabled"})
    assert installed.count() == before
    later.label_namespace(inject="enabled")
    assert label_of(later.name) == "enabled"
    assert label_of(cluster.shop(ENABLED, name=EXCLUDED).name) is None
    installed.ensure()
    assert len(installed.bundles()) == 2  # the entry for namespaces has gone again
    assert label_of(cluster.shop(ENABLED).name) is None


def test_two_processes_serve_as_one_pod(installed: Release) -> None:
    """What is counted and known is that of both."""
    installed.ensure({"workers": 2})
    (pod,) = installed.replicas
    until(lambda: all(pod.ready for _ in range(20)))  # each worker gets ready by itself
    shop = installed.cluster.shop()
    before = installed.count()
    for number in range(10):
        installed.balancer.cut()
        shop.create(WEB | {"metadata": {"name": f"web-{number}"}})
        assert hooks(shop.get(f"deployment/web-{number}")) == [NATIVE_30]
    assert installed.count() - before == 10


@pytest.mark.parametrize(
    "name",
    ["namespaces", "namespaces_age_seconds", "certificate_expiry_timestamp_seconds"],
)
def test_two_processes_export_what_one_does(installed: Release, name: str) -> None:
    """The age of what is known of namespaces, and the end of the certificate."""
    installed.ensure({"workers": 2})
    (pod,) = installed.replicas
    assert pod.metric(f"seamless_{name}") > 0


def test_the_api_server_proves_who_it_is_where_that_is_asked(installed: Release) -> None:
    """With a CA for clients, only callers with a certificate of it are answered."""
    cluster = installed.cluster
    if cluster.server is None:
        pytest.skip("only with an API server of our own: it is told to present a certificate")
    client_ca = cluster.folder / "ca.crt"
    (installed.client_ca / "ca.crt").write_bytes(client_ca.read_bytes())
    installed.ensure(
        {"clientCA": {"configMapName": "clients"}, "webhook": {"failurePolicy": "Fail"}}
    )
    shop = cluster.shop()
    shop.create(WEB)
    assert hooks(shop.get()) == [NATIVE_30]
    (pod,) = installed.replicas
    (bundle,) = set(installed.bundles())
    assert pod.ask_anonymously(bundle) == b""
    installed.ensure()
    (pod,) = installed.replicas
    assert pod.ask_anonymously(installed.bundles()[0]).startswith(b"HTTP/1.1 4")


def test_an_upgrade_that_changes_nothing_moves_nothing(release: Release) -> None:
    """Helm owns neither the `caBundle` nor what is in the CA's Secret, so both stay."""

    def versions() -> list[str]:
        found = [release.cluster.get(path) for path in (CONFIGURATION, CA_SECRET)]
        return [each["metadata"]["resourceVersion"] for each in found if each]

    before, bundles = versions(), release.bundles()
    release.install(VALUES)
    assert versions() == before
    release.install(VALUES | {"commonLabels": {"upgraded": "yes"}})
    assert versions() != before
    assert release.bundles() == bundles
    assert all(bundles)
    release.install(VALUES)


def test_an_upgrade_after_the_secret_was_deleted_meets_no_conflict(fresh: Release) -> None:
    """The pods make it anew, and own nothing in it that the chart renders."""
    fresh.ensure(program=HASTY)
    fresh.cluster.api.request("DELETE", CA_SECRET)
    until(lambda: fresh.cluster.get(CA_SECRET))
    fresh.install(VALUES | {"commonLabels": {"upgraded": "yes"}})
    found = fresh.cluster.get(CA_SECRET)
    assert found is not None
    assert found["metadata"]["labels"]["upgraded"] == "yes"
    assert found["data"]


def test_the_pods_pass_the_restricted_pod_security_standard(release: Release) -> None:
    """The API server warns of those that do not, as the namespace's label asks it to."""
    assert "warning" not in release.said_at_install.lower()


@pytest.mark.parametrize(
    ("action", "allowed"),
    [
        ("get namespaces", True),
        ("watch namespaces", True),
        (f"patch mutatingwebhookconfigurations/{NAME}", True),
        (f"update secrets/{NAME}-ca --namespace={NAMESPACE}", True),
        ("patch namespaces", False),
        ("patch mutatingwebhookconfigurations/another", False),
        ("list mutatingwebhookconfigurations", False),
        (f"get secrets/another --namespace={NAMESPACE}", False),
        (f"list secrets --namespace={NAMESPACE}", False),
        ("create secrets --namespace=default", False),
        ("get pods --namespace=default", False),
        ("patch deployments --namespace=default", False),
    ],
)
def test_its_rights_are_the_least(release: Release, action: str, allowed: bool) -> None:  # noqa: FBT001 - a table
    """It serves with the token of the chart's service account, and that one can do no more."""
    ask = ["auth", "can-i", "--quiet", *action.split(), ACCOUNT]
    with (
        contextlib.nullcontext()
        if allowed
        else pytest.raises(KubectlError, match=r"\A\W*\Z|scoped")
    ):
        release.cluster.kubectl(*ask)


def test_the_emergency_switch_takes_the_webhook_out_of_the_way(installed: Release) -> None:
    """One value: nothing is sent any more. Switched on again, it is trusted again."""
    installed.ensure()
    shop = installed.cluster.shop()
    shop.create(WEB)
    installed.ensure({"webhook": {"enabled": False}})
    assert installed.cluster.get(CONFIGURATION) is None
    with shop.watch() as change:
        shop.kubectl("rollout", "restart", "deployment/web")
    assert change.generations == 1
    assert hooks(change.now) == [NATIVE_30]
    patch = json.dumps({"metadata": {"annotations": {PREFIX + "inject": "disabled"}}})
    shop.kubectl("patch", "deployment/web", "--patch", patch)
    assert hooks(shop.get()) == [NATIVE_30]
    installed.ensure()
    with shop.watch() as change:
        shop.kubectl("rollout", "restart", "deployment/web")
    assert hooks(change.now) == [None]


def test_an_uninstalled_release_leaves_nothing_behind(installed: Release) -> None:
    """Neither in its namespace nor elsewhere; workloads stay as they are."""
    installed.ensure()
    shop = installed.cluster.shop()
    shop.create(WEB)
    installed.stop()
    installed.uninstall()
    kinds = "mutatingwebhookconfigurations,clusterroles,clusterrolebindings,priorityclasses"
    kinds += ",secrets,configmaps,roles,rolebindings,serviceaccounts,services,deployments"
    kinds += ",poddisruptionbudgets,networkpolicies,horizontalpodautoscalers"
    selector = f"app.kubernetes.io/instance={NAME}"
    said = installed.cluster.kubectl(
        "get", kinds, "--all-namespaces", f"--selector={selector}", "-o", "name"
    )
    assert not said.output
    assert installed.cluster.get(CA_SECRET) is None
    with shop.watch() as change:
        shop.kubectl("rollout", "restart", "deployment/web")
    assert hooks(change.now) == [NATIVE_30]
