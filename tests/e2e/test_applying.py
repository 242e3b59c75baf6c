"""Ways to send a workload: what is stored, and whether the generation and the template moved."""

from __future__ import annotations

import json
from typing import Any

import pytest

from tests.builders import (
    NATIVE_30,
    RECORD,
    Json,
    canonical,
    deployment,
    grace,
    hooks,
    record_of,
    rolling,
    template_changed,
    template_of,
    with_settings,
    workload,
)
from tests.e2e.cluster import ENABLED, Cluster, Shop
from tests.e2e.release import Release

CLIENT_SIDE, SERVER_SIDE = "--server-side=false", "--server-side"
WAYS = (CLIENT_SIDE, SERVER_SIDE)
WEB = deployment()
WEB_2 = template_changed(WEB, "containers", 0, "image", to="registry.example/app:2")


def assert_treated(found: Json, sleep: int = 30, min_ready: int | None = None) -> None:
    """See that a workload bears what the settings say, and the records of it.

    Unless told, `minReadySeconds` is 30, and none for a DaemonSet, which so bears no record of it.
    """
    if min_ready is None and found["kind"] != "DaemonSet":
        min_ready = 30
    assert hooks(found) == [{"sleep": {"seconds": sleep}}]
    assert grace(found) == 30 + sleep
    assert found["spec"].get("minReadySeconds") == min_ready
    assert record_of(found, template=True) is not None
    assert (record_of(found, template=False) is None) == (min_ready is None)


def test_a_created_deployment_is_stored_treated(shop: Shop) -> None:
    """Sleep, grace period and minReadySeconds are there in the first generation."""
    shop.create(WEB)
    found = shop.get()
    assert_treated(found)
    assert found["metadata"]["generation"] == 1


@pytest.mark.parametrize("way", WAYS)
def test_applying_twice_changes_nothing(shop: Shop, way: str) -> None:
    """Not even the version of the object; a new image is one generation, and adds nothing up."""
    shop.apply(WEB, way=way)
    assert_treated(shop.get())
    with shop.watch() as change:
        shop.apply(WEB, way=way)
    assert change.nothing
    assert not change.generations
    with shop.watch() as change:
        shop.apply(WEB_2, way=way)
    assert change.generations == 1
    assert change.restarts
    assert_treated(change.now)


@pytest.mark.parametrize("way", WAYS)
def test_a_manifest_with_our_fields_is_its_owners_when_they_differ(shop: Shop, way: str) -> None:
    """A grace period and minReadySeconds that the manifest comes to say are built upon."""
    shop.apply(WEB, way=way)
    said = template_changed(WEB, "terminationGracePeriodSeconds", to=45)
    said["spec"]["minReadySeconds"] = 40
    with shop.watch() as change:
        shop.apply(said, way=way)
    assert change.generations == 1
    assert change.restarts
    assert grace(change.now) == 75
    assert change.now["spec"]["minReadySeconds"] == 40


def test_server_side_apply_owns_nothing_of_ours(shop: Shop) -> None:
    """So neither the same nor another manager of fields meets a conflict."""
    shop.apply(WEB, way=SERVER_SIDE)
    with shop.watch() as change:
        shop.kubectl(
            "apply",
            "--server-side",
            "--field-manager=somebody-else",
            "-f",
            "-",
            given=[shop.own(WEB)],
        )
    assert not change.generations
    assert_treated(change.now)


def test_replacing_with_the_plain_manifest_changes_nothing(shop: Shop) -> None:
    """A PUT drops what was injected, record included, and gets it back."""
    shop.create(WEB)
    with shop.watch() as change:
        shop.replace(WEB)
    assert not change.generations
    assert_treated(change.now)
    with shop.watch() as change:
        shop.replace(WEB_2)
    assert change.generations == 1
    assert_treated(change.now)


