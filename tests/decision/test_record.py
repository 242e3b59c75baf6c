"""Contract §3: what was injected is known, and can be taken back."""

from __future__ import annotations

import copy
import json
from typing import Any

import pytest

from tests.builders import (
    EXEC_QUIT,
    HTTP_HOOK,
    KINDS,
    NATIVE_30,
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
    init_names,
    namespaces,
    pod_of,
    record_of,
    rolling,
    sidecar,
    template_changed,
    template_of,
    with_settings,
    worker,
    workload,
)

EVERYTHING = {
    "pre-stop-sleep": "20s",
    "pre-stop-existing": "chain",
    "shutdown-time": "50s",
    "min-ready": "580s",
    "readiness-gates": "example.com/ready",
    "precheck": "db:5432",
    "readiness-probe": "http://:8080/health",
    "strategy": "surge",
}


def everything(kind: str = "Deployment", **more: Any) -> Json:
    """Give a workload on which every mutation finds something to do."""
    spec = rolling(kind, maxUnavailable=1) if kind in {"Deployment", "DaemonSet"} else {}
    return workload(
        kind,
        worker("app", ports=[{"containerPort": 8080}]),
        hooked(EXEC_QUIT, "quits"),
        says=EVERYTHING,
        **{**spec, **more},
    )


@pytest.mark.parametrize("kind", KINDS)
def test_a_record_is_compact_json_with_a_version_and_sorted_keys(kind: str) -> None:
    """On the pod template for what lies in it, on the workload for what lies outside."""
    result = after(everything(kind))
    for template in (False, True):
        target = template_of(result) if template else result
        text = target["metadata"]["annotations"][RECORD]
        content = json.loads(text)
        compact = json.dumps(content, sort_keys=True, separators=(",", ":"), ensure_ascii=False)
        assert text == compact
        assert type(content["v"]) is int
    inside = record_of(result, template=True)
    outside = record_of(result, template=False)
    assert inside is not None
    assert outside is not None
    assert "spec.terminationGracePeriodSeconds" in inside["fields"]
    assert "spec.minReadySeconds" in outside["fields"]
    assert not set(inside["fields"]) & set(outside["fields"])


@pytest.mark.parametrize("kind", KINDS)
def test_disabled_restores_what_was_there_before_exactly(kind: str) -> None:
    """Of every mutation at once, and the record goes too."""
    given = everything(kind)
    stored = after(given)
    left = after(with_settings(stored, inject="disabled"), stored)
    assert canonical(left) == canonical(with_settings(given, inject="disabled"))


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("name", EVERYTHING)
def test_a_removed_setting_restores_what_was_there_before_exactly(kind: str, name: str) -> None:
    """As if it had never been set."""
    given = everything(kind)
    stored = after(given)
    assert canonical(after(with_settings(stored, **{name: "none"}), stored)) == canonical(
        after(with_settings(given, **{name: "none"}))
    )


@pytest.mark.parametrize("name", EVERYTHING)
def test_a_changed_setting_replaces_the_old_value(name: str) -> None:
    """The decision is always made from what the user wrote."""
    other = {
        "pre-stop-sleep": "25s",
        "pre-stop-existing": "keep",
        "shutdown-time": "55s",
        "min-ready": "570s",
        "readiness-gates": "example.com/other",
        "precheck": "mq:5672",
        "readiness-probe": "tcp://:8080",
        "strategy": "keep",
    }[name]
    given = everything()
    stored = after(given)
    assert canonical(after(with_settings(stored, **{name: other}), stored)) == canonical(
        after(with_settings(given, **{name: other}))
    )


@pytest.mark.parametrize("kind", KINDS)
def test_deciding_again_changes_nothing(kind: str) -> None:
    """As a new object, and as an update of itself."""
    stored = after(everything(kind))
    for old in (None, stored):
        decision = decide(stored, old)
        assert not decision.operations
        assert not decision.restarts


def test_with_nothing_injected_there_is_no_record() -> None:
    """Nor an annotations mapping that was not there."""
    given = deployment(hooked(HTTP_HOOK), says={"min-ready": "0"})
    assert after(given) == given


@pytest.mark.parametrize("annotations", [..., None, {}, {"a": "b"}])
@pytest.mark.parametrize("template", [False, True])
def test_annotations_come_back_as_they_were(
    annotations: Any,
    template: bool,  # noqa: FBT001 - a table's column
) -> None:
    """Absent, null, empty or filled."""
    given = deployment(says=None)
    target = template_of(given) if template else given
    if annotations is not ...:
        target["metadata"]["annotations"] = annotations
    stored = after(given)
    gone = after(stored, by=admission(namespace=namespaces({})))
    assert canonical(gone) == canonical(given)


