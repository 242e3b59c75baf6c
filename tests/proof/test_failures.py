"""Each cause, by what the client saw and what was true of the pods."""

from __future__ import annotations

from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tests.proof.scenes import fresh, kept, new, old, scene
from webhook.proof.failures import Cause, Failure, Kind, Pod, Scene, explain

UNPROBED = new(name="unprobed", ready=9.0, probed=False)
OPEN = {"connected": True}


@pytest.mark.parametrize(
    ("failure", "where", "cause", "pod"),
    [
        # No connection, and a pod has ended whose address is still sent to.
        (fresh(12.2, Kind.REFUSED), scene(), Cause.STALE_ENDPOINT, "old"),
        (fresh(12.2, Kind.UNREACHABLE), scene(), Cause.STALE_ENDPOINT, "old"),
        (fresh(13.0, Kind.TIMEOUT, 10.0), scene(), Cause.STALE_ENDPOINT, "old"),
        # A balancer below HTTP accepts first: its reset comes at once, on a new connection.
        (fresh(12.2, Kind.RESET, **OPEN), scene(), Cause.STALE_ENDPOINT, "old"),
        # While a pod sleeps before its SIGTERM it refuses nobody: a new one does.
        (
            fresh(10.5, Kind.REFUSED),
            scene(old(stopped=None, gone=None), new()),
            Cause.NEW_POD_TOO_EARLY,
            "new",
        ),
        # Nobody asked it whether it listens.
        (fresh(12.2, Kind.REFUSED), scene(old(), UNPROBED), Cause.NEW_POD_TOO_EARLY, "unprobed"),
        (
            fresh(9.2, Kind.RESET, **OPEN),
            scene(old(), UNPROBED),
            Cause.NEW_POD_TOO_EARLY,
            "unprobed",
        ),
        # What times out has no address any more.
        (fresh(13.0, Kind.TIMEOUT, 10.0), scene(old(), UNPROBED), Cause.STALE_ENDPOINT, "old"),
        # It has answered since: so it was another that refused.
        (
            fresh(12.2, Kind.REFUSED),
            scene(old(), UNPROBED, answered={"unprobed": (11.0, 20.0)}),
            Cause.STALE_ENDPOINT,
            "old",
        ),
        (
            fresh(12.2, Kind.REFUSED),
            scene(old(), UNPROBED, answered={"unprobed": (13.0, 20.0)}),
            Cause.NEW_POD_TOO_EARLY,
            "unprobed",
        ),
        # The request was taken, then the process ended.
        (fresh(11.8, Kind.CLOSED, 0.2, **OPEN), scene(), Cause.CUT_OFF_IN_FLIGHT, "old"),
        (kept(11.8, Kind.CLOSED, 0.2), scene(), Cause.CUT_OFF_IN_FLIGHT, "old"),
        # It never was: the other end had gone.
        (kept(12.2, Kind.RESET), scene(), Cause.KEPT_CONNECTION, "old"),
        (kept(12.2, Kind.CLOSED), scene(), Cause.KEPT_CONNECTION, "old"),
        (kept(12.2, Kind.TIMEOUT, 10.0), scene(), Cause.KEPT_CONNECTION, "old"),
        # SIGKILL: 30 s after it was told to go.
        (
            fresh(39.5, Kind.CLOSED, 0.5, **OPEN),
            scene(old(stopped=40.0, exit_code=137, gone=40.2), new()),
            Cause.KILLED,
            "old",
        ),
        (
            kept(39.5, Kind.CLOSED, 0.5),
            scene(old(stopped=40.0, exit_code=137, gone=40.2), new()),
            Cause.KILLED,
            "old",
        ),
        # It ended by itself just then.
        (
            fresh(39.5, Kind.CLOSED, 0.5, **OPEN),
            scene(old(stopped=40.0, exit_code=0, gone=40.2), new()),
            Cause.CUT_OFF_IN_FLIGHT,
            "old",
        ),
        # Nobody was there.
        (fresh(11.0, Kind.REFUSED), scene(old()), Cause.NOBODY_READY, None),
        (
            fresh(11.0, Kind.RESET, **OPEN),
            scene(old(), new(ready=20.0)),
            Cause.NOBODY_READY,
            None,
        ),
        # The first is ready again, and nobody knows of it yet.
        (
            fresh(20.1, Kind.REFUSED),
            scene(old(), new(ready=20.0), answers=(9.0, 9.5, 21.0)),
            Cause.NOBODY_READY,
            None,
        ),
        (
            fresh(21.5, Kind.REFUSED),
            scene(old(), new(ready=20.0), answers=(9.0, 9.5, 21.0)),
            Cause.STALE_ENDPOINT,
            "old",
        ),
        # A proxy answered.
        (
            fresh(12.2, Kind.STATUS, status=502, **OPEN),
            scene(direct=False),
            Cause.PROXY,
            "old",
        ),
        (
            fresh(2.0, Kind.STATUS, status=504, **OPEN),
            scene(new(old=True, ready=0.0), direct=False),
            Cause.PROXY,
            None,
        ),
        # No proxy is there that could have: it was a new pod itself.
        (
            fresh(9.2, Kind.STATUS, status=503, **OPEN),
            scene(old(), UNPROBED),
            Cause.NEW_POD_TOO_EARLY,
            "unprobed",
        ),
        (
            fresh(9.2, Kind.STATUS, status=503, pod="new", **OPEN),
            scene(direct=False),
            Cause.NEW_POD_TOO_EARLY,
            "new",
        ),
        # What nothing explains is not explained away.
        (fresh(2.0, Kind.STATUS, status=500, **OPEN), scene(), Cause.UNEXPLAINED, None),
        (fresh(2.0, Kind.REFUSED), scene(), Cause.UNEXPLAINED, None),
        (fresh(2.0, Kind.TIMEOUT, 1.0, **OPEN), scene(), Cause.UNEXPLAINED, None),
        (fresh(2.0, Kind.TLS), scene(), Cause.UNEXPLAINED, None),
        (fresh(2.0, Kind.PROTOCOL, **OPEN), scene(), Cause.UNEXPLAINED, None),
    ],
)
def test_a_failure_gets_the_cause_that_the_pods_tell(
    failure: Failure, where: Scene, cause: Cause, pod: str | None
) -> None:
    """One row for each rule, and for what must not be mistaken for it."""
    found = explain(failure, where)
    assert (found.cause, found.pod) == (cause, pod)


