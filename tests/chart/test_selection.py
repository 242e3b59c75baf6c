"""Whom the API server sends: the configuration's selectors, evaluated as the API server does.

The webhook's own decision is the judge: what it would leave alone must cost no call, and what it
would patch, or take an injection out of, must be sent, once. Where the entry for namespaces in
scope has no conditions, as by default, what they would keep away must get no answer but yes.
"""

from __future__ import annotations

import itertools
from collections.abc import Iterator
from typing import Any, Final

import orjson
import pytest

from tests import builders
from tests.chart.rendering import (
    NAMESPACE,
    VALUES_FILES,
    Manifest,
    of_kind,
    only,
    read_values,
    render,
)
from tests.chart.selection import Request, called
from webhook.decision.admission import Admission
from webhook.decision.configuration import Configuration, parse
from webhook.decision.settings import Namespace
from webhook.decision.workload import KINDS, Kind

INJECT: Final = "seamless-rollouts.dev/inject"
RECORD: Final = "seamless-rollouts.dev/injected"
A_RECORD: Final = '{"fields":{},"v":1}'
AWS: Final = "elbv2.k8s.aws/pod-readiness-gate-inject"

# What an object can say: its label, its annotation.
WORDS: Final = {
    "nothing": (None, None),
    "a label enabled": ("enabled", None),
    "a label disabled": ("disabled", None),
    "an annotation enabled": (None, "enabled"),
    "an annotation disabled": (None, "disabled"),
    "both, at odds": ("enabled", "disabled"),
    "nonsense": ("yes", None),
}
NAMESPACES: Final = {
    "silent": {},
    "enabled": {INJECT: "enabled"},
    "disabled": {INJECT: "disabled"},
    "nonsense": {INJECT: "yes"},
}
SCOPES: Final = ("opt-in", "cluster")
IN_SCOPE: Final = "in-scope.seamless-rollouts.dev"
BY_DEFAULT: Final[Manifest] = {}
ALWAYS: Final[Manifest] = {"matchConditions": "always"}


def configuration(values: Manifest | None = None, webhook: Manifest = ALWAYS) -> Manifest:
    """Render the MutatingWebhookConfiguration; with all conditions, unless told otherwise."""
    values = {**(values or {}), "webhook": webhook}
    return only(render(values), "MutatingWebhookConfiguration")


@pytest.fixture(scope="module", params=SCOPES)
def scope(request: pytest.FixtureRequest) -> str:
    """Give each scope in turn."""
    return str(request.param)


@pytest.fixture(scope="module")
def scoped(scope: str) -> Manifest:
    """Give the configuration of a scope, with all conditions."""
    return configuration({"scope": scope})


@pytest.fixture(scope="module")
def by_default(scope: str) -> Manifest:
    """Give the configuration of a scope as it is by default: in scope without conditions."""
    return configuration({"scope": scope}, BY_DEFAULT)


def metadata(words: str = "nothing", *, record: bool = False) -> dict[str, Any]:
    """Build the metadata of an object that says something."""
    label, annotation = WORDS[words]
    found: dict[str, Any] = {}
    if label:
        found["labels"] = {INJECT: label}
    annotations = {INJECT: annotation} if annotation else {}
    if record:
        annotations[RECORD] = A_RECORD
    if annotations:
        found["annotations"] = annotations
    return found


def workload(
    above: str = "nothing",
    below: str = "nothing",
    *,
    record: str = "",
    kind: Kind = KINDS["Deployment"],
) -> dict[str, Any]:
    """Build a workload; `record` names where one lies: `workload` or `template`."""
    container = {"name": "a", "image": "a", "ports": [{"containerPort": 80}]}
    return {
        "apiVersion": kind.api_version,
        "kind": kind.name,
        "metadata": {"name": "a", **metadata(above, record=record == "workload")},
        "spec": {
            "selector": {"matchLabels": {"app": "a"}},
            "template": {
                "metadata": metadata(below, record=record == "template"),
                "spec": {"containers": [container]},
            },
        },
    }


