"""Contract §5, "Warnings": what no patch can mend."""

from __future__ import annotations

from typing import Any

import pytest

from tests.builders import (
    EXEC_QUIT,
    OLD_SERVER,
    Json,
    admission,
    after,
    changed,
    codes,
    container,
    decide,
    deployment,
    hooked,
    response,
    rolling,
    sidecar,
    worker,
    workload,
)

CHAIN = {"pre-stop-existing": "chain"}
OLD = admission(server=OLD_SERVER)


def probed(seconds: Any, key: str = "livenessProbe", **fields: Any) -> Json:
    """Give a container with a probe that has a grace period of its own."""
    probe = {"tcpSocket": {"port": 8080}, "terminationGracePeriodSeconds": seconds}
    return container(**{key: probe}, **fields)


def sleeps(text: str) -> Json:
    """Give a container whose exec hook sleeps as a shell would read it."""
    return hooked({"exec": {"command": ["sh", "-c", f"{text}; quit"]}})


GRACE_90 = {"terminationGracePeriodSeconds": 90}
NO_PROBE = container(readinessProbe=None)

CASES: list[tuple[Json, Any, set[str]]] = [
    (deployment(), None, set()),
    # Recreate
    (deployment(strategy={"type": "Recreate"}), None, {"recreate"}),
    (deployment(strategy={"type": "RollingUpdate"}), None, set()),
    # serving with no readiness probe
    (deployment(NO_PROBE), None, {"no-readiness-probe"}),
    (deployment(NO_PROBE, container("b")), None, set()),
    (deployment(container(readinessProbe={"exec": {"command": ["a"]}})), None, set()),
    (deployment(NO_PROBE, says={"readiness-probe": "tcp://:8080"}), None, set()),
    (deployment(worker(), says={"min-ready": "5"}), None, set()),
    (deployment(worker(), says={"inject": "enabled"}), None, {"no-readiness-probe"}),
    # a kept preStop longer than the grace period
    (deployment(sleeps("sleep 40")), None, {"hook-exceeds-grace"}),
    (deployment(sleeps("sleep 1m")), None, {"hook-exceeds-grace"}),
    (deployment(sleeps("sleep 90s")), None, {"hook-exceeds-grace"}),
    (deployment(sleeps("sleep 10")), None, set()),
    (deployment(sleeps("sleep 10s")), None, set()),
    (deployment(sleeps("sleep 40"), pod=GRACE_90), None, set()),
    (deployment(hooked({"exec": {"command": ["sleep", "40"]}})), None, {"hook-exceeds-grace"}),
    (deployment(hooked({"exec": {"command": ["/bin/sleep", "40"]}})), None, {"hook-exceeds-grace"}),
    (deployment(sleeps("sleep 40"), says={"shutdown-time": "2m"}), None, set()),
    # maxUnavailable lets every replica go
    (deployment(**rolling(maxUnavailable="100%")), None, {"all-unavailable"}),
    (deployment(**rolling(maxUnavailable=3)), None, {"all-unavailable"}),
    (deployment(**rolling(maxUnavailable=5)), None, {"all-unavailable"}),
    (deployment(**rolling(maxUnavailable=2)), None, set()),
    (deployment(replicas=1, **rolling(maxUnavailable=1)), None, {"all-unavailable"}),
    (deployment(replicas=1, **rolling(maxUnavailable="50%")), None, set()),
    (deployment(replicas=0, **rolling(maxUnavailable=1)), None, set()),
    (deployment(replicas=None, **rolling(maxUnavailable=1)), None, {"all-unavailable"}),
    (deployment(says={"strategy": "surge"}, **rolling(maxUnavailable=3)), None, set()),
    (
        workload("DaemonSet", **rolling("DaemonSet", maxUnavailable="100%")),
        None,
        {"all-unavailable", "no-overlap"},
    ),
    # no overlap of old and new
    (workload("DaemonSet"), None, {"no-overlap"}),
    (workload("DaemonSet", says={"pre-stop-sleep": "none"}), None, {"no-overlap"}),
    (workload("DaemonSet", says={"strategy": "surge"}), None, set()),
    (workload("DaemonSet", updateStrategy={"type": "OnDelete"}), None, {"no-overlap"}),
    (workload("DaemonSet", **rolling("DaemonSet", maxUnavailable=1)), None, {"no-overlap"}),
    (workload("DaemonSet", **rolling("DaemonSet", maxSurge="0%")), None, {"no-overlap"}),
    (workload("DaemonSet", **rolling("DaemonSet", maxSurge=1, maxUnavailable=0)), None, set()),
    (workload("DaemonSet", worker()), None, set()),
    (workload("DaemonSet", worker(), says={"min-ready": "5"}), None, set()),
    (workload("StatefulSet", replicas=1), None, {"no-overlap"}),
    (workload("StatefulSet", replicas=1, says={"pre-stop-sleep": "5s"}), None, {"no-overlap"}),
    (workload("StatefulSet", replicas=2), None, set()),
    (workload("StatefulSet", worker(), replicas=1), None, set()),
    (
        deployment(replicas=1, **rolling(maxUnavailable=1, maxSurge=0)),
        None,
        {"no-overlap", "all-unavailable"},
    ),
    (
        deployment(replicas=1, says={"strategy": "surge"}, **rolling(maxUnavailable=1, maxSurge=0)),
        None,
        set(),
    ),
    # a rollout that takes longer than five minutes
    (deployment(replicas=10, **rolling(maxUnavailable=0, maxSurge=1)), None, {"long-rollout"}),
    (deployment(replicas=9, **rolling(maxUnavailable=0, maxSurge=1)), None, set()),
    (deployment(replicas=10), None, set()),
    (deployment(replicas=1000), None, set()),
    (deployment(replicas=1000, says={"min-ready": "2m"}), None, set()),
    (deployment(says={"min-ready": "10m"}), None, {"long-rollout"}),
    (deployment(replicas=0, says={"min-ready": "10m"}), None, set()),
    (workload("StatefulSet", replicas=5), None, {"long-rollout"}),
    (workload("StatefulSet", replicas=4), None, set()),
    (
        workload(
            "StatefulSet", replicas=6, **rolling("StatefulSet", partition=3, maxUnavailable=None)
        ),
        None,
        set(),
    ),
    (workload("StatefulSet", replicas=6, **rolling("StatefulSet", maxUnavailable=2)), None, set()),
    (workload("DaemonSet", says={"min-ready": "1h", "strategy": "surge"}), None, set()),
    (workload("Rollout", replicas=100, says={"min-ready": "1h"}), None, set()),
    # what was injected is nobody's fault
    (deployment(says={"pre-stop-sleep": "40s", "shutdown-time": "0"}), None, set()),
    (deployment(says={"pre-stop-sleep": "40s", "shutdown-time": "0"}), OLD, {"exec-sleep"}),
    (deployment(pod={"terminationGracePeriodSeconds": 0}), None, set()),
    (deployment(pod={"terminationGracePeriodSeconds": -1}), None, set()),
    (
        deployment(sleeps("sleep 1"), pod={"terminationGracePeriodSeconds": -1}),
        None,
        {"hook-exceeds-grace"},
    ),
    (
        workload("Rollout", strategy={"canary": {"maxUnavailable": "100%"}}),
        None,
        {"all-unavailable"},
    ),
    # a StatefulSet with podManagementPolicy Parallel
    (workload("StatefulSet", podManagementPolicy="Parallel"), None, {"parallel"}),
    (workload("StatefulSet", podManagementPolicy="OrderedReady"), None, set()),
    (workload("StatefulSet", replicas=9, podManagementPolicy="Parallel"), None, {"parallel"}),
    (deployment(podManagementPolicy="Parallel"), None, set()),
    # an injected exec sleep
    (deployment(), OLD, {"exec-sleep"}),
    (deployment(says={"pre-stop-handler": "exec"}), None, {"exec-sleep"}),
    (deployment(hooked(EXEC_QUIT), says={"pre-stop-handler": "exec"}), None, set()),
    # a name in a setting that matches no container or port
    (deployment(says={"pre-stop-containers": "app gone"}), None, {"no-such-container"}),
    (deployment(NO_PROBE, says={"readiness-probe": "tcp://:1"}), None, {"no-such-port"}),
    # a quorum above the number of targets
    (deployment(says={"precheck": "db:1", "precheck-require": "2"}), None, {"quorum-too-large"}),
    # a precheck for the workload's own name
    (deployment(says={"precheck": "web:80"}), None, {"precheck-of-itself"}),
    # a probe's own terminationGracePeriodSeconds that the sleep uses up
    (deployment(probed(20)), None, {"probe-grace"}),
    (deployment(probed(30)), None, {"probe-grace"}),
    (deployment(probed(31)), None, set()),
    (deployment(probed(20, "startupProbe")), None, {"probe-grace"}),
    (deployment(probed(None)), None, set()),
    (deployment(probed(20)), OLD, {"probe-grace", "exec-sleep"}),
    (
        deployment(probed(20, lifecycle={"preStop": EXEC_QUIT}), says=CHAIN),
        None,
        {"probe-grace", "chain-needs-shell"},
    ),
    # surge with a volume claim
    (
        deployment(
            says={"strategy": "surge"},
            pod={"volumes": [{"name": "a", "persistentVolumeClaim": {"claimName": "a"}}]},
        ),
        None,
        {"surge-with-volume"},
    ),
    # a readiness gate whose prefix no known controller sets
    (deployment(pod={"readinessGates": [{"conditionType": "a/b"}]}), None, {"unknown-gate"}),
]


