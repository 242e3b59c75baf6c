"""Sequences of requests against a tiny API server: each step says whether pods restart, and why."""

from __future__ import annotations

import copy
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
    apply,
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
    template_changed,
    template_of,
    with_settings,
    worker,
    workload,
)
from tests.decision.apiserver import ApiServer, RefusedError, fill_in
from webhook.decision.admission import Admission

TREATED = admission()
SLEEP_9 = admission({"defaults": {"pre-stop-sleep": "9s", "min-ready": "9s"}})
WITHDRAWN = admission(namespace=namespaces({}))
WAYS = ("put", "apply", "server_side_apply")


def image(given: Json, tag: str) -> Json:
    """Copy a workload with another image: a rollout that the user asks for."""
    return template_changed(given, "containers", 0, "image", to=f"registry.example/app:{tag}")


def opted_out(server: ApiServer) -> Json:
    """Opt out by an annotation, and give what is left without it."""
    left = server.edit(
        lambda sent: (
            sent["metadata"]
            .setdefault("annotations", {})
            .update({"seamless-rollouts.dev/inject": "disabled"})
        )
    )
    annotations = left["metadata"]["annotations"]
    del annotations["seamless-rollouts.dev/inject"]
    if not annotations:
        del left["metadata"]["annotations"]
    return left


def asked_for(*manifests: Json, way: str = "put") -> Json:
    """Give what an API server without a webhook stores of the same manifests."""
    plain = ApiServer()
    plain.create(manifests[0]) if way == "put" else getattr(plain, way)(manifests[0])
    for each in manifests[1:]:
        getattr(plain, way)(each)
    return plain.now


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("way", WAYS)
def test_the_life_of_a_workload(kind: str, way: str) -> None:
    """Create, set, edit, add a hook, opt out: the end is what the user last asked for."""
    server = ApiServer(TREATED)
    send = getattr(server, way)
    first = workload(kind)
    (server.create if way == "put" else send)(first)
    assert hooks(server.now) == [NATIVE_30]
    assert not server.restarted  # there were no pods

    send(first)
    assert not server.restarted  # nothing was asked for
    assert server.decision is not None
    assert hooks(server.now) == [NATIVE_30]

    second = with_settings(first, pre_stop_sleep="9s")
    send(second)
    assert server.restarted  # a setting on the workload acts on its template
    assert hooks(server.now) == [{"sleep": {"seconds": 9}}]
    assert grace(server.now) == 39

    third = image(second, "2")
    send(third)
    assert server.restarted  # the user rolls out an image
    assert hooks(server.now) == [{"sleep": {"seconds": 9}}]
    assert grace(server.now) == 39

    fourth = template_changed(third, "containers", 0, "lifecycle", to={"preStop": EXEC_QUIT})
    send(fourth)
    assert server.restarted  # the user adds a hook, and gets theirs
    assert hooks(server.now) == [EXEC_QUIT]
    assert grace(server.now) in (30, None)

    fifth = with_settings(fourth, inject="disabled")
    send(fifth)
    expected = asked_for(first, first, second, third, fourth, fifth, way=way)
    assert canonical(server.now) == canonical(expected)


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("way", WAYS)
def test_opting_out_restarts_pods_where_something_was_injected(kind: str, way: str) -> None:
    """It is asked for; and opting in again is, too."""
    server = ApiServer(TREATED)
    send = getattr(server, way)
    given = workload(kind)
    (server.create if way == "put" else send)(given)
    treated = template_of(server.now)
    send(with_settings(given, inject="disabled"))
    assert server.restarted
    assert hooks(server.now) == [None]
    send(given)
    assert server.restarted
    assert template_of(server.now) == treated


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("way", WAYS)
def test_new_defaults_arrive_only_with_the_next_rollout(kind: str, way: str) -> None:
    """`minReadySeconds` follows at every update; a DaemonSet gets none (`kindDefaults`)."""
    server = ApiServer(TREATED)
    send = getattr(server, way)
    given = workload(kind)
    min_ready = None if kind == "DaemonSet" else 9
    (server.create if way == "put" else send)(given)
    server.webhook = SLEEP_9
    before = template_of(server.now)
    for step in (lambda: send(given), lambda: server.scale(7), lambda: send(given)):
        step()
        assert not server.restarted
        assert template_of(server.now) == before
        assert server.now["spec"].get("minReadySeconds") == min_ready
    server.restart("2026-01-01T00:00:00Z")
    assert server.restarted
    assert hooks(server.now) == [{"sleep": {"seconds": 9}}]
    assert grace(server.now) == 39