# --- what the user has since changed -------------------------------------------------------------


@pytest.mark.parametrize(
    "own", [{"sleep": {"seconds": 29}}, EXEC_QUIT, HTTP_HOOK, {"sleep": {"seconds": 0}}]
)
def test_a_hook_that_the_user_put_in_place_of_ours_is_the_user_s(own: Json) -> None:
    """It leaves the record, and stays after opting out."""
    stored = after(deployment())
    sent = template_changed(stored, "containers", 0, "lifecycle", "preStop", to=own)
    result = after(sent, stored)
    assert hooks(result) == [own]
    left = after(with_settings(result, inject="disabled"), result)
    assert hooks(left) == [own]
    assert grace(left) is None


@pytest.mark.parametrize("own", [EXEC_QUIT, HTTP_HOOK, {"tcpSocket": {"port": 1}}])
def test_a_hook_that_a_merge_has_put_beside_ours_is_the_user_s_alone(own: Json) -> None:
    """Two handlers are refused (seen, by client-side and server-side apply alike)."""
    stored = after(deployment())
    sent = template_changed(
        stored, "containers", 0, "lifecycle", "preStop", to={**NATIVE_30, **own}
    )
    decision = decide(sent, stored)
    assert hooks(decision.result) == [own]
    assert decision.restarts
    left = after(with_settings(sent, inject="disabled"), stored)
    assert hooks(left) == [own]


def test_a_merged_hook_is_chained_where_that_is_asked() -> None:
    """From what the user wrote."""
    stored = after(deployment(says={"pre-stop-existing": "chain"}))
    sent = template_changed(
        stored, "containers", 0, "lifecycle", "preStop", to={**NATIVE_30, **EXEC_QUIT}
    )
    (hook,) = hooks(after(sent, stored))
    assert hook["exec"]["command"][-3:] == EXEC_QUIT["exec"]["command"]
    assert "sleep" not in hook


def test_a_value_that_the_user_s_manifest_has_come_to_say_counts_as_ours() -> None:
    """An unchanged one is ours: the record tells, nothing else can."""
    given = deployment()
    stored = after(given)
    again = template_changed(stored, "containers", 0, "image", to="new:2")
    left = after(with_settings(again, inject="disabled"), stored)
    assert hooks(left) == [None]
    assert grace(left) is None


def test_a_container_that_was_renamed_takes_its_injection_along_with_its_manifest() -> None:
    """The manifest names another container: the old one's entry names nothing any more."""
    stored = after(deployment(container("old")))
    merged = copy.deepcopy(stored)
    pod_of(merged)["containers"] = [container("new")]
    result = after(merged, stored)
    assert hooks(result) == [NATIVE_30]
    record = record_of(result, template=True)
    assert record is not None
    assert [key for key in record["fields"] if "old" in key] == []
    left = after(with_settings(result, inject="disabled"), result)
    assert pod_of(left) == pod_of(deployment(container("new")))


def test_a_container_that_was_removed_leaves_the_record() -> None:
    """What was injected into the others stays known."""
    stored = after(deployment(container("a"), container("b")))
    merged = copy.deepcopy(stored)
    del pod_of(merged)["containers"][0]
    result = after(merged, stored)
    record = record_of(result, template=True)
    assert record is not None
    assert [key for key in record["fields"] if "[a]" in key] == []
    assert hooks(after(with_settings(result, inject="disabled"), result)) == [None]


@pytest.mark.parametrize("name", ["a", "a-b", "0", "x" * 63])
def test_every_container_name_can_be_recorded(name: str) -> None:
    """And taken back by it."""
    given = deployment(container(name))
    stored = after(given)
    assert pod_of(after(with_settings(stored, inject="disabled"), stored)) == pod_of(given)


@pytest.mark.parametrize("name", ["a]b", "[", "]", "*", "a.b", "a[*]", "ü", "%s", "{0}", "a b", ""])
def test_names_that_only_a_custom_resource_can_have_are_recorded_too(name: str) -> None:
    """Or else left alone."""
    given = workload("Rollout", container(name))
    stored = after(given)
    left = after(with_settings(stored, inject="disabled"), stored)
    assert pod_of(left) == pod_of(given)
    assert not decide(stored, stored).operations


# --- which record holds --------------------------------------------------------------------------


