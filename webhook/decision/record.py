"""What was injected, and taking it back.

A record is compact JSON in the annotation `seamless-rollouts.dev/injected`, keys sorted:
`{"fields":{"spec.terminationGracePeriodSeconds":{"is":60,"was":30}},"v":1}`. One lies on the pod
template for what lies in the template, so that an old template that is rolled back to brings its
own; one on the workload for what lies outside it. An entry holds the value that was injected
(`is`; not for whole list items), what was there before (`was`; absent where there was nothing),
and, where the mappings or lists above it had to be made, how many (`made`, `null` where the
topmost was written as null). `made` beside `fields` tells it of the annotations themselves.

Users can write records. One that is not as we write them is no record; an entry that names
anything but a field of a registered mutation is passed over; and what is put back must be a value
that the field could have had.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field, replace
from functools import lru_cache
from typing import Any, Final

import msgspec
import orjson

from webhook.decision.draft import (
    ABSENT,
    ANNOTATIONS_LIMIT,
    KEEP,
    NAMED,
    TEMPLATE,
    AnnotationsFullError,
    Draft,
    Field,
    Injection,
    Path,
    read_at,
)
from webhook.decision.partial import OldObject, alike
from webhook.decision.settings import RECORD
from webhook.decision.workload import malformed

VERSION: Final = 1
CONTAINERS: Final = (*TEMPLATE, "spec", "containers")
_ANNOTATION_LEVELS: Final = 2  # metadata, annotations

Entries = dict[tuple[Field, str | None], Injection]


@dataclass(frozen=True, slots=True)
class Record:
    """What a record names; `readable` is false where the annotation holds something else.

    `of_containers` are those entries again which lie in a container, by field and by the
    container's name.
    """

    entries: Mapping[tuple[Field, str | None], Injection] = field(default_factory=dict)
    of_containers: Mapping[Field, Mapping[str, Injection]] = field(default_factory=dict)
    made: int = 0
    null: bool = False
    present: bool = False
    readable: bool = True

    def __bool__(self) -> bool:
        return self.present


NO_RECORD: Final = Record()
_BROKEN: Final = Record(present=True, readable=False)
_CACHED: Final = 4096


class Ledger:
    """Reads and writes records of the registered fields."""

    def __init__(self, fields: Iterable[Field]) -> None:
        self._fields = {(each.in_template, each.pattern): each for each in fields}
        self._written = _written([each for each in self._fields.values() if each.in_template])
        # A workload's record comes again with each of its requests, old object and new.
        self._cached = lru_cache(maxsize=512)(self._parse)

    def read(self, workload: Any, *, in_template: bool) -> Record:
        """Read the record that lies on a pod template, or on a workload."""
        node = workload
        for step in _annotations(in_template=in_template):
            if not isinstance(node, dict):
                return NO_RECORD
            node = node.get(step)
        return self.read_from(node, in_template=in_template)

    def read_from(self, annotations: Any, *, in_template: bool) -> Record:
        """Read the record that is among the annotations of a pod template, or of a workload."""
        text = annotations.get(RECORD) if isinstance(annotations, dict) else None
        if text is None:
            return NO_RECORD
        # One over the API server's limit is none that we wrote.
        if not isinstance(text, str) or len(text) > ANNOTATIONS_LIMIT:
            return _BROKEN
        parse = self._cached if len(text) <= _CACHED else self._parse
        return parse(text, in_template)

    def _parse(self, text: str, in_template: bool) -> Record:  # noqa: FBT001 - a cache's key
        try:
            record = orjson.loads(text)
        except orjson.JSONDecodeError:
            return _BROKEN
        if not isinstance(record, dict) or record.get("v") != VERSION:
            return _BROKEN
        fields = record.get("fields")
        if not isinstance(fields, dict):
            return _BROKEN
        entries: Entries = {}
        of_containers: dict[Field, dict[str, Injection]] = {}
        for key, entry in fields.items():
            found = self._entry(key, entry, in_template=in_template)
            if found is not None:
                place, name, injection = found
                entries[place, name] = injection
                if name is not None and not place.of_items:
                    of_containers.setdefault(place, {})[name] = injection
        made = record.get("made")
        levels = made if type(made) is int and 0 <= made <= _ANNOTATION_LEVELS else 0
        null = record.get("null") is True
        return Record(entries, of_containers, levels, null, present=True)

    def _entry(
        self, key: str, entry: Any, *, in_template: bool
    ) -> tuple[Field, str | None, Injection] | None:
        if not isinstance(entry, dict):
            return None
        name: str | None = None
        pattern = key
        head, bracket, rest = key.partition("[")
        if bracket:
            name, bracket, tail = rest.rpartition("]")
            pattern = f"{head}[{NAMED}]{tail}"
        place = self._fields.get((in_template, pattern))
        if place is None or (NAMED in place.path) != (name is not None):
            return None
        if name is not None and not place.names(name):
            return None
        made = entry.get("made", 0)
        if type(made) is not int or not 0 <= made <= place.makes:
            return None
        null = entry.get("null") is True
        if place.of_items:
            return place, name, Injection(None, made=made, null=null)
        value, was = entry.get("is"), entry.get("was", ABSENT)
        if (made and was is not ABSENT) or not place.plausible(value, was):
            return None
        return place, name, Injection(value, was, made, null)

    @staticmethod
    def take_out(draft: Draft, record: Record, *, in_template: bool) -> None:
        """Put back what was there before each recorded injection; the record goes, too."""
        items: dict[Field, dict[str, Injection]] = {}
        for (place, name), injection in record.entries.items():
            if place.of_items:
                items.setdefault(place, {})[str(name)] = injection
            else:
                draft.take_out(place, name, injection)
        for place, injections in items.items():
            draft.take_items_out(place, injections)
        path = _annotations(in_template=in_template)
        annotations = draft.get(*path)
        if isinstance(annotations, dict) and RECORD in annotations:
            draft.remove((*path, RECORD), record.made, null=record.null)

    @staticmethod
    def with_moved(record: Record, workload: dict[str, Any], old: OldObject) -> Record:
        """Add to a record what has moved with a container in this very update.

        An injected value that stands in a container which the old template did not have is ours
        where it stood the same in one that is gone, and so was renamed, or in one of which this
        is a copy: with the same image, or the same in all but its name and image.

        Args:
            record: of the pod template.
            workload: the object that bears it.
            old: the object before.
        """
        moved: Entries = {}
        for place, injections in record.of_containers.items():
            fresh = _fresh(place, injections, workload, old)
            if fresh:
                for name, injection in _sources(place, injections, workload, old, fresh):
                    moved[place, name] = injection
        return replace(record, entries={**record.entries, **moved}) if moved else record

    @staticmethod
    def edited(
        record: Record, before: dict[str, Any], after: dict[str, Any]
    ) -> dict[str, tuple[Field, str | None]]:
        """Name what a record names and what differs between two objects, one for each setting."""
        one, other = Draft(before), Draft(after)
        found: dict[str, tuple[Field, str | None]] = {}
        for place, name in record.entries:
            if place.setting not in found and not alike(
                one.value(place, name), other.value(place, name)
            ):
                found[place.setting] = place, name
        return found

    def as_stored(self, pod_template: dict[str, Any]) -> dict[str, Any]:
        """Give a pod template for comparison, as the API server stores it where we write.

        A record that was made offline may put back a `null`, an empty mapping or list, or nothing
        at all where the API server has since stored its own.
        """
        return _as_stored(pod_template, self._written) or {}

    @staticmethod
    def write(draft: Draft, *, in_template: bool) -> None:
        """Write the record of what was injected; none where nothing was.

        Raises:
            AnnotationsFullError: there is no room for it.
        """
        fields = draft.records[in_template]
        if not fields:
            return
        path = _annotations(in_template=in_template)
        record: dict[str, Any] = {"fields": fields, "v": VERSION}
        made, null = draft.missing(path)
        if made:
            record["made"] = made
        if null:
            record["null"] = True
        text = orjson.dumps(record, option=orjson.OPT_SORT_KEYS).decode()
        draft.set((*path, RECORD), text)
        annotations = draft.get(*path)
        size = sum(
            _bytes(key) + _bytes(value)
            for key, value in annotations.items()
            if isinstance(value, str)
        )
        if size > ANNOTATIONS_LIMIT:
            raise AnnotationsFullError


class _Written:
    """A place that fields lie in, or one of them: what is `below`, and what is `stored` there."""

    __slots__ = ("below", "of_each", "stored")

    def __init__(self) -> None:
        self.below: dict[str, _Written] = {}
        self.of_each: _Written | None = None
        self.stored: Any = ABSENT


def _written(fields: Iterable[Field]) -> _Written:
    """Make of the fields of a pod template the tree that they lie in."""
    root = _Written()
    root.below["metadata"] = metadata = _Written()
    metadata.below |= {"annotations": _Written(), "labels": _Written()}
    for each in fields:
        node = root
        for step in each.path[:-1] if each.of_items else each.path:
            if step == NAMED:
                node.of_each = node.of_each or _Written()
                node = node.of_each
            else:
                node = node.below.setdefault(step, _Written())
        node.stored = each.stored
    return root


def _as_stored(node: Any, written: _Written) -> Any:
    if type(node) is list:
        of_each = written.of_each
        return node if of_each is None else [_as_stored(each, of_each) for each in node]
    if type(node) is not dict or not written.below:
        return node
    found: dict[str, Any] = node
    for key, below in written.below.items():
        value = node.get(key, ABSENT)
        stored = below.stored if value is ABSENT else _as_stored(value, below)
        if stored is None or stored in ({}, []):
            stored = below.stored
        if stored is value:
            continue
        if found is node:
            found = node.copy()
        if stored is ABSENT:
            del found[key]
        else:
            found[key] = stored
    return found


def _fresh(
    place: Field, injections: Mapping[str, Injection], workload: dict[str, Any], old: OldObject
) -> list[dict[str, Any]]:
    """Give the containers that no entry names, and that the old pod template did not have."""
    unnamed: list[dict[str, Any]] = [
        each
        for each in read_at(workload, place.above) or ()
        if each["name"] not in injections and read_at(each, place.below) is not None
    ]
    if not unnamed:
        return unnamed
    # Mostly it is a container with a hook of its own: that it was there is known without decoding.
    before: set[Any]
    if place.above == CONTAINERS:
        before = {name for name in old.names if isinstance(name, str)}
    else:
        before = {each.get("name") for each in _containers_before(place, old)}
    return [each for each in unnamed if each["name"] not in before]


def _containers_before(place: Field, old: OldObject) -> list[dict[str, Any]]:
    before = {"spec": {"template": old.template}}
    if malformed(before):
        return []  # the API server has none such
    found: list[dict[str, Any]] = read_at(before, place.above) or []
    return found


def _sources(
    place: Field,
    injections: Mapping[str, Injection],
    workload: dict[str, Any],
    old: OldObject,
    fresh: list[dict[str, Any]],
) -> Iterator[tuple[str, Injection]]:
    """Find what was injected into those that containers are copies of, or have the place of.

    By what stood there, written as JSON: there may be thousands of either.
    """
    still_there = {each["name"] for each in read_at(workload, place.above)}
    renamed: dict[bytes, Injection] = {}
    copied: dict[tuple[bytes, bytes], Injection] = {}
    for each in _containers_before(place, old):
        stood = read_at(each, place.below)
        injection = injections.get(each["name"])
        if stood is None or injection is None or place.release(stood, injection) is KEEP:
            continue
        value = _json(stood)
        if each["name"] not in still_there:
            renamed[value] = injection
        for trait in _traits(each):
            copied[value, trait] = injection
    for each in fresh:
        value = _json(read_at(each, place.below))
        found = renamed.get(value)
        for trait in _traits(each) if found is None else ():
            found = found or copied.get((value, trait))
        if found is not None:
            yield each["name"], found


def _traits(container: dict[str, Any]) -> tuple[bytes, bytes]:
    """Give what a copy has in common with its source: either of them is enough."""
    rest = {key: value for key, value in container.items() if key not in {"name", "image"}}
    return _json({"image": container.get("image")}), _json(rest)


_json: Final = msgspec.json.Encoder(order="deterministic").encode


def _bytes(text: str) -> int:
    return len(text) if text.isascii() else len(text.encode())


def _annotations(*, in_template: bool) -> Path:
    return (*TEMPLATE, "metadata", "annotations") if in_template else ("metadata", "annotations")
