"""How long a rollout takes at the least, by what a workload says of itself.

A lower bound that costs next to nothing, for a warning in the path of a request. What a rollout
will be is simulated (`webhook.rollout.simulation`).
"""

from __future__ import annotations

import math
from typing import Any, Final

from webhook.decision.mutations.strategy import is_zero
from webhook.decision.workload import (
    DAEMON_SET,
    DEPLOYMENT,
    STATEFUL_SET,
    Kind,
    containers,
    longest_native_sleep,
    pre_stop,
    resolved,
    rolling_update,
    strategy_type,
)

HELM_WAIT_SECONDS: Final = 300
"""How long `helm --wait` waits unless told otherwise; then it counts the release as failed."""


def known_seconds(kind: Kind, workload: dict[str, Any]) -> int | None:
    """Give the least time that a rollout takes, where it is known."""
    steps, seconds = _pace(kind, workload)
    return None if steps is None else steps * seconds


def _pace(kind: Kind, workload: dict[str, Any]) -> tuple[int | None, int]:
    """Tell in how many steps it goes, and the least seconds of each."""
    spec: dict[str, Any] = workload.get("spec") or {}
    ready: int = spec.get("minReadySeconds") or 0
    used = strategy_type(kind, workload)
    if kind is DAEMON_SET and used == "RollingUpdate":
        surges = not is_zero(rolling_update(kind, workload).get("maxSurge") or 0)
        return None, ready + (0 if surges else _sleep(workload))
    written: int | None = spec.get("replicas")
    replicas = 1 if written is None else max(0, written)
    if kind is DEPLOYMENT and used == "RollingUpdate":
        each = _at_once(rolling_update(kind, workload), replicas)
        return -(-replicas // each), ready
    if kind is DEPLOYMENT and used == "Recreate":
        return 1, ready + _sleep(workload)
    if kind is STATEFUL_SET and used == "RollingUpdate":
        rolling = rolling_update(kind, workload)
        partition = rolling.get("partition")
        if type(partition) is int:
            replicas = max(0, replicas - max(0, partition))
        each = max(1, resolved(rolling.get("maxUnavailable"), replicas, math.floor))
        # A rolling update of Parallel pods ignores it (kubernetes#119234).
        waits = 0 if spec.get("podManagementPolicy") == "Parallel" else ready
        return -(-replicas // each), waits + _sleep(workload)
    return None, ready


def duration(seconds: int) -> str:
    """Write seconds as settings are written: `90` is `1m30s`."""
    minutes, rest = divmod(seconds, 60)
    return (f"{minutes}m" if minutes else "") + (f"{rest}s" if rest or not minutes else "")


def _at_once(rolling: dict[str, Any], replicas: int) -> int:
    """Tell how many pods the Deployment controller replaces at a time."""
    surge = resolved(rolling.get("maxSurge", "25%"), replicas, math.ceil)
    unavailable = resolved(rolling.get("maxUnavailable", "25%"), replicas, math.floor)
    return max(1, surge + unavailable)


def _sleep(workload: dict[str, Any]) -> int:
    """Tell how long the longest preStop sleep holds a pod that is to go."""
    slept = longest_native_sleep(workload)
    for container in containers(workload):
        command = ((pre_stop(container) or {}).get("exec") or {}).get("command") or []
        if command[:1] == ["sleep"] and len(command) > 1 and str(command[1]).isdecimal():
            slept = max(slept, int(command[1]))
    return slept
