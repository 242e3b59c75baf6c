"""Contract §5: answers."""

from __future__ import annotations

import copy
import dataclasses
import logging
from typing import Any

import orjson
import pytest

from tests.builders import (
    DEFAULT,
    KINDS,
    NATIVE_30,
    Json,
    admission,
    after,
    answer,
    apply,
    changed,
    codes,
    container,
    decide,
    deployment,
    hooks,
    namespaces,
    operations_of,
    response,
    review,
    rolling,
    template_changed,
    template_of,
    with_settings,
    worker,
    workload,
)
from webhook.decision.admission import Admission
from webhook.decision.configuration import Configuration, decided_by
from webhook.decision.mutations import MUTATIONS
from webhook.decision.review import SPEAKER

AUDIT = admission({"mode": "audit"})


@pytest.mark.parametrize("kind", KINDS)
def test_the_answer_bears_the_request_s_uid_and_a_patch(kind: str) -> None:
    """A JSON Patch in base64, that makes the decided object."""
    given = workload(kind)
    found = response(given, uid="a-uid")
    assert found["uid"] == "a-uid"
    assert found["allowed"] is True
    assert found["patchType"] == "JSONPatch"
    assert apply(given, operations_of(found)) == after(given)


@pytest.mark.parametrize(
    ("given", "old"),
    [
        (deployment(worker()), None),
        (deployment(says={"inject": "disabled"}), None),
        (after(deployment()), None),
        (after(deployment()), after(deployment())),
    ],
)
def test_there_is_no_patch_where_there_is_nothing_to_change(given: Json, old: Json | None) -> None:
    """Not an empty one either."""
    found = response(given, old)
    assert found["allowed"] is True
    assert "patch" not in found
    assert "patchType" not in found


# --- bad settings --------------------------------------------------------------------------------

BAD: list[tuple[str, Json]] = [
    ("min-ready", {"says": {"min-ready": "soon"}}),
    ("min-ready", {"template_says": {"min-ready": "soon"}}),
    ("inject", {"says": {"inject": "yes"}}),
    ("inject", {"labels": {"inject": "true"}}),
    ("inject", {"template_labels": {"inject": ""}}),
    ("inject", {"template_says": {"inject": "none"}}),
    ("unknown", {"says": {"unknown": "1"}}),
    ("unknown", {"template_says": {"unknown": "1"}}),
    ("pre-stop-sleeep", {"says": {"pre-stop-sleeep": "1"}}),
]


@pytest.mark.parametrize(("name", "bad"), BAD)
def test_a_bad_setting_is_refused_on_create(name: str, bad: Json) -> None:
    """`allowed: false`, 422, saying which, what it was and what is expected."""
    found = response(deployment(**bad))
    assert found["allowed"] is False
    assert found["status"]["code"] == 422
    message = found["status"]["message"]
    assert name in message
    (value,) = next(iter(bad.values())).values()
    assert f'"{value}"' in message
    assert "patch" not in found
    assert "\n" not in message
    assert found["auditAnnotations"]["skipped"]


def test_a_misspelt_setting_is_told_the_right_name() -> None:
    """A message that helps."""
    message = response(deployment(says={"pre-stop-sleeep": "1"}))["status"]["message"]
    assert "did you mean pre-stop-sleep?" in message


@pytest.mark.parametrize(("name", "bad"), BAD)
def test_a_bad_setting_that_was_there_already_is_skipped_with_a_warning(
    name: str, bad: Json
) -> None:
    """And the next layer holds."""
    given = deployment(**bad)
    decision = decide(changed(given, "spec", "replicas", to=9), given)
    assert not decision.refused
    assert "invalid-setting" in codes(decision)
    assert any(name in alert.text for alert in decision.alerts)
    assert decision.result["spec"]["minReadySeconds"] == 30


@pytest.mark.parametrize(("name", "bad"), BAD)
def test_a_bad_setting_that_an_update_brings_or_changes_is_refused(name: str, bad: Json) -> None:
    """Brought by this request, or another bad value than before."""
    plain = deployment()
    assert decide(deployment(**bad), plain).refused
    ((place, said),) = bad.items()
    worse = deployment(**{place: {key: f"{value}!" for key, value in said.items()}})
    (problem,) = decide(worse, deployment(**bad)).refused
    assert name in str(problem)


def test_of_several_bad_settings_only_the_new_ones_are_refused() -> None:
    """The old one draws its warning when the rest is right."""
    old = deployment(says={"min-ready": "soon"})
    sent = with_settings(old, strategy="fast")
    (problem,) = decide(sent, old).refused
    assert problem.name == "strategy"


