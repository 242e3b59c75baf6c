"""The contract of every mutation, over every fixture: those of the package, and one by the book.

The extra one is written here as a newcomer would write it in `webhook/decision/mutations/`: one
file, and one line in the tuple of its `__init__.py`. Nothing else knows of it, and yet its settings
are parsed and layered, its values refused, its changes recorded, taken back and frozen, and it
passes every test below without a line of its own.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from typing import Any

import pytest

from tests.builders import (
    EXEC_QUIT,
    KINDS,
    OLD_SERVER,
    RECORD,
    WINDOWS,
    Json,
    admission,
    after,
    canonical,
    changed,
    container,
    decide,
    deployment,
    forged,
    hooked,
    namespaces,
    pod_of,
    record_of,
    request_of,
    response,
    review,
    rolling,
    sidecar,
    template_of,
    with_settings,
    worker,
    workload,
)
from tests.decision.apiserver import fill_in
from tests.decision.validation import complaints
from webhook.decision.draft import TEMPLATE, Draft, Field
from webhook.decision.mutations import MUTATIONS
from webhook.decision.mutations.model import Mutation, Situation
from webhook.decision.partial import UndeclaredReadError
from webhook.decision.settings import InvalidSettingError, Setting, one_of
from webhook.decision.workload import containers, items, mapping, native_sleep

# --- what a newcomer writes: one file ------------------------------------------------------------

PRIORITY = Field(("spec", "priorityClassName"), "priority-class")


def parse_priority(text: str) -> str:
    """Parse the name of a priority class."""
    if not text.replace("-", "").isalnum() or text != text.lower():
        message = "expected the name of a priority class, such as high"
        raise InvalidSettingError(message)
    return text


def set_priority(draft: Draft, situation: Situation) -> None:
    """Give the pods a priority class where they have none."""
    wanted = situation["priority-class"].value
    if wanted and not draft.get("spec", "template", "spec", "priorityClassName"):
        draft.inject(PRIORITY, wanted)


EXTRA = Mutation(
    apply=set_priority,
    fields=(PRIORITY,),
    settings=(
        Setting(
            "priority-class",
            parse_priority,
            off=None,
            default="none",
            takes="a name",
            help="gives the pods a priority class",
            examples=("high", "very-high"),
            refused=("High", "a b"),
        ),
    ),
)

# --- another, of a field in a container that the API server fills in -----------------------------

MESSAGE = Field(
    ("spec", "containers", "*", "terminationMessagePolicy"), "message-policy", stored="File"
)


def set_message_policy(draft: Draft, situation: Situation) -> None:
    """Have the last lines of a log say why a container ended, where nothing else does."""
    if situation["message-policy"].value != "FallbackToLogsOnError":
        return
    for each in containers(draft.root):
        if each.get("terminationMessagePolicy") in (None, "File"):
            draft.inject(MESSAGE, "FallbackToLogsOnError", name=each["name"])


OF_CONTAINERS = Mutation(
    apply=set_message_policy,
    fields=(MESSAGE,),
    settings=(
        Setting(
            "message-policy",
            one_of("File", "FallbackToLogsOnError"),
            off="File",
            default="File",
            takes="`File` `FallbackToLogsOnError`",
            help="where a container's last message comes from",
            examples=("File", "FallbackToLogsOnError"),
            refused=("file",),
        ),
    ),
)

# --- and one line each: the tuple ----------------------------------------------------------------

ALL = (*MUTATIONS, EXTRA, OF_CONTAINERS)

# What each mutation is asked for, and by what; a new mutation adds its line here or shares one.
ASKS: dict[str, Json] = {
    "pre-stop-sleep": {"pre-stop-sleep": "22s"},
    "pre-stop-existing": {"pre-stop-existing": "chain"},
    "native": {"pre-stop-existing": "native"},
    "shutdown-time": {"shutdown-time": "77s"},
    "max-grace": {"max-grace": "50s"},
    "min-ready": {"min-ready": "580s"},
    "readiness-gates": {"readiness-gates": "example.com/ours"},
    "precheck": {"precheck": "db:5432", "precheck-require": "any"},
    "precheck-resources": {"precheck": "db:5432", "precheck-resources": "2/1Gi"},
    "readiness-probe": {"readiness-probe": "tcp://:8080"},
    "strategy": {"strategy": "surge"},
    "priority-class": {"priority-class": "high"},
    "message-policy": {"message-policy": "FallbackToLogsOnError"},
    "everything": {
        "pre-stop-sleep": "22s",
        "pre-stop-existing": "chain",
        "shutdown-time": "77s",
        "min-ready": "580s",
        "readiness-gates": "example.com/ours",
        "precheck": "db:5432",
        "readiness-probe": "tcp://:8080",
        "strategy": "surge",
        "priority-class": "high",
        "message-policy": "FallbackToLogsOnError",
    },
}
PLAIN = worker("app", ports=[{"containerPort": 8080}])
FIXTURES: dict[str, Json] = {
    **{f"a plain {kind}": workload(kind, PLAIN) for kind in KINDS},
    **{
        f"a {kind} with everything": workload(
            kind,
            PLAIN,
            hooked(EXEC_QUIT, "quits"),
            container("busy", lifecycle={"postStart": {"exec": {"command": ["true"]}}}),
            pod={
                "initContainers": [sidecar("proxy"), worker("first")],
                "readinessGates": [{"conditionType": "example.com/own"}],
                "terminationGracePeriodSeconds": 41,
                "priorityClassName": None,
            },
            minReadySeconds=5,
            metadata={"annotations": {"note": "x"}},
        )
        for kind in KINDS
    },
    "a stored Deployment": fill_in(deployment(PLAIN)),
    "nulls": deployment(
        {**PLAIN, "lifecycle": None},
        pod={"initContainers": None, "readinessGates": None, "priorityClassName": None},
        metadata={"annotations": None},
    ),
    "a rolling update": deployment(PLAIN, **rolling(maxUnavailable=1, maxSurge=0)),
    "a short deadline": deployment(PLAIN, progressDeadlineSeconds=20),
    "sleeps of its own": deployment(
        hooked({"exec": {"command": ["/bin/sh", "-c", "sleep 0.5m"]}}), PLAIN
    ),
    "a negative grace period": deployment(PLAIN, pod={"terminationGracePeriodSeconds": -1}),
    "no grace period": deployment(PLAIN, pod={"terminationGracePeriodSeconds": 0}),
    "resources of its own": deployment(
        PLAIN,
        pod={
            "resources": {"requests": {"cpu": "60m"}, "limits": {"memory": "40Mi"}},
            "initContainers": [sidecar("proxy", resources={"limits": {"cpu": "10m"}})],
        },
    ),
    "one replica of a StatefulSet": workload("StatefulSet", PLAIN, replicas=1),
    "Windows": deployment(PLAIN, pod=WINDOWS),
    "a worker": deployment(worker()),
    "Recreate": deployment(PLAIN, strategy={"type": "Recreate"}),
    "a host port": deployment(container(ports=[{"containerPort": 80, "hostPort": 80}])),
    "its own priority": deployment(PLAIN, pod={"priorityClassName": "own"}),
}
NO_INHERITED_SLEEP = ("Recreate", "one replica of a StatefulSet", "no grace period")
"""The fixtures to which a sleep comes only by the workload's own word."""
BY = admission(mutations=ALL)
OLD = admission(mutations=ALL, server=OLD_SERVER)
WITHDRAWN = admission(mutations=ALL, namespace=namespaces({}))

