"""Each cause of a lost request, provoked by real processes, named right, mended by its patch."""

from __future__ import annotations

from collections.abc import Mapping
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import pytest

from webhook.demo.stage import Stage, StageError, rules
from webhook.proof.failures import Cause, Scene
from webhook.proof.load import Job
from webhook.proof.run import Plan, run
from webhook.proof.sender import LocalSender
from webhook.proof.verdict import Verdict

Json = dict[str, Any]

_SCALE = 0.1
_TIMEOUT = 3.0
_SURGE = {"rollingUpdate": {"maxSurge": 1, "maxUnavailable": 0}}


def manifest(*arguments: str, **given: Any) -> Json:
    """A Deployment of the demo application, with a readiness probe unless told otherwise."""
    container: Json = {"name": "app", "args": ["demo-app", *arguments]}
    if given.get("probe", True):
        probe = {"httpGet": {"path": "/healthz", "port": 8080}, "periodSeconds": 1}
        container["readinessProbe"] = probe
    if given.get("sleep"):
        container["lifecycle"] = {"preStop": {"sleep": {"seconds": given["sleep"]}}}
    pod = {"terminationGracePeriodSeconds": given.get("grace", 60), "containers": [container]}
    spec = {
        "replicas": given.get("replicas", 2),
        "minReadySeconds": given.get("min_ready", 0),
        "strategy": given.get("strategy", _SURGE),
        "template": {"spec": pod},
    }
    return {"kind": "Deployment", "metadata": {"name": "web"}, "spec": spec}


def rolled(
    given: Json, *, lag: float = 0.3, mode: str = "tcp", warm: float = 0.5, **job: Any
) -> Verdict:
    """Roll it under load: a tenth of its seconds, and a lag in seconds as they are."""
    with Stage(given, lag=lag, scale=_SCALE, mode=mode) as stage:
        usual: Mapping[str, Any] = {"rate": 80.0, "timeout": _TIMEOUT}
        sender = LocalSender(Job(stage.url, **{**usual, **job}))
        scene = Scene((), direct=mode != "http", slack=0.1, linger=5, young=5)
        plan = Plan("web", warm=warm, tail=lag + 0.3, timeout=_TIMEOUT, scene=scene)
        return run(sender, stage, plan).verdict


@pytest.mark.parametrize(
    ("cause", "plain", "patched", "how"),
    [
        pytest.param(
            Cause.NEW_POD_TOO_EARLY,
            manifest("--start", "0.5", probe=False, sleep=10),
            manifest("--start", "0.5", sleep=10),
            {"connections": "fresh"},
            id="a readiness probe closes: new pod too early",
        ),
        pytest.param(
            Cause.STALE_ENDPOINT,
            manifest(),
            manifest(sleep=10),
            {"connections": "fresh"},
            id="a sleep longer than the lag closes: stale endpoint",
        ),
        pytest.param(
            Cause.CUT_OFF_IN_FLIGHT,
            manifest("--request", "0.3", "--term", "exit"),
            manifest("--request", "0.3", "--term", "drain"),
            {"connections": "fresh", "lag": 0.0},
            id="draining closes: cut off in flight",
        ),
        pytest.param(
            Cause.KILLED,
            manifest("--request", "0.8", grace=3),
            manifest("--request", "0.8", sleep=10, grace=40),
            {"connections": "fresh", "lag": 0.0, "warm": 1.2},
            id="a grace period that covers requests closes: killed at its end",
        ),
        pytest.param(
            Cause.KEPT_CONNECTION,
            manifest("--request", "0.03", "--term", "exit", sleep=10, replicas=3),
            manifest("--request", "0.03", "--term", "linger", "--linger", "0.5", sleep=10),
            {"connections": "kept", "mode": "nat", "rate": 120.0},
            id="closing in order closes: kept connection reused",
        ),
        pytest.param(
            Cause.NOBODY_READY,
            manifest("--start", "0.3", sleep=5, strategy={"type": "Recreate"}),
            manifest("--start", "0.3", sleep=5),
            {"connections": "fresh", "lag": 0.1},
            id="surge closes: nobody ready",
        ),
        pytest.param(
            Cause.PROXY,
            manifest(),
            manifest(sleep=10),
            {"mode": "http"},
            id="a sleep closes: answered by a proxy",
        ),
    ],
)
def test_each_cause_is_named_right_and_closed_by_its_patch(
    cause: Cause, plain: Json, patched: Json, how: dict[str, Any]
) -> None:
    """Both at the same time, on stages of their own."""
    with ThreadPoolExecutor(2) as pool:
        lost, mended = pool.map(lambda given: rolled(given, **how), (plain, patched))
    # A pod that goes may lose a request in another way, too: by what was under way just then.
    assert lost.causes.get(cause, 0) >= max(1, lost.failed / 3), lost.causes
    assert Cause.UNEXPLAINED not in lost.causes
    assert mended.rollout.done is not None
    assert not mended.failed, mended.causes


