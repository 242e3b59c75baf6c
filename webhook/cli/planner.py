"""What would become of manifests: each object sent down the path of a request, and its rollout.

Everything here is done in memory: `seamless plan` reads files and prints, the playground answers
a page. Both decide by the webhook's own code, bytes to bytes.
"""

from __future__ import annotations

import base64
import contextlib
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Final

import jsonpatch
import orjson

from webhook.cli.left_alone import left_alone
from webhook.cli.manifests import Document, ManifestError
from webhook.decision import aws
from webhook.decision.admission import Admission, Decision
from webhook.decision.configuration import Configuration
from webhook.decision.estimate import HELM_WAIT_SECONDS, duration
from webhook.decision.mutations.model import UNKNOWN_CLUSTER, Cluster
from webhook.decision.mutations.pre_stop import PRE_STOP
from webhook.decision.review import warning_text
from webhook.decision.settings import INJECT, PREFIX, InvalidSettingError, Namespace
from webhook.decision.workload import (
    DEFAULT_GRACE_SECONDS,
    Kind,
    containers,
    find_kind,
    malformed,
    mapping,
)
from webhook.rollout.simulation import Rollout, SimulationError, simulate
from webhook.rollout.timings import Timings

Json = dict[str, Any]

_MOST_SENT: Final = 3 * 1024 * 1024  # bytes of an object: more, and no API server takes it
_BUILT_IN_TIMINGS: Final = Timings()


@dataclass(frozen=True, slots=True)
class Options:
    """What a plan depends on besides the manifests and the configuration.

    Args:
        namespace: the namespace of manifests that name none.
        cluster: what the cluster can carry.
        timings: what things take.
        nodes: on how many nodes a DaemonSet runs, where it is known.
        what_if: settings by name, as an annotation would have them, to look at beside what is set.
    """

    namespace: str = "default"
    cluster: Cluster = UNKNOWN_CLUSTER
    timings: Timings = _BUILT_IN_TIMINGS
    nodes: int | None = None
    what_if: Mapping[str, str] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class Outcome:
    """What becomes of an object: the decision, the patch, and the object with it."""

    decision: Decision
    patch: list[Json]
    after: Json
    warnings: list[str]


@dataclass(slots=True)
class Planned:
    """What becomes of one workload.

    Args:
        document: where it stands.
        item: its index, where it is one of a List.
        kind: its kind.
        before: the object as it is written.
        namespace: its namespace.
        known: whether something is known of that namespace.
        outcome: what becomes of it.
        in_git: how what was raised can stand in Git.
        left_alone: what was left as it is, and why.
        written: its rollout as it is written; none where there is nothing to simulate.
        admitted: its rollout as it would be admitted; none where it would be refused, too.
        not_simulated: why there is no rollout to show; empty where there is.
        what_if: what would become of it with the settings of `--what-if`; none without any.
        what_if_rollout: its rollout then.
    """

    document: Document
    item: int | None
    kind: Kind
    before: Json
    namespace: str
    known: bool
    outcome: Outcome
    in_git: list[str] = field(default_factory=list)
    left_alone: list[str] = field(default_factory=list)
    written: Rollout | None = None
    admitted: Rollout | None = None
    not_simulated: str = ""
    what_if: Outcome | None = None
    what_if_rollout: Rollout | None = None

    @property
    def decision(self) -> Decision:
        """What was decided."""
        return self.outcome.decision

    @property
    def patch(self) -> list[Json]:
        """The JSON Patch."""
        return self.outcome.patch

    @property
    def after(self) -> Json:
        """The object as it would be."""
        return self.outcome.after

    @property
    def warnings(self) -> list[str]:
        """What the webhook would warn of."""
        return self.outcome.warnings

    @property
    def name(self) -> str:
        """The name, or what stands in for one."""
        metadata = mapping(self.before.get("metadata"))
        name = metadata.get("name") or f"{metadata.get('generateName') or ''}?"
        return f"{self.kind.name.lower()}/{name}"

    @property
    def place(self) -> str:
        """Where it was read."""
        item = f", item {self.item}" if self.item is not None else ""
        return f"{self.document.place}{item}"

    @property
    def title(self) -> str:
        """The name, and the namespace of what lies in one."""
        if self.kind is aws.NAMESPACE_KIND:
            return self.name
        return f"{self.name} in namespace {self.namespace}"

    @property
    def state(self) -> str:
        """One word, and why where there is more to say."""
        return state_of(self.outcome)

    @property
    def outlives_helm(self) -> bool:
        """Whether `helm --wait` would give up before it is rolled out."""
        if self.admitted is None:
            return False
        shape, rolled_out = self.admitted.shape, self.admitted.rolled_out
        if shape.paused or shape.strategy == "OnDelete":
            return False  # Helm does not wait for what rolls when somebody says so
        return rolled_out is None or rolled_out >= HELM_WAIT_SECONDS