@pytest.mark.parametrize("way", WAYS)
def test_a_withdrawn_namespace_leaves_with_the_next_rollout(way: str) -> None:
    """And an opt-in arrives with it."""
    server = ApiServer(TREATED)
    send = getattr(server, way)
    given = deployment()
    (server.create if way == "put" else send)(given)
    server.webhook = WITHDRAWN
    send(given)
    assert not server.restarted
    assert hooks(server.now) == [NATIVE_30]
    assert "minReadySeconds" not in server.now["spec"]
    send(image(given, "2"))
    assert server.restarted
    assert canonical(template_of(server.now)) == canonical(
        template_of(asked_for(given, image(given, "2"), way=way))
    )
    server.webhook = TREATED
    server.scale(5)
    assert not server.restarted
    assert hooks(server.now) == [None]
    assert server.now["spec"]["minReadySeconds"] == 30
    send(image(given, "3"))
    assert server.restarted
    assert hooks(server.now) == [NATIVE_30]


def test_put_without_our_fields_keeps_the_template_and_the_record() -> None:
    """`kubectl replace` drops both; the webhook puts them back, and no pod restarts."""
    server = ApiServer(TREATED)
    given = deployment()
    before = server.create(given)
    server.put(given)
    assert not server.restarted
    assert canonical(server.now) == canonical(before)


def test_put_without_our_fields_beside_a_change_outside_the_template() -> None:
    """Replicas and strategy change, pods stay."""
    server = ApiServer(TREATED)
    given = deployment()
    server.create(given)
    server.put(changed(given, "spec", "replicas", to=8))
    assert not server.restarted
    assert server.now["spec"]["replicas"] == 8
    server.put(changed(given, "spec", "minReadySeconds", to=50))
    assert not server.restarted
    assert server.now["spec"]["minReadySeconds"] == 50
    assert opted_out(server)["spec"]["minReadySeconds"] == 50


@pytest.mark.parametrize("with_annotations", [True, False])
def test_rollback_to_an_older_template(with_annotations: bool) -> None:  # noqa: FBT001
    """With its old annotations (kubectl) or without (a PUT of the template): its record holds."""
    server = ApiServer(TREATED)
    given = with_settings(deployment(), min_ready="20s")
    server.create(given)
    newer = with_settings(image(given, "2"), min_ready="40s", pre_stop_sleep="9s")
    server.put(newer)
    assert server.restarted
    assert hooks(server.now) == [{"sleep": {"seconds": 9}}]
    if with_annotations:
        server.undo(0)
        expected_sleep, expected_ready = 30, 20
    else:
        old = copy.deepcopy(server.revisions[0].template)
        server.edit(lambda sent: sent["spec"].update(template=old))
        expected_sleep, expected_ready = 9, 40
    assert server.restarted  # the user asks for the older image
    assert hooks(server.now) == [{"sleep": {"seconds": expected_sleep}}]
    assert grace(server.now) == 30 + expected_sleep
    assert server.now["spec"]["minReadySeconds"] == expected_ready
    left = opted_out(server)
    assert canonical(template_of(left)) == canonical(template_of(fill_in(given)))
    assert "minReadySeconds" not in left["spec"]


def test_rollback_to_a_template_from_before_the_webhook() -> None:
    """It bears no record: it is what the user wrote, and is treated as any rollout."""
    server = ApiServer(None)
    given = deployment()
    server.create(given)
    server.webhook = TREATED
    server.put(image(given, "2"))
    server.undo(0)
    assert server.restarted
    assert hooks(server.now) == [NATIVE_30]
    assert pod_of(opted_out(server)) == pod_of(fill_in(given))


