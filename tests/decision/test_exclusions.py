"""Contract §8: `excludedNamespaces` and `exclude`; and `kindDefaults` beside them."""

from __future__ import annotations

import fnmatch
import re
from typing import Any

import pytest
from hypothesis import given as examples
from hypothesis import strategies as st

from tests.builders import (
    NAMESPACE,
    Json,
    admission,
    after,
    changed,
    decide,
    deployment,
    namespaces,
    record_of,
    request_of,
    review,
    with_settings,
    workload,
)
from webhook.decision.configuration import Configuration, ConfigurationError, parse
from webhook.decision.exclusions import matches
from webhook.decision.settings import InvalidSettingError

OWNER: Json = {"apiVersion": "db.example/v1", "kind": "Database", "name": "db", "uid": "1"}


@examples(st.text("ab*", max_size=12), st.text("ab", max_size=20))
def test_a_star_stands_for_any_characters_and_all_else_for_itself(pattern: str, text: str) -> None:
    """As `fnmatch` has it, where there is nothing but stars."""
    assert matches(pattern, text) == fnmatch.fnmatchcase(text, pattern)


@pytest.mark.parametrize("text", ["a?c", "a.c", "[ab]", "a+", "(a|b)", "\n"])
def test_no_other_character_stands_for_anything(text: str) -> None:
    """Neither for shells nor in regular expressions."""
    assert matches(text, text)
    assert not matches(text, "abc")
    assert not matches("a.c*", "abc")


def test_a_pattern_of_many_stars_is_searched_once() -> None:
    """What takes a backtracking matcher for ever: each part is looked for once, from left."""

    class Counted(str):
        """A text that counts how often it is searched."""

        __slots__ = ()
        searches = 0

        def find(self, *given: Any) -> int:  # type: ignore[override]
            """Count it."""
            Counted.searches += 1
            return super().find(*given)

    assert not matches("*a" * 30 + "*b*", Counted("a" * 250))
    assert Counted.searches <= 31


@pytest.mark.parametrize(
    ("item", "excluded"),
    [
        ({"namespace": NAMESPACE}, True),
        ({"namespace": "other"}, False),
        ({"kind": "Deployment"}, True),
        ({"kind": "*Set"}, False),
        ({"name": "web"}, True),
        ({"name": "we*"}, True),
        ({"name": "api"}, False),
        ({"owner": "db.example/Database"}, True),
        ({"owner": "*/Database"}, True),
        ({"owner": "db.*/*"}, True),
        ({"owner": "/Database"}, False),
        ({"owner": "db.example/Backup"}, False),
        ({"owner": "example/Database"}, False),
        ({"labels": {"tier": "data"}}, True),
        ({"labels": {"tier": "d*", "t*": "*"}}, True),
        ({"labels": {"tier": "web"}}, False),
        ({"labels": {"other": "*"}}, False),
        ({"name": "web", "labels": {"tier": "web"}}, False),
        ({"name": "api", "owner": "*/*"}, False),
        ({"namespace": "*", "kind": "*", "name": "*", "owner": "*/*", "labels": {"*": "*"}}, True),
    ],
    ids=str,
)
def test_all_of_an_item_must_hold_to_exclude_a_workload(item: Json, *, excluded: bool) -> None:
    """By bytes, as the owner references then come undecoded."""
    given = deployment(
        says={"inject": "enabled", "min-ready": "nonsense"},
        metadata={"name": "web", "ownerReferences": [OWNER], "labels": {"tier": "data"}},
    )
    by = admission({"exclude": [{"name": "never"}, item]})
    decision = by.decide(request_of(review(given)))
    assert (decision.skipped == "excluded-workload") is excluded
    assert bool(decision.refused) is not excluded  # nothing of it is even read
    assert not decision.operations


def test_the_prefix_of_a_name_that_is_not_made_yet_counts_as_the_name() -> None:
    """The API server makes it after admission."""
    given = deployment(metadata={"name": None, "generateName": "db-"})
    assert decide(given, by=admission({"exclude": [{"name": "db-*"}]})).skipped


def test_what_an_operator_owns_stays_as_it_put_it_with_its_opt_out_stripped() -> None:
    """Create, a person's opt-out, and the operator's PUT without it: never touched."""
    by = admission({"scope": "cluster", "exclude": [{"owner": "db.example/*"}]})
    plain = workload("StatefulSet", metadata={"ownerReferences": [OWNER]})
    for new, old in (
        (plain, None),
        (with_settings(plain, inject="disabled"), plain),
        (plain, with_settings(plain, inject="disabled")),
    ):
        assert decide(new, old, by=by).operations == ()


def test_a_record_of_an_excluded_workload_stays() -> None:
    """Outside the exclusions only are records taken out."""
    treated = after(deployment())
    by = admission({"exclude": [{"kind": "Deployment"}]})
    assert decide(with_settings(treated, inject="disabled"), treated, by=by).operations == ()
    assert record_of(treated, template=True)


@pytest.mark.parametrize("metadata", [{"labels": []}, {"ownerReferences": {}}, None])
def test_metadata_of_any_shape_is_excluded_or_malformed_and_never_an_error(metadata: Any) -> None:
    """Custom resources may hold anything."""
    by = admission({"exclude": [{"name": "x", "owner": "*/*", "labels": {"*": "*"}}]})
    given = changed(deployment(), "metadata", to=metadata)
    decide(given, by=by)
    owned = changed(deployment(), "metadata", "ownerReferences", to=[None, 1, {"kind": 2}])
    assert decide(owned, by=admission({"exclude": [{"owner": "*/*"}]})).operations