def test_the_workload_s_record_is_read_from_the_old_object_on_update() -> None:
    """`kubectl rollout undo` restores old annotations, but not `minReadySeconds`."""
    stored = after(deployment(says={"min-ready": "20s"}))
    old_annotations = {RECORD: forged({"spec.minReadySeconds": {"is": 10, "was": 5}})}
    undone = changed(stored, "metadata", "annotations", to=old_annotations)
    result = after(undone, stored)
    assert result["spec"]["minReadySeconds"] == 30
    record = record_of(result, template=False)
    assert record is not None
    assert record["fields"]["spec.minReadySeconds"] == {"is": 30}


def test_a_record_that_was_taken_off_by_the_request_still_counts() -> None:
    """A PUT without our annotation, but with our value: it is still ours."""
    stored = after(deployment())
    sent = changed(stored, "metadata", "annotations", to={})
    result = after(with_settings(sent, inject="disabled"), stored)
    assert "minReadySeconds" not in result["spec"]


def test_a_record_that_the_request_alone_carries_does_not_count() -> None:
    """On UPDATE only the old object's does; the forged one goes."""
    plain = deployment(says={"inject": "disabled"}, minReadySeconds=40)
    record = forged({"spec.minReadySeconds": {"is": 40}})
    sent = with_settings(plain, injected=record)
    result = after(sent, plain)
    assert result["spec"]["minReadySeconds"] == 40
    assert record_of(result, template=False) is None


def test_on_create_the_workload_s_record_is_read_from_the_object() -> None:
    """As of `kubectl get -o yaml` from one namespace, created in another."""
    given = deployment(minReadySeconds=5)
    result = after(with_settings(after(given), min_ready="20s"))
    assert result["spec"]["minReadySeconds"] == 20
    left = after(with_settings(result, inject="disabled"))
    assert left["spec"]["minReadySeconds"] == 5


def test_each_template_s_record_is_read_from_that_template() -> None:
    """A rollback brings its own, made under other settings."""
    first = after(deployment(says={"pre-stop-sleep": "11s"}))
    second = after(
        template_changed(
            with_settings(first, pre_stop_sleep="22s"), "containers", 0, "image", to="new:2"
        ),
        first,
    )
    assert hooks(second) == [{"sleep": {"seconds": 22}}]
    undone = changed(second, "spec", "template", to=template_of(first))
    decision = decide(undone, second)
    assert decision.restarts
    assert hooks(decision.result) == [{"sleep": {"seconds": 22}}]
    assert grace(decision.result) == 52
    left = after(with_settings(decision.result, inject="disabled"), decision.result)
    assert pod_of(left) == pod_of(deployment())


# --- foreign and broken records ------------------------------------------------------------------

BROKEN: list[Any] = [
    "",
    "{}",
    "null",
    "[]",
    "5",
    '"text"',
    "{",
    '{"v":1}',
    '{"v":2,"fields":{"spec.terminationGracePeriodSeconds":{"is":60}}}',
    '{"fields":[],"v":1}',
    '{"fields":null,"v":1}',
    "\ud7ff",
    "[" * 5000,
    '{"fields":' * 900,
    5,
    None,
    True,
    [],
    {"fields": {}, "v": 1},
]


@pytest.mark.parametrize("template", [False, True])
@pytest.mark.parametrize("record", BROKEN, ids=lambda record: ascii(record)[:30])
def test_a_broken_record_names_nothing(
    record: Any,
    template: bool,  # noqa: FBT001 - a table's column
) -> None:
    """What it may have named is the user's from then on; the workload is decided as it is."""
    plain = deployment()
    target = template_of(plain) if template else plain
    target["metadata"]["annotations"] = {RECORD: record}
    decision = decide(plain)
    assert hooks(decision.result) == [NATIVE_30]
    assert grace(decision.result) == 60
    assert decision.result["spec"]["minReadySeconds"] == 30
    assert record_of(decision.result, template=template) != record
    left = after(with_settings(decision.result, inject="disabled"), decision.result)
    assert left["spec"]["template"]["spec"] == plain["spec"]["template"]["spec"]
    assert "minReadySeconds" not in left["spec"]


def test_an_unreadable_record_draws_a_warning() -> None:
    """The user should know that nothing can be taken back by it."""
    given = deployment(template_says={"injected": "{"})
    assert "unreadable-record" in codes(decide(given))


FOREIGN = [
    "spec.containers[app].image",
    "spec.containers[app]",
    "spec.containers",
    "spec.containers[app].readinessProbe.httpGet",
    "spec.containers[app].lifecycle",
    "spec.containers[app].lifecycle.postStart",
    "spec.initContainers[proxy]",
    "spec.initContainers[proxy].lifecycle.preStop",
    "spec.initContainers[seamless-precheck].image",
    "spec.volumes[data]",
    "spec.serviceAccountName",
    "spec.replicas",
    "spec.selector",
    "spec.template",
    "spec.template.spec.terminationGracePeriodSeconds",
    "metadata.name",
    "metadata.labels",
    "spec",
    "",
    "/spec/replicas",
    "spec.containers[app].lifecycle.preStop.x",
    "spec.readinessGates[-]",
    "spec.minReadySeconds.x",
]