def request_for(
    new: dict[str, Any],
    old: dict[str, Any] | None = None,
    *,
    namespace: str = "shop",
    labels: dict[str, str] | None = None,
) -> Request:
    """Build a request for a workload in a namespace."""
    kind = KINDS[new["kind"]]
    labels = {"kubernetes.io/metadata.name": namespace, **(labels or {})}
    return Request(kind.group, kind.resource, namespace, labels, new, old, version=kind.version)


def judge_of(request: Request, scope: str, values: Manifest | None = None) -> Admission:
    """Build a webhook that knows the namespace of a request, with further keys of configuration."""
    table = Admission(parse("", "built in")).table
    known = table.namespace("shop", request.namespace_labels, {})
    return Admission(
        Configuration.model_validate({"scope": scope, **(values or {})}),
        namespaces=lambda _name: Namespace("shop", known.layer),
        own_namespace=NAMESPACE,
    )


def wanted(request: Request, scope: str, values: Manifest | None = None) -> bool:
    """Ask the webhook itself whether it has anything to do with a request."""
    given = builders.review(request.new, request.old, namespace=request.namespace)
    judge = judge_of(request, scope, values)
    decision = judge.decide(builders.request_of(given))
    if decision.skipped in {"excluded-namespace", "excluded-workload", "deleting", "workload-ref"}:
        return False
    recorded = any(RECORD in str(each) for each in (request.new, request.old))
    return recorded or decision.skipped not in {"not-selected", "disabled"}


@pytest.mark.parametrize(
    ("scope_name", "where", "above", "below", "sent"),
    [
        ("opt-in", "silent", "nothing", "nothing", ""),
        ("opt-in", "silent", "a label enabled", "nothing", "elsewhere"),
        ("opt-in", "silent", "nothing", "an annotation enabled", "elsewhere"),
        ("opt-in", "silent", "an annotation disabled", "an annotation enabled", ""),
        ("opt-in", "disabled", "an annotation enabled", "nothing", "elsewhere"),
        ("opt-in", "nonsense", "nothing", "nothing", ""),
        ("opt-in", "enabled", "nothing", "nothing", "in-scope"),
        ("opt-in", "enabled", "a label disabled", "nothing", ""),
        ("opt-in", "enabled", "nothing", "a label disabled", ""),
        ("opt-in", "enabled", "a label enabled", "a label disabled", "in-scope"),
        ("opt-in", "enabled", "both, at odds", "nothing", ""),
        ("opt-in", "enabled", "nonsense", "nothing", "in-scope"),
        ("cluster", "silent", "nothing", "nothing", "in-scope"),
        ("cluster", "nonsense", "nothing", "nothing", "in-scope"),
        ("cluster", "silent", "nothing", "an annotation disabled", ""),
        ("cluster", "disabled", "nothing", "nothing", ""),
        ("cluster", "disabled", "a label enabled", "nothing", "elsewhere"),
        ("cluster", "disabled", "nothing", "both, at odds", ""),
    ],
)
def test_the_nearest_word_decides(
    scope_name: str, where: str, above: str, below: str, sent: str
) -> None:
    """The rules of the contract, as a reader would write them down."""
    webhooks = configuration({"scope": scope_name})
    entries = called(webhooks, request_for(workload(above, below), labels=NAMESPACES[where]))
    assert entries == ([f"{sent}.seamless-rollouts.dev"] if sent else [])


@pytest.mark.parametrize("below", WORDS)
@pytest.mark.parametrize("above", WORDS)
@pytest.mark.parametrize("where", NAMESPACES)
def test_a_created_workload_is_sent_once_where_it_is_in_scope_and_never_elsewhere(
    scope: str, scoped: Manifest, where: str, above: str, below: str
) -> None:
    """Every word in every place, in every kind of namespace, against the webhook's decision."""
    request = request_for(workload(above, below), labels=NAMESPACES[where])
    entries = called(scoped, request)
    assert len(entries) == wanted(request, scope), entries


