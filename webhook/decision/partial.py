"""What nobody asks of a review stays as it came: bytes, of which only the end was looked for.

Half of a workload is `env`, `resources`, `affinity` and the like, and the same again in the object
before an UPDATE. Decoding it all would take longer than deciding. In the mappings that are made
here such a value is a `msgspec.Raw`; all else is the untyped JSON that it always is.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Final

import msgspec

Json = dict[str, Any]

_decode: Final[Callable[[Any], Any]] = msgspec.json.Decoder().decode
_values: Final[Callable[[Any], tuple[Any, ...]]] = msgspec.structs.astuple
_UNSET: Final[Any] = msgspec.UNSET
_RAW: Final[Any] = msgspec.Raw


def workload_of(known: Any) -> Json:
    """Give a workload of the type `_Object` (`webhook.decision.review`) as a mapping."""
    workload = _mapping(known)
    metadata = workload.get("metadata")
    if metadata is not None:
        workload["metadata"] = _mapping(metadata)
    known_spec = workload.get("spec")
    if known_spec is not None:
        workload["spec"] = spec_of(known_spec)
    return workload


def spec_of(known: Any) -> Json:
    """Give the spec of a workload, of the type `_Spec` of the review, as a mapping."""
    spec = _mapping(known)
    known_template = spec.get("template")
    if known_template is not None:
        spec["template"] = template_of(known_template)
    return spec


def template_of(known: Any) -> Json:
    """Give a pod template of the type `_Template` (`webhook.decision.review`) as a mapping."""
    template = _mapping(known)
    known_spec = template.get("spec")
    if known_spec is not None:
        spec = _mapping(known_spec)
        template["spec"] = spec
        known_containers: list[Any] | None = spec.get("containers")
        if known_containers is not None:
            spec["containers"] = [_mapping(each) for each in known_containers]
    return template


def _mapping(known: Any) -> Json:
    found: Json = {}
    keys: tuple[str, ...] = known.__struct_fields__
    for index, value in enumerate(_values(known)):
        if value is not _UNSET:
            found[keys[index]] = value
    return found


def alike(one: Any, other: Any) -> bool:
    """Tell whether two values are equal, whatever of them is undecoded.

    Raises:
        msgspec.DecodeError: what was left undecoded is no JSON.
    """
    if one is other:
        return True
    if type(one) is dict and type(other) is dict:
        return len(one) == len(other) and all(
            key in other and alike(value, other[key]) for key, value in one.items()
        )
    if type(one) is list and type(other) is list:
        return len(one) == len(other) and all(map(alike, one, other))
    # The API server writes what is equal alike, byte for byte; others may not.
    return bool(one == other) or (
        (type(one) is _RAW or type(other) is _RAW) and bool(_plain(one) == _plain(other))
    )


def decoded_where(value: Any, word: bytes) -> Any:
    """Give a value decoded if a word is in it, which is much quicker told; else nothing.

    What is decoded already is given as it is. The word must be one that JSON writes as it is,
    unless it writes something of it as an escape.

    Raises:
        msgspec.DecodeError: what was left undecoded is no JSON.
    """
    if type(value) is not _RAW:
        return value
    written = bytes(value)
    return _decode(written) if word in written or b"\\" in written else None


def _plain(value: Any) -> Any:
    return _decode(value) if type(value) is _RAW else value


def decoded(value: Any) -> Any:
    """Give what may be undecoded as the untyped JSON that it is.

    Raises:
        msgspec.DecodeError: what was left undecoded is no JSON.
    """
    return _plain(value)


class OldObject:
    """A workload as it was before an UPDATE, of which no more is decoded than is asked for.

    Mostly that is what its metadata and that of its pod template say (`above`, `below`), and the
    `names` and `images` of its regular containers; another image tells at once that a pod template
    has changed.

    Args:
        known: the workload, of the type `_Workload` (`webhook.decision.review`).
        read: gives the spec whole; asked once, and only if there is a pod template.
    """

    __slots__ = ("_containers", "_read", "_spec", "above", "below", "images")

    def __init__(self, known: Any, read: Callable[[], Json]) -> None:
        template = known.spec.template if known.spec else None
        self._read = read
        self._spec: Json | None = None if template else {}
        self.above = _said(known.metadata)
        self.below = _said(template.metadata if template else None)
        pods = template.spec if template else None
        self._containers = (pods.containers if pods else None) or ()
        self.images: list[Any] = [each.image for each in self._containers]

    @property
    def names(self) -> list[Any]:
        """The names of its regular containers."""
        return [each.name for each in self._containers]

    @property
    def spec(self) -> Json:
        """The spec; empty where it has no pod template."""
        if self._spec is None:
            self._spec = self._read()
        return self._spec

    @property
    def template(self) -> Json:
        """The pod template."""
        found: Json = self.spec.get("template") or {}
        return found


def _said(metadata: Any) -> Json:
    if metadata is None:
        return {}
    return {"labels": metadata.labels, "annotations": metadata.annotations}