def test_rollback_with_a_bad_setting_is_never_refused() -> None:
    """Nothing may stand in its way."""
    lenient = admission({"invalidSettings": "warn"})
    server = ApiServer(lenient)
    given = deployment(says={"min-ready": "soon"}, template_says={"pre-stop-sleep": "later"})
    server.create(given)
    server.put(image(deployment(), "2"))
    server.webhook = TREATED
    server.undo(0)
    assert server.restarted
    assert server.decision is not None
    assert "invalid-setting" in codes(server.decision)


@pytest.mark.parametrize("way", WAYS)
def test_a_container_that_is_renamed(way: str) -> None:
    """A rollout; the new one gets its own hook, and nothing of the old one is left."""
    server = ApiServer(TREATED)
    send = getattr(server, way)
    first = deployment(container("old"), container("b"))
    (server.create if way == "put" else send)(first)
    second = deployment(container("new"), container("b"))
    send(second)
    assert server.restarted
    assert hooks(server.now) == [NATIVE_30, NATIVE_30]
    assert pod_of(opted_out(server)) == pod_of(asked_for(first, second, way=way))


@pytest.mark.parametrize("way", WAYS)
def test_a_container_that_is_removed(way: str) -> None:
    """And one that is added."""
    server = ApiServer(TREATED)
    send = getattr(server, way)
    first = deployment(container("a"), container("b"))
    (server.create if way == "put" else send)(first)
    second = deployment(container("b"))
    send(second)
    assert server.restarted
    third = deployment(container("b"), hooked(EXEC_QUIT, "c"))
    send(third)
    assert hooks(server.now) == [NATIVE_30, EXEC_QUIT]
    assert pod_of(opted_out(server)) == pod_of(asked_for(first, second, third, way=way))


@pytest.mark.parametrize("way", ["apply", "server_side_apply"])
@pytest.mark.parametrize("hook", [EXEC_QUIT, HTTP_HOOK, {"sleep": {"seconds": 3}}])
def test_a_user_who_adds_a_hook_gets_theirs(way: str, hook: Json) -> None:
    """Also where a merge has put it beside ours."""
    server = ApiServer(TREATED)
    send = getattr(server, way)
    given = deployment()
    send(given)
    own = template_changed(given, "containers", 0, "lifecycle", to={"preStop": hook})
    send(own)
    assert server.restarted
    assert pod_of(server.now)["containers"][0]["lifecycle"] == {
        "preStop": pod_of(fill_in(own))["containers"][0]["lifecycle"]["preStop"]
    }
    send(given)
    assert server.restarted
    assert hooks(server.now) == [NATIVE_30]
    assert pod_of(opted_out(server)) == pod_of(asked_for(given, own, given, way=way))


@pytest.mark.parametrize("way", WAYS)
def test_a_chained_hook_follows_the_user_s(way: str) -> None:
    """Applying the same manifest again restarts nothing; another command is chained anew."""
    server = ApiServer(TREATED)
    send = getattr(server, way)
    given = deployment(hooked(EXEC_QUIT), says={"pre-stop-existing": "chain"})
    (server.create if way == "put" else send)(given)
    before = template_of(server.now)
    send(given)
    assert not server.restarted
    assert template_of(server.now) == before
    other = {"exec": {"command": ["other"]}}
    second = template_changed(given, "containers", 0, "lifecycle", "preStop", to=other)
    send(second)
    assert server.restarted
    (hook,) = hooks(server.now)
    assert hook["exec"]["command"][-1] == "other"
    assert pod_of(opted_out(server)) == pod_of(asked_for(given, second, way=way))


