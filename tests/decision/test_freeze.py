"""Contract §4: never a rollout that nobody asked for."""

from __future__ import annotations

import copy
from typing import Any

import pytest

from tests.builders import (
    EXEC_QUIT,
    KINDS,
    NATIVE_30,
    OLD_SERVER,
    RECORD,
    Json,
    admission,
    after,
    canonical,
    changed,
    codes,
    container,
    decide,
    deployment,
    forged,
    grace,
    hooked,
    hooks,
    namespaces,
    record_of,
    response,
    template_changed,
    template_of,
    with_settings,
    worker,
    workload,
)

NEW_DEFAULTS = admission(
    {
        "defaults": {
            "pre-stop-sleep": "9s",
            "min-ready": "9s",
            "readiness-gates": "example.com/ready",
            "precheck": "db:5432",
            "strategy": "surge",
        }
    }
)
WITHDRAWN = admission(namespace=namespaces({}))


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("by", [NEW_DEFAULTS, WITHDRAWN, admission(server=OLD_SERVER)])
def test_the_template_stays_byte_for_byte_whatever_the_settings_now_say(kind: str, by: Any) -> None:
    """New defaults arrive, and a withdrawn opt-in leaves, with the next rollout."""
    stored = after(workload(kind))
    sent = changed(stored, "metadata", "labels", to={"a": "b"})
    decision = decide(sent, stored, by=by)
    assert decision.kept
    assert not decision.restarts
    assert canonical(template_of(decision.result)) == canonical(template_of(stored))
    rolled = template_changed(sent, "containers", 0, "image", to="new:2")
    decision = decide(rolled, stored, by=by)
    assert not decision.kept
    assert decision.restarts
    assert grace(decision.result) == {NEW_DEFAULTS: 39, WITHDRAWN: None}.get(by, 60)


def test_a_workload_from_before_the_webhook_is_not_rolled_by_a_scale() -> None:
    """What was never injected arrives with the next rollout."""
    old = deployment()
    decision = decide(changed(old, "spec", "replicas", to=9), old)
    assert decision.kept
    assert template_of(decision.result) == template_of(old)
    assert decision.result["spec"]["minReadySeconds"] == 30


@pytest.mark.parametrize("by", [admission(), NEW_DEFAULTS])
@pytest.mark.parametrize("kind", KINDS)
def test_a_put_without_our_fields_leaves_the_template_in_the_cluster_alone(
    kind: str, by: Any
) -> None:
    """`kubectl replace` drops what was injected, record included."""
    stored = after(workload(kind))
    decision = decide(workload(kind), stored, by=by)
    assert decision.kept
    assert not decision.restarts
    assert canonical(template_of(decision.result)) == canonical(template_of(stored))


IN_TEMPLATE_ONLY = {"defaults": {"min-ready": "none"}}


def test_a_put_without_our_fields_out_of_scope_leaves_the_template_alone_too() -> None:
    """Where no record lies on the workload, the old template's must still count."""
    stored = after(deployment(), by=admission(IN_TEMPLATE_ONLY))
    assert record_of(stored, template=False) is None
    by = admission(IN_TEMPLATE_ONLY, namespace=namespaces({}))
    decision = decide(changed(deployment(), "spec", "replicas", to=5), stored, by=by)
    assert decision.kept
    assert not decision.restarts
    assert canonical(template_of(decision.result)) == canonical(template_of(stored))


ACTING = {
    "pre-stop-sleep": "9s",
    "pre-stop-handler": "exec",
    "pre-stop-containers": "app",
    "pre-stop-existing": "chain",
    "shutdown-time": "90s",
    "readiness-gates": "example.com/ready",
    "precheck": "db:5432",
    "precheck-require": "any",
    "precheck-timeout": "5s",
    "readiness-probe": "tcp://:8080",
}


