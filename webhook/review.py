"""Bytes to admission review, and an answer back to bytes: the edge that msgspec guards."""

from __future__ import annotations

import base64
from collections.abc import Mapping, Sequence
from typing import Annotated, Any, Final, Literal

import msgspec
import orjson

API_VERSION: Final = "admission.k8s.io/v1"
WARNING_LENGTH: Final = 120
_WARNINGS: Final = 20
_SPEAKER: Final = "seamless-rollouts: "
_CUT: Final = "\N{HORIZONTAL ELLIPSIS}"
_MOST_SHOWN: Final = 300
_NULL: Final = msgspec.Raw(b"null")


class InvalidReviewError(ValueError):
    """A body that is no AdmissionReview; the text says where it is not."""


class GroupVersionKind(msgspec.Struct, frozen=True):
    """The kind of the object, as the webhook's rules name it."""

    version: str
    kind: str
    group: str | None = None


class _Metadata(msgspec.Struct, frozen=True):
    labels: dict[str, Any] | None = None
    annotations: dict[str, Any] | None = None


class _Container(msgspec.Struct, frozen=True):
    image: Any = None


class _PodSpec(msgspec.Struct, frozen=True):
    containers: list[_Container] | None = None


class _Template(msgspec.Struct, frozen=True):
    metadata: _Metadata | None = None
    spec: _PodSpec | None = None


class _Spec(msgspec.Struct, frozen=True):
    template: msgspec.Raw = _NULL


class _Workload(msgspec.Struct, frozen=True):
    metadata: _Metadata | None = None
    spec: _Spec | None = None


_WORKLOAD: Final = msgspec.json.Decoder(_Workload | None)
_TEMPLATE: Final = msgspec.json.Decoder(_Template | None)
_ANYTHING: Final = msgspec.json.Decoder()
_EMPTY: Final = _Template()
_BROKEN: Final = (msgspec.DecodeError, RecursionError, UnicodeDecodeError)
"""What a decoder raises; a `ValidationError` is a `DecodeError`, too."""


class OldObject:
    """A workload as it was before an UPDATE, of which no more is decoded than is asked for.

    Mostly that is what its metadata and that of its pod template say (`above`, `below`), and the
    `images` of its regular containers, which tell at once that a pod template has changed.
    Decoding all of it would take a third of a decision's time.

    Raises:
        InvalidReviewError: it is not JSON.
    """

    __slots__ = ("_decoded", "_raw", "above", "below", "images")

    def __init__(self, workload: _Workload) -> None:
        self._raw = workload.spec.template if workload.spec else _NULL
        self._decoded: dict[str, Any] | None = None
        try:
            template = _TEMPLATE.decode(self._raw) or _EMPTY
        except msgspec.ValidationError:  # it says nothing then
            template = _EMPTY
        except _BROKEN as error:
            raise _no_json(error) from None
        self.above = _said(workload.metadata)
        self.below = _said(template.metadata)
        self.images = [each.image for each in (template.spec and template.spec.containers) or ()]

    @property
    def template(self) -> dict[str, Any]:
        """The pod template."""
        if self._decoded is None:
            # By the decoder of the new object: equal keys then are one and the same string.
            try:
                self._decoded = _ANYTHING.decode(self._raw) or {}
            except _BROKEN as error:
                raise _no_json(error) from None
        return self._decoded


def read_old(workload: Any) -> _Workload | None:
    """Make of an object what `Request.old_object` wants.

    Raises:
        RecursionError: it is nested too deeply.
        msgspec.ValidationError: it is not of a workload's shape.
    """
    old: _Workload | None = _WORKLOAD.decode(msgspec.json.encode(workload))
    return old


def _said(metadata: _Metadata | None) -> dict[str, Any]:
    if metadata is None:
        return {}
    return {"labels": metadata.labels, "annotations": metadata.annotations}


# What the API server writes of an object, and of its metadata (`ObjectMeta`). Nobody asks for the
# parts that are left as they came, and they may well be half of all that there is.
_UNDECODED: Final = frozenset({"managedFields", "status"})
_ABSENT: Final = msgspec.Raw()
_OBJECT_META: Final = (
    "name",
    "generateName",
    "namespace",
    "selfLink",
    "uid",
    "resourceVersion",
    "generation",
    "creationTimestamp",
    "deletionTimestamp",
    "deletionGracePeriodSeconds",
    "labels",
    "annotations",
    "ownerReferences",
    "finalizers",
    "managedFields",
)


def _known(name: str, keys: Sequence[str], **types: Any) -> Any:
    """Make the type of an object that has no other keys than these, all of them optional."""
    fields = [
        (key, msgspec.Raw, _ABSENT)
        if key in _UNDECODED
        else (key, types.get(key, Any), msgspec.UNSET)
        for key in keys
    ]
    return msgspec.defstruct(name, fields, forbid_unknown_fields=True)