def test_everything_that_the_server_fills_in_is_no_change() -> None:
    """Of all that is injected, stored, and sent again."""
    says = {
        "precheck": "db:5432",
        "readiness-probe": "http://:8080/health",
        "readiness-gates": "example.com/ready",
        "strategy": "surge",
        "pre-stop-existing": "chain",
    }
    by = admission({"precheck": {"resources": {"requests": {"cpu": "0.01"}}}})
    server = ApiServer(by)
    given = deployment(
        worker("app", ports=[{"containerPort": 8080}]), hooked(EXEC_QUIT, "b"), says=says
    )
    server.create(given)
    init = pod_of(server.now)["initContainers"][0]
    assert init["resources"]["requests"]["cpu"] == "10m"
    for step in (lambda: server.scale(9), lambda: server.put(given)):
        step()
        assert not server.restarted
    server.put(image(given, "2"))
    assert server.restarted
    assert init_names(server.now) == ["seamless-precheck"]
    left = opted_out(server)
    assert canonical(left["spec"]) == canonical(fill_in(image(given, "2"))["spec"])


def test_another_webhook_s_changes_are_no_change_by_the_user() -> None:
    """A mirror that rewrites images, a proxy that puts a container of its own first."""
    server = ApiServer(TREATED)
    given = deployment(says={"precheck": "db:5432"})
    server.create(given)

    def rewrite(sent: Json) -> None:
        pod_of(sent)["initContainers"][0]["image"] = "mirror.example/seamless:1"

    rewrite(server.stored or {})
    server.scale(4)
    assert not server.restarted
    server.webhook = WITHDRAWN
    server.restart("2026")
    assert init_names(server.now) == []


@pytest.mark.parametrize("manager", ["seamless-backfill", "seamless-revert"])
def test_backfill_and_revert_move_the_template(manager: str) -> None:
    """What nobody else may do without a change of the user's words."""
    server = ApiServer(None)
    given = deployment()
    server.create(given)
    server.webhook = TREATED if manager == "seamless-backfill" else WITHDRAWN
    if manager == "seamless-revert":
        server.webhook = TREATED
        server.restart("1")
        server.webhook = WITHDRAWN
    server.edit(lambda _: None)
    assert not server.restarted
    server.edit(lambda _: None, manager)
    assert server.restarted
    assert hooks(server.now) == [NATIVE_30 if manager == "seamless-backfill" else None]
    server.edit(lambda _: None, manager)
    assert not server.restarted


UP_TO_DATE = {
    "precheck": "db:5432",
    "readiness-probe": "http://:8080/health",
    "readiness-gates": "example.com/ready",
    "pre-stop-existing": "chain",
}


@pytest.mark.parametrize("cpu", ["10m", "0.01", ".01", "0.010", "10e-3", "1E-2"])
def test_backfill_of_a_workload_that_is_up_to_date_does_nothing(cpu: str) -> None:
    """What the server fills in, and quantities that it rewrites, are no change by anyone."""
    resources = {"requests": {"cpu": cpu}, "limits": {"memory": "64Mi"}}
    server = ApiServer(admission({"precheck": {"resources": resources}}))
    port = {"containerPort": 8080}
    server.create(deployment(worker("app", ports=[port]), hooked(EXEC_QUIT, "b"), says=UP_TO_DATE))
    for _ in range(2):
        server.edit(lambda _: None, "seamless-backfill")
        assert not server.restarted
        assert server.decision is not None
        assert not server.decision.operations
        assert not server.decision.restarts


# --- while the webhook is down -------------------------------------------------------------------


def test_a_put_while_the_webhook_is_down_is_what_the_user_wrote() -> None:
    """The record went with it: there is nothing to take back, and nothing is rolled."""
    server = ApiServer(TREATED)
    given = deployment()
    server.create(given)
    server.webhook = None
    server.put(given)
    assert server.restarted  # the API server's doing
    server.webhook = TREATED
    server.scale(9)
    assert not server.restarted
    assert hooks(server.now) == [None]
    assert server.now["spec"]["minReadySeconds"] == 30
    server.put(image(given, "2"))
    assert hooks(server.now) == [NATIVE_30]
    assert canonical(opted_out(server)) == canonical(fill_in(image(given, "2")))