fixtures = pytest.mark.parametrize("given", list(FIXTURES.values()), ids=list(FIXTURES))
asks = pytest.mark.parametrize("asked", list(ASKS.values()), ids=list(ASKS))
servers = pytest.mark.parametrize("by", [BY, OLD], ids=["a new server", "an old server"])


def asking(given: Json, asked: Json) -> Json:
    """Copy a workload with settings."""
    if given["metadata"].get("annotations", ...) is None:
        given = changed(given, "metadata", "annotations", to={})
    return with_settings(given, **asked)


def test_every_mutation_is_asked_for_here() -> None:
    """One that is added to the tuple comes under these tests."""
    for mutation in ALL:
        for setting in mutation.settings:
            asked = {name for each in ASKS.values() for name in each}
            assert setting.name in asked or setting.modifies in asked


@fixtures
@asks
@servers
def test_the_result_is_settled_and_valid(given: Json, asked: Json, by: Any) -> None:
    """Deciding again changes nothing; nothing that was valid is refused."""
    sent = asking(given, asked)
    result = after(sent, None, by)
    assert complaints(result) <= complaints(sent)
    for old in (None, result):
        assert not decide(result, old, by).operations


@fixtures
@asks
@servers
def test_opting_out_gives_back_the_original(given: Json, asked: Json, by: Any) -> None:
    """Byte for byte, and no record is left."""
    sent = asking(given, asked)
    result = after(sent, None, by)
    for old in (None, result):
        left = after(with_settings(result, inject="disabled"), old, by)
        assert canonical(left) == canonical(with_settings(sent, inject="disabled"))
    assert canonical(after(result, None, WITHDRAWN)) == canonical(sent)


