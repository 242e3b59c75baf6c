"""Bytes to admission review, and an answer back to bytes: the only edge that pydantic guards."""

from __future__ import annotations

import base64
from collections.abc import Mapping, Sequence
from typing import Any, Final, Literal

import orjson
from pydantic import BaseModel, ConfigDict, Field, ValidationError

API_VERSION: Final = "admission.k8s.io/v1"
WARNING_LENGTH: Final = 120
_WARNINGS: Final = 20
_SPEAKER: Final = "seamless-rollouts: "


class InvalidReviewError(ValueError):
    """A body that is no AdmissionReview; the text says where it is not."""


class _Model(BaseModel):
    model_config = ConfigDict(frozen=True, extra="ignore", populate_by_name=True)


class GroupVersionKind(_Model):
    """The kind of the object, as the webhook's rules name it."""

    group: str | None = None
    version: str
    kind: str


class Request(_Model):
    """What the API server asks about one object (`AdmissionRequest`)."""

    uid: str = Field(min_length=1, max_length=256)
    kind: GroupVersionKind
    operation: str
    sub_resource: str | None = Field(default=None, alias="subResource")
    name: str | None = None
    namespace: str | None = None
    object: Any = None
    old_object: Any = Field(default=None, alias="oldObject")
    options: Any = None
    dry_run: bool | None = Field(default=None, alias="dryRun")

    @property
    def field_manager(self) -> str | None:
        """Who says to have sent the change."""
        manager = self.options.get("fieldManager") if isinstance(self.options, dict) else None
        return manager if isinstance(manager, str) else None


class _Review(_Model):
    api_version: Literal["admission.k8s.io/v1"] = Field(alias="apiVersion")
    kind: Literal["AdmissionReview"]
    request: Request


def decode(body: bytes) -> Request:
    """Read an AdmissionReview.

    Raises:
        InvalidReviewError: the body is no JSON, or no AdmissionReview `admission.k8s.io/v1`.
    """
    try:
        return _Review.model_validate(orjson.loads(body)).request
    except orjson.JSONDecodeError as error:
        message = f"the body is not JSON: {error}"
        raise InvalidReviewError(message) from None
    except ValidationError as error:
        first = error.errors(include_url=False, include_input=False)[0]
        where = ".".join(map(str, first["loc"])) or "the body"
        message = f"not an AdmissionReview {API_VERSION}: {where}: {first['msg']}"
        raise InvalidReviewError(message) from None


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
    text = _SPEAKER + "".join(char if char.isprintable() else " " for char in text)
    if len(text) <= WARNING_LENGTH:
        return text
    return text[: WARNING_LENGTH - 1] + "\N{HORIZONTAL ELLIPSIS}"


def _few(warnings: Sequence[str]) -> Sequence[str]:
    """The API server passes on 4,096 characters of warnings in all."""
    if len(warnings) <= _WARNINGS:
        return warnings
    return [*warnings[: _WARNINGS - 1], f"and {len(warnings) - _WARNINGS + 1} more warnings"]
