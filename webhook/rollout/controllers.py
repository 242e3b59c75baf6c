"""What moves pods: each controller's own rule, over counters, so that one look costs no walk.

A controller looks when something it waits for has happened (`sync`), and creates and deletes pods
through the `Cluster`, which tells it later what became of them. A class for each rule:

    Rolling       Deployment, RollingUpdate: new pods as surge allows, then old ones as availability
                  allows, again and again (`pkg/controller/deployment/rolling.go`)
    Recreate      Deployment: all old pods first; new ones when the containers of all have ended
                  (`recreate.go`, oldPodsRunning)
    StatefulSets  from the highest ordinal down; a pod is made anew when the old one is gone
                  (`pkg/controller/statefulset/stateful_set_control.go`)
    DaemonSets    node by node; in place, or with surge (`pkg/controller/daemon/update.go`)
    Canary        Argo Rollouts: the same as Rolling between a canary's steps
    BlueGreen     Argo Rollouts: all new pods, the switch, and the old ones a while later
    Idle          what does nothing by itself: paused, or OnDelete
"""

from __future__ import annotations

import heapq
import math
from dataclasses import dataclass
from enum import IntEnum
from typing import Final

from webhook.decision.workload import DAEMON_SET
from webhook.rollout.pod import ROUNDED, PodLifecycle, Started, Stopped
from webhook.rollout.shape import Shape, share, weighted

REACTION: Final = 0.05
"""How long a controller takes to notice something and to write what follows from it."""
HOP: Final = 0.03
"""How long one more write of the same controller takes."""
WRITES_A_SECOND: Final = 20
WRITES_AT_ONCE: Final = 30
"""What a controller of kube-controller-manager may write (`--kube-api-qps`, `--kube-api-burst`)."""


class Event(IntEnum):
    """What happens to a pod, or in time, that a controller may wait for."""

    SYNC = 0
    READY = 1
    AVAILABLE = 2
    REPORTED = 3
    GONE = 4
    TIMER = 5


@dataclass(slots=True, eq=False)
class Cause:
    """Why something happened: what a controller had waited for.

    Args:
        event: what that was.
        pod: to which pod; none for a timer, and for the change itself.
        at: when.
        what: what a timer was for.
        before: why the timer began.
    """

    event: Event
    pod: TrackedPod | None
    at: float
    what: str = ""
    before: Cause | None = None


@dataclass(slots=True, eq=False)
class TrackedPod:
    """One pod, as it is followed.

    Args:
        name: its name.
        old: whether it was there before the change.
        created: when it was created; of an old one, before everything.
        started: how it starts.
        available: when it counts as available.
        terminating: when it was deleted.
        stopped: how it ends.
        ordinal: its ordinal, or its node.
        born: why it was created.
        died: why it was deleted.
        enters: from when on it is to get requests; as it becomes ready unless said.
        leaves: from when on it is to get none; as it is deleted unless said.
    """

    name: str
    old: bool
    ordinal: int = 0
    created: float = -math.inf
    started: Started | None = None
    available: float = -math.inf
    terminating: float | None = None
    stopped: Stopped | None = None
    born: Cause | None = None
    died: Cause | None = None
    enters: float = -math.inf
    leaves: float = math.inf

    @property
    def ready(self) -> float:
        """When it is ready; long ago for an old one."""
        return self.started.ready if self.started else -math.inf


