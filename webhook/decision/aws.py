"""The one label that the AWS Load Balancer Controller wants on a namespace.

With it, that controller adds a readiness gate to pods behind its load balancers, so that a pod
counts as ready only when its target is healthy. It goes on a Namespace that is in scope, on its
way in, unless it bears one already, whatever that says.
"""

from __future__ import annotations

from typing import Any, Final

from webhook.decision.draft import Draft, Operation
from webhook.decision.outcomes import SkipReason
from webhook.decision.review import GroupVersionKind
from webhook.decision.settings import NAMESPACE, Table
from webhook.decision.workload import Kind, mapping

NAMESPACE_KIND: Final = Kind("", "v1", "Namespace", "namespaces", strategy="")
LABEL: Final = "elbv2.k8s.aws/pod-readiness-gate-inject"
SETTING: Final = "aws-readiness-gates"


def is_namespace(gvk: GroupVersionKind) -> bool:
    """Tell whether an object is a Namespace."""
    return not gvk.group and gvk.version == "v1" and gvk.kind == "Namespace"


def label(namespace: Any, table: Table, scope: str) -> tuple[list[Operation], SkipReason | None]:
    """Label a namespace: the JSON Patch, or why there is none.

    Args:
        namespace: the object.
        table: the settings table.
        scope: the configuration's.
    """
    metadata = mapping(namespace).get("metadata")
    if not isinstance(metadata, dict):
        return [], SkipReason.MALFORMED
    labels = metadata.get("labels")
    if labels is not None and not isinstance(labels, dict):
        return [], SkipReason.MALFORMED
    if metadata.get("deletionTimestamp"):
        return [], SkipReason.DELETING
    inject = table.layer(NAMESPACE, "metadata", labels, None).inject
    if inject is None:
        inject = scope == "cluster"
    if not inject:
        return [], SkipReason.NOT_SELECTED
    if labels and LABEL in labels:
        return [], SkipReason.NOTHING_TO_INJECT
    draft = Draft(namespace)
    draft.set(("metadata", "labels", LABEL), "enabled")
    return draft.patch(), None
