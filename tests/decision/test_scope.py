"""Contract §1: who is touched."""

from __future__ import annotations

import itertools
from typing import Any

import pytest

from tests.builders import (
    KINDS,
    NAMESPACE,
    PREFIX,
    Json,
    admission,
    after,
    apply,
    canonical,
    changed,
    container,
    decide,
    deployment,
    hooks,
    namespaces,
    record_of,
    with_settings,
    worker,
    workload,
)

OPT_IN_KNOWN = {"namespace": namespaces({})}
"""A webhook that knows its namespaces, none of which has opted in."""


@pytest.mark.parametrize("operation", ["CREATE", "UPDATE"])
@pytest.mark.parametrize("kind", KINDS)
def test_all_four_kinds_are_patched_on_create_and_on_update(kind: str, operation: str) -> None:
    """Deployment, StatefulSet, DaemonSet and Argo Rollout get the sleep and minReadySeconds."""
    given = workload(kind)
    old = changed(given, "spec", "template", "spec", "containers", 0, "image", to="old:1")
    result = after(given, None if operation == "CREATE" else old)
    assert hooks(result) == [{"sleep": {"seconds": 30}}]
    assert result["spec"].get("minReadySeconds") == (None if kind == "DaemonSet" else 30)


@pytest.mark.parametrize("subresource", ["status", "scale", "eviction"])
def test_a_subresource_is_never_touched(subresource: str) -> None:
    """Whatever the object bears: a status write must not move the template."""
    decision = decide(deployment(), deployment(), subResource=subresource)
    assert decision.operations == ()
    assert decision.skipped


@pytest.mark.parametrize("operation", ["DELETE", "CONNECT", "create", ""])
def test_other_operations_are_never_touched(operation: str) -> None:
    """Only CREATE and UPDATE are."""
    assert decide(deployment(), operation=operation).operations == ()


@pytest.mark.parametrize(
    ("group", "version", "kind"),
    [
        ("apps", "v1", "ReplicaSet"),
        ("", "v1", "Pod"),
        ("apps", "v1beta1", "Deployment"),
        ("extensions", "v1beta1", "Deployment"),
        ("apps", "v2", "Deployment"),
        ("", "v1", "Deployment"),
        ("argoproj.io", "v1", "Rollout"),
        ("apps", "v1", "Rollout"),
        ("argoproj.io", "v1alpha1", "Deployment"),
        ("batch", "v1", "Job"),
        ("", "v1", "Namespace"),
        ("apps", "v1", "deployment"),
    ],
)
def test_other_kinds_and_versions_are_never_touched(group: str, version: str, kind: str) -> None:
    """A changed ReplicaSet sends its Deployment into a creation loop (kubernetes#57167)."""
    gvk = {"group": group, "version": version, "kind": kind}
    decision = decide(deployment(says={"inject": "enabled"}), kind=gvk)
    assert decision.operations == ()
    assert decision.skipped


@pytest.mark.parametrize("kind", KINDS)
def test_only_the_kinds_of_the_configuration_are_touched(kind: str) -> None:
    """`kinds` in the configuration takes away."""
    by = admission({"kinds": [kind]})
    for each in KINDS:
        assert bool(decide(workload(each), by=by).operations) == (each == kind)


def test_an_object_on_its_way_out_is_never_touched() -> None:
    """With a deletionTimestamp a new template would only hold up its end."""
    given = deployment(metadata={"deletionTimestamp": "2026-01-01T00:00:00Z"})
    assert decide(given, deployment()).operations == ()
    treated = changed(after(deployment()), "metadata", "deletionTimestamp", to="2026-01-01")
    leaving = with_settings(treated, inject="disabled")
    assert decide(leaving, treated).operations == ()


def test_a_rollout_with_a_workload_ref_is_left_alone() -> None:
    """Its Deployment is patched."""
    ref = {"apiVersion": "apps/v1", "kind": "Deployment", "name": "web"}
    given = workload("Rollout", says={"inject": "enabled"}, workloadRef=ref, template=None)
    decision = decide(given)
    assert decision.operations == ()
    assert decision.skipped == "workload-ref"


@pytest.mark.parametrize("value", [None, {}])
def test_a_rollout_with_an_empty_workload_ref_is_one_without(value: Any) -> None:
    """Nulls do no harm."""
    given = workload("Rollout")
    given["spec"]["workloadRef"] = value
    assert decide(given).operations


@pytest.mark.parametrize(
    "name", ["kube-system", "kube-public", "kube-node-lease", "seamless", "payments"]
)
@pytest.mark.parametrize("scope", ["opt-in", "cluster"])
def test_excluded_namespaces_are_never_touched(name: str, scope: str) -> None:
    """System namespaces, the webhook's own and the configured ones, whatever else is set."""
    by = admission(
        {"scope": scope, "excludedNamespaces": ["payments"]},
        namespace=namespaces({"inject": "enabled"}),
        own_namespace="seamless",
    )
    given = deployment(
        says={"inject": "enabled", "min-ready": "no"},
        template_says={"inject": "enabled"},
        metadata={"namespace": name},
    )
    decision = decide(given, by=by)
    assert decision.operations == ()
    assert not decision.refused
    assert decision.skipped == "excluded-namespace"
    assert decide(changed(given, "metadata", "annotations", to={}), by=by).operations == ()