@pytest.mark.parametrize("way", ["apply", "server_side_apply"])
def test_an_apply_while_the_webhook_is_down_keeps_the_record(way: str) -> None:
    """The next request finds out what is whose."""
    server = ApiServer(TREATED)
    send = getattr(server, way)
    given = deployment(container("a"), container("b"))
    send(given)
    server.webhook = None
    changed_grace = template_changed(given, "terminationGracePeriodSeconds", to=50)
    second = template_changed(changed_grace, "containers", to=[container("b"), container("c")])
    send(second)
    assert hooks(server.now) == [NATIVE_30, None]
    server.webhook = TREATED
    server.scale(2)
    assert not server.restarted
    third = image(second, "3")
    send(third)
    assert hooks(server.now) == [NATIVE_30, NATIVE_30]
    assert grace(server.now) == 80
    assert pod_of(opted_out(server)) == pod_of(asked_for(given, second, third, way=way))


def test_a_hook_beside_ours_is_refused_while_the_webhook_is_down() -> None:
    """Seen: two handlers. This is why a workload with a record is always sent."""
    server = ApiServer(TREATED)
    given = deployment()
    server.apply(given)
    server.webhook = None
    own = template_changed(given, "containers", 0, "lifecycle", to={"preStop": EXEC_QUIT})
    with pytest.raises(RefusedError):
        server.apply(own)
    server.webhook = TREATED
    server.apply(own)
    assert hooks(server.now) == [EXEC_QUIT]


def test_min_ready_seconds_changed_while_the_webhook_is_down_is_the_user_s() -> None:
    """It is no longer what we wrote."""
    server = ApiServer(TREATED)
    server.apply(deployment())
    server.webhook = None
    server.apply(deployment(minReadySeconds=12))
    server.webhook = TREATED
    server.scale(2)
    assert server.now["spec"]["minReadySeconds"] == 30
    assert opted_out(server)["spec"]["minReadySeconds"] == 12


# --- records that are not ours -------------------------------------------------------------------

FUTURE = '{"fields":{"spec.terminationGracePeriodSeconds":{"is":60}},"v":2}'


@pytest.mark.parametrize("record", [FUTURE, "{", "", forged({"spec.nodeName": {"is": "a"}})])
def test_a_broken_record_never_rolls_a_workload(record: str) -> None:
    """A downgrade, a forgery, a half-written one: frozen, and from the next rollout on ours."""
    server = ApiServer(TREATED)
    given = deployment()
    server.create(given)

    def break_records(sent: Json) -> None:
        sent["metadata"]["annotations"][RECORD] = record
        template_of(sent)["metadata"]["annotations"][RECORD] = record

    break_records(server.stored or {})
    server.scale(4)
    assert not server.restarted
    server.restart("1")
    assert server.restarted
    assert hooks(server.now) == [NATIVE_30]
    assert grace(server.now) == 60
    assert server.now["spec"]["minReadySeconds"] == 30
    server.restart("2")
    assert grace(server.now) in (60, 90)


def test_a_record_that_a_user_removes_leaves_what_it_named_to_the_user() -> None:
    """`kubectl annotate …/injected-` on the template is a change of the template."""
    server = ApiServer(TREATED)
    server.create(deployment())

    def forget(sent: Json) -> None:
        del template_of(sent)["metadata"]["annotations"]

    before = grace(server.now)
    server.edit(forget)
    assert hooks(server.now) == [NATIVE_30]
    assert grace(server.now) == before


@pytest.mark.parametrize("way", WAYS)
def test_a_setting_that_comes_and_goes_by_the_template_of_a_chart(way: str) -> None:
    """A client-side apply that drops the template's last annotation drops all: our record, too."""
    server = ApiServer(TREATED)
    send = getattr(server, way)
    given = deployment()
    (server.create if way == "put" else send)(given)
    send(with_settings(given, template=True, pre_stop_sleep="9s"))
    assert server.restarted
    assert hooks(server.now) == [{"sleep": {"seconds": 9}}]
    send(given)
    assert server.restarted
    assert hooks(server.now) == [NATIVE_30]
    assert grace(server.now) == 60