@pytest.mark.parametrize("record", ["workload", "template"])
@pytest.mark.parametrize("bearer", ["new", "old", "both"])
@pytest.mark.parametrize("where", NAMESPACES)
def test_what_bears_a_record_is_always_sent_once(
    scoped: Manifest, where: str, bearer: str, record: str
) -> None:
    """The record is on either object, on the workload or its template; whatever else is said."""
    for above, below in itertools.product(WORDS, WORDS):
        new = workload(above, below, record=record if bearer != "old" else "")
        old = workload(above, below, record=record if bearer != "new" else "")
        request = request_for(new, old, labels=NAMESPACES[where])
        assert len(called(scoped, request)) == 1, (above, below)


@pytest.mark.parametrize("record", ["workload", "template"])
def test_a_created_workload_that_bears_a_record_is_sent_once(scoped: Manifest, record: str) -> None:
    """Somebody copies what they read from another namespace, record included."""
    for labels in NAMESPACES.values():
        request = request_for(workload("a label disabled", record=record), labels=labels)
        assert len(called(scoped, request)) == 1


def test_an_update_is_judged_by_what_the_new_object_says(scope: str, scoped: Manifest) -> None:
    """An opt-in or opt-out takes effect with the request that brings it, not one later."""
    for before, after in itertools.product(WORDS, WORDS):
        for labels in NAMESPACES.values():
            request = request_for(workload(after), workload(before), labels=labels)
            assert len(called(scoped, request)) == wanted(request, scope), (before, after)


def test_an_opt_out_of_what_was_patched_is_sent(scoped: Manifest) -> None:
    """A PUT with `disabled` and without the record: only the old object knows of it."""
    for labels in NAMESPACES.values():
        request = request_for(
            workload("a label disabled"),
            workload("a label enabled", record="template"),
            labels=labels,
        )
        assert len(called(scoped, request)) == 1


def test_an_opt_out_of_what_was_never_patched_costs_no_call(scoped: Manifest) -> None:
    """`disabled` with no record anywhere: there is nothing to take back."""
    for labels in NAMESPACES.values():
        request = request_for(
            workload("a label disabled"), workload("a label enabled"), labels=labels
        )
        assert called(scoped, request) == []


@pytest.mark.parametrize("values_file", VALUES_FILES, ids=lambda path: path.name)
def test_excluded_namespaces_never_cost_a_call(values_file: Any) -> None:
    """The system's, the webhook's own and the configured ones, whatever they and the object say."""
    values = read_values(values_file)
    for webhooks in of_kind(render(values), "MutatingWebhookConfiguration"):
        excluded = values.get("excludedNamespaces", [])
        for name in ["kube-system", "kube-public", "kube-node-lease", NAMESPACE, *excluded]:
            for labels, record in itertools.product(NAMESPACES.values(), ["", "workload"]):
                new = workload("a label enabled", record=record)
                request = request_for(new, new, namespace=name, labels=labels)
                assert called(webhooks, request) == [], name


def test_nothing_but_excluded_namespaces_lies_between_the_entries(scoped: Manifest) -> None:
    """Their selectors part the namespaces: each that is not excluded belongs to exactly one."""
    selectors = [each["namespaceSelector"]["matchExpressions"] for each in scoped["webhooks"]]
    (first, mine), (second, yours) = selectors
    assert first == second
    assert mine["key"] == yours["key"] == INJECT
    assert mine["values"] == yours["values"]
    assert {mine["operator"], yours["operator"]} == {"In", "NotIn"}


def test_each_kind_that_is_switched_on_is_sent_and_no_other() -> None:
    """The rules name the kinds of the configuration."""
    for count in range(1, len(KINDS) + 1):
        for chosen in itertools.combinations(KINDS, count):
            webhooks = configuration({"kinds": list(chosen)})
            for kind in KINDS.values():
                request = request_for(workload("a label enabled", kind=kind))
                assert bool(called(webhooks, request)) == (kind.name in chosen), (kind, chosen)


@pytest.mark.parametrize(
    ("group", "resource"),
    [
        ("", "pods"),
        ("", "namespaces"),
        ("apps", "replicasets"),
        ("apps", "deployments/status"),
        ("apps", "deployments/scale"),
        ("argoproj.io", "rollouts/status"),
        ("batch", "jobs"),
    ],
)
def test_other_resources_and_subresources_never_cost_a_call(group: str, resource: str) -> None:
    """Pods, ReplicaSets and whatever is written through a subresource are never asked about."""
    webhooks = configuration()
    for version in ("v1", "v1alpha1"):
        request = Request(
            group,
            resource,
            "shop",
            NAMESPACES["enabled"],
            workload("a label enabled"),
            version=version,
        )
        assert called(webhooks, request) == []


