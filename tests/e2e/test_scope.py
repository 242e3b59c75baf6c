"""Who is treated: opting in and out, by each of the words, and what is never sent at all."""

from __future__ import annotations

import json

import pytest

from tests.builders import (
    NATIVE_30,
    RECORD,
    Json,
    canonical,
    deployment,
    grace,
    hooks,
    settings,
    template_changed,
    template_of,
    with_settings,
)
from tests.e2e.cluster import ENABLED, INJECT, Shop, until
from tests.e2e.release import EXCLUDED, NAMESPACE, SWITCHED_OFF, Release

WEB = deployment()
WEB_2 = template_changed(WEB, "containers", 0, "image", to="registry.example/app:2")
WAYS = ("--server-side=false", "--server-side")


def assert_untreated(found: Json) -> None:
    """See that a workload bears nothing of ours."""
    assert hooks(found) == [None]
    assert grace(found) == 30
    assert "minReadySeconds" not in found["spec"]
    assert RECORD not in (found["metadata"].get("annotations") or {})
    assert "annotations" not in template_of(found)["metadata"]


def assert_treated(found: Json) -> None:
    """See that a workload bears the built-in treatment."""
    assert hooks(found) == [NATIVE_30]
    assert grace(found) == 60
    assert found["spec"]["minReadySeconds"] == 30


def leave(shop: Shop, name: str) -> None:
    """Delete a Deployment that a finalizer holds, and then take that off: an update."""
    held, let_go = ({"metadata": {"finalizers": value}} for value in (["e2e.example/held"], None))
    reference = f"deployment/{name}"
    shop.kubectl("patch", reference, "--type=merge", "-p", json.dumps(held))
    shop.kubectl("delete", "--wait=false", reference)
    shop.kubectl("patch", reference, "--type=merge", "-p", json.dumps(let_go))
    assert shop.find(reference) is None


@pytest.mark.parametrize("mark", ["annotate", "label"])
def test_a_workload_opts_out_and_in_again(shop: Shop, mark: str) -> None:
    """It is asked for, so pods restart: once each time."""
    shop.create(WEB)
    plain = shop.cluster.shop({})
    plain.create(WEB)
    with shop.watch() as change:
        getattr(shop, mark)("deployment/web", inject="disabled")
    assert change.generations == 1
    assert change.restarts
    assert_untreated(change.now)
    assert canonical(change.now["spec"]) == canonical(plain.get()["spec"])
    with shop.watch() as change:
        getattr(shop, mark)("deployment/web", inject=None)
    assert change.generations == 1
    assert change.restarts
    assert_treated(change.now)


@pytest.mark.parametrize("way", WAYS)
def test_a_manifest_opts_out_and_in_again(shop: Shop, way: str) -> None:
    """By `kubectl apply`, with the annotation on the pod template."""
    shop.apply(WEB, way=way)
    with shop.watch() as change:
        shop.apply(with_settings(WEB, template=True, inject="disabled"), way=way)
    assert change.generations == 1
    assert hooks(change.now) == [None]
    assert "minReadySeconds" not in change.now["spec"]
    with shop.watch() as change:
        shop.apply(WEB, way=way)
    assert change.generations == 1
    assert_treated(change.now)


@pytest.mark.parametrize(
    "given",
    [
        deployment(says={"inject": "enabled"}),
        deployment(labels={"inject": "enabled"}),
        deployment(template_says={"inject": "enabled"}),
        deployment(template_labels={"inject": "enabled"}),
    ],
    ids=["annotation", "label", "template-annotation", "template-label"],
)
def test_a_workload_opts_in_by_itself(release: Release, given: Json) -> None:
    """In a namespace that is not selected, and in one that says disabled."""
    for labels in ({}, {INJECT: "disabled"}):
        shop = release.cluster.shop(labels)
        before = release.count()
        shop.create(given)
        assert release.count() - before == 1
        assert_treated(shop.get())