@pytest.mark.parametrize("way", WAYS)
def test_a_user_who_drops_the_template_s_last_annotation_can_still_opt_out(way: str) -> None:
    """A note for a scraper, say."""
    server = ApiServer(TREATED)
    send = getattr(server, way)
    given = deployment()
    noted = changed(given, "spec", "template", "metadata", "annotations", "scrape", to="true")
    (server.create if way == "put" else send)(noted)
    send(given)
    assert hooks(server.now) == [NATIVE_30]
    assert canonical(pod_of(opted_out(server))) == canonical(pod_of(fill_in(given)))


LAST_ANNOTATION = deployment(template_says={"pre-stop-handler": "auto"})
"""Where the next manifest has no annotations, `kubectl apply` takes away the whole mapping."""


@pytest.mark.parametrize(("seconds", "raised"), [(45, 75), (20, 50), (60, None), (None, None)])
@pytest.mark.parametrize("way", WAYS)
def test_an_edit_in_the_request_that_drops_the_record_is_the_user_s_and_the_rest_is_ours(
    way: str, seconds: int | None, raised: int | None
) -> None:
    """The grace period is edited; 20 is less than our sleep, and was refused."""
    server = ApiServer(TREATED)
    send = getattr(server, way)
    (server.create if way == "put" else send)(LAST_ANNOTATION)
    assert grace(server.now) == 60
    edited = deployment(pod={"terminationGracePeriodSeconds": seconds} if seconds else None)
    edited = image(edited, "2")
    send(edited)
    assert hooks(server.now) == [NATIVE_30]
    assert grace(server.now) == raised or raised is None
    record = record_of(server.now, template=True)
    assert record is not None
    assert "spec.containers[app].lifecycle.preStop" in record["fields"]
    if seconds != 60:  # what the user's manifest has come to say counts as ours
        expected = asked_for(LAST_ANNOTATION, edited, way=way)
        assert pod_of(opted_out(server)) == pod_of(expected)


EDITS: list[tuple[str, Json, Json]] = [
    ("grace", {}, {"pod": {"terminationGracePeriodSeconds": 41}}),
    ("gates", {"readiness-gates": "a.example/x"}, {"pod": {"readinessGates": []}}),
    ("precheck", {"precheck": "db:1"}, {"pod": {"initContainers": [worker("own")]}}),
    ("probe", {"readiness-probe": "tcp://:8080"}, {}),
]


@pytest.mark.parametrize("way", WAYS)
@pytest.mark.parametrize(("_name", "says", "more"), EDITS, ids=lambda each: str(each)[:9])
def test_a_record_that_is_dropped_counts_entry_by_entry(
    way: str, _name: str, says: Json, more: Json
) -> None:
    """One field is edited; whatever else was injected leaves with the opt-out."""
    bare = worker("app", ports=[{"containerPort": 8080}])
    first = deployment(bare, container("b"), says=says, template_says={"pre-stop-handler": "auto"})
    second = deployment(bare, hooked(EXEC_QUIT, "b"), says=says, **more)
    server = ApiServer(TREATED)
    send = getattr(server, way)
    (server.create if way == "put" else send)(first)
    send(second)
    assert pod_of(opted_out(server)) == pod_of(asked_for(first, second, way=way))


# --- containers that are renamed or copied in the live object ------------------------------------

