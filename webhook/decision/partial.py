"""What nobody asks of a review stays as it came: bytes, of which only the end was looked for.

Half of a workload is `env`, `resources`, `affinity` and the like, and the same again in the object
before an UPDATE. Decoding it all would take longer than deciding. What is decoded is what somebody
declares to read (`Mutation.reads`, `Field.path`, `workload.READS`); in the mappings that are made
here any other value is of a type that raises when it is read. All else is the untyped JSON that it
always is.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any, Final

import msgspec

Json = dict[str, Any]

_decode: Final[Callable[[Any], Any]] = msgspec.json.Decoder().decode
_values: Final[Callable[[Any], tuple[Any, ...]]] = msgspec.structs.astuple
_UNSET: Final[Any] = msgspec.UNSET
_RAW: Final[Any] = msgspec.Raw


class UndeclaredReadError(Exception):
    """Something read what nobody has declared that it reads; the text says what to declare."""


_REMEDY: Final = "is not decoded: declare it in `reads` of the mutation, or of what else reads it"


def undecoded(path: Sequence[str]) -> Any:
    """Make the type of what stays undecoded at a path; `raw` holds what came.

    Whatever is asked of such a value raises: a condition on what nobody has decoded must not be
    false by accident. Two of them can be compared, byte for byte. Compiled, a value that must be
    a mapping or a list is told by the name of its type, so that is the message.

    Raises:
        UndeclaredReadError: not here, but by its values (a `TypeError` where they are told by
            their type).
    """
    message = f"{printed(path)} {_REMEDY}"

    def refuse(*_given: Any) -> Any:
        raise UndeclaredReadError(message)

    def equal(one: Any, other: Any) -> bool:
        if type(one) is not type(other):
            refuse()
        return bool(one.raw == other.raw)

    kind: Any = msgspec.defstruct(
        message,
        [("raw", msgspec.Raw)],
        module="undecoded",
        namespace={
            **dict.fromkeys(_ASKED, refuse),
            "__eq__": equal,
            "__ne__": lambda one, other: not equal(one, other),
            "__class__": property(refuse),
        },
        gc=False,
    )
    _undecoded.add(kind)
    return kind


_ASKED: Final = (
    *("__bool__", "__contains__", "__float__", "__ge__", "__getattr__", "__getitem__", "__gt__"),
    *("__hash__", "__index__", "__int__", "__iter__", "__le__", "__len__", "__lt__", "__str__"),
)
_undecoded: Final[set[Any]] = set()
_NULL: Final[Any] = msgspec.Raw(b"null")


def raw_of(value: Any) -> Any:
    """Give the `msgspec.Raw` of what is undecoded; None for all else."""
    return value.raw if type(value) in _undecoded else value if type(value) is _RAW else None


def printed(path: Sequence[str]) -> str:
    """Write a path as messages do, such as `spec.template.spec.containers[*].env`."""
    return ".".join(path).replace(".*", "[*]")


class Form:
    """How a mapping of known keys is made of a value of its msgspec type.

    Args:
        keys: in the order of the type's fields.
        unread: for each key the type of what stays undecoded there, or None where it is decoded.
        below: the forms of the mappings below, by key.
        of_each: the forms of the items of the lists below, by key.
    """

    __slots__ = ("_below", "_keys", "_of_each", "_unread")

    def __init__(
        self,
        keys: Sequence[str],
        unread: Sequence[Any],
        below: Mapping[str, Form],
        of_each: Mapping[str, Form],
    ) -> None:
        self._keys = tuple(keys)
        self._unread = tuple(unread)
        self._below = tuple(below.items())
        self._of_each = tuple(of_each.items())

    def mapping(self, known: Any) -> Json:
        """Make the mapping; a `null` is None, whether or not anybody reads it."""
        found: Json = {}
        keys: tuple[str, ...] = self._keys
        kinds: tuple[Any, ...] = self._unread
        for index, value in enumerate(_values(known)):
            if value is _UNSET:
                continue
            kind = kinds[index]
            if kind is None:
                found[keys[index]] = value
            else:
                found[keys[index]] = None if value == _NULL else kind(value)
        for key, form in self._below:
            value = found.get(key)
            if value is not None:
                found[key] = form.mapping(value)
        for key, form in self._of_each:
            known_items: list[Any] | None = found.get(key)
            if known_items is not None:
                found[key] = [form.mapping(each) for each in known_items]
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
    raw, other_raw = raw_of(one), raw_of(other)
    if raw is None and other_raw is None:
        return bool(one == other)
    # The API server writes what is equal alike, byte for byte; others may not.
    return (raw is not None and other_raw is not None and bool(raw == other_raw)) or bool(
        decoded(one) == decoded(other)
    )


def decoded_where(value: Any, word: bytes) -> Any:
    """Give a value decoded if a word is in it, which is much quicker told; else nothing.

    What is decoded already is given as it is. The word must be one that JSON writes as it is,
    unless it writes something of it as an escape.

    Raises:
        msgspec.DecodeError: what was left undecoded is no JSON.
    """
    raw = raw_of(value)
    if raw is None:
        return value
    written = bytes(raw)
    return _decode(written) if word in written or b"\\" in written else None


def decoded(value: Any) -> Any:
    """Give what may be undecoded as the untyped JSON that it is.

    Raises:
        msgspec.DecodeError: what was left undecoded is no JSON.
    """
    raw = raw_of(value)
    return value if raw is None else _decode(raw)


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