_ObjectMeta: Final = _known("_ObjectMeta", _OBJECT_META)
_Object: Final = _known(
    "_Object",
    ("apiVersion", "kind", "metadata", "spec", "status"),
    metadata=_ObjectMeta | None | msgspec.UnsetType,
)


def _mapping(known: Any) -> dict[str, Any]:
    found = {}
    for key in known.__struct_fields__:
        value = getattr(known, key)
        if value is not msgspec.UNSET and value is not _ABSENT:
            found[key] = value
    return found


class Request(msgspec.Struct, rename="camel", kw_only=True):
    """What the API server asks about one object (`AdmissionRequest`).

    Of the `object`, `status` and `metadata.managedFields` may be undecoded (`msgspec.Raw`). Where
    the old object is not of a workload's shape there is none: the API server has none such.
    """

    uid: Annotated[str, msgspec.Meta(min_length=1, max_length=256)]
    kind: GroupVersionKind
    operation: str
    sub_resource: str | None = None
    name: str | None = None
    namespace: str | None = None
    object: Any = None
    old_object: _Workload | None = None
    options: Any = None
    dry_run: bool | None = None

    @property
    def old(self) -> OldObject | None:
        """The object before an UPDATE, where there was one."""
        return None if self.old_object is None else OldObject(self.old_object)

    @property
    def field_manager(self) -> str | None:
        """Who says to have sent the change."""
        manager = self.options.get("fieldManager") if isinstance(self.options, dict) else None
        return manager if isinstance(manager, str) else None


_KnownRequest: Final = msgspec.defstruct(
    "_KnownRequest",
    [("object", _Object | None, None)],
    bases=(Request,),
    rename="camel",
    kw_only=True,
)


class _OddRequest(Request, rename="camel", kw_only=True):
    old_object: Any = None


def _review_of(request: Any) -> msgspec.json.Decoder[Any]:
    fields: list[Any] = [
        ("apiVersion", Literal["admission.k8s.io/v1"]),
        ("kind", Literal["AdmissionReview"]),
        ("request", request),
    ]
    return msgspec.json.Decoder(msgspec.defstruct("_Review", fields))


_KNOWN: Final = _review_of(_KnownRequest)
_UNKNOWN: Final = _review_of(Request)
_ODD: Final = _review_of(_OddRequest)


def decode(body: bytes) -> Request:
    """Read an AdmissionReview.

    Raises:
        InvalidReviewError: the body is no JSON, or no AdmissionReview `admission.k8s.io/v1`.
    """
    try:
        return _decode_review(body)
    except msgspec.ValidationError as error:
        message = f"not an AdmissionReview {API_VERSION}: {_brief(error)}"
        raise InvalidReviewError(message) from None
    except _BROKEN as error:
        raise _no_json(error) from None


def _decode_review(body: bytes) -> Request:
    request: Request
    try:
        request = _KNOWN.decode(body).request
    except msgspec.ValidationError:
        try:
            request = _UNKNOWN.decode(body).request
        except msgspec.ValidationError:
            request = _ODD.decode(body).request
            request.old_object = None
        return request
    known: Any = request.object
    if known is not None:
        request.object = _mapping(known)
        if isinstance(known.metadata, msgspec.Struct):
            request.object["metadata"] = _mapping(known.metadata)
    return request


def _no_json(error: Exception) -> InvalidReviewError:
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
            "message": _SPEAKER + refusal,
        }
    elif operations:
        response["patchType"] = "JSONPatch"
        response["patch"] = base64.b64encode(orjson.dumps(operations)).decode()
    if warnings:
        response["warnings"] = [warning_text(each) for each in _few(warnings)]
    if audit:
        response["auditAnnotations"] = audit
    return orjson.dumps(
        {"apiVersion": API_VERSION, "kind": "AdmissionReview", "response": response}
    )


def warning_text(text: str) -> str:
    """Give a warning as the user sees it: one line of at most 120 characters."""
    text = _SPEAKER + _printable(text)
    return text if len(text) <= WARNING_LENGTH else text[: WARNING_LENGTH - 1] + _CUT


def _printable(text: str) -> str:
    return text if text.isprintable() else "".join(c if c.isprintable() else " " for c in text)


def _few(warnings: Sequence[str]) -> Sequence[str]:
    """The API server passes on 4,096 characters of warnings in all."""
    if len(warnings) <= _WARNINGS:
        return warnings
    return [*warnings[: _WARNINGS - 1], f"and {len(warnings) - _WARNINGS + 1} more warnings"]