@pytest.mark.parametrize("kind", ["strategic", "merge", "json"])
def test_a_patch_of_the_template_is_one_rollout(shop: Shop, kind: str) -> None:
    """One generation, and the same treatment."""
    shop.create(WEB)
    container = {"name": "app", "image": "registry.example/app:2"}
    merged: Any = {"spec": {"template": {"spec": {"containers": [container]}}}}
    if kind == "json":
        path = "/spec/template/spec/containers/0/image"
        merged = [{"op": "replace", "path": path, "value": container["image"]}]
    if kind == "merge":  # replaces the list: nothing is left of our hook
        merged["spec"]["template"]["spec"]["containers"] = [
            {**template_of(WEB)["spec"]["containers"][0], "image": container["image"]}
        ]
    with shop.watch() as change:
        shop.kubectl("patch", "deployment/web", f"--type={kind}", "--patch", json.dumps(merged))
    assert change.generations == 1
    assert change.restarts
    assert_treated(change.now)


def test_a_patch_of_metadata_is_no_rollout(shop: Shop) -> None:
    """A label of the user's own."""
    shop.create(WEB)
    with shop.watch() as change:
        shop.kubectl("label", "deployment/web", "team=a")
    assert not change.generations
    assert not change.restarts
    assert change.now["metadata"]["labels"] == {"team": "a"}
    assert_treated(change.now)


def test_scaling_does_not_touch_the_template(shop: Shop, release: Release) -> None:
    """It goes through a subresource, which is never sent."""
    shop.create(WEB)
    before = release.count()
    with shop.watch() as change:
        shop.kubectl("scale", "deployment/web", "--replicas=5")
    assert change.generations == 1
    assert not change.restarts
    assert change.now["spec"]["replicas"] == 5
    assert_treated(change.now)
    assert release.count() == before


def test_a_rollout_restart_is_one_rollout(shop: Shop) -> None:
    """With the settings that hold by then."""
    shop.create(WEB)
    with shop.watch() as change:
        shop.kubectl("rollout", "restart", "deployment/web")
    assert change.generations == 1
    assert change.restarts
    assert_treated(change.now)
    assert change.now["spec"]["template"]["metadata"]["annotations"].keys() == {
        "kubectl.kubernetes.io/restartedAt",
        RECORD,
    }


def test_a_rollback_is_one_rollout_and_brings_its_own_record(shop: Shop) -> None:
    """`kubectl rollout undo` restores template and annotations, but not minReadySeconds."""
    shop.apply(with_settings(WEB, pre_stop_sleep="10s"))
    shop.roll_out()
    shop.apply(with_settings(WEB_2, pre_stop_sleep="20s", min_ready="40s"))
    shop.roll_out()
    assert_treated(shop.get(), 20, 40)
    with shop.watch() as change:
        shop.kubectl("rollout", "undo", "deployment/web")
    assert change.generations == 1
    assert change.restarts
    (container,) = template_of(change.now)["spec"]["containers"]
    assert container["image"] == "registry.example/app:1"
    assert_treated(change.now, 10, 30)
    shop.annotate("deployment/web", inject="disabled")
    plain = shop.get()["spec"]
    assert "minReadySeconds" not in plain
    assert hooks(shop.get()) == [None]
    assert grace(shop.get()) == 30


def test_a_rollback_brings_back_what_the_workload_said_then(shop: Shop) -> None:
    """Whether that was another setting, or `disabled`."""
    shop.apply(with_settings(WEB, inject="disabled"))
    shop.roll_out()
    shop.apply(WEB_2)
    shop.roll_out()
    assert_treated(shop.get())
    shop.annotate("deployment/web", pre_stop_sleep="12s")
    shop.roll_out()
    with shop.watch() as change:
        shop.kubectl("rollout", "undo", "deployment/web", "--to-revision=2")
    assert change.generations == 1
    assert_treated(change.now)
    with shop.watch() as change:
        shop.kubectl("rollout", "undo", "deployment/web", "--to-revision=1")
    assert change.generations == 1
    assert hooks(change.now) == [None]
    assert "minReadySeconds" not in change.now["spec"]