class Cluster:
    """The pods, what becomes of them, and the order in which it does.

    Args:
        shape: the shape of the rollout.
        life: how its pods live.
        heeds: what its controller waits for.
    """

    def __init__(self, shape: Shape, life: PodLifecycle, heeds: frozenset[Event]) -> None:
        self.shape = shape
        self.pods: list[TrackedPod] = []
        self.cause = Cause(Event.SYNC, None, 0.0)
        self.events = 0
        self._life = life
        self._heeds = heeds
        self._queue: list[tuple[float, int, Event, TrackedPod | Cause | None]] = []
        self._syncing = False
        self._budget = -math.inf
        wait = float(shape.min_ready)
        self._wait = max(0.0, wait - ROUNDED) if shape.rounds else wait

    def create(self, at: float, name: str, ordinal: int = 0) -> TrackedPod:
        """Create a pod, as soon as its controller may write."""
        at = self._allowed(at)
        started = self._life.start(at)
        available = started.ready + self._wait
        pod = TrackedPod(
            name,
            old=False,
            ordinal=ordinal,
            created=at,
            started=started,
            available=available,
            born=self.cause,
            enters=started.ready,
        )
        self.pods.append(pod)
        if started.ready < math.inf:
            self._tell(started.ready, Event.READY, pod)
            self._tell(available, Event.AVAILABLE, pod)
        return pod

    def delete(self, at: float, pod: TrackedPod) -> None:
        """Delete a pod, as soon as its controller may write."""
        at = self._allowed(at)
        pod.terminating = at
        pod.leaves = min(pod.leaves, at)
        pod.died = self.cause
        pod.stopped = self._life.stop(at)
        self._tell(pod.stopped.reported, Event.REPORTED, pod)
        self._tell(pod.stopped.gone, Event.GONE, pod)

    def wake(self, at: float, what: str) -> None:
        """Have the controller look again at a moment."""
        self._push(at, Event.TIMER, Cause(Event.TIMER, None, at, what, self.cause))

    def run(self, controller: Controller) -> None:
        """Let everything happen, in order."""
        self.request_sync(0.0)
        queue = self._queue
        while queue:
            at, _, event, what = heapq.heappop(queue)
            if what is None:
                self._syncing = False
                controller.sync(at)
            elif isinstance(what, Cause):
                self.cause = what
                self.request_sync(at)
            elif controller.on(event, what):
                self.cause = Cause(event, what, at)
                self.request_sync(at)

    def request_sync(self, at: float) -> None:
        """Have the controller look; once, if it is asked again before it does."""
        if not self._syncing:
            self._syncing = True
            self._push(at + REACTION, Event.SYNC, None)

    def _tell(self, at: float, event: Event, pod: TrackedPod) -> None:
        if event in self._heeds:
            self._push(at, event, pod)

    def _push(self, at: float, event: Event, what: TrackedPod | Cause | None) -> None:
        self.events += 1
        heapq.heappush(self._queue, (at, self.events, event, what))

    def _allowed(self, at: float) -> float:
        """Give when a write that is wanted at a moment is allowed: a bucket of tokens."""
        self._budget = max(self._budget, at) + 1 / WRITES_A_SECOND
        return max(at, self._budget - WRITES_AT_ONCE / WRITES_A_SECOND)


class Controller:
    """What all controllers have in common.

    Args:
        cluster: where the pods are.
    """

    heeds: frozenset[Event] = frozenset()

    def __init__(self, cluster: Cluster) -> None:
        self.cluster = cluster
        self.shape = cluster.shape
        self.rolled_out: float | None = None
        self.last: Cause | None = None
        self.waits = ""
        self.old = [self._track(number) for number in range(self.shape.pods)]
        cluster.pods.extend(self.old)

    def _track(self, number: int) -> TrackedPod:
        return TrackedPod(f"{self.shape.name}-old-{number + 1}", old=True, ordinal=number)

    def on(self, event: Event, pod: TrackedPod) -> bool:
        """Note what happened to a pod; tell whether it is worth a look."""
        raise NotImplementedError

    def sync(self, at: float) -> None:
        """Look, and do what is to be done."""
        raise NotImplementedError

    def done(self, at: float) -> None:
        """Note that the rollout is over, and seen to be."""
        if self.rolled_out is None:
            self.rolled_out = at + REACTION
            self.last = self.cluster.cause


class Idle(Controller):
    """A workload that moves no pod by itself."""

    def sync(self, at: float) -> None:
        """Do nothing, and say why."""
        if not self.shape.pods:
            self.done(at)
        elif self.shape.paused:
            self.waits = "it is paused: nothing happens until it is resumed"
        else:
            self.waits = "OnDelete: a pod is replaced when somebody deletes it"


