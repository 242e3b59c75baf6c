"""The simulation against rollouts that were recorded on a real cluster.

Kubernetes 1.36.2, kubelet, containerd, one node. Each file of `traces/` holds the manifest, what
the application was, and what a watch saw of each pod; the simulation is given the first two.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any, Final

import pytest
import yaml

from webhook.decision.workload import KINDS
from webhook.rollout.simulation import Pod, Rollout, simulate
from webhook.rollout.timings import parse

TRACES: Final = {path.stem: path for path in (Path(__file__).parent / "traces").glob("*.json")}
VERSION: Final = (1, 36)


def recorded(name: str) -> dict[str, Any]:
    """Read a trace."""
    trace: dict[str, Any] = json.loads(TRACES[name].read_text())
    return trace


def simulated(trace: dict[str, Any]) -> Rollout:
    """Simulate what a trace recorded."""
    timings = parse(yaml.safe_dump(trace["timings"]), "timings")
    manifest = trace["manifest"]
    return simulate(KINDS[manifest["kind"]], manifest, timings, VERSION)


def close(simulated_at: float | None, recorded_at: float) -> bool:
    """Tell whether a time is within 1.5 s or 10 % of what was recorded."""
    return simulated_at is not None and abs(simulated_at - recorded_at) <= max(
        1.5, 0.1 * recorded_at
    )


def recorded_times(pods: list[dict[str, Any]], key: str, *, old: bool) -> list[float]:
    """Give the times of one sort in a trace, in order."""
    return sorted(pod[key] for pod in pods if pod["old"] is old and key in pod)


def simulated_times(pods: tuple[Pod, ...], key: str, *, old: bool) -> list[float]:
    """Give the times of one sort in a simulation, in order."""
    found = (getattr(pod, key) for pod in pods if pod.old is old)
    return sorted(each for each in found if each is not None)


def test_there_are_traces_of_each_kind_of_apps_v1() -> None:
    """The folder is where it is looked for."""
    kinds = {recorded(name)["manifest"]["kind"] for name in TRACES}
    assert kinds == {"Deployment", "StatefulSet", "DaemonSet"}


@pytest.mark.parametrize("name", sorted(TRACES))
def test_a_recorded_rollout_takes_as_long_as_simulated(name: str) -> None:
    """Until its status is good, and until its old pods are gone."""
    trace = recorded(name)
    rollout = simulated(trace)
    assert close(rollout.rolled_out, trace["seconds"]["rolled_out"])
    assert close(rollout.old_pods_gone, trace["seconds"]["old_pods_gone"])


@pytest.mark.parametrize("name", sorted(TRACES))
def test_a_recorded_rollout_has_as_many_pods_as_simulated(name: str) -> None:
    """Old and new ones."""
    trace = recorded(name)
    rollout = simulated(trace)
    for old in (True, False):
        assert sum(pod.old is old for pod in rollout.pods) == sum(
            pod["old"] is old for pod in trace["pods"]
        )


@pytest.mark.parametrize("key", ["created", "ready", "terminating", "gone"])
@pytest.mark.parametrize("name", sorted(TRACES))
def test_each_pod_of_a_recorded_rollout_has_the_times_simulated(name: str, key: str) -> None:
    """One after the other, however they are named."""
    trace, old = recorded(name), key in ("terminating", "gone")
    measured = recorded_times(trace["pods"], key, old=old)
    found = simulated_times(simulated(trace).pods, key, old=old)
    assert len(found) == len(measured)
    assert all(close(*each) for each in zip(found, measured, strict=True)), (found, measured)


@pytest.mark.parametrize("name", sorted(name for name in TRACES if name.startswith("sts-")))
def test_the_pods_of_a_recorded_stateful_set_go_and_come_in_the_order_simulated(name: str) -> None:
    """By name: they have ordinals."""
    trace = recorded(name)
    pods = simulated(trace).pods

    def measured(key: str) -> list[str]:
        there = [pod for pod in trace["pods"] if key in pod]
        return [pod["pod"] for pod in sorted(there, key=lambda pod: float(pod[key]))]

    for key in ("terminating", "created"):
        there = [pod for pod in pods if getattr(pod, key) is not None]
        there.sort(key=lambda pod: float(getattr(pod, key)))
        assert [pod.name for pod in there] == measured(key)


# The kubelet looks once a second, and each time at other pods: nearer than that, chance decides.
CLEARLY: Final = 1.0


@pytest.mark.parametrize("name", sorted(TRACES))
def test_creations_and_terminations_of_a_recorded_rollout_take_turns_as_simulated(
    name: str,
) -> None:
    """Where they are clearly apart."""
    trace = recorded(name)
    rollout = simulated(trace)
    measured = {
        key: recorded_times(trace["pods"], key, old=key != "created")
        for key in ("created", "terminating")
    }
    found = {
        key: simulated_times(rollout.pods, key, old=key != "created")
        for key in ("created", "terminating")
    }
    for first, created in enumerate(measured["created"]):
        for second, terminating in enumerate(measured["terminating"]):
            if abs(created - terminating) > CLEARLY:
                before = found["created"][first] < found["terminating"][second]
                assert before is (created < terminating)