@pytest.mark.parametrize("kind", ["StatefulSet", "DaemonSet"])
def test_a_rollback_of_the_other_kinds_brings_its_own_record(shop: Shop, kind: str) -> None:
    """It restores the template alone: what the workload says by then counts."""
    reference = f"{kind.lower()}/web"
    first = with_settings(workload(kind), pre_stop_sleep="10s")
    shop.apply(first)
    shop.record_revision(reference)
    second = template_changed(first, "containers", 0, "image", to="registry.example/app:2")
    shop.apply(with_settings(second, pre_stop_sleep="20s", min_ready="40s"))
    shop.record_revision(reference)
    assert_treated(shop.get(reference), 20, 40)
    with shop.watch(reference) as change:
        shop.kubectl("rollout", "undo", reference)
    assert change.generations == 1
    assert change.restarts
    assert template_of(change.now)["spec"]["containers"][0]["image"].endswith(":1")
    assert_treated(change.now, 20, 40)
    shop.annotate(reference, inject="disabled")
    assert hooks(shop.get(reference)) == [None]
    assert grace(shop.get(reference)) == 30
    assert "minReadySeconds" not in shop.get(reference)["spec"]


def test_a_server_side_dry_run_shows_the_treatment_and_stores_nothing(shop: Shop) -> None:
    """For a Deployment that is not there, and for one that is."""
    assert_treated(shop.try_out(WEB))
    assert shop.find("deployment/web") is None
    shop.create(WEB)
    with shop.watch() as change:
        said = shop.kubectl(
            "apply",
            "--server-side",
            "--dry-run=server",
            "-o",
            "json",
            "-f",
            "-",
            given=[shop.own(with_settings(WEB, pre_stop_sleep="5s"))],
        )
    assert_treated(said.json, 5)
    assert change.nothing


def test_a_deadline_shorter_than_min_ready_seconds_is_raised_with_it(shop: Shop) -> None:
    """Else the API server would refuse the Deployment; opting out puts it back."""
    short = deployment(progressDeadlineSeconds=20)
    shop.create(short)
    assert shop.get()["spec"]["progressDeadlineSeconds"] == 50
    assert_treated(shop.get())
    with shop.watch() as change:
        shop.replace(short)
    assert not change.generations
    shop.replace(with_settings(short, inject="disabled"))
    found = shop.get()["spec"]
    assert found["progressDeadlineSeconds"] == 20
    assert "minReadySeconds" not in found


def test_a_namespace_made_in_the_same_apply_counts(release: Release) -> None:
    """Its setting is known in time, although the watch may not have told of it yet."""
    cluster = release.cluster
    for sleep in (7, 8, 9, 10, 11):
        name = cluster.new_name()
        annotations = {"seamless-rollouts.dev/pre-stop-sleep": f"{sleep}s"}
        namespace = {
            "apiVersion": "v1",
            "kind": "Namespace",
            "metadata": {"name": name, "labels": ENABLED, "annotations": annotations},
        }
        made = Shop(cluster, name, ENABLED)
        cluster.kubectl("apply", "-f", "-", given=[namespace, made.own(WEB)])
        assert_treated(made.get(), sleep)
        assert made.get()["metadata"]["generation"] == 1


@pytest.mark.parametrize("kind", ["StatefulSet", "DaemonSet", "Rollout"])
@pytest.mark.parametrize("way", WAYS)
def test_the_other_kinds_live_alike(
    shop: Shop, rollouts: None, release: Release, kind: str, way: str
) -> None:
    """Created, applied again, rolled out, opted out."""
    assert rollouts is None
    reference = f"{kind.lower()}/web"
    first = workload(kind)
    before = release.count()
    shop.apply(first, way=way)
    assert release.count() - before == 1
    assert_treated(shop.get(reference))
    with shop.watch(reference) as change:
        shop.apply(first, way=way)
    assert not change.generations
    assert_treated(change.now)
    second = template_changed(first, "containers", 0, "image", to="registry.example/app:2")
    with shop.watch(reference) as change:
        shop.apply(second, way=way)
    assert change.generations == 1
    assert_treated(change.now)
    with shop.watch(reference) as change:
        shop.annotate(reference, inject="disabled")
    assert change.generations == 1
    assert change.restarts
    assert hooks(change.now) == [None]
    assert grace(change.now) in (30, None)
    assert "minReadySeconds" not in change.now["spec"]
    assert record_of(change.now, template=True) is None
    assert record_of(change.now, template=False) is None