def test_a_bad_setting_that_moves_to_another_place_is_brought() -> None:
    """From the workload to its template."""
    old = deployment(says={"min-ready": "soon"})
    assert decide(deployment(template_says={"min-ready": "soon"}), old).refused


def test_the_next_layer_holds_for_a_skipped_setting() -> None:
    """Template, namespace, configuration in turn."""
    by = admission({"defaults": {"min-ready": "11s"}, "invalidSettings": "warn"})
    given = deployment(says={"min-ready": "soon"})
    assert after(given, by=by)["spec"]["minReadySeconds"] == 11
    given = deployment(says={"min-ready": "soon"}, template_says={"min-ready": "12s"})
    assert after(given, by=by)["spec"]["minReadySeconds"] == 12
    given = deployment(says={"inject": "soon"}, template_says={"inject": "disabled"})
    assert decide(given, by=by).operations == ()


def test_an_inherited_bad_setting_is_skipped_with_a_warning() -> None:
    """A namespace must not be able to block every deployment in it."""
    said = {"min-ready": "soon", "unknown": "1"}
    by = admission({"defaults": {"min-ready": "11s"}}, namespace=namespaces(**said))
    decision = decide(deployment(), by=by)
    assert not decision.refused
    assert decision.result["spec"]["minReadySeconds"] == 11
    assert [alert.code for alert in decision.alerts] == ["invalid-setting"] * 2


WITH_RECORD = after(deployment())
NEVER: list[tuple[str, Json, Json | None, Any]] = [
    ("audit mode", deployment(says={"min-ready": "soon"}), None, AUDIT),
    (
        "disabled",
        deployment(says={"min-ready": "soon", "inject": "disabled"}),
        None,
        DEFAULT,
    ),
    (
        "disabled on the template",
        deployment(says={"min-ready": "soon"}, template_says={"inject": "disabled"}),
        None,
        DEFAULT,
    ),
    (
        "out of scope",
        deployment(says={"min-ready": "soon"}),
        None,
        admission(namespace=namespaces({})),
    ),
    ("a rollback", with_settings(WITH_RECORD, min_ready="soon"), deployment(worker()), DEFAULT),
    (
        "a rollback with a bad template",
        with_settings(WITH_RECORD, template=True, min_ready="soon"),
        deployment(worker()),
        DEFAULT,
    ),
    ("created with a record", with_settings(WITH_RECORD, min_ready="soon"), None, DEFAULT),
    (
        "only warned",
        deployment(says={"min-ready": "soon", "unknown": "1", "inject": "maybe"}),
        None,
        admission({"invalidSettings": "warn"}),
    ),
]


@pytest.mark.parametrize(
    ("given", "old", "by"), [row[1:] for row in NEVER], ids=[row[0] for row in NEVER]
)
def test_these_are_never_refused(given: Json, old: Json | None, by: Any) -> None:
    """They are told instead."""
    found = response(given, old, by)
    assert found["allowed"] is True
    assert any("min-ready" in warning for warning in found["warnings"])


def test_a_bad_setting_that_is_added_to_a_treated_workload_is_refused() -> None:
    """Its template did not come with this request: it is no rollback."""
    assert decide(with_settings(WITH_RECORD, min_ready="soon"), WITH_RECORD).refused


def test_a_refusal_stays_short_however_much_is_wrong() -> None:
    """A message is for reading."""
    given = deployment(says={f"setting-{number}": "x" * 1000 for number in range(200)})
    message = response(given)["status"]["message"]
    assert len(message) < 10_000
    assert "setting-" in message


# --- audit mode ----------------------------------------------------------------------------------


@pytest.mark.parametrize("kind", KINDS)
def test_audit_mode_decides_and_warns_and_patches_nothing(kind: str) -> None:
    """The same decision, with what it would have been."""
    given = workload(kind, container(readinessProbe=None))
    found = response(given, by=AUDIT)
    assert found["allowed"] is True
    assert "patch" not in found
    assert found["warnings"]
    assert "pre-stop-sleep" in found["auditAnnotations"]["skipped"]
    decision = answer(given, by=AUDIT).decision
    assert decision is not None
    assert decision.operations


def test_audit_mode_leaves_namespaces_alone_too() -> None:
    """No label either."""
    given = {"metadata": {"name": "shop", "labels": {"seamless-rollouts.dev/inject": "enabled"}}}
    by = admission({"mode": "audit", "awsReadinessGates": True})
    kind = {"group": "", "version": "v1", "kind": "Namespace"}
    assert "patch" not in response(given, by=by, kind=kind, namespace="shop")


