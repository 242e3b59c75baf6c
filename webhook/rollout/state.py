"""Where a workload of the cluster stands: what would become of it if it were decided afresh.

It is sent down the very path that a request of `seamless backfill` takes: an UPDATE that brings the
object as it is, decided afresh. So what is said here is what a backfill would do, or a rollout.

    patched       has injections, and there is nothing to change but the words of their record
    stale         has a record, and deciding afresh changes something
    unpatched     has none, and would get some
    opted-out     says `inject: disabled`, or its namespace does
    out-of-scope  nothing is injected: not selected, excluded, being deleted, of another kind, not
                  serving, nothing to inject; the reason tells which
    refused       has a setting that the webhook would refuse, were the workload created today

Where several hold, the first of these wins: out of scope, opted out, refused, stale, unpatched,
patched. In audit mode the state is what patch mode would make of it, or would refuse.
"""

from __future__ import annotations

import contextlib
import logging
from dataclasses import dataclass
from typing import Any, Final, Literal

import msgspec

from webhook.decision.admission import Admission, Decision
from webhook.decision.draft import Draft, identical
from webhook.decision.outcomes import SkipReason
from webhook.decision.printable import summarise
from webhook.decision.record import Record
from webhook.decision.review import GroupVersionKind, Request, read_old
from webhook.decision.settings import INJECT, PREFIX, RECORD
from webhook.decision.workload import Kind, malformed, mapping, template

log = logging.getLogger("webhook")

Json = dict[str, Any]
State = Literal["patched", "stale", "unpatched", "opted-out", "out-of-scope", "refused"]

PATCHED: Final = "patched"
STALE: Final = "stale"
UNPATCHED: Final = "unpatched"
OPTED_OUT: Final = "opted-out"
OUT_OF_SCOPE: Final = "out-of-scope"
REFUSED: Final = "refused"
STATES: Final[tuple[State, ...]] = (
    PATCHED,
    STALE,
    UNPATCHED,
    OPTED_OUT,
    OUT_OF_SCOPE,
    REFUSED,
)
"""All states, in the order in which they are counted and shown."""

FIELD_MANAGER: Final = "seamless-backfill"
_SHOWN: Final = 5


@dataclass(frozen=True, slots=True)
class WorkloadState:
    """Where one workload stands.

    Args:
        state: one of `STATES`.
        reason: why, in words; one line.
        decision: what deciding afresh makes of it.
        changes: the settings whose injections that would add, change or take out; none where the
            webhook never looks at it.
        injected: whether it has a record of injections now.
    """

    state: State
    reason: str
    decision: Decision
    changes: tuple[str, ...] = ()
    injected: bool = False


def workload_state(admission: Admission, kind: Kind, workload: Json) -> WorkloadState:
    """Tell where a workload stands.

    Args:
        admission: the webhook's decision, with what it knows of namespaces and the API server.
        kind: the workload's.
        workload: the object as the API server stores it; it is not changed.
    """
    try:
        return _workload_state(admission, kind, workload)
    except RecursionError:
        return WorkloadState(
            OUT_OF_SCOPE, "it is nested too deeply", Decision(skipped=SkipReason.MALFORMED)
        )
    except Exception as error:  # the webhook lets it pass unpatched; the others are still reported
        name = mapping(workload.get("metadata")).get("name")
        log.exception("%s %r: unexpected error", kind.name, name)
        what = type(error).__name__
        reason = f"an unexpected error ({what}): the webhook would let it pass unpatched"
        return WorkloadState(UNPATCHED, reason, Decision(skipped=SkipReason.ERROR))


def request(
    kind: Kind,
    workload: Json,
    operation: str = "UPDATE",
    *,
    before: Json | None = None,
    manager: str = FIELD_MANAGER,
) -> Request:
    """Make the request of a backfill that brings a workload as it is: decided afresh.

    Args:
        kind: its kind.
        workload: as it is to be.
        operation: `CREATE` or `UPDATE`.
        before: as it is, where an update changes it.
        manager: who sends it, if not a backfill.
    """
    metadata = mapping(workload.get("metadata"))
    return Request(
        uid="state",
        kind=GroupVersionKind(group=kind.group, version=kind.version, kind=kind.name),
        operation=operation,
        name=metadata.get("name"),
        namespace=metadata.get("namespace"),
        object=workload,
        old_object=_old(before or workload) if operation == "UPDATE" else None,
        options={"fieldManager": manager},
    )