@pytest.mark.parametrize("cause", Cause)
def test_each_cause_says_what_it_is_and_what_mends_it(cause: Cause) -> None:
    """In words that fit a table and a line."""
    assert 10 < len(cause.what) < 70
    assert len(cause.remedy) > 30


moments = st.none() | st.floats(-10, 100)
pods = st.builds(
    Pod,
    name=st.sampled_from(["a", "b"]),
    old=st.booleans(),
    created=moments,
    ready=moments,
    unready=moments,
    terminating=moments,
    grace=moments,
    stopped=moments,
    exit_code=st.none() | st.sampled_from([0, 1, 137]),
    gone=moments,
    probed=st.booleans(),
)
failures = st.builds(
    Failure,
    at=st.floats(0, 60),
    took=st.floats(0, 30),
    kind=st.sampled_from(Kind),
    kept=st.booleans(),
    reused=st.booleans(),
    connected=st.booleans(),
    status=st.none() | st.sampled_from([404, 500, 502, 503]),
    pod=st.none() | st.sampled_from(["a", "b"]),
)


@given(failures, st.lists(pods, max_size=5), st.booleans(), st.floats(0, 2))
def test_whatever_was_seen_gets_one_cause_and_a_pod_that_was_there(
    failure: Failure,
    there: list[Pod],
    direct: bool,  # noqa: FBT001 - hypothesis gives it by position
    slack: float,
) -> None:
    """Times may be missing, or contradict each other: API servers are watched with gaps."""
    where = Scene(there, direct=direct, slack=slack)
    found = explain(failure, where)
    assert found.cause in Cause
    assert found.pod is None or found.pod in {"a", "b"}
    assert explain(failure, replace(where, pods=there[::-1])).failure is failure
    if not there:
        assert found.cause in (Cause.UNEXPLAINED, Cause.PROXY, Cause.KEPT_CONNECTION)