@pytest.mark.parametrize("lag", [0.2, 0.7])
def test_all_patches_together_lose_none_whatever_the_lag(lag: float) -> None:
    """As long as the sleep is longer; and the plain manifest loses some."""
    arguments = ("--start", "0.3", "--request", "0.05")
    plain = manifest(*arguments, "--term", "exit", probe=False, strategy={})
    whole = manifest(
        *arguments, "--term", "linger", "--linger", "0.3", sleep=10, min_ready=8, grace=60
    )
    with ThreadPoolExecutor(2) as pool:
        lost, none = pool.map(lambda given: rolled(given, lag=lag), (plain, whole))
    assert lost.failed
    assert Cause.UNEXPLAINED not in lost.causes
    assert (none.failed, none.causes) == (0, {})
    assert none.requests > 100


def test_the_stage_ends_all_that_it_began() -> None:
    """No process outlives it."""
    with Stage(manifest(), scale=_SCALE) as stage:
        stage.restart()
        while not stage.progress().gone:
            pass
        pods = stage.pods()
        running = [each.process for each in stage._pods]
    assert [each.old for each in pods] == [True, True, False, False]
    assert all(each is not None and each.returncode is not None for each in running)


@pytest.mark.parametrize(
    ("replicas", "strategy", "surge", "unavailable"),
    [
        (4, {}, 1, 1),
        (3, {}, 1, 0),
        (10, {"rollingUpdate": {"maxSurge": "30%", "maxUnavailable": "15%"}}, 3, 1),
        (3, {"rollingUpdate": {"maxSurge": 0, "maxUnavailable": 0}}, 0, 1),
    ],
)
def test_bounds_are_rounded_as_the_controller_rounds_them(
    replicas: int, strategy: Json, surge: int, unavailable: int
) -> None:
    """Surge up, unavailable down, and never both nothing."""
    found = rules(manifest(replicas=replicas, strategy=strategy))
    assert (found.surge, found.unavailable) == (surge, unavailable)


def test_the_manifests_seconds_are_scaled_and_the_applications_are_not() -> None:
    """So that a test takes less time."""
    found = rules(manifest("--start", "2", sleep=10, grace=30, min_ready=5), 0.1)
    assert (found.sleep, found.grace, found.min_ready, found.period) == (1.0, 3.0, 0.5, 0.1)
    assert found.arguments == ("--start", "2")


@pytest.mark.parametrize(
    ("given", "text"),
    [
        ({"kind": "StatefulSet"}, "plays a Deployment"),
        ({"kind": "Deployment"}, "plays a Deployment with a container"),
        (
            {
                "kind": "Deployment",
                "spec": {"template": {"spec": {"containers": [{"args": ["serve"]}]}}},
            },
            "the demo application alone",
        ),
        (manifest(replicas=0), "replicas: 0: expected 1 to 100"),
        (manifest(replicas=1000), "expected 1 to 100"),
    ],
)
def test_what_the_stage_does_not_play_is_refused(given: Json, text: str) -> None:
    """In a line."""
    with pytest.raises(StageError, match=text):
        rules(given)


def test_hooks_and_probes_that_the_stage_does_not_play_are_refused() -> None:
    """None is passed over in silence."""
    hooked = manifest()
    container = hooked["spec"]["template"]["spec"]["containers"][0]
    container["lifecycle"] = {"preStop": {"httpGet": {"path": "/"}}}
    with pytest.raises(StageError, match="the stage plays sleep"):
        rules(hooked)
    container["lifecycle"] = {"preStop": {"exec": {"command": ["sleep", "7"]}}}
    assert rules(hooked).sleep == 7
    container["readinessProbe"] = {"grpc": {"port": 9000}}
    with pytest.raises(StageError, match="httpGet and tcpSocket"):
        rules(hooked)
