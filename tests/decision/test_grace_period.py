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
    codes,
    container,
    decide,
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
from tests.decision.validation import complaints


def sleeping(seconds: Any, name: str = "app", **fields: Any) -> Json:
    """Give a container whose user wrote a native sleep."""
    return hooked({"sleep": {"seconds": seconds}}, name, **fields)


CASES: list[tuple[str, list[Json], Json, Json, int | None]] = [
    ("the default", [container()], {}, {}, 60),
    ("30 given", [container()], {"terminationGracePeriodSeconds": 30}, {}, 60),
    ("null given", [container()], {"terminationGracePeriodSeconds": None}, {}, 60),
    ("more given", [container()], {"terminationGracePeriodSeconds": 100}, {}, 130),
    ("none given", [container()], {"terminationGracePeriodSeconds": 0}, {}, None),
    (
        "none given, and a sleep of its own",
        [container()],
        {"terminationGracePeriodSeconds": 0},
        {"pre-stop-sleep": "20s"},
        20,
    ),
    ("a negative one given", [container()], {"terminationGracePeriodSeconds": -1}, {}, 31),
    ("the least given", [container()], {"terminationGracePeriodSeconds": -(2**63)}, {}, 31),
    (
        "a negative one given, and no time to shut down",
        [container()],
        {"terminationGracePeriodSeconds": -1},
        {"pre-stop-sleep": "1s", "shutdown-time": "0"},
        1,
    ),
    (
        "a negative one given, and no sleep",
        [container()],
        {"terminationGracePeriodSeconds": -1},
        {"pre-stop-sleep": "none"},
        None,
    ),
    (
        "a negative one given, and a shutdown time",
        [worker()],
        {"terminationGracePeriodSeconds": -5},
        {"shutdown-time": "45s"},
        45,
    ),
    ("a day to shut down", [container()], {}, {"shutdown-time": "24h"}, 86430),
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


@pytest.mark.parametrize("put", [True, False], ids=["by PUT", "by a merge"])
@pytest.mark.parametrize("hook", [EXEC_QUIT, {"sleep": {"seconds": 5}}])
def test_one_manifest_has_one_result_however_it_came(
    hook: Json,
    put: bool,  # noqa: FBT001 - a table's column
) -> None:
    """A hook of the user's own in place of ours: the grace period is as they gave it."""
    given = deployment(pod={"terminationGracePeriodSeconds": 30})
    treated = after(given)
    sent = given if put else treated
    own = template_changed(sent, "containers", 0, "lifecycle", to={"preStop": hook})
    result = after(own, treated)
    assert grace(result) == 30
    assert hooks(result) == [hook]
    again = template_changed(result, "containers", 0, "image", to="new:2")
    assert grace(after(again, result)) == 30


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
    assert grace(stored) == 60
    left = after(with_settings(stored, inject="disabled"), stored)
    assert grace(left) == 60
    assert "annotations" not in left["spec"]["template"]["metadata"]
    back = after(with_settings(left, inject="enabled"), left)
    assert grace(back) == 60


@pytest.mark.parametrize("seconds", [0, 1, 5])
def test_a_negative_grace_period_is_never_put_back_beside_a_sleep(seconds: int) -> None:
    """The API server refuses every sleep beside one, of zero seconds too."""
    treated = after(deployment(pod={"terminationGracePeriodSeconds": -1}))
    sleep = {"preStop": {"sleep": {"seconds": seconds}}}
    own = template_changed(treated, "containers", 0, "lifecycle", to=sleep)
    result = after(own, treated)
    assert grace(result) == 31
    assert not complaints(result)
    assert not decide(result, result).operations


@pytest.mark.parametrize("seconds", [-1, -2, -(2**31), -(2**63)])
@pytest.mark.parametrize("kind", KINDS)
def test_a_negative_grace_period_counts_as_one_and_comes_back_exactly(
    kind: str, seconds: int
) -> None:
    """When it is new, and when it was stored before the webhook was there."""
    given = workload(kind, pod={"terminationGracePeriodSeconds": seconds})
    newer = template_changed(given, "containers", 0, "image", to="new:2")
    for sent, old in ((given, None), (newer, given)):
        result = after(sent, old)
        assert grace(result) == 31
        assert hooks(result) == [NATIVE_30]
        assert not complaints(result)
        left = after(with_settings(result, inject="disabled"), result)
        assert pod_of(left) == pod_of(sent)


# --- a grace period of 0 -------------------------------------------------------------------------

AT_ONCE = {"terminationGracePeriodSeconds": 0}


@pytest.mark.parametrize(
    "by",
    [
        admission(),
        admission({"defaults": {"pre-stop-sleep": "9s", "shutdown-time": "50s"}}),
        admission(namespace=namespaces(**{"pre-stop-sleep": "9s"})),
    ],
)
def test_where_the_user_gave_no_grace_period_nothing_inherited_comes(by: Any) -> None:
    """Zero means: no hooks, go at once. And nothing is said of what was not done."""
    given = deployment(pod=AT_ONCE)
    decision = decide(given, by=by)
    assert pod_of(decision.result) == pod_of(given)
    assert not decision.alerts


@pytest.mark.parametrize("place", ["says", "template_says"])
def test_a_sleep_that_the_workload_asks_for_comes_beside_a_grace_period_of_zero(place: str) -> None:
    """It uses all of the time, as was asked: no warning of our own doing."""
    decision = decide(deployment(pod=AT_ONCE, **{place: {"pre-stop-sleep": "9s"}}))
    assert hooks(decision.result) == [{"sleep": {"seconds": 9}}]
    assert grace(decision.result) == 9
    assert not decision.alerts


# --- max-grace -----------------------------------------------------------------------------------

CUT: list[tuple[str, list[Json], Json, Json, list[Any], int | None, bool]] = [
    ("room enough", [container()], {}, {"max-grace": "60s"}, [30], None, False),
    ("half the room", [container()], {}, {"max-grace": "45s"}, [15], 45, True),
    ("a second", [container()], {}, {"max-grace": "31s"}, [1], 31, True),
    ("no room", [container()], {}, {"max-grace": "30s"}, [None], ..., True),
    ("less than was given", [container()], {}, {"max-grace": "20s"}, [None], ..., True),
    ("none at all", [container()], {}, {"max-grace": "0"}, [None], ..., True),
    (
        "a shutdown time",
        [container()],
        {},
        {"max-grace": "50s", "shutdown-time": "40s"},
        [10],
        50,
        True,
    ),
    (
        "a shutdown time that does not fit",
        [container()],
        {},
        {"max-grace": "50s", "shutdown-time": "90s"},
        [None],
        50,
        True,
    ),
    (
        "a short shutdown time",
        [container()],
        {"terminationGracePeriodSeconds": 100},
        {"max-grace": "60s", "shutdown-time": "10s"},
        [30],
        ...,
        False,
    ),
    (
        "a user's sleep",
        [sleeping(25, "a")],
        {},
        {"max-grace": "20s"},
        [25],
        ...,
        False,
    ),
    (
        "a user's longer sleep beside ours",
        [sleeping(40, "a"), container("b")],
        {"terminationGracePeriodSeconds": 50},
        {"max-grace": "80s"},
        [40, 20],
        80,
        True,
    ),
    ("turned off", [container()], {}, {"max-grace": "none"}, [30], 60, False),
    (
        "a day",
        [container()],
        {},
        {"max-grace": "24h", "shutdown-time": "24h"},
        [None],
        86400,
        True,
    ),
]


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize(
    ("containers", "pod", "says", "slept", "expected", "warned"),
    [case[1:] for case in CUT],
    ids=[case[0] for case in CUT],
)
def test_where_the_grace_period_would_become_too_long_the_sleep_gives_way(
    kind: str,
    containers: list[Json],
    pod: Json,
    says: Json,
    slept: list[Any],
    expected: Any,
    warned: bool,  # noqa: FBT001 - a table's column
) -> None:
    """To nothing if need be, with a warning; what the user gave is never cut."""
    given = workload(kind, *containers, pod=pod, says=says)
    decision = decide(given)
    found = [each and each["sleep"]["seconds"] for each in hooks(decision.result)]
    assert found == slept
    stays = pod.get("terminationGracePeriodSeconds")
    expected = stays if expected is ... else 60 if expected is None else expected
    assert grace(decision.result) == expected
    assert ("max-grace" in codes(decision)) is warned
    assert not complaints(decision.result)
    assert not decide(decision.result, decision.result).operations
    left = after(with_settings(decision.result, inject="disabled"), decision.result)
    assert pod_of(left) == pod_of(given)


def test_a_sleep_by_exec_and_a_chained_one_give_way_alike() -> None:
    """Whatever its handler is."""
    says = {"max-grace": "42s", "pre-stop-handler": "exec", "pre-stop-existing": "chain"}
    result = after(deployment(container("a"), hooked(EXEC_QUIT, "b"), says=says))
    plain, chained = hooks(result)
    assert plain == {"exec": {"command": ["sleep", "12"]}}
    assert chained["exec"]["command"][2].startswith("sleep 12;")
    assert grace(result) == 42
    whole = after(with_settings(result, max_grace="30s"), result)
    assert hooks(whole) == [None, EXEC_QUIT]
    assert grace(whole) is None


def test_what_another_webhook_caps_is_valid_where_the_setting_says_so() -> None:
    """One that sets 15 s (spot nodes) after us: with the setting, no sleep is longer."""
    by = admission(namespace=namespaces(**{"max-grace": "15s", "shutdown-time": "5s"}))
    treated = after(deployment(), by=by)
    capped = template_changed(treated, "terminationGracePeriodSeconds", to=15)
    assert not complaints(capped)
    assert hooks(treated) == [{"sleep": {"seconds": 10}}]


@pytest.mark.parametrize("seconds", [None, 0])
def test_a_sleep_without_seconds_counts_as_none(seconds: Any) -> None:
    """Nulls do no harm."""
    given = deployment(sleeping(seconds, "a"), container("b"))
    assert grace(after(given)) == 60


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