@pytest.mark.parametrize(("given", "by", "expected"), CASES)
def test_these_warnings_come_and_no_others(given: Json, by: Any, expected: set[str]) -> None:
    """Each that the contract names, where it applies and where it does not."""
    decision = decide(given, by=by or admission())
    assert codes(decision) == expected


LONG = "x" * 63
LOUD: list[Json] = [
    deployment(
        hooked(EXEC_QUIT, LONG),
        probed(5, name="y" * 63),
        says={
            **CHAIN,
            "pre-stop-handler": "exec",
            "max-grace": "24h",
            "shutdown-time": "86400s",
            "pre-stop-containers": f"{LONG} {'z' * 63} {'y' * 63}",
            "readiness-gates": f"{'a' * 100}.example.com/{LONG}",
            "precheck": f"web.shop.svc.{'a' * 60}.{'b' * 60}.{'c' * 60}:80",
            "precheck-require": "999999999",
            "readiness-probe": "http://:a-long-port-nam/" + "path" * 100,
        },
    ),
    deployment(says={"x" * 5000: "y" * 5000}, metadata={"name": "w" * 253}),
    deployment(says={"min-ready": "🙂" * 5000, "inject": "\n" * 5000, "ü": "\u202e\x00"}),
    deployment(hooked({"exec": {"command": ["sleep 999999h"]}}, LONG)),
    deployment(
        hooked({"exec": {"command": ["sleep", "999999999d"]}}, LONG),
        container(),
        says={"pre-stop-existing": "native", "max-grace": "86399", "shutdown-time": "86400"},
        replicas=2**31 - 1,
        minReadySeconds=2**31 - 1,
        progressDeadlineSeconds=2**31,
        **rolling(maxUnavailable=0, maxSurge=1),
    ),
    workload(
        "DaemonSet",
        says={"strategy": "surge", "precheck": "web"},
        pod={
            "hostNetwork": True,
            "affinity": {
                "podAntiAffinity": {
                    "requiredDuringSchedulingIgnoredDuringExecution": [{"topologyKey": "x"}]
                }
            },
        },
    ),
    deployment(**rolling(maxUnavailable="1" * 5000 + "%")),
    workload("Rollout", strategy={"canary": {"maxUnavailable": 10**18}}),
    deployment(pod={"readinessGates": [{"conditionType": "🙂" * 5000}]}),
]