@pytest.mark.parametrize("conditions", ["auto", "always"])
def test_a_rollout_with_a_workload_ref_is_left_alone(
    installed: Release, rollouts: None, conditions: str
) -> None:
    """Its Deployment is patched. With conditions it is not even sent; an empty one is none."""
    assert rollouts is None
    installed.ensure({"webhook": {"matchConditions": conditions}})
    shop = installed.cluster.shop()
    refers = workload("Rollout", template=None, selector=None, workloadRef={"name": "web"})
    refers["metadata"]["annotations"] = ENABLED
    before = installed.count()
    assert not shop.create(refers).warnings
    assert installed.count() - before == (conditions == "auto")
    assert shop.get("rollout/web")["spec"] == refers["spec"]
    before = installed.count()
    shop.create(workload("Rollout", metadata={"name": "empty"}, workloadRef={}))
    assert installed.count() - before == 1
    assert_treated(shop.get("rollout/empty"))


def test_surge_makes_a_rolling_update_lose_no_pod(shop: Shop) -> None:
    """What the API server has filled in, 25 %, is replaced, and comes back."""
    shop.create(WEB)
    with shop.watch() as change:
        shop.annotate("deployment/web", strategy="surge")
    assert change.generations == 1
    assert not change.restarts
    assert change.now["spec"]["strategy"]["rollingUpdate"]["maxUnavailable"] == 0
    with shop.watch() as change:
        shop.annotate("deployment/web", strategy=None)
    assert change.now["spec"] == change.before["spec"] | rolling(
        maxUnavailable="25%", maxSurge="25%"
    )


def test_an_injected_precheck_is_stored_as_it_was_written(shop: Shop) -> None:
    """What the API server fills in moves no generation afterwards."""
    waits = with_settings(WEB, precheck="mysql:3306", readiness_gates="example.com/ready")
    said = shop.apply(waits, way=SERVER_SIDE)
    assert any("example.com/ready" in each for each in said.warnings)
    found = template_of(shop.get())["spec"]
    assert [each["name"] for each in found["initContainers"]] == ["seamless-precheck"]
    assert found["readinessGates"] == [{"conditionType": "example.com/ready"}]
    for send in (lambda: shop.apply(waits, way=SERVER_SIDE), lambda: shop.replace(waits)):
        with shop.watch() as change:
            send()
        assert not change.generations
    with shop.watch() as change:
        shop.annotate("deployment/web", precheck=None, readiness_gates=None)
    assert change.restarts
    assert not {"initContainers", "readinessGates"} & template_of(change.now)["spec"].keys()


def test_what_was_done_is_in_the_audit_log(shop: Shop, cluster: Cluster) -> None:
    """The settings that were applied, or why none was."""
    if cluster.server is None:
        pytest.skip("only with an API server of our own: its audit log is read")
    shop.create(WEB, with_settings(WEB | {"metadata": {"name": "other"}}, inject="disabled"))
    shop.annotate("deployment/web", inject="disabled")
    log = (cluster.folder / "audit.log").read_text(encoding="utf-8").splitlines()
    events = [json.loads(each) for each in log if f'"{shop.name}"' in each]
    told = [
        {
            key.rpartition("/")[2]: value
            for key, value in (each.get("annotations") or {}).items()
            if key.startswith("in-scope.seamless-rollouts.dev/")
        }
        for each in events
        if each["verb"] in ("create", "patch")
    ]
    assert told == [
        {"applied": "pre-stop-sleep, min-ready"},
        {"skipped": "disabled"},
        {"skipped": "disabled"},
    ]


def test_the_record_is_compact_and_the_same_each_time(shop: Shop) -> None:
    """Keys sorted, no spaces: what is stored does not depend on the order of anything."""
    shop.create(WEB)
    text = template_of(shop.get())["metadata"]["annotations"][RECORD]
    assert text.encode() == canonical(json.loads(text))
    assert NATIVE_30 in [each.get("is") for each in json.loads(text)["fields"].values()]
