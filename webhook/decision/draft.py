"""The object being changed: copied on write, its injections noted, its JSON Patch made.

A draft never changes what it was given. Writing to a place copies the mappings and lists on
the way to it and nothing else, so that whatever was not written is the very same Python object
before and after, and the patch (RFC 6902) is found by comparing only what is not.
"""

from __future__ import annotations

import enum
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any, Final, NamedTuple

from webhook.decision.outcomes import WarningCode
from webhook.decision.partial import alike

Step = str | int
Path = tuple[Step, ...]
Operation = dict[str, Any]

NAMED: Final = "*"
"""The step of a field's path that stands for a list item, found by its name."""


TEMPLATE: Final = ("spec", "template")
ANNOTATIONS_LIMIT: Final = 262_144
"""Bytes that the API server allows all annotations of an object together (seen on 1.36)."""


class AnnotationsFullError(Exception):
    """The record would push an object's annotations over the API server's limit."""


def covers(stored: Any, wanted: Any) -> bool:
    """Tell whether a stored value is what is wanted, with nothing but keys filled in."""
    if type(stored) is dict and type(wanted) is dict:
        return all(key in stored and covers(stored[key], below) for key, below in wanted.items())
    if type(stored) is list and type(wanted) is list and len(stored) == len(wanted):
        return all(map(covers, stored, wanted))
    return identical(stored, wanted)


class _Missing(enum.Enum):
    ABSENT = "absent"
    KEEP = "keep"


ABSENT: Final = _Missing.ABSENT
"""What stands where there is no key at all (`null` is `None`)."""
NOTHING: Final = (ABSENT, None)
KEEP: Final = _Missing.KEEP
"""What a field's `release` answers where the user has changed the value: it is theirs."""


def identical(one: Any, other: Any) -> bool:
    """Tell whether two JSON values are the same; unlike `==`, `1` is neither `true` nor `1.0`."""
    if one is other:
        return True
    if type(one) is not type(other):
        return False
    if isinstance(one, dict):
        return len(one) == len(other) and all(
            key in other and identical(value, other[key]) for key, value in one.items()
        )
    if isinstance(one, list):
        return len(one) == len(other) and all(map(identical, one, other))
    return bool(one == other)


def grafted(onto: Any, wanted: Any) -> Any:
    """Give what is wanted, made of the very parts of `onto` wherever they are equal.

    Each part is looked at once, however deep it lies.
    """
    if onto is wanted:
        return onto
    if type(onto) is dict and type(wanted) is dict:
        mapping: dict[str, Any] = {}
        same = len(onto) == len(wanted)
        for key, value in wanted.items():
            part = onto.get(key, ABSENT)
            mapping[key] = made = grafted(part, value)
            same = same and made is part
        return onto if same else mapping
    if type(onto) is list and type(wanted) is list and len(onto) == len(wanted):
        items = list(map(grafted, onto, wanted))
        return onto if all(made is part for made, part in zip(items, onto, strict=True)) else items
    return onto if alike(onto, wanted) else wanted


def pruned(stood: Any, injected: Any) -> bool:
    """Tell whether a value is what a schema without its handler has left of an injected one.

    A custom resource's schema drops what it does not know (`preStop: {}` of a native sleep): what
    was a mapping is gone, and what is left is as we wrote it.
    """
    if type(stood) is not dict or type(injected) is not dict or len(stood) >= len(injected):
        return False
    return all((key in stood) != (type(value) is dict) for key, value in injected.items()) and all(
        key in injected and identical(value, injected[key]) for key, value in stood.items()
    )


class Injection(NamedTuple):
    """One injected value and what was there before.

    `made` counts the mappings and lists above it that did not exist (`null`: the topmost of them
    was written as `null`); where it is not zero, `was` is `ABSENT`.
    """

    value: Any
    was: Any = ABSENT
    made: int = 0
    null: bool = False


def release_unchanged(current: Any, injection: Injection) -> Any:
    """Give back what was there before, or `KEEP` where the value is no longer what we wrote."""
    return injection.was if identical(current, injection.value) else KEEP


