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

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from functools import lru_cache
from typing import Any, Final

import orjson

from webhook.draft import ABSENT, NAMED, TEMPLATE, Draft, Field, Injection, Path
from webhook.settings import RECORD

VERSION: Final = 1
_ANNOTATION_LEVELS: Final = 2  # metadata, annotations
ANNOTATIONS_LIMIT: Final = 262_144
"""Bytes that the API server allows all annotations of an object together (seen on 1.36)."""

Entries = dict[tuple[Field, str | None], Injection]


@dataclass(frozen=True, slots=True)
class Record:
    """What a record names; `readable` is false where the annotation holds something else."""

    entries: Mapping[tuple[Field, str | None], Injection] = field(default_factory=dict)
    made: int = 0
    null: bool = False
    present: bool = False
    readable: bool = True

    def __bool__(self) -> bool:
        return self.present


NO_RECORD: Final = Record()
_BROKEN: Final = Record(present=True, readable=False)
_CACHED: Final = 4096


class AnnotationsFullError(Exception):
    """The record would push an object's annotations over the API server's limit."""


class Ledger:
    """Reads and writes records of the registered fields."""

    def __init__(self, fields: Iterable[Field]) -> None:
        self._fields = {(each.in_template, each.pattern): each for each in fields}
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
        if not isinstance(text, str):
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
        for key, entry in fields.items():
            found = self._entry(key, entry, in_template=in_template)
            if found is not None:
                place, name, injection = found
                entries[place, name] = injection
        made = record.get("made")
        levels = made if type(made) is int and 0 <= made <= _ANNOTATION_LEVELS else 0
        return Record(entries, levels, record.get("null") is True, present=True)

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

    def stands(self, record: Record, workload: dict[str, Any]) -> bool:
        """Tell whether all that a pod template's record names stands in another template."""
        draft = Draft(workload)
        self.take_out(draft, record, in_template=True)
        return len(draft.taken) == len(record.entries) > 0

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


def _bytes(text: str) -> int:
    return len(text) if text.isascii() else len(text.encode())


def _annotations(*, in_template: bool) -> Path:
    return (*TEMPLATE, "metadata", "annotations") if in_template else ("metadata", "annotations")
