"""Rollouts as a backfill meets them: may one begin, how far is it, which comes first, and when.

Nothing here asks a cluster or a clock: everything is read off objects as the API server stores
them. How far a rollout is follows `kubectl rollout status`, and where `kubectl` is content with
pods that are ready, pods must be available (ready for `minReadySeconds`) here.

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

import math
import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime, time, tzinfo
from typing import Any, Final

from webhook.decision.draft import Operation
from webhook.decision.estimate import known_seconds
from webhook.decision.workload import (
    DAEMON_SET,
    DEFAULT_DEADLINE_SECONDS,
    DEPLOYMENT,
    ROLLOUT,
    STATEFUL_SET,
    Json,
    Kind,
    grace_seconds,
    malformed,
    mapping,
    resolved,
    rolling_update,
    strategy,
    strategy_type,
    template,
)
from webhook.rollout.shape import Version
from webhook.rollout.simulation import SimulationError, simulate
from webhook.rollout.timings import Application, PodTimes, Seconds, Times, Timings

_NO_DEADLINE: Final = 2**31 - 1  # so do users write that there is none
_SLACK_SECONDS: Final = 60


# --- how far -------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Progress:
    """How far a rollout is.

    Args:
        text: the same in words.
        done: whether it is over, and went well.
        failed: whether its controller has given it up.
        held: whether it waits, by its own steps, for somebody to go on with it.
        steps: numbers that only grow while it moves on.
        pods: how many of its pods are new and available, for a bar.
    """

    text: str
    done: bool = False
    failed: bool = False
    held: bool = False
    steps: tuple[int, ...] = ()
    pods: int = 0


def progress(kind: Kind, workload: Json) -> Progress:
    """Tell how far the rollout of a workload is."""
    status = mapping(workload.get("status"))
    if kind is ROLLOUT:
        return _of_rollout(workload, status)
    generation = _number(mapping(workload.get("metadata")).get("generation"))
    if generation > _number(status.get("observedGeneration")):
        return Progress("its controller has yet to notice the change")
    if kind is DEPLOYMENT:
        return _of_deployment(workload, status)
    return (_of_stateful_set if kind is STATEFUL_SET else _of_daemon_set)(kind, workload, status)


def _of_deployment(workload: Json, status: Json) -> Progress:
    replicas = _replicas(workload)
    condition = _condition(status, "Progressing")
    if condition.get("reason") == "ProgressDeadlineExceeded":
        message = condition.get("message") or "no message"
        return Progress(f"its progress deadline has passed: {message}", failed=True)
    updated = _number(status.get("updatedReplicas"))
    available = _number(status.get("availableReplicas"))
    old = max(0, _number(status.get("replicas")) - updated)
    return _counted(replicas, updated, available, old)


def _of_stateful_set(kind: Kind, workload: Json, status: Json) -> Progress:
    replicas = _replicas(workload)
    available = _number(status.get("availableReplicas"))
    if strategy_type(kind, workload) != "RollingUpdate":
        return _counted(replicas, replicas, available)
    partition = _number(rolling_update(kind, workload).get("partition"))
    wanted = max(0, replicas - partition)
    updated = _number(status.get("updatedReplicas"))
    if updated < wanted:
        return _moving(f"{updated} of {wanted} pods are new", updated, available)
    if not partition and status.get("updateRevision") != status.get("currentRevision"):
        return _moving("its new revision is not yet the current one", updated, available)
    return _counted(replicas, replicas, available)


def _of_daemon_set(kind: Kind, workload: Json, status: Json) -> Progress:
    wanted = _number(status.get("desiredNumberScheduled"))
    rolls = strategy_type(kind, workload) == "RollingUpdate"
    updated = _number(status.get("updatedNumberScheduled")) if rolls else wanted
    return _counted(wanted, updated, _number(status.get("numberAvailable")))


def _of_rollout(workload: Json, status: Json) -> Progress:
    """Read the phase that Argo Rollouts itself computes; it writes what it observed as text."""
    metadata = mapping(workload.get("metadata"))
    observed = str(status.get("observedGeneration") or "")
    # No generation has more digits; Python refuses to read thousands.
    if observed[:20].isdecimal() and int(observed[:20]) != _number(metadata.get("generation")):
        return Progress("its controller has yet to notice the change")
    phase = str(status.get("phase") or "unknown")
    message = str(status.get("message") or "")
    text = f"its phase is {phase}" + (f": {message}" if message else "")
    steps = tuple(
        _number(status.get(key))
        for key in ("updatedReplicas", "availableReplicas", "currentStepIndex")
    )
    return Progress(
        text,
        done=phase == "Healthy",
        failed=phase == "Degraded",
        held=phase == "Paused" and not _timed_pause(workload),
        steps=steps,
        pods=min(steps[:2]),
    )


def _counted(wanted: int, updated: int, available: int, old: int = 0) -> Progress:
    if updated < wanted:
        text = f"{updated} of {wanted} pods are new"
    elif old:
        text = f"{old} old {'pod is' if old == 1 else 'pods are'} yet to go"
    elif available < wanted:
        text = f"{available} of {wanted} pods are available"
    else:
        text = f"all of its {wanted} pods are available" if wanted != 1 else "its pod is available"
        return Progress(text, done=True, pods=wanted)
    return _moving(text, updated, available, -old)


def _moving(text: str, updated: int, available: int, *more: int) -> Progress:
    return Progress(text, steps=(updated, available, *more), pods=min(updated, available))


def _condition(status: Json, name: str) -> Json:
    conditions = status.get("conditions")
    found = (mapping(each) for each in (conditions if isinstance(conditions, list) else ()))
    return next((each for each in found if each.get("type") == name), {})


def _number(value: Any) -> int:
    return value if type(value) is int else 0


def _replicas(workload: Json) -> int:
    replicas = mapping(workload.get("spec")).get("replicas")
    return max(0, replicas) if type(replicas) is int else 1


# --- may it begin --------------------------------------------------------------------------------


def hindrance(kind: Kind, workload: Json, *, restarts: bool) -> str | None:
    """Say why a workload is not to be changed now; none where it may be.

    Args:
        kind: its kind.
        workload: as it is stored.
        restarts: whether the change restarts pods.
    """
    if mapping(workload.get("spec")).get("paused") is True:
        return "it is paused"
    if restarts and strategy_type(kind, workload) == "OnDelete":
        return "its strategy is OnDelete: its pods restart as they are deleted by hand"
    found = progress(kind, workload)
    if found.done:
        return None
    return (
        f"it is {'unhealthy' if found.failed else 'rolling, or unhealthy,'} already: {found.text}"
    )


def rolls(kind: Kind, workload: Json) -> bool:
    """Tell whether a rollout is under way, as one that another run has begun."""
    found = progress(kind, workload)
    updated = found.steps[:1]
    return not (found.done or found.failed or found.held) and updated < (pods(kind, workload),)


def blocking_budget(budgets: Iterable[Json], kind: Kind, workload: Json) -> str | None:
    """Name the PodDisruptionBudget that allows no disruption of a workload's pods, if one does.

    Budgets do not govern rollouts. One that allows nothing says that there is no pod to spare.
    """
    labels = mapping(mapping(template(workload).get("metadata")).get("labels"))
    if not pods(kind, workload):
        return None
    for budget in budgets:
        selector = mapping(budget.get("spec")).get("selector")
        allowed = _number(mapping(budget.get("status")).get("disruptionsAllowed"))
        if allowed < 1 and selects(selector, labels):
            return str(mapping(budget.get("metadata")).get("name"))
    return None


def selects(selector: Any, labels: Mapping[str, Any]) -> bool:
    """Tell whether a label selector selects what bears these labels; an empty one selects all."""
    if not isinstance(selector, dict):
        return False
    wanted = mapping(selector.get("matchLabels"))
    if any(key not in labels or labels[key] != value for key, value in wanted.items()):
        return False
    return all(_meets(each, labels) for each in selector.get("matchExpressions") or ())


def _meets(expression: Json, labels: Mapping[str, Any]) -> bool:
    key, values = str(expression.get("key")), expression.get("values") or ()
    operator = expression.get("operator")
    if operator == "In":
        return key in labels and labels[key] in values
    if operator == "NotIn":
        return key not in labels or labels[key] not in values
    return (key in labels) == (operator == "Exists")


# --- how long ------------------------------------------------------------------------------------


def pods(kind: Kind, workload: Json) -> int:
    """Tell how many pods a workload has; of a DaemonSet, on how many nodes it runs."""
    if kind is DAEMON_SET:
        return _number(mapping(workload.get("status")).get("desiredNumberScheduled"))
    return _replicas(workload)


def out_at_once(kind: Kind, workload: Json) -> int:
    """Tell how many pods a rollout may take away before those that take their places are there."""
    there = pods(kind, workload)
    used = strategy_type(kind, workload)
    rolling = rolling_update(kind, workload)
    if used == "Recreate":
        return there
    if kind is STATEFUL_SET:
        return min(there, max(1, resolved(rolling.get("maxUnavailable", 1), there, math.ceil)))
    if kind is DAEMON_SET:
        return min(there, resolved(rolling.get("maxUnavailable", 1), there, math.ceil))
    surge = resolved(rolling.get("maxSurge", "25%"), there, math.ceil)
    if kind is ROLLOUT:
        canary = strategy(kind, workload).get("canary")
        if not isinstance(canary, dict):
            return 0
        rolling = canary
        surge = resolved(rolling.get("maxSurge", "25%"), there, math.ceil)
    unavailable = resolved(rolling.get("maxUnavailable", "25%"), there, math.floor)
    # Where both come to nothing, the controller takes one away: else it could do nothing at all.
    return min(there, unavailable or (0 if surge else 1))


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


def patience(kind: Kind, workload: Json) -> int:
    """Tell after how many seconds without a step ahead a rollout counts as failed.

    Its progress deadline, or where there is none ten minutes and `minReadySeconds`; on top the
    grace period, the longest timed pause of an Argo Rollout, and a minute for the controller to
    say so itself.
    """
    spec = mapping(workload.get("spec"))
    deadline = _number(spec.get("progressDeadlineSeconds"))
    if not (kind.has_deadline and 0 < deadline < _NO_DEADLINE):
        deadline = DEFAULT_DEADLINE_SECONDS + max(0, _number(spec.get("minReadySeconds")))
    pause = max(map(_pause_seconds, _steps(workload)), default=0) if kind is ROLLOUT else 0
    return deadline + max(0, grace_seconds(workload)) + pause + _SLACK_SECONDS


_DURATION: Final = re.compile(r"(?<!\d)(\d{1,9})(?!\d)([smh]?)", re.ASCII)
_UNITS: Final = {"": 1, "s": 1, "m": 60, "h": 3600}


def _steps(workload: Json) -> list[Json]:
    canary = mapping(strategy(ROLLOUT, workload).get("canary"))
    steps = canary.get("steps")
    return [mapping(each) for each in steps] if isinstance(steps, list) else []


def _pause_seconds(step: Json) -> int:
    """Give the seconds that a step pauses by itself; 0 where it does not, or for ever."""
    given = str(mapping(step.get("pause")).get("duration") or "")
    return sum(int(number) * _UNITS[unit] for number, unit in _DURATION.findall(given))


def _timed_pause(workload: Json) -> bool:
    """Tell whether an Argo Rollout that pauses goes on by itself."""
    used = strategy(ROLLOUT, workload)
    if _number(mapping(used.get("blueGreen")).get("autoPromotionSeconds")):
        return True
    steps = _steps(workload)
    at = _number(mapping(workload.get("status")).get("currentStepIndex"))
    return at < len(steps) and _pause_seconds(steps[at]) > 0


# --- which first ---------------------------------------------------------------------------------


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


# --- when ----------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Window:
    """The hours of the day in which rollouts may begin, as a clock on the wall of `zone` shows.

    Args:
        start: from when on.
        end: until when; before `start`, it is on the next day.
        zone: the time zone; the machine's own where none.
    """

    start: time
    end: time
    zone: tzinfo | None = None

    def is_open(self, now: datetime) -> bool:
        """Tell whether one may begin at a moment, which must know its own zone."""
        shown = now.astimezone(self.zone).time()
        if self.start < self.end:
            return self.start <= shown < self.end
        return shown >= self.start or shown < self.end


def window(text: str, zone: tzinfo | None = None) -> Window:
    """Read `22:00-06:00`.

    Raises:
        ValueError: it is none.
    """
    found = re.fullmatch(r"(\d\d):(\d\d)-(\d\d):(\d\d)", text.strip(), re.ASCII)
    try:
        if found:
            hours = [int(each) for each in found.groups()]
            read = Window(time(hours[0], hours[1]), time(hours[2], hours[3]), zone)
            if read.start != read.end:
                return read
    except ValueError:
        pass
    message = f"expected two times of day such as 22:00-06:00, not {text!r}"
    raise ValueError(message)
