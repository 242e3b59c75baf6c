"""A tiny API server: it stores one workload, fills in defaults, and asks the webhook.

It does what the real one was seen to do on the way of a request: the user's words are merged with
what is stored, defaults are filled in, the webhook is asked with the old object, its patch is
applied, defaults are filled in again, and the result is validated. Without a webhook it is the
measure: what it stores then is what the user has asked for.
"""

from __future__ import annotations

import copy
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from decimal import Decimal
from typing import Any, Final

import orjson

from tests.builders import STRATEGY_KEY, Json, apply, canonical, decide, pod_of, template_of
from tests.decision.validation import complaints
from webhook.decision.admission import Admission, Decision

LAST_APPLIED: Final = "kubectl.kubernetes.io/last-applied-configuration"
REVISION: Final = "deployment.kubernetes.io/revision"
_NOT_ROLLED_BACK: Final = (LAST_APPLIED, REVISION)


class RefusedError(Exception):
    """The API server, or the webhook, refused a request."""


@dataclass
class Revision:
    """A template that the workload had, with the annotations that it had then."""

    template: Json
    annotations: Json


@dataclass
class ApiServer:
    """The server; `webhook` is `None` while it is down, or where there is none.

    With `prunes` its schema of Rollouts has no native sleep, as that of Argo Rollouts 1.6: what it
    does not know is dropped without a word.
    """

    webhook: Admission | None = None
    stored: Json | None = None
    revisions: list[Revision] = field(default_factory=list)
    decision: Decision | None = None
    restarted: bool = False
    applied_by_server: Json | None = None
    generation: int = 0
    prunes: bool = False

    def __deepcopy__(self, memo: dict[int, Any]) -> ApiServer:
        """Copy what is stored; who decides about it stays the same."""
        stored = copy.deepcopy((self.stored, self.revisions, self.applied_by_server), memo)
        return replace(self, stored=stored[0], revisions=stored[1], applied_by_server=stored[2])

    @property
    def now(self) -> Json:
        """What is stored."""
        assert self.stored is not None
        return copy.deepcopy(self.stored)

    # What users do.

    def create(self, manifest: Json) -> Json:
        """`kubectl create`."""
        return self._admit(copy.deepcopy(manifest), None)

    def put(self, manifest: Json) -> Json:
        """`kubectl replace`: what the manifest does not say is gone."""
        return self._admit(copy.deepcopy(manifest), self.stored)

    def apply(self, manifest: Json) -> Json:
        """`kubectl apply`, client-side: a three-way merge with what was applied last."""
        noted = copy.deepcopy(manifest)
        annotations = noted["metadata"].setdefault("annotations", {})
        annotations[LAST_APPLIED] = orjson.dumps(manifest).decode()
        if self.stored is None:
            return self.create(noted)
        before = (self.stored["metadata"].get("annotations") or {}).get(LAST_APPLIED)
        last = orjson.loads(before) if before else {}
        return self._admit(merge(last, noted, self.stored), self.stored)

    def server_side_apply(self, manifest: Json) -> Json:
        """`kubectl apply --server-side`: what nobody owns any more goes, all else stays."""
        last, self_now = self.applied_by_server or {}, self.stored
        new = copy.deepcopy(manifest)
        sent = new if self_now is None else merge(last, new, self_now, by_leaf=True)
        done = self._admit(sent, self_now)
        self.applied_by_server = new
        return done

    def edit(self, change: Callable[[Json], Any], manager: str = "kubectl-edit") -> Json:
        """`kubectl edit` or `patch`: a change of what is stored."""
        sent = self.now
        change(sent)
        return self._admit(sent, self.stored, manager)

    def scale(self, replicas: int) -> Json:
        """Change the replicas by an update of the object itself."""
        return self.edit(lambda sent: sent["spec"].update(replicas=replicas))

    def restart(self, at: str) -> Json:
        """`kubectl rollout restart`."""

        def note(sent: Json) -> None:
            metadata = template_of(sent).setdefault("metadata", {})
            annotations = metadata.setdefault("annotations", {})
            annotations["kubectl.kubernetes.io/restartedAt"] = at

        return self.edit(note)

    def undo(self, index: int) -> Json:
        """`kubectl rollout undo`: the old template and the old annotations of the Deployment."""
        return self.undo_to(self.revisions[index])

    def undo_to(self, revision: Revision) -> Json:
        """The same, to a revision that is handed in."""

        def roll_back(sent: Json) -> None:
            sent["spec"]["template"] = copy.deepcopy(revision.template)
            current = sent["metadata"].get("annotations") or {}
            annotations = {key: current[key] for key in _NOT_ROLLED_BACK if key in current}
            annotations |= {
                key: value
                for key, value in revision.annotations.items()
                if key not in _NOT_ROLLED_BACK
            }
            sent["metadata"]["annotations"] = annotations
            if not annotations:
                del sent["metadata"]["annotations"]

        return self.edit(roll_back)

    # What the server does.

    def _admit(self, sent: Json, old: Json | None, manager: str = "kubectl") -> Json:
        sent = fill_in(sent)
        self.decision = None
        if self.webhook is not None:
            options = {"options": {"fieldManager": manager}}
            self.decision = decide(sent, copy.deepcopy(old), self.webhook, **options)
            if self.decision.refused:
                message = "; ".join(map(str, self.decision.refused))
                raise RefusedError(message)
            patched = fill_in(apply(copy.deepcopy(sent), self.decision.operations))
            new = self._complaints(patched) - self._complaints(sent)
            assert not new, f"the patch made a valid request invalid: {new}"
        else:
            patched = sent
        if self.prunes and patched["kind"] == "Rollout":
            _prune(patched)
        if self._complaints(patched):
            raise RefusedError("; ".join(sorted(self._complaints(patched))))
        moved = old is None or canonical(template_of(old)) != canonical(template_of(patched))
        self.restarted = moved and old is not None
        if self.decision is not None and self.decision.situation is not None:
            assert self.decision.restarts == self.restarted or self.prunes
        self.stored = patched
        if moved:
            self.generation += 1
        if moved or not self.revisions:
            template = copy.deepcopy(template_of(patched))
            self.revisions.append(Revision(template, {}))
        # The controller copies the annotations to the newest ReplicaSet.
        annotations = copy.deepcopy(patched["metadata"].get("annotations") or {})
        self.revisions[-1].annotations = annotations
        return self.now

    def _complaints(self, given: Json) -> set[str]:
        """Say what is invalid; a hook that was pruned is so only for the pods."""
        found = complaints(given)
        return {each for each in found if not (self.prunes and each.endswith(" has 0 handlers"))}