PROBED = deployment(
    worker("app", ports=[{"containerPort": 8080}]),
    hooked(EXEC_QUIT, "b"),
    says={"readiness-probe": "http://:8080/", "pre-stop-existing": "chain"},
)
LIVE_EDITS: dict[str, Any] = {
    "renamed": lambda found: found[0].update(name="renamed"),
    "both renamed": lambda found: [each.update(name=each["name"] + "-2") for each in found],
    "renamed and its image changed": lambda found: found[0].update(name="renamed", image="new:2"),
    "names swapped": lambda found: [
        each.update(name=name) for each, name in zip(found, ("b-2", "app-2"), strict=True)
    ],
    "copied": lambda found: found.append({**copy.deepcopy(found[0]), "name": "copy"}),
    "copied first": lambda found: found.insert(0, {**copy.deepcopy(found[0]), "name": "copy"}),
    "copied, with another port": lambda found: found.append(
        {**copy.deepcopy(found[0]), "name": "copy", "ports": [{"containerPort": 1}]}
    ),
    "copied, with another image": lambda found: found.append(
        {**copy.deepcopy(found[0]), "name": "copy", "image": "new:2"}
    ),
    "copied twice": lambda found: found.extend(
        {**copy.deepcopy(found[0]), "name": f"copy{number}"} for number in (1, 2)
    ),
    "chained and copied": lambda found: found.append({**copy.deepcopy(found[1]), "name": "copy"}),
}


@pytest.mark.parametrize("with_record", [True, False])
@pytest.mark.parametrize("name", LIVE_EDITS)
def test_what_moves_with_a_renamed_or_copied_container_is_ours(
    name: str,
    with_record: bool,  # noqa: FBT001 - a table's column
) -> None:
    """`kubectl edit` of the live object: nothing injected is left after the opt-out."""
    server, plain = ApiServer(TREATED), ApiServer()
    server.create(PROBED)
    plain.create(PROBED)

    def change(sent: Json) -> None:
        LIVE_EDITS[name](pod_of(sent)["containers"])
        if not with_record:
            template_of(sent)["metadata"].pop("annotations", None)

    plain.edit(change)
    server.edit(change)
    assert server.restarted
    assert pod_of(opted_out(server)) == pod_of(plain.now)


@pytest.mark.parametrize("name", ["other", "app"])
def test_a_new_container_with_the_same_hook_that_is_no_copy_is_the_user_s(name: str) -> None:
    """And so is one that was there before this update."""
    server = ApiServer(TREATED)
    given = deployment(container("app"))
    server.create(given)
    own = hooked(NATIVE_30, "new", image="registry.example/other:1", ports=None)
    with_own = deployment(container("app"), own)
    server.apply(given)
    server.apply(with_own)
    renamed = deployment(container(name), own)
    server.apply(renamed)
    assert hooks(opted_out(server)) == [None, NATIVE_30]


# --- what a custom resource's schema has dropped -------------------------------------------------


@pytest.mark.parametrize("way", WAYS)
def test_a_hook_that_the_schema_pruned_leaves_with_the_opt_out(way: str) -> None:
    """Argo Rollouts 1.6 stores `preStop: {}`; nothing is decided anew for it."""
    server = ApiServer(TREATED, prunes=True)
    send = getattr(server, way)
    given = workload("Rollout")
    (server.create if way == "put" else send)(given)
    assert hooks(server.now) == [{}]
    for step in (lambda: send(given), lambda: server.scale(7), lambda: server.edit(lambda _: None)):
        step()
        assert not server.restarted
        assert server.decision is not None
        assert server.decision.kept
    left = opted_out(server)
    assert "lifecycle" not in pod_of(left)["containers"][0]
    assert record_of(left, template=True) is None
    assert grace(left) is None


def test_a_hook_that_the_schema_pruned_is_written_anew_by_another_handler() -> None:
    """Once it is known that there is no native sleep, or the schema was upgraded."""
    server = ApiServer(TREATED, prunes=True)
    given = workload("Rollout")
    server.create(given)
    server.edit(
        lambda sent: sent["metadata"].update(
            annotations={
                **sent["metadata"].get("annotations", {}),
                "seamless-rollouts.dev/pre-stop-handler": "exec",
            }
        )
    )
    assert hooks(server.now) == [{"exec": {"command": ["sleep", "30"]}}]
    assert pod_of(opted_out(server)) == pod_of(given)


@pytest.mark.parametrize("hook", [{}, {"sleep": {"seconds": 0}}, {"exec": {"command": ["a"]}}])
def test_an_empty_hook_that_no_record_names_is_the_user_s(hook: Json) -> None:
    """Only what was injected can have been pruned."""
    given = workload("Rollout", hooked(hook))
    server = ApiServer(TREATED, prunes=True)
    server.create(given)
    stored = hooks(server.now)
    server.restart("2026")
    assert hooks(server.now) == stored
    assert hooks(opted_out(server)) == stored