def test_a_record_in_an_excluded_namespace_stays() -> None:
    """Outside the exclusions only are records taken out."""
    treated = after(deployment())
    by = admission({"excludedNamespaces": [NAMESPACE]})
    assert decide(with_settings(treated, inject="disabled"), treated, by=by).operations == ()


# --- inject, at each layer -----------------------------------------------------------------------

WORDS = (None, "enabled", "disabled")


def first_word(*said: str | None) -> str | None:
    """Give the nearest word."""
    return next((word for word in said if word), None)


@pytest.mark.parametrize("scope", ["opt-in", "cluster"])
@pytest.mark.parametrize(("on_workload", "on_template"), [*itertools.product(WORDS, WORDS)])
@pytest.mark.parametrize("on_namespace", WORDS)
@pytest.mark.parametrize("as_label", [False, True])
def test_the_workload_beats_the_template_beats_the_namespace_beats_the_scope(
    scope: str,
    on_workload: str | None,
    on_template: str | None,
    on_namespace: str | None,
    as_label: bool,  # noqa: FBT001 - a table's column
) -> None:
    """`opt-in`: nothing unless enabled; `cluster`: everything unless disabled."""
    above = {"inject": on_workload} if on_workload else {}
    below = {"inject": on_template} if on_template else {}
    places: Json = (
        {"labels": above, "template_labels": below}
        if as_label
        else {"says": above, "template_says": below}
    )
    labels = {"inject": on_namespace} if on_namespace else {}
    by = admission({"scope": scope}, namespace=namespaces(labels))
    word = first_word(on_workload, on_template, on_namespace)
    expected = word == "enabled" or (word is None and scope == "cluster")
    decision = decide(deployment(**places), by=by)
    assert bool(decision.operations) is expected
    assert (decision.skipped is None) is expected


@pytest.mark.parametrize("place", ["workload", "template"])
@pytest.mark.parametrize(("label", "annotation"), [*itertools.product(WORDS, WORDS)])
def test_on_one_object_disabled_beats_enabled(
    place: str, label: str | None, annotation: str | None
) -> None:
    """A label and an annotation may contradict each other."""
    said = {"inject": annotation} if annotation else {}
    labels = {"inject": label} if label else {}
    places: Json = (
        {"says": said, "labels": labels}
        if place == "workload"
        else {"template_says": said, "template_labels": labels}
    )
    decision = decide(deployment(**places))
    assert bool(decision.operations) is ("disabled" not in (label, annotation))


def test_a_label_on_the_workload_beats_the_template_s_annotation() -> None:
    """The layer counts, not whether it is a label or an annotation."""
    given = deployment(labels={"inject": "enabled"}, template_says={"inject": "disabled"})
    assert decide(given).operations
    given = deployment(labels={"inject": "disabled"}, template_says={"inject": "enabled"})
    assert not decide(given).operations


def test_settings_alone_never_opt_in() -> None:
    """A workload may say how, and leave whether to the namespace."""
    given = deployment(
        says={"pre-stop-sleep": "5s", "readiness-probe": "tcp://:8080"},
        template_says={"min-ready": "5s"},
    )
    by = admission(namespace=namespaces({}, **{"pre-stop-sleep": "5s"}))
    decision = decide(given, by=by)
    assert decision.operations == ()
    assert decision.skipped == "not-selected"


def test_a_namespace_opts_in_by_a_label_only() -> None:
    """An annotation `inject` on it does not select: the API server's selectors cannot see it."""
    by = admission(namespace=namespaces({}, inject="enabled"))
    assert decide(deployment(), by=by).operations == ()


@pytest.mark.parametrize("scope", ["opt-in", "cluster"])
def test_a_namespace_that_is_not_known_counts_as_selected(scope: str) -> None:
    """The API server's selection is trusted: a request that arrives is in scope."""
    by = admission({"scope": scope})
    assert decide(deployment(), by=by).operations
    assert decide(deployment(says={"inject": "disabled"}), by=by).operations == ()


def test_a_namespace_that_is_not_known_says_nothing() -> None:
    """It counts as one without annotations: what is built in holds."""
    assert hooks(after(deployment())) == [{"sleep": {"seconds": 30}}]


