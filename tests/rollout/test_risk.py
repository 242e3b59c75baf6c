"""What a rollout may lose: against what was measured on a real node, and rule by rule."""

from __future__ import annotations

from typing import Any

import pytest

from tests.builders import container, deployment, rolling, worker, workload
from webhook.decision.workload import DEPLOYMENT, KINDS
from webhook.rollout.risk import REASONS
from webhook.rollout.simulation import Rollout, simulate
from webhook.rollout.timings import (
    Application,
    PodTimes,
    Propagation,
    Seconds,
    Times,
    Timings,
)

S = Seconds.of
PROBE = {"httpGet": {"path": "/ready", "port": 8080}, "periodSeconds": 1}


def timed(
    *,
    start: float = 3,
    stop: float = 0,
    request: float = 0.1,
    rate: float = 150,
    service: Propagation | None = None,
    balancer: Propagation | None = None,
) -> Timings:
    """Give what the measured application took; the rest by default."""
    times = Times(
        application=Application(S(start), S(stop), S(request)),
        pod=PodTimes(S(0.5), S(1), S(0)),
        balancer=balancer,
        rate=rate,
    )
    if service is not None:
        times = Times(times.application, times.pod, service, balancer, rate)
    return Timings(times)


def app(sleep: int = 0, **fields: Any) -> dict[str, Any]:
    """Give a container that sleeps before it ends."""
    hook = {"preStop": {"sleep": {"seconds": sleep}}} if sleep else None
    return container(**{"readinessProbe": PROBE, "lifecycle": hook, **fields})


def treated(sleep: int, **more: Any) -> Any:
    """Give a Deployment with a sleep, and the grace period that covers it."""
    pod = {"terminationGracePeriodSeconds": 40 + sleep}
    return deployment(app(sleep), pod=pod, **{**rolling(maxSurge=1, maxUnavailable=0), **more})


STATEFUL: Any = {"pod": {"terminationGracePeriodSeconds": 47}, "minReadySeconds": 5}

# Measured with 150 requests a second over three replicas that start in 3 s and take 0.1 s a
# request, Kubernetes 1.36: what, the timings, the least and the most that were lost.
MEASURED: list[tuple[str, Any, Timings, int, int]] = [
    ("exits on SIGTERM", deployment(app()), timed(), 127, 146),
    ("drains on SIGTERM", deployment(app()), timed(stop=1), 102, 134),
    ("min ready and surge, no preStop", treated(0, minReadySeconds=5), timed(), 16, 19),
    ("a sleep of 2 s alone", treated(2), timed(), 0, 0),
    ("a sleep of 7 s alone", treated(7), timed(), 0, 0),
    ("all of it", treated(7, minReadySeconds=5), timed(), 0, 0),
    ("all of it, drains", treated(7, minReadySeconds=5), timed(stop=1), 0, 0),
    ("requests of 8.5 s", treated(7), timed(request=8.5), 141, 141),
    ("no readiness probe", deployment(app(readinessProbe=None)), timed(), 465, 465),
    ("a StatefulSet", workload("StatefulSet", app()), timed(), 78, 78),
    ("a StatefulSet, all of it", workload("StatefulSet", app(7), **STATEFUL), timed(), 0, 0),
]


@pytest.mark.parametrize(
    ("given", "timings", "least", "most"),
    [case[1:] for case in MEASURED],
    ids=[case[0] for case in MEASURED],
)
def test_what_was_measured_lies_in_the_interval(
    given: Any, timings: Timings, least: int, most: int
) -> None:
    """The defaults for Services are those of no cluster in particular, so it is wide."""
    low, high = simulate(KINDS[given["kind"]], given, timings, (1, 36)).at_risk
    assert low <= least <= most <= high


SLOW = Propagation(Seconds(0.1, 2, 6), Seconds(0.1, 2, 6))