def test_only_creates_and_updates_are_sent(scoped: Manifest) -> None:
    """No rule names DELETE or CONNECT."""
    for webhook in scoped["webhooks"]:
        for rule in webhook["rules"]:
            assert rule["operations"] == ["CREATE", "UPDATE"]


def test_what_is_being_deleted_costs_no_call(scoped: Manifest) -> None:
    """Taking finalizers off a workload is an update, too."""
    new = workload("a label enabled", record="workload")
    new["metadata"]["deletionTimestamp"] = "2026-01-01T00:00:00Z"
    for labels in NAMESPACES.values():
        assert called(scoped, request_for(new, new, labels=labels)) == []


@pytest.mark.parametrize("reference", [{"kind": "Deployment", "name": "a"}, {}, None])
def test_a_rollout_is_sent_unless_its_template_is_elsewhere(
    scope: str, scoped: Manifest, reference: dict[str, str] | None
) -> None:
    """A Rollout with a `workloadRef` is left alone: its Deployment is patched."""
    new = workload("a label enabled", kind=KINDS["Rollout"])
    new["spec"]["workloadRef"] = reference
    request = request_for(new)
    assert len(called(scoped, request)) == wanted(request, scope) == (not reference)


def test_conditions_bear_workloads_with_hardly_anything_in_them(
    scope: str, scoped: Manifest
) -> None:
    """A condition that fails would count as "do not call", or refuse the request under Fail."""
    bare: list[dict[str, Any]] = [
        {},
        {"spec": {}},
        {"spec": {"template": {}}},
        {"spec": {"template": {"metadata": {}}}},
        {"spec": {"template": {"metadata": {"labels": {}, "annotations": {}}}}},
        {"spec": {"template": {"spec": {"containers": []}}}},
    ]
    rollout = {"kind": "Rollout", "metadata": {"name": "a"}}
    for new, old in itertools.product(bare, [None, *bare]):
        request = request_for(rollout | new, None if old is None else rollout | old)
        assert len(called(scoped, request)) == (scope == "cluster")


@pytest.mark.parametrize("old", [False, True], ids=["CREATE", "UPDATE"])
@pytest.mark.parametrize("labelled", [False, True])
@pytest.mark.parametrize("where", NAMESPACES)
def test_a_namespace_is_sent_where_it_is_in_scope_and_lacks_the_load_balancers_label(
    scope: str, where: str, *, labelled: bool, old: bool
) -> None:
    """With `awsReadinessGates`, against the words of the namespace itself."""
    webhooks = configuration({"scope": scope, "awsReadinessGates": True})
    labels = NAMESPACES[where] | ({AWS: "disabled"} if labelled else {})
    labels = {"kubernetes.io/metadata.name": "shop", **labels}
    namespace = {"metadata": {"name": "shop", "labels": labels}}
    request = Request("", "namespaces", None, labels, namespace, namespace if old else None)
    in_scope = where == "enabled" or (scope == "cluster" and where != "disabled")
    assert len(called(webhooks, request)) == (in_scope and not labelled)


def test_no_namespace_is_sent_unless_readiness_gates_are_switched_on(scope: str) -> None:
    """The entry is there only where the configuration says so."""
    names = [each["name"] for each in configuration({"scope": scope})["webhooks"]]
    assert names == ["in-scope.seamless-rollouts.dev", "elsewhere.seamless-rollouts.dev"]


def test_the_entries_answer_as_the_contract_says() -> None:
    """What an outage costs is settled here: Ignore, three seconds, no side effects."""
    for webhook in configuration({"awsReadinessGates": True}, BY_DEFAULT)["webhooks"]:
        assert webhook["failurePolicy"] == "Ignore"
        assert webhook["timeoutSeconds"] == 3
        assert webhook["reinvocationPolicy"] == "IfNeeded"
        assert webhook["matchPolicy"] == "Equivalent"
        assert webhook["sideEffects"] == "None"
        assert webhook["admissionReviewVersions"] == ["v1"]


