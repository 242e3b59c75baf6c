"""What nobody asks of a review stays as it came, and that makes no difference to anybody."""

from __future__ import annotations

from typing import Any, Final

import kubernetes_validate.utils as schemas
import msgspec
import orjson
import pytest
from hypothesis import given
from hypothesis import strategies as st

from tests.builders import (
    API_VERSIONS,
    DEFAULT,
    KINDS,
    RECORD,
    Json,
    admission,
    after,
    answer,
    canonical,
    changed,
    codes,
    decide,
    deployment,
    operations_of,
    pod_of,
    review,
    template_changed,
    workload,
)
from tests.decision import strategies as drawn
from tests.decision.validation import VERSIONS
from webhook.decision.admission import Decision
from webhook.decision.partial import alike, raw_of
from webhook.decision.review import (
    CONTAINER,
    OBJECT_META,
    POD_SPEC,
    WORKLOAD_SPEC,
    GroupVersionKind,
    Request,
    encode,
    read_old,
)

UNREAD_OF_CONTAINERS: Final = {
    "env": [{"name": "A", "value": "b"}],
    "envFrom": [{"configMapRef": {"name": "a"}}],
    "args": ["--a=1"],
    "resources": {"requests": {"cpu": "0.01"}},
    "securityContext": {"runAsNonRoot": True},
    "volumeMounts": [{"name": "data", "mountPath": "/data"}],
    "imagePullPolicy": "IfNotPresent",
    "tty": None,
}
UNREAD_OF_PODS: Final = {
    "affinity": {"nodeAffinity": {}},
    "tolerations": [{"operator": "Exists"}],
    "securityContext": {},
    "topologySpreadConstraints": [],
}


def bearing(kind: str = "Deployment", **more: Any) -> Json:
    """Give a workload that has much which nobody reads."""
    built = workload(kind, pod=UNREAD_OF_PODS, **more)
    pod_of(built)["containers"][0] |= UNREAD_OF_CONTAINERS
    built["metadata"]["managedFields"] = [{"manager": "kubectl"}]
    return {**built, "status": {"replicas": 3}}


def kinds_of_keys() -> dict[str, tuple[str, ...]]:
    """Tell which of our lists holds the keys of which type of Kubernetes."""
    apps = dict.fromkeys(
        (f"io.k8s.api.apps.v1.{kind}Spec" for kind in KINDS if kind != "Rollout"), WORKLOAD_SPEC
    )
    return {
        "io.k8s.apimachinery.pkg.apis.meta.v1.ObjectMeta": OBJECT_META,
        "io.k8s.api.core.v1.PodSpec": POD_SPEC,
        "io.k8s.api.core.v1.Container": CONTAINER,
        "io.k8s.api.core.v1.PodTemplateSpec": ("metadata", "spec"),
        **apps,
    }


def definitions(version: str) -> Json:
    """Give every type of a version of Kubernetes."""
    path = f"kubernetes-json-schema/v{version}.0-local/_definitions.json"
    return schemas.schema_contents(path, version)["$defs"]


@pytest.mark.parametrize("version", VERSIONS)
def test_every_key_that_kubernetes_writes_is_known(version: str) -> None:
    """One that is not would have the object decoded whole, each time."""
    known = definitions(version)
    for name, keys in kinds_of_keys().items():
        assert set(known[name]["properties"]) <= set(keys), name


def test_no_key_is_known_that_nobody_writes() -> None:
    """What no version of Kubernetes writes is Argo's."""
    written: dict[tuple[str, ...], set[str]] = {}
    for version in VERSIONS:
        known = definitions(version)
        for name, keys in kinds_of_keys().items():
            written.setdefault(keys, set()).update(known[name]["properties"])
    left = {key for keys, found in written.items() for key in set(keys) - found}
    assert left == {
        *("analysis", "progressDeadlineAbort", "restartAt", "rollbackWindow", "workloadRef")
    }


