"""`seamless plan`: what the webhook would make of manifests, decided by the webhook itself."""

from __future__ import annotations

import base64
import contextlib
import difflib
import json
import logging
import re
import sys
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from typing import Any, Final

import jsonpatch
import orjson

from webhook.cli.common import (
    Parser,
    UsageError,
    configuration,
    fail,
    line,
    note,
    quoted,
    read_text,
)
from webhook.cli.manifests import Document, ManifestError, dump, read
from webhook.decision import aws
from webhook.decision.admission import Admission, Decision
from webhook.decision.configuration import Configuration
from webhook.decision.estimate import HELM_WAIT_SECONDS, Estimate, duration, estimate
from webhook.decision.mutations.model import Cluster, ServerVersion
from webhook.decision.printable import harmful, json_text, printable
from webhook.decision.review import warning_text
from webhook.decision.settings import BUILT_IN, PREFIX, InvalidSettingError, Namespace
from webhook.decision.workload import DEFAULT_GRACE_SECONDS, Kind, find_kind, mapping

PROGRAM: Final = "seamless plan"
DESCRIPTION: Final = """\
Show what the webhook would make of manifests, offline. Reads YAML or JSON, several documents a
file, and List objects. A namespace that is neither among them nor in --namespace-file counts as
selected."""
EXIT: Final = """\
exit status: 0 done; 1 a manifest would be refused, or with --exit-code one would be changed;
2 wrong use or bad input"""

Json = dict[str, Any]
_MOST_SENT: Final = 3 * 1024 * 1024  # bytes of an object: more, and no API server takes it
_MOST_COMPARED: Final = 20_000  # lines


@dataclass(slots=True)
class Planned:
    """What becomes of one workload."""

    document: Document
    item: int | None
    kind: Kind
    before: Json
    after: Json
    namespace: str
    known: bool
    decision: Decision
    patch: list[Json]
    warnings: list[str]
    estimate: Estimate | None
    in_git: list[str]

    @property
    def name(self) -> str:
        """The name, or what stands in for one."""
        metadata = mapping(self.before.get("metadata"))
        name = metadata.get("name") or f"{metadata.get('generateName') or ''}?"
        return f"{self.kind.name.lower()}/{name}"

    @property
    def state(self) -> str:
        """One word, and why where there is more to say."""
        if self.decision.refused:
            return "refused"
        if self.patch:
            return "patched" if self.decision.applied else "injections removed"
        return f"unchanged ({self.decision.skipped})" if self.decision.skipped else "unchanged"


@dataclass(slots=True)
class Plan:
    """Everything that was read, and what becomes of it."""

    documents: list[Document] = field(default_factory=list)
    workloads: list[Planned] = field(default_factory=list)


def main(arguments: list[str]) -> int:
    """Run the command; gives its exit status."""
    # What goes wrong inside is told in one line; a stack helps nobody here.
    logging.getLogger("webhook").addHandler(logging.NullHandler())
    logging.getLogger("webhook").propagate = False
    try:
        options = _parser().parse_args(arguments)
        settings = configuration(options.config)
        plan = _plan(options, settings)
    except (UsageError, ManifestError, InvalidSettingError) as error:
        return fail(PROGRAM, error)
    _OUTPUTS[options.output](plan, settings)
    if any(each.decision.refused for each in plan.workloads):
        return 1
    return int(options.exit_code and any(each.patch for each in plan.workloads))


def _parser() -> Parser:
    parser = Parser(prog=PROGRAM, description=DESCRIPTION, epilog=EXIT)
    parser.add_argument("files", nargs="+", metavar="FILE", help="a manifest; - is standard input")
    parser.add_argument(
        "-o",
        "--output",
        choices=tuple(_OUTPUTS),
        default="text",
        help="text: a diff and notes; yaml: the manifests as they would be; patch: one JSON Patch "
        "a line and workload; json: everything, for machines",
    )
    parser.add_argument("--config", metavar="FILE", help="the webhook's configuration")
    parser.add_argument(
        "--namespace-file", metavar="FILE", help="Namespace manifests: what they say holds"
    )
    parser.add_argument(
        "-n",
        "--namespace",
        default="default",
        help="the namespace of manifests that name none (default)",
    )
    parser.add_argument(
        "--kube-version", type=_version, metavar="1.N", help="the API server's version"
    )
    parser.add_argument(
        "--oldest-node", type=_version, metavar="1.N", help="the version of the oldest kubelet"
    )
    parser.add_argument(
        "--rollout-sleep",
        choices=("yes", "no"),
        help="whether the CRD of Argo Rollouts has preStop.sleep",
    )
    parser.add_argument(
        "--exit-code", action="store_true", help="exit with 1 where a manifest would be changed"
    )
    return parser


def _version(text: str) -> ServerVersion:
    found = re.match(r"v?(\d{1,4})\.(\d{1,4})(?:[.+-].*)?\Z", text, re.ASCII)
    if not found:
        # argparse shows the message of no other error
        import argparse

        message = f"{quoted(text)}: expected a version such as 1.30"
        raise argparse.ArgumentTypeError(message)
    return ServerVersion(int(found[1]), int(found[2]))