def test_no_condition_needs_more_than_a_1_28_api_server_compiles() -> None:
    """Optional fields (`a.?b`) came too late, and what does not compile cannot be installed."""
    for webhook in configuration({"awsReadinessGates": True})["webhooks"]:
        for condition in webhook["matchConditions"]:
            assert "?" not in condition["expression"]


# --- the entry for namespaces in scope, with and without its conditions ---------------------------


@pytest.mark.parametrize(
    ("webhook", "there"),
    [
        ({}, False),
        ({"matchConditions": "auto"}, False),
        ({"matchConditions": "always"}, True),
        ({"failurePolicy": "Fail"}, True),
        ({"failurePolicy": "Fail", "matchConditions": "auto"}, True),
        ({"failurePolicy": "Fail", "matchConditions": "always"}, True),
    ],
    ids=str,
)
def test_conditions_on_what_is_in_scope_are_there_where_they_protect_or_are_asked_for(
    scope: str, webhook: Manifest, *, there: bool
) -> None:
    """Under Fail a workload that is switched off must not depend on the webhook."""
    values = {"scope": scope, "awsReadinessGates": True}
    found = configuration(values, webhook)["webhooks"]
    full = configuration(values)["webhooks"]
    policy = webhook.get("failurePolicy", "Ignore")
    assert {each["failurePolicy"] for each in found} == {policy}
    assert ("matchConditions" in found[0]) == there
    expected = [each | {"failurePolicy": policy} for each in full]
    if not there:
        del expected[0]["matchConditions"]
    assert found == expected  # the other entries keep theirs, and nothing else is another


def assorted() -> Iterator[dict[str, Any]]:
    """Build what conditions tell apart: words, records, kinds, what leaves, what only refers."""
    for above, below, record in itertools.product(WORDS, WORDS, ["", "workload", "template"]):
        yield workload(above, below, record=record)
    for kind in KINDS.values():
        for words, record in itertools.product(WORDS, ["", "workload", "template"]):
            yield workload(words, record=record, kind=kind)
            leaving = workload(words, record=record, kind=kind)
            leaving["metadata"]["deletionTimestamp"] = "2026-01-01T00:00:00Z"
            yield leaving
            bare = workload(words, record=record, kind=kind)
            bare["metadata"]["deletionTimestamp"] = "2026-01-01T00:00:00Z"
            del bare["spec"]["template"]
            yield bare
    for words, record in itertools.product(WORDS, ["", "workload"]):
        referring = workload(words, record=record, kind=KINDS["Rollout"])
        referring["spec"]["workloadRef"] = {"kind": "Deployment", "name": "a"}
        yield referring
        del referring["spec"]["template"]
        yield referring


BAD: Final = {"pre-stop-sleep": "soon", "min-readi": "5s"}


@pytest.mark.parametrize("settings", [{}, BAD], ids=["no settings", "bad settings"])
@pytest.mark.parametrize("before", ["none", "nothing", "a label enabled", "a label disabled"])
def test_what_the_conditions_keep_away_gets_no_answer_but_yes(
    scope: str, scoped: Manifest, by_default: Manifest, before: str, settings: dict[str, str]
) -> None:
    """Allowed, and unpatched; of a bad setting there is a warning, no more."""
    labels = NAMESPACES["enabled"]
    old = None if before == "none" else workload(before)
    kept_away = set()
    for new in assorted():
        given = new | {"metadata": {**new["metadata"], "annotations": dict(annotations_of(new))}}
        given["metadata"]["annotations"] |= builders.settings(settings)
        request = request_for(given, old and old | {"kind": given["kind"]}, labels=labels)
        assert called(by_default, request) == [IN_SCOPE]
        if called(scoped, request):
            continue
        judge = judge_of(request, scope)
        response = builders.response(given, request.old, judge, namespace="shop")
        warnings = response.pop("warnings", [])
        reason = response.pop("auditAnnotations")["skipped"]
        assert response == {"uid": response["uid"], "allowed": True}, given
        assert all("skipped" in each for each in warnings), given
        assert bool(warnings) == (reason == "disabled" and says_nonsense(given)), given
        kept_away.add(reason)
    assert kept_away == {"disabled", "deleting", "workload-ref"}