# --- merging -------------------------------------------------------------------------------------

_MERGE_KEYS: Final = {
    "containers": "name",
    "initContainers": "name",
    "volumes": "name",
    "env": "name",
    "ports": "containerPort",
    "readinessGates": None,
}


def merge(last: Any, new: Any, live: Any, key: str = "", *, by_leaf: bool = False) -> Any:
    """Merge three ways: what `last` said and `new` does not goes; what `live` has beside stays.

    A mapping that the user no longer writes goes whole, with what others wrote into it, as
    kubectl's patch has it; `by_leaf`, as server-side apply has it, only what the user wrote goes.
    """
    if isinstance(new, dict) and isinstance(live, dict):
        last = last if isinstance(last, dict) else {}
        merged = {name: value for name, value in live.items() if name not in last or name in new}
        for name in last.keys() & live.keys() - new.keys() if by_leaf else ():
            left = _without(last[name], live[name])
            if left:
                merged[name] = left
        for name, value in new.items():
            if value is None:
                merged.pop(name, None)
            else:
                below = live.get(name)
                merged[name] = merge(last.get(name), value, below, name, by_leaf=by_leaf)
        return merged
    merge_key = _MERGE_KEYS.get(key)
    if merge_key and isinstance(new, list) and isinstance(live, list):
        last = last if isinstance(last, list) else []
        return _merge_lists(last, new, live, merge_key, by_leaf=by_leaf)
    return copy.deepcopy(new)


_HANDLERS: Final = frozenset({"exec", "httpGet", "tcpSocket", "grpc", "sleep"})


def _without(last: Any, live: Any) -> Any:
    """Give what is left of a value once what its owner wrote is gone."""
    if not isinstance(last, dict) or not isinstance(live, dict):
        return None
    left = {
        name: _without(last[name], value)
        for name, value in live.items()
        if name in last and name not in _HANDLERS  # what was filled in goes with its handler
    }
    kept = {name: value for name, value in left.items() if value}
    return kept | {name: value for name, value in live.items() if name not in last}