# --- deciding ------------------------------------------------------------------------------------


def _plan(options: Any, settings: Configuration) -> Plan:
    namespaces: dict[str, Namespace] = {}
    sleep = None if options.rollout_sleep is None else options.rollout_sleep == "yes"
    cluster = Cluster(options.kube_version, options.oldest_node, sleep)
    admission = Admission(settings, namespaces=namespaces.get, cluster=lambda: cluster)
    plan = Plan()
    for path in options.files:
        source = "standard input" if path == "-" else path
        plan.documents += read(read_text(path, stdin=True), source)
    said = plan.documents
    if options.namespace_file:  # it has the last word
        said = said + read(read_text(options.namespace_file), options.namespace_file)
    for document in said:
        for _, _, each in _objects(document):
            if _is_namespace(each):
                metadata = mapping(each.get("metadata"))
                name, labels = str(metadata.get("name")), metadata.get("labels")
                found = admission.table.namespace(name, labels, metadata.get("annotations"))
                namespaces[name] = found
    for document in plan.documents:
        for item, kind, each in _objects(document):
            if kind is None and settings.aws_readiness_gates and _is_namespace(each):
                kind = aws.NAMESPACE_KIND  # noqa: PLW2901 - the one kind that is no workload
            if kind is None:
                continue
            metadata = mapping(each.get("metadata"))
            namespace = str(metadata.get("namespace") or options.namespace)
            known = namespace in namespaces
            if kind is aws.NAMESPACE_KIND:
                namespace, known = str(metadata.get("name")), True
            plan.workloads.append(_decide(admission, document, item, kind, each, namespace, known))
    return plan


def _is_namespace(each: Json) -> bool:
    return each.get("apiVersion") == "v1" and each.get("kind") == "Namespace"


def _objects(document: Document) -> Iterator[tuple[int | None, Kind | None, Json]]:
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


def _decide(
    admission: Admission,
    document: Document,
    item: int | None,
    kind: Kind,
    each: Json,
    namespace: str,
    known: bool,  # noqa: FBT001
) -> Planned:
    """Send one object down the path that a request takes, bytes to bytes."""
    metadata = mapping(each.get("metadata"))
    for key in ("name", "namespace"):
        if not isinstance(metadata.get(key), str | None):
            message = f"{document.place}: metadata.{key} is not a string"
            raise ManifestError(message)
    try:
        sent = orjson.dumps(each)
    except orjson.JSONEncodeError as error:
        message = f"{document.place}: {error}"
        raise ManifestError(message) from None
    if len(sent) > _MOST_SENT:
        message = f"{document.place}: an object of {len(sent)} bytes: the API server takes 3 MiB"
        raise ManifestError(message)
    review = {
        "apiVersion": "admission.k8s.io/v1",
        "kind": "AdmissionReview",
        "request": {
            "uid": "plan",
            "kind": {"group": kind.group, "version": kind.version, "kind": kind.name},
            "operation": "CREATE",
            "name": metadata.get("name"),
            "namespace": namespace,
            "object": orjson.Fragment(sent),
        },
    }
    answer = admission.answer(orjson.dumps(review))
    if answer.decision is None:  # pragma: no cover - the review is ours
        raise ManifestError(answer.body.decode())
    response = orjson.loads(answer.body)["response"]
    patch = orjson.loads(base64.b64decode(response["patch"])) if "patch" in response else []
    # A copy in which nothing that aliases share is changed in two places.
    after = jsonpatch.apply_patch(orjson.loads(sent), patch, in_place=True)
    decision = answer.decision
    return Planned(
        document,
        item,
        kind,
        each,
        after,
        namespace,
        known,
        decision,
        patch,
        [warning_text(alert.text) for alert in decision.alerts],
        estimate(kind, after) if decision.situation is not None else None,
        list(_in_git(admission, decision, each, after)),
    )


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


# --- telling -------------------------------------------------------------------------------------


def _text(plan: Plan, settings: Configuration) -> None:
    for each in plan.workloads:
        where = "" if each.kind is aws.NAMESPACE_KIND else f" in namespace {each.namespace}"
        line(f"{each.name}{where}: {each.state}")
        item = f", item {each.item}" if each.item is not None else ""
        line(f"  from {each.document.place}{item}")
        for text in _notes(each, settings):
            line(f"  note: {text}")
        for warning in each.warnings:
            line(f"  warning: {warning}")
        for problem in each.decision.refused:
            line(f"  refused: {problem}")
        if each.patch:
            line("")
            for text in _diff(each):
                line(text)
        line("")
    workloads = plan.workloads
    refused = sum(bool(each.decision.refused) for each in workloads)
    patched = sum(bool(each.patch) for each in workloads)
    many = f"{_many(len(workloads), 'workload')} in {_many(len(plan.documents), 'document')}"
    line(f"{many}: {patched} changed, {refused} refused")


def _many(number: int, what: str) -> str:
    return f"{number} {what}" if number == 1 else f"{number} {what}s"


