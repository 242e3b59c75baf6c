"""The life of a pod: the kubelet's rules, one by one.

The clock starts at the creation, or at the deletion; the kubelet's ticks are at half past.
"""

from __future__ import annotations

import math
from typing import Any

import pytest

from tests.builders import container, deployment, hooked, sidecar, worker
from webhook.rollout.pod import (
    NEXT_CONTAINER,
    SEEN,
    PodLifecycle,
    command_seconds,
    hook_seconds,
    next_tick,
)
from webhook.rollout.timings import Application, PodTimes, Propagation, Seconds, Times

S = Seconds.of


def times(
    start: float = 2.0, stop: float = 0.0, balancer: Propagation | None = None, **pod: float
) -> Times:
    """Give what things take: half a second at most, but for what is said."""
    node = {"start": 0.4, "end": 1.0, "image_pull": 0.0} | pod
    return Times(
        application=Application(S(start), S(stop), S(0.1)),
        pod=PodTimes(**{key: S(value) for key, value in node.items()}),
        balancer=balancer,
    )


def probe(**fields: Any) -> dict[str, Any]:
    """Give a probe."""
    return {"httpGet": {"path": "/", "port": 8080}, **fields}


def life(*containers: Any, start: float = 2.0, pod: Any = None, **more: Any) -> PodLifecycle:
    """Give the life of a Deployment's pod."""
    return PodLifecycle(deployment(*containers, pod=pod), times(start, **more))


# --- start ---------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("at", "tick"), [(0.0, 0.5), (0.4, 0.5), (0.5, 1.5), (1.49, 1.5), (7.6, 8.5)]
)
def test_the_kubelet_looks_once_a_second(at: float, tick: float) -> None:
    """At half past, as nobody knows when."""
    assert next_tick(at) == tick


# Running at 0.4; the kubelet sees that at 0.5 and probes; then once a period.
READY: list[tuple[dict[str, Any], float, float]] = [
    ({"periodSeconds": 1}, 2.0, 2.5),
    ({"periodSeconds": 1}, 2.1, 2.5),
    ({"periodSeconds": 1}, 2.2, 3.5),
    ({"periodSeconds": 10}, 2.0, 10.5),
    ({}, 2.0, 10.5),  # the period is 10 where nobody says
    ({"periodSeconds": None}, 2.0, 10.5),
    ({"periodSeconds": 10, "initialDelaySeconds": 5}, 1.0, 10.5),
    ({"periodSeconds": 10, "initialDelaySeconds": 15}, 1.0, 20.5),
    ({"periodSeconds": 1, "initialDelaySeconds": 5}, 1.0, 5.5),
    ({"periodSeconds": 5, "successThreshold": 3}, 2.0, 15.5),
    ({"periodSeconds": 10, "failureThreshold": 1}, 2.0, 10.5),  # not ready is not ready
]


@pytest.mark.parametrize(("readiness", "start", "ready"), READY)
def test_a_pod_is_ready_at_the_first_probe_after_its_application_answers(
    readiness: dict[str, Any], start: float, ready: float
) -> None:
    """Delay, period and threshold, as the kubelet counts them."""
    found = life(container(readinessProbe=probe(**readiness)), start=start).start(0.0)
    assert found.ready == pytest.approx(ready)
    assert found.answers == pytest.approx(0.4 + start)


def test_an_application_that_answers_at_once_is_ready_when_its_container_is_seen() -> None:
    """The first probe is not waited for."""
    assert life(start=0.0).start(0.0).ready == pytest.approx(0.4 + SEEN)


def test_a_pod_without_a_readiness_probe_is_ready_before_it_answers() -> None:
    """Running is all that the kubelet knows."""
    found = life(container(readinessProbe=None), start=9.0).start(0.0)
    assert found.ready == pytest.approx(0.4 + SEEN)
    assert found.answers == pytest.approx(9.4)


# Its worker begins at 0.3, when the volumes are mounted; the readiness probe runs as it succeeds.
STARTUP: list[tuple[dict[str, Any], dict[str, Any], float, float]] = [
    ({"periodSeconds": 5, "failureThreshold": 10}, {"periodSeconds": 2}, 6.0, 10.3),
    ({"periodSeconds": 1, "failureThreshold": 30}, {"periodSeconds": 10}, 6.0, 7.3),
    (
        {"periodSeconds": 5, "failureThreshold": 10},
        {"periodSeconds": 4, "initialDelaySeconds": 12},
        6.0,
        14.3,
    ),
]


@pytest.mark.parametrize(("startup", "readiness", "start", "ready"), STARTUP)
def test_a_startup_probe_holds_the_readiness_probe_back_until_it_succeeds(
    startup: dict[str, Any], readiness: dict[str, Any], start: float, ready: float
) -> None:
    """Then the readiness probe begins a period of its own."""
    app = container(startupProbe=probe(**startup), readinessProbe=probe(**readiness))
    assert life(app, start=start).start(0.0).ready == pytest.approx(ready)