@pytest.mark.parametrize("name", ACTING)
@pytest.mark.parametrize("removed", [False, True])
def test_a_setting_on_the_workload_that_acts_on_its_template_is_asked_for(
    name: str,
    removed: bool,  # noqa: FBT001 - a table's column
) -> None:
    """Set, changed or removed: the template is decided afresh."""
    with_it = with_settings(deployment(hooked(EXEC_QUIT)), **{name: ACTING[name]})
    without = with_settings(with_it, **{name: None})
    old, sent = (with_it, without) if removed else (without, with_it)
    stored = after(old)
    sent = changed(stored, "metadata", "annotations", to=sent["metadata"].get("annotations") or {})
    decision = decide(sent, stored)
    assert not decision.kept
    expected = after(without if removed else with_it)
    assert canonical(template_of(decision.result)) == canonical(template_of(expected))


@pytest.mark.parametrize(
    ("name", "before", "now"),
    [("min-ready", "20s", "25s"), ("strategy", "keep", "surge"), ("min-ready", None, "0")],
)
def test_a_setting_that_acts_outside_the_template_restarts_nothing(
    name: str, before: str | None, now: str
) -> None:
    """New defaults stay away from the template meanwhile."""
    stored = after(with_settings(deployment(), **{name: before}))
    decision = decide(with_settings(stored, **{name: now}), stored, by=NEW_DEFAULTS)
    assert decision.kept
    assert template_of(decision.result) == template_of(stored)


def test_a_setting_spelt_otherwise_is_no_change() -> None:
    """`1m30s` and `90` say the same."""
    stored = after(deployment(says={"pre-stop-sleep": "1m30s"}))
    decision = decide(with_settings(stored, pre_stop_sleep="90"), stored, by=NEW_DEFAULTS)
    assert not decision.restarts


def test_other_annotations_on_the_workload_are_no_reason() -> None:
    """A note, a checksum, what `kubectl` writes."""
    stored = after(deployment())
    sent = changed(stored, "metadata", "annotations", "deployment.kubernetes.io/revision", to="2")
    assert decide(sent, stored, by=NEW_DEFAULTS).kept


def test_a_setting_on_the_template_is_part_of_the_template() -> None:
    """Changing it is a rollout that the user asks for."""
    stored = after(deployment())
    sent = with_settings(stored, template=True, pre_stop_sleep="9s")
    decision = decide(sent, stored)
    assert decision.restarts
    assert hooks(decision.result) == [{"sleep": {"seconds": 9}}]


@pytest.mark.parametrize(
    ("before", "now", "restarts"),
    [
        (None, "disabled", True),
        ("enabled", "disabled", True),
        ("disabled", None, True),
        ("disabled", "enabled", True),
        (None, "enabled", False),
        ("enabled", None, False),
    ],
)
def test_an_inject_that_changes_whether_it_is_in_scope_is_asked_for(
    before: str | None,
    now: str | None,
    restarts: bool,  # noqa: FBT001 - a table's column
) -> None:
    """One that does not is none: the namespace has opted in all along."""
    by = admission(namespace=namespaces())
    stored = after(with_settings(deployment(), inject=before), by=by)
    decision = decide(with_settings(stored, inject=now), stored, by=by)
    assert decision.restarts is restarts
    assert decision.kept is not restarts
    other = admission(NEW_DEFAULTS.configuration.model_dump(by_alias=True), namespace=namespaces())
    assert decide(with_settings(stored, inject=now), stored, by=other).kept is not restarts


def test_outside_the_template_a_withdrawn_opt_in_leaves_at_the_next_update() -> None:
    """Fields there never restart pods, and follow the settings."""
    stored = after(deployment(minReadySeconds=5))
    decision = decide(changed(stored, "spec", "replicas", to=9), stored, by=WITHDRAWN)
    assert decision.kept
    assert decision.result["spec"]["minReadySeconds"] == 5
    assert record_of(decision.result, template=False) is None
    assert record_of(decision.result, template=True) is not None