def _notes(each: Planned, settings: Configuration) -> Iterator[str]:
    if settings.mode == "audit":
        yield "audit mode: nothing would be patched"
        if each.decision.applied:
            yield f"patch mode would apply {', '.join(each.decision.applied)}"
    if not each.known:
        yield f"namespace {each.namespace} is not known here: taken as selected"
    situation = each.decision.situation
    for name in each.decision.applied:
        if situation is None:
            break
        found = situation[name]
        source = found.source if found.source == BUILT_IN else f"from the {found.source}"
        yield f"{name}: {_shown(found.value)}, {source}"
    yield from each.in_git
    if each.estimate is not None:
        yield f"rollout: {each.estimate.text}; the time that pods take to be ready comes on top"
        if _outlives_helm(each.estimate):
            wait = duration(HELM_WAIT_SECONDS)
            yield f"rollout: helm --wait gives up after {wait} unless told otherwise"


def _shown(value: Any) -> str:
    """Write a value as it would be set; the only numbers among them are durations."""
    if isinstance(value, int):
        return duration(value)
    return ", ".join(value) if isinstance(value, tuple) else str(value)


def _outlives_helm(found: Estimate) -> bool:
    return found.seconds is not None and found.seconds >= HELM_WAIT_SECONDS


def _diff(each: Planned) -> Iterator[str]:
    before, after = dump(each.before).split("\n")[:-1], dump(each.after).split("\n")[:-1]
    if len(before) > _MOST_COMPARED:
        # What repeats its lines often enough would take hours to compare.
        yield f"(the {len(before)} lines of it are not compared: the patch is)"
        yield from (json.dumps(operation) for operation in each.patch)
        return
    name = printable(each.name)  # one line
    yield from difflib.unified_diff(
        before, after, f"{name} as written", f"{name} as admitted", lineterm=""
    )


def _yaml(plan: Plan, _settings: Configuration) -> None:
    """Print every document; those without a change by their own text, comments and all."""
    changed: dict[int, list[Planned]] = {}
    for each in plan.workloads:
        if each.patch:
            changed.setdefault(id(each.document), []).append(each)
    for index, document in enumerate(plan.documents):
        content = document.content
        patched = changed.get(id(document), ())
        text = "" if patched else _as_written(document)
        for each in patched:
            if each.item is None:
                content = each.after
            else:
                items = list(content["items"] or ())
                items[each.item] = each.after
                content = {**content, "items": items}
            text = dump(content)
        separator = "---\n" if index else ""
        sys.stdout.write(separator + text + ("" if text.endswith("\n") or not text else "\n"))
    _refusals_to_stderr(plan)


def _as_written(document: Document) -> str:
    """Give the document's own text, unless it would do harm in a terminal or to a CI system."""
    if not harmful(document.text):
        return document.text
    if document.content is None:
        return "".join(f"{printable(each)}\n" for each in document.text.splitlines())
    note(PROGRAM, f"{document.place}: written anew: it has control characters or CI commands")
    return dump(document.content)


def _patch(plan: Plan, _settings: Configuration) -> None:
    for each in plan.workloads:
        sys.stdout.write(json_text(orjson.dumps(each.patch).decode()) + "\n")
    _refusals_to_stderr(plan)


def _refusals_to_stderr(plan: Plan) -> None:
    for each in plan.workloads:
        for problem in each.decision.refused:
            note(PROGRAM, f"{each.name}: refused: {problem}")


def _json(plan: Plan, settings: Configuration) -> None:
    workloads = [
        {
            "source": each.document.source,
            "document": each.document.number,
            "item": each.item,
            "apiVersion": each.kind.api_version,
            "kind": each.kind.name,
            "name": mapping(each.before.get("metadata")).get("name"),
            "namespace": each.namespace,
            "namespaceKnown": each.known,
            "allowed": not each.decision.refused,
            "changed": bool(each.patch),
            "applied": {
                name: each.decision.situation[name].source if each.decision.situation else None
                for name in each.decision.applied
            },
            "skipped": each.decision.skipped,
            "warnings": [
                {"code": alert.code, "text": text}
                for alert, text in zip(each.decision.alerts, each.warnings, strict=True)
            ],
            "refusals": [
                {
                    "path": problem.path,
                    "setting": problem.name,
                    "value": problem.raw,
                    "expected": problem.expected,
                }
                for problem in each.decision.refused
            ],
            "inGit": each.in_git,
            "rollout": None
            if each.estimate is None
            else {
                "steps": each.estimate.steps,
                "leastSeconds": each.estimate.seconds,
                "text": each.estimate.text,
                "outlivesHelmWait": _outlives_helm(each.estimate),
            },
            "patch": each.patch,
        }
        for each in plan.workloads
    ]
    found = {"mode": settings.mode, "documents": len(plan.documents), "workloads": workloads}
    sys.stdout.write(json_text(json.dumps(found, indent=2, ensure_ascii=False)) + "\n")


_OUTPUTS: Final[dict[str, Callable[[Plan, Configuration], None]]] = {
    "text": _text,
    "json": _json,
    "yaml": _yaml,
    "patch": _patch,
}