@pytest.mark.parametrize(
    ("fields", "start", "why"),
    [
        ({"startupProbe": probe(periodSeconds=5, failureThreshold=3)}, 20.0, "startup probe"),
        ({"livenessProbe": probe(periodSeconds=5)}, 20.0, "liveness probe"),
        ({"livenessProbe": probe()}, 35.0, "liveness probe"),
    ],
)
def test_a_probe_that_gives_up_before_the_application_answers_keeps_the_pod_from_being_ready(
    fields: dict[str, Any], start: float, why: str
) -> None:
    """Its container restarts, and does no better."""
    found = life(container(**fields), start=start)
    assert found.start(0.0).ready == math.inf
    assert found.never.startswith("container app: its " + why)


@pytest.mark.parametrize(
    ("fields", "start"),
    [
        ({"startupProbe": probe(periodSeconds=5, failureThreshold=4)}, 14.0),
        ({"livenessProbe": probe(periodSeconds=5, initialDelaySeconds=20)}, 20.0),
        ({"livenessProbe": probe()}, 20.0),
        ({"livenessProbe": probe(), "startupProbe": probe(failureThreshold=30)}, 200.0),
    ],
)
def test_a_probe_that_is_patient_enough_lets_the_pod_become_ready(
    fields: dict[str, Any], start: float
) -> None:
    """The last of its failures never comes."""
    assert life(container(**fields), start=start).start(0.0).ready < math.inf


def test_init_containers_run_one_after_the_other_and_each_end_is_noticed_at_a_tick() -> None:
    """Nothing tells the kubelet sooner."""
    pod = {
        "initContainers": [
            worker("first", command=["sleep", "3"]),  # 0.4 to 3.4
            worker("second"),  # from a tick after 3.5, and at once over
        ]
    }
    found = life(pod=pod).start(0.0)
    assert found.pulled == pytest.approx(0.4)
    assert found.running == pytest.approx(4.5 + NEXT_CONTAINER)


def test_a_native_sidecar_holds_what_follows_until_its_startup_probe_succeeds() -> None:
    """Or until it runs, where it has none."""
    slow = sidecar(startupProbe=probe(periodSeconds=3, initialDelaySeconds=2))
    found = life(pod={"initContainers": [slow]}).start(0.0)
    assert found.running == pytest.approx(3.3 + NEXT_CONTAINER)
    plain = life(pod={"initContainers": [sidecar()]}).start(0.0)
    assert plain.running == pytest.approx(0.4 + SEEN + NEXT_CONTAINER)


def test_a_native_sidecar_that_is_not_ready_keeps_the_pod_from_being_ready() -> None:
    """Its readiness counts as any other."""
    slow = sidecar(readinessProbe=probe(periodSeconds=30, initialDelaySeconds=20))
    found = life(container(readinessProbe=probe(periodSeconds=1)), pod={"initContainers": [slow]})
    assert found.start(0.0).ready == pytest.approx(30.5)


def test_a_native_sidecar_is_taken_to_answer_at_once() -> None:
    """No file of timings knows its start."""
    strict = sidecar(startupProbe=probe(initialDelaySeconds=5, failureThreshold=1))
    assert life(pod={"initContainers": [strict]}, start=1.0).start(0.0).ready < math.inf


def test_readiness_gates_are_met_when_the_balancer_knows_the_pod() -> None:
    """At once, where the timings know no balancer."""
    gates = {"readinessGates": [{"conditionType": "target-health.elbv2.k8s.aws/x"}]}
    ready = life().start(0.0).ready
    balancer = Propagation(S(15), S(30))
    assert life(pod=gates, balancer=balancer).start(0.0).ready == pytest.approx(ready + 15)
    assert life(balancer=balancer).start(0.0).ready == pytest.approx(ready)
    assert life(pod=gates).start(0.0).ready == pytest.approx(ready)


def test_an_image_pull_comes_before_everything_that_runs() -> None:
    """It is once a pod."""
    assert life(image_pull=7.0).start(0.0).running == pytest.approx(7.4)


# --- end -----------------------------------------------------------------------------------------

SLEEP = {"sleep": {"seconds": 3}}

# hook, grace, stop → SIGTERM, end, killed
ENDS: list[tuple[Any, int | None, float, float, float, bool]] = [
    (None, None, 0.0, 0.0, 0.0, False),
    (None, None, 5.0, 0.0, 5.0, False),
    (SLEEP, None, 5.0, 3.0, 8.0, False),
    (SLEEP, 4, 20.0, 3.0, 5.0, True),  # two seconds at the least, whatever is left
    (SLEEP, 5, 20.0, 3.0, 5.0, True),
    (SLEEP, 6, 20.0, 3.0, 6.0, True),
    (SLEEP, 3, 0.0, 3.0, 3.0, False),
    (SLEEP, 2, 1.0, 2.0, 3.0, False),  # cut at the end of the grace period
    (None, 10, 20.0, 0.0, 10.0, True),
    (None, 1, 20.0, 0.0, 2.0, True),
    (None, -1, 20.0, 0.0, 2.0, True),  # counts as 1
    (SLEEP, 0, 5.0, 0.0, 0.0, True),  # no hooks, go at once
    ({"exec": {"command": ["sleep", "4"]}}, None, 1.0, 4.0, 5.0, False),
    ({"httpGet": {"path": "/drain", "port": 80}}, None, 1.0, 0.0, 1.0, False),
]


