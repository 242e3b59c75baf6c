"""What must hold for every workload and every setting."""

from __future__ import annotations

import copy
from collections.abc import Iterator
from typing import Any

import pytest
from hypothesis import assume, given
from hypothesis import strategies as st

from tests.builders import (
    EXEC_QUIT,
    OLD_SERVER,
    PREFIX,
    RECORD,
    Json,
    admission,
    after,
    apply,
    canonical,
    changed,
    decide,
    hooked,
    namespaces,
    pod_of,
    record_of,
    template_of,
    with_settings,
    worker,
)
from tests.builders import workload as build
from tests.decision import strategies as drawn
from tests.decision.apiserver import fill_in
from tests.decision.validation import VERSIONS, complaints, fits_schema
from webhook.decision.admission import Admission

OPT_OUT = PREFIX + "inject"


def by(configuration: Json, said: Json, *, old_server: bool) -> Admission:
    """Make an admission that knows the namespace and what it says."""
    return admission(
        configuration,
        namespace=namespaces(**said),
        server=OLD_SERVER if old_server else None,
    )


ADMISSIONS = st.builds(by, drawn.CONFIGURATIONS, drawn.said(), old_server=st.booleans())


def opted_out(result: Json, before: Json, admitted: Admission, old: Json | None) -> Json:
    """Opt out, and give what is left without the opt-out itself."""
    sent = copy.deepcopy(result)
    metadata = sent["metadata"]
    metadata["annotations"] = {**(metadata.get("annotations") or {}), OPT_OUT: "disabled"}
    left = after(sent, old, admitted)
    given_annotations = before["metadata"].get("annotations", ...)
    annotations = left["metadata"]["annotations"]
    del annotations[OPT_OUT]
    if isinstance(given_annotations, dict) and OPT_OUT in given_annotations:
        annotations[OPT_OUT] = given_annotations[OPT_OUT]
    if not annotations and given_annotations is ...:
        del left["metadata"]["annotations"]
    elif not annotations:
        left["metadata"]["annotations"] = given_annotations
    return left


@given(drawn.workloads(duplicates=True), ADMISSIONS)
def test_the_patch_gives_the_decided_object_and_deciding_again_changes_nothing(
    workload: Json, admitted: Admission
) -> None:
    """As a new object, and as an update of itself."""
    result = after(workload, None, admitted)  # `decide` holds patch against result
    assert not decide(result, None, admitted).operations
    again = decide(result, result, admitted)
    assert not again.operations
    assert not again.restarts


@given(drawn.workloads(), ADMISSIONS)
def test_opting_out_gives_back_the_original_byte_for_byte(
    workload: Json, admitted: Admission
) -> None:
    """Apart from the opt-out itself; wherever the original was valid."""
    assume(not complaints(workload))
    result = after(workload, None, admitted)
    for old in (None, result):
        left = opted_out(result, workload, admitted, old)
        assert canonical(left) == canonical(workload)


@given(drawn.workloads(), ADMISSIONS)
def test_a_withdrawn_namespace_gives_back_the_original_at_the_next_rollout(
    workload: Json, admitted: Admission
) -> None:
    """Byte for byte, without any word on the workload."""
    assume(not complaints(workload))
    for target in (workload, template_of(workload)):
        (target["metadata"].get("annotations") or {}).pop(OPT_OUT, None)
    result = after(workload, None, admitted)
    withdrawn = admission(namespace=namespaces({}))
    image = ("spec", "template", "spec", "containers", 0, "image")
    rolled = changed(result, *image, to="new:2")
    left = after(rolled, result, withdrawn)
    assert canonical(left) == canonical(changed(workload, *image, to="new:2"))


WRITTEN = {
    ("spec", "minReadySeconds"),
    ("spec", "progressDeadlineSeconds"),
    ("spec", "strategy", "rollingUpdate", "maxUnavailable"),
    ("spec", "strategy", "rollingUpdate", "maxSurge"),
    ("spec", "updateStrategy", "rollingUpdate", "maxUnavailable"),
    ("spec", "updateStrategy", "rollingUpdate", "maxSurge"),
    ("metadata", "annotations", RECORD),
    ("spec", "template", "metadata", "annotations", RECORD),
    ("spec", "template", "spec", "terminationGracePeriodSeconds"),
}


