"""Bytes to admission review, and an answer back to bytes: the edge that msgspec guards."""

from __future__ import annotations

import base64
import types
from collections.abc import Collection, Iterable, Mapping, Sequence
from functools import lru_cache
from typing import Annotated, Any, Final, Literal

import msgspec
import orjson

from webhook.decision.partial import Form, OldObject, raw_of, undecoded
from webhook.decision.printable import printable
from webhook.decision.workload import mapping

Path = tuple[str, ...]

API_VERSION: Final = "admission.k8s.io/v1"
WARNING_LENGTH: Final = 120
_WARNINGS: Final = 20
SPEAKER: Final = "seamless-rollouts: "
_CUT: Final = "\N{HORIZONTAL ELLIPSIS}"
_MOST_SHOWN: Final = 300
_BROKEN: Final = (msgspec.DecodeError, RecursionError, UnicodeDecodeError)
"""What a decoder raises; a `ValidationError` is a `DecodeError`, too."""


class InvalidReviewError(ValueError):
    """A body that is no AdmissionReview; the text says where it is not."""


class GroupVersionKind(msgspec.Struct, frozen=True):
    """The kind of the object, as the webhook's rules name it."""

    version: str
    kind: str
    group: str | None = None


# --- the object before an UPDATE: of it, only what is nearly always asked for --------------------


class _Metadata(msgspec.Struct, frozen=True, gc=False):
    labels: dict[str, Any] | None = None
    annotations: dict[str, Any] | None = None


class _Container(msgspec.Struct, frozen=True, gc=False):
    image: Any = None
    name: Any = None


class _Pod(msgspec.Struct, frozen=True, gc=False):
    containers: list[_Container] | None = None


class _Template(msgspec.Struct, frozen=True, gc=False):
    metadata: _Metadata | None = None
    spec: _Pod | None = None


class _Spec(msgspec.Struct, frozen=True, gc=False):
    template: _Template | None = None


class _Workload(msgspec.Struct, frozen=True, gc=False):
    metadata: _Metadata | None = None
    spec: _Spec | None = None


class _Bare(msgspec.Struct, frozen=True, gc=False):
    """One whose pod template is odd: a custom resource's may be."""

    metadata: _Metadata | None = None


# --- the object: all of it, but what nobody reads stays undecoded --------------------------------

OBJECT_META: Final = (
    *("annotations", "creationTimestamp", "deletionGracePeriodSeconds", "deletionTimestamp"),
    *("finalizers", "generateName", "generation", "labels", "managedFields", "name", "namespace"),
    *("ownerReferences", "resourceVersion", "selfLink", "uid"),
)
"""What Kubernetes writes of the metadata of an object."""
WORKLOAD_SPEC: Final = (
    *("minReadySeconds", "paused", "progressDeadlineSeconds", "replicas", "revisionHistoryLimit"),
    *("selector", "strategy", "template", "updateStrategy"),
    # of StatefulSets
    *("ordinals", "persistentVolumeClaimRetentionPolicy", "podManagementPolicy", "serviceName"),
    "volumeClaimTemplates",
    # of Argo Rollouts
    *("analysis", "progressDeadlineAbort", "restartAt", "rollbackWindow", "workloadRef"),
)
"""What is written of the spec of each kind of workload."""
POD_SPEC: Final = (
    *("activeDeadlineSeconds", "affinity", "automountServiceAccountToken", "containers"),
    *("dnsConfig", "dnsPolicy", "enableServiceLinks", "ephemeralContainers", "evictionResponders"),
    *("hostAliases", "hostIPC", "hostNetwork", "hostPID", "hostUsers", "hostname"),
    *("hostnameOverride", "imagePullSecrets", "initContainers", "nodeName", "nodeSelector", "os"),
    *("overhead", "preemptionPolicy", "priority", "priorityClassName", "readinessGates"),
    *("resourceClaims", "resources", "restartPolicy", "runtimeClassName", "schedulerName"),
    *("schedulingGates", "schedulingGroup", "securityContext", "serviceAccount"),
    *("serviceAccountName", "setHostnameAsFQDN", "shareProcessNamespace", "subdomain"),
    *("terminationGracePeriodSeconds", "tolerations", "topologySpreadConstraints", "volumes"),
    "workloadRef",
)
"""What Kubernetes writes of the spec of a pod."""
CONTAINER: Final = (
    *("args", "command", "env", "envFrom", "image", "imagePullPolicy", "lifecycle"),
    *("livenessProbe", "name", "ports", "readinessProbe", "resizePolicy", "resources"),
    *("restartPolicy", "restartPolicyRules", "securityContext", "startupProbe", "stdin"),
    *("stdinOnce", "terminationMessagePath", "terminationMessagePolicy", "tty", "volumeDevices"),
    *("volumeMounts", "workingDir"),
)
"""What Kubernetes writes of a container."""