@fixtures
@asks
def test_the_stored_form_is_settled(given: Json, asked: Json) -> None:
    """With what the API server fills in."""
    sent = fill_in(asking(given, asked))
    stored = fill_in(after(sent, None, BY))
    scaled = changed(stored, "spec", "revisionHistoryLimit", to=3)
    decision = decide(scaled, stored, BY)
    assert not decision.operations
    left = fill_in(after(with_settings(stored, inject="disabled"), stored, BY))
    assert canonical(left) == canonical(fill_in(with_settings(sent, inject="disabled")))


@fixtures
@asks
def test_a_removed_setting_leaves_nothing(given: Json, asked: Json) -> None:
    """As if it had never been set."""
    stored = after(asking(given, asked), None, BY)
    removed = with_settings(stored, **dict.fromkeys(asked, "none"))
    expected = after(asking(given, dict.fromkeys(asked, "none")), None, BY)
    assert canonical(after(removed, stored, BY)) == canonical(expected)


@fixtures
@asks
def test_inherited_settings_wait_for_the_next_rollout(given: Json, asked: Json) -> None:
    """The template stays in the cluster as it is; outside it they are followed at once."""
    defaults = admission({"defaults": asked}, mutations=ALL)
    stored = after(given, None, BY)
    scaled = changed(stored, "spec", "revisionHistoryLimit", to=3)
    decision = decide(scaled, stored, defaults)
    assert decision.kept
    assert not decision.restarts
    assert canonical(template_of(decision.result)) == canonical(template_of(stored))
    image = ("spec", "template", "spec", "containers", 0, "image")
    rolled = decide(changed(scaled, *image, to="new:2"), stored, defaults)
    fresh = after(changed(given, *image, to="new:2"), None, defaults)
    assert canonical(template_of(rolled.result)) == canonical(template_of(fresh))
    put = decide(given, stored, defaults)
    if record_of(stored, template=True):
        assert canonical(template_of(put.result)) == canonical(template_of(stored))


@fixtures
@asks
def test_what_was_patched_offline_restarts_nothing_when_it_is_sent_again(
    given: Json, asked: Json
) -> None:
    """A record made before the API server filled anything in is as good as one made after it."""
    plain = asking(given, asked)
    manifest = after(plain, None, BY)
    stored = fill_in(after(fill_in(manifest), None, BY))
    for sent in (manifest, plain):
        decision = decide(fill_in(sent), stored, BY)
        assert not decision.restarts
        assert canonical(template_of(decision.result)) == canonical(template_of(stored))


@fixtures
@asks
def test_a_dropped_map_of_annotations_restarts_nothing(given: Json, asked: Json) -> None:
    """As `kubectl apply` drops it with a manifest's last annotation: the old record counts."""
    inherited = admission({"defaults": asked}, mutations=ALL)
    stored = fill_in(after(fill_in(given), None, inherited))
    sent = changed(stored, "spec", "template", "metadata", "annotations", to=None)
    if (template_of(stored)["metadata"].get("annotations") or {}).keys() == {RECORD}:
        decision = decide(sent, stored, inherited)
        assert not decision.restarts
        assert canonical(template_of(decision.result)) == canonical(template_of(stored))


@fixtures
@asks
def test_a_rollback_brings_its_own_record_and_settles(given: Json, asked: Json) -> None:
    """The template of an earlier revision, over one that was made under other settings."""
    first = fill_in(after(fill_in(given), None, admission({"defaults": asked}, mutations=ALL)))
    image = ("spec", "template", "spec", "containers", 0, "image")
    second = fill_in(after(changed(first, *image, to="new:2"), first, BY))
    sent = changed(second, "spec", "template", to=template_of(first))
    decision = decide(sent, second, BY)
    assert not decision.refused
    assert complaints(decision.result) <= complaints(fill_in(given))
    assert not decide(decision.result, decision.result, BY).operations
    plain = fill_in(after(decision.result, None, WITHDRAWN))
    assert canonical(pod_of(plain)) == canonical(pod_of(fill_in(given)))


