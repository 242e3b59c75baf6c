"""What the API server does with a MutatingWebhookConfiguration: whom it calls for a request.

Rules, then `namespaceSelector`, then `objectSelector`, then `matchConditions`, as
`apiserver/pkg/admission/plugin/webhook/predicates` has them. CEL is evaluated by
common-expression-language; that the real API server compiles the expressions and agrees was seen
on 1.36.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import lru_cache
from typing import Any

import cel


@dataclass(frozen=True)
class Request:
    """A request as admission sees it.

    Args:
        group: the API group of the resource.
        resource: its plural, with a subresource after a slash.
        namespace: the object's namespace; none for what has none.
        namespace_labels: the labels of that namespace; of a Namespace, its own.
        new: the object.
        old: the object before; none on CREATE.
    """

    group: str
    resource: str
    namespace: str | None
    namespace_labels: dict[str, str]
    new: dict[str, Any]
    old: dict[str, Any] | None = None
    version: str = "v1"

    @property
    def operation(self) -> str:
        """CREATE or UPDATE."""
        return "CREATE" if self.old is None else "UPDATE"


def called(configuration: dict[str, Any], request: Request) -> list[str]:
    """Name the entries that the API server calls for a request.

    Raises:
        TypeError: a condition is neither true nor false, which is never meant to happen.
    """
    return [each["name"] for each in configuration["webhooks"] if _matches(each, request)]


def _matches(webhook: dict[str, Any], request: Request) -> bool:
    return (
        any(_rule(rule, request) for rule in webhook["rules"])
        and _selector(webhook.get("namespaceSelector"), request.namespace_labels)
        and any(
            _selector(webhook.get("objectSelector"), each["metadata"].get("labels") or {})
            for each in (request.new, request.old)
            if each is not None
        )
        and all(_condition(each, request) for each in webhook.get("matchConditions", []))
    )


def _rule(rule: dict[str, Any], request: Request) -> bool:
    scope = "Cluster" if request.namespace is None else "Namespaced"
    return (
        rule.get("scope", "*") in ("*", scope)
        and request.operation in rule["operations"]
        and request.group in rule["apiGroups"]
        and request.version in rule["apiVersions"]
        and request.resource in rule["resources"]
    )


def _selector(selector: dict[str, Any] | None, labels: dict[str, str]) -> bool:
    if not selector:
        return True
    if any(labels.get(key) != value for key, value in selector.get("matchLabels", {}).items()):
        return False
    return all(_expression(each, labels) for each in selector.get("matchExpressions", []))


def _expression(expression: dict[str, Any], labels: dict[str, str]) -> bool:
    key, values = expression["key"], expression.get("values", [])
    match expression["operator"]:
        case "In":
            return labels.get(key) in values
        case "NotIn":
            return key not in labels or labels[key] not in values
        case "Exists":
            return key in labels
        case "DoesNotExist":
            return key not in labels
    raise ValueError(expression["operator"])


def _condition(condition: dict[str, str], request: Request) -> bool:
    outcome = _program(condition["expression"]).execute(
        {
            "object": request.new,
            "oldObject": request.old,
            "request": {
                "namespace": request.namespace,
                "kind": {"group": request.group, "kind": request.new.get("kind")},
            },
        }
    )
    if not isinstance(outcome, bool):
        raise TypeError(condition["name"], outcome)
    return outcome


@lru_cache
def _program(expression: str) -> cel.Program:
    return cel.compile(expression)
