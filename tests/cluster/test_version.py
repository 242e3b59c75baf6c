"""What the cluster can carry: nodes and the CRD of Argo Rollouts, asked for with least rights."""

from __future__ import annotations

import copy
import logging
from typing import Any

import pytest

from tests.cluster.fake_api import NODES, FakeApi, Fault, Request
from webhook.cluster.version import (
    CRD_PATH,
    ClusterWatch,
    keeps_sleep,
    oldest_node,
    summary,
)
from webhook.cluster.workloads import Workloads
from webhook.decision.mutations.model import UNKNOWN_CLUSTER, Cluster, ServerVersion

Json = dict[str, Any]
COLLECTION, _, NAME = CRD_PATH.rpartition("/")


def crd(pre_stop: Json, *, version: str = "v1alpha1", **more: Any) -> Json:
    """Build a CRD with this schema of a preStop hook."""
    schema: Json = pre_stop
    for key in ("preStop", "lifecycle", "", "containers", "spec", "template", "spec"):
        if key:
            schema = {"type": "object", "properties": {key: schema}}
        else:
            schema = {"type": "array", "items": schema}
    version_of = {"name": version, "served": True, "schema": {"openAPIV3Schema": schema}}
    spec = {"group": "argoproj.io", "versions": [version_of], **more}
    return {"metadata": {"uid": "u", "generation": 1}, "spec": spec}


EXEC: Json = {"type": "object", "properties": {"exec": {"type": "object"}}}
SLEEP: Json = {
    "type": "object",
    "properties": {"sleep": {"type": "object", "properties": {"seconds": {"type": "integer"}}}},
}
PRESERVES: Json = {"type": "object", "x-kubernetes-preserve-unknown-fields": True}


def preserving_above() -> Json:
    """Build a CRD that keeps unknown fields of the pod's spec, whose containers it knows."""
    found = crd(EXEC)
    schema = found["spec"]["versions"][0]["schema"]["openAPIV3Schema"]
    pod = schema["properties"]["spec"]["properties"]["template"]["properties"]["spec"]
    pod["x-kubernetes-preserve-unknown-fields"] = True
    return found


@pytest.mark.parametrize(
    ("given", "expected"),
    [
        (crd(SLEEP), True),
        (crd(EXEC), False),
        (crd(PRESERVES), True),
        (crd({**EXEC, "x-kubernetes-preserve-unknown-fields": True}), True),
        (crd({"type": "object", "additionalProperties": True}), True),
        (crd({"type": "object", "properties": {"sleep": {"type": "object"}}}), False),
        (crd({"type": "object", "properties": {"sleep": PRESERVES}}), True),
        (crd(EXEC, preserveUnknownFields=True), True),
        (preserving_above(), False),  # below a property that is known, pruning begins again
        (crd(SLEEP, version="v2"), None),
        ({"spec": {"versions": [{"name": "v1alpha1", "schema": {}}]}}, False),
        ({"spec": {"versions": "none"}}, None),
        ({}, None),
    ],
)
def test_a_crd_keeps_a_sleep_where_its_schema_has_it_or_keeps_what_it_has_not(
    given: Json,
    expected: bool | None,  # noqa: FBT001 - a column of the table
) -> None:
    """As the API server prunes."""
    assert keeps_sleep(given) is expected


def node(fake: FakeApi, name: str, version: Any) -> None:
    """Have a node of a version."""
    fake.put(NODES, name, {"metadata": {}, "version": version})


@pytest.mark.parametrize(
    ("versions", "expected"),
    [
        ([], None),
        (["v1.30.2"], (1, 30)),
        (["v1.31.0", "v1.29.9-gke.1", "v1.30.1-eks-abc"], (1, 29)),
        (["v1.9.1", "v1.30.0"], (1, 9)),
        (["", "v1.30.0", None, 3, "unknown"], (1, 30)),
    ],
)
def test_the_oldest_node_is_found_whatever_the_others_say(
    fake: FakeApi, versions: list[Any], expected: tuple[int, int] | None
) -> None:
    """A node that has just come tells no version yet."""
    for number, version in enumerate(versions):
        node(fake, f"node-{number}", version)
    assert oldest_node(fake.api().request) == expected