def test_settings_alone_do_not_opt_in(release: Release) -> None:
    """Nor does a label that says disabled beside an annotation that says enabled."""
    shop = release.cluster.shop({}, annotations=settings(pre_stop_sleep="5s"))
    before = release.count()
    shop.create(with_settings(WEB, min_ready="5s"))
    assert_untreated(shop.get())
    both = deployment(says={"inject": "enabled"}, labels={"inject": "disabled"})
    shop.create(both | {"metadata": both["metadata"] | {"name": "both"}})
    assert_untreated(shop.get("deployment/both"))
    assert release.count() == before


def test_a_namespace_that_opts_in_restarts_nothing(release: Release) -> None:
    """What lies outside the template follows at the next update, the template with a rollout."""
    shop = release.cluster.shop({})
    shop.create(WEB)
    assert_untreated(shop.get())
    shop.label_namespace(inject="enabled")
    until(lambda: "minReadySeconds" in shop.touched()["spec"])
    with shop.watch() as change:
        shop.touch()
    assert change.generations == 1
    assert not change.restarts
    assert hooks(change.now) == [None]
    assert change.now["spec"]["minReadySeconds"] == 30
    with shop.watch() as change:
        shop.replace(WEB)
    assert not change.generations
    with shop.watch() as change:
        shop.kubectl("rollout", "restart", "deployment/web")
    assert change.generations == 1
    assert_treated(change.now)


@pytest.mark.parametrize("word", [None, "disabled"])
def test_a_namespace_that_opts_out_restarts_nothing(shop: Shop, word: str | None) -> None:
    """What lies outside the template goes at the next update, the hook with the next rollout."""
    shop.create(WEB)
    shop.label_namespace(inject=word)
    until(lambda: "minReadySeconds" not in shop.touched()["spec"])
    with shop.watch() as change:
        shop.touch()
    assert change.generations == 1
    assert not change.restarts
    assert hooks(change.now) == [NATIVE_30]
    assert "minReadySeconds" not in change.now["spec"]
    with shop.watch() as change:
        shop.apply(with_settings(WEB, min_ready="9s"), way="--server-side")
    assert not change.restarts
    with shop.watch() as change:
        shop.kubectl("rollout", "restart", "deployment/web")
    assert change.generations == 1
    assert change.restarts
    assert hooks(change.now) == [None]
    assert grace(change.now) == 30


def test_a_put_does_not_take_the_treatment_of_a_namespace_that_opted_out(shop: Shop) -> None:
    """Nobody asked for new pods: the template is put back as it is in the cluster."""
    shop.create(with_settings(WEB, min_ready="none"))
    shop.label_namespace(inject=None)
    other = deployment(says={"inject": "enabled"}) | {"metadata": {"name": "other"}}
    shop.create(other)
    until(lambda: "minReadySeconds" not in shop.touched("deployment/other")["spec"])
    with shop.watch() as change:
        shop.replace({**WEB, "spec": {**WEB["spec"], "replicas": 5}})
    assert change.generations == 1
    assert change.now["spec"]["replicas"] == 5
    assert not change.restarts
    assert hooks(change.now) == [NATIVE_30]


def test_a_namespace_opts_out_and_in_again(shop: Shop) -> None:
    """Between two rollouts, that is no change at all for pods."""
    shop.create(WEB)
    with shop.watch() as whole:
        shop.label_namespace(inject=None)
        until(lambda: "minReadySeconds" not in shop.touched()["spec"])
        shop.touch()
        shop.label_namespace(inject="enabled")
        until(lambda: "minReadySeconds" in shop.touched()["spec"])
        shop.touch()
    assert whole.generations == 2
    assert not whole.restarts
    assert_treated(whole.now)


def test_a_rollback_to_a_template_from_before_the_opt_in_is_treated(release: Release) -> None:
    """It is a rollout like any other."""
    shop = release.cluster.shop({})
    shop.apply(WEB)
    shop.roll_out()
    shop.label_namespace(inject="enabled")
    until(lambda: "minReadySeconds" in shop.touched()["spec"])
    shop.apply(WEB_2)
    shop.roll_out()
    assert_treated(shop.get())
    with shop.watch() as change:
        shop.kubectl("rollout", "undo", "deployment/web")
    assert change.generations == 1
    assert template_of(change.now)["spec"]["containers"][0]["image"].endswith(":1")
    assert_treated(change.now)


