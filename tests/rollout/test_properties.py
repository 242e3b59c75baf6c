"""What holds for every rollout, searched for by Hypothesis."""

from __future__ import annotations

import math
from typing import Any

import pytest
from hypothesis import assume, given, settings
from hypothesis import strategies as st

from tests.builders import STRATEGY_KEY, Json, container, workload
from webhook.decision.workload import DEPLOYMENT, KINDS, STATEFUL_SET, malformed
from webhook.rollout.shape import Version
from webhook.rollout.simulation import Rollout, SimulationError, simulate
from webhook.rollout.timings import Application, PodTimes, Propagation, Seconds, Times, Timings

VERSIONS = st.none() | st.sampled_from([Version(1, minor) for minor in range(28, 39)])
QUICK = Timings(Times(application=Application(*[Seconds.of(each) for each in (2, 1, 0.2)])))

bounds = st.integers(0, 12) | st.integers(0, 100).map("{}%".format)
seconds = st.integers(0, 40).map(lambda tenths: tenths / 4)
probes = st.builds(
    lambda period, delay, successes: {
        "tcpSocket": {"port": 8080},
        "periodSeconds": period,
        "initialDelaySeconds": delay,
        "successThreshold": successes,
    },
    st.integers(1, 12),
    st.integers(0, 12),
    st.integers(1, 3),
)


@st.composite
def percentiles(draw: st.DrawFn) -> Seconds:
    """Give a time of which the slowest is slower."""
    return Seconds(*sorted(draw(st.tuples(seconds, seconds, seconds))))


@st.composite
def timings(draw: st.DrawFn, *, balancers: bool = True) -> Timings:
    """Give what things take."""
    ways = st.builds(Propagation, percentiles(), percentiles())
    return Timings(
        Times(
            application=Application(*draw(st.tuples(percentiles(), percentiles(), percentiles()))),
            pod=PodTimes(*draw(st.tuples(percentiles(), percentiles(), percentiles()))),
            service=draw(ways),
            balancer=draw(st.none() | ways) if balancers else None,
            rate=draw(st.floats(0, 1000)),
        )
    )


@st.composite
def workloads(draw: st.DrawFn, kind: str, **fixed: Any) -> Json:
    """Give a workload of a kind, with everything that sways its rollout."""
    sleep = draw(st.integers(0, 12))
    hook = {"preStop": {"sleep": {"seconds": sleep}}} if sleep else None
    app = container(readinessProbe=draw(st.none() | probes), lifecycle=hook)
    grace = {"terminationGracePeriodSeconds": draw(st.integers(1, 30))}
    spec: Json = {"minReadySeconds": draw(st.integers(0, 20))}
    surge, unavailable = draw(bounds), draw(bounds)
    if kind == "Rollout":
        spec["strategy"] = draw(
            st.sampled_from(
                [
                    {"canary": {"maxSurge": surge, "maxUnavailable": unavailable}},
                    {"blueGreen": {"scaleDownDelaySeconds": sleep}},
                    {
                        "canary": {
                            "maxSurge": surge,
                            "maxUnavailable": unavailable,
                            "steps": [{"setWeight": 30}, {"pause": {"duration": 5}}],
                        }
                    },
                ]
            )
        )
    else:
        rules = {"maxUnavailable": unavailable}
        if kind != "StatefulSet":
            rules["maxSurge"] = surge
        spec[STRATEGY_KEY[kind]] = {"type": "RollingUpdate", "rollingUpdate": rules}
    if kind == "StatefulSet":
        spec["podManagementPolicy"] = draw(st.sampled_from(["OrderedReady", "Parallel"]))
    if kind != "DaemonSet":
        spec["replicas"] = draw(st.integers(0, 12))
    return workload(kind, app, pod=grace, **{**spec, **fixed})


def with_sleep(given: Json, sleep: int) -> Json:
    """Copy a workload with another sleep, and a grace period that holds it."""
    app = given["spec"]["template"]["spec"]["containers"][0]
    return workload(
        given["kind"],
        {**app, "lifecycle": {"preStop": {"sleep": {"seconds": sleep}}}},
        pod={"terminationGracePeriodSeconds": 60},
        **{key: value for key, value in given["spec"].items() if key != "template"},
    )


def simulated(given: Json, times: Timings = QUICK, version: Version | None = None) -> Rollout:
    """Simulate on six nodes, without a deadline."""
    spec = {**given["spec"], "progressDeadlineSeconds": 2**31 - 1}
    return simulate(KINDS[given["kind"]], {**given, "spec": spec}, times, version, 6)


any_kind = st.sampled_from(sorted(KINDS)).flatmap(workloads)


@given(any_kind, timings(), VERSIONS)
def test_never_fewer_pods_serve_than_the_strategy_allows(
    given: Json, times: Timings, version: Version | None
) -> None:
    """Where its controller waits for pods to be available: not before 1.35 in Parallel."""
    found = simulated(given, times, version)
    assert found.rolled_out is not None
    assert found.least_serving >= found.shape.least_available
    assert found.least_serving <= found.shape.pods