@pytest.mark.parametrize("manager", ["seamless-backfill", "seamless-revert"])
def test_our_own_field_managers_are_decided_afresh(manager: str) -> None:
    """Template included: moving it is what they are for."""
    old = deployment()
    options = {"options": {"fieldManager": manager}}
    decision = decide(old, old, **options)
    assert decision.restarts
    assert hooks(decision.result) == [NATIVE_30]
    stored = decision.result
    decision = decide(stored, stored, by=WITHDRAWN, **options)
    assert decision.restarts
    assert canonical(decision.result) == canonical(old)


@pytest.mark.parametrize(
    "options",
    [None, {}, [], "seamless-backfill", {"fieldManager": None}, {"fieldManager": ["x"]}, ...],
)
def test_any_other_field_manager_is_a_user_s(options: Any) -> None:
    """Whatever shape the options have."""
    old = deployment()
    assert decide(old, old, options=options).kept


@pytest.mark.parametrize(
    "change",
    [
        ("spec", "template", "metadata", "annotations", "kubectl.kubernetes.io/restartedAt"),
        ("spec", "template", "spec", "newField"),
        ("spec", "template", "metadata", "labels", "version"),
    ],
)
def test_any_change_of_the_template_is_a_rollout_that_somebody_asked_for(
    change: tuple[str, ...],
) -> None:
    """`kubectl rollout restart` among them: new defaults arrive."""
    stored = after(deployment())
    decision = decide(changed(stored, *change, to="2026"), stored, by=NEW_DEFAULTS)
    assert decision.restarts
    assert hooks(decision.result) == [{"sleep": {"seconds": 9}}]


def test_a_rollback_to_the_same_words_is_no_rollout() -> None:
    """Two revisions that differ by injections alone."""
    first = after(deployment(says={"pre-stop-sleep": "11s"}))
    second = after(with_settings(first, pre_stop_sleep="22s"), first)
    undone = changed(second, "spec", "template", to=template_of(first))
    decision = decide(undone, second)
    assert decision.kept
    assert template_of(decision.result) == template_of(second)


def test_a_forged_record_in_the_request_does_not_move_the_template() -> None:
    """It would take out what the user wrote: then the words have changed, and it is a rollout."""
    old = deployment(hooked(NATIVE_30))
    record = forged({"spec.containers[app].lifecycle.preStop": {"is": NATIVE_30}})
    sent = changed(old, "spec", "template", "metadata", "annotations", to={RECORD: record})
    decision = decide(sent, old)
    assert decision.restarts or decision.kept
    assert hooks(decision.result) == [NATIVE_30]


OFFLINE: list[Json] = [
    {"containers": [{"lifecycle": None}]},
    {"containers": [{"lifecycle": {"preStop": None}}]},
    {"containers": [{"readinessProbe": None}]},
    {"terminationGracePeriodSeconds": None},
    {"initContainers": None},
    {"initContainers": []},
    {"readinessGates": None},
    {"readinessGates": []},
]


def without_nulls(value: Any) -> Any:
    """Drop what a typed API server never stores: nulls, and lists that are empty."""
    if isinstance(value, dict):
        kept = {key: without_nulls(each) for key, each in value.items()}
        return {key: each for key, each in kept.items() if each is not None and each != []}
    return [without_nulls(each) for each in value] if isinstance(value, list) else value