_POD: Final = ("spec", "template", "spec")
_KNOWN_KEYS: Final[Mapping[Path, tuple[str, ...]]] = {
    (): ("apiVersion", "kind", "metadata", "spec", "status"),
    ("metadata",): OBJECT_META,
    ("spec",): WORKLOAD_SPEC,
    ("spec", "template"): ("metadata", "spec"),
    ("spec", "template", "metadata"): OBJECT_META,
    _POD: POD_SPEC,
    (*_POD, "containers", "*"): CONTAINER,
    (*_POD, "initContainers", "*"): CONTAINER,
}
"""The mappings of which a part may be decoded, by path; any other is decoded whole or not at all.

One with a key that is not named is decoded whole, too.
"""


def _is_read(path: Path, reads: Iterable[Path]) -> bool:
    """Tell whether a value is read, whole or in part."""
    return any(path[: len(each)] == each or each[: len(path)] == path for each in reads)


def _is_read_whole(path: Path, reads: Iterable[Path]) -> bool:
    return any(path[: len(each)] == each for each in reads)


def _known(path: Path, reads: Collection[Path]) -> tuple[Any, Form]:
    """Make the type of a mapping with no other keys than the known ones, and its form."""
    fields: list[Any] = []
    unread: list[Any] = []
    below: dict[str, Form] = {}
    of_each: dict[str, Form] = {}
    for key in _KNOWN_KEYS[path]:
        at = (*path, key)
        kind: Any = Any
        left = None
        if not _is_read(at, reads):
            kind, left = msgspec.Raw, undecoded(at)
        elif not _is_read_whole(at, reads):
            if at in _KNOWN_KEYS:
                known, below[key] = _known(at, reads)
                kind = known | None | msgspec.UnsetType
            elif (*at, "*") in _KNOWN_KEYS and not _is_read_whole((*at, "*"), reads):
                known, of_each[key] = _known((*at, "*"), reads)
                kind = types.GenericAlias(list, known) | None | msgspec.UnsetType
        fields.append((key, kind, msgspec.UNSET))
        unread.append(left)
    name = "_Known" + "".join(step.title() for step in path if step != "*")
    known = msgspec.defstruct(name, fields, forbid_unknown_fields=True, gc=False)
    return known, Form(_KNOWN_KEYS[path], unread, below, of_each)


# --- the review ----------------------------------------------------------------------------------


class Request(msgspec.Struct, rename="camel", kw_only=True):
    """What the API server asks about one object (`AdmissionRequest`).

    Of the `object`, what nobody reads may be undecoded (`webhook.decision.partial`). Where the old
    object is not of a workload's shape there is none: the API server has none such.
    """

    uid: Annotated[str, msgspec.Meta(min_length=1, max_length=256)]
    kind: GroupVersionKind
    operation: str
    sub_resource: str | None = None
    name: str | None = None
    namespace: str | None = None
    object: Any = None
    old_object: OldObject | None = None
    options: Any = None
    dry_run: bool | None = None

    @property
    def field_manager(self) -> str | None:
        """Who says to have sent the change."""
        manager = self.options.get("fieldManager") if isinstance(self.options, dict) else None
        return manager if isinstance(manager, str) else None


def _review_of(**kinds: Any) -> msgspec.json.Decoder[Any]:
    """Make the decoder of a review with objects of these types."""
    objects = [(key, kind, None) for key, kind in kinds.items()]
    request = msgspec.defstruct("_Request", objects, bases=(Request,), rename="camel", kw_only=True)
    fields: list[Any] = [
        ("apiVersion", Literal["admission.k8s.io/v1"]),
        ("kind", Literal["AdmissionReview"]),
        ("request", request),
    ]
    return msgspec.json.Decoder(msgspec.defstruct("_Review", fields))


_UNKNOWN: Final = _review_of(object=Any, old_object=_Workload | None)
_BARE: Final = _review_of(object=Any, old_object=_Bare | None)
_ODD: Final = _review_of(object=Any, old_object=Any)


def _old_spec_of(kind: Any) -> msgspec.json.Decoder[Any]:
    """Make the decoder of a review of which nothing is wanted but the old object's spec."""
    for name in ("spec", "oldObject", "request"):
        kind = msgspec.defstruct(f"_With_{name}", [(name, kind)])
    return msgspec.json.Decoder(kind)


_UNKNOWN_OLD_SPEC: Final = _old_spec_of(Any)