def test_a_backfill_moves_the_template(release: Release) -> None:
    """A request under its field manager is decided afresh."""
    shop = release.cluster.shop({})
    shop.create(WEB)
    shop.label_namespace(inject="enabled")
    until(lambda: "minReadySeconds" in shop.touched()["spec"])
    patch = '{"metadata":{"labels":{"backfilled":"yes"}}}'
    with shop.watch() as change:
        shop.kubectl(
            "patch", "deployment/web", "--patch", patch, "--field-manager=seamless-backfill"
        )
    assert change.generations == 1
    assert change.restarts
    assert_treated(change.now)


def test_excluded_namespaces_are_never_called(release: Release) -> None:
    """Whatever their workloads say: the system's, the release's own, and the configured ones."""
    cluster = release.cluster
    said = deployment(says={"inject": "enabled"}, labels={"inject": "enabled"})
    before = release.count()
    for name in ("kube-system", "kube-public", NAMESPACE, EXCLUDED):
        made = cluster.shop(ENABLED, name=name).try_out(said)
        assert hooks(made) == [None]
        assert "minReadySeconds" not in made["spec"]
    assert release.count() == before


def test_what_is_out_of_scope_costs_no_call(release: Release, shop: Shop) -> None:
    """A namespace that is not selected, any other kind, a subresource."""
    shop.create(WEB)
    before = release.count()
    release.cluster.shop({}).create(WEB)
    shop.kubectl("create", "configmap", "other")
    shop.kubectl("scale", "deployment/web", "--replicas=2")
    assert release.count() == before


def test_what_is_switched_off_is_sent_and_left_as_it_is(release: Release, shop: Shop) -> None:
    """In a namespace in scope: no patch and no warning; a create, an update and a PUT alike."""
    before = release.count(outcome="skipped", reason="disabled")
    for given in SWITCHED_OFF:
        reference = f"deployment/{given['metadata']['name']}"
        replaced = given | {"spec": given["spec"] | {"replicas": 5}}
        for said in (shop.create(given), shop.touch(reference), shop.replace(replaced)):
            assert not said.warnings
        found = shop.get(reference)
        assert hooks(found) == [None]
        assert grace(found) == 30
        assert "minReadySeconds" not in found["spec"]
        assert RECORD not in json.dumps(found)
    assert release.count(outcome="skipped", reason="disabled") - before == 3 * len(SWITCHED_OFF)


def test_with_all_conditions_what_is_switched_off_or_leaving_costs_no_call(
    installed: Release,
) -> None:
    """Unless it bears a record: then it is sent, so that what was injected can leave."""
    installed.ensure({"webhook": {"matchConditions": "always"}})
    shop = installed.cluster.shop()
    shop.create(WEB)
    assert_treated(shop.get())
    before = installed.count()
    for given in SWITCHED_OFF:
        shop.create(given)
        shop.touch(f"deployment/{given['metadata']['name']}")
    leave(shop, "web-1")
    assert installed.count() == before
    shop.annotate("deployment/web", inject="disabled")
    assert installed.count() - before == 1
    assert_untreated(shop.get())


def test_an_object_is_sent_once_in_a_pass(release: Release, shop: Shop) -> None:
    """However many of the words it bears, and whether or not something is patched."""
    elsewhere = release.cluster.shop({})
    enabled = deployment(
        says={"inject": "enabled"},
        labels={"inject": "enabled"},
        template_says={"inject": "enabled"},
        template_labels={"inject": "enabled"},
    )
    for place in (shop, elsewhere):
        for send in (
            lambda place=place: place.create(enabled),
            lambda place=place: place.touch(),
            lambda place=place: place.replace(enabled),
            lambda place=place: place.apply(enabled, way="--server-side"),
            lambda place=place: place.annotate("deployment/web", inject="disabled"),
        ):
            before = release.count()
            send()
            assert release.count() - before == 1
    assert release.count(outcome="unchanged") > 0


def test_what_leaves_is_not_held_up(release: Release, shop: Shop) -> None:
    """A deletion is not sent; what a finalizer still holds is left alone, whatever it bears."""
    shop.create(WEB)
    before = release.count(), release.count(reason="deleting")
    leave(shop, "web")
    assert release.count() - before[0] == 2
    assert release.count(reason="deleting") - before[1] == 1
