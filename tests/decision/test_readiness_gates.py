"""Contract §2, "Readiness gates"."""

from __future__ import annotations

from typing import Any

import pytest

from tests.builders import (
    KINDS,
    Json,
    after,
    canonical,
    codes,
    decide,
    deployment,
    pod_of,
    template_changed,
    with_settings,
    workload,
)

AWS = "target-health.elbv2.k8s.aws/web"


def gates(result: Json) -> list[Any] | None:
    """Give the condition types of the readiness gates."""
    found = pod_of(result).get("readinessGates")
    return None if found is None else [each["conditionType"] for each in found]


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize(
    ("given", "setting", "expected"),
    [
        (..., AWS, [AWS]),
        (None, AWS, [AWS]),
        ([], AWS, [AWS]),
        (["cloud.google.com/a"], AWS, ["cloud.google.com/a", AWS]),
        ([AWS], AWS, [AWS]),
        ([AWS, AWS], AWS, [AWS, AWS]),
        (["a"], f"b {AWS},a", ["a", "b", AWS]),
        (["a"], "none", ["a"]),
    ],
)
def test_gates_are_appended_and_none_twice(
    kind: str, given: Any, setting: str, expected: list[str]
) -> None:
    """Taking them away gives back the list, or its absence, exactly."""
    built = workload(kind, says={"readiness-gates": setting})
    if given is not ...:
        gates_given = None if given is None else [{"conditionType": each} for each in given]
        pod_of(built)["readinessGates"] = gates_given
    result = after(built)
    assert gates(result) == expected
    left = after(with_settings(result, inject="disabled"), result)
    assert canonical(pod_of(left)) == canonical(pod_of(built))


@pytest.mark.parametrize(
    "name",
    ["Ready", "a/b", "example.com/A-b_c.d", "sub.example.com/" + "x" * 63, "0/0", AWS],
)
def test_qualified_names_are_taken(name: str) -> None:
    """As the API server takes them."""
    assert gates(after(deployment(says={"readiness-gates": name}))) == [name]


@pytest.mark.parametrize(
    ("name", "known"),
    [
        (AWS, True),
        ("cloud.google.com/load-balancer-neg-ready", True),
        ("example.com/ready", False),
        ("target-health.elbv2.k8s.awsome/x", False),
        ("Ready", False),
    ],
)
@pytest.mark.parametrize("by_setting", [True, False])
def test_a_gate_whose_prefix_no_known_controller_sets_draws_a_warning(
    name: str,
    known: bool,  # noqa: FBT001 - a table's column
    by_setting: bool,  # noqa: FBT001 - a table's column
) -> None:
    """A missing condition counts as False: such a gate keeps the pod unready for ever."""
    given = (
        deployment(says={"readiness-gates": name})
        if by_setting
        else deployment(pod={"readinessGates": [{"conditionType": name}]})
    )
    assert codes(decide(given)) == (set() if known else {"unknown-gate"})


def test_a_changed_setting_replaces_the_old_gate() -> None:
    """The old one leaves, the user's stay."""
    given = deployment(
        says={"readiness-gates": "a b"}, pod={"readinessGates": [{"conditionType": "own"}]}
    )
    stored = after(given)
    sent = with_settings(stored, readiness_gates="b c")
    decision = decide(sent, stored)
    assert decision.restarts
    assert gates(decision.result) == ["own", "b", "c"]


def test_a_gate_that_the_user_adds_stays() -> None:
    """Beside ours, and after they have gone."""
    stored = after(deployment(says={"readiness-gates": "a"}))
    sent = template_changed(
        stored, "readinessGates", to=[{"conditionType": "a"}, {"conditionType": "own"}]
    )
    result = after(sent, stored)
    assert sorted(gates(result) or []) == ["a", "own"]
    assert gates(after(with_settings(result, readiness_gates=None), result)) == ["own"]


@pytest.mark.parametrize("condition", [None, 5, [], {}, ["a"]])
def test_gates_of_other_shapes_do_no_harm(condition: Any) -> None:
    """They are the user's."""
    given = deployment(
        says={"readiness-gates": "a"}, pod={"readinessGates": [{"conditionType": condition}, {}]}
    )
    kept = pod_of(after(given))["readinessGates"]
    assert kept[:2] == [{"conditionType": condition}, {}]