def leaves(node: Any, path: tuple[Any, ...] = ()) -> Iterator[tuple[tuple[Any, ...], Any]]:
    """Walk the values of an object that are no mappings or lists, and those that are empty."""
    if isinstance(node, dict) and node:
        for key, value in node.items():
            yield from leaves(value, (*path, key))
    elif isinstance(node, list) and node:
        for index, value in enumerate(node):
            of_containers = path[-1] in {"containers", "initContainers"}
            name = value.get("name") if of_containers else None
            yield from leaves(value, (*path, name or index))
    else:
        yield path, node


@given(drawn.workloads(), ADMISSIONS)
def test_what_the_user_wrote_survives_and_so_does_what_is_unknown(
    workload: Json, admitted: Admission
) -> None:
    """Whatever is not a field of the settings, and every field that is null no more."""
    result = dict(leaves(after(workload, None, admitted)))
    for path, value in leaves(workload):
        if path in WRITTEN or path[-1] in {"annotations", "lifecycle"}:
            continue
        if value is None or value in ({}, []):
            continue
        if "preStop" in path and "exec" in path:  # may be chained
            continue
        assert path in result, path
        assert canonical(result[path]) == canonical(value), path


@given(drawn.workloads(), ADMISSIONS)
def test_only_the_fields_of_the_settings_are_written(workload: Json, admitted: Admission) -> None:
    """And nothing beside them."""
    allowed = ("lifecycle", "preStop"), ("readinessProbe",), ("readinessGates",)
    before = dict(leaves(workload))
    for path, value in leaves(after(workload, None, admitted)):
        if path in before and canonical(before[path]) == canonical(value):
            continue
        if path in WRITTEN or "seamless-precheck" in path:
            continue
        below = path[5:]
        tails = (path[3:], below)
        assert any(tail[: len(each)] == each for tail in tails for each in allowed), path


@given(drawn.workloads(), ADMISSIONS)
def test_the_result_is_valid_wherever_the_input_was(workload: Json, admitted: Admission) -> None:
    """By the schemas of every version, and by the rules that no schema says."""
    result = after(workload, None, admitted)
    assert complaints(result) <= complaints(workload)
    for version in (VERSIONS[0], VERSIONS[-1]):
        if fits_schema(workload, version):
            assert fits_schema(result, version)


@pytest.mark.parametrize("version", VERSIONS)
def test_the_result_fits_the_schema_of_each_version(version: str) -> None:
    """One workload that shows everything that is ever injected, for each kind."""
    for kind in ("Deployment", "StatefulSet", "DaemonSet"):
        says = {
            "precheck": "db:5432 mq:5672",
            "readiness-gates": "example.com/ready",
            "readiness-probe": "http://:8080/health",
            "strategy": "surge",
            "pre-stop-existing": "chain",
        }
        workload = everything(kind, says)
        assert fits_schema(workload, version)
        for server in (None, OLD_SERVER):
            assert fits_schema(after(workload, None, admission(server=server)), version)


def everything(kind: str, says: Json) -> Json:
    """Give a workload on which every mutation finds something to do."""
    return build(
        kind, worker("app", ports=[{"containerPort": 8080}]), hooked(EXEC_QUIT, "b"), says=says
    )


@given(drawn.workloads(), ADMISSIONS)
def test_deciding_from_the_stored_form_changes_nothing(workload: Json, admitted: Admission) -> None:
    """With everything that the API server fills in, before the request and after the patch."""
    sent = fill_in(workload)
    assume(not complaints(sent))
    stored = fill_in(after(sent, None, admitted))
    assert not complaints(stored)
    for old in (None, stored):
        again = fill_in(after(stored, old, admitted))
        assert canonical(again) == canonical(stored)
    left = fill_in(opted_out(stored, sent, admitted, stored))
    assert canonical(left) == canonical(sent)


@given(drawn.workloads(), ADMISSIONS, ADMISSIONS)
def test_a_put_of_the_same_words_never_restarts_pods(
    workload: Json, admitted: Admission, changed_settings: Admission
) -> None:
    """Whatever the settings say by then."""
    sent = fill_in(workload)
    assume(not complaints(sent))
    stored = fill_in(after(sent, None, admitted))
    decision = decide(sent, stored, changed_settings)
    assert not decision.restarts
    if decision.kept:
        assert canonical(template_of(decision.result)) == canonical(template_of(stored))
    else:
        assert canonical(template_of(stored)) == canonical(template_of(sent))