@pytest.mark.parametrize("kind", KINDS)
def test_what_is_not_read_stays_as_it_came_and_the_rest_is_plain(kind: str) -> None:
    """By the types alone: no other value is ever undecoded."""
    request = DEFAULT.decode(orjson.dumps(review(bearing(kind), bearing(kind))))
    (first,) = pod_of(request.object)["containers"]
    for holder, unread in ((pod_of(request.object), UNREAD_OF_PODS), (first, UNREAD_OF_CONTAINERS)):
        raw = {key for key, value in holder.items() if raw_of(value) is not None}
        assert raw == {key for key, value in unread.items() if value is not None}
    assert raw_of(request.object["status"]) is not None
    assert raw_of(request.object["metadata"]["managedFields"]) is not None
    assert canonical(request.object) == canonical(bearing(kind))
    assert request.old_object is not None
    assert canonical(request.old_object.template) == canonical(bearing(kind)["spec"]["template"])


# --- it makes no difference ----------------------------------------------------------------------


def pruned(node: Json, keys: tuple[str, ...]) -> None:
    """Take away what the API server would, too: fields that nobody has heard of."""
    for key in set(node) - set(keys):
        del node[key]


@st.composite
def known(draw: st.DrawFn) -> Json:
    """Draw a workload of nothing but known fields, much of it unread."""
    given_object = draw(drawn.workloads())
    pruned(given_object["spec"], WORKLOAD_SPEC)
    pod = pod_of(given_object)
    pruned(pod, POD_SPEC)
    pod |= draw(st.sampled_from([{}, UNREAD_OF_PODS]))
    for each in pod["containers"]:
        pruned(each, CONTAINER)
        each.update(draw(st.sampled_from([{}, UNREAD_OF_CONTAINERS])))
    return given_object


def decoded(content: Json) -> Request:
    """Make a request of the plain values, as commands do."""
    asked = content["request"]
    group, _, version = API_VERSIONS[asked["kind"]["kind"]].rpartition("/")
    return Request(
        uid=asked["uid"],
        kind=GroupVersionKind(group=group, version=version, kind=asked["kind"]["kind"]),
        operation=asked["operation"],
        name=asked["name"],
        namespace=asked["namespace"],
        object=asked["object"],
        old_object=None if asked["oldObject"] is None else read_old(asked["oldObject"]),
        options=asked["options"],
    )


def essence(decision: Decision) -> list[Any]:
    """Tell all that matters of a decision."""
    return [
        sorted(map(canonical, decision.operations)),  # their order is that of the keys
        canonical(decision.result),
        *(decision.alerts, decision.refused, decision.applied, decision.skipped),
        *(decision.kept, decision.restarts, decision.outcome),
    ]


@given(known(), known(), st.booleans(), st.sampled_from(["kubectl", "seamless-backfill"]))
def test_bytes_are_decided_as_plain_values_are(
    first: Json, second: Json, same: object, manager: str
) -> None:
    """For a workload that comes, that stays, and that changes."""
    stored = after(first)
    for sent, old in ((first, None), (first, stored), (stored if same else second, stored)):
        content = review(sent, old, options={"fieldManager": manager})
        by_bytes = DEFAULT.decide(DEFAULT.decode(orjson.dumps(content)))
        assert essence(by_bytes) == essence(DEFAULT.decide(decoded(content)))


def rewritten(stored: Json) -> bytes:
    """Write a review of an object that stays, with the old one spaced and sorted otherwise."""
    old = orjson.dumps(stored, option=orjson.OPT_INDENT_2 | orjson.OPT_SORT_KEYS)
    content = orjson.dumps(review(stored, {"old": "here"}))
    return content.replace(b'{"old":"here"}', old)


def test_a_template_that_is_only_written_otherwise_is_the_same() -> None:
    """The API server writes both alike; who else asks may not."""
    by = admission({"defaults": {"pre-stop-sleep": "5s"}})
    decision = by.decide(by.decode(rewritten(after(bearing()))))
    assert decision.kept
    assert not decision.restarts
    assert decision.operations == []


@pytest.mark.parametrize("key", sorted(UNREAD_OF_CONTAINERS))
def test_a_change_of_what_is_not_read_is_a_change_of_the_template(key: str) -> None:
    """So that a rollout which the user asked for brings what the settings say by then."""
    stored = after(bearing())
    sent = template_changed(stored, "containers", 0, key, to=["another"])
    decision = decide(sent, stored, by=admission({"defaults": {"pre-stop-sleep": "5s"}}))
    assert not decision.kept
    assert decision.restarts


