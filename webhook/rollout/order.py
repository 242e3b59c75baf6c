"""Which rollout comes first, and how long all of them take at the least.

The least risky first. A workload's risk is, by falling weight:

    0  no pod restarts
    1  no pod goes before the one that takes its place is available
    2  some go at a time: Deployments and Argo Rollouts
    3  the same: DaemonSets
    4  the same: StatefulSets
    5  all go at once: `Recreate`, or the only pod

then how many pods it has, then its name. Namespace by namespace: first the one whose riskiest
workload is the least risky, then the one with the fewest pods to restart, then by name.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from typing import Final

from webhook.decision.draft import Operation
from webhook.decision.estimate import known_seconds
from webhook.decision.workload import DAEMON_SET, STATEFUL_SET, Json, Kind, malformed
from webhook.rollout.progress import pods
from webhook.rollout.shape import Shape, Version, shape_of
from webhook.rollout.simulation import SimulationError, simulate
from webhook.rollout.timings import Application, PodTimes, Seconds, Times, Timings

# A StatefulSet's `maxUnavailable` counts as used, whatever the API server's version: the greater
# risk of the two.
_GATED: Final = Version(1, 35)


def stored_shape(kind: Kind, workload: Json) -> Shape:
    """Read the shape of a rollout off what the API server stores; a DaemonSet's nodes by status."""
    nodes = pods(kind, workload) if kind is DAEMON_SET else None
    return shape_of(kind, workload, _GATED, nodes)


def max_unavailable_pods(kind: Kind, workload: Json) -> int:
    """Tell how many pods a rollout may take away before those that take their places are there."""
    return stored_shape(kind, workload).unavailable


def least_seconds(kind: Kind, workload: Json) -> int:
    """Tell how long a rollout takes at the least, until all of its new pods are available.

    It is simulated with an application, nodes and an API server that need no time: what the
    workload says of itself remains. One that waits for somebody takes as long as it does by itself.
    """
    if not pods(kind, workload) or malformed(workload):
        return 0
    try:
        found = simulate(kind, workload, _NO_TIME, _NEWEST)
    except SimulationError:  # more pods than are simulated
        return known_seconds(kind, workload) or 0
    available = [each.available for each in found.pods if not each.old and each.available]
    return int(max([found.rolled_out or 0.0, *available]))


_NOTHING: Final = Seconds.of(0)
_NO_TIME: Final = Timings(
    Times(Application(_NOTHING, _NOTHING, _NOTHING), PodTimes(_NOTHING, _NOTHING, _NOTHING))
)
_NEWEST: Final = Version(1, 37)  # it replaces several pods of a StatefulSet at once, if asked to


@dataclass(frozen=True, slots=True)
class Change:
    """What is to become of one workload.

    Args:
        kind: its kind.
        namespace: its namespace.
        name: its name.
        reason: why it is to change.
        restarts: whether its pods restart.
        pods: how many of them there are.
        out: how many of them may be away at once.
        seconds: how long that takes at the least.
        settings: the settings whose injections come, change or go.
        operations: the JSON Patch.
        begun: whether it is patched already, and rolling: it is only awaited.
    """

    kind: Kind
    namespace: str
    name: str
    reason: str = ""
    restarts: bool = False
    pods: int = 0
    out: int = 0
    seconds: int = 0
    settings: tuple[str, ...] = ()
    operations: Sequence[Operation] = field(default=(), repr=False)
    begun: bool = False

    @property
    def place(self) -> str:
        """Name it, as in `shop/deployment/web`."""
        return f"{self.namespace}/{self.kind.name.lower()}/{self.name}"

    @property
    def restarting(self) -> int:
        """How many pods restart."""
        return self.pods if self.restarts else 0

    @property
    def risk(self) -> tuple[int, int, str, str]:
        """What it is ordered by; see above."""
        return (self._class(), self.pods, self.name, self.kind.name)

    def _class(self) -> int:
        if not self.restarting:
            return 0
        if self.out >= self.pods:
            return 5
        if not self.out:
            return 1
        return {DAEMON_SET: 3, STATEFUL_SET: 4}.get(self.kind, 2)


def ordered(changes: Iterable[Change]) -> list[list[Change]]:
    """Put changes in order, the least risky first: those of a namespace together.

    What is rolling already comes before everything else, in a group of its own.
    """
    spaces: dict[str, list[Change]] = {}
    begun = []
    for each in changes:
        if each.begun:
            begun.append(each)
        else:
            spaces.setdefault(each.namespace, []).append(each)
    groups = [sorted(each, key=lambda one: one.risk) for each in spaces.values()]
    groups.sort(
        key=lambda group: (
            group[-1].risk[0],
            sum(each.restarting for each in group),
            group[0].namespace,
        )
    )
    return ([sorted(begun, key=lambda one: one.place)] if begun else []) + groups


def least_total(groups: Iterable[Sequence[Change]], concurrent: int, pause: int = 0) -> int:
    """Tell how long everything takes at the least, so many rollouts at once.

    Args:
        groups: the changes in order; a group begins when the one before it is done.
        concurrent: how many rollouts at once.
        pause: the seconds from the end of one rollout to the begin of the next.
    """
    total = 0
    rolled = 0
    for group in groups:
        ends: list[int] = [0] * concurrent
        for each in group:
            if each.restarting:
                first = min(range(concurrent), key=ends.__getitem__)
                ends[first] += each.seconds + (pause if rolled >= concurrent else 0)
                rolled += 1
        total += max(ends)
    return total
