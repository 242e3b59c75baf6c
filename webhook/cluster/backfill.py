"""Changes workloads a few at a time, and awaits each rollout: what backfill and revert share.

Nothing is remembered but in the cluster: a workload that is done is one that nothing is to be done
with. So a run may end at any moment, and the next goes on; a rollout that was left is awaited
first, for it looks like one that is patched, and rolling.

One thread does everything, in turns: begin what may begin, look at what is under way, wait. What
goes wrong, and what is done:

- somebody else changes the workload (409): it is read and decided anew, five times at most;
- it is gone: reported, and skipped;
- it may not be changed now (paused, rolling, unhealthy, no pod to spare): deferred, and reported;
- its rollout fails, or makes no step ahead for too long, or the API server refuses the change, or
  the webhook does not do its part: nothing more is begun, what is under way is awaited;
- the webhook decides by another configuration, or version: it is asked by a dry run first, again
  and again for a while, as one that has just been changed is not in force everywhere;
- no answer while a rollout is under way: asked again, until that counts as failed;
- a right is missing: what is under way is left, as there is nothing to see it by.
"""

from __future__ import annotations

import threading
import time
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime
from enum import StrEnum
from typing import Final, NamedTuple, Protocol

from webhook.cluster.client import CONFLICT, NOT_FOUND, ApiError, ClusterError, Json
from webhook.cluster.workloads import MissingRightError, Workloads
from webhook.decision.configuration import DECIDED_BY
from webhook.decision.estimate import duration
from webhook.decision.review import SPEAKER
from webhook.decision.workload import KINDS, Kind, malformed, mapping
from webhook.rollout.order import Change, least_seconds, max_unavailable_pods, ordered
from webhook.rollout.planners import REVERT, Action, Planner
from webhook.rollout.progress import (
    Progress,
    blocker,
    blocking_budget,
    pods,
    progress,
    progress_timeout,
    rolls,
)
from webhook.rollout.window import Window

_CONFLICTS: Final = 5
_POLL_SECONDS: Final = 2.0
_ASK_AGAIN_SECONDS: Final = 1.0
_SOON_SECONDS: Final = 0.2  # where no pod restarts, the controller has only to notice
_LONGEST_WAIT_SECONDS: Final = 30.0  # clocks are set, and machines sleep: look at it again


class Clock:
    """The time, and waiting; tests have one of their own."""

    def __init__(self) -> None:
        self._woken = threading.Event()

    def seconds(self) -> float:
        """Count seconds, whatever is done to the clock on the wall."""
        return time.monotonic()

    def now(self) -> datetime:
        """Tell the time of day."""
        return datetime.now(UTC)

    def wait(self, seconds: float) -> None:
        """Wait, or until woken."""
        self._woken.wait(seconds)
        self._woken.clear()

    def wake(self) -> None:
        """End a wait; may be called by a signal handler."""
        self._woken.set()


class LeaveError(Exception):
    """Everything is to be left as it is, now."""


class _NotBegunError(Exception):
    """Nothing has been done with a workload, and nothing is to be."""


class Stop:
    """How a run is asked to end: first to begin nothing more, then to leave what is under way."""

    def __init__(self, clock: Clock) -> None:
        self.asked = False
        self.leave = False
        self._clock = clock

    def ask(self, *, leave: bool = False) -> None:
        """Ask; may be called by a signal handler. Asked twice, it is left."""
        self.leave = self.leave or leave or self.asked
        self.asked = True
        self._clock.wake()

    def wait(self, seconds: float) -> None:
        """Wait in the middle of a request.

        Raises:
            LeaveError: everything is to be left.
        """
        end = self._clock.seconds() + seconds
        while (left := end - self._clock.seconds()) > 0:
            if self.leave:
                raise LeaveError
            self._clock.wait(left)


@dataclass(frozen=True, slots=True)
class RolloutOptions:
    """How rollouts are made.

    Args:
        concurrent: how many rollouts at once.
        pause: the seconds from the end of a rollout to the begin of the next.
        window: when rollouts may begin; at any time where none.
        webhook: whether a webhook is installed, which does its part.
        decided_by: what it must say that it decides by, if it must (`configuration.decided_by`).
        agree_seconds: how long to wait until it says so.
        poll: the seconds between two looks at what is under way.
    """

    concurrent: int = 1
    pause: int = 0
    window: Window | None = None
    webhook: bool = False
    decided_by: str | None = None
    agree_seconds: int = 10
    poll: float = _POLL_SECONDS