@dataclass(slots=True)
class Plan:
    """Everything that was read, and what becomes of it."""

    documents: list[Document] = field(default_factory=list)
    workloads: list[Planned] = field(default_factory=list)
    what_if: Mapping[str, str] = field(default_factory=dict)


def state_of(outcome: Outcome) -> str:
    """Say what becomes of an object in one word, and why where there is more to say."""
    decision = outcome.decision
    if decision.refused:
        return "refused"
    if outcome.patch:
        return "patched" if decision.applied else "injections removed"
    return f"unchanged ({decision.skipped})" if decision.skipped else "unchanged"


def admitted(plan: Plan) -> Iterator[tuple[Document, Any]]:
    """Walk the documents with their content as admitted: the same object where nothing changes."""
    changed: dict[int, list[Planned]] = {}
    for each in plan.workloads:
        if each.patch:
            changed.setdefault(id(each.document), []).append(each)
    for document in plan.documents:
        content = document.content
        for each in changed.get(id(document), ()):
            if each.item is None:
                content = each.after
            else:
                items = list(content["items"] or ())
                items[each.item] = each.after
                content = {**content, "items": items}
        yield document, content


class Planner:
    """Makes plans under one configuration.

    Args:
        settings: the webhook's configuration.
        options: what else it depends on.

    Raises:
        InvalidSettingError: the configuration's defaults, or a setting of `what_if`, do not parse.
    """

    def __init__(self, settings: Configuration, options: Options) -> None:
        self._settings = settings
        self._options = options
        self._namespaces: dict[str, Namespace] = {}
        self._admission = Admission(
            settings, namespaces=self._namespaces.get, cluster=lambda: options.cluster
        )
        for name, text in options.what_if.items():
            self._check(name, text)

    def _check(self, name: str, text: str) -> None:
        """Find out at once what a setting of `--what-if` would be refused for."""
        found = self._admission.table.layer("what-if", "--what-if", None, {PREFIX + name: text})
        for problem in found.problems:
            message = f"--what-if {name}={text[:_MOST_QUOTED]}: {problem.expected}"
            raise InvalidSettingError(message)

    def plan(self, documents: Sequence[Document], said: Sequence[Document] = ()) -> Plan:
        """Tell what becomes of the workloads in documents.

        Args:
            documents: what was read.
            said: Namespaces that have the last word, beside those among the documents.

        Raises:
            ManifestError: a document is no object, or one that cannot be sent.
        """
        self._namespaces.clear()
        for document in (*documents, *said):
            for _, _, each in objects(document):
                if _is_namespace(each):
                    metadata = mapping(each.get("metadata"))
                    name, labels = str(metadata.get("name")), metadata.get("labels")
                    found = self._admission.table.namespace(
                        name, labels, metadata.get("annotations")
                    )
                    self._namespaces[name] = found
        plan = Plan(list(documents), what_if=self._options.what_if)
        for document in documents:
            plan.workloads += self._planned(document)
        return plan

    def _planned(self, document: Document) -> Iterator[Planned]:
        for item, of_workload, each in objects(document):
            kind = of_workload
            if kind is None and self._settings.aws_readiness_gates and _is_namespace(each):
                kind = aws.NAMESPACE_KIND  # the one kind that is no workload
            if kind is None:
                continue
            metadata = mapping(each.get("metadata"))
            for key in ("name", "namespace"):
                if not isinstance(metadata.get(key), str | None):
                    message = f"{document.place}: metadata.{key} is not a string"
                    raise ManifestError(message)
            namespace = str(metadata.get("namespace") or self._options.namespace)
            known = namespace in self._namespaces
            if kind is aws.NAMESPACE_KIND:
                namespace, known = str(metadata.get("name")), True
            outcome = self._outcome(document, kind, each, namespace)
            planned = Planned(document, item, kind, each, namespace, known, outcome)
            planned.in_git = list(_in_git(self._admission, outcome.decision, each, outcome.after))
            planned.left_alone = list(self._left_alone(outcome, each))
            if kind is aws.NAMESPACE_KIND:
                planned.not_simulated = "a Namespace has no rollout"
            else:
                self._simulate(planned)
            yield planned

    def _outcome(self, document: Document, kind: Kind, each: Json, namespace: str) -> Outcome:
        """Send one object down the path that a request takes, bytes to bytes."""
        try:
            sent = orjson.dumps(each)
        except orjson.JSONEncodeError as error:
            message = f"{document.place}: {error}"
            raise ManifestError(message) from None
        if len(sent) > _MOST_SENT:
            size = f"an object of {len(sent)} bytes"
            message = f"{document.place}: {size}: the API server takes 3 MiB"
            raise ManifestError(message)
        review = {
            "apiVersion": "admission.k8s.io/v1",
            "kind": "AdmissionReview",
            "request": {
                "uid": "plan",
                "kind": {"group": kind.group, "version": kind.version, "kind": kind.name},
                "operation": "CREATE",
                "name": mapping(each.get("metadata")).get("name"),
                "namespace": namespace,
                "object": orjson.Fragment(sent),
            },
        }
        answer = self._admission.answer(orjson.dumps(review))
        if answer.decision is None:  # pragma: no cover - the review is ours
            raise ManifestError(answer.body.decode())
        response = orjson.loads(answer.body)["response"]
        patch = orjson.loads(base64.b64decode(response["patch"])) if "patch" in response else []
        # A copy in which nothing that aliases share is changed in two places.
        after = jsonpatch.apply_patch(orjson.loads(sent), patch, in_place=True)
        decision = answer.decision
        warnings = [warning_text(alert.text) for alert in decision.alerts]
        return Outcome(decision, patch, after, warnings)

    def _left_alone(self, outcome: Outcome, before: Json) -> Iterator[str]:
        decision = outcome.decision
        ours: set[str | None] = set()
        if decision.situation is not None:
            record = self._admission.ledger.read(before, in_template=True)
            ours = {name for place, name in record.entries if place is PRE_STOP}
        return left_alone(decision.skipped, before, outcome.after, decision.situation, ours)

    def _simulate(self, planned: Planned) -> None:
        """Simulate the rollout as written, as admitted, and with what is set beside."""
        planned.not_simulated = _not_simulated(planned.before)
        if planned.not_simulated:
            return
        try:
            planned.written = self._rollout(planned, planned.before)
            if planned.decision.refused:
                pass
            elif planned.patch:
                planned.admitted = self._rollout(planned, planned.after)
            else:
                planned.admitted = planned.written
            if self._options.what_if and planned.kind is not aws.NAMESPACE_KIND:
                planned.what_if = self._what_if(planned)
                if not planned.what_if.decision.refused:
                    planned.what_if_rollout = self._rollout(planned, planned.what_if.after)
        except SimulationError as error:
            planned.not_simulated = str(error)

    def _what_if(self, planned: Planned) -> Outcome:
        """Decide the object as if it had the settings of `--what-if` among its annotations."""
        metadata = mapping(planned.before.get("metadata"))
        annotations = dict(mapping(metadata.get("annotations")))
        annotations |= {PREFIX + name: text for name, text in self._options.what_if.items()}
        labels = {
            key: value
            for key, value in mapping(metadata.get("labels")).items()
            if not (INJECT in self._options.what_if and key == PREFIX + INJECT)
        }
        metadata = {**metadata, "annotations": annotations, "labels": labels}
        each = {**planned.before, "metadata": metadata}
        return self._outcome(planned.document, planned.kind, each, planned.namespace)

    def _rollout(self, planned: Planned, workload: Json) -> Rollout:
        metadata = {**mapping(workload.get("metadata")), "namespace": planned.namespace}
        options = self._options
        return simulate(
            planned.kind,
            {**workload, "metadata": metadata},
            options.timings,
            options.cluster.server,
            options.nodes,
        )