class Decoder:
    """Reads reviews, and of the objects in them no more than somebody reads.

    Args:
        reads: the paths of what is read, from the object on; `*` is any item of a list. What lies
            below is read with it.
    """

    def __init__(self, reads: Collection[Path]) -> None:
        known, self._form = _known((), reads)
        spec, self._spec_form = _known(("spec",), reads)
        self._known = _review_of(object=known | None, old_object=_Workload | None)
        self._old_spec_of = _old_spec_of(spec)

    def decode(self, body: bytes) -> Request:
        """Read an AdmissionReview.

        Raises:
            InvalidReviewError: the body is no JSON, or no AdmissionReview `admission.k8s.io/v1`.
        """
        try:
            return self._decode(body)
        except msgspec.ValidationError as error:
            message = f"not an AdmissionReview {API_VERSION}: {_brief(error)}"
            raise InvalidReviewError(message) from None
        except _BROKEN as error:
            raise no_json(error) from None

    def _decode(self, body: bytes) -> Request:
        request: Request
        try:
            request = self._known.decode(body).request
            if request.object is not None:
                request.object = self._form.mapping(request.object)
        except msgspec.ValidationError:
            request = _decode_unusual(body)
        if request.old_object is not None:
            request.old_object = OldObject(request.old_object, lambda: self._old_spec(body))
        return request

    def _old_spec(self, body: bytes) -> dict[str, Any]:
        """Read what was passed over at first.

        Raises:
            msgspec.DecodeError: it is no JSON.
        """
        try:
            return self._spec_form.mapping(self._old_spec_of.decode(body).request.oldObject.spec)
        except msgspec.ValidationError:
            return mapping(_UNKNOWN_OLD_SPEC.decode(body).request.oldObject.spec)


@lru_cache(maxsize=8)
def decoder(reads: frozenset[Path]) -> Decoder:
    """Give the decoder for what is read; making one takes as long as a few hundred reviews."""
    return Decoder(reads)


def _decode_unusual(body: bytes) -> Request:
    """Read a review of which an object is not as Kubernetes or Argo Rollouts write workloads."""
    request: Request
    try:
        request = _UNKNOWN.decode(body).request
    except msgspec.ValidationError:
        try:
            request = _BARE.decode(body).request
            bare: Any = request.old_object
            if bare is not None:
                bare = _Workload(bare.metadata)
            request.old_object = bare
        except msgspec.ValidationError:
            request = _ODD.decode(body).request
            request.old_object = None
    return request


def read_old(workload: dict[str, Any]) -> OldObject:
    """Make of an object what `Request.old_object` wants.

    Raises:
        msgspec.ValidationError: it is not of a workload's shape.
    """
    return OldObject(msgspec.convert(workload, _Workload), lambda: mapping(workload.get("spec")))


def no_json(error: Exception) -> InvalidReviewError:
    """Say what a decoder raised."""
    return InvalidReviewError(f"the body is not JSON: {_brief(error)}")


def _brief(error: Exception) -> str:
    """What the decoder says may quote the whole of a stranger's text."""
    text = _printable(str(error))
    return text if len(text) <= _MOST_SHOWN else text[:_MOST_SHOWN] + _CUT


def encode(
    uid: str,
    *,
    operations: Sequence[Mapping[str, Any]] = (),
    warnings: Sequence[str] = (),
    audit: Mapping[str, str] | None = None,
    refusal: str | None = None,
) -> bytes:
    """Write the AdmissionReview that answers a request.

    Args:
        uid: the request's.
        operations: the JSON Patch; left out where there is none.
        warnings: for the user; each cut to 120 characters, at most 20 of them.
        audit: the audit annotations.
        refusal: why the request is refused; it is allowed where there is none.
    """
    response: dict[str, Any] = {"uid": uid, "allowed": refusal is None}
    if refusal is not None:
        response["status"] = {
            "status": "Failure",
            "code": 422,
            "reason": "Invalid",
            "message": SPEAKER + refusal,
        }
    elif operations:
        response["patchType"] = "JSONPatch"
        response["patch"] = base64.b64encode(orjson.dumps(operations, default=_as_it_came)).decode()
    if warnings:
        response["warnings"] = [warning_text(each) for each in _few(warnings)]
    if audit:
        response["auditAnnotations"] = audit
    return orjson.dumps(
        {"apiVersion": API_VERSION, "kind": "AdmissionReview", "response": response}
    )


def _as_it_came(value: Any) -> orjson.Fragment:
    raw = raw_of(value)
    if raw is None:
        raise TypeError
    return orjson.Fragment(bytes(raw))


def warning_text(text: str) -> str:
    """Give a warning as the user sees it: one line of at most 120 characters."""
    text = SPEAKER + _printable(text)
    return text if len(text) <= WARNING_LENGTH else text[: WARNING_LENGTH - 1] + _CUT


def _printable(text: str) -> str:
    if not text.isprintable():
        text = "".join(c if c.isprintable() else " " for c in text)
    return printable(text)  # no commands of CI systems either


def _few(warnings: Sequence[str]) -> Sequence[str]:
    """The API server passes on 4,096 characters of warnings in all."""
    if len(warnings) <= _WARNINGS:
        return warnings
    return [*warnings[: _WARNINGS - 1], f"and {len(warnings) - _WARNINGS + 1} more warnings"]