@pytest.mark.parametrize("key", FOREIGN)
@pytest.mark.parametrize("template", [False, True])
def test_a_record_can_name_only_the_fields_that_the_settings_write(
    key: str,
    template: bool,  # noqa: FBT001 - a table's column
) -> None:
    """Anything else in it is ignored; the rest of the record counts."""
    given = deployment(
        hooked(EXEC_QUIT),
        pod={
            "initContainers": [sidecar("proxy", lifecycle={"preStop": EXEC_QUIT})],
            "volumes": [{"name": "data", "emptyDir": {}}],
            "serviceAccountName": "web",
        },
        says={"inject": "disabled"},
    )
    known = "spec.terminationGracePeriodSeconds" if template else "spec.minReadySeconds"
    entries: list[Json] = [
        {"is": value, "was": was}
        for value in (3, "web", EXEC_QUIT)
        for was in (1, "root", None, {"a": 1})
    ]
    for entry in [{}, {"is": "web"}, {"made": 1}, *entries]:
        sent = copy.deepcopy(given)
        target = template_of(sent) if template else sent
        record = forged({key: entry, known: {"is": 77, "was": 33}}, made=1)
        target["metadata"].setdefault("annotations", {})[RECORD] = record
        if template:
            pod_of(sent)["terminationGracePeriodSeconds"] = 77
        else:
            sent["spec"]["minReadySeconds"] = 77
        result = after(sent)
        expected = copy.deepcopy(given)
        if template:
            pod_of(expected)["terminationGracePeriodSeconds"] = 33
        else:
            expected["spec"]["minReadySeconds"] = 33
        assert result["spec"] == expected["spec"], entry


ODD_ENTRIES: list[Any] = [
    None,
    5,
    [],
    "x",
    {},
    {"is": None},
    {"is": 5},
    {"is": True},
    {"is": "sleep"},
    {"is": ["sleep"]},
    {"is": ["exec", 1]},
    {"is": {}},
    {"is": {"sleep": None}},
    {"is": {"sleep": 5}},
    {"is": NATIVE_30, "was": 5},
    {"is": NATIVE_30, "was": {}},
    {"is": NATIVE_30, "was": {"exec": 5}},
    {"is": NATIVE_30, "was": {"exec": {"command": 5}}},
    {"is": NATIVE_30, "was": {"exec": {"command": [5]}}},
    {"is": NATIVE_30, "was": {"exec": {"command": []}}},
    {"is": NATIVE_30, "was": {**EXEC_QUIT, **HTTP_HOOK}},
    {"is": NATIVE_30, "made": 99},
    {"is": NATIVE_30, "made": -1},
    {"is": NATIVE_30, "made": "1"},
    {"is": NATIVE_30, "made": True},
    {"is": NATIVE_30, "made": 1, "was": EXEC_QUIT},
    {"is": NATIVE_30, "null": "yes"},
    {"is": NATIVE_30, "null": True, "made": 1},
    {"is": 60, "was": 60},
    {"is": 60, "was": 61},
    {"is": 60, "was": -1},
    {"is": 60, "was": "30"},
    {"is": 60, "was": 30.5},
    {"is": 60, "was": True},
    {"is": 60, "was": []},
    {"is": "60", "was": 30},
    {"is": 10**18, "was": 30},
    {"is": 0, "was": "100%"},
    {"is": 0, "was": "101%"},
    {"is": 0, "was": "-1%"},
    {"is": 0, "was": 0},
    {"is": 0, "was": 2**40},
    {"is": {"httpGet": 5}},
    {"is": {"httpGet": {"path": "/ready", "port": 8080}}},
]
NAMED_FIELDS = [
    "spec.terminationGracePeriodSeconds",
    "spec.containers[app].lifecycle.preStop",
    "spec.containers[gone].lifecycle.preStop",
    "spec.containers[app].readinessProbe",
    "spec.readinessGates[example.com/ready]",
    "spec.initContainers[seamless-precheck]",
    "spec.minReadySeconds",
    "spec.progressDeadlineSeconds",
    "spec.strategy.rollingUpdate.maxUnavailable",
    "spec.strategy.rollingUpdate.maxSurge",
    "spec.updateStrategy.rollingUpdate.maxSurge",
]