class Rolling(Controller):
    """A Deployment that rolls, and whatever moves its pods as one does."""

    heeds = frozenset({Event.AVAILABLE})

    def __init__(self, cluster: Cluster) -> None:
        super().__init__(cluster)
        self.new = 0
        self.available = 0
        self.stays = self.shape.pods

    def on(self, event: Event, pod: TrackedPod) -> bool:
        """Count a new pod that has become available."""
        self.available += event is Event.AVAILABLE and not pod.old
        return True

    def sync(self, at: float) -> None:
        """Scale up, scale down, until neither is possible; then see whether it is over."""
        at = self.reconcile(at, self.shape.pods, 0)
        if self.available >= self.shape.pods and not self.stays:
            self.done(self.after_writes(at))

    def after_writes(self, at: float) -> float:
        """Give the moment when all that was to be deleted by now is deleted."""
        gone = [pod.terminating for pod in self.old[self.stays :][:1] if pod.terminating]
        return max([at, *gone])

    def reconcile(self, at: float, new: int, stay: int) -> float:
        """Move towards so many new and old pods, within what the strategy allows."""
        shape = self.shape
        least = shape.pods - shape.unavailable
        while True:
            up = min(new - self.new, shape.pods + shape.surge - self.new - self.stays)
            if up > 0:
                for _ in range(up):
                    self.new += 1
                    self.cluster.create(at, f"{shape.name}-new-{self.new}")
                at += HOP
                continue
            # All old pods are available, so both of the bounds in rolling.go come to this one.
            down = min(self.stays - stay, self.stays + self.available - least)
            if down <= 0:
                return at
            for _ in range(down):
                self.stays -= 1
                self.cluster.delete(at, self.old[self.stays])
            at += HOP


class Recreate(Rolling):
    """A Deployment whose old pods all go first."""

    heeds = frozenset({Event.AVAILABLE, Event.REPORTED})

    def __init__(self, cluster: Cluster) -> None:
        super().__init__(cluster)
        self._running = self.shape.pods

    def on(self, event: Event, pod: TrackedPod) -> bool:
        """Count old pods that have ended, and new ones that are available."""
        if event is Event.REPORTED:
            self._running -= 1
            return not self._running
        return super().on(event, pod)

    def sync(self, at: float) -> None:
        """Delete all old pods, await their end, create all new ones."""
        while self.stays:
            self.stays -= 1
            self.cluster.delete(at, self.old[self.stays])
        if self._running:
            return
        while self.new < self.shape.pods:
            self.new += 1
            self.cluster.create(at, f"{self.shape.name}-new-{self.new}")
        if self.available >= self.shape.pods:
            self.done(at)


class StatefulSets(Controller):
    """A StatefulSet: from the highest ordinal down to its partition."""

    heeds = frozenset({Event.READY, Event.AVAILABLE, Event.GONE})

    def __init__(self, cluster: Cluster) -> None:
        super().__init__(cluster)
        self._next = self.shape.pods - 1
        self._ready = self.shape.pods
        # What of its ordinals is away: none while its old pod goes, False when that is gone,
        # True while its new pod is not yet available. In the order of the ordinals only if asked.
        self._away: dict[int, bool | None] = {}

    def _track(self, number: int) -> TrackedPod:
        return TrackedPod(f"{self.shape.name}-{number}", old=True, ordinal=number)

    def on(self, event: Event, pod: TrackedPod) -> bool:
        """Note a pod that is gone, ready or available."""
        if event is Event.GONE:
            self._away[pod.ordinal] = False
        elif event is Event.READY:
            self._ready += 1
            if not self.shape.waits_available:
                self._away.pop(pod.ordinal, None)
        else:
            self._away.pop(pod.ordinal, None)
        return True

    def sync(self, at: float) -> None:
        """Create what is missing; where nothing stands in the way, delete the next old pods."""
        at, waits = self._create(at)
        if not waits:
            self._delete(at)
        if self._next < self.shape.partition and self._ready >= self.shape.pods:
            self.done(at)

    def _create(self, at: float) -> tuple[float, bool]:
        """Create missing pods; ordered, only the lowest, once all below it are available."""
        for ordinal in sorted(self._away):
            if self._away[ordinal] is False:
                self._away[ordinal] = True
                self.cluster.create(at, f"{self.shape.name}-{ordinal}", ordinal)
                at += HOP
            if self.shape.ordered:
                return at, True
        return at, False

    def _delete(self, at: float) -> None:
        # Off its gate, the walk from the highest ordinal stops at whatever is not available, so
        # one at a time goes: `unavailable` is 1 there.
        spare = self.shape.unavailable - len(self._away)
        while spare > 0 and self._next >= self.shape.partition:
            self.cluster.delete(at, self.old[self._next])
            self._away[self._next] = None
            self._ready -= 1
            self._next -= 1
            spare -= 1
            at += HOP


