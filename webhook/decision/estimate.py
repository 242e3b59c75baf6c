"""How long a rollout takes at the least, by what a workload says of itself."""

from __future__ import annotations

import math
from dataclasses import dataclass
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


@dataclass(frozen=True, slots=True)
class Estimate:
    """A rollout in steps, each of which takes at least so many seconds.

    `steps` is none where it depends on the number of nodes, or on the user.
    """

    steps: int | None
    step_seconds: int
    text: str

    @property
    def seconds(self) -> int | None:
        """The least time that the whole takes."""
        return None if self.steps is None else self.steps * self.step_seconds


def estimate(kind: Kind, workload: dict[str, Any]) -> Estimate:
    """Estimate a rollout; the time that a pod takes to become ready comes on top."""
    steps, seconds, each = _pace(kind, workload)
    used = strategy_type(kind, workload)
    if used == "OnDelete":
        text = "as pods are deleted by hand"
    elif kind is DAEMON_SET:
        text = f"at least {duration(seconds)} a node or group of nodes"
    elif steps is None:
        text = "by the steps of its own strategy"
    else:
        if used == "Recreate":
            how = "all pods stop before any starts"
        elif kind is DEPLOYMENT:
            how = f"{_count(steps, 'step')} of up to {_count(each, 'pod')}"
        else:
            how = "one pod after the other" if each == 1 else f"up to {each} pods at a time"
        text = f"at least {duration(steps * seconds)}: {how}"
    return Estimate(steps, seconds, text)


def known_seconds(kind: Kind, workload: dict[str, Any]) -> int | None:
    """Give the least time that a rollout takes, where it is known."""
    steps, seconds, _ = _pace(kind, workload)
    return None if steps is None else steps * seconds


def _pace(kind: Kind, workload: dict[str, Any]) -> tuple[int | None, int, int]:
    """Tell in how many steps it goes, the least seconds of each, and of how many pods it is."""
    spec: dict[str, Any] = workload.get("spec") or {}
    ready: int = spec.get("minReadySeconds") or 0
    used = strategy_type(kind, workload)
    if kind is DAEMON_SET and used == "RollingUpdate":
        surges = not is_zero(rolling_update(kind, workload).get("maxSurge") or 0)
        return None, ready + (0 if surges else _sleep(workload)), 1
    written: int | None = spec.get("replicas")
    replicas = 1 if written is None else max(0, written)
    if kind is DEPLOYMENT and used == "RollingUpdate":
        each = _at_once(rolling_update(kind, workload), replicas)
        return -(-replicas // each), ready, each
    if kind is DEPLOYMENT and used == "Recreate":
        return 1, ready + _sleep(workload), replicas
    if kind is STATEFUL_SET and used == "RollingUpdate":
        rolling = rolling_update(kind, workload)
        partition = rolling.get("partition")
        if type(partition) is int:
            replicas = max(0, replicas - max(0, partition))
        each = max(1, resolved(rolling.get("maxUnavailable"), replicas, math.floor))
        # A rolling update of Parallel pods ignores it (kubernetes#119234).
        waits = 0 if spec.get("podManagementPolicy") == "Parallel" else ready
        return -(-replicas // each), waits + _sleep(workload), each
    return None, ready, 1


def duration(seconds: int) -> str:
    """Write seconds as settings are written: `90` is `1m30s`."""
    minutes, rest = divmod(seconds, 60)
    return (f"{minutes}m" if minutes else "") + (f"{rest}s" if rest or not minutes else "")


def _count(number: int, what: str) -> str:
    return f"{number} {what}" if number == 1 else f"{number} {what}s"


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
