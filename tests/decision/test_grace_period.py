"""Contract §2, "Grace period"."""

from __future__ import annotations

from typing import Any

import pytest

from tests.builders import (
    EXEC_QUIT,
    KINDS,
    NATIVE_30,
    OLD_SERVER,
    Json,
    admission,
    after,
    container,
    deployment,
    grace,
    hooked,
    hooks,
    namespaces,
    pod_of,
    sidecar,
    template_changed,
    with_settings,
    worker,
    workload,
)


def sleeping(seconds: Any, name: str = "app", **fields: Any) -> Json:
    """Give a container whose user wrote a native sleep."""
    return hooked({"sleep": {"seconds": seconds}}, name, **fields)


CASES: list[tuple[str, list[Json], Json, Json, int | None]] = [
    ("the default", [container()], {}, {}, 60),
    ("30 given", [container()], {"terminationGracePeriodSeconds": 30}, {}, 60),
    ("null given", [container()], {"terminationGracePeriodSeconds": None}, {}, 60),
    ("more given", [container()], {"terminationGracePeriodSeconds": 100}, {}, 130),
    ("none given", [container()], {"terminationGracePeriodSeconds": 0}, {}, 30),
    ("one second given", [container()], {"terminationGracePeriodSeconds": 1}, {}, 31),
    ("a shutdown time", [container()], {}, {"shutdown-time": "45s"}, 75),
    ("a short shutdown time", [container()], {}, {"shutdown-time": "5s"}, 35),
    ("no time to shut down", [container()], {}, {"shutdown-time": "0"}, None),
    (
        "enough given for the shutdown time",
        [container()],
        {"terminationGracePeriodSeconds": 90},
        {"shutdown-time": "45s"},
        90,
    ),
    ("a user's longer sleep", [container("a"), sleeping(50, "b")], {}, {}, 80),
    ("a user's shorter sleep", [container("a"), sleeping(5, "b")], {}, {}, 60),
    ("only a user's sleep", [sleeping(20)], {}, {}, None),
    (
        "a user's sleep and a shutdown time",
        [sleeping(20)],
        {},
        {"shutdown-time": "15s"},
        35,
    ),
    (
        "a sidecar's longer sleep",
        [container()],
        {"initContainers": [sidecar(lifecycle={"preStop": {"sleep": {"seconds": 40}}})]},
        {},
        70,
    ),
    ("a user's exec hook", [hooked(EXEC_QUIT)], {}, {}, None),
    ("a chained hook", [hooked(EXEC_QUIT)], {}, {"pre-stop-existing": "chain"}, 60),
    (
        "an exec hook and a shutdown time",
        [hooked(EXEC_QUIT)],
        {},
        {"shutdown-time": "45s"},
        45,
    ),
    ("a worker's shutdown time", [worker()], {}, {"shutdown-time": "45s"}, 45),
    ("a worker's short shutdown time", [worker()], {}, {"shutdown-time": "10s"}, None),
    ("an exec sleep", [container()], {}, {"pre-stop-handler": "exec"}, 60),
    (
        "an exec sleep beside a user's longer one",
        [container("a"), sleeping(50, "b")],
        {},
        {"pre-stop-handler": "exec"},
        80,
    ),
    ("no sleep", [container()], {}, {"pre-stop-sleep": "none"}, None),
    (
        "no sleep and a shutdown time",
        [container()],
        {},
        {"pre-stop-sleep": "none", "shutdown-time": "45s"},
        45,
    ),
    (
        "an hour each",
        [container()],
        {"terminationGracePeriodSeconds": 3600},
        {"pre-stop-sleep": "1h"},
        7200,
    ),
]


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize(
    ("containers", "pod", "says", "expected"),
    [case[1:] for case in CASES],
    ids=[case[0] for case in CASES],
)
def test_the_grace_period_covers_the_longest_sleep_and_the_shutdown(
    kind: str, containers: list[Json], pod: Json, says: Json, expected: int | None
) -> None:
    """The larger of what the user gave and S + A."""
    result = after(workload(kind, *containers, pod=pod, says=says))
    given = pod.get("terminationGracePeriodSeconds")
    assert grace(result) == (given if expected is None else expected)