@pytest.mark.parametrize("sides", ["new", "old", "both"])
def test_a_field_that_nobody_has_heard_of_changes_nothing_but_itself(sides: str) -> None:
    """An object that has one is decoded whole, and compared with one that is not."""
    stored = after(bearing())
    odd = template_changed(stored, "containers", 0, "newField", to=[1])
    new, old = {"new": (odd, stored), "old": (stored, odd), "both": (odd, odd)}[sides]
    by = admission({"defaults": {"pre-stop-sleep": "5s"}})
    decision = decide(new, old, by=by)
    assert decision.kept is (sides == "both")
    again = decide(changed(new, "metadata", "labels", to={"a": "b"}), new, by=by)
    assert again.kept
    assert again.operations == []


def test_a_template_that_is_put_back_is_made_of_what_came() -> None:
    """A PUT without our fields: of what is undecoded, nothing is in the patch."""
    stored = after(bearing())
    found = orjson.loads(answer(bearing(), stored).body)["response"]
    paths = {each["path"] for each in operations_of(found)}
    assert paths
    assert not any(key in path for key in UNREAD_OF_CONTAINERS for path in paths)


def test_what_is_undecoded_can_be_in_a_patch() -> None:
    """It is then what came."""
    value = {"env": msgspec.Raw(b'[{"name": "A"}]')}
    body = encode("1", operations=[{"op": "add", "path": "/a", "value": value}])
    (operation,) = operations_of(orjson.loads(body)["response"])
    assert operation["value"] == {"env": [{"name": "A"}]}


@pytest.mark.parametrize("wrong", [b"1e999", b'"\xff"', b'["\\x"]'])
def test_what_is_no_json_within_is_400_where_it_is_looked_at(wrong: bytes) -> None:
    """Else it is none of our business, and the API server sends none."""
    stored = template_changed(after(bearing()), "containers", 0, "args", to=["here"])
    body = orjson.dumps(review(stored, stored))
    head, seam, old = body.rpartition(b'["here"]')
    assert seam
    found = DEFAULT.answer(head + wrong + old)
    assert found.status == 400
    assert b"not JSON" in found.body


def test_an_odd_workload_warns_as_it_always_did() -> None:
    """Where a known field is not of its type, the object is decoded whole to say so."""
    given_object = template_changed(deployment(), "containers", 0, "ports", to="none")
    decision = DEFAULT.decide(DEFAULT.decode(orjson.dumps(review(given_object))))
    assert decision.skipped == "malformed"
    assert codes(decision) == {"malformed"}


@pytest.mark.parametrize(
    "odd",
    [
        {"template": {"metadata": [], "spec": {"containers": [{"name": "a"}]}}},
        {"template": {"spec": {"containers": [None]}}},
        {"template": "none"},
        [],
    ],
)
def test_of_an_odd_old_object_its_own_metadata_counts_all_the_same(odd: Any) -> None:
    """A custom resource's template may be anything; the record beside it is the cluster's."""
    stored = after(bearing("Rollout"))
    forged = changed(stored, "metadata", "annotations", RECORD, to="{}")
    decision = decide(forged, {**stored, "spec": odd})
    assert canonical(decision.result["metadata"]) == canonical(stored["metadata"])


@pytest.mark.parametrize(
    ("one", "other", "expected"),
    [
        (msgspec.Raw(b"[1, 2]"), msgspec.Raw(b"[1,2]"), True),
        (msgspec.Raw(b"[1, 2]"), [1, 2], True),
        ({"a": 1}, msgspec.Raw(b'{"a":1}'), True),
        ({"a": [msgspec.Raw(b"null")]}, {"a": [None]}, True),
        (msgspec.Raw(b"[1]"), msgspec.Raw(b"[2]"), False),
        ({"a": 1}, {"b": 1}, False),
        ({"a": 1}, {"a": 1, "b": 2}, False),
        ([1], [1, 2], False),
        ([{"a": msgspec.Raw(b"1")}], [{"a": 2}], False),
        ({}, [], False),
        (None, msgspec.Raw(b"0"), False),
    ],
)
def test_values_are_alike_whatever_of_them_is_decoded(
    one: Any, other: Any, expected: object
) -> None:
    """Either way round."""
    assert alike(one, other) is expected
    assert alike(other, one) is expected