class DaemonSets(Controller):
    """A DaemonSet, in place: a pod goes, and once its containers have ended the next comes."""

    heeds = frozenset({Event.AVAILABLE, Event.REPORTED})

    def __init__(self, cluster: Cluster) -> None:
        super().__init__(cluster)
        self._next = 0
        self._missing: list[int] = []
        self._away = 0
        self._available = 0

    def _track(self, number: int) -> TrackedPod:
        return TrackedPod(f"{self.shape.name}-{number}", old=True, ordinal=number)

    def on(self, event: Event, pod: TrackedPod) -> bool:
        """Note a node without a pod, or with an available new one."""
        if event is Event.REPORTED:
            self._missing.append(pod.ordinal)
        else:
            self._away -= 1
            self._available += 1
        return True

    def sync(self, at: float) -> None:
        """Create pods where there are none; then delete as many old ones as may be away."""
        for node in self._missing:
            self.cluster.create(at, f"{self.shape.name}-{node}", node)
        self._missing.clear()
        while self._next < self.shape.pods and self._away < self.shape.unavailable:
            self.cluster.delete(at, self.old[self._next])
            self._next += 1
            self._away += 1
        if self._available >= self.shape.pods:
            self.done(at)


class SurgingDaemonSets(Controller):
    """A DaemonSet with surge: the old pod of a node goes once the new one is available."""

    heeds = frozenset({Event.AVAILABLE, Event.REPORTED})

    def __init__(self, cluster: Cluster) -> None:
        super().__init__(cluster)
        self._next = 0
        self._available: list[int] = []
        self._surging = 0
        self._updated = 0

    def _track(self, number: int) -> TrackedPod:
        return TrackedPod(f"{self.shape.name}-{number}", old=True, ordinal=number)

    def on(self, event: Event, pod: TrackedPod) -> bool:
        """Note an available new pod, or an old one whose containers have ended."""
        if event is Event.AVAILABLE:
            self._available.append(pod.ordinal)
            self._surging -= 1
        else:
            # Its status counts the oldest pod of each node: the new one only from now on.
            self._updated += 1
        return True

    def sync(self, at: float) -> None:
        """Delete old pods whose new ones are available; surge onto as many nodes as allowed."""
        for node in self._available:
            self.cluster.delete(at, self.old[node])
        self._available.clear()
        while self._next < self.shape.pods and self._surging < self.shape.surge:
            self.cluster.create(at, f"{self.shape.name}-{self._next}", self._next)
            self._next += 1
            self._surging += 1
        if self._updated >= self.shape.pods:
            self.done(at)


