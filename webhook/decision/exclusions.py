"""What the configuration leaves out, whatever anybody sets: namespaces, and workloads by pattern.

In a pattern `*` stands for any number of characters, none among them, and every other character
for itself. Matching takes time in proportion to the text: each part between two stars is searched
for once, from where the part before it ended.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Any, Final, NamedTuple

from webhook.decision.partial import decoded
from webhook.decision.workload import mapping

STAR: Final = "*"


class WorkloadPattern(NamedTuple):
    """One item of `exclude`; what is None is not asked about, and all the rest must hold.

    Args:
        namespace: a pattern of the namespace's name.
        kind: a pattern of the kind.
        name: a pattern of the name, or of the `generateName` where there is no name yet.
        owner: patterns of the API group and the kind of an owner reference.
        labels: patterns of labels of the workload itself, each a key and a value.
    """

    namespace: str | None = None
    kind: str | None = None
    name: str | None = None
    owner: tuple[str, str] | None = None
    labels: tuple[tuple[str, str], ...] = ()


def matches(pattern: str, text: str) -> bool:
    """Tell whether a pattern takes the whole of a text."""
    first, *rest = pattern.split(STAR)
    if not rest:
        return first == text
    last = rest.pop()
    end = len(text) - len(last)
    at = len(first)
    if at > end or not text.startswith(first) or not text.endswith(last):
        return False
    for part in rest:
        found = text.find(part, at, end)
        if found < 0:
            return False
        at = found + len(part)
    return True


class Exclusions:
    """Tells what is excluded.

    Args:
        namespaces: names of namespaces, and patterns of them.
        workloads: the items of `exclude`.
    """

    def __init__(
        self, namespaces: Iterable[str] = (), workloads: Sequence[WorkloadPattern] = ()
    ) -> None:
        names: set[str] = set()
        patterns: list[str] = []
        for each in namespaces:
            if STAR in each:
                patterns.append(each)
            else:
                names.add(each)
        self._names = frozenset(names)
        self._patterns = tuple(patterns)
        self._workloads = tuple(workloads)

    def namespace(self, name: str | None) -> bool:
        """Tell whether a namespace is excluded."""
        if name is None:
            return False
        return name in self._names or any(matches(each, name) for each in self._patterns)

    def workload(self, kind: str, namespace: str | None, workload: Any) -> bool:
        """Tell whether a workload is excluded.

        Args:
            kind: its kind.
            namespace: its namespace.
            workload: the object, of which nothing is known yet.

        Raises:
            msgspec.DecodeError: its owner references were left undecoded, and are no JSON.
        """
        if not self._workloads:
            return False
        metadata = mapping(mapping(workload).get("metadata"))
        return any(_excludes(each, kind, namespace, metadata) for each in self._workloads)


def _excludes(
    item: WorkloadPattern, kind: str, namespace: str | None, metadata: Mapping[str, Any]
) -> bool:
    if item.namespace is not None and not matches(item.namespace, namespace or ""):
        return False
    if item.kind is not None and not matches(item.kind, kind):
        return False
    if item.name is not None:
        name = metadata.get("name") or metadata.get("generateName")
        if not matches(item.name, name if isinstance(name, str) else ""):
            return False
    labels = mapping(metadata.get("labels"))
    if not all(_labelled(labels, key, value) for key, value in item.labels):
        return False
    return item.owner is None or _owned(decoded(metadata.get("ownerReferences")), *item.owner)


def _labelled(labels: Mapping[str, Any], key: str, value: str) -> bool:
    if STAR not in key:
        found = labels.get(key)
        return isinstance(found, str) and matches(value, found)
    return any(
        matches(key, name) and isinstance(found, str) and matches(value, found)
        for name, found in labels.items()
    )


def _owned(owners: Any, group: str, kind: str) -> bool:
    """Tell whether one of the owners is of a group and kind; the core group's name is empty."""
    for owner in owners if isinstance(owners, list) else ():
        api_version, of_kind = mapping(owner).get("apiVersion"), mapping(owner).get("kind")
        if isinstance(api_version, str) and isinstance(of_kind, str):
            of_group = api_version.rpartition("/")[0]
            if matches(group, of_group) and matches(kind, of_kind):
                return True
    return False
