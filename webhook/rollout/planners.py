"""What backfill and revert make of a workload, decided by the code that the webhook runs.

Both send their own field manager, by which the webhook decides afresh, pod template included
(contract §4). A webhook that is installed shall do the work itself: it writes the record of what it
injects, and what it writes has no owner among the managed fields. So it is sent as little as
possible (`asked`), and what comes back is held against what was decided here. Without one, the
whole patch is sent (`operations`).
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, Final, Protocol, get_args

from webhook.decision.admission import Admission
from webhook.decision.configuration import Configuration, KindName
from webhook.decision.draft import Operation
from webhook.decision.mutations import MUTATIONS
from webhook.decision.outcomes import SkipReason
from webhook.decision.settings import INJECT, PREFIX
from webhook.decision.workload import Json, Kind, malformed, mapping, template
from webhook.rollout import state

BACKFILL: Final = state.FIELD_MANAGER
NO_RESTART: Final = "seamless-backfill-no-restart"
"""Not one of those that are decided afresh: the pod template stays as it is."""
REVERT: Final = "seamless-revert"
MARK: Final = PREFIX + INJECT


@dataclass(frozen=True, slots=True)
class Verdict:
    """What is to be done with a workload.

    Args:
        reason: why, or why nothing is.
        operations: the JSON Patch that does all of it; none where there is nothing to do.
        asked: the JSON Patch that is enough where the webhook does the rest.
        restarts: whether pods restart.
        settings: the settings whose injections come, change or go.
        result: the workload as it shall be.
        put_off: whether nothing is to be done although there were something to do.
        done: whether there is nothing left to do, so that it may be one that an earlier run has
            begun.
    """

    reason: str
    operations: Sequence[Operation] = ()
    asked: Sequence[Operation] = ()
    restarts: bool = False
    settings: tuple[str, ...] = ()
    result: Json | None = None
    put_off: bool = False
    done: bool = False


class Judge(Protocol):
    """Tells what is to be done with a workload.

    `alone` tells whether the whole patch may be sent past a webhook that does not do its part.
    """

    manager: str
    alone: bool

    def judge(self, kind: Kind, workload: Json) -> Verdict:
        """Tell what is to be done with a workload, as the API server stores it."""


class Backfill:
    """Brings in what is in scope, and up to date what was injected by older settings.

    Where a webhook does not do its part, the whole patch is not sent past it: were it back in that
    moment, it would take what lies outside the template for the user's own words.

    Args:
        admission: the webhook's decision.
        restart: whether pods may restart; else only what lies outside the template changes.
    """

    alone = False

    def __init__(self, admission: Admission, *, restart: bool = True) -> None:
        self.manager = BACKFILL if restart else NO_RESTART
        self._admission = admission
        self._restart = restart

    def judge(self, kind: Kind, workload: Json) -> Verdict:
        """Tell what is to be done with a workload."""
        found = state.standing(self._admission, kind, workload)
        decision = found.decision
        if found.state == state.REFUSED and decision.operations:
            return Verdict(found.reason, put_off=True)
        if found.state not in (state.STALE, state.UNPATCHED):
            return Verdict(found.reason, done=found.injected)
        reason, settings = found.reason, found.changes
        if decision.restarts and not self._restart:
            request = state.request(kind, workload, manager=self.manager)
            decision = self._admission.decide(request)
            reason = "what lies outside the pod template alone"
            settings = tuple(name for name in settings if name in _OUTSIDE)
        return Verdict(
            reason,
            decision.operations,
            restarts=decision.restarts,
            settings=settings,
            result=decision.result,
        )


_OUTSIDE: Final = {
    place.setting for each in MUTATIONS if not each.in_template for place in each.fields
}


class Revert:
    """Takes out everything that was injected, of workloads that are out of scope.

    Args:
        admission: the webhook's decision; none where no webhook is installed, so that nothing is
            in scope.
        disable: whether what is in scope is marked `inject: disabled` first, else it is put off.
    """

    manager = REVERT
    alone = True

    def __init__(self, admission: Admission | None, *, disable: bool = False) -> None:
        self._admission = admission
        self._disable = disable
        self._bare = _injects_nothing()

    def judge(self, kind: Kind, workload: Json) -> Verdict:
        """Tell what is to be done with a workload."""
        if malformed(workload):
            return Verdict("it is malformed")
        read = self._bare.ledger.read
        records = [read(workload, in_template=each) for each in (True, False)]
        if not any(records):
            # Nothing stays on it that would tell of an earlier run, but its mark.
            marked = mapping(mapping(workload.get("metadata")).get("annotations")).get(MARK)
            done = self._disable and marked == "disabled"
            return Verdict("bears no record of injections", done=done)
        named = {place.setting for record in records for place, _ in record.entries}
        mark: tuple[Operation, ...] = ()
        after = workload
        if self._in_scope(kind, workload):
            if not self._disable:
                reason = "it is still in scope: withdraw its opt-in first, or say --disable"
                return Verdict(reason, put_off=True)
            mark, after = _marked(workload)
        request = state.request(kind, after, before=workload, manager=self.manager)
        decision = self._bare.decide(request)
        if not decision.operations:
            return Verdict(f"nothing can be taken out: {decision.skipped}")
        return Verdict(
            "is marked disabled, and what was injected is taken out"
            if mark
            else "what was injected is taken out",
            (*mark, *decision.operations),
            asked=mark,
            restarts=template(decision.result or {}) != template(workload),
            settings=tuple(name for name in self._bare.table if name in named),
            result=decision.result,
        )

    def _in_scope(self, kind: Kind, workload: Json) -> bool:
        if self._admission is None:
            return False
        request = state.request(kind, workload, manager=self.manager)
        return self._admission.decide(request).skipped not in _OUT_OF_SCOPE


_OUT_OF_SCOPE: Final = frozenset(
    {
        SkipReason.DISABLED,
        SkipReason.NOT_SELECTED,
        SkipReason.KIND,
        SkipReason.EXCLUDED_NAMESPACE,
        SkipReason.EXCLUDED_WORKLOAD,
        SkipReason.WORKLOAD_REF,
    }
)


def _injects_nothing() -> Admission:
    """Give the webhook's own decision, of everything, with mutations that inject nothing."""
    mutations = [replace(each, apply=lambda _draft, _situation: None) for each in MUTATIONS]
    everything = Configuration(kinds=get_args(KindName), invalid_settings="warn")
    return Admission(everything, mutations=mutations)


def _marked(workload: Json) -> tuple[tuple[Operation, ...], Json]:
    """Give the patch that marks a workload as disabled, and what it makes of it."""
    metadata: Mapping[str, Any] = mapping(workload.get("metadata"))
    annotations = metadata.get("annotations")
    path = "/metadata/annotations"
    operations: list[Operation] = []
    if not isinstance(annotations, dict):
        operations.append({"op": "add", "path": path, "value": {}})
        annotations = {}
    operations.append(
        {"op": "add", "path": f"{path}/{MARK.replace('/', '~1')}", "value": "disabled"}
    )
    marked = {**metadata, "annotations": {**annotations, MARK: "disabled"}}
    return tuple(operations), {**workload, "metadata": marked}