@fixtures
@asks
def test_audit_mode_says_what_it_would_do_and_patches_nothing(given: Json, asked: Json) -> None:
    """By the names of the settings."""
    sent = asking(given, asked)
    applied = ", ".join(decide(sent, None, BY).applied)
    found = response(sent, by=admission({"mode": "audit"}, mutations=ALL))
    assert found["allowed"] is True
    assert "patch" not in found
    if applied:
        expected = {"skipped": f"audit mode, would apply: {applied}"}
        assert found["auditAnnotations"] == expected


def test_reading_what_nobody_declares_raises_and_names_it() -> None:
    """In compiled code as in the source, whether a mapping, a list or a word is expected."""
    readers: tuple[Callable[[Json], object], ...] = (
        lambda each: each["securityContext"].get("runAsUser"),
        lambda each: bool(each["env"]),
        lambda each: each["imagePullPolicy"] == "Always",
        lambda each: [*each["args"]],
        lambda each: len(each["args"]),
        lambda each: "--a" in each["args"],
        lambda each: str(each["imagePullPolicy"]),
        lambda each: mapping(each["securityContext"]),
        lambda each: items(each["env"]),
        lambda each: native_sleep({"lifecycle": each["securityContext"]}),
    )
    unread = {
        "securityContext": {"runAsUser": 1},
        "env": [{"name": "A", "value": "b"}],
        "imagePullPolicy": "Always",
        "args": ["--a"],
    }
    (found,) = pod_of(request_of(review(deployment(container(**unread))), BY).object)["containers"]
    for read in readers:
        message = (
            r"spec\.template\.spec\.containers\[\*\]\.\w+ is not decoded: declare it in `reads`"
        )
        with pytest.raises((UndeclaredReadError, TypeError), match=message):
            read(found)


def test_what_a_mutation_declares_to_read_is_decoded() -> None:
    """Its fields, and whatever else it names."""
    reads = ((*TEMPLATE, "spec", "containers", "*", "env"), ("spec", "selector", "matchLabels"))
    by = admission(mutations=(dataclasses.replace(OF_CONTAINERS, reads=reads),))
    sent = deployment(container(env=[{"name": "A"}], terminationMessagePolicy="File"))
    read = request_of(review(sent), by).object
    (found,) = pod_of(read)["containers"]
    assert found["env"] == [{"name": "A"}]
    assert found["terminationMessagePolicy"] == "File"
    assert read["spec"]["selector"] == sent["spec"]["selector"]


@fixtures
@asks
def test_settings_are_the_same_from_every_layer(given: Json, asked: Json) -> None:
    """Of the template, the namespace and the configuration, for a workload that serves."""
    serving = (
        with_settings(given, inject="enabled")
        if given["metadata"].get("annotations", ...) is not None
        else changed(given, "metadata", "labels", to={"seamless-rollouts.dev/inject": "enabled"})
    )
    where = {"kindDefaults": {given["kind"]: asked}}
    by_configuration = decide(serving, None, admission(where, mutations=ALL))
    namespace = admission(mutations=ALL, namespace=namespaces(**asked))
    by_namespace = decide(serving, None, namespace)
    assert canonical(by_configuration.result) == canonical(by_namespace.result)
    on_template = with_settings(serving, template=True, **asked)
    if not any(given is FIXTURES[name] for name in NO_INHERITED_SLEEP):
        decision = decide(on_template, None, BY)
        assert pod_of(decision.result) == pod_of(by_namespace.result)
        assert decision.applied == by_namespace.applied


SETTINGS = {each.name: each for mutation in ALL for each in mutation.settings}


@pytest.mark.parametrize("name", SETTINGS)
def test_the_examples_of_each_setting_are_what_it_takes(name: str) -> None:
    """There are some of both sorts; the built-in value is one that it takes."""
    setting = SETTINGS[name]
    assert setting.examples
    assert setting.refused
    for text in (*setting.examples, setting.default, "none"):
        BY.table.parse(name, text)
    for text in setting.refused:
        with pytest.raises(InvalidSettingError):
            BY.table.parse(name, text)