def raised_from(least: int | None = None) -> Callable[[Any, Any], bool]:
    """Make the `plausible` of a number that is only ever raised, from `least` or more."""

    def plausible(value: Any, was: Any) -> bool:
        if type(value) is not int:
            return False
        return was in NOTHING or (
            type(was) is int and was < value and (least is None or least <= was)
        )

    return plausible


@dataclass(frozen=True, eq=False)
class Field:
    """A place that a mutation writes, and how what was written there is taken back.

    Args:
        path: the steps from the pod template (`in_template`) or from the workload; `NAMED` is a
            list item found by its name. A path that ends in `NAMED` is a field of whole items.
        setting: the setting that it is reported under.
        in_template: whether it lies in the pod template, so that changing it restarts pods.
        makes: how many of the mappings or lists right above it may have to be created.
        release: what to put in place of a value that stands there now, see `release_unchanged`.
        plausible: whether we can have injected `value` where `was` had been (`ABSENT` or `None`
            where nothing was); a record that says otherwise is not ours. Not asked of items.
        names: which item names a record may mention.
        stays: whether an item as it is stored is the one that is wanted.
        item_key: the key that names an item of the list.
        stored: what the API server stores where nothing is written; `ABSENT` where that is nothing.
    """

    path: tuple[str, ...]
    setting: str
    in_template: bool = True
    makes: int = 0
    release: Callable[[Any, Injection], Any] = release_unchanged
    plausible: Callable[[Any, Any], bool] = lambda _value, _was: True
    names: Callable[[str], bool] = lambda _name: True
    stays: Callable[[Any, Any], bool] = covers
    item_key: str = "name"
    stored: Any = ABSENT

    of_items: bool = field(init=False)
    full_path: tuple[str, ...] = field(init=False)
    named_at: int | None = field(init=False)
    above: tuple[str, ...] = field(init=False)
    below: tuple[str, ...] = field(init=False)
    pattern: str = field(init=False)

    def __post_init__(self) -> None:
        """Derive what is asked of it at each request.

        `of_items`: whether whole list items are injected; `full_path`: the steps from the object,
        without a last `NAMED`; `named_at`: where in it an item is to be found by name, with what
        is `above` and `below` that; `pattern`: the key of a record's entry, `[*]` in place of the
        name.
        """
        of_items = self.path[-1] == NAMED
        steps = self.path[:-1] if of_items else self.path
        full = (*TEMPLATE, *steps) if self.in_template else steps
        named_at = full.index(NAMED) if NAMED in full else None
        derived = {
            "of_items": of_items,
            "full_path": full,
            "named_at": named_at,
            "above": full[:named_at],
            "below": () if named_at is None else full[named_at + 1 :],
            "pattern": ".".join(self.path).replace("." + NAMED, "[" + NAMED + "]"),
        }
        for name, value in derived.items():
            object.__setattr__(self, name, value)

    def key(self, name: str | None) -> str:
        """Name one place of this field in a record."""
        return self.pattern if name is None else self.pattern.replace(NAMED, name, 1)


@dataclass(slots=True)
class Alert:
    """Something that no patch can mend, in at most 120 characters."""

    code: WarningCode
    text: str