@pytest.mark.parametrize(
    ("name", "excluded"),
    [("openshift-dns", True), ("openshift", False), ("gate-system", True), ("shop", False)],
)
def test_namespaces_are_excluded_by_pattern(name: str, *, excluded: bool) -> None:
    """A platform brings dozens of them."""
    by = admission(
        {"excludedNamespaces": ["openshift-*", "*-system"]},
        namespace=namespaces({"inject": "enabled"}),
    )
    decision = decide(deployment(metadata={"namespace": name}), by=by)
    assert (decision.skipped == "excluded-namespace") is excluded
    assert bool(decision.operations) is not excluded


@pytest.mark.parametrize(
    ("text", "told"),
    [
        ("excludedNamespaces: [Team_A]", "excludedNamespaces.0: 'Team_A'"),
        ("excludedNamespaces: ['']", "expected a namespace's name"),
        ("excludedNamespaces: ['-*']", "or '*' for any"),
        ("exclude: [{}]", "exclude.0: {}: Value error, an empty item would exclude everything"),
        ("exclude: [{labels: {}}]", "an empty item would exclude everything"),
        ("exclude: [{nme: a}]", "exclude.0.nme: unknown key; known are namespace, kind, name"),
        ("exclude: [{kind: Deploymnt}]", "expected one of Deployment, StatefulSet, DaemonSet"),
        ("exclude: [{owner: Database}]", "expected GROUP/KIND, such as"),
        ("exclude: [{owner: a/b/c}]", "expected GROUP/KIND"),
        ("exclude: [{name: 'a b'}]", "expected a name: lower-case letters"),
        ("exclude: [{name: '[ab]'}]", "expected a name: lower-case letters"),
        ("exclude: [{labels: {'a b': c}}]", "expected a label's key"),
        ("exclude: [{labels: {a: 'b c'}}]", "expected a label's value"),
        ("exclude: {name: a}", "exclude: "),
        ("kindDefaults: {Deploymnt: {}}", "kindDefaults.Deploymnt"),
    ],
)
def test_a_bad_exclusion_is_told_with_what_would_be_right(text: str, told: str) -> None:
    """Where, what it was, and what is expected."""
    with pytest.raises(ConfigurationError, match=re.escape(told)):
        parse(text, "config.yaml")


def test_label_values_that_yaml_reads_as_numbers_are_text() -> None:
    """Labels are strings."""
    found = parse("exclude: [{labels: {a: 1}}]", "config.yaml")
    assert found.exclude[0].labels == {"a": "1"}


# --- kindDefaults --------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("configuration", "kind", "seconds"),
    [
        ({}, "Deployment", 30),
        ({}, "DaemonSet", None),
        ({"defaults": {"min-ready": "10s"}}, "DaemonSet", None),
        ({"kindDefaults": {"DaemonSet": {"min-ready": "20s"}}}, "DaemonSet", 20),
        ({"kindDefaults": {"DaemonSet": {"pre-stop-sleep": "20s"}}}, "DaemonSet", None),
        ({"kindDefaults": {"StatefulSet": {"min-ready": "20s"}}}, "StatefulSet", 20),
        ({"kindDefaults": {"StatefulSet": {"min-ready": "20s"}}}, "Deployment", 30),
        (
            {"defaults": {"min-ready": "5s"}, "kindDefaults": {"Rollout": {"min-ready": "none"}}},
            "Rollout",
            None,
        ),
    ],
    ids=str,
)
def test_what_is_said_of_a_kind_stands_above_what_is_said_of_all(
    configuration: Json, kind: str, seconds: int | None
) -> None:
    """The built-in one, that of DaemonSets, merged with the user's setting by setting."""
    result = after(workload(kind), by=admission(configuration))
    assert result["spec"].get("minReadySeconds") == seconds


def test_a_namespace_and_a_workload_stand_above_kind_defaults() -> None:
    """They are nearer."""
    configuration = {"kindDefaults": {"Deployment": {"min-ready": "20s"}}}
    by = admission(configuration, namespace=namespaces(min_ready="40s", **{"min-ready": "40s"}))
    assert after(deployment(), by=by)["spec"]["minReadySeconds"] == 40
    own = deployment(says={"min-ready": "50s"})
    assert after(own, by=by)["spec"]["minReadySeconds"] == 50


def test_kind_defaults_are_inherited_by_what_serves_alone() -> None:
    """As all that is inherited; what only modifies follows what it modifies."""
    by = admission({"kindDefaults": {"Deployment": {"min-ready": "9s", "shutdown-time": "50s"}}})
    silent = deployment({"name": "a", "image": "a"})
    assert decide(silent, by=by).skipped == "not-serving"
    sleeping = deployment({"name": "a", "image": "a"}, says={"pre-stop-sleep": "5s"})
    result = after(sleeping, by=by)
    assert result["spec"]["template"]["spec"]["terminationGracePeriodSeconds"] == 55
    assert "minReadySeconds" not in result["spec"]


def test_the_layer_of_a_kind_is_named() -> None:
    """For `plan`: where a value comes from."""
    by = admission({"kindDefaults": {"Deployment": {"min-ready": "9s"}}})
    situation = decide(deployment(), by=by).situation
    assert situation is not None
    assert situation["min-ready"].source == "kind defaults"
    assert situation["pre-stop-sleep"].source == "built in"


def test_a_bad_kind_default_is_told_with_its_place() -> None:
    """As one of `defaults`."""
    told = re.escape('kindDefaults.Rollout.min-ready: "soon": ')
    with pytest.raises(InvalidSettingError, match=told):
        admission({"kindDefaults": {"Rollout": {"min-ready": "soon"}}})
    with pytest.raises(InvalidSettingError, match="did you mean min-ready"):
        admission({"kindDefaults": {"Rollout": {"min-redy": "5s"}}})
    Configuration.model_validate({"kindDefaults": {"Rollout": {"min-ready": 5}}})
