"""Why something of a workload was left as it is, and which setting would change that.

What the webhook warns of is not said again: these are the choices that a reader of a plan may not
see, because there is nothing of them in the diff.
"""

from __future__ import annotations

from collections.abc import Collection, Iterator, Mapping
from typing import Any, Final

from webhook.decision.mutations.model import Situation
from webhook.decision.mutations.pre_stop import sleep_seconds
from webhook.decision.settings import PREFIX
from webhook.decision.workload import (
    containers,
    given_grace_seconds,
    init_containers,
    is_sidecar,
    is_windows,
    mapping,
    pod_spec,
    pre_stop,
)

Json = dict[str, Any]

SKIPPED: Final[Mapping[str, str]] = {
    "not-selected": f"its namespace is not labelled {PREFIX}inject=enabled, nor is it",
    "disabled": f"{PREFIX}inject: disabled is set on it, its pod template or its namespace",
    "excluded-namespace": "its namespace is excluded",
    "excluded-workload": "the configuration excludes it",
    "kind": "it is of a kind that the configuration leaves out",
    "deleting": "it is being deleted",
    "workload-ref": "its pods are those of the object that workloadRef names: that one is patched",
    "not-serving": "it serves no traffic, as far as its ports and probes tell, so inherited "
    f"settings do not apply; `{PREFIX}inject: enabled` on it makes them apply",
}
"""Why nothing at all is injected; `nothing-to-inject` follows from what else is told."""


def left_alone(
    skipped: str | None,
    before: Json,
    after: Json,
    situation: Situation | None,
    ours: Collection[str | None] = (),
) -> Iterator[str]:
    """Say what was left alone, and why.

    Args:
        skipped: why nothing was injected, if nothing was.
        before: the workload as it is written.
        after: the workload as it would be admitted.
        situation: what was decided by; none where nothing was decided.
        ours: the containers whose preStop hook is one that was injected before.
    """
    if skipped is not None and skipped in SKIPPED:
        yield SKIPPED[skipped]
        return
    if situation is None:
        return
    if situation["pre-stop-sleep"].value:
        yield from _hooks(before, after, situation, ours)
    yield from _min_ready(before, after, situation)
    yield from _gates(before, situation)


def _hooks(
    before: Json, after: Json, situation: Situation, ours: Collection[str | None]
) -> Iterator[str]:
    chosen = situation["pre-stop-containers"].value
    result = {each["name"]: pre_stop(each) for each in containers(after)}
    for container in containers(before):
        name, hook = container["name"], pre_stop(container)
        if chosen and name not in chosen:
            yield f"{name} is not among pre-stop-containers: no sleep"
        elif hook is None:
            if not result.get(name) and given_grace_seconds(before) == 0:
                yield f"{name} gets no sleep: a grace period of 0 means no hooks"
        elif name not in ours and result.get(name) == hook:
            kept = f"{name} has a preStop of its own: kept"
            yield kept + _instead(hook, situation, windows=is_windows(before))
    for sidecar in filter(is_sidecar, init_containers(before)):
        yield f"{sidecar['name']} is a native sidecar: no sleep, for it ends after the others"


def _instead(hook: Json, situation: Situation, *, windows: bool) -> str:
    """Say what could be done about a hook that is kept."""
    if situation["pre-stop-existing"].value != "keep":
        return ""
    if sleep_seconds(hook) is not None:
        return "; `pre-stop-existing: native` would make it a native sleep of the same length"
    if mapping(hook.get("exec")).get("command") and not windows:
        return "; `pre-stop-existing: chain` would run it after the sleep"
    return ""


def _min_ready(before: Json, after: Json, situation: Situation) -> Iterator[str]:
    asked = situation["min-ready"].value
    has, becomes = (mapping(each.get("spec")).get("minReadySeconds") for each in (before, after))
    if asked and has == becomes and type(has) is int and has > asked:
        yield f"minReadySeconds is {has}: kept, for min-ready only raises it to {asked}"


def _gates(before: Json, situation: Situation) -> Iterator[str]:
    there = {each.get("conditionType") for each in pod_spec(before).get("readinessGates") or ()}
    for gate in situation["readiness-gates"].value or ():
        if gate in there:
            yield f"the readiness gate {gate} is there already"