class Draft:
    """A workload on its way to what it shall be.

    `original` is what was given and is never written to; `root` is the draft; `baseline` what
    the user wrote, once the recorded injections are out. `injected` gives the setting of each
    injection, `records` the entry of each for the ledger, by whether it lies in the pod template;
    `taken` what stood where a recorded injection was taken out; `published` what a mutation tells
    those after it.
    """

    __slots__ = (
        *("_own", "_places", "_recorded", "_steps", "_trail", "alerts", "baseline", "injected"),
        *("original", "published", "records", "root", "taken"),
    )

    def __init__(self, original: dict[str, Any]) -> None:
        self.original = original
        self.root = original
        self.baseline = original
        self.injected: dict[tuple[Field, str | None], str] = {}
        self.records: dict[bool, dict[str, Any]] = {True: {}, False: {}}
        self.taken: dict[tuple[Field, str | None], Any] = {}
        self.published: dict[str, Any] = {}
        self.alerts: list[Alert] = []
        # Mappings and lists that only the draft has, by identity; held, so that no other can
        # take it.
        self._own: dict[int, Any] = {}
        # The way to what was edited last: its steps, and the draft's own nodes from the root on.
        self._steps: Path = ()
        self._trail: list[Any] = []
        self._places: dict[Path, dict[str, int]] = {}
        self._recorded = 0

    def get(self, *path: Step) -> Any:
        """Read a place; `None` where it, or anything above it, is absent or null."""
        return read_at(self.root, path)

    def _edit(self, path: Path, depth: int, *, as_list: bool = False) -> Any:
        """Give the mapping or list at a path, cut to a depth, to write to; make what is missing."""
        own, trail, steps = self._own, self._trail, self._steps
        if not trail:
            self.root = self.root.copy()
            own[id(self.root)] = self.root
            trail.append(self.root)
        # Most writes come close to the one before: from where they part, it is not far.
        level = 0
        while level < depth and level < len(steps) and steps[level] is path[level]:
            level += 1
        while len(trail) > level + 1:
            trail.pop()
        self._steps = path[:depth]
        node = trail[level]
        while level < depth:
            step = path[level]
            level += 1
            below = _child(node, step)
            if below is None or id(below) not in own:
                if below is None:
                    below = [] if as_list and level == depth else {}
                else:
                    below = _copy(below)
                _put(node, step, below)
                own[id(below)] = below
            node = below
            trail.append(node)
        return node

    def set(self, path: Path, value: Any) -> None:
        """Write a value."""
        _put(self._edit(path, len(path) - 1), path[-1], value)

    def remove(self, path: Path, made: int = 0, *, null: bool = False) -> None:
        """Take a key away, and up to `made` mappings above it that are empty then."""
        depth = len(path) - 1
        above = 0
        while above < made and len(read_at(self.root, path[: depth - above])) == 1:
            above += 1
        parent = self._edit(path, depth - above)
        if null and above and above == made:
            parent[path[depth - above]] = None
        else:
            del parent[path[depth - above]]

    def settle_baseline(self) -> None:
        """Call what stands now what the user wrote; what is written from here on is ours."""
        self.baseline = self.root
        self._own.clear()
        self._steps = ()
        self._trail.clear()

    def alert(self, code: WarningCode, text: str) -> None:
        """Say something that no patch can mend."""
        self.alerts.append(Alert(code, text))

    def inject(
        self,
        place: Field,
        value: Any,
        *,
        name: str | None = None,
        at: int | None = None,
        setting: str | None = None,
    ) -> None:
        """Write a value and note what was there before.

        Args:
            place: the field.
            value: what to write; for a field of items, the item.
            name: the name of the list item on the way, or of the item itself.
            at: for a field of items, where in the list; at its end where not given.
            setting: the setting to report it under, if not the field's own.

        Raises:
            AnnotationsFullError: what was injected cannot be recorded.
        """
        path = self.locate(place, name)
        if path is None:  # pragma: no cover - a mutation names what it has just seen
            return
        made, null, was = _before(self.baseline, path)
        entry: dict[str, Any] = {}
        stood = self.taken.get((place, name), ABSENT)
        if place.of_items:
            items = self._edit(path, len(path), as_list=True)
            # What stands there already stays, with all that others have filled in.
            stays = stood is not ABSENT and place.stays(stood, value)
            items.insert(len(items) if at is None else at, stood if stays else value)
            self._move()
        else:
            if not made and identical(was, value):
                return
            stays = stood is not ABSENT and (
                identical(stood, value) or place.release(stood, Injection(value)) is ABSENT
            )
            _put(self._edit(path, len(path) - 1), path[-1], stood if stays else value)
            entry["is"] = value
            if was is not ABSENT:
                entry["was"] = was
            made = max(0, made - 1)  # the value itself is none of the levels above it
        if made:
            entry["made"] = made
            if null:
                entry["null"] = True
        key = place.key(name)
        self.records[place.in_template][key] = entry
        self._recorded += len(key)
        if self._recorded > ANNOTATIONS_LIMIT:  # of thousands, not all need be written to know it
            raise AnnotationsFullError
        self.injected[place, name] = setting or place.setting

    def take_out(self, place: Field, name: str | None, injection: Injection) -> None:
        """Put back what was there before a recorded injection, unless the user has changed it."""
        path = self.locate(place, name)
        if path is None:
            return
        parent = self.get(*path[:-1])
        if not isinstance(parent, dict) or path[-1] not in parent:
            return
        stood = parent[path[-1]]
        value = place.release(stood, injection)
        if value is KEEP:
            if not pruned(stood, injection.value):
                return
            value = injection.was
        if value is ABSENT:
            self.remove(path, injection.made, null=injection.null)
        else:
            self.set(path, value)
        self.taken[place, name] = stood

    def take_items_out(self, place: Field, injections: dict[str, Injection]) -> None:
        """Take recorded items out of a list; of each name the last one, for we append."""
        items: list[Any] = self.get(*place.full_path) or []
        left = dict(injections)
        kept = []
        for item in items[::-1]:
            name = item.get(place.item_key)
            injection = left.pop(name, None)
            if injection is None:
                kept.append(item)
            else:
                self.taken[place, name] = item
        if len(left) == len(injections):
            return
        self._move()
        if kept:
            self.set(place.full_path, kept[::-1])
        elif any(each.null for each in injections.values()):
            self.set(place.full_path, None)
        elif any(each.made for each in injections.values()):
            self.remove(place.full_path)
        else:
            self.set(place.full_path, [])

    def keep(self, place: Field, name: str | None = None) -> None:
        """Leave a taken-out value as the request has it: it is the user's from now on."""
        path = self.locate(place, name)
        if path is not None and self.taken.pop((place, name), ABSENT) is not ABSENT:
            value = read_at(self.original, path)
            self.set(path, value)
            self.baseline = _with(self.baseline, path, value)

    def locate(self, place: Field, name: str | None) -> Path | None:
        """Find a field: its path, or that of its list; `None` where no item has the name."""
        if place.named_at is None:
            return place.full_path
        index = self._index(place.above, place.item_key).get(str(name))
        return None if index is None else (*place.above, index, *place.below)

    def _index(self, path: Path, key: str) -> dict[str, int]:
        places = self._places.get(path)
        if places is None:  # once for each list: there may be ten thousand containers
            places = self._places[path] = _places(read_at(self.root, path), key)
        return places

    def value(self, place: Field, name: str | None) -> Any:
        """Read a field, or the list item of this name; `ABSENT` where it is not there."""
        if place.of_items:
            index = self._index(place.full_path, place.item_key).get(str(name))
            return ABSENT if index is None else self.get(*place.full_path, index)
        path = self.locate(place, name)
        parent = None if path is None else self.get(*path[:-1])
        return parent.get(path[-1], ABSENT) if path and isinstance(parent, dict) else ABSENT

    def missing(self, path: Path) -> tuple[int, bool]:
        """Tell how many levels of a path the user did not write, and whether as null."""
        made, null, _ = _before(self.baseline, path)
        return made, null

    def patch(self) -> list[Operation]:
        """Make the JSON Patch to what it shall be: only what was written is compared."""
        operations: list[Operation] = []
        _compare(self.original, self.root, "", operations)
        return operations

    def _move(self) -> None:
        """The items of a list have moved: nothing in it is where it was."""
        self._places.clear()
        self._steps = ()