class Result(StrEnum):
    """What became of a workload."""

    DONE = "done"
    UNCHANGED = "unchanged"
    DEFERRED = "deferred"
    GONE = "gone"
    HELD = "held"
    FAILED = "failed"
    LEFT = "left"


class Outcome(NamedTuple):
    """What became of a workload, why, and after how many seconds."""

    change: Change
    result: Result
    text: str
    seconds: int = 0


class Reporter(Protocol):
    """Reports everything that happens."""

    def begun(self, change: Change, number: int, total: int) -> None:
        """A change has been made, and is awaited."""

    def moved(self, change: Change, found: Progress) -> None:
        """A rollout has made a step."""

    def ended(self, outcome: Outcome) -> None:
        """A workload is through."""

    def noted(self, text: str, change: Change | None = None) -> None:
        """Something is worth a line."""


# --- what there is to do -------------------------------------------------------------------------


@dataclass(slots=True)
class Plan:
    """What there is to do: groups of changes in order, and what is deferred, with the reasons.

    `unmet` holds what was to be excluded and is nowhere: it may be misspelt.
    """

    groups: list[list[Change]] = field(default_factory=list)
    deferred: list[Outcome] = field(default_factory=list)
    looked_at: int = 0
    unmet: list[str] = field(default_factory=list)

    @property
    def changes(self) -> list[Change]:
        """All changes in order."""
        return [each for group in self.groups for each in group]


@dataclass(frozen=True, slots=True)
class Selection:
    """Which workloads: of one namespace or all, by labels, and without those excluded.

    `excluded` holds `NAMESPACE` and `NAMESPACE/NAME`.
    """

    namespace: str | None = None
    selector: str | None = None
    excluded: frozenset[str] = frozenset()

    def excluding(self, namespace: str, name: str) -> frozenset[str]:
        """Give what excludes a workload, if anything does."""
        return self.excluded & {namespace, f"{namespace}/{name}"}


def plan(workloads: Workloads, planner: Planner, selection: Selection) -> Plan:
    """Find out what there is to do; of each workload only what is told of it is kept.

    Raises:
        ApiError: something cannot be read.
    """
    found = Plan()
    budgets = _Budgets(workloads)
    changes = []
    met: set[str] = set()
    for kind, workload in _selected(workloads, selection, met):
        found.looked_at += 1
        action = planner.plan(kind, workload)
        change = _change(kind, workload, action)
        if action.operations:
            reason = _blocker(kind, workload, action, budgets)
        elif action.deferred:
            reason = action.reason
        elif action.done and rolls(kind, workload):  # an earlier run may have left it
            changes.append(_change(kind, workload, Action("", restarts=True), begun=True))
            continue
        elif action.done and (seen := progress(kind, workload)).failed:  # or have ended with it
            reason = f"nothing is left to do with it, but it is unhealthy: {seen.text}"
        else:
            continue
        if reason is None:
            changes.append(change)
        else:
            found.deferred.append(Outcome(change, Result.DEFERRED, reason))
    found.groups = ordered(changes)
    found.deferred.sort(key=lambda each: each.change.place)
    found.unmet = sorted(selection.excluded - met)
    return found


def _selected(
    workloads: Workloads, selection: Selection, met: set[str]
) -> Iterator[tuple[Kind, Json]]:
    """Walk what is selected; `met` gets what has excluded something."""
    for kind in KINDS.values():
        for page in workloads.pages(kind, selection.namespace, selection.selector):
            for workload in page:
                metadata = mapping(workload.get("metadata"))
                where = str(metadata.get("namespace")), str(metadata.get("name"))
                excluding = selection.excluding(*where)
                met |= excluding
                if not excluding:
                    yield kind, workload


def _change(kind: Kind, workload: Json, action: Action, *, begun: bool = False) -> Change:
    metadata = mapping(workload.get("metadata"))
    namespace, name = str(metadata.get("namespace")), str(metadata.get("name"))
    if malformed(workload):
        return Change(kind, namespace, name, action.reason)
    after = {**(action.result or workload), "status": workload.get("status")}
    return Change(
        kind,
        namespace,
        name,
        action.reason,
        action.restarts,
        pods(kind, workload),
        max_unavailable_pods(kind, after),
        least_seconds(kind, after) if action.restarts else 0,
        action.settings,
        action.operations,
        begun,
    )