def test_nodes_are_listed_page_by_page_as_a_table_without_virtual_ones(fake: FakeApi) -> None:
    """Bounded, however many there are: whole nodes have tens of kilobytes each."""
    for number in range(1201):
        node(fake, f"node-{number:04}", "v1.30.0" if number < 1200 else "v1.29.0")
    assert oldest_node(fake.api().request) == (1, 29)
    asked = fake.asked("GET", NODES)
    assert [each.query["limit"] for each in asked] == ["500"] * 3
    assert {each.query["labelSelector"] for each in asked} == {"type!=virtual-kubelet"}
    assert {each.query["includeObject"] for each in asked} == {"None"}


def test_what_is_an_answer_of_another_shape_tells_no_version() -> None:
    """Never an error of ours."""
    for page in ({}, {"rows": [{}]}, {"columnDefinitions": [{"name": "Version"}], "rows": [{}, 3]}):
        assert oldest_node(lambda *_args, page=page, **_more: page) is None


def test_the_cluster_is_learned_and_the_crd_read_again_only_where_it_changed(
    fake: FakeApi,
) -> None:
    """A CRD of Argo Rollouts has a megabyte and more."""
    node(fake, "a", "v1.29.0")
    fake.put(COLLECTION, NAME, crd(EXEC))
    watch = ClusterWatch(fake.api())
    assert watch.cluster() == UNKNOWN_CLUSTER
    watch.step()
    expected = Cluster(ServerVersion(1, 30), ServerVersion(1, 29), rollout_sleep=False)
    assert watch.cluster() == expected
    assert len(fake.asked("GET", CRD_PATH)) == 2  # its metadata, then all of it
    watch.step()
    assert len(fake.asked("GET", CRD_PATH)) == 3
    changed = copy.deepcopy(crd(SLEEP))
    changed["metadata"]["generation"] = 2
    fake.put(COLLECTION, NAME, changed)
    fake.delete(NODES, "a")
    node(fake, "b", "v1.31.0")
    watch.step()
    assert watch.cluster() == (ServerVersion(1, 30), ServerVersion(1, 31), True)
    fake.delete(COLLECTION, NAME)
    watch.step()
    assert watch.cluster().rollout_sleep is None


def refuse(request: Request) -> Fault | None:
    """Answer as where the rights are missing."""
    return Fault(403) if request.path in (NODES, CRD_PATH) else None


def test_what_we_may_not_ask_is_unknown_and_told_once(
    fake: FakeApi, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The rights are optional; the API server's version needs none."""
    monkeypatch.setattr(logging.getLogger("webhook"), "propagate", True)
    fake.faults.append(refuse)
    watch = ClusterWatch(fake.api())
    with caplog.at_level(logging.INFO, "webhook"):
        for _ in range(3):
            assert watch.step() > 200
    assert watch.cluster() == (ServerVersion(1, 30), None, None)
    # By identity: the one handler of all tests may hang on two loggers by what ran before.
    records = {id(each): each.getMessage() for each in caplog.records}
    told = [text for text in records.values() if "may not" in text]
    assert len(told) == 2
    assert "list nodes" in told[0]
    assert "get customresourcedefinitions rollouts.argoproj.io" in told[1]


def test_what_was_learned_outlives_errors(fake: FakeApi) -> None:
    """An answer that fails is no news."""
    node(fake, "a", "v1.29.0")
    watch = ClusterWatch(fake.api())
    watch.step()
    before = watch.cluster()
    fake.faults.append(lambda _request: Fault(503))
    assert watch.step() < 1
    assert watch.cluster() == before


def test_commands_see_what_the_webhook_sees(fake: FakeApi) -> None:
    """Else `status` would call stale what is not."""
    node(fake, "a", "v1.29.0")
    fake.put(COLLECTION, NAME, crd(EXEC))
    found = Workloads(fake.api()).cluster()
    assert found == (ServerVersion(1, 30), ServerVersion(1, 29), False)
    told: list[str] = []
    fake.faults.append(refuse)
    found = Workloads(fake.api(), tell=told.append).cluster()
    assert found == (ServerVersion(1, 30), None, None)
    assert "resources [nodes], verbs [list]" in told[0]
    assert "resources [customresourcedefinitions], verbs [get]" in told[1]


def test_a_cluster_is_told_in_one_line() -> None:
    """For the log."""
    assert summary(UNKNOWN_CLUSTER).count("unknown") == 3
    known = Cluster(ServerVersion(1, 31), ServerVersion(1, 29), rollout_sleep=False)
    assert summary(known) == (
        "API server 1.31, oldest node 1.29, native sleep of Rollouts not kept"
    )