@pytest.mark.parametrize(
    ("sleep", "request_seconds", "safe"),
    [
        (6, 0.0, True),
        (5, 0.0, False),
        (6, 0.5, False),
        (7, 0.5, True),
        (7, 1.0, True),
        (8, 2.5, False),
    ],
)
def test_nothing_is_at_risk_only_where_the_sleep_covers_the_slowest(
    sleep: int, request_seconds: float, *, safe: bool
) -> None:
    """The slowest to learn, and the longest request that was begun before."""
    timings = timed(service=SLOW, request=request_seconds)
    assert (simulate(DEPLOYMENT, treated(sleep), timings).at_risk == (0, 0)) is safe


@pytest.mark.parametrize(("sleep", "safe"), [(7, False), (30, False), (31, True)])
def test_a_balancer_outside_is_waited_for_too(sleep: int, *, safe: bool) -> None:
    """It learns later than the rules on the nodes."""
    timings = timed(balancer=Propagation(S(15), S(30)))
    found = simulate(DEPLOYMENT, treated(sleep), timings)
    assert (found.at_risk[1] == 0) is safe


def test_a_sleep_longer_than_the_grace_period_counts_as_far_as_it_is_let() -> None:
    """The kubelet cuts the hook at the end of the grace period."""
    given = deployment(app(60), pod={"terminationGracePeriodSeconds": 2})
    assert simulate(DEPLOYMENT, given, timed()).at_risk[1] > 0


@pytest.mark.parametrize(
    ("given", "timings"),
    [
        (deployment(worker()), timed()),
        (deployment(app()), timed(rate=0)),
    ],
    ids=["serves nobody", "no requests"],
)
def test_who_gets_no_requests_loses_none(given: Any, timings: Timings) -> None:
    """And shows no loss."""
    found = simulate(DEPLOYMENT, given, timings)
    assert (found.at_risk, found.losses) == ((0, 0), ())


def recreated(sleep: int, balancer: Propagation | None = None) -> Rollout:
    """Simulate a Deployment whose pods all go at once."""
    strategy = {"type": "Recreate"}
    given = treated(sleep, strategy=strategy)
    return simulate(DEPLOYMENT, given, timed(balancer=balancer))


def test_where_no_pod_answers_everything_is_lost() -> None:
    """From the end of the old ones until a new one is known."""
    found = recreated(0)
    nobody = [loss for loss in found.losses if loss.reason == "nobody"]
    assert len(nobody) == 1
    assert nobody[0].certain
    seconds = nobody[0].end - nobody[0].start
    low, high = found.at_risk
    assert 150 * 3 < low <= high <= round(150 * seconds) + 1


def test_services_fall_back_on_pods_that_are_going_and_balancers_do_not() -> None:
    """So a sleep lengthens the outage behind a balancer, and behind a Service does not."""
    assert recreated(40).at_risk[0] == pytest.approx(recreated(0).at_risk[0], abs=150)
    balancer = Propagation(S(1), S(5))
    assert recreated(40, balancer).at_risk[0] > recreated(0, balancer).at_risk[0] + 150 * 30


def test_each_loss_says_when_where_and_why() -> None:
    """As a picture of it needs."""
    given = deployment(app(), **rolling(maxSurge=1, maxUnavailable=0))
    found = simulate(DEPLOYMENT, given, timed())
    assert {loss.pod for loss in found.losses} == {pod.name for pod in found.pods if pod.old}
    for loss in found.losses:
        pod = next(pod for pod in found.pods if pod.name == loss.pod)
        assert pod.signalled is not None
        assert loss.start <= pod.signalled < loss.end
        assert loss.reason == "stopped"
        assert loss.certain
    assert set(REASONS) == {"stopped", "not-answering", "nobody"}


def test_a_pod_that_is_ready_before_it_answers_is_a_loss_until_it_does() -> None:
    """Nothing told the kubelet to wait."""
    found = simulate(DEPLOYMENT, treated(7), timed())
    assert not found.losses
    given = deployment(app(7, readinessProbe=None), pod={"terminationGracePeriodSeconds": 47})
    losses = simulate(DEPLOYMENT, given, timed()).losses
    early = [loss for loss in losses if loss.reason == "not-answering"]
    assert len(early) == 3
    assert all(loss.end - loss.start == pytest.approx(3, abs=0.1) for loss in early)