@pytest.mark.parametrize("offline", OFFLINE, ids=str)
def test_a_manifest_that_was_patched_offline_is_not_rolled_for_its_nulls(offline: Json) -> None:
    """Its record says null where the API server has stored nothing."""
    says = {"readiness-gates": "a", "precheck": "db:1", "readiness-probe": "tcp://:8080"}
    given = deployment(says=says)
    container = template_of(given)["spec"]["containers"][0]
    container.pop("readinessProbe")
    for key, value in offline.items():
        if key == "containers":
            container |= value[0]
        else:
            template_of(given)["spec"][key] = value
    planned = after(given)
    stored = without_nulls(planned)
    stored_grace = template_of(stored)["spec"]
    stored_grace.setdefault("terminationGracePeriodSeconds", 30)
    put = without_nulls(given)
    template_of(put)["spec"].setdefault("terminationGracePeriodSeconds", 30)
    if offline.get("containers") == [{"lifecycle": {"preStop": None}}]:
        assert template_of(put)["spec"]["containers"][0].pop("lifecycle") == {}
    decision = decide(put, stored, by=NEW_DEFAULTS)
    assert decision.kept
    assert canonical(template_of(decision.result)) == canonical(template_of(stored))


# --- edits that are undone -----------------------------------------------------------------------

EVERYTHING = {
    "precheck": "db:5432",
    "readiness-gates": "a.example/x",
    "readiness-probe": "tcp://:8080",
}
BARE = worker("app", ports=[{"containerPort": 8080}])


def undone(decision: Any) -> set[str]:
    """Name the settings that are told to use instead."""
    texts = [each.text for each in decision.alerts if each.code == "edit-undone"]
    return {text.partition("set ")[2].partition(":")[0] for text in texts}


def edited(stored: Json, key: str) -> Json:
    """Take something injected out of the live object by hand."""
    result = copy.deepcopy(stored)
    pod = template_of(result)["spec"]
    if key in {"lifecycle", "readinessProbe"}:
        del pod["containers"][0][key]
    elif key == "terminationGracePeriodSeconds":
        pod[key] = 30
    elif key == "image":
        pod["initContainers"][0]["image"] = "mine:1"
    else:
        del pod[key]
    return result


@pytest.mark.parametrize(
    ("key", "setting"),
    [
        ("lifecycle", "pre-stop-sleep"),
        ("terminationGracePeriodSeconds", "pre-stop-sleep"),
        ("readinessGates", "readiness-gates"),
        ("initContainers", "precheck"),
        ("image", "precheck"),
        ("readinessProbe", "readiness-probe"),
    ],
)
def test_an_edit_that_is_undone_is_told_with_the_setting_to_use_instead(
    key: str, setting: str
) -> None:
    """And with that setting it is done."""
    stored = after(deployment(BARE, says=EVERYTHING))
    sent = edited(stored, key)
    decision = decide(sent, stored)
    assert decision.kept
    assert template_of(decision.result) == template_of(stored)
    assert undone(decision) == {setting}
    found = response(sent, stored)
    assert all(len(text) <= 120 for text in found["warnings"])
    assert any(f"{setting}: none" in text for text in found["warnings"])
    off = with_settings(sent, **{setting: "none"})
    decision = decide(off, stored)
    assert undone(decision) == set()
    assert not [each for each in decision.applied if each == setting]


def test_an_edit_of_a_container_with_the_longest_name_still_names_the_setting() -> None:
    """What is cut off a warning is its end."""
    stored = after(deployment(container("x" * 63)))
    sent = edited(stored, "lifecycle")
    assert any("pre-stop-sleep: none" in text for text in response(sent, stored)["warnings"])


def test_many_edits_are_told_once_for_each_setting() -> None:
    """Not for each container."""
    stored = after(deployment(*(container(f"c{number}") for number in range(50))))
    sent = copy.deepcopy(stored)
    for each in template_of(sent)["spec"]["containers"]:
        del each["lifecycle"]
    decision = decide(sent, stored)
    assert decision.kept
    assert [each.code for each in decision.alerts] == ["edit-undone"]


