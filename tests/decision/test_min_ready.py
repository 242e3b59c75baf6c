"""Contract §2, "minReadySeconds" and "progressDeadlineSeconds"."""

from __future__ import annotations

import copy
from typing import Any

import pytest

from tests.builders import (
    KINDS,
    Json,
    after,
    canonical,
    changed,
    decide,
    with_settings,
    worker,
    workload,
)

WITH_DEADLINE = ("Deployment", "Rollout")


def fields(result: Json) -> tuple[Any, Any]:
    """Give `minReadySeconds` and `progressDeadlineSeconds`."""
    spec = result["spec"]
    return spec.get("minReadySeconds"), spec.get("progressDeadlineSeconds")


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize(
    ("given", "setting", "expected"),
    [
        (..., "30s", 30),
        (None, "30s", 30),
        (0, "30s", 30),
        (10, "30s", 30),
        (30, "30s", 30),
        (31, "30s", 31),
        (4000, "1h", 4000),
        (10, "0", 10),
        (10, "none", 10),
        (..., "none", ...),
        (None, "0", None),
    ],
)
def test_min_ready_seconds_is_raised_never_lowered(
    kind: str, given: Any, setting: str, expected: Any
) -> None:
    """For all four kinds."""
    spec = {} if given is ... else {"minReadySeconds": given}
    built = workload(kind, says={"min-ready": setting})
    built["spec"] |= spec
    assert after(built)["spec"].get("minReadySeconds", ...) == expected


DEADLINES: list[tuple[int | None, int | None, str, int | None]] = [
    # m, P, the setting, P'
    (None, None, "30s", None),
    (None, 600, "30s", 600),
    (None, 90, "30s", 90),  # 60 remain
    (None, 89, "30s", 119),  # 59 would
    (None, 60, "30s", 90),
    (None, 20, "30s", 50),
    (None, 1, "30s", 31),
    (10, 40, "30s", 60),  # fewer than min(60, 30) would remain
    (10, 80, "30s", 100),
    (10, 90, "30s", 90),
    (29, 30, "30s", 31),
    (30, 31, "30s", 31),  # nothing is raised
    (None, None, "540s", None),  # 60 remain of the 600 that hold where there is none
    (None, None, "541s", 1141),
    (None, None, "600s", 1200),
    (None, None, "1h", 4200),
    (10, None, "1h", 4190),
    (None, 0, "30s", 0),  # invalid as it was sent
    (30, 30, "40s", 30),
    (40, 20, "50s", 20),
]


@pytest.mark.parametrize("kind", WITH_DEADLINE)
@pytest.mark.parametrize(("ready", "deadline", "setting", "expected"), DEADLINES)
def test_the_deadline_leaves_the_time_that_it_left(
    kind: str, ready: int | None, deadline: int | None, setting: str, expected: int | None
) -> None:
    """Where fewer than min(60, P - m) seconds would remain, P becomes P + (m' - m)."""
    given = workload(
        kind,
        says={"min-ready": setting},
        minReadySeconds=ready,
        progressDeadlineSeconds=deadline,
    )
    result = after(given)
    assert fields(result)[1] == expected
    leaving = with_settings(result, inject="disabled")
    assert canonical(after(leaving, result)["spec"]) == canonical(given["spec"])


@pytest.mark.parametrize("kind", ["StatefulSet", "DaemonSet"])
def test_kinds_without_a_deadline_get_none(kind: str) -> None:
    """A StatefulSet has no deadline, nor has a DaemonSet."""
    result = after(workload(kind, says={"min-ready": "1h"}))
    assert fields(result) == (3600, None)


def test_both_follow_the_settings_at_every_update() -> None:
    """They never restart pods."""
    stored = after(workload("Deployment", says={"min-ready": "1h"}))
    for text, expected in (("20s", (20, None)), ("580s", (580, 1180)), ("none", (None, None))):
        sent = with_settings(stored, min_ready=text)
        decision = decide(sent, stored)
        assert decision.kept
        assert not decision.restarts
        assert fields(decision.result) == expected
        stored = decision.result


def test_a_deadline_that_the_user_has_since_set_is_the_user_s() -> None:
    """It leaves the record, and is raised in its turn."""
    stored = after(workload("Deployment", minReadySeconds=None, progressDeadlineSeconds=20))
    assert fields(stored) == (30, 50)
    own = changed(stored, "spec", "progressDeadlineSeconds", to=40)
    stored = after(own, stored)
    assert fields(stored) == (30, 70)
    left = after(with_settings(stored, inject="disabled"), stored)
    assert fields(left) == (None, 40)


def test_a_min_ready_that_the_user_has_since_set_is_the_user_s() -> None:
    """Above ours it stays; below ours it is what is raised."""
    stored = after(workload("Deployment"))
    for own in (50, 10):
        sent = changed(stored, "spec", "minReadySeconds", to=own)
        result = after(sent, stored)
        assert fields(result)[0] == max(own, 30)
        left = after(with_settings(result, inject="disabled"), result)
        assert fields(left)[0] == own


def test_a_deadline_below_the_user_s_min_ready_is_never_put_back() -> None:
    """The request is valid with ours: it stays, and is the user's from then on."""
    stored = after(workload("Deployment", progressDeadlineSeconds=20))
    assert fields(stored) == (30, 50)
    sent = changed(stored, "spec", "minReadySeconds", to=40)
    result = after(sent, stored)
    assert fields(result) == (40, 50)
    left = after(with_settings(result, inject="disabled"), result)
    assert fields(left) == (40, 50)


def test_a_worker_keeps_what_it_has() -> None:
    """Inherited settings apply to what serves."""
    given = workload("Deployment", worker(), progressDeadlineSeconds=20)
    assert after(given) == given


@pytest.mark.parametrize("kind", KINDS)
def test_a_null_comes_back_as_a_null(kind: str) -> None:
    """What was there before, exactly."""
    given = workload(kind, says={"min-ready": "580s"})
    given["spec"]["minReadySeconds"] = None
    given["spec"]["progressDeadlineSeconds"] = None
    stored = after(copy.deepcopy(given))
    left = after(with_settings(stored, inject="disabled"), stored)
    assert canonical(left["spec"]) == canonical(given["spec"])