# --- audit annotations ---------------------------------------------------------------------------


def test_audit_annotations_name_the_settings_that_were_applied() -> None:
    """By their names."""
    says = {"precheck": "db:1", "readiness-gates": "a", "strategy": "surge"}
    given = deployment(says=says, **rolling(maxUnavailable=1))
    applied = response(given)["auditAnnotations"]["applied"].split(", ")
    assert set(applied) == {"pre-stop-sleep", "min-ready", *says}
    assert set(applied) <= set(DEFAULT.table)


def test_audit_annotations_name_them_on_a_kept_template_too() -> None:
    """What the result bears."""
    stored = after(deployment())
    found = response(changed(stored, "spec", "replicas", to=9), stored)
    assert set(found["auditAnnotations"]["applied"].split(", ")) == {"pre-stop-sleep", "min-ready"}


@pytest.mark.parametrize(
    ("given", "more"),
    [
        (deployment(worker()), {}),
        (deployment(says={"inject": "disabled"}), {}),
        (deployment(), {"subResource": "status"}),
        (deployment(), {"operation": "DELETE"}),
        (deployment(metadata={"namespace": "kube-system"}), {}),
        (deployment(metadata={"deletionTimestamp": "now"}), {}),
        (deployment(says={"min-ready": "0", "pre-stop-sleep": "0"}), {}),
    ],
)
def test_audit_annotations_say_why_nothing_was_applied(given: Json, more: Json) -> None:
    """Always one of the two."""
    annotations = response(given, **more)["auditAnnotations"]
    assert set(annotations) == {"skipped"}
    assert annotations["skipped"]
    assert all(isinstance(value, str) for value in annotations.values())


# --- all or nothing ------------------------------------------------------------------------------


def failing(position: int, *, settles: bool = False) -> Any:
    """Make an admission of which one mutation raises once others have written."""

    def fail(*_given: Any) -> None:
        message = "a secret from inside"
        raise RuntimeError(message)

    mutations = list(MUTATIONS)
    field = "settle" if settles else "apply"
    mutations[position] = dataclasses.replace(mutations[position], **{field: fail})
    return admission(mutations=mutations)


@pytest.mark.parametrize("position", range(len(MUTATIONS)))
@pytest.mark.parametrize("settles", [False, True])
def test_an_unexpected_error_discards_the_whole_patch(
    position: int,
    settles: bool,  # noqa: FBT001 - a table's column
    caplog: pytest.LogCaptureFixture,
) -> None:
    """Allowed, with a warning and a log line with the stack; the answer tells nothing of it."""
    by = failing(position, settles=settles)
    given = with_settings(after(deployment()), inject="disabled") if settles else deployment()
    with caplog.at_level(logging.ERROR):
        found = answer(given, by=by)
    content = orjson.loads(found.body)["response"]
    assert found.status == 200
    assert content["allowed"] is True
    assert "patch" not in content
    assert len(content["warnings"]) == 1
    assert content["auditAnnotations"] == {"skipped": "error"}
    assert b"secret" not in found.body
    assert b"Traceback" not in found.body
    assert found.decision is not None
    assert found.decision.skipped == "error"
    (record,) = caplog.records
    assert record.exc_info is not None
    assert "secret" in (caplog.text)


def test_an_error_while_a_namespace_is_looked_up_is_no_other() -> None:
    """Nothing on the path may hurt a deployment."""

    def fail(_name: str) -> None:
        raise KeyError

    found = answer(deployment(), by=admission(namespace=lambda _: fail))
    assert orjson.loads(found.body)["response"]["allowed"] is True


# --- bodies --------------------------------------------------------------------------------------

NO_REVIEWS: list[Any] = [
    b"",
    b" ",
    b"null",
    b"[]",
    b"{}",
    b"5",
    b'"text"',
    b"{",
    b"\xff\xfe",
    b"\x00",
    b'{"a":NaN}',
    b"<html>",
    b"[" * 100_000,
    {"apiVersion": "admission.k8s.io/v1", "kind": "AdmissionReview"},
    {"apiVersion": "admission.k8s.io/v1", "kind": "AdmissionReview", "request": None},
    {"apiVersion": "admission.k8s.io/v1", "kind": "AdmissionReview", "request": {}},
    {**review(deployment()), "apiVersion": "admission.k8s.io/v1beta1"},
    {**review(deployment()), "kind": "AdmissionReviews"},
    {**review(deployment()), "kind": None},
    review(deployment(), uid=None),
    review(deployment(), uid=""),
    review(deployment(), uid=...),
    review(deployment(), uid=5),
    review(deployment(), kind=None),
    review(deployment(), kind="Deployment"),
    review(deployment(), kind={}),
    review(deployment(), operation=None),
    review(deployment(), operation=...),
]


