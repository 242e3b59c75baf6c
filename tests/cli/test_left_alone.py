"""What `seamless plan` says of what was left as it is."""

from __future__ import annotations

from typing import Any

import pytest

from tests.builders import (
    EXEC_QUIT,
    HTTP_HOOK,
    WINDOWS,
    Json,
    container,
    deployment,
    sidecar,
    worker,
)
from webhook.cli.left_alone import SKIPPED
from webhook.cli.manifests import Document
from webhook.cli.planner import Options, Planner
from webhook.decision.configuration import Configuration

SLEEP = {"exec": {"command": ["sleep", "10"]}}
KEPT = "app has a preStop of its own: kept"
NATIVE = f"{KEPT}; `pre-stop-existing: native` would make it a native sleep of the same length"


def told(given: Json, **settings: Any) -> list[str]:
    """Say what was left alone of it."""
    planner = Planner(Configuration(**settings), Options())
    return planner.plan([Document("file", 1, "", given)]).workloads[0].left_alone


def hooked(hook: Json, **more: Any) -> Json:
    """Give a Deployment whose container has a hook."""
    return deployment(container(lifecycle={"preStop": hook}), **more)


@pytest.mark.parametrize(
    ("given", "expected"),
    [
        (deployment(), []),
        (
            hooked(EXEC_QUIT),
            [f"{KEPT}; `pre-stop-existing: chain` would run it after the sleep"],
        ),
        (
            hooked(SLEEP),
            [NATIVE],
        ),
        (hooked(HTTP_HOOK), [KEPT]),
        (hooked(EXEC_QUIT, pod=WINDOWS), [KEPT]),
        (hooked(EXEC_QUIT, says={"pre-stop-existing": "chain"}), []),
        (hooked(EXEC_QUIT, says={"pre-stop-sleep": "none"}), []),
        (
            deployment(container(), worker(), says={"pre-stop-containers": "app"}),
            ["worker is not among pre-stop-containers: no sleep"],
        ),
        (
            deployment(pod={"terminationGracePeriodSeconds": 0}),
            ["app gets no sleep: a grace period of 0 means no hooks"],
        ),
        (
            deployment(pod={"initContainers": [sidecar()]}),
            ["proxy is a native sidecar: no sleep, for it ends after the others"],
        ),
        (
            deployment(minReadySeconds=90),
            ["minReadySeconds is 90: kept, for min-ready only raises it to 30"],
        ),
        (
            deployment(
                pod={"readinessGates": [{"conditionType": "example.com/up"}]},
                says={"readiness-gates": "example.com/up, example.com/other"},
            ),
            ["the readiness gate example.com/up is there already"],
        ),
        (deployment(worker()), [SKIPPED["not-serving"]]),
        (deployment(says={"inject": "disabled"}), [SKIPPED["disabled"]]),
    ],
)
def test_what_was_left_alone_says_why(given: Json, expected: list[str]) -> None:
    """And which setting would change it."""
    assert told(given) == expected


def test_a_hook_that_was_injected_is_not_the_users() -> None:
    """In a manifest that was exported from a cluster, by its record."""
    planner = Planner(Configuration(), Options())
    first = planner.plan([Document("file", 1, "", deployment())]).workloads[0]
    assert told(first.after) == []


def test_what_the_configuration_leaves_out_says_so() -> None:
    """A kind, a namespace, a workload."""
    assert told(deployment(), kinds=["StatefulSet"]) == [SKIPPED["kind"]]
    assert told(deployment(), excludedNamespaces=["*"]) == [SKIPPED["excluded-namespace"]]
    assert told(deployment(), exclude=[{"name": "web"}]) == [SKIPPED["excluded-workload"]]