class Canary(Rolling):
    """An Argo Rollout that shifts to its new pods step by step."""

    def __init__(self, cluster: Cluster) -> None:
        super().__init__(cluster)
        self._step = 0
        self._weight = 0 if self.shape.steps else 100
        self._fixed = -1
        self._until: float | None = None
        self._leaving: float | None = None
        self.unknown: list[str] = []

    def sync(self, at: float) -> None:
        """Move towards the weight of the step; when it is reached, go on with the next."""
        while True:
            last = self._step >= len(self.shape.steps)
            new, stay = (self.shape.pods, self._kept(0)) if last else self._wanted()
            new, stay = max(new, self.new), min(stay, self.stays)
            at = self.reconcile(at, new, stay)
            if self.available < new or self.stays > stay:
                return
            if last:
                self._finish(at)
                return
            if not self._passed(at):
                return

    def _wanted(self) -> tuple[int, int]:
        """Tell how many new and old pods the steps so far ask for."""
        shape, step = self.shape, self.shape.steps[self._step]
        if step.weight is not None:
            self._weight = step.weight
        if step.pods is not None:
            self._fixed = step.pods
        if not shape.routed:
            return weighted(shape.pods, self._weight, shape.surge)
        new = share(shape.pods, self._weight) if self._fixed < 0 else min(self._fixed, shape.pods)
        return new, self._kept(share(shape.pods, 100 - self._weight))

    def _kept(self, asked: int) -> int:
        """Keep all old pods to the end where a router shifts the requests, unless told not to."""
        return self.shape.pods if self.shape.routed and not self.shape.dynamic else asked

    def _passed(self, at: float) -> bool:
        """Go on with the next step, if this one is over."""
        step = self.shape.steps[self._step]
        if step.unknown:
            self.unknown.append(step.unknown)
        if step.pause and self._until is None:
            if step.pause == math.inf:
                number, all_of_them = self._step + 1, len(self.shape.steps)
                self.waits = (
                    f"step {number} of {all_of_them} is a pause without a duration: "
                    "it waits until somebody promotes it"
                )
                return False
            self._until = at + step.pause
            self.cluster.wake(self._until, "pauses of its steps")
        if self._until is not None and at < self._until:
            return False
        self._until = None
        self._step += 1
        return True

    def _finish(self, at: float) -> None:
        self.done(self.after_writes(at))
        if not self.stays:
            return
        if self._leaving is None:
            self._leaving = at + self.shape.delay
            for pod in self.old:
                pod.leaves = at
            self.cluster.wake(self._leaving, "scaleDownDelaySeconds")
        if at >= self._leaving:
            while self.stays:
                self.stays -= 1
                self.cluster.delete(at, self.old[self.stays])


class BlueGreen(Rolling):
    """An Argo Rollout that makes all its new pods, switches to them, and deletes the old ones."""

    def __init__(self, cluster: Cluster) -> None:
        super().__init__(cluster)
        self._promotion: float | None = None
        self._switched: float | None = None

    def sync(self, at: float) -> None:
        """Make the new pods, await the promotion, switch; delete the old ones after the delay."""
        shape = self.shape
        if self._switched is not None:
            if at >= self._switched + shape.delay:
                while self.stays:
                    self.stays -= 1
                    self.cluster.delete(at, self.old[self.stays])
            return
        first = shape.pods if shape.preview is None else shape.preview
        at = self._make(at, first)
        if self.available < first:
            return
        if self._promotion is None:
            self._promotion = at + shape.promotion
            if shape.promotion == math.inf:
                self.waits = "its new pods are there: it waits until somebody promotes them"
            elif shape.promotion:
                self.cluster.wake(self._promotion, "autoPromotionSeconds")
        if at < self._promotion:
            return
        at = self._make(at, shape.pods)
        if self.available < shape.pods:
            return
        self._switched = at
        for pod in self.cluster.pods:
            if pod.old:
                pod.leaves = at
            else:
                pod.enters = at
        self.done(at)
        self.cluster.wake(at + shape.delay, "scaleDownDelaySeconds")

    def _make(self, at: float, pods: int) -> float:
        if self.new >= pods:
            return at
        while self.new < pods:
            self.new += 1
            pod = self.cluster.create(at, f"{self.shape.name}-new-{self.new}")
            pod.enters = math.inf  # until the switch
        return at + HOP


def controller_of(shape: Shape) -> type[Controller]:
    """Choose the rule that a workload's pods move by."""
    if shape.paused or shape.strategy == "OnDelete":
        return Idle
    if shape.kind is DAEMON_SET:
        return SurgingDaemonSets if shape.surge else DaemonSets
    if shape.strategy == "Canary":
        return Canary
    if shape.strategy == "BlueGreen":
        return BlueGreen
    if shape.strategy == "Recreate":
        return Recreate
    return Rolling if shape.kind.has_deadline else StatefulSets