# Compiled, what is known to be a mapping or a list is looked into three times faster.


def _child(node: Any, step: Any, default: Any = None) -> Any:
    if type(node) is dict:
        mapping: dict[str, Any] = node
        return mapping.get(step, default)
    items: list[Any] = node
    index: int = step
    return items[index]


def _put(node: Any, step: Any, value: Any) -> None:
    if type(node) is dict:
        mapping: dict[str, Any] = node
        mapping[step] = value
    else:
        items: list[Any] = node
        index: int = step
        items[index] = value


def _copy(node: Any) -> Any:
    if type(node) is dict:
        mapping: dict[str, Any] = node
        return mapping.copy()
    items: list[Any] = node
    return items.copy()


def read_at(node: Any, path: Path) -> Any:
    """Read a place in something of the right shape; None where it, or what is above, is not."""
    for step in path:
        if node is None:
            return None
        node = _child(node, step)
    return node


def _with(node: Any, path: Path, value: Any) -> Any:
    """Give a tree with one value in another place, and all else shared."""
    copy = node.copy()
    step = path[0]
    below: Any = copy.get(step) if isinstance(copy, dict) else copy[step]
    copy[step] = value if len(path) == 1 else _with({} if below is None else below, path[1:], value)
    return copy


def _before(baseline: Any, path: Path) -> tuple[int, bool, Any]:
    """Tell how many levels of a path the user did not write, whether as null, and the leaf."""
    node: Any = baseline
    for depth, step in enumerate(path):
        child = _child(node, step, ABSENT)
        if child is ABSENT or child is None:
            leaf = depth == len(path) - 1
            return len(path) - depth, child is None, child if leaf else ABSENT
        node = child
    return 0, False, node