class _Budgets:
    """The PodDisruptionBudgets of the namespaces that are asked for, each list read once."""

    def __init__(self, workloads: Workloads) -> None:
        self._workloads = workloads
        self._known: dict[str, list[Json]] = {}

    def of(self, namespace: str) -> list[Json]:
        """List those of a namespace."""
        if namespace not in self._known:
            # Of each no more than is asked for: there may be thousands.
            self._known[namespace] = [
                {key: each.get(key) for key in ("metadata", "spec", "status")}
                for each in self._workloads.pod_disruption_budgets(namespace)
            ]
        return self._known[namespace]


def _blocker(kind: Kind, workload: Json, action: Action, budgets: _Budgets) -> str | None:
    reason = blocker(kind, workload, restarts=action.restarts)
    if reason is None and action.restarts:
        namespace = str(mapping(workload.get("metadata")).get("namespace"))
        budget = blocking_budget(budgets.of(namespace), kind, workload)
        if budget is not None:
            reason = f"PodDisruptionBudget {budget} allows no disruption now"
    return reason


# --- doing it ------------------------------------------------------------------------------------

_LEFT_AS_IT_WAS: Final = (
    "the webhook left it as it was: does it run, is it called for this namespace, "
    "is it of the version of this command?"
)


def _other(found: str, wanted: str) -> str:
    """Hold what the webhook decides by against what this run does."""
    ours = wanted.removeprefix(DECIDED_BY)
    return f"decides by configuration {found.removeprefix(DECIDED_BY)}, this command by {ours}"


@dataclass(slots=True)
class _UnderWay:
    """A rollout that is awaited: since when, and how far it had come when, at the best."""

    change: Change
    began: float
    moved: float
    progress_timeout: int
    best: tuple[int, ...] = ()
    last: str = ""