def annotations_of(given: dict[str, Any]) -> dict[str, str]:
    """Give the annotations of a workload."""
    found: dict[str, str] = given["metadata"].get("annotations", {})
    return found


def says_nonsense(given: dict[str, Any]) -> bool:
    """Tell whether a workload bears a setting, or a word, that means nothing."""
    text = orjson.dumps(given).decode()
    return any(each in text for each in (*BAD, f'"{INJECT}":"yes"'))


def test_what_is_disabled_and_bears_a_record_gives_it_back_with_or_without_conditions(
    scope: str, scoped: Manifest, by_default: Manifest
) -> None:
    """It is sent either way, and comes out as its user wrote it."""
    plain = builders.deployment(says={"inject": "disabled"})
    treated = builders.after(builders.deployment())
    leaving = builders.with_settings(treated, inject="disabled")
    request = request_for(leaving, treated, labels=NAMESPACES["enabled"])
    assert called(scoped, request) == called(by_default, request) == [IN_SCOPE]
    by = judge_of(request, scope)
    assert builders.canonical(builders.after(leaving, treated, by=by)) == builders.canonical(plain)


def test_elsewhere_is_the_same_with_or_without_conditions_on_what_is_in_scope(
    scope: str, scoped: Manifest, by_default: Manifest
) -> None:
    """Its conditions choose by annotations, which no selector can."""
    where = NAMESPACES["silent" if scope == "opt-in" else "disabled"]
    for new in assorted():
        request = request_for(new, labels=where)
        assert called(scoped, request) == called(by_default, request)


# --- what is excluded by pattern -----------------------------------------------------------------

OWNER: Final = {"apiVersion": "db.example/v1", "kind": "Database", "name": "db", "uid": "1"}
CORE_OWNER: Final = {"apiVersion": "v1", "kind": "Node", "name": "n", "uid": "2"}
EXCLUDED: Final[dict[str, Manifest]] = {
    "namespaces": {"excludedNamespaces": ["payments", "openshift-*", "*-system", "a*b*c"]},
    "a name": {"exclude": [{"name": "db"}]},
    "names by pattern": {"exclude": [{"name": "db-*"}, {"name": "*.v1"}, {"name": "a*b*c"}]},
    "a kind": {"exclude": [{"kind": "Daemon*"}]},
    "a name in a namespace": {"exclude": [{"namespace": "openshift-*", "name": "db"}]},
    "an owner": {"exclude": [{"owner": "db.example/Database"}]},
    "owners by pattern": {"exclude": [{"owner": "*.example/Data*"}]},
    "owners of any group": {"exclude": [{"owner": "*/Node"}]},
    "owners of the core group": {"exclude": [{"owner": "/Node"}]},
    "any owner": {"exclude": [{"owner": "*/*"}]},
    "a label": {"exclude": [{"labels": {"example.com/managed-by": "operator"}}]},
    "two items of one label": {"exclude": [{"labels": {"a": "1"}}, {"labels": {"a": "2"}}]},
    "a label by pattern": {"exclude": [{"labels": {"example.com/managed-by": "op*"}}]},
    "labels by pattern of the key": {"exclude": [{"labels": {"example.com/*": "*"}}]},
    "two labels at once": {"exclude": [{"labels": {"a": "1", "b": "2"}}]},
    "everything at once": {
        "exclude": [
            {
                "namespace": "s*p",
                "kind": "Deployment",
                "name": "db*",
                "owner": "db.example/*",
                "labels": {"a": "*", "b": "2"},
            }
        ]
    },
}
PLACES: Final = ("shop", "payments", "openshift-dns", "openshift", "gate-system", "abc", "acb")
LABELS: Final[tuple[dict[str, str], ...]] = (
    {},
    {"example.com/managed-by": "operator"},
    {"example.com/managed-by": "opera"},
    {"a": "1"},
    {"a": "2", "b": "2"},
    {"a": "1", "b": "2"},
)