@pytest.mark.parametrize(("hook", "grace", "stop", "signalled", "stopped", "killed"), ENDS)
def test_a_pod_ends_after_its_hook_and_its_shutdown_within_the_grace_period(
    hook: Any, grace: int | None, stop: float, signalled: float, stopped: float, *, killed: bool
) -> None:
    """SIGKILL comes at its end, at least two seconds after SIGTERM."""
    given = deployment(hooked(hook), pod={"terminationGracePeriodSeconds": grace})
    found = PodLifecycle(given, times(stop=stop)).stop(0.0)
    assert (found.signalled, found.stopped, found.killed) == (signalled, stopped, killed)
    assert found.stopped <= found.reported <= found.gone <= found.stopped + 1.0


def test_a_pod_is_gone_at_the_next_tick_or_after_as_long_as_the_node_takes() -> None:
    """Whichever comes first; on a slow node the tick after."""
    assert life(end=1.0).stop(0.1).gone == pytest.approx(0.55)
    assert life(end=0.2).stop(0.1).gone == pytest.approx(0.3)
    assert life(end=3.0).stop(0.1).gone == pytest.approx(2.55)


def test_native_sidecars_end_last_and_their_hooks_run_beside_the_others() -> None:
    """They are told when the regular containers have ended."""
    mesh = sidecar(lifecycle={"preStop": {"sleep": {"seconds": 9}}})
    given = deployment(hooked(SLEEP), pod={"initContainers": [mesh]})
    assert PodLifecycle(given, times(stop=2.0)).stop(0.0).stopped == 9.0
    assert PodLifecycle(given, times(stop=8.0)).stop(0.0).stopped == 11.0


def test_the_containers_that_serve_decide_when_a_pod_stops_to_answer() -> None:
    """Others may sleep longer; where none serves, all count."""
    given = deployment(
        hooked(SLEEP), worker("log", lifecycle={"preStop": {"sleep": {"seconds": 9}}})
    )
    found = PodLifecycle(given, times()).stop(0.0)
    assert (found.signalled, found.stopped) == (3.0, 9.0)
    idle = deployment(worker(lifecycle={"preStop": SLEEP}))
    assert PodLifecycle(idle, times()).stop(0.0).signalled == 3.0


COMMANDS: list[tuple[list[str], float]] = [
    (["sleep", "5"], 5),
    (["/bin/sleep", "1.5"], 1.5),
    (["sleep", "1m", "5s"], 65),
    (["sleep", "infinity"], 0),
    (["sleep", "-5"], 0),
    (["sh", "-c", "sleep 5"], 5),
    (["/bin/sh", "-c", "sleep 5 && nginx -s quit"], 5),
    (["sh", "-ec", "sleep 5"], 0),  # only what stands there plainly
    (["bash", "-c", "nginx -s quit; sleep 5; sleep 2"], 7),
    (["sh", "-c", "/bin/sleep 5"], 5),
    (["sh", "-c", "if true; then sleep 5; fi"], 5),
    (["sh", "-c", 'sleep 5; exec "$@"', "sh", "sleep", "3"], 8),
    (["sh", "-c", 'sleep 5; exec "$@"', "sh", "sh", "-c", "sleep 3"], 8),
    (["sh", "-c", "echo sleep 5"], 0),
    (["sh", "-c", "nosleep 5"], 0),
    (["sh", "-c", "sleep $N"], 0),
    (["sh", "-c"], 0),
    (["sh", "-c", ""], 0),
    (["sleep"], 0),
    (["curl", "-X", "POST", "localhost/drain"], 0),
    ([], 0),
]


@pytest.mark.parametrize(("command", "seconds"), COMMANDS)
def test_a_command_takes_as_long_as_the_sleeps_that_it_shows(
    command: list[str], seconds: float
) -> None:
    """Added up; nothing is run to find out."""
    assert command_seconds(command) == seconds


@pytest.mark.parametrize("hook", [None, {}, {"exec": {}}, {"exec": {"command": None}}])
def test_a_hook_that_shows_nothing_takes_no_time(hook: Any) -> None:
    """An empty handler is what an old API server left of it."""
    assert hook_seconds(hook) == 0


@pytest.mark.parametrize(
    "script", ["sleep 5 " * 100_000, "sleep " + "9" * 100_000, "(" * 100_000, " " * 100_000]
)
def test_a_script_of_any_length_is_read_within_bounds(script: str) -> None:
    """It is somebody else's text."""
    assert command_seconds(["sh", "-c", script]) >= 0