@pytest.mark.parametrize("key", NAMED_FIELDS)
@pytest.mark.parametrize("says", [{}, EVERYTHING, {"inject": "disabled"}])
def test_a_forged_entry_never_makes_a_valid_workload_invalid(key: str, says: Json) -> None:
    """Whatever it says was there before must be a value that the field could have had."""
    for entry in ODD_ENTRIES:
        given = deployment(
            hooked(NATIVE_30),
            says={**says, "injected": forged({key: entry})},
            template_says={"injected": forged({key: entry})},
            pod={
                "terminationGracePeriodSeconds": 60,
                "readinessGates": [{"conditionType": "example.com/ready"}],
            },
            minReadySeconds=60,
            progressDeadlineSeconds=600,
            **rolling(maxUnavailable=0, maxSurge=1),
        )
        result = after(given)
        pod = pod_of(result)
        assert type(pod["terminationGracePeriodSeconds"]) is int
        assert pod["terminationGracePeriodSeconds"] >= 0
        ready = result["spec"].get("minReadySeconds") or 0
        assert 0 <= ready < (result["spec"].get("progressDeadlineSeconds") or 600)
        for hook in hooks(result):
            assert hook is None or len(hook) == 1
            assert hook is None or set(hook) <= {"sleep", "exec"}
        values = result["spec"]["strategy"].get("rollingUpdate") or {}
        pair = (values.get("maxUnavailable", "25%"), values.get("maxSurge", "25%"))
        assert pair not in {(0, 0), ("0%", 0), (0, "0%")}
        assert not decide(result, result).operations
        assert not decide(result).operations


def test_a_record_of_200_kb_is_read() -> None:
    """Of ten thousand containers that are not there."""
    fields = {f"spec.containers[c{n}].lifecycle.preStop": {"is": NATIVE_30} for n in range(3000)}
    fields["spec.terminationGracePeriodSeconds"] = {"is": 77, "was": 33}
    given = deployment(
        hooked(HTTP_HOOK),
        template_says={"injected": forged(fields)},
        pod={"terminationGracePeriodSeconds": 77},
    )
    result = after(given)
    assert grace(result) == 33
    assert record_of(result, template=True) is None


# --- the annotations' limit ----------------------------------------------------------------------

LIMIT = 262_144


def size_of(annotations: Json) -> int:
    """Count what the API server counts."""
    return sum(len(key.encode()) + len(value.encode()) for key, value in annotations.items())


@pytest.mark.parametrize("template", [False, True])
@pytest.mark.parametrize("character", ["x", "ü", "🙂"])
def test_where_the_record_fits_exactly_it_is_written_and_one_byte_more_is_not(
    template: bool,  # noqa: FBT001 - a table's column
    character: str,
) -> None:
    """Nothing is injected then, with a warning: no field without its record."""
    given = deployment()
    target = template_of(given) if template else given
    target["metadata"]["annotations"] = {"note": ""}
    stored = after(given)
    bears = (template_of(stored) if template else stored)["metadata"]["annotations"]
    room = LIMIT - size_of(bears)
    width = len(character.encode())
    note = character * (room // width) + "x" * (room % width)
    target["metadata"]["annotations"] = {"note": note}
    fits = decide(given)
    assert record_of(fits.result, template=template) is not None
    bears = (template_of(fits.result) if template else fits.result)["metadata"]["annotations"]
    assert size_of(bears) == LIMIT
    target["metadata"]["annotations"] = {"note": note + "x"}
    full = decide(given)
    assert full.operations == () or not full.operations
    assert codes(full) == {"annotations-full"}
    assert full.applied == ()


def test_where_there_is_no_room_what_was_injected_leaves() -> None:
    """The decision is: nothing injected; what was recorded is taken out."""
    stored = after(deployment())
    sent = template_changed(stored, "containers", 0, "image", to="new:2")
    sent = changed(sent, "metadata", "annotations", "note", to="x" * (LIMIT - 20))
    decision = decide(sent, stored)
    expected = template_changed(deployment(), "containers", 0, "image", to="new:2")
    assert canonical(decision.result["spec"]) == canonical(expected["spec"])


def test_sidecars_and_init_containers_are_never_in_a_record() -> None:
    """Only the precheck's is."""
    given = deployment(
        pod={"initContainers": [sidecar("proxy"), worker("init")]}, says={"precheck": "db:1"}
    )
    stored = after(given)
    record = record_of(stored, template=True)
    assert record is not None
    named = [key for key in record["fields"] if "initContainers" in key]
    assert named == ["spec.initContainers[seamless-precheck]"]
    assert init_names(stored) == ["proxy", "seamless-precheck", "init"]