@given(drawn.workloads(), ADMISSIONS)
def test_a_manifest_that_was_patched_offline_is_the_same_in_the_cluster(
    workload: Json, admitted: Admission
) -> None:
    """Nulls and absent fields in its record do not make a rollout, nor get in the way back."""
    assume(not complaints(fill_in(workload)))
    planned = after(workload, None, admitted)
    stored = fill_in(after(fill_in(planned), None, admitted))
    decision = decide(fill_in(workload), stored, admission({"defaults": {"pre-stop-sleep": "5"}}))
    if record_of(stored, template=True) is not None:
        assert not decision.restarts
    left = fill_in(opted_out(stored, fill_in(workload), admitted, stored))
    assert canonical(left) == canonical(fill_in(workload))


@given(drawn.workloads(), ADMISSIONS, st.sampled_from(sorted(drawn.SETTINGS)), st.data())
def test_a_changed_setting_decides_as_if_it_had_always_been_so(
    workload: Json, admitted: Admission, name: str, data: st.DataObject
) -> None:
    """The decision is always made from what the user wrote."""
    assume(not complaints(workload))
    value = data.draw(st.sampled_from(drawn.SETTINGS[name]))
    result = after(workload, None, admitted)
    annotations = workload["metadata"].get("annotations")
    assume(annotations)
    from_result = after(with_settings(result, **{name: value}), None, admitted)
    from_scratch = after(with_settings(workload, **{name: value}), None, admitted)
    assert canonical(from_result) == canonical(from_scratch)


HOLLOW = [("spec",), ("spec", "template"), ("spec", "template", "spec"), ("metadata",)]
"""Places without which there is no workload: only a file can have a null there."""


@pytest.mark.parametrize("path", HOLLOW)
@pytest.mark.parametrize("says", [{}, {"shutdown-time": "1m", "readiness-gates": "a"}])
def test_nulls_where_a_workload_has_its_bones_do_no_harm(path: tuple[str, ...], says: Json) -> None:
    """What is recorded is read back, or else nothing is injected."""
    sent = changed(build("Deployment", says={"inject": "enabled", **says}), *path, to=None)
    result = after(sent)
    assert not decide(result).operations
    assert not decide(result, result).operations
    if path == ("metadata",):
        withdrawn = admission(namespace=namespaces({"inject": "disabled"}))
        left = after(result, None, withdrawn, namespace="shop")
        assert canonical(left) == canonical(sent)
    else:
        left = after(with_settings(result, inject="disabled"), result)
        assert canonical(left) == canonical(with_settings(sent, inject="disabled"))


@given(drawn.workloads(duplicates=True), ADMISSIONS, st.data())
def test_nulls_anywhere_do_no_harm(
    workload: Json, admitted: Admission, data: st.DataObject
) -> None:
    """A null in place of any value: decided without an error, and decided again the same."""
    paths = [path for path in every_path(workload) if path and path not in HOLLOW]
    path = data.draw(st.sampled_from(paths))
    sent = changed(workload, *path, to=None)
    result = apply(sent, decide(sent, None, admitted).operations)
    assert not decide(result, None, admitted).operations
    assert not decide(result, result, admitted).operations


def every_path(node: Any, path: tuple[Any, ...] = ()) -> Iterator[tuple[Any, ...]]:
    """Walk every place of an object."""
    yield path
    items: Any = ()
    if isinstance(node, dict):
        items = node.items()
    elif isinstance(node, list):
        items = enumerate(node)
    for key, value in items:
        yield from every_path(value, (*path, key))


@given(drawn.workloads(), ADMISSIONS)
def test_records_are_written_only_where_something_is_injected(
    workload: Json, admitted: Admission
) -> None:
    """And name only what differs."""
    decision = decide(workload, None, admitted)
    result = apply(workload, decision.operations)
    for template in (True, False):
        record = record_of(result, template=template)
        assert record is None or record["fields"]
    differs = canonical(pod_of(result)) != canonical(pod_of(workload))
    assert differs == (record_of(result, template=True) is not None)
    assert bool(decision.applied) == bool(decision.operations)