NOT_UNDONE: dict[str, Any] = {
    "a PUT of the user's manifest": lambda given, _: given,
    "a scale": lambda _, stored: changed(stored, "spec", "replicas", to=9),
    "nothing": lambda _, stored: stored,
    "the template's annotations dropped": lambda _, stored: changed(
        stored, "spec", "template", "metadata", "annotations", to=...
    ),
    "a label": lambda _, stored: changed(stored, "metadata", "labels", to={"a": "b"}),
    "an image": lambda _, stored: template_changed(stored, "containers", 0, "image", to="new:2"),
    "an edit with an image": lambda _, stored: template_changed(
        edited(stored, "lifecycle"), "containers", 0, "image", to="new:2"
    ),
}


@pytest.mark.parametrize("name", NOT_UNDONE)
def test_nothing_is_said_where_nothing_of_the_user_s_was_undone(name: str) -> None:
    """What they never wrote is put back silently."""
    given = deployment(BARE, says=EVERYTHING)
    stored = after(given)
    assert undone(decide(NOT_UNDONE[name](given, stored), stored)) == set()


def test_a_rollback_to_the_same_words_undoes_no_edit() -> None:
    """Its record is another: what differs was injected under other settings."""
    first = after(deployment(says={"pre-stop-sleep": "11s"}))
    second = after(with_settings(first, pre_stop_sleep="22s"), first)
    sent = changed(second, "spec", "template", to=template_of(first))
    decision = decide(sent, second)
    assert decision.kept
    assert undone(decision) == set()


def test_in_audit_mode_nothing_is_undone() -> None:
    """And nothing is said to be."""
    stored = after(deployment())
    assert (
        undone(decide(edited(stored, "lifecycle"), stored, admission({"mode": "audit"}))) == set()
    )


# --- warnings of an update that asks nothing -----------------------------------------------------

WARNED = deployment(
    container(readinessProbe=None), strategy={"type": "Recreate"}, says={"pre-stop-sleep": "5s"}
)
LENIENT = admission({"invalidSettings": "warn"})


@pytest.mark.parametrize(
    "change",
    [
        ("metadata", "labels", "a"),
        ("metadata", "annotations", "note"),
        ("metadata", "resourceVersion"),
        ("status",),
    ],
)
@pytest.mark.parametrize("by", [admission(), LENIENT, WITHDRAWN])
def test_an_update_that_changes_nothing_in_spec_brings_no_warnings(
    change: tuple[str, ...], by: Any
) -> None:
    """A label, a note, a resync: who sends it can mend nothing."""
    stored = after(with_settings(WARNED, nonsense="1"), None, LENIENT)
    assert {"recreate", "no-readiness-probe"} <= codes(decide(WARNED, None, by)) or by is WITHDRAWN
    sent = changed(stored, *change, to={"a": "b"} if change == ("status",) else "x")
    for request in (stored, sent):
        decision = decide(request, stored, by)
        assert not codes(decision)
        assert decision.situation is None or not decision.restarts


@pytest.mark.parametrize(
    "change",
    [
        {"spec": {"replicas": 9}},
        {"spec": {"minReadySeconds": 77}},
        {"spec": {"revisionHistoryLimit": 3}},
    ],
    ids=str,
)
def test_an_update_that_changes_the_spec_brings_them(change: Json) -> None:
    """Its author is at work on it."""
    stored = after(WARNED)
    sent = {**stored, "spec": {**stored["spec"], **change["spec"]}}
    assert {"recreate", "no-readiness-probe"} <= codes(decide(sent, stored))


def test_a_setting_that_this_update_brought_is_warned_of() -> None:
    """It asks something of us, though nothing in the spec."""
    stored = after(deployment())
    assert "no-such-container" in codes(
        decide(with_settings(stored, pre_stop_containers="gone"), stored)
    )
    assert "invalid-setting" in codes(decide(with_settings(stored, nonsense="1"), stored, LENIENT))


def test_a_backfill_is_told_what_is_wrong_with_a_workload_as_it_is() -> None:
    """So are status and the preview: they ask."""
    stored = after(WARNED)
    options = {"options": {"fieldManager": "seamless-backfill"}}
    assert "recreate" in codes(decide(stored, stored, **options))