@pytest.mark.parametrize(
    ("name", "bad"),
    [
        (name, bad)
        for name, setting in SETTINGS.items()
        for bad in ("", "?!", "a//b", "-1//", "\x00", *setting.refused)
    ],
)
def test_a_bad_value_of_each_setting_is_refused(name: str, bad: str) -> None:
    """On the workload and on its template; in a namespace it is skipped."""
    for place in ("says", "template_says"):
        found = response(deployment(**{place: {name: bad}}), by=BY)
        assert found["allowed"] is False
        assert name in found["status"]["message"]
    by = admission(mutations=ALL, namespace=namespaces(**{name: bad}))
    found = response(deployment(), by=by)
    assert found["allowed"] is True
    assert any(name in warning for warning in found["warnings"])
    with pytest.raises(InvalidSettingError):
        admission({"defaults": {name: bad}}, mutations=ALL)


@pytest.mark.parametrize("mutation", ALL, ids=lambda each: each.fields[0].setting)
def test_an_entry_of_each_field_that_says_nonsense_does_no_harm(mutation: Mutation) -> None:
    """Forged, or from another version."""
    for place in mutation.fields:
        for entry in (None, 5, [], {}, {"is": []}, {"is": {}}, {"is": 1, "was": []}, {"made": 9}):
            record = forged({place.key("app" if "*" in place.pattern else None): entry})
            layer = "template_says" if place.in_template else "says"
            sent = deployment(PLAIN, **{layer: {"injected": record}})
            result = after(sent, None, BY)
            assert not decide(result, None, BY).operations
            assert pod_of(result) == pod_of(after(deployment(PLAIN)))


@pytest.mark.parametrize("mutation", ALL, ids=lambda each: each.fields[0].setting)
def test_a_mutation_lies_on_one_side_of_the_template(mutation: Mutation) -> None:
    """What restarts pods and what does not is never decided by one."""
    assert len({each.in_template for each in mutation.fields}) == 1
    assert mutation.in_template is mutation.fields[0].in_template


@pytest.mark.parametrize("position", range(len(ALL)))
def test_all_or_nothing_holds_for_each(position: int) -> None:
    """One that raises takes the work of all others with it."""

    def fail(*_given: Any) -> None:
        raise ZeroDivisionError

    broken = list(ALL)
    broken[position] = dataclasses.replace(broken[position], apply=fail)
    found = response(asking(deployment(), ASKS["everything"]), by=admission(mutations=broken))
    assert found["allowed"] is True
    assert "patch" not in found
    assert found["auditAnnotations"] == {"skipped": "error"}


def test_the_extra_mutation_needed_one_file_and_one_line() -> None:
    """Its setting, record, audit annotation and way back follow by themselves."""
    given = deployment()
    sent = with_settings(given, **{"priority-class": "high"})
    decision = decide(sent, None, BY)
    assert pod_of(decision.result)["priorityClassName"] == "high"
    record = record_of(decision.result, template=True)
    assert record is not None
    assert record["fields"]["spec.priorityClassName"] == {"is": "high"}
    assert "priority-class" in decision.applied
    assert "priority-class" in response(sent, by=BY)["auditAnnotations"]["applied"]
    stored = decision.result
    higher = decide(with_settings(stored, **{"priority-class": "higher"}), stored, BY)
    assert higher.restarts
    assert pod_of(higher.result)["priorityClassName"] == "higher"
    own = changed(stored, "spec", "template", "spec", "priorityClassName", to="own")
    kept = after(own, stored, BY)
    assert pod_of(kept)["priorityClassName"] == "own"
    assert pod_of(after(with_settings(kept, inject="disabled"), kept, BY)) == {
        **pod_of(given),
        "priorityClassName": "own",
    }


def test_without_the_extra_mutation_its_setting_and_its_record_are_strangers() -> None:
    """A downgrade: the setting is unknown, and the entry names nothing."""
    stored = after(with_settings(deployment(), **{"priority-class": "high"}), None, BY)
    plain = admission()
    assert decide(deployment(says={"priority-class": "high"}), None, plain).refused
    left = after(with_settings(stored, inject="disabled"), stored, plain)
    assert pod_of(left)["priorityClassName"] == "high"
    assert record_of(left, template=True) is None