_MOST_QUOTED: Final = 100  # characters


def _not_simulated(workload: Json) -> str:
    """Say why a workload has no rollout to simulate; empty where it has one."""
    complaint = malformed(workload)
    if complaint:
        return f"malformed: {complaint}"
    if mapping(workload.get("spec")).get("workloadRef"):
        return "its pod template is that of another object (workloadRef)"
    return "" if containers(workload) else "it has no containers"


def _is_namespace(each: Json) -> bool:
    return each.get("apiVersion") == "v1" and each.get("kind") == "Namespace"


def objects(document: Document) -> Iterator[tuple[int | None, Kind | None, Json]]:
    """Walk the objects of a document; those of a List with their index."""
    content = document.content
    if content is None:
        return
    if not isinstance(content, dict):
        message = f"{document.place}: expected an object with apiVersion and kind"
        raise ManifestError(message)
    items = content.get("items")
    if isinstance(items, list) and str(content.get("kind")).endswith("List"):
        for index, item in enumerate(items):
            if not isinstance(item, dict):
                message = f"{document.place}: items[{index}] is not an object"
                raise ManifestError(message)
            yield index, _kind(item, content), item
    else:
        yield None, _kind(content, {}), content


def _kind(each: Json, of_list: Json) -> Kind | None:
    """Tell the kind of an object; the items of a DeploymentList need not say it."""
    group, _, version = str(each.get("apiVersion") or of_list.get("apiVersion")).rpartition("/")
    name = str(each.get("kind") or str(of_list.get("kind") or "").removesuffix("List"))
    return find_kind(group, version, name)