@given(any_kind, timings(), VERSIONS)
def test_each_pod_passes_its_phases_in_order_and_is_replaced_once(
    given: Json, times: Timings, version: Version | None
) -> None:
    """None is created twice, none is deleted that is new."""
    found = simulated(given, times, version)
    pods = found.shape.pods
    assert sum(pod.old for pod in found.pods) == sum(not pod.old for pod in found.pods) == pods
    for pod in found.pods:
        course = [pod.created, pod.ready, pod.available]
        course += [pod.terminating, pod.signalled, pod.stopped, pod.gone]
        there = [at for at in course if at is not None]
        assert there == sorted(there)
        assert (pod.created is None) is pod.old
        assert (pod.gone is None) is not pod.old
        bars = pod.phases
        assert [phase.end for phase in bars[:-1]] == [phase.start for phase in bars[1:]]


@given(any_kind, timings(), VERSIONS)
def test_no_more_pods_run_than_surge_allows_beside_those_that_are_going(
    given: Json, times: Timings, version: Version | None
) -> None:
    """A pod that is going counts no longer for its controller."""
    found = simulated(given, times, version)
    changes = sorted(
        [(pod.created, 1) for pod in found.pods if pod.created is not None]
        + [(pod.terminating, -1) for pod in found.pods if pod.terminating is not None]
    )
    there = found.shape.pods
    for _, change in changes:
        there += change
        assert there <= found.shape.pods + found.shape.surge


@given(any_kind, timings(balancers=False), st.integers(0, 20), st.integers(1, 10), VERSIONS)
def test_a_longer_sleep_never_puts_more_requests_at_risk(
    given: Json, times: Timings, sleep: int, more: int, version: Version | None
) -> None:
    """Behind a Service; a balancer has nothing to fall back on where all pods go at once."""
    shorter = simulated(with_sleep(given, sleep), times, version).at_risk
    longer = simulated(with_sleep(given, sleep + more), times, version).at_risk
    assert longer[0] <= shorter[0] + 1  # floats, rounded to whole requests
    assert longer[1] <= shorter[1] + 1


@given(
    st.sampled_from([0, 1, 3]).flatmap(
        lambda surge: workloads(
            "Deployment",
            strategy={"rollingUpdate": {"maxSurge": surge + 1, "maxUnavailable": 0}},
        )
    ),
    timings(),
    st.integers(0, 20),
    st.integers(1, 10),
)
def test_nor_does_it_behind_a_balancer_where_old_and_new_overlap(
    given: Json, times: Timings, sleep: int, more: int
) -> None:
    """Then no pod goes before another has taken its place."""
    shorter = simulated(with_sleep(given, sleep), times).at_risk
    longer = simulated(with_sleep(given, sleep + more), times).at_risk
    assert longer[0] <= shorter[0] + 1
    assert longer[1] <= shorter[1] + 1


@given(any_kind, timings(), VERSIONS)
def test_the_interval_is_one_and_zero_means_that_no_loss_is_seen(
    given: Json, times: Timings, version: Version | None
) -> None:
    """Low is at most high; no window without requests, no requests without a window."""
    found = simulated(given, times, version)
    low, high = found.at_risk
    assert 0 <= low <= high
    if times.times.rate >= 1 and found.shape.pods:
        assert (high == 0) <= (not any(loss.certain for loss in found.losses))
        assert (not found.losses) <= (high == 0)


@given(
    st.sampled_from(["Deployment", "StatefulSet"]),
    st.integers(0, 10),
    st.integers(0, 3),
    st.integers(0, 3),
    st.integers(0, 20),
)
def test_time_grows_with_replicas(
    kind: str, replicas: int, surge: int, unavailable: int, min_ready: int
) -> None:
    """With bounds in pods; percentages allow more at once where there are more."""
    rules = {"maxUnavailable": unavailable} | ({"maxSurge": surge} if kind == "Deployment" else {})

    def took(pods: int) -> float:
        strategy = {STRATEGY_KEY[kind]: {"type": "RollingUpdate", "rollingUpdate": rules}}
        found = simulated(workload(kind, replicas=pods, minReadySeconds=min_ready, **strategy))
        assert found.rolled_out is not None
        return found.rolled_out

    assert took(replicas) <= took(replicas + 1) + 1e-6


@given(any_kind, st.integers(0, 60), VERSIONS)
def test_time_never_shrinks_with_min_ready_seconds(
    given: Json, min_ready: int, version: Version | None
) -> None:
    """Of each kind, whatever else it says."""

    def took(wait: int) -> float:
        found = simulated(
            {**given, "spec": {**given["spec"], "minReadySeconds": wait}}, QUICK, version
        )
        assert found.rolled_out is not None
        return found.rolled_out

    assert took(min_ready) <= took(min_ready + 1) + 1e-6