def _merge_lists(
    last: list[Any], new: list[Any], live: list[Any], key: str, *, by_leaf: bool
) -> list[Any]:
    said, was = ({each[key]: each for each in items} for items in (new, last))
    at_server = {each[key]: each for each in live}
    merged = [
        merge(was.get(each[key]), each, at_server.get(each[key]), by_leaf=by_leaf) for each in new
    ]
    # What only the server has keeps its place before what follows it there.
    for index, each in enumerate(live):
        name = each[key]
        if name in said or name in was:
            continue
        following = [item[key] for item in live[index + 1 :]]
        places = [at for at, item in enumerate(merged) if item[key] in following]
        merged.insert(min(places, default=len(merged)), copy.deepcopy(each))
    return merged


# --- defaults ------------------------------------------------------------------------------------

_PROBE: Final = {
    "timeoutSeconds": 1,
    "periodSeconds": 10,
    "successThreshold": 1,
    "failureThreshold": 3,
}
_POD: Final = {
    "restartPolicy": "Always",
    "terminationGracePeriodSeconds": 30,
    "dnsPolicy": "ClusterFirst",
    "schedulerName": "default-scheduler",
    "securityContext": {},
}
_MILLI: Final = 1000


def fill_in(given: Json) -> Json:
    """Give an object as the API server stores it: without nulls, with defaults."""
    built = _stored(given)
    if built["kind"] == "Rollout":
        return built
    spec = built["spec"]
    if built["kind"] == "Deployment":
        spec.setdefault("progressDeadlineSeconds", 600)
        spec.setdefault("revisionHistoryLimit", 10)
    if built["kind"] in {"Deployment", "StatefulSet"}:
        spec.setdefault("replicas", 1)
    _fill_in_strategy(built["kind"], spec)
    metadata = built["metadata"]
    if metadata.get("annotations") == {}:
        del metadata["annotations"]
    inner = template_of(built).setdefault("metadata", {})
    inner.setdefault("creationTimestamp", None)
    if inner.get("annotations") == {}:
        del inner["annotations"]
    pod = pod_of(built)
    for key, value in _POD.items():
        pod.setdefault(key, copy.deepcopy(value))
    for place in ("containers", "initContainers"):
        if pod.get(place) == []:
            del pod[place]
        for each in pod.get(place, []):
            _fill_in_container(each)
    if pod.get("readinessGates") == []:
        del pod["readinessGates"]
    return built


def _prune(rollout: Json) -> None:
    for each in pod_of(rollout)["containers"]:
        hook = (each.get("lifecycle") or {}).get("preStop")
        if hook is not None:
            hook.pop("sleep", None)


def _stored(value: Any) -> Any:
    if isinstance(value, dict):
        return {key: _stored(each) for key, each in value.items() if each is not None}
    return [_stored(each) for each in value] if isinstance(value, list) else value


def _fill_in_strategy(kind: str, spec: Json) -> None:
    strategy = spec.setdefault(STRATEGY_KEY[kind], {})
    strategy.setdefault("type", "RollingUpdate")
    if strategy["type"] != "RollingUpdate":
        return
    rolling = strategy.setdefault("rollingUpdate", {})
    if kind == "StatefulSet":
        rolling.setdefault("partition", 0)
    else:
        rolling.setdefault("maxUnavailable", "25%" if kind == "Deployment" else 1)
        rolling.setdefault("maxSurge", "25%" if kind == "Deployment" else 0)


def _fill_in_container(container: Json) -> None:
    container.setdefault("imagePullPolicy", "IfNotPresent")
    container.setdefault("terminationMessagePath", "/dev/termination-log")
    container.setdefault("terminationMessagePolicy", "File")
    container.setdefault("resources", {})
    for quantities in container["resources"].values():
        for name, quantity in quantities.items():
            quantities[name] = _quantity(quantity)
    if container.get("ports") == []:
        del container["ports"]
    for port in container.get("ports", []):
        port.setdefault("protocol", "TCP")
    for key in ("readinessProbe", "livenessProbe", "startupProbe"):
        probe = container.get(key)
        if probe is not None:
            for name, value in _PROBE.items():
                probe.setdefault(name, value)
            _fill_in_handler(probe)
    hook = (container.get("lifecycle") or {}).get("preStop")
    if hook is not None:
        _fill_in_handler(hook)


def _fill_in_handler(handler: Json) -> None:
    if "httpGet" in handler:
        handler["httpGet"].setdefault("path", "/")
        handler["httpGet"].setdefault("scheme", "HTTP")
    if "grpc" in handler:
        handler["grpc"].setdefault("service", "")


def _quantity(text: Any) -> Any:
    """Rewrite `0.01` as `10m`, as the API server does."""
    text = str(text)
    if text.isdecimal() or not text[-1:].isdecimal():
        return text
    return f"{int(Decimal(text) * _MILLI)}m"