class Run:
    """Carries a plan out; `outcomes` tells what became of each change.

    `failed` is whether any has failed, `error` why the cluster could be used no longer.

    Args:
        workloads: reads and patches.
        planner: tells what is to be done with a workload.
        rollout_options: how rollouts are made.
        reporter: reports everything.
        clock: the time.
        stop: how it is asked to end.
        refresh: reads a namespace anew.
    """

    def __init__(
        self,
        workloads: Workloads,
        planner: Planner,
        rollout_options: RolloutOptions,
        reporter: Reporter,
        *,
        clock: Clock,
        stop: Stop,
        refresh: Callable[[str], object],
    ) -> None:
        self.outcomes: list[Outcome] = []
        self.failed = False
        self.error: ClusterError | None = None
        self._workloads = workloads
        self._planner = planner
        self._options = rollout_options
        self._reporter = reporter
        self._clock = clock
        self._stop = stop
        self._refresh = refresh
        self._under_way: list[_UnderWay] = []
        self._not_before = 0.0
        self._number = self._total = 0
        self._told_of_waiting = ""
        self._writes_events = True

    @property
    def not_begun(self) -> int:
        """How many changes nobody has looked at."""
        return self._total - len(self.outcomes)

    def carry_out(self, groups: Sequence[Iterable[Change]]) -> None:
        """Make all changes, group by group; `outcomes` tells what became of each."""
        queues = [deque(group) for group in groups]
        self._total = sum(map(len, queues))
        try:
            for queue in queues:
                self._sweep(queue)
        except LeaveError:
            self._leave()
        except ClusterError as error:
            self.error = error
            self._leave()

    @property
    def _over(self) -> bool:
        """Whether nothing more is to begin."""
        return self._stop.asked or self.failed

    def _sweep(self, queue: deque[Change]) -> None:
        while (queue and not self._over) or self._under_way:
            if self._stop.leave:
                raise LeaveError
            if self._stop.asked and self._under_way:
                many = len(self._under_way)
                self._wait_for(f"nothing more begins; awaiting {many}; Ctrl-C again leaves them")
            seconds = self._options.poll
            while queue and not self._over and len(self._under_way) < self._options.concurrent:
                seconds = self._seconds_to_wait()
                if seconds > 0:
                    break
                self._begin(queue.popleft())
            if self._under_way:
                restart = any(each.change.restarting for each in self._under_way)
                self._clock.wait(self._options.poll if restart else _SOON_SECONDS)
                for each in list(self._under_way):
                    self._look(each)
            elif queue and not self._over and seconds > 0:
                self._clock.wait(seconds)

    def _seconds_to_wait(self) -> float:
        """Tell how long nothing may begin yet, at the least; 0 where it may."""
        window = self._options.window
        if window is not None and not window.is_open(self._clock.now()):
            self._wait_for(f"outside the window: nothing begins before {window.start:%H:%M}")
            return _LONGEST_WAIT_SECONDS
        left = self._not_before - self._clock.seconds()
        if left > 0:
            return min(left, _LONGEST_WAIT_SECONDS)
        self._told_of_waiting = ""
        return 0.0

    def _wait_for(self, text: str) -> None:
        if text != self._told_of_waiting:
            self._told_of_waiting = text
            self._reporter.noted(text)

    # One workload.

    def _begin(self, change: Change) -> None:
        self._number += 1
        try:
            if change.begun:
                self._await(change, self._read(change))
            else:
                self._decide_and_patch(change)
        except MissingRightError:
            raise
        except _NotBegunError:
            return
        except ApiError as error:
            if error.status == NOT_FOUND:
                self._end(change, Result.GONE, "it was deleted meanwhile")
            else:
                self._end(change, Result.FAILED, f"it could not be changed: {error}")

    def _decide_and_patch(self, change: Change) -> None:
        sent = False
        for _ in range(_CONFLICTS):
            self._refresh(change.namespace)
            workload = self._read(change)
            action = self._planner.plan(change.kind, workload)
            if not action.operations:
                if sent and (action.done or self._planner.alone):  # the patch's answer was lost
                    self._await(change, workload)
                else:
                    result = Result.DEFERRED if action.deferred else Result.UNCHANGED
                    self._end(change, result, action.reason)
                return
            reason = _blocker(change.kind, workload, action, _Budgets(self._workloads))
            if reason is not None:
                self._end(change, Result.DEFERRED, reason)
                return
            try:
                differs = self._difference(change, workload, action)
                if differs is not None:
                    self._end(change, Result.FAILED, differs)
                    return
                sent = True
                self._patch(change, workload, action)
            except LeaveError:
                if sent and not any(each.change is change for each in self._under_way):
                    self._end(change, Result.LEFT, "it was asked for, and no answer came")
                raise
            except ApiError as error:
                if error.status != CONFLICT:
                    raise
                continue
            return
        self._end(change, Result.DEFERRED, f"others changed it, {_CONFLICTS} times in a row")

    def _difference(self, change: Change, workload: Json, action: Action) -> str | None:
        """Ask the webhook by a dry run what it decides by, and give it time to come to ours.

        Returns:
            What is wrong; none where it decides by the same.

        Raises:
            ApiError: the change would be refused; 409 where the workload is another by now.
            LeaveError: everything is to be left.
            _NotBegunError: nothing more is to begin.
        """
        wanted = self._options.decided_by
        if wanted is None or not self._options.webhook:
            return None
        end = self._clock.seconds() + self._options.agree_seconds
        while True:
            heard: list[str] = []
            self._send(change, workload, action.asked, heard)
            told = (each.removeprefix(SPEAKER) for each in heard if each.startswith(SPEAKER))
            found = next((each for each in told if each.startswith(DECIDED_BY)), None)
            if found == wanted:
                return None
            if self._stop.asked:
                raise _NotBegunError
            if self._clock.seconds() >= end:
                return _LEFT_AS_IT_WAS if found is None else f"the webhook {_other(found, wanted)}"
            self._wait_for(
                f"{change.place}: the webhook does not answer yet"
                if found is None
                else f"the webhook {_other(found, wanted)}: waiting until it is the same"
            )
            self._stop.wait(_ASK_AGAIN_SECONDS)

    def _patch(self, change: Change, workload: Json, action: Action) -> None:
        """Send the change, and hold what comes back against what was decided.

        Raises:
            ApiError: it was refused; 409 where the workload is another by now.
        """
        operations = action.asked if self._options.webhook else action.operations
        stored = self._send(change, workload, operations)
        left = self._planner.plan(change.kind, stored)
        if left.operations and self._options.webhook and self._planner.alone:
            # It is out of the webhook's sight, or the webhook is away: it can do nothing against.
            stored = self._send(change, stored, left.operations)
            left = self._planner.plan(change.kind, stored)
        if left.operations and _version(stored) == _version(workload):
            text = _LEFT_AS_IT_WAS if self._options.webhook else "the API server left it as it was"
            self._end(change, Result.FAILED, text)
            return
        if left.operations:
            paths = ", ".join(str(each["path"]) for each in left.operations[:5])
            self._reporter.noted(f"what came back differs from what was decided: {paths}", change)
        self._await(change, stored)

    def _send(
        self,
        change: Change,
        workload: Json,
        operations: Sequence[dict[str, object]],
        warnings: list[str] | None = None,
    ) -> Json:
        return self._workloads.patch(
            change.kind,
            change.namespace,
            change.name,
            operations,
            _version(workload),
            self._planner.manager,
            warnings=warnings,
        )

    def _await(self, change: Change, workload: Json) -> None:
        self._reporter.begun(change, self._number, self._total)
        now = self._clock.seconds()
        limit = progress_timeout(change.kind, workload)
        self._under_way.append(_UnderWay(change, now, now, limit))
        if not change.begun:
            self._event(change, workload, "Started", f"{change.reason}", warning=False)

    def _look(self, rollout: _UnderWay) -> None:
        change = rollout.change
        try:
            workload = self._read(change)
        except MissingRightError:
            raise
        except ApiError as error:
            if error.status == NOT_FOUND:
                self._finish(rollout, Result.GONE, "it was deleted meanwhile")
            else:
                self._fail_if_stalled(rollout, str(error))
            return
        found = progress(change.kind, workload)
        if found.done:
            self._finish(rollout, Result.DONE, found.text, workload)
        elif found.failed:
            self._finish(rollout, Result.FAILED, found.text, workload)
        elif found.held:
            self._finish(rollout, Result.HELD, f"it goes on by hand: {found.text}", workload)
        else:
            best = tuple(map(max, rollout.best or found.steps, found.steps))
            if best and best != rollout.best:
                rollout.best, rollout.moved = best, self._clock.seconds()
            if found.text != rollout.last:
                rollout.last = found.text
                self._reporter.moved(change, found)
            self._fail_if_stalled(rollout, found.text, workload)

    def _fail_if_stalled(self, rollout: _UnderWay, text: str, workload: Json | None = None) -> None:
        if self._clock.seconds() - rollout.moved > rollout.progress_timeout:
            waited = duration(rollout.progress_timeout)
            self._finish(rollout, Result.FAILED, f"no step ahead in {waited}: {text}", workload)

    def _finish(
        self, rollout: _UnderWay, result: Result, text: str, workload: Json | None = None
    ) -> None:
        self._under_way.remove(rollout)
        change = rollout.change
        self._end(change, result, text, rollout.began)
        if change.restarting:
            self._not_before = self._clock.seconds() + self._options.pause
        if workload is not None:
            reason = {Result.DONE: "Finished", Result.HELD: "Held"}.get(result, "Failed")
            self._event(change, workload, reason, text, warning=result is Result.FAILED)

    def _end(self, change: Change, result: Result, text: str, began: float | None = None) -> None:
        seconds = 0 if began is None else round(self._clock.seconds() - began)
        outcome = Outcome(change, result, text, seconds)
        self.outcomes.append(outcome)
        self.failed = self.failed or result is Result.FAILED
        self._reporter.ended(outcome)

    def _leave(self) -> None:
        for each in self._under_way:
            text = each.last or "it has been changed, and its rollout goes on"
            self._end(each.change, Result.LEFT, text, each.began)
        self._under_way.clear()

    def _read(self, change: Change) -> Json:
        return self._workloads.get(change.kind, change.namespace, change.name)

    def _event(
        self, change: Change, workload: Json, reason: str, text: str, *, warning: bool
    ) -> None:
        """Write an Event; that it cannot be is told once, and is no failure."""
        if not self._writes_events:
            return
        action = "Revert" if self._planner.manager == REVERT else "Backfill"
        try:
            self._workloads.event(
                change.kind,
                workload,
                manager=self._planner.manager,
                action=action,
                reason=action + reason,
                note=text,
                warning=warning,
            )
        except ApiError as error:
            self._writes_events = False
            self._reporter.noted(f"no Events are written: {error}")


def _version(workload: Json) -> str:
    return str(mapping(workload.get("metadata")).get("resourceVersion"))