def _in_git(admission: Admission, decision: Decision, before: Json, after: Json) -> Iterator[str]:
    """Say how what was raised can stand in Git, where the value alone would be raised once more."""
    if decision.situation is None:
        return
    name = "terminationGracePeriodSeconds"
    wrote, becomes = (_pod_spec(each).get(name) for each in (before, after))
    if becomes != wrote and decision.situation["shutdown-time"].value is None:
        gave = wrote if isinstance(wrote, int) else DEFAULT_GRACE_SECONDS
        needs = duration(1 if gave < 0 else gave)  # as the API server has it
        with contextlib.suppress(InvalidSettingError):  # longer than the setting can say
            admission.table.parse("shutdown-time", needs)
            beside = f"the annotation {PREFIX}shutdown-time: {needs}"
            yield _kept_or_written(name, wrote, becomes, beside)
    name = "progressDeadlineSeconds"
    wrote, becomes = (mapping(each.get("spec")).get(name) for each in (before, after))
    if becomes != wrote:
        beside = f"minReadySeconds: {mapping(after.get('spec')).get('minReadySeconds')}"
        yield _kept_or_written(name, wrote, becomes, beside)


def _pod_spec(each: Json) -> Json:
    return mapping(mapping(mapping(each.get("spec")).get("template")).get("spec"))


def _kept_or_written(name: str, wrote: Any, becomes: Any, beside: str) -> str:
    keep = "leave it out" if wrote is None else f"keep {wrote}"
    return (
        f"{name} in Git: {keep}, or write {becomes} and {beside}; "
        f"{becomes} alone would be raised again"
    )


# --- for machines --------------------------------------------------------------------------------

FORMAT_VERSION: Final = 1
"""Of `to_json`: raised where a key changes its meaning or goes."""


def to_json(plan: Plan, mode: str) -> Json:
    """Write a plan as `-o json` does.

    Args:
        plan: what was planned.
        mode: the configuration's mode.
    """
    return {
        "formatVersion": FORMAT_VERSION,
        "mode": mode,
        "documents": len(plan.documents),
        "whatIf": dict(plan.what_if) or None,
        "workloads": [_workload(each) for each in plan.workloads],
    }


def _workload(each: Planned) -> Json:
    return {
        "source": each.document.source,
        "document": each.document.number,
        "item": each.item,
        "apiVersion": each.kind.api_version,
        "kind": each.kind.name,
        "name": mapping(each.before.get("metadata")).get("name"),
        "namespace": each.namespace,
        "namespaceKnown": each.known,
        **_outcome_json(each.outcome),
        "leftAlone": each.left_alone,
        "inGit": each.in_git,
        "rollout": {
            "written": each.written.to_json() if each.written else None,
            "admitted": each.admitted.to_json() if each.admitted else None,
            "whatIf": each.what_if_rollout.to_json() if each.what_if_rollout else None,
            "outlivesHelmWait": each.outlives_helm,
            "notSimulated": each.not_simulated or None,
        },
        "whatIf": _outcome_json(each.what_if) if each.what_if else None,
    }


def _outcome_json(outcome: Outcome) -> Json:
    decision = outcome.decision
    situation = decision.situation
    return {
        "allowed": not decision.refused,
        "changed": bool(outcome.patch),
        "applied": {
            name: situation[name].source if situation else None for name in decision.applied
        },
        "skipped": decision.skipped,
        "warnings": [
            {"code": alert.code, "text": text}
            for alert, text in zip(decision.alerts, outcome.warnings, strict=True)
        ],
        "refusals": [
            {
                "path": problem.path,
                "setting": problem.name,
                "value": problem.raw,
                "expected": problem.expected,
            }
            for problem in decision.refused
        ],
        "patch": outcome.patch,
    }