def _old(workload: Json) -> Any:
    """Give it as the review holds an old object; none where it is of no workload's shape."""
    with contextlib.suppress(msgspec.ValidationError):
        return read_old(workload)
    return None


def _workload_state(admission: Admission, kind: Kind, workload: Json) -> WorkloadState:
    decision = admission.decide(request(kind, workload))
    recorded = not malformed(workload) and any(_records(admission, workload))
    if decision.skipped in _LEFT_ALONE:
        state, reason, remedy = _LEFT_ALONE[decision.skipped]
        if decision.skipped == SkipReason.MALFORMED:
            reason = "; ".join(alert.text for alert in decision.alerts)
        elif decision.skipped == SkipReason.DISABLED:
            reason = f"inject: disabled on {_who_says_disabled(workload)}"
        changes = _changes(admission, workload, decision) if recorded else ()
        text = f"{reason}; {remedy}" if recorded and remedy else reason
        return WorkloadState(state, text, decision, changes, recorded)
    found = _in_scope(admission, workload, decision, recorded=recorded)
    refusal = _refusal(admission, kind, workload) if _warns_of_settings(decision) else None
    if refusal is None:
        return found
    text = f"would be refused if it were created: {refusal}; until then {found.state} without it"
    return WorkloadState(REFUSED, _audits(admission) + text, decision, found.changes, recorded)


def _audits(admission: Admission) -> str:
    return "audit mode: " if admission.configuration.mode == "audit" else ""


def _in_scope(
    admission: Admission, workload: Json, decision: Decision, *, recorded: bool
) -> WorkloadState:
    applied = ", ".join(decision.applied)
    restarts = "pods would restart" if decision.restarts else "no pod would restart"
    audits = _audits(admission)
    if recorded and decision.applied and _only_record(decision):
        # Nothing that was injected differs: no reason to restart a pod.
        return WorkloadState(PATCHED, f"has {applied}", decision, injected=True)
    if recorded and decision.operations:
        changes = _changes(admission, workload, decision)
        # A record of other fields, or one that nobody can read, is put right without a setting.
        what = ", ".join(changes) or _paths(decision)
        return WorkloadState(
            STALE, f"{audits}would change {what}; {restarts}", decision, changes, recorded
        )
    if decision.skipped == SkipReason.ANNOTATIONS_FULL:
        reason = "nothing can be injected: no room for its record in the annotations"
        return WorkloadState(UNPATCHED, reason, decision, injected=recorded)
    if decision.operations:
        reason = f"{audits}would get {applied}; {restarts}"
        return WorkloadState(UNPATCHED, reason, decision, decision.applied)
    reason = (
        (decision.skipped and _NOTHING.get(decision.skipped))
        or decision.skipped
        or "nothing to inject"
    )
    return WorkloadState(OUT_OF_SCOPE, reason, decision)


_LEAVES: Final = "still injected: leaves with the next rollout, or by seamless revert"
_UPDATE: Final = "still injected: leaves with the next update, or by seamless revert"
_REVERT: Final = "still injected: seamless revert takes it out"
_LEFT_ALONE: Final[dict[SkipReason | None, tuple[State, str, str]]] = {
    SkipReason.DISABLED: (OPTED_OUT, "inject: disabled", _LEAVES),
    SkipReason.NOT_SELECTED: (
        OUT_OF_SCOPE,
        "neither it nor its namespace says inject: enabled",
        _LEAVES,
    ),
    SkipReason.EXCLUDED_NAMESPACE: (OUT_OF_SCOPE, "its namespace is excluded", _REVERT),
    SkipReason.EXCLUDED_WORKLOAD: (OUT_OF_SCOPE, "the configuration excludes it", _REVERT),
    SkipReason.KIND: (OUT_OF_SCOPE, "the configuration leaves its kind out", _REVERT),
    SkipReason.DELETING: (OUT_OF_SCOPE, "it is being deleted", ""),
    SkipReason.WORKLOAD_REF: (
        OUT_OF_SCOPE,
        "the Deployment of its workloadRef is patched instead",
        _UPDATE,
    ),
    SkipReason.MALFORMED: (OUT_OF_SCOPE, "malformed", ""),
}
"""State, reason, and what becomes of injections that are still there, by why it was skipped."""