@given(any_kind, timings(), VERSIONS)
def test_the_critical_path_adds_up_to_the_whole(
    given: Json, times: Timings, version: Version | None
) -> None:
    """Nothing is counted twice, and nothing is left out."""
    found = simulated(given, times, version)
    assert found.rolled_out is not None
    total = sum(wait.seconds for wait in found.path)
    steps = sum(wait.steps for wait in found.path)
    assert total == pytest.approx(
        found.rolled_out, abs=0.3 + 0.006 * (10 * found.shape.pods + steps)
    )
    assert [wait.seconds for wait in found.path] == sorted(
        (wait.seconds for wait in found.path), reverse=True
    )


@given(any_kind, timings(), VERSIONS)
def test_the_same_is_simulated_twice(given: Json, times: Timings, version: Version | None) -> None:
    """It depends on its arguments alone."""
    assert simulated(given, times, version) == simulated(given, times, version)


# --- anything at all -----------------------------------------------------------------------------

names = st.sampled_from(
    (
        *("canary", "blueGreen", "steps", "setWeight", "pause", "duration", "setCanaryScale"),
        *("replicas", "weight", "maxSurge", "maxUnavailable", "trafficRouting", "partition"),
        *("scaleDownDelaySeconds", "autoPromotionSeconds", "previewReplicaCount", "rollingUpdate"),
        *("dynamicStableScale", "autoPromotionEnabled", "initialDelaySeconds", "periodSeconds"),
        *("failureThreshold", "successThreshold", "exec", "command", "sleep", "seconds", "type"),
    )
)
anything = st.recursive(
    st.none()
    | st.booleans()
    | st.integers(-3, 100)
    | st.integers()
    | st.sampled_from([10**400, -(10**400)])
    | st.floats()
    | st.sampled_from(["25%", "-1%", "10m", "Recreate", "OnDelete", "", "%"]),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(names, inner, max_size=5),
    max_leaves=20,
)


whole = st.integers(-3, 100) | st.sampled_from([2**31 - 1, 2**62, -(2**62)]) | st.none()
mappings = st.dictionaries(names, anything, max_size=4)
strategies = st.fixed_dictionaries(
    {},
    optional={
        "canary": mappings,
        "blueGreen": mappings,
        "rollingUpdate": mappings,
        "type": anything,
    },
)
fields_of_containers = st.fixed_dictionaries(
    {},
    optional={
        **dict.fromkeys(("readinessProbe", "startupProbe", "livenessProbe"), mappings),
        "lifecycle": st.fixed_dictionaries(
            {"preStop": st.fixed_dictionaries({}, optional={"sleep": st.just({"seconds": 2**62})})}
        ),
        "command": anything,
    },
)


@settings(max_examples=60)
@given(
    st.sampled_from(sorted(KINDS)),
    st.fixed_dictionaries(
        {},
        optional={
            **dict.fromkeys(("strategy", "updateStrategy"), strategies),
            **dict.fromkeys(("minReadySeconds", "replicas", "progressDeadlineSeconds"), whole),
            **dict.fromkeys(("paused", "podManagementPolicy"), anything),
        },
    ),
    fields_of_containers,
    st.fixed_dictionaries({}, optional={"terminationGracePeriodSeconds": whole}),
    anything,
)
def test_whatever_a_workload_says_is_simulated_or_refused_in_words(
    kind: str, spec: Json, fields: Json, pod: Json, status: Any
) -> None:
    """A custom resource's spec is checked by nobody; numbers are finite, or null."""
    app = container(**fields)
    init = {**app, "name": "init", "restartPolicy": "Always"}
    task = {"name": "task", "image": "x", "command": fields.get("command")}
    built = workload(kind, app, pod={"initContainers": [init, task], **pod}, **spec)
    built["status"] = {"desiredNumberScheduled": status}
    assume(malformed(built) is None)
    try:
        found = simulate(KINDS[kind], built)
    except SimulationError as error:
        assert "at most" in str(error)  # noqa: PT017 - both ends are right
        return
    numbers = [found.rolled_out, found.old_pods_gone, *(pod.ready for pod in found.pods)]
    assert all(each is None or math.isfinite(each) for each in numbers)
    assert (found.rolled_out is None) <= bool(found.unfinished)


@pytest.mark.parametrize("kind", [DEPLOYMENT, STATEFUL_SET])
def test_pods_that_can_never_be_ready_end_the_simulation(kind: Any) -> None:
    """It ends when nothing more can happen."""
    app = container(
        livenessProbe={"tcpSocket": {"port": 1}, "failureThreshold": 1, "periodSeconds": 1}
    )
    found = simulate(kind, workload(kind.name, app))
    assert found.rolled_out is None
    assert "liveness probe" in found.unfinished