def _places(items: Any, key: str) -> dict[str, int]:
    """Tell where in a list each name stands, the first time that it does."""
    found: dict[str, int] = {}
    for index, item in enumerate(items or ()):
        found.setdefault(item.get(key), index)
    return found


def _compare(before: Any, after: Any, path: str, operations: list[Operation]) -> None:
    """Note what makes one of the other. `path` is a JSON pointer (RFC 6901)."""
    if before is after:
        return
    if type(before) is dict and type(after) is dict:
        _compare_mappings(before, after, path, operations)
    elif type(before) is list and type(after) is list:
        _compare_lists(before, after, path, operations)
    elif not identical(before, after):
        operations.append({"op": "replace", "path": path, "value": after})


def _compare_mappings(
    before: dict[str, Any], after: dict[str, Any], path: str, operations: list[Operation]
) -> None:
    shared = 0
    for key, now in after.items():
        was = before.get(key, ABSENT)
        if was is ABSENT:
            operations.append({"op": "add", "path": f"{path}/{_token(key)}", "value": now})
            continue
        shared += 1
        if was is not now:
            _compare(was, now, f"{path}/{_token(key)}", operations)
    if shared < len(before):
        operations.extend(
            {"op": "remove", "path": f"{path}/{_token(key)}"} for key in before if key not in after
        )


def _token(key: str) -> str:
    return key.replace("~", "~0").replace("/", "~1") if "~" in key or "/" in key else key


_MOST_STEPS: Final = 64


def _compare_lists(
    before: list[Any], after: list[Any], path: str, operations: list[Operation]
) -> None:
    start, end = 0, min(len(before), len(after))
    back = 0
    if len(before) != len(after):  # what is alike at both ends stays; an insertion is one step
        while start < end and identical(before[start], after[start]):
            start += 1
        while back < end - start and identical(before[-1 - back], after[-1 - back]):
            back += 1
    shared = end - back
    if len(before) + len(after) - 2 * (shared + back) > _MOST_STEPS:
        # The API server moves what follows with each step: for thousands, the list is quicker.
        operations.append({"op": "replace", "path": path, "value": after})
        return
    for index in range(start, shared):
        if before[index] is not after[index]:
            _compare(before[index], after[index], f"{path}/{index}", operations)
    operations.extend(
        {"op": "remove", "path": f"{path}/{shared}"} for _ in range(shared, len(before) - back)
    )
    operations.extend(
        {"op": "add", "path": f"{path}/{index}", "value": after[index]}
        for index in range(shared, len(after) - back)
    )