_NOTHING: Final = {
    SkipReason.NOT_SERVING: "does not serve traffic, and has no settings of its own",
    SkipReason.NOTHING_TO_INJECT: "nothing to inject: it has its own, or its settings are off",
}


def _who_says_disabled(workload: Json) -> str:
    for owner, name in ((workload, "the workload"), (template(workload), "its pod template")):
        metadata = mapping(owner.get("metadata"))
        for entries in (metadata.get("labels"), metadata.get("annotations")):
            if mapping(entries).get(PREFIX + INJECT) == "disabled":
                return name
    return "its namespace"


# --- what would be refused -----------------------------------------------------------------------


def _warns_of_settings(decision: Decision) -> bool:
    return any(alert.code == "invalid-setting" for alert in decision.alerts)


def _refusal(admission: Admission, kind: Kind, workload: Json) -> str | None:
    """Say what the workload would be refused for, were it created today; none where it is not.

    An update that finds a bad setting there skips it. The record is left out: with one, the
    template would pass for a rollback, which nothing stands in the way of. Audit mode refuses
    nothing, so patch mode is asked.
    """
    settings = admission.configuration
    if settings.mode == "audit":
        admission = Admission(
            settings.model_copy(update={"mode": "patch"}),
            namespaces=admission.namespaces,
            cluster=admission.cluster,
            mutations=admission.mutations,
        )
    created = _without_record(workload)
    spec = created.get("spec") or {}
    pod_template = _without_record(template(workload))
    created = {**created, "spec": {**spec, "template": pod_template}}
    refused = admission.decide(request(kind, created, "CREATE")).refused
    return summarise(list(map(str, refused)), _SHOWN) or None


def _without_record(owner: Json) -> Json:
    metadata = mapping(owner.get("metadata"))
    annotations = mapping(metadata.get("annotations"))
    if RECORD not in annotations:
        return owner
    rest = {key: value for key, value in annotations.items() if key != RECORD}
    return {**owner, "metadata": {**metadata, "annotations": rest}}


# --- what would change ---------------------------------------------------------------------------


def _records(admission: Admission, workload: Json) -> tuple[Record, Record]:
    read = admission.ledger.read
    return read(workload, in_template=True), read(workload, in_template=False)


def _changes(admission: Admission, workload: Json, decision: Decision) -> tuple[str, ...]:
    """Name the settings whose injections differ, in the order of the docs."""
    result = decision.result or workload
    found: set[str] = set()
    one, other = Draft(workload), Draft(result)
    pairs = zip(_records(admission, workload), _records(admission, result), strict=True)
    for before, after in pairs:
        for place, name in {**before.entries, **after.entries}:
            key = place, name
            same = before.entries.get(key) == after.entries.get(key)
            if same and place.of_items:
                # The record of a whole item does not hold its content.
                same = identical(one.value(place, name), other.value(place, name))
            if not same:
                found.add(place.setting)
    return tuple(name for name in admission.table if name in found)


def _only_record(decision: Decision) -> bool:
    """Tell whether nothing changes, or the words of a record alone, such as what it had to make."""
    return all(operation["path"].endswith(_RECORD) for operation in decision.operations)


_RECORD: Final = "/" + RECORD.replace("/", "~1")


def _paths(decision: Decision) -> str:
    paths = [str(operation["path"]) for operation in decision.operations]
    return summarise(paths, _SHOWN, ", ", " and ")