def excluded_or_not() -> Iterator[tuple[str, dict[str, Any]]]:
    """Build workloads that differ in what exclusions ask about, each with a namespace."""
    names = ({"name": "db"}, {"name": "db-1"}, {"name": "a.v1"}, {"generateName": "db-"}, {})
    owners = ([], [OWNER], [CORE_OWNER], [CORE_OWNER, OWNER])
    for name, owned, labels, kind in (
        *itertools.product(names, owners, LABELS[-1:], ("Deployment",)),
        *itertools.product(names[:1], owners[:2], LABELS, ("Deployment", "DaemonSet")),
    ):
        new = workload(kind=KINDS[kind])
        new["metadata"] = {**name, "annotations": {INJECT: "enabled"}}
        if labels:
            new["metadata"]["labels"] = labels
        if owned:
            new["metadata"]["ownerReferences"] = owned
        yield "shop", new
    for place in PLACES:
        new = workload("an annotation enabled")
        new["metadata"]["name"] = "db"
        yield place, new


@pytest.mark.parametrize("webhook", [BY_DEFAULT, ALWAYS], ids=str)
@pytest.mark.parametrize("excluded", EXCLUDED)
def test_the_api_server_sends_just_what_the_webhook_does_not_exclude(
    scope: str, excluded: str, webhook: Manifest
) -> None:
    """Selectors and conditions on one side, the webhook's own matching on the other."""
    values = EXCLUDED[excluded]
    webhooks = configuration({"scope": scope, **values}, webhook)
    sent = set()
    for labels in (NAMESPACES["silent"], NAMESPACES["enabled"]):
        for place, new in excluded_or_not():
            request = request_for(new, namespace=place, labels=labels)
            entries = called(webhooks, request)
            assert len(entries) == wanted(request, scope, values), (place, new)
            sent.add(bool(entries))
    assert sent == {True, False}  # nothing and everything excluded would prove little


@pytest.mark.parametrize("excluded", [each for each in EXCLUDED if each != "namespaces"])
def test_an_excluded_workload_is_not_sent_for_its_record(scope: str, excluded: str) -> None:
    """Outside the exclusions alone a record brings a workload to the webhook."""
    values = EXCLUDED[excluded]
    webhooks = configuration({"scope": scope, **values}, BY_DEFAULT)
    for place, new in excluded_or_not():
        new["metadata"].setdefault("annotations", {})[RECORD] = A_RECORD
        request = request_for(new, new, namespace=place, labels=NAMESPACES["enabled"])
        assert len(called(webhooks, request)) == wanted(request, scope, values), (place, new)


@pytest.mark.parametrize(
    ("values", "costs"),
    [
        ({"excludedNamespaces": ["payments"]}, False),
        (EXCLUDED["a label"], False),
        (EXCLUDED["two items of one label"], False),
        ({"excludedNamespaces": ["openshift-*"]}, True),
        (EXCLUDED["two labels at once"], True),
        (EXCLUDED["a label by pattern"], True),
        (EXCLUDED["an owner"], True),
    ],
    ids=str,
)
def test_only_what_no_selector_can_tell_costs_conditions(values: Manifest, *, costs: bool) -> None:
    """Names of namespaces and single labels are told by selectors: no copy for CEL."""
    in_scope = configuration(values, BY_DEFAULT)["webhooks"][0]
    assert ("matchConditions" in in_scope) == costs


def test_a_namespace_excluded_by_pattern_gets_no_label_of_the_load_balancer() -> None:
    """Its own entry judges by the name of the Namespace itself."""
    values = {"awsReadinessGates": True, "scope": "cluster", "excludedNamespaces": ["openshift-*"]}
    for name, sent in (("openshift-dns", False), ("shop", True)):
        labels = {"kubernetes.io/metadata.name": name}
        namespace = {"metadata": {"name": name, "labels": labels}}
        request = Request("", "namespaces", None, labels, namespace)
        assert bool(called(configuration(values), request)) == sent