# --- a Rollout that has come to be left alone ----------------------------------------------------

REFERENCE = {"apiVersion": "apps/v1", "kind": "Deployment", "name": "web"}


@pytest.mark.parametrize("with_template", [True, False])
@pytest.mark.parametrize("way", WAYS)
def test_a_rollout_that_moves_to_a_workload_ref_gives_back_what_was_injected(
    way: str,
    with_template: bool,  # noqa: FBT001 - a table's column
) -> None:
    """Its Deployment is patched instead."""
    given = workload("Rollout", progressDeadlineSeconds=40)
    server = ApiServer(TREATED)
    send = getattr(server, way)
    (server.create if way == "put" else send)(given)
    assert server.now["spec"]["minReadySeconds"] == 30
    assert server.now["spec"]["progressDeadlineSeconds"] == 70
    moved = changed(given, "spec", "workloadRef", to=REFERENCE)
    if with_template:
        send(moved)
        result = server.now
        assert pod_of(result) == pod_of(given)
        assert record_of(result, template=True) is None
    else:
        moved = changed(moved, "spec", "template", to=...)
        stored = server.now
        sent = changed(stored, "spec", "workloadRef", to=REFERENCE)
        sent = changed(sent, "spec", "template", to=...)
        decision = decide(sent, stored)
        assert decision.skipped == "workload-ref"
        result = apply(sent, decision.operations)
        assert not decide(result, result).operations
    assert result["spec"].get("minReadySeconds") is None
    assert result["spec"]["progressDeadlineSeconds"] == 40
    assert record_of(result, template=False) is None


def test_surge_is_set_and_withdrawn_without_a_restart() -> None:
    """And what the user changes meanwhile is kept."""
    server = ApiServer(TREATED)
    given = deployment(**rolling(maxUnavailable=1, maxSurge=0))
    server.apply(given)
    surging = with_settings(given, strategy="surge")
    server.apply(surging)
    assert not server.restarted
    assert server.now["spec"]["strategy"]["rollingUpdate"] == {"maxUnavailable": 0, "maxSurge": 1}
    server.scale(6)
    assert server.now["spec"]["strategy"]["rollingUpdate"] == {"maxUnavailable": 0, "maxSurge": 1}
    server.apply(given)
    assert not server.restarted
    assert server.now["spec"]["strategy"]["rollingUpdate"] == {"maxUnavailable": 1, "maxSurge": 0}


@pytest.mark.parametrize("by", [TREATED, SLEEP_9, WITHDRAWN])
def test_nothing_happens_to_a_workload_that_nobody_changes(by: Admission) -> None:
    """A controller that writes the same object again and again."""
    server = ApiServer(TREATED)
    server.create(deployment(says={"precheck": "db:1", "strategy": "surge"}))
    server.webhook = by
    server.edit(lambda _: None)
    settled = server.now
    for _ in range(3):
        server.edit(lambda _: None)
        assert not server.restarted
        assert canonical(server.now) == canonical(settled)


def test_a_manifest_exported_from_the_cluster_may_be_created_elsewhere() -> None:
    """`kubectl get -o yaml`, with its records, into a namespace that has opted in or has not."""
    server = ApiServer(TREATED)
    given = deployment(minReadySeconds=5, progressDeadlineSeconds=20)
    exported = server.create(given)
    for by, expected in ((TREATED, exported), (WITHDRAWN, fill_in(given))):
        other = ApiServer(by)
        other.create(exported)
        assert canonical(other.now) == canonical(expected)


def test_records_say_what_was_there_when_they_were_made() -> None:
    """After the server has filled in: the grace period was 30, not absent."""
    server = ApiServer(TREATED)
    server.create(deployment())
    record: Any = record_of(server.now, template=True)
    assert record["fields"]["spec.terminationGracePeriodSeconds"] == {"is": 60, "was": 30}