@pytest.mark.parametrize("body", NO_REVIEWS, ids=lambda body: ascii(body)[:40])
def test_a_body_that_is_no_admission_review_is_answered_with_400(body: Any) -> None:
    """In a line of text, without a stack."""
    found = DEFAULT.answer(body if isinstance(body, bytes) else orjson.dumps(body))
    assert found.status == 400
    assert found.body
    assert b"\n" not in found.body
    assert b"Traceback" not in found.body
    assert len(found.body) < 1000
    assert found.decision is None


@pytest.mark.parametrize(
    "more",
    [
        {"namespace": None},
        {"namespace": ...},
        {"name": None},
        {"oldObject": ...},
        {"options": ...},
        {"dryRun": ...},
        {"userInfo": ...},
        {"resource": ...},
        {"newField": {"a": 1}},
        {"requestKind": {"group": "extensions", "version": "v1beta1", "kind": "Deployment"}},
    ],
)
def test_what_a_review_may_lack_or_add_does_no_harm(more: Json) -> None:
    """A newer API server adds fields."""
    found = response(deployment(), **more)
    assert operations_of(found)


@pytest.mark.parametrize("given", [None, [], "text", 5, True, {}, {"metadata": None}])
def test_an_object_that_is_no_workload_is_allowed_unpatched(given: Any) -> None:
    """It is the API server's to refuse."""
    kind = {"group": "apps", "version": "v1", "kind": "Deployment"}
    found = response(given, kind=kind)
    assert found["allowed"] is True
    assert "patch" not in found
    assert found["auditAnnotations"]["skipped"] != "error"


@pytest.mark.parametrize("old", [None, [], "text", {}, {"spec": 5}, {"metadata": []}])
def test_an_update_whose_old_object_is_none_is_decided_all_the_same(old: Any) -> None:
    """As if nothing had been there."""
    found = response(deployment(), old, operation="UPDATE")
    assert found["allowed"] is True
    assert found["auditAnnotations"].get("skipped") != "error"


def test_nothing_of_the_request_is_ever_written_to() -> None:
    """The decision is pure: the same request, the same answer."""
    given = deployment(says={"precheck": "db:1", "readiness-gates": "a"})
    before = copy.deepcopy(given)
    first, second = answer(given), answer(given)
    assert first.body == second.body
    assert given == before


def test_a_patch_touches_only_what_is_written() -> None:
    """Every operation lies under a field of ours, or a record."""
    for each in decide(deployment()).operations:
        assert each["path"].startswith(
            (
                "/spec/template/spec/containers/0/lifecycle",
                "/spec/template/spec/terminationGracePeriodSeconds",
                "/spec/template/metadata/annotations",
                "/spec/minReadySeconds",
                "/metadata/annotations",
            )
        ), each


def test_decisions_do_not_depend_on_those_before() -> None:
    """Caches are nobody's memory."""
    first = decide(deployment())
    decide(deployment(says={"pre-stop-sleep": "1s"}))
    decide(template_changed(deployment(), "containers", 0, "name", to="other"))
    again = decide(deployment())
    assert first.operations == again.operations
    assert hooks(again.result) == [NATIVE_30]
    assert template_of(first.result) == template_of(again.result)


@pytest.mark.parametrize("dry", [True, False])
@pytest.mark.parametrize(
    "manager", ["seamless-backfill", "seamless-backfill-no-restart", "kubectl"]
)
def test_what_decides_is_told_to_a_dry_run_of_a_backfill_alone(manager: str, *, dry: bool) -> None:
    """As its first warning, which no other one can push out; nobody else hears of it."""
    given = review(deployment(), dryRun=dry, options={"fieldManager": manager})
    admission = Admission(Configuration())
    answer = orjson.loads(admission.answer(orjson.dumps(given)).body)["response"]
    told = [each for each in answer.get("warnings", ()) if "decided by" in each]
    wanted = f"{SPEAKER}{decided_by(admission.digest)}"
    assert told == ([wanted] if dry and manager != "kubectl" else [])
    assert all(len(each) <= 120 for each in told)