# --- records out of scope ------------------------------------------------------------------------


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("way", ["workload", "template", "label", "template label"])
def test_a_workload_that_bears_a_record_gives_it_back_when_disabled(kind: str, way: str) -> None:
    """Opting out leaves what the user wrote, byte for byte, but for the opt-out."""
    given = workload(kind)
    treated = after(given)
    leaving = {
        "workload": with_settings(treated, inject="disabled"),
        "template": with_settings(treated, template=True, inject="disabled"),
        "label": changed(treated, "metadata", "labels", to={PREFIX + "inject": "disabled"}),
        "template label": changed(
            treated, "spec", "template", "metadata", "labels", PREFIX + "inject", to="disabled"
        ),
    }[way]
    decision = decide(leaving, treated)
    assert decision.restarts
    assert decision.skipped == "disabled"
    result = apply(leaving, decision.operations)
    assert record_of(result, template=True) is None
    assert record_of(result, template=False) is None
    expected = {
        "workload": with_settings(given, inject="disabled"),
        "template": with_settings(given, template=True, inject="disabled"),
        "label": changed(given, "metadata", "labels", to={PREFIX + "inject": "disabled"}),
        "template label": changed(
            given, "spec", "template", "metadata", "labels", PREFIX + "inject", to="disabled"
        ),
    }[way]
    assert canonical(result) == canonical(expected)


def test_a_workload_that_is_created_with_a_record_out_of_scope_loses_it() -> None:
    """As from `kubectl get -o yaml` in one namespace to another that has not opted in."""
    given = deployment()
    result = after(after(given), by=admission(**OPT_IN_KNOWN))
    assert canonical(result) == canonical(given)


def test_a_record_goes_with_the_next_rollout_where_the_namespace_has_withdrawn() -> None:
    """Out of scope, the decision is: nothing injected."""
    given = deployment()
    treated = after(given)
    newer = changed(treated, "spec", "template", "spec", "containers", 0, "image", to="new:2")
    decision = decide(newer, treated, by=admission(**OPT_IN_KNOWN))
    expected = changed(given, "spec", "template", "spec", "containers", 0, "image", to="new:2")
    assert decision.restarts
    assert canonical(decision.result) == canonical(expected)


def test_a_workload_out_of_scope_that_bears_no_record_gets_no_answer_but_yes() -> None:
    """Nothing to do, nothing to warn of."""
    given = deployment(worker(), container("b", readinessProbe=None), says={"inject": "disabled"})
    decision = decide(given)
    assert decision.operations == ()
    assert decision.alerts == ()


# --- the AWS label -------------------------------------------------------------------------------

AWS = "elbv2.k8s.aws/pod-readiness-gate-inject"
NAMESPACE_KIND = {"group": "", "version": "v1", "kind": "Namespace"}


def a_namespace(name: str = "shop", **labels: Any) -> Json:
    """Give a Namespace."""
    said = {PREFIX + key if key == "inject" else AWS: value for key, value in labels.items()}
    return {"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": name, "labels": said}}


@pytest.mark.parametrize(
    ("configured", "given", "labelled"),
    [
        ({}, a_namespace(inject="enabled"), False),
        ({"awsReadinessGates": True}, a_namespace(inject="enabled"), True),
        ({"awsReadinessGates": True}, a_namespace(), False),
        ({"awsReadinessGates": True, "scope": "cluster"}, a_namespace(), True),
        ({"awsReadinessGates": True, "scope": "cluster"}, a_namespace(inject="disabled"), False),
        ({"awsReadinessGates": True}, a_namespace("kube-system", inject="enabled"), False),
        ({"awsReadinessGates": True}, a_namespace(inject="enabled", aws="disabled"), False),
    ],
)
def test_a_namespace_gets_the_aws_label_only_where_the_configuration_says_so(
    configured: Json,
    given: Json,
    labelled: bool,  # noqa: FBT001 - a table's column
) -> None:
    """One label, on a namespace in scope, unless it bears one already."""
    name = given["metadata"]["name"]
    decision = decide(given, by=admission(configured), kind=NAMESPACE_KIND, namespace=name)
    result = apply(given, decision.operations)
    before = given["metadata"]["labels"]
    assert result["metadata"]["labels"] == ({**before, AWS: "enabled"} if labelled else before)


@pytest.mark.parametrize(
    "given",
    [
        changed(a_namespace(inject="enabled"), "metadata", "deletionTimestamp", to="now"),
        changed(a_namespace(inject="enabled"), "metadata", "labels", to=["enabled"]),
        changed(a_namespace(inject="enabled"), "metadata", "labels", to=None),
        changed(a_namespace(inject="enabled"), "metadata", to=None),
        changed(a_namespace(inject="enabled"), "metadata", to="shop"),
    ],
)
def test_an_odd_namespace_gets_no_label(given: Json) -> None:
    """One on its way out, or one that says nothing."""
    by = admission({"awsReadinessGates": True})
    assert not decide(given, by=by, kind=NAMESPACE_KIND, namespace="shop").operations
    assert not decide(given, given, by=by, kind=NAMESPACE_KIND, namespace="shop").operations