@pytest.mark.parametrize("given", LOUD)
@pytest.mark.parametrize("mode", ["patch", "audit"])
@pytest.mark.parametrize("invalid", ["warn", "deny"])
def test_a_warning_is_a_line_of_at_most_120_characters(
    given: Json, mode: str, invalid: str
) -> None:
    """However long the names in it are."""
    found = response(given, by=admission({"mode": mode, "invalidSettings": invalid}))
    for warning in found.get("warnings", []):
        assert len(warning) <= 120
        assert warning.isprintable()
        assert warning.strip()


def test_many_warnings_are_cut_with_their_number() -> None:
    """The API server passes on about four kilobytes."""
    given = deployment(*(container(f"c{n}", readinessProbe=None) for n in range(100)), pod={})
    says = {f"x{n}": "1" for n in range(300)}
    found = response(deployment(says=says), by=admission({"invalidSettings": "warn"}))
    assert len(found["warnings"]) <= 30
    assert sum(map(len, found["warnings"])) < 4096
    assert len(response(given)["warnings"]) == 1


def test_the_warning_of_parallel_pods_says_what_is_ignored() -> None:
    """kubernetes#119234."""
    decision = decide(workload("StatefulSet", podManagementPolicy="Parallel"))
    assert ["minReadySeconds" in each.text for each in decision.alerts] == [True]


@pytest.mark.parametrize(
    ("given", "helped"),
    [
        (workload("DaemonSet"), True),
        (workload("DaemonSet", updateStrategy={"type": "OnDelete"}), False),
        (workload("DaemonSet", pod={"hostNetwork": True}), False),
        (workload("StatefulSet", replicas=1), False),
    ],
)
def test_surge_is_named_to_those_whom_it_helps(given: Json, helped: object) -> None:
    """Others cannot have two pods on a node, or take turns by hand."""
    (alert,) = decide(given).alerts
    assert alert.code == "no-overlap"
    assert ("strategy: surge" in alert.text) is helped


def test_a_hook_of_ours_in_a_frozen_template_draws_no_warning() -> None:
    """Whatever the grace period has become."""
    says = {"pre-stop-sleep": "40s", "shutdown-time": "0"}
    stored = after(deployment(says=says))
    scaled = changed(stored, "spec", "replicas", to=5)
    decision = decide(scaled, stored)
    assert decision.kept
    assert not decision.alerts


def test_a_workload_out_of_scope_draws_none() -> None:
    """What it does is its own business."""
    given = deployment(
        NO_PROBE,
        says={"inject": "disabled", "precheck": "web"},
        strategy={"type": "Recreate"},
    )
    assert codes(decide(given)) == set()


def test_a_sidecar_s_hook_is_looked_at_too() -> None:
    """It burns the same grace period (KEP-753)."""
    proxy = sidecar(lifecycle={"preStop": {"exec": {"command": ["sleep", "100"]}}})
    assert codes(decide(deployment(pod={"initContainers": [proxy]}))) == {"hook-exceeds-grace"}