def test_on_an_old_server_the_grace_period_covers_the_exec_sleep() -> None:
    """S counts what was injected, whatever its handler."""
    assert grace(after(deployment(), by=admission(server=OLD_SERVER))) == 60


@pytest.mark.parametrize(
    "by",
    [
        admission({"defaults": {"shutdown-time": "45s"}}),
        admission(namespace=namespaces(**{"shutdown-time": "45s"})),
    ],
)
def test_an_inherited_shutdown_time_counts(by: Any) -> None:
    """From any layer, for a workload that serves."""
    assert grace(after(deployment(), by=by)) == 75


def test_a_user_who_adds_a_hook_of_their_own_keeps_no_more_grace_than_needed() -> None:
    """One of our grace periods is recorded, so it is worked out afresh: S + A, without ours."""
    given = deployment()
    treated = after(given)
    own = template_changed(treated, "containers", 0, "lifecycle", to={"preStop": EXEC_QUIT})
    assert grace(after(own, treated)) is None
    shorter = {"preStop": {"sleep": {"seconds": 10}}}
    own = template_changed(treated, "containers", 0, "lifecycle", to=shorter)
    result = after(own, treated)
    assert grace(result) == 40
    assert hooks(result) == [shorter["preStop"]]
    again = template_changed(result, "containers", 0, "image", to="new:2")
    assert grace(after(again, result)) == 40


def test_a_grace_period_that_the_user_has_since_set_is_the_user_s() -> None:
    """It is what they gave: the sleep comes on top, and opting out leaves theirs."""
    treated = after(deployment())
    own = template_changed(treated, "terminationGracePeriodSeconds", to=45)
    result = after(own, treated)
    assert grace(result) == 75
    assert grace(after(with_settings(result, inject="disabled"), result)) == 45


def test_it_never_grows_by_applying_it_again() -> None:
    """30 → 60 → 90 and a rollout each time, in a webhook that keeps no record."""
    stored = after(deployment())
    for image in range(5):
        sent = template_changed(stored, "containers", 0, "image", to=f"new:{image}")
        stored = after(sent, stored)
        assert grace(stored) == 60


def test_a_grace_period_below_the_user_s_sleep_is_never_put_back() -> None:
    """It would make a valid request invalid: it stays, and is the user's from then on."""
    treated = after(deployment())
    own = template_changed(
        treated, "containers", 0, "lifecycle", to={"preStop": {"sleep": {"seconds": 50}}}
    )
    stored = after(own, treated)
    assert grace(stored) == 80
    left = after(with_settings(stored, inject="disabled"), stored)
    assert grace(left) == 80
    assert "annotations" not in left["spec"]["template"]["metadata"]
    back = after(with_settings(left, inject="enabled"), left)
    assert grace(back) == 80


@pytest.mark.parametrize("seconds", [None, 0])
def test_a_sleep_without_seconds_counts_as_none(seconds: Any) -> None:
    """Nulls do no harm."""
    given = deployment(sleeping(seconds, "a"), container("b"))
    assert grace(after(given)) == 60


def test_a_negative_grace_period_is_left_for_the_api_server_to_refuse() -> None:
    """What is invalid stays as it was sent."""
    given = deployment(pod={"terminationGracePeriodSeconds": -1})
    assert grace(after(given)) == -1


def test_the_grace_period_fits_where_the_sum_would_not() -> None:
    """A whole number of 64 bits is all that the field takes."""
    most = 2**63 - 1
    given = deployment(pod={"terminationGracePeriodSeconds": most})
    assert grace(after(given)) == most
    assert hooks(after(given)) == [NATIVE_30]


def test_nothing_else_in_the_pod_is_written() -> None:
    """Only the grace period and the hook."""
    given = deployment(pod={"dnsPolicy": "Default", "newField": [None]})
    result = after(given)
    pod = pod_of(result)
    assert {key: pod[key] for key in pod_of(given) if key != "containers"} == {
        key: value for key, value in pod_of(given).items() if key != "containers"
    }
    assert set(pod) == {*pod_of(given), "terminationGracePeriodSeconds"}
